//! What the anchor and the administrator order.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_anchor_has_one_live_room() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    assert_eq!(house.handle.open_room(open_room(ANCHOR)).await, Ok(Opened::AlreadyLive(room)));
    house.handle.close_room(room, ANCHOR).await.unwrap();
    assert!(matches!(house.handle.open_room(open_room(ANCHOR)).await, Ok(Opened::New(next)) if next.room != room));
}

#[tokio::test(start_paused = true)]
async fn closing_tells_the_members_takes_them_out_and_refuses_later_joins() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    house.say(room, "{}").await;
    gateway.push().await;
    assert_eq!(reason(house.handle.close_room(room, UserId(ALICE)).await), Reason::NotYourUser, "only its anchor");
    house.handle.close_room(room, ANCHOR).await.unwrap();
    let push = gateway.push().await;
    assert_eq!((data(&push), body(&push).class), (json!({"type": "closed"}), 0));
    let rest = gateway.rest(PATIENCE).await;
    assert!(matches!(rest.as_slice(), [Kind::Evict(evict)] if evict.room_id == room.0 && evict.user_id == 0), "{rest:?}");
    assert_eq!(house.records.closed().len(), 1);
    assert_eq!(reason(house.handle.room(room).await), Reason::RoomNotFound);
    assert_eq!(reason(house.handle.close_room(room, ANCHOR).await), Reason::RoomNotFound);
    assert_eq!(gateway.refusal(ALICE, join(room, None)).await, Reason::RoomNotFound);
    assert_eq!(gateway.refusal(ALICE, chat(room, "late", "m")).await, Reason::RoomNotFound);
    assert_eq!(house.state.members.count(APP, room).await.unwrap(), 0);
    assert_eq!(house.state.room_log.last(room, 10, 0).await.unwrap(), []);
    assert_eq!(house.metric("router_rooms "), 0.0);
    // A gateway that was away hears of it as soon as it asks.
    gateway.interest(room, true).await;
    assert!(matches!(gateway.next().await, Kind::Evict(evict) if evict.room_id == room.0));
}

#[tokio::test(start_paused = true)]
async fn a_mute_silences_until_it_is_over_or_lifted() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    let mute = |by| MuteRequest { room, user: UserId(ALICE), by, duration: Some(Duration::from_secs(60)) };
    assert_eq!(reason(house.handle.mute(mute(Operator::User(UserId(BOB)))).await), Reason::NotYourUser);
    house.handle.mute(mute(Operator::User(ANCHOR))).await.unwrap();
    assert_eq!(data(&gateway.push().await)["type"], "muted");
    assert_eq!(gateway.refusal(ALICE, chat(room, "x", "")).await, Reason::Muted);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(is_accepted(&gateway.chat(room, ALICE, "free again").await));
    house.handle.mute(MuteRequest { duration: None, ..mute(Operator::Admin) }).await.unwrap();
    assert_eq!(gateway.refusal(ALICE, chat(room, "x", "")).await, Reason::Muted);
    house.handle.unmute(room, UserId(ALICE), Operator::Admin).await.unwrap();
    assert!(is_accepted(&gateway.chat(room, ALICE, "free").await));
    assert_eq!(reason(house.handle.mute(MuteRequest { user: ANCHOR, ..mute(Operator::Admin) }).await), Reason::Malformed);
}

#[tokio::test(start_paused = true)]
async fn a_ban_is_told_puts_out_and_keeps_out() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    gateway.join(room, BOB).await;
    house.handle.ban(MuteRequest { room, user: UserId(ALICE), by: Operator::Admin, duration: None }).await.unwrap();
    assert_eq!(data(&gateway.push().await)["type"], "banned");
    let rest = gateway.rest(PATIENCE).await;
    assert!(rest.iter().any(|kind| matches!(kind, Kind::Evict(evict) if evict.user_id == ALICE)), "{rest:?}");
    assert_eq!(house.audience(room).await, 1);
    assert_eq!(gateway.refusal(ALICE, join(room, None)).await, Reason::Banned);
    house.handle.unban(room, UserId(ALICE), Operator::Admin).await.unwrap();
    gateway.join(room, ALICE).await;
}

#[tokio::test(start_paused = true)]
async fn moderation_outlives_the_life_of_a_room() {
    let records = Arc::new(TestRecords::default());
    let house = House::with(|_| {}, records.clone(), State::in_memory()).await;
    let room = house.open(ANCHOR).await;
    house.handle.ban(MuteRequest { room, user: UserId(ALICE), by: Operator::Admin, duration: None }).await.unwrap();
    house.handle.set_slow_mode(room, Operator::Admin, Duration::from_secs(30)).await.unwrap();
    house.handle.set_room_block_words(room, Operator::Admin, vec!["spam".to_owned()]).await.unwrap();
    house.running.drain().await;
    let house = House::with(|_| {}, records, State::in_memory()).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, BOB).await;
    assert_eq!(gateway.refusal(ALICE, join(room, None)).await, Reason::Banned);
    assert_eq!(gateway.refusal(BOB, chat(room, "SPAM", "")).await, Reason::Malformed);
    assert!(is_accepted(&gateway.chat(room, BOB, "one").await));
    assert_eq!(gateway.refusal(BOB, chat(room, "two", "")).await, Reason::RateLimited);
    house.handle.set_slow_mode(room, Operator::Admin, Duration::ZERO).await.unwrap();
    assert!(is_accepted(&gateway.chat(room, BOB, "two").await));
    assert_eq!(reason(house.handle.set_slow_mode(room, Operator::Admin, Duration::from_secs(601)).await), Reason::Malformed);
}
