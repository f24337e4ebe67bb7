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
fn a_held_crowd_stays() {
    let house = House::with("[gateway.session]\nheartbeat_gap = \"1s\"\n");
    let report = loadgen(&house, &["hold", "--connections", "500", "--seconds", "5"]);
    assert_eq!(report["connections"], 500, "{report}");
    assert_eq!(report["logins_failed"], 0, "{report}");
    assert_eq!(house.metric("gateway_heartbeats_lost_total", &[]), 0.0);
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
