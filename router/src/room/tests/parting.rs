//! Who goes, and who must not be taken out: late joins, late farewells, and links that are gone while sessions live.

use super::{
    town::{SEEN, Town},
    *,
};
use billfish_state::{Member, SESSIONS_PER_MS};

fn origin(session: u64) -> Origin {
    Origin { app_id: APP.0, user_id: ALICE, device: WEB as u32, session }
}

async fn gone(gateway: &Gateway, room: RoomId, session: u64) {
    gateway.send(Kind::Gone(Gone { origin: Some(origin(session)), room_ids: vec![room.0], logged_out: false })).await;
    settle().await;
}

async fn enter(gateway: &mut Gateway, room: RoomId, session: u64) {
    gateway.interest(room, true).await;
    let id = gateway.call_from(ALICE, WEB, session, join(room, None)).await;
    joined(gateway.answer(id).await);
}

/// Alice's session is the newest of hers, as her LOGIN has told the store.
async fn bind(state: &State, node: &str, session: u64) {
    let route = Route { app: APP, user: UserId(ALICE), device: WEB, node: node.to_owned(), epoch: 1, session };
    let now_ms = state.clock.now_ms();
    state.routes.bind(&[route], now_ms, now_ms + 3_600_000).await.unwrap();
}

/// Time goes by, in which these users show signs of life.
async fn live(state: &State, users: &[i64], seconds: u64) {
    let users: Vec<_> = users.iter().map(|user| (APP, UserId(*user))).collect();
    for _ in 0..seconds / 5 {
        state.presence.touch(&users, state.clock.now_ms()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_join_of_an_older_session_that_is_undone_does_not_take_the_newer_one_out() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let (mut old, mut new) = (house.gateway("g1"), house.gateway("g2"));
    new.join(room, BOB).await;
    enter(&mut new, room, 19).await;
    enter(&mut old, room, 8).await;
    let id = old.call_from(ALICE, WEB, 8, leave(room)).await;
    assert!(matches!(old.answer(id).await, reply::Result::Left(_)));
    assert!(is_accepted(&new.chat(room, ALICE, "still here").await));
    assert_eq!(house.audience(room).await, 2);
    gone(&new, room, 19).await;
    assert_eq!(house.audience(room).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_join_over_a_link_that_has_ended_takes_no_seat() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut other = house.gateway("g2");
    other.join(room, BOB).await;
    let mut gateway = house.gateway("g1");
    gateway.call(ALICE, join(room, None)).await;
    // It is on the link, and nobody will hear the answer.
    drop(gateway);
    settle().await;
    assert_eq!(house.audience(room).await, 1);
}

#[tokio::test(start_paused = true)]
async fn the_late_farewell_of_an_older_session_does_not_take_out_who_joined_an_earlier_owner() {
    let town = Town::new();
    town.shows(&["r1"]);
    let (one, two) = (town.router("r1").await, town.router("r2").await);
    tokio::time::sleep(SEEN).await;
    let room = one.house.open(ANCHOR).await;
    enter(&mut one.house.gateway("g2"), room, 19).await;
    bind(&town.state, "g2", 19).await;
    town.shows(&["r2"]);
    tokio::time::sleep(SEEN + SEEN).await;
    let (mut old, mut new) = (two.house.gateway("g1"), two.house.gateway("g2"));
    new.join(room, BOB).await;
    gone(&old, room, 8).await;
    assert_eq!(two.house.audience(room).await, 2, "her newer session is in");
    enter(&mut old, room, 8).await;
    gone(&old, room, 8).await;
    assert_eq!(two.house.audience(room).await, 2, "nor does a late join change that");
    assert!(is_accepted(&new.chat(room, ALICE, "still here").await));
    gone(&new, room, 19).await;
    assert_eq!(two.house.audience(room).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_farewell_to_a_former_owner_that_does_not_know_it_yet_takes_nobody_out() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    enter(&mut gateway, room, 8).await;
    // This router was stopped for longer than its lease lasts. She has come back by the next owner, and that her older session has left is
    // what it finds first when it goes on.
    steal_lease(&house.state, room).await;
    house.state.clock.set(house.state.clock.now_ms() + 7_000);
    let id = gateway.call_from(ALICE, WEB, 8, leave(room)).await;
    assert!(matches!(gateway.answer(id).await, reply::Result::Moved(_)));
    assert_eq!(house.state.members.count(APP, room).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_logs_in_anew_and_does_not_join_again_is_out_with_his_older_session() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, BOB).await;
    // She joined an earlier owner: here she has no seat.
    let member = Member { user: UserId(ALICE), device: WEB };
    house.state.members.join(APP, room, &[member], house.state.clock.now_ms()).await.unwrap();
    enter(&mut gateway, room, 8).await;
    assert_eq!(house.audience(room).await, 2);
    tokio::time::sleep(Duration::from_secs(10)).await;
    bind(&house.state, "g2", house.state.clock.now_ms() * SESSIONS_PER_MS).await;
    gone(&gateway, room, 8).await;
    assert_eq!(house.audience(room).await, 1);
}

#[tokio::test(start_paused = true)]
async fn members_behind_a_link_that_is_gone_stay_as_long_as_they_show_signs_of_life() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let (mut one, mut two) = (house.gateway("g1"), house.gateway("g2"));
    two.join(room, BOB).await;
    enter(&mut one, room, 19).await;
    one.join(room, CAROL).await;
    bind(&house.state, "g1", 19).await;
    drop(one);
    live(&house.state, &[ALICE], 180).await;
    assert_eq!(house.audience(room).await, 2, "Carol has gone silent");
    let mut again = house.gateway("g1");
    again.interest(room, true).await;
    assert!(is_accepted(&again.chat(room, ALICE, "back").await));
    drop(again);
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert_eq!(house.audience(room).await, 1, "silent too");
    assert_eq!(house.metric("router_stale_members_total "), 2.0);
}

#[tokio::test(start_paused = true)]
async fn who_lost_his_seat_with_a_link_is_not_taken_out_by_an_older_sessions_farewell() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let (one, mut two, mut three) = (house.gateway("g1"), house.gateway("g2"), house.gateway("g3"));
    three.join(room, BOB).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let session = house.state.clock.now_ms() * SESSIONS_PER_MS;
    enter(&mut two, room, session).await;
    bind(&house.state, "g2", session).await;
    drop(two);
    live(&house.state, &[ALICE], 90).await;
    gone(&one, room, 8).await;
    assert_eq!(house.audience(room).await, 2);
}

#[tokio::test(start_paused = true)]
async fn members_behind_a_link_that_is_gone_are_out_at_once_where_they_came_back_without_joining() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let (mut one, mut two) = (house.gateway("g1"), house.gateway("g2"));
    two.join(room, BOB).await;
    enter(&mut one, room, 8).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    drop(one);
    bind(&house.state, "g2", house.state.clock.now_ms() * SESSIONS_PER_MS).await;
    live(&house.state, &[ALICE], 70).await;
    assert_eq!(house.audience(room).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_farewell_lost_with_a_link_is_made_up_for_by_the_silence_that_follows() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    enter(&mut gateway, room, 8).await;
    gateway.join(room, BOB).await;
    drop(gateway);
    let mut gateway = house.gateway("g1");
    gateway.interest(room, true).await;
    live(&house.state, &[BOB], 130).await;
    assert_eq!(house.audience(room).await, 1, "Bob lives");
    assert!(is_accepted(&gateway.chat(room, BOB, "here").await));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_taken_out_for_signs_of_life_that_the_store_has_forgotten() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let member = Member { user: UserId(ALICE), device: WEB };
    house.state.members.join(APP, room, &[member], house.state.clock.now_ms()).await.unwrap();
    let mut gateway = house.gateway("g1");
    gateway.join(room, BOB).await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    house.state.watch.may_have_forgotten();
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(house.audience(room).await, 2, "her next sign of life may be under way");
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(house.audience(room).await, 1);
}
