//! The house as it is: every promise comes true.

use crate::runs::{all_well, asked_for, kept, more, scope};
use billfish_simulation::{Scope, run};

/// Seeds of one test: some seconds, so that as many cores as there are have something to do.
const CHUNK: u64 = 50;

/// One test for each chunk.
macro_rules! chunks {
    ($scope:expr; $( $name:ident = $index:literal; )*) => {
        $( #[test] fn $name() { all_well($scope, $index * CHUNK..($index + 1) * CHUNK); } )*
    };
}

// With everything that can go wrong: nodes, links, viewers, and the store.
chunks! { Scope::All;
    seeds_of_the_first_fifty_keep_their_promises = 0;
    seeds_of_the_second_fifty_keep_their_promises = 1;
    seeds_of_the_third_fifty_keep_their_promises = 2;
    seeds_of_the_fourth_fifty_keep_their_promises = 3;
    seeds_of_the_fifth_fifty_keep_their_promises = 4;
    seeds_of_the_sixth_fifty_keep_their_promises = 5;
    seeds_of_the_seventh_fifty_keep_their_promises = 6;
    seeds_of_the_eighth_fifty_keep_their_promises = 7;
    seeds_of_the_ninth_fifty_keep_their_promises = 8;
    seeds_of_the_tenth_fifty_keep_their_promises = 9;
}

// With a store that is always there, a message that was accepted has no excuse for not being shown.
chunks! { Scope::Nodes;
    seeds_whose_store_is_there_keep_their_promises = 0;
    further_seeds_whose_store_is_there_keep_their_promises = 1;
}

#[test]
fn seeds_that_once_failed_keep_their_promises() {
    for (seed, scope) in kept() {
        all_well(scope, [seed]);
    }
}

#[test]
fn further_seeds_that_are_asked_for_keep_their_promises() {
    all_well(scope(), more());
}

#[test]
fn the_one_seed_that_is_asked_for_keeps_its_promises() {
    let Some(seed) = asked_for() else { return };
    let report = run(seed, scope(), None);
    for line in &report.trace {
        eprintln!("{line}");
    }
    eprintln!("seed {seed}: fingerprint {:016x}, {:?}", report.fingerprint, report.counts);
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
}

/// A suite of calm days would prove nothing.
#[test]
fn the_seeds_bring_trouble_of_every_kind_and_much_is_said_and_shown() {
    if asked_for().is_some() {
        return;
    }
    let sum = all_well(Scope::All, 500..520);
    assert!(sum.stores_away > 10, "{sum:?}");
    assert!(sum.crashes > 20 && sum.pauses > 5 && sum.drains > 5, "{sum:?}");
    assert!(sum.links_cut > 20 && sum.connections_cut > 40 && sum.kicked > 5, "{sum:?}");
    assert!(sum.owners > 60 && sum.resumed > 100 && sum.repeated > 50, "{sum:?}");
    assert!(sum.said > 1_000 && sum.accepted > 1_000 && sum.shown > 2_000 && sum.whispers_shown > 200, "{sum:?}");
}

/// How many runs are compared with their repeat.
const REPLAYED: u64 = 8;

/// Else a seed that failed would be no help.
#[test]
fn a_seed_replays_to_the_last_line() {
    let scopes = [Scope::Nodes, Scope::All];
    for (seed, scope) in (700..700 + REPLAYED).zip(scopes.into_iter().cycle()) {
        let (first, second) = (run(seed, scope, None), run(seed, scope, None));
        let differs = first.trace.iter().zip(&second.trace).position(|(one, other)| one != other);
        if let Some(line) = differs {
            for (one, other) in first.trace.iter().zip(&second.trace).skip(line.saturating_sub(3)).take(8) {
                eprintln!("{one}\n    {other}");
            }
        }
        assert_eq!(first.fingerprint, second.fingerprint, "seed {seed} of {scope:?}, line {differs:?}");
    }
}
