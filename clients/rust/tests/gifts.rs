//! Gifts over a connection: paid once under one id, told once, and a bar that never goes back.

use crate::gateway::{Connection, Gateway, Heard, ROOM, connect, join_answer};
use billfish_client::{CallError, Client, ClientError, Event, Gift, GiftKind, MessageId, PkBar, Reason};
use billfish_wire::{Body, Code, snapshot::RoomSnapshot};
use std::time::Duration;

const ANCHOR: i64 = 90_001;
const CHALLENGER: i64 = 90_002;

/// In the room, which stands at 0; JOIN's answer was told.
async fn settled() -> (Gateway, Client, Heard, Connection) {
    let gateway = Gateway::open().await;
    let (client, mut events) = connect(gateway.config());
    client.join(ROOM).await.expect("taken");
    let (mut connection, _) = gateway.accept_login().await;
    connection.expect(Code::Join).await;
    connection.send(Code::Join, &join_answer(0, 0)).await;
    assert!(matches!(events.next().await, Some(Event::Joined { .. })));
    (gateway, client, events, connection)
}

fn rose() -> Gift {
    Gift::new(1, ANCHOR)
}

fn ack(msg_id: Option<String>) -> Body {
    Body { msg_id, ts: Some(5), ..Body::default() }
}

fn refusal(reason: Reason, msg_id: Option<String>, retry_after_ms: Option<i64>) -> Body {
    Body { msg_id, retry_after_ms, ..Body::refusal(reason) }
}

fn push(seq: i64, biz_code: i32, data: String) -> Body {
    Body {
        room_id: Some(ROOM),
        seq: Some(seq),
        msg_id: Some(format!("r{seq}")),
        qos: Some(1),
        class: Some(1),
        biz_code: Some(biz_code),
        data: Some(data),
        ..Body::default()
    }
}

fn gift_push(seq: i64, gift_seqs: &[i64], bar: &str) -> Body {
    let nums = vec![1; gift_seqs.len()];
    let what = format!(r#""giftId":1,"url":"rose","senderId":20001,"receiverId":{ANCHOR},"num":{}"#, gift_seqs.len());
    let places = format!(r#""giftSeq":{},"giftSeqs":{gift_seqs:?},"nums":{nums:?}"#, gift_seqs[0]);
    push(seq, if bar.is_empty() { 5556 } else { 5558 }, format!("{{{what},{places}{bar}}}"))
}

fn state(seq: i64, value: i32, bar_seq: i64) -> Body {
    let data = format!(r#"{{"anchorId":{ANCHOR},"pkObjId":{CHALLENGER},"pkNum":{value},"sendGiftSeqNum":{bar_seq},"isOver":false}}"#);
    Body { key: Some("pk".to_owned()), msg_id: None, qos: None, ..push(seq, 5558, data) }
}

fn fail(uuid: &str, reason: Reason) -> Body {
    let code = reason.number().expect("told to clients");
    let data = format!(r#"{{"uuid":"{uuid}","code":{code},"msg":"no"}}"#);
    Body { room_id: Some(ROOM), class: Some(0), biz_code: Some(5557), data: Some(data), ..Body::default() }
}

fn bar(value: i32, seq: i64) -> PkBar {
    PkBar { anchor_id: ANCHOR, challenger_id: Some(CHALLENGER), value, seq, winner_id: None, is_over: false }
}

#[tokio::test]
async fn a_gift_is_sent_under_one_id_until_it_is_paid() {
    let (gateway, client, mut events, mut first) = settled().await;
    let gift = Gift { kind: GiftKind::Pk, num: 3, price: Some(10), combo: Some("c".to_owned()), ..rose() };
    let id = client.send_gift(ROOM, gift).await.expect("taken");
    let lost = first.expect(Code::Biz).await;
    assert_eq!((lost.msg_id.as_ref(), lost.room_id, lost.biz_code), (Some(&id.0), Some(ROOM), Some(5561)));
    let data = format!(r#"{{"giftId":1,"receiverId":{ANCHOR},"type":1,"uuid":"{id}","num":3,"price":10,"comboId":"c"}}"#);
    assert_eq!(lost.data.as_ref(), Some(&data));
    drop(first);

    let (mut second, _) = gateway.accept_login().await;
    second.send(Code::Join, &join_answer(0, 0)).await;
    let again = second.expect(Code::Biz).await;
    assert_eq!((&again.msg_id, &again.data), (&lost.msg_id, &lost.data));
    // The service behind is away: asked again by itself, and nobody hears of it.
    second.send(Code::Error, &refusal(Reason::Unavailable, again.msg_id, Some(1))).await;
    let third = second.expect(Code::Biz).await;
    assert_eq!((&third.msg_id, &third.data), (&lost.msg_id, &lost.data));
    second.send(Code::Error, &refusal(Reason::RateLimited, third.msg_id, Some(1))).await;
    let fourth = second.expect(Code::Biz).await;
    assert_eq!((&fourth.msg_id, &fourth.data), (&lost.msg_id, &lost.data));
    second.send(Code::Ack, &ack(fourth.msg_id)).await;
    assert!(matches!(events.next().await, Some(Event::Joined { .. })), "back in the room");
    assert_eq!(events.next().await, Some(Event::Accepted { msg_id: id.0.clone(), ts_ms: 5, seq: None }));

    // Asked once more, as after a crash, it is the same frame.
    assert_eq!(client.send_gift_as(&id, ROOM, rose()).await, Ok(id.clone()));
    assert_eq!(client.send_gift_as(&id, ROOM, rose()).await, Err(ClientError::Call(CallError::IdInUse)));
    assert_eq!(second.expect(Code::Biz).await.msg_id, Some(id.0));
}

#[tokio::test]
async fn a_final_refusal_is_told_once_and_the_next_gift_has_another_id() {
    let (_gateway, client, mut events, mut connection) = settled().await;
    let mut ids = Vec::new();
    for is_first in [true, false] {
        let id = client.send_gift(ROOM, rose()).await.expect("taken");
        connection.expect(Code::Biz).await;
        // The gateway sends the push of old clients beside the answer; over QUIC either may come first.
        let (push, answer) = (fail(&id.0, Reason::NotCovered), refusal(Reason::NotCovered, Some(id.0.clone()), None));
        if is_first {
            connection.send(Code::Biz, &push).await;
        }
        connection.send(Code::Error, &answer).await;
        if !is_first {
            connection.send(Code::Biz, &push).await;
        }
        let Some(Event::Refused { msg_id, reason, retry_after, .. }) = events.next().await else { panic!("it was refused") };
        assert_eq!((msg_id, reason, retry_after), (Some(id.0.clone()), Reason::NotCovered, None));
        ids.push(id);
    }
    assert_ne!(ids[0], ids[1]);
    connection.send(Code::Biz, &fail("another's", Reason::PriceChanged)).await;
    let Some(Event::Refused { msg_id, reason, .. }) = events.next().await else { panic!("nothing else was told of the two") };
    assert_eq!((msg_id.as_deref(), reason), (Some("another's"), Reason::PriceChanged));
}

#[tokio::test]
async fn a_gift_that_the_server_puts_off_for_too_long_is_told() {
    let (_gateway, client, mut events, mut connection) = settled().await;
    let id = client.send_gift(ROOM, rose()).await.expect("taken");
    let sent = connection.expect(Code::Biz).await;
    connection.send(Code::Error, &refusal(Reason::Unavailable, sent.msg_id, Some(60_000))).await;
    let Some(Event::Refused { msg_id, reason, retry_after, .. }) = events.next().await else { panic!("it was refused") };
    assert_eq!((msg_id, reason, retry_after), (Some(id.0), Reason::Unavailable, Some(Duration::from_secs(60))));
}

#[tokio::test]
async fn a_gift_that_cannot_be_written_is_refused_here() {
    let (_gateway, client, _events, _connection) = settled().await;
    let field = |outcome| match outcome {
        Err(ClientError::Call(CallError::OutOfRange { field })) => field,
        other => panic!("it was taken: {other:?}"),
    };
    assert_eq!(field(client.send_gift(ROOM, Gift { num: 0, ..rose() }).await), "num");
    assert_eq!(field(client.send_gift(0, rose()).await), "roomId");
    assert_eq!(field(client.send_gift_as(&MessageId(String::new()), ROOM, rose()).await), "uuid");
}

#[tokio::test]
async fn gifts_and_the_bar_are_told_once_over_a_reconnect() {
    let (gateway, _client, mut events, mut first) = settled().await;
    first.send(Code::Biz, &push(1, 5559, format!(r#"{{"pkObjId":{CHALLENGER},"pkObjAvatar":"c.png"}}"#))).await;
    first.send(Code::Biz, &state(2, 50, 0)).await;
    first.send(Code::Biz, &gift_push(3, &[1, 2], r#","pkNum":60,"sendGiftSeqNum":2"#)).await;
    assert_eq!(events.next().await, Some(Event::PkOnline { room_id: ROOM, challenger_id: CHALLENGER, avatar: "c.png".to_owned() }));
    assert_eq!(events.next().await, Some(Event::PkBar { room_id: ROOM, bar: bar(50, 0) }));
    let Some(Event::Gift(gift)) = events.next().await else { panic!("a gift was given") };
    assert_eq!((gift.num, gift.gift_seqs, gift.pk), (2, vec![1, 2], Some(bar(60, 2))));
    assert_eq!(events.next().await, Some(Event::PkBar { room_id: ROOM, bar: bar(60, 2) }));
    drop(first);

    let (mut second, _) = gateway.accept_login().await;
    // The state in the snapshot is older than the gift that was shown; a router that began anew has put the gifts together otherwise.
    let messages = vec![gift_push(4, &[2, 3], r#","pkNum":70,"sendGiftSeqNum":3"#)];
    let snapshot = RoomSnapshot { audience: 2, states: [("pk".to_owned(), state(2, 50, 0))].into(), messages, gap: false };
    let data = serde_json::to_string(&snapshot).expect("plain data");
    second.send(Code::Join, &Body { room_id: Some(ROOM), seq: Some(4), data: Some(data), ..Body::default() }).await;
    second.send(Code::Biz, &state(5, 70, 3)).await;
    second.send(Code::Biz, &state(6, 80, 4)).await;
    let Some(Event::Joined { states, .. }) = events.next().await else { panic!("back in the room") };
    assert!(!states.contains_key("pk"), "nobody can draw it");
    let Some(Event::Gift(gift)) = events.next().await else { panic!("one of the two was not shown") };
    assert_eq!((gift.num, gift.gift_seqs, gift.pk), (1, vec![3], Some(bar(70, 3))));
    assert_eq!(events.next().await, Some(Event::PkBar { room_id: ROOM, bar: bar(70, 3) }));
    assert_eq!(events.next().await, Some(Event::PkBar { room_id: ROOM, bar: bar(80, 4) }));
}

#[tokio::test]
async fn who_comes_in_the_middle_of_a_pk_is_told_where_its_bar_stands() {
    let gateway = Gateway::open().await;
    let (client, mut events) = connect(gateway.config());
    client.join(ROOM).await.expect("taken");
    let (mut connection, _) = gateway.accept_login().await;
    connection.expect(Code::Join).await;
    let snapshot = RoomSnapshot { audience: 2, states: [("pk".to_owned(), state(9, 70, 3))].into(), ..RoomSnapshot::default() };
    let data = serde_json::to_string(&snapshot).expect("plain data");
    connection.send(Code::Join, &Body { room_id: Some(ROOM), seq: Some(9), data: Some(data), ..Body::default() }).await;
    let Some(Event::Joined { states, .. }) = events.next().await else { panic!("in the room") };
    assert!(states.contains_key("pk"));
    assert_eq!(events.next().await, Some(Event::PkBar { room_id: ROOM, bar: bar(70, 3) }));
}
