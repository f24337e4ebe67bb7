//! One fault, many times, on one cluster under continuous load; then the checker's word.

use crate::{
    checker::{self, Findings},
    fault::Fault,
    journal,
    load::LoadOptions,
    stage::Stage,
};
use anyhow::{Context as _, Result};
use billfish_testing::{ClusterOptions, LedgerKind};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Before each fault the load runs undisturbed for a time between these.
const CALM: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(4));

/// How a fault is to be run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The `billfish` program.
    pub binary: PathBuf,
    /// How often.
    pub repeats: u32,
    /// Of every choice.
    pub seed: u64,
    /// Where journals and logs of failed runs stay.
    pub directory: PathBuf,
    /// How much load.
    pub load: LoadOptions,
    /// Where the routers' records are.
    pub ledger: LedgerKind,
    /// Journals and logs of clean runs stay too.
    pub keep: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Which fault.
    pub fault: Fault,
    /// What the journal proves.
    pub findings: Findings,
    /// What ended the run early, if anything did.
    pub problem: Option<String>,
    /// How long it took.
    pub took: Duration,
    /// Where the journal is, if it was kept.
    pub journal: Option<PathBuf>,
}

impl Outcome {
    /// Nothing was breached and nothing went wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_clean() && self.problem.is_none()
    }
}

/// Runs one fault. `None` where a server's program is missing.
///
/// # Errors
/// When the cluster cannot be set up, or the journal proves nothing.
pub fn run(fault: Fault, options: &RunOptions) -> Result<Option<Outcome>> {
    let began = Instant::now();
    fs::create_dir_all(&options.directory).with_context(|| format!("cannot make {}", options.directory.display()))?;
    let path = options.directory.join(format!("{fault}-{}.jsonl", options.seed));
    let cluster = ClusterOptions { ledger: options.ledger, ..fault.cluster(&options.binary) };
    let Some(mut stage) = Stage::set(cluster, options.load, &path, options.seed)? else { return Ok(None) };
    let mut problem = None;
    for repeat in 1..=options.repeats {
        stage.run_for(CALM.0, CALM.1);
        if let Err(error) = fault.inject(&mut stage) {
            problem = Some(format!("repeat {repeat}: {error:#}"));
            break;
        }
        stage.recover();
    }
    stage.run_for(CALM.0, CALM.1);
    stage.quiet()?;
    let findings = checker::check(&journal::read(&path)?);
    let is_clean = findings.is_clean() && problem.is_none();
    let keeps = !is_clean || options.keep;
    if keeps {
        stage.keep_logs(&path.with_extension("logs"));
    } else {
        fs::remove_file(&path).ok();
    }
    let Stage { cluster, load, .. } = stage;
    load.end();
    drop(cluster);
    Ok(Some(Outcome { fault, findings, problem, took: began.elapsed(), journal: keeps.then_some(path) }))
}

/// Checks a journal that was kept.
///
/// # Errors
/// When it cannot be read.
pub fn recheck(path: &Path) -> Result<Findings> {
    Ok(checker::check(&journal::read(path)?))
}
