//! Deadlines of a shard's connections: a hashed timing wheel, 8 bytes a filing.
//!
//! ```text
//!   now ──► slot n │ slot n+1 │ … │ slot n+1023        one slot = one tick = 128 ms; once round = 131 s
//!           [key,…]  [key,…]        [key,…]
//! ```
//!
//! - A filing says "look at this connection then", not "this is due then". Deadlines move with every frame, filings do not: who is looked
//!   at too early is filed again.
//! - A connection has at most one *far* filing, which it always has, and one *near* filing, for a deadline that came up before the far
//!   one. A near filing is never further away than [`NEAR_TICKS`], so that a still nearer deadline need not be filed again. Two filings
//!   are therefore enough, whatever the deadlines do.
//! - Filings of connections that ended stay until their time and miss.

use super::slab::SlabKey;
use billfish_session::Time;

/// A tick is `2^7` ms: heartbeats and resends are seconds, a late ACK is recorded after 200 ms.
const TICK_SHIFT: u32 = 7;
/// Slots of the wheel. Once round is 131 s, above the longest default deadline, two silent gaps of 30 s; what lies further is looked at once on the way.
const SLOTS: usize = 1024;
/// How far ahead a near filing may lie.
const NEAR_TICKS: u64 = 2;
/// Set in a filing's generation-free half: it is the near one. No slab has `2^31` places.
const NEAR_BIT: u32 = 1 << 31;

/// What a connection remembers of its filings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Filed {
    /// Tick of the far filing, cut to 32 bits: good for 17 years.
    far: u32,
    near: bool,
}

/// A filing whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fired {
    pub(super) key: SlabKey,
    near: bool,
}

#[derive(Clone, Copy, Debug)]
struct Filing {
    index_and_near: u32,
    generation: u32,
}

const _: () = assert!(size_of::<Filing>() == 8, "8 bytes per connection");

/// The wheel.
#[derive(Debug)]
pub(super) struct Wheel {
    slots: Vec<Vec<Filing>>,
    /// The next tick that has not been handled.
    next_tick: u64,
    filings: usize,
}

impl Wheel {
    pub(super) fn new(now: Time) -> Self {
        let slots = std::iter::repeat_with(Vec::new).take(SLOTS).collect();
        Self { slots, next_tick: tick_at_or_before(now), filings: 0 }
    }

    /// Files a connection that is new, or whose far filing has just fired.
    pub(super) fn file_far(&mut self, key: SlabKey, deadline: Time, filed: &mut Filed) {
        let tick = tick_at_or_after(deadline).clamp(self.next_tick, self.next_tick + SLOTS as u64 - 1);
        filed.far = cut(tick);
        self.file(tick, key.index, key.generation);
    }

    /// Sees to it that a connection is looked at no later than its deadline, a tick apart.
    pub(super) fn want(&mut self, key: SlabKey, deadline: Time, filed: &mut Filed) {
        if filed.near {
            return;
        }
        let tick = tick_at_or_after(deadline).max(self.next_tick);
        // Both within one turn of the wheel from `next_tick`, so the distance is what the cut ticks say.
        let far_distance = filed.far.wrapping_sub(cut(self.next_tick));
        if tick - self.next_tick >= u64::from(far_distance) {
            return;
        }
        filed.near = true;
        self.file(tick.min(self.next_tick + NEAR_TICKS), key.index | NEAR_BIT, key.generation);
    }

    /// Takes the filings of every tick up to `now`.
    pub(super) fn fire_into(&mut self, now: Time, out: &mut Vec<Fired>) {
        let last = tick_at_or_before(now);
        // After a long sleep (a suspended machine) once round is everything there is.
        if last >= self.next_tick + SLOTS as u64 {
            self.next_tick = last - SLOTS as u64 + 1;
        }
        while self.next_tick <= last {
            // Freed, not kept: a stampede's slot would stay large for ever, and the next one hits another slot.
            let slot = std::mem::take(&mut self.slots[slot_of(self.next_tick)]);
            self.filings -= slot.len();
            out.extend(slot.into_iter().map(|filing| Fired {
                key: SlabKey { index: filing.index_and_near & !NEAR_BIT, generation: filing.generation },
                near: filing.index_and_near & NEAR_BIT != 0,
            }));
            self.next_tick += 1;
        }
    }

    /// A connection has been looked at: files it again, for `deadline`, as `fired` requires.
    pub(super) fn refile(&mut self, fired: Fired, deadline: Time, filed: &mut Filed) {
        if fired.near {
            filed.near = false;
            self.want(fired.key, deadline, filed);
        } else {
            self.file_far(fired.key, deadline, filed);
        }
    }

    /// When the next tick ends that has something to do; `None` when nothing is filed.
    pub(super) fn next_tick_at(&self) -> Option<Time> {
        // The tick itself, filled or not: eight wake-ups a second cost nothing, and a search would cost more.
        (self.filings > 0).then_some(Time(self.next_tick << TICK_SHIFT))
    }

    /// Filings, stale ones among them.
    pub(super) const fn filings(&self) -> usize {
        self.filings
    }

    fn file(&mut self, tick: u64, index_and_near: u32, generation: u32) {
        self.slots[slot_of(tick)].push(Filing { index_and_near, generation });
        self.filings += 1;
    }
}

/// A deadline is met at the first tick that is not before it.
const fn tick_at_or_after(deadline: Time) -> u64 {
    deadline.0.div_ceil(1 << TICK_SHIFT)
}

const fn tick_at_or_before(now: Time) -> u64 {
    now.0 >> TICK_SHIFT
}

const fn cut(tick: u64) -> u32 {
    (tick & 0xffff_ffff) as u32
}

const fn slot_of(tick: u64) -> usize {
    (tick % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::{Filed, Fired, NEAR_TICKS, SLOTS, TICK_SHIFT, Wheel};
    use crate::shard::slab::SlabKey;
    use billfish_session::Time;
    use proptest::prelude::*;

    const KEY: SlabKey = SlabKey { index: 7, generation: 3 };
    const TICK_MS: u64 = 1 << TICK_SHIFT;

    fn fire(wheel: &mut Wheel, now: u64) -> Vec<Fired> {
        let mut fired = Vec::new();
        wheel.fire_into(Time(now), &mut fired);
        fired
    }

    #[test]
    fn a_filing_fires_at_its_tick_and_not_before() {
        let mut wheel = Wheel::new(Time(0));
        let mut filed = Filed::default();
        wheel.file_far(KEY, Time(5_000), &mut filed);
        assert_eq!(fire(&mut wheel, 4_999), []);
        assert_eq!(fire(&mut wheel, 5_000 + TICK_MS), [Fired { key: KEY, near: false }]);
        assert_eq!(wheel.filings(), 0);
    }

    #[test]
    fn a_deadline_beyond_the_wheel_is_looked_at_once_round() {
        let mut wheel = Wheel::new(Time(0));
        let mut filed = Filed::default();
        wheel.file_far(KEY, Time::NEVER, &mut filed);
        assert_eq!(fire(&mut wheel, (SLOTS as u64 - 1) * TICK_MS), [Fired { key: KEY, near: false }]);
    }

    #[test]
    fn a_long_sleep_fires_everything_once() {
        let mut wheel = Wheel::new(Time(0));
        for index in 0..100 {
            wheel.file_far(SlabKey { index, generation: 1 }, Time(u64::from(index) * 1_000), &mut Filed::default());
        }
        assert_eq!(fire(&mut wheel, 1 << 40).len(), 100);
        let mut filed = Filed::default();
        wheel.file_far(KEY, Time((1 << 40) + 5_000), &mut filed);
        assert_eq!(fire(&mut wheel, (1 << 40) + 5_000 + TICK_MS).len(), 1);
    }

    proptest! {
        /// Whatever a connection's deadline does, it is looked at within a tick of it, and it never has more than two filings.
        #[test]
        fn no_deadline_is_missed(
            start in 0u64..(1 << 41),
            steps in prop::collection::vec((1u64..3_000, prop::option::of(prop_oneof![1u64..400, 1u64..70_000, 100_000u64..400_000])), 1..200),
        ) {
            let mut now = start;
            let mut wheel = Wheel::new(Time(now));
            let mut filed = Filed::default();
            let mut deadline = now + 60_000;
            wheel.file_far(KEY, Time(deadline), &mut filed);
            for (passed, new_deadline) in steps {
                // Time passes in steps of a tick, as a reactor's loop would see it.
                for _ in 0..passed.div_ceil(TICK_MS) {
                    now += TICK_MS;
                    let fired = fire(&mut wheel, now);
                    let looked_at = !fired.is_empty();
                    for one in fired {
                        if now >= deadline {
                            deadline = now + 60_000;
                        }
                        wheel.refile(one, Time(deadline), &mut filed);
                    }
                    prop_assert!(looked_at || now < deadline + 2 * TICK_MS, "missed {deadline} at {now}");
                    prop_assert!((1..=2).contains(&wheel.filings()));
                }
                if let Some(after) = new_deadline {
                    deadline = now + after;
                    wheel.want(KEY, Time(deadline), &mut filed);
                }
            }
        }
    }

    #[test]
    fn a_nearer_deadline_than_the_near_one_needs_no_second_filing() {
        let mut wheel = Wheel::new(Time(0));
        let mut filed = Filed::default();
        wheel.file_far(KEY, Time(60_000), &mut filed);
        wheel.want(KEY, Time(4_000), &mut filed);
        wheel.want(KEY, Time(200), &mut filed);
        assert_eq!(wheel.filings(), 2);
        assert_eq!(fire(&mut wheel, NEAR_TICKS * TICK_MS).len(), 1);
    }
}
