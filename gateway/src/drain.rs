//! Going down without a storm.
//!
//! ```text
//!  not ready, listeners closed ── RECONNECT to all, spread ─┐
//!                                └─ close at a pace, behind it ─── close the rest ── last writes ── last words to routers
//! ```
//!
//! - The spread is as long as closing all of them takes, and no longer than configured: few sessions are gone soon. Whoever has not left is
//!   closed a moment after its time has come, so the whole takes little longer than the spread or the pace, whichever is slower.
//! - What a shard tells at the end still finds its desk: the tasks end after the shards, from the data path outwards.

use crate::{
    Running,
    config::DrainConfig,
    shard::message::{Listener, ShardCommand},
};
use std::time::Duration;
use tracing::{info, warn};

/// Walks [`Running`] through the picture above.
pub(crate) async fn drain(mut running: Running, grace: Duration) {
    let Some(mut parts) = running.parts.take() else { return };
    // Its name is another's by now: routers link that one alone, and nobody can be served here.
    let grace = if parts.health.displacement.by().is_some() { Duration::ZERO } else { grace };
    let deadline = tokio::time::Instant::now() + grace;
    parts.health.drain();
    // Said before the clients are sent away, so that nobody sends them back here.
    parts.registration.renew().await;
    let config = &parts.config.drain;
    let sessions = parts.metrics.sessions();
    let spread = spread(config, sessions);
    let addresses = match config.addresses.is_empty() {
        true => parts.registration.others().await,
        // What an operator names is for whatever clients there are.
        false => Listener::ALL.into_iter().map(|listener| (listener.label().to_owned(), config.addresses.clone())).collect(),
    };
    info!(sessions, ?spread, close_per_s = config.close_per_s, ?grace, "draining");
    if let Some(quic) = &parts.quic {
        quic.stop_listening();
    }
    let shard_count = u32::try_from(parts.shards.numbers().count()).unwrap_or(u32::MAX);
    let close_per_s = config.close_per_s.div_ceil(shard_count.max(1));
    let mut commands = parts.shards.gather();
    for shard in parts.shards.numbers() {
        commands.add(shard, ShardCommand::Drain { addresses: addresses.clone(), spread, close_per_s });
    }
    let emptied = async {
        parts.shards.give(&mut commands).await;
        while parts.metrics.connections() > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout_at(deadline, emptied).await.is_err() {
        warn!(left = parts.metrics.connections(), ?grace, "connections outlived the grace period");
    }
    parts.stop().await;
    info!("drained");
}

/// How long after the first session the last one is told to leave.
fn spread(config: &DrainConfig, sessions: u64) -> Duration {
    let needed_ms = sessions.saturating_mul(1000) / u64::from(config.close_per_s.max(1));
    Duration::from_millis(needed_ms).min(config.spread_max)
}

/// How often the connections that are left are counted.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::spread;
    use crate::config::DrainConfig;
    use std::time::Duration;

    #[test]
    fn the_spread_is_as_long_as_closing_takes_and_no_longer_than_configured() {
        let config = DrainConfig::default();
        assert_eq!(spread(&config, 0), Duration::ZERO);
        assert_eq!(spread(&config, 1_000), Duration::from_secs(2));
        assert_eq!(spread(&config, 18_000), Duration::from_secs(30));
    }
}
