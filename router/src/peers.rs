//! The other routers: what the HTTP API wants of a room goes to the router that owns it, over a link between the two.
//!
//! - Every router dials every other one that is registered; a link carries orders from the one who dialled, and their answers back.
//! - An order is forwarded at most once: what came over such a link is carried out here, or answered `Moved`. Who asked tries again
//!   there, until [`PATIENCE`] is over.
//! - An order has an id of its own. Its answer may be lost with a link; then the same order is asked for again, and whoever remembers it
//!   gives the first answer. The log of the room remembers a push by that id, whoever owns the room by then. Only a state, which no log
//!   has, is not asked for again of another life of the router than the one that would remember it.
//! - Asks that wait, orders under way and orders remembered are bounded; beyond it the caller hears 5001.
//!
//! No rule of a room stands here.

mod answer;
mod dial;
mod text;

pub(crate) use answer::{Remembered, serve};
pub(crate) use dial::{Dials, carry};

use crate::{
    Refusal,
    core::Core,
    dispatch,
    room::{GiftPaid, Giver, Order, RoomCall, RoomPushed},
    services::{Asker, Outgoing, gift::GiftRequest},
};
use billfish_link::message::{self, Up, envelope::Kind, reply, up::Call};
use billfish_state::{AppId, DeviceKind, RoomId, UserId};
use billfish_wire::Reason;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

/// What a room is to do for the HTTP API, here or at another router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RoomOrder {
    /// With `once`, a repeat of it is not said again.
    Push {
        app: AppId,
        push: Outgoing,
        once: Option<String>,
    },
    Order(Order),
    /// A user of this business line gives. Known by his `uuid`.
    Gift {
        app: AppId,
        sender: UserId,
        request: GiftRequest,
    },
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RoomAnswer {
    Pushed(RoomPushed),
    Done,
    Gift(GiftPaid),
}

/// How long another router may take to answer: more than any room takes whose stores answer in their 300 ms.
const ASK_WAIT: Duration = Duration::from_secs(2);
/// After this nothing is asked for again. A room whose owner goes is claimed by the next within this, unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the ring may name a router that is not linked: its link has ended, and the registry is being asked whether it has gone.
const ROUND_THE_CORNER: Duration = Duration::from_millis(500);
/// First and longest pause before an order is asked for again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(400);
/// Asks that wait for one router. Connections of the HTTP API bound them too; this is as many.
const ASKS_MAX: usize = 1_024;
/// Bytes of an order's text: a room's block-list at its longest, escaped, fits twice.
const TEXT_BYTES_MAX: usize = billfish_link::tcp::ENVELOPE_BYTES_MAX / 2;
/// Random bytes of an order's id.
const ID_BYTES: usize = 16;

/// The routers that this one has links to.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    linked: Mutex<BTreeMap<String, Arc<Peer>>>,
}

/// A router at the other end of a link that was dialled here.
#[derive(Debug)]
pub(crate) struct Peer {
    node: String,
    incarnation: u64,
    sender: mpsc::Sender<Kind>,
    next_id: AtomicU64,
    /// Who waits for which answer; none once the link has ended.
    asks: Mutex<Option<HashMap<u64, oneshot::Sender<reply::Result>>>>,
}

/// What became of one ask.
#[derive(Debug)]
enum Asked {
    Answered(RoomAnswer),
    /// Also that it is another router's.
    Refused(Refusal),
    NotLinked,
    /// The link ended before the answer came: it may have been carried out, by that life of that router.
    Lost {
        node: String,
        incarnation: u64,
    },
}

impl Peers {
    /// A link is up. Gives the name it is known by from now on; an older link of the same router gives way.
    fn enter(&self, node: String, incarnation: u64, sender: mpsc::Sender<Kind>) -> Arc<Peer> {
        let asks = Mutex::new(Some(HashMap::new()));
        let peer = Arc::new(Peer { node: node.clone(), incarnation, sender, next_id: AtomicU64::new(0), asks });
        self.lock().insert(node, Arc::clone(&peer));
        peer
    }

    /// A link has ended: who waits on it hears so.
    fn leave(&self, peer: &Arc<Peer>) {
        let mut linked = self.lock();
        if linked.get(&peer.node).is_some_and(|current| Arc::ptr_eq(current, peer)) {
            linked.remove(&peer.node);
        }
        drop(linked);
        peer.lock().take();
    }

    fn get(&self, node: &str) -> Option<Arc<Peer>> {
        self.lock().get(node).cloned()
    }

    fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Peer>>> {
        self.linked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// Asks for an order and waits for its answer.
    async fn ask(&self, room: RoomId, text: &str) -> Asked {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        match &mut *self.lock() {
            None => return Asked::NotLinked,
            Some(asks) if asks.len() >= ASKS_MAX => return Asked::Refused(busy()),
            Some(asks) => asks.insert(id, answer),
        };
        // Taken back however this ends: answered, given up, or dropped with its caller.
        let _place = Place { peer: self, id };
        let order = message::Order { room_id: room.0, text: text.to_owned() };
        let up = Kind::Up(Up { id, origin: None, call: Some(Call::Order(order)) });
        match self.sender.try_send(up) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Asked::Refused(busy()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Asked::NotLinked,
        }
        match timeout(ASK_WAIT, answered).await {
            Ok(Ok(result)) => outcome(result),
            Ok(Err(_)) => Asked::Lost { node: self.node.clone(), incarnation: self.incarnation },
            Err(_) => Asked::Refused(unknown()),
        }
    }

    /// An answer has come. One that nobody waits for any more is forgotten.
    fn answered(&self, id: u64, result: reply::Result) {
        let waiting = self.lock().as_mut().and_then(|asks| asks.remove(&id));
        if let Some(answer) = waiting {
            // Where the receiver is gone the caller has given up.
            drop(answer.send(result));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<reply::Result>>>> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the table of asks.
struct Place<'a> {
    peer: &'a Peer,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(asks) = self.peer.lock().as_mut() {
            asks.remove(&self.id);
        }
    }
}

fn outcome(result: reply::Result) -> Asked {
    match result {
        reply::Result::Ordered(ordered) => match text::read_answer(&ordered.text) {
            Some(answer) => Asked::Answered(answer),
            None => Asked::Refused(unknown()),
        },
        reply::Result::Moved(moved) => Asked::Refused(Refusal::moved(&moved.owner)),
        reply::Result::Refused(refused) => {
            let reason = Reason::from_number(refused.code).unwrap_or(Reason::Unavailable);
            let refusal = Refusal::because(reason, refused.msg);
            Asked::Refused(match u64::try_from(refused.retry_after_ms) {
                Ok(retry_after_ms) if retry_after_ms > 0 => refusal.retry_after(retry_after_ms),
                _ => refusal,
            })
        }
        reply::Result::Accepted(_) | reply::Result::Joined(_) | reply::Result::Left(_) | reply::Result::Synced(_) => {
            Asked::Refused(unknown())
        }
    }
}

/// Too many wait for that router already.
fn busy() -> Refusal {
    Refusal::because(Reason::Unavailable, "too much is waiting for the router of this room; wait retryAfterMs").retry_after(AGAIN_MS)
}

/// Nobody can say what became of it.
fn unknown() -> Refusal {
    Refusal::because(Reason::Unavailable, "the router of this room did not answer; it may or may not have been carried out")
        .retry_after(AGAIN_MS)
}

/// Told to who finds the router of a room busy or gone: a link is dialled again, and a room claimed again, within a second or two.
const AGAIN_MS: u64 = 1_000;

impl Core {
    /// Has an order carried out by the owner of the room, whoever that is.
    pub(crate) async fn ask_room(&self, room: RoomId, order: RoomOrder) -> Result<RoomAnswer, Refusal> {
        let asked = if self.is_draining() { Err(Refusal::unavailable()) } else { self.ask_owner(room, order).await };
        asked.inspect_err(|refusal| self.metrics.refused(refusal.reason))
    }

    async fn ask_owner(&self, room: RoomId, mut order: RoomOrder) -> Result<RoomAnswer, Refusal> {
        let start = Instant::now();
        let give_up = start + PATIENCE;
        let mut pause = PAUSE_MIN;
        // Written when it first leaves this router, and the same ever after.
        let mut written: Option<String> = None;
        // Where the last answer said that it is; else the ring knows.
        let mut named: Option<String> = None;
        // Where it may have been carried out already.
        let mut lost: Option<(String, u64)> = None;
        loop {
            let is_named = named.is_some();
            let owner = named.take().or_else(|| self.ownership.owner(room)).filter(|owner| *owner != self.config.node);
            let refusal = match owner {
                None if lost.is_some() && !order.may_be_repeated() => unknown(),
                None => match self.carry_out(room, order.clone()).await {
                    Ok(answer) => return Ok(answer),
                    Err(refusal) if refusal.moved_to().is_some() => refusal,
                    Err(refusal) => return Err(refusal),
                },
                Some(owner) => {
                    let text = match &written {
                        Some(text) => text,
                        None => {
                            let id = random_id()?;
                            order.say_once(&id);
                            written.insert(written_as(&id, &order)?)
                        }
                    };
                    match self.ask_peer(&owner, room, text, &order, lost.as_ref()).await {
                        Asked::Answered(answer) => return Ok(answer),
                        Asked::Refused(refusal) if refusal.moved_to().is_some() => {
                            // It would have known the order, had it carried it out.
                            lost = lost.filter(|_| order.may_be_repeated());
                            refusal
                        }
                        Asked::Refused(refusal) => return Err(refusal),
                        Asked::NotLinked if is_named || lost.is_some() => lost.as_ref().map_or_else(away, |_| unknown()),
                        Asked::NotLinked if start.elapsed() < ROUND_THE_CORNER => away(),
                        Asked::NotLinked => return Err(away()),
                        Asked::Lost { node, incarnation } => {
                            lost = Some((node, incarnation));
                            unknown()
                        }
                    }
                }
            };
            if Instant::now() + pause >= give_up {
                // Whether it was carried out outweighs where it is to be asked for next.
                return Err(if lost.is_some() { unknown() } else { refusal });
            }
            if refusal.moved_to() == Some(&self.config.node) {
                // Another ring is newer than ours.
                self.look_soon.store(true, Ordering::Relaxed);
            }
            named = refusal.moved_to().filter(|owner| !owner.is_empty() && *owner != self.config.node).map(str::to_owned);
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Asks another router, once.
    async fn ask_peer(&self, owner: &str, room: RoomId, text: &str, order: &RoomOrder, lost: Option<&(String, u64)>) -> Asked {
        let peer = self.peers.get(owner);
        let remembers = |peer: &Peer| lost.is_none_or(|(node, incarnation)| peer.node == *node && peer.incarnation == *incarnation);
        let asked = match peer {
            Some(peer) if order.may_be_repeated() || remembers(&peer) => peer.ask(room, text).await,
            Some(_) | None => Asked::NotLinked,
        };
        self.metrics.asked(match &asked {
            Asked::Answered(_) => "answered",
            Asked::Refused(refusal) if refusal.moved_to().is_some() => "moved",
            Asked::Refused(_) => "refused",
            Asked::NotLinked => "not_linked",
            Asked::Lost { .. } => "lost",
        });
        asked
    }

    /// Asks a room of this router and waits for its answer.
    pub(crate) async fn carry_out(&self, room: RoomId, order: RoomOrder) -> Result<RoomAnswer, Refusal> {
        let core = self.me().ok_or_else(Refusal::unavailable)?;
        match order {
            RoomOrder::Push { app, push, once } => {
                let (answer, answered) = oneshot::channel();
                dispatch::to_room(&core, room, RoomCall::Push { app, push, once, answer }).await;
                answered.await.unwrap_or_else(|_| Err(Refusal::unavailable())).map(RoomAnswer::Pushed)
            }
            RoomOrder::Order(order) => {
                let (answer, answered) = oneshot::channel();
                dispatch::to_room(&core, room, RoomCall::Order { order, answer }).await;
                answered.await.unwrap_or_else(|_| Err(Refusal::unavailable())).map(|()| RoomAnswer::Done)
            }
            RoomOrder::Gift { app, sender, request } => {
                let (answer, answered) = oneshot::channel();
                let asker = Asker { app, user: sender, device: DeviceKind::default(), session: 0 };
                dispatch::to_room(&core, room, RoomCall::Gift { giver: Giver::Api { asker, answer }, request }).await;
                answered.await.unwrap_or_else(|_| Err(Refusal::unavailable())).map(RoomAnswer::Gift)
            }
        }
    }
}

impl RoomOrder {
    /// Whether it may be carried out by one router and then by another, and things are as if it had been once.
    fn may_be_repeated(&self) -> bool {
        match self {
            Self::Order(_) | Self::Gift { .. } => true,
            Self::Push { push, once, .. } => push.key.is_none() && once.is_some(),
        }
    }

    /// From now on its repeats are known by this id, if they are not by another.
    fn say_once(&mut self, id: &str) {
        if let Self::Push { once, .. } = self {
            once.get_or_insert_with(|| id.to_owned());
        }
    }
}

fn written_as(id: &str, order: &RoomOrder) -> Result<String, Refusal> {
    let text = text::write(id, order);
    if text.len() > TEXT_BYTES_MAX {
        return Err(Refusal::new(Reason::TooLarge));
    }
    Ok(text)
}

fn away() -> Refusal {
    Refusal::because(Reason::Unavailable, "the router of this room is not linked to this one; wait retryAfterMs").retry_after(AGAIN_MS)
}

fn random_id() -> Result<String, Refusal> {
    let mut random = [0; ID_BYTES];
    if let Err(error) = getrandom::fill(&mut random) {
        tracing::error!(%error, "the system gives no random numbers");
        return Err(Refusal::new(Reason::Internal));
    }
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
