//! Gifts: paid once, heard by all, whatever dies in between.

use crate::house::{House, PATIENCE, Peer, eventually, login_body};
use billfish_testing::{Api, Cluster, ClusterOptions, LedgerKind};
use billfish_wire::{BizCode, Body, Code};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

const ANCHOR: i64 = 30_001;
const ALICE: i64 = 20_001;

fn gift(room: i64, uuid: &str) -> Body {
    Body {
        biz_code: Some(BizCode::GIFT_SEND.0),
        room_id: Some(room),
        msg_id: Some(uuid.to_owned()),
        data: Some(json!({"giftId": 2, "receiverId": ANCHOR, "type": 0, "uuid": uuid}).to_string()),
        ..Body::default()
    }
}

/// Places of the gifts that a push stands for.
fn places(body: &Body) -> Vec<i64> {
    if body.biz_code != Some(BizCode::GIFT_OK.0) {
        return Vec::new();
    }
    let data: Value = serde_json::from_str(body.data.as_deref().unwrap()).unwrap();
    match data["giftSeqs"].as_array() {
        Some(seqs) => seqs.iter().filter_map(Value::as_i64).collect(),
        None => Vec::from_iter(data["giftSeq"].as_i64()),
    }
}

/// Gives until it is acknowledged or refused for good, as a client does, always by the same uuid. `false`: refused.
fn give(peer: &mut Peer, room: i64, uuid: &str) -> Option<bool> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        peer.send(Code::Biz, &gift(room, uuid));
        loop {
            match peer.next()? {
                (Code::Ack, body) if body.msg_id.as_deref() == Some(uuid) => return Some(true),
                (Code::Error, body) if body.msg_id.as_deref() == Some(uuid) => {
                    if !matches!(body.code, Some(5001 | 4007)) {
                        return Some(false);
                    }
                    assert!(Instant::now() < deadline, "{body:?}");
                    let wait_ms = body.retry_after_ms.and_then(|ms| u64::try_from(ms).ok()).expect("it says when");
                    thread::sleep(Duration::from_millis(wait_ms));
                    break;
                }
                _ => {}
            }
        }
    }
}

/// Joins, and gives the places of the gifts that the room shows a newcomer.
fn join_and_look_back(peer: &mut Peer, room: i64) -> Vec<i64> {
    let joined = peer.join(room);
    let shown: Value = serde_json::from_str(joined.data.as_deref().unwrap_or("{}")).unwrap();
    let messages = shown["messages"].as_array().into_iter().flatten();
    messages.flat_map(|message| places(&serde_json::from_value::<Body>(message.clone()).unwrap())).collect()
}

fn grant(house: &House, user: i64, coins: i64) {
    let (status, answer) = house.api("POST", "/v1/wallet/grants", json!({"grants": [{"userId": user, "coins": coins, "uuid": "g"}]}));
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn a_gift_is_paid_once_and_heard_by_every_viewer() {
    let house = House::start();
    let room = house.open_room(ANCHOR);
    grant(&house, ALICE, 25);
    grant(&house, ALICE, 25);
    let mut alice = house.login(ALICE);
    let mut bob = house.login(20_002);
    alice.join(room);
    bob.join(room);
    assert_eq!(give(&mut alice, room, "u1"), Some(true));
    assert_eq!(give(&mut alice, room, "u1"), Some(true));
    assert_eq!(give(&mut alice, room, "u2"), Some(true));
    assert_eq!(give(&mut alice, room, "u3"), Some(false), "10 coins are not covered by 5");
    let mut heard = Vec::new();
    while heard.len() < 2 {
        heard.extend(places(&bob.expect(Code::Biz)));
    }
    assert_eq!(heard, [1, 2]);
    let again = json!({"senderId": ALICE, "roomId": room, "receiverId": ANCHOR, "giftId": 2, "uuid": "u2"});
    let (status, answer) = house.api("POST", "/v1/gifts/send", again.clone());
    assert_eq!((status, &answer["giftSeq"]), (200, &json!(2)), "{answer}");
    let mut other = again;
    other["num"] = json!(2);
    let (status, answer) = house.api("POST", "/v1/gifts/send", other);
    assert_eq!((status, answer["code"].as_str()), (409, Some("uuid-reused")), "{answer}");
}

#[test]
fn killed_again_and_again_no_gift_is_paid_twice_or_lost_and_the_room_hears_of_each() {
    let mut house = House::start();
    let room = house.open_room(ANCHOR);
    grant(&house, ALICE, 1_000_000);
    let (mut acknowledged, mut heard) = (BTreeSet::new(), BTreeSet::new());
    let mut number = 0;
    for _ in 0..6 {
        let mut alice = house.login(ALICE);
        let mut bob = house.login(20_002);
        alice.join(room);
        heard.extend(join_and_look_back(&mut bob, room));
        let until = Instant::now() + Duration::from_millis(150);
        // A burst without waiting, and then the power goes.
        while Instant::now() < until {
            number += 1;
            alice.send(Code::Biz, &gift(room, &format!("u{number}")));
            thread::sleep(Duration::from_millis(20));
        }
        // These are at every step of their way.
        for _ in 0..12 {
            number += 1;
            alice.send(Code::Biz, &gift(room, &format!("u{number}")));
        }
        house.kill();
        let acks = alice.until_closed().into_iter().filter(|(code, _)| *code == Code::Ack);
        acknowledged.extend(acks.filter_map(|(_, body)| body.msg_id));
        heard.extend(bob.until_closed().iter().flat_map(|(_, body)| places(body)));
        house.start_again();
    }
    let mut alice = house.login(ALICE);
    let mut bob = house.login(20_002);
    alice.join(room);
    heard.extend(join_and_look_back(&mut bob, room));
    // Whoever is not sure asks again, by the same uuid.
    for uuid in 1..=number {
        assert_eq!(give(&mut alice, room, &format!("u{uuid}")), Some(true));
    }
    assert!(!acknowledged.is_empty() && acknowledged.len() < number, "{} of {number} were acknowledged before", acknowledged.len());
    let deadline = Instant::now() + PATIENCE;
    while heard.len() < number {
        assert!(Instant::now() < deadline, "{} of {number} were heard", heard.len());
        if let Some(Some((_, body))) = bob.next_within(Duration::from_secs(1)) {
            heard.extend(places(&body));
        }
    }
    assert_eq!(heard.last().copied(), i64::try_from(number).ok(), "the places have no hole");
    let rest = json!({"senderId": ALICE, "roomId": room, "receiverId": ANCHOR, "giftId": 1, "uuid": "rest"});
    let answer = loop {
        match house.api("POST", "/v1/gifts/send", rest.clone()) {
            (200, answer) => break answer,
            (status, answer) => {
                assert_eq!(status, 429, "{answer}");
                thread::sleep(Duration::from_millis(answer["retryAfterMs"].as_u64().unwrap()));
            }
        }
    };
    assert_eq!(answer["balance"], json!(1_000_000 - 10 * number - 1), "each was paid once");
}

#[test]
fn a_pk_goes_on_over_a_kill_with_the_bar_where_it_stood() {
    let mut house = House::start();
    let (status, room) = house.api("POST", "/v1/rooms", json!({"anchorId": ANCHOR, "type": 2}));
    assert!(status < 300, "{room}");
    let room = room["roomId"].as_i64().unwrap();
    let challenger = 20_009;
    grant(&house, ALICE, 1_000);
    let mut alice = house.login(ALICE);
    let mut guest = house.login(challenger);
    alice.join(room);
    guest.join(room);
    let (status, answer) = house.api("POST", &format!("/v1/rooms/{room}/pk/online"), json!({"userId": challenger}));
    assert_eq!(status, 204, "{answer}");
    let send = |house: &House, receiver: i64, uuid: &str| {
        let gift = json!({"senderId": ALICE, "roomId": room, "receiverId": receiver, "giftId": 5, "type": 1, "uuid": uuid});
        house.api("POST", "/v1/gifts/send", gift)
    };
    assert_eq!(send(&house, ANCHOR, "u1").0, 200);
    let (status, problem) = send(&house, 20_002, "u2");
    assert_eq!((status, problem["code"].as_str()), (422, Some("not-a-receiver")), "{problem}");
    house.kill();
    house.start_again();
    let mut alice = house.login(ALICE);
    let mut guest = house.login(challenger);
    guest.join(room);
    let snapshot: Value = serde_json::from_str(alice.join(room).data.as_deref().unwrap()).unwrap();
    assert!(snapshot["states"].is_object(), "{snapshot}");
    let view = || house.api("GET", &format!("/v1/rooms/{room}/pk"), json!(null)).1;
    let expected = json!({"anchorId": ANCHOR, "online": true, "pkObjId": challenger, "pkNum": 70, "sendGiftSeqNum": 1});
    assert_eq!(view(), expected);
    assert_eq!(send(&house, challenger, "u3").0, 200);
    eventually("the bar to be back in the middle", || view()["pkNum"] == 50);
}

/// The money of all who gave and were given, by the API of one router.
struct Many {
    cluster: Cluster,
    room: i64,
    api: Api,
}

impl Many {
    fn start(ledger: LedgerKind) -> Option<Self> {
        let cluster = Cluster::start(ClusterOptions { ledger, ..ClusterOptions::new(env!("CARGO_BIN_EXE_billfish")) })?;
        let api = cluster.api(0);
        let room = api.open_room(ANCHOR);
        Some(Self { cluster, room, api })
    }

    fn login(&self, gateway: usize, user: i64) -> Peer {
        let mut peer = Peer::connect(self.cluster.gateways[gateway].address("tcp"));
        peer.send(Code::Login, &login_body(user, self.api.token(user)));
        assert_eq!(peer.expect(Code::Login).data.as_deref(), Some("true"));
        peer
    }
}

/// A hundred gifts of one user, through two gateways and two routers at once, that cost more than he has.
fn never_more_than_there_is(ledger: LedgerKind) {
    let Some(many) = Many::start(ledger) else { return };
    let room = many.room;
    let grants = json!({"grants": [{"userId": ALICE, "coins": 305, "uuid": "g"}]});
    assert_eq!(many.api.call("POST", "/v1/wallet/grants", &grants).unwrap().0, 200);
    // One session each way: what comes by frames and what comes by HTTP is one till.
    let (mut alice, mut bob) = (many.login(0, ALICE), many.login(1, 20_002));
    alice.join(room);
    bob.join(room);
    let outcomes: Vec<u16> = thread::scope(|scope| {
        let tries: Vec<_> = (0..100)
            .map(|number| {
                let api = many.cluster.api(number % 2);
                scope.spawn(move || {
                    let gift = json!({"senderId": ALICE, "roomId": room, "receiverId": ANCHOR, "giftId": 2, "uuid": format!("u{number}")});
                    let deadline = Instant::now() + PATIENCE;
                    loop {
                        let (status, answer) = api.call("POST", "/v1/gifts/send", &gift).unwrap();
                        if !matches!(status, 429 | 503) {
                            return status;
                        }
                        assert!(Instant::now() < deadline, "{answer}");
                        thread::sleep(Duration::from_millis(answer["retryAfterMs"].as_u64().unwrap_or(200)));
                    }
                })
            })
            .collect();
        tries.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let count = |status: u16| outcomes.iter().filter(|outcome| **outcome == status).count();
    assert_eq!((count(200), count(402)), (30, 70), "exactly as many as the money allows: {outcomes:?}");
    let mut heard = BTreeSet::new();
    let deadline = Instant::now() + PATIENCE;
    while heard.len() < 30 {
        assert!(Instant::now() < deadline, "{} heard", heard.len());
        if let Some(Some((_, body))) = bob.next_within(Duration::from_secs(1)) {
            heard.extend(places(&body));
        }
    }
    assert_eq!(heard, (1..=30).collect());
}

#[test]
fn a_hundred_gifts_at_once_through_two_routers_never_cost_more_than_there_is_on_sqlite() {
    never_more_than_there_is(LedgerKind::SharedSqlite);
}

#[test]
fn a_hundred_gifts_at_once_through_two_routers_never_cost_more_than_there_is_on_mariadb() {
    never_more_than_there_is(LedgerKind::Maria);
}
