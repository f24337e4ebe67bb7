//! Why a batch was not carried out: but for a spoilt key, what stands in [`StateError::Away`] as its cause.

use super::config::Address;
use crate::types::StateError;
use redis::{ParsingError, RedisError, ServerError};
use std::sync::Arc;

#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// Nothing was sent.
    #[error("{0}")]
    Down(Arc<str>),
    /// Nothing was sent.
    #[error("{0} commands are in flight already")]
    Full(usize),
    /// It may have been carried out.
    #[error("{0} did not answer in time")]
    TimedOut(Address),
    /// It may have been carried out.
    #[error("the connection to {0} broke")]
    Broken(Address, #[source] RedisError),
    #[error("{0} refused: {code} {details}", code = .1.code(), details = .1.details().unwrap_or_default())]
    Refused(Address, ServerError),
    /// The cluster moves about faster than it can be followed.
    #[error("sent from server to server: {code} {details}", code = .0.code(), details = .0.details().unwrap_or_default())]
    Astray(ServerError),
    #[error("an answer of another kind than expected")]
    Answer(#[source] ParsingError),
    /// What stands at the key is not ours, or was spoilt: the server is there.
    #[error("{0} holds something of another type")]
    Spoilt(String),
}

impl Trouble {
    /// Every [`Self::kind`].
    pub(super) const KINDS: [&'static str; 8] = ["down", "full", "timed_out", "broken", "refused", "astray", "answer", "spoilt"];

    /// Its metric label.
    pub(super) fn kind(&self) -> &'static str {
        let [down, full, timed_out, broken, refused, astray, answer, spoilt] = Self::KINDS;
        match self {
            Self::Down(_) => down,
            Self::Full(_) => full,
            Self::TimedOut(_) => timed_out,
            Self::Broken(..) => broken,
            Self::Refused(..) => refused,
            Self::Astray(_) => astray,
            Self::Answer(_) => answer,
            Self::Spoilt(_) => spoilt,
        }
    }

    pub(super) fn into_error(self, what: &'static str) -> StateError {
        if let Self::Spoilt(key) = self {
            return StateError::Spoilt { what, key };
        }
        StateError::Away { what, cause: Box::new(self) }
    }
}
