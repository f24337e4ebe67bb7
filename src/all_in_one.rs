//! Everything in one process: records, router, gateway, HTTP API, operator's pages. The link is a pipe, the state is in memory.
//!
//! Starts in the order of need and stops in the reverse: clients are sent away first, while everything behind them still works.

use crate::{api_key, config::Config, load, logs, options::RunOptions};
use anyhow::{Context, Result};
use billfish_gateway::{GatewayParts, Links, admin::ReadyCheck};
use billfish_link::pipe;
use billfish_router::{
    RouterParts,
    http::{self, HttpParts},
    ledger::Ledger,
};
use billfish_state::State;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use std::{fs, net::SocketAddr, path::Path, sync::Arc};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Runs until a signal and stops cleanly.
pub(crate) fn run(options: &RunOptions) -> Result<()> {
    let config = load(&options.config)?;
    logs::start(options.log_format);
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(serve(config, options.ports_file.as_deref()))
}

async fn serve(config: Config, ports_file: Option<&Path>) -> Result<()> {
    // Before anything is opened: a signal that comes while starting stops what has been started.
    let mut signals = Signals::catch()?;
    let ledger = Ledger::open(&config.data_dir).await?;
    let mut http_config = config.http.clone();
    let mut is_new_key = false;
    if http_config.api_key.is_empty() {
        (http_config.api_key, is_new_key) = api_key::load_or_create(&config.data_dir)?;
    }

    let state = State::in_memory();
    let mut registry = Registry::default();
    let router = billfish_router::start(RouterParts {
        config: config.router.clone(),
        state: state.clone(),
        records: Arc::new(ledger.clone()),
        registry: &mut registry,
    })
    .await?;
    let (gateway_end, router_end) = pipe::pair(&config.gateway.node, &config.router.node, router.incarnation());
    router.attach(router_end);
    let gateway = billfish_gateway::start(GatewayParts {
        config: config.gateway.clone(),
        state: state.clone(),
        links: Links::Given(vec![gateway_end]),
        registry: &mut registry,
    })
    .await?;
    let parts = HttpParts { handle: router.handle(), state, ledger: ledger.clone() };
    let http = http::start(parts, &http_config, &mut registry).await?;

    let admin = TcpListener::bind(config.admin.listen)
        .await
        .with_context(|| format!("cannot listen on {} for the admin port (admin.listen)", config.admin.listen))?;
    let admin_address = admin.local_addr().context("the admin port has no address")?;
    let router = Arc::new(router);
    let watched = Arc::downgrade(&router);
    let router_is_ready: ReadyCheck = Box::new(move || match watched.upgrade() {
        Some(router) if router.ready() => Ok(()),
        _ => Err("the router has no lists of rooms yet, or is draining".to_owned()),
    });
    let pages = gateway.admin_router(Arc::new(registry), vec![router_is_ready]);
    let stop_admin = CancellationToken::new();
    let until = stop_admin.clone();
    let admin = tokio::spawn(async move { axum::serve(admin, pages).with_graceful_shutdown(until.cancelled_owned()).await });

    let bound = Bound { tcp: gateway.tcp_addr(), http: http.address(), admin: admin_address };
    if let Some(path) = ports_file {
        bound.write(path)?;
    }
    bound.greet(&config, is_new_key.then_some(http_config.api_key.as_str()));

    signals.next().await;
    info!("stopping; a second signal ends the process at once");
    let drain = async {
        gateway.drain_configured().await;
        http.stop().await;
        stop_admin.cancel();
        match admin.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the admin port had failed"),
            Err(error) => warn!(%error, "the admin port had panicked"),
        }
        // The probe's upgrade is short; nobody probes now that the admin port is closed.
        if let Some(router) = Arc::into_inner(router) {
            router.drain().await;
        }
        ledger.close().await;
    };
    tokio::select! {
        () = drain => info!("stopped"),
        () = signals.next() => {
            warn!("stopped by a second signal; connections were cut");
            // Nothing more is owed to anyone, and nothing that was confirmed is lost: the records are on the disk.
            std::process::exit(1);
        }
    }
    Ok(())
}

/// What was bound.
struct Bound {
    tcp: SocketAddr,
    http: SocketAddr,
    admin: SocketAddr,
}

impl Bound {
    /// Writes the addresses as JSON, whole or not at all: whoever waits for the file reads it as soon as it is there.
    fn write(&self, path: &Path) -> Result<()> {
        let ports = json!({ "tcp": self.tcp.to_string(), "http": self.http.to_string(), "admin": self.admin.to_string() });
        let half = path.with_extension("partial");
        fs::write(&half, format!("{ports}\n")).with_context(|| format!("cannot write the ports file {}", half.display()))?;
        fs::rename(&half, path).with_context(|| format!("cannot write the ports file {}", path.display()))
    }

    /// What a person who has just typed the command wants to know.
    #[expect(clippy::print_stdout, reason = "the command's result")]
    fn greet(&self, config: &Config, new_key: Option<&str>) {
        println!("billfish is up");
        println!("  clients     tcp {}", self.tcp);
        println!("  HTTP API    http://{}/docs", self.http);
        println!("  operators   http://{}/readyz and /metrics", self.admin);
        match new_key {
            Some(key) => println!("  API key     {key}   (kept in {})", config.data_dir.join("api-key").display()),
            None if config.http.api_key.is_empty() => println!("  API key     in {}", config.data_dir.join("api-key").display()),
            None => println!("  API key     as configured (http.api_key)"),
        }
        println!("  try it      cargo run --release -p billfish-client --example chat -- --name alice{}", self.chat_options(config));
    }
}

impl Bound {
    /// What the example needs to find a server that is not where it looks by itself.
    fn chat_options(&self, config: &Config) -> String {
        let mut options = String::new();
        if self.http.port() != 8080 || !self.http.ip().is_loopback() && !self.http.ip().is_unspecified() {
            options += &format!(" --server http://{}", self.http);
        }
        if config.http.api_key.is_empty() && config.data_dir != Path::new("data") {
            options += &format!(" --api-key \"$(cat {})\"", config.data_dir.join("api-key").display());
        }
        options
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
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
