//! Limits of users and addresses, each crossed by one.

use crate::house::{House, login_body, until};
use billfish_wire::{Code, Reason};

#[test]
fn the_sixth_login_of_a_user_in_a_minute_waits() {
    let (house, _router) = House::with(|config| config.admission.user_logins_per_minute = 5);
    for _ in 0..5 {
        house.login(20_001);
    }
    let token = house.token(20_001, None, 60_000);
    let mut client = house.knock(&login_body(20_001, &token));
    let error = client.expect(Code::Error);
    assert_eq!(error.code, Reason::RateLimited.number());
    assert!(error.retry_after_ms.is_some_and(|ms| ms > 0 && ms <= 60_000), "{error:?}");
    client.expect_end();
    house.login(20_002);
    assert_eq!(house.metric("gateway_logins_total", &[r#"result="rate_limited""#]), 1.0);
}

#[test]
fn guessing_at_a_user_does_not_use_up_the_users_logins() {
    let (house, _router) = House::with(|config| config.admission.user_logins_per_minute = 2);
    for _ in 0..10 {
        house.knock(&login_body(20_001, "guess")).expect(Code::Error);
    }
    house.login(20_001);
    house.login(20_001);
}

#[test]
fn the_fourth_login_of_an_address_waits_where_three_are_allowed() {
    let (house, _router) = House::with(|config| {
        config.admission.exempt = Vec::new();
        config.admission.logins_per_minute = 3;
    });
    for user in 0..3 {
        house.login(20_001 + user);
    }
    let token = house.token(20_004, None, 60_000);
    let error = house.knock(&login_body(20_004, &token)).expect(Code::Error);
    assert_eq!(error.code, Reason::RateLimited.number());
    assert!(error.retry_after_ms.is_some_and(|ms| ms > 0 && ms <= 20_000), "{error:?}");
    assert_eq!(house.metric("gateway_admission_refused_total", &[r#"reason="login_rate""#]), 1.0);
}

#[test]
fn bad_tokens_ban_an_address_and_an_exempt_one_is_never_banned() {
    for exempt in [false, true] {
        let (house, _router) = House::with(|config| {
            config.admission.bad_tokens_max = 2;
            if !exempt {
                config.admission.exempt = Vec::new();
            }
        });
        let mut early = house.connect();
        for _ in 0..2 {
            assert_eq!(house.knock(&login_body(20_001, "guess")).expect(Code::Error).code, Reason::BadToken.number());
        }
        let token = house.token(20_001, None, 60_000);
        early.send(Code::Login, &login_body(20_001, &token));
        if exempt {
            early.expect(Code::Login);
            continue;
        }
        let error = early.expect(Code::Error);
        assert_eq!(error.code, Reason::RateLimited.number());
        assert!(error.retry_after_ms.is_some_and(|ms| ms > 590_000), "{error:?}");
        until("a connection is refused", || {
            house.metric("gateway_admission_refused_total", &[r#"reason="banned""#]) >= 2.0 || {
                drop(house.connect());
                false
            }
        });
    }
}

#[test]
fn strangers_leave_room_for_others_and_the_places_come_back() {
    let (house, _router) = House::with(|config| {
        config.admission.exempt = Vec::new();
        config.admission.half_open_max = 2;
    });
    let silent = [house.connect(), house.connect()];
    until("they are in", || house.running().account().connections == 2);
    let mut third = house.connect();
    let refused = || house.metric("gateway_admission_refused_total", &[r#"reason="half_open""#]) == 1.0;
    until("the third is refused", refused);
    assert!(third.next().is_none_or(|(code, body)| code == Code::Error && body.code == Reason::RateLimited.number()));
    drop(silent);
    until("they are gone", || house.running().account().connections == 0);
    house.login(20_001);
}
