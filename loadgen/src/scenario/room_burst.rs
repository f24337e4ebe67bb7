//! `room-burst`: pushes to rooms through the HTTP API; every copy is accounted for.
//!
//! - Open loop (`--rate`): messages are due on a schedule, and lateness of any kind counts as latency.
//! - Closed loop (`--outstanding`): so many messages of a room are under way until the last member of each has it.
//! - A few threads hold one keep-alive connection each. The server's acceptance of a push numbers it in its room.

use crate::{
    clock,
    crowd::room::{Load as Message, MESSAGES_MAX},
    http::{Api, Pushed, RoomPush},
    options::RoomBurst,
    scenario::{
        Answer, Load, Script, Sent, conduct,
        crew::{Crew, Event},
        publish, spawn_named,
    },
    worker::Activity,
};
use anyhow::Result;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Pushes handed to the sender threads and not begun. Beyond it the pacer waits; intended times stand.
const JOBS_MAX: usize = 512;
/// A message that some member still lacks after this no longer holds a place in the closed loop: its copies are lost, and will be reported.
const STUCK: Duration = Duration::from_secs(5);
/// After the last message was due, the server has this long to accept what is queued.
const ACCEPT_MAX: Duration = Duration::from_secs(15);
/// Accepted messages that are kept one by one for the journal; of later ones the sums stand there. Refused ones are always kept.
pub(crate) const KEPT_MAX: usize = 200_000;

/// Runs it.
pub(crate) fn run(options: &RoomBurst) -> Result<bool> {
    let script = Script { rooms: options.rooms, at_least_once: options.qos == 1, ..Script::new("room-burst", Activity::Listen) };
    let traffic = Traffic {
        rate: options.rate,
        outstanding: options.outstanding,
        length: Duration::from_secs(u64::from(options.seconds)),
        app_id: options.common.app_id,
        qos: options.qos,
        class: options.class,
        payload_bytes: options.payload as usize,
        senders: options.senders,
        kept_max: if options.common.report.is_some() { KEPT_MAX } else { 0 },
    };
    let run = conduct(&options.common, &script, |crew, api| Burst::begin(traffic, crew, api)?.run(crew))?;
    publish(&options.common, &run)
}

/// What is sent to the rooms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    /// Messages per second and room, in an open loop.
    pub(crate) rate: f64,
    /// Closed loop: messages of each room under way.
    pub(crate) outstanding: Option<u32>,
    pub(crate) length: Duration,
    pub(crate) app_id: i32,
    pub(crate) qos: u8,
    pub(crate) class: u8,
    /// Of each message's data.
    pub(crate) payload_bytes: usize,
    /// Threads that push.
    pub(crate) senders: u32,
    /// Accepted messages that are kept one by one.
    pub(crate) kept_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Job {
    room: usize,
    message: Message,
}

/// The sending side of a run.
pub(crate) struct Burst {
    rooms: Vec<RoomState>,
    workers_of_room: Vec<u32>,
    jobs: Option<SyncSender<Job>>,
    senders: Vec<JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
    traffic: Traffic,
    load: Load,
    /// Handed to the senders and not answered.
    queued: u64,
    /// Closed loop: when a message was handed out, and the workers that have it.
    under_way: HashMap<(usize, u32), (Instant, u32)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct RoomState {
    next: u32,
    under_way: u32,
}

impl Burst {
    pub(crate) fn begin(traffic: Traffic, crew: &Crew, api: &Api) -> Result<Self> {
        let (jobs, receiver) = mpsc::sync_channel(JOBS_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        let is_over = Arc::new(AtomicBool::new(false));
        let mut senders = Vec::new();
        for index in 0..traffic.senders {
            let (api, outcomes, receiver, is_over) = (api.clone(), crew.push_outcomes(), Arc::clone(&receiver), Arc::clone(&is_over));
            let rooms = crew.room_ids.clone();
            senders.push(spawn_named(&format!("sender-{index}"), move || {
                while let Some(job) = next_job(&receiver) {
                    let outcome = if is_over.load(Ordering::Relaxed) {
                        Err("time was up".to_owned())
                    } else {
                        let data = job.message.data(traffic.payload_bytes);
                        let (qos, class) = (i32::from(traffic.qos), i32::from(traffic.class));
                        api.push(&RoomPush::new(traffic.app_id, rooms[job.room], &data, qos, class)).map_err(|error| format!("{error:#}"))
                    };
                    outcomes.tell(job.room, job.message, outcome);
                }
            })?);
        }
        let rooms = crew.room_ids.len();
        Ok(Self {
            rooms: vec![RoomState::default(); rooms],
            workers_of_room: crew.workers_of_room.clone(),
            jobs: Some(jobs),
            senders,
            is_over,
            traffic,
            load: Load { accepted: vec![0; rooms], ..Load::default() },
            queued: 0,
            under_way: HashMap::new(),
        })
    }

    pub(crate) fn run(mut self, crew: &mut Crew) -> Result<Load> {
        let began = Instant::now();
        self.load.first_ns = clock::now_ns();
        match self.traffic.outstanding {
            Some(outstanding) => self.run_closed(crew, began + self.traffic.length, outstanding)?,
            None => self.run_open(crew, began)?,
        }
        self.load.seconds = began.elapsed().as_secs_f64();
        // What is queued may still be accepted; what is not in time never will be.
        let deadline = Instant::now() + ACCEPT_MAX;
        while self.queued > 0 {
            match crew.next_event(deadline)? {
                Some(event) => self.on_event(event),
                None if Instant::now() < deadline => {}
                None => break,
            }
        }
        self.is_over.store(true, Ordering::Relaxed);
        self.jobs = None;
        for sender in self.senders.drain(..) {
            sender.join().ok();
        }
        while self.queued > 0 {
            let Some(event) = crew.next_event(Instant::now())? else { break };
            self.on_event(event);
        }
        Ok(self.load)
    }

    /// Message `k` is due `k / (rate · rooms)` after the start and goes to room `k` modulo the rooms, so that rooms take turns.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a run is far below 2^52 messages"
    )]
    fn run_open(&mut self, crew: &mut Crew, began: Instant) -> Result<()> {
        let per_s = self.traffic.rate * self.rooms.len() as f64;
        let total = (per_s * self.traffic.length.as_secs_f64()).floor() as u64;
        for nth in 0..total {
            let offset = Duration::from_secs_f64(nth as f64 / per_s);
            while let Some(event) = crew.next_event(began + offset)? {
                self.on_event(event);
            }
            // What was due later was not due.
            if crew.is_cut_short() {
                return Ok(());
            }
            let room = (nth % self.rooms.len() as u64) as usize;
            let intended_ns = self.load.first_ns + offset.as_nanos() as u64;
            while !self.hand_out(room, intended_ns) {
                if crew.is_cut_short() {
                    return Ok(());
                }
                if began.elapsed() > self.traffic.length + ACCEPT_MAX {
                    self.load.unsent += total - nth;
                    return Ok(());
                }
                if let Some(event) = crew.next_event(Instant::now() + Duration::from_millis(1))? {
                    self.on_event(event);
                }
            }
        }
        Ok(())
    }

    fn run_closed(&mut self, crew: &mut Crew, until: Instant, outstanding: u32) -> Result<()> {
        let mut next_sweep = Instant::now() + STUCK;
        while Instant::now() < until && !crew.is_cut_short() {
            for room in 0..self.rooms.len() {
                while self.rooms[room].under_way < outstanding && self.hand_out(room, clock::now_ns()) {}
            }
            if let Some(event) = crew.next_event(until.min(next_sweep))? {
                self.on_event(event);
            }
            if Instant::now() >= next_sweep {
                next_sweep = Instant::now() + STUCK;
                self.give_up_stuck();
            }
        }
        Ok(())
    }

    /// Gives a message to the senders; `false` when they have enough.
    fn hand_out(&mut self, room: usize, intended_ns: u64) -> bool {
        let state = &mut self.rooms[room];
        let message = Message { number: state.next, intended_ns };
        // Messages beyond what a worker books could not be accounted for.
        if state.next >= MESSAGES_MAX {
            return false;
        }
        let jobs = self.jobs.as_ref().expect("the senders live as long as the load");
        match jobs.try_send(Job { room, message }) {
            Ok(()) => {
                state.next += 1;
                state.under_way += 1;
                self.queued += 1;
                if self.traffic.outstanding.is_some() {
                    self.under_way.insert((room, message.number), (Instant::now(), 0));
                }
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Pushed { room, message, answered_ns, outcome } => {
                self.queued -= 1;
                self.on_pushed(room, message, answered_ns, outcome);
            }
            Event::Done { messages } => {
                for (room, number) in messages {
                    let Some((_, workers)) = self.under_way.get_mut(&(room, number)) else { continue };
                    *workers += 1;
                    if *workers == self.workers_of_room[room] {
                        self.complete(room, number);
                    }
                }
            }
        }
    }

    fn on_pushed(&mut self, room: usize, message: Message, answered_ns: u64, outcome: Result<Pushed, String>) {
        let answer = match outcome {
            Ok(pushed) => {
                self.load.accepted[room] += 1;
                if self.load.kept >= self.traffic.kept_max {
                    return;
                }
                self.load.kept += 1;
                Answer::Accepted(pushed)
            }
            Err(cause) => {
                self.load.unsent += 1;
                *self.load.refused.entry(cause.clone()).or_default() += 1;
                self.complete(room, message.number);
                Answer::Refused(cause)
            }
        };
        self.load.sent.push(Sent { room, message, answered_ns, answer });
    }

    fn complete(&mut self, room: usize, number: u32) {
        if self.under_way.remove(&(room, number)).is_some() {
            self.rooms[room].under_way -= 1;
        }
    }

    fn give_up_stuck(&mut self) {
        let stuck: Vec<_> = self.under_way.iter().filter(|(_, (since, _))| since.elapsed() > STUCK).map(|(&message, _)| message).collect();
        for (room, number) in stuck {
            self.complete(room, number);
        }
    }
}

fn next_job(receiver: &Mutex<Receiver<Job>>) -> Option<Job> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
