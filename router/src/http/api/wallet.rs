//! Wallets and recharges.
//!
//! A recharge is an order that waits, and a callback of whoever was paid. The callback is signed, says what was paid and for which order, and may
//! come as often as it likes: it is credited once.

use super::Api;
use crate::{
    handle::Payment,
    http::{
        auth::{Caller, Session},
        idempotency::CallId,
        input::{App, Body, Query, User, body_refused, read_json},
        problem::{Problem, ProblemCode, Result},
    },
    services::ports::money::{OrderState, PayOutcome, ProductId, RechargeOrder},
    signature,
};
use axum::{
    Extension, Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
};
use billfish_state::SessionOwner;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WalletQuery {
    /// With a user's session: the session's; another one is refused.
    #[param(value_type = Option<App>)]
    app_id: Option<App>,
    /// With the API key: whose wallet. With a user's session it is that user's, and may be left out.
    #[param(value_type = Option<User>)]
    user_id: Option<User>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WalletAnswer {
    /// What the user can spend.
    #[schema(minimum = 0, example = 60)]
    coins: i64,
    /// What the user has been given.
    #[schema(minimum = 0, example = 0)]
    beans: i64,
}

/// What a user has.
#[utoipa::path(get, path = "/v1/wallet", tag = "wallet", params(WalletQuery), responses((status = 200, body = WalletAnswer)))]
pub(crate) async fn wallet(State(api): State<Api>, caller: Caller, Query(query): Query<WalletQuery>) -> Result<Json<WalletAnswer>> {
    let owner = SessionOwner { app: caller.app(query.app_id)?, user: caller.user(query.user_id, "userId")? };
    let balance = api.parts.handle.balance(owner).await?;
    Ok(Json(WalletAnswer { coins: balance.coins, beans: balance.beans }))
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RechargeProduct {
    #[schema(example = 1)]
    product_id: i64,
    #[schema(example = "60 coins")]
    name: String,
    /// In the smallest unit of the currency.
    #[schema(minimum = 1, example = 600)]
    price_minor: i64,
    /// ISO 4217.
    #[schema(example = "CNY")]
    currency: String,
    /// What it gives.
    #[schema(minimum = 1, example = 60)]
    coins: i64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProductsAnswer {
    /// By id.
    products: Vec<RechargeProduct>,
}

/// What can be bought with money of the world outside.
#[utoipa::path(get, path = "/v1/recharge/products", tag = "wallet", responses((status = 200, body = ProductsAnswer)))]
pub(crate) async fn products(State(api): State<Api>) -> Result<Json<ProductsAnswer>> {
    let products = api.parts.handle.products().await?;
    let products = products
        .into_iter()
        .map(|product| RechargeProduct {
            product_id: product.product.0,
            name: product.name,
            price_minor: product.price_minor,
            currency: product.currency,
            coins: product.coins,
        })
        .collect();
    Ok(Json(ProductsAnswer { products }))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OrderRequest {
    /// The session's; another one is refused.
    app_id: Option<App>,
    #[schema(example = 1)]
    product_id: i64,
    /// Makes the call safe to repeat, as the header `Idempotency-Key` does. One of the two must be there.
    #[expect(dead_code, reason = "read by the layer that answers repeats")]
    uuid: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Order {
    #[schema(example = "1000000")]
    order_id: String,
    app_id: App,
    user_id: User,
    #[schema(example = 1)]
    product_id: i64,
    /// What it gives.
    #[schema(minimum = 1, example = 60)]
    coins: i64,
    /// What is to be paid, in the smallest unit of the currency.
    #[schema(minimum = 1, example = 600)]
    price_minor: i64,
    /// ISO 4217.
    #[schema(example = "CNY")]
    currency: String,
    state: PaidState,
    /// Unix ms.
    #[schema(example = 1800000000000_u64)]
    made_time: u64,
}

/// Whether an order is paid.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = OrderState)]
pub(crate) enum PaidState {
    Waiting,
    Paid,
}

impl From<RechargeOrder> for Order {
    fn from(order: RechargeOrder) -> Self {
        let state = match order.state {
            OrderState::Waiting => PaidState::Waiting,
            OrderState::Paid => PaidState::Paid,
        };
        Self {
            order_id: order.order.to_string(),
            app_id: order.app.into(),
            user_id: order.user.into(),
            product_id: order.product.0,
            coins: order.coins,
            price_minor: order.price_minor,
            currency: order.currency,
            state,
            made_time: order.made_ms,
        }
    }
}

/// Orders a product. It waits for its payment; `orderId` is what the provider is to tell back.
#[utoipa::path(post, path = "/v1/recharge/orders", tag = "wallet", request_body = OrderRequest, responses((status = 201, body = Order)))]
pub(crate) async fn order(
    State(api): State<Api>,
    session: Session,
    call: Option<Extension<CallId>>,
    Body(request): Body<OrderRequest>,
) -> Result<(StatusCode, Json<Order>)> {
    session.must_be_of(request.app_id)?;
    api.payments()?;
    if call.is_none() {
        return Err(
            Problem::new(ProblemCode::Malformed, "send a uuid of this order, so that it is ordered once however often you ask").at("uuid")
        );
    }
    let ordered = api.parts.handle.order_recharge(session.owner(), ProductId(request.product_id)).await?;
    let Some(order) = ordered else {
        let detail = format!("there is no product {}; GET /v1/recharge/products tells which there are", request.product_id);
        return Err(Problem::new(ProblemCode::ProductNotFound, detail).at("productId"));
    };
    let order = api.pay_at_once(order).await?;
    Ok((StatusCode::CREATED, Json(order.into())))
}

#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CallbackRequest {
    /// As the order's answer had it.
    #[schema(example = "1000000")]
    order_id: String,
    /// The provider's own id of the payment, 1 to 64 visible ASCII characters.
    #[schema(example = "pay-1")]
    payment_id: String,
    /// What was paid, in the smallest unit of the currency.
    #[schema(minimum = 1, example = 600)]
    price_minor: i64,
    /// ISO 4217.
    #[schema(example = "CNY")]
    currency: String,
}

/// Tells that an order was paid. Signed with `http.recharge.secret`: the header `X-Billfish-Signature` is `t=<Unix second>,v1=<hex of the
/// HMAC-SHA256 over the second, a dot and the body>`, not older than 5 minutes. The same payment may be told again, and gets the same answer.
#[utoipa::path(post, path = "/v1/recharge/callback", tag = "wallet", request_body = CallbackRequest,
    params(("X-Billfish-Signature" = String, Header, description = "Over the time and the body, as t=1800000000,v1=00112233…")),
    responses((status = 200, body = Order)))]
pub(crate) async fn callback(
    State(api): State<Api>,
    headers: HeaderMap,
    body: std::result::Result<Bytes, BytesRejection>,
) -> Result<Json<Order>> {
    let body = body.map_err(body_refused)?;
    let mut sent = headers.get_all(signature::HEADER).iter();
    let header = match (sent.next(), sent.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    };
    Ok(Json(api.settle(header, &body).await?.into()))
}

impl Api {
    /// What callbacks are signed with, if anybody is paid here.
    fn payments(&self) -> Result<&signature::SigningKey> {
        self.payments.as_ref().ok_or_else(|| {
            Problem::new(ProblemCode::NotConfigured, "nothing can be bought here: neither `http.recharge.secret` nor a provider is set")
        })
    }

    /// Credits what a signed body says was paid.
    async fn settle(&self, header: Option<&str>, body: &[u8]) -> Result<RechargeOrder> {
        let handle = &self.parts.handle;
        self.payments()?.verify(header, body, handle.now_ms() / 1_000).map_err(|not_signed| {
            handle.metrics().recharged("not_signed");
            Problem::new(ProblemCode::BadSignature, not_signed.to_string()).at("X-Billfish-Signature")
        })?;
        let told: CallbackRequest = read_json(true, body)?;
        let payment = Payment {
            order: order_number(&told.order_id)?,
            payment: told.payment_id,
            price_minor: told.price_minor,
            currency: told.currency,
        };
        match handle.pay_recharge(&payment).await? {
            PayOutcome::Credited(order) | PayOutcome::Repeated(order) => Ok(order),
            PayOutcome::Conflict => Err(Problem::new(
                ProblemCode::PaymentConflict,
                "another sum or currency than the order's, an order that another payment has paid, or a payment that has paid another order",
            )),
            PayOutcome::NoOrder => Err(Problem::new(ProblemCode::OrderNotFound, "there is no order of this id").at("orderId")),
        }
    }

    /// Where nobody is paid, an order is: by the callback that a provider would make.
    async fn pay_at_once(&self, order: RechargeOrder) -> Result<RechargeOrder> {
        if !self.pays_at_once {
            return Ok(order);
        }
        let told = CallbackRequest {
            order_id: order.order.to_string(),
            payment_id: format!("development-{}", order.order),
            price_minor: order.price_minor,
            currency: order.currency,
        };
        let body = serde_json::to_vec(&told).map_err(|_| Problem::internal())?;
        let signature = self.payments()?.sign(&body, self.parts.handle.now_ms() / 1_000);
        self.settle(Some(&signature), &body).await
    }
}

fn order_number(text: &str) -> Result<i64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| plain);
    number.ok_or_else(|| Problem::new(ProblemCode::Malformed, "orderId must be the digits that the order's answer had").at("orderId"))
}
