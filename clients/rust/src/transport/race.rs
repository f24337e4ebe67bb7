//! Several ways at once, as RFC 8305 does it with addresses: the one that is liked best has a head start, and the first that stands wins.
//!
//! - Who loses is closed before it has said anything of ours: LOGIN is the winner's.
//! - A certificate that is not believed keeps the race from going on in the clear.

use super::{ConnectError, Transport, Trust};
use crate::endpoint::Endpoint;
use futures_util::{StreamExt, stream::FuturesUnordered};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    select,
    time::{Instant, sleep_until},
};
use tracing::debug;

/// How long one way is tried alone before the next is, too: RFC 8305, section 5.
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects by the first way that stands.
///
/// # Errors
/// Why each did not, in the order in which they gave up. Never none, where there were endpoints.
pub(crate) async fn race(
    endpoints: Vec<Endpoint>,
    trust: Arc<Trust>,
    within: Duration,
) -> Result<Transport, Vec<(Endpoint, ConnectError)>> {
    let mut waiting = VecDeque::from(endpoints);
    let mut running = FuturesUnordered::new();
    let mut failed: Vec<(Endpoint, ConnectError)> = Vec::new();
    let mut start_at = Instant::now();
    loop {
        select! {
            () = sleep_until(start_at), if !waiting.is_empty() => {
                if let Some(endpoint) = waiting.pop_front() {
                    let trust = Arc::clone(&trust);
                    running.push(async move {
                        let outcome = Transport::connect(endpoint.clone(), trust, within).await;
                        (endpoint, outcome)
                    });
                }
                start_at = Instant::now() + HEAD_START;
            }
            Some((endpoint, outcome)) = running.next(), if !running.is_empty() => {
                let is_distrusted = failed.iter().any(|(_, error)| error.is_distrust());
                match outcome {
                    Ok(transport) if endpoint.kind.is_secure() || !is_distrusted => return Ok(transport),
                    Ok(_) => {}
                    Err(error) => {
                        debug!(%endpoint, error = &error as &dyn std::error::Error, "no connection");
                        if error.is_distrust() {
                            waiting.retain(|endpoint| endpoint.kind.is_secure());
                        }
                        failed.push((endpoint, error));
                        start_at = Instant::now();
                    }
                }
            }
            else => return Err(failed),
        }
    }
}
