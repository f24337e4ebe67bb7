//! The opening handshake: the HTTP request that asks for a WebSocket, and its answer. RFC 6455, section 4.
//!
//! - A head is read again from its start with each piece that arrives, so nothing is kept here between two reads. Whoever sends it byte by
//!   byte costs some microseconds a byte, for at most [`HEAD_BYTES_MAX`] of them, or as many as the caller says.
//! - What is written comes from one side alone: nothing a peer sent is repeated to it but the proof of its key.
//! - No extension and no subprotocol is ever agreed on.
//!
//! Not here: which paths and origins are served. The caller looks at the [`Request`] and refuses with a [`Refusal`] of its own.

use base64::{Engine, engine::general_purpose::STANDARD};
use httparse::{EMPTY_HEADER, Header, Status};
use sha1::{Digest, Sha1};
use std::{io::Write, time::Duration};

/// Longest head, of an answer, and of a request unless the caller says otherwise. Browsers stay below 2 KiB unless the site has set cookies, and those end at 4 KiB each.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Most headers of a head. Browsers send some 15, and the proxies on the way add a few.
pub const HEADERS_MAX: usize = 64;

/// What the key is joined with before it is hashed: RFC 6455, section 1.3.
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The only version there is.
const VERSION: &str = "13";
const KEY_BYTES: usize = 16;
/// Length of 16 bytes in base64.
const KEY_TEXT_BYTES: usize = 24;
/// Length of a SHA-1 hash in base64.
const ACCEPT_BYTES: usize = 28;

/// A request for a WebSocket that follows every rule, borrowed from the bytes it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Path and query, as they were sent: begins with `/` and is printable ASCII.
    pub path: &'a str,
    /// Host and port that the client means.
    pub host: &'a str,
    /// The site whose page asks; programs that are no browsers leave it out.
    pub origin: Option<&'a str>,
    /// The client's key, in base64.
    pub key: &'a str,
    /// The subprotocols that the client speaks, the first header of them, unread. None is agreed on.
    pub protocols: Option<&'a str>,
}

/// Why a request is refused; knows its HTTP answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// 400: not HTTP, or a rule of the handshake is broken.
    #[error("bad request: {what}")]
    BadRequest {
        /// What is wrong with it.
        what: &'static str,
    },
    /// 403: pages of this origin may not connect. The caller's to say.
    #[error("this origin may not connect")]
    Forbidden,
    /// 404: there is nothing at this path. The caller's to say.
    #[error("no such path")]
    NotFound,
    /// 405: a WebSocket is asked for with GET.
    #[error("a WebSocket is asked for with GET")]
    MethodNotAllowed,
    /// 426: a request for something else, or for another version of WebSocket.
    #[error("only WebSocket is spoken here, version {VERSION}")]
    UpgradeRequired,
    /// 429: this client asks too often, or has too many connections. The caller's to say.
    #[error("too many of yours")]
    TooManyRequests {
        /// When to come back.
        retry_after: Duration,
    },
    /// 431: longer than it may be, or more headers than [`HEADERS_MAX`].
    #[error("more than {bytes_max} bytes or {HEADERS_MAX} headers")]
    HeadTooLarge {
        /// The longest there may be.
        bytes_max: usize,
    },
    /// 503: full, or about to stop. The caller's to say.
    #[error("not now")]
    ServiceUnavailable {
        /// When to come back.
        retry_after: Duration,
    },
    /// 505: HTTP, but not 1.1.
    #[error("only HTTP/1.1 is spoken here")]
    HttpVersion,
}

impl Refusal {
    /// The number of the HTTP answer.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest { .. } => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::UpgradeRequired => 426,
            Self::TooManyRequests { .. } => 429,
            Self::HeadTooLarge { .. } => 431,
            Self::ServiceUnavailable { .. } => 503,
            Self::HttpVersion => 505,
        }
    }

    /// Number and name of the HTTP answer, as they stand in its first line.
    #[must_use]
    pub const fn status_line(self) -> &'static str {
        match self {
            Self::BadRequest { .. } => "400 Bad Request",
            Self::Forbidden => "403 Forbidden",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::UpgradeRequired => "426 Upgrade Required",
            Self::TooManyRequests { .. } => "429 Too Many Requests",
            Self::HeadTooLarge { .. } => "431 Request Header Fields Too Large",
            Self::ServiceUnavailable { .. } => "503 Service Unavailable",
            Self::HttpVersion => "505 HTTP Version Not Supported",
        }
    }
}

/// Takes the request at the front of `input`: what it asks for and the bytes it took, or `None` when more must arrive. What stands behind
/// it are frames: a client may send them without waiting for the answer.
///
/// # Errors
/// Why it is refused; what is no HTTP at all is refused as soon as that can be seen. Nothing more may be read after it.
pub fn parse_request(input: &[u8]) -> Result<Option<(Request<'_>, usize)>, Refusal> {
    parse_request_within(input, HEAD_BYTES_MAX)
}

/// The same where a head may be longer or shorter than [`HEAD_BYTES_MAX`].
///
/// # Errors
/// As [`parse_request`].
pub fn parse_request_within(input: &[u8], bytes_max: usize) -> Result<Option<(Request<'_>, usize)>, Refusal> {
    let head = &input[..input.len().min(bytes_max)];
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let taken = match parsed.parse(head) {
        Ok(Status::Complete(taken)) => taken,
        Ok(Status::Partial) if head.len() == bytes_max => return Err(Refusal::HeadTooLarge { bytes_max }),
        Ok(Status::Partial) => return Ok(None),
        Err(error) => return Err(refusal_of(error, bytes_max)),
    };
    if parsed.method != Some("GET") {
        return Err(Refusal::MethodNotAllowed);
    }
    if parsed.version != Some(1) {
        return Err(Refusal::HttpVersion);
    }
    // A proxy is sent whole URLs, and we are none: what one would pass on to us begins with a slash.
    let path = parsed.path.unwrap_or_default();
    if !path.starts_with('/') || !is_printable(path.as_bytes()) {
        return Err(bad("the path"));
    }
    let request = check_headers(&Headers(parsed.headers), path)?;
    Ok(Some((request, taken)))
}

fn refusal_of(error: httparse::Error, bytes_max: usize) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::HeadTooLarge { bytes_max },
        httparse::Error::Version => Refusal::HttpVersion,
        httparse::Error::HeaderName
        | httparse::Error::HeaderValue
        | httparse::Error::NewLine
        | httparse::Error::Status
        | httparse::Error::Token => bad("not HTTP"),
    }
}

const fn bad(what: &'static str) -> Refusal {
    Refusal::BadRequest { what }
}

fn check_headers<'a>(headers: &Headers<'_, 'a>, path: &'a str) -> Result<Request<'a>, Refusal> {
    // First what every HTTP server must look at: two ends that disagree about where a request ends can be made to see two of them.
    let host = headers.one("Host").map_err(bad)?.ok_or(bad("no Host"))?;
    if headers.has("Transfer-Encoding") || headers.one("Content-Length").map_err(bad)?.is_some_and(|length| length != "0") {
        return Err(bad("a body"));
    }
    if !headers.lists("Upgrade", "websocket") || !headers.lists("Connection", "upgrade") {
        return Err(Refusal::UpgradeRequired);
    }
    if headers.one("Sec-WebSocket-Version").map_err(bad)? != Some(VERSION) {
        return Err(Refusal::UpgradeRequired);
    }
    let key = headers.one("Sec-WebSocket-Key").map_err(bad)?.ok_or(bad("no Sec-WebSocket-Key"))?;
    if !is_key(key) {
        return Err(bad("Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    let protocols = headers.all("Sec-WebSocket-Protocol").next().map(|value| text("Sec-WebSocket-Protocol", value)).transpose();
    Ok(Request { path, host, origin: headers.one("Origin").map_err(bad)?, key, protocols: protocols.map_err(bad)? })
}

fn is_key(key: &str) -> bool {
    // The decoder wants room for the longest that so many digits can say.
    let mut bytes = [0; KEY_TEXT_BYTES / 4 * 3];
    STANDARD.decode_slice(key, &mut bytes) == Ok(KEY_BYTES)
}

fn is_printable(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_graphic)
}

/// The headers of a head, looked at by name.
struct Headers<'h, 'a>(&'h [Header<'a>]);

impl<'a> Headers<'_, 'a> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    fn has(&self, name: &'static str) -> bool {
        self.all(name).next().is_some()
    }

    /// The value of a header that may stand there once; its name when it stands there twice, or is not printable ASCII.
    fn one(&self, name: &'static str) -> Result<Option<&'a str>, &'static str> {
        let mut values = self.all(name);
        let value = values.next().map(|value| text(name, value)).transpose()?;
        if values.next().is_some() { Err(name) } else { Ok(value) }
    }

    /// Whether a token is on the list that the headers of a name make together.
    fn lists(&self, name: &'static str, token: &str) -> bool {
        self.all(name)
            .flat_map(|list| list.split(|byte| *byte == b','))
            .any(|entry| entry.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }
}

/// A value without blanks around it. Within it they may stand; only lists of protocols have them.
fn text<'a>(name: &'static str, value: &'a [u8]) -> Result<&'a str, &'static str> {
    let value = value.trim_ascii();
    let is_plain = value.iter().all(|byte| matches!(byte, b' '..=b'~'));
    std::str::from_utf8(value).ok().filter(|_| is_plain).ok_or(name)
}

/// Appends the answer that opens the WebSocket: frames follow.
pub fn accept_into(out: &mut Vec<u8>, request: &Request<'_>) {
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ");
    out.extend_from_slice(&accept_of(request.key.as_bytes()));
    out.extend_from_slice(b"\r\n\r\n");
}

/// Proves that the key was read by somebody who speaks WebSocket.
fn accept_of(key: &[u8]) -> [u8; ACCEPT_BYTES] {
    let hash = Sha1::new().chain_update(key).chain_update(KEY_SUFFIX).finalize();
    let mut accept = [0; ACCEPT_BYTES];
    STANDARD.encode_slice(hash, &mut accept).expect("20 bytes are 28 digits");
    accept
}

/// Appends the answer that refuses: a line of text. The connection is closed behind it.
pub fn refusal_into(out: &mut Vec<u8>, refusal: &Refusal) {
    let text = format!("{refusal}\n");
    let more = match refusal {
        Refusal::MethodNotAllowed => "Connection: close\r\nAllow: GET\r\n".to_owned(),
        // RFC 9110, section 15.5.22: it names what to upgrade to; and RFC 6455, section 4.4: in which version.
        Refusal::UpgradeRequired => {
            format!("Connection: close, upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: {VERSION}\r\n")
        }
        // Rounded up: nobody is asked to come back before there is room.
        Refusal::TooManyRequests { retry_after } | Refusal::ServiceUnavailable { retry_after } => {
            format!(
                "Connection: close\r\nRetry-After: {}\r\n",
                retry_after.as_secs().saturating_add(u64::from(retry_after.subsec_nanos() > 0))
            )
        }
        Refusal::BadRequest { .. } | Refusal::Forbidden | Refusal::NotFound | Refusal::HeadTooLarge { .. } | Refusal::HttpVersion => {
            "Connection: close\r\n".to_owned()
        }
    };
    let (status, length) = (refusal.status_line(), text.len());
    write!(out, "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{more}\r\n{text}")
        .expect("a Vec takes all bytes");
}

/// A part of a request that would end its line, or its word, and begin something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{part} is not printable ASCII without blanks, or a path without its slash")]
pub struct UnwritableRequest {
    /// `host`, `path` or `origin`.
    pub part: &'static str,
}

/// Appends a client's request. The key is drawn anew for each; `path` has the query in it.
///
/// # Errors
/// A part that could not be written as it is; `out` is as it was.
pub fn request_into(
    out: &mut Vec<u8>,
    host: &str,
    path: &str,
    origin: Option<&str>,
    key: &[u8; KEY_BYTES],
) -> Result<(), UnwritableRequest> {
    for (part, value) in [("host", host), ("path", path), ("origin", origin.unwrap_or("null"))] {
        if value.is_empty() || !is_printable(value.as_bytes()) || part == "path" && !value.starts_with('/') {
            return Err(UnwritableRequest { part });
        }
    }
    let key = STANDARD.encode(key);
    write!(out, "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n").expect("a Vec takes all bytes");
    write!(out, "Sec-WebSocket-Version: {VERSION}\r\nSec-WebSocket-Key: {key}\r\n").expect("a Vec takes all bytes");
    if let Some(origin) = origin {
        write!(out, "Origin: {origin}\r\n").expect("a Vec takes all bytes");
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// An answer that opens no WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// The server understood and refuses.
    #[error("the server answered with status {status}")]
    Refused {
        /// Its HTTP status.
        status: u16,
        /// When to come back, if it said so in seconds.
        retry_after: Option<Duration>,
    },
    /// Not HTTP/1.1, or a rule of the handshake is broken: whoever answers does not speak WebSocket.
    #[error("not an answer of a WebSocket server: {what}")]
    NotWebSocket {
        /// What is wrong with it.
        what: &'static str,
    },
    /// Longer than [`HEAD_BYTES_MAX`], or more headers than [`HEADERS_MAX`].
    #[error("an answer of more than {HEAD_BYTES_MAX} bytes or {HEADERS_MAX} headers")]
    HeadTooLarge,
}

/// Takes the answer to a request with this key off the front of `input`: the bytes it took, or `None` when more must arrive. What stands
/// behind it are frames.
///
/// # Errors
/// See [`ResponseError`]. Nothing more may be read after it.
pub fn parse_response(input: &[u8], key: &[u8; KEY_BYTES]) -> Result<Option<usize>, ResponseError> {
    let head = &input[..input.len().min(HEAD_BYTES_MAX)];
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let taken = match parsed.parse(head) {
        Ok(Status::Complete(taken)) => taken,
        Ok(Status::Partial) if head.len() == HEAD_BYTES_MAX => return Err(ResponseError::HeadTooLarge),
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(ResponseError::HeadTooLarge),
        Err(_) => return Err(not_websocket("not HTTP")),
    };
    let headers = Headers(parsed.headers);
    match parsed.code {
        Some(101) => {}
        Some(status) => {
            let seconds = headers.one("Retry-After").ok().flatten().and_then(|seconds| seconds.parse().ok());
            return Err(ResponseError::Refused { status, retry_after: seconds.map(Duration::from_secs) });
        }
        None => return Err(not_websocket("no status")),
    }
    if parsed.version != Some(1) {
        return Err(not_websocket("not HTTP/1.1"));
    }
    if !headers.lists("Upgrade", "websocket") || !headers.lists("Connection", "upgrade") {
        return Err(not_websocket("no upgrade to websocket"));
    }
    if headers.has("Sec-WebSocket-Extensions") || headers.has("Sec-WebSocket-Protocol") {
        return Err(not_websocket("an extension or a protocol that was not asked for"));
    }
    let accept = headers.one("Sec-WebSocket-Accept").map_err(not_websocket)?;
    if accept.map(str::as_bytes) != Some(accept_of(STANDARD.encode(key).as_bytes()).as_slice()) {
        return Err(not_websocket("Sec-WebSocket-Accept does not prove the key"));
    }
    Ok(Some(taken))
}

const fn not_websocket(what: &'static str) -> ResponseError {
    ResponseError::NotWebSocket { what }
}
