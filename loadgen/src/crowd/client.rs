//! One client: what it says and how it understands what it hears.
//!
//! - About 150 bytes each: no queue, no read buffer; a frame cut in half and bytes a socket did not take are boxed while they exist.
//! - Writes go into the crowd's shared `out`; the event loop sends them with one call per read.

use crate::{
    crowd::{
        room,
        shared::{Shared, say_whole_into},
        slow::Pace,
    },
    tally::{Copy, MemberTally},
    worker::Activity,
};
use billfish_wire::{BizCode, Body, Class, Code, Frame, Reason, frame};
use std::fmt::Write as _;

/// Where a client is on its way in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not begun.
    #[default]
    Waiting,
    /// The handshake of TCP is under way.
    Connecting,
    /// LOGIN was sent.
    LoggingIn,
    /// JOIN was sent.
    Joining,
    /// In.
    Settled,
    /// Over.
    Closed,
}

impl Stage {
    /// Whether it holds a place in the login window.
    pub(crate) fn is_on_the_way(self) -> bool {
        matches!(self, Self::Connecting | Self::LoggingIn | Self::Joining)
    }
}

/// A client apart from its socket.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) stage: Stage,
    token: Option<Box<str>>,
    /// When its connect should have begun; once settled, when its open heartbeat should have been sent.
    pub(crate) begun_ns: u64,
    /// When its latest try began: later than `begun_ns` where it was told to come back later.
    pub(crate) tried_ns: u64,
    /// Its place among the bodies of its room.
    expected: u64,
    tally: MemberTally,
    /// Heartbeats or chat messages sent as load.
    sent: u32,
    /// Those answered: echo, ACK or refusal.
    answered: u32,
    /// A heartbeat that only keeps the session alive is open.
    keepalive_open: bool,
    pub(crate) pace: Pace,
}

/// Why a client's connection is over.
pub(crate) type Cause = String;

impl Client {
    /// A client that will log in with `token`.
    pub(crate) fn new(token: Box<str>, pace: Pace) -> Self {
        Self { token: Some(token), pace, ..Self::default() }
    }

    /// From now on it logs in with this one.
    pub(crate) fn renew(&mut self, token: Box<str>) {
        self.token = Some(token);
    }

    /// TCP stands: says LOGIN.
    pub(crate) fn on_connected(&mut self, index: usize, shared: &mut Shared<'_>) {
        self.stage = Stage::LoggingIn;
        let body = Body {
            app_id: Some(shared.plan.app_id),
            user_id: Some(shared.user_id(index)),
            token: self.token.clone().map(String::from),
            platform: Some("loadgen".to_owned()),
            ..Body::default()
        };
        shared.say(Code::Login, &body);
    }

    /// A frame arrived.
    ///
    /// # Errors
    /// The cause for which the connection is over.
    pub(crate) fn on_frame(&mut self, index: usize, frame: Frame<'_>, shared: &mut Shared<'_>) -> Result<(), Cause> {
        let Some(code) = Code::from_number(frame.code) else { return Err(format!("unknown code {}", frame.code)) };
        if code == Code::Biz {
            return self.on_biz(index, frame, shared);
        }
        if code == Code::Heartbeat && self.stage == Stage::Settled {
            self.on_echo(index, shared);
            return Ok(());
        }
        if code == Code::Ack && shared.gifts.is_none() {
            // ACKs come in the order of what they answer; nothing that stands in them is needed.
            self.on_ack(shared);
            return Ok(());
        }
        let body = Body::decode(frame.encoding, frame.body).map_err(|error| error.to_string())?;
        match code {
            Code::Login => self.on_login(index, &body, shared),
            Code::Join => self.on_joined(index, &body, shared),
            Code::Ack => {
                shared.hear_gift_ack(index, &body);
                Ok(())
            }
            Code::Error => self.on_error(index, &body, shared),
            Code::Kick => Err(format!("kicked: {}", cause_of(&body))),
            Code::Reconnect => {
                shared.stats.refuse("reconnect");
                Ok(())
            }
            Code::WsShake | Code::Logout | Code::Biz | Code::Heartbeat | Code::Leave | Code::Sync => Ok(()),
        }
    }

    fn on_login(&mut self, index: usize, body: &Body, shared: &mut Shared<'_>) -> Result<(), Cause> {
        if self.stage != Stage::LoggingIn {
            return Ok(());
        }
        if body.data.as_deref() != Some("true") {
            return Err("login answered without data true".to_owned());
        }
        if !shared.is_herd_in {
            shared.stats.login.record(self.begun_ns, shared.now_ns);
        }
        if let Some(seconds) = body.heartbeat_secs.and_then(|seconds| u64::try_from(seconds).ok()).filter(|&seconds| seconds > 0) {
            shared.heartbeat_gap_ns = shared.heartbeat_gap_ns.min(seconds * 1_000_000_000);
        }
        match shared.room_of(index) {
            None => self.settle(index, shared),
            Some(room) => {
                self.stage = Stage::Joining;
                let room_id = shared.rooms[room].id;
                let resume = shared.resume_of(index);
                shared.say(Code::Join, &Body { room_id: Some(room_id), resume, ..Body::default() });
            }
        }
        Ok(())
    }

    fn on_joined(&mut self, index: usize, body: &Body, shared: &mut Shared<'_>) -> Result<(), Cause> {
        if self.stage != Stage::Joining {
            return Ok(());
        }
        let room = shared.room_of(index).expect("who joins has a room");
        if body.room_id != Some(shared.rooms[room].id) {
            shared.stats.totals.strays += 1;
            return Err("joined to another room than asked for".to_owned());
        }
        self.settle(index, shared);
        shared.enter_with_gifts(index, room, body);
        Ok(())
    }

    fn settle(&mut self, index: usize, shared: &mut Shared<'_>) {
        self.stage = Stage::Settled;
        shared.stats.settled += 1;
        shared.stats.entered += 1;
        shared.stats.newly_settled += 1;
        if shared.is_herd_in {
            shared.stats.newly_back.push(index);
        }
        if shared.plan.return_spread.is_none() {
            // Who does not come back needs it no more.
            self.token = None;
        }
        if let Some(room) = shared.room_of(index) {
            shared.rooms[room].members += 1;
        }
    }

    fn on_biz(&mut self, index: usize, frame: Frame<'_>, shared: &mut Shared<'_>) -> Result<(), Cause> {
        if let Activity::Chat { .. } = shared.plan.activity {
            return self.on_chat(index, frame, shared);
        }
        let Some(room_index) = shared.room_of(index) else {
            shared.stats.totals.strays += 1;
            return Ok(());
        };
        let room = &mut shared.rooms[room_index];
        let room_id = room.id;
        let class = shared.stream_class;
        let known = room.recognise(frame.encoding, frame.body, &mut self.expected).map_err(|error| error.to_string())?;
        if let Some(ack) = &known.ack {
            say_whole_into(&mut shared.out, shared.plan.transport, &mut shared.random, ack);
        }
        if let Some(refusal) = known.refusal.clone().filter(|_| known.user_id.is_none_or(|user_id| user_id == shared.plan.user_id(index))) {
            shared.hear_gift_refusal(index, &refusal);
            return Ok(());
        }
        // What is for this user alone, and nothing that is looked at here.
        if shared.gifts.is_some() && known.room_id.is_none() && known.user_id == Some(shared.plan.user_id(index)) {
            return Ok(());
        }
        if known.room_id != Some(room_id) || is_astray(class, known.class) {
            shared.stats.totals.strays += 1;
            return Ok(());
        }
        let (load, told, seq) = (known.load, known.told, known.seq);
        if shared.gifts.is_some() {
            shared.hear_gifts(index, room_index, told, seq, false);
            return Ok(());
        }
        let Some(load) = load else { return Ok(()) };
        let room = &mut shared.rooms[room_index];
        let copy = self.tally.on_copy(load.number, seq, class);
        if shared.stats.totals.book(copy) {
            shared.stats.latency.record(load.intended_ns, shared.now_ns);
            shared.stats.last_copy_ns = shared.now_ns;
            let place = shared.stats.by_pace.as_mut().and_then(|by_pace| by_pace.of(self.pace, load.intended_ns, shared.lag_from_ns));
            if let Some(latencies) = place {
                latencies.record(load.intended_ns, shared.now_ns);
            }
        }
        if room.on_copy(load, copy, shared.now_ns) {
            shared.stats.done.push((room_index, load.number));
        }
        Ok(())
    }

    /// A one-to-one message: its text is `number intended_ns padding`.
    fn on_chat(&mut self, index: usize, frame: Frame<'_>, shared: &mut Shared<'_>) -> Result<(), Cause> {
        let body = Body::decode(frame.encoding, frame.body).map_err(|error| error.to_string())?;
        if let Some(ack) = room::ack_for(frame.encoding, &body) {
            shared.say_whole(&ack);
        }
        if body.user_id.is_some_and(|user_id| user_id != shared.user_id(index)) || is_astray(shared.stream_class, body.class) {
            shared.stats.totals.strays += 1;
            return Ok(());
        }
        let Some(load) = body.data.as_deref().and_then(load_of_chat) else { return Ok(()) };
        let copy = self.tally.on_copy(load.number, i64::from(load.number) + 1, shared.stream_class);
        match copy {
            Copy::InOrder => {}
            Copy::Again => shared.stats.odd_of.entry(index).or_default().twice += 1,
            Copy::Overtaken => shared.stats.odd_of.entry(index).or_default().overtaken += 1,
        }
        if shared.stats.totals.book(copy) {
            shared.stats.latency.record(load.intended_ns, shared.now_ns);
            shared.stats.last_copy_ns = shared.now_ns;
            shared.stats.frame_bytes = frame::HEADER_BYTES + frame.body.len();
        }
        Ok(())
    }

    fn on_ack(&mut self, shared: &mut Shared<'_>) {
        if self.answered < self.sent {
            self.answered += 1;
            shared.stats.open -= 1;
        }
    }

    fn on_error(&mut self, index: usize, body: &Body, shared: &mut Shared<'_>) -> Result<(), Cause> {
        if self.stage == Stage::Settled && shared.hear_gift_error(index, body) {
            return Ok(());
        }
        let cause = cause_of(body);
        let wait_ms = body.retry_after_ms.and_then(|ms| u64::try_from(ms).ok());
        if self.stage.is_on_the_way() {
            shared.told_to_wait_ms = wait_ms;
            return Err(cause);
        }
        shared.stats.refuse(&cause);
        if self.answered < self.sent {
            self.answered += 1;
            shared.stats.open -= 1;
            shared.stats.sent -= 1;
            if let Activity::Chat { .. } = shared.plan.activity {
                shared.stats.odd_of.entry(index).or_default().refused += 1;
            }
            let wait_ms = wait_ms.unwrap_or(RETRY_MS).clamp(1, RETRY_MS_MAX);
            if shared.is_closed_loop() {
                shared.paused.push_back((shared.now_ns + wait_ms * 1_000_000, index));
            }
        } else if self.keepalive_open {
            self.keepalive_open = false;
            shared.stats.open -= 1;
        }
        Ok(())
    }

    fn on_echo(&mut self, index: usize, shared: &mut Shared<'_>) {
        // Echoes come in the order of the heartbeats, and one that keeps alive is the oldest.
        if self.keepalive_open {
            self.keepalive_open = false;
            shared.stats.open -= 1;
            if let Activity::Listen = shared.plan.activity {
                shared.stats.beats_echoed += 1;
                shared.stats.beat_latency.record(self.begun_ns, shared.now_ns);
            }
            return;
        }
        if self.answered == self.sent {
            return;
        }
        let intended_ns = match shared.plan.activity {
            Activity::Echo { per_s } if per_s > 0.0 => shared.intended_ns(per_s, index, self.answered),
            Activity::Echo { .. } | Activity::Listen | Activity::Chat { .. } | Activity::Gifts => self.begun_ns,
        };
        self.answered += 1;
        shared.stats.open -= 1;
        shared.stats.totals.received += 1;
        shared.stats.latency.record(intended_ns, shared.now_ns);
        shared.stats.last_copy_ns = shared.now_ns;
        if shared.is_closed_loop() && shared.is_active {
            self.send_load(index, shared.now_ns, shared);
        }
    }

    /// The heartbeat that the gateway asked for.
    pub(crate) fn keep_alive(&mut self, shared: &mut Shared<'_>) {
        if !self.keepalive_open {
            self.keepalive_open = true;
            self.begun_ns = shared.now_ns;
            shared.stats.open += 1;
            if let Activity::Listen = shared.plan.activity {
                shared.stats.beats_sent += 1;
            }
        }
        shared.say(Code::Heartbeat, &Body::default());
    }

    /// The next heartbeat or chat message of the load.
    pub(crate) fn send_load(&mut self, index: usize, intended_ns: u64, shared: &mut Shared<'_>) {
        match shared.plan.activity {
            // Gifts have a pace of their own.
            Activity::Listen | Activity::Gifts => return,
            Activity::Echo { .. } => {
                self.begun_ns = intended_ns;
                shared.say(Code::Heartbeat, &Body::default());
            }
            Activity::Chat { text_chars, .. } => {
                let Some(partner) = shared.partner_of(index) else { return };
                let mut text = format!("{} {intended_ns} ", self.sent);
                let padding = text_chars.saturating_sub(text.len());
                write!(text, "{:x<padding$}", "").expect("a string takes all text");
                let data = format!(r#"{{"objectId":{partner},"content":"{text}"}}"#);
                let body = Body {
                    biz_code: Some(BizCode::ROOM_CHAT.0),
                    data: Some(data),
                    msg_id: Some(format!("{:x}-{}", shared.run, self.sent)),
                    ..Body::default()
                };
                shared.say(Code::Biz, &body);
            }
        }
        self.sent += 1;
        shared.stats.sent += 1;
        shared.stats.open += 1;
    }

    /// First copies it has.
    pub(crate) fn received(&self) -> u64 {
        self.tally.received()
    }

    /// Messages it sent as load.
    pub(crate) fn sent(&self) -> u32 {
        self.sent
    }

    /// Which of the first `until` messages meant for it it has not, as the first few ranges.
    pub(crate) fn holes(&self, until: u32, ranges_max: usize) -> Vec<(u32, u32)> {
        self.tally.holes(until, ranges_max)
    }

    /// Whether the heartbeat of then is still open.
    pub(crate) fn awaits_beat_of(&self, sent_ns: u64) -> bool {
        self.keepalive_open && self.begun_ns == sent_ns
    }

    /// A heartbeat that was open when the connection was cut on purpose was never due an echo.
    pub(crate) fn forget_beat(&mut self, shared: &mut Shared<'_>) {
        if self.keepalive_open {
            shared.stats.beats_sent -= 1;
        }
    }

    /// What was open when the connection ended will not be answered.
    pub(crate) fn forget_open(&mut self, shared: &mut Shared<'_>) {
        shared.stats.open -= u64::from(self.sent - self.answered) + u64::from(self.keepalive_open);
        self.answered = self.sent;
        self.keepalive_open = false;
    }
}

/// How long to wait after a refusal that names no time.
const RETRY_MS: u64 = 100;
/// Longer than this no refusal holds a client back.
const RETRY_MS_MAX: u64 = 10_000;

fn load_of_chat(data: &str) -> Option<room::Load> {
    #[derive(serde::Deserialize)]
    struct Chat {
        content: String,
    }
    let chat: Chat = serde_json::from_str(data).ok()?;
    let mut words = chat.content.split_ascii_whitespace();
    Some(room::Load { number: words.next()?.parse().ok()?, intended_ns: words.next()?.parse().ok()? })
}

/// Whether a push that names one class stands on the stream of another.
fn is_astray(stream: Option<Class>, named: Option<i32>) -> bool {
    stream.is_some_and(|stream| named.is_some_and(|named| named != stream.number()))
}

fn cause_of(body: &Body) -> Cause {
    let code = body.code.unwrap_or(0);
    Reason::from_number(code).map_or_else(|| format!("code {code}"), |reason| reason.label().to_owned())
}
