//! What the control plane asks for, carried out one by one in the order in which it was asked.
//!
//! A command for a connection that is over is counted and forgotten, but for two that would leave something behind: a granted LOGIN is
//! answered with its end, a granted JOIN with "not entered".

use super::{
    Shard,
    connection::Tenant,
    fanout_job::JobFrame,
    message::{ConnKey, LeftCause, LoginDenied, LoginGranted, ShardCommand, ShardEvent, UpReply},
    room::{Joining, RoomItem},
    slab::SlabKey,
};
use billfish_wire::Reason;
use smallvec::SmallVec;
use std::{collections::BTreeMap, time::Duration};

/// How sessions are sent elsewhere: each place of the slab has its moment within the spread, in the order of places. A session is told of its
/// moment at once, and closed some time after it has come.
///
/// ```text
///  told      |all|
///  leave     |-------- spread --------|
///  closed    |patience|------- at the rate, none before its moment and the patience -------|
/// ```
#[derive(Debug)]
pub(super) struct Draining {
    /// By transport.
    addresses: BTreeMap<String, Vec<String>>,
    spread_ms: u64,
    close_per_s: u32,
    from_ms: u64,
    /// Places when it began. There are no later ones: nobody is let in any more.
    places: u32,
    /// The next place to be told.
    next_told: u32,
    /// The next place to be closed.
    next_closed: u32,
    closed: u64,
}

impl Draining {
    /// When the session of a place is to leave, from the beginning on.
    fn leaves_after_ms(&self, place: u32) -> u64 {
        self.spread_ms.saturating_mul(u64::from(place)) / u64::from(self.places.max(1))
    }

    /// The addresses for somebody of this transport, another one first for each session: clients begin with the first.
    fn addresses_for(&self, place: u32, transport: &str) -> Vec<String> {
        let mut addresses = self.addresses.get(transport).cloned().unwrap_or_default();
        if !addresses.is_empty() {
            let first = place as usize % addresses.len();
            addresses.rotate_left(first);
        }
        addresses
    }
}

/// A client that was to leave has so long until it is closed: it has connected and logged in elsewhere by then, unless it does not want to.
const PATIENCE_MS: u64 = 3_000;
/// Sessions told to go elsewhere in one turn.
const TOLD_PER_TURN: u32 = 512;
/// Told to a LOGIN that comes too late: by then a balancer knows. Spread, so that they do not come back together.
const RETRY_AFTER_MS: std::ops::Range<u64> = 1_000..3_000;

impl Shard {
    /// Takes what is in the mailbox, and carries it out. Room pushes only go to their rooms' queues.
    pub(super) fn take_commands(&mut self) {
        // Full queues are left to drain first: the mailbox then fills, and the link stops the router.
        self.has_left_inbox = self.desk.rooms.queued_bytes() > self.config.inbox_bytes_max;
        if self.has_left_inbox {
            return;
        }
        let mut commands = std::mem::take(&mut self.commands);
        self.inbox.take_into(&mut commands);
        for command in commands.drain(..) {
            self.apply(command);
            self.end_doomed();
        }
        self.commands = commands;
    }

    fn apply(&mut self, command: ShardCommand) {
        match command {
            ShardCommand::LoginVerdict { key, verdict } => self.on_verdict(key, verdict),
            ShardCommand::Reply { key, request, reply } => self.on_reply(key, request, reply),
            ShardCommand::RoomPush { room_id, push, except_user_id, keep_permille } => {
                let frame = JobFrame::new(push, except_user_id, keep_permille, self.now_us);
                self.push_to_room(room_id, frame);
            }
            ShardCommand::UserPush { key, push } => match self.slab_key(key) {
                Some(key) => self.push_to_user(key, &push),
                None => self.desk.counters.stale_commands.add(1),
            },
            ShardCommand::AllPush { app_id, push } => self.push_to_all(app_id, push),
            ShardCommand::Kick { key, reason, msg } => self.on_kick(key, reason, msg.as_deref()),
            ShardCommand::Evict { room_id, user_id } => {
                if self.desk.rooms.get_mut(room_id).is_some() {
                    self.desk.rooms.queue(room_id, RoomItem::Evict { user_id });
                }
            }
            ShardCommand::RollCall(call) => drop(self.desk.rooms.queue(call.room_id, RoomItem::RollCall(call))),
            ShardCommand::Audience { room_id, members } => {
                if let Some(room) = self.desk.rooms.get_mut(room_id) {
                    room.audience = members;
                }
            }
            ShardCommand::RoomAccount { room_id, answer } => {
                if let Some(room) = self.desk.rooms.get_mut(room_id) {
                    let mut account = room.account;
                    account.members = room.members.len() as u64;
                    if answer.send(account).is_err() {
                        // Who asked has given up waiting.
                        self.desk.counters.stale_commands.add(1);
                    }
                }
            }
            ShardCommand::Drain { addresses, spread, close_per_s } => self.begin_drain(addresses, spread, close_per_s),
            ShardCommand::Enter(entrant) => self.enter(*entrant),
            ShardCommand::Shed { sheds } => self.sheds = sheds,
            ShardCommand::Stop => self.is_stopping = true,
        }
    }

    fn on_verdict(&mut self, key: ConnKey, verdict: Result<LoginGranted, LoginDenied>) {
        let key_here = self.slab_key(key);
        let state = key_here.and_then(|key| self.open_mut(key)).map(|conn| conn.session.is_authenticating());
        if state == Some(false) {
            // A second verdict: the session that the first one began is not to be reported as gone.
            return self.desk.counters.stale_commands.add(1);
        }
        let verdict = match verdict {
            // Let in now, it would be closed without having been told where to go. Its seat is given up again.
            Ok(LoginGranted { origin, .. }) if self.draining.is_some() && state.is_some() => {
                let rooms = SmallVec::new();
                self.desk.events.push(ShardEvent::Gone { key, origin, rooms, reason: Reason::Drained, logged_out: false });
                Err(LoginDenied { reason: Reason::Unavailable, retry_after_ms: Some(fastrand::u64(RETRY_AFTER_MS)) })
            }
            verdict => verdict,
        };
        match (key_here.filter(|_| state.is_some()), verdict) {
            (Some(key), Ok(LoginGranted { accepted, origin })) => {
                let Self { slab, desk, .. } = self;
                let Some(Tenant::Open(conn)) = slab.get_mut(key) else { return };
                conn.session_id = origin.session;
                conn.device = origin.device;
                let peer = conn.peer();
                conn.session.on_login_accepted(desk.now, &desk.session, accepted, &mut desk.actions);
                self.sessions += 1;
                self.admission.0.logged_in(peer);
                self.carry_out(key);
                self.feed_held(key);
            }
            (Some(key), Err(LoginDenied { reason, retry_after_ms })) => {
                let Self { slab, desk, .. } = self;
                let Some(Tenant::Open(conn)) = slab.get_mut(key) else { return };
                conn.session.on_login_refused(reason, retry_after_ms, &mut desk.actions);
                self.carry_out(key);
            }
            (None, Ok(LoginGranted { origin, .. })) => {
                self.desk.counters.stale_commands.add(1);
                let rooms = SmallVec::new();
                self.desk.events.push(ShardEvent::Gone { key, origin, rooms, reason: Reason::PeerClosed, logged_out: false });
            }
            (None, Err(_)) => self.desk.counters.stale_commands.add(1),
        }
    }

    fn on_reply(&mut self, key: ConnKey, request: u32, reply: UpReply) {
        let open = self.slab_key(key).filter(|key| self.open_mut(*key).is_some());
        if let UpReply::Joined { origin, room_id, seq, data, audience } = reply {
            match open {
                Some(key) => {
                    let joining = Joining { key, origin, request, seq, data, audience };
                    self.desk.rooms.queue(room_id, RoomItem::Join(Box::new(joining)));
                }
                None => {
                    self.desk.counters.stale_commands.add(1);
                    self.desk.events.push(ShardEvent::LeftRoom { origin, room_id, cause: LeftCause::NotEntered });
                }
            }
            return;
        }
        let Self { slab, desk, .. } = self;
        let Some((key, Tenant::Open(conn))) = open.and_then(|key| slab.get_mut(key).map(|tenant| (key, tenant))) else {
            return desk.counters.stale_commands.add(1);
        };
        match reply {
            UpReply::Accepted { ts_ms, seq } => conn.session.on_accepted(request, ts_ms, seq, &mut desk.actions),
            UpReply::Refused { reason, msg, retry_after_ms } => {
                conn.session.on_refused(request, reason, msg.as_deref(), retry_after_ms, &mut desk.actions);
            }
            UpReply::Synced { room_id, data } => conn.session.on_synced(request, room_id, data, &mut desk.actions),
            UpReply::Joined { .. } => unreachable!("queued above"),
        }
        self.carry_out(key);
    }

    fn on_kick(&mut self, key: ConnKey, reason: Reason, msg: Option<&str>) {
        let key = self.slab_key(key);
        let Self { slab, desk, .. } = self;
        let Some((key, Tenant::Open(conn))) = key.and_then(|key| slab.get_mut(key).map(|tenant| (key, tenant))) else {
            return desk.counters.stale_commands.add(1);
        };
        conn.session.on_kick(reason, msg, &mut desk.actions);
        self.carry_out(key);
    }

    fn begin_drain(&mut self, addresses: BTreeMap<String, Vec<String>>, spread: Duration, close_per_s: u32) {
        self.stop_listening();
        let spread_ms = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
        let (from_ms, places) = (self.desk.now.0, self.slab.places());
        self.draining = Some(Draining { addresses, spread_ms, close_per_s, from_ms, places, next_told: 0, next_closed: 0, closed: 0 });
    }

    /// Goes on sending sessions elsewhere, and closes those whose time has come, no more than the rate allows.
    pub(super) fn drain_some(&mut self) {
        let Some(mut draining) = self.draining.take() else { return };
        let told_end = self.slab.places().min(draining.next_told.saturating_add(TOLD_PER_TURN));
        for place in draining.next_told..told_end {
            let Self { slab, desk, .. } = self;
            let Some((key, Tenant::Open(conn))) = slab.at_mut(place) else { continue };
            if conn.session.is_live() {
                let addresses = draining.addresses_for(place, conn.transport.listener().label());
                conn.session.on_drain(addresses, draining.leaves_after_ms(place), &mut desk.actions);
                self.carry_out(key);
                self.end_doomed();
            }
        }
        draining.next_told = told_end;
        let passed_ms = self.desk.now.0.saturating_sub(draining.from_ms);
        let due = passed_ms.saturating_sub(PATIENCE_MS).saturating_mul(u64::from(draining.close_per_s)) / 1_000;
        while draining.closed < due
            && draining.next_closed < self.slab.places()
            && passed_ms >= draining.leaves_after_ms(draining.next_closed).saturating_add(PATIENCE_MS)
        {
            let place = draining.next_closed;
            draining.next_closed += 1;
            draining.closed += u64::from(self.end_drained(place));
        }
        self.draining = Some(draining);
    }

    /// Whether some have still to be told: then there is no time to sleep.
    pub(super) fn has_to_tell(&self) -> bool {
        self.draining.as_ref().is_some_and(|draining| draining.next_told < self.slab.places())
    }

    /// Closes whoever lives at a place.
    pub(super) fn end_drained(&mut self, place: u32) -> bool {
        let Self { slab, desk, .. } = self;
        let Some((key, Tenant::Open(conn))) = slab.at_mut(place) else { return false };
        conn.session.on_drain_deadline(&mut desk.actions);
        self.carry_out(key);
        true
    }

    /// A key that is this shard's.
    fn slab_key(&self, key: ConnKey) -> Option<SlabKey> {
        debug_assert_eq!(key.shard, self.desk.shard, "a command went to another shard");
        (key.shard == self.desk.shard).then_some(SlabKey { index: key.index, generation: key.generation })
    }
}
