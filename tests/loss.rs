//! A network that loses, delays and reorders: nobody is cut who is there, and everyone is shown everything once and in order.

use crate::house::{PATIENCE, program};
use serde_json::Value;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};
use tempfile::TempDir;

/// A server behind `scripts/lossy-bridge`.
pub(crate) struct Remote {
    bridge: Child,
    directory: TempDir,
    ports: Value,
}

impl Remote {
    pub(crate) fn start(bridge: &[&str], config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("config.toml"), config).unwrap();
        // The address on the other side is known to the shell there.
        let listen = [
            "GATEWAY__LISTEN__TCP",
            "GATEWAY__LISTEN__WS",
            "GATEWAY__LISTEN__TLS",
            "GATEWAY__LISTEN__QUIC",
            "HTTP__LISTEN",
            "ADMIN__LISTEN",
        ];
        let listen: String = listen.iter().map(|key| format!("export BILLFISH__{key}=$BRIDGE_INSIDE:0; ")).collect();
        let child = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lossy-bridge"))
            .args(bridge)
            .args(["sh", "-c", &format!("{listen} exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_billfish")])
            .args(["--config".as_ref(), path("config.toml").as_os_str()])
            .args(["--data-dir".as_ref(), path("data").as_os_str(), "--ports-file".as_ref(), path("ports.json").as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        let mut remote = Self { bridge: child, directory, ports: Value::Null };
        let deadline = Instant::now() + PATIENCE;
        while remote.ports.is_null() {
            let log = remote.path("log");
            let log = || fs::read_to_string(&log).unwrap_or_default();
            assert!(remote.bridge.try_wait().unwrap().is_none(), "it ended at once: {}", log());
            assert!(Instant::now() < deadline, "it does not come up: {}", log());
            std::thread::sleep(std::time::Duration::from_millis(5));
            remote.ports =
                fs::read_to_string(remote.path("ports.json")).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        }
        remote
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn port(&self, name: &str) -> &str {
        self.ports[name].as_str().unwrap()
    }

    /// Runs the load generator on this side, which ends with 0 when everything that was sent is accounted for.
    fn load(&self, arguments: &[&str]) -> Value {
        self.load_over("tcp", arguments)
    }

    /// The same over a transport.
    pub(crate) fn load_over(&self, transport: &str, arguments: &[&str]) -> Value {
        let output = Command::new(program("loadgen", "bin", "loadgen"))
            .args(arguments)
            .args(["--transport", transport, "--gateway", self.port(transport), "--http", &format!("http://{}", self.port("http"))])
            .args(["--admin", &format!("http://{}", self.port("admin")), "--json", "--quiet", "20"])
            .args(["--data-dir".as_ref(), self.path("data").as_os_str()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        assert!(output.status.success(), "{said}\n{}\n{log}", String::from_utf8_lossy(&output.stdout));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Ends both; how many packets were passed on and how many were lost.
    pub(crate) fn end(mut self) -> (u64, u64) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.bridge), rustix::process::Signal::TERM).unwrap();
        self.bridge.wait().unwrap();
        let log = fs::read_to_string(self.path("log")).unwrap();
        let told = log.lines().find_map(|line| line.strip_prefix("lossy-bridge: ")).unwrap_or_else(|| panic!("{log}"));
        let number = |before: &str| told.split(", ").find_map(|part| part.trim().strip_suffix(before)?.trim().parse().ok()).unwrap();
        (number("packets passed"), number("lost"))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.bridge), rustix::process::Signal::TERM).ok();
        self.bridge.wait().ok();
    }
}

/// Tunnels want root and a kernel that has them.
pub(crate) fn can_bridge() -> bool {
    let is_able = rustix::process::geteuid().is_root() && File::options().read(true).write(true).open("/dev/net/tun").is_ok();
    if !is_able {
        eprintln!("SKIPPED: scripts/lossy-bridge needs root and /dev/net/tun");
    }
    is_able
}

/// Who is silent for 16 s is cut here, not for 60. It cannot be much less: a client whose SYN was lost takes the second that it waited for the
/// round trip, and sends a lost heartbeat again after two, after three and a half more, and after seven.
#[test]
fn five_percent_loss_and_delays_of_40_to_120_ms_cut_nobody_and_show_everything_once_and_in_order() {
    if !can_bridge() {
        return;
    }
    // A LOGIN that was lost twice takes more than the five seconds that one has elsewhere.
    let config = "[gateway.session]\nheartbeat_gap = \"8s\"\nlogin_timeout = \"30s\"\n[gateway.admission]\nnew_per_s = 10000\n";
    let remote = Remote::start(&["--seed", "5", "--duplicate", "1"], config);
    let report = remote.load(&["room-burst", "--connections", "60", "--rooms", "2", "--rate", "2", "--seconds", "24"]);
    assert_eq!(report["received"], report["expected"], "{report}");
    assert!(report["received"].as_u64().unwrap() >= 60 * 2 * 20, "{report}");
    for nothing in ["missing", "duplicates", "order_breaks", "logins_failed"] {
        assert_eq!(report[nothing], 0, "{nothing}: {report}");
    }
    assert_eq!(report["detail"]["lost"], serde_json::json!({}), "somebody was cut: {report}");
    let (passed, lost) = remote.end();
    assert!(lost * 100 > passed * 3 && lost * 100 < passed * 8, "{lost} of {passed} lost is not what was asked for");
}
