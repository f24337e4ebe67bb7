//! `storm`: connect and login, nothing else, as fast as the gateway takes it.

use crate::{
    options::Storm,
    scenario::{Load, Script, conduct, publish},
    worker::Activity,
};
use anyhow::Result;

/// Runs it.
pub(crate) fn run(options: &Storm) -> Result<bool> {
    let script = Script { rooms: options.rooms, ..Script::new("storm", Activity::Listen) };
    let run = conduct(&options.common, &script, |_, _| Ok(Load::default()))?;
    publish(&options.common, &run)
}
