//! The whole program against a small house in this process: what it reports, and with which exit code.
//!
//! The house speaks HTTP and frames just well enough for a crowd. It loses, doubles and counts copies on demand, so that the verdict is
//! proved able to fail.
#![forbid(unsafe_code)]

use billfish_testing::eventually;
use billfish_wire::{Body, Code, Encoding, Reason, Reassembler, frame, limits::BODY_BYTES_MAX};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

#[test]
fn a_clean_burst_over_two_processes_adds_up() {
    let house = House::open(Fault::None);
    let output = house.run(&["room-burst", "--connections", "41", "--rooms", "3", "--rate", "20", "--seconds", "1", "--processes", "2"]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    // 20 messages to each room, and every client is in one.
    assert_eq!((&report["sent"], &report["expected"], &report["received"]), (&json!(60), &json!(820), &json!(820)));
    assert_eq!((&report["connections"], &report["missing"], &report["logins_failed"]), (&json!(41), &json!(0), &json!(0)));
    assert!(report["latency_ms"]["p99"].is_number() && report["last_member_ms"]["max"].is_number(), "{report:#}");
    assert_eq!(report["server_cpu_s"], Value::Null, "not measured is null");
}

#[test]
fn a_closed_loop_keeps_going_and_acknowledges_every_copy() {
    let house = House::open(Fault::None);
    let output = house.run(&["room-burst", "--connections", "10", "--outstanding", "4", "--seconds", "1", "--qos", "1"]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let sent = report["sent"].as_u64().unwrap_or(0);
    assert!(sent > 4, "messages follow those that arrived: {report:#}");
    assert_eq!(report["received"], json!(sent * 10));
    assert_eq!(house.acks.load(Ordering::SeqCst), sent * 10);
}

#[test]
fn a_lost_copy_fails_the_run() {
    let output = House::open(Fault::LoseOne).run(&["room-burst", "--connections", "5", "--rate", "10", "--seconds", "1"]);
    let report = report(&output);
    assert_eq!((output.status.code(), &report["missing"]), (Some(1), &json!(1)), "{report:#}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("missing"), "people are told as well");
}

#[test]
fn a_lost_copy_that_the_gateway_counted_does_not() {
    let house = House::open(Fault::DropOne);
    let admin = format!("http://{}", house.http);
    let output = house.run(&["room-burst", "--connections", "5", "--rate", "10", "--seconds", "1", "--admin", &admin]);
    let report = report(&output);
    assert_eq!((output.status.code(), &report["missing"], &report["dropped"]), (Some(0), &json!(0), &json!({"chat": 1})), "{report:#}");
}

#[test]
fn a_journal_does_the_sums_again_and_a_lost_copy_that_was_put_back_is_found() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let burst = ["room-burst", "--connections", "5", "--rate", "10", "--seconds", "1", "--report", path(&directory)];
    assert_eq!(House::open(Fault::None).run(&burst).status.code(), Some(0));
    let journal = directory.path().join("journal.jsonl");
    let (code, clean) = check(&journal);
    assert_eq!((code, &clean["disagreements"], &clean["losses"]), (Some(0), &json!([]), &json!([])), "{clean}");
    assert_eq!((&clean["sums"]["received"], &clean["compared_with_report"]), (&json!(50), &json!(true)), "{clean}");

    // The run lost a copy: the journal agrees with the report that it did.
    assert_eq!(House::open(Fault::LoseOne).run(&burst).status.code(), Some(1));
    let (code, lossy) = check(&journal);
    assert_eq!((code, &lossy["disagreements"], &lossy["sums"]["missing"]), (Some(1), &json!([]), &json!(1)), "{lossy}");

    // Put back by hand it is found.
    let text = fs::read_to_string(&journal).expect("it was written");
    fs::write(&journal, text.replace(r#""expected":5,"received":4"#, r#""expected":5,"received":5"#)).expect("it can be written");
    let (code, tampered) = check(&journal);
    let said = tampered["disagreements"].to_string();
    assert_eq!(code, Some(1), "{tampered}");
    assert!(said.contains("received: the lines come to 50, the report says 49") && said.contains("digest"), "{said}");

    // And what is no journal is named by its line.
    let corrupt: String = text.lines().enumerate().map(|(at, line)| format!("{}\n", &line[..line.len() - usize::from(at == 3)])).collect();
    fs::write(&journal, corrupt).expect("it can be written");
    let output = program().arg("check").arg(&journal).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("journal.jsonl: line 4: no line of a journal"), "{said}");
    assert_eq!(program().args(["check", "/nonexistent/journal.jsonl"]).output().expect("it runs").status.code(), Some(2));
}

#[test]
fn journals_of_talks_heartbeats_and_failed_logins_agree_too() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = directory.path().join("journal.jsonl");
    let house = House::open(Fault::None);
    for scenario in [
        &["unicast", "--connections", "11", "--rate", "200", "--seconds", "1", "--processes", "2"][..],
        &["hold", "--connections", "5", "--seconds", "2"],
        &["echo", "--connections", "5", "--rate", "100", "--seconds", "1"],
        &["storm", "--connections", "5"],
    ] {
        let output = house.run(&[scenario, &["--report", path(&directory)]].concat());
        let report = report(&output);
        let (code, finding) = check(&journal);
        assert_eq!((output.status.code(), code, &finding["disagreements"]), (Some(0), Some(0), &json!([])), "{scenario:?}: {finding}");
        assert_eq!(finding["sums"]["received"], report["received"], "{scenario:?}");
    }
    let house = House::open(Fault::RefuseOne);
    let output = house.run(&["storm", "--connections", "5", "--report", path(&directory)]);
    assert_eq!(output.status.code(), Some(1));
    let text = fs::read_to_string(&journal).expect("it was written");
    assert_eq!(text.lines().filter(|line| line.contains(r#""t":"login_failed""#) && line.contains("bad_token")).count(), 1, "{text}");
    let (code, finding) = check(&journal);
    assert_eq!((code, &finding["disagreements"]), (Some(1), &json!([])), "it lost no copy and failed: {finding}");
    assert_eq!(finding["losses"], json!(["1 logins failed"]));
}

#[test]
fn a_report_states_its_own_ceiling_and_the_share_of_it_that_was_reached() {
    let house = House::open(Fault::None);
    let (admin, own) = (format!("http://{}", house.http), std::process::id().to_string());
    let burst = ["room-burst", "--connections", "20", "--outstanding", "8", "--seconds", "1"];
    let report = report(
        &house.run(&[&burst[..], &["--admin", &admin, "--server-pid", &own, "--limit", "--beside", &format!("house={own}")]].concat()),
    );
    let detail = &report["detail"];
    let joined: Vec<_> = detail["limit"]["rows"].as_array().expect("rows").iter().map(|row| row["joined"].as_u64()).collect();
    assert_eq!(joined, [Some(1), Some(4), Some(16), Some(64)], "{report:#}");
    assert_eq!(detail["joining"], json!(1.0), "the house writes each copy by itself: {report:#}");
    // Told by name, it is the CPU of the same process in the same time.
    let beside = detail["beside"]["house"]["load_cpu_s"].as_f64().expect("it was measured");
    let server = report["server_cpu_s"].as_f64().expect("it was measured");
    assert!(beside > 0.0 && (beside - server).abs() < 0.1 * server, "{report:#}");
    // With single frames the limit needs no line between two rows.
    assert_eq!(detail["limit_deliveries_per_cpu_s"], detail["limit"]["rows"][0]["sends_per_cpu_s"], "{report:#}");
    let number = |value: &Value| value.as_f64().expect("it was measured");
    let ratio = number(&report["deliveries_per_server_cpu_s"]) / number(&detail["limit_deliveries_per_cpu_s"]);
    assert!((number(&detail["ratio_to_limit"]) - ratio).abs() < 0.001, "{report:#}");
    assert!(number(&detail["generator"]["rss_bytes"]) > 0.0 && detail["generator"]["processes"] == json!(1), "{report:#}");
}

#[test]
fn when_the_limit_cannot_be_measured_the_report_of_the_run_stands() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // The probe starts this program again, by its path, and that is gone by then. Beside the program, for links stay on their file system.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
    let program = place.path().join("loadgen");
    fs::hard_link(env!("CARGO_BIN_EXE_loadgen"), &program).expect("it has another name");
    let burst = ["room-burst", "--connections", "5", "--rate", "10", "--seconds", "1", "--report", path(&directory)];
    let run = House::open(Fault::None).command(&program, &burst).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    fs::remove_file(&program).expect("it was there");
    let output = run.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    let report = report(&output);
    assert_eq!((output.status.code(), &report["received"]), (Some(0), &json!(50)), "{said} {report:#}");
    assert!(said.contains("the limit was not measured: the receivers' process could not be started"), "{said}");
    assert_eq!((&report["detail"]["limit"], &report["detail"]["ratio_to_limit"]), (&Value::Null, &Value::Null), "not measured is null");
    let kept = fs::read_to_string(directory.path().join("report.json")).expect("it was written");
    assert_eq!(serde_json::from_str::<Value>(&kept).expect("JSON"), report);
}

#[test]
fn copies_of_a_push_that_was_answered_with_an_error_hide_no_loss() {
    let output = House::open(Fault::LieOnce).run(&["room-burst", "--connections", "5", "--rate", "10", "--seconds", "1"]);
    let report = report(&output);
    // One message of ten was delivered and its sender told that it was not.
    assert_eq!((&report["sent"], &report["expected"], &report["received"]), (&json!(9), &json!(45), &json!(45)), "{report:#}");
    assert_eq!((&report["detail"]["unasked"], &report["detail"]["unsent"], output.status.code()), (&json!(5), &json!(1), Some(1)));
}

#[test]
fn slow_readers_cannot_be_accounted_for_without_the_gateways_counters() {
    let house = House::open(Fault::None);
    let output = house.run(&["slow-readers", "--connections", "5"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--admin"), "{}", String::from_utf8_lossy(&output.stderr));
    let admin = format!("http://{}", house.http);
    let output = house.run(&["slow-readers", "--admin", &admin, "--slow-permille", "900", "--stopped-permille", "101"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn copies_that_the_gateway_counts_late_are_waited_for_and_not_missing() {
    let house = House::open(Fault::CountLate);
    let admin = format!("http://{}", house.http);
    let nobody_is_slow = ["--slow-permille", "0", "--stopped-permille", "0", "--calm-seconds", "1", "--seconds", "1"];
    let burst = ["slow-readers", "--connections", "5", "--rate", "10", "--admin", &admin];
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = house.run(&[&burst[..], &nobody_is_slow, &["--report", path(&directory)]].concat());
    let report = report(&output);
    let figures = (&report["expected"], &report["received"], &report["missing"]);
    assert_eq!((output.status.code(), figures), (Some(0), (&json!(100), &json!(100), &json!(0))), "{report:#}");
    let journal = fs::read_to_string(directory.path().join("journal.jsonl")).expect("it was written");
    assert!(journal.contains(r#""delivered":{"chat":100}"#), "the counters are read again until they have it all: {journal}");
}

#[test]
fn what_a_server_that_died_can_no_longer_tell_is_named_and_the_rest_is_told() {
    let house = House::open(Fault::None);
    let mut server = Command::new("sleep").arg("600").spawn().expect("every system can sleep");
    let pid = server.id().to_string();
    let run = house.start(&["room-burst", "--connections", "5", "--rate", "10", "--seconds", "1", "--server-pid", &pid]);
    eventually("the load runs", || house.pushes() > 2);
    server.kill().expect("it runs");
    server.wait().expect("it was killed");
    let output = run.wait_with_output().expect("it ends");
    let (report, said) = (report(&output), String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!((output.status.code(), &report["received"], &report["missing"]), (Some(1), &json!(50), &json!(0)), "{said}{report:#}");
    assert_eq!((&report["server_cpu_s"], &report["server_rss_bytes"]), (&Value::Null, &Value::Null), "not measured is null");
    assert!(report["detail"]["unmeasured"].to_string().contains(&format!("no process {pid}")), "{report:#}");
    assert!(said.contains("not measured: CPU time and memory of the server"), "{said}");
    // One that was never there is found out before anybody connects.
    let output = house.run(&["hold", "--server-pid", &pid]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains(&format!("--server-pid: no process {pid}")), "{said}");
}

#[test]
fn counters_that_cannot_be_read_after_the_run_do_not_take_its_figures_along() {
    let house = House::open(Fault::LoseCounters);
    let admin = format!("http://{}", house.http);
    let output = house.run(&["room-burst", "--connections", "5", "--rate", "10", "--seconds", "1", "--admin", &admin]);
    let report = report(&output);
    assert_eq!((output.status.code(), &report["received"], &report["dropped"]), (Some(1), &json!(50), &json!({})), "{report:#}");
    assert!(report["detail"]["unmeasured"]["the gateway's counters"].as_str().is_some_and(|why| why.contains(&admin)), "{report:#}");
}

#[test]
fn a_report_that_cannot_be_written_is_found_out_before_anybody_connects() {
    let house = House::open(Fault::None);
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    for place in ["/proc/loadgen", file.path().to_str().expect("a plain path")] {
        let output = house.run(&["room-burst", "--connections", "5", "--report", place]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("--report"), "{said}");
    }
    assert_eq!(house.tokens.load(Ordering::SeqCst), 0);
}

#[test]
fn a_report_that_can_no_longer_be_written_was_printed() {
    let house = House::open(Fault::None);
    let place = tempfile::tempdir().expect("a temporary directory");
    let directory = place.path().join("report");
    let report_to = directory.to_str().expect("a plain path");
    let run = house.start(&["room-burst", "--connections", "5", "--rate", "10", "--seconds", "1", "--report", report_to]);
    eventually("the load runs", || house.pushes() > 2);
    fs::remove_dir(&directory).expect("it is empty");
    fs::write(&directory, "in the way").expect("it can be written");
    let output = run.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("--report"), "{said}");
    assert_eq!(report(&output)["received"], json!(50));
}

#[test]
fn an_interrupted_load_is_told_of_and_kept() {
    let house = House::open(Fault::None);
    let directory = tempfile::tempdir().expect("a temporary directory");
    for burst in [&["--rate", "20"][..], &["--outstanding", "2"]] {
        let before = house.pushes();
        let more = ["--connections", "6", "--seconds", "600", "--processes", "2", "--report", path(&directory)];
        let run = house.start(&[&["room-burst"], burst, &more].concat());
        eventually("the load runs", || house.pushes() > before + 5);
        signal_all(&run, Signal::INT);
        let output = run.wait_with_output().expect("it ends");
        let (report, said) = (report(&output), String::from_utf8_lossy(&output.stderr).into_owned());
        assert_eq!((output.status.code(), &report["detail"]["interrupted"]), (Some(1), &json!(true)), "{said}{report:#}");
        assert!(report["received"].as_u64() >= Some(30) && report["received"] == report["expected"], "{report:#}");
        assert!(said.contains("interrupted: these are the figures until then"), "{said}");
        assert!(report["detail"]["unsent"] == json!(0), "what was due later was not due: {report:#}");
        for file in ["report.html", "report.json", "series.json"] {
            assert!(directory.path().join(file).exists(), "{file}");
        }
        let (code, finding) = check(&directory.path().join("journal.jsonl"));
        assert_eq!((code, &finding["disagreements"]), (Some(1), &json!([])), "{finding}");
        assert!(finding["losses"].to_string().contains("interrupted"), "{finding}");
        assert_eq!(house.open_rooms(), 0);
    }
}

#[test]
fn a_second_interrupt_ends_at_once() {
    let house = House::open(Fault::LoseOne);
    // A copy is lost, so the drain waits for seconds.
    let mut run = house.start(&["room-burst", "--connections", "5", "--rate", "20", "--seconds", "600"]);
    eventually("the load runs", || house.pushes() > 5);
    let mut status = None;
    eventually("it has ended", || {
        signal_all(&run, Signal::INT);
        status = run.try_wait().expect("it can be asked");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.signal()), Some(Signal::INT.as_raw()));
}

#[test]
fn an_interrupted_limit_leaves_the_run_its_figures() {
    let house = House::open(Fault::None);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let run = house.start(&["room-burst", "--connections", "5", "--rate", "10", "--seconds", "1", "--limit", "--report", path(&directory)]);
    eventually("its rooms are closed, and the limit begins", || house.closed_rooms() == 1);
    signal_all(&run, Signal::INT);
    let output = run.wait_with_output().expect("it ends");
    let (report, said) = (report(&output), String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!((output.status.code(), &report["received"]), (Some(1), &json!(50)), "{said}{report:#}");
    assert!(said.contains("the limit was not measured: interrupted"), "{said}");
    assert!(report["detail"]["limit"].is_null() && directory.path().join("report.html").exists());
}

#[test]
fn rooms_that_were_opened_are_closed_when_the_others_cannot_be() {
    let house = House::open(Fault::RefuseRoom);
    let output = house.run(&["hold", "--connections", "30", "--rooms", "30", "--seconds", "1"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("a room could not be opened"), "{said}");
    assert!(house.closed_rooms() > 0 && house.open_rooms() == 0, "{} are open", house.open_rooms());
}

#[test]
fn rooms_that_were_opened_are_closed_when_the_opening_is_interrupted() {
    let house = House::open(Fault::SlowRooms);
    let run = house.start(&["hold", "--connections", "30", "--rooms", "10000", "--seconds", "1"]);
    eventually("some are open", || house.open_rooms() > 4);
    signal_all(&run, Signal::INT);
    let output = run.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.as_ref()), (Some(1), "loadgen: interrupted\n"));
    assert!(house.closed_rooms() > 0 && house.open_rooms() == 0, "{} are open", house.open_rooms());
}

#[test]
fn workers_whose_parent_is_gone_end_while_they_fetch_tokens() {
    let house = House::open(Fault::SlowTokens);
    let mut run = house.start(&["storm", "--connections", "100000", "--processes", "8"]);
    eventually("tokens are fetched", || house.tokens.load(Ordering::SeqCst) > 8);
    let workers = children(run.id());
    assert_eq!(workers.len(), 8);
    run.kill().expect("it runs");
    run.wait().expect("it was killed");
    eventually("they have ended", || workers.iter().all(|&worker| !is_running(worker)));
}

#[test]
fn a_key_that_is_refused_is_called_that() {
    let house = House::open(Fault::RefuseKey);
    for scenario in [&["hold"][..], &["storm"]] {
        let output = house.run(scenario);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("the API key was refused") && said.contains("--api-key") && !said.contains("is the server running"),
            "{said}"
        );
    }
}

#[test]
fn who_was_in_and_is_lost_is_not_one_who_could_not_log_in() {
    let output = House::open(Fault::HangUp).run(&["storm", "--connections", "5"]);
    let report = report(&output);
    assert_eq!((output.status.code(), &report["connections"], &report["logins_failed"]), (Some(1), &json!(5), &json!(0)), "{report:#}");
    assert_eq!(report["detail"]["lost"], json!({"closed by the peer": 5}));
}

#[test]
fn a_load_that_sent_nothing_has_failed() {
    let output = House::open(Fault::None).run(&["room-burst", "--connections", "5", "--rate", "0.01", "--seconds", "1"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("nothing was sent"), "{said}");
}

#[test]
fn what_no_run_can_do_is_wrong_use_before_anything_is_done() {
    let house = House::open(Fault::None);
    for (line, why) in [
        (&["room-burst", "--rate", "-5"][..], "--rate"),
        (&["hold", "--connections", "4000000000000000000"], "1 to 1000000"),
        (&["hold", "--connections", "1000000", "--rooms", "1"], "users of a seed"),
        (&["unicast", "--connections", "1"], "at least 2"),
        (&["hold", "--resume-tls"], "--transport tls"),
    ] {
        let output = house.run(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(why), "{line:?}: {said}");
    }
    assert_eq!(house.tokens.load(Ordering::SeqCst), 0);
    let output = program().args(["limit", "--connections", "4294967295"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("ulimit"), "{said}");
}

#[test]
fn a_doubled_copy_fails_the_run() {
    let output = House::open(Fault::DoubleOne).run(&["room-burst", "--connections", "5", "--rate", "10", "--seconds", "1"]);
    let report = report(&output);
    assert_eq!((output.status.code(), &report["duplicates"], &report["missing"]), (Some(1), &json!(1), &json!(0)), "{report:#}");
}

#[test]
fn a_crowd_is_held_stormed_and_echoed() {
    let house = House::open(Fault::None);
    let hold = report(&house.run(&["hold", "--connections", "20", "--seconds", "3"]));
    assert_eq!((&hold["connections"], &hold["missing"]), (&json!(20), &json!(0)), "{hold:#}");
    assert!(hold["sent"].as_u64() >= Some(20), "the house asks for a heartbeat every second: {hold:#}");
    let storm = report(&house.run(&["storm", "--connections", "50"]));
    assert_eq!((&storm["connections"], &storm["logins_failed"]), (&json!(50), &json!(0)), "{storm:#}");
    assert!(storm["login_ms"]["p99"].is_number(), "{storm:#}");
    let echo = report(&house.run(&["echo", "--connections", "10", "--rate", "200", "--seconds", "1"]));
    assert_eq!(echo["expected"], echo["received"], "{echo:#}");
    let unicast = report(&house.run(&["unicast", "--connections", "10", "--rate", "100", "--seconds", "1"]));
    assert!(unicast["received"].as_u64() >= Some(90), "{unicast:#}");
    assert_eq!((&unicast["expected"], &unicast["missing"]), (&unicast["received"], &json!(0)), "{unicast:#}");
}

#[test]
fn wrong_use_is_2_and_a_server_that_is_not_there_is_1() {
    let no_key = program().args(["hold", "--data-dir", "/nonexistent"]).env_remove("BILLFISH_API_KEY").output().expect("it runs");
    assert_eq!(no_key.status.code(), Some(2));
    assert_eq!(program().args(["dance"]).output().expect("it runs").status.code(), Some(2));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let http = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let nobody = program().args(["hold", "--api-key", "x", "--http", &http]).output().expect("it runs");
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert_eq!(nobody.status.code(), Some(1), "{said}");
    assert!(said.contains(&http) && said.contains("cargo run"), "{said}");
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
}

fn path(directory: &tempfile::TempDir) -> &str {
    directory.path().to_str().expect("a plain path")
}

/// What `check` says of a journal, and with which exit code.
fn check(journal: &Path) -> (Option<i32>, Value) {
    let output = program().arg("check").arg(journal).arg("--json").output().expect("it runs");
    (output.status.code(), report(&output))
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {} {}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

/// What the house does wrong, once.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    LoseOne,
    /// Lost, and counted.
    DropOne,
    DoubleOne,
    /// A push is delivered, and answered with an error.
    LieOnce,
    /// A login is refused.
    RefuseOne,
    /// After the first push the counters are not told any more.
    LoseCounters,
    /// Every call is answered 401.
    RefuseKey,
    /// One room of many is not opened.
    RefuseRoom,
    /// Opening a room takes its time.
    SlowRooms,
    /// So does a token.
    SlowTokens,
    /// A client that is in is hung up on.
    HangUp,
    /// Copies are counted as written some looks at the counters after they were.
    CountLate,
}

struct House {
    http: SocketAddr,
    tcp: SocketAddr,
    acks: Arc<AtomicU64>,
    /// Tokens asked for.
    tokens: Arc<AtomicU64>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    next_room: i64,
    closed_rooms: usize,
    pushes: usize,
    /// By room: its last sequence number and its members.
    rooms: BTreeMap<i64, (i64, Vec<TcpStream>)>,
    users: BTreeMap<i64, TcpStream>,
    dropped: u64,
    /// Copies asked for, each with a write of its own.
    copies: u64,
    /// Of these, counted as delivered.
    counted: u64,
    copies_looked_at: u64,
    looks_at_new: u32,
    fault_done: bool,
}

impl House {
    fn open(fault: Fault) -> Self {
        let state = Arc::new(Mutex::new(State { next_room: 1, ..State::default() }));
        let acks = Arc::new(AtomicU64::new(0));
        let (http, tcp) = (listen(), listen());
        let addresses = (http.local_addr().expect("bound"), tcp.local_addr().expect("bound"));
        let (shared, tokens) = (Arc::clone(&state), Arc::new(AtomicU64::new(0)));
        let issued = Arc::clone(&tokens);
        thread::spawn(move || {
            for stream in http.incoming().map_while(Result::ok) {
                let (state, tokens) = (Arc::clone(&shared), Arc::clone(&issued));
                thread::spawn(move || serve_http(stream, &state, &tokens, fault));
            }
        });
        let (counter, served) = (Arc::clone(&acks), Arc::clone(&state));
        thread::spawn(move || {
            for stream in tcp.incoming().map_while(Result::ok) {
                let (state, acks) = (Arc::clone(&served), Arc::clone(&counter));
                thread::spawn(move || serve_frames(stream, &state, &acks, fault));
            }
        });
        Self { http: addresses.0, tcp: addresses.1, acks, tokens, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    fn pushes(&self) -> usize {
        self.state().pushes
    }

    fn open_rooms(&self) -> usize {
        self.state().rooms.len()
    }

    fn closed_rooms(&self) -> usize {
        self.state().closed_rooms
    }

    /// Begins a run in a process group of its own, as a shell would.
    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(Path::new(env!("CARGO_BIN_EXE_loadgen")), arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().expect("it runs")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(Path::new(env!("CARGO_BIN_EXE_loadgen")), arguments).output().expect("it runs")
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let (http, tcp) = (format!("http://{}", self.http), self.tcp.to_string());
        let mut command = Command::new(program);
        command.args(arguments).args(["--json", "--api-key", "key", "--http", &http, "--gateway", &tcp]);
        command
    }
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

/// What a terminal does: it tells every process of the run.
fn signal_all(run: &Child, signal: Signal) {
    let group = i32::try_from(run.id()).ok().and_then(Pid::from_raw).expect("a pid");
    // It may have ended by now.
    kill_process_group(group, signal).ok();
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let of_task = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    tasks.map_while(Result::ok).map(of_task).collect::<String>().split_ascii_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
}

/// What waits for somebody to ask how it ended runs no more.
fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn serve_http(stream: TcpStream, state: &Mutex<State>, tokens: &AtomicU64, fault: Fault) {
    let mut output = stream.try_clone().expect("a descriptor");
    let mut input = BufReader::new(stream);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if input.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            input.read_line(&mut line).expect("a header");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        input.read_exact(&mut body).expect("a body");
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let path = first.split_ascii_whitespace().nth(1).unwrap_or_default();
        if path == "/v1/im/tokens" {
            tokens.fetch_add(1, Ordering::SeqCst);
        }
        let is_slow = matches!((fault, path), (Fault::SlowRooms, "/v1/rooms") | (Fault::SlowTokens, "/v1/im/tokens"));
        if is_slow {
            thread::sleep(Duration::from_millis(20));
        }
        if fault == Fault::LoseCounters && path == "/metrics" && state.lock().expect("no panic while it is held").pushes > 0 {
            return;
        }
        let answer = answer_http(path, &body, &mut state.lock().expect("no panic while it is held"), fault);
        let status = match answer.as_str() {
            LIE => "500 Internal Server Error",
            REFUSAL => "401 Unauthorized",
            _ => "200 OK",
        };
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", answer.len());
        if output.write_all((head + &answer).as_bytes()).is_err() {
            return;
        }
    }
}

fn answer_http(path: &str, body: &Value, state: &mut State, fault: Fault) -> String {
    match path {
        _ if fault == Fault::RefuseKey => REFUSAL.to_owned(),
        "/v1/im/tokens" => json!({ "token": "t", "expiresInMs": 300_000, "gateways": {} }).to_string(),
        "/v1/rooms" => {
            let room = state.next_room;
            state.next_room += 1;
            if fault == Fault::RefuseRoom && room == 17 {
                return LIE.to_owned();
            }
            state.rooms.insert(room, (0, Vec::new()));
            json!({ "roomId": room }).to_string()
        }
        "/v1/im/push" => {
            let seq = push(body, state, fault);
            state.pushes += 1;
            if fault == Fault::LieOnce && seq == 4 {
                return LIE.to_owned();
            }
            json!({ "accepted": 1, "seq": seq }).to_string()
        }
        "/metrics" => metrics(state, fault),
        _ => {
            let closed = path.strip_prefix("/v1/rooms/").and_then(|path| path.strip_suffix("/close")?.parse::<i64>().ok());
            state.closed_rooms += usize::from(closed.is_some_and(|room| state.rooms.remove(&room).is_some()));
            String::new()
        }
    }
}

fn metrics(state: &mut State, fault: Fault) -> String {
    let (copies, dropped) = (state.copies, state.dropped);
    if fault != Fault::CountLate || state.looks_at_new == LATE_LOOKS {
        state.counted = copies - dropped;
    }
    // Looks after which nothing new had come: those of a run that is over.
    state.looks_at_new = if state.copies_looked_at == copies { state.looks_at_new + 1 } else { 0 };
    state.copies_looked_at = copies;
    format!(
        "gateway_frames_dropped_total{{class=\"chat\",reason=\"backlog\"}} {dropped}\ngateway_deliveries_total{{class=\"chat\"}} {}\n\
         gateway_copies_total {copies}\ngateway_fanout_sends_total {copies}\n",
        state.counted
    )
}

/// Looks at the counters for which a house that counts late has not counted.
const LATE_LOOKS: u32 = 3;

const LIE: &str = "nothing was sent";
const REFUSAL: &str = "who are you";

/// To every member of a room, in order, with what the house does wrong. The message's place in the room.
fn push(body: &Value, state: &mut State, fault: Fault) -> i64 {
    let room_id = body["target"]["roomId"].as_i64().expect("a room");
    let (seq, members) = state.rooms.get_mut(&room_id).expect("an open room");
    *seq += 1;
    let qos = body["qos"].as_i64().unwrap_or(0);
    let push = Body {
        room_id: Some(room_id),
        seq: Some(*seq),
        biz_code: Some(5555),
        class: Some(2),
        qos: Some(i32::try_from(qos).expect("0 or 1")),
        msg_id: (qos == 1).then(|| format!("r{room_id}-{seq}")),
        data: body["data"].as_str().map(str::to_owned),
        ..Body::default()
    };
    let bytes = frame::encode(Encoding::Json, Code::Biz, &push);
    for (index, member) in members.iter_mut().enumerate() {
        let is_faulty = index == 1 && *seq == 3 && !state.fault_done;
        state.fault_done |= is_faulty;
        let copies = if is_faulty && matches!(fault, Fault::LoseOne | Fault::DropOne) {
            0
        } else {
            1 + usize::from(is_faulty && fault == Fault::DoubleOne)
        };
        state.copies += 1;
        state.dropped += u64::from(fault == Fault::DropOne && is_faulty);
        for _ in 0..copies {
            // A member that has left at the end of the run needs no more.
            member.write_all(&bytes).ok();
        }
    }
    *seq
}

fn serve_frames(mut stream: TcpStream, state: &Mutex<State>, acks: &AtomicU64, fault: Fault) {
    let (mut reassembler, mut buffer, mut user) = (Reassembler::default(), [0; 4096], 0);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        let mut out = Vec::new();
        let mut frames = reassembler.feed(&buffer[..read]);
        while let Some(received) = frames.next(BODY_BYTES_MAX).expect("the crowd sends frames") {
            let body = Body::decode(received.encoding, received.body).expect("the crowd sends bodies");
            let mut say = |code, body: &Body| frame::encode_into(&mut out, Encoding::Json, code, body);
            let code = Code::from_number(received.code).expect("a known code");
            if code == Code::Login {
                user = body.user_id.expect("a login names its user");
                if fault == Fault::RefuseOne && !std::mem::replace(&mut state.lock().expect("no panic while it is held").fault_done, true) {
                    say(Code::Error, &Body::refusal(Reason::BadToken));
                    continue;
                }
                let own = stream.try_clone().expect("a descriptor");
                state.lock().expect("no panic while it is held").users.insert(user, own);
                say(Code::Login, &Body { heartbeat_secs: Some(1), ..Body::yes() });
            } else if code == Code::Join {
                let room = body.room_id.expect("a join names its room");
                say(Code::Join, &Body { room_id: Some(room), seq: Some(0), ..Body::default() });
                stream.write_all(&out).expect("the member reads");
                out.clear();
                let member = stream.try_clone().expect("a descriptor");
                state.lock().expect("no panic while it is held").rooms.get_mut(&room).expect("an open room").1.push(member);
            } else if code == Code::Heartbeat {
                say(Code::Heartbeat, &Body::yes());
            } else if code == Code::Ack {
                acks.fetch_add(1, Ordering::SeqCst);
            } else if code == Code::Biz {
                say(Code::Ack, &Body { msg_id: body.msg_id.clone(), ts: Some(1), ..Body::default() });
                deliver(&body, user, &mut state.lock().expect("no panic while it is held"));
            }
        }
        if stream.write_all(&out).is_err() {
            return;
        }
        if fault == Fault::HangUp && user != 0 {
            stream.shutdown(Shutdown::Both).ok();
            return;
        }
    }
}

/// One-to-one chat.
fn deliver(body: &Body, sender: i64, state: &mut State) {
    let data: Value = serde_json::from_str(body.data.as_deref().unwrap_or_default()).expect("chat is JSON");
    let to = data["objectId"].as_i64().expect("a partner");
    let push = Body {
        user_id: Some(to),
        biz_code: Some(5555),
        qos: Some(1),
        msg_id: Some(format!("ms-{sender}-{}", body.msg_id.as_deref().unwrap_or_default())),
        data: Some(json!({ "content": data["content"], "senderId": sender }).to_string()),
        ..Body::default()
    };
    let bytes = frame::encode(Encoding::Json, Code::Biz, &push);
    state.users.get_mut(&to).expect("the partner is there").write_all(&bytes).expect("the partner reads");
}
