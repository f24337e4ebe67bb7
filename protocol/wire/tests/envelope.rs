//! Frames as text: what the golden envelopes leave out, which is limits, borrowing, and bodies of any content and length.

use billfish_wire::{
    Body, BodyError, Code, Encoding, Reason,
    envelope::{self, Envelope, EnvelopeError, text_bytes_max},
    limits::BODY_BYTES_MAX,
};
use proptest::prelude::*;
use std::borrow::Cow;

fn encode(code: Code, body: &Body) -> String {
    let mut out = Vec::new();
    envelope::encode_into(&mut out, code, body);
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn encode_raw(code: i32, body: &str) -> String {
    let mut out = Vec::new();
    envelope::encode_raw_into(&mut out, code, body);
    String::from_utf8(out).expect("JSON is UTF-8")
}

#[test]
fn an_envelope_is_written_as_the_protocol_page_shows_it() {
    let mut out = b"before".to_vec();
    envelope::encode_into(&mut out, Code::Heartbeat, &Body::yes());
    let expected = r#"before{"magic":18673,"code":1004,"len":15,"body":"{\"data\":\"true\"}"}"#;
    assert_eq!(String::from_utf8(out).expect("UTF-8"), expected);
    assert_eq!(encode(Code::Logout, &Body::default()), r#"{"magic":18673,"code":1002,"len":2,"body":"{}"}"#);
    assert_eq!(encode_raw(-1, ""), r#"{"magic":18673,"code":-1,"len":0,"body":""}"#);
    // JSON in JSON in JSON: one backslash more each time.
    let nested = Body { data: Some(r#"{"a":"\n"}"#.to_owned()), ..Body::default() };
    let expected = r#"{"magic":18673,"code":1003,"len":26,"body":"{\"data\":\"{\\\"a\\\":\\\"\\\\n\\\"}\"}"}"#;
    assert_eq!(encode(Code::Biz, &nested), expected);
    // Not what we write ourselves, but what a body of others may have between its tokens.
    assert_eq!(encode_raw(1004, "{\n}\u{7f}"), "{\"magic\":18673,\"code\":1004,\"len\":4,\"body\":\"{\\u000a}\u{7f}\"}");
}

#[test]
fn len_counts_the_bytes_of_the_body_whatever_its_digits() {
    for length in [0, 1, 9, 10, 99, 100, 999, 1_000, 9_999, 10_000, 65_536] {
        let text = encode_raw(1003, &"x".repeat(length));
        assert!(text.starts_with(&format!(r#"{{"magic":18673,"code":1003,"len":{length},"body":"x"#)[..38]), "{length}");
        assert_eq!(envelope::decode(&text, BODY_BYTES_MAX).expect("legal").body.len(), length);
        let len: u64 = serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["len"].as_u64().expect("a number");
        assert_eq!(len, length as u64);
    }
    // Bytes, and neither characters nor UTF-16 units.
    assert!(encode_raw(1003, "é😀").contains(r#""len":6,"#));
}

#[test]
fn a_body_without_escapes_is_borrowed() {
    let text = r#"{"magic":18673,"code":1002,"len":2,"body":"{}"}"#;
    assert!(matches!(envelope::decode(text, 2), Ok(Envelope { code: 1002, body: Cow::Borrowed("{}") })));
    let text = encode(Code::Heartbeat, &Body::yes());
    assert!(matches!(envelope::decode(&text, 100).expect("legal").body, Cow::Owned(_)));
}

#[test]
fn a_body_of_the_limit_is_read_and_of_one_byte_more_is_not() {
    // Before anything was escaped, and in bytes.
    for body in ["x".repeat(100), "\"".repeat(100), "é".repeat(50)] {
        let text = encode_raw(1003, &body);
        assert_eq!(envelope::decode(&text, 100).expect("legal").body, body);
        let refused = envelope::decode(&text, 99).expect_err("one byte more");
        assert!(matches!(refused, EnvelopeError::TooLarge { len: 100, limit: 99 }));
        assert_eq!(refused.reason(), Reason::TooLarge);
    }
    // The claim says nothing, in either direction.
    let text = r#"{"magic":18673,"code":1003,"len":4000000000,"body":"{}"}"#;
    assert!(envelope::decode(text, 2).is_ok());
    let text = r#"{"magic":18673,"code":1003,"len":0,"body":"{ }"}"#;
    assert!(matches!(envelope::decode(text, 2), Err(EnvelopeError::TooLarge { len: 3, limit: 2 })));
}

#[test]
fn the_longest_text_of_a_body_holds_it_however_it_is_escaped() {
    for body in ["\"".repeat(1_000), "é".repeat(500), "€".repeat(333), "😀".repeat(250), "x".repeat(1_000)] {
        let shortest = encode_raw(i32::MIN, &body);
        let escaped: String = body
            .encode_utf16()
            .map(|unit| if unit < 128 { format!("\\{}", unit as u8 as char) } else { format!("\\u{unit:04x}") })
            .collect();
        let longest = format!("{{ \"magic\" : 18673 , \"code\" : -2147483648 , \"len\" : 2147483647 , \"body\" : \"{escaped}\" }}");
        assert!(shortest.len().max(longest.len()) <= text_bytes_max(body.len()), "{body}");
    }
}

#[test]
fn a_text_that_is_too_deep_or_too_wide_is_refused_before_it_is_built() {
    let deep = format!(r#"{{"magic":18673,"code":1004,"len":0,"x":{}"#, "[".repeat(60_000));
    assert!(matches!(envelope::decode(&deep, 100), Err(EnvelopeError::NotAnEnvelope(BodyError::TooDeep))));
    let wide = format!(r#"{{"magic":18673,"code":1004,"len":0{}}}"#, r#","x":0"#.repeat(62));
    assert!(matches!(envelope::decode(&wide, 100), Err(EnvelopeError::NotAnEnvelope(BodyError::TooManyKeys))));
    // What stands in the body is the body's: bounded when it is decoded.
    let inner = format!("{{{}}}", vec![r#""x":0"#; 65].join(","));
    let text = encode_raw(1004, &inner);
    let decoded = envelope::decode(&text, BODY_BYTES_MAX).expect("legal");
    assert!(matches!(Body::decode(Encoding::Json, decoded.body.as_bytes()), Err(BodyError::TooManyKeys)));
}

#[test]
fn another_magic_is_told_apart_from_another_form() {
    let text = r#"{"magic":18674,"code":1004,"len":2,"body":"{}"}"#;
    assert!(matches!(envelope::decode(text, 100), Err(EnvelopeError::UnknownMagic { magic: 18674 })));
    assert!(matches!(envelope::decode("hello", 100), Err(EnvelopeError::NotAnEnvelope(BodyError::NotAnObject))));
}

proptest! {
    #[test]
    fn any_body_comes_out_as_it_went_in(code: i32, body in "[ -~]{0,60}|\\PC{0,200}|(?s:.{0,40})") {
        let text = encode_raw(code, &body);
        let decoded = envelope::decode(&text, body.len()).expect("our own");
        prop_assert_eq!((decoded.code, decoded.body.as_ref()), (code, body.as_str()));
        // And another reader of JSON sees the same.
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let expected = serde_json::json!({"magic": 18673, "code": code, "len": body.len(), "body": body});
        prop_assert_eq!(value, expected);
    }

    #[test]
    fn a_body_is_escaped_as_it_is_written(data in "\\PC{0,200}", msg_id in "[!-~]{0,20}", seq in 0i64..1 << 40) {
        let body = Body { data: Some(data), msg_id: Some(msg_id), seq: Some(seq), ..Body::default() };
        let json = String::from_utf8(body.to_vec(Encoding::Json)).expect("JSON is UTF-8");
        prop_assert_eq!(encode(Code::Biz, &body), encode_raw(Code::Biz.number(), &json));
    }

    #[test]
    fn no_text_is_believed_by_accident(text in "[{}\\[\\]\":,0-9a-z \\\\]{0,80}") {
        prop_assert!(envelope::decode(&text, 100).is_err());
    }
}
