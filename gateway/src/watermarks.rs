//! How near this process is to the end of its files and of its memory, and what is given up before it gets there.
//!
//! ```text
//!  files     |---- all are let in ----| 92 %: refused, and told to go elsewhere | 95 %: left in the kernel's queue |
//!  memory    |---- as ever ----| 85 %: no chat, no likes | 95 %: no logins either |
//! ```
//!
//! - Looked at each second; between two looks files are counted as connections come, so that no stampede runs past a mark.
//! - Memory is what is resident of the whole process, as the kernel counts it when it kills: a router in the same process is in it.
//! - Nothing here ends a session. Who is in stays in, and what must not be lost is not.

use crate::{
    admission::Gate,
    commands::Shards,
    config::{FilesConfig, MemoryConfig},
    memory::{cgroup_limit_bytes, resident_bytes},
    shard::message::ShardCommand,
};
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The marks, and where the process stands.
#[derive(Debug)]
pub(crate) struct Watermarks {
    files_refuse_from: u64,
    files_stop_from: u64,
    /// 0: there is none.
    budget_bytes: u64,
    shed_from_bytes: u64,
    refuse_from_bytes: u64,
    /// Open files that are no admitted connection's.
    other_files: AtomicU64,
    resident_bytes: AtomicU64,
}

impl Watermarks {
    pub(crate) fn new(files: &FilesConfig, memory: &MemoryConfig) -> Self {
        let budget_bytes = if memory.budget_bytes > 0 { memory.budget_bytes } else { cgroup_limit_bytes().unwrap_or(0) };
        Self::of(files_max(), budget_bytes, files, memory)
    }

    fn of(files_max: u64, budget_bytes: u64, files: &FilesConfig, memory: &MemoryConfig) -> Self {
        let share = |of: u64, percent: u32| u64::try_from(u128::from(of) * u128::from(percent) / 100).unwrap_or(u64::MAX);
        let bytes = |percent| if budget_bytes == 0 { u64::MAX } else { share(budget_bytes, percent) };
        Self {
            files_refuse_from: share(files_max, files.refuse_percent),
            files_stop_from: share(files_max, files.stop_percent),
            budget_bytes,
            shed_from_bytes: bytes(memory.shed_percent),
            refuse_from_bytes: bytes(memory.refuse_percent),
            other_files: AtomicU64::new(0),
            resident_bytes: AtomicU64::new(0),
        }
    }

    /// Whether one connection more than these is to be sent elsewhere.
    pub(crate) fn refuses_connections(&self, connections: u32) -> bool {
        self.files(connections) >= self.files_refuse_from
    }

    /// Open files from which on connections are refused.
    pub(crate) const fn files_refuse_from(&self) -> u64 {
        self.files_refuse_from
    }

    /// Whether one connection more than these is not even to be accepted.
    pub(crate) fn stops_accepting(&self, connections: u32) -> bool {
        self.files(connections) >= self.files_stop_from
    }

    fn files(&self, connections: u32) -> u64 {
        self.other_files.load(Relaxed).saturating_add(u64::from(connections))
    }

    /// Whether pushes that may be lost are not made.
    pub(crate) fn sheds(&self) -> bool {
        self.resident_bytes.load(Relaxed) >= self.shed_from_bytes
    }

    /// Whether nobody is let in.
    pub(crate) fn refuses_logins(&self) -> bool {
        self.resident_bytes.load(Relaxed) >= self.refuse_from_bytes
    }

    /// 0: there is none.
    pub(crate) const fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// Sees where the process stands, with so many connections.
    pub(crate) fn look(&self, connections: u32) {
        if let Some(files) = open_files() {
            self.saw_files(files, connections);
        }
        self.resident_bytes.store(resident_bytes().unwrap_or_default(), Relaxed);
    }

    fn saw_files(&self, files: u64, connections: u32) {
        self.other_files.store(files.saturating_sub(u64::from(connections)), Relaxed);
    }

    /// Looks each second, and tells the shards when a mark is passed, until `stop`.
    pub(crate) async fn run(&self, gate: &Gate, shards: &Shards, stop: &CancellationToken) {
        let (mut sheds, mut refuses) = (false, false);
        loop {
            self.look(gate.connections());
            let (resident_bytes, budget_bytes) = (self.resident_bytes.load(Relaxed), self.budget_bytes);
            if std::mem::replace(&mut sheds, self.sheds()) != sheds {
                match sheds {
                    true => warn!(resident_bytes, budget_bytes, "memory is short: chat and likes are not passed on"),
                    false => info!(resident_bytes, budget_bytes, "memory suffices: everything is passed on"),
                }
                let mut commands = shards.gather();
                for shard in shards.numbers() {
                    commands.add(shard, ShardCommand::Shed { sheds });
                }
                shards.give(&mut commands).await;
            }
            if std::mem::replace(&mut refuses, self.refuses_logins()) != refuses && refuses {
                warn!(resident_bytes, budget_bytes, "memory is out: nobody is let in");
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Files this process may have open.
pub(crate) fn files_max() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(FILES_UNLIMITED).min(FILES_UNLIMITED)
}

/// Files this process has open; `None` where there is no `/proc`.
pub(crate) fn open_files() -> Option<u64> {
    // Since Linux 6.2 the directory's size is their number; before that it is 0, and they are counted.
    match std::fs::metadata(FILES).ok()?.len() {
        0 => Some(std::fs::read_dir(FILES).ok()?.count() as u64),
        files => Some(files),
    }
}

const FILES: &str = "/proc/self/fd";
/// Where the system sets no limit; slab indices and memory set one.
const FILES_UNLIMITED: u64 = 10_000_000;
/// Memory does not grow by a twentieth of a budget in less.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
impl Watermarks {
    /// Marks that nothing reaches.
    pub(crate) fn far() -> Self {
        Self::of(u64::from(u32::MAX) * 4, 0, &FilesConfig::default(), &MemoryConfig::default())
    }

    /// Those of a process that may open so many files, of which so many are taken.
    pub(crate) fn with_files(files_max: u64, other_files: u64) -> Self {
        let marks = Self::of(files_max, 0, &FilesConfig::default(), &MemoryConfig::default());
        marks.saw_files(other_files, 0);
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::{Watermarks, open_files};
    use crate::config::{FilesConfig, MemoryConfig};
    use std::{fs::File, sync::atomic::Ordering::Relaxed};

    #[test]
    fn a_file_more_than_92_percent_is_refused_and_one_more_than_95_not_accepted() {
        let marks = Watermarks::of(1_000, 0, &FilesConfig::default(), &MemoryConfig::default());
        marks.saw_files(120, 20);
        assert!(!marks.refuses_connections(819), "919 files");
        assert!(marks.refuses_connections(820) && !marks.stops_accepting(849));
        assert!(marks.stops_accepting(850));
    }

    /// 18,000 connections on a gateway of 20,000 files, and what else it has open.
    #[test]
    fn as_many_connections_as_there_may_be_do_not_reach_the_mark() {
        let marks = Watermarks::of(20_000, 0, &FilesConfig::default(), &MemoryConfig::default());
        marks.saw_files(100, 0);
        assert!(!marks.refuses_connections(18_000));
    }

    #[test]
    fn each_mark_of_memory_is_passed_by_one_byte() {
        let marks = Watermarks::of(1_000, 1_000_000, &FilesConfig::default(), &MemoryConfig::default());
        for (resident_bytes, sheds, refuses) in
            [(849_999, false, false), (850_000, true, false), (949_999, true, false), (950_000, true, true)]
        {
            marks.resident_bytes.store(resident_bytes, Relaxed);
            assert_eq!((marks.sheds(), marks.refuses_logins()), (sheds, refuses), "{resident_bytes}");
        }
    }

    #[test]
    fn without_a_budget_there_is_no_mark() {
        let marks = Watermarks::of(1_000, 0, &FilesConfig::default(), &MemoryConfig::default());
        marks.resident_bytes.store(u64::MAX - 1, Relaxed);
        assert!(!marks.sheds() && !marks.refuses_logins());
    }

    #[test]
    fn open_files_are_counted() {
        // Other tests open and close theirs meanwhile; a hundred at a time they do not.
        let before = open_files().unwrap();
        let held: Vec<File> = (0..200).map(|_| File::open("/dev/null").unwrap()).collect();
        assert!(open_files().unwrap() >= before + 100, "{} more", held.len());
    }
}
