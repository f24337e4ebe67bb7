//! The rules of the gateway's end, each crossed by one.

mod acks;
mod frames;
mod life;
mod login;
mod rooms;

use super::{LoginAccepted, ServerAction, ServerActions, ServerConfig, ServerSession, UpCall};
use crate::{push::Push, time::Time};
use billfish_wire::{Body, Code, Encoding, Frame, FrameError, Reason, Resume};
use std::sync::Arc;

const APP: i32 = 10_001;
const USER: i64 = 10_007;

struct End {
    session: ServerSession,
    config: ServerConfig,
    now: Time,
    out: ServerActions,
}

impl End {
    fn new() -> Self {
        let config = ServerConfig::default();
        Self { session: ServerSession::new(Time(0), &config), config, now: Time(0), out: ServerActions::default() }
    }

    fn live() -> Self {
        let mut end = Self::new();
        end.frame(Code::Login, &login());
        end.accept();
        assert!(end.session.is_live());
        // The inbox was empty.
        end.session.on_accepted(1, 0, 0, &mut end.out);
        assert!(end.drain().is_empty());
        end
    }

    fn frame(&mut self, code: Code, body: &Body) -> Vec<ServerAction> {
        self.frame_in(Encoding::Json, code, body)
    }

    fn frame_in(&mut self, encoding: Encoding, code: Code, body: &Body) -> Vec<ServerAction> {
        self.raw(Frame { encoding, code: code.number(), body: &body.to_vec(encoding) })
    }

    fn raw(&mut self, frame: Frame<'_>) -> Vec<ServerAction> {
        self.session.on_frame(self.now, &self.config, frame, &mut self.out);
        self.drain()
    }

    fn accept(&mut self) -> Vec<String> {
        let accepted = LoginAccepted { session_id: "s1".to_owned(), node: "n1".to_owned(), server_time_ms: 99 };
        self.session.on_login_accepted(self.now, &self.config, accepted, &mut self.out);
        self.drain().shown()
    }

    fn tick(&mut self, ms: u64) -> Vec<ServerAction> {
        self.now = Time(ms);
        self.session.on_tick(self.now, &self.config, &mut self.out);
        assert!(self.session.next_deadline(&self.config) > self.now, "a deadline that has come is done with");
        self.drain()
    }

    fn push(&mut self, push: &Arc<Push>) {
        self.session.on_push_sent(self.now, &self.config, push, &mut self.out);
    }

    fn ack(&mut self, msg_id: &str) -> Vec<String> {
        self.frame(Code::Ack, &Body { msg_id: text(msg_id), ..Body::default() }).shown()
    }

    fn join(&mut self, room_id: i64) -> u32 {
        let actions = self.frame(Code::Join, &room(room_id));
        let [ServerAction::Upstream { request, call }] = &actions[..] else { panic!("{actions:?}") };
        let UpCall::Join { was_in, .. } = **call else { panic!("{call:?}") };
        assert_eq!(was_in, self.session.rooms().any(|id| id == room_id));
        *request
    }

    fn enter(&mut self, room_id: i64) {
        let request = self.join(room_id);
        self.session.on_joined(request, room_id, 1, "{}".to_owned(), 1, &mut self.out);
        self.drain();
    }

    fn drain(&mut self) -> Vec<ServerAction> {
        std::iter::from_fn(|| self.out.next_action()).collect()
    }
}

/// Actions as short lines, so that a test reads like a transcript.
trait Shown {
    fn shown(&self) -> Vec<String>;
}

impl Shown for Vec<ServerAction> {
    fn shown(&self) -> Vec<String> {
        let id = |push: &Push| push.body().msg_id.clone().unwrap_or_default();
        let show = |action: &ServerAction| match action {
            ServerAction::Send { code, body } => sent(*code, (**body).clone()),
            ServerAction::SendHeartbeat { room_id } => format!("SendHeartbeat({room_id:?})"),
            ServerAction::Authenticate(request) => format!("Authenticate {request:?}"),
            ServerAction::Upstream { request, call } => format!("Upstream {request} {call:?}"),
            ServerAction::EnterRoom { room_id } => format!("EnterRoom {room_id}"),
            ServerAction::LeaveRoom { room_id } => format!("LeaveRoom {room_id}"),
            ServerAction::Alive => "Alive".to_owned(),
            ServerAction::AckedInTime => "AckedInTime".to_owned(),
            ServerAction::Acked { msg_id, room_id, recorded } => format!("Acked {msg_id} {room_id:?} {recorded}"),
            ServerAction::RecordAck { push, times_sent, due_in_ms } => {
                format!("RecordAck {} sent {times_sent} due {due_in_ms}", id(push))
            }
            ServerAction::Resend(push) => format!("Resend {}", id(push)),
            ServerAction::HandOver { push, recorded, missed } => {
                format!("HandOver {} recorded {recorded}{}", id(push), if *missed { " missed" } else { "" })
            }
            ServerAction::Close(reason) => format!("Close({reason:?})"),
        };
        self.iter().map(show).collect()
    }
}

fn sent(code: Code, body: Body) -> String {
    format!("{code:?} {}", String::from_utf8_lossy(&body.to_vec(Encoding::Json)))
}

fn error(reason: Reason) -> String {
    sent(Code::Error, Body::refusal(reason))
}

fn refused_and_closed(reason: Reason) -> [String; 2] {
    [error(reason), format!("Close({reason:?})")]
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn login() -> Body {
    Body { app_id: Some(APP), user_id: Some(USER), token: text("t"), ..Body::default() }
}

fn biz(msg_id: &str) -> Body {
    Body { biz_code: Some(5555), data: text("{}"), msg_id: text(msg_id), ..Body::default() }
}

fn room(room_id: i64) -> Body {
    Body { room_id: Some(room_id), ..Body::default() }
}

fn user_push(msg_id: &str) -> Arc<Push> {
    Arc::new(Push::new(Body { msg_id: text(msg_id), qos: Some(1), class: Some(1), data: text("{}"), ..Body::default() }))
}

fn room_push(room_id: i64, seq: i64) -> Arc<Push> {
    let msg_id = Some(format!("r{room_id}-{seq}"));
    Arc::new(Push::new(Body { msg_id, qos: Some(1), class: Some(1), seq: Some(seq), room_id: Some(room_id), ..Body::default() }))
}
