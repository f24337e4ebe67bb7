//! [`billfish_state::Leases`].

use super::*;
use billfish_state::{Lease, LeaseAsk};
use std::collections::BTreeMap;

fn held(holder: &str, epoch: u64, until: u64) -> Lease {
    Lease { holder: holder.to_owned(), epoch, until_ms: at(until) }
}

pub(crate) async fn a_free_lease_is_taken_and_a_held_one_is_not<S: Store>() {
    let leases = S::fresh().await.leases;
    let first = leases.acquire("room:1:owner", "a", at(0), at(MINUTE)).await.unwrap();
    assert_eq!(first, held("a", first.epoch, MINUTE));
    assert!(first.epoch >= 1);
    assert_eq!(leases.acquire("room:1:owner", "b", at(MINUTE - 1), at(HOUR)).await.unwrap(), first, "what stands is told");
    let other = leases.acquire("room:2:owner", "b", at(0), at(MINUTE)).await.unwrap();
    assert_eq!(other.holder, "b", "names are apart");
}

pub(crate) async fn the_holder_renews_under_the_same_epoch<S: Store>() {
    let leases = S::fresh().await.leases;
    let first = leases.acquire("l", "a", at(0), at(MINUTE)).await.unwrap();
    let renewed = leases.acquire("l", "a", at(SECOND), at(HOUR)).await.unwrap();
    assert_eq!(renewed, held("a", first.epoch, HOUR));
    assert_eq!(leases.acquire("l", "b", at(MINUTE), at(HOUR)).await.unwrap(), renewed);
}

pub(crate) async fn the_epoch_rises_whenever_the_lease_is_taken_anew<S: Store>() {
    let leases = S::fresh().await.leases;
    let first = leases.acquire("l", "a", at(0), at(MINUTE)).await.unwrap();
    let second = leases.acquire("l", "b", at(MINUTE), at(2 * MINUTE)).await.unwrap();
    assert_eq!(second.holder, "b");
    let third = leases.acquire("l", "b", at(2 * MINUTE), at(3 * MINUTE)).await.unwrap();
    leases.release("l", "b", third.epoch).await.unwrap();
    let fourth = leases.acquire("l", "b", at(2 * MINUTE), at(3 * MINUTE)).await.unwrap();
    assert!(first.epoch < second.epoch, "another holder");
    assert!(second.epoch < third.epoch, "the same holder after it ran out");
    assert!(third.epoch < fourth.epoch, "the same holder after it gave it up");
}

pub(crate) async fn only_the_holder_with_its_epoch_releases<S: Store>() {
    let leases = S::fresh().await.leases;
    let standing = leases.acquire("l", "a", at(0), at(MINUTE)).await.unwrap();
    leases.release("l", "b", standing.epoch).await.unwrap();
    leases.release("l", "a", standing.epoch + 1).await.unwrap();
    leases.release("unknown", "a", 1).await.unwrap();
    assert_eq!(leases.acquire("l", "b", at(1), at(MINUTE)).await.unwrap(), standing);
    leases.release("l", "a", standing.epoch).await.unwrap();
    leases.release("l", "a", standing.epoch).await.expect("again is no error");
    assert_eq!(leases.acquire("l", "b", at(1), at(MINUTE)).await.unwrap().holder, "b");
    leases.release("l", "a", standing.epoch).await.unwrap();
    assert_eq!(leases.acquire("l", "a", at(1), at(MINUTE)).await.unwrap().holder, "b", "a late release takes nothing from the next");
}

pub(crate) async fn many_are_asked_for_at_once_each_by_itself<S: Store>() {
    let leases = S::fresh().await.leases;
    let name = |number: u32| format!("room:{number}:owner");
    let asks = |holder: &str, numbers: std::ops::Range<u32>| -> Vec<LeaseAsk> {
        numbers.map(|number| LeaseAsk { name: name(number), holder: holder.to_owned() }).collect()
    };
    let other = leases.acquire(&name(7), "b", at(0), at(MINUTE)).await.unwrap();
    let first: Vec<Lease> = leases.acquire_many(&asks("a", 0..600), at(0), at(MINUTE)).await.unwrap().into_iter().flatten().collect();
    assert_eq!(first.len(), 600);
    for (number, lease) in first.iter().enumerate() {
        assert_eq!(*lease, if number == 7 { other.clone() } else { held("a", lease.epoch, MINUTE) }, "{number}");
    }
    // In the order asked.
    let mut backwards = asks("a", 0..600);
    backwards.reverse();
    let renewed = leases.acquire_many(&backwards, at(MINUTE - 1), at(HOUR)).await.unwrap();
    for (lease, before) in renewed.into_iter().rev().zip(&first) {
        let lease = lease.unwrap();
        assert_eq!((&lease.holder, lease.epoch), (&before.holder, before.epoch), "renewed, not taken anew");
        assert_eq!(lease.until_ms, if before.holder == "a" { at(HOUR) } else { before.until_ms });
    }
    assert_eq!(leases.acquire_many(&[], at(0), at(MINUTE)).await.unwrap(), []);
    assert_eq!(leases.acquire(&name(0), "b", at(MINUTE), at(HOUR)).await.unwrap(), held("a", first[0].epoch, HOUR));
}

pub(crate) async fn of_two_who_ask_for_a_name_at_once_the_first_has_it<S: Store>() {
    let leases = S::fresh().await.leases;
    let asks: Vec<LeaseAsk> =
        [("room:1:owner", "a"), ("room:2:owner", "b"), ("room:1:owner", "b"), ("room:2:owner", "a"), ("room:1:owner", "a")]
            .map(|(name, holder)| LeaseAsk { name: name.to_owned(), holder: holder.to_owned() })
            .into();
    let holders = |told: &[Option<Lease>]| told.iter().flatten().map(|lease| lease.holder.clone()).collect::<Vec<_>>();
    let first = leases.acquire_many(&asks, at(0), at(MINUTE)).await.unwrap();
    assert_eq!(holders(&first), ["a", "b", "a", "b", "a"]);
    assert!(first[0] == first[2] && first[2] == first[4] && first[1] == first[3], "{first:?}");
    let second = leases.acquire_many(&asks[2..], at(MINUTE), at(2 * MINUTE)).await.unwrap();
    assert_eq!(holders(&second), ["b", "a", "b"]);
    assert!(second.iter().flatten().all(|lease| lease.epoch > first[0].as_ref().unwrap().epoch.min(first[1].as_ref().unwrap().epoch)));
}

pub(crate) async fn of_many_at_once_one_holds<S: Store>() {
    let leases = S::fresh().await.leases;
    let tasks: Vec<_> = (0..50)
        .map(|number| {
            let leases = leases.clone();
            tokio::spawn(async move { leases.acquire("l", &format!("node-{number}"), at(0), at(MINUTE)).await.unwrap() })
        })
        .collect();
    let mut told = Vec::new();
    for task in tasks {
        told.push(task.await.unwrap());
    }
    assert!(told.iter().all(|lease| *lease == told[0]), "{told:?}");
}

pub(crate) async fn a_lease_taken_by_a_clock_set_back_since_counts_as_run_out<S: Store>() {
    let leases = S::fresh().await.leases;
    let ahead = leases.acquire("l", "a", at(DAY), at(DAY + MINUTE)).await.unwrap();
    // The clock is right again. Ten times what is asked for is the bound: ends within it are believed.
    let now = DAY + MINUTE - 10 * MINUTE;
    assert_eq!(leases.acquire("l", "b", at(now), at(now + MINUTE)).await.unwrap(), ahead);
    assert_eq!(leases.acquire("l", "b", at(now - 1), at(now - 1 + MINUTE)).await.unwrap().holder, "b");
    let taken = leases.acquire("l", "b", at(0), at(MINUTE)).await.unwrap();
    assert_eq!(taken, held("b", taken.epoch, MINUTE));
    assert!(taken.epoch > ahead.epoch + 1, "it was taken anew each time, also by the same holder");
}

#[derive(Clone, Debug)]
enum Step {
    Acquire(u8, u8, u64),
    Release(u8, u8, u64),
    Pass(u64),
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let step = prop_oneof![
        4 => (0u8..2, 0u8..3, 0..20 * SECOND).prop_map(|(name, holder, life)| Step::Acquire(name, holder, life)),
        2 => (0u8..2, 0u8..3, 0u64..2).prop_map(|(name, holder, behind)| Step::Release(name, holder, behind)),
        2 => (0..8 * SECOND).prop_map(Step::Pass),
    ];
    histories::<S, _>(step, async |state, steps| {
        let mut now = at(0);
        // The last lease of each name, and whether it was given up.
        let mut model: BTreeMap<u8, (Lease, bool)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Acquire(name, holder, life) => {
                    let holder = holder.to_string();
                    let told = state.leases.acquire(&name.to_string(), &holder, now, now + life).await.unwrap();
                    let mine = Lease { holder: holder.clone(), epoch: told.epoch, until_ms: now + life };
                    // One that would stand far longer than is asked for counts as run out.
                    let stands = |last: &Lease| now < last.until_ms && last.until_ms <= now + 10 * life;
                    match model.get(&name) {
                        Some((last, false)) if stands(last) && last.holder != holder => {
                            prop_assert_eq!(&told, last);
                            continue;
                        }
                        Some((last, false)) if stands(last) => prop_assert_eq!(told.epoch, last.epoch),
                        Some((last, _)) => prop_assert!(told.epoch > last.epoch),
                        None => {}
                    }
                    prop_assert_eq!(&told, &mine);
                    model.insert(name, (mine, false));
                }
                Step::Release(name, holder, behind) => {
                    let Some((last, given_up)) = model.get_mut(&name) else { continue };
                    let epoch = last.epoch.saturating_sub(behind);
                    state.leases.release(&name.to_string(), &holder.to_string(), epoch).await.unwrap();
                    *given_up |= last.holder == holder.to_string() && epoch == last.epoch;
                }
                Step::Pass(ms) => now += ms,
            }
        }
        Ok(())
    });
}
