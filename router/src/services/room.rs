//! Rooms: what a room may be called, who may enter and speak, and what it is told about itself.
//!
//! - [`catalog`] answers whether a room is live, without asking the records twice.
//! - [`lists`] holds the lists of live rooms by kind.
//! - [`Rules`] is the moderation of one room, as its owner holds it in memory; the records are written first.

pub(crate) mod catalog;
pub(crate) mod lists;

use crate::{
    Refusal,
    metrics::Metrics,
    services::{
        Asker, Effects, Outgoing, is_user,
        ports::{Moderation, NewRoom},
        profile::URL_BYTES_MAX,
    },
};
use billfish_state::{State, UserId, WindowHit, WindowVerdict};
use billfish_wire::{BizCode, Class, Reason};
use bytes::Bytes;
use std::{collections::HashMap, sync::Arc};

/// "As long as the room lives": the end of the year 9999.
pub(crate) const FOREVER_MS: u64 = 253_402_300_799_000;
/// Longest room name, in characters.
const NAME_CHARS_MAX: usize = 64;
/// Longest slow mode.
pub(crate) const SLOW_MODE_MS_MAX: u64 = 10 * 60 * 1_000;
/// Words in one block-list: each message is compared with all of them, at about 50 ns.
const BLOCK_WORDS_MAX: usize = 1_000;
/// Longest word of a block-list, in characters.
const BLOCK_WORD_CHARS_MAX: usize = 64;
/// Mutes, and bans, of one room. A moderator who needs more needs another tool.
const SANCTIONS_MAX: usize = 10_000;

/// Whether a room may be opened as asked.
pub(crate) fn check_new(room: &NewRoom) -> Result<(), Refusal> {
    let problem = if !is_user(room.anchor) {
        "anchorId is 10000 or above"
    } else if room.app.0 < billfish_wire::limits::APP_ID_MIN {
        "appId is 10000 or above"
    } else if room.name.chars().nth(NAME_CHARS_MAX).is_some() || room.name.chars().any(char::is_control) {
        "roomName is at most 64 characters, none of them a control character"
    } else if room.cover.len() > URL_BYTES_MAX {
        "coverImg is at most 512 bytes"
    } else {
        return Ok(());
    };
    Err(Refusal::because(Reason::Malformed, problem))
}

/// Whether words may be a block-list; gives them as they are stored.
pub(crate) fn check_block_words(words: &[String]) -> Result<Vec<String>, Refusal> {
    let legal = |word: &str| !word.is_empty() && word.chars().nth(BLOCK_WORD_CHARS_MAX).is_none() && !word.chars().any(char::is_control);
    if words.len() > BLOCK_WORDS_MAX || !words.iter().all(|word| legal(word.trim())) {
        return Err(Refusal::because(Reason::Malformed, "a block-list is at most 1000 words of 1 to 64 characters"));
    }
    Ok(words.iter().map(|word| word.trim().to_owned()).collect())
}

/// Lower-cased for comparison; the same for words and for what is said.
pub(crate) fn folded(words: &[String]) -> Vec<String> {
    words.iter().map(|word| word.to_lowercase()).collect()
}

/// Who may not do what in one room.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    mutes: HashMap<UserId, u64>,
    bans: HashMap<UserId, u64>,
    slow_mode_ms: u64,
    words: Vec<String>,
    /// The words of every room, folded.
    house_words: Arc<Vec<String>>,
}

impl Rules {
    pub(crate) fn new(moderation: Moderation, house_words: Arc<Vec<String>>) -> Self {
        Self {
            mutes: moderation.mutes.into_iter().collect(),
            bans: moderation.bans.into_iter().collect(),
            slow_mode_ms: moderation.slow_mode_ms,
            words: folded(&moderation.block_words),
            house_words,
        }
    }

    /// What holds where no room is: the words of the house.
    pub(crate) fn of_the_house(house_words: Arc<Vec<String>>) -> Self {
        Self { house_words, ..Self::default() }
    }

    /// The words of every room have changed.
    pub(crate) fn set_house_words(&mut self, house_words: Arc<Vec<String>>) {
        self.house_words = house_words;
    }

    pub(crate) fn may_enter(&self, user: UserId, now_ms: u64) -> Result<(), Refusal> {
        stands(&self.bans, user, now_ms, Reason::Banned)
    }

    pub(crate) fn may_speak(&self, user: UserId, now_ms: u64) -> Result<(), Refusal> {
        stands(&self.mutes, user, now_ms, Reason::Muted)
    }

    pub(crate) fn may_be_said(&self, content: &str) -> Result<(), Refusal> {
        let content = content.to_lowercase();
        if self.words.iter().chain(self.house_words.iter()).any(|word| content.contains(word.as_str())) {
            return Err(Refusal::because(Reason::Malformed, "the message has a word that is not allowed here"));
        }
        Ok(())
    }

    pub(crate) fn slow_mode_ms(&self) -> u64 {
        self.slow_mode_ms
    }

    /// Whether one more sanction can be held.
    pub(crate) fn check_room_for(&self, user: UserId) -> Result<(), Refusal> {
        let full = |sanctions: &HashMap<UserId, u64>| sanctions.len() >= SANCTIONS_MAX && !sanctions.contains_key(&user);
        if full(&self.mutes) || full(&self.bans) {
            return Err(Refusal::because(Reason::Malformed, "the room has 10000 mutes or bans already"));
        }
        Ok(())
    }

    pub(crate) fn mute(&mut self, user: UserId, until_ms: u64) {
        self.mutes.insert(user, until_ms);
    }

    pub(crate) fn unmute(&mut self, user: UserId) {
        self.mutes.remove(&user);
    }

    pub(crate) fn ban(&mut self, user: UserId, until_ms: u64) {
        self.bans.insert(user, until_ms);
    }

    pub(crate) fn unban(&mut self, user: UserId) {
        self.bans.remove(&user);
    }

    pub(crate) fn set_slow_mode(&mut self, slow_mode_ms: u64) {
        self.slow_mode_ms = slow_mode_ms;
    }

    pub(crate) fn set_words(&mut self, words: &[String]) {
        self.words = folded(words);
    }

    /// Forgets what has run out.
    pub(crate) fn on_tick(&mut self, now_ms: u64) {
        self.mutes.retain(|_, until_ms| now_ms < *until_ms);
        self.bans.retain(|_, until_ms| now_ms < *until_ms);
    }
}

fn stands(sanctions: &HashMap<UserId, u64>, user: UserId, now_ms: u64, reason: Reason) -> Result<(), Refusal> {
    match sanctions.get(&user) {
        Some(&until_ms) if now_ms < until_ms => Err(Refusal::new(reason)),
        Some(_) | None => Ok(()),
    }
}

/// The notices of a room about itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Notice {
    Closed,
    Muted { user: UserId, until_ms: u64 },
    Unmuted { user: UserId },
    Banned { user: UserId, until_ms: u64 },
    Unbanned { user: UserId },
    SlowMode { gap_ms: u64 },
    Audience { members: u64 },
}

/// The key of the audience among a room's states.
pub(crate) const AUDIENCE_KEY: &str = "audience";

impl Notice {
    /// The push that says it.
    pub(crate) fn push(self) -> Outgoing {
        let (class, data) = match self {
            Self::Closed => (Class::Control, r#"{"type":"closed"}"#.to_owned()),
            Self::Muted { user, until_ms } => (Class::Event, format!(r#"{{"type":"muted","userId":{user},"untilMs":{until_ms}}}"#)),
            Self::Unmuted { user } => (Class::Event, format!(r#"{{"type":"unmuted","userId":{user}}}"#)),
            Self::Banned { user, until_ms } => (Class::Event, format!(r#"{{"type":"banned","userId":{user},"untilMs":{until_ms}}}"#)),
            Self::Unbanned { user } => (Class::Event, format!(r#"{{"type":"unbanned","userId":{user}}}"#)),
            Self::SlowMode { gap_ms } => (Class::Event, format!(r#"{{"type":"slowMode","gapMs":{gap_ms}}}"#)),
            Self::Audience { members } => (Class::Ambient, format!(r#"{{"type":"audience","audience":{members}}}"#)),
        };
        let key = matches!(self, Self::Audience { .. }).then(|| AUDIENCE_KEY.to_owned());
        Outgoing { key, ..Outgoing::new(BizCode::ROOM_NOTICE, class, data) }
    }

    /// What follows from it. One who is banned hears it before he goes.
    pub(crate) fn effects(self) -> Effects {
        let evict = match self {
            Self::Banned { user, .. } => Some(user),
            Self::Closed
            | Self::Muted { .. }
            | Self::Unmuted { .. }
            | Self::Unbanned { .. }
            | Self::SlowMode { .. }
            | Self::Audience { .. } => None,
        };
        Effects { pushes: vec![self.push()], evict }
    }
}

/// Guards the ids of rooms against being tried out: after a number of joins that failed, every join of the user is refused for a
/// while, so that a right guess cannot be told from a wrong one. Fails open.
pub(crate) struct JoinGuard<'a> {
    pub(crate) state: &'a State,
    pub(crate) metrics: &'a Metrics,
    pub(crate) failures_per_minute: u32,
}

const JOIN_WINDOW_MS: u64 = 60_000;

impl JoinGuard<'_> {
    /// Refuses a user who has failed too often.
    pub(crate) async fn check(&self, asker: Asker, now_ms: u64) -> Result<(), Refusal> {
        match self.state.cache.get(&cooldown_key(asker), now_ms).await {
            Ok(None) => Ok(()),
            Ok(Some(until)) => {
                let until_ms = std::str::from_utf8(&until).ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(now_ms);
                Err(Refusal::new(Reason::RateLimited).retry_after(until_ms.saturating_sub(now_ms).max(1)))
            }
            Err(error) => {
                self.metrics.store_failed("join_cooldown", &error);
                Ok(())
            }
        }
    }

    /// A join has failed for this reason; gives what the user is told.
    pub(crate) async fn failed(&self, asker: Asker, refusal: Refusal, now_ms: u64) -> Refusal {
        let key = format!("join:{}:{}", asker.app, asker.user);
        let hit = WindowHit { key, limit: self.failures_per_minute, window_ms: JOIN_WINDOW_MS };
        let verdict = match self.state.rate_windows.hit(&[hit], now_ms).await {
            Ok(verdicts) => verdicts.first().copied(),
            Err(error) => {
                self.metrics.store_failed("join_rate", &error);
                None
            }
        };
        let Some(WindowVerdict::Refused { retry_after_ms }) = verdict else { return refusal };
        let until_ms = now_ms.saturating_add(retry_after_ms);
        let value = Bytes::from(until_ms.to_string());
        if let Err(error) = self.state.cache.put(&cooldown_key(asker), value, now_ms, until_ms).await {
            self.metrics.store_failed("join_cooldown", &error);
        }
        Refusal::new(Reason::RateLimited).retry_after(retry_after_ms)
    }
}

fn cooldown_key(asker: Asker) -> String {
    format!("join_cooldown:{}:{}", asker.app, asker.user)
}

#[cfg(test)]
mod tests {
    use super::{JoinGuard, Notice, check_block_words, check_new};
    use crate::{
        Refusal,
        metrics::Metrics,
        services::{
            Asker,
            ports::{NewRoom, RoomKind},
        },
    };
    use billfish_state::{AppId, DeviceKind, State, UserId};
    use billfish_wire::{Class, Reason};
    use prometheus_client::registry::Registry;

    #[tokio::test]
    async fn after_20_failed_joins_a_minute_every_join_is_refused_until_it_is_over() {
        let (state, metrics) = (State::in_memory(), Metrics::register(&mut Registry::default()));
        let guard = JoinGuard { state: &state, metrics: &metrics, failures_per_minute: 20 };
        let asker = Asker { app: AppId(10_001), user: UserId(20_001), device: DeviceKind::Web, session: 1 };
        for now_ms in 0..20 {
            guard.check(asker, now_ms).await.unwrap();
            assert_eq!(guard.failed(asker, Refusal::new(Reason::RoomNotFound), now_ms).await.reason, Reason::RoomNotFound);
        }
        let refusal = guard.failed(asker, Refusal::new(Reason::RoomNotFound), 20).await;
        assert_eq!(refusal.reason, Reason::RateLimited);
        let wait = refusal.retry_after_ms.unwrap();
        assert_eq!(guard.check(asker, 21).await.unwrap_err().reason, Reason::RateLimited, "also a right guess");
        let other = Asker { user: UserId(20_002), ..asker };
        guard.check(other, 21).await.unwrap();
        guard.check(asker, 20 + wait).await.unwrap();
    }

    #[test]
    fn notices_are_json_and_only_the_audience_is_a_state() {
        let user = UserId(20_001);
        let notices = [
            (Notice::Closed, "closed", Class::Control),
            (Notice::Muted { user, until_ms: 5 }, "muted", Class::Event),
            (Notice::Unmuted { user }, "unmuted", Class::Event),
            (Notice::Banned { user, until_ms: 5 }, "banned", Class::Event),
            (Notice::Unbanned { user }, "unbanned", Class::Event),
            (Notice::SlowMode { gap_ms: 5 }, "slowMode", Class::Event),
            (Notice::Audience { members: 5 }, "audience", Class::Ambient),
        ];
        for (notice, name, class) in notices {
            let push = notice.push();
            let data: serde_json::Value = serde_json::from_str(&push.data).unwrap();
            assert_eq!((data["type"].as_str(), push.class), (Some(name), class));
            assert_eq!(push.key.is_some(), name == "audience");
            assert_eq!(notice.effects().evict.is_some(), name == "banned");
        }
    }

    #[test]
    fn a_room_is_opened_with_fields_in_bounds() {
        let room =
            NewRoom { app: AppId(10_001), anchor: UserId(30_001), kind: RoomKind::Normal, name: "é".repeat(64), cover: "c".repeat(512) };
        assert_eq!(check_new(&room), Ok(()));
        let wrong = [
            NewRoom { anchor: UserId(9_999), ..room.clone() },
            NewRoom { app: AppId(9_999), ..room.clone() },
            NewRoom { name: "é".repeat(65), ..room.clone() },
            NewRoom { name: "a\nb".to_owned(), ..room.clone() },
            NewRoom { cover: "c".repeat(513), ..room },
        ];
        for room in wrong {
            assert_eq!(check_new(&room).unwrap_err().reason, Reason::Malformed, "{room:?}");
        }
    }

    #[test]
    fn a_block_list_has_bounds() {
        let words = |count: usize, word: &str| vec![word.to_owned(); count];
        assert_eq!(check_block_words(&words(1_000, " x ")).unwrap(), words(1_000, "x"));
        for words in [words(1_001, "x"), words(1, ""), words(1, "  "), words(1, &"x".repeat(65))] {
            assert!(check_block_words(&words).is_err());
        }
    }
}
