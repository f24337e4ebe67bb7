//! The main job: two terminals chat. The example is driven through pipes, as a script would drive it.

use crate::house::{House, PATIENCE, eventually, program};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    time::Instant,
};

struct Terminal {
    child: Child,
    input: Option<ChildStdin>,
    screen: Arc<Mutex<Vec<String>>>,
}

impl Terminal {
    fn open(house: &House, name: &str, more: &[&str]) -> Self {
        let mut child = Command::new(program("billfish-client", "example", "chat"))
            .args(["--name", name, "--server", &format!("http://{}", house.ports.http)])
            .args(more)
            .env("BILLFISH_API_KEY", &house.api_key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let screen = Arc::new(Mutex::new(Vec::new()));
        let output = BufReader::new(child.stdout.take().unwrap());
        let lines = Arc::clone(&screen);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let input = child.stdin.take();
        Self { child, input, screen }
    }

    fn type_line(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    fn shows(&self, text: &str) -> bool {
        self.screen.lock().unwrap().iter().any(|line| line.contains(text))
    }

    fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.shows(text) {
            assert!(Instant::now() < deadline, "{text:?} never shown; the screen: {:#?}", self.screen.lock().unwrap());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn two_terminals_chat_and_a_pipe_ends_when_all_is_said() {
    let house = House::start();
    let mut alice = Terminal::open(&house, "alice", &[]);
    eventually("alice opened a room", || {
        house.api("GET", "/v1/rooms?type=1&page=1&pageSize=10", serde_json::json!(null)).1["rooms"][0]["roomId"].is_i64()
    });
    eventually("alice is in it", || house.metric("gateway_connections", &[]) >= 1.0);
    let mut bob = Terminal::open(&house, "bob", &[]);
    eventually("both are in", || house.metric("gateway_connections", &[]) >= 2.0);
    bob.type_line("hello from bob");
    alice.wait_for("hello from bob");
    alice.wait_for("bob");
    alice.type_line("and hello back");
    bob.wait_for("and hello back");
    // End of input: what was typed is acknowledged, then the program ends well.
    alice.type_line("last words");
    drop(alice.input.take());
    bob.wait_for("last words");
    let status = alice.child.wait().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_terminal_survives_the_death_of_the_server() {
    let mut house = House::start();
    let mut alice = Terminal::open(&house, "alice", &[]);
    let mut bob = Terminal::open(&house, "bob", &[]);
    eventually("both are in", || house.metric("gateway_logins_total", &["result=\"accepted\""]) >= 2.0);
    bob.type_line("before");
    alice.wait_for("before");
    house.kill();
    house.start_again();
    eventually("both came back", || house.metric("gateway_logins_total", &["result=\"accepted\""]) >= 2.0);
    bob.type_line("after the crash");
    alice.wait_for("after the crash");
    alice.type_line("still here");
    bob.wait_for("still here");
}

#[test]
fn terminals_of_every_transport_are_in_one_room() {
    let house = House::start();
    let certificate = house.data_dir().join("development-cert.pem");
    let ca = certificate.to_str().unwrap();
    let mut alice = Terminal::open(&house, "alice", &["--transport", "tls", "--ca", ca]);
    let accepted = || house.metric("gateway_logins_total", &["result=\"accepted\""]);
    eventually("alice is in", || accepted() >= 1.0);
    let others = [("bob", "wss"), ("carol", "ws"), ("dave", "tcp")];
    let mut others = others.map(|(name, kind)| Terminal::open(&house, name, &["--transport", kind, "--ca", ca]));
    eventually("all are in", || accepted() >= 4.0);
    for (nth, other) in others.iter_mut().enumerate() {
        other.type_line(&format!("hello number {nth}"));
        alice.wait_for(&format!("hello number {nth}"));
    }
    alice.type_line("hello all");
    others.iter().for_each(|other| other.wait_for("hello all"));
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = Command::new(program("billfish-client", "example", "chat"))
        .args(["--name", "alice", "--server", &format!("http://{nobody}"), "--api-key", "x"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&nobody.to_string()) && said.contains("cargo run"), "{said}");
}
