//! SIGTERM, or a call of the admin port: no new connections, not ready, RECONNECT, closed at a pace, exit 0.

use crate::house::{House, eventually};
use billfish_wire::Code;
use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

#[test]
fn a_drain_says_goodbye_in_the_written_order() {
    let mut house = House::start();
    let room = house.open_room(30_001);
    let mut peers: Vec<_> = (0..20).map(|user| house.login(20_001 + user)).collect();
    for peer in &mut peers {
        peer.join(room);
    }
    assert_eq!(house.admin("/readyz").0, 200);
    house.terminate();
    for peer in &mut peers {
        let hint = peer.expect(Code::Reconnect);
        assert!(hint.after_ms.is_some_and(|ms| ms <= 30_000), "{hint:?}");
        let rest = peer.until_closed();
        assert!(rest.iter().all(|(code, _)| *code == Code::Biz), "{rest:?}");
    }
    let status = house.wait(Duration::from_secs(60));
    assert!(status.success(), "{status}\n{}", house.log());
    assert!(TcpStream::connect(house.ports.tcp).is_err());
    assert!(TcpStream::connect(house.ports.http).is_err());
}

/// A page of the web that an operator looks at can make her browser post a form to the loopback, but not with a header of its own.
#[test]
fn the_operators_port_drains_whoever_says_the_header_and_nobody_else() {
    let mut house = House::start();
    let mut peer = house.login(20_001);
    let drain = format!("http://{}/drain", house.ports.admin);
    // A connection each: one on which a body was not read is closed, at a moment that nobody knows.
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).max_idle_connections(0).build().into();
    let mut refused = agent.post(&drain).send_form([("x", "y")]).unwrap();
    assert_eq!(refused.status(), 403);
    assert!(refused.body_mut().read_to_string().unwrap().contains("Billfish-Drain"));
    assert_eq!(agent.get(&drain).call().unwrap().status(), 405);
    assert_eq!(house.admin("/readyz").0, 200);
    house.drain();
    peer.expect(Code::Reconnect);
    let status = house.wait(Duration::from_secs(60));
    assert!(status.success(), "{status}\n{}", house.log());
}

#[test]
fn a_drain_under_load_takes_nothing_new_and_tells_everyone_before_the_close() {
    const GRACE: Duration = Duration::from_secs(30);
    let mut house = House::with("[gateway.drain]\nspread_max = \"3s\"\nclose_per_s = 50\ngrace = \"30s\"\n");
    let room = house.open_room(30_001);
    let mut peers: Vec<_> = (0..200).map(|user| house.login(20_001 + user)).collect();
    for peer in &mut peers {
        peer.join(room);
    }
    assert_eq!(house.admin("/readyz").0, 200);
    house.terminate();
    eventually("it is not ready any more", || house.admin("/readyz").0 == 503);
    assert_eq!(house.admin("/livez").0, 200, "a drain is no reason to be killed");
    eventually("nobody new gets in", || match TcpStream::connect(house.ports.tcp) {
        Err(_) => true,
        Ok(mut late) => {
            late.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            match late.read(&mut [0; 1]) {
                Ok(count) => count == 0,
                Err(error) => error.kind() == ErrorKind::ConnectionReset,
            }
        }
    });
    for (number, peer) in peers.iter_mut().enumerate() {
        let heard: Vec<_> = peer.until_closed().into_iter().filter(|(code, _)| *code != Code::Biz).collect();
        assert_eq!(heard.iter().filter(|(code, _)| *code == Code::Reconnect).count(), 1, "peer {number}: {heard:?}");
        assert_eq!(heard.last().map(|(code, _)| *code), Some(Code::Reconnect), "peer {number}: {heard:?}");
    }
    assert!(house.wait(GRACE).success(), "{}", house.log());
    assert!(!house.log().contains("outlived the grace"), "{}", house.log());
}

#[test]
fn a_call_that_never_ends_does_not_keep_a_drain_from_ending() {
    let mut house = House::with("[http]\ngrace = \"1s\"\n");
    let _halting: Vec<TcpStream> = [house.ports.http, house.ports.admin]
        .into_iter()
        .map(|address| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n").unwrap();
            stream
        })
        .collect();
    house.terminate();
    eventually("it is not ready", || house.admin("/readyz").0 == 503);
    assert!(house.wait(Duration::from_secs(20)).success(), "{}", house.log());
}

#[test]
fn an_idle_server_stops_at_once_on_either_signal() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut house = House::start();
        let pid = rustix::process::Pid::from_raw(i32::try_from(house.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        assert!(house.wait(Duration::from_secs(10)).success());
    }
}

/// What an orchestrator does: it has the node drained, and then stops it.
#[test]
fn a_signal_behind_the_operators_call_cuts_nobody_and_one_more_does() {
    let mut house = House::with("[gateway.drain]\nspread_max = \"2s\"\nclose_per_s = 10\n");
    let mut peers: Vec<_> = (0..20).map(|user| house.login(20_001 + user)).collect();
    house.drain();
    eventually("it drains", || house.admin("/readyz").0 == 503);
    house.terminate();
    for (number, peer) in peers.iter_mut().enumerate() {
        let heard: Vec<_> = peer.until_closed().into_iter().map(|(code, _)| code).filter(|code| *code != Code::Biz).collect();
        assert_eq!(heard, [Code::Reconnect], "peer {number}");
    }
    let status = house.wait(Duration::from_secs(60));
    assert!(status.success(), "{status}\n{}", house.log());
    assert!(house.log().contains("stopping already"), "{}", house.log());

    let mut house = House::with("[gateway.drain]\nspread_max = \"60s\"\nclose_per_s = 1\n");
    let peers: Vec<_> = (0..30).map(|user| house.login(20_001 + user)).collect();
    house.drain();
    eventually("it drains", || house.admin("/readyz").0 == 503);
    house.terminate();
    eventually("the first is heard", || house.log().contains("stopping already"));
    house.terminate();
    assert_eq!(house.wait(Duration::from_secs(10)).code(), Some(1));
    drop(peers);
}

#[test]
fn a_second_signal_ends_it_without_waiting() {
    let mut house = House::with("[gateway.drain]\nspread_max = \"60s\"\nclose_per_s = 1\n");
    let peers: Vec<_> = (0..30).map(|user| house.login(20_001 + user)).collect();
    house.terminate();
    eventually("it drains", || house.log().contains("drain"));
    house.terminate();
    house.wait(Duration::from_secs(10));
    drop(peers);
}
