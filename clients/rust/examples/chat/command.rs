//! What a typed line asks for.

use crate::api::user_id_of;

/// A line, understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    /// Nothing.
    Empty,
    /// To the room.
    Say(&'a str),
    /// To one user.
    Whisper {
        user_id: i64,
        text: &'a str,
    },
    /// To another room.
    Join(i64),
    Who,
    Rooms,
    /// What, how many and to whom: read by who knows the catalogue.
    Gift(&'a str),
    Gifts,
    /// Shows the coins there are, or takes some first.
    Wallet(Option<i64>),
    /// Challenges the anchor; `false`: no longer.
    Challenge(bool),
    Help,
    Quit,
    /// With the way it should be written.
    Wrong(&'static str),
}

impl<'a> Command<'a> {
    /// At a terminal `/` begins a command; `//` says a line that begins with one.
    pub(crate) fn read(line: &'a str) -> Self {
        let line = line.trim();
        if line.is_empty() {
            return Self::Empty;
        }
        let Some(rest) = line.strip_prefix('/') else { return Self::Say(line) };
        if rest.starts_with('/') {
            return Self::Say(rest);
        }
        let (word, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let argument = argument.trim();
        match word {
            "help" | "h" | "?" => Self::Help,
            "who" | "w" => Self::Who,
            "rooms" => Self::Rooms,
            "gift" | "g" if argument.is_empty() => {
                Self::Wrong("/gift [NUM] WHAT [anchor|challenger] takes a gift's name or number; /gifts lists them")
            }
            "gift" | "g" => Self::Gift(argument),
            "gifts" => Self::Gifts,
            "wallet" if argument.is_empty() => Self::Wallet(None),
            "wallet" => match argument.parse() {
                Ok(coins) if coins > 0 => Self::Wallet(Some(coins)),
                _ => Self::Wrong("/wallet [COINS] shows your coins; with a number it takes so many first"),
            },
            "pk" => Self::Challenge(true),
            "unpk" => Self::Challenge(false),
            "quit" | "q" | "exit" => Self::Quit,
            "join" | "j" => match argument.parse() {
                Ok(room) if room > 0 => Self::Join(room),
                _ => Self::Wrong("/join ROOM takes the room's number; /rooms lists them"),
            },
            "msg" | "m" => match argument.split_once(char::is_whitespace) {
                Some((who, text)) if !text.trim().is_empty() => {
                    let user_id = who.parse().unwrap_or_else(|_| user_id_of(who));
                    Self::Whisper { user_id, text: text.trim() }
                }
                _ => Self::Wrong("/msg WHO TEXT takes a user's number, or the name they chat under, and a text"),
            },
            _ => Self::Wrong("no such command; /help shows those there are"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Command;
    use crate::api::user_id_of;

    #[test]
    fn lines_are_read_as_a_person_means_them() {
        assert_eq!(Command::read("  hello  "), Command::Say("hello"));
        assert_eq!(Command::read("   "), Command::Empty);
        assert_eq!(Command::read("//etc is a folder"), Command::Say("/etc is a folder"));
        assert_eq!(Command::read("/quit"), Command::Quit);
        assert_eq!(Command::read("/msg 123456789  psst "), Command::Whisper { user_id: 123_456_789, text: "psst" });
        assert_eq!(Command::read("/msg bob psst"), Command::Whisper { user_id: user_id_of("bob"), text: "psst" });
        assert_eq!(Command::read("/join 7"), Command::Join(7));
        assert_eq!(Command::read("/gift 3 rose challenger"), Command::Gift("3 rose challenger"));
        assert_eq!(Command::read("/gifts"), Command::Gifts);
        assert_eq!((Command::read("/wallet"), Command::read("/wallet 500")), (Command::Wallet(None), Command::Wallet(Some(500))));
        assert_eq!((Command::read("/pk"), Command::read("/unpk")), (Command::Challenge(true), Command::Challenge(false)));
        for wrong in ["/join", "/join x", "/join -1", "/msg", "/msg bob", "/dance", "/gift", "/gift  ", "/wallet 0", "/wallet all"] {
            assert!(matches!(Command::read(wrong), Command::Wrong(_)), "{wrong}");
        }
    }
}
