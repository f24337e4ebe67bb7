//! What every kind of node does the same way: runtime, signals, shared state, the operator's port, the ports file.

use crate::config::{Config, StateKind};
use anyhow::{Context, Error, Result};
use axum::{
    Router,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use billfish_router::http::{Bounds, HttpServer};
use billfish_state::{State, redis::Redis};
use prometheus_client::registry::Registry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};
use tracing::{error, info, warn};

/// Runs a node on a runtime of its own.
pub(crate) fn run(node: impl Future<Output = Result<()>>) -> Result<()> {
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(node)
}

/// One file per connection: the soft limit is a shell's habit, the hard one is the operator's word.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        warn!(%error, "cannot raise the limit of open files to the hard limit");
    }
}

/// The live state as configured.
pub(crate) struct SharedState {
    pub(crate) state: State,
    redis: Option<Redis>,
}

impl SharedState {
    /// In this process, or in Redis. A Redis that is not there yet is waited for behind: the node starts, and is not ready.
    /// `node` is this process' name, in this life and the next, among those of all kinds.
    pub(crate) async fn open(config: &Config, node: &str, registry: &mut Registry) -> Result<Self> {
        match config.state.kind {
            StateKind::Memory => Ok(Self { state: State::in_memory(), redis: None }),
            StateKind::Redis => {
                let redis = Redis::start_as(node, config.state.redis.clone(), registry).await.context("cannot use state.redis")?;
                Ok(Self { state: redis.state(), redis: Some(redis) })
            }
        }
    }

    pub(crate) async fn close(self) {
        if let Some(redis) = self.redis {
            redis.stop().await;
        }
    }
}

/// What a caller may take of the operator's port. Probes and scrapes are few and short; the longest page waits two seconds for the shards.
const ADMIN_BOUNDS: Bounds = Bounds { connections_max: 256, header_timeout: Duration::from_secs(15), grace: Duration::from_secs(3) };

/// The operator's port while it is open. It opens last and closes last: while everything else ends it says so.
pub(crate) struct Admin {
    pub(crate) address: SocketAddr,
    server: HttpServer,
}

impl Admin {
    /// Serves the pages at `admin.listen`, and the one that stops the node.
    pub(crate) async fn start(listen: SocketAddr, pages: Router, signals: &Signals) -> Result<Self> {
        let asked = Arc::clone(&signals.asked);
        let pages = pages.route("/drain", post(move |headers: HeaderMap| async move { drain(&asked, &headers) }));
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen} for the admin port (admin.listen)"))?;
        let server = HttpServer::serve(listener, pages, ADMIN_BOUNDS).context("the admin port has no address")?;
        Ok(Self { address: server.address(), server })
    }

    pub(crate) async fn stop(self) {
        self.server.stop().await;
    }
}

/// Stops the node as SIGTERM does. It wants a header that no form and no link of a web page can send: the port has no other protection.
fn drain(asked: &Notify, headers: &HeaderMap) -> Response {
    if !headers.contains_key(DRAIN_HEADER) {
        let why = format!("send the header {DRAIN_HEADER}, with any value\n");
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    asked.notify_one();
    (StatusCode::ACCEPTED, "draining\n").into_response()
}

const DRAIN_HEADER: &str = "Billfish-Drain";

/// What was bound, by its name in the ports file.
#[derive(Default)]
pub(crate) struct Ports(Map<String, Value>);

impl Ports {
    pub(crate) fn with(mut self, name: &str, address: SocketAddr) -> Self {
        self.0.insert(name.to_owned(), Value::String(address.to_string()));
        self
    }

    pub(crate) fn with_all(mut self, addresses: &BTreeMap<&'static str, SocketAddr>) -> Self {
        for (name, address) in addresses {
            self = self.with(name, *address);
        }
        self
    }

    /// Writes the addresses as JSON, whole or not at all: whoever waits for the file reads it as soon as it is there.
    pub(crate) fn write(self, path: Option<&Path>) -> Result<()> {
        let Some(path) = path else { return Ok(()) };
        let half = path.with_extension("partial");
        fs::write(&half, format!("{}\n", Value::Object(self.0)))
            .with_context(|| format!("cannot write the ports file {}", half.display()))?;
        fs::rename(&half, path).with_context(|| format!("cannot write the ports file {}", path.display()))
    }
}

/// Where clients connect, for a person.
pub(crate) fn places(addresses: &BTreeMap<&'static str, SocketAddr>) -> String {
    addresses.iter().map(|(transport, address)| format!("{transport} {address}")).collect::<Vec<_>>().join(", ")
}

/// SIGINT and SIGTERM, and the same asked for at the operator's port.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    asked: Arc<Notify>,
}

impl Signals {
    /// Before anything is opened: a signal that comes while starting stops what has been started.
    pub(crate) fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).context("cannot listen for signals");
        let (interrupt, terminate) = (catch(SignalKind::interrupt())?, catch(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, asked: Arc::default() })
    }

    /// Waits for the first signal, for an operator's call, or for what the node cannot go on with, then stops by `drain`. A second signal ends
    /// the process at once; a first one behind the call does not, for to drain and then to stop is what an orchestrator does.
    ///
    /// # Errors
    /// What it could not go on with.
    pub(crate) async fn stop_by(mut self, failure: impl Future<Output = Error>, drain: impl Future<Output = ()>) -> Result<()> {
        let asked = Arc::clone(&self.asked);
        let (mut is_signalled, failure) = tokio::select! {
            () = self.next() => (true, None),
            () = asked.notified() => (false, None),
            failure = failure => (false, Some(failure)),
        };
        match &failure {
            None => info!("stopping; a second signal ends the process at once"),
            Some(failure) => error!("stopping, for this node cannot go on: {failure:#}"),
        }
        let mut drain = pin!(drain);
        loop {
            tokio::select! {
                () = &mut drain => break info!("stopped"),
                () = self.next() => {
                    if !std::mem::replace(&mut is_signalled, true) {
                        info!("stopping already; one more signal ends the process at once");
                        continue;
                    }
                    warn!("stopped by a second signal; connections were cut");
                    // Nothing more is owed to anyone, and nothing that was confirmed is lost: the records are on the disk.
                    std::process::exit(1);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
