//! Sessions of the HTTP API that end take their connections with them.
//!
//! - A token that was issued to such a session lets in for as long as that is there: LOGIN looks at both.
//! - Connections that came in so are looked at together, each [`LOOK`], and where there are many in turn, all of them within a minute: whose
//!   session is gone is sent away with 4002. So it holds whoever ended it, at whichever router, and also where no link was up or a router died
//!   behind the logout.
//! - A store that does not answer ends nobody, and one that has lost everything does not either: a session that is missed for the first
//!   time after that is no longer looked for. Its tokens are void all the same. A connection to the store that broke is no such excuse: who
//!   is missed behind it is judged as soon as it is known whether anything was lost.

use crate::{
    commands::Shards,
    directory::{Directory, Seat},
    metrics::Port,
    shard::message::{Origin, ShardCommand},
    store::{Away, Store},
};
use billfish_state::{AppId, SessionOwner, SessionPrint, UserId};
use billfish_wire::Reason;
use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Between two looks: how long a connection outlives its session, and some, where one look has them all.
const LOOK: Duration = Duration::from_secs(5);
/// Looked at in one look, at least: a thousand a second, each a command in a Redis Cluster.
const SESSIONS_PER_LOOK: usize = 5_000;
/// Of more, so many looks have them all: a minute.
const LOOKS_PER_ROUND: usize = 12;
/// Sessions asked for in one call.
const SESSIONS_PER_CALL: usize = 500;
/// What the client is told beside 4002.
const MESSAGE: &str = "logged out";

/// The connections that are looked at. At most one for each seat, and those that ended since the last look.
#[derive(Debug)]
pub(crate) struct Logouts {
    watched: Mutex<BTreeMap<u64, Watched>>,
    /// The number of the session that was looked at last.
    looked_at: AtomicU64,
    store: Arc<Store>,
    directory: Arc<Directory>,
    shards: Shards,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    origin: Origin,
    session: SessionPrint,
    /// Of the store, before the session was last known to be there.
    losses: u64,
}

/// A session that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    session: SessionPrint,
    /// Of the store, before it was asked.
    losses: u64,
}

impl Logouts {
    pub(crate) fn new(store: Arc<Store>, directory: Arc<Directory>, shards: Shards) -> Self {
        Self { watched: Mutex::default(), looked_at: AtomicU64::new(0), store, directory, shards }
    }

    /// A session is seated that came in with a token of this one at the HTTP API.
    pub(crate) fn watch(&self, origin: Origin, found: Found) {
        let Found { session, losses } = found;
        self.lock().insert(origin.session, Watched { origin, session, losses });
    }

    /// Those of these sessions that are there, and of this app and user. In the order asked.
    pub(crate) async fn find(&self, sessions: &[(SessionOwner, SessionPrint)]) -> Result<Vec<Option<Found>>, Away> {
        let losses = self.store.state.watch.losses();
        let prints: Vec<String> = sessions.iter().map(|(_, print)| print.to_string()).collect();
        let state = &self.store.state;
        let found = self.store.call(Port::Tokens, state.sessions.resolve(&prints, self.store.now_ms())).await?;
        let is_theirs = |(&(owner, session), found)| (found == Some(owner)).then_some(Found { session, losses });
        Ok(sessions.iter().zip(found).map(is_theirs).collect())
    }

    /// Looks until `stop`.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        loop {
            // Both arms are cancel-safe.
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            // What has no answer is asked again when its turn comes.
            self.look().await.ok();
        }
    }

    async fn look(&self) -> Result<(), Away> {
        let mut looked = Ok(());
        for some in self.next().chunks(SESSIONS_PER_CALL) {
            // The others may be at a server that answers.
            looked = looked.and(self.look_at(some).await);
        }
        looked
    }

    async fn look_at(&self, some: &[Watched]) -> Result<(), Away> {
        let watch = &self.store.state.watch;
        let losses = watch.losses();
        let asked: Vec<_> = some.iter().map(|watched| (owner(watched.origin), watched.session)).collect();
        let found = self.find(&asked).await?;
        if !watch.is_certain() || watch.losses() != losses {
            // It may have lost them in between.
            return Err(Away);
        }
        for (watched, found) in some.iter().zip(found) {
            self.judge(watched, found.is_some(), losses);
        }
        Ok(())
    }

    /// Those whose turn it is, of those who still have their seat; the others are forgotten.
    fn next(&self) -> Vec<Watched> {
        let mut watched = self.lock();
        watched.retain(|_, watched| self.directory.seat_of(watched.origin).is_some());
        let count = watched.len().div_ceil(LOOKS_PER_ROUND).max(SESSIONS_PER_LOOK);
        let last = self.looked_at.load(Relaxed);
        let in_turn = watched.range((Excluded(last), Unbounded)).chain(watched.range(..=last));
        let next: Vec<Watched> = in_turn.take(count).map(|(_, watched)| *watched).collect();
        if let Some(last) = next.last() {
            self.looked_at.store(last.origin.session, Relaxed);
        }
        next
    }

    fn judge(&self, watched: &Watched, is_there: bool, losses: u64) {
        let session = watched.origin.session;
        if is_there {
            if let Some(watched) = self.lock().get_mut(&session) {
                watched.losses = losses;
            }
        } else if watched.losses != losses {
            self.lock().remove(&session);
        } else if let Some(Seat { key, .. }) = self.directory.seat_of(watched.origin) {
            debug!(user = watched.origin.user_id, session, "its session at the HTTP API has ended");
            // Where its shard is behind, its next turn comes here again.
            self.shards.try_give(key.shard, ShardCommand::Kick { key, reason: Reason::BadToken, msg: Some(MESSAGE.to_owned()) });
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn owner(origin: Origin) -> SessionOwner {
    SessionOwner { app: AppId(origin.app_id), user: UserId(origin.user_id) }
}

#[cfg(test)]
mod tests {
    use super::{Found, LOOKS_PER_ROUND, Logouts, SESSIONS_PER_CALL, SESSIONS_PER_LOOK, SessionOwner, SessionPrint, owner};
    use crate::{
        commands::Shards,
        directory::{Directory, RouteMark},
        metrics::ControlCounters,
        shard::{
            mailbox::{Mailbox, Signal},
            message::{ConnKey, Origin, ShardCommand},
        },
        store::{Away, Store},
    };
    use async_trait::async_trait;
    use billfish_state::{DeviceKind, State, StateError, port::Sessions};
    use billfish_wire::Reason;
    use std::{
        collections::BTreeSet,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering::Relaxed},
        },
    };

    const ORIGIN: Origin = Origin { app_id: 10_001, user_id: 20_001, device: DeviceKind::Web, session: 7 };
    const KEY: ConnKey = ConnKey { shard: 0, index: 0, generation: 0 };
    const PRINT: SessionPrint = SessionPrint([1; 32]);

    struct House {
        logouts: Logouts,
        directory: Arc<Directory>,
        state: State,
        mailbox: Arc<Mailbox<ShardCommand>>,
    }

    impl House {
        /// With one seat, taken by a token of a session that is open.
        async fn new() -> Self {
            Self::on(State::in_memory()).await
        }

        async fn on(state: State) -> Self {
            let directory = Arc::new(Directory::default());
            let mailbox = Arc::new(Mailbox::new(8, Signal::task(), Signal::task()));
            let store = Arc::new(Store::new(state.clone(), Arc::new(ControlCounters::default())));
            let logouts = Logouts::new(store, Arc::clone(&directory), Shards::new(vec![Arc::clone(&mailbox)]));
            let now_ms = state.clock.now_ms();
            state.sessions.open(&PRINT.to_string(), owner(ORIGIN), now_ms, now_ms + 60_000).await.unwrap();
            directory.insert(ORIGIN, KEY, "token", RouteMark::new(0, 0));
            logouts.watch(ORIGIN, Found { session: PRINT, losses: 0 });
            Self { logouts, directory, state, mailbox }
        }

        async fn kicks(&self) -> usize {
            self.logouts.look().await.unwrap();
            self.kicked()
        }

        fn kicked(&self) -> usize {
            let mut commands = Vec::new();
            self.mailbox.take_into(&mut commands);
            let is_kick = |command: &ShardCommand| matches!(command, ShardCommand::Kick { key: KEY, reason: Reason::BadToken, .. });
            assert!(commands.iter().all(is_kick), "{commands:?}");
            commands.len()
        }

        async fn log_out(&self) {
            self.state.sessions.close(&PRINT.to_string(), owner(ORIGIN)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn whose_session_has_ended_is_sent_away_until_the_seat_is_empty() {
        let house = House::new().await;
        assert_eq!(house.kicks().await, 0, "it is there");
        house.log_out().await;
        assert_eq!((house.kicks().await, house.kicks().await), (1, 1));
        house.directory.take(ORIGIN);
        assert_eq!(house.kicks().await, 0);
        assert!(house.logouts.lock().is_empty());
    }

    #[tokio::test]
    async fn a_session_that_the_store_has_lost_takes_no_connection_with_it() {
        let house = House::new().await;
        let watch = &house.state.watch;
        let lose = || {
            watch.may_have_forgotten();
            watch.looked_into(watch.generation(), true);
        };
        // The store has lost all since, and knows this one again: it is looked for as before.
        lose();
        assert_eq!(house.kicks().await, 0);
        house.log_out().await;
        assert_eq!(house.kicks().await, 1);
        // It has lost all and does not know it: nobody can say why.
        lose();
        assert_eq!((house.kicks().await, house.kicks().await), (0, 0));
        assert!(house.directory.seat_of(ORIGIN).is_some());
    }

    #[tokio::test]
    async fn a_logout_while_the_store_was_out_of_reach_counts_as_soon_as_it_is_known_that_nothing_was_lost() {
        let house = House::new().await;
        let watch = &house.state.watch;
        assert_eq!(house.kicks().await, 0);
        house.log_out().await;
        watch.may_have_forgotten();
        for _ in 0..2 {
            assert_eq!(house.logouts.look().await, Err(Away), "it may have been lost");
            assert_eq!(house.kicked(), 0);
        }
        watch.looked_into(watch.generation(), false);
        assert_eq!(house.kicks().await, 1);
    }

    #[tokio::test]
    async fn a_loss_between_the_question_at_login_and_the_seat_takes_no_connection_with_it() {
        let house = House::new().await;
        let found = house.logouts.find(&[(owner(ORIGIN), PRINT)]).await.unwrap()[0].unwrap();
        house.log_out().await;
        house.state.watch.looked_into(0, true);
        house.logouts.watch(ORIGIN, found);
        assert_eq!(house.kicks().await, 0);
    }

    /// Fails the next call that asks for as many as one may.
    struct Failing {
        inner: Arc<dyn Sessions>,
        has_failed: AtomicBool,
    }

    #[async_trait]
    impl Sessions for Failing {
        async fn open(&self, print: &str, owner: SessionOwner, now_ms: u64, until_ms: u64) -> Result<(), StateError> {
            self.inner.open(print, owner, now_ms, until_ms).await
        }

        async fn resolve(&self, prints: &[String], now_ms: u64) -> Result<Vec<Option<SessionOwner>>, StateError> {
            if prints.len() == SESSIONS_PER_CALL && !self.has_failed.swap(true, Relaxed) {
                return Err(StateError::Away { what: "sessions", cause: "one server of several is away".into() });
            }
            self.inner.resolve(prints, now_ms).await
        }

        async fn close(&self, print: &str, owner: SessionOwner) -> Result<(), StateError> {
            self.inner.close(print, owner).await
        }

        async fn close_all(&self, owner: SessionOwner) -> Result<(), StateError> {
            self.inner.close_all(owner).await
        }
    }

    #[tokio::test]
    async fn a_call_that_fails_keeps_nobody_from_the_others() {
        let mut state = State::in_memory();
        state.sessions = Arc::new(Failing { inner: state.sessions, has_failed: AtomicBool::new(false) });
        let house = House::on(state).await;
        for session in ORIGIN.session + 1..=ORIGIN.session + SESSIONS_PER_CALL as u64 {
            let origin = Origin { user_id: i64::try_from(session).unwrap(), session, ..ORIGIN };
            house.directory.insert(origin, KEY, "token", RouteMark::new(0, 0));
            house.logouts.watch(origin, Found { session: SessionPrint([2; 32]), losses: 0 });
        }
        // The others come first.
        house.logouts.looked_at.store(ORIGIN.session, Relaxed);
        house.log_out().await;
        assert_eq!(house.logouts.look().await, Err(Away));
        assert_eq!(house.kicked(), 1);
    }

    #[tokio::test]
    async fn many_are_looked_at_in_turn_and_all_within_a_round() {
        let house = House::new().await;
        let count = SESSIONS_PER_LOOK as u64 * LOOKS_PER_ROUND as u64 * 2;
        for session in 1..=count {
            let origin = Origin { user_id: i64::try_from(session).unwrap(), session, ..ORIGIN };
            house.directory.insert(origin, KEY, "token", RouteMark::new(0, 0));
            house.logouts.watch(origin, Found { session: PRINT, losses: 0 });
        }
        house.directory.take(ORIGIN);
        let all = house.logouts.lock().len();
        let mut seen = BTreeSet::new();
        for _ in 0..LOOKS_PER_ROUND {
            let next = house.logouts.next();
            assert!(next.len() <= all.div_ceil(LOOKS_PER_ROUND), "{}", next.len());
            seen.extend(next.iter().map(|watched| watched.origin.session));
        }
        assert_eq!(seen.len(), house.logouts.lock().len());
    }

    #[tokio::test]
    async fn a_session_of_another_user_is_none() {
        let house = House::new().await;
        let other = SessionOwner { user: billfish_state::UserId(1), ..owner(ORIGIN) };
        let found = Some(Found { session: PRINT, losses: 0 });
        assert_eq!(house.logouts.find(&[(owner(ORIGIN), PRINT), (other, PRINT)]).await, Ok(vec![found, None]));
    }
}
