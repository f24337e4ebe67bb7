//! What is due by the clock: heartbeats, and the load that clients send.

use crate::{
    crowd::{Crowd, TICK_NS, client::Stage, herd::Herd, slow::Pace},
    worker::Activity,
};
use std::time::Duration;

/// Clients paced in one turn, so that reading is never put off for long.
const PACED_PER_TURN: usize = 1024;

impl Crowd<'_> {
    /// Heartbeats: client `i` has its turn in slot `i` modulo the slots of a gap, so that the load is even.
    pub(super) fn turn_wheel(&mut self) {
        let tick = self.shared.now_ns / TICK_NS;
        let is_load = self.shared.is_active && matches!(self.shared.plan.activity, Activity::Echo { .. });
        if self.shared.heartbeat_gap_ns == u64::MAX || is_load {
            self.wheel_tick = tick;
            return;
        }
        let slots = (self.shared.heartbeat_gap_ns / TICK_NS).max(1);
        // After a pause longer than a gap each client still gets one heartbeat, not one per gap.
        self.wheel_tick = self.wheel_tick.max(tick.saturating_sub(slots));
        let step = usize::try_from(slots).expect("a gap has few ticks");
        while self.wheel_tick < tick {
            self.wheel_tick += 1;
            let first = usize::try_from(self.wheel_tick % slots).expect("less than the slots");
            for index in (first..self.connections.len()).step_by(step) {
                let is_mute = self.connections[index].client.pace == Pace::Stopped && self.lags(index);
                if !is_mute {
                    self.keep_alive(index);
                }
            }
        }
    }

    /// Sends a heartbeat of a client that is in.
    pub(super) fn keep_alive(&mut self, index: usize) {
        if self.connections[index].client.stage == Stage::Settled {
            self.connections[index].client.keep_alive(&mut self.shared);
            self.await_beat(index);
            self.flush(index);
        }
    }

    /// Sends the load that is due and says how long to wait for events at most.
    pub(super) fn pace(&mut self) -> Duration {
        let gifts = self.pace_gifts();
        self.pace_clients().min(gifts)
    }

    fn pace_clients(&mut self) -> Duration {
        let tick = Duration::from_nanos(TICK_NS);
        if self.herd.as_ref().is_some_and(Herd::is_anyone_out) {
            return Duration::from_millis(1);
        }
        if !self.shared.is_active {
            let is_busy = self.next_connect_due_ns().is_some() || !self.told_to_wait.is_empty();
            return if is_busy { Duration::from_millis(1) } else { tick };
        }
        let now_ns = self.shared.now_ns;
        while let Some(&(due_ns, index)) = self.shared.paused.front() {
            if due_ns > now_ns {
                break;
            }
            self.shared.paused.pop_front();
            self.send_load(index, now_ns);
        }
        let per_s = match self.shared.plan.activity {
            Activity::Echo { per_s } | Activity::Chat { per_s, .. } if per_s > 0.0 && !self.connections.is_empty() => per_s,
            Activity::Listen | Activity::Echo { .. } | Activity::Chat { .. } | Activity::Gifts => {
                return if self.shared.paused.is_empty() { tick } else { Duration::from_millis(5) };
            }
        };
        let clients = self.connections.len() as u64;
        for _ in 0..PACED_PER_TURN {
            let index = usize::try_from(self.paced % clients).expect("an index");
            let round = u32::try_from(self.paced / clients).unwrap_or(u32::MAX);
            let due_ns = self.shared.intended_ns(per_s, index, round);
            if due_ns > now_ns {
                let wait = Duration::from_nanos(due_ns - now_ns).min(tick);
                return if wait < Duration::from_millis(1) { Duration::ZERO } else { wait };
            }
            self.paced += 1;
            self.send_load(index, due_ns);
        }
        Duration::ZERO
    }

    pub(super) fn send_load(&mut self, index: usize, intended_ns: u64) {
        if self.connections[index].client.stage == Stage::Settled {
            self.connections[index].client.send_load(index, intended_ns, &mut self.shared);
            self.flush(index);
        } else {
            self.shared.stats.unsent += 1;
        }
    }
}
