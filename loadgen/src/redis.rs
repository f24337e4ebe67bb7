//! What Redis was asked to do meanwhile: the calls of `INFO commandstats`, which counts commands inside scripts too.
//!
//! Spoken by hand: one command, one answer. A Redis that cannot be asked fails the run; a figure made of half the nodes would be a wrong one.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Longest answer that is believed; the real one has a few KiB.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);

/// Commands during the load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct RedisLoad {
    /// In all.
    pub(crate) commands: u64,
    /// In the busiest second of the whole run, connecting included.
    pub(crate) peak_per_s: u64,
    /// Per copy delivered, or per heartbeat where there were only those.
    pub(crate) per_delivery: Option<f64>,
}

/// Calls so far over all nodes, but for our own questions.
pub(crate) fn commands(nodes: &[SocketAddr]) -> Result<u64> {
    let mut sum = 0;
    for node in nodes {
        let text = commandstats(*node).with_context(|| format!("--redis {node} does not answer INFO commandstats"))?;
        sum += calls(&text);
    }
    Ok(sum)
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

/// Sums `cmdstat_NAME:calls=N,…`.
fn calls(text: &str) -> u64 {
    let of_line = |line: &str| -> Option<u64> {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        if name == "info" { None } else { rest.split(',').next()?.parse().ok() }
    };
    text.lines().filter_map(of_line).sum()
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
        let mut before = commands(&nodes)?;
        let peak = Arc::new(Mutex::new(0));
        let (stop, stopped) = mpsc::channel();
        let found = Arc::clone(&peak);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                // Away for a second, as when it is killed on purpose: the next look covers more than a second, and is no peak.
                let Ok(now) = commands(&nodes) else { continue };
                let mut peak = found.lock().unwrap_or_else(PoisonError::into_inner);
                *peak = (*peak).max(now.saturating_sub(before));
                before = now;
            }
        });
        Ok(Self { peak, stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn peak_per_s(&self) -> u64 {
        *self.peak.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    use super::calls;

    #[test]
    fn calls_are_summed_and_our_own_left_out() {
        let text = "# Commandstats\r\ncmdstat_zadd:calls=32,usec=9,usec_per_call=0.3\r\ncmdstat_info:calls=7,usec=1\r\ncmdstat_config|get:calls=2,usec=4\r\nnonsense\r\n";
        assert_eq!(calls(text), 34);
    }
}
