//! What a worker counts, and what it tells the parent of it.

use crate::{
    crowd::{
        Connection, Crowd,
        client::Cause,
        slow::{Pace, PaceLatencies},
    },
    latency::Recording,
    series::Interval,
    tally::Totals,
    worker::{Activity, ENDS_MAX, End, Odd, Settled, Talk, WorkerReport},
};
use std::{collections::BTreeMap, mem};

/// Ranges of missing messages that a client tells of.
const HOLES_MAX: usize = 8;

/// Counters of the worker.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) settled: usize,
    /// Times someone settled, also again.
    pub(crate) entered: u64,
    /// Settled since the event loop last looked: each gives back its place in the login window.
    pub(crate) newly_settled: usize,
    /// Settled again after they had been cut.
    pub(crate) newly_back: Vec<usize>,
    pub(super) failures: BTreeMap<Cause, u64>,
    pub(super) retries: BTreeMap<Cause, u64>,
    pub(super) lost: BTreeMap<Cause, u64>,
    pub(super) given_up: BTreeMap<Cause, u64>,
    pub(super) resets: u64,
    pub(super) ends: Vec<End>,
    pub(super) ends_omitted: u64,
    pub(super) failed: Vec<End>,
    pub(super) failed_omitted: u64,
    pub(super) refused: BTreeMap<Cause, u64>,
    /// One-to-one messages that were not as they should be, by client.
    pub(crate) odd_of: BTreeMap<usize, Odd>,
    /// Due while their client was not connected.
    pub(super) unsent: u64,
    /// Where some read slowly.
    pub(crate) by_pace: Option<Box<PaceLatencies>>,
    pub(crate) login: Recording,
    /// TLS handshakes, full and resumed.
    pub(super) tls_full: u64,
    pub(super) tls_resumed: u64,
    /// Over QUIC: datagrams that this side sent and took for lost.
    pub(super) quic_lost: u64,
    pub(crate) latency: Recording,
    pub(crate) totals: Totals,
    pub(crate) done: Vec<(usize, u32)>,
    pub(crate) last_copy_ns: u64,
    pub(crate) frame_bytes: usize,
    pub(crate) sent: u64,
    /// Sent and neither answered nor given up.
    pub(crate) open: u64,
    pub(crate) beats_sent: u64,
    pub(crate) beats_echoed: u64,
    pub(crate) beat_latency: Recording,
    /// What the counters stood at when the last interval was closed.
    pub(super) told: Told,
}

/// Counters at one instant.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    received: u64,
    sent: u64,
    beats_echoed: u64,
    beats_sent: u64,
    entered: u64,
}

impl Stats {
    /// Tells of an ending or a failure, as long as there is room to tell each.
    pub(super) fn tell(list: &mut Vec<End>, omitted: &mut u64, end: End) {
        if list.len() < ENDS_MAX {
            list.push(end);
        } else {
            *omitted += 1;
        }
    }

    pub(crate) fn refuse(&mut self, cause: &str) {
        match self.refused.get_mut(cause) {
            Some(count) => *count += 1,
            None => {
                self.refused.insert(cause.to_owned(), 1);
            }
        }
    }

    /// What was counted since the last call, as that second of the run.
    fn close_interval(&mut self, second: u64) -> Interval {
        let now = Told {
            received: self.totals.received,
            sent: self.sent,
            beats_echoed: self.beats_echoed,
            beats_sent: self.beats_sent,
            entered: self.entered,
        };
        let before = mem::replace(&mut self.told, now);
        Interval {
            second,
            received: now.received - before.received,
            // What was refused, or open when its connection was cut, is taken back from the count, perhaps in a later interval.
            sent: now.sent.saturating_sub(before.sent),
            beats_echoed: now.beats_echoed - before.beats_echoed,
            beats_sent: now.beats_sent.saturating_sub(before.beats_sent),
            entered: now.entered - before.entered,
            latency: self.latency.close_interval(),
            beat_latency: self.beat_latency.close_interval(),
            login: self.login.close_interval(),
        }
    }
}

impl Crowd<'_> {
    /// Clients that are in.
    pub(crate) fn settled_now(&self) -> usize {
        self.shared.stats.settled
    }

    /// For the progress bar.
    pub(crate) fn received_now(&self) -> u64 {
        self.shared.stats.totals.received + self.shared.stats.beats_echoed
    }

    /// What happened since the last call, booked on that second of `CLOCK_MONOTONIC`.
    pub(crate) fn close_interval(&mut self, second: u64) -> Interval {
        self.shared.stats.close_interval(second)
    }

    /// Messages completed since the last call.
    pub(crate) fn take_done(&mut self) -> Vec<(usize, u32)> {
        mem::take(&mut self.shared.stats.done)
    }

    /// How the crowd got in.
    pub(crate) fn settled(&self) -> Settled {
        Settled {
            settled: usize::try_from(self.shared.stats.entered).unwrap_or(usize::MAX),
            failures: self.shared.stats.failures.clone(),
            retries: self.shared.stats.retries.clone(),
            members: self.shared.rooms.iter().map(|room| room.members).collect(),
            login: self.shared.stats.login.total(),
            tls_full: self.shared.stats.tls_full,
            tls_resumed: self.shared.stats.tls_resumed,
        }
    }

    /// What the crowd saw. Taken once, at the end.
    pub(crate) fn report(&mut self) -> WorkerReport {
        let stats = mem::take(&mut self.shared.stats);
        let quic_lost = stats.quic_lost
            + self.connections.iter().filter_map(|connection| connection.quic.as_ref()).map(|link| link.lost()).sum::<u64>();
        let talks = match self.shared.plan.activity {
            Activity::Chat { .. } => self.talks(&stats.odd_of),
            Activity::Listen | Activity::Echo { .. } | Activity::Gifts => Vec::new(),
        };
        let gifts = self.take_gifts();
        let count = |pace| self.connections.iter().filter(|connection| connection.client.pace == pace).count() as u64;
        let is_listening = matches!(self.shared.plan.activity, Activity::Listen);
        WorkerReport {
            sent: if is_listening { stats.beats_sent } else { stats.sent },
            refused: stats.refused,
            unsent: stats.unsent,
            lost: stats.lost,
            given_up: stats.given_up,
            resets: stats.resets,
            ends: stats.ends,
            ends_omitted: stats.ends_omitted,
            failed: stats.failed,
            failed_omitted: stats.failed_omitted,
            room_ends: self.shared.rooms.iter().map(|room| room.ends).collect(),
            talks,
            gifts,
            slow_clients: count(Pace::Slow),
            stopped_clients: count(Pace::Stopped),
            by_pace: stats.by_pace.map(|by_pace| *by_pace),
            totals: stats.totals,
            quic_lost,
            latency: stats.latency.total(),
            beats_echoed: stats.beats_echoed,
            beat_latency: stats.beat_latency.total(),
            messages: self.shared.rooms.iter_mut().map(|room| mem::take(&mut room.messages)).collect(),
            last_copy_ns: stats.last_copy_ns,
            herd: self.herd.as_mut().map(|herd| mem::take(&mut herd.tally)),
            frame_bytes: self.shared.rooms.iter().map(|room| room.frame_bytes).max().unwrap_or(0).max(stats.frame_bytes),
        }
    }

    /// What every client sent its neighbour and got from it.
    fn talks(&self, odd_of: &BTreeMap<usize, Odd>) -> Vec<Talk> {
        let sent_by = |index: usize| self.connections.get(index).map_or(0, |connection| connection.client.sent());
        let talk = |(index, connection): (usize, &Connection)| Talk {
            client: self.shared.plan.first + index,
            sent: connection.client.sent(),
            odd: odd_of.get(&index).copied().unwrap_or_default(),
            received: connection.client.received(),
            holes: connection.client.holes(sent_by(index ^ 1), HOLES_MAX),
        };
        self.connections.iter().enumerate().map(talk).collect()
    }
}
