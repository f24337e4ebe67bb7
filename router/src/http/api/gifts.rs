//! Gifts and the bar of a PK.

use super::Api;
use crate::{
    handle::{GiftReceipt, PkView, SendGift},
    http::{
        auth::Caller,
        input::{App, Body, GiftPath, MaybeBody, Room, RoomPath, User},
        problem::{Problem, ProblemCode, Result},
    },
    services::ports::money::{self, GiftId, GiftKind},
};
use axum::{Json, extract::State, http::StatusCode};
use billfish_state::PkWinner;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Gift {
    gift_id: i64,
    name: String,
    /// Coins for one.
    price: i64,
    /// URL of a picture; may be empty.
    cover: String,
    /// URL of the effect that viewers see; may be empty.
    url: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GiftsAnswer {
    /// By rising id.
    gifts: Vec<Gift>,
}

/// The catalogue of gifts.
#[utoipa::path(get, path = "/v1/gifts", tag = "gifts", responses((status = 200, body = GiftsAnswer)))]
pub(crate) async fn gifts(State(api): State<Api>) -> Result<Json<GiftsAnswer>> {
    let gifts = api.parts.handle.gifts().await?;
    let gift = |gift: money::Gift| Gift { gift_id: gift.gift.0, name: gift.name, price: gift.price, cover: gift.cover, url: gift.url };
    Ok(Json(GiftsAnswer { gifts: gifts.into_iter().map(gift).collect() }))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct GiftBody {
    /// 1 to 64 characters.
    name: String,
    /// Coins for one.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    price: i64,
    /// URL of a picture, at most 512 bytes.
    #[serde(default)]
    cover: String,
    /// URL of the effect that viewers see, at most 512 bytes.
    #[serde(default)]
    url: String,
}

/// Puts a gift into the catalogue, or replaces it. Other routers sell it within five seconds; what was paid before stays as it was.
#[utoipa::path(put, path = "/v1/gifts/{id}", tag = "gifts", params(("id" = i64, Path, minimum = 1)), request_body = GiftBody,
    responses((status = 204)))]
pub(crate) async fn put_gift(State(api): State<Api>, GiftPath(gift): GiftPath, Body(body): Body<GiftBody>) -> Result<StatusCode> {
    let GiftBody { name, price, cover, url } = body;
    api.parts.handle.put_gift(&money::Gift { gift, name, price, cover, url }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a gift out of the catalogue; one that is not there is no error.
#[utoipa::path(delete, path = "/v1/gifts/{id}", tag = "gifts", params(("id" = i64, Path, minimum = 1)), responses((status = 204)))]
pub(crate) async fn remove_gift(State(api): State<Api>, GiftPath(gift): GiftPath) -> Result<StatusCode> {
    api.parts.handle.remove_gift(gift).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SendBody {
    #[schema(default = 10001)]
    app_id: Option<App>,
    /// Who pays. With a user's session it is that user, and may be left out.
    sender_id: Option<User>,
    room_id: Room,
    /// Who gets it: the anchor of the room, or the challenger of its PK.
    receiver_id: User,
    gift_id: i64,
    /// 0: a gift. 1: a PK gift, which moves the bar too.
    #[serde(rename = "type", default)]
    #[schema(minimum = 0, maximum = 1, default = 0)]
    kind: i64,
    /// The sender's own id of it, 1 to 64 bytes: for ever, sent again it is not paid again.
    uuid: String,
    /// How many.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 9999, default = 1)]
    num: i64,
    /// The price of one that the sender was shown: another one is refused. Left out: whatever it is.
    price: Option<i64>,
    /// Ties taps together: those within 300 ms are shown as one. At most 64 bytes.
    #[serde(default)]
    combo_id: String,
}

const fn one() -> i64 {
    1
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SendAnswer {
    /// Its place among the gifts of the room, from 1.
    gift_seq: i64,
    /// Coins that the sender has left; not there where an earlier call with the same `uuid` has paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    balance: Option<i64>,
}

/// Pays a gift: answered when it is committed. The room hears of it by itself. The sender must have joined the room.
#[utoipa::path(post, path = "/v1/gifts/send", tag = "gifts", request_body = SendBody, responses((status = 200, body = SendAnswer)))]
pub(crate) async fn send_gift(State(api): State<Api>, caller: Caller, Body(body): Body<SendBody>) -> Result<Json<SendAnswer>> {
    let kind = match body.kind {
        0 => GiftKind::Normal,
        1 => GiftKind::Pk,
        _ => return Err(Problem::new(ProblemCode::Malformed, "type is 0 (normal) or 1 (PK)").at("type")),
    };
    let gift = SendGift {
        app: caller.app(body.app_id)?,
        sender: caller.user(body.sender_id, "senderId")?,
        room: body.room_id.into(),
        receiver: body.receiver_id.into(),
        gift: GiftId(body.gift_id),
        kind,
        uuid: body.uuid,
        num: body.num,
        price: body.price,
        combo: body.combo_id,
    };
    let GiftReceipt { gift_seq, balance } = api.parts.handle.send_gift(gift).await?;
    Ok(Json(SendAnswer { gift_seq, balance }))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ChallengerBody {
    /// Who challenges the anchor. With a user's session it is that user, and may be left out.
    user_id: Option<User>,
}

/// A user challenges the anchor of a PK room that he has joined. Asked again it is no error.
#[utoipa::path(post, path = "/v1/rooms/{id}/pk/online", tag = "gifts", params(("id" = Room, Path)), request_body = Option<ChallengerBody>,
    responses((status = 204)))]
pub(crate) async fn pk_online(
    State(api): State<Api>,
    caller: Caller,
    RoomPath(room): RoomPath,
    MaybeBody(body): MaybeBody<ChallengerBody>,
) -> Result<StatusCode> {
    api.parts.handle.pk_online(caller.own_app(), room, caller.user(body.user_id, "userId")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The challenger leaves the PK: bar, sequence and winner go with him. Without a PK it is no error.
#[utoipa::path(post, path = "/v1/rooms/{id}/pk/offline", tag = "gifts", params(("id" = Room, Path)), request_body = Option<ChallengerBody>,
    responses((status = 204)))]
pub(crate) async fn pk_offline(
    State(api): State<Api>,
    caller: Caller,
    RoomPath(room): RoomPath,
    MaybeBody(body): MaybeBody<ChallengerBody>,
) -> Result<StatusCode> {
    api.parts.handle.pk_offline(caller.own_app(), room, caller.user(body.user_id, "userId")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PkAnswer {
    anchor_id: User,
    /// Whether somebody challenges the anchor; without one there is nothing below.
    online: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pk_obj_id: Option<User>,
    /// The bar: 100 is the anchor's end, 0 the challenger's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 100)]
    pk_num: Option<i32>,
    /// By which gift of the room; rises.
    #[serde(skip_serializing_if = "Option::is_none")]
    send_gift_seq_num: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    winner_id: Option<User>,
}

/// The PK of a room.
#[utoipa::path(get, path = "/v1/rooms/{id}/pk", tag = "gifts", params(("id" = Room, Path)), responses((status = 200, body = PkAnswer)))]
pub(crate) async fn pk(State(api): State<Api>, caller: Caller, RoomPath(room): RoomPath) -> Result<Json<PkAnswer>> {
    let PkView { anchor, bar } = api.parts.handle.pk(caller.own_app(), room).await?;
    let winner = |winner| match winner {
        PkWinner::Anchor => anchor,
        PkWinner::Challenger => bar.map_or(anchor, |bar| bar.challenger),
    };
    Ok(Json(PkAnswer {
        anchor_id: anchor.into(),
        online: bar.is_some(),
        pk_obj_id: bar.map(|bar| bar.challenger.into()),
        pk_num: bar.map(|bar| bar.value),
        send_gift_seq_num: bar.map(|bar| bar.seq),
        winner_id: bar.and_then(|bar| bar.winner).map(|who| winner(who).into()),
    }))
}
