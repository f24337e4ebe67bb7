//! What the services need of the ledger about people: who has which phone, what they may do, and ids for new ones.

use super::Result;
use async_trait::async_trait;
use billfish_state::{AppId, UserId};

/// What a user may do beyond the others, as bits of `t_user_tag`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags(pub i64);

impl Tags {
    /// May open rooms.
    pub const VIP: Self = Self(1);

    /// Whether all of `tags` are among these.
    #[must_use]
    pub const fn has(self, tags: Self) -> bool {
        self.0 & tags.0 == tags.0
    }
}

/// Ids `from..=to`, given to one router for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The first.
    pub from: i64,
    /// The last.
    pub to: i64,
}

/// The people in the ledger.
#[async_trait]
pub trait People: Send + Sync {
    /// The user of a phone.
    async fn user_of_phone(&self, app: AppId, phone: &str) -> Result<Option<UserId>>;
    /// Gives a phone to a new user, unless it has one; the user that it has then. Atomic, also for two calls at once on two routers.
    async fn add_user(&self, app: AppId, phone: &str, user: UserId, now_ms: u64) -> Result<UserId>;
    /// The next ids of a sequence (`user`, `order`): of the row's version that was read, or `None` when another was faster.
    async fn take_segment(&self, sequence: &'static str) -> Result<Option<Segment>>;
    /// What a user may do.
    async fn tags(&self, app: AppId, user: UserId) -> Result<Tags>;
    /// Sets or lifts tags; all tags the user has then.
    async fn change_tags(&self, app: AppId, user: UserId, set: Tags, lift: Tags) -> Result<Tags>;
}
