//! `limit`: the bare send loop of this machine, without a server.

use crate::{
    options::LimitOptions,
    probe::{Effort, JOINED, measure},
    scenario::WrongUse,
};
use anyhow::{Context, Result};
use std::{
    io::{self, Write},
    time::Duration,
};

/// Runs it.
pub(crate) fn run(options: &LimitOptions) -> Result<bool> {
    let run =
        Duration::try_from_secs_f64(options.seconds / f64::from(options.runs)).map_err(|error| WrongUse(format!("--seconds: {error}")))?;
    let limit = measure(options.connections as usize, options.payload as usize, &JOINED, Effort { runs: options.runs, run }, None)?;
    let mut output = io::stdout().lock();
    if options.json {
        writeln!(output, "{}", serde_json::to_string(&limit).context("a limit is plain data")?)?;
    } else {
        write!(output, "{limit}")?;
    }
    Ok(true)
}
