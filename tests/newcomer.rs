//! The newcomer's way: the clients that the documents show are run as they stand there.

use crate::house::House;
use std::process::Command;

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
    let token = house.token(20_001);
    let output = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/raw_client.py"))
        .args(["127.0.0.1", &house.ports.tcp.port().to_string(), "10001", "20001", &token, &room.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}
