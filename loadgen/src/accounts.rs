//! The crowd's users, their tokens and the rooms they meet in.
//!
//! - User ids follow from the seed and the client's place alone, so workers need no list.
//! - Tokens are fetched before the clock starts: a run measures the gateway, not the token service. They live five minutes.

use crate::http::{Api, Grant, RoomKind};
use anyhow::{Context, Result};
use std::{
    collections::BTreeSet,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Threads that fetch tokens, open rooms and close them. Four keep a two-core server busy.
const THREADS: usize = 4;
/// Between two looks at whether the fetching is wanted still, when nothing comes.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// Rooms whose closing may fail before the rest is left open: each failure may take as long as a call may.
const CLOSE_FAILURES_MAX: usize = 16;
/// Users that are credited with one call: as many as a body of 64 KiB holds. How often there is one.
const GRANTS_PER_CALL: usize = 400;
const GRANTS_EVERY: Duration = Duration::from_millis(400);
/// Users of one seed, anchors of its rooms among them; the largest run has 100,000.
pub(crate) const USERS_PER_SEED: i64 = 1_000_000;
/// Where the users of the first seed begin: far from the hand-made accounts of a development server.
const FIRST_USER_ID: i64 = 1_000_000_000;
/// Seeds repeat after this many, so that ids stay below 2^53.
const SEEDS: u64 = 4_000_000;

/// First user id of a seed; client `i` is this plus `i`.
pub(crate) fn first_user_id(seed: u64) -> i64 {
    FIRST_USER_ID + i64::try_from(seed % SEEDS).expect("a remainder of four million") * USERS_PER_SEED
}

/// The anchor of room `index`: counted down from the end of the seed's users.
pub(crate) fn anchor_id(seed: u64, index: usize) -> i64 {
    first_user_id(seed) + USERS_PER_SEED - 1 - i64::try_from(index).expect("few rooms")
}

/// Fetches a token for each of `count` users from `first_user_id` on. `goes_on` is asked several times a second: its error ends the fetching.
pub(crate) fn issue_tokens(
    api: &Api,
    app_id: i32,
    first_user_id: i64,
    count: usize,
    goes_on: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Box<str>>> {
    let (tokens, outcome) = in_threads(count, goes_on, |index| {
        let user_id = first_user_id + i64::try_from(index).expect("few users");
        api.token(app_id, user_id).map(String::into_boxed_str).with_context(|| format!("no token for user {user_id}"))
    });
    outcome?;
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

/// The rooms of a run that are open.
#[derive(Debug)]
pub(crate) struct Rooms {
    seed: u64,
    /// By place: which of the seed's rooms it is, and its id.
    open: Vec<(usize, i64)>,
}

impl Rooms {
    /// Opens `count` rooms. What was opened is there to be closed, whatever became of the others.
    pub(crate) fn open(api: &Api, seed: u64, count: usize, kind: RoomKind, goes_on: &mut dyn FnMut() -> Result<()>) -> (Self, Result<()>) {
        let (open, outcome) =
            in_threads(count, goes_on, |index| api.open_room(anchor_id(seed, index), kind).context("a room could not be opened"));
        (Self { seed, open }, outcome)
    }

    /// Their ids, in order.
    pub(crate) fn ids(&self) -> Vec<i64> {
        self.open.iter().map(|&(_, id)| id).collect()
    }

    /// Closes them. A failure is reported and not fatal: the figures are already taken.
    pub(crate) fn close(&self, api: &Api) -> Result<()> {
        let failures = AtomicUsize::new(0);
        let close = |place: usize| {
            let (index, id) = self.open[place];
            match api.close_room(id, anchor_id(self.seed, index)) {
                Ok(()) => Ok(None),
                Err(error) if failures.fetch_add(1, Ordering::Relaxed) < CLOSE_FAILURES_MAX => Ok(Some(error)),
                Err(error) => Err(error),
            }
        };
        let (closed, outcome) = in_threads(self.open.len(), &mut || Ok(()), close);
        let left = self.open.len() - closed.iter().filter(|(_, failure)| failure.is_none()).count();
        match closed.into_iter().find_map(|(_, failure)| failure).or(outcome.err()) {
            Some(error) => Err(error.context(format!("{left} rooms were left open"))),
            None => Ok(()),
        }
    }
}

/// Credits users, a thousand in a call. `uuid_of`: the same for the same user and run, so that no call credits anybody twice.
pub(crate) fn grant(
    api: &Api,
    app_id: i32,
    users: &[i64],
    coins: i64,
    uuid_of: &(dyn Fn(i64) -> String + Sync),
    goes_on: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let mut next = Instant::now();
    for users in users.chunks(GRANTS_PER_CALL) {
        while Instant::now() < next {
            thread::sleep(ASK_EVERY);
            goes_on()?;
        }
        goes_on()?;
        next = Instant::now() + GRANTS_EVERY;
        let grants: Vec<Grant> = users.iter().map(|&user_id| Grant { user_id, coins, uuid: uuid_of(user_id) }).collect();
        api.grant(app_id, &grants).context("the senders could not be given their coins")?;
    }
    Ok(())
}

/// Fetches new tokens for users whose old ones the server no longer knows, beside the event loop that needs them.
#[derive(Debug)]
pub(crate) struct Renewals {
    /// `None` when it ends.
    wanted: Option<Sender<usize>>,
    renewed: Receiver<(usize, Option<String>)>,
    /// Asked for and not there: each at most once.
    pending: BTreeSet<usize>,
    thread: Option<JoinHandle<()>>,
}

impl Renewals {
    /// For clients from `first_user_id` on.
    pub(crate) fn start(api: Api, app_id: i32, first_user_id: i64) -> Result<Self> {
        let (wanted, requests) = mpsc::channel::<usize>();
        let (told, renewed) = mpsc::channel();
        let thread = thread::Builder::new().name("tokens".to_owned()).spawn(move || {
            while let Ok(index) = requests.recv() {
                let user_id = first_user_id + i64::try_from(index).expect("few users");
                if told.send((index, api.token(app_id, user_id).ok())).is_err() {
                    return;
                }
            }
        });
        Ok(Self { wanted: Some(wanted), renewed, pending: BTreeSet::new(), thread: Some(thread.context("no thread")?) })
    }

    /// A client needs one.
    pub(crate) fn ask(&mut self, index: usize) {
        if self.pending.insert(index)
            && let Some(wanted) = &self.wanted
        {
            wanted.send(index).ok();
        }
    }

    /// The next one that is there. Of a client that got none, as the server was away, nothing is heard; it asks again when it is refused again.
    pub(crate) fn next(&mut self) -> Option<(usize, Box<str>)> {
        while let Ok((index, token)) = self.renewed.try_recv() {
            self.pending.remove(&index);
            if let Some(token) = token {
                return Some((index, token.into_boxed_str()));
            }
        }
        None
    }
}

impl Drop for Renewals {
    fn drop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Calls `each` for 0..count from a few threads, as long as none fails and `goes_on`. What was done, in order, and what ended it before its time.
fn in_threads<T: Send>(
    count: usize,
    goes_on: &mut dyn FnMut() -> Result<()>,
    each: impl Fn(usize) -> Result<T> + Sync,
) -> (Vec<(usize, T)>, Result<()>) {
    let next = AtomicUsize::new(0);
    let (told, results) = mpsc::channel();
    let work = |told: Sender<(usize, Result<T>)>| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count || told.send((index, each(index))).is_err() {
                return;
            }
        }
    };
    let (mut done, mut outcome) = (Vec::new(), Ok(()));
    thread::scope(|scope| {
        for _ in 0..THREADS.min(count) {
            let told = told.clone();
            scope.spawn(|| work(told));
        }
        drop(told);
        loop {
            let failure = match results.recv_timeout(ASK_EVERY) {
                Ok((index, Ok(value))) => {
                    done.push((index, value));
                    None
                }
                Ok((_, Err(error))) => Some(error),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if let (Some(error), true) = (failure.or_else(|| goes_on().err()), outcome.is_ok()) {
                // The others stop at their next turn; what they have under way is waited for.
                next.store(count, Ordering::Relaxed);
                outcome = Err(error);
            }
        }
    });
    done.sort_unstable_by_key(|&(index, _)| index);
    (done, outcome)
}

#[cfg(test)]
mod tests {
    use super::{anchor_id, first_user_id, in_threads};
    use billfish_wire::limits::ID_MAX;
    use std::sync::atomic::{AtomicBool, Ordering};

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
    fn results_come_in_order_and_one_failure_ends_all_but_takes_nothing_back() {
        let (all, outcome) = in_threads(100, &mut || Ok(()), |index| Ok(index * 2));
        outcome.expect("no call fails");
        assert_eq!(all, (0..100).map(|index| (index, index * 2)).collect::<Vec<_>>());
        let (done, outcome) = in_threads(100, &mut || Ok(()), |index| if index == 57 { anyhow::bail!("no") } else { Ok(index) });
        assert!(outcome.is_err());
        assert!(done.len() >= 40 && done.iter().all(|&(index, value)| index == value && index != 57), "{done:?}");
    }

    #[test]
    fn an_order_to_stop_is_heard_while_calls_are_under_way() {
        let stopped = AtomicBool::new(false);
        let mut goes_on = || {
            stopped.store(true, Ordering::SeqCst);
            anyhow::bail!("stop")
        };
        let (done, outcome) = in_threads(1_000_000, &mut goes_on, |index| {
            while !stopped.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            Ok(index)
        });
        assert_eq!(outcome.expect_err("it was stopped").to_string(), "stop");
        assert!(done.len() < 1_000_000, "each thread ends with the call it has under way, or one after it");
    }
}
