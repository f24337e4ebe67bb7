//! What a live session may say: codes, bodies, BIZ and how fast.

use super::*;

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

#[test]
fn a_biz_goes_up_and_its_verdict_comes_back_with_its_id() {
    let mut end = End::live();
    let sent_up = end.frame(Code::Biz, &Body { room_id: Some(3), user_id: Some(USER), app_id: Some(APP), ..biz("a") }).shown();
    assert_eq!(sent_up, ["Upstream 2 Biz { room_id: 3, biz_code: 5555, data: \"{}\", msg_id: \"a\" }"]);
    end.session.on_accepted(2, 77, 5, &mut end.out);
    let ack = Body { msg_id: text("a"), ts: Some(77), seq: Some(5), ..Body::default() };
    assert_eq!(end.drain().shown(), [sent(Code::Ack, ack)]);
    end.session.on_accepted(2, 77, 5, &mut end.out);
    assert_eq!(end.drain().shown(), [""; 0], "answered once");

    end.frame(Code::Biz, &biz("b"));
    end.session.on_refused(3, Reason::Muted, Some("for 5 min"), Some(300_000), &mut end.out);
    let refusal = Body { msg_id: text("b"), msg: text("for 5 min"), retry_after_ms: Some(300_000), ..Body::refusal(Reason::Muted) };
    assert_eq!(end.drain().shown(), [sent(Code::Error, refusal)]);
}

#[test]
fn a_biz_without_an_id_gets_no_ack_but_its_refusal() {
    let mut end = End::live();
    for msg_id in [None, text("")] {
        end.frame(Code::Biz, &Body { msg_id, ..biz("") });
    }
    end.session.on_accepted(2, 77, 0, &mut end.out);
    assert_eq!(end.drain().shown(), [""; 0]);
    end.session.on_refused(3, Reason::Muted, None, None, &mut end.out);
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
    end.session.on_accepted(2, 1, 0, &mut end.out);
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
    end.session.on_accepted(2, 1, 0, &mut end.out);
    end.drain();
    assert_eq!(end.frame(Code::Join, &room(3)).shown(), ["Upstream 34 Join { room_id: 3, resume_seq: None, was_in: false }"]);
}

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
fn an_ack_that_names_nothing_costs_a_frame_and_too_many_of_them_close() {
    let mut end = End::live();
    end.config.refused_in_a_row_max = 3;
    (end.config.frames_burst, end.config.frames_per_s) = (2, 20);
    assert_eq!(end.frame(Code::Ack, &Body::default()).shown(), [error(Reason::Malformed)]);
    let undecodable = Frame { encoding: Encoding::Json, code: Code::Ack.number(), body: b"{" };
    assert_eq!(end.raw(undecodable).shown(), [error(Reason::Malformed)]);
    let limited = sent(Code::Error, Body { retry_after_ms: Some(50), ..Body::refusal(Reason::RateLimited) });
    for _ in 0..3 {
        assert_eq!(end.frame(Code::Ack, &Body::default()).shown(), std::slice::from_ref(&limited));
    }
    assert_eq!(end.ack("1-0"), ["Acked 1-0 None false"], "one that names a message is free");
    assert_eq!(end.raw(undecodable).shown(), [limited, "Close(RateLimited)".to_owned()]);
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
