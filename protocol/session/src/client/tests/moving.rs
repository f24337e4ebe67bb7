//! From one connection to another without a gap.

use super::*;

fn answer() -> Body {
    Body { session_id: text("s2"), node: text("n2"), heartbeat_secs: Some(30), ..Body::yes() }
}

const LOGGED_IN: &str = r#"LoggedIn { session_id: "s2", node: "n2", server_time_ms: 0 }"#;

/// In room 3 up to 9, with LOGIN under way on a second connection.
fn on_the_move() -> End {
    let mut end = End::live();
    end.enter(3, 9);
    let login = r#"next: Login {"appId":10001,"userId":10007,"token":"t2","resume":{"inbox":"","rooms":{"3":9}}}"#;
    assert_eq!(end.move_on(), [login]);
    end
}

#[test]
fn the_old_connection_is_the_session_until_the_new_login_is_answered() {
    let mut end = on_the_move();
    assert_eq!(end.receive(Code::Biz, &in_room(3, 10)), ["Push 3 10"]);
    end.session.biz(message("a")).unwrap();
    assert_eq!(end.drain(), [r#"Biz {"bizCode":5555,"data":"{}","msgId":"a","roomId":3}"#]);
    assert_eq!(end.receive_next(Code::Login, &answer()), ["Switch", LOGGED_IN]);
    // The answer to LOGIN's resume: 10 was shown, 11 was not.
    let actions = end.receive(Code::Join, &joined(3, 11, &[10, 11], false));
    let again = r#"Biz {"bizCode":5555,"data":"{}","msgId":"a","roomId":3}"#;
    assert_eq!(actions, ["Joined 3 11 gap false", "Push 3 11", again, "CloseFormer"]);
    assert_eq!(end.receive_former(Code::Biz, &in_room(3, 12)), [""; 0], "it comes here");
    assert_eq!(end.receive(Code::Biz, &in_room(3, 12)), ["Push 3 12"]);
}

#[test]
fn until_a_room_is_entered_the_former_connection_tells_what_happens_in_it() {
    let mut end = on_the_move();
    end.receive_next(Code::Login, &answer());
    assert_eq!(end.receive_former(Code::Biz, &in_room(3, 10)), ["Push 3 10"]);
    assert_eq!(end.receive(Code::Biz, &in_room(3, 11)), [""; 0], "ahead of the snapshot that brings it");
    assert_eq!(end.receive_former(Code::Biz, &in_room(3, 11)), ["Push 3 11"]);
    assert_eq!(end.receive_former(Code::Biz, &in_inbox("1-0")), [r#"Ack {"msgId":"1-0"}"#, "Push 0 1-0"], "acknowledged where we are");
    // The snapshot is older than what was shown: no beginning anew.
    assert_eq!(end.receive(Code::Join, &joined(3, 10, &[10], false)), ["Joined 3 10 gap false", "CloseFormer"]);
    assert_eq!(end.receive(Code::Biz, &in_room(3, 11)), [""; 0]);
    assert_eq!(end.receive(Code::Biz, &in_room(3, 12)), ["Push 3 12"]);
}

#[test]
fn states_that_are_older_than_what_was_shown_are_not_drawn() {
    let mut end = on_the_move();
    end.receive_next(Code::Login, &answer());
    end.receive_former(Code::Biz, &in_room(3, 11));
    let states = [("pk".to_owned(), Body { seq: Some(8), ..room(3) })].into();
    let data = serde_json::to_string(&RoomSnapshot { states, ..RoomSnapshot::default() }).unwrap();
    let old = Body { seq: Some(10), data: Some(data), ..room(3) };
    end.session.on_frame(end.now, Frame { encoding: Encoding::Json, code: Code::Join.number(), body: &old.to_vec(Encoding::Json) });
    let Some(ClientAction::Tell(ClientEvent::Joined { snapshot, .. })) = end.session.next_action() else { panic!("it is in") };
    assert!(snapshot.states.is_empty());
}

#[test]
fn a_room_whose_numbers_began_anew_is_still_noticed() {
    let mut end = on_the_move();
    end.receive_next(Code::Login, &answer());
    assert_eq!(end.receive(Code::Join, &joined(3, 2, &[1, 2], false))[..3], ["Joined 3 2 gap true", "Push 3 1", "Push 3 2"]);
}

#[test]
fn the_kick_for_our_own_login_is_nobody_elses() {
    // Before the answer: the next connection takes over.
    let mut end = on_the_move();
    assert_eq!(end.receive(Code::Kick, &refusal(Reason::DuplicateLogin)), ["Switch", "CloseFormer"]);
    assert_eq!(end.receive(Code::Login, &answer()), [LOGGED_IN]);
    assert_eq!(end.receive(Code::Join, &joined(3, 10, &[10], false)), ["Joined 3 10 gap false", "Push 3 10"]);
    // After it.
    let mut end = on_the_move();
    end.receive_next(Code::Login, &answer());
    assert_eq!(end.receive_former(Code::Kick, &refusal(Reason::DuplicateLogin)), ["CloseFormer"]);
    assert!(end.session.is_live());
    // Of a login whose answer was lost with its connection.
    let mut end = on_the_move();
    end.session.on_next_disconnected(end.now, Reason::PeerClosed);
    assert_eq!(end.drain(), ["CloseNext PeerClosed after None"]);
    let closed = ["Closed PeerClosed reconnect true after None", "Close"];
    assert_eq!(end.receive(Code::Kick, &refusal(Reason::DuplicateLogin)), closed);
    // One that comes when nothing of ours can be meant.
    let mut end = on_the_move();
    end.receive_next(Code::Login, &answer());
    let kicked = end.receive(Code::Kick, &refusal(Reason::DuplicateLogin));
    assert!(kicked.iter().any(|action| action == "Closed DuplicateLogin reconnect false after None"), "{kicked:?}");
}

#[test]
fn a_ban_ends_both_connections() {
    let mut end = on_the_move();
    let actions = end.receive(Code::Kick, &refusal(Reason::Banned));
    assert_eq!(actions[1..], ["CloseNext LoggedOut after None", "Closed Banned reconnect false after None", "Close"]);
    let mut end = on_the_move();
    end.receive_next(Code::Login, &answer());
    let actions = end.receive_former(Code::Kick, &refusal(Reason::Banned));
    assert_eq!(actions, ["CloseFormer", "Closed Banned reconnect false after None", "Close"]);
}

#[test]
fn a_move_that_fails_changes_nothing() {
    let mut end = on_the_move();
    let busy = Body { retry_after_ms: Some(700), ..refusal(Reason::Unavailable) };
    assert_eq!(end.receive_next(Code::Error, &busy), ["CloseNext Unavailable after Some(700)"]);
    assert_eq!(end.receive(Code::Biz, &in_room(3, 10)), ["Push 3 10"]);
    assert_eq!(end.move_on().len(), 1, "it may be tried again");
    assert_eq!(end.tick(9_999), [""; 0]);
    assert_eq!(end.tick(10_000), ["CloseNext LoginTimeout after None"]);
    assert!(end.session.is_live());
}

#[test]
fn an_end_of_the_old_connection_hastens_the_move() {
    let mut end = on_the_move();
    end.session.biz(message("a")).unwrap();
    end.drain();
    assert_eq!(end.disconnect(), ["Switch", "CloseFormer"]);
    assert!(!end.session.is_live() && !end.session.is_offline());
    assert_eq!(end.receive(Code::Login, &answer()), [LOGGED_IN]);
    assert_eq!(end.receive(Code::Join, &joined(3, 9, &[], false)).len(), 2, "in, and sent again");
    // And when the login then fails, it has failed like any other.
    let mut end = on_the_move();
    end.disconnect();
    assert_eq!(end.receive(Code::Error, &refusal(Reason::Unavailable)), ["Closed Unavailable reconnect true after None", "Close"]);
}

#[test]
fn what_was_accepted_there_is_told_and_what_was_refused_there_is_asked_here() {
    let mut end = on_the_move();
    end.session.biz(message("a")).unwrap();
    end.session.biz(message("b")).unwrap();
    end.drain();
    end.receive_next(Code::Login, &answer());
    let accepted = end.receive_former(Code::Ack, &Body { msg_id: text("a"), ts: Some(5), seq: Some(10), ..Body::default() });
    assert_eq!(accepted, [r#"Accepted { msg_id: "a", ts_ms: 5, seq: Some(10) }"#]);
    assert_eq!(end.receive_former(Code::Error, &Body { msg_id: text("b"), ..refusal(Reason::RateLimited) }), [""; 0]);
    let actions = end.receive(Code::Join, &joined(3, 10, &[10], false));
    assert_eq!(actions[2], r#"Biz {"bizCode":5555,"data":"{}","msgId":"b","roomId":3}"#);
}

#[test]
fn what_was_accepted_there_is_not_refused_here() {
    let mut end = End::live();
    for room_id in [1, 2, 3] {
        end.enter(room_id, 9);
    }
    end.session.biz(Message { room_id: Some(1), ..message("a") }).unwrap();
    end.move_on();
    end.receive_next(Code::Login, &answer());
    // In the room, and the message was sent again, while the former connection is kept for the others.
    assert_eq!(end.receive(Code::Join, &joined(1, 9, &[], false)).len(), 3);
    let accepted = end.receive_former(Code::Ack, &Body { msg_id: text("a"), ts: Some(5), ..Body::default() });
    assert_eq!(accepted, [r#"Accepted { msg_id: "a", ts_ms: 5, seq: None }"#]);
    assert_eq!(end.receive(Code::Error, &Body { msg_id: text("a"), ..refusal(Reason::RateLimited) }), [""; 0]);
}

#[test]
fn a_room_left_or_refused_is_not_waited_for_and_no_other_longer_than_an_answer_takes() {
    let mut end = on_the_move();
    end.receive_next(Code::Login, &answer());
    end.session.leave(3).unwrap();
    assert_eq!(end.drain().last().map(String::as_str), Some("CloseFormer"));
    let mut end = on_the_move();
    end.receive_next(Code::Login, &answer());
    let actions = end.receive(Code::Error, &Body { room_id: Some(3), ..refusal(Reason::RoomNotFound) });
    assert_eq!(actions.last().map(String::as_str), Some("CloseFormer"));
    let mut end = on_the_move();
    end.receive_next(Code::Login, &answer());
    assert_eq!(end.tick(10_000)[0], "CloseFormer");
}

#[test]
fn without_rooms_the_old_connection_is_closed_at_once_and_a_logout_closes_all() {
    let mut end = End::live();
    end.move_on();
    assert_eq!(end.receive_next(Code::Login, &answer()), ["Switch", LOGGED_IN, "CloseFormer"]);
    let mut end = on_the_move();
    end.session.logout(end.now);
    assert_eq!(end.drain(), ["CloseNext LoggedOut after None", "Logout {}"]);
    assert!(!end.session.on_next_connected(end.now, "t", Order::Total), "there is nothing to move");
    assert!(!End::new().session.on_next_connected(Time(0), "t", Order::Total));
}
