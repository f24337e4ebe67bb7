//! The load: SDK clients in rooms, chatting and giving; one-to-one messages; pushes of a business backend; users who log in a second time.
//!
//! - Everything that a user would notice goes into the journal, and nothing else decides about the run.
//! - Clients connect as real ones do: a token from any router that answers, then the gateways it names.
//! - Visitors log in where they are told, say nothing and never come back: whether the system notices that they are gone is looked at by the API.
//! - Nothing is retried that the SDK does not retry: a push of the API is called once, and an outcome that is not known stays so.

use crate::journal::{Journal, What};
use anyhow::{Context as _, Result, bail};
use billfish_client::{Cause, Chat, Client, ClientConfig, Event, Events, Gift, MessageId, Ticket, TokenError, TokenProvider};
use billfish_testing::{Api, Sql};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Runtime,
    select,
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until},
};

/// A router that does not answer a call of the backend for so long is another's problem.
const API_WAIT: Duration = Duration::from_secs(3);
/// The SDK's own bounds are for phones; here the system's recovery is looked at, not the back-off.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Between two logins of a user who logs in again and again.
const TWIN_PAUSE: Duration = Duration::from_secs(5);
/// Older clients of such a user that may still live before no newer one is started.
const TWINS_MAX: usize = 4;
/// After a JOIN that was refused without a time.
const JOIN_AGAIN: Duration = Duration::from_secs(1);
const FIRST_USER: i64 = 20_000;
const FIRST_TWIN: i64 = 90_000;
const FIRST_ANCHOR: i64 = 30_000;
const FIRST_VISITOR: i64 = 200_000;
/// One user in so many goes through the proxy in front of its gateway, where there is one.
const THROUGH_PROXY: i64 = 3;
/// Between two questions whether they are still online.
const OFFLINE_LOOK: Duration = Duration::from_millis(500);
/// A visitor is logged in within this time, or the fault is not what it is meant to be.
const VISIT_WAIT: Duration = Duration::from_secs(10);
/// A gift of one coin.
const ROSE: i64 = 1;
/// What each speaker has at first: more than a run gives.
const COINS: i64 = 1_000_000;
/// Speakers who are granted their coins in one call.
const GRANTS_PER_CALL: usize = 200;
/// What the load says begins so.
pub(crate) const MARK: &str = "faults:";
/// A notice, as business backends push it.
const NOTICE: i32 = 5568;

/// How much.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Rooms.
    pub rooms: usize,
    /// Members of each.
    pub members: usize,
    /// How many of them speak.
    pub senders: usize,
    /// Between two messages of a speaker.
    pub pace: Duration,
    /// Between two pushes of the backend.
    pub push_pace: Duration,
    /// Users who log in again and again.
    pub twins: usize,
    /// Rooms without members, to look at who owns them.
    pub spare_rooms: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            rooms: 10,
            members: 40,
            senders: 4,
            pace: Duration::from_secs(1),
            push_pace: Duration::from_millis(200),
            twins: 4,
            spare_rooms: 0,
        }
    }
}

impl LoadOptions {
    /// Users who speak and give.
    fn speakers(&self) -> impl Iterator<Item = i64> + use<> {
        (0..self.rooms * self.members.min(self.senders)).map(user_at)
    }
}

/// Where the load finds the cluster.
#[derive(Clone, Debug, Default)]
pub struct Entrance {
    /// APIs of the routers.
    pub routers: Vec<SocketAddr>,
    /// The key of the API.
    pub key: String,
    /// By the address of a gateway: the proxy in front of it.
    pub proxies: BTreeMap<String, String>,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    runtime: Option<Runtime>,
    shared: Arc<Shared>,
    options: LoadOptions,
    rooms: Vec<i64>,
    spare_rooms: Vec<i64>,
    over: watch::Sender<bool>,
    clients: Vec<JoinHandle<()>>,
}

/// What all clients see.
#[derive(Debug)]
struct Shared {
    journal: Journal,
    key: String,
    /// APIs of the routers that are up, as far as the backend knows.
    routers: Mutex<Vec<SocketAddr>>,
    proxies: BTreeMap<String, String>,
    /// All that were issued: no log may hold one.
    tokens: Mutex<BTreeSet<String>>,
    next_id: AtomicU64,
    next_client: AtomicU64,
    next_visitor: AtomicI64,
    /// Clients that are connected and in their room.
    settled: Mutex<BTreeSet<u32>>,
    is_speaking: AtomicBool,
}

impl Shared {
    fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn client(&self) -> u32 {
        u32::try_from(self.next_client.fetch_add(1, Ordering::Relaxed)).expect("fewer clients than 2^32")
    }

    fn speaks(&self) -> bool {
        self.is_speaking.load(Ordering::Relaxed)
    }

    fn settled(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn routers(&self) -> Vec<SocketAddr> {
        let mut routers = self.routers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        fastrand::shuffle(&mut routers);
        routers
    }

    /// A call to a router that answers, tried at each once. `None`: nobody did.
    fn call(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let mut last = None;
        for router in self.routers() {
            match Api::with_patience(router, &self.key, API_WAIT).call(method, path, body) {
                Ok((status, answer)) if status < 500 => return Some((status, answer)),
                Ok(answer) => last = Some(answer),
                Err(_) => {}
            }
        }
        last
    }

    /// The address that this user dials to reach a gateway.
    fn way_to(&self, user: i64, gateway: &str) -> String {
        let proxy = self.proxies.get(gateway).filter(|_| user % THROUGH_PROXY == 0);
        proxy.cloned().unwrap_or_else(|| gateway.to_owned())
    }

    /// Whether one of these users counts as online; `None` while no router says.
    fn is_any_online(&self, users: &[i64]) -> Option<bool> {
        let list: Vec<String> = users.iter().map(i64::to_string).collect();
        let (status, answer) = self.call("GET", &format!("/v1/im/online?appId=10001&userIds={}", list.join(",")), &Value::Null)?;
        let online = answer["online"].as_object().filter(|_| status == 200)?;
        Some(online.values().any(|is_online| is_online == &Value::Bool(true)))
    }

    fn ticket(&self, user: i64) -> Result<Ticket, TokenError> {
        match self.call("POST", "/v1/im/tokens", &json!({"appId": 10001, "userId": user})) {
            Some((200, answer)) => {
                let addresses = answer["gateways"]["tcp"].as_array().into_iter().flatten();
                let addresses = addresses.filter_map(|address| Some(self.way_to(user, address.as_str()?))).collect();
                let token = answer["token"].as_str().unwrap_or_default().to_owned();
                self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(token.clone());
                Ok(Ticket { token, addresses })
            }
            Some((status, answer)) => Err(TokenError::Away(format!("{status} {answer}"))),
            None => Err(TokenError::Away("no router answers".to_owned())),
        }
    }
}

impl Load {
    /// Opens the rooms and starts the clients; speaks once [`Load::speak`] is called.
    ///
    /// # Errors
    /// When rooms cannot be opened.
    pub fn start(options: LoadOptions, journal: Journal, entrance: Entrance) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("no runtime")?;
        let shared = Arc::new(Shared {
            journal,
            key: entrance.key,
            routers: Mutex::new(entrance.routers),
            proxies: entrance.proxies,
            tokens: Mutex::default(),
            next_id: AtomicU64::new(1),
            next_client: AtomicU64::new(1),
            next_visitor: AtomicI64::new(FIRST_VISITOR),
            settled: Mutex::new(BTreeSet::new()),
            is_speaking: AtomicBool::new(false),
        });
        let mut rooms = Vec::new();
        for anchor in (FIRST_ANCHOR..).take(options.rooms + options.spare_rooms) {
            let body = json!({"anchorId": anchor, "type": 1, "roomName": "faults"});
            let Some((status, answer)) = shared.call("POST", "/v1/rooms", &body) else { bail!("no router opens a room") };
            let Some(room) = answer["roomId"].as_i64() else { bail!("no room: {status} {answer}") };
            rooms.push(room);
        }
        let spare_rooms = rooms.split_off(options.rooms);
        for speakers in options.speakers().collect::<Vec<_>>().chunks(GRANTS_PER_CALL) {
            let grants: Vec<Value> = speakers.iter().map(|user| json!({"userId": user, "coins": COINS, "uuid": "faults"})).collect();
            match shared.call("POST", "/v1/wallet/grants", &json!({"grants": grants})) {
                Some((200, _)) => {}
                answer => bail!("no coins: {answer:?}"),
            }
        }
        let (over, ended) = watch::channel(false);
        let mut load = Self { runtime: Some(runtime), shared, options, rooms, spare_rooms, over, clients: Vec::new() };
        load.spawn_clients(&ended)?;
        Ok(load)
    }

    fn spawn_clients(&mut self, ended: &watch::Receiver<bool>) -> Result<()> {
        let runtime = self.runtime.as_ref().context("the load is over")?;
        let _entered = runtime.enter();
        let users = self.options.rooms * self.options.members;
        for index in 0..users {
            let user = user_at(index);
            let room = self.rooms[index % self.options.rooms];
            let is_speaker = index / self.options.rooms < self.options.senders;
            let member = Member {
                shared: Arc::clone(&self.shared),
                number: self.shared.client(),
                room,
                anchor: FIRST_ANCHOR + i64::try_from(index % self.options.rooms)?,
                index,
                users,
                pace: is_speaker.then_some(self.options.pace),
                ended: ended.clone(),
            };
            let (client, events) = Client::connect(config(&self.shared, user)).context("a client's configuration")?;
            self.clients.push(runtime.spawn(member.run(user, client, events)));
        }
        for user in (FIRST_TWIN..).take(self.options.twins) {
            self.clients.push(runtime.spawn(twins(Arc::clone(&self.shared), user, ended.clone())));
        }
        let (shared, rooms, pace) = (Arc::clone(&self.shared), self.rooms.clone(), self.options.push_pace);
        self.clients.push(runtime.spawn(push(shared, rooms, pace, ended.clone())));
        Ok(())
    }

    /// The rooms.
    #[must_use]
    pub fn rooms(&self) -> &[i64] {
        &self.rooms
    }

    /// Writes down what the ledger has of it, once all is quiet.
    pub fn read_ledger(&self, ledger: &mut Sql) {
        let journal = &self.shared.journal;
        let paid: Vec<(i64, i64, i64, String, i64)> = ledger
            .rows("SELECT room_id, gift_seq, sender_id, CAST(uuid AS CHAR), num * price FROM t_gift_record ORDER BY room_id, gift_seq");
        for (room, place, user, uuid, coins) in paid {
            journal.put(What::Paid { room, place, user, uuid, coins });
        }
        let purses: BTreeMap<i64, i64> = ledger.rows("SELECT user_id, balance FROM t_account WHERE kind = 1").into_iter().collect();
        for user in self.options.speakers() {
            journal.put(What::Purse { user, had: COINS, has: purses.get(&user).copied().unwrap_or(0) });
        }
        journal.put(What::Books {
            sum: ledger.number("SELECT CAST(COALESCE(SUM(balance), 0) AS SIGNED) FROM t_account"),
            lowest: ledger.number("SELECT COALESCE(MIN(balance), 0) FROM t_account WHERE kind IN (1, 2)"),
            entries: ledger.number("SELECT COUNT(*) FROM t_account_trade WHERE kind = 1"),
        });
    }

    /// Rooms without members.
    #[must_use]
    pub fn spare_rooms(&self) -> &[i64] {
        &self.spare_rooms
    }

    /// Something is pushed to each spare room, so that somebody owns it. Nobody is there to see it.
    pub fn touch_spare_rooms(&self) {
        for room in &self.spare_rooms {
            let body = json!({"target": {"roomId": room}, "bizCode": NOTICE, "data": {"type": "touch"}, "qos": 0, "class": 3});
            // A room that nobody takes now has no owner that is known, and is left out.
            self.shared.call("POST", "/v1/im/push", &body);
        }
    }

    /// Tokens that were issued to users.
    #[must_use]
    pub fn tokens(&self) -> BTreeSet<String> {
        self.shared.tokens.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// So many users log in at this address and wait there.
    ///
    /// # Errors
    /// When one of them is not let in.
    pub fn visit(&self, address: &str, users: usize) -> Result<Visit> {
        let runtime = self.runtime.as_ref().context("the load is over")?;
        let mut visit = Visit { users: Vec::new(), clients: Vec::new() };
        for _ in 0..users {
            let user = self.shared.next_visitor.fetch_add(1, Ordering::Relaxed);
            let mut config = config(&self.shared, user);
            let (shared, address) = (Arc::clone(&self.shared), address.to_owned());
            config.tokens = TokenProvider::new(move || {
                let (shared, address) = (Arc::clone(&shared), address.clone());
                async move {
                    let asked = tokio::task::spawn_blocking(move || shared.ticket(user)).await;
                    let ticket = asked.unwrap_or_else(|_| Err(TokenError::Away("the call did not end".to_owned())))?;
                    Ok(Ticket { addresses: vec![address], ..ticket })
                }
            });
            let connected = runtime.block_on(async {
                let (client, mut events) = Client::connect(config).context("a client's configuration")?;
                let connected = async {
                    while let Some(event) = events.next().await {
                        if matches!(event, Event::Connected { .. }) {
                            return true;
                        }
                    }
                    false
                };
                match tokio::time::timeout(VISIT_WAIT, connected).await {
                    Ok(true) => Ok((client, events)),
                    Ok(false) | Err(_) => bail!("visitor {user} is not let in"),
                }
            })?;
            visit.users.push(user);
            visit.clients.push(connected);
        }
        Ok(visit)
    }

    /// Waits on a thread of its own until none of these users counts as online, and tells after how long; `None`: they do after `patience`.
    pub fn when_offline(
        &self,
        users: Vec<i64>,
        patience: Duration,
        tell: impl FnOnce(Option<Duration>) + Send + 'static,
    ) -> std::thread::JoinHandle<()> {
        let (shared, began) = (Arc::clone(&self.shared), std::time::Instant::now());
        std::thread::spawn(move || {
            loop {
                if shared.is_any_online(&users) == Some(false) {
                    return tell(Some(began.elapsed()));
                }
                if began.elapsed() >= patience {
                    return tell(None);
                }
                std::thread::sleep(OFFLINE_LOOK);
            }
        })
    }

    /// The routers that a backend may call from now on.
    pub fn set_routers(&self, routers: Vec<SocketAddr>) {
        *self.shared.routers.lock().unwrap_or_else(PoisonError::into_inner) = routers;
    }

    /// Every member is connected and in its room.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled() == self.options.rooms * self.options.members
    }

    /// Members that are connected and in their room.
    #[must_use]
    pub fn settled(&self) -> usize {
        self.shared.settled().len()
    }

    /// Begins, or ends, to send. What was sent is still answered.
    pub fn speak(&self, speaks: bool) {
        self.shared.is_speaking.store(speaks, Ordering::Relaxed);
    }

    /// Puts the clients away. The journal must be finished before.
    pub fn end(mut self) {
        self.over.send_replace(true);
        let Some(runtime) = self.runtime.take() else { return };
        runtime.block_on(async {
            for client in self.clients.drain(..) {
                // One that panicked has ended too; its journal tells the rest.
                client.await.ok();
            }
        });
        // Calls to routers that do not answer must not hold up the end.
        runtime.shutdown_background();
    }
}

/// Users who wait, logged in.
#[derive(Debug)]
pub struct Visit {
    users: Vec<i64>,
    clients: Vec<(Client, Events)>,
}

impl Visit {
    /// They are gone for good; what they say of it reaches nobody when their path is dead. Who they were.
    #[must_use]
    pub fn vanish(self) -> Vec<i64> {
        drop(self.clients);
        self.users
    }
}

fn user_at(index: usize) -> i64 {
    FIRST_USER + i64::try_from(index).expect("few users")
}

fn config(shared: &Arc<Shared>, user: i64) -> ClientConfig {
    let shared = Arc::clone(shared);
    let tokens = TokenProvider::new(move || {
        let shared = Arc::clone(&shared);
        async move {
            let asked = tokio::task::spawn_blocking(move || shared.ticket(user)).await;
            asked.unwrap_or_else(|_| Err(TokenError::Away("the call did not end".to_owned())))
        }
    });
    ClientConfig {
        backoff_min: BACKOFF_MIN,
        backoff_max: BACKOFF_MAX,
        platform: Some("android".to_owned()),
        ..ClientConfig::new(user, tokens)
    }
}

/// One member of one room.
struct Member {
    shared: Arc<Shared>,
    number: u32,
    room: i64,
    /// Whose room it is.
    anchor: i64,
    /// Its user's place among the users.
    index: usize,
    /// How many users there are.
    users: usize,
    /// Between its messages, where it speaks.
    pace: Option<Duration>,
    ended: watch::Receiver<bool>,
}

impl Member {
    async fn run(self, user: i64, client: Client, mut events: Events) {
        // The call is answered whether there is a connection or not.
        client.join(self.room).await.ok();
        // Speakers are spread over the pace, so that messages come evenly.
        let pace = self.pace.unwrap_or(Duration::from_secs(3_600));
        let mut ticks = interval_at(Instant::now() + pace.mul_f64(fastrand::f64()), pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut ended = self.ended.clone();
        let mut join_at = None;
        loop {
            select! {
                event = events.next() => match event {
                    // The SDK comes back to a room by itself; whether a first JOIN is tried again is the app's to say.
                    Some(Event::Refused { msg_id: None, room_id: Some(room), reason, retry_after, .. }) => {
                        self.shared.journal.put(What::RoomRefused { client: self.number, room, reason: reason.label().to_owned() });
                        join_at = Some(Instant::now() + retry_after.unwrap_or(JOIN_AGAIN));
                    }
                    Some(event) => self.on_event(user, event),
                    None => break,
                },
                () = sleep_until(join_at.unwrap_or_else(Instant::now)), if join_at.is_some() => {
                    join_at = None;
                    client.join(self.room).await.ok();
                }
                _ = ticks.tick(), if self.pace.is_some() && self.shared.speaks() => self.speak(&client).await,
                () = over(&mut ended) => break,
            }
        }
        drop(client);
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the SDK's events grow; what is not written down proves nothing")]
    fn on_event(&self, user: i64, event: Event) {
        let (journal, client) = (&self.shared.journal, self.number);
        match event {
            Event::Connected { node, .. } => journal.put(What::Connected { client, user, node }),
            Event::Joined { room_id, gap, .. } => {
                journal.put(What::Joined { client, room: room_id, gap });
                self.shared.settled().insert(client);
            }
            Event::Left { room_id } => {
                journal.put(What::Left { client, room: room_id });
                self.shared.settled().remove(&client);
            }
            Event::Disconnected { cause, .. } => self.on_disconnected(&cause),
            Event::Closed { reason } => {
                journal.put(What::Closed { client, reason: reason.label().to_owned() });
                self.shared.settled().remove(&client);
            }
            Event::Chat(chat) => self.on_chat(&chat),
            Event::Push(body) => {
                if let Some(id) = body.data.as_deref().and_then(id_of) {
                    journal.put(What::Seen { client, id, room: body.room_id, seq: body.seq });
                }
            }
            Event::Gift(gift) => journal.put(What::SeenGifts { client, room: gift.room_id, places: gift.gift_seqs }),
            Event::Accepted { msg_id, seq, .. } => journal.put(What::Acked { client, msg: msg_id, seq }),
            Event::Refused { msg_id: Some(msg), reason, .. } => {
                journal.put(What::Refused { client, msg, reason: reason.label().to_owned() });
            }
            _ => {}
        }
    }

    fn on_disconnected(&self, cause: &Cause) {
        self.shared.settled().remove(&self.number);
        self.shared.journal.put(What::Disconnected { client: self.number, cause: cause.to_string() });
    }

    fn on_chat(&self, chat: &Chat) {
        if let Some(id) = id_of(&chat.content) {
            self.shared.journal.put(What::Seen { client: self.number, id, room: chat.room_id, seq: chat.seq });
        }
    }

    /// A message to the room, with every third one to a user, and with every third one a gift.
    async fn speak(&self, client: &Client) {
        let (journal, number) = (&self.shared.journal, self.number);
        let (id, began_ms) = (self.shared.id(), journal.now_ms());
        // With too many messages in flight the call is refused, and nothing was sent.
        if let Ok(msg) = client.chat(self.room, &format!("{MARK}{id}")).await {
            journal.put(What::SentRoom { client: number, id, room: self.room, msg: msg.0, began_ms });
        }
        if fastrand::u8(..3) == 0 {
            let (id, began_ms) = (self.shared.id(), journal.now_ms());
            // Anyone else: a message to oneself is refused.
            let user = user_at((self.index + fastrand::usize(1..self.users)) % self.users);
            if let Ok(msg) = client.chat_to(user, &format!("{MARK}{id}")).await {
                journal.put(What::SentUser { client: number, id, user, msg: msg.0, began_ms });
            }
        }
        if fastrand::u8(..3) == 0 {
            let (uuid, began_ms) = (format!("gift-{}", self.shared.id()), journal.now_ms());
            // Before it is given: the ledger may have it before the call has answered.
            journal.put(What::SentGift { client: number, room: self.room, uuid: uuid.clone(), began_ms });
            if client.send_gift_as(&MessageId(uuid.clone()), self.room, Gift::new(ROSE, self.anchor)).await.is_err() {
                journal.put(What::Refused { client: number, msg: uuid, reason: "not_sent".to_owned() });
            }
        }
    }
}

/// The load is over, or its owner gone. Cancel-safe.
async fn over(ended: &mut watch::Receiver<bool>) {
    ended.wait_for(|is_over| *is_over).await.ok();
}

fn id_of(text: &str) -> Option<u64> {
    // A push's data is JSON text around it.
    let digits = text.split_once(MARK)?.1;
    digits.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// A user who logs in on the same kind of device again and again: each time the older session must go.
async fn twins(shared: Arc<Shared>, user: i64, mut ended: watch::Receiver<bool>) {
    let mut living = JoinSet::new();
    loop {
        if shared.speaks()
            && living.len() < TWINS_MAX
            && let Ok((client, events)) = Client::connect(config(&shared, user))
        {
            living.spawn(twin(Arc::clone(&shared), user, client, events, ended.clone()));
        }
        select! {
            () = sleep(TWIN_PAUSE.mul_f64(0.5 + fastrand::f64())) => {}
            () = over(&mut ended) => break,
        }
        while living.try_join_next().is_some() {}
    }
    while living.join_next().await.is_some() {}
}

async fn twin(shared: Arc<Shared>, user: i64, client: Client, mut events: Events, mut ended: watch::Receiver<bool>) {
    let (journal, number) = (&shared.journal, shared.client());
    loop {
        let event = select! {
            event = events.next() => event,
            () = over(&mut ended) => None,
        };
        match event {
            None => break,
            Some(Event::Connected { node, .. }) => journal.put(What::Connected { client: number, user, node }),
            Some(Event::Disconnected { cause, .. }) => journal.put(What::Disconnected { client: number, cause: cause.to_string() }),
            Some(Event::Closed { reason }) => journal.put(What::Closed { client: number, reason: reason.label().to_owned() }),
            Some(_) => {}
        }
    }
    drop(client);
}

/// The business backend: QoS-1 pushes to rooms, one after the other.
async fn push(shared: Arc<Shared>, rooms: Vec<i64>, pace: Duration, mut ended: watch::Receiver<bool>) {
    let mut ticks = interval_at(Instant::now() + pace, pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        select! {
            _ = ticks.tick() => {}
            () = over(&mut ended) => return,
        }
        let Some(&room) = rooms.get(fastrand::usize(..rooms.len())).filter(|_| shared.speaks()) else { continue };
        let shared = Arc::clone(&shared);
        // One that panicked has written nothing, and then nothing is expected of its push.
        tokio::task::spawn_blocking(move || push_one(&shared, room)).await.ok();
    }
}

fn push_one(shared: &Shared, room: i64) {
    let Some(&router) = shared.routers().first() else { return };
    let (id, began_ms) = (shared.id(), shared.journal.now_ms());
    let body = json!({"target": {"roomId": room}, "bizCode": NOTICE, "data": {"type": "faults", "text": format!("{MARK}{id}")}, "qos": 1, "class": 1});
    let answer = Api::with_patience(router, &shared.key, API_WAIT).call("POST", "/v1/im/push", &body);
    let problem = match answer {
        Ok((200, answer)) => return shared.journal.put(What::Pushed { id, room, began_ms, seq: answer["seq"].as_i64() }),
        Ok((status, answer)) => format!("{status} {answer}"),
        Err(error) => error.to_string(),
    };
    shared.journal.put(What::PushFailed { id, room, problem });
}
