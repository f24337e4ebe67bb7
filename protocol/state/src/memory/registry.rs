//! The nodes that are up.

use super::expiring::Expiring;
use super::lock;
use crate::port::{Registry, Result};
use crate::types::{NodeInfo, NodeKind, StateError};
use async_trait::async_trait;
use std::sync::Mutex;

/// Nodes in all; `nodes` walks the table, so it is kept small.
const NODES_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct RegistryTable(Mutex<Expiring<(NodeKind, String), NodeInfo>>);

impl RegistryTable {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Expiring::new()))
    }
}

#[async_trait]
impl Registry for RegistryTable {
    async fn register(&self, node: &NodeInfo, now_ms: u64, until_ms: u64) -> Result<bool> {
        let mut table = lock(&self.0);
        table.sweep_for(now_ms, 1);
        let key = (node.kind, node.id.clone());
        if table.live(&key, now_ms).is_some_and(|known| known.incarnation > node.incarnation) {
            return Ok(false);
        }
        if table.len() >= NODES_MAX && table.stored(&key).is_none() {
            return Err(StateError::Full { what: "nodes", limit: NODES_MAX });
        }
        table.insert(key, node.clone(), until_ms);
        Ok(true)
    }

    async fn deregister(&self, kind: NodeKind, id: &str, incarnation: u64) -> Result<()> {
        let mut table = lock(&self.0);
        let key = (kind, id.to_owned());
        if table.stored(&key).is_some_and(|(node, _)| node.incarnation == incarnation) {
            table.remove(&key);
        }
        Ok(())
    }

    async fn nodes(&self, kind: NodeKind, now_ms: u64) -> Result<Vec<NodeInfo>> {
        let table = lock(&self.0);
        let mut nodes: Vec<_> = table.iter_live(now_ms).filter(|(key, _)| key.0 == kind).map(|(_, node)| node.clone()).collect();
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(nodes)
    }
}
