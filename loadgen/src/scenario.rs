//! What all scenarios with a server have in common: prepare, connect, load, drain, settle the account.
//!
//! - A run always ends by itself: every wait below has a deadline.
//! - The parent sends room messages and counts them; workers receive. Expected copies follow from what the server accepted, never from what
//!   was tried.

pub(crate) mod echo;
pub(crate) mod hold;
pub(crate) mod limit;
pub(crate) mod reconnect_herd;
pub(crate) mod room_burst;
pub(crate) mod storm;
pub(crate) mod unicast;

use crate::{
    accounts, clock,
    http::{self, Api},
    interrupt::Interrupt,
    latency::Latencies,
    live::LiveView,
    options::Common,
    page,
    proc::{self, Usage},
    redis::{self, RedisLoad},
    report::{Detail, HerdReport, Report, Spread, Tail, number, ratio, ratio4},
    sampler::Sampler,
    series::{Series, Step},
    tally::Balance,
    worker::{Activity, News, Order, Plan, Settled, Worker, WorkerReport},
};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    io::{self, IsTerminal, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

/// Tokens for the largest worker (20,000 clients) take seconds; beyond this the token service is not working.
const PREPARE_MAX: Duration = Duration::from_secs(240);
/// A worker drains for 20 s at most and then reports.
const REPORT_MAX: Duration = Duration::from_secs(60);
/// Between the last join and the first message: join notices and audience counts have gone out by then.
const REST: Duration = Duration::from_secs(2);
/// A login that takes longer has failed; the gateway itself gives 5 s.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Descriptors a worker needs apart from its clients.
const SPARE_FILES: u64 = 100;
/// A signal that came while nothing was heard is noticed after so long.
const HEAR_MAX: Duration = Duration::from_millis(200);
/// Clients per loopback source address unless told otherwise: below the gateway's live connections per address.
const CLIENTS_PER_SOURCE: usize = 1_000;

/// The command line asks for something that cannot be; exit code 2.
#[derive(Debug)]
pub(crate) struct WrongUse(String);

impl std::fmt::Display for WrongUse {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::error::Error for WrongUse {}

/// Where the server is.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    gateways: Vec<SocketAddr>,
    pub(crate) http: String,
    admin: Vec<String>,
    api_key: String,
}

impl Server {
    /// From the options, then the ports file, then the defaults.
    fn of(common: &Common) -> Result<Self> {
        #[derive(Default, Deserialize)]
        struct Ports {
            tcp: Option<SocketAddr>,
            http: Option<SocketAddr>,
            admin: Option<SocketAddr>,
        }
        let ports = match &common.ports_file {
            None => Ports::default(),
            Some(path) => {
                let text = fs::read_to_string(path).map_err(|error| WrongUse(format!("--ports-file {}: {error}", path.display())))?;
                serde_json::from_str(&text).map_err(|error| WrongUse(format!("--ports-file {}: {error}", path.display())))?
            }
        };
        let (tcp, http, admin) = (ports.tcp.map(reachable), ports.http.map(reachable), ports.admin.map(reachable));
        let gateways = if common.gateway.is_empty() {
            vec![tcp.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8085)))]
        } else {
            common.gateway.clone()
        };
        let http = common.http.clone().unwrap_or_else(|| match http {
            Some(address) => format!("http://{address}"),
            None => "http://127.0.0.1:8080".to_owned(),
        });
        let admin = match (common.admin.is_empty(), admin) {
            (true, Some(address)) => vec![format!("http://{address}")],
            (true, None) | (false, _) => common.admin.clone(),
        };
        Ok(Self { gateways, http, admin, api_key: api_key(common)? })
    }

    /// Drops so far, over all gateways.
    fn dropped(&self) -> Result<BTreeMap<String, u64>> {
        let mut sum = BTreeMap::new();
        for admin in &self.admin {
            for (class, count) in http::dropped_by_class(admin)? {
                *sum.entry(class).or_default() += count;
            }
        }
        Ok(sum)
    }
}

/// A server that listens on every address is reached on the loopback: both are on this machine.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    address
}

fn api_key(common: &Common) -> Result<String> {
    if let Some(key) = &common.api_key {
        return Ok(key.clone());
    }
    let path = common.data_dir.join("api-key");
    let key = fs::read_to_string(&path).map_err(|error| {
        WrongUse(format!(
            "no API key: {}: {error}. Start the server first (cargo run --release), or give --api-key or --data-dir",
            path.display()
        ))
    })?;
    Ok(key.trim().to_owned())
}

/// What the load phase of a scenario did.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// By room: messages the server accepted.
    pub(crate) accepted: Vec<u32>,
    /// Due and not accepted.
    pub(crate) unsent: u64,
    /// Calls refused, by cause.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Intended time of the first message.
    pub(crate) first_ns: u64,
    /// How long it ran.
    pub(crate) seconds: f64,
}

/// What a scenario asks of [`conduct`].
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) rooms: usize,
    pub(crate) activity: Activity,
    pub(crate) at_least_once: bool,
    /// See [`Plan::return_spread`].
    pub(crate) return_spread: Option<Duration>,
}

/// Runs one scenario: `load` is what happens between the last join and the drain.
pub(crate) fn conduct(common: &Common, script: &Script, load: impl FnOnce(&mut Crew, &Api) -> Result<Load>) -> Result<Report> {
    if common.connections == 0 {
        bail!(WrongUse("--connections must be at least 1".to_owned()));
    }
    let server = Server::of(common)?;
    let seed = common.seed.unwrap_or_else(|| clock::now_ns() >> 20);
    let api = Api::new(&server.http, &server.api_key);
    let rooms = accounts::open_rooms(&api, seed, script.rooms)
        .with_context(|| format!("is the server running? It should answer on {} (start it with: cargo run --release)", server.http))?;
    let outcome = conduct_in(common, script, &server, seed, &rooms, &api, load);
    if let Err(error) = accounts::close_rooms(&api, seed, &rooms) {
        note(&format!("{error:#}"));
    }
    outcome
}

fn conduct_in(
    common: &Common,
    script: &Script,
    server: &Server,
    seed: u64,
    rooms: &[i64],
    api: &Api,
    load: impl FnOnce(&mut Crew, &Api) -> Result<Load>,
) -> Result<Report> {
    let mut crew = Crew::assemble(common, server, &plans(common, server, seed, rooms, script.activity, script.return_spread)?)?;
    crew.wait_prepared()?;
    let redis = if common.redis.is_empty() { None } else { Some(redis::Watch::start(common.redis.clone())?) };
    let before = Usage::of(&common.server_pid)?;
    let connect_began = Instant::now();
    let settled = crew.connect(Duration::from_secs(u64::from(common.connect_max)) + LOGIN_TIMEOUT + REPORT_MAX)?;
    let connect_s = connect_began.elapsed().as_secs_f64();
    let connected = Usage::of(&common.server_pid)?;
    crew.rest(REST)?;

    let drops_before = server.dropped()?;
    let load_from = Usage::of(&common.server_pid)?;
    let commands_from = redis.as_ref().map(|_| redis::commands(&common.redis)).transpose()?;
    let connect_peak_per_s = redis.as_ref().map_or(0, redis::Watch::take_peak_per_s);
    crew.begin();
    let load = load(&mut crew, api)?;
    let held = Usage::of(&common.server_pid)?;
    let seen = crew.finish(&load.accepted)?;
    let after = Usage::of(&common.server_pid)?;
    let called = commands_from.map(|from| Ok::<_, anyhow::Error>(redis::between(&from, &redis::commands(&common.redis)?))).transpose()?;
    let mut dropped = server.dropped()?;
    for (class, count) in drops_before {
        if let Some(now) = dropped.get_mut(&class) {
            *now = now.saturating_sub(count);
        }
    }
    dropped.retain(|_, count| *count > 0);

    let room_copies =
        load.accepted.iter().zip(&settled.members).map(|(&messages, &members)| u64::from(messages) * u64::from(members)).sum();
    let accepted: u64 = load.accepted.iter().map(|&count| u64::from(count)).sum();
    let (sent, expected, received, latency) = match script.activity {
        Activity::Listen if accepted > 0 => (accepted, room_copies, seen.totals.received, &seen.latency),
        Activity::Listen => (seen.sent, seen.sent, seen.beats_echoed, &seen.beat_latency),
        Activity::Echo { .. } | Activity::Chat { .. } => (seen.sent, seen.sent, seen.totals.received, &seen.latency),
    };
    let Balance { expected, received, dropped, missing } = Balance::settle(expected, received, dropped);
    let span_s = number(seen.last_copy_ns.saturating_sub(load.first_ns)) / 1e9;
    let server_cpu_s = after.zip(load_from).and_then(|(after, before)| ratio((after - before).cpu_s, 1.0));
    let connect_cpu_s = connected.zip(before).map(|(after, before)| (after - before).cpu_s);
    let connections = settled.settled as u64;
    let is_load = !matches!(script.activity, Activity::Listen) || accepted > 0;
    let mut refused = seen.refused;
    for (cause, count) in load.refused {
        *refused.entry(cause).or_default() += count;
    }
    Ok(Report {
        connections,
        logins_failed: settled.failures.values().sum(),
        login_ms: Spread::of(&settled.login),
        logins_per_server_cpu_s: connect_cpu_s.and_then(|cpu_s| ratio(number(connections), cpu_s)),
        sent,
        expected,
        received,
        dropped,
        missing,
        duplicates: seen.totals.duplicates,
        order_breaks: seen.totals.order_breaks,
        deliveries_per_s: if is_load { ratio(number(received), span_s) } else { None },
        server_cpu_s,
        deliveries_per_server_cpu_s: server_cpu_s.filter(|_| is_load).and_then(|cpu_s| ratio(number(received), cpu_s)),
        latency_ms: Tail::of(latency),
        last_member_ms: Spread::of(&last_members(&seen.messages, &settled.members)),
        server_rss_bytes: held.map(|usage| usage.rss_bytes),
        bytes_per_connection: held
            .zip(before)
            .and_then(|(held, before)| ratio(number(held.rss_bytes.saturating_sub(before.rss_bytes)), number(connections))),
        detail: Detail {
            scenario: script.name,
            seed,
            seconds: (load.seconds * 1_000.0).round() / 1_000.0,
            connect_s: (connect_s * 1_000.0).round() / 1_000.0,
            frame_bytes: seen.frame_bytes,
            login_failures: settled.failures,
            login_retries: settled.retries,
            lost: seen.lost,
            refused,
            unsent: load.unsent,
            strays: seen.totals.strays,
            at_least_once: script.at_least_once,
            limit: None,
            herd: seen.herd.as_ref().map(HerdReport::of),
            redis: called.zip(redis.as_ref()).map(|(by_command, watch)| {
                let commands = by_command.values().sum();
                let per_delivery = ratio4(number(commands), number(received));
                RedisLoad { commands, peak_per_s: watch.take_peak_per_s(), connect_peak_per_s, per_delivery, by_command }
            }),
        },
        series: crew.into_series(),
    })
}

/// How late the last member of a room had each message; a message that someone never got has no last member.
fn last_members(messages: &[Vec<crate::tally::MessageTally>], members: &[u32]) -> Latencies {
    let mut latencies = Latencies::default();
    for (room, &members) in messages.iter().zip(members) {
        for message in room.iter().filter(|message| members > 0 && message.received == members) {
            latencies.record(message.intended_ns, message.last_ns);
        }
    }
    latencies
}

/// Splits the crowd over as many workers as were asked for, or as the open-files limit needs.
fn plans(
    common: &Common,
    server: &Server,
    seed: u64,
    rooms: &[i64],
    activity: Activity,
    return_spread: Option<Duration>,
) -> Result<Vec<Plan>> {
    let per_process = usize::try_from(proc::raise_open_files().saturating_sub(SPARE_FILES)).unwrap_or(usize::MAX).max(1);
    let needed = common.connections.div_ceil(per_process);
    let workers = common.processes.map_or(needed, usize::from).min(common.connections);
    if workers < needed {
        bail!(WrongUse(format!("{} connections need at least {needed} processes: each may open {per_process} files", common.connections)));
    }
    let sources = common.sources.map_or(common.connections.div_ceil(CLIENTS_PER_SOURCE), usize::from);
    let mut first = 0;
    let mut plans = Vec::with_capacity(workers);
    for index in 0..workers {
        // Even numbers, so that chat neighbours share a worker.
        let end = if index + 1 == workers { common.connections } else { common.connections * (index + 1) / workers / 2 * 2 };
        let clients = end - first;
        let share = number(clients as u64) / number(common.connections as u64);
        plans.push(Plan {
            gateways: server.gateways.clone(),
            http: server.http.clone(),
            api_key: server.api_key.clone(),
            app_id: common.app_id,
            first_user_id: accounts::first_user_id(seed),
            first,
            clients,
            rooms: rooms.to_vec(),
            protobuf: common.protobuf,
            sources,
            login_window: (common.login_window as usize).div_ceil(workers),
            connect_rate: common.connect_rate * share,
            login_timeout: LOGIN_TIMEOUT,
            connect_max: Duration::from_secs(u64::from(common.connect_max)),
            return_spread,
            activity: match activity {
                Activity::Listen => Activity::Listen,
                Activity::Echo { per_s } => Activity::Echo { per_s: per_s * share },
                Activity::Chat { per_s, text_chars } => Activity::Chat { per_s: per_s * share, text_chars },
            },
        });
        first = end;
    }
    Ok(plans)
}

/// Something the parent waits for.
#[derive(Debug)]
pub(crate) enum Event {
    /// All members that a worker has of the room have the message.
    Done {
        /// (room, message).
        messages: Vec<(usize, u32)>,
    },
    /// A message was pushed, or not.
    Pushed {
        /// Which room of the plan.
        room: usize,
        /// Which message.
        number: u32,
        /// Why not.
        outcome: Result<(), String>,
    },
}

#[derive(Debug)]
enum Heard {
    News(usize, News),
    Pushed { room: usize, number: u32, outcome: Result<(), String> },
}

/// A sender thread's way to say what became of a push.
#[derive(Clone, Debug)]
pub(crate) struct PushOutcomes(Sender<Heard>);

impl PushOutcomes {
    /// Says it; a parent that has ended needs it no more.
    pub(crate) fn tell(&self, room: usize, number: u32, outcome: Result<(), String>) {
        self.0.send(Heard::Pushed { room, number, outcome }).ok();
    }
}

/// The workers, as the parent holds them.
#[derive(Debug)]
pub(crate) struct Crew {
    /// First: it is cleared before anything that may take its time, or speak, ends.
    view: LiveView,
    interrupt: Interrupt,
    workers: Vec<Worker>,
    heard: Receiver<Heard>,
    sender: Sender<Heard>,
    /// By worker: who is in, and what arrived.
    progress: Vec<(usize, u64)>,
    sampler: Sampler,
    series: Series,
    /// Rooms of the plan.
    pub(crate) room_ids: Vec<i64>,
    /// By room: workers that have members of it.
    pub(crate) workers_of_room: Vec<u32>,
}

impl Crew {
    fn assemble(common: &Common, server: &Server, plans: &[Plan]) -> Result<Self> {
        let interrupt = Interrupt::hold()?;
        let (sender, heard) = mpsc::channel();
        let mut workers = Vec::with_capacity(plans.len());
        for (index, plan) in plans.iter().enumerate() {
            let news = sender.clone();
            let tell = move |said| {
                news.send(Heard::News(index, said)).ok();
            };
            workers.push(if plans.len() == 1 { Worker::in_thread(plan.clone(), tell) } else { Worker::in_process(plan, tell)? });
        }
        let is_watched = !common.json && io::stderr().is_terminal();
        // Reading the counters costs the server something: it is done for eyes alone.
        let admin = if is_watched { server.admin.clone() } else { Vec::new() };
        let own = workers.iter().filter_map(Worker::pid).collect();
        Ok(Self {
            view: LiveView::begin(is_watched, common.connections, workers.len()),
            interrupt,
            sampler: Sampler::start(common.server_pid.clone(), own, admin)?,
            series: Series::default(),
            progress: vec![(0, 0); workers.len()],
            workers,
            heard,
            sender,
            room_ids: plans.first().map_or_else(Vec::new, |plan| plan.rooms.clone()),
            workers_of_room: Vec::new(),
        })
    }

    /// The end of a sender thread's channel.
    pub(crate) fn push_outcomes(&self) -> PushOutcomes {
        PushOutcomes(self.sender.clone())
    }

    fn wait_prepared(&mut self) -> Result<()> {
        let deadline = Instant::now() + PREPARE_MAX;
        let mut prepared = 0;
        while prepared < self.workers.len() {
            match self.hear(deadline)?.context("the tokens were not there in time")? {
                Heard::News(_, News::Prepared) => prepared += 1,
                Heard::News(..) | Heard::Pushed { .. } => {}
            }
        }
        Ok(())
    }

    fn connect(&mut self, within: Duration) -> Result<Settled> {
        self.view.phase("connecting");
        self.series = Series::begin(second());
        let deadline = Instant::now() + within;
        self.order(&Order::Connect);
        let mut all = Settled::default();
        let mut answers = 0;
        while answers < self.workers.len() {
            if let Heard::News(_, News::Settled(one)) = self.hear(deadline)?.context("the crowd was not in on time")? {
                answers += 1;
                all.settled += one.settled;
                all.login.merge(&one.login);
                for (cause, count) in one.failures {
                    *all.failures.entry(cause).or_default() += count;
                }
                for (cause, count) in one.retries {
                    *all.retries.entry(cause).or_default() += count;
                }
                all.members.resize(all.members.len().max(one.members.len()), 0);
                self.workers_of_room.resize(all.members.len(), 0);
                for (room, members) in one.members.iter().enumerate() {
                    all.members[room] += members;
                    self.workers_of_room[room] += u32::from(*members > 0);
                }
            }
        }
        if all.settled == 0 {
            bail!("nobody could log in: {:?}", all.failures);
        }
        Ok(all)
    }

    /// Listens to progress, and nothing else, for a while.
    pub(crate) fn rest(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while self.hear(until)?.is_some() {}
        Ok(())
    }

    fn begin(&mut self) {
        self.view.phase("load");
        self.series.mark(clock::now_ns(), Step::Load);
        self.order(&Order::Begin);
    }

    /// The next thing that concerns the load; `None` when `until` has come.
    pub(crate) fn next_event(&mut self, until: Instant) -> Result<Option<Event>> {
        loop {
            match self.hear(until)? {
                None => return Ok(None),
                Some(Heard::Pushed { room, number, outcome }) => return Ok(Some(Event::Pushed { room, number, outcome })),
                Some(Heard::News(_, News::Done(messages))) => return Ok(Some(Event::Done { messages })),
                Some(Heard::News(..)) => {}
            }
        }
    }

    fn finish(&mut self, accepted: &[u32]) -> Result<WorkerReport> {
        self.view.phase("draining");
        self.series.mark(clock::now_ns(), Step::Drain);
        let deadline = Instant::now() + REPORT_MAX;
        self.order(&Order::Finish { accepted: accepted.to_vec() });
        let mut all = WorkerReport::default();
        let mut answers = 0;
        while answers < self.workers.len() {
            if let Heard::News(_, News::Report(report)) = self.hear(deadline)?.context("a worker did not report in time")? {
                answers += 1;
                all.merge(*report);
            }
        }
        Ok(all)
    }

    /// The run over time, and the end of the view and the workers.
    fn into_series(self) -> Series {
        self.series
    }

    fn order(&self, order: &Order) {
        for worker in &self.workers {
            worker.order(order.clone());
        }
    }

    /// The next thing heard, `None` at `until`; what is for the view and the plots alone is taken on the way.
    fn hear(&mut self, until: Instant) -> Result<Option<Heard>> {
        loop {
            let wait = until.saturating_duration_since(Instant::now()).min(HEAR_MAX);
            let heard = self.heard.recv_timeout(wait);
            // Before anything else: worker processes that the same signal ended are no fault.
            if self.interrupt.came() {
                bail!("interrupted");
            }
            self.take_looks();
            match heard {
                Ok(Heard::News(_, News::Failed(cause))) => bail!("{cause}"),
                Ok(Heard::News(worker, News::Progress { settled, received })) => self.on_progress(worker, settled, received),
                Ok(Heard::News(_, News::Interval(interval))) => {
                    self.view.interval(&interval);
                    self.series.add(*interval);
                }
                Ok(heard @ Heard::Pushed { .. }) => {
                    if let Heard::Pushed { outcome: Ok(()), .. } = &heard {
                        self.view.accepted();
                        self.series.accepted(second());
                    }
                    return Ok(Some(heard));
                }
                Ok(heard @ Heard::News(..)) => return Ok(Some(heard)),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("all workers are gone"),
            }
        }
    }

    fn on_progress(&mut self, worker: usize, settled: usize, received: u64) {
        self.progress[worker] = (settled, received);
        let (settled, received) = self.progress.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        self.view.progress(settled, received);
        self.series.connected(second(), settled as u64);
    }

    fn take_looks(&mut self) {
        for look in self.sampler.take() {
            self.view.look(&look);
            self.series.sample(look.sample);
        }
    }
}

/// The present second of `CLOCK_MONOTONIC`.
fn second() -> u64 {
    clock::now_ns() / 1_000_000_000
}

/// Waits out a load that the workers make by themselves.
pub(crate) fn let_run(crew: &mut Crew, seconds: u32) -> Result<Load> {
    let (began, first_ns) = (Instant::now(), clock::now_ns());
    crew.rest(Duration::from_secs(u64::from(seconds)))?;
    Ok(Load { first_ns, seconds: began.elapsed().as_secs_f64(), ..Load::default() })
}

/// Prints the result and keeps it where it was asked for; `false` when the run found something wrong.
pub(crate) fn publish(common: &Common, report: &Report) -> Result<bool> {
    let json = serde_json::to_string(report).context("a report is plain data")?;
    if let Some(directory) = &common.report {
        page::keep(directory, report, &json).with_context(|| format!("--report {}", directory.display()))?;
    }
    let mut output = io::stdout().lock();
    if common.json {
        writeln!(output, "{json}")?;
    } else {
        write!(output, "{report}")?;
    }
    let problems = report.problems();
    for problem in &problems {
        note(problem);
    }
    Ok(problems.is_empty())
}

/// A line on standard error; when that is closed there is nobody to tell.
pub(crate) fn note(text: &str) {
    writeln!(io::stderr(), "loadgen: {text}").ok();
}

/// A thread that has a name in `top -H`.
pub(crate) fn spawn_named(name: &str, work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(work).context("no thread")
}

#[cfg(test)]
mod tests;
