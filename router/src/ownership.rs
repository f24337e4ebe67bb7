//! Which rooms are this router's, and the proof of it.
//!
//! - The ring of live routers says whose a room is; the lease in the state store makes it so; the epoch tells owners apart for ever.
//! - A lease belongs to one life of one room here: what an earlier life left behind has to run out before a new one begins.
//! - Once a lease may have ended, nothing more is sent for its room. The holder judges by its own clock, before each batch.

use crate::{
    Refusal,
    clock::millis,
    services::ports::{RecordError, RoomRecords},
};
use arc_swap::ArcSwap;
use billfish_ring::Ring;
use billfish_state::{Leases, NodeInfo, RoomId, StateError};
use billfish_wire::Reason;
use std::{
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
    records: Arc<dyn RoomRecords>,
    lease_ms: u64,
    ring: ArcSwap<Ring>,
    next_life: AtomicU64,
}

/// A room that is this router's until then.
#[derive(Debug)]
pub(crate) struct Claim {
    name: String,
    holder: String,
    lease_epoch: u64,
    /// The upper half of the room's sequence numbers.
    pub(crate) epoch: u64,
    /// From this moment on nothing may be sent, unless it was renewed.
    pub(crate) until_ms: u64,
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    Kept,
    /// The store did not answer; the claim stands until its time.
    Unknown,
    Lost,
}

impl Ownership {
    pub(crate) fn new(node: &str, incarnation: u64, leases: Arc<dyn Leases>, records: Arc<dyn RoomRecords>, lease: Duration) -> Self {
        let ring = ArcSwap::from_pointee(Ring::new(&[(node, 1)]));
        Self { node: node.to_owned(), incarnation, leases, records, lease_ms: millis(lease), ring, next_life: AtomicU64::new(0) }
    }

    /// The routers that are up have changed. Rooms that have moved are given up by their actors at the next renewal.
    pub(crate) fn set_routers(&self, routers: &[NodeInfo]) {
        let weights: Vec<(&str, u32)> =
            routers.iter().map(|router| (router.id.as_str(), u32::from(!router.draining))).filter(|(_, weight)| *weight > 0).collect();
        self.ring.store(Arc::new(Ring::new(&weights)));
    }

    /// Whether the ring gives the room to this router. An empty ring (the registry is away since the start) gives it everything: the
    /// lease decides.
    pub(crate) fn is_mine(&self, room: RoomId) -> bool {
        self.ring.load().owner(room.0.cast_unsigned()).is_none_or(|owner| owner == self.node)
    }

    /// Whose a room is by the ring; `None` where the ring is empty.
    pub(crate) fn owner(&self, room: RoomId) -> Option<String> {
        self.ring.load().owner(room.0.cast_unsigned()).map(str::to_owned)
    }

    /// Claims a live room.
    ///
    /// # Errors
    /// 5001 when another router has it, 4004 when it is no longer live.
    pub(crate) async fn claim(&self, room: RoomId, now_ms: u64) -> Result<Claim, Refusal> {
        if !self.is_mine(room) {
            return Err(Refusal::unavailable());
        }
        let name = format!("room:{room}:owner");
        let life = self.next_life.fetch_add(1, Ordering::Relaxed);
        let holder = format!("{}%{}%{life}", self.node, self.incarnation);
        let until_ms = now_ms + self.lease_ms;
        let lease = self.leases.acquire(&name, &holder, now_ms, until_ms).await?;
        if lease.holder != holder {
            tracing::debug!(%room, holder = lease.holder, "the room has another owner");
            return Err(Refusal::unavailable());
        }
        let mut claim = Claim { name, holder, lease_epoch: lease.epoch, epoch: 0, until_ms: lease.until_ms.min(until_ms) };
        let epoch: Result<Option<u64>, RecordError> = self.records.raise_epoch(room).await;
        match epoch {
            Ok(Some(epoch)) if epoch <= EPOCH_MAX => {
                claim.epoch = epoch;
                Ok(claim)
            }
            Ok(Some(epoch)) => {
                tracing::error!(%room, epoch, "the room has had more owners than its sequence numbers can tell apart");
                self.release(&claim).await;
                Err(Refusal::new(Reason::Internal))
            }
            Ok(None) => {
                self.release(&claim).await;
                Err(Refusal::new(Reason::RoomNotFound))
            }
            Err(error) => {
                self.release(&claim).await;
                Err(error.into())
            }
        }
    }

    /// Renews a claim, unless the room has moved.
    pub(crate) async fn renew(&self, claim: &mut Claim, room: RoomId, now_ms: u64) -> Renewal {
        if now_ms >= claim.until_ms || !self.is_mine(room) {
            return Renewal::Lost;
        }
        let until_ms = now_ms + self.lease_ms;
        let answer: Result<_, StateError> = self.leases.acquire(&claim.name, &claim.holder, now_ms, until_ms).await;
        match answer {
            Ok(lease) if lease.holder == claim.holder && lease.epoch == claim.lease_epoch => {
                claim.until_ms = lease.until_ms.min(until_ms);
                Renewal::Kept
            }
            Ok(_) => Renewal::Lost,
            Err(error) => {
                tracing::warn!(%room, error = &error as &dyn std::error::Error, "the lease of a room could not be renewed");
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

    /// Between two renewals.
    pub(crate) fn renew_every_ms(&self) -> u64 {
        self.lease_ms / 3
    }
}

#[cfg(test)]
mod tests {
    use super::{Ownership, Renewal};
    use crate::{
        services::ports::{NewRoom, RoomKind, RoomRecords},
        testing::TestRecords,
    };
    use billfish_state::{AppId, NodeInfo, NodeKind, RoomId, State, UserId};
    use billfish_wire::Reason;
    use std::{sync::Arc, time::Duration};

    const ROOM: RoomId = RoomId(1);
    const LEASE: Duration = Duration::from_secs(10);

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
        assert_eq!(second.claim(ROOM, 1).await.unwrap_err().reason, Reason::Unavailable);
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
            assert_eq!(ownership.claim(ROOM, 0).await.unwrap_err().reason, Reason::RoomNotFound);
        }
    }

    #[tokio::test]
    async fn the_ring_divides_rooms_among_routers_and_a_moved_room_is_given_up() {
        let (state, records) = (State::in_memory(), records().await);
        let ownership = Ownership::new("r1", 1, state.leases.clone(), records.clone(), LEASE);
        assert!((1..1_000).all(|room| ownership.is_mine(RoomId(room))));
        let mut claim = ownership.claim(ROOM, 0).await.unwrap();
        let node = |id: &str, draining| NodeInfo {
            kind: NodeKind::Router,
            id: id.to_owned(),
            incarnation: 1,
            addresses: Vec::new(),
            capacity: 1,
            load: 0,
            draining,
            version: String::new(),
        };
        ownership.set_routers(&[node("r1", false), node("r2", false)]);
        let mine = (1..1_000).filter(|&room| ownership.is_mine(RoomId(room))).count();
        assert!((300..700).contains(&mine), "{mine}");
        ownership.set_routers(&[node("r1", true), node("r2", false)]);
        assert!(!(1..1_000).any(|room| ownership.is_mine(RoomId(room))));
        assert_eq!(ownership.renew(&mut claim, ROOM, 1).await, Renewal::Lost);
    }
}
