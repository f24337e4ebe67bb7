//! The money in the ledger: [`Money`] in SQL. What moves money stands in `gifts` and `recharge`; here are the lists and the way to them.

use super::{Ledger, accounts::AccountKind, database::params, reconcile};
use crate::services::ports::{
    Result,
    money::{
        Balance, Gift, GiftId, GiftOutcome, Grant, GrantOutcome, Money, NewGift, PaidGift, PayOutcome, Product, ProductId, RechargeOrder,
        Reconciliation,
    },
};
use async_trait::async_trait;
use billfish_state::{AppId, RoomId, UserId};

#[async_trait]
impl Money for Ledger {
    async fn pay_gifts(&self, gifts: &[NewGift], now_ms: u64) -> Result<Vec<GiftOutcome>> {
        self.pay(gifts, &[], now_ms, self.call_timeout).await
    }

    async fn paid(&self, app: AppId, sender: UserId, uuid: &str) -> Result<Option<PaidGift>> {
        self.gift_of(app, sender, uuid).await
    }

    async fn untold(&self, room: RoomId, limit: usize) -> Result<Vec<PaidGift>> {
        self.untold_gifts(room, limit).await
    }

    async fn rooms_to_tell(&self, before_ms: u64, limit: usize) -> Result<Vec<RoomId>> {
        self.rooms_with_untold_gifts(before_ms, limit).await
    }

    async fn told(&self, gifts: &[(RoomId, i64)]) -> Result<()> {
        self.pay(&[], gifts, 0, self.call_timeout).await.map(drop)
    }

    async fn pk_gifts(&self, room: RoomId, after_seq: i64, limit: usize) -> Result<Vec<PaidGift>> {
        self.pk_gifts_of(room, after_seq, limit).await
    }

    async fn last_gift(&self, room: RoomId) -> Result<i64> {
        self.last_gift_of(room).await
    }

    async fn gifts(&self) -> Result<Vec<Gift>> {
        const READ: &str = "SELECT id, gift_name, price, cover_img, url FROM t_gift_config ORDER BY id";
        let rows: Vec<(i64, String, i64, String, String)> = self.rows("reading the gifts", READ, &[]).await?;
        let gift = |(id, name, price, cover, url)| Gift { gift: GiftId(id), name, price, cover, url };
        Ok(rows.into_iter().map(gift).collect())
    }

    async fn put_gift(&self, gift: &Gift) -> Result<()> {
        const PUT: &str = "REPLACE INTO t_gift_config (id, gift_name, price, cover_img, url) VALUES (?, ?, ?, ?, ?)";
        let Gift { gift, name, price, cover, url } = gift;
        self.execute("storing a gift", PUT, params![gift.0, name, *price, cover, url]).await.map(drop)
    }

    async fn remove_gift(&self, gift: GiftId) -> Result<()> {
        const REMOVE: &str = "DELETE FROM t_gift_config WHERE id = ?";
        self.execute("removing a gift", REMOVE, params![gift.0]).await.map(drop)
    }

    async fn balance(&self, app: AppId, user: UserId) -> Result<Balance> {
        const READ: &str = "SELECT kind, balance FROM t_account WHERE app_id = ? AND kind IN (1, 2) AND user_id = ?";
        let rows: Vec<(i64, i64)> = self.rows("reading a balance", READ, params![app.0, user.0]).await?;
        let of = |kind: AccountKind| rows.iter().find(|(number, _)| *number == kind.number()).map_or(0, |(_, balance)| *balance);
        Ok(Balance { coins: of(AccountKind::Coins), beans: of(AccountKind::Beans) })
    }

    async fn grant(&self, grants: &[Grant], now_ms: u64) -> Result<Vec<GrantOutcome>> {
        self.give(grants, now_ms).await
    }

    async fn products(&self) -> Result<Vec<Product>> {
        const READ: &str = "SELECT id, product_name, price_minor, currency, coins FROM t_recharge_product ORDER BY id";
        let rows: Vec<(i64, String, i64, String, i64)> = self.rows("reading the products", READ, &[]).await?;
        let product = |(id, name, price_minor, currency, coins)| Product { product: ProductId(id), name, price_minor, currency, coins };
        Ok(rows.into_iter().map(product).collect())
    }

    async fn put_product(&self, product: &Product) -> Result<()> {
        const PUT: &str = "REPLACE INTO t_recharge_product (id, product_name, price_minor, currency, coins) VALUES (?, ?, ?, ?, ?)";
        let Product { product, name, price_minor, currency, coins } = product;
        self.execute("storing a product", PUT, params![product.0, name, *price_minor, currency, *coins]).await.map(drop)
    }

    async fn add_order(&self, order: &RechargeOrder) -> Result<()> {
        self.put_order(order).await
    }

    async fn order(&self, order: i64) -> Result<Option<RechargeOrder>> {
        self.order_of(order).await
    }

    async fn pay_order(&self, order: i64, payment: &str, price_minor: i64, currency: &str, now_ms: u64) -> Result<PayOutcome> {
        self.credit_order(order, payment, price_minor, currency, now_ms).await
    }

    async fn reconcile(&self, before_ms: u64) -> Result<Reconciliation> {
        reconcile::look(self, before_ms).await
    }
}
