//! Which rooms are this router's, and the proof of it.
//!
//! - The ring of live routers says whose a room is; the lease in the state store makes it so; the epoch tells owners apart for ever.
//! - A lease belongs to one life of one room here: what an earlier life left behind has to run out before a new one begins.
//! - Once a lease may have ended, nothing more is sent for its room before the store was asked. The holder judges by the clock of the
//!   store, before each batch: a process that was stopped finds out before it speaks.
//!
//! ```text
//!            in time, or asked anew and      the end has passed, and
//!            nobody had it in between        the store does not answer
//!          ┌─────────── Owned ──────────────────────► Degraded ───┐
//!          │              ▲  └── another had it, or ──┐   │  ▲    │ asked again
//!          └──────────────┘      the ring moved it    ▼   │  └────┘ every 0.5 s
//!                         └───────────────────────── Lost ◄┘
//! ```
//!
//! Degraded, chat goes on: it may be lost, and a gateway that has heard a later owner refuses it. Nothing that must arrive is taken,
//! for another router may be reaching the store that this one does not.

mod renewals;

use crate::{
    Refusal,
    clock::millis,
    config::RENEWALS_PER_LEASE,
    services::ports::{RecordError, RoomRecords},
};
use arc_swap::ArcSwap;
use billfish_ring::Ring;
use billfish_state::{LeaseAsk, Leases, NodeInfo, Quiet, RoomId};
use billfish_wire::Reason;
use renewals::Renewals;
use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Epochs end here: `epoch << 32 | counter` stays below 2⁵³.
pub(crate) const EPOCH_MAX: u64 = (1 << 21) - 1;

/// What this router may own.
pub(crate) struct Ownership {
    node: String,
    incarnation: u64,
    leases: Arc<dyn Leases>,
    renewals: Renewals,
    records: Arc<dyn RoomRecords>,
    lease_ms: u64,
    /// Moves this router's renewals away from those of others.
    offset_ms: u64,
    routers: ArcSwap<Routers>,
    next_life: AtomicU64,
}

/// The routers that take rooms.
#[derive(Debug)]
struct Routers {
    ring: Ring,
    names: BTreeSet<String>,
}

impl Routers {
    fn new(names: BTreeSet<String>) -> Self {
        let weights: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        Self { ring: Ring::new(&weights), names }
    }
}

/// A room that is this router's until then.
#[derive(Debug)]
pub(crate) struct Claim {
    name: String,
    holder: String,
    lease_epoch: u64,
    /// The upper half of the room's sequence numbers.
    pub(crate) epoch: u64,
    /// From this moment on nothing may be sent before the store was asked.
    until_ms: u64,
    /// When the store was last asked in vain after that.
    unanswered_ms: Option<u64>,
    /// For ever.
    is_lost: bool,
}

impl Claim {
    /// Its time has passed, and the store does not say whether it stands.
    pub(crate) const fn is_unproven(&self) -> bool {
        self.unanswered_ms.is_some() && !self.is_lost
    }
}

/// A room was not claimed.
#[derive(Debug)]
pub(crate) struct NotClaimed {
    /// What to tell whoever wanted something of it.
    pub(crate) refusal: Refusal,
    /// The ring gives it to this router and another lease stands: when it is worth trying again, Unix ms.
    pub(crate) again_ms: Option<u64>,
}

impl NotClaimed {
    /// The room's log has seen a larger epoch than the one just given: a later owner's, or the records were set back.
    pub(crate) fn overtaken(now_ms: u64) -> Self {
        Self { refusal: Refusal::moved(""), again_ms: Some(now_ms + CLAIM_AGAIN_MS) }
    }
}

impl From<Refusal> for NotClaimed {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, again_ms: None }
    }
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    Kept,
    /// The store did not answer.
    Unknown,
    Lost,
}

/// What the holder of a claim may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Everything.
    Owned,
    /// Only what may be lost: the lease has run out, and the store does not answer.
    Degraded,
    /// Nothing.
    Lost,
}

/// Between two questions to a store that does not answer, once the lease has run out. Not before each batch: a store that hangs would
/// cost every batch of chat its time-out.
const ASK_AGAIN_MS: u64 = 500;
/// Renewals of different routers are up to so far apart: the grid of each is a second wide.
const RENEW_APART_MS: u64 = 1_000;
/// Least time between two attempts to claim a room that another has.
const CLAIM_AGAIN_MS: u64 = 100;
/// Lines about leases that cannot be renewed: all rooms say it at once.
static RUN_OUT: Quiet = Quiet::new();

impl Ownership {
    pub(crate) fn new(node: &str, incarnation: u64, leases: Arc<dyn Leases>, records: Arc<dyn RoomRecords>, lease: Duration) -> Self {
        let routers = ArcSwap::from_pointee(Routers::new(BTreeSet::from([node.to_owned()])));
        let mut hasher = DefaultHasher::new();
        node.hash(&mut hasher);
        let (renewals, offset_ms) = (Renewals::new(Arc::clone(&leases)), hasher.finish() % RENEW_APART_MS);
        let (node, lease_ms, next_life) = (node.to_owned(), millis(lease), AtomicU64::new(0));
        Self { node, incarnation, leases, renewals, records, lease_ms, offset_ms, routers, next_life }
    }

    /// The routers that are up have changed. Rooms that have moved are given up by their actors at the next renewal.
    /// `true`: rooms may have come to this one.
    pub(crate) fn set_routers(&self, routers: &[NodeInfo]) -> bool {
        let names = routers.iter().filter(|router| !router.draining).map(|router| router.id.clone()).collect();
        let is_changed = self.routers.load().names != names;
        self.routers.store(Arc::new(Routers::new(names)));
        is_changed
    }

    /// Whether the ring gives the room to this router. An empty ring (the registry is away since the start) gives it everything: the
    /// lease decides.
    pub(crate) fn is_mine(&self, room: RoomId) -> bool {
        self.routers.load().ring.owner(room.0.cast_unsigned()).is_none_or(|owner| owner == self.node)
    }

    /// Whose a room is by the ring; `None` where the ring is empty.
    pub(crate) fn owner(&self, room: RoomId) -> Option<String> {
        self.routers.load().ring.owner(room.0.cast_unsigned()).map(str::to_owned)
    }

    /// What to tell a caller about a room that is not this router's, or not yet.
    pub(crate) fn elsewhere(&self, room: RoomId) -> Refusal {
        let owner = self.owner(room).filter(|owner| *owner != self.node);
        Refusal::moved(&owner.unwrap_or_default())
    }

    /// Claims a live room.
    ///
    /// # Errors
    /// Moved when another router has it, 4004 when it is no longer live, 5001 when a store does not answer.
    pub(crate) async fn claim(&self, room: RoomId, now_ms: u64) -> Result<Claim, NotClaimed> {
        if !self.is_mine(room) {
            return Err(self.elsewhere(room).into());
        }
        let name = lease_name(room);
        let life = self.next_life.fetch_add(1, Ordering::Relaxed);
        let holder = format!("{}%{}%{life}", self.node, self.incarnation);
        let until_ms = now_ms + self.lease_ms;
        let lease = self.leases.acquire(&name, &holder, now_ms, until_ms).await.map_err(Refusal::from)?;
        if lease.holder != holder {
            tracing::debug!(%room, holder = lease.holder, "the room has another owner");
            // Where the holder is dead, nobody can do it before the lease has run out. Where it lives it will give the room up at its
            // next renewal.
            let other = lease.holder.split('%').next().filter(|other| *other != self.node && self.routers.load().names.contains(*other));
            let again_ms = lease.until_ms.clamp(now_ms + CLAIM_AGAIN_MS, now_ms + CLAIM_AGAIN_MS.max(self.renew_every_ms()));
            return Err(NotClaimed { refusal: Refusal::moved(other.unwrap_or_default()), again_ms: Some(again_ms) });
        }
        let until_ms = lease.until_ms.min(until_ms);
        let mut claim = Claim { name, holder, lease_epoch: lease.epoch, epoch: 0, until_ms, unanswered_ms: None, is_lost: false };
        let epoch: Result<Option<u64>, RecordError> = self.records.raise_epoch(room).await;
        let refusal = match epoch {
            Ok(Some(epoch)) if epoch <= EPOCH_MAX => {
                claim.epoch = epoch;
                return Ok(claim);
            }
            Ok(Some(epoch)) => {
                tracing::error!(%room, epoch, "the room has had more owners than its sequence numbers can tell apart");
                Refusal::new(Reason::Internal)
            }
            Ok(None) => Refusal::new(Reason::RoomNotFound),
            Err(error) => error.into(),
        };
        self.release(&claim).await;
        Err(refusal.into())
    }

    /// What may be done under a claim now. Asks the store where its time has passed.
    pub(crate) async fn hold(&self, claim: &mut Claim, room: RoomId, now_ms: u64) -> Hold {
        if claim.is_lost {
            return Hold::Lost;
        }
        if now_ms < claim.until_ms {
            return Hold::Owned;
        }
        // The clock may have been set back since.
        if claim.unanswered_ms.is_some_and(|asked_ms| (asked_ms..asked_ms + ASK_AGAIN_MS).contains(&now_ms)) {
            return Hold::Degraded;
        }
        match self.renew(claim, room, now_ms).await {
            Renewal::Kept => Hold::Owned,
            Renewal::Unknown => Hold::Degraded,
            Renewal::Lost => Hold::Lost,
        }
    }

    /// Renews a claim, unless the room has moved. One whose time has passed is taken again if nobody had it in between: whenever a lease
    /// changes hands its epoch rises by one, and so it does when its last holder takes it anew.
    pub(crate) async fn renew(&self, claim: &mut Claim, room: RoomId, now_ms: u64) -> Renewal {
        if claim.is_lost || !self.is_mine(room) {
            claim.is_lost = true;
            return Renewal::Lost;
        }
        let until_ms = now_ms + self.lease_ms;
        let ask = LeaseAsk { name: claim.name.clone(), holder: claim.holder.clone() };
        match self.renewals.renew(ask, now_ms, self.lease_ms).await {
            Ok(lease) if lease.holder == claim.holder && (claim.lease_epoch..=claim.lease_epoch + 1).contains(&lease.epoch) => {
                claim.lease_epoch = lease.epoch;
                claim.until_ms = lease.until_ms.min(until_ms);
                if claim.unanswered_ms.take().is_some() {
                    tracing::info!(%room, "the lease of a room is proven again");
                }
                Renewal::Kept
            }
            Ok(lease) => {
                tracing::debug!(%room, holder = lease.holder, epoch = lease.epoch, "the lease of a room was another's");
                if lease.holder == claim.holder {
                    // It has just become ours, and is of no use: this life is over. It is to be given back.
                    claim.lease_epoch = lease.epoch;
                }
                claim.is_lost = true;
                Renewal::Lost
            }
            Err(error) => {
                let error = &*error as &dyn std::error::Error;
                if now_ms < claim.until_ms {
                    tracing::debug!(%room, error, "the lease of a room could not be renewed");
                } else if claim.unanswered_ms.replace(now_ms).is_none()
                    && let Some(more_before) = RUN_OUT.may_say("run out")
                {
                    tracing::warn!(%room, error, more_before, "the lease of a room has run out and the store does not answer: only chat goes on");
                }
                Renewal::Unknown
            }
        }
    }

    /// Gives a claim back. Where that fails it runs out.
    pub(crate) async fn release(&self, claim: &Claim) {
        if let Err(error) = self.leases.release(&claim.name, &claim.holder, claim.lease_epoch).await {
            tracing::debug!(lease = claim.name, error = &error as &dyn std::error::Error, "a lease was not given back; it runs out");
        }
    }

    /// When a room renews next.
    pub(crate) fn renew_next_ms(&self, room: RoomId, now_ms: u64) -> u64 {
        renewals::next_ms(&lease_name(room), now_ms, self.renew_every_ms(), self.offset_ms)
    }

    /// Between two renewals.
    fn renew_every_ms(&self) -> u64 {
        self.lease_ms / u64::from(RENEWALS_PER_LEASE)
    }
}

fn lease_name(room: RoomId) -> String {
    format!("room:{room}:owner")
}

#[cfg(test)]
mod tests {
    use super::{Hold, Ownership, Renewal};
    use crate::{
        services::ports::{NewRoom, RoomKind, RoomRecords},
        testing::TestRecords,
    };
    use async_trait::async_trait;
    use billfish_state::{AppId, Lease, Leases, NodeInfo, NodeKind, RoomId, State, StateError, UserId};
    use billfish_wire::Reason;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
        },
        time::Duration,
    };

    const ROOM: RoomId = RoomId(1);
    const LEASE: Duration = Duration::from_secs(10);
    const LEASE_MS: u64 = 10_000;

    fn node(id: &str, draining: bool) -> NodeInfo {
        NodeInfo {
            kind: NodeKind::Router,
            id: id.to_owned(),
            incarnation: 1,
            addresses: Vec::new(),
            capacity: 1,
            load: 0,
            draining,
            version: String::new(),
            labels: Default::default(),
        }
    }

    async fn records() -> Arc<TestRecords> {
        let records = Arc::new(TestRecords::default());
        let room =
            NewRoom { app: AppId(10_001), anchor: UserId(30_001), kind: RoomKind::Normal, name: String::new(), cover: String::new() };
        records.open_room(&room, 0).await.unwrap();
        records
    }

    #[tokio::test]
    async fn a_room_has_one_owner_and_every_owner_a_larger_epoch() {
        let (state, records) = (State::in_memory(), records().await);
        let first = Ownership::new("r1", 1, state.leases.clone(), records.clone(), LEASE);
        let second = Ownership::new("r2", 1, state.leases.clone(), records.clone(), LEASE);
        let mut claim = first.claim(ROOM, 0).await.unwrap();
        assert_eq!(second.claim(ROOM, 1).await.unwrap_err().refusal.moved_to(), Some(""), "r1 is in no ring");
        assert_eq!(first.renew(&mut claim, ROOM, 9_000).await, Renewal::Kept);
        assert_eq!(claim.until_ms, 19_000);
        // It runs out; the other takes over; the first finds out by its clock and by the store.
        let other = second.claim(ROOM, 19_000).await.unwrap();
        assert!(other.epoch > claim.epoch);
        assert_eq!(first.renew(&mut claim, ROOM, 18_999).await, Renewal::Lost);
        assert_eq!(first.renew(&mut claim, ROOM, 19_000).await, Renewal::Lost);
    }

    #[tokio::test]
    async fn an_epoch_rises_also_when_the_state_store_begins_anew() {
        let records = records().await;
        let mut epochs = Vec::new();
        for _ in 0..3 {
            let ownership = Ownership::new("r1", 1, State::in_memory().leases, records.clone(), LEASE);
            epochs.push(ownership.claim(ROOM, 0).await.unwrap().epoch);
        }
        assert_eq!(epochs, [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_second_life_here_waits_for_the_first_to_end() {
        let (state, records) = (State::in_memory(), records().await);
        let ownership = Ownership::new("r1", 1, state.leases.clone(), records.clone(), LEASE);
        let claim = ownership.claim(ROOM, 0).await.unwrap();
        assert!(ownership.claim(ROOM, 1).await.is_err());
        ownership.release(&claim).await;
        assert!(ownership.claim(ROOM, 2).await.unwrap().epoch > claim.epoch);
    }

    #[tokio::test]
    async fn a_room_that_has_closed_is_not_claimed_and_its_lease_is_free() {
        let (state, records) = (State::in_memory(), records().await);
        let ownership = Ownership::new("r1", 1, state.leases.clone(), records.clone(), LEASE);
        records.close_room(ROOM, 0).await.unwrap();
        for _ in 0..2 {
            assert_eq!(ownership.claim(ROOM, 0).await.unwrap_err().refusal.reason, Reason::RoomNotFound);
        }
    }

    #[tokio::test]
    async fn the_ring_divides_rooms_among_routers_and_a_moved_room_is_given_up() {
        let (state, records) = (State::in_memory(), records().await);
        let ownership = Ownership::new("r1", 1, state.leases.clone(), records.clone(), LEASE);
        assert!((1..1_000).all(|room| ownership.is_mine(RoomId(room))));
        let mut claim = ownership.claim(ROOM, 0).await.unwrap();
        ownership.set_routers(&[node("r1", false), node("r2", false)]);
        let mine = (1..1_000).filter(|&room| ownership.is_mine(RoomId(room))).count();
        assert!((300..700).contains(&mine), "{mine}");
        ownership.set_routers(&[node("r1", true), node("r2", false)]);
        assert!(!(1..1_000).any(|room| ownership.is_mine(RoomId(room))));
        assert_eq!(ownership.renew(&mut claim, ROOM, 1).await, Renewal::Lost);
    }

    /// Leases that can be away.
    struct Cut {
        leases: Arc<dyn Leases>,
        is_cut: AtomicBool,
        asked: AtomicU32,
    }

    #[async_trait]
    impl Leases for Cut {
        async fn acquire(&self, name: &str, holder: &str, now_ms: u64, until_ms: u64) -> Result<Lease, StateError> {
            self.asked.fetch_add(1, Relaxed);
            if self.is_cut.load(Relaxed) {
                return Err(StateError::Away { what: "test", cause: "told to be".into() });
            }
            self.leases.acquire(name, holder, now_ms, until_ms).await
        }

        async fn release(&self, name: &str, holder: &str, epoch: u64) -> Result<(), StateError> {
            self.leases.release(name, holder, epoch).await
        }
    }

    /// An owner whose store can be cut off, and another who reaches it.
    async fn rivals() -> (Ownership, Arc<Cut>, Ownership) {
        let (state, records) = (State::in_memory(), records().await);
        let cut = Arc::new(Cut { leases: state.leases.clone(), is_cut: AtomicBool::new(false), asked: AtomicU32::new(0) });
        let one = Ownership::new("r1", 1, cut.clone(), records.clone(), LEASE);
        (one, cut, Ownership::new("r2", 1, state.leases.clone(), records, LEASE))
    }

    #[tokio::test]
    async fn within_its_time_a_claim_holds_and_nobody_is_asked() {
        let (one, cut, _) = rivals().await;
        let mut claim = one.claim(ROOM, 0).await.unwrap();
        cut.is_cut.store(true, Relaxed);
        assert_eq!(one.renew(&mut claim, ROOM, 5_000).await, Renewal::Unknown);
        assert_eq!(one.hold(&mut claim, ROOM, 9_999).await, Hold::Owned);
        assert_eq!(cut.asked.load(Relaxed), 2, "to claim and to renew");
    }

    #[tokio::test]
    async fn past_its_time_and_without_an_answer_a_claim_is_degraded_and_asks_twice_a_second() {
        let (one, cut, _) = rivals().await;
        let mut claim = one.claim(ROOM, 0).await.unwrap();
        cut.is_cut.store(true, Relaxed);
        for now_ms in [10_000, 10_100, 10_499, 10_500, 10_999] {
            assert_eq!(one.hold(&mut claim, ROOM, now_ms).await, Hold::Degraded, "{now_ms}");
        }
        assert_eq!(cut.asked.load(Relaxed), 3, "to claim, and twice in vain");
        cut.is_cut.store(false, Relaxed);
        assert_eq!(one.hold(&mut claim, ROOM, 11_000).await, Hold::Owned, "nobody had it in between");
        assert_eq!(one.hold(&mut claim, ROOM, 20_999).await, Hold::Owned);
        assert_eq!(cut.asked.load(Relaxed), 4);
    }

    #[tokio::test]
    async fn a_claim_that_another_has_had_in_between_is_lost_though_it_is_free_again() {
        let (one, cut, two) = rivals().await;
        let mut claim = one.claim(ROOM, 0).await.unwrap();
        cut.is_cut.store(true, Relaxed);
        assert_eq!(one.hold(&mut claim, ROOM, 10_000).await, Hold::Degraded);
        let other = two.claim(ROOM, 10_000).await.unwrap();
        cut.is_cut.store(false, Relaxed);
        two.release(&other).await;
        assert_eq!(one.hold(&mut claim, ROOM, 10_500).await, Hold::Lost);
        assert_eq!(one.hold(&mut claim, ROOM, 10_501).await, Hold::Lost, "for ever");
        // What it took by asking it gives back.
        one.release(&claim).await;
        assert!(two.claim(ROOM, 11_001).await.is_ok());
    }

    #[tokio::test]
    async fn a_claim_that_another_has_is_lost() {
        let (one, cut, two) = rivals().await;
        let mut claim = one.claim(ROOM, 0).await.unwrap();
        cut.is_cut.store(true, Relaxed);
        assert_eq!(one.hold(&mut claim, ROOM, 10_000).await, Hold::Degraded);
        let other = two.claim(ROOM, 10_000).await.unwrap();
        cut.is_cut.store(false, Relaxed);
        assert_eq!(one.hold(&mut claim, ROOM, 10_500).await, Hold::Lost);
        one.release(&claim).await;
        let mut other = other;
        assert_eq!(two.renew(&mut other, ROOM, 10_600).await, Renewal::Kept, "the loser takes nothing from it");
    }

    #[tokio::test]
    async fn a_degraded_claim_on_a_room_that_moved_is_lost() {
        let (one, cut, _) = rivals().await;
        let mut claim = one.claim(ROOM, 0).await.unwrap();
        cut.is_cut.store(true, Relaxed);
        assert_eq!(one.hold(&mut claim, ROOM, 10_000).await, Hold::Degraded);
        one.set_routers(&[node("r2", false)]);
        assert_eq!(one.hold(&mut claim, ROOM, 10_500).await, Hold::Lost);
        assert_eq!(one.elsewhere(ROOM).moved_to(), Some("r2"));
    }

    #[tokio::test]
    async fn a_lease_of_a_router_that_lives_names_it_and_one_of_a_dead_router_names_nobody() {
        let (one, _, two) = rivals().await;
        one.claim(ROOM, 0).await.unwrap();
        two.set_routers(&[node("r2", false)]);
        let dead = two.claim(ROOM, 1_000).await.unwrap_err();
        assert_eq!((dead.refusal.moved_to(), dead.again_ms), (Some(""), Some(1_000 + LEASE_MS / 3)));
        let soon = two.claim(ROOM, 9_990).await.unwrap_err();
        assert_eq!(soon.again_ms, Some(10_090), "it runs out in a moment");
        two.set_routers(&[node("r1", false), node("r2", false)]);
        let not_mine = (1..).map(RoomId).find(|room| !two.is_mine(*room)).unwrap();
        let elsewhere = two.claim(not_mine, 0).await.unwrap_err();
        assert_eq!((elsewhere.refusal.moved_to(), elsewhere.again_ms), (Some("r1"), None));
    }
}
