//! Messages up, and messages from the inbox.

use super::*;
use crate::client::CallError;

#[test]
fn a_message_is_kept_until_it_is_accepted() {
    let mut end = End::live();
    end.session.biz(message("a")).unwrap();
    let biz = r#"Biz {"bizCode":5555,"data":"{}","msgId":"a","roomId":3}"#;
    assert_eq!(end.drain(), [biz]);
    end.disconnect();
    end.connect();
    assert_eq!(end.login()[1..], [biz], "again, with the same id");
    let accepted = end.receive(Code::Ack, &Body { msg_id: text("a"), ts: Some(77), seq: Some(5), ..Body::default() });
    assert_eq!(accepted, [r#"Accepted { msg_id: "a", ts_ms: 77, seq: Some(5) }"#]);
    assert_eq!(end.session.in_flight(), 0);
    assert_eq!(end.receive(Code::Ack, &Body { msg_id: text("a"), ..Body::default() }), [""; 0], "told once");
}

#[test]
fn a_refused_message_is_not_sent_again() {
    let mut end = End::live();
    end.session.biz(message("a")).unwrap();
    end.drain();
    let refused = Body { msg_id: text("a"), retry_after_ms: Some(50), ..refusal(Reason::RateLimited) };
    assert_eq!(end.receive(Code::Error, &refused), [r#"Refused Some("a") None RateLimited Some(50)"#]);
    end.disconnect();
    end.connect();
    assert_eq!(end.login().len(), 1);
}

#[test]
fn a_message_that_was_given_up_is_not_sent_again_and_its_id_is_free() {
    let mut end = End::live();
    end.session.biz(message("a")).unwrap();
    end.drain();
    assert!(end.session.withdraw("a"));
    assert!(!end.session.withdraw("a"), "it is given up once");
    assert_eq!(end.receive(Code::Ack, &Body { msg_id: text("a"), ..Body::default() }), [""; 0]);
    end.disconnect();
    end.connect();
    assert_eq!(end.login().len(), 1, "nothing goes out behind the login");
    assert_eq!(end.session.biz(message("a")), Ok(()));
}

#[test]
fn a_message_without_a_connection_waits_for_the_login_and_for_its_room() {
    let mut end = End::new();
    end.session.join(3).unwrap();
    end.session.biz(message("a")).unwrap();
    end.session.biz(message("b")).unwrap();
    assert_eq!(end.drain(), [""; 0]);
    end.connect();
    assert_eq!(end.login()[1..], [r#"Join {"roomId":3}"#]);
    let actions = end.receive(Code::Join, &joined(3, 1, &[], false));
    assert!(actions[1].contains(r#""msgId":"a""#) && actions[2].contains(r#""msgId":"b""#), "{actions:?}");
}

#[test]
fn a_message_waits_until_its_room_has_let_the_user_in_and_no_longer_than_the_room_is_wanted() {
    let mut end = End::live();
    for room_id in [1, 2, 3, 4] {
        end.session.join(room_id).unwrap();
    }
    end.drain();
    end.session.biz(message("a")).unwrap();
    end.session.biz(Message { room_id: Some(4), ..message("b") }).unwrap();
    assert_eq!(end.drain(), [""; 0]);
    let actions = end.receive(Code::Join, &joined(1, 1, &[], false));
    assert_eq!(actions[1..], [r#"Join {"roomId":3}"#]);
    let biz = r#"Biz {"bizCode":5555,"data":"{}","msgId":"a","roomId":3}"#;
    end.session.leave(4).unwrap();
    assert_eq!(end.drain(), [r#"Biz {"bizCode":5555,"data":"{}","msgId":"b","roomId":4}"#, "Left { room_id: 4 }"]);
    assert_eq!(end.receive(Code::Join, &joined(3, 1, &[], false))[1..], [biz]);
}

/// As where the owner of the room has died and none has its lease yet: the JOIN is refused for a while, and undone.
#[test]
fn a_message_to_a_room_that_is_to_be_asked_for_again_waits_for_its_answer() {
    let mut end = End::live();
    end.enter(3, 9);
    end.disconnect();
    end.connect();
    end.login();
    end.receive(Code::Sync, &page(&[], false));
    end.session.biz(message("a")).unwrap();
    assert_eq!(end.drain(), [""; 0], "the JOIN of the LOGIN is under way");
    let away = Body { room_id: Some(3), retry_after_ms: Some(500), ..refusal(Reason::Unavailable) };
    assert_eq!(end.receive(Code::Error, &away), [""; 0]);
    end.session.biz(message("b")).unwrap();
    assert_eq!(end.drain(), [""; 0], "nobody knows there yet that the user is a member");
    assert_eq!(end.tick(500), [r#"Join {"roomId":3,"resume":9}"#]);
    let biz = |msg_id: &str| format!(r#"Biz {{"bizCode":5555,"data":"{{}}","msgId":"{msg_id}","roomId":3}}"#);
    let actions = end.receive(Code::Join, &joined(3, 9, &[], false));
    assert_eq!(actions, ["Joined 3 9 gap false".to_owned(), biz("a"), biz("b")]);
}

#[test]
fn what_waited_for_a_room_that_refuses_for_good_is_answered_by_the_server() {
    let mut end = End::live();
    end.session.join(3).unwrap();
    end.session.biz(message("a")).unwrap();
    assert_eq!(end.drain(), [r#"Join {"roomId":3}"#]);
    let biz = r#"Biz {"bizCode":5555,"data":"{}","msgId":"a","roomId":3}"#;
    let closed = Body { room_id: Some(3), ..refusal(Reason::RoomNotFound) };
    assert_eq!(end.receive(Code::Error, &closed), [biz, "Refused None Some(3) RoomNotFound None"]);
}

#[test]
fn a_message_goes_out_once_per_connection() {
    let mut end = End::live();
    end.session.biz(message("a")).unwrap();
    end.drain();
    end.session.join(3).unwrap();
    assert_eq!(end.drain(), [r#"Join {"roomId":3}"#], "a second copy could be accepted after the first was refused");
    end.disconnect();
    end.connect();
    end.login();
    let actions = end.receive(Code::Join, &joined(3, 1, &[], false));
    assert_eq!(actions[1..], [r#"Biz {"bizCode":5555,"data":"{}","msgId":"a","roomId":3}"#]);
}

#[test]
fn a_message_without_an_id_is_sent_once_or_not_at_all() {
    let mut end = End::new();
    let like = || Message { msg_id: None, ..message("") };
    assert_eq!(end.session.biz(like()), Err(CallError::NotLive));
    let mut end = End::live();
    assert_eq!(end.session.biz(like()), Ok(()));
    assert_eq!(end.drain(), [r#"Biz {"bizCode":5555,"data":"{}","roomId":3}"#]);
    assert_eq!(end.session.in_flight(), 0);
}

#[test]
fn one_message_too_many_and_one_twice_are_turned_down() {
    let mut end = End::live();
    for index in 0..16 {
        assert_eq!(end.session.biz(message(&format!("m{index}"))), Ok(()));
    }
    assert_eq!(end.session.biz(message("m0")), Err(CallError::IdInUse));
    assert_eq!(end.session.biz(message("m16")), Err(CallError::TooManyCalls));
    assert_eq!(end.session.biz(message("")), Err(CallError::OutOfRange { field: "msgId" }));
    assert_eq!(end.session.biz(message(&"x".repeat(65))), Err(CallError::OutOfRange { field: "msgId" }));
    end.receive(Code::Ack, &Body { msg_id: text("m0"), ..Body::default() });
    assert_eq!(end.session.biz(message(&"x".repeat(64))), Ok(()));
}

#[test]
fn a_push_to_the_user_is_acknowledged_and_shown_once() {
    let mut end = End::live();
    assert_eq!(end.receive(Code::Biz, &in_inbox("1-0")), [r#"Ack {"msgId":"1-0"}"#, "Push 0 1-0"]);
    assert_eq!(end.receive(Code::Biz, &in_inbox("1-0")), [r#"Ack {"msgId":"1-0"}"#]);
    end.disconnect();
    end.connect();
    end.login();
    assert_eq!(end.receive(Code::Sync, &page(&["1-0", "2-0"], false))[2..], ["Push 0 2-0", "InboxRead { gap: false }"]);
}

#[test]
fn the_inbox_is_read_to_its_end_and_only_its_pages_move_the_cursor() {
    let mut end = End::new();
    end.connect();
    end.login();
    // Ahead of what the inbox still holds: to resume from here would skip it.
    end.receive(Code::Biz, &in_inbox("9-0"));
    let first = end.receive(Code::Sync, &page(&["1-0", "2-0"], true));
    assert_eq!(first[4..], [r#"Sync {"fromId":"2-0"}"#]);
    let last = end.receive(Code::Sync, &page(&["3-0"], false));
    assert_eq!(last[1..], ["Push 0 3-0", "InboxRead { gap: false }"]);
    end.receive(Code::Biz, &in_inbox("10-0"));
    end.disconnect();
    assert!(end.connect()[0].ends_with(r#""resume":{"inbox":"3-0"}}"#));
}

#[test]
fn a_page_that_leads_nowhere_is_the_last() {
    let mut end = End::live();
    end.session.sync_inbox(end.now).unwrap();
    assert_eq!(end.session.sync_inbox(end.now), Err(CallError::TooManyCalls));
    end.drain();
    assert_eq!(end.receive(Code::Sync, &page(&[], true)), ["InboxRead { gap: false }"]);
}

#[test]
fn what_was_left_before_the_cursor_does_not_end_the_reading_after_a_login() {
    let mut end = End::new();
    end.connect();
    end.login();
    end.receive(Code::Sync, &page(&["1-0", "2-0"], false));
    end.disconnect();
    end.connect();
    end.login();
    // The ACKs were lost, so the first page ends where the inbox was read to.
    let first = end.receive(Code::Sync, &page(&["1-0", "2-0"], true));
    assert_eq!(first.last().unwrap(), r#"Sync {"fromId":"2-0"}"#);
}

#[test]
fn a_gap_on_any_page_is_told_at_the_end() {
    let mut end = End::new();
    end.connect();
    end.login();
    let with_gap = SyncPage { messages: vec![in_inbox("1-0")], more: true, gap: true };
    end.receive(Code::Sync, &Body { data: Some(serde_json::to_string(&with_gap).unwrap()), ..Body::default() });
    assert_eq!(end.receive(Code::Sync, &page(&[], false)), ["InboxRead { gap: true }"]);
}

#[test]
fn an_inbox_that_does_not_answer_is_asked_three_times() {
    let mut end = End::new();
    end.connect();
    end.login();
    assert_eq!(end.tick(9_999), [""; 0]);
    assert_eq!(end.tick(10_000), ["Sync {}"], "LOGIN asked first");
    assert_eq!(end.tick(20_000), ["Sync {}"]);
    assert_eq!(end.tick(29_999), [""; 0]);
    assert_eq!(end.tick(30_000), ["Heartbeat {}"]);
    assert_eq!(end.session.next_deadline(), Time(60_000));
}

#[test]
fn ids_beyond_the_window_are_shown_again_and_those_within_are_not() {
    let mut end =
        End { session: ClientSession::new(ClientConfig { seen_max: 2, ..ClientConfig::new(10_001, 10_007) }), now: Time(0), ..End::new() };
    end.connect();
    end.login();
    for id in ["1-0", "2-0", "1-0"] {
        end.receive(Code::Biz, &in_inbox(id));
    }
    assert_eq!(end.receive(Code::Biz, &in_inbox("1-0")).len(), 1);
    end.receive(Code::Biz, &in_inbox("3-0"));
    assert_eq!(end.receive(Code::Biz, &in_inbox("1-0")).len(), 2);
}

#[test]
fn an_ack_may_be_repeated_by_hand() {
    let mut end = End::live();
    assert_eq!(end.session.ack("1-0"), Ok(()));
    assert_eq!(end.drain(), [r#"Ack {"msgId":"1-0"}"#]);
    assert_eq!(end.session.ack(""), Err(CallError::OutOfRange { field: "msgId" }));
    end.disconnect();
    assert_eq!(end.session.ack("1-0"), Err(CallError::NotLive));
}

#[test]
fn an_ack_that_may_be_lost_is_sent_again_at_the_next_login_and_one_that_an_echo_proves_is_not() {
    let mut end = End::live();
    end.receive(Code::Biz, &in_inbox("1-0"));
    end.tick(30_000);
    end.receive(Code::Biz, &in_inbox("2-0"));
    end.receive(Code::Heartbeat, &Body::yes());
    end.disconnect();
    end.connect();
    assert_eq!(end.login()[1..], [r#"Ack {"msgId":"2-0"}"#]);
    end.receive(Code::Heartbeat, &Body::yes());
    end.disconnect();
    end.connect();
    assert_eq!(end.login()[1..], [r#"Ack {"msgId":"2-0"}"#], "an echo nobody asked for proves nothing");
}

#[test]
fn acks_that_may_be_lost_are_bounded() {
    let mut end = End::live();
    for id in 0..257 {
        end.receive(Code::Biz, &in_inbox(&format!("{id}-0")));
    }
    end.disconnect();
    end.connect();
    let acks = end.login();
    assert_eq!((acks.len(), acks[1].as_str()), (257, r#"Ack {"msgId":"1-0"}"#));
}
