//! WebSocket on a shard's reactor: messages in, frames out, and the other way round as a [`Form`].
//!
//! - Two paths: `/ws`, behind which LOGIN comes as a frame, and `/{token}/{userId}/{code}/{param}`, which is the LOGIN.
//! - A text message is an envelope around a JSON body, a binary one is exactly one frame. What the first message is, the answers are.
//! - An idle WebSocket is two bytes of its connection.

use super::{Bounds, End, Scratch};
use crate::shard::message::TurnedAway;
use billfish_session::Form;
use billfish_websocket::{
    Decoder, Event, FRAGMENTS_MAX, Opcode, Role, close, close_into, frame_into,
    handshake::{self, Refusal},
};
use billfish_wire::{Body, Code, Encoding, Reason, envelope, frame, limits};
use std::time::Duration;

/// What is asked of a WebSocket beside the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketRules {
    /// Origins that pages may connect from; empty: any. A client that is no page names none, and may.
    pub origins: Vec<String>,
    /// Longest head of a request.
    pub head_bytes_max: usize,
    /// Most fragments of one message.
    pub fragments_max: usize,
}

impl Default for WebSocketRules {
    fn default() -> Self {
        Self { origins: Vec::new(), head_bytes_max: handshake::HEAD_BYTES_MAX, fragments_max: FRAGMENTS_MAX }
    }
}

impl WebSocketRules {
    fn allows(&self, origin: Option<&str>) -> bool {
        self.origins.is_empty() || origin.is_none_or(|origin| self.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)))
    }
}

/// How far a WebSocket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WebSocket {
    speaks: Speaks,
    by_path: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    /// The request is not complete.
    Http,
    /// No message has come.
    Nothing,
    Text,
    Binary,
}

/// What has begun and not ended.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// The beginning of the request.
    head: Vec<u8>,
    messages: Decoder,
    /// What the Close frame says that ends it, where the peer has settled that.
    parting: Option<Parting>,
}

/// Why there is nothing more to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parting {
    /// The peer has said Close, with this code or with none: it hears the same.
    Echo(Option<u16>),
    /// A rule was broken, and this is its code.
    Violation(u16),
}

impl Begun {
    pub(super) fn is_idle(&self) -> bool {
        self.head.is_empty() && !self.messages.is_partial() && self.parting.is_none()
    }

    /// The peer has said Close, and waits for ours.
    pub(super) const fn awaits_close(&self) -> bool {
        matches!(self.parting, Some(Parting::Echo(_)))
    }
}

impl WebSocket {
    /// A connection whose request has not come.
    pub(super) const UPGRADING: Self = Self { speaks: Speaks::Http, by_path: false };

    pub(super) const fn is_upgrading(self) -> bool {
        matches!(self.speaks, Speaks::Http)
    }

    pub(super) const fn logged_in_by_path(self) -> bool {
        self.by_path
    }

    pub(super) const fn form(self, encoding: Encoding) -> Form {
        match self.speaks {
            Speaks::Http | Speaks::Nothing | Speaks::Text => Form::Text,
            Speaks::Binary => Form::message(encoding),
        }
    }

    /// Takes bytes apart. Frames go to `scratch.frames`, answers to `scratch.reply`.
    pub(super) fn open(
        &mut self,
        begun: &mut Begun,
        arrived: &mut [u8],
        bounds: Bounds<'_>,
        scratch: &mut Scratch,
        controls: &mut u32,
    ) -> Option<End> {
        if !self.is_upgrading() {
            return self.open_messages(begun, arrived, bounds, scratch, controls);
        }
        let is_new = begun.head.is_empty();
        let mut head = std::mem::take(&mut begun.head);
        head.extend_from_slice(arrived);
        // A request that comes byte by byte is not read anew with each of them: it ends with a line. What is no request is told so at once.
        let says_something =
            arrived.contains(&b'\n') || (is_new && head.first() != Some(&b'G')) || head.len() > bounds.websocket.head_bytes_max;
        if !says_something {
            begun.head = head;
            return None;
        }
        match handshake::parse_request_within(&head, bounds.websocket.head_bytes_max) {
            Ok(None) => {
                head.shrink_to_fit();
                begun.head = head;
                None
            }
            Ok(Some((request, used))) => match self.upgrade(&request, bounds, scratch) {
                Ok(()) => self.open_messages(begun, &mut head[used..], bounds, scratch, controls),
                Err(refusal) => {
                    handshake::refusal_into(&mut scratch.reply, &refusal);
                    Some(End::Refused)
                }
            },
            Err(refusal) => {
                handshake::refusal_into(&mut scratch.reply, &refusal);
                Some(End::Refused)
            }
        }
    }

    fn upgrade(&mut self, request: &handshake::Request<'_>, bounds: Bounds<'_>, scratch: &mut Scratch) -> Result<(), Refusal> {
        if !bounds.websocket.allows(request.origin) {
            return Err(Refusal::Forbidden);
        }
        let path = request.path.split_once('?').map_or(request.path, |(path, _)| path);
        if path == "/ws" {
            self.speaks = Speaks::Nothing;
        } else {
            let login = login_of(path).ok_or(Refusal::NotFound)?;
            frame::encode_into(&mut scratch.frames, Encoding::Json, Code::Login, &login);
            // The documents this path comes from know no other kind of message.
            *self = Self { speaks: Speaks::Text, by_path: true };
        }
        handshake::accept_into(&mut scratch.reply, request);
        Ok(())
    }

    fn open_messages(
        &mut self,
        begun: &mut Begun,
        arrived: &mut [u8],
        bounds: Bounds<'_>,
        scratch: &mut Scratch,
        controls: &mut u32,
    ) -> Option<End> {
        let mut messages = begun.messages.feed(Role::Server, arrived).within_fragments(bounds.websocket.fragments_max);
        // The answer to the last of several pings is an answer to all of them, as RFC 6455 5.5.3 has it.
        let before_pong = scratch.reply.len();
        loop {
            // The first message is a LOGIN; what follows it in the same piece is read by the rules of a session.
            let body_bytes_max = if self.speaks == Speaks::Nothing { bounds.login_body_bytes_max } else { bounds.body_bytes_max };
            match messages.next(envelope::text_bytes_max(body_bytes_max)) {
                Ok(None) => return None,
                Ok(Some(Event::Text(text))) => {
                    self.first_is(Speaks::Text);
                    if let Err(reason) = text_into(&mut scratch.frames, text, body_bytes_max) {
                        return Some(End::Broken(reason));
                    }
                }
                Ok(Some(Event::Binary(message))) => {
                    self.first_is(Speaks::Binary);
                    match frame::decode(message, body_bytes_max) {
                        Ok(Some((_, length))) if length == message.len() => scratch.frames.extend_from_slice(message),
                        Ok(_) => return Some(End::Broken(Reason::Malformed)),
                        Err(error) => return Some(End::Broken(error.reason())),
                    }
                }
                Ok(Some(Event::Ping(payload))) => {
                    *controls += 1;
                    scratch.reply.truncate(before_pong);
                    frame_into(&mut scratch.reply, Opcode::Pong, payload, None);
                }
                Ok(Some(Event::Pong(_))) => *controls += 1,
                Ok(Some(Event::Close { code, .. })) => {
                    // Behind the answers to what came before it: after a Close no frame may follow.
                    begun.parting = Some(Parting::Echo(code));
                    return Some(End::Closed);
                }
                Err(violation) => {
                    begun.parting = Some(Parting::Violation(violation.close_code()));
                    let is_too_large = violation.close_code() == close::TOO_LARGE;
                    return Some(End::Broken(if is_too_large { Reason::TooLarge } else { Reason::Malformed }));
                }
            }
        }
    }

    fn first_is(&mut self, kind: Speaks) {
        if self.speaks == Speaks::Nothing {
            self.speaks = kind;
        }
    }

    /// Appends the answer to a request that has not been read: the peer may not come in, whatever it asks for.
    pub(super) fn refusal_into(self, out: &mut Vec<u8>, refusal: TurnedAway) {
        debug_assert!(self.is_upgrading(), "who speaks is told by a Close frame");
        let retry_after = Duration::from_millis(refusal.retry_after_ms);
        let is_theirs = refusal.reason == Reason::RateLimited;
        let refusal = if is_theirs { Refusal::TooManyRequests { retry_after } } else { Refusal::ServiceUnavailable { retry_after } };
        handshake::refusal_into(out, &refusal);
    }

    /// Appends the Close frame for a connection that ends.
    pub(super) fn part_into(self, begun: Option<&Begun>, out: &mut Vec<u8>, reason: Reason) {
        if self.is_upgrading() {
            return;
        }
        match begun.and_then(|begun| begun.parting) {
            // RFC 6455, section 5.5.1: the code that was received, and where there was none, none.
            Some(Parting::Echo(Some(code))) => close_into(out, code, "", None),
            Some(Parting::Echo(None)) => frame_into(out, Opcode::Close, &[], None),
            Some(Parting::Violation(code)) => close_into(out, code, reason.label(), None),
            None => close_into(out, close_code(reason), reason.label(), None),
        }
    }
}

/// Reads an envelope and appends the frame it stands for.
fn text_into(frames: &mut Vec<u8>, text: &str, body_bytes_max: usize) -> Result<(), Reason> {
    let envelope = envelope::decode(text, body_bytes_max).map_err(|error| error.reason())?;
    frame::encode_raw_into(frames, Encoding::Json.magic(), envelope.code, envelope.body.as_bytes());
    Ok(())
}

/// The LOGIN that a path is: `/{token}/{userId}/{code}/{param}`, where code 1001 makes of `param` the room to enter.
fn login_of(path: &str) -> Option<Body> {
    let mut parts = path.strip_prefix('/')?.split('/');
    let (token, user_id, code, param) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || token.is_empty() {
        return None;
    }
    let token = percent_encoding::percent_decode_str(token).decode_utf8().ok()?.into_owned();
    let user_id = user_id.parse().ok()?;
    let enters_room = code.parse::<i32>().ok()? == Code::Login.number();
    let room_id = if enters_room { Some(param.parse().ok()?).filter(|room_id| *room_id > 0) } else { None };
    Some(Body { app_id: Some(limits::APP_ID_DEFAULT), user_id: Some(user_id), token: Some(token), room_id, ..Body::default() })
}

/// What a page is told: our own number where it is in the range that is left to applications.
fn close_code(reason: Reason) -> u16 {
    match reason {
        Reason::LoggedOut | Reason::PeerClosed => close::NORMAL,
        Reason::Drained => close::GOING_AWAY,
        Reason::TooLarge => close::TOO_LARGE,
        // A service's answer ends no connection.
        Reason::Internal
        | Reason::PkTaken
        | Reason::NotCovered
        | Reason::UnknownGift
        | Reason::UuidReused
        | Reason::NotAReceiver
        | Reason::PriceChanged => close::INTERNAL,
        Reason::Unavailable => close::TRY_AGAIN_LATER,
        Reason::HeartbeatLost | Reason::FrameTimeout | Reason::WriteStalled | Reason::TransportFailed => close::PROTOCOL_ERROR,
        Reason::Malformed
        | Reason::NotLoggedIn
        | Reason::BadToken
        | Reason::NotYourUser
        | Reason::RoomNotFound
        | Reason::Muted
        | Reason::Banned
        | Reason::RateLimited
        | Reason::UnknownCode
        | Reason::DuplicateLogin
        | Reason::LoginTimeout
        | Reason::TooSlow => reason.number().and_then(|number| u16::try_from(number).ok()).unwrap_or(close::INTERNAL),
    }
}

#[cfg(test)]
mod tests {
    use super::{close_code, login_of};
    use billfish_websocket::close;
    use billfish_wire::Reason;

    #[test]
    fn every_reason_has_a_code_that_may_be_sent_and_ours_are_our_numbers() {
        for reason in Reason::ALL {
            let code = close_code(reason);
            assert!(close::is_legal(code), "{reason:?}: {code}");
            if code >= 4_000 {
                assert_eq!(Some(i32::from(code)), reason.number(), "{reason:?}");
            }
        }
        assert_eq!(close_code(Reason::TooSlow), 4012);
    }

    #[test]
    fn a_path_is_a_login_of_four_parts() {
        let login = login_of("/a%2Fb%25c/20001/1001/30001").unwrap();
        assert_eq!((login.token.as_deref(), login.user_id, login.room_id), (Some("a/b%c"), Some(20_001), Some(30_001)));
        // Only code 1001 enters a room, and 0 is none.
        assert_eq!(login_of("/t/20001/1003/30001").unwrap().room_id, None);
        assert_eq!(login_of("/t/20001/1001/0").unwrap().room_id, None);
        for path in ["", "/", "/t", "/t/1/1001", "//1/1001/1", "/t/x/1001/1", "/t/1/1001/x", "/t/1/1001/1/", "/%FF/1/1001/1", "t/1/1001/1"]
        {
            assert!(login_of(path).is_none(), "{path}");
        }
    }
}
