//! The loop between one user's session machine and the world: it reads, writes, ticks and waits, and takes no protocol decision.
//!
//! ```text
//!   +--> ticket --> connect --> talk --+--> over
//!   |                           | ^    |
//!   |                           move   |
//!   +-------------- pause <------------+
//! ```
//!
//! - Calls are served at every point of the loop; offline the machine keeps them for the next connection.
//! - While the app has not taken its events the socket is not read. At most one read's worth of events waits in here.
//! - A move is made beside a connection that stands: up to three of them are read, and which is which the machine says.
//! - Every `select!` arm is cancel-safe: `recv`, `reserve`, `sleep_until` and readiness take nothing before they are chosen.

mod hearing;
mod moving;

use self::moving::{Moving, Step, Why};
use crate::{
    config::{ClientConfig, Ticket, TokenError},
    endpoint::{Endpoint, TransportKind},
    error::{ClientError, ConfigError},
    event::{Cause, Event},
    gift::{self, giving::Giving, stage::Stage},
    reconnect::{Backoff, Endpoints, STABLE_AFTER},
    transport::{ConnectError, Lost, Transport, Trust, race::race},
};
use billfish_session::{
    Time,
    client::{CallError, ClientAction, ClientConfig as SessionConfig, ClientEvent, ClientSession, Message},
};
use billfish_wire::Reason;
use std::{collections::VecDeque, future::Future, io, pin::pin, sync::Arc, time::Duration};
use tokio::{
    select,
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, info};

/// Events that calls may add while the app takes none.
const EVENTS_WAITING_MAX: usize = 4_096;

type Answer = oneshot::Sender<Result<(), ClientError>>;

/// A call of the app.
#[derive(Debug)]
pub(crate) enum Command {
    Join { room_id: i64, answer: Answer },
    Leave { room_id: i64, answer: Answer },
    Biz { message: Message, answer: Answer },
    Gift { message: Message, answer: Answer },
    SyncRoom { room_id: i64, from_seq: i64, answer: Answer },
    SyncInbox { answer: Answer },
    NetworkChanged { answer: Answer },
    Close { answer: Answer },
}

/// One user's session for as long as it lasts.
pub(crate) struct Driver {
    config: ClientConfig,
    session: ClientSession,
    commands: mpsc::Receiver<Command>,
    /// No call can come any more.
    is_mute: bool,
    events: mpsc::Sender<Event>,
    /// Events the app has no room for yet.
    waiting: VecDeque<Event>,
    giving: Giving,
    stage: Stage,
    backoff: Backoff,
    endpoints: Endpoints,
    began: Instant,
    /// Told when the session is over.
    closing: Vec<Answer>,
    ended: Option<Ended>,
    trust: Arc<Trust>,
    moving: Moving,
    /// Of the current connection.
    transport: TransportKind,
    /// Since when it is that.
    since: Instant,
    /// The network is another one: nothing that was begun on the old one is waited for.
    is_hurried: bool,
}

/// The connections of a session: one, and beside it the one that it moves to, or came from.
struct Lines {
    current: Transport,
    next: Option<Transport>,
    former: Option<Transport>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Current,
    Next,
    Former,
}

impl Lines {
    fn line(&mut self, line: Line) -> Option<&mut Transport> {
        match line {
            Line::Current => Some(&mut self.current),
            Line::Next => self.next.as_mut(),
            Line::Former => self.former.as_mut(),
        }
    }

    /// Waits until something can be done on one of them. Cancel-safe.
    async fn ready(&mut self, wants_read: bool) -> (Line, io::Result<()>) {
        async fn ready(transport: Option<&mut Transport>, wants_read: bool) -> io::Result<()> {
            match transport {
                Some(transport) => transport.ready(wants_read).await,
                None => std::future::pending().await,
            }
        }
        select! {
            outcome = ready(Some(&mut self.current), wants_read) => (Line::Current, outcome),
            outcome = ready(self.next.as_mut(), wants_read) => (Line::Next, outcome),
            outcome = ready(self.former.as_mut(), wants_read) => (Line::Former, outcome),
        }
    }

    /// The next connection is the current one, and that one the former.
    fn switch(&mut self) {
        if let Some(next) = self.next.take() {
            self.former = Some(std::mem::replace(&mut self.current, next));
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug)]
struct Ended {
    reason: Reason,
    reconnect: bool,
    retry_after: Duration,
}

/// Nothing more is to be done.
struct Over(Reason);

impl Driver {
    pub(crate) fn new(config: ClientConfig, commands: mpsc::Receiver<Command>, events: mpsc::Sender<Event>) -> Result<Self, ConfigError> {
        let session = ClientSession::new(SessionConfig {
            encoding: config.encoding,
            platform: config.platform.clone(),
            device_id: config.device_id.clone(),
            version: config.version.clone(),
            inbox: config.inbox,
            ..SessionConfig::new(config.app_id, config.user_id)
        });
        let now = Instant::now();
        Ok(Self {
            session,
            commands,
            is_mute: false,
            events,
            waiting: VecDeque::new(),
            giving: Giving::new(config.jitter_seed),
            stage: Stage::default(),
            backoff: Backoff::new(&config),
            endpoints: Endpoints::new(&config, now),
            began: now,
            closing: Vec::new(),
            ended: None,
            trust: Arc::new(Trust::new(&config.roots)?),
            moving: Moving::No,
            transport: TransportKind::Tcp,
            since: now,
            is_hurried: false,
            config,
        })
    }

    pub(crate) async fn run(mut self) {
        let Over(reason) = self.live().await;
        info!(user = self.config.user_id, reason = reason.label(), "session over");
        self.waiting.push_back(Event::Closed { reason });
        for answer in self.closing.drain(..) {
            // Who called close may have stopped waiting.
            answer.send(Ok(())).ok();
        }
        // Calls from here on hear that it is over.
        self.commands.close();
        for event in self.waiting.drain(..) {
            if self.events.send(event).await.is_err() {
                break;
            }
        }
    }

    /// Connection after connection, until one of them was the last.
    async fn live(&mut self) -> Over {
        loop {
            let delay = match self.connect_and_talk().await {
                Ok(delay) => delay,
                Err(over) => return over,
            };
            if let Err(over) = self.meanwhile(sleep(delay)).await {
                return over;
            }
        }
    }

    /// One connection, from its ticket to its end. Gives the pause before the next one.
    async fn connect_and_talk(&mut self) -> Result<Duration, Over> {
        let fetch = timeout(self.config.token_timeout, self.config.tokens.fetch());
        let Ticket { token, addresses } = match self.meanwhile(fetch).await? {
            None => return Ok(Duration::ZERO),
            Some(Ok(Ok(ticket))) => ticket,
            Some(Ok(Err(TokenError::Refused(problem)))) => {
                debug!(user = self.config.user_id, problem, "token refused");
                return Err(Over(Reason::BadToken));
            }
            Some(Ok(Err(error @ TokenError::Away(_)))) => return Ok(self.pause(Cause::NoToken(error.to_string()), Duration::ZERO)),
            Some(Err(_)) => return Ok(self.pause(Cause::NoToken("no token in time".to_owned()), Duration::ZERO)),
        };
        self.endpoints.offer(&addresses);
        let endpoints = self.endpoints.choose(Instant::now());
        let Some(first) = endpoints.first() else {
            return Ok(self.pause(Cause::NoAddress, Duration::ZERO));
        };
        self.waiting.push_back(Event::Connecting { address: first.to_string() });
        let connecting = race(endpoints, Arc::clone(&self.trust), self.config.connect_timeout);
        match self.meanwhile(connecting).await? {
            None => Ok(Duration::ZERO),
            Some(Ok(transport)) => {
                self.endpoints.on_success(transport.endpoint().kind, Instant::now());
                let ended = self.talk(transport, &token).await;
                let was_draining = std::mem::replace(&mut self.moving, Moving::No).is_for_drain();
                debug!(user = self.config.user_id, reason = ended.reason.label(), "connection ended");
                if !ended.reconnect {
                    return Err(Over(ended.reason));
                }
                if self.since.elapsed() >= STABLE_AFTER {
                    self.backoff.reset();
                } else {
                    self.endpoints.on_failure();
                }
                if was_draining || self.is_hurried {
                    // The server chose the moment, and with it the jitter; or there is nothing to spare, as on a new network.
                    self.is_hurried = false;
                    self.waiting.push_back(Event::Disconnected { cause: Cause::Ended(ended.reason), retry_in: Duration::ZERO });
                    return Ok(Duration::ZERO);
                }
                Ok(self.pause(Cause::Ended(ended.reason), ended.retry_after))
            }
            Some(Err(failed)) => {
                self.endpoints.on_failure();
                let at_least = wait_of(&failed);
                Ok(self.pause(cause_of(failed), at_least))
            }
        }
    }

    fn pause(&mut self, cause: Cause, at_least: Duration) -> Duration {
        let retry_in = self.backoff.next_delay(at_least);
        self.waiting.push_back(Event::Disconnected { cause, retry_in });
        retry_in
    }

    /// Everything that happens from one login to the end of the last connection it moved to.
    async fn talk(&mut self, transport: Transport, token: &str) -> Ended {
        let events = self.events.clone();
        self.transport = transport.endpoint().kind;
        self.since = Instant::now();
        let order = transport.order();
        let mut lines = Lines { current: transport, next: None, former: None };
        self.session.on_connected(self.now(), token, order);
        self.carry_out(&mut lines);
        loop {
            if let Some(ended) = self.ended.take() {
                let Lines { current, next, former } = lines;
                [Some(current), next, former].into_iter().flatten().for_each(Transport::part);
                return ended;
            }
            let deadline = self.deadline();
            let wants_read = self.waiting.is_empty();
            let (commands, is_mute, moving) = (&mut self.commands, self.is_mute, &mut self.moving);
            select! {
                (line, outcome) = lines.ready(wants_read) => self.on_ready(&mut lines, line, outcome, wants_read),
                step = moving.step() => self.on_step(&mut lines, step),
                command = commands.recv(), if !is_mute => self.on_command(command, Some(&mut lines)),
                permit = events.reserve(), if !wants_read => deliver(permit, &mut self.waiting),
                () = sleep_until(deadline) => self.on_tick(),
            }
            self.stop_if_alone();
            self.carry_out(&mut lines);
        }
    }

    fn on_tick(&mut self) {
        let now = self.now();
        self.session.on_tick(now);
        self.waiting.extend(self.giving.on_tick(now, &mut self.session));
    }

    /// Writes and reads what can be on one connection.
    fn on_ready(&mut self, lines: &mut Lines, line: Line, outcome: io::Result<()>, wants_read: bool) {
        let Some(transport) = lines.line(line) else { return };
        let mut frames = Vec::new();
        let written = outcome.and_then(|()| transport.flush());
        let outcome = match written {
            Ok(()) if wants_read => transport.receive(&mut frames),
            Ok(()) => Ok(()),
            Err(error) => {
                debug!(user = self.config.user_id, %error, "transport failed");
                Err(Lost(Reason::TransportFailed))
            }
        };
        // Which connection it is may be another after each frame.
        let mut line = Some(line);
        for arrived in frames {
            match line {
                Some(Line::Current) => self.session.on_frame(self.now(), arrived.frame()),
                Some(Line::Next) => self.session.on_next_frame(self.now(), arrived.frame()),
                Some(Line::Former) => self.session.on_former_frame(arrived.frame()),
                None => return,
            }
            for change in self.carry_out(lines) {
                line = line.and_then(|line| change.of(line));
            }
        }
        if let Err(Lost(reason)) = outcome {
            match line {
                Some(Line::Current) => self.session.on_disconnected(reason),
                Some(Line::Next) => self.session.on_next_disconnected(self.now(), reason),
                Some(Line::Former) => self.session.on_former_disconnected(),
                None => {}
            }
        }
    }

    /// A move has come a step further.
    fn on_step(&mut self, lines: &mut Lines, step: Step) {
        match step {
            Step::Begin => self.moving.fetch(&self.config),
            Step::Fetched(Ok(Ok(Ticket { token, addresses }))) => {
                self.endpoints.offer(&addresses);
                let endpoints = self.endpoints.choose(Instant::now());
                self.moving.race(token, endpoints, Arc::clone(&self.trust), &self.config);
            }
            Step::Fetched(Ok(Err(_)) | Err(_)) => self.moving.try_again(false, Duration::ZERO),
            Step::Raced(Ok(transport)) => {
                let Some(token) = self.moving.log_in() else { return };
                if self.session.on_next_connected(self.now(), &token, transport.order()) {
                    lines.next = Some(transport);
                } else {
                    // A login that is under way here comes first.
                    self.moving.try_again(false, Duration::ZERO);
                }
            }
            Step::Raced(Err(failed)) => {
                if !self.endpoints.has_preferred() {
                    self.endpoints.on_failure();
                }
                self.moving.try_again(self.endpoints.has_preferred(), wait_of(&failed));
            }
        }
    }

    /// Waits for something that is not the session's business, and serves the app meanwhile; `None` when the network has changed.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<Option<T>, Over> {
        let mut work = pin!(work);
        let events = self.events.clone();
        loop {
            let (commands, is_mute, is_full) = (&mut self.commands, self.is_mute, !self.waiting.is_empty());
            select! {
                output = &mut work => return Ok(Some(output)),
                command = commands.recv(), if !is_mute => self.on_command(command, None),
                permit = events.reserve(), if is_full => deliver(permit, &mut self.waiting),
                () = events.closed(), if is_mute => {}
            }
            // Without a connection only the machine's events can have come: a room left, a message refused.
            while let Some(action) = self.session.next_action() {
                if let ClientAction::Tell(told) = action {
                    self.hear(told);
                }
            }
            if std::mem::take(&mut self.is_hurried) {
                return Ok(None);
            }
            if !self.closing.is_empty() || (self.is_mute && self.events.is_closed()) {
                return Err(Over(Reason::LoggedOut));
            }
        }
    }

    /// Without anyone to listen or to call, the session has no purpose.
    fn stop_if_alone(&mut self) {
        if self.is_mute && self.events.is_closed() && self.session.is_live() {
            self.session.logout(self.now());
        }
    }

    /// Does what the machine asks for, in its order; says which connection became which.
    fn carry_out(&mut self, lines: &mut Lines) -> Vec<Change> {
        let encoding = self.session.encoding();
        let mut changes = Vec::new();
        let mut is_over = false;
        loop {
            while let Some(action) = self.session.next_action() {
                match action {
                    ClientAction::Send { code, body } => lines.current.send(encoding, code, &body),
                    ClientAction::SendNext { code, body } => {
                        if let Some(next) = &mut lines.next {
                            next.send(encoding, code, &body);
                        }
                    }
                    ClientAction::Tell(event) => self.on_session_event(event, lines.current.endpoint()),
                    ClientAction::Close => is_over = true,
                    ClientAction::Switch => {
                        lines.switch();
                        self.on_moved(lines.current.endpoint().kind);
                        changes.push(Change::Switched);
                    }
                    ClientAction::CloseNext { reason, retry_after_ms } => {
                        lines.next.take().into_iter().for_each(Transport::part);
                        debug!(user = self.config.user_id, reason = reason.label(), "not moved");
                        if !self.endpoints.has_preferred() {
                            self.endpoints.on_failure();
                        }
                        self.moving.try_again(self.endpoints.has_preferred(), Duration::from_millis(retry_after_ms.unwrap_or(0)));
                        changes.push(Change::Closed(Line::Next));
                    }
                    ClientAction::CloseFormer => {
                        lines.former.take().into_iter().for_each(Transport::part);
                        changes.push(Change::Closed(Line::Former));
                    }
                }
            }
            if let Some(next) = &mut lines.next
                && next.flush().is_err()
            {
                self.session.on_next_disconnected(self.now(), Reason::TransportFailed);
                continue;
            }
            // On a connection that is to be closed a failed goodbye says nothing new.
            match lines.current.flush() {
                Err(error) if !is_over && self.ended.is_none() => {
                    debug!(user = self.config.user_id, %error, "write failed");
                    self.session.on_disconnected(Reason::TransportFailed);
                }
                Ok(()) | Err(_) => return changes,
            }
        }
    }

    /// The session is on another connection.
    fn on_moved(&mut self, kind: TransportKind) {
        info!(user = self.config.user_id, %kind, "moved");
        self.moving = Moving::No;
        self.transport = kind;
        self.since = Instant::now();
        self.endpoints.on_success(kind, self.since);
    }

    fn on_session_event(&mut self, event: ClientEvent, here: &Endpoint) {
        match event {
            ClientEvent::Closed { reason, reconnect, retry_after_ms } => {
                self.giving.on_connection_over();
                let retry_after = Duration::from_millis(retry_after_ms.unwrap_or(0));
                // A close that the app asked for is final, whatever ended the connection first.
                let reconnect = reconnect && self.closing.is_empty();
                self.ended =
                    Some(Ended { reason: if self.closing.is_empty() { reason } else { Reason::LoggedOut }, reconnect, retry_after });
            }
            ClientEvent::MoveTo { addresses, after_ms } => {
                info!(user = self.config.user_id, after_ms, "the gateway is draining");
                self.endpoints.prefer(&addresses, here);
                if !self.session.is_moving() {
                    self.moving = Moving::begin(Why::Drain, Instant::now() + Duration::from_millis(after_ms), &self.config);
                }
            }
            ClientEvent::Kicked { reason, .. } => info!(user = self.config.user_id, reason = reason.label(), "kicked"),
            ClientEvent::Unreadable { code } => debug!(user = self.config.user_id, code, "a frame could not be read"),
            ClientEvent::HeartbeatEcho { audience } => {
                if self.moving.on_echo() {
                    info!(user = self.config.user_id, "goes on from another address");
                }
                self.on_audience(audience);
            }
            told @ (ClientEvent::LoggedIn { .. }
            | ClientEvent::Joined { .. }
            | ClientEvent::Left { .. }
            | ClientEvent::Push(_)
            | ClientEvent::History { .. }
            | ClientEvent::InboxRead { .. }
            | ClientEvent::Accepted { .. }
            | ClientEvent::Refused { .. }) => self.hear(told),
        }
    }

    /// The echo names no room: it can be told apart only where there is one.
    fn on_audience(&mut self, audience: Option<i64>) {
        let mut rooms = self.session.rooms();
        if let (Some(audience), Some(room_id), None) = (audience, rooms.next(), rooms.next()) {
            drop(rooms);
            self.waiting.push_back(Event::Audience { room_id, audience });
        }
    }

    /// Nothing that was learnt on the old network counts, and nothing is waited for there. A connection that can goes on from the new one;
    /// it is asked whether it does, and the session moves to another where it is silent.
    fn on_network_changed(&mut self, lines: Option<&mut Lines>) {
        self.endpoints.forget_winner();
        self.backoff.reset();
        if self.session.is_live() {
            if self.session.is_moving() {
                return;
            }
            if self.moving.is_for_drain() {
                self.moving = Moving::begin(Why::Drain, Instant::now(), &self.config);
                return;
            }
            let has_migrated = lines.is_some_and(|lines| lines.current.migrate());
            let echoes = if has_migrated { self.session.probe(self.now()) } else { 0 };
            self.moving = match echoes {
                0 => Moving::begin(Why::Network, Instant::now(), &self.config),
                echoes => Moving::migrating(echoes, &self.config),
            };
        } else {
            self.is_hurried = true;
            self.session.on_disconnected(Reason::TransportFailed);
        }
    }

    fn on_command(&mut self, command: Option<Command>, lines: Option<&mut Lines>) {
        let Some(command) = command else {
            self.is_mute = true;
            return;
        };
        let now = self.now();
        let (outcome, answer) = match command {
            Command::Close { answer } => {
                self.closing.push(answer);
                self.session.logout(now);
                return;
            }
            Command::NetworkChanged { answer } => {
                self.on_network_changed(lines);
                (Ok(()), answer)
            }
            Command::Join { answer, .. }
            | Command::Leave { answer, .. }
            | Command::Biz { answer, .. }
            | Command::Gift { answer, .. }
            | Command::SyncRoom { answer, .. }
            | Command::SyncInbox { answer }
                if self.waiting.len() >= EVENTS_WAITING_MAX =>
            {
                answer.send(Err(ClientError::EventsUnread)).ok();
                return;
            }
            Command::Join { room_id, answer } => (self.session.join(room_id), answer),
            Command::Leave { room_id, answer } => (self.session.leave(room_id), answer),
            Command::Biz { message, answer } => {
                gift::uuid_of(&message).into_iter().for_each(|uuid| self.giving.on_own(uuid));
                (self.session.biz(message), answer)
            }
            Command::Gift { message, answer } => (self.giving.give(&mut self.session, message), answer),
            Command::SyncRoom { room_id, from_seq, answer } => (self.session.sync_room(room_id, from_seq), answer),
            Command::SyncInbox { answer } => (self.session.sync_inbox(now), answer),
        };
        // A caller who has stopped waiting needs no answer.
        answer.send(outcome.map_err(|error: CallError| error.into())).ok();
    }

    fn deadline(&self) -> Instant {
        let Time(ms) = self.session.next_deadline().min(self.giving.next_deadline());
        // `NEVER` is further than an Instant reaches; a day is never here.
        self.began + Duration::from_millis(ms.min(self.now().0 + 86_400_000))
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// Hands the oldest waiting event to the app; to nobody, when the app has stopped listening.
fn deliver(permit: Result<mpsc::Permit<'_, Event>, mpsc::error::SendError<()>>, waiting: &mut VecDeque<Event>) {
    match permit {
        Ok(permit) => {
            if let Some(event) = waiting.pop_front() {
                permit.send(event);
            }
        }
        Err(_) => waiting.clear(),
    }
}

/// What happened to the connections.
#[derive(Clone, Copy, Debug)]
enum Change {
    Switched,
    Closed(Line),
}

impl Change {
    /// Which of them a connection is now.
    fn of(self, line: Line) -> Option<Line> {
        match (self, line) {
            (Self::Switched, Line::Next) => Some(Line::Current),
            (Self::Switched, Line::Current) => Some(Line::Former),
            (Self::Switched, Line::Former) => None,
            (Self::Closed(closed), line) => (closed != line).then_some(line),
        }
    }
}

/// Of several the one that someone must do something about; else the one that was liked best.
fn cause_of(mut failed: Vec<(Endpoint, ConnectError)>) -> Cause {
    failed.sort_by_key(|(endpoint, error)| (!error.is_distrust(), endpoint.kind));
    match failed.into_iter().next() {
        Some((endpoint, error)) => error.into_cause(&endpoint),
        None => Cause::NoAddress,
    }
}

/// What whoever turned us away asked for.
fn wait_of(failed: &[(Endpoint, ConnectError)]) -> Duration {
    failed.iter().map(|(_, error)| error.retry_after()).max().unwrap_or_default()
}
