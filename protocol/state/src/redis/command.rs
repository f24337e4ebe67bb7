//! What the ports ask of Redis: one command or one script, and the slot it belongs to.

use super::slots::slot_of;
use redis::{Arg, Cmd, ToRedisArgs};
use std::sync::OnceLock;

/// A Lua script, called by its hash. The connection loads it wherever it is not known, so a Redis that was started anew needs no care.
#[derive(Debug)]
pub(super) struct Script {
    text: &'static str,
    hash: OnceLock<String>,
}

impl Script {
    /// For a `static`, of an `include_str!`.
    pub(super) const fn new(text: &'static str) -> Self {
        Self { text, hash: OnceLock::new() }
    }

    pub(super) fn text(&self) -> &'static str {
        self.text
    }

    fn hash(&self) -> &str {
        self.hash.get_or_init(|| redis::Script::new(self.text).get_hash().to_owned())
    }
}

/// A command on one key, or on several that share a hash tag.
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub(super) cmd: Cmd,
    pub(super) slot: u16,
    pub(super) script: Option<&'static Script>,
    /// Whether it may be sent again when the connection broke before the answer came.
    pub(super) is_repeatable: bool,
}

impl Command {
    /// `name key`; further arguments with [`Self::arg`].
    pub(super) fn new(name: &str, key: &str) -> Self {
        let mut cmd = redis::cmd(name);
        cmd.arg(key);
        Self { cmd, slot: slot_of(key.as_bytes()), script: None, is_repeatable: true }
    }

    /// Calls a script. The keys, at least one, share a hash tag.
    pub(super) fn script(script: &'static Script, keys: &[&str]) -> Self {
        let call = Self::script_on_one_server(script, keys);
        debug_assert!(keys.iter().all(|key| slot_of(key.as_bytes()) == call.slot), "keys of one script share a hash tag: {keys:?}");
        call
    }

    /// Calls a script on keys of any slots: for a single server, or for one key.
    pub(super) fn script_on_one_server(script: &'static Script, keys: &[&str]) -> Self {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(script.hash()).arg(keys.len()).arg(keys);
        Self { cmd, slot: keys.first().map_or(0, |key| slot_of(key.as_bytes())), script: Some(script), is_repeatable: true }
    }

    /// `name key key...`, of any slots: for a single server.
    pub(super) fn on_many(name: &str, keys: &[String]) -> Self {
        let mut cmd = redis::cmd(name);
        cmd.arg(keys);
        Self { cmd, slot: keys.first().map_or(0, |key| slot_of(key.as_bytes())), script: None, is_repeatable: true }
    }

    /// The keys that it is about.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let arguments = self.cmd.args_iter().map(|arg| if let Arg::Simple(arg) = arg { arg } else { &[] });
        let (skipped, keys) = match self.script {
            None => (1, 1),
            Some(_) => {
                let count = arguments.clone().nth(2).and_then(|count| std::str::from_utf8(count).ok()?.parse().ok());
                (3, count.unwrap_or_default())
            }
        };
        arguments.skip(skipped).take(keys)
    }

    /// One more argument, or several (a slice, a tuple).
    pub(super) fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.cmd.arg(arg);
        self
    }

    /// Carried out twice it would give another answer, and the caller does something about that: it is never sent again by itself.
    pub(super) fn once(mut self) -> Self {
        self.is_repeatable = false;
        self
    }
}
