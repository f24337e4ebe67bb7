//! What a run found: the fields of the interface, and the verdict.
//!
//! - One object for `--json`, one page of text for people; both from the same struct.
//! - A field that was not measured is `null` and never 0.
//! - The verdict is a list of sentences; an empty one is exit code 0.

pub(crate) mod gifts;

use crate::{crowd::herd::HerdTally, latency::Latencies, probe::Limit, redis::RedisLoad, series::Series, transport::Transport};
use gifts::GiftReport;
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
    /// Messages the server accepted; for `hold` and `echo` heartbeats; gifts it acknowledged.
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
    /// What it sends.
    #[serde(skip)]
    pub(crate) load: LoadKind,
    /// `--seed`, or the one chosen.
    pub(crate) seed: u64,
    /// How long the load ran.
    pub(crate) seconds: f64,
    /// From the first connect to the last client in.
    pub(crate) connect_s: f64,
    /// What carried the connections.
    pub(crate) transport: Transport,
    /// TLS handshakes of clients that came to log in: full ones,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) tls_full: u64,
    /// and those that a ticket shortened.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) tls_resumed: u64,
    /// Over QUIC: datagrams that the clients sent and took for lost.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) quic_lost: u64,
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
    /// Copies of messages that the server had not accepted, or not in time. They are in no other figure.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) unasked: u64,
    /// Frames that the gateway joined per write to a room's member: its copies by its writes, during the load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) joining: Option<f64>,
    /// The bare send loop in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<Limit>,
    /// What it would deliver per second of its CPU at `joining`, or with single frames where that was not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit_deliveries_per_cpu_s: Option<f64>,
    /// `deliveries_per_server_cpu_s` as a share of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio_to_limit: Option<f64>,
    /// What the load cost on this side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) generator: Option<GeneratorReport>,
    /// The processes of `--beside`, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) beside: BTreeMap<String, BesideReport>,
    /// Those who read slowly, and what became of the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) slow: Option<SlowReport>,
    /// Gifts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gifts: Option<GiftReport>,
    /// Those who were cut and came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) herd: Option<HerdReport>,
    /// What Redis had to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) redis: Option<RedisLoad>,
    /// What was to be measured and was not, and why: a server that is gone by the end of the run has no CPU time to read.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) unmeasured: BTreeMap<String, String>,
    /// A signal ended it early; the figures are those of the time until then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) interrupted: bool,
}

/// What a scenario sends as its load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LoadKind {
    /// Nothing: clients stay, and heartbeats keep them alive.
    #[default]
    None,
    /// Heartbeats.
    Beats,
    /// Messages, to rooms or to neighbours.
    Messages,
    /// Gifts.
    Gifts,
}

impl LoadKind {
    fn noun(self) -> &'static str {
        match self {
            Self::None | Self::Beats => "heartbeats",
            Self::Messages => "messages",
            Self::Gifts => "gifts",
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The load generator's own processes, from the first send to the end of the drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct GeneratorReport {
    /// How many.
    pub(crate) processes: usize,
    /// Seconds of CPU, user and kernel, of all of them.
    pub(crate) cpu_s: f64,
    /// The same per copy or echo received, in microseconds.
    pub(crate) cpu_us_per_copy: Option<f64>,
    /// Resident bytes of all of them when the load was over.
    pub(crate) rss_bytes: u64,
}

/// Seconds of CPU of processes that bear one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct BesideReport {
    /// From the first connect to the last client in.
    pub(crate) connect_cpu_s: f64,
    /// From the first send to the end of the drain.
    pub(crate) load_cpu_s: f64,
}

/// A load with slow readers in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct SlowReport {
    /// Clients that read slowly.
    pub(crate) slow_clients: u64,
    /// Clients that stopped.
    pub(crate) stopped_clients: u64,
    /// Of these, those whose connection the gateway ended, by what they saw of it.
    pub(crate) given_up: BTreeMap<String, u64>,
    /// Connections the gateway ended for slowness or silence, by the reason it counted.
    pub(crate) closes: BTreeMap<String, u64>,
    /// Drops of the load's class, by reason.
    pub(crate) dropped: BTreeMap<String, u64>,
    /// The gateway's counters could not be read, so that these two are empty.
    #[serde(skip)]
    pub(crate) uncounted: bool,
    /// Written by the gateway, and destroyed by a reset before they were read.
    pub(crate) destroyed: u64,
    /// Counted as dropped and yet received: the gateway's counters are wrong.
    pub(crate) overdropped: u64,
    /// Those who read at once, while everyone did.
    pub(crate) calm_ms: Option<Tail>,
    /// The same, while others were slow.
    pub(crate) prompt_ms: Option<Tail>,
    /// How many times the p99 of `calm_ms` that of `prompt_ms` is.
    pub(crate) p99_growth: Option<f64>,
    /// What it may be, where it is judged.
    pub(crate) p99_growth_max: Option<f64>,
    /// Those who read slowly.
    pub(crate) slow_ms: Option<Tail>,
    /// Those who had stopped.
    pub(crate) stopped_ms: Option<Tail>,
    /// Resident bytes of all server pids before the load,
    pub(crate) server_rss_before_bytes: Option<u64>,
    /// and at their highest since.
    pub(crate) server_rss_peak_bytes: Option<u64>,
    /// By how much it may grow.
    pub(crate) memory_growth_bytes_max: u64,
}

impl SlowReport {
    /// By how much the server's memory grew.
    fn memory_growth_bytes(&self) -> Option<u64> {
        Some(self.server_rss_peak_bytes?.saturating_sub(self.server_rss_before_bytes?))
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.overdropped > 0 {
            problems.push(format!("{} drops were counted of copies that arrived", self.overdropped));
        }
        let (ended, counted) = (self.given_up.values().sum::<u64>(), self.closes.values().sum::<u64>());
        if ended != counted && !self.uncounted {
            problems.push(format!(
                "{ended} slow clients lost their connection, and the gateway counts {counted} ended for slowness or silence"
            ));
        }
        if let Some(grew) = self.memory_growth_bytes().filter(|&grew| grew > self.memory_growth_bytes_max) {
            problems.push(format!("the server's memory grew by {grew} bytes, and may by {}", self.memory_growth_bytes_max));
        }
        if let (Some(growth), Some(max)) = (self.p99_growth, self.p99_growth_max)
            && growth > max
        {
            problems.push(format!("the p99 of those who read at once became {growth:.2} times what it was, and may {max:.2} times"));
        }
        problems
    }
}

impl Display for SlowReport {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        writeln!(to, "  slow readers     {} slow, {} stopped", self.slow_clients, self.stopped_clients)?;
        for (name, tail) in
            [("all calm", self.calm_ms), ("prompt readers", self.prompt_ms), ("slow ones", self.slow_ms), ("stopped ones", self.stopped_ms)]
        {
            if let Some(Tail { p50, p99, p999, max }) = tail {
                writeln!(to, "  {name:<17}p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms")?;
            }
        }
        line(to, "p99 of prompt", self.p99_growth, "times what it was in the calm")?;
        for (name, counts) in [("given up", &self.given_up), ("gateway ended", &self.closes), ("gateway dropped", &self.dropped)] {
            for (cause, count) in counts {
                writeln!(to, "  {name:<17}{count}: {cause}")?;
            }
        }
        if self.destroyed > 0 {
            writeln!(to, "  destroyed        {} copies by resets", self.destroyed)?;
        }
        line(to, "memory grew by", self.memory_growth_bytes().map(number), "bytes at most")
    }
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
        if self.detail.interrupted {
            problems.push("interrupted: these are the figures until then".to_owned());
        }
        if self.detail.load != LoadKind::None && self.sent == 0 {
            problems.push("nothing was sent".to_owned());
        }
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
            // Where gifts are sent nobody is to be cut at all, and any number of times when it is.
            check(if self.detail.gifts.is_some() { 0 } else { herd.cut_again }, "clients were cut a second time");
        }
        if !self.detail.at_least_once {
            check(self.duplicates, "copies came twice");
        }
        problems.extend(self.detail.slow.iter().flat_map(SlowReport::problems));
        problems.extend(self.detail.gifts.iter().flat_map(GiftReport::problems));
        problems.extend(self.detail.unmeasured.iter().map(|(what, why)| format!("not measured: {what}: {why}")));
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

/// Seconds to the microsecond, which is as exact as the CPU time of a process is worth.
pub(crate) fn microseconds(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
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
        match (detail.transport.is_encrypted(), detail.transport) {
            (true, transport) => {
                writeln!(to, "  transport        {transport}, {} handshakes full, {} resumed", detail.tls_full, detail.tls_resumed)?;
            }
            (false, Transport::Tcp) => {}
            (false, transport) => writeln!(to, "  transport        {transport}")?,
        }
        if let Some(Spread { p50, p99, max }) = self.login_ms {
            writeln!(to, "  login            p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")?;
        }
        line(to, "logins/CPU-s", self.logins_per_server_cpu_s, "per second of server CPU")?;
        if self.expected > 0 || self.sent > 0 {
            match detail.frame_bytes {
                0 => writeln!(to, "  sent             {} {} in {:.1} s", self.sent, detail.load.noun(), detail.seconds)?,
                bytes => {
                    let noun = detail.load.noun();
                    writeln!(to, "  sent             {} {noun} in {:.1} s, frames of {bytes} bytes", self.sent, detail.seconds)?;
                }
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
        if let Some(gifts) = &detail.gifts {
            write!(to, "{gifts}")?;
        }
        if let Some(herd) = detail.herd.as_ref().filter(|herd| herd.cut > 0 || detail.gifts.is_none()) {
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
        if let Some(slow) = &detail.slow {
            write!(to, "{slow}")?;
        }
        if let Some(GeneratorReport { processes, cpu_s, cpu_us_per_copy, rss_bytes }) = detail.generator {
            let each = cpu_us_per_copy.map(|each| format!(", {each:.2} µs a copy")).unwrap_or_default();
            writeln!(to, "  load generator   {processes} processes, {cpu_s:.2} s of CPU{each}, {rss_bytes} bytes resident")?;
        }
        line(to, "joining", detail.joining, "copies per write of the gateway")?;
        if let Some(limit) = &detail.limit {
            write!(to, "{limit}")?;
        }
        line(to, "limit", detail.limit_deliveries_per_cpu_s, "deliveries per CPU-s of the bare loop at that joining")?;
        line(to, "ratio to limit", detail.ratio_to_limit, "of it")?;
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
    use super::{Detail, LoadKind, Report, SlowReport, Spread, Tail};
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
                r#""detail":{"scenario":"room-burst","seed":0,"seconds":0.0,"connect_s":0.0,"transport":"tcp","frame_bytes":0,"login_failures":{},"#,
                r#""login_retries":{},"lost":{},"refused":{},"unsent":0,"strays":0,"at_least_once":false}}"#
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
            Report { sent: 0, detail: Detail { load: LoadKind::Messages, ..Detail::default() }, ..clean() },
            Report { sent: 0, detail: Detail { load: LoadKind::Beats, ..Detail::default() }, ..clean() },
            Report { detail: Detail { interrupted: true, ..Detail::default() }, ..clean() },
            Report {
                detail: Detail { unmeasured: BTreeMap::from([("CPU time".to_owned(), "no process".to_owned())]), ..Detail::default() },
                ..clean()
            },
            Report { detail: Detail { lost: BTreeMap::from([("reset".to_owned(), 1)]), ..Detail::default() }, ..clean() },
        ];
        for fault in faults {
            assert_eq!(fault.problems().len(), 1, "{fault:?}");
            assert!(fault.to_string().contains("FAILED"), "people read it too");
        }
    }

    #[test]
    fn a_load_of_messages_is_not_called_heartbeats() {
        // Nothing arrived, so nobody has seen how long a frame is.
        let report = Report { detail: Detail { load: LoadKind::Messages, ..Detail::default() }, received: 0, ..clean() };
        assert!(report.to_string().contains("3 messages in 0.0 s"), "{report}");
    }

    #[test]
    fn a_second_copy_is_legal_where_copies_are_resent_until_acknowledged() {
        let report = Report { duplicates: 3, detail: Detail { at_least_once: true, ..Detail::default() }, ..clean() };
        assert_eq!(report.problems(), Vec::<String>::new());
    }

    #[test]
    fn slow_readers_that_cost_what_they_may_are_no_problem_and_each_excess_is_one() {
        let fine = SlowReport {
            given_up: BTreeMap::from([("kicked: too_slow".to_owned(), 2)]),
            closes: BTreeMap::from([("too_slow".to_owned(), 2)]),
            p99_growth: Some(1.2),
            p99_growth_max: Some(1.2),
            server_rss_before_bytes: Some(1_000),
            server_rss_peak_bytes: Some(1_500),
            memory_growth_bytes_max: 500,
            ..SlowReport::default()
        };
        let report = |slow: &SlowReport| Report { detail: Detail { slow: Some(slow.clone()), ..Detail::default() }, ..clean() };
        assert_eq!(report(&fine).problems(), Vec::<String>::new());
        let excesses = [
            SlowReport { overdropped: 1, ..fine.clone() },
            SlowReport { closes: BTreeMap::from([("too_slow".to_owned(), 1)]), ..fine.clone() },
            SlowReport { server_rss_peak_bytes: Some(1_501), ..fine.clone() },
            SlowReport { p99_growth: Some(1.21), ..fine.clone() },
        ];
        for excess in excesses {
            assert_eq!(report(&excess).problems().len(), 1, "{excess:?}");
        }
    }
}
