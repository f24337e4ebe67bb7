//! Routers that the registry drops, or that drain: what waits for them goes to the next owners without waiting for the end of their links.

use super::{turns::two_routers, *};

fn call(house: &House, session: u64, call: UpCall) {
    assert!(house.upstream.call(key(0), origin(session), 1, call, 0));
}

fn say(house: &House, session: u64, room_id: i64, msg_id: &str) {
    call(house, session, UpCall::Biz { room_id, biz_code: 5555, data: msg_id.to_owned(), msg_id: msg_id.to_owned() });
}

#[test]
fn calls_of_a_router_that_left_the_registry_go_to_the_next_owner_in_order_and_are_answered_once() {
    let (house, first, second, room) = two_routers();
    house.place(&[("r1", false), ("r2", false)]);
    house.join(1, room);
    say(&house, 1, room, "a");
    call(&house, 2, UpCall::Leave { room_id: room });
    say(&house, 1, room, "b");
    house.sent(first);
    house.place(&[("r2", false)]);
    let expected = ["interest ROOM true 0", "join ROOM of 1", "biz a of 1", "leave ROOM of 2", "biz b of 1"];
    assert_eq!(house.sent(second), expected.map(|line| line.replace("ROOM", &room.to_string())));
    assert_eq!(house.sent(first), [format!("interest {room} false 0")], "should it wake up");
    // It does, and does not own the room any more. The calls are elsewhere.
    house.upstream.moved(first, 2, "r2", 0);
    assert_eq!(house.sent(second), [""; 0]);
    say(&house, 1, room, "c");
    assert_eq!(house.sent(second), ["biz c of 1"]);
    for id in 1..=5 {
        assert!(house.answered(id).is_some());
        assert!(house.upstream.answered(first, id, Said::Other, 0).is_none());
    }
    assert_eq!((house.counters.upstream_retries.value(), house.counters.replies_stale.value()), (4, 5));
    assert_eq!(house.counters.links_lost.value(), 0);
}

#[test]
fn calls_of_a_router_that_drains_go_to_the_next_owner_and_what_it_still_answers_counts() {
    let (house, first, second, room) = two_routers();
    house.enter(9, room);
    say(&house, 1, room, "a");
    call(&house, 1, UpCall::Sync { room_id: room, from_seq: 4, from_id: String::new(), resume: false });
    house.sent(first);
    house.place(&[("r1", true), ("r2", false)]);
    assert_eq!(house.sent(second), [format!("interest {room} true 1"), "biz a of 1".into(), format!("sync {room} of 1")]);
    assert!(house.upstream.answered(first, 2, Said::Other, 0).is_some());
    // It owns the room until it gives it back, and is named for that long.
    house.upstream.moved(second, 3, "r1", 0);
    assert_eq!(house.sent(first), [format!("interest {room} false 0"), format!("interest {room} true 1"), format!("sync {room} of 1")]);
}

#[test]
fn a_message_that_no_router_would_recognise_waits_for_the_end_of_the_link() {
    let (house, first, second, room) = two_routers();
    house.biz(1, room, "a");
    house.sent(first);
    house.place(&[("r2", false)]);
    assert_eq!(house.sent(second), [""; 0], "its router may have said it, and only its answer be late");
    house.upstream.link_down(first);
    assert_eq!(house.sent(second), ["biz a of 1"]);
}

#[test]
fn a_router_that_takes_rooms_over_from_one_that_lives_gets_none_of_its_calls() {
    let (house, first, second, room) = two_routers();
    house.place(&[("r2", false)]);
    say(&house, 1, room, "a");
    assert_eq!(house.sent(second), ["biz a of 1"]);
    house.place(&[("r1", false), ("r2", false)]);
    assert_eq!(house.sent(first), [""; 0], "the former owner answers, or says whose the room is");
}

#[test]
fn a_registry_that_knows_no_router_moves_no_call() {
    let (house, first, second, room) = two_routers();
    say(&house, 1, room, "a");
    house.sent(first);
    house.place(&[]);
    assert_eq!((house.sent(first), house.sent(second)), (vec![], vec![]));
}

#[test]
fn calls_of_a_router_that_left_the_registry_go_to_the_first_other_one_that_is_linked() {
    let house = House::new();
    let first = house.up("r1");
    house.place(&[("r2", false)]);
    say(&house, 1, ROOM, "a");
    assert_eq!(house.sent(first), ["biz a of 1"], "nobody else is there to be asked");
    let second = house.up("r2");
    assert_eq!(house.sent(second), ["biz a of 1"]);
}

/// Hung, it keeps its lease for as long as its registration, and the next owner names it for as long.
#[test]
fn an_owner_that_the_registry_has_dropped_is_not_asked_again_when_it_is_named() {
    let (house, first, second, room) = two_routers();
    say(&house, 1, room, "a");
    house.sent(first);
    house.place(&[("r2", false)]);
    assert_eq!(house.sent(second), ["biz a of 1"]);
    house.upstream.moved(second, 1, "r1", 0);
    assert_eq!((house.sent(first), house.sent(second)), (vec![], vec![]), "it waits");
    house.upstream.retry(100);
    assert_eq!(house.sent(second), ["biz a of 1"]);
}

#[test]
fn a_leave_that_a_newer_join_has_overtaken_does_not_move() {
    let (house, first, second, room) = two_routers();
    call(&house, 1, UpCall::Leave { room_id: room });
    house.join(1, room);
    house.sent(first);
    house.place(&[("r2", false)]);
    assert_eq!(house.sent(second), [format!("interest {room} true 0"), format!("join {room} of 1")]);
}

/// The next owner was told when nothing had been seen; between this snapshot and its own life of the room something may have been said.
#[test]
fn a_join_that_the_former_owner_still_granted_tells_the_next_how_far_its_snapshot_goes() {
    let (house, first, second, room) = two_routers();
    house.join(1, room);
    house.sent(first);
    house.place(&[("r1", true), ("r2", false)]);
    assert_eq!(house.last_seq_told(second), [0]);
    let seq = (5 << 32) + 7;
    assert!(house.upstream.answered(first, 1, Said::Joined { seq }, 0).is_some());
    assert_eq!(house.last_seq_told(second), [seq]);
}
