//! [`billfish_state::Registry`].

use super::*;
use billfish_state::{NodeInfo, NodeKind};
use std::collections::BTreeMap;

fn node(kind: NodeKind, id: &str, incarnation: u64) -> NodeInfo {
    NodeInfo {
        kind,
        id: id.to_owned(),
        incarnation,
        addresses: vec![("tcp".to_owned(), "10.0.0.1:8085".to_owned()), ("link".to_owned(), "[::1]:9000".to_owned())],
        capacity: 20_000,
        load: incarnation,
        draining: incarnation.is_multiple_of(2),
        version: format!("1.{incarnation}.0-test+a b"),
        labels: [("heartbeat_ms".to_owned(), incarnation.to_string()), ("empty".to_owned(), String::new())].into(),
    }
}

pub(crate) async fn a_node_is_listed_until_its_lease_ends<S: Store>() {
    let registry = S::fresh().await.registry;
    let gateway = node(NodeKind::Gateway, "g1", 1);
    registry.register(&gateway, at(0), at(MINUTE)).await.unwrap();
    assert_eq!(registry.nodes(NodeKind::Gateway, at(MINUTE - 1)).await.unwrap(), [gateway.clone()]);
    assert_eq!(registry.nodes(NodeKind::Gateway, at(MINUTE)).await.unwrap(), []);
    registry.register(&gateway, at(MINUTE), at(HOUR)).await.unwrap();
    registry.deregister(NodeKind::Gateway, "g1", 1).await.unwrap();
    registry.deregister(NodeKind::Gateway, "g1", 1).await.expect("again is no error");
    assert_eq!(registry.nodes(NodeKind::Gateway, at(MINUTE)).await.unwrap(), []);
}

pub(crate) async fn registering_again_renews_and_updates<S: Store>() {
    let registry = S::fresh().await.registry;
    let mut router = node(NodeKind::Router, "r1", 1);
    registry.register(&router, at(0), at(MINUTE)).await.unwrap();
    router.load = 99;
    router.draining = true;
    router.addresses.clear();
    router.version = String::new();
    router.labels.clear();
    registry.register(&router, at(SECOND), at(HOUR)).await.unwrap();
    assert_eq!(registry.nodes(NodeKind::Router, at(MINUTE)).await.unwrap(), [router]);
}

pub(crate) async fn nodes_come_by_kind_and_in_order_of_their_ids<S: Store>() {
    let registry = S::fresh().await.registry;
    for id in ["b", "c", "a"] {
        registry.register(&node(NodeKind::Gateway, id, 1), at(0), at(MINUTE)).await.unwrap();
    }
    registry.register(&node(NodeKind::Router, "a", 1), at(0), at(MINUTE)).await.unwrap();
    let ids: Vec<String> = registry.nodes(NodeKind::Gateway, at(1)).await.unwrap().into_iter().map(|node| node.id).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    assert_eq!(registry.nodes(NodeKind::Router, at(1)).await.unwrap(), [node(NodeKind::Router, "a", 1)]);
}

pub(crate) async fn an_earlier_life_neither_replaces_nor_removes_a_later_one<S: Store>() {
    let registry = S::fresh().await.registry;
    let (old, new) = (node(NodeKind::Gateway, "g1", 1), node(NodeKind::Gateway, "g1", 2));
    assert!(registry.register(&old, at(0), at(MINUTE)).await.unwrap());
    assert!(registry.register(&new, at(0), at(MINUTE)).await.unwrap());
    assert!(!registry.register(&old, at(0), at(HOUR)).await.unwrap(), "it is told so");
    registry.deregister(NodeKind::Gateway, "g1", 1).await.unwrap();
    assert_eq!(registry.nodes(NodeKind::Gateway, at(1)).await.unwrap(), [new]);
    assert_eq!(registry.nodes(NodeKind::Gateway, at(MINUTE)).await.unwrap(), []);
    assert!(registry.register(&old, at(MINUTE), at(HOUR)).await.unwrap());
    assert_eq!(registry.nodes(NodeKind::Gateway, at(MINUTE)).await.unwrap(), [old], "a later life that has run out stands in nobody's way");
}

#[derive(Clone, Debug)]
enum Step {
    Register(bool, u8, u64, u64),
    Deregister(bool, u8, u64),
    Pass(u64),
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let step = prop_oneof![
        3 => (any::<bool>(), 0u8..3, 1u64..4, 0..20 * SECOND).prop_map(|(kind, id, life, lease)| Step::Register(kind, id, life, lease)),
        1 => (any::<bool>(), 0u8..3, 1u64..4).prop_map(|(kind, id, life)| Step::Deregister(kind, id, life)),
        2 => (0..8 * SECOND).prop_map(Step::Pass),
    ];
    let kind_of = |gateway| if gateway { NodeKind::Gateway } else { NodeKind::Router };
    histories::<S, _>(step, async |state, steps| {
        let mut now = at(0);
        let mut model: BTreeMap<(bool, String), (NodeInfo, u64)> = BTreeMap::new();
        for step in steps {
            model.retain(|_, (_, until)| now < *until);
            match step {
                Step::Register(gateway, id, life, lease) => {
                    let node = node(kind_of(gateway), &id.to_string(), life);
                    let stands = state.registry.register(&node, now, now + lease).await.unwrap();
                    let known = model.get(&(gateway, id.to_string()));
                    let expected = known.is_none_or(|(known, _)| known.incarnation <= life);
                    prop_assert_eq!(stands, expected);
                    if expected {
                        model.insert((gateway, id.to_string()), (node, now + lease));
                    }
                }
                Step::Deregister(gateway, id, life) => {
                    state.registry.deregister(kind_of(gateway), &id.to_string(), life).await.unwrap();
                    model.retain(|key, (node, _)| *key != (gateway, id.to_string()) || node.incarnation != life);
                }
                Step::Pass(ms) => now += ms,
            }
            for gateway in [false, true] {
                let expected: Vec<_> = model
                    .iter()
                    .filter(|((kind, _), (_, until))| *kind == gateway && now < *until)
                    .map(|(_, (node, _))| node.clone())
                    .collect();
                prop_assert_eq!(state.registry.nodes(kind_of(gateway), now).await.unwrap(), expected);
            }
        }
        Ok(())
    });
}
