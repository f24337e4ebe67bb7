//! The router's HTTP API and the gateway's metrics, as far as a load run needs them.
//!
//! - Blocking, with keep-alive: a few threads share one [`Api`], each holding one connection.
//! - The key travels in a header and never in a log line or an argument list.

use crate::{crowd::viewers::BarPush, gifts::Priced};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    time::Duration,
};
use ureq::http::StatusCode;

/// A call that takes longer than this has failed: the run must end by itself.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections kept alive; more threads than this never share an [`Api`].
const CONNECTIONS_MAX: usize = 64;

/// The server does not take the key.
#[derive(Debug)]
pub(crate) struct KeyRefused(String);

impl Display for KeyRefused {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::error::Error for KeyRefused {}

/// The server has not answered.
#[derive(Debug)]
pub(crate) struct Unanswered(String);

impl Display for Unanswered {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

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

/// What a room is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoomKind {
    Normal = 1,
    Pk = 2,
}

/// One credit of `POST /v1/wallet/grants`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Grant {
    pub(crate) user_id: i64,
    pub(crate) coins: i64,
    pub(crate) uuid: String,
}

/// How the server knows a push that it has taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Pushed {
    /// Its place in the room's order.
    #[serde(deserialize_with = "optional_number")]
    pub(crate) seq: Option<i64>,
    /// Its id, where copies are acknowledged.
    pub(crate) msg_id: Option<String>,
}

/// An id, which travels as a number below 2^53 and as a string above.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Id {
    Number(i64),
    Text(String),
}

impl Id {
    pub(crate) fn number(&self) -> Result<i64> {
        match self {
            Self::Number(id) => Ok(*id),
            Self::Text(id) => id.parse().with_context(|| format!("the id {id:?} is not a number")),
        }
    }
}

fn optional_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Option::<Id>::deserialize(deserializer)?.map(|id| id.number().map_err(de::Error::custom)).transpose()
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

    /// Opens a room: `POST /v1/rooms`.
    pub(crate) fn open_room(&self, anchor_id: i64, kind: RoomKind) -> Result<i64> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            #[serde(alias = "id")]
            room_id: Id,
        }
        let answer: Answer =
            self.post("/v1/rooms", &serde_json::json!({ "anchorId": anchor_id, "type": kind as i32, "roomName": "load run" }))?;
        answer.room_id.number().context("of a room")
    }

    /// The catalogue of gifts: `GET /v1/gifts`.
    pub(crate) fn gifts(&self) -> Result<Vec<Priced>> {
        #[derive(Deserialize)]
        struct Answer {
            gifts: Vec<Priced>,
        }
        let answer: Answer = self.get("/v1/gifts")?;
        Ok(answer.gifts)
    }

    /// Credits users: `POST /v1/wallet/grants`. What was credited by the same `uuid` before is not credited again.
    pub(crate) fn grant(&self, app_id: i32, grants: &[Grant]) -> Result<()> {
        let _answer: serde_json::Value = self.post("/v1/wallet/grants", &serde_json::json!({ "appId": app_id, "grants": grants }))?;
        Ok(())
    }

    /// Puts a challenger into a room's PK: `POST /v1/rooms/{id}/pk/online`.
    pub(crate) fn begin_pk(&self, room_id: i64, user_id: i64) -> Result<()> {
        let body = serde_json::json!({ "userId": user_id });
        let _answer: serde_json::Value = self.post(&format!("/v1/rooms/{room_id}/pk/online"), &body)?;
        Ok(())
    }

    /// The bar of a room's PK: `GET /v1/rooms/{id}/pk`. `None`: nobody challenges.
    pub(crate) fn pk(&self, room_id: i64) -> Result<Option<BarPush>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            pk_num: Option<i64>,
            send_gift_seq_num: Option<Id>,
        }
        let answer: Answer = self.get(&format!("/v1/rooms/{room_id}/pk"))?;
        let gift_seq = answer.send_gift_seq_num.map_or(Ok(0), |id| id.number())?;
        Ok(answer.pk_num.map(|value| BarPush { gift_seq, value }))
    }

    /// Closes a room: `POST /v1/rooms/{id}/close`.
    pub(crate) fn close_room(&self, room_id: i64, anchor_id: i64) -> Result<()> {
        let _answer: serde_json::Value = self.post(&format!("/v1/rooms/{room_id}/close"), &serde_json::json!({ "anchorId": anchor_id }))?;
        Ok(())
    }

    /// Pushes to a room: `POST /v1/im/push`. An answer means the router has taken it and numbered it.
    pub(crate) fn push(&self, push: &RoomPush<'_>) -> Result<Pushed> {
        self.post("/v1/im/push", push)
    }

    fn post<A: for<'de> Deserialize<'de>>(&self, path: &str, body: &impl Serialize) -> Result<A> {
        let url = format!("{}{path}", self.base);
        let answer = self.agent.post(&url).header("Authorization", &self.authorization).send_json(body);
        read(&format!("POST {url}"), answer)
    }

    fn get<A: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<A> {
        let url = format!("{}{path}", self.base);
        read(&format!("GET {url}"), self.agent.get(&url).header("Authorization", &self.authorization).call())
    }
}

/// The answer of a call.
fn read<A: for<'de> Deserialize<'de>>(call: &str, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<A> {
    let mut response = answer.with_context(|| Unanswered(format!("{call} was not answered")))?;
    let status = response.status();
    let text = response.body_mut().read_to_string().with_context(|| format!("the answer of {call} broke off"))?;
    if [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status) {
        bail!(KeyRefused(format!("the API key was refused: {call} was answered {status}")));
    }
    // A room that is live already, from a run with the same seed that was broken off, is as good as a new one.
    if !status.is_success() && !text.contains(r#""already-live""#) {
        bail!("{call} was answered {status}: {}", text.trim());
    }
    let text = if text.is_empty() { "null" } else { &text };
    serde_json::from_str(text).with_context(|| format!("the answer of {call} is not what the API promises"))
}

/// The gateway's counters that a run's account needs, as `docs/metrics.md` names them.
const COUNTERS: [&str; 5] = [COPIES, DELIVERED, DROPPED, FANOUT_SENDS, CLOSES];
/// Copies that pushes asked for.
pub(crate) const COPIES: &str = "gateway_copies_total";
/// Copies handed whole to a transport, by class.
pub(crate) const DELIVERED: &str = "gateway_deliveries_total";
/// Copies given up, by class and reason.
pub(crate) const DROPPED: &str = "gateway_frames_dropped_total";
/// Writes to sockets by fan-outs.
pub(crate) const FANOUT_SENDS: &str = "gateway_fanout_sends_total";
/// Connections ended, by reason.
pub(crate) const CLOSES: &str = "gateway_closes_total";
/// Copies that wait in backlogs: a gauge, and no counter.
const PENDING: &str = "gateway_copies_pending";

/// Counters of one gateway or of several together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// By name and labels, as they stand on the page.
    samples: BTreeMap<(String, String), u64>,
    /// Copies that wait; of a difference, by how many more. `None`: a page did not say.
    pub(crate) pending: Option<i64>,
    /// A counter was smaller than before: a gateway has begun anew, and its sums with it.
    pub(crate) is_anew: bool,
}

impl Counters {
    /// Nothing counted yet, of no gateway.
    pub(crate) fn nothing() -> Self {
        Self { pending: Some(0), ..Self::default() }
    }

    /// Reads the metrics page of one gateway.
    pub(crate) fn read(admin: &str) -> Result<Self> {
        let url = format!("{}/metrics", admin.trim_end_matches('/'));
        let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(CALL_TIMEOUT)).build().into();
        let text = agent
            .get(&url)
            .call()
            .with_context(|| format!("GET {url} was not answered"))?
            .body_mut()
            .read_to_string()
            .with_context(|| format!("the answer of GET {url} broke off"))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let (mut samples, mut pending) = (BTreeMap::new(), None);
        for line in text.lines() {
            let Some((sample, value)) = line.rsplit_once(' ') else { continue };
            let (name, labels) = sample.trim_end_matches('}').split_once('{').unwrap_or((sample, ""));
            if let (true, Ok(value)) = (COUNTERS.contains(&name), value.trim().parse::<u64>()) {
                *samples.entry((name.to_owned(), labels.to_owned())).or_default() += value;
            } else if name == PENDING {
                pending = value.trim().parse::<i64>().ok();
            }
        }
        if samples.is_empty() {
            // The page of a router, which has no copies.
            pending = pending.or(Some(0));
        }
        Self { samples, pending, is_anew: false }
    }

    /// Adds another gateway's.
    pub(crate) fn add(&mut self, other: Self) {
        for (sample, value) in other.samples {
            *self.samples.entry(sample).or_default() += value;
        }
        self.pending = self.pending.zip(other.pending).map(|(own, more)| own + more);
    }

    /// What was counted since `earlier`.
    pub(crate) fn since(mut self, earlier: &Self) -> Self {
        for (sample, value) in &mut self.samples {
            let before = earlier.samples.get(sample).copied().unwrap_or(0);
            self.is_anew |= *value < before;
            *value = value.saturating_sub(before);
        }
        self.pending = self.pending.zip(earlier.pending).map(|(now, before)| now - before);
        self
    }

    /// Copies that were asked for, without those that were delivered, given up, or wait: 0, when nothing moves. `None`: it cannot be told.
    pub(crate) fn imbalance(&self) -> Option<i64> {
        let sum = |name| i64::try_from(self.sum(name)).unwrap_or(i64::MAX);
        let pending = self.pending.filter(|_| !self.is_anew && !self.samples.is_empty())?;
        Some(sum(COPIES) - sum(DELIVERED) - sum(DROPPED) - pending)
    }

    /// A counter, over all its labels.
    pub(crate) fn sum(&self, name: &str) -> u64 {
        self.samples.iter().filter(|((own, _), _)| own == name).map(|(_, value)| value).sum()
    }

    /// A counter by the values of one of its labels; values that counted nothing are left out. `only`: a label and the value it must have.
    pub(crate) fn by_label(&self, name: &str, label: &str, only: Option<(&str, &str)>) -> BTreeMap<String, u64> {
        let mut by_value = BTreeMap::new();
        for ((own, labels), count) in &self.samples {
            let is_meant = own == name && *count > 0 && only.is_none_or(|(label, value)| label_value(labels, label) == Some(value));
            if let (true, Some(value)) = (is_meant, label_value(labels, label)) {
                *by_value.entry(value.to_owned()).or_default() += count;
            }
        }
        by_value
    }
}

fn label_value<'a>(labels: &'a str, label: &str) -> Option<&'a str> {
    labels.split(',').find_map(|one| one.trim().strip_prefix(label)?.strip_prefix("=\"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::{CLOSES, COPIES, Counters, DROPPED, Pushed};
    use std::collections::BTreeMap;

    const PAGE: &str = "# TYPE gateway_frames_dropped counter\n\
        gateway_frames_dropped_total{class=\"chat\",reason=\"backlog\"} 3\n\
        gateway_frames_dropped_total{reason=\"sampled\",class=\"chat\"} 4\n\
        gateway_frames_dropped_total{class=\"ambient\",reason=\"backlog\"} 5\n\
        gateway_frames_dropped_total{class=\"event\",reason=\"closed\"} 0\n\
        gateway_copies_total 40\n\
        gateway_connections 9\n";

    #[test]
    fn drop_counters_are_summed_over_reasons_and_what_is_not_needed_is_not_kept() {
        let counters = Counters::parse(PAGE);
        assert_eq!(counters.by_label(DROPPED, "class", None), BTreeMap::from([("chat".to_owned(), 7), ("ambient".to_owned(), 5)]));
        assert_eq!(
            counters.by_label(DROPPED, "reason", Some(("class", "chat"))),
            BTreeMap::from([("backlog".to_owned(), 3), ("sampled".to_owned(), 4)])
        );
        assert_eq!((counters.sum(DROPPED), counters.sum(COPIES), counters.sum(CLOSES)), (12, 40, 0));
        assert_eq!(counters.samples.len(), 5);
    }

    #[test]
    fn copies_balance_with_what_became_of_them_unless_a_gateway_began_anew() {
        let page = |copies: u64, delivered: u64, pending: u64| {
            Counters::parse(&format!(
                "gateway_copies_total {copies}\ngateway_deliveries_total {delivered}\ngateway_copies_pending {pending}\n"
            ))
        };
        let since = |later: Counters| later.since(&page(100, 90, 10));
        assert_eq!(since(page(150, 148, 2)).imbalance(), Some(0));
        assert_eq!(since(page(150, 147, 2)).imbalance(), Some(1));
        assert_eq!(since(page(50, 50, 0)).imbalance(), None);
        assert_eq!(Counters::parse(PAGE).imbalance(), None, "the page does not say what waits");
        let mut sum = Counters::nothing();
        sum.add(page(1, 1, 0));
        sum.add(page(5, 3, 2));
        sum.add(Counters::parse("router_rooms 3\n"));
        assert_eq!(sum.imbalance(), Some(0), "a router has no copies");
        assert_eq!(Counters::parse("router_rooms 3\n").imbalance(), None, "and says nothing of those of gateways");
    }

    #[test]
    fn what_two_gateways_counted_meanwhile_is_the_difference_of_their_sums() {
        let mut before = Counters::parse(PAGE);
        before.add(Counters::parse("gateway_copies_total 2\n"));
        let mut after = Counters::parse("gateway_copies_total 50\n");
        after.add(Counters::parse("gateway_copies_total 3\n"));
        assert_eq!(after.since(&before).sum(COPIES), 11);
    }

    #[test]
    fn a_push_without_a_number_is_still_one() {
        assert_eq!(serde_json::from_str::<Pushed>(r#"{"accepted":true}"#).expect("an answer"), Pushed::default());
        let pushed: Pushed = serde_json::from_str(r#"{"seq":"4294967297","msgId":"r1-1","accepted":9}"#).expect("an answer");
        assert_eq!((pushed.seq, pushed.msg_id.as_deref()), (Some(4_294_967_297), Some("r1-1")));
    }
}
