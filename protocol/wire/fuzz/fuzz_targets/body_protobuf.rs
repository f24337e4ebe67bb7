//! Protobuf bodies: decode, encode, decode is stable, in either encoding; what is not believed is refused without a panic.
#![no_main]

use billfish_wire::{Body, Encoding};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(body) = Body::decode(Encoding::Protobuf, input) else { return };
    for encoding in Encoding::ALL {
        let again = Body::decode(encoding, &body.to_vec(encoding)).expect("what was believed is legal");
        assert_eq!(again, body);
    }
    let bytes = body.to_vec(Encoding::Protobuf);
    assert_eq!(Body::decode(Encoding::Protobuf, &bytes).expect("our own").to_vec(Encoding::Protobuf), bytes);
});
