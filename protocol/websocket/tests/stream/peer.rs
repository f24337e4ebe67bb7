//! A peer that says anything, right or wrong: frames are put together here a second time, byte by byte, so that the crate's own writer
//! cannot lend the tests its mistakes.

use billfish_websocket::{Decoder, Event, Role, Violation};

/// What the gateway allows a session, near enough.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024;

pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;
pub(crate) const FIN: u8 = 0x80;

pub(crate) const ROLES: [Role; 2] = [Role::Server, Role::Client];

/// An event as owned values, to compare what came out with what went in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Event<'_>> for Said {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.to_owned()),
            Event::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Event::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Event::Close { code, reason } => Self::Close(code, reason.to_owned()),
        }
    }
}

/// One frame: its first byte, and what follows with the shortest length.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) first: u8,
    pub(crate) payload: Vec<u8>,
    pub(crate) mask: [u8; 4],
}

impl Raw {
    /// As `role` receives it: masked for a server, plain for a client.
    pub(crate) fn bytes_for(&self, role: Role) -> Vec<u8> {
        let masked = role == Role::Server;
        let mut out = vec![self.first];
        let bit = u8::from(masked) << 7;
        let length = self.payload.len();
        match length {
            0..=125 => out.push(bit | length as u8),
            126..=65535 => {
                out.push(bit | 126);
                out.extend((length as u16).to_be_bytes());
            }
            _ => {
                out.push(bit | 127);
                out.extend((length as u64).to_be_bytes());
            }
        }
        if masked {
            out.extend(self.mask);
            out.extend(self.payload.iter().enumerate().map(|(at, byte)| byte ^ self.mask[at % 4]));
        } else {
            out.extend(&self.payload);
        }
        out
    }
}

pub(crate) fn raw(first: u8, payload: impl AsRef<[u8]>) -> Raw {
    // The mask of the examples in RFC 6455, section 5.7.
    Raw { first, payload: payload.as_ref().to_vec(), mask: [0x37, 0xFA, 0x21, 0x3D] }
}

/// A frame that is the whole of its message.
pub(crate) fn whole(opcode: u8, payload: impl AsRef<[u8]>) -> Raw {
    raw(FIN | opcode, payload)
}

pub(crate) fn stream(frames: &[Raw], role: Role) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.bytes_for(role)).collect()
}

/// Feeds each piece and collects what comes out, until a violation, a Close or the end.
pub(crate) fn feed_all<'a>(
    decoder: &mut Decoder,
    role: Role,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    message_bytes_max: usize,
) -> (Vec<Said>, Option<Violation>) {
    let mut out: Vec<Said> = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut messages = decoder.feed(role, &mut piece);
        loop {
            match messages.next(message_bytes_max) {
                Ok(Some(event)) => out.push(event.into()),
                Ok(None) => break,
                Err(violation) => return (out, Some(violation)),
            }
            if matches!(out.last(), Some(Said::Close(..))) {
                return (out, None);
            }
        }
    }
    (out, None)
}

/// What a server makes of bytes that come in one piece.
pub(crate) fn served(bytes: &[u8]) -> (Vec<Said>, Option<Violation>) {
    feed_all(&mut Decoder::default(), Role::Server, [bytes], MESSAGE_BYTES_MAX)
}
