//! The sentences, and their colours.

use billfish_client::{BizCode, Body, Chat, Reason};
use std::time::Duration;

/// What `/help` shows.
pub(crate) const HELP: &str = "\
  a line             says it to the room
  /msg WHO TEXT      says it to one user, by number or by name; one who is away finds it later
  /who               who is in the room
  /rooms             the live rooms
  /join ROOM         goes to another room
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

    /// One's own line, once the server has it.
    pub(crate) fn accepted(self, name: &str, to: Option<i64>, text: &str) -> String {
        let to = to.map_or_else(String::new, |user| self.with("2", &format!(" (to {user})")));
        format!("{} {}{to}: {}", self.with("32", "✓"), self.with("1", name), clean(text))
    }
}

/// Nothing that comes from others may move the cursor or change the colours of this terminal.
fn clean(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '·' } else { character }).collect()
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
    use super::{Paint, audience, refusal, seconds};
    use billfish_client::{Chat, Reason};
    use std::time::Duration;

    #[test]
    fn nothing_from_others_reaches_the_terminal_as_a_control() {
        let chat = Chat { sender_name: "e\x1b[2Jvil".to_owned(), content: "\x07ring\r\n".to_owned(), room_id: Some(1), ..Chat::default() };
        let line = Paint { colours: false }.chat(&chat);
        assert!(!line.chars().any(char::is_control), "{line:?}");
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
