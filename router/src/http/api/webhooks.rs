//! Webhooks: who is told of what happens here, and what he did not take.

use super::Api;
use crate::{
    Refusal,
    http::{
        input::{App, Body, Query, Webhook, WebhookPath},
        problem::{Problem, ProblemCode, Result},
    },
    ledger::webhooks::{GivenUp, Hook, NewHook},
    signature,
    webhooks::event::{EventKind, EventKinds},
};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

/// A shorter secret could be guessed from one signed body.
const SECRET_BYTES_MIN: usize = 16;
/// As long as the column.
const SECRET_BYTES_MAX: usize = 128;
/// Events on one page unless asked otherwise.
const LIMIT_DEFAULT: usize = 50;
/// Events on the longest page.
const LIMIT_MAX: usize = 100;

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WebhookBody {
    #[serde(default)]
    #[schema(default = 10001)]
    app_id: App,
    /// What is called: `https://`, where the installation does not allow others. At most 1,024 bytes.
    #[schema(example = "https://backend.example.com/billfish")]
    url: String,
    /// Of what it is told; left out: of everything there is today.
    events: Option<Vec<EventKind>>,
    /// What calls are signed with, 16 to 128 visible ASCII characters; left out: one is made, and told in this answer alone.
    secret: Option<String>,
    /// Makes the call safe to repeat, as the header `Idempotency-Key` does.
    #[expect(dead_code, reason = "read by the layer that answers repeats")]
    uuid: Option<String>,
}

/// Whether anything is sent to a webhook.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WebhookState {
    Active,
    /// Its receiver has answered 410: nothing is sent any more. Delete it, and register it again where that was not meant.
    Disabled,
}

/// A webhook. Its secret is told when it is registered, and never again.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WebhookAnswer {
    webhook_id: Webhook,
    app_id: App,
    url: String,
    events: Vec<EventKind>,
    state: WebhookState,
    /// Unix ms.
    #[schema(example = 1800000000000_u64)]
    made_time: u64,
    /// Events that wait for it, as they were counted some seconds ago.
    waiting: u64,
    /// When the one of them was made that waits for longest.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_time: Option<u64>,
    /// Events that were not kept for it, because as many waited as may.
    dropped: u64,
    /// When it accepted an event last.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered_time: Option<u64>,
    /// When it did not last.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_time: Option<u64>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// A webhook that was registered just now.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewWebhookAnswer {
    #[serde(flatten)]
    webhook: WebhookAnswer,
    /// What calls are signed with, where it was made here: keep it, for it is not told again.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WebhooksAnswer {
    /// In the order they were registered.
    webhooks: Vec<WebhookAnswer>,
}

fn answer(hook: Hook) -> WebhookAnswer {
    let status = hook.status;
    let time = |ms: u64| Some(ms).filter(|ms| *ms > 0);
    WebhookAnswer {
        webhook_id: hook.id.into(),
        app_id: hook.app.into(),
        url: hook.url,
        events: hook.events.each().collect(),
        state: if hook.is_active { WebhookState::Active } else { WebhookState::Disabled },
        made_time: hook.made_ms,
        waiting: status.waiting,
        oldest_time: time(status.oldest_ms).filter(|_| status.waiting > 0),
        dropped: status.dropped,
        delivered_time: time(status.delivered_ms),
        failed_time: time(status.failed_ms),
        problem: Some(status.problem).filter(|problem| !problem.is_empty()),
    }
}

/// Registers a webhook: events of the app are POSTed to it, signed, until it accepts them.
///
/// What happens at this router is told from now on, at others from a second later on. The answer alone tells a secret that was made here.
#[utoipa::path(post, path = "/v1/webhooks", tag = "webhooks", request_body = WebhookBody,
    responses((status = 201, body = NewWebhookAnswer, headers(("location" = String, description = "The webhook's address")))))]
pub(crate) async fn add_webhook(State(api): State<Api>, Body(body): Body<WebhookBody>) -> Result<Response> {
    let malformed = |field: &'static str, detail: String| Problem::new(ProblemCode::Malformed, format!("{field} {detail}")).at(field);
    let webhooks = &api.parts.webhooks;
    webhooks.check_url(&body.url).map_err(|problem| malformed("url", problem))?;
    let events = EventKinds::of(body.events.unwrap_or_else(|| EventKind::ALL.to_vec()));
    if events == EventKinds::default() {
        return Err(malformed("events", "is empty: name at least one, or leave it out for all".to_owned()));
    }
    let made = if body.secret.is_none() { Some(new_secret()?) } else { None };
    let secret = body.secret.or_else(|| made.clone()).unwrap_or_default();
    if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len()) || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(malformed(
            "secret",
            format!("must be {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} visible ASCII characters, or be left out"),
        ));
    }
    let new = NewHook { app: body.app_id.into(), url: body.url, events, secret };
    let Some(hook) = webhooks.register(&new).await.map_err(Refusal::from)? else {
        let detail =
            format!("an app has at most {} webhooks (`webhooks.hooks_max`), and all together 256; delete one", webhooks.hooks_max());
        return Err(Problem::new(ProblemCode::TooManyWebhooks, detail));
    };
    let location = format!("/v1/webhooks/{}", hook.id);
    let answer = NewWebhookAnswer { webhook: answer(hook), secret: made };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(answer)).into_response())
}

fn new_secret() -> Result<String> {
    let mut secret = [0; super::SECRET_BYTES];
    getrandom::fill(&mut secret).map_err(|error| {
        tracing::error!(%error, "the system gives no random numbers");
        Problem::internal()
    })?;
    Ok(signature::hex(&secret))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WebhooksQuery {
    #[serde(default)]
    #[param(value_type = Option<App>, default = 10001)]
    app_id: App,
}

/// The webhooks of an app, and how they fare.
#[utoipa::path(get, path = "/v1/webhooks", tag = "webhooks", params(WebhooksQuery), responses((status = 200, body = WebhooksAnswer)))]
pub(crate) async fn webhooks(State(api): State<Api>, Query(query): Query<WebhooksQuery>) -> Result<Json<WebhooksAnswer>> {
    let hooks = api.parts.webhooks.hooks().await.map_err(Refusal::from)?;
    let webhooks = hooks.into_iter().filter(|hook| hook.app == query.app_id.into()).map(answer).collect();
    Ok(Json(WebhooksAnswer { webhooks }))
}

/// One webhook, and how it fares.
#[utoipa::path(get, path = "/v1/webhooks/{id}", tag = "webhooks", params(("id" = Webhook, Path)), responses((status = 200, body = WebhookAnswer)))]
pub(crate) async fn webhook(State(api): State<Api>, WebhookPath(id): WebhookPath) -> Result<Json<WebhookAnswer>> {
    let hooks = api.parts.webhooks.hooks().await.map_err(Refusal::from)?;
    let hook = hooks.into_iter().find(|hook| hook.id == id).ok_or_else(not_found)?;
    Ok(Json(answer(hook)))
}

fn not_found() -> Problem {
    Problem::new(ProblemCode::WebhookNotFound, "there is no such webhook")
}

/// Forgets a webhook, and what waits for it; one that is not there is no error. A call under way may still end.
#[utoipa::path(delete, path = "/v1/webhooks/{id}", tag = "webhooks", params(("id" = Webhook, Path)), responses((status = 204)))]
pub(crate) async fn remove_webhook(State(api): State<Api>, WebhookPath(id): WebhookPath) -> Result<StatusCode> {
    api.parts.webhooks.remove(id).await.map_err(Refusal::from)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct GivenUpQuery {
    /// From the page before; left out: from the newest.
    cursor: Option<i64>,
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<usize>,
}

/// An event that was given up.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GivenUpEvent {
    event_id: String,
    event: EventKind,
    /// When it was made, Unix ms.
    time: u64,
    /// When it was given up, Unix ms.
    given_up_time: u64,
    tries: u32,
    /// What the last try met.
    problem: String,
    /// The body that was not accepted.
    #[schema(value_type = Object)]
    body: Box<RawValue>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GivenUpAnswer {
    /// The newest first.
    events: Vec<GivenUpEvent>,
    /// Pass it for the next page; left out when there is none. A text: it may be above 2^53.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

/// Events that a webhook did not accept in time, by pages. Kept for a week, the newest 10,000 of them.
#[utoipa::path(get, path = "/v1/webhooks/{id}/given-up", tag = "webhooks", params(("id" = Webhook, Path), GivenUpQuery),
    responses((status = 200, body = GivenUpAnswer)))]
pub(crate) async fn given_up(
    State(api): State<Api>,
    WebhookPath(id): WebhookPath,
    Query(query): Query<GivenUpQuery>,
) -> Result<Json<GivenUpAnswer>> {
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::new(ProblemCode::Malformed, "limit must be from 1 to 100").at("limit"));
    }
    let hooks = api.parts.webhooks.hooks().await.map_err(Refusal::from)?;
    if hooks.iter().all(|hook| hook.id != id) {
        return Err(not_found());
    }
    let found = api.parts.webhooks.given_up(id, query.cursor.unwrap_or(i64::MAX), limit).await.map_err(Refusal::from)?;
    let cursor = found.last().filter(|_| found.len() == limit).map(|last| last.row.to_string());
    let event = |GivenUp { id, kind, body, made_ms, end_ms, tries, problem, row: _ }| {
        let body = RawValue::from_string(body).map_err(|_| {
            tracing::error!(event = id, "the body of an event cannot be read");
            Problem::internal()
        })?;
        Ok(GivenUpEvent { event_id: id, event: kind, time: made_ms, given_up_time: end_ms, tries, problem, body })
    };
    Ok(Json(GivenUpAnswer { events: found.into_iter().map(event).collect::<Result<_>>()?, cursor }))
}
