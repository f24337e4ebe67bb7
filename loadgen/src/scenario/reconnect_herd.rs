//! `reconnect-herd`: a gateway dies with a full house, and everyone comes back on the others.

use crate::{
    options::ReconnectHerd,
    scenario::{Script, WrongUse, conduct, let_run, note, publish},
    worker::Activity,
};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::time::Duration;

/// Runs it.
pub(crate) fn run(options: &ReconnectHerd) -> Result<bool> {
    if options.common.gateway.len() < 2 {
        bail!(WrongUse("--gateway must be given for each gateway, the one that will die first".to_owned()));
    }
    if options.kill.is_some_and(|pid| options.common.server_pid.contains(&pid)) {
        bail!(WrongUse("--server-pid must not name the process that --kill ends: its figures die with it".to_owned()));
    }
    if let Some(pid) = options.kill {
        test_kill_process(process(pid)?).map_err(|error| WrongUse(format!("--kill {pid}: {error}")))?;
    }
    let return_spread = Some(Duration::try_from_secs_f64(options.spread).map_err(|error| WrongUse(format!("--spread: {error}")))?);
    let script = Script { rooms: options.rooms, return_spread, ..Script::new("reconnect-herd", Activity::Listen) };
    let run = conduct(&options.common, &script, |crew, _| {
        match options.kill {
            Some(pid) => kill(pid)?,
            None => note("kill the first gateway now"),
        }
        let_run(crew, options.seconds)
    })?;
    publish(&options.common, &run)
}

fn kill(pid: u32) -> Result<()> {
    kill_process(process(pid)?, Signal::KILL).with_context(|| format!("--kill {pid}"))
}

fn process(pid: u32) -> Result<Pid> {
    Ok(i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| WrongUse(format!("--kill {pid} is no process id")))?)
}
