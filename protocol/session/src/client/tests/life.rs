//! Login, heartbeats, and every way to end.

use super::*;
use billfish_wire::FrameError;

#[test]
fn login_says_who_and_where_the_inbox_was_read_to() {
    let mut end = End::new();
    let login = r#"Login {"appId":10001,"userId":10007,"token":"t","resume":{"inbox":""}}"#;
    assert_eq!(end.connect(), [login]);
    assert_eq!(end.login(), [r#"LoggedIn { session_id: "s1", node: "n1", server_time_ms: 99 }"#]);
    assert!(end.session.is_live());
}

#[test]
fn without_an_inbox_a_first_login_resumes_nothing() {
    let mut end =
        End { session: ClientSession::new(ClientConfig { inbox: false, ..ClientConfig::new(10_001, 10_007) }), now: Time(0), ..End::new() };
    assert_eq!(end.connect(), [r#"Login {"appId":10001,"userId":10007,"token":"t"}"#]);
    end.login();
    assert_eq!(end.tick(10_000), [""; 0], "nor does it ask later");
}

#[test]
fn a_websocket_shake_is_a_login_answer() {
    let mut end = End::new();
    end.connect();
    assert_eq!(end.receive(Code::WsShake, &Body::yes()).len(), 1);
    assert!(end.session.is_live());
}

#[test]
fn frames_are_read_and_written_as_protobuf_too() {
    let mut end = End {
        session: ClientSession::new(ClientConfig { encoding: Encoding::Protobuf, ..ClientConfig::new(10_001, 10_007) }),
        now: Time(0),
        ..End::new()
    };
    assert_eq!(end.session.encoding(), Encoding::Protobuf);
    end.connect();
    let body = Body::yes().to_vec(Encoding::Protobuf);
    end.session.on_frame(Time(0), Frame { encoding: Encoding::Protobuf, code: Code::Login.number(), body: &body });
    assert!(end.session.is_live());
}

#[test]
fn a_login_without_an_answer_is_given_up_in_time() {
    let mut end = End::new();
    end.connect();
    assert_eq!(end.tick(9_999), [""; 0]);
    assert_eq!(end.tick(10_000), ["Closed LoginTimeout reconnect true after None", "Close"]);
}

#[test]
fn a_refused_login_says_whether_to_come_back_and_when() {
    let mut end = End::new();
    end.connect();
    assert_eq!(end.receive(Code::Error, &refusal(Reason::BadToken)), ["Closed BadToken reconnect false after None", "Close"]);
    end.connect();
    let busy = Body { retry_after_ms: Some(700), ..refusal(Reason::Unavailable) };
    assert_eq!(end.receive(Code::Error, &busy), ["Closed Unavailable reconnect true after Some(700)", "Close"]);
}

#[test]
fn heartbeats_keep_the_gap_that_login_named() {
    let mut end = End::new();
    end.connect();
    end.receive(Code::Login, &Body { heartbeat_secs: Some(7), ..Body::yes() });
    end.receive(Code::Sync, &page(&[], false));
    assert_eq!(end.tick(6_999), [""; 0]);
    assert_eq!(end.tick(7_000), ["Heartbeat {}"]);
    assert_eq!(end.receive(Code::Heartbeat, &Body { audience: Some(5), ..Body::yes() }), ["HeartbeatEcho { audience: Some(5) }"]);
    assert_eq!(end.tick(14_000), ["Heartbeat {}"]);
}

#[test]
fn without_a_gap_in_the_answer_it_is_30_s() {
    let mut end = End::new();
    end.connect();
    end.receive(Code::Login, &Body::yes());
    end.receive(Code::Sync, &page(&[], false));
    assert_eq!(end.session.next_deadline(), Time(30_000));
}

#[test]
fn a_server_silent_for_two_gaps_is_dead_and_any_frame_is_life() {
    let mut end = End::live();
    end.tick(30_000);
    end.receive(Code::Reconnect, &Body::default());
    end.tick(60_000);
    assert_eq!(end.tick(89_999), [""; 0]);
    assert_eq!(end.tick(90_000), ["Closed HeartbeatLost reconnect true after None", "Close"]);
    assert_eq!(end.session.next_deadline(), Time::NEVER);
}

#[test]
fn a_kick_is_told_with_its_reason_and_some_reasons_forbid_to_come_back() {
    for (reason, reconnect) in [(Reason::DuplicateLogin, false), (Reason::Banned, false), (Reason::TooSlow, true)] {
        let mut end = End::live();
        let kicked = end.receive(Code::Kick, &refusal(reason));
        assert!(kicked[0].starts_with(&format!("Kicked {{ reason: {reason:?}")), "{kicked:?}");
        assert_eq!(kicked[1..], [format!("Closed {reason:?} reconnect {reconnect} after None"), "Close".to_owned()]);
    }
}

#[test]
fn a_reason_of_a_later_version_counts_as_internal() {
    let mut end = End::live();
    let told = end.receive(Code::Error, &Body { code: Some(4_999), ..Body::default() });
    assert_eq!(told, ["Refused None None Internal None"]);
}

#[test]
fn a_draining_node_names_where_to_go() {
    let mut end = End::live();
    let hint = Body { addresses: vec!["b:1".to_owned()], after_ms: Some(250), ..Body::default() };
    assert_eq!(end.receive(Code::Reconnect, &hint), [r#"MoveTo { addresses: ["b:1"], after_ms: 250 }"#]);
    assert!(end.session.is_live());
}

#[test]
fn logout_waits_for_its_echo_and_not_for_ever() {
    let mut end = End::live();
    end.session.logout(end.now);
    assert_eq!(end.drain(), ["Logout {}"]);
    assert_eq!(end.receive(Code::Logout, &Body::yes()), ["Closed LoggedOut reconnect false after None", "Close"]);

    let mut end = End::live();
    end.session.logout(end.now);
    end.drain();
    assert_eq!(end.tick(9_999), [""; 0]);
    assert_eq!(end.tick(10_000), ["Closed LoggedOut reconnect false after None", "Close"]);

    let mut end = End::live();
    end.session.logout(end.now);
    end.drain();
    assert_eq!(end.disconnect(), ["Closed LoggedOut reconnect false after None"]);
}

#[test]
fn logout_forgets_rooms_and_messages() {
    let mut end = End::live();
    end.enter(3, 9);
    end.session.biz(message("a")).unwrap();
    end.session.logout(end.now);
    end.receive(Code::Logout, &Body::yes());
    assert_eq!((end.session.rooms().count(), end.session.in_flight()), (0, 0));
}

#[test]
fn the_end_is_told_once_and_nothing_follows_it() {
    let mut end = End::live();
    end.enter(3, 9);
    assert_eq!(end.disconnect(), ["Closed PeerClosed reconnect true after None"]);
    assert_eq!(end.disconnect(), [""; 0]);
    for code in Code::ALL {
        assert_eq!(end.receive(code, &in_room(3, 10)), [""; 0], "{code:?}");
    }
    end.session.on_frame_error(FrameError::UnknownMagic { magic: 0 });
    assert_eq!(end.tick(1_000_000), [""; 0]);
}

#[test]
fn a_stream_out_of_step_is_closed_and_begun_anew() {
    let mut end = End::live();
    end.session.on_frame_error(FrameError::UnknownMagic { magic: 0 });
    assert_eq!(end.drain(), ["Closed Malformed reconnect true after None", "Close"]);
}

#[test]
fn a_frame_that_cannot_be_read_is_passed_over_and_an_unknown_code_ignored() {
    let mut end = End::live();
    end.session.on_frame(Time(0), Frame { encoding: Encoding::Json, code: Code::Biz.number(), body: b"{" });
    assert_eq!(end.drain(), ["Unreadable { code: 1003 }"]);
    end.session.on_frame(Time(0), Frame { encoding: Encoding::Json, code: 1_999, body: b"{" });
    assert_eq!(end.drain(), [""; 0]);
}

#[test]
fn a_new_connection_ends_the_old_one_first() {
    let mut end = End::live();
    let actions = end.connect();
    assert_eq!(actions[0], "Closed TransportFailed reconnect true after None");
    assert!(actions[1].starts_with("Login"));
}
