//! Logging in: who gets in, who does not, and who has to go.

use crate::house::{House, PATIENCE, Peer, eventually, login_body};
use billfish_testing::Api;
use billfish_wire::{Body, Code, Encoding, Reason};
use serde_json::json;
use std::{
    sync::Barrier,
    time::{Duration, Instant},
};

#[test]
fn both_encodings_log_in_and_are_answered_in_their_own() {
    let house = House::start();
    for encoding in Encoding::ALL {
        let mut peer = house.connect();
        peer.encoding = encoding;
        peer.send(Code::Login, &login_body(20_001, house.token(20_001)));
        let answer = peer.expect(Code::Login);
        assert_eq!(answer.data.as_deref(), Some("true"));
        assert_eq!(answer.heartbeat_secs, Some(30));
        assert!(answer.session_id.is_some() && answer.node.is_some() && answer.server_time.is_some());
    }
}

#[test]
fn a_token_lets_in_its_own_user_alone() {
    let house = House::start();
    let token = house.token(20_001);
    let other_app = Body { app_id: Some(10_002), ..login_body(20_001, token.clone()) };
    let bad = [
        ("another user", login_body(20_002, token.clone())),
        ("another app", other_app),
        ("forged", login_body(20_001, "0123456789abcdef0123456789abcdef%10001".to_owned())),
        ("empty", login_body(20_001, String::new())),
        ("a signed token that is signed by nobody", login_body(20_001, "eyJhbGciOiJub25lIn0.eyJzdWIiOiIyMDAwMSJ9.".to_owned())),
    ];
    for (what, body) in bad {
        let mut peer = house.connect();
        peer.send(Code::Login, &body);
        let heard = peer.until_closed();
        let last = heard.last().unwrap_or_else(|| panic!("{what}: closed without a word"));
        let allowed = [Reason::BadToken.number(), Reason::Malformed.number()];
        assert!(last.0 == Code::Error && allowed.contains(&last.1.code), "{what}: {last:?}");
    }
    let mut peer = house.connect();
    peer.send(Code::Login, &login_body(20_001, token));
    assert_eq!(peer.expect(Code::Login).data.as_deref(), Some("true"));
    assert!(house.metric("gateway_logins_total", &["result=\"bad_token\""]) >= 3.0);
    assert!(!house.log().contains("0123456789abcdef0123456789abcdef"), "a token stands in the log");
}

#[test]
fn who_logs_out_at_the_http_api_is_logged_out_of_his_connections_too() {
    let house = House::start();
    let phone = "+8613800138000";
    assert_eq!(house.api("POST", "/v1/login/code", json!({"phone": phone})).0, 200);
    let (status, logged_in) = house.api("POST", "/v1/login", json!({"phone": phone, "code": "1000"}));
    assert_eq!(status, 200, "{logged_in}");
    let user: i64 = logged_in["userId"].as_i64().unwrap();
    let session = Api::new(house.ports.http, logged_in["token"].as_str().unwrap());
    let token = || {
        let (status, answer) = session.call("GET", "/v1/im/config", &json!(null)).unwrap();
        assert_eq!(status, 200, "{answer}");
        answer["token"].as_str().unwrap().to_owned()
    };
    let login = |token: String, platform: &str| {
        let mut peer = house.connect();
        peer.send(Code::Login, &Body { platform: Some(platform.to_owned()), ..login_body(user, token) });
        peer
    };
    let mut own = login(token(), "ios");
    own.expect(Code::Login);
    // What the business backend has let in is the backend's to end.
    let mut other = login(house.token(user), "web");
    other.expect(Code::Login);
    let unused = token();
    assert_eq!(session.call("POST", "/v1/logout", &json!(null)).unwrap().0, 204);
    assert_eq!(login(unused, "android").expect(Code::Error).code, Reason::BadToken.number());
    assert_eq!(own.expect(Code::Kick).code, Reason::BadToken.number());
    own.until_closed();
    other.send(Code::Heartbeat, &Body::default());
    other.expect(Code::Heartbeat);
}

#[test]
fn a_token_is_void_after_logout() {
    let house = House::start();
    let token = house.token(20_001);
    let mut peer = house.connect();
    peer.send(Code::Login, &login_body(20_001, token.clone()));
    peer.expect(Code::Login);
    peer.send(Code::Logout, &Body::default());
    assert_eq!(peer.expect(Code::Logout).data.as_deref(), Some("true"));
    assert!(peer.next().is_none());
    eventually("the token is void", || {
        let mut replay = house.connect();
        replay.send(Code::Login, &login_body(20_001, token.clone()));
        replay.next().is_some_and(|(code, body)| code == Code::Error && body.code == Reason::BadToken.number())
    });
}

#[test]
fn a_second_login_on_the_same_kind_of_device_kicks_the_first() {
    let house = House::start();
    let mut first = house.login(20_001);
    let mut phone = house.connect();
    let on_a_phone = Body { platform: Some("android".to_owned()), ..login_body(20_001, house.token(20_001)) };
    phone.send(Code::Login, &on_a_phone);
    phone.expect(Code::Login);

    let started = Instant::now();
    let _second = house.login(20_001);
    let kick = first.expect(Code::Kick);
    assert_eq!(kick.code, Reason::DuplicateLogin.number());
    assert!(first.next().is_none());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // The other kind of device stays.
    phone.send(Code::Heartbeat, &Body::default());
    phone.expect(Code::Heartbeat);
}

#[test]
fn two_logins_that_race_leave_exactly_one_session() {
    let house = House::start();
    let mut survivors = Vec::new();
    for user in 20_001..20_021 {
        let start = Barrier::new(2);
        let race = || {
            let (token, mut peer) = (house.token(user), house.connect());
            start.wait();
            peer.send(Code::Login, &login_body(user, token));
            peer
        };
        let (mut one, mut other) = std::thread::scope(|scope| {
            let one = scope.spawn(race);
            (race(), one.join().unwrap())
        });
        let deadline = Instant::now() + PATIENCE;
        let (loser, winner) = loop {
            assert!(Instant::now() < deadline, "user {user} keeps two sessions");
            if let Some(reason) = reason_of_end(&mut one) {
                break (reason, other);
            }
            if let Some(reason) = reason_of_end(&mut other) {
                break (reason, one);
            }
        };
        assert_eq!(Some(loser), Reason::DuplicateLogin.number(), "user {user}");
        survivors.push(winner);
    }
    for peer in &mut survivors {
        peer.send(Code::Heartbeat, &Body::default());
        peer.expect(Code::Heartbeat);
    }
    eventually("one seat each", || (house.metric("gateway_directory_seats", &[]) - 20.0).abs() < 0.5);
    eventually("one session each", || (house.metric("gateway_sessions", &[]) - 20.0).abs() < 0.5);
}

#[test]
fn a_token_on_two_kinds_of_device_is_void_after_one_logs_out_and_the_other_stays() {
    let house = House::start();
    let token = house.token(20_001);
    let mut desk = house.connect();
    desk.send(Code::Login, &login_body(20_001, token.clone()));
    desk.expect(Code::Login);
    let mut phone = house.connect();
    phone.send(Code::Login, &Body { platform: Some("android".to_owned()), ..login_body(20_001, token.clone()) });
    phone.expect(Code::Login);
    for peer in [&mut desk, &mut phone] {
        peer.send(Code::Heartbeat, &Body::default());
        peer.expect(Code::Heartbeat);
    }
    desk.send(Code::Logout, &Body::default());
    desk.expect(Code::Logout);
    assert!(desk.next().is_none());
    eventually("the token is void", || {
        let mut replay = house.connect();
        replay.send(Code::Login, &login_body(20_001, token.clone()));
        replay.next().is_some_and(|(code, body)| code == Code::Error && body.code == Reason::BadToken.number())
    });
    phone.send(Code::Heartbeat, &Body::default());
    phone.expect(Code::Heartbeat);
}

#[test]
fn whoever_says_nothing_or_half_a_word_is_cut_in_time() {
    let house = House::with("[gateway.session]\nlogin_timeout = \"1s\"\n");
    let mut silent = house.connect();
    let mut slow = house.connect();
    slow.send_raw(&[0x48]);
    for peer in [&mut silent, &mut slow] {
        let heard = peer.until_closed();
        assert!(heard.iter().all(|(code, _)| *code == Code::Error), "{heard:?}");
    }
    eventually("the time-outs are counted", || house.metric("gateway_closes_total", &["reason=\"login_timeout\""]) >= 2.0);
}

#[test]
fn silence_for_two_gaps_is_offline_and_any_frame_is_life() {
    let house = House::with("[gateway.session]\nheartbeat_gap = \"1s\"\n");
    let mut lively = house.login(20_002);
    let mut silent = house.login(20_001);
    let online = |user: i64| {
        let (_, answer) = house.api("GET", &format!("/v1/im/online?appId=10001&userIds={user}"), json!(null));
        answer["online"][user.to_string()].as_bool().unwrap()
    };
    assert!(online(20_001));
    // The lively one came first and never sends a heartbeat, but ACKs of what nobody sent.
    let nothing_of_mine = Body { msg_id: Some("ms-0".to_owned()), ..Body::default() };
    let deadline = Instant::now() + PATIENCE;
    loop {
        lively.send(Code::Ack, &nothing_of_mine);
        match silent.next_within(Duration::from_millis(200)) {
            Some(None) => break,
            Some(Some((code, _))) => assert!(code != Code::Heartbeat, "a heartbeat that nobody asked for"),
            None => assert!(Instant::now() < deadline, "the silent one was never cut"),
        }
    }
    lively.send(Code::Heartbeat, &Body::default());
    lively.expect(Code::Heartbeat);
    assert!(online(20_002));
    eventually("the user is offline", || {
        lively.send(Code::Ack, &nothing_of_mine);
        !online(20_001)
    });
    eventually("the loss is counted", || house.metric("gateway_heartbeats_lost_total", &[]) >= 1.0);
}

#[test]
fn the_limits_of_an_address_are_crossed_by_one() {
    let house = House::with("[gateway.admission]\nexempt = []\nlogins_per_minute = 5\nnew_per_s = 1000\nbad_tokens_max = 1000\n");
    let mut results = Vec::new();
    for user in 20_001..20_007 {
        let token = house.token(user);
        let mut peer = house.connect();
        peer.send(Code::Login, &login_body(user, token));
        let (code, body) = peer.next().expect("an answer");
        results.push((code, body.code));
        if code == Code::Error {
            assert!(body.retry_after_ms.is_some_and(|ms| ms > 0));
        }
    }
    assert!(results[..5].iter().all(|(code, _)| *code == Code::Login), "{results:?}");
    assert_eq!(results[5], (Code::Error, Reason::RateLimited.number()));
}

#[test]
fn bad_tokens_earn_their_address_a_pause() {
    let house = House::with("[gateway.admission]\nexempt = []\nbad_tokens_max = 3\nnew_per_s = 1000\n");
    for _ in 0..3 {
        let mut peer = house.connect();
        peer.send(Code::Login, &login_body(20_001, "guess".to_owned()));
        assert_eq!(peer.expect(Code::Error).code, Reason::BadToken.number());
    }
    let token = house.token(20_001);
    eventually("even a good token waits now", || {
        let mut peer = house.connect();
        drop(std::io::Write::write_all(
            &mut peer.stream,
            &billfish_wire::frame::encode(Encoding::Json, Code::Login, &login_body(20_001, token.clone())),
        ));
        !matches!(peer.next(), Some((Code::Login, _)))
    });
}

/// Why the server has ended it: the code of its KICK, 0 without one. `None`: it has not, so far.
fn reason_of_end(peer: &mut Peer) -> Option<i32> {
    let mut reason = 0;
    loop {
        // Behind a KICK the end is certain; without one a short look is enough, the caller comes again.
        let patience = if reason == 0 { Duration::from_millis(20) } else { PATIENCE };
        match peer.next_within(patience) {
            None => return None,
            Some(None) => return Some(reason),
            Some(Some((Code::Kick, body))) => reason = body.code.unwrap_or_default(),
            Some(Some((code, body))) => assert_eq!(code, Code::Login, "{body:?}"),
        }
    }
}
