//! Acknowledgements on their way to the shared state: late ones are recorded, received ones removed, inbox messages ticked off.
//!
//! - In batches, and never in the way of a shard.
//! - An ACK that the state never hears of is harmless: the message comes again, and clients show an id once.
//! - An inbox is the session's own, whatever id a client names.
//! - What a connection that ended did not acknowledge of a room stays recorded, until the room's log has forgotten it: a JOIN that does not
//!   say what it knows begins there.

use crate::{
    batch::{Batch, Write},
    metrics::{ControlCounters, Port},
    shard::message::Origin,
    store::{Away, Store},
};
use billfish_session::Push;
use billfish_state::{AppId, PendingAck, RoomId, UserId};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

type Delivery = (AppId, UserId, String);

/// This gateway's part of the ACKs.
#[derive(Debug)]
pub(crate) struct Acks {
    late: Batch<Delivery, Late>,
    inbox: Batch<Delivery, ()>,
    store: Arc<Store>,
}

/// What is to become of the record of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Late {
    Record(PendingAck),
    Remove,
}

impl Acks {
    pub(crate) fn new(store: Arc<Store>, counters: &Arc<ControlCounters>) -> Self {
        Self {
            late: Batch::new(Port::Acks, WAITING_MAX, GATHER, Arc::clone(counters)),
            inbox: Batch::new(Port::Inbox, WAITING_MAX, GATHER, Arc::clone(counters)).in_writes_of(INBOX_WRITE_MAX),
            store,
        }
    }

    /// An ACK is late.
    pub(crate) fn record(&self, origin: Origin, push: &Push, times_sent: u32, due_in_ms: u64) {
        let Some(msg_id) = push.body().msg_id.clone() else { return };
        let (app, user) = (AppId(origin.app_id), UserId(origin.user_id));
        let room = push.body().room_id.map(RoomId);
        let pending = PendingAck { app, user, msg_id: msg_id.clone(), room, times_sent, due_ms: self.store.now_ms() + due_in_ms };
        self.late.put((app, user, msg_id), Late::Record(pending));
    }

    /// An ACK came.
    pub(crate) fn acked(&self, origin: Origin, msg_id: String, room_id: Option<i64>, recorded: bool) {
        let delivery = (AppId(origin.app_id), UserId(origin.user_id), msg_id);
        let is_inbox = room_id.is_none() && is_inbox_id(&delivery.2);
        if is_inbox {
            self.inbox.put(delivery.clone(), ());
        }
        // What goes to an inbox was recorded by the router that sent it.
        if recorded || is_inbox {
            self.late.put(delivery, Late::Remove);
        }
    }

    /// No ACK came, and none is waited for any more: the inbox or the room log keeps the message.
    pub(crate) fn handed_over(&self, origin: Origin, push: &Push, recorded: bool, missed: bool) {
        let is_of_room = push.body().room_id.is_some();
        match &push.body().msg_id {
            Some(_) if missed && is_of_room && !recorded => self.record(origin, push, 1, 0),
            Some(msg_id) if recorded && !(missed && is_of_room) => {
                self.late.put((AppId(origin.app_id), UserId(origin.user_id), msg_id.clone()), Late::Remove);
            }
            Some(_) | None => {}
        }
    }

    /// Writes until `stop`, then what is left.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        tokio::join!(self.late.run(stop, self), self.inbox.run(stop, self));
    }
}

impl Write<Delivery, Late> for Acks {
    async fn write(&self, late: &[(Delivery, Late)]) -> Result<(), Away> {
        let (mut recorded, mut removed) = (Vec::new(), Vec::new());
        for (delivery, what) in late {
            match what {
                Late::Record(pending) => recorded.push(pending.clone()),
                Late::Remove => removed.push(delivery.clone()),
            }
        }
        if !recorded.is_empty() {
            self.store.call(Port::Acks, self.store.state.acks.record(&recorded)).await?;
        }
        if !removed.is_empty() {
            self.store.call(Port::Acks, self.store.state.acks.remove(&removed)).await?;
        }
        Ok(())
    }
}

impl Write<Delivery, ()> for Acks {
    async fn write(&self, acked: &[(Delivery, ())]) -> Result<(), Away> {
        let acked: Vec<Delivery> = acked.iter().map(|(delivery, ())| delivery.clone()).collect();
        self.store.call(Port::Inbox, self.store.state.inbox.ack(&acked)).await
    }
}

/// `ms-n`: what [`billfish_state::Inbox::append`] gives. An ACK of anything else ticks nothing off, and costs no call.
fn is_inbox_id(msg_id: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    msg_id.split_once('-').is_some_and(|(ms, count)| is_number(ms) && is_number(count))
}

/// Deliveries that may wait while the state is away; beyond, they are given up: they come again.
const WAITING_MAX: usize = 65_536;
/// Messages ticked off in one write: half a millisecond of Redis' time, for which everyone else waits.
const INBOX_WRITE_MAX: usize = 64;
/// What comes within this is one write.
const GATHER: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::{Acks, is_inbox_id};
    use crate::{metrics::ControlCounters, shard::message::Origin, store::Store};
    use billfish_session::Push;
    use billfish_state::{AppId, DeviceKind, PendingAck, State, UserId};
    use billfish_wire::Body;
    use bytes::Bytes;
    use std::sync::Arc;
    use tokio_util::sync::CancellationToken;

    const APP: AppId = AppId(10_001);
    const USER: UserId = UserId(20_001);
    const ORIGIN: Origin = Origin { app_id: APP.0, user_id: USER.0, device: DeviceKind::Web, session: 1 };

    fn acks() -> (Acks, State) {
        let (counters, state) = (Arc::new(ControlCounters::default()), State::in_memory());
        (Acks::new(Arc::new(Store::new(state.clone(), Arc::clone(&counters))), &counters), state)
    }

    async fn flush(acks: &Acks) {
        let stop = CancellationToken::new();
        stop.cancel();
        acks.run(&stop).await;
    }

    fn push(msg_id: &str) -> Push {
        Push::new(Body { msg_id: Some(msg_id.to_owned()), room_id: Some(7), qos: Some(1), ..Body::default() })
    }

    #[tokio::test]
    async fn a_late_ack_is_recorded_until_it_comes() {
        let (acks, state) = acks();
        acks.record(ORIGIN, &push("r7-1"), 1, 4_000);
        flush(&acks).await;
        let pending = state.acks.pending(APP, USER).await.unwrap();
        assert_eq!((pending.len(), pending[0].times_sent, pending[0].room.map(|room| room.0)), (1, 1, Some(7)));
        acks.acked(ORIGIN, "r7-1".to_owned(), Some(7), true);
        flush(&acks).await;
        assert!(state.acks.pending(APP, USER).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_ack_that_overtakes_its_own_record_leaves_nothing_behind() {
        let (acks, state) = acks();
        acks.record(ORIGIN, &push("r7-1"), 1, 4_000);
        acks.acked(ORIGIN, "r7-1".to_owned(), Some(7), true);
        flush(&acks).await;
        assert!(state.acks.pending(APP, USER).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_delivery_handed_over_is_no_longer_awaited() {
        let (acks, state) = acks();
        acks.record(ORIGIN, &push("r7-1"), 3, 0);
        flush(&acks).await;
        acks.handed_over(ORIGIN, &push("r7-1"), true, false);
        flush(&acks).await;
        assert!(state.acks.pending(APP, USER).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_a_room_said_to_a_connection_that_was_lost_stays_recorded() {
        let (acks, state) = acks();
        acks.record(ORIGIN, &push("r7-1"), 3, 0);
        flush(&acks).await;
        acks.handed_over(ORIGIN, &push("r7-1"), true, true);
        acks.handed_over(ORIGIN, &push("r7-2"), false, true);
        let to_user = Push::new(Body { msg_id: Some("1-0".to_owned()), qos: Some(1), ..Body::default() });
        acks.record(ORIGIN, &to_user, 1, 0);
        acks.handed_over(ORIGIN, &to_user, true, true);
        flush(&acks).await;
        let mut left: Vec<String> = state.acks.pending(APP, USER).await.unwrap().into_iter().map(|pending| pending.msg_id).collect();
        left.sort();
        assert_eq!(left, ["r7-1", "r7-2"], "the inbox tells the next LOGIN of the other");
    }

    #[tokio::test]
    async fn an_acknowledged_message_leaves_the_inbox_of_its_own_user_alone() {
        let (acks, state) = acks();
        let now = state.clock.now_ms();
        let other = UserId(20_002);
        let ids = state.inbox.append(APP, &[USER, other], &format!("{now}-0"), Bytes::from_static(b"{}"), now).await.unwrap();
        acks.acked(ORIGIN, ids[0].clone(), None, false);
        flush(&acks).await;
        assert!(state.inbox.read(APP, USER, None, 10, now).await.unwrap().entries.is_empty());
        assert_eq!(state.inbox.read(APP, other, None, 10, now).await.unwrap().entries.len(), 1);
    }

    #[tokio::test]
    async fn what_a_router_recorded_when_it_sent_it_is_removed_by_the_ack() {
        let (acks, state) = acks();
        for msg_id in ["1700000000000-0", "1700000000001-0"] {
            let pending = PendingAck { app: APP, user: USER, msg_id: msg_id.to_owned(), room: None, times_sent: 1, due_ms: 1 };
            state.acks.record(&[pending]).await.unwrap();
        }
        acks.acked(ORIGIN, "1700000000000-0".to_owned(), None, false);
        flush(&acks).await;
        let left = state.acks.pending(APP, USER).await.unwrap();
        assert_eq!(left.iter().map(|pending| pending.msg_id.as_str()).collect::<Vec<_>>(), ["1700000000001-0"]);
    }

    #[test]
    fn only_ids_of_an_inbox_tick_something_off() {
        for id in ["1700000000000-0", "1-12"] {
            assert!(is_inbox_id(id), "{id}");
        }
        for id in ["", "-", "1-", "-1", "r7-1", "a", "1-2-3", "1 - 2"] {
            assert!(!is_inbox_id(id), "{id}");
        }
    }
}
