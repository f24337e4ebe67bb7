//! Why a call was refused: one type for the link, the HTTP API and the metrics.

use crate::services::ports::RecordError;
use billfish_state::{Quiet, StateError};
use billfish_wire::Reason;
use std::sync::Arc;

/// A refusal, told to whoever asked. Nothing internal stands in it: causes go to the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// Its number and metric label.
    pub reason: Reason,
    /// One English sentence for the person who reads the client's log.
    pub detail: String,
    /// When it is worth trying again.
    pub retry_after_ms: Option<u64>,
    /// Nothing was done, for it is another router's to do.
    moved: Option<Arc<str>>,
}

impl Refusal {
    /// A refusal with the reason's own sentence.
    #[must_use]
    pub fn new(reason: Reason) -> Self {
        Self::because(reason, reason.message())
    }

    /// A refusal with a sentence of its own.
    #[must_use]
    pub fn because(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), retry_after_ms: None, moved: None }
    }

    /// The same, with the time to wait.
    #[must_use]
    pub fn retry_after(mut self, retry_after_ms: u64) -> Self {
        self.retry_after_ms = Some(retry_after_ms);
        self
    }

    /// The service behind is away (5001).
    #[must_use]
    pub fn unavailable() -> Self {
        Self::new(Reason::Unavailable).retry_after(UNAVAILABLE_RETRY_MS)
    }

    /// Nothing was done: it is for `owner` to do, or, where that is empty, for a router that is not known yet. Over a link it is told as
    /// `Moved`; whoever cannot be told that hears 5001.
    #[must_use]
    pub(crate) fn moved(owner: &str) -> Self {
        Self { moved: Some(Arc::from(owner)), ..Self::unavailable() }
    }

    /// Whose it is to do, if nothing was done for that reason; empty where nobody knows.
    #[must_use]
    pub(crate) fn moved_to(&self) -> Option<&str> {
        self.moved.as_deref()
    }
}

/// Told to callers whose store is away: long enough for a reconnect (20 to 100 ms), short enough for a person who waits.
const UNAVAILABLE_RETRY_MS: u64 = 500;

/// Lines about calls that are refused while a store is away: each call would make one.
static REFUSED: Quiet = Quiet::new();

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        if let Some(more_before) = REFUSED.may_say("state") {
            tracing::warn!(error = &error as &dyn std::error::Error, more_before, "refused, for the state store did not answer");
        }
        Self::because(Reason::Unavailable, "the shared state is away; try again after retryAfterMs").retry_after(UNAVAILABLE_RETRY_MS)
    }
}

impl From<RecordError> for Refusal {
    fn from(error: RecordError) -> Self {
        if let Some(more_before) = REFUSED.may_say("records") {
            tracing::warn!(error = &error as &dyn std::error::Error, more_before, "refused, for the records did not answer");
        }
        Self::because(Reason::Unavailable, "the records are away; try again after retryAfterMs").retry_after(UNAVAILABLE_RETRY_MS)
    }
}
