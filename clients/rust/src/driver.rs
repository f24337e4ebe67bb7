//! The loop between one user's session machine and the world: it reads, writes, ticks and waits, and takes no protocol decision.
//!
//! ```text
//!   +--> ticket --> connect --> talk --+--> over
//!   |                                  |
//!   +-------------- pause <------------+
//! ```
//!
//! - Calls are served at every point of the loop; offline the machine keeps them for the next connection.
//! - While the app has not taken its events the socket is not read. At most one read's worth of events waits in here.
//! - Every `select!` arm is cancel-safe: `recv`, `reserve`, `sleep_until` and readiness take nothing before they are chosen.

use crate::{
    config::{ClientConfig, Ticket, TokenError},
    error::ClientError,
    event::{self, Cause, Event},
    reconnect::{Backoff, Endpoints, STABLE_AFTER},
    transport::Transport,
};
use billfish_session::{
    Time,
    client::{CallError, ClientAction, ClientConfig as SessionConfig, ClientEvent, ClientSession, Message},
};
use billfish_wire::{Reason, Reassembler, frame, limits::BODY_BYTES_MAX};
use std::{collections::VecDeque, future::Future, io, pin::pin, time::Duration};
use tokio::{
    select,
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, info};

/// Read at once; a joined burst of chat fits, and a longer frame is put together from several.
const READ_BYTES: usize = 16 * 1024;
/// Events that calls may add while the app takes none.
const EVENTS_WAITING_MAX: usize = 4_096;

type Answer = oneshot::Sender<Result<(), ClientError>>;

/// A call of the app.
#[derive(Debug)]
pub(crate) enum Command {
    Join { room_id: i64, answer: Answer },
    Leave { room_id: i64, answer: Answer },
    Biz { message: Message, answer: Answer },
    SyncRoom { room_id: i64, from_seq: i64, answer: Answer },
    SyncInbox { answer: Answer },
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
    backoff: Backoff,
    endpoints: Endpoints,
    began: Instant,
    /// Told when the session is over.
    closing: Vec<Answer>,
    ended: Option<Ended>,
    move_at: Option<Instant>,
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
    pub(crate) fn new(config: ClientConfig, commands: mpsc::Receiver<Command>, events: mpsc::Sender<Event>) -> Self {
        let session = ClientSession::new(SessionConfig {
            encoding: config.encoding,
            platform: config.platform.clone(),
            device_id: config.device_id.clone(),
            version: config.version.clone(),
            inbox: config.inbox,
            ..SessionConfig::new(config.app_id, config.user_id)
        });
        Self {
            session,
            commands,
            is_mute: false,
            events,
            waiting: VecDeque::new(),
            backoff: Backoff::new(&config),
            endpoints: Endpoints::new(&config),
            began: Instant::now(),
            closing: Vec::new(),
            ended: None,
            move_at: None,
            config,
        }
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
            Ok(Ok(ticket)) => ticket,
            Ok(Err(TokenError::Refused(problem))) => {
                debug!(user = self.config.user_id, problem, "token refused");
                return Err(Over(Reason::BadToken));
            }
            Ok(Err(error @ TokenError::Away(_))) => return Ok(self.pause(Cause::NoToken(error.to_string()), Duration::ZERO)),
            Err(_) => return Ok(self.pause(Cause::NoToken("no token in time".to_owned()), Duration::ZERO)),
        };
        self.endpoints.offer(addresses);
        let Some(address) = self.endpoints.choose() else {
            return Ok(self.pause(Cause::NoAddress, Duration::ZERO));
        };
        self.waiting.push_back(Event::Connecting { address: address.clone() });
        let connect_timeout = self.config.connect_timeout;
        let connecting = Transport::connect(&address, connect_timeout);
        match self.meanwhile(connecting).await? {
            Ok(transport) => {
                let since = Instant::now();
                let ended = self.talk(transport, &token).await;
                self.move_at = None;
                debug!(user = self.config.user_id, reason = ended.reason.label(), "connection ended");
                if !ended.reconnect {
                    return Err(Over(ended.reason));
                }
                if since.elapsed() >= STABLE_AFTER {
                    self.backoff.reset();
                } else {
                    self.endpoints.on_failure();
                }
                if ended.reason == Reason::Drained {
                    // The server chose the moment, and with it the jitter.
                    self.waiting.push_back(Event::Disconnected { cause: Cause::Ended(ended.reason), retry_in: Duration::ZERO });
                    return Ok(Duration::ZERO);
                }
                Ok(self.pause(Cause::Ended(ended.reason), ended.retry_after))
            }
            Err(error) => {
                self.endpoints.on_failure();
                Ok(self.pause(Cause::Unreachable { address, problem: problem_of(&error) }, Duration::ZERO))
            }
        }
    }

    fn pause(&mut self, cause: Cause, at_least: Duration) -> Duration {
        let retry_in = self.backoff.next_delay(at_least);
        self.waiting.push_back(Event::Disconnected { cause, retry_in });
        retry_in
    }

    /// Everything that happens on one connection.
    async fn talk(&mut self, mut transport: Transport, token: &str) -> Ended {
        let mut reassembler = Reassembler::default();
        let mut buffer = vec![0; READ_BYTES];
        let events = self.events.clone();
        self.session.on_connected(self.now(), token);
        self.carry_out(&mut transport);
        loop {
            if let Some(ended) = self.ended.take() {
                return ended;
            }
            let deadline = self.deadline();
            let wants_read = self.waiting.is_empty();
            let (commands, is_mute) = (&mut self.commands, self.is_mute);
            select! {
                ready = transport.ready(wants_read) => {
                    let outcome = ready.and_then(|()| transport.flush());
                    let outcome = outcome.and_then(|()| if wants_read { transport.read(&mut buffer) } else { Ok(None) });
                    match outcome {
                        Ok(None) => {}
                        Ok(Some(0)) => self.session.on_disconnected(Reason::PeerClosed),
                        Ok(Some(read)) => self.feed(&mut reassembler, buffer.get(..read).unwrap_or_default()),
                        Err(error) => {
                            debug!(user = self.config.user_id, %error, "transport failed");
                            self.session.on_disconnected(Reason::TransportFailed);
                        }
                    }
                }
                command = commands.recv(), if !is_mute => self.on_command(command),
                permit = events.reserve(), if !wants_read => deliver(permit, &mut self.waiting),
                () = sleep_until(deadline) => self.on_tick(),
            }
            self.stop_if_alone();
            self.carry_out(&mut transport);
        }
    }

    /// Waits for something that is not the session's business, and serves the app meanwhile.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Over> {
        let mut work = pin!(work);
        let events = self.events.clone();
        loop {
            let (commands, is_mute, is_full) = (&mut self.commands, self.is_mute, !self.waiting.is_empty());
            select! {
                output = &mut work => return Ok(output),
                command = commands.recv(), if !is_mute => self.on_command(command),
                permit = events.reserve(), if is_full => deliver(permit, &mut self.waiting),
                () = events.closed(), if is_mute => {}
            }
            // Without a connection only the machine's events can have come: a room left, a message refused.
            while let Some(action) = self.session.next_action() {
                if let ClientAction::Tell(told) = action {
                    self.waiting.extend(event::of_session(told));
                }
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

    fn feed(&mut self, reassembler: &mut Reassembler, input: &[u8]) {
        let now = self.now();
        let mut frames = reassembler.feed(input);
        loop {
            match frames.next(BODY_BYTES_MAX) {
                Ok(Some(frame)) => self.session.on_frame(now, frame),
                Ok(None) => return,
                Err(error) => {
                    debug!(user = self.config.user_id, %error, "the stream cannot be followed");
                    return self.session.on_frame_error(error);
                }
            }
        }
    }

    /// Does what the machine asks for, in its order.
    fn carry_out(&mut self, transport: &mut Transport) {
        let encoding = self.session.encoding();
        let mut is_over = false;
        while let Some(action) = self.session.next_action() {
            match action {
                ClientAction::Send { code, body } => frame::encode_into(transport.out(), encoding, code, &body),
                ClientAction::Tell(event) => self.on_session_event(event),
                ClientAction::Close => is_over = true,
            }
        }
        // On a connection that is to be closed a failed goodbye says nothing new.
        if let Err(error) = transport.flush()
            && !is_over
            && self.ended.is_none()
        {
            debug!(user = self.config.user_id, %error, "write failed");
            self.session.on_disconnected(Reason::TransportFailed);
            while let Some(action) = self.session.next_action() {
                if let ClientAction::Tell(event) = action {
                    self.on_session_event(event);
                }
            }
        }
    }

    fn on_session_event(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Closed { reason, reconnect, retry_after_ms } => {
                let retry_after = Duration::from_millis(retry_after_ms.unwrap_or(0));
                // A close that the app asked for is final, whatever ended the connection first.
                let reconnect = reconnect && self.closing.is_empty();
                self.ended =
                    Some(Ended { reason: if self.closing.is_empty() { reason } else { Reason::LoggedOut }, reconnect, retry_after });
            }
            ClientEvent::MoveTo { addresses, after_ms } => {
                info!(user = self.config.user_id, after_ms, "the gateway is draining");
                self.endpoints.prefer(addresses);
                self.move_at = Some(Instant::now() + Duration::from_millis(after_ms));
            }
            ClientEvent::Kicked { reason, .. } => info!(user = self.config.user_id, reason = reason.label(), "kicked"),
            ClientEvent::Unreadable { code } => debug!(user = self.config.user_id, code, "a frame could not be read"),
            ClientEvent::HeartbeatEcho { audience } => self.on_audience(audience),
            told @ (ClientEvent::LoggedIn { .. }
            | ClientEvent::Joined { .. }
            | ClientEvent::Left { .. }
            | ClientEvent::Push(_)
            | ClientEvent::History { .. }
            | ClientEvent::InboxRead { .. }
            | ClientEvent::Accepted { .. }
            | ClientEvent::Refused { .. }) => self.waiting.extend(event::of_session(told)),
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

    fn on_tick(&mut self) {
        let now = self.now();
        self.session.on_tick(now);
        if self.move_at.is_some_and(|move_at| Instant::now() >= move_at) {
            self.move_at = None;
            self.session.on_disconnected(Reason::Drained);
        }
    }

    fn on_command(&mut self, command: Option<Command>) {
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
            Command::Join { answer, .. }
            | Command::Leave { answer, .. }
            | Command::Biz { answer, .. }
            | Command::SyncRoom { answer, .. }
            | Command::SyncInbox { answer }
                if self.waiting.len() >= EVENTS_WAITING_MAX =>
            {
                answer.send(Err(ClientError::EventsUnread)).ok();
                return;
            }
            Command::Join { room_id, answer } => (self.session.join(room_id), answer),
            Command::Leave { room_id, answer } => (self.session.leave(room_id), answer),
            Command::Biz { message, answer } => (self.session.biz(message), answer),
            Command::SyncRoom { room_id, from_seq, answer } => (self.session.sync_room(room_id, from_seq), answer),
            Command::SyncInbox { answer } => (self.session.sync_inbox(now), answer),
        };
        // A caller who has stopped waiting needs no answer.
        answer.send(outcome.map_err(|error: CallError| error.into())).ok();
    }

    fn deadline(&self) -> Instant {
        let Time(ms) = self.session.next_deadline();
        // `NEVER` is further than an Instant reaches; a day is never here.
        let from_session = self.began + Duration::from_millis(ms.min(self.now().0 + 86_400_000));
        self.move_at.map_or(from_session, |move_at| move_at.min(from_session))
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

fn problem_of(error: &io::Error) -> String {
    // The two that a person at a terminal meets; the system's words serve for the rest.
    if error.kind() == io::ErrorKind::ConnectionRefused {
        "nothing listens there".to_owned()
    } else if error.kind() == io::ErrorKind::TimedOut {
        "no answer in time".to_owned()
    } else {
        error.to_string()
    }
}
