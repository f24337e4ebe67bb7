//! The loop of a shard's thread: what it waits for, and in which order it does what has come.
//!
//! ```text
//!   sleep ─► sockets, QUIC ─► commands ─► accept ─► read on ─► timers ─► tell control ─► one round of the rooms ─► tell control ─► …
//! ```
//!
//! - Every step is bounded, so every step has its turn: a large room, a crowd at the door and a flood of frames delay each other by
//!   milliseconds and no more.
//! - Edge-triggered. Who has not read to the end of what was there is on the list `again`, for nobody else will remember.
//! - The thread sleeps only when nothing is left to do, and wakes at the next deadline.

use super::{Shard, connection::Tenant, slab::SlabKey};
use crate::quic::ShardEnd;
use billfish_session::Time;
use mio::{Events, Poll, Token, event::Event};
use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};
use tracing::error;

/// The mailboxes' waker. Keys of connections have a generation, which is never 0: these small numbers are no connection's.
pub(super) const WAKER: Token = Token(0);
/// The first of the doors; the others follow.
pub(super) const DOORS: usize = 1;
/// Sockets looked at in one turn.
const EVENTS_PER_TURN: usize = 1_024;
/// Sockets read on in one turn, a buffer each; when every one of them is a flood, their sessions end them within a turn or two.
const READS_PER_TURN: usize = 256;
/// Room on the list of those to be read again that is kept; after a deaf moment it holds every connection.
const AGAIN_KEPT_MAX: usize = 4_096;
/// How busy a shard is, is found out over this long.
const LOAD_WINDOW: Duration = Duration::from_millis(50);
/// Above this share of its core a shard collects pushes before it writes them; performance.md: 2.3 times the capacity for 3.5 ms.
const BUSY_PERCENT: u128 = 70;
/// Below this it stops doing so: what the tick saves must not end the tick.
const IDLE_PERCENT: u128 = 25;
/// How long a stopping shard waits for control to take its last events.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// How much of its core a shard uses.
#[derive(Debug)]
pub(super) struct Load {
    since: Instant,
    awake: Duration,
    pub(super) is_busy: bool,
}

impl Load {
    pub(super) const fn new(now: Instant) -> Self {
        Self { since: now, awake: Duration::ZERO, is_busy: false }
    }

    fn add(&mut self, awake: Duration, now: Instant) {
        self.awake += awake;
        let window = now - self.since;
        if window < LOAD_WINDOW {
            return;
        }
        let percent = self.awake.as_micros() * 100 / window.as_micros().max(1);
        self.is_busy = percent > if self.is_busy { IDLE_PERCENT } else { BUSY_PERCENT };
        self.since = now;
        self.awake = Duration::ZERO;
    }
}

impl Shard {
    /// Runs until it is told to stop.
    pub(super) fn run(mut self, mut poll: Poll) {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        while !self.is_stopping {
            if let Err(cause) = poll.poll(&mut events, self.sleep()) {
                if cause.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                // Only a broken descriptor does this, and nothing here can mend it.
                error!(shard = self.desk.shard, %cause, "the reactor failed");
                break;
            }
            let woke = Instant::now();
            self.set_now(woke);
            self.turn_once(&events);
            let now = Instant::now();
            let awake = now - woke;
            self.load.add(awake, now);
            let awake_us = u64::try_from(awake.as_micros()).unwrap_or(u64::MAX);
            self.desk.counters.busy_us.add(awake_us);
            self.desk.counters.turn_latency.record(awake_us);
        }
        self.stop(&mut poll, &mut events);
    }

    pub(super) fn turn_once(&mut self, events: &Events) {
        for event in events {
            self.on_event(event);
            self.end_doomed();
        }
        self.hear_quic();
        self.take_commands();
        self.accept_some();
        self.read_on();
        self.tick();
        self.end_doomed();
        self.end_overdue();
        self.drain_some();
        // Before the round: a login is not to wait for five hundred writes.
        self.desk.events.publish(self.desk.now);
        if self.is_round_due() {
            self.round();
            self.desk.events.publish(self.desk.now);
        }
        self.write_gauges();
    }

    fn on_event(&mut self, event: &Event) {
        match event.token() {
            WAKER => {}
            token => {
                let key = SlabKey::from_token(token);
                if key.generation == 0 {
                    if let Some(door) = self.doors.get_mut(token.0 - DOORS) {
                        door.is_acceptable = true;
                    }
                    return;
                }
                if matches!(self.slab.get_mut(key), Some(Tenant::Leaving(_))) {
                    return self.go_on_leaving(key);
                }
                if event.is_writable() && !self.go_on(key) {
                    return;
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.hear(key, event.is_read_closed());
                }
            }
        }
    }

    /// Looks at the QUIC connections that have something: what events are to sockets.
    fn hear_quic(&mut self) {
        let mut heard = std::mem::take(&mut self.heard);
        let is_new = heard.is_empty();
        if is_new {
            self.ready.take(&mut heard);
        }
        // As many as sockets; the others have their turn before those who come meanwhile.
        for token in heard.drain(..heard.len().min(EVENTS_PER_TURN)) {
            let key = SlabKey::from_token(token);
            // Closed meanwhile, or its place is another's.
            let Some(found) = self.open_mut(key).and_then(|conn| conn.transport.quic().map(ShardEnd::hear)) else { continue };
            if !found.has_room || self.go_on(key) {
                self.hear(key, found.is_at_end);
            }
            self.end_doomed();
        }
        heard.shrink_to(AGAIN_KEPT_MAX);
        if !is_new && heard.is_empty() {
            // Whose wake-up was spent while others had their turn: nobody else would remember them.
            self.ready.take(&mut heard);
        }
        self.heard = heard;
    }

    /// A connection takes something again; `false` when it cannot go on.
    fn go_on(&mut self, key: SlabKey) -> bool {
        let Self { slab, desk, .. } = self;
        if let Some(Tenant::Open(conn)) = slab.get_mut(key)
            && let Err(doom) = conn.flush(key, desk)
        {
            self.doomed.push((key, doom));
            return false;
        }
        true
    }

    /// A connection has something to read, be it its end.
    fn hear(&mut self, key: SlabKey, is_at_end: bool) {
        if is_at_end && let Some(conn) = self.open_mut(key) {
            conn.is_at_end = true;
        }
        if self.desk.events.is_held() {
            self.read_again(key);
        } else {
            self.read(key);
        }
    }

    /// Reads the sockets that are known to have more, a buffer each.
    fn read_on(&mut self) {
        if self.desk.events.is_held() {
            if !self.again.is_empty() {
                self.desk.counters.held_turns.add(1);
            }
            return;
        }
        // Only those who stand there now: who has still more goes behind them.
        for _ in 0..self.again.len().min(READS_PER_TURN) {
            let Some(key) = self.again.pop_front() else { break };
            let Some(conn) = self.open_mut(key) else { continue };
            conn.is_to_be_read = false;
            self.read(key);
            self.end_doomed();
        }
        if self.again.is_empty() && self.again.capacity() > AGAIN_KEPT_MAX {
            self.again = VecDeque::new();
        }
    }

    /// How long the thread may sleep.
    fn sleep(&self) -> Option<Duration> {
        let is_behind = self.has_to_accept()
            || !self.heard.is_empty()
            || (!self.again.is_empty() && !self.desk.events.is_held())
            || self.has_to_tell()
            || (self.has_left_inbox && self.desk.rooms.queued_bytes() <= self.config.inbox_bytes_max);
        if is_behind || (self.has_rounds() && self.is_round_due()) {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let now_ms = self.epoch_ms(now);
        let mut until = self.desk.wheel.next_tick_at().unwrap_or(Time::NEVER);
        until = until.min(self.leaving.front().map_or(Time::NEVER, |(until, _)| *until));
        until = until.min(self.next_accept_at());
        until = until.min(self.desk.events.next_publish_at());
        if self.draining.is_some() && self.slab.len() > 0 {
            until = until.min(Time(now_ms) + DRAIN_STEP_MS);
        }
        let mut sleep = (until != Time::NEVER).then(|| Duration::from_millis(until.since(Time(now_ms))));
        if self.has_rounds() {
            let round = self.next_round.saturating_duration_since(now);
            sleep = Some(sleep.map_or(round, |sleep| sleep.min(round)));
        }
        sleep
    }

    /// Whether the rooms have their turn now: always, but for a busy shard, which collects for one tick.
    fn is_round_due(&self) -> bool {
        !self.is_collecting() || self.turns_due > 0 || Instant::now() >= self.next_round
    }

    /// A busy shard lets pushes gather, so that one write carries more of them.
    pub(super) const fn is_collecting(&self) -> bool {
        self.load.is_busy && !self.config.busy_tick.is_zero()
    }

    pub(super) fn set_now(&mut self, now: Instant) {
        self.now_us = u64::try_from((now - self.epoch).as_micros()).unwrap_or(u64::MAX);
        self.desk.now = Time(self.epoch_ms(now));
    }

    fn epoch_ms(&self, now: Instant) -> u64 {
        u64::try_from((now - self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    fn write_gauges(&self) {
        let Self { desk, .. } = self;
        let counters = &desk.counters;
        counters.connections.set((self.slab.len() - self.leaving_count) as u64);
        counters.sessions.set(self.sessions as u64);
        counters.pending.set(desk.pending);
        counters.backlogs.set(desk.backlogs as u64);
        counters.backlog_bytes.set(desk.backlog_bytes as u64);
        counters.room_queue_bytes.set(desk.rooms.queued_bytes() as u64);
        counters.rooms.set(desk.rooms.len() as u64);
        counters.timers.set(desk.wheel.filings() as u64);
    }

    /// Closes everything and hands the last events over.
    fn stop(mut self, poll: &mut Poll, events: &mut Events) {
        self.set_now(Instant::now());
        self.stop_listening();
        for place in 0..self.slab.places() {
            self.end_drained(place);
        }
        self.end_doomed();
        self.end_all_leaving();
        self.write_gauges();
        let until = Instant::now() + STOP_WAIT;
        self.desk.events.publish_all();
        while self.desk.events.is_held() && Instant::now() < until && !self.events.is_closed() {
            // Woken when control has taken something.
            if poll.poll(events, Some(until.saturating_duration_since(Instant::now()))).is_err() {
                break;
            }
            self.desk.events.publish_all();
        }
    }
}

/// How often a draining shard looks whether it is time to close some more.
const DRAIN_STEP_MS: u64 = 20;
