//! From the first frame to the verdict.

use super::*;

#[test]
fn a_session_costs_no_more_than_its_80_bytes() {
    assert!(size_of::<ServerSession>() <= 80, "{}", size_of::<ServerSession>());
}

#[test]
fn a_login_is_checked_answered_in_its_encoding_and_counts_as_life() {
    for encoding in Encoding::ALL {
        let mut end = End::new();
        let login = Body { platform: text("ios"), device_id: text("d1"), ..login() };
        let actions = end.frame_in(encoding, Code::Login, &login);
        let [ServerAction::Authenticate(request)] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!((request.app_id, request.user_id, request.token.as_str()), (APP, USER, "t"));
        assert_eq!((request.platform.as_deref(), request.device_id.as_deref()), (Some("ios"), Some("d1")));
        assert!(end.session.is_authenticating());
        assert_eq!((end.session.user_id(), end.session.app_id()), (0, 0), "not believed before the verdict");

        let answer = Body { session_id: text("s1"), node: text("n1"), heartbeat_secs: Some(30), server_time: Some(99), ..Body::yes() };
        assert_eq!(end.accept(), [sent(Code::Login, answer), "Alive".to_owned(), "Upstream 1 Redeliver".to_owned()]);
        assert!(end.session.is_live());
        assert_eq!((end.session.user_id(), end.session.app_id(), end.session.encoding()), (USER, APP, encoding));
    }
}

#[test]
fn a_login_without_app_user_or_token_is_told_so_and_closed() {
    for missing in [Body { app_id: None, ..login() }, Body { user_id: None, ..login() }, Body { token: None, ..login() }] {
        let mut end = End::new();
        assert_eq!(end.frame(Code::Login, &missing).shown(), refused_and_closed(Reason::Malformed));
    }
}

#[test]
fn a_login_body_that_cannot_be_read_is_told_so_in_its_encoding_and_closed() {
    let mut end = End::new();
    let frame = Frame { encoding: Encoding::Protobuf, code: Code::Login.number(), body: &[0xff] };
    assert_eq!(end.raw(frame).shown(), refused_and_closed(Reason::Malformed));
    assert_eq!(end.session.encoding(), Encoding::Protobuf);
}

#[test]
fn before_login_every_other_frame_closes() {
    for code in Code::ALL.into_iter().filter(|code| *code != Code::Login) {
        let mut end = End::new();
        assert_eq!(end.frame(code, &Body::default()).shown(), refused_and_closed(Reason::NotLoggedIn), "{code:?}");
    }
    let mut end = End::new();
    let unknown = Frame { encoding: Encoding::Json, code: 999, body: b"" };
    assert_eq!(end.raw(unknown).shown(), refused_and_closed(Reason::NotLoggedIn));
}

#[test]
fn broken_framing_before_login_closes_without_a_word_and_after_it_with_an_error() {
    let error = FrameError::TooLarge { len: 5_000, limit: 4_096 };
    let mut end = End::new();
    end.session.on_frame_error(error, &mut end.out);
    assert_eq!(end.drain().shown(), ["Close(TooLarge)"]);
    let mut end = End::live();
    end.session.on_frame_error(error, &mut end.out);
    assert_eq!(end.drain().shown(), refused_and_closed(Reason::TooLarge));
}

#[test]
fn the_body_limit_rises_with_the_verdict_and_not_with_the_login() {
    let mut end = End::new();
    assert_eq!(end.session.body_bytes_max(&end.config), 4 * 1024);
    end.frame(Code::Login, &login());
    assert_eq!(end.session.body_bytes_max(&end.config), 4 * 1024);
    end.accept();
    assert_eq!(end.session.body_bytes_max(&end.config), 64 * 1024);
}

#[test]
fn a_connection_without_login_is_closed_after_its_time_and_not_a_millisecond_earlier() {
    let mut end = End::new();
    assert_eq!(end.session.next_deadline(&end.config), Time(5_000));
    assert_eq!(end.tick(4_999).shown(), [""; 0]);
    assert_eq!(end.tick(5_000).shown(), refused_and_closed(Reason::LoginTimeout));
}

#[test]
fn a_verdict_that_does_not_come_in_time_is_the_servers_fault() {
    let mut end = End::new();
    end.frame(Code::Login, &login());
    assert_eq!(end.tick(4_999).shown(), [""; 0]);
    let refusal = Body { retry_after_ms: Some(1_000), ..Body::refusal(Reason::Unavailable) };
    assert_eq!(end.tick(5_000).shown(), [sent(Code::Error, refusal), "Close(Unavailable)".to_owned()]);
    assert_eq!(end.accept(), [""; 0], "the verdict is too late");
}

#[test]
fn a_refused_login_hears_why_and_when_to_come_back() {
    let mut end = End::new();
    end.frame(Code::Login, &login());
    end.session.on_login_refused(Reason::RateLimited, Some(700), &mut end.out);
    let refusal = Body { retry_after_ms: Some(700), ..Body::refusal(Reason::RateLimited) };
    assert_eq!(end.drain().shown(), [sent(Code::Error, refusal), "Close(RateLimited)".to_owned()]);
}

#[test]
fn a_frame_fed_while_authenticating_is_refused_and_not_lost_in_silence() {
    let mut end = End::new();
    end.frame(Code::Login, &login());
    assert_eq!(end.frame(Code::Heartbeat, &Body::default()).shown(), [error(Reason::NotLoggedIn)]);
    assert!(end.session.is_authenticating());
}

#[test]
fn a_second_login_of_the_same_user_is_answered_and_of_another_refused() {
    let mut end = End::live();
    let answer = Body { heartbeat_secs: Some(30), ..Body::yes() };
    assert_eq!(end.frame(Code::Login, &login()).shown(), [sent(Code::Login, answer)]);
    let other = Body { user_id: Some(USER + 1), ..login() };
    assert_eq!(end.frame(Code::Login, &other).shown(), [error(Reason::NotYourUser)]);
    let other = Body { app_id: Some(APP + 1), ..login() };
    assert_eq!(end.frame(Code::Login, &other).shown(), [error(Reason::NotYourUser)]);
    assert_eq!(end.frame(Code::Login, &Body { token: None, ..login() }).shown(), [error(Reason::Malformed)]);
    assert!(end.session.is_live());
}

#[test]
fn login_brings_back_its_room_its_resumed_rooms_and_the_inbox() {
    let mut end = End::new();
    let resume = Resume { inbox: text("5-0"), rooms: [(3, 30), (4, 40)].into(), seq: None };
    end.frame(Code::Login, &Body { room_id: Some(4), resume: Some(resume), ..login() });
    let calls = end.accept()[2..].to_vec();
    let expected = [
        "Upstream 1 Join { room_id: 4, resume_seq: Some(40), was_in: false }",
        "Upstream 2 Join { room_id: 3, resume_seq: Some(30), was_in: false }",
        "Upstream 3 Sync { room_id: 0, from_seq: 0, from_id: \"5-0\", resume: true }",
    ];
    assert_eq!(calls, expected);
}

#[test]
fn an_empty_inbox_cursor_reads_from_the_oldest_and_no_cursor_reads_no_page() {
    let mut end = End::new();
    end.frame(Code::Login, &Body { resume: Some(Resume { inbox: text(""), ..Resume::default() }), ..login() });
    assert_eq!(end.accept()[2..], ["Upstream 1 Sync { room_id: 0, from_seq: 0, from_id: \"\", resume: true }"]);
    let mut end = End::new();
    end.frame(Code::Login, &Body { resume: Some(Resume::default()), ..login() });
    assert_eq!(end.accept()[2..], ["Upstream 1 Redeliver"]);
}

#[test]
fn a_login_that_does_not_resume_its_inbox_has_it_sent_again_and_hears_nothing_else_of_it() {
    for refused in [false, true] {
        let mut end = End::new();
        end.frame(Code::Login, &Body { room_id: Some(3), ..login() });
        assert_eq!(end.accept()[2..], ["Upstream 1 Join { room_id: 3, resume_seq: None, was_in: false }", "Upstream 2 Redeliver"]);
        if refused {
            end.session.on_refused(2, Reason::Unavailable, None, Some(500), &mut end.out);
        } else {
            end.session.on_accepted(2, 99, 0, &mut end.out);
        }
        assert_eq!(end.drain().shown(), [""; 0]);
        end.session.on_accepted(2, 99, 0, &mut end.out);
        assert_eq!(end.drain().shown(), [""; 0], "the call is over");
    }
}
