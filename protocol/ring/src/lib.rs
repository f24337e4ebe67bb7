//! Consistent-hash placement with bounded load: which node owns a room, which gateway a user is sent to.
//!
//! - Everyone who knows the same nodes gets the same answer: the hash is fixed and written here, and the order in which the
//!   nodes are given does not matter. `testdata/ring.tsv`, made by a second implementation, holds it to that.
//! - A node that comes or goes moves its own share of the keys and no other.
//! - Nothing here knows who is alive: build a new [`Ring`] from the registry when that changes.
//!
//! Never use the standard hasher for placement: it differs in every process.
//!
//! ```text
//! point   mix(fnv1a(id, 0xff, number as 4 bytes, little end first))     512 of them for each unit of weight
//! key     mix(key)                                                      owned by the first point at or after it, round the end
//! mix     splitmix64: add 0x9e3779b97f4a7c15, then shift, multiply, shift, multiply, shift
//! ```
#![forbid(unsafe_code)]

/// Points of a node per unit of weight. A node's share then strays by about 4 % (one standard deviation), and 16 nodes take
/// 128 KiB and 13 steps to search.
pub const POINTS_PER_WEIGHT: u32 = 512;
/// Weights above count as this: 16 times the smallest machine is enough, and 8,192 points.
pub const WEIGHT_MAX: u32 = 16;

/// A placement of keys on nodes. Build it once for a set of nodes, share it, replace it whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// By id.
    nodes: Vec<Node>,
    /// By hash, then node.
    points: Vec<Point>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    id: String,
    weight: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    hash: u64,
    node: u32,
}

impl Ring {
    /// The ring of these nodes and weights. A node of weight 0 owns nothing (draining); of an id given twice the larger weight counts.
    #[must_use]
    pub fn new<Id: AsRef<str>>(nodes: &[(Id, u32)]) -> Self {
        let mut nodes: Vec<Node> = nodes
            .iter()
            .filter(|(_, weight)| *weight > 0)
            .map(|(id, weight)| Node { id: id.as_ref().to_owned(), weight: (*weight).min(WEIGHT_MAX) })
            .collect();
        nodes.sort_by(|a, b| a.id.cmp(&b.id).then(b.weight.cmp(&a.weight)));
        nodes.dedup_by(|later, kept| later.id == kept.id);

        let mut points = Vec::with_capacity(nodes.iter().map(|node| (node.weight * POINTS_PER_WEIGHT) as usize).sum());
        for (index, node) in (0u32..).zip(&nodes) {
            points.extend((0..node.weight * POINTS_PER_WEIGHT).map(|number| Point { hash: point_hash(&node.id, number), node: index }));
        }
        points.sort_unstable();
        Self { nodes, points }
    }

    /// Whether nobody owns anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The nodes that own something, by id.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.nodes.iter().map(|node| node.id.as_str())
    }

    /// The owner of a key; `None` only when the ring is empty.
    #[must_use]
    pub fn owner(&self, key: u64) -> Option<&str> {
        let point = self.points.get(self.place_of(key))?;
        Some(&self.nodes[point.node as usize].id)
    }

    /// The owner, then who would be next without it, and so on: every node once.
    pub fn owners(&self, key: u64) -> impl Iterator<Item = &str> {
        self.successors(key).map(|index| self.nodes[index].id.as_str())
    }

    /// The first of [`Ring::owners`] that one more load would not take above its bound, `factor_permille` thousandths of its share
    /// of the whole load (1250: a quarter above the average). Factors below 1000 count as 1000, so there always is one.
    ///
    /// `load` is asked once for each node. After Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads".
    #[must_use]
    pub fn owner_bounded(&self, key: u64, load: impl Fn(&str) -> u64, factor_permille: u32) -> Option<&str> {
        let loads: Vec<u64> = self.nodes.iter().map(|node| load(&node.id)).collect();
        let total = loads.iter().map(|load| u128::from(*load)).sum::<u128>() + 1;
        let weights = self.nodes.iter().map(|node| u128::from(node.weight)).sum::<u128>();
        let factor = u128::from(factor_permille.max(1000));
        let fits = |node: &&Node, load: u64| {
            let bound = (factor * total * u128::from(node.weight)).div_ceil(1000 * weights);
            u128::from(load) < bound
        };
        let mut candidates = self.successors(key).map(|index| (&self.nodes[index], loads[index]));
        candidates.find(|(node, load)| fits(node, *load)).map(|(node, _)| node.id.as_str())
    }

    fn successors(&self, key: u64) -> impl Iterator<Item = usize> {
        let (before, from) = self.points.split_at(self.place_of(key));
        let mut seen = vec![false; self.nodes.len()];
        let mut left = self.nodes.len();
        from.iter()
            .chain(before)
            .map(|point| point.node as usize)
            .filter(move |&index| !std::mem::replace(&mut seen[index], true))
            .take_while(move |_| left.checked_sub(1).map(|rest| left = rest).is_some())
    }

    /// Index of the first point at or after the key's hash, round the end.
    fn place_of(&self, key: u64) -> usize {
        let hash = mix(key);
        let place = self.points.partition_point(|point| point.hash < hash);
        if place == self.points.len() { 0 } else { place }
    }
}

/// A key for what is not a number.
#[must_use]
pub fn key(bytes: &[u8]) -> u64 {
    fnv1a(FNV_OFFSET, bytes)
}

fn point_hash(id: &str, number: u32) -> u64 {
    // 0xff is in no UTF-8 text: no id is the beginning of another with a number behind it.
    mix(fnv1a(fnv1a(fnv1a(FNV_OFFSET, id.as_bytes()), &[0xff]), &number.to_le_bytes()))
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

fn fnv1a(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// The finalizer of splitmix64. FNV alone leaves the upper bits of short inputs alike, and the upper bits are the place on the ring.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const KEYS: u64 = 10_000;

    #[test]
    fn the_table_of_the_second_implementation_holds() {
        let mut lines = 0;
        for line in include_str!("../testdata/ring.tsv").lines().filter(|line| !line.starts_with('#')) {
            let [nodes, key, owners] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("three columns: {line}") };
            let nodes: Vec<(&str, u32)> = nodes
                .split(',')
                .map(|node| node.split_once('*').expect("id*weight"))
                .map(|(id, weight)| (id, weight.parse().expect("a weight")))
                .collect();
            let key = key.parse().expect("a key");
            assert_eq!(Ring::new(&nodes).owners(key).collect::<Vec<_>>().join(","), owners, "{line}");
            lines += 1;
        }
        assert!(lines >= 100, "only {lines} lines in the table");
    }

    #[test]
    fn an_empty_ring_has_no_owner() {
        for ring in [Ring::default(), Ring::new::<&str>(&[]), Ring::new(&[("draining", 0)])] {
            assert!(ring.is_empty());
            assert_eq!(ring.owner(7), None);
            assert_eq!(ring.owners(7).count(), 0);
            assert_eq!(ring.owner_bounded(7, |_| 0, 1250), None);
        }
    }

    #[test]
    fn an_id_given_twice_counts_once_with_its_larger_weight() {
        assert_eq!(Ring::new(&[("a", 1), ("b", 1), ("a", 3)]), Ring::new(&[("a", 3), ("b", 1)]));
    }

    #[test]
    fn the_last_point_is_followed_by_the_first() {
        let ring = Ring::new(&[("a", 1), ("b", 1), ("c", 1)]);
        let last = ring.points.last().expect("it has points").hash;
        let beyond = (0..1_000_000).find(|&key| mix(key) > last).expect("1,500 points leave some room behind the last");
        assert_eq!(ring.owner(beyond), Some(ring.nodes[ring.points[0].node as usize].id.as_str()));
    }

    #[test]
    fn weight_is_the_share() {
        let ring = Ring::new(&[("small", 1), ("large", 3)]);
        let large = (0..KEYS).filter(|&key| ring.owner(key) == Some("large")).count();
        assert!((6_900..8_100).contains(&large), "three quarters of 10,000, ± 8 %: {large}");
    }

    #[test]
    fn text_keys_have_fixed_numbers() {
        // The published FNV-1a value of "foobar".
        assert_eq!(key(b"foobar"), 0x8594_4171_f739_67e8);
    }

    fn shares(ring: &Ring) -> BTreeMap<&str, u64> {
        let mut shares = BTreeMap::new();
        for key in 0..KEYS {
            *shares.entry(ring.owner(key).expect("not empty")).or_default() += 1;
        }
        shares
    }

    fn ids(range: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<(String, u32)>> {
        proptest::collection::btree_set("[a-z0-9:.-]{1,24}", range).prop_map(|ids| ids.into_iter().map(|id| (id, 1)).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What a node owned goes to others when it goes, and comes back when it comes; nothing else moves.
        #[test]
        fn only_the_share_of_a_lost_or_new_node_moves(nodes in ids(2..=16), which: prop::sample::Index) {
            let with = Ring::new(&nodes);
            let mut rest = nodes.clone();
            let (gone, _) = rest.remove(which.index(nodes.len()));
            let without = Ring::new(&rest);
            let mut moved = 0u64;
            for key in 0..KEYS {
                let (before, after) = (with.owner(key).expect("not empty"), without.owner(key).expect("not empty"));
                if before == after {
                    continue;
                }
                prop_assert_eq!(before, gone.as_str());
                prop_assert_eq!(Some(after), with.owners(key).nth(1));
                moved += 1;
            }
            prop_assert!(moved * 10 * nodes.len() as u64 <= 13 * KEYS, "{} of {} keys moved with {} nodes", moved, KEYS, nodes.len());
        }

        #[test]
        fn no_node_owns_much_more_or_less_than_its_share(nodes in ids(1..=16)) {
            let ring = Ring::new(&nodes);
            let shares = shares(&ring);
            let count = nodes.len() as u64;
            prop_assert_eq!(shares.len(), nodes.len());
            for (node, share) in shares {
                prop_assert!(share * count * 10 <= KEYS * 13 && share * count * 10 >= KEYS * 7, "{} owns {}", node, share);
            }
        }

        #[test]
        fn the_order_of_the_nodes_does_not_matter(nodes in ids(1..=16).prop_shuffle()) {
            let mut sorted = nodes.clone();
            sorted.sort();
            prop_assert_eq!(Ring::new(&nodes), Ring::new(&sorted));
        }

        #[test]
        fn the_owners_are_every_node_once_and_begin_with_the_owner(nodes in ids(1..=16), key: u64) {
            let ring = Ring::new(&nodes);
            let owners: Vec<&str> = ring.owners(key).collect();
            prop_assert_eq!(owners.first().copied(), ring.owner(key));
            prop_assert_eq!(owners.len(), nodes.len());
            prop_assert_eq!(owners.into_iter().collect::<BTreeSet<_>>(), ring.nodes().collect::<BTreeSet<_>>());
        }

        /// At every step of placing keys one by one, no node has more than ceil(c × its share of what is placed).
        #[test]
        fn bounded_load_is_never_exceeded(
            nodes in proptest::collection::btree_map("[a-z]{1,8}", 1u32..=4, 1..=12),
            keys in proptest::collection::vec(any::<u64>(), 1..400),
            factor in 900u32..2000,
        ) {
            let nodes: Vec<(String, u32)> = nodes.into_iter().collect();
            let ring = Ring::new(&nodes);
            let weights: u64 = nodes.iter().map(|(_, weight)| u64::from(*weight)).sum();
            let mut loads: BTreeMap<String, u64> = BTreeMap::new();
            for (placed, key) in (1u64..).zip(keys) {
                let load = |id: &str| loads.get(id).copied().unwrap_or(0);
                let owner = ring.owner_bounded(key, load, factor).expect("there always is one").to_owned();
                *loads.entry(owner.clone()).or_default() += 1;
                let weight = nodes.iter().find(|(id, _)| *id == owner).map_or(0, |(_, weight)| u64::from(*weight));
                let bound = (u64::from(factor.max(1000)) * placed * weight).div_ceil(1000 * weights);
                prop_assert!(loads[&owner] <= bound, "{} has {} of {}, bound {}", owner, loads[&owner], placed, bound);
            }
        }

        #[test]
        fn an_unloaded_ring_gives_the_plain_owner(nodes in ids(1..=16), key: u64) {
            let ring = Ring::new(&nodes);
            prop_assert_eq!(ring.owner_bounded(key, |_| 0, 1250), ring.owner(key));
        }
    }
}
