//! Faults on purpose in the real server, one way for each invariant, and what `loadgen check --ledger` says of a run against it: the same that
//! passes without a fault fails, by the invariant that the fault is against.
//!
//! The binary of these tests has the features `bugs` and `failpoints`: see `router/src/bug.rs`. What is released has not.

use crate::house::{House, program};
use serde_json::Value;
use std::{process::Command, sync::Mutex, thread};

/// Two rooms: a stranger must be somewhere.
const RAIN: &[&str] =
    &["gift-rain", "--connections", "16", "--rooms", "2", "--rate", "80", "--seconds", "2", "--spread", "0.1", "--retry-share", "20"];
const NIGHT: &[&str] = &["pk-night", "--connections", "12", "--rooms", "2", "--rate", "30", "--seconds", "2", "--price-max", "10"];

/// Runs at once: each waits for most of its time.
const LANES: usize = 4;

/// What has `BILLFISH_BUG` to be, which run shows it, and which invariants fail then.
const CASES: [(&str, &[&str], &[&str]); 11] = [
    ("", RAIN, &[]),
    ("", NIGHT, &[]),
    ("ack_unpaid", RAIN, &["I1"]),
    ("debit_twice", RAIN, &["I2"]),
    ("make_money", RAIN, &["I3"]),
    ("skip_place", RAIN, &["I4"]),
    ("move_bar_too_far", NIGHT, &["I4"]),
    ("tell_nobody", RAIN, &["I5"]),
    ("tell_twice", RAIN, &["I6"]),
    ("tell_a_stranger", RAIN, &["I7"]),
    ("count_less", RAIN, &["I12"]),
];

#[test]
fn each_invariant_turns_red_by_a_fault_in_the_server_and_only_then() {
    let left = Mutex::new(CASES.iter().rev().collect::<Vec<_>>());
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some((bug, line, expected)) = { left.lock().unwrap().pop() } {
                    let finding = checked(bug, line);
                    let red = red(&finding);
                    if red != *expected {
                        failures.lock().unwrap().push(format!("{bug:?}: {red:?}, and not {expected:?}: {:#}", finding["invariants"]));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A run against a server that is wrong in one way, and what the check says of it.
fn checked(bug: &str, line: &[&str]) -> Value {
    let environment: &[(&str, &str)] = if bug.is_empty() { &[] } else { &[("BILLFISH_BUG", bug)] };
    let house = House::with_env("", environment);
    let place = tempfile::tempdir().unwrap();
    let run = Command::new(program("loadgen", "bin", "loadgen"))
        .args(line)
        .args(["--gateway", &house.ports.tcp.to_string(), "--http", &format!("http://{}", house.ports.http)])
        .args(["--admin", &format!("http://{}", house.ports.admin), "--api-key", &house.api_key, "--json"])
        .args(["--report", place.path().to_str().unwrap(), "--no-limit"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    let report: Value = serde_json::from_slice(&run.stdout).unwrap_or_else(|error| panic!("{bug}: {error}: {said}"));
    assert!(report["sent"].as_u64() > Some(0) && report["detail"]["limit"].is_null(), "{bug}: {report:#}");
    let check = Command::new(program("loadgen", "bin", "loadgen"))
        .arg("check")
        .arg(place.path().join("journal.jsonl"))
        .args(["--json", "--ledger", &format!("sqlite:{}", house.data_dir().join("billfish.db").display())])
        .output()
        .unwrap();
    let finding: Value = serde_json::from_slice(&check.stdout)
        .unwrap_or_else(|error| panic!("{bug}: {error}: {}\n{said}\n{}", String::from_utf8_lossy(&check.stderr), house.log()));
    let outcomes = finding["invariants"].as_array().unwrap_or_else(|| panic!("{bug}: {finding:#}"));
    assert!(outcomes.iter().all(|one| one["outcome"] != "not_applicable"), "{bug}: the run says something of each: {finding:#}");
    // Without a fault the run itself may have been late, on a machine that does much else.
    assert!(bug.is_empty() || check.status.code() == Some(1), "{bug}: {}", check.status);
    finding
}

fn red(finding: &Value) -> Vec<&str> {
    let invariants = finding["invariants"].as_array().into_iter().flatten();
    invariants.filter(|one| one["outcome"] == "fail").filter_map(|one| one["id"].as_str()).collect()
}

#[test]
fn what_is_built_to_be_released_has_no_faults_and_no_places_to_crash() {
    let features = |more: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "--package", "billfish", "--edges", "normal", "--prefix", "none", "--format", "{p} {f}"])
            .args(more)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let ours =
            text.lines().filter(|line| ["billfish v", "billfish-router v", "billfish-gateway v"].iter().any(|name| line.starts_with(name)));
        let ours: Vec<String> = ours.map(str::to_owned).collect();
        assert!(ours.len() >= 3, "{text}");
        ours.iter().filter(|line| line.contains("bugs") || line.contains("failpoints")).count()
    };
    assert_eq!(features(&[]), 0);
    assert!(features(&["--features", "bugs,failpoints"]) >= 3, "what is asked for is seen");
}
