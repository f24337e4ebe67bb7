//! The golden frames of `protocol/vectors`: the SDK survives every one a server may send, and the ones a client sends come out of it
//! byte for byte.

use crate::gateway::{Gateway, ROOM, chat, connect, join_answer, login_answer};
use billfish_client::{Encoding, Event};
use billfish_vectors::Direction;
use billfish_wire::{Body, Code, frame, limits::BODY_BYTES_MAX};

#[tokio::test]
async fn every_frame_a_server_may_send_leaves_the_client_in_step() {
    let gateway = Gateway::open().await;
    let mut tried = 0;
    for golden in billfish_vectors::frames() {
        if !matches!(golden.direction, Direction::Down) {
            continue;
        }
        tried += 1;
        let (client, mut events) = connect(gateway.config());
        client.join(ROOM).await.expect("taken");
        let (mut connection, _) = gateway.accept_login().await;
        connection.expect(Code::Join).await;
        connection.send(Code::Join, &join_answer(0, 0)).await;
        connection.send_raw(&golden.hex.bytes()).await;
        let code = Code::from_number(golden.code);
        if matches!(code, Some(Code::Kick | Code::Logout)) {
            // The end of this connection, as it says; the session goes on or not by the reason, which other tests hold.
            while let Some((code, _)) = connection.receive().await {
                assert_ne!(code, Code::Login, "{}: a closed connection says nothing more", golden.name);
            }
            continue;
        }
        if code == Some(Code::Reconnect) {
            continue;
        }
        connection.send(Code::Biz, &chat(1 << 52)).await;
        loop {
            match events.next().await {
                Some(Event::Chat(line)) if line.seq == Some(1 << 52) => break,
                Some(Event::Closed { reason }) => panic!("{}: closed for {reason:?}", golden.name),
                Some(_) => {}
                None => panic!("{}: the session is over", golden.name),
            }
        }
        drop(client);
    }
    assert!(tried >= 20, "the vectors hold the server's side too: {tried}");
}

#[test]
fn every_canonical_frame_of_a_client_is_produced_byte_for_byte() {
    let mut produced = 0;
    for golden in billfish_vectors::frames() {
        let bytes = golden.hex.bytes();
        let (decoded, length) = frame::decode(&bytes, BODY_BYTES_MAX).expect("a legal frame").expect("a whole frame");
        assert_eq!((decoded.code, length), (golden.code, bytes.len()), "{}", golden.name);
        let body = Body::decode(decoded.encoding, decoded.body).expect("a legal body");
        if golden.canonical && matches!(golden.direction, Direction::Up) {
            let code = Code::from_number(golden.code).expect("a client sends known codes");
            assert_eq!(*frame::encode(decoded.encoding, code, &body), bytes, "{}", golden.name);
            produced += 1;
        }
    }
    assert!(produced >= 10, "{produced}");
}

#[tokio::test]
async fn a_protobuf_client_speaks_protobuf_from_its_first_frame() {
    let gateway = Gateway::open().await;
    let (_client, mut events) = connect(billfish_client::ClientConfig { encoding: Encoding::Protobuf, ..gateway.config() });
    let mut connection = gateway.accept().await;
    let (encoding, body) = connection.first_encoding().await;
    assert_eq!((encoding, body.token.as_deref()), (Encoding::Protobuf, Some("token-1")));
    connection.send_raw(&frame::encode(Encoding::Protobuf, Code::Login, &login_answer())).await;
    loop {
        match events.any().await {
            Some(Event::Connected { node, .. }) => return assert_eq!(node, "g-1"),
            Some(Event::Connecting { .. }) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
}
