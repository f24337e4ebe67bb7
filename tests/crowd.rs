//! A crowd with exact accounting: every copy of every message arrives, once, in order, or stands in a drop counter.

use crate::house::{House, program};
use serde_json::Value;
use std::process::Command;

fn loadgen(house: &House, arguments: &[&str]) -> Value {
    let output = Command::new(program("loadgen", "bin", "loadgen"))
        .args(arguments)
        .args(["--gateway", &house.ports.tcp.to_string(), "--http", &format!("http://{}", house.ports.http)])
        .args(["--api-key", &house.api_key, "--server-pid", &house.pid().to_string(), "--json"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {}\n{said}\n{}", output.status, String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
}

#[test]
fn six_hundred_viewers_hear_every_message_once_and_in_order() {
    let house = House::start();
    let report = loadgen(&house, &["room-burst", "--connections", "600", "--rooms", "3", "--rate", "10", "--seconds", "5"]);
    assert_eq!(report["logins_failed"], 0, "{report}");
    let sent = report["sent"].as_u64().unwrap();
    assert!(sent >= 100, "{report}");
    assert_eq!(report["expected"].as_u64().unwrap(), sent * 200, "{report}");
    assert_eq!(report["received"], report["expected"], "{report}");
    for nothing in ["missing", "duplicates", "order_breaks"] {
        assert_eq!(report[nothing], 0, "{nothing}: {report}");
    }
    // The server's own books agree: copies = delivered + dropped + pending.
    let copies = house.metric("gateway_copies_total", &[]);
    let delivered = house.metric("gateway_deliveries_total", &[]);
    let dropped = house.metric("gateway_frames_dropped_total", &[]);
    assert!(copies >= report["expected"].as_f64().unwrap());
    assert!((copies - delivered - dropped).abs() < 0.5, "{copies} = {delivered} + {dropped}");
}

#[test]
fn the_same_with_every_copy_acknowledged() {
    let house = House::start();
    let report = loadgen(&house, &["room-burst", "--connections", "500", "--rooms", "1", "--rate", "10", "--seconds", "4", "--qos", "1"]);
    assert_eq!(report["received"], report["expected"], "{report}");
    for nothing in ["logins_failed", "missing", "duplicates", "order_breaks"] {
        assert_eq!(report[nothing], 0, "{nothing}: {report}");
    }
}

#[test]
fn every_whisper_reaches_its_receiver_at_once() {
    let house = House::start();
    let report = loadgen(&house, &["unicast", "--connections", "50", "--rate", "50", "--seconds", "3"]);
    assert!(report["sent"].as_u64() >= Some(100), "{report}");
    assert_eq!(report["received"], report["expected"], "{report}");
    // A copy that found no way at first would come with the first resend, after seconds.
    assert!(report["latency_ms"]["p50"].as_f64() < Some(1_000.0), "{report}");
}

#[test]
fn a_held_crowd_stays() {
    let house = House::with("[gateway.session]\nheartbeat_gap = \"1s\"\n");
    let report = loadgen(&house, &["hold", "--connections", "500", "--seconds", "5"]);
    assert_eq!(report["connections"], 500, "{report}");
    assert_eq!(report["logins_failed"], 0, "{report}");
    assert_eq!(house.metric("gateway_heartbeats_lost_total", &[]), 0.0);
}

/// A crowd in which some are slow: the report, after its journal has been found to come to the same.
fn slow_readers(house: &House, arguments: &[&str]) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let (report, admin) = (directory.path().to_str().unwrap(), format!("http://{}", house.ports.admin));
    let common = ["slow-readers", "--connections", "60", "--seed", "7", "--rate", "50", "--payload", "2000", "--calm-seconds", "1"];
    let report = loadgen(house, &[&common[..], &["--admin", &admin, "--report", report], arguments].concat());
    let checked =
        Command::new(program("loadgen", "bin", "loadgen")).arg("check").arg(directory.path().join("journal.jsonl")).output().unwrap();
    assert!(checked.status.success(), "{}\n{report:#}", String::from_utf8_lossy(&checked.stderr));
    let slow = &report["detail"]["slow"];
    assert!(slow["slow_clients"].as_u64() > Some(0) && slow["stopped_clients"].as_u64() > Some(0), "{report:#}");
    assert!(slow["calm_ms"]["p99"].is_number() && slow["prompt_ms"]["p99"].is_number(), "{report:#}");
    assert!(slow["server_rss_peak_bytes"].as_u64() > Some(0), "{report:#}");
    assert!(report["detail"]["joining"].as_f64() >= Some(1.0), "{report:#}");
    let dropped = report["dropped"]["chat"].as_u64().unwrap_or(0) + report["dropped"]["event"].as_u64().unwrap_or(0);
    // A slow client's heartbeat to a connection that has ended is answered with a reset.
    let destroyed = slow["destroyed"].as_u64().unwrap();
    assert_eq!(report["expected"].as_u64().unwrap(), report["received"].as_u64().unwrap() + dropped + destroyed, "{report:#}");
    report
}

#[test]
fn slow_readers_lose_chat_that_is_counted_and_keep_their_connection() {
    let house = House::start();
    let report = slow_readers(&house, &["--seconds", "5", "--slow-permille", "100", "--stopped-permille", "200", "--stop-seconds", "4"]);
    let slow = &report["detail"]["slow"];
    assert!(slow["dropped"]["soft_mark"].as_u64() > Some(0), "{report:#}");
    assert_eq!(report["expected"].as_u64().unwrap(), report["sent"].as_u64().unwrap() * 60, "{report:#}");
    assert_eq!((&slow["given_up"], &slow["closes"]), (&serde_json::json!({}), &serde_json::json!({})), "{report:#}");
    assert!(slow["stopped_ms"]["max"].as_f64() > slow["prompt_ms"]["p99"].as_f64(), "{report:#}");
}

#[test]
fn slow_readers_of_what_may_not_be_dropped_are_sent_away_and_every_copy_is_accounted_for() {
    let house = House::start();
    let all = ["--class", "1", "--seconds", "6", "--slow-permille", "100", "--stopped-permille", "200", "--stop-seconds", "30"];
    let report = slow_readers(&house, &all);
    let slow = &report["detail"]["slow"];
    let ended = slow["closes"]["too_slow"].as_u64().unwrap_or(0);
    assert!(ended > 0, "{report:#}");
    assert_eq!(slow["given_up"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>(), ended, "{report:#}");
    assert!(report["expected"].as_u64().unwrap() < report["sent"].as_u64().unwrap() * 60, "who is gone is due nothing: {report:#}");
    assert_eq!(report["detail"]["lost"], serde_json::json!({}), "nobody else was lost: {report:#}");
}

#[test]
fn readers_that_take_nothing_are_ended_and_every_copy_is_accounted_for() {
    let house = House::with("[gateway.backlog]\nwrite_stall = \"1s\"\n");
    let report = slow_readers(&house, &["--seconds", "5", "--slow-permille", "50", "--stopped-permille", "200", "--stop-seconds", "30"]);
    let slow = &report["detail"]["slow"];
    assert!(slow["closes"]["write_stalled"].as_u64() > Some(0), "{report:#}");
    assert!(slow["dropped"]["closed"].as_u64() > Some(0), "{report:#}");
}

#[test]
fn loadgen_says_what_is_wrong() {
    let output = Command::new(program("loadgen", "bin", "loadgen")).arg("no-such-scenario").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = Command::new(program("loadgen", "bin", "loadgen"))
        .args([
            "hold",
            "--connections",
            "5",
            "--seconds",
            "1",
            "--gateway",
            &nobody,
            "--http",
            &format!("http://{nobody}"),
            "--api-key",
            "x",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&nobody), "{}", String::from_utf8_lossy(&output.stderr));
}
