//! Who is in the room, as the gateways know it: each that has seen something of the room is asked by a life that begins, when it links anew,
//! and when the store may have forgotten; and those it names have seats.
//!
//! - A gateway names its members of one moment, and whatever a session says or does later comes behind on the same link: who has left is not
//!   brought back by a list that is late. Where somebody is sent out of the room meanwhile, the list is asked for anew: the question goes
//!   behind the eviction.
//! - What the room is asked over a link waits, in order and for moments, until that gateway's first list is there: its members would be
//!   taken for strangers, or a store would be asked that is away. A gateway of an earlier release names nobody, and its members are those
//!   of the store.
//! - The store's member set follows: who was named is written there, and where it lost its list, all who have seats. In steps, and spread
//!   over time where all rooms have to.
//! - Who is banned is not seated, and his gateway hears of it: the word of an earlier owner may have been lost.

use super::{End, Out, Room, RoomCall};
use crate::{dispatch, link::Gateway, ownership::Hold};
use billfish_link::message::{Evict, RollCall, Seats, envelope::Kind};
use billfish_state::{DeviceKind, Member, UserId};
use billfish_wire::Class;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

/// How long calls of a gateway wait for its first list. A gateway answers within a turn of its shards; one that takes longer hangs, or does
/// not know the question.
const LIST_WAIT_MS: u64 = 500;
/// Calls that wait for lists; beyond it they wait no longer.
const HELD_MAX: usize = 1_024;
/// Before those who were named are written: lists that come together are written together.
const GATHER_MS: u64 = 250;
/// Members written in one step.
const WRITE_MEMBERS: usize = 500;
/// Between two steps.
const WRITE_STEP_MS: u64 = 100;
/// After a write that the store did not answer, or that this owner may not make now.
const WRITE_AGAIN_MS: u64 = 1_000;

/// What is known of the lists of one life.
#[derive(Default)]
pub(super) struct Rolls {
    last_number: u32,
    asked: Vec<Asked>,
    held: VecDeque<RoomCall>,
    /// Who has a seat and is perhaps not in the store's set. Bounded by the seats.
    unwritten: BTreeSet<Member>,
}

/// A gateway that was asked over one of its links.
struct Asked {
    gateway: Arc<Gateway>,
    number: u32,
    parts: u32,
    is_done: bool,
    /// What it calls waits until then.
    holds_until_ms: Option<u64>,
}

impl Rolls {
    fn is_asked(&self, gateway: &Arc<Gateway>) -> bool {
        self.asked.iter().any(|asked| Arc::ptr_eq(&asked.gateway, gateway))
    }

    /// It listens no longer, or over another link.
    pub(super) fn forget(&mut self, gateway: &Gateway) {
        self.asked.retain(|asked| asked.gateway.node != gateway.node);
    }

    fn holds(&self, gateway: &Arc<Gateway>) -> bool {
        let is_awaited = |asked: &Asked| Arc::ptr_eq(&asked.gateway, gateway) && asked.holds_until_ms.is_some() && !gateway.is_down();
        self.asked.iter().any(is_awaited)
    }

    /// Keeps a call that has to wait for a list, or for another that does; gives back any other.
    pub(super) fn hold(&mut self, call: RoomCall) -> Option<RoomCall> {
        let Some(gateway) = call.caller() else { return Some(call) };
        let is_behind = || self.held.iter().filter_map(RoomCall::caller).any(|other| Arc::ptr_eq(other, gateway));
        if !self.holds(gateway) && !is_behind() {
            return Some(call);
        }
        if self.held.len() >= HELD_MAX {
            self.asked.iter_mut().for_each(|asked| asked.holds_until_ms = None);
        }
        self.held.push_back(call);
        None
    }

    /// The next call that need not wait any more.
    fn take_released(&mut self, now_ms: u64) -> Option<RoomCall> {
        if self.held.is_empty() {
            return None;
        }
        for asked in &mut self.asked {
            asked.holds_until_ms = asked.holds_until_ms.filter(|until_ms| now_ms < *until_ms);
        }
        let released = self.held.iter().position(|call| call.caller().is_none_or(|gateway| !self.holds(gateway)))?;
        self.held.remove(released)
    }

    /// When held calls have waited long enough.
    fn release_ms(&self) -> Option<u64> {
        let until = self.asked.iter().filter_map(|asked| asked.holds_until_ms);
        if self.held.is_empty() { None } else { until.min() }
    }
}

impl Room {
    /// Asks a gateway that has seen something of the room, unless it has been asked over this link.
    pub(super) async fn call_roll(&mut self, gateway: &Arc<Gateway>) {
        if self.rolls.is_asked(gateway) {
            return;
        }
        let now_ms = self.core.state.clock.now_ms();
        let is_known =
            |asked: &Asked| asked.is_done && asked.gateway.incarnation == gateway.incarnation && asked.gateway.node == gateway.node;
        let holds_until_ms = (!self.rolls.asked.iter().any(is_known)).then_some(now_ms + LIST_WAIT_MS);
        self.rolls.forget(gateway);
        self.rolls.last_number += 1;
        let number = self.rolls.last_number;
        self.rolls.asked.push(Asked { gateway: Arc::clone(gateway), number, parts: 0, is_done: false, holds_until_ms });
        self.ask_for_members(gateway, number).await;
    }

    /// Asks anew: those whose list is not there yet, or all.
    pub(super) async fn call_roll_again(&mut self, all: bool) {
        self.rolls.asked.retain(|asked| !asked.gateway.is_down());
        if !self.rolls.asked.iter().any(|asked| all || !asked.is_done) {
            return;
        }
        // Behind what was decided: an eviction comes before the question.
        self.flush().await;
        self.rolls.last_number += 1;
        let number = self.rolls.last_number;
        let mut gateways = Vec::new();
        for asked in self.rolls.asked.iter_mut().filter(|asked| all || !asked.is_done) {
            (asked.number, asked.parts, asked.is_done) = (number, 0, false);
            gateways.push(Arc::clone(&asked.gateway));
        }
        for gateway in gateways {
            self.ask_for_members(&gateway, number).await;
        }
    }

    async fn ask_for_members(&self, gateway: &Gateway, number: u32) {
        let call = RollCall { room_id: self.record.room.0, epoch: self.claim.epoch, number };
        gateway.send(Kind::RollCall(call), Class::Control).await;
    }

    /// A gateway names members.
    pub(super) async fn on_seats(&mut self, gateway: &Arc<Gateway>, seats: Seats) {
        let is_it = |asked: &&mut Asked| Arc::ptr_eq(&asked.gateway, gateway) && asked.number == seats.number && !asked.is_done;
        // The rest of what a link brought that has ended says nothing: who has left since may have told it to nobody.
        if seats.epoch != self.claim.epoch || gateway.is_down() {
            return;
        }
        let Some(asked) = self.rolls.asked.iter_mut().find(is_it) else { return };
        asked.parts += u32::from(seats.last);
        if asked.parts >= seats.parts {
            (asked.is_done, asked.holds_until_ms) = (true, None);
        }
        let now_ms = self.core.state.clock.now_ms();
        let mut banned = BTreeSet::new();
        for asker in seats.members.into_iter().filter_map(dispatch::asker).filter(|asker| asker.app == self.record.app) {
            let is_new = !self.membership.sits(gateway, asker.user, asker.device, asker.session);
            if self.rules.may_enter(asker.user, now_ms).is_err() {
                banned.insert(asker.user);
                self.core.metrics.seat_told("banned");
            } else if is_new && self.membership.seats() >= self.core.config.room.members_max && !self.membership.contains(asker.user) {
                // He is asked for at the door, as before.
                self.core.metrics.seat_told("full");
            } else {
                // One who sits already is vouched for anew.
                self.membership.take_seat(gateway, asker.user, asker.device, asker.session);
                self.core.metrics.seat_told(if is_new { "seated" } else { "known" });
                if is_new {
                    self.rolls.unwritten.insert(Member { user: asker.user, device: asker.device });
                }
            }
        }
        self.write_from(now_ms + GATHER_MS);
        self.send_out(banned).await;
    }

    async fn send_out(&mut self, banned: BTreeSet<UserId>) {
        let mut members = Vec::new();
        for user in banned {
            let evict = Evict { app_id: self.record.app.0, room_id: self.record.room.0, user_id: user.0, epoch: self.claim.epoch };
            self.outbox.push(Out::Tell { message: Kind::Evict(evict), class: Class::Control });
            members.extend(DeviceKind::ALL.map(|device| Member { user, device }));
        }
        self.take_out(&members).await;
    }

    /// Works off the calls whose gateway's list is there, or that have waited for it long enough.
    pub(super) async fn release_held(&mut self) {
        while self.end.is_none()
            && let Some(call) = self.rolls.take_released(self.core.state.clock.now_ms())
        {
            self.on_call(call).await;
        }
        self.timers.release_ms = self.rolls.release_ms();
    }

    /// The life has ended: what still waits is told the same as what comes behind it.
    pub(super) async fn refuse_held(&mut self, end: End) {
        for call in std::mem::take(&mut self.rolls.held) {
            super::turn_away(&self.core, self.record.room, end, call).await;
        }
    }

    /// Whether the store may have forgotten members is looked at: then all who have seats are written again, and the gateways are asked for
    /// those who have none.
    pub(super) async fn look_for_loss(&mut self, now_ms: u64) {
        if !self.signs.look(self.core.state.watch.generation(), now_ms) {
            return;
        }
        // All rooms find out at the same time.
        let spread_ms = (self.core.silence_ms() / 4).max(1);
        let mixed = self.record.room.0.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        self.write_all_from(now_ms + mixed % spread_ms);
        self.call_roll_again(true).await;
    }

    /// The store has fewer users than sit here: it has lost some, and said so to nobody.
    pub(super) async fn look_for_gap(&mut self, now_ms: u64) {
        match self.core.state.members.count(self.record.app, self.record.room).await {
            Ok(count) if count < self.membership.users() as u64 => self.write_all_from(now_ms),
            Ok(_) => {}
            Err(error) => self.core.metrics.store_failed("seats", &error),
        }
    }

    fn write_all_from(&mut self, due_ms: u64) {
        self.rolls.unwritten.extend(self.membership.members());
        self.write_from(due_ms);
    }

    fn write_from(&mut self, due_ms: u64) {
        if !self.rolls.unwritten.is_empty() {
            self.timers.write_ms = Some(self.timers.write_ms.map_or(due_ms, |before_ms| before_ms.min(due_ms)));
        }
    }

    /// One step: members go into the store's set who still have their seats.
    pub(super) async fn write_members(&mut self, now_ms: u64) {
        self.timers.write_ms = None;
        let mut members = Vec::new();
        while members.len() < WRITE_MEMBERS
            && let Some(member) = self.rolls.unwritten.pop_first()
        {
            if self.membership.has_seat(member.user, member.device) {
                members.push(member);
            }
        }
        if members.is_empty() {
            return;
        }
        let written = if self.hold().await == Hold::Owned {
            let written = self.core.state.members.join(self.record.app, self.record.room, &members, now_ms).await;
            written.inspect_err(|error| self.core.metrics.store_failed("seats", error)).ok()
        } else {
            None
        };
        if let Some(audience) = written {
            self.audience = audience;
            return self.write_from(now_ms + WRITE_STEP_MS);
        }
        self.rolls.unwritten.extend(members);
        self.write_from(now_ms + WRITE_AGAIN_MS);
    }
}
