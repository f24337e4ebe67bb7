//! Frames: cutting a byte stream into them, and putting them into bytes.
//!
//! ```text
//!   0      2              6              10
//!   +------+--------------+--------------+------------------
//!   | magic| code     i32 | len      i32 | body, len bytes
//!   +------+--------------+--------------+------------------
//! ```
//!
//! - Nothing may depend on how the transport cut the bytes.
//! - `len` is a claim: no buffer is ever sized by it, only by bytes that have arrived.
//! - A frame that lies whole in the input is borrowed from it; only a frame cut by the end of the input is copied.

use crate::{Reason, body::Body, code::Code};
use bytes::Bytes;

/// Bytes before the body.
pub const HEADER_BYTES: usize = 10;

/// How a body is written; the frame's magic names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// Magic 18673: the body is JSON, UTF-8.
    #[default]
    Json,
    /// Magic 18674: the body is protobuf `billfish.v1.Body`.
    Protobuf,
}

impl Encoding {
    /// Both encodings.
    pub const ALL: [Self; 2] = [Self::Json, Self::Protobuf];

    /// The first two bytes of every frame in this encoding.
    #[must_use]
    pub const fn magic(self) -> u16 {
        match self {
            Self::Json => 18673,
            Self::Protobuf => 18674,
        }
    }

    const fn from_magic(magic: u16) -> Option<Self> {
        match magic {
            18673 => Some(Self::Json),
            18674 => Some(Self::Protobuf),
            _ => None,
        }
    }
}

/// One frame, borrowed from the bytes it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// How the body is written.
    pub encoding: Encoding,
    /// What the frame is for; may be a number no [`Code`] has.
    pub code: i32,
    /// The body, undecoded.
    pub body: &'a [u8],
}

/// A header that no legal peer sends. The stream cannot be followed any further: the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not those of a frame: another protocol, or a stream out of step.
    #[error("unknown magic {magic:#06x}")]
    UnknownMagic {
        /// What stood there; a lone first byte stands in the high half.
        magic: u16,
    },
    /// `len` is negative.
    #[error("negative body length {len}")]
    NegativeLength {
        /// The claim.
        len: i32,
    },
    /// `len` is above what this peer may send now.
    #[error("body of {len} bytes, at most {limit} allowed")]
    TooLarge {
        /// The claim.
        len: usize,
        /// The limit in force.
        limit: usize,
    },
}

impl FrameError {
    /// What the peer is told.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::UnknownMagic { .. } | Self::NegativeLength { .. } => Reason::Malformed,
            Self::TooLarge { .. } => Reason::TooLarge,
        }
    }
}

/// Takes the first frame off `input`: the frame and the bytes it took, or `None` when more must arrive.
///
/// # Errors
/// A header that cannot be right is refused as soon as the offending byte is there, not when the header is complete.
pub fn decode(input: &[u8], body_bytes_max: usize) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some(header) = decode_header(input, body_bytes_max)? else { return Ok(None) };
    let end = HEADER_BYTES + header.body_bytes;
    let Some(body) = input.get(HEADER_BYTES..end) else { return Ok(None) };
    Ok(Some((Frame { encoding: header.encoding, code: header.code, body }, end)))
}

struct Header {
    encoding: Encoding,
    code: i32,
    body_bytes: usize,
}

fn decode_header(input: &[u8], body_bytes_max: usize) -> Result<Option<Header>, FrameError> {
    let &[first, ref rest @ ..] = input else { return Ok(None) };
    // Both magics share their first byte, so one byte is enough to turn away HTTP, TLS and PROXY headers.
    if first != Encoding::Json.magic().to_be_bytes()[0] {
        return Err(FrameError::UnknownMagic { magic: u16::from(first) << 8 });
    }
    let Some(&second) = rest.first() else { return Ok(None) };
    let magic = u16::from_be_bytes([first, second]);
    let encoding = Encoding::from_magic(magic).ok_or(FrameError::UnknownMagic { magic })?;
    let Some(&[_, _, c0, c1, c2, c3, l0, l1, l2, l3]) = input.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let len = i32::from_be_bytes([l0, l1, l2, l3]);
    let body_bytes = usize::try_from(len).map_err(|_| FrameError::NegativeLength { len })?;
    if body_bytes > body_bytes_max {
        return Err(FrameError::TooLarge { len: body_bytes, limit: body_bytes_max });
    }
    Ok(Some(Header { encoding, code: i32::from_be_bytes([c0, c1, c2, c3]), body_bytes }))
}

/// Joins what arrives in pieces. Costs one pointer while no frame is cut in half.
#[derive(Debug, Default)]
pub struct Reassembler {
    /// Boxed so that an idle connection pays 8 bytes for it.
    partial: Option<Box<Partial>>,
}

/// The beginning of a frame whose end has not arrived, or what [`Frames::hold`] kept.
#[derive(Debug, Default)]
struct Partial {
    bytes: Vec<u8>,
    /// Bytes at the front that were handed out as frames: kept here and not in [`Frames`], so that a caller who stops early is never
    /// given the same frame twice.
    taken: usize,
}

impl Partial {
    fn waiting(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    /// Appends what arrived. Doubles, so that a frame sent byte by byte is not copied once per byte, but never past the frame's own end:
    /// the capacity is at most twice what arrived, whatever the header claims.
    fn append(&mut self, arrived: &[u8], missing: usize) {
        if self.bytes.capacity() - self.bytes.len() < arrived.len() {
            self.bytes.reserve_exact(missing.min(self.bytes.len().max(arrived.len())));
        }
        self.bytes.extend_from_slice(arrived);
    }
}

impl Reassembler {
    /// Whether a frame has begun and not ended.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| !partial.waiting().is_empty())
    }

    /// Bytes allocated for the frame that has begun: at most twice what arrived of it.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.bytes.capacity())
    }

    /// Takes back what [`Frames::hold`] kept, to be fed again.
    #[must_use]
    pub fn take_held(&mut self) -> Vec<u8> {
        self.partial.take().map_or_else(Vec::new, |mut partial| {
            partial.bytes.drain(..partial.taken);
            partial.bytes
        })
    }

    /// Feeds `input`; take the frames with [`Frames::next`] until it gives `None`, or keep the rest with [`Frames::hold`]: what is
    /// neither taken nor held is lost.
    pub fn feed<'a>(&'a mut self, input: &'a [u8]) -> Frames<'a> {
        Frames { reassembler: self, input }
    }
}

/// The frames of one piece of input: a lending iterator, because a frame may live in the reassembler's own buffer.
#[derive(Debug)]
pub struct Frames<'a> {
    reassembler: &'a mut Reassembler,
    input: &'a [u8],
}

impl Frames<'_> {
    /// The next whole frame; `None` when the rest of the input is kept for later. The limit may differ from frame to frame: LOGIN raises it.
    ///
    /// # Errors
    /// See [`decode`]. After an error nothing more may be taken.
    pub fn next(&mut self, body_bytes_max: usize) -> Result<Option<Frame<'_>>, FrameError> {
        self.forget_what_was_taken();
        if self.reassembler.partial.is_some() {
            return self.next_from_partial(body_bytes_max);
        }
        match decode(self.input, body_bytes_max)? {
            Some((frame, taken)) => {
                self.input = self.input.get(taken..).unwrap_or_default();
                Ok(Some(frame))
            }
            None => {
                if !self.input.is_empty() {
                    self.reassembler.partial = Some(Box::new(Partial { bytes: self.input.to_vec(), taken: 0 }));
                    self.input = &[];
                }
                Ok(None)
            }
        }
    }

    /// Stops here and keeps what has not been handed out, as bytes, for [`Reassembler::take_held`].
    ///
    /// For a LOGIN that is being checked: what the client sent behind it waits for the verdict. What is held is as long as the input it
    /// came in; the caller reads no more until the verdict is there.
    pub fn hold(mut self) {
        self.forget_what_was_taken();
        if !self.input.is_empty() {
            self.reassembler.partial.get_or_insert_default().append(self.input, self.input.len());
        }
    }

    /// Bytes of the input that have not been handed out.
    #[must_use]
    pub fn remaining_bytes(&self) -> usize {
        self.input.len()
    }

    /// Frees the buffer once all of it was handed out.
    fn forget_what_was_taken(&mut self) {
        if self.reassembler.partial.as_ref().is_some_and(|partial| partial.waiting().is_empty()) {
            self.reassembler.partial = None;
        }
    }

    fn next_from_partial(&mut self, body_bytes_max: usize) -> Result<Option<Frame<'_>>, FrameError> {
        let Some(partial) = self.reassembler.partial.as_deref_mut() else { return Ok(None) };
        // At most twice: once to complete the header, once to complete the body.
        loop {
            let wanted = match decode_header(partial.waiting(), body_bytes_max)? {
                Some(header) => HEADER_BYTES + header.body_bytes,
                None => HEADER_BYTES,
            };
            let missing = wanted.saturating_sub(partial.waiting().len());
            if missing == 0 {
                break;
            }
            // The front of held bytes goes before the tail grows: once per piece of input, not once per frame.
            partial.bytes.drain(..partial.taken);
            partial.taken = 0;
            let (arrived, rest) = self.input.split_at(missing.min(self.input.len()));
            partial.append(arrived, missing);
            self.input = rest;
            if arrived.len() < missing {
                // The header may be wrong already, though its end has not arrived.
                decode_header(&partial.bytes, body_bytes_max)?;
                return Ok(None);
            }
        }
        let start = partial.taken;
        let Some((frame, length)) = decode(partial.bytes.get(start..).unwrap_or_default(), body_bytes_max)? else { return Ok(None) };
        partial.taken = start + length;
        Ok(Some(frame))
    }
}

/// Appends one frame to `out`.
pub fn encode_into(out: &mut Vec<u8>, encoding: Encoding, code: Code, body: &Body) {
    let start = out.len();
    out.extend_from_slice(&encoding.magic().to_be_bytes());
    out.extend_from_slice(&code.number().to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    body.encode_into(out, encoding);
    let body_bytes = out.len() - start - HEADER_BYTES;
    let len = i32::try_from(body_bytes).expect("a body is far below 2 GiB").to_be_bytes();
    out[start + 6..start + HEADER_BYTES].copy_from_slice(&len);
}

/// One frame in a buffer of its own, to be shared by all who receive it.
#[must_use]
pub fn encode(encoding: Encoding, code: Code, body: &Body) -> Bytes {
    let mut out = Vec::with_capacity(256);
    encode_into(&mut out, encoding, code, body);
    out.shrink_to_fit();
    Bytes::from(out)
}

/// A frame around a body that is already encoded, or deliberately not one.
#[must_use]
pub fn encode_raw(magic: u16, code: i32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    encode_raw_into(&mut out, magic, code, body);
    out
}

/// Appends the same to `out`.
pub fn encode_raw_into(out: &mut Vec<u8>, magic: u16, code: i32, body: &[u8]) {
    out.extend_from_slice(&magic.to_be_bytes());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&i32::try_from(body.len()).expect("a body is far below 2 GiB").to_be_bytes());
    out.extend_from_slice(body);
}
