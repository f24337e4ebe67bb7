//! What ends a session, what does not, and what an app that is busy is owed.

use crate::gateway::{Gateway, ROOM, USER, chat, config_for, connect, join_answer};
use billfish_client::{CallError, Cause, ClientConfig, ClientError, Event, Reason, TokenError, TokenProvider};
use billfish_wire::{Body, Code, Encoding, frame};
use std::time::Duration;

#[tokio::test]
async fn a_kick_for_a_login_elsewhere_is_final() {
    let gateway = Gateway::open().await;
    let (client, mut events) = connect(gateway.config());
    let (mut connection, _) = gateway.accept_login().await;
    connection.send(Code::Kick, &Body::refusal(Reason::DuplicateLogin)).await;
    assert_eq!(events.next().await, Some(Event::Closed { reason: Reason::DuplicateLogin }));
    assert_eq!(events.next().await, None);
    assert_eq!(client.join(ROOM).await, Err(ClientError::Closed));
    assert!(!gateway.has_caller().await, "two devices must not fight");
}

#[tokio::test]
async fn a_kick_for_slow_reading_comes_back_by_itself() {
    let gateway = Gateway::open().await;
    let (_client, mut events) = connect(gateway.config());
    let (mut connection, _) = gateway.accept_login().await;
    connection.send(Code::Kick, &Body::refusal(Reason::TooSlow)).await;
    let (_second, login) = gateway.accept_login().await;
    assert_eq!(login.token.as_deref(), Some("token-2"));
    loop {
        match events.any().await {
            Some(Event::Disconnected { cause, .. }) => return assert_eq!(cause, Cause::Ended(Reason::TooSlow)),
            Some(Event::Connecting { .. } | Event::Connected { .. }) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_refused_token_is_final_and_a_service_that_is_away_is_not() {
    let tokens = TokenProvider::new(|| async { Err(TokenError::Refused("no such user".to_owned())) });
    let (_client, mut events) = connect(ClientConfig { tokens, ..config_for(Vec::new()) });
    assert_eq!(events.next().await, Some(Event::Closed { reason: Reason::BadToken }));

    let gateway = Gateway::open().await;
    let (_client, mut events) = connect(gateway.config());
    let mut connection = gateway.accept().await;
    connection.expect(Code::Login).await;
    connection.send(Code::Error, &Body { retry_after_ms: Some(1), ..Body::refusal(Reason::Unavailable) }).await;
    gateway.accept_login().await;
    assert!(matches!(events.any().await, Some(Event::Connecting { .. })));
    assert!(matches!(events.any().await, Some(Event::Disconnected { cause: Cause::Ended(Reason::Unavailable), .. })));
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_told_with_its_address() {
    let address = Gateway::open().await.address();
    let (_client, mut events) = connect(config_for(vec![address.clone()]));
    assert_eq!(events.any().await, Some(Event::Connecting { address: address.clone() }));
    let Some(Event::Disconnected { cause, .. }) = events.any().await else { panic!("nobody listens there") };
    assert!(cause.to_string().contains(&address), "{cause}");
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    let dead = Gateway::open().await.address();
    let gateway = Gateway::open().await;
    let (_client, _events) = connect(config_for(vec![dead, gateway.address()]));
    gateway.accept_login().await;
}

#[tokio::test]
async fn a_busy_app_gets_every_event_when_it_looks_up() {
    const LINES: i64 = 3_000;
    let gateway = Gateway::open().await;
    let (client, mut events) = connect(ClientConfig { events_max: 2, ..gateway.config() });
    client.join(ROOM).await.expect("taken");
    let (mut connection, _) = gateway.accept_login().await;
    connection.expect(Code::Join).await;
    connection.send(Code::Join, &join_answer(0, 0)).await;
    let mut stream = Vec::new();
    for seq in 1..=LINES {
        frame::encode_into(&mut stream, Encoding::Json, Code::Biz, &chat(seq));
    }
    let writing = tokio::spawn(async move {
        connection.send_raw(&stream).await;
        connection
    });
    // Calls are served though nobody listens.
    for _ in 0..10 {
        client.chat(ROOM, "I am here").await.expect("taken");
    }
    for seq in 1..=LINES {
        assert_eq!(events.chat().await, format!("line {seq}"));
    }
    writing.await.expect("written");
}

#[tokio::test]
async fn a_refusal_reaches_the_app_with_its_reason_and_time() {
    let gateway = Gateway::open().await;
    let (client, mut events) = connect(gateway.config());
    let (mut connection, _) = gateway.accept_login().await;
    let id = client.chat_to(10_001, "psst").await.expect("taken");
    let sent = connection.expect(Code::Biz).await;
    assert_eq!(sent.data.as_deref(), Some(r#"{"content":"psst","objectId":10001}"#));
    let refusal = Body { msg_id: sent.msg_id, retry_after_ms: Some(2_000), ..Body::refusal(Reason::RateLimited) };
    connection.send(Code::Error, &refusal).await;
    let Some(Event::Refused { msg_id, reason, retry_after, .. }) = events.next().await else { panic!("it was refused") };
    assert_eq!((msg_id, reason, retry_after), (Some(id.0), Reason::RateLimited, Some(Duration::from_secs(2))));
}

#[tokio::test]
async fn qos_1_messages_are_acknowledged_and_shown_once() {
    let gateway = Gateway::open().await;
    let (_client, mut events) = connect(gateway.config());
    let (mut connection, _) = gateway.accept_login().await;
    let push = Body {
        user_id: Some(USER),
        msg_id: Some("ms-1".to_owned()),
        qos: Some(1),
        biz_code: Some(5555),
        data: Some(r#"{"content":"once","senderId":10001}"#.to_owned()),
        ..Body::default()
    };
    for _ in 0..2 {
        connection.send(Code::Biz, &push).await;
        assert_eq!(connection.expect(Code::Ack).await.msg_id.as_deref(), Some("ms-1"));
    }
    connection.send(Code::Kick, &Body::refusal(Reason::Banned)).await;
    assert_eq!(events.chat().await, "once");
    assert_eq!(events.next().await, Some(Event::Closed { reason: Reason::Banned }));
}

#[tokio::test]
async fn calls_that_cannot_be_made_say_so() {
    let (client, _events) = connect(config_for(Vec::new()));
    assert_eq!(client.join(-1).await, Err(ClientError::Call(CallError::OutOfRange { field: "roomId" })));
    assert_eq!(client.sync(ROOM, 0).await, Err(ClientError::Call(CallError::NotLive)));
}

#[tokio::test]
async fn closing_ends_at_once_where_there_is_no_connection() {
    let (client, mut events) = connect(config_for(vec![Gateway::open().await.address()]));
    client.close().await;
    assert_eq!(events.next().await, Some(Event::Closed { reason: Reason::LoggedOut }));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_session_without_anyone_to_speak_or_listen_logs_out() {
    let gateway = Gateway::open().await;
    let (client, events) = connect(gateway.config());
    let (mut connection, _) = gateway.accept_login().await;
    drop((client, events));
    connection.expect(Code::Logout).await;
}
