//! Who may connect and log in: limits per address, per listener and in all, before anything is allocated for a stranger.
//!
//! - An address is one IPv4 address or one IPv6 /64, the smallest thing one subscriber is given.
//! - Nothing here waits: shards ask from their threads, and a question costs one short lock; exempt networks cost none.
//! - The table of addresses is bounded. When it is full, an unknown one gets the place of one that has no connection (`addresses`).
//! - What an address may hold without login shrinks as the places for strangers run out, so that few cannot take them all.
//!
//! Not for what a session does: its own limits are in `protocol/session`.

mod addresses;

pub(crate) use self::addresses::Holds;

use self::addresses::{Address, Addresses};
use crate::{
    config::{AdmissionConfig, ProxyConfig},
    metrics::ControlCounters,
    shard::message::{Admission, Listener, TurnedAway},
    watermarks::{Watermarks, files_max},
};
use billfish_wire::Reason;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::IpAddr,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};
use tracing::warn;

/// Addresses that begin alike: `10.0.0.0/8`, `2001:db8::/32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    base: IpAddr,
    bits: u8,
}

/// Not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network; write address/bits, as in 10.0.0.0/8")]
pub struct NetworkError(String);

impl Network {
    /// The network of `base` and its first `bits`; more bits than there are mean all of them.
    #[must_use]
    pub const fn new(base: IpAddr, bits: u8) -> Self {
        Self { base, bits }
    }

    /// Whether an address is in it. An IPv4 address that came in by an IPv6 socket counts as IPv4.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits.min(32))).unwrap_or(0);
                u32::from(base) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits.min(128))).unwrap_or(0);
                u128::from(base) & mask == u128::from(address) & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError(text.to_owned());
        let (base, bits) = text.split_once('/').ok_or_else(wrong)?;
        let base: IpAddr = base.parse().map_err(|_| wrong())?;
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        let bits_max = if base.is_ipv4() { 32 } else { 128 };
        if bits > bits_max { Err(wrong()) } else { Ok(Self { base, bits }) }
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.base, self.bits)
    }
}

/// Why a connection or a login was turned away here, as metrics label it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Refused {
    /// The process carries as many connections as it may.
    Connections,
    /// The listener does.
    Listener,
    /// The process has nearly as many files open as it may.
    Files,
    /// The process has nearly all the memory it may have.
    Memory,
    /// Too many connections in all have not logged in.
    Unlogged,
    /// Too many new connections from the address.
    NewRate,
    /// Too many connections of the address have not logged in.
    HalfOpen,
    /// Too many connections of the address.
    Live,
    /// Too many logins from the address.
    LoginRate,
    /// The address guessed tokens.
    Banned,
    /// The table of addresses is full.
    Table,
}

impl Refused {
    /// Every cause, in the order of its number.
    pub(crate) const ALL: [Self; 11] = [
        Self::Connections,
        Self::Listener,
        Self::Files,
        Self::Memory,
        Self::Unlogged,
        Self::NewRate,
        Self::HalfOpen,
        Self::Live,
        Self::LoginRate,
        Self::Banned,
        Self::Table,
    ];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Listener => "listener",
            Self::Files => "files",
            Self::Memory => "memory",
            Self::Unlogged => "unlogged",
            Self::NewRate => "new_rate",
            Self::HalfOpen => "half_open",
            Self::Live => "live",
            Self::LoginRate => "login_rate",
            Self::Banned => "banned",
            Self::Table => "table",
        }
    }

    /// What the client is told. `Connections`, `Listener`, `Files` and `Memory` send it elsewhere: the fault is ours, and another node may have
    /// room.
    const fn reason(self) -> Reason {
        match self {
            Self::Connections | Self::Listener | Self::Files | Self::Memory | Self::Unlogged | Self::Table => Reason::Unavailable,
            Self::NewRate | Self::HalfOpen | Self::Live | Self::LoginRate | Self::Banned => Reason::RateLimited,
        }
    }
}

/// The gate. One per gateway, shared by its shards and by auth.
#[derive(Debug)]
pub(crate) struct Gate {
    config: AdmissionConfig,
    relays: Vec<Network>,
    watermarks: Arc<Watermarks>,
    connections_max: u32,
    /// By [`Listener`].
    listener_max: [u32; Listener::ALL.len()],
    unlogged_max: u32,
    connections: AtomicU32,
    /// Of these, by [`Listener`].
    of_listener: [AtomicU32; Listener::ALL.len()],
    /// Without login, exempt networks left out.
    unlogged: AtomicU32,
    addresses: Mutex<Addresses>,
    start: Instant,
    /// An operator is told next that addresses are forgotten before their time.
    warn_from_ms: AtomicU64,
    counters: Arc<ControlCounters>,
}

/// So many per period and not more, refilled evenly: holds the time at which all of it will be there again, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Allowance {
    full_at_us: u64,
}

impl Allowance {
    /// Takes one of `count` per `period_ms`, or says in how many milliseconds there will be one.
    fn take(&mut self, now_ms: u64, count: u32, period_ms: u64) -> Result<(), u64> {
        let (now, period) = (now_ms * 1000, period_ms * 1000);
        let each = period / u64::from(count.max(1));
        let full_at = self.full_at_us.max(now) + each;
        // What integer division lost must not cost the last one of the count.
        if full_at > now + period {
            return Err((full_at - now - period).div_ceil(1000).max(1));
        }
        self.full_at_us = full_at;
        Ok(())
    }

    const fn is_full(self, now_ms: u64) -> bool {
        self.full_at_us <= now_ms * 1000
    }
}

impl Gate {
    pub(crate) fn new(config: &AdmissionConfig, proxy: &ProxyConfig, watermarks: Arc<Watermarks>, counters: Arc<ControlCounters>) -> Self {
        let connections_max = match config.connections_max {
            0 => default_connections_max(),
            count => count,
        };
        let unlogged_max = u64::from(connections_max) * u64::from(config.unlogged_percent_max) / 100;
        Self {
            config: config.clone(),
            relays: proxy.trusted.clone(),
            watermarks,
            connections_max,
            listener_max: Listener::ALL.map(|listener| config.listener_max.of(listener, connections_max)),
            unlogged_max: u32::try_from(unlogged_max).unwrap_or(u32::MAX).max(1),
            connections: AtomicU32::new(0),
            of_listener: Default::default(),
            unlogged: AtomicU32::new(0),
            addresses: Mutex::new(Addresses::new(
                config.addresses_max as usize,
                u64::try_from(config.bad_token_ban.as_millis()).unwrap_or(u64::MAX),
            )),
            start: Instant::now(),
            warn_from_ms: AtomicU64::new(0),
            counters,
        }
    }

    /// Connections this gateway carries at most.
    pub(crate) const fn connections_max(&self) -> u32 {
        self.connections_max
    }

    /// Connections there are.
    pub(crate) fn connections(&self) -> u32 {
        self.connections.load(Relaxed)
    }

    /// Whether there is memory for one session more. Asked once for each, for who is sent away is counted.
    pub(crate) fn has_memory(&self) -> bool {
        let has_memory = !self.watermarks.refuses_logins();
        if !has_memory {
            self.refused(Refused::Memory);
        }
        has_memory
    }

    /// A LOGIN from the address: may its token be looked at?
    ///
    /// # Errors
    /// Milliseconds to wait.
    pub(crate) fn login(&self, peer: IpAddr) -> Result<(), u64> {
        self.login_at(peer, self.now_ms())
    }

    /// The address brought a token that lets nobody in.
    pub(crate) fn bad_token(&self, peer: IpAddr) {
        self.bad_token_at(peer, self.now_ms());
    }

    fn accept_at(&self, listener: Listener, peer: IpAddr, now_ms: u64) -> Result<(), Refused> {
        let connections = self.connections.fetch_add(1, Relaxed);
        let of_listener = self.of_listener[listener as usize].fetch_add(1, Relaxed);
        let admitted = if connections >= self.connections_max {
            Err(Refused::Connections)
        } else if of_listener >= self.listener_max[listener as usize] {
            Err(Refused::Listener)
        } else if self.watermarks.refuses_connections(connections) {
            Err(Refused::Files)
        } else if self.is_exempt(peer) {
            Ok(())
        } else {
            self.accept_address(peer, now_ms)
        };
        if admitted.is_err() {
            self.uncount(listener);
        } else {
            self.counters.listener_connections[listener as usize].raise(1);
        }
        admitted
    }

    /// There is one less than was counted.
    fn uncount(&self, listener: Listener) {
        lower(&self.connections);
        lower(&self.of_listener[listener as usize]);
    }

    fn introduce_at(&self, client: IpAddr, now_ms: u64) -> Result<(), Refused> {
        // Counted in all when it was accepted.
        if self.is_exempt(client) { Ok(()) } else { self.accept_address(client, now_ms) }
    }

    fn accept_address(&self, peer: IpAddr, now_ms: u64) -> Result<(), Refused> {
        let (config, address) = (&self.config, Address::from(peer));
        let mut addresses = self.addresses();
        // Others only make it smaller while the table is locked.
        let unlogged = self.unlogged.load(Relaxed);
        let mut lost = None;
        let place = match addresses.find(address) {
            Some(place) => place,
            // Nobody is forgotten for somebody who is then refused.
            None if unlogged >= self.unlogged_max => return Err(Refused::Unlogged),
            None => {
                let place;
                (place, lost) = addresses.insert(address, now_ms).map_err(|_| Refused::Table)?;
                place
            }
        };
        let ban_ms = self.ban_ms();
        let admitted = addresses.change(place, |entry| {
            entry.expire(now_ms, ban_ms);
            if entry.banned_until_ms > 0 {
                return Err(Refused::Banned);
            }
            if entry.live >= config.live_max {
                return Err(Refused::Live);
            }
            if entry.half_open >= half_open_allowed(config.half_open_max, self.unlogged_max, unlogged) {
                return Err(Refused::HalfOpen);
            }
            if entry.new.take(now_ms, config.new_per_s, 1000).is_err() {
                return Err(Refused::NewRate);
            }
            if unlogged >= self.unlogged_max {
                return Err(Refused::Unlogged);
            }
            entry.half_open += 1;
            entry.live += 1;
            self.unlogged.fetch_add(1, Relaxed);
            Ok(())
        });
        drop(addresses);
        if let Some(lost) = lost {
            self.forgot(lost, now_ms);
        }
        admitted
    }

    /// The table is full, and an address had to be forgotten before its time.
    fn forgot(&self, lost: Holds, now_ms: u64) {
        self.counters.admission_forgotten[lost as usize].add(1);
        let warn_from_ms = self.warn_from_ms.load(Relaxed);
        if now_ms >= warn_from_ms
            && self.warn_from_ms.compare_exchange(warn_from_ms, now_ms.saturating_add(MINUTE_MS), Relaxed, Relaxed).is_ok()
        {
            let addresses = self.config.addresses_max;
            warn!(addresses, "the table of addresses is full; those without a connection are forgotten before their time");
        }
    }

    fn login_at(&self, peer: IpAddr, now_ms: u64) -> Result<(), u64> {
        if self.is_exempt(peer) {
            return Ok(());
        }
        let mut addresses = self.addresses();
        // Its connection may just have gone, and its entry with it; then nobody waits for the answer either.
        let Some(place) = addresses.find(Address::from(peer)) else { return Ok(()) };
        addresses.change(place, |entry| {
            if entry.banned_until_ms > now_ms {
                self.refused(Refused::Banned);
                return Err(entry.banned_until_ms - now_ms);
            }
            entry.logins.take(now_ms, self.config.logins_per_minute, MINUTE_MS).inspect_err(|_| self.refused(Refused::LoginRate))
        })
    }

    fn bad_token_at(&self, peer: IpAddr, now_ms: u64) {
        if self.is_exempt(peer) {
            return;
        }
        let ban_ms = self.ban_ms();
        self.change(peer, |entry| {
            entry.expire(now_ms, ban_ms);
            if entry.bad_tokens == 0 {
                entry.bad_since_ms = now_ms;
            }
            entry.bad_tokens += 1;
            if entry.bad_tokens >= self.config.bad_tokens_max {
                entry.bad_tokens = 0;
                entry.banned_until_ms = now_ms.saturating_add(ban_ms);
            }
        });
    }

    /// Changes what is known of an address; nothing where it has been forgotten.
    fn change(&self, peer: IpAddr, change: impl FnOnce(&mut addresses::Entry)) {
        let mut addresses = self.addresses();
        if let Some(place) = addresses.find(Address::from(peer)) {
            addresses.change(place, change);
        }
    }

    fn ban_ms(&self) -> u64 {
        u64::try_from(self.config.bad_token_ban.as_millis()).unwrap_or(u64::MAX)
    }

    /// A relay itself is, for it carries everybody.
    fn is_exempt(&self, peer: IpAddr) -> bool {
        self.config.exempt.iter().chain(&self.relays).any(|network| network.contains(peer))
    }

    fn refused(&self, why: Refused) {
        self.counters.admission_refused[why as usize].add(1);
    }

    /// Counts a refusal, and says what the client is told.
    fn turn_away(&self, peer: IpAddr, why: Refused, now_ms: u64) -> TurnedAway {
        self.refused(why);
        let mut refusal = TurnedAway::because(why.reason());
        if why == Refused::Banned {
            let mut left_ms = 0;
            self.change(peer, |entry| left_ms = entry.banned_until_ms.saturating_sub(now_ms));
            refusal.retry_after_ms = left_ms.max(1);
        }
        refusal
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission for Gate {
    fn accept(&self, listener: Listener, peer: IpAddr) -> Result<(), TurnedAway> {
        let now_ms = self.now_ms();
        self.accept_at(listener, peer, now_ms).map_err(|why| {
            if why == Refused::Listener {
                self.counters.listener_refused[listener as usize].add(1);
            }
            self.turn_away(peer, why, now_ms)
        })
    }

    fn is_open(&self) -> bool {
        !self.watermarks.stops_accepting(self.connections())
    }

    fn is_relay(&self, peer: IpAddr) -> bool {
        self.relays.iter().any(|network| network.contains(peer))
    }

    fn introduce(&self, client: IpAddr) -> Result<(), TurnedAway> {
        let now_ms = self.now_ms();
        self.introduce_at(client, now_ms).map_err(|why| self.turn_away(client, why, now_ms))
    }

    fn logged_in(&self, peer: IpAddr) {
        if self.is_exempt(peer) {
            return;
        }
        lower(&self.unlogged);
        self.change(peer, |entry| entry.half_open = entry.half_open.saturating_sub(1));
    }

    fn closed(&self, listener: Listener, peer: IpAddr, was_logged_in: bool) {
        self.uncount(listener);
        self.counters.listener_connections[listener as usize].lower(1);
        if self.is_exempt(peer) {
            return;
        }
        if !was_logged_in {
            lower(&self.unlogged);
        }
        self.change(peer, |entry| {
            entry.live = entry.live.saturating_sub(1);
            if !was_logged_in {
                entry.half_open = entry.half_open.saturating_sub(1);
            }
        });
    }
}

/// One less. Below 0 it would refuse everybody for ever.
fn lower(count: &AtomicU32) {
    let lowered = count.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
    debug_assert!(lowered.is_ok(), "who was counted once goes once");
}

/// How many connections without login an address may have, of `max`: an eighth of the places for strangers that are free, at least one. So
/// what is free is never less than eight times what the greediest address may still take, and who comes first from an address gets in until
/// as many addresses as there are places hold them.
fn half_open_allowed(max: u32, places: u32, taken: u32) -> u32 {
    (places.saturating_sub(taken) / FREE_PER_HALF_OPEN).clamp(1, max.max(1))
}

/// 90 % of the files this process may open: links, records and the kernel's own want some too.
fn default_connections_max() -> u32 {
    u32::try_from(files_max() * 9 / 10).unwrap_or(u32::MAX).max(1)
}

/// Places that are free for each one that an address holds without login.
const FREE_PER_HALF_OPEN: u32 = 8;
const MINUTE_MS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::{Gate, Holds, MINUTE_MS, Network, Refused, half_open_allowed};
    use crate::{
        config::{AdmissionConfig, ProxyConfig},
        metrics::ControlCounters,
        shard::message::{Admission, Listener, TurnedAway},
        watermarks::Watermarks,
    };
    use billfish_wire::Reason;
    use proptest::prelude::*;
    use std::{net::IpAddr, sync::Arc};

    fn gate(change: impl FnOnce(&mut AdmissionConfig)) -> Gate {
        let mut config = AdmissionConfig { connections_max: 100_000, ..AdmissionConfig::default() };
        change(&mut config);
        with(&config, Watermarks::far())
    }

    /// 203.0.113.0/24 is relays.
    fn with(config: &AdmissionConfig, watermarks: Watermarks) -> Gate {
        let proxy = ProxyConfig { trusted: vec!["203.0.113.0/24".parse().unwrap()], ..ProxyConfig::default() };
        Gate::new(config, &proxy, Arc::new(watermarks), Arc::new(ControlCounters::default()))
    }

    const TCP: Listener = Listener::Tcp;
    const RELAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn the_fifty_first_new_connection_of_a_second_is_refused() {
        let gate = gate(|_| {});
        for _ in 0..50 {
            gate.accept_at(TCP, peer(1), 0).unwrap();
        }
        assert_eq!(gate.accept_at(TCP, peer(1), 0), Err(Refused::NewRate));
        gate.accept_at(TCP, peer(2), 0).unwrap();
        gate.accept_at(TCP, peer(1), 20).unwrap();
        assert_eq!(gate.accept_at(TCP, peer(1), 20), Err(Refused::NewRate));
    }

    #[test]
    fn the_two_hundred_and_first_half_open_connection_is_refused_until_one_logs_in_or_goes() {
        let gate = gate(|config| config.new_per_s = 1_000_000);
        for _ in 0..200 {
            gate.accept_at(TCP, peer(1), 0).unwrap();
        }
        assert_eq!(gate.accept_at(TCP, peer(1), 0), Err(Refused::HalfOpen));
        gate.logged_in(peer(1));
        gate.accept_at(TCP, peer(1), 0).unwrap();
        assert_eq!(gate.accept_at(TCP, peer(1), 0), Err(Refused::HalfOpen));
        gate.closed(TCP, peer(1), false);
        gate.accept_at(TCP, peer(1), 0).unwrap();
    }

    #[test]
    fn the_two_thousand_and_first_connection_of_an_address_is_refused() {
        let gate = gate(|config| config.new_per_s = 1_000_000);
        for _ in 0..2_000 {
            gate.accept_at(TCP, peer(1), 0).unwrap();
            gate.logged_in(peer(1));
        }
        assert_eq!(gate.accept_at(TCP, peer(1), 0), Err(Refused::Live));
        gate.closed(TCP, peer(1), true);
        gate.accept_at(TCP, peer(1), 0).unwrap();
    }

    #[test]
    fn strangers_take_a_tenth_of_the_places_at_most() {
        let gate = gate(|config| config.connections_max = 100);
        for last in 0..10 {
            gate.accept_at(TCP, peer(last), 0).unwrap();
        }
        assert_eq!(gate.accept_at(TCP, peer(10), 0), Err(Refused::Unlogged));
        gate.logged_in(peer(0));
        gate.accept_at(TCP, peer(10), 0).unwrap();
    }

    #[test]
    fn the_process_carries_no_more_than_its_maximum_even_of_exempt_networks() {
        let gate = gate(|config| config.connections_max = 2);
        let proxy = IpAddr::from([127, 0, 0, 9]);
        gate.accept(TCP, proxy).unwrap();
        gate.accept(TCP, proxy).unwrap();
        assert_eq!(gate.accept(TCP, proxy), Err(TurnedAway { reason: Reason::Unavailable, retry_after_ms: 5_000 }));
        assert_eq!(gate.counters.admission_refused[Refused::Connections as usize].value(), 1);
        gate.closed(TCP, proxy, false);
        gate.accept(TCP, proxy).unwrap();
    }

    #[test]
    fn one_more_than_a_listener_may_have_is_refused_there_and_nowhere_else() {
        let gate = gate(|config| config.listener_max.tls = 2);
        let proxy = IpAddr::from([127, 0, 0, 9]);
        gate.accept(Listener::Tls, proxy).unwrap();
        gate.accept(Listener::Tls, peer(1)).unwrap();
        for refused in 1..3 {
            assert_eq!(gate.accept(Listener::Tls, peer(refused)), Err(TurnedAway { reason: Reason::Unavailable, retry_after_ms: 5_000 }));
            assert_eq!(gate.counters.admission_refused[Refused::Listener as usize].value(), u64::from(refused));
            assert_eq!(gate.counters.listener_refused.each_ref().map(|refused| refused.value()), [0, 0, u64::from(refused), 0]);
        }
        for listener in [Listener::Tcp, Listener::Ws, Listener::Quic] {
            gate.accept(listener, peer(2)).unwrap();
            gate.accept(listener, peer(2)).unwrap();
            gate.accept(listener, peer(2)).unwrap();
        }
        assert_eq!(gate.counters.listener_connections.each_ref().map(|open| open.value()), [3, 3, 2, 3]);
        gate.closed(Listener::Tcp, peer(2), false);
        assert_eq!(gate.accept_at(Listener::Tls, peer(1), 0), Err(Refused::Listener), "the place is another listener's");
        gate.closed(Listener::Tls, proxy, false);
        gate.accept(Listener::Tls, peer(3)).unwrap();
        assert_eq!(gate.connections(), 10);
    }

    #[test]
    fn from_92_percent_of_the_files_on_connections_are_sent_elsewhere_and_then_left_alone() {
        let gate = with(&AdmissionConfig { connections_max: 1_000, ..AdmissionConfig::default() }, Watermarks::with_files(100, 82));
        for last in 0..10 {
            gate.accept(TCP, peer(last)).unwrap();
        }
        assert_eq!(gate.accept(TCP, peer(10)), Err(TurnedAway::because(Reason::Unavailable)));
        assert_eq!(gate.counters.admission_refused[Refused::Files as usize].value(), 1);
        assert!(gate.is_open(), "they are told");
        gate.closed(TCP, peer(0), false);
        gate.accept(TCP, peer(10)).unwrap();
        // What was refused keeps its file while it hears why; so it is others who use up the rest.
        let gate = with(&AdmissionConfig::default(), Watermarks::with_files(100, 95));
        assert!(!gate.is_open());
    }

    #[test]
    fn behind_a_relay_each_client_has_its_own_limits() {
        let gate = gate(|config| config.new_per_s = 2);
        for _ in 0..100 {
            gate.accept_at(TCP, RELAY, 0).unwrap();
        }
        gate.introduce_at(peer(1), 0).unwrap();
        gate.introduce_at(peer(1), 0).unwrap();
        assert_eq!(gate.introduce_at(peer(1), 0), Err(Refused::NewRate));
        gate.introduce_at(peer(2), 0).unwrap();
        assert_eq!(gate.connections(), 100, "counted once, when they were accepted");
        for _ in 0..10 {
            gate.bad_token_at(peer(1), 0);
            gate.bad_token_at(RELAY, 0);
        }
        assert_eq!(gate.introduce_at(peer(1), 5_000), Err(Refused::Banned));
        gate.introduce_at(peer(2), 5_000).unwrap();
        gate.accept_at(TCP, RELAY, 5_000).unwrap();
    }

    #[test]
    fn the_sixty_first_login_of_a_minute_waits() {
        let gate = gate(|_| {});
        gate.accept_at(TCP, peer(1), 0).unwrap();
        for _ in 0..60 {
            gate.login_at(peer(1), 0).unwrap();
        }
        assert_eq!(gate.login_at(peer(1), 0), Err(1_000));
        gate.login_at(peer(1), 1_000).unwrap();
        assert_eq!(gate.counters.admission_refused[Refused::LoginRate as usize].value(), 1);
    }

    #[test]
    fn the_tenth_bad_token_bans_for_ten_minutes() {
        let gate = gate(|_| {});
        gate.accept_at(TCP, peer(1), 0).unwrap();
        for _ in 0..9 {
            gate.bad_token_at(peer(1), 5);
        }
        gate.login_at(peer(1), 6).unwrap();
        gate.bad_token_at(peer(1), 7);
        assert_eq!(gate.login_at(peer(1), 8), Err(599_999));
        assert_eq!(gate.accept_at(TCP, peer(1), 8), Err(Refused::Banned));
        gate.accept_at(TCP, peer(1), 7 + 600_000).unwrap();
        gate.login_at(peer(1), 7 + 600_000).unwrap();
    }

    #[test]
    fn who_is_banned_is_told_what_is_left_of_it_and_others_five_seconds() {
        let gate = gate(|config| config.half_open_max = 1);
        let relayed = peer(2);
        for address in [peer(1), relayed] {
            guesses(&gate, address, 10, gate.now_ms());
            let told = if address == relayed { gate.introduce(address) } else { gate.accept(TCP, address) }.unwrap_err();
            assert_eq!(told.reason, Reason::RateLimited);
            assert!((500_000..=600_000).contains(&told.retry_after_ms), "{told:?}");
            assert_eq!(told.body().retry_after_ms, i64::try_from(told.retry_after_ms).ok());
        }
        gate.accept(TCP, peer(3)).unwrap();
        assert_eq!(gate.accept(TCP, peer(3)), Err(TurnedAway { reason: Reason::RateLimited, retry_after_ms: 5_000 }));
    }

    #[test]
    fn bad_tokens_of_long_ago_do_not_add_up() {
        let gate = gate(|_| {});
        gate.accept_at(TCP, peer(1), 0).unwrap();
        for _ in 0..9 {
            gate.bad_token_at(peer(1), 0);
        }
        gate.bad_token_at(peer(1), 600_000);
        gate.login_at(peer(1), 600_000).unwrap();
    }

    #[test]
    fn one_subscriber_of_ipv6_is_one_address() {
        let gate = gate(|config| config.new_per_s = 1);
        gate.accept_at(TCP, "2001:db8::1".parse().unwrap(), 0).unwrap();
        assert_eq!(gate.accept_at(TCP, "2001:db8::2".parse().unwrap(), 0), Err(Refused::NewRate));
        gate.accept_at(TCP, "2001:db8:0:1::1".parse().unwrap(), 0).unwrap();
    }

    #[test]
    fn an_ipv4_address_is_the_same_through_an_ipv6_socket() {
        let gate = gate(|config| config.new_per_s = 1);
        gate.accept_at(TCP, "::ffff:192.0.2.1".parse().unwrap(), 0).unwrap();
        assert_eq!(gate.accept_at(TCP, peer(1), 0), Err(Refused::NewRate));
        gate.accept_at(TCP, "::ffff:127.0.0.1".parse().unwrap(), 0).unwrap();
        gate.accept_at(TCP, "::ffff:127.0.0.1".parse().unwrap(), 0).unwrap();
    }

    /// The gate with room for so few addresses.
    fn small(max: u32, change: impl FnOnce(&mut AdmissionConfig)) -> Gate {
        gate(|config| {
            config.addresses_max = max;
            change(config);
        })
    }

    /// It comes, brings bad tokens and goes.
    fn guesses(gate: &Gate, address: IpAddr, count: u32, now_ms: u64) {
        gate.accept_at(TCP, address, now_ms).unwrap();
        for _ in 0..count {
            gate.bad_token_at(address, now_ms);
        }
        gate.closed(TCP, address, false);
    }

    fn forgotten(gate: &Gate) -> [u64; 3] {
        Holds::ALL.map(|holds| gate.counters.admission_forgotten[holds as usize].value())
    }

    #[test]
    fn in_a_full_table_the_unknown_get_the_places_of_those_who_have_gone() {
        let gate = small(2, |_| {});
        gate.accept_at(TCP, peer(1), 0).unwrap();
        gate.accept_at(TCP, peer(2), 0).unwrap();
        assert_eq!(gate.accept_at(TCP, peer(3), 0), Err(Refused::Table), "both have a connection");
        gate.accept_at(TCP, peer(2), 0).unwrap();
        gate.closed(TCP, peer(1), false);
        gate.accept_at(TCP, peer(3), 0).unwrap();
        assert_eq!(forgotten(&gate), [1, 0, 0], "its allowance was not full yet");
        gate.closed(TCP, peer(3), false);
        gate.accept_at(TCP, peer(4), MINUTE_MS).unwrap();
        assert_eq!(forgotten(&gate), [1, 0, 0], "nothing was lost");
        assert!(gate.addresses().is_in_order());
    }

    #[test]
    fn a_network_full_of_guessers_shuts_nobody_out() {
        let gate = small(1_000, |_| {});
        for network in 0..3_000_u64 {
            guesses(&gate, IpAddr::from(((0x2001_0db8_0000_0000 | u128::from(network)) << 64).to_be_bytes()), 1, network);
        }
        gate.accept_at(TCP, peer(1), 3_000).unwrap();
        gate.login_at(peer(1), 3_000).unwrap();
        assert_eq!(forgotten(&gate), [0, 2_001, 0]);
        assert!(gate.addresses().is_in_order());
    }

    /// `tests/addresses.rs` reads the line.
    #[test]
    fn an_operator_is_told_of_a_full_table_once_a_minute() {
        let gate = small(1, |_| {});
        let mut told = 0;
        for (now_ms, is_told) in [(1_000, true), (1_001, false), (1_000 + MINUTE_MS - 1, false), (1_000 + MINUTE_MS, true), (70_000, false)]
        {
            gate.forgot(Holds::Allowance, now_ms);
            let from_ms = gate.warn_from_ms.load(super::Relaxed);
            assert_eq!(from_ms != told, is_told, "{now_ms}");
            told = from_ms;
        }
        assert_eq!(forgotten(&gate), [5, 0, 0]);
    }

    #[test]
    fn the_banned_are_forgotten_last_and_those_who_guessed_before_them() {
        let gate = small(4, |_| {});
        guesses(&gate, peer(1), 10, 0);
        guesses(&gate, peer(2), 9, 0);
        gate.accept_at(TCP, peer(3), 0).unwrap();
        guesses(&gate, peer(4), 0, 0);
        gate.accept_at(TCP, peer(5), 1).unwrap();
        assert_eq!(forgotten(&gate), [1, 0, 0], "who did nothing goes first, though the others are older");
        gate.accept_at(TCP, peer(6), 1).unwrap();
        assert_eq!(forgotten(&gate), [1, 1, 0]);
        assert_eq!(gate.accept_at(TCP, peer(1), 1), Err(Refused::Banned));
        gate.accept_at(TCP, peer(7), 1).unwrap();
        assert_eq!(forgotten(&gate), [1, 1, 1], "all others have connections");
        assert_eq!(gate.accept_at(TCP, peer(8), 1), Err(Refused::Table));
    }

    #[test]
    fn a_ban_that_is_over_goes_before_an_allowance_that_is_used() {
        let gate = small(2, |_| {});
        guesses(&gate, peer(1), 10, 0);
        guesses(&gate, peer(2), 0, 600_000);
        gate.accept_at(TCP, peer(3), 600_000).unwrap();
        assert_eq!(forgotten(&gate), [0, 0, 0]);
        // Banned when its connection had gone: it is the last all the same.
        gate.bad_token_at(peer(2), 600_000);
        for _ in 0..9 {
            gate.bad_token_at(peer(2), 600_000);
        }
        assert_eq!(gate.accept_at(TCP, peer(2), 600_001), Err(Refused::Banned));
        assert!(gate.addresses().is_in_order());
    }

    #[test]
    fn who_is_refused_for_want_of_places_costs_nobody_his_entry() {
        let gate = small(2, |config| config.connections_max = 10);
        guesses(&gate, peer(1), 10, 0);
        gate.accept_at(TCP, peer(2), 0).unwrap();
        assert_eq!(gate.accept_at(TCP, peer(3), 0), Err(Refused::Unlogged));
        gate.closed(TCP, peer(2), false);
        assert_eq!(gate.accept_at(TCP, peer(1), 0), Err(Refused::Banned));
        assert_eq!(forgotten(&gate), [0, 0, 0]);
    }

    #[test]
    fn an_address_holds_an_eighth_of_what_is_free_for_strangers_and_always_one() {
        for (max, places, taken, allowed) in [
            (200, 100_000, 0, 200),
            (200, 100_000, 98_400, 200),
            (200, 100_000, 98_399 + 8, 199),
            (200, 1_800, 200, 200),
            (200, 1_800, 1_000, 100),
            (200, 1_800, 1_799, 1),
            (200, 1_800, 1_800, 1),
            (200, 1, 2, 1),
            (3, 1_800, 0, 3),
        ] {
            assert_eq!(half_open_allowed(max, places, taken), allowed, "{max} {places} {taken}");
        }
    }

    #[test]
    fn strangers_from_forty_addresses_leave_places_for_newcomers() {
        // As with 20,000 files.
        let gate = gate(|config| {
            config.connections_max = 18_000;
            config.new_per_s = 1_000_000;
        });
        for turn in 0..400_u32 {
            for last in 0..42 {
                let admitted = gate.accept_at(TCP, peer(last), 0);
                assert!(matches!(admitted, Ok(()) | Err(Refused::HalfOpen)), "{turn} {admitted:?}");
            }
        }
        let newcomer = |at: u32| IpAddr::from((0x0A00_0000 + at).to_be_bytes());
        for at in 0..200 {
            gate.accept_at(TCP, newcomer(at), 0).unwrap();
        }
        assert!(gate.unlogged.load(super::Relaxed) > 1_500, "strangers have most of it");
    }

    #[test]
    fn networks_are_read_as_people_write_them() {
        for bad in ["10.0.0.0", "10.0.0.0/33", "::1/129", "x/8", "10.0.0.0/"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains(peer(1)) && !all.contains("::1".parse().unwrap()));
        let one: Network = "::1/128".parse().unwrap();
        assert!(one.contains("::1".parse().unwrap()) && !one.contains("::2".parse().unwrap()));
        assert_eq!("10.0.0.0/8".parse::<Network>().unwrap().to_string(), "10.0.0.0/8");
    }

    proptest! {
        /// Whatever comes and goes, in a table that is too small or not, the counts return to zero with the last connection.
        #[test]
        fn counts_return_to_rest(steps in proptest::collection::vec((0_u8..8, 0_u8..6, 0_usize..4), 0..200), max in 1_u32..8) {
            let gate = small(max, |config| {
                config.connections_max = 20;
                config.unlogged_percent_max = 100;
                config.half_open_max = 3;
                config.live_max = 5;
                config.new_per_s = 1_000;
                config.bad_tokens_max = 2;
            });
            let mut open: Vec<(IpAddr, bool, Listener)> = Vec::new();
            for (now_ms, (step, last, listener)) in (0..).step_by(60_000).zip(steps) {
                let listener = Listener::ALL[listener];
                match step {
                    4 => if gate.accept_at(listener, RELAY, now_ms).is_ok() { open.push((RELAY, false, listener)); },
                    5 => if let Some(one) = open.iter_mut().find(|one| (one.0, one.1) == (RELAY, false)) && gate.introduce_at(peer(last), now_ms).is_ok() {
                        one.0 = peer(last);
                    },
                    6 => gate.bad_token_at(peer(last), now_ms),
                    0 | 1 => if gate.accept_at(listener, peer(last), now_ms).is_ok() { open.push((peer(last), false, listener)); },
                    2 => if let Some(one) = open.iter_mut().find(|one| !one.1) { one.1 = true; gate.logged_in(one.0); },
                    _ => if let Some((one, logged_in, listener)) = open.pop() { gate.closed(listener, one, logged_in); },
                }
                for listener in Listener::ALL {
                    let here = open.iter().filter(|one| one.2 == listener).count();
                    prop_assert_eq!(gate.of_listener[listener as usize].load(super::Relaxed) as usize, here);
                }
                prop_assert!(gate.addresses().is_in_order());
            }
            for (one, logged_in, listener) in open.drain(..) { gate.closed(listener, one, logged_in); }
            prop_assert_eq!(gate.connections.load(super::Relaxed), 0);
            prop_assert_eq!(gate.unlogged.load(super::Relaxed), 0);
            prop_assert!(gate.of_listener.iter().all(|open| open.load(super::Relaxed) == 0));
            prop_assert!(gate.counters.listener_connections.iter().all(|open| open.value() == 0));
            prop_assert!(gate.addresses().is_in_order());
            prop_assert!(gate.addresses().entries().all(|entry| entry.live == 0 && entry.half_open == 0));
        }
    }
}
