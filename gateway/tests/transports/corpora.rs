//! Everything the fuzz targets begin with, said to a running gateway over every transport, before LOGIN and after it: whoever says it is
//! answered or ended, and nobody else notices.

use crate::client::{Kind, Open};
use billfish_testing::fuzz_seeds;
use billfish_websocket::{Opcode, frame_into};
use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
};

#[test]
fn no_seed_of_the_fuzz_targets_hurts_anybody() {
    let open = Open::new();
    let mut bystanders: Vec<_> = (20_001..).zip(Kind::ALL).map(|(user, kind)| open.join(kind, user, 30_001)).collect();
    let mut user = 30_000;
    for (name, seed) in fuzz_seeds() {
        for kind in Kind::ALL {
            // As it is, and for WebSockets also as a message of each kind.
            let mut forms = vec![seed.clone()];
            if kind.is_websocket() {
                for opcode in [Opcode::Text, Opcode::Binary] {
                    let mut message = Vec::new();
                    frame_into(&mut message, opcode, &seed, Some([1, 2, 3, 4]));
                    forms.push(message);
                }
            }
            for bytes in forms {
                for logs_in in [false, true] {
                    user += 1;
                    let mut peer = if logs_in { open.login(kind, user) } else { open.connect(kind) };
                    // The gateway may end it before everything is written.
                    let written = peer.wire.write_all(&bytes).and_then(|()| peer.wire.flush());
                    assert!(written.is_ok() || is_ended(&written.unwrap_err()), "{name} {kind:?}");
                    drop(peer.wire.socket().shutdown(Shutdown::Write));
                    let mut heard = Vec::new();
                    let ended = peer.wire.read_to_end(&mut heard);
                    assert!(ended.is_ok() || is_ended(&ended.unwrap_err()), "{name} {kind:?}");
                }
            }
        }
    }
    for peer in &mut bystanders {
        peer.beat();
    }
    drop(bystanders);
    crate::house::until("all are gone", || open.house.running().account().connections == 0);
    open.assert_the_books_balance();
    assert_eq!(open.house.running().account().pending, 0);
    assert_eq!(open.closes("internal"), 0.0);
}

fn is_ended(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::NotConnected
    )
}
