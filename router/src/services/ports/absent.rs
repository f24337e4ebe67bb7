//! Ports behind which there is nothing: for a router that holds rooms alone, in a simulation or a test.

use super::{
    RecordError, Result,
    money::{
        Balance, Gift, GiftId, GiftOutcome, Grant, GrantOutcome, Money, NewGift, PaidGift, PayOutcome, Product, RechargeOrder,
        Reconciliation, Till,
    },
    people::{People, Segment, Tags},
};
use async_trait::async_trait;
use billfish_state::{AppId, RoomId, UserId};
use tokio::sync::oneshot;

/// Neither money nor people: whoever asks is told that the records are away. There is nothing to tell a room.
#[derive(Clone, Copy, Debug, Default)]
pub struct Absent;

fn absent<T>(what: &'static str) -> Result<T> {
    Err(RecordError::Away { what, cause: "this router has no such records".into() })
}

impl Till for Absent {
    fn submit(&self, _gift: NewGift) -> Result<oneshot::Receiver<Result<GiftOutcome>>> {
        absent("paying a gift")
    }

    fn told(&self, _gifts: &[(RoomId, i64)]) {}
}

#[async_trait]
impl Money for Absent {
    async fn pay_gifts(&self, _gifts: &[NewGift], _now_ms: u64) -> Result<Vec<GiftOutcome>> {
        absent("paying gifts")
    }

    async fn paid(&self, _app: AppId, _sender: UserId, _uuid: &str) -> Result<Option<PaidGift>> {
        absent("reading a gift")
    }

    async fn untold(&self, _room: RoomId, _limit: usize) -> Result<Vec<PaidGift>> {
        Ok(Vec::new())
    }

    async fn rooms_to_tell(&self, _before_ms: u64, _limit: usize) -> Result<Vec<RoomId>> {
        Ok(Vec::new())
    }

    async fn told(&self, _gifts: &[(RoomId, i64)]) -> Result<()> {
        absent("taking gifts out of the outbox")
    }

    async fn pk_gifts(&self, _room: RoomId, _after_seq: i64, _limit: usize) -> Result<Vec<PaidGift>> {
        absent("reading PK gifts")
    }

    async fn last_gift(&self, _room: RoomId) -> Result<i64> {
        absent("reading the last gift")
    }

    async fn gifts(&self) -> Result<Vec<Gift>> {
        absent("reading the catalogue")
    }

    async fn put_gift(&self, _gift: &Gift) -> Result<()> {
        absent("storing a gift")
    }

    async fn remove_gift(&self, _gift: GiftId) -> Result<()> {
        absent("removing a gift")
    }

    async fn balance(&self, _app: AppId, _user: UserId) -> Result<Balance> {
        absent("reading a balance")
    }

    async fn grant(&self, _grants: &[Grant], _now_ms: u64) -> Result<Vec<GrantOutcome>> {
        absent("giving coins")
    }

    async fn products(&self) -> Result<Vec<Product>> {
        absent("reading products")
    }

    async fn put_product(&self, _product: &Product) -> Result<()> {
        absent("storing a product")
    }

    async fn add_order(&self, _order: &RechargeOrder) -> Result<()> {
        absent("storing an order")
    }

    async fn order(&self, _order: i64) -> Result<Option<RechargeOrder>> {
        absent("reading an order")
    }

    async fn pay_order(&self, _order: i64, _payment: &str, _price_minor: i64, _currency: &str, _now_ms: u64) -> Result<PayOutcome> {
        absent("crediting an order")
    }

    async fn reconcile(&self, _before_ms: u64) -> Result<Reconciliation> {
        absent("looking over the ledger")
    }
}

#[async_trait]
impl People for Absent {
    async fn user_of_phone(&self, _app: AppId, _phone: &str) -> Result<Option<UserId>> {
        absent("reading the user of a phone")
    }

    async fn add_user(&self, _app: AppId, _phone: &str, _user: UserId, _now_ms: u64) -> Result<UserId> {
        absent("storing a user")
    }

    async fn take_segment(&self, _sequence: &'static str) -> Result<Option<Segment>> {
        absent("taking ids")
    }

    async fn tags(&self, _app: AppId, _user: UserId) -> Result<Tags> {
        absent("reading tags")
    }

    async fn change_tags(&self, _app: AppId, _user: UserId, _set: Tags, _lift: Tags) -> Result<Tags> {
        absent("changing tags")
    }
}
