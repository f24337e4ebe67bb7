//! When a room has to act by itself. Moments in Unix milliseconds; the room's task sleeps until the earliest.

/// The deadlines of one room.
#[derive(Debug)]
pub(crate) struct RoomTimers {
    /// Renew the lease.
    pub(crate) renew_ms: u64,
    /// Look for members that nobody here vouches for.
    pub(crate) sweep_ms: u64,
    /// Say the audience; none while it has not changed.
    pub(crate) audience_ms: Option<u64>,
    /// Go to sleep; none while anybody is here.
    pub(crate) idle_ms: Option<u64>,
    /// Work off calls that wait for a gateway's list of members.
    pub(crate) release_ms: Option<u64>,
    /// Write members into the store's set.
    pub(crate) write_ms: Option<u64>,
}

impl RoomTimers {
    /// The earliest.
    pub(crate) fn next_ms(&self) -> u64 {
        [self.audience_ms, self.idle_ms, self.release_ms, self.write_ms]
            .into_iter()
            .flatten()
            .fold(self.renew_ms.min(self.sweep_ms), u64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::RoomTimers;

    #[test]
    fn the_earliest_deadline_comes_next() {
        let mut timers = RoomTimers { renew_ms: 5, sweep_ms: 9, audience_ms: None, idle_ms: None, release_ms: None, write_ms: None };
        assert_eq!(timers.next_ms(), 5);
        timers.idle_ms = Some(4);
        assert_eq!(timers.next_ms(), 4);
        timers.audience_ms = Some(3);
        assert_eq!(timers.next_ms(), 3);
        (timers.release_ms, timers.write_ms) = (Some(2), Some(1));
        assert_eq!(timers.next_ms(), 1);
    }
}
