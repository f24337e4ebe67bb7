//! When to try again, and where.
//!
//! - Full jitter: each pause is anything between nothing and a bound that doubles, so that a thousand clients whose gateway died do not
//!   come back as one wave.
//! - No clock in here: delays go out, the driver waits.

use crate::config::ClientConfig;
use std::time::Duration;

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

/// Where to connect: the addresses in force, one after the other. A ticket's stand in the order in which the server places this user, so its first
/// comes first; those of the configuration are in nobody's order, and a thousand clients do not all begin with the same.
#[derive(Debug)]
pub(crate) struct Endpoints {
    configured: Vec<String>,
    offered: Vec<String>,
    /// From a RECONNECT, used up one by one.
    preferred: Vec<String>,
    /// Of the configured ones.
    turn: usize,
    /// Of the offered ones.
    offered_turn: usize,
}

impl Endpoints {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        // A second generator for this one number: pauses and places stay independent.
        let turn = random(config).usize(0..1 << 16);
        Self { configured: config.addresses.clone(), offered: Vec::new(), preferred: Vec::new(), turn, offered_turn: 0 }
    }

    /// A ticket's addresses replace the last ticket's. The same again go on where they were: the server may not know yet that the first is dead.
    pub(crate) fn offer(&mut self, addresses: Vec<String>) {
        if self.offered != addresses {
            self.offered = addresses;
            self.offered_turn = 0;
        }
    }

    /// The node is draining and names others.
    pub(crate) fn prefer(&mut self, addresses: Vec<String>) {
        self.preferred = addresses;
        self.preferred.reverse();
    }

    /// The next address to try; `None` when there is none at all.
    pub(crate) fn choose(&mut self) -> Option<String> {
        if let Some(address) = self.preferred.pop() {
            return Some(address);
        }
        let (addresses, turn) = if self.offered.is_empty() { (&self.configured, self.turn) } else { (&self.offered, self.offered_turn) };
        addresses.get(turn.checked_rem(addresses.len())?).cloned()
    }

    /// The last choice did not work: the next one is another.
    pub(crate) fn on_failure(&mut self) {
        let turn = if self.offered.is_empty() { &mut self.turn } else { &mut self.offered_turn };
        *turn = turn.wrapping_add(1);
    }
}

fn random(config: &ClientConfig) -> fastrand::Rng {
    config.jitter_seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed)
}

#[cfg(test)]
mod tests {
    use super::{Backoff, Endpoints};
    use crate::config::{ClientConfig, Ticket, TokenProvider};
    use std::{collections::BTreeSet, time::Duration};

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

    #[test]
    fn a_tickets_addresses_are_tried_in_its_order_and_another_ticket_begins_anew() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for seed in 0..20 {
            let mut endpoints = Endpoints::new(&ClientConfig { addresses: list(&["configured:1", "configured:2"]), ..config(seed) });
            endpoints.offer(list(&["a:1", "b:1", "c:1"]));
            let mut tried = Vec::new();
            for _ in 0..4 {
                // Each try asks for a ticket, and the server says the same as long as it does not know better.
                endpoints.offer(list(&["a:1", "b:1", "c:1"]));
                tried.extend(endpoints.choose());
                endpoints.on_failure();
            }
            assert_eq!(tried, ["a:1", "b:1", "c:1", "a:1"]);
            endpoints.offer(list(&["b:1", "c:1"]));
            assert_eq!(endpoints.choose().as_deref(), Some("b:1"));
        }
    }

    #[test]
    fn every_configured_address_has_its_turn_and_clients_begin_at_different_ones() {
        let addresses = || ["a:1", "b:1", "c:1"].map(str::to_owned).to_vec();
        let mut begun = BTreeSet::new();
        for seed in 0..50 {
            let mut endpoints = Endpoints::new(&ClientConfig { addresses: addresses(), ..config(seed) });
            begun.insert(endpoints.choose());
            let mut tried = BTreeSet::new();
            for _ in 0..3 {
                tried.insert(endpoints.choose().expect("there are addresses"));
                endpoints.on_failure();
            }
            assert_eq!(tried.len(), 3);
        }
        assert_eq!(begun.len(), 3);
    }

    #[test]
    fn a_draining_nodes_addresses_come_first_then_the_tickets_then_the_configured() {
        let mut endpoints = Endpoints::new(&ClientConfig { addresses: vec!["configured:1".to_owned()], ..config(1) });
        assert_eq!(endpoints.choose().as_deref(), Some("configured:1"));
        endpoints.offer(vec!["ticket:1".to_owned()]);
        endpoints.prefer(vec!["first:1".to_owned(), "second:1".to_owned()]);
        let order: Vec<_> = (0..3).filter_map(|_| endpoints.choose()).collect();
        assert_eq!(order, ["first:1", "second:1", "ticket:1"]);
        assert_eq!(Endpoints::new(&config(1)).choose(), None);
    }
}
