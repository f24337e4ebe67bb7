//! Everything in one process: records, router, gateway, HTTP API, operator's pages. The link is a pipe; the state is in memory unless
//! `state.kind` says otherwise.
//!
//! Starts in the order of need and stops in the reverse: clients are sent away first, while everything behind them still works.

use crate::{
    api_key,
    config::{Config, Role},
    development_certificate, load, logs, memory,
    node::{self, Admin, Ports, SharedState, Signals},
    options::RunOptions,
};
use anyhow::Result;
use billfish_gateway::{GatewayParts, Links, admin::ReadyCheck};
use billfish_link::pipe;
use billfish_router::{
    RouterParts,
    http::{self, HttpParts},
    ledger::{Audit, Guard, Ledger, Sharing, Till},
    webhooks::Webhooks,
};
use prometheus_client::registry::Registry;
use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc};

/// Runs until a signal and stops cleanly.
pub(crate) fn run(options: &RunOptions) -> Result<()> {
    let config = load(&options.config, Role::All)?;
    logs::start(options.log_format);
    node::run(serve(config, options.ports_file.as_deref()))
}

async fn serve(mut config: Config, ports_file: Option<&Path>) -> Result<()> {
    let signals = Signals::catch()?;
    let ledger = Ledger::open(&config.ledger, &config.data_dir, Sharing::Exclusive).await?;
    let mut http_config = config.http.clone();
    let mut is_new_key = false;
    if http_config.api_key.is_empty() {
        (http_config.api_key, is_new_key) = api_key::load_or_create(&config.data_dir)?;
    }

    let listen = &config.gateway.listen;
    let has_own_certificate = (listen.tls.is_some() || listen.quic.is_some()) && config.gateway.tls.certificates.is_empty();
    if has_own_certificate {
        config.gateway.tls.certificates.push(development_certificate::load_or_create(&config.data_dir)?);
    }

    let mut registry = Registry::default();
    memory::tend(&mut registry);
    config.warn_of_published_secrets();
    let shared = SharedState::open(&config, &format!("all/{}", config.gateway.node), &mut registry).await?;
    let state = shared.state.clone();
    let guard = Guard::start(&ledger, &state).await?;
    let till = Till::start(&ledger, &state.clock, &mut registry);
    let router = billfish_router::start(RouterParts {
        config: config.router.clone(),
        state: state.clone(),
        records: Arc::new(ledger.clone()),
        money: Arc::new(ledger.clone()),
        till: Arc::new(till.clone()),
        people: Arc::new(ledger.clone()),
        registry: &mut registry,
    })
    .await?;
    let audit = Audit::start(&ledger, &state, &format!("{}%{}", config.router.node, router.incarnation()), &mut registry);
    let name = (config.router.node.as_str(), router.incarnation());
    let webhooks = Webhooks::start(&ledger, &state, name, &config.webhooks, &mut registry);
    router.tell_users_to(webhooks.users());
    let gateway = billfish_gateway::start(GatewayParts {
        config: config.gateway.clone(),
        state: state.clone(),
        links: Links::Attached,
        registry: &mut registry,
    })
    .await?;
    let (gateway_end, router_end) = pipe::pair((&config.gateway.node, gateway.incarnation()), (&config.router.node, router.incarnation()));
    router.attach(router_end);
    gateway.attach_first(gateway_end).await;
    let parts = HttpParts { handle: router.handle(), state, ledger: ledger.clone(), webhooks: webhooks.clone() };
    let http = http::start(parts, &http_config, &mut registry).await?;

    let router = Arc::new(router);
    let (watched, own_records) = (Arc::clone(&router), guard.readiness());
    let router_is_ready: ReadyCheck = Box::new(move || watched.readiness().and_then(|()| own_records()));
    let admin = Admin::start(config.admin.listen, gateway.admin_router(Arc::new(registry), vec![router_is_ready]), &signals).await?;

    let bound = Bound { clients: gateway.bound().clone(), http: http.address(), admin: admin.address, has_own_certificate };
    Ports::default().with_all(&bound.clients).with("http", bound.http).with("admin", bound.admin).write(ports_file)?;
    bound.greet(&config, is_new_key.then_some(http_config.api_key.as_str()));

    let displacements = (router.displacement(), gateway.displacement());
    let failure = async {
        tokio::select! {
            foreign = guard.foreign() => foreign.into(),
            displaced = displacements.0.happens() => displaced.into(),
            displaced = displacements.1.happens() => displaced.into(),
        }
    };
    // Boxed: each of these steps is a large future, and they are taken once.
    let drain = Box::pin(async {
        gateway.drain_configured().await;
        router.drain().await;
        http.stop().await;
        till.close().await;
        webhooks.close().await;
        drop(audit);
        ledger.close().await;
        shared.close().await;
        admin.stop().await;
    });
    signals.stop_by(failure, drain).await
}

/// What was bound.
struct Bound {
    clients: BTreeMap<&'static str, SocketAddr>,
    http: SocketAddr,
    admin: SocketAddr,
    /// TLS and QUIC are served with the certificate for development.
    has_own_certificate: bool,
}

impl Bound {
    /// What a person who has just typed the command wants to know.
    #[expect(clippy::print_stdout, reason = "the command's result")]
    fn greet(&self, config: &Config, new_key: Option<&str>) {
        println!("billfish is up");
        println!("  clients     {}", node::places(&self.clients));
        if self.has_own_certificate {
            println!("  certificate for development alone: {}", config.data_dir.join("development-cert.pem").display());
        }
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
