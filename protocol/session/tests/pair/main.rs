//! Both ends of a session over a virtual link: delay, stalls, cuts between any two bytes, kicks, refusals, slow readers, all from a seed.
//!
//! A run that fails prints its seed. Put it into [`REGRESSIONS`], fix the fault, leave it there.

mod display;
mod gate;
mod link;
mod router;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use world::World;

/// Seeds that once failed.
const REGRESSIONS: &[u64] = &[7, 117, 289, 642];
const SEEDS: u64 = 300;

#[test]
fn every_promise_comes_true_once_the_network_is_calm() {
    for seed in REGRESSIONS.iter().copied().chain(0..SEEDS) {
        run(seed);
    }
}

/// A suite of calm days would prove nothing.
#[test]
fn the_seeds_bring_cuts_kicks_gaps_moves_and_answers() {
    let (mut cuts, mut kicks, mut gaps, mut moves, mut accepted, mut refused, mut shown) = (0, 0, 0, 0, 0, 0, 0);
    for seed in 0..20 {
        let world = run(seed);
        cuts += world.cuts;
        kicks += world.kicks;
        gaps += world.gaps;
        moves += world.moves;
        accepted += world.accepted.len();
        refused += world.refused.len();
        shown += world.display.from_inbox.len();
    }
    assert!(cuts > 100 && kicks > 20 && gaps > 5 && moves > 50, "cuts {cuts}, kicks {kicks}, gaps {gaps}, moves {moves}");
    assert!(accepted > 500 && refused > 10 && shown > 500, "accepted {accepted}, refused {refused}, shown {shown}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |world: &World| {
        (world.accepted.clone(), world.refused.clone(), world.display.from_inbox.clone(), world.cuts, world.kicks, world.gaps)
    };
    assert_eq!(trace(&run(7)), trace(&run(7)));
}

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        world.run();
        world.assert_settled();
    }));
    if let Err(cause) = outcome {
        eprintln!("seed {seed} failed: add it to REGRESSIONS. Its last lines:");
        for line in &world.trace {
            eprintln!("{line}");
        }
        resume_unwind(cause);
    }
    world
}
