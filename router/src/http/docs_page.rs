//! `/openapi.json` for programs and `/docs` for people.
//!
//! The page is three files of ours that draw the document in the browser: no other host is asked for anything, and the policy forbids it. What comes from
//! the document is set as text, never as markup.

use super::problem::ProblemCode;
use axum::{
    Router,
    http::{HeaderValue, header},
    response::{IntoResponse, Redirect},
    routing::get,
};
use utoipa::openapi::OpenApi;

const PAGE: &str = include_str!("docs_page/page.html");
const SCRIPT: &str = include_str!("docs_page/page.js");
const STYLE: &str = include_str!("docs_page/page.css");

/// Nothing but our own script, style and document.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

pub(super) fn routes(document: &OpenApi) -> Router {
    let json = document.to_pretty_json().expect("the document is made of texts, numbers and maps with text keys");
    let page = PAGE.replace("<!-- problems -->", &problem_rows());
    Router::new()
        .route("/openapi.json", get(move || served("application/json", json.clone())))
        .route("/", get(|| async { Redirect::temporary("/docs") }))
        .route("/docs", get(move || served("text/html; charset=utf-8", page.clone())))
        .route("/docs/page.js", get(|| served("text/javascript; charset=utf-8", SCRIPT.to_owned())))
        .route("/docs/page.css", get(|| served("text/css; charset=utf-8", STYLE.to_owned())))
}

async fn served(content_type: &'static str, body: String) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, body)
}

/// Every code of a problem; the `type` of a problem points at its row.
fn problem_rows() -> String {
    ProblemCode::ALL
        .iter()
        .map(|code| {
            let (label, status, title) = (code.label(), code.status().as_u16(), code.title());
            format!("<tr id=\"{label}\"><td><code>{label}</code></td><td>{status}</td><td>{title}</td></tr>\n")
        })
        .collect()
}
