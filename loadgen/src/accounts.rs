//! The crowd's users, their tokens and the rooms they meet in.
//!
//! - User ids follow from the seed and the client's place alone, so workers need no list.
//! - Tokens are fetched before the clock starts: a run measures the gateway, not the token service. They live five minutes.

use crate::http::Api;
use anyhow::{Context, Result};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// Threads that fetch tokens. Four keep a two-core server busy.
const TOKEN_THREADS: usize = 4;
/// Users of one seed; the largest run has 100,000.
const USERS_PER_SEED: i64 = 1_000_000;
/// Where the users of the first seed begin: far from the hand-made accounts of a development server.
const FIRST_USER_ID: i64 = 1_000_000_000;
/// Seeds repeat after this many, so that ids stay below 2^53.
const SEEDS: u64 = 4_000_000;

/// First user id of a seed; client `i` is this plus `i`.
pub(crate) fn first_user_id(seed: u64) -> i64 {
    FIRST_USER_ID + i64::try_from(seed % SEEDS).expect("a remainder of four million") * USERS_PER_SEED
}

/// The anchor of room `index`: counted down from the end of the seed's users.
fn anchor_id(seed: u64, index: usize) -> i64 {
    first_user_id(seed) + USERS_PER_SEED - 1 - i64::try_from(index).expect("few rooms")
}

/// Fetches a token for each of `count` users from `first_user_id` on.
pub(crate) fn issue_tokens(api: &Api, app_id: i32, first_user_id: i64, count: usize) -> Result<Vec<Box<str>>> {
    in_threads(count, |index| {
        let user_id = first_user_id + i64::try_from(index).expect("few users");
        api.token(app_id, user_id).map(String::into_boxed_str).with_context(|| format!("no token for user {user_id}"))
    })
}

/// Opens `count` rooms.
pub(crate) fn open_rooms(api: &Api, seed: u64, count: usize) -> Result<Vec<i64>> {
    in_threads(count, |index| api.open_room(anchor_id(seed, index)).context("a room could not be opened"))
}

/// Closes what [`open_rooms`] opened. A failure is reported and not fatal: the figures are already taken.
pub(crate) fn close_rooms(api: &Api, seed: u64, rooms: &[i64]) -> Result<()> {
    in_threads(rooms.len(), |index| {
        let room = rooms[index];
        api.close_room(room, anchor_id(seed, index)).with_context(|| format!("room {room} was left open"))
    })?;
    Ok(())
}

/// Calls `each` for 0..count from a few threads; results in order, or the first failure.
fn in_threads<T: Send>(count: usize, each: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(done);
            }
            match each(index) {
                Ok(value) => done.push((index, value)),
                Err(error) => {
                    // The others stop at their next turn.
                    next.store(count, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    let mut all = thread::scope(|scope| {
        let threads: Vec<_> = (0..TOKEN_THREADS.min(count)).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::with_capacity(count);
        for thread in threads {
            all.extend(thread.join().expect("a fetching thread does not panic")?);
        }
        anyhow::Ok(all)
    })?;
    all.sort_unstable_by_key(|&(index, _)| index);
    Ok(all.into_iter().map(|(_, value)| value).collect())
}

#[cfg(test)]
mod tests {
    use super::{anchor_id, first_user_id, in_threads};
    use billfish_wire::limits::ID_MAX;

    #[test]
    fn ids_of_every_seed_are_legal_and_anchors_are_not_members() {
        for seed in [0, 1, 42, u64::MAX] {
            assert!(first_user_id(seed) >= 10_000);
            assert!(anchor_id(seed, 0) <= ID_MAX);
            assert!(anchor_id(seed, 10_000) > first_user_id(seed) + 900_000);
        }
        assert!(first_user_id(2) > anchor_id(1, 0), "seeds do not overlap");
    }

    #[test]
    fn results_come_in_order_and_one_failure_fails_all() {
        assert_eq!(in_threads(100, |index| Ok(index * 2)).expect("no call fails"), (0..100).map(|index| index * 2).collect::<Vec<_>>());
        assert!(in_threads(100, |index| if index == 57 { anyhow::bail!("no") } else { Ok(()) }).is_err());
    }
}
