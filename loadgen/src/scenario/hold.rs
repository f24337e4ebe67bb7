//! `hold`: a crowd that logs in, joins, and stays. Every heartbeat must be echoed and nobody may be lost.

use crate::{
    options::Hold,
    scenario::{Script, conduct, let_run, publish},
    worker::Activity,
};
use anyhow::Result;

/// Runs it.
pub(crate) fn run(options: &Hold) -> Result<bool> {
    let script = Script { rooms: options.rooms, ..Script::new("hold", Activity::Listen) };
    let run = conduct(&options.common, &script, |crew, _| let_run(crew, options.seconds))?;
    publish(&options.common, &run)
}
