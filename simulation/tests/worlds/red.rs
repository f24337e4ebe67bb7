//! The checker can fail: each deliberate bug turns it red within a few seeds, in which the house as it is stays green.

use crate::runs::asked_for;
use billfish_simulation::{Bug, Scope, run};

/// Seeds that a bug may need to be found.
const SEEDS: u64 = 40;

fn is_found(scope: Scope, bug: Bug, by: &str) {
    if asked_for().is_some() {
        return;
    }
    let found = (0..SEEDS).find(|seed| run(*seed, scope, Some(bug)).violations.iter().any(|violation| violation.contains(by)));
    assert!(found.is_some(), "{bug:?} was not found by {by:?} in {SEEDS} seeds");
}

#[test]
fn a_room_log_that_forgets_claims_is_found() {
    is_found(Scope::Nodes, Bug::LogForgetsClaims, "is both");
}

#[test]
fn an_inbox_that_forgets_claims_is_found() {
    is_found(Scope::Nodes, Bug::InboxForgetsClaims, "twice");
}

#[test]
fn former_owners_whom_nothing_keeps_out_are_found() {
    is_found(Scope::Nodes, Bug::NobodyFences, "is not in the log");
}

#[test]
fn a_new_owner_that_sends_nothing_again_is_found() {
    is_found(Scope::Nodes, Bug::NoReplay, "was not shown");
}

#[test]
fn a_whisper_shown_to_another_user_is_found() {
    is_found(Scope::Nodes, Bug::PushesReachStrangers, "was shown the whisper");
}

#[test]
fn a_room_message_shown_twice_is_found() {
    is_found(Scope::Nodes, Bug::PushedTwice, "twice");
}
