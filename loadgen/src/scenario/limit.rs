//! `limit`: the bare send loop of this machine, without a server.

use crate::{
    options::LimitOptions,
    probe::{Effort, JOINED, measure},
    scenario::{WrongUse, plans::clients_per_process},
};
use anyhow::{Context, Result, bail};
use std::{
    io::{self, Write},
    time::Duration,
};

/// Runs it.
pub(crate) fn run(options: &LimitOptions) -> Result<bool> {
    let run =
        Duration::try_from_secs_f64(options.seconds / f64::from(options.runs)).map_err(|error| WrongUse(format!("--seconds: {error}")))?;
    let (connections, sockets_max) = (options.connections as usize, clients_per_process());
    if connections > sockets_max {
        bail!(WrongUse(format!("--connections {connections} are more than one process may have open: {sockets_max} (ulimit -n)")));
    }
    let limit = measure(connections, options.payload as usize, &JOINED, Effort { runs: options.runs, run }, None)?;
    let mut output = io::stdout().lock();
    if options.json {
        writeln!(output, "{}", serde_json::to_string(&limit).context("a limit is plain data")?)?;
    } else {
        write!(output, "{limit}")?;
    }
    Ok(true)
}
