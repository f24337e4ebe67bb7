//! The page of runs that went well, badly, and not at all.

use super::{document, keep};
use crate::{
    latency::Latencies,
    page::origin::Origin,
    probe::{Limit, Row},
    report::{Detail, Report, SlowReport, Tail},
    series::{Interval, Sample, Series, Step},
};
use std::collections::BTreeMap;

const PLOTS: [&str; 8] = ["throughput", "latency", "heat", "percentiles", "cpu", "memory", "logins", "connections"];

#[test]
fn a_run_has_its_verdict_figures_and_every_plot() {
    let page = document(&run(), &Origin { cores: 2, commit: Some("abc1234"), ..Origin::here() }).into_string();
    for id in PLOTS {
        assert!(page.contains(&format!(r#"<figure class="plot" id="{id}">"#)), "{id} is not drawn");
    }
    assert!(page.contains("Passed") && page.contains("All 9,000 copies arrived.") && !page.contains("Failed"), "the verdict");
    assert!(page.contains(r#"data-field="latency_ms.p99">45.125</td>"#), "figures as in report.json");
    assert!(page.contains("abc1234") && page.contains("50 %") && page.contains("at 2.5 frames a send"), "commit, share of the limit");
    assert!(page.contains("90 k to 110 k"), "the range of the limit");
    assert!(!page.contains("The machine was full"), "1.5 of 2 cores leave room");
}

#[test]
fn nothing_is_fetched_and_nothing_runs() {
    let page = document(&run(), &Origin::here()).into_string();
    for forbidden in ["<script", "<link", "<img", "@import", "url(", "http:", "https:", "src="] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
}

#[test]
fn a_run_that_failed_says_so_first_and_why() {
    let report = Report { missing: 3, detail: Detail { lost: BTreeMap::from([("reset".to_owned(), 2)]), ..run().detail }, ..run() };
    let page = document(&report, &Origin::here()).into_string();
    assert!(page.contains("Failed") && !page.contains("Passed"));
    assert!(page.contains("3 copies are missing") && page.contains("2 connections were lost") && page.contains("reset"));
}

#[test]
fn slow_readers_stand_apart_and_what_became_of_their_copies_is_said() {
    let slow = SlowReport {
        slow_clients: 5,
        given_up: BTreeMap::from([("closed by the gateway".to_owned(), 2)]),
        closes: BTreeMap::from([("too_slow".to_owned(), 2)]),
        dropped: BTreeMap::from([("closed".to_owned(), 30)]),
        destroyed: 7,
        prompt_ms: Some(Tail { p99: 12.5, ..Tail::default() }),
        ..SlowReport::default()
    };
    let report = Report {
        received: 8_963,
        dropped: BTreeMap::from([("event".to_owned(), 30)]),
        detail: Detail { slow: Some(slow), ..run().detail },
        ..run()
    };
    let page = document(&report, &Origin::here()).into_string();
    assert!(page.contains("8,963 copies arrived, the gateway has counted 30 as dropped, and resets destroyed 7."), "{page}");
    assert!(page.contains(r#"data-field="detail.slow.prompt_ms.p99">12.5</td>"#) && page.contains("too_slow"), "{page}");
    assert!(!document(&run(), &Origin::here()).into_string().contains("slow reader"), "other runs have none");
}

#[test]
fn an_empty_run_is_a_readable_page_without_nonsense() {
    for report in [Report::default(), Report { series: Series::begin(0), ..Report::default() }] {
        let page = document(&report, &Origin::default()).into_string();
        for id in PLOTS {
            assert!(page.contains(&format!(r#"<figure class="plot empty" id="{id}">"#)), "{id} says why it is empty");
        }
        assert!(page.contains("--server-pid"), "what to do about it");
        for nonsense in ["NaN", "inf", "null", "None"] {
            assert!(!page.contains(nonsense), "{nonsense} in {page}");
        }
    }
}

#[test]
fn texts_of_others_are_text() {
    let evil = "</style><script>alert(1)</script>&\"".to_owned();
    let report = Report {
        dropped: BTreeMap::from([(evil.clone(), 1)]),
        detail: Detail { refused: BTreeMap::from([(evil.clone(), 1)]), ..run().detail },
        ..run()
    };
    let origin = Origin { command: evil.clone(), cpu: Some(evil.clone()), kernel: evil, ..Origin::here() };
    let page = document(&report, &origin).into_string();
    assert!(!page.contains("<script") && page.matches("</style>").count() == 1, "{page}");
    assert_eq!(page.matches("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;").count(), 6, "each is there: {page}");
}

#[test]
fn a_machine_without_a_free_core_is_warned_of() {
    let page = document(&run(), &Origin { cores: 1, ..Origin::here() }).into_string();
    assert!(page.contains("The machine was full: the server used 1 and the load generator 0.5 of 1 cores"), "{page}");
}

#[test]
fn the_directory_has_the_page_and_both_files_to_compute_with() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let inner = directory.path().join("a/b");
    keep(&inner, &run(), "{}").expect("written");
    let text = |name: &str| std::fs::read_to_string(inner.join(name)).expect("there");
    assert_eq!(text("report.json"), "{}");
    assert!(text("report.html").starts_with("<!DOCTYPE html>"));
    let series: serde_json::Value = serde_json::from_str(&text("series.json")).expect("JSON");
    assert_eq!((&series["slot_s"], &series["steps"][0]["step"], &series["measured"]), (&1.0.into(), &"load".into(), &"copies".into()));
    let points = series["points"].as_array().expect("points");
    let received: f64 = points.iter().filter_map(|point| point["received_per_s"].as_f64()).sum();
    assert!((received - 9_000.0).abs() < 1e-6 && points[4]["latency_ms"]["p50"].is_number(), "{series}");
}

/// Ten seconds, 1,000 copies in each but the first.
fn run() -> Report {
    let mut series = Series::begin(100);
    for second in 100..110 {
        let mut latency = Latencies::default();
        for nth in 0..if second == 100 { 0 } else { 1_000 } {
            latency.record(0, (nth + 1) * 40_000);
        }
        let received = latency.count();
        series.add(Interval { second, received, latency: Some(latency).filter(|_| received > 0), ..Interval::default() });
        series.sample(Sample { second, seconds: 1.0, server_cpu_s: Some(1.0), server_rss_bytes: Some(24_000_000), own_cpu_s: 0.5 });
        series.connected(second, 50);
    }
    series.add(Interval { second: 100, entered: 50, ..Interval::default() });
    series.mark(101_000_000_000, Step::Load);
    series.mark(109_000_000_000, Step::Drain);
    let rows = [1, 32].map(|joined| Row {
        joined,
        sends_per_cpu_s: 1e5,
        sends_per_cpu_s_min: 9e4,
        sends_per_cpu_s_max: 1.1e5,
        deliveries_per_cpu_s: 2e5,
        ..Row::default()
    });
    Report {
        connections: 50,
        sent: 180,
        expected: 9_000,
        received: 9_000,
        deliveries_per_s: Some(1_000.0),
        deliveries_per_server_cpu_s: Some(1e5),
        latency_ms: Some(Tail { p50: 20.0, p99: 45.125, p999: 50.0, max: 61.0 }),
        detail: Detail {
            scenario: "room-burst",
            joining: Some(2.5),
            limit_deliveries_per_cpu_s: Some(2e5),
            ratio_to_limit: Some(0.5),
            limit: Some(Limit { sockets: 50, frame_bytes: 120, rows: rows.to_vec() }),
            ..Detail::default()
        },
        series,
        ..Report::default()
    }
}
