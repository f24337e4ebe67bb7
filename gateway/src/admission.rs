//! Who may connect and log in: limits per address and in all, before anything is allocated for a stranger.
//!
//! - An address is one IPv4 address or one IPv6 /64, the smallest thing one subscriber is given.
//! - Nothing here waits: shards ask from their threads, and a question costs one short lock; exempt networks cost none.
//! - The table is bounded. An address that has no connection and whose allowances are full again is forgotten; when even that makes no
//!   room, unknown addresses are refused.
//!
//! Not for what a session does: its own limits are in `protocol/session`.

use crate::{
    config::{AdmissionConfig, ProxyConfig},
    metrics::ControlCounters,
    shard::message::Admission,
    watermarks::{Watermarks, files_max},
};
use billfish_wire::Reason;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Instant,
};

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
    pub(crate) const ALL: [Self; 10] = [
        Self::Connections,
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

    /// What the client is told. `Connections`, `Files` and `Memory` send it elsewhere: the fault is ours, and another node may have room.
    const fn reason(self) -> Reason {
        match self {
            Self::Connections | Self::Files | Self::Memory | Self::Unlogged | Self::Table => Reason::Unavailable,
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
    unlogged_max: u32,
    connections: AtomicU32,
    /// Without login, exempt networks left out.
    unlogged: AtomicU32,
    addresses: Mutex<HashMap<Address, Entry, foldhash::fast::RandomState>>,
    addresses_max: usize,
    start: Instant,
    counters: Arc<ControlCounters>,
}

/// What limits are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Address {
    V4(Ipv4Addr),
    /// The upper half.
    V6(u64),
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((u128::from(address) >> 64) as u64),
        }
    }
}

/// What is known of one address.
#[derive(Debug)]
struct Entry {
    half_open: u32,
    live: u32,
    new: Allowance,
    logins: Allowance,
    bad_tokens: u32,
    /// When the first of `bad_tokens` came.
    bad_since_ms: u64,
    banned_until_ms: u64,
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
            unlogged_max: u32::try_from(unlogged_max).unwrap_or(u32::MAX).max(1),
            connections: AtomicU32::new(0),
            unlogged: AtomicU32::new(0),
            addresses: Mutex::new(HashMap::default()),
            addresses_max: ADDRESSES_MAX,
            start: Instant::now(),
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

    fn accept_at(&self, peer: IpAddr, now_ms: u64) -> Result<(), Refused> {
        let connections = self.connections.fetch_add(1, Relaxed);
        let admitted = if connections >= self.connections_max {
            Err(Refused::Connections)
        } else if self.watermarks.refuses_connections(connections) {
            Err(Refused::Files)
        } else if self.is_exempt(peer) {
            Ok(())
        } else {
            self.accept_address(peer, now_ms)
        };
        if admitted.is_err() {
            self.connections.fetch_sub(1, Relaxed);
        }
        admitted
    }

    fn introduce_at(&self, client: IpAddr, now_ms: u64) -> Result<(), Refused> {
        // Counted in all when it was accepted.
        if self.is_exempt(client) { Ok(()) } else { self.accept_address(client, now_ms) }
    }

    fn accept_address(&self, peer: IpAddr, now_ms: u64) -> Result<(), Refused> {
        let config = &self.config;
        let mut addresses = self.addresses();
        let address = Address::from(peer);
        if !addresses.contains_key(&address) && addresses.len() >= self.addresses_max {
            addresses.retain(|_, entry| !entry.is_idle(now_ms, config));
            if addresses.len() >= self.addresses_max {
                return Err(Refused::Table);
            }
        }
        let entry = addresses.entry(address).or_insert_with(Entry::new);
        if entry.banned_until_ms > now_ms {
            return Err(Refused::Banned);
        }
        if entry.live >= config.live_max {
            return Err(Refused::Live);
        }
        if entry.half_open >= config.half_open_max {
            return Err(Refused::HalfOpen);
        }
        if entry.new.take(now_ms, config.new_per_s, 1000).is_err() {
            return Err(Refused::NewRate);
        }
        if self.unlogged.fetch_add(1, Relaxed) >= self.unlogged_max {
            self.unlogged.fetch_sub(1, Relaxed);
            return Err(Refused::Unlogged);
        }
        entry.half_open += 1;
        entry.live += 1;
        Ok(())
    }

    fn login_at(&self, peer: IpAddr, now_ms: u64) -> Result<(), u64> {
        if self.is_exempt(peer) {
            return Ok(());
        }
        let mut addresses = self.addresses();
        // Its connection may just have gone, and its entry with it; then nobody waits for the answer either.
        let Some(entry) = addresses.get_mut(&Address::from(peer)) else { return Ok(()) };
        if entry.banned_until_ms > now_ms {
            self.refused(Refused::Banned);
            return Err(entry.banned_until_ms - now_ms);
        }
        entry.logins.take(now_ms, self.config.logins_per_minute, MINUTE_MS).inspect_err(|_| self.refused(Refused::LoginRate))
    }

    fn bad_token_at(&self, peer: IpAddr, now_ms: u64) {
        if self.is_exempt(peer) {
            return;
        }
        let ban_ms = self.ban_ms();
        let mut addresses = self.addresses();
        let Some(entry) = addresses.get_mut(&Address::from(peer)) else { return };
        if entry.bad_tokens == 0 || now_ms.saturating_sub(entry.bad_since_ms) >= ban_ms {
            entry.bad_tokens = 0;
            entry.bad_since_ms = now_ms;
        }
        entry.bad_tokens += 1;
        if entry.bad_tokens >= self.config.bad_tokens_max {
            entry.bad_tokens = 0;
            entry.banned_until_ms = now_ms.saturating_add(ban_ms);
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

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<Address, Entry, foldhash::fast::RandomState>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission for Gate {
    fn accept(&self, peer: IpAddr) -> Result<(), Reason> {
        self.accept_at(peer, self.now_ms()).map_err(|why| {
            self.refused(why);
            why.reason()
        })
    }

    fn is_open(&self) -> bool {
        !self.watermarks.stops_accepting(self.connections())
    }

    fn is_relay(&self, peer: IpAddr) -> bool {
        self.relays.iter().any(|network| network.contains(peer))
    }

    fn introduce(&self, client: IpAddr) -> Result<(), Reason> {
        self.introduce_at(client, self.now_ms()).map_err(|why| {
            self.refused(why);
            why.reason()
        })
    }

    fn logged_in(&self, peer: IpAddr) {
        if self.is_exempt(peer) {
            return;
        }
        self.unlogged.fetch_sub(1, Relaxed);
        if let Some(entry) = self.addresses().get_mut(&Address::from(peer)) {
            entry.half_open = entry.half_open.saturating_sub(1);
        }
    }

    fn closed(&self, peer: IpAddr, was_logged_in: bool) {
        self.connections.fetch_sub(1, Relaxed);
        if self.is_exempt(peer) {
            return;
        }
        if !was_logged_in {
            self.unlogged.fetch_sub(1, Relaxed);
        }
        if let Some(entry) = self.addresses().get_mut(&Address::from(peer)) {
            entry.live = entry.live.saturating_sub(1);
            if !was_logged_in {
                entry.half_open = entry.half_open.saturating_sub(1);
            }
        }
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            half_open: 0,
            live: 0,
            new: Allowance::default(),
            logins: Allowance::default(),
            bad_tokens: 0,
            bad_since_ms: 0,
            banned_until_ms: 0,
        }
    }

    /// Forgetting it changes no answer.
    fn is_idle(&self, now_ms: u64, config: &AdmissionConfig) -> bool {
        let bad_tokens_count = self.bad_tokens > 0
            && now_ms.saturating_sub(self.bad_since_ms) < u64::try_from(config.bad_token_ban.as_millis()).unwrap_or(u64::MAX);
        self.live == 0 && !bad_tokens_count && self.banned_until_ms <= now_ms && self.new.is_full(now_ms) && self.logins.is_full(now_ms)
    }
}

/// 90 % of the files this process may open: links, records and the kernel's own want some too.
fn default_connections_max() -> u32 {
    u32::try_from(files_max() * 9 / 10).unwrap_or(u32::MAX).max(1)
}

/// Addresses remembered at once: at 72 bytes each about 6 MiB with the table's slack.
const ADDRESSES_MAX: usize = 65_536;
const MINUTE_MS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::{Gate, MINUTE_MS, Network, Refused};
    use crate::{
        config::{AdmissionConfig, ProxyConfig},
        metrics::ControlCounters,
        shard::message::Admission,
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
        let proxy = ProxyConfig { trusted: vec!["203.0.113.0/24".parse().unwrap()] };
        Gate::new(config, &proxy, Arc::new(watermarks), Arc::new(ControlCounters::default()))
    }

    const RELAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn the_fifty_first_new_connection_of_a_second_is_refused() {
        let gate = gate(|_| {});
        for _ in 0..50 {
            gate.accept_at(peer(1), 0).unwrap();
        }
        assert_eq!(gate.accept_at(peer(1), 0), Err(Refused::NewRate));
        gate.accept_at(peer(2), 0).unwrap();
        gate.accept_at(peer(1), 20).unwrap();
        assert_eq!(gate.accept_at(peer(1), 20), Err(Refused::NewRate));
    }

    #[test]
    fn the_two_hundred_and_first_half_open_connection_is_refused_until_one_logs_in_or_goes() {
        let gate = gate(|config| config.new_per_s = 1_000_000);
        for _ in 0..200 {
            gate.accept_at(peer(1), 0).unwrap();
        }
        assert_eq!(gate.accept_at(peer(1), 0), Err(Refused::HalfOpen));
        gate.logged_in(peer(1));
        gate.accept_at(peer(1), 0).unwrap();
        assert_eq!(gate.accept_at(peer(1), 0), Err(Refused::HalfOpen));
        gate.closed(peer(1), false);
        gate.accept_at(peer(1), 0).unwrap();
    }

    #[test]
    fn the_two_thousand_and_first_connection_of_an_address_is_refused() {
        let gate = gate(|config| config.new_per_s = 1_000_000);
        for _ in 0..2_000 {
            gate.accept_at(peer(1), 0).unwrap();
            gate.logged_in(peer(1));
        }
        assert_eq!(gate.accept_at(peer(1), 0), Err(Refused::Live));
        gate.closed(peer(1), true);
        gate.accept_at(peer(1), 0).unwrap();
    }

    #[test]
    fn strangers_take_a_tenth_of_the_places_at_most() {
        let gate = gate(|config| config.connections_max = 100);
        for last in 0..10 {
            gate.accept_at(peer(last), 0).unwrap();
        }
        assert_eq!(gate.accept_at(peer(10), 0), Err(Refused::Unlogged));
        gate.logged_in(peer(0));
        gate.accept_at(peer(10), 0).unwrap();
    }

    #[test]
    fn the_process_carries_no_more_than_its_maximum_even_of_exempt_networks() {
        let gate = gate(|config| config.connections_max = 2);
        let proxy = IpAddr::from([127, 0, 0, 9]);
        gate.accept(proxy).unwrap();
        gate.accept(proxy).unwrap();
        assert_eq!(gate.accept(proxy), Err(Reason::Unavailable));
        assert_eq!(gate.counters.admission_refused[Refused::Connections as usize].value(), 1);
        gate.closed(proxy, false);
        gate.accept(proxy).unwrap();
    }

    #[test]
    fn from_92_percent_of_the_files_on_connections_are_sent_elsewhere_and_then_left_alone() {
        let gate = with(&AdmissionConfig { connections_max: 1_000, ..AdmissionConfig::default() }, Watermarks::with_files(100, 82));
        for last in 0..10 {
            gate.accept(peer(last)).unwrap();
        }
        assert_eq!(gate.accept(peer(10)), Err(Reason::Unavailable));
        assert_eq!(gate.counters.admission_refused[Refused::Files as usize].value(), 1);
        assert!(gate.is_open(), "they are told");
        gate.closed(peer(0), false);
        gate.accept(peer(10)).unwrap();
        // What was refused keeps its file while it hears why; so it is others who use up the rest.
        let gate = with(&AdmissionConfig::default(), Watermarks::with_files(100, 95));
        assert!(!gate.is_open());
    }

    #[test]
    fn behind_a_relay_each_client_has_its_own_limits() {
        let gate = gate(|config| config.new_per_s = 2);
        for _ in 0..100 {
            gate.accept_at(RELAY, 0).unwrap();
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
        gate.accept_at(RELAY, 5_000).unwrap();
    }

    #[test]
    fn the_sixty_first_login_of_a_minute_waits() {
        let gate = gate(|_| {});
        gate.accept_at(peer(1), 0).unwrap();
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
        gate.accept_at(peer(1), 0).unwrap();
        for _ in 0..9 {
            gate.bad_token_at(peer(1), 5);
        }
        gate.login_at(peer(1), 6).unwrap();
        gate.bad_token_at(peer(1), 7);
        assert_eq!(gate.login_at(peer(1), 8), Err(599_999));
        assert_eq!(gate.accept_at(peer(1), 8), Err(Refused::Banned));
        gate.accept_at(peer(1), 7 + 600_000).unwrap();
        gate.login_at(peer(1), 7 + 600_000).unwrap();
    }

    #[test]
    fn bad_tokens_of_long_ago_do_not_add_up() {
        let gate = gate(|_| {});
        gate.accept_at(peer(1), 0).unwrap();
        for _ in 0..9 {
            gate.bad_token_at(peer(1), 0);
        }
        gate.bad_token_at(peer(1), 600_000);
        gate.login_at(peer(1), 600_000).unwrap();
    }

    #[test]
    fn one_subscriber_of_ipv6_is_one_address() {
        let gate = gate(|config| config.new_per_s = 1);
        gate.accept_at("2001:db8::1".parse().unwrap(), 0).unwrap();
        assert_eq!(gate.accept_at("2001:db8::2".parse().unwrap(), 0), Err(Refused::NewRate));
        gate.accept_at("2001:db8:0:1::1".parse().unwrap(), 0).unwrap();
    }

    #[test]
    fn an_ipv4_address_is_the_same_through_an_ipv6_socket() {
        let gate = gate(|config| config.new_per_s = 1);
        gate.accept_at("::ffff:192.0.2.1".parse().unwrap(), 0).unwrap();
        assert_eq!(gate.accept_at(peer(1), 0), Err(Refused::NewRate));
        gate.accept_at("::ffff:127.0.0.1".parse().unwrap(), 0).unwrap();
        gate.accept_at("::ffff:127.0.0.1".parse().unwrap(), 0).unwrap();
    }

    #[test]
    fn a_full_table_forgets_the_idle_and_then_refuses_the_unknown() {
        let mut gate = gate(|_| {});
        gate.addresses_max = 2;
        gate.accept_at(peer(1), 0).unwrap();
        gate.accept_at(peer(2), 0).unwrap();
        assert_eq!(gate.accept_at(peer(3), 0), Err(Refused::Table));
        gate.accept_at(peer(2), 0).unwrap();
        gate.closed(peer(1), false);
        assert_eq!(gate.accept_at(peer(3), 0), Err(Refused::Table), "its allowance is not full yet");
        gate.accept_at(peer(3), MINUTE_MS).unwrap();
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
        /// Whatever comes and goes, the counts return to zero with the last connection.
        #[test]
        fn counts_return_to_rest(steps in proptest::collection::vec((0_u8..6, 0_u8..3), 0..200)) {
            let gate = gate(|config| { config.connections_max = 20; config.half_open_max = 3; config.live_max = 5; config.new_per_s = 1_000; });
            let mut open: Vec<(IpAddr, bool)> = Vec::new();
            for (step, last) in steps {
                match step {
                    4 => if gate.accept_at(RELAY, 0).is_ok() { open.push((RELAY, false)); },
                    5 => if let Some(one) = open.iter_mut().find(|one| **one == (RELAY, false)) && gate.introduce_at(peer(last), 0).is_ok() {
                        one.0 = peer(last);
                    },
                    0 | 1 => if gate.accept_at(peer(last), 0).is_ok() { open.push((peer(last), false)); },
                    2 => if let Some(one) = open.iter_mut().find(|one| !one.1) { one.1 = true; gate.logged_in(one.0); },
                    _ => if let Some((one, logged_in)) = open.pop() { gate.closed(one, logged_in); },
                }
            }
            for (one, logged_in) in open.drain(..) { gate.closed(one, logged_in); }
            prop_assert_eq!(gate.connections.load(super::Relaxed), 0);
            prop_assert_eq!(gate.unlogged.load(super::Relaxed), 0);
            prop_assert!(gate.addresses().values().all(|entry| entry.live == 0 && entry.half_open == 0));
        }
    }
}
