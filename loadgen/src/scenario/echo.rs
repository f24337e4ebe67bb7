//! `echo`: heartbeats there and back, the round trip through a gateway alone.

use crate::{
    options::Echo,
    scenario::{Script, conduct, let_run, publish},
    worker::Activity,
};
use anyhow::Result;

/// Runs it.
pub(crate) fn run(options: &Echo) -> Result<bool> {
    let script = Script::new("echo", Activity::Echo { per_s: options.rate });
    let run = conduct(&options.common, &script, |crew, _| let_run(crew, options.seconds))?;
    publish(&options.common, &run)
}
