//! What a caller is told when a call fails: a problem document (RFC 9457) with a stable `code`.
//!
//! - Programs go by `code`; people read `detail`, which says what was wrong, where, and what to do.
//! - Nothing internal is told: causes go to the log, and the caller hears `internal` or `unavailable`.

use crate::Refusal;
use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use billfish_wire::Reason;
use serde::Serialize;
use std::{any::Any, sync::Arc};
use utoipa::ToSchema;

/// A failed call, on its way to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    code: ProblemCode,
    detail: String,
    field: Option<String>,
    retry_after_ms: Option<u64>,
    room_id: Option<i64>,
}

/// A failed call (RFC 9457).
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub(crate) struct ProblemDocument<'a> {
    /// Where this kind of problem is described.
    #[serde(rename = "type")]
    #[schema(format = "uri-reference", example = "/docs#room-not-found")]
    kind: String,
    /// The kind of problem in a few words: the same for every occurrence.
    #[schema(example = "Room not found")]
    title: &'static str,
    /// The HTTP status, for those who see the document alone.
    #[schema(minimum = 400, maximum = 599, example = 404)]
    status: u16,
    /// What happened this time.
    detail: &'a str,
    /// The kind of problem, for programs; never changes its meaning.
    code: ProblemCode,
    /// Where in the request the fault is, if it is in one place: a path into the body, or the name of a parameter or header.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    /// When it is worth trying again.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// With `already-live`: the room that is live.
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<i64>,
}

macro_rules! codes {
    ($($variant:ident, $label:literal, $status:ident, $title:literal;)*) => {
        /// Every `code` of a problem.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
        #[serde(rename_all = "kebab-case")]
        pub(crate) enum ProblemCode {
            $(#[doc = $title] $variant,)*
        }

        impl ProblemCode {
            /// All of them, for the page about the API.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in `code`.
            pub(crate) const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// Its HTTP status.
            pub(crate) const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// Its `title`.
            pub(crate) const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    Malformed, "malformed", BAD_REQUEST, "A field, parameter or body that cannot be";
    UnknownCode, "unknown-code", BAD_REQUEST, "Unknown business code";
    MissingKey, "missing-key", UNAUTHORIZED, "No API key";
    WrongKey, "wrong-key", UNAUTHORIZED, "Wrong API key";
    BadToken, "bad-token", UNAUTHORIZED, "Unknown or expired token";
    WrongCode, "wrong-code", FORBIDDEN, "Wrong or expired login code";
    NotAllowed, "not-allowed", FORBIDDEN, "This user may not do that";
    Muted, "muted", FORBIDDEN, "The user is muted";
    Banned, "banned", FORBIDDEN, "The user is banned";
    StreamRefused, "stream-refused", FORBIDDEN, "Unknown stream or wrong stream key";
    BadSignature, "bad-signature", FORBIDDEN, "Not signed, or not by whom it must be";
    NotFound, "not-found", NOT_FOUND, "No such address";
    RoomNotFound, "room-not-found", NOT_FOUND, "Room not found";
    ProductNotFound, "product-not-found", NOT_FOUND, "Product not found";
    OrderNotFound, "order-not-found", NOT_FOUND, "Order not found";
    WebhookNotFound, "webhook-not-found", NOT_FOUND, "Webhook not found";
    MethodNotAllowed, "method-not-allowed", METHOD_NOT_ALLOWED, "Method not allowed here";
    AlreadyLive, "already-live", CONFLICT, "The anchor is live already";
    KeyReused, "key-reused", CONFLICT, "Idempotency key used for another request";
    InProgress, "in-progress", CONFLICT, "The same request is under way";
    PaymentConflict, "payment-conflict", CONFLICT, "The payment does not fit the order";
    TooLarge, "too-large", PAYLOAD_TOO_LARGE, "Body too large";
    NotJson, "not-json", UNSUPPORTED_MEDIA_TYPE, "Body is not declared as what it must be";
    TooManyWebhooks, "too-many-webhooks", CONFLICT, "As many webhooks as there may be";
    PkTaken, "pk-taken", CONFLICT, "The PK has a challenger already";
    NotCovered, "not-covered", PAYMENT_REQUIRED, "Not enough coins";
    UnknownGift, "unknown-gift", NOT_FOUND, "No such gift";
    UuidReused, "uuid-reused", CONFLICT, "The uuid was used for another gift";
    NotAReceiver, "not-a-receiver", UNPROCESSABLE_ENTITY, "The receiver cannot be given that";
    PriceChanged, "price-changed", CONFLICT, "The price has changed";
    RateLimited, "rate-limited", TOO_MANY_REQUESTS, "Too many, too fast";
    NotConfigured, "not-configured", NOT_IMPLEMENTED, "Not set up here";
    Internal, "internal", INTERNAL_SERVER_ERROR, "Internal error";
    Unavailable, "unavailable", SERVICE_UNAVAILABLE, "Something behind the API is away";
    TimedOut, "timed-out", SERVICE_UNAVAILABLE, "The call took too long";
}

/// Result of every handler.
pub(crate) type Result<T> = std::result::Result<T, Problem>;

impl Problem {
    /// A problem with its own sentence.
    pub(crate) fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), field: None, retry_after_ms: None, room_id: None }
    }

    /// The same, with the place of the fault.
    pub(crate) fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into()).filter(|field| !field.is_empty());
        self
    }

    /// The same, with the time to wait.
    pub(crate) fn retry_after(mut self, retry_after_ms: u64) -> Self {
        self.retry_after_ms = Some(retry_after_ms);
        self
    }

    /// The anchor has this room already.
    pub(crate) fn already_live(room_id: i64) -> Self {
        let detail = format!("the anchor is live in room {room_id}; close it first");
        Self { room_id: Some(room_id), ..Self::new(ProblemCode::AlreadyLive, detail) }
    }

    /// The call took longer than a call may.
    pub(crate) fn timed_out() -> Self {
        Self::new(ProblemCode::TimedOut, "the call took too long and may or may not have been carried out; a POST with the same uuid or Idempotency-Key is safe to repeat")
            .retry_after(1_000)
    }

    /// Only our own bug leads here.
    pub(crate) fn internal() -> Self {
        Self::new(ProblemCode::Internal, "the fault is the server's and is in its log")
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.reason {
            Reason::Malformed => ProblemCode::Malformed,
            Reason::NotLoggedIn | Reason::BadToken => ProblemCode::BadToken,
            Reason::NotYourUser => ProblemCode::NotAllowed,
            Reason::RoomNotFound => ProblemCode::RoomNotFound,
            Reason::Muted => ProblemCode::Muted,
            Reason::Banned => ProblemCode::Banned,
            Reason::RateLimited => ProblemCode::RateLimited,
            Reason::TooLarge => ProblemCode::TooLarge,
            Reason::UnknownCode => ProblemCode::UnknownCode,
            Reason::Unavailable | Reason::Drained => ProblemCode::Unavailable,
            Reason::PkTaken => ProblemCode::PkTaken,
            Reason::NotCovered => ProblemCode::NotCovered,
            Reason::UnknownGift => ProblemCode::UnknownGift,
            Reason::UuidReused => ProblemCode::UuidReused,
            Reason::NotAReceiver => ProblemCode::NotAReceiver,
            Reason::PriceChanged => ProblemCode::PriceChanged,
            // About a connection: no call of this API ends so.
            Reason::DuplicateLogin
            | Reason::LoginTimeout
            | Reason::TooSlow
            | Reason::Internal
            | Reason::PeerClosed
            | Reason::TransportFailed
            | Reason::HeartbeatLost
            | Reason::FrameTimeout
            | Reason::WriteStalled
            | Reason::LoggedOut => ProblemCode::Internal,
        };
        Self { retry_after_ms: refusal.retry_after_ms, ..Self::new(code, refusal.detail) }
    }
}

impl Problem {
    fn document(&self, base: &str) -> ProblemDocument<'_> {
        ProblemDocument {
            kind: format!("{base}/docs#{}", self.code.label()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            code: self.code,
            field: self.field.as_deref(),
            retry_after_ms: self.retry_after_ms,
            room_id: self.room_id,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.code.status();
        let mut response = (status, Json(self.document(""))).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(retry_after_ms) = self.retry_after_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after_ms.div_ceil(1_000).max(1)));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"billfish\""));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// What stands before `/docs#code` in `type`.
#[derive(Clone, Debug)]
pub(crate) struct TypeBase(Arc<str>);

impl TypeBase {
    pub(crate) fn new(public_url: &str) -> Self {
        Self(Arc::from(public_url))
    }
}

/// The last touch on every answer: the public address in problems, and headers that keep browsers from guessing and keeping.
pub(crate) async fn finish(State(base): State<TypeBase>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if !base.0.is_empty()
        && let Some(problem) = response.extensions_mut().remove::<Problem>()
    {
        // The length was told already, and is another one now.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Json(problem.document(&base.0)).into_response().into_body();
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// For an address that is not here.
pub(crate) async fn no_such_route(uri: Uri) -> Problem {
    Problem::new(ProblemCode::NotFound, format!("there is nothing at {}; the addresses stand at /docs", uri.path()))
}

/// For a method that the address does not have.
pub(crate) async fn no_such_method(method: Method, uri: Uri) -> Problem {
    Problem::new(ProblemCode::MethodNotAllowed, format!("{} does not take {method}; the header Allow says what it takes", uri.path()))
}

/// A handler panicked: our bug, one call's trouble.
#[expect(clippy::needless_pass_by_value, reason = "the signature that the layer wants")]
pub(crate) fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response {
    let said = cause.downcast_ref::<&str>().copied().or_else(|| cause.downcast_ref::<String>().map(String::as_str));
    tracing::error!(said = said.unwrap_or("something that is no text"), "an HTTP handler panicked");
    Problem::internal().into_response()
}

#[cfg(test)]
mod tests {
    use super::{Problem, ProblemCode};
    use crate::Refusal;
    use billfish_wire::Reason;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_distinct_and_named_as_serde_names_them() {
        let labels: BTreeSet<_> = ProblemCode::ALL.iter().map(|code| code.label()).collect();
        assert_eq!(labels.len(), ProblemCode::ALL.len());
        for code in ProblemCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.label());
        }
    }

    #[test]
    fn every_reason_has_a_status_of_its_range() {
        for reason in Reason::ALL {
            let problem = Problem::from(Refusal::new(reason));
            match reason.number() {
                Some(number) if !(5_000..10_000).contains(&number) && problem.code != ProblemCode::Internal => {
                    assert!(problem.code.status().is_client_error(), "{reason:?}")
                }
                _ => assert!(problem.code.status().is_server_error(), "{reason:?}"),
            }
        }
    }
}
