//! Writes to the shared state that nobody waits for: gathered for a moment, written in one call, tried again when the store is away.
//!
//! - A key stands at most once: what is put in later replaces what waits. The order of two writes to one key is kept, of two keys not.
//! - A batch says for itself how long it gathers and how much is one write.
//! - Bounded. A new key that finds no room is given up and counted; putting in never waits.
//! - An entry counts as waiting until its write succeeded, so that [`Batch::contains`] never says "no" too early.

use crate::{
    metrics::{ControlCounters, Port},
    shard::counters::Gauge,
    store::Away,
};
use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Most entries of one write, unless a batch says otherwise.
const WRITE_ENTRIES_MAX: usize = 512;

/// What waits to be written.
#[derive(Debug)]
pub(crate) struct Batch<K, V> {
    waiting: Mutex<Waiting<K, V>>,
    filled: Notify,
    port: Port,
    entries_max: usize,
    gather: Duration,
    write_entries_max: usize,
    counters: Arc<ControlCounters>,
}

#[derive(Debug)]
struct Waiting<K, V> {
    entries: HashMap<K, (V, u64), foldhash::fast::RandomState>,
    /// Tells a value that was replaced while it was being written.
    version: u64,
}

/// What a batch is written by.
pub(crate) trait Write<K, V>: Sync {
    /// Writes entries, all or none as far as the caller is concerned: a failed write is repeated whole.
    fn write(&self, entries: &[(K, V)]) -> impl Future<Output = Result<(), Away>> + Send;
}

impl<K: Clone + Eq + Hash + Send + Sync, V: Clone + Send + Sync> Batch<K, V> {
    /// An empty one for a port, holding at most `entries_max`, written at latest `gather` after its first entry.
    pub(crate) fn new(port: Port, entries_max: usize, gather: Duration, counters: Arc<ControlCounters>) -> Self {
        let waiting = Mutex::new(Waiting { entries: HashMap::default(), version: 0 });
        Self { waiting, filled: Notify::new(), port, entries_max, gather, write_entries_max: WRITE_ENTRIES_MAX, counters }
    }

    /// So many entries are one write, and are not waited for any longer.
    pub(crate) fn in_writes_of(self, write_entries_max: usize) -> Self {
        Self { write_entries_max, ..self }
    }

    /// Puts a write in, in place of the one that waits for the same key.
    pub(crate) fn put(&self, key: K, value: V) {
        let count = {
            let mut waiting = self.waiting();
            if waiting.entries.len() >= self.entries_max && !waiting.entries.contains_key(&key) {
                self.counters.state_given_up[self.port as usize].add(1);
                return;
            }
            waiting.version += 1;
            let version = waiting.version;
            if waiting.entries.insert(key, (value, version)).is_none() {
                self.pending().raise(1);
            }
            waiting.entries.len()
        };
        if count == 1 || count == self.write_entries_max {
            self.filled.notify_one();
        }
    }

    /// What waits for the key is not written any more; a write that is under way goes on.
    pub(crate) fn forget(&self, key: &K) {
        let mut waiting = self.waiting();
        if waiting.entries.remove(key).is_some() {
            self.pending().lower(1);
        }
    }

    /// Whether a write for the key waits, or is under way.
    pub(crate) fn contains(&self, key: &K) -> bool {
        self.waiting().entries.contains_key(key)
    }

    /// Writes what is put in, until `stop`; then what is left, as long as the store takes it.
    pub(crate) async fn run(&self, stop: &CancellationToken, writer: &impl Write<K, V>) {
        let mut backoff = BACKOFF_MIN;
        loop {
            if self.is_empty() {
                tokio::select! {
                    () = self.filled.notified() => continue,
                    () = stop.cancelled() => return,
                }
            }
            if !stop.is_cancelled() {
                self.gather_more(stop).await;
            }
            if self.write_once(writer).await.is_ok() {
                backoff = BACKOFF_MIN;
            } else if stop.is_cancelled() {
                return;
            } else {
                tokio::select! {
                    () = tokio::time::sleep(backoff) => {}
                    () = stop.cancelled() => {}
                }
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }

    async fn gather_more(&self, stop: &CancellationToken) {
        let enough = async {
            while self.len() < self.write_entries_max {
                self.filled.notified().await;
            }
        };
        tokio::select! {
            () = enough => {}
            () = tokio::time::sleep(self.gather) => {}
            () = stop.cancelled() => {}
        }
    }

    async fn write_once(&self, writer: &impl Write<K, V>) -> Result<(), Away> {
        let (entries, versions): (Vec<(K, V)>, Vec<u64>) = {
            let waiting = self.waiting();
            let some = waiting.entries.iter().take(self.write_entries_max);
            some.map(|(key, (value, version))| ((key.clone(), value.clone()), *version)).unzip()
        };
        let written = writer.write(&entries).await;
        let mut waiting = self.waiting();
        if written.is_ok() {
            for ((key, _), version) in entries.iter().zip(versions) {
                // Replaced meanwhile: it stays, to be written as well.
                if waiting.entries.get(key).is_some_and(|(_, now)| *now == version) {
                    waiting.entries.remove(key);
                    self.pending().lower(1);
                }
            }
            if waiting.entries.is_empty() && waiting.entries.capacity() > KEEP_WRITES_MAX * self.write_entries_max {
                waiting.entries = HashMap::default();
            }
        }
        written
    }

    /// Of all batches of the port.
    fn pending(&self) -> &Gauge {
        &self.counters.state_pending[self.port as usize]
    }

    fn len(&self) -> usize {
        self.waiting().entries.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<K, V>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// First wait after a failed write.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between two tries: a store that is back is used again within this.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A map that once held more than so many writes is not kept when it is empty: one outage must not pin its memory for ever.
const KEEP_WRITES_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::{Batch, WRITE_ENTRIES_MAX, Write};
    use crate::{
        metrics::{ControlCounters, Port},
        store::Away,
    };
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };
    use tokio_util::sync::CancellationToken;

    struct Writer {
        failures: Mutex<u32>,
        written: Written,
    }

    impl Write<u32, char> for Writer {
        async fn write(&self, entries: &[(u32, char)]) -> Result<(), Away> {
            let mut failures = self.failures.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                return Err(Away);
            }
            self.written.lock().unwrap().push(entries.to_vec());
            Ok(())
        }
    }

    type Written = Arc<Mutex<Vec<Vec<(u32, char)>>>>;

    fn batch(entries_max: usize) -> (Arc<Batch<u32, char>>, Arc<ControlCounters>) {
        let counters = Arc::new(ControlCounters::default());
        (Arc::new(Batch::new(Port::Acks, entries_max, Duration::from_millis(100), Arc::clone(&counters))), counters)
    }

    /// A writer that fails `failures` times first.
    fn start(batch: &Arc<Batch<u32, char>>, failures: u32) -> (tokio::task::JoinHandle<()>, CancellationToken, Written) {
        let (stop, written) = (CancellationToken::new(), Written::default());
        let (batch, stop_too, written_too) = (Arc::clone(batch), stop.clone(), Arc::clone(&written));
        let task = tokio::spawn(async move {
            batch.run(&stop_too, &Writer { failures: Mutex::new(failures), written: written_too }).await;
        });
        (task, stop, written)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_within_the_gathering_time_is_one_write_and_the_last_value_counts() {
        let (batch, _) = batch(10);
        let (task, stop, written) = start(&batch, 0);
        batch.put(1, 'a');
        tokio::time::sleep(Duration::from_millis(50)).await;
        batch.put(1, 'b');
        assert!(written.lock().unwrap().is_empty());
        tokio::time::sleep(Duration::from_millis(51)).await;
        assert_eq!(*written.lock().unwrap(), [[(1, 'b')]]);
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_does_not_wait() {
        let (batch, _) = batch(10_000);
        let (task, stop, written) = start(&batch, 0);
        let before = tokio::time::Instant::now();
        for key in 0..WRITE_ENTRIES_MAX as u32 {
            batch.put(key, 'a');
        }
        while written.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
            assert_eq!(before.elapsed(), Duration::ZERO);
        }
        assert_eq!(written.lock().unwrap()[0].len(), WRITE_ENTRIES_MAX);
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_write_is_tried_again_and_waits_as_long() {
        let (batch, _) = batch(10);
        let (task, stop, written) = start(&batch, 3);
        batch.put(1, 'a');
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(batch.contains(&1), "not written yet");
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(*written.lock().unwrap(), [[(1, 'a')]]);
        assert!(!batch.contains(&1));
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_writes_what_is_left() {
        let (batch, _) = batch(10);
        let (task, stop, written) = start(&batch, 0);
        batch.put(1, 'a');
        stop.cancel();
        task.await.unwrap();
        assert_eq!(*written.lock().unwrap(), [[(1, 'a')]]);
    }

    #[tokio::test]
    async fn what_waits_for_a_port_is_the_sum_of_its_batches() {
        let (first, counters) = batch(10);
        let second = Batch::new(Port::Acks, 10, Duration::ZERO, Arc::clone(&counters));
        let pending = || counters.state_pending[Port::Acks as usize].value();
        for key in [1, 2, 2, 3] {
            first.put(key, 'a');
            second.put(key, 'b');
        }
        second.forget(&3);
        second.forget(&3);
        assert_eq!(pending(), 5);
        let (task, stop, _) = start(&first, 0);
        stop.cancel();
        task.await.unwrap();
        assert_eq!(pending(), 2);
    }

    #[tokio::test]
    async fn what_finds_no_room_is_given_up_and_counted() {
        let (batch, counters) = batch(2);
        for key in [1, 2, 3] {
            batch.put(key, 'a');
        }
        batch.put(1, 'b');
        assert_eq!(counters.state_given_up[Port::Acks as usize].value(), 1);
        assert!(batch.contains(&1) && batch.contains(&2) && !batch.contains(&3));
    }
}
