//! What carries the bytes of a connection, under one set of methods.
//!
//! ```text
//!  socket ─► PROXY header, of a relay ─► TLS, where the door says so ─► WebSocket, where the first bytes say so ─► frames
//!  QUIC task ─► hand-over ─► frames
//! ```
//!
//! - A transport has no buffer of its own while idle: it reads into the shard's and writes from shared bytes. Plain TCP and an idle
//!   WebSocket are a socket and two bytes; what a layer has to remember is boxed.
//! - It never waits. `WouldBlock` means: the reactor will say when, or the list of QUIC connections that are ready.
//! - A stream takes bytes, as many as it takes. QUIC has a stream for each class and takes whole frames: [`ShardEnd::offer`].
//! - Frames are in the form that [`Transport::form`] names; whoever shares bytes between connections shares them per [`Form`]. A layer that
//!   frames frames once more (WebSocket) is a form more; one that only ciphers the stream (TLS) is not.
//! - No frame is looked into here, with one exception: a WebSocket's path may carry the LOGIN, and then the frame is made of it.

mod plain;
mod proxy;
mod stream;
mod tls;
mod websocket;

pub use self::websocket::WebSocketRules;

pub(crate) use self::proxy::{HEADER_BYTES_LONGEST, HEADER_BYTES_MAX, HEADER_BYTES_MIN, NotProxy, Source};

use self::stream::Stream;
use crate::{
    quic::ShardEnd,
    shard::message::{Listener, TurnedAway},
};
use billfish_session::Form;
use billfish_wire::{Code, Encoding, Reason};
use mio::{Interest, Registry, Token};
use std::{
    io::{self, IoSlice},
    sync::Arc,
};

/// What a door lets in.
#[derive(Clone, Debug)]
pub enum Entrance {
    /// Bare frames.
    Plain,
    /// WebSocket alone.
    WebSocket,
    /// TLS, and in it bare frames or a WebSocket.
    Tls(Arc<rustls::ServerConfig>),
}

/// What layers work in; one per shard, empty between two turns of connections.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Taken out of TLS, and not yet out of what is in it.
    opened: Vec<u8>,
    /// Frames, as on plain TCP.
    frames: Vec<u8>,
    /// What a layer answers by itself: to be written before anything else.
    reply: Vec<u8>,
    /// Plain bytes of the record that is being made.
    gathered: Vec<u8>,
    /// The record.
    sealed: Vec<u8>,
}

/// Scratch keeps no more than this between turns: what one buffer of the shard opens to.
const SCRATCH_KEPT_BYTES: usize = 64 * 1024;

impl Scratch {
    fn clear(&mut self) {
        for buffer in [&mut self.opened, &mut self.frames, &mut self.reply, &mut self.gathered, &mut self.sealed] {
            buffer.clear();
            buffer.shrink_to(SCRATCH_KEPT_BYTES);
        }
    }

    /// The frames that the last [`Transport::open`] found.
    pub(crate) fn frames(&self) -> &[u8] {
        &self.frames
    }

    /// What the last [`Transport::open`] wants to be written.
    pub(crate) fn reply(&self) -> &[u8] {
        &self.reply
    }

    pub(crate) fn reply_mut(&mut self) -> &mut Vec<u8> {
        &mut self.reply
    }
}

/// What frames a layer may let through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds<'a> {
    /// Longest body before LOGIN.
    pub(crate) login_body_bytes_max: usize,
    /// Longest body after it.
    pub(crate) body_bytes_max: usize,
    /// What else is asked of a WebSocket.
    pub(crate) websocket: &'a WebSocketRules,
}

/// What a layer found beside frames.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// A TLS handshake came to its end, with a ticket or without.
    pub(crate) established: Option<Handshake>,
    /// Control frames of a WebSocket, which have no code and count as frames.
    pub(crate) controls: u32,
    /// Nothing more can be read.
    pub(crate) end: Option<End>,
}

/// How a TLS handshake went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    Full,
    Resumed,
}

/// Why nothing more can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The peer has said so.
    Closed,
    /// The peer asked for what is not given: the reply says it, and nothing else is to be said.
    Refused,
    /// The peer broke the layer's rules; the session is told.
    Broken(Reason),
    /// TLS broke, and says so itself.
    Failed,
}

/// One connection's bytes, whatever carries them.
#[derive(Debug)]
pub(crate) enum Transport {
    /// A socket of the shard's own.
    Stream(Stream),
    /// A QUIC connection, which a task elsewhere owns.
    Quic(ShardEnd),
}

impl Transport {
    /// A connection that came through a door.
    ///
    /// # Errors
    /// The door's TLS cannot be used.
    pub(crate) fn enter(stream: mio::net::TcpStream, entrance: &Entrance) -> io::Result<Self> {
        Stream::enter(stream, entrance).map(Self::Stream)
    }

    /// It is a relay's: before anything else its header is read.
    pub(crate) fn expect_header(&mut self) {
        if let Self::Stream(stream) = self {
            stream.expect_header();
        }
    }

    /// Whether the relay has not said yet for whom it connects.
    pub(crate) fn awaits_header(&self) -> bool {
        match self {
            Self::Stream(stream) => stream.awaits_header(),
            Self::Quic(_) => false,
        }
    }

    /// Reads on in a relay's header, of at most so many bytes: for whom it connects once it is whole, and how much of `arrived` was the header's.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn take_header(&mut self, arrived: &[u8], bytes_max: usize) -> Result<Option<(Source, usize)>, NotProxy> {
        match self {
            Self::Stream(stream) => stream.take_header(arrived, bytes_max),
            Self::Quic(_) => Err(NotProxy),
        }
    }

    /// The form of frames for a session of this encoding.
    pub(crate) const fn form(&self, encoding: Encoding) -> Form {
        match self {
            Self::Stream(stream) => stream.form(encoding),
            Self::Quic(_) => Form::bare(encoding),
        }
    }

    /// The code under which a frame goes out: who logged in by its path is answered as a WebSocket's handshake is.
    pub(crate) fn code(&self, code: Code) -> Code {
        match self {
            Self::Stream(stream) => stream.code(code),
            Self::Quic(_) => code,
        }
    }

    /// By which it came in, and by which somebody of its kind comes in elsewhere. The same for as long as it lives.
    pub(crate) fn listener(&self) -> Listener {
        match self {
            Self::Stream(stream) => stream.listener(),
            Self::Quic(_) => Listener::Quic,
        }
    }

    /// Whether what is read is frames, and nothing lies between.
    pub(crate) const fn is_bare(&self) -> bool {
        match self {
            Self::Stream(stream) => stream.is_bare(),
            Self::Quic(_) => true,
        }
    }

    /// Whether anything can be written that the peer can read: TLS, where there is any, is established.
    pub(crate) fn takes_words(&self) -> bool {
        match self {
            Self::Stream(stream) => stream.takes_words(),
            Self::Quic(_) => true,
        }
    }

    /// Whether a layer has the beginning of something whose end has not arrived.
    pub(crate) fn is_partial(&self) -> bool {
        match self {
            Self::Stream(stream) => stream.is_partial(),
            Self::Quic(_) => false,
        }
    }

    /// Whether frames mean anything to the peer: it has asked for them.
    pub(crate) const fn speaks_frames(&self) -> bool {
        match self {
            Self::Stream(stream) => stream.speaks_frames(),
            Self::Quic(_) => true,
        }
    }

    /// The hand-over that takes whole frames; `None`: bytes are written.
    pub(crate) const fn quic(&self) -> Option<&ShardEnd> {
        match self {
            Self::Stream(_) => None,
            Self::Quic(end) => Some(end),
        }
    }

    /// Reads what has arrived, as it is on the wire; 0 is the end of the stream. Fewer bytes than `buffer` holds: there are no more for now.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => stream.read(buffer),
            Self::Quic(end) => end.read(buffer),
        }
    }

    /// Takes what was read through the layers. Frames and a reply stand in `scratch` then.
    ///
    /// # Errors
    /// The socket failed while a layer answered, or there are no layers.
    pub(crate) fn open(&mut self, arrived: &mut [u8], bounds: Bounds<'_>, scratch: &mut Scratch) -> io::Result<Found> {
        self.stream()?.open(arrived, bounds, scratch)
    }

    /// Writes a beginning of `bytes`, as much as is taken. Nothing taken is 0, not an error.
    ///
    /// # Errors
    /// The socket failed, or there is none.
    pub(crate) fn write(&mut self, bytes: &[u8], scratch: &mut Scratch) -> io::Result<usize> {
        self.stream()?.write(bytes, scratch)
    }

    /// The same for bytes in pieces.
    pub(crate) fn write_vectored(&mut self, pieces: &[IoSlice<'_>], scratch: &mut Scratch) -> io::Result<usize> {
        self.stream()?.write_vectored(pieces, scratch)
    }

    /// Writes what a layer still has; whether nothing of it is left.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match self {
            Self::Stream(stream) => stream.flush(),
            Self::Quic(_) => Ok(true),
        }
    }

    /// What a layer has sealed and the socket has not taken.
    pub(crate) fn unsent_bytes(&self) -> usize {
        match self {
            Self::Stream(stream) => stream.unsent_bytes(),
            Self::Quic(_) => 0,
        }
    }

    /// Whether the peer has said that it is done, and hears the same from us before the end.
    pub(crate) fn awaits_close(&self) -> bool {
        match self {
            Self::Stream(stream) => stream.awaits_close(),
            Self::Quic(_) => false,
        }
    }

    /// Says by TLS that nothing more comes, so that the peer knows that nobody cut the stream. One try: nobody has to hear it.
    pub(crate) fn say_end(&mut self) {
        if let Self::Stream(stream) = self {
            stream.say_end();
        }
    }

    /// Appends the last words of the layer that cuts frames: why the connection ends.
    pub(crate) fn part_into(&self, out: &mut Vec<u8>, reason: Reason) {
        if let Self::Stream(stream) = self {
            stream.part_into(out, reason);
        }
    }

    /// Appends why a peer that has said nothing is not let in: an ERROR, or the answer to the request it is about to make. Nothing where TLS
    /// comes first: the handshake would cost more than the words are worth.
    pub(crate) fn refusal_into(&self, out: &mut Vec<u8>, refusal: TurnedAway) {
        if let Self::Stream(stream) = self {
            stream.refusal_into(out, refusal);
        }
    }

    /// Nothing more will be written: the peer sees the end behind what was.
    ///
    /// # Errors
    /// The socket failed, or there is none.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.stream()?.finish()
    }

    /// Whether anything is remembered beside the socket.
    #[cfg(test)]
    pub(crate) fn has_layers(&self) -> bool {
        matches!(self, Self::Stream(stream) if stream.has_layers())
    }

    /// The socket, to look at its options.
    #[cfg(test)]
    pub(crate) fn socket(&mut self) -> &mut mio::net::TcpStream {
        self.stream().expect("a connection over TCP").socket()
    }

    /// Asks for events, for the first time.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.register(registry, token, interest),
            Self::Quic(end) => {
                end.register(token);
                Ok(())
            }
        }
    }

    /// Asks for other events than so far. Of QUIC it is told whatever there is.
    pub(crate) fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.reregister(registry, token, interest),
            Self::Quic(_) => Ok(()),
        }
    }

    fn stream(&mut self) -> io::Result<&mut Stream> {
        match self {
            Self::Stream(stream) => Ok(stream),
            Self::Quic(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

#[cfg(test)]
mod tests;
