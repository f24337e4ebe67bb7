//! What all scenarios with a server have in common: prepare, connect, load, drain, settle the account.
//!
//! - A run always ends by itself: every wait below has a deadline.
//! - The parent sends room messages and counts them; workers receive. Expected copies follow from what the server accepted, never from what
//!   was tried.

mod ceiling;
pub(crate) mod check;
pub(crate) mod crew;
pub(crate) mod echo;
pub(crate) mod gift_rain;
mod gifts;
pub(crate) mod hold;
pub(crate) mod limit;
pub(crate) mod measures;
pub(crate) mod pk_night;
mod plans;
pub(crate) mod reconnect_herd;
pub(crate) mod room_burst;
mod server;
pub(crate) mod slow_readers;
pub(crate) mod storm;
pub(crate) mod unicast;

use crate::{
    accounts::{self, Rooms},
    clock,
    crowd::{room::Load as Message, slow::Slow},
    gifts::GiftPlan,
    http::{Api, Counters, KeyRefused, Pushed, RoomKind, Unanswered},
    interrupt::{Interrupt, Signal},
    journal::Journal,
    options::Common,
    page,
    proc::{MemoryPeak, Usage, cpu_by_name},
    redis::{self, RedisLoad},
    report::{GeneratorReport, Report},
    transport::Transport,
    worker::Activity,
};
use anyhow::{Context, Result, bail};
use billfish_wire::Class;
use crew::Crew;
use measures::Measures;
use plans::plans;
use server::Server;
use std::{
    collections::BTreeMap,
    io::{self, Write},
    thread,
    time::{Duration, Instant},
};

/// A worker drains for 20 s at most and then reports.
const REPORT_MAX: Duration = Duration::from_secs(60);
/// Between the last join and the first message: join notices and audience counts have gone out by then.
const REST: Duration = Duration::from_secs(2);
/// A login that takes longer has failed; the gateway itself gives 5 s.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The command line asks for something that cannot be; exit code 2.
#[derive(Debug)]
pub(crate) struct WrongUse(String);

impl std::fmt::Display for WrongUse {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::error::Error for WrongUse {}

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
    /// As [`Common`] says.
    pub(crate) transport: Transport,
    pub(crate) rooms: usize,
    pub(crate) activity: Activity,
    pub(crate) at_least_once: bool,
    /// See [`Plan::return_spread`].
    pub(crate) return_spread: Option<Duration>,
    /// Some read slowly while messages of a class are sent.
    pub(crate) slow: Option<SlowScript>,
    /// Some send gifts.
    pub(crate) gifts: Option<GiftScript>,
}

/// The part of a script that is about gifts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GiftScript {
    /// Gifts a second, of all together.
    pub(crate) per_s: f64,
    pub(crate) seconds: u32,
    /// They move bars.
    pub(crate) is_pk: bool,
    /// How many send; `None`: as many as the rate asks for.
    pub(crate) senders: Option<usize>,
    /// See [`GiftPlan`].
    pub(crate) combo_permille: u16,
    pub(crate) retry_permille: u16,
    /// Gifts without a final answer at any time.
    pub(crate) window: usize,
    /// What each sender is given; `None`: enough.
    pub(crate) coins: Option<i64>,
    /// Of a gift.
    pub(crate) price_max: i64,
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
        Self { name, transport: Transport::Tcp, rooms: 0, activity, at_least_once: false, return_spread: None, slow: None, gifts: None }
    }
}

/// A run that is over.
pub(crate) struct Run {
    script: Script,
    seed: u64,
    /// Of the plan.
    rooms: Vec<i64>,
    measures: Measures,
    report: Report,
    /// Signals are remembered until the figures are where they belong.
    _held: Interrupt,
}

/// Figures that could not be read when their time had come, and why. The run goes on without them: what else it measures is not lost.
#[derive(Debug, Default)]
struct Unmeasured(BTreeMap<String, String>);

impl Unmeasured {
    /// A reading, where there is one.
    fn take<T>(&mut self, what: &str, reading: Result<T>) -> Option<T> {
        // The first reason is the one that matters.
        reading.map_err(|error| self.0.entry(what.to_owned()).or_insert_with(|| format!("{error:#}"))).ok()
    }

    fn server(&mut self, common: &Common) -> Option<Usage> {
        self.take("CPU time and memory of the server", Usage::of(&common.server_pid)).flatten()
    }

    fn beside(&mut self, common: &Common) -> Option<BTreeMap<String, f64>> {
        self.take("CPU time of the processes beside", cpu_by_name(&common.beside))
    }

    fn counters(&mut self, reading: Result<Counters>) -> Option<Counters> {
        self.take("the gateway's counters", reading)
    }

    fn generator(&mut self, crew: &Crew) -> Option<Usage> {
        self.take("CPU time of the load generator", Usage::of(&crew.pids())).flatten()
    }
}

/// Runs one scenario: `load` is what happens between the last join and the drain.
pub(crate) fn conduct(common: &Common, script: &Script, load: impl FnOnce(&mut Crew, &Api) -> Result<Load>) -> Result<Run> {
    let script = Script { transport: common.transport, ..*script };
    refuse(common, &script)?;
    let server = Server::of(common)?;
    if script.slow.is_some() && server.admin.is_empty() {
        bail!(WrongUse(format!("{} needs --admin or --ports-file: the account is made of the gateway's counters too", script.name)));
    }
    // What is found out now costs no run.
    if let Some(directory) = &common.report {
        page::prepare(directory).map_err(|error| WrongUse(format!("--report {}: {error}", directory.display())))?;
    }
    Usage::of(&common.server_pid).map_err(|error| WrongUse(format!("--server-pid: {error:#}")))?;
    cpu_by_name(&common.beside).map_err(|error| WrongUse(format!("--beside: {error:#}")))?;
    server.counters().context("--admin")?;
    let held = Interrupt::hold()?;
    let seed = common.seed.unwrap_or_else(|| clock::now_ns() >> 20);
    let api = Api::new(&server.http, &server.api_key);
    let signal = held.signal();
    api.token(common.app_id, accounts::first_user_id(seed)).map_err(|error| explain(error, &server))?;
    let kind = if script.gifts.is_some_and(|gifts| gifts.is_pk) { RoomKind::Pk } else { RoomKind::Normal };
    let (opened, outcome) = Rooms::open(&api, seed, script.rooms, kind, &mut || signal.check());
    let rooms = opened.ids();
    let prepared = outcome.and_then(|()| {
        let gifts = script.gifts.as_ref();
        gifts.map(|gifts| gifts::prepare(common, gifts, seed, rooms.len(), &api, &mut || signal.check())).transpose()
    });
    let outcome = prepared.and_then(|gifts| conduct_in(common, &script, &server, seed, &rooms, gifts, &api, &signal, load));
    // Also those of a run that never began.
    if let Err(error) = opened.close(&api) {
        note(&format!("{error:#}"));
    }
    let (measures, mut report) = outcome?;
    // A report that is kept states its own ceiling: the figures of two machines, or of two days of one, are compared by it.
    if (common.limit || common.report.is_some() && !common.no_limit) && !report.detail.interrupted {
        // The run is over and paid for: its figures are not lost with those of the probe.
        if let Err(error) = ceiling::add(&mut report, &signal) {
            note(&format!("the limit was not measured: {error:#}"));
            report.detail.interrupted = signal.came();
        }
    }
    Ok(Run { script, seed, rooms, measures, report, _held: held })
}

/// The first call has failed: what to do about it.
fn explain(error: anyhow::Error, server: &Server) -> anyhow::Error {
    if error.is::<KeyRefused>() {
        return WrongUse(format!("{error:#}: the key is from {}; --api-key or --data-dir names another", server.key_source)).into();
    }
    if error.is::<Unanswered>() {
        let http = &server.http;
        return error.context(format!("is the server running? It should answer on {http} (start it with: cargo run --release)"));
    }
    error
}

/// What no run could do, although each option by itself is right.
fn refuse(common: &Common, script: &Script) -> Result<()> {
    let (connections, rooms, users) = (common.connections, script.rooms, accounts::USERS_PER_SEED);
    // Each room has an anchor among the seed's users.
    if connections as u64 + rooms as u64 > users.unsigned_abs() {
        bail!(WrongUse(format!("--connections {connections} and --rooms {rooms} are together more than the {users} users of a seed")));
    }
    if common.resume_tls && !common.transport.is_encrypted() {
        bail!(WrongUse(format!("--resume-tls needs --transport tls, wss or quic: {} has no tickets", common.transport)));
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "what a run is made of")]
fn conduct_in(
    common: &Common,
    script: &Script,
    server: &Server,
    seed: u64,
    rooms: &[i64],
    gifts: Option<GiftPlan>,
    api: &Api,
    interrupt: &Signal,
    load: impl FnOnce(&mut Crew, &Api) -> Result<Load>,
) -> Result<(Measures, Report)> {
    let mut crew = Crew::assemble(common, server, &plans(common, server, seed, rooms, script, gifts.as_ref())?, interrupt.clone())?;
    crew.wait_prepared()?;
    let redis = if common.redis.is_empty() { None } else { Some(redis::Watch::start(common.redis.clone())?) };
    let mut unmeasured = Unmeasured::default();
    let before = unmeasured.server(common);
    let beside_before = unmeasured.beside(common);
    let connect_began = Instant::now();
    let settled = crew.connect(Duration::from_secs(u64::from(common.connect_max)) + LOGIN_TIMEOUT + REPORT_MAX)?;
    let connect_s = connect_began.elapsed().as_secs_f64();
    let connected = unmeasured.server(common);
    let beside_connected = unmeasured.beside(common);
    if let Some(gifts) = &gifts {
        gifts::begin_pks(api, rooms, gifts, &mut || interrupt.check())?;
    }
    crew.rest(REST)?;

    let counters_from = unmeasured.counters(server.counters());
    let load_from = unmeasured.server(common);
    let beside_from = unmeasured.beside(common);
    let generator_from = unmeasured.generator(&crew);
    let memory = script.slow.filter(|_| !common.server_pid.is_empty()).map(|_| MemoryPeak::watch(common.server_pid.clone()));
    let commands_from = redis.as_ref().and_then(|_| unmeasured.take("commands of Redis", redis::commands(&common.redis)));
    let connect_peak_per_s = redis.as_ref().map_or(0, redis::Watch::take_peak_per_s);
    crew.begin();
    let load = load(&mut crew, api)?;
    let held = unmeasured.server(common);
    let generator_held = unmeasured.generator(&crew);
    let seen = crew.finish(&load.accepted)?;
    // A worker process that has reported still is an entry of /proc: it is waited for when the crew is dropped.
    let generator_after = unmeasured.generator(&crew);
    let generator = generator_from.zip(generator_held).zip(generator_after).map(|((from, held), after)| GeneratorReport {
        processes: crew.pids().len(),
        cpu_s: (after - from).cpu_s,
        cpu_us_per_copy: None,
        rss_bytes: held.rss_bytes,
    });
    let after = unmeasured.server(common);
    let beside_after = unmeasured.beside(common);
    let commands_after = redis.as_ref().and_then(|_| unmeasured.take("commands of Redis", redis::commands(&common.redis)));
    let called = commands_from.zip(commands_after).map(|(from, after)| redis::between(&from, &after));
    let redis = called.zip(redis.as_ref()).map(|(by_command, watch)| RedisLoad {
        commands: by_command.values().sum(),
        peak_per_s: watch.take_peak_per_s(),
        connect_peak_per_s,
        per_delivery: None,
        by_command,
    });
    let mut measures = Measures {
        settled,
        connect_s,
        load,
        seen,
        counters: None,
        before,
        connected,
        load_from,
        held,
        after,
        beside: [beside_before, beside_connected, beside_from, beside_after],
        memory_peak_bytes: memory.map(MemoryPeak::end),
        generator,
        redis,
        unmeasured: BTreeMap::new(),
        is_cut_short: crew.is_cut_short(),
        server_bars: script.gifts.filter(|gifts| gifts.is_pk).and_then(|_| unmeasured.take("the bars", gifts::bars(api, rooms))),
        gifts,
    };
    if let Some(from) = &counters_from {
        let is_whole = |counters: &Counters| {
            let is_settled = script.gifts.is_none() || counters.imbalance() == Some(0);
            is_settled && script.slow.is_none_or(|slow| measures.lag_account(&slow, counters).is_booked())
        };
        measures.counters = unmeasured.counters(server.settled_counters(from, is_whole));
    }
    measures.unmeasured = unmeasured.0;
    let report = Report { series: crew.into_series(), ..measures.report(script, seed) };
    Ok((measures, report))
}

/// Waits out a load that the workers make by themselves.
pub(crate) fn let_run(crew: &mut Crew, seconds: u32) -> Result<Load> {
    let (began, first_ns) = (Instant::now(), clock::now_ns());
    crew.rest(Duration::from_secs(u64::from(seconds)))?;
    Ok(Load { first_ns, seconds: began.elapsed().as_secs_f64(), ..Load::default() })
}

/// Prints the result, then keeps it where it was asked for: what cannot be written any more was at least seen. `false` when the run found something
/// wrong.
pub(crate) fn publish(common: &Common, run: &Run) -> Result<bool> {
    let Run { script, seed, rooms, measures, report, .. } = run;
    let json = serde_json::to_string(report).context("a report is plain data")?;
    let printed = print(common, report, &json);
    let problems = report.problems();
    for problem in &problems {
        note(problem);
    }
    if let Some(directory) = &common.report {
        let journal = Journal { script, seed: *seed, room_ids: rooms, measures, report };
        let kept = journal.write(directory).and_then(|()| page::keep(directory, report, &json));
        kept.with_context(|| format!("--report {}", directory.display()))?;
    }
    printed.context("standard output")?;
    Ok(problems.is_empty())
}

fn print(common: &Common, report: &Report, json: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    if common.json {
        writeln!(output, "{json}")?
    } else {
        write!(output, "{report}")?
    }
    output.flush()
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
