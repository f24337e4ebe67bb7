//! `check`: does the sums of a journal again and compares them with what the run reported; with a ledger, judges the invariants too.

use crate::{
    invariants::{Ledger, Outcome, Verdict, judge},
    journal::{Finding, Stated, check},
    options::Check,
    scenario::{WrongUse, note},
};
use anyhow::{Context, Result};
use serde_json::json;
use std::{
    fs::{self, File},
    io::{self, BufReader, Write},
    path::Path,
};

/// Runs it.
pub(crate) fn run(options: &Check) -> Result<bool> {
    let path = options.journal.display();
    let journal = File::open(&options.journal).map_err(|error| WrongUse(format!("{path}: {error}")))?;
    let beside = options.journal.with_file_name("report.json");
    let report = match &options.report {
        Some(report) => Some(read_report(report)?),
        None if beside.exists() => Some(read_report(&beside)?),
        None => None,
    };
    let finding = check(BufReader::new(journal), report.as_ref()).map_err(|error| WrongUse(format!("{path}: {error}")))?;
    let verdicts = match &options.ledger {
        None => Vec::new(),
        Some(url) => {
            let mut ledger = Ledger::open(url).map_err(|error| WrongUse(format!("--ledger: {error:#}")))?;
            judge(&finding, &mut ledger, options.faults).context("--ledger")?
        }
    };
    let Finding { sums, disagreements, losses, .. } = &finding;
    let mut output = io::stdout().lock();
    if options.json {
        let compared = report.is_some();
        writeln!(
            output,
            "{}",
            json!({
                "sums": sums,
                "disagreements": disagreements,
                "losses": losses,
                "compared_with_report": compared,
                "invariants": verdicts
            })
        )?;
    } else {
        writeln!(
            output,
            "{} sent, {} copies expected, {} received, {} dropped, {} missing, {} twice, {} out of order",
            sums.sent,
            sums.expected,
            sums.received,
            sums.dropped.values().sum::<u64>(),
            sums.missing,
            sums.duplicates,
            sums.order_breaks
        )?;
        let with = if report.is_some() { "its end and the report agree" } else { "its end agrees; there was no report to compare with" };
        if disagreements.is_empty() {
            writeln!(output, "{with}")?;
        }
        verdicts.iter().try_for_each(|verdict| writeln!(output, "{verdict}"))?;
    }
    output.flush()?;
    let failed: Vec<&Verdict> = verdicts.iter().filter(|verdict| verdict.outcome == Outcome::Fail).collect();
    for Verdict { id, what, .. } in &failed {
        note(&format!("{id} does not hold: {what}"));
    }
    for found in disagreements.iter().chain(losses) {
        note(found);
    }
    Ok(disagreements.is_empty() && losses.is_empty() && failed.is_empty())
}

fn read_report(path: &Path) -> Result<Stated> {
    let text = fs::read_to_string(path).map_err(|error| WrongUse(format!("{}: {error}", path.display())))?;
    Ok(serde_json::from_str(&text).map_err(|error| WrongUse(format!("{}: not a report: {error}", path.display())))?)
}
