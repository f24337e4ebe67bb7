//! Everything the fuzz targets begin with, said on a client's stream, before LOGIN and after it: the connection ends with the number of what is
//! wrong with it, and nobody else notices. `gateway/tests/transports/corpora.rs` does so over the other transports.

use super::client::{QuicClient, QuicHouse, patiently};
use crate::house::{PATIENCE, until};
use billfish_testing::fuzz_seeds;
use billfish_wire::{Code, Reason, frame, limits};
use std::thread;

/// Side by side, for most of a connection's time is waiting. Who looks on sends a heartbeat before each lot: it is neither silent for too long,
/// nor says more than a session may.
const LOT: usize = 16;

#[test]
fn no_seed_of_the_fuzz_targets_hurts_anybody() {
    // Whoever is slow to speak because the machine is would end for that.
    let house = QuicHouse::with(|config| config.session.login_timeout = PATIENCE);
    let mut bystander = house.join(20_001, 30_001);
    for (lot, user) in fuzz_seeds().chunks(LOT).zip((30_000..).step_by(LOT)) {
        bystander.beat();
        thread::scope(|scope| {
            for ((name, seed), user) in lot.iter().zip(user..) {
                let house = &house;
                scope.spawn(move || {
                    let ends = [(house.connect(), ends_of_a_stranger(seed)), (house.log_in(user), ends_of_a_session(seed))];
                    for (client, right) in ends {
                        let (number, word) = end_of(client, seed);
                        let is_right = right.iter().any(|reason| reason.number().unwrap_or(0) == number);
                        assert!(is_right, "{name}: {number} {word}, not one of {right:?}");
                    }
                });
            }
        });
    }
    bystander.beat();
    house.log_in(20_002).beat();
    drop(bystander);
    until("all are gone", || house.house.running().account().connections == 0);
    let account = house.house.running().account();
    assert_eq!((account.copies, account.pending), (account.delivered + account.dropped, 0));
    assert_eq!(house.house.metric("gateway_closes_total", &[r#"reason="internal""#]), 0.0);
}

/// Says a seed and nothing more, listens to the end, and tells how the connection ended.
fn end_of(mut client: QuicClient, seed: &[u8]) -> (i32, String) {
    client.runtime.clone().block_on(async {
        // The gateway may end it before everything is written.
        drop(patiently(client.up.write_all(seed)).await);
        drop(client.up.finish());
    });
    while client.next().is_some() {}
    let (number, word) = client.end();
    (i32::try_from(number).unwrap(), word)
}

/// Why a connection that says this first, and then nothing more, may end.
fn ends_of_a_stranger(seed: &[u8]) -> Vec<Reason> {
    match frame::decode(seed, limits::LOGIN_BODY_BYTES_MAX) {
        Err(error) => vec![error.reason()],
        Ok(None) => vec![Reason::PeerClosed],
        // Nobody has its token; its end may be heard before the verdict.
        Ok(Some((frame, _))) if frame.code == Code::Login.number() => vec![Reason::Malformed, Reason::BadToken, Reason::PeerClosed],
        Ok(Some(_)) => vec![Reason::NotLoggedIn],
    }
}

/// The same of a session: what is wrong within a frame is answered, what is wrong between frames ends it.
fn ends_of_a_session(mut rest: &[u8]) -> Vec<Reason> {
    loop {
        match frame::decode(rest, limits::BODY_BYTES_MAX) {
            Err(error) => return vec![error.reason()],
            Ok(None) => return vec![Reason::PeerClosed],
            Ok(Some((frame, _))) if frame.code == Code::Logout.number() => return vec![Reason::LoggedOut],
            Ok(Some((_, taken))) => rest = &rest[taken..],
        }
    }
}
