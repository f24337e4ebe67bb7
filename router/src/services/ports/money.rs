//! What the services need of the money in the ledger: wallets, gifts, recharges.
//!
//! - Money is a whole number of coins (or beans, which is what a receiver has of them). Every change is two entries in one transaction with a
//!   key of its own: what was taken from one account was given to another, and no balance of a user is below 0.
//! - A gift is known by its sender and his `uuid`, for ever: sent again it is not paid again.
//! - A gift's place in its room (`gift_seq`) is given in the transaction that pays it: 1, 2, 3 ... without a hole, also across owners of the room.
//! - What is to be told to the room stands in the outbox, by the same transaction, until [`Money::told`].

use super::Result;
use async_trait::async_trait;
use billfish_state::{AppId, RoomId, UserId};
use tokio::sync::oneshot;

/// Id of a gift in the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GiftId(pub i64);

/// Id of a product that can be bought with money of the world outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProductId(pub i64);

/// A gift as the catalogue has it: a row of `t_gift_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gift {
    /// Its id.
    pub gift: GiftId,
    /// Shown in lists.
    pub name: String,
    /// Coins for one, at least 1.
    pub price: i64,
    /// Picture in lists; may be empty.
    pub cover: String,
    /// The effect that viewers see; may be empty.
    pub url: String,
}

/// What a gift is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum GiftKind {
    /// For the receiver.
    #[default]
    Normal = 0,
    /// It also moves the bar of a PK.
    Pk = 1,
}

/// Which way a gift moves the bar of a PK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PkSide {
    /// Up: the anchor has received it.
    Anchor,
    /// Down: the challenger has.
    Challenger,
}

/// A gift to be paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGift {
    /// Business line.
    pub app: AppId,
    /// Who pays.
    pub sender: UserId,
    /// The sender's own id of it, 1 to 64 bytes.
    pub uuid: String,
    /// Where it is given.
    pub room: RoomId,
    /// The epoch of the room's owner who asks: once a later one has been given, nothing is paid for an earlier one.
    pub epoch: u64,
    /// Who gets beans for it.
    pub receiver: UserId,
    /// What.
    pub gift: GiftId,
    /// How many, 1 to 9,999.
    pub num: i64,
    /// Coins for one of them. The whole price, `price * num`, fits.
    pub price: i64,
    /// `Some`: a PK gift, and whose.
    pub pk: Option<PkSide>,
    /// Ties taps together that are shown as one; may be empty, at most 64 bytes.
    pub combo: String,
}

impl NewGift {
    /// Coins for all of them; `None` when that is more than there is.
    #[must_use]
    pub const fn total(&self) -> Option<i64> {
        self.price.checked_mul(self.num)
    }
}

/// A gift that was paid: a row of `t_gift_record`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaidGift {
    /// What was asked for; `epoch` is the one it was paid under.
    pub what: NewGift,
    /// Its place among the gifts of its room, from 1.
    pub gift_seq: i64,
    /// When, Unix ms.
    pub paid_ms: u64,
}

/// What became of one [`NewGift`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GiftOutcome {
    /// Paid now. `balance` is what the sender has left.
    Paid {
        /// The record.
        gift: PaidGift,
        /// Coins that the sender has left.
        balance: i64,
    },
    /// Paid before, by the same sender with the same `uuid` and the same content; nothing was changed.
    Repeated(PaidGift),
    /// The sender has used this `uuid` for something else (another room, receiver, gift, number or kind); nothing was changed.
    Conflict,
    /// The sender has not enough; nothing was changed.
    NotCovered {
        /// Coins that he has.
        balance: i64,
    },
    /// The room is not live, or closed; nothing was changed.
    NoRoom,
    /// A later owner has the room; nothing was changed.
    Fenced,
}

/// A wallet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// What the user can spend.
    pub coins: i64,
    /// What the user has been given.
    pub beans: i64,
}

/// Coins that the operator gives: for a campaign, a test, or what was bought elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Business line.
    pub app: AppId,
    /// Who gets them.
    pub user: UserId,
    /// How many, at least 1.
    pub coins: i64,
    /// The operator's own id of it, of this user: 1 to 64 bytes.
    pub uuid: String,
}

/// What became of a [`Grant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantOutcome {
    /// Given, now or before. `balance` is what the user has.
    Given {
        /// Coins that the user has.
        balance: i64,
    },
    /// This `uuid` was used for another sum; nothing was changed.
    Conflict,
}

/// A product: a row of `t_recharge_product`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// Its id.
    pub product: ProductId,
    /// Shown in lists.
    pub name: String,
    /// Price in the smallest unit of the currency, at least 1.
    pub price_minor: i64,
    /// ISO 4217, as `CNY`.
    pub currency: String,
    /// Coins that it gives.
    pub coins: i64,
}

/// State of a recharge order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OrderState {
    /// Not paid yet.
    Waiting = 0,
    /// Paid and credited.
    Paid = 1,
}

/// An order: a row of `t_recharge_order`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RechargeOrder {
    /// Its id, given by its maker; rises.
    pub order: i64,
    /// Business line.
    pub app: AppId,
    /// Who gets the coins.
    pub user: UserId,
    /// What was bought, as it was then.
    pub product: ProductId,
    /// Coins that it gives.
    pub coins: i64,
    /// Price in the smallest unit of the currency.
    pub price_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// Whether it is paid.
    pub state: OrderState,
    /// When it was made, Unix ms.
    pub made_ms: u64,
    /// The provider's own id of the payment; empty: none yet.
    pub payment: String,
}

/// What became of [`Money::pay_order`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayOutcome {
    /// Credited now.
    Credited(RechargeOrder),
    /// Credited before, by the same payment; nothing was changed.
    Repeated(RechargeOrder),
    /// Another payment has paid it, or the payment has paid another order, or the sum or the currency is another; nothing was changed.
    Conflict,
    /// There is no such order.
    NoOrder,
}

/// One finding of [`Money::reconcile`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which sum does not add up: one of a fixed list, a label of the metric.
    pub kind: &'static str,
    /// What, for a person: account, room, amounts.
    pub what: String,
}

/// What a look over the whole ledger says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciliation {
    /// Accounts, gifts and orders looked at.
    pub rows: u64,
    /// What does not add up, at most 100 of it.
    pub findings: Vec<Finding>,
}

/// Where gifts are handed in to be paid, those of many rooms together.
pub trait Till: Send + Sync {
    /// Hands a gift in, behind all that were handed in for its room before; its outcome comes when it is on the disk. A gift that gets an
    /// error, or no outcome, may have been paid: its sender asks again by the same `uuid`.
    ///
    /// # Errors
    /// The till takes no more now: nothing is paid.
    fn submit(&self, gift: NewGift) -> Result<oneshot::Receiver<Result<GiftOutcome>>>;
    /// These gifts have been told to their rooms: they leave the outbox soon.
    fn told(&self, gifts: &[(RoomId, i64)]);
}

/// The money in the ledger.
#[async_trait]
pub trait Money: Send + Sync {
    /// Pays gifts in the order given, all that can be paid in one transaction; an outcome each, in the same order. A gift that is not paid
    /// does not keep the others from it. A call that failed may have been carried out; asked again, it says what was.
    async fn pay_gifts(&self, gifts: &[NewGift], now_ms: u64) -> Result<Vec<GiftOutcome>>;
    /// The gift that a sender has paid by this `uuid`.
    async fn paid(&self, app: AppId, sender: UserId, uuid: &str) -> Result<Option<PaidGift>>;
    /// The gifts of a room that have not been told to it, by rising `gift_seq`, at most `limit`.
    async fn untold(&self, room: RoomId, limit: usize) -> Result<Vec<PaidGift>>;
    /// Rooms that have had gifts to tell since before `before_ms`, at most `limit`.
    async fn rooms_to_tell(&self, before_ms: u64, limit: usize) -> Result<Vec<RoomId>>;
    /// Takes gifts out of the outbox: they have been told to their rooms. May be put off to go with the next gifts, for some seconds at most.
    async fn told(&self, gifts: &[(RoomId, i64)]) -> Result<()>;
    /// The PK gifts of a room with a `gift_seq` above `after_seq`, by rising `gift_seq`, at most `limit`: what a bar is made of.
    async fn pk_gifts(&self, room: RoomId, after_seq: i64, limit: usize) -> Result<Vec<PaidGift>>;
    /// The `gift_seq` of the room's last gift; 0: none.
    async fn last_gift(&self, room: RoomId) -> Result<i64>;

    /// The catalogue, by id.
    async fn gifts(&self) -> Result<Vec<Gift>>;
    /// Puts a gift into the catalogue, or replaces it. What was paid before stays as it was.
    async fn put_gift(&self, gift: &Gift) -> Result<()>;
    /// Takes a gift out of the catalogue; one that is not there is no error.
    async fn remove_gift(&self, gift: GiftId) -> Result<()>;

    /// What a user has; nothing where he has no account.
    async fn balance(&self, app: AppId, user: UserId) -> Result<Balance>;

    /// Gives coins, from the recharge source, all in one transaction; an outcome each, in the same order. A repeat gives nothing.
    async fn grant(&self, grants: &[Grant], now_ms: u64) -> Result<Vec<GrantOutcome>>;

    /// The products, by id.
    async fn products(&self) -> Result<Vec<Product>>;
    /// Puts a product up for sale, or replaces it.
    async fn put_product(&self, product: &Product) -> Result<()>;
    /// Keeps an order that waits for its payment.
    async fn add_order(&self, order: &RechargeOrder) -> Result<()>;
    /// An order.
    async fn order(&self, order: i64) -> Result<Option<RechargeOrder>>;
    /// Credits an order, once, however often its payment is told. `payment` is the provider's id of it.
    async fn pay_order(&self, order: i64, payment: &str, price_minor: i64, currency: &str, now_ms: u64) -> Result<PayOutcome>;

    /// Looks over all accounts, entries and gifts. Gifts that have waited for being told since before `before_ms` are a finding.
    async fn reconcile(&self, before_ms: u64) -> Result<Reconciliation>;
}
