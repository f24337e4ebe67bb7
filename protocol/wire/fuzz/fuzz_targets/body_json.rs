//! JSON bodies: what is believed can be said again, in either encoding, and means the same; what is not believed is refused without a
//! panic.
#![no_main]

use billfish_wire::{Body, Encoding};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(body) = Body::decode(Encoding::Json, input) else { return };
    assert!(input.is_empty() || std::str::from_utf8(input).is_ok());
    for encoding in Encoding::ALL {
        let again = Body::decode(encoding, &body.to_vec(encoding)).expect("what was believed is legal");
        assert_eq!(again, body);
    }
    // Written once, it stays as it is written.
    let text = body.to_vec(Encoding::Json);
    assert_eq!(Body::decode(Encoding::Json, &text).expect("our own").to_vec(Encoding::Json), text);
});
