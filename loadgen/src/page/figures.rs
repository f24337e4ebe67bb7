//! The figures of `report.json` in words: every one of them, exactly as it stands there.

use crate::report::{Detail, Report, Spread, Tail, gifts::GiftReport};
use maud::{Markup, html};

/// One figure.
#[derive(Debug, PartialEq)]
pub(crate) struct Figure {
    /// Its path in `report.json`.
    pub(crate) field: String,
    /// Its JSON; a dash where it was not measured.
    pub(crate) value: String,
    /// What it counts, and in which unit.
    pub(crate) meaning: &'static str,
}

/// Every field of the contract in its order, and what was measured beyond it.
pub(crate) fn figures(report: &Report) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut add = |field: &str, value: String, meaning| figures.push(Figure { field: field.to_owned(), value, meaning });
    add("connections", report.connections.to_string(), "clients that logged in and, where there are rooms, joined");
    add("logins_failed", report.logins_failed.to_string(), "clients that did not get in");
    for (name, value) in spread(report.login_ms) {
        add(&format!("login_ms.{name}"), value, "from the intended connect to the answer of LOGIN, ms");
    }
    add("logins_per_server_cpu_s", json(report.logins_per_server_cpu_s), "connect, login and join per second of server CPU");
    add("sent", report.sent.to_string(), "messages that the server accepted, or heartbeats");
    add("expected", report.expected.to_string(), "copies that should have arrived");
    add("received", report.received.to_string(), "copies that did, each counted once");
    for (class, count) in &report.dropped {
        add(&format!("dropped.{class}"), count.to_string(), "copies of this class that the gateway says it dropped");
    }
    add("missing", report.missing.to_string(), "copies neither received nor in a drop counter");
    add("duplicates", report.duplicates.to_string(), "copies that came again");
    add("order_breaks", report.order_breaks.to_string(), "first copies that something later had overtaken");
    add("deliveries_per_s", json(report.deliveries_per_s), "copies per second, from the first intended send to the last copy");
    add("server_cpu_s", json(report.server_cpu_s), "seconds of server CPU during the load");
    add("deliveries_per_server_cpu_s", json(report.deliveries_per_server_cpu_s), "copies per second of server CPU: the figure to compare");
    for (name, value) in tail(report.latency_ms) {
        add(&format!("latency_ms.{name}"), value, "from the intended send to each copy, ms");
    }
    for (name, value) in spread(report.last_member_ms) {
        add(&format!("last_member_ms.{name}"), value, "from the intended send to the last member of the room, ms");
    }
    add("server_rss_bytes", json(report.server_rss_bytes), "resident bytes of the server with everyone in");
    add("bytes_per_connection", json(report.bytes_per_connection), "growth of that per connection");
    detail(&report.detail, &mut add);
    figures
}

/// The limit, the load generator's own cost, the gifts and the slow readers, where the run had them.
fn detail(detail: &Detail, add: &mut dyn FnMut(&str, String, &'static str)) {
    if detail.joining.is_some() {
        add("detail.joining", json(detail.joining), "copies per write of the gateway to a room's member");
    }
    if detail.limit.is_some() {
        add("detail.limit_deliveries_per_cpu_s", json(detail.limit_deliveries_per_cpu_s), "what the bare loop delivers at that joining");
        add("detail.ratio_to_limit", json(detail.ratio_to_limit), "the server's deliveries as a share of that");
    }
    if let Some(own) = &detail.generator {
        add("detail.generator.processes", own.processes.to_string(), "processes of the load generator");
        add("detail.generator.cpu_s", json(Some(own.cpu_s)), "seconds of their CPU during the load");
        add("detail.generator.cpu_us_per_copy", json(own.cpu_us_per_copy), "the same per copy received, µs");
        add("detail.generator.rss_bytes", own.rss_bytes.to_string(), "their resident bytes when the load was over");
    }
    if let Some(own) = &detail.gifts {
        gifts(own, add);
    }
    let Some(slow) = &detail.slow else { return };
    add("detail.slow.slow_clients", slow.slow_clients.to_string(), "clients that read slowly");
    add("detail.slow.stopped_clients", slow.stopped_clients.to_string(), "clients that stopped reading");
    add("detail.slow.destroyed", slow.destroyed.to_string(), "copies that were written, and destroyed by a reset before they were read");
    add("detail.slow.overdropped", slow.overdropped.to_string(), "copies counted as dropped that were received");
    for (who, latency, meaning) in [
        ("calm_ms", slow.calm_ms, "of those who read at once, before anyone was slow, ms"),
        ("prompt_ms", slow.prompt_ms, "of the same, while others were slow, ms"),
        ("slow_ms", slow.slow_ms, "of those who read slowly, ms"),
        ("stopped_ms", slow.stopped_ms, "of those who had stopped, ms"),
    ] {
        for (name, value) in tail(latency) {
            add(&format!("detail.slow.{who}.{name}"), value, meaning);
        }
    }
    add("detail.slow.p99_growth", json(slow.p99_growth), "how many times the p99 of calm_ms that of prompt_ms is");
    add("detail.slow.server_rss_before_bytes", json(slow.server_rss_before_bytes), "resident bytes of the server before the load");
    add("detail.slow.server_rss_peak_bytes", json(slow.server_rss_peak_bytes), "the same at their highest since");
}

fn gifts(gifts: &GiftReport, add: &mut dyn FnMut(&str, String, &'static str)) {
    add("detail.gifts.intended", gifts.intended.to_string(), "gifts that senders began");
    add("detail.gifts.acked", gifts.acked.to_string(), "gifts that the server acknowledged: they are paid");
    add("detail.gifts.acked_per_s", json(gifts.acked_per_s), "the same per second of the load");
    add("detail.gifts.acked_per_server_cpu_s", json(gifts.acked_per_server_cpu_s), "the same per second of server CPU");
    for (name, value) in tail(gifts.ack_ms) {
        add(&format!("detail.gifts.ack_ms.{name}"), value, "from when a gift was due to its ACK, ms");
    }
    add("detail.gifts.unanswered", gifts.unanswered.to_string(), "gifts without a final answer at the end");
    add("detail.gifts.repeats", gifts.repeats.to_string(), "gifts that were sent once more on purpose");
    add("detail.gifts.told", gifts.told.to_string(), "gifts that rooms were told of, each once");
    add("detail.gifts.viewers", gifts.viewers.to_string(), "viewers that stayed, or came back without a gap");
    add("detail.gifts.pushes", gifts.pushes.to_string(), "pushes that told of them");
    if let Some(bars) = &gifts.bars {
        add("detail.gifts.bars.rooms", bars.rooms.to_string(), "PKs");
        add("detail.gifts.bars.over", bars.over.to_string(), "bars that ended at 0 or 100");
        add("detail.gifts.bars.apart", bars.apart.to_string(), "viewers that end with another bar than most of their room");
    }
}

/// The table.
pub(crate) fn table(report: &Report) -> Markup {
    html! {
        table {
            thead { tr { th { "field" } th.number { "value" } th { "what it counts" } } }
            tbody {
                @for figure in figures(report) {
                    tr { td { code { (figure.field) } } td.number data-field=(figure.field) { (figure.value) } td { (figure.meaning) } }
                }
            }
        }
    }
}

/// What a number is in `report.json`, so that both read the same.
fn json<T: serde::Serialize>(value: Option<T>) -> String {
    value.and_then(|value| serde_json::to_string(&value).ok()).unwrap_or_else(|| "-".to_owned())
}

fn spread(spread: Option<Spread>) -> [(&'static str, String); 3] {
    let of = |pick: fn(Spread) -> f64| json(spread.map(pick));
    [("p50", of(|spread| spread.p50)), ("p99", of(|spread| spread.p99)), ("max", of(|spread| spread.max))]
}

fn tail(tail: Option<Tail>) -> [(&'static str, String); 4] {
    let of = |pick: fn(Tail) -> f64| json(tail.map(pick));
    [("p50", of(|tail| tail.p50)), ("p99", of(|tail| tail.p99)), ("p999", of(|tail| tail.p999)), ("max", of(|tail| tail.max))]
}

#[cfg(test)]
mod tests {
    use super::figures;
    use crate::{
        probe::Limit,
        report::{Detail, GeneratorReport, Report, SlowReport, Spread, Tail},
    };
    use serde_json::Value;
    use std::collections::BTreeMap;

    #[test]
    fn every_field_of_the_contract_is_a_figure_and_says_what_the_json_says() {
        let report = Report {
            connections: 41,
            login_ms: Some(Spread { p50: 1.5, p99: 2.25, max: 3.125 }),
            latency_ms: Some(Tail { p50: 0.1, p99: 20.0, p999: 30.5, max: 1e3 }),
            last_member_ms: Some(Spread { p50: 4.0, p99: 5.0, max: 6.0 }),
            dropped: BTreeMap::from([("chat".to_owned(), 2)]),
            deliveries_per_s: Some(98_231.125),
            server_rss_bytes: Some(24_117_248),
            detail: Detail {
                joining: Some(14.625),
                limit: Some(Limit { sockets: 41, frame_bytes: 120, rows: Vec::new() }),
                ratio_to_limit: Some(0.5),
                generator: Some(GeneratorReport { processes: 2, cpu_s: 1.25, cpu_us_per_copy: None, rss_bytes: 9_000_000 }),
                slow: Some(SlowReport { slow_clients: 4, prompt_ms: Some(Tail { p99: 7.5, ..Tail::default() }), ..SlowReport::default() }),
                ..Detail::default()
            },
            ..Report::default()
        };
        let json = serde_json::to_value(&report).expect("a report is plain data");
        let figures = figures(&report);
        let mut named: Vec<&str> = figures.iter().filter_map(|figure| figure.field.split('.').next()).collect();
        named.dedup();
        let Value::Object(fields) = &json else { panic!("an object") };
        for field in fields.keys().filter(|field| *field != "detail") {
            assert!(named.contains(&field.as_str()), "{field} is not in the table");
        }
        for figure in &figures {
            let value = figure.field.split('.').fold(&json, |value, key| &value[key]);
            let text = if value.is_null() { "-".to_owned() } else { value.to_string() };
            assert_eq!(figure.value, text, "{}", figure.field);
        }
    }
}
