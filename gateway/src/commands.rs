//! From control to the shards: commands gathered by shard, handed over in one go.
//!
//! - Order is kept per shard.
//! - When a shard's mailbox is full, whoever hands over waits: a link task that waits gives its router no credit.

use crate::shard::{
    mailbox::Mailbox,
    message::{ConnKey, ShardCommand},
};
use std::sync::Arc;

/// Commands on their way, by shard.
#[derive(Debug)]
pub(crate) struct Commands {
    by_shard: Vec<Vec<ShardCommand>>,
}

impl Commands {
    /// One for the shard of a connection.
    pub(crate) fn send(&mut self, key: ConnKey, command: ShardCommand) {
        self.add(key.shard, command);
    }

    /// One for a shard.
    pub(crate) fn add(&mut self, shard: u16, command: ShardCommand) {
        if let Some(commands) = self.by_shard.get_mut(usize::from(shard)) {
            commands.push(command);
        }
    }

    /// What was gathered.
    #[cfg(test)]
    pub(crate) fn into_commands(self) -> impl Iterator<Item = ShardCommand> {
        self.by_shard.into_iter().flatten()
    }

    /// What was gathered, for whoever is the shards: shard by shard, in order.
    #[cfg(feature = "simulation")]
    pub(crate) fn into_parts(self) -> Vec<(u16, ShardCommand)> {
        (0..).zip(self.by_shard).flat_map(|(shard, commands)| commands.into_iter().map(move |command| (shard, command))).collect()
    }
}

/// The mailboxes of all shards.
#[derive(Clone, Debug)]
pub(crate) struct Shards {
    mailboxes: Arc<[Arc<Mailbox<ShardCommand>>]>,
}

impl Shards {
    pub(crate) fn new(mailboxes: Vec<Arc<Mailbox<ShardCommand>>>) -> Self {
        Self { mailboxes: mailboxes.into() }
    }

    /// An empty gathering for these shards.
    pub(crate) fn gather(&self) -> Commands {
        Commands { by_shard: self.mailboxes.iter().map(|_| Vec::new()).collect() }
    }

    /// Numbers of the shards.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u16> + use<> {
        let count = self.mailboxes.len();
        (0..).take(count)
    }

    /// Hands everything over and leaves `commands` empty, waiting where a shard is behind; the others have theirs by then.
    pub(crate) async fn give(&self, commands: &mut Commands) {
        for (mailbox, commands) in self.mailboxes.iter().zip(&mut commands.by_shard) {
            mailbox.push_batch(commands);
        }
        for (mailbox, commands) in self.mailboxes.iter().zip(&mut commands.by_shard) {
            if !commands.is_empty() {
                mailbox.send(commands).await;
            }
        }
    }

    /// Tries to hand one over without waiting; `false`: the shard is behind.
    pub(crate) fn try_give(&self, shard: u16, command: ShardCommand) -> bool {
        self.mailboxes.get(usize::from(shard)).is_some_and(|mailbox| mailbox.push(command).is_ok())
    }
}
