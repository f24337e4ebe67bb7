//! What lies between a client's frames and its socket: TLS, WebSocket, both or neither.
//!
//! - Boxed, and there only where the transport is not plain TCP: a WebSocket costs its client some 60 bytes here, TLS a few kilobytes.
//! - What is to be written comes out as bytes; the crowd writes them as it writes any.

use crate::crowd::client::Cause;
use billfish_websocket::{Decoder, Event, Opcode, Role, close, close_into, frame_into, handshake};
use billfish_wire::{Frame, frame, limits::BODY_BYTES_MAX};
use rustls::{ClientConnection, HandshakeKind};
use std::{
    io::{self, Read, Write},
    net::SocketAddr,
};

/// The layers of one client.
#[derive(Debug)]
pub(super) struct Layers {
    tls: Option<Box<ClientConnection>>,
    websocket: Option<WebSocket>,
    /// The crowd has been told that it stands.
    was_told: bool,
}

#[derive(Debug)]
enum WebSocket {
    /// Not asked for: TLS comes first.
    Waiting(SocketAddr),
    /// Asked for; what has come of the answer.
    Asked {
        key: [u8; 16],
        head: Vec<u8>,
    },
    Open(Decoder),
}

/// What became of the way to the first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stood {
    /// It goes on, or stood before.
    No,
    /// Frames may be said since now.
    Now {
        /// TLS was shortened by a ticket.
        is_resumed: bool,
    },
}

impl Layers {
    /// TCP stands.
    pub(super) fn new(tls: Option<ClientConnection>, websocket_of: Option<SocketAddr>) -> Self {
        Self { tls: tls.map(Box::new), websocket: websocket_of.map(WebSocket::Waiting), was_told: false }
    }

    /// Appends to `sealed` what the handshakes have to say now, and says whether they are over.
    pub(super) fn go_on(&mut self, random: &mut fastrand::Rng, sealed: &mut Vec<u8>) -> Result<Stood, Cause> {
        self.take_sealed(sealed)?;
        if self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            return Ok(Stood::No);
        }
        if let Some(WebSocket::Waiting(gateway)) = self.websocket {
            let key = random.u128(..).to_ne_bytes();
            let mut request = Vec::new();
            handshake::request_into(&mut request, &gateway.to_string(), "/ws", None, &key).map_err(|error| error.to_string())?;
            self.websocket = Some(WebSocket::Asked { key, head: Vec::new() });
            self.seal(&request, sealed)?;
        }
        if matches!(self.websocket, Some(WebSocket::Asked { .. })) || self.was_told {
            return Ok(Stood::No);
        }
        self.was_told = true;
        let is_resumed = self.tls.as_ref().is_some_and(|tls| tls.handshake_kind() == Some(HandshakeKind::Resumed));
        Ok(Stood::Now { is_resumed })
    }

    /// Appends `plain`, as it goes out.
    pub(super) fn seal(&mut self, plain: &[u8], sealed: &mut Vec<u8>) -> Result<(), Cause> {
        match &mut self.tls {
            None => sealed.extend_from_slice(plain),
            Some(tls) => {
                tls.writer().write_all(plain).map_err(|error| format!("write: {}", error.kind()))?;
                self.take_sealed(sealed)?;
            }
        }
        Ok(())
    }

    fn take_sealed(&mut self, sealed: &mut Vec<u8>) -> Result<(), Cause> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            tls.write_tls(sealed).map_err(|error| format!("write: {}", error.kind()))?;
        }
        Ok(())
    }

    /// Opens what has arrived, down to the WebSocket or the frames.
    pub(super) fn open(&mut self, arrived: &[u8], opened: &mut Vec<u8>) -> Result<(), Cause> {
        let Some(tls) = &mut self.tls else {
            opened.extend_from_slice(arrived);
            return Ok(());
        };
        let mut rest = arrived;
        while !rest.is_empty() {
            tls.read_tls(&mut rest).map_err(|error| format!("tls: {}", error.kind()))?;
            tls.process_new_packets().map_err(|error| format!("tls: {error}"))?;
            match tls.reader().read_to_end(opened) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(format!("tls: {}", error.kind())),
            }
        }
        Ok(())
    }

    /// Whether the frames of the stream stand in messages.
    pub(super) const fn has_messages(&self) -> bool {
        self.websocket.is_some()
    }

    /// Cuts messages. Answers go to the end of `reply`, plain.
    pub(super) fn cut(
        &mut self,
        opened: &mut Vec<u8>,
        random: &mut fastrand::Rng,
        reply: &mut Vec<u8>,
        on_frame: &mut dyn FnMut(Frame<'_>) -> Result<(), Cause>,
    ) -> Result<(), Cause> {
        if let Some(WebSocket::Asked { key, head }) = &mut self.websocket {
            head.append(opened);
            match handshake::parse_response(head, key) {
                Ok(None) => return Ok(()),
                Ok(Some(taken)) => {
                    opened.extend_from_slice(&head[taken..]);
                    self.websocket = Some(WebSocket::Open(Decoder::default()));
                }
                Err(error) => return Err(format!("websocket: {error}")),
            }
        }
        let Some(WebSocket::Open(decoder)) = &mut self.websocket else { return Ok(()) };
        let mut messages = decoder.feed(Role::Client, opened);
        loop {
            match messages.next(BODY_BYTES_MAX + frame::HEADER_BYTES) {
                Ok(None) => return Ok(()),
                Ok(Some(Event::Binary(message))) => match frame::decode(message, BODY_BYTES_MAX) {
                    Ok(Some((frame, length))) if length == message.len() => on_frame(frame)?,
                    Ok(_) => return Err("a message that is not one frame".to_owned()),
                    Err(error) => return Err(error.to_string()),
                },
                Ok(Some(Event::Ping(payload))) => frame_into(reply, Opcode::Pong, payload, Some(mask(random))),
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Text(_))) => return Err("a text where binary was spoken".to_owned()),
                Ok(Some(Event::Close { code, reason })) => {
                    close_into(reply, code.unwrap_or(close::NORMAL), "", Some(mask(random)));
                    return Err(if reason.is_empty() { "closed by the gateway".to_owned() } else { format!("closed: {reason}") });
                }
                Err(violation) => return Err(format!("websocket: {violation}")),
            }
        }
    }
}

/// Good enough for a load: nobody is between this process and its server who could be fooled by what it says.
pub(super) fn mask(random: &mut fastrand::Rng) -> [u8; 4] {
    random.u32(..).to_ne_bytes()
}
