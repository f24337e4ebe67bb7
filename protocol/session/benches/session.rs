//! What one frame costs in the gateway's end of a session. No socket: this is the protocol's share.

use billfish_session::{
    Push, Time,
    server::{LoginAccepted, ServerAction, ServerActions, ServerConfig, ServerSession},
};
use billfish_wire::{Body, Code, Encoding, Frame};
use criterion::{Criterion, criterion_group, criterion_main};
use std::{hint::black_box, sync::Arc};

fn on_frame(criterion: &mut Criterion) {
    let config = ServerConfig {
        frames_per_s: u32::MAX,
        frames_burst: u32::MAX,
        bytes_per_s: u32::MAX,
        bytes_burst: u32::MAX,
        ..ServerConfig::default()
    };
    let chat = Body {
        biz_code: Some(5555),
        room_id: Some(20_001),
        msg_id: Some("0197f0c2-7d1e-7a3b-9c55-2f8a61c0d4e7".to_owned()),
        data: Some(r#"{"roomId":20001,"content":"good evening from the other side of the river"}"#.to_owned()),
        ..Body::default()
    };
    let room_ack = Body { msg_id: Some("r20001-4294967297".to_owned()), ..Body::default() };
    for encoding in Encoding::ALL {
        let mut group = criterion.benchmark_group(format!("on_frame/{encoding:?}"));
        let mut out = ServerActions::default();
        let mut now = 0;

        group.bench_function("login_to_logout", |bencher| {
            bencher.iter(|| {
                let mut session = live(&config, encoding);
                session.on_disconnected(&mut out);
                drain(&mut out)
            });
        });

        let mut session = live(&config, encoding);
        let body = chat.to_vec(encoding);
        // With its answer, so that the calls under way do not pile up.
        group.bench_function("biz_and_its_answer", |bencher| {
            bencher.iter(|| {
                session.on_frame(tick(&mut now), &config, Frame { encoding, code: Code::Biz.number(), body: black_box(&body) }, &mut out);
                session.on_accepted(drain(&mut out), 1, 1, &mut out);
                drain(&mut out)
            });
        });
        assert!(session.is_live(), "what is measured is not the refusal");

        let mut session = live(&config, encoding);
        group.bench_function("heartbeat", |bencher| {
            bencher.iter(|| {
                session.on_frame(
                    tick(&mut now),
                    &config,
                    Frame { encoding, code: Code::Heartbeat.number(), body: black_box(b"") },
                    &mut out,
                );
                drain(&mut out)
            });
        });
        assert!(session.is_live(), "what is measured is not the refusal");

        let mut session = live(&config, encoding);
        let body = room_ack.to_vec(encoding);
        let push = Push::new(Body { room_id: Some(20_001), seq: Some(4_294_967_297), qos: Some(1), ..room_ack.clone() });
        let push = Arc::new(push);
        group.bench_function("push_and_its_ack", |bencher| {
            bencher.iter(|| {
                session.on_push_sent(tick(&mut now), &config, &push, &mut out);
                session.on_frame(tick(&mut now), &config, Frame { encoding, code: Code::Ack.number(), body: black_box(&body) }, &mut out);
                drain(&mut out)
            });
        });
        assert!(session.is_live(), "what is measured is not the refusal");
        group.finish();
    }
}

fn live(config: &ServerConfig, encoding: Encoding) -> ServerSession {
    let mut session = ServerSession::new(Time(0), config);
    let mut out = ServerActions::default();
    let login = Body { app_id: Some(10_001), user_id: Some(10_007), token: Some("t".to_owned()), ..Body::default() };
    session.on_frame(Time(0), config, Frame { encoding, code: Code::Login.number(), body: &login.to_vec(encoding) }, &mut out);
    let accepted = LoginAccepted { session_id: "s".to_owned(), node: "n".to_owned(), server_time_ms: 1 };
    session.on_login_accepted(Time(0), config, accepted, &mut out);
    assert!(session.is_live());
    // Whoever does not resume is sent his inbox, which is a call too.
    session.on_accepted(drain(&mut out), 0, 0, &mut out);
    drain(&mut out);
    session
}

/// Time passes, or the allowances run dry.
fn tick(now: &mut u64) -> Time {
    *now += 1;
    Time(*now)
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

criterion_group!(benches, on_frame);
criterion_main!(benches);
