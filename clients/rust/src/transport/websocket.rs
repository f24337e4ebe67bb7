//! WebSocket, the client's end: binary messages, one frame each.
//!
//! Pings and closes are answered here; why a server closes is told as the session's reasons are.

use super::{Arrived, Lost, reason_of_label};
use billfish_websocket::{Decoder, Event, Opcode, Role, close, close_into, frame_into};
use billfish_wire::{Encoding, Frame, Reason, envelope, frame, limits::BODY_BYTES_MAX};
use tracing::debug;

/// What is remembered of a WebSocket between two reads.
#[derive(Debug, Default)]
pub(super) struct WebSocket {
    messages: Decoder,
}

impl WebSocket {
    /// Takes bytes apart; what is to be answered goes to the end of `out`.
    pub(super) fn cut(&mut self, opened: &mut [u8], out: &mut Vec<u8>, frames: &mut Vec<Arrived>) -> Result<(), Lost> {
        let mut messages = self.messages.feed(Role::Client, opened);
        loop {
            match messages.next(envelope::text_bytes_max(BODY_BYTES_MAX)) {
                Ok(None) => return Ok(()),
                Ok(Some(Event::Binary(message))) => match frame::decode(message, BODY_BYTES_MAX) {
                    Ok(Some((frame, length))) if length == message.len() => frames.push(Arrived::of(frame)),
                    Ok(_) => return Err(refuse(out, close::INVALID_DATA, Reason::Malformed)),
                    Err(error) => return Err(refuse(out, close::INVALID_DATA, error.reason())),
                },
                // We are answered as we speak; before we have spoken a server may take us for a page.
                Ok(Some(Event::Text(text))) => match envelope::decode(text, BODY_BYTES_MAX) {
                    Ok(envelope) => {
                        let frame = Frame { encoding: Encoding::Json, code: envelope.code, body: envelope.body.as_bytes() };
                        frames.push(Arrived::of(frame));
                    }
                    Err(error) => return Err(refuse(out, close::INVALID_DATA, error.reason())),
                },
                Ok(Some(Event::Ping(payload))) => frame_into(out, Opcode::Pong, payload, Some(random())),
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close { code, reason })) => {
                    debug!(code, reason, "the server closes");
                    close_into(out, code.unwrap_or(close::NORMAL), "", Some(random()));
                    return Err(Lost(reason_of(code, reason)));
                }
                Err(violation) => {
                    debug!(%violation, "the server broke the rules of WebSocket");
                    return Err(refuse(out, violation.close_code(), Reason::TransportFailed));
                }
            }
        }
    }
}

fn refuse(out: &mut Vec<u8>, code: u16, reason: Reason) -> Lost {
    close_into(out, code, reason.label(), Some(random()));
    Lost(reason)
}

/// One frame as a message.
pub(super) fn message_into(out: &mut Vec<u8>, frame: &[u8]) {
    frame_into(out, Opcode::Binary, frame, Some(random()));
}

/// We have nothing more to say.
pub(super) fn goodbye_into(out: &mut Vec<u8>) {
    close_into(out, close::NORMAL, "", Some(random()));
}

/// Masks and keys: nobody whose text we pass on may foresee what bytes it becomes (RFC 6455, section 10.3).
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    bytes
}

/// Our gateways name the reason by its label; others on the way have numbers alone.
fn reason_of(code: Option<u16>, text: &str) -> Reason {
    if let Some(reason) = reason_of_label(text) {
        return reason;
    }
    match code {
        Some(close::GOING_AWAY) => Reason::Drained,
        Some(close::TOO_LARGE) => Reason::TooLarge,
        Some(close::INTERNAL) => Reason::Internal,
        Some(close::TRY_AGAIN_LATER) => Reason::Unavailable,
        Some(code) => Reason::from_number(i32::from(code)).unwrap_or(Reason::PeerClosed),
        None => Reason::PeerClosed,
    }
}

#[cfg(test)]
mod tests {
    use super::{WebSocket, message_into, reason_of};
    use crate::transport::Lost;
    use billfish_websocket::{Decoder, Event, Opcode, Role, close_into, frame_into};
    use billfish_wire::{Body, Code, Encoding, Reason, frame};

    #[test]
    fn a_close_is_told_as_its_reason() {
        assert_eq!(reason_of(Some(4010), "duplicate_login"), Reason::DuplicateLogin);
        assert_eq!(reason_of(Some(4002), ""), Reason::BadToken);
        assert_eq!(reason_of(Some(1002), "heartbeat_lost"), Reason::HeartbeatLost);
        assert_eq!(reason_of(Some(1001), "proxy restarts"), Reason::Drained);
        assert_eq!(reason_of(Some(1000), ""), Reason::PeerClosed);
        assert_eq!(reason_of(None, ""), Reason::PeerClosed);
    }

    #[test]
    fn pings_are_answered_frames_come_out_and_a_close_is_echoed() {
        let mut stream = Vec::new();
        frame_into(&mut stream, Opcode::Ping, b"are you there", None);
        frame_into(&mut stream, Opcode::Binary, &frame::encode(Encoding::Json, Code::Heartbeat, &Body::yes()), None);
        close_into(&mut stream, 4012, "too_slow", None);
        let (mut out, mut frames) = (Vec::new(), Vec::new());
        assert_eq!(WebSocket::default().cut(&mut stream, &mut out, &mut frames), Err(Lost(Reason::TooSlow)));
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].frame().code, Code::Heartbeat.number());
        let mut server = Decoder::default();
        let mut answers = server.feed(Role::Server, &mut out);
        assert_eq!(answers.next(100), Ok(Some(Event::Pong(b"are you there"))));
        assert_eq!(answers.next(100), Ok(Some(Event::Close { code: Some(4012), reason: "" })));
    }

    #[test]
    fn what_is_said_is_masked_and_no_two_masks_are_alike() {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        message_into(&mut one, b"the same");
        message_into(&mut other, b"the same");
        assert_ne!(one, other);
        let mut server = Decoder::default();
        assert_eq!(server.feed(Role::Server, &mut one).next(100), Ok(Some(Event::Binary(b"the same"))));
    }
}
