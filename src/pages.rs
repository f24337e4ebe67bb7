//! The operator's pages of a router: is it alive, is it ready, what does it count. A gateway has its own.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use std::sync::Arc;

/// Says why the node is not ready.
pub(crate) type ReadyCheck = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

struct Pages {
    registry: Arc<Registry>,
    ready: ReadyCheck,
}

/// The pages, for the admin port.
pub(crate) fn router(registry: Arc<Registry>, ready: ReadyCheck) -> Router {
    Router::new()
        // That this answers is the proof: the router has no thread that could stand still without the runtime.
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready_page))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(Pages { registry, ready }))
}

async fn ready_page(State(pages): State<Arc<Pages>>) -> Response {
    match (pages.ready)() {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(pages): State<Arc<Pages>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &pages.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
