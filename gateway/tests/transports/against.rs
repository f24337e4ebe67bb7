//! The Autobahn cases against a running gateway. It echoes nothing, so of what a case says comes back: a Pong where the last thing in a read
//! was a Ping, the Close, and where a rule is broken its code. A message of a case is no frame of ours: it ends the session with 4000.

use crate::{
    autobahn::Case,
    client::{Heard, Kind, Open, Peer},
    peer::{ROLES, Said},
};
use billfish_websocket::{FRAGMENTS_MAX, Opcode, Role, close};
use billfish_wire::{Reason, envelope, limits};
use std::{cell::Cell, collections::BTreeSet, io::Write};

/// Byte by byte takes as many system calls as there are bytes.
const BYTE_BY_BYTE_MAX: usize = 2_000;

pub(crate) fn run(cases: Vec<Case>, expected_count: usize) {
    assert!(ROLES.contains(&Role::Server));
    let numbers: BTreeSet<&String> = cases.iter().map(|case| &case.number).collect();
    assert_eq!((numbers.len(), cases.len()), (expected_count, expected_count), "each case once, and none forgotten");
    let open = Open::with(|config| {
        config.session.frames_burst = 1_000_000;
        config.session.bytes_burst = 1_000_000_000;
    });
    let users = Cell::new(20_000);
    let login = || {
        users.set(users.get() + 1);
        open.login(Kind::WsText, users.get())
    };
    for case in &cases {
        let bytes: usize = case.frames.iter().map(|frame| frame.payload.len()).sum();
        let is_within = bytes <= envelope::text_bytes_max(limits::BODY_BYTES_MAX) && case.frames.len() <= FRAGMENTS_MAX;
        if case.ends == Some(close::TOO_LARGE) && is_within {
            // The gateway's limit is higher than the table's, for its text is an envelope; and the message of the case never ends.
            continue;
        }
        let frames: Vec<Vec<u8>> = case.frames.iter().map(|frame| frame.bytes_for(Role::Server)).collect();
        let all = frames.concat();
        check(case, "whole", login(), [&all[..]]);
        check(case, "frame by frame", login(), frames.iter().map(Vec::as_slice));
        if all.len() <= BYTE_BY_BYTE_MAX {
            check(case, "byte by byte", login(), all.chunks(1));
        }
    }
    crate::house::until("all are gone", || open.house.running().account().connections == 0);
    assert_eq!(open.closes("internal"), 0.0);
}

fn check<'a>(case: &Case, how: &str, mut peer: Peer, pieces: impl IntoIterator<Item = &'a [u8]>) {
    for piece in pieces {
        if peer.wire.write_all(piece).is_err() {
            // It has ended before all of it was said.
            break;
        }
    }
    let name = format!("case {} {how}", case.number);
    let says_a_message = case.said.iter().any(|said| matches!(said, Said::Text(_) | Said::Binary(_)));
    let said_close = case.said.iter().find_map(|said| if let Said::Close(code, _) = said { Some(*code) } else { None });
    let malformed = u16::try_from(Reason::Malformed.number().expect("it is told")).expect("it is a close code");
    let expected: Vec<Option<u16>> = match (case.ends, said_close) {
        _ if says_a_message => vec![Some(malformed)],
        (_, Some(code)) => vec![code],
        // What is within the gateway's limit is no envelope all the same.
        (Some(close::TOO_LARGE), None) => vec![Some(close::TOO_LARGE), Some(malformed)],
        (Some(code), None) => vec![Some(code)],
        (None, None) => {
            // It goes on: whoever still lives answers.
            peer.control(Opcode::Ping, b"still there");
            loop {
                match peer.hear() {
                    Heard::Pong(payload) if payload == b"still there" => return,
                    Heard::Pong(_) => {}
                    other => panic!("{name}: {other:?}"),
                }
            }
        }
    };
    let heard = peer.hear_all();
    let close = heard.iter().find_map(|one| if let Heard::Close(code, _) = one { Some(*code) } else { None });
    // Where the peer went on writing, the end may have been a reset that took the Close with it.
    let was_reset = close.is_none() && heard.last() == Some(&Heard::Broken);
    assert!(was_reset || close.is_some_and(|code| expected.contains(&code)), "{name}: {heard:?} instead of {expected:?}");
    let pings: Vec<&Said> = case.said.iter().filter(|said| matches!(said, Said::Ping(_))).collect();
    for one in &heard {
        if let Heard::Pong(payload) = one {
            assert!(pings.contains(&&Said::Ping(payload.clone())), "{name}: a Pong that nobody asked for");
        }
    }
}
