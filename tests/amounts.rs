//! Gifts that cannot be: by frame and by HTTP each is refused by its own code, its sender hears why, and no coin moves.

use crate::house::{House, PATIENCE, Peer};
use billfish_wire::{BizCode, Body, Code};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const ANCHOR: i64 = 30_001;
const CHALLENGER: i64 = 20_009;
const ALICE: i64 = 20_001;
const BOB: i64 = 20_002;
const FUNDS: i64 = 1_000;

/// A room with a PK in it, and Alice, who has coins.
struct Stage {
    house: House,
    room: i64,
    alice: Peer,
    /// It stays: who is gone for long ends the PK.
    _challenger: Peer,
}

/// How a gift is refused: the code of the frame, and of HTTP with its status.
struct Refused(i32, u16, &'static str);

const MALFORMED: Refused = Refused(4_000, 400, "malformed");
const NOT_A_RECEIVER: Refused = Refused(10_015, 422, "not-a-receiver");
const UNKNOWN_GIFT: Refused = Refused(10_013, 404, "unknown-gift");
const NOT_COVERED: Refused = Refused(10_012, 402, "not-covered");
const PRICE_CHANGED: Refused = Refused(10_016, 409, "price-changed");

impl Stage {
    fn start() -> Self {
        let house = House::start();
        let (status, room) = house.api("POST", "/v1/rooms", json!({"anchorId": ANCHOR, "type": 2}));
        assert!(status < 300, "{room}");
        let room = room["roomId"].as_i64().unwrap();
        let grants = json!({"grants": [{"userId": ALICE, "coins": FUNDS, "uuid": "g"}]});
        assert_eq!(house.api("POST", "/v1/wallet/grants", grants).0, 200);
        let (mut alice, mut challenger) = (house.login(ALICE), house.login(CHALLENGER));
        alice.join(room);
        challenger.join(room);
        assert_eq!(house.api("POST", &format!("/v1/rooms/{room}/pk/online"), json!({"userId": CHALLENGER})).0, 204);
        Self { house, room, alice, _challenger: challenger }
    }

    /// What everybody has who could gain or lose.
    fn wallets(&self) -> Vec<(i64, i64)> {
        let wallet = |user: i64| {
            let (status, wallet) = self.house.api("GET", &format!("/v1/wallet?userId={user}"), Value::Null);
            assert_eq!(status, 200, "{wallet}");
            (wallet["coins"].as_i64().unwrap(), wallet["beans"].as_i64().unwrap())
        };
        [ALICE, ANCHOR, CHALLENGER, BOB].map(wallet).to_vec()
    }

    fn bar(&self) -> Value {
        self.house.api("GET", &format!("/v1/rooms/{}/pk", self.room), Value::Null).1
    }

    /// Gives by a frame: nothing where it was taken, and else the code.
    fn by_frame(&mut self, uuid: &str, data: &Value) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let body = Body {
                biz_code: Some(BizCode::GIFT_SEND.0),
                room_id: Some(self.room),
                msg_id: Some(uuid.to_owned()),
                data: Some(data.to_string()),
                ..Body::default()
            };
            self.alice.send(Code::Biz, &body);
            let answer = loop {
                match self.alice.next().expect("the session stays") {
                    (Code::Ack, body) if body.msg_id.as_deref() == Some(uuid) => return None,
                    (Code::Error, body) if body.msg_id.as_deref() == Some(uuid) => break body,
                    _ => {}
                }
            };
            assert!(answer.msg.as_ref().is_some_and(|msg| !msg.is_empty()), "it says why: {answer:?}");
            if answer.code != Some(4_007) {
                return answer.code;
            }
            assert!(Instant::now() < deadline, "{answer:?}");
            std::thread::sleep(Duration::from_millis(u64::try_from(answer.retry_after_ms.unwrap_or(200)).unwrap()));
        }
    }

    fn by_http(&self, data: &Value) -> (u16, Value) {
        let mut body = data.clone();
        (body["senderId"], body["roomId"]) = (json!(ALICE), json!(self.room));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, answer) = self.house.api("POST", "/v1/gifts/send", body.clone());
            if status != 429 {
                return (status, answer);
            }
            assert!(Instant::now() < deadline, "{answer}");
            std::thread::sleep(Duration::from_millis(answer["retryAfterMs"].as_u64().unwrap_or(200)));
        }
    }

    /// Refused so by both ways, and nobody has more or less for it.
    fn refuses(&mut self, why: &str, Refused(code, status, problem): Refused, change: Value) {
        let (wallets, bar) = (self.wallets(), self.bar());
        let mut data = json!({"giftId": 2, "receiverId": ANCHOR, "type": 1, "uuid": format!("by frame: {why}")});
        for (field, value) in change.as_object().unwrap() {
            data[field] = value.clone();
        }
        assert_eq!(self.by_frame(&format!("by frame: {why}"), &data), Some(code), "{why}, by frame");
        data["uuid"] = json!(format!("by HTTP: {why}"));
        let (answered, answer) = self.by_http(&data);
        assert_eq!((answered, answer["code"].as_str()), (status, Some(problem)), "{why}, by HTTP: {answer}");
        assert!(answer["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "it says why: {answer}");
        assert_eq!((self.wallets(), self.bar()), (wallets, bar), "{why}: nothing has moved");
    }

    /// Both ways still work.
    fn takes(&mut self, num: i64) {
        let (before, mut data) = (self.wallets(), json!({"giftId": 2, "receiverId": ANCHOR, "type": 1, "num": num, "uuid": "frame"}));
        assert_eq!(self.by_frame("frame", &data), None);
        data["uuid"] = json!("HTTP");
        assert_eq!(self.by_http(&data).0, 200);
        let after = self.wallets();
        assert_eq!((before[0].0 - after[0].0, after[1].1 - before[1].1), (20 * num, 20 * num));
    }
}

#[test]
fn an_amount_of_nothing_below_nothing_beyond_all_numbers_or_with_a_fraction_is_refused_and_costs_nothing() {
    let mut stage = Stage::start();
    stage.refuses("zero", MALFORMED, json!({"num": 0}));
    stage.refuses("negative", MALFORMED, json!({"num": -1}));
    stage.refuses("the smallest number", MALFORMED, json!({"num": i64::MIN}));
    stage.refuses("one above the most", MALFORMED, json!({"num": 10_000}));
    stage.refuses("the largest number, times any price", MALFORMED, json!({"num": i64::MAX}));
    stage.refuses("beyond the largest number", MALFORMED, json!({"num": u64::MAX}));
    stage.refuses("a fraction", MALFORMED, json!({"num": 1.5}));
    stage.refuses("a whole number as a fraction", MALFORMED, json!({"num": 1.0}));
    stage.refuses("a huge fraction", MALFORMED, json!({"num": 1e300}));
    stage.refuses("a text", MALFORMED, json!({"num": "1"}));
    stage.refuses("a list", MALFORMED, json!({"num": [1]}));
    stage.takes(1);
}

#[test]
fn a_gift_that_costs_more_than_there_is_or_than_can_be_counted_is_refused_and_costs_nothing() {
    let mut stage = Stage::start();
    stage.refuses("more than there is", NOT_COVERED, json!({"num": 101}));
    let put = |stage: &Stage, price: Value| stage.house.api("PUT", "/v1/gifts/77", json!({"name": "dear", "price": price}));
    // No price gets into the catalogue that a number of them would carry beyond all numbers.
    for price in [json!(0), json!(-1), json!(i64::MAX), json!(1_000_000_001), json!(1.5)] {
        let (status, answer) = put(&stage, price.clone());
        assert_eq!((status, answer["code"].as_str()), (400, Some("malformed")), "{price}: {answer}");
    }
    stage.refuses("what never came into the catalogue", UNKNOWN_GIFT, json!({"giftId": 77}));
    assert_eq!(put(&stage, json!(1_000_000_000)).0, 204);
    stage.refuses("the most of the dearest", NOT_COVERED, json!({"giftId": 77, "num": 9_999}));
    stage.takes(2);
}

#[test]
fn a_gift_that_does_not_exist_is_refused_and_costs_nothing() {
    let mut stage = Stage::start();
    stage.refuses("unknown", UNKNOWN_GIFT, json!({"giftId": 999}));
    stage.refuses("zero", UNKNOWN_GIFT, json!({"giftId": 0}));
    stage.refuses("negative", UNKNOWN_GIFT, json!({"giftId": -2}));
    stage.refuses("a fraction", MALFORMED, json!({"giftId": 2.5}));
    assert_eq!(stage.house.api("DELETE", "/v1/gifts/3", Value::Null).0, 204);
    stage.refuses("sold no more", UNKNOWN_GIFT, json!({"giftId": 3}));
    stage.takes(1);
}

#[test]
fn a_price_that_has_changed_in_between_is_refused_and_costs_nothing() {
    let mut stage = Stage::start();
    // Shown as 10, and dearer by the time that it is given.
    assert_eq!(stage.house.api("PUT", "/v1/gifts/2", json!({"name": "dearer", "price": 11})).0, 204);
    stage.refuses("dearer than shown", PRICE_CHANGED, json!({"price": 10}));
    assert_eq!(stage.house.api("PUT", "/v1/gifts/2", json!({"name": "as before", "price": 10})).0, 204);
    stage.refuses("cheaper than shown", PRICE_CHANGED, json!({"price": 11}));
    stage.refuses("shown for nothing", PRICE_CHANGED, json!({"price": 0}));
    stage.refuses("shown for less than nothing", PRICE_CHANGED, json!({"price": -10}));
    stage.refuses("the largest number", PRICE_CHANGED, json!({"price": i64::MAX}));
    stage.refuses("a fraction", MALFORMED, json!({"price": 9.99}));
    stage.takes(1);
}

#[test]
fn a_gift_to_oneself_or_to_one_who_is_not_in_the_pk_is_refused_and_costs_nothing() {
    let mut stage = Stage::start();
    let mut bob = stage.house.login(BOB);
    bob.join(stage.room);
    for kind in [0, 1] {
        stage.refuses("to oneself", NOT_A_RECEIVER, json!({"receiverId": ALICE, "type": kind, "comboId": kind.to_string()}));
        stage.refuses("to a viewer", NOT_A_RECEIVER, json!({"receiverId": BOB, "type": kind}));
        stage.refuses("to one who is not there", NOT_A_RECEIVER, json!({"receiverId": 29_999, "type": kind}));
    }
    stage.refuses("of a kind there is not", MALFORMED, json!({"type": 2}));
    stage.takes(1);
    // Nor to him whose PK is over, by either kind.
    let path = format!("/v1/rooms/{}/pk/offline", stage.room);
    assert_eq!(stage.house.api("POST", &path, json!({"userId": CHALLENGER})).0, 204);
    stage.refuses("to a challenger who has left", NOT_A_RECEIVER, json!({"receiverId": CHALLENGER, "type": 0}));
    stage.refuses("of a PK that is over", NOT_A_RECEIVER, json!({"receiverId": ANCHOR, "type": 1}));
}
