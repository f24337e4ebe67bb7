//! A gateway and all around it. Nothing here sleeps and hopes: every wait is for a condition, with a deadline.

use billfish_gateway::{GatewayConfig, GatewayParts, Links, Running, start};
use billfish_link::{
    Link,
    message::{Accepted, Gone, Interest, Joined, Left, Push, Reply, RoomPush, Synced, Up, UserPush, envelope::Kind, reply, up::Call},
    pipe::pair,
};
use billfish_state::{AppId, DeviceKind, State, TokenOwner, UserId};
use billfish_wire::{Body, Code, Encoding, frame};
use prometheus_client::registry::Registry;
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{runtime::Runtime, sync::mpsc, task::JoinHandle};

/// No wait of a healthy run comes near it, however loaded the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const APP: i32 = 10_001;

/// Waits for something to become true.
pub(crate) fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A gateway, its router and its state.
pub(crate) struct House {
    pub(crate) runtime: Runtime,
    pub(crate) running: Option<Running>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) state: State,
    tokens: AtomicU64,
}

impl House {
    /// One that has no router yet.
    pub(crate) fn alone(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        Self::on(State::in_memory(), change)
    }

    /// One on a state that may be broken.
    pub(crate) fn on(state: State, change: impl FnOnce(&mut GatewayConfig)) -> Self {
        Self::linked(state, Links::Attached, change)
    }

    /// One that dials its routers.
    pub(crate) fn dialling(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        Self::linked(State::in_memory(), Links::Dialled, change)
    }

    fn linked(state: State, links: Links, change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let mut config = GatewayConfig { shards: 2, ..GatewayConfig::default() };
        config.listen.tcp = "127.0.0.1:0".parse().unwrap();
        config.listen.ws = Some(config.listen.tcp);
        config.listen.tls = Some(config.listen.tcp);
        config.listen.quic = Some(config.listen.tcp);
        config.admission.user_logins_per_minute = 1_000;
        change(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut registry = Registry::default();
        let parts = GatewayParts { config, state: state.clone(), links, registry: &mut registry };
        let running = runtime.block_on(start(parts)).unwrap();
        Self { runtime, running: Some(running), registry: Arc::new(registry), state, tokens: AtomicU64::new(0) }
    }

    /// One with a router that says yes to everything.
    pub(crate) fn new() -> (Self, Router) {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut GatewayConfig)) -> (Self, Router) {
        let house = Self::alone(change);
        let router = house.link("router-1", true);
        (house, router)
    }

    /// A new router, or a new link of one that was here.
    pub(crate) fn link(&self, name: &str, answers: bool) -> Router {
        let (ours, theirs) = pair(("gateway-1", self.running().incarnation()), (name, 1));
        self.running().attach(ours);
        Router::new(&self.runtime, theirs, answers)
    }

    pub(crate) fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub(crate) fn token(&self, user_id: i64, device: Option<DeviceKind>, good_for_ms: u64) -> String {
        let token = format!("{:032x}%{APP}", 1 + self.tokens.fetch_add(1, SeqCst));
        let owner = TokenOwner { app: AppId(APP), user: UserId(user_id), device, session: None };
        self.issue(&token, owner, good_for_ms);
        token
    }

    pub(crate) fn issue(&self, token: &str, owner: TokenOwner, good_for_ms: u64) {
        let issued = self.state.tokens.issue(token, owner, now_ms(), now_ms() + good_for_ms);
        self.runtime.block_on(issued).unwrap();
    }

    pub(crate) fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.running().tcp_addr()).unwrap())
    }

    /// A client that has sent a LOGIN.
    pub(crate) fn knock(&self, login: &Body) -> Client {
        let mut client = self.connect();
        client.send(Code::Login, login);
        client
    }

    pub(crate) fn login(&self, user_id: i64) -> Client {
        self.login_on(user_id, "other")
    }

    pub(crate) fn login_on(&self, user_id: i64, platform: &str) -> Client {
        let token = self.token(user_id, None, 300_000);
        let mut client = self.knock(&Body { platform: Some(platform.to_owned()), ..login_body(user_id, &token) });
        client.expect(Code::Login);
        client
    }

    /// A client that is in a room.
    pub(crate) fn join(&self, user_id: i64, room_id: i64) -> Client {
        let mut client = self.login(user_id);
        client.send(Code::Join, &Body { room_id: Some(room_id), ..Body::default() });
        client.expect(Code::Join);
        client
    }

    /// A metric, its series with these labels added up.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let series = text.lines().filter(of).filter(|line| labels.iter().all(|label| line.contains(label)));
        series.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(running) = self.running.take()
            && !std::thread::panicking()
        {
            self.runtime.block_on(running.drain(Duration::ZERO));
        }
    }
}

/// The other end of a link, and what came over it.
pub(crate) struct Router {
    pub(crate) seen: Arc<Mutex<Vec<Kind>>>,
    sender: mpsc::Sender<Kind>,
    task: JoinHandle<()>,
    seq: Arc<AtomicI64>,
    pub(crate) answers: Arc<AtomicBool>,
}

impl Router {
    pub(crate) fn new(runtime: &Runtime, link: Link, answers: bool) -> Self {
        let (seen, seq) = (Arc::<Mutex<Vec<Kind>>>::default(), Arc::new(AtomicI64::new(1 << 32)));
        let answers = Arc::new(AtomicBool::new(answers));
        let Link { sender, mut receiver, .. } = link;
        let task = runtime.spawn({
            let (seen, seq, answers, sender) = (Arc::clone(&seen), Arc::clone(&seq), Arc::clone(&answers), sender.clone());
            async move {
                while let Some(kind) = receiver.recv().await {
                    let answer = match &kind {
                        Kind::Up(up) if answers.load(SeqCst) => Some(yes(up, seq.load(SeqCst))),
                        _ => None,
                    };
                    seen.lock().unwrap().push(kind);
                    if let Some(answer) = answer {
                        drop(sender.send(answer).await);
                    }
                }
            }
        });
        Self { seen, sender, task, seq, answers }
    }

    /// Sends one message to the gateway.
    pub(crate) fn tell(&self, kind: Kind) {
        self.sender.try_send(kind).unwrap();
    }

    /// Pushes to a room, as the owner of epoch 1.
    pub(crate) fn push_room(&self, room_id: i64, data: &str) -> i64 {
        self.push_room_as(1, 0, Push { room_id, ..push(data) })
    }

    pub(crate) fn push_room_as(&self, epoch: u64, except_user_id: i64, push: Push) -> i64 {
        let seq = self.seq.fetch_add(1, SeqCst) + 1;
        self.tell(Kind::RoomPush(RoomPush { push: Some(Push { seq, ..push }), epoch, except_user_id, keep_permille: 0 }));
        seq
    }

    pub(crate) fn push_users(&self, user_ids: &[i64], push: Push) {
        self.tell(Kind::UserPush(UserPush { app_id: APP, user_ids: user_ids.to_vec(), push: Some(push), session: 0 }));
    }

    /// Every call of clients so far: not what each LOGIN asks for by itself.
    pub(crate) fn calls(&self) -> Vec<Up> {
        let seen = self.seen.lock().unwrap();
        let call = |kind: &Kind| if let Kind::Up(up) = kind { Some(up.clone()) } else { None };
        seen.iter().filter_map(call).filter(|up| !matches!(up.call, Some(Call::Redeliver(_)))).collect()
    }

    /// What was said of a room, one word for each message.
    pub(crate) fn heard_of(&self, room: i64) -> Vec<&'static str> {
        let seen = self.seen.lock().unwrap();
        let word = |kind: &Kind| match kind {
            Kind::Interest(Interest { room_id, interested: true, .. }) if *room_id == room => Some("interest"),
            Kind::Interest(Interest { room_id, interested: false, .. }) if *room_id == room => Some("no interest"),
            Kind::Gone(Gone { room_ids, .. }) if room_ids.contains(&room) => Some("gone"),
            Kind::Up(up) => match up.call.as_ref().unwrap() {
                Call::Join(join) if join.room_id == room => Some("join"),
                Call::Leave(leave) if leave.room_id == room => Some("leave"),
                Call::Biz(biz) if biz.room_id == room => Some("biz"),
                _ => None,
            },
            _ => None,
        };
        seen.iter().filter_map(word).collect()
    }

    /// The link dies.
    pub(crate) fn die(self, runtime: &Runtime) {
        let Self { sender, task, .. } = self;
        task.abort();
        drop(runtime.block_on(task));
        drop(sender);
    }
}

/// The friendliest answer to a call.
pub(crate) fn yes(up: &Up, seq: i64) -> Kind {
    let result = match up.call.as_ref().unwrap() {
        Call::Biz(_) | Call::Redeliver(_) => reply::Result::Accepted(Accepted { ts: 1_700_000_000_000, seq }),
        Call::Order(_) => panic!("a gateway orders nothing"),
        Call::Join(join) => reply::Result::Joined(Joined { room_id: join.room_id, seq, data: "{}".to_owned(), audience: 5 }),
        Call::Leave(leave) => reply::Result::Left(Left { room_id: leave.room_id }),
        Call::Sync(sync) => reply::Result::Synced(Synced { room_id: sync.room_id, data: r#"{"messages":[]}"#.to_owned() }),
    };
    Kind::Reply(Reply { id: up.id, result: Some(result) })
}

/// A chat push; the class is the one thing that is never left out.
pub(crate) fn push(data: &str) -> Push {
    Push { biz_code: 5555, data: data.to_owned(), class: 2, ..Push::default() }
}

pub(crate) fn login_body(user_id: i64, token: &str) -> Body {
    Body { app_id: Some(APP), user_id: Some(user_id), token: Some(token.to_owned()), ..Body::default() }
}

/// A client that knows frames and nothing else.
pub(crate) struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, received: Vec::new() }
    }

    pub(crate) fn send(&mut self, code: Code, body: &Body) {
        self.stream.write_all(&frame::encode(Encoding::Json, code, body)).unwrap();
    }

    /// A message of one's own to a room.
    pub(crate) fn say(&mut self, room_id: i64, data: &str, msg_id: &str) {
        let (data, msg_id) = (Some(data.to_owned()), Some(msg_id.to_owned()));
        self.send(Code::Biz, &Body { room_id: Some(room_id), biz_code: Some(5555), data, msg_id, ..Body::default() });
    }

    /// The next frame, or `None` at the end of the stream.
    pub(crate) fn next(&mut self) -> Option<(Code, Body)> {
        loop {
            if let Some((frame, taken)) = frame::decode(&self.received, 1 << 20).expect("the server's frames are right") {
                let code = Code::from_number(frame.code).expect("the server's codes are known");
                let body = Body::decode(frame.encoding, frame.body).expect("the server's bodies are right");
                self.received.drain(..taken);
                return Some((code, body));
            }
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next frame, which must be of this kind.
    pub(crate) fn expect(&mut self, code: Code) -> Body {
        let (got, body) = self.next().unwrap_or_else(|| panic!("the connection ended before a {code:?}"));
        assert_eq!(got, code, "{body:?}");
        body
    }

    /// A heartbeat there and back. What was pushed before it was sent would have come first.
    pub(crate) fn beat(&mut self) -> Body {
        self.send(Code::Heartbeat, &Body::default());
        self.expect(Code::Heartbeat)
    }

    pub(crate) fn expect_end(&mut self) {
        assert_eq!(self.next(), None);
    }
}
