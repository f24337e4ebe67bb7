//! Users: logins by phone, sessions, tags, wallets and recharges.

use super::{Api, AppId, Arc, Body, HttpConfig, Request, RouterConfig, StatusCode, UserId, Value, config, header, json};
use crate::{
    config::SmsProvider,
    http::{Bounds, HttpServer, RechargeConfig, RechargeProvider, caller::Peer},
    signature::{self, SigningKey},
};
use billfish_state::SessionOwner;
use std::{
    net::IpAddr,
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const APP: AppId = AppId(10_001);
const PHONE: &str = "+8613800138000";
const CALLBACK: &str = "/v1/recharge/callback";

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn public(path: &str, body: &Value) -> Request<Body> {
    let request = Request::builder().method("POST").uri(path).header(header::CONTENT_TYPE, "application/json");
    request.body(Body::from(body.to_string())).unwrap()
}

fn by_user(token: &str, method: &str, path: &str, body: &Value) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    request.header(header::AUTHORIZATION, format!("Bearer {token}")).body(body).unwrap()
}

impl Api {
    async fn answer(&self, request: Request<Body>) -> (u16, Value) {
        let (status, _, body) = self.send(request).await;
        (status.as_u16(), serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn of_user(&self, token: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.answer(by_user(token, method, path, &body)).await
    }

    /// Logs a phone in with the code for development.
    async fn log_in(&self, phone: &str) -> (i64, String) {
        let (status, answer) = self.answer(public("/v1/login/code", &json!({"phone": phone}))).await;
        assert_eq!(status, 200, "{answer}");
        let (status, answer) = self.answer(public("/v1/login", &json!({"phone": phone, "code": "1000"}))).await;
        assert_eq!(status, 200, "{answer}");
        (answer["userId"].as_i64().unwrap(), answer["token"].as_str().unwrap().to_owned())
    }

    /// A session that began otherwise.
    async fn session(&self, app: AppId, user: i64, token: &str) {
        let owner = SessionOwner { app, user: UserId(user) };
        let (print, now) = (signature::print(token.as_bytes()), now_ms());
        self.state.sessions.open(&print, owner, now, now + 60_000).await.unwrap();
    }

    async fn coins(&self, token: &str) -> i64 {
        let (status, answer) = self.of_user(token, "GET", "/v1/wallet", Value::Null).await;
        assert_eq!(status, 200, "{answer}");
        answer["coins"].as_i64().unwrap()
    }

    async fn order(&self, token: &str, uuid: &str) -> String {
        let (status, order) = self.of_user(token, "POST", "/v1/recharge/orders", json!({"productId": 1, "uuid": uuid})).await;
        assert_eq!((status, order["state"].as_str()), (201, Some("waiting")), "{order}");
        order["orderId"].as_str().unwrap().to_owned()
    }

    async fn tell(&self, payment: &Value) -> (u16, Value) {
        let body = payment.to_string();
        let signature = key().sign(body.as_bytes(), now_ms() / 1_000);
        self.answer(signed(&body, &signature)).await
    }
}

fn key() -> SigningKey {
    SigningKey::new(config().recharge.secret.as_bytes())
}

fn signed(body: &str, signature: &str) -> Request<Body> {
    let request = Request::builder().method("POST").uri(CALLBACK).header("X-Billfish-Signature", signature);
    request.body(Body::from(body.to_owned())).unwrap()
}

fn payment(order: &str, payment: &str) -> Value {
    json!({"orderId": order, "paymentId": payment, "priceMinor": 600, "currency": "CNY"})
}

#[tokio::test]
async fn a_phone_logs_in_is_somebody_and_logs_out() {
    let api = Api::start().await;
    let (status, answer) = api.answer(public("/v1/login/code", &json!({"phone": PHONE}))).await;
    assert_eq!((status, answer), (200, json!({"expiresInMs": 300_000, "againInMs": 60_000})));
    let (status, answer) = api.answer(public("/v1/login", &json!({"phone": "8613800138000", "code": "1000"}))).await;
    assert_eq!((status, answer["expiresInMs"].as_u64()), (200, Some(30 * 24 * 3_600_000)), "{answer}");
    let (user, token) = (answer["userId"].as_i64().unwrap(), answer["token"].as_str().unwrap());
    assert!(user >= 1_000_000 && token.len() == 32, "{answer}");

    let (_, answer) = api.call("GET", &format!("/v1/users?ids={user}"), Value::Null).await;
    assert_eq!(answer["users"], json!([{"userId": user, "nickName": format!("user{user}"), "avatar": ""}]));
    assert_eq!(api.of_user(token, "GET", "/v1/wallet", Value::Null).await, (200, json!({"coins": 0, "beans": 0})));
    let (status, others) = api.of_user(token, "GET", "/v1/wallet?userId=20001", Value::Null).await;
    assert_eq!((status, &others["code"]), (403, &json!("not-allowed")), "another's");
    assert_eq!(api.call("GET", "/v1/wallet?userId=20001", Value::Null).await, (200, json!({"coins": 0, "beans": 0})), "with the key");
    assert_eq!(api.call("GET", "/v1/wallet", Value::Null).await.0, 400, "the key says whose");
    let (status, answer) = api.of_user(token, "GET", "/v1/im/config?device=web", Value::Null).await;
    assert_eq!((status, &answer["gateways"]), (200, &json!({"tcp": ["127.0.0.1:8085"]})), "{answer}");
    let issued = answer["token"].as_str().unwrap().to_owned();
    let owner = api.state.tokens.resolve(&[issued], now_ms()).await.unwrap()[0].unwrap();
    assert_eq!((owner.app, owner.user), (APP, UserId(user)));

    assert_eq!(api.of_user(token, "POST", "/v1/logout", Value::Null).await.0, 204);
    let (status, problem) = api.of_user(token, "GET", "/v1/wallet", Value::Null).await;
    assert_eq!((status, &problem["code"]), (401, &json!("bad-token")), "at once");
}

#[tokio::test]
async fn a_code_is_used_once_and_there_is_no_other_for_a_minute() {
    let api = Api::start().await;
    api.log_in(PHONE).await;
    let (status, problem) = api.answer(public("/v1/login", &json!({"phone": PHONE, "code": "1000"}))).await;
    assert_eq!((status, &problem["code"]), (403, &json!("wrong-code")));
    let (status, headers, body) = api.send(public("/v1/login/code", &json!({"phone": "8613800138000"}))).await;
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status.as_u16(), &problem["code"]), (429, &json!("rate-limited")));
    let wait = problem["retryAfterMs"].as_u64().unwrap();
    assert!((1..=60_000).contains(&wait), "{wait}");
    assert_eq!(headers[header::RETRY_AFTER].to_str().unwrap(), wait.div_ceil(1_000).to_string());
    assert!(!problem.to_string().contains("138001"), "no answer says the phone: {problem}");
}

#[tokio::test]
async fn five_wrong_codes_end_it() {
    let api = Api::start().await;
    api.answer(public("/v1/login/code", &json!({"phone": PHONE}))).await;
    for _ in 0..5 {
        let (status, problem) = api.answer(public("/v1/login", &json!({"phone": PHONE, "code": "0001"}))).await;
        assert_eq!((status, &problem["code"]), (403, &json!("wrong-code")));
    }
    let (status, problem) = api.answer(public("/v1/login", &json!({"phone": PHONE, "code": "1000"}))).await;
    assert_eq!((status, &problem["code"]), (429, &json!("rate-limited")));
}

#[tokio::test]
async fn phones_and_codes_that_cannot_be_are_named() {
    let api = Api::start().await;
    for (path, body, field) in [
        ("/v1/login/code", json!({"phone": "12345"}), "phone"),
        ("/v1/login/code", json!({"phone": "+86 138"}), "phone"),
        ("/v1/login/code", json!({"phone": PHONE, "appId": 1}), "appId"),
        ("/v1/login", json!({"phone": PHONE, "code": "100"}), "code"),
        ("/v1/login", json!({"phone": PHONE, "code": "10000"}), "code"),
        ("/v1/login", json!({"phone": PHONE, "code": 1000}), "code"),
        ("/v1/login", json!({"phone": PHONE, "code": "1000", "uuid": "a token is not kept for a repeat"}), "uuid"),
    ] {
        let (status, problem) = api.answer(public(path, &body)).await;
        assert_eq!((status, &problem["code"], problem["field"].as_str()), (400, &json!("malformed"), Some(field)), "{body}: {problem}");
    }
}

#[tokio::test]
async fn what_is_no_session_gets_one_answer() {
    let api = Api::start().await;
    let (_, token) = api.log_in(PHONE).await;
    let (expired, now) = ("0".repeat(32), now_ms());
    let owner = SessionOwner { app: APP, user: UserId(20_001) };
    api.state.sessions.open(&signature::print(expired.as_bytes()), owner, now - 2, now - 1).await.unwrap();
    let wrong_case = token.to_uppercase();
    let (_, closed) = api.log_in("8613800138001").await;
    api.of_user(&closed, "POST", "/v1/logout", Value::Null).await;
    let mut answers = Vec::new();
    for bad in ["", "x", &"f".repeat(32), &expired, &closed, &wrong_case, &format!("{token}0"), super::KEY] {
        let (status, answer) = api.of_user(bad, "GET", "/v1/im/config", Value::Null).await;
        assert_eq!((status, &answer["code"]), (401, &json!("bad-token")), "{bad}");
        answers.push(answer);
    }
    let mut twice = by_user(&token, "GET", "/v1/im/config", &Value::Null);
    twice.headers_mut().append(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    answers.push(api.problem(twice).await);
    answers.push(api.problem(Request::builder().uri("/v1/im/config").body(Body::empty()).unwrap()).await);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(api.coins(&token).await, 0, "and the good one is good");
}

#[tokio::test]
async fn a_session_is_of_its_app_alone() {
    let api = Api::start().await;
    let (_, token) = api.log_in(PHONE).await;
    for (method, path, body) in [
        ("GET", "/v1/wallet?appId=10002", Value::Null),
        ("GET", "/v1/im/config?appId=10002", Value::Null),
        ("POST", "/v1/recharge/orders", json!({"appId": 10002, "productId": 1, "uuid": "order-1"})),
        ("POST", "/v1/logout", json!({"appId": 10002})),
    ] {
        let (status, problem) = api.of_user(&token, method, path, body).await;
        assert_eq!((status, &problem["code"]), (401, &json!("bad-token")), "{path}");
    }
    assert_eq!(api.of_user(&token, "GET", "/v1/wallet?appId=10001", Value::Null).await.0, 200);
    // The phone is another user elsewhere.
    api.answer(public("/v1/login/code", &json!({"appId": 10002, "phone": PHONE}))).await;
    let (_, there) = api.answer(public("/v1/login", &json!({"appId": 10002, "phone": PHONE, "code": "1000"}))).await;
    let token = there["token"].as_str().unwrap();
    assert_eq!(api.of_user(token, "GET", "/v1/wallet?appId=10002", Value::Null).await.0, 200);
    assert_eq!(api.of_user(token, "GET", "/v1/wallet?appId=10001", Value::Null).await.0, 401);
}

#[tokio::test]
async fn a_user_is_logged_out_everywhere_by_himself_or_by_the_key() {
    let api = Api::start().await;
    let (user, token) = api.log_in(PHONE).await;
    let others = ["1", "2"].map(|digit| digit.repeat(32));
    for other in &others {
        api.session(APP, user, other).await;
    }
    assert_eq!(api.of_user(&others[0], "POST", "/v1/logout", json!({})).await.0, 204);
    assert_eq!(api.of_user(&others[0], "GET", "/v1/wallet", Value::Null).await.0, 401);
    assert_eq!(api.of_user(&others[1], "GET", "/v1/wallet", Value::Null).await.0, 200, "the others go on");
    assert_eq!(api.of_user(&others[1], "POST", "/v1/logout", json!({"everywhere": true})).await.0, 204);
    for ended in [&token, &others[1]] {
        assert_eq!(api.of_user(ended, "GET", "/v1/wallet", Value::Null).await.0, 401);
    }
    api.session(APP, user, &others[0]).await;
    assert_eq!(api.call("DELETE", &format!("/v1/users/{user}/sessions?appId=10002"), Value::Null).await.0, 204);
    assert_eq!(api.of_user(&others[0], "GET", "/v1/wallet", Value::Null).await.0, 200, "another app's user of that number");
    assert_eq!(api.call("DELETE", &format!("/v1/users/{user}/sessions"), Value::Null).await.0, 204);
    assert_eq!(api.of_user(&others[0], "GET", "/v1/wallet", Value::Null).await.0, 401);
}

#[tokio::test]
async fn where_vips_open_rooms_nobody_else_does() {
    let api = Api::of(&config(), |config| config.room.vip_only = true).await;
    let open = json!({"anchorId": 30001, "type": 1});
    let (status, problem) = api.call("POST", "/v1/rooms", open.clone()).await;
    assert_eq!((status, &problem["code"]), (403, &json!("not-allowed")), "{problem}");
    for vip in [true, true, false, true] {
        let (status, answer) = api.call("PUT", "/v1/users/30001/tags", json!({"vip": vip})).await;
        assert_eq!((status, answer), (200, json!({"userId": 30001, "vip": vip})));
    }
    let (status, room) = api.call("POST", "/v1/rooms", open).await;
    assert_eq!(status, 201, "{room}");
    let (status, _) = api.call("POST", "/v1/rooms", json!({"appId": 10002, "anchorId": 30001, "type": 1})).await;
    assert_eq!(status, 403, "tags are of one app");
    for bad in [json!({}), json!({"vip": 1}), json!({"vip": true, "gold": true})] {
        assert_eq!(api.call("PUT", "/v1/users/30001/tags", bad.clone()).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn an_order_is_one_for_each_user_and_uuid() {
    let api = Api::start().await;
    let (status, answer) = api.call("GET", "/v1/recharge/products", Value::Null).await;
    let product = json!({"productId": 1, "name": "60 coins", "priceMinor": 600, "currency": "CNY", "coins": 60});
    assert_eq!((status, &answer["products"][0]), (200, &product));
    let (user, token) = api.log_in(PHONE).await;
    let (_, other) = api.log_in("8613800138001").await;
    let body = json!({"productId": 1, "uuid": "order-1"});
    let (status, order) = api.of_user(&token, "POST", "/v1/recharge/orders", body.clone()).await;
    assert_eq!((status, &order["state"], &order["userId"], &order["coins"]), (201, &json!("waiting"), &json!(user), &json!(60)), "{order}");
    assert!(order["orderId"].as_str().unwrap().parse::<i64>().unwrap() >= 1_000_000, "{order}");
    assert_eq!(api.of_user(&token, "POST", "/v1/recharge/orders", body.clone()).await, (201, order.clone()), "again");
    let (_, others) = api.of_user(&other, "POST", "/v1/recharge/orders", body).await;
    assert!(others["orderId"] != order["orderId"] && others["userId"] != order["userId"], "{others}");
    for (body, status, code) in [
        (json!({"productId": 99, "uuid": "order-2"}), 404, "product-not-found"),
        (json!({"productId": 1}), 400, "malformed"),
        (json!({"productId": 2, "uuid": "order-1"}), 409, "key-reused"),
    ] {
        let (answered, problem) = api.of_user(&token, "POST", "/v1/recharge/orders", body.clone()).await;
        assert_eq!((answered, problem["code"].as_str()), (status, Some(code)), "{body}: {problem}");
    }
}

#[tokio::test]
async fn a_payment_that_is_told_twenty_times_at_once_is_credited_once_and_answered_alike() {
    let api = Arc::new(Api::start().await);
    let (user, token) = api.log_in(PHONE).await;
    let order = api.order(&token, "order-1").await;
    let tellers: Vec<_> = (0..20)
        .map(|_| {
            let (api, told) = (Arc::clone(&api), payment(&order, "pay-1"));
            tokio::spawn(async move { api.tell(&told).await })
        })
        .collect();
    let mut answers = Vec::new();
    for teller in tellers {
        answers.push(teller.await.unwrap());
    }
    let (status, first) = &answers[0];
    assert_eq!(
        (*status, &first["state"], &first["userId"], &first["orderId"]),
        (200, &json!("paid"), &json!(user), &json!(order)),
        "{first}"
    );
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(api.coins(&token).await, 60);
    assert_eq!(api.tell(&payment(&order, "pay-1")).await, answers[0], "and later too");
    assert_eq!(api.coins(&token).await, 60);
}

#[tokio::test]
async fn a_payment_that_does_not_fit_changes_nothing() {
    let api = Api::start().await;
    let (_, token) = api.log_in(PHONE).await;
    let (order, next) = (api.order(&token, "order-1").await, api.order(&token, "order-2").await);
    let changed = |field: &str, value: Value| {
        let mut told = payment(&order, "pay-1");
        told[field] = value;
        told
    };
    for (told, status, code) in [
        (changed("priceMinor", json!(599)), 409, "payment-conflict"),
        (changed("priceMinor", json!(-600)), 409, "payment-conflict"),
        (changed("currency", json!("USD")), 409, "payment-conflict"),
        (changed("orderId", json!("1")), 404, "order-not-found"),
        (changed("orderId", json!("+1")), 400, "malformed"),
        (changed("orderId", json!(1)), 400, "malformed"),
        (changed("orderId", json!("99999999999999999999")), 400, "malformed"),
        (changed("paymentId", json!("")), 400, "malformed"),
        (changed("paymentId", json!("p".repeat(65))), 400, "malformed"),
        (changed("paid", json!(true)), 400, "malformed"),
    ] {
        let (answered, problem) = api.tell(&told).await;
        assert_eq!((answered, problem["code"].as_str()), (status, Some(code)), "{told}: {problem}");
    }
    assert_eq!(api.coins(&token).await, 0);
    assert_eq!(api.tell(&payment(&order, "pay-1")).await.0, 200);
    for told in [payment(&order, "pay-2"), payment(&next, "pay-1")] {
        let (status, problem) = api.tell(&told).await;
        assert_eq!((status, problem["code"].as_str()), (409, Some("payment-conflict")), "{told}");
    }
    assert_eq!(api.coins(&token).await, 60);
}

#[tokio::test]
async fn a_callback_that_is_not_signed_now_by_whom_it_must_be_is_refused() {
    let api = Api::start().await;
    let (_, token) = api.log_in(PHONE).await;
    let body = payment(&api.order(&token, "order-1").await, "pay-1").to_string();
    let now_s = now_ms() / 1_000;
    let good = key().sign(body.as_bytes(), now_s);
    for (what, signature) in [
        ("none", String::new()),
        ("another key", SigningKey::new(b"another secret").sign(body.as_bytes(), now_s)),
        ("another body", key().sign(b"{}", now_s)),
        ("too old", key().sign(body.as_bytes(), now_s - 301)),
        ("of the future", key().sign(body.as_bytes(), now_s + 330)),
        ("of another time than it says", good.replace(&now_s.to_string(), &(now_s - 1).to_string())),
        ("cut off", good[..good.len() - 1].to_owned()),
    ] {
        let problem = api.problem(signed(&body, &signature)).await;
        assert_eq!((problem["status"].as_u64(), problem["code"].as_str()), (Some(403), Some("bad-signature")), "{what}");
    }
    let mut twice = signed(&body, &good);
    twice.headers_mut().append("X-Billfish-Signature", good.parse().unwrap());
    assert_eq!(api.problem(twice).await["code"], "bad-signature");
    assert_eq!(api.problem(public(CALLBACK, &json!({}))).await["code"], "bad-signature");
    assert_eq!(api.coins(&token).await, 0);
    assert_eq!(api.answer(signed(&body, &good)).await.0, 200);
    assert_eq!(api.coins(&token).await, 60);
}

#[tokio::test]
async fn for_development_an_order_is_paid_at_once_and_once() {
    let recharge = RechargeConfig { provider: Some(RechargeProvider::Development), secret: String::new() };
    let api = Api::with(&HttpConfig { recharge, ..config() }).await;
    let (_, token) = api.log_in(PHONE).await;
    let body = json!({"productId": 1, "uuid": "order-1"});
    let (status, order) = api.of_user(&token, "POST", "/v1/recharge/orders", body.clone()).await;
    assert_eq!((status, &order["state"]), (201, &json!("paid")), "{order}");
    assert_eq!(api.of_user(&token, "POST", "/v1/recharge/orders", body).await, (201, order));
    assert_eq!(api.coins(&token).await, 60);
    // Its secret is nobody's, the configured one of others least of all.
    let (status, problem) = api.tell(&payment("1000000", "pay-1")).await;
    assert_eq!((status, problem["code"].as_str()), (403, Some("bad-signature")));
}

#[tokio::test]
async fn what_is_not_set_up_says_so() {
    let api = Api::of(&HttpConfig { recharge: RechargeConfig::default(), ..config() }, |config| config.sms.provider = None).await;
    api.session(APP, 20_001, &"0".repeat(32)).await;
    let order = json!({"productId": 1, "uuid": "order-1"});
    for request in [
        public("/v1/login/code", &json!({"phone": PHONE})),
        public("/v1/login", &json!({"phone": PHONE, "code": "1000"})),
        by_user(&"0".repeat(32), "POST", "/v1/recharge/orders", &order),
        public(CALLBACK, &payment("1", "pay-1")),
    ] {
        let path = request.uri().path().to_owned();
        let problem = api.problem(request).await;
        assert_eq!((problem["status"].as_u64(), problem["code"].as_str()), (Some(501), Some("not-configured")), "{path}");
    }
}

#[tokio::test]
async fn an_address_is_that_of_the_caller_also_behind_a_proxy() {
    let api = Api::with(&HttpConfig { proxies: vec!["10.0.0.0/8".parse().unwrap()], ..config() }).await;
    let from = |peer: &str, forwarded: &str, number: usize| {
        let mut request = public("/v1/login", &json!({"phone": (8_613_800_000_000_u64 + number as u64).to_string(), "code": "1000"}));
        request.extensions_mut().insert(Peer(peer.parse::<IpAddr>().unwrap()));
        request.headers_mut().insert("x-forwarded-for", forwarded.parse().unwrap());
        request
    };
    for number in 0..60 {
        assert_eq!(api.answer(from("10.0.0.1", "198.51.100.7", number)).await.0, 403);
    }
    let (status, headers, body) = api.send(from("10.0.0.2", "1.1.1.1, 198.51.100.7", 60)).await;
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &problem["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!("rate-limited")));
    assert!(headers.contains_key(header::RETRY_AFTER));
    assert_eq!(api.answer(from("10.0.0.1", "198.51.100.8", 61)).await.0, 403, "another caller");
    assert_eq!(api.answer(from("198.51.100.9", "198.51.100.7", 62)).await.0, 403, "who is no proxy speaks for himself");
}

#[tokio::test]
async fn over_a_connection_the_address_is_that_of_its_other_end() {
    let directory = tempfile::tempdir().unwrap();
    let (parts, _running) = super::behind_with(&directory, |config| config.login.address_per_minute_max = 2).await;
    let config = HttpConfig { listen: ([127, 0, 0, 1], 0).into(), ..config() };
    let server = crate::http::start(parts, &config, &mut super::Registry::default()).await.unwrap();
    let url = format!("http://{}/v1/login", server.address());
    let statuses = tokio::task::spawn_blocking(move || {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let try_of = |number: u64| {
            let body = json!({"phone": (8_613_800_000_000 + number).to_string(), "code": "1000"});
            agent.post(&url).header("x-forwarded-for", format!("198.51.100.{number}")).send_json(body).unwrap().status().as_u16()
        };
        [try_of(1), try_of(2), try_of(3)]
    });
    assert_eq!(statuses.await.unwrap(), [403, 403, 429]);
    server.stop().await;
}

/// The whole way: over a real connection, signed, and back with what was in the message.
#[tokio::test]
async fn a_code_comes_by_the_providers_hand() {
    const SECRET: &str = "what both of us know";
    let messages: Arc<Mutex<Vec<Value>>> = Arc::default();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/sms", listener.local_addr().unwrap());
    let taken = Arc::clone(&messages);
    let provider = axum::Router::new().route(
        "/sms",
        axum::routing::post(move |headers: axum::http::HeaderMap, body: axum::body::Bytes| async move {
            let signature = headers["x-billfish-signature"].to_str().unwrap();
            SigningKey::new(SECRET.as_bytes()).verify(Some(signature), &body, now_ms() / 1_000).unwrap();
            let message: Value = serde_json::from_slice(&body).unwrap();
            let status = if message["phone"] == PHONE { StatusCode::ACCEPTED } else { StatusCode::BAD_GATEWAY };
            taken.lock().unwrap().push(message);
            status
        }),
    );
    let bounds = Bounds { connections_max: 8, header_timeout: Duration::from_secs(20), grace: Duration::from_secs(20) };
    let server = HttpServer::serve(listener, provider, bounds).unwrap();
    let api = Api::of(&config(), |config: &mut RouterConfig| {
        (config.sms.provider, config.sms.url, config.sms.secret) = (Some(SmsProvider::Http), url, SECRET.to_owned());
        config.sms.timeout = Duration::from_secs(20);
    })
    .await;
    let (status, answer) = api.answer(public("/v1/login/code", &json!({"phone": PHONE}))).await;
    assert_eq!(status, 200, "{answer}");
    let message = messages.lock().unwrap()[0].clone();
    assert_eq!(message["phone"], PHONE);
    let (status, answer) = api.answer(public("/v1/login", &json!({"phone": PHONE, "code": message["code"]}))).await;
    assert_eq!(status, 200, "{answer}");
    let (status, problem) = api.answer(public("/v1/login/code", &json!({"phone": "+8613800138001"}))).await;
    assert_eq!((status, &problem["code"], &problem["retryAfterMs"]), (503, &json!("unavailable"), &json!(60_000)), "{problem}");
    server.stop().await;
}
