//! What Redis was asked to do meanwhile: the calls of `INFO commandstats`, which counts commands inside scripts too.
//!
//! Spoken by hand: one command, one answer. A Redis that cannot be asked fails the run; a figure made of half the nodes would be a wrong one.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Longest answer that is believed; the real one has a few KiB.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);

/// Commands during the load.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct RedisLoad {
    /// In all.
    pub(crate) commands: u64,
    /// In the busiest second of the load.
    pub(crate) peak_per_s: u64,
    /// In the busiest second while everyone connected.
    pub(crate) connect_peak_per_s: u64,
    /// Per copy delivered, or per heartbeat where there were only those.
    pub(crate) per_delivery: Option<f64>,
    /// The same calls by command.
    pub(crate) by_command: Calls,
}

/// Calls by command.
pub(crate) type Calls = BTreeMap<String, u64>;

/// Calls so far over all nodes, but for our own questions.
pub(crate) fn commands(nodes: &[SocketAddr]) -> Result<Calls> {
    let mut sum = Calls::new();
    for node in nodes {
        let text = commandstats(*node).with_context(|| format!("--redis {node} does not answer INFO commandstats"))?;
        for (name, count) in calls(&text) {
            *sum.entry(name.to_owned()).or_default() += count;
        }
    }
    Ok(sum)
}

/// What was called between two looks.
pub(crate) fn between(from: &Calls, to: &Calls) -> Calls {
    let since = |(name, now): (&String, &u64)| (name.clone(), now.saturating_sub(from.get(name).copied().unwrap_or(0)));
    to.iter().map(since).filter(|(_, count)| *count > 0).collect()
}

fn commandstats(node: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&node, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"INFO commandstats\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    reader.by_ref().take(256).read_line(&mut head)?;
    let Some(bytes) = head.strip_prefix('$').and_then(|length| length.trim().parse::<usize>().ok()) else { bail!("{}", head.trim()) };
    if bytes > ANSWER_BYTES_MAX {
        bail!("an answer of {bytes} bytes");
    }
    let mut text = vec![0; bytes];
    reader.read_exact(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Reads `cmdstat_NAME:calls=N,…`.
fn calls(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        if name == "info" { None } else { Some((name, rest.split(',').next()?.parse().ok()?)) }
    })
}

/// Looks every second for the busiest one.
#[derive(Debug)]
pub(crate) struct Watch {
    peak: Arc<Mutex<u64>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start(nodes: Vec<SocketAddr>) -> Result<Self> {
        let mut before = Some((Instant::now(), commands(&nodes)?.values().sum::<u64>()));
        let peak = Arc::new(Mutex::new(0));
        let (stop, stopped) = mpsc::channel();
        let found = Arc::clone(&peak);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                // A Redis that is away for a second, as when it is killed on purpose, begins anew.
                let now = commands(&nodes).ok().map(|calls| (Instant::now(), calls.values().sum::<u64>()));
                if let (Some((from, earlier)), Some((to, later))) = (before, now) {
                    let mut peak = found.lock().unwrap_or_else(PoisonError::into_inner);
                    *peak = (*peak).max(per_s(later.saturating_sub(earlier), to - from));
                }
                before = now;
            }
        });
        Ok(Self { peak, stop: Some(stop), thread: Some(thread) })
    }

    /// The busiest second since the last call.
    pub(crate) fn take_peak_per_s(&self) -> u64 {
        std::mem::take(&mut *self.peak.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Two looks are a second apart, or more on a machine that is busy.
fn per_s(count: u64, within: Duration) -> u64 {
    let millis = u64::try_from(within.as_millis()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(1_000) / millis
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Calls, between, calls, per_s};
    use std::time::Duration;

    #[test]
    fn calls_are_read_by_command_and_our_own_left_out() {
        let text = "# Commandstats\r\ncmdstat_zadd:calls=32,usec=9,usec_per_call=0.3\r\ncmdstat_info:calls=7,usec=1\r\ncmdstat_config|get:calls=2,usec=4\r\nnonsense\r\n";
        assert_eq!(calls(text).collect::<Vec<_>>(), [("zadd", 32), ("config|get", 2)]);
    }

    #[test]
    fn what_was_called_between_two_looks_leaves_out_what_was_not() {
        let look = |zadd, time| Calls::from([("zadd".to_owned(), zadd), ("time".to_owned(), time)]);
        assert_eq!(between(&look(3, 5), &look(10, 5)), Calls::from([("zadd".to_owned(), 7)]));
    }

    #[test]
    fn a_look_that_comes_late_is_no_peak() {
        assert_eq!(per_s(3_000, Duration::from_millis(1_500)), 2_000);
    }
}
