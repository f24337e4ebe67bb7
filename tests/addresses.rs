//! The table of addresses when it is full: newcomers get in, the operator hears of it, and where everyone is connected the next is sent on.

use crate::{
    house::{House, Peer, eventually, login_body},
    slow::connect_from,
};
use billfish_wire::{Code, Reason};
use std::net::Ipv4Addr;

/// As few as may be set.
const ADDRESSES: usize = 256;
const WARNING: &str = "the table of addresses is full";

/// Nobody who is there is sent away for having said nothing while others come.
fn house() -> House {
    House::with(&format!(
        "[gateway.session]\nlogin_timeout = \"60s\"\n[gateway.admission]\nexempt = []\n\
         addresses_max = {ADDRESSES}\nconnections_max = 4000\nunlogged_percent_max = 100\n"
    ))
}

/// A connection from an address of this machine that no other number has.
fn peer_from(house: &House, number: usize) -> Peer {
    let number = u32::try_from(number).unwrap();
    Peer::of(connect_from(Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 6, 0, 1)) + number), house.ports.tcp))
}

/// Each address has guessed once, which is remembered for ten minutes; the place of the one that is longest gone is given to a newcomer.
#[test]
fn one_address_more_than_are_remembered_gets_in_and_the_operator_is_told() {
    let house = house();
    let forgotten = |lost: &str| house.metric("gateway_admission_forgotten_total", &[&format!("lost=\"{lost}\"")]);
    for number in 0..ADDRESSES {
        let mut guesser = peer_from(&house, number);
        guesser.send(Code::Login, &login_body(20_001, "guess".to_owned()));
        assert_eq!(guesser.expect(Code::Error).code, Reason::BadToken.number());
    }
    eventually("all have gone", || house.metric("gateway_connections", &[]) < 0.5);
    assert_eq!(forgotten("bad_tokens"), 0.0);
    assert!(!house.log().contains(WARNING), "{}", house.log());

    let mut newcomer = peer_from(&house, ADDRESSES);
    newcomer.send(Code::Login, &login_body(20_002, house.token(20_002)));
    newcomer.expect(Code::Login);
    assert_eq!((forgotten("bad_tokens"), forgotten("ban")), (1.0, 0.0));
    let log = house.log();
    let line = log.lines().find(|line| line.contains(WARNING)).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("WARN") && line.contains(&format!("addresses={ADDRESSES}")), "{line}");
}

#[test]
fn where_every_address_that_is_remembered_is_connected_the_next_one_is_sent_elsewhere() {
    let house = house();
    let held: Vec<Peer> = (0..ADDRESSES).map(|number| peer_from(&house, number)).collect();
    eventually("they are in", || house.metric("gateway_connections", &[]) as usize == ADDRESSES);
    let error = peer_from(&house, ADDRESSES).expect(Code::Error);
    assert_eq!(error.code, Reason::Unavailable.number());
    assert_eq!(house.metric("gateway_admission_refused_total", &["reason=\"table\""]), 1.0);
    // Who is known may have one more.
    let mut known = peer_from(&house, 0);
    known.send(Code::Login, &login_body(20_001, house.token(20_001)));
    known.expect(Code::Login);
    drop(held);
}
