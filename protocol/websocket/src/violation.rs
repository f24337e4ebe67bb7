//! What no legal peer sends.

use crate::{close, frame::CONTROL_BYTES_MAX};

/// A rule of the framing that was broken, or a limit that was passed. The stream cannot be followed any further: send a Close frame with
/// [`Violation::close_code`] and end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A bit that belongs to an extension, and none was agreed on.
    #[error("reserved bits {bits:#04x} are set")]
    ReservedBits {
        /// The bits, where they stand in the first byte.
        bits: u8,
    },
    /// An opcode that the protocol has not given a meaning.
    #[error("reserved opcode {opcode:#x}")]
    ReservedOpcode {
        /// The opcode.
        opcode: u8,
    },
    /// A client must mask.
    #[error("a frame of a client without a mask")]
    Unmasked,
    /// A server must not.
    #[error("a frame of a server with a mask")]
    Masked,
    /// A length in more bytes than it needs.
    #[error("a length in more bytes than it needs")]
    LengthNotMinimal,
    /// A length of 2⁶³ or more.
    #[error("a length with its highest bit set")]
    LengthHighBit,
    /// A control frame that is not the whole of its message.
    #[error("a control frame in fragments")]
    FragmentedControl,
    /// A control frame with a long payload.
    #[error("a control frame of more than {CONTROL_BYTES_MAX} bytes")]
    LongControl,
    /// A continuation, and no message has begun.
    #[error("a continuation of nothing")]
    NothingToContinue,
    /// A message begins, and the one before has not ended.
    #[error("a message inside a message")]
    MessageNotFinished,
    /// A Close frame whose payload is half a code.
    #[error("a close frame with one byte")]
    CloseOfOneByte,
    /// A Close frame with a number that may not be sent.
    #[error("a close frame with code {code}")]
    CloseCode {
        /// The number.
        code: u16,
    },
    /// Text, or the reason of a Close frame, that is not UTF-8.
    #[error("text that is not UTF-8")]
    NotUtf8,
    /// A message, all its fragments together, above the limit.
    #[error("a message of {bytes} bytes or more, at most {limit} allowed")]
    TooLarge {
        /// What has arrived of it and what the frame claims to add.
        bytes: u64,
        /// The limit in force.
        limit: usize,
    },
    /// A message in more pieces than there may be.
    #[error("a message of more than {limit} fragments")]
    TooManyFragments {
        /// The limit in force.
        limit: usize,
    },
}

impl Violation {
    /// What the peer is told: the code of the Close frame that answers it.
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::ReservedBits { .. }
            | Self::ReservedOpcode { .. }
            | Self::Unmasked
            | Self::Masked
            | Self::LengthNotMinimal
            | Self::LengthHighBit
            | Self::FragmentedControl
            | Self::LongControl
            | Self::NothingToContinue
            | Self::MessageNotFinished
            | Self::CloseOfOneByte
            | Self::CloseCode { .. } => close::PROTOCOL_ERROR,
            Self::NotUtf8 => close::INVALID_DATA,
            Self::TooLarge { .. } | Self::TooManyFragments { .. } => close::TOO_LARGE,
        }
    }
}
