//! What stands in Redis of leases: hashes for many names, which are not known for ever, and are mended where somebody spoilt them.
#![expect(clippy::unwrap_used, reason = "a test that fails here says so")]

use billfish_state::port::{LEASE_SHARDS, lease_shard};
use billfish_state::redis::{Redis, RedisConfig};
use billfish_state::{Lease, LeaseAsk, State};
use billfish_testing::{RedisOptions, RedisServer};
use prometheus_client::registry::Registry;
use std::time::Duration;

const NOW: u64 = 1_800_000_000_000;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

#[tokio::test]
async fn a_name_is_known_for_six_days_after_its_lease_and_not_for_ever() {
    let Some(house) = House::start().await else { return };
    let [kept, gone, back, ..] = &house.names[..] else { unreachable!() };
    let mut epoch = house.take(kept, "a", NOW).await.epoch;
    let before = house.take(gone, "a", NOW).await.epoch;
    house.take(back, "a", NOW).await;
    let mut known_days = 0;
    for day in 1..=30 {
        let now = NOW + day * DAY;
        // A name that is asked for goes on, whichever of the hashes it is in.
        let lease = house.take(kept, "a", now).await;
        assert_eq!((lease.holder.as_str(), lease.epoch), ("a", epoch + 1), "day {day}");
        epoch = lease.epoch;
        if house.is_known(gone) {
            known_days = day;
        }
        // In the second hash, and then where it was moved up to.
        for (number, asked_on) in [10, 16, 22].into_iter().enumerate() {
            if day == asked_on {
                assert_eq!(house.take(back, "b", now).await.epoch, before + 1 + number as u64, "day {day}");
            }
        }
        for key in &house.keys {
            let left: i64 = house.command(&["PTTL", key]).parse().unwrap();
            assert!(left == -2 || (6 * DAY.cast_signed()..9 * DAY.cast_signed()).contains(&left), "{key} ends in {left} ms");
        }
    }
    assert!((6..=13).contains(&known_days), "{known_days}");
    // What is not known begins at the hours since 2025, which have gone on.
    assert_eq!(house.take(gone, "b", NOW + 30 * DAY).await.epoch, before + 30 * 24);
}

#[tokio::test]
async fn a_lease_that_stands_does_so_when_the_hash_it_is_in_becomes_the_second() {
    let Some(house) = House::start().await else { return };
    let [other, held, given, freed] = &house.names[..] else { unreachable!() };
    house.take(other, "a", NOW).await;
    let turn = NOW + MINUTE + 6 * DAY;
    let stood = house.take(held, "a", turn - 1).await;
    let was_given = house.take(given, "a", turn - 1).await;
    let was_freed = house.take(freed, "a", turn - 1).await;
    assert_eq!(house.command(&["EXISTS", &house.keys[1]]), "0");
    house.take(other, "a", turn).await;
    assert_eq!(house.command(&["HEXISTS", &house.keys[1], held]), "1");
    assert_eq!(house.take(held, "b", turn).await, stood, "who has it has it");
    let renewed = house.take(held, "a", turn).await;
    assert_eq!((renewed.epoch, renewed.until_ms), (stood.epoch, turn + MINUTE));
    assert_eq!(house.take(held, "b", turn + 1).await, renewed);
    house.state.leases.release(freed, "a", was_freed.epoch).await.unwrap();
    assert_eq!(house.take(freed, "b", turn).await.epoch, was_freed.epoch + 1, "given back where it was");
    house.state.leases.release(given, "b", was_given.epoch).await.unwrap();
    assert_eq!(house.take(given, "b", turn).await, was_given, "only by who has it");
}

#[tokio::test]
async fn a_clock_that_was_years_ahead_keeps_names_neither_for_years_nor_less_than_their_days() {
    let Some(house) = House::start().await else { return };
    let [one, two, ..] = &house.names[..] else { unreachable!() };
    house.take(one, "a", NOW + 1000 * DAY).await;
    let before = house.take(two, "a", NOW).await;
    for day in 1..=6 {
        house.take(one, "a", NOW + day * DAY).await;
        assert!(house.is_known(two), "day {day}");
    }
    assert_eq!(house.take(two, "b", NOW + 6 * DAY).await.epoch, before.epoch + 1);
    for day in 7..=30 {
        house.take(one, "a", NOW + day * DAY).await;
    }
    assert!(!house.is_known(two));
}

#[tokio::test]
async fn what_is_spoilt_is_mended_and_the_names_beside_it_go_on() {
    let Some(house) = House::start().await else { return };
    let [spoilt, good, ..] = &house.names[..] else { unreachable!() };
    let standing = house.take(good, "a", NOW).await;
    let first = house.take(spoilt, "a", NOW).await;
    for garbage in ["", "x", "1%2", "%%a", "1%x%a", "12345678901234567890%1%a", "-1%2%a"] {
        house.command(&["HSET", &house.keys[0], spoilt, garbage]);
        let mended = house.take(spoilt, "b", NOW).await;
        assert_eq!((mended.holder.as_str(), mended.epoch), ("b", first.epoch), "{garbage:?}: as a name that is not known");
        house.state.leases.release(spoilt, "b", mended.epoch).await.unwrap();
    }
    for garbage in ["", "x", "%%", "1%2", "9999999999999999%9999999999999999%9999999999999999"] {
        house.command(&["HSET", &house.keys[0], "%", garbage]);
        assert_eq!(house.take(good, "b", NOW).await, standing, "{garbage:?}");
        assert_eq!(house.take(good, "a", NOW).await, standing, "{garbage:?}");
        assert_ne!(house.command(&["HGET", &house.keys[0], "%"]), garbage);
    }
    // A name that is not known is looked for in both.
    for (key, name) in house.keys.iter().zip(&house.names[2..]) {
        house.command(&["SET", key, "x"]);
        assert_eq!(house.take(name, "b", NOW).await.holder, "b");
    }
}

#[tokio::test]
async fn more_leases_than_one_script_takes_are_asked_for_in_order() {
    let Some(house) = House::start().await else { return };
    let ask = |name: &str, holder: &str| LeaseAsk { name: name.to_owned(), holder: holder.to_owned() };
    let rooms: Vec<String> = (0..5_000).map(|room| format!("room:{room}:owner")).collect();
    // Each name twice, far apart: in different scripts.
    let asks: Vec<_> = rooms.iter().map(|name| ask(name, "a")).chain(rooms.iter().map(|name| ask(name, "b"))).collect();
    let leases: Vec<Lease> =
        house.state.leases.acquire_many(&asks, NOW, NOW + MINUTE).await.unwrap().into_iter().map(Option::unwrap).collect();
    assert!(leases.iter().all(|lease| lease.holder == "a" && lease.until_ms == NOW + MINUTE));
    let names = |shard: u64| house.command(&["HLEN", &format!("im:leases:{{{shard}}}")]).parse::<usize>().unwrap() - 1;
    assert_eq!((0..LEASE_SHARDS).map(names).sum::<usize>(), rooms.len());
}

/// The adapter on a private server, and some names of one shard.
struct House {
    server: RedisServer,
    state: State,
    /// Kept: the adapter ends with it.
    _redis: Redis,
    names: Vec<String>,
    /// The shard, and the one before it.
    keys: [String; 2],
}

impl House {
    async fn start() -> Option<Self> {
        let server = RedisServer::start_with(RedisOptions { appendonly: false, ..RedisOptions::default() })?;
        let patience = Duration::from_secs(20);
        let nodes = vec![server.address().to_string()];
        let config = RedisConfig { nodes, command_timeout: patience, connect_timeout: patience, ..RedisConfig::default() };
        let redis = Redis::start(config, &mut Registry::default()).await.unwrap();
        let names = (0..).map(|room| format!("room:{room}:owner")).filter(|name| lease_shard(name) == 1).take(4).collect();
        let keys = ["im:leases:{1}".to_owned(), "im:leases:{1}:before".to_owned()];
        Some(Self { state: redis.state(), server, _redis: redis, names, keys })
    }

    async fn take(&self, name: &str, holder: &str, now_ms: u64) -> Lease {
        self.state.leases.acquire(name, holder, now_ms, now_ms + MINUTE).await.unwrap()
    }

    fn is_known(&self, name: &str) -> bool {
        self.keys.iter().any(|key| self.command(&["HEXISTS", key, name]) == "1")
    }

    fn command(&self, words: &[&str]) -> String {
        self.server.command(words).unwrap().trim().to_owned()
    }
}
