//! The figures of `report.json` in words: every one of them, exactly as it stands there.

use crate::report::{Report, Spread, Tail};
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

/// Every field of the contract, in its order.
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
    figures
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
    use crate::report::{Report, Spread, Tail};
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
            let value = &json[figure.field.split('.').next().expect("a field")];
            let value = figure.field.split_once('.').map_or(value, |(_, inner)| &value[inner]);
            let text = if value.is_null() { "-".to_owned() } else { value.to_string() };
            assert_eq!(figure.value, text, "{}", figure.field);
        }
    }
}
