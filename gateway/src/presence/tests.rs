use super::{Presence, PresenceParts, ROUTE_MS, Told};
use crate::{
    clock::Uptime,
    commands::Shards,
    directory::Directory,
    metrics::{ControlCounters, RouteCheck},
    shard::{
        mailbox::{Mailbox, Signal},
        message::{ConnKey, Origin, ShardCommand},
    },
    store::{Away, Store},
    upstream::{LinkId, Upstream},
};
use async_trait::async_trait;
use billfish_link::message::{Kick, Relay, Up, Users, envelope::Kind, up::Call};
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

pub(super) const APP: AppId = AppId(10_001);
pub(super) const USER: UserId = UserId(20_001);
const KEY: ConnKey = ConnKey { shard: 0, index: 0, generation: 0 };

pub(super) struct House {
    pub(super) presence: Arc<Presence>,
    pub(super) directory: Arc<Directory>,
    state: State,
    pub(super) counters: Arc<ControlCounters>,
    mailbox: Arc<Mailbox<ShardCommand>>,
    pub(super) link: LinkId,
    /// What is written.
    watched: Arc<Watched>,
}

impl House {
    fn new() -> Self {
        Self::named("g1", State::in_memory())
    }

    pub(super) fn named(node: &str, mut state: State) -> Self {
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
            uptime: Uptime::start(),
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
    pub(super) async fn flush(&self) {
        let stop = CancellationToken::new();
        stop.cancel();
        self.presence.run(&stop).await;
    }

    pub(super) async fn sessions(&self) -> Vec<u64> {
        let routes = self.watched.inner.lookup(APP, &[USER], self.state.clock.now_ms()).await.unwrap();
        let mut sessions: Vec<u64> = routes[0].iter().map(|route| route.session).collect();
        sessions.sort_unstable();
        sessions
    }

    async fn is_online(&self) -> bool {
        self.state.presence.online(APP, &[USER], self.state.clock.now_ms() - 60_000).await.unwrap()[0]
    }

    /// What is on its way to the router, but for words about users.
    pub(super) fn sent(&self) -> VecDeque<Kind> {
        let mut outbox = self.outbox();
        outbox.retain(|kind| !matches!(kind, Kind::Users(_)));
        outbox
    }

    fn outbox(&self) -> VecDeque<Kind> {
        let mut outbox = VecDeque::new();
        assert!(self.presence.parts.upstream.take_outbox(self.link, &mut outbox));
        outbox
    }

    /// Kicks for other gateways on their way to the router.
    fn relayed(&self) -> Vec<(String, u64, u64)> {
        let relay = |kind| {
            let Kind::Relay(Relay { node, incarnation, kick: Some(Kick { session, code, device, .. }) }) = kind else { return None };
            assert_eq!((code, device), (Reason::DuplicateLogin.number().unwrap(), DeviceKind::Web as u32));
            Some((node, incarnation, session))
        };
        self.sent().into_iter().filter_map(relay).collect()
    }

    /// What the router is told of users who come and go.
    fn words(&self) -> Vec<(Vec<i64>, bool)> {
        let word = |kind| if let Kind::Users(Users { app_id: 10_001, user_ids, online }) = kind { Some((user_ids, online)) } else { None };
        self.outbox().into_iter().filter_map(word).collect()
    }

    /// Sessions for which the inbox was asked for.
    fn redelivered(&self) -> Vec<u64> {
        let session = |kind| {
            let Kind::Up(Up { origin: Some(origin), call: Some(Call::Redeliver(_)), .. }) = kind else { return None };
            Some(origin.session)
        };
        self.sent().into_iter().filter_map(session).collect()
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
async fn a_router_is_told_of_each_session_that_begins_and_of_the_user_with_the_last_that_ends() {
    let house = House::new();
    let (first, phone) = (web(1), session(2, DeviceKind::Ios));
    house.enter(first).await;
    house.enter(phone).await;
    assert_eq!(house.words(), [(vec![USER.0], true), (vec![USER.0], true)]);
    for (ending, told) in [(first, vec![]), (phone, vec![(vec![USER.0], false)])] {
        house.directory.take(ending);
        house.presence.ended(ending);
        house.flush().await;
        assert_eq!(house.words(), told);
    }
    // He is elsewhere, too: he has not gone.
    bind(&house.state, Route { device: DeviceKind::Android, ..theirs(3) }).await;
    house.enter(web(4)).await;
    house.directory.take(web(4));
    house.presence.ended(web(4));
    house.flush().await;
    assert_eq!(house.words(), [(vec![USER.0], true)]);
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
async fn signs_of_life_are_gathered_for_ten_seconds_into_one_write_and_each_keeps_its_time() {
    let house = House::new();
    for user_id in 1..=100 {
        house.directory.insert(Origin { user_id, ..web(1) }, KEY, "", house.presence.mark());
    }
    let (task, stop) = house.run();
    for user_id in 1..=100 {
        house.presence.alive(APP.0, user_id);
        tokio::time::sleep(Duration::from_millis(99)).await;
    }
    assert_eq!(house.watched.touched(), [0_usize; 0]);
    tokio::time::sleep(Duration::from_millis(101)).await;
    assert_eq!(house.watched.touched(), [100]);
    let online = async |before_ms: u64| {
        let since_ms = house.state.clock.now_ms() - before_ms;
        house.state.presence.online(APP, &[UserId(1), UserId(51), UserId(100)], since_ms).await.unwrap()
    };
    assert_eq!(online(1_000).await, [false, false, true], "as old as they are, not as the write is");
    assert_eq!(online(6_000).await, [false, true, true]);
    assert_eq!(online(10_500).await, [true; 3]);
    assert_eq!(house.watched.looks.load(SeqCst), 0, "a heartbeat asks for no route");
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_route_is_looked_at_once_for_each_time_that_the_store_may_have_forgotten_it_or_no_router_was_linked() {
    let house = House::new();
    house.enter(web(1)).await;
    let (task, stop) = house.run();
    for (happens, looks) in [("nothing", 0), ("forgets", 1), ("nothing", 1), ("parts", 2), ("forgets", 3)] {
        if happens == "forgets" {
            house.state.watch.may_have_forgotten();
        }
        if happens == "parts" {
            house.presence.parts.upstream.link_down(house.link);
            house.presence.parts.upstream.link_up("r1");
        }
        for _ in 0..3 {
            house.presence.alive(APP.0, USER.0);
            tokio::time::sleep(Duration::from_secs(15)).await;
        }
        assert_eq!(house.watched.looks.load(SeqCst), looks);
    }
    assert_eq!((house.checked(RouteCheck::Kept), house.watched.renewals.load(SeqCst)), (3, 0), "to look is all that it takes");
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_route_is_renewed_before_its_life_is_over_as_long_as_the_session_lives() {
    let house = House::new();
    house.enter(web(1)).await;
    let (task, stop) = house.run();
    for hour in 0..20 {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        if hour == 3 {
            // Seen in the fourth hour, it is no younger for that.
            house.state.watch.may_have_forgotten();
        }
        house.presence.alive(APP.0, USER.0);
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(house.sessions().await, [1], "after twenty hours");
    assert_eq!(house.watched.renewals.load(SeqCst), 2);
    stop.cancel();
    task.await.unwrap();
}

/// Six gateways are to stay below 5,000 commands a second.
#[tokio::test(start_paused = true)]
async fn a_stampede_of_checks_is_paced_by_what_it_costs() {
    const AT_ONCE: usize = 128 * 6;
    for (is_lost, users, seconds) in [(false, 3_000, 4), (true, 1_500, 16)] {
        let house = House::new();
        for user_id in 1..=users {
            let origin = Origin { user_id, ..web(1) };
            if !is_lost {
                house.presence.bind(&[super::Claim::of(origin)]).await.unwrap();
            }
            house.directory.insert(origin, KEY, "", house.presence.mark());
        }
        house.watched.bound_routes.store(0, SeqCst);
        house.state.watch.may_have_forgotten();
        let (task, stop) = house.run();
        for user_id in 1..=users {
            house.presence.alive(APP.0, user_id);
        }
        let mut asked = 0;
        for second in 1..=seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            asked += house.redelivered().len();
            let [looks, bound] = [&house.watched.looks, &house.watched.bound_routes].map(|count| count.load(SeqCst));
            let commands = looks + 2 * bound + 3 * asked;
            assert!(commands <= AT_ONCE + 800 * second, "{commands} after {second} s");
        }
        let found = if is_lost { RouteCheck::Bound } else { RouteCheck::Kept };
        assert_eq!(house.checked(found), users as u64, "in the end all are looked after");
        stop.cancel();
        task.await.unwrap();
    }
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
    assert_eq!(house.redelivered(), [1], "what the user was sent meanwhile is in the inbox alone");
    house.presence.alive(APP.0, USER.0);
    house.flush().await;
    assert_eq!(house.redelivered(), [0_u64; 0]);
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
    assert_eq!((house.checked(RouteCheck::Displaced), house.kicked(), house.sent().len()), (1, 1, 0));
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

#[tokio::test(start_paused = true)]
async fn a_kick_is_said_again_once_and_the_newer_sessions_route_looked_at() {
    let state = State::in_memory();
    let (first, second) = (House::named("g1", state.clone()), House::named("g2", state));
    first.enter(web(1)).await;
    second.enter(web(2)).await;
    assert_eq!(second.relayed().len(), 1);
    let (task, stop) = second.run();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(second.relayed().is_empty());
    // The kick of the third went astray: the second is ended by the look alone.
    bind(&second.state, Route { node: "g3".to_owned(), ..theirs(3) }).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(second.relayed(), [("g1".to_owned(), 7, 1)]);
    assert_eq!((second.counters.kicks_relayed.value(), second.kicked(), second.checked(RouteCheck::Displaced)), (1, 1, 1));
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn who_logs_out_stays_online_with_a_device_on_another_gateway() {
    let state = State::in_memory();
    let (first, second) = (House::named("g1", state.clone()), House::named("g2", state));
    let (browser, phone) = (web(1), session(2, DeviceKind::Android));
    second.enter(phone).await;
    first.enter(browser).await;
    for (house, ending, online) in [(&first, browser, true), (&second, phone, false)] {
        // The sign of the browser is the later one, and the phone is the last to go.
        first.state.clock.set(first.state.clock.now_ms() + 1_000);
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

/// The store did what it was asked, and its answer was lost: the user is turned away, and comes again.
#[tokio::test]
async fn who_comes_again_after_an_answer_was_lost_ends_the_session_that_the_lost_one_displaced() {
    for gives_back_first in [false, true] {
        let house = House::new();
        bind(&house.state, theirs(1)).await;
        house.watched.loses_answers.store(true, SeqCst);
        assert_eq!(house.presence.welcome(&[web(2)]).await, Err(Away));
        house.watched.loses_answers.store(false, SeqCst);
        assert!(house.relayed().is_empty());
        if gives_back_first {
            house.flush().await;
        }
        house.enter(web(3)).await;
        assert_eq!(house.relayed(), [("g2".to_owned(), 3, 1)], "the route that was given back: {gives_back_first}");
        house.flush().await;
        assert_eq!(house.sessions().await, [3]);
    }
}

/// Routes and presence that are written down, and may lose an answer.
struct Watched {
    inner: Arc<dyn Routes>,
    presence: Arc<dyn billfish_state::Presence>,
    touched: Mutex<Vec<usize>>,
    /// Users whose routes were asked for.
    looks: AtomicUsize,
    renewals: AtomicUsize,
    bound_routes: AtomicUsize,
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
            looks: AtomicUsize::new(0),
            renewals: AtomicUsize::new(0),
            bound_routes: AtomicUsize::new(0),
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
    async fn touch_each(&self, signs: &[(AppId, UserId, u64)]) -> Result<(), StateError> {
        self.touched.lock().unwrap().push(signs.len());
        self.presence.touch_each(signs).await
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
    async fn bind(&self, routes: &[Route], now_ms: u64, until_ms: u64) -> Result<Vec<Vec<Route>>, StateError> {
        if let Some(before) = self.before_bind.lock().unwrap().take() {
            before();
        }
        self.bound_routes.fetch_add(routes.len(), SeqCst);
        let bound = self.inner.bind(routes, now_ms, until_ms).await;
        if self.loses_answers.load(SeqCst) {
            return Err(StateError::Away { what: "routes", cause: "the answer is lost".into() });
        }
        bound
    }

    async fn renew(&self, routes: &[Route], now_ms: u64, until_ms: u64) -> Result<Vec<bool>, StateError> {
        self.renewals.fetch_add(1, SeqCst);
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
        self.looks.fetch_add(users.len(), SeqCst);
        self.inner.lookup(app, users, now_ms).await
    }
}

#[test]
fn an_idle_session_leaves_nothing_among_what_was_told_lately() {
    let told = Told::default();
    let signs = |at_ms| (0..3_000).map(|user| (APP, UserId(user), at_ms)).collect::<Vec<_>>();
    let len = || told.0.lock().unwrap().at_ms.len();
    assert_eq!(told.note(&signs(900), 1_000), 0);
    assert_eq!(len(), 0, "old already: gathered for a while");
    told.note(&signs(1_200), 1_000);
    assert_eq!(len(), 3_000);
    assert_eq!((told.last(APP, UserId(7), 1_000), told.last(APP, UserId(9_999), 1_000)), (1_200, 1_000));
    told.forget((APP, UserId(7), 1_199));
    assert_eq!(told.last(APP, UserId(7), 1_000), 1_200, "later than what was taken back");
    told.forget((APP, UserId(7), 1_200));
    assert_eq!(told.last(APP, UserId(7), 1_000), 1_000);
    told.note(&[(APP, UserId(1), 1_900)], 1_800);
    assert_eq!(len(), 1);
}
