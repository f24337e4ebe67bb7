//! The process ends in the middle of a gift: at every step from the till to the outbox, again and again, over one ledger and one Redis.
//!
//! A child is a router with a gateway at the other end of a link in memory. It first sees to it that what the one before it left behind is
//! as it must be, then it gives until it crashes. Its gateway keeps all that it hears in a file, and so stands for one that lives on.
//! What it looks at, in the words of the invariants:
//! - I1: whatever was acknowledged is in the ledger. I2: each gift is there once, and asked for again it is not paid again.
//! - I3: accounts are the sums of their entries, and what was given is what was received.
//! - I4 and I5: the room's log and its viewers have every gift once, by its place, none missing and in order; and the bar, here, in the shared
//!   state and as viewers were shown it, is what the ledger's gifts make.

use super::*;
use crate::{
    failpoint,
    ledger::{Ledger, LedgerConfig, Sharing, Till},
    services::ports::{
        NewRoom, RoomRecords,
        money::{GiftOutcome, Grant, Money, NewGift, PkSide},
    },
};
use billfish_link::message::{RollCall, Seats};
use billfish_state::{
    PkBar,
    port::ROOM_LOG_ENTRIES_MAX,
    redis::{Redis, RedisConfig},
};
use billfish_testing::{MariaDb, PATIENCE as LONG, RedisOptions, RedisServer};
use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Crashes at each place.
const ROUNDS: i64 = 20;
/// The later ones of a process: the first of what it does is not the only one that breaks.
const TURNS_OF_A_CRASH: i64 = 4;
/// What a child does when it does not crash: two gifts at once each time.
const TURNS: i64 = 6;
const CHALLENGER: i64 = 20_009;
const FUNDS: i64 = 1_000_000;
/// The gift of 10 coins that the catalogue has from the start: it moves a bar by one.
const GIFT: GiftId = GiftId(2);
const PRICE: i64 = 10;

/// Files of a place: the ids that were acknowledged, and what the gateway has heard, a line each.
const ACKED: &str = "acked";
const HEARD: &str = "heard";

const DIRECTORY: &str = "BILLFISH_TEST_DIRECTORY";
const DATABASE: &str = "BILLFISH_TEST_DATABASE";
const REDIS: &str = "BILLFISH_TEST_REDIS";
const PREFIX: &str = "BILLFISH_TEST_PREFIX";
const ROUND: &str = "BILLFISH_TEST_ROUND";
const PLACE: &str = "BILLFISH_TEST_PLACE";

#[test]
fn a_crash_at_any_step_of_paying_loses_nothing_and_tells_nothing_twice_on_sqlite() {
    crash_everywhere(&failpoint::PAYING, |_| String::new());
}

#[test]
fn a_crash_at_any_step_behind_paying_loses_nothing_and_tells_nothing_twice_on_sqlite() {
    crash_everywhere(&failpoint::TELLING, |_| String::new());
}

#[test]
fn a_crash_at_any_step_of_paying_loses_nothing_and_tells_nothing_twice_on_mariadb() {
    on_mariadb(&failpoint::PAYING);
}

#[test]
fn a_crash_at_any_step_behind_paying_loses_nothing_and_tells_nothing_twice_on_mariadb() {
    on_mariadb(&failpoint::TELLING);
}

fn on_mariadb(places: &[&str]) {
    let Some(server) = MariaDb::start() else { return };
    crash_everywhere(places, |place| {
        server.execute(&format!("CREATE DATABASE {place}"));
        server.url_of(place)
    });
}

/// `database` is the URL of an empty one for a place; empty: a file.
fn crash_everywhere(places: &[&str], database: impl Fn(&str) -> String) {
    let Some(redis) = RedisServer::start_with(RedisOptions { appendonly: false, ..RedisOptions::default() }) else { return };
    for place in places.iter().copied() {
        let directory = tempfile::tempdir().unwrap();
        let (url, prefix) = (database(place), format!("{place}:"));
        let child = |round: i64, place: &str| -> Output {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "room::tests::crash::child_that_gives", "--ignored", "--nocapture"])
                .env(DIRECTORY, directory.path())
                .env(DATABASE, &url)
                .env(REDIS, redis.address().to_string())
                .env(PREFIX, &prefix)
                .env(ROUND, round.to_string())
                .env(PLACE, place)
                .output()
                .unwrap()
        };
        for round in 0..ROUNDS {
            let output = child(round, &format!("{place}:{}", round % TURNS_OF_A_CRASH + 1));
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("crashes at"), "{place}, round {round}: {}\n{said}", output.status);
        }
        let output = child(ROUNDS, "");
        assert!(output.status.success(), "after {place}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
#[ignore = "runs in a child process of the tests above"]
async fn child_that_gives() {
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).expect("run by its parent"));
    let of_parent = |name: &str| std::env::var(name).expect("run by its parent");
    let (round, place): (i64, _) = (of_parent(ROUND).parse().unwrap(), of_parent(PLACE));
    let mut life = Life::begin(&directory, &of_parent(DATABASE), &of_parent(REDIS), &of_parent(PREFIX)).await;
    life.recover(round).await;
    if !place.is_empty() {
        failpoint::arm(&place);
        life.give_on(round).await;
        panic!("it did not crash at {place}, round {round}");
    }
    life.end().await;
}

/// A gift of a child.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Given {
    /// By a frame: one of the two of a turn.
    Asked(i64, i64),
    /// Paid, and the room has not heard so: it has to find it in the outbox.
    Unheard(i64),
}

impl Given {
    /// All of a turn, in the order they are given.
    fn of_turn(turn: i64) -> Vec<Self> {
        // One in three has none, so that rooms that are told by the ledger alone are not all there are.
        let unheard = (turn % 3 < 2).then_some(Self::Unheard(turn));
        unheard.into_iter().chain([Self::Asked(turn, 1), Self::Asked(turn, 2)]).collect()
    }

    fn of_round() -> Vec<Self> {
        (0..TURNS).flat_map(Self::of_turn).collect()
    }

    fn is_asked(self) -> bool {
        matches!(self, Self::Asked(..))
    }

    fn uuid(self, round: i64) -> String {
        match self {
            Self::Asked(turn, number) => format!("{round} {turn} {number}"),
            Self::Unheard(turn) => format!("{round} {turn} unheard"),
        }
    }

    /// To and fro: a bar that has come to an end does not move any more.
    fn receiver(self, round: i64) -> i64 {
        let (Self::Asked(turn, _) | Self::Unheard(turn)) = self;
        if (round + turn / 2) % 2 == 0 { ANCHOR.0 } else { CHALLENGER }
    }
}

fn len(gifts: &[Given]) -> i64 {
    i64::try_from(gifts.len()).unwrap()
}

/// One life of the router, with its gateway.
struct Life {
    running: Running,
    handle: Handle,
    ledger: Ledger,
    till: Till,
    redis: Redis,
    gateway: Gateway,
    room: RoomId,
    acked: File,
    heard: File,
    told: Told,
}

/// What viewers behind the gateway were told.
#[derive(Default)]
struct Told {
    newest_seq: i64,
    /// Pushes of gifts by their id, and the places of their gifts in the order in which they were first heard.
    pushes: BTreeSet<String>,
    places: Vec<i64>,
    /// The largest epoch of this life.
    epoch: u64,
    /// The newest bar of this life, as (the place of the newest gift in it, where it stands).
    bar: Option<(i64, i64)>,
}

impl Told {
    /// From the lines of lives before.
    fn read(path: &Path) -> Self {
        let mut told = Self::default();
        for line in fs::read_to_string(path).unwrap_or_default().lines() {
            // The last line may be half a line.
            let [seq, msg_id, places, "."] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            told.add(seq.parse().unwrap(), msg_id, &places.split(',').filter_map(|place| place.parse().ok()).collect::<Vec<i64>>());
        }
        told
    }

    fn add(&mut self, seq: i64, msg_id: &str, places: &[i64]) {
        self.newest_seq = self.newest_seq.max(seq);
        if !places.is_empty() && self.pushes.insert(msg_id.to_owned()) {
            self.places.extend(places);
        }
    }
}

impl Life {
    async fn begin(directory: &Path, database: &str, redis: &str, prefix: &str) -> Self {
        let config = LedgerConfig {
            url: database.to_owned(),
            call_timeout: Duration::from_secs(5),
            told_after: Duration::ZERO,
            ..LedgerConfig::default()
        };
        let ledger = Ledger::open(&config, directory, Sharing::Shared).await.unwrap();
        let config = RedisConfig {
            nodes: vec![redis.to_owned()],
            prefix: prefix.to_owned(),
            command_timeout: Duration::from_secs(20),
            ..RedisConfig::default()
        };
        let redis = Redis::start(config, &mut Registry::default()).await.unwrap();
        let state = redis.state();
        let now_ms = state.clock.now_ms();
        let room = match ledger.live_room_of(APP, ANCHOR).await.unwrap() {
            Some(room) => room,
            None => {
                let room = NewRoom { app: APP, anchor: ANCHOR, kind: RoomKind::Pk, name: String::new(), cover: String::new() };
                ledger.open_room(&room, now_ms).await.unwrap();
                let funds = Grant { app: APP, user: UserId(ALICE), coins: FUNDS, uuid: "funds".to_owned() };
                ledger.grant(&[funds], now_ms).await.unwrap();
                ledger.live_room_of(APP, ANCHOR).await.unwrap().unwrap()
            }
        };
        // The lease of the one that died has run out, as if time had passed.
        let (name, nobody) = (owner_of(room), "nobody%1%0");
        let lease = state.leases.acquire(&name, nobody, now_ms, now_ms + 1_000).await.unwrap();
        state.leases.release(&name, &lease.holder, lease.epoch).await.unwrap();

        let mut config = RouterConfig::default();
        config.gift.user_gifts_max = 1_000_000;
        config.pk.bar_every = Duration::ZERO;
        config.pk.grace = Duration::from_secs(60);
        let till = Till::start(&ledger, &state.clock, &mut Registry::default());
        let parts = RouterParts {
            config,
            state,
            records: Arc::new(ledger.clone()),
            money: Arc::new(ledger.clone()),
            till: Arc::new(till.clone()),
            people: Arc::new(Absent),
            registry: &mut Registry::default(),
        };
        let running = crate::start(parts).await.unwrap();
        let (ours, theirs) = pipe::pair(("g1", 1), ("router-1", 1));
        running.attach(theirs);
        let gateway = Gateway { link: ours, next_id: 0, heard: Vec::new() };
        let told = Told::read(&directory.join(HEARD));
        let file = |name: &str| OpenOptions::new().append(true).create(true).open(directory.join(name)).unwrap();
        // A line that a crash cut off is ended.
        let (mut acked, mut heard) = (file(ACKED), file(HEARD));
        for file in [&mut acked, &mut heard] {
            file.write_all(b"\n").unwrap();
        }
        Self { handle: running.handle(), running, ledger, till, redis, gateway, room, acked, heard, told }
    }

    /// What the lives before left behind is as it must be, once whoever had no answer has asked again.
    async fn recover(&mut self, round: i64) {
        let interest = Interest { room_id: self.room.0, interested: true, members: 2, last_seq: self.told.newest_seq };
        self.gateway.send(Kind::Interest(interest)).await;
        if round == 0 {
            for user in [ALICE, CHALLENGER] {
                self.enter(user).await;
            }
            self.handle.pk_online(None, self.room, UserId(CHALLENGER)).await.unwrap();
        } else {
            self.give(round - 1, Given::of_round()).await;
        }
        let count = round * len(&Given::of_round());
        self.listen("every gift, and the bar behind it", |told| {
            let is_all_told = told.places.len() >= usize::try_from(count).unwrap();
            is_all_told && told.bar.is_some_and(|(place, _)| place == count)
        })
        .await;

        // I1 and I2.
        let gifts = patiently(|| self.ledger.pk_gifts(self.room, 0, 100_000)).await;
        let places: Vec<i64> = gifts.iter().map(|gift| gift.gift_seq).collect();
        assert_eq!(places, (1..=count).collect::<Vec<_>>(), "the ledger's places");
        let there: BTreeSet<&str> = gifts.iter().map(|gift| gift.what.uuid.as_str()).collect();
        let all: BTreeSet<String> = (0..round).flat_map(|round| Given::of_round().into_iter().map(move |gift| gift.uuid(round))).collect();
        assert_eq!(there, all.iter().map(String::as_str).collect(), "the ledger's gifts");
        let acked = fs::read_to_string(PathBuf::from(std::env::var_os(DIRECTORY).unwrap()).join(ACKED)).unwrap();
        let lost: Vec<_> = acked.lines().filter(|uuid| !uuid.is_empty() && !there.contains(*uuid)).collect();
        assert_eq!(lost, [""; 0], "acknowledged and not in the ledger");
        // I3.
        assert_eq!(patiently(|| self.ledger.reconcile(0)).await.findings, []);
        let had: i64 = gifts.iter().map(|gift| gift.what.total().unwrap()).sum();
        let coins = patiently(|| self.ledger.balance(APP, UserId(ALICE))).await.coins;
        let anchor = patiently(|| self.ledger.balance(APP, ANCHOR)).await;
        let challenger = patiently(|| self.ledger.balance(APP, UserId(CHALLENGER))).await;
        assert_eq!((had, coins, anchor.beans + challenger.beans), (count * PRICE, FUNDS - count * PRICE, count * PRICE));
        // I4 and I5.
        assert_eq!(self.told.places, places, "what viewers were told, in order");
        let (state, now_ms) = (self.redis.state(), self.redis.state().clock.now_ms());
        let log = state.room_log.read(self.room, 0, ROOM_LOG_ENTRIES_MAX, now_ms).await.unwrap();
        let mut known = BTreeSet::new();
        let logged: Vec<i64> = log
            .entries
            .iter()
            .map(|entry| serde_json::from_slice::<Value>(&entry.body).unwrap())
            // What was in doubt stands there under two numbers, and one id.
            .filter(|body| !body["msgId"].is_string() || known.insert(body["msgId"].as_str().unwrap().to_owned()))
            .flat_map(|body| places_of(&body["data"]))
            .collect();
        assert_eq!(logged, places, "what the log has, in order");
        let value = gifts.iter().fold(50, |value, gift| value + if gift.what.receiver == ANCHOR { 1 } else { -1 });
        let stands = |bar: Option<PkBar>| bar.map(|bar| (bar.seq, i64::from(bar.value)));
        let expected = Some((count, value));
        assert_eq!((self.told.bar, stands(patiently(|| self.handle.pk(None, self.room)).await.bar)), (expected, expected));
        let deadline = tokio::time::Instant::now() + LONG;
        while stands(state.pk_bars.bar(self.room, state.clock.now_ms()).await.unwrap()) != expected {
            assert!(tokio::time::Instant::now() < deadline, "the shared state does not come to {expected:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Gives until the place is come to, which each turn comes by.
    async fn give_on(&mut self, round: i64) {
        let mut count = round * len(&Given::of_round());
        for turn in 0..TURNS {
            let gifts = Given::of_turn(turn);
            count += len(&gifts);
            self.give(round, gifts).await;
            let is_all = |told: &Told| told.places.last() == Some(&count) && told.bar.is_some_and(|(place, _)| place == count);
            self.listen("the gifts of a turn", is_all).await;
        }
    }

    /// Gives at once, and again until each is paid.
    async fn give(&mut self, round: i64, gifts: Vec<Given>) {
        let (mut asked, unheard): (Vec<Given>, Vec<Given>) = gifts.into_iter().partition(|gift| gift.is_asked());
        self.pay_unheard(round, &unheard).await;
        let deadline = tokio::time::Instant::now() + LONG;
        loop {
            let mut ids = Vec::new();
            for gift in &asked {
                let data = json!({"giftId": GIFT.0, "receiverId": gift.receiver(round), "type": 1, "uuid": gift.uuid(round)});
                ids.push((*gift, self.gateway.call(ALICE, gift_of(self.room, data)).await));
            }
            let answers = self.answers(round, &ids).await;
            asked.retain(|gift| !is_accepted(&answers[gift]));
            if asked.is_empty() {
                return;
            }
            // The room is opening, or a store is late.
            assert!(tokio::time::Instant::now() < deadline, "round {round}: {:?}", answers.values());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn pay_unheard(&mut self, round: i64, gifts: &[Given]) {
        let epoch = self.epoch().await;
        let gift = |gift: &Given| {
            let side = if gift.receiver(round) == ANCHOR.0 { PkSide::Anchor } else { PkSide::Challenger };
            NewGift {
                app: APP,
                sender: UserId(ALICE),
                uuid: gift.uuid(round),
                room: self.room,
                epoch,
                receiver: UserId(gift.receiver(round)),
                gift: GIFT,
                num: 1,
                price: PRICE,
                pk: Some(side),
                combo: String::new(),
            }
        };
        let new: Vec<NewGift> = gifts.iter().map(gift).collect();
        let paid = patiently(|| self.ledger.pay_gifts(&new, self.redis.state().clock.now_ms())).await;
        assert!(paid.iter().all(|paid| matches!(paid, GiftOutcome::Paid { .. } | GiftOutcome::Repeated(_))), "{paid:?}");
        for gift in gifts {
            self.acked(*gift, round);
        }
    }

    /// It was acknowledged, and whoever gave will not ask again.
    fn acked(&mut self, gift: Given, round: i64) {
        self.acked.write_all(format!("{}\n", gift.uuid(round)).as_bytes()).unwrap();
    }

    /// This life's, as it says with all that it pushes. It tells where the bar stands before anything else.
    async fn epoch(&mut self) -> u64 {
        self.listen("the bar", |told| told.epoch > 0).await;
        self.told.epoch
    }

    async fn enter(&mut self, user: i64) {
        let asked = self.gateway.call(user, join(self.room, None)).await;
        loop {
            if let Kind::Reply(Reply { id, result: Some(result) }) = self.next().await
                && id == asked
            {
                joined(result);
                return;
            }
        }
    }

    /// What became of gifts; those that are acknowledged are written down at once.
    async fn answers(&mut self, round: i64, ids: &[(Given, u64)]) -> HashMap<Given, reply::Result> {
        let mut answers = HashMap::new();
        while answers.len() < ids.len() {
            if let Kind::Reply(Reply { id: answered, result: Some(result) }) = self.next().await
                && let Some((gift, _)) = ids.iter().find(|(_, id)| *id == answered)
            {
                if is_accepted(&result) {
                    self.acked(*gift, round);
                }
                answers.insert(*gift, result);
            }
        }
        answers
    }

    async fn listen(&mut self, what: &str, is_enough: impl Fn(&Told) -> bool) {
        let deadline = tokio::time::Instant::now() + LONG;
        while !is_enough(&self.told) {
            let heard = tokio::time::timeout_at(deadline, self.next()).await;
            assert!(
                heard.is_ok(),
                "not heard: {what}; {} places, last {:?}, bar {:?}",
                self.told.places.len(),
                self.told.places.last(),
                self.told.bar
            );
        }
    }

    /// The next message of the router; what a gateway must keep of it is kept.
    async fn next(&mut self) -> Kind {
        let kind = self.gateway.link.receiver.recv().await.expect("the link is up");
        if let Kind::RollCall(RollCall { room_id, epoch, number }) = &kind {
            let origin = |user: i64| Origin { app_id: APP.0, user_id: user, device: WEB as u32, session: user.unsigned_abs() };
            let members = [ALICE, CHALLENGER].map(origin).to_vec();
            let seats = Seats { room_id: *room_id, epoch: *epoch, number: *number, members, parts: 1, last: true };
            self.gateway.send(Kind::Seats(seats)).await;
        }
        if let Kind::RoomPush(push) = &kind {
            self.hear(push);
        }
        kind
    }

    fn hear(&mut self, push: &RoomPush) {
        let (body, data) = (body(push), data(push));
        self.told.epoch = self.told.epoch.max(push.epoch);
        let places = if body.key.is_empty() { places_of(&Value::String(body.data.clone())) } else { Vec::new() };
        if body.biz_code == 5_558 && !body.key.is_empty() {
            let shown = (data["sendGiftSeqNum"].as_i64().unwrap(), data["pkNum"].as_i64().unwrap());
            // As a client shows it.
            if self.told.bar.is_none_or(|(place, _)| place <= shown.0) {
                self.told.bar = Some(shown);
            }
        }
        let written: Vec<String> = places.iter().map(ToString::to_string).collect();
        let line = format!("{} {} {} .\n", body.seq, or_dash(&body.msg_id), or_dash(&written.join(",")));
        self.heard.write_all(line.as_bytes()).unwrap();
        self.told.add(body.seq, &body.msg_id, &places);
    }

    /// Everything told has left the outbox, once the router has ended.
    async fn end(self) {
        self.running.drain().await;
        self.till.close().await;
        assert_eq!(self.ledger.untold(self.room, 10).await.unwrap(), [], "the outbox is empty");
        self.ledger.close().await;
    }
}

fn gift_of(room: RoomId, data: Value) -> Call {
    let msg_id = data["uuid"].as_str().unwrap_or_default().to_owned();
    Call::Biz(Biz { room_id: room.0, biz_code: 5_561, data: data.to_string(), msg_id })
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// Asks again while there is no answer: on a machine that does much else a call may be late.
async fn patiently<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(ask: impl Fn() -> F) -> T {
    let deadline = tokio::time::Instant::now() + LONG;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Places of the gifts in the data of a push.
fn places_of(data: &Value) -> Vec<i64> {
    let Some(data) = data.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok()) else { return Vec::new() };
    match data["giftSeqs"].as_array() {
        Some(seqs) => seqs.iter().filter_map(Value::as_i64).collect(),
        None => Vec::from_iter(data["giftSeq"].as_i64()),
    }
}
