//! Signs of life, and every way to end.

use super::*;

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
