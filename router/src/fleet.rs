//! The gateways that are up, as tokens name them: read from the registry every few seconds, never per token.
//!
//! - A user is sent to the gateway that the ring gives him, within its bound: a quarter above the average load. Loads are compared in
//!   steps of [`LOAD_STEP`], so that a handful of users more or less sends nobody elsewhere.
//! - A gateway's share is by what it can hold, as it says itself; one that holds more than four times the smallest counts as four times.
//! - Between two readings the users sent to a gateway count as its load, so that a stampede spreads before the gateways have told of it.
//! - Gateways that drain are left out. While the registry is away, those last seen stay.

use crate::clock::millis;
use arc_swap::ArcSwap;
use billfish_ring::{Ring, WEIGHT_MAX};
use billfish_state::{NodeInfo, UserId, labels};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Gateways named with a token: the user's own and two to fall back to.
const GATEWAYS_PER_TOKEN: usize = 3;
/// A gateway takes a quarter more than its share before users go to the next one on the ring.
const GATEWAY_BOUND_PERMILLE: u32 = 1_250;
/// Users that make a difference: less than a hundredth of what a gateway carries.
const LOAD_STEP: u64 = 64;
/// No gateway goes by a longer gap: what says so is no entry of ours.
const GAP_MAX_MS: u64 = 3_600_000;
/// Weight of the smallest gateway: others count in steps of a quarter of what it can hold.
const SMALLEST_WEIGHT: u32 = 4;
/// Nor waits longer for a client that is silent.
const SILENCE_MAX_MS: u64 = 2 * GAP_MAX_MS;
/// Silent gaps of a gateway of an earlier release, which does not say how long it waits.
const SILENT_GAPS: u64 = 2;
/// Transports that a client may be sent to.
const TRANSPORTS: [&str; 4] = ["tcp", "ws", "tls", "quic"];

/// The gateways that take users.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    gateways: ArcSwap<Gateways>,
    /// The longest silence after which any of them takes a client for gone; 0: none says.
    silence_ms: AtomicU64,
    /// The gap that was found to differ, and told.
    told_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct Gateways {
    ring: Arc<Ring>,
    /// What the ring was made of.
    weights: BTreeMap<String, u32>,
    by_id: BTreeMap<String, Listed>,
}

#[derive(Debug)]
struct Listed {
    /// As it last said.
    load: u64,
    /// Users sent there since.
    sent: AtomicU64,
    addresses: Vec<(String, String)>,
}

impl Fleet {
    /// The gateways that are registered now.
    pub(crate) fn set(&self, nodes: &[NodeInfo]) {
        let listed = |node: &NodeInfo| {
            let addresses = node.addresses.iter().filter(|(transport, _)| TRANSPORTS.contains(&transport.as_str()));
            Listed { load: node.load, sent: AtomicU64::new(0), addresses: addresses.cloned().collect() }
        };
        let by_id: BTreeMap<String, Listed> =
            nodes.iter().filter(|node| !node.draining).map(|node| (node.id.clone(), listed(node))).collect();
        let weights = weights(nodes.iter().filter(|node| !node.draining));
        let before = self.gateways.load();
        let ring = if before.weights == weights {
            Arc::clone(&before.ring)
        } else {
            let weights: Vec<(&str, u32)> = weights.iter().map(|(id, weight)| (id.as_str(), *weight)).collect();
            Arc::new(Ring::new(&weights))
        };
        self.gateways.store(Arc::new(Gateways { ring, weights, by_id }));
    }

    /// The longest silence after which a registered gateway takes a client for gone; 0: none says.
    pub(crate) fn silence_ms(&self) -> u64 {
        self.silence_ms.load(Relaxed)
    }

    /// Takes the gaps and the silences that gateways go by. Where they differ the longest counts, so that nobody is taken for gone by a
    /// shorter one; of each gap that is not `ours` the operator is told once.
    pub(crate) fn compare_heartbeats(&self, nodes: &[NodeInfo], ours: Duration) {
        let told = |node: &NodeInfo, label, most| node.labels.get(label)?.parse::<u64>().ok().filter(|ms| *ms <= most);
        let gap_of = |node: &NodeInfo| told(node, labels::HEARTBEAT_MS, GAP_MAX_MS);
        let silence_of = |node: &NodeInfo| told(node, labels::SILENCE_MS, SILENCE_MAX_MS).or_else(|| Some(gap_of(node)? * SILENT_GAPS));
        let gaps = || nodes.iter().filter_map(|node| Some((gap_of(node)?, &node.id)));
        self.silence_ms.store(nodes.iter().filter_map(silence_of).max().unwrap_or(0), Relaxed);
        if let Some((gap, gateway)) = gaps().find(|(gap, _)| *gap != millis(ours))
            && self.told_ms.swap(gap, Relaxed) != gap
        {
            tracing::warn!(
                gateway,
                gateway_heartbeat_gap_ms = gap,
                router_heartbeat = ?ours,
                "gateway.session.heartbeat_gap and router.heartbeat differ; the longest counts for who is silent"
            );
        }
    }

    /// Whether users are sent to a gateway.
    #[cfg(test)]
    pub(crate) fn is_listed(&self, node: &str) -> bool {
        self.gateways.load().by_id.contains_key(node)
    }

    /// Whether no gateway is known that takes users.
    pub(crate) fn is_empty(&self) -> bool {
        self.gateways.load().ring.is_empty()
    }

    /// Where a user is sent, by transport: to his own gateway within its bound, then the next two. `None`: there is none.
    pub(crate) fn addresses(&self, user: UserId) -> Option<BTreeMap<String, Vec<String>>> {
        let gateways = self.gateways.load();
        let key = user.0.cast_unsigned();
        let load = |id: &str| gateways.by_id.get(id).map_or(0, |listed| listed.load.saturating_add(listed.sent.load(Relaxed)) / LOAD_STEP);
        let first = gateways.ring.owner_bounded(key, load, GATEWAY_BOUND_PERMILLE)?;
        if let Some(listed) = gateways.by_id.get(first) {
            listed.sent.fetch_add(1, Relaxed);
        }
        let others = gateways.ring.owners(key).filter(|id| *id != first);
        let mut addresses: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for listed in std::iter::once(first).chain(others).take(GATEWAYS_PER_TOKEN).filter_map(|id| gateways.by_id.get(id)) {
            for (transport, address) in &listed.addresses {
                addresses.entry(transport.clone()).or_default().push(address.clone());
            }
        }
        Some(addresses)
    }
}

/// By what each can hold. One that does not say counts as the smallest.
fn weights<'a>(nodes: impl Iterator<Item = &'a NodeInfo> + Clone) -> BTreeMap<String, u32> {
    let smallest = nodes.clone().map(|node| node.capacity).filter(|capacity| *capacity > 0).min().unwrap_or(1);
    let weight = |capacity: u64| {
        // Rounded, in 128 bits: what a node says of itself may be anything.
        let steps = (u128::from(capacity) * u128::from(SMALLEST_WEIGHT) + u128::from(smallest / 2)) / u128::from(smallest);
        u32::try_from(steps).unwrap_or(WEIGHT_MAX).clamp(SMALLEST_WEIGHT, WEIGHT_MAX)
    };
    nodes.map(|node| (node.id.clone(), weight(node.capacity))).collect()
}

#[cfg(test)]
mod tests {
    use super::Fleet;
    use billfish_state::{NodeInfo, NodeKind, UserId, labels};
    use std::{collections::BTreeMap, time::Duration};

    const USERS: i64 = 10_000;

    fn gateway(id: &str, load: u64, draining: bool) -> NodeInfo {
        NodeInfo {
            kind: NodeKind::Gateway,
            id: id.to_owned(),
            incarnation: 1,
            addresses: vec![("tcp".to_owned(), format!("{id}:9000")), ("link".to_owned(), "inner:1".to_owned())],
            capacity: 20_000,
            load,
            draining,
            version: String::new(),
            labels: Default::default(),
        }
    }

    fn fleet(count: usize) -> (Fleet, Vec<NodeInfo>) {
        let nodes: Vec<NodeInfo> = (0..count).map(|index| gateway(&format!("g{index}"), 0, false)).collect();
        let fleet = Fleet::default();
        fleet.set(&nodes);
        (fleet, nodes)
    }

    fn first(fleet: &Fleet, user: i64) -> String {
        fleet.addresses(UserId(user)).unwrap()["tcp"][0].clone()
    }

    #[test]
    fn users_spread_within_the_bound_also_between_two_readings_of_the_registry() {
        let (fleet, _) = fleet(5);
        let mut users_of: BTreeMap<String, i64> = BTreeMap::new();
        for user in 20_000..20_000 + USERS {
            *users_of.entry(first(&fleet, user)).or_default() += 1;
        }
        assert_eq!(users_of.len(), 5);
        let most = USERS / 5 * 5 / 4 + 2 * super::LOAD_STEP.cast_signed();
        assert!(users_of.values().all(|users| *users <= most), "{users_of:?}");
    }

    #[test]
    fn a_gateway_that_holds_twice_as_much_gets_twice_as_many_users() {
        let (fleet, mut nodes) = fleet(3);
        nodes[0].capacity = 40_000;
        // As one of an earlier release, which does not say.
        nodes[2].capacity = 0;
        fleet.set(&nodes);
        let of_first = (20_000..20_000 + USERS).filter(|user| first(&fleet, *user) == "g0:9000").count();
        assert!((4_500..=5_500).contains(&of_first), "{of_first} of {USERS}, half were right");
        nodes[0].capacity = u64::MAX;
        fleet.set(&nodes);
        let of_first = (20_000..20_000 + USERS).filter(|user| first(&fleet, *user) == "g0:9000").count();
        assert!((6_000..=7_400).contains(&of_first), "{of_first} of {USERS}, four of six parts were right");
    }

    #[test]
    fn a_user_who_asks_again_and_again_is_sent_to_the_same_gateway() {
        let (fleet, _) = fleet(3);
        let gateway = first(&fleet, 20_001);
        assert!((0..60).all(|_| first(&fleet, 20_001) == gateway));
    }

    #[test]
    fn a_gateway_above_its_share_gets_no_one_until_the_others_have_caught_up() {
        let (fleet, mut nodes) = fleet(3);
        nodes[0].load = 9_000;
        nodes[1].load = 1_000;
        nodes[2].load = 1_000;
        fleet.set(&nodes);
        assert!((20_000..21_000).all(|user| first(&fleet, user) != "g0:9000"));
    }

    #[test]
    fn a_gateway_that_comes_or_goes_moves_its_share_of_the_users_and_no_more() {
        const KEYS: i64 = 4_000;
        // Every user asked alone: what the bound shifts is another matter, and the test before this one.
        let places = |nodes: &[NodeInfo]| -> Vec<String> {
            let fleet = Fleet::default();
            (20_000..20_000 + KEYS)
                .map(|user| {
                    fleet.set(nodes);
                    first(&fleet, user)
                })
                .collect()
        };
        for count in [2, 3, 6, 10] {
            let (_, nodes) = fleet(count);
            let (with, without) = (places(&nodes), places(&nodes[1..]));
            let moved = with.iter().zip(&without).filter(|(with, without)| with != without).count();
            assert!(moved * 10 * count <= 13 * KEYS.unsigned_abs() as usize, "{moved} of {KEYS} with {count} gateways");
            assert!(with.iter().zip(&without).all(|(with, without)| with == without || with == "g0:9000"), "only its own users move");
        }
    }

    #[test]
    fn one_that_drains_is_left_out_and_nobody_is_sent_to_an_inner_address() {
        let (fleet, mut nodes) = fleet(2);
        nodes[0].draining = true;
        fleet.set(&nodes);
        for user in 20_000..20_100 {
            let addresses = fleet.addresses(UserId(user)).unwrap();
            assert_eq!(addresses, BTreeMap::from([("tcp".to_owned(), vec!["g1:9000".to_owned()])]));
        }
        nodes[1].draining = true;
        fleet.set(&nodes);
        assert!(fleet.is_empty());
        assert_eq!(fleet.addresses(UserId(20_000)), None);
    }

    #[test]
    fn of_gateways_that_differ_the_longest_silence_counts() {
        let (fleet, mut nodes) = fleet(4);
        fleet.compare_heartbeats(&nodes, Duration::from_secs(30));
        assert_eq!(fleet.silence_ms(), 0, "the earliest releases say nothing");
        for (node, gap) in nodes.iter_mut().zip(["30000", "45000", "odd", "9999999999"]) {
            node.labels.insert(labels::HEARTBEAT_MS.to_owned(), gap.to_owned());
        }
        fleet.compare_heartbeats(&nodes, Duration::from_secs(30));
        assert_eq!(fleet.silence_ms(), 90_000, "of those that say no silence it is two gaps");
        for (node, silence) in nodes.iter_mut().zip(["180000", "45000", "odd", "9999999999"]) {
            node.labels.insert(labels::SILENCE_MS.to_owned(), silence.to_owned());
        }
        fleet.compare_heartbeats(&nodes, Duration::from_secs(30));
        assert_eq!(fleet.silence_ms(), 180_000);
        fleet.compare_heartbeats(&nodes[1..], Duration::from_secs(30));
        assert_eq!(fleet.silence_ms(), 45_000);
        nodes[0].labels.remove(labels::SILENCE_MS);
        fleet.compare_heartbeats(&nodes[..1], Duration::from_secs(30));
        assert_eq!(fleet.silence_ms(), 60_000);
    }

    #[test]
    fn a_token_names_three_gateways_at_most() {
        let (fleet, _) = fleet(5);
        let addresses = fleet.addresses(UserId(20_000)).unwrap();
        assert_eq!(addresses["tcp"].len(), 3);
    }
}
