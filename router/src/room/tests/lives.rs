//! One life of a room after another; gateways that die.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_idle_room_sleeps_and_its_next_life_goes_on_with_larger_numbers() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    let before = house.say(room, "kept").await;
    house.handle.push(PushRequest { key: Some("pk".to_owned()), ..room_push(room, "55") }).await.unwrap();
    gateway.ask(ALICE, leave(room)).await;
    gateway.interest(room, false).await;
    tokio::time::sleep(Duration::from_secs(4 * 60)).await;
    assert_eq!(house.metric("router_rooms "), 1.0);
    tokio::time::sleep(Duration::from_secs(2 * 60)).await;
    assert_eq!(house.metric("router_rooms "), 0.0);
    let joined = gateway.join(room, ALICE).await;
    assert!(joined.seq > before);
    let snapshot = snapshot(&joined);
    assert_eq!(snapshot.messages[0].data.as_deref(), Some("kept"));
    assert_eq!(snapshot.states["pk"].data.as_deref(), Some("55"), "states outlive a life");
    assert!(house.say(room, "next").await > joined.seq);
}

#[tokio::test(start_paused = true)]
async fn a_room_whose_lease_is_lost_stops_at_once_and_says_nothing_more() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    gateway.rest(Duration::from_secs(2)).await;
    // Another router takes the lease, as it would after this one had been stopped for longer than it lasts.
    steal_lease(&house.state, room).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(house.metric("router_rooms_lost_total "), 1.0);
    assert_eq!(gateway.moved(ALICE, chat(room, "x", "m")).await, "", "the thief is no router that is known");
    assert_eq!(gateway.rest(PATIENCE).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_new_life_knows_the_gateways_that_are_still_interested() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    let stolen = steal_lease(&house.state, room).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    house.state.leases.release(&owner_of(room), &stolen.holder, stolen.epoch).await.unwrap();
    // Somebody listens: the room begins again by itself.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(house.metric("router_rooms "), 1.0);
    gateway.rest(Duration::from_secs(1)).await;
    house.say(room, "back").await;
    assert_eq!(body(&gateway.push().await).data, "back");
}

#[tokio::test(start_paused = true)]
async fn members_of_a_gateway_that_died_are_out_after_two_heartbeat_gaps() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let (mut one, mut two) = (house.gateway("g1"), house.gateway("g2"));
    one.join(room, ALICE).await;
    two.join(room, BOB).await;
    assert_eq!(house.audience(room).await, 2);
    drop(one);
    tokio::time::sleep(Duration::from_secs(55)).await;
    assert_eq!(house.audience(room).await, 2, "it may come back");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(house.audience(room).await, 1);
    assert_eq!(house.metric("router_stale_members_total "), 1.0);
}

#[tokio::test(start_paused = true)]
async fn members_that_nobody_vouches_for_are_found_by_their_silence() {
    let state = State::in_memory();
    let house = House::with(|_| {}, Arc::new(TestRecords::default()), state.clone()).await;
    let room = house.open(ANCHOR).await;
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    // Left behind by an earlier owner and its gateways. Bob still shows life.
    for user in [ALICE, BOB] {
        let member = billfish_state::Member { user: UserId(user), device: WEB };
        state.members.join(APP, room, &[member], now_ms).await.unwrap();
    }
    let mut gateway = house.gateway("g1");
    gateway.join(room, CAROL).await;
    assert_eq!(house.audience(room).await, 3);
    for _ in 0..8 {
        let elapsed = house.running.core.state.clock.now_ms();
        state.presence.touch(&[(APP, UserId(BOB))], elapsed).await.unwrap();
        tokio::time::sleep(Duration::from_secs(15)).await;
    }
    assert_eq!(house.audience(room).await, 2, "Alice is out, Bob and Carol are in");
}

/// A gateway that stood still has not been sent the end of a life, and the next begins: before it is sent to resume, or while it stands
/// still yet.
#[tokio::test(start_paused = true)]
async fn a_life_that_ends_with_a_hole_is_made_good_by_the_next() {
    for stands_still in [false, true] {
        let house = House::start().await;
        let room = house.open(ANCHOR).await;
        let mut gateway = house.gateway("g1");
        gateway.join(room, ALICE).await;
        let dropped = r#"router_link_dropped_total{class="event",reason="link_stalled"} "#;
        let mut said = Vec::new();
        while house.metric(dropped) == 0.0 {
            said.push(house.say(room, &said.len().to_string()).await);
        }
        said.push(house.say(room, &said.len().to_string()).await);
        let stolen = steal_lease(&house.state, room).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(house.metric("router_rooms_lost_total "), 1.0);
        let mut heard = std::mem::take(&mut gateway.heard);
        let mut read = |gateway: &mut Gateway| {
            while let Ok(kind) = gateway.link.receiver.try_recv() {
                heard.push(kind);
            }
        };
        if !stands_still {
            read(&mut gateway);
        }
        house.state.leases.release(&owner_of(room), &stolen.holder, stolen.epoch).await.unwrap();
        while house.metric("router_rooms ") == 0.0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        said.push(house.say(room, &said.len().to_string()).await);
        // One at a time, and time for what the room does by its timers.
        for _ in 0..100 {
            read(&mut gateway);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let is_event = |kind: &&Kind| matches!(kind, Kind::RoomPush(push) if body(push).key.is_empty());
        let shown: Vec<i64> =
            heard.iter().filter(is_event).map(|kind| if let Kind::RoomPush(push) = kind { body(push).seq } else { 0 }).collect();
        assert_eq!(shown, said, "stands still: {stands_still}");
        assert!(!heard.iter().any(|kind| matches!(kind, Kind::Kick(_))), "nobody has to resume");
    }
}
