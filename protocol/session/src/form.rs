//! How a frame looks on a transport: what connections must agree in to share its bytes.

use crate::push::Push;
use billfish_websocket::{Opcode, header_into};
use billfish_wire::{Body, Code, Encoding, envelope, frame};
use bytes::Bytes;

/// What a frame is cut and written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Form {
    /// Frame behind frame, JSON bodies.
    Json,
    /// Frame behind frame, protobuf bodies.
    Protobuf,
    /// A WebSocket's text message each: the JSON envelope.
    Text,
    /// A WebSocket's binary message each, JSON bodies.
    MessageJson,
    /// A WebSocket's binary message each, protobuf bodies.
    MessageProtobuf,
}

impl Form {
    /// How many there are.
    pub const COUNT: usize = 5;

    /// On a stream of frames.
    #[must_use]
    pub const fn bare(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => Self::Json,
            Encoding::Protobuf => Self::Protobuf,
        }
    }

    /// In binary messages.
    #[must_use]
    pub const fn message(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => Self::MessageJson,
            Encoding::Protobuf => Self::MessageProtobuf,
        }
    }

    /// Appends a frame as a server writes it.
    pub fn encode_into(self, out: &mut Vec<u8>, code: Code, body: &Body) {
        let start = out.len();
        let opcode = match self {
            Self::Json => return frame::encode_into(out, Encoding::Json, code, body),
            Self::Protobuf => return frame::encode_into(out, Encoding::Protobuf, code, body),
            Self::Text => {
                envelope::encode_into(out, code, body);
                Opcode::Text
            }
            Self::MessageJson => {
                frame::encode_into(out, Encoding::Json, code, body);
                Opcode::Binary
            }
            Self::MessageProtobuf => {
                frame::encode_into(out, Encoding::Protobuf, code, body);
                Opcode::Binary
            }
        };
        // The head says how long it is, which is known only now; it has 10 bytes at most, and frames are short.
        let mut head = Vec::with_capacity(HEAD_BYTES_MAX);
        header_into(&mut head, opcode, out.len() - start, None);
        out.splice(start..start, head);
    }

    pub(crate) fn encode_push(self, push: &Push) -> Bytes {
        let mut out = Vec::with_capacity(256);
        self.encode_into(&mut out, Code::Biz, push.body());
        out.shrink_to_fit();
        Bytes::from(out)
    }
}

/// Of a message that is not masked.
const HEAD_BYTES_MAX: usize = 10;
