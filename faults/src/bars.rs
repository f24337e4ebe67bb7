//! The numbers that a fault must keep, beside the rules that hold for all of them. Pure.
//!
//! They are those of the table of faults in the design; where it gives none, the longest silence is shown and nothing is asked of it.

use crate::{checker::Findings, fault::Fault, measure::Measures};

/// Until users of a dead gateway, or on a dead path, count as offline, and until such a connection is given up.
const NOTICED_MS_MAX: u64 = 65_000;
/// Until every node is ready once Redis answers again.
const READY_MS_MAX: u64 = 5_000;
/// A room is silent while a primary of Redis Cluster is replaced.
const FAILOVER_GAP_MS_MAX: u64 = 5_000;
/// From SIGTERM to the end of a process.
const EXIT_MS_MAX: u64 = 60_000;
/// A client is away from its room while its gateway is restarted, 99 of 100.
const DOWN_P99_MS_MAX: u64 = 5_000;
/// 1.3 / 3 of the rooms, of 1,000, when one of three routers comes or goes.
const MOVED_PERMILLE_MAX: u64 = 433;

/// What came of a fault's own numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bars {
    /// For the table.
    pub said: String,
    /// Numbers that were not kept, in words.
    pub broken: Vec<String>,
}

/// Holds what was found and measured against what this fault must keep.
#[must_use]
pub fn judge(fault: Fault, findings: &Findings, measures: &Measures) -> Bars {
    let mut bars = Bars { said: String::new(), broken: measures.never.clone() };
    match fault {
        Fault::GatewayKill => bars.at_most("its users offline after", measures.offline_max_ms, NOTICED_MS_MAX),
        Fault::HalfOpenClient => {
            bars.at_most("users offline after", measures.offline_max_ms, NOTICED_MS_MAX);
            bars.at_most("given up by both ends after", measures.given_up_max_ms, NOTICED_MS_MAX);
        }
        Fault::RedisKill => bars.at_most("all ready after", Some(measures.ready_max_ms), READY_MS_MAX),
        Fault::RedisClusterKill => {
            bars.at_most("gap", Some(findings.longest_room_gap_ms), FAILOVER_GAP_MS_MAX);
            bars.none("connections cut", findings.reconnects);
        }
        Fault::RingChange => {
            let moved = measures.moved_max_permille;
            bars.say(
                &moved.map_or_else(|| "no rooms looked at".to_owned(), |moved| format!("{:.1} % of the rooms moved", permille(moved))),
            );
            if moved.is_none_or(|moved| moved > MOVED_PERMILLE_MAX) {
                bars.broken.push(format!("{moved:?} of 1,000 rooms moved, at most {MOVED_PERMILLE_MAX} may"));
            }
            bars.none("moved between routers that stayed", measures.moved_aside);
        }
        Fault::RollingRestart => {
            bars.at_most("stopped after", measures.exit_max_ms, EXIT_MS_MAX);
            bars.at_most("clients away, p99", Some(measures.down_p99_ms), DOWN_P99_MS_MAX);
        }
        Fault::Nothing
        | Fault::RouterKill
        | Fault::GatewayStop(_)
        | Fault::RouterStop(_)
        | Fault::RedisStop(_)
        | Fault::JointKill
        | Fault::GatewayStarved
        | Fault::RouterStarved
        | Fault::RedisClusterPartition
        | Fault::GatewayClock
        | Fault::RouterClock
        | Fault::RedisClock
        | Fault::DatabaseKill
        | Fault::DatabaseStop(_)
        | Fault::HalfOpenLink => {}
    }
    if findings.acked_gifts > 0 {
        bars.say(&format!("gifts {} acknowledged, {} paid", findings.acked_gifts, findings.paid_gifts));
    }
    bars
}

impl Bars {
    /// Adds to what is said.
    pub fn say(&mut self, said: &str) {
        if !self.said.is_empty() {
            self.said.push_str(", ");
        }
        self.said.push_str(said);
    }

    fn at_most(&mut self, what: &str, ms: Option<u64>, ms_max: u64) {
        let Some(ms) = ms else {
            self.broken.push(format!("{what}: was not measured"));
            return;
        };
        self.say(&format!("{what} {} (≤ {} s)", seconds(ms), ms_max / 1_000));
        if ms > ms_max {
            self.broken.push(format!("{what} {}, at most {}", seconds(ms), seconds(ms_max)));
        }
    }

    fn none(&mut self, what: &str, count: u64) {
        self.say(&format!("{count} {what}"));
        if count > 0 {
            self.broken.push(format!("{count} {what}, none may be"));
        }
    }
}

/// For reading.
#[expect(clippy::cast_precision_loss, reason = "for reading")]
pub(crate) fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1_000.0)
}

#[expect(clippy::cast_precision_loss, reason = "for reading")]
fn permille(value: u64) -> f64 {
    value as f64 / 10.0
}

#[cfg(test)]
mod tests {
    use super::judge;
    use crate::{checker::Findings, fault::Fault, measure::Measures};

    #[test]
    fn each_number_may_be_reached_and_not_passed() {
        let of = |fault, findings: &Findings, measures: &Measures| judge(fault, findings, measures).broken.len();
        let quiet = Findings::default();
        for (fault, least_broken, kept, passed) in [
            (
                Fault::GatewayKill,
                1,
                Measures { offline_max_ms: Some(65_000), ..Measures::default() },
                Measures { offline_max_ms: Some(65_001), ..Measures::default() },
            ),
            (
                Fault::RedisKill,
                0,
                Measures { ready_max_ms: 5_000, ..Measures::default() },
                Measures { ready_max_ms: 5_001, ..Measures::default() },
            ),
            (
                Fault::RollingRestart,
                1,
                Measures { exit_max_ms: Some(60_000), down_p99_ms: 5_000, ..Measures::default() },
                Measures { exit_max_ms: Some(60_000), down_p99_ms: 5_001, ..Measures::default() },
            ),
            (
                Fault::RingChange,
                1,
                Measures { moved_max_permille: Some(433), ..Measures::default() },
                Measures { moved_max_permille: Some(434), ..Measures::default() },
            ),
        ] {
            assert_eq!(of(fault, &quiet, &kept), 0, "{fault}");
            assert_eq!(of(fault, &quiet, &passed), 1, "{fault}");
            assert_eq!(of(fault, &quiet, &Measures::default()), least_broken, "{fault}: what must be measured and was not");
        }
        let cut = Findings { reconnects: 1, ..Findings::default() };
        assert_eq!(of(Fault::RedisClusterKill, &quiet, &Measures::default()), 0);
        assert_eq!(of(Fault::RedisClusterKill, &cut, &Measures::default()), 1);
        let slow = Findings { longest_room_gap_ms: 5_001, ..Findings::default() };
        assert_eq!(of(Fault::RedisClusterKill, &slow, &Measures::default()), 1);
    }

    #[test]
    fn what_never_came_breaks_any_fault() {
        let measures = Measures { never: vec!["fault 1: users stayed online".to_owned()], ..Measures::default() };
        assert_eq!(judge(Fault::Nothing, &Findings::default(), &measures).broken.len(), 1);
    }
}
