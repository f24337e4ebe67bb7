//! Gifts: what may be given, to whom, how often, and how the room hears of it.
//!
//! - Names, prices and effects are the catalogue's; what a client says of them is compared or not read.
//! - A refusal stands before any debit. What was paid is paid: nothing here undoes it.
//! - Rate limits fail closed: without the state store nobody gives.

pub(crate) mod catalogue;
pub(crate) mod combos;

use crate::{
    Refusal,
    bug::{self, Bug},
    services::{
        Outgoing, is_room, is_user,
        ports::{
            RoomRecord,
            money::{Gift, GiftId, GiftKind, PaidGift, PkSide},
        },
    },
};
use billfish_state::{AppId, PkBar, PkWinner, RateWindows, RoomId, UserId, WindowHit, WindowVerdict};
use billfish_wire::{BizCode, Class, Reason, limits};
use serde::{Deserialize, Serialize};

/// Most of one gift in one go.
pub(crate) const NUM_MAX: i64 = 9_999;
/// A PK gift moves the bar by its price divided by this.
const PRICE_PER_STEP: i64 = 10;

/// A gift whose form is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GiftRequest {
    pub(crate) gift: GiftId,
    pub(crate) receiver: UserId,
    pub(crate) kind: GiftKind,
    /// The sender's own id of it.
    pub(crate) uuid: String,
    pub(crate) num: i64,
    /// What the sender was shown as the price of one; none: he takes what it is.
    pub(crate) price: Option<i64>,
    /// Ties taps together; may be empty.
    pub(crate) combo: String,
}

/// What comes up.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Up {
    gift_id: i64,
    receiver_id: i64,
    #[serde(rename = "type", default)]
    kind: i64,
    uuid: String,
    #[serde(default)]
    room_id: Option<i64>,
    #[serde(default)]
    num: Option<i64>,
    #[serde(default)]
    price: Option<i64>,
    #[serde(default)]
    combo_id: Option<String>,
}

/// Reads `data` of a GIFT_SEND. `frame_room` is the frame's own `roomId`, 0 for none.
pub(crate) fn parse(data: &str, frame_room: i64) -> Result<(RoomId, GiftRequest), Refusal> {
    billfish_wire::body::check_json(data.as_bytes()).map_err(|error| malformed(&format!("data of a gift: {error}")))?;
    let up: Up = serde_json::from_str(data).map_err(|_| {
        malformed(
            "data of a gift is {giftId,receiverId,type,uuid,num,price,comboId}, numbers without a fraction; the last three may be left out",
        )
    })?;
    let room = match (up.room_id, frame_room) {
        (Some(room), 0) | (None, room) => RoomId(room),
        (Some(room), frame) if room == frame => RoomId(room),
        (Some(_), _) => return Err(malformed("roomId of the frame and of its data differ")),
    };
    let kind = match up.kind {
        0 => GiftKind::Normal,
        1 => GiftKind::Pk,
        _ => return Err(malformed("type of a gift is 0 (normal) or 1 (PK)")),
    };
    let request = GiftRequest {
        gift: GiftId(up.gift_id),
        receiver: UserId(up.receiver_id),
        kind,
        uuid: up.uuid,
        num: up.num.unwrap_or(1),
        price: up.price,
        combo: up.combo_id.unwrap_or_default(),
    };
    check(&request)?;
    if is_room(room) { Ok((room, request)) } else { Err(Refusal::new(Reason::RoomNotFound)) }
}

/// What holds wherever a gift comes from.
pub(crate) fn check(request: &GiftRequest) -> Result<(), Refusal> {
    let is_id = |text: &str| text.len() <= limits::ID_BYTES_MAX && !text.chars().any(char::is_control);
    if request.uuid.is_empty() || !is_id(&request.uuid) {
        return Err(malformed("uuid of a gift is 1 to 64 bytes without control characters"));
    }
    if !is_id(&request.combo) {
        return Err(malformed("comboId of a gift is at most 64 bytes without control characters"));
    }
    if !(1..=NUM_MAX).contains(&request.num) {
        return Err(malformed("num of a gift is 1 to 9999"));
    }
    if !is_user(request.receiver) {
        return Err(Refusal::new(Reason::NotAReceiver));
    }
    Ok(())
}

/// Highest price of one gift: what a gift of the most of them costs is still far from the end of the numbers.
const PRICE_MAX: i64 = 1_000_000_000;
/// Longest name, in characters.
const NAME_CHARS_MAX: usize = 64;
/// Longest address of a picture or effect.
const URL_BYTES_MAX: usize = 512;

/// Whether a gift can be sold.
pub(crate) fn check_new(gift: &Gift) -> Result<(), Refusal> {
    if !(1..=limits::ID_MAX).contains(&gift.gift.0) {
        return Err(malformed("giftId is 1 or above"));
    }
    if !(1..=PRICE_MAX).contains(&gift.price) {
        return Err(malformed("price is 1 to 1000000000 coins"));
    }
    let is_name = |text: &str| !text.trim().is_empty() && text.chars().nth(NAME_CHARS_MAX).is_none() && !text.chars().any(char::is_control);
    if !is_name(&gift.name) {
        return Err(malformed("name is 1 to 64 characters, none of them a control character"));
    }
    if [&gift.cover, &gift.url].into_iter().any(|url| url.len() > URL_BYTES_MAX || url.chars().any(char::is_control)) {
        return Err(malformed("cover and url are at most 512 bytes"));
    }
    Ok(())
}

fn malformed(detail: &str) -> Refusal {
    Refusal::because(Reason::Malformed, detail)
}

/// The price of one: the catalogue's, if the sender was shown no other.
pub(crate) fn price(gift: Option<&Gift>, request: &GiftRequest) -> Result<i64, Refusal> {
    let gift = gift.ok_or_else(|| Refusal::new(Reason::UnknownGift))?;
    if request.price.is_some_and(|shown| shown != gift.price) {
        return Err(Refusal::new(Reason::PriceChanged));
    }
    // A catalogue that is wrong costs nobody anything.
    match gift.price.checked_mul(request.num) {
        Some(1..) => Ok(gift.price),
        Some(_) | None => Err(malformed("the gifts cost more than there are coins; give fewer")),
    }
}

/// Whether a receiver may be given this in a room, and for a PK gift: whose it is. Gifts are for those who are on the stage.
pub(crate) fn side(room: &RoomRecord, pk: Option<&PkBar>, sender: UserId, request: &GiftRequest) -> Result<Option<PkSide>, Refusal> {
    let refused = |detail: &str| Err(Refusal::because(Reason::NotAReceiver, detail));
    if request.receiver == sender {
        return refused("nobody gives to himself");
    }
    let side = match request.receiver {
        anchor if anchor == room.anchor => PkSide::Anchor,
        challenger if pk.is_some_and(|pk| pk.challenger == challenger) => PkSide::Challenger,
        _ => return refused("gifts are for the anchor of the room and, in a PK, for the challenger"),
    };
    match request.kind {
        GiftKind::Normal => Ok(None),
        GiftKind::Pk if pk.is_some() => Ok(Some(side)),
        GiftKind::Pk => refused("there is no PK in this room now"),
    }
}

/// Whether what was paid is what is asked for now. Prices may have changed in between.
pub(crate) fn is_of(paid: &PaidGift, room: RoomId, request: &GiftRequest) -> bool {
    let asked = (room, request.receiver, request.gift, request.num, request.kind == GiftKind::Pk);
    let what = &paid.what;
    asked == (what.room, what.receiver, what.gift, what.num, what.pk.is_some())
}

/// How far a gift moves the bar, and which way.
pub(crate) fn step(gift: &PaidGift) -> Option<i64> {
    let far = gift.what.total()? / PRICE_PER_STEP + i64::from(bug::hits(Bug::MoveBarTooFar, &gift.what.uuid));
    Some(match gift.what.pk? {
        PkSide::Anchor => far,
        PkSide::Challenger => -far,
    })
}

/// How often one may give.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) gifts_max: u32,
    pub(crate) window_ms: u64,
}

/// One gift more of a user.
pub(crate) async fn within_rate(windows: &dyn RateWindows, rate: Rate, app: AppId, sender: UserId, now_ms: u64) -> Result<(), Refusal> {
    let hit = WindowHit { key: format!("gift:{app}:{sender}"), limit: rate.gifts_max, window_ms: rate.window_ms };
    match windows.hit(&[hit], now_ms).await?.first() {
        Some(WindowVerdict::Allowed) => Ok(()),
        Some(WindowVerdict::Refused { retry_after_ms }) => {
            Err(Refusal::because(Reason::RateLimited, "too many gifts, too fast; wait retryAfterMs").retry_after(*retry_after_ms))
        }
        None => Err(Refusal::unavailable()),
    }
}

/// What a room hears of gifts.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Down<'a> {
    gift_id: i64,
    url: &'a str,
    sender_id: i64,
    receiver_id: i64,
    num: i64,
    uuid: &'a str,
    gift_seq: i64,
    /// The places of all that this stands for, where it is more than one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gift_seqs: Vec<i64>,
    /// How many each of them was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nums: Vec<i64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    combo_id: &'a str,
    #[serde(flatten)]
    bar: Option<Bar>,
}

/// Where the bar stands, by the last gift that it is made of.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bar {
    pk_num: i32,
    send_gift_seq_num: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    winner_id: Option<i64>,
}

impl Bar {
    fn of(bar: &PkBar, anchor: UserId) -> Self {
        let winner_id = bar.winner.map(|winner| match winner {
            PkWinner::Anchor => anchor.0,
            PkWinner::Challenger => bar.challenger.0,
        });
        Self { pk_num: bar.value, send_gift_seq_num: bar.seq, winner_id }
    }
}

/// What the room hears of gifts that were paid: one, or taps of one combo. `None` without any.
pub(crate) fn paid(gifts: &[PaidGift], url: &str, bar: Option<&PkBar>, anchor: UserId) -> Option<Outgoing> {
    let first = gifts.first()?;
    let is_one = gifts.len() == 1;
    let bar = bar.filter(|_| first.what.pk.is_some()).map(|bar| Bar::of(bar, anchor));
    let down = Down {
        gift_id: first.what.gift.0,
        url,
        sender_id: first.what.sender.0,
        receiver_id: first.what.receiver.0,
        num: gifts.iter().map(|gift| gift.what.num).sum(),
        uuid: &first.what.uuid,
        gift_seq: first.gift_seq,
        gift_seqs: if is_one { Vec::new() } else { gifts.iter().map(|gift| gift.gift_seq).collect() },
        nums: if is_one { Vec::new() } else { gifts.iter().map(|gift| gift.what.num).collect() },
        combo_id: &first.what.combo,
        bar,
    };
    let data = serde_json::to_string(&down).expect("a struct of texts and numbers is JSON");
    let biz_code = if first.what.pk.is_some() { BizCode::PK_GIFT } else { BizCode::GIFT_OK };
    Some(Outgoing { acknowledged: true, ..Outgoing::new(biz_code, Class::Event, data) })
}

/// The places of the gifts that a push stands for, by its body; none: it is about something else.
pub(crate) fn places(body: &[u8]) -> Vec<i64> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shown {
        gift_seq: i64,
        #[serde(default)]
        gift_seqs: Vec<i64>,
    }
    let is_gift = |body: &billfish_wire::Body| [BizCode::GIFT_OK.0, BizCode::PK_GIFT.0].map(Some).contains(&body.biz_code);
    let body: Option<billfish_wire::Body> = serde_json::from_slice(body).ok().filter(is_gift);
    let shown = body.and_then(|body| serde_json::from_str::<Shown>(body.data.as_deref()?).ok());
    match shown {
        Some(Shown { gift_seqs, .. }) if !gift_seqs.is_empty() => gift_seqs,
        Some(Shown { gift_seq, .. }) => vec![gift_seq],
        None => Vec::new(),
    }
}

/// What the sender hears of a gift that was not paid.
#[derive(Serialize)]
struct Failed<'a> {
    uuid: &'a str,
    code: i32,
    msg: &'a str,
}

/// The `data` of a GIFT_FAIL; `None` where it is not final: the sender asks again by the same `uuid`.
pub(crate) fn failed(uuid: &str, refusal: &Refusal) -> Option<String> {
    let is_final = !matches!(refusal.reason, Reason::Unavailable | Reason::RateLimited | Reason::Internal);
    let code = refusal.reason.number().filter(|_| is_final)?;
    Some(serde_json::to_string(&Failed { uuid, code, msg: &refusal.detail }).expect("a struct of texts and numbers is JSON"))
}

/// The key of the bar among the states of a PK room.
pub(crate) const PK_KEY: &str = "pk";

/// The bar as a state of its room.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PkState {
    anchor_id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pk_obj_id: Option<i64>,
    #[serde(flatten)]
    bar: Bar,
    is_over: bool,
}

/// The state push of a bar; with `ended`, of a PK that is no more.
pub(crate) fn bar_state(bar: &PkBar, anchor: UserId, ended: bool) -> Outgoing {
    let shown = if ended { PkBar { value: PkBar::START, winner: None, ..*bar } } else { *bar };
    let state = PkState {
        anchor_id: anchor.0,
        pk_obj_id: (!ended).then_some(bar.challenger.0),
        bar: Bar::of(&shown, anchor),
        is_over: shown.winner.is_some(),
    };
    let data = serde_json::to_string(&state).expect("a struct of numbers is JSON");
    Outgoing { key: Some(PK_KEY.to_owned()), ..Outgoing::new(BizCode::PK_GIFT, Class::Event, data) }
}

/// The PK that a state push shows to be on; `None`: none is, or it cannot be read.
pub(crate) fn shown_bar(body: &str) -> Option<PkBar> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shown {
        pk_obj_id: i64,
        send_gift_seq_num: i64,
    }
    let body: billfish_wire::Body = serde_json::from_str(body).ok()?;
    let Shown { pk_obj_id, send_gift_seq_num } = serde_json::from_str(body.data.as_deref()?).ok()?;
    Some(PkBar { seq: send_gift_seq_num, ..PkBar::begin(UserId(pk_obj_id), send_gift_seq_num) })
}

/// What the room hears of a challenger.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Online<'a> {
    pk_obj_id: i64,
    pk_obj_avatar: &'a str,
}

/// The push that somebody challenges the anchor.
pub(crate) fn online(challenger: UserId, avatar: &str) -> Outgoing {
    let data = serde_json::to_string(&Online { pk_obj_id: challenger.0, pk_obj_avatar: avatar }).expect("a struct of texts is JSON");
    Outgoing { acknowledged: true, ..Outgoing::new(BizCode::PK_ONLINE, Class::Event, data) }
}

#[cfg(test)]
mod tests;
