//! When to try again, and where.
//!
//! - Full jitter: each pause is anything between nothing and a bound that doubles, so that a thousand clients whose gateway died do not
//!   come back as one wave.
//! - No clock in here: delays go out, the driver waits; it says what time it is.

use crate::{
    config::ClientConfig,
    endpoint::{Endpoint, TransportKind},
};
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// A connection that lived so long ended for a reason of its own: back-off begins anew. Shorter ones count as failures, so that a server
/// that accepts and drops is not asked without a pause.
pub(crate) const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Pauses between connects.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
    random: fastrand::Rng,
}

impl Backoff {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        Self { min: config.backoff_min, max: config.backoff_max, failures: 0, random: random(config) }
    }

    /// The pause after one more failure, never shorter than the server asked for.
    pub(crate) fn next_delay(&mut self, at_least: Duration) -> Duration {
        let bound = self.bound();
        self.failures = self.failures.saturating_add(1);
        at_least + bound.mul_f64(self.random.f64())
    }

    /// The connection was a good one.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    fn bound(&self) -> Duration {
        // 2^20 times the shortest bound is longer than any longest one that makes sense.
        self.min.saturating_mul(1 << self.failures.min(20)).min(self.max)
    }
}

/// The kind that won a race is tried first for so long: a phone stays in one network for hours, and what it blocks is seldom let through later.
const WINNER_KEPT: Duration = Duration::from_secs(10 * 60);

/// Where to connect: the addresses in force, one of each kind at a time. A ticket's stand in the order in which the server places this user, so its
/// first comes first; those of the configuration are in nobody's order, and a thousand clients do not all begin with the same.
#[derive(Debug)]
pub(crate) struct Endpoints {
    configured: Vec<Endpoint>,
    offered: Vec<Endpoint>,
    /// From a RECONNECT, used up one by one.
    preferred: VecDeque<Endpoint>,
    /// Of the configured ones.
    turn: usize,
    /// Of the offered ones.
    offered_turn: usize,
    /// The kind that is tried first, and until when.
    winner: Option<(TransportKind, Instant)>,
}

impl Endpoints {
    pub(crate) fn new(config: &ClientConfig, now: Instant) -> Self {
        Self {
            configured: read(&config.addresses, TransportKind::Tcp),
            offered: Vec::new(),
            preferred: VecDeque::new(),
            // A second generator for this one number: pauses and places stay independent.
            turn: random(config).usize(0..1 << 16),
            offered_turn: 0,
            winner: config.transport_first.map(|kind| (kind, now + WINNER_KEPT)),
        }
    }

    /// A ticket's addresses replace the last ticket's. The same again go on where they were: the server may not know yet that the first is dead.
    pub(crate) fn offer(&mut self, addresses: &[String]) {
        let offered = read(addresses, TransportKind::Tcp);
        if self.offered != offered {
            self.offered = offered;
            self.offered_turn = 0;
        }
    }

    /// The node is draining and names others, which serve what the connection to it is.
    pub(crate) fn prefer(&mut self, addresses: &[String], like: &Endpoint) {
        let preferred = read(addresses, like.kind).into_iter();
        self.preferred = preferred.map(|endpoint| Endpoint { path: like.path.clone(), ..endpoint }).collect();
    }

    /// The addresses to try next, one of each kind, the one to begin with first; empty when there are none at all.
    pub(crate) fn choose(&mut self, now: Instant) -> Vec<Endpoint> {
        if let Some(endpoint) = self.preferred.pop_front() {
            return vec![endpoint];
        }
        let (endpoints, turn) = if self.offered.is_empty() { (&self.configured, self.turn) } else { (&self.offered, self.offered_turn) };
        let winner = self.winner.filter(|(_, until)| now < *until).map(|(kind, _)| kind);
        let mut kinds = TransportKind::ALL;
        kinds.sort_by_key(|kind| Some(*kind) != winner);
        let of_kind = |kind| {
            let mut known: Vec<&Endpoint> = endpoints.iter().filter(|endpoint| endpoint.kind == kind).collect();
            let place = turn.checked_rem(known.len())?;
            Some(known.swap_remove(place).clone())
        };
        kinds.into_iter().filter_map(of_kind).collect()
    }

    /// A connection of this kind stands: whatever else a RECONNECT named is of no more use.
    pub(crate) fn on_success(&mut self, kind: TransportKind, now: Instant) {
        self.preferred.clear();
        self.winner = Some((kind, now + WINNER_KEPT));
    }

    /// The last choice did not work: the next one is another.
    pub(crate) fn on_failure(&mut self) {
        let turn = if self.offered.is_empty() { &mut self.turn } else { &mut self.offered_turn };
        *turn = turn.wrapping_add(1);
    }

    /// Another network: what the last one let through says nothing.
    pub(crate) fn forget_winner(&mut self) {
        self.winner = None;
    }

    /// Addresses of a RECONNECT are left.
    pub(crate) fn has_preferred(&self) -> bool {
        !self.preferred.is_empty()
    }
}

/// What cannot be read, as of a transport that a later server has, is no address of ours.
fn read(addresses: &[String], bare: TransportKind) -> Vec<Endpoint> {
    addresses.iter().filter_map(|address| Endpoint::read(address, bare).ok()).collect()
}

fn random(config: &ClientConfig) -> fastrand::Rng {
    config.jitter_seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed)
}

#[cfg(test)]
mod tests {
    use super::{Backoff, Endpoints};
    use crate::{
        config::{ClientConfig, Ticket, TokenProvider},
        endpoint::{Endpoint, TransportKind},
    };
    use std::{collections::BTreeSet, time::Duration};
    use tokio::time::Instant;

    fn config(seed: u64) -> ClientConfig {
        let tokens = TokenProvider::new(|| async { Ok(Ticket::default()) });
        ClientConfig { jitter_seed: Some(seed), ..ClientConfig::new(10_086, tokens) }
    }

    #[test]
    fn pauses_fill_a_bound_that_doubles_from_one_second_to_sixty() {
        let mut longest = [Duration::ZERO; 10];
        let mut shortest = [Duration::MAX; 10];
        for seed in 0..500 {
            let mut backoff = Backoff::new(&config(seed));
            for nth in 0..10 {
                let delay = backoff.next_delay(Duration::ZERO);
                longest[nth] = longest[nth].max(delay);
                shortest[nth] = shortest[nth].min(delay);
            }
        }
        for nth in 0..10 {
            let bound = Duration::from_secs((1 << nth).min(60));
            assert!(longest[nth] <= bound, "pause {nth} is {:?}", longest[nth]);
            assert!(longest[nth] > bound.mul_f64(0.9), "500 clients use the whole bound: {:?}", longest[nth]);
            assert!(shortest[nth] < bound.mul_f64(0.1), "and its beginning: {:?}", shortest[nth]);
        }
    }

    #[test]
    fn a_good_connection_begins_anew_and_the_servers_wish_comes_on_top() {
        let mut backoff = Backoff::new(&config(1));
        for _ in 0..8 {
            backoff.next_delay(Duration::ZERO);
        }
        backoff.reset();
        assert!(backoff.next_delay(Duration::ZERO) <= Duration::from_secs(1));
        assert!(backoff.next_delay(Duration::from_secs(30)) >= Duration::from_secs(30));
    }

    #[test]
    fn the_same_seed_gives_the_same_pauses() {
        let delays = |seed| {
            let mut backoff = Backoff::new(&config(seed));
            (0..5).map(|_| backoff.next_delay(Duration::ZERO)).collect::<Vec<_>>()
        };
        assert_eq!(delays(4), delays(4));
        assert_ne!(delays(4), delays(5));
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn endpoints(seed: u64, addresses: &[&str]) -> Endpoints {
        Endpoints::new(&ClientConfig { addresses: list(addresses), ..config(seed) }, Instant::now())
    }

    fn chosen(endpoints: &mut Endpoints) -> Vec<String> {
        endpoints.choose(Instant::now()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_tickets_addresses_are_tried_in_its_order_and_another_ticket_begins_anew() {
        for seed in 0..20 {
            let mut endpoints = endpoints(seed, &["configured:1", "configured:2"]);
            let mut tried = Vec::new();
            for _ in 0..4 {
                // Each try asks for a ticket, and the server says the same as long as it does not know better.
                endpoints.offer(&list(&["a:1", "b:1", "c:1"]));
                tried.extend(chosen(&mut endpoints));
                endpoints.on_failure();
            }
            assert_eq!(tried, ["a:1", "b:1", "c:1", "a:1"]);
            endpoints.offer(&list(&["b:1", "c:1"]));
            assert_eq!(chosen(&mut endpoints), ["b:1"]);
        }
    }

    #[test]
    fn every_configured_address_has_its_turn_and_clients_begin_at_different_ones() {
        let mut begun = BTreeSet::new();
        for seed in 0..50 {
            let mut endpoints = endpoints(seed, &["a:1", "b:1", "c:1"]);
            begun.insert(chosen(&mut endpoints));
            let mut tried = BTreeSet::new();
            for _ in 0..3 {
                tried.extend(chosen(&mut endpoints));
                endpoints.on_failure();
            }
            assert_eq!(tried.len(), 3);
        }
        assert_eq!(begun.len(), 3);
    }

    #[test]
    fn a_draining_nodes_addresses_come_first_then_the_tickets_then_the_configured() {
        let mut endpoints = endpoints(1, &["configured:1"]);
        assert_eq!(chosen(&mut endpoints), ["configured:1"]);
        endpoints.offer(&list(&["ticket:1"]));
        let here = Endpoint::read("wss://here:1/live", TransportKind::Tcp).unwrap();
        endpoints.prefer(&list(&["first:1", "second:1"]), &here);
        let order: Vec<_> = (0..3).flat_map(|_| chosen(&mut endpoints)).collect();
        assert_eq!(order, ["wss://first:1/live", "wss://second:1/live", "ticket:1"]);
        assert!(chosen(&mut Endpoints::new(&config(1), Instant::now())).is_empty());
    }

    #[test]
    fn of_each_kind_one_is_tried_the_best_first_unless_another_won_lately() {
        let mut endpoints = endpoints(1, &[]);
        endpoints.offer(&list(&["a:1", "b:1", "ws://a:2", "tls://a:3", "tls://b:3", "sctp://a:4"]));
        assert_eq!(chosen(&mut endpoints), ["tls://a:3", "a:1", "ws://a:2"]);
        endpoints.on_failure();
        assert_eq!(chosen(&mut endpoints), ["tls://b:3", "b:1", "ws://a:2"]);
        let now = Instant::now();
        endpoints.on_success(TransportKind::Ws, now);
        let kinds = |endpoints: &mut Endpoints, at| endpoints.choose(at).iter().map(|endpoint| endpoint.kind).collect::<Vec<_>>();
        assert_eq!(kinds(&mut endpoints, now), [TransportKind::Ws, TransportKind::Tls, TransportKind::Tcp]);
        let later = now + super::WINNER_KEPT;
        assert_eq!(kinds(&mut endpoints, later), [TransportKind::Tls, TransportKind::Tcp, TransportKind::Ws]);
        endpoints.forget_winner();
        assert_eq!(kinds(&mut endpoints, now)[0], TransportKind::Tls);
        let kept = ClientConfig { addresses: list(&["tls://a:1", "a:1"]), transport_first: Some(TransportKind::Tcp), ..config(1) };
        assert_eq!(kinds(&mut Endpoints::new(&kept, now), now)[0], TransportKind::Tcp);
    }
}
