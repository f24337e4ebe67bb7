//! One fault, many times, on one cluster under continuous load; then the checker's word, and a look at what the cluster is like afterwards.

use crate::{
    bars::{self, Bars},
    checker::{self, Findings},
    fault::Fault,
    journal,
    load::LoadOptions,
    logs::{self, Secrets},
    measure::{self, Measures},
    rest,
    stage::Stage,
    vitals::{self, Vital},
};
use anyhow::{Context as _, Result};
use billfish_testing::{Cluster, ClusterOptions, LedgerKind};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Before each fault the load runs undisturbed for a time between these.
const CALM: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(2_500));

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
    /// Of every choice.
    pub seed: u64,
    /// What the journal proves.
    pub findings: Findings,
    /// How long things took.
    pub measures: Measures,
    /// The fault's own numbers.
    pub bars: Bars,
    /// What the nodes took of the machine (I9).
    pub vitals: BTreeMap<String, Vital>,
    /// From the end of the load until the cluster was as before it (I10).
    pub rest: Duration,
    /// Copies that the gateways of the end had counted (I12).
    pub copies: u64,
    /// Load average of the machine, mean and largest.
    pub machine_load: (f64, f64),
    /// What was not as it must be of memory, rest, logs and sums, in words.
    pub problems: Vec<String>,
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
        self.findings.is_clean() && self.problem.is_none() && self.problems.is_empty() && self.bars.broken.is_empty()
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
    let cluster = fault.cluster(&options.binary);
    // A fault of the database server wants one, whatever the others are to have.
    let ledger = if cluster.ledger == LedgerKind::Maria { LedgerKind::Maria } else { options.ledger };
    let cluster = ClusterOptions { ledger, ..cluster };
    let Some(mut stage) = Stage::set(cluster, fault.load(options.load), &path, options.seed)? else { return Ok(None) };
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
    let entries = journal::read(&path)?;
    let (findings, measures) = (checker::check(&entries), measure::measure(&entries));
    drop(entries);
    let mut bars = bars::judge(fault, &findings, &measures);

    let (seen, machine_load) = (stage.vitals.seen(), stage.vitals.machine_load());
    let mut problems = vitals::too_large(&seen);
    let Stage { cluster, load, base, .. } = stage;
    if fault == Fault::RingChange {
        bars.say(&sent_on(&cluster));
    }
    let secrets = Secrets { keys: cluster.secrets().into_iter().map(str::to_owned).collect(), tokens: load.tokens() };
    if base.unrest(&cluster).is_empty() {
        problems.push("with every client still there the cluster counts as at rest: the look at it is worth nothing".to_owned());
    }
    load.end();
    let (rest, unrest) = base.wait(&cluster);
    problems.extend(unrest.into_iter().map(|unrest| format!("not at rest: {unrest}")));
    let (copies, uneven) = rest::sums(&cluster);
    problems.extend(uneven);
    problems.extend(cluster.nodes().flat_map(|node| logs::scan(node.name(), &node.whole_log(), &secrets)));

    let mut outcome = Outcome {
        fault,
        seed: options.seed,
        findings,
        measures,
        bars,
        vitals: seen,
        rest,
        copies,
        machine_load,
        problems,
        problem,
        took: Duration::ZERO,
        journal: None,
    };
    if options.keep || !outcome.is_clean() {
        let logs = path.with_extension("logs");
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        for node in cluster.nodes() {
            node.keep_log(&logs.join(format!("{}.log", node.name())));
            if let Some((_, metrics)) = node.admin("/metrics") {
                fs::write(logs.join(format!("{}.metrics", node.name())), metrics).context("the metrics of a node")?;
            }
        }
        outcome.journal = Some(path);
    } else {
        fs::remove_file(&path).ok();
    }
    drop(cluster);
    outcome.took = began.elapsed();
    Ok(Some(outcome))
}

/// What gateways say of calls that met a router which did not own their room.
fn sent_on(cluster: &Cluster) -> String {
    let sum = |name: &str, labels: &[&str]| cluster.gateways.iter().filter_map(|gateway| gateway.metric(name, labels)).sum::<f64>();
    let (owner, wait) = (sum("gateway_upstream_moved_total", &["then=\"owner\""]), sum("gateway_upstream_moved_total", &["then=\"wait\""]));
    format!("calls sent on to the owner {owner}, waited for one {wait}, given up {}", sum("gateway_upstream_given_up_total", &[]))
}

/// Checks a journal that was kept.
///
/// # Errors
/// When it cannot be read.
pub fn recheck(path: &Path) -> Result<(Findings, Measures)> {
    let entries = journal::read(path)?;
    Ok((checker::check(&entries), measure::measure(&entries)))
}
