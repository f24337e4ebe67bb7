//! The newcomer's way: the clients that the documents show are run as they stand there.

use crate::house::{House, PATIENCE};
use billfish_wire::Code;
use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::mpsc,
};

#[test]
fn the_raw_client_of_the_readme_works_as_printed() {
    let house = House::start();
    let _room = house.open_room(30_001);
    crate::house::eventually("the room is listed", || {
        house.api("GET", "/v1/rooms?type=1&page=1&pageSize=1", serde_json::json!(null)).1["rooms"][0]["roomId"].is_i64()
    });
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let program = readme.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the README has a Python program");
    // Only the addresses differ from what is printed there.
    let (tcp, http) = (house.ports.tcp, house.ports.http);
    let program = program
        .replace("http://127.0.0.1:8080", &format!("http://{http}"))
        .replace("(\"127.0.0.1\", 8085)", &format!("(\"127.0.0.1\", {})", tcp.port()));
    let output = Command::new("python3").args(["-c", &program]).current_dir(house.data_dir().parent().unwrap()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    for code in ["1001 ", "1007 ", "1005 "] {
        assert!(said.lines().any(|line| line.starts_with(code)), "no {code} in {said}");
    }
}

#[test]
fn a_client_written_from_the_protocol_page_alone_logs_in_and_chats() {
    let house = House::start();
    let room = house.open_room(30_001);
    for options in [&[][..], &["--protobuf"]] {
        let token = house.token(20_001);
        let output = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/raw_client.py"))
            .args(["127.0.0.1", &house.ports.tcp.port().to_string(), "10001", "20001", &token, &room.to_string()])
            .args(options)
            .output()
            .unwrap();
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{options:?}: {said}\n{complained}");
    }
}

#[test]
fn the_twenty_lines_of_the_protocol_page_chat_as_printed() {
    let house = House::start();
    let room = house.open_room(30_001);
    let mut listener = house.login(20_002);
    listener.join(room);
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol.md")).unwrap();
    let chapter = page.split("## 10. A whole client").nth(1).expect("the page has its chapter 10");
    let program = chapter.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a Python program");
    let (tcp, token) = (house.ports.tcp, house.token(20_001));
    let child = Command::new("python3")
        .args(["-u", "-c", program, &tcp.ip().to_string(), &tcp.port().to_string(), "20001", &token, &room.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut client = Running(child);
    let lines = BufReader::new(client.0.stdout.take().unwrap()).lines();
    let (tell, told) = mpsc::channel();
    let reading = std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
    let until = |code: &str| {
        let mut heard = Vec::new();
        loop {
            let line = told.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("no {code}: {error}; heard {heard:?}"));
            if line.starts_with(code) {
                return line;
            }
            heard.push(line);
        }
    };
    until("1001 ");
    until("1007 ");
    client.0.stdin.as_mut().unwrap().write_all(b"hello from twenty lines\n").unwrap();
    assert!(until("1005 ").contains("'m0'"));
    loop {
        let push = listener.expect(Code::Biz);
        if push.biz_code == Some(5555) {
            assert!(push.data.unwrap().contains("hello from twenty lines"));
            break;
        }
    }
    // It would go on with its heartbeats for ever.
    drop(client);
    drop(told);
    drop(reading.join().unwrap());
}

/// A program that ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
