//! Looks once a second at what the run costs: CPU time and memory of the server, CPU time of the load generator itself.
//!
//! In a thread of its own, so that a busy run is looked at as often as a quiet one. A process that is gone counts no more; whether that is a
//! fault is for others to say.

use crate::{
    clock,
    http::{self, Counters},
    proc::Usage,
    report::number,
    series::Sample,
};
use anyhow::Result;
use std::{
    collections::BTreeMap,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender},
    thread::JoinHandle,
    time::Duration,
};

/// Looks that nobody has taken; the parent takes them several times a second. Beyond it they are thrown away.
const LOOKS_MAX: usize = 600;
const SECOND_NS: u64 = 1_000_000_000;

/// What one look found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Look {
    /// What the kernel says.
    pub(crate) sample: Sample,
    /// Copies that the gateways say they dropped since the first look; `None`: not asked, or no answer.
    pub(crate) dropped: Option<u64>,
}

/// The looking thread.
#[derive(Debug)]
pub(crate) struct Sampler {
    looks: Receiver<Look>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Begins to look at `server` and at this process with its workers `own`. `admin`: where drop counters are read as well.
    pub(crate) fn start(server: Vec<u32>, own: Vec<u32>, admin: Vec<String>) -> Result<Self> {
        let (found, looks) = mpsc::sync_channel(LOOKS_MAX);
        let (stop, stopped) = mpsc::channel();
        let own = own.into_iter().chain([std::process::id()]).collect();
        let eyes = Eyes { server: Meter::new(server), own: Meter::new(own), admin, dropped_before: None, looked_ns: clock::now_ns() };
        let thread = crate::scenario::spawn_named("sampler", move || watch(eyes, &stopped, &found))?;
        Ok(Self { looks, stop: Some(stop), thread: Some(thread) })
    }

    /// What was found since the last call.
    pub(crate) fn take(&self) -> impl Iterator<Item = Look> {
        self.looks.try_iter()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Looks just after each second of `CLOCK_MONOTONIC` began, where the workers' intervals are cut as well.
fn watch(mut eyes: Eyes, stopped: &Receiver<()>, found: &SyncSender<Look>) {
    loop {
        let wait = Duration::from_nanos(SECOND_NS - clock::now_ns() % SECOND_NS);
        if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        found.try_send(eyes.look()).ok();
    }
}

#[derive(Debug)]
struct Eyes {
    server: Meter,
    own: Meter,
    admin: Vec<String>,
    dropped_before: Option<u64>,
    looked_ns: u64,
}

impl Eyes {
    fn look(&mut self) -> Look {
        let now_ns = clock::now_ns();
        let since_ns = std::mem::replace(&mut self.looked_ns, now_ns);
        let server = (!self.server.cpu_s.is_empty()).then(|| self.server.read());
        let sample = Sample {
            second: since_ns.midpoint(now_ns) / SECOND_NS,
            seconds: number(now_ns - since_ns) / 1e9,
            server_cpu_s: server.map(|usage| usage.cpu_s),
            server_rss_bytes: server.map(|usage| usage.rss_bytes),
            own_cpu_s: self.own.read().cpu_s,
        };
        Look { sample, dropped: self.dropped() }
    }

    fn dropped(&mut self) -> Option<u64> {
        if self.admin.is_empty() {
            return None;
        }
        let mut sum = 0;
        for admin in &self.admin {
            sum += Counters::read(admin).ok()?.sum(http::DROPPED);
        }
        Some(sum.saturating_sub(*self.dropped_before.get_or_insert(sum)))
    }
}

/// CPU time between two readings.
#[derive(Debug)]
struct Meter {
    /// By process: what it had used at the last reading; `None`: never read.
    cpu_s: BTreeMap<u32, Option<f64>>,
}

impl Meter {
    fn new(pids: Vec<u32>) -> Self {
        let mut meter = Self { cpu_s: pids.into_iter().map(|pid| (pid, None)).collect() };
        meter.read();
        meter
    }

    /// CPU time used since the last reading, and memory now.
    fn read(&mut self) -> Usage {
        let mut sum = Usage::default();
        for (&pid, before) in &mut self.cpu_s {
            let Some(now) = Usage::of(&[pid]).ok().flatten() else { continue };
            sum.cpu_s += before.replace(now.cpu_s).map_or(0.0, |before| (now.cpu_s - before).max(0.0));
            sum.rss_bytes += now.rss_bytes;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::{Meter, Sampler};
    use std::time::{Duration, Instant};

    #[test]
    fn a_busy_process_is_seen_to_be_busy_and_a_missing_one_counts_nothing() {
        let sampler = Sampler::start(vec![u32::MAX], Vec::new(), Vec::new()).expect("a thread");
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut looks = Vec::new();
        // This thread works as hard as it can; a look sees it within seconds, however busy the machine is.
        while looks.iter().all(|look: &super::Look| look.sample.own_cpu_s <= 0.0) {
            assert!(Instant::now() < deadline, "never seen: {looks:?}");
            looks.extend(sampler.take());
        }
        for look in &looks {
            assert_eq!((look.sample.server_cpu_s, look.sample.server_rss_bytes, look.dropped), (Some(0.0), Some(0), None));
            assert!(look.sample.seconds > 0.0, "{look:?}");
        }
        assert!(looks.windows(2).all(|pair| pair[0].sample.second < pair[1].sample.second), "{looks:?}");
    }

    #[test]
    fn a_meter_counts_from_its_first_reading_and_not_from_the_start_of_the_process() {
        let mut meter = Meter::new(vec![std::process::id()]);
        let usage = meter.read();
        assert!(usage.cpu_s < 5.0 && usage.rss_bytes > 0, "{usage:?}");
    }
}
