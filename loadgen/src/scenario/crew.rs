//! The workers as the parent holds them: told what to do, listened to, and looked at while they do it.
//!
//! - Every wait has a deadline. An interrupt ends the run before the load, cuts the load short, and changes nothing behind it: the drain and the
//!   reports have deadlines of their own.
//! - The view and the series are fed on the way, whatever is waited for.

use crate::{
    clock,
    crowd::room::Load as Message,
    http::Pushed,
    interrupt::Signal,
    live::LiveView,
    options::Common,
    sampler::Sampler,
    scenario::{REPORT_MAX, server::Server},
    series::{Series, Step},
    worker::{News, Order, Plan, Settled, Worker, WorkerReport},
};
use anyhow::{Context, Result, bail};
use std::{
    io::{self, IsTerminal},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

/// Tokens for the largest worker (20,000 clients) take seconds; beyond this the token service is not working.
const PREPARE_MAX: Duration = Duration::from_secs(240);
/// A signal that came while nothing was heard is noticed after so long.
const HEAR_MAX: Duration = Duration::from_millis(200);

/// The workers, as the parent holds them.
#[derive(Debug)]
pub(crate) struct Crew {
    /// First: it is cleared before anything that may take its time, or speak, ends.
    view: LiveView,
    interrupt: Signal,
    stage: Stage,
    is_cut_short: bool,
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

/// What an interrupt means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was measured yet that is worth telling: the end.
    Coming,
    /// The load is over.
    Load,
    /// Nothing: what was measured is being collected.
    Closing,
}

impl Crew {
    pub(super) fn assemble(common: &Common, server: &Server, plans: &[Plan], interrupt: Signal) -> Result<Self> {
        let (sender, heard) = mpsc::channel();
        let mut workers = Vec::with_capacity(plans.len());
        for (index, plan) in plans.iter().enumerate() {
            let news = sender.clone();
            let tell = move |said| {
                news.send(Heard::News(index, said)).ok();
            };
            workers.push(if plans.len() == 1 { Worker::in_thread(plan.clone(), tell)? } else { Worker::in_process(plan, tell)? });
        }
        let is_watched = !common.json && io::stderr().is_terminal();
        // Reading the counters costs the server something: it is done for eyes alone.
        let admin = if is_watched { server.admin.clone() } else { Vec::new() };
        let own = workers.iter().filter_map(Worker::pid).collect();
        Ok(Self {
            view: LiveView::begin(is_watched, common.connections, workers.len()),
            interrupt,
            stage: Stage::Coming,
            is_cut_short: false,
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

    pub(super) fn wait_prepared(&mut self) -> Result<()> {
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

    pub(super) fn connect(&mut self, within: Duration) -> Result<Settled> {
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
                all.tls_full += one.tls_full;
                all.tls_resumed += one.tls_resumed;
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
            let causes: Vec<_> = all.failures.iter().map(|(cause, count)| format!("{count}: {cause}")).collect();
            bail!("nobody could log in: {}", causes.join("; "));
        }
        Ok(all)
    }

    /// This process and those of the workers.
    pub(super) fn pids(&self) -> Vec<u32> {
        [std::process::id()].into_iter().chain(self.workers.iter().filter_map(Worker::pid)).collect()
    }

    /// Whether an interrupt has ended the load before its time.
    pub(crate) fn is_cut_short(&self) -> bool {
        self.is_cut_short
    }

    /// Listens to progress, and nothing else, for a while.
    pub(crate) fn rest(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while self.hear(until)?.is_some() {}
        Ok(())
    }

    pub(super) fn begin(&mut self) {
        self.view.phase("load");
        self.series.mark(clock::now_ns(), Step::Load);
        self.stage = Stage::Load;
        self.order(&Order::Begin);
    }

    /// The next thing that concerns the load; `None` when `until` has come, and once when the load is cut short.
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

    pub(super) fn finish(&mut self, accepted: &[u32]) -> Result<WorkerReport> {
        self.view.phase("draining");
        self.stage = Stage::Closing;
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
    pub(super) fn into_series(self) -> Series {
        self.series
    }

    fn order(&self, order: &Order) {
        for worker in &self.workers {
            worker.order(order.clone());
        }
    }

    /// The next thing heard, `None` at `until` or when the load is cut short; what is for the view and the plots alone is taken on the way.
    fn hear(&mut self, until: Instant) -> Result<Option<Heard>> {
        loop {
            match self.stage {
                Stage::Coming => self.interrupt.check()?,
                Stage::Load if self.interrupt.came() && !self.is_cut_short => {
                    self.is_cut_short = true;
                    return Ok(None);
                }
                Stage::Load | Stage::Closing => {}
            }
            let wait = until.saturating_duration_since(Instant::now()).min(HEAR_MAX);
            let heard = self.heard.recv_timeout(wait);
            self.take_looks();
            match heard {
                Ok(Heard::News(_, News::Failed(cause))) => {
                    // A worker process that the same signal met as it began is no fault.
                    if self.stage == Stage::Coming {
                        self.interrupt.check()?;
                    }
                    bail!("{cause}")
                }
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

/// The present second of `CLOCK_MONOTONIC`.
fn second() -> u64 {
    clock::now_ns() / 1_000_000_000
}
