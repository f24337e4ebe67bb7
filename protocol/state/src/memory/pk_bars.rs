//! The bars of PKs, one for each room. What gives way is put back from the ledger by its next gift.

use super::expiring::Expiring;
use super::lock;
use crate::port::{PK_BAR_KEPT_MS, PkBars, Result};
use crate::types::{PkBar, PkStep, PkStepped, RoomId, UserId};
use async_trait::async_trait;
use std::cmp::Ordering;
use std::sync::Mutex;

/// Bars in all: as many as there are logs of rooms. The one that no gift has moved for longest gives way. 128 bytes each (measured).
const BARS_MAX: usize = 100_000;

#[derive(Debug)]
pub(super) struct PkBarTable {
    bars: Mutex<Expiring<RoomId, PkBar>>,
    max: usize,
}

impl PkBarTable {
    pub(super) fn new() -> Self {
        Self::with_max(BARS_MAX)
    }

    pub(super) fn with_max(max: usize) -> Self {
        Self { bars: Mutex::new(Expiring::new()), max }
    }
}

/// What a step makes of the bar that stands.
fn stepped(bar: PkBar, step: PkStep) -> PkStepped {
    match bar.since_seq.cmp(&step.since_seq) {
        Ordering::Less => PkStepped::Missing,
        Ordering::Greater => PkStepped::Before(bar),
        Ordering::Equal if step.seq <= bar.seq => PkStepped::Before(bar),
        Ordering::Equal if bar.seq < step.after_seq => PkStepped::Missing,
        Ordering::Equal => PkStepped::Applied(bar.after(step.seq, step.by)),
    }
}

#[async_trait]
impl PkBars for PkBarTable {
    async fn step(&self, room: RoomId, step: PkStep, now_ms: u64) -> Result<PkStepped> {
        step.check()?;
        let mut bars = lock(&self.bars);
        bars.sweep_for(now_ms, 0);
        let Some(bar) = bars.live(&room, now_ms).copied() else { return Ok(PkStepped::Missing) };
        let stepped = stepped(bar, step);
        if let PkStepped::Applied(bar) = stepped {
            bars.insert(room, bar, now_ms.saturating_add(PK_BAR_KEPT_MS));
        }
        Ok(stepped)
    }

    async fn put(&self, room: RoomId, bar: PkBar, now_ms: u64) -> Result<PkBar> {
        bar.check()?;
        let mut bars = lock(&self.bars);
        bars.sweep_for(now_ms, 1);
        let place = |bar: &PkBar| (bar.since_seq, bar.seq);
        if let Some(standing) = bars.live(&room, now_ms)
            && place(standing) > place(&bar)
        {
            return Ok(*standing);
        }
        bars.insert(room, bar, now_ms.saturating_add(PK_BAR_KEPT_MS));
        if bars.len() > self.max {
            bars.evict_soonest();
        }
        Ok(bar)
    }

    async fn bar(&self, room: RoomId, now_ms: u64) -> Result<Option<PkBar>> {
        Ok(lock(&self.bars).live(&room, now_ms).copied())
    }

    async fn clear(&self, room: RoomId, challenger: UserId, since_seq: i64) -> Result<bool> {
        let mut bars = lock(&self.bars);
        let is_theirs = bars.stored(&room).is_some_and(|(bar, _)| bar.challenger == challenger && bar.since_seq == since_seq);
        if is_theirs {
            bars.remove(&room);
        }
        Ok(is_theirs)
    }
}
