//! What goes on which stream, up and down.

use super::client::QuicHouse;
use crate::house::{login_body, push, until};
use billfish_link::message::{Push, up::Call};
use billfish_wire::{Body, Code};
use quinn::TransportConfig;
use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

const ROOM: i64 = 30_001;

#[test]
fn each_class_has_a_stream_and_answers_have_the_clients_own() {
    let house = QuicHouse::new();
    let mut client = house.join(20_001, ROOM);
    assert_eq!(client.beat().audience, Some(5));
    for class in [2, 0, 3, 1] {
        house.router.push_room_as(1, 0, Push { room_id: ROOM, class, ..push("hello") });
    }
    for class in 0..4 {
        let body = client.push(class);
        assert_eq!((body.class, body.data.as_deref()), (i32::try_from(class).ok(), Some("hello")));
    }
    client.send(
        Code::Biz,
        &Body { room_id: Some(ROOM), biz_code: Some(5555), data: Some("hi".to_owned()), msg_id: Some("m1".to_owned()), ..Body::default() },
    );
    assert_eq!(client.expect(Code::Ack).msg_id.as_deref(), Some("m1"));
    // A push to the user, too, and within a class everything in order.
    house.router.push_users(&[20_001], Push { msg_id: "i1".to_owned(), qos: 1, class: 1, ..push("to you") });
    assert_eq!(client.push(1).data.as_deref(), Some("to you"));
    let seqs: Vec<_> = (0..50).map(|_| house.router.push_room(ROOM, "chat")).collect();
    assert_eq!(seqs.iter().map(|_| client.push(2).seq.unwrap()).collect::<Vec<_>>(), seqs);
}

#[test]
fn an_ack_that_comes_is_heard_and_one_that_does_not_is_asked_for_again() {
    let house = QuicHouse::with(|config| config.session.resend_after = vec![std::time::Duration::from_millis(200)]);
    let mut client = house.join(20_001, ROOM);
    let wanted = Push { room_id: ROOM, msg_id: "g1".to_owned(), qos: 1, class: 1, ..push("a gift") };
    house.router.push_room_as(1, 0, wanted);
    assert_eq!(client.push(1).msg_id.as_deref(), Some("g1"));
    assert_eq!(client.push(1).msg_id.as_deref(), Some("g1"), "sent again, on the stream of its class");
    client.send(Code::Ack, &Body { msg_id: Some("g1".to_owned()), ..Body::default() });
    client.beat();
    assert_eq!(house.house.metric("gateway_frames_total", &[r#"code="ack""#, r#"direction="in""#]), 1.0);
}

/// Everything that a client says at once, cut anywhere, is taken in order: the LOGIN is checked first, and the rest waits for it.
#[test]
fn what_comes_behind_a_login_waits_for_its_verdict() {
    let house = QuicHouse::new();
    let token = house.house.token(20_001, None, 300_000);
    let encode = |code, body: &Body| billfish_wire::frame::encode(billfish_wire::Encoding::Protobuf, code, body);
    let mut all = encode(Code::Login, &login_body(20_001, &token)).to_vec();
    all.extend_from_slice(&encode(Code::Join, &Body { room_id: Some(ROOM), ..Body::default() }));
    for n in 0..20 {
        let data = Some("x".repeat(2_000));
        let body = Body { room_id: Some(ROOM), biz_code: Some(5555), data, msg_id: Some(format!("m{n}")), ..Body::default() };
        all.extend_from_slice(&encode(Code::Biz, &body));
    }
    let mut client = house.connect();
    for piece in all.chunks(777) {
        client.send_bytes(piece);
    }
    client.expect(Code::Login);
    // The JOIN has its place in the room's queue, and the answers to messages have none.
    let (joins, acks): (Vec<_>, Vec<_>) = (0..21).map(|_| client.next().unwrap()).partition(|(code, _)| *code == Code::Join);
    assert_eq!(joins.len(), 1);
    let acked: Vec<_> = acks.into_iter().map(|(code, body)| (code, body.msg_id.unwrap())).collect();
    assert_eq!(acked, (0..20).map(|n| (Code::Ack, format!("m{n}"))).collect::<Vec<_>>());
}

#[test]
fn a_client_that_comes_back_resumes() {
    let house = QuicHouse::new();
    let mut client = house.join(20_001, ROOM);
    let seq = house.router.push_room(ROOM, "seen");
    assert_eq!(client.push(2).seq, Some(seq));
    drop(client);
    let token = house.house.token(20_001, None, 300_000);
    let mut client = house.connect();
    let resume: Body = serde_json::from_value(serde_json::json!({"resume": {"rooms": {ROOM.to_string(): seq}}})).unwrap();
    client.send(Code::Login, &Body { resume: resume.resume, ..login_body(20_001, &token) });
    client.expect(Code::Login);
    client.expect(Code::Join);
    let joins =
        house.router.calls().into_iter().filter_map(|up| if let Some(Call::Join(join)) = up.call { Some(join.resume_seq) } else { None });
    assert_eq!(joins.collect::<Vec<_>>(), [None, Some(seq)]);
    assert_eq!(house.router.push_room(ROOM, "more"), client.push(2).seq.unwrap());
}

#[test]
fn a_client_has_one_stream_and_no_other() {
    let house = QuicHouse::new();
    let mut client = house.log_in(20_001);
    let context = &mut Context::from_waker(Waker::noop());
    assert!(matches!(pin!(client.connection.open_bi()).poll(context), Poll::Pending), "a second stream");
    assert!(matches!(pin!(client.connection.open_uni()).poll(context), Poll::Pending), "a stream one way");
    assert_eq!(client.connection.max_datagram_size(), None, "datagrams");
    client.beat();
}

/// A client must let the server open four streams; one that does not is found out by the first push.
#[test]
fn a_client_that_lets_no_stream_be_opened_is_not_served() {
    let house = QuicHouse::new();
    let mut transport = TransportConfig::default();
    transport.max_concurrent_uni_streams(0_u32.into());
    let mut client = house.connect_by(house.address(), transport);
    house.log_in_on(&mut client, 20_001, "ios");
    client.join(ROOM);
    house.router.push_room(ROOM, "for nobody");
    until("it is gone", || house.house.metric("gateway_closes_total", &[r#"reason="transport_failed""#]) == 1.0);
    assert_eq!(house.house.metric("gateway_connections", &[]), 0.0);
}
