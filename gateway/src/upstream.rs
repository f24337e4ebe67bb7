//! Calls to routers, and what routers have to know about us: kept until it is certain that they do.
//!
//! - A call stays in the table until its answer came, or its time is over. When a link dies, its calls go to the next owner, in order;
//!   routers de-duplicate.
//! - Interest in a room is sent to its owner before the first JOIN, and taken back after the last member and the last JOIN under way.
//!   Each new link, and each new owner, is told everything again.
//! - Members are counted per room and shard, so that a push goes only to shards that have some.
//! - Everything is bounded: calls by number and bytes, outboxes by envelopes. A call that finds no room is refused, a router that takes
//!   nothing while its outbox fills counts as gone.
//!
//! Nothing waits in here and nothing is sent from here: [`crate::link`] carries the outboxes.

use crate::{
    metrics::ControlCounters,
    shard::message::{ConnKey, LeftCause, Origin},
};
use billfish_link::message::{Biz, Gone, Interest, Join, Leave, Origin as LinkOrigin, Sync, Up, envelope::Kind, up::Call as UpKind};
use billfish_ring::Ring;
use billfish_session::server::UpCall;
use smallvec::SmallVec;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// One life of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkId(u64);

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
    /// The session is in the room, whose owner has this epoch.
    Joined { epoch: u64 },
    /// Anything else.
    Other,
}

/// The table behind a lock that is held for one step at a time.
#[derive(Debug)]
pub(crate) struct Upstream {
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    calls: BTreeMap<u64, Call>,
    /// Of all `calls`.
    bytes: usize,
    last_id: u64,
    /// The newest JOIN or LEAVE under way of a session in a room. Bounded by `calls`.
    newest: HashMap<(u64, i64), u64, foldhash::fast::RandomState>,
    links: BTreeMap<LinkId, LinkState>,
    last_link: u64,
    ring: Ring,
    rooms: HashMap<i64, Room, foldhash::fast::RandomState>,
    /// Ended sessions that no router has heard of yet.
    gone: VecDeque<Gone>,
    counters: Arc<ControlCounters>,
}

#[derive(Debug)]
struct LinkState {
    peer: String,
    outbox: VecDeque<Kind>,
    filled: Arc<Notify>,
}

#[derive(Debug)]
struct Call {
    /// `None`: the gateway's own; nobody waits for the answer.
    caller: Option<Caller>,
    up: Up,
    /// Where it was sent; `None`: nowhere yet, or that link is gone.
    link: Option<LinkId>,
    sent_before: bool,
    since_ms: u64,
    /// A newer JOIN or LEAVE of the same session and room says where the session belongs: what this one left behind is not undone.
    superseded: bool,
    /// A JOIN that took the place of one whose undoing was due: refused, it is undone itself.
    owes_undo: bool,
}

#[derive(Debug, Default)]
struct Room {
    /// JOINs under way.
    joins: u32,
    /// Sessions in it, or told to enter it, by shard.
    members: SmallVec<[u32; 4]>,
    /// The largest seen.
    epoch: u64,
    owner: Option<LinkId>,
}

impl Upstream {
    pub(crate) fn new(counters: Arc<ControlCounters>) -> Self {
        let table = Table {
            calls: BTreeMap::new(),
            bytes: 0,
            last_id: 0,
            newest: HashMap::default(),
            links: BTreeMap::new(),
            last_link: 0,
            ring: Ring::default(),
            rooms: HashMap::default(),
            gone: VecDeque::new(),
            counters,
        };
        Self { table: Mutex::new(table) }
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
        match self.table().links.get_mut(&link) {
            Some(state) => {
                out.append(&mut state.outbox);
                true
            }
            None => false,
        }
    }

    /// Links that are up.
    pub(crate) fn links(&self) -> usize {
        self.table().links.len()
    }

    /// A session calls a router; `false`: no room for it, refuse it.
    #[must_use]
    pub(crate) fn call(&self, key: ConnKey, origin: Origin, request: u32, call: UpCall, now_ms: u64) -> bool {
        self.table().call(key, origin, request, call, now_ms)
    }

    /// A router answered; gives the caller, unless the answer is a second one or nobody waits any more.
    pub(crate) fn answered(&self, id: u64, said: Said) -> Option<Caller> {
        self.table().answered(id, said)
    }

    /// A session has ended: its rooms lose a member, and their owners hear of it.
    pub(crate) fn gone(&self, shard: u16, origin: Origin, rooms: &[i64]) {
        let mut table = self.table();
        table.tell_gone(origin, rooms);
        for room in rooms {
            table.leave(*room, shard);
        }
    }

    /// Endings that were taken from an outbox and could not be sent.
    pub(crate) fn give_back(&self, unsent: VecDeque<Kind>) {
        let mut table = self.table();
        for kind in unsent {
            if let Kind::Gone(gone) = kind {
                table.keep_gone(gone);
            }
        }
        table.tell_kept();
    }

    /// A session is no longer in a room, or never came to be.
    pub(crate) fn left(&self, shard: u16, origin: Origin, room_id: i64, cause: LeftCause) {
        let mut table = self.table();
        match cause {
            LeftCause::NotEntered => table.tell_gone(origin, &[room_id]),
            // The router has heard of it, or said so itself.
            LeftCause::Left | LeftCause::Evicted | LeftCause::AlreadyIn => {}
        }
        table.leave(room_id, shard);
    }

    /// Calls that have waited too long, to be refused.
    pub(crate) fn expire(&self, now_ms: u64) -> Vec<Caller> {
        self.table().expire(now_ms)
    }

    /// Shards that have members of a room, if the sender's epoch is the largest seen; `None`: it is a former owner's.
    pub(crate) fn shards_of(&self, room_id: i64, epoch: u64) -> Option<SmallVec<[u16; 8]>> {
        let mut table = self.table();
        let Some(room) = table.rooms.get_mut(&room_id) else { return Some(SmallVec::new()) };
        if epoch < room.epoch {
            return None;
        }
        room.epoch = epoch;
        Some(room.shards())
    }

    /// The same for an eviction, which binds nobody to its epoch: that a room is closed is said with the largest of all, and it may be opened.
    pub(crate) fn shards_to_evict(&self, room_id: i64, epoch: u64) -> Option<SmallVec<[u16; 8]>> {
        let table = self.table();
        let Some(room) = table.rooms.get(&room_id) else { return Some(SmallVec::new()) };
        (epoch >= room.epoch).then(|| room.shards())
    }

    /// Shards that have members of a room, whoever asks.
    pub(crate) fn members_of(&self, room_id: i64) -> SmallVec<[u16; 8]> {
        self.table().rooms.get(&room_id).map(Room::shards).unwrap_or_default()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn link_up(&mut self, peer: &str) -> (LinkId, Arc<Notify>) {
        self.last_link += 1;
        let link = LinkId(self.last_link);
        let older: Vec<LinkId> = self.links.iter().filter(|(_, state)| state.peer == peer).map(|(link, _)| *link).collect();
        for older in older {
            self.forget_link(older);
        }
        let filled = Arc::new(Notify::new());
        self.links.insert(link, LinkState { peer: peer.to_owned(), outbox: VecDeque::new(), filled: Arc::clone(&filled) });
        self.settle();
        (link, filled)
    }

    fn link_down(&mut self, link: LinkId) -> bool {
        let known = self.links.contains_key(&link);
        if known {
            self.forget_link(link);
            self.settle();
        }
        known
    }

    fn forget_link(&mut self, link: LinkId) {
        let Some(state) = self.links.remove(&link) else { return };
        // Its driver finds that it is not wanted any more.
        state.filled.notify_one();
        self.counters.links_lost.add(1);
        for call in self.calls.values_mut().filter(|call| call.link == Some(link)) {
            call.link = None;
        }
        for room in self.rooms.values_mut().filter(|room| room.owner == Some(link)) {
            room.owner = None;
        }
        // What was not sent yet: calls are in the table, interest is told anew; endings stand nowhere else.
        for kind in state.outbox {
            if let Kind::Gone(gone) = kind {
                self.keep_gone(gone);
            }
        }
    }

    /// After the links changed: every room has its owner, every owner knows of its rooms, and what waits is sent.
    fn settle(&mut self) {
        let nodes: Vec<(&str, u32)> = self.links.values().map(|state| (state.peer.as_str(), 1)).collect();
        self.ring = Ring::new(&nodes);
        self.counters.links_up.set(self.links.len() as u64);
        let mut told = Vec::new();
        for (room_id, room) in &mut self.rooms {
            let owner = owner(&self.links, &self.ring, *room_id);
            if room.owner != owner {
                told.extend(room.owner.map(|former| (former, *room_id, false, 0)));
                told.extend(owner.map(|owner| (owner, *room_id, true, room.members())));
                room.owner = owner;
            }
        }
        for (link, room_id, interested, members) in told {
            self.post(link, Kind::Interest(Interest { room_id, interested, members, last_seq: 0 }));
        }
        if self.links.is_empty() {
            return;
        }
        let waiting: Vec<u64> = self.calls.iter().filter(|(_, call)| call.link.is_none()).map(|(id, _)| *id).collect();
        for id in waiting {
            self.send(id);
        }
        self.tell_kept();
    }

    /// Endings that waited; those whose room still has no owner go on waiting.
    fn tell_kept(&mut self) {
        for gone in std::mem::take(&mut self.gone) {
            self.route_gone(gone);
        }
    }

    fn call(&mut self, key: ConnKey, origin: Origin, request: u32, call: UpCall, now_ms: u64) -> bool {
        let kind = match call {
            UpCall::Biz { room_id, biz_code, data, msg_id } => UpKind::Biz(Biz { room_id, biz_code, data, msg_id }),
            UpCall::Join { room_id, resume_seq } => UpKind::Join(Join { room_id, resume_seq }),
            UpCall::Leave { room_id } => UpKind::Leave(Leave { room_id }),
            UpCall::Sync { room_id, from_seq, from_id } => UpKind::Sync(Sync { room_id, from_seq, from_id, resume: false }),
        };
        // A LEAVE is let in when nothing else is: refused, it would leave a member behind that is none.
        let leave = matches!(kind, UpKind::Leave(_));
        if !leave && !self.has_room(&kind, origin) {
            self.counters.upstream_given_up.add(1);
            return false;
        }
        let joining = if let UpKind::Join(join) = &kind { Some(join.room_id) } else { None };
        if let Some(room_id) = joining {
            self.room(room_id).joins += 1;
            self.interest_grew(room_id);
        }
        let caller = Caller { key, origin, request, joining };
        self.keep(Some(caller), origin, kind, now_ms);
        true
    }

    fn has_room(&self, kind: &UpKind, origin: Origin) -> bool {
        let link = self.owner_of(kind, origin.user_id);
        let outbox = link.and_then(|link| self.links.get(&link)).map_or(0, |state| state.outbox.len());
        self.calls.len() < CALLS_MAX && self.bytes + bytes_of(kind) <= CALL_BYTES_MAX && outbox < OUTBOX_CALLS_MAX
    }

    fn keep(&mut self, caller: Option<Caller>, origin: Origin, kind: UpKind, now_ms: u64) {
        self.last_id += 1;
        let id = self.last_id;
        self.bytes += bytes_of(&kind);
        let up = Up { id, origin: Some(link_origin(origin)), call: Some(kind) };
        let membership = membership_of(&up);
        let owes_undo = membership.is_some_and(|place| self.supersede(place, id));
        self.calls.insert(id, Call { caller, up, link: None, sent_before: false, since_ms: now_ms, superseded: false, owes_undo });
        self.counters.upstream_in_flight.set(self.calls.len() as u64);
        self.send(id);
    }

    /// A newer JOIN or LEAVE decides where a session belongs. An older JOIN that nobody waits for any more is forgotten, or its undoing
    /// would take out who has just been let in; `true` when there was one.
    fn supersede(&mut self, place: (u64, i64), id: u64) -> bool {
        let Some(older_id) = self.newest.insert(place, id) else { return false };
        let Some(older) = self.calls.get_mut(&older_id) else { return false };
        older.superseded = true;
        if older.caller.is_some() || !older.is_join() {
            return false;
        }
        self.forget_call(older_id);
        let room = self.room(place.1);
        room.joins = room.joins.saturating_sub(1);
        self.interest_shrank(place.1);
        true
    }

    /// Posts a call to its owner's link, if there is one.
    fn send(&mut self, id: u64) {
        let Some(call) = self.calls.get(&id) else { return };
        let user_id = call.up.origin.as_ref().map_or(0, |origin| origin.user_id);
        let Some(link) = call.up.call.as_ref().and_then(|kind| self.owner_of(kind, user_id)) else { return };
        let up = call.up.clone();
        if call.sent_before {
            self.counters.upstream_retries.add(1);
        }
        if let Some(call) = self.calls.get_mut(&id) {
            call.link = Some(link);
            call.sent_before = true;
        }
        self.post(link, Kind::Up(up));
    }

    fn answered(&mut self, id: u64, said: Said) -> Option<Caller> {
        let Some(call) = self.forget_call(id) else {
            self.counters.replies_stale.add(1);
            return None;
        };
        let room_id = match &call.up.call {
            Some(UpKind::Join(join)) => join.room_id,
            Some(UpKind::Biz(_) | UpKind::Leave(_) | UpKind::Sync(_) | UpKind::Redeliver(_) | UpKind::Order(_)) | None => {
                return call.caller;
            }
        };
        let room = self.room(room_id);
        room.joins = room.joins.saturating_sub(1);
        match (said, call.caller) {
            (Said::Joined { epoch }, Some(caller)) => {
                room.epoch = room.epoch.max(epoch);
                room.enter(caller.key.shard);
            }
            (Said::Joined { .. }, None) => {
                // The client was refused long ago and is not in the room: its owner has to know.
                if let Some(origin) = call.up.origin.as_ref().and_then(origin_of) {
                    self.keep(None, origin, UpKind::Leave(Leave { room_id }), call.since_ms);
                }
                self.interest_shrank(room_id);
            }
            (Said::Other, _) => {
                // What the JOIN before this one left behind is still to be undone.
                if let (true, false, Some(origin)) = (call.owes_undo, call.superseded, call.up.origin.as_ref().and_then(origin_of)) {
                    self.keep(None, origin, UpKind::Leave(Leave { room_id }), call.since_ms);
                }
                self.interest_shrank(room_id);
            }
        }
        call.caller
    }

    fn expire(&mut self, now_ms: u64) -> Vec<Caller> {
        let late = |call: &Call, wait_ms: u64| now_ms.saturating_sub(call.since_ms) >= wait_ms;
        let mut refused = Vec::new();
        let mut over = Vec::new();
        for (id, call) in &mut self.calls {
            let is_leave = matches!(call.up.call, Some(UpKind::Leave(_)));
            let is_join = call.is_join();
            if late(call, ANSWER_WAIT_MS)
                && let Some(caller) = call.caller.take()
            {
                // The echo of a LEAVE is with the client already: it never fails for it.
                if !is_leave {
                    refused.push(caller);
                }
            }
            // A JOIN or LEAVE leaves something behind at the router, so it is followed up beyond its caller's patience.
            // Not so a JOIN behind which there came another call: that one says where the session belongs.
            let is_followed = is_leave || (is_join && !call.superseded);
            let patience_ms = if is_followed { MEMBERSHIP_WAIT_MS } else { ANSWER_WAIT_MS };
            if call.caller.is_none() && late(call, patience_ms) {
                over.push(*id);
            }
        }
        for id in over {
            let Some(call) = self.forget_call(id) else { continue };
            let (Some(kind), Some(origin)) = (&call.up.call, &call.up.origin) else { continue };
            match kind {
                UpKind::Join(Join { room_id, .. }) => {
                    let room = self.room(*room_id);
                    room.joins = room.joins.saturating_sub(1);
                    self.interest_shrank(*room_id);
                    if !call.superseded {
                        self.route_gone(Gone { origin: Some(*origin), room_ids: vec![*room_id] });
                    }
                }
                UpKind::Leave(Leave { room_id }) if !call.superseded => {
                    self.route_gone(Gone { origin: Some(*origin), room_ids: vec![*room_id] });
                }
                UpKind::Leave(_) => {}
                UpKind::Biz(_) | UpKind::Sync(_) | UpKind::Redeliver(_) | UpKind::Order(_) => {}
            }
        }
        self.counters.upstream_given_up.add(refused.len() as u64);
        refused
    }

    fn forget_call(&mut self, id: u64) -> Option<Call> {
        let call = self.calls.remove(&id)?;
        self.bytes -= call.up.call.as_ref().map_or(0, bytes_of);
        if let Some(place) = membership_of(&call.up)
            && self.newest.get(&place) == Some(&id)
        {
            self.newest.remove(&place);
        }
        self.counters.upstream_in_flight.set(self.calls.len() as u64);
        Some(call)
    }

    fn tell_gone(&mut self, origin: Origin, rooms: &[i64]) {
        if !rooms.is_empty() {
            self.route_gone(Gone { origin: Some(link_origin(origin)), room_ids: rooms.to_vec() });
        }
    }

    /// To each owner the rooms that are its.
    fn route_gone(&mut self, gone: Gone) {
        let mut by_link: BTreeMap<LinkId, Vec<i64>> = BTreeMap::new();
        for room_id in &gone.room_ids {
            match owner(&self.links, &self.ring, *room_id) {
                Some(link) => by_link.entry(link).or_default().push(*room_id),
                None => return self.keep_gone(gone),
            }
        }
        for (link, room_ids) in by_link {
            self.post(link, Kind::Gone(Gone { origin: gone.origin, room_ids }));
        }
    }

    fn keep_gone(&mut self, gone: Gone) {
        // The oldest are forgotten: a router that is away for so long counts its members anew.
        if self.gone.len() >= GONE_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back(gone);
    }

    fn leave(&mut self, room_id: i64, shard: u16) {
        if let Some(room) = self.rooms.get_mut(&room_id) {
            room.exit(shard);
            self.interest_shrank(room_id);
        }
    }

    fn room(&mut self, room_id: i64) -> &mut Room {
        self.rooms.entry(room_id).or_default()
    }

    /// The first JOIN of a room is under way.
    fn interest_grew(&mut self, room_id: i64) {
        let owner = owner(&self.links, &self.ring, room_id);
        let room = self.room(room_id);
        if let (None, Some(link)) = (room.owner, owner) {
            room.owner = owner;
            let members = room.members();
            self.post(link, Kind::Interest(Interest { room_id, interested: true, members, last_seq: 0 }));
        }
    }

    /// A member or a JOIN is gone; with the last of them goes the interest.
    fn interest_shrank(&mut self, room_id: i64) {
        let Some(room) = self.rooms.get(&room_id) else { return };
        if room.joins > 0 || room.members() > 0 {
            return;
        }
        let owner = room.owner;
        self.rooms.remove(&room_id);
        if let Some(link) = owner {
            self.post(link, Kind::Interest(Interest { room_id, interested: false, members: 0, last_seq: 0 }));
        }
    }

    fn post(&mut self, link: LinkId, kind: Kind) {
        let Some(state) = self.links.get_mut(&link) else {
            if let Kind::Gone(gone) = kind {
                self.keep_gone(gone);
            }
            return;
        };
        if state.outbox.len() >= OUTBOX_MAX {
            tracing::warn!(router = %state.peer, waiting = state.outbox.len(), "the router takes nothing; its link is given up");
            if let Kind::Gone(gone) = kind {
                self.keep_gone(gone);
            }
            self.link_down(link);
            return;
        }
        state.outbox.push_back(kind);
        if state.outbox.len() == 1 {
            state.filled.notify_one();
        }
    }

    /// The router that a call goes to: the room's owner; without a room, the user's.
    fn owner_of(&self, kind: &UpKind, user_id: i64) -> Option<LinkId> {
        let room_id = match kind {
            UpKind::Biz(biz) => biz.room_id,
            UpKind::Join(join) => join.room_id,
            UpKind::Leave(leave) => leave.room_id,
            UpKind::Sync(sync) => sync.room_id,
            UpKind::Redeliver(_) => 0,
            UpKind::Order(order) => order.room_id,
        };
        owner(&self.links, &self.ring, if room_id == 0 { user_id } else { room_id })
    }
}

impl Call {
    fn is_join(&self) -> bool {
        matches!(self.up.call, Some(UpKind::Join(_)))
    }
}

impl Room {
    fn members(&self) -> u32 {
        self.members.iter().sum()
    }

    fn enter(&mut self, shard: u16) {
        let shard = usize::from(shard);
        if self.members.len() <= shard {
            self.members.resize(shard + 1, 0);
        }
        self.members[shard] += 1;
    }

    fn exit(&mut self, shard: u16) {
        if let Some(count) = self.members.get_mut(usize::from(shard)) {
            *count = count.saturating_sub(1);
        }
    }

    fn shards(&self) -> SmallVec<[u16; 8]> {
        (0..).zip(&self.members).filter(|(_, count)| **count > 0).map(|(shard, _)| shard).collect()
    }
}

/// The link to a key's owner among the routers that are there.
fn owner(links: &BTreeMap<LinkId, LinkState>, ring: &Ring, key: i64) -> Option<LinkId> {
    if links.len() <= 1 {
        return links.keys().next().copied();
    }
    let peer = ring.owner(key as u64)?;
    links.iter().find(|(_, state)| state.peer == peer).map(|(link, _)| *link)
}

fn link_origin(origin: Origin) -> LinkOrigin {
    LinkOrigin { app_id: origin.app_id, user_id: origin.user_id, device: origin.device as u32, session: origin.session }
}

fn origin_of(origin: &LinkOrigin) -> Option<Origin> {
    let device = billfish_state::DeviceKind::from_number(origin.device)?;
    Some(Origin { app_id: origin.app_id, user_id: origin.user_id, device, session: origin.session })
}

/// The session and the room, where a call says that one enters or leaves the other.
fn membership_of(up: &Up) -> Option<(u64, i64)> {
    let room_id = match up.call.as_ref()? {
        UpKind::Join(join) => join.room_id,
        UpKind::Leave(leave) => leave.room_id,
        UpKind::Biz(_) | UpKind::Sync(_) | UpKind::Redeliver(_) | UpKind::Order(_) => return None,
    };
    up.origin.as_ref().map(|origin| (origin.session, room_id))
}

fn bytes_of(kind: &UpKind) -> usize {
    match kind {
        UpKind::Biz(biz) => biz.data.len(),
        UpKind::Join(_) | UpKind::Leave(_) | UpKind::Sync(_) | UpKind::Redeliver(_) => 0,
        UpKind::Order(order) => order.text.len(),
    }
}

/// Calls under way; with the 32 that one session may have, 2,000 sessions that all wait.
const CALLS_MAX: usize = 65_536;
/// Bytes of their texts.
const CALL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Envelopes that wait for a link, beyond which calls for it are refused: as many again as its credit.
const OUTBOX_CALLS_MAX: usize = billfish_link::CREDIT_ENVELOPES;
/// Envelopes that wait for a link, beyond which its router counts as gone: interest and endings cannot be refused.
const OUTBOX_MAX: usize = 4 * OUTBOX_CALLS_MAX;
/// Endings kept while there is no router to tell them to.
const GONE_MAX: usize = 65_536;
/// A client hears 5001 after this: it asks again, and by then there may be a router.
const ANSWER_WAIT_MS: u64 = 10_000;
/// A JOIN or LEAVE is followed up for so long.
const MEMBERSHIP_WAIT_MS: u64 = 60_000;

#[cfg(test)]
mod tests;
