//! The door: options of accepted sockets, refusals, and a process that is out of files.

use crate::house::{House, until};
use billfish_gateway::shard::listeners;
use billfish_wire::{Code, Reason};
use std::{
    process::Command,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

#[test]
fn listeners_share_one_port() {
    let all = listeners("127.0.0.1:0".parse().unwrap(), 3).unwrap();
    let ports: Vec<u16> = all.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
}

#[test]
fn who_is_refused_at_the_door_is_told_why() {
    let house = House::new();
    house.door.refuses.store(true, SeqCst);
    let mut client = house.connect();
    let error = client.expect(Code::Error);
    assert_eq!((error.code, error.retry_after_ms), (Reason::RateLimited.number(), Some(1_234)));
    client.expect_end();
    assert_eq!((house.counters.accept_refused.value(), house.counters.accepted.value()), (1, 0));
    house.door.refuses.store(false, SeqCst);
    house.log_in(10_000);
}

/// In a process of its own, for the limit is the process's.
#[test]
fn without_files_the_shard_waits_instead_of_spinning_and_serves_those_inside() {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "accept::child_without_files", "--ignored", "--nocapture"])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "runs in a child process of the test above"]
fn child_without_files() {
    const FILES: u64 = 60;
    let house = House::new();
    let mut inside = house.log_in(10_000);
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, rustix::process::Rlimit { current: Some(FILES), ..limits }).unwrap();

    // Client and server share the limit: the clients take the last file, and the kernel still completes the handshakes of the backlog.
    let mut clients = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect(house.address) {
        clients.push(stream);
    }
    until("the shard to run out of files", || house.counters.accept_exhausted.value() > 0);
    let (turns_before, began) = (turns(&house), Instant::now());
    let mut tries = 1;
    until("five more tries", || {
        let tried = house.counters.accept_exhausted.value();
        if tried > tries {
            tries = tried;
            inside.beat();
        }
        tries >= 6
    });
    // Each try is 100 ms behind the one before, however loaded the machine is.
    assert!(began.elapsed() >= Duration::from_millis(400), "tried again after {:?}", began.elapsed());
    assert!(turns(&house) > turns_before);

    clients.truncate(clients.len() / 2);
    house.log_in(10_001);
    inside.beat();
}

fn turns(house: &House) -> u64 {
    house.counters.turn_latency.buckets().iter().sum()
}
