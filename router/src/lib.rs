//! Decides who receives what, and owns the live-room services.
//!
//! - A message comes up a link, is decided on its room's (or user's) own queue, and leaves as pushes: at most one link message per gateway.
//! - A room has one owner, under a lease with an epoch; losing the lease stops the room at once.
//! - The gateway is a peer on a link: nothing here knows a socket of a client.
#![forbid(unsafe_code)]

mod bug;
mod callout;
mod clock;
mod config;
mod core;
mod delivery;
mod dispatch;
mod drain;
mod error;
mod failpoint;
mod fleet;
pub mod handle;
mod housekeeping;
pub mod http;
pub mod ledger;
mod link;
mod membership;
mod metrics;
mod ownership;
mod peers;
mod reach;
mod resend;
mod right;
mod room;
mod route;
pub mod services;
mod signature;
mod sms;
mod sweeper;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod timers;
pub mod webhooks;
mod whispers;

pub use callout::EndpointError;
pub use config::{
    ChatConfig, ConfigError, GiftConfig, LinkConfig, LoginConfig, PkConfig, PushConfig, RoomConfig, RouterConfig, SmsConfig, SmsProvider,
    is_mask,
};
pub use error::Refusal;
pub use handle::Handle;
pub use http::HttpConfig;

use billfish_link::{
    Link, LinkError, PeerKind,
    tcp::{Acceptor, Timing},
};
use billfish_state::{Displacement, NotJoined, State};
use core::{Core, Stores};
use metrics::Metrics;
use prometheus_client::registry::Registry;
use services::ports::{
    RecordError, RoomRecords,
    money::{Money, Till},
    people::People,
};
use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, time::Instant};

/// What a router is made of.
pub struct RouterParts<'a> {
    /// Its configuration.
    pub config: RouterConfig,
    /// The live state it shares with gateways and other routers.
    pub state: State,
    /// What outlives a restart.
    pub records: Arc<dyn RoomRecords>,
    /// Wallets, gifts and recharges.
    pub money: Arc<dyn Money>,
    /// Where gifts are paid.
    pub till: Arc<dyn Till>,
    /// Users, their phones and tags, and ids.
    pub people: Arc<dyn People>,
    /// Where its metrics go.
    pub registry: &'a mut Registry,
}

/// Why a router did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A value of the configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The records have something that cannot be read. Those that do not answer are waited for.
    #[error("the records cannot be read")]
    Records(#[from] RecordError),
    /// Messages to phones cannot be sent as configured.
    #[error("configuration key `router.sms.url`")]
    Sms(#[from] EndpointError),
    /// It may not register under its name, or as it is set.
    #[error("cannot join the others as `router.node` = {node:?}")]
    Join {
        /// Its name.
        node: String,
        /// Why not.
        #[source]
        cause: NotJoined,
    },
    /// The address is taken, or not ours.
    #[error("cannot listen on {address} for links")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// A router at work. Ends by [`Running::drain`]; dropped, its tasks go with the runtime.
#[derive(Debug)]
pub struct Running {
    core: Arc<Core>,
    link_address: Option<SocketAddr>,
}

/// Starts a router on the runtime of the caller.
///
/// # Errors
/// A configuration that cannot work, records that cannot be read, an address that is taken. What had begun has ended then.
pub async fn start(parts: RouterParts<'_>) -> Result<Running, StartError> {
    let RouterParts { mut config, state, records, money, till, people, registry } = parts;
    config.validate()?;
    let sms = sms::sender(&config.sms)?;
    let listener = match config.link.listen {
        Some(address) => Some(TcpListener::bind(address).await.map_err(|cause| StartError::Listen { address, cause })?),
        None => None,
    };
    // The port that was bound is the one others are told.
    config.link.listen = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let link_address = config.link.listen;
    let incarnation = housekeeping::join(&state, &config).await?;
    let words = first_words(&*records).await?;
    let (lanes, lane_receivers) = dispatch::Lanes::new();
    registry.register_collector(Box::new(metrics::Kept(state.watch.clone())));
    let stores = Stores { state, records, money, till, people, sms };
    let core = Arc::new_cyclic(|me| Core::new(config, stores, Metrics::register(registry), lanes, incarnation, me.clone()));
    match words {
        Some(words) => core.set_house_words(&words),
        None => core.set_records_away(true),
    }
    core.register().await;
    for receiver in lane_receivers {
        core.tasks.spawn(dispatch::run_lane(Arc::clone(&core), receiver));
    }
    core.tasks.spawn(housekeeping::keep_registered(Arc::clone(&core)));
    core.tasks.spawn(housekeeping::keep_lists(Arc::clone(&core)));
    core.tasks.spawn(housekeeping::keep_words(Arc::clone(&core)));
    core.tasks.spawn(housekeeping::keep_told(Arc::clone(&core)));
    core.tasks.spawn(sweeper::keep_swept(Arc::clone(&core)));
    if let Some(listener) = listener {
        core.tasks.spawn(accept(Arc::clone(&core), listener));
    }
    Ok(Running { core, link_address })
}

/// The block-list of the house; none while the records do not answer. They may be waiting for a shared state that is starting, too: a router
/// that ended by it would have to be started by hand once more.
async fn first_words(records: &dyn RoomRecords) -> Result<Option<Vec<String>>, RecordError> {
    match records.block_words().await {
        Ok(words) => Ok(Some(words)),
        Err(error @ RecordError::Away { .. }) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "starts without the records, and is not ready until they answer");
            Ok(None)
        }
        Err(error @ RecordError::Unreadable { .. }) => Err(error),
    }
}

impl Running {
    /// Serves a gateway at the other end of this link, or another router that asks over it, until the link ends.
    pub fn attach(&self, link: Link) {
        take_in(&self.core, link);
    }

    /// Asks over this link what other routers' rooms are to do, until it ends. The other end is given to [`Running::attach`].
    pub fn attach_peer(&self, link: Link) {
        let core = Arc::clone(&self.core);
        self.core.tasks.spawn(async move {
            peers::carry(&core, link, &core.stop).await;
        });
    }

    /// From now on webhooks hear of users who come and go.
    pub fn tell_users_to(&self, words: webhooks::UserWords) {
        // Told once; a router has one set of them.
        drop(self.core.user_words.set(words));
    }

    /// The face towards the HTTP API.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.core))
    }

    /// Whether it can serve, or why not: it drains, the shared state or the records are away, or there are no lists of rooms yet.
    ///
    /// # Errors
    /// The reason, for a person.
    pub fn readiness(&self) -> Result<(), String> {
        self.core.readiness()
    }

    /// Whether a later process bears this router's name, which it cannot go on with.
    #[must_use]
    pub fn displacement(&self) -> Displacement {
        self.core.displacement.clone()
    }

    /// Where gateways of other processes dial in, when they may: the port that was bound, also when the configuration says 0.
    #[must_use]
    pub fn link_address(&self) -> Option<SocketAddr> {
        self.link_address
    }

    /// The life of this router: rises with every start.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.core.incarnation
    }

    /// Finishes what has begun, takes nothing new, gives its rooms back and ends its links, within the grace period. From its first moment
    /// on the router is not ready and says that it drains; its [`Handle`] still answers, mostly by refusing.
    pub async fn drain(&self) {
        drain::drain(&self.core).await;
    }
}

/// Takes in links until the router stops.
async fn accept(core: Arc<Core>, listener: TcpListener) {
    let mut acceptor = Acceptor::new(listener, core.identity(), Timing::default());
    let mut told = Told::default();
    loop {
        // Cancel-safe: `Acceptor::accept` keeps hellos under way.
        let accepted = tokio::select! {
            accepted = acceptor.accept() => accepted,
            () = core.stop.cancelled() => return,
        };
        match accepted {
            Ok(link) if !core.is_draining() => take_in(&core, link),
            Ok(_) => {}
            Err(error) => {
                core.metrics.link_refused("hello");
                if told.is_news(&error, Instant::now()) {
                    tracing::warn!(error = &error as &dyn std::error::Error, every = ?TELL_EVERY, "links do not come about");
                }
            }
        }
    }
}

/// A node that is set wrongly dials some times a second, for as long as it is: its attempts are told now and then.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// When each kind of failure was told last.
#[derive(Debug, Default)]
struct Told(HashMap<std::mem::Discriminant<LinkError>, Instant>);

impl Told {
    fn is_news(&mut self, error: &LinkError, now: Instant) -> bool {
        let last = self.0.entry(std::mem::discriminant(error)).or_insert(now);
        let is_news = *last == now || now.duration_since(*last) >= TELL_EVERY;
        if is_news {
            *last = now;
        }
        is_news
    }
}

fn take_in(core: &Arc<Core>, link: Link) {
    match link.kind {
        PeerKind::Gateway => core.tasks.spawn(link::serve(Arc::clone(core), link)),
        PeerKind::Router => core.tasks.spawn(peers::serve(Arc::clone(core), link)),
    };
}
