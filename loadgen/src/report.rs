//! What a run found: the fields of the interface, and the verdict.
//!
//! - One object for `--json`, one page of text for people; both from the same struct.
//! - A field that was not measured is `null` and never 0.
//! - The verdict is a list of sentences; an empty one is exit code 0.

use crate::{crowd::herd::HerdTally, latency::Latencies, probe::Limit, redis::RedisLoad, series::Series};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

/// The result of a run. Names and units are a contract: scripts read them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Report {
    /// Logged in and, where the scenario has rooms, joined.
    pub(crate) connections: u64,
    /// Failed on the way in.
    pub(crate) logins_failed: u64,
    /// From the intended connect to LOGIN's answer.
    pub(crate) login_ms: Option<Spread>,
    /// Connect, login and join per second of server CPU.
    pub(crate) logins_per_server_cpu_s: Option<f64>,
    /// Messages the server accepted; for `hold` and `echo` heartbeats.
    pub(crate) sent: u64,
    /// Copies that should have arrived: members at the time of sending times messages.
    pub(crate) expected: u64,
    /// Copies that did, each counted once.
    pub(crate) received: u64,
    /// Copies the gateway says it dropped, by class.
    pub(crate) dropped: BTreeMap<String, u64>,
    /// Neither received nor dropped by a counter.
    pub(crate) missing: u64,
    /// Copies received again.
    pub(crate) duplicates: u64,
    /// First copies overtaken by a later one.
    pub(crate) order_breaks: u64,
    /// From the first intended send to the last copy.
    pub(crate) deliveries_per_s: Option<f64>,
    /// Of all server pids, from the first send to the end of the drain.
    pub(crate) server_cpu_s: Option<f64>,
    /// The figure to compare.
    pub(crate) deliveries_per_server_cpu_s: Option<f64>,
    /// From the intended send to each copy.
    pub(crate) latency_ms: Option<Tail>,
    /// From the intended send to the room's last member.
    pub(crate) last_member_ms: Option<Spread>,
    /// Resident bytes of all server pids with the crowd in.
    pub(crate) server_rss_bytes: Option<u64>,
    /// Growth of that from before the crowd, per connection.
    pub(crate) bytes_per_connection: Option<f64>,
    /// What else is worth knowing.
    pub(crate) detail: Detail,
    /// The run over time, for the plots of a page.
    #[serde(skip)]
    pub(crate) series: Series,
}

/// Beyond the contract: to understand a figure, not to compare it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Detail {
    /// Which scenario.
    pub(crate) scenario: &'static str,
    /// `--seed`, or the one chosen.
    pub(crate) seed: u64,
    /// How long the load ran.
    pub(crate) seconds: f64,
    /// From the first connect to the last client in.
    pub(crate) connect_s: f64,
    /// Bytes of a load frame on the wire, header included.
    pub(crate) frame_bytes: usize,
    /// Logins that failed, by cause.
    pub(crate) login_failures: BTreeMap<String, u64>,
    /// Logins refused with a time to come back, and tried again then, by cause.
    pub(crate) login_retries: BTreeMap<String, u64>,
    /// Connections that ended during the run, by cause.
    pub(crate) lost: BTreeMap<String, u64>,
    /// Frames and calls the server refused, by reason.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Messages due and not accepted by the server when time was up.
    pub(crate) unsent: u64,
    /// Frames of a room or user that were not the receiver's.
    pub(crate) strays: u64,
    /// Raw duplicates are legal: copies are resent until acknowledged.
    pub(crate) at_least_once: bool,
    /// The bare send loop in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<Limit>,
    /// Those who were cut and came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) herd: Option<HerdReport>,
    /// What Redis had to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) redis: Option<RedisLoad>,
}

/// A herd that came back, or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct HerdReport {
    /// Connections cut.
    pub(crate) cut: u64,
    /// Cut once more after they had come back: a second wave.
    pub(crate) cut_again: u64,
    /// In again.
    pub(crate) returned: u64,
    /// Tries that failed, by cause.
    pub(crate) retries: BTreeMap<String, u64>,
    /// From a client's cut to its being in again.
    pub(crate) back_ms: Option<Spread>,
    /// From the first cut to the last return.
    pub(crate) all_back_s: Option<f64>,
}

impl HerdReport {
    /// The figures of a tally.
    pub(crate) fn of(tally: &HerdTally) -> Self {
        Self {
            cut: tally.cut,
            cut_again: tally.cut_again,
            returned: tally.returned,
            retries: tally.retries.clone(),
            back_ms: Spread::of(&tally.back),
            all_back_s: ratio(number(tally.last_back_ns.saturating_sub(tally.first_cut_ns)), 1e9).filter(|_| tally.returned > 0),
        }
    }
}

/// Three percentiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// Four percentiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Tail {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` when nothing was recorded.
    pub(crate) fn of(latencies: &Latencies) -> Option<Self> {
        Some(Self { p50: latencies.percentile_ms(50.0)?, p99: latencies.percentile_ms(99.0)?, max: latencies.max_ms()? })
    }
}

impl Tail {
    /// `None` when nothing was recorded.
    pub(crate) fn of(latencies: &Latencies) -> Option<Self> {
        let Spread { p50, p99, max } = Spread::of(latencies)?;
        Some(Self { p50, p99, p999: latencies.percentile_ms(99.9)?, max })
    }
}

impl Report {
    /// What went wrong; empty when nothing did.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |count: u64, text: &str| {
            if count > 0 {
                problems.push(format!("{count} {text}"));
            }
        };
        check(self.logins_failed, "logins failed");
        check(self.missing, "copies are missing and stand in no drop counter");
        check(self.order_breaks, "copies broke the order of their room");
        check(self.detail.strays, "frames reached someone they were not for");
        check(self.detail.lost.values().sum(), "connections were lost");
        check(self.detail.unsent, "messages were due and the server did not accept them in time");
        if let Some(herd) = &self.detail.herd {
            check(herd.cut.saturating_sub(herd.returned), "clients did not come back");
            check(herd.cut_again, "clients were cut a second time");
        }
        if !self.detail.at_least_once {
            check(self.duplicates, "copies came twice");
        }
        problems
    }
}

/// A ratio for a report: three decimals, `None` when the divisor is zero.
pub(crate) fn ratio(value: f64, by: f64) -> Option<f64> {
    (by > 0.0).then(|| (value / by * 1_000.0).round() / 1_000.0)
}

/// The same with four decimals, for budgets of hundredths.
pub(crate) fn ratio4(value: f64, by: f64) -> Option<f64> {
    (by > 0.0).then(|| (value / by * 10_000.0).round() / 10_000.0)
}

/// A count as a number to divide.
#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}

impl Display for Report {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        let detail = &self.detail;
        writeln!(to, "{}, seed {}", detail.scenario, detail.seed)?;
        writeln!(to, "  connections      {} in {:.2} s, {} failed", self.connections, detail.connect_s, self.logins_failed)?;
        if let Some(Spread { p50, p99, max }) = self.login_ms {
            writeln!(to, "  login            p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")?;
        }
        line(to, "logins/CPU-s", self.logins_per_server_cpu_s, "per second of server CPU")?;
        if self.expected > 0 || self.sent > 0 {
            match detail.frame_bytes {
                0 => writeln!(to, "  sent             {} heartbeats in {:.1} s", self.sent, detail.seconds)?,
                bytes => writeln!(to, "  sent             {} in {:.1} s, frames of {bytes} bytes", self.sent, detail.seconds)?,
            }
            writeln!(
                to,
                "  copies           {} expected, {} received, {} dropped, {} missing, {} twice, {} out of order",
                self.expected,
                self.received,
                self.dropped.values().sum::<u64>(),
                self.missing,
                self.duplicates,
                self.order_breaks
            )?;
        }
        for (class, count) in &self.dropped {
            writeln!(to, "  dropped          {count} of class {class}")?;
        }
        line(to, "deliveries", self.deliveries_per_s, "per second")?;
        line(to, "deliveries/CPU-s", self.deliveries_per_server_cpu_s, "per second of server CPU")?;
        if let Some(Tail { p50, p99, p999, max }) = self.latency_ms {
            writeln!(to, "  latency          p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms")?;
        }
        if let Some(Spread { p50, p99, max }) = self.last_member_ms {
            writeln!(to, "  last member      p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")?;
        }
        line(to, "server CPU", self.server_cpu_s, "seconds during the load")?;
        line(to, "server memory", self.server_rss_bytes.map(number), "bytes resident")?;
        line(to, "per connection", self.bytes_per_connection, "bytes of user memory")?;
        let by_cause = [
            ("login failed", &detail.login_failures),
            ("login tried again", &detail.login_retries),
            ("lost", &detail.lost),
            ("refused", &detail.refused),
        ];
        for (name, causes) in by_cause {
            for (cause, count) in causes {
                writeln!(to, "  {name:<17}{count}: {cause}")?;
            }
        }
        if let Some(herd) = &detail.herd {
            writeln!(to, "  herd             {} cut, {} back, {} cut again", herd.cut, herd.returned, herd.cut_again)?;
            if let (Some(Spread { p50, p99, max }), Some(all)) = (herd.back_ms, herd.all_back_s) {
                writeln!(to, "  back             p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms; all within {all:.1} s")?;
            }
            for (cause, count) in &herd.retries {
                writeln!(to, "  tried again      {count}: {cause}")?;
            }
        }
        if let Some(redis) = &detail.redis {
            write!(to, "  redis            {} commands, {} in the busiest second", redis.commands, redis.peak_per_s)?;
            match redis.per_delivery {
                Some(each) => writeln!(to, ", {each:.4} per copy or heartbeat")?,
                None => writeln!(to)?,
            }
        }
        if let Some(limit) = &detail.limit {
            write!(to, "{limit}")?;
        }
        for problem in self.problems() {
            writeln!(to, "  FAILED           {problem}")?;
        }
        Ok(())
    }
}

fn line(to: &mut Formatter<'_>, name: &str, value: Option<f64>, unit: &str) -> fmt::Result {
    match value {
        Some(value) if value >= 1_000.0 => writeln!(to, "  {name:<17}{value:.0} {unit}"),
        Some(value) => writeln!(to, "  {name:<17}{value:.3} {unit}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Detail, Report, Spread, Tail};
    use std::collections::BTreeMap;

    fn clean() -> Report {
        Report { connections: 10, sent: 3, expected: 30, received: 30, ..Report::default() }
    }

    #[test]
    fn the_fields_are_those_of_the_interface_in_its_order() {
        let report = Report {
            login_ms: Some(Spread::default()),
            latency_ms: Some(Tail::default()),
            last_member_ms: Some(Spread::default()),
            dropped: BTreeMap::from([("chat".to_owned(), 2)]),
            detail: Detail { scenario: "room-burst", ..Detail::default() },
            ..clean()
        };
        assert_eq!(
            serde_json::to_string(&report).expect("a report is plain data"),
            concat!(
                r#"{"connections":10,"logins_failed":0,"login_ms":{"p50":0.0,"p99":0.0,"max":0.0},"logins_per_server_cpu_s":null,"#,
                r#""sent":3,"expected":30,"received":30,"dropped":{"chat":2},"missing":0,"duplicates":0,"order_breaks":0,"#,
                r#""deliveries_per_s":null,"server_cpu_s":null,"deliveries_per_server_cpu_s":null,"#,
                r#""latency_ms":{"p50":0.0,"p99":0.0,"p999":0.0,"max":0.0},"last_member_ms":{"p50":0.0,"p99":0.0,"max":0.0},"#,
                r#""server_rss_bytes":null,"bytes_per_connection":null,"#,
                r#""detail":{"scenario":"room-burst","seed":0,"seconds":0.0,"connect_s":0.0,"frame_bytes":0,"login_failures":{},"login_retries":{},"#,
                r#""lost":{},"refused":{},"unsent":0,"strays":0,"at_least_once":false}}"#
            )
        );
    }

    #[test]
    fn a_clean_run_has_no_problem_and_each_fault_is_one() {
        assert_eq!(clean().problems(), Vec::<String>::new());
        let faults = [
            Report { missing: 1, ..clean() },
            Report { order_breaks: 1, ..clean() },
            Report { duplicates: 1, ..clean() },
            Report { logins_failed: 1, ..clean() },
            Report { detail: Detail { strays: 1, ..Detail::default() }, ..clean() },
            Report { detail: Detail { unsent: 1, ..Detail::default() }, ..clean() },
            Report { detail: Detail { lost: BTreeMap::from([("reset".to_owned(), 1)]), ..Detail::default() }, ..clean() },
        ];
        for fault in faults {
            assert_eq!(fault.problems().len(), 1, "{fault:?}");
            assert!(fault.to_string().contains("FAILED"), "people read it too");
        }
    }

    #[test]
    fn a_second_copy_is_legal_where_copies_are_resent_until_acknowledged() {
        let report = Report { duplicates: 3, detail: Detail { at_least_once: true, ..Detail::default() }, ..clean() };
        assert_eq!(report.problems(), Vec::<String>::new());
    }
}
