//! Everything a router is, behind its [`crate::Handle`]: the ports, the tables, and the calls that are not frames.
//!
//! - One per router, shared by all its tasks; holds no lock across a wait.
//! - A call about a room that changes something runs on the room's queue; one that only reads goes to the stores.

use crate::{
    config::RouterConfig,
    delivery::{self, Delivered, Unrecorded},
    dispatch::{self, LaneCall, Lanes, Rooms},
    error::Refusal,
    fleet::Fleet,
    handle::{
        IssuedToken, KickRequest, ListRooms, MembersView, MuteRequest, OpenRoom, Opened, Operator, PushRequest, Pushed, Result, RoomPage,
        RoomView, Target,
    },
    housekeeping::Known,
    link::Links,
    metrics::Metrics,
    ownership::Ownership,
    peers::{Dials, Peers, Remembered, RoomAnswer, RoomOrder},
    reach::Reach,
    room::{GiftPaid, Order, read_pk, snapshot},
    services::{
        KEEP_ALL, Outgoing, chat,
        gift::{self, GiftRequest, catalogue::Catalogue},
        ids::Ids,
        is_room, is_user,
        login::{Address, LoggedIn, Logins, Phone},
        ports::{
            NewRoom, OpenOutcome, Profile, RoomRecord, RoomRecords, Sanction,
            money::{Gift, Grant, GrantOutcome, Money, PayOutcome, ProductId, RechargeOrder, Till},
            people::{People, Tags},
        },
        profile::{Profiles, USERS_PER_CALL_MAX},
        recharge::{Payment, Recharges},
        room::{catalog::Catalog, check_block_words, check_new, folded, lists::RoomLists},
    },
    sms::SmsSender,
    webhooks::UserWords,
};
use arc_swap::ArcSwapOption;
use billfish_link::message::{Kick, envelope::Kind};
use billfish_state::{
    AppId, DeviceKind, Displacement, PkBar, RoomId, SessionOwner, SessionPrint, State, TokenOwner, UserId, WindowHit, WindowVerdict,
};
use billfish_wire::{BizCode, Class, Reason};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The router's shared parts.
pub(crate) struct Core {
    me: Weak<Self>,
    pub(crate) config: RouterConfig,
    pub(crate) incarnation: u64,
    pub(crate) state: State,
    pub(crate) records: Arc<dyn RoomRecords>,
    pub(crate) money: Arc<dyn Money>,
    pub(crate) catalogue: Catalogue,
    /// Where gifts are paid, many in one transaction.
    pub(crate) till: Arc<dyn Till>,
    /// Places for looks into the ledger after gifts that a rule refuses.
    pub(crate) gift_lookups: Arc<Semaphore>,
    pub(crate) people: Arc<dyn People>,
    pub(crate) logins: Logins,
    pub(crate) recharges: Recharges,
    pub(crate) metrics: Metrics,
    pub(crate) links: Links,
    pub(crate) peers: Peers,
    pub(crate) dials: Dials,
    pub(crate) remembered: Remembered,
    pub(crate) fleet: Fleet,
    pub(crate) reach: Reach,
    /// Records of ACKs that the store is yet to take.
    pub(crate) unrecorded: Unrecorded,
    /// Whether a later process bears this router's name.
    pub(crate) displacement: Displacement,
    pub(crate) known: tokio::sync::Mutex<Known>,
    /// How often the list of gateways has been read, or tried to be.
    pub(crate) looks: AtomicU64,
    /// Where others find the HTTP API, once it listens.
    pub(crate) http_address: OnceLock<String>,
    /// Who makes events of users who come and go, once there is somebody.
    pub(crate) user_words: OnceLock<UserWords>,
    pub(crate) rooms: Rooms,
    pub(crate) lanes: Lanes,
    pub(crate) ownership: Ownership,
    pub(crate) catalog: Catalog,
    pub(crate) lists: RoomLists,
    pub(crate) profiles: Profiles,
    /// The words refused in every room, folded; none until the records have told them.
    house_words: ArcSwapOption<Vec<String>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) stop_lanes: CancellationToken,
    /// Takes nothing new from then on.
    pub(crate) drains: CancellationToken,
    records_away: AtomicBool,
    /// Something was heard that the registry will explain: it is read soon, not at its next turn.
    pub(crate) look_soon: AtomicBool,
    inbox_ids: AtomicU64,
    everyone: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Core {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Core").field("node", &self.config.node).finish_non_exhaustive()
    }
}

/// What a router keeps elsewhere.
pub(crate) struct Stores {
    pub(crate) state: State,
    pub(crate) records: Arc<dyn RoomRecords>,
    pub(crate) money: Arc<dyn Money>,
    pub(crate) till: Arc<dyn Till>,
    pub(crate) people: Arc<dyn People>,
    /// Who brings codes to phones.
    pub(crate) sms: Option<Arc<dyn SmsSender>>,
}

/// Members on one page.
const MEMBERS_PER_PAGE_MAX: usize = 1_000;
/// Random bytes of a token.
const TOKEN_BYTES: usize = 16;
/// Longest message of a kick, in characters.
const KICK_MESSAGE_CHARS_MAX: usize = 200;

impl Core {
    pub(crate) fn new(config: RouterConfig, stores: Stores, metrics: Metrics, lanes: Lanes, incarnation: u64, me: Weak<Self>) -> Self {
        let Stores { state, records, money, till, people, sms } = stores;
        let tasks = TaskTracker::new();
        let ids = |sequence| Ids::new(sequence, Arc::clone(&people), tasks.clone(), metrics.clone());
        let (users, orders) = (ids("user"), ids("order"));
        let of_people = (Arc::clone(&people), Arc::clone(&records));
        let logins = Logins::new(&state, of_people, users, sms, config.login.clone(), metrics.clone());
        let recharges = Recharges::new(Arc::clone(&money), orders, metrics.clone());
        let ownership = Ownership::new(&config.node, incarnation, Arc::clone(&state.leases), Arc::clone(&records), config.room.lease);
        Self {
            me,
            incarnation,
            links: Links::new(config.link.stall_wait, state.clock.clone(), metrics.clone()),
            peers: Peers::default(),
            dials: Dials::default(),
            remembered: Remembered::default(),
            fleet: Fleet::default(),
            reach: Reach::default(),
            unrecorded: Unrecorded::default(),
            displacement: Displacement::new("router.node"),
            known: tokio::sync::Mutex::default(),
            looks: AtomicU64::new(0),
            http_address: OnceLock::new(),
            user_words: OnceLock::new(),
            rooms: Rooms::default(),
            lanes,
            ownership,
            catalog: Catalog::new(Arc::clone(&records), Arc::clone(&state.cache), metrics.clone()),
            lists: RoomLists::default(),
            profiles: Profiles::new(Arc::clone(&records), metrics.clone()),
            house_words: ArcSwapOption::default(),
            tasks,
            stop: CancellationToken::new(),
            stop_lanes: CancellationToken::new(),
            drains: CancellationToken::new(),
            records_away: AtomicBool::new(false),
            look_soon: AtomicBool::new(false),
            inbox_ids: AtomicU64::new(0),
            everyone: tokio::sync::Mutex::new(()),
            config,
            state,
            records,
            catalogue: Catalogue::new(Arc::clone(&money)),
            till,
            gift_lookups: Arc::new(Semaphore::new(GIFT_LOOKUPS_MAX)),
            money,
            people,
            logins,
            recharges,
            metrics,
        }
    }

    // ---- tokens, presence, sessions ----

    /// With `session`, the token is good for as long as that session at the HTTP API is.
    pub(crate) async fn issue_token(
        &self,
        app: AppId,
        user: UserId,
        device: Option<DeviceKind>,
        session: Option<SessionPrint>,
    ) -> Result<IssuedToken> {
        check_app(app)?;
        check_user(user)?;
        if self.fleet.is_empty() {
            self.look_for_gateways().await;
        }
        let gateways = self.fleet.addresses(user).ok_or_else(no_gateway)?;
        let now_ms = self.state.clock.now_ms();
        let mut random = [0; TOKEN_BYTES];
        if let Err(error) = getrandom::fill(&mut random) {
            tracing::error!(%error, "the system gives no random numbers");
            return Err(Refusal::new(Reason::Internal));
        }
        let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let token = format!("{hex}%{app}");
        let until_ms = now_ms + crate::clock::millis(self.config.token_life);
        self.state.tokens.issue(&token, TokenOwner { app, user, device, session }, now_ms, until_ms).await?;
        Ok(IssuedToken { token, expires_in: self.config.token_life, gateways })
    }

    pub(crate) async fn online(&self, app: AppId, users: &[UserId]) -> Result<Vec<bool>> {
        check_count(users.len())?;
        let now_ms = self.state.clock.now_ms();
        Ok(self.state.presence.online(app, users, now_ms.saturating_sub(self.silence_ms())).await?)
    }

    pub(crate) async fn kick(&self, request: KickRequest) -> Result<u64> {
        let message = request.message.trim();
        if message.chars().nth(KICK_MESSAGE_CHARS_MAX).is_some() || message.chars().any(char::is_control) {
            return Err(Refusal::because(Reason::Malformed, "the message is at most 200 characters, none of them a control character"));
        }
        let reason = Reason::Banned;
        let message = if message.is_empty() { "logged out by the operator" } else { message };
        let routes = self.state.routes.lookup(request.app, &[request.user], self.state.clock.now_ms()).await?;
        let mut told = 0;
        for route in routes.into_iter().flatten().filter(|route| request.device.is_none_or(|device| device == route.device)) {
            let Some(gateway) = self.links.of(&route) else {
                self.metrics.link_dropped(Class::Control, "no_link");
                continue;
            };
            let kick = Kick {
                app_id: request.app.0,
                user_id: request.user.0,
                device: route.device as u32,
                code: reason.number().unwrap_or_default(),
                msg: message.to_owned(),
                session: route.session,
            };
            told += u64::from(gateway.send(Kind::Kick(kick), Class::Control).await);
        }
        Ok(told)
    }

    // ---- pushes ----

    pub(crate) async fn push(&self, request: PushRequest, once: Option<String>) -> Result<Pushed> {
        check_app(request.app)?;
        check_push(&request)?;
        let push = Outgoing {
            biz_code: BizCode(request.biz_code),
            data: request.data,
            acknowledged: request.qos == 1,
            class: request.class,
            key: request.key,
            except: None,
            keep_permille: KEEP_ALL,
        };
        match request.target {
            Target::Users(users) => self.push_to_users(request.app, users, push).await,
            Target::Room(room) => {
                let app = request.app;
                let acknowledged = push.acknowledged;
                let RoomAnswer::Pushed(pushed) = self.ask_room(room, RoomOrder::Push { app, push, once }).await? else {
                    return Err(Refusal::new(Reason::Internal));
                };
                let msg_id = acknowledged.then(|| format!("r{room}-{}", pushed.seq));
                Ok(Pushed { msg_id, seq: Some(pushed.seq), accepted: pushed.gateways })
            }
            Target::All => {
                // One at a time: two of them would only take each other's pace.
                let _turn = self.everyone.try_lock().map_err(|_| {
                    Refusal::because(Reason::RateLimited, "another push to everyone is under way").retry_after(EVERYONE_RETRY_MS)
                })?;
                let accepted = delivery::to_everyone(self, request.app, &push, self.state.clock.now_ms()).await;
                Ok(Pushed { msg_id: None, seq: None, accepted })
            }
        }
    }

    /// Each user in his lane; lanes run side by side.
    async fn push_to_users(&self, app: AppId, mut users: Vec<UserId>, push: Outgoing) -> Result<Pushed> {
        check_count(users.len())?;
        users.iter().try_for_each(|user| check_user(*user))?;
        let Some(first) = users.first().copied() else {
            return Err(Refusal::because(Reason::Malformed, "a push to users names at least one"));
        };
        users.sort_unstable();
        users.dedup();
        let mut lanes: BTreeMap<usize, Vec<UserId>> = BTreeMap::new();
        for user in users {
            lanes.entry(Lanes::of(user)).or_default().push(user);
        }
        // The lane of the first user named comes first, and he first in it: the answer's `msgId` is his.
        let push = Arc::new(push);
        let mut answers = Vec::with_capacity(lanes.len());
        for mut users in lanes.into_values() {
            users.sort_by_key(|user| *user != first);
            let (answer, answered) = oneshot::channel();
            let leader = users[0];
            dispatch::to_lane(self, leader, LaneCall::Push { app, users, push: Arc::clone(&push), answer }).await;
            answers.push((leader, answered));
        }
        let mut pushed = Pushed::default();
        let mut refused = None;
        for (leader, answered) in answers {
            match answered.await.unwrap_or_else(|_| Err(Refusal::unavailable())) {
                Ok(Delivered { msg_id, users }) => {
                    pushed.accepted += users;
                    if leader == first {
                        pushed.msg_id = msg_id;
                    }
                }
                Err(refusal) => refused = Some(refusal),
            }
        }
        // A part of the users has it: asking again would give it to them twice.
        match refused {
            Some(refusal) if pushed.accepted == 0 => Err(refusal),
            Some(_) | None => Ok(pushed),
        }
    }

    // ---- rooms ----

    pub(crate) async fn open_room(&self, request: OpenRoom) -> Result<Opened> {
        let OpenRoom { app, anchor, kind, name, cover } = request;
        let room = NewRoom { app, anchor, kind, name: name.trim().to_owned(), cover };
        check_new(&room)?;
        if self.config.room.vip_only && !self.people.tags(app, anchor).await?.has(Tags::VIP) {
            return Err(Refusal::because(Reason::NotYourUser, "only users with the tag VIP may open rooms here"));
        }
        let now_ms = self.state.clock.now_ms();
        match self.records.open_room(&room, now_ms).await? {
            OpenOutcome::Opened(record) => {
                self.catalog.opened(&record, now_ms).await;
                Ok(Opened::New(view(record, 0)))
            }
            OpenOutcome::AlreadyLive(room) => Ok(Opened::AlreadyLive(room)),
        }
    }

    pub(crate) async fn room(&self, room: RoomId) -> Result<RoomView> {
        let record = self.live(room).await?;
        let audience = self.state.members.count(record.app, room).await?;
        Ok(view(record, audience))
    }

    pub(crate) async fn list_rooms(&self, request: ListRooms) -> Result<RoomPage> {
        let (records, has_next) = self.lists.page(request.app, request.kind, request.page, request.page_size)?;
        let mut counts = JoinSet::new();
        for (index, record) in records.iter().enumerate() {
            let (members, app, room) = (Arc::clone(&self.state.members), record.app, record.room);
            counts.spawn(async move { (index, members.count(app, room).await) });
        }
        // At the same time: they share round trips, of which a page of 100 would else be as many.
        let mut audiences = vec![0; records.len()];
        while let Some(counted) = counts.join_next().await {
            let (index, audience) = counted.map_err(|_| Refusal::unavailable())?;
            audiences[index] = audience?;
        }
        let rooms = records.into_iter().zip(audiences).map(|(record, audience)| view(record, audience)).collect();
        Ok(RoomPage { rooms, has_next })
    }

    pub(crate) async fn close_room(&self, room: RoomId, anchor: UserId) -> Result<()> {
        self.order(room, Order::Close { anchor }).await
    }

    pub(crate) async fn members(&self, room: RoomId, cursor: u64, limit: usize) -> Result<MembersView> {
        if limit == 0 || limit > MEMBERS_PER_PAGE_MAX {
            return Err(Refusal::because(Reason::Malformed, "a page has 1 to 1000 members"));
        }
        let record = self.live(room).await?;
        let page = self.state.members.page(record.app, room, cursor, limit).await?;
        let audience = self.state.members.count(record.app, room).await?;
        Ok(MembersView { users: page.users, cursor: page.cursor, audience })
    }

    pub(crate) async fn mute(&self, request: MuteRequest) -> Result<()> {
        self.sanction(request, Sanction::Mute).await
    }

    pub(crate) async fn unmute(&self, room: RoomId, user: UserId, by: Operator) -> Result<()> {
        self.order(room, Order::Lift { by, user, sanction: Sanction::Mute }).await
    }

    pub(crate) async fn ban(&self, request: MuteRequest) -> Result<()> {
        self.sanction(request, Sanction::Ban).await
    }

    pub(crate) async fn unban(&self, room: RoomId, user: UserId, by: Operator) -> Result<()> {
        self.order(room, Order::Lift { by, user, sanction: Sanction::Ban }).await
    }

    async fn sanction(&self, request: MuteRequest, sanction: Sanction) -> Result<()> {
        let MuteRequest { room, user, by, duration } = request;
        check_user(user)?;
        if duration.is_some_and(|duration| duration.is_zero()) {
            return Err(Refusal::because(Reason::Malformed, "a mute or ban lasts longer than nothing"));
        }
        let for_ms = duration.map(crate::clock::millis);
        self.order(room, Order::Sanction { by, user, sanction, for_ms }).await
    }

    pub(crate) async fn set_slow_mode(&self, room: RoomId, by: Operator, gap: Duration) -> Result<()> {
        self.order(room, Order::SlowMode { by, gap_ms: crate::clock::millis(gap) }).await
    }

    pub(crate) async fn set_room_block_words(&self, room: RoomId, by: Operator, words: Vec<String>) -> Result<()> {
        self.order(room, Order::Words { by, words }).await
    }

    pub(crate) async fn set_block_words(&self, words: Vec<String>) -> Result<()> {
        let words = check_block_words(&words)?;
        self.records.set_block_words(&words).await?;
        self.set_house_words(&words);
        Ok(())
    }

    async fn order(&self, room: RoomId, order: Order) -> Result<()> {
        self.ask_room(room, RoomOrder::Order(order)).await.map(drop)
    }

    async fn live(&self, room: RoomId) -> Result<RoomRecord> {
        let found = if is_room(room) { self.catalog.room(room, self.state.clock.now_ms()).await? } else { None };
        found.ok_or_else(|| Refusal::new(Reason::RoomNotFound))
    }

    // ---- users ----

    pub(crate) async fn put_users(&self, app: AppId, profiles: Vec<Profile>) -> Result<()> {
        check_app(app)?;
        self.profiles.put(app, &profiles).await
    }

    /// Profiles, at most a minute old.
    pub(crate) async fn users(&self, app: AppId, users: &[UserId]) -> Result<Vec<Profile>> {
        check_count(users.len())?;
        self.profiles.stored(app, users, self.state.clock.now_ms()).await
    }

    /// A profile as it is now, for who wants to change a part of it.
    pub(crate) async fn profile_now(&self, app: AppId, user: UserId) -> Result<Option<Profile>> {
        Ok(self.records.profiles(app, &[user]).await?.pop())
    }

    pub(crate) async fn set_vip(&self, app: AppId, user: UserId, is_vip: bool) -> Result<Tags> {
        check_app(app)?;
        check_user(user)?;
        let (set, lift) = if is_vip { (Tags::VIP, Tags::default()) } else { (Tags::default(), Tags::VIP) };
        Ok(self.people.change_tags(app, user, set, lift).await?)
    }

    // ---- logins by phone ----

    pub(crate) async fn send_code(&self, app: AppId, phone: &Phone, address: Address) -> Result<()> {
        check_app(app)?;
        self.logins.send_code(app, phone, address, self.state.clock.now_ms()).await
    }

    pub(crate) async fn login(&self, app: AppId, phone: &Phone, code: &str, address: Address) -> Result<Option<LoggedIn>> {
        check_app(app)?;
        self.logins.login(app, phone, code, address, self.state.clock.now_ms()).await
    }

    pub(crate) async fn session(&self, token: &str) -> Result<Option<SessionOwner>> {
        self.logins.session(token, self.state.clock.now_ms()).await
    }

    // ---- wallets ----

    pub(crate) async fn order_recharge(&self, owner: SessionOwner, product: ProductId) -> Result<Option<RechargeOrder>> {
        self.recharges.order(owner.app, owner.user, product, self.state.clock.now_ms()).await
    }

    pub(crate) async fn pay_recharge(&self, payment: &Payment) -> Result<PayOutcome> {
        self.recharges.pay(payment, self.state.clock.now_ms()).await
    }

    // ---- gifts and PKs ----

    pub(crate) async fn send_gift(&self, app: AppId, sender: UserId, room: RoomId, request: GiftRequest) -> Result<GiftPaid> {
        gift::check(&request)?;
        match self.ask_room(room, RoomOrder::Gift { app, sender, request }).await? {
            RoomAnswer::Gift(paid) => Ok(paid),
            RoomAnswer::Pushed(_) | RoomAnswer::Done => Err(Refusal::new(Reason::Internal)),
        }
    }

    pub(crate) async fn grant(&self, grants: &[Grant]) -> Result<Vec<GrantOutcome>> {
        if grants.is_empty() || grants.len() > GRANTS_MAX {
            return Err(Refusal::because(Reason::Malformed, "1 to 1000 grants at a time"));
        }
        for grant in grants {
            check_app(grant.app)?;
            check_user(grant.user)?;
            if !(1..=GRANT_COINS_MAX).contains(&grant.coins) {
                return Err(Refusal::because(Reason::Malformed, "coins is 1 to 1000000000000"));
            }
            if grant.uuid.is_empty() || grant.uuid.len() > billfish_wire::limits::ID_BYTES_MAX || grant.uuid.chars().any(char::is_control) {
                return Err(Refusal::because(Reason::Malformed, "uuid is 1 to 64 bytes without control characters"));
            }
        }
        Ok(self.money.grant(grants, self.state.clock.now_ms()).await?)
    }

    pub(crate) async fn put_gift(&self, gift: &Gift) -> Result<()> {
        gift::check_new(gift)?;
        Ok(self.catalogue.put(gift).await?)
    }

    pub(crate) async fn pk_online(&self, app: Option<AppId>, room: RoomId, challenger: UserId) -> Result<()> {
        check_user(challenger)?;
        // One try in three seconds, as by hand.
        let hit =
            WindowHit { key: format!("pk:{room}:{}:{challenger}", app.map_or(0, |app| app.0)), limit: 1, window_ms: PK_TRY_WINDOW_MS };
        if let Some(WindowVerdict::Refused { retry_after_ms }) =
            self.state.rate_windows.hit(&[hit], self.state.clock.now_ms()).await?.first()
        {
            return Err(Refusal::new(Reason::RateLimited).retry_after(*retry_after_ms));
        }
        self.order(room, Order::PkOnline { app, challenger }).await
    }

    pub(crate) async fn pk_offline(&self, app: Option<AppId>, room: RoomId, challenger: UserId) -> Result<()> {
        check_user(challenger)?;
        self.order(room, Order::PkOffline { app, challenger }).await
    }

    pub(crate) async fn pk(&self, app: Option<AppId>, room: RoomId) -> Result<(RoomRecord, Option<PkBar>)> {
        let record = self.live(room).await?;
        if app.is_some_and(|app| app != record.app) {
            return Err(Refusal::new(Reason::RoomNotFound));
        }
        let bar = read_pk(self, room, self.state.clock.now_ms()).await?;
        Ok((record, bar))
    }

    // ---- for rooms and lanes ----

    pub(crate) fn chat_ports(&self) -> chat::Ports<'_> {
        let config = &self.config.chat;
        let limits = chat::Limits {
            user_messages_max: config.user_messages_max,
            user_window_ms: crate::clock::millis(config.user_window),
            room_messages_per_s: config.room_messages_per_s,
        };
        chat::Ports { rate_windows: &*self.state.rate_windows, profiles: &self.profiles, metrics: &self.metrics, limits }
    }

    /// An inbox id that this router has not asked for before: two equal messages in one millisecond are two messages.
    pub(crate) fn next_inbox_id(&self, now_ms: u64) -> String {
        format!("{now_ms}-{}", self.inbox_ids.fetch_add(1, Ordering::Relaxed))
    }

    /// These users are here, or are gone, for whoever wants to know.
    pub(crate) fn users_said(&self, app: AppId, users: impl IntoIterator<Item = UserId>, is_online: bool) {
        if let Some(words) = self.user_words.get() {
            words.tell(app, users, is_online, self.state.clock.now_ms());
        }
    }

    // ---- the node itself ----

    pub(crate) fn is_draining(&self) -> bool {
        self.drains.is_cancelled()
    }

    pub(crate) fn begin_drain(&self) {
        self.drains.cancel();
    }

    /// This router, to be given to a task; none once it is gone.
    pub(crate) fn me(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    /// Whether the records answered when they were last asked by the clock.
    pub(crate) fn set_records_away(&self, away: bool) {
        self.records_away.store(away, Ordering::Relaxed);
    }

    /// The block-list of the house is this.
    pub(crate) fn set_house_words(&self, words: &[String]) {
        self.house_words.store(Some(Arc::new(folded(words))));
    }

    /// The block-list of the house, folded. Until it is known nobody may say anything: a router starts also while it cannot be read.
    pub(crate) fn house_words(&self) -> Result<Arc<Vec<String>>> {
        self.house_words.load_full().ok_or_else(Refusal::unavailable)
    }

    /// Who is silent for longer is gone: for longer than any gateway waits, and never for less than two of our own heartbeat gaps.
    pub(crate) fn silence_ms(&self) -> u64 {
        self.config.silence_ms().max(self.fleet.silence_ms())
    }

    /// Whether it can serve, or why not.
    pub(crate) fn readiness(&self) -> std::result::Result<(), String> {
        if self.is_draining() {
            return Err("the router is draining".to_owned());
        }
        if let Some(displaced) = self.displacement.by() {
            return Err(displaced.to_string());
        }
        if let Some(why) = self.state.watch.away() {
            return Err(format!("the shared state is away: {why}"));
        }
        if self.records_away.load(Ordering::Relaxed) {
            return Err("the records are away".to_owned());
        }
        if !self.lists.is_ready() {
            return Err("there are no lists of rooms yet".to_owned());
        }
        self.reach.trouble().map_or(Ok(()), Err)
    }
}

/// Looks into the ledger after gifts that a rule refuses, at once; beyond it the sender asks again.
const GIFT_LOOKUPS_MAX: usize = 64;
/// Grants in one transaction.
const GRANTS_MAX: usize = 1_000;
/// Most coins in one grant: nine million of them fit into an account.
const GRANT_COINS_MAX: i64 = 1_000_000_000_000;
/// Between two tries of a user to challenge in a room.
const PK_TRY_WINDOW_MS: u64 = 3_000;
/// Told to who finds another push to everyone under way.
const EVERYONE_RETRY_MS: u64 = 1_000;

/// A token without an address is of no use.
fn no_gateway() -> Refusal {
    Refusal::because(Reason::Unavailable, "no gateway is up that takes users; wait retryAfterMs").retry_after(NO_GATEWAY_RETRY_MS)
}

/// Told to who wants a token while no gateway is up: one that starts is known within two seconds.
const NO_GATEWAY_RETRY_MS: u64 = 2_000;

fn view(record: RoomRecord, audience: u64) -> RoomView {
    let RoomRecord { room, app, anchor, kind, name, cover, started_ms } = record;
    RoomView { room, app, anchor, kind, name, cover, started_ms, audience }
}

fn check_app(app: AppId) -> Result<()> {
    if app.0 < billfish_wire::limits::APP_ID_MIN {
        return Err(Refusal::because(Reason::Malformed, "appId is 10000 or above"));
    }
    Ok(())
}

fn check_user(user: UserId) -> Result<()> {
    if !is_user(user) {
        return Err(Refusal::because(Reason::Malformed, "a userId is 10000 or above"));
    }
    Ok(())
}

fn check_count(users: usize) -> Result<()> {
    if users > USERS_PER_CALL_MAX {
        return Err(Refusal::because(Reason::Malformed, format!("at most {USERS_PER_CALL_MAX} users at a time")));
    }
    Ok(())
}

fn check_push(request: &PushRequest) -> Result<()> {
    let problem = if request.biz_code <= 0 {
        "bizCode is above 0"
    } else if request.qos > 1 {
        "qos is 0 or 1"
    } else if snapshot::twice_escaped_bytes(&request.data) > snapshot::DATA_BYTES_MAX {
        "data is longer than 48 KiB once it is escaped twice, as it travels"
    } else if request.key.as_ref().is_some_and(|key| key.is_empty() || key.len() > billfish_wire::limits::ID_BYTES_MAX) {
        "key is 1 to 64 bytes"
    } else if request.key.is_some() && !matches!(request.target, Target::Room(_)) {
        "key is for rooms: only they have states"
    } else if request.qos == 1 && request.target == Target::All {
        "a push to everyone has qos 0: there is no inbox of everyone"
    } else {
        return Ok(());
    };
    Err(Refusal::because(Reason::Malformed, problem))
}
