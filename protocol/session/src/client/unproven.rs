//! ACKs of messages outside rooms of which it is not known whether they arrived.
//!
//! An ACK gets no answer, and a message below the inbox cursor is not read again: an ACK that was lost in a cut would leave its message in
//! the inbox, to be shown once more to the next process. So these are sent again at the next login. A heartbeat's echo proves all that
//! was sent before the heartbeat, because a connection keeps its order.

use std::{collections::VecDeque, sync::Arc};

/// More than a user is sent between two heartbeats. Beyond it the oldest is forgotten; its message leaves the inbox by age.
const UNPROVEN_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Unproven {
    oldest_first: VecDeque<Arc<str>>,
    /// So many from the front were sent before the heartbeat whose echo is awaited.
    before_heartbeat: Option<usize>,
}

impl Unproven {
    pub(super) fn sent(&mut self, msg_id: &str) {
        self.oldest_first.push_back(Arc::from(msg_id));
        if self.oldest_first.len() > UNPROVEN_MAX {
            self.oldest_first.pop_front();
            self.before_heartbeat = self.before_heartbeat.map(|before| before.saturating_sub(1));
        }
    }

    pub(super) fn heartbeat_sent(&mut self) {
        self.before_heartbeat.get_or_insert(self.oldest_first.len());
    }

    pub(super) fn heartbeat_echoed(&mut self) {
        if let Some(before) = self.before_heartbeat.take() {
            self.oldest_first.drain(..before);
        }
    }

    /// A new connection: what to send again. No echo of the old one counts any more.
    pub(super) fn again(&mut self) -> VecDeque<Arc<str>> {
        self.before_heartbeat = None;
        self.oldest_first.clone()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
