//! A router of its own: gateways and other routers dial its link port, business backends its HTTP API.

use crate::{
    config::{Config, Role},
    load, logs, memory,
    node::{self, Admin, Ports, SharedState, Signals},
    options::RunOptions,
    pages,
};
use anyhow::{Context, Result};
use billfish_router::{
    RouterParts,
    http::{self, HttpParts},
    ledger::{Audit, Guard, Ledger, Sharing, Till},
    webhooks::Webhooks,
};
use prometheus_client::registry::Registry;
use std::{path::Path, sync::Arc};

/// Runs until a signal and stops cleanly.
pub(crate) fn run(options: &RunOptions) -> Result<()> {
    let config = load(&options.config, Role::Router)?;
    logs::start(options.log_format);
    node::run(serve(config, options.ports_file.as_deref()))
}

async fn serve(config: Config, ports_file: Option<&Path>) -> Result<()> {
    let signals = Signals::catch()?;
    // Beside other routers: those of one machine may share a file, those of many a database.
    let ledger = Ledger::open(&config.ledger, &config.data_dir, Sharing::Shared).await?;
    let mut registry = Registry::default();
    memory::tend(&mut registry);
    config.warn_of_published_secrets();
    let shared = SharedState::open(&config, &format!("router/{}", config.router.node), &mut registry).await?;
    let guard = Guard::start(&ledger, &shared.state).await?;
    let http_address = config.http.listen;
    let till = Till::start(&ledger, &shared.state.clock, &mut registry);
    let router = billfish_router::start(RouterParts {
        config: config.router.clone(),
        state: shared.state.clone(),
        records: Arc::new(ledger.clone()),
        money: Arc::new(ledger.clone()),
        till: Arc::new(till.clone()),
        people: Arc::new(ledger.clone()),
        registry: &mut registry,
    })
    .await?;
    let audit = Audit::start(&ledger, &shared.state, &format!("{}%{}", config.router.node, router.incarnation()), &mut registry);
    let name = (config.router.node.as_str(), router.incarnation());
    let webhooks = Webhooks::start(&ledger, &shared.state, name, &config.webhooks, &mut registry);
    router.tell_users_to(webhooks.users());
    let parts = HttpParts { handle: router.handle(), state: shared.state.clone(), ledger: ledger.clone(), webhooks: webhooks.clone() };
    let http =
        http::start(parts, &config.http, &mut registry).await.with_context(|| format!("cannot serve the HTTP API on {http_address}"))?;
    let router = Arc::new(router);
    let (watched, own_records) = (Arc::clone(&router), guard.readiness());
    let is_ready = move || watched.readiness().and_then(|()| own_records());
    let admin = Admin::start(config.admin.listen, pages::router(Arc::new(registry), Box::new(is_ready)), &signals).await?;
    let link = router.link_address().context("a router of its own has no link port")?;
    Ports::default().with("link", link).with("http", http.address()).with("admin", admin.address).write(ports_file)?;
    greet(&config, &http, &admin, link);
    let displacement = router.displacement();
    let failure = async {
        tokio::select! {
            foreign = guard.foreign() => foreign.into(),
            displaced = displacement.happens() => displaced.into(),
        }
    };
    signals
        .stop_by(failure, async {
            // The rooms go first, for others wait for them; whoever calls meanwhile is answered.
            router.drain().await;
            http.stop().await;
            till.close().await;
            webhooks.close().await;
            drop(audit);
            ledger.close().await;
            shared.close().await;
            admin.stop().await;
        })
        .await
}

#[expect(clippy::print_stdout, reason = "the command's result")]
fn greet(config: &Config, http: &http::HttpServer, admin: &Admin, link: std::net::SocketAddr) {
    println!("router {} is up", config.router.node);
    println!("  gateways    link {link}");
    println!("  HTTP API    http://{}/docs", http.address());
    println!("  operators   http://{}/readyz and /metrics", admin.address);
}
