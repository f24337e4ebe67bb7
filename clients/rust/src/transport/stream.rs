//! One stream of bytes over TCP: bare, within TLS, as a WebSocket, or both.
//!
//! ```text
//!  frames ── WebSocket, of ws and wss ── TLS, of tls and wss ── socket
//! ```

use super::{
    Arrived, ConnectError, Lost, READ_BYTES, Trust, UNSENT_BYTES_MAX, cut,
    websocket::{self, WebSocket},
};
use crate::endpoint::Endpoint;
use billfish_websocket::handshake;
use billfish_wire::{Body, Code, Encoding, Reason, Reassembler, frame};
use rustls::ClientConnection;
use std::io::{self, Read, Write};
use tokio::net::TcpStream;

/// One connection.
#[derive(Debug)]
pub(super) struct Stream {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    framing: Framing,
    /// Not sealed and not written.
    unsent: Vec<u8>,
    /// Opened, and not cut: what came behind the answer to a WebSocket's request.
    opened: Vec<u8>,
}

/// How the stream is cut.
#[derive(Debug)]
enum Framing {
    Bare(Reassembler),
    WebSocket(WebSocket),
}

/// What one read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Something,
    Nothing,
    End,
}

impl Stream {
    /// Connects; of several addresses behind a name the first that answers.
    pub(super) async fn open(endpoint: &Endpoint, trust: &Trust) -> Result<Self, ConnectError> {
        let tls = if endpoint.kind.is_secure() { Some(Box::new(trust.begin(endpoint).await?)) } else { None };
        let socket = TcpStream::connect(&*endpoint.authority).await?;
        socket.set_nodelay(true)?;
        let framing = Framing::Bare(Reassembler::default());
        let mut stream = Self { socket, tls, framing, unsent: Vec::new(), opened: Vec::new() };
        stream.shake_hands().await?;
        if endpoint.kind.is_websocket() {
            stream.upgrade(endpoint).await?;
        }
        Ok(stream)
    }

    async fn shake_hands(&mut self) -> Result<(), ConnectError> {
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            self.flush()?;
            self.ready(true).await?;
            if self.read()? == Heard::End {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(self.flush()?)
    }

    async fn upgrade(&mut self, endpoint: &Endpoint) -> Result<(), ConnectError> {
        let key = websocket::random();
        handshake::request_into(&mut self.unsent, &endpoint.authority, &endpoint.path, None, &key)?;
        loop {
            self.flush()?;
            self.ready(true).await?;
            let heard = self.read()?;
            if let Some(taken) = handshake::parse_response(&self.opened, &key)? {
                self.opened.drain(..taken);
                self.framing = Framing::WebSocket(WebSocket::default());
                return Ok(());
            }
            if heard == Heard::End {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// Puts a frame behind what is unsent; [`Self::flush`] writes it.
    pub(super) fn send(&mut self, encoding: Encoding, code: Code, body: &Body) {
        match &self.framing {
            Framing::Bare(_) => frame::encode_into(&mut self.unsent, encoding, code, body),
            Framing::WebSocket(_) => websocket::message_into(&mut self.unsent, &frame::encode(encoding, code, body)),
        }
    }

    /// Writes what the socket takes now.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => {
                let written = write_some(&self.socket, &self.unsent)?;
                self.unsent.drain(..written);
            }
            Some(tls) => {
                if !tls.is_handshaking() {
                    let taken = tls.writer().write(&self.unsent)?;
                    self.unsent.drain(..taken);
                }
                while tls.wants_write() {
                    match tls.write_tls(&mut Socket(&self.socket)) {
                        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        if self.unsent.is_empty() && self.unsent.capacity() > READ_BYTES {
            self.unsent = Vec::new();
        }
        if self.unsent.len() > UNSENT_BYTES_MAX { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    fn has_unsent(&self) -> bool {
        self.tls.as_ref().map_or(!self.unsent.is_empty(), |tls| tls.wants_write() || !self.unsent.is_empty())
    }

    /// Waits until there is something to read, or room for what is unsent. Cancel-safe: nothing is taken from the socket here.
    pub(super) async fn ready(&self, wants_read: bool) -> io::Result<()> {
        match (wants_read, self.has_unsent()) {
            (true, _) if matches!(self.framing, Framing::WebSocket(_)) && !self.opened.is_empty() => Ok(()),
            (true, false) => self.socket.readable().await,
            (true, true) => self.socket.ready(tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE).await.map(drop),
            (false, true) => self.socket.writable().await,
            (false, false) => std::future::pending().await,
        }
    }

    /// Takes the frames of one read. Frames before an end count.
    pub(super) fn receive(&mut self, frames: &mut Vec<Arrived>) -> Result<(), Lost> {
        let heard = self.read().map_err(|error| Lost::failed(&error));
        let outcome = match &mut self.framing {
            Framing::Bare(reassembler) => cut(reassembler, &self.opened, frames),
            Framing::WebSocket(websocket) => websocket.cut(&mut self.opened, &mut self.unsent, frames),
        };
        self.opened.clear();
        // A WebSocket answers pings and closes by itself. Where that fails, the next read does.
        self.flush().ok();
        outcome?;
        if heard? == Heard::End { Err(Lost(Reason::PeerClosed)) } else { Ok(()) }
    }

    /// Reads once, and opens what came.
    fn read(&mut self) -> io::Result<Heard> {
        let start = self.opened.len();
        let Some(tls) = &mut self.tls else {
            self.opened.resize(start + READ_BYTES, 0);
            let read = Socket(&self.socket).read(&mut self.opened[start..]);
            self.opened.truncate(start + read.as_ref().map_or(0, |read| *read));
            return heard_of(read);
        };
        let heard = heard_of(tls.read_tls(&mut Socket(&self.socket)))?;
        if let Err(error) = tls.process_new_packets() {
            // The peer is told why, as far as it listens.
            tls.write_tls(&mut Socket(&self.socket)).ok();
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        loop {
            let start = self.opened.len();
            self.opened.resize(start + READ_BYTES, 0);
            let read = tls.reader().read(&mut self.opened[start..]);
            self.opened.truncate(start + read.as_ref().map_or(0, |read| *read));
            match read {
                // The peer has said that nothing more comes.
                Ok(0) => return Ok(Heard::End),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(heard),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Heard::End),
                Err(error) => return Err(error),
            }
        }
    }

    /// The last words, as far as the socket takes them.
    pub(super) fn part(mut self) {
        if matches!(self.framing, Framing::WebSocket(_)) {
            websocket::goodbye_into(&mut self.unsent);
        }
        self.flush().ok();
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            self.flush().ok();
        }
    }
}

/// The socket as rustls knows sockets.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn heard_of(read: io::Result<usize>) -> io::Result<Heard> {
    match read {
        Ok(0) => Ok(Heard::End),
        Ok(_) => Ok(Heard::Something),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Heard::Nothing),
        Err(error) => Err(error),
    }
}

fn write_some(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match socket.try_write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
