//! What the kernel knows: CPU time and memory of the servers, and this process's own limits.

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::{
    fs,
    ops::Sub,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

/// CPU time and memory of the server's processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Seconds of CPU, user and kernel.
    pub(crate) cpu_s: f64,
    /// Resident bytes.
    pub(crate) rss_bytes: u64,
}

impl Usage {
    /// Reads `/proc` for every pid; `None` when no pid was given.
    pub(crate) fn of(pids: &[u32]) -> Result<Option<Self>> {
        if pids.is_empty() {
            return Ok(None);
        }
        let mut sum = Self::default();
        for &pid in pids {
            let stat =
                fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("no process {pid} to read CPU time from"))?;
            let statm =
                fs::read_to_string(format!("/proc/{pid}/statm")).with_context(|| format!("no process {pid} to read memory from"))?;
            sum.cpu_s += cpu_seconds(&stat).with_context(|| format!("/proc/{pid}/stat has an unknown form"))?;
            sum.rss_bytes += resident_pages(&statm).with_context(|| format!("/proc/{pid}/statm has an unknown form"))?
                * u64::try_from(rustix::param::page_size()).expect("a page is small");
        }
        Ok(Some(sum))
    }
}

/// Looks at the memory of processes again and again, for the highest.
#[derive(Debug)]
pub(crate) struct MemoryPeak {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<u64>,
}

/// Between two looks: the backlog of a slow reader takes seconds to fill.
const LOOK_EVERY: Duration = Duration::from_millis(200);

impl MemoryPeak {
    /// Begins to look.
    pub(crate) fn watch(pids: Vec<u32>) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut highest = 0;
            loop {
                // A server that is gone has no memory; that it is gone fails the run elsewhere.
                highest = highest.max(Usage::of(&pids).ok().flatten().map_or(0, |usage| usage.rss_bytes));
                if stopped.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Timeout) {
                    return highest;
                }
            }
        });
        Self { stop, thread }
    }

    /// Ends, with the highest sum of resident bytes seen.
    pub(crate) fn end(self) -> u64 {
        drop(self.stop);
        self.thread.join().expect("looking does not panic")
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { cpu_s: self.cpu_s - earlier.cpu_s, rss_bytes: self.rss_bytes.saturating_sub(earlier.rss_bytes) }
    }
}

/// Fields 14 and 15 of proc(5), counted behind the command name, which may hold spaces and brackets.
#[expect(clippy::cast_precision_loss, reason = "clock ticks of a run are far below 2^52")]
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some((user + kernel) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Raises the soft limit of open files to the hard one and returns it.
pub(crate) fn raise_open_files() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let hard = limit.maximum;
        limit.current = hard;
        // A refusal leaves the soft limit, which is what the caller is told.
        if setrlimit(Resource::Nofile, limit).is_err() {
            limit = getrlimit(Resource::Nofile);
        }
    }
    limit.current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{MemoryPeak, Usage, cpu_seconds, resident_pages};

    #[test]
    fn a_command_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 1 0 5 6 7";
        let ticks = rustix::param::clock_ticks_per_second();
        assert_eq!(ticks, 100, "Linux has had 100 ticks per second for user space for ever");
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(cpu_seconds("nonsense"), None);
        assert_eq!(resident_pages("10 7 3 1 0 2 0"), Some(7));
    }

    #[test]
    fn this_process_has_memory_and_a_missing_one_is_an_error() {
        let own = Usage::of(&[std::process::id()]).expect("this process exists").expect("a pid was given");
        assert!(own.rss_bytes > 0);
        assert_eq!(Usage::of(&[]).expect("nothing to read"), None);
        assert!(Usage::of(&[u32::MAX]).is_err());
    }

    #[test]
    fn the_highest_memory_of_this_process_is_seen_even_by_one_look() {
        assert!(MemoryPeak::watch(vec![std::process::id()]).end() > 0);
        assert_eq!(MemoryPeak::watch(vec![u32::MAX]).end(), 0);
    }
}
