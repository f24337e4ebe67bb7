//! Every key in Redis, in one place.
//!
//! - All begin with the configured prefix.
//! - What one script touches shares a hash tag, so that it lies on one server of a cluster.
//! - Names come from our own code or are ids; where a part is text from outside (a token, a message id), it stands last.

use super::slots::slot_of;
use crate::port::lease_shard;
use crate::types::{AppId, NodeKind, RoomId, UserId};
use std::sync::Arc;

/// Hash maps of pending ACKs in each app: as many as spread over a cluster, as few as one node visits in a round of clearing up.
pub(super) const ACK_SHARDS: u64 = 20;

/// Keys that are tried for a slot that is wanted: for a single one of the 16,384 that is enough but once in ten million times.
const PROBES_MAX: u32 = 1 << 18;
/// Keys that are shown in one line, and characters of each.
const SHOWN_MAX: usize = 3;
const SHOWN_CHARS_MAX: usize = 120;

/// Makes keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: Arc<str>,
    presence_buckets: u16,
}

impl Keys {
    pub(super) fn new(prefix: &str, presence_buckets: u16) -> Self {
        Self { prefix: Arc::from(prefix), presence_buckets }
    }

    pub(super) fn token(&self, token: &str) -> String {
        format!("{}imLoginToken:{token}", self.prefix)
    }

    /// The bucket of a user's signs of life.
    pub(super) fn presence_bucket(&self, user: UserId) -> u16 {
        u16::try_from(user.0.rem_euclid(i64::from(self.presence_buckets))).expect("less than the number of buckets")
    }

    pub(super) fn presence_buckets(&self) -> u16 {
        self.presence_buckets
    }

    pub(super) fn presence(&self, app: AppId, bucket: u16) -> String {
        format!("{}imOnlineZset:{app}:{bucket}", self.prefix)
    }

    /// The apps that have signs of life.
    pub(super) fn presence_apps(&self) -> String {
        format!("{}imOnlineApps", self.prefix)
    }

    pub(super) fn route(&self, app: AppId, user: UserId) -> String {
        format!("{}bindIp:{app}:{user}", self.prefix)
    }

    /// The shard of a user's pending ACKs.
    pub(super) fn ack_shard(user: UserId) -> u64 {
        user.0.rem_euclid(ACK_SHARDS.cast_signed()).cast_unsigned()
    }

    pub(super) fn acks(&self, app: AppId, shard: u64) -> String {
        format!("{}imAckMap:{{{app}:{shard}}}", self.prefix)
    }

    /// The same ACKs by the time they are due.
    pub(super) fn acks_due(&self, app: AppId, shard: u64) -> String {
        format!("{}imAckDue:{{{app}:{shard}}}", self.prefix)
    }

    /// The same ACKs by name, so that those of one user stand together.
    pub(super) fn acks_by_name(&self, app: AppId, shard: u64) -> String {
        format!("{}imAckName:{{{app}:{shard}}}", self.prefix)
    }

    /// The apps that have pending ACKs.
    pub(super) fn ack_apps(&self) -> String {
        format!("{}imAckApps", self.prefix)
    }

    pub(super) fn inbox(&self, app: AppId, user: UserId) -> String {
        format!("{}inbox:{{{app}:{user}}}", self.prefix)
    }

    /// What is known of an inbox beside its entries.
    pub(super) fn inbox_notes(&self, app: AppId, user: UserId) -> String {
        format!("{}inbox:{{{app}:{user}}}:notes", self.prefix)
    }

    /// The messages that were taken for an inbox, and those taken before them.
    pub(super) fn inbox_claims(&self, app: AppId, user: UserId) -> [String; 2] {
        let taken = format!("{}inbox:{{{app}:{user}}}:taken", self.prefix);
        let before = format!("{taken}:before");
        [taken, before]
    }

    pub(super) fn room_log(&self, room: RoomId) -> String {
        format!("{}room:{{{room}}}:log", self.prefix)
    }

    /// What is known of a log beside its entries.
    pub(super) fn room_log_notes(&self, room: RoomId) -> String {
        format!("{}room:{{{room}}}:notes", self.prefix)
    }

    /// The messages that were taken for a log, and those taken before them.
    pub(super) fn room_log_claims(&self, room: RoomId) -> [String; 2] {
        let taken = format!("{}room:{{{room}}}:taken", self.prefix);
        let before = format!("{taken}:before");
        [taken, before]
    }

    pub(super) fn members(&self, app: AppId, room: RoomId) -> String {
        format!("{}living_room_user_set:{{{app}:{room}}}", self.prefix)
    }

    /// The bar of a room's PK: challenger, value, place of the last gift, winner.
    pub(super) fn pk_bar(&self, room: RoomId) -> [String; 4] {
        let challenger = format!("{}living_online_pk:{{{room}}}", self.prefix);
        let value = format!("{}living_pk_key:{{{room}}}", self.prefix);
        let seq = format!("{}living_pk_send_seq:{{{room}}}", self.prefix);
        let winner = format!("{}living_pk_is_over:{{{room}}}", self.prefix);
        [challenger, value, seq, winner]
    }

    /// The nodes of a kind.
    pub(super) fn nodes(&self, kind: NodeKind) -> String {
        let kind = match kind {
            NodeKind::Gateway => "gateway",
            NodeKind::Router => "router",
        };
        format!("{}node:{kind}", self.prefix)
    }

    /// The shard of a lease, and the one before it. Owners of rooms share a few; of the others, of which there are few, each has its own,
    /// apart from a cached value of the same name.
    pub(super) fn leases(&self, name: &str) -> [String; 2] {
        let shard = if name.ends_with(":owner") {
            format!("{}leases:{{{}}}", self.prefix, lease_shard(name))
        } else {
            format!("{}lease:{{{name}}}", self.prefix)
        };
        let before = format!("{shard}:before");
        [shard, before]
    }

    pub(super) fn rate_window(&self, key: &str) -> String {
        format!("{}limit:{key}", self.prefix)
    }

    pub(super) fn dedup(&self, app: AppId, user: UserId, msg_id: &str) -> String {
        format!("{}dedup:{app}:{user}:{msg_id}", self.prefix)
    }

    pub(super) fn login_code(&self, app: AppId, phone: &str) -> String {
        format!("{}loginCode:{app}:{phone}", self.prefix)
    }

    pub(super) fn session(&self, print: &str) -> String {
        format!("{}session:{print}", self.prefix)
    }

    /// The sessions of a user.
    pub(super) fn sessions(&self, app: AppId, user: UserId) -> String {
        format!("{}sessions:{app}:{user}", self.prefix)
    }

    /// The pulses of all processes, see `lua/pulse.lua`.
    pub(super) fn pulse(&self) -> String {
        format!("{}pulse", self.prefix)
    }

    /// A key to try writes on, in one of the slots that are wanted; `None` where hardly any is.
    pub(super) fn probe(&self, is_wanted: impl Fn(u16) -> bool) -> Option<String> {
        (0..PROBES_MAX).map(|number| format!("{}probe:{number}", self.prefix)).find(|key| is_wanted(slot_of(key.as_bytes())))
    }

    /// Keys as they may be shown: a token is a secret, a phone is nobody's business, and there may be many, or long ones.
    pub(super) fn shown<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> String {
        let secrets = [self.token(""), [&*self.prefix, "loginCode:"].concat()];
        let mut shown: Vec<String> = keys
            .take(SHOWN_MAX + 1)
            .map(|key| {
                let key = String::from_utf8_lossy(key);
                match secrets.iter().find(|secret| key.starts_with(secret.as_str())) {
                    Some(secret) => format!("{secret}..."),
                    None => key.chars().take(SHOWN_CHARS_MAX).collect(),
                }
            })
            .collect();
        if shown.len() > SHOWN_MAX {
            shown[SHOWN_MAX] = "...".to_owned();
        }
        shown.join(" or ")
    }

    /// `key` is chosen by our own code, as `living_room_obj:1`.
    pub(super) fn cache(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::Keys;
    use crate::redis::slots::slot_of;
    use crate::types::{AppId, NodeKind, RoomId, UserId};
    use std::collections::BTreeSet;

    const APP: AppId = AppId(10001);

    fn keys() -> Keys {
        Keys::new("im:", 32)
    }

    #[test]
    fn keys_are_named_as_documented() {
        let (keys, user) = (keys(), UserId(-7));
        assert_eq!(keys.token("abc"), "im:imLoginToken:abc");
        assert_eq!(keys.presence(APP, 5), "im:imOnlineZset:10001:5");
        assert_eq!(keys.route(APP, user), "im:bindIp:10001:-7");
        let bar = ["im:living_online_pk:{7}", "im:living_pk_key:{7}", "im:living_pk_send_seq:{7}", "im:living_pk_is_over:{7}"];
        assert_eq!(keys.pk_bar(RoomId(7)), bar);
        assert_eq!(keys.nodes(NodeKind::Gateway), "im:node:gateway");
        assert_eq!(keys.leases("room:1:owner"), ["im:leases:{1}", "im:leases:{1}:before"]);
        assert_eq!(keys.leases("sweeper"), ["im:lease:{sweeper}", "im:lease:{sweeper}:before"]);
        assert_eq!(keys.rate_window("login:10001:1"), "im:limit:login:10001:1");
        assert_eq!(keys.dedup(APP, user, "m"), "im:dedup:10001:-7:m");
        assert_eq!(keys.cache("living_room_obj:1"), "im:living_room_obj:1");
        assert_eq!(keys.login_code(APP, "86138"), "im:loginCode:10001:86138");
        assert_eq!((keys.session("p"), keys.sessions(APP, user)), ("im:session:p".to_owned(), "im:sessions:10001:-7".to_owned()));
    }

    /// The page is a contract: a key that is made here and not told there fails here.
    #[test]
    fn every_key_has_its_line_in_the_documentation() {
        let source = include_str!("keys.rs").split("#[cfg(test)]").next().unwrap();
        let made: Vec<String> = source.split("format!(\"{}").skip(1).map(|rest| shape(rest.split('"').next().unwrap())).collect();
        // Those that begin with a part of their own are made of others, or named by whoever caches.
        let made: BTreeSet<String> = made.into_iter().filter(|key| key.starts_with(|first: char| first.is_ascii_alphabetic())).collect();
        assert!(made.contains("imAckMap:{<>:<>}") && made.len() > 15, "{made:?}");
        let page = include_str!("../../../../docs/redis.md");
        let told: BTreeSet<String> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split(" |").next())
            .flat_map(|keys| keys.split('`').step_by(2).map(blank).collect::<Vec<_>>())
            .collect();
        let missing: Vec<_> = made.difference(&told).collect();
        assert!(missing.is_empty(), "not in docs/redis.md: {missing:?} (it has {told:?})");
        for made in ["leases:{<>}", "leases:{<>}:before", "lease:{<>}:before", "node:<>"] {
            assert!(told.contains(made), "{made}");
        }
    }

    /// A format string as a shape: what is filled in is `<>`.
    fn shape(format: &str) -> String {
        let marked = format.replace("{{{", "\u{1}{").replace("}}}", "}\u{2}");
        let mut shape = String::new();
        for (number, part) in marked.split(['{', '}']).enumerate() {
            shape.push_str(if number % 2 == 1 { "<>" } else { part });
        }
        shape.replace('\u{1}', "{").replace('\u{2}', "}")
    }

    /// A documented key as a shape.
    fn blank(key: &str) -> String {
        let mut shape = String::new();
        for (number, part) in key.split(['<', '>']).enumerate() {
            shape.push_str(if number % 2 == 1 { "<>" } else { part });
        }
        shape
    }

    #[test]
    fn a_bucket_is_that_of_the_remainder_also_below_zero() {
        let buckets = [0, 33, -1, i64::MIN, i64::MAX].map(|user| keys().presence_bucket(UserId(user)));
        assert_eq!(buckets, [0, 1, 31, 0, 31]);
        assert_eq!(Keys::ack_shard(UserId(-1)), 19);
    }

    #[test]
    fn there_is_a_key_to_try_for_every_slot() {
        assert_eq!(keys().probe(|_| true).as_deref(), Some("im:probe:0"));
        for wanted in [0, 1, 8191, 16_383] {
            let key = keys().probe(|slot| slot == wanted).unwrap();
            assert_eq!(slot_of(key.as_bytes()), wanted);
        }
        assert_eq!(keys().probe(|_| false), None);
    }

    #[test]
    fn a_token_or_a_phone_is_not_shown_and_of_many_keys_only_some_are() {
        let shown = |shown: &[&str]| keys().shown(shown.iter().map(|key| key.as_bytes()));
        assert_eq!(shown(&["im:imLoginToken:secret"]), "im:imLoginToken:...");
        assert_eq!(shown(&[&keys().login_code(APP, "8613800138000")]), "im:loginCode:...");
        assert_eq!(shown(&["im:a", "im:b"]), "im:a or im:b");
        assert_eq!(shown(&["a", "b", "c", "d", "e"]), "a or b or c or ...");
        assert_eq!(shown(&[&"x".repeat(1000)]).len(), 120);
    }

    /// Whatever a message id says, with braces in it or not.
    #[test]
    fn what_one_script_touches_shares_a_slot() {
        let (keys, user) = (keys(), UserId(-7));
        let share =
            |these: &[String]| assert!(these.iter().all(|key| slot_of(key.as_bytes()) == slot_of(these[0].as_bytes())), "{these:?}");
        let shard = Keys::ack_shard(user);
        share(&[keys.acks(APP, shard), keys.acks_due(APP, shard), keys.acks_by_name(APP, shard)]);
        let [taken, before] = keys.inbox_claims(APP, user);
        share(&[keys.inbox(APP, user), keys.inbox_notes(APP, user), taken, before]);
        let [taken, before] = keys.room_log_claims(RoomId(1));
        share(&[keys.room_log(RoomId(1)), keys.room_log_notes(RoomId(1)), taken, before]);
        share(&keys.pk_bar(RoomId(1)));
        share(&keys.leases("room:1:owner"));
        share(&keys.leases("sweeper"));
    }
}
