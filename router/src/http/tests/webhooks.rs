//! Webhooks by the API: registered, looked at, deleted; secrets told once.

use super::{Api, Body, authorized};
use axum::http::header;
use serde_json::{Value, json};

const GOOD: &str = "https://backend.example.com/billfish?from=live";

impl Api {
    async fn register(&self, body: Value) -> Value {
        let (status, answer) = self.call("POST", "/v1/webhooks", body).await;
        assert_eq!(status, 201, "{answer}");
        answer
    }
}

#[tokio::test]
async fn a_webhook_is_registered_seen_and_deleted() {
    let api = Api::start().await;
    let body = json!({"url": GOOD, "events": ["gift.paid", "room.closed", "gift.paid"]});
    let (status, headers, answer) = api.send(authorized("POST", "/v1/webhooks", Body::from(body.to_string()))).await;
    let made: Value = serde_json::from_slice(&answer).unwrap();
    let id = made["webhookId"].as_i64().unwrap();
    assert_eq!((status.as_u16(), headers[header::LOCATION].to_str().unwrap()), (201, &*format!("/v1/webhooks/{id}")));
    let (_, seen) = api.call("GET", &format!("/v1/webhooks/{id}"), Value::Null).await;
    let expected = json!({
        "webhookId": id, "appId": 10001, "url": GOOD, "events": ["room.closed", "gift.paid"], "state": "active",
        "madeTime": made["madeTime"], "waiting": 0, "dropped": 0
    });
    assert_eq!(seen, expected);
    let everything = api.register(json!({"appId": 10002, "url": GOOD})).await;
    assert_eq!(everything["events"].as_array().unwrap().len(), 6);
    let list = async |path: &str| api.call("GET", path, Value::Null).await.1["webhooks"].as_array().unwrap().len();
    assert_eq!((list("/v1/webhooks").await, list("/v1/webhooks?appId=10002").await, list("/v1/webhooks?appId=10003").await), (1, 1, 0));
    assert_eq!(api.call("GET", &format!("/v1/webhooks/{id}/given-up"), Value::Null).await, (200, json!({"events": []})));
    for _ in 0..2 {
        assert_eq!(api.call("DELETE", &format!("/v1/webhooks/{id}"), Value::Null).await.0, 204);
    }
    for path in [format!("/v1/webhooks/{id}"), format!("/v1/webhooks/{id}/given-up")] {
        let (status, problem) = api.call("GET", &path, Value::Null).await;
        assert_eq!((status, &problem["code"]), (404, &json!("webhook-not-found")), "{path}");
    }
}

#[tokio::test]
async fn a_secret_is_told_once_where_it_was_made_and_never_where_it_was_brought() {
    let api = Api::start().await;
    let made = api.register(json!({"url": GOOD})).await;
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert!(secret.len() == 64 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()), "{secret}");
    assert_ne!(api.register(json!({"url": GOOD})).await["secret"], secret.as_str(), "each has its own");
    let own = "a secret-of-my-own-1".replace(' ', "-");
    let brought = api.register(json!({"url": GOOD, "secret": own})).await;
    assert_eq!(brought["secret"], Value::Null);
    let (_, all) = api.call("GET", "/v1/webhooks", Value::Null).await;
    let (_, one) = api.call("GET", &format!("/v1/webhooks/{}", made["webhookId"]), Value::Null).await;
    for answer in [all.to_string(), one.to_string(), brought.to_string()] {
        assert!(!answer.contains(&secret) && !answer.contains(&own) && !answer.contains("secret"), "{answer}");
    }
    // An answer that was lost is given again.
    let once = json!({"url": GOOD, "uuid": "hook-1"});
    let first = api.register(once.clone()).await;
    assert_eq!(api.register(once).await, first);
    assert_eq!(api.call("GET", "/v1/webhooks", Value::Null).await.1["webhooks"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn what_cannot_be_a_webhook_is_refused_by_its_field() {
    let api = Api::start().await;
    let long = format!("https://example.com/{}", "p".repeat(1_024));
    for (body, field) in [
        (json!({}), ""),
        (json!({"url": 5}), "url"),
        (json!({"url": ""}), "url"),
        (json!({"url": "backend.example.com"}), "url"),
        (json!({"url": "/hook"}), "url"),
        (json!({"url": "ftp://backend.example.com/"}), "url"),
        (json!({"url": "file:///etc/passwd"}), "url"),
        (json!({"url": "https://"}), "url"),
        (json!({"url": "https://user:password@backend.example.com/"}), "url"),
        (json!({"url": "http://backend.example.com/"}), "url"),
        (json!({"url": "HTTP://backend.example.com/"}), "url"),
        (json!({"url": "https://127.0.0.1/"}), "url"),
        (json!({"url": "https://10.1.2.3:8443/hook"}), "url"),
        (json!({"url": "https://169.254.169.254/latest/meta-data"}), "url"),
        (json!({"url": "https://[::1]/"}), "url"),
        (json!({"url": "https://[::ffff:192.168.0.1]/"}), "url"),
        (json!({"url": long}), "url"),
        (json!({"url": GOOD, "events": []}), "events"),
        (json!({"url": GOOD, "events": ["gift.sold"]}), "events[0]"),
        (json!({"url": GOOD, "events": "gift.paid"}), "events"),
        (json!({"url": GOOD, "secret": ""}), "secret"),
        (json!({"url": GOOD, "secret": "short"}), "secret"),
        (json!({"url": GOOD, "secret": "with a space in the middle"}), "secret"),
        (json!({"url": GOOD, "secret": "s".repeat(129)}), "secret"),
        (json!({"url": GOOD, "secret": "a-sécret-of-ours-alone"}), "secret"),
        (json!({"url": GOOD, "appId": 1}), "appId"),
        (json!({"url": GOOD, "state": "active"}), "state"),
    ] {
        let (status, problem) = api.call("POST", "/v1/webhooks", body.clone()).await;
        assert_eq!((status, &problem["code"]), (400, &json!("malformed")), "{body}: {problem}");
        assert_eq!(problem["field"].as_str().unwrap_or_default(), field, "{body}: {problem}");
    }
    for path in ["/v1/webhooks/0", "/v1/webhooks/x", "/v1/webhooks/9007199254740992", "/v1/webhooks/1/given-up?limit=0"] {
        assert_eq!(api.call("GET", path, Value::Null).await.0, 400, "{path}");
    }
    assert_eq!(api.call("GET", "/v1/webhooks/1/given-up?limit=101", Value::Null).await.1["field"], "limit");
    assert_eq!(api.call("GET", "/v1/webhooks", Value::Null).await.1, json!({"webhooks": []}), "nothing of it was kept");
}

#[tokio::test]
async fn an_app_has_a_few_webhooks_and_is_told_when_it_has_them() {
    let api = Api::start().await;
    for _ in 0..8 {
        api.register(json!({"url": GOOD})).await;
    }
    let (status, problem) = api.call("POST", "/v1/webhooks", json!({"url": GOOD})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("too-many-webhooks")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("webhooks.hooks_max"), "{problem}");
    api.register(json!({"url": GOOD, "appId": 10002})).await;
}
