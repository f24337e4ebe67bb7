//! A gateway of its own: it finds the routers in the shared registry, or at the addresses it is given, and dials each.

use crate::{
    config::{Config, Role},
    load, logs, memory,
    node::{self, Admin, Ports, SharedState, Signals},
    options::RunOptions,
};
use anyhow::Result;
use billfish_gateway::{GatewayParts, Links};
use prometheus_client::registry::Registry;
use std::{path::Path, sync::Arc};

/// Runs until a signal and stops cleanly.
pub(crate) fn run(options: &RunOptions) -> Result<()> {
    let config = load(&options.config, Role::Gateway)?;
    logs::start(options.log_format);
    node::run(serve(config, options.ports_file.as_deref()))
}

async fn serve(config: Config, ports_file: Option<&Path>) -> Result<()> {
    let signals = Signals::catch()?;
    let mut registry = Registry::default();
    memory::tend(&mut registry);
    config.warn_of_published_secrets();
    let shared = SharedState::open(&config, &format!("gateway/{}", config.gateway.node), &mut registry).await?;
    let gateway = billfish_gateway::start(GatewayParts {
        config: config.gateway.clone(),
        state: shared.state.clone(),
        links: Links::Dialled,
        registry: &mut registry,
    })
    .await?;
    let admin = Admin::start(config.admin.listen, gateway.admin_router(Arc::new(registry), Vec::new()), &signals).await?;
    Ports::default().with_all(gateway.bound()).with("admin", admin.address).write(ports_file)?;
    greet(&config, &gateway, &admin);
    let displacement = gateway.displacement();
    // On the heap: a drain is large, and waits here for as long as the process lives.
    let stop = Box::pin(async {
        gateway.drain_configured().await;
        shared.close().await;
        admin.stop().await;
    });
    signals.stop_by(async { displacement.happens().await.into() }, stop).await
}

#[expect(clippy::print_stdout, reason = "the command's result")]
fn greet(config: &Config, gateway: &billfish_gateway::Running, admin: &Admin) {
    println!("gateway {} is up", config.gateway.node);
    println!("  clients     {}", node::places(gateway.bound()));
    println!("  operators   http://{}/readyz and /metrics", admin.address);
}
