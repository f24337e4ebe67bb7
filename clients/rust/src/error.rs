//! What can go wrong with a call. What goes wrong with a connection is an [`crate::Event`].

use billfish_session::client::CallError;

/// A call that was not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The session is over: [`crate::Event::Closed`] said why.
    #[error("the session is over")]
    Closed,
    /// The app has left more events unread than are kept.
    #[error("too many unread events")]
    EventsUnread,
    /// The call cannot be made now, or not like this.
    #[error("the call cannot be made")]
    Call(#[from] CallError),
}

/// A configuration that cannot work.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Named as in [`crate::ClientConfig`].
    #[error("{field}: {problem}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}
