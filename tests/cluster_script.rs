//! `scripts/cluster`, as a newcomer runs it: on ports of its own, with a command, and what is in its way.

use crate::house::{PATIENCE, Peer, eventually, login_body};
use billfish_testing::{Api, RedisServer, eventually_within};
use billfish_wire::Code;
use serde_json::{Value, json};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Instant,
};
use tempfile::TempDir;

/// As many as the script takes from BASE_PORT on.
const PORTS: u16 = 35;
/// Somebody else may take a port between the look and the bind.
const TRIES_MAX: usize = 5;
/// Of each log, where a test fails.
const LOG_LINES: usize = 30;
/// Tells where everything is, then waits until it is told to end.
const COMMAND: &str = "env >env.half; mv env.half env.txt; while [ ! -e end ]; do sleep 0.05; done; exit 7";

/// The script with a command in a directory of its own.
struct Script {
    directory: TempDir,
    base: u16,
}

impl Script {
    /// `None`, said loudly, where Redis is not installed.
    fn new() -> Option<Self> {
        drop(RedisServer::start()?);
        Some(Self { directory: tempfile::tempdir().unwrap(), base: free_block() })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/cluster"));
        command
            .args(["sh", "-c", COMMAND])
            .env("BILLFISH", env!("CARGO_BIN_EXE_billfish"))
            .env("BASE_PORT", self.base.to_string())
            .env("CLUSTER_DATA", self.data())
            .env("GATEWAYS", "2")
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    fn data(&self) -> PathBuf {
        // It must not matter what the path looks like.
        self.directory.path().join("its data")
    }

    /// Waits until everything is up; gives what the command is told by its environment.
    fn up(&mut self) -> (Running, Value) {
        for _ in 0..TRIES_MAX {
            let log = fs::File::create(self.directory.path().join("log")).unwrap();
            let mut command = self.command();
            command.stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
            let mut running = Running(Some(command.spawn().unwrap()));
            let deadline = Instant::now() + 2 * PATIENCE;
            loop {
                if let Ok(told) = fs::read_to_string(self.directory.path().join("env.txt")) {
                    let told = told.lines().filter_map(|line| line.split_once('=')).filter(|(name, _)| name.starts_with("CLUSTER_"));
                    return (running, told.map(|(name, value)| (name.to_owned(), json!(value))).collect());
                }
                if running.0.as_mut().unwrap().try_wait().unwrap().is_some() {
                    break;
                }
                assert!(Instant::now() < deadline, "not up: {}", self.log());
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            assert!(self.log().contains("taken") || self.log().contains("in use"), "{}", self.log());
            self.base = free_block();
        }
        panic!("no free ports: {}", self.log());
    }

    fn end(&self) {
        fs::write(self.directory.path().join("end"), "").unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The process that was started last under a name.
    fn pid(&self, name: &str) -> Option<i32> {
        fs::read_to_string(self.data().join(format!("{}.pid", name.replace('_', "-")))).ok()?.trim().parse().ok()
    }

    /// What its nodes and its Redis have said last.
    fn logs(&self) -> String {
        let logs = fs::read_dir(self.data()).unwrap().filter_map(|entry| Some(entry.ok()?.path()));
        let mut logs: Vec<PathBuf> = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
        logs.sort();
        let last = |path: &PathBuf| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("{}:\n{}\n", path.display(), lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"))
        };
        logs.iter().map(last).collect()
    }

    /// Nodes that it, or one of its NODE.command, has started. Not Redis, which writes over its environment.
    fn left(&self) -> Vec<String> {
        let mark = format!("CLUSTER_NODE={}", self.data().display());
        let is_ours = |environment: &[u8]| environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(mark.as_bytes()));
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|process| fs::read(process.join("environ")).is_ok_and(|environment| is_ours(&environment)))
            .map(|process| process.display().to_string())
            .collect()
    }
}

/// The script and all it has started; a test that fails leaves nothing.
struct Running(Option<Child>);

impl Running {
    fn wait(mut self) -> Option<i32> {
        let mut child = self.0.take().unwrap();
        let mut status = None;
        eventually("the script ends", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        // Its command ends with it, and it stops what it has started.
        let group = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process_group(group, rustix::process::Signal::TERM).ok();
        child.wait().ok();
    }
}

fn free_block() -> u16 {
    // Below the ephemeral range, where no outgoing connection takes one meanwhile.
    let seed = std::process::id() as u16;
    (0..200u16)
        .map(|turn| 22_500 + (seed.wrapping_mul(31).wrapping_add(turn * 7) % 280) * PORTS)
        .find(|base| (*base..base + PORTS).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()))
        .expect("35 free ports in a row")
}

/// A process that has ended and was not waited for yet runs no more.
fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn addresses(told: &Value, name: &str) -> Vec<SocketAddr> {
    told[name].as_str().unwrap_or_else(|| panic!("no {name} in {told}")).split(' ').map(|address| address.parse().unwrap()).collect()
}

/// What a node says of itself.
fn readiness(admin: SocketAddr) -> Result<(), String> {
    let asked =
        ureq::get(format!("http://{admin}/readyz")).config().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().call();
    let mut answer = asked.map_err(|error| format!("{admin}: {error}"))?;
    let why = answer.body_mut().read_to_string().unwrap_or_default();
    if answer.status() == 200 { Ok(()) } else { Err(format!("{admin}: {}: {why}", answer.status())) }
}

fn login(api: &Api, gateway: SocketAddr, user: i64, room: i64) -> Peer {
    let mut peer = Peer::connect(gateway);
    peer.send(Code::Login, &login_body(user, api.token(user)));
    peer.expect(Code::Login);
    peer.join(room);
    peer
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_cluster_of_one_machine_chats_takes_back_what_was_killed_and_leaves_nothing_behind() {
    let Some(mut script) = Script::new() else { return };
    let (running, told) = script.up();
    let (http, clients) = (addresses(&told, "CLUSTER_HTTP"), addresses(&told, "CLUSTER_CLIENTS"));
    assert_eq!((http.len(), clients.len(), addresses(&told, "CLUSTER_ADMIN").len()), (2, 2, 4));
    let api = Api::new(http[1], told["CLUSTER_API_KEY"].as_str().unwrap());
    let room = api.open_room(30_001);
    let (mut speaker, mut listener) = (login(&api, clients[0], 20_001, room), login(&api, clients[1], 20_002, room));
    speaker.chat(room, "hello", "m1");
    assert_eq!(speaker.expect(Code::Ack).msg_id.as_deref(), Some("m1"));
    let heard = loop {
        let push = listener.expect(Code::Biz);
        if push.biz_code == Some(5555) {
            break push.data.unwrap();
        }
    };
    assert!(heard.contains("hello"), "{heard}");

    // Again in the same place: refused while this one runs.
    let again = script.command().output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again).contains("runs already"), "{}", text(&again));
    let elsewhere = script.command().env("CLUSTER_DATA", script.directory.path().join("elsewhere")).output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(1));
    assert!(text(&elsewhere).contains(&format!("port {} is taken", script.base)), "{}", text(&elsewhere));

    // Killed, and started again by hand from anywhere.
    for name in ["router_1", "gateway_2", "redis"] {
        let started = script.data().join(format!("{}.command", name.replace('_', "-")));
        let twice = Command::new(&started).current_dir("/").output().unwrap();
        assert!(!twice.status.success() && text(&twice).contains("runs already"), "{}", text(&twice));
        let pid = told[format!("CLUSTER_PID_{name}")].as_str().unwrap().parse().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
        eventually("it is gone", || !runs(pid));
        // The shell forgets it, and the script must find it all the same.
        let status = Command::new("sh").args(["-c", "\"$0\" &"]).arg(&started).current_dir("/").status().unwrap();
        assert!(status.success());
    }
    // Nodes that were not killed are ready until they miss it.
    eventually("Redis is started again", || script.pid("redis").is_some_and(runs));
    let readiness = || addresses(&told, "CLUSTER_ADMIN").into_iter().map(readiness).collect::<Vec<_>>();
    let are_ready = eventually_within(PATIENCE, || readiness().iter().all(Result::is_ok));
    assert!(are_ready, "never ready again: {:#?}\n{}", readiness(), script.logs());
    assert_eq!(script.left().len(), 4, "{:?}", script.left());
    let redis = script.pid("redis").unwrap();
    assert!(runs(redis));

    script.end();
    assert_eq!(running.wait(), Some(7), "the command's own code: {}", script.log());
    assert_eq!(script.left(), Vec::<String>::new(), "{}", script.log());
    assert!(!runs(redis), "{}", script.log());
}

#[test]
fn a_taken_port_is_named_and_nothing_is_started() {
    let Some(script) = Script::new() else { return };
    // One of the last that it would bind.
    let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, script.base + 12)).unwrap();
    let output = script.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains(&format!("port {} is taken", script.base + 12)) && said.contains("BASE_PORT"), "{said}");
    assert!(!script.data().join("redis.log").exists() && script.left().is_empty(), "{:?}", script.left());
    drop(stranger);
}

#[test]
fn a_number_of_nodes_that_it_has_no_ports_for_is_refused() {
    let Some(script) = Script::new() else { return };
    for (name, number) in [("GATEWAYS", "11"), ("GATEWAYS", "0"), ("ROUTERS", "3"), ("ROUTERS", "0")] {
        let output = script.command().env(name, number).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}={number}");
        assert!(text(&output).contains(name), "{}", text(&output));
    }
    assert!(!script.data().exists() && script.left().is_empty(), "{:?}", script.left());
}
