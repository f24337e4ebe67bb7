//! One user at several gateways: who stays, and what a session whose route was lost is sent.

use crate::house::{APP, Client, House, PATIENCE, Router, login_body, now_ms, push, until};
use async_trait::async_trait;
use billfish_link::message::{Kick, Push, Relay, UserPush, envelope::Kind, up::Call};
use billfish_state::{
    AppId, DeviceKind, Presence, Route, SessionOwner, SessionPrint, State, TokenOwner, UserId,
    port::Result,
    redis::{Redis, RedisConfig},
};
use billfish_testing::{Chaos, ChaosProxy, RedisServer};
use billfish_wire::{Body, Code, Reason};
use bytes::Bytes;
use prometheus_client::registry::Registry;
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

const USER: UserId = UserId(20_001);

/// Signs of life that wait: between the route and the seat of a LOGIN.
struct Slow {
    inner: Arc<dyn Presence>,
    may_go_on: Semaphore,
}

#[async_trait]
impl Presence for Slow {
    async fn touch_each(&self, signs: &[(AppId, UserId, u64)]) -> Result<()> {
        drop(self.may_go_on.acquire().await.unwrap());
        self.inner.touch_each(signs).await
    }

    async fn remove(&self, users: &[(AppId, UserId, u64)]) -> Result<()> {
        self.inner.remove(users).await
    }

    async fn online(&self, app: AppId, users: &[UserId], since_ms: u64) -> Result<Vec<bool>> {
        self.inner.online(app, users, since_ms).await
    }

    async fn sweep(&self, before_ms: u64, limit: usize) -> Result<Vec<(AppId, UserId)>> {
        self.inner.sweep(before_ms, limit).await
    }
}

fn routes(house: &House) -> Vec<Route> {
    house.runtime.block_on(house.state.routes.lookup(AppId(APP), &[USER], now_ms())).unwrap().remove(0)
}

fn kick_of(route: &Route) -> Kind {
    Kind::Kick(Kick {
        app_id: route.app.0,
        user_id: route.user.0,
        device: route.device as u32,
        code: Reason::DuplicateLogin.number().unwrap(),
        msg: String::new(),
        session: route.session,
    })
}

/// The store is quick to bind the route here, another gateway binds it too, and its kick is here before the seat is taken.
#[test]
fn a_session_that_was_replaced_before_it_had_its_seat_is_ended_as_soon_as_it_has_it() {
    let inner = State::in_memory();
    let slow = Arc::new(Slow { inner: Arc::clone(&inner.presence), may_go_on: Semaphore::new(0) });
    let house = House::on(State { presence: Arc::clone(&slow) as Arc<dyn Presence>, ..inner }, |_| {});
    let router = house.link("router-1", true);
    let token = house.token(USER.0, None, 60_000);
    let mut client = house.knock(&Body { platform: Some("web".to_owned()), ..login_body(USER.0, &token) });
    until("its route is bound", || routes(&house).len() == 1);
    let older = routes(&house).remove(0);
    for kick in [Route { session: older.session - 1, ..older.clone() }, older] {
        router.tell(kick_of(&kick));
    }
    until("both kicks are remembered", || house.metric("gateway_kicks_early", &[]) == 2.0);
    slow.may_go_on.add_permits(1);
    client.expect(Code::Login);
    assert_eq!(client.expect(Code::Kick).code, Reason::DuplicateLogin.number());
    client.expect_end();
    until("its seat is given back", || house.metric("gateway_directory_seats", &[]) == 0.0);
    assert_eq!(house.metric("gateway_kicks_early", &[]), 1.0, "the other one's session may come yet");
}

/// Passes kicks on as a router does, from one gateway to the other.
fn pass_on(from: &Router, to: &Router) {
    let passes = |kind: &Kind| if let Kind::Relay(Relay { kick, .. }) = kind { kick.clone() } else { None };
    let kicks: Vec<Kick> = {
        let mut seen = from.seen.lock().unwrap();
        let kicks = seen.iter().filter_map(passes).collect();
        seen.retain(|kind| !matches!(kind, Kind::Relay(_)));
        kicks
    };
    kicks.into_iter().for_each(|kick| to.tell(Kind::Kick(kick)));
}

#[test]
fn of_many_users_who_log_in_at_two_gateways_at_once_each_has_one_session_in_the_end() {
    const USERS: usize = 40;
    let state = State::in_memory();
    let houses = ["gateway-1", "gateway-2"].map(|node| House::on(state.clone(), |config| config.node = node.to_owned()));
    let routers = houses.each_ref().map(|house| house.link("router-1", true));
    let users: Vec<UserId> = (20_001..).take(USERS).map(UserId).collect();
    let token = |user: &UserId| houses[0].token(user.0, None, 60_000);
    let logins: Vec<Body> =
        users.iter().map(|user| Body { platform: Some("ios".to_owned()), ..login_body(user.0, &token(user)) }).collect();
    let _clients: Vec<Vec<Client>> = std::thread::scope(|scope| {
        let threads = houses.each_ref().map(|house| scope.spawn(|| logins.iter().map(|login| house.knock(login)).collect()));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    until("all are let in", || {
        let accepted = |house: &House| house.metric("gateway_logins_total", &[r#"result="accepted""#]);
        pass_on(&routers[0], &routers[1]);
        pass_on(&routers[1], &routers[0]);
        houses.iter().all(|house| accepted(house) == USERS as f64)
    });
    until("one session of each is left", || {
        pass_on(&routers[0], &routers[1]);
        pass_on(&routers[1], &routers[0]);
        houses.iter().map(|house| house.metric("gateway_directory_seats", &[])).sum::<f64>() == USERS as f64
    });
    let found = houses[0].runtime.block_on(houses[0].state.routes.lookup(AppId(APP), &users, now_ms())).unwrap();
    for (name, house) in ["gateway-1", "gateway-2"].into_iter().zip(&houses) {
        let routes = found.iter().flatten().filter(|route| route.node == name).count();
        assert_eq!(house.metric("gateway_directory_seats", &[]), routes as f64, "who is left has the route");
    }
}

#[test]
fn who_logs_out_of_one_gateway_is_still_here_with_another_device_on_another() {
    let state = State::in_memory();
    let (first, second) = (House::on(state.clone(), |_| {}), House::on(state, |config| config.node = "gateway-2".to_owned()));
    let (_to_first, _to_second) = (first.link("router-1", true), second.link("router-1", true));
    let token = first.token(USER.0, None, 60_000);
    let login = |house: &House, platform: &str| {
        let mut client = house.knock(&Body { platform: Some(platform.to_owned()), ..login_body(USER.0, &token) });
        client.expect(Code::Login);
        client
    };
    let (mut web, mut phone) = (login(&first, "web"), login(&second, "android"));
    web.send(Code::Logout, &Body::default());
    until("the session is over", || first.metric("gateway_directory_seats", &[]) == 0.0);
    until("its route is given back", || routes(&second).iter().map(|route| route.device).eq([DeviceKind::Android]));
    phone.beat();
    let online = || second.runtime.block_on(second.state.presence.online(AppId(APP), &[USER], now_ms() - 60_000)).unwrap()[0];
    assert!(online());
    until("nothing waits to be written", || first.metric("gateway_state_pending", &[]) == 0.0);
    assert!(online());
    drop(phone);
    until("the user is gone with the last device", || !online());
}

/// The link of one gateway broke, which loses nothing: what was logged out meanwhile is.
#[test]
fn a_logout_while_a_gateway_is_cut_off_from_redis_ends_its_connection_when_the_link_is_back() {
    let Some(server) = RedisServer::start() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let redis = |address: String| {
        let config = RedisConfig { nodes: vec![address], connect_timeout: PATIENCE, ..RedisConfig::default() };
        runtime.block_on(Redis::start(config, &mut Registry::default())).unwrap()
    };
    let proxy = ChaosProxy::start(server.address());
    let (theirs, ours) = (redis(proxy.address().to_string()), redis(server.address().to_string()));
    let house = House::on(theirs.state(), |_| {});
    let _router = house.link("router-1", true);
    let (owner, session) = (SessionOwner { app: AppId(APP), user: USER }, SessionPrint([1; 32]));
    let sessions = ours.state().sessions;
    runtime.block_on(sessions.open(&session.to_string(), owner, now_ms(), now_ms() + 600_000)).unwrap();
    house.issue("of-a-session", TokenOwner { app: AppId(APP), user: USER, device: None, session: Some(session) }, 600_000);
    let mut client = house.knock(&login_body(USER.0, "of-a-session"));
    client.expect(Code::Login);

    proxy.set(Chaos::Reset);
    until("the link is away", || house.state.watch.away().is_some());
    runtime.block_on(sessions.close(&session.to_string(), owner)).unwrap();
    proxy.set(Chaos::Forward);
    assert_eq!(client.expect(Code::Kick).code, Reason::BadToken.number());
    client.expect_end();
    assert!(house.state.watch.generation() > 0, "the connection was made anew");
}

/// With `FLUSHALL` the connections stay, and all that they knew is gone.
#[test]
fn what_a_user_was_sent_while_redis_had_lost_his_route_comes_without_a_login() {
    let Some(server) = RedisServer::start() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let config = RedisConfig {
        nodes: vec![server.address().to_string()],
        command_timeout: PATIENCE,
        connect_timeout: PATIENCE,
        ..RedisConfig::default()
    };
    let redis = runtime.block_on(Redis::start(config, &mut Registry::default())).unwrap();
    let house = House::on(redis.state(), |config| {
        config.session.heartbeat_gap = Duration::from_secs(2);
        (config.session.frames_per_s, config.session.frames_burst) = (10_000, 10_000);
        (config.session.bytes_per_s, config.session.bytes_burst) = (10_000_000, 10_000_000);
    });
    let router = house.link("router-1", true);
    let mut client = house.login_on(USER.0, "web");
    let asked = || {
        let seen = router.seen.lock().unwrap();
        seen.iter().filter(|kind| matches!(kind, Kind::Up(up) if matches!(up.call, Some(Call::Redeliver(_))))).count()
    };
    until("the LOGIN has asked", || asked() == 1);
    let route = routes(&house).remove(0);

    server.command(&["FLUSHALL"]).unwrap();
    let state = house.state.clone();
    let now = state.clock.now_ms();
    // As a router does: nobody is there, so it is in the inbox alone.
    let id = format!("{now}-0");
    let append = state.inbox.append(AppId(APP), &[USER], &id, Bytes::from_static(b"{}"), now);
    let msg_id = house.runtime.block_on(append).unwrap().remove(0);
    until("it is asked for again", || {
        client.beat();
        asked() == 2
    });
    assert_eq!(routes(&house), std::slice::from_ref(&route));
    let page = house.runtime.block_on(state.inbox.read(AppId(APP), USER, None, 10, now)).unwrap();
    for entry in page.entries {
        let push = Push { msg_id: entry.id, qos: 1, class: 1, ..push("sent meanwhile") };
        router.tell(Kind::UserPush(UserPush { app_id: APP, user_ids: vec![USER.0], push: Some(push), session: route.session }));
    }
    assert_eq!(client.expect(Code::Biz).msg_id, Some(msg_id));
    client.beat();
    assert_eq!(house.metric("gateway_routes_checked_total", &[r#"result="bound""#]), 1.0);
}
