//! Routers that the registry drops, or that drain: what waits for them goes to the next owners without waiting for the end of their links.

use super::{turns::two_routers, *};
use billfish_ring::Ring;

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

/// The former owner was told that nobody here listens; what is said between its snapshot and the next life of the room would be lost.
#[test]
fn a_join_that_the_former_owner_still_granted_is_the_next_owners_to_grant() {
    let (house, first, second, room) = two_routers();
    house.join(1, room);
    house.sent(first);
    house.place(&[("r1", true), ("r2", false)]);
    assert_eq!(house.sent(second), [format!("interest {room} true 0"), format!("join {room} of 1")]);
    let seq = (5 << 32) + 7;
    assert!(house.upstream.answered(first, 1, Said::Joined { seq }, 0).is_none());
    assert_eq!(house.counters.replies_stale.value(), 1);
    assert!(house.joined(1, 6).is_some());
}

/// The room comes back to a router that hung, over the same link.
#[test]
fn of_a_join_that_is_out_twice_over_one_link_the_second_answer_counts() {
    let (house, first, second, room) = two_routers();
    let both = [("r1", false), ("r2", false)];
    house.place(&both);
    house.join(1, room);
    house.place(&both[1..]);
    house.upstream.moved(second, house.number(1), "", 0);
    house.place(&both);
    house.upstream.retry(100);
    let expected = ["interest ROOM true 0", "join ROOM of 1", "interest ROOM false 0", "interest ROOM true 0", "join ROOM of 1"];
    assert_eq!(house.sent(first), expected.map(|line| line.replace("ROOM", &room.to_string())));
    assert!(house.upstream.answered(first, 1, Said::Joined { seq: 5 << 32 }, 0).is_none(), "what follows this snapshot was sent to nobody");
    assert_eq!(house.sent(first), [""; 0]);
    assert!(house.joined(1, 5).is_some());
}

#[test]
fn a_join_that_may_have_been_granted_before_and_is_refused_leaves_nobody_behind() {
    let (house, first, second, room) = two_routers();
    house.join(1, room);
    house.sent(first);
    house.place(&[("r2", false)]);
    house.sent(second);
    assert!(house.upstream.answered(first, 1, Said::Other, 0).is_none(), "the next owner may let it in");
    assert!(house.answered(1).is_some());
    assert_eq!(house.sent(second), [format!("leave {room} of 1"), format!("interest {room} false 0")]);
}

/// The ring gives the room to another and back, and neither asks for the JOIN: its router is not dropped.
#[test]
fn a_join_that_is_granted_after_the_interest_was_taken_back_is_asked_again() {
    let (house, first, second, room) = two_routers();
    house.place(&[("r1", false)]);
    let both = Ring::new(&[("r1", 1), ("r2", 1)]);
    let room = (room..).find(|room| both.owner(*room as u64) == Some("r2")).unwrap();
    house.join(1, room);
    house.place(&[("r1", false), ("r2", false)]);
    house.upstream.link_down(second);
    let expected = ["interest ROOM true 0", "join ROOM of 1", "interest ROOM false 0", "interest ROOM true 0"];
    assert_eq!(house.sent(first), expected.map(|line| line.replace("ROOM", &room.to_string())));
    assert!(house.upstream.answered(first, 1, Said::Joined { seq: 5 << 32 }, 0).is_none());
    house.upstream.retry(100);
    assert_eq!(house.sent(first), [format!("join {room} of 1")]);
    assert!(house.joined(1, 5).is_some());
}

/// Called over its link, the owner that is going to give the room up is named; then it gives the room up, and says so to nobody.
#[test]
fn the_rings_owner_goes_on_to_know_of_the_interest_when_another_is_named() {
    let (house, first, second, room) = two_routers();
    house.enter(1, room);
    house.sent(first);
    say(&house, 1, room, "a");
    house.upstream.moved(first, 2, "r2", 0);
    assert_eq!(house.sent(first), ["biz a of 1"], "its interest stays");
    assert_eq!(house.sent(second), [format!("interest {room} true 1"), "biz a of 1".into()]);
    // Neither speaks of the room: both are told again.
    house.upstream.expire(0);
    house.upstream.expire(1_000);
    assert_eq!(house.sent(second), [format!("interest {room} true 1")]);
    assert_eq!(house.sent(first), [format!("interest {room} true 1")]);
    assert!(matches!(house.upstream.heard(first, room, 2, 2 << 32 | 1), Heard::For(_)));
    house.upstream.left(0, origin(1), room, LeftCause::Left);
    for link in [first, second] {
        assert_eq!(house.sent(link), [format!("interest {room} false 0")]);
    }
}

/// One of the two owns the room and was named its members; which one is not known here yet.
#[test]
fn an_ending_goes_to_every_router_that_knows_of_the_interest() {
    let (house, first, second, room) = two_routers();
    house.enter(1, room);
    house.enter(2, room);
    say(&house, 1, room, "a");
    house.upstream.moved(first, 3, "r2", 0);
    house.sent(first);
    house.sent(second);
    house.upstream.gone(0, origin(1), &[room], false);
    for link in [first, second] {
        assert_eq!(house.sent(link), [format!("gone 1 from [{room}]")]);
    }
}

#[test]
fn the_rings_owner_is_told_of_a_room_that_another_owns_once_something_was_seen_of_it() {
    let (house, first, second, room) = two_routers();
    house.join(1, room);
    house.upstream.moved(first, 1, "r2", 0);
    let expected = ["interest ROOM true 0", "join ROOM of 1", "interest ROOM false 0"];
    assert_eq!(house.sent(first), expected.map(|line| line.replace("ROOM", &room.to_string())));
    house.sent(second);
    let seq = (5 << 32) + 7;
    assert!(house.said(1, Said::Joined { seq }).is_some());
    assert_eq!(house.last_seq_told(first), [seq]);
    assert_eq!(house.last_seq_told(second), [0; 0]);
}
