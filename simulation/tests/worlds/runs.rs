//! Running seeds, and what is done with those that fail.

use billfish_simulation::{Counts, Report, Scope, run};
use std::{fmt::Write, fs, io::Write as _, ops::Range, path::Path};

/// Lines of a failed run that are printed; all of them are in its file.
const LINES_PRINTED: usize = 150;

/// The seed that was asked for, if one was.
pub(crate) fn asked_for() -> Option<u64> {
    std::env::var("BILLFISH_SEED").ok().map(|seed| seed.parse().expect("BILLFISH_SEED is a number"))
}

/// The scope that was asked for: `BILLFISH_SCOPE=all`.
pub(crate) fn scope() -> Scope {
    if std::env::var("BILLFISH_SCOPE").is_ok_and(|scope| scope == "all") { Scope::All } else { Scope::Nodes }
}

/// More seeds that were asked for.
pub(crate) fn more() -> Range<u64> {
    let Ok(range) = std::env::var("BILLFISH_SEEDS") else { return 0..0 };
    let (first, end) = range.split_once("..").expect("BILLFISH_SEEDS is first..end");
    first.parse().expect("a number")..end.parse().expect("a number")
}

/// Runs seeds whose promises must all come true; gives how much happened in them.
pub(crate) fn all_well(scope: Scope, seeds: impl IntoIterator<Item = u64>) -> Counts {
    let mut sum = Counts::default();
    if asked_for().is_some() {
        return sum;
    }
    let mut failed = Vec::new();
    for seed in seeds {
        let report = run(seed, scope, None);
        sum.add(&report.counts);
        if !report.violations.is_empty() {
            tell(&report, scope);
            failed.push(seed);
        }
    }
    assert!(
        failed.is_empty(),
        "promises were broken in seeds {failed:?}; one alone: BILLFISH_SEED={} BILLFISH_SCOPE={} cargo test -p billfish-simulation",
        failed[0],
        name_of(scope)
    );
    sum
}

fn name_of(scope: Scope) -> &'static str {
    match scope {
        Scope::Nodes => "nodes",
        Scope::All => "all",
    }
}

/// Prints a failed run, files its trace, and keeps its seed.
fn tell(report: &Report, scope: Scope) {
    let Report { seed, violations, trace, .. } = report;
    let mut text = trace.join("\n");
    for violation in violations {
        write!(text, "\nBROKEN {violation}").expect("a string takes everything");
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("seed-{seed}-{}.txt", name_of(scope)));
    let filed = fs::write(&file, &text);
    eprintln!("seed {seed} failed: {violations:#?}\nIts last lines, all of them in {} ({filed:?}):", file.display());
    for line in &trace[trace.len().saturating_sub(LINES_PRINTED)..] {
        eprintln!("{line}");
    }
    keep((*seed, scope), violations.first().map_or("", String::as_str));
}

fn keep(seed: (u64, Scope), why: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds.txt");
    if kept().contains(&seed) || fs::read_to_string(&path).is_ok_and(|text| seeds_of(&text).contains(&seed)) {
        return;
    }
    let (number, scope) = (seed.0, name_of(seed.1));
    let written = fs::OpenOptions::new().append(true).open(&path).and_then(|mut file| writeln!(file, "{number} {scope}  # {why}"));
    if let Err(error) = written {
        eprintln!("seed {number} {scope} could not be kept: {error}; add it to {}", path.display());
    }
}

/// The seeds that run for ever.
pub(crate) fn kept() -> Vec<(u64, Scope)> {
    seeds_of(include_str!("../../seeds.txt"))
}

/// `SEED SCOPE  # why`
fn seeds_of(text: &str) -> Vec<(u64, Scope)> {
    let seed = |line: &str| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let seed = words.next()?.parse().expect("a line of seeds.txt begins with a number");
        Some((seed, if words.next() == Some("all") { Scope::All } else { Scope::Nodes }))
    };
    text.lines().filter_map(seed).collect()
}
