//! The gateway's end of a session: what one frame costs it, in both encodings, and a push before it is shared.

use crate::{Path, wire::label};
use billfish_session::{
    Form, Push, Time,
    server::{LoginAccepted, ServerAction, ServerActions, ServerConfig, ServerSession},
};
use billfish_wire::{Body, Code, Encoding, Frame};
use std::{hint::black_box, sync::Arc};

const TIMES: u32 = 2_000;

pub(crate) fn paths() -> impl Iterator<Item = Path> {
    Encoding::ALL.into_iter().flat_map(|encoding| {
        let label = label(encoding);
        [
            Path::new(format!("session/login_to_logout/{label}"), TIMES, move |times| login_to_logout(times, encoding)),
            Path::new(format!("session/join/{label}"), TIMES, move |times| join(times, encoding)),
            Path::new(format!("session/biz/{label}"), TIMES, move |times| biz(times, encoding)),
            Path::new(format!("session/heartbeat/{label}"), TIMES, move |times| heartbeat(times, encoding)),
            Path::new(format!("session/push_and_ack/{label}"), TIMES, move |times| push_and_ack(times, encoding)),
            Path::new(format!("push/encode/{label}"), TIMES, move |times| push_encode(times, encoding)),
        ]
    })
}

/// Accepted, LOGIN, its verdict, and the end of the connection.
fn login_to_logout(times: u32, encoding: Encoding) {
    let config = patient();
    let mut out = ServerActions::default();
    let mut logged_in = 0;
    for _ in 0..times {
        let mut session = live(&config, encoding, &mut out);
        logged_in += u32::from(session.is_live());
        session.on_disconnected(&mut out);
        drain(&mut out);
    }
    assert_eq!(logged_in, times);
}

/// JOIN and its answer, LEAVE and its echo.
fn join(times: u32, encoding: Encoding) {
    let config = patient();
    let mut out = ServerActions::default();
    let mut session = live(&config, encoding, &mut out);
    let body = Body { room_id: Some(20_001), ..Body::default() }.to_vec(encoding);
    let mut joined = 0;
    for turn in 0..times {
        let now = Time(u64::from(turn) + 1);
        let frame = |code: Code| Frame { encoding, code: code.number(), body: black_box(&body) };
        session.on_frame(now, &config, frame(Code::Join), &mut out);
        session.on_joined(drain(&mut out), 20_001, 7, "{}".to_owned(), 3, &mut out);
        joined += u32::from(session.room_slot(20_001).is_some());
        session.on_frame(now, &config, frame(Code::Leave), &mut out);
        session.on_accepted(drain(&mut out), 0, 0, &mut out);
        drain(&mut out);
    }
    assert_eq!(joined, times);
}

/// A chat message and the router's answer.
fn biz(times: u32, encoding: Encoding) {
    let config = patient();
    let mut out = ServerActions::default();
    let mut session = live(&config, encoding, &mut out);
    let chat = Body {
        biz_code: Some(5555),
        room_id: Some(20_001),
        msg_id: Some("0197f0c2-7d1e-7a3b-9c55-2f8a61c0d4e7".to_owned()),
        data: Some(r#"{"roomId":20001,"content":"good evening from the other side of the river"}"#.to_owned()),
        ..Body::default()
    };
    let body = chat.to_vec(encoding);
    for turn in 0..times {
        let frame = Frame { encoding, code: Code::Biz.number(), body: black_box(&body) };
        session.on_frame(Time(u64::from(turn) + 1), &config, frame, &mut out);
        session.on_accepted(drain(&mut out), 1, 1, &mut out);
        drain(&mut out);
    }
    assert!(session.is_live(), "what is counted is not the refusal");
}

fn heartbeat(times: u32, encoding: Encoding) {
    let config = patient();
    let mut out = ServerActions::default();
    let mut session = live(&config, encoding, &mut out);
    for turn in 0..times {
        let frame = Frame { encoding, code: Code::Heartbeat.number(), body: black_box(b"") };
        session.on_frame(Time(u64::from(turn) + 1), &config, frame, &mut out);
        black_box(session.next_deadline(&config));
        drain(&mut out);
    }
    assert!(session.is_live(), "what is counted is not the refusal");
}

/// A QoS-1 push of a room, and its ACK.
fn push_and_ack(times: u32, encoding: Encoding) {
    let config = patient();
    let mut out = ServerActions::default();
    let mut session = live(&config, encoding, &mut out);
    let ack = Body { msg_id: Some("r20001-4294967297".to_owned()), ..Body::default() };
    let body = ack.to_vec(encoding);
    let push = Arc::new(Push::new(Body { room_id: Some(20_001), seq: Some(4_294_967_297), qos: Some(1), ..ack }));
    for turn in 0..times {
        let now = Time(u64::from(turn) + 1);
        session.on_push_sent(now, &config, &push, &mut out);
        session.on_frame(now, &config, Frame { encoding, code: Code::Ack.number(), body: black_box(&body) }, &mut out);
        drain(&mut out);
    }
    assert!(session.is_live(), "what is counted is not the refusal");
}

/// Once for each message and encoding, however many members the room has.
fn push_encode(times: u32, encoding: Encoding) {
    let body = Body {
        biz_code: Some(5555),
        room_id: Some(20_001),
        seq: Some(4_294_967_297),
        class: Some(2),
        data: Some("x".repeat(60)),
        ..Body::default()
    };
    let mut bytes = 0;
    for _ in 0..times {
        let push = Push::new(black_box(&body).clone());
        bytes += push.frame(Form::bare(encoding)).len();
    }
    assert!(bytes > 60 * times as usize);
}

/// Allowances that never run dry, so that every turn is as the one before.
fn patient() -> ServerConfig {
    ServerConfig { frames_per_s: u32::MAX, frames_burst: u32::MAX, bytes_per_s: u32::MAX, bytes_burst: u32::MAX, ..ServerConfig::default() }
}

fn live(config: &ServerConfig, encoding: Encoding, out: &mut ServerActions) -> ServerSession {
    let mut session = ServerSession::new(Time(0), config);
    let login = Body { app_id: Some(10_001), user_id: Some(10_007), token: Some("t".repeat(64)), ..Body::default() };
    session.on_frame(Time(0), config, Frame { encoding, code: Code::Login.number(), body: &login.to_vec(encoding) }, out);
    let accepted = LoginAccepted { session_id: "s".to_owned(), node: "n".to_owned(), server_time_ms: 1 };
    session.on_login_accepted(Time(0), config, accepted, out);
    // Whoever does not resume is sent his inbox, which is a call too.
    session.on_accepted(drain(out), 0, 0, out);
    drain(out);
    session
}

/// Takes what is to be done; gives the number of the call to a router among it, which its answer must have. 0: there was none.
fn drain(out: &mut ServerActions) -> u32 {
    let mut call = 0;
    while let Some(action) = out.next_action() {
        if let ServerAction::Upstream { request, .. } = &action {
            call = *request;
        }
        black_box(action);
    }
    call
}
