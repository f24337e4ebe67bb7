//! Outcomes as lines of a Markdown table, so that a run's output can go into a page as it is; and back, to know what has been run.

use crate::{
    bars::seconds,
    checker::{Breach, Findings},
    run::Outcome,
    stage::as_ms,
};

/// The head.
pub const HEAD: &str = "\
| fault | injected | acknowledged: room, user, push | refused | shown | lost | doubles | order | other breaches | acknowledged and not shown: Redis away, gap told | longest gap: room, member | chat p99: calm, fault | away p99 | well after | of this fault | memory grew | at rest after | reconnects | took | commit, seed, load |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// Breaches with columns of their own.
const OWN: [Breach; 3] = [Breach::Lost, Breach::Duplicate, Breach::Order];

/// One line.
#[must_use]
pub fn line(outcome: &Outcome, commit: &str) -> String {
    let Outcome { findings, measures, .. } = outcome;
    let Findings { faults, acked_room, acked_user, pushed, refused, seen, excused_gap, excused_away, reconnects, .. } = findings;
    let [lost, doubles, order] = OWN.map(|breach| findings.count(breach));
    let verdict = if outcome.is_clean() { "" } else { " **FAILED**" };
    let bars = if outcome.bars.said.is_empty() { "–" } else { &outcome.bars.said };
    let (load, load_max) = outcome.machine_load;
    format!(
        "| `{}`{verdict} | {faults} | {acked_room}, {acked_user}, {pushed} | {refused} | {seen} | {lost} | {doubles} | {order} | {} | {excused_away}, {excused_gap} | {}, {} | {} ms, {} ms | {} | {} | {bars} | {} | {} | {reconnects} | {} s | `{commit}`, {}, {load:.1} ({load_max:.1}) |",
        outcome.fault,
        others(outcome),
        seconds(findings.longest_room_gap_ms),
        seconds(findings.longest_client_gap_ms),
        measures.calm_p99_ms,
        measures.fault_p99_ms,
        seconds(measures.down_p99_ms),
        seconds(findings.longest_recovery_ms),
        grown(outcome),
        seconds(as_ms(outcome.rest)),
        outcome.took.as_secs(),
        outcome.seed,
    )
}

fn others(outcome: &Outcome) -> String {
    let mut words: Vec<String> = outcome
        .findings
        .breaches
        .iter()
        .filter(|(breach, _)| !OWN.contains(breach))
        .map(|(breach, count)| format!("{count} {breach:?}"))
        .collect();
    for (count, what) in [
        (outcome.bars.broken.len(), "numbers not kept"),
        (outcome.problems.len(), "of memory, rest, logs, sums"),
        (usize::from(outcome.problem.is_some()), "ended early"),
    ] {
        if count > 0 {
            words.push(format!("{count} {what}"));
        }
    }
    if words.is_empty() { "0".to_owned() } else { words.join(", ") }
}

/// The node that grew most.
fn grown(outcome: &Outcome) -> String {
    let most = outcome.vitals.iter().max_by_key(|(_, vital)| vital.growth_bytes());
    most.map_or_else(
        || "?".to_owned(),
        |(name, vital)| format!("{} MiB ({name}, from {})", vital.growth_bytes() >> 20, vital.start.rss_bytes >> 20),
    )
}

/// What went wrong, in words.
#[must_use]
pub fn troubles(outcome: &Outcome) -> String {
    let mut text = String::new();
    for told in outcome.problem.iter().chain(&outcome.bars.broken).chain(&outcome.problems).chain(&outcome.findings.told) {
        text.push_str(&format!("  {told}\n"));
    }
    if let Some(journal) = &outcome.journal {
        text.push_str(&format!("  journal: {}\n", journal.display()));
    }
    text
}

/// What a line of the table says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Name of the fault.
    pub fault: String,
    /// How often it was injected.
    pub injected: u32,
    /// Nothing was breached.
    pub is_clean: bool,
    /// Of which build.
    pub commit: String,
}

/// Reads a line back; `None` where it is no outcome.
#[must_use]
pub fn read(line: &str) -> Option<Told> {
    let cells: Vec<&str> = line.trim().strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
    let (name, injected, run) = (cells.first()?, cells.get(1)?, cells.last()?);
    let mut quoted = name.split('`');
    Some(Told {
        fault: quoted.nth(1)?.to_owned(),
        injected: injected.parse().ok()?,
        is_clean: !name.contains("FAILED"),
        commit: run.split('`').nth(1)?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::{HEAD, Told, line, read, troubles};
    use crate::{
        bars::Bars,
        checker::{Breach, Findings},
        fault::Fault,
        measure::Measures,
        run::Outcome,
    };
    use std::{collections::BTreeMap, time::Duration};

    fn outcome() -> Outcome {
        Outcome {
            fault: Fault::RedisStop(10),
            seed: 7,
            findings: Findings { faults: 20, ..Findings::default() },
            measures: Measures::default(),
            bars: Bars::default(),
            vitals: BTreeMap::new(),
            rest: Duration::from_secs(3),
            copies: 0,
            machine_load: (1.0, 2.0),
            problems: Vec::new(),
            problem: None,
            took: Duration::from_secs(100),
            journal: None,
        }
    }

    #[test]
    fn a_line_has_a_cell_for_each_column_and_is_read_back() {
        let clean = line(&outcome(), "abc1234");
        let columns = HEAD.lines().next().unwrap().matches('|').count();
        assert_eq!((clean.matches('|').count(), HEAD.lines().nth(1).unwrap().matches('|').count()), (columns, columns));
        let told = Told { fault: "redis-stop-10s".to_owned(), injected: 20, is_clean: true, commit: "abc1234".to_owned() };
        assert_eq!(read(&clean), Some(told.clone()));
        let failed = Outcome { problems: vec!["a panic".to_owned()], ..outcome() };
        assert_eq!(read(&line(&failed, "abc1234")), Some(Told { is_clean: false, ..told }));
        assert!(HEAD.lines().all(|line| read(line).is_none()));
    }

    #[test]
    fn any_kind_of_trouble_makes_the_line_a_failed_one_and_is_told() {
        let breached =
            Findings { breaches: [(Breach::Overlap, 2)].into(), told: vec!["Overlap: user 1".to_owned()], ..Findings::default() };
        for (failed, word, said) in [
            (Outcome { findings: breached, ..outcome() }, "2 Overlap", "Overlap: user 1"),
            (Outcome { problems: vec!["a panic".to_owned()], ..outcome() }, "1 of memory, rest, logs, sums", "a panic"),
            (Outcome { bars: Bars { said: String::new(), broken: vec!["slow".to_owned()] }, ..outcome() }, "1 numbers not kept", "slow"),
            (Outcome { problem: Some("repeat 3: no".to_owned()), ..outcome() }, "1 ended early", "repeat 3: no"),
        ] {
            let line = line(&failed, "abc1234");
            assert!(line.contains("**FAILED**") && line.contains(word), "{line}");
            assert!(troubles(&failed).contains(said));
        }
    }
}
