//! Sessions of the HTTP API that end take their connections with them.
//!
//! - A token that was issued to such a session lets in for as long as that is there: LOGIN looks at both.
//! - Connections that came in so are looked at all together, each [`LOOK`]: whose session is gone is sent away with 4002. So it holds whoever
//!   ended it, at whichever router, and also where no link was up or a router died behind the logout.
//! - A store that does not answer ends nobody, and one that has forgotten everything does not either: a session that is missed for the first
//!   time after the store may have lost it is no longer looked for. Its tokens are void all the same.

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
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Between two looks: how long a connection outlives its session, and some.
const LOOK: Duration = Duration::from_secs(5);
/// Sessions asked for in one call.
const SESSIONS_PER_CALL: usize = 500;
/// What the client is told beside 4002.
const MESSAGE: &str = "logged out";

/// The connections that are looked at. At most one for each seat, and those that ended since the last look.
#[derive(Debug)]
pub(crate) struct Logouts {
    watched: Mutex<HashMap<u64, Watched, foldhash::fast::RandomState>>,
    store: Arc<Store>,
    directory: Arc<Directory>,
    shards: Shards,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    origin: Origin,
    session: SessionPrint,
    /// Of the store, when the session was last known to be there.
    generation: u64,
}

impl Logouts {
    pub(crate) fn new(store: Arc<Store>, directory: Arc<Directory>, shards: Shards) -> Self {
        Self { watched: Mutex::default(), store, directory, shards }
    }

    /// A session is seated that came in with a token of this one at the HTTP API.
    pub(crate) fn watch(&self, origin: Origin, session: SessionPrint) {
        let generation = self.store.state.watch.generation();
        self.lock().insert(origin.session, Watched { origin, session, generation });
    }

    /// Which of these sessions are there, and of this app and user. In the order asked.
    pub(crate) async fn are_there(&self, sessions: &[(SessionOwner, SessionPrint)]) -> Result<Vec<bool>, Away> {
        let prints: Vec<String> = sessions.iter().map(|(_, print)| print.to_string()).collect();
        let state = &self.store.state;
        let found = self.store.call(Port::Tokens, state.sessions.resolve(&prints, self.store.now_ms())).await?;
        Ok(sessions.iter().zip(found).map(|((owner, _), found)| found == Some(*owner)).collect())
    }

    /// Looks until `stop`.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        loop {
            // Both arms are cancel-safe.
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            // What has no answer is asked at the next look.
            self.look().await.ok();
        }
    }

    async fn look(&self) -> Result<(), Away> {
        let watched = self.seated();
        for some in watched.chunks(SESSIONS_PER_CALL) {
            let generation = self.store.state.watch.generation();
            let asked: Vec<_> = some.iter().map(|watched| (owner(watched.origin), watched.session)).collect();
            let are_there = self.are_there(&asked).await?;
            if self.store.state.watch.generation() != generation {
                // It may have forgotten them in between.
                return Err(Away);
            }
            for (watched, is_there) in some.iter().zip(are_there) {
                self.judge(watched, is_there, generation);
            }
        }
        Ok(())
    }

    /// Those who still have their seat; the others are forgotten.
    fn seated(&self) -> Vec<Watched> {
        let mut watched = self.lock();
        watched.retain(|_, watched| self.directory.seat_of(watched.origin).is_some());
        watched.values().copied().collect()
    }

    fn judge(&self, watched: &Watched, is_there: bool, generation: u64) {
        let session = watched.origin.session;
        if is_there {
            if let Some(watched) = self.lock().get_mut(&session) {
                watched.generation = generation;
            }
        } else if watched.generation != generation {
            self.lock().remove(&session);
        } else if let Some(Seat { key, .. }) = self.directory.seat_of(watched.origin) {
            debug!(user = watched.origin.user_id, session, "its session at the HTTP API has ended");
            // Where its shard is behind, the next look comes here again.
            self.shards.try_give(key.shard, ShardCommand::Kick { key, reason: Reason::BadToken, msg: Some(MESSAGE.to_owned()) });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Watched, foldhash::fast::RandomState>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn owner(origin: Origin) -> SessionOwner {
    SessionOwner { app: AppId(origin.app_id), user: UserId(origin.user_id) }
}

#[cfg(test)]
mod tests {
    use super::{Logouts, SessionOwner, SessionPrint, owner};
    use crate::{
        commands::Shards,
        directory::{Directory, RouteMark},
        metrics::ControlCounters,
        shard::{
            mailbox::{Mailbox, Signal},
            message::{ConnKey, Origin, ShardCommand},
        },
        store::Store,
    };
    use billfish_state::{DeviceKind, State};
    use billfish_wire::Reason;
    use std::sync::Arc;

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
            let (state, directory) = (State::in_memory(), Arc::new(Directory::default()));
            let mailbox = Arc::new(Mailbox::new(8, Signal::task(), Signal::task()));
            let store = Arc::new(Store::new(state.clone(), Arc::new(ControlCounters::default())));
            let logouts = Logouts::new(store, Arc::clone(&directory), Shards::new(vec![Arc::clone(&mailbox)]));
            let now_ms = state.clock.now_ms();
            state.sessions.open(&PRINT.to_string(), owner(ORIGIN), now_ms, now_ms + 60_000).await.unwrap();
            directory.insert(ORIGIN, KEY, "token", RouteMark::new(0, 0));
            logouts.watch(ORIGIN, PRINT);
            Self { logouts, directory, state, mailbox }
        }

        async fn kicks(&self) -> usize {
            self.logouts.look().await.unwrap();
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
    async fn a_session_that_the_store_may_have_lost_takes_no_connection_with_it() {
        let house = House::new().await;
        let forget = |generation| house.logouts.lock().get_mut(&ORIGIN.session).unwrap().generation = generation;
        // The store has come back since, and still knows it: it is looked for as before.
        forget(u64::MAX);
        assert_eq!(house.kicks().await, 0);
        house.log_out().await;
        assert_eq!(house.kicks().await, 1);
        // It has come back and does not know it: nobody can say why.
        forget(u64::MAX);
        assert_eq!((house.kicks().await, house.kicks().await), (0, 0));
        assert!(house.directory.seat_of(ORIGIN).is_some());
    }

    #[tokio::test]
    async fn a_session_of_another_user_is_none() {
        let house = House::new().await;
        let other = SessionOwner { user: billfish_state::UserId(1), ..owner(ORIGIN) };
        assert_eq!(house.logouts.are_there(&[(owner(ORIGIN), PRINT), (other, PRINT)]).await, Ok(vec![true, false]));
    }
}
