//! Repeated POSTs: the same key gives the first answer.
//!
//! - The key is the header `Idempotency-Key` or the field `uuid` of the body; it stands for one method and path, and, on a route for users, for
//!   one user.
//! - Once begun, a call with a key runs to its end, also when its caller has hung up; whoever repeats it waits for that end.
//! - A success is kept and given again; a failure is not kept, so that a repetition is a new attempt. It has the same [`CallId`], by which
//!   a room knows a push that it had said before the answer was lost.
//! - Across routers the claim in the shared state decides; within one, callers queue up behind the first.
//!
//! What is kept is bounded by the cache, and lives for a day. What was paid for does not rest on this: the ledger has keys of its own.

use super::{
    auth::Session,
    problem::{Problem, ProblemCode, Result},
};
use crate::Refusal;
use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{FromRequest, Request, State as Part},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use billfish_state::{AppId, Cache, Clock, Dedup, Quiet, State, UserId};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio_util::task::TaskTracker;

/// Longest key.
const KEY_BYTES_MAX: usize = 64;
/// Longest answer that is kept. Ours are under 1 KiB; a page of something long is not the answer to a POST.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How much longer than a call a claim lives: the answer has to be stored before it ends.
const CLAIM_MARGIN: Duration = Duration::from_secs(5);
/// Claims of the API stand beside those of users, under a user that cannot exist.
const NOBODY: (AppId, UserId) = (AppId(0), UserId(0));

/// What the ledger knows by the `uuid` of one user, for ever: nothing of it is kept here, and two users may have the same.
const LEDGERS: [&str; 1] = ["/v1/gifts/send"];

/// Lines about a store that is away: each call with a key would make one.
static NOT_DONE: Quiet = Quiet::new();

static HEADER: HeaderName = HeaderName::from_static("idempotency-key");
static REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The same for every try of a call with a key, and for no other call. A try that failed may have been carried out all the same: a handler
/// that can tells whoever carries it out to know it by this.
#[derive(Clone, Debug)]
pub(crate) struct CallId(pub(crate) String);

/// The answers already given.
#[derive(Clone)]
pub(super) struct Repeats {
    cache: Arc<dyn Cache>,
    dedup: Arc<dyn Dedup>,
    clock: Clock,
    life: Duration,
    call_timeout: Duration,
    /// Callers of one key, in line. An entry lives as long as one of them does.
    lines: Arc<Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>>,
    running: TaskTracker,
}

/// An answer as the cache keeps it.
#[derive(Serialize, Deserialize)]
struct Kept {
    request: String,
    status: u16,
    location: Option<String>,
    content_type: Option<String>,
    body: String,
}

impl Repeats {
    pub(super) fn new(state: &State, life: Duration, call_timeout: Duration, running: TaskTracker) -> Self {
        let (cache, dedup) = (Arc::clone(&state.cache), Arc::clone(&state.dedup));
        Self { cache, dedup, clock: state.clock.clone(), life, call_timeout, lines: Arc::default(), running }
    }
}

/// Lets the first call with a key through, and answers the others with what it got.
pub(super) async fn answer_repeats(Part(repeats): Part<Repeats>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    match repeats.once(request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

impl Repeats {
    async fn once(self, request: Request, next: Next) -> Result<Response> {
        let (head, body) = request.into_parts();
        let body = Bytes::from_request(Request::from_parts(head.clone(), body), &()).await.map_err(super::input::body_refused)?;
        let is_ledgers = LEDGERS.contains(&head.uri.path());
        let key = key_of(&head.headers, if is_ledgers { &[] } else { &body })?;
        let caller = head.extensions.get::<Session>().map(|session| format!("\n{}", session.caller())).unwrap_or_default();
        let name = key.map(|key| format!("http:{:032x}", fingerprint(format!("{}\n{key}{caller}", head.uri.path()).as_bytes())));
        let request_print = format!("{:032x}", fingerprint(&canonical(&body)));
        let mut request = Request::from_parts(head, Body::from(body));
        let Some(name) = name else { return Ok(next.run(request).await) };
        request.extensions_mut().insert(CallId(format!("{:032x}", fingerprint(format!("{name}\n{request_print}").as_bytes()))));

        let running = self.running.clone();
        let call = async move {
            let line = self.line(&name);
            let _turn = line.lock().await;
            self.first_or_kept(name, request_print, request, next).await
        };
        // A task of its own, so that a caller who hangs up does not stop it half way; the server waits for it when it stops.
        match running.spawn(call).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "an HTTP call did not come to its end");
                Err(Problem::internal())
            }
        }
    }

    async fn first_or_kept(&self, name: String, request_print: String, request: Request, next: Next) -> Result<Response> {
        if let Some(response) = self.kept(&name, &request_print).await? {
            return Ok(response);
        }
        let names = [name];
        let now = self.clock.now_ms();
        let until = now + crate::clock::millis(self.call_timeout + CLAIM_MARGIN);
        let claimed = self.dedup.claim(NOBODY.0, NOBODY.1, &names, now, until).await.map_err(Refusal::from)?;
        if claimed.first() != Some(&true) {
            return Err(Problem::new(
                ProblemCode::InProgress,
                "a call with this key is under way, or was cut off; repeat it a little later",
            )
            .retry_after(1_000));
        }
        // Another router may have finished between the look and the claim.
        if let Some(response) = self.kept(&names[0], &request_print).await? {
            self.release(&names).await;
            return Ok(response);
        }
        let response = match tokio::time::timeout(self.call_timeout, next.run(request)).await {
            Ok(response) => response,
            // The claim stays until it runs out: what was begun may still be carried out.
            Err(_) => return Err(Problem::timed_out()),
        };
        if !response.status().is_success() {
            self.release(&names).await;
            return Ok(response);
        }
        let (response, kept) = keep(response, request_print).await?;
        let now = self.clock.now_ms();
        match self.cache.put(&names[0], kept, now, now + crate::clock::millis(self.life)).await {
            Ok(()) => self.release(&names).await,
            // The claim stays, and guards for as long as it lives.
            Err(error) => {
                if let Some(more_before) = NOT_DONE.may_say("keeping") {
                    tracing::warn!(error = &error as &dyn std::error::Error, more_before, "the answer to a call with a key was not kept");
                }
            }
        }
        Ok(response)
    }

    /// The answer given before; a problem when the key was used for something else.
    async fn kept(&self, name: &str, request_print: &str) -> Result<Option<Response>> {
        let Some(bytes) = self.cache.get(name, self.clock.now_ms()).await.map_err(Refusal::from)? else { return Ok(None) };
        let Ok(kept) = serde_json::from_slice::<Kept>(&bytes) else {
            tracing::error!("a kept answer cannot be read");
            return Err(Problem::internal());
        };
        if kept.request != request_print {
            return Err(Problem::new(ProblemCode::KeyReused, "this key was used for a call with another body; take a new one"));
        }
        let status = StatusCode::from_u16(kept.status).map_err(|_| Problem::internal())?;
        let mut response = (status, kept.body).into_response();
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_TYPE);
        for (name, value) in [(header::CONTENT_TYPE, kept.content_type), (header::LOCATION, kept.location)] {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
                headers.insert(name, value);
            }
        }
        headers.insert(REPLAYED.clone(), HeaderValue::from_static("true"));
        Ok(Some(response))
    }

    async fn release(&self, names: &[String]) {
        if let Err(error) = self.dedup.release(NOBODY.0, NOBODY.1, names).await
            && let Some(more_before) = NOT_DONE.may_say("releasing")
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                more_before,
                "a claim on a call was not given back; it runs out by itself"
            );
        }
    }

    fn line(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(name).and_then(Weak::upgrade) {
            return line;
        }
        // As many live ones as calls under way, and connections bound those; the dead go before there are twice as many.
        if lines.len() == lines.capacity() {
            lines.retain(|_, line| line.strong_count() > 0);
        }
        let line = Arc::default();
        lines.insert(name.to_owned(), Arc::downgrade(&line));
        line
    }
}

async fn keep(response: Response, request: String) -> Result<(Response, Bytes)> {
    let (head, body) = response.into_parts();
    let body = to_bytes(body, ANSWER_BYTES_MAX).await.map_err(|_| Problem::internal())?;
    let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let kept = Kept {
        request,
        status: head.status.as_u16(),
        location: text(header::LOCATION),
        content_type: text(header::CONTENT_TYPE),
        body: String::from_utf8(body.to_vec()).map_err(|_| Problem::internal())?,
    };
    let kept = serde_json::to_vec(&kept).map_err(|_| Problem::internal())?;
    Ok((Response::from_parts(head, Body::from(body)), Bytes::from(kept)))
}

fn key_of(headers: &HeaderMap, body: &[u8]) -> Result<Option<String>> {
    /// The rest of the body is read by the handler.
    #[derive(Deserialize)]
    struct Key {
        uuid: Option<String>,
    }
    let mut sent = headers.get_all(&HEADER).iter();
    let header = match (sent.next(), sent.next()) {
        (None, _) => None,
        (Some(value), None) => Some(value.to_str().unwrap_or_default().to_owned()),
        (Some(_), Some(_)) => {
            return Err(Problem::new(ProblemCode::Malformed, "send one Idempotency-Key, not several").at("Idempotency-Key"));
        }
    };
    // What is no object with a text as uuid is refused by the handler, which says what it wants.
    let field = serde_json::from_slice::<Key>(body).ok().and_then(|key| key.uuid);
    let (key, place) = match (header, field) {
        (Some(header), Some(field)) if header != field => {
            return Err(
                Problem::new(ProblemCode::Malformed, "the header Idempotency-Key and the field uuid differ; send one of them").at("uuid")
            );
        }
        (Some(header), _) => (header, "Idempotency-Key"),
        (None, Some(field)) => (field, "uuid"),
        (None, None) => return Ok(None),
    };
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Problem::new(ProblemCode::Malformed, format!("must be 1 to {KEY_BYTES_MAX} visible ASCII characters")).at(place));
    }
    Ok(Some(key))
}

/// The body with its keys in order and its spaces gone; what is no JSON, as it is.
fn canonical(body: &[u8]) -> Vec<u8> {
    serde_json::from_slice::<serde_json::Value>(body).map_or_else(|_| body.to_vec(), |value| value.to_string().into_bytes())
}

/// FNV-1a, 128 bits: the same on every router of every version, and two bodies of one caller do not meet by chance.
fn fingerprint(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::{HEADER, REPLAYED, Repeats, answer_repeats, canonical, fingerprint, key_of};
    use axum::{
        Json, Router,
        body::{Body, to_bytes},
        http::{HeaderMap, HeaderValue, Request, StatusCode},
        middleware::from_fn_with_state,
        response::{IntoResponse, Response},
        routing::post,
    };
    use billfish_state::{Cache, State, StateError, port};
    use bytes::Bytes;
    use serde_json::{Value, json};
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };
    use tokio::sync::Notify;
    use tokio_util::task::TaskTracker;
    use tower::ServiceExt;

    const LIFE: Duration = Duration::from_secs(3_600);
    const CALL: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_repeated_call_gets_the_first_answer() {
        for by_field in [false, true] {
            let toy = Toy::start(&State::in_memory());
            let call = || if by_field { request("/count", None, r#"{"uuid":"k1"}"#) } else { request("/count", Some("k1"), "{}") };
            let first = answer(toy.send(call()).await).await;
            let second = answer(toy.send(call()).await).await;
            assert_eq!((first.0, &first.1), (StatusCode::CREATED, &json!({"count": 1})));
            assert_eq!((second.0, second.1), (first.0, first.1));
            assert!(!first.2.contains_key(&REPLAYED) && second.2.contains_key(&REPLAYED));
            assert_eq!((&second.2["location"], &second.2["content-type"]), (&first.2["location"], &first.2["content-type"]));
            assert_eq!(toy.calls(), 1);
        }
    }

    #[tokio::test]
    async fn other_keys_other_paths_and_no_key_are_calls_of_their_own() {
        let toy = Toy::start(&State::in_memory());
        for (path, key) in [("/count", Some("k1")), ("/count", Some("k2")), ("/count/too", Some("k1")), ("/count", None), ("/count", None)]
        {
            assert_eq!(toy.send(request(path, key, "{}")).await.status(), StatusCode::CREATED);
        }
        assert_eq!(toy.calls(), 5);
    }

    #[tokio::test]
    async fn the_same_key_with_another_body_is_a_conflict() {
        let toy = Toy::start(&State::in_memory());
        toy.send(request("/count", Some("k1"), r#"{"a":1,"b":2}"#)).await;
        let (status, problem, _) = answer(toy.send(request("/count", Some("k1"), r#"{"a":2}"#)).await).await;
        assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("key-reused")));
        let (status, _, _) = answer(toy.send(request("/count", Some("k1"), r#"{ "b": 2, "a": 1 }"#)).await).await;
        assert_eq!((status, toy.calls()), (StatusCode::CREATED, 1));
    }

    #[tokio::test]
    async fn of_a_hundred_at_once_one_is_carried_out_and_all_hear_of_it() {
        let toy = Toy::start(&State::in_memory());
        let callers: Vec<_> = (0..100)
            .map(|_| {
                let toy = toy.clone();
                tokio::spawn(async move { answer(toy.send(request("/gate", Some("k1"), "{}")).await).await })
            })
            .collect();
        toy.entered.notified().await;
        toy.gate.notify_one();
        for caller in callers {
            let (status, body, _) = caller.await.unwrap();
            assert_eq!((status, body), (StatusCode::CREATED, json!({"count": 1})));
        }
        assert_eq!(toy.calls(), 1);
        assert!(toy.repeats.lines.lock().unwrap().values().all(|line| line.strong_count() == 0));
    }

    #[tokio::test]
    async fn two_routers_carry_a_call_out_once() {
        let state = State::in_memory();
        let (one, other) = (Toy::start(&state), Toy::start(&state));
        let first = tokio::spawn({
            let one = one.clone();
            async move { answer(one.send(request("/gate", Some("k1"), "{}")).await).await }
        });
        one.entered.notified().await;
        let (status, problem, headers) = answer(other.send(request("/gate", Some("k1"), "{}")).await).await;
        assert_eq!(
            (status, &problem["code"], &headers["retry-after"]),
            (StatusCode::CONFLICT, &json!("in-progress"), &HeaderValue::from(1))
        );
        one.gate.notify_one();
        let first = first.await.unwrap();
        let second = answer(other.send(request("/gate", Some("k1"), "{}")).await).await;
        assert_eq!((second.0, second.1), (first.0, first.1));
        assert_eq!((one.calls(), other.calls()), (1, 0));
    }

    #[tokio::test]
    async fn a_failure_is_not_kept() {
        let toy = Toy::start(&State::in_memory());
        for _ in 0..2 {
            assert_eq!(toy.send(request("/fail", Some("k1"), "{}")).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        }
        assert_eq!(toy.calls(), 2);
    }

    #[tokio::test]
    async fn a_caller_who_hangs_up_does_not_stop_the_call() {
        let toy = Toy::start(&State::in_memory());
        let caller = tokio::spawn({
            let toy = toy.clone();
            async move { toy.send(request("/gate", Some("k1"), "{}")).await }
        });
        toy.entered.notified().await;
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        toy.gate.notify_one();
        let (status, body, headers) = answer(toy.send(request("/gate", Some("k1"), "{}")).await).await;
        assert_eq!((status, body, toy.calls()), (StatusCode::CREATED, json!({"count": 1}), 1));
        assert!(headers.contains_key(&REPLAYED));
    }

    #[tokio::test]
    async fn the_server_can_wait_for_calls_whose_callers_are_gone() {
        let toy = Toy::start(&State::in_memory());
        let caller = tokio::spawn({
            let toy = toy.clone();
            async move { toy.send(request("/gate", Some("k1"), "{}")).await }
        });
        toy.entered.notified().await;
        caller.abort();
        toy.repeats.running.close();
        assert_eq!(toy.repeats.running.len(), 1);
        toy.gate.notify_one();
        toy.repeats.running.wait().await;
        assert_eq!(toy.calls(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_end_is_ended_and_its_key_guarded() {
        let toy = Toy::start(&State::in_memory());
        let (status, problem, _) = answer(toy.send(request("/gate", Some("k1"), "{}")).await).await;
        assert_eq!((status, &problem["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("timed-out")));
        let (status, problem, _) = answer(toy.send(request("/gate", Some("k1"), "{}")).await).await;
        assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("in-progress")));
    }

    #[tokio::test]
    async fn without_the_state_a_call_with_a_key_is_not_begun() {
        struct Away;
        #[async_trait::async_trait]
        impl Cache for Away {
            async fn get(&self, _: &str, _: u64) -> port::Result<Option<Bytes>> {
                Err(StateError::Away { what: "reading a value", cause: "connection refused".into() })
            }
            async fn put(&self, _: &str, _: Bytes, _: u64, _: u64) -> port::Result<()> {
                Ok(())
            }
            async fn remove(&self, _: &str) -> port::Result<()> {
                Ok(())
            }
        }
        let state = State { cache: Arc::new(Away), ..State::in_memory() };
        let toy = Toy::start(&state);
        let (status, problem, _) = answer(toy.send(request("/count", Some("k1"), "{}")).await).await;
        assert_eq!((status, &problem["code"], toy.calls()), (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable"), 0));
        assert!(!problem.to_string().contains("refused"), "{problem}");
        assert_eq!(toy.send(request("/count", None, "{}")).await.status(), StatusCode::CREATED);
    }

    #[tokio::test]
    async fn keys_are_bounded() {
        let toy = Toy::start(&State::in_memory());
        for (key, body) in [
            (Some("k".repeat(65)), "{}"),
            (Some("a b".to_owned()), "{}"),
            (None, r#"{"uuid":""}"#),
            (Some("a".to_owned()), r#"{"uuid":"b"}"#),
        ] {
            let (status, problem, _) = answer(toy.send(request("/count", key.as_deref(), body)).await).await;
            assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("malformed")), "{key:?} {body}");
        }
        assert_eq!(toy.send(request("/count", Some(&"k".repeat(64)), "{}")).await.status(), StatusCode::CREATED);
        assert_eq!(toy.calls(), 1);
    }

    #[test]
    fn fingerprints_are_those_of_the_standard() {
        assert_eq!(fingerprint(b""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(fingerprint(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        assert_eq!(fingerprint(b"foobar"), 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
    }

    #[test]
    fn order_and_spaces_make_no_other_body() {
        assert_eq!(canonical(br#"{"a": 1, "b": [2]}"#), canonical(br#"{"b":[2],"a":1}"#));
        assert_ne!(canonical(br#"{"a": 1}"#), canonical(br#"{"a": 2}"#));
    }

    #[test]
    fn a_key_comes_from_the_header_or_the_body() {
        let with = |key: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("Idempotency-Key", HeaderValue::from_str(key).unwrap());
            headers
        };
        assert_eq!(key_of(&with("k1"), b"{}").unwrap().as_deref(), Some("k1"));
        assert_eq!(key_of(&HeaderMap::new(), br#"{"uuid":"k2","other":[1]}"#).unwrap().as_deref(), Some("k2"));
        assert_eq!(key_of(&with("k3"), br#"{"uuid":"k3"}"#).unwrap().as_deref(), Some("k3"));
        assert_eq!(key_of(&HeaderMap::new(), b"no json").unwrap(), None);
        assert!(key_of(&with("k4"), br#"{"uuid":"k5"}"#).is_err());
        assert!(key_of(&HeaderMap::new(), br#"{"uuid":""}"#).is_err());
        assert!(key_of(&with(&"k".repeat(65)), b"").is_err());
        let mut twice = with("k6");
        twice.append("Idempotency-Key", HeaderValue::from_static("k6"));
        assert!(key_of(&twice, b"").is_err());
    }

    /// A few routes that count how often they were called.
    #[derive(Clone)]
    struct Toy {
        router: Router,
        repeats: Repeats,
        count: Arc<AtomicU64>,
        /// `/gate` says that it was entered, and waits to be let go.
        entered: Arc<Notify>,
        gate: Arc<Notify>,
    }

    impl Toy {
        fn start(state: &State) -> Self {
            let repeats = Repeats::new(state, LIFE, CALL, TaskTracker::new());
            let (count, entered, gate) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()), Arc::new(Notify::new()));
            let counted = |count: &Arc<AtomicU64>| {
                let count = count.fetch_add(1, Ordering::SeqCst) + 1;
                (StatusCode::CREATED, [("location", "/here")], Json(json!({ "count": count }))).into_response()
            };
            let plain = {
                let count = Arc::clone(&count);
                move || async move { counted(&count) }
            };
            let gated = {
                let (count, entered, gate) = (Arc::clone(&count), Arc::clone(&entered), Arc::clone(&gate));
                move || async move {
                    entered.notify_one();
                    gate.notified().await;
                    counted(&count)
                }
            };
            let failing = {
                let count = Arc::clone(&count);
                move || async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    StatusCode::SERVICE_UNAVAILABLE
                }
            };
            let router = Router::new()
                .route("/count", post(plain.clone()))
                .route("/count/too", post(plain))
                .route("/gate", post(gated))
                .route("/fail", post(failing))
                .layer(from_fn_with_state(repeats.clone(), answer_repeats));
            Self { router, repeats, count, entered, gate }
        }

        async fn send(&self, request: Request<Body>) -> Response {
            self.router.clone().oneshot(request).await.unwrap()
        }

        fn calls(&self) -> u64 {
            self.count.load(Ordering::SeqCst)
        }
    }

    fn request(path: &str, key: Option<&str>, body: &str) -> Request<Body> {
        let mut request = Request::builder().method("POST").uri(path);
        if let Some(key) = key {
            request = request.header(&HEADER, key);
        }
        request.body(Body::from(body.to_owned())).unwrap()
    }

    async fn answer(response: Response) -> (StatusCode, Value, HeaderMap) {
        let (head, body) = response.into_parts();
        let body = to_bytes(body, 4_096).await.unwrap();
        (head.status, serde_json::from_slice(&body).unwrap_or_default(), head.headers)
    }
}
