//! Messages: cutting a byte stream into them, whatever frames and reads it came in.
//!
//! - Nothing may depend on how the transport cut the bytes.
//! - A message that lies whole in the input, in one frame, is unmasked where it lies and borrowed. Only what is cut, by the end of the
//!   input or into fragments, is copied.
//! - A length is a claim: no buffer is ever sized by it, only by bytes that have arrived.
//! - Text is UTF-8 when it is handed out, and refused at the first piece that cannot be.
//!
//! Not here: answers to Ping and Close, and what may follow a Close. Those are the connection's.

use crate::{
    Opcode, Violation,
    close::is_legal,
    frame::{Expected, HEADER_BYTES_MAX, apply_mask, decode_header},
};
use std::{mem, str::from_utf8};

/// Most fragments of one message, unless [`Messages::within_fragments`] says otherwise. Browsers do not cut what they send, and libraries that do cut at their buffer, 4 KiB or more: the
/// longest message of this house has then some 40. Each costs its sender 6 bytes and us a look at its header, so that without a bound a
/// message could be worked on for ever by fragments with nothing in them.
pub const FRAGMENTS_MAX: usize = 128;

/// Who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// What comes in must be masked, what goes out must not.
    Server,
    /// The reverse.
    Client,
}

/// What a peer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A message of text.
    Text(&'a str),
    /// A message of bytes.
    Binary(&'a [u8]),
    /// Asks for a [`Event::Pong`] with the same payload, of at most 125 bytes.
    Ping(&'a [u8]),
    /// Answers a Ping, or is a sign of life that nobody asked for.
    Pong(&'a [u8]),
    /// The peer sends nothing more: answer with the same code, if we have not sent a Close ourselves, and read no further.
    Close {
        /// Why, if the peer said so; always one that may be sent.
        code: Option<u16>,
        /// For the person who reads a log.
        reason: &'a str,
    },
}

/// Joins what arrives in pieces. Costs one pointer while no frame and no message is cut.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Boxed so that an idle connection pays 8 bytes for it.
    partial: Option<Box<Partial>>,
}

const _: () = assert!(size_of::<Decoder>() == size_of::<usize>());

/// What has begun and not ended: at least one of the four is there.
#[derive(Debug, Default)]
struct Partial {
    /// The front of a header that the input cut.
    head: Vec<u8>,
    /// The frame whose header is known and whose payload has not all arrived.
    frame: Option<Frame>,
    /// Payload so far of a cut control frame.
    control: Vec<u8>,
    /// The message that has begun, without what is still to come of `frame`.
    message: Option<Message>,
}

impl Partial {
    fn is_empty(&self) -> bool {
        self.head.is_empty() && self.frame.is_none() && self.control.is_empty() && self.message.is_none()
    }
}

/// A frame from its header on.
#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: Opcode,
    is_final: bool,
    missing_bytes: usize,
    /// Turned so that its first byte belongs to the first that is missing.
    mask: [u8; 4],
}

impl Frame {
    fn after(self, bytes: usize) -> Self {
        let mut mask = self.mask;
        mask.rotate_left(bytes % self.mask.len());
        Self { missing_bytes: self.missing_bytes - bytes, mask, ..self }
    }
}

#[derive(Debug)]
struct Message {
    /// Of its first frame.
    opcode: Opcode,
    bytes: Vec<u8>,
    /// Of text: so many bytes at the front are whole characters.
    valid_bytes: usize,
    /// Frames that are whole.
    fragments: usize,
}

impl Message {
    fn new(opcode: Opcode) -> Self {
        Self { opcode, bytes: Vec::new(), valid_bytes: 0, fragments: 0 }
    }

    /// Appends a piece; text that can no longer become UTF-8 is refused now, and not when its end arrives.
    fn append(&mut self, piece: &[u8], bytes_to_come: usize) -> Result<(), Violation> {
        append(&mut self.bytes, piece, bytes_to_come);
        if self.opcode == Opcode::Text {
            // At most three bytes are looked at twice: the front of a character whose end was missing.
            self.valid_bytes += match from_utf8(&self.bytes[self.valid_bytes..]) {
                Ok(text) => text.len(),
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                Err(_) => return Err(Violation::NotUtf8),
            };
        }
        Ok(())
    }
}

/// Appends what arrived. Doubles, so that a message sent byte by byte is not copied once per byte, but never beyond what may come: the
/// capacity is at most twice what arrived, whatever a header claims.
fn append(bytes: &mut Vec<u8>, piece: &[u8], bytes_to_come: usize) {
    if bytes.capacity() - bytes.len() < piece.len() {
        bytes.reserve_exact(bytes_to_come.min(bytes.len()).max(piece.len()));
    }
    bytes.extend_from_slice(piece);
}

impl Decoder {
    /// Whether a frame or a message has begun and not ended.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.partial.is_some()
    }

    /// Bytes allocated for payload that was cut: at most twice what arrived of it.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.partial
            .as_ref()
            .map_or(0, |partial| partial.control.capacity() + partial.message.as_ref().map_or(0, |message| message.bytes.capacity()))
    }

    /// Feeds `input`, which is unmasked in place; take the events with [`Messages::next`] until it gives `None`: what is not taken is lost.
    pub fn feed<'a>(&'a mut self, role: Role, input: &'a mut [u8]) -> Messages<'a> {
        Messages { decoder: self, role, input, fragments_max: FRAGMENTS_MAX, joined: Vec::new() }
    }
}

/// The events of one piece of input: a lending iterator, because a message may live in a buffer that ends with it.
#[derive(Debug)]
pub struct Messages<'a> {
    decoder: &'a mut Decoder,
    role: Role,
    input: &'a mut [u8],
    fragments_max: usize,
    /// The payload that was handed out last, if it had to be joined.
    joined: Vec<u8>,
}

impl Messages<'_> {
    /// With another bound of fragments, for this piece of input.
    #[must_use]
    pub fn within_fragments(self, fragments_max: usize) -> Self {
        Self { fragments_max, ..self }
    }

    /// The next event; `None` when the rest of the input is kept for later. The limit counts for all fragments of a message together, is
    /// looked at when a header arrives, and may differ from one to the next: LOGIN raises it.
    ///
    /// # Errors
    /// See [`Violation`]. After an error, and after [`Event::Close`], nothing more may be taken.
    pub fn next(&mut self, message_bytes_max: usize) -> Result<Option<Event<'_>>, Violation> {
        self.joined = Vec::new();
        while let Some(frame) = self.next_frame(message_bytes_max)? {
            let taken = frame.missing_bytes.min(self.input.len());
            let (piece, rest) = mem::take(&mut self.input).split_at_mut(taken);
            self.input = rest;
            if frame.mask != [0; 4] {
                apply_mask(piece, frame.mask);
            }
            if self.lies_whole_in(piece, frame) {
                self.settle();
                return event(frame.opcode, piece).map(Some);
            }
            if let Some(opcode) = self.keep(piece, frame)? {
                self.settle();
                return event(opcode, &self.joined).map(Some);
            }
        }
        Ok(None)
    }

    /// The frame to go on with: the one whose payload is missing, or the next whose header is whole. `None` when more must arrive.
    fn next_frame(&mut self, message_bytes_max: usize) -> Result<Option<Frame>, Violation> {
        if self.input.is_empty() {
            return Ok(None);
        }
        let mut begun = None;
        if let Some(partial) = self.decoder.partial.as_deref_mut() {
            if let Some(frame) = partial.frame.take() {
                return Ok(Some(frame));
            }
            begun = partial.message.as_ref().map(|message| (message.bytes.len(), message.fragments));
        }
        let expected = Expected { role: self.role, begun, message_bytes_max, fragments_max: self.fragments_max };
        let (header, taken) = match self.decoder.partial.as_deref_mut() {
            Some(partial) if !partial.head.is_empty() => {
                let waiting = partial.head.len();
                let more = (HEADER_BYTES_MAX - waiting).min(self.input.len());
                partial.head.extend_from_slice(&self.input[..more]);
                let Some(header) = decode_header(&partial.head, expected)? else {
                    self.input = &mut [];
                    return Ok(None);
                };
                partial.head = Vec::new();
                (header, header.header_bytes - waiting)
            }
            Some(_) | None => {
                let Some(header) = decode_header(self.input, expected)? else {
                    self.decoder.partial.get_or_insert_default().head = mem::take(&mut self.input).to_vec();
                    return Ok(None);
                };
                (header, header.header_bytes)
            }
        };
        self.input = &mut mem::take(&mut self.input)[taken..];
        Ok(Some(Frame { opcode: header.opcode, is_final: header.is_final, missing_bytes: header.payload_bytes, mask: header.mask }))
    }

    /// Whether the piece is all there is to say: a control frame, or a message of one frame, of which nothing is kept.
    fn lies_whole_in(&self, piece: &[u8], frame: Frame) -> bool {
        let partial = self.decoder.partial.as_deref();
        piece.len() == frame.missing_bytes
            && if frame.opcode.is_control() {
                partial.is_none_or(|partial| partial.control.is_empty())
            } else {
                frame.is_final && partial.is_none_or(|partial| partial.message.is_none())
            }
    }

    /// Keeps a piece of a frame with what came before it. When that makes it whole, it is in `joined`, and the kind of it is returned.
    fn keep(&mut self, piece: &[u8], frame: Frame) -> Result<Option<Opcode>, Violation> {
        let partial = self.decoder.partial.get_or_insert_default();
        let is_whole = piece.len() == frame.missing_bytes;
        if !is_whole {
            partial.frame = Some(frame.after(piece.len()));
            if piece.is_empty() {
                // A header alone begins no message: its payload may yet come in one piece.
                return Ok(None);
            }
        }
        if frame.opcode.is_control() {
            append(&mut partial.control, piece, frame.missing_bytes);
            if !is_whole {
                return Ok(None);
            }
            self.joined = mem::take(&mut partial.control);
            return Ok(Some(frame.opcode));
        }
        let message = partial.message.get_or_insert_with(|| Message::new(frame.opcode));
        // Of a message whose last fragment is not here nobody knows what may come.
        message.append(piece, if frame.is_final { frame.missing_bytes } else { usize::MAX })?;
        message.fragments += usize::from(is_whole);
        if !(is_whole && frame.is_final) {
            return Ok(None);
        }
        self.joined = mem::take(&mut message.bytes);
        let opcode = message.opcode;
        partial.message = None;
        Ok(Some(opcode))
    }

    /// Frees what was kept once nothing waits any more.
    fn settle(&mut self) {
        self.decoder.partial.take_if(|partial| partial.is_empty());
    }
}

/// What a whole payload says. Looks at all of a text, also where its pieces were looked at: what makes it a `str`, and finds the
/// character that was begun and not ended.
fn event(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, Violation> {
    match opcode {
        Opcode::Text => from_utf8(payload).map(Event::Text).map_err(|_| Violation::NotUtf8),
        Opcode::Binary => Ok(Event::Binary(payload)),
        Opcode::Ping => Ok(Event::Ping(payload)),
        Opcode::Pong => Ok(Event::Pong(payload)),
        Opcode::Close => close_event(payload),
        Opcode::Continuation => unreachable!("a message has the opcode of its first frame"),
    }
}

fn close_event(payload: &[u8]) -> Result<Event<'_>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(Event::Close { code: None, reason: "" }) } else { Err(Violation::CloseOfOneByte) };
    };
    let code = u16::from_be_bytes(*code);
    if !is_legal(code) {
        return Err(Violation::CloseCode { code });
    }
    Ok(Event::Close { code: Some(code), reason: from_utf8(reason).map_err(|_| Violation::NotUtf8)? })
}
