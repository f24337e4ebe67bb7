//! The API as a caller sees it: real layers, real router behind them.

use super::{HttpConfig, HttpParts, RechargeConfig, RechargeProvider, service};
use crate::{
    RouterConfig, RouterParts, Running, SmsProvider,
    ledger::{Ledger, LedgerConfig, Sharing, Till},
    webhooks::{Webhooks, WebhooksConfig},
};
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, Request, StatusCode, header},
};
use billfish_state::{AppId, DeviceKind, Member, NodeInfo, NodeKind, RoomId, State, UserId};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;
use tower::ServiceExt;

mod calls;
mod people;
mod routers;
mod video;
mod webhooks;

const KEY: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn the_document_is_the_committed_one() {
    let api = Api::start().await;
    let (status, headers, body) = api.send(get("/openapi.json")).await;
    assert_eq!((status, headers[header::CONTENT_TYPE].to_str().unwrap()), (StatusCode::OK, "application/json"));
    insta::assert_snapshot!("openapi", String::from_utf8(body.to_vec()).unwrap());
}

#[tokio::test]
async fn the_page_written_by_a_person_names_every_route_and_every_code() {
    const PAGE: &str = include_str!("../../../docs/api.md");
    let api = Api::start().await;
    for Operation { method, path, .. } in api.operations().await {
        assert!(PAGE.contains(&format!("{path}`")) || PAGE.contains(&format!("{path}?")), "{method} {path} is not in docs/api.md");
    }
    for code in super::problem::ProblemCode::ALL {
        assert!(PAGE.contains(&format!("`{}`", code.label())), "{} is not in docs/api.md", code.label());
    }
}

/// Reliability page, row *admin*: every route, from the document.
#[tokio::test]
async fn every_operation_wants_the_key_a_session_or_a_proof_of_its_own() {
    let api = Api::start().await;
    let operations = api.operations().await;
    assert!(operations.len() >= 34, "the document has only {} operations", operations.len());
    let session = "0".repeat(32);
    let (owner, now) = (billfish_state::SessionOwner { app: AppId(10_001), user: UserId(20_001) }, api.state.clock.now_ms());
    api.state.sessions.open(&crate::signature::print(session.as_bytes()), owner, now, now + 600_000).await.unwrap();
    for Operation { method, path, wants } in operations {
        let path = path.replace("{id}", "1").replace("{userId}", "20001");
        let with = |key: Option<&str>| {
            let mut request = Request::builder().method(method.as_str()).uri(&path).header(header::CONTENT_TYPE, "application/json");
            if let Some(key) = key {
                request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
            }
            request.body(Body::from("{")).unwrap()
        };
        let im_token = "00112233445566778899aabbccddeeff%10001";
        let stranger = "00112233445566778899aabbccddeeff";
        let (good, refusals) = match wants {
            // What is wrong with the call is told before, and none of the others' proofs helps.
            Wants::Nothing => {
                for key in [None, Some("wrong"), Some(KEY), Some(&*session)] {
                    let problem = api.problem(with(key)).await;
                    assert!(matches!(problem["status"].as_u64(), Some(400 | 403 | 415)), "{method} {path}: {problem}");
                }
                continue;
            }
            Wants::ApiKey => (
                KEY,
                [
                    (None, "missing-key"),
                    (Some("wrong"), "wrong-key"),
                    (Some(im_token), "wrong-key"),
                    (Some(&*session), "wrong-key"),
                    (Some(""), "wrong-key"),
                ],
            ),
            Wants::Either => {
                let (status, ..) = api.send(with(Some(KEY))).await;
                assert_ne!(status, StatusCode::UNAUTHORIZED, "{method} {path} with the key");
                (
                    &*session,
                    [
                        (None, "bad-token"),
                        (Some("wrong"), "bad-token"),
                        (Some(im_token), "bad-token"),
                        (Some(stranger), "bad-token"),
                        (Some(""), "bad-token"),
                    ],
                )
            }
            Wants::Session => (
                &*session,
                [
                    (None, "bad-token"),
                    (Some("wrong"), "bad-token"),
                    (Some(im_token), "bad-token"),
                    (Some(KEY), "bad-token"),
                    (Some(stranger), "bad-token"),
                ],
            ),
        };
        for (key, code) in refusals {
            let problem = api.problem(with(key)).await;
            assert_eq!((problem["status"].as_u64(), problem["code"].as_str()), (Some(401), Some(code)), "{method} {path} with {key:?}");
        }
        // Logging out would end what the next ones show: a body that cannot be read changes nothing.
        let (status, _, body) = api.send(with(Some(good))).await;
        assert_ne!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
        assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        assert!(!body.starts_with(b"no such"), "{method} {path}");
    }
}

#[tokio::test]
async fn a_wrong_key_is_told_how_to_show_a_right_one() {
    let api = Api::start().await;
    let (status, headers, body) = api.send(get("/v1/rooms")).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(headers[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
    assert!(String::from_utf8_lossy(&body).contains("Authorization: Bearer"));
}

#[tokio::test]
async fn no_path_leads_out_of_the_list_of_routes() {
    let api = Api::start().await;
    for path in [
        "/docs/../../etc/passwd",
        "/docs/%2e%2e/%2e%2e/etc/passwd",
        "/docs/..%2f..%2fetc%2fpasswd",
        "/docs/....//page.html",
        "/docs/page.js%00.css",
        "/docs/page.js/",
        "//openapi.json",
        "/openapi.json/..",
        "/v1/../docs",
        "/.git/config",
        "/v1/rooms/1/../2",
        "/v1/rooms/%2e%2e",
        "/v1/rooms/..%2f..%2f..%2fapi-key",
        "/v1/rooms/%ff",
        "/v1",
        "/metrics",
    ] {
        let problem = api.problem(authorized("GET", path, Body::empty())).await;
        assert!(matches!(problem["code"].as_str(), Some("not-found" | "malformed")), "{path}: {problem}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let api = Api::start().await;
    let deep = format!(r#"{{"userId":{}{}}}"#, "[".repeat(30_000), "]".repeat(30_000));
    let token = "/v1/im/tokens";
    let push = "/v1/im/push";
    let bodies: Vec<(&str, &str, &str, &str)> = vec![
        (token, "", "", "empty"),
        (token, "{", "", "EOF"),
        (token, "[]", "", "expected struct"),
        (token, "null", "", "expected struct"),
        (token, r#"{"userId":20001} x"#, "", "trailing"),
        (token, r#"{"userId":20001,"userId":20002}"#, "", "duplicate field `userId`"),
        (token, r#"{"userId":20001,"nickname":"x"}"#, "nickname", "unknown field `nickname`"),
        (token, r#"{"userId":"20001"}"#, "userId", "whole number"),
        (token, r#"{"userId":9007199254740992}"#, "userId", "9007199254740991"),
        (token, r#"{"userId":18446744073709551616}"#, "userId", "whole number"),
        (token, r#"{"userId":1e400}"#, "userId", "out of range"),
        (token, r#"{"userId":-20001}"#, "userId", "whole number"),
        (token, r#"{"userId":20001.5}"#, "userId", "whole number"),
        (token, r#"{"userId":20001,"device":"toaster"}"#, "device", "`android`"),
        (token, r#"{"userId":20001,"appId":1}"#, "appId", "10000"),
        (token, r#"{"userId":20001,"nickName":"\ud800"}"#, "nickName", "hex escape"),
        (push, r#"{"target":{"all":true},"bizCode":1}"#, "", "missing field `data`"),
        (push, r#"{"target":{"users":[20001,"x"]},"bizCode":1,"data":""}"#, "target.users[1]", "whole number"),
        (push, r#"{"target":{},"bizCode":1,"data":""}"#, "target", "one of"),
        (push, r#"{"target":{"all":false},"bizCode":1,"data":""}"#, "target", "one of"),
        (push, r#"{"target":{"all":true,"roomId":1},"bizCode":1,"data":""}"#, "target", "one of"),
        (push, r#"{"target":{"all":true},"bizCode":1,"data":"","qos":2}"#, "qos", "0 to 1"),
        (push, r#"{"target":{"all":true},"bizCode":1,"data":"","class":9}"#, "class", "0 to 3"),
        (token, &deep, "userId", "whole number"),
        ("/v1/rooms", r#"{"anchorId":30001,"type":3}"#, "type", "1 (normal) or 2 (PK)"),
        ("/v1/im/kick", r#"{"userId":20001,"reason":"a\u0000b"}"#, "reason", "control"),
    ];
    for (path, body, field, says) in bodies {
        let problem = api.problem(authorized("POST", path, Body::from(body.to_owned()))).await;
        assert_eq!((problem["status"].as_u64(), problem["code"].as_str()), (Some(400), Some("malformed")), "{body}: {problem}");
        if !field.is_empty() {
            assert_eq!(problem["field"], field, "{body}: {problem}");
        }
        assert!(problem["detail"].as_str().unwrap().contains(says), "{body}: {problem}");
    }
    let problem = api.problem(authorized("POST", token, Body::from(&b"{\"nickName\":\"\xff\"}"[..]))).await;
    assert_eq!(problem["status"], 400);
}

#[tokio::test]
async fn a_body_must_say_that_it_is_json() {
    let api = Api::start().await;
    for declared in ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
        let mut request = authorized("POST", "/v1/im/tokens", Body::from(r#"{"userId":20001}"#));
        request.headers_mut().insert(header::CONTENT_TYPE, declared.parse().unwrap());
        let problem = api.problem(request).await;
        assert_eq!((problem["status"].as_u64(), problem["code"].as_str()), (Some(415), Some("not-json")), "{declared}");
    }
}

#[tokio::test]
async fn a_body_one_byte_too_long_is_refused() {
    let api = Api::start().await;
    let body_of = |length: usize| {
        let frame = r#"{"userId":20001,"nickName":""}"#;
        let body = frame.replace("\"\"", &format!("\"{}\"", "n".repeat(length - frame.len())));
        assert_eq!(body.len(), length);
        body
    };
    let limit = HttpConfig::default().body_bytes_max;
    for (path, method) in [("/v1/im/tokens", "POST"), ("/v1/users/20001", "PUT")] {
        let problem = api.problem(authorized(method, path, Body::from(body_of(limit + 1)))).await;
        assert_eq!((problem["status"].as_u64(), problem["code"].as_str()), (Some(413), Some("too-large")), "{method} {path}");
        let problem = api.problem(authorized(method, path, Body::from(body_of(limit)))).await;
        assert_ne!(problem["status"], 413, "{method} {path}");
    }
}

#[tokio::test]
async fn pages_are_bounded() {
    let api = Api::start().await;
    for (query, field, says) in [
        ("page=0", "page", "at least 1"),
        ("pageSize=0", "pageSize", "1 to 100"),
        ("pageSize=101", "pageSize", "1 to 100"),
        ("page=-1", "query", "page"),
        ("page=4294967296", "query", "page"),
        ("page=one", "query", "page"),
        ("type=0", "type", "1 (normal) or 2 (PK)"),
        ("type=3", "type", "1 (normal) or 2 (PK)"),
        ("sort=name", "query", "unknown field `sort`"),
        ("appId=9999", "query", "10000"),
    ] {
        let problem = api.problem(authorized("GET", &format!("/v1/rooms?{query}"), Body::empty())).await;
        assert_eq!((problem["status"].as_u64(), problem["field"].as_str()), (Some(400), Some(field)), "{query}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(says), "{query}: {problem}");
    }
    for (path, field) in [
        ("/v1/rooms/1/members?limit=0", "limit"),
        ("/v1/rooms/1/members?limit=1001", "limit"),
        ("/v1/rooms/1/members?cursor=-1", "query"),
        ("/v1/rooms/0", "id"),
        ("/v1/rooms/01", "id"),
        ("/v1/rooms/9007199254740992", "id"),
        ("/v1/rooms/one", "id"),
        ("/v1/im/online", "query"),
        ("/v1/im/online?userIds=", "userIds"),
        ("/v1/im/online?userIds=20001,x", "userIds"),
        ("/v1/users?ids=20001,9007199254740992", "ids"),
    ] {
        let problem = api.problem(authorized("GET", path, Body::empty())).await;
        assert_eq!((problem["status"].as_u64(), problem["field"].as_str()), (Some(400), Some(field)), "{path}: {problem}");
    }
    let many = vec!["20001"; 1_001].join(",");
    let problem = api.problem(authorized("GET", &format!("/v1/im/online?userIds={many}"), Body::empty())).await;
    assert!(problem["detail"].as_str().unwrap().contains("1000"), "{problem}");
}

#[tokio::test]
async fn problems_have_one_shape_and_point_at_their_description() {
    let api = Api::start().await;
    let (_, _, page) = api.send(get("/docs")).await;
    let page = String::from_utf8(page.to_vec()).unwrap();
    for request in [
        authorized("GET", "/nowhere", Body::empty()),
        authorized("PATCH", "/v1/rooms", Body::empty()),
        authorized("GET", "/v1/rooms?page=0", Body::empty()),
        authorized("POST", "/v1/rooms", Body::from("{")),
        get("/v1/rooms"),
    ] {
        let (status, headers, body) = api.send(request).await;
        assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
        let problem: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["status"], status.as_u16());
        for member in ["type", "title", "detail", "code"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {problem}");
        }
        let code = problem["code"].as_str().unwrap();
        assert_eq!(problem["type"], format!("/docs#{code}"));
        assert!(page.contains(&format!("id=\"{code}\"")), "{code} is not described");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let api = Api::start().await;
    let (status, headers, _) = api.send(authorized("PATCH", "/v1/rooms", Body::empty())).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let allowed = headers[header::ALLOW].to_str().unwrap();
    assert!(allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
}

#[tokio::test]
async fn a_public_address_stands_before_the_type_of_problems() {
    let config = HttpConfig { public_url: "https://api.example.com".to_owned(), ..config() };
    let api = Api::with(&config).await;
    let (_, headers, body) = api.send(authorized("PATCH", "/v1/rooms", Body::empty())).await;
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["type"], "https://api.example.com/docs#method-not-allowed");
    assert!(headers.contains_key(header::ALLOW));
    assert_eq!(headers["x-content-type-options"], "nosniff");
}

#[tokio::test]
async fn the_page_asks_no_other_host_and_runs_no_script_but_its_own() {
    let api = Api::start().await;
    for (path, kind) in [("/docs", "text/html"), ("/docs/page.js", "text/javascript"), ("/docs/page.css", "text/css")] {
        let (status, headers, body) = api.send(get(path)).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert!(headers[header::CONTENT_TYPE].to_str().unwrap().starts_with(kind), "{path}");
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{policy}");
        let text = String::from_utf8(body.to_vec()).unwrap();
        for foreign in ["http://", "https://", "innerHTML", "document.write", "eval(", "onclick", "<style", "style=\"", "<script>"] {
            assert!(!text.contains(foreign), "{foreign} in {path}");
        }
    }
}

#[tokio::test]
async fn labels_come_from_routes_and_never_from_callers() {
    let mut registry = Registry::default();
    let directory = tempfile::tempdir().unwrap();
    let (parts, _running) = behind(&directory).await;
    let router = service(parts, &config(), &mut registry).unwrap().router;
    for index in 0..200 {
        for (method, path) in [
            ("GET", format!("/caller-{index}")),
            ("GET", format!("/v1/rooms/caller-{index}")),
            (&*format!("CALLER{index}"), "/v1/rooms/1".to_owned()),
        ] {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap();
        }
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(!text.to_lowercase().contains("caller"), "{text}");
    let series: Vec<&str> = text.lines().filter(|line| line.starts_with("router_http_requests_total{")).collect();
    assert_eq!(series.len(), 3, "{series:?}");
    assert!(series.iter().all(|line| line.ends_with(" 200")), "{series:?}");
    assert!(text.contains("router_http_seconds_bucket"), "{text}");
}

#[tokio::test]
async fn a_handler_that_panics_is_one_calls_trouble() {
    async fn panics() {
        panic!("our bug");
    }
    let router = Router::new()
        .route("/", axum::routing::get(panics))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(super::problem::panicked));
    let response = router.oneshot(get("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let body = to_bytes(response.into_body(), 4_096).await.unwrap();
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["code"], "internal");
    assert!(!problem.to_string().contains("our bug"), "{problem}");
}

#[test]
fn the_defaults_are_valid_and_a_wrong_value_is_named_by_its_key() {
    assert_eq!(HttpConfig::default().validate(), Ok(()));
    let read: HttpConfig = serde_json::from_str("{}").unwrap();
    assert_eq!(read, HttpConfig::default());
    assert!(serde_json::from_str::<HttpConfig>(r#"{"lisen":"127.0.0.1:1"}"#).is_err());
    type Spoil = fn(&mut HttpConfig);
    let cases: [(&str, Spoil); 12] = [
        ("api_key", |config| config.api_key = "short".to_owned()),
        ("api_key", |config| config.api_key = "has a space in the middle".to_owned()),
        ("public_url", |config| config.public_url = "api.example.com".to_owned()),
        ("body_bytes_max", |config| config.body_bytes_max = 0),
        ("connections_max", |config| config.connections_max = 0),
        ("call_timeout", |config| config.call_timeout = Duration::ZERO),
        ("repeat_life", |config| config.repeat_life = Duration::ZERO),
        ("recharge.secret", |config| config.recharge.secret = "too short".to_owned()),
        ("recharge.secret", |config| config.recharge.provider = Some(RechargeProvider::External)),
        ("proxies", |config| config.proxies = vec!["10.0.0.0/8".parse().unwrap(); 65]),
        ("streams.push", |config| config.streams.push = "rtmp://host/live/{stream}".to_owned()),
        ("streams.flv", |config| config.streams.flv = "http://host/{stream}?key={key}".to_owned()),
    ];
    for (key, spoil) in cases {
        let mut config = HttpConfig::default();
        spoil(&mut config);
        assert_eq!(config.validate().unwrap_err().key, key);
    }
}

#[tokio::test]
async fn it_does_not_start_with_no_key_or_with_one_that_everybody_knows() {
    for (key, says) in [("", "empty"), ("********", "mask")] {
        let config = HttpConfig { api_key: key.to_owned(), ..HttpConfig::default() };
        refused_at_start(&config, &["http.api_key", says]).await;
    }
    let recharge = RechargeConfig { secret: "********".to_owned(), ..RechargeConfig::default() };
    refused_at_start(&HttpConfig { recharge, ..config() }, &["http.recharge.secret", "mask"]).await;
}

async fn refused_at_start(config: &HttpConfig, says: &[&str]) {
    assert_eq!(config.validate(), Ok(()));
    let directory = tempfile::tempdir().unwrap();
    let (parts, _running) = behind(&directory).await;
    let error = super::start(parts, config, &mut Registry::default()).await.unwrap_err().to_string();
    assert!(says.iter().all(|word| error.contains(word)), "{error}");
}

#[test]
fn a_configuration_in_a_log_shows_no_key() {
    let (config, shown) = (config(), format!("{:?} {:?}", config(), config().recharge));
    assert!(!shown.contains(KEY) && !shown.contains(&config.recharge.secret), "{shown}");
}

fn config() -> HttpConfig {
    let recharge = RechargeConfig { provider: None, secret: "a secret of whoever is paid".to_owned() };
    HttpConfig { api_key: KEY.to_owned(), recharge, ..HttpConfig::default() }
}

fn get(path: &str) -> Request<Body> {
    Request::builder().uri(path).body(Body::empty()).unwrap()
}

fn authorized(method: &str, path: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {KEY}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .unwrap()
}

/// A router with one gateway registered and none linked.
async fn behind(directory: &TempDir) -> (HttpParts, Running) {
    behind_with(directory, |_| {}).await
}

async fn behind_with(directory: &TempDir, change: impl FnOnce(&mut RouterConfig)) -> (HttpParts, Running) {
    let mut config = RouterConfig::default();
    config.sms.provider = Some(SmsProvider::Development);
    change(&mut config);
    let ledger = Ledger::open(&LedgerConfig::default(), directory.path(), Sharing::Exclusive).await.unwrap();
    let state = State::in_memory();
    let mut registry = Registry::default();
    let gateway = NodeInfo {
        kind: NodeKind::Gateway,
        id: "gateway-1".to_owned(),
        incarnation: 1,
        addresses: vec![("tcp".to_owned(), "127.0.0.1:8085".to_owned())],
        capacity: 1_000,
        load: 0,
        draining: false,
        version: String::new(),
        labels: Default::default(),
    };
    state.registry.register(&gateway, 0, u64::MAX).await.unwrap();
    let parts = RouterParts {
        config,
        state: state.clone(),
        records: Arc::new(ledger.clone()),
        money: Arc::new(ledger.clone()),
        till: Arc::new(Till::start(&ledger, &state.clock, &mut registry)),
        people: Arc::new(ledger.clone()),
        registry: &mut registry,
    };
    let running = crate::start(parts).await.unwrap();
    let webhooks = Webhooks::start(&ledger, &state, ("router-1", running.incarnation()), &WebhooksConfig::default(), &mut registry);
    (HttpParts { handle: running.handle(), state, ledger, webhooks }, running)
}

/// The API over a data directory of its own.
struct Api {
    router: Router,
    state: State,
    _running: Running,
    _directory: TempDir,
}

struct Operation {
    method: String,
    path: String,
    wants: Wants,
}

/// What a route asks of its caller, by the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wants {
    ApiKey,
    Session,
    Either,
    Nothing,
}

impl Api {
    async fn start() -> Self {
        Self::with(&config()).await
    }

    async fn with(config: &HttpConfig) -> Self {
        Self::of(config, |_| {}).await
    }

    async fn of(config: &HttpConfig, change: impl FnOnce(&mut RouterConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (parts, running) = behind_with(&directory, change).await;
        let state = parts.state.clone();
        let router = service(parts, config, &mut Registry::default()).unwrap().router;
        Self { router, state, _running: running, _directory: directory }
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, HeaderMap, Bytes) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        (head.status, head.headers, to_bytes(body, 1 << 20).await.unwrap())
    }

    /// A call with a JSON body: the status and the answer.
    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let (status, _, body) = self.send(authorized(method, path, body)).await;
        (status.as_u16(), serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Opens a room and gives its id.
    async fn open_room(&self, anchor: i64) -> i64 {
        let (status, room) = self.call("POST", "/v1/rooms", json!({"anchorId": anchor, "type": 1, "roomName": "Ann sings"})).await;
        assert_eq!(status, 201, "{room}");
        room["roomId"].as_i64().unwrap()
    }

    /// The problem that a call ends in.
    async fn problem(&self, request: Request<Body>) -> Value {
        let line = format!("{} {}", request.method(), request.uri());
        let (status, headers, body) = self.send(request).await;
        assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json", "{line}: {status} {body:?}");
        serde_json::from_slice(&body).unwrap()
    }

    /// Every operation of the document.
    async fn operations(&self) -> Vec<Operation> {
        let (_, _, body) = self.send(get("/openapi.json")).await;
        let document: Value = serde_json::from_slice(&body).unwrap();
        let mut found = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let wants = match &operation["security"] {
                    security if *security == json!([]) => Wants::Nothing,
                    security if *security == json!([{"apiKey": []}]) => Wants::ApiKey,
                    security if *security == json!([{"session": []}]) => Wants::Session,
                    security if *security == json!([{"apiKey": []}, {"session": []}]) => Wants::Either,
                    other => panic!("{method} {path} wants {other}"),
                };
                found.push(Operation { method: method.to_uppercase(), path: path.clone(), wants });
            }
        }
        found
    }
}
