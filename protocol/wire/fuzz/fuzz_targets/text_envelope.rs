//! Frames as text: what is believed can be said again and means the same; a body that is believed too is written the same from its bytes
//! and from its fields; what is not believed is refused without a panic.
#![no_main]

use billfish_wire::{Body, Code, Encoding, envelope};
use libfuzzer_sys::fuzz_target;

/// Small, so that the fuzzer finds bodies of the limit and of one byte more.
const BODY_BYTES_MAX: usize = 200;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(frame) = envelope::decode(text, BODY_BYTES_MAX) else { return };
    assert!(frame.body.len() <= BODY_BYTES_MAX);

    let mut again = Vec::new();
    envelope::encode_raw_into(&mut again, frame.code, &frame.body);
    let again = String::from_utf8(again).expect("JSON is UTF-8");
    assert_eq!(envelope::decode(&again, BODY_BYTES_MAX).expect("our own"), frame);

    let Ok(body) = Body::decode(Encoding::Json, frame.body.as_bytes()) else { return };
    let json = String::from_utf8(body.to_vec(Encoding::Json)).expect("JSON is UTF-8");
    let (mut from_fields, mut from_bytes) = (Vec::new(), Vec::new());
    envelope::encode_into(&mut from_fields, Code::Biz, &body);
    envelope::encode_raw_into(&mut from_bytes, Code::Biz.number(), &json);
    assert_eq!(from_fields, from_bytes);
});
