//! One message on its way down: decided once, encoded at most once per form, shared by all who receive it.

use crate::form::Form;
use billfish_wire::{Body, Class};
use bytes::Bytes;
use std::sync::{Arc, OnceLock};

/// A BIZ frame to one user or to a room.
#[derive(Debug)]
pub struct Push {
    class: Class,
    body: Body,
    state: Option<StateKey>,
    frames: [OnceLock<Bytes>; Form::COUNT],
}

/// What a state push is the newest of: cheap to clone, as every queued copy carries one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateKey {
    room_id: i64,
    key: Arc<str>,
}

impl StateKey {
    /// `room_id` 0: the state of no room.
    #[must_use]
    pub fn new(room_id: i64, key: &str) -> Self {
        Self { room_id, key: Arc::from(key) }
    }
}

impl Push {
    /// Wraps the body of a push. `body.class` decides its class; chat where it has none.
    #[must_use]
    pub fn new(body: Body) -> Self {
        let class = body.class.map_or(Class::Chat, Class::from_number);
        let state = body.key.as_deref().map(|key| StateKey::new(body.room_id.unwrap_or(0), key));
        Self { class, body, state, frames: Default::default() }
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

    /// Set on a state push: only the newest of its key matters to a slow reader.
    #[must_use]
    pub const fn state(&self) -> Option<&StateKey> {
        self.state.as_ref()
    }

    /// Whether an ACK is wanted.
    #[must_use]
    pub const fn wants_ack(&self) -> bool {
        matches!(self.body.qos, Some(1)) && self.body.msg_id.is_some()
    }

    /// The whole frame; every receiver of this form shares the same bytes.
    #[must_use]
    pub fn frame(&self, form: Form) -> Bytes {
        self.frames[form as usize].get_or_init(|| form.encode_push(self)).clone()
    }
}
