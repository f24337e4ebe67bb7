//! Whose records these are: one shared state belongs to one set of records, and no router works on others.
//!
//! - Records are named when they are made, at random, in `t_ledger`. A copy bears the name of its original: of two copies nothing here knows.
//! - The state keeps the name as the holder of a lease that does not end in practice. Who comes first sets it, also when the state has lost
//!   everything.
//! - Until the state has answered, and from the moment it names others, guarded records answer nothing. So nobody raises an epoch, and with it
//!   owns a room, in records that the other routers do not see.
//!
//! Room ids and epochs count up in the records: in two of them the same numbers mean different rooms, and the later owner of a room may have
//! the smaller epoch, whose messages the log and the gateways refuse for ever.

use super::Ledger;
use crate::services::ports::{RecordError, Result};
use billfish_state::State;
use std::{future::pending, time::Duration};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

/// Name of the lease whose holder is the name of the records.
const LEASE: &str = "ledger";
/// As good as for ever: it is renewed by every router that starts.
const LEASE_LIFE_MS: u64 = 10 * 365 * 24 * 3600 * 1000;
/// Between two looks: whether a state that was away is back, or one that is there may have forgotten.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The records are not those of the shared state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "configuration key `ledger.url`: the records in {place} are not those that this shared state belongs to (these are {own}, it belongs to \
     {theirs}). All routers of one shared state use the same records: let ledger.url name them on each, or on one machine let all have the \
     same data_dir. Records that begin anew need a state that begins anew: an empty Redis, or another state.redis.prefix"
)]
pub struct ForeignLedger {
    /// File, or host, port and database.
    pub place: String,
    /// Name of the records there.
    pub own: String,
    /// Name of the records that the state belongs to.
    pub theirs: String,
}

/// What is known of the records.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// They are those of the state, or nobody guards them.
    Own,
    /// The state has not said yet, and why.
    Unknown(String),
    /// They are others; that does not change any more.
    Foreign(ForeignLedger),
}

impl Standing {
    fn problem(&self) -> Option<String> {
        match self {
            Self::Own => None,
            Self::Unknown(why) => Some(format!("whether the records are those of the shared state is not known yet: {why}")),
            Self::Foreign(foreign) => Some(foreign.to_string()),
        }
    }

    /// Lets a call through, or not.
    pub(super) fn check(&self, what: &'static str) -> Result<()> {
        match self.problem() {
            None => Ok(()),
            Some(problem) => Err(RecordError::Away { what, cause: problem.into() }),
        }
    }
}

/// Watches over the records until it is dropped.
#[derive(Debug)]
pub struct Guard {
    standing: watch::Receiver<Standing>,
    _task: AbortOnDropHandle<()>,
}

impl Guard {
    /// Asks the state whose records it belongs to, or tells it. If it does not answer, the records wait for it and this does not.
    ///
    /// # Errors
    /// It belongs to others.
    pub async fn start(ledger: &Ledger, state: &State) -> std::result::Result<Self, ForeignLedger> {
        ledger.standing.send_replace(Standing::Unknown("the state was not asked yet".to_owned()));
        let mut look = Look { ledger: ledger.clone(), state: state.clone(), sure_of: None };
        look.again().await;
        if let Standing::Foreign(foreign) = &*ledger.standing.borrow() {
            return Err(foreign.clone());
        }
        let task = tokio::spawn(async move {
            let mut ticks = interval(LOOK_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                look.again().await;
            }
        });
        Ok(Self { standing: ledger.standing.subscribe(), _task: AbortOnDropHandle::new(task) })
    }

    /// To be asked for readiness, also after the guard has gone: whether the records are known to be the right ones, or why not.
    pub fn readiness(&self) -> impl Fn() -> std::result::Result<(), String> + Send + Sync + use<> {
        let standing = self.standing.clone();
        move || standing.borrow().problem().map_or(Ok(()), Err)
    }

    /// Waits until the state names other records.
    pub async fn foreign(&self) -> ForeignLedger {
        let mut standing = self.standing.clone();
        loop {
            if let Standing::Foreign(foreign) = &*standing.borrow_and_update() {
                return foreign.clone();
            }
            if standing.changed().await.is_err() {
                return pending().await;
            }
        }
    }
}

struct Look {
    ledger: Ledger,
    state: State,
    /// Generation of the state that has answered. A later one may have forgotten.
    sure_of: Option<u64>,
}

impl Look {
    async fn again(&mut self) {
        // Before the question: what is forgotten after it is asked again.
        let generation = self.state.watch.generation();
        let before = self.ledger.standing.borrow().clone();
        if self.sure_of == Some(generation) || matches!(before, Standing::Foreign(_)) {
            return;
        }
        match self.ask().await {
            Ok(Standing::Own) => {
                self.sure_of = Some(generation);
                if !matches!(before, Standing::Own) {
                    info!(place = %self.ledger.place, "the records are those of the shared state");
                }
                self.ledger.standing.send_replace(Standing::Own);
            }
            Ok(other) => drop(self.ledger.standing.send_replace(other)),
            // Whoever was sure stays so: a state that is away names no others.
            Err(_) if matches!(before, Standing::Own) => {}
            Err(why) => {
                if !matches!(&before, Standing::Unknown(last) if *last == why) {
                    warn!(%why, "the records wait until the shared state says whose it is");
                }
                self.ledger.standing.send_replace(Standing::Unknown(why));
            }
        }
    }

    async fn ask(&self) -> std::result::Result<Standing, String> {
        let own = self.ledger.id().await.map_err(|error| chain(&error))?;
        let now_ms = self.state.clock.now_ms();
        let lease = self.state.leases.acquire(LEASE, &own, now_ms, now_ms.saturating_add(LEASE_LIFE_MS)).await;
        let theirs = lease.map_err(|error| chain(&error))?.holder;
        Ok(if theirs == own {
            Standing::Own
        } else {
            Standing::Foreign(ForeignLedger { place: self.ledger.place.to_string(), own, theirs })
        })
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

impl Ledger {
    /// The name that these records were given when they were made.
    ///
    /// # Errors
    /// When the records do not answer.
    pub async fn id(&self) -> Result<String> {
        const READ: &str = "SELECT id FROM t_ledger WHERE one = 1";
        let what = "reading the name of the records";
        // Past the guard: it is the one who asks.
        let mut call = self.database.read(what, self.call_timeout).await?;
        let row: Option<(String,)> = call.row(READ, &[]).await?;
        call.finish();
        row.map(|(id,)| id).ok_or_else(|| RecordError::Unreadable { what: "the row of t_ledger is not there".to_owned() })
    }
}
