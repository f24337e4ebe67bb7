//! Counts calls and their time, by route and status. Labels come from the route that matched, never from what a caller wrote.

use axum::{
    extract::{MatchedPath, Request, State},
    http::Method,
    middleware::Next,
    response::Response,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::time::Instant;

/// The API's metrics.
#[derive(Clone, Debug)]
pub(super) struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

/// From what a cache answers in to what a stuck store is given.
const BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

impl HttpMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self { requests: Family::default(), seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)) };
        registry.register("router_http_requests", "HTTP calls by route and status", metrics.requests.clone());
        registry.register_with_unit("router_http", "From an HTTP call's header to its answer", Unit::Seconds, metrics.seconds.clone());
        metrics
    }
}

/// The outermost layer: sees every call, also those refused before a handler.
pub(super) async fn count(State(metrics): State<HttpMetrics>, request: Request, next: Next) -> Response {
    let route = route(request.method(), request.extensions().get::<MatchedPath>());
    let started = Instant::now();
    let response = next.run(request).await;
    metrics.seconds.get_or_create(&RouteLabels { route: route.clone() }).observe(started.elapsed().as_secs_f64());
    metrics.requests.get_or_create(&RequestLabels { route, status: response.status().as_u16() }).inc();
    response
}

/// A method is whatever a caller writes, so only those that routes have are named.
fn route(method: &Method, path: Option<&MatchedPath>) -> String {
    let method = match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::DELETE => method.as_str(),
        _ => "other",
    };
    match path {
        Some(path) => format!("{method} {}", path.as_str()),
        None => "none".to_owned(),
    }
}
