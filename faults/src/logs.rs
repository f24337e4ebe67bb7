//! What must not stand in a node's log: panics, errors, secrets, and what users say. Pure.
//!
//! No error is expected of any fault: what a node can live with is a warning.

use crate::load::MARK;
use std::collections::BTreeSet;

/// Lines that are told of each log; the rest are counted.
const TOLD_MAX: usize = 3;
/// Of a line that is told.
const LINE_CHARS_MAX: usize = 300;

/// Words that must not be in any log.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// Keys and passwords of the cluster.
    pub keys: Vec<String>,
    /// Tokens that were issued.
    pub tokens: BTreeSet<String>,
}

/// What is wrong in the log of `name`, in words.
#[must_use]
pub fn scan(name: &str, log: &str, secrets: &Secrets) -> Vec<String> {
    let mut problems = Vec::new();
    let mut more = 0_u32;
    for line in log.lines() {
        let Some(problem) = problem_of(line, secrets) else { continue };
        if problems.len() < TOLD_MAX {
            // A secret is not told once more.
            let told: String = line.chars().take(LINE_CHARS_MAX).collect();
            problems.push(if problem == SECRET { format!("{name}: {problem}") } else { format!("{name}: {problem}: {told}") });
        } else {
            more += 1;
        }
    }
    if more > 0 {
        problems.push(format!("{name}: {more} more such lines"));
    }
    problems
}

const SECRET: &str = "a key or token is in the log";

fn problem_of(line: &str, secrets: &Secrets) -> Option<&'static str> {
    let is_token = |word: &str| secrets.tokens.contains(word);
    let is_part_of_token = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if secrets.keys.iter().any(|key| line.contains(key.as_str())) || line.split(|letter| !is_part_of_token(letter)).any(is_token) {
        Some(SECRET)
    } else if line.contains("panicked at") {
        Some("a panic")
    } else if line.split_whitespace().nth(1) == Some("ERROR") {
        Some("an error")
    } else if line.contains(MARK) {
        Some("what a user said is in the log")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Secrets, scan};

    fn secrets() -> Secrets {
        Secrets { keys: vec!["the-api-key".to_owned()], tokens: ["AbC-12_x".to_owned()].into() }
    }

    #[test]
    fn an_ordinary_log_is_clean() {
        let log = "2026-11-21T01:00:00Z  INFO gateway up node=g1\n2026-11-21T01:00:01Z  WARN lost Redis error=\"ERROR of the peer\"\nplain words\n";
        assert_eq!(scan("g1", log, &secrets()), Vec::<String>::new());
    }

    #[test]
    fn each_kind_of_trouble_is_told() {
        for (line, word) in [
            ("2026-11-21T01:00:00Z ERROR billfish: broken", "an error"),
            ("thread 'shard 1' panicked at src/lib.rs:1:1:", "a panic"),
            ("2026-11-21T01:00:00Z  INFO login token=AbC-12_x user=1", "a key or token"),
            ("2026-11-21T01:00:00Z  INFO call key=the-api-key", "a key or token"),
            ("2026-11-21T01:00:00Z  INFO message content=faults:12", "what a user said"),
        ] {
            let problems = scan("g1", line, &secrets());
            assert!(problems.len() == 1 && problems[0].contains(word), "{line}: {problems:?}");
            assert!(!problems[0].contains("AbC-12_x") && !problems[0].contains("the-api-key"));
        }
    }

    #[test]
    fn many_lines_are_counted() {
        let log = "x ERROR y\n".repeat(10);
        let problems = scan("g1", &log, &secrets());
        assert_eq!((problems.len(), problems.last().map(String::as_str)), (4, Some("g1: 7 more such lines")));
    }
}
