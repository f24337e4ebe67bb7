//! The shared state is away: who is inside stays, nothing grows, and what it has to know again is told when it is back.

use crate::house::{APP, House, login_body, now_ms, until};
use async_trait::async_trait;
use billfish_state::{AppId, Presence, Route, Routes, State, StateError, TokenOwner, Tokens, UserId, port::Result};
use billfish_wire::{Code, Reason};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

const USER: UserId = UserId(20_001);

/// The ports that gateways use most, over a store that can be away and can forget.
struct Sick {
    inner: State,
    is_away: AtomicBool,
}

impl Sick {
    fn state() -> (State, Arc<Self>) {
        let inner = State::in_memory();
        let sick = Arc::new(Self { inner: inner.clone(), is_away: AtomicBool::new(false) });
        let state = State {
            tokens: Arc::clone(&sick) as Arc<dyn Tokens>,
            presence: Arc::clone(&sick) as Arc<dyn Presence>,
            routes: Arc::clone(&sick) as Arc<dyn Routes>,
            ..inner
        };
        (state, sick)
    }

    fn set_away(&self, why: Option<&str>) {
        self.is_away.store(why.is_some(), SeqCst);
        self.inner.watch.set_away(why.map(str::to_owned));
    }

    fn check(&self) -> Result<()> {
        if self.is_away.load(SeqCst) { Err(StateError::Away { what: "a call", cause: "unplugged".into() }) } else { Ok(()) }
    }
}

#[test]
fn sessions_stay_logins_wait_and_everything_heals_by_signs_of_life() {
    let (state, sick) = Sick::state();
    let house = House::on(state, |config| {
        config.session.heartbeat_gap = Duration::from_secs(2);
        (config.session.frames_per_s, config.session.frames_burst) = (10_000, 10_000);
        (config.session.bytes_per_s, config.session.bytes_burst) = (10_000_000, 10_000_000);
    });
    let _router = house.link("router-1", true);
    let mut client = house.login(20_001);
    let token = house.token(20_002, None, 600_000);
    sick.set_away(Some("connection refused"));
    assert_eq!(house.running().ready(), Err("the state store is away: connection refused".to_owned()));
    let refused = house.knock(&login_body(20_002, &token)).expect(Code::Error);
    assert_eq!(refused.code, Reason::Unavailable.number());
    assert!(refused.retry_after_ms.is_some_and(|ms| (1_000..3_000).contains(&ms)));
    client.beat();

    // It comes back empty.
    let route = house.runtime.block_on(sick.inner.routes.lookup(AppId(APP), &[USER], now_ms())).unwrap().remove(0);
    house.runtime.block_on(sick.inner.routes.unbind(&route)).unwrap();
    house.runtime.block_on(sick.inner.presence.remove(&[(AppId(APP), USER, now_ms())])).unwrap();
    sick.set_away(None);
    house.state.watch.may_have_forgotten();
    let is_back = || {
        let bound = house.runtime.block_on(sick.inner.routes.lookup(AppId(APP), &[USER], now_ms())).unwrap();
        bound[0] == route
    };
    until("a heartbeat has brought the route back", || {
        client.beat();
        is_back()
    });
    let is_online = || house.runtime.block_on(sick.inner.presence.online(AppId(APP), &[USER], now_ms() - 60_000)).unwrap()[0];
    until("and the user is seen", || {
        client.beat();
        is_online()
    });
    house.knock(&login_body(20_002, &token)).expect(Code::Login);
    assert_eq!(house.running().ready(), Ok(()));
    assert_eq!(house.metric("gateway_routes_checked_total", &[r#"result="bound""#]), 1.0);
}

#[async_trait]
impl Tokens for Sick {
    async fn issue(&self, token: &str, owner: TokenOwner, now_ms: u64, until_ms: u64) -> Result<()> {
        self.inner.tokens.issue(token, owner, now_ms, until_ms).await
    }

    async fn resolve(&self, tokens: &[String], now_ms: u64) -> Result<Vec<Option<TokenOwner>>> {
        self.check()?;
        self.inner.tokens.resolve(tokens, now_ms).await
    }

    async fn revoke(&self, tokens: &[String]) -> Result<()> {
        self.check()?;
        self.inner.tokens.revoke(tokens).await
    }
}

#[async_trait]
impl Presence for Sick {
    async fn touch_each(&self, signs: &[(AppId, UserId, u64)]) -> Result<()> {
        self.check()?;
        self.inner.presence.touch_each(signs).await
    }

    async fn remove(&self, users: &[(AppId, UserId, u64)]) -> Result<()> {
        self.check()?;
        self.inner.presence.remove(users).await
    }

    async fn online(&self, app: AppId, users: &[UserId], since_ms: u64) -> Result<Vec<bool>> {
        self.inner.presence.online(app, users, since_ms).await
    }

    async fn sweep(&self, before_ms: u64, limit: usize) -> Result<Vec<(AppId, UserId)>> {
        self.inner.presence.sweep(before_ms, limit).await
    }
}

#[async_trait]
impl Routes for Sick {
    async fn bind(&self, routes: &[Route], now_ms: u64, until_ms: u64) -> Result<Vec<Vec<Route>>> {
        self.check()?;
        self.inner.routes.bind(routes, now_ms, until_ms).await
    }

    async fn renew(&self, routes: &[Route], now_ms: u64, until_ms: u64) -> Result<Vec<bool>> {
        self.check()?;
        self.inner.routes.renew(routes, now_ms, until_ms).await
    }

    async fn unbind(&self, routes: &[Route]) -> Result<Vec<bool>> {
        self.check()?;
        self.inner.routes.unbind(routes).await
    }

    async fn lookup(&self, app: AppId, users: &[UserId], now_ms: u64) -> Result<Vec<Vec<Route>>> {
        self.check()?;
        self.inner.routes.lookup(app, users, now_ms).await
    }
}
