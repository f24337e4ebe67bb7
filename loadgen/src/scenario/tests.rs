//! The rules that follow from the options alone.

use super::{Script, SlowScript, WrongUse, plans::plans, server::Server};
use crate::{
    crowd::slow::{Pace, Slow},
    options::{Common, Options, Scenario},
    worker::{Activity, Plan},
};
use billfish_wire::Class;
use clap::Parser;
use std::time::Duration;

#[test]
fn the_crowd_is_split_without_gap_or_overlap_and_neighbours_stay_together() {
    let common = common(&["--connections", "1001", "--processes", "4"]);
    let server = Server::of(&common).expect("a key was given");
    let plans = plans(&common, &server, 3, &[1, 2], &Script::new("unicast", Activity::Chat { per_s: 1_001.0, text_chars: 10 }), None)
        .expect("few files are needed");
    assert_eq!(plans.len(), 4);
    let mut next = 0;
    for plan in &plans {
        assert_eq!(plan.first, next);
        assert_eq!(plan.first % 2, 0, "a pair is not torn");
        next += plan.clients;
        let Activity::Chat { per_s, .. } = plan.activity else { panic!("the activity is the run's") };
        assert!((per_s - plan.clients as f64).abs() < 1e-6, "each has its share of the rate");
    }
    assert_eq!(next, 1_001);
}

#[test]
fn the_same_seed_has_the_same_users_rooms_and_slow_ones_however_it_is_split() {
    let slow = Slow {
        slow_permille: 100,
        bytes_per_s: 100,
        stopped_permille: 20,
        stop: Duration::from_secs(10),
        calm: Duration::from_secs(1),
        receive_buffer_bytes: 4_096,
    };
    let script = Script {
        slow: Some(SlowScript { slow, class: Class::Chat, memory_growth_bytes_max: 0, p99_growth_max: None }),
        ..Script::new("slow-readers", Activity::Listen)
    };
    let crowd = |seed: u64, processes: &str| -> Vec<(i64, usize, Pace)> {
        let common = common(&["--connections", "3000", "--processes", processes]);
        let server = Server::of(&common).expect("a key was given");
        let plans = plans(&common, &server, seed, &[7, 8, 9], &script, None).expect("few files are needed");
        let client = |plan: &Plan, index| (plan.user_id(index), (plan.first + index) % plan.rooms.len(), plan.pace_of(index));
        plans.iter().flat_map(|plan| (0..plan.clients).map(|index| client(plan, index)).collect::<Vec<_>>()).collect()
    };
    assert_eq!(crowd(7, "1"), crowd(7, "4"));
    let paces = |crowd: Vec<(i64, usize, Pace)>| crowd.into_iter().map(|(_, _, pace)| pace).collect::<Vec<_>>();
    assert_ne!(paces(crowd(7, "1")), paces(crowd(8, "1")), "another seed has others");
    for room in 0..3 {
        let slow_here = crowd(7, "1").iter().filter(|(_, own, pace)| *own == room && *pace == Pace::Slow).count();
        assert!((60..140).contains(&slow_here), "{slow_here} of about 100 slow ones are in room {room}");
    }
}

#[test]
fn more_connections_than_the_processes_may_open_files_is_wrong_use() {
    let common = common(&["--connections", "1000000", "--processes", "1"]);
    let server = Server::of(&common).expect("a key was given");
    let error = plans(&common, &server, 3, &[], &Script::new("hold", Activity::Listen), None).expect_err("one process cannot");
    assert!(error.is::<WrongUse>(), "{error}");
    assert!(error.to_string().contains("processes"), "{error}");
}

#[test]
fn a_ports_file_gives_the_addresses_and_options_win_over_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("ports.json");
    std::fs::write(&path, r#"{"tcp":"127.0.0.1:1111","http":"0.0.0.0:2222","admin":"127.0.0.1:3333","ws":null}"#).expect("written");
    let path = path.to_str().expect("a plain path");
    let server = Server::of(&common(&["--ports-file", path])).expect("all is there");
    assert_eq!((server.http.as_str(), server.admin.as_slice()), ("http://127.0.0.1:2222", ["http://127.0.0.1:3333".to_owned()].as_slice()));
    let server = Server::of(&common(&["--ports-file", path, "--gateway", "127.0.0.1:4444"])).expect("all is there");
    assert_eq!(server.gateways, ["127.0.0.1:4444".parse().expect("an address")]);
}

#[test]
fn a_missing_key_says_where_it_was_looked_for_and_what_to_do() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut common = common(&["--data-dir", directory.path().to_str().expect("a plain path")]);
    common.api_key = None;
    let text = Server::of(&common).expect_err("there is no key").to_string();
    assert!(text.contains("api-key") && text.contains("cargo run --release"), "{text}");
}

fn common(options: &[&str]) -> Common {
    let line = ["loadgen", "hold", "--api-key", "key"].iter().chain(options);
    let Scenario::Hold(hold) = Options::parse_from(line).scenario else { panic!("hold was asked for") };
    hold.common
}
