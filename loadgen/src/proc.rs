//! What the kernel knows: CPU time and memory of the servers, and this process's own limits.
//!
//! CPU time is the clock that each process has (`clock_getcpuclockid(3)`), not the fields of `/proc/PID/stat`: those are cut off at ticks of
//! 10 ms, which is more than a few hundred logins cost. The clock is in nanoseconds, of all threads, those that have ended among them.

use anyhow::{Context, Result};
use nix::{time::ClockId, unistd::Pid};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::{
    collections::BTreeMap,
    fs,
    ops::Sub,
    str::FromStr,
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
    /// Reads clock and memory of every pid; `None` when no pid was given.
    pub(crate) fn of(pids: &[u32]) -> Result<Option<Self>> {
        if pids.is_empty() {
            return Ok(None);
        }
        let mut sum = Self::default();
        for &pid in pids {
            sum.cpu_s += cpu_time(pid).with_context(|| format!("no process {pid} to read CPU time from"))?.as_secs_f64();
            let statm =
                fs::read_to_string(format!("/proc/{pid}/statm")).with_context(|| format!("no process {pid} to read memory from"))?;
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

/// A process and what it is called in a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) pid: u32,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not NAME=PID");
        let (name, pid) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(wrong)?;
        Ok(Self { name: name.to_owned(), pid: pid.parse().map_err(|_| wrong())? })
    }
}

/// Seconds of CPU by name.
pub(crate) fn cpu_by_name(processes: &[Named]) -> Result<BTreeMap<String, f64>> {
    let mut by_name = BTreeMap::new();
    for Named { name, pid } in processes {
        let cpu = cpu_time(*pid).with_context(|| format!("no process {pid} to read CPU time from"))?;
        *by_name.entry(name.clone()).or_default() += cpu.as_secs_f64();
    }
    Ok(by_name)
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { cpu_s: self.cpu_s - earlier.cpu_s, rss_bytes: self.rss_bytes.saturating_sub(earlier.rss_bytes) }
    }
}

/// User and kernel time of a process since it began. What a thread that runs at this moment has used since the scheduler's last tick is not
/// in it yet.
fn cpu_time(pid: u32) -> Result<Duration> {
    let pid = Pid::from_raw(i32::try_from(pid).context("no process has such a number")?);
    Ok(ClockId::pid_cpu_clock_id(pid)?.now()?.into())
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
    use super::{MemoryPeak, Named, Usage, cpu_by_name, cpu_time, resident_pages};
    use crate::clock;
    use std::{
        process::Command,
        thread,
        time::{Duration, Instant},
    };

    #[test]
    fn what_a_thread_that_has_ended_used_counts_and_is_not_cut_off_at_ticks() {
        let before = cpu_time(std::process::id()).expect("this process has a clock");
        let thread = thread::spawn(|| {
            // Less than half a tick of /proc/PID/stat.
            while clock::thread_cpu_ns() < 3_000_000 {}
            Duration::from_nanos(clock::thread_cpu_ns())
        });
        let used = thread.join().expect("no panic");
        // It is joined a moment before the kernel has put it away.
        let counted = cpu_time_above(std::process::id(), before + used) - before;
        assert_ne!(counted.as_micros() % 1_000, 0, "no clock of milliseconds: {counted:?}");
    }

    #[test]
    fn the_clock_of_another_process_sees_the_millisecond_in_which_it_began() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("every system can sleep");
        let used = cpu_time_above(child.id(), Duration::from_nanos(1));
        child.kill().expect("it runs");
        child.wait().expect("it was killed");
        assert!(used < Duration::from_secs(1), "not this process's or the machine's: {used:?}");
        assert!(cpu_time(child.id()).is_err(), "it is gone");
    }

    #[test]
    fn processes_of_one_name_add_up() {
        let own = |name: &str| format!("{name}={}", std::process::id()).parse::<Named>().expect("it is NAME=PID");
        let cpu = cpu_by_name(&[own("one"), own("both"), own("both")]).expect("this process exists");
        assert!(cpu["one"] > 0.0 && cpu["both"] > 1.9 * cpu["one"], "{cpu:?}");
        assert!(cpu_by_name(&["gone=4294967295".parse().expect("it is NAME=PID")]).is_err());
        for wrong in ["5", "=5", "redis=", "redis=x"] {
            assert_eq!(wrong.parse::<Named>(), Err(format!("{wrong:?} is not NAME=PID")));
        }
    }

    #[test]
    fn the_second_field_of_statm_is_resident() {
        assert_eq!(resident_pages("10 7 3 1 0 2 0"), Some(7));
        assert_eq!(resident_pages("nonsense"), None);
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

    /// What a process has used, once that is so much.
    fn cpu_time_above(pid: u32, least: Duration) -> Duration {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let used = cpu_time(pid).expect("it has a clock");
            if used >= least {
                return used;
            }
            assert!(Instant::now() < deadline, "{used:?} of {least:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
