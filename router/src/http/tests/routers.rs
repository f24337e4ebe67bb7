//! The APIs of two routers on one state and one ledger: whichever is called, a call has one effect.

use super::{RouterConfig, RouterParts, Running, authorized, config};
use crate::{
    SmsProvider,
    http::{HttpParts, service},
    services::ports::Absent,
};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::Request,
};
use billfish_state::{AppId, Cache, InboxId, State, StateError, TokenOwner, Tokens, UserId, port};
use bytes::Bytes;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::sync::Arc;
use tempfile::TempDir;
use tower::ServiceExt;

struct Node {
    router: Router,
    _running: Running,
}

async fn router(node: &str, parts: &HttpParts) -> Node {
    let mut config_of = RouterConfig { node: node.to_owned(), ..RouterConfig::default() };
    config_of.sms.provider = Some(SmsProvider::Development);
    let records = Arc::new(parts.ledger.clone());
    let registry = &mut Registry::default();
    let running = crate::start(RouterParts {
        config: config_of,
        state: parts.state.clone(),
        records: records.clone(),
        money: records.clone(),
        till: Arc::new(Absent),
        people: records,
        registry,
    })
    .await
    .unwrap();
    let parts = HttpParts { handle: running.handle(), ..parts.clone() };
    let router = service(parts, &config(), &mut Registry::default()).unwrap().router;
    Node { router, _running: running }
}

impl Node {
    async fn send(&self, request: Request<Body>) -> (u16, Value, Option<String>) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default(), retry_after)
    }
}

fn with_key(path: &str, key: &str, body: &Value) -> Request<Body> {
    let mut request = authorized("POST", path, Body::from(body.to_string()));
    request.headers_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

#[tokio::test]
async fn a_session_that_began_at_one_router_is_good_at_the_other_and_ends_for_both() {
    let directory: TempDir = tempfile::tempdir().unwrap();
    let (parts, _first) = super::behind(&directory).await;
    let (one, other) = (router("r1", &parts).await, router("r2", &parts).await);
    let public = |path: &str, body: Value| {
        let request = Request::builder().method("POST").uri(path).header("content-type", "application/json");
        request.body(Body::from(body.to_string())).unwrap()
    };
    let phone = "8613800138000";
    assert_eq!(one.send(public("/v1/login/code", json!({"phone": phone}))).await.0, 200);
    // The code for development is the same each time: at the same moment it would be a repeat.
    let asked_ms = parts.state.clock.now_ms();
    while parts.state.clock.now_ms() == asked_ms {
        tokio::task::yield_now().await;
    }
    assert_eq!(other.send(public("/v1/login/code", json!({"phone": phone}))).await.0, 429, "the gap is everybody's");
    let (status, answer, _) = other.send(public("/v1/login", json!({"phone": phone, "code": "1000"}))).await;
    assert_eq!(status, 200, "{answer}");
    let call = |method: &str, path: &str| {
        let token = answer["token"].as_str().unwrap();
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
        request.body(Body::empty()).unwrap()
    };
    for node in [&one, &other] {
        assert_eq!(node.send(call("GET", "/v1/wallet")).await.0, 200);
    }
    assert_eq!(one.send(call("POST", "/v1/logout")).await.0, 204);
    for node in [&one, &other] {
        assert_eq!(node.send(call("GET", "/v1/wallet")).await.0, 401);
    }
}

#[tokio::test]
async fn the_same_key_at_two_routers_has_one_effect_and_one_answer() {
    let directory: TempDir = tempfile::tempdir().unwrap();
    let (parts, _first) = super::behind(&directory).await;
    let (one, other) = (router("r1", &parts).await, router("r2", &parts).await);
    let push = json!({"target": {"users": [20001]}, "bizCode": 5568, "data": "x", "qos": 1});
    let room = json!({"anchorId": 30001, "type": 1, "roomName": "Ann sings"});
    for (path, body) in [("/v1/im/push", &push), ("/v1/rooms", &room)] {
        let first = one.send(with_key(path, "k1", body)).await;
        assert!((200..300).contains(&first.0), "{first:?}");
        assert_eq!(other.send(with_key(path, "k1", body)).await, first, "{path}");
    }
    let app = AppId(10_001);
    let inbox = parts.state.inbox.read(app, UserId(20_001), None, 10, parts.state.clock.now_ms()).await.unwrap();
    assert_eq!(inbox.entries.len(), 1);
    assert!(InboxId::parse(&inbox.entries[0].id).is_some());
    // Another key is another call: the anchor is live already.
    assert_eq!(other.send(with_key("/v1/rooms", "k2", &room)).await.0, 409);
}

/// The answer was lost: the cache did not take it, and the claim has run out.
#[tokio::test]
async fn a_push_to_a_room_whose_answer_was_not_kept_is_said_once_all_the_same() {
    struct Forgetful;
    #[async_trait::async_trait]
    impl Cache for Forgetful {
        async fn get(&self, _: &str, _: u64) -> port::Result<Option<Bytes>> {
            Ok(None)
        }
        async fn put(&self, _: &str, _: Bytes, _: u64, _: u64) -> port::Result<()> {
            Ok(())
        }
        async fn remove(&self, _: &str) -> port::Result<()> {
            Ok(())
        }
    }
    let directory: TempDir = tempfile::tempdir().unwrap();
    let (parts, first) = super::behind(&directory).await;
    // The API alone: the router behind it is another matter.
    let parts = HttpParts { state: State { cache: Arc::new(Forgetful), ..parts.state.clone() }, ..parts };
    let node = Node { router: service(parts, &config(), &mut Registry::default()).unwrap().router, _running: first };
    let (status, room, _) = node.send(authorized("POST", "/v1/rooms", Body::from(json!({"anchorId": 30001, "type": 1}).to_string()))).await;
    assert_eq!(status, 201, "{room}");
    let push = |data: &str| json!({"target": {"roomId": room["roomId"]}, "bizCode": 5568, "data": data});
    let first = node.send(with_key("/v1/im/push", "k1", &push("x"))).await;
    let again = node.send(with_key("/v1/im/push", "k1", &push("x"))).await;
    assert_eq!((first.0, again.0, &again.1["seq"]), (200, 200, &first.1["seq"]));
    // Only the same call is the same.
    for (key, data) in [("k1", "y"), ("k2", "x")] {
        let another = node.send(with_key("/v1/im/push", key, &push(data))).await;
        assert!(another.1["seq"].as_i64() > first.1["seq"].as_i64(), "{another:?}");
    }
}

#[tokio::test]
async fn while_the_state_is_away_there_are_no_tokens_and_a_time_to_come_back() {
    struct Away;
    fn away<T>() -> port::Result<T> {
        Err(StateError::Away { what: "reaching the store", cause: "connection refused".into() })
    }
    #[async_trait::async_trait]
    impl Tokens for Away {
        async fn issue(&self, _: &str, _: TokenOwner, _: u64, _: u64) -> port::Result<()> {
            away()
        }
        async fn resolve(&self, _: &[String], _: u64) -> port::Result<Vec<Option<TokenOwner>>> {
            away()
        }
        async fn revoke(&self, _: &[String]) -> port::Result<()> {
            away()
        }
    }
    let directory: TempDir = tempfile::tempdir().unwrap();
    let (parts, _first) = super::behind(&directory).await;
    let parts = HttpParts { state: State { tokens: Arc::new(Away), ..parts.state.clone() }, ..parts };
    let node = router("r1", &parts).await;
    let (status, problem, retry_after) =
        node.send(authorized("POST", "/v1/im/tokens", Body::from(json!({"userId": 20001}).to_string()))).await;
    assert_eq!((status, &problem["code"], retry_after.as_deref()), (503, &json!("unavailable"), Some("1")));
    assert!(problem["retryAfterMs"].as_u64().is_some_and(|wait| wait > 0), "{problem}");
}
