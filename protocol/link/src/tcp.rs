//! A link over TCP: dialled by the gateway, accepted by the router.
//!
//! - On the wire: a length of 4 bytes, big end first, then an `Envelope` of so many bytes, at most [`ENVELOPE_BYTES_MAX`].
//! - The gateway says `Hello`, the router `Welcome`; before that nothing else is taken, and little memory is spent.
//! - Then one task per link ([`Pump`](crate::Pump)) reads and writes. It never waits for the application while reading: what
//!   arrives has a place reserved, which is what the peer's credit is.
//!
//! No TLS: links run on a private network, and the secret in the hello keeps out strays, not eavesdroppers.

mod codec;
mod hello;
mod pump;

use crate::{CREDIT_ENVELOPES, InFlight, Link, LinkError, PeerKind, Pump};
use bytes::BytesMut;
use hello::Agreed;
use std::fmt;
use std::io;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Bytes of one envelope. The largest honest one is a page of an inbox or a room log.
pub const ENVELOPE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the longest text that one envelope carries; the kibibyte is for the ids and numbers beside it. What a client sends is such a
/// text, so no gateway takes longer bodies.
pub const TEXT_BYTES_MAX: usize = ENVELOPE_BYTES_MAX - 1024;
/// Envelopes that wait on the sender's side, beside the credit: enough to fill a write while the last one runs.
pub const SEND_QUEUE_ENVELOPES: usize = 1024;
/// Bytes of a node's name.
pub const NODE_BYTES_MAX: usize = 64;
/// Hellos that are awaited at one time by an [`Acceptor`]; the next dialler waits in the listen queue. A router has some ten gateways.
const HELLOS_MAX: usize = 64;
/// Pause after an accept that failed (out of descriptors, as a rule), so that the loop does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// An idle link is heard this often: three times before it counts as silent, so one ping that comes late cuts nothing.
const PING_EVERY: Duration = Duration::from_secs(2);
/// As long as a node's lease in the registry: a router that hangs loses its rooms and its links at the same time, and calls that wait for
/// it go to the next owner. A node that stands still for a second or three (a pause, a full core, a route that changes) is not cut off.
const SILENT_AFTER: Duration = Duration::from_secs(6);
const _: () = assert!(SILENT_AFTER.as_millis() >= 3 * PING_EVERY.as_millis(), "a late ping is not the end");

/// Who this node is to the other end.
#[derive(Clone)]
pub struct Identity {
    /// Its name, at most [`NODE_BYTES_MAX`].
    pub node: String,
    /// What it is, as it says when it dials. Who accepts is a router.
    pub kind: PeerKind,
    /// Rises with every start.
    pub incarnation: u64,
    /// What both ends must know. An empty one lets nobody in.
    pub secret: String,
    /// Where its links count what they have under way.
    pub in_flight: InFlight,
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Identity").field("node", &self.node).field("incarnation", &self.incarnation).finish_non_exhaustive()
    }
}

/// Takes the first envelope out of what came over a link; `None` until all of it is there. For fuzzing: a link does it by itself.
///
/// # Errors
/// What is no envelope, or too large for one.
#[doc(hidden)]
pub fn decode(input: &mut BytesMut) -> Result<Option<crate::message::Envelope>, LinkError> {
    codec::decode(input, ENVELOPE_BYTES_MAX, "a peer")
}

/// How patient a link is, and how much it lets be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From dialling to a connection.
    pub connect: Duration,
    /// From the connection to a completed hello, in all.
    pub hello: Duration,
    /// A link on which nothing was written for so long writes a ping.
    pub ping_every: Duration,
    /// A peer that was not heard for so long, or took nothing, is dead.
    pub silent_after: Duration,
    /// How long a closing link goes on writing what it was given.
    pub flush: Duration,
    /// Envelopes the peer may have sent that the application has not consumed, from 2 to [`CREDIT_ENVELOPES`].
    pub credit: usize,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            hello: Duration::from_secs(5),
            ping_every: PING_EVERY,
            silent_after: SILENT_AFTER,
            flush: Duration::from_secs(5),
            credit: CREDIT_ENVELOPES,
        }
    }
}

impl Timing {
    fn places(self) -> usize {
        self.credit.clamp(pump::CREDIT_MIN, CREDIT_ENVELOPES)
    }
}

/// Brings a link to the router at `address` ("host:port") up.
pub async fn dial(address: &str, identity: &Identity, timing: Timing) -> Result<Link, LinkError> {
    let unreachable = |cause| LinkError::Unreachable { peer: address.to_owned(), cause };
    let connecting = timeout(timing.connect, TcpStream::connect(address)).await;
    let mut stream = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let mut input = BytesMut::new();
    let saying = timeout(timing.hello, hello::dial(&mut stream, &mut input, address, identity, timing.places()));
    let agreed = saying.await.map_err(|_| LinkError::HelloTimeout { peer: address.to_owned(), within: timing.hello })??;
    Ok(join(stream, input, address.to_owned(), identity, agreed, timing))
}

/// Answers the hello of a gateway that has connected.
pub async fn accept(mut stream: TcpStream, identity: &Identity, timing: Timing) -> Result<Link, LinkError> {
    let address = stream.peer_addr().map_or_else(|_| "a peer already gone".to_owned(), |address| address.to_string());
    stream.set_nodelay(true).map_err(|cause| LinkError::Broken { peer: address.clone(), cause })?;
    let mut input = BytesMut::new();
    let answering = timeout(timing.hello, hello::accept(&mut stream, &mut input, &address, identity, timing.places()));
    let agreed = answering.await.map_err(|_| LinkError::HelloTimeout { peer: address.clone(), within: timing.hello })??;
    Ok(join(stream, input, address, identity, agreed, timing))
}

/// Takes in links at a listener; one slow dialler holds up no other.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    identity: Identity,
    timing: Timing,
    hellos: JoinSet<Result<Link, LinkError>>,
}

impl Acceptor {
    /// Accepts at `listener` as `identity`.
    #[must_use]
    pub fn new(listener: TcpListener, identity: Identity, timing: Timing) -> Self {
        Self { listener, identity, timing, hellos: JoinSet::new() }
    }

    /// The next link, or why one did not come about; the caller logs and counts that, and goes on. Cancel-safe: hellos under way
    /// go on being awaited by the next call.
    pub async fn accept(&mut self) -> Result<Link, LinkError> {
        loop {
            tokio::select! {
                Some(answered) = self.hellos.join_next() => match answered {
                    Ok(link) => return link,
                    Err(ended) => if let Ok(panic) = ended.try_into_panic() { std::panic::resume_unwind(panic) },
                },
                accepted = self.listener.accept(), if self.hellos.len() < HELLOS_MAX => match accepted {
                    Ok((stream, _)) => {
                        let (identity, timing) = (self.identity.clone(), self.timing);
                        self.hellos.spawn(async move { accept(stream, &identity, timing).await });
                    }
                    Err(cause) => {
                        tokio::time::sleep(ACCEPT_BACKOFF).await;
                        return Err(LinkError::Broken { peer: "the listener".to_owned(), cause });
                    }
                },
            }
        }
    }
}

/// Makes the link of a socket on which both ends have agreed. `input` is what came behind the hello.
fn join(stream: TcpStream, input: BytesMut, address: String, identity: &Identity, agreed: Agreed, timing: Timing) -> Link {
    let (sender, outbound) = mpsc::channel(SEND_QUEUE_ENVELOPES);
    let (inbound, receiver) = mpsc::channel(timing.places());
    let (reader, writer) = stream.into_split();
    let in_flight = identity.in_flight.clone();
    let task = tokio::spawn(pump::run(reader, writer, input, address, inbound, outbound, agreed.credit, in_flight, timing));
    Link { peer: agreed.node, kind: agreed.kind, incarnation: agreed.incarnation, sender, receiver, pump: Pump(Some(task)) }
}
