//! What carries the bytes of a connection, under one set of methods.
//!
//! ```text
//!  socket ─► TLS, where the door says so ─► WebSocket, where the first bytes say so ─► frames
//! ```
//!
//! - A transport has no buffer of its own while idle: it reads into the shard's and writes from shared bytes. Plain TCP and an idle
//!   WebSocket are a socket and two bytes; what a layer has to remember is boxed.
//! - It never waits. `WouldBlock` means: the reactor will say when.
//! - Frames are in the form that [`Transport::form`] names; whoever shares bytes between connections shares them per [`Form`]. A layer that
//!   frames frames once more (WebSocket) is a form more; one that only ciphers the stream (TLS) is not.
//! - No frame is looked into here, with one exception: a WebSocket's path may carry the LOGIN, and then the frame is made of it.

mod plain;
mod tls;
mod websocket;

pub use self::websocket::WebSocketRules;

use self::{
    plain::PlainTransport,
    tls::{Opened, Tls},
    websocket::WebSocket,
};
use billfish_session::Form;
use billfish_wire::{Code, Encoding, Reason};
use mio::{Interest, Registry, Token};
use std::{
    io::{self, IoSlice},
    sync::Arc,
};

/// What transports are called among the nodes and in what clients are told.
pub(crate) const TRANSPORTS: [&str; 3] = ["tcp", "ws", "tls"];

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

/// How the stream is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// Frame behind frame.
    Bare,
    /// The first byte will say.
    Undecided,
    /// As a WebSocket's messages.
    WebSocket(WebSocket),
}

/// One connection's bytes, whatever carries them.
#[derive(Debug)]
pub(crate) struct Transport {
    socket: PlainTransport,
    framing: Framing,
    layers: Option<Box<Layers>>,
}

/// What has to be remembered beside the socket.
#[derive(Debug, Default)]
struct Layers {
    tls: Option<Tls>,
    websocket: websocket::Begun,
}

impl Layers {
    fn is_idle(&self) -> bool {
        self.tls.is_none() && self.websocket.is_idle()
    }
}

impl Transport {
    /// A connection that came through a door.
    ///
    /// # Errors
    /// The door's TLS cannot be used.
    pub(crate) fn enter(stream: mio::net::TcpStream, entrance: &Entrance) -> io::Result<Self> {
        let socket = PlainTransport::new(stream);
        Ok(match entrance {
            Entrance::Plain => Self { socket, framing: Framing::Bare, layers: None },
            Entrance::WebSocket => Self { socket, framing: Framing::WebSocket(WebSocket::UPGRADING), layers: None },
            Entrance::Tls(config) => {
                let tls = Tls::new(config).map_err(io::Error::other)?;
                Self { socket, framing: Framing::Undecided, layers: Some(Box::new(Layers { tls: Some(tls), ..Layers::default() })) }
            }
        })
    }

    /// The form of frames for a session of this encoding.
    pub(crate) const fn form(&self, encoding: Encoding) -> Form {
        match self.framing {
            Framing::Bare | Framing::Undecided => Form::bare(encoding),
            Framing::WebSocket(websocket) => websocket.form(encoding),
        }
    }

    /// The code under which a frame goes out: who logged in by its path is answered as a WebSocket's handshake is.
    pub(crate) fn code(&self, code: Code) -> Code {
        match self.framing {
            Framing::WebSocket(websocket) if websocket.logged_in_by_path() && code == Code::Login => Code::WsShake,
            _ => code,
        }
    }

    /// Its name among [`TRANSPORTS`]: by which door somebody of its kind comes in elsewhere.
    pub(crate) fn name(&self) -> &'static str {
        match self.framing {
            _ if self.tls().is_some() => "tls",
            Framing::Bare | Framing::Undecided => "tcp",
            Framing::WebSocket(_) => "ws",
        }
    }

    /// Whether what is read is frames, and nothing lies between.
    pub(crate) const fn is_bare(&self) -> bool {
        matches!(self.framing, Framing::Bare) && self.layers.is_none()
    }

    /// Whether anything can be written that the peer can read: TLS, where there is any, is established.
    pub(crate) fn takes_words(&self) -> bool {
        self.tls().is_none_or(Tls::is_established)
    }

    /// Whether a layer has the beginning of something whose end has not arrived.
    pub(crate) fn is_partial(&self) -> bool {
        self.layers.as_ref().is_some_and(|layers| !layers.websocket.is_idle() || layers.tls.as_ref().is_some_and(Tls::is_partial))
    }

    /// Whether frames mean anything to the peer: it has asked for them.
    pub(crate) const fn speaks_frames(&self) -> bool {
        match self.framing {
            Framing::Bare => true,
            Framing::Undecided => false,
            Framing::WebSocket(websocket) => !websocket.is_upgrading(),
        }
    }

    fn tls(&self) -> Option<&Tls> {
        self.layers.as_ref()?.tls.as_ref()
    }

    /// Reads what has arrived, as it is on the wire; 0 is the end of the stream. Fewer bytes than `buffer` holds: there are no more for now.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }

    /// Takes what was read through the layers. Frames and a reply stand in `scratch` then.
    ///
    /// # Errors
    /// The socket failed while a layer answered.
    pub(crate) fn open(&mut self, arrived: &mut [u8], bounds: Bounds<'_>, scratch: &mut Scratch) -> io::Result<Found> {
        scratch.clear();
        let mut found = Found::default();
        let mut opened = std::mem::take(&mut scratch.opened);
        let layers = self.layers.get_or_insert_default();
        let arrived = match &mut layers.tls {
            None => arrived,
            Some(tls) => {
                match tls.open(&mut self.socket, arrived, &mut opened) {
                    Ok(Opened::More) => {}
                    Ok(Opened::Established { is_resumed }) => {
                        found.established = Some(if is_resumed { Handshake::Resumed } else { Handshake::Full });
                    }
                    Ok(Opened::End) => found.end = Some(End::Closed),
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => found.end = Some(End::Failed),
                    Err(error) => return Err(error),
                }
                opened.as_mut_slice()
            }
        };
        if self.framing == Framing::Undecided
            && let Some(first) = arrived.first()
        {
            // Both magics begin with another letter than any HTTP method that may be asked with.
            self.framing = match *first {
                b'G' => Framing::WebSocket(WebSocket::UPGRADING),
                _ => Framing::Bare,
            };
        }
        match &mut self.framing {
            Framing::Bare | Framing::Undecided => scratch.frames.extend_from_slice(arrived),
            Framing::WebSocket(websocket) => {
                let end = websocket.open(&mut layers.websocket, arrived, bounds, scratch, &mut found.controls);
                found.end = end.or(found.end);
            }
        }
        if layers.is_idle() {
            self.layers = None;
        }
        scratch.opened = opened;
        Ok(found)
    }

    /// Writes a beginning of `bytes`, as much as is taken. Nothing taken is 0, not an error.
    pub(crate) fn write(&mut self, bytes: &[u8], scratch: &mut Scratch) -> io::Result<usize> {
        match &mut self.layers {
            None => self.socket.write(bytes),
            Some(layers) => match &mut layers.tls {
                None => self.socket.write(bytes),
                Some(tls) => tls.write_vectored(&mut self.socket, &[IoSlice::new(bytes)], scratch),
            },
        }
    }

    /// The same for bytes in pieces.
    pub(crate) fn write_vectored(&mut self, pieces: &[IoSlice<'_>], scratch: &mut Scratch) -> io::Result<usize> {
        match self.layers.as_mut().and_then(|layers| layers.tls.as_mut()) {
            None => self.socket.write_vectored(pieces),
            Some(tls) => tls.write_vectored(&mut self.socket, pieces, scratch),
        }
    }

    /// Writes what a layer still has; whether nothing of it is left.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match self.layers.as_mut().and_then(|layers| layers.tls.as_mut()) {
            None => Ok(true),
            Some(tls) => tls.flush(&mut self.socket),
        }
    }

    /// Appends the last words of the layer that cuts frames: why the connection ends.
    pub(crate) fn part_into(&self, out: &mut Vec<u8>, reason: Reason) {
        if let Framing::WebSocket(websocket) = self.framing {
            let begun = self.layers.as_ref().map(|layers| &layers.websocket);
            websocket.part_into(begun, out, reason);
        }
    }

    /// Nothing more will be written: the peer sees the end behind what was.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if let Some(tls) = self.layers.as_mut().and_then(|layers| layers.tls.as_mut()) {
            tls.say_end(&mut self.socket);
        }
        self.socket.finish()
    }

    /// The socket, to look at its options.
    #[cfg(test)]
    pub(crate) fn socket(&mut self) -> &mut mio::net::TcpStream {
        self.socket.source()
    }

    /// Asks the reactor for events, for the first time.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        let interest = self.interest(interest);
        registry.register(self.socket.source(), token, interest)
    }

    /// Asks for other events than so far.
    pub(crate) fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        let interest = self.interest(interest);
        registry.reregister(self.socket.source(), token, interest)
    }

    /// TLS may have a record to write that nobody else knows of. The edge comes when the socket was full and has room again, and else never.
    fn interest(&self, interest: Interest) -> Interest {
        if self.tls().is_some() { interest | Interest::WRITABLE } else { interest }
    }
}
