//! The opening handshake from both sides: requests and answers that are believed, and those that are not.

use billfish_websocket::handshake::{
    HEAD_BYTES_MAX, HEADERS_MAX, Refusal, Request, ResponseError, accept_into, parse_request, parse_request_within, parse_response,
    refusal_into, request_into,
};
use proptest::prelude::*;
use std::time::Duration;

/// Of the example in RFC 6455, section 1.3.
const KEY_TEXT: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const KEY: &[u8; 16] = b"the sample nonce";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const GOOD: [(&str, &str); 5] = [
    ("Host", "example.com:8086"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", KEY_TEXT),
];

fn head(line: &str, headers: &[(&str, &str)]) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{line}\r\n{headers}\r\n")
}

/// A good request but for one header: another value, or none.
fn with(name: &str, value: Option<&str>) -> String {
    let headers: Vec<_> = GOOD.into_iter().filter(|(other, _)| *other != name).chain(value.map(|value| (name, value))).collect();
    head("GET /ws HTTP/1.1", &headers)
}

/// A good request with one header more.
fn and(name: &str, value: &str) -> String {
    head("GET /ws HTTP/1.1", &[&GOOD[..], &[(name, value)]].concat())
}

fn judge(request: &str) -> Result<(), Refusal> {
    match parse_request(request.as_bytes()) {
        Ok(Some((_, taken))) => {
            assert_eq!(taken, request.len(), "{request}");
            Ok(())
        }
        Ok(None) => panic!("whole, and more is wanted: {request}"),
        Err(refusal) => Err(refusal),
    }
}

#[test]
fn a_browser_s_request_says_what_it_wants() {
    let text = "GET /3b1f%2510001/10086/1001/20001?v=2 HTTP/1.1\r\n\
        Host: live.example.com:8086\r\n\
        Connection: keep-alive, Upgrade\r\n\
        Pragma: no-cache\r\n\
        Cache-Control: no-cache\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n\
        Upgrade: websocket\r\n\
        Origin: https://live.example.com\r\n\
        Sec-WebSocket-Version: 13\r\n\
        Accept-Encoding: gzip, deflate, br, zstd\r\n\
        Accept-Language: en-US,en;q=0.9\r\n\
        Cookie: name=v\u{e4}lue\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: chat, superchat\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    // What a client that does not wait for the answer sends behind it.
    let bytes = [text.as_bytes(), &[0x81, 0x80]].concat();
    let (request, taken) = parse_request(&bytes).expect("legal").expect("whole");
    let expected = Request {
        path: "/3b1f%2510001/10086/1001/20001?v=2",
        host: "live.example.com:8086",
        origin: Some("https://live.example.com"),
        key: KEY_TEXT,
        protocols: Some("chat, superchat"),
    };
    assert_eq!((request, taken), (expected, text.len()));
}

#[test]
fn an_answer_proves_the_key_and_agrees_on_nothing_else() {
    let text = and("Sec-WebSocket-Extensions", "permessage-deflate");
    let (request, _) = parse_request(text.as_bytes()).expect("legal").expect("whole");
    let mut out = b"before".to_vec();
    accept_into(&mut out, &request);
    let expected = format!(
        "beforeHTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
}

#[test]
fn requests_that_are_legal_in_other_words_are_believed() {
    let more = [
        with("Upgrade", Some("WebSocket")),
        with("Upgrade", Some("h2c , WEBSOCKET")),
        with("Connection", Some("upgrade")),
        with("Connection", Some("keep-alive,\tUPGRADE ,te")),
        // Two headers of a name are one list.
        and("Connection", "keep-alive"),
        and("Upgrade", "h2c"),
        and("Content-Length", "0"),
        and("Sec-WebSocket-Protocol", "chat"),
        and("Origin", "null"),
        and("X-Anything", ""),
        with("Host", Some("[::1]:8086")),
        good().replace("Sec-WebSocket-Key:", "sec-websocket-key:\t "),
        // Robust against a line end too many from the request before.
        format!("\r\n{}", good()),
    ];
    for request in more {
        assert_eq!(judge(&request), Ok(()), "{request}");
    }
}

fn good() -> String {
    head("GET /ws HTTP/1.1", &GOOD)
}

fn bad(what: &'static str) -> Refusal {
    Refusal::BadRequest { what }
}

#[test]
fn requests_that_break_a_rule_are_refused() {
    let line = |line: &str| head(line, &GOOD);
    let bad_key = bad("Sec-WebSocket-Key is not 16 bytes in base64");
    let table = [
        // The first line.
        (line("POST /ws HTTP/1.1"), Refusal::MethodNotAllowed),
        (line("get /ws HTTP/1.1"), Refusal::MethodNotAllowed),
        (line("OPTIONS * HTTP/1.1"), Refusal::MethodNotAllowed),
        (line("CONNECT example.com:80 HTTP/1.1"), Refusal::MethodNotAllowed),
        (line("GET /ws HTTP/1.0"), Refusal::HttpVersion),
        (line("GET /ws HTTP/2.0"), Refusal::HttpVersion),
        (line("GET http://example.com/ws HTTP/1.1"), bad("the path")),
        (line("GET ws HTTP/1.1"), bad("the path")),
        (line("GET * HTTP/1.1"), bad("the path")),
        (line("GET /\u{e4} HTTP/1.1"), bad("the path")),
        (line("GET /ws"), bad("not HTTP")),
        (line("GET /a b HTTP/1.1"), Refusal::HttpVersion),
        // Host.
        (with("Host", None), bad("no Host")),
        (and("Host", "example.com:8086"), bad("Host")),
        (with("Host", Some("ex\u{e4}mple.com")), bad("Host")),
        // A body, or two ends that could disagree about one.
        (and("Content-Length", "1"), bad("a body")),
        (and("Content-Length", "00"), bad("a body")),
        (and("Content-Length", "+0"), bad("a body")),
        (and("Content-Length", "0\r\nContent-Length: 0"), bad("Content-Length")),
        (and("Transfer-Encoding", "chunked"), bad("a body")),
        (and("transfer-encoding", ""), bad("a body")),
        // What it asks for.
        (with("Upgrade", None), Refusal::UpgradeRequired),
        (with("Upgrade", Some("h2c")), Refusal::UpgradeRequired),
        (with("Upgrade", Some("websockets")), Refusal::UpgradeRequired),
        (with("Upgrade", Some("web socket")), Refusal::UpgradeRequired),
        (with("Connection", None), Refusal::UpgradeRequired),
        (with("Connection", Some("keep-alive")), Refusal::UpgradeRequired),
        (with("Connection", Some("no-upgrade")), Refusal::UpgradeRequired),
        (head("GET / HTTP/1.1", &GOOD[..1]), Refusal::UpgradeRequired),
        (with("Sec-WebSocket-Version", None), Refusal::UpgradeRequired),
        (with("Sec-WebSocket-Version", Some("8")), Refusal::UpgradeRequired),
        (with("Sec-WebSocket-Version", Some("13, 8")), Refusal::UpgradeRequired),
        (and("Sec-WebSocket-Version", "13"), bad("Sec-WebSocket-Version")),
        // The key.
        (with("Sec-WebSocket-Key", None), bad("no Sec-WebSocket-Key")),
        (and("Sec-WebSocket-Key", KEY_TEXT), bad("Sec-WebSocket-Key")),
        (with("Sec-WebSocket-Key", Some("")), bad_key),
        (with("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZQ")), bad_key),
        (with("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZQ=")), bad_key),
        (with("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZQAA")), bad_key),
        (with("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZSE=")), bad_key),
        (with("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZR==")), bad_key),
        (with("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25j!Q==")), bad_key),
        (with("Sec-WebSocket-Key", Some("dGhlIHNhbXBs ZSBub25jZQ=")), bad_key),
        // Others that may stand there once.
        (and("Origin", "https://a.example\r\nOrigin: https://b.example"), bad("Origin")),
        (and("Origin", "https://\u{e4}.example"), bad("Origin")),
        (and("Sec-WebSocket-Protocol", "ch\u{e4}t"), bad("Sec-WebSocket-Protocol")),
        // Header lines that two parsers read in two ways.
        (good().replace("Host:", "Host :"), bad("not HTTP")),
        (good().replace("Upgrade: websocket", "Upgrade:\r\n websocket"), bad("not HTTP")),
        (good().replace("Upgrade: websocket", "Upgrade"), bad("not HTTP")),
        (good().replace("websocket", "web\0socket"), bad("not HTTP")),
        (good().replace("websocket\r\n", "websocket\r"), bad("not HTTP")),
    ];
    for (request, refusal) in table {
        assert_eq!(judge(&request), Err(refusal), "{request}");
    }
}

#[test]
fn what_is_no_http_is_refused_before_its_end() {
    for bytes in [&b"\x16\x03\x01"[..], b"\x48\xF1\x00", b"\0", b"GET /ws HTTP/1.1\r\nHost: a\0"] {
        assert_eq!(parse_request(bytes), Err(bad("not HTTP")));
    }
    assert_eq!(parse_request(b"PRI * HTTP/2"), Err(Refusal::HttpVersion));
}

#[test]
fn a_head_waits_for_its_last_byte_wherever_it_is_cut() {
    let request = and("Origin", "https://a.example");
    for cut in 0..request.len() {
        assert_eq!(parse_request(&request.as_bytes()[..cut]), Ok(None), "cut at {cut}");
    }
    assert_eq!(judge(&request), Ok(()));
    let mut response = Vec::new();
    let (parsed, _) = parse_request(request.as_bytes()).expect("legal").expect("whole");
    accept_into(&mut response, &parsed);
    for cut in 0..response.len() {
        assert_eq!(parse_response(&response[..cut], KEY), Ok(None), "cut at {cut}");
    }
    assert_eq!(parse_response(&response, KEY), Ok(Some(response.len())));
    // Frames of a server that speaks first.
    response.extend([0x81, 0x00]);
    assert_eq!(parse_response(&response, KEY), Ok(Some(response.len() - 2)));
}

const TOO_LARGE: Refusal = Refusal::HeadTooLarge { bytes_max: HEAD_BYTES_MAX };

#[test]
fn a_head_of_8_kib_is_read_and_of_one_byte_more_is_not() {
    let padded = |bytes: usize| {
        let empty = and("Cookie", "").len();
        and("Cookie", &"x".repeat(bytes - empty))
    };
    assert_eq!(judge(&padded(HEAD_BYTES_MAX)), Ok(()));
    assert_eq!(judge(&padded(HEAD_BYTES_MAX + 1)), Err(TOO_LARGE));
    // Without an end in sight too; one byte less may still come to one.
    let endless = padded(2 * HEAD_BYTES_MAX);
    assert_eq!(parse_request(&endless.as_bytes()[..HEAD_BYTES_MAX]), Err(TOO_LARGE));
    assert_eq!(parse_request(&endless.as_bytes()[..HEAD_BYTES_MAX - 1]), Ok(None));
    // Frames behind the head do not count.
    let with_frames = [padded(HEAD_BYTES_MAX).as_bytes(), &[0; 100_000]].concat();
    assert!(matches!(parse_request(&with_frames), Ok(Some((_, HEAD_BYTES_MAX)))));

    // Another bound, where the house has one: this time it is longer than the default.
    let long = padded(HEAD_BYTES_MAX + 100);
    assert!(matches!(parse_request_within(long.as_bytes(), HEAD_BYTES_MAX + 100), Ok(Some(_))));
    let bytes_max = HEAD_BYTES_MAX + 99;
    assert_eq!(parse_request_within(long.as_bytes(), bytes_max), Err(Refusal::HeadTooLarge { bytes_max }));

    let response = format!("HTTP/1.1 101 x\r\nX: {}", "x".repeat(HEAD_BYTES_MAX));
    assert_eq!(parse_response(response.as_bytes(), KEY), Err(ResponseError::HeadTooLarge));
}

#[test]
fn a_head_of_64_headers_is_read_and_of_65_is_not() {
    let many = |count: usize| {
        let more: Vec<_> = std::iter::repeat_n(("X", "y"), count - GOOD.len()).collect();
        head("GET /ws HTTP/1.1", &[&GOOD[..], &more].concat())
    };
    assert_eq!(judge(&many(HEADERS_MAX)), Ok(()));
    assert_eq!(judge(&many(HEADERS_MAX + 1)), Err(TOO_LARGE));
    let response = head("HTTP/1.1 101 x", &[("X", "y"); HEADERS_MAX + 1]);
    assert_eq!(parse_response(response.as_bytes(), KEY), Err(ResponseError::HeadTooLarge));
}

#[test]
fn a_refusal_is_a_whole_answer_that_ends_the_connection() {
    let retry_after = Duration::from_millis(1_500);
    let table = [
        (bad("no Host"), "400 Bad Request", "Connection: close", "bad request: no Host"),
        (Refusal::Forbidden, "403 Forbidden", "Connection: close", "this origin may not connect"),
        (Refusal::NotFound, "404 Not Found", "Connection: close", "no such path"),
        (Refusal::MethodNotAllowed, "405 Method Not Allowed", "Connection: close\r\nAllow: GET", "a WebSocket is asked for with GET"),
        (
            Refusal::UpgradeRequired,
            "426 Upgrade Required",
            "Connection: close, upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
            "only WebSocket is spoken here, version 13",
        ),
        (TOO_LARGE, "431 Request Header Fields Too Large", "Connection: close", "more than 8192 bytes or 64 headers"),
        // Rounded up.
        (Refusal::TooManyRequests { retry_after }, "429 Too Many Requests", "Connection: close\r\nRetry-After: 2", "too many of yours"),
        (Refusal::ServiceUnavailable { retry_after }, "503 Service Unavailable", "Connection: close\r\nRetry-After: 2", "not now"),
        (Refusal::HttpVersion, "505 HTTP Version Not Supported", "Connection: close", "only HTTP/1.1 is spoken here"),
    ];
    for (refusal, status, headers, text) in table {
        let mut out = Vec::new();
        refusal_into(&mut out, &refusal);
        let length = text.len() + 1;
        let expected = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{headers}\r\n\r\n{text}\n");
        assert_eq!(String::from_utf8(out.clone()).expect("ASCII"), expected);
        assert_eq!(refusal.status_line(), status);
        assert!(status.starts_with(&refusal.status().to_string()));
        let told =
            matches!(refusal, Refusal::TooManyRequests { .. } | Refusal::ServiceUnavailable { .. }).then_some(Duration::from_secs(2));
        assert_eq!(parse_response(&out, KEY), Err(ResponseError::Refused { status: refusal.status(), retry_after: told }));
    }
}

#[test]
fn a_client_s_request_is_the_one_a_server_believes() {
    for origin in [None, Some("https://a.example")] {
        let mut out = b"before".to_vec();
        request_into(&mut out, "example.com:8086", "/ws?v=2", origin, KEY).expect("writable");
        let (request, taken) = parse_request(&out[6..]).expect("legal").expect("whole");
        let expected = Request { path: "/ws?v=2", host: "example.com:8086", origin, key: KEY_TEXT, protocols: None };
        assert_eq!((request, taken), (expected, out.len() - 6));
        let mut response = Vec::new();
        accept_into(&mut response, &request);
        assert_eq!(parse_response(&response, KEY), Ok(Some(response.len())));
    }
}

#[test]
fn a_request_cannot_be_talked_into_another_header() {
    let write = |host: &str, path: &str, origin: Option<&str>| {
        let mut out = Vec::new();
        let result = request_into(&mut out, host, path, origin, KEY).map_err(|error| error.part);
        assert_eq!(result.is_err(), out.is_empty());
        result
    };
    for bad in ["", "a\r\nX: y", "a\n", "a b", "\u{e4}", "a\0"] {
        assert_eq!(write(bad, "/", None), Err("host"));
        assert_eq!(write("a", &format!("/{bad}"), None), if bad.is_empty() { Ok(()) } else { Err("path") });
        assert_eq!(write("a", "/", Some(bad)), Err("origin"));
    }
    assert_eq!(write("a", "", None), Err("path"));
    assert_eq!(write("a", "ws", None), Err("path"));
    assert_eq!(write("a", "/", Some("null")), Ok(()));
}

#[test]
fn answers_that_break_a_rule_are_refused() {
    let good = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", ACCEPT)];
    let answer = |line: &str, headers: &[(&str, &str)]| parse_response(head(line, headers).as_bytes(), KEY);
    let line = "HTTP/1.1 101 Switching Protocols";
    let without = |name: &str| -> Vec<(&str, &str)> { good.into_iter().filter(|(other, _)| *other != name).collect() };
    let and = |name: &'static str, value: &'static str| [&good[..], &[(name, value)]].concat();
    let not = |what: &'static str| Err(ResponseError::NotWebSocket { what });

    assert!(matches!(answer(line, &good), Ok(Some(_))));
    assert!(matches!(answer(line, &[("upgrade", "WebSocket"), ("connection", "keep-alive, upgrade"), good[2]]), Ok(Some(_))));
    assert!(matches!(answer("HTTP/1.1 101", &good), Ok(Some(_))));

    assert_eq!(answer("HTTP/1.0 101 x", &good), not("not HTTP/1.1"));
    assert_eq!(answer("SSH-2.0-x", &good), not("not HTTP"));
    assert_eq!(answer(line, &without("Upgrade")), not("no upgrade to websocket"));
    assert_eq!(answer(line, &without("Connection")), not("no upgrade to websocket"));
    let unproved = "Sec-WebSocket-Accept does not prove the key";
    assert_eq!(answer(line, &without("Sec-WebSocket-Accept")), not(unproved));
    assert_eq!(answer(line, &[good[0], good[1], ("Sec-WebSocket-Accept", KEY_TEXT)]), not(unproved));
    assert_eq!(answer(line, &[good[0], good[1], ("Sec-WebSocket-Accept", "S3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]), not(unproved));
    assert_eq!(parse_response(head(line, &good).as_bytes(), &[0; 16]), not(unproved));
    assert_eq!(answer(line, &and("Sec-WebSocket-Accept", ACCEPT)), not("Sec-WebSocket-Accept"));
    let unasked = "an extension or a protocol that was not asked for";
    assert_eq!(answer(line, &and("Sec-WebSocket-Extensions", "permessage-deflate")), not(unasked));
    assert_eq!(answer(line, &and("Sec-WebSocket-Protocol", "chat")), not(unasked));

    for (status, retry, seconds) in [(200, "", None), (301, "", None), (503, "7", Some(7)), (503, "Fri, 31 Dec", None), (503, "-1", None)] {
        let expected = Err(ResponseError::Refused { status, retry_after: seconds.map(Duration::from_secs) });
        assert_eq!(answer(&format!("HTTP/1.1 {status} x"), &[("Retry-After", retry)]), expected);
    }
}

proptest! {
    #[test]
    fn any_key_is_proved_to_its_owner_alone(key: [u8; 16], other: [u8; 16]) {
        let mut request = Vec::new();
        request_into(&mut request, "a", "/", None, &key).expect("writable");
        let (parsed, _) = parse_request(&request).expect("legal").expect("whole");
        let mut response = Vec::new();
        accept_into(&mut response, &parsed);
        prop_assert_eq!(parse_response(&response, &key), Ok(Some(response.len())));
        prop_assert_eq!(parse_response(&response, &other).is_ok(), key == other);
    }
}
