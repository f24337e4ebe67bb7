//! One life of a real router, in a runtime of its own whose time is the world's.
//!
//! - A crash drops the runtime: every task ends where it waits, as in a process that is killed.
//! - A pause does not run it: when it goes on, its time jumps and all its timers are due at once, as after SIGCONT.
//! - Between two steps of the world nothing in here moves.

use crate::{
    bug::Bug,
    records::{Database, Records},
    store::{Line, Reached, Stragglers, Weather},
    trace::{Trace, note},
};
use billfish_link::Link;
use billfish_router::{
    ChatConfig, LinkConfig, RoomConfig, RouterConfig, RouterParts, Running, StartError,
    handle::{PushRequest, Target},
    services::ports::Absent,
};
use billfish_state::{AppId, Clock, RoomId, State, Watch};
use billfish_wire::{BizCode, Class};
use prometheus_client::registry::Registry;
use std::{sync::Arc, time::Duration};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
    task::JoinHandle,
    time::Instant,
};

/// Unix time at the beginning of every world.
pub(crate) const UNIX_MS: u64 = 1_760_000_000_000;

/// What routers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) truth: State,
    pub(crate) database: Arc<Database>,
    pub(crate) stragglers: Stragglers,
    pub(crate) trace: Trace,
    pub(crate) bug: Option<Bug>,
    pub(crate) room_lease: Duration,
}

enum Phase {
    Starting(JoinHandle<Result<Running, StartError>>),
    Up(Running),
    Draining(JoinHandle<()>),
    Over,
}

/// A router, dead or alive.
pub(crate) struct Router {
    pub(crate) name: String,
    /// The lines to state and database.
    pub(crate) state_line: Arc<Line>,
    pub(crate) record_line: Arc<Line>,
    watch: Watch,
    runtime: Option<Runtime>,
    phase: Phase,
    began: Instant,
    /// World time of `began`, and how far it has been run.
    began_ms: u64,
    run_to_ms: u64,
    paused_until_ms: u64,
}

impl Router {
    /// Begins a life, with its chances drawn from `seed` where tokio was built with `tokio_unstable`. `skew_ms`: how far its clock is ahead of the store's; it is the same in every life of a node.
    #[expect(unexpected_cfgs, reason = "given to all crates by RUSTFLAGS, where it is given")]
    pub(crate) fn start(name: &str, shared: &Shared, seed: u64, skew_ms: u64, now: u64) -> Self {
        let mut builder = Builder::new_current_thread();
        builder.enable_time().start_paused(true);
        #[cfg(tokio_unstable)]
        builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
        let runtime = builder.build().expect("a runtime without sockets");
        let inside = runtime.enter();
        let (began, clock, watch) = (Instant::now(), Clock::start(), Watch::default());
        clock.set(UNIX_MS + now + skew_ms);
        let state_line = Line::new(name, seed ^ 1, shared.trace.clone());
        let record_line = Line::new(name, seed ^ 2, shared.trace.clone());
        let reached =
            Reached { truth: shared.truth.clone(), line: Arc::clone(&state_line), stragglers: shared.stragglers.clone(), bug: shared.bug };
        let state = reached.state(clock, watch.clone());
        let records = Arc::new(Records { database: Arc::clone(&shared.database), line: Arc::clone(&record_line) });
        let config = config(name, shared.room_lease);
        let starting = runtime.spawn(async move {
            let mut registry = Registry::default();
            billfish_router::start(RouterParts {
                config,
                state,
                records,
                money: Arc::new(Absent),
                till: Arc::new(Absent),
                people: Arc::new(Absent),
                registry: &mut registry,
            })
            .await
        });
        drop(inside);
        Self {
            name: name.to_owned(),
            state_line,
            record_line,
            watch,
            runtime: Some(runtime),
            phase: Phase::Starting(starting),
            began,
            began_ms: now,
            run_to_ms: now,
            paused_until_ms: 0,
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.runtime.is_some()
    }

    /// Takes links.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up(_))
    }

    pub(crate) fn is_paused(&self, now: u64) -> bool {
        now < self.paused_until_ms
    }

    /// When it is run again; 0: it is not stopped.
    pub(crate) fn goes_on_at(&self) -> u64 {
        self.paused_until_ms
    }

    /// A gateway has dialled in.
    pub(crate) fn attach(&self, link: Link) {
        if let (Some(runtime), Phase::Up(running)) = (&self.runtime, &self.phase) {
            let _inside = runtime.enter();
            running.attach(link);
        }
    }

    /// The business backend pushes to a room, with QoS 1; `answer` hears whether it was taken, unless this life ends before.
    pub(crate) fn push(&self, room: RoomId, text: &str, answer: mpsc::Sender<(String, bool)>) {
        let (Some(runtime), Phase::Up(running)) = (&self.runtime, &self.phase) else { return };
        let request = PushRequest {
            app: AppId(crate::world::APP),
            target: Target::Room(room),
            biz_code: BizCode::ROOM_CHAT.0,
            data: format!(r#"{{"content":"{text}"}}"#),
            qos: 1,
            class: Class::Event,
            key: None,
        };
        let (handle, text) = (running.handle(), text.to_owned());
        runtime.spawn(async move {
            let is_taken = handle.push(request).await.is_ok();
            // The world is over when nobody hears it.
            answer.send((text, is_taken)).await.ok();
        });
    }

    /// Not run until then.
    pub(crate) fn pause(&mut self, until: u64) {
        self.paused_until_ms = self.paused_until_ms.max(until);
    }

    /// Killed.
    pub(crate) fn crash(&mut self) {
        self.phase = Phase::Over;
        self.runtime = None;
    }

    /// Told to go. It is over when its drain is.
    pub(crate) fn drain(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Up(running) => {
                if let Some(runtime) = &self.runtime {
                    self.phase = Phase::Draining(runtime.spawn(async move { running.drain().await }));
                }
            }
            other @ (Phase::Starting(_) | Phase::Draining(_) | Phase::Over) => self.phase = other,
        }
    }

    pub(crate) fn set_weather(&self, state: Weather, records: Weather) {
        self.state_line.set(state);
        self.record_line.set(records);
        self.watch.set_away(state.away.then(|| "no answer".to_owned()));
    }

    /// The way to the state is whole again: the store may have forgotten.
    pub(crate) fn state_is_back(&self) {
        self.watch.may_have_forgotten();
    }

    /// Lives until `now`; `true` when a life has ended or begun by it.
    pub(crate) fn run_to(&mut self, now: u64, trace: &Trace) -> bool {
        if self.is_paused(now) || now <= self.run_to_ms {
            return false;
        }
        let Some(runtime) = &self.runtime else { return false };
        let jump_ms = self.paused_until_ms.saturating_sub(self.run_to_ms);
        if self.paused_until_ms > 0 && jump_ms > 0 {
            runtime.block_on(tokio::time::advance(Duration::from_millis(jump_ms)));
        }
        self.paused_until_ms = 0;
        self.run_to_ms = now;
        let until = self.began + Duration::from_millis(now - self.began_ms);
        runtime.block_on(async move { tokio::time::sleep_until(until).await });
        match &mut self.phase {
            Phase::Starting(starting) if starting.is_finished() => {
                let started = runtime.block_on(starting);
                match started.expect("a start does not panic") {
                    Ok(running) => {
                        note!(trace, "{} is up", self.name);
                        self.phase = Phase::Up(running);
                    }
                    Err(error) => {
                        note!(trace, "{} did not start: {error}", self.name);
                        self.crash();
                    }
                }
                true
            }
            Phase::Draining(draining) if draining.is_finished() => {
                runtime.block_on(draining).expect("a drain does not panic");
                note!(trace, "{} has drained", self.name);
                self.crash();
                true
            }
            Phase::Starting(_) | Phase::Up(_) | Phase::Draining(_) | Phase::Over => false,
        }
    }
}

fn config(name: &str, lease: Duration) -> RouterConfig {
    RouterConfig {
        node: name.to_owned(),
        link: LinkConfig::default(),
        room: RoomConfig { lease, failed_joins_per_minute: 10_000, ..RoomConfig::default() },
        // Chance would refuse and sample otherwise: the guards of rooms and chat are tested elsewhere.
        chat: ChatConfig {
            user_messages_max: 10_000,
            room_messages_per_s: 100_000,
            offline_messages_max: 100_000,
            ..ChatConfig::default()
        },
        heartbeat: Duration::from_millis(crate::gateway::HEARTBEAT_MS),
        grace: Duration::from_secs(3),
        ..RouterConfig::default()
    }
}
