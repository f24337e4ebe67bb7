//! A table whose entries run out: the shape of nearly every table here.
//!
//! - An entry is good while `now < until`; reads check that, so sweeping is about memory alone and may lag.
//! - Each entry is filed once, under the second in which it was to run out. Renewing does not move the filing: when the second
//!   has passed, the sweep looks once and files anew. So a heartbeat costs one map access, and a sweep costs what has run out.
//! - A removed entry leaves its filing behind; when such leftovers outnumber the entries, the wheel is built anew.
//!
//! Measured with `examples/memory.rs`, the map's spare room included: a 16-byte key without a value takes 60 bytes.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// What each writing call sweeps for each entry it may add, so that a table cannot grow faster than it is swept.
const SWEEP_PER_ENTRY: usize = 2;
/// And at least this many, so that a table that hardly grows still empties.
const SWEEP_LEAST: usize = 8;
/// Leftover filings are tolerated up to the number of entries and this, below which building anew is not worth it.
const LEFTOVERS_MIN: usize = 64;
/// Spare room in the map that is not worth giving back.
const SHRINK_FROM: usize = 1024;
/// Width of a filing second.
const BUCKET_MS: u64 = 1000;
/// Times are kept in 48 bits (until the year 10889); a later one, as in "never", is cut to this.
const UNTIL_MAX_MS: u64 = (1 << 48) - 1;

/// When an entry runs out, 48 bits, and under which second it is filed, the low 16 bits of its number: together one word, for
/// there are tables with an entry per user. Two seconds that look alike are 18 hours apart; mistaking them costs a look more.
#[derive(Clone, Copy, Debug)]
struct Stamp(u64);

impl Stamp {
    fn new(until_ms: u64, bucket: u64) -> Self {
        Self(until_ms.min(UNTIL_MAX_MS) << 16 | (bucket & 0xffff))
    }
    fn until_ms(self) -> u64 {
        self.0 >> 16
    }
    fn filed_under(self, bucket: u64) -> bool {
        self.0 & 0xffff == bucket & 0xffff
    }
}

fn bucket_of(until_ms: u64) -> u64 {
    until_ms.min(UNTIL_MAX_MS) / BUCKET_MS
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Expiring<K, V> {
    entries: HashMap<K, (V, Stamp)>,
    wheel: BTreeMap<u64, Vec<K>>,
    filings: usize,
}

impl<K: Clone + Eq + Hash, V> Expiring<K, V> {
    pub(crate) fn new() -> Self {
        Self { entries: HashMap::new(), wheel: BTreeMap::new(), filings: 0 }
    }

    /// The value, if it is good at `now_ms`.
    pub(crate) fn live<Q: Eq + Hash + ?Sized>(&self, key: &Q, now_ms: u64) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).filter(|(_, stamp)| now_ms < stamp.until_ms()).map(|(value, _)| value)
    }

    /// The value and its end, run out or not.
    pub(crate) fn stored<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<(&V, u64)>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).map(|(value, stamp)| (value, stamp.until_ms()))
    }

    /// The value to change, run out or not.
    pub(crate) fn stored_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.entries.get_mut(key).map(|(value, _)| value)
    }

    /// Puts a value in, in the place of any other.
    pub(crate) fn insert(&mut self, key: K, value: V, until_ms: u64) {
        if let Some((old, _)) = self.entries.get_mut(&key) {
            *old = value;
            self.set_until(key, until_ms);
            return;
        }
        let bucket = bucket_of(until_ms);
        self.entries.insert(key.clone(), (value, Stamp::new(until_ms, bucket)));
        self.file(bucket, key);
    }

    /// Moves the end of an entry; nothing happens to one that is not there.
    pub(crate) fn set_until(&mut self, key: K, until_ms: u64) {
        let Some((_, stamp)) = self.entries.get_mut(&key) else { return };
        let bucket = bucket_of(until_ms);
        if bucket >= bucket_of(stamp.until_ms()) {
            // The filing is not later than the old end. Too early, it is only looked at once more.
            *stamp = Stamp::new(until_ms, stamp.0);
        } else {
            *stamp = Stamp::new(until_ms, bucket);
            self.file(bucket, key);
        }
    }

    pub(crate) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (value, _) = self.entries.remove(key)?;
        self.compact();
        self.shrink();
        Some(value)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Every entry that is good at `now_ms`, in no order. For tables that are small by nature.
    pub(crate) fn iter_live(&self, now_ms: u64) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().filter(move |(_, (_, stamp))| now_ms < stamp.until_ms()).map(|(key, (value, _))| (key, value))
    }

    /// Part of every writing call that may add `adding` entries: drops a few that have run out.
    pub(crate) fn sweep_for(&mut self, now_ms: u64, adding: usize) {
        self.sweep(now_ms, adding, |_, _| {});
    }

    /// The same, handing each dropped entry to `dropped`.
    pub(crate) fn sweep(&mut self, now_ms: u64, adding: usize, mut dropped: impl FnMut(K, V)) {
        let mut left = adding * SWEEP_PER_ENTRY + SWEEP_LEAST;
        let now_bucket = bucket_of(now_ms);
        while left > 0 {
            let Some((bucket, key)) = self.next_filing(now_bucket) else { return };
            left -= 1;
            if let Some((key, value)) = self.settle(bucket, key, now_ms) {
                dropped(key, value);
            }
        }
    }

    /// Drops at most `limit` entries whose end is before `before_ms`, exactly.
    pub(crate) fn expire_before(&mut self, before_ms: u64, limit: usize, mut dropped: impl FnMut(K, V)) {
        // "End before `before`" is "run out one millisecond earlier".
        let Some(now_ms) = before_ms.checked_sub(1) else { return };
        let mut left = limit;
        while left > 0 {
            let Some((bucket, key)) = self.next_filing(bucket_of(now_ms)) else { break };
            if let Some((key, value)) = self.settle(bucket, key, now_ms) {
                left -= 1;
                dropped(key, value);
            }
        }
        // The second that `now` lies in holds both kinds.
        let bucket = bucket_of(now_ms);
        let Some(filed) = self.wheel.remove(&bucket) else { return };
        self.filings -= filed.len();
        let mut keep = Vec::new();
        for key in filed {
            if left == 0 {
                keep.push(key);
                continue;
            }
            match self.entries.get(&key) {
                Some((_, stamp)) if !stamp.filed_under(bucket) => {}
                Some((_, stamp)) if now_ms < stamp.until_ms() && bucket_of(stamp.until_ms()) == bucket => keep.push(key),
                Some(_) => {
                    if let Some((key, value)) = self.settle(bucket, key, now_ms) {
                        left -= 1;
                        dropped(key, value);
                    }
                }
                None => {}
            }
        }
        if !keep.is_empty() {
            self.filings += keep.len();
            self.wheel.entry(bucket).or_default().extend(keep);
        }
    }

    /// Takes out an entry among those that end soonest: what gives way when the table is full.
    pub(crate) fn evict_soonest(&mut self) -> Option<(K, V)> {
        loop {
            let (bucket, key) = self.next_filing(u64::MAX)?;
            // Whatever was to end in this second ends "now", unless it has been renewed beyond it.
            if let Some(evicted) = self.settle(bucket, key, bucket * BUCKET_MS + BUCKET_MS - 1) {
                return Some(evicted);
            }
        }
    }

    /// Takes the oldest filing under a second before `bucket`.
    fn next_filing(&mut self, before: u64) -> Option<(u64, K)> {
        let mut first = self.wheel.first_entry()?;
        let bucket = *first.key();
        if bucket >= before {
            return None;
        }
        let key = first.get_mut().pop().expect("an empty second is removed at once");
        if first.get().is_empty() {
            first.remove();
        }
        self.filings -= 1;
        Some((bucket, key))
    }

    /// Decides about an entry whose filing was just taken: dropped and given, filed anew, or a leftover that is let go.
    fn settle(&mut self, bucket: u64, key: K, now_ms: u64) -> Option<(K, V)> {
        let (_, stamp) = self.entries.get_mut(&key)?;
        if !stamp.filed_under(bucket) {
            return None;
        }
        if stamp.until_ms() <= now_ms {
            let (value, _) = self.entries.remove(&key).expect("it was there a line ago");
            self.shrink();
            return Some((key, value));
        }
        let next = bucket_of(stamp.until_ms());
        *stamp = Stamp::new(stamp.until_ms(), next);
        self.file(next, key);
        None
    }

    fn file(&mut self, bucket: u64, key: K) {
        self.wheel.entry(bucket).or_default().push(key);
        self.filings += 1;
        self.compact();
    }

    /// Leftovers are bounded: at most as many as there are entries, and a few.
    fn compact(&mut self) {
        if self.filings <= 2 * self.entries.len() + LEFTOVERS_MIN {
            return;
        }
        self.wheel.clear();
        self.filings = self.entries.len();
        for (key, (_, stamp)) in &mut self.entries {
            let bucket = bucket_of(stamp.until_ms());
            *stamp = Stamp::new(stamp.until_ms(), bucket);
            self.wheel.entry(bucket).or_default().push(key.clone());
        }
    }

    /// After a storm the map gives its memory back, in steps that cost no more than the removals before them.
    fn shrink(&mut self) {
        if self.entries.capacity() > 4 * self.entries.len() + SHRINK_FROM {
            self.entries.shrink_to(2 * self.entries.len());
        }
    }
}

#[cfg(test)]
impl<K, V> Expiring<K, V> {
    pub(crate) fn filings(&self) -> usize {
        self.filings
    }
    pub(crate) fn capacity(&self) -> usize {
        self.entries.capacity()
    }
}
