//! The rules of gifts, one test each.

use super::{GiftRequest, bar_state, check_new, failed, online, paid, parse, price, side, step};
use crate::{
    Refusal,
    services::ports::{
        RoomKind, RoomRecord,
        money::{Gift, GiftId, GiftKind, NewGift, PaidGift, PkSide},
    },
};
use billfish_state::{AppId, PkBar, PkWinner, RoomId, UserId};
use billfish_wire::{BizCode, Class, Reason};
use serde_json::{Value, json};

const APP: AppId = AppId(10_001);
const ANCHOR: UserId = UserId(90_001);
const CHALLENGER: UserId = UserId(90_002);
const VIEWER: UserId = UserId(20_001);
const ROOM: RoomId = RoomId(7);

fn room(kind: RoomKind) -> RoomRecord {
    RoomRecord { room: ROOM, app: APP, anchor: ANCHOR, kind, name: String::new(), cover: String::new(), started_ms: 0 }
}

fn request(receiver: UserId, kind: GiftKind) -> GiftRequest {
    GiftRequest { gift: GiftId(1), receiver, kind, uuid: "u".to_owned(), num: 1, price: None, combo: String::new() }
}

fn gift(price: i64) -> Gift {
    Gift { gift: GiftId(1), name: "rose".to_owned(), price, cover: String::new(), url: "rose.svga".to_owned() }
}

fn paid_gift(gift_seq: i64, price: i64, num: i64, pk: Option<PkSide>) -> PaidGift {
    let what = NewGift {
        app: APP,
        sender: VIEWER,
        uuid: format!("u{gift_seq}"),
        room: ROOM,
        epoch: 1,
        receiver: ANCHOR,
        gift: GiftId(1),
        num,
        price,
        pk,
        combo: String::new(),
    };
    PaidGift { what, gift_seq, paid_ms: 0 }
}

fn reason<T: std::fmt::Debug>(result: Result<T, Refusal>) -> Reason {
    result.unwrap_err().reason
}

#[test]
fn a_gift_is_read_as_it_was_sent() {
    let (room, read) = parse(r#"{"giftId":1,"receiverId":90001,"type":1,"uuid":"u-1","num":3,"price":10,"comboId":"c"}"#, 7).unwrap();
    let expected = GiftRequest {
        gift: GiftId(1),
        receiver: ANCHOR,
        kind: GiftKind::Pk,
        uuid: "u-1".to_owned(),
        num: 3,
        price: Some(10),
        combo: "c".to_owned(),
    };
    assert_eq!((room, read), (ROOM, expected));
    let (room, read) = parse(r#"{"giftId":1,"roomId":7,"receiverId":90001,"type":0,"uuid":"u"}"#, 0).unwrap();
    assert_eq!((room, read), (ROOM, request(ANCHOR, GiftKind::Normal)), "what is left out is one gift, no price, no combo");
}

#[test]
fn amounts_that_cannot_be_are_refused_before_any_debit() {
    for (data, why) in [
        (r#"{"giftId":1,"receiverId":90001,"uuid":"u","num":0}"#, "zero"),
        (r#"{"giftId":1,"receiverId":90001,"uuid":"u","num":-1}"#, "negative"),
        (r#"{"giftId":1,"receiverId":90001,"uuid":"u","num":10000}"#, "above 9999"),
        (r#"{"giftId":1,"receiverId":90001,"uuid":"u","num":1.5}"#, "a fraction"),
        (r#"{"giftId":1,"receiverId":90001,"uuid":"u","num":1e2}"#, "an exponent"),
        (r#"{"giftId":1,"receiverId":90001,"uuid":"u","num":"3"}"#, "a text"),
        (r#"{"giftId":1,"receiverId":90001,"uuid":"u","num":9223372036854775808}"#, "beyond i64"),
        (r#"{"giftId":1.0,"receiverId":90001,"uuid":"u"}"#, "a gift that is no whole number"),
        (r#"{"giftId":1,"receiverId":90001,"uuid":""}"#, "no uuid"),
        (r#"{"giftId":1,"receiverId":90001}"#, "without uuid"),
        (r#"{"giftId":1,"receiverId":90001,"uuid":"u","type":2}"#, "another type"),
        (r#"{"giftId":1,"receiverId":90001,"uuid":"u","roomId":8}"#, "two rooms"),
        ("[]", "no object"),
        ("", "nothing"),
    ] {
        assert_eq!(reason(parse(data, 7)), Reason::Malformed, "{why}");
    }
    let long = format!(r#"{{"giftId":1,"receiverId":90001,"uuid":"{}"}}"#, "u".repeat(65));
    assert_eq!(reason(parse(&long, 7)), Reason::Malformed);
    assert!(parse(&long.replace(&"u".repeat(65), &"u".repeat(64)), 7).is_ok());
    assert_eq!(reason(parse(r#"{"giftId":1,"receiverId":90001,"uuid":"u"}"#, 0)), Reason::RoomNotFound);
    assert_eq!(reason(parse(r#"{"giftId":1,"receiverId":5,"uuid":"u"}"#, 7)), Reason::NotAReceiver);
}

#[test]
fn a_price_that_overflows_or_has_changed_is_refused_and_so_is_a_gift_that_does_not_exist() {
    let one = request(ANCHOR, GiftKind::Normal);
    assert_eq!(reason(price(None, &one)), Reason::UnknownGift);
    assert_eq!(price(Some(&gift(10)), &one).unwrap(), 10);
    assert_eq!(price(Some(&gift(10)), &GiftRequest { price: Some(10), ..one.clone() }).unwrap(), 10);
    assert_eq!(reason(price(Some(&gift(11)), &GiftRequest { price: Some(10), ..one.clone() })), Reason::PriceChanged);
    let many = GiftRequest { num: 9_999, ..one.clone() };
    assert_eq!(reason(price(Some(&gift(i64::MAX)), &many)), Reason::Malformed, "i64::MAX × 9999");
    for worthless in [0, -5, i64::MIN] {
        assert_eq!(reason(price(Some(&gift(worthless)), &one)), Reason::Malformed, "a catalogue that says {worthless}");
    }
}

#[test]
fn a_gift_is_for_the_anchor_or_the_challenger_and_never_for_oneself() {
    let bar = PkBar::begin(CHALLENGER, 0);
    let (normal, pk_room) = (room(RoomKind::Normal), room(RoomKind::Pk));
    let to = |receiver| request(receiver, GiftKind::Normal);
    assert_eq!(side(&normal, None, VIEWER, &to(ANCHOR)).unwrap(), None);
    assert_eq!(reason(side(&normal, None, ANCHOR, &to(ANCHOR))), Reason::NotAReceiver, "to himself");
    assert_eq!(reason(side(&normal, None, VIEWER, &to(UserId(20_002)))), Reason::NotAReceiver, "to another viewer");
    assert_eq!(side(&pk_room, Some(&bar), VIEWER, &to(CHALLENGER)).unwrap(), None);
    assert_eq!(reason(side(&pk_room, Some(&bar), CHALLENGER, &to(CHALLENGER))), Reason::NotAReceiver);
    assert_eq!(reason(side(&pk_room, None, VIEWER, &to(CHALLENGER))), Reason::NotAReceiver, "who does not challenge any more");
}

#[test]
fn a_receiver_who_is_neither_side_of_the_pk_is_refused_before_any_debit() {
    let bar = PkBar::begin(CHALLENGER, 0);
    let pk_room = room(RoomKind::Pk);
    let to = |receiver| request(receiver, GiftKind::Pk);
    assert_eq!(side(&pk_room, Some(&bar), VIEWER, &to(ANCHOR)).unwrap(), Some(PkSide::Anchor));
    assert_eq!(side(&pk_room, Some(&bar), VIEWER, &to(CHALLENGER)).unwrap(), Some(PkSide::Challenger));
    assert_eq!(reason(side(&pk_room, Some(&bar), VIEWER, &to(UserId(20_002)))), Reason::NotAReceiver);
    assert_eq!(reason(side(&pk_room, None, VIEWER, &to(ANCHOR))), Reason::NotAReceiver, "no PK is on");
}

#[test]
fn a_gift_of_price_200_moves_the_bar_by_20_up_for_the_anchor_and_down_for_the_challenger() {
    assert_eq!(step(&paid_gift(1, 200, 1, Some(PkSide::Anchor))), Some(20));
    assert_eq!(step(&paid_gift(1, 200, 1, Some(PkSide::Challenger))), Some(-20));
    assert_eq!(step(&paid_gift(1, 9, 1, Some(PkSide::Anchor))), Some(0), "whole steps");
    assert_eq!(step(&paid_gift(1, 5, 4, Some(PkSide::Anchor))), Some(2));
    assert_eq!(step(&paid_gift(1, 200, 1, None)), None);
}

#[test]
fn the_room_hears_of_a_gift_once_acknowledged_and_of_the_bar_by_one_step() {
    let push = paid(&[paid_gift(3, 10, 2, None)], "rose.svga", None, ANCHOR).unwrap();
    assert_eq!((push.biz_code, push.class, push.acknowledged, &push.key), (BizCode::GIFT_OK, Class::Event, true, &None));
    let data: Value = serde_json::from_str(&push.data).unwrap();
    let expected = json!({
        "giftId": 1, "url": "rose.svga", "senderId": 20001, "receiverId": 90001, "num": 2, "uuid": "u3", "giftSeq": 3
    });
    assert_eq!(data, expected);

    let bar = PkBar { seq: 4, value: 100, winner: Some(PkWinner::Anchor), ..PkBar::begin(CHALLENGER, 0) };
    let push = paid(&[paid_gift(4, 500, 1, Some(PkSide::Anchor))], "", Some(&bar), ANCHOR).unwrap();
    assert_eq!((push.biz_code, push.acknowledged), (BizCode::PK_GIFT, true));
    let data: Value = serde_json::from_str(&push.data).unwrap();
    assert_eq!((&data["pkNum"], &data["sendGiftSeqNum"], &data["winnerId"]), (&json!(100), &json!(4), &json!(90_001)));

    let push = paid(&[paid_gift(5, 10, 1, None), paid_gift(7, 10, 3, None)], "", None, ANCHOR).unwrap();
    let data: Value = serde_json::from_str(&push.data).unwrap();
    assert_eq!((&data["num"], &data["giftSeqs"], &data["nums"]), (&json!(4), &json!([5, 7]), &json!([1, 3])));
    assert!(paid(&[], "", None, ANCHOR).is_none());
}

#[test]
fn the_bar_is_a_state_of_the_room_and_its_end_shows_nobody() {
    let bar = PkBar { seq: 9, value: 0, winner: Some(PkWinner::Challenger), ..PkBar::begin(CHALLENGER, 3) };
    let push = bar_state(&bar, ANCHOR, false);
    assert_eq!((push.key.as_deref(), push.acknowledged, push.class), (Some("pk"), false, Class::Event));
    let data: Value = serde_json::from_str(&push.data).unwrap();
    assert_eq!(data, json!({"anchorId": 90001, "pkObjId": 90002, "pkNum": 0, "sendGiftSeqNum": 9, "winnerId": 90002, "isOver": true}));
    let data: Value = serde_json::from_str(&bar_state(&bar, ANCHOR, true).data).unwrap();
    assert_eq!(data, json!({"anchorId": 90001, "pkNum": 50, "sendGiftSeqNum": 9, "isOver": false}));
    let data: Value = serde_json::from_str(&online(CHALLENGER, "a.png").data).unwrap();
    assert_eq!(data, json!({"pkObjId": 90002, "pkObjAvatar": "a.png"}));
}

#[test]
fn only_what_is_final_is_told_as_a_failed_gift() {
    let data: Value = serde_json::from_str(&failed("u", &Refusal::because(Reason::NotCovered, "there are 5")).unwrap()).unwrap();
    assert_eq!(data, json!({"uuid": "u", "code": 10012, "msg": "there are 5"}));
    for again in [Refusal::unavailable(), Refusal::new(Reason::RateLimited), Refusal::new(Reason::Internal)] {
        assert_eq!(failed("u", &again), None);
    }
}

#[test]
fn a_gift_that_cannot_be_sold_stays_out_of_the_catalogue() {
    assert!(check_new(&gift(1)).is_ok());
    for spoil in [
        |gift: &mut Gift| gift.price = 0,
        |gift: &mut Gift| gift.price = 1_000_000_001,
        |gift: &mut Gift| gift.name = "  ".to_owned(),
        |gift: &mut Gift| gift.name = "n".repeat(65),
        |gift: &mut Gift| gift.url = "u".repeat(513),
        |gift: &mut Gift| gift.cover = "a\nb".to_owned(),
        |gift: &mut Gift| gift.gift = GiftId(0),
    ] {
        let mut gift = gift(1);
        spoil(&mut gift);
        assert_eq!(reason(check_new(&gift)), Reason::Malformed, "{gift:?}");
    }
}
