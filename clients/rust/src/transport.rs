//! The way to a gateway: frames in, frames out, whatever carries them.
//!
//! - A transport gives whole frames, and takes whole frames: one that has several streams (QUIC) puts them together inside, and keeps the
//!   order of each.
//! - Nothing waits in here but [`Transport::connect`] and [`Transport::ready`]. What the socket does not take at once is kept, up to a bound.
//! - No frame is looked into.

mod error;
mod quic;
pub(crate) mod race;
mod stream;
mod tls;
mod websocket;

pub(crate) use self::{error::ConnectError, tls::Trust};

use self::{quic::Quic, stream::Stream};
use crate::endpoint::{Endpoint, TransportKind};
use billfish_session::client::Order;
use billfish_wire::{Body, Code, Encoding, Frame, Reason, Reassembler, limits::BODY_BYTES_MAX};
use std::{io, sync::Arc, time::Duration};
use tokio::time::timeout;
use tracing::debug;

/// Bytes that may wait to be written. A session has at most 16 messages of 64 KiB under way; a gateway that reads none of them is dead.
const UNSENT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Read at once; a joined burst of chat fits, and a longer frame is put together from several.
const READ_BYTES: usize = 16 * 1024;

/// One connection.
#[derive(Debug)]
pub(crate) struct Transport {
    endpoint: Endpoint,
    carrier: Carrier,
}

/// What carries it.
#[derive(Debug)]
enum Carrier {
    Stream(Box<Stream>),
    Quic(Box<Quic>),
}

/// A frame that has arrived.
#[derive(Debug)]
pub(crate) struct Arrived {
    encoding: Encoding,
    code: i32,
    body: Vec<u8>,
}

impl Arrived {
    fn of(frame: Frame<'_>) -> Self {
        Self { encoding: frame.encoding, code: frame.code, body: frame.body.to_vec() }
    }

    pub(crate) fn frame(&self) -> Frame<'_> {
        Frame { encoding: self.encoding, code: self.code, body: &self.body }
    }
}

/// The connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost(pub(crate) Reason);

impl Lost {
    fn failed(error: &io::Error) -> Self {
        debug!(%error, "transport failed");
        Self(Reason::TransportFailed)
    }
}

impl Transport {
    /// Connects so far that LOGIN can be said; of several addresses behind a name the first that answers.
    pub(crate) async fn connect(endpoint: Endpoint, trust: Arc<Trust>, within: Duration) -> Result<Self, ConnectError> {
        let carrier = timeout(within, Carrier::open(&endpoint, &trust)).await.map_err(|_| ConnectError::TimedOut)??;
        Ok(Self { endpoint, carrier })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What order its frames keep.
    pub(crate) fn order(&self) -> Order {
        match &self.carrier {
            Carrier::Stream(_) => Order::Total,
            Carrier::Quic(_) => Order::PerClass,
        }
    }

    /// Puts a frame behind what is unsent; [`Self::flush`] writes it.
    pub(crate) fn send(&mut self, encoding: Encoding, code: Code, body: &Body) {
        match &mut self.carrier {
            Carrier::Stream(stream) => stream.send(encoding, code, body),
            Carrier::Quic(quic) => quic.send(encoding, code, body),
        }
    }

    /// Writes what is taken now.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match &mut self.carrier {
            Carrier::Stream(stream) => stream.flush(),
            Carrier::Quic(quic) => quic.flush(),
        }
    }

    /// Waits until there is something to read, or room for what is unsent. Cancel-safe: what is taken in here is kept.
    pub(crate) async fn ready(&mut self, wants_read: bool) -> io::Result<()> {
        match &mut self.carrier {
            Carrier::Stream(stream) => stream.ready(wants_read).await,
            Carrier::Quic(quic) => quic.ready(wants_read).await,
        }
    }

    /// Takes the frames of one read. Frames before an end count.
    pub(crate) fn receive(&mut self, frames: &mut Vec<Arrived>) -> Result<(), Lost> {
        match &mut self.carrier {
            Carrier::Stream(stream) => stream.receive(frames),
            Carrier::Quic(quic) => quic.receive(frames),
        }
    }

    /// Goes on from another address of this device; `false` where that cannot be. Whether the other end is reached from there is not known yet.
    pub(crate) fn migrate(&mut self) -> bool {
        match &mut self.carrier {
            Carrier::Stream(_) => false,
            Carrier::Quic(quic) => {
                quic.migrate().inspect_err(|error| debug!(endpoint = %self.endpoint, %error, "no other address")).is_ok()
            }
        }
    }

    /// The last words, as far as they are taken.
    pub(crate) fn part(self) {
        match self.carrier {
            Carrier::Stream(stream) => stream.part(),
            Carrier::Quic(quic) => quic.part(),
        }
    }
}

impl Carrier {
    async fn open(endpoint: &Endpoint, trust: &Trust) -> Result<Self, ConnectError> {
        match endpoint.kind {
            TransportKind::Quic => Ok(Self::Quic(Box::new(Quic::open(endpoint, trust).await?))),
            TransportKind::Tls | TransportKind::Wss | TransportKind::Tcp | TransportKind::Ws => {
                Ok(Self::Stream(Box::new(Stream::open(endpoint, trust).await?)))
            }
        }
    }
}

fn cut(reassembler: &mut Reassembler, input: &[u8], arrived: &mut Vec<Arrived>) -> Result<(), Lost> {
    let mut frames = reassembler.feed(input);
    loop {
        match frames.next(BODY_BYTES_MAX) {
            Ok(Some(frame)) => arrived.push(Arrived::of(frame)),
            Ok(None) => return Ok(()),
            Err(error) => {
                debug!(%error, "the stream cannot be followed");
                return Err(Lost(error.reason()));
            }
        }
    }
}

/// Our gateways name the reason for which they end a connection by its label.
fn reason_of_label(label: &str) -> Option<Reason> {
    Reason::ALL.into_iter().find(|reason| reason.label() == label)
}
