//! How the ports reach Redis: which server has a key, and one round trip to each server for a batch.
//!
//! - A call ends within the time-out for each pipeline it takes, whatever the servers do.
//! - What a server refuses because it has not the key (`MOVED`, `ASK`), not now (`TRYAGAIN`) or not the script was not carried out:
//!   it is sent again, a few times. What may have been carried out is sent again once, and only where that is harmless.
//! - In flight is bounded: who comes when it is used up is refused at once, and waits for nobody.
//!
//! Why not the cluster client of the `redis` crate: it repeats a whole pipeline when one command in it was refused, also what may not be
//! repeated, and sends it all to where that one belongs.

use super::breaker::BreakerLimits;
use super::command::{Command, Script};
use super::config::Address;
use super::dial::Dialer;
use super::keys::Keys;
use super::metrics::Metrics;
use super::refusal::is_of_another_type;
use super::server::{Change, Server, pipeline};
use super::slots::{SLOTS, slot_of};
use super::trouble::Trouble;
use crate::port::Result;
use futures_util::future::join_all;
use redis::{FromRedisValue, Pipeline, ServerError, ServerErrorKind, Value};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};

/// Commands in one pipeline: some milliseconds of a server's time. More are sent in several, one after another.
const PIPELINE_COMMANDS_MAX: usize = 512;
/// How often one command is sent at most: a slot that moves, a script that is missing, and one more.
const ROUNDS_MAX: usize = 5;
/// Keys in one command: a tenth of a millisecond of a server's time.
const KEYS_PER_COMMAND: usize = 100;
/// Before a slot that is half moved is asked again.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Servers known at once; a cluster has at most 1,000.
const SERVERS_MAX: usize = 1000;

/// Clones share everything.
#[derive(Clone)]
pub(super) struct Connection(Arc<Inner>);

struct Inner {
    keys: Keys,
    metrics: Metrics,
    limits: Limits,
    in_flight: Arc<Semaphore>,
    map: watch::Sender<Map>,
    servers: Mutex<Servers>,
    dialer: Arc<Dialer>,
    /// Something about a server has changed; the keeper looks.
    changed: Arc<Notify>,
    /// The map is old; the keeper fetches it.
    stale: Notify,
    on_change: Box<dyn Fn(Change) + Send + Sync>,
}

/// See [`super::RedisConfig`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) command_timeout: Duration,
    pub(super) in_flight_max: usize,
    pub(super) breaker: BreakerLimits,
}

/// Which server has which slot.
#[derive(Clone, Debug)]
enum Map {
    /// Not known: why.
    Unknown(Arc<str>),
    One(Arc<Server>),
    Cluster(Arc<ClusterMap>),
}

#[derive(Debug)]
struct ClusterMap {
    /// By slot, the place in `primaries`.
    slots: Vec<Option<u16>>,
    primaries: Vec<Arc<Server>>,
}

/// Slots `first..=last` belong to a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotRange {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) primary: Address,
}

struct Servers {
    known: BTreeMap<String, (Arc<Server>, AbortHandle)>,
    tasks: JoinSet<()>,
}

/// What keys are asked for with: it decides what is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Likely {
    /// Most of them are there.
    There,
    /// Hardly one is.
    Missing,
}

/// What became of a command that was sent.
enum Fate {
    Answered(Value),
    /// It was not carried out; to be sent again.
    Again(ServerError),
}

impl Connection {
    pub(super) fn new(
        keys: Keys,
        metrics: Metrics,
        limits: Limits,
        dialer: Arc<Dialer>,
        on_change: impl Fn(Change) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            keys,
            metrics,
            limits,
            in_flight: Arc::new(Semaphore::new(limits.in_flight_max)),
            map: watch::Sender::new(Map::Unknown("no server has answered yet".into())),
            servers: Mutex::new(Servers { known: BTreeMap::new(), tasks: JoinSet::new() }),
            dialer,
            changed: Arc::new(Notify::new()),
            stale: Notify::new(),
            on_change: Box::new(on_change),
        }))
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// Runs one command. `what` says what for, in an error.
    pub(super) async fn run<T: FromRedisValue>(&self, what: &'static str, command: Command) -> Result<T> {
        let mut answers = self.run_many(what, vec![command]).await?;
        Ok(answers.pop().expect("one answer for one command"))
    }

    /// Runs commands of any keys, those of one server in one round trip and all servers at once. Commands of one key keep their
    /// order. Answers in the order asked; if one fails, the call has failed, and the others may have been carried out.
    pub(super) async fn run_many<T: FromRedisValue>(&self, what: &'static str, commands: Vec<Command>) -> Result<Vec<T>> {
        let counted = |trouble: Trouble| {
            self.0.metrics.on_failure(trouble.kind());
            tracing::debug!(what, %trouble, "Redis did not do it");
            trouble.into_error(what)
        };
        let mut answers = Vec::with_capacity(commands.len());
        for piece in commands.chunks(PIPELINE_COMMANDS_MAX.min(self.0.limits.in_flight_max)) {
            for answer in self.run_piece(piece).await.map_err(counted)? {
                answers.push(T::from_redis_value(answer).map_err(Trouble::Answer).map_err(counted)?);
            }
        }
        Ok(answers)
    }

    /// Calls a script on each of the items, in the order given: `key` says which key one is about, and `argue` adds what else the script is told
    /// of it, behind the number of its key. The script answers with a list. A single server is sent one call for many keys; in a cluster
    /// hardly two of them share a slot, and each is a call of its own.
    pub(super) async fn run_by_key<I, T: FromRedisValue>(
        &self,
        what: &'static str,
        script: &'static Script,
        items: &[I],
        key: impl Fn(&I) -> String,
        argue: impl Fn(Command, &I) -> Command,
    ) -> Result<Vec<T>> {
        let at_once = if self.is_one_server() { KEYS_PER_COMMAND } else { 1 };
        let command = |items: &[I]| {
            let mut keys: Vec<String> = Vec::with_capacity(items.len());
            let mut numbers: HashMap<String, usize> = HashMap::with_capacity(items.len());
            let mut number_of = |item: &I| {
                let key = key(item);
                *numbers.entry(key).or_insert_with_key(|key| {
                    keys.push(key.clone());
                    keys.len()
                })
            };
            let places: Vec<usize> = items.iter().map(&mut number_of).collect();
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let call = Command::script_on_one_server(script, &keys);
            items.iter().zip(places).fold(call, |call, (item, place)| argue(call.arg(place), item))
        };
        let answers: Vec<Vec<T>> = self.run_many(what, items.chunks(at_once).map(command).collect()).await?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// What stands at each of the keys, all of them strings. A single server is asked for many at once. A key of another type fails the
    /// call, as by `GET`.
    pub(super) async fn values<T: FromRedisValue>(&self, what: &'static str, keys: Vec<String>, likely: Likely) -> Result<Vec<Option<T>>> {
        let get = |key: &String| Command::new("GET", key);
        if keys.len() < 2 || !self.is_one_server() {
            return self.run_many(what, keys.iter().map(get).collect()).await;
        }
        let mut values: Vec<Option<T>> = Vec::with_capacity(keys.len());
        for keys in keys.chunks(KEYS_PER_COMMAND) {
            if likely == Likely::Missing && self.count(what, keys).await? == 0 {
                values.extend(keys.iter().map(|_| None));
                continue;
            }
            let mut found: Vec<Option<T>> = self.run(what, Command::on_many("MGET", keys)).await?;
            let is_missing = |index: &usize| found[*index].is_none();
            let missing: Vec<usize> = (0..keys.len()).filter(is_missing).collect();
            let names: Vec<String> = missing.iter().map(|index| keys[*index].clone()).collect();
            // To `MGET` a key of another type is one that is not there: what it is has to be asked for alone.
            if !names.is_empty() && self.count(what, &names).await? > 0 {
                let alone: Vec<Option<T>> = self.run_many(what, names.iter().map(get).collect()).await?;
                missing.into_iter().zip(alone).for_each(|(index, value)| found[index] = value);
            }
            values.extend(found);
        }
        Ok(values)
    }

    /// Whether each of the keys is there, whatever it holds. Hardly one is.
    pub(super) async fn exist(&self, what: &'static str, keys: Vec<String>) -> Result<Vec<bool>> {
        if keys.len() > 1 && self.is_one_server() && self.count(what, &keys).await? == 0 {
            return Ok(keys.iter().map(|_| false).collect());
        }
        self.run_many(what, keys.iter().map(|key| Command::new("EXISTS", key)).collect()).await
    }

    /// How many of the keys are there, whatever they hold; for a single server.
    pub(super) async fn count(&self, what: &'static str, keys: &[String]) -> Result<u64> {
        self.run(what, Command::on_many("EXISTS", keys)).await
    }

    /// Whether one command may be about any keys.
    pub(super) fn is_one_server(&self) -> bool {
        matches!(*self.0.map.borrow(), Map::One(_))
    }

    /// As [`Self::run_many`], but what one server fails to do fails for its own commands alone: they have no answer. An error if none has.
    pub(super) async fn run_apart<T: FromRedisValue>(&self, what: &'static str, commands: Vec<Command>) -> Result<Vec<Option<T>>> {
        let mut answers: Vec<Option<T>> = commands.iter().map(|_| None).collect();
        let mut apart: Vec<(Option<Address>, Vec<usize>, Vec<Command>)> = Vec::new();
        for (index, command) in commands.into_iter().enumerate() {
            // Where that is not known yet they wait for it together.
            let address = self.server_of(command.slot).ok().map(|server| server.address().clone());
            match apart.iter_mut().find(|(other, ..)| *other == address) {
                Some((_, indices, commands)) => {
                    indices.push(index);
                    commands.push(command);
                }
                None => apart.push((address, vec![index], vec![command])),
            }
        }
        let asked = apart.into_iter().map(async |(_, indices, commands)| (indices, self.run_many(what, commands).await));
        let mut failed = None;
        for (indices, outcome) in join_all(asked).await {
            match outcome {
                Ok(told) => indices.into_iter().zip(told).for_each(|(index, told)| answers[index] = Some(told)),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if answers.iter().all(Option::is_none) => Err(error),
            Some(_) | None => Ok(answers),
        }
    }

    async fn run_piece(&self, commands: &[Command]) -> std::result::Result<Vec<Value>, Trouble> {
        let deadline = Instant::now() + self.0.limits.command_timeout;
        let permits = u32::try_from(commands.len()).expect("a piece is small");
        let Ok(_permit) = self.0.in_flight.try_acquire_many(permits) else {
            return Err(Trouble::Full(self.0.limits.in_flight_max));
        };
        let _in_flight = InFlight::count(&self.0.metrics, i64::from(permits));
        let mut fates: Vec<Option<Fate>> = commands.iter().map(|_| None).collect();
        for _ in 0..ROUNDS_MAX {
            let groups = self.group(commands, &fates, deadline).await?;
            if groups.is_empty() {
                break;
            }
            let sent = groups.into_iter().map(|group| self.send(commands, group, deadline));
            for (index, fate) in join_all(sent).await.into_iter().collect::<std::result::Result<Vec<_>, _>>()?.into_iter().flatten() {
                fates[index] = Some(fate);
            }
        }
        let mut answers = Vec::with_capacity(fates.len());
        for (fate, command) in fates.into_iter().zip(commands) {
            match fate {
                Some(Fate::Answered(Value::ServerError(error))) => {
                    if is_of_another_type(&error) {
                        return Err(Trouble::Spoilt(self.keys().shown(command.keys())));
                    }
                    let server = self.server_of(command.slot)?;
                    return Err(Trouble::Refused(server.address().clone(), error));
                }
                Some(Fate::Answered(answer)) => answers.push(answer),
                Some(Fate::Again(error)) => return Err(Trouble::Astray(error)),
                None => unreachable!("every command was sent in the first round"),
            }
        }
        Ok(answers)
    }

    /// Who is to be sent what in this round.
    async fn group(&self, commands: &[Command], fates: &[Option<Fate>], deadline: Instant) -> std::result::Result<Vec<Group>, Trouble> {
        let mut groups: Vec<Group> = Vec::new();
        for (index, command) in commands.iter().enumerate() {
            let (server, is_asking) = match &fates[index] {
                Some(Fate::Answered(_)) => continue,
                None => (self.server_when_known(command.slot, deadline).await?, false),
                Some(Fate::Again(error)) => match (error.kind(), moved_to(error)) {
                    (Some(ServerErrorKind::Ask), Some(address)) => (self.server(&address)?, true),
                    (_, Some(address)) => (self.server(&address)?, false),
                    (Some(ServerErrorKind::TryAgain), None) => {
                        sleep_until((Instant::now() + TRY_AGAIN_AFTER).min(deadline)).await;
                        (self.server_of(command.slot)?, false)
                    }
                    (_, None) => (self.server_of(command.slot)?, false),
                },
            };
            let needs_script = command.script.is_some() && fates[index].is_some();
            match groups.iter_mut().find(|group| Arc::ptr_eq(&group.server, &server) && group.is_asking == is_asking) {
                Some(group) => {
                    group.indices.push(index);
                    group.needs_scripts |= needs_script;
                }
                None => groups.push(Group { server, is_asking, needs_scripts: needs_script, indices: vec![index] }),
            }
        }
        Ok(groups)
    }

    /// Sends one group, and says what became of each command.
    async fn send(&self, commands: &[Command], group: Group, deadline: Instant) -> std::result::Result<Vec<(usize, Fate)>, Trouble> {
        let chosen = || group.indices.iter().map(|index| &commands[*index]);
        let is_repeatable = chosen().all(|command| command.is_repeatable);
        // Which of the answers are to be kept: beside the commands stand scripts to load and `ASKING`.
        let (pipeline, kept) = if group.needs_scripts || group.is_asking {
            let mut pipeline = Pipeline::new();
            let mut kept = Vec::new();
            let mut loaded: Vec<&str> = Vec::new();
            for command in chosen() {
                if let Some(script) = command.script
                    && !loaded.contains(&script.text())
                {
                    pipeline.cmd("SCRIPT").arg("LOAD").arg(script.text());
                    loaded.push(script.text());
                }
                if group.is_asking {
                    pipeline.cmd("ASKING");
                }
                kept.push(pipeline.len());
                pipeline.add_command(command.cmd.clone());
            }
            (pipeline, kept)
        } else {
            (pipeline(chosen()), (0..group.indices.len()).collect())
        };
        let mut answers = group.server.exchange(&pipeline, is_repeatable, deadline, &self.0.metrics).await?;
        let fates = group.indices.iter().zip(kept).map(|(index, place)| {
            let answer = std::mem::take(&mut answers[place]);
            if let Value::ServerError(error) = &answer {
                if matches!(error.kind(), Some(ServerErrorKind::Moved | ServerErrorKind::ClusterDown)) {
                    self.0.stale.notify_one();
                }
                if is_to_be_sent_again(error) {
                    return (*index, Fate::Again(error.clone()));
                }
            }
            (*index, Fate::Answered(answer))
        });
        Ok(fates.collect())
    }

    async fn server_when_known(&self, slot: u16, deadline: Instant) -> std::result::Result<Arc<Server>, Trouble> {
        if matches!(*self.0.map.borrow(), Map::Unknown(_)) {
            let mut map = self.0.map.subscribe();
            // Whether it is known by then is seen below.
            drop(timeout_at(deadline, map.wait_for(|map| !matches!(map, Map::Unknown(_)))).await);
        }
        self.server_of(slot)
    }

    fn server_of(&self, slot: u16) -> std::result::Result<Arc<Server>, Trouble> {
        match &*self.0.map.borrow() {
            Map::Unknown(why) => Err(Trouble::Down(Arc::clone(why))),
            Map::One(server) => Ok(Arc::clone(server)),
            Map::Cluster(map) => match map.slots.get(usize::from(slot)).copied().flatten() {
                Some(place) => Ok(Arc::clone(&map.primaries[usize::from(place)])),
                None => {
                    self.0.stale.notify_one();
                    Err(Trouble::Down(format!("no server of the cluster has slot {slot}").into()))
                }
            },
        }
    }

    /// The server at an address; one not known yet is dialled.
    fn server(&self, address: &Address) -> std::result::Result<Arc<Server>, Trouble> {
        let mut servers = self.servers();
        let name = address.to_string();
        if let Some((server, _)) = servers.known.get(&name) {
            return Ok(Arc::clone(server));
        }
        if servers.known.len() >= SERVERS_MAX {
            return Err(Trouble::Down(format!("{name}: there are {SERVERS_MAX} servers already").into()));
        }
        // Those of servers that went have ended meanwhile: without this their cells would stay.
        while servers.tasks.try_join_next().is_some() {}
        let server = Arc::new(Server::new(address.clone(), self.0.limits.breaker));
        // The task must not keep the connection alive: the connection owns the task.
        let inner = Arc::downgrade(&self.0);
        let on_change = move |change| {
            if let Some(inner) = inner.upgrade() {
                if let Change::Again { is_reconnect: true, .. } = change {
                    inner.metrics.reconnects.inc();
                }
                (inner.on_change)(change);
                inner.changed.notify_one();
            }
        };
        let task = servers.tasks.spawn(Arc::clone(&server).keep(Arc::clone(&self.0.dialer), self.0.metrics.clone(), on_change));
        servers.known.insert(name, (Arc::clone(&server), task));
        Ok(server)
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.0.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Connection")
    }
}

/// For the keeper.
impl Connection {
    /// There is one server.
    pub(super) fn use_one(&self, address: &Address) {
        if let Ok(server) = self.server(address) {
            self.give_probe_key(&server, |_| true);
            self.0.map.send_replace(Map::One(server));
        }
    }

    /// There is a cluster. `true` when that is news.
    pub(super) fn use_cluster(&self, ranges: &[SlotRange]) -> bool {
        let mut slots = vec![None; usize::from(SLOTS)];
        let mut primaries: Vec<Arc<Server>> = Vec::new();
        for range in ranges {
            let Ok(server) = self.server(&range.primary) else { continue };
            let place = primaries.iter().position(|known| Arc::ptr_eq(known, &server)).unwrap_or_else(|| {
                primaries.push(server);
                primaries.len() - 1
            });
            for slot in range.first..=range.last.min(SLOTS - 1) {
                slots[usize::from(slot)] = u16::try_from(place).ok();
            }
        }
        for (place, server) in primaries.iter().enumerate() {
            self.give_probe_key(server, |slot| slots[usize::from(slot)].map(usize::from) == Some(place));
        }
        let is_primary = |name: &String| primaries.iter().any(|primary| primary.address().to_string() == *name);
        self.servers().known.retain(|name, (_, task)| {
            let stays = is_primary(name);
            if !stays {
                task.abort();
            }
            stays
        });
        let is_news = match &*self.0.map.borrow() {
            Map::Cluster(old) => {
                let owners =
                    |map: &ClusterMap, slot: usize| map.slots[slot].map(|place| map.primaries[usize::from(place)].address().clone());
                let new = ClusterMap { slots: slots.clone(), primaries: primaries.clone() };
                (0..usize::from(SLOTS)).any(|slot| owners(old, slot) != owners(&new, slot))
            }
            Map::Unknown(_) | Map::One(_) => true,
        };
        if is_news {
            self.0.map.send_replace(Map::Cluster(Arc::new(ClusterMap { slots, primaries })));
        }
        is_news
    }

    /// The server of this key has taken a write.
    pub(super) fn note_written(&self, key: &str) {
        if let Ok(server) = self.server_of(slot_of(key.as_bytes())) {
            server.note_written();
        }
    }

    /// A server that has these slots tries its writes on a key in one of them.
    fn give_probe_key(&self, server: &Server, has: impl Fn(u16) -> bool) {
        if !server.probe_key().is_some_and(|key| has(slot_of(key.as_bytes())))
            && let Some(key) = self.keys().probe(has)
        {
            server.probe_with(&key);
        }
    }

    /// The cluster could not be asked who has what; an older map goes on being used.
    pub(super) fn map_unknown(&self, why: &str) {
        self.0.map.send_if_modified(|map| match map {
            Map::Unknown(_) => {
                *map = Map::Unknown(why.into());
                true
            }
            Map::One(_) | Map::Cluster(_) => false,
        });
    }

    /// Servers that have slots, in the order of their first slot.
    pub(super) fn primaries(&self) -> Vec<Arc<Server>> {
        match &*self.0.map.borrow() {
            Map::Unknown(_) => Vec::new(),
            Map::One(server) => vec![Arc::clone(server)],
            Map::Cluster(map) => map.primaries.clone(),
        }
    }

    /// Why not everything can be reached; `None` when all can.
    pub(super) fn why_away(&self) -> Option<String> {
        if let Map::Unknown(why) = &*self.0.map.borrow() {
            return Some(why.to_string());
        }
        let down: Vec<_> = self.primaries().iter().filter_map(|server| server.why_down()).collect();
        (!down.is_empty()).then(|| down.join("; "))
    }

    /// Sends commands of no key to a server, as part of the keeper's own work, even if it serves nobody else now. One that is refused has
    /// failed the call.
    pub(super) async fn ask(&self, server: &Server, pipeline: &Pipeline) -> std::result::Result<Vec<Value>, Trouble> {
        let deadline = Instant::now() + self.0.limits.command_timeout;
        let answers = server.exchange_anyway(pipeline, deadline, &self.0.metrics).await?;
        if let Some(Value::ServerError(error)) = answers.iter().find(|answer| matches!(answer, Value::ServerError(_))) {
            return Err(Trouble::Refused(server.address().clone(), error.clone()));
        }
        Ok(answers)
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.0.dialer
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Something about a server has changed.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Somebody was sent elsewhere.
    pub(super) async fn stale(&self) {
        self.0.stale.notified().await;
    }

    /// Ends the servers' tasks and waits for them.
    pub(super) async fn stop(&self) {
        let mut tasks = {
            let mut servers = self.servers();
            servers.known.clear();
            std::mem::take(&mut servers.tasks)
        };
        tasks.shutdown().await;
        self.0.map.send_replace(Map::Unknown("stopped".into()));
    }
}

/// What one server is sent in one round.
struct Group {
    server: Arc<Server>,
    /// The server is taking a slot over, and serves it to who asks so.
    is_asking: bool,
    needs_scripts: bool,
    indices: Vec<usize>,
}

fn is_to_be_sent_again(error: &ServerError) -> bool {
    matches!(error.kind(), Some(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain | ServerErrorKind::NoScript))
}

/// Where `MOVED slot host:port` and `ASK slot host:port` point to.
fn moved_to(error: &ServerError) -> Option<Address> {
    match error.kind() {
        Some(ServerErrorKind::Moved | ServerErrorKind::Ask) => Address::parse(error.details()?.split_ascii_whitespace().nth(1)?),
        _ => None,
    }
}

/// Counts commands in flight, also when the call is given up.
struct InFlight<'a> {
    metrics: &'a Metrics,
    commands: i64,
}

impl<'a> InFlight<'a> {
    fn count(metrics: &'a Metrics, commands: i64) -> Self {
        metrics.in_flight.inc_by(commands);
        Self { metrics, commands }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.metrics.in_flight.dec_by(self.commands);
    }
}

#[cfg(test)]
mod tests {
    use super::{Connection, Limits, SlotRange};
    use crate::redis::{RedisConfig, breaker::BreakerLimits, config::Address, dial::Dialer, keys::Keys, metrics::Metrics};
    use prometheus_client::registry::Registry;
    use std::{sync::Arc, time::Duration};

    #[tokio::test(start_paused = true)]
    async fn servers_that_went_leave_nothing_behind() {
        let config = RedisConfig::default();
        let limits = Limits {
            command_timeout: config.command_timeout,
            in_flight_max: config.in_flight_max,
            breaker: BreakerLimits {
                failures: config.breaker_failures,
                open_min: config.breaker_open_min,
                open_max: config.breaker_open_max,
            },
        };
        let (keys, metrics) = (Keys::new("im:", 1), Metrics::register(&mut Registry::default()));
        let connection = Connection::new(keys, metrics, limits, Arc::new(Dialer::new(&config).unwrap()), |_| {});
        for port in 1..=50 {
            let primary = Address { host: "127.0.0.1".to_owned(), port };
            connection.use_cluster(&[SlotRange { first: 0, last: 16_383, primary }]);
            // What was aborted ends at its next turn.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (known, tasks) = {
            let servers = connection.servers();
            (servers.known.len(), servers.tasks.len())
        };
        assert_eq!((known, tasks <= 2), (1, true), "{tasks} tasks");
        connection.stop().await;
    }
}
