//! The task beside the ports: whose clock counts, who has which slot, and what the watch tells.
//!
//! - The clock follows the time of all processes on this Redis; see [`super::pulse`].
//! - The generation rises whenever Redis may have forgotten something: a connection was made anew (the server may have been started anew,
//!   or be another one), the slots of a cluster have other servers, all data was taken away, or a clock jumped.
//! - Whether it has lost all is told by the next pulse: the data is born as another then.
//! - A Redis that refuses to write is away, however well it reads.

use super::config::Address;
use super::connection::{Connection, SlotRange};
use super::pulse::{self, PULSE_EVERY, PULSE_IN_DOUBT, Pulse, Reading};
use super::server::with_causes;
use super::trouble::Trouble;
use crate::clock::Clock;
use crate::port::Result as StateResult;
use crate::types::StateError;
use crate::watch::Watch;
use redis::{Pipeline, Value};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// How often a cluster is asked who has which slot, when nothing hints at a change.
const ASK_SLOTS_EVERY: Duration = Duration::from_secs(5);
/// And how soon again after a hint, or after nobody could say.
const ASK_SLOTS_AGAIN: Duration = Duration::from_millis(100);
/// While a server is down, until another takes its slots over.
const ASK_SLOTS_WHILE_AWAY: Duration = Duration::from_millis(500);
/// A seed that has not said it by then is passed over.
const SEED_WAIT: Duration = Duration::from_secs(1);

pub(super) struct Keeper {
    /// Whose clock it is.
    pub(super) node: String,
    pub(super) connection: Connection,
    /// Where a cluster is looked for; empty with a single server.
    pub(super) seeds: Vec<Address>,
    pub(super) clock: Clock,
    pub(super) watch: Watch,
    /// Why a cluster as a whole cannot be used.
    pub(super) cluster_trouble: Option<String>,
    /// Why writes are refused.
    pub(super) write_trouble: Option<String>,
    /// Told `true` once the clock has been set, and all servers could be reached.
    pub(super) is_ready: watch::Sender<bool>,
}

impl Keeper {
    pub(super) async fn run(mut self) {
        let mut pulse = Pulse::new(&self.node);
        // At most one; beside the rest, for the server of its key may hang while others answer.
        let mut reading: JoinSet<(u64, StateResult<Reading>)> = JoinSet::new();
        let mut next_pulse = interval(PULSE_EVERY);
        next_pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ask_slots = interval(ASK_SLOTS_EVERY);
        ask_slots.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let is_cluster = !self.seeds.is_empty();
        // Every arm is cancel-safe: ticks, notifications and what tasks have to say are kept.
        loop {
            tokio::select! {
                _ = next_pulse.tick() => self.begin_reading(&pulse, &mut reading),
                Some(read) = reading.join_next() => next_pulse.reset_after(match read {
                    Ok((generation, Ok(reading))) => self.on_reading(&mut pulse, &reading, generation),
                    Ok((_, Err(error))) => self.on_unread(&error),
                    // It was stopped, and so is this.
                    Err(_) => PULSE_EVERY,
                }),
                _ = ask_slots.tick(), if is_cluster => {
                    if !self.follow_slots().await {
                        ask_slots.reset_after(ASK_SLOTS_AGAIN);
                    } else if self.why_away().is_some() {
                        ask_slots.reset_after(ASK_SLOTS_WHILE_AWAY);
                    }
                }
                () = self.connection.stale(), if is_cluster => {
                    // Hints come in crowds.
                    sleep(ASK_SLOTS_AGAIN).await;
                    ask_slots.reset_immediately();
                }
                () = self.connection.changed() => {
                    if is_cluster && self.why_away().is_some() {
                        ask_slots.reset_after(ASK_SLOTS_AGAIN);
                    }
                    // The first connection, or perhaps another server.
                    self.begin_reading(&pulse, &mut reading);
                }
            }
            self.tell(&pulse);
        }
    }

    fn tell(&self, pulse: &Pulse) {
        let open = self.connection.primaries().iter().filter(|server| server.is_breaker_open()).count();
        self.connection.metrics().breaker_open.set(i64::try_from(open).unwrap_or(i64::MAX));
        let unread = || (!pulse.has_been_read()).then(|| "the time of Redis is not known yet".to_owned());
        let why = self.why_away().or_else(unread);
        let is_well = why.is_none();
        self.watch.set_away(why);
        if is_well {
            self.is_ready.send_replace(true);
        }
    }

    fn why_away(&self) -> Option<String> {
        self.connection.why_away().or_else(|| self.cluster_trouble.clone()).or_else(|| self.write_trouble.clone())
    }

    /// Beside the reading stands the generation that it was begun in.
    fn begin_reading(&self, pulse: &Pulse, reading: &mut JoinSet<(u64, StateResult<Reading>)>) {
        if reading.is_empty() {
            let generation = self.watch.generation();
            let (connection, clock) = (self.connection.clone(), self.clock.clone());
            let asked_ms = clock.now_ms();
            let command = pulse.command(&connection, asked_ms);
            reading.spawn(async move { (generation, pulse::read(&connection, command, asked_ms).await) });
        }
    }

    /// Gives when to pulse again.
    fn on_reading(&mut self, pulse: &mut Pulse, reading: &Reading, generation: u64) -> Duration {
        if self.write_trouble.take().is_some() {
            tracing::info!("Redis takes writes again");
        }
        self.connection.note_written(&self.connection.keys().pulse());
        let verdict = pulse.on_reading(reading, Instant::now());
        let metrics = self.connection.metrics();
        self.clock.shift(verdict.shift_ms);
        if verdict.is_step {
            tracing::info!(by_ms = verdict.shift_ms, "the clock was set by that of Redis");
            metrics.clock_steps.inc();
        }
        if verdict.is_moved {
            tracing::warn!(offset_ms = reading.offset_ms, "the clock of Redis has jumped; the nodes' time goes on as before");
            metrics.clock_moves.inc();
        }
        metrics.clock_offset.set(reading.offset_ms as f64 / 1000.0);
        if verdict.may_have_forgotten {
            self.watch.may_have_forgotten();
        }
        if !verdict.is_put_off {
            self.watch.looked_into(generation, verdict.is_reborn);
        }
        pulse.next()
    }

    fn on_unread(&mut self, error: &StateError) -> Duration {
        if let StateError::Away { cause, .. } = error
            && let Some(trouble @ (Trouble::Refused(..) | Trouble::Answer(_))) = cause.downcast_ref()
        {
            let why = format!("Redis does not take writes: {}", with_causes(trouble));
            if self.write_trouble.is_none() {
                tracing::warn!(why, "Redis is of no use");
            }
            self.write_trouble = Some(why);
        }
        PULSE_IN_DOUBT
    }

    /// Asks a cluster who has which slot. `false` when nobody could say. A server that believes the cluster to be down is not believed:
    /// it may have been cut off from the others, and they may have given its slots away.
    async fn follow_slots(&mut self) -> bool {
        let mut why = String::from("no server of the cluster can be reached");
        for server in self.connection.primaries().into_iter().filter(|server| server.is_up()) {
            match self.connection.ask(&server, &slots_pipeline()).await {
                Ok(answers) => match slot_ranges(&answers, server.address()) {
                    Ok(ranges) => return self.use_slots(&ranges),
                    Err(problem) => why = format!("{}: {problem}", server.address()),
                },
                Err(trouble) => why = trouble.to_string(),
            }
        }
        for seed in &self.seeds {
            match self.ask_seed(seed).await {
                Ok(ranges) => return self.use_slots(&ranges),
                Err(problem) => why = format!("{seed}: {problem}"),
            }
        }
        self.connection.map_unknown(&why);
        self.cluster_trouble = Some(why);
        false
    }

    /// A short visit: who has slots is connected to for good afterwards.
    async fn ask_seed(&self, seed: &Address) -> Result<Vec<SlotRange>, String> {
        let mut connection = self.connection.dialer().dial(seed).await.map_err(|error| with_causes(&error))?;
        let pipeline = slots_pipeline();
        let asked = pipeline.query_async::<Vec<Value>>(&mut connection);
        let answers = timeout(SEED_WAIT, asked).await.map_err(|_| "no answer")?.map_err(|error| error.to_string())?;
        slot_ranges(&answers, seed).map_err(str::to_owned)
    }

    fn use_slots(&mut self, ranges: &[SlotRange]) -> bool {
        self.cluster_trouble = None;
        let is_first = self.connection.primaries().is_empty();
        if self.connection.use_cluster(ranges) && !is_first {
            tracing::info!("the servers of the cluster have changed");
            self.watch.may_have_forgotten();
        }
        true
    }
}

fn slots_pipeline() -> Pipeline {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
    pipeline
}

/// Reads the answers to `CLUSTER INFO` and `CLUSTER SLOTS`. A row of the latter is `[first, last, [host, port, ...], replicas...]`; an
/// empty host is that of who was asked.
fn slot_ranges(answers: &[Value], asked: &Address) -> Result<Vec<SlotRange>, &'static str> {
    const ODD: &str = "does not say who has which slot";
    let [Value::BulkString(info), Value::Array(rows)] = answers else { return Err(ODD) };
    if !info.split(|byte| *byte == b'\n').any(|line| line.trim_ascii() == b"cluster_state:ok") {
        return Err("the cluster is not whole");
    }
    let mut ranges = rows.iter().map(|row| slot_range(row, asked)).collect::<Option<Vec<_>>>().ok_or(ODD)?;
    ranges.sort_by_key(|range| range.first);
    Ok(ranges)
}

fn slot_range(row: &Value, asked: &Address) -> Option<SlotRange> {
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
    Some(SlotRange { first: u16::try_from(*first).ok()?, last: u16::try_from(*last).ok()?, primary })
}

#[cfg(test)]
mod tests {
    use super::{SlotRange, slot_ranges};
    use crate::redis::config::Address;
    use redis::Value;

    #[test]
    fn the_slots_are_read_and_an_unknown_host_is_the_one_asked() {
        let asked = Address { host: "seed".to_owned(), port: 1 };
        let text = |text: &str| Value::BulkString(text.into());
        let server = |host: &str, port| Value::Array(vec![text(host), Value::Int(port), text("id")]);
        let row = |first, last, primary| Value::Array(vec![Value::Int(first), Value::Int(last), primary, server("replica", 9)]);
        let whole = text("cluster_enabled:1\r\ncluster_state:ok\r\ncluster_slots_assigned:16384\r\n");
        let rows = Value::Array(vec![row(5461, 16383, server("", 7002)), row(0, 5460, server("10.0.0.1", 7001))]);
        let range = |first, last, host: &str, port| SlotRange { first, last, primary: Address { host: host.to_owned(), port } };
        let expected = vec![range(0, 5460, "10.0.0.1", 7001), range(5461, 16383, "seed", 7002)];
        assert_eq!(slot_ranges(&[whole.clone(), rows.clone()], &asked), Ok(expected));
        assert!(slot_ranges(&[text("cluster_state:fail\r\n"), rows], &asked).is_err(), "cut off");
        for odd in [Value::Nil, Value::Array(vec![Value::Int(1)]), Value::Array(vec![row(0, 70_000, server("a", 1))])] {
            assert!(slot_ranges(&[whole.clone(), odd.clone()], &asked).is_err(), "{odd:?}");
        }
    }
}
