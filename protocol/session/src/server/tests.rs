//! The rules of the gateway's end, each crossed by one.

use super::{LoginAccepted, ServerAction, ServerActions, ServerConfig, ServerSession, UpCall};
use crate::{push::Push, time::Time};
use billfish_wire::{Body, Code, Encoding, Frame, FrameError, Reason, Resume};
use std::sync::Arc;

const APP: i32 = 10_001;
const USER: i64 = 10_007;

// Login.

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
        assert_eq!(end.accept(), [sent(Code::Login, answer), "Alive".to_owned()]);
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
        "Upstream 1 Join { room_id: 4, resume_seq: Some(40) }",
        "Upstream 2 Join { room_id: 3, resume_seq: Some(30) }",
        "Upstream 3 Sync { room_id: 0, from_seq: 0, from_id: \"5-0\" }",
    ];
    assert_eq!(calls, expected);
}

#[test]
fn an_empty_inbox_cursor_reads_from_the_oldest_and_no_cursor_reads_nothing() {
    let mut end = End::new();
    end.frame(Code::Login, &Body { resume: Some(Resume { inbox: text(""), ..Resume::default() }), ..login() });
    assert_eq!(end.accept()[2..], ["Upstream 1 Sync { room_id: 0, from_seq: 0, from_id: \"\" }"]);
    let mut end = End::new();
    end.frame(Code::Login, &Body { resume: Some(Resume::default()), ..login() });
    assert_eq!(end.accept().len(), 2);
}

// Life and its end.

#[test]
fn silence_of_two_gaps_closes_and_any_frame_puts_it_off() {
    let mut end = End::live();
    end.now = Time(10_000);
    end.frame(Code::Ack, &Body { msg_id: text("x"), ..Body::default() });
    assert_eq!(end.session.next_deadline(&end.config), Time(70_000));
    assert_eq!(end.tick(69_999).shown(), [""; 0]);
    assert_eq!(end.tick(70_000).shown(), ["Close(HeartbeatLost)"]);
    assert!(end.session.is_closed());
    assert_eq!(end.session.next_deadline(&end.config), Time::NEVER);
}

#[test]
fn presence_hears_of_a_busy_session_once_per_half_gap() {
    let mut end = End::live();
    let heartbeat = "SendHeartbeat(None)";
    end.now = Time(14_999);
    assert_eq!(end.frame(Code::Heartbeat, &Body::default()).shown(), [heartbeat]);
    end.now = Time(15_000);
    assert_eq!(end.frame(Code::Heartbeat, &Body::default()).shown(), ["Alive", heartbeat]);
    end.now = Time(29_999);
    assert_eq!(end.frame(Code::Heartbeat, &Body::default()).shown(), [heartbeat]);
    end.now = Time(30_000);
    assert_eq!(end.frame(Code::Heartbeat, &Body::default()).shown(), ["Alive", heartbeat]);
}

#[test]
fn a_begun_frame_has_15_s_and_a_completed_one_starts_them_anew() {
    let mut end = End::live();
    end.session.on_partial(Time(100), &end.config, true);
    end.session.on_partial(Time(9_000), &end.config, true);
    assert_eq!(end.session.next_deadline(&end.config), Time(15_100), "more bytes of the same frame win no time");
    end.now = Time(10_000);
    end.frame(Code::Heartbeat, &Body::default());
    end.session.on_partial(Time(10_000), &end.config, true);
    assert_eq!(end.tick(24_999).shown(), [""; 0]);
    assert_eq!(end.tick(25_000).shown(), ["Close(FrameTimeout)"]);
    let mut end = End::live();
    end.session.on_partial(Time(100), &end.config, true);
    end.session.on_partial(Time(200), &end.config, false);
    assert_eq!(end.tick(20_000).shown(), [""; 0]);
}

#[test]
fn logout_is_echoed_and_closes() {
    let mut end = End::live();
    assert_eq!(end.frame(Code::Logout, &Body::default()).shown(), [sent(Code::Logout, Body::yes()), "Close(LoggedOut)".to_owned()]);
}

#[test]
fn a_kick_says_why_and_a_cause_without_a_number_is_told_as_internal() {
    let mut end = End::live();
    end.session.on_kick(Reason::DuplicateLogin, Some("your tablet"), &mut end.out);
    let kick = Body { msg: text("your tablet"), ..Body::refusal(Reason::DuplicateLogin) };
    assert_eq!(end.drain().shown(), [sent(Code::Kick, kick), "Close(DuplicateLogin)".to_owned()]);
    let mut end = End::live();
    end.session.on_kick(Reason::LoggedOut, None, &mut end.out);
    assert_eq!(end.drain().shown(), [sent(Code::Kick, Body::refusal(Reason::Internal)), "Close(LoggedOut)".to_owned()]);
}

#[test]
fn a_reader_too_slow_is_kicked_with_4012() {
    let mut end = End::live();
    end.session.on_backlog_overflow(&mut end.out);
    assert_eq!(end.drain().shown(), [sent(Code::Kick, Body::refusal(Reason::TooSlow)), "Close(TooSlow)".to_owned()]);
}

#[test]
fn drain_sends_live_sessions_elsewhere_and_closes_them_at_its_deadline() {
    let mut end = End::live();
    end.session.on_drain(vec!["b:8085".to_owned()], 250, &mut end.out);
    let hint = Body { addresses: vec!["b:8085".to_owned()], after_ms: Some(250), ..Body::default() };
    assert_eq!(end.drain().shown(), [sent(Code::Reconnect, hint)]);
    assert!(end.session.is_live());
    end.session.on_drain_deadline(&mut end.out);
    assert_eq!(end.drain().shown(), ["Close(Drained)"]);
    let mut end = End::new();
    end.session.on_drain(Vec::new(), 0, &mut end.out);
    assert_eq!(end.drain().shown(), [""; 0]);
}

#[test]
fn after_the_close_every_input_is_ignored() {
    let mut end = End::live();
    let request = end.join(3);
    end.session.on_kick(Reason::Banned, None, &mut end.out);
    end.drain();
    for code in Code::ALL {
        assert_eq!(end.frame(code, &login()).shown(), [""; 0], "{code:?}");
    }
    let out = &mut end.out;
    end.session.on_joined(request, 3, 1, String::new(), 1, out);
    end.session.on_accepted(request, 1, 1, out);
    end.session.on_refused(request, Reason::Internal, None, None, out);
    end.session.on_synced(request, 0, String::new(), out);
    end.session.on_push_sent(Time(1), &end.config, &user_push("1-0"), out);
    end.session.on_evicted(3, out);
    end.session.on_kick(Reason::Banned, None, out);
    end.session.on_drain(Vec::new(), 0, out);
    end.session.on_drain_deadline(out);
    end.session.on_backlog_overflow(out);
    end.session.on_disconnected(out);
    end.session.on_frame_error(FrameError::UnknownMagic { magic: 0 }, out);
    end.session.on_tick(Time(1_000_000), &end.config, out);
    assert_eq!(end.drain().shown(), [""; 0]);
}

// Codes and bodies of a live session.

#[test]
fn what_only_a_server_says_and_what_nobody_says_is_refused_and_the_session_lives() {
    let mut end = End::live();
    for code in [Code::WsShake, Code::Kick, Code::Error, Code::Reconnect] {
        assert_eq!(end.frame(code, &Body::default()).shown(), [error(Reason::UnknownCode)], "{code:?}");
    }
    for code in [999, 1012, -1] {
        assert_eq!(end.raw(Frame { encoding: Encoding::Json, code, body: b"{}" }).shown(), [error(Reason::UnknownCode)]);
    }
    assert!(end.session.is_live());
}

#[test]
fn a_body_that_cannot_be_read_is_refused_and_the_session_lives() {
    let mut end = End::live();
    let codes = [Code::Login, Code::Logout, Code::Biz, Code::Heartbeat, Code::Ack, Code::Join, Code::Leave, Code::Sync];
    for code in codes {
        let frame = Frame { encoding: Encoding::Json, code: code.number(), body: b"{" };
        assert_eq!(end.raw(frame).shown(), [error(Reason::Malformed)], "{code:?}");
    }
    assert!(end.session.is_live());
}

#[test]
fn acting_for_another_user_is_refused_where_it_would_act_and_ignored_where_it_would_not() {
    let mut end = End::live();
    for foreign in [Body { user_id: Some(USER + 1), ..biz("a") }, Body { app_id: Some(APP + 1), ..biz("a") }] {
        let refusal = Body { msg_id: text("a"), ..Body::refusal(Reason::NotYourUser) };
        assert_eq!(end.frame(Code::Biz, &foreign).shown(), [sent(Code::Error, refusal)]);
    }
    for code in [Code::Join, Code::Leave, Code::Sync] {
        let foreign = Body { user_id: Some(USER + 1), room_id: Some(3), ..Body::default() };
        let refusal = Body { room_id: Some(3), ..Body::refusal(Reason::NotYourUser) };
        assert_eq!(end.frame(code, &foreign).shown(), [sent(Code::Error, refusal)], "{code:?}");
    }
    let foreign = Body { user_id: Some(USER + 1), msg_id: text("9-0"), ..Body::default() };
    assert_eq!(end.frame(Code::Heartbeat, &foreign).shown(), ["SendHeartbeat(None)"]);
    assert_eq!(end.frame(Code::Ack, &foreign).shown(), ["Acked 9-0 None false"]);
}

#[test]
fn a_heartbeat_asks_for_the_audience_of_the_first_room() {
    let mut end = End::live();
    end.enter(8);
    end.enter(3);
    assert_eq!(end.frame(Code::Heartbeat, &Body::default()).shown(), ["SendHeartbeat(Some(8))"]);
}

// BIZ.

#[test]
fn a_biz_goes_up_and_its_verdict_comes_back_with_its_id() {
    let mut end = End::live();
    let sent_up = end.frame(Code::Biz, &Body { room_id: Some(3), user_id: Some(USER), app_id: Some(APP), ..biz("a") }).shown();
    assert_eq!(sent_up, ["Upstream 1 Biz { room_id: 3, biz_code: 5555, data: \"{}\", msg_id: \"a\" }"]);
    end.session.on_accepted(1, 77, 5, &mut end.out);
    let ack = Body { msg_id: text("a"), ts: Some(77), seq: Some(5), ..Body::default() };
    assert_eq!(end.drain().shown(), [sent(Code::Ack, ack)]);
    end.session.on_accepted(1, 77, 5, &mut end.out);
    assert_eq!(end.drain().shown(), [""; 0], "answered once");

    end.frame(Code::Biz, &biz("b"));
    end.session.on_refused(2, Reason::Muted, Some("for 5 min"), Some(300_000), &mut end.out);
    let refusal = Body { msg_id: text("b"), msg: text("for 5 min"), retry_after_ms: Some(300_000), ..Body::refusal(Reason::Muted) };
    assert_eq!(end.drain().shown(), [sent(Code::Error, refusal)]);
}

#[test]
fn a_biz_without_an_id_gets_no_ack_but_its_refusal() {
    let mut end = End::live();
    for msg_id in [None, text("")] {
        end.frame(Code::Biz, &Body { msg_id, ..biz("") });
    }
    end.session.on_accepted(1, 77, 0, &mut end.out);
    assert_eq!(end.drain().shown(), [""; 0]);
    end.session.on_refused(2, Reason::Muted, None, None, &mut end.out);
    assert_eq!(end.drain().shown(), [error(Reason::Muted)]);
}

#[test]
fn a_biz_without_code_or_data_is_malformed() {
    let mut end = End::live();
    let refusal = || sent(Code::Error, Body { msg_id: text("a"), ..Body::refusal(Reason::Malformed) });
    assert_eq!(end.frame(Code::Biz, &Body { biz_code: None, ..biz("a") }).shown(), [refusal()]);
    assert_eq!(end.frame(Code::Biz, &Body { data: None, ..biz("a") }).shown(), [refusal()]);
}

#[test]
fn a_biz_that_is_under_way_is_not_sent_up_twice() {
    let mut end = End::live();
    assert_eq!(end.frame(Code::Biz, &biz("a")).len(), 1);
    assert_eq!(end.frame(Code::Biz, &biz("a")).shown(), [""; 0]);
    end.session.on_accepted(1, 1, 0, &mut end.out);
    end.drain();
    assert_eq!(end.frame(Code::Biz, &biz("a")).len(), 1, "after its answer the router tells copies apart");
}

#[test]
fn one_call_too_many_under_way_is_told_to_wait() {
    let mut end = End::live();
    for index in 0..end.config.upstream_max {
        assert_eq!(end.frame(Code::Biz, &biz(&format!("m{index}"))).len(), 1);
    }
    let wait = Body { retry_after_ms: Some(1_000), ..Body::refusal(Reason::RateLimited) };
    assert_eq!(end.frame(Code::Biz, &biz("one more")).shown(), [sent(Code::Error, Body { msg_id: text("one more"), ..wait.clone() })]);
    assert_eq!(end.frame(Code::Join, &room(3)).shown(), [sent(Code::Error, Body { room_id: Some(3), ..wait })]);
    end.session.on_accepted(1, 1, 0, &mut end.out);
    end.drain();
    assert_eq!(end.frame(Code::Join, &room(3)).shown(), ["Upstream 33 Join { room_id: 3, resume_seq: None }"]);
}

// Rooms.

#[test]
fn a_join_is_answered_before_the_first_push_of_its_room() {
    let mut end = End::live();
    let resume = Some(Resume { seq: Some(9), ..Resume::default() });
    let actions = end.frame(Code::Join, &Body { resume, ..room(3) });
    assert_eq!(actions.shown(), ["Upstream 1 Join { room_id: 3, resume_seq: Some(9) }"]);
    end.session.on_joined(1, 3, 12, "{}".to_owned(), 4, &mut end.out);
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
    assert_eq!(actions, ["Upstream 2 Leave { room_id: 3 }".to_owned(), "LeaveRoom 3".to_owned(), sent(Code::Leave, room(3))]);
    end.session.on_refused(2, Reason::Unavailable, None, None, &mut end.out);
    assert_eq!(end.drain().shown(), [""; 0]);
    assert_eq!(end.frame(Code::Leave, &room(3)).shown(), [sent(Code::Leave, room(3))], "of a room it is not in: only the echo");
}

#[test]
fn a_leave_overtakes_the_joins_before_it_and_not_those_behind_it() {
    let mut end = End::live();
    let first = end.join(3);
    assert_eq!(end.frame(Code::Leave, &room(3)).shown(), ["Upstream 2 Leave { room_id: 3 }".to_owned(), sent(Code::Leave, room(3))]);
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
    assert_eq!(of_room, ["Upstream 1 Sync { room_id: 3, from_seq: 9, from_id: \"\" }"]);
    let of_inbox = end.frame(Code::Sync, &Body { from_id: text("5-0"), ..Body::default() }).shown();
    assert_eq!(of_inbox, ["Upstream 2 Sync { room_id: 0, from_seq: 0, from_id: \"5-0\" }"]);
    end.session.on_synced(1, 3, "{}".to_owned(), &mut end.out);
    end.session.on_synced(2, 0, "{}".to_owned(), &mut end.out);
    let page = Body { data: text("{}"), ..Body::default() };
    assert_eq!(end.drain().shown(), [sent(Code::Sync, Body { data: text("{}"), ..room(3) }), sent(Code::Sync, page)]);
}

// ACKs, resends and hand-over.

#[test]
fn a_push_to_the_user_is_recorded_at_once_resent_after_4_and_8_s_and_handed_over() {
    let mut end = End::live();
    end.push(&user_push("1-0"));
    assert_eq!(end.drain().shown(), ["RecordAck 1-0 sent 1 due 4000"]);
    assert_eq!(end.tick(3_999).shown(), [""; 0]);
    assert_eq!(end.tick(4_000).shown(), ["Resend 1-0", "RecordAck 1-0 sent 2 due 8000"]);
    assert_eq!(end.tick(11_999).shown(), [""; 0]);
    assert_eq!(end.tick(12_000).shown(), ["Resend 1-0", "RecordAck 1-0 sent 3 due 8000"]);
    assert_eq!(end.tick(19_999).shown(), [""; 0]);
    assert_eq!(end.tick(20_000).shown(), ["HandOver 1-0 recorded true"]);
    assert_eq!(end.session.next_deadline(&end.config), Time(60_000), "only the silence is left");
}

#[test]
fn a_push_to_a_room_is_recorded_when_its_ack_is_late_and_not_before() {
    let mut end = End::live();
    end.push(&room_push(3, 5));
    assert_eq!(end.drain().shown(), [""; 0]);
    assert_eq!(end.session.next_deadline(&end.config), Time(200));
    assert_eq!(end.tick(199).shown(), [""; 0]);
    assert_eq!(end.tick(200).shown(), ["RecordAck r3-5 sent 1 due 3800"]);
    assert_eq!(end.tick(4_000).shown(), ["Resend r3-5", "RecordAck r3-5 sent 2 due 8000"]);
}

#[test]
fn an_ack_ends_the_waiting_and_says_what_is_to_be_forgotten() {
    let mut end = End::live();
    end.push(&room_push(3, 5));
    end.push(&room_push(3, 6));
    end.push(&user_push("1-0"));
    end.drain();
    assert_eq!(end.ack("r3-5"), ["Acked r3-5 Some(3) false"]);
    end.tick(200);
    assert_eq!(end.ack("r3-6"), ["Acked r3-6 Some(3) true"]);
    assert_eq!(end.ack("1-0"), ["Acked 1-0 None true"]);
    assert_eq!(end.session.next_deadline(&end.config), Time(60_200), "only the silence is left");
}

#[test]
fn an_ack_nobody_waits_for_still_clears_the_inbox_or_the_late_acks() {
    let mut end = End::live();
    assert_eq!(end.ack("1-0"), ["Acked 1-0 None false"]);
    assert_eq!(end.ack("r3-5"), ["Acked r3-5 None true"]);
    assert_eq!(end.frame(Code::Ack, &Body::default()).shown(), [error(Reason::Malformed)]);
    assert_eq!(end.frame(Code::Ack, &Body { msg_id: text(""), ..Body::default() }).shown(), [error(Reason::Malformed)]);
}

#[test]
fn one_pending_push_too_many_hands_over_the_oldest() {
    let mut end = End::live();
    for seq in 0..256 {
        end.push(&room_push(3, seq));
    }
    assert_eq!(end.drain().shown(), [""; 0]);
    end.push(&room_push(3, 256));
    assert_eq!(end.drain().shown(), ["HandOver r3-0 recorded false"]);
}

#[test]
fn a_push_that_waits_already_is_watched_once() {
    let mut end = End::live();
    end.push(&user_push("1-0"));
    end.push(&user_push("1-0"));
    assert_eq!(end.drain().len(), 1);
    end.ack("1-0");
    assert_eq!(end.tick(4_000).shown(), [""; 0]);
}

#[test]
fn a_push_that_wants_no_ack_is_not_watched() {
    let mut end = End::live();
    end.push(&Arc::new(Push::new(Body { msg_id: text("1-0"), qos: Some(0), ..Body::default() })));
    end.push(&Arc::new(Push::new(Body { qos: Some(1), ..Body::default() })));
    assert_eq!(end.tick(20_000).shown(), [""; 0]);
}

#[test]
fn without_resends_a_push_is_handed_over_after_4_s() {
    let mut end = End::live();
    end.config.resend_after_ms.clear();
    end.push(&user_push("1-0"));
    end.drain();
    assert_eq!(end.tick(3_999).shown(), [""; 0]);
    assert_eq!(end.tick(4_000).shown(), ["HandOver 1-0 recorded true"]);
}

#[test]
fn what_waits_for_its_ack_is_handed_over_before_the_close_and_when_the_transport_goes() {
    let mut end = End::live();
    end.push(&user_push("1-0"));
    end.push(&room_push(3, 5));
    end.drain();
    end.session.on_drain_deadline(&mut end.out);
    assert_eq!(end.drain().shown(), ["HandOver 1-0 recorded true", "HandOver r3-5 recorded false", "Close(Drained)"]);
    let mut end = End::live();
    end.push(&room_push(3, 5));
    end.session.on_disconnected(&mut end.out);
    assert_eq!(end.drain().shown(), ["HandOver r3-5 recorded false"]);
    assert!(end.session.is_closed());
}

// Rates.

#[test]
fn one_frame_above_the_burst_is_refused_with_its_id_and_the_time_to_wait() {
    let mut end = End::live();
    // LOGIN took one of the 60.
    for _ in 0..59 {
        assert_eq!(end.frame(Code::Heartbeat, &Body::default()).len(), 1);
    }
    let refusal = Body { msg_id: text("a"), retry_after_ms: Some(50), ..Body::refusal(Reason::RateLimited) };
    assert_eq!(end.frame(Code::Biz, &Body { room_id: Some(3), ..biz("a") }).shown(), [sent(Code::Error, refusal)]);
    let refusal = Body { room_id: Some(3), retry_after_ms: Some(50), ..Body::refusal(Reason::RateLimited) };
    assert_eq!(end.frame(Code::Join, &room(3)).shown(), [sent(Code::Error, refusal)]);
    assert_eq!(end.ack("1-0").len(), 1, "ACKs pass");
    end.now = Time(50);
    assert_eq!(end.frame(Code::Heartbeat, &Body::default()).shown(), ["SendHeartbeat(None)"]);
}

#[test]
fn one_byte_above_the_burst_is_refused_for_acks_too() {
    for (body_bytes, passes) in [(990, true), (991, false)] {
        let mut end = End::live();
        end.config.bytes_burst = 1_000;
        end.config.bytes_per_s = 0;
        let ack = format!("{:<body_bytes$}", r#"{"msgId":"1-0"}"#);
        let actions = end.raw(Frame { encoding: Encoding::Json, code: Code::Ack.number(), body: ack.as_bytes() }).shown();
        if passes {
            assert_eq!(actions, ["Acked 1-0 None false"]);
        } else {
            assert_eq!(actions, [sent(Code::Error, Body { msg_id: text("1-0"), ..Body::refusal(Reason::RateLimited) })]);
        }
    }
}

#[test]
fn a_frame_refused_for_its_bytes_does_not_cost_a_frame() {
    let mut end = End::live();
    (end.config.bytes_burst, end.config.bytes_per_s, end.config.frames_burst) = (100, 0, 2);
    let large = vec![b' '; 200];
    for _ in 0..5 {
        assert_eq!(
            end.raw(Frame { encoding: Encoding::Json, code: Code::Heartbeat.number(), body: &large }).shown(),
            [error(Reason::RateLimited)]
        );
    }
    for _ in 0..2 {
        assert_eq!(end.frame(Code::Heartbeat, &Body::default()).shown(), ["SendHeartbeat(None)"]);
    }
}

#[test]
fn refusals_in_a_row_close_one_above_the_limit_and_acks_do_not_break_the_row() {
    let mut end = End::live();
    end.config.refused_in_a_row_max = 3;
    (end.config.frames_burst, end.config.frames_per_s) = (1, 20);
    assert_eq!(end.frame(Code::Heartbeat, &Body::default()).len(), 1);
    for _ in 0..3 {
        assert_eq!(end.frame(Code::Heartbeat, &Body::default()).len(), 1);
        assert_eq!(end.ack("1-0").len(), 1);
    }
    end.now = Time(50);
    assert_eq!(end.frame(Code::Heartbeat, &Body::default()).shown(), ["SendHeartbeat(None)"], "one that passes ends the row");
    for _ in 0..3 {
        assert_eq!(end.frame(Code::Heartbeat, &Body::default()).len(), 1);
    }
    let last = end.frame(Code::Heartbeat, &Body::default()).shown();
    assert_eq!(last.last().map(String::as_str), Some("Close(RateLimited)"));
}

// One end, its time and its actions.

struct End {
    session: ServerSession,
    config: ServerConfig,
    now: Time,
    out: ServerActions,
}

impl End {
    fn new() -> Self {
        let config = ServerConfig::default();
        Self { session: ServerSession::new(Time(0), &config), config, now: Time(0), out: ServerActions::default() }
    }

    fn live() -> Self {
        let mut end = Self::new();
        end.frame(Code::Login, &login());
        end.accept();
        assert!(end.session.is_live());
        end
    }

    fn frame(&mut self, code: Code, body: &Body) -> Vec<ServerAction> {
        self.frame_in(Encoding::Json, code, body)
    }

    fn frame_in(&mut self, encoding: Encoding, code: Code, body: &Body) -> Vec<ServerAction> {
        self.raw(Frame { encoding, code: code.number(), body: &body.to_vec(encoding) })
    }

    fn raw(&mut self, frame: Frame<'_>) -> Vec<ServerAction> {
        self.session.on_frame(self.now, &self.config, frame, &mut self.out);
        self.drain()
    }

    fn accept(&mut self) -> Vec<String> {
        let accepted = LoginAccepted { session_id: "s1".to_owned(), node: "n1".to_owned(), server_time_ms: 99 };
        self.session.on_login_accepted(self.now, &self.config, accepted, &mut self.out);
        self.drain().shown()
    }

    fn tick(&mut self, ms: u64) -> Vec<ServerAction> {
        self.now = Time(ms);
        self.session.on_tick(self.now, &self.config, &mut self.out);
        assert!(self.session.next_deadline(&self.config) > self.now, "a deadline that has come is done with");
        self.drain()
    }

    fn push(&mut self, push: &Arc<Push>) {
        self.session.on_push_sent(self.now, &self.config, push, &mut self.out);
    }

    fn ack(&mut self, msg_id: &str) -> Vec<String> {
        self.frame(Code::Ack, &Body { msg_id: text(msg_id), ..Body::default() }).shown()
    }

    fn join(&mut self, room_id: i64) -> u32 {
        let actions = self.frame(Code::Join, &room(room_id));
        let [ServerAction::Upstream { request, call }] = &actions[..] else { panic!("{actions:?}") };
        assert!(matches!(**call, UpCall::Join { .. }));
        *request
    }

    fn enter(&mut self, room_id: i64) {
        let request = self.join(room_id);
        self.session.on_joined(request, room_id, 1, "{}".to_owned(), 1, &mut self.out);
        self.drain();
    }

    fn drain(&mut self) -> Vec<ServerAction> {
        std::iter::from_fn(|| self.out.next_action()).collect()
    }
}

/// Actions as short lines, so that a test reads like a transcript.
trait Shown {
    fn shown(&self) -> Vec<String>;
}

impl Shown for Vec<ServerAction> {
    fn shown(&self) -> Vec<String> {
        let id = |push: &Push| push.body().msg_id.clone().unwrap_or_default();
        let show = |action: &ServerAction| match action {
            ServerAction::Send { code, body } => sent(*code, (**body).clone()),
            ServerAction::SendHeartbeat { room_id } => format!("SendHeartbeat({room_id:?})"),
            ServerAction::Authenticate(request) => format!("Authenticate {request:?}"),
            ServerAction::Upstream { request, call } => format!("Upstream {request} {call:?}"),
            ServerAction::EnterRoom { room_id } => format!("EnterRoom {room_id}"),
            ServerAction::LeaveRoom { room_id } => format!("LeaveRoom {room_id}"),
            ServerAction::Alive => "Alive".to_owned(),
            ServerAction::Acked { msg_id, room_id, recorded } => format!("Acked {msg_id} {room_id:?} {recorded}"),
            ServerAction::RecordAck { push, times_sent, due_in_ms } => {
                format!("RecordAck {} sent {times_sent} due {due_in_ms}", id(push))
            }
            ServerAction::Resend(push) => format!("Resend {}", id(push)),
            ServerAction::HandOver { push, recorded } => format!("HandOver {} recorded {recorded}", id(push)),
            ServerAction::Close(reason) => format!("Close({reason:?})"),
        };
        self.iter().map(show).collect()
    }
}

fn sent(code: Code, body: Body) -> String {
    format!("{code:?} {}", String::from_utf8_lossy(&body.to_vec(Encoding::Json)))
}

fn error(reason: Reason) -> String {
    sent(Code::Error, Body::refusal(reason))
}

fn refused_and_closed(reason: Reason) -> [String; 2] {
    [error(reason), format!("Close({reason:?})")]
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn login() -> Body {
    Body { app_id: Some(APP), user_id: Some(USER), token: text("t"), ..Body::default() }
}

fn biz(msg_id: &str) -> Body {
    Body { biz_code: Some(5555), data: text("{}"), msg_id: text(msg_id), ..Body::default() }
}

fn room(room_id: i64) -> Body {
    Body { room_id: Some(room_id), ..Body::default() }
}

fn user_push(msg_id: &str) -> Arc<Push> {
    Arc::new(Push::new(Body { msg_id: text(msg_id), qos: Some(1), class: Some(1), data: text("{}"), ..Body::default() }))
}

fn room_push(room_id: i64, seq: i64) -> Arc<Push> {
    let msg_id = Some(format!("r{room_id}-{seq}"));
    Arc::new(Push::new(Body { msg_id, qos: Some(1), class: Some(1), seq: Some(seq), room_id: Some(room_id), ..Body::default() }))
}
