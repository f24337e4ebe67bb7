//! Chat: what may be said, how often, and to whom.
//!
//! - Names and avatars are the server's; what a client writes beside `content` and the destination is not read.
//! - Rate limits fail open: without the state store people may still talk.
//! - Above a room's ceiling chat is sampled per viewer, never refused; paid events do not pass here.
//! - Block-lists compare lower-cased text (Unicode's simple rule per character, no normalisation): they stop the lazy, not the clever.
//!
//! The text of a message goes to no log at any level.

use crate::{
    Refusal,
    metrics::Metrics,
    services::{
        Asker, KEEP_ALL, Outgoing, is_room, is_user,
        ports::{Profile, RoomRecord},
        profile::Profiles,
        room::Rules,
    },
};
use billfish_state::{RateWindows, RoomId, UserId, WindowHit, WindowVerdict};
use billfish_wire::{BizCode, Class, Reason};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Longest message after trimming, in characters (Unicode scalar values).
pub(crate) const CONTENT_CHARS_MAX: usize = 500;

/// A message whose form is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) to: Destination,
    pub(crate) content: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Room(RoomId),
    User(UserId),
}

/// What comes up.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Up {
    #[serde(default)]
    room_id: Option<i64>,
    #[serde(default)]
    object_id: Option<i64>,
    content: String,
}

/// What goes down.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Down<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_id: Option<i64>,
    content: &'a str,
    sender_id: i64,
    sender_name: &'a str,
    sender_avatar: &'a str,
}

/// Reads `data` of a ROOM_CHAT. `frame_room` is the frame's own `roomId`, 0 for none: a client of the first version sends it in `data`
/// alone.
pub(crate) fn parse(data: &str, frame_room: i64) -> Result<Message, Refusal> {
    let malformed = |detail: &str| Refusal::because(Reason::Malformed, detail);
    billfish_wire::body::check_json(data.as_bytes()).map_err(|error| malformed(&format!("data of a chat message: {error}")))?;
    let up: Up = serde_json::from_str(data).map_err(|_| malformed("data of a chat message is {roomId,content} or {objectId,content}"))?;
    let frame_room = (frame_room != 0).then_some(frame_room);
    let to = match (up.room_id, frame_room, up.object_id) {
        (Some(room), Some(frame), _) if room != frame => return Err(malformed("roomId of the frame and of its data differ")),
        (Some(room), _, None) | (None, Some(room), None) if is_room(RoomId(room)) => Destination::Room(RoomId(room)),
        (None, None, Some(user)) if is_user(UserId(user)) => Destination::User(UserId(user)),
        (None, None, Some(_)) => return Err(malformed("objectId is not a user")),
        (None, None, None) => return Err(malformed("a chat message names a roomId or an objectId")),
        (_, _, Some(_)) => return Err(malformed("a chat message names a roomId or an objectId, not both")),
        (_, _, None) => return Err(Refusal::new(Reason::RoomNotFound)),
    };
    let content = up.content.trim();
    if content.chars().nth(CONTENT_CHARS_MAX).is_some() {
        return Err(malformed("content is longer than 500 characters"));
    }
    if content.chars().any(is_refused) {
        return Err(malformed("content has control characters"));
    }
    if content.chars().all(is_invisible) {
        return Err(malformed("content is empty"));
    }
    Ok(Message { to, content: content.to_owned() })
}

/// Control characters (line breaks and tabs among them), line and paragraph separators, and the embeddings and overrides that turn
/// the text around them. Joiners, variation selectors and tags stay: emoji and several scripts are written with them.
fn is_refused(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{fff9}'..='\u{fffb}')
}

fn is_invisible(character: char) -> bool {
    character.is_whitespace()
        || matches!(character, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fe00}'..='\u{fe0f}')
}

/// What chat needs of the house.
pub(crate) struct Ports<'a> {
    pub(crate) rate_windows: &'a dyn RateWindows,
    pub(crate) profiles: &'a Profiles,
    pub(crate) metrics: &'a Metrics,
    pub(crate) limits: Limits,
}

/// The limits in force.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) user_messages_max: u32,
    pub(crate) user_window_ms: u64,
    pub(crate) room_messages_per_s: u32,
}

/// What a room remembers of its own chat.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    rate: Rate,
    slow: SlowMode,
}

/// A message to a room: to all but its sender.
pub(crate) async fn say(
    ports: &Ports<'_>,
    room: &RoomRecord,
    rules: &Rules,
    guard: &mut Guard,
    sender: Asker,
    content: &str,
    now_ms: u64,
) -> Result<Outgoing, Refusal> {
    rules.may_enter(sender.user, now_ms)?;
    rules.may_speak(sender.user, now_ms)?;
    rules.may_be_said(content)?;
    let slow_mode_ms = if sender.user == room.anchor { 0 } else { rules.slow_mode_ms() };
    guard.slow.check(sender.user, slow_mode_ms, now_ms)?;
    within_rate(ports, sender, now_ms).await?;
    guard.slow.spoke(sender.user, slow_mode_ms, now_ms);
    let keep_permille = guard.rate.count(ports.limits.room_messages_per_s, now_ms);
    if keep_permille < KEEP_ALL {
        ports.metrics.chat_sampled.inc();
    }
    let profile = ports.profiles.shown(sender.app, sender.user, now_ms).await;
    let data = down(&profile, Some(room.room), None, content);
    Ok(Outgoing { except: Some(sender.user), keep_permille, ..Outgoing::new(BizCode::ROOM_CHAT, Class::Chat, data) })
}

/// Whether a message may be said to one user. The block-list of the house holds here too.
pub(crate) fn may_whisper(house_rules: &Rules, sender: Asker, receiver: UserId, content: &str) -> Result<(), Refusal> {
    if receiver == sender.user {
        return Err(Refusal::because(Reason::Malformed, "objectId is the sender"));
    }
    house_rules.may_be_said(content)
}

/// A message to one user that may be said, and is within the rate. The sender is shown by this profile.
pub(crate) fn whisper(profile: &Profile, receiver: UserId, content: &str) -> Outgoing {
    let data = down(profile, None, Some(receiver), content);
    Outgoing { acknowledged: true, ..Outgoing::new(BizCode::ROOM_CHAT, Class::Event, data) }
}

/// What the store of rate windows is asked for, in a metric.
pub(crate) const CHAT_RATE: &str = "chat_rate";

/// One message more of a user.
pub(crate) fn use_of_rate(limits: Limits, sender: Asker) -> WindowHit {
    let key = format!("chat:{}:{}", sender.app, sender.user);
    WindowHit { key, limit: limits.user_messages_max, window_ms: limits.user_window_ms }
}

async fn within_rate(ports: &Ports<'_>, sender: Asker, now_ms: u64) -> Result<(), Refusal> {
    match ports.rate_windows.hit(&[use_of_rate(ports.limits, sender)], now_ms).await {
        Ok(verdicts) => match verdicts.first() {
            Some(WindowVerdict::Refused { retry_after_ms }) => Err(Refusal::new(Reason::RateLimited).retry_after(*retry_after_ms)),
            Some(WindowVerdict::Allowed) | None => Ok(()),
        },
        Err(error) => {
            ports.metrics.store_failed(CHAT_RATE, &error);
            Ok(())
        }
    }
}

fn down(profile: &Profile, room: Option<RoomId>, receiver: Option<UserId>, content: &str) -> String {
    let down = Down {
        room_id: room.map(|room| room.0),
        object_id: receiver.map(|user| user.0),
        content,
        sender_id: profile.user.0,
        sender_name: &profile.name,
        sender_avatar: &profile.avatar,
    };
    serde_json::to_string(&down).expect("a struct of texts and numbers is JSON")
}

/// Messages of a room per second: the second under way, and the rest of a sliding second from the one before it.
#[derive(Debug, Default)]
struct Rate {
    second: u64,
    current: u32,
    previous: u32,
}

impl Rate {
    /// Counts a message and gives the share of viewers that get it: all, or `ceiling / rate`.
    fn count(&mut self, ceiling: u32, now_ms: u64) -> u32 {
        let second = now_ms / 1_000;
        if second != self.second {
            self.previous = if second == self.second + 1 { self.current } else { 0 };
            self.current = 0;
            self.second = second;
        }
        self.current = self.current.saturating_add(1);
        let left_of_previous = 1_000 - now_ms % 1_000;
        let rate = u64::from(self.current) + u64::from(self.previous) * left_of_previous / 1_000;
        let share = (u64::from(ceiling) * u64::from(KEEP_ALL)).div_ceil(rate);
        u32::try_from(share).unwrap_or(KEEP_ALL).min(KEEP_ALL)
    }
}

/// When each user last spoke, while slow mode is on.
#[derive(Debug, Default)]
struct SlowMode {
    spoke_ms: HashMap<UserId, u64>,
}

/// Speakers remembered in slow mode. When there are more, those whose time is up are forgotten first, and then everyone: a room
/// with this many speakers in one gap has the ceiling to protect it.
const SPEAKERS_MAX: usize = 10_000;

impl SlowMode {
    fn check(&self, user: UserId, gap_ms: u64, now_ms: u64) -> Result<(), Refusal> {
        let due_ms = self.spoke_ms.get(&user).map_or(0, |spoke_ms| spoke_ms.saturating_add(gap_ms));
        if gap_ms == 0 || due_ms <= now_ms {
            return Ok(());
        }
        Err(Refusal::because(Reason::RateLimited, "the room is in slow mode; wait retryAfterMs").retry_after(due_ms - now_ms))
    }

    fn spoke(&mut self, user: UserId, gap_ms: u64, now_ms: u64) {
        if gap_ms == 0 {
            return;
        }
        if self.spoke_ms.len() >= SPEAKERS_MAX {
            self.spoke_ms.retain(|_, spoke_ms| spoke_ms.saturating_add(gap_ms) > now_ms);
            if self.spoke_ms.len() >= SPEAKERS_MAX {
                self.spoke_ms.clear();
            }
        }
        self.spoke_ms.insert(user, now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::{Destination, Guard, KEEP_ALL, Limits, Ports, Rate, may_whisper, parse, say, whisper};
    use crate::{
        Refusal,
        metrics::Metrics,
        services::{
            Asker, Outgoing,
            ports::{Moderation, Profile, RoomKind, RoomRecord},
            profile::Profiles,
            room::Rules,
        },
        testing::TestRecords,
    };
    use async_trait::async_trait;
    use billfish_state::{AppId, DeviceKind, RateWindows, RoomId, State, StateError, UserId, WindowHit, WindowVerdict};
    use billfish_wire::{Class, Reason};
    use prometheus_client::registry::Registry;
    use serde_json::json;
    use std::sync::Arc;

    const APP: AppId = AppId(10_001);
    const ROOM: RoomId = RoomId(7);
    const ANCHOR: UserId = UserId(30_001);
    const LIMITS: Limits = Limits { user_messages_max: 5, user_window_ms: 3_000, room_messages_per_s: 100 };

    struct House {
        state: State,
        profiles: Profiles,
        metrics: Metrics,
        rules: Rules,
        guard: Guard,
    }

    impl House {
        fn new() -> Self {
            let metrics = Metrics::register(&mut Registry::default());
            let profiles = Profiles::new(Arc::new(TestRecords::default()), metrics.clone());
            let rules = Rules::new(Moderation::default(), Arc::default());
            Self { state: State::in_memory(), profiles, metrics, rules, guard: Guard::default() }
        }

        async fn say(&mut self, user: i64, content: &str, now_ms: u64) -> Result<Outgoing, Refusal> {
            let ports = Ports { rate_windows: &*self.state.rate_windows, profiles: &self.profiles, metrics: &self.metrics, limits: LIMITS };
            let room = RoomRecord {
                room: ROOM,
                app: APP,
                anchor: ANCHOR,
                kind: RoomKind::Normal,
                name: String::new(),
                cover: String::new(),
                started_ms: 0,
            };
            say(&ports, &room, &self.rules, &mut self.guard, asker(user), content, now_ms).await
        }

        async fn whisper(&self, user: i64, to: i64, content: &str) -> Result<Outgoing, Refusal> {
            may_whisper(&self.rules, asker(user), UserId(to), content)?;
            Ok(whisper(&*self.profiles.shown(APP, UserId(user), 0).await, UserId(to), content))
        }
    }

    fn asker(user: i64) -> Asker {
        Asker { app: APP, user: UserId(user), device: DeviceKind::Web, session: 1 }
    }

    fn room_chat(content: &str) -> Result<String, Reason> {
        parse(&json!({"roomId": 7, "content": content}).to_string(), 7).map(|message| message.content).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn content_is_1_to_500_characters_after_trimming() {
        assert_eq!(room_chat("  hello \n").as_deref(), Ok("hello"));
        assert_eq!(room_chat(&"é".repeat(500)).as_deref(), Ok(&*"é".repeat(500)));
        assert_eq!(room_chat(&format!(" {} ", "é".repeat(500))).as_deref(), Ok(&*"é".repeat(500)));
        for content in ["", "   ", "\u{200b}\u{200d}", &"é".repeat(501)] {
            assert_eq!(room_chat(content), Err(Reason::Malformed), "{content:?}");
        }
    }

    #[test]
    fn control_characters_are_refused_and_emoji_and_joiners_are_not() {
        for content in ["a\nb", "a\tb", "a\0b", "a\u{7f}b", "a\u{85}b", "a\u{202e}b", "a\u{2028}b"] {
            assert_eq!(room_chat(content), Err(Reason::Malformed), "{content:?}");
        }
        for content in ["👩‍👩‍👧", "می‌خواهم", "❤️", "<script>alert(1)</script>"] {
            assert_eq!(room_chat(content).as_deref(), Ok(content));
        }
    }

    #[test]
    fn data_is_no_deeper_or_wider_than_a_body() {
        let nested = |depth: usize| format!(r#"{{"roomId":7,"content":"x","more":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
        let wide = |keys: usize| {
            let more: String = (2..keys).map(|key| format!(r#","k{key}":0"#)).collect();
            format!(r#"{{"roomId":7,"content":"x"{more}}}"#)
        };
        let reason = |data: String| parse(&data, 7).map(|_| ()).map_err(|refusal| refusal.reason);
        assert_eq!((reason(nested(16)), reason(wide(64))), (Ok(()), Ok(())));
        assert_eq!(reason(nested(17)), Err(Reason::Malformed));
        assert_eq!(reason(wide(65)), Err(Reason::Malformed));
    }

    #[test]
    fn a_message_has_one_destination() {
        let to = |data: serde_json::Value, frame_room| {
            parse(&data.to_string(), frame_room).map(|message| message.to).map_err(|refusal| refusal.reason)
        };
        assert_eq!(to(json!({"roomId": 7, "content": "x"}), 7), Ok(Destination::Room(ROOM)));
        assert_eq!(to(json!({"roomId": 7, "content": "x"}), 0), Ok(Destination::Room(ROOM)), "a client of the first version");
        assert_eq!(to(json!({"content": "x"}), 7), Ok(Destination::Room(ROOM)));
        assert_eq!(to(json!({"objectId": 20_002, "content": "x"}), 0), Ok(Destination::User(UserId(20_002))));
        assert_eq!(to(json!({"roomId": 8, "content": "x"}), 7), Err(Reason::Malformed));
        assert_eq!(to(json!({"roomId": 7, "objectId": 20_002, "content": "x"}), 0), Err(Reason::Malformed));
        assert_eq!(to(json!({"objectId": 20_002, "content": "x"}), 7), Err(Reason::Malformed));
        assert_eq!(to(json!({"content": "x"}), 0), Err(Reason::Malformed));
        assert_eq!(to(json!({"objectId": 9_999, "content": "x"}), 0), Err(Reason::Malformed), "not a user");
        assert_eq!(to(json!({"roomId": -1, "content": "x"}), 0), Err(Reason::RoomNotFound));
        assert_eq!(to(json!({"roomId": "7", "content": "x"}), 0), Err(Reason::Malformed));
        assert_eq!(to(json!({"roomId": 7}), 7), Err(Reason::Malformed));
        assert_eq!(to(json!([7]), 7), Err(Reason::Malformed));
    }

    #[tokio::test]
    async fn the_server_fills_in_name_and_avatar_and_leaves_the_sender_out() {
        let mut house = House::new();
        let profile = Profile { user: UserId(20_001), name: "Alice \"A\"".to_owned(), avatar: "a.png".to_owned() };
        house.profiles.put(APP, &[profile]).await.unwrap();
        let push = house.say(20_001, "hello", 0).await.unwrap();
        let data: serde_json::Value = serde_json::from_str(&push.data).unwrap();
        let expected = json!({"roomId": 7, "content": "hello", "senderId": 20_001, "senderName": "Alice \"A\"", "senderAvatar": "a.png"});
        assert_eq!(data, expected);
        assert_eq!((push.except, push.class, push.acknowledged), (Some(UserId(20_001)), Class::Chat, false));
    }

    #[tokio::test]
    async fn a_user_speaks_five_times_in_three_seconds_and_then_waits() {
        let mut house = House::new();
        for now_ms in 0..5 {
            house.say(20_001, "x", now_ms).await.unwrap();
        }
        let refusal = house.say(20_001, "x", 10).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::RateLimited);
        let wait = refusal.retry_after_ms.unwrap();
        assert!((1..=3_000).contains(&wait), "{wait}");
        house.say(20_002, "x", 10).await.unwrap();
        house.say(20_001, "x", 10 + wait).await.unwrap();
    }

    #[tokio::test]
    async fn the_rate_limit_fails_open() {
        struct Away;
        #[async_trait]
        impl RateWindows for Away {
            async fn hit(&self, _: &[WindowHit], _: u64) -> billfish_state::port::Result<Vec<WindowVerdict>> {
                Err(StateError::Away { what: "test", cause: "away".into() })
            }
        }
        let mut house = House::new();
        house.state.rate_windows = Arc::new(Away);
        for _ in 0..20 {
            house.say(20_001, "x", 0).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_muted_may_not_speak_until_their_time_is_up() {
        let mut house = House::new();
        house.rules.mute(UserId(20_001), 1_000);
        assert_eq!(house.say(20_001, "x", 999).await.unwrap_err().reason, Reason::Muted);
        house.say(20_001, "x", 1_000).await.unwrap();
        house.rules.ban(UserId(20_001), 5_000);
        assert_eq!(house.say(20_001, "x", 1_000).await.unwrap_err().reason, Reason::Banned);
    }

    #[tokio::test]
    async fn words_of_the_room_and_of_the_house_are_refused_in_any_case() {
        let mut house = House::new();
        house.rules =
            Rules::new(Moderation { block_words: vec!["Größe".to_owned()], ..Moderation::default() }, Arc::new(vec!["spam".to_owned()]));
        for content in ["buy SPAM now", "wahre GRÖßE"] {
            assert_eq!(house.say(20_001, content, 0).await.unwrap_err().reason, Reason::Malformed, "{content}");
        }
        house.say(20_001, "good", 0).await.unwrap();
        assert_eq!(house.whisper(20_001, 20_002, "more SpAm").await.unwrap_err().reason, Reason::Malformed);
    }

    #[tokio::test]
    async fn slow_mode_holds_per_user_and_not_for_the_anchor() {
        let mut house = House::new();
        house.rules.set_slow_mode(10_000);
        house.say(20_001, "x", 0).await.unwrap();
        house.say(20_002, "x", 1).await.unwrap();
        let refusal = house.say(20_001, "x", 9_999).await.unwrap_err();
        assert_eq!((refusal.reason, refusal.retry_after_ms), (Reason::RateLimited, Some(1)));
        house.say(20_001, "x", 10_000).await.unwrap();
        for now_ms in 20_000..20_003 {
            house.say(ANCHOR.0, "x", now_ms).await.unwrap();
        }
        house.rules.set_slow_mode(0);
        house.say(20_001, "x", 10_001).await.unwrap();
    }

    #[tokio::test]
    async fn a_refused_message_does_not_use_up_the_slow_mode_slot() {
        let mut house = House::new();
        house.rules.set_slow_mode(1);
        for now_ms in 0..5 {
            house.say(20_001, "x", now_ms).await.unwrap();
        }
        house.rules.set_slow_mode(2_990);
        let refusal = house.say(20_001, "x", 2_995).await.unwrap_err();
        assert_eq!(refusal.retry_after_ms.map(|wait| wait <= 5), Some(true), "the rate refused, and slow mode forgot it: {refusal:?}");
        house.say(20_001, "x", 6_000).await.unwrap();
    }

    #[test]
    fn above_the_ceiling_the_share_is_the_ceiling_over_the_rate() {
        let mut rate = Rate::default();
        for _ in 0..100 {
            assert_eq!(rate.count(100, 5_000), KEEP_ALL);
        }
        assert_eq!(rate.count(100, 5_500), 991, "100 of 101, rounded up");
        for _ in 0..99 {
            rate.count(100, 5_900);
        }
        // 200 in the last second, and the next begins: they count less and less.
        assert_eq!(rate.count(100, 6_000), 498);
        assert_eq!(rate.count(100, 6_900), KEEP_ALL);
        assert_eq!(rate.count(100, 60_000), KEEP_ALL);
    }

    #[tokio::test]
    async fn chat_above_the_ceiling_is_sampled_and_not_refused() {
        let mut house = House::new();
        let mut shares = Vec::new();
        for user in 20_001..20_401 {
            shares.push(house.say(user, "x", 0).await.unwrap().keep_permille);
        }
        assert!(shares[..100].iter().all(|&share| share == KEEP_ALL));
        assert!(shares[100..].iter().all(|&share| share < KEEP_ALL));
        assert_eq!(shares[399], 250);
    }

    #[tokio::test]
    async fn a_message_to_one_user_is_kept_until_acknowledged_and_never_to_oneself() {
        let house = House::new();
        let push = house.whisper(20_001, 20_002, "psst").await.unwrap();
        assert_eq!((push.acknowledged, push.class), (true, Class::Event));
        let data: serde_json::Value = serde_json::from_str(&push.data).unwrap();
        let expected = json!({"objectId": 20_002, "content": "psst", "senderId": 20_001, "senderName": "20001", "senderAvatar": ""});
        assert_eq!(data, expected);
        assert_eq!(house.whisper(20_001, 20_001, "me").await.unwrap_err().reason, Reason::Malformed);
    }
}
