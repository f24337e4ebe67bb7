//! A TCP proxy that does to a link what networks do: delay, cut in pieces, fall silent, reset.
//!
//! - Two threads a connection, a bounded number of connections; bytes are held one read at a time, so a slow side slows the other.
//! - [`Chaos::BlackHole`] is a half-open link: nothing is taken, nothing is passed on, and no FIN is either. Connections that come meanwhile
//!   are finished by the kernel and never served, as with a host that has vanished behind a router. It heals when another mode is set.
//! - [`ChaosProxy::freeze`] does the same for ever to the connections of this moment, and new ones pass: a box on the way has forgotten them.
//! - [`ChaosProxy::lose_answers_to`] passes a request on and resets its connection in place of the answer: it was carried out, and nobody
//!   heard so. The request must come in one piece, as short ones do, and in clear text.
//! - [`ChaosProxy::swallow`] takes what both ends of the connections of this moment say and throws it away, their ends too: writes go on well
//!   on either side, so only a missing sign of life tells. Such a connection is gone when both ends have given it up.

use socket2::SockRef;
use std::{
    collections::BTreeSet,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// A test needs few; more mean a loop that reconnects.
const CONNECTIONS_MAX: usize = 1_024;
/// How soon a pump sees that the mode has changed.
const LOOK: Duration = Duration::from_millis(20);
const READ_BYTES: usize = 16 * 1024;

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chaos {
    /// Passed on at once.
    Forward,
    /// Passed on this much later, each read by itself.
    Delay(Duration),
    /// Passed on in pieces of so many bytes.
    Split(usize),
    /// Neither taken nor passed on, and the ends hear nothing of each other's end.
    BlackHole,
    /// Connections are reset, old and new.
    Reset,
}

/// One listening address in front of one upstream.
#[derive(Debug)]
pub struct ChaosProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    chaos: Mutex<Chaos>,
    /// Numbers of the connections that are there.
    connections: Mutex<BTreeSet<u64>>,
    over: AtomicBool,
    /// Number of the next connection.
    next: AtomicU64,
    /// Connections with smaller numbers are frozen.
    frozen_below: AtomicU64,
    /// Connections with smaller numbers are swallowed.
    swallowed_below: AtomicU64,
    /// Requests with these bytes get no answer.
    unanswered: Mutex<Option<&'static [u8]>>,
    /// Numbers of the connections that have made one.
    deaf: Mutex<BTreeSet<u64>>,
    answers_lost: AtomicU64,
}

impl ChaosProxy {
    /// Starts one on a free port; the upstream need not be there yet.
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it was bound");
        listener.set_nonblocking(true).expect("a socket option");
        let shared = Arc::new(Shared {
            upstream,
            chaos: Mutex::new(Chaos::Forward),
            connections: Mutex::new(BTreeSet::new()),
            over: AtomicBool::new(false),
            next: AtomicU64::new(0),
            frozen_below: AtomicU64::new(0),
            swallowed_below: AtomicU64::new(0),
            unanswered: Mutex::new(None),
            deaf: Mutex::new(BTreeSet::new()),
            answers_lost: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Self { address, shared }
    }

    /// Where to connect instead of the upstream.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, for all connections.
    pub fn set(&self, chaos: Chaos) {
        *self.shared.chaos.lock().unwrap_or_else(PoisonError::into_inner) = chaos;
    }

    /// From now on nothing passes on the connections there are, and neither end hears of it; new ones pass.
    pub fn freeze(&self) {
        self.shared.frozen_below.store(self.shared.next.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// From now on what is said on the connections there are goes nowhere, and neither end hears of it; new ones pass.
    pub fn swallow(&self) {
        self.shared.swallowed_below.store(self.shared.next.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// From now on the answers to requests with these bytes are lost, and their connections with them; with `None` no more.
    pub fn lose_answers_to(&self, bytes: Option<&'static [u8]>) {
        *self.shared.unanswered.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
    }

    /// Answers that were lost so.
    pub fn answers_lost(&self) -> u64 {
        self.shared.answers_lost.load(Ordering::Relaxed)
    }

    /// Connections that are there now.
    pub fn connections(&self) -> usize {
        self.shared.connections().len()
    }

    /// Swallowed connections that one end at least has not given up.
    pub fn swallowed(&self) -> usize {
        self.shared.connections().range(..self.shared.swallowed_below.load(Ordering::Relaxed)).count()
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deaf(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.deaf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request goes up, whose answer may be one to lose.
    fn asked(&self, number: u64, bytes: &[u8]) {
        let Some(unanswered) = *self.unanswered.lock().unwrap_or_else(PoisonError::into_inner) else { return };
        if bytes.windows(unanswered.len()).any(|window| window == unanswered) {
            self.deaf().insert(number);
        }
    }

    /// An answer comes down; whether it is to be lost.
    fn loses_answer(&self, number: u64) -> bool {
        let is_lost = self.deaf().remove(&number);
        self.answers_lost.fetch_add(u64::from(is_lost), Ordering::Relaxed);
        is_lost
    }

    fn is_swallowed(&self, number: u64) -> bool {
        number < self.swallowed_below.load(Ordering::Relaxed)
    }

    fn chaos(&self) -> Chaos {
        if self.over.load(Ordering::Relaxed) {
            return Chaos::Reset;
        }
        *self.chaos.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens to this connection.
    fn chaos_of(&self, number: u64) -> Chaos {
        let chaos = self.chaos();
        let is_frozen = number < self.frozen_below.load(Ordering::Relaxed);
        if is_frozen && chaos != Chaos::Reset { Chaos::BlackHole } else { chaos }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.over.load(Ordering::Relaxed) {
        if shared.chaos() == Chaos::BlackHole {
            thread::sleep(LOOK);
            continue;
        }
        match listener.accept() {
            Ok((client, _)) => serve(client, shared),
            Err(_) => thread::sleep(LOOK),
        }
    }
}

fn serve(client: TcpStream, shared: &Arc<Shared>) {
    let is_refused = shared.chaos() == Chaos::Reset || shared.connections().len() >= CONNECTIONS_MAX;
    let upstream = if is_refused { None } else { TcpStream::connect_timeout(&shared.upstream, Duration::from_secs(1)).ok() };
    let Some(upstream) = upstream else { return reset(&client) };
    let prepare = |stream: &TcpStream| -> io::Result<TcpStream> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
        stream.set_write_timeout(Some(LOOK))?;
        stream.try_clone()
    };
    let (Ok(client_end), Ok(upstream_end)) = (prepare(&client), prepare(&upstream)) else { return reset(&client) };
    let number = shared.next.fetch_add(1, Ordering::Relaxed);
    shared.connections().insert(number);
    let (down, up) = (Arc::clone(shared), Arc::clone(shared));
    let downstream = thread::spawn(move || pump(&upstream_end, &client_end, Way::Down, &down, number));
    thread::spawn(move || {
        pump(&client, &upstream, Way::Up, &up, number);
        // A pump that panicked has ended too.
        downstream.join().ok();
        up.deaf().remove(&number);
        up.connections().remove(&number);
    });
}

#[derive(Clone, Copy)]
enum Way {
    /// From the client.
    Up,
    Down,
}

/// Carries one direction until its end.
fn pump(mut from: &TcpStream, mut to: &TcpStream, way: Way, shared: &Shared, number: u64) {
    let mut buffer = [0; READ_BYTES];
    loop {
        match shared.chaos_of(number) {
            Chaos::Reset => break,
            Chaos::BlackHole => {
                thread::sleep(LOOK);
                continue;
            }
            Chaos::Forward | Chaos::Delay(_) | Chaos::Split(_) => {}
        }
        let taken = match from.read(&mut buffer) {
            Ok(0) if shared.is_swallowed(number) => return,
            Ok(0) => {
                // While it is black, an end is heard as little as anything else.
                wait_out_black_hole(shared, number);
                to.shutdown(Shutdown::Write).ok();
                return;
            }
            Ok(count) => count,
            Err(error) if is_only_late(&error) => continue,
            Err(_) if shared.is_swallowed(number) => return,
            Err(_) => break,
        };
        if shared.is_swallowed(number) {
            continue;
        }
        let bytes = buffer.get(..taken).unwrap_or_default();
        wait_out_black_hole(shared, number);
        match way {
            Way::Up => shared.asked(number, bytes),
            Way::Down if shared.loses_answer(number) => break,
            Way::Down => {}
        }
        let outcome = match shared.chaos_of(number) {
            Chaos::Delay(delay) => {
                thread::sleep(delay);
                pass(&mut to, bytes, shared, number)
            }
            Chaos::Split(size) => bytes.chunks(size.max(1)).try_for_each(|piece| pass(&mut to, piece, shared, number)),
            Chaos::Forward | Chaos::BlackHole | Chaos::Reset => pass(&mut to, bytes, shared, number),
        };
        if outcome.is_err() {
            break;
        }
    }
    reset(from);
    reset(to);
}

fn pass(to: &mut &TcpStream, mut bytes: &[u8], shared: &Shared, number: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        wait_out_black_hole(shared, number);
        if shared.chaos_of(number) == Chaos::Reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        match to.write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if is_only_late(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_out_black_hole(shared: &Shared, number: u64) {
    while shared.chaos_of(number) == Chaos::BlackHole {
        thread::sleep(LOOK);
    }
}

fn is_only_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Ends a connection by RST: what is under way is lost, as when a host dies.
fn reset(stream: &TcpStream) {
    // It may be gone already.
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok();
    stream.shutdown(Shutdown::Both).ok();
}

#[cfg(test)]
mod tests {
    use super::{Chaos, ChaosProxy};
    use crate::patience::eventually;
    use std::{
        io::{ErrorKind, Read, Write},
        net::{TcpListener, TcpStream},
        thread,
        time::Duration,
    };

    /// An upstream that says everything back.
    fn echo() -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).ok());
            }
        });
        address
    }

    fn said(stream: &mut TcpStream, text: &[u8]) -> Vec<u8> {
        stream.write_all(text).unwrap();
        let mut heard = vec![0; text.len()];
        stream.read_exact(&mut heard).unwrap();
        heard
    }

    #[test]
    fn bytes_pass_whole_whatever_is_done_to_them() {
        let proxy = ChaosProxy::start(echo());
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        for chaos in [Chaos::Forward, Chaos::Delay(Duration::from_millis(5)), Chaos::Split(3)] {
            proxy.set(chaos);
            assert_eq!(said(&mut stream, b"twelve bytes"), b"twelve bytes", "{chaos:?}");
        }
    }

    #[test]
    fn a_black_hole_says_nothing_not_even_that_it_ended_and_heals() {
        let proxy = ChaosProxy::start(echo());
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(said(&mut stream, b"before"), b"before");
        proxy.set(Chaos::BlackHole);
        stream.write_all(b"during").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let error = stream.read(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        proxy.set(Chaos::Forward);
        stream.set_read_timeout(None).unwrap();
        let mut heard = [0; 6];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"during");
    }

    #[test]
    fn a_frozen_connection_stays_silent_while_new_ones_pass() {
        let proxy = ChaosProxy::start(echo());
        let mut old = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(said(&mut old, b"before"), b"before");
        proxy.freeze();
        let mut new = TcpStream::connect(proxy.address()).unwrap();
        old.write_all(b"during").unwrap();
        assert_eq!(said(&mut new, b"after"), b"after");
        old.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert_eq!(old.read(&mut [0; 16]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn a_swallowed_connection_is_silent_until_both_ends_give_it_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = ChaosProxy::start(listener.local_addr().unwrap());
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"before").unwrap();
        server.read_exact(&mut [0; 6]).unwrap();
        proxy.swallow();
        client.write_all(b"during").unwrap();
        drop(client);
        server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert_eq!(server.read(&mut [0; 16]).unwrap_err().kind(), ErrorKind::WouldBlock, "neither the words nor the end");
        assert_eq!(proxy.swallowed(), 1);
        drop(server);
        eventually("it is gone", || proxy.swallowed() == 0 && proxy.connections() == 0);
        let _new = TcpStream::connect(proxy.address()).unwrap();
        assert!(listener.accept().is_ok(), "new ones pass");
        assert_eq!(proxy.swallowed(), 0);
    }

    #[test]
    fn an_answer_that_is_lost_is_one_to_a_request_that_was_carried_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = ChaosProxy::start(listener.local_addr().unwrap());
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        proxy.lose_answers_to(Some(b"COMMIT"));
        for (request, is_answered) in [(b"SELECT", true), (b"COMMIT", false)] {
            client.write_all(request).unwrap();
            let mut heard = [0; 6];
            server.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, request);
            server.write_all(b"OK").unwrap();
            assert_eq!(client.read_exact(&mut [0; 2]).is_ok(), is_answered);
        }
        assert_eq!(proxy.answers_lost(), 1);
        proxy.lose_answers_to(None);
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"COMMIT").unwrap();
        server.read_exact(&mut [0; 6]).unwrap();
        server.write_all(b"OK").unwrap();
        client.read_exact(&mut [0; 2]).unwrap();
    }

    #[test]
    fn a_reset_ends_what_is_there_and_what_comes() {
        let proxy = ChaosProxy::start(echo());
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(said(&mut stream, b"before"), b"before");
        proxy.set(Chaos::Reset);
        assert!(matches!(stream.read(&mut [0; 16]), Ok(0) | Err(_)));
        eventually("it is gone", || proxy.connections() == 0);
        let mut late = TcpStream::connect(proxy.address()).unwrap();
        assert!(matches!(late.read(&mut [0; 16]), Ok(0) | Err(_)));
    }
}
