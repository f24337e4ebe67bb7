//! What a socket carries: TLS where the door says so, a WebSocket where the first bytes say so, and in them frames.

use super::{
    Bounds, End, Entrance, Found, Handshake, NotProxy, Scratch, Source,
    plain::PlainTransport,
    proxy,
    tls::{Opened, Tls},
    websocket::{self, WebSocket},
};
use crate::shard::message::{Listener, TurnedAway};
use billfish_session::Form;
use billfish_wire::{Code, Encoding, Reason};
use mio::{Interest, Registry, Token};
use std::io::{self, IoSlice};

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

/// A connection over TCP.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: PlainTransport,
    framing: Framing,
    layers: Option<Box<Layers>>,
}

/// What has to be remembered beside the socket: one of the two at least.
#[derive(Debug, Default)]
struct Layers {
    tls: Option<Tls>,
    /// Boxed so that an idle connection over TLS pays 8 bytes for it.
    begun: Option<Box<Begun>>,
}

/// What has begun and not ended.
#[derive(Debug, Default)]
struct Begun {
    /// What has come of a relay's header, until it is whole.
    header: Option<Vec<u8>>,
    websocket: websocket::Begun,
}

impl Begun {
    fn is_idle(&self) -> bool {
        self.header.is_none() && self.websocket.is_idle()
    }
}

impl Stream {
    /// A connection that came through a door.
    ///
    /// # Errors
    /// The door's TLS cannot be used.
    pub(super) fn enter(stream: mio::net::TcpStream, entrance: &Entrance) -> io::Result<Self> {
        let socket = PlainTransport::new(stream);
        Ok(match entrance {
            Entrance::Plain => Self { socket, framing: Framing::Bare, layers: None },
            Entrance::WebSocket => Self { socket, framing: Framing::WebSocket(WebSocket::UPGRADING), layers: None },
            Entrance::Tls(config) => {
                let tls = Tls::new(config).map_err(io::Error::other)?;
                Self { socket, framing: Framing::Undecided, layers: Some(Box::new(Layers { tls: Some(tls), begun: None })) }
            }
        })
    }

    /// It is a relay's: before anything else its header is read.
    pub(super) fn expect_header(&mut self) {
        self.layers.get_or_insert_default().begun.get_or_insert_default().header = Some(Vec::new());
    }

    /// Whether the relay has not said yet for whom it connects.
    pub(super) fn awaits_header(&self) -> bool {
        self.begun().is_some_and(|begun| begun.header.is_some())
    }

    /// Reads on in a relay's header: for whom it connects once it is whole, and how much of `arrived` was the header's.
    pub(super) fn take_header(&mut self, arrived: &[u8], bytes_max: usize) -> Result<Option<(Source, usize)>, NotProxy> {
        let mut begun = self.take_begun();
        let mut header = begun.header.take().unwrap_or_default();
        let held_bytes = header.len();
        header.extend_from_slice(arrived);
        let Some((source, used)) = proxy::parse(&header, bytes_max)? else {
            header.shrink_to_fit();
            begun.header = Some(header);
            self.keep_begun(begun);
            return Ok(None);
        };
        self.keep_begun(begun);
        Ok(Some((source, used - held_bytes)))
    }

    /// The form of frames for a session of this encoding.
    pub(super) const fn form(&self, encoding: Encoding) -> Form {
        match self.framing {
            Framing::Bare | Framing::Undecided => Form::bare(encoding),
            Framing::WebSocket(websocket) => websocket.form(encoding),
        }
    }

    /// The code under which a frame goes out: who logged in by its path is answered as a WebSocket's handshake is.
    pub(super) fn code(&self, code: Code) -> Code {
        match self.framing {
            Framing::WebSocket(websocket) if websocket.logged_in_by_path() && code == Code::Login => Code::WsShake,
            Framing::Bare | Framing::Undecided | Framing::WebSocket(_) => code,
        }
    }

    /// By which it came in.
    pub(super) fn listener(&self) -> Listener {
        match self.framing {
            _ if self.tls().is_some() => Listener::Tls,
            Framing::Bare | Framing::Undecided => Listener::Tcp,
            Framing::WebSocket(_) => Listener::Ws,
        }
    }

    /// Whether what is read is frames, and nothing lies between.
    pub(super) const fn is_bare(&self) -> bool {
        matches!(self.framing, Framing::Bare) && self.layers.is_none()
    }

    /// Whether anything can be written that the peer can read: TLS, where there is any, is established.
    pub(super) fn takes_words(&self) -> bool {
        self.tls().is_none_or(Tls::is_established)
    }

    /// Whether a layer has the beginning of something whose end has not arrived.
    pub(super) fn is_partial(&self) -> bool {
        self.begun().is_some_and(|begun| !begun.websocket.is_idle()) || self.tls().is_some_and(Tls::is_partial)
    }

    /// Whether frames mean anything to the peer: it has asked for them.
    pub(super) const fn speaks_frames(&self) -> bool {
        match self.framing {
            Framing::Bare => true,
            Framing::Undecided => false,
            Framing::WebSocket(websocket) => !websocket.is_upgrading(),
        }
    }

    fn tls(&self) -> Option<&Tls> {
        self.layers.as_ref()?.tls.as_ref()
    }

    fn begun(&self) -> Option<&Begun> {
        self.layers.as_ref()?.begun.as_deref()
    }

    /// What has begun, to go on with: most of it ends with what has arrived, and never sees the heap.
    fn take_begun(&mut self) -> Begun {
        self.layers.as_mut().and_then(|layers| layers.begun.take()).map_or_else(Begun::default, |begun| *begun)
    }

    /// Remembers what has not ended. The layers of who has neither that nor TLS are gone.
    fn keep_begun(&mut self, begun: Begun) {
        if !begun.is_idle() {
            self.layers.get_or_insert_default().begun = Some(Box::new(begun));
        } else if self.tls().is_none() {
            self.layers = None;
        }
    }

    /// Reads what has arrived, as it is on the wire; 0 is the end of the stream. Fewer bytes than `buffer` holds: there are no more for now.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }

    /// Takes what was read through the layers. Frames and a reply stand in `scratch` then.
    ///
    /// # Errors
    /// The socket failed while a layer answered.
    pub(super) fn open(&mut self, arrived: &mut [u8], bounds: Bounds<'_>, scratch: &mut Scratch) -> io::Result<Found> {
        scratch.clear();
        let mut found = Found::default();
        let mut opened = std::mem::take(&mut scratch.opened);
        let mut begun = self.take_begun();
        let arrived = match self.layers.as_mut().and_then(|layers| layers.tls.as_mut()) {
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
                let end = websocket.open(&mut begun.websocket, arrived, bounds, scratch, &mut found.controls);
                found.end = end.or(found.end);
            }
        }
        self.keep_begun(begun);
        scratch.opened = opened;
        Ok(found)
    }

    /// Writes a beginning of `bytes`, as much as is taken. Nothing taken is 0, not an error.
    pub(super) fn write(&mut self, bytes: &[u8], scratch: &mut Scratch) -> io::Result<usize> {
        match &mut self.layers {
            None => self.socket.write(bytes),
            Some(layers) => match &mut layers.tls {
                None => self.socket.write(bytes),
                Some(tls) => tls.write_vectored(&mut self.socket, &[IoSlice::new(bytes)], scratch),
            },
        }
    }

    /// The same for bytes in pieces.
    pub(super) fn write_vectored(&mut self, pieces: &[IoSlice<'_>], scratch: &mut Scratch) -> io::Result<usize> {
        match self.layers.as_mut().and_then(|layers| layers.tls.as_mut()) {
            None => self.socket.write_vectored(pieces),
            Some(tls) => tls.write_vectored(&mut self.socket, pieces, scratch),
        }
    }

    /// Writes what a layer still has; whether nothing of it is left.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        match self.layers.as_mut().and_then(|layers| layers.tls.as_mut()) {
            None => Ok(true),
            Some(tls) => tls.flush(&mut self.socket),
        }
    }

    /// What a layer has sealed and the socket has not taken.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.tls().map_or(0, Tls::unsent_bytes)
    }

    /// Whether the peer has said that it is done, and hears the same from us before the end.
    pub(super) fn awaits_close(&self) -> bool {
        self.begun().is_some_and(|begun| begun.websocket.awaits_close())
    }

    /// Says by TLS that nothing more comes, so that the peer knows that nobody cut the stream. One try: nobody has to hear it.
    pub(super) fn say_end(&mut self) {
        if let Some(tls) = self.layers.as_mut().and_then(|layers| layers.tls.as_mut()) {
            tls.say_end(&mut self.socket);
        }
    }

    /// Appends the last words of the layer that cuts frames: why the connection ends.
    pub(super) fn part_into(&self, out: &mut Vec<u8>, reason: Reason) {
        if let Framing::WebSocket(websocket) = self.framing {
            websocket.part_into(self.begun().map(|begun| &begun.websocket), out, reason);
        }
    }

    /// Appends why a peer that has said nothing is not let in, unless TLS comes first.
    pub(super) fn refusal_into(&self, out: &mut Vec<u8>, refusal: TurnedAway) {
        match self.framing {
            Framing::Bare if self.tls().is_none() => Form::Json.encode_into(out, Code::Error, &refusal.body()),
            Framing::WebSocket(websocket) if self.tls().is_none() => websocket.refusal_into(out, refusal),
            Framing::Bare | Framing::Undecided | Framing::WebSocket(_) => {}
        }
    }

    /// Nothing more will be written: the peer sees the end behind what was.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.say_end();
        self.socket.finish()
    }

    /// Whether anything is remembered beside the socket.
    #[cfg(test)]
    pub(super) const fn has_layers(&self) -> bool {
        self.layers.is_some()
    }

    /// The socket, to look at its options.
    #[cfg(test)]
    pub(super) fn socket(&mut self) -> &mut mio::net::TcpStream {
        self.socket.source()
    }

    /// Asks the reactor for events, for the first time.
    pub(super) fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        let interest = self.interest(interest);
        registry.register(self.socket.source(), token, interest)
    }

    /// Asks for other events than so far.
    pub(super) fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        let interest = self.interest(interest);
        registry.reregister(self.socket.source(), token, interest)
    }

    /// TLS may have a record to write that nobody else knows of. The edge comes when the socket was full and has room again, and else never.
    fn interest(&self, interest: Interest) -> Interest {
        if self.tls().is_some() { interest | Interest::WRITABLE } else { interest }
    }
}
