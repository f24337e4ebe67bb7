//! `docs/protocol.md` against the golden frames: an example on that page is one of them, so it cannot rot.

use billfish_vectors::{Direction, Golden, Hex, frames};
use serde_json::Value;
use std::collections::BTreeSet;

const PAGE: &str = include_str!("../../../docs/protocol.md");

/// Name, hex and body of every block that opens with three backticks, `frame` and a name.
fn examples() -> Vec<(String, String, Value)> {
    let mut out = Vec::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```frame ") else { continue };
        let (mut hex, mut body) = (String::new(), Value::Null);
        for line in lines.by_ref().take_while(|line| *line != "```") {
            if line.starts_with('{') {
                body = serde_json::from_str(line).expect("the last line of an example is its body");
            } else {
                hex.push_str(line);
            }
        }
        out.push((name.to_owned(), hex, body));
    }
    out
}

#[test]
fn every_example_of_the_protocol_page_is_a_golden_frame() {
    let golden = frames();
    for (name, hex, body) in examples() {
        let frame = golden.iter().find(|frame| frame.name == name).unwrap_or_else(|| panic!("no golden frame {name}"));
        assert_eq!(Hex(hex).bytes(), frame.hex.bytes(), "{name}");
        assert_eq!(body, Value::Object(frame.body.clone()), "{name}");
    }
}

#[test]
fn every_code_has_an_example_in_each_direction_it_travels() {
    let shown: BTreeSet<String> = examples().into_iter().map(|(name, _, _)| name).collect();
    let travels = |frame: &Golden| (frame.code, frame.direction == Direction::Up);
    let golden = frames();
    let covered: BTreeSet<(i32, bool)> = golden.iter().filter(|frame| shown.contains(&frame.name)).map(travels).collect();
    let all: BTreeSet<(i32, bool)> = golden.iter().map(travels).collect();
    assert_eq!(covered, all);
    assert!(golden.iter().any(|frame| frame.encoding == "protobuf" && shown.contains(&frame.name)));
}

#[test]
fn the_page_names_every_field_of_a_body() {
    let mut missing = BTreeSet::new();
    for frame in frames() {
        missing.extend(frame.body.keys().filter(|key| !PAGE.contains(&format!("| `{key}` |"))).cloned());
    }
    assert!(missing.is_empty(), "{missing:?}");
}
