//! Who is let in, who is not, and who has to go.

use crate::house::{APP, House, login_body, now_ms, until};
use billfish_state::{AppId, DeviceKind, SessionOwner, SessionPrint, State, StateError, TokenOwner, Tokens, UserId, port::Result};
use billfish_wire::{Body, Code, Reason};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

#[test]
fn a_good_token_lets_in_and_the_user_is_here_and_can_be_reached() {
    let (house, _router) = House::new();
    let token = house.token(20_001, None, 60_000);
    let mut client = house.knock(&login_body(20_001, &token));
    let answer = client.expect(Code::Login);
    assert_eq!((answer.data.as_deref(), answer.node.as_deref(), answer.heartbeat_secs), (Some("true"), Some("gateway-1"), Some(30)));
    assert!(answer.session_id.is_some_and(|id| id.len() <= 64) && answer.server_time.is_some());
    // The answer comes after both are written.
    let (app, user) = (AppId(APP), UserId(20_001));
    let online = house.runtime.block_on(house.state.presence.online(app, &[user], now_ms() - 60_000)).unwrap();
    let routes = house.runtime.block_on(house.state.routes.lookup(app, &[user], now_ms())).unwrap();
    assert_eq!((online[0], routes[0].len(), routes[0][0].node.as_str()), (true, 1, "gateway-1"));
    assert_eq!(house.metric("gateway_logins_total", &[r#"result="accepted""#]), 1.0);
}

#[test]
fn every_bad_token_gets_the_same_answer() {
    let (house, _router) = House::new();
    let good = house.token(20_001, None, 60_000);
    let expired = house.token(20_001, None, 0);
    let for_phones = house.token(20_001, Some(DeviceKind::Ios), 60_000);
    let bad = [
        ("unknown", login_body(20_001, "0123456789abcdef0123456789abcdef%10001")),
        ("not even one of ours", login_body(20_001, "eyJhbGciOiJub25lIn0.e30.")),
        ("expired", login_body(20_001, &expired)),
        ("of another user", login_body(20_002, &good)),
        ("of another app", Body { app_id: Some(10_002), ..login_body(20_001, &good) }),
        ("for another device", Body { platform: Some("web".to_owned()), ..login_body(20_001, &for_phones) }),
    ];
    let mut answers = Vec::new();
    for (what, login) in &bad {
        let mut client = house.knock(login);
        let error = client.expect(Code::Error);
        assert_eq!(error.code, Reason::BadToken.number(), "{what}");
        client.expect_end();
        answers.push(error);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(house.metric("gateway_logins_total", &[r#"result="bad_token""#]), bad.len() as f64);
    house.knock(&login_body(20_001, &good)).expect(Code::Login);
    house.knock(&Body { platform: Some("ios".to_owned()), ..login_body(20_001, &for_phones) }).expect(Code::Login);
}

#[test]
fn a_token_is_void_after_logout_whoever_made_it() {
    let (house, _router) = House::new();
    let owner = TokenOwner { app: AppId(APP), user: UserId(20_001), device: None, session: None };
    house.issue("a-token-of-the-backend", owner, 60_000);
    for token in [house.token(20_001, None, 60_000), "a-token-of-the-backend".to_owned()] {
        let mut client = house.knock(&login_body(20_001, &token));
        client.expect(Code::Login);
        client.send(Code::Logout, &Body::default());
        client.expect(Code::Logout);
        client.expect_end();
        until("the token is void", || {
            let answer = house.knock(&login_body(20_001, &token)).next();
            answer.is_some_and(|(code, body)| code == Code::Error && body.code == Reason::BadToken.number())
        });
        let resolved = || house.runtime.block_on(house.state.tokens.resolve(std::slice::from_ref(&token), now_ms())).unwrap();
        until("the store knows it too", || resolved()[0].is_none());
    }
}

#[test]
fn whose_session_at_the_http_api_ends_is_sent_away_and_its_tokens_are_void() {
    let (house, _router) = House::new();
    let owner = SessionOwner { app: AppId(APP), user: UserId(20_001) };
    let [ended, other] = [1, 2].map(|byte| SessionPrint([byte; 32]));
    let of = |session| TokenOwner { app: AppId(APP), user: UserId(20_001), device: None, session };
    for session in [ended, other] {
        house.runtime.block_on(house.state.sessions.open(&session.to_string(), owner, now_ms(), now_ms() + 600_000)).unwrap();
    }
    for (token, session) in [("ended", Some(ended)), ("later", Some(ended)), ("other", Some(other)), ("none", None)] {
        house.issue(token, of(session), 600_000);
    }
    let login = |token: &str, platform: &str| {
        let mut client = house.knock(&Body { platform: Some(platform.to_owned()), ..login_body(20_001, token) });
        client.expect(Code::Login);
        client
    };
    let mut phone = login("ended", "ios");
    let mut survivors = [login("other", "web"), login("none", "desktop")];
    house.runtime.block_on(house.state.sessions.close(&ended.to_string(), owner)).unwrap();
    for token in ["ended", "later"] {
        let mut client = house.knock(&login_body(20_001, token));
        assert_eq!(client.expect(Code::Error).code, Reason::BadToken.number(), "{token}");
    }
    assert_eq!(phone.expect(Code::Kick).code, Reason::BadToken.number());
    phone.expect_end();
    for survivor in &mut survivors {
        survivor.beat();
    }
}

#[test]
fn a_token_survives_a_connection_that_only_broke() {
    let (house, _router) = House::new();
    let token = house.token(20_001, None, 60_000);
    let mut client = house.knock(&login_body(20_001, &token));
    client.expect(Code::Login);
    drop(client);
    until("it is gone", || house.running().account().sessions == 0);
    house.knock(&login_body(20_001, &token)).expect(Code::Login);
}

#[test]
fn the_older_session_of_a_device_is_kicked_and_only_that() {
    let (house, _router) = House::new();
    let mut older = house.login_on(20_001, "web");
    let mut phone = house.login_on(20_001, "ios");
    let mut other = house.login_on(20_002, "web");
    let mut newer = house.login_on(20_001, "web");
    assert_eq!(older.expect(Code::Kick).code, Reason::DuplicateLogin.number());
    older.expect_end();
    for survivor in [&mut phone, &mut other, &mut newer] {
        survivor.beat();
    }
    until("the seats are those of the sessions", || house.metric("gateway_directory_seats", &[]) == 3.0);
    let routes = house.runtime.block_on(house.state.routes.lookup(AppId(APP), &[UserId(20_001)], now_ms())).unwrap();
    assert_eq!(routes[0].len(), 2, "the kicked session did not take its successor's route with it: {routes:?}");
}

#[test]
fn many_logins_of_one_device_at_once_leave_one_session_and_its_route() {
    let (house, _router) = House::new();
    let mut clients: Vec<_> = (0..40)
        .map(|_| {
            let token = house.token(20_001, None, 60_000);
            house.knock(&login_body(20_001, &token))
        })
        .collect();
    until("one is left", || house.metric("gateway_logins_total", &[]) == 40.0 && house.running().account().sessions == 1);
    let mut kicked = 0;
    for client in &mut clients {
        client.expect(Code::Login);
        client.send(Code::Heartbeat, &Body::default());
        match client.next() {
            Some((Code::Kick, body)) => {
                assert_eq!(body.code, Reason::DuplicateLogin.number());
                kicked += 1;
            }
            Some((Code::Heartbeat, _)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(kicked, 39);
    let route = || house.runtime.block_on(house.state.routes.lookup(AppId(APP), &[UserId(20_001)], now_ms())).unwrap();
    until("one route is left", || route()[0].len() == 1);
}

#[test]
fn nobody_is_let_in_while_the_state_is_away_and_everybody_when_it_is_back() {
    let mut state = State::in_memory();
    let sick = Arc::new(Sick { inner: Arc::clone(&state.tokens), is_away: AtomicBool::new(true) });
    state.tokens = Arc::clone(&sick) as Arc<dyn Tokens>;
    let house = House::on(state, |_| {});
    let _router = house.link("router-1", true);
    until("the link is up", || house.running().ready().is_ok());
    let token = house.token(20_001, None, 60_000);
    let error = house.knock(&login_body(20_001, &token)).expect(Code::Error);
    assert_eq!(error.code, Reason::Unavailable.number());
    assert!(error.retry_after_ms.is_some_and(|ms| ms > 0));
    assert_eq!(house.running().ready(), Err("the state store is away".to_owned()));
    assert_eq!(house.metric("gateway_state_errors_total", &[r#"port="tokens""#]), 1.0);
    assert_eq!(house.metric("gateway_logins_total", &[r#"result="unavailable""#]), 1.0);
    sick.is_away.store(false, SeqCst);
    house.knock(&login_body(20_001, &token)).expect(Code::Login);
    assert_eq!(house.running().ready(), Ok(()));
}

/// A token store that can be away.
struct Sick {
    inner: Arc<dyn Tokens>,
    is_away: AtomicBool,
}

#[async_trait::async_trait]
impl Tokens for Sick {
    async fn issue(&self, token: &str, owner: TokenOwner, now_ms: u64, until_ms: u64) -> Result<()> {
        self.inner.issue(token, owner, now_ms, until_ms).await
    }

    async fn resolve(&self, tokens: &[String], now_ms: u64) -> Result<Vec<Option<TokenOwner>>> {
        if self.is_away.load(SeqCst) {
            return Err(StateError::Away { what: "tokens", cause: "unplugged".into() });
        }
        self.inner.resolve(tokens, now_ms).await
    }

    async fn revoke(&self, tokens: &[String]) -> Result<()> {
        self.inner.revoke(tokens).await
    }
}
