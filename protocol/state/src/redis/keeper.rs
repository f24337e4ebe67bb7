//! The task beside the ports: whose clock counts, who has which slot, and what the watch tells.
//!
//! - The clock follows that of Redis, so that all nodes on it agree; see [`ClockRule`].
//! - The generation rises whenever Redis may have forgotten something: a connection was made anew (the server may have been started anew,
//!   or be another one), or the slots of a cluster have other servers.

use super::config::Address;
use super::connection::{Connection, SlotRange};
use super::trouble::Trouble;
use crate::clock::Clock;
use crate::watch::Watch;
use redis::{FromRedisValue, Value};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// How often Redis is asked for the time.
const ASK_TIME_EVERY: Duration = Duration::from_secs(1);
/// How often a cluster is asked who has which slot, when nothing hints at a change.
const ASK_SLOTS_EVERY: Duration = Duration::from_secs(5);
/// And how soon again after a hint, or after nobody could say.
const ASK_SLOTS_AGAIN: Duration = Duration::from_millis(100);
/// While a server is down, until another takes its slots over.
const ASK_SLOTS_WHILE_AWAY: Duration = Duration::from_millis(500);

pub(super) struct Keeper {
    pub(super) connection: Connection,
    /// Where a cluster is looked for; empty with a single server.
    pub(super) seeds: Vec<Address>,
    pub(super) clock: Clock,
    pub(super) watch: Watch,
    /// Told `true` once the clock has been set for the first time.
    pub(super) is_ready: watch::Sender<bool>,
}

impl Keeper {
    pub(super) async fn run(self) {
        let mut rule = ClockRule::default();
        let mut ask_time = interval(ASK_TIME_EVERY);
        ask_time.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ask_slots = interval(ASK_SLOTS_EVERY);
        ask_slots.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let is_cluster = !self.seeds.is_empty();
        // Every arm is cancel-safe: ticks and notifications are kept.
        loop {
            tokio::select! {
                _ = ask_time.tick() => self.follow_clock(&mut rule).await,
                _ = ask_slots.tick(), if is_cluster => {
                    if !self.follow_slots().await {
                        ask_slots.reset_after(ASK_SLOTS_AGAIN);
                    } else if self.connection.why_away().is_some() {
                        ask_slots.reset_after(ASK_SLOTS_WHILE_AWAY);
                    }
                }
                () = self.connection.stale(), if is_cluster => {
                    // Hints come in crowds.
                    sleep(ASK_SLOTS_AGAIN).await;
                    ask_slots.reset_immediately();
                }
                () = self.connection.changed() => {
                    if is_cluster && self.connection.why_away().is_some() {
                        ask_slots.reset_after(ASK_SLOTS_AGAIN);
                    }
                    if !*self.is_ready.borrow() {
                        self.follow_clock(&mut rule).await;
                    }
                }
            }
            self.tell();
        }
    }

    fn tell(&self) {
        let open = self.connection.primaries().iter().filter(|server| server.is_breaker_open()).count();
        self.connection.metrics().breaker_open.set(i64::try_from(open).unwrap_or(i64::MAX));
        self.watch.set_away(self.connection.why_away());
    }

    /// Asks the first server that is up: on every node the same, unless they see different servers.
    async fn follow_clock(&self, rule: &mut ClockRule) {
        let Some(server) = self.connection.primaries().into_iter().find(|server| server.is_up()) else { return };
        let asked = Instant::now();
        let Ok(answer) = self.connection.ask(&server, redis::cmd("TIME")).await else { return };
        let Ok((seconds, micros)) = <(u64, u64)>::from_redis_value(answer) else { return };
        let round_trip_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        let there_ms = seconds.saturating_mul(1000).saturating_add(micros / 1000).saturating_add(round_trip_ms / 2);
        let here_ms = self.clock.now_ms();
        if rule.is_to_be_set(here_ms, there_ms) {
            tracing::info!(here_ms, there_ms, server = %server.address(), "the clock was set by that of Redis");
            self.clock.set(there_ms);
            self.connection.metrics().clock_steps.inc();
        }
        self.is_ready.send_replace(true);
    }

    /// Asks a cluster who has which slot. `false` when nobody could say.
    async fn follow_slots(&self) -> bool {
        let mut why = String::from("no server of the cluster can be reached");
        for server in self.connection.primaries() {
            if !server.is_up() {
                continue;
            }
            match self.connection.ask(&server, slots_command()).await {
                Ok(answer) => return self.use_slots(&answer, server.address()),
                Err(trouble) => why = trouble.to_string(),
            }
        }
        for seed in &self.seeds {
            match self.ask_seed(seed).await {
                Ok(answer) => return self.use_slots(&answer, seed),
                Err(trouble) => why = trouble.to_string(),
            }
        }
        self.connection.map_unknown(&why);
        false
    }

    /// A short visit: who has slots is connected to for good afterwards.
    async fn ask_seed(&self, seed: &Address) -> Result<Value, Trouble> {
        let down = |error: &dyn std::fmt::Display| Trouble::Down(format!("{seed}: {error}").into());
        let mut connection = self.connection.dialer().dial(seed).await.map_err(|error| down(&super::server::with_causes(&error)))?;
        let command = slots_command();
        let asked = command.query_async::<Value>(&mut connection);
        timeout(ASK_TIME_EVERY, asked).await.map_err(|error| down(&error))?.map_err(|error| down(&error))
    }

    fn use_slots(&self, answer: &Value, asked: &Address) -> bool {
        let Some(ranges) = slot_ranges(answer, asked) else {
            self.connection.map_unknown(&format!("{asked}: does not say who has which slot"));
            return false;
        };
        let is_first = self.connection.primaries().is_empty();
        if self.connection.use_cluster(&ranges) && !is_first {
            tracing::info!("the servers of the cluster have changed");
            self.watch.may_have_forgotten();
        }
        !ranges.is_empty()
    }
}

fn slots_command() -> redis::Cmd {
    let mut cmd = redis::cmd("CLUSTER");
    cmd.arg("SLOTS");
    cmd
}

/// Reads the answer to `CLUSTER SLOTS`: `[first, last, [host, port, ...], replicas...]`. An empty host is that of who was asked.
fn slot_ranges(answer: &Value, asked: &Address) -> Option<Vec<SlotRange>> {
    let Value::Array(rows) = answer else { return None };
    let mut ranges = Vec::with_capacity(rows.len());
    for row in rows {
        let Value::Array(row) = row else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = row.as_slice() else { return None };
        let [host, Value::Int(port), ..] = primary.as_slice() else { return None };
        let host = if let Value::BulkString(host) = host
            && !host.is_empty()
        {
            std::str::from_utf8(host).ok()?.to_owned()
        } else {
            asked.host.clone()
        };
        let primary = Address { host, port: u16::try_from(*port).ok()? };
        ranges.push(SlotRange { first: u16::try_from(*first).ok()?, last: u16::try_from(*last).ok()?, primary });
    }
    ranges.sort_by_key(|range| range.first);
    Some(ranges)
}

/// When the clock is set by that of Redis.
///
/// The first answer sets it, whatever it says. Later ones leave small differences alone: they are the network's as often as the
/// clocks', and no life kept in Redis is so short that they would matter. A large one must be seen several times in a row, so
/// that one answer that was held up somewhere moves nothing.
#[derive(Debug, Default)]
pub(super) struct ClockRule {
    has_been_set: bool,
    seen: u8,
}

/// What is small.
const LEFT_ALONE_MS: u64 = 500;
/// How often a large difference must be seen.
const SEEN_BEFORE_SET: u8 = 3;

impl ClockRule {
    pub(super) fn is_to_be_set(&mut self, here_ms: u64, there_ms: u64) -> bool {
        if !self.has_been_set {
            self.has_been_set = true;
            return true;
        }
        if here_ms.abs_diff(there_ms) <= LEFT_ALONE_MS {
            self.seen = 0;
            return false;
        }
        self.seen += 1;
        if self.seen < SEEN_BEFORE_SET {
            return false;
        }
        self.seen = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{ClockRule, SlotRange, slot_ranges};
    use crate::redis::config::Address;
    use redis::Value;

    #[test]
    fn the_first_answer_sets_the_clock_and_later_ones_do_when_a_large_difference_lasts() {
        let mut rule = ClockRule::default();
        assert!(rule.is_to_be_set(1000, 1001));
        assert!(!rule.is_to_be_set(10_000, 10_500), "small");
        assert!(![rule.is_to_be_set(10_000, 20_000), rule.is_to_be_set(10_000, 20_000)].contains(&true));
        assert!(!rule.is_to_be_set(10_000, 10_001), "it did not last");
        assert!(![rule.is_to_be_set(20_000, 10_000), rule.is_to_be_set(20_000, 10_000)].contains(&true));
        assert!(rule.is_to_be_set(20_000, 10_000), "the third in a row");
        assert!(!rule.is_to_be_set(20_000, 10_000), "and counted anew");
    }

    #[test]
    fn the_slots_are_read_and_an_unknown_host_is_the_one_asked() {
        let asked = Address { host: "seed".to_owned(), port: 1 };
        let server =
            |host: &str, port| Value::Array(vec![Value::BulkString(host.into()), Value::Int(port), Value::BulkString("id".into())]);
        let row = |first, last, primary| Value::Array(vec![Value::Int(first), Value::Int(last), primary, server("replica", 9)]);
        let answer = Value::Array(vec![row(5461, 16383, server("", 7002)), row(0, 5460, server("10.0.0.1", 7001))]);
        let range = |first, last, host: &str, port| SlotRange { first, last, primary: Address { host: host.to_owned(), port } };
        assert_eq!(slot_ranges(&answer, &asked), Some(vec![range(0, 5460, "10.0.0.1", 7001), range(5461, 16383, "seed", 7002)]));
        for odd in [Value::Nil, Value::Array(vec![Value::Int(1)]), Value::Array(vec![row(0, 70_000, server("a", 1))])] {
            assert_eq!(slot_ranges(&odd, &asked), None, "{odd:?}");
        }
    }
}
