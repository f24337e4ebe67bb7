//! The operator's pages: is it alive, is it ready, what does it count, where are a room's copies.
//!
//! - No authentication of its own: it belongs on loopback or a private network.
//! - Nothing here changes anything.

use crate::{
    commands::Shards,
    health::Health,
    shard::message::{RoomAccount, ShardCommand},
    upstream::Upstream,
};
use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use billfish_wire::Class;
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// Something else in this process that must be ready too; says why it is not.
pub type ReadyCheck = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the pages show.
pub(crate) struct Pages {
    pub(crate) registry: Arc<Registry>,
    pub(crate) health: Arc<Health>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) shards: Shards,
    pub(crate) more: Vec<ReadyCheck>,
}

/// The router of the pages.
pub(crate) fn router(pages: Pages) -> Router {
    Router::new()
        .route("/livez", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/rooms/{id}", get(room))
        .with_state(Arc::new(pages))
}

async fn alive(State(pages): State<Arc<Pages>>) -> Response {
    verdict(pages.health.alive())
}

async fn ready(State(pages): State<Arc<Pages>>) -> Response {
    verdict(pages.health.ready().and_then(|()| pages.more.iter().try_for_each(|check| check())))
}

fn verdict(verdict: Result<(), String>) -> Response {
    match verdict {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(pages): State<Arc<Pages>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &pages.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn room(State(pages): State<Arc<Pages>>, Path(room_id): Path<i64>) -> Response {
    let mut asked = Vec::new();
    for shard in pages.upstream.members_of(room_id) {
        let (answer, answered) = oneshot::channel();
        if !pages.shards.try_give(shard, ShardCommand::RoomAccount { room_id, answer }) {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("shard {shard} is behind\n")).into_response();
        }
        asked.push(answered);
    }
    if asked.is_empty() {
        return (StatusCode::NOT_FOUND, "no members here\n").into_response();
    }
    let mut account = RoomAccount::default();
    let deadline = tokio::time::Instant::now() + ANSWER_WAIT;
    for answered in asked {
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(part)) => account.add(&part),
            // Its last member left meanwhile.
            Ok(Err(_)) => {}
            Err(_) => return (StatusCode::SERVICE_UNAVAILABLE, "a shard does not answer\n").into_response(),
        }
    }
    let by_class = Class::ALL.iter().zip(account.dropped).map(|(class, dropped)| (class.label().to_owned(), dropped.into()));
    let dropped: serde_json::Map<String, serde_json::Value> = by_class.collect();
    let body = json!({
        "roomId": room_id,
        "members": account.members,
        "copies": account.copies,
        "delivered": account.delivered,
        "dropped": dropped,
        "pending": account.pending,
    });
    axum::Json(body).into_response()
}

/// What the text encoder writes, as its format's standard names it.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// A shard turns its loop within milliseconds.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
