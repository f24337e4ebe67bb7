//! What an owner is told that asks for the members of its room.

use super::*;

#[test]
fn members_go_to_the_owner_that_asked_in_bounded_parts_and_what_they_do_later_behind() {
    let house = House::new();
    let (one, two) = (house.up("r1"), house.up("r2"));
    house.enter(1, ROOM);
    house.sent(one);
    house.sent(two);
    for link in [one, two] {
        let (call, shards) = house.upstream.roll_call(link, ROOM, 3, 9).unwrap();
        assert_eq!((&shards[..], call.parts), (&[0][..], 1));
        let members: Vec<Origin> = (0..700).map(origin).collect();
        house.upstream.seats(call, &members);
        let parts = ["seats 7 3.9: 512 of 1 parts, last false", "seats 7 3.9: 188 of 1 parts, last true"];
        assert_eq!(house.sent(link), parts);
        assert_eq!(house.sent(if link == one { two } else { one }), [""; 0], "nobody else is told");
    }
}

#[test]
fn an_owner_that_asks_is_the_newest_and_a_former_one_is_told_nothing() {
    let house = House::new();
    let link = house.up("r1");
    house.enter(1, ROOM);
    house.sent(link);
    assert!(house.upstream.roll_call(link, ROOM, 3, 1).is_some());
    assert!(house.upstream.roll_call(link, ROOM, 2, 1).is_none());
    assert!(house.shards_of(ROOM, 2).is_none(), "its pushes are a former owner's");
    assert_eq!(house.sent(link), [""; 0]);
}

#[test]
fn an_owner_hears_at_once_that_nobody_is_here() {
    let house = House::new();
    let link = house.up("r1");
    house.join(1, ROOM);
    house.sent(link);
    assert!(house.upstream.roll_call(link, ROOM, 3, 1).unwrap().1.is_empty(), "joining is not being in");
    assert_eq!(house.sent(link), ["seats 7 3.1: 0 of 0 parts, last true"]);
    assert!(house.upstream.roll_call(link, 8, 3, 1).unwrap().1.is_empty());
    assert_eq!(house.sent(link), ["seats 8 3.1: 0 of 0 parts, last true"]);
}

#[test]
fn an_answer_for_a_link_that_is_gone_goes_nowhere() {
    let house = House::new();
    let link = house.up("r1");
    house.enter(1, ROOM);
    let (call, _) = house.upstream.roll_call(link, ROOM, 3, 1).unwrap();
    house.upstream.link_down(link);
    house.upstream.seats(call, &[origin(1)]);
    let next = house.up("r1");
    assert_eq!(house.sent(next), ["interest 7 true 1"]);
}
