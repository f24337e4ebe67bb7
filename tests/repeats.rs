//! One gift, asked for again: many times at once by every way there is, with other content, and a day later.

use crate::house::{PATIENCE, Peer, login_body};
use billfish_testing::{Api, Cluster, ClusterOptions, LedgerKind};
use billfish_wire::{BizCode, Body, Code, Reason};
use serde_json::{Value, json};
use std::{
    thread,
    time::{Duration, Instant},
};

const ANCHOR: i64 = 30_001;
const ALICE: i64 = 20_001;
const BOB: i64 = 20_002;
const FUNDS: i64 = 1_000;
/// Of gift 2.
const PRICE: i64 = 10;
/// Tries by each of two gateways and two routers.
const TRIES: usize = 25;
const DAY_S: i64 = 86_400;

/// Two gateways and two routers, in a room of which Alice gives and Bob listens.
struct Town {
    cluster: Cluster,
    room: i64,
    /// Her sessions, one on each gateway.
    alice: Vec<Peer>,
    bob: Peer,
}

/// What a try came to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// Paid, now or before; by HTTP with its place in the room.
    Paid(Option<i64>),
    /// The `uuid` is another gift's.
    Conflict,
}

impl Town {
    fn start(ledger: LedgerKind, fake_time: bool) -> Option<Self> {
        // As many tries as there may be within a moment: it is not about how often one may try.
        let many = |key: &str| (key.to_owned(), "1000000".to_owned());
        let cluster = Cluster::start(ClusterOptions {
            gateways: 2,
            ledger,
            fake_time,
            gateway_environment: vec![many("BILLFISH__GATEWAY__SESSION__FRAMES_PER_S"), many("BILLFISH__GATEWAY__SESSION__FRAMES_BURST")],
            router_environment: vec![many("BILLFISH__ROUTER__GIFT__USER_GIFTS_MAX")],
            ..ClusterOptions::new(env!("CARGO_BIN_EXE_billfish"))
        })?;
        let api = cluster.api(0);
        let room = api.open_room(ANCHOR);
        let grants = json!({"grants": [{"userId": ALICE, "coins": FUNDS, "uuid": "g"}]});
        assert_eq!(api.call("POST", "/v1/wallet/grants", &grants).unwrap().0, 200);
        let alice = (0..2).map(|gateway| enter(&cluster, gateway, ALICE, room)).collect();
        let bob = enter(&cluster, 0, BOB, room);
        Some(Self { cluster, room, alice, bob })
    }

    fn coins(&self) -> i64 {
        let (status, wallet) = self.cluster.api(1).call("GET", &format!("/v1/wallet?userId={ALICE}"), &Value::Null).unwrap();
        assert_eq!(status, 200, "{wallet}");
        wallet["coins"].as_i64().unwrap()
    }

    /// The same gift by every way at once; how many of it follows from the number of the try, and is the same for all of a session. All answers:
    /// of the sockets, and of the calls.
    fn give_everywhere(&mut self, uuid: &str, num: impl Fn(usize) -> i64 + Sync) -> (Vec<Answer>, Vec<Answer>) {
        let (room, cluster, num) = (self.room, &self.cluster, &num);
        thread::scope(|scope| {
            let sessions = self.alice.iter_mut().enumerate();
            let by_socket: Vec<_> = sessions.map(|(way, peer)| scope.spawn(move || by_socket(peer, room, uuid, num(2 * way)))).collect();
            let by_http: Vec<_> =
                (0..2 * TRIES).map(|number| scope.spawn(move || by_http(&cluster.api(number % 2), room, uuid, num(number)))).collect();
            let answers = by_socket.into_iter().flat_map(|one| one.join().unwrap()).collect();
            (answers, by_http.into_iter().map(|one| one.join().unwrap()).collect())
        })
    }
}

fn enter(cluster: &Cluster, gateway: usize, user: i64, room: i64) -> Peer {
    let mut peer = Peer::connect(cluster.gateways[gateway].address("tcp"));
    // Another kind of device on each: none of them ends the other's session.
    let login = Body { platform: Some(["web", "android"][gateway].to_owned()), ..login_body(user, cluster.api(0).token(user)) };
    peer.send(Code::Login, &login);
    assert_eq!(peer.expect(Code::Login).data.as_deref(), Some("true"));
    peer.join(room);
    peer
}

fn gift(uuid: &str, num: i64) -> Value {
    json!({"giftId": 2, "receiverId": ANCHOR, "type": 0, "uuid": uuid, "num": num})
}

/// All tries in one burst, and again as many as were told to come again.
fn by_socket(peer: &mut Peer, room: i64, uuid: &str, num: i64) -> Vec<Answer> {
    let deadline = Instant::now() + PATIENCE;
    let (mut answers, mut left) = (Vec::new(), TRIES);
    while left > 0 {
        assert!(Instant::now() < deadline, "{answers:?}");
        for number in 0..left {
            let body = Body {
                biz_code: Some(BizCode::GIFT_SEND.0),
                room_id: Some(room),
                // Under one id the gateway would ask once for all of them.
                msg_id: Some(format!("{uuid} {number}")),
                data: Some(gift(uuid, num).to_string()),
                ..Body::default()
            };
            peer.send(Code::Biz, &body);
        }
        let is_of_these = |body: &Body| body.msg_id.as_ref().is_some_and(|msg_id| msg_id.starts_with(&format!("{uuid} ")));
        let mut again = 0;
        while left > 0 {
            match peer.next().expect("the session stays") {
                (Code::Ack, body) if is_of_these(&body) => answers.push(Answer::Paid(None)),
                (Code::Error, body) if is_of_these(&body) => match body.code {
                    Some(5001 | 4007) => again += 1,
                    code => {
                        assert_eq!(code, Reason::UuidReused.number(), "{body:?}");
                        answers.push(Answer::Conflict);
                    }
                },
                _ => continue,
            }
            left -= 1;
        }
        if again > 0 {
            thread::sleep(Duration::from_millis(200));
        }
        left = again;
    }
    answers
}

fn by_http(api: &Api, room: i64, uuid: &str, num: i64) -> Answer {
    let mut body = gift(uuid, num);
    body["senderId"] = json!(ALICE);
    body["roomId"] = json!(room);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, answer) = api.call("POST", "/v1/gifts/send", &body).unwrap();
        match (status, answer["code"].as_str()) {
            (200, _) => return Answer::Paid(answer["giftSeq"].as_i64()),
            (409, Some("uuid-reused")) => return Answer::Conflict,
            _ => assert!(matches!(status, 429 | 503) && Instant::now() < deadline, "{status}: {answer}"),
        }
        thread::sleep(Duration::from_millis(answer["retryAfterMs"].as_u64().unwrap_or(200)));
    }
}

/// Places of the next gifts that are told, as many as asked for.
fn places(peer: &mut Peer, count: usize) -> Vec<i64> {
    let mut places = Vec::new();
    while places.len() < count {
        let body = peer.expect(Code::Biz);
        if body.biz_code == Some(BizCode::GIFT_OK.0) {
            let data: Value = serde_json::from_str(body.data.as_deref().unwrap()).unwrap();
            places.extend(data["giftSeq"].as_i64());
        }
    }
    places
}

fn one_gift_a_hundred_times_at_once(ledger: LedgerKind) {
    let Some(mut town) = Town::start(ledger, false) else { return };
    let (by_socket, by_http) = town.give_everywhere("u1", |_| 1);
    assert_eq!((by_socket.len(), by_http.len()), (2 * TRIES, 2 * TRIES));
    assert!(by_socket.iter().all(|answer| *answer == Answer::Paid(None)), "{by_socket:?}");
    assert!(by_http.iter().all(|answer| *answer == Answer::Paid(Some(1))), "{by_http:?}");
    assert_eq!(town.coins(), FUNDS - PRICE, "one debit");

    // With two contents at once, one of them is the gift, and whoever meant the other hears that it is not his.
    let (by_socket, by_http) = town.give_everywhere("u2", |number| 2 + i64::try_from(number / 2 % 2).unwrap());
    let paid = by_socket.iter().chain(&by_http).filter(|answer| **answer != Answer::Conflict).count();
    let conflicts = by_socket.len() + by_http.len() - paid;
    let cost = FUNDS - PRICE - town.coins();
    assert!(cost == 2 * PRICE || cost == 3 * PRICE, "one debit, of one of the two: {cost}");
    let of_two = TRIES + (0..2 * TRIES).filter(|number| number / 2 % 2 == 0).count();
    let meant = if cost == 2 * PRICE { of_two } else { 4 * TRIES - of_two };
    assert_eq!((paid, conflicts), (meant, 4 * TRIES - meant));
    assert!(by_http.iter().all(|answer| matches!(answer, Answer::Paid(Some(2)) | Answer::Conflict)), "{by_http:?}");

    // The room has heard of each once: what comes next is the next.
    let last = self::by_http(&town.cluster.api(0), town.room, "u3", 1);
    assert_eq!(last, Answer::Paid(Some(3)));
    assert_eq!(places(&mut town.bob, 3), [1, 2, 3]);
}

#[test]
fn one_gift_a_hundred_times_at_once_through_two_gateways_and_two_routers_is_debited_once_on_sqlite() {
    one_gift_a_hundred_times_at_once(LedgerKind::SharedSqlite);
}

#[test]
fn one_gift_a_hundred_times_at_once_through_two_gateways_and_two_routers_is_debited_once_on_mariadb() {
    one_gift_a_hundred_times_at_once(LedgerKind::Maria);
}

/// The clock of every node and of Redis is moved: what any of them forgets within a day is forgotten.
fn a_replay_a_day_later(ledger: LedgerKind) {
    let Some(mut town) = Town::start(ledger, true) else { return };
    let room = town.room;
    by_socket(&mut town.alice[0], room, "u1", 1);
    assert_eq!(by_http(&town.cluster.api(1), room, "u2", 1), Answer::Paid(Some(2)));
    let coins = town.coins();
    assert_eq!(coins, FUNDS - 2 * PRICE);
    town.cluster.redis().set_clock(DAY_S);
    for node in town.cluster.nodes() {
        node.set_clock(DAY_S);
    }
    town.cluster.wait_ready();
    // Tokens and memberships of yesterday are over.
    for gateway in 0..2 {
        let mut alice = enter(&town.cluster, gateway, ALICE, room);
        for uuid in ["u1", "u2"] {
            let again = by_socket(&mut alice, room, uuid, 1);
            assert!(again.iter().all(|answer| *answer == Answer::Paid(None)), "{uuid}: {again:?}");
            let other = by_socket(&mut alice, room, uuid, 2);
            assert!(other.iter().all(|answer| *answer == Answer::Conflict), "{uuid}: {other:?}");
        }
    }
    for router in 0..2 {
        let api = town.cluster.api(router);
        for (uuid, place) in [("u1", 1), ("u2", 2)] {
            assert_eq!(by_http(&api, room, uuid, 1), Answer::Paid(Some(place)), "the first answer");
            assert_eq!(by_http(&api, room, uuid, 2), Answer::Conflict);
        }
    }
    assert_eq!(town.coins(), coins, "nothing was debited");
}

#[test]
fn a_gift_that_is_replayed_a_day_later_gets_its_first_answer_on_sqlite() {
    a_replay_a_day_later(LedgerKind::SharedSqlite);
}

#[test]
fn a_gift_that_is_replayed_a_day_later_gets_its_first_answer_on_mariadb() {
    a_replay_a_day_later(LedgerKind::Maria);
}
