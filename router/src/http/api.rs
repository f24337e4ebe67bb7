//! The business routes: a handler each, and the shapes they read and write.
//!
//! A handler turns a request into one call of the [`Handle`](crate::Handle) and its answer into JSON. What is legal is checked where it is
//! known: the shape here, the rules behind the handle.

#![expect(unused_qualifications, reason = "the macros of utoipa write paths that are longer than they need to be")]

pub(super) mod im;
pub(super) mod moderation;
pub(super) mod rooms;
pub(super) mod streams;
pub(super) mod users;

use super::{HttpConfig, HttpParts, StreamsConfig};
use std::sync::Arc;

/// What the handlers share.
#[derive(Clone, Debug)]
pub(super) struct Api {
    parts: HttpParts,
    addresses: Arc<StreamsConfig>,
}

impl Api {
    pub(super) fn new(parts: HttpParts, config: &HttpConfig) -> Self {
        Self { parts, addresses: Arc::new(config.streams.clone()) }
    }
}
