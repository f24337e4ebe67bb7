//! The bare send loop: what this machine can deliver when nothing but `send` is done.
//!
//! - One thread writes `joined` frames to each of N sockets, round after round; between rounds it waits until every receiver has everything.
//!   Its own CPU time is charged: on loopback the receivers' TCP input runs inside `send`, as it does for the gateway.
//! - Receivers live in a child process (the hidden command `limit-drain`), so that N is bounded by one process's open files and not half of them.
//! - No session, room or limit: no server can be faster, so its figure is given as a share of this one from the same run.
//! - The receivers share the machine's cores with the sender and, at many sockets, disturb it: each joining is measured several times, the
//!   joinings taking turns, and the median stands beside the range.
//!
//! What the loop would reach at a joining between two measured ones: the cost of a send hardly depends on how many frames are in it, so the
//! cost, not the rate, is drawn as a straight line between the two, over the joining; beyond the last it stays.

use crate::{clock, interrupt::Signal, report};
use anyhow::{Context, Result, bail, ensure};
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;
use socket2::{Domain, Socket, Type};
use std::{
    fmt::{self, Display, Formatter},
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Frames joined per send, as the tables of docs/benchmarks.md have them.
pub(crate) const JOINED: [usize; 4] = [1, 4, 16, 64];
/// A round that takes longer has failed.
const ROUND_MAX: Duration = Duration::from_secs(30);
/// Receivers of one source address: what a run has just closed still holds ports of the usual one.
const RECEIVERS_PER_SOURCE: usize = 1_000;
/// Read at once by the receivers.
const READ_BYTES: usize = 256 * 1024;

/// What the bare send loop reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Limit {
    /// Receivers.
    pub(crate) sockets: usize,
    /// Bytes of a frame.
    pub(crate) frame_bytes: usize,
    /// One per joining.
    pub(crate) rows: Vec<Row>,
}

/// One joining: the median over its runs, and the range where it says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Row {
    /// Frames per send.
    pub(crate) joined: usize,
    /// Sends per second of this thread's CPU.
    pub(crate) sends_per_cpu_s: f64,
    /// The lowest run's,
    pub(crate) sends_per_cpu_s_min: f64,
    /// and the highest.
    pub(crate) sends_per_cpu_s_max: f64,
    /// Frames per second of this thread's CPU.
    pub(crate) deliveries_per_cpu_s: f64,
    /// Frames per second by the clock.
    pub(crate) deliveries_per_s: f64,
    /// Sends that were measured, over all runs.
    pub(crate) sends: u64,
    /// How many.
    pub(crate) runs: usize,
}

impl Row {
    fn of(joined: usize, runs: &[Run]) -> Self {
        let sends_per_cpu_s = sorted(runs.iter().map(|run| run.sends_per_cpu_s));
        let sends_per_s = sorted(runs.iter().map(|run| run.sends_per_s));
        let frames = report::number(joined as u64);
        let whole = |value: f64| value.round();
        Self {
            joined,
            sends_per_cpu_s: whole(median(&sends_per_cpu_s)),
            sends_per_cpu_s_min: whole(sends_per_cpu_s.first().copied().unwrap_or(0.0)),
            sends_per_cpu_s_max: whole(sends_per_cpu_s.last().copied().unwrap_or(0.0)),
            deliveries_per_cpu_s: whole(median(&sends_per_cpu_s) * frames),
            deliveries_per_s: whole(median(&sends_per_s) * frames),
            sends: runs.iter().map(|run| run.sends).sum(),
            runs: runs.len(),
        }
    }
}

/// One run of one joining.
#[derive(Clone, Copy, Debug)]
struct Run {
    sends: u64,
    sends_per_cpu_s: f64,
    sends_per_s: f64,
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Of an even number of values the mean of the two in the middle.
fn median(sorted: &[f64]) -> f64 {
    match (sorted.len() / 2, sorted.len() % 2) {
        (_, _) if sorted.is_empty() => 0.0,
        (middle, 1) => sorted[middle],
        (middle, _) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// How long, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Runs of each joining.
    pub(crate) runs: u32,
    /// Length of one run.
    pub(crate) run: Duration,
}

impl Limit {
    /// What the loop reaches when so many frames are joined per send, in deliveries per second of its CPU.
    pub(crate) fn deliveries_per_cpu_s_at(&self, joining: f64) -> Option<f64> {
        let cost_s = |row: &Row| (row.sends_per_cpu_s > 0.0).then(|| 1.0 / row.sends_per_cpu_s);
        let frames = |row: &Row| report::number(row.joined as u64);
        let above = self.rows.iter().position(|row| frames(row) >= joining);
        let cost_of_send_s = match above {
            None => cost_s(self.rows.last()?)?,
            Some(0) => cost_s(&self.rows[0])?,
            Some(at) => {
                let (low, high) = (&self.rows[at - 1], &self.rows[at]);
                let share = (joining - frames(low)) / (frames(high) - frames(low));
                cost_s(low)? + (cost_s(high)? - cost_s(low)?) * share
            }
        };
        Some((joining / cost_of_send_s).round())
    }
}

/// Measures each joining, with receivers in a child process. `interrupt`: what ends it early, where signals are held.
pub(crate) fn measure(sockets: usize, frame_bytes: usize, joinings: &[usize], effort: Effort, interrupt: Option<&Signal>) -> Result<Limit> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no listening socket")?;
    let executable = std::env::current_exe().context("this executable has no path to start it again from")?;
    let child = Command::new(executable)
        .arg("limit-drain")
        .arg(listener.local_addr()?.to_string())
        .arg(sockets.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("the receivers' process could not be started")?;
    let _receivers = Receivers(child);
    let goes_on = || interrupt.map_or(Ok(()), Signal::check);
    // A terminal's signal ends the receivers too: that they went away is then no news.
    send(&listener, sockets, frame_bytes, joinings, effort, &goes_on).map_err(|error| goes_on().err().unwrap_or(error))
}

/// The receivers end with the run, however it ends.
struct Receivers(Child);

impl Drop for Receivers {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The sending side: accepts one control connection, then the receivers.
fn send(
    listener: &TcpListener,
    sockets: usize,
    frame_bytes: usize,
    joinings: &[usize],
    effort: Effort,
    goes_on: &dyn Fn() -> Result<()>,
) -> Result<Limit> {
    let mut control = accept(listener, goes_on)?;
    control.set_read_timeout(Some(ROUND_MAX))?;
    let mut members = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        members.push(accept(listener, goes_on)?);
    }
    let mut runs = vec![Vec::new(); joinings.len()];
    for _ in 0..effort.runs {
        for (joined, runs) in joinings.iter().zip(&mut runs) {
            goes_on()?;
            let burst = vec![b'x'; frame_bytes * joined];
            runs.push(run(&mut members, &mut control, &burst, effort.run)?);
        }
    }
    let rows = joinings.iter().zip(&runs).map(|(&joined, runs)| Row::of(joined, runs)).collect();
    Ok(Limit { sockets, frame_bytes, rows })
}

fn run(members: &mut [TcpStream], control: &mut TcpStream, burst: &[u8], length: Duration) -> Result<Run> {
    // One round unmeasured: the first send on each socket pays for what later ones find ready.
    round(members, control, burst)?;
    let (began, mut cpu_ns, mut sends) = (Instant::now(), 0, 0);
    while began.elapsed() < length {
        cpu_ns += round(members, control, burst)?;
        sends += members.len() as u64;
    }
    let rate = |seconds: f64| report::ratio(report::number(sends), seconds).unwrap_or(0.0);
    Ok(Run { sends, sends_per_cpu_s: rate(report::number(cpu_ns) / 1e9), sends_per_s: rate(began.elapsed().as_secs_f64()) })
}

/// One burst to everyone, and the wait until everyone has it. What the sends cost of this thread's CPU, in nanoseconds.
fn round(members: &mut [TcpStream], control: &mut TcpStream, burst: &[u8]) -> Result<u64> {
    control.write_all(&((members.len() * burst.len()) as u64).to_be_bytes())?;
    let began_ns = clock::thread_cpu_ns();
    for member in members {
        member.write_all(burst).context("a receiver went away")?;
    }
    let cpu_ns = clock::thread_cpu_ns() - began_ns;
    control.read_exact(&mut [0]).context("the receivers did not take a round in time")?;
    Ok(cpu_ns)
}

/// Accepts within the time of a round: a receiver that never comes must not hang the run.
fn accept(listener: &TcpListener, goes_on: &dyn Fn() -> Result<()>) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + ROUND_MAX;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ensure!(Instant::now() < deadline, "the receivers did not connect within {ROUND_MAX:?}");
                goes_on()?;
                std::thread::sleep(Duration::from_micros(200));
            }
            Err(error) => return Err(error).context("a receiver could not be accepted"),
        }
    }
}

/// A connection to the sender, from 127.1.0.2 and up where it is on the loopback.
fn receiver(sender: SocketAddr, index: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(sender), Type::STREAM, None)?;
    if sender.ip().is_loopback() && sender.is_ipv4() {
        let host = u8::try_from(2 + index / RECEIVERS_PER_SOURCE % 250).unwrap_or(2);
        socket.bind(&SocketAddr::from(([127, 1, 0, host], 0)).into())?;
    }
    socket.connect(&sender.into())?;
    Ok(socket.into())
}

/// The receiving side: the hidden command `limit-drain`. Ends when the sender goes.
///
/// # Errors
/// When the sender cannot be reached or a receiver breaks.
pub(crate) fn drain(sender: SocketAddr, sockets: usize) -> Result<()> {
    let mut control = TcpStream::connect(sender).context("the sender is not there")?;
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut streams = Vec::with_capacity(sockets);
    for index in 0..sockets {
        let stream = receiver(sender, index).context("the sender takes no more receivers")?;
        stream.set_nonblocking(true)?;
        let mut stream = mio::net::TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        streams.push(stream);
    }
    let mut buffer = vec![0; READ_BYTES];
    let mut arrived = 0u64;
    loop {
        let mut expected = [0; 8];
        match control.read_exact(&mut expected) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error).context("the sender broke off"),
        }
        let expected = u64::from_be_bytes(expected);
        let deadline = Instant::now() + ROUND_MAX;
        while arrived < expected {
            ensure!(Instant::now() < deadline, "the sender did not finish a round within {ROUND_MAX:?}");
            poll.poll(&mut events, Some(Duration::from_millis(100)))?;
            for event in &events {
                loop {
                    match streams[event.token().0].read(&mut buffer) {
                        Ok(0) => bail!("the sender closed a connection"),
                        Ok(read) => {
                            arrived += read as u64;
                            if read < READ_BYTES {
                                break;
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error).context("a receiver broke"),
                    }
                }
            }
        }
        arrived -= expected;
        control.write_all(&[1])?;
    }
}

impl Display for Limit {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        writeln!(to, "bare send loop, {} sockets, frames of {} bytes", self.sockets, self.frame_bytes)?;
        writeln!(
            to,
            "  {:>6}  {:>16}  {:>26}  {:>22}  {:>14}",
            "joined", "sends/CPU-s", "lowest and highest run", "deliveries/CPU-s", "deliveries/s"
        )?;
        for row in &self.rows {
            let range = format!("{:.0} to {:.0}", row.sends_per_cpu_s_min, row.sends_per_cpu_s_max);
            writeln!(
                to,
                "  {:>6}  {:>16.0}  {:>26}  {:>22.0}  {:>14.0}",
                row.joined, row.sends_per_cpu_s, range, row.deliveries_per_cpu_s, row.deliveries_per_s
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Effort, Limit, Row, Run, drain, send};
    use std::{net::TcpListener, thread, time::Duration};

    #[test]
    fn every_socket_gets_every_joined_frame() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let receivers = thread::spawn(move || drain(address, 20));
        let effort = Effort { runs: 3, run: Duration::from_millis(5) };
        // The receivers count bytes and answer a round only when all of it is there.
        let limit = send(&listener, 20, 120, &[1, 64], effort, &|| Ok(())).expect("the loop runs");
        assert_eq!(limit.rows.iter().map(|row| (row.joined, row.runs)).collect::<Vec<_>>(), [(1, 3), (64, 3)]);
        for row in &limit.rows {
            assert!(row.sends >= 60 && row.sends % 20 == 0, "whole rounds only, at least one a run: {row:?}");
            assert!(row.sends_per_cpu_s_min <= row.sends_per_cpu_s && row.sends_per_cpu_s <= row.sends_per_cpu_s_max, "{row:?}");
        }
        receivers.join().expect("no panic").expect("the receivers end with the sender");
    }

    #[test]
    fn one_disturbed_run_does_not_move_the_median_and_shows_in_the_range() {
        let run = |sends_per_cpu_s| Run { sends: 10, sends_per_cpu_s, sends_per_s: sends_per_cpu_s / 2.0 };
        let row = Row::of(4, &[run(150.0), run(20.0), run(160.0)]);
        assert_eq!((row.sends_per_cpu_s, row.sends_per_cpu_s_min, row.sends_per_cpu_s_max), (150.0, 20.0, 160.0));
        assert_eq!((row.deliveries_per_cpu_s, row.deliveries_per_s, row.sends), (600.0, 300.0, 30));
        assert!((Row::of(1, &[run(100.0), run(200.0)]).sends_per_cpu_s - 150.0).abs() < f64::EPSILON);
    }

    #[test]
    fn between_two_joinings_the_cost_of_a_send_is_on_a_straight_line() {
        let row = |joined, sends_per_cpu_s| Row { joined, sends_per_cpu_s, ..Row::default() };
        let limit = Limit { sockets: 1, frame_bytes: 1, rows: vec![row(1, 100_000.0), row(4, 50_000.0), row(16, 50_000.0)] };
        let at = |joining| limit.deliveries_per_cpu_s_at(joining).expect("there are rows");
        assert_eq!((at(1.0), at(4.0), at(16.0)), (100_000.0, 200_000.0, 800_000.0), "the measured ones are themselves");
        // 10 µs at 1 and 20 µs at 4 are 15 µs half way.
        assert_eq!(at(2.5), (2.5_f64 / 15e-6).round());
        assert_eq!(at(10.0), 500_000.0);
        assert_eq!(at(32.0), 1_600_000.0, "beyond the last the cost stays");
        assert_eq!(Limit { rows: Vec::new(), ..limit }.deliveries_per_cpu_s_at(1.0), None);
    }
}
