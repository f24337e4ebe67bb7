//! What everything on a shard works with: the clock, the rooms, the timers, the books, and the way out to control.
//!
//! - The books are exact: `copies = delivered + dropped + pending`, per room and in total, after every turn. A copy is booked when it is
//!   decided for whom it is, and leaves `pending` exactly once.
//! - Toward control nothing is lost but what repeats itself: see [`Events::push`].

use super::{
    connection::{Connection, Tag},
    counters::{DropReason, ShardCounters},
    mailbox::Mailbox,
    message::{Origin, ShardEvent},
    room::Rooms,
    slab::SlabKey,
    wheel::Wheel,
};
use crate::{bug, transport::Scratch};
use billfish_session::{
    Push, Time,
    backlog::{Backlog, BacklogLimits, Queued},
    server::{ServerAction, ServerActions, ServerConfig},
};
use billfish_wire::Class;
use mio::Registry;
use std::{sync::Arc, time::Duration};

/// One per shard.
#[derive(Debug)]
pub(super) struct Desk {
    /// Number of the shard.
    pub(super) shard: u16,
    /// When this turn began.
    pub(super) now: Time,
    pub(super) session: Arc<ServerConfig>,
    pub(super) limits: BacklogLimits,
    pub(super) write_stall: Duration,
    pub(super) registry: Registry,
    pub(super) rooms: Rooms,
    pub(super) wheel: Wheel,
    pub(super) actions: ServerActions,
    /// What transports work in.
    pub(super) scratch: Scratch,
    pub(super) events: Events,
    pub(super) counters: Arc<ShardCounters>,
    /// Connections that have a backlog.
    pub(super) backlogs: usize,
    /// Bytes in them.
    pub(super) backlog_bytes: usize,
    /// Copies in them.
    pub(super) pending: u64,
}

impl Desk {
    pub(super) const fn write_stall_ms(&self) -> u64 {
        self.write_stall.as_millis() as u64
    }

    /// Sees to it that a connection is looked at when its deadline comes.
    pub(super) fn want(&mut self, key: SlabKey, conn: &mut Connection) {
        let deadline = conn.deadline(self);
        self.wheel.want(key, deadline, &mut conn.filed);
    }

    /// A QoS-1 push went to a connection: its session waits for the ACK.
    pub(super) fn watch_ack(&mut self, conn: &mut Connection, push: &Arc<Push>) {
        conn.session.on_push_sent(self.now, &self.session, push, &mut self.actions);
        // Nearly never: a push to a user is recorded, or the oldest of very many is given up.
        while let Some(action) = self.actions.next_action() {
            self.record(conn.origin(), action);
        }
    }

    /// Passes on what a session wants recorded. Nothing else can come from a push or from an ending.
    pub(super) fn record(&mut self, origin: Origin, action: ServerAction) {
        match action {
            ServerAction::RecordAck { push, times_sent, due_in_ms } => {
                self.events.push(ShardEvent::RecordAck { origin, push, times_sent, due_in_ms });
            }
            ServerAction::HandOver { push, recorded, missed } => {
                self.events.push(ShardEvent::HandOver { origin, push, recorded, missed });
            }
            ServerAction::Send { .. }
            | ServerAction::SendHeartbeat { .. }
            | ServerAction::Authenticate(_)
            | ServerAction::Upstream { .. }
            | ServerAction::EnterRoom { .. }
            | ServerAction::LeaveRoom { .. }
            | ServerAction::Alive
            | ServerAction::AckedInTime
            | ServerAction::Acked { .. }
            | ServerAction::Resend(_)
            | ServerAction::Close(_) => debug_assert!(false, "{action:?} where only records can be"),
        }
    }

    /// Copies that were decided on: so many in all, of which so many are delivered and so many left out by sampling. The rest is booked
    /// frame by frame, by [`Self::frame_queued`] or [`Self::copy_dropped`].
    pub(super) fn book_copies(
        &mut self,
        room_id: i64,
        copies: u64,
        delivered: &[u64; Class::ALL.len()],
        sampled: &[u64; Class::ALL.len()],
    ) {
        self.counters.copies.add(copies.saturating_sub(u64::from(bug::counts_less())));
        for class in Class::ALL {
            self.counters.delivered[class as usize].add(delivered[class as usize]);
            self.counters.dropped[class as usize][DropReason::Sampled as usize].add(sampled[class as usize]);
        }
        if let Some(room) = self.rooms.get_mut(room_id) {
            room.account.copies += copies;
            room.account.delivered += delivered.iter().sum::<u64>();
            for (sum, more) in room.account.dropped.iter_mut().zip(sampled) {
                *sum += more;
            }
        }
    }

    /// A copy was given up that never waited.
    pub(super) fn copy_dropped(&mut self, room_id: i64, class: Class, reason: DropReason) {
        self.counters.dropped[class as usize][reason as usize].add(1);
        if let Some(room) = self.rooms.get_mut(room_id) {
            room.account.dropped[class as usize] += 1;
        }
    }

    /// A frame goes into a backlog.
    pub(super) fn frame_queued(&mut self, queued: &Queued<Tag>) {
        if let Tag::Copy { room_id } = queued.tag {
            self.pending += 1;
            if let Some(room) = self.rooms.get_mut(room_id) {
                room.account.pending += 1;
            }
        }
    }

    /// A frame left a backlog over the wire.
    pub(super) fn frame_delivered(&mut self, queued: &Queued<Tag>) {
        if let Tag::Copy { room_id } = queued.tag {
            self.pending -= 1;
            self.counters.delivered[queued.class as usize].add(1);
            self.rooms.settle(room_id, |account| account.delivered += 1);
        }
    }

    /// A frame left a backlog for nothing.
    pub(super) fn frame_dropped(&mut self, queued: &Queued<Tag>, reason: DropReason) {
        if let Tag::Copy { room_id } = queued.tag {
            self.pending -= 1;
            self.counters.dropped[queued.class as usize][reason as usize].add(1);
            self.rooms.settle(room_id, |account| account.dropped[queued.class as usize] += 1);
        }
    }

    /// A backlog that was `before` bytes long has changed.
    pub(super) fn backlog_changed(&mut self, before: usize, backlog: &Backlog<Tag>) {
        self.backlog_bytes = (self.backlog_bytes + backlog.bytes()).saturating_sub(before);
    }
}

/// What goes to control: collected during a turn, handed over in one batch.
///
/// Signs of life alone are collected for longer. At 18,000 idle connections one comes every two milliseconds, and each would wake the
/// control plane, which has seconds until it writes them. Anything else takes them along, ahead of it: a user is not seen once more behind
/// the session's end.
#[derive(Debug)]
pub(super) struct Events {
    batch: Vec<ShardEvent>,
    mailbox: Arc<Mailbox<ShardEvent>>,
    is_held: bool,
    /// What stands in `batch` beside signs of life is to be heard now.
    is_urgent: bool,
    /// Until then signs of life may wait for company; `None`: none waits.
    signs_until: Option<Time>,
    counters: Arc<ShardCounters>,
}

/// Events kept back while the mailbox is full, above which what repeats itself is given up. What may not be lost stays below by itself:
/// sockets are not read meanwhile, and a connection ends once.
const HELD_EVENTS_MAX: usize = 16 * 1024;
/// How long signs of life wait for others, and how many do.
const SIGNS_WAIT_MS: u64 = 100;
const SIGNS_MAX: usize = 512;

impl Events {
    pub(super) const fn new(mailbox: Arc<Mailbox<ShardEvent>>, counters: Arc<ShardCounters>) -> Self {
        Self { batch: Vec::new(), mailbox, is_held: false, is_urgent: false, signs_until: None, counters }
    }

    /// Says something to control at the end of the turn. When control has not listened for a long time, records are given up: the next
    /// sign of life repeats the last, and a push that is not recorded is in the inbox or the room log all the same.
    pub(super) fn push(&mut self, event: ShardEvent) {
        let repeats_itself = match event {
            ShardEvent::Alive { .. } | ShardEvent::RecordAck { .. } | ShardEvent::Acked { .. } | ShardEvent::HandOver { .. } => true,
            ShardEvent::Login { .. }
            | ShardEvent::Up { .. }
            | ShardEvent::Gone { .. }
            | ShardEvent::LeftRoom { .. }
            | ShardEvent::Seats { .. } => false,
        };
        if repeats_itself && self.is_held && self.batch.len() >= HELD_EVENTS_MAX {
            self.counters.events_dropped.add(1);
        } else {
            self.is_urgent |= !matches!(event, ShardEvent::Alive { .. });
            self.batch.push(event);
        }
    }

    /// Hands over what was collected, as far as there is room, unless it is signs of life that may wait.
    pub(super) fn publish(&mut self, now: Time) {
        let may_wait = !self.is_urgent && !self.is_held && self.batch.len() < SIGNS_MAX;
        if may_wait && !self.batch.is_empty() && now < *self.signs_until.get_or_insert(now + SIGNS_WAIT_MS) {
            return;
        }
        self.publish_all();
    }

    /// Hands over what was collected, as far as there is room.
    pub(super) fn publish_all(&mut self) {
        self.is_held = !self.mailbox.push_batch(&mut self.batch);
        if !self.is_held {
            self.is_urgent = false;
            self.signs_until = None;
        }
    }

    /// When [`Self::publish`] is to be called again, should nothing happen before. What is held waits for its mailbox.
    pub(super) fn next_publish_at(&self) -> Time {
        self.signs_until.filter(|_| !self.is_held).unwrap_or(Time::NEVER)
    }

    /// Control does not keep up: nothing may be read that would make more events.
    pub(super) const fn is_held(&self) -> bool {
        self.is_held
    }
}

#[cfg(test)]
mod tests {
    use super::{Events, SIGNS_MAX, SIGNS_WAIT_MS};
    use crate::shard::{
        counters::ShardCounters,
        mailbox::{Mailbox, Signal},
        message::{LeftCause, Origin, ShardEvent},
    };
    use billfish_session::Time;
    use billfish_state::DeviceKind;
    use std::sync::Arc;

    const START: Time = Time(1_000);

    fn events(bytes_max: usize) -> (Events, Arc<Mailbox<ShardEvent>>) {
        let mailbox = Arc::new(Mailbox::new(bytes_max, Signal::task(), Signal::task()));
        (Events::new(Arc::clone(&mailbox), Arc::new(ShardCounters::default())), mailbox)
    }

    fn sign(user_id: i64) -> ShardEvent {
        ShardEvent::Alive { app_id: 1, user_id }
    }

    fn left(user_id: i64) -> ShardEvent {
        let origin = Origin { app_id: 1, user_id, device: DeviceKind::Web, session: 1 };
        ShardEvent::LeftRoom { origin, room_id: 7, cause: LeftCause::Left }
    }

    /// Takes what control would: users of signs of life as they are, others negative.
    fn taken(mailbox: &Mailbox<ShardEvent>) -> Vec<i64> {
        let mut batch = Vec::new();
        mailbox.take_into(&mut batch);
        let user = |event| match event {
            ShardEvent::Alive { user_id, .. } => user_id,
            ShardEvent::LeftRoom { origin, .. } => -origin.user_id,
            ShardEvent::Login { .. }
            | ShardEvent::Up { .. }
            | ShardEvent::Gone { .. }
            | ShardEvent::Seats { .. }
            | ShardEvent::RecordAck { .. }
            | ShardEvent::Acked { .. }
            | ShardEvent::HandOver { .. } => 0,
        };
        batch.into_iter().map(user).collect()
    }

    #[test]
    fn signs_of_life_wait_for_company_and_not_longer() {
        let (mut events, mailbox) = events(1 << 20);
        assert_eq!(events.next_publish_at(), Time::NEVER, "nothing waits");
        events.push(sign(1));
        events.publish(START);
        events.push(sign(2));
        events.publish(START + (SIGNS_WAIT_MS - 1));
        assert_eq!(taken(&mailbox), [0; 0]);
        assert_eq!(events.next_publish_at(), START + SIGNS_WAIT_MS, "the shard wakes for the first of them");
        events.publish(START + SIGNS_WAIT_MS);
        assert_eq!(taken(&mailbox), [1, 2]);
        assert_eq!(events.next_publish_at(), Time::NEVER);
    }

    #[test]
    fn as_many_signs_as_fill_a_batch_wait_no_longer() {
        let (mut events, mailbox) = events(1 << 20);
        (1..SIGNS_MAX).for_each(|_| events.push(sign(1)));
        events.publish(START);
        assert_eq!(taken(&mailbox).len(), 0);
        events.push(sign(1));
        events.publish(START);
        assert_eq!(taken(&mailbox).len(), SIGNS_MAX);
    }

    #[test]
    fn what_is_to_be_heard_now_takes_the_signs_along_ahead_of_it() {
        let (mut events, mailbox) = events(1 << 20);
        events.push(sign(1));
        events.publish(START);
        events.push(left(1));
        events.publish(START + 1);
        assert_eq!(taken(&mailbox), [1, -1], "the user is not seen once more behind what ended");
        assert_eq!(events.next_publish_at(), Time::NEVER);
        events.push(sign(2));
        events.publish(START + 2);
        assert_eq!(taken(&mailbox), [0; 0], "who comes later waits anew");
        assert_eq!(events.next_publish_at(), START + 2 + SIGNS_WAIT_MS);
    }

    #[test]
    fn what_was_turned_away_is_offered_again_and_keeps_nobody_awake() {
        let (mut events, mailbox) = events(1);
        events.push(left(1));
        events.push(sign(1));
        events.publish(START);
        assert!(events.is_held(), "one is taken alone");
        events.publish(START);
        assert_eq!(events.next_publish_at(), Time::NEVER, "the mailbox says when there is room");
        assert_eq!(taken(&mailbox), [-1]);
        events.publish(START);
        assert_eq!(taken(&mailbox), [1]);
    }
}
