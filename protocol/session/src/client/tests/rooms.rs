//! Rooms: entered, resumed, shown in order, left.

use super::*;
use crate::client::CallError;

#[test]
fn a_room_shows_each_number_once_and_in_order() {
    let mut end = End::live();
    end.enter(3, 9);
    assert_eq!(end.receive(Code::Biz, &in_room(3, 10)), ["Push 3 10"]);
    assert_eq!(end.receive(Code::Biz, &in_room(3, 10)), [""; 0]);
    assert_eq!(end.receive(Code::Biz, &in_room(3, 9)), [""; 0], "the snapshot stood for it");
    assert_eq!(end.receive(Code::Biz, &in_room(3, 12)), ["Push 3 12"]);
    assert_eq!(end.receive(Code::Biz, &in_room(3, 11)), [""; 0]);
}

#[test]
fn a_copy_is_not_shown_again_but_acknowledged_again() {
    let mut end = End::live();
    end.enter(3, 9);
    let push = Body { msg_id: text("r3-10"), qos: Some(1), ..in_room(3, 10) };
    assert_eq!(end.receive(Code::Biz, &push), [r#"Ack {"msgId":"r3-10"}"#, "Push 3 r3-10"]);
    assert_eq!(end.receive(Code::Biz, &push), [r#"Ack {"msgId":"r3-10"}"#]);
}

/// The server was in doubt whether its log had taken the message, and says it again under a new number.
#[test]
fn a_message_that_comes_again_under_another_number_is_shown_once_and_acknowledged_again() {
    let mut end = End::live();
    end.enter(3, 9);
    let push = |seq| Body { msg_id: text("r3-10"), qos: Some(1), ..in_room(3, seq) };
    let ack = r#"Ack {"msgId":"r3-10"}"#;
    assert_eq!(end.receive(Code::Biz, &push(10)), [ack, "Push 3 r3-10"]);
    assert_eq!(end.receive(Code::Biz, &push(12)), [ack]);
    assert_eq!(end.receive(Code::Biz, &in_room(3, 11)), [""; 0], "its number counts all the same");
    end.disconnect();
    assert!(end.connect()[0].contains(r#""rooms":{"3":12}"#));
    end.login();
    end.receive(Code::Sync, &page(&[], false));
    let messages = vec![in_room(3, 13), push(14)];
    let snapshot = RoomSnapshot { messages, ..RoomSnapshot::default() };
    let answer = Body { seq: Some(14), data: Some(serde_json::to_string(&snapshot).unwrap()), ..room(3) };
    assert_eq!(end.receive(Code::Join, &answer), ["Joined 3 14 gap false", "Push 3 13", ack], "nor by a snapshot");
    let other = Body { msg_id: text("r4-10"), qos: Some(1), ..in_room(3, 15) };
    assert_eq!(end.receive(Code::Biz, &other).len(), 2);
}

#[test]
fn numbers_that_begin_anew_bring_their_ids_again() {
    let mut end = End::live();
    end.enter(3, 9);
    let push = |seq| Body { msg_id: Some(format!("r3-{seq}")), qos: Some(1), ..in_room(3, seq) };
    end.receive(Code::Biz, &push(10));
    end.disconnect();
    end.connect();
    end.login();
    assert_eq!(end.receive(Code::Join, &joined(3, 1, &[], false))[0], "Joined 3 1 gap true");
    assert_eq!(end.receive(Code::Biz, &push(10)), [r#"Ack {"msgId":"r3-10"}"#, "Push 3 r3-10"]);
}

#[test]
fn a_snapshot_brings_its_states_then_the_missed_messages_then_the_live_ones() {
    let mut end = End::live();
    end.session.join(3).unwrap();
    assert_eq!(end.drain(), [r#"Join {"roomId":3}"#]);
    assert_eq!(end.receive(Code::Join, &joined(3, 9, &[7, 9], false)), ["Joined 3 9 gap false", "Push 3 7", "Push 3 9"]);
    assert_eq!(end.receive(Code::Biz, &in_room(3, 10)), ["Push 3 10"]);
}

#[test]
fn messages_of_a_snapshot_are_acknowledged_like_pushes() {
    let mut end = End::live();
    end.session.join(3).unwrap();
    end.drain();
    let messages = vec![Body { msg_id: text("r3-9"), qos: Some(1), ..in_room(3, 9) }];
    let snapshot = RoomSnapshot { messages, ..RoomSnapshot::default() };
    let answer = Body { seq: Some(9), data: Some(serde_json::to_string(&snapshot).unwrap()), ..room(3) };
    assert_eq!(end.receive(Code::Join, &answer), ["Joined 3 9 gap false", r#"Ack {"msgId":"r3-9"}"#, "Push 3 r3-9"]);
}

#[test]
fn a_reconnect_resumes_every_room_from_what_was_shown_two_at_a_time() {
    let mut end = End::live();
    end.enter(3, 9);
    end.receive(Code::Biz, &in_room(3, 11));
    end.enter(4, 20);
    end.enter(5, 30);
    end.session.join(6).unwrap();
    end.disconnect();
    assert!(end.connect()[0].ends_with(r#""resume":{"inbox":"","rooms":{"3":11,"4":20}}}"#));
    assert_eq!(end.login().len(), 1);
    let actions = end.receive(Code::Join, &joined(3, 13, &[11, 12, 13], false));
    assert_eq!(actions, ["Joined 3 13 gap false", "Push 3 12", "Push 3 13", r#"Join {"roomId":5,"resume":30}"#]);
    let actions = end.receive(Code::Join, &joined(4, 25, &[25], true));
    assert_eq!(actions, ["Joined 4 25 gap true", "Push 4 25", r#"Join {"roomId":6}"#]);
    assert_eq!(end.receive(Code::Join, &joined(6, 1, &[], false)), ["Joined 6 1 gap false"]);
    assert_eq!(end.receive(Code::Join, &joined(5, 30, &[], false)), ["Joined 5 30 gap false"]);
}

#[test]
fn a_third_room_is_asked_for_when_one_of_two_was_refused_or_left() {
    let mut end = End::live();
    for room_id in 1..=4 {
        end.session.join(room_id).unwrap();
    }
    assert_eq!(end.drain(), [r#"Join {"roomId":1}"#, r#"Join {"roomId":2}"#]);
    let refused = Body { room_id: Some(1), ..refusal(Reason::RoomNotFound) };
    assert_eq!(end.receive(Code::Error, &refused), [r#"Join {"roomId":3}"#, "Refused None Some(1) RoomNotFound None"]);
    end.session.leave(2).unwrap();
    assert_eq!(end.drain(), [r#"Leave {"roomId":2}"#, r#"Join {"roomId":4}"#]);
}

#[test]
fn what_comes_ahead_of_the_snapshot_is_neither_shown_nor_acknowledged() {
    let mut end = End::live();
    end.session.join(3).unwrap();
    end.drain();
    let push = Body { msg_id: text("r3-9"), qos: Some(1), ..in_room(3, 9) };
    assert_eq!(end.receive(Code::Biz, &push), [""; 0]);
    assert_eq!(end.receive(Code::Join, &joined(3, 9, &[8, 9], false)), ["Joined 3 9 gap false", "Push 3 8", "Push 3 9"]);
}

#[test]
fn a_room_whose_numbers_began_anew_is_taken_as_it_is_with_a_gap() {
    let mut end = End::live();
    end.enter(3, 900);
    end.disconnect();
    end.connect();
    end.login();
    assert_eq!(end.receive(Code::Join, &joined(3, 2, &[1, 2], false)), ["Joined 3 2 gap true", "Push 3 1", "Push 3 2"]);
    assert_eq!(end.receive(Code::Biz, &in_room(3, 3)), ["Push 3 3"]);
}

#[test]
fn a_snapshot_that_cannot_be_read_is_a_gap() {
    let mut end = End::live();
    end.session.join(3).unwrap();
    end.drain();
    assert_eq!(end.receive(Code::Join, &Body { seq: Some(9), data: text("{"), ..room(3) }), ["Joined 3 9 gap true"]);
}

#[test]
fn a_join_in_the_room_fetches_what_is_behind_the_shown() {
    let mut end = End::live();
    end.enter(3, 9);
    end.session.join(3).unwrap();
    assert_eq!(end.drain(), [r#"Join {"roomId":3,"resume":9}"#]);
    assert_eq!(end.receive(Code::Biz, &in_room(3, 10)), ["Push 3 10"], "meanwhile the room goes on");
    assert_eq!(end.receive(Code::Join, &joined(3, 10, &[10], false)), ["Joined 3 10 gap false"]);
}

#[test]
fn a_room_that_was_left_shows_nothing_any_more() {
    let mut end = End::live();
    end.enter(3, 9);
    end.session.leave(3).unwrap();
    assert_eq!(end.drain(), [r#"Leave {"roomId":3}"#]);
    assert_eq!(end.receive(Code::Biz, &in_room(3, 10)), [""; 0]);
    assert_eq!(end.receive(Code::Leave, &room(3)), ["Left { room_id: 3 }"]);
    end.disconnect();
    assert!(!end.connect()[0].contains("rooms"));
}

#[test]
fn leaving_is_told_also_without_a_connection_and_when_the_echo_is_lost() {
    let mut end = End::new();
    end.session.join(3).unwrap();
    end.session.leave(3).unwrap();
    assert_eq!(end.drain(), ["Left { room_id: 3 }"]);
    let mut end = End::live();
    end.enter(3, 9);
    end.session.leave(3).unwrap();
    end.drain();
    assert_eq!(end.disconnect(), ["Left { room_id: 3 }", "Closed PeerClosed reconnect true after None"]);
}

#[test]
fn a_room_joined_again_before_the_echo_is_kept_and_forgets_the_first_stay() {
    let mut end = End::live();
    end.enter(3, 9);
    end.session.leave(3).unwrap();
    end.session.join(3).unwrap();
    assert_eq!(end.drain(), [r#"Leave {"roomId":3}"#, r#"Join {"roomId":3}"#]);
    assert_eq!(end.receive(Code::Biz, &in_room(3, 10)), [""; 0], "of the first stay");
    assert_eq!(end.receive(Code::Leave, &room(3)), ["Left { room_id: 3 }"]);
    assert_eq!(end.receive(Code::Join, &joined(3, 10, &[10], false)), ["Joined 3 10 gap false", "Push 3 10"]);
}

#[test]
fn the_answer_to_a_join_of_the_stay_before_is_not_taken_for_that_of_the_next() {
    let mut end = End::live();
    end.enter(3, 9);
    end.session.join(3).unwrap();
    end.session.leave(3).unwrap();
    end.session.join(3).unwrap();
    end.drain();
    assert_eq!(end.receive(Code::Join, &joined(3, 9, &[], false)), [""; 0], "of the JOIN ahead of the LEAVE");
    end.receive(Code::Leave, &room(3));
    assert_eq!(end.receive(Code::Join, &joined(3, 10, &[], false)), ["Joined 3 10 gap false"]);
}

#[test]
fn a_server_that_takes_the_user_for_a_member_is_told_to_let_go_once() {
    let mut end = End::live();
    assert_eq!(end.receive(Code::Biz, &in_room(3, 10)), [r#"Leave {"roomId":3}"#]);
    assert_eq!(end.receive(Code::Biz, &in_room(3, 11)), [""; 0]);
    assert_eq!(end.receive(Code::Leave, &room(3)), [""; 0], "the app never was in there");
    assert_eq!(end.receive(Code::Join, &joined(4, 1, &[], false)), [r#"Leave {"roomId":4}"#]);
}

#[test]
fn a_room_that_the_server_ends_is_left_and_not_resumed() {
    let mut end = End::live();
    end.enter(3, 9);
    assert_eq!(end.receive(Code::Leave, &room(3)), ["Left { room_id: 3 }"]);
    assert_eq!(end.session.rooms().count(), 0);
}

#[test]
fn a_first_join_that_is_refused_is_the_apps_business() {
    let mut end = End::live();
    end.session.join(3).unwrap();
    end.drain();
    let refused = Body { room_id: Some(3), retry_after_ms: Some(500), ..refusal(Reason::Unavailable) };
    assert_eq!(end.receive(Code::Error, &refused), ["Refused None Some(3) Unavailable Some(500)"]);
    assert_eq!(end.session.rooms().count(), 0);
}

#[test]
fn a_resumed_join_that_is_refused_for_a_while_is_tried_again_and_for_good_is_told() {
    let mut end = End::live();
    end.enter(3, 9);
    end.disconnect();
    end.connect();
    end.login();
    end.receive(Code::Sync, &page(&[], false));
    let away = Body { room_id: Some(3), retry_after_ms: Some(500), ..refusal(Reason::Unavailable) };
    assert_eq!(end.receive(Code::Error, &away), [""; 0]);
    assert_eq!(end.tick(499), [""; 0]);
    assert_eq!(end.tick(500), [r#"Join {"roomId":3,"resume":9}"#]);
    let closed = Body { room_id: Some(3), ..refusal(Reason::RoomNotFound) };
    assert_eq!(end.receive(Code::Error, &closed), ["Left { room_id: 3 }", "Refused None Some(3) RoomNotFound None"]);
}

#[test]
fn a_ninth_room_is_one_too_many() {
    let mut end = End::live();
    for room_id in 1..=8 {
        assert_eq!(end.session.join(room_id), Ok(()));
    }
    assert_eq!(end.session.join(9), Err(CallError::TooManyRooms));
    assert_eq!(end.session.join(8), Ok(()), "one of the eight again");
    assert_eq!(end.session.join(0), Err(CallError::OutOfRange { field: "roomId" }));
    assert_eq!(end.session.join(1 << 53), Err(CallError::OutOfRange { field: "roomId" }));
}

#[test]
fn a_log_is_fetched_page_by_page_without_being_asked_again() {
    let mut end = End::live();
    end.enter(3, 9);
    end.session.sync_room(3, 4).unwrap();
    assert_eq!(end.drain(), [r#"Sync {"roomId":3,"fromSeq":4}"#]);
    assert_eq!(end.session.sync_room(3, 4), Err(CallError::TooManyCalls), "one at a time");
    let log = |seqs: &[i64], more| {
        let messages = seqs.iter().map(|seq| in_room(3, *seq)).collect();
        Body { data: Some(serde_json::to_string(&SyncPage { messages, more, gap: false }).unwrap()), ..room(3) }
    };
    let first = end.receive(Code::Sync, &log(&[5, 6], true));
    assert_eq!(first, ["History 3 [5, 6] gap false more true", r#"Sync {"roomId":3,"fromSeq":6}"#]);
    assert_eq!(end.receive(Code::Sync, &log(&[7], false)), ["History 3 [7] gap false more false"]);
    end.session.sync_room(3, 7).unwrap();
    end.drain();
    assert_eq!(end.receive(Code::Sync, &log(&[7], true)), ["History 3 [7] gap false more false"], "a page that leads nowhere is the last");
}

#[test]
fn only_a_room_it_is_in_gives_its_log() {
    let mut end = End::live();
    assert_eq!(end.session.sync_room(3, 4), Err(CallError::NotInRoom));
    end.session.join(3).unwrap();
    assert_eq!(end.session.sync_room(3, 4), Err(CallError::NotInRoom), "a refusal could then be meant for either");
    assert_eq!(end.session.sync_room(3, -1), Err(CallError::OutOfRange { field: "fromSeq" }));
}

#[test]
fn a_refused_log_leaves_the_room_alone() {
    let mut end = End::live();
    end.enter(3, 9);
    end.session.sync_room(3, 4).unwrap();
    end.drain();
    let refused = Body { room_id: Some(3), ..refusal(Reason::RoomNotFound) };
    assert_eq!(end.receive(Code::Error, &refused), ["Refused None Some(3) RoomNotFound None"]);
    assert_eq!(end.session.rooms().collect::<Vec<_>>(), [3]);
}

#[test]
fn a_log_refused_after_leaving_says_nothing_about_the_next_join() {
    let mut end = End::live();
    end.enter(3, 9);
    end.session.sync_room(3, 4).unwrap();
    end.session.leave(3).unwrap();
    end.session.join(3).unwrap();
    end.receive(Code::Leave, &room(3));
    let refused = Body { room_id: Some(3), ..refusal(Reason::Unavailable) };
    assert_eq!(end.receive(Code::Error, &refused), [""; 0]);
    assert_eq!(end.receive(Code::Join, &joined(3, 9, &[], false)), ["Joined 3 9 gap false"]);
}
