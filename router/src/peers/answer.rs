//! The accepting side: carries out what another router orders, each order once, and nothing that is not for a room here.

use super::{RoomAnswer, text};
use crate::{Refusal, core::Core, link::refused};
use billfish_link::{
    Link,
    message::{Moved, Order, Ordered, Reply, Up, envelope::Kind, reply, up::Call},
};
use billfish_state::RoomId;
use billfish_wire::Reason;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{OnceCell, Semaphore};

/// Orders of one router under way at once. Four times what a room works off in a batch.
const ORDERS_MAX: usize = 256;
/// Orders remembered, of all routers together. They are asked for again within four seconds or never; this is 1,000 a second.
const REMEMBERED_MAX: usize = 4_096;

/// The answers given lately, and those being found.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    orders: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    answers: HashMap<String, Arc<OnceCell<Finished>>>,
    /// Oldest first.
    ids: VecDeque<String>,
}

/// What was done, or refused for good. That it is another router's is no end of it.
type Finished = Result<RoomAnswer, Refusal>;

impl Remembered {
    /// The place of an order's answer, and whether it was here before.
    fn of(&self, id: &str) -> (Arc<OnceCell<Finished>>, bool) {
        let mut recent = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = recent.answers.get(id) {
            return (Arc::clone(answer), true);
        }
        if recent.ids.len() >= REMEMBERED_MAX
            && let Some(oldest) = recent.ids.pop_front()
        {
            recent.answers.remove(&oldest);
        }
        let answer = Arc::<OnceCell<Finished>>::default();
        recent.ids.push_back(id.to_owned());
        recent.answers.insert(id.to_owned(), Arc::clone(&answer));
        (answer, false)
    }
}

/// Serves a router that has dialled in, until the link ends.
pub(crate) async fn serve(core: Arc<Core>, link: Link) {
    let Link { peer, incarnation, sender, mut receiver, .. } = link;
    tracing::info!(router = peer, incarnation, "another router has linked");
    let places = Arc::new(Semaphore::new(ORDERS_MAX));
    loop {
        // Cancel-safe: `recv` takes nothing unless it returns.
        let kind = tokio::select! {
            kind = receiver.recv() => kind,
            () = core.stop.cancelled() => None,
        };
        let Some(kind) = kind else { break };
        let Kind::Up(Up { id, origin: _, call }) = kind else {
            tracing::debug!(router = peer, "a router sent something other than an order");
            continue;
        };
        // Whoever sends more than is worked off at once waits, by the credit of its link. Never closed: it is ours.
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place.ok(),
            () = core.stop.cancelled() => break,
        };
        let (working, sender) = (Arc::clone(&core), sender.clone());
        core.tasks.spawn(async move {
            let answered = match call {
                Some(Call::Order(order)) => answer(&working, order).await,
                _ => Err(Refusal::new(Reason::UnknownCode)),
            };
            let reply = Kind::Reply(Reply { id, result: Some(working.counted(answered)) });
            // A link that takes nothing does not keep the router from stopping.
            tokio::select! {
                sent = sender.send(reply) => if sent.is_err() { tracing::debug!("an answer found its link gone") },
                () = working.stop.cancelled() => {}
            }
            drop(place);
        });
    }
    tracing::info!(router = peer, "the link of another router ended");
}

/// Carries an order out, or finds what became of it.
async fn answer(core: &Arc<Core>, order: Order) -> Finished {
    let room = RoomId(order.room_id);
    let Some((id, order)) = text::read(&order.text) else {
        return Err(Refusal::because(Reason::UnknownCode, "the router of this room does not know this order"));
    };
    let (place, is_known) = core.remembered.of(&id);
    if is_known {
        core.metrics.orders_repeated.inc();
    }
    let finish = || async {
        // Never passed on: who asked goes by what it hears.
        let is_elsewhere = !core.ownership.is_mine(room) && !core.rooms.has(room);
        if core.is_draining() || is_elsewhere {
            return Err(Refusal::moved(&core.owner_or_none(room)));
        }
        match core.carry_out(room, order).await {
            // Nothing was done: asked for again, it is asked anew.
            Err(refusal) if refusal.moved_to().is_some() => Err(refusal),
            finished => Ok(finished),
        }
    };
    match place.get_or_try_init(finish).await {
        Ok(finished) => finished.clone(),
        Err(moved) => Err(moved),
    }
}

impl Core {
    /// Counts what became of an order, and puts it into words of the link.
    fn counted(&self, answered: Finished) -> reply::Result {
        match answered {
            Ok(answer) => {
                self.metrics.ordered("done");
                reply::Result::Ordered(Ordered { text: text::write_answer(&answer) })
            }
            Err(refusal) => match refusal.moved_to() {
                Some(owner) => {
                    self.metrics.ordered("moved");
                    reply::Result::Moved(Moved { owner: owner.to_owned() })
                }
                None => {
                    self.metrics.ordered("refused");
                    reply::Result::Refused(refused(&refusal))
                }
            },
        }
    }

    /// Whose a room is now, where that is another router; else empty.
    pub(crate) fn owner_or_none(&self, room: RoomId) -> String {
        self.ownership.owner(room).filter(|owner| *owner != self.config.node).unwrap_or_default()
    }
}
