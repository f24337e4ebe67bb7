use super::{Presence, PresenceParts, ROUTE_MS};
use crate::{
    commands::Shards,
    directory::{Directory, RouteMark},
    metrics::{ControlCounters, RouteCheck},
    shard::{
        mailbox::{Mailbox, Signal},
        message::{ConnKey, Origin, ShardCommand},
    },
    store::{Away, Store},
    upstream::{LinkId, Upstream},
};
use async_trait::async_trait;
use billfish_link::message::{Kick, Relay, envelope::Kind};
use billfish_state::{AppId, DeviceKind, Route, Routes, State, StateError, UserId};
use billfish_wire::Reason;
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

const APP: AppId = AppId(10_001);
const USER: UserId = UserId(20_001);
const KEY: ConnKey = ConnKey { shard: 0, index: 0, generation: 0 };

struct House {
    presence: Arc<Presence>,
    directory: Arc<Directory>,
    state: State,
    counters: Arc<ControlCounters>,
    mailbox: Arc<Mailbox<ShardCommand>>,
    link: LinkId,
    /// What is written.
    watched: Arc<Watched>,
}

impl House {
    fn new() -> Self {
        Self::named("g1", State::in_memory())
    }

    fn named(node: &str, mut state: State) -> Self {
        let watched = Arc::new(Watched::over(&state));
        state.presence = Arc::clone(&watched) as Arc<dyn billfish_state::Presence>;
        state.routes = Arc::clone(&watched) as Arc<dyn Routes>;
        let (counters, directory) = (Arc::new(ControlCounters::default()), Arc::new(Directory::default()));
        let upstream = Arc::new(Upstream::new(Arc::clone(&counters)));
        let (link, _filled) = upstream.link_up("r1");
        let mailbox = Arc::new(Mailbox::new(1, Signal::task(), Signal::task()));
        let presence = Presence::new(PresenceParts {
            store: Arc::new(Store::new(state.clone(), Arc::clone(&counters))),
            directory: Arc::clone(&directory),
            upstream,
            shards: Shards::new(vec![Arc::clone(&mailbox)]),
            counters: Arc::clone(&counters),
            heartbeat_gap: Duration::from_secs(30),
            node: node.to_owned(),
            incarnation: 7,
        });
        Self { presence: Arc::new(presence), directory, state, counters, mailbox, link, watched }
    }

    /// Lets a session in, as a LOGIN does.
    async fn enter(&self, origin: Origin) {
        let mark = self.presence.welcome(&[origin]).await.unwrap();
        self.directory.insert(origin, KEY, "token", mark);
    }

    fn run(&self) -> (tokio::task::JoinHandle<()>, CancellationToken) {
        let (presence, stop) = (Arc::clone(&self.presence), CancellationToken::new());
        let until = stop.clone();
        (tokio::spawn(async move { presence.run(&until).await }), stop)
    }

    /// Writes everything that waits.
    async fn flush(&self) {
        let stop = CancellationToken::new();
        stop.cancel();
        self.presence.run(&stop).await;
    }

    async fn sessions(&self) -> Vec<u64> {
        let routes = self.state.routes.lookup(APP, &[USER], self.state.clock.now_ms()).await.unwrap();
        let mut sessions: Vec<u64> = routes[0].iter().map(|route| route.session).collect();
        sessions.sort_unstable();
        sessions
    }

    async fn is_online(&self) -> bool {
        self.state.presence.online(APP, &[USER], self.state.clock.now_ms() - 60_000).await.unwrap()[0]
    }

    /// Kicks for other gateways on their way to a router.
    fn relayed(&self) -> Vec<(String, u64, u64)> {
        let mut outbox = VecDeque::new();
        assert!(self.presence.parts.upstream.take_outbox(self.link, &mut outbox));
        let relay = |kind| {
            let Kind::Relay(Relay { node, incarnation, kick: Some(Kick { session, code, device, .. }) }) = kind else { panic!("{kind:?}") };
            assert_eq!((code, device), (Reason::DuplicateLogin.number().unwrap(), DeviceKind::Web as u32));
            (node, incarnation, session)
        };
        outbox.into_iter().map(relay).collect()
    }

    fn kicked(&self) -> usize {
        let mut commands = Vec::new();
        self.mailbox.take_into(&mut commands);
        let is_kick = |command: &ShardCommand| matches!(command, ShardCommand::Kick { reason: Reason::DuplicateLogin, .. });
        assert!(commands.iter().all(is_kick));
        commands.len()
    }

    fn checked(&self, found: RouteCheck) -> u64 {
        self.counters.routes_checked[found as usize].value()
    }
}

fn session(session: u64, device: DeviceKind) -> Origin {
    Origin { app_id: APP.0, user_id: USER.0, device, session }
}

fn web(number: u64) -> Origin {
    session(number, DeviceKind::Web)
}

fn theirs(number: u64) -> Route {
    Route { app: APP, user: USER, device: DeviceKind::Web, node: "g2".to_owned(), epoch: 3, session: number }
}

async fn bind(state: &State, route: Route) {
    let now = state.clock.now_ms();
    state.routes.bind(&[route], now, now + ROUTE_MS).await.unwrap();
}

#[tokio::test]
async fn a_welcomed_session_is_found_for_half_a_day_and_its_user_seen_at_once() {
    let house = House::new();
    house.presence.welcome(&[web(1)]).await.unwrap();
    assert_eq!(house.sessions().await, [1]);
    let late = house.state.clock.now_ms() + 11 * 3600 * 1000;
    assert_eq!(house.state.routes.lookup(APP, &[USER], late).await.unwrap()[0].len(), 1);
    assert!(house.is_online().await);
}

#[tokio::test]
async fn the_user_is_gone_with_the_last_session_here_and_not_before() {
    let house = House::new();
    let (first, phone) = (web(1), session(2, DeviceKind::Ios));
    house.enter(first).await;
    house.enter(phone).await;
    for (ending, online, left) in [(first, true, vec![2]), (phone, false, vec![])] {
        assert!(house.directory.take(ending).is_some());
        house.presence.ended(ending);
        house.flush().await;
        assert_eq!((house.is_online().await, house.sessions().await), (online, left));
    }
}

#[tokio::test]
async fn a_sign_of_life_that_waits_does_not_bring_back_who_has_gone() {
    let house = House::new();
    house.enter(web(1)).await;
    house.presence.alive(APP.0, USER.0);
    house.directory.take(web(1));
    house.presence.ended(web(1));
    house.flush().await;
    assert!(!house.is_online().await);
}

#[tokio::test(start_paused = true)]
async fn signs_of_life_are_gathered_for_five_seconds_into_one_write() {
    let house = House::new();
    for user_id in 1..=100 {
        house.directory.insert(Origin { user_id, ..web(1) }, KEY, "", house.presence.mark());
    }
    let (task, stop) = house.run();
    for user_id in 1..=100 {
        house.presence.alive(APP.0, user_id);
        tokio::time::sleep(Duration::from_millis(49)).await;
    }
    assert_eq!(house.watched.touched(), [0_usize; 0]);
    tokio::time::sleep(Duration::from_millis(101)).await;
    assert_eq!(house.watched.touched(), [100]);
    assert_eq!(house.watched.renewals.load(SeqCst), 0, "a heartbeat renews no route");
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_route_is_looked_after_once_for_each_time_that_the_store_may_have_forgotten_it() {
    let house = House::new();
    house.enter(web(1)).await;
    let (task, stop) = house.run();
    for (forgets, renewals) in [(false, 0), (true, 1), (false, 1), (true, 2)] {
        if forgets {
            house.state.watch.may_have_forgotten();
        }
        for _ in 0..3 {
            house.presence.alive(APP.0, USER.0);
            tokio::time::sleep(Duration::from_secs(15)).await;
        }
        assert_eq!(house.watched.renewals.load(SeqCst), renewals);
    }
    assert_eq!(house.checked(RouteCheck::Kept), 2);
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_route_is_renewed_before_its_life_is_over_as_long_as_the_session_lives() {
    let house = House::new();
    house.enter(web(1)).await;
    let (task, stop) = house.run();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        house.presence.alive(APP.0, USER.0);
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(house.sessions().await, [1], "after twenty hours");
    assert_eq!(house.watched.renewals.load(SeqCst), 2);
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stampede_of_checks_is_paced() {
    let house = House::new();
    for user_id in 1..=3_000 {
        house.directory.insert(Origin { user_id, ..web(1) }, KEY, "", RouteMark::default());
    }
    house.state.watch.may_have_forgotten();
    let (task, stop) = house.run();
    for user_id in 1..=3_000 {
        house.presence.alive(APP.0, user_id);
    }
    for seconds in 1..=4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let looked_at = house.watched.renewed_routes.load(SeqCst);
        assert!(looked_at <= 300 + 600 * seconds, "{looked_at} after {seconds} s");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(house.checked(RouteCheck::Bound), 3_000, "all of them were lost, and are bound again");
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_route_that_the_store_lost_is_bound_again_by_a_sign_of_life() {
    let house = House::new();
    house.directory.insert(web(1), KEY, "token", house.presence.mark());
    house.state.watch.may_have_forgotten();
    house.presence.alive(APP.0, USER.0);
    house.flush().await;
    assert_eq!(house.sessions().await, [1]);
    assert_eq!((house.checked(RouteCheck::Bound), house.kicked()), (1, 0));
}

#[tokio::test]
async fn a_session_whose_route_is_a_newer_ones_elsewhere_is_ended() {
    let house = House::new();
    house.enter(web(5)).await;
    bind(&house.state, theirs(6)).await;
    house.state.watch.may_have_forgotten();
    house.presence.alive(APP.0, USER.0);
    house.flush().await;
    assert_eq!(house.sessions().await, [6]);
    assert_eq!((house.checked(RouteCheck::Displaced), house.kicked(), house.relayed().len()), (1, 1, 0));
}

#[tokio::test]
async fn a_route_that_came_back_from_an_older_session_is_taken_again_and_that_session_ended() {
    let house = House::new();
    house.enter(web(5)).await;
    bind(&house.state, theirs(4)).await;
    house.state.watch.may_have_forgotten();
    house.presence.alive(APP.0, USER.0);
    house.flush().await;
    assert_eq!(house.sessions().await, [5]);
    assert_eq!((house.checked(RouteCheck::Bound), house.kicked()), (1, 0));
    assert_eq!(house.relayed(), [("g2".to_owned(), 3, 4)]);
}

#[tokio::test]
async fn a_session_that_ended_while_its_route_was_looked_after_leaves_none() {
    let house = House::new();
    house.directory.insert(web(1), KEY, "token", house.presence.mark());
    house.state.watch.may_have_forgotten();
    house.presence.alive(APP.0, USER.0);
    let (directory, ends) = (Arc::clone(&house.directory), web(1));
    *house.watched.before_bind.lock().unwrap() = Some(Box::new(move || drop(directory.take(ends))));
    house.flush().await;
    house.flush().await;
    assert_eq!(house.sessions().await, [0_u64; 0]);
}

#[tokio::test]
async fn who_logs_in_ends_the_older_session_on_another_gateway() {
    let state = State::in_memory();
    let (first, second) = (House::named("g1", state.clone()), House::named("g2", state));
    first.enter(web(1)).await;
    assert!(first.relayed().is_empty());
    second.enter(web(2)).await;
    assert_eq!(second.relayed(), [("g1".to_owned(), 7, 1)]);
    assert_eq!(second.counters.kicks_relayed.value(), 1);
    // The older one has ended meanwhile: its route is no longer there to be given back.
    first.directory.take(web(1));
    first.presence.ended(web(1));
    first.flush().await;
    assert_eq!(second.sessions().await, [2]);
    assert!(second.is_online().await, "the user is there with the newer session");
}

#[tokio::test]
async fn who_logs_out_stays_online_with_a_device_on_another_gateway() {
    let state = State::in_memory();
    let (first, second) = (House::named("g1", state.clone()), House::named("g2", state));
    let (browser, phone) = (web(1), session(2, DeviceKind::Android));
    second.enter(phone).await;
    first.enter(browser).await;
    for (house, ending, online) in [(&first, browser, true), (&second, phone, false)] {
        house.directory.take(ending);
        house.presence.ended(ending);
        house.flush().await;
        assert_eq!(second.is_online().await, online);
    }
}

#[tokio::test]
async fn who_comes_to_another_gateway_while_the_farewell_is_written_stays_online() {
    let state = State::in_memory();
    let (first, second) = (House::named("g1", state.clone()), House::named("g2", state.clone()));
    first.enter(web(1)).await;
    first.directory.take(web(1));
    first.presence.ended(web(1));
    // No route of the user's is left when the first asks; the sign of life comes between this and the farewell.
    let elsewhere = Arc::clone(&second.presence);
    *first.watched.after_unbind.lock().unwrap() = Some(Box::pin(async move {
        state.clock.set(state.clock.now_ms() + 1);
        elsewhere.welcome(&[web(2)]).await.unwrap();
    }));
    first.flush().await;
    assert!(first.watched.after_unbind.lock().unwrap().is_none());
    assert!(second.is_online().await);
}

#[tokio::test]
async fn a_farewell_that_the_store_did_not_take_is_said_again() {
    let house = House::new();
    house.enter(web(1)).await;
    house.directory.take(web(1));
    house.presence.ended(web(1));
    house.watched.loses_answers.store(true, SeqCst);
    house.flush().await;
    assert!(house.is_online().await, "the route went, the farewell did not follow");
    house.watched.loses_answers.store(false, SeqCst);
    house.flush().await;
    assert!(!house.is_online().await);
}

#[tokio::test]
async fn on_one_gateway_the_seat_tells_and_no_router_is_asked() {
    let house = House::new();
    house.enter(web(1)).await;
    house.enter(web(2)).await;
    bind(&house.state, Route { node: "g1".to_owned(), epoch: 6, ..theirs(3) }).await;
    house.enter(web(4)).await;
    assert!(house.relayed().is_empty(), "what an earlier life of this gateway had is gone");
}

#[tokio::test]
async fn a_login_that_the_store_did_not_answer_leaves_no_route_behind() {
    let house = House::new();
    house.watched.loses_answers.store(true, SeqCst);
    assert_eq!(house.presence.welcome(&[web(1)]).await, Err(Away));
    house.watched.loses_answers.store(false, SeqCst);
    assert_eq!(house.sessions().await, [1], "it was carried out all the same");
    house.flush().await;
    assert_eq!(house.sessions().await, [0_u64; 0]);
}

/// Routes and presence that are written down, and may lose an answer.
struct Watched {
    inner: Arc<dyn Routes>,
    presence: Arc<dyn billfish_state::Presence>,
    touched: Mutex<Vec<usize>>,
    renewals: AtomicUsize,
    renewed_routes: AtomicUsize,
    loses_answers: AtomicBool,
    before_bind: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    after_unbind: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
}

impl Watched {
    fn over(state: &State) -> Self {
        Self {
            inner: Arc::clone(&state.routes),
            presence: Arc::clone(&state.presence),
            touched: Mutex::default(),
            renewals: AtomicUsize::new(0),
            renewed_routes: AtomicUsize::new(0),
            loses_answers: AtomicBool::new(false),
            before_bind: Mutex::default(),
            after_unbind: Mutex::default(),
        }
    }

    /// Users of each write so far.
    fn touched(&self) -> Vec<usize> {
        self.touched.lock().unwrap().clone()
    }
}

#[async_trait]
impl billfish_state::Presence for Watched {
    async fn touch(&self, users: &[(AppId, UserId)], now_ms: u64) -> Result<(), StateError> {
        self.touched.lock().unwrap().push(users.len());
        self.presence.touch(users, now_ms).await
    }

    async fn remove(&self, users: &[(AppId, UserId, u64)]) -> Result<(), StateError> {
        if self.loses_answers.load(SeqCst) {
            return Err(StateError::Away { what: "presence", cause: "it did not get there".into() });
        }
        self.presence.remove(users).await
    }

    async fn online(&self, app: AppId, users: &[UserId], since_ms: u64) -> Result<Vec<bool>, StateError> {
        self.presence.online(app, users, since_ms).await
    }

    async fn sweep(&self, before_ms: u64, limit: usize) -> Result<Vec<(AppId, UserId)>, StateError> {
        self.presence.sweep(before_ms, limit).await
    }
}

#[async_trait]
impl Routes for Watched {
    async fn bind(&self, routes: &[Route], now_ms: u64, until_ms: u64) -> Result<Vec<Option<Route>>, StateError> {
        if let Some(before) = self.before_bind.lock().unwrap().take() {
            before();
        }
        let bound = self.inner.bind(routes, now_ms, until_ms).await;
        if self.loses_answers.load(SeqCst) {
            return Err(StateError::Away { what: "routes", cause: "the answer is lost".into() });
        }
        bound
    }

    async fn renew(&self, routes: &[Route], now_ms: u64, until_ms: u64) -> Result<Vec<bool>, StateError> {
        self.renewals.fetch_add(1, SeqCst);
        self.renewed_routes.fetch_add(routes.len(), SeqCst);
        self.inner.renew(routes, now_ms, until_ms).await
    }

    async fn unbind(&self, routes: &[Route]) -> Result<Vec<bool>, StateError> {
        let unbound = self.inner.unbind(routes).await;
        let after = self.after_unbind.lock().unwrap().take();
        if let Some(after) = after {
            after.await;
        }
        unbound
    }

    async fn lookup(&self, app: AppId, users: &[UserId], now_ms: u64) -> Result<Vec<Vec<Route>>, StateError> {
        self.inner.lookup(app, users, now_ms).await
    }
}
