//! Who is in a room, as its owner knows it: the interested gateways, and a seat for every session that joined through them.
//!
//! - A (user, device) has one seat; a newer session takes it over, and the older one's farewell then changes nothing.
//! - The member set of the state store is what counts; this table says which of its members a dead gateway leaves behind. After a new
//!   owner began it is empty until people join; who was there before is found by the sweep over the store.
//! - Pure: no store, no clock, no task.

use crate::link::Gateway;
use billfish_state::{DeviceKind, Member, UserId};
use std::{collections::HashMap, sync::Arc};

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
    seats: usize,
    /// Since when its link is gone.
    lost_ms: Option<u64>,
    /// Something that may not be dropped did not reach it: its members have a hole in what they have seen.
    has_hole: bool,
}

/// Sessions that missed what may not be dropped.
#[derive(Debug)]
pub(crate) struct Hole {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) sessions: Vec<(UserId, DeviceKind, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seat {
    slot: usize,
    session: u64,
}

impl Membership {
    /// The gateway wants the room's pushes, or no longer. Gives the members that an earlier life of it has left behind.
    pub(crate) fn interest(&mut self, gateway: &Arc<Gateway>, interested: bool) -> Vec<Member> {
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
        self.seats.get(&(user, device)).is_some_and(|seat| {
            let holder = &self.gateways[seat.slot].gateway;
            holder.node == gateway.node && holder.incarnation == gateway.incarnation
        })
    }

    /// Seats a session; one of the same user and device before it loses its seat.
    pub(crate) fn take_seat(&mut self, gateway: &Arc<Gateway>, user: UserId, device: DeviceKind, session: u64) {
        let slot = self.slot(gateway);
        self.gateways[slot].seats += 1;
        if let Some(before) = self.seats.insert((user, device), Seat { slot, session }) {
            self.gateways[before.slot].seats -= 1;
        }
    }

    /// A session goes. `true` when its user and device have left by it: the seat was its own, or nobody's.
    pub(crate) fn leave_seat(&mut self, gateway: &Gateway, user: UserId, device: DeviceKind, session: u64) -> bool {
        let Some(&seat) = self.seats.get(&(user, device)) else { return true };
        let holder = &self.gateways[seat.slot].gateway;
        if seat.session != session || holder.node != gateway.node || holder.incarnation != gateway.incarnation {
            return false;
        }
        self.seats.remove(&(user, device));
        self.gateways[seat.slot].seats -= 1;
        true
    }

    /// A user goes, with every device.
    pub(crate) fn remove_user(&mut self, user: UserId) {
        for device in DeviceKind::ALL {
            if let Some(seat) = self.seats.remove(&(user, device)) {
                self.gateways[seat.slot].seats -= 1;
            }
        }
    }

    /// Whether a device of the user has a seat.
    pub(crate) fn contains(&self, user: UserId) -> bool {
        DeviceKind::ALL.into_iter().any(|device| self.seats.contains_key(&(user, device)))
    }

    /// Seats taken.
    pub(crate) fn seats(&self) -> usize {
        self.seats.len()
    }

    /// The gateways that want the room's pushes and are linked.
    pub(crate) fn interested(&self) -> impl Iterator<Item = &Arc<Gateway>> {
        self.gateways.iter().filter(|slot| slot.interested && !slot.gateway.is_down()).map(|slot| &slot.gateway)
    }

    /// Something that may not be dropped did not reach a gateway.
    pub(crate) fn mark_hole(&mut self, gateway: &Arc<Gateway>) {
        let slot = self.slot(gateway);
        self.gateways[slot].has_hole = true;
    }

    /// The sessions behind each hole whose gateway takes messages again: they are to come back and resume. The holes are forgotten.
    pub(crate) fn take_holes(&mut self) -> Vec<Hole> {
        if !self.gateways.iter().any(|slot| slot.has_hole) {
            return Vec::new();
        }
        let mut holes = Vec::new();
        for (index, slot) in self.gateways.iter_mut().enumerate().filter(|(_, slot)| slot.has_hole && slot.gateway.takes_again()) {
            slot.has_hole = false;
            let seats = self.seats.iter().filter(|(_, seat)| seat.slot == index);
            let mut sessions: Vec<_> = seats.map(|(&(user, device), seat)| (user, device, seat.session)).collect();
            sessions.sort();
            holes.push(Hole { gateway: Arc::clone(&slot.gateway), sessions });
        }
        holes
    }

    /// Nobody is here and nobody listens.
    pub(crate) fn is_idle(&self) -> bool {
        self.seats.is_empty() && self.interested().next().is_none()
    }

    /// Takes out the seats of gateways that have been gone for `silence_ms`, and gives their members.
    pub(crate) fn on_tick(&mut self, now_ms: u64, silence_ms: u64) -> Vec<Member> {
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
        while self.gateways.last().is_some_and(|slot| slot.seats == 0 && slot.gateway.is_down()) {
            self.gateways.pop();
        }
        gone
    }

    fn vacate(&mut self, dead: &[usize]) -> Vec<Member> {
        if dead.iter().all(|&slot| self.gateways[slot].seats == 0) {
            return Vec::new();
        }
        let mut gone = Vec::new();
        self.seats.retain(|&(user, device), seat| {
            let stays = !dead.contains(&seat.slot);
            if !stays {
                gone.push(Member { user, device });
            }
            stays
        });
        for &slot in dead {
            self.gateways[slot].seats = 0;
        }
        gone.sort();
        gone
    }

    /// The slot of a gateway in this life: its own, with a newer link put into it; else a free one; else a new one.
    fn slot(&mut self, gateway: &Arc<Gateway>) -> usize {
        let own = |slot: &Slot| slot.gateway.node == gateway.node && slot.gateway.incarnation == gateway.incarnation;
        if let Some(index) = self.gateways.iter().position(own) {
            let slot = &mut self.gateways[index];
            if !Arc::ptr_eq(&slot.gateway, gateway) && !gateway.is_down() {
                slot.gateway = Arc::clone(gateway);
                slot.lost_ms = None;
            }
            return index;
        }
        let fresh = Slot { gateway: Arc::clone(gateway), interested: false, seats: 0, lost_ms: None, has_hole: false };
        match self.gateways.iter().position(|slot| slot.seats == 0 && slot.gateway.is_down()) {
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

#[cfg(test)]
mod tests {
    use super::Membership;
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
    async fn members_of_a_gateway_that_died_are_gone_after_two_heartbeat_gaps_and_not_before() {
        let mut room = Membership::default();
        let (dead, receiver) = gateway("g1", 1);
        let (alive, _keep) = gateway("g2", 1);
        room.take_seat(&dead, ALICE, WEB, 1);
        room.take_seat(&alive, UserId(20_002), WEB, 2);
        assert_eq!(room.on_tick(1_000, SILENCE_MS), []);
        drop(receiver);
        assert_eq!(room.on_tick(2_000, SILENCE_MS), []);
        assert_eq!(room.on_tick(2_000 + SILENCE_MS - 1, SILENCE_MS), []);
        assert_eq!(room.on_tick(2_000 + SILENCE_MS, SILENCE_MS), [Member { user: ALICE, device: WEB }]);
        assert!(!room.contains(ALICE) && room.contains(UserId(20_002)));
    }

    #[tokio::test]
    async fn a_gateway_that_comes_back_keeps_its_members_and_one_that_was_restarted_does_not() {
        let mut room = Membership::default();
        let (first, receiver) = gateway("g1", 1);
        room.interest(&first, true);
        room.take_seat(&first, ALICE, WEB, 1);
        drop(receiver);
        assert_eq!(room.on_tick(0, SILENCE_MS), []);
        let (again, _keep) = gateway("g1", 1);
        assert_eq!(room.interest(&again, true), []);
        assert_eq!(room.on_tick(SILENCE_MS * 2, SILENCE_MS), []);
        assert!(room.contains(ALICE));
        let (restarted, _keep) = gateway("g1", 2);
        assert_eq!(room.interest(&restarted, true), [Member { user: ALICE, device: WEB }]);
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
        let who = (0..4usize, 20_001..20_006i64, 0..5usize, 0..3u64);
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
            let mut model: BTreeMap<(UserId, DeviceKind), (usize, u64)> = BTreeMap::new();
            let mut wanted: BTreeSet<usize> = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Seat { gateway, user, device, session } => {
                        let key = (UserId(user), DeviceKind::ALL[device]);
                        room.take_seat(&gateways[gateway].0, key.0, key.1, session);
                        model.insert(key, (gateway, session));
                    }
                    Step::Leave { gateway, user, device, session } => {
                        let key = (UserId(user), DeviceKind::ALL[device]);
                        let left = room.leave_seat(&gateways[gateway].0, key.0, key.1, session);
                        let held = model.get(&key).copied();
                        prop_assert_eq!(left, held.is_none_or(|held| held == (gateway, session)));
                        if left {
                            model.remove(&key);
                        }
                    }
                    Step::Remove { user } => {
                        room.remove_user(UserId(user));
                        model.retain(|key, _| key.0 != UserId(user));
                    }
                    Step::Interest { gateway, interested } => {
                        prop_assert_eq!(room.interest(&gateways[gateway].0, interested), vec![]);
                        if interested { wanted.insert(gateway); } else { wanted.remove(&gateway); }
                    }
                    Step::Tick => prop_assert_eq!(room.on_tick(SILENCE_MS * 9, SILENCE_MS), vec![]),
                }
                prop_assert_eq!(room.seats(), model.len());
                prop_assert_eq!(room.gateways.iter().map(|slot| slot.seats).sum::<usize>(), model.len());
                let names: BTreeSet<_> = room.interested().map(|gateway| gateway.node.to_string()).collect();
                prop_assert_eq!(names, wanted.iter().map(|index| format!("g{index}")).collect::<BTreeSet<_>>());
                for user in 20_001..20_006 {
                    prop_assert_eq!(room.contains(UserId(user)), model.keys().any(|key| key.0 == UserId(user)));
                }
            }
        }
    }
}
