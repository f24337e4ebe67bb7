//! A virtual TCP connection: delay, a bounded window, stalls, and cuts anywhere between two bytes.

use std::collections::VecDeque;

/// Bytes under way in one direction at most: small, so that backlogs form.
const WINDOW_BYTES: usize = 4 * 1024;

/// One direction. What was written arrives in order, or from some byte on not at all.
#[derive(Default)]
pub(crate) struct Pipe {
    chunks: VecDeque<(u64, Vec<u8>)>,
    under_way: usize,
    /// Nothing arrives before.
    stalled_until: u64,
    /// Nothing can be written any more; after the last byte the reader finds the end at this time, or never.
    ends_at: Option<Option<u64>>,
    /// Both have let go.
    pub(crate) end_was_read: bool,
}

pub(crate) enum Arrival {
    Bytes(Vec<u8>),
    End,
}

impl Pipe {
    pub(crate) fn window(&self) -> usize {
        if self.ends_at.is_some() { 0 } else { WINDOW_BYTES.saturating_sub(self.under_way) }
    }

    /// What does not fit into the window must not be offered; a pipe that has ended swallows, as a socket does until the reset arrives.
    pub(crate) fn write(&mut self, now: u64, delay_ms: u64, bytes: &[u8]) {
        if self.ends_at.is_none() && !bytes.is_empty() {
            let last = self.chunks.back().map_or(0, |(at, _)| *at);
            self.chunks.push_back((last.max(now + delay_ms), bytes.to_vec()));
            self.under_way += bytes.len();
        }
    }

    pub(crate) fn stall(&mut self, until: u64) {
        self.stalled_until = self.stalled_until.max(until);
    }

    /// The writer closes: what is under way still arrives, then the end.
    pub(crate) fn finish(&mut self, now: u64) {
        let last = self.chunks.back().map_or(now, |(at, _)| (*at).max(now));
        self.ends_at.get_or_insert(Some(last));
    }

    /// The network breaks: of what is under way only the first `keep` bytes arrive, and the end is noticed at some time or never.
    pub(crate) fn cut(&mut self, mut keep: usize, noticed_at: Option<u64>) {
        for (_, chunk) in &mut self.chunks {
            chunk.truncate(keep);
            keep -= chunk.len();
        }
        self.chunks.retain(|(_, chunk)| !chunk.is_empty());
        self.under_way = self.chunks.iter().map(|(_, chunk)| chunk.len()).sum();
        self.ends_at = Some(noticed_at);
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }

    pub(crate) fn next_at(&self) -> Option<u64> {
        let arrives_at = match self.chunks.front() {
            Some((at, _)) => Some(*at),
            None if self.end_was_read => None,
            None => self.ends_at.flatten(),
        };
        arrives_at.map(|at| at.max(self.stalled_until))
    }

    /// Up to `bytes_max` of what has arrived.
    pub(crate) fn read(&mut self, now: u64, bytes_max: usize) -> Option<Arrival> {
        if self.next_at().is_none_or(|at| at > now) {
            return None;
        }
        let Some((_, chunk)) = self.chunks.front_mut() else {
            self.end_was_read = true;
            return Some(Arrival::End);
        };
        let rest = chunk.split_off(bytes_max.clamp(1, chunk.len()));
        let bytes = std::mem::replace(chunk, rest);
        self.under_way -= bytes.len();
        if chunk.is_empty() {
            self.chunks.pop_front();
        }
        Some(Arrival::Bytes(bytes))
    }
}
