//! Drives the links to routers: dials them, carries outboxes up and sorted messages down, and says when one is gone.
//!
//! - One task per link and, where routers are dialled, one per address. All of them end with the gateway.
//! - A message is taken from a link only when the one before has reached the shards: a shard that is behind stops the router by credit.
//! - Decides nothing: what a dead link means stands in [`crate::upstream`], what a message means in [`crate::fanout`].

use crate::{fanout::Fanout, upstream::LinkId};
use billfish_link::{
    Link,
    message::envelope::Kind,
    tcp::{Identity, Timing, dial},
};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Keeps a link to the router at `address` up until `stop`.
pub(crate) async fn keep_dialled(address: String, identity: Identity, fanout: Arc<Fanout>, stop: CancellationToken) {
    let mut wait = REDIAL_MIN;
    loop {
        let dialled = tokio::select! {
            dialled = dial(&address, &identity, Timing::default()) => dialled,
            () = stop.cancelled() => return,
        };
        match dialled {
            Ok(link) => {
                wait = REDIAL_MIN;
                drive(link, &fanout, &stop).await;
            }
            Err(error) => warn!(router = %address, error = &error as &dyn std::error::Error, "no link"),
        }
        // Full jitter: after a router's restart its gateways do not all come at once.
        let jittered = wait.mul_f64(fastrand::f64());
        tokio::select! {
            () = tokio::time::sleep(jittered) => {}
            () = stop.cancelled() => return,
        }
        wait = (wait * 2).min(REDIAL_MAX);
    }
}

/// Carries everything over one link for as long as it lives, or until `stop`; then what is in its outbox is still sent.
pub(crate) async fn drive(mut link: Link, fanout: &Fanout, stop: &CancellationToken) {
    let (id, filled) = fanout.upstream.link_up(&link.peer);
    info!(router = %link.peer, incarnation = link.incarnation, "link up");
    let stopped = tokio::select! {
        () = carry_down(&mut link.receiver, fanout) => false,
        () = carry_up(id, &filled, &link.sender, fanout) => false,
        () = stop.cancelled() => true,
    };
    if stopped {
        // The last endings: the router's lists are right at once, not only when it finds the link gone.
        let mut outbox = VecDeque::new();
        fanout.upstream.take_outbox(id, &mut outbox);
        let flush = async {
            while let Some(kind) = outbox.pop_front() {
                if link.sender.send(kind).await.is_err() {
                    break;
                }
            }
        };
        if tokio::time::timeout(FLUSH_WAIT, flush).await.is_err() {
            warn!(router = %link.peer, "the router does not take our last words");
        }
    }
    fanout.upstream.link_down(id);
    let peer = link.peer.clone();
    match link.close().await {
        Err(error) => warn!(router = %peer, error = &error as &dyn std::error::Error, "link lost"),
        Ok(()) if stopped => info!(router = %peer, "link closed"),
        Ok(()) => warn!(router = %peer, "the router closed the link"),
    }
}

/// From the router to the shards, until the link ends. Not cancel-safe: what was taken and not yet handed over is lost with the link,
/// as is what was under way on it.
async fn carry_down(receiver: &mut mpsc::Receiver<Kind>, fanout: &Fanout) {
    let mut kinds = Vec::new();
    let mut commands = fanout.shards.gather();
    while receiver.recv_many(&mut kinds, BATCH_MAX).await > 0 {
        for kind in kinds.drain(..) {
            fanout.sort(kind, &mut commands);
        }
        fanout.shards.give(&mut commands).await;
    }
}

/// From the outbox to the router, until the link ends or is no longer wanted. Cancelled, it loses only calls and interest, which the table
/// has, and endings that were on their way.
async fn carry_up(id: LinkId, filled: &Notify, sender: &mpsc::Sender<Kind>, fanout: &Fanout) {
    let mut outbox = VecDeque::new();
    loop {
        if !fanout.upstream.take_outbox(id, &mut outbox) {
            return;
        }
        while let Some(kind) = outbox.pop_front() {
            if let Err(unsent) = sender.send(kind).await {
                outbox.push_front(unsent.0);
                fanout.upstream.give_back(outbox);
                return;
            }
        }
        filled.notified().await;
    }
}

/// Messages sorted before the shards are given theirs: one wake-up for so many.
const BATCH_MAX: usize = 512;
/// First longest wait before a router is dialled again.
const REDIAL_MIN: Duration = Duration::from_millis(100);
/// Longest wait: a router that is back has its links again within this.
const REDIAL_MAX: Duration = Duration::from_secs(5);
/// At the end, how long a router may take to accept what is left.
const FLUSH_WAIT: Duration = Duration::from_secs(2);
