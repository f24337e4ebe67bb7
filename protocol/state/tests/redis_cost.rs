//! What a call of each port costs Redis: commands as `INFO commandstats` counts them, those inside scripts too. The table stands in the
//! README; the budget is that of a room's message.
#![expect(clippy::unwrap_used, reason = "a test that fails here says so")]

use billfish_state::redis::{Redis, RedisConfig};
use billfish_state::*;
use billfish_testing::{RedisOptions, RedisServer};
use bytes::Bytes;
use prometheus_client::registry::Registry;
use std::fmt::Write as _;
use std::time::Duration;

const APP: AppId = AppId(10001);
const ROOM: RoomId = RoomId(1);
const USER: UserId = UserId(1);
/// What the connection does for itself: that is not part of a call.
const OF_THE_CONNECTION: [&str; 10] =
    ["time", "ping", "info", "hello", "client|setinfo", "select", "auth", "script|load", "cluster|slots", "cluster|shards"];
/// What else a pulse is: a script, and a hash read and written.
const WITH_EACH_TIME: u64 = 3;
/// Commands per delivered copy of a message to a room of 1,000.
const BUDGET: f64 = 0.02;

#[tokio::test]
async fn calls_cost_what_the_readme_says() {
    let Some(server) = start() else { return };
    let mut meter = Meter::new(&server).await;
    let Meter { state, now, .. } = &meter;
    let (state, now) = (state.clone(), *now);
    let later = now + 3_600_000;
    let thousand: Vec<UserId> = (0..1000).map(UserId).collect();
    let signs: Vec<_> = thousand.iter().map(|user| (APP, *user)).collect();
    let route = |user: &UserId| Route { app: APP, user: *user, device: DeviceKind::Ios, node: "g".to_owned(), epoch: 1, session: 1 };
    let routes: Vec<_> = thousand.iter().map(route).collect();
    let acks: Vec<_> = thousand
        .iter()
        .map(|user| PendingAck { app: APP, user: *user, msg_id: "m".to_owned(), room: None, times_sent: 1, due_ms: now })
        .collect();
    let acked: Vec<_> = acks.iter().map(|ack| (APP, ack.user, ack.msg_id.clone())).collect();
    let claim = |msg_id: usize| MessageClaim { app: APP, user: USER, msg_id: msg_id.to_string(), until_ms: later };
    let entry = |seq: i64| LogEntry { seq, body: Bytes::from_static(b"{}"), except: Some(USER) };
    let claimed = |seq: i64| LogAppend { entry: entry(seq), claim: Some(claim(usize::try_from(seq).unwrap())) };
    let members: Vec<_> = thousand.iter().map(|user| Member { user: *user, device: DeviceKind::Ios }).collect();
    let node = NodeInfo {
        kind: NodeKind::Gateway,
        id: "g".to_owned(),
        incarnation: 1,
        addresses: vec![],
        capacity: 1,
        load: 0,
        draining: false,
        version: String::new(),
        labels: Default::default(),
    };
    let id = |n: u64| format!("{now}-{n}");
    let body = Bytes::from_static(b"{}");
    let owner = TokenOwner { app: APP, user: USER, device: None, session: None };

    meter.count("`Tokens::issue`, `resolve`, `revoke`, each", state.tokens.issue("t", owner, now, later)).await;
    state.presence.touch(&signs, now).await.unwrap();
    meter.count("`Presence::touch` of 1,000 users", state.presence.touch(&signs, now + 1)).await;
    meter.count("`Presence::online` of 1,000 users", state.presence.online(APP, &thousand, now)).await;
    meter.count("`Presence::sweep`, 8 buckets, nobody there", state.presence.sweep(now, 1000)).await;
    meter.count("`Presence::sweep`, the next 8", state.presence.sweep(now, 1000)).await;
    let gone: Vec<_> = thousand.iter().map(|user| (APP, *user, now + 1)).collect();
    meter.count("`Presence::remove` of 1,000 users", state.presence.remove(&gone)).await;
    meter.count("`Routes::bind`, one", state.routes.bind(&routes[..1], now, later)).await;
    let other_device = [Route { device: DeviceKind::Web, ..routes[0].clone() }];
    meter.count("`Routes::bind`, one, of a user who has another", state.routes.bind(&other_device, now, later)).await;
    meter.count("`Routes::bind` of 1,000 users", state.routes.bind(&routes, now, later)).await;
    meter.count("`Routes::renew`, one", state.routes.renew(&routes[..1], now, later + 1)).await;
    meter.count("`Routes::renew` of 1,000 users", state.routes.renew(&routes, now, later + 2)).await;
    meter.count("`Routes::lookup` of 1,000 users", state.routes.lookup(APP, &thousand, now)).await;
    meter.count("`Routes::unbind`, one", state.routes.unbind(&routes[..1])).await;
    meter.count("`Routes::unbind` of 1,000 users", state.routes.unbind(&routes)).await;
    state.acks.record(&acks[..1]).await.unwrap();
    meter.count("`Acks::record`, one", state.acks.record(&acks[..1])).await;
    meter.count("`Acks::record` of 1,000 users", state.acks.record(&acks)).await;
    meter.count("`Acks::pending`", state.acks.pending(APP, USER)).await;
    meter.count("`Acks::pending`, none", state.acks.pending(APP, UserId(-1))).await;
    meter.count("`Acks::remove`, one", state.acks.remove(&acked[..1])).await;
    meter.count("`Acks::remove` of 1,000 users", state.acks.remove(&acked)).await;
    meter.count("`Acks::postpone`, 4 shards, nothing due", state.acks.postpone(now, now, 1000)).await;
    meter.count("`Inbox::append`, one user, new inbox", state.inbox.append(APP, &[USER], &id(1), body.clone(), now)).await;
    meter.count("`Inbox::append`, one user", state.inbox.append(APP, &[USER], &id(2), body.clone(), now)).await;
    meter.count("`Inbox::append_once`", state.inbox.append_once(APP, USER, &id(3), body.clone(), &claim(0), now)).await;
    meter.count("`Inbox::append_once`, a repeat", state.inbox.append_once(APP, USER, &id(4), body.clone(), &claim(0), now)).await;
    meter.count("`Inbox::taken`", state.inbox.taken(APP, USER, &claim(0), now)).await;
    let append = |user: i64| InboxAppend { app: APP, user: UserId(user), id: id(5), body: body.clone(), claim: Some(claim(5)) };
    let hundred: Vec<_> = (1000..1100).map(append).collect();
    let each = async |state: &State| state.inbox.append_each(&hundred, now).await.into_iter().collect::<Result<Vec<_>, _>>();
    meter.count("`Inbox::append_each` of 100, new inboxes", each(&state)).await;
    let hundred: Vec<_> = hundred.iter().map(|append| (APP, append.user, append.id.clone())).collect();
    meter.count("`Inbox::ack` of 100, the last of each", state.inbox.ack(&hundred)).await;
    meter.count("`Inbox::read`", state.inbox.read(APP, USER, None, 100, now)).await;
    meter.count("`Inbox::read`, nothing there", state.inbox.read(APP, UserId(2), None, 100, now)).await;
    meter.count("`Inbox::ack`, one of several", state.inbox.ack(&[(APP, USER, id(1))])).await;
    state.inbox.ack(&[(APP, USER, id(2))]).await.unwrap();
    meter.count("`Inbox::ack`, the last", state.inbox.ack(&[(APP, USER, id(3))])).await;
    state.room_log.fence(RoomId(2), 1, now).await.unwrap();
    meter.count("`RoomLog::fence`", state.room_log.fence(RoomId(2), 2, now)).await;
    meter.count("`RoomLog::append`, one message, new log", state.room_log.append(ROOM, &[claimed(1)], now)).await;
    meter.count("`RoomLog::append`, one message", state.room_log.append(ROOM, &[claimed(2)], now)).await;
    let many: Vec<_> = (3..=500).map(|seq| entry(seq).into()).collect();
    state.room_log.append(ROOM, &many, now).await.unwrap();
    let of_one = meter.count("`RoomLog::append`, one message, full log", state.room_log.append(ROOM, &[claimed(501)], now)).await;
    let ten: Vec<_> = (502..512).map(claimed).collect();
    let of_ten = meter.count("`RoomLog::append`, 10 messages, full log", state.room_log.append(ROOM, &ten, now)).await;
    meter.count("`RoomLog::read`, `last`, each", state.room_log.read(ROOM, 400, 50, now)).await;
    meter.count("`Members::join` of 1,000 users", state.members.join(APP, ROOM, &members, now)).await;
    let one_more = [Member { user: UserId(1000), device: DeviceKind::Ios }];
    meter.count("`Members::join`, one more", state.members.join(APP, ROOM, &one_more, now)).await;
    meter.count("`Members::leave`, one", state.members.leave(APP, ROOM, &members[..1], now)).await;
    meter.count("`Members::count`, `page`, `contains`, each", state.members.count(APP, ROOM)).await;
    meter.count("`Registry::register`", state.registry.register(&node, now, later)).await;
    meter.count("`Registry::register`, a renewal", state.registry.register(&node, now + 1, later + 1)).await;
    meter.count("`Registry::nodes`, any number", state.registry.nodes(NodeKind::Gateway, now)).await;
    meter.count("`Leases::acquire`", state.leases.acquire("l", "a", now, later)).await;
    meter.count("`Leases::acquire`, a renewal", state.leases.acquire("l", "a", now + 1, later + 1)).await;
    let rooms: Vec<_> = (0..1000).map(|room| LeaseAsk { name: format!("room:{room}:owner"), holder: "a".to_owned() }).collect();
    state.leases.acquire_many(&rooms, now, later).await.unwrap();
    meter.count("`Leases::acquire_many`, 1,000 renewals", state.leases.acquire_many(&rooms, now + 1, later + 1)).await;
    let hit = [WindowHit { key: "k".to_owned(), limit: 3, window_ms: 1000 }];
    meter.count("`RateWindows::hit`, one", state.rate_windows.hit(&hit, now)).await;
    meter.count("`RateWindows::hit`, one more in the window", state.rate_windows.hit(&hit, now)).await;
    let hits: Vec<_> = (0..1000).map(|key| WindowHit { key: format!("k{key}"), limit: 3, window_ms: 1000 }).collect();
    meter.count("`RateWindows::hit` of 1,000", state.rate_windows.hit(&hits, now)).await;
    let ask = CodeAsk {
        app: APP,
        phone: "p".to_owned(),
        code: "1234".to_owned(),
        until_ms: later,
        gap_ms: 60_000,
        sends_max: 10,
        window_ms: 86_400_000,
    };
    meter.count("`LoginCodes::keep`", state.login_codes.keep(&ask, now)).await;
    meter.count("`LoginCodes::check`", state.login_codes.check(APP, "p", "1234", 5, now)).await;
    let owner = SessionOwner { app: APP, user: USER };
    meter.count("`Sessions::open`", state.sessions.open("s", owner, now, later)).await;
    meter.count("`Sessions::resolve`", state.sessions.resolve(&["s".to_owned()], now)).await;
    meter.count("`Sessions::close`", state.sessions.close("s", owner)).await;
    meter.count("`Dedup::claim`, one", state.dedup.claim(APP, USER, &["m".to_owned()], now, later)).await;
    meter.count("`Cache::get`, `put`, each", state.cache.get("k", now)).await;
    let bar = PkBar::begin(USER, 10);
    meter.count("`PkBars::put`", state.pk_bars.put(ROOM, bar, now)).await;
    let gift = |seq: i64, by: i64| PkStep { since_seq: 10, after_seq: seq - 1, seq, by };
    meter.count("`PkBars::step`", state.pk_bars.step(ROOM, gift(11, 20), now)).await;
    meter.count("`PkBars::step`, a repeat", state.pk_bars.step(ROOM, gift(11, 20), now)).await;
    meter.count("`PkBars::step` to an end, and from there on", state.pk_bars.step(ROOM, gift(12, 30), now)).await;
    meter.count("`PkBars::bar`", state.pk_bars.bar(ROOM, now)).await;
    meter.count("`PkBars::clear`", state.pk_bars.clear(ROOM, USER, 10)).await;
    let tokens: Vec<_> = (0..1000).map(|token| token.to_string()).collect();
    meter.count("`Tokens::resolve` of 1,000, none of them known", state.tokens.resolve(&tokens, now)).await;

    assert!(of_one as f64 / 1000.0 <= BUDGET, "{of_one} for a room of 1,000");
    assert!(of_ten as f64 / 10_000.0 <= BUDGET / 4.0, "batches of a busy room cost less: {of_ten} for ten messages");
    let readme = include_str!("../README.md");
    assert!(readme.contains(&meter.table), "the README is to say:\n\n{}", meter.table);
}

/// The calls that a gateway and a router make for one user who logs in and joins a room, his inbox being empty: alone.
#[tokio::test]
async fn a_login_and_a_join_cost_twelve_commands_and_a_look_at_a_route_one() {
    let Some(server) = start() else { return };
    let mut meter = Meter::new(&server).await;
    let Meter { state, now, .. } = &meter;
    let (state, now) = (state.clone(), *now);
    let (mut login, mut join) = (0, 0);
    // The first loads the scripts, and gives their buckets their life.
    for user in [1, 1 + 16] {
        issue(&state, user, now).await;
        login = meter.count("login", log_in(&state, user, now)).await;
        join = meter.count("join", join_room(&state, ROOM, user, now)).await;
    }
    assert_eq!((login, join), (7, 5));
    assert_eq!(meter.count("a look", state.routes.lookup(APP, &[UserId(1)], now)).await, 1);
}

/// As many as come back in a third of a second when a gateway of 18,000 has died: 600 a second may cost 5,000 commands a second. They have
/// logged in within the minute, and their routes still lead to the gateway that died. Not counted: what rooms save by letting in together
/// who waits for the same one.
#[tokio::test]
async fn of_many_who_come_back_at_once_a_login_and_a_join_cost_less_than_eight_commands() {
    const USERS: i64 = 200;
    let Some(server) = start() else { return };
    let mut meter = Meter::new(&server).await;
    let Meter { state, now, .. } = &meter;
    let (state, now) = (state.clone(), *now);
    for user in 1..=USERS {
        issue(&state, user, now).await;
        log_in(&state, user, now).await.unwrap();
        join_room(&state, RoomId(user % 18), user, now).await.unwrap();
    }
    let come_back = async {
        let mut coming = tokio::task::JoinSet::new();
        for user in 1..=USERS {
            let state = state.clone();
            coming.spawn(async move {
                log_in(&state, user, now + 1).await?;
                join_room(&state, RoomId(user % 18), user, now + 1).await
            });
        }
        coming.join_all().await.into_iter().collect::<Result<(), StateError>>()
    };
    let cost = meter.count("they come back", come_back).await;
    assert!(cost < 8 * USERS.unsigned_abs(), "{cost} for {USERS}");
}

async fn issue(state: &State, user: i64, now: u64) {
    let owner = TokenOwner { app: APP, user: UserId(user), device: None, session: None };
    state.tokens.issue(&format!("t{user}"), owner, now, now + 3_600_000).await.unwrap();
}

async fn log_in(state: &State, user: i64, now: u64) -> Result<(), StateError> {
    let id = UserId(user);
    let hit = [WindowHit { key: format!("login:{user}"), limit: 5, window_ms: 60_000 }];
    let route = [Route { app: APP, user: id, device: DeviceKind::Ios, node: "g".to_owned(), epoch: 1, session: now }];
    assert!(state.tokens.resolve(&[format!("t{user}")], now).await?[0].is_some());
    assert_eq!(state.rate_windows.hit(&hit, now).await?, [WindowVerdict::Allowed]);
    state.routes.bind(&route, now, now + 3_600_000).await?;
    state.presence.touch(&[(APP, id)], now).await?;
    assert!(state.inbox.read(APP, id, None, 100, now).await?.entries.is_empty());
    Ok(())
}

async fn join_room(state: &State, room: RoomId, user: i64, now: u64) -> Result<(), StateError> {
    assert_eq!(state.cache.get(&format!("join_cooldown:{user}"), now).await?, None);
    assert!(state.acks.pending(APP, UserId(user)).await?.is_empty());
    state.members.join(APP, room, &[Member { user: UserId(user), device: DeviceKind::Ios }], now).await.map(drop)
}

fn start() -> Option<RedisServer> {
    RedisServer::start_with(RedisOptions { appendonly: false, ..RedisOptions::default() })
}

struct Meter<'a> {
    server: &'a RedisServer,
    state: State,
    /// Kept: the adapter ends with it.
    _redis: Redis,
    now: u64,
    table: String,
}

impl<'a> Meter<'a> {
    async fn new(server: &'a RedisServer) -> Self {
        let patience = Duration::from_secs(20);
        let config = RedisConfig {
            nodes: vec![server.address().to_string()],
            command_timeout: patience,
            connect_timeout: patience,
            ..RedisConfig::default()
        };
        let redis = Redis::start(config, &mut Registry::default()).await.unwrap();
        let state = redis.state();
        let now = state.clock.now_ms();
        Self { server, state, _redis: redis, now, table: "| call | commands |\n|---|---|\n".to_owned() }
    }

    /// Makes a call and adds a row. Calls are made once before where the first is another: a script that is not loaded is asked for twice.
    async fn count<T>(&mut self, name: &str, call: impl Future<Output = Result<T, StateError>>) -> u64 {
        let before = self.calls();
        call.await.unwrap();
        let cost = self.calls() - before;
        writeln!(self.table, "| {name} | {cost} |").unwrap();
        cost
    }

    fn calls(&self) -> u64 {
        let stats = self.server.command(&["INFO", "commandstats"]).unwrap();
        let calls = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            // A script that was not there did nothing, and is called again.
            let number = |text: &str| text.split(',').next()?.parse::<u64>().ok();
            let failed = rest.split_once("failed_calls=").map_or(Some(0), |(_, failed)| number(failed))?;
            (!OF_THE_CONNECTION.contains(&name)).then_some(number(rest)?.checked_sub(failed)?)
        };
        // A pulse may come in between; it alone asks for the time.
        let pulses = stats.lines().find_map(|line| line.strip_prefix("cmdstat_time:calls=")?.split(',').next()?.parse::<u64>().ok());
        stats.lines().filter_map(calls).sum::<u64>() - pulses.unwrap_or(0) * WITH_EACH_TIME
    }
}
