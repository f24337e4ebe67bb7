//! Members whom gateways name: to a new owner, to one whose store has forgotten, in spite of who is sent out or leaves meanwhile.

use super::{
    town::{LEASE, SEEN, Town, interest},
    *,
};
use billfish_link::message::{RollCall, Seats};
use billfish_state::Member;

/// Longer than it takes until members who were named are written.
const WRITTEN: Duration = Duration::from_millis(500);

/// The next question for members.
async fn question(gateway: &mut Gateway) -> RollCall {
    loop {
        if let Kind::RollCall(call) = gateway.next().await {
            return call;
        }
    }
}

/// The whole answer.
async fn name(gateway: &Gateway, call: &RollCall, users: &[i64]) {
    name_part(gateway, call, users, 1, true).await;
}

async fn name_part(gateway: &Gateway, call: &RollCall, users: &[i64], parts: u32, last: bool) {
    let origin = |user: &i64| Origin { app_id: APP.0, user_id: *user, device: WEB as u32, session: user.unsigned_abs() };
    let members = users.iter().map(origin).collect();
    let RollCall { room_id, epoch, number } = *call;
    gateway.send(Kind::Seats(Seats { room_id, epoch, number, members, parts, last })).await;
}

async fn contains(state: &State, room: RoomId, users: &[i64]) -> Vec<bool> {
    let users: Vec<UserId> = users.iter().copied().map(UserId).collect();
    state.members.contains(APP, room, &users).await.unwrap()
}

/// A room whose owner went from one router to another: Alice and Bob joined the first. The new one has asked their gateway.
struct Moved {
    town: Town,
    owner: town::Router,
    room: RoomId,
    gateway: Gateway,
    asked: RollCall,
}

impl Moved {
    async fn new() -> Self {
        Self::forgetting(false).await
    }

    /// With `forgets` the store loses the room's members while nobody owns it.
    async fn forgetting(forgets: bool) -> Self {
        let town = Town::new();
        town.shows(&["r1"]);
        let (one, owner) = (town.router("r1").await, town.router("r2").await);
        tokio::time::sleep(SEEN).await;
        let room = one.house.open(ANCHOR).await;
        let mut gateway = one.house.gateway("g1");
        gateway.join(room, ALICE).await;
        gateway.join(room, BOB).await;
        let seen = accepted(gateway.chat(room, ALICE, "before").await);
        one.cut(true);
        town.shows(&["r2"]);
        tokio::time::sleep(SEEN + LEASE).await;
        if forgets {
            town.state.members.remove(APP, room).await.unwrap();
        }
        let mut gateway = owner.house.gateway("g1");
        interest(&gateway, room, seen).await;
        let asked = question(&mut gateway).await;
        Self { town, owner, room, gateway, asked }
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_owner_seats_whom_a_gateway_names_and_hears_them_while_the_store_is_away() {
    let Moved { owner, room, mut gateway, asked, .. } = Moved::new().await;
    name(&gateway, &asked, &[ALICE, BOB]).await;
    tokio::time::sleep(WRITTEN).await;
    owner.cut(true);
    assert!(is_accepted(&gateway.chat(room, BOB, "not spoken before").await));
    assert_eq!(owner.house.metric(r#"router_seats_told_total{result="seated"} "#), 2.0);
}

#[tokio::test(start_paused = true)]
async fn who_is_named_is_a_member_though_the_store_has_forgotten_him_and_stands_there_again() {
    let Moved { town, owner, room, mut gateway, asked } = Moved::forgetting(true).await;
    // What is said before the list is there waits for it, in order.
    let first = gateway.call(BOB, chat(room, "1", "m1")).await;
    let second = gateway.call(BOB, chat(room, "2", "m2")).await;
    name_part(&gateway, &asked, &[ALICE], 2, true).await;
    name_part(&gateway, &asked, &[BOB], 2, true).await;
    let (first, second) = (accepted(gateway.answer(first).await), accepted(gateway.answer(second).await));
    assert!(first < second);
    assert_eq!(gateway.refusal(CAROL, chat(room, "3", "m3")).await, Reason::RoomNotFound);
    tokio::time::sleep(WRITTEN).await;
    assert_eq!(contains(&town.state, room, &[ALICE, BOB, CAROL]).await, [true, true, false]);
    assert_eq!(owner.house.audience(room).await, 2);
    let told = |kind: &Kind| matches!(kind, Kind::Audience(audience) if audience.members == 2);
    assert!(gateway.rest(Duration::from_secs(2)).await.iter().any(told), "heartbeats are told");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_names_nobody_holds_its_members_up_for_a_moment_only() {
    let Moved { room, mut gateway, .. } = Moved::new().await;
    let start = tokio::time::Instant::now();
    assert!(is_accepted(&gateway.chat(room, BOB, "known to the store").await));
    assert!(start.elapsed() <= Duration::from_secs(1), "{:?}", start.elapsed());
    let start = tokio::time::Instant::now();
    assert!(is_accepted(&gateway.chat(room, BOB, "and at once from then on").await));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn who_is_banned_is_not_seated_and_his_gateway_is_told() {
    let Moved { town, owner, room, mut gateway, .. } = Moved::new().await;
    owner.house.handle.ban(MuteRequest { room, user: UserId(BOB), by: Operator::Admin, duration: None }).await.unwrap();
    // A list that may have been made before is not taken. His gateway names him still: it did not hear the word.
    let asked = question(&mut gateway).await;
    name(&gateway, &asked, &[ALICE, BOB]).await;
    assert_eq!(gateway.refusal(BOB, chat(room, "still here", "m1")).await, Reason::RoomNotFound);
    let evicted = |kind: &&Kind| matches!(kind, Kind::Evict(evict) if evict.user_id == BOB);
    let heard = gateway.rest(Duration::from_secs(1)).await;
    assert_eq!(heard.iter().filter(evicted).count(), 1, "{heard:?}");
    assert_eq!(owner.house.metric(r#"router_seats_told_total{result="banned"} "#), 1.0);
    assert_eq!(contains(&town.state, room, &[ALICE, BOB]).await, [true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_list_from_before_an_eviction_brings_nobody_back() {
    let Moved { town, owner, room, mut gateway, asked } = Moved::new().await;
    owner.house.handle.ban(MuteRequest { room, user: UserId(BOB), by: Operator::Admin, duration: None }).await.unwrap();
    owner.house.handle.unban(room, UserId(BOB), Operator::Admin).await.unwrap();
    name(&gateway, &asked, &[ALICE, BOB]).await;
    let mut evicted = false;
    let again = loop {
        let kind = gateway.next().await;
        if let Kind::RollCall(call) = kind {
            break call;
        }
        evicted |= matches!(kind, Kind::Evict(evict) if evict.user_id == BOB);
    };
    assert!(evicted, "he leaves before he is asked for");
    name(&gateway, &again, &[ALICE]).await;
    assert_eq!(gateway.refusal(BOB, chat(room, "sent out", "m1")).await, Reason::RoomNotFound);
    assert!(is_accepted(&gateway.chat(room, ALICE, "stayed").await));
    tokio::time::sleep(WRITTEN).await;
    assert_eq!(contains(&town.state, room, &[ALICE, BOB]).await, [true, false]);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_behind_a_list_stays_out() {
    let Moved { town, room, mut gateway, asked, .. } = Moved::forgetting(true).await;
    // His leaving is in the queue before the list is whole, and the list before it is written.
    name_part(&gateway, &asked, &[BOB], 2, true).await;
    let left = gateway.call(BOB, leave(room)).await;
    name_part(&gateway, &asked, &[ALICE], 2, true).await;
    assert!(matches!(gateway.answer(left).await, reply::Result::Left(_)));
    // Late, and said twice.
    name(&gateway, &asked, &[BOB]).await;
    assert_eq!(gateway.refusal(BOB, chat(room, "gone", "m1")).await, Reason::RoomNotFound);
    tokio::time::sleep(WRITTEN).await;
    assert_eq!(contains(&town.state, room, &[ALICE, BOB]).await, [true, false]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_an_earlier_life_seats_nobody_and_opens_nothing() {
    let Moved { owner, room, mut gateway, asked, .. } = Moved::forgetting(true).await;
    name(&gateway, &RollCall { epoch: asked.epoch - 1, ..asked }, &[BOB]).await;
    assert_eq!(gateway.refusal(BOB, chat(room, "of another life", "m1")).await, Reason::RoomNotFound);
    let asleep = owner.house.open(UserId(30_002)).await;
    name(&gateway, &RollCall { room_id: asleep.0, ..asked }, &[BOB]).await;
    settle().await;
    assert_eq!(owner.house.metric("router_rooms "), 1.0);
}

#[tokio::test(start_paused = true)]
async fn members_that_the_store_loses_are_written_again_and_asked_for() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    // The gateway links anew, and is asked; so it is known to name its members.
    drop(gateway);
    settle().await;
    let mut gateway = house.gateway("g1");
    interest(&gateway, room, 1 << 32).await;
    let asked = question(&mut gateway).await;
    name(&gateway, &asked, &[ALICE]).await;
    settle().await;
    house.state.members.remove(APP, room).await.unwrap();
    house.state.watch.may_have_forgotten();
    let again = question(&mut gateway).await;
    assert!(again.number > asked.number);
    name(&gateway, &again, &[ALICE, BOB]).await;
    // All rooms have to, so each has its moment within a quarter of the time that a dead member stays.
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert_eq!(contains(&house.state, room, &[ALICE, BOB]).await, [true, true]);
}

#[tokio::test(start_paused = true)]
async fn members_that_the_store_lost_without_a_word_are_found_missing() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    gateway.join(room, BOB).await;
    house.state.members.remove(APP, room).await.unwrap();
    let carol = Member { user: UserId(CAROL), device: WEB };
    house.state.members.join(APP, room, &[carol], house.state.clock.now_ms()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(62)).await;
    assert_eq!(contains(&house.state, room, &[ALICE, BOB]).await, [true, true]);
}
