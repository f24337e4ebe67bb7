//! Gifts and the bar of a PK: what an app gives and hears, and its form on the wire.
//!
//! - What a gift is paid with, and whether it is, the server knows. Here is no price but the one the giver was shown.
//! - [`giving`]: gifts on their way, until they are paid or refused. [`stage`]: what of a room was shown, so that nothing is shown twice.

pub(crate) mod giving;
mod spans;
pub(crate) mod stage;

use billfish_session::client::{CallError, Message};
use billfish_wire::{
    BizCode, Body, Reason,
    limits::{ID_BYTES_MAX, ID_MAX, USER_ID_MIN},
};
use serde::{Deserialize, Serialize};

/// Most of one gift in one go; the server takes no more.
const NUM_MAX: i64 = 9_999;

/// What is given to whom: see [`crate::Client::send_gift`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gift {
    /// Of the catalogue, `GET /v1/gifts`.
    pub gift_id: i64,
    /// The anchor of the room or, in a PK, the challenger.
    pub receiver_id: i64,
    /// Whether it moves the bar.
    pub kind: GiftKind,
    /// 1 to 9999.
    pub num: i64,
    /// The price of one that the giver was shown: at another one nothing is paid. `None`: whatever it is.
    pub price: Option<i64>,
    /// Ties taps together, at most 64 bytes: those within 300 ms are shown as one.
    pub combo: Option<String>,
}

impl Gift {
    /// One gift outside a PK, at whatever it costs.
    #[must_use]
    pub fn new(gift_id: i64, receiver_id: i64) -> Self {
        Self { gift_id, receiver_id, kind: GiftKind::Normal, num: 1, price: None, combo: None }
    }

    /// The message that gives it, under its id.
    pub(crate) fn message(&self, room_id: i64, uuid: String) -> Result<Message, CallError> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Up<'a> {
            gift_id: i64,
            receiver_id: i64,
            r#type: i64,
            uuid: &'a str,
            num: i64,
            #[serde(skip_serializing_if = "Option::is_none")]
            price: Option<i64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            combo_id: Option<&'a str>,
        }
        let is_id = |text: &str| text.len() <= ID_BYTES_MAX && !text.chars().any(char::is_control);
        let checks = [
            ((1..=ID_MAX).contains(&room_id), "roomId"),
            ((1..=ID_MAX).contains(&self.gift_id), "giftId"),
            ((USER_ID_MIN..=ID_MAX).contains(&self.receiver_id), "receiverId"),
            ((1..=NUM_MAX).contains(&self.num), "num"),
            (self.combo.as_deref().is_none_or(is_id), "comboId"),
            (!uuid.is_empty() && is_id(&uuid), "uuid"),
        ];
        if let Some((_, field)) = checks.into_iter().find(|(holds, _)| !holds) {
            return Err(CallError::OutOfRange { field });
        }
        let up = Up {
            gift_id: self.gift_id,
            receiver_id: self.receiver_id,
            r#type: match self.kind {
                GiftKind::Normal => 0,
                GiftKind::Pk => 1,
            },
            uuid: &uuid,
            num: self.num,
            price: self.price,
            combo_id: self.combo.as_deref(),
        };
        let data = serde_json::to_string(&up).expect("a struct of texts and numbers is JSON");
        Ok(Message { room_id: Some(room_id), biz_code: BizCode::GIFT_SEND.0, data, msg_id: Some(uuid) })
    }
}

/// What a gift is beside a gift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GiftKind {
    /// Nothing.
    #[default]
    Normal,
    /// It moves the bar of the room's PK: towards the anchor when the anchor gets it, and else towards the challenger.
    Pk,
}

/// Somebody has given something: paid, and told to the room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GiftEvent {
    /// Where.
    pub room_id: i64,
    /// What; its name is in the catalogue.
    pub gift_id: i64,
    /// Whether it is one of a PK.
    pub kind: GiftKind,
    /// Of its effect; may be empty.
    pub url: String,
    /// Who gives.
    pub sender_id: i64,
    /// Who gets it.
    pub receiver_id: i64,
    /// How many, of all taps that were not shown before.
    pub num: i64,
    /// What ties taps together.
    pub combo: Option<String>,
    /// The sender's own id of it, which is what [`crate::Client::send_gift`] gave; of several taps the first one's, and `None` where that
    /// one was shown before.
    pub uuid: Option<String>,
    /// The places, among all gifts of the room, of the taps that are shown: no place is shown twice. Empty where the server names none.
    pub gift_seqs: Vec<i64>,
    /// Its place among the messages of the room.
    pub seq: Option<i64>,
    /// When the server told it, Unix ms.
    pub ts_ms: i64,
    /// Where the bar of the PK stands by now, unless something newer was told. If it has moved an [`crate::Event::PkBar`] follows.
    pub pk: Option<PkBar>,
}

/// The bar of a PK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PkBar {
    /// At the end of 100.
    pub anchor_id: i64,
    /// At the end of 0. `None`: the PK is no more, and there is no bar to be drawn.
    pub challenger_id: Option<i64>,
    /// 0 to 100; a PK begins at 50.
    pub value: i32,
    /// Up to which gift of the room; never falls, not even for another challenger.
    pub seq: i64,
    /// Who has brought it to the own end.
    pub winner_id: Option<i64>,
    /// Gifts do not move it any more. They are paid and shown.
    pub is_over: bool,
}

/// The key of the bar among the states of a room.
const PK_KEY: &str = "pk";
/// Where the bar ends.
const TOP: i32 = 100;

/// A gift as a room hears of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GiftDown {
    gift_id: i64,
    #[serde(default)]
    url: String,
    sender_id: i64,
    receiver_id: i64,
    num: i64,
    #[serde(default)]
    uuid: Option<String>,
    #[serde(default)]
    gift_seq: Option<i64>,
    #[serde(default)]
    gift_seqs: Vec<i64>,
    #[serde(default)]
    nums: Vec<i64>,
    #[serde(default)]
    combo_id: Option<String>,
}

impl GiftDown {
    fn read(data: &str) -> Option<Self> {
        let down: Self = serde_json::from_str(data).ok()?;
        (down.gift_seqs.len() == down.nums.len()).then_some(down)
    }

    /// Place and number of each tap; none where the server names no place.
    fn taps(&self) -> Vec<(i64, i64)> {
        if self.gift_seqs.is_empty() {
            return self.gift_seq.map(|seq| (seq, self.num)).into_iter().collect();
        }
        self.gift_seqs.iter().copied().zip(self.nums.iter().copied()).collect()
    }
}

/// Where a gift has brought the bar. Whose bar it is the state says.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BarDown {
    pk_num: i32,
    send_gift_seq_num: i64,
    #[serde(default)]
    winner_id: Option<i64>,
}

impl BarDown {
    fn read(data: &str) -> Option<Self> {
        let down: Self = serde_json::from_str(data).ok()?;
        (0..=TOP).contains(&down.pk_num).then_some(down)
    }
}

impl PkBar {
    /// The bar as a state of its room.
    fn read(data: &str) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Down {
            anchor_id: i64,
            #[serde(default)]
            pk_obj_id: Option<i64>,
            pk_num: i32,
            send_gift_seq_num: i64,
            #[serde(default)]
            winner_id: Option<i64>,
            #[serde(default)]
            is_over: bool,
        }
        let Down { anchor_id, pk_obj_id, pk_num, send_gift_seq_num, winner_id, is_over } = serde_json::from_str(data).ok()?;
        let bar = Self { anchor_id, challenger_id: pk_obj_id, value: pk_num, seq: send_gift_seq_num, winner_id, is_over };
        (0..=TOP).contains(&pk_num).then_some(bar)
    }
}

/// Somebody challenges the anchor.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OnlineDown {
    pk_obj_id: i64,
    #[serde(default)]
    pk_obj_avatar: String,
}

/// A gift was not paid, and never will be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) uuid: Option<String>,
    pub(crate) reason: Reason,
    pub(crate) msg: String,
}

impl Failure {
    /// What a GIFT_FAIL says; `None`: it is none, or cannot be read.
    pub(crate) fn read(body: &Body) -> Option<Self> {
        #[derive(Deserialize)]
        struct Down {
            #[serde(default)]
            uuid: Option<String>,
            #[serde(default)]
            code: Option<i32>,
            #[serde(default)]
            msg: Option<String>,
        }
        if body.biz_code != Some(BizCode::GIFT_FAIL.0) {
            return None;
        }
        let Down { uuid, code, msg } = serde_json::from_str(body.data.as_deref()?).ok()?;
        let reason = code.and_then(Reason::from_number).unwrap_or(Reason::Internal);
        Some(Self { uuid, reason, msg: msg.unwrap_or_default() })
    }
}

/// The giver's id in a GIFT_SEND that the app has written itself.
pub(crate) fn uuid_of(message: &Message) -> Option<String> {
    #[derive(Deserialize)]
    struct Up {
        uuid: String,
    }
    if message.biz_code != BizCode::GIFT_SEND.0 {
        return None;
    }
    serde_json::from_str::<Up>(&message.data).ok().map(|up| up.uuid)
}

#[cfg(test)]
mod tests {
    use super::{Failure, Gift, GiftKind, PkBar, uuid_of};
    use billfish_session::client::CallError;
    use billfish_wire::{Body, Reason};

    #[test]
    fn a_gift_goes_up_under_its_id_and_says_no_more_than_it_must() {
        let message = Gift::new(3, 90_001).message(7, "u-1".to_owned()).unwrap();
        assert_eq!((message.room_id, message.biz_code, message.msg_id.as_deref()), (Some(7), 5561, Some("u-1")));
        assert_eq!(message.data, r#"{"giftId":3,"receiverId":90001,"type":0,"uuid":"u-1","num":1}"#);
        assert_eq!(uuid_of(&message).as_deref(), Some("u-1"));
        let all = Gift { kind: GiftKind::Pk, num: 9_999, price: Some(10), combo: Some("c".to_owned()), ..Gift::new(3, 90_001) };
        let expected = r#"{"giftId":3,"receiverId":90001,"type":1,"uuid":"u","num":9999,"price":10,"comboId":"c"}"#;
        assert_eq!(all.message(7, "u".to_owned()).unwrap().data, expected);
    }

    #[test]
    fn what_the_server_would_not_read_is_refused_by_its_name() {
        let gift = || Gift::new(3, 90_001);
        let field = |room_id, gift: Gift, uuid: &str| match gift.message(room_id, uuid.to_owned()) {
            Err(CallError::OutOfRange { field }) => field,
            other => panic!("it was believed: {other:?}"),
        };
        assert_eq!(field(0, gift(), "u"), "roomId");
        assert_eq!(field(7, Gift { gift_id: 0, ..gift() }, "u"), "giftId");
        assert_eq!(field(7, Gift { receiver_id: 9_999, ..gift() }, "u"), "receiverId");
        for num in [0, -1, 10_000] {
            assert_eq!(field(7, Gift { num, ..gift() }, "u"), "num");
        }
        assert_eq!(field(7, Gift { combo: Some("c".repeat(65)), ..gift() }, "u"), "comboId");
        for uuid in ["", "a\nb", &"u".repeat(65)] {
            assert_eq!(field(7, gift(), uuid), "uuid");
        }
    }

    #[test]
    fn a_bar_outside_of_its_range_is_none() {
        let read =
            |num: i32| PkBar::read(&format!(r#"{{"anchorId":90001,"pkObjId":90002,"pkNum":{num},"sendGiftSeqNum":4,"isOver":false}}"#));
        assert_eq!(read(70).map(|bar| (bar.value, bar.seq, bar.challenger_id)), Some((70, 4, Some(90_002))));
        for num in [-1, 101] {
            assert_eq!(read(num), None);
        }
    }

    #[test]
    fn a_failure_is_read_with_what_it_says() {
        let fail = |data: &str| Failure::read(&Body { biz_code: Some(5557), data: Some(data.to_owned()), ..Body::default() });
        let expected = Failure { uuid: Some("u".to_owned()), reason: Reason::NotCovered, msg: "no".to_owned() };
        assert_eq!(fail(r#"{"uuid":"u","code":10012,"msg":"no"}"#), Some(expected));
        assert_eq!(fail(r#"{"msg":"no","code":4711}"#).map(|failure| (failure.uuid, failure.reason)), Some((None, Reason::Internal)));
        assert_eq!(fail("not json"), None);
        assert_eq!(Failure::read(&Body { biz_code: Some(5556), data: Some("{}".to_owned()), ..Body::default() }), None);
    }
}
