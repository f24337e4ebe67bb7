//! What is kept for routers, and what they are told.

mod again;
mod endings;
mod registry;
mod roll;
mod turns;

use super::{
    Caller, Heard, LinkId, RouterSeen, Said, Upstream,
    calls::{ANSWER_WAIT_MS, CALLS_MAX, MEMBERSHIP_WAIT_MS},
    placement::{OUTBOX_CALLS_MAX, WORDS_MAX},
};
use crate::{
    metrics::{ControlCounters, Forgotten},
    shard::message::{ConnKey, LeftCause, Origin},
};
use billfish_link::message::{Gone, Interest, Kick, Relay, Seats, Users, envelope::Kind, up::Call as UpKind};
use billfish_session::server::UpCall;
use billfish_state::DeviceKind;
use smallvec::SmallVec;
use std::{collections::VecDeque, sync::Arc};

const ROOM: i64 = 7;

#[test]
fn interest_is_sent_before_the_first_join_and_once() {
    let house = House::new();
    let link = house.up("r1");
    house.join(1, ROOM);
    house.join(2, ROOM);
    assert_eq!(house.sent(link), ["interest 7 true 0", "join 7 of 1", "join 7 of 2"]);
}

#[test]
fn interest_is_taken_back_after_the_last_member_and_the_last_join() {
    let house = House::new();
    let link = house.up("r1");
    house.join(1, ROOM);
    house.join(2, ROOM);
    assert_eq!(house.joined(1, 1).unwrap().origin.session, 1);
    house.sent(link);
    house.upstream.left(0, origin(1), ROOM, LeftCause::Left);
    assert_eq!(house.sent(link), [""; 0], "a join is under way");
    house.answered(2);
    assert_eq!(house.sent(link), ["interest 7 false 0"]);
    house.join(3, ROOM);
    assert_eq!(house.sent(link), ["interest 7 true 0", "join 7 of 3"]);
}

#[test]
fn a_session_that_ends_takes_its_rooms_with_it_and_the_router_hears_of_it() {
    let house = House::new();
    let link = house.up("r1");
    house.enter(1, ROOM);
    house.enter(1, 8);
    house.sent(link);
    house.upstream.gone(0, origin(1), &[ROOM, 8], false);
    assert_eq!(house.sent(link), ["gone 1 from [7, 8]", "interest 7 false 0", "interest 8 false 0"]);
    house.upstream.gone(0, origin(2), &[], false);
    assert_eq!(house.sent(link), [""; 0], "who was in no room left none");
}

#[test]
fn a_router_hears_whether_a_user_has_logged_out_or_was_lost() {
    let house = House::new();
    let link = house.up("r1");
    house.enter(1, ROOM);
    house.sent(link);
    house.upstream.gone(0, origin(1), &[ROOM], true);
    assert_eq!(house.sent(link), ["gone 1 from [7], logged out", "interest 7 false 0"]);
}

#[test]
fn a_join_that_came_too_late_for_its_session_is_told_to_the_router() {
    let house = House::new();
    let link = house.up("r1");
    house.enter(1, ROOM);
    house.sent(link);
    house.upstream.left(0, origin(1), ROOM, LeftCause::NotEntered);
    assert_eq!(house.sent(link), ["gone 1 from [7]", "interest 7 false 0"]);
}

#[test]
fn joining_twice_counts_twice_and_the_second_is_counted_down() {
    let house = House::new();
    let link = house.up("r1");
    house.enter(1, ROOM);
    house.enter(1, ROOM);
    house.sent(link);
    house.upstream.left(0, origin(1), ROOM, LeftCause::AlreadyIn);
    assert_eq!(house.sent(link), [""; 0]);
    house.upstream.gone(0, origin(1), &[ROOM], false);
    assert_eq!(house.sent(link), ["gone 1 from [7]", "interest 7 false 0"]);
}

#[test]
fn a_push_goes_to_shards_with_members_alone() {
    let house = House::new();
    house.up("r1");
    assert!(house.shards_of(ROOM, 1).unwrap().is_empty());
    assert!(house.upstream.call(key(3), origin(1), 1, UpCall::Join { room_id: ROOM, resume_seq: None, was_in: false }, 0));
    assert!(house.shards_of(ROOM, 1).unwrap().is_empty(), "joining is not being in");
    house.joined(1, 1);
    assert_eq!(house.shards_of(ROOM, 1).unwrap()[..], [3]);
    assert_eq!(house.upstream.members_of(ROOM)[..], [3]);
}

#[test]
fn a_former_owner_is_known_by_its_epoch() {
    let house = House::new();
    house.up("r1");
    house.enter(1, ROOM);
    assert!(house.shards_of(ROOM, 5).is_some());
    assert!(house.shards_of(ROOM, 4).is_none());
    assert!(house.shards_of(ROOM, 5).is_some());
    assert!(house.shards_of(ROOM, 6).is_some());
    assert!(house.shards_of(ROOM, 5).is_none());
}

#[test]
fn an_eviction_of_a_former_owner_is_refused_and_binds_nobody() {
    let house = House::new();
    house.up("r1");
    house.enter(1, ROOM);
    house.shards_of(ROOM, 5);
    assert!(house.upstream.shards_to_evict(ROOM, 4).is_none());
    assert_eq!(house.upstream.shards_to_evict(ROOM, u64::MAX).unwrap()[..], [0]);
    assert!(house.shards_of(ROOM, 5).is_some());
}

#[test]
fn the_epoch_of_a_join_counts_too() {
    let house = House::new();
    house.up("r1");
    house.join(1, ROOM);
    house.joined(1, 9);
    assert!(house.shards_of(ROOM, 8).is_none());
}

#[test]
fn calls_of_a_dead_link_go_to_the_next_in_order_and_interest_before_them() {
    let house = House::new();
    let first = house.up("r1");
    house.enter(9, 8);
    house.join(1, ROOM);
    house.biz(1, ROOM, "hello");
    house.sent(first);
    assert!(house.upstream.link_down(first));
    house.biz(1, ROOM, "again");
    let second = house.up("r1");
    let sent = house.sent(second);
    assert_eq!(sent.len(), 5);
    assert!(sent[..2].contains(&"interest 7 true 0".to_owned()) && sent[..2].contains(&"interest 8 true 1".to_owned()), "{sent:?}");
    assert_eq!(sent[2..], ["join 7 of 1", "biz hello of 1", "biz again of 1"]);
    assert_eq!(house.counters.upstream_retries.value(), 2, "the third was never sent before");
    assert!(!house.upstream.link_down(first), "it is known to be gone");
}

#[test]
fn a_second_answer_is_ignored_and_counted() {
    let house = House::new();
    house.up("r1");
    house.biz(1, ROOM, "hello");
    assert_eq!(house.answered(1).unwrap().request, 1);
    assert_eq!(house.answered(1), None);
    assert_eq!(house.joined(99, 1), None);
    assert_eq!(house.counters.replies_stale.value(), 2);
}

#[test]
fn a_call_without_an_answer_is_refused_after_ten_seconds() {
    let house = House::new();
    house.biz(1, ROOM, "hello");
    assert!(house.upstream.expire(ANSWER_WAIT_MS - 1).is_empty());
    assert_eq!(house.upstream.expire(ANSWER_WAIT_MS).len(), 1);
    assert!(house.upstream.expire(ANSWER_WAIT_MS).is_empty());
    assert_eq!((house.counters.upstream_given_up.value(), house.counters.upstream_in_flight.value()), (1, 0));
    let link = house.up("r1");
    assert_eq!(house.sent(link), [""; 0], "what was refused is not sent");
}

#[test]
fn a_join_refused_for_time_and_granted_later_is_undone() {
    let house = House::new();
    let link = house.up("r1");
    house.join(1, ROOM);
    assert_eq!(house.upstream.expire(ANSWER_WAIT_MS).len(), 1);
    house.sent(link);
    assert_eq!(house.joined(1, 1), None);
    assert_eq!(house.sent(link), ["leave 7 of 1", "interest 7 false 0"]);
}

#[test]
fn a_join_that_is_never_answered_is_undone_in_the_end() {
    let house = House::new();
    let link = house.up("r1");
    house.join(1, ROOM);
    house.upstream.expire(ANSWER_WAIT_MS);
    house.sent(link);
    assert!(house.upstream.expire(MEMBERSHIP_WAIT_MS).is_empty());
    assert_eq!(house.sent(link), ["interest 7 false 0", "gone 1 from [7]"]);
    assert_eq!(house.counters.upstream_in_flight.value(), 0);
}

#[test]
fn a_join_asked_again_after_its_time_is_not_undone_by_the_first() {
    let house = House::new();
    let link = house.up("r1");
    house.join(1, ROOM);
    assert_eq!(house.upstream.expire(ANSWER_WAIT_MS).len(), 1);
    house.enter(1, ROOM);
    house.sent(link);
    assert_eq!(house.joined(1, 1), None, "the first answer, late");
    house.upstream.expire(MEMBERSHIP_WAIT_MS);
    assert_eq!(house.sent(link), [""; 0], "a live member is left alone");
    assert_eq!(house.counters.upstream_in_flight.value(), 0);
    house.upstream.gone(0, origin(1), &[ROOM], false);
    assert_eq!(house.sent(link), ["gone 1 from [7]", "interest 7 false 0"], "the first JOIN is no longer counted");
}

#[test]
fn of_two_joins_under_way_the_lost_one_undoes_nothing() {
    let house = House::new();
    let link = house.up("r1");
    house.join(1, ROOM);
    house.enter(1, ROOM);
    house.sent(link);
    assert_eq!(house.upstream.expire(ANSWER_WAIT_MS).len(), 1);
    house.upstream.expire(MEMBERSHIP_WAIT_MS);
    assert_eq!(house.sent(link), [""; 0]);
    assert_eq!(house.counters.upstream_in_flight.value(), 0);
}

#[test]
fn a_join_asked_again_and_refused_undoes_what_the_first_left_behind() {
    let house = House::new();
    let link = house.up("r1");
    house.join(1, ROOM);
    house.upstream.expire(ANSWER_WAIT_MS);
    house.join(1, ROOM);
    house.sent(link);
    assert!(house.answered(2).is_some());
    assert_eq!(house.sent(link), ["leave 7 of 1", "interest 7 false 0"]);
}

#[test]
fn a_leave_that_is_never_answered_does_not_undo_a_later_join() {
    let house = House::new();
    let link = house.up("r1");
    assert!(house.upstream.call(key(0), origin(1), 1, UpCall::Leave { room_id: ROOM }, 0));
    house.enter(1, ROOM);
    house.sent(link);
    house.upstream.expire(MEMBERSHIP_WAIT_MS);
    assert_eq!(house.sent(link), [""; 0]);
    assert_eq!(house.counters.upstream_in_flight.value(), 0);
}

#[test]
fn a_leave_outlives_the_patience_of_its_caller() {
    let house = House::new();
    assert!(house.upstream.call(key(0), origin(1), 1, UpCall::Leave { room_id: ROOM }, 0));
    assert_eq!(house.upstream.expire(ANSWER_WAIT_MS).len(), 1, "its session need not remember it");
    assert_eq!(house.counters.upstream_given_up.value(), 0, "its echo was sent long ago");
    let link = house.up("r1");
    assert_eq!(house.sent(link), ["leave 7 of 1"]);
}

#[test]
fn endings_wait_for_a_router() {
    let house = House::new();
    house.upstream.gone(0, origin(1), &[ROOM], false);
    let first = house.up("r1");
    assert!(house.upstream.link_down(first), "before it took anything");
    let second = house.up("r2");
    assert_eq!(house.sent(second), ["gone 1 from [7]"]);
}

#[test]
fn a_new_link_of_the_same_router_takes_the_place_of_the_old_one() {
    let house = House::new();
    let first = house.up("r1");
    let second = house.up("r1");
    assert_eq!(house.upstream.links(), 1);
    assert!(!house.upstream.take_outbox(first, &mut VecDeque::new()));
    assert!(house.upstream.take_outbox(second, &mut VecDeque::new()));
    assert_eq!(house.counters.links_lost.value(), 1);
}

#[test]
fn with_two_routers_each_room_has_one_owner_and_moves_when_it_goes() {
    let house = House::new();
    let (first, second) = (house.up("r1"), house.up("r2"));
    let rooms: Vec<i64> = (1..=20).collect();
    for room in &rooms {
        house.join(*room as u64, *room);
    }
    let (to_first, to_second) = (house.sent(first), house.sent(second));
    assert_eq!(to_first.len() + to_second.len(), 40);
    assert!(to_first.len() > 4 && to_second.len() > 4, "{} {}", to_first.len(), to_second.len());
    house.upstream.link_down(first);
    let mut moved = house.sent(second);
    moved.sort();
    let mut expected: Vec<String> = to_first;
    expected.sort();
    assert_eq!(moved, expected);
}

#[test]
fn a_room_that_moves_to_a_new_router_is_taken_from_the_old_one() {
    let house = House::new();
    let first = house.up("r1");
    for room in 1..=20 {
        house.enter(1, room);
    }
    house.sent(first);
    let second = house.up("r2");
    let gained = house.sent(second);
    let lost = house.sent(first);
    assert!(!gained.is_empty() && gained.len() == lost.len(), "{gained:?} {lost:?}");
    assert!(gained.iter().all(|line| line.ends_with("true 1")) && lost.iter().all(|line| line.ends_with("false 0")));
}

#[test]
fn calls_beyond_the_bound_are_refused_but_leaving_is_not() {
    let house = House::new();
    for call in 0..CALLS_MAX {
        assert!(house.try_biz(1, call as i64, ""));
    }
    assert!(!house.try_biz(1, ROOM, ""));
    assert_eq!(house.counters.upstream_given_up.value(), 1);
    assert!(house.upstream.call(key(0), origin(1), 1, UpCall::Leave { room_id: ROOM }, 0));
}

#[test]
fn a_router_that_takes_nothing_gets_no_more_calls_and_is_given_up_in_the_end() {
    let house = House::new();
    let link = house.up("r1");
    for _ in 0..OUTBOX_CALLS_MAX {
        assert!(house.try_biz(1, ROOM, ""));
    }
    assert!(!house.try_biz(1, ROOM, ""), "its outbox is full");
    for _ in 0..3 * OUTBOX_CALLS_MAX {
        house.upstream.gone(0, origin(1), &[ROOM], false);
    }
    assert_eq!(house.upstream.links(), 1);
    house.upstream.gone(0, origin(2), &[ROOM], false);
    assert_eq!(house.upstream.links(), 0);
    assert!(!house.upstream.take_outbox(link, &mut VecDeque::new()));
}

struct House {
    upstream: Upstream,
    counters: Arc<ControlCounters>,
}

impl House {
    fn new() -> Self {
        let counters = Arc::new(ControlCounters::default());
        Self { upstream: Upstream::new(Arc::clone(&counters)), counters }
    }

    fn up(&self, peer: &str) -> LinkId {
        self.upstream.link_up(peer).0
    }

    fn join(&self, session: u64, room_id: i64) {
        assert!(self.upstream.call(key(0), origin(session), 1, UpCall::Join { room_id, resume_seq: None, was_in: false }, 0));
    }

    /// Joins and is in. The id of a call is one more than that of the call before.
    fn enter(&self, session: u64, room_id: i64) {
        self.join(session, room_id);
        let id = self.upstream.table().last_id;
        self.joined(id, 1).unwrap();
    }

    fn biz(&self, session: u64, room_id: i64, data: &str) {
        assert!(self.try_biz(session, room_id, data));
    }

    fn try_biz(&self, session: u64, room_id: i64, data: &str) -> bool {
        let call = UpCall::Biz { room_id, biz_code: 5555, data: data.to_owned(), msg_id: String::new() };
        self.upstream.call(key(0), origin(session), 1, call, 0)
    }

    /// The owner of an epoch lets a session in; over which link says the call itself.
    fn joined(&self, id: u64, epoch: i64) -> Option<Caller> {
        self.said(id, Said::Joined { seq: epoch << 32 })
    }

    fn answered(&self, id: u64) -> Option<Caller> {
        self.said(id, Said::Other)
    }

    fn said(&self, id: u64, said: Said) -> Option<Caller> {
        let link = self.upstream.table().calls.get(&id).and_then(|call| call.link).unwrap_or(LinkId(0));
        self.upstream.answered(link, self.number(id), said, 0)
    }

    /// The number that the last copy of a call bears.
    fn number(&self, id: u64) -> u64 {
        self.upstream.table().calls.get(&id).map_or(id, |call| call.last_copy(id).number())
    }

    /// Shards that a push without a number goes to.
    fn shards_of(&self, room_id: i64, epoch: u64) -> Option<SmallVec<[u16; 8]>> {
        match self.upstream.heard(LinkId(0), room_id, epoch, 0) {
            Heard::For(shards) => Some(shards),
            Heard::Former => None,
            Heard::Replayed => panic!("it has no number"),
        }
    }

    /// What a new owner was told of what was seen.
    fn last_seq_told(&self, link: LinkId) -> Vec<i64> {
        let mut outbox = VecDeque::new();
        assert!(self.upstream.take_outbox(link, &mut outbox));
        let last_seq = |kind| if let Kind::Interest(Interest { interested: true, last_seq, .. }) = kind { Some(last_seq) } else { None };
        outbox.into_iter().filter_map(last_seq).collect()
    }

    fn place(&self, routers: &[(&str, bool)]) {
        let seen = |(node, draining): &(&str, bool)| RouterSeen { node: (*node).to_owned(), draining: *draining };
        self.upstream.place(routers.iter().map(seen).collect());
    }

    fn sent(&self, link: LinkId) -> Vec<String> {
        let mut outbox = VecDeque::new();
        assert!(self.upstream.take_outbox(link, &mut outbox));
        outbox.into_iter().map(line).collect()
    }
}

fn line(kind: Kind) -> String {
    if let Kind::Users(Users { app_id, user_ids, online }) = kind {
        return format!("users {user_ids:?} of {app_id} {}", if online { "came" } else { "went" });
    }
    if let Kind::Interest(Interest { room_id, interested, members, .. }) = kind {
        return format!("interest {room_id} {interested} {members}");
    }
    if let Kind::Gone(Gone { origin, room_ids, logged_out }) = kind {
        let how = if logged_out { ", logged out" } else { "" };
        return format!("gone {} from {room_ids:?}{how}", origin.unwrap().session);
    }
    if let Kind::Seats(Seats { room_id, epoch, number, members, parts, last }) = kind {
        return format!("seats {room_id} {epoch}.{number}: {} of {parts} parts, last {last}", members.len());
    }
    let Kind::Up(up) = kind else { panic!("{kind:?}") };
    let session = up.origin.unwrap().session;
    match up.call.unwrap() {
        UpKind::Biz(biz) => format!("biz {} of {session}", biz.data),
        UpKind::Join(join) => format!("join {} of {session}", join.room_id),
        UpKind::Leave(leave) => format!("leave {} of {session}", leave.room_id),
        UpKind::Sync(sync) => format!("sync {} of {session}", sync.room_id),
        UpKind::Redeliver(_) => format!("redeliver to {session}"),
        UpKind::Order(order) => format!("order for {}", order.room_id),
    }
}

fn key(shard: u16) -> ConnKey {
    ConnKey { shard, index: 0, generation: 0 }
}

fn origin(session: u64) -> Origin {
    Origin { app_id: 10_001, user_id: 20_001, device: DeviceKind::Other, session }
}
