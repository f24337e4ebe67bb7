//! What an operator sees: probes, metrics that tell the truth, logs without secrets, a page about the API.

use crate::house::{House, eventually};
use billfish_wire::{Body, Code, Reason};
use serde_json::json;
use std::process::Command;

#[test]
fn probes_answer_and_metrics_count_what_happened() {
    let house = House::start();
    assert_eq!(house.admin("/livez").0, 200);
    assert_eq!(house.admin("/readyz").0, 200);
    let room = house.open_room(30_001);
    let mut peer = house.login(20_001);
    peer.join(room);
    peer.chat(room, "hello", "m1");
    peer.expect(Code::Ack);
    for (name, labels, least) in [
        ("gateway_connections", &[][..], 1.0),
        ("gateway_logins_total", &["result=\"accepted\""][..], 1.0),
        ("gateway_frames_total", &["code=\"login\"", "direction=\"in\""][..], 1.0),
        ("gateway_frames_total", &["code=\"ack\"", "direction=\"out\""][..], 1.0),
        ("router_rooms", &[][..], 1.0),
    ] {
        eventually(&format!("{name}{labels:?} is at least {least}"), || house.metric(name, labels) >= least);
    }
    let (status, account) = house.admin(&format!("/rooms/{room}"));
    let account: serde_json::Value = serde_json::from_str(&account).unwrap();
    assert_eq!((status, account["members"].as_u64()), (200, Some(1)), "{account}");
    assert_eq!(house.admin("/nowhere").0, 404);
}

#[test]
fn logs_hold_no_token_and_no_chat() {
    // Whatever anyone may turn on in a bad night, in our crates and in those below them.
    let house = House::with_env("", &[("RUST_LOG", "trace")]);
    let room = house.open_room(30_001);
    let token = house.token(20_001);
    let mut peer = house.connect();
    peer.send(Code::Login, &crate::house::login_body(20_001, token.clone()));
    peer.expect(Code::Login);
    peer.join(room);
    peer.chat(room, "a very private sentence", "m1");
    peer.expect(Code::Ack);
    peer.send(Code::Logout, &Body::default());
    peer.expect(Code::Logout);
    house.api(
        "POST",
        "/v1/im/push",
        json!({"appId": 10001, "target": {"roomId": room}, "bizCode": 5568, "data": "{\"secret\":\"another private one\"}"}),
    );
    let mut guess = house.connect();
    guess.send(Code::Login, &crate::house::login_body(20_001, "fedcba9876543210fedcba9876543210%10001".to_owned()));
    guess.expect(Code::Error);
    let environment = std::fs::read(format!("/proc/{}/environ", house.pid())).unwrap();
    assert!(environment.split(|byte| *byte == 0).any(|entry| entry == b"RUST_LOG=trace"), "the log is not as talkative as it can be");
    let log = house.log();
    assert!(log.contains("logged in") && log.contains("login refused"), "what happened is not in the log:\n{log}");
    // An address may have its `%` in another writing.
    let token = token.split('%').next().unwrap();
    for secret in [token, "a very private sentence", "another private one", "fedcba9876543210", house.api_key.as_str()] {
        assert!(!log.contains(secret), "{secret} stands in the log");
    }
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn the_page_about_the_api_shows_its_routes_in_a_browser() {
    let house = House::start();
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", "--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{}/docs", house.ports.http))
        .output()
        .expect("chromium is installed; `make test` does that");
    let page = String::from_utf8_lossy(&output.stdout);
    for route in ["/v1/im/tokens", "/v1/im/push", "/v1/rooms"] {
        assert!(page.contains(route), "{route} is not on the page:\n{page}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn without_free_files_it_backs_off_and_serves_those_inside() {
    // 64 for itself and a few dozen for clients.
    let house = House::under(
        "ulimit -n 100; exec \"$@\"",
        "[gateway.admission]\nconnections_max = 1000\nunlogged_percent_max = 100\n[gateway.files]\nrefuse_percent = 100\nstop_percent = 100\n",
    );
    let mut inside = house.login(20_001);
    let mut crowd = Vec::new();
    for _ in 0..200 {
        if let Ok(stream) = std::net::TcpStream::connect(house.ports.tcp) {
            crowd.push(stream);
        }
    }
    inside.send(Code::Heartbeat, &Body::default());
    inside.expect(Code::Heartbeat);
    // It waits instead of spinning: over two seconds of wall time it uses far less than one of CPU.
    let before = cpu_ticks(house.pid());
    let started = std::time::Instant::now();
    while started.elapsed() < std::time::Duration::from_secs(2) {
        inside.send(Code::Heartbeat, &Body::default());
        inside.expect(Code::Heartbeat);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let used = cpu_ticks(house.pid()) - before;
    assert!(used < 100, "{used} ticks of CPU in two seconds");
    drop(crowd);
    eventually("there is room again", || {
        let mut late = house.connect();
        late.send(Code::Login, &crate::house::login_body(20_001, "x".to_owned()));
        matches!(late.next_within(std::time::Duration::from_secs(2)), Some(Some((Code::Error, _))))
    });
    assert!(house.metric("gateway_accept_errors_total", &[]) >= 1.0);
}

#[test]
fn near_the_end_of_its_files_it_sends_newcomers_elsewhere() {
    // The records open some more while they are used, whatever stands at the door.
    let house = House::under("ulimit -n 400; exec \"$@\"", "[gateway.admission]\nconnections_max = 1000\nunlogged_percent_max = 100\n");
    let log = house.log();
    assert!(log.contains("WARN") && log.contains("gateway.admission.connections_max is more than"), "{log}");
    let mut inside = house.login(20_001);
    let mut crowd: Vec<_> = (0..400).map(|_| house.connect()).collect();
    let told = crowd.iter_mut().rev().any(|peer| {
        let heard = peer.next_within(std::time::Duration::from_millis(20));
        matches!(heard, Some(Some((Code::Error, body))) if body.code == Reason::Unavailable.number())
    });
    assert!(told, "who comes too late is told to go elsewhere");
    assert!(house.metric("gateway_admission_refused_total", &["reason=\"files\""]) >= 1.0);
    let open = house.metric("gateway_open_files", &[]);
    assert!(open <= 395.0, "there are some left for links and records: {open}");
    inside.send(Code::Heartbeat, &Body::default());
    inside.expect(Code::Heartbeat);
}

/// User and system time of a process, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
