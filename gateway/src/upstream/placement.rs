//! Which router is whose: links, the ring over them, and the way of everything that goes out.
//!
//! - Rooms, and users where there is no room, belong to the routers that the registry shows as alive and not draining, as far as they
//!   are linked. Without any such router, or as long as the registry was never read, to whoever is linked.
//! - A registry that cannot be read changes nothing: the last that was seen counts, and a router that dies loses its link.
//! - Calls that wait for a router which is dropped from the registry, or drains, do not wait for the end of its link: they go to the next
//!   owners at once. It may still carry them out, so that goes for calls alone whose repeats routers recognise.

use super::{LinkId, RouterSeen, Table, calls::Call, link_origin};
use crate::{metrics::Forgotten, shard::message::Origin};
use billfish_link::message::{Gone, Users, envelope::Kind};
use billfish_ring::Ring;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};
use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) peer: String,
    pub(super) outbox: VecDeque<Kind>,
    filled: Arc<Notify>,
}

impl Table {
    pub(super) fn link_up(&mut self, peer: &str) -> (LinkId, Arc<Notify>) {
        self.last_link += 1;
        let link = LinkId(self.last_link);
        if let Some(older) = self.link_to(peer) {
            self.forget_link(older);
        }
        self.returns += u64::from(self.links.is_empty());
        let filled = Arc::new(Notify::new());
        self.links.insert(link, LinkState { peer: peer.to_owned(), outbox: VecDeque::new(), filled: Arc::clone(&filled) });
        self.settle();
        (link, filled)
    }

    pub(super) fn link_down(&mut self, link: LinkId) -> bool {
        let known = self.links.contains_key(&link);
        if known {
            self.forget_link(link);
            self.settle();
        }
        known
    }

    pub(super) fn take_outbox(&mut self, link: LinkId, out: &mut VecDeque<Kind>) -> bool {
        match self.links.get_mut(&link) {
            Some(state) => {
                out.append(&mut state.outbox);
                true
            }
            None => false,
        }
    }

    pub(super) fn place(&mut self, routers: Vec<RouterSeen>) {
        if self.routers.as_ref() != Some(&routers) {
            self.routers = Some(routers);
            self.settle();
        }
    }

    pub(super) fn link_to(&self, peer: &str) -> Option<LinkId> {
        self.links.iter().find(|(_, state)| state.peer == peer).map(|(link, _)| *link)
    }

    fn forget_link(&mut self, link: LinkId) {
        let Some(state) = self.links.remove(&link) else { return };
        // Its driver finds that it is not wanted any more.
        state.filled.notify_one();
        self.counters.links_lost.add(1);
        for call in self.calls.values_mut().filter(|call| call.link == Some(link)) {
            call.take_back();
        }
        for room in self.rooms.values_mut() {
            room.forget_link(link);
        }
        // What was not sent yet: calls are in the table, interest is told anew; the others stand nowhere else.
        for kind in state.outbox {
            self.keep_word(kind);
        }
    }

    /// After the links or the routers changed: every room has its owner, every owner knows of its rooms, and what waits is sent.
    fn settle(&mut self) {
        self.ring = self.ring_now();
        self.counters.links_up.set(self.links.len() as u64);
        // Who was named as an owner was named among those who were there then.
        for turn in self.turns.values_mut() {
            turn.forget_owner();
        }
        let mut rooms: Vec<i64> = self.rooms.keys().copied().collect();
        rooms.sort_unstable();
        for room_id in rooms {
            self.tell_owner(room_id);
        }
        if self.links.is_empty() {
            return;
        }
        self.take_back();
        let waiting: Vec<u64> = self.calls.iter().filter(|(_, call)| call.link.is_none()).map(|(id, _)| *id).collect();
        for id in waiting {
            self.send(id);
        }
        self.tell_kept();
    }

    /// Takes calls from the links of routers that take no rooms any more, where others do.
    fn take_back(&mut self) {
        let takes_none = |state: &LinkState| !self.takes_rooms(&state.peer);
        let left: Vec<LinkId> = self.links.iter().filter(|(_, state)| takes_none(state)).map(|(link, _)| *link).collect();
        if left.is_empty() {
            return;
        }
        let moves = |call: &Call| {
            let is_stranded = call.link.is_some_and(|link| left.contains(&link));
            is_stranded && call.is_recognised() && self.owner(call.place()).is_some_and(|owner| !left.contains(&owner))
        };
        let moved: Vec<u64> = self.calls.iter().filter(|(_, call)| moves(call)).map(|(id, _)| *id).collect();
        for id in moved {
            if let Some(call) = self.calls.get_mut(&id) {
                call.take_back();
            }
        }
    }

    /// Whether the registry shows a router as alive and not draining.
    fn takes_rooms(&self, peer: &str) -> bool {
        self.routers.iter().flatten().any(|router| router.node == peer && !router.draining)
    }

    /// Whether the registry knows routers, and not this one: it is not worth waiting for.
    pub(super) fn is_dropped(&self, peer: &str) -> bool {
        self.routers.as_ref().is_some_and(|routers| !routers.is_empty() && routers.iter().all(|router| router.node != peer))
    }

    fn ring_now(&self) -> Ring {
        let linked = || self.links.values().map(|state| state.peer.as_str());
        let mut nodes: Vec<(&str, u32)> = linked().filter(|peer| self.takes_rooms(peer)).map(|peer| (peer, 1)).collect();
        if nodes.is_empty() {
            nodes = linked().map(|peer| (peer, 1)).collect();
        }
        Ring::new(&nodes)
    }

    /// The link to the owner of a room, or of a user: the one that was named, else the ring's.
    pub(super) fn owner(&self, place: i64) -> Option<LinkId> {
        let named = self.turns.get(&place).and_then(|turn| turn.owner).filter(|link| self.links.contains_key(link));
        named.or_else(|| self.owner_by_ring(place))
    }

    pub(super) fn owner_by_ring(&self, place: i64) -> Option<LinkId> {
        self.link_to(self.ring.owner(place as u64)?)
    }

    /// Puts a message into a link's outbox.
    pub(super) fn post(&mut self, link: LinkId, kind: Kind) {
        let Some(state) = self.links.get_mut(&link) else { return self.keep_word(kind) };
        if state.outbox.len() >= OUTBOX_MAX {
            tracing::warn!(router = %state.peer, waiting = state.outbox.len(), "the router takes nothing; its link is given up");
            self.keep_word(kind);
            self.link_down(link);
            return;
        }
        state.outbox.push_back(kind);
        if state.outbox.len() == 1 {
            state.filled.notify_one();
        }
    }

    pub(super) fn tell_gone(&mut self, origin: Origin, rooms: &[i64], logged_out: bool) {
        if !rooms.is_empty() {
            self.word(Kind::Gone(Gone { origin: Some(link_origin(origin)), room_ids: rooms.to_vec(), logged_out }));
        }
    }

    /// To the router that each is placed with, so that what is said of one comes in its order. Nothing rests on it: where no link takes it, it is
    /// forgotten and counted.
    pub(super) fn tell_users(&mut self, users: impl IntoIterator<Item = (i32, i64)>, online: bool) {
        let mut by_link: BTreeMap<(LinkId, i32), Vec<i64>> = BTreeMap::new();
        for (app_id, user_id) in users {
            let takes = |link: &LinkId| self.links.get(link).is_some_and(|state| state.outbox.len() < OUTBOX_CALLS_MAX);
            match self.owner_by_ring(user_id).filter(takes) {
                Some(link) => by_link.entry((link, app_id)).or_default().push(user_id),
                None => self.counters.forget(Forgotten::UserWords),
            }
        }
        for ((link, app_id), user_ids) in by_link {
            self.post(link, Kind::Users(Users { app_id, user_ids, online }));
        }
    }

    /// Sends a message that no answer proves: an ending to each owner of its rooms, a kick for another gateway to every router.
    pub(super) fn word(&mut self, kind: Kind) {
        if let Kind::Gone(gone) = kind {
            return self.route_gone(gone);
        }
        if self.links.is_empty() {
            return self.keep_word(kind);
        }
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.post(link, kind.clone());
        }
    }

    /// To the owner, and to whoever else was told of our interest: while routers change, one of them owns the room and was named our members,
    /// and who is named a member and not its ending takes it for one for good.
    fn route_gone(&mut self, gone: Gone) {
        let mut by_link: BTreeMap<LinkId, Vec<i64>> = BTreeMap::new();
        for room_id in &gone.room_ids {
            let Some(owner) = self.owner(*room_id) else { return self.keep_word(Kind::Gone(gone)) };
            let links: BTreeSet<LinkId> = std::iter::once(owner).chain(self.told_links(*room_id)).collect();
            for link in links {
                by_link.entry(link).or_default().push(*room_id);
            }
        }
        for (link, room_ids) in by_link {
            self.post(link, Kind::Gone(Gone { origin: gone.origin, room_ids, logged_out: gone.logged_out }));
        }
    }

    /// Keeps what stands nowhere else until a link is up. What the link of a router that died had taken is lost: its next owner counts the
    /// members anew, and a route that two sessions claim is found by the next check.
    pub(super) fn keep_word(&mut self, kind: Kind) {
        if !matches!(kind, Kind::Gone(_) | Kind::Relay(_)) {
            return;
        }
        // The oldest are forgotten: a router that is away for so long counts its members anew.
        if self.words.len() >= WORDS_MAX {
            self.words.pop_front();
            self.counters.forget(Forgotten::Words);
        }
        self.words.push_back(kind);
    }

    /// Words that waited; those that still find no router go on waiting.
    pub(super) fn tell_kept(&mut self) {
        for kind in std::mem::take(&mut self.words) {
            self.word(kind);
        }
    }
}

/// Envelopes that wait for a link, beyond which calls for it are refused: as many again as its credit.
pub(super) const OUTBOX_CALLS_MAX: usize = billfish_link::CREDIT_ENVELOPES;
/// Envelopes that wait for a link, beyond which its router counts as gone: interest and endings cannot be refused.
const OUTBOX_MAX: usize = 4 * OUTBOX_CALLS_MAX;
/// Endings and kicks kept while there is no router to tell them to.
pub(super) const WORDS_MAX: usize = 65_536;
