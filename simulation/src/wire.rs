//! A link between one life of a gateway and one life of a router, over a network that delays, holds and breaks.
//!
//! - Order holds in each direction. What has not arrived when the wire is cut, never does.
//! - Each end hears of the cut at its own time; until then it goes on sending into nothing.

use billfish_link::{CREDIT_ENVELOPES, Link, PeerKind, Pump, message::envelope::Kind};
use std::collections::VecDeque;
use tokio::sync::mpsc;

/// One link.
pub(crate) struct Wire<Id> {
    /// Which node at the lower end, by its place in the world.
    pub(crate) gateway: usize,
    /// Which router, and which life of it.
    pub(crate) router: usize,
    pub(crate) life: u64,
    /// The gateway's own name of the link, while it believes in it.
    pub(crate) id: Option<Id>,
    /// To the router; none once the router has heard of the end.
    to_router: Option<mpsc::Sender<Kind>>,
    from_router: mpsc::Receiver<Kind>,
    rng: fastrand::Rng,
    delay_ms: u64,
    up: VecDeque<(u64, Kind)>,
    down: VecDeque<(u64, Kind)>,
    held_until: u64,
    is_cut: bool,
    router_hears_at: u64,
    pub(crate) gateway_hears_at: u64,
    /// The router's side has ended by itself.
    router_closed: bool,
    /// The gateway gives it up then: nobody answers at the other end.
    dies_at: Option<u64>,
}

impl<Id> Wire<Id> {
    /// A link that has just been dialled, and the router's end of it.
    pub(crate) fn new(
        gateway: usize,
        router: (usize, u64),
        gateway_name: &str,
        incarnation: u64,
        seed: u64,
        delay_ms: u64,
    ) -> (Self, Link) {
        let (to_router, receiver) = mpsc::channel(CREDIT_ENVELOPES);
        let (sender, from_router) = mpsc::channel(CREDIT_ENVELOPES);
        let link = Link { peer: gateway_name.to_owned(), kind: PeerKind::Gateway, incarnation, sender, receiver, pump: Pump::default() };
        let wire = Self {
            gateway,
            router: router.0,
            life: router.1,
            id: None,
            to_router: Some(to_router),
            from_router,
            rng: fastrand::Rng::with_seed(seed),
            delay_ms,
            up: VecDeque::new(),
            down: VecDeque::new(),
            held_until: 0,
            is_cut: false,
            router_hears_at: 0,
            gateway_hears_at: 0,
            router_closed: false,
            dies_at: None,
        };
        (wire, link)
    }

    /// Nobody believes in it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.id.is_none() && self.to_router.is_none()
    }

    /// From the gateway's outbox onto the wire.
    pub(crate) fn send_up(&mut self, now: u64, kind: Kind) {
        if !self.is_cut {
            let at = now + self.rng.u64(1..=self.delay_ms);
            let last = self.up.back().map_or(0, |(at, _)| *at);
            self.up.push_back((at.max(last), kind));
        }
    }

    /// What has reached the router by now goes into its receiver.
    pub(crate) fn arrive_up(&mut self, now: u64) {
        if self.dies_at.is_some_and(|at| at <= now) {
            self.cut(now, now);
        }
        if self.is_cut && now >= self.router_hears_at {
            self.to_router = None;
        }
        if now < self.held_until {
            return;
        }
        while self.up.front().is_some_and(|(at, _)| *at <= now) {
            let Some(to_router) = &self.to_router else { return };
            let Ok(place) = to_router.try_reserve() else { return };
            if let Some((_, kind)) = self.up.pop_front() {
                place.send(kind);
            }
        }
    }

    /// Takes what the router has sent onto the wire.
    pub(crate) fn collect_down(&mut self, now: u64, mut look: impl FnMut(&Kind)) {
        loop {
            match self.from_router.try_recv().inspect(&mut look) {
                Ok(kind) if !self.is_cut => {
                    let last = self.down.back().map_or(0, |(at, _)| *at);
                    self.down.push_back(((now + self.rng.u64(1..=self.delay_ms)).max(last), kind));
                }
                // Into nothing.
                Ok(_) => {}
                Err(mpsc::error::TryRecvError::Empty) => return,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    if !self.router_closed {
                        self.router_closed = true;
                        self.to_router = None;
                        // A close arrives behind what was sent before it; a cut is heard of when it is heard of.
                        if !self.is_cut {
                            let last = self.down.back().map_or(now, |(at, _)| *at);
                            self.gateway_hears_at = last.max(now) + self.delay_ms;
                        }
                    }
                    return;
                }
            }
        }
    }

    /// What has reached the gateway by now.
    pub(crate) fn next_down(&mut self, now: u64) -> Option<Kind> {
        if now < self.held_until || self.id.is_none() {
            return None;
        }
        self.down.front().is_some_and(|(at, _)| *at <= now).then(|| self.down.pop_front().map(|(_, kind)| kind))?
    }

    /// Whether the gateway hears of the end now.
    pub(crate) fn gateway_hears(&self, now: u64) -> bool {
        (self.is_cut || (self.router_closed && self.down.is_empty())) && now >= self.gateway_hears_at
    }

    /// Nothing arrives until then.
    pub(crate) fn hold(&mut self, until: u64) {
        self.held_until = self.held_until.max(until);
    }

    /// The network breaks.
    pub(crate) fn cut(&mut self, gateway_hears_at: u64, router_hears_at: u64) {
        if !self.is_cut {
            self.is_cut = true;
            self.up.clear();
            self.down.clear();
            self.gateway_hears_at = gateway_hears_at;
            self.router_hears_at = router_hears_at;
        }
    }

    /// Nobody answers at the other end: the gateway gives it up at that time.
    pub(crate) fn dies_at(&mut self, at: u64) {
        self.dies_at.get_or_insert(at);
    }

    /// The gateway closes its end, or is no more.
    pub(crate) fn close_lower(&mut self, router_hears_at: u64) {
        self.id = None;
        self.cut(0, router_hears_at);
    }

    /// The router is no more: its operating system says so at once, or nobody does.
    pub(crate) fn close_upper(&mut self, gateway_hears_at: u64) {
        self.cut(gateway_hears_at, 0);
        self.to_router = None;
    }

    /// Whether anything is on its way up.
    pub(crate) fn is_busy(&self) -> bool {
        !self.up.is_empty() || !self.down.is_empty()
    }
}
