//! A connection may break anywhere; what is shown must not depend on where.

use crate::gateway::{Gateway, ROOM, chat, connect, join_answer, login_answer};
use billfish_client::{Event, Reason};
use billfish_wire::{Body, Code, Encoding, frame};

const LINES: i64 = 5;

/// LOGIN's answer, JOIN's, and five lines of chat.
fn whole_stream() -> Vec<u8> {
    let mut stream = Vec::new();
    for (code, body) in [(Code::Login, login_answer()), (Code::Join, join_answer(0, 0))] {
        frame::encode_into(&mut stream, Encoding::Json, code, &body);
    }
    for seq in 1..=LINES {
        frame::encode_into(&mut stream, Encoding::Json, Code::Biz, &chat(seq));
    }
    stream
}

#[tokio::test]
async fn a_cut_at_any_byte_loses_no_line_and_shows_none_twice() {
    let gateway = Gateway::open().await;
    let stream = whole_stream();
    for cut in 0..=stream.len() {
        let (client, mut events) = connect(gateway.config());
        client.join(ROOM).await.expect("a free client takes a call");

        let mut first = gateway.accept().await;
        first.expect(Code::Login).await;
        first.send_raw(&stream[..cut]).await;
        drop(first);

        // The second connection says how far the first one got.
        let mut second = gateway.accept().await;
        let login = second.expect(Code::Login).await;
        assert_eq!(login.token.as_deref(), Some("token-2"), "a token of its own for every connect");
        let resumed = login.resume.and_then(|resume| resume.rooms.get(&ROOM).copied());
        second.send(Code::Login, &login_answer()).await;
        if resumed.is_none() {
            let join = second.expect(Code::Join).await;
            assert_eq!(join.resume.and_then(|resume| resume.seq), None, "cut {cut}: nothing was seen");
        }
        let seen = resumed.unwrap_or(0);
        let whole_lines = (1..=LINES).filter(|&seq| cut >= end_of_line(&stream, seq)).count();
        assert_eq!(seen, i64::try_from(whole_lines).expect("five lines"), "cut {cut}: the resume names the last line shown");
        second.send(Code::Join, &join_answer(seen, LINES)).await;
        // A gateway may send a line again that was in the snapshot already.
        second.send(Code::Biz, &chat(LINES)).await;
        second.send(Code::Biz, &chat(LINES + 1)).await;

        for seq in 1..=LINES + 1 {
            assert_eq!(events.chat().await, format!("line {seq}"), "cut {cut}");
        }
        let (closed, _) = tokio::join!(client.close(), async {
            second.expect(Code::Logout).await;
            second.send(Code::Logout, &Body::yes()).await;
        });
        let () = closed;
        assert_eq!(events.next().await, Some(Event::Closed { reason: Reason::LoggedOut }), "cut {cut}: nothing else was shown");
    }
}

/// Where line `seq` ends in the stream.
fn end_of_line(stream: &[u8], seq: i64) -> usize {
    let tail: usize = (seq + 1..=LINES).map(|later| frame::encode(Encoding::Json, Code::Biz, &chat(later)).len()).sum();
    stream.len() - tail
}

#[tokio::test]
async fn a_message_that_was_not_accepted_goes_out_again_with_the_same_id() {
    let gateway = Gateway::open().await;
    let (client, mut events) = connect(gateway.config());
    client.join(ROOM).await.expect("taken");
    let (mut first, _) = gateway.accept_login().await;
    first.expect(Code::Join).await;
    first.send(Code::Join, &join_answer(0, 0)).await;
    let id = client.chat(ROOM, "hello").await.expect("taken");
    let lost = first.expect(Code::Biz).await;
    assert_eq!(lost.msg_id.as_ref(), Some(&id.0));
    drop(first);

    let (mut second, _) = gateway.accept_login().await;
    second.send(Code::Join, &join_answer(0, 0)).await;
    let again = second.expect(Code::Biz).await;
    assert_eq!((again.msg_id, again.data), (lost.msg_id, lost.data));
    second.send(Code::Ack, &Body { msg_id: Some(id.0.clone()), ts: Some(5), seq: Some(1), ..Body::default() }).await;
    loop {
        match events.next().await {
            Some(Event::Joined { .. }) => {}
            other => {
                assert_eq!(other, Some(Event::Accepted { msg_id: id.0, ts_ms: 5, seq: Some(1) }));
                break;
            }
        }
    }
    drop(second);
    // Accepted once, it is not sent a third time.
    let (mut third, _) = gateway.accept_login().await;
    third.send(Code::Join, &join_answer(0, 1)).await;
    client.leave(ROOM).await.expect("taken");
    third.expect(Code::Leave).await;
}

#[tokio::test]
async fn a_draining_gateway_sends_its_clients_elsewhere_with_their_resume() {
    let (draining, other) = (Gateway::open().await, Gateway::open().await);
    let (client, mut events) = connect(draining.config());
    client.join(ROOM).await.expect("taken");
    let (mut first, _) = draining.accept_login().await;
    first.expect(Code::Join).await;
    first.send(Code::Join, &join_answer(0, 3)).await;
    for seq in 1..=3 {
        assert_eq!(events.chat().await, format!("line {seq}"));
    }
    first.send(Code::Reconnect, &Body { addresses: vec![other.address()], after_ms: Some(0), ..Body::default() }).await;
    let (_second, login) = other.accept_login().await;
    assert_eq!(login.resume.and_then(|resume| resume.rooms.get(&ROOM).copied()), Some(3));
}
