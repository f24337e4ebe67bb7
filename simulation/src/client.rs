//! One user's app on one device: the real client machine, what it was told to do, and a transport that is replaced again and again.

use billfish_session::{
    Time,
    client::{ClientAction, ClientConfig, ClientEvent, ClientSession},
};
use billfish_wire::{Encoding, Reason, frame};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One transport between a client and one life of a gateway.
pub(crate) struct Conn {
    pub(crate) gateway: usize,
    pub(crate) life: u64,
    rng: fastrand::Rng,
    delay_ms: u64,
    up: VecDeque<(u64, Bytes)>,
    down: VecDeque<(u64, Bytes)>,
    /// Nothing more arrives in this direction; the end is heard of then, or never.
    up_ends: Option<u64>,
    down_ends: Option<u64>,
    /// The end was heard of.
    pub(crate) gateway_knows: bool,
    pub(crate) client_knows: bool,
}

impl Conn {
    pub(crate) fn new(gateway: usize, life: u64, seed: u64, delay_ms: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            delay_ms,
            gateway,
            life,
            up: VecDeque::new(),
            down: VecDeque::new(),
            up_ends: None,
            down_ends: None,
            gateway_knows: false,
            client_knows: false,
        }
    }

    pub(crate) fn send_up(&mut self, now: u64, bytes: Bytes) {
        if self.up_ends.is_none() {
            let at = now + self.rng.u64(1..=self.delay_ms);
            let last = self.up.back().map_or(0, |(at, _)| *at);
            self.up.push_back((at.max(last), bytes));
        }
    }

    pub(crate) fn send_down(&mut self, now: u64, bytes: Bytes) {
        if self.down_ends.is_none() {
            let at = now + self.rng.u64(1..=self.delay_ms);
            let last = self.down.back().map_or(0, |(at, _)| *at);
            self.down.push_back((at.max(last), bytes));
        }
    }

    pub(crate) fn next_up(&mut self, now: u64) -> Option<Bytes> {
        self.up.front().is_some_and(|(at, _)| *at <= now).then(|| self.up.pop_front().map(|(_, bytes)| bytes))?
    }

    pub(crate) fn next_down(&mut self, now: u64) -> Option<Bytes> {
        self.down.front().is_some_and(|(at, _)| *at <= now).then(|| self.down.pop_front().map(|(_, bytes)| bytes))?
    }

    /// The client closes: what it wrote still arrives, what was on its way down is lost.
    pub(crate) fn client_closes(&mut self, now: u64) {
        let last = self.up.back().map_or(now, |(at, _)| *at);
        self.up_ends.get_or_insert(last + 1);
        self.down.clear();
        self.down_ends = Some(u64::MAX);
        self.client_knows = true;
    }

    /// The gateway closes, behind what it wrote.
    pub(crate) fn gateway_closes(&mut self, now: u64) {
        let last = self.down.back().map_or(now, |(at, _)| *at);
        self.down_ends.get_or_insert(last + 1);
        self.up.clear();
        self.up_ends = Some(u64::MAX);
        self.gateway_knows = true;
    }

    /// The network breaks; each end hears of it then.
    pub(crate) fn cut(&mut self, gateway_hears_at: u64, client_hears_at: u64) {
        self.up.clear();
        self.down.clear();
        self.up_ends.get_or_insert(gateway_hears_at);
        self.down_ends.get_or_insert(client_hears_at);
    }

    pub(crate) fn gateway_hears_end(&self, now: u64) -> bool {
        !self.gateway_knows && self.up.is_empty() && self.up_ends.is_some_and(|at| at <= now)
    }

    pub(crate) fn client_hears_end(&self, now: u64) -> bool {
        !self.client_knows && self.down.is_empty() && self.down_ends.is_some_and(|at| at <= now)
    }

    pub(crate) fn next_at(&self) -> u64 {
        let first = |queue: &VecDeque<(u64, Bytes)>| queue.front().map_or(u64::MAX, |(at, _)| *at);
        first(&self.up).min(first(&self.down))
    }
}

/// A user's app.
pub(crate) struct Client {
    pub(crate) user: i64,
    pub(crate) rng: fastrand::Rng,
    pub(crate) machine: ClientSession,
    /// The transport in use, by its place in the world.
    pub(crate) conn: Option<usize>,
    pub(crate) connect_at: Option<u64>,
    /// Rooms it ever wanted.
    pub(crate) ever_wanted: BTreeSet<i64>,
    /// Messages to be sent again, as they were.
    pub(crate) again: BTreeMap<String, u64>,
    /// Until then its ACKs are lost.
    pub(crate) deaf_until: u64,
    pub(crate) said: u32,
}

impl Client {
    pub(crate) fn new(app_id: i32, user: i64, platform: &str, encoding: Encoding, seed: u64) -> Self {
        let config = ClientConfig {
            encoding,
            platform: Some(platform.to_owned()),
            answer_timeout_ms: 5_000,
            seen_max: 100_000,
            ..ClientConfig::new(app_id, user)
        };
        Self {
            user,
            rng: fastrand::Rng::with_seed(seed),
            machine: ClientSession::new(config),
            conn: None,
            connect_at: Some(0),
            ever_wanted: BTreeSet::new(),
            again: BTreeMap::new(),
            deaf_until: 0,
            said: 0,
        }
    }

    pub(crate) fn frame(&mut self, bytes: &[u8], now: u64) {
        match frame::decode(bytes, usize::MAX) {
            Ok(Some((frame, _))) => self.machine.on_frame(Time(now), frame),
            Ok(None) => {}
            Err(error) => self.machine.on_frame_error(error),
        }
    }

    pub(crate) fn lost(&mut self) {
        self.machine.on_disconnected(Reason::PeerClosed);
    }

    pub(crate) fn next_action(&mut self) -> Option<ClientAction> {
        self.machine.next_action()
    }

    pub(crate) fn next_at(&self) -> u64 {
        let again = self.again.values().copied().min().unwrap_or(u64::MAX);
        self.machine.next_deadline().0.min(self.connect_at.unwrap_or(u64::MAX)).min(again)
    }
}

/// Whether the app comes back by itself after this end; one that was sent away comes back when its user touches it.
pub(crate) const fn comes_back_at_once(event: &ClientEvent) -> bool {
    matches!(event, ClientEvent::Closed { reconnect: true, .. })
}
