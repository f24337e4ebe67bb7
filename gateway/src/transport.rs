//! What carries the bytes of a connection, under one set of methods.
//!
//! - A transport has no buffer of its own while idle: it reads into the shard's and writes from shared bytes.
//! - It never waits. `WouldBlock` means: the reactor will say when.
//! - Frames are in the form that [`Transport::form`] names; whoever shares bytes between connections shares them per [`WireForm`]. A
//!   transport that frames frames once more (WebSocket) is a form more; one that only ciphers the stream (TLS) is not.

mod plain;

use self::plain::PlainTransport;
use billfish_session::Push;
use billfish_wire::{Body, Code, Encoding, frame};
use bytes::Bytes;
use mio::{Interest, Registry, Token};
use std::io::{self, IoSlice};

/// How frames look on a transport: what connections must agree in to share bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum WireForm {
    /// Bare frames, JSON bodies.
    Json,
    /// Bare frames, protobuf bodies.
    Protobuf,
}

impl WireForm {
    /// How many there are.
    pub(crate) const COUNT: usize = 2;

    const fn encoding(self) -> Encoding {
        match self {
            Self::Json => Encoding::Json,
            Self::Protobuf => Encoding::Protobuf,
        }
    }

    /// A push in this form; encoded by the first who asks, shared by all.
    pub(crate) fn push(self, push: &Push) -> Bytes {
        push.frame(self.encoding())
    }

    /// Appends a frame for one connection.
    pub(crate) fn encode_into(self, out: &mut Vec<u8>, code: Code, body: &Body) {
        frame::encode_into(out, self.encoding(), code, body);
    }
}

/// One connection's bytes, whatever carries them.
#[derive(Debug)]
pub(crate) enum Transport {
    /// Bare TCP.
    Plain(PlainTransport),
}

impl Transport {
    /// TCP without anything on top.
    pub(crate) const fn plain(stream: mio::net::TcpStream) -> Self {
        Self::Plain(PlainTransport::new(stream))
    }

    /// The form of frames for a session of this encoding.
    pub(crate) const fn form(&self, encoding: Encoding) -> WireForm {
        match (self, encoding) {
            (Self::Plain(_), Encoding::Json) => WireForm::Json,
            (Self::Plain(_), Encoding::Protobuf) => WireForm::Protobuf,
        }
    }

    /// Reads what has arrived; 0 is the end of the stream. Fewer bytes than `buffer` holds: there are no more for now.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(plain) => plain.read(buffer),
        }
    }

    /// Writes a beginning of `bytes`, as much as is taken. Nothing taken is 0, not an error.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(plain) => plain.write(bytes),
        }
    }

    /// The same for bytes in pieces.
    pub(crate) fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(plain) => plain.write_vectored(pieces),
        }
    }

    /// Nothing more will be written: the peer sees the end behind what was.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(plain) => plain.finish(),
        }
    }

    /// The socket, to look at its options.
    #[cfg(test)]
    pub(crate) fn plain_stream(&mut self) -> &mut mio::net::TcpStream {
        match self {
            Self::Plain(plain) => plain.source(),
        }
    }

    /// Asks the reactor for events, for the first time.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match self {
            Self::Plain(plain) => registry.register(plain.source(), token, interest),
        }
    }

    /// Asks for other events than so far.
    pub(crate) fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match self {
            Self::Plain(plain) => registry.reregister(plain.source(), token, interest),
        }
    }
}
