//! The hot paths, one at a time: `billfish-instructions PATH TIMES` walks one of them so many times, `billfish-instructions` lists them.
//!
//! - Measured from outside: `scripts/instructions` counts the instructions of a process that walks a path often and of one that walks it
//!   seldom. What the difference leaves is the path alone, without the start of the process or the setup.
//! - Nothing here depends on the clock, on chance or on the order of a hash map: the same number every time is the point.
//! - No assertion inside a loop; each path proves behind it that it did what its name says.
#![forbid(unsafe_code)]

mod backlog;
mod fanout;
mod ring;
mod session;
mod wire;

use anyhow::{Context, Result};
use std::io::Write;

/// A path, by its name in `baseline.json`.
struct Path {
    name: String,
    /// How often it is walked at least to be counted: what takes few instructions needs many turns to stand out.
    times: u32,
    walk: Box<dyn Fn(u32)>,
}

impl Path {
    fn new(name: impl Into<String>, times: u32, walk: impl Fn(u32) + 'static) -> Self {
        Self { name: name.into(), times, walk: Box::new(walk) }
    }
}

fn main() -> Result<()> {
    let paths: Vec<Path> =
        wire::paths().chain(session::paths()).chain(backlog::paths()).chain(ring::paths()).chain(fanout::paths()).collect();
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        let mut output = std::io::stdout().lock();
        for path in paths {
            writeln!(output, "{} {}", path.name, path.times)?;
        }
        return Ok(());
    };
    let times = arguments.next().context("how many times?")?.parse().context("not a number of times")?;
    let path = paths.iter().find(|path| path.name == name).with_context(|| format!("no path {name}"))?;
    (path.walk)(times);
    Ok(())
}
