//! `limit`: the bare send loop of this machine, without a server.

use crate::{
    options::LimitOptions,
    probe::{JOINED, measure},
};
use anyhow::{Context, Result};
use std::io::{self, Write};

/// Runs it.
pub(crate) fn run(options: &LimitOptions) -> Result<bool> {
    let limit = measure(options.connections as usize, options.payload as usize, &JOINED, options.seconds)?;
    let mut output = io::stdout().lock();
    if options.json {
        writeln!(output, "{}", serde_json::to_string(&limit).context("a limit is plain data")?)?;
    } else {
        write!(output, "{limit}")?;
    }
    Ok(true)
}
