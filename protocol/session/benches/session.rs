//! What one frame costs in the gateway's end of a session, and one queued copy in a backlog. No socket: this is the protocol's share.

use billfish_session::{
    Push, Time,
    backlog::{Backlog, BacklogLimits, Queued},
    server::{LoginAccepted, ServerActions, ServerConfig, ServerSession},
};
use billfish_wire::{Body, Code, Encoding, Frame};
use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
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

        let mut session = live(&config, encoding);
        let body = chat.to_vec(encoding);
        let mut request = 0;
        // With its answer, so that the calls under way do not pile up.
        group.bench_function("biz_and_its_answer", |bencher| {
            bencher.iter(|| {
                session.on_frame(tick(&mut now), &config, Frame { encoding, code: Code::Biz.number(), body: black_box(&body) }, &mut out);
                request += 1;
                session.on_accepted(request, 1, 1, &mut out);
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

fn backlog(criterion: &mut Criterion) {
    let limits = BacklogLimits::default();
    let frame = Bytes::from(vec![7; 300]);
    let push = Push::new(Body { room_id: Some(20_001), key: Some("likes".to_owned()), class: Some(3), ..Body::default() });
    let copy = |state: bool| {
        let state = if state { push.state().cloned() } else { None };
        Queued { frame: frame.clone(), class: billfish_wire::Class::Chat, state, tag: 0u64 }
    };
    let mut group = criterion.benchmark_group("backlog");
    group.bench_function("push_and_advance", |bencher| {
        let mut backlog = Backlog::default();
        bencher.iter(|| {
            let fits = backlog.push(&limits, copy(false), |_, _| ());
            backlog.advance(300, drop);
            fits
        });
    });
    group.bench_function("push_at_the_soft_mark", |bencher| {
        let mut backlog = Backlog::default();
        bencher.iter(|| backlog.push(&limits, copy(false), |queued, _| drop(black_box(queued))));
    });
    group.bench_function("push_a_newer_state", |bencher| {
        let mut backlog = Backlog::default();
        bencher.iter(|| backlog.push(&limits, copy(true), |queued, _| drop(black_box(queued))));
    });
    group.bench_function("fill_128_and_write_in_16_parts", |bencher| {
        let fill = || {
            let mut backlog = Backlog::default();
            for _ in 0..128 {
                backlog.push(&limits, copy(false), |_, _| ()).expect("the soft mark drops");
            }
            backlog
        };
        bencher.iter_batched(
            fill,
            |mut backlog| {
                while !backlog.is_empty() {
                    black_box(backlog.slices().take(64).map(|slice| slice.len()).sum::<usize>());
                    backlog.advance(backlog.bytes().min(2_400), drop);
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn live(config: &ServerConfig, encoding: Encoding) -> ServerSession {
    let mut session = ServerSession::new(Time(0), config);
    let mut out = ServerActions::default();
    let login = Body { app_id: Some(10_001), user_id: Some(10_007), token: Some("t".to_owned()), ..Body::default() };
    session.on_frame(Time(0), config, Frame { encoding, code: Code::Login.number(), body: &login.to_vec(encoding) }, &mut out);
    let accepted = LoginAccepted { session_id: "s".to_owned(), node: "n".to_owned(), server_time_ms: 1 };
    session.on_login_accepted(Time(0), config, accepted, &mut out);
    assert!(session.is_live());
    drain(&mut out);
    session
}

/// Time passes, or the allowances run dry.
fn tick(now: &mut u64) -> Time {
    *now += 1;
    Time(*now)
}

fn drain(out: &mut ServerActions) {
    while let Some(action) = out.next_action() {
        black_box(action);
    }
}

criterion_group!(benches, on_frame, backlog);
criterion_main!(benches);
