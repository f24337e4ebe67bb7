//! Every metric of the Redis adapter. Their list for operators is `docs/metrics.md`.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::sync::atomic::AtomicU64;

/// The metrics; clones share them. Everything is counted once for each batch.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    /// `state_redis_commands_total`
    pub(super) commands: Counter,
    failures: Family<KindLabels, Counter>,
    /// `state_redis_in_flight`
    pub(super) in_flight: Gauge,
    /// `state_redis_breaker_open`
    pub(super) breaker_open: Gauge,
    /// `state_redis_reconnects_total`
    pub(super) reconnects: Counter,
    /// `state_redis_clock_steps_total`
    pub(super) clock_steps: Counter,
    /// `state_redis_clock_moves_total`
    pub(super) clock_moves: Counter,
    /// `state_redis_clock_offset_seconds`
    pub(super) clock_offset: Gauge<f64, AtomicU64>,
    /// `state_redis_latency_seconds`
    pub(super) latency: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// From a fifth of a millisecond, which is a server on this machine, to the time-out.
const SECONDS: [f64; 10] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.3];

impl Metrics {
    /// Registers every metric under its public name. prometheus-client appends `_total` to counters by itself.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            commands: Counter::default(),
            failures: Family::default(),
            in_flight: Gauge::default(),
            breaker_open: Gauge::default(),
            reconnects: Counter::default(),
            clock_steps: Counter::default(),
            clock_moves: Counter::default(),
            clock_offset: Gauge::default(),
            latency: Histogram::new(SECONDS),
        };
        registry.register("state_redis_commands", "Commands sent to Redis", metrics.commands.clone());
        registry.register("state_redis_failures", "Batches that Redis did not carry out, by kind", metrics.failures.clone());
        registry.register("state_redis_in_flight", "Commands sent and not answered", metrics.in_flight.clone());
        registry.register("state_redis_breaker_open", "Servers that are left alone after failures", metrics.breaker_open.clone());
        registry.register("state_redis_reconnects", "Connections made anew", metrics.reconnects.clone());
        registry.register("state_redis_clock_steps", "Steps of this process' clock to the time of all", metrics.clock_steps.clone());
        registry.register("state_redis_clock_moves", "Jumps of Redis' clock that were made up for", metrics.clock_moves.clone());
        registry.register_with_unit(
            "state_redis_clock_offset",
            "By how much the time of all is ahead of Redis' clock",
            Unit::Seconds,
            metrics.clock_offset.clone(),
        );
        registry.register_with_unit(
            "state_redis_latency",
            "From sending a batch to one server to its last answer",
            Unit::Seconds,
            metrics.latency.clone(),
        );
        for kind in super::trouble::Trouble::KINDS {
            drop(metrics.failures.get_or_create(&KindLabels { kind }));
        }
        metrics
    }

    /// A batch was not carried out.
    pub(super) fn on_failure(&self, kind: &'static str) {
        self.failures.get_or_create(&KindLabels { kind }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;
    use prometheus_client::registry::Registry;

    #[test]
    fn every_metric_has_its_line_in_the_documentation() {
        let mut registry = Registry::default();
        drop(Metrics::register(&mut registry));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let described = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            if kind == "counter" { format!("{name}_total") } else { name.to_owned() }
        });
        let page = include_str!("../../../../docs/metrics.md");
        let documented =
            page.lines().filter_map(|line| line.strip_prefix("| `state_")?.split('`').next()).map(|name| format!("state_{name}"));
        // Sorted lists, not sets: a name that stands twice is a mistake too.
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        assert_eq!(sorted(described.collect()), sorted(documented.collect()));
    }
}
