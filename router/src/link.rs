//! The gateways that are linked: what they send is dispatched, what is for them is queued.
//!
//! - One link per gateway; a newer link of the same gateway takes the place of the older.
//! - What is sent to one gateway from one task arrives in that order.
//! - A gateway that takes nothing delays nobody for long: ambient and chat pushes are dropped at once and counted, the rest waits once
//!   per stall for [`LinkConfig::stall_wait`](crate::config::LinkConfig::stall_wait), then is dropped and counted too. What may not be
//!   lost is in the inbox or the room log by then.
//!
//! No rule of a service here, and no text of a body is looked at.

use crate::{core::Core, dispatch, metrics::Metrics};
use billfish_link::{
    Link,
    message::{Bye, Moved, Refused, Reply, envelope::Kind, reply},
};
use billfish_state::{Clock, RoomId, Route};
use billfish_wire::Class;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Messages taken from a link at a time.
const BATCH: usize = 256;

/// One linked gateway.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// Its name.
    pub(crate) node: Arc<str>,
    /// Which life of it.
    pub(crate) incarnation: u64,
    link: u64,
    sender: mpsc::Sender<Kind>,
    stalled: AtomicBool,
    /// Rooms whose pushes it wants, each with the largest `seq` it has been sent or has said it knows: a new life of a room asks here.
    wanted: Mutex<HashMap<RoomId, i64>>,
    down: CancellationToken,
    /// What it is told last.
    bye: OnceLock<&'static str>,
    /// When the link ended, Unix ms; 0 while it has not.
    down_ms: AtomicU64,
    metrics: Metrics,
    stall_wait: Duration,
}

impl Gateway {
    /// Puts a message on the link; `false` when it was dropped, which is counted.
    pub(crate) async fn send(&self, kind: Kind, class: Class) -> bool {
        let kind = match self.sender.try_send(kind) {
            Ok(()) => {
                self.stalled.store(false, Ordering::Relaxed);
                return true;
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                self.metrics.link_dropped(class, "link_down");
                return false;
            }
            Err(mpsc::error::TrySendError::Full(kind)) => kind,
        };
        if class.may_drop() || self.stalled.load(Ordering::Relaxed) {
            self.metrics.link_dropped(class, "link_stalled");
            return false;
        }
        match tokio::time::timeout(self.stall_wait, self.sender.send(kind)).await {
            Ok(Ok(())) => return true,
            Ok(Err(_)) => self.metrics.link_dropped(class, "link_down"),
            Err(_) => {
                if !self.stalled.swap(true, Ordering::Relaxed) {
                    tracing::warn!(gateway = %self.node, wait = ?self.stall_wait, "the gateway takes nothing from its link; dropping, counted");
                }
                self.metrics.link_dropped(class, "link_stalled");
            }
        }
        false
    }

    /// Whether it has worked off enough for a burst of goodbyes.
    pub(crate) fn takes_again(&self) -> bool {
        !self.is_down() && self.sender.capacity() >= self.sender.max_capacity() / 2
    }

    /// Answers a call.
    pub(crate) async fn reply(&self, id: u64, result: reply::Result) {
        self.send(Kind::Reply(Reply { id, result: Some(result) }), Class::Control).await;
    }

    /// Answers a call with a refusal, or, where it is another router's to do, with that.
    pub(crate) async fn refuse(&self, id: u64, refusal: &crate::Refusal) {
        if let Some(owner) = refusal.moved_to() {
            self.metrics.moved.inc();
            return self.reply(id, reply::Result::Moved(Moved { owner: owner.to_owned() })).await;
        }
        self.metrics.refused(refusal.reason);
        self.reply(id, reply::Result::Refused(refused(refusal))).await;
    }

    /// When the link ended, where that is known.
    pub(crate) fn down_since_ms(&self) -> Option<u64> {
        match self.down_ms.load(Ordering::Relaxed) {
            0 => None,
            down_ms => Some(down_ms),
        }
    }

    fn end(&self, now_ms: u64, why: &'static str) {
        if !self.down.is_cancelled() {
            self.down_ms.store(now_ms, Ordering::Relaxed);
        }
        self.bye.get_or_init(|| why);
        self.down.cancel();
    }

    /// The last word, where the link takes one more.
    fn say_bye(&self) {
        if let Some(why) = self.bye.get() {
            drop(self.sender.try_send(bye(why)));
        }
    }

    /// It wants the pushes of a room from after this `seq` on (0: from now on), or no longer.
    pub(crate) fn set_wanted(&self, room: RoomId, after_seq: Option<i64>) {
        let mut rooms = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        match after_seq {
            None => drop(rooms.remove(&room)),
            Some(after_seq) if rooms.len() < WANTED_MAX || rooms.contains_key(&room) => drop(rooms.insert(room, after_seq)),
            Some(_) => {}
        }
    }

    /// A life of a room has ended, and has sent it everything up to here.
    pub(crate) fn was_sent(&self, room: RoomId, seq: i64) {
        if let Some(after_seq) = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&room) {
            *after_seq = seq.max(*after_seq);
        }
    }

    /// After which `seq` it wants the pushes of a room, if it does.
    pub(crate) fn wants(&self, room: RoomId) -> Option<i64> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).get(&room).copied()
    }

    /// The rooms of which it has seen something, and wants the pushes from after this `seq` on.
    pub(crate) fn all_wanted(&self) -> Vec<(RoomId, i64)> {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen: Vec<_> =
            wanted.iter().filter(|(_, after_seq)| **after_seq > 0).map(|(room, after_seq)| (*room, *after_seq)).collect();
        seen.sort_unstable();
        seen
    }

    /// The link is gone, or another has taken its place.
    pub(crate) fn is_down(&self) -> bool {
        self.down.is_cancelled() || self.sender.is_closed()
    }
}

fn bye(why: &str) -> Kind {
    Kind::Bye(Bye { reason: why.to_owned() })
}

/// Why a link is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// A later life of this gateway is linked: another process bears its name.
    LaterLife,
    /// As many gateways are linked as there may be.
    TooMany,
}

impl NotTaken {
    const fn label(self) -> &'static str {
        match self {
            Self::LaterLife => "later_life",
            Self::TooMany => "too_many",
        }
    }

    /// For the operator of the gateway.
    const fn text(self) -> &'static str {
        match self {
            Self::LaterLife => "a process that was started later is linked under the same name; see gateway.node of both",
            Self::TooMany => "this router has as many gateways as it takes",
        }
    }
}

/// A refusal in words of the link.
pub(crate) fn refused(refusal: &crate::Refusal) -> Refused {
    Refused {
        code: refusal.reason.number().unwrap_or(INTERNAL),
        msg: refusal.detail.clone(),
        retry_after_ms: refusal.retry_after_ms.map_or(0, |ms| i64::try_from(ms).unwrap_or(i64::MAX)),
    }
}

/// Told for a reason that has no number on the wire; none of the router's has not.
const INTERNAL: i32 = 5000;

/// Rooms remembered for one gateway: one per connection would be as many as it can hold. What is beyond is found when it speaks again.
const WANTED_MAX: usize = 1_000_000;

/// Every linked gateway by name.
#[derive(Debug)]
pub(crate) struct Links {
    gateways: Mutex<HashMap<Arc<str>, Arc<Gateway>>>,
    next_link: AtomicU64,
    /// Who was refused last, and why: told once, however often he comes again.
    refused: Mutex<Option<(Arc<str>, u64, NotTaken)>>,
    stall_wait: Duration,
    clock: Clock,
    metrics: Metrics,
}

/// Gateways linked at once. Beyond it a link is refused: ten times the largest fleet anyone has in mind.
const GATEWAYS_MAX: usize = 1_024;

impl Links {
    pub(crate) fn new(stall_wait: Duration, clock: Clock, metrics: Metrics) -> Self {
        Self { gateways: Mutex::new(HashMap::new()), next_link: AtomicU64::new(0), refused: Mutex::default(), stall_wait, clock, metrics }
    }

    /// Takes a gateway in, or says why not.
    pub(crate) fn enter(&self, peer: &str, incarnation: u64, sender: mpsc::Sender<Kind>) -> Result<Arc<Gateway>, NotTaken> {
        let mut gateways = self.lock();
        let node: Arc<str> = Arc::from(peer);
        let not_taken = match gateways.get(&node) {
            Some(other) if other.incarnation > incarnation => Some(NotTaken::LaterLife),
            None if gateways.len() >= GATEWAYS_MAX => Some(NotTaken::TooMany),
            Some(_) | None => None,
        };
        if let Some(why) = not_taken {
            drop(gateways);
            self.metrics.link_refused(why.label());
            let told = Some((node, incarnation, why));
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            if *refused != told {
                tracing::warn!(gateway = peer, incarnation, why = why.text(), "link refused; told once");
                *refused = told;
            }
            return Err(why);
        }
        let gateway = Arc::new(Gateway {
            node: Arc::clone(&node),
            incarnation,
            link: self.next_link.fetch_add(1, Ordering::Relaxed),
            sender,
            stalled: AtomicBool::new(false),
            wanted: Mutex::new(HashMap::new()),
            down: CancellationToken::new(),
            bye: OnceLock::new(),
            down_ms: AtomicU64::new(0),
            metrics: self.metrics.clone(),
            stall_wait: self.stall_wait,
        });
        if let Some(older) = gateways.insert(node, Arc::clone(&gateway)) {
            let why = if older.incarnation == incarnation { "a newer link took its place" } else { NotTaken::LaterLife.text() };
            older.end(self.clock.now_ms(), why);
        }
        self.metrics.link_up.set(i64::try_from(gateways.len()).unwrap_or(i64::MAX));
        Ok(gateway)
    }

    /// Takes a gateway out, unless a newer link has its place already.
    fn leave(&self, gateway: &Gateway) {
        gateway.end(self.clock.now_ms(), "the link has ended");
        let mut gateways = self.lock();
        if gateways.get(&gateway.node).is_some_and(|current| current.link == gateway.link) {
            gateways.remove(&gateway.node);
        }
        self.metrics.link_up.set(i64::try_from(gateways.len()).unwrap_or(i64::MAX));
    }

    /// The gateway of a name, if it is linked.
    pub(crate) fn get(&self, node: &str) -> Option<Arc<Gateway>> {
        self.lock().get(node).cloned()
    }

    /// The gateway where a route leads, if it is linked and in that life: a session of an earlier life is gone.
    pub(crate) fn of(&self, route: &Route) -> Option<Arc<Gateway>> {
        self.get(&route.node).filter(|gateway| gateway.incarnation == route.epoch)
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Gateway>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by(|a, b| a.node.cmp(&b.node));
        all
    }

    /// Ends every link; the tasks behind them end by it.
    pub(crate) fn close(&self) {
        for gateway in self.all() {
            gateway.end(self.clock.now_ms(), "the router stops");
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Gateway>>> {
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves one link until it ends.
pub(crate) async fn serve(core: Arc<Core>, link: Link) {
    let Link { peer, incarnation, sender, mut receiver, .. } = link;
    let gateway = match core.links.enter(&peer, incarnation, sender.clone()) {
        Ok(gateway) => gateway,
        // What was given to a link is written out when it is dropped.
        Err(why) => return drop(sender.try_send(bye(why.text()))),
    };
    drop(sender);
    if !core.reach.takes_rooms() {
        // It does from now on; the others are to know.
        core.look_soon.store(true, Ordering::Relaxed);
    }
    tracing::info!(gateway = %gateway.node, incarnation, "gateway linked");
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        // Cancel-safe: `recv_many` takes nothing unless it returns.
        let received = tokio::select! {
            () = gateway.down.cancelled() => 0,
            received = receiver.recv_many(&mut batch, BATCH) => received,
        };
        if received == 0 {
            break;
        }
        for kind in batch.drain(..) {
            dispatch::on_message(&core, &gateway, kind).await;
        }
    }
    gateway.say_bye();
    core.links.leave(&gateway);
    tracing::info!(gateway = %gateway.node, "gateway's link ended");
}

#[cfg(test)]
mod tests {
    use super::{Links, NotTaken};
    use crate::metrics::Metrics;
    use billfish_link::message::{Audience, envelope::Kind};
    use billfish_state::Clock;
    use billfish_wire::Class;
    use prometheus_client::registry::Registry;
    use std::time::Duration;
    use tokio::sync::mpsc;

    const WAIT: Duration = Duration::from_millis(200);

    fn links() -> Links {
        Links::new(WAIT, Clock::start(), Metrics::register(&mut Registry::default()))
    }

    fn message(members: i64) -> Kind {
        Kind::Audience(Audience { room_id: 1, members })
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_gateway_costs_one_wait_and_then_none() {
        let links = links();
        let (sender, mut receiver) = mpsc::channel(1);
        let gateway = links.enter("g", 1, sender).unwrap();
        assert!(gateway.send(message(0), Class::Control).await);
        let start = tokio::time::Instant::now();
        assert!(!gateway.send(message(1), Class::Chat).await, "chat is dropped at once");
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(!gateway.send(message(2), Class::Event).await);
        assert_eq!(start.elapsed(), WAIT);
        assert!(!gateway.send(message(3), Class::Control).await, "stalled: no second wait");
        assert_eq!(start.elapsed(), WAIT);
        receiver.recv().await.unwrap();
        assert!(gateway.send(message(4), Class::Control).await, "room again");
        receiver.recv().await.unwrap();
    }

    #[tokio::test]
    async fn a_later_life_takes_the_place_and_an_earlier_one_is_refused() {
        let links = links();
        let (sender, _keep) = mpsc::channel(1);
        let first = links.enter("g", 1, sender.clone()).unwrap();
        let second = links.enter("g", 2, sender.clone()).unwrap();
        assert!(first.is_down() && !second.is_down());
        assert_eq!(links.enter("g", 1, sender).unwrap_err(), NotTaken::LaterLife);
        // The old task's farewell does not take the new link out.
        links.leave(&first);
        assert_eq!(links.get("g").unwrap().incarnation, 2);
        links.leave(&second);
        assert!(links.get("g").is_none());
    }
}
