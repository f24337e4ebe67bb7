//! Several routers on one state, each with its own tasks: who does what for whom, and what happens when one of them goes.

mod drain;
mod orders;
mod redis;
mod registry;
mod sweep;

use crate::{
    Handle, RouterConfig, RouterParts, Running,
    handle::{OpenRoom, Opened, PushRequest, Target},
    services::ports::{Absent, RoomKind},
    testing::TestRecords,
};
use billfish_link::{
    Link, PeerKind,
    message::{Interest, RoomPush, envelope::Kind},
    pipe,
};
use billfish_state::{AppId, RoomId, State, UserId};
use billfish_wire::Class;
use prometheus_client::registry::Registry;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};

const APP: AppId = AppId(10_001);
/// Longer than anything a router waits for; on a paused clock it costs nothing.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at what is to become true.
const LOOK: Duration = Duration::from_millis(10);

/// What all routers of a test share.
#[derive(Clone)]
struct World {
    state: State,
    records: Arc<TestRecords>,
}

struct Node {
    running: Running,
    handle: Handle,
    registry: Registry,
}

impl World {
    fn new() -> Self {
        Self { state: State::in_memory(), records: Arc::new(TestRecords::default()) }
    }

    async fn router(&self, node: &str) -> Node {
        self.router_with(node, |_| {}).await
    }

    async fn router_with(&self, node: &str, change: impl FnOnce(&mut RouterConfig)) -> Node {
        let mut config = RouterConfig { node: node.to_owned(), ..RouterConfig::default() };
        change(&mut config);
        let mut registry = Registry::default();
        let parts = RouterParts {
            config,
            state: self.state.clone(),
            records: self.records.clone(),
            money: Arc::new(Absent),
            till: Arc::new(Absent),
            people: Arc::new(Absent),
            registry: &mut registry,
        };
        let running = crate::start(parts).await.unwrap();
        let handle = running.handle();
        Node { running, handle, registry }
    }

    /// Two routers, each linked to the other, on one ring.
    async fn pair(&self) -> (Node, Node) {
        let (first, second) = (self.router("r1").await, self.router("r2").await);
        first.asks(&second);
        second.asks(&first);
        until("the rings agree", || knows(&first, "r2") && knows(&second, "r1")).await;
        (first, second)
    }

    /// Opens a room that is `owner`'s by the ring.
    async fn room_of(&self, owner: &Node) -> RoomId {
        for anchor in 30_001..30_101 {
            let room = OpenRoom { app: APP, anchor: UserId(anchor), kind: RoomKind::Normal, name: String::new(), cover: String::new() };
            if let Opened::New(room) = owner.handle.open_room(room).await.unwrap()
                && owner.running.core.ownership.is_mine(room.room)
            {
                return room.room;
            }
        }
        panic!("of a hundred rooms none is this router's");
    }
}

impl Node {
    /// Links this router to another one, to ask it.
    fn asks(&self, other: &Self) {
        let (dialled, accepted) = peer_link(&self.running.core.config.node, &other.running.core.config.node, 1);
        self.running.attach_peer(dialled);
        other.running.attach(accepted);
    }

    fn gateway(&self, node: &str) -> Gateway {
        let (ours, theirs) = pipe::pair((node, 1), (&self.running.core.config.node, 1));
        self.running.attach(theirs);
        Gateway { link: ours }
    }

    fn metric(&self, line: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text.lines().find_map(|candidate| candidate.strip_prefix(line)?.trim().parse().ok()).unwrap_or(0.0)
    }

    async fn push(&self, room: RoomId, data: &str) -> Result<i64, crate::Refusal> {
        self.handle.push(room_push(room, data)).await.map(|pushed| pushed.seq.unwrap())
    }
}

/// A link port on loopback: routers then find and dial each other.
fn with_link_port(config: &mut RouterConfig) {
    config.link.listen = Some(([127, 0, 0, 1], 0).into());
    config.link.secret = "0123456789abcdef".to_owned();
}

/// Both ends of a link between routers: of who asks, and of who answers.
fn peer_link(asking: &str, answering: &str, incarnation: u64) -> (Link, Link) {
    let (dialled, mut accepted) = pipe::pair((asking, incarnation), (answering, incarnation));
    accepted.kind = PeerKind::Router;
    (dialled, accepted)
}

fn room_push(room: RoomId, data: &str) -> PushRequest {
    PushRequest { app: APP, target: Target::Room(room), biz_code: 5_568, data: data.to_owned(), qos: 0, class: Class::Event, key: None }
}

/// Whether a router's ring has another one.
fn knows(node: &Node, other: &str) -> bool {
    (1..1_000).any(|room| node.running.core.ownership.owner(RoomId(room)).as_deref() == Some(other))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "never: {what}");
        sleep(LOOK).await;
    }
}

struct Gateway {
    link: Link,
}

impl Gateway {
    async fn wants(&self, room: RoomId) {
        let interest = Interest { room_id: room.0, interested: true, members: 1, last_seq: 0 };
        self.link.sender.send(Kind::Interest(interest)).await.unwrap();
    }

    async fn next(&mut self) -> Kind {
        timeout(PATIENCE, self.link.receiver.recv()).await.expect("something is heard").expect("the link is up")
    }

    /// The data of the next push to a room that is not a count of its audience.
    async fn push(&mut self) -> String {
        loop {
            if let Kind::RoomPush(RoomPush { push: Some(push), .. }) = self.next().await
                && push.key != "audience"
            {
                return push.data;
            }
        }
    }
}
