//! A session in a room joins it again, for a fresh snapshot, and the answer does not come in time: it stays in.

use super::*;

impl House {
    /// In the room, it joins again and is refused after its patience. Gives the id of the call.
    fn joins_again_in_vain(&self) -> u64 {
        self.enter(1, ROOM);
        self.join_again();
        assert_eq!(self.upstream.expire(ANSWER_WAIT_MS).len(), 1);
        self.upstream.table().last_id
    }

    fn join_again(&self) {
        let join = UpCall::Join { room_id: ROOM, resume_seq: None, was_in: true };
        assert!(self.upstream.call(key(0), origin(1), 1, join, 0));
    }

    fn members(&self) -> u32 {
        self.upstream.table().room(ROOM).members()
    }
}

#[test]
fn granted_late_it_is_not_undone() {
    let house = House::new();
    let link = house.up("r1");
    let id = house.joins_again_in_vain();
    house.sent(link);
    assert_eq!(house.joined(id, 1), None);
    assert_eq!(house.sent(link), [""; 0]);
    assert_eq!((house.members(), house.counters.upstream_in_flight.value()), (1, 0));
}

#[test]
fn no_later_owner_is_told_to_take_it_out() {
    let house = House::new();
    let first = house.up("r1");
    house.joins_again_in_vain();
    house.sent(first);
    house.upstream.link_down(first);
    let second = house.up("r2");
    assert_eq!(house.sent(second), ["interest 7 true 1"]);
    assert_eq!((house.members(), house.counters.upstream_in_flight.value()), (1, 0));
}

#[test]
fn never_answered_it_is_forgotten() {
    let house = House::new();
    let link = house.up("r1");
    house.joins_again_in_vain();
    house.sent(link);
    house.upstream.expire(MEMBERSHIP_WAIT_MS);
    assert_eq!(house.sent(link), [""; 0]);
    assert_eq!((house.members(), house.counters.upstream_in_flight.value()), (1, 0));
}

#[test]
fn once_more_and_refused_it_stays_in_all_the_same() {
    let house = House::new();
    let link = house.up("r1");
    house.joins_again_in_vain();
    house.join_again();
    house.sent(link);
    let id = house.upstream.table().last_id;
    assert!(house.answered(id).is_some());
    assert_eq!(house.sent(link), [""; 0]);
    assert_eq!(house.members(), 1);
}

#[test]
fn asked_before_the_first_answer_came_it_counts_as_in_from_then_on() {
    let house = House::new();
    let link = house.up("r1");
    house.join(1, ROOM);
    house.join(1, ROOM);
    assert!(house.joined(1, 1).is_some());
    house.upstream.expire(ANSWER_WAIT_MS);
    house.sent(link);
    assert_eq!(house.joined(2, 1), None);
    assert_eq!(house.sent(link), [""; 0]);
}

#[test]
fn whose_session_has_ended_or_was_taken_out_is_undone_as_ever() {
    for is_ended in [true, false] {
        let house = House::new();
        let link = house.up("r1");
        let id = house.joins_again_in_vain();
        if is_ended {
            house.upstream.gone(0, origin(1), &[ROOM], false);
        } else {
            house.upstream.left(0, origin(1), ROOM, LeftCause::Evicted);
        }
        house.sent(link);
        assert_eq!(house.joined(id, 1), None);
        assert_eq!(house.sent(link), ["leave 7 of 1", "interest 7 false 0"], "{is_ended}");
    }
}
