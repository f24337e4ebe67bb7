//! How the ports reach Redis.

use super::command::Command;
use super::keys::Keys;
use crate::port::Result;
use crate::types::StateError;
use redis::FromRedisValue;
use std::sync::Arc;

/// Clones share everything.
#[derive(Clone, Debug)]
pub(super) struct Connection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    keys: Keys,
}

impl Connection {
    pub(super) fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// Runs one command. `what` says what for, in an error.
    pub(super) async fn run<T: FromRedisValue>(&self, what: &'static str, command: Command) -> Result<T> {
        let mut answers = self.run_many(what, vec![command]).await?;
        Ok(answers.pop().expect("one answer for one command"))
    }

    /// Runs commands of any keys, those of one server in one round trip and all servers at once. Commands of one key keep their
    /// order. Answers in the order asked; if one fails, the call has failed, and the others may have been carried out.
    pub(super) async fn run_many<T: FromRedisValue>(&self, what: &'static str, commands: Vec<Command>) -> Result<Vec<T>> {
        let _ = commands;
        Err(StateError::Away { what, cause: "not connected".into() })
    }
}
