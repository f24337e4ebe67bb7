//! [`Registry`]: a hash for each node, and beside it, for each kind, a sorted set of their ids by the end of their leases.

use super::command::{Command, Script};
use super::connection::Connection;
use super::life;
use crate::port::{Registry, Result};
use crate::types::{NodeInfo, NodeKind, StateError};
use async_trait::async_trait;
use std::collections::BTreeMap;

static REGISTER: Script = Script::new(include_str!("lua/node_register.lua"));
static DEREGISTER: Script = Script::new(include_str!("lua/node_deregister.lua"));
static READ: Script = Script::new(include_str!("lua/node_read.lua"));

/// Nodes of a kind; all are read at once.
const NODES_MAX: usize = 1024;
/// What the script says when there are that many already.
const FULL: i64 = -1;
/// And when it has written this life down.
const STANDS: i64 = 1;
/// Between the pairs of a list; `=` stands between a name and its value.
const BETWEEN: char = ' ';

pub(super) struct RedisRegistry(Connection);

impl RedisRegistry {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }
}

#[async_trait]
impl Registry for RedisRegistry {
    async fn register(&self, node: &NodeInfo, now_ms: u64, until_ms: u64) -> Result<bool> {
        let keys = self.0.keys();
        let command = Command::script(&REGISTER, &[&keys.nodes(node.kind), &keys.node(node.kind, &node.id)])
            .arg(&node.id)
            .arg(now_ms)
            .arg(until_ms)
            .arg(life(now_ms, until_ms))
            .arg(NODES_MAX)
            .arg(node.incarnation)
            .arg(&["addresses", written(node.addresses.iter().map(|(transport, address)| (transport, address))).as_str()])
            .arg("capacity")
            .arg(node.capacity)
            .arg("load")
            .arg(node.load)
            .arg("draining")
            .arg(u8::from(node.draining))
            .arg("version")
            .arg(&node.version)
            .arg("labels")
            .arg(written(node.labels.iter()));
        match self.0.run("registering a node", command).await? {
            FULL => Err(StateError::Full { what: "nodes", limit: NODES_MAX }),
            stands => Ok(stands == STANDS),
        }
    }

    async fn deregister(&self, kind: NodeKind, id: &str, incarnation: u64) -> Result<()> {
        let keys = self.0.keys();
        let command = Command::script(&DEREGISTER, &[&keys.nodes(kind), &keys.node(kind, id)]).arg(id).arg(incarnation);
        self.0.run("deregistering a node", command).await
    }

    async fn nodes(&self, kind: NodeKind, now_ms: u64) -> Result<Vec<NodeInfo>> {
        let keys = self.0.keys();
        let live =
            Command::new("ZRANGEBYSCORE", &keys.nodes(kind)).arg(format!("({now_ms}")).arg("+inf").arg("LIMIT").arg(0).arg(NODES_MAX);
        let ids: Vec<String> = self.0.run("listing nodes", live).await?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        // A step of its own, for a script is to name all its keys. Who has gone meanwhile says nothing.
        let names: Vec<String> = ids.iter().map(|id| keys.node(kind, id)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let said: Vec<BTreeMap<String, String>> = self.0.run("reading nodes", Command::script(&READ, &names)).await?;
        let mut nodes: Vec<_> = ids.into_iter().zip(said).filter_map(|(id, fields)| read(kind, id, &fields)).collect();
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(nodes)
    }
}

/// A node that says odd things of itself is none.
fn read(kind: NodeKind, id: String, fields: &BTreeMap<String, String>) -> Option<NodeInfo> {
    let number = |name: &str| fields.get(name)?.parse::<u64>().ok();
    Some(NodeInfo {
        kind,
        id,
        incarnation: number("incarnation")?,
        addresses: pairs(fields.get("addresses")?).collect(),
        capacity: number("capacity")?,
        load: number("load")?,
        draining: number("draining")? != 0,
        version: fields.get("version")?.clone(),
        // Earlier releases have none.
        labels: fields.get("labels").map(|labels| pairs(labels).collect()).unwrap_or_default(),
    })
}

fn written<'a>(pairs: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let pairs: Vec<_> = pairs.map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(&BETWEEN.to_string())
}

fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    text.split(BETWEEN).filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    })
}
