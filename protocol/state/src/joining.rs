//! What a node makes sure of before it registers: that nobody else bears its name, and that it is set as the others are.
//!
//! - An entry of the same name and the same addresses is a former life of this node: whoever listens there now is its successor. One with
//!   other addresses may be a former life elsewhere, or another node that was given the same name. The living renew theirs, so it is
//!   watched for as long as a registration stands.
//! - A registry that does not answer keeps nobody from starting. Whoever comes to be there twice by it is told when registering; but who started
//!   then counts its lives by its own clock, which may be behind, so that an entry of its former life, at the same place, looks like a later one.

use crate::port::State;
use crate::types::{NodeInfo, NodeKind, StateError};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

/// Names of [`NodeInfo::labels`].
pub mod labels {
    /// When the entry was written, Unix ms: it changes while the node lives.
    pub const RENEWED_MS: &str = "renewed_ms";
    /// The gap between heartbeats that this node goes by.
    pub const HEARTBEAT_MS: &str = "heartbeat_ms";
    /// After how much silence this gateway takes a client for gone: as many gaps as it is set to wait.
    pub const SILENCE_MS: &str = "silence_ms";
}

/// Why a node must not register.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotJoined {
    /// It would take another's place.
    #[error("another process is alive under the name {id:?}, at {addresses}")]
    NameTaken {
        /// The name of both.
        id: String,
        /// Where the other one is.
        addresses: String,
    },
    /// The two would not find what the other one has stored.
    #[error("`{key}` is {ours} here and {theirs} on {node}; it must be the same on all nodes, and is changed with all of them stopped")]
    Differs {
        /// The key of the configuration.
        key: String,
        /// Here.
        ours: String,
        /// There.
        theirs: String,
        /// Who has it so.
        node: String,
    },
}

/// Makes sure that `me` may register, whose registrations stand for `life`; gives the number of its life: as it stands in `me`, or, where
/// a former life is known with a larger one (the clock was set back), the next after that.
///
/// # Errors
/// Why it may not.
pub async fn join(state: &State, me: &NodeInfo, life: Duration) -> Result<u64, NotJoined> {
    check_layout(state, me).await?;
    let mut incarnation = me.incarnation;
    let give_up = Instant::now() + life;
    let mut seen: Option<NodeInfo> = None;
    loop {
        let nodes = state.registry.nodes(me.kind, state.clock.now_ms()).await.unwrap_or_default();
        let Some(other) = nodes.into_iter().find(|node| node.id == me.id) else { return Ok(incarnation) };
        incarnation = incarnation.max(other.incarnation.saturating_add(1));
        if !is_elsewhere(&other, me) {
            return Ok(incarnation);
        }
        let is_renewed = seen.as_ref().is_some_and(|seen| is_sign_of_life(seen, &other));
        let is_over = Instant::now() >= give_up;
        // An entry that does not say when it was written is of an earlier release, and is there yet: it is believed to live.
        if is_renewed || (is_over && !other.labels.contains_key(labels::RENEWED_MS)) {
            return Err(NotJoined::NameTaken { id: me.id.clone(), addresses: other.whereabouts() });
        }
        if is_over {
            return Ok(incarnation);
        }
        if seen.is_none() {
            tracing::warn!(node = %me.id, at = %other.whereabouts(), wait = ?life, "this name is registered elsewhere; looking whether that lives");
        }
        seen.get_or_insert(other);
        sleep(LOOK_EVERY).await;
    }
}

impl NodeInfo {
    /// Where it says it is, for a person.
    #[must_use]
    pub fn whereabouts(&self) -> String {
        let all: Vec<String> = self.addresses.iter().map(|(transport, address)| format!("{transport}={address}")).collect();
        all.join(" ")
    }
}

/// Whether a later process bears the name of this one, which then cannot go on; clones are one.
#[derive(Clone, Debug)]
pub struct Displacement {
    key: &'static str,
    by: Arc<watch::Sender<Option<Displaced>>>,
    /// What stood at this node's own place when it was refused last, in what looks like a later life.
    seen: Arc<Mutex<Option<NodeInfo>>>,
}

/// A later process bears the name of this one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: another process, started later, bears the name {name:?} of this node; it is at {at}")]
pub struct Displaced {
    /// The key of the configuration that names this node.
    pub key: &'static str,
    /// The name of both.
    pub name: String,
    /// Where the other is.
    pub at: String,
}

impl Displacement {
    /// Of a node whose name stands under this key of the configuration.
    #[must_use]
    pub fn new(key: &'static str) -> Self {
        Self { key, by: Arc::new(watch::Sender::new(None)), seen: Arc::default() }
    }

    /// Registers a node; whoever is told that a later life of it is live is displaced from then on. Where that has the same addresses it must
    /// give a sign of life, too: else it is a former life, whose clock was ahead, and ends by itself.
    ///
    /// # Errors
    /// The registry does not do what it was asked.
    pub async fn register(&self, state: &State, me: &NodeInfo, now_ms: u64, until_ms: u64) -> Result<(), StateError> {
        if state.registry.register(me, now_ms, until_ms).await? {
            return Ok(());
        }
        let nodes = state.registry.nodes(me.kind, now_ms).await.unwrap_or_default();
        let other = nodes.into_iter().find(|node| node.id == me.id);
        if other.as_ref().is_some_and(|other| !self.lives(other, me)) {
            return Ok(());
        }
        let at = other.map_or_else(|| "an unknown address".to_owned(), |other| other.whereabouts());
        let displaced = Displaced { key: self.key, name: me.id.clone(), at };
        if self.by.send_if_modified(|by| by.is_none() && by.insert(displaced.clone()).key == self.key) {
            tracing::error!("{displaced}");
        }
        Ok(())
    }

    /// Whether what looks like a later life is one.
    fn lives(&self, other: &NodeInfo, me: &NodeInfo) -> bool {
        if is_elsewhere(other, me) || !other.labels.contains_key(labels::RENEWED_MS) {
            return true;
        }
        let before = self.seen.lock().unwrap_or_else(PoisonError::into_inner).replace(other.clone());
        before.is_some_and(|before| is_sign_of_life(&before, other))
    }

    /// By whom it is, if it is.
    #[must_use]
    pub fn by(&self) -> Option<Displaced> {
        self.by.borrow().clone()
    }

    /// Waits until it is.
    pub async fn happens(&self) -> Displaced {
        let mut by = self.by.subscribe();
        loop {
            if let Some(displaced) = by.borrow_and_update().clone() {
                return displaced;
            }
            // Never: the sender is held here.
            if by.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn check_layout(state: &State, me: &NodeInfo) -> Result<(), NotJoined> {
    if state.layout.is_empty() {
        return Ok(());
    }
    for kind in [NodeKind::Router, NodeKind::Gateway] {
        let nodes = state.registry.nodes(kind, state.clock.now_ms()).await.unwrap_or_default();
        for node in nodes.iter().filter(|node| (node.kind, &node.id) != (me.kind, &me.id)) {
            for (key, ours) in state.layout.iter() {
                if let Some(theirs) = node.labels.get(key).filter(|theirs| *theirs != ours) {
                    let (key, ours, theirs) = (key.clone(), ours.clone(), theirs.clone());
                    return Err(NotJoined::Differs { key, ours, theirs, node: node.id.clone() });
                }
            }
        }
    }
    Ok(())
}

/// Whether a transport of both leads to two places.
fn is_elsewhere(other: &NodeInfo, me: &NodeInfo) -> bool {
    let differs = |(transport, address): &(String, String)| {
        other.addresses.iter().any(|(their_transport, theirs)| their_transport == transport && theirs != address)
    };
    me.addresses.iter().any(differs)
}

fn is_sign_of_life(before: &NodeInfo, now: &NodeInfo) -> bool {
    before.incarnation != now.incarnation || before.labels.get(labels::RENEWED_MS) != now.labels.get(labels::RENEWED_MS)
}

/// Between two looks at an entry that may be renewed.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::{Displacement, NotJoined, join, labels};
    use crate::types::{NodeInfo, NodeKind};
    use crate::{State, port::Result};
    use std::{sync::Arc, time::Duration};
    use tokio::time::{Instant, sleep};

    const LIFE: Duration = Duration::from_secs(6);

    fn node(id: &str, incarnation: u64, port: u16, renewed_ms: u64) -> NodeInfo {
        NodeInfo {
            kind: NodeKind::Router,
            id: id.to_owned(),
            incarnation,
            addresses: vec![("link".to_owned(), format!("10.0.0.1:{port}")), ("http".to_owned(), "10.0.0.1:80".to_owned())],
            capacity: 1,
            load: 0,
            draining: false,
            version: String::new(),
            labels: [(labels::RENEWED_MS.to_owned(), renewed_ms.to_string())].into(),
        }
    }

    async fn register(state: &State, node: &NodeInfo) -> Result<bool> {
        state.registry.register(node, 0, u64::MAX).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_nobody_bears_and_one_of_a_former_life_at_the_same_place_are_free_at_once() {
        let state = State::in_memory();
        let start = Instant::now();
        assert_eq!(join(&state, &node("r1", 5, 7001, 0), LIFE).await, Ok(5));
        register(&state, &node("r1", 4, 7001, 1)).await.unwrap();
        assert_eq!(join(&state, &node("r1", 5, 7001, 0), LIFE).await, Ok(5));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_life_is_later_than_the_former_one_though_the_clock_was_set_back() {
        let state = State::in_memory();
        register(&state, &node("r1", 90, 7001, 1)).await.unwrap();
        assert_eq!(join(&state, &node("r1", 5, 7001, 0), LIFE).await, Ok(91));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_renewed_elsewhere_is_taken() {
        let state = State::in_memory();
        register(&state, &node("r1", 4, 7001, 1)).await.unwrap();
        let renewing = state.clone();
        let renewal = tokio::spawn(async move {
            sleep(Duration::from_secs(2)).await;
            register(&renewing, &node("r1", 4, 7001, 2_001)).await.unwrap();
        });
        let taken = NotJoined::NameTaken { id: "r1".to_owned(), addresses: "link=10.0.0.1:7001 http=10.0.0.1:80".to_owned() };
        assert_eq!(join(&state, &node("r1", 5, 7002, 0), LIFE).await, Err(taken));
        renewal.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_nobody_renews_is_free_when_its_registration_would_have_ended() {
        let state = State::in_memory();
        register(&state, &node("r1", 4, 7001, 1)).await.unwrap();
        let start = Instant::now();
        assert_eq!(join(&state, &node("r1", 5, 7002, 0), LIFE).await, Ok(5));
        assert_eq!(start.elapsed(), LIFE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_ends_meanwhile_frees_its_name() {
        let state = State::in_memory();
        register(&state, &node("r1", 4, 7001, 1)).await.unwrap();
        let ending = state.clone();
        let end = tokio::spawn(async move {
            sleep(Duration::from_secs(1)).await;
            ending.registry.deregister(NodeKind::Router, "r1", 4).await.unwrap();
        });
        let start = Instant::now();
        assert_eq!(join(&state, &node("r1", 5, 7002, 0), LIFE).await, Ok(5));
        assert!(start.elapsed() < Duration::from_secs(2));
        end.await.unwrap();
    }

    #[tokio::test]
    async fn who_is_told_of_a_later_life_knows_that_it_is_displaced_and_by_whom() {
        let state = State::in_memory();
        let displacement = Displacement::new("router.node");
        displacement.register(&state, &node("r1", 4, 7001, 1), 0, u64::MAX).await.unwrap();
        assert_eq!(displacement.by(), None);
        register(&state, &node("r1", 5, 7002, 1)).await.unwrap();
        displacement.register(&state, &node("r1", 4, 7001, 2), 0, u64::MAX).await.unwrap();
        let displaced = displacement.happens().await;
        assert_eq!((displaced.key, displaced.at.as_str()), ("router.node", "link=10.0.0.1:7002 http=10.0.0.1:80"));
        assert_eq!(displacement.by(), Some(displaced));
        assert_eq!(state.registry.nodes(NodeKind::Router, 0).await.unwrap()[0].incarnation, 5);
    }

    #[tokio::test]
    async fn a_former_life_that_looks_later_displaces_nobody_and_one_that_lives_does() {
        let state = State::in_memory();
        let displacement = Displacement::new("router.node");
        // It was killed together with the store, and started again before that: its own clock is behind the time of all.
        state.registry.register(&node("r1", 90, 7001, 1), 0, 6_000).await.unwrap();
        let me = node("r1", 5, 7001, 2);
        for now_ms in [2_000, 4_000] {
            displacement.register(&state, &me, now_ms, now_ms + 6_000).await.unwrap();
            assert_eq!(displacement.by(), None);
        }
        displacement.register(&state, &me, 6_000, 12_000).await.unwrap();
        assert_eq!(state.registry.nodes(NodeKind::Router, 6_000).await.unwrap()[0].incarnation, 5);
        // Another process at the same port, which renews its entry.
        for renewed_ms in [8_000, 10_000] {
            state.registry.register(&node("r1", 91, 7001, renewed_ms), renewed_ms, renewed_ms + 6_000).await.unwrap();
            displacement.register(&state, &me, renewed_ms, renewed_ms + 6_000).await.unwrap();
        }
        assert!(displacement.by().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_set_otherwise_on_another_node_is_named_by_its_key() {
        let key = "state.redis.presence_buckets";
        let layout = |buckets: &str| Arc::new([(key.to_owned(), buckets.to_owned())].into());
        let state = State { layout: layout("32"), ..State::in_memory() };
        let mut other = node("r2", 1, 7002, 1);
        // Of an earlier release, which does not say.
        register(&state, &other).await.unwrap();
        assert_eq!(join(&state, &node("r1", 5, 7001, 0), LIFE).await, Ok(5));
        other.labels.insert(key.to_owned(), "64".to_owned());
        register(&state, &other).await.unwrap();
        let refused = join(&state, &node("r1", 5, 7001, 0), LIFE).await.unwrap_err();
        assert!(refused.to_string().starts_with("`state.redis.presence_buckets` is 32 here and 64 on r2"), "{refused}");
    }
}
