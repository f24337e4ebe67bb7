//! A router with virtual gateways at the ends of in-memory links, on a paused clock: what a gateway hears, in which order.

mod chat;
mod crash;
mod gifts;
mod histories;
mod lives;
mod members;
mod orders;
mod owners;
mod parting;
mod resume;
mod roll;
mod town;
mod trouble;
mod users;

use crate::{
    Handle, Refusal, RouterConfig, RouterParts, Running,
    handle::{MuteRequest, OpenRoom, Opened, Operator, PushRequest, SendGift, Target},
    services::ports::{
        Absent, Profile, RoomKind,
        money::{GiftId, GiftKind},
    },
    testing::{TestRecords, TestTill},
};
use billfish_link::{
    Link,
    message::{
        Biz, Gone, Interest, Join, Joined, Leave, Moved, Origin, Push, Refused, Reply, RoomPush, Sync, Up, UserPush, envelope::Kind, reply,
        up::Call,
    },
    pipe,
};
use billfish_state::{AppId, DeviceKind, Lease, RoomId, Route, State, UserId};
use billfish_wire::{
    Class, Reason,
    snapshot::{RoomSnapshot, SyncPage},
};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

const APP: AppId = AppId(10_001);
const ANCHOR: UserId = UserId(30_001);
const ALICE: i64 = 20_001;
const BOB: i64 = 20_002;
const CAROL: i64 = 20_003;
const WEB: DeviceKind = DeviceKind::Web;

struct House {
    running: Running,
    handle: Handle,
    records: Arc<TestRecords>,
    state: State,
    registry: Registry,
}

impl House {
    async fn start() -> Self {
        Self::with(|_| {}, Arc::new(TestRecords::default()), State::in_memory()).await
    }

    async fn with(change: impl FnOnce(&mut RouterConfig), records: Arc<TestRecords>, state: State) -> Self {
        let mut config = RouterConfig::default();
        // Enough for a test that is about something else.
        config.chat.user_messages_max = 1_000_000;
        config.chat.room_messages_per_s = 1_000_000;
        change(&mut config);
        let mut registry = Registry::default();
        let parts = RouterParts {
            config,
            state: state.clone(),
            records: records.clone(),
            money: records.clone(),
            till: TestTill::start(&records, &state.clock),
            people: Arc::new(Absent),
            registry: &mut registry,
        };
        let running = crate::start(parts).await.unwrap();
        let handle = running.handle();
        Self { running, handle, records, state, registry }
    }

    fn gateway(&self, node: &str) -> Gateway {
        self.gateway_life(node, 1)
    }

    fn gateway_life(&self, node: &str, incarnation: u64) -> Gateway {
        let (ours, theirs) = pipe::pair((node, incarnation), ("router-1", 1));
        self.running.attach(theirs);
        Gateway { link: ours, next_id: 0, heard: Vec::new() }
    }

    async fn open(&self, anchor: UserId) -> RoomId {
        match self.handle.open_room(open_room(anchor)).await.unwrap() {
            Opened::New(room) => room.room,
            Opened::AlreadyLive(room) => panic!("{room} is live"),
        }
    }

    async fn say(&self, room: RoomId, data: &str) -> i64 {
        self.handle.push(room_push(room, data)).await.unwrap().seq.unwrap()
    }

    async fn audience(&self, room: RoomId) -> u64 {
        self.handle.room(room).await.unwrap().audience
    }

    fn metric(&self, line: &str) -> f64 {
        metric(&self.registry, line)
    }
}

/// The value of the metric line that begins so; 0 where there is none.
fn metric(registry: &Registry, line: &str) -> f64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text.lines().find_map(|candidate| candidate.strip_prefix(line)?.trim().parse().ok()).unwrap_or(0.0)
}

fn open_room(anchor: UserId) -> OpenRoom {
    OpenRoom { app: APP, anchor, kind: RoomKind::Normal, name: "room".to_owned(), cover: String::new() }
}

fn room_push(room: RoomId, data: &str) -> PushRequest {
    PushRequest { app: APP, target: Target::Room(room), biz_code: 5_568, data: data.to_owned(), qos: 0, class: Class::Event, key: None }
}

fn user_push(users: &[i64], qos: u8) -> PushRequest {
    let users = users.iter().copied().map(UserId).collect();
    PushRequest { app: APP, target: Target::Users(users), biz_code: 5_568, data: "{}".to_owned(), qos, class: Class::Event, key: None }
}

struct Gateway {
    link: Link,
    next_id: u64,
    /// What came while something else was awaited.
    heard: Vec<Kind>,
}

/// Longer than anything a router waits for; on a paused clock it costs nothing.
const PATIENCE: Duration = Duration::from_secs(5);

impl Gateway {
    async fn send(&self, kind: Kind) {
        self.link.sender.send(kind).await.unwrap();
    }

    async fn interest(&self, room: RoomId, interested: bool) {
        self.send(Kind::Interest(Interest { room_id: room.0, interested, members: u32::from(interested), last_seq: 0 })).await;
    }

    async fn call(&mut self, user: i64, call: Call) -> u64 {
        self.call_from(user, WEB, user.unsigned_abs(), call).await
    }

    async fn call_from(&mut self, user: i64, device: DeviceKind, session: u64, call: Call) -> u64 {
        self.next_id += 1;
        let origin = Origin { app_id: APP.0, user_id: user, device: device as u32, session };
        self.send(Kind::Up(Up { id: self.next_id, origin: Some(origin), call: Some(call) })).await;
        self.next_id
    }

    async fn next(&mut self) -> Kind {
        tokio::time::timeout(PATIENCE, self.link.receiver.recv()).await.expect("something is heard").expect("the link is up")
    }

    async fn answer(&mut self, id: u64) -> reply::Result {
        loop {
            let kind = self.next().await;
            if let Kind::Reply(Reply { id: answered, result: Some(result) }) = &kind
                && *answered == id
            {
                return result.clone();
            }
            self.heard.push(kind);
        }
    }

    async fn ask(&mut self, user: i64, call: Call) -> reply::Result {
        let id = self.call(user, call).await;
        self.answer(id).await
    }

    async fn refusal(&mut self, user: i64, call: Call) -> Reason {
        let answer = self.ask(user, call).await;
        let reply::Result::Refused(Refused { code, .. }) = answer else { panic!("not refused: {answer:?}") };
        Reason::from_number(code).unwrap()
    }

    /// Whom a call is to be sent to instead.
    async fn moved(&mut self, user: i64, call: Call) -> String {
        let answer = self.ask(user, call).await;
        let reply::Result::Moved(Moved { owner }) = answer else { panic!("not moved: {answer:?}") };
        owner
    }

    async fn join(&mut self, room: RoomId, user: i64) -> Joined {
        self.interest(room, true).await;
        joined(self.ask(user, join(room, None)).await)
    }

    async fn resume(&mut self, room: RoomId, user: i64, seq: i64) -> RoomSnapshot {
        self.interest(room, true).await;
        snapshot(&joined(self.ask(user, join(room, Some(seq))).await))
    }

    async fn chat(&mut self, room: RoomId, user: i64, content: &str) -> reply::Result {
        self.ask(user, chat(room, content, "")).await
    }

    /// The next push to a room that is not a count of its audience.
    async fn push(&mut self) -> RoomPush {
        loop {
            let kind = if self.heard.is_empty() { self.next().await } else { self.heard.remove(0) };
            if let Kind::RoomPush(push) = kind
                && body(&push).key != "audience"
            {
                return push;
            }
        }
    }

    async fn user_push(&mut self) -> UserPush {
        loop {
            let kind = if self.heard.is_empty() { self.next().await } else { self.heard.remove(0) };
            if let Kind::UserPush(push) = kind {
                return push;
            }
        }
    }

    /// Everything heard until nothing more comes for a while.
    async fn rest(&mut self, quiet: Duration) -> Vec<Kind> {
        let mut rest = std::mem::take(&mut self.heard);
        while let Ok(Some(kind)) = tokio::time::timeout(quiet, self.link.receiver.recv()).await {
            rest.push(kind);
        }
        rest
    }
}

fn join(room: RoomId, resume_seq: Option<i64>) -> Call {
    Call::Join(Join { room_id: room.0, resume_seq })
}

fn leave(room: RoomId) -> Call {
    Call::Leave(Leave { room_id: room.0 })
}

fn chat(room: RoomId, content: &str, msg_id: &str) -> Call {
    let data = json!({"roomId": room.0, "content": content}).to_string();
    Call::Biz(Biz { room_id: room.0, biz_code: 5_555, data, msg_id: msg_id.to_owned() })
}

fn whisper(to: i64, content: &str, msg_id: &str) -> Call {
    let data = json!({"objectId": to, "content": content}).to_string();
    Call::Biz(Biz { room_id: 0, biz_code: 5_555, data, msg_id: msg_id.to_owned() })
}

fn joined(result: reply::Result) -> Joined {
    let reply::Result::Joined(joined) = result else { panic!("not joined: {result:?}") };
    joined
}

fn snapshot(joined: &Joined) -> RoomSnapshot {
    serde_json::from_str(&joined.data).unwrap()
}

fn body(push: &RoomPush) -> &Push {
    push.push.as_ref().unwrap()
}

fn data(push: &RoomPush) -> Value {
    serde_json::from_str(&body(push).data).unwrap()
}

/// The number a message got.
fn accepted(result: reply::Result) -> i64 {
    let reply::Result::Accepted(accepted) = result else { panic!("not accepted: {result:?}") };
    accepted.seq
}

/// Number and text of every chat message heard.
fn pushes(heard: &[Kind]) -> Vec<(i64, String)> {
    let said = |kind: &Kind| {
        let Kind::RoomPush(push) = kind else { return None };
        let content = || data(push)["content"].as_str().unwrap_or_default().to_owned();
        body(push).key.is_empty().then(|| (body(push).seq, content()))
    };
    heard.iter().filter_map(said).collect()
}

fn is_accepted(result: &reply::Result) -> bool {
    matches!(result, reply::Result::Accepted(_))
}

fn reason<T: std::fmt::Debug>(result: Result<T, Refusal>) -> Reason {
    result.unwrap_err().reason
}

/// The name of a room's lease.
fn owner_of(room: RoomId) -> String {
    format!("room:{room}:owner")
}

/// Gives a room's lease to somebody else for half a minute, whoever has it.
async fn steal_lease(state: &State, room: RoomId) -> Lease {
    let (name, now_ms) = (owner_of(room), state.clock.now_ms());
    let lease = state.leases.acquire(&name, "thief%1%0", now_ms, now_ms + 30_000).await.unwrap();
    state.leases.release(&name, &lease.holder, lease.epoch).await.unwrap();
    let stolen = state.leases.acquire(&name, "thief%1%0", now_ms, now_ms + 30_000).await.unwrap();
    assert_eq!(stolen.holder, "thief%1%0");
    stolen
}

/// Lets the router's tasks run until they wait.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}
