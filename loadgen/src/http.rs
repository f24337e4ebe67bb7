//! The router's HTTP API and the gateway's metrics, as far as a load run needs them.
//!
//! - Blocking, with keep-alive: a few threads share one [`Api`], each holding one connection.
//! - The key travels in a header and never in a log line or an argument list.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// A call that takes longer than this has failed: the run must end by itself.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections kept alive; more threads than this never share an [`Api`].
const CONNECTIONS_MAX: usize = 64;

/// One server's HTTP side.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    agent: ureq::Agent,
    base: String,
    authorization: String,
}

/// What `POST /v1/im/push` is told.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RoomPush<'a> {
    app_id: i32,
    target: RoomTarget,
    biz_code: i32,
    data: &'a str,
    qos: i32,
    class: i32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RoomTarget {
    room_id: i64,
}

impl<'a> RoomPush<'a> {
    /// A push of `data` to everyone in a room.
    pub(crate) fn new(app_id: i32, room_id: i64, data: &'a str, qos: i32, class: i32) -> Self {
        Self { app_id, target: RoomTarget { room_id }, biz_code: billfish_wire::BizCode::ROOM_CHAT.0, data, qos, class }
    }
}

/// An id, which travels as a number below 2^53 and as a string above.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Text(String),
}

impl Api {
    /// Speaks to `base`, such as `http://127.0.0.1:8080`.
    pub(crate) fn new(base: &str, api_key: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(CALL_TIMEOUT))
            .max_idle_connections(CONNECTIONS_MAX)
            .max_idle_connections_per_host(CONNECTIONS_MAX)
            .http_status_as_error(false)
            .build()
            .into();
        Self { agent, base: base.trim_end_matches('/').to_owned(), authorization: format!("Bearer {api_key}") }
    }

    /// A token for one user: `POST /v1/im/tokens`.
    pub(crate) fn token(&self, app_id: i32, user_id: i64) -> Result<String> {
        #[derive(Deserialize)]
        struct Answer {
            token: String,
        }
        let answer: Answer = self.post("/v1/im/tokens", &serde_json::json!({ "appId": app_id, "userId": user_id }))?;
        Ok(answer.token)
    }

    /// Opens a room of type 1: `POST /v1/rooms`.
    pub(crate) fn open_room(&self, anchor_id: i64) -> Result<i64> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            #[serde(alias = "id")]
            room_id: Id,
        }
        let answer: Answer = self.post("/v1/rooms", &serde_json::json!({ "anchorId": anchor_id, "type": 1, "roomName": "load run" }))?;
        match answer.room_id {
            Id::Number(id) => Ok(id),
            Id::Text(id) => id.parse().with_context(|| format!("the room id {id:?} is not a number")),
        }
    }

    /// Closes a room: `POST /v1/rooms/{id}/close`.
    pub(crate) fn close_room(&self, room_id: i64, anchor_id: i64) -> Result<()> {
        let _answer: serde_json::Value = self.post(&format!("/v1/rooms/{room_id}/close"), &serde_json::json!({ "anchorId": anchor_id }))?;
        Ok(())
    }

    /// Pushes to a room: `POST /v1/im/push`. An answer means the router has taken it and numbered it.
    pub(crate) fn push(&self, push: &RoomPush<'_>) -> Result<()> {
        let _answer: serde_json::Value = self.post("/v1/im/push", push)?;
        Ok(())
    }

    fn post<A: for<'de> Deserialize<'de>>(&self, path: &str, body: &impl Serialize) -> Result<A> {
        let url = format!("{}{path}", self.base);
        let mut response = self
            .agent
            .post(&url)
            .header("Authorization", &self.authorization)
            .send_json(body)
            .with_context(|| format!("POST {url} was not answered"))?;
        let status = response.status();
        let text = response.body_mut().read_to_string().with_context(|| format!("the answer of POST {url} broke off"))?;
        // A room that is live already, from a run with the same seed that was broken off, is as good as a new one.
        if !status.is_success() && !text.contains(r#""already-live""#) {
            bail!("POST {url} was answered {status}: {}", text.trim());
        }
        let text = if text.is_empty() { "null" } else { &text };
        serde_json::from_str(text).with_context(|| format!("the answer of POST {url} is not what the API promises"))
    }
}

/// Copies dropped so far, by class: the sum over reasons of `gateway_frames_dropped_total`.
pub(crate) fn dropped_by_class(admin: &str) -> Result<BTreeMap<String, u64>> {
    let url = format!("{}/metrics", admin.trim_end_matches('/'));
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(CALL_TIMEOUT)).build().into();
    let text = agent
        .get(&url)
        .call()
        .with_context(|| format!("GET {url} was not answered"))?
        .body_mut()
        .read_to_string()
        .with_context(|| format!("the answer of GET {url} broke off"))?;
    Ok(parse_dropped(&text))
}

/// The name of the drop counter, as `docs/metrics.md` has it.
const DROPPED: &str = "gateway_frames_dropped_total{";

fn parse_dropped(text: &str) -> BTreeMap<String, u64> {
    let mut classes = BTreeMap::new();
    for line in text.lines() {
        let Some((labels, value)) = line.strip_prefix(DROPPED).and_then(|rest| rest.split_once('}')) else { continue };
        let class = labels.split(',').find_map(|label| label.trim().strip_prefix("class=\"")?.strip_suffix('"'));
        let (Some(class), Ok(value)) = (class, value.trim().parse::<u64>()) else { continue };
        *classes.entry(class.to_owned()).or_default() += value;
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::parse_dropped;
    use std::collections::BTreeMap;

    #[test]
    fn drop_counters_are_summed_over_reasons() {
        let text = "# TYPE gateway_frames_dropped counter\n\
            gateway_frames_dropped_total{class=\"chat\",reason=\"backlog\"} 3\n\
            gateway_frames_dropped_total{reason=\"sampled\",class=\"chat\"} 4\n\
            gateway_frames_dropped_total{class=\"ambient\",reason=\"backlog\"} 5\n\
            gateway_connections 9\n";
        assert_eq!(parse_dropped(text), BTreeMap::from([("chat".to_owned(), 7), ("ambient".to_owned(), 5)]));
    }
}
