//! The live view on a real terminal: what it shows, and that it leaves the terminal as it was, however the run ends.
#![forbid(unsafe_code)]

use billfish_testing::{PATIENCE, Standalone, eventually, eventually_within};
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    num::NonZero,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

const ROWS: NonZero<u16> = NonZero::new(24).expect("not zero");
const COLUMNS: NonZero<u16> = NonZero::new(90).expect("not zero");

#[test]
fn rates_latencies_and_costs_are_shown_and_gone_at_the_end() {
    let server = server();
    let mut run = Run::start(&server, &["room-burst", "--connections", "20", "--rate", "10", "--seconds", "4"]);
    run.shows(&["load ", "20/20 connected", "/s", "in all", "sent ", "p50 ", "p99 ", " cores", "MB", "dropped    0"]);
    let status = run.child.wait().expect("it ends");
    assert!(status.success());
    assert_eq!(run.rest().contents().trim(), "", "not a line is left");
}

#[test]
fn an_interrupt_leaves_a_clean_terminal_and_no_room_behind() {
    let server = server();
    let mut run = Run::start(&server, &["room-burst", "--connections", "20", "--rate", "10", "--seconds", "60", "--processes", "2"]);
    run.shows(&["load         █", "p99 "]);
    // What a terminal echoes of Ctrl-C.
    run.types("^C");
    eventually("it has a room", || rooms(&server) == 1);
    let pid = i32::try_from(run.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, Signal::INT).expect("it runs");
    let status = run.child.wait().expect("it ends");
    assert_eq!(status.code(), Some(1));
    let screen = run.rest();
    assert_eq!(screen.contents().trim(), "loadgen: interrupted: these are the figures until then");
    assert!(!screen.hide_cursor(), "the cursor is back");
    assert_eq!(screen.cursor_position().1, 0, "what comes next begins a line");
    eventually("the room is closed again", || rooms(&server) == 0);
}

#[test]
fn where_nobody_looks_nothing_is_drawn() {
    let server = server();
    let output = command(&server, &["storm", "--connections", "5"]).output().expect("it runs");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let mut run = Run::start(&server, &["storm", "--connections", "5", "--json"]);
    assert!(run.child.wait().expect("it ends").success());
    assert_eq!(run.rest().contents(), "", "--json is for programs, on a terminal as well");
}

fn server() -> Standalone {
    Standalone::beside(Path::new(env!("CARGO_BIN_EXE_loadgen")), Path::new(env!("CARGO")))
}

fn rooms(server: &Standalone) -> usize {
    let (status, answer) = server.api().call("GET", "/v1/rooms?type=1&page=1&pageSize=10", &serde_json::Value::Null).expect("an answer");
    assert_eq!(status, 200, "{answer}");
    answer["rooms"].as_array().expect("rooms").len()
}

fn command(server: &Standalone, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command
        .args(arguments)
        .args(["--server-pid", &server.pid().to_string(), "--ports-file"])
        .arg(server.ports_file())
        .arg("--data-dir")
        .arg(server.data_dir())
        .env("TERM", "xterm")
        .stdin(Stdio::null());
    command
}

/// A run whose standard error is a terminal.
struct Run {
    child: Child,
    terminal: Arc<Mutex<vt100::Parser>>,
    reader: Option<JoinHandle<()>>,
    keyboard: File,
    /// A caret came, which the view has none of.
    echoed: Arc<AtomicBool>,
}

impl Run {
    fn start(server: &Standalone, arguments: &[&str]) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&ours).expect("ours");
        unlockpt(&ours).expect("ours");
        let path = ptsname(&ours, Vec::new()).expect("a name").into_string().expect("plain text");
        let theirs = OpenOptions::new().read(true).write(true).open(path).expect("the other end");
        tcsetwinsize(&theirs, Winsize { ws_row: ROWS.get(), ws_col: COLUMNS.get(), ws_xpixel: 0, ws_ypixel: 0 }).expect("a size");
        let child = command(server, arguments).stdout(Stdio::null()).stderr(theirs).spawn().expect("it runs");
        let terminal = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let (screen, mut ours) = (Arc::clone(&terminal), File::from(ours));
        let keyboard = ours.try_clone().expect("a descriptor");
        let (echoed, caret) = (Arc::new(AtomicBool::new(false)), b'^');
        let saw_caret = Arc::clone(&echoed);
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Reading fails when the last process with the other end is gone.
            while let Ok(read @ 1..) = ours.read(&mut bytes) {
                screen.lock().expect("no panic while it is held").process(&bytes[..read]);
                if bytes[..read].contains(&caret) {
                    saw_caret.store(true, Ordering::SeqCst);
                }
            }
        });
        Self { child, terminal, reader: Some(reader), keyboard, echoed }
    }

    /// Keys that no program reads: the terminal echoes them, until the next drawing.
    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("a terminal takes keys");
        eventually("the keys are echoed", || self.echoed.load(Ordering::SeqCst));
    }

    /// Waits until all of these are on the screen at once.
    fn shows(&self, parts: &[&str]) {
        let mut screen = String::new();
        let came = eventually_within(PATIENCE, || {
            screen = self.terminal.lock().expect("no panic while it is held").screen().contents();
            parts.iter().all(|part| screen.contains(part))
        });
        assert!(came, "{parts:?} never came together; last seen:\n{screen}");
    }

    /// The screen when everything that was written is on it.
    fn rest(&mut self) -> vt100::Screen {
        self.reader.take().expect("asked once").join().expect("it only reads");
        self.terminal.lock().expect("no panic while it is held").screen().clone()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
