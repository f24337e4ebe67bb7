//! The sentences, and their colours.

use crate::gifts::counted;
use billfish_client::{BizCode, Body, Chat, PkBar, Reason};
use std::time::Duration;

/// What `/help` shows.
pub(crate) const HELP: &str = "\
  a line             says it to the room
  /msg WHO TEXT      says it to one user, by number or by name; one who is away finds it later
  /who               who is in the room
  /rooms             the live rooms
  /join ROOM         goes to another room
  /gifts             what there is to give, and what it costs
  /gift [NUM] WHAT [anchor|challenger]
                     gives it, by name or number; to the anchor where nobody is named
  /wallet [COINS]    your coins; with a number it takes so many first
  /pk, /unpk         challenges the anchor of a PK room; stops doing so
  /quit              goes home (Ctrl-D does too)";

/// How text is painted; plain where nobody sees colours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    pub(crate) colours: bool,
}

/// Colours of names that can be read on dark and on light ground: red, green, yellow, blue, magenta, cyan.
const NAME_COLOURS: [u8; 6] = [31, 32, 33, 34, 35, 36];

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A remark of the program itself.
    pub(crate) fn remark(self, text: &str) -> String {
        self.with("2", &format!("· {text}"))
    }

    /// Something went wrong.
    pub(crate) fn trouble(self, text: &str) -> String {
        self.with("33", &format!("! {text}"))
    }

    /// A line of someone else, or of oneself in the past.
    pub(crate) fn chat(self, chat: &Chat) -> String {
        let name = if chat.sender_name.is_empty() { format!("user {}", chat.sender_id) } else { clean(&chat.sender_name) };
        let colour = NAME_COLOURS[usize::try_from(chat.sender_id.rem_euclid(6)).unwrap_or(0)];
        let name = self.with(&format!("1;{colour}"), &name);
        let whispers = if chat.room_id.is_none() { self.with("2", " (to you alone)") } else { String::new() };
        format!("{name}{whispers}: {}", clean(&chat.content))
    }

    /// A gift that was paid.
    pub(crate) fn gift(self, sender: (i64, &str), what: &str, num: i64, receiver: &str) -> String {
        let colour = NAME_COLOURS[usize::try_from(sender.0.rem_euclid(6)).unwrap_or(0)];
        let what = counted(&clean(what), num);
        format!("{} gives {} to {}", self.with(&format!("1;{colour}"), &clean(sender.1)), self.with("1", &what), clean(receiver))
    }

    /// The bar of a PK that is on, and its width. Where nobody sits, without the bar itself.
    pub(crate) fn bar(self, bar: &PkBar, anchor: &str, challenger: &str, is_terminal: bool) -> (String, usize) {
        let (anchor, challenger) = (brief(anchor), brief(challenger));
        let anchors = bar.value.clamp(0, 100);
        let score = format!("{anchors} : {}", 100 - anchors);
        let winner = match bar.winner_id {
            Some(winner) if winner == bar.anchor_id => format!(", {anchor} wins"),
            Some(_) => format!(", {challenger} wins"),
            None => String::new(),
        };
        if !is_terminal {
            return (format!("pk: {anchor} {score} {challenger}{winner}"), 0);
        }
        // Who has anything has a cell, so that only a winner has all.
        let cells = usize::try_from(anchors).unwrap_or(0);
        let full = match cells {
            0 => 0,
            100 => BAR_CELLS,
            cells => (cells * BAR_CELLS / 100).clamp(1, BAR_CELLS - 1),
        };
        let (full, empty) = ("█".repeat(full), "░".repeat(BAR_CELLS - full));
        let width = width(&format!("{anchor}  {challenger} {score}{winner}")) + BAR_CELLS;
        let winner = self.with("1", &winner);
        (format!("{anchor} {}{} {challenger} {score}{winner}", self.with("31", &full), self.with("34", &empty)), width)
    }

    /// One's own line, once the server has it.
    pub(crate) fn accepted(self, name: &str, to: Option<i64>, text: &str) -> String {
        let to = to.map_or_else(String::new, |user| self.with("2", &format!(" (to {user})")));
        format!("{} {}{to}: {}", self.with("32", "✓"), self.with("1", name), clean(text))
    }
}

/// Cells of a bar: with two names and a winner it fits into 80 columns.
const BAR_CELLS: usize = 20;
/// Characters of a name beside a bar.
const BRIEF_CHARS: usize = 12;

/// A name that leaves room for the bar.
fn brief(name: &str) -> String {
    let name = clean(name);
    match name.char_indices().nth(BRIEF_CHARS) {
        Some((at, _)) => format!("{}…", name[..at].trim_end()),
        None => name,
    }
}

/// Columns of a text, rather too many than too few.
fn width(text: &str) -> usize {
    text.chars().map(|character| if character.is_ascii() { 1 } else { 2 }).sum()
}

/// Nothing that comes from others may move the cursor, change the colours or turn the lines of this terminal around.
pub(crate) fn clean(text: &str) -> String {
    let turns = |character| matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|character| if character.is_control() || turns(character) { '·' } else { character }).collect()
}

/// A refusal as a person would say it.
pub(crate) fn refusal(reason: Reason, msg: &str, retry_after: Option<Duration>) -> String {
    let wait = retry_after.map(|time| format!("try again in {}", seconds(time)));
    let sentence = match reason {
        Reason::Muted => "you are muted in this room".to_owned(),
        Reason::Banned => "you are banned from this room".to_owned(),
        Reason::RateLimited => "not so fast".to_owned(),
        Reason::RoomNotFound => "there is no such room, or it has closed".to_owned(),
        Reason::TooLarge => "that is too long".to_owned(),
        Reason::Unavailable => "the server cannot take it just now".to_owned(),
        Reason::Malformed | Reason::UnknownCode | Reason::NotYourUser => format!("the server does not take it: {}", clean(msg)),
        Reason::PkTaken => "somebody else challenges the anchor now".to_owned(),
        Reason::NotCovered => "you have not enough coins; /wallet shows how many there are".to_owned(),
        Reason::UnknownGift => "there is no such gift any more; /gifts lists those there are".to_owned(),
        Reason::UuidReused => "another gift was given under this id".to_owned(),
        Reason::NotAReceiver => format!("that cannot be given: {}", clean(msg)),
        Reason::PriceChanged => "it costs something else now; /gifts shows how much".to_owned(),
        Reason::NotLoggedIn
        | Reason::BadToken
        | Reason::DuplicateLogin
        | Reason::LoginTimeout
        | Reason::TooSlow
        | Reason::Internal
        | Reason::PeerClosed
        | Reason::TransportFailed
        | Reason::HeartbeatLost
        | Reason::FrameTimeout
        | Reason::WriteStalled
        | Reason::LoggedOut
        | Reason::Drained => reason.message().to_owned(),
    };
    match wait {
        Some(wait) => format!("{sentence}: {wait}"),
        None => sentence,
    }
}

/// Why it is over, as a person would say it.
pub(crate) fn goodbye(reason: Reason, name: &str) -> Option<String> {
    if reason == Reason::LoggedOut {
        return None;
    }
    Some(if reason == Reason::DuplicateLogin {
        format!("someone else came in as {name}: a name is one user, and a user has one desktop")
    } else {
        reason.message().to_owned()
    })
}

/// How many are here.
pub(crate) fn audience(members: i64) -> String {
    if members == 1 { "you are alone here".to_owned() } else { format!("{members} people are here") }
}

/// How many are elsewhere.
pub(crate) fn people(members: u64) -> String {
    if members == 1 { "1 person".to_owned() } else { format!("{members} people") }
}

/// Money.
pub(crate) fn coins(coins: i64) -> String {
    if coins == 1 { "1 coin".to_owned() } else { format!("{coins} coins") }
}

/// A notice of the room that concerns people; `None` for those that do not.
pub(crate) fn notice(push: &Body, own_id: i64) -> Option<String> {
    if push.biz_code != Some(BizCode::ROOM_NOTICE.0) {
        return None;
    }
    let notice: serde_json::Value = serde_json::from_str(push.data.as_deref()?).ok()?;
    let who = match notice["userId"].as_i64() {
        Some(user) if user == own_id => "you are".to_owned(),
        Some(user) => format!("user {user} is"),
        None => String::new(),
    };
    match notice["type"].as_str()? {
        "muted" => Some(format!("{who} muted")),
        "unmuted" => Some(format!("{who} no longer muted")),
        "banned" => Some(format!("{who} banned")),
        "unbanned" => Some(format!("{who} no longer banned")),
        "slowMode" => Some(match notice["gapMs"].as_u64()? {
            0 => "slow mode is off".to_owned(),
            gap_ms => format!("slow mode: one line in {}", seconds(Duration::from_millis(gap_ms))),
        }),
        "closed" => Some("the room has closed".to_owned()),
        _ => None,
    }
}

/// A time for people: rounded up, for who comes a moment too early is sent away again.
pub(crate) fn seconds(time: Duration) -> String {
    match time.as_millis().div_ceil(1_000) {
        0 | 1 => "1 second".to_owned(),
        more => format!("{more} seconds"),
    }
}

#[cfg(test)]
mod tests {
    use super::{BAR_CELLS, Paint, audience, clean, refusal, seconds, width};
    use billfish_client::{Chat, PkBar, Reason};
    use std::time::Duration;

    #[test]
    fn nothing_from_others_reaches_the_terminal_as_a_control() {
        let chat = Chat { sender_name: "e\x1b[2Jvil".to_owned(), content: "\x07ring\r\n".to_owned(), room_id: Some(1), ..Chat::default() };
        let line = Paint { colours: false }.chat(&chat);
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }

    #[test]
    fn nothing_in_a_name_reaches_the_terminal_as_a_control() {
        let paint = Paint { colours: false };
        let hostile = "e\x1b[2Jvil\u{202e}\r\n";
        let (bar, _) = paint.bar(&PkBar { value: 70, ..PkBar::default() }, hostile, hostile, true);
        for line in [paint.gift((1, hostile), hostile, 2, hostile), bar, clean(hostile)] {
            assert!(!line.chars().any(|character| character.is_control() || character == '\u{202e}'), "{line:?}");
        }
    }

    #[test]
    fn a_gift_is_a_sentence() {
        let paint = Paint { colours: false };
        assert_eq!(paint.gift((1, "alice"), "rose", 3, "bob"), "alice gives rose x3 to bob");
        assert_eq!(paint.gift((1, "alice"), "rose", 1, "bob"), "alice gives rose to bob");
    }

    #[test]
    fn a_bar_shows_who_leads_and_at_its_end_the_winner() {
        let paint = Paint { colours: false };
        let at = |value, winner_id| PkBar { anchor_id: 1, challenger_id: Some(2), value, winner_id, ..PkBar::default() };
        let line = |bar: &PkBar| paint.bar(bar, "alice", "bob", true).0;
        assert_eq!(line(&at(70, None)), "alice ██████████████░░░░░░ bob 70 : 30");
        for (value, full) in [(0, 0), (1, 1), (50, BAR_CELLS / 2), (99, BAR_CELLS - 1), (100, BAR_CELLS)] {
            assert_eq!(line(&at(value, None)).matches('█').count(), full, "{value}");
        }
        assert!(line(&at(100, Some(1))).ends_with(" 100 : 0, alice wins"));
        assert!(line(&at(0, Some(2))).ends_with(" 0 : 100, bob wins"));
        assert_eq!(paint.bar(&at(100, Some(1)), "alice", "bob", false).0, "pk: alice 100 : 0 bob, alice wins", "plain in a pipe");
        let long = "Bartholomew the Great";
        let (line, columns) = paint.bar(&at(100, Some(1)), long, long, true);
        assert!(columns < 80 && columns >= line.chars().count(), "{line} is {columns} columns wide");
        let (painted, same) = Paint { colours: true }.bar(&at(100, Some(1)), long, long, true);
        assert!(painted.contains("\x1b[31m") && same == columns, "colours are not columns");
        assert_eq!(width("a好"), 3);
    }

    #[test]
    fn a_refusal_says_what_and_for_how_long() {
        assert_eq!(refusal(Reason::RateLimited, "", Some(Duration::from_millis(2_100))), "not so fast: try again in 3 seconds");
        assert_eq!(refusal(Reason::Muted, "", None), "you are muted in this room");
        for reason in Reason::ALL {
            assert!(!refusal(reason, "x", None).is_empty());
        }
        assert_eq!(seconds(Duration::ZERO), "1 second");
        assert_eq!(audience(1), "you are alone here");
    }
}
