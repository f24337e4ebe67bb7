//! Sessions that end with calls under way, and kicks for sessions of other gateways.

use super::*;

fn call(house: &House, session: u64, call: UpCall) {
    assert!(house.upstream.call(key(0), origin(session), 1, call, 0));
}

fn sync(house: &House, session: u64) {
    call(house, session, UpCall::Sync { room_id: ROOM, from_seq: 0, from_id: String::new(), resume: false });
}

#[test]
fn what_a_session_asked_for_ends_with_it_but_for_leaving() {
    let house = House::new();
    for session in [1, 2] {
        house.biz(session, ROOM, "hello");
        sync(&house, session);
        call(&house, session, UpCall::Leave { room_id: 8 });
        assert!(house.upstream.redeliver(origin(session), 0));
    }
    house.upstream.gone(0, origin(1), &[], false);
    assert_eq!(house.counters.upstream_in_flight.value(), 5);
    let link = house.up("r1");
    assert_eq!(house.sent(link), ["leave 8 of 1", "biz hello of 2", "sync 7 of 2", "leave 8 of 2", "redeliver to 2"]);
}

#[test]
fn what_a_session_that_ended_had_asked_is_not_asked_again_of_the_next_owner() {
    let house = House::new();
    let first = house.up("r1");
    house.biz(1, ROOM, "hello");
    sync(&house, 1);
    call(&house, 1, UpCall::Leave { room_id: ROOM });
    house.sent(first);
    house.upstream.gone(0, origin(1), &[], false);
    house.upstream.link_down(first);
    let second = house.up("r2");
    assert_eq!(house.sent(second), ["leave 7 of 1"]);
    assert_eq!(house.counters.upstream_in_flight.value(), 1);
}

#[test]
fn an_answer_to_a_session_that_ended_is_taken_and_given_to_nobody() {
    let house = House::new();
    let link = house.up("r1");
    house.biz(1, ROOM, "hello");
    house.upstream.gone(0, origin(1), &[], false);
    assert_eq!(house.sent(link), ["biz hello of 1"]);
    assert_eq!(house.answered(1), None);
    assert_eq!((house.counters.upstream_in_flight.value(), house.counters.replies_stale.value()), (0, 0));
    assert!(house.upstream.table().of_sessions.is_empty());
}

#[test]
fn a_call_that_was_moved_after_its_session_ended_is_over() {
    let house = House::new();
    let first = house.up("r1");
    house.up("r2");
    house.biz(1, ROOM, "hello");
    let owner = house.upstream.table().calls[&1].link.unwrap();
    let named = if owner == first { "r2" } else { "r1" };
    house.upstream.gone(0, origin(1), &[], false);
    house.upstream.moved(owner, 1, named, 0);
    assert_eq!(house.counters.upstream_in_flight.value(), 0);
}

#[test]
fn a_redelivery_waits_for_a_router_and_finds_no_room_beyond_the_bound() {
    let house = House::new();
    assert!(house.upstream.redeliver(origin(1), 0));
    let link = house.up("r1");
    assert_eq!(house.sent(link), ["redeliver to 1"]);
    assert_eq!(house.answered(1), None);
    for session in 0..OUTBOX_CALLS_MAX as u64 {
        assert!(house.upstream.redeliver(origin(session), 0));
    }
    assert!(!house.upstream.redeliver(origin(1), 0));
}

fn kick(session: u64) -> Kick {
    Kick { app_id: 1, user_id: 2, device: 3, code: 4_010, msg: String::new(), session }
}

fn relays(house: &House, link: LinkId) -> VecDeque<Kind> {
    let mut outbox = VecDeque::new();
    assert!(house.upstream.take_outbox(link, &mut outbox));
    outbox
}

#[test]
fn a_kick_for_another_gateway_waits_for_a_router() {
    let house = House::new();
    house.upstream.relay("g2".to_owned(), 5, kick(9));
    let first = house.up("r1");
    assert!(house.upstream.link_down(first), "before it took anything");
    let second = house.up("r2");
    let outbox = relays(&house, second);
    assert_eq!(outbox, [Kind::Relay(Relay { node: "g2".to_owned(), incarnation: 5, kick: Some(kick(9)) })]);
    house.upstream.link_down(second);
    house.upstream.give_back(outbox);
    let third = house.up("r3");
    assert_eq!(relays(&house, third).len(), 1);
}

#[test]
fn a_kick_for_another_gateway_goes_over_every_router() {
    let house = House::new();
    let links = [house.up("r1"), house.up("r2"), house.up("r3")];
    house.upstream.relay("g2".to_owned(), 5, kick(9));
    for link in links {
        assert_eq!(relays(&house, link), [Kind::Relay(Relay { node: "g2".to_owned(), incarnation: 5, kick: Some(kick(9)) })]);
    }
}

#[test]
fn the_oldest_words_give_way_and_are_counted() {
    let house = House::new();
    for session in 0..=WORDS_MAX as u64 {
        house.upstream.relay("g2".to_owned(), 5, kick(session));
    }
    assert_eq!(house.counters.forgotten[Forgotten::Words as usize].value(), 1);
    assert_eq!(house.upstream.table().words.len(), WORDS_MAX);
}

#[test]
fn that_users_come_and_go_is_told_to_the_router_of_each_and_kept_for_none() {
    let house = House::new();
    let users = |count: i64| (20_001..).map(|user_id| (10_001, user_id)).take(usize::try_from(count).unwrap());
    house.upstream.tell_users(users(3), true);
    let dropped = || house.counters.forgotten[Forgotten::UserWords as usize].value();
    assert_eq!(dropped(), 3, "nobody is linked");
    let links = [house.up("r1"), house.up("r2")];
    assert!(links.iter().all(|link| house.sent(*link).is_empty()), "and nothing was kept");
    house.upstream.tell_users(users(40).chain([(10_002, 20_001)]), true);
    house.upstream.tell_users([(10_001, 20_001)], false);
    let sent = links.map(|link| house.sent(link));
    let all: Vec<&String> = sent.iter().flatten().collect();
    assert!(all.iter().any(|line| line.contains("of 10002 came")) && all.iter().any(|line| *line == "users [20001] of 10001 went"));
    // The later word of one goes where the earlier went.
    let of_first = |lines: &Vec<String>| lines.iter().filter(|line| line.contains("20001,") || line.contains("[20001]")).count();
    assert!(sent.iter().any(|lines| of_first(lines) == 3) && sent.iter().any(|lines| of_first(lines) == 0), "{sent:?}");
    // Where a link takes nothing more, they are not what fills it.
    for _ in 0..=OUTBOX_CALLS_MAX {
        house.upstream.tell_users(users(40), true);
    }
    assert!(dropped() > 3 && links.iter().all(|link| house.sent(*link).len() == OUTBOX_CALLS_MAX));
}
