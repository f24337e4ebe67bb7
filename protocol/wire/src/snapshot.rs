//! The JSON text in the `data` of a JOIN or SYNC reply.

use crate::body::Body;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `data` of a JOIN reply: everything a newcomer needs to draw the room.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoomSnapshot {
    /// Members now.
    pub audience: i64,
    /// The newest state push of every key, as the push's body.
    pub states: BTreeMap<String, Body>,
    /// The missed messages, or without `resume` the last ones; oldest first.
    pub messages: Vec<Body>,
    /// The log no longer reaches back to `resume`: reload.
    pub gap: bool,
}

/// `data` of a SYNC reply.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncPage {
    /// Oldest first.
    pub messages: Vec<Body>,
    /// Ask again from the last of `messages`.
    pub more: bool,
    /// The log no longer reaches back to where the client asked from.
    pub gap: bool,
}
