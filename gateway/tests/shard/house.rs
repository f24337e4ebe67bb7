//! One shard, its stand-in control plane, and raw clients. Nothing here sleeps and hopes: every wait is for a condition, with a deadline.

use billfish_gateway::shard::{
    Doorway, Shard, ShardConfig, ShardHandle, ShardParts, WebSocketRules,
    counters::{DropReason, ShardCounters, reason_row},
    listeners,
    mailbox::Mailbox,
    message::{
        Admission, ConnKey, Listener, LoginDenied, LoginGranted, Origin, RoomAccount, ShardCommand, ShardEvent, TurnedAway, UpReply,
    },
};
use billfish_session::{
    Push,
    server::{LoginAccepted, ServerConfig, UpCall},
};
use billfish_state::DeviceKind;
use billfish_wire::{Body, Class, Code, Encoding, HEADER_BYTES, Reason, frame};
use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// No wait of a healthy run comes near it, however loaded the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something to become true.
pub(crate) fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Lets everyone in, and counts.
#[derive(Debug, Default)]
pub(crate) struct Door {
    pub(crate) refuses: AtomicBool,
    pub(crate) inside: AtomicI64,
    pub(crate) logged_in: AtomicI64,
}

impl Admission for Door {
    fn accept(&self, _listener: Listener, _peer: IpAddr) -> Result<(), TurnedAway> {
        if self.refuses.load(SeqCst) {
            return Err(TurnedAway { reason: Reason::RateLimited, retry_after_ms: 1_234 });
        }
        self.inside.fetch_add(1, SeqCst);
        Ok(())
    }
    fn logged_in(&self, _peer: IpAddr) {
        self.logged_in.fetch_add(1, SeqCst);
    }
    fn closed(&self, _listener: Listener, _peer: IpAddr, was_logged_in: bool) {
        self.inside.fetch_sub(1, SeqCst);
        self.logged_in.fetch_sub(i64::from(was_logged_in), SeqCst);
    }
}

/// What the stand-in has seen and done.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// The room's number of the last push, by room. Held while a push or a JOIN's answer is handed over, as a room's owner would.
    pub(crate) seqs: Mutex<HashMap<i64, i64>>,
    /// Every event, as `Debug` prints it, and the keys of sessions by user.
    pub(crate) seen: Mutex<Vec<ShardEvent>>,
    pub(crate) keys: Mutex<HashMap<i64, ConnKey>>,
    pub(crate) origins: Mutex<HashMap<i64, Origin>>,
    /// LOGINs are not answered while this is set.
    pub(crate) withholds_verdicts: AtomicBool,
    /// Tokens "bad" are refused, all others are good.
    pub(crate) withheld: Mutex<Vec<(ConnKey, i64, i32)>>,
    /// The control plane does not listen while this is set.
    pub(crate) is_deaf: AtomicBool,
    sessions: AtomicU64,
}

/// A shard and all around it.
pub(crate) struct House {
    pub(crate) address: SocketAddr,
    pub(crate) commands: Arc<Mailbox<ShardCommand>>,
    pub(crate) counters: Arc<ShardCounters>,
    pub(crate) control: Arc<Control>,
    pub(crate) door: Arc<Door>,
    shard: Option<ShardHandle>,
    listening: Option<JoinHandle<()>>,
}

impl House {
    pub(crate) fn new() -> Self {
        Self::with(ShardConfig::default(), ServerConfig::default())
    }

    pub(crate) fn with(config: ShardConfig, session: ServerConfig) -> Self {
        let listener = listeners("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let address = listener.local_addr().unwrap();
        let door = Arc::new(Door::default());
        let admission: Arc<dyn Admission> = Arc::clone(&door) as _;
        let parts = ShardParts {
            index: 3,
            doors: vec![Doorway::plain(listener)],
            websocket: WebSocketRules::default(),
            config,
            session: Arc::new(session),
            admission,
            epoch: Instant::now(),
        };
        let shard = Shard::spawn(parts).unwrap();
        let control = Arc::new(Control::default());
        let (commands, events, counters) = (Arc::clone(&shard.commands), Arc::clone(&shard.events), Arc::clone(&shard.counters));
        let listening = std::thread::spawn({
            let (control, commands) = (Arc::clone(&control), Arc::clone(&commands));
            move || control.listen(&events, &commands)
        });
        Self { address, commands, counters, control, door, shard: Some(shard), listening: Some(listening) }
    }

    /// A client that has not said anything.
    pub(crate) fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.address).unwrap())
    }

    /// A client that is logged in.
    pub(crate) fn log_in(&self, user_id: i64) -> Client {
        self.log_in_with(user_id, Encoding::Json)
    }

    pub(crate) fn log_in_with(&self, user_id: i64, encoding: Encoding) -> Client {
        let mut client = self.connect();
        client.encoding = encoding;
        client.send(Code::Login, &login(user_id));
        client.expect(Code::Login);
        client
    }

    /// A client that is in a room.
    pub(crate) fn join(&self, user_id: i64, room_id: i64) -> Client {
        let mut client = self.log_in(user_id);
        client.send(Code::Join, &Body { room_id: Some(room_id), ..Body::default() });
        client.expect(Code::Join);
        client
    }

    /// Tells the shard something, waiting for room.
    pub(crate) fn tell(&self, command: ShardCommand) {
        self.control.tell(&self.commands, command);
    }

    /// Pushes to a room with the room's next number, which is returned.
    pub(crate) fn push(&self, room_id: i64, body: Body) -> i64 {
        self.push_except(room_id, body, 0)
    }

    pub(crate) fn push_except(&self, room_id: i64, body: Body, except_user_id: i64) -> i64 {
        let mut seqs = self.control.seqs.lock().unwrap();
        let seq = seqs.entry(room_id).or_default();
        *seq += 1;
        let push = Arc::new(Push::new(Body { room_id: Some(room_id), seq: Some(*seq), ..body }));
        self.tell(ShardCommand::RoomPush { room_id, push, except_user_id, keep_permille: 0 });
        *seq
    }

    pub(crate) fn key(&self, user_id: i64) -> ConnKey {
        self.control.keys.lock().unwrap()[&user_id]
    }

    pub(crate) fn closed(&self, reason: Reason) -> u64 {
        self.counters.closed[reason_row(reason)].value()
    }

    pub(crate) fn account(&self, room_id: i64) -> Option<RoomAccount> {
        let (answer, account) = tokio::sync::oneshot::channel();
        self.tell(ShardCommand::RoomAccount { room_id, answer });
        account.blocking_recv().ok()
    }

    /// `copies = delivered + dropped + pending`, in total.
    pub(crate) fn assert_the_books_balance(&self) {
        // What a client has read is written down at the end of that turn; a command that is answered comes in a later one.
        assert_eq!(self.account(i64::MAX), None, "nobody is in that room");
        let counters = &self.counters;
        let balance = || {
            let delivered: u64 = counters.delivered.iter().map(|counter| counter.value()).sum();
            let dropped: u64 = counters.dropped.iter().flatten().map(|counter| counter.value()).sum();
            (counters.copies.value(), delivered + dropped + counters.pending.value())
        };
        until("the books to balance", || {
            let (copies, settled) = balance();
            copies == settled
        });
    }

    pub(crate) fn dropped(&self, class: Class, reason: DropReason) -> u64 {
        self.counters.dropped[class as usize][reason as usize].value()
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.counters.delivered.iter().map(|counter| counter.value()).sum()
    }

    pub(crate) fn seen(&self, wanted: impl Fn(&ShardEvent) -> bool) -> usize {
        self.control.seen.lock().unwrap().iter().filter(|event| wanted(event)).count()
    }

    /// Stops the shard and gives everything it ever said.
    pub(crate) fn stop(mut self) -> Vec<ShardEvent> {
        self.end();
        std::mem::take(&mut *self.control.seen.lock().unwrap())
    }

    fn end(&mut self) {
        let Some(shard) = self.shard.take() else { return };
        self.control.is_deaf.store(false, SeqCst);
        self.control.tell(&self.commands, ShardCommand::Stop);
        shard.join().expect("the shard does not panic");
        self.listening.take().unwrap().join().expect("the stand-in does not panic");
        assert_eq!(self.door.inside.load(SeqCst), 0, "every accept is followed by one closed");
        assert_eq!(self.door.logged_in.load(SeqCst), 0);
        assert_eq!((self.counters.pending.value(), self.counters.backlog_bytes.value(), self.counters.backlogs.value()), (0, 0, 0));
        assert_eq!((self.counters.connections.value(), self.counters.sessions.value()), (0, 0));
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

impl Control {
    fn listen(&self, events: &Mailbox<ShardEvent>, commands: &Mailbox<ShardCommand>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut batch = Vec::new();
        loop {
            while self.is_deaf.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            if !runtime.block_on(events.drain(&mut batch)) {
                return;
            }
            for event in batch.drain(..) {
                self.on_event(event, commands);
            }
        }
    }

    fn on_event(&self, event: ShardEvent, commands: &Mailbox<ShardCommand>) {
        match &event {
            ShardEvent::Login { key, request, .. } => {
                self.keys.lock().unwrap().insert(request.user_id, *key);
                if request.token == "bad" {
                    let verdict = Err(LoginDenied { reason: Reason::BadToken, retry_after_ms: None });
                    self.tell(commands, ShardCommand::LoginVerdict { key: *key, verdict });
                } else if self.withholds_verdicts.load(SeqCst) {
                    self.withheld.lock().unwrap().push((*key, request.user_id, request.app_id));
                } else {
                    self.grant(commands, *key, request.user_id, request.app_id);
                }
            }
            ShardEvent::Up { key, origin, request, call } => {
                let reply = match &**call {
                    UpCall::Join { room_id, .. } => {
                        let mut seqs = self.seqs.lock().unwrap();
                        let seq = *seqs.entry(*room_id).or_default();
                        let joined = UpReply::Joined { origin: *origin, room_id: *room_id, seq, data: "{}".to_owned(), audience: 77 };
                        self.tell(commands, ShardCommand::Reply { key: *key, request: *request, reply: joined });
                        drop(seqs);
                        None
                    }
                    UpCall::Biz { .. } | UpCall::Leave { .. } => Some(UpReply::Accepted { ts_ms: 1, seq: 0 }),
                    // An answer could come after the connection has ended, and be counted as stale.
                    UpCall::Redeliver => None,
                    UpCall::Sync { room_id, .. } => Some(UpReply::Synced { room_id: *room_id, data: "{}".to_owned() }),
                };
                if let Some(reply) = reply {
                    self.tell(commands, ShardCommand::Reply { key: *key, request: *request, reply });
                }
            }
            _ => {}
        }
        self.seen.lock().unwrap().push(event);
    }

    /// Lets a session in.
    pub(crate) fn grant(&self, commands: &Mailbox<ShardCommand>, key: ConnKey, user_id: i64, app_id: i32) {
        let session = 1 + self.sessions.fetch_add(1, SeqCst);
        let origin = Origin { app_id, user_id, device: DeviceKind::Other, session };
        self.origins.lock().unwrap().insert(user_id, origin);
        let accepted = LoginAccepted { session_id: session.to_string(), node: "test".to_owned(), server_time_ms: 1 };
        self.tell(commands, ShardCommand::LoginVerdict { key, verdict: Ok(LoginGranted { accepted, origin }) });
    }

    fn tell(&self, commands: &Mailbox<ShardCommand>, command: ShardCommand) {
        let mut left = Some(command);
        until("room in the shard's mailbox", || {
            left = left.take().and_then(|command| commands.push(command).err());
            left.is_none()
        });
    }
}

/// A client that knows frames and nothing else.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) encoding: Encoding,
    received: Vec<u8>,
}

impl Client {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, encoding: Encoding::Json, received: Vec::new() }
    }

    pub(crate) fn send(&mut self, code: Code, body: &Body) {
        let frame = frame::encode(self.encoding, code, body);
        self.stream.write_all(&frame).unwrap();
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next frame, or `None` at an orderly end of the stream.
    pub(crate) fn next(&mut self) -> Option<(Code, Body)> {
        self.try_next().expect("the connection ends in order, and in time")
    }

    pub(crate) fn try_next(&mut self) -> io::Result<Option<(Code, Body)>> {
        loop {
            if let Some((frame, taken)) = frame::decode(&self.received, 1 << 20).expect("the server's frames are right") {
                assert_eq!(frame.encoding, self.encoding, "answers come in the encoding of the LOGIN");
                let code = Code::from_number(frame.code).expect("the server's codes are known");
                let body = Body::decode(frame.encoding, frame.body).expect("the server's bodies are right");
                self.received.drain(..taken);
                return Ok(Some((code, body)));
            }
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer)? {
                0 => {
                    assert!(self.received.is_empty(), "the stream ends between frames");
                    return Ok(None);
                }
                read => self.received.extend_from_slice(&buffer[..read]),
            }
        }
    }

    /// The next frame, which must be of this kind.
    pub(crate) fn expect(&mut self, code: Code) -> Body {
        let (got, body) = self.next().unwrap_or_else(|| panic!("the connection ended before a {code:?}"));
        assert_eq!(got, code, "{body:?}");
        body
    }

    /// A heartbeat there and back.
    pub(crate) fn beat(&mut self) -> Body {
        self.send(Code::Heartbeat, &Body::default());
        self.expect(Code::Heartbeat)
    }

    /// The stream is at its end.
    pub(crate) fn expect_end(&mut self) {
        assert_eq!(self.next(), None);
    }
}

pub(crate) fn login(user_id: i64) -> Body {
    Body { app_id: Some(10_001), user_id: Some(user_id), token: Some("good".to_owned()), ..Body::default() }
}

pub(crate) fn chat(text: &str) -> Body {
    Body { biz_code: Some(5555), data: Some(text.to_owned()), class: Some(2), ..Body::default() }
}

/// A frame's bytes.
pub(crate) fn bytes(code: Code, body: &Body) -> Vec<u8> {
    frame::encode(Encoding::Json, code, body).to_vec()
}

/// A header that claims what it likes.
pub(crate) fn header(magic: u16, code: i32, len: i32) -> Vec<u8> {
    let mut out = magic.to_be_bytes().to_vec();
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    assert_eq!(out.len(), HEADER_BYTES);
    out
}
