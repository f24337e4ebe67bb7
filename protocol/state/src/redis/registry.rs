//! [`Registry`]: a hash for each kind, id → what the node says of itself, a line each.
//!
//! - Everyone renews and everyone lists, every other second: a list is one command, a renewal a field read and written.
//! - Whose lease has run out is passed over in a list, and taken out when a node comes, or renews the life of the key.

use super::command::{Command, Script};
use super::connection::Connection;
use super::life;
use crate::port::{Registry, Result};
use crate::types::{NodeInfo, NodeKind, StateError};
use async_trait::async_trait;

static REGISTER: Script = Script::new(include_str!("lua/node_register.lua"));
static DEREGISTER: Script = Script::new(include_str!("lua/node_deregister.lua"));

/// Nodes of a kind; all are read at once.
const NODES_MAX: usize = 1024;
/// What the script says when there are that many already.
const FULL: i64 = -1;
/// And when it has written this life down.
const STANDS: i64 = 1;
/// The key lives so much longer than it has to, so that a node renews its life but once an hour.
const KEPT_MORE_MS: u64 = 3_600_000;
/// Lines of what a node says, the first three of which the script reads.
const LINES: usize = 9;
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
        let command = Command::script(&REGISTER, &[&self.0.keys().nodes(node.kind)])
            .arg(&node.id)
            .arg(now_ms)
            .arg(until_ms)
            .arg(life(now_ms, until_ms) + KEPT_MORE_MS)
            .arg(KEPT_MORE_MS)
            .arg(NODES_MAX)
            .arg(node.incarnation)
            .arg(said(node));
        match self.0.run("registering a node", command).await? {
            FULL => Err(StateError::Full { what: "nodes", limit: NODES_MAX }),
            stands => Ok(stands == STANDS),
        }
    }

    async fn deregister(&self, kind: NodeKind, id: &str, incarnation: u64) -> Result<()> {
        let command = Command::script(&DEREGISTER, &[&self.0.keys().nodes(kind)]).arg(id).arg(incarnation);
        self.0.run("deregistering a node", command).await
    }

    async fn nodes(&self, kind: NodeKind, now_ms: u64) -> Result<Vec<NodeInfo>> {
        let command = Command::new("HGETALL", &self.0.keys().nodes(kind));
        let said: Vec<(String, String)> = self.0.run("listing nodes", command).await?;
        let mut nodes: Vec<_> = said.into_iter().filter_map(|(id, said)| read(kind, id, &said, now_ms)).collect();
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(nodes)
    }
}

/// What stands behind the lines that the script writes.
fn said(node: &NodeInfo) -> String {
    let addresses = written(node.addresses.iter().map(|(transport, address)| (transport, address)));
    let (draining, labels) = (u8::from(node.draining), written(node.labels.iter()));
    format!("{}\n{}\n{draining}\n{}\n{addresses}\n{labels}", node.capacity, node.load, node.version)
}

/// A node that says odd things of itself is none, nor is one whose lease has run out.
fn read(kind: NodeKind, id: String, said: &str, now_ms: u64) -> Option<NodeInfo> {
    let lines: Vec<&str> = said.split('\n').collect();
    let [incarnation, until, _kept, capacity, load, draining, version, addresses, labels] = <[&str; LINES]>::try_from(lines).ok()?;
    if until.parse::<u64>().ok()? <= now_ms {
        return None;
    }
    Some(NodeInfo {
        kind,
        id,
        incarnation: incarnation.parse().ok()?,
        addresses: pairs(addresses).collect(),
        capacity: capacity.parse().ok()?,
        load: load.parse().ok()?,
        draining: draining != "0",
        version: version.to_owned(),
        labels: pairs(labels).collect(),
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
