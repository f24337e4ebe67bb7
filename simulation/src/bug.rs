//! Deliberate faults of the house, one per promise: a checker that does not turn red on them checks nothing.
//!
//! They live in the layer between the real parts (the stores' adapter, the links, the gateway's shell), never in those parts.

/// Which promise is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The room log forgets who sent what: a message that is sent again is said again.
    LogForgetsClaims,
    /// Inboxes forget who sent what: a whisper that is sent again is another whisper.
    InboxForgetsClaims,
    /// Nothing keeps former owners out: the lease is whoever's asks, and the log says of what is too late that it was stored.
    NobodyFences,
    /// Gateways never say what they have seen of a room: a new owner sends nothing again.
    NoReplay,
    /// An answer of a router reaches the wrong user.
    PushesReachStrangers,
    /// Room pushes are handed to the sessions twice, and their numbers made new.
    PushedTwice,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::LogForgetsClaims,
        Self::InboxForgetsClaims,
        Self::NobodyFences,
        Self::NoReplay,
        Self::PushesReachStrangers,
        Self::PushedTwice,
    ];
}
