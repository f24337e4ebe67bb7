//! Peers that others wrote: Python's `websockets` and `ssl`, npm's `ws`, and sslyze, against the real binary.
//!
//! What they need is installed into `target/peers` once, in the versions named here, and that is said. Where there is no npm, or the package
//! index cannot be reached, the test says so and is skipped; with `REQUIRE_SERVERS=1`, as in `make test`, it fails.

use crate::house::House;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Mutex,
};

const PYTHON: [&str; 2] = ["websockets==17.4", "sslyze==6.3.1"];
const NODE: &str = "ws@8.23.0";

/// Two tests in one process must not install at the same time; two processes are kept apart by the lock file.
static INSTALLING: Mutex<()> = Mutex::new(());

fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("peers")
}

/// Runs what installs something, unless `marker` says that it has been; `None` when it cannot be.
fn installed(what: &str, marker: &Path, words: &str, script: &str) -> Option<()> {
    let _one_at_a_time = INSTALLING.lock().unwrap();
    if fs::read_to_string(marker).is_ok_and(|said| said == words) {
        return Some(());
    }
    fs::create_dir_all(directory()).unwrap();
    eprintln!("foreign peers: installing {words} into {}", directory().display());
    let output =
        Command::new("flock").arg(directory().join("lock")).args(["sh", "-euc", script]).current_dir(directory()).output().unwrap();
    if output.status.success() {
        fs::write(marker, words).unwrap();
        return Some(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    skipped(&format!("{what} cannot be installed: {why}"))
}

/// Says so, or fails where nothing may be skipped.
fn skipped<T>(why: &str) -> Option<T> {
    assert!(std::env::var_os("REQUIRE_SERVERS").is_none_or(|value| value != "1"), "{why}, and REQUIRE_SERVERS=1 forbids to skip");
    eprintln!("SKIPPED: {why}");
    None
}

fn python() -> Option<PathBuf> {
    let words = PYTHON.join(" ");
    let script = format!("python3 -m venv python && python/bin/pip install -q --disable-pip-version-check {words}");
    installed("Python's peers", &directory().join("python.installed"), &words, &script)?;
    Some(directory().join("python/bin/python"))
}

fn node() -> Option<PathBuf> {
    for program in ["npm", "node"] {
        if Command::new(program).arg("--version").output().is_err() {
            return skipped(&format!("`{program}` is not installed (apt-get install npm)"));
        }
    }
    let script = format!("mkdir -p node && npm install --silent --no-audit --no-fund --prefix node {NODE}");
    installed("npm's ws", &directory().join("node.installed"), NODE, &script)?;
    Some(directory().join("node"))
}

fn peer(name: &str) -> String {
    format!("{}/tests/peers/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn assert_ok(output: &Output) {
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim_end().ends_with("OK"), "{said}\n{complained}");
}

fn certificate(house: &House) -> PathBuf {
    house.data_dir().join("development-cert.pem")
}

#[test]
fn pythons_websockets_and_ssl_understand_the_gateway() {
    let Some(python) = python() else { return };
    let house = House::start();
    let room = house.open_room(30_001);
    let users: Vec<String> = (20_001..20_010).flat_map(|user| [user.to_string(), house.token(user)]).collect();
    let ports = [house.ports.tcp, house.ports.ws, house.ports.tls].map(|address| address.port().to_string());
    let output = Command::new(python)
        .arg(peer("websocket_peer.py"))
        .arg("127.0.0.1")
        .args(ports)
        .arg(certificate(&house))
        .arg(room.to_string())
        .args(users)
        .output()
        .unwrap();
    assert_ok(&output);
    assert!(house.metric("gateway_tls_handshakes_total", &["result=\"resumed\""]) >= 2.0);
    assert!(house.metric("gateway_tls_handshakes_total", &["result=\"failed\""]) < 0.5);
}

#[test]
fn npms_ws_understands_the_gateway() {
    let Some(node) = node() else { return };
    let house = House::start();
    let room = house.open_room(30_001);
    for (user, url, more) in [
        (20_001, format!("ws://127.0.0.1:{}", house.ports.ws.port()), None),
        (20_002, format!("wss://localhost:{}", house.ports.tls.port()), Some(certificate(&house))),
    ] {
        let output = Command::new("node")
            .env("PEERS_NODE", &node)
            .arg(peer("ws_peer.mjs"))
            .args([url, room.to_string(), user.to_string(), house.token(user)])
            .args(more)
            .output()
            .unwrap();
        assert_ok(&output);
    }
}

/// TLS 1.2 and 1.3 with forward secrecy, and none of what has been broken before.
#[test]
fn sslyze_finds_nothing_old_on_the_tls_port() {
    let Some(python) = python() else { return };
    let house = House::start();
    let output =
        Command::new(python).arg(peer("tls_scan.py")).args(["127.0.0.1".to_owned(), house.ports.tls.port().to_string()]).output().unwrap();
    assert_ok(&output);
    eprintln!("{}", String::from_utf8_lossy(&output.stdout));
}
