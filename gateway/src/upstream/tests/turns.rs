//! Changes of owner: who is asked next, what the next owner is told, and what does not go by twice.

use super::*;
use crate::upstream::calls::ANSWER_WAIT_MS;

/// A room of the first of two routers.
fn room_of(house: &House, link: LinkId) -> i64 {
    (1..).find(|room| house.upstream.table().owner(*room) == Some(link)).unwrap()
}

pub(super) fn two_routers() -> (House, LinkId, LinkId, i64) {
    let house = House::new();
    let (first, second) = (house.up("r1"), house.up("r2"));
    let room = room_of(&house, first);
    (house, first, second, room)
}

#[test]
fn a_call_goes_to_the_owner_that_is_named_with_all_behind_it_and_interest_before_them() {
    let (house, first, second, room) = two_routers();
    house.join(1, room);
    house.biz(1, room, "a");
    house.biz(2, room, "b");
    house.sent(first);
    house.upstream.moved(first, 2, "r2", 0);
    house.biz(1, room, "c");
    assert_eq!(house.sent(second), [format!("interest {room} true 0"), "biz a of 1".into(), "biz b of 2".into(), "biz c of 1".into()]);
    assert_eq!(house.sent(first), [format!("interest {room} false 0")]);
    // The first router's own word on the others comes later, and says nothing new.
    house.upstream.moved(first, 3, "r2", 0);
    assert_eq!(house.sent(second), [""; 0]);
    // What came before the call that was moved is answered where it is. Who was let in is not told there what is said from then on.
    assert!(house.upstream.answered(first, 1, Said::Joined { seq: 1 << 32 }, 0).is_none());
    assert_eq!(house.sent(second), [format!("join {room} of 1")]);
    assert_eq!(house.counters.moved_to_owner.value(), 3);
}

#[test]
fn a_call_that_is_nobodys_yet_waits_and_new_ones_do_not_overtake_it() {
    let (house, first, second, room) = two_routers();
    house.biz(1, room, "a");
    house.sent(first);
    house.upstream.moved(first, 1, "", 0);
    house.biz(1, room, "b");
    house.upstream.retry(49);
    assert_eq!((house.sent(first), house.sent(second)), (vec![], vec![]), "not before 50 ms");
    house.upstream.retry(100);
    assert_eq!(house.sent(first), ["biz a of 1", "biz b of 1"]);
    assert_eq!((house.counters.moved_to_wait.value(), house.counters.upstream_retries.value()), (1, 1));
    assert!(house.answered(1).is_some() && house.answered(2).is_some());
}

#[test]
fn two_routers_that_name_each_other_are_asked_once_a_round_and_less_and_less_often() {
    let (house, first, second, room) = two_routers();
    house.biz(1, room, "a");
    let (mut now, mut rounds) = (0, Vec::new());
    while house.upstream.expire(now).is_empty() {
        house.upstream.retry(now);
        if house.sent(first) == ["biz a of 1"] {
            rounds.push(now);
            house.upstream.moved(first, 1, "r2", now);
            assert_eq!(house.sent(second), ["biz a of 1"]);
            house.upstream.moved(second, 1, "r1", now);
            assert_eq!(house.sent(first), [""; 0], "asked already");
        }
        now += 10;
    }
    assert!(now >= ANSWER_WAIT_MS);
    assert!((10..=22).contains(&rounds.len()), "{rounds:?}");
    assert!(rounds.windows(2).all(|pair| pair[1] - pair[0] <= 1_010));
    assert!(house.upstream.table().turns.is_empty(), "nothing is left of it");
}

#[test]
fn a_call_without_a_room_is_moved_too() {
    let house = House::new();
    let (first, second) = (house.up("r1"), house.up("r2"));
    assert!(house.upstream.call(key(0), origin(1), 1, UpCall::Redeliver, 0));
    let (asked, other, name) =
        if house.upstream.table().calls[&1].link == Some(first) { (first, second, "r2") } else { (second, first, "r1") };
    assert_eq!(house.sent(asked), ["redeliver to 1"]);
    house.upstream.moved(asked, 1, name, 0);
    assert_eq!(house.sent(other), ["redeliver to 1"]);
    assert!(house.answered(1).is_some());
    house.upstream.expire(0);
    assert!(house.upstream.table().turns.is_empty());
}

#[test]
fn rooms_belong_to_routers_of_the_registry_that_do_not_drain() {
    let (house, first, second, room) = two_routers();
    house.enter(1, room);
    house.sent(first);
    house.place(&[("r1", true), ("r2", false), ("r3", false)]);
    assert_eq!(house.sent(second), [format!("interest {room} true 1")], "r1 drains, r3 is not linked");
    assert_eq!(house.sent(first), [format!("interest {room} false 0")]);
    house.place(&[("r1", false), ("r2", false)]);
    assert_eq!(house.sent(first), [format!("interest {room} true 1")]);
    house.place(&[("r2", false)]);
    assert_eq!(house.sent(first), [format!("interest {room} false 0")], "it is no longer in the registry");
    house.place(&[]);
    assert_eq!(house.sent(first), [format!("interest {room} true 1")], "a registry that knows nobody is not believed");
}

#[test]
fn a_call_under_way_stays_where_it_is_when_the_registry_moves_its_room() {
    let (house, first, second, room) = two_routers();
    house.biz(1, room, "a");
    house.sent(first);
    house.place(&[("r2", false)]);
    assert_eq!(house.sent(second), [""; 0]);
    house.upstream.moved(first, 1, "", 0);
    assert_eq!(house.sent(second), ["biz a of 1"], "the room has turned already: no need to wait");
}

#[test]
fn the_next_owner_is_told_what_was_seen_and_what_it_replays_goes_by_once() {
    let house = House::new();
    let first = house.up("r1");
    house.join(1, ROOM);
    let seq = 5 << 32;
    house.said(1, Said::Joined { seq });
    let members = |heard| matches!(heard, Heard::For(shards) if shards[..] == [0]);
    for next in 1..=3 {
        assert!(members(house.upstream.heard(first, ROOM, 5, seq + next)));
    }
    assert_eq!(house.upstream.heard(first, ROOM, 5, seq + 3), Heard::Replayed);
    house.upstream.link_down(first);
    let second = house.up("r2");
    assert_eq!(house.last_seq_told(second), [seq + 3]);
    assert_eq!(house.upstream.heard(second, ROOM, 6, seq + 2), Heard::Replayed);
    assert!(members(house.upstream.heard(second, ROOM, 6, seq + 4)), "what the first owner had written and not sent");
    assert!(members(house.upstream.heard(second, ROOM, 6, (6 << 32) + 1)));
    assert_eq!(house.upstream.heard(first, ROOM, 5, seq + 9), Heard::Former);
    assert!(members(house.upstream.heard(second, ROOM, 6, 0)), "without a number there is no telling");
}

#[test]
fn a_snapshot_counts_as_seen_only_by_whoever_is_alone() {
    let house = House::new();
    let link = house.up("r1");
    house.join(1, ROOM);
    house.said(1, Said::Joined { seq: 10 });
    assert_eq!(house.upstream.heard(link, ROOM, 0, 10), Heard::Replayed);
    house.join(2, ROOM);
    house.said(2, Said::Joined { seq: 14 });
    assert!(matches!(house.upstream.heard(link, ROOM, 0, 11), Heard::For(_)), "the first member has not had it");
}

#[test]
fn a_join_that_a_former_owner_granted_goes_to_the_owner() {
    let (house, first, second, room) = two_routers();
    house.place(&[("r2", false)]);
    house.enter(1, room);
    house.join(2, room);
    house.sent(second);
    // The first has taken the room over, and the second does not know yet.
    house.place(&[("r1", false), ("r2", false)]);
    house.upstream.heard(first, room, 7, 7 << 32 | 1);
    house.sent(first);
    assert_eq!(house.upstream.answered(second, 2, Said::Joined { seq: 1 << 32 }, 0), None);
    assert_eq!(house.sent(first), [format!("join {room} of 2")]);
    assert!(house.joined(2, 7).is_some());
}

#[test]
fn an_owner_that_says_nothing_of_the_room_is_told_again_until_it_does() {
    let house = House::new();
    let link = house.up("r1");
    house.join(1, ROOM);
    house.sent(link);
    let told = |until_s: u64, from_s: u64| {
        for second in from_s..until_s {
            house.upstream.expire(second * 1_000);
        }
        house.sent(link).len()
    };
    assert_eq!(told(9, 1), 3, "after one second, two, and four");
    house.upstream.heard(link, ROOM, 1, 0);
    told(50, 9);
    assert_eq!(house.counters.interest_repeats.value(), 3);
}

#[test]
fn a_leave_that_a_newer_join_has_overtaken_is_never_sent_again() {
    let house = House::new();
    let first = house.up("r1");
    house.enter(1, ROOM);
    assert!(house.upstream.call(key(0), origin(1), 2, UpCall::Leave { room_id: ROOM }, 0));
    house.enter(1, ROOM);
    house.upstream.link_down(first);
    let second = house.up("r1");
    assert_eq!(house.sent(second), ["interest 7 true 2"], "the member stays");
    house.upstream.expire(ANSWER_WAIT_MS);
    house.upstream.expire(ANSWER_WAIT_MS);
    assert_eq!(house.counters.upstream_in_flight.value(), 0);
}

#[test]
fn a_join_that_overtook_a_leave_and_is_refused_leaves_nobody_behind() {
    let house = House::new();
    let link = house.up("r1");
    assert!(house.upstream.call(key(0), origin(1), 2, UpCall::Leave { room_id: ROOM }, 0));
    house.join(1, ROOM);
    house.sent(link);
    assert!(house.answered(2).is_some());
    assert_eq!(house.sent(link), ["leave 7 of 1", "interest 7 false 0"]);
}

#[test]
fn a_join_whose_caller_has_waited_too_long_is_not_sent_to_the_next_owner_its_undoing_is() {
    let house = House::new();
    let first = house.up("r1");
    house.join(1, ROOM);
    house.upstream.expire(ANSWER_WAIT_MS);
    house.upstream.link_down(first);
    let second = house.up("r2");
    assert_eq!(house.sent(second), ["interest 7 true 0", "leave 7 of 1", "interest 7 false 0"]);
    assert!(house.answered(2).is_none());
    assert_eq!(house.counters.upstream_in_flight.value(), 0);
}

#[test]
fn a_join_of_a_session_that_ended_is_not_sent_to_the_next_owner_its_undoing_is() {
    let house = House::new();
    let first = house.up("r1");
    house.join(1, ROOM);
    house.sent(first);
    house.upstream.gone(0, origin(1), &[], false);
    assert_eq!(house.sent(first), [""; 0], "it may be granted yet");
    house.upstream.link_down(first);
    let second = house.up("r2");
    assert_eq!(house.sent(second), ["interest 7 true 0", "leave 7 of 1", "interest 7 false 0"]);
}

#[test]
fn a_join_granted_to_a_session_that_ended_is_undone() {
    let house = House::new();
    let link = house.up("r1");
    house.join(1, ROOM);
    house.upstream.gone(0, origin(1), &[], false);
    house.sent(link);
    assert_eq!(house.joined(1, 1), None);
    assert_eq!(house.sent(link), ["leave 7 of 1", "interest 7 false 0"]);
}

#[test]
fn a_session_that_ends_before_its_join_was_sent_leaves_nothing_behind() {
    let house = House::new();
    house.join(1, ROOM);
    house.join(2, ROOM);
    house.upstream.gone(0, origin(1), &[], false);
    let link = house.up("r1");
    assert_eq!(house.sent(link), ["interest 7 true 0", "join 7 of 2"]);
}

#[test]
fn a_join_that_was_moved_after_its_session_ended_is_undone_at_the_owner() {
    let (house, first, second, room) = two_routers();
    house.join(1, room);
    house.biz(2, room, "a");
    house.sent(first);
    house.upstream.gone(0, origin(1), &[], false);
    house.upstream.moved(first, 1, "r2", 0);
    let expected =
        [format!("interest {room} true 0"), format!("leave {room} of 1"), format!("interest {room} false 0"), "biz a of 2".into()];
    assert_eq!(house.sent(second), expected);
}
