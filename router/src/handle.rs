//! The router's face towards its own HTTP API: every call that is not a frame.
//!
//! - Cheap to clone; every clone speaks to the same router.
//! - Calls about a room run on the room's own queue, so they are in order with its chat.
//! - A call never hangs: a full queue, a slow store and a draining router are refusals.

use crate::{
    core::Core,
    error::Refusal,
    metrics::Metrics,
    services::{
        gift::GiftRequest,
        login::{Address, LoggedIn, Phone},
        ports::{
            Profile, RoomKind,
            money::{Balance, Gift, GiftId, GiftKind, Grant, GrantOutcome, PayOutcome, Product, ProductId, RechargeOrder},
            people::Tags,
        },
    },
    signature,
};
use billfish_state::{AppId, DeviceKind, PkBar, RoomId, SessionOwner, UserId};
use billfish_wire::Class;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub use crate::services::recharge::Payment;

/// Result of every call.
pub type Result<T> = std::result::Result<T, Refusal>;

/// The router, as its HTTP API sees it.
#[derive(Clone, Debug)]
pub struct Handle {
    core: Arc<Core>,
}

/// A login token and where to go with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedToken {
    /// 128 random bits in hex, `%`, appId.
    pub token: String,
    /// How long it is good.
    pub expires_in: Duration,
    /// Addresses by transport (`tcp`, `ws`, `tls`, `quic`): the user's own gateway first, one or two others behind it.
    pub gateways: BTreeMap<String, Vec<String>>,
}

/// A push from the business backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushRequest {
    /// Business line.
    pub app: AppId,
    /// To whom.
    pub target: Target,
    /// What it is.
    pub biz_code: i32,
    /// Opaque to the router. A caller that has JSON puts its text here.
    pub data: String,
    /// 0: sent once. 1: kept until acknowledged.
    pub qos: u8,
    /// Delivery class; [`Class::Event`] unless said otherwise.
    pub class: Class,
    /// Set for a state push: only the newest of a key matters. Rooms only.
    pub key: Option<String>,
}

/// Whom a push is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// These users, on every device.
    Users(Vec<UserId>),
    /// Everyone in a room.
    Room(RoomId),
    /// Everyone who is connected.
    All,
}

/// What became of a push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Its `msgId`, for QoS 1. Users whose inbox was ahead of the clock got a later one.
    pub msg_id: Option<String>,
    /// Its place in the room, for a room.
    pub seq: Option<i64>,
    /// Users, or for a room and for everyone: gateways it was given to.
    pub accepted: u64,
}

/// Who is to be thrown out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KickRequest {
    /// Business line.
    pub app: AppId,
    /// The user.
    pub user: UserId,
    /// One kind of device; `None`: all.
    pub device: Option<DeviceKind>,
    /// One sentence that the client shows; empty: the standard one.
    pub message: String,
}

/// A room to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRoom {
    /// Business line.
    pub app: AppId,
    /// Who opens it.
    pub anchor: UserId,
    /// Normal or PK.
    pub kind: RoomKind,
    /// Shown in lists; may be empty. At most 64 characters.
    pub name: String,
    /// URL of a picture; may be empty. At most 512 bytes.
    pub cover: String,
}

/// What became of [`Handle::open_room`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// A new room.
    New(RoomView),
    /// The anchor is live already, in this room. Nothing was changed.
    AlreadyLive(RoomId),
}

/// A live room as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomView {
    /// Its id.
    pub room: RoomId,
    /// Business line.
    pub app: AppId,
    /// Who opened it.
    pub anchor: UserId,
    /// Normal or PK.
    pub kind: RoomKind,
    /// Its name; may be empty.
    pub name: String,
    /// URL of a picture; may be empty.
    pub cover: String,
    /// When it was opened, Unix ms.
    pub started_ms: u64,
    /// Distinct users in it now. In lists: a second old at most.
    pub audience: u64,
}

/// Which part of the list of rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListRooms {
    /// Business line.
    pub app: AppId,
    /// Rooms of this kind.
    pub kind: RoomKind,
    /// From 1.
    pub page: u32,
    /// 1..=100.
    pub page_size: u32,
}

/// One page of rooms, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomPage {
    /// At most `page_size`.
    pub rooms: Vec<RoomView>,
    /// The next page has at least one room.
    pub has_next: bool,
}

/// A part of a room's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersView {
    /// In no particular order; who stays throughout a scan appears at least once.
    pub users: Vec<UserId>,
    /// Pass it to get the next page; 0 when there is none.
    pub cursor: u64,
    /// Distinct users in the room.
    pub audience: u64,
}

/// On whose word a room is moderated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The holder of the API key.
    Admin,
    /// A user: must be the room's anchor.
    User(UserId),
}

/// A mute or a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MuteRequest {
    /// Where.
    pub room: RoomId,
    /// Whom.
    pub user: UserId,
    /// On whose word.
    pub by: Operator,
    /// For how long; `None`: as long as the room lives.
    pub duration: Option<Duration>,
}

/// A gift of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendGift {
    /// Business line of the sender.
    pub app: AppId,
    /// Who pays.
    pub sender: UserId,
    /// Where.
    pub room: RoomId,
    /// Who gets it: the room's anchor or the challenger of its PK.
    pub receiver: UserId,
    /// What, of the catalogue.
    pub gift: GiftId,
    /// Whether it moves the bar of a PK.
    pub kind: GiftKind,
    /// The sender's own id of it, 1 to 64 bytes: sent again it is not paid again.
    pub uuid: String,
    /// How many, 1 to 9,999.
    pub num: i64,
    /// The price of one that the sender was shown; none: whatever it is.
    pub price: Option<i64>,
    /// Ties taps together that are shown as one; may be empty, at most 64 bytes.
    pub combo: String,
}

/// A gift that is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GiftReceipt {
    /// Its place among the gifts of the room, from 1.
    pub gift_seq: i64,
    /// What the sender has left; none where it was paid by an earlier call with the same `uuid`.
    pub balance: Option<i64>,
}

/// The PK of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PkView {
    /// The room's anchor.
    pub anchor: UserId,
    /// The bar; none while nobody challenges him.
    pub bar: Option<PkBar>,
}

impl Handle {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Others are told where the HTTP API is, from the next registration on.
    pub(crate) fn set_http_address(&self, address: String) {
        // Told once; a router has one API.
        drop(self.core.http_address.set(address));
    }

    /// A login token, good for five minutes, with the addresses to use it at.
    ///
    /// # Errors
    /// 4000 for ids out of range, 5001 when the state store is away or no gateway is up.
    pub async fn issue_token(&self, app: AppId, user: UserId, device: Option<DeviceKind>) -> Result<IssuedToken> {
        self.core.issue_token(app, user, device, None).await
    }

    /// The same for the user of a session that shows this token: void when that session has ended.
    ///
    /// # Errors
    /// As [`Self::issue_token`].
    pub(crate) async fn issue_token_of(&self, owner: SessionOwner, shown: &str, device: Option<DeviceKind>) -> Result<IssuedToken> {
        let session = signature::session_print(shown.as_bytes());
        self.core.issue_token(owner.app, owner.user, device, Some(session)).await
    }

    /// Pays a gift. Answers when it is committed; the room hears of it by itself.
    ///
    /// # Errors
    /// 4000 for a form that cannot be, 4004 when the sender is not in the room, 4007 for too many, 5001 when ledger, state or the room's owner
    /// are away: then it may have been paid, and the same `uuid` says so. 10012 to 10016: see [`billfish_wire::Reason`].
    pub async fn send_gift(&self, gift: SendGift) -> Result<GiftReceipt> {
        let SendGift { app, sender, room, receiver, gift, kind, uuid, num, price, combo } = gift;
        let request = GiftRequest { gift, receiver, kind, uuid, num, price, combo };
        let paid = self.core.send_gift(app, sender, room, request).await?;
        Ok(GiftReceipt { gift_seq: paid.gift_seq, balance: paid.balance })
    }

    /// Gives coins to users, all or none; an outcome each. If one of them is refused as a conflict, so are all.
    ///
    /// # Errors
    /// 4000 for none, for more than 1,000, or for a sum or id that cannot be, 5001 when the records are away.
    pub async fn grant(&self, grants: &[Grant]) -> Result<Vec<GrantOutcome>> {
        self.core.grant(grants).await
    }

    /// The catalogue of gifts, by id.
    ///
    /// # Errors
    /// 5001 when the records are away.
    pub async fn gifts(&self) -> Result<Vec<Gift>> {
        Ok(self.core.catalogue.gifts().await?.values().cloned().collect())
    }

    /// Puts a gift into the catalogue, or replaces it. Other routers sell it within five seconds.
    ///
    /// # Errors
    /// 4000 for a price or text that cannot be, 5001 when the records are away.
    pub async fn put_gift(&self, gift: &Gift) -> Result<()> {
        self.core.put_gift(gift).await
    }

    /// Takes a gift out of the catalogue.
    ///
    /// # Errors
    /// 5001 when the records are away.
    pub async fn remove_gift(&self, gift: GiftId) -> Result<()> {
        Ok(self.core.catalogue.remove(gift).await?)
    }

    /// A user challenges the anchor of a PK room that he has joined; of `app`, where it is said.
    ///
    /// # Errors
    /// 4004 when he is not in the room, or it is another app's, 4007 for too many tries, 10007 when somebody else challenges, 10015 where there cannot be a PK.
    pub async fn pk_online(&self, app: Option<AppId>, room: RoomId, challenger: UserId) -> Result<()> {
        self.core.pk_online(app, room, challenger).await
    }

    /// The challenger of a PK leaves it; without a PK nothing happens.
    ///
    /// # Errors
    /// 4003 when somebody else challenges.
    pub async fn pk_offline(&self, app: Option<AppId>, room: RoomId, challenger: UserId) -> Result<()> {
        self.core.pk_offline(app, room, challenger).await
    }

    /// The PK of a room; of `app`, where it is said.
    ///
    /// # Errors
    /// 4004 for a room that is not live or another app's, 5001 when the records are away.
    pub async fn pk(&self, app: Option<AppId>, room: RoomId) -> Result<PkView> {
        let (record, bar) = self.core.pk(app, room).await?;
        Ok(PkView { anchor: record.anchor, bar })
    }

    /// Which of the users are connected. Answers in the order asked.
    ///
    /// # Errors
    /// 4000 for more than 1,000 users, 5001 when the state store is away.
    pub async fn online(&self, app: AppId, users: &[UserId]) -> Result<Vec<bool>> {
        self.core.online(app, users).await
    }

    /// Pushes to users, to a room, or to everyone.
    ///
    /// # Errors
    /// 4000 for a target or a body out of bounds, 4004 for a room that is not live, 5001 when something behind is away.
    pub async fn push(&self, request: PushRequest) -> Result<Pushed> {
        self.core.push(request, None).await
    }

    /// The same; to a room it is said once, however often it is asked for with this `id` (at most 64 bytes) within the time that messages
    /// are remembered, of whichever router. State pushes are said each time.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub async fn push_once(&self, request: PushRequest, id: String) -> Result<Pushed> {
        self.core.push(request, Some(id)).await
    }

    /// Ends sessions of a user, revokes nothing else. Gives the number of sessions told to go.
    ///
    /// # Errors
    /// 5001 when the state store is away.
    pub async fn kick(&self, request: KickRequest) -> Result<u64> {
        self.core.kick(request).await
    }

    /// Opens a room.
    ///
    /// # Errors
    /// 4000 for a field out of bounds, 4003 for an anchor who may open none, 5001 when the records are away.
    pub async fn open_room(&self, request: OpenRoom) -> Result<Opened> {
        self.core.open_room(request).await
    }

    /// One live room.
    ///
    /// # Errors
    /// 4004 when it is not live, 5001 when the records are away.
    pub async fn room(&self, room: RoomId) -> Result<RoomView> {
        self.core.room(room).await
    }

    /// A page of the live rooms of a kind, newest first.
    ///
    /// # Errors
    /// 4000 for a page or size out of bounds, 5001 when there is no list.
    pub async fn list_rooms(&self, request: ListRooms) -> Result<RoomPage> {
        self.core.list_rooms(request).await
    }

    /// Closes a room: its members get a notice and leave. Only its anchor may.
    ///
    /// # Errors
    /// 4003 for another user than the anchor, 4004 when it is not live, 5001 when the records are away.
    pub async fn close_room(&self, room: RoomId, anchor: UserId) -> Result<()> {
        self.core.close_room(room, anchor).await
    }

    /// A part of a room's members. `cursor` 0 begins; `limit` 1..=1000.
    ///
    /// # Errors
    /// 4004 when the room is not live, 5001 when a store is away.
    pub async fn members(&self, room: RoomId, cursor: u64, limit: usize) -> Result<MembersView> {
        self.core.members(room, cursor, limit).await
    }

    /// Mutes a user in a room.
    ///
    /// # Errors
    /// 4003 when `by` is not the anchor, 4004 when the room is not live, 5001 when a store is away.
    pub async fn mute(&self, request: MuteRequest) -> Result<()> {
        self.core.mute(request).await
    }

    /// Lifts a mute; none there is no error.
    ///
    /// # Errors
    /// As [`Self::mute`].
    pub async fn unmute(&self, room: RoomId, user: UserId, by: Operator) -> Result<()> {
        self.core.unmute(room, user, by).await
    }

    /// Bans a user from a room, and puts him out of it.
    ///
    /// # Errors
    /// As [`Self::mute`].
    pub async fn ban(&self, request: MuteRequest) -> Result<()> {
        self.core.ban(request).await
    }

    /// Lifts a ban; none there is no error.
    ///
    /// # Errors
    /// As [`Self::mute`].
    pub async fn unban(&self, room: RoomId, user: UserId, by: Operator) -> Result<()> {
        self.core.unban(room, user, by).await
    }

    /// Sets the least time between two messages of one user; zero ends slow mode.
    ///
    /// # Errors
    /// As [`Self::mute`]; 4000 above ten minutes.
    pub async fn set_slow_mode(&self, room: RoomId, by: Operator, gap: Duration) -> Result<()> {
        self.core.set_slow_mode(room, by, gap).await
    }

    /// Replaces the words refused in one room.
    ///
    /// # Errors
    /// As [`Self::mute`]; 4000 for more than 1,000 words, an empty one or one above 64 characters.
    pub async fn set_room_block_words(&self, room: RoomId, by: Operator, words: Vec<String>) -> Result<()> {
        self.core.set_room_block_words(room, by, words).await
    }

    /// Replaces the words refused in every room.
    ///
    /// # Errors
    /// As [`Self::set_room_block_words`].
    pub async fn set_block_words(&self, words: Vec<String>) -> Result<()> {
        self.core.set_block_words(words).await
    }

    /// Stores how users are shown to others.
    ///
    /// # Errors
    /// 4000 for a field out of bounds (nickname at most 64 bytes) or more than 1,000 users, 5001 when the records are away.
    pub async fn put_users(&self, app: AppId, profiles: Vec<Profile>) -> Result<()> {
        self.core.put_users(app, profiles).await
    }

    /// The profiles of those users who have one, at most a minute old.
    ///
    /// # Errors
    /// 4000 for more than 1,000 users, 5001 when the records are away.
    pub async fn users(&self, app: AppId, users: &[UserId]) -> Result<Vec<Profile>> {
        self.core.users(app, users).await
    }

    /// A user's profile as it is now, for who changes a part of it.
    ///
    /// # Errors
    /// 5001 when the records are away.
    pub async fn profile_now(&self, app: AppId, user: UserId) -> Result<Option<Profile>> {
        self.core.profile_now(app, user).await
    }

    /// Gives a user the tag VIP, or takes it; all tags the user has then.
    ///
    /// # Errors
    /// 4000 for ids out of range, 5001 when the records are away.
    pub async fn set_vip(&self, app: AppId, user: UserId, is_vip: bool) -> Result<Tags> {
        self.core.set_vip(app, user, is_vip).await
    }

    // ---- logins by phone ----

    /// Whether anybody can log in by phone: there is somebody who brings codes.
    #[must_use]
    pub fn has_logins(&self) -> bool {
        self.core.logins.are_set_up()
    }

    /// How long a login code is good, and how long after it there is no other.
    pub(crate) fn code_times(&self) -> (Duration, Duration) {
        self.core.logins.code_times()
    }

    /// Sends a login code to a phone.
    ///
    /// # Errors
    /// 4007 for a phone that had one a moment ago, and an address that asks too much; 5001 when it could not be sent.
    pub(crate) async fn send_code(&self, app: AppId, phone: &Phone, address: Address) -> Result<()> {
        self.core.send_code(app, phone, address).await
    }

    /// Lets in who shows the code that was sent to the phone; `None` where it is another.
    ///
    /// # Errors
    /// 4007 for too many tries, 5001 when a store is away.
    pub(crate) async fn login(&self, app: AppId, phone: &Phone, code: &str, address: Address) -> Result<Option<LoggedIn>> {
        self.core.login(app, phone, code, address).await
    }

    /// Whose session a token is, if it is one that is good.
    ///
    /// # Errors
    /// 5001 when the state store is away.
    pub async fn session(&self, token: &str) -> Result<Option<SessionOwner>> {
        self.core.session(token).await
    }

    /// Ends the session of a token.
    ///
    /// # Errors
    /// 5001 when the state store is away: it may go on then.
    pub async fn log_out(&self, token: &str, owner: SessionOwner) -> Result<()> {
        self.core.logins.log_out(token, owner).await
    }

    /// Ends every session of a user.
    ///
    /// # Errors
    /// 5001 when the state store is away: some may go on then.
    pub async fn log_out_everywhere(&self, owner: SessionOwner) -> Result<()> {
        self.core.logins.log_out_everywhere(owner).await
    }

    // ---- wallets ----

    /// What a user has.
    ///
    /// # Errors
    /// 5001 when the records are away.
    pub async fn balance(&self, owner: SessionOwner) -> Result<Balance> {
        self.core.recharges.balance(owner.app, owner.user).await
    }

    /// What can be bought, by id.
    ///
    /// # Errors
    /// 5001 when the records are away.
    pub async fn products(&self) -> Result<Vec<Product>> {
        self.core.recharges.products().await
    }

    /// An order of a user's that waits for its payment; `None` where there is no such product.
    ///
    /// # Errors
    /// 5001 when the records are away, or no id could be had.
    pub async fn order_recharge(&self, owner: SessionOwner, product: ProductId) -> Result<Option<RechargeOrder>> {
        self.core.order_recharge(owner, product).await
    }

    /// Credits an order, once, however often its payment is told.
    ///
    /// # Errors
    /// 4000 for an id of a payment that cannot be, 5001 when the records are away: told again, it says what became of it.
    pub async fn pay_recharge(&self, payment: &Payment) -> Result<PayOutcome> {
        self.core.pay_recharge(payment).await
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.core.metrics
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.core.state.clock.now_ms()
    }
}
