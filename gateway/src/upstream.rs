//! Calls to routers, and what routers have to know about us: kept until it is certain that they do.
//!
//! - A call stays in the table until its answer came, or its time is over. When a link dies, its calls go to the next owner, in order;
//!   routers de-duplicate.
//! - A router that does not own a room says so, and who does: the room's calls go there, or wait a moment and are tried again.
//! - Interest in a room is sent to its owner before the first JOIN, and taken back after the last member and the last JOIN under way.
//!   Each new link, and each new owner, is told everything again, and what we have seen of the room: it sends what came after that.
//! - Members are counted per room and shard, so that a push goes only to shards that have some.
//! - Everything is bounded: calls by number and bytes, outboxes by envelopes. A call that finds no room is refused, a router that takes
//!   nothing while its outbox fills counts as gone.
//!
//! Nothing waits in here and nothing is sent from here: [`crate::link`] carries the outboxes. No clock is read: times are passed in, in
//! milliseconds of any clock that goes forward.

mod calls;
mod placement;
mod rooms;
mod turns;

#[cfg(test)]
mod tests;

use self::{
    calls::{Call, Copy},
    placement::LinkState,
    rooms::Room,
    turns::Turn,
};
use crate::{
    metrics::ControlCounters,
    shard::message::{ConnKey, LeftCause, Origin, RollCall},
};
use billfish_link::message::{Kick, Origin as LinkOrigin, Relay, envelope::Kind};
use billfish_ring::Ring;
use billfish_session::server::UpCall;
use smallvec::SmallVec;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// One life of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(u64);

/// Who asked, and for what, as its answer needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) key: ConnKey,
    pub(crate) origin: Origin,
    pub(crate) request: u32,
    /// The room, where it was a JOIN.
    pub(crate) joining: Option<i64>,
}

/// What a router said to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The session is in the room, whose last message has this number.
    Joined { seq: i64 },
    /// Anything else.
    Other,
}

/// For whom a push to a room is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// For the members on these shards.
    For(SmallVec<[u16; 8]>),
    /// Nobody: it is a former owner's.
    Former,
    /// Nobody: an owner that replays its log sent what went by before.
    Replayed,
}

/// A router of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouterSeen {
    pub(crate) node: String,
    pub(crate) draining: bool,
}

/// The table behind a lock that is held for one step at a time.
#[derive(Debug)]
pub(crate) struct Upstream {
    table: Mutex<Table>,
    /// Why a router could not be linked, the last time that this became known. For a person.
    no_link: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Table {
    calls: BTreeMap<u64, Call>,
    /// Of all `calls`.
    bytes: usize,
    last_id: u64,
    /// The same by session, for those that have not ended. Bounded by `calls`.
    of_sessions: BTreeSet<(u64, u64)>,
    /// The newest JOIN or LEAVE under way of a session in a room. Bounded by `calls`.
    newest: BTreeMap<(u64, i64), u64>,
    /// Rooms and users whose calls were sent to the wrong router. Bounded by `calls` and `rooms`.
    turns: HashMap<i64, Turn, foldhash::fast::RandomState>,
    links: BTreeMap<LinkId, LinkState>,
    last_link: u64,
    /// How often there was no link, and then one.
    returns: u64,
    /// As the registry was last seen; `None`: never.
    routers: Option<Vec<RouterSeen>>,
    ring: Ring,
    rooms: HashMap<i64, Room, foldhash::fast::RandomState>,
    /// How often routers were told of interest.
    last_telling: u64,
    /// Ended sessions and kicks for other gateways that no router has heard of yet.
    words: VecDeque<Kind>,
    counters: Arc<ControlCounters>,
}

impl Upstream {
    pub(crate) fn new(counters: Arc<ControlCounters>) -> Self {
        let table = Table {
            calls: BTreeMap::new(),
            bytes: 0,
            last_id: 0,
            of_sessions: BTreeSet::new(),
            newest: BTreeMap::new(),
            turns: HashMap::default(),
            links: BTreeMap::new(),
            last_link: 0,
            returns: 0,
            routers: None,
            ring: Ring::default(),
            rooms: HashMap::default(),
            last_telling: 0,
            words: VecDeque::new(),
            counters,
        };
        Self { table: Mutex::new(table), no_link: Mutex::default() }
    }

    /// A link to a router is up: it is told every room that is its, and gets the calls that wait. An older link of the same router ends.
    pub(crate) fn link_up(&self, peer: &str) -> (LinkId, Arc<Notify>) {
        self.table().link_up(peer)
    }

    /// A link is gone; its calls go elsewhere, or wait. `false`: it was known already.
    pub(crate) fn link_down(&self, link: LinkId) -> bool {
        self.table().link_down(link)
    }

    /// Takes what is to be sent over a link; `false`: the link is no longer wanted.
    pub(crate) fn take_outbox(&self, link: LinkId, out: &mut VecDeque<Kind>) -> bool {
        self.table().take_outbox(link, out)
    }

    /// A router is not linked: why.
    pub(crate) fn not_linked(&self, why: &str) {
        *self.no_link.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
    }

    /// Why nobody is linked, as far as that is known.
    pub(crate) fn why_no_link(&self) -> Option<String> {
        self.no_link.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Links that are up.
    pub(crate) fn links(&self) -> usize {
        self.table().links.len()
    }

    /// Whether a link to this router is up.
    pub(crate) fn is_linked(&self, peer: &str) -> bool {
        self.table().link_to(peer).is_some()
    }

    /// The registry shows these routers: rooms belong to those of them that are linked and do not drain.
    pub(crate) fn place(&self, routers: Vec<RouterSeen>) {
        self.table().place(routers);
    }

    /// A session calls a router; `false`: no room for it, refuse it.
    #[must_use]
    pub(crate) fn call(&self, key: ConnKey, origin: Origin, request: u32, call: UpCall, now_ms: u64) -> bool {
        self.table().call(key, origin, request, call, now_ms)
    }

    /// A router answered; gives the caller, unless the answer is a second one, nobody waits any more, or it came from a former owner.
    pub(crate) fn answered(&self, from: LinkId, id: u64, said: Said, now_ms: u64) -> Option<Caller> {
        self.table().answered(from, Copy::of(id), said, now_ms)
    }

    /// A router said that a call is another's (`owner`) or nobody's yet (empty). Nothing was done; it is tried again.
    pub(crate) fn moved(&self, from: LinkId, id: u64, owner: &str, now_ms: u64) {
        self.table().moved(from, Copy::of(id), owner, now_ms);
    }

    /// Sends what has waited long enough for an owner. Call it some times a second.
    pub(crate) fn retry(&self, now_ms: u64) {
        self.table().retry(now_ms);
    }

    /// Calls that have waited too long, to be refused. Also says again what no owner has confirmed. Call it about once a second.
    pub(crate) fn expire(&self, now_ms: u64) -> Vec<Caller> {
        let mut table = self.table();
        let refused = table.expire(now_ms);
        table.forget_turns();
        table.tell_again(now_ms);
        refused
    }

    /// A session has ended, because its user logged out or otherwise: its rooms lose a member, their owners hear of it, and rooms that it was
    /// entering are to forget it. What else it asked for is not sent any more.
    pub(crate) fn gone(&self, shard: u16, origin: Origin, rooms: &[i64], logged_out: bool) {
        let mut table = self.table();
        table.tell_gone(origin, rooms, logged_out);
        for room in rooms {
            table.leave(*room, shard);
        }
        table.abandon_calls(origin.session);
    }

    /// A session is to be sent what its user has not acknowledged, though it asked for nothing; `false`: no room for it.
    #[must_use]
    pub(crate) fn redeliver(&self, origin: Origin, now_ms: u64) -> bool {
        self.table().redeliver(origin, now_ms)
    }

    /// How often a link came up when there was none: whatever routers had to say of sessions here meanwhile was not heard.
    pub(crate) fn returns(&self) -> u64 {
        self.table().returns
    }

    /// A session of another gateway has been replaced by one here: every router passes it on, for any of them may hang, or have no link to
    /// that gateway. A kick names its session, so it may come several times.
    pub(crate) fn relay(&self, node: String, incarnation: u64, kick: Kick) {
        self.table().word(Kind::Relay(Relay { node, incarnation, kick: Some(kick) }));
    }

    /// Sessions of these users, named with their apps, have begun here, or their last ones anywhere have ended.
    pub(crate) fn tell_users(&self, users: impl IntoIterator<Item = (i32, i64)>, online: bool) {
        self.table().tell_users(users, online);
    }

    /// Endings and kicks that were taken from an outbox and could not be sent.
    pub(crate) fn give_back(&self, unsent: VecDeque<Kind>) {
        let mut table = self.table();
        for kind in unsent {
            table.keep_word(kind);
        }
        table.tell_kept();
    }

    /// A session is no longer in a room, or never came to be.
    pub(crate) fn left(&self, shard: u16, origin: Origin, room_id: i64, cause: LeftCause) {
        let mut table = self.table();
        match cause {
            LeftCause::NotEntered => {
                table.is_out(origin.session, room_id);
                table.tell_gone(origin, &[room_id], false);
            }
            // The router has heard of it, or said so itself.
            LeftCause::Left | LeftCause::Evicted => table.is_out(origin.session, room_id),
            LeftCause::AlreadyIn => {}
        }
        table.leave(room_id, shard);
    }

    /// For whom a push is that came over a link. `seq` 0: it has no place in the room's order.
    pub(crate) fn heard(&self, from: LinkId, room_id: i64, epoch: u64, seq: i64) -> Heard {
        self.table().heard(from, room_id, epoch, seq)
    }

    /// Shards with members who are to be evicted, unless a former owner says so. It binds nobody to its epoch: that a room is closed is
    /// said with the largest of all, and it may be opened again.
    pub(crate) fn shards_to_evict(&self, room_id: i64, epoch: u64) -> Option<SmallVec<[u16; 8]>> {
        let table = self.table();
        let Some(room) = table.rooms.get(&room_id) else { return Some(SmallVec::new()) };
        (epoch >= room.epoch).then(|| room.shards())
    }

    /// Shards that have members of a room, whoever asks.
    pub(crate) fn members_of(&self, room_id: i64) -> SmallVec<[u16; 8]> {
        self.table().rooms.get(&room_id).map(Room::shards).unwrap_or_default()
    }

    /// A router speaks of a room as its owner does.
    pub(crate) fn confirmed(&self, from: LinkId, room_id: i64) {
        if let Some(room) = self.table().rooms.get_mut(&room_id) {
            room.confirm(from);
        }
    }

    /// The owner of a room asks for its members: the shards that have some are asked, unless a later owner has spoken.
    pub(crate) fn roll_call(&self, from: LinkId, room_id: i64, epoch: u64, number: u32) -> Option<(RollCall, SmallVec<[u16; 8]>)> {
        self.table().roll_call(from, room_id, epoch, number)
    }

    /// A shard has named its members of a room: the owner that asked is told.
    pub(crate) fn seats(&self, call: RollCall, members: &[Origin]) {
        self.table().tell_seats(call, members);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn link_origin(origin: Origin) -> LinkOrigin {
    LinkOrigin { app_id: origin.app_id, user_id: origin.user_id, device: origin.device as u32, session: origin.session }
}

fn origin_of(origin: &LinkOrigin) -> Option<Origin> {
    let device = billfish_state::DeviceKind::from_number(origin.device)?;
    Some(Origin { app_id: origin.app_id, user_id: origin.user_id, device, session: origin.session })
}
