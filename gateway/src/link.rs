//! Drives the links to routers: dials them, carries outboxes up and sorted messages down, and says when one is gone.
//!
//! - One task per link and, where routers are dialled, one per address. All of them end with the gateway.
//! - A message is taken from a link only when the one before has reached the shards: a shard that is behind stops the router by credit.
//! - What was taken from one side and not yet handed to the other belongs to the driver: neither direction's end, nor `stop`, loses it.
//! - A dialler waits the longer the more often it failed in a row. A link that ends soon has failed too: a router may take a link and then
//!   not want it. Attempts that end alike are told once.
//! - Decides nothing: what a dead link means stands in [`crate::upstream`], what a message means in [`crate::fanout`].

use crate::{commands::Commands, fanout::Fanout, upstream::LinkId};
use billfish_link::{
    Link,
    message::envelope::Kind,
    tcp::{Identity, Timing, dial},
};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Keeps a link to the router at `address` up until `stop`.
pub(crate) async fn keep_dialled(address: String, identity: Identity, fanout: Arc<Fanout>, stop: CancellationToken) {
    let mut wait = REDIAL_MIN;
    let (mut told, mut is_unwanted) = (None, false);
    loop {
        let start = Instant::now();
        let dialled = tokio::select! {
            dialled = dial(&address, &identity, Timing::default()) => dialled,
            () = stop.cancelled() => return,
        };
        let failure = match dialled {
            Ok(link) => {
                if !is_unwanted {
                    info!(router = %link.peer, incarnation = link.incarnation, "link up");
                }
                let ended = drive(link, &fanout, &stop).await;
                is_unwanted = start.elapsed() < LIVED;
                if is_unwanted {
                    ended
                } else {
                    wait = REDIAL_MIN;
                    told = None;
                    None
                }
            }
            Err(error) => Some(chain(&error)),
        };
        if let Some(why) = &failure {
            fanout.upstream.not_linked(why);
        }
        if failure.is_some() && failure != told {
            warn!(router = %address, failure, "no link; told once, and tried again and again");
            told = failure;
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

/// An error with its causes, for a person.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source()).fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Carries everything over one link for as long as it lives, or until `stop`; then what is in its outbox is still sent. Gives why it ended,
/// where that was not `stop`.
pub(crate) async fn drive(mut link: Link, fanout: &Fanout, stop: &CancellationToken) -> Option<String> {
    let (id, filled) = fanout.upstream.link_up(&link.peer);
    let up = Instant::now();
    let (mut commands, mut outbox, mut bye) = (fanout.shards.gather(), VecDeque::new(), None);
    let stopped = tokio::select! {
        () = carry_down(id, &mut link.receiver, &mut commands, fanout, &mut bye) => false,
        () = carry_up(id, &filled, &link.sender, &mut outbox, fanout) => false,
        () = stop.cancelled() => true,
    };
    finish_giving(&mut commands, fanout, stop).await;
    if stopped {
        // The last endings: the router's lists are right at once, not only when it finds the link gone.
        fanout.upstream.take_outbox(id, &mut outbox);
        let flush = async {
            send_all(&link.sender, &mut outbox).await;
        };
        if tokio::time::timeout(FLUSH_WAIT, flush).await.is_err() {
            warn!(router = %link.peer, "the router does not take our last words");
        }
    }
    fanout.upstream.give_back(outbox);
    fanout.upstream.link_down(id);
    let peer = link.peer.clone();
    let closed = link.close().await;
    if stopped {
        info!(router = %peer, "link closed");
        return None;
    }
    let why = match (bye, closed) {
        (Some(bye), _) => format!("the router ended the link: {bye}"),
        (None, Ok(())) => "the router closed the link".to_owned(),
        (None, Err(error)) => chain(&error),
    };
    if up.elapsed() >= LIVED {
        warn!(router = %peer, why, "link lost");
    }
    Some(why)
}

/// From the router to the shards, until the link ends. Cancel-safe: what was taken and not yet handed over is in `commands`.
async fn carry_down(id: LinkId, receiver: &mut mpsc::Receiver<Kind>, commands: &mut Commands, fanout: &Fanout, bye: &mut Option<String>) {
    let mut kinds = Vec::new();
    while receiver.recv_many(&mut kinds, BATCH_MAX).await > 0 {
        let now_ms = fanout.uptime.now_ms();
        for kind in kinds.drain(..) {
            if let Kind::Bye(said) = kind {
                *bye = Some(said.reason.chars().take(REASON_CHARS_MAX).collect());
            } else {
                fanout.sort(id, kind, now_ms, commands);
            }
        }
        fanout.shards.give(commands).await;
    }
}

/// Hands over what is sorted: its calls count as answered already. At the end of the gateway a shard that is stuck is not waited for.
async fn finish_giving(commands: &mut Commands, fanout: &Fanout, stop: &CancellationToken) {
    let patience = async {
        stop.cancelled().await;
        tokio::time::sleep(FLUSH_WAIT).await;
    };
    tokio::select! {
        () = fanout.shards.give(commands) => {}
        () = patience => warn!("a shard does not take its last commands"),
    }
}

/// From the outbox to the router, until the link ends or is no longer wanted. Cancel-safe: what was taken and not yet sent is in `outbox`.
async fn carry_up(id: LinkId, filled: &Notify, sender: &mpsc::Sender<Kind>, outbox: &mut VecDeque<Kind>, fanout: &Fanout) {
    while fanout.upstream.take_outbox(id, outbox) && send_all(sender, outbox).await {
        filled.notified().await;
    }
}

/// Sends what is in the outbox; `false`: the link has ended. Cancel-safe: a message leaves the outbox only when the link has a place for it.
async fn send_all(sender: &mpsc::Sender<Kind>, outbox: &mut VecDeque<Kind>) -> bool {
    while !outbox.is_empty() {
        let Ok(place) = sender.reserve().await else { return false };
        if let Some(kind) = outbox.pop_front() {
            place.send(kind);
        }
    }
    true
}

/// Messages sorted before the shards are given theirs: one wake-up for so many.
const BATCH_MAX: usize = 512;
/// First longest wait before a router is dialled again.
const REDIAL_MIN: Duration = Duration::from_millis(100);
/// Longest wait: a router that is back has its links again within this.
const REDIAL_MAX: Duration = Duration::from_secs(2);
/// A link that lived for so long was wanted at both ends.
const LIVED: Duration = Duration::from_secs(5);
/// Of a router's reason for ending a link, in the log.
const REASON_CHARS_MAX: usize = 200;
/// At the end, how long a router may take to accept what is left.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::{carry_down, carry_up, finish_giving};
    use crate::{
        clock::Uptime,
        commands::Shards,
        fanout::Fanout,
        metrics::ControlCounters,
        shard::{
            mailbox::{Mailbox, Signal},
            message::{Origin, ShardCommand},
        },
        upstream::Upstream,
    };
    use billfish_link::message::{AllPush, Gone, Push, envelope::Kind};
    use billfish_state::DeviceKind;
    use std::{collections::VecDeque, sync::Arc};
    use tokio::sync::{Notify, mpsc};
    use tokio_util::sync::CancellationToken;

    /// A gateway of one shard, whose mailbox takes one command at a time.
    fn house() -> (Fanout, Arc<Mailbox<ShardCommand>>) {
        let counters = Arc::new(ControlCounters::default());
        let mailbox = Arc::new(Mailbox::new(1, Signal::task(), Signal::task()));
        let upstream = Arc::new(Upstream::new(Arc::clone(&counters)));
        let shards = Shards::new(vec![Arc::clone(&mailbox)]);
        (Fanout { upstream, directory: Arc::default(), shards, counters, uptime: Uptime::start() }, mailbox)
    }

    fn origin(session: u64) -> Origin {
        Origin { app_id: 10_001, user_id: 20_001, device: DeviceKind::Other, session }
    }

    /// Lets a future run until it waits, and drops it there.
    async fn cut_off(work: impl Future<Output = ()>) {
        tokio::select! {
            biased;
            () = work => panic!("it was to wait"),
            () = std::future::ready(()) => {}
        }
    }

    #[tokio::test]
    async fn what_is_sorted_when_a_link_ends_still_reaches_the_shards() {
        let (fanout, mailbox) = house();
        let (sender, mut receiver) = mpsc::channel(8);
        for app_id in [1, 2] {
            sender.send(Kind::AllPush(AllPush { app_id, push: Some(Push::default()) })).await.unwrap();
        }
        let (link, _filled) = fanout.upstream.link_up("r1");
        let mut commands = fanout.shards.gather();
        cut_off(carry_down(link, &mut receiver, &mut commands, &fanout, &mut None)).await;
        let app_of = |command: &ShardCommand| if let ShardCommand::AllPush { app_id, .. } = command { *app_id } else { 0 };
        let mut taken = Vec::new();
        mailbox.take_into(&mut taken);
        assert_eq!(taken.iter().map(app_of).collect::<Vec<_>>(), [1], "the shard was behind");
        finish_giving(&mut commands, &fanout, &CancellationToken::new()).await;
        mailbox.take_into(&mut taken);
        assert_eq!(taken.iter().map(app_of).collect::<Vec<_>>(), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_shard_does_not_keep_the_gateway_up() {
        let (fanout, mailbox) = house();
        let mut commands = fanout.shards.gather();
        commands.add(0, ShardCommand::Stop);
        commands.add(0, ShardCommand::Stop);
        let stop = CancellationToken::new();
        stop.cancel();
        finish_giving(&mut commands, &fanout, &stop).await;
        assert_eq!(mailbox.len(), 1);
    }

    #[tokio::test]
    async fn endings_that_a_dead_link_had_taken_go_over_the_next() {
        let (fanout, _mailbox) = house();
        let (first, filled) = fanout.upstream.link_up("r1");
        for session in 1..=3 {
            fanout.upstream.gone(0, origin(session), &[7], false);
        }
        let (sender, _receiver) = mpsc::channel(1);
        let mut outbox = VecDeque::new();
        cut_off(carry_up(first, &filled, &sender, &mut outbox, &fanout)).await;
        // The router was quicker to come back than its old link to end.
        let (second, _filled): (_, Arc<Notify>) = fanout.upstream.link_up("r1");
        fanout.upstream.give_back(outbox);
        assert!(!fanout.upstream.link_down(first));
        let mut sent = VecDeque::new();
        assert!(fanout.upstream.take_outbox(second, &mut sent));
        let session_of = |kind: &Kind| if let Kind::Gone(Gone { origin: Some(origin), .. }) = kind { origin.session } else { 0 };
        assert_eq!(sent.iter().map(session_of).collect::<Vec<_>>(), [2, 3], "the first was given to the old link");
    }
}
