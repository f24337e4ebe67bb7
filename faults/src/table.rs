//! Outcomes as lines of a Markdown table, so that a run's output can go into a page as it is.

use crate::{
    checker::{Breach, Findings},
    run::Outcome,
};
use std::time::Duration;

/// The head.
pub const HEAD: &str = "\
| fault | injected | acknowledged: room, user, push | refused | shown | lost | duplicates | order | foreign | overlaps | put out | unanswered | gaps told | excused | longest gap: room, client | recovery | reconnects | took |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// One line.
#[must_use]
pub fn line(outcome: &Outcome) -> String {
    let Findings { faults, acked_room, acked_user, pushed, refused, seen, gaps, excused_gap, excused_away, reconnects, .. } =
        outcome.findings;
    let findings = &outcome.findings;
    let count = |breach| findings.count(breach);
    let verdict = if outcome.is_clean() { "" } else { " **FAILED**" };
    let s = |ms: u64| format!("{:.1} s", Duration::from_millis(ms).as_secs_f64());
    format!(
        "| {}{verdict} | {faults} | {acked_room}, {acked_user}, {pushed} | {refused} | {seen} | {} | {} | {} | {} | {} | {} | {} | {gaps} | {} | {}, {} | {}{} | {reconnects} | {} s |",
        outcome.fault,
        count(Breach::Lost),
        count(Breach::Duplicate),
        count(Breach::Order),
        count(Breach::Foreign),
        count(Breach::Overlap),
        count(Breach::PutOut),
        count(Breach::Unanswered),
        excused_gap + excused_away,
        s(findings.longest_room_gap_ms),
        s(findings.longest_client_gap_ms),
        s(findings.longest_recovery_ms),
        match count(Breach::NotRecovered) {
            0 => String::new(),
            times => format!(" (not {times} times)"),
        },
        outcome.took.as_secs(),
    )
}

/// What went wrong, in words.
#[must_use]
pub fn troubles(outcome: &Outcome) -> String {
    let mut text = String::new();
    for told in outcome.problem.iter().chain(&outcome.findings.told) {
        text.push_str(&format!("  {told}\n"));
    }
    if let Some(journal) = &outcome.journal {
        text.push_str(&format!("  journal: {}\n", journal.display()));
    }
    text
}
