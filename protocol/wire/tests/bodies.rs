//! Bodies that a peer should not have sent, and the largest it may.

use billfish_wire::{
    Body, BodyError, Code, Encoding, Resume,
    frame::encode,
    limits::{ADDRESSES_MAX, ID_BYTES_MAX, ID_MAX, JSON_DEPTH_MAX, JSON_KEYS_MAX, LOGIN_BODY_BYTES_MAX, RESUME_ROOMS_MAX, TOKEN_BYTES_MAX},
};
use prost::Message;
use std::fmt::Write;

fn json(text: &str) -> Result<Body, BodyError> {
    Body::decode(Encoding::Json, text.as_bytes())
}

fn protobuf(body: &Body) -> Result<Body, BodyError> {
    Body::decode(Encoding::Protobuf, &body.encode_to_vec())
}

fn assert_out_of_range(result: Result<Body, BodyError>, expected: &str) {
    assert!(matches!(result, Err(BodyError::OutOfRange { field }) if field == expected), "{expected}: {result:?}");
}

#[test]
fn an_empty_body_has_no_field_set_in_either_encoding() {
    for encoding in Encoding::ALL {
        assert_eq!(Body::decode(encoding, b"").expect("legal"), Body::default());
    }
    assert_eq!(json("{}").expect("legal"), Body::default());
    assert_eq!(json(" \r\n\t{ } \n").expect("white space is legal around JSON"), Body::default());
}

#[test]
fn what_is_not_one_json_object_is_refused() {
    for text in [" ", "null", "true", "5", "\"x\"", "[]", "[10001,10086]", "[{}]", "\u{feff}{}"] {
        assert!(matches!(json(text), Err(BodyError::NotAnObject)), "{text:?}: {:?}", json(text));
    }
    for text in ["{", "}{", "{}{}", "{}x", "{\"a\":1,}", "{'a':1}", "{a:1}", "{\"a\" 1}", "{\"a\":01}", "{\"a\":NaN}", "{\"data\":\"x}"] {
        assert!(json(text).is_err(), "{text:?}");
    }
}

#[test]
fn text_that_is_not_utf_8_is_refused_even_where_nobody_reads_it() {
    let bad: [&[u8]; 7] = [
        b"\xFF",             // never legal
        b"\xC3",             // cut short
        b"\x80",             // continuation without a start
        b"\xC0\xAF",         // '/' in two bytes: overlong
        b"\xE0\x80\xAF",     // '/' in three
        b"\xED\xA0\x80",     // a lone surrogate, as CESU-8 writes it
        b"\xF4\x90\x80\x80", // above U+10FFFF
    ];
    for bytes in bad {
        for field in ["data", "token", "unknown"] {
            let body = [format!("{{\"{field}\":\"").as_bytes(), bytes, b"\"}"].concat();
            assert!(matches!(Body::decode(Encoding::Json, &body), Err(BodyError::Utf8(_))), "{bytes:02x?} in {field}");
        }
        let length = u8::try_from(bytes.len()).expect("short");
        let body = [&[5 << 3 | 2, length], bytes].concat();
        assert!(matches!(Body::decode(Encoding::Protobuf, &body), Err(BodyError::Protobuf(_))), "{bytes:02x?}");
    }
}

#[test]
fn escapes_make_characters_and_never_half_of_one() {
    assert_eq!(json(r#"{"data":"\ud83d\ude00"}"#).expect("a pair is one character").data.as_deref(), Some("\u{1F600}"));
    for lone in [r"\ud800", r"\udc00", r"\ud800\ud800", r"\ud800x", r"\ud800A", r"\u12", r"\x41"] {
        assert!(json(&format!(r#"{{"data":"{lone}"}}"#)).is_err(), "{lone}");
    }
}

#[test]
fn nul_and_other_control_characters_stay_out_of_ids() {
    // Raw ones are no JSON.
    assert!(json("{\"data\":\"a\0b\"}").is_err());
    assert!(json("{\"data\":\"a\nb\"}").is_err());
    // Escaped ones are: `data` is its service's to judge, ids are ours.
    assert_eq!(json(r#"{"data":"a\u0000b"}"#).expect("opaque").data.as_deref(), Some("a\0b"));
    for field in ["msgId", "fromId", "key", "deviceId", "platform", "version", "sessionId", "token"] {
        for control in [r"\u0000", r"\n", r"\u001b", r"\u007f"] {
            assert_out_of_range(json(&format!(r#"{{"{field}":"a{control}"}}"#)), field);
        }
    }
    assert_out_of_range(json(r#"{"resume":{"inbox":"ms-\u0000"}}"#), "resume");
    assert_out_of_range(protobuf(&Body { msg_id: Some("a\0".to_owned()), ..Body::default() }), "msgId");
}

#[test]
fn depth_16_is_read_and_17_is_not() {
    // The object itself is one level.
    let nested = |depth: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
    assert!(json(&nested(JSON_DEPTH_MAX)).is_ok());
    for depth in [JSON_DEPTH_MAX + 1, 128, 129, 30_000] {
        assert!(matches!(json(&nested(depth)), Err(BodyError::TooDeep)), "{depth}");
    }
    let objects = |depth: usize| format!("{}0{}", "{\"x\":".repeat(depth), "}".repeat(depth));
    assert!(json(&objects(JSON_DEPTH_MAX)).is_ok());
    assert!(matches!(json(&objects(JSON_DEPTH_MAX + 1)), Err(BodyError::TooDeep)));
    // Closers without openers do not earn depth.
    assert!(matches!(json(&format!("{{{}{}", "]".repeat(20), "[".repeat(17))), Err(BodyError::TooDeep)));
}

#[test]
fn brackets_and_colons_inside_strings_count_for_nothing() {
    let data = "[{:".repeat(1_000);
    let body = json(&format!(r#"{{"data":"{data}"}}"#)).expect("one key, one level");
    assert_eq!(body.data, Some(data));
    // Escaped quotes do not end the string, an escaped backslash does not escape the quote behind it.
    let body = json(&format!(r#"{{"data":"\"{}\"\\","qos":1}}"#, "{:".repeat(100))).expect("two keys, one level");
    assert_eq!(body.qos, Some(1));
    assert!(matches!(json(&format!(r#"{{"data":"\\",{}"#, "[".repeat(17))), Err(BodyError::TooDeep)));
}

#[test]
fn keys_64_are_read_and_65_are_not() {
    let keys = |count: usize| {
        let mut text = String::from("{");
        for key in 0..count {
            write!(text, "{}\"k{key}\":1", if key == 0 { "" } else { "," }).expect("a String takes all");
        }
        text + "}"
    };
    assert!(json(&keys(JSON_KEYS_MAX)).is_ok());
    for count in [JSON_KEYS_MAX + 1, 100_000] {
        assert!(matches!(json(&keys(count)), Err(BodyError::TooManyKeys)), "{count}");
    }
    // All levels count together.
    let nested = format!(r#"{{"x":{},"y":{}}}"#, keys(31), keys(32));
    assert!(matches!(json(&nested), Err(BodyError::TooManyKeys)));
    let nested = format!(r#"{{"x":{},"y":{}}}"#, keys(31), keys(31));
    assert!(json(&nested).is_ok());
}

#[test]
fn protobuf_fields_64_are_read_and_65_are_not() {
    // qos = 1, over and over: the last wins, as protobuf says.
    let fields = |count: usize| [10 << 3, 1].repeat(count);
    assert!(Body::decode(Encoding::Protobuf, &fields(JSON_KEYS_MAX)).is_ok());
    assert!(matches!(Body::decode(Encoding::Protobuf, &fields(JSON_KEYS_MAX + 1)), Err(BodyError::TooManyKeys)));
    // Empty addresses, three bytes each in the stream and 24 in memory.
    let addresses = [0xD2, 0x01, 0].repeat(20_000);
    assert!(matches!(Body::decode(Encoding::Protobuf, &addresses), Err(BodyError::TooManyKeys)));
    // Map entries inside resume, two bytes each.
    let mut resume = vec![0x82, 0x01, 0x80, 0x01];
    resume.extend([0x12, 0x00].repeat(64));
    assert!(matches!(Body::decode(Encoding::Protobuf, &resume), Err(BodyError::TooManyKeys)));
    // Groups are the one thing that nests in a field nobody knows.
    let groups = [99u8 << 3 & 0x7F | 0x80 | 3, 0x06].repeat(50);
    assert!(Body::decode(Encoding::Protobuf, &groups).is_err());
}

#[test]
fn protobuf_that_ends_too_early_or_lies_about_a_length_is_refused() {
    let whole = Body { data: Some("hello".to_owned()), room_id: Some(300), ..Body::default() }.encode_to_vec();
    let boundary = 7; // data is 2 + 5 bytes
    for cut in 1..whole.len() {
        assert_eq!(Body::decode(Encoding::Protobuf, &whole[..cut]).is_ok(), cut == boundary, "cut at {cut}");
    }
    let lies: [&[u8]; 5] = [
        &[0x2A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F],                                     // data of 4 GiB
        &[0x2A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],       // data of 2^64 - 1
        &[0x38, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], // a varint of eleven bytes
        &[0x00, 0x01],                                                             // field number 0
        &[0x3A, 0x01, 0x31],                                                       // roomId as a string
    ];
    for lie in lies {
        assert!(Body::decode(Encoding::Protobuf, lie).is_err(), "{lie:02x?}");
    }
}

#[test]
fn a_known_field_twice_is_refused_in_json_and_the_last_one_wins_in_protobuf() {
    assert!(matches!(json(r#"{"userId":10086,"userId":10087}"#), Err(BodyError::Json(_))));
    assert!(matches!(json(r#"{"resume":{"inbox":"a","inbox":"b"}}"#), Err(BodyError::Json(_))));
    assert!(json(r#"{"later":1,"later":2}"#).is_ok(), "unknown fields are ignored, twice over too");
    let twice =
        [Body { qos: Some(0), ..Body::default() }.encode_to_vec(), Body { qos: Some(1), ..Body::default() }.encode_to_vec()].concat();
    assert_eq!(Body::decode(Encoding::Protobuf, &twice).expect("legal").qos, Some(1));
}

#[test]
fn numbers_that_are_no_integers_or_do_not_fit_are_refused() {
    for number in ["1e400", "-1e400", "1e3", "1.0", "-0", "-0.0", "9223372036854775808", "18446744073709551616", "\"1\"", "true", "{}"] {
        assert!(matches!(json(&format!(r#"{{"roomId":{number}}}"#)), Err(BodyError::Json(_))), "{number}");
        assert!(json(&format!(r#"{{"resume":{number}}}"#)).is_err() || number == "{}", "{number}");
    }
    let digits = "9".repeat(60_000);
    assert!(matches!(json(&format!(r#"{{"roomId":{digits}}}"#)), Err(BodyError::Json(_))));
    assert!(json(&format!(r#"{{"later":{digits}}}"#)).is_ok(), "an unknown field may be any JSON");
    assert!(json(r#"{"qos":2147483648}"#).is_err(), "qos is an i32");
    assert_eq!(json(r#"{"roomId":null,"addresses":null,"resume":null}"#).expect("null is the same as left out"), Body::default());
}

#[test]
fn ids_and_sequence_numbers_end_below_2_to_the_53() {
    let over = ID_MAX + 1;
    assert_eq!(over, 9_007_199_254_740_992);
    for field in ["roomId", "seq", "ts", "fromSeq", "serverTime", "audience", "afterMs", "retryAfterMs"] {
        assert!(json(&format!(r#"{{"{field}":0}}"#)).is_ok(), "{field}");
        assert!(json(&format!(r#"{{"{field}":{ID_MAX}}}"#)).is_ok(), "{field}");
        assert_out_of_range(json(&format!(r#"{{"{field}":{over}}}"#)), field);
        assert_out_of_range(json(&format!(r#"{{"{field}":-1}}"#)), field);
        assert_out_of_range(json(&format!(r#"{{"{field}":{}}}"#, i64::MIN)), field);
    }
    assert_out_of_range(json(&format!(r#"{{"userId":{over}}}"#)), "userId");
    assert_out_of_range(json(r#"{"userId":9999}"#), "userId");
    assert!(json(r#"{"userId":10000,"appId":10000}"#).is_ok());
    assert_out_of_range(json(r#"{"appId":9999}"#), "appId");
    assert_out_of_range(protobuf(&Body { room_id: Some(over), ..Body::default() }), "roomId");
    assert_out_of_range(protobuf(&Body { user_id: Some(-1), ..Body::default() }), "userId");
}

#[test]
fn ids_of_64_bytes_are_read_and_65_are_not() {
    for field in ["msgId", "fromId", "key", "deviceId", "platform", "version", "sessionId"] {
        assert!(json(&format!(r#"{{"{field}":"{}"}}"#, "x".repeat(ID_BYTES_MAX))).is_ok(), "{field}");
        assert_out_of_range(json(&format!(r#"{{"{field}":"{}"}}"#, "x".repeat(ID_BYTES_MAX + 1))), field);
        // Bytes, not characters.
        assert_out_of_range(json(&format!(r#"{{"{field}":"{}"}}"#, "\u{1F600}".repeat(ID_BYTES_MAX / 4 + 1))), field);
    }
    assert!(json(&format!(r#"{{"token":"{}"}}"#, "x".repeat(TOKEN_BYTES_MAX))).is_ok());
    assert_out_of_range(json(&format!(r#"{{"token":"{}"}}"#, "x".repeat(TOKEN_BYTES_MAX + 1))), "token");
    assert_out_of_range(protobuf(&Body { msg_id: Some("x".repeat(65)), ..Body::default() }), "msgId");
}

#[test]
fn a_resume_of_8_rooms_is_read_and_of_9_is_not() {
    let resume = |rooms: i64| Body {
        resume: Some(Resume { rooms: (1..=rooms).map(|room| (room, 7)).collect(), ..Resume::default() }),
        ..Body::default()
    };
    let most = i64::try_from(RESUME_ROOMS_MAX).expect("small");
    for encoding in Encoding::ALL {
        let full = resume(most);
        assert_eq!(Body::decode(encoding, &full.to_vec(encoding)).expect("legal"), full);
        assert_out_of_range(Body::decode(encoding, &resume(most + 1).to_vec(encoding)), "resume");
    }
    assert_out_of_range(json(r#"{"resume":{"rooms":{"-1":5}}}"#), "resume");
    assert_out_of_range(json(r#"{"resume":{"rooms":{"5":9007199254740992}}}"#), "resume");
    assert_out_of_range(json(r#"{"resume":-1}"#), "resume");
    assert!(json(r#"{"resume":{"rooms":{"x":5}}}"#).is_err(), "a room is a number, also as a key");
    assert!(json(r#"{"resume":[1]}"#).is_err());
}

#[test]
fn a_join_s_resume_is_a_number_in_json_and_a_message_in_protobuf() {
    let body = json(r#"{"roomId":7,"resume":4294967297}"#).expect("legal");
    assert_eq!(body.resume, Some(Resume { seq: Some(4_294_967_297), ..Resume::default() }));
    assert_eq!(body.to_vec(Encoding::Json), br#"{"roomId":7,"resume":4294967297}"#);
    assert_eq!(protobuf(&body).expect("legal"), body);
    // Both forms at once would say two things, and only one of them in JSON.
    let both = Resume { seq: Some(1), inbox: Some("ms-1".to_owned()), ..Resume::default() };
    assert_out_of_range(protobuf(&Body { resume: Some(both), ..Body::default() }), "resume");
}

#[test]
fn a_reconnect_names_at_most_16_addresses() {
    let addresses = |count: usize| Body { addresses: vec!["127.0.0.1:8085".to_owned(); count], ..Body::default() };
    for encoding in Encoding::ALL {
        assert!(Body::decode(encoding, &addresses(ADDRESSES_MAX).to_vec(encoding)).is_ok());
        assert!(Body::decode(encoding, &addresses(ADDRESSES_MAX + 1).to_vec(encoding)).is_err());
    }
}

#[test]
fn the_longest_legal_login_fits_the_limit_before_login_twice() {
    let text = || Some("x".repeat(ID_BYTES_MAX));
    let login = Body {
        app_id: Some(i32::MAX),
        user_id: Some(ID_MAX),
        token: Some("t".repeat(TOKEN_BYTES_MAX)),
        device_id: text(),
        platform: text(),
        version: text(),
        room_id: Some(ID_MAX),
        resume: Some(Resume { inbox: text(), rooms: (0..8).map(|room| (ID_MAX - room, ID_MAX)).collect(), seq: None }),
        ..Body::default()
    };
    for encoding in Encoding::ALL {
        let bytes = login.to_vec(encoding);
        assert!(bytes.len() * 2 < LOGIN_BODY_BYTES_MAX, "{} bytes", bytes.len());
        assert_eq!(Body::decode(encoding, &bytes).expect("legal"), login);
    }
}

#[test]
fn unknown_fields_are_ignored_in_both_encodings() {
    let body = json(r#"{"qos":1,"later":{"a":[1,2,{"b":null}]},"Qos":7}"#).expect("legal");
    assert_eq!(body, Body { qos: Some(1), ..Body::default() });
    // Field 100: a varint, eight bytes, a string, four bytes.
    let unknown: [&[u8]; 4] =
        [&[0xA0, 0x06, 5], &[0xA1, 0x06, 0, 0, 0, 0, 0, 0, 0, 0], &[0xA2, 0x06, 2, 0xFF, 0xFE], &[0xA5, 0x06, 0, 0, 0, 0]];
    for field in unknown {
        let bytes = [&[10 << 3, 1][..], field].concat();
        assert_eq!(Body::decode(Encoding::Protobuf, &bytes).expect("legal"), body);
    }
}

#[test]
fn a_push_is_written_as_the_protocol_page_shows_it() {
    let push = Body {
        biz_code: Some(5555),
        data: Some(r#"{"roomId":7,"content":"hi"}"#.to_owned()),
        room_id: Some(7),
        seq: Some(4_294_967_297),
        qos: Some(0),
        class: Some(2),
        ..Body::default()
    };
    let text = r#"{"bizCode":5555,"data":"{\"roomId\":7,\"content\":\"hi\"}","roomId":7,"seq":4294967297,"qos":0,"class":2}"#;
    let frame = encode(Encoding::Json, Code::Biz, &push);
    assert_eq!(&frame[10..], text.as_bytes());
    assert_eq!(frame[..10], [0x48, 0xF1, 0, 0, 0x03, 0xEB, 0, 0, 0, u8::try_from(text.len()).expect("short")]);
}
