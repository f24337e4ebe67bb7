//! A head, read as a request and as an answer: nothing is believed before its last byte, what is believed can be answered, what is refused
//! gets an answer that is one, and a head that is refused by its front is not believed whole.
//!
//! Input: one byte that says where the head is cut, as a share of its length, then the head.
#![no_main]

use billfish_websocket::handshake::{ResponseError, accept_into, parse_request, parse_response, refusal_into};
use libfuzzer_sys::fuzz_target;

/// Of the example in RFC 6455, which the seeds have.
const KEY: &[u8; 16] = b"the sample nonce";

fuzz_target!(|input: &[u8]| {
    let Some((&share, head)) = input.split_first() else { return };
    let front = &head[..head.len() * usize::from(share) / 256];

    let mut answer = Vec::new();
    match parse_request(head) {
        Ok(Some((request, taken))) => {
            assert!(taken <= head.len());
            assert!(request.path.starts_with('/') && request.path.bytes().all(|byte| byte.is_ascii_graphic()));
            accept_into(&mut answer, &request);
            if request.key == "dGhlIHNhbXBsZSBub25jZQ==" {
                assert_eq!(parse_response(&answer, KEY), Ok(Some(answer.len())));
            }
            assert_eq!(answer.iter().filter(|byte| **byte == b'\n').count(), 5, "nothing that was sent ends a line of the answer");
            match parse_request(front) {
                Ok(Some((again, again_taken))) => assert_eq!((again, again_taken), (request, taken)),
                Ok(None) => assert!(front.len() < taken),
                Err(refusal) => panic!("refused by its front: {refusal}"),
            }
        }
        Ok(None) => assert_eq!(parse_request(front), Ok(None)),
        Err(refusal) => {
            refusal_into(&mut answer, &refusal);
            let told = parse_response(&answer, KEY);
            assert!(matches!(told, Err(ResponseError::Refused { status, .. }) if status == refusal.status()), "{told:?}");
            assert!(!matches!(parse_request(front), Ok(Some(_))) || front.len() == head.len());
        }
    }

    match parse_response(head, KEY) {
        Ok(Some(taken)) => {
            assert!(taken <= head.len());
            assert_eq!(parse_response(front, KEY), Ok((front.len() >= taken).then_some(taken)));
        }
        Ok(None) => assert_eq!(parse_response(front, KEY), Ok(None)),
        Err(_) => assert!(!matches!(parse_response(front, KEY), Ok(Some(_)))),
    }
});
