//! JOIN, LEAVE and SYNC.

use super::*;

#[test]
fn a_join_is_answered_before_the_first_push_of_its_room() {
    let mut end = End::live();
    let resume = Some(Resume { seq: Some(9), ..Resume::default() });
    let actions = end.frame(Code::Join, &Body { resume, ..room(3) });
    assert_eq!(actions.shown(), ["Upstream 2 Join { room_id: 3, resume_seq: Some(9), was_in: false }"]);
    end.session.on_joined(2, 3, 12, "{}".to_owned(), 4, &mut end.out);
    let answer = Body { seq: Some(12), data: text("{}"), audience: Some(4), ..room(3) };
    assert_eq!(end.drain().shown(), [sent(Code::Join, answer), "EnterRoom 3".to_owned()]);
    end.session.set_room_slot(3, 17);
    assert_eq!((end.session.room_slot(3), end.session.room_slot(4)), (Some(17), None));
}

#[test]
fn a_join_of_a_room_it_is_in_fetches_a_snapshot_and_enters_once() {
    let mut end = End::live();
    end.enter(3);
    end.session.set_room_slot(3, 17);
    let request = end.join(3);
    end.session.on_joined(request, 3, 13, "{}".to_owned(), 4, &mut end.out);
    assert_eq!(end.drain().len(), 1);
    assert_eq!(end.session.rooms().collect::<Vec<_>>(), [3]);
    assert_eq!(end.session.room_slot(3), Some(17));
}

#[test]
fn a_refused_join_names_its_room() {
    let mut end = End::live();
    let request = end.join(3);
    end.session.on_refused(request, Reason::RoomNotFound, None, None, &mut end.out);
    assert_eq!(end.drain().shown(), [sent(Code::Error, Body { room_id: Some(3), ..Body::refusal(Reason::RoomNotFound) })]);
}

#[test]
fn a_ninth_room_is_refused_while_eight_are_entered_or_asked_for() {
    let mut end = End::live();
    for room_id in 1..=4 {
        end.enter(room_id);
    }
    for room_id in 5..=8 {
        end.join(room_id);
    }
    let refusal = Body { room_id: Some(9), ..Body::refusal(Reason::RateLimited) };
    assert_eq!(end.frame(Code::Join, &room(9)).shown(), [sent(Code::Error, refusal)]);
    assert_eq!(end.frame(Code::Join, &room(8)).len(), 1, "one of the eight again");
    end.frame(Code::Leave, &room(1));
    end.drain();
    assert_eq!(end.frame(Code::Join, &room(9)).len(), 1);
}

#[test]
fn join_and_leave_need_a_room() {
    let mut end = End::live();
    for code in [Code::Join, Code::Leave] {
        for body in [Body::default(), room(0)] {
            assert_eq!(end.frame(code, &body).shown(), [error(Reason::Malformed)], "{code:?}");
        }
    }
}

#[test]
fn a_leave_is_echoed_at_once_and_its_router_told() {
    let mut end = End::live();
    end.enter(3);
    let actions = end.frame(Code::Leave, &room(3)).shown();
    assert_eq!(actions, ["Upstream 3 Leave { room_id: 3 }".to_owned(), "LeaveRoom 3".to_owned(), sent(Code::Leave, room(3))]);
    end.session.on_refused(3, Reason::Unavailable, None, None, &mut end.out);
    assert_eq!(end.drain().shown(), [""; 0]);
    assert_eq!(end.frame(Code::Leave, &room(3)).shown(), [sent(Code::Leave, room(3))], "of a room it is not in: only the echo");
}

#[test]
fn a_leave_overtakes_the_joins_before_it_and_not_those_behind_it() {
    let mut end = End::live();
    let first = end.join(3);
    assert_eq!(end.frame(Code::Leave, &room(3)).shown(), ["Upstream 3 Leave { room_id: 3 }".to_owned(), sent(Code::Leave, room(3))]);
    let second = end.join(3);
    end.session.on_joined(first, 3, 1, "{}".to_owned(), 1, &mut end.out);
    assert_eq!(end.drain().shown(), [""; 0]);
    end.session.on_joined(second, 3, 2, "{}".to_owned(), 1, &mut end.out);
    assert_eq!(end.drain().len(), 2);
    assert_eq!(end.session.rooms().collect::<Vec<_>>(), [3]);
}

#[test]
fn an_evicted_member_hears_of_it_once() {
    let mut end = End::live();
    end.enter(3);
    end.session.on_evicted(3, &mut end.out);
    assert_eq!(end.drain().shown(), ["LeaveRoom 3".to_owned(), sent(Code::Leave, room(3))]);
    end.session.on_evicted(3, &mut end.out);
    assert_eq!(end.drain().shown(), [""; 0]);
}

#[test]
fn rooms_stay_readable_after_the_close_so_that_the_shell_can_leave_them() {
    let mut end = End::live();
    end.enter(3);
    end.enter(4);
    end.session.on_kick(Reason::Banned, None, &mut end.out);
    assert_eq!(end.session.rooms().collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn sync_goes_up_for_a_room_or_for_the_inbox_and_comes_back_as_asked() {
    let mut end = End::live();
    let of_room = end.frame(Code::Sync, &Body { from_seq: Some(9), ..room(3) }).shown();
    assert_eq!(of_room, ["Upstream 2 Sync { room_id: 3, from_seq: 9, from_id: \"\", resume: false }"]);
    let of_inbox = end.frame(Code::Sync, &Body { from_id: text("5-0"), ..Body::default() }).shown();
    assert_eq!(of_inbox, ["Upstream 3 Sync { room_id: 0, from_seq: 0, from_id: \"5-0\", resume: false }"]);
    end.session.on_synced(2, 3, "{}".to_owned(), &mut end.out);
    end.session.on_synced(3, 0, "{}".to_owned(), &mut end.out);
    let page = Body { data: text("{}"), ..Body::default() };
    assert_eq!(end.drain().shown(), [sent(Code::Sync, Body { data: text("{}"), ..room(3) }), sent(Code::Sync, page)]);
}
