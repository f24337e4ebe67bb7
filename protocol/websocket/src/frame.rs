//! Frames: their header, their mask, and how they are written.
//!
//! ```text
//!   0                 1                2 or 4 or 10      4 more
//!   +-----------------+----------------+-----------------+------------------
//!   | FIN RSV×3 op ×4 | MASK, len ×7   | mask, if MASK   | payload, len bytes
//!   +-----------------+----------------+-----------------+------------------
//!                       126: the length is the next 2 bytes
//!                       127: the length is the next 8 bytes
//! ```
//!
//! - What is written here is a whole message: FIN is set, and the length takes as few bytes as it can.
//! - A header is refused as soon as the field that is wrong is there, not when the header is complete.

use crate::{Violation, close, decoder::Role};

/// Most bytes before the payload: two, a length of eight, a mask of four.
pub const HEADER_BYTES_MAX: usize = 14;
/// Longest payload of a control frame: RFC 6455, section 5.5.
pub const CONTROL_BYTES_MAX: usize = 125;
/// Longest reason of a Close frame: what its code leaves.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
/// Longest payload whose length stands in the second byte; the two numbers above it say where else it stands.
const SHORT_BYTES_MAX: usize = 125;
const LENGTH_IN_2: u8 = 126;
const LENGTH_IN_8: u8 = 127;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// One more fragment of the message that has begun.
    Continuation = 0x0,
    /// Text, UTF-8; its first fragment, when it is cut.
    Text = 0x1,
    /// Bytes; their first fragment, when they are cut.
    Binary = 0x2,
    /// The sender sends nothing more.
    Close = 0x8,
    /// Answer with the same payload.
    Ping = 0x9,
    /// The answer.
    Pong = 0xA,
}

impl Opcode {
    const fn from_number(number: u8) -> Option<Self> {
        match number {
            0x0 => Some(Self::Continuation),
            0x1 => Some(Self::Text),
            0x2 => Some(Self::Binary),
            0x8 => Some(Self::Close),
            0x9 => Some(Self::Ping),
            0xA => Some(Self::Pong),
            _ => None,
        }
    }

    /// Whether it is about the connection: short, never cut, and allowed between the fragments of a message.
    #[must_use]
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Combines `bytes` with the mask, from the mask's first byte on: masks what is plain, unmasks what is masked.
pub fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends one whole message, or control frame, to `out`. A client brings a mask, a new one from a good source for each frame; a server
/// has none.
///
/// # Panics
/// See [`header_into`].
pub fn frame_into(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    out.reserve(HEADER_BYTES_MAX + payload.len());
    header_into(out, opcode, payload.len(), mask);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut out[start..], mask);
    }
}

/// Appends the header of a frame whose payload the caller writes behind it, combined with the same mask by [`apply_mask`].
///
/// # Panics
/// When a control frame is longer than [`CONTROL_BYTES_MAX`], or is asked to continue a message.
pub fn header_into(out: &mut Vec<u8>, opcode: Opcode, payload_bytes: usize, mask: Option<[u8; 4]>) {
    assert!(opcode != Opcode::Continuation, "messages are written whole");
    assert!(!opcode.is_control() || payload_bytes <= CONTROL_BYTES_MAX, "a control frame of {payload_bytes} bytes");
    let masked = if mask.is_some() { MASKED } else { 0 };
    out.push(FIN | opcode as u8);
    match (u8::try_from(payload_bytes), u16::try_from(payload_bytes)) {
        (Ok(short), _) if payload_bytes <= SHORT_BYTES_MAX => out.push(masked | short),
        (_, Ok(length)) => {
            out.push(masked | LENGTH_IN_2);
            out.extend_from_slice(&length.to_be_bytes());
        }
        (_, Err(_)) => {
            out.push(masked | LENGTH_IN_8);
            out.extend_from_slice(&u64::try_from(payload_bytes).expect("no slice is longer than 2⁶³ bytes").to_be_bytes());
        }
    }
    out.extend_from_slice(mask.as_ref().map_or(&[], |mask| mask.as_slice()));
}

/// Appends a Close frame with a code and a reason, cut to [`CLOSE_REASON_BYTES_MAX`] at the end of a character. The answer to a Close
/// frame that has no code has none either: [`frame_into`] with no payload.
///
/// # Panics
/// When the code is none that may be sent: see [`close::is_legal`].
pub fn close_into(out: &mut Vec<u8>, code: u16, reason: &str, mask: Option<[u8; 4]>) {
    assert!(close::is_legal(code), "close code {code} may not be sent");
    let reason = &reason[..reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX)];
    header_into(out, Opcode::Close, 2 + reason.len(), mask);
    let start = out.len();
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
    if let Some(mask) = mask {
        apply_mask(&mut out[start..], mask);
    }
}

/// A header that was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) opcode: Opcode,
    pub(crate) is_final: bool,
    pub(crate) payload_bytes: usize,
    /// Zeros where there is none.
    pub(crate) mask: [u8; 4],
    /// What the header itself took.
    pub(crate) header_bytes: usize,
}

/// What a header is held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) role: Role,
    /// Bytes and fragments so far of the message that has begun.
    pub(crate) begun: Option<(usize, usize)>,
    pub(crate) message_bytes_max: usize,
    pub(crate) fragments_max: usize,
}

/// Reads the header at the front of `input`; `None` when more must arrive.
pub(crate) fn decode_header(input: &[u8], expected: Expected) -> Result<Option<Header>, Violation> {
    let Some((&first, rest)) = input.split_first() else { return Ok(None) };
    let is_final = first & FIN != 0;
    let opcode = check_first(first, expected)?;

    let Some((&second, rest)) = rest.split_first() else { return Ok(None) };
    let is_masked = second & MASKED != 0;
    match expected.role {
        Role::Server if !is_masked => return Err(Violation::Unmasked),
        Role::Client if is_masked => return Err(Violation::Masked),
        Role::Server | Role::Client => {}
    }
    let short = second & !MASKED;
    // A longer form is refused by its announcement: the length behind it may take its time.
    if opcode.is_control() && usize::from(short) > CONTROL_BYTES_MAX {
        return Err(Violation::LongControl);
    }
    let (length, rest) = match short {
        LENGTH_IN_2 => {
            let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let length = u64::from(u16::from_be_bytes(*length));
            if length < u64::from(LENGTH_IN_2) {
                return Err(Violation::LengthNotMinimal);
            }
            (length, rest)
        }
        LENGTH_IN_8 => {
            if rest.first().is_some_and(|highest| highest & 0x80 != 0) {
                return Err(Violation::LengthHighBit);
            }
            let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let length = u64::from_be_bytes(*length);
            if length <= u64::from(u16::MAX) {
                return Err(Violation::LengthNotMinimal);
            }
            (length, rest)
        }
        short => (u64::from(short), rest),
    };
    let payload_bytes = if opcode.is_control() { usize::from(short) } else { check_length(length, expected)? };

    let (mask, rest) = if is_masked {
        let Some((mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
        (*mask, rest)
    } else {
        ([0; 4], rest)
    };
    Ok(Some(Header { opcode, is_final, payload_bytes, mask, header_bytes: input.len() - rest.len() }))
}

/// Everything that the first byte says.
fn check_first(first: u8, expected: Expected) -> Result<Opcode, Violation> {
    if first & RESERVED != 0 {
        return Err(Violation::ReservedBits { bits: first & RESERVED });
    }
    let number = first & !(FIN | RESERVED);
    let opcode = Opcode::from_number(number).ok_or(Violation::ReservedOpcode { opcode: number })?;
    match (opcode, expected.begun) {
        (Opcode::Close | Opcode::Ping | Opcode::Pong, _) if first & FIN == 0 => Err(Violation::FragmentedControl),
        (Opcode::Continuation, None) => Err(Violation::NothingToContinue),
        (Opcode::Text | Opcode::Binary, Some(_)) => Err(Violation::MessageNotFinished),
        (Opcode::Continuation, Some((_, fragments))) if fragments >= expected.fragments_max => {
            Err(Violation::TooManyFragments { limit: expected.fragments_max })
        }
        _ => Ok(opcode),
    }
}

/// The length of a frame of a message, within what the message may still grow.
fn check_length(length: u64, expected: Expected) -> Result<usize, Violation> {
    let limit = expected.message_bytes_max;
    let (bytes, _) = expected.begun.unwrap_or_default();
    let total = length.saturating_add(bytes as u64);
    if total > limit as u64 {
        return Err(Violation::TooLarge { bytes: total, limit });
    }
    Ok(usize::try_from(length).expect("it is within a limit that is a usize"))
}
