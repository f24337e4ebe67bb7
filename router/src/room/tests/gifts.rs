//! Gifts and the bar of a PK, from the frame to the room.

use super::{
    town::{LEASE, Router, SEEN, Town, interest},
    *,
};
use billfish_state::PkBar;
use std::sync::atomic::Ordering::Relaxed;

const CHALLENGER: i64 = 20_009;

fn gift(room: RoomId, uuid: &str) -> Call {
    gift_of(room, json!({"giftId": 1, "receiverId": ANCHOR.0, "type": 0, "uuid": uuid}))
}

fn pk_gift(room: RoomId, receiver: i64, uuid: &str) -> Call {
    gift_of(room, json!({"giftId": 2, "receiverId": receiver, "type": 1, "uuid": uuid}))
}

fn gift_of(room: RoomId, data: Value) -> Call {
    let msg_id = data["uuid"].as_str().unwrap_or_default().to_owned();
    Call::Biz(Biz { room_id: room.0, biz_code: 5_561, data: data.to_string(), msg_id })
}

/// A gift of 10 coins, a PK gift of 200, and a rich Alice.
fn sell(records: &TestRecords) {
    records.sell(1, 10);
    records.sell(2, 200);
    records.give(APP, UserId(ALICE), 100_000);
}

struct Pk {
    house: House,
    gateway: Gateway,
    room: RoomId,
}

impl Pk {
    /// A PK room with its challenger, Alice and Bob in it.
    async fn begin() -> Self {
        let house = House::start().await;
        sell(&house.records);
        let room = open_pk(&house).await;
        let mut gateway = house.gateway("g1");
        for user in [ALICE, BOB, CHALLENGER] {
            gateway.join(room, user).await;
        }
        house.handle.pk_online(None, room, UserId(CHALLENGER)).await.unwrap();
        gateway.rest(Duration::from_millis(300)).await;
        Self { house, gateway, room }
    }

    async fn bar(&self) -> Option<PkBar> {
        self.house.handle.pk(None, self.room).await.unwrap().bar
    }
}

/// A room with Alice in it, and gifts to give.
async fn open(house: &House) -> (Gateway, RoomId) {
    sell(&house.records);
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    (gateway, room)
}

/// The same at the only router of a town.
async fn open_in(town: &Town) -> (Router, Gateway, RoomId) {
    town.shows(&["a"]);
    let a = town.router("a").await;
    let (gateway, room) = open(&a.house).await;
    (a, gateway, room)
}

/// A PK with one gift in it, at the only router of a town.
async fn begin_in(town: &Town) -> (Router, RoomId) {
    town.shows(&["a"]);
    let a = town.router("a").await;
    sell(&town.records);
    let room = open_pk(&a.house).await;
    let mut gateway = a.house.gateway("g1");
    gateway.join(room, ALICE).await;
    gateway.join(room, CHALLENGER).await;
    a.house.handle.pk_online(None, room, UserId(CHALLENGER)).await.unwrap();
    assert!(is_accepted(&gateway.ask(ALICE, pk_gift(room, ANCHOR.0, "u1")).await));
    (a, room)
}

async fn open_pk(house: &House) -> RoomId {
    match house.handle.open_room(OpenRoom { kind: RoomKind::Pk, ..open_room(ANCHOR) }).await.unwrap() {
        Opened::New(room) => room.room,
        Opened::AlreadyLive(room) => panic!("{room} is live"),
    }
}

/// Business code and data of the pushes that are no states.
fn events(heard: &[Kind]) -> Vec<(i32, Value)> {
    let event = |kind: &Kind| {
        let Kind::RoomPush(push) = kind else { return None };
        body(push).key.is_empty().then(|| (body(push).biz_code, data(push)))
    };
    heard.iter().filter_map(event).collect()
}

/// Every value of the bar that was shown, by events and by states, in order.
fn bars(heard: &[Kind]) -> Vec<(i64, i64)> {
    let bar = |kind: &Kind| {
        let Kind::RoomPush(push) = kind else { return None };
        let data = data(push);
        (body(push).biz_code == 5_558).then(|| (data["sendGiftSeqNum"].as_i64().unwrap(), data["pkNum"].as_i64().unwrap()))
    };
    heard.iter().filter_map(bar).collect()
}

fn gift_seqs(heard: &[Kind]) -> Vec<i64> {
    let seqs = |(_, data): (i32, Value)| match data["giftSeqs"].as_array() {
        Some(seqs) => seqs.iter().filter_map(Value::as_i64).collect(),
        None => Vec::from_iter(data["giftSeq"].as_i64()),
    };
    events(heard).into_iter().flat_map(seqs).collect()
}

#[tokio::test(start_paused = true)]
async fn a_gift_is_paid_then_acknowledged_then_heard_by_the_whole_room() {
    let house = House::start().await;
    let (mut gateway, room) = open(&house).await;
    assert!(is_accepted(&gateway.ask(ALICE, gift(room, "u1")).await));
    assert_eq!(house.records.coins(APP, UserId(ALICE)), 99_990, "paid before it was acknowledged");
    let push = gateway.push().await;
    assert_eq!((body(&push).biz_code, body(&push).qos, push.except_user_id), (5_556, 1, 0));
    let expected = json!({
        "giftId": 1, "url": "gift-1.svga", "senderId": ALICE, "receiverId": ANCHOR.0, "num": 1, "uuid": "u1", "giftSeq": 1
    });
    assert_eq!(data(&push), expected);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(house.records.untold_seqs(room), [0_i64; 0], "the outbox is empty");
}

#[tokio::test(start_paused = true)]
async fn the_same_uuid_is_paid_and_heard_once_and_with_other_content_refused() {
    let house = House::start().await;
    let (mut gateway, room) = open(&house).await;
    for _ in 0..20 {
        assert!(is_accepted(&gateway.ask(ALICE, gift(room, "u1")).await));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // By the HTTP API it is the same gift.
    let again = send(room, ALICE, "u1");
    assert_eq!(house.handle.send_gift(again.clone()).await.unwrap().gift_seq, 1);
    assert_eq!(house.records.coins(APP, UserId(ALICE)), 99_990);
    assert_eq!(gift_seqs(&gateway.rest(PATIENCE).await), [1]);
    let other = SendGift { num: 2, ..again };
    assert_eq!(reason(house.handle.send_gift(other).await), Reason::UuidReused);
    let more = gift_of(room, json!({"giftId": 1, "receiverId": ANCHOR.0, "uuid": "u1", "num": 2}));
    assert_eq!(gateway.refusal(ALICE, more).await, Reason::UuidReused);
    assert_eq!(house.records.coins(APP, UserId(ALICE)), 99_990);
}

fn send(room: RoomId, sender: i64, uuid: &str) -> SendGift {
    SendGift {
        app: APP,
        sender: UserId(sender),
        room,
        receiver: ANCHOR,
        gift: GiftId(1),
        kind: GiftKind::Normal,
        uuid: uuid.to_owned(),
        num: 1,
        price: None,
        combo: String::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_not_enough_hears_it_alone() {
    let house = House::start().await;
    sell(&house.records);
    house.records.give(APP, UserId(BOB), 9);
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    gateway.join(room, BOB).await;
    assert_eq!(gateway.refusal(BOB, gift(room, "u1")).await, Reason::NotCovered);
    let told = gateway.user_push().await;
    assert_eq!((told.user_ids, told.session), (vec![BOB], BOB.unsigned_abs()));
    let push = told.push.unwrap();
    let data: Value = serde_json::from_str(&push.data).unwrap();
    assert_eq!((push.biz_code, &data["uuid"], &data["code"]), (5_557, &json!("u1"), &json!(10_012)));
    assert_eq!(house.records.coins(APP, UserId(BOB)), 9);
    assert!(events(&gateway.rest(PATIENCE).await).is_empty(), "the room hears nothing");
    // Once he has them the same gift is paid.
    house.records.give(APP, UserId(BOB), 1);
    assert!(is_accepted(&gateway.ask(BOB, gift(room, "u1")).await));
}

#[tokio::test(start_paused = true)]
async fn a_gift_to_a_room_not_joined_to_oneself_of_an_unknown_kind_or_at_another_price_is_refused() {
    let house = House::start().await;
    let (mut gateway, room) = open(&house).await;
    assert_eq!(gateway.refusal(BOB, gift(room, "u1")).await, Reason::RoomNotFound);
    assert_eq!(reason(house.handle.send_gift(send(room, BOB, "u1")).await), Reason::RoomNotFound);
    let to = |receiver: i64, gift: i64| gift_of(room, json!({"giftId": gift, "receiverId": receiver, "uuid": "u"}));
    assert_eq!(gateway.refusal(ALICE, to(ALICE, 1)).await, Reason::NotAReceiver);
    assert_eq!(gateway.refusal(ALICE, to(BOB, 1)).await, Reason::NotAReceiver);
    assert_eq!(gateway.refusal(ALICE, to(ANCHOR.0, 99)).await, Reason::UnknownGift);
    let shown = gift_of(room, json!({"giftId": 1, "receiverId": ANCHOR.0, "uuid": "u", "price": 9}));
    assert_eq!(gateway.refusal(ALICE, shown).await, Reason::PriceChanged);
    let not_on = pk_gift(room, ANCHOR.0, "u");
    assert_eq!(gateway.refusal(ALICE, not_on).await, Reason::NotAReceiver);
    assert_eq!(house.records.coins(APP, UserId(ALICE)), 100_000);
    let none = RoomId(room.0 + 1);
    assert_eq!(gateway.refusal(ALICE, gift(none, "u")).await, Reason::RoomNotFound);
}

#[tokio::test(start_paused = true)]
async fn one_who_is_banned_gives_nothing_and_one_who_is_muted_does() {
    let house = House::start().await;
    let (mut gateway, room) = open(&house).await;
    let of = |user: i64| MuteRequest { room, user: UserId(user), by: Operator::Admin, duration: None };
    house.handle.mute(of(ALICE)).await.unwrap();
    assert!(is_accepted(&gateway.ask(ALICE, gift(room, "u1")).await));
    house.handle.ban(of(ALICE)).await.unwrap();
    assert!(matches!(gateway.refusal(ALICE, gift(room, "u2")).await, Reason::Banned | Reason::RoomNotFound));
    assert_eq!(house.records.coins(APP, UserId(ALICE)), 99_990);
}

#[tokio::test(start_paused = true)]
async fn gifts_of_one_user_are_limited_and_without_the_store_nobody_gives() {
    let house = House::start().await;
    let (mut gateway, room) = open(&house).await;
    for turn in 0..30 {
        assert!(is_accepted(&gateway.ask(ALICE, gift(room, &turn.to_string())).await));
    }
    let answer = gateway.ask(ALICE, gift(room, "one more")).await;
    let reply::Result::Refused(Refused { code, retry_after_ms, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!((code, (1..=3_000).contains(&retry_after_ms)), (4_007, true), "{retry_after_ms}");
    tokio::time::sleep(Duration::from_millis(retry_after_ms.unsigned_abs())).await;
    assert!(is_accepted(&gateway.ask(ALICE, gift(room, "one more")).await));
    assert_eq!(house.records.coins(APP, UserId(ALICE)), 100_000 - 31 * 10);
}

#[tokio::test(start_paused = true)]
async fn overload_is_answered_5001_with_a_time_to_wait_and_nothing_is_debited() {
    let records = Arc::new(TestRecords::default());
    let house = House::with(|config| config.gift.room_gifts_max = 2, records, State::in_memory()).await;
    let (mut gateway, room) = open(&house).await;
    let gate = house.records.hold("pay_gifts");
    let waiting = [gateway.call(ALICE, gift(room, "u1")).await, gateway.call(ALICE, gift(room, "u2")).await];
    gate.wait_for_callers(1).await;
    let answer = gateway.ask(ALICE, gift(room, "u3")).await;
    let reply::Result::Refused(Refused { code, retry_after_ms, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!((code, retry_after_ms > 0), (5_001, true));
    // The room is not held up meanwhile.
    assert!(is_accepted(&gateway.chat(room, ALICE, "hello").await));
    gate.open();
    for id in waiting {
        assert!(is_accepted(&gateway.answer(id).await));
    }
    assert_eq!(house.records.coins(APP, UserId(ALICE)), 100_000 - 20);
    assert!(is_accepted(&gateway.ask(ALICE, gift(room, "u3")).await));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_costs_nothing_twice_and_hides_no_gift() {
    let house = House::start().await;
    let (mut gateway, room) = open(&house).await;
    house.records.lose_answers(1);
    assert_eq!(gateway.refusal(ALICE, gift(room, "u1")).await, Reason::Unavailable);
    assert!(is_accepted(&gateway.ask(ALICE, gift(room, "u2")).await));
    assert!(is_accepted(&gateway.ask(ALICE, gift(room, "u1")).await), "asked again it is told what was");
    assert_eq!(house.records.coins(APP, UserId(ALICE)), 100_000 - 20);
    assert_eq!(gift_seqs(&gateway.rest(PATIENCE).await), [1, 2], "both are heard, in order");
}

#[tokio::test(start_paused = true)]
async fn a_gift_that_is_paid_long_after_its_answer_was_given_up_is_told_and_moves_the_bar_in_its_place() {
    let mut pk = Pk::begin().await;
    pk.house.records.pay_late();
    assert_eq!(pk.gateway.refusal(ALICE, pk_gift(pk.room, ANCHOR.0, "u1")).await, Reason::Unavailable);
    // The outbox is looked into meanwhile, and has nothing.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(is_accepted(&pk.gateway.ask(ALICE, pk_gift(pk.room, CHALLENGER, "u2")).await));
    assert!(is_accepted(&pk.gateway.ask(ALICE, pk_gift(pk.room, ANCHOR.0, "u3")).await));
    let heard = pk.gateway.rest(PATIENCE).await;
    assert_eq!(gift_seqs(&heard), [1, 2, 3]);
    assert_eq!(bars(&heard).last(), Some(&(3, 70)));
    assert_eq!(pk.bar().await.map(|bar| (bar.seq, bar.value)), Some((3, 70)));
}

#[tokio::test(start_paused = true)]
async fn the_ledger_away_is_told_as_5001_and_service_returns_by_itself() {
    let house = House::start().await;
    let (mut gateway, room) = open(&house).await;
    house.records.fail(true);
    assert_eq!(gateway.refusal(ALICE, gift(room, "u1")).await, Reason::Unavailable);
    house.records.fail(false);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(is_accepted(&gateway.ask(ALICE, gift(room, "u1")).await));
    assert_eq!(gift_seqs(&gateway.rest(PATIENCE).await), [1]);
}

#[tokio::test(start_paused = true)]
async fn what_a_router_paid_and_did_not_tell_its_successor_tells_once() {
    let town = Town::new();
    let (a, mut gateway, room) = open_in(&town).await;
    assert!(is_accepted(&gateway.ask(ALICE, gift(room, "u1")).await));
    assert_eq!(data(&gateway.push().await)["giftSeq"], 1);
    // Paid, and the way to the log is cut before the room hears of it.
    let gate = town.records.hold("pay_gifts");
    gateway.call(ALICE, gift(room, "u2")).await;
    gate.wait_for_callers(1).await;
    a.cut(true);
    gate.open();
    tokio::time::sleep(LEASE).await;
    assert_eq!(town.records.untold_seqs(room).last(), Some(&2));
    town.shows(&["b"]);
    let b = town.router("b").await;
    let mut other = b.house.gateway("g2");
    tokio::time::sleep(SEEN).await;
    // Whether it is told before he comes or after: he sees each once.
    let messages = snapshot(&other.join(room, BOB).await).messages;
    let seq = |body: &billfish_wire::Body| serde_json::from_str::<Value>(body.data.as_deref()?).ok()?["giftSeq"].as_i64();
    let mut seen: Vec<i64> = messages.iter().filter_map(seq).collect();
    seen.extend(gift_seqs(&other.rest(PATIENCE).await));
    assert_eq!(seen, [1, 2]);
    assert_eq!(town.records.untold_seqs(room), [0_i64; 0]);
    assert_eq!(town.records.gifts_of(room).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn gifts_of_a_room_that_nobody_asks_for_are_told_all_the_same() {
    let town = Town::new();
    let (a, mut gateway, room) = open_in(&town).await;
    let gate = town.records.hold("pay_gifts");
    gateway.call(ALICE, gift(room, "u1")).await;
    gate.wait_for_callers(1).await;
    a.cut(true);
    gate.open();
    tokio::time::sleep(LEASE).await;
    assert_eq!(town.records.untold_seqs(room), [1]);
    town.shows(&["b"]);
    let _b: Router = town.router("b").await;
    tokio::time::sleep(SEEN + Duration::from_secs(10)).await;
    assert_eq!(town.records.untold_seqs(room), [0_i64; 0], "the room was woken for them");
}

#[tokio::test(start_paused = true)]
async fn a_stale_owner_pays_nothing() {
    let town = Town::new();
    let (a, mut gateway, room) = open_in(&town).await;
    let gate = town.records.hold("pay_gifts");
    let id = gateway.call(ALICE, gift(room, "u1")).await;
    gate.wait_for_callers(1).await;
    // It stands still with the gift on its way to the ledger, and another takes the room.
    a.cut(true);
    tokio::time::sleep(LEASE).await;
    town.shows(&["b"]);
    let b = town.router("b").await;
    let mut other = b.house.gateway("g2");
    tokio::time::sleep(SEEN).await;
    other.join(room, BOB).await;
    gate.open();
    let answer = gateway.answer(id).await;
    assert!(!is_accepted(&answer), "{answer:?}");
    assert_eq!(town.records.coins(APP, UserId(ALICE)), 100_000);
}

#[tokio::test(start_paused = true)]
async fn taps_of_one_combo_are_heard_together_and_counted_apart() {
    let house = House::start().await;
    let (mut gateway, room) = open(&house).await;
    for turn in 0..10 {
        let tap = json!({"giftId": 1, "receiverId": ANCHOR.0, "uuid": turn.to_string(), "comboId": "c"});
        assert!(is_accepted(&gateway.ask(ALICE, gift_of(room, tap)).await));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let heard = gateway.rest(PATIENCE).await;
    let nums: Vec<i64> = events(&heard).iter().filter_map(|(_, data)| data["num"].as_i64()).collect();
    assert!(nums.len() <= 3 && nums[0] == 1 && nums.iter().sum::<i64>() == 10, "{nums:?}");
    assert_eq!(gift_seqs(&heard), (1..=10).collect::<Vec<_>>());
    assert_eq!(house.records.coins(APP, UserId(ALICE)), 100_000 - 100, "each is a gift of its own");
    assert_eq!(house.records.untold_seqs(room), [0_i64; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_challenger_takes_the_seat_once_and_the_room_hears_of_him() {
    let house = House::start().await;
    let room = open_pk(&house).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    gateway.join(room, CHALLENGER).await;
    gateway.join(room, ANCHOR.0).await;
    let online = async |user: i64| house.handle.pk_online(None, room, UserId(user)).await;
    assert_eq!(reason(online(ANCHOR.0).await), Reason::NotAReceiver, "the anchor himself");
    assert_eq!(reason(online(BOB).await), Reason::RoomNotFound, "who is not in the room");
    online(CHALLENGER).await.unwrap();
    let push = gateway.push().await;
    assert_eq!((body(&push).biz_code, body(&push).qos, &data(&push)["pkObjId"]), (5_559, 1, &json!(CHALLENGER)));
    assert_eq!(reason(online(ALICE).await), Reason::PkTaken);
    assert_eq!(reason(online(CHALLENGER).await), Reason::RateLimited, "once in three seconds");
    tokio::time::sleep(Duration::from_secs(3)).await;
    online(CHALLENGER).await.unwrap();
    let other = Some(AppId(10_002));
    assert_eq!(reason(house.handle.pk_offline(other, room, UserId(CHALLENGER)).await), Reason::RoomNotFound, "a user of another app");
    assert_eq!(reason(house.handle.pk(other, room).await), Reason::RoomNotFound);
    let normal = house.open(UserId(30_002)).await;
    gateway.join(normal, BOB).await;
    assert_eq!(reason(house.handle.pk_online(None, normal, UserId(BOB)).await), Reason::NotAReceiver, "a room that is not of type 2");
}

#[tokio::test(start_paused = true)]
async fn the_bar_moves_by_a_tenth_of_the_price_and_stays_at_its_end_while_gifts_go_on() {
    let Pk { house, mut gateway, room } = Pk::begin().await;
    for (turn, (receiver, expected)) in
        [(ANCHOR.0, 70), (CHALLENGER, 50), (ANCHOR.0, 70), (ANCHOR.0, 90), (ANCHOR.0, 100), (CHALLENGER, 100), (ANCHOR.0, 100)]
            .into_iter()
            .enumerate()
    {
        assert!(is_accepted(&gateway.ask(ALICE, pk_gift(room, receiver, &turn.to_string())).await));
        let push = loop {
            let push = gateway.push().await;
            if body(&push).key.is_empty() {
                break push;
            }
        };
        let seq = i64::try_from(turn).unwrap() + 1;
        let data = data(&push);
        assert_eq!((&data["pkNum"], &data["sendGiftSeqNum"]), (&json!(expected), &json!(seq)), "{data}");
        assert_eq!(data["winnerId"].as_i64(), (expected == 100).then_some(ANCHOR.0));
    }
    assert_eq!(house.records.coins(APP, UserId(ALICE)), 100_000 - 7 * 200, "gifts after the end are paid and shown");
    let states: Vec<(i64, i64)> = bars(&gateway.rest(PATIENCE).await);
    assert_eq!(states.last(), Some(&(7, 100)));
}

#[tokio::test(start_paused = true)]
async fn who_comes_in_the_middle_sees_the_bar_in_the_snapshot() {
    let Pk { house: _house, mut gateway, room } = Pk::begin().await;
    assert!(is_accepted(&gateway.ask(ALICE, pk_gift(room, ANCHOR.0, "u1")).await));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seen = snapshot(&gateway.join(room, CAROL).await);
    let bar: Value = serde_json::from_str(seen.states["pk"].data.as_deref().unwrap()).unwrap();
    let expected = json!({"anchorId": ANCHOR.0, "pkObjId": CHALLENGER, "pkNum": 70, "sendGiftSeqNum": 1, "isOver": false});
    assert_eq!(bar, expected);
}

#[tokio::test(start_paused = true)]
async fn no_smaller_sequence_of_the_bar_is_told_after_a_larger_one_and_none_twice_with_another_value() {
    let Pk { house, mut gateway, room } = Pk::begin().await;
    let mut rng = fastrand::Rng::with_seed(7);
    let mut ids = Vec::new();
    for turn in 0..200 {
        let receiver = if rng.bool() { ANCHOR.0 } else { CHALLENGER };
        ids.push(gateway.call(ALICE, pk_gift(room, receiver, &turn.to_string())).await);
        if turn % 25 == 24 {
            for id in ids.drain(..) {
                assert!(is_accepted(&gateway.answer(id).await));
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    }
    let shown = bars(&gateway.rest(PATIENCE).await);
    assert!(shown.windows(2).all(|pair| pair[0].0 < pair[1].0 || pair[0] == pair[1]), "{shown:?}");
    let fold = house
        .records
        .gifts_of(room)
        .iter()
        .fold(PkBar::begin(UserId(CHALLENGER), 0), |bar, gift| bar.after(gift.gift_seq, crate::services::gift::step(gift).unwrap()));
    assert_eq!(shown.last(), Some(&(fold.seq, i64::from(fold.value))));
    assert_eq!(house.handle.pk(None, room).await.unwrap().bar, Some(fold));
    assert_eq!(house.state.pk_bars.bar(room, house.state.clock.now_ms()).await.unwrap(), Some(fold), "and so says the shared state");
}

#[tokio::test(start_paused = true)]
async fn a_bar_stays_within_0_and_100_however_dear_the_gift() {
    for (receiver, end) in [(ANCHOR.0, 100), (CHALLENGER, 0)] {
        let mut pk = Pk::begin().await;
        pk.house.records.sell(3, 1_000_000);
        pk.house.records.give(APP, UserId(ALICE), 10_000_000);
        let dear = gift_of(pk.room, json!({"giftId": 3, "receiverId": receiver, "type": 1, "uuid": "dear"}));
        assert!(is_accepted(&pk.gateway.ask(ALICE, dear).await));
        assert_eq!(pk.bar().await.map(|bar| bar.value), Some(end));
        assert_eq!(bars(&pk.gateway.rest(PATIENCE).await).last(), Some(&(1, i64::from(end))));
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_won_a_pk_has_won_it_once_and_gifts_after_that_are_paid_and_shown() {
    let mut pk = Pk::begin().await;
    for turn in 0..3 {
        assert!(is_accepted(&pk.gateway.ask(ALICE, pk_gift(pk.room, CHALLENGER, &turn.to_string())).await));
    }
    assert_eq!(pk.bar().await.map(|bar| (bar.value, bar.winner)), Some((0, Some(billfish_state::PkWinner::Challenger))));
    let coins = pk.house.records.coins(APP, UserId(ALICE));
    assert_eq!(gift_seqs(&pk.gateway.rest(PATIENCE).await), [1, 2, 3]);
    // As many as would bring the other end near.
    for turn in 3..8 {
        assert!(is_accepted(&pk.gateway.ask(ALICE, pk_gift(pk.room, ANCHOR.0, &turn.to_string())).await));
    }
    assert_eq!(pk.house.records.coins(APP, UserId(ALICE)), coins - 5 * 200, "they are paid");
    let heard = pk.gateway.rest(PATIENCE).await;
    assert_eq!(gift_seqs(&heard), [4, 5, 6, 7, 8], "and shown");
    assert!(bars(&heard).iter().all(|(_, value)| *value == 0), "{:?}", bars(&heard));
    assert_eq!(pk.bar().await.map(|bar| (bar.value, bar.winner)), Some((0, Some(billfish_state::PkWinner::Challenger))));
}

#[tokio::test(start_paused = true)]
async fn only_the_challenger_leaves_the_pk_and_everything_of_it_goes_together() {
    let mut pk = Pk::begin().await;
    assert!(is_accepted(&pk.gateway.ask(ALICE, pk_gift(pk.room, ANCHOR.0, "u1")).await));
    assert_eq!(reason(pk.house.handle.pk_offline(None, pk.room, UserId(ALICE)).await), Reason::NotYourUser);
    assert_eq!(pk.bar().await.map(|bar| bar.value), Some(70));
    pk.house.handle.pk_offline(None, pk.room, UserId(CHALLENGER)).await.unwrap();
    pk.house.handle.pk_offline(None, pk.room, UserId(CHALLENGER)).await.unwrap();
    assert_eq!(pk.bar().await, None);
    assert_eq!(pk.house.state.pk_bars.bar(pk.room, pk.house.state.clock.now_ms()).await.unwrap(), None);
    assert_eq!(bars(&pk.gateway.rest(PATIENCE).await).last(), Some(&(1, 50)));
    assert_eq!(pk.gateway.refusal(ALICE, pk_gift(pk.room, ANCHOR.0, "u2")).await, Reason::NotAReceiver, "no PK is on");
    // The next begins anew, behind the gifts of this one.
    pk.house.handle.pk_online(None, pk.room, UserId(BOB)).await.unwrap();
    assert_eq!(pk.bar().await, Some(PkBar::begin(UserId(BOB), 1)));
    assert_eq!(bars(&pk.gateway.rest(PATIENCE).await).last(), Some(&(1, 50)));
}

#[tokio::test(start_paused = true)]
async fn a_challenger_who_is_lost_has_ten_seconds_to_come_back() {
    let mut pk = Pk::begin().await;
    let gone = |session: u64| {
        let origin = Origin { app_id: APP.0, user_id: CHALLENGER, device: WEB as u32, session };
        Kind::Gone(Gone { origin: Some(origin), room_ids: vec![pk.room.0], logged_out: false })
    };
    let first = gone(CHALLENGER.unsigned_abs());
    pk.gateway.send(first.clone()).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(pk.bar().await.is_some(), "a tunnel does not end a PK");
    pk.gateway.join(pk.room, CHALLENGER).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(pk.bar().await.is_some(), "he is back");
    pk.gateway.send(first).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(pk.bar().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_challenger_who_leaves_the_room_leaves_the_pk_at_once() {
    let mut pk = Pk::begin().await;
    pk.gateway.ask(CHALLENGER, leave(pk.room)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(pk.bar().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_pk_that_was_begun_by_a_call_whose_answer_was_lost_is_on() {
    let house = House::start().await;
    let room = open_pk(&house).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, CHALLENGER).await;
    gateway.join(room, BOB).await;
    // Its answer never came to the room.
    let begun = crate::services::ports::RoomRecords::begin_pk(&*house.records, room, 1, UserId(CHALLENGER), 0).await.unwrap();
    assert!(matches!(begun, crate::services::ports::BeginPk::Begun(_)));
    assert_eq!(reason(house.handle.pk_online(None, room, UserId(BOB)).await), Reason::PkTaken);
    assert_eq!(bars(&gateway.rest(Duration::from_millis(300)).await).last(), Some(&(0, 50)), "the room sees who is there");
    house.handle.pk_online(None, room, UserId(CHALLENGER)).await.unwrap();
    house.handle.pk_offline(None, room, UserId(CHALLENGER)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    house.handle.pk_online(None, room, UserId(BOB)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_gift_that_is_asked_for_again_while_it_is_with_the_ledger_is_not_refused_for_good() {
    let mut pk = Pk::begin().await;
    let gate = pk.house.records.hold("pay_gifts");
    let first = pk.gateway.call(ALICE, pk_gift(pk.room, CHALLENGER, "u1")).await;
    gate.wait_for_callers(1).await;
    pk.house.handle.remove_gift(GiftId(2)).await.unwrap();
    assert_eq!(pk.gateway.refusal(ALICE, pk_gift(pk.room, CHALLENGER, "u1")).await, Reason::Unavailable);
    gate.open();
    assert!(is_accepted(&pk.gateway.answer(first).await));
    assert!(is_accepted(&pk.gateway.ask(ALICE, pk_gift(pk.room, CHALLENGER, "u1")).await));
}

#[tokio::test(start_paused = true)]
async fn taps_whose_way_to_the_log_is_in_doubt_are_each_heard_once() {
    let town = Town::new();
    let (a, mut gateway, room) = open_in(&town).await;
    let tap = |uuid: &str| gift_of(room, json!({"giftId": 1, "receiverId": ANCHOR.0, "uuid": uuid, "comboId": "c"}));
    // What the log is told is written, and nobody hears so, for some tries.
    a.between.answers_lost.store(4, Relaxed);
    for uuid in ["u1", "u2", "u3", "u4"] {
        assert!(is_accepted(&gateway.ask(ALICE, tap(uuid)).await));
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    let mut seen = gift_seqs(&gateway.rest(PATIENCE).await);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [1, 2, 3, 4]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(town.records.untold_seqs(room), [0_i64; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_challenger_who_logs_out_leaves_the_pk_at_once() {
    let pk = Pk::begin().await;
    let origin = Origin { app_id: APP.0, user_id: CHALLENGER, device: WEB as u32, session: CHALLENGER.unsigned_abs() };
    pk.gateway.send(Kind::Gone(Gone { origin: Some(origin), room_ids: vec![pk.room.0], logged_out: true })).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(pk.bar().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_bar_that_the_shared_state_lost_is_made_again_from_the_ledger() {
    let mut pk = Pk::begin().await;
    for turn in 0..2 {
        assert!(is_accepted(&pk.gateway.ask(ALICE, pk_gift(pk.room, ANCHOR.0, &turn.to_string())).await));
    }
    let bars = &pk.house.state.pk_bars;
    let now_ms = pk.house.state.clock.now_ms();
    assert!(bars.clear(pk.room, UserId(CHALLENGER), 0).await.unwrap());
    assert_eq!(pk.bar().await.map(|bar| bar.value), Some(90), "who asks is told by the ledger");
    assert!(is_accepted(&pk.gateway.ask(ALICE, pk_gift(pk.room, CHALLENGER, "u")).await));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bars.bar(pk.room, now_ms).await.unwrap().map(|bar| (bar.seq, bar.value)), Some((3, 70)), "and it is put back");
}

#[tokio::test(start_paused = true)]
async fn the_next_owner_goes_on_with_the_bar_where_it_stood() {
    let town = Town::new();
    let (a, room) = begin_in(&town).await;
    a.cut(true);
    // Of this one only the ledger knows.
    a.between.state.pk_bars.clear(room, UserId(CHALLENGER), 0).await.unwrap();
    tokio::time::sleep(LEASE).await;
    town.shows(&["b"]);
    let b = town.router("b").await;
    let mut other = b.house.gateway("g2");
    tokio::time::sleep(SEEN).await;
    interest(&other, room, 0).await;
    other.join(room, ALICE).await;
    other.join(room, CHALLENGER).await;
    assert!(is_accepted(&other.ask(ALICE, pk_gift(room, ANCHOR.0, "u2")).await));
    assert_eq!(bars(&other.rest(PATIENCE).await).last(), Some(&(2, 90)));
    assert_eq!(b.between.answer_ms.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_router_that_goes_tells_what_was_paid_first() {
    let house = House::start().await;
    let (mut gateway, room) = open(&house).await;
    let gate = house.records.hold("pay_gifts");
    let id = gateway.call(ALICE, gift(room, "u1")).await;
    gate.wait_for_callers(1).await;
    let drained = tokio::spawn(async move {
        house.running.drain().await;
        house
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    gate.open();
    assert!(is_accepted(&gateway.answer(id).await));
    let house = drained.await.unwrap();
    assert_eq!(gift_seqs(&gateway.rest(Duration::from_secs(1)).await), [1]);
    assert_eq!(house.records.coins(APP, UserId(ALICE)), 99_990);
}

#[tokio::test(start_paused = true)]
async fn a_room_that_closes_tells_its_gifts_and_ends_its_pk() {
    let mut pk = Pk::begin().await;
    assert!(is_accepted(&pk.gateway.ask(ALICE, pk_gift(pk.room, ANCHOR.0, "u1")).await));
    pk.house.handle.close_room(pk.room, ANCHOR).await.unwrap();
    assert_eq!(gift_seqs(&pk.gateway.rest(PATIENCE).await), [1]);
    assert_eq!(pk.house.state.pk_bars.bar(pk.room, pk.house.state.clock.now_ms()).await.unwrap(), None);
    assert_eq!(pk.gateway.refusal(ALICE, gift(pk.room, "u2")).await, Reason::RoomNotFound);
}

#[tokio::test(start_paused = true)]
async fn a_gift_that_was_paid_is_told_so_also_when_the_rules_say_otherwise_by_then() {
    let mut pk = Pk::begin().await;
    let (records, room) = (Arc::clone(&pk.house.records), pk.room);
    records.lose_answers(1);
    assert_eq!(pk.gateway.refusal(ALICE, pk_gift(room, CHALLENGER, "u1")).await, Reason::Unavailable);
    let paid = 100_000 - 200;
    assert_eq!(records.coins(APP, UserId(ALICE)), paid);
    // The PK ends, the gift is sold no more, she leaves, the room closes: it stays paid, and she hears so.
    pk.house.handle.pk_offline(None, room, UserId(CHALLENGER)).await.unwrap();
    assert!(is_accepted(&pk.gateway.ask(ALICE, pk_gift(room, CHALLENGER, "u1")).await));
    pk.house.handle.remove_gift(GiftId(2)).await.unwrap();
    assert!(is_accepted(&pk.gateway.ask(ALICE, pk_gift(room, CHALLENGER, "u1")).await));
    assert_eq!(pk.gateway.refusal(ALICE, pk_gift(room, ANCHOR.0, "u1")).await, Reason::UuidReused);
    assert_eq!(pk.gateway.refusal(ALICE, pk_gift(room, CHALLENGER, "u2")).await, Reason::UnknownGift, "what was not paid is refused");
    pk.gateway.ask(ALICE, leave(room)).await;
    assert!(is_accepted(&pk.gateway.ask(ALICE, pk_gift(room, CHALLENGER, "u1")).await));
    pk.house.handle.close_room(room, ANCHOR).await.unwrap();
    assert!(is_accepted(&pk.gateway.ask(ALICE, pk_gift(room, CHALLENGER, "u1")).await));
    // While nobody can know, nothing is said for good.
    records.fail(true);
    assert_eq!(pk.gateway.refusal(ALICE, pk_gift(room, CHALLENGER, "u1")).await, Reason::Unavailable);
    records.fail(false);
    assert_eq!(records.coins(APP, UserId(ALICE)), paid);
}

#[tokio::test(start_paused = true)]
async fn a_pk_whose_end_nobody_was_told_of_is_ended_for_the_viewers_by_the_next_owner() {
    let town = Town::new();
    let (a, room) = begin_in(&town).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // It dies between the record and its word.
    a.cut(true);
    assert!(crate::services::ports::RoomRecords::end_pk(&*town.records, room, 1, UserId(CHALLENGER), 0).await.unwrap());
    tokio::time::sleep(LEASE).await;
    town.shows(&["b"]);
    let b = town.router("b").await;
    let mut other = b.house.gateway("g2");
    tokio::time::sleep(SEEN).await;
    other.join(room, BOB).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seen = snapshot(&other.join(room, CAROL).await);
    let bar: Value = serde_json::from_str(seen.states["pk"].data.as_deref().unwrap()).unwrap();
    assert_eq!(bar, json!({"anchorId": ANCHOR.0, "pkNum": 50, "sendGiftSeqNum": 1, "isOver": false}));
}

#[tokio::test(start_paused = true)]
async fn taps_that_a_router_has_told_and_did_not_live_to_say_so_are_told_as_they_were_by_its_successor() {
    let town = Town::new();
    town.shows(&["a"]);
    let a = town.router("a").await;
    sell(&town.records);
    let room = a.house.open(ANCHOR).await;
    let mut gateway = a.house.gateway("g1");
    for user in [ALICE, BOB] {
        town.records.give(APP, UserId(user), 100_000);
        gateway.join(room, user).await;
    }
    let tap = |uuid: &str| gift_of(room, json!({"giftId": 1, "receiverId": ANCHOR.0, "uuid": uuid, "comboId": "c"}));
    // What is told stays in the outbox.
    town.records.fail_after("told", 0);
    assert!(is_accepted(&gateway.ask(ALICE, tap("a1")).await));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(is_accepted(&gateway.ask(BOB, tap("b1")).await));
    for uuid in ["a2", "a3"] {
        assert!(is_accepted(&gateway.ask(ALICE, tap(uuid)).await));
    }
    assert!(is_accepted(&gateway.ask(BOB, tap("b2")).await));
    assert!(is_accepted(&gateway.ask(ALICE, tap("a4")).await));
    // Alice's are told together; Bob's second one is still held, and stands between them.
    let mut seen = gift_seqs(&gateway.rest(Duration::from_millis(150)).await);
    a.cut(true);
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3, 4, 6], "the fifth is held");
    assert_eq!(town.records.untold_seqs(room), [1, 2, 3, 4, 5, 6]);
    town.records.fail_after("told", usize::MAX);
    tokio::time::sleep(LEASE).await;
    town.shows(&["b"]);
    let b = town.router("b").await;
    let mut other = b.house.gateway("g2");
    tokio::time::sleep(SEEN).await;
    let messages = snapshot(&other.join(room, BOB).await).messages;
    // As viewers do, who show an id once.
    let mut shown = std::collections::BTreeMap::new();
    for body in &messages {
        shown.insert(body.msg_id.clone().unwrap(), crate::services::gift::places(&serde_json::to_vec(body).unwrap()));
    }
    for kind in other.rest(PATIENCE).await {
        if let Kind::RoomPush(push) = &kind {
            shown.insert(body(push).msg_id.clone(), gift_seqs(std::slice::from_ref(&kind)));
        }
    }
    let mut places: Vec<i64> = shown.into_values().flatten().collect();
    places.sort_unstable();
    assert_eq!(places, [1, 2, 3, 4, 5, 6], "each by one push");
    assert_eq!(town.records.untold_seqs(room), [0_i64; 0]);
}

/// Of two gateways one says a moment later than the other that it listens to the next owner.
#[tokio::test(start_paused = true)]
async fn a_gift_whose_way_to_the_log_was_in_doubt_when_its_owner_went_is_shown_by_every_gateway_whenever_it_comes() {
    let town = Town::new();
    town.shows(&["a"]);
    let (a, b) = (town.router("a").await, town.router("b").await);
    tokio::time::sleep(SEEN).await;
    sell(&town.records);
    let room = a.house.open(ANCHOR).await;
    let (mut gateway, mut slow) = (a.house.gateway("g1"), a.house.gateway("g2"));
    gateway.join(room, ALICE).await;
    slow.join(room, BOB).await;
    gateway.rest(Duration::from_secs(2)).await;
    // The log has the gift, nobody hears so, and what is said without the log goes past it.
    a.between.answers_lost.store(3, Relaxed);
    assert!(is_accepted(&gateway.ask(ALICE, gift(room, "u1")).await));
    while a.between.answers_lost.load(Relaxed) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    a.cut(true);
    let passed = accepted(gateway.ask(ALICE, chat(room, "newer", "")).await);
    for gateway in [&mut gateway, &mut slow] {
        assert_eq!(gift_seqs(&gateway.rest(Duration::from_secs(1)).await), [0_i64; 0]);
    }
    town.shows(&["b"]);
    tokio::time::sleep(LEASE).await;
    let (mut gateway, mut slow) = (b.house.gateway("g1"), b.house.gateway("g2"));
    interest(&gateway, room, passed).await;
    assert_eq!(gift_seqs(&gateway.rest(PATIENCE).await), [1]);
    assert_eq!(town.records.untold_seqs(room), [0_i64; 0]);
    interest(&slow, room, passed).await;
    assert_eq!(gift_seqs(&slow.rest(PATIENCE).await), [1]);
}

/// What the log says of a gift that is told again is not yet that somebody has seen it.
#[tokio::test(start_paused = true)]
async fn a_gift_that_the_log_has_and_nobody_was_shown_leaves_the_outbox_when_it_is_shown() {
    let town = Town::new();
    let (a, mut gateway, room) = open_in(&town).await;
    gateway.rest(Duration::from_secs(2)).await;
    a.between.answers_lost.store(3, Relaxed);
    // Whether the log has what is in doubt cannot be asked.
    a.between.reads_lost.store(u32::MAX, Relaxed);
    assert!(is_accepted(&gateway.ask(ALICE, gift(room, "u1")).await));
    let heard = gateway.rest(Duration::from_secs(5)).await;
    assert_eq!((gift_seqs(&heard).as_slice(), town.records.untold_seqs(room).as_slice()), ([1].as_slice(), [0_i64; 0].as_slice()));
}
