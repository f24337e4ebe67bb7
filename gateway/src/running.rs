//! Putting a gateway together, and what it is while it runs.
//!
//! - The order of starting is the order of need: counters, store, shards, the tasks that take from them, links, the registry last, because
//!   it is what brings clients.
//! - [`Parts::stop`] is the reverse: shards first, then everything that they might still have had something to say to.

use crate::{
    acks::Acks,
    admin::{self, Pages, ReadyCheck},
    admission::Gate,
    auth::{Auth, Lanes, Revoked},
    certificates::Certificates,
    clock::Uptime,
    commands::Shards,
    config::GatewayConfig,
    directory::Directory,
    drain,
    error::StartError,
    events::{Desk, run_patience},
    fanout::Fanout,
    health::Health,
    link,
    logouts::Logouts,
    memory::resident_bytes,
    metrics::{Account, ControlCounters, Metrics, ShardGauges},
    presence::{Presence, PresenceParts},
    quic::{self, QuicDoor},
    registry::{self, Registration},
    routers::Routers,
    shard::{
        Doorway, Entrance, Handshakes, Shard, ShardHandle, ShardParts, listeners,
        message::{Admission, ShardCommand},
    },
    store::Store,
    upstream::Upstream,
    watermarks::{Watermarks, files_max},
};
use billfish_link::{Link, PeerKind, tcp::Identity};
use billfish_state::{Displacement, State};
use prometheus_client::registry::Registry;
use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// What a gateway is made of.
#[derive(Debug)]
pub struct GatewayParts<'a> {
    /// What is set about it.
    pub config: GatewayConfig,
    /// Shared with all gateways and routers.
    pub state: State,
    /// The way to the routers.
    pub links: Links,
    /// Where its metrics are registered.
    pub registry: &'a mut Registry,
}

/// How a gateway comes by its links.
#[derive(Debug)]
pub enum Links {
    /// Those that the caller attaches: the ends of pipes to a router in the same process.
    Attached,
    /// Those to `link.routers` of the configuration, or where that is empty to the routers of the registry, dialled again and again.
    Dialled,
}

/// A gateway that runs. Dropping it ends it at once, without a word to anyone; see [`Running::drain`].
#[derive(Debug)]
pub struct Running {
    /// `None` only while it ends.
    pub(crate) parts: Option<Parts>,
    bound: BTreeMap<&'static str, SocketAddr>,
}

/// Everything that runs, and how it is reached.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) config: GatewayConfig,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) registration: Arc<Registration>,
    pub(crate) shards: Shards,
    upstream: Arc<Upstream>,
    fanout: Arc<Fanout>,
    handles: Vec<ShardHandle>,
    /// `None`: not open, or closed again.
    pub(crate) quic: Option<QuicDoor>,
    /// Where links are driven, whoever attaches them.
    runtime: Handle,
    /// End when the shards' mailboxes do.
    desks: JoinSet<()>,
    /// End when told so, with their last writes.
    writers: Tasks,
    /// End when told so, with their last words.
    links: Mutex<Tasks>,
}

/// Tasks that end together.
#[derive(Debug, Default)]
struct Tasks {
    set: JoinSet<()>,
    stop: CancellationToken,
}

impl Tasks {
    async fn end(&mut self) {
        self.stop.cancel();
        finish(&mut self.set).await;
    }
}

/// Waits for all of them. A panic of one is told, and does not keep the others from ending.
async fn finish(set: &mut JoinSet<()>) {
    while let Some(ended) = set.join_next().await {
        if let Err(panic) = ended {
            error!(%panic, "a task of the gateway panicked");
        }
    }
}

/// Starts a gateway. When this returns, it listens.
///
/// # Errors
/// A key of the configuration, the address, or the kernel. Nothing is left running then.
pub async fn start(parts: GatewayParts<'_>) -> Result<Running, StartError> {
    let GatewayParts { config, state, links, registry: metrics_registry } = parts;
    config.validate().map_err(StartError::Config)?;
    let certificates = certificates(&config)?;
    match &certificates {
        Some(certificates) => certificates.warn_of_validity(),
        None if config.listen.tls.is_some() || config.listen.quic.is_some() => {
            info!("gateway.tls.certificates is empty: gateway.listen.tls and gateway.listen.quic stay closed");
        }
        None => {}
    }
    let handshakes = Arc::new(Handshakes::new(config.tls.handshakes_per_s));
    let Doors { doors, udp, bound, advertised } = open_doors(&config, certificates.as_ref(), &handshakes)?;
    let joined = registry::join(&state, &config.node, &advertised).await;
    let incarnation = joined.map_err(|cause| StartError::Join { node: config.node.clone(), cause })?;

    let counters = Arc::new(ControlCounters::default());
    let watermarks = Arc::new(Watermarks::new(&config.files, &config.memory));
    let gate = Arc::new(Gate::new(&config.admission, &config.proxy, Arc::clone(&watermarks), Arc::clone(&counters)));
    // From the first connection on.
    watermarks.look(0);
    let connections_max = gate.connections_max();
    warn_of_too_few_files(connections_max, &watermarks);
    let handles = spawn_shards(&config, doors, &gate)?;
    let quic = match (udp, &certificates) {
        (Some((address, socket)), Some(certificates)) => {
            let admission = Arc::clone(&gate) as Arc<dyn Admission>;
            let door = QuicDoor::open(socket, &config, certificates, &handles, admission, handshakes, Arc::clone(&counters));
            Some(door.map_err(|cause| {
                stop_shards(&handles);
                StartError::Listen { transport: "quic", address, cause }
            })?)
        }
        _ => None,
    };
    let shards = Shards::new(handles.iter().map(|handle| Arc::clone(&handle.commands)).collect());

    let uptime = Uptime::start();
    let store = Arc::new(Store::new(state, Arc::clone(&counters)));
    let directory = Arc::new(Directory::default());
    let upstream = Arc::new(Upstream::new(Arc::clone(&counters)));
    let health = Arc::new(Health::new(Arc::clone(&store), Arc::clone(&upstream), shards.clone()));
    let metrics = Arc::new(Metrics {
        shards: handles.iter().map(gauges).collect(),
        control: Arc::clone(&counters),
        directory: Arc::clone(&directory),
        resident_at_start: resident_bytes().unwrap_or_default(),
        memory_budget_bytes: watermarks.budget_bytes(),
        certificates: certificates.clone(),
    });
    metrics_registry.register_collector(Box::new(Arc::clone(&metrics)));

    let presence = Arc::new(Presence::new(PresenceParts {
        store: Arc::clone(&store),
        directory: Arc::clone(&directory),
        upstream: Arc::clone(&upstream),
        shards: shards.clone(),
        counters: Arc::clone(&counters),
        heartbeat_gap: config.session.heartbeat_gap,
        uptime,
        node: config.node.clone(),
        incarnation,
    }));
    let acks = Arc::new(Acks::new(Arc::clone(&store), &counters));
    let logouts = Arc::new(Logouts::new(Arc::clone(&store), Arc::clone(&directory), shards.clone()));
    let auth = Arc::new(Auth {
        gate: Arc::clone(&gate),
        store: Arc::clone(&store),
        directory: Arc::clone(&directory),
        presence: Arc::clone(&presence),
        shards: shards.clone(),
        counters: Arc::clone(&counters),
        revoked: Revoked::new(Arc::clone(&store), &counters),
        logouts: Arc::clone(&logouts),
        node: config.node.clone(),
        incarnation,
        user_logins_per_minute: config.admission.user_logins_per_minute,
        last_session: AtomicU64::new(0),
        uptime,
    });
    let registration = Arc::new(Registration {
        store: Arc::clone(&store),
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
        node: config.node.clone(),
        incarnation,
        addresses: advertised,
        connections_max,
        heartbeat_gap: config.session.heartbeat_gap,
        silence: config.session.silence(),
    });
    let fanout = Arc::new(Fanout {
        upstream: Arc::clone(&upstream),
        directory: Arc::clone(&directory),
        shards: shards.clone(),
        counters: Arc::clone(&counters),
        uptime,
    });

    let (lanes, lane_ends) = Lanes::new();
    let desk = Arc::new(Desk {
        lanes,
        auth: Arc::clone(&auth),
        upstream: Arc::clone(&upstream),
        directory,
        presence: Arc::clone(&presence),
        acks: Arc::clone(&acks),
        shards: shards.clone(),
        counters,
        uptime,
    });
    let mut desks = JoinSet::new();
    for handle in &handles {
        let (desk, events, shard) = (Arc::clone(&desk), Arc::clone(&handle.events), handle.index);
        desks.spawn(async move { desk.run(shard, &events).await });
    }
    for lane in lane_ends {
        let auth = Arc::clone(&auth);
        // The lanes end when the last desk, which feeds them, is dropped.
        desks.spawn(async move { auth.run_lane(lane).await });
    }

    // The desks alone hold the way to the lanes now.
    drop(desk);

    let mut writers = Tasks::default();
    let stop = || writers.stop.clone();
    let (health_stop, patience_stop) = (stop(), stop());
    let (presence_stop, acks_stop, auth_stop) = (stop(), stop(), stop());
    let pulse = Arc::clone(&health);
    writers.set.spawn(async move { pulse.run(&health_stop).await });
    if let Some(certificates) = certificates.clone() {
        let stop = stop();
        writers.set.spawn(async move { certificates.follow(&stop).await });
    }
    let (toward, marks_stop) = (shards.clone(), stop());
    writers.set.spawn(async move { watermarks.run(&gate, &toward, &marks_stop).await });
    let (waiting, toward) = (Arc::clone(&upstream), shards.clone());
    writers.set.spawn(async move { run_patience(&waiting, &toward, uptime, &patience_stop).await });
    writers.set.spawn(async move { presence.run(&presence_stop).await });
    writers.set.spawn(async move { acks.run(&acks_stop).await });
    writers.set.spawn(async move { auth.revoked.run(&auth_stop).await });
    let logouts_stop = stop();
    writers.set.spawn(async move { logouts.run(&logouts_stop).await });

    let mut parts = Parts {
        config,
        health,
        metrics,
        registration,
        shards,
        upstream,
        fanout,
        handles,
        quic,
        runtime: Handle::current(),
        desks,
        writers,
        links: Mutex::default(),
    };
    parts.follow_routers(store, incarnation, matches!(links, Links::Dialled));
    // The first entry is there when this returns; without a link it says that nobody is taken in yet.
    let (entry, stop) = (Arc::clone(&parts.registration), parts.writers.stop.clone());
    entry.renew().await;
    parts.writers.set.spawn(async move { entry.run(&stop).await });
    let ports = bound.iter().map(|(transport, address)| format!("{transport} {address}")).collect::<Vec<_>>().join(" ");
    info!(node = %parts.config.node, ports, shards = parts.handles.len(), "gateway up");
    Ok(Running { parts: Some(parts), bound })
}

/// Whoever set `connections_max` reckons with so many, and would learn of the mark from those who are refused.
fn warn_of_too_few_files(connections_max: u32, watermarks: &Watermarks) {
    let files_refuse_from = watermarks.files_refuse_from();
    if u64::from(connections_max) > files_refuse_from {
        warn!(
            connections_max,
            files_refuse_from,
            files_max = files_max(),
            "gateway.admission.connections_max is more than the open files of this process allow (gateway.files.refuse_percent of ulimit -n): \
             connections are refused before there are as many"
        );
    }
}

/// What is listened on.
struct Doors {
    /// Those of each shard.
    doors: Vec<Vec<Doorway>>,
    /// The one of them all.
    udp: Option<(SocketAddr, UdpSocket)>,
    bound: BTreeMap<&'static str, SocketAddr>,
    /// What others are told, in the order of a client's choice.
    advertised: Vec<(String, String)>,
}

/// Reads the certificates as [`start`] does, and opens nothing.
///
/// # Errors
/// The first file that [`start`] would refuse.
pub fn check_certificates(config: &GatewayConfig) -> Result<(), StartError> {
    certificates(config).map(drop)
}

/// The certificates, where TLS or QUIC is asked for and there are any.
fn certificates(config: &GatewayConfig) -> Result<Option<Arc<Certificates>>, StartError> {
    if config.listen.tls.is_none() && config.listen.quic.is_none() || config.tls.certificates.is_empty() {
        return Ok(None);
    }
    Certificates::load(&config.tls).map(|certificates| Some(Arc::new(certificates))).map_err(StartError::Certificates)
}

fn open_doors(config: &GatewayConfig, certificates: Option<&Arc<Certificates>>, handshakes: &Arc<Handshakes>) -> Result<Doors, StartError> {
    let mut doors: Vec<Vec<Doorway>> = (0..config.shard_count()).map(|_| Vec::new()).collect();
    let (mut udp, mut bound, mut advertised) = (None, BTreeMap::new(), Vec::new());
    for (transport, address, advertise) in config.listen.ports() {
        let entrance = match (transport, certificates) {
            ("tls" | "quic", None) => continue,
            ("tls", Some(certificates)) => Entrance::Tls(Arc::new(certificates.server_config())),
            ("ws", _) => Entrance::WebSocket,
            _ => Entrance::Plain,
        };
        let Some(address) = address else { continue };
        let wrong = |cause| StartError::Listen { transport, address, cause };
        let mut at = address;
        if transport == "quic" {
            let socket = quic::bind(address).map_err(wrong)?;
            at = socket.local_addr().map_err(wrong)?;
            udp = Some((at, socket));
        } else {
            for (listener, doors) in listeners(address, doors.len()).map_err(wrong)?.into_iter().zip(&mut doors) {
                at = listener.local_addr().map_err(wrong)?;
                let handshakes = matches!(entrance, Entrance::Tls(_)).then(|| Arc::clone(handshakes));
                doors.push(Doorway { listener, entrance: entrance.clone(), handshakes });
            }
        }
        bound.insert(transport, at);
        advertised.push((transport.to_owned(), if advertise.is_empty() { at.to_string() } else { advertise.to_owned() }));
    }
    Ok(Doors { doors, udp, bound, advertised })
}

fn spawn_shards(config: &GatewayConfig, doors: Vec<Vec<Doorway>>, gate: &Arc<Gate>) -> Result<Vec<ShardHandle>, StartError> {
    let session = Arc::new(config.server());
    let epoch = Instant::now();
    let mut handles = Vec::new();
    for (shard, doors) in doors.into_iter().enumerate() {
        let parts = ShardParts {
            index: u16::try_from(shard).expect("validate() bounds the shards"),
            doors,
            websocket: config.websocket.rules(),
            config: config.shard(),
            session: Arc::clone(&session),
            admission: Arc::clone(gate) as Arc<dyn Admission>,
            epoch,
        };
        match Shard::spawn(parts) {
            Ok(handle) => handles.push(handle),
            Err(cause) => {
                stop_shards(&handles);
                return Err(StartError::Shard { shard, cause });
            }
        }
    }
    Ok(handles)
}

fn gauges(handle: &ShardHandle) -> ShardGauges {
    ShardGauges { counters: Arc::clone(&handle.counters), commands: Arc::clone(&handle.commands), events: Arc::clone(&handle.events) }
}

/// Tells the threads to end. One whose mailbox is full ends by its closing.
fn stop_shards(handles: &[ShardHandle]) {
    for handle in handles {
        if handle.commands.push(ShardCommand::Stop).is_err() {
            handle.commands.close();
        }
    }
}

impl Parts {
    /// Drives one more link.
    fn attach(&self, link: Link) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let (fanout, stop) = (Arc::clone(&self.fanout), links.stop.clone());
        while links.set.try_join_next().is_some() {}
        links.set.spawn_on(async move { drop(link::drive(link, &fanout, &stop).await) }, &self.runtime);
    }

    /// A link that is attached needs no more than its task's first turn.
    async fn wait_for_a_link(&self) {
        let first = async {
            while self.health.has_no_link() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(FIRST_LINK_WAIT, first).await.is_err() {
            warn!("the link that was attached has not come up");
        }
    }

    /// Watches which routers there are, and keeps those dialled that are to be.
    fn follow_routers(&self, store: Arc<Store>, incarnation: u64, dials: bool) {
        let link = &self.config.link;
        let secret = link.secret.clone();
        let in_flight = self.metrics.control.link_in_flight.clone();
        let identity = Identity { node: self.config.node.clone(), kind: PeerKind::Gateway, incarnation, secret, in_flight };
        let named = if dials { link.routers.clone() } else { Vec::new() };
        let discovers = dials && link.discover && named.is_empty();
        let routers = Routers { store, fanout: Arc::clone(&self.fanout), identity, named, discovers };
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let stop = links.stop.clone();
        links.set.spawn_on(async move { routers.run(&stop).await }, &self.runtime);
    }

    /// Ends everything, in the order in which nothing is lost that can still be said.
    pub(crate) async fn stop(&mut self) {
        let mut commands = self.shards.gather();
        for shard in self.shards.numbers() {
            commands.add(shard, ShardCommand::Stop);
        }
        self.shards.give(&mut commands).await;
        let handles = std::mem::take(&mut self.handles);
        let joined =
            tokio::task::spawn_blocking(move || handles.into_iter().map(|handle| (handle.index, handle.join())).collect::<Vec<_>>());
        for (shard, ended) in joined.await.unwrap_or_default() {
            if ended.is_err() {
                error!(shard, "the shard had panicked");
            }
        }
        self.health.shards_ended();
        if let Some(quic) = self.quic.take() {
            quic.close().await;
        }
        // Their last events are in the mailboxes, which are closed now: the desks take them and end.
        finish(&mut self.desks).await;
        self.writers.end().await;
        let mut links = std::mem::take(self.links.get_mut().unwrap_or_else(PoisonError::into_inner));
        links.end().await;
    }
}

impl Running {
    /// Where clients connect, by transport: `tcp`, `ws`, `tls`, `quic`; only what is open.
    #[must_use]
    pub const fn bound(&self) -> &BTreeMap<&'static str, SocketAddr> {
        &self.bound
    }

    /// Where clients connect by plain TCP.
    ///
    /// # Panics
    /// Never: that door is always open.
    #[must_use]
    pub fn tcp_addr(&self) -> SocketAddr {
        self.bound["tcp"]
    }

    /// The life of this gateway: rises with every start, and stands in the routes of its sessions. The router's end of a link that is given
    /// has to name it.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.parts.as_ref().map_or(0, |parts| parts.registration.incarnation)
    }

    /// The configured address of a gateway's own admin port; whoever serves [`Running::admin_router`] binds it.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.parts().config.admin.listen
    }

    /// The operator's pages. `registry` is the one given to [`start`], complete by now; `more` has to be ready as well.
    pub fn admin_router(&self, registry: Arc<Registry>, more: Vec<ReadyCheck>) -> axum::Router {
        let parts = self.parts();
        admin::router(Pages {
            registry,
            health: Arc::clone(&parts.health),
            upstream: Arc::clone(&parts.upstream),
            shards: parts.shards.clone(),
            more,
        })
    }

    /// Whether clients should be sent here.
    ///
    /// # Errors
    /// Why not, for a person.
    pub fn ready(&self) -> Result<(), String> {
        self.parts().health.ready()
    }

    /// Whether a later process bears this gateway's name, which it cannot go on with.
    #[must_use]
    pub fn displacement(&self) -> Displacement {
        self.parts().health.displacement.clone()
    }

    /// Drives the first link to a router, and waits until it is up and the registry says so: whoever asks for a gateway now is told of this.
    pub async fn attach_first(&self, link: Link) {
        self.attach(link);
        self.parts().wait_for_a_link().await;
        self.parts().registration.renew().await;
    }

    /// Drives one more link to a router; one that is there already for the same router ends.
    pub fn attach(&self, link: Link) {
        self.parts().attach(link);
    }

    /// Where the copies of all pushes are.
    #[must_use]
    pub fn account(&self) -> Account {
        self.parts().metrics.account()
    }

    /// Goes down: takes nobody new, sends everybody elsewhere, closes them at a pace, and after `grace` those who are left.
    pub async fn drain(self, grace: Duration) {
        drain::drain(self, grace).await;
    }

    /// Goes down with the configured grace.
    pub async fn drain_configured(self) {
        let grace = self.parts().config.drain.grace;
        drain::drain(self, grace).await;
    }

    fn parts(&self) -> &Parts {
        self.parts.as_ref().expect("parts are taken by what consumes the gateway")
    }
}

/// A task's first turn takes so long on no machine.
const FIRST_LINK_WAIT: Duration = Duration::from_secs(1);

impl Drop for Parts {
    fn drop(&mut self) {
        // Tasks end with their sets; threads have to be told.
        stop_shards(&self.handles);
    }
}
