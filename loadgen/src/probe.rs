//! The bare send loop: what this machine can deliver when nothing but `send` is done.
//!
//! - One thread writes `joined` frames to each of N sockets, round after round; between rounds it waits until every receiver has everything.
//!   Its own CPU time is charged: on loopback the receivers' TCP input runs inside `send`, as it does for the gateway.
//! - Receivers live in a child process (the hidden command `limit-drain`), so that N is bounded by one process's open files and not half of them.
//! - No session, room or limit: no server can be faster, so its figure is given as a share of this one from the same run.

use crate::{clock, report};
use anyhow::{Context, Result, bail, ensure};
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;
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

/// One joining.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    /// Frames per send.
    pub(crate) joined: usize,
    /// Sends per second of this thread's CPU.
    pub(crate) sends_per_cpu_s: f64,
    /// Frames per second of this thread's CPU.
    pub(crate) deliveries_per_cpu_s: f64,
    /// Frames per second by the clock.
    pub(crate) deliveries_per_s: f64,
    /// What was measured.
    pub(crate) sends: u64,
}

/// Measures each joining for `seconds`, with receivers in a child process.
pub(crate) fn measure(sockets: usize, frame_bytes: usize, joinings: &[usize], seconds: f64) -> Result<Limit> {
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
    send(&listener, sockets, frame_bytes, joinings, seconds)
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
fn send(listener: &TcpListener, sockets: usize, frame_bytes: usize, joinings: &[usize], seconds: f64) -> Result<Limit> {
    let mut control = accept(listener)?;
    control.set_read_timeout(Some(ROUND_MAX))?;
    let mut members = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        members.push(accept(listener)?);
    }
    let mut rows = Vec::with_capacity(joinings.len());
    for &joined in joinings {
        let burst = vec![b'x'; frame_bytes * joined];
        // One round unmeasured: the first send on each socket pays for what later ones find ready.
        round(&mut members, &mut control, &burst)?;
        let (began, cpu_began_ns, mut sends) = (Instant::now(), clock::thread_cpu_ns(), 0u64);
        while began.elapsed().as_secs_f64() < seconds {
            round(&mut members, &mut control, &burst)?;
            sends += sockets as u64;
        }
        let cpu_s = report::number(clock::thread_cpu_ns() - cpu_began_ns) / 1e9;
        let wall_s = began.elapsed().as_secs_f64();
        let frames = report::number(sends * joined as u64);
        rows.push(Row {
            joined,
            sends_per_cpu_s: report::ratio(report::number(sends), cpu_s).unwrap_or(0.0),
            deliveries_per_cpu_s: report::ratio(frames, cpu_s).unwrap_or(0.0),
            deliveries_per_s: report::ratio(frames, wall_s).unwrap_or(0.0),
            sends,
        });
    }
    Ok(Limit { sockets, frame_bytes, rows })
}

/// One burst to everyone, and the wait until everyone has it.
fn round(members: &mut [TcpStream], control: &mut TcpStream, burst: &[u8]) -> Result<()> {
    control.write_all(&((members.len() * burst.len()) as u64).to_be_bytes())?;
    for member in members {
        member.write_all(burst).context("a receiver went away")?;
    }
    control.read_exact(&mut [0]).context("the receivers did not take a round in time")?;
    Ok(())
}

/// Accepts within the time of a round: a receiver that never comes must not hang the run.
fn accept(listener: &TcpListener) -> Result<TcpStream> {
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
                std::thread::sleep(Duration::from_micros(200));
            }
            Err(error) => return Err(error).context("a receiver could not be accepted"),
        }
    }
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
        let stream = TcpStream::connect(sender).context("the sender takes no more receivers")?;
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
        writeln!(to, "  {:>6}  {:>16}  {:>22}  {:>14}", "joined", "sends/CPU-s", "deliveries/CPU-s", "deliveries/s")?;
        for row in &self.rows {
            writeln!(
                to,
                "  {:>6}  {:>16.0}  {:>22.0}  {:>14.0}",
                row.joined, row.sends_per_cpu_s, row.deliveries_per_cpu_s, row.deliveries_per_s
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{drain, send};
    use std::{net::TcpListener, thread};

    #[test]
    fn every_socket_gets_every_joined_frame() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let receivers = thread::spawn(move || drain(address, 20));
        // No time to measure in: the unmeasured round alone proves that all of it arrives.
        let limit = send(&listener, 20, 120, &[1, 64], 0.01).expect("the loop runs");
        assert_eq!(limit.rows.iter().map(|row| row.joined).collect::<Vec<_>>(), [1, 64]);
        for row in &limit.rows {
            assert_eq!(row.sends % 20, 0, "whole rounds only");
        }
        receivers.join().expect("no panic").expect("the receivers end with the sender");
    }
}
