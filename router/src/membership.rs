//! Who is in a room, as its owner knows it: the interested gateways, and a seat for every (user, device) that joined through them.
//!
//! - Every session that joined sits until its own farewell or the end of its gateway's life; a user and device have left with the last of
//!   them. Which of two sessions is the newer is not asked here: a JOIN may come late, and its undoing later still, and neither may take
//!   out who has come in between.
//! - Who joined over an earlier link of his gateway is not vouched for: his farewell may have been lost with it.
//! - Beside those who join sit those whom a gateway names, as it does when the owner is new. Who is in the store's set and sits nowhere is
//!   found by the sweep over it, and who sits and is not in the set is written there.
//! - Pure: no store, no clock, no task.

use crate::link::Gateway;
use billfish_state::{DeviceKind, Member, Route, UserId};
use smallvec::SmallVec;
use std::{collections::HashMap, sync::Arc};

/// Sessions of one seat. A user has one per device, and for seconds another that it has replaced; beyond it the oldest gives way.
const SITTERS_MAX: usize = 4;

/// The table of one room.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    gateways: Vec<Slot>,
    seats: HashMap<(UserId, DeviceKind), Seat>,
}

/// One gateway, in one of its lives.
#[derive(Debug)]
struct Slot {
    gateway: Arc<Gateway>,
    interested: bool,
    sitters: usize,
    /// Links of it so far.
    links: u32,
    /// Since when its link is gone.
    lost_ms: Option<u64>,
    /// Something that may not be dropped did not reach it: its members have a hole in what they have seen, after this `seq`.
    hole: Option<i64>,
}

/// Sessions that missed what may not be dropped.
#[derive(Debug)]
pub(crate) struct Hole {
    pub(crate) gateway: Arc<Gateway>,
    /// The last `seq` before it.
    pub(crate) after_seq: i64,
    pub(crate) sessions: Vec<(UserId, DeviceKind, u64)>,
}

/// The last session of a user and device that sat here has left the table.
#[derive(Clone, Debug)]
pub(crate) struct Parted {
    pub(crate) member: Member,
    pub(crate) session: u64,
    pub(crate) gateway: Arc<Gateway>,
}

impl Parted {
    /// Whether a route leads to this very session.
    pub(crate) fn is_at(&self, route: &Route) -> bool {
        route.session == self.session && route.epoch == self.gateway.incarnation && *route.node == *self.gateway.node
    }
}

/// In the order they came.
type Seat = SmallVec<[Sitter; 1]>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sitter {
    slot: u32,
    /// Which link of the gateway brought it.
    link: u32,
    session: u64,
}

impl Sitter {
    const fn slot(self) -> usize {
        self.slot as usize
    }
}

impl Membership {
    /// The gateway wants the room's pushes, or no longer. Gives the members that an earlier life of it has left behind.
    pub(crate) fn interest(&mut self, gateway: &Arc<Gateway>, interested: bool) -> Vec<Parted> {
        let slot = self.slot(gateway);
        self.gateways[slot].interested = interested;
        let dead: Vec<usize> = (0..self.gateways.len())
            .filter(|&other| {
                let other = &self.gateways[other].gateway;
                other.node == gateway.node && other.incarnation < gateway.incarnation
            })
            .collect();
        self.vacate(&dead)
    }

    /// Whether everything that was sent since its interest is on this link of the gateway.
    pub(crate) fn is_interested(&self, gateway: &Arc<Gateway>) -> bool {
        self.gateways.iter().any(|slot| slot.interested && Arc::ptr_eq(&slot.gateway, gateway))
    }

    /// Whether a session of a gateway has a seat.
    pub(crate) fn is_seated(&self, gateway: &Gateway, user: UserId, device: DeviceKind) -> bool {
        self.seats.get(&(user, device)).is_some_and(|seat| seat.iter().any(|sitter| self.gateways[sitter.slot()].is_of(gateway)))
    }

    /// Whether this very session has a seat.
    pub(crate) fn sits(&self, gateway: &Gateway, user: UserId, device: DeviceKind, session: u64) -> bool {
        let is_it = |sitter: &Sitter| sitter.session == session && self.gateways[sitter.slot()].is_of(gateway);
        self.seats.get(&(user, device)).is_some_and(|seat| seat.iter().any(is_it))
    }

    /// Everyone who has a seat, in no order.
    pub(crate) fn members(&self) -> impl Iterator<Item = Member> {
        self.seats.keys().map(|&(user, device)| Member { user, device })
    }

    /// Users who have seats.
    pub(crate) fn users(&self) -> usize {
        let mut users: Vec<UserId> = self.seats.keys().map(|(user, _)| *user).collect();
        users.sort_unstable();
        users.dedup();
        users.len()
    }

    /// Seats a session, beside those of the same user and device that have not said farewell.
    pub(crate) fn take_seat(&mut self, gateway: &Arc<Gateway>, user: UserId, device: DeviceKind, session: u64) {
        let slot = self.slot(gateway);
        let seat = self.seats.entry((user, device)).or_default();
        seat.retain(|sitter| {
            let is_other = sitter.slot() != slot || sitter.session != session;
            self.gateways[sitter.slot()].sitters -= usize::from(!is_other);
            is_other
        });
        let link = self.gateways[slot].links;
        seat.push(Sitter { slot: u32::try_from(slot).expect("gateways are bounded"), link, session });
        self.gateways[slot].sitters += 1;
        if seat.len() > SITTERS_MAX
            && let Some(oldest) = (0..seat.len()).min_by_key(|&index| seat[index].session)
        {
            self.gateways[seat.remove(oldest).slot()].sitters -= 1;
        }
    }

    /// A session goes. `true` when its user and device have left by it: no other session of them sits here.
    pub(crate) fn leave_seat(&mut self, gateway: &Gateway, user: UserId, device: DeviceKind, session: u64) -> bool {
        let Some(seat) = self.seats.get_mut(&(user, device)) else { return true };
        let own = |sitter: &Sitter| sitter.session == session && self.gateways[sitter.slot()].is_of(gateway);
        if let Some(own) = seat.iter().position(own) {
            self.gateways[seat.remove(own).slot()].sitters -= 1;
        }
        let is_empty = seat.is_empty();
        if is_empty {
            self.seats.remove(&(user, device));
        }
        is_empty
    }

    /// A user goes, with every device.
    pub(crate) fn remove_user(&mut self, user: UserId) {
        for device in DeviceKind::ALL {
            for sitter in self.seats.remove(&(user, device)).unwrap_or_default() {
                self.gateways[sitter.slot()].sitters -= 1;
            }
        }
    }

    /// Whether this device of the user has a seat.
    pub(crate) fn has_seat(&self, user: UserId, device: DeviceKind) -> bool {
        self.seats.contains_key(&(user, device))
    }

    /// Whether a device of the user has a seat.
    pub(crate) fn contains(&self, user: UserId) -> bool {
        DeviceKind::ALL.into_iter().any(|device| self.seats.contains_key(&(user, device)))
    }

    /// Whether his gateway would have said by now that he is gone: a session of his joined over the link that it has, or had last.
    pub(crate) fn vouches_for(&self, user: UserId) -> bool {
        let seats = DeviceKind::ALL.into_iter().filter_map(|device| self.seats.get(&(user, device)));
        seats.flatten().any(|sitter| self.gateways[sitter.slot()].links == sitter.link)
    }

    /// Seats taken.
    pub(crate) fn seats(&self) -> usize {
        self.seats.len()
    }

    /// The gateways that want the room's pushes and are linked.
    pub(crate) fn interested(&self) -> impl Iterator<Item = &Arc<Gateway>> {
        self.gateways.iter().filter(|slot| slot.interested && !slot.gateway.is_down()).map(|slot| &slot.gateway)
    }

    /// Something that may not be dropped did not reach a gateway, which has been sent everything up to here.
    pub(crate) fn mark_hole(&mut self, gateway: &Arc<Gateway>, after_seq: i64) {
        let slot = self.slot(gateway);
        let hole = &mut self.gateways[slot].hole;
        *hole = Some(hole.map_or(after_seq, |earlier| earlier.min(after_seq)));
    }

    /// Whether a gateway is yet to hear, by its sessions' being sent away, that something did not reach it. What is newer would let its
    /// viewers pass the hole, and their resume would ask for nothing before it.
    pub(crate) fn has_hole(&self, gateway: &Gateway) -> bool {
        self.hole(gateway).is_some()
    }

    /// The last `seq` before the hole of a gateway that has one.
    pub(crate) fn hole(&self, gateway: &Gateway) -> Option<i64> {
        self.gateways.iter().find(|slot| slot.is_of(gateway)).and_then(|slot| slot.hole)
    }

    /// A gateway was sent, over a new link, everything since the last it has seen.
    pub(crate) fn fill_hole(&mut self, gateway: &Gateway) {
        self.gateways.iter_mut().filter(|slot| slot.is_of(gateway)).for_each(|slot| slot.hole = None);
    }

    /// The sessions behind each hole whose gateway takes messages again: they are to come back and resume. The holes are forgotten.
    pub(crate) fn take_holes(&mut self) -> Vec<Hole> {
        if self.gateways.iter().all(|slot| slot.hole.is_none()) {
            return Vec::new();
        }
        let mut holes = Vec::new();
        for (index, slot) in self.gateways.iter_mut().enumerate() {
            let Some(after_seq) = slot.hole.take_if(|_| slot.gateway.takes_again()) else { continue };
            let sitters = self.seats.iter().flat_map(|(&(user, device), seat)| seat.iter().map(move |sitter| (user, device, sitter)));
            let here = sitters.filter(|(.., sitter)| sitter.slot() == index);
            let mut sessions: Vec<_> = here.map(|(user, device, sitter)| (user, device, sitter.session)).collect();
            sessions.sort();
            holes.push(Hole { gateway: Arc::clone(&slot.gateway), after_seq, sessions });
        }
        holes
    }

    /// Nobody is here and nobody listens.
    pub(crate) fn is_idle(&self) -> bool {
        self.seats.is_empty() && self.interested().next().is_none()
    }

    /// Takes out the seats of gateways that have been gone for `silence_ms`, and gives their members. The gateway may live all the same, and
    /// they with it: what is gone is its link.
    pub(crate) fn on_tick(&mut self, now_ms: u64, silence_ms: u64) -> Vec<Parted> {
        let mut dead = Vec::new();
        for (index, slot) in self.gateways.iter_mut().enumerate() {
            if !slot.gateway.is_down() {
                slot.lost_ms = None;
            } else if now_ms.saturating_sub(*slot.lost_ms.get_or_insert(slot.gateway.down_since_ms().unwrap_or(now_ms))) >= silence_ms {
                dead.push(index);
            }
        }
        let gone = self.vacate(&dead);
        // A slot is an index in every seat of it: only those behind the last one in use may go.
        while self.gateways.last().is_some_and(Slot::is_free) {
            self.gateways.pop();
        }
        gone
    }

    fn vacate(&mut self, dead: &[usize]) -> Vec<Parted> {
        if dead.iter().all(|&slot| self.gateways[slot].sitters == 0) {
            return Vec::new();
        }
        let mut gone = Vec::new();
        self.seats.retain(|&(user, device), seat| {
            let newest = seat.iter().max_by_key(|sitter| sitter.session).copied();
            seat.retain(|sitter| !dead.contains(&sitter.slot()));
            if let (true, Some(Sitter { slot, session, .. })) = (seat.is_empty(), newest) {
                let gateway = Arc::clone(&self.gateways[slot as usize].gateway);
                gone.push(Parted { member: Member { user, device }, session, gateway });
            }
            !seat.is_empty()
        });
        for &slot in dead {
            self.gateways[slot].sitters = 0;
        }
        gone.sort_by(|a: &Parted, b| a.member.cmp(&b.member));
        gone
    }

    /// The slot of a gateway in this life: its own, with a newer link put into it; else a free one; else a new one.
    fn slot(&mut self, gateway: &Arc<Gateway>) -> usize {
        if let Some(index) = self.gateways.iter().position(|slot| slot.is_of(gateway)) {
            let slot = &mut self.gateways[index];
            if !Arc::ptr_eq(&slot.gateway, gateway) && !gateway.is_down() {
                slot.gateway = Arc::clone(gateway);
                slot.links += 1;
                slot.lost_ms = None;
                // What was said in between is not on this link.
                slot.interested = false;
            }
            return index;
        }
        let fresh = Slot { gateway: Arc::clone(gateway), interested: false, sitters: 0, links: 0, lost_ms: None, hole: None };
        match self.gateways.iter().position(Slot::is_free) {
            Some(index) => {
                self.gateways[index] = fresh;
                index
            }
            None => {
                self.gateways.push(fresh);
                self.gateways.len() - 1
            }
        }
    }
}

impl Slot {
    fn is_of(&self, gateway: &Gateway) -> bool {
        self.gateway.node == gateway.node && self.gateway.incarnation == gateway.incarnation
    }

    fn is_free(&self) -> bool {
        self.sitters == 0 && self.gateway.is_down()
    }
}

#[cfg(test)]
mod tests {
    use super::{Membership, Parted, SITTERS_MAX};
    use crate::{
        link::{Gateway, Links},
        metrics::Metrics,
    };
    use billfish_state::{Clock, DeviceKind, Member, UserId};
    use prometheus_client::registry::Registry;
    use proptest::prelude::*;
    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::Arc,
        time::Duration,
    };
    use tokio::sync::mpsc;

    const SILENCE_MS: u64 = 60_000;
    const ALICE: UserId = UserId(20_001);
    const WEB: DeviceKind = DeviceKind::Web;

    /// A gateway whose link is down as soon as the receiver is dropped.
    fn gateway(node: &str, incarnation: u64) -> (Arc<Gateway>, mpsc::Receiver<billfish_link::message::envelope::Kind>) {
        let links = Links::new(Duration::ZERO, Clock::start(), Metrics::register(&mut Registry::default()));
        let (sender, receiver) = mpsc::channel(1);
        (links.enter(node, incarnation, sender).unwrap(), receiver)
    }

    fn members(parted: Vec<Parted>) -> Vec<Member> {
        parted.into_iter().map(|parted| parted.member).collect()
    }

    #[tokio::test]
    async fn a_newer_link_listens_when_it_says_so() {
        let links = Links::new(Duration::ZERO, Clock::start(), Metrics::register(&mut Registry::default()));
        let (sender, _keep) = mpsc::channel(1);
        let [older, newer] = [0, 0].map(|_| links.enter("g1", 1, sender.clone()).unwrap());
        let mut room = Membership::default();
        room.interest(&older, true);
        room.take_seat(&newer, ALICE, WEB, 1);
        assert_eq!(room.interested().count(), 0, "what was said since the older ended is not on this link");
        room.interest(&newer, true);
        assert!(room.is_interested(&newer));
    }

    #[tokio::test]
    async fn the_farewell_of_a_session_that_was_replaced_changes_nothing() {
        let mut room = Membership::default();
        let ((old, _a), (new, _b)) = (gateway("g1", 1), gateway("g2", 1));
        room.take_seat(&old, ALICE, WEB, 1);
        room.take_seat(&new, ALICE, WEB, 7);
        assert!(!room.leave_seat(&old, ALICE, WEB, 1));
        assert!(room.contains(ALICE));
        assert!(room.leave_seat(&new, ALICE, WEB, 7));
        assert!(!room.contains(ALICE));
    }

    #[tokio::test]
    async fn a_join_that_comes_late_and_its_undoing_leave_the_newer_session_where_it_is() {
        let ((old, _a), (new, _b)) = (gateway("g1", 1), gateway("g2", 1));
        for newer_goes_first in [false, true] {
            let mut room = Membership::default();
            room.take_seat(&new, ALICE, WEB, 7);
            room.take_seat(&old, ALICE, WEB, 1);
            let (first, last) = if newer_goes_first { ((&new, 7), (&old, 1)) } else { ((&old, 1), (&new, 7)) };
            assert!(!room.leave_seat(first.0, ALICE, WEB, first.1));
            assert!(room.contains(ALICE));
            assert!(room.leave_seat(last.0, ALICE, WEB, last.1));
        }
    }

    #[tokio::test]
    async fn members_of_a_gateway_that_died_are_gone_after_two_heartbeat_gaps_and_not_before() {
        let mut room = Membership::default();
        let (dead, receiver) = gateway("g1", 1);
        let (alive, _keep) = gateway("g2", 1);
        room.take_seat(&dead, ALICE, WEB, 1);
        room.take_seat(&alive, UserId(20_002), WEB, 2);
        room.take_seat(&dead, UserId(20_003), WEB, 3);
        room.take_seat(&alive, UserId(20_003), WEB, 4);
        assert_eq!(members(room.on_tick(1_000, SILENCE_MS)), []);
        drop(receiver);
        assert_eq!(members(room.on_tick(2_000, SILENCE_MS)), []);
        assert_eq!(members(room.on_tick(2_000 + SILENCE_MS - 1, SILENCE_MS)), []);
        let parted = room.on_tick(2_000 + SILENCE_MS, SILENCE_MS);
        assert_eq!((parted[0].session, &*parted[0].gateway.node), (1, "g1"));
        assert_eq!(members(parted), [Member { user: ALICE, device: WEB }], "the third has come back elsewhere");
        assert!(!room.contains(ALICE) && room.contains(UserId(20_002)) && room.contains(UserId(20_003)));
    }

    #[tokio::test]
    async fn a_gateway_that_comes_back_keeps_its_members_and_one_that_was_restarted_does_not() {
        let mut room = Membership::default();
        let (first, receiver) = gateway("g1", 1);
        room.interest(&first, true);
        room.take_seat(&first, ALICE, WEB, 1);
        drop(receiver);
        assert_eq!(members(room.on_tick(0, SILENCE_MS)), []);
        assert!(room.vouches_for(ALICE), "its link may come back");
        let (again, _keep) = gateway("g1", 1);
        assert_eq!(members(room.interest(&again, true)), []);
        assert_eq!(members(room.on_tick(SILENCE_MS * 2, SILENCE_MS)), []);
        assert!(room.contains(ALICE));
        assert!(!room.vouches_for(ALICE), "her farewell may have been on the link that broke");
        room.take_seat(&again, ALICE, WEB, 1);
        assert!(room.vouches_for(ALICE));
        let (restarted, _keep) = gateway("g1", 2);
        assert_eq!(members(room.interest(&restarted, true)), [Member { user: ALICE, device: WEB }]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Seat { gateway: usize, user: i64, device: usize, session: u64 },
        Leave { gateway: usize, user: i64, device: usize, session: u64 },
        Remove { user: i64 },
        Interest { gateway: usize, interested: bool },
        Tick,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let who = (0..4usize, 20_001..20_006i64, 0..2usize, 0..3u64);
        prop_oneof![
            who.clone().prop_map(|(gateway, user, device, session)| Step::Seat { gateway, user, device, session }),
            who.prop_map(|(gateway, user, device, session)| Step::Leave { gateway, user, device, session }),
            (20_001..20_006i64).prop_map(|user| Step::Remove { user }),
            (0..4usize, any::<bool>()).prop_map(|(gateway, interested)| Step::Interest { gateway, interested }),
            Just(Step::Tick),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order, the table agrees with a plain map of who sits where.
        #[test]
        fn seats_agree_with_a_plain_map(steps in prop::collection::vec(any_step(), 0..120)) {
            let gateways: Vec<_> = (0..4).map(|index| gateway(&format!("g{index}"), 1)).collect();
            let mut room = Membership::default();
            let mut model: BTreeMap<(UserId, DeviceKind), Vec<(usize, u64)>> = BTreeMap::new();
            let mut wanted: BTreeSet<usize> = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Seat { gateway, user, device, session } => {
                        let key = (UserId(user), DeviceKind::ALL[device]);
                        room.take_seat(&gateways[gateway].0, key.0, key.1, session);
                        let sitters = model.entry(key).or_default();
                        sitters.retain(|sitter| *sitter != (gateway, session));
                        sitters.push((gateway, session));
                        if sitters.len() > SITTERS_MAX {
                            let oldest = sitters.iter().map(|sitter| sitter.1).min().unwrap();
                            sitters.remove(sitters.iter().position(|sitter| sitter.1 == oldest).unwrap());
                        }
                    }
                    Step::Leave { gateway, user, device, session } => {
                        let key = (UserId(user), DeviceKind::ALL[device]);
                        let left = room.leave_seat(&gateways[gateway].0, key.0, key.1, session);
                        let sitters = model.entry(key).or_default();
                        sitters.retain(|sitter| *sitter != (gateway, session));
                        prop_assert_eq!(left, sitters.is_empty());
                        if left {
                            model.remove(&key);
                        }
                    }
                    Step::Remove { user } => {
                        room.remove_user(UserId(user));
                        model.retain(|key, _| key.0 != UserId(user));
                    }
                    Step::Interest { gateway, interested } => {
                        prop_assert!(room.interest(&gateways[gateway].0, interested).is_empty());
                        if interested { wanted.insert(gateway); } else { wanted.remove(&gateway); }
                    }
                    Step::Tick => prop_assert!(room.on_tick(SILENCE_MS * 9, SILENCE_MS).is_empty()),
                }
                prop_assert_eq!(room.seats(), model.len());
                prop_assert_eq!(room.gateways.iter().map(|slot| slot.sitters).sum::<usize>(), model.values().map(Vec::len).sum::<usize>());
                let names: BTreeSet<_> = room.interested().map(|gateway| gateway.node.to_string()).collect();
                prop_assert_eq!(names, wanted.iter().map(|index| format!("g{index}")).collect::<BTreeSet<_>>());
                for user in 20_001..20_006 {
                    let is_here = model.keys().any(|key| key.0 == UserId(user));
                    prop_assert_eq!((room.contains(UserId(user)), room.vouches_for(UserId(user))), (is_here, is_here));
                }
            }
        }
    }
}
