//! What all scenarios with a server have in common: prepare, connect, load, drain, settle the account.
//!
//! - A run always ends by itself: every wait below has a deadline.
//! - The parent sends room messages and counts them; workers receive. Expected copies follow from what the server accepted, never from what
//!   was tried.

pub(crate) mod check;
pub(crate) mod echo;
pub(crate) mod hold;
pub(crate) mod limit;
pub(crate) mod reconnect_herd;
pub(crate) mod room_burst;
pub(crate) mod slow_readers;
pub(crate) mod storm;
pub(crate) mod unicast;

use crate::{
    accounts, clock,
    crowd::{
        room::Load as Message,
        slow::{PaceLatencies, Slow},
    },
    http::{self, Api, Counters, Pushed},
    interrupt::Interrupt,
    journal::Journal,
    latency::Latencies,
    live::LiveView,
    options::Common,
    page,
    probe::{self, Effort, JOINED},
    proc::{self, MemoryPeak, Usage},
    redis::{self, RedisLoad},
    report::{Detail, GeneratorReport, HerdReport, Report, SlowReport, Spread, Tail, microseconds, number, ratio, ratio4},
    sampler::Sampler,
    series::{Series, Step},
    tally::{Balance, LagAccount, LagBalance, MessageTally},
    worker::{Activity, News, Order, Plan, Settled, Worker, WorkerReport},
};
use anyhow::{Context, Result, bail};
use billfish_wire::Class;
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

    /// What all gateways have counted so far; nothing where none has an admin port.
    fn counters(&self) -> Result<Counters> {
        let mut sum = Counters::default();
        for admin in &self.admin {
            sum.add(Counters::read(admin)?);
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

/// A message that was pushed to a room, or was to be.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// Which room of the plan.
    pub(crate) room: usize,
    /// Its number and its intended time.
    pub(crate) message: Message,
    /// When the answer was there.
    pub(crate) answered_ns: u64,
    pub(crate) answer: Answer,
}

/// What became of a push.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// The server has it.
    Accepted(Pushed),
    /// It has not, or has not said so.
    Refused(String),
}

/// What the load phase of a scenario did.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// By room: messages the server accepted.
    pub(crate) accepted: Vec<u32>,
    /// Messages one by one: of the accepted ones as many as are kept, and every refused one.
    pub(crate) sent: Vec<Sent>,
    /// How many of these were accepted.
    pub(crate) kept: usize,
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
    /// Some read slowly while messages of a class are sent.
    pub(crate) slow: Option<SlowScript>,
}

/// The part of a script that is about slow readers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlowScript {
    /// See [`Plan::slow`].
    pub(crate) slow: Slow,
    /// Of the messages.
    pub(crate) class: Class,
    /// The verdict's bounds; see [`SlowReport`].
    pub(crate) memory_growth_bytes_max: u64,
    pub(crate) p99_growth_max: Option<f64>,
}

impl Script {
    /// A scenario without rooms, in which everybody reads and nobody returns.
    pub(crate) fn new(name: &'static str, activity: Activity) -> Self {
        Self { name, rooms: 0, activity, at_least_once: false, return_spread: None, slow: None }
    }
}

/// Runs one scenario: `load` is what happens between the last join and the drain.
pub(crate) fn conduct(common: &Common, script: &Script, load: impl FnOnce(&mut Crew, &Api) -> Result<Load>) -> Result<Report> {
    if common.connections == 0 {
        bail!(WrongUse("--connections must be at least 1".to_owned()));
    }
    let server = Server::of(common)?;
    if script.slow.is_some() && server.admin.is_empty() {
        bail!(WrongUse(format!("{} needs --admin or --ports-file: the account is made of the gateway's counters too", script.name)));
    }
    let seed = common.seed.unwrap_or_else(|| clock::now_ns() >> 20);
    let api = Api::new(&server.http, &server.api_key);
    let rooms = accounts::open_rooms(&api, seed, script.rooms)
        .with_context(|| format!("is the server running? It should answer on {} (start it with: cargo run --release)", server.http))?;
    let outcome = conduct_in(common, script, &server, seed, &rooms, &api, load);
    if let Err(error) = accounts::close_rooms(&api, seed, &rooms) {
        note(&format!("{error:#}"));
    }
    let mut report = outcome?;
    // A report that is kept states its own ceiling: the figures of two machines, or of two days of one, are compared by it.
    if common.limit || common.report.is_some() {
        // The run is over and paid for: its figures are not lost with those of the probe.
        if let Err(error) = add_limit(&mut report) {
            note(&format!("the limit was not measured: {error:#}"));
        }
    }
    Ok(report)
}

/// What was measured and counted on the way through a run.
pub(crate) struct Measures {
    pub(crate) settled: Settled,
    connect_s: f64,
    pub(crate) load: Load,
    pub(crate) seen: WorkerReport,
    /// Since the load began.
    pub(crate) counters: Counters,
    /// The servers before anyone connected, with everyone in, when the load began, when it was over, and after the drain.
    before: Option<Usage>,
    connected: Option<Usage>,
    load_from: Option<Usage>,
    held: Option<Usage>,
    after: Option<Usage>,
    memory_peak_bytes: Option<u64>,
    generator: GeneratorReport,
    redis: Option<RedisLoad>,
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
    let mut crew = Crew::assemble(common, server, &plans(common, server, seed, rooms, script)?)?;
    crew.wait_prepared()?;
    let redis = if common.redis.is_empty() { None } else { Some(redis::Watch::start(common.redis.clone())?) };
    let before = Usage::of(&common.server_pid)?;
    let connect_began = Instant::now();
    let settled = crew.connect(Duration::from_secs(u64::from(common.connect_max)) + LOGIN_TIMEOUT + REPORT_MAX)?;
    let connect_s = connect_began.elapsed().as_secs_f64();
    let connected = Usage::of(&common.server_pid)?;
    crew.rest(REST)?;

    let counters_from = server.counters()?;
    let load_from = Usage::of(&common.server_pid)?;
    let generator_from = Usage::of(&crew.pids())?.unwrap_or_default();
    let memory = script.slow.filter(|_| !common.server_pid.is_empty()).map(|_| MemoryPeak::watch(common.server_pid.clone()));
    let commands_from = redis.as_ref().map(|_| redis::commands(&common.redis)).transpose()?;
    let connect_peak_per_s = redis.as_ref().map_or(0, redis::Watch::take_peak_per_s);
    crew.begin();
    let load = load(&mut crew, api)?;
    let held = Usage::of(&common.server_pid)?;
    let generator_held = Usage::of(&crew.pids())?.unwrap_or_default();
    let seen = crew.finish(&load.accepted)?;
    // A worker process that has reported still is an entry of /proc: it is waited for when the crew is dropped.
    let generator = GeneratorReport {
        processes: crew.pids().len(),
        cpu_s: (Usage::of(&crew.pids())?.unwrap_or_default() - generator_from).cpu_s,
        cpu_us_per_copy: None,
        rss_bytes: generator_held.rss_bytes,
    };
    let after = Usage::of(&common.server_pid)?;
    let called = commands_from.map(|from| Ok::<_, anyhow::Error>(redis::between(&from, &redis::commands(&common.redis)?))).transpose()?;
    let redis = called.zip(redis.as_ref()).map(|(by_command, watch)| RedisLoad {
        commands: by_command.values().sum(),
        peak_per_s: watch.take_peak_per_s(),
        connect_peak_per_s,
        per_delivery: None,
        by_command,
    });
    let measures = Measures {
        settled,
        connect_s,
        load,
        seen,
        counters: server.counters()?.since(&counters_from),
        before,
        connected,
        load_from,
        held,
        after,
        memory_peak_bytes: memory.map(MemoryPeak::end),
        generator,
        redis,
    };
    let report = Report { series: crew.into_series(), ..measures.report(script, seed) };
    if let Some(directory) = &common.report {
        let journal = Journal { script, seed, room_ids: rooms, measures: &measures, report: &report };
        journal.write(directory).with_context(|| format!("--report {}", directory.display()))?;
    }
    Ok(report)
}

impl Measures {
    /// Copies of messages that the server did not accept, or not in time.
    fn unasked(&self) -> u64 {
        let refused = self.load.sent.iter().filter(|sent| matches!(sent.answer, Answer::Refused(_)));
        refused.map(|sent| self.message(sent.room, sent.message.number).map_or(0, |message| u64::from(message.received))).sum()
    }

    /// What the members have of a message; `None`: nobody has it.
    pub(crate) fn message(&self, room: usize, number: u32) -> Option<&MessageTally> {
        self.seen.messages.get(room)?.get(number as usize)
    }

    /// Messages and members, by room.
    fn rooms(&self) -> impl Iterator<Item = (u64, u64)> {
        self.load.accepted.iter().zip(&self.settled.members).map(|(&messages, &members)| (u64::from(messages), u64::from(members)))
    }

    /// The account of a run with slow readers.
    pub(crate) fn lag_account(&self, script: &SlowScript) -> LagAccount {
        let class = script.class.label();
        let of_class = |name| self.counters.by_label(name, "class", Some(("class", class))).values().sum();
        let mut account = LagAccount {
            resets: self.seen.resets,
            class_delivered: of_class(http::DELIVERED),
            class_dropped: of_class(http::DROPPED),
            received: self.seen.totals.received - self.unasked(),
            frame_bytes: self.seen.frame_bytes as u64,
            ..LagAccount::default()
        };
        for ((messages, members), ends) in self.rooms().zip(&self.seen.room_ends) {
            let ended = u64::from(ends.members).min(members);
            account.stayed_copies += messages * (members - ended);
            account.ended_copies += messages * ended;
            account.ended_received += ends.received;
        }
        account
    }

    /// Messages sent, the balance of their copies, and the latencies that count.
    fn balance(&self, script: &Script, lag: Option<LagBalance>) -> (u64, Balance, &Latencies) {
        let seen = &self.seen;
        let accepted: u64 = self.load.accepted.iter().map(|&count| u64::from(count)).sum();
        let dropped = self.counters.by_label(http::DROPPED, "class", None);
        let (sent, expected, received, latency) = match script.activity {
            Activity::Listen if accepted > 0 => {
                let copies = self.rooms().map(|(messages, members)| messages * members).sum();
                (accepted, copies, seen.totals.received - self.unasked(), &seen.latency)
            }
            Activity::Listen => (seen.sent, seen.sent, seen.beats_echoed, &seen.beat_latency),
            Activity::Echo { .. } | Activity::Chat { .. } => (seen.sent, seen.sent, seen.totals.received, &seen.latency),
        };
        let balance = match lag {
            None => Balance::settle(expected, received, dropped),
            Some(LagBalance { expected, missing, .. }) => Balance { expected, received, dropped, missing },
        };
        (sent, balance, latency)
    }

    fn report(&self, script: &Script, seed: u64) -> Report {
        let Self { settled, load, seen, .. } = self;
        let lag = script.slow.map(|slow| (slow, self.lag_account(&slow).settle()));
        let (sent, balance, latency) = self.balance(script, lag.map(|(_, balance)| balance));
        let Balance { expected, received, dropped, missing } = balance;
        let span_s = number(seen.last_copy_ns.saturating_sub(load.first_ns)) / 1e9;
        let server_cpu_s = self.after.zip(self.load_from).map(|(after, before)| microseconds((after - before).cpu_s));
        let connect_cpu_s = self.connected.zip(self.before).map(|(after, before)| (after - before).cpu_s);
        let grown_bytes = self.held.zip(self.before).map(|(held, before)| number(held.rss_bytes.saturating_sub(before.rss_bytes)));
        let connections = settled.settled as u64;
        let is_load = !matches!(script.activity, Activity::Listen) || !load.accepted.is_empty();
        let mut detail = self.detail(script, seed, received);
        detail.slow = lag.map(|(slow, balance)| self.slow(&slow, balance));
        Report {
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
            server_rss_bytes: self.held.map(|usage| usage.rss_bytes),
            bytes_per_connection: grown_bytes.and_then(|grown| ratio(grown, number(connections))),
            detail,
            series: Series::default(),
        }
    }

    fn detail(&self, script: &Script, seed: u64, received: u64) -> Detail {
        let Self { settled, load, seen, .. } = self;
        let mut refused = seen.refused.clone();
        for (cause, count) in &load.refused {
            *refused.entry(cause.clone()).or_default() += count;
        }
        let milliseconds = |seconds: f64| (seconds * 1_000.0).round() / 1_000.0;
        let cpu_us_per_copy = ratio(self.generator.cpu_s * 1e6, number(received));
        let fanout_sends = self.counters.sum(http::FANOUT_SENDS);
        Detail {
            scenario: script.name,
            seed,
            seconds: milliseconds(load.seconds),
            connect_s: milliseconds(self.connect_s),
            frame_bytes: seen.frame_bytes,
            login_failures: settled.failures.clone(),
            login_retries: settled.retries.clone(),
            lost: seen.lost.clone(),
            refused,
            unsent: load.unsent + seen.unsent,
            strays: seen.totals.strays,
            at_least_once: script.at_least_once,
            unasked: self.unasked(),
            joining: ratio(number(self.counters.sum(http::COPIES)), number(fanout_sends)).filter(|_| !load.accepted.is_empty()),
            generator: Some(GeneratorReport { cpu_s: microseconds(self.generator.cpu_s), cpu_us_per_copy, ..self.generator }),
            herd: seen.herd.as_ref().map(HerdReport::of),
            redis: self.redis.clone().map(|redis| {
                let per_delivery = ratio4(number(redis.commands), number(received));
                RedisLoad { per_delivery, ..redis }
            }),
            ..Detail::default()
        }
    }

    fn slow(&self, script: &SlowScript, balance: LagBalance) -> SlowReport {
        let seen = &self.seen;
        let PaceLatencies { calm, prompt, slow, stopped } = seen.by_pace.clone().unwrap_or_default();
        let mut closes = self.counters.by_label(http::CLOSES, "reason", None);
        closes.retain(|reason, _| SLOWNESS.contains(&reason.as_str()));
        let p99 = |latencies: &Latencies| latencies.percentile_ms(99.0);
        SlowReport {
            slow_clients: seen.slow_clients,
            stopped_clients: seen.stopped_clients,
            given_up: seen.given_up.clone(),
            closes,
            dropped: self.counters.by_label(http::DROPPED, "reason", Some(("class", script.class.label()))),
            destroyed: balance.destroyed,
            overdropped: balance.overdropped,
            calm_ms: Tail::of(&calm),
            prompt_ms: Tail::of(&prompt),
            p99_growth: p99(&calm).zip(p99(&prompt)).and_then(|(before, now)| ratio(now, before)),
            p99_growth_max: script.p99_growth_max,
            slow_ms: Tail::of(&slow),
            stopped_ms: Tail::of(&stopped),
            server_rss_before_bytes: self.load_from.map(|usage| usage.rss_bytes),
            server_rss_peak_bytes: self.memory_peak_bytes,
            memory_growth_bytes_max: script.memory_growth_bytes_max,
        }
    }
}

/// Reasons for which a gateway ends who is slow or, as a stopped client is, silent.
const SLOWNESS: [&str; 3] = ["too_slow", "write_stalled", "heartbeat_lost"];
/// The bare send loop in a report: a second and a half for each joining. A round to 20,000 sockets takes a tenth of a second or two.
const LIMIT_EFFORT: Effort = Effort { runs: 5, run: Duration::from_millis(300) };
/// Bytes of its frames where the run had no load frame: what `limit` takes by default.
const LIMIT_FRAME_BYTES: usize = 120;

/// Measures the bare send loop and states what the server reached as a share of it.
fn add_limit(report: &mut Report) -> Result<()> {
    let sockets = usize::try_from(report.connections).unwrap_or(usize::MAX).clamp(1, clients_per_process());
    let frame_bytes = if report.detail.frame_bytes > 0 { report.detail.frame_bytes } else { LIMIT_FRAME_BYTES };
    let limit = probe::measure(sockets, frame_bytes, &JOINED, LIMIT_EFFORT)?;
    // One-to-one copies and echoes have no fan-out: each is a write of its own, or nearly.
    let reached = limit.deliveries_per_cpu_s_at(report.detail.joining.unwrap_or(1.0).max(1.0));
    report.detail.ratio_to_limit = report.deliveries_per_server_cpu_s.zip(reached).and_then(|(own, limit)| ratio(own, limit));
    report.detail.limit_deliveries_per_cpu_s = reached;
    report.detail.limit = Some(limit);
    Ok(())
}

/// Connections that one process may have.
fn clients_per_process() -> usize {
    usize::try_from(proc::raise_open_files().saturating_sub(SPARE_FILES)).unwrap_or(usize::MAX).max(1)
}

/// How late the last member of a room had each message; a message that someone never got has no last member.
fn last_members(messages: &[Vec<MessageTally>], members: &[u32]) -> Latencies {
    let mut latencies = Latencies::default();
    for (room, &members) in messages.iter().zip(members) {
        for message in room.iter().filter(|message| members > 0 && message.received == members) {
            latencies.record(message.intended_ns, message.last_ns);
        }
    }
    latencies
}

/// Splits the crowd over as many workers as were asked for, or as the open-files limit needs.
fn plans(common: &Common, server: &Server, seed: u64, rooms: &[i64], script: &Script) -> Result<Vec<Plan>> {
    let per_process = clients_per_process();
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
            return_spread: script.return_spread,
            slow: script.slow.map(|script| script.slow),
            activity: match script.activity {
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
        message: Message,
        /// When the answer was there.
        answered_ns: u64,
        /// How the server knows it, or why not.
        outcome: Result<Pushed, String>,
    },
}

#[derive(Debug)]
enum Heard {
    News(usize, News),
    Pushed { room: usize, message: Message, answered_ns: u64, outcome: Result<Pushed, String> },
}

/// A sender thread's way to say what became of a push.
#[derive(Clone, Debug)]
pub(crate) struct PushOutcomes(Sender<Heard>);

impl PushOutcomes {
    /// Says it; a parent that has ended needs it no more.
    pub(crate) fn tell(&self, room: usize, message: Message, outcome: Result<Pushed, String>) {
        self.0.send(Heard::Pushed { room, message, answered_ns: clock::now_ns(), outcome }).ok();
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

    /// This process and those of the workers.
    fn pids(&self) -> Vec<u32> {
        [std::process::id()].into_iter().chain(self.workers.iter().filter_map(Worker::pid)).collect()
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
                Some(Heard::Pushed { room, message, answered_ns, outcome }) => {
                    return Ok(Some(Event::Pushed { room, message, answered_ns, outcome }));
                }
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
                    if let Heard::Pushed { outcome: Ok(_), .. } = &heard {
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
