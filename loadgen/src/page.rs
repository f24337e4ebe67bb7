//! A run as one page: verdict, figures and plots that a person reads at a glance.
//!
//! - One file: no script, nothing fetched. It can be mailed, kept with a release, and opened in ten years. Its own policy forbids it more.
//! - Light and dark follow the reader's setting.
//! - Every text goes through the template's escaping; reasons and classes come from a server that may be anyone's.
//! - The figures are those of `report.json`; only the plots come from the run's [`Series`](crate::series::Series).

mod charts;
mod figures;
mod heat;
mod origin;
mod plot;
mod scale;

use crate::{
    journal,
    probe::Limit,
    report::{Detail, Report, Spread, Tail, number},
    series::{Measured, Point},
    units,
};
use charts::Charts;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use origin::Origin;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io,
    path::Path,
};

const STYLE: &str = include_str!("page/style.css");
/// Nothing may be fetched and nothing run, whoever wrote what stands in the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// Makes the directory of a report where it is missing, and finds out whether a report can be written there.
///
/// # Errors
/// When it cannot.
pub(crate) fn prepare(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    // A name that no other run takes.
    let trial = directory.join(format!(".loadgen-{}", std::process::id()));
    OpenOptions::new().write(true).create(true).truncate(true).open(&trial)?;
    fs::remove_file(&trial)?;
    for name in [JSON, SERIES, PAGE, journal::FILE] {
        match OpenOptions::new().append(true).open(directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io::Error::new(error.kind(), format!("{name}: {error}"))),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// The figures.
const JSON: &str = "report.json";
/// The plots as numbers.
const SERIES: &str = "series.json";
/// To read.
const PAGE: &str = "report.html";

/// Writes `report.json` with the given text, `series.json` and `report.html` into a directory, which is made where it is missing.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn keep(directory: &Path, report: &Report, json: &str) -> io::Result<()> {
    let origin = Origin::here();
    fs::create_dir_all(directory)?;
    fs::write(directory.join(JSON), json)?;
    fs::write(directory.join(SERIES), serde_json::to_string(&Kept::of(report, &origin)).map_err(io::Error::from)?)?;
    fs::write(directory.join(PAGE), document(report, &origin).into_string())
}

/// `series.json`: what the plots show, to compute with.
#[derive(Debug, Serialize)]
struct Kept<'a> {
    origin: &'a Origin,
    /// What the latencies are latencies of.
    measured: Measured,
    /// Seconds that a point stands for.
    slot_s: f64,
    /// When each step of the run began.
    steps: Vec<KeptStep>,
    points: Vec<Point>,
}

#[derive(Debug, Serialize)]
struct KeptStep {
    at_s: f64,
    step: &'static str,
}

impl<'a> Kept<'a> {
    fn of(report: &Report, origin: &'a Origin) -> Self {
        let series = &report.series;
        let steps = series.steps().iter().map(|&(at_s, step)| KeptStep { at_s, step: step.word() }).collect();
        Self { origin, measured: series.measured(), slot_s: series.slot_seconds(), steps, points: series.points() }
    }
}

fn document(report: &Report, origin: &Origin) -> Markup {
    let charts = Charts::of(report, origin.cores);
    let detail = &report.detail;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="color-scheme" content="light dark";
                title { "loadgen " (detail.scenario) " " (origin.written) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p.kicker { "Billfish load report" }
                    h1 { (detail.scenario) }
                    p.facts {
                        (units::grouped(report.connections)) " connections"
                        @if detail.seconds > 0.0 { ", " (units::short(detail.seconds)) " s of load" }
                        ", seed " (detail.seed)
                        ", " time { (origin.written) }
                        @if let Some(commit) = origin.commit { ", commit " code { (commit) } }
                    }
                }
                (verdict(report, charts.noun()))
                @if let Some(warning) = charts.machine_was_full() { p.warning { (warning) } }
                (tiles(report, &charts))
                main { (charts.render()) }
                @if let Some(limit) = &detail.limit { (ceiling(detail, limit)) }
                (causes(detail))
                section { h2 { "All figures" } p { "As they stand in report.json. A dash was not measured." } (figures::table(report)) }
                (provenance(origin))
            }
        }
    }
}

/// Green, or red with what went wrong.
fn verdict(report: &Report, noun: &str) -> Markup {
    let problems = report.problems();
    let copies = units::grouped(report.received);
    let destroyed = report.detail.slow.as_ref().map_or(0, |slow| slow.destroyed);
    let passed = match (report.expected, report.dropped.values().sum::<u64>(), destroyed) {
        (0, _, _) => format!("{} clients came in and none was lost.", units::grouped(report.connections)),
        (_, 0, 0) => format!("All {copies} {noun} arrived."),
        (_, dropped, 0) => format!("{copies} {noun} arrived, and the gateway has counted {} as dropped.", units::grouped(dropped)),
        (_, dropped, destroyed) => format!(
            "{copies} {noun} arrived, the gateway has counted {} as dropped, and resets destroyed {}.",
            units::grouped(dropped),
            units::grouped(destroyed)
        ),
    };
    html! {
        @if problems.is_empty() {
            section.verdict.passed id="verdict" { h2 { "Passed" } p { (passed) } }
        } @else {
            section.verdict.failed id="verdict" { h2 { "Failed" } ul { @for problem in &problems { li { (problem) } } } }
        }
    }
}

/// The few figures that one looks for first; what was not measured has no tile.
fn tiles(report: &Report, charts: &Charts<'_>) -> Markup {
    html! {
        section.tiles {
            @if let Some(rate) = report.deliveries_per_s {
                (tile("deliveries", &format!("{}/s", units::short(rate)), &format!("{} of {}", units::grouped(report.received), units::grouped(report.expected))))
            }
            @if let Some(Tail { p50, p99, max, .. }) = report.latency_ms {
                (tile("latency p99", &units::duration(p99), &format!("p50 {}, max {}", units::duration(p50), units::duration(max))))
            }
            @if let Some(each) = report.deliveries_per_server_cpu_s {
                (tile("per server CPU-second", &units::short(each), "deliveries"))
            }
            @if let Some(share) = report.detail.ratio_to_limit {
                (tile("of the bare limit", &percent(share), &frames_a_send(report.detail.joining)))
            }
            @if let Some((server, own)) = charts.cores_used() {
                (tile("server CPU, cores", &units::short(server), &format!("load generator {}", units::short(own))))
            }
            @if let Some(rss) = report.server_rss_bytes {
                @let each = report.bytes_per_connection.map_or_else(String::new, |each| format!("{} each", units::bytes(each)));
                (tile("server memory", &units::bytes(number(rss)), &each))
            }
            @if let Some(Spread { p50, p99, .. }) = report.login_ms {
                (tile("login p99", &units::duration(p99), &format!("p50 {}, all in {}", units::duration(p50), units::duration(report.detail.connect_s * 1_000.0))))
            }
        }
    }
}

fn tile(name: &str, value: &str, note: &str) -> Markup {
    html! { div.tile { p.name { (name) } p.value { (value) } p.note { (note) } } }
}

/// What the run is compared with: the loop at the gateway's own joining, or with single frames where that was not seen.
fn frames_a_send(joining: Option<f64>) -> String {
    joining.map_or_else(|| "with single frames".to_owned(), |joining| format!("at {} frames a send", units::short(joining.max(1.0))))
}

fn percent(share: f64) -> String {
    format!("{} %", (share * 1_000.0).round() / 10.0)
}

/// What the machine can send at all, in the same run, and how much of that the server reached.
fn ceiling(detail: &Detail, limit: &Limit) -> Markup {
    html! {
        section id="ceiling" {
            h2 { "The bare limit" }
            p {
                "A loop that does nothing but send, to " (units::grouped(limit.sockets as u64)) " sockets, frames of " (limit.frame_bytes)
                " bytes, measured in the same run: the median, with the lowest and the highest try. No server on this machine can be faster than the loop with its joining; "
                "ratios travel better than absolute figures."
            }
            @if let Some(reached) = detail.limit_deliveries_per_cpu_s {
                p {
                    "The loop delivers " (units::short(reached)) " per CPU-second " (frames_a_send(detail.joining))
                    @match detail.ratio_to_limit {
                        Some(share) => { ". The server reached " strong { (percent(share)) } " of that." }
                        None => ". How much of that the server reached was not measured.",
                    }
                }
            }
            table {
                thead { tr { th.number { "frames a send" } th.number { "sends per CPU-s" } th.number { "lowest and highest" } th.number { "deliveries per CPU-s" } } }
                tbody {
                    @for row in &limit.rows {
                        tr {
                            td.number { (row.joined) }
                            td.number { (units::short(row.sends_per_cpu_s)) }
                            td.number { (units::short(row.sends_per_cpu_s_min)) " to " (units::short(row.sends_per_cpu_s_max)) }
                            td.number { (units::short(row.deliveries_per_cpu_s)) }
                        }
                    }
                }
            }
        }
    }
}

/// What failed, was refused or lost, by cause.
fn causes(detail: &Detail) -> Markup {
    let (herd, slow) = (detail.herd.as_ref(), detail.slow.as_ref());
    let kinds: Vec<(&str, &BTreeMap<String, u64>)> = [
        ("login failed", Some(&detail.login_failures)),
        ("login tried again", Some(&detail.login_retries)),
        ("connection lost", Some(&detail.lost)),
        ("refused", Some(&detail.refused)),
        ("return tried again", herd.map(|herd| &herd.retries)),
        ("slow reader given up", slow.map(|slow| &slow.given_up)),
        ("slow reader ended, as the gateway counts", slow.map(|slow| &slow.closes)),
        ("copy dropped, of the load's class", slow.map(|slow| &slow.dropped)),
    ]
    .into_iter()
    .filter_map(|(name, causes)| Some((name, causes.filter(|causes| !causes.is_empty())?)))
    .collect();
    html! {
        @if !kinds.is_empty() {
            section id="causes" {
                h2 { "What did not go well" }
                table {
                    thead { tr { th { "what" } th.number { "how often" } th { "cause" } } }
                    tbody {
                        @for (name, causes) in kinds {
                            @for (cause, count) in causes { tr { td { (name) } td.number { (units::grouped(*count)) } td { (cause) } } }
                        }
                    }
                }
            }
        }
    }
}

fn provenance(origin: &Origin) -> Markup {
    html! {
        section id="origin" {
            h2 { "How it was measured" }
            pre { code { (origin.command) } }
            dl {
                dt { "machine" }
                dd {
                    (origin.cores) " cores"
                    @if let Some(cpu) = &origin.cpu { ", " (cpu) }
                    @if let Some(memory) = origin.memory_bytes { ", " (units::bytes(number(memory))) }
                }
                dt { "kernel" } dd { (origin.kernel) }
                dt { "written" } dd { (origin.written) }
                dt { "commit" } dd { (origin.commit.unwrap_or("not known: this build was made without BILLFISH_COMMIT")) }
            }
        }
    }
}

#[cfg(test)]
mod tests;
