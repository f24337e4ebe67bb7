//! A business backend's hand on a router: the HTTP API with its key.

use crate::patience::{PATIENCE, eventually_within};
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};

/// Calls to one router. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    address: SocketAddr,
    key: String,
    agent: ureq::Agent,
}

impl Api {
    /// Calls to the router that serves HTTP at `address`.
    pub fn new(address: SocketAddr, key: &str) -> Self {
        Self::with_patience(address, key, PATIENCE)
    }

    /// The same with another time-out, for callers who go on without an answer.
    pub fn with_patience(address: SocketAddr, key: &str, patience: Duration) -> Self {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(patience)).build().into();
        Self { address, key: key.to_owned(), agent }
    }

    /// Where it calls.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// One call: the status and the answer.
    ///
    /// # Errors
    /// When there is no answer; what the server answers is none, whatever its status.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> Result<(u16, Value), ureq::Error> {
        self.call_once(method, path, body, None)
    }

    /// The same under an idempotency key: said twice, done once.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_once(&self, method: &str, path: &str, body: &Value, idempotency_key: Option<&str>) -> Result<(u16, Value), ureq::Error> {
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("Authorization", format!("Bearer {}", self.key))
            .header("Content-Type", "application/json");
        if let Some(key) = idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let mut response = self.agent.run(request.body(text)?)?;
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string()?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// A token of a user of the default app.
    pub fn token(&self, user: i64) -> String {
        let mut asked = (0, Value::Null);
        // As a backend does that is told to come again: a router which is ready may have seen no gateway of a cluster just started.
        let is_answered = eventually_within(PATIENCE, || {
            asked = self.call("POST", "/v1/im/tokens", &json!({"appId": 10001, "userId": user})).expect("an answer");
            asked.0 != 503
        });
        let (status, answer) = asked;
        assert!(is_answered && status == 200, "{status}: {answer}");
        answer["token"].as_str().unwrap_or_else(|| panic!("no token in {answer}")).to_owned()
    }

    /// A new room of this anchor.
    pub fn open_room(&self, anchor: i64) -> i64 {
        let body = json!({"anchorId": anchor, "type": 1, "roomName": "test"});
        let (status, answer) = self.call("POST", "/v1/rooms", &body).expect("an answer");
        assert!((200..300).contains(&status), "{status} {answer}");
        answer["roomId"].as_i64().unwrap_or_else(|| panic!("no roomId in {answer}"))
    }

    /// A push, as `POST /v1/im/push` takes it.
    pub fn push(&self, body: &Value) -> Value {
        let (status, answer) = self.call("POST", "/v1/im/push", body).expect("an answer");
        assert!((200..300).contains(&status), "{status} {answer}");
        answer
    }
}
