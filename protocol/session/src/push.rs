//! One message on its way down: decided once, encoded at most once per encoding, shared by all who receive it.

use billfish_wire::{Body, Class, Code, Encoding, frame};
use bytes::Bytes;
use std::sync::OnceLock;

/// A BIZ frame to one user or to a room.
#[derive(Debug)]
pub struct Push {
    class: Class,
    body: Body,
    frames: [OnceLock<Bytes>; 2],
}

impl Push {
    /// Wraps the body of a push. `body.class` decides its class; chat where it has none.
    #[must_use]
    pub fn new(body: Body) -> Self {
        let class = body.class.map_or(Class::Chat, Class::from_number);
        Self { class, body, frames: [OnceLock::new(), OnceLock::new()] }
    }

    /// What it is worth when its reader is slow.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }

    /// What it says.
    #[must_use]
    pub const fn body(&self) -> &Body {
        &self.body
    }

    /// Whether an ACK is wanted.
    #[must_use]
    pub const fn wants_ack(&self) -> bool {
        matches!(self.body.qos, Some(1)) && self.body.msg_id.is_some()
    }

    /// The whole frame; every receiver shares the same bytes.
    #[must_use]
    pub fn frame(&self, encoding: Encoding) -> Bytes {
        self.frames[encoding as usize].get_or_init(|| frame::encode(encoding, Code::Biz, &self.body)).clone()
    }
}
