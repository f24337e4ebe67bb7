//! What the nodes take of the machine, looked at once a second while a run goes on, and how busy the machine was.
//!
//! A node is followed over its lives: its start is how it was before the load, its peak the largest of all its lives.

use billfish_testing::Node;
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::Duration,
};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// How much a node may grow under a run's load. The promise is 256 MiB and what its connections take; with some hundred of them nodes grow by
/// less than 10, so a node that takes a quarter of it has a leak or a queue without a bound.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// What one process takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory.
    pub rss_bytes: u64,
    /// Open files and sockets, but for those of the SQLite pool: it opens connections as they are needed, up to its own bound, and keeps them.
    pub fds: usize,
    /// Threads.
    pub threads: usize,
}

impl Usage {
    /// Of a running process.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let number = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok());
        Some(Self {
            rss_bytes: number("VmRSS:")? * 1_024,
            fds: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().filter(|file| !is_of_records(&file.path())).count(),
            threads: usize::try_from(number("Threads:")?).ok()?,
        })
    }

    fn max(self, other: Self) -> Self {
        Self { rss_bytes: self.rss_bytes.max(other.rss_bytes), fds: self.fds.max(other.fds), threads: self.threads.max(other.threads) }
    }
}

/// An open file that is the records' database, its log or its index.
fn is_of_records(descriptor: &Path) -> bool {
    // One that was closed meanwhile leads nowhere.
    fs::read_link(descriptor).is_ok_and(|file| file.file_name().is_some_and(|name| name.to_string_lossy().contains(".db")))
}

/// One node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vital {
    /// Before the load.
    pub start: Usage,
    /// The most of each, of all its lives.
    pub peak: Usage,
}

impl Vital {
    /// By how much memory grew.
    #[must_use]
    pub fn growth_bytes(&self) -> u64 {
        self.peak.rss_bytes.saturating_sub(self.start.rss_bytes)
    }
}

/// The one who looks.
#[derive(Debug)]
pub struct Vitals {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    nodes: Mutex<BTreeMap<String, Watched>>,
    /// Sum, count and largest of the machine's load averages.
    load: Mutex<(f64, u32, f64)>,
    is_over: AtomicBool,
}

#[derive(Debug)]
struct Watched {
    pid: Arc<AtomicU32>,
    vital: Vital,
}

impl Vitals {
    /// Begins to look.
    #[must_use]
    pub fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let looking = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            while !looking.is_over.load(Ordering::Relaxed) {
                looking.look();
                sleep(LOOK);
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Follows a node from here on; one that is followed already is not followed twice.
    pub fn follow(&self, node: &Node) {
        let start = node.pid().and_then(Usage::of).unwrap_or_default();
        self.shared
            .nodes()
            .entry(node.name().to_owned())
            .or_insert_with(|| Watched { pid: node.current_pid(), vital: Vital { start, peak: start } });
    }

    /// What was seen so far, by node.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<String, Vital> {
        self.shared.nodes().iter().map(|(name, watched)| (name.clone(), watched.vital)).collect()
    }

    /// Load average of the machine, its mean and its largest while this looked.
    #[must_use]
    pub fn machine_load(&self) -> (f64, f64) {
        let (sum, count, largest) = *self.shared.load.lock().unwrap_or_else(PoisonError::into_inner);
        (sum / f64::from(count.max(1)), largest)
    }
}

impl Drop for Vitals {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // One that panicked has ended too.
        self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Watched>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) {
        for watched in self.nodes().values_mut() {
            let pid = watched.pid.load(Ordering::Relaxed);
            if let Some(usage) = Some(pid).filter(|pid| *pid != 0).and_then(Usage::of) {
                watched.vital.peak = watched.vital.peak.max(usage);
            }
        }
        let average = fs::read_to_string("/proc/loadavg").ok();
        if let Some(average) = average.and_then(|text| text.split(' ').next()?.parse::<f64>().ok()) {
            let mut load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
            *load = (load.0 + average, load.1 + 1, load.2.max(average));
        }
    }
}

/// Nodes that grew beyond the bound, in words.
#[must_use]
pub fn too_large(seen: &BTreeMap<String, Vital>) -> Vec<String> {
    let grown = seen.iter().filter(|(_, vital)| vital.growth_bytes() > GROWTH_BYTES_MAX);
    grown
        .map(|(name, vital)| format!("{name} grew by {} MiB from {} MiB", vital.growth_bytes() >> 20, vital.start.rss_bytes >> 20))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{GROWTH_BYTES_MAX, Usage, Vital, is_of_records, too_large};
    use std::{collections::BTreeMap, fs::File, os::fd::AsRawFd as _, path::Path, process};

    #[test]
    fn a_process_takes_memory_files_and_threads() {
        let usage = Usage::of(process::id()).expect("it runs");
        assert!(usage.rss_bytes > 1 << 20 && usage.fds >= 3 && usage.threads >= 1, "{usage:?}");
        assert_eq!(Usage::of(u32::MAX), None);
    }

    #[test]
    fn only_the_files_of_the_records_are_left_out() {
        let directory = tempfile::tempdir().unwrap();
        for (name, is_left_out) in [("billfish.db", true), ("billfish.db-wal", true), ("billfish.log", false)] {
            let file = File::create(directory.path().join(name)).unwrap();
            let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
            assert_eq!(is_of_records(Path::new(&descriptor)), is_left_out, "{name}");
        }
    }

    #[test]
    fn a_node_beyond_the_bound_is_named() {
        let start = Usage { rss_bytes: 20 << 20, ..Usage::default() };
        let grown = |by: u64| Vital { start, peak: Usage { rss_bytes: start.rss_bytes + by, ..start } };
        let seen =
            BTreeMap::from([("gateway-1".to_owned(), grown(GROWTH_BYTES_MAX)), ("router-1".to_owned(), grown(GROWTH_BYTES_MAX + 1))]);
        let told = too_large(&seen);
        assert!(told.len() == 1 && told[0].starts_with("router-1 grew by 64 MiB"), "{told:?}");
    }
}
