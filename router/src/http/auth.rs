//! Who calls: the holder of the API key, or a user with a session. Both show `Authorization: Bearer …`.
//!
//! - The API key is compared in constant time. A session's token is looked up by its print, so there is no timing to learn one from.
//! - A token that is unknown, has run out, was closed, or is no token at all gets the same answer.
//! - Of a route for users, user and app are the session's: nothing that a body says can be another's.

use super::{
    input::{App, User},
    problem::{Problem, ProblemCode},
};
use crate::Handle;
use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use billfish_state::{AppId, SessionOwner, UserId};
use std::{convert::Infallible, fmt, sync::Arc};
use subtle::ConstantTimeEq;

/// The key that callers must show.
#[derive(Clone)]
pub(super) struct ApiKey(Arc<[u8]>);

impl ApiKey {
    pub(super) fn new(key: &str) -> Self {
        Self(Arc::from(key.as_bytes()))
    }

    fn admits(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let mut sent = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (sent.next(), sent.next()) else {
            return Err(
                Problem::new(ProblemCode::MissingKey, "send the header `Authorization: Bearer <api key>`, once").at("Authorization")
            );
        };
        let Some(key) = after_scheme(value.as_bytes()) else {
            return Err(Problem::new(ProblemCode::MissingKey, "the header Authorization must be `Bearer <api key>`").at("Authorization"));
        };
        // The time tells the length of the key at most, and that is no secret.
        if bool::from(key.ct_eq(&self.0)) {
            Ok(())
        } else {
            Err(Problem::new(ProblemCode::WrongKey, "this is not the API key; the embedded default keeps it in DIR/api-key")
                .at("Authorization"))
        }
    }
}

const SCHEME: &[u8] = b"Bearer ";

/// What follows `Bearer`.
fn after_scheme(value: &[u8]) -> Option<&[u8]> {
    let (scheme, shown) = value.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| shown.trim_ascii())
}

/// Lets a call through that shows the key.
pub(super) async fn require_api_key(State(key): State<ApiKey>, request: Request, next: Next) -> Response {
    match key.admits(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// A user who has logged in. To be asked for by handlers of routes for users: it is there before they begin.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) app: AppId,
    pub(crate) user: UserId,
    token: Arc<str>,
}

/// Shows no token.
impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Session").field("app", &self.app).field("user", &self.user).finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn owner(&self) -> SessionOwner {
        SessionOwner { app: self.app, user: self.user }
    }

    /// What the user has shown, to close the session by.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Refuses a call that says it is about another app than the session's; one that says nothing is about the session's.
    pub(crate) fn must_be_of(&self, app: Option<App>) -> Result<(), Problem> {
        if app.is_none_or(|app| AppId::from(app) == self.app) { Ok(()) } else { Err(no_session()) }
    }

    /// Who stands for the call where calls are told apart.
    pub(super) fn caller(&self) -> String {
        format!("{}:{}", self.app, self.user)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Session {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Only a route that stands in the wrong list has none.
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::internal)
    }
}

/// Lets a call through that shows a session's token, with its [`Session`].
pub(super) async fn require_session(State(handle): State<Handle>, mut request: Request, next: Next) -> Response {
    match session_of(&handle, request.headers()).await {
        Ok(session) => {
            request.extensions_mut().insert(session);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Lets a call through that shows the key, or a session's token, then with its [`Session`].
pub(super) async fn require_key_or_session(State((key, handle)): State<(ApiKey, Handle)>, request: Request, next: Next) -> Response {
    if key.admits(request.headers()).is_ok() { next.run(request).await } else { require_session(State(handle), request, next).await }
}

/// Who calls a route that takes the key and sessions: a user, or, with none, the holder of the key.
pub(crate) struct Caller(pub(crate) Option<Session>);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<Session>().cloned()))
    }
}

impl Caller {
    /// On whose behalf it is: a user's own, or whom the holder of the key names in this field.
    pub(crate) fn user(&self, named: Option<User>, field: &'static str) -> Result<UserId, Problem> {
        match (&self.0, named) {
            (Some(session), None) => Ok(session.user),
            (Some(session), Some(named)) if UserId::from(named) == session.user => Ok(session.user),
            (Some(_), Some(_)) => {
                Err(Problem::new(ProblemCode::NotAllowed, format!("{field} is not the session's user; leave it out")).at(field))
            }
            (None, Some(named)) => Ok(named.into()),
            (None, None) => {
                Err(Problem::new(ProblemCode::Malformed, format!("{field} is missing: with the API key, say whose call it is")).at(field))
            }
        }
    }

    /// The app of a user's session; the holder of the key has all.
    pub(crate) fn own_app(&self) -> Option<AppId> {
        self.0.as_ref().map(|session| session.app)
    }

    /// Of which app it is.
    pub(crate) fn app(&self, named: Option<App>) -> Result<AppId, Problem> {
        match &self.0 {
            Some(session) => session.must_be_of(named).map(|()| session.app),
            None => Ok(named.unwrap_or_default().into()),
        }
    }
}

async fn session_of(handle: &Handle, headers: &HeaderMap) -> Result<Session, Problem> {
    let mut sent = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (sent.next(), sent.next()) else { return Err(no_session()) };
    let token = after_scheme(value.as_bytes()).and_then(|token| std::str::from_utf8(token).ok()).ok_or_else(no_session)?;
    let SessionOwner { app, user } = handle.session(token).await?.ok_or_else(no_session)?;
    Ok(Session { app, user, token: Arc::from(token) })
}

fn no_session() -> Problem {
    Problem::new(
        ProblemCode::BadToken,
        "send the header `Authorization: Bearer <token>`, once, with the token of a login that is good here",
    )
    .at("Authorization")
}

#[cfg(test)]
mod tests {
    use super::ApiKey;
    use axum::http::{HeaderMap, HeaderValue, header};

    #[test]
    fn only_the_whole_key_in_one_bearer_header_lets_in() {
        let key = ApiKey::new("0123456789abcdef");
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            headers
        };
        for good in ["Bearer 0123456789abcdef", "bearer 0123456789abcdef", "BEARER  0123456789abcdef "] {
            assert!(key.admits(&headers(&[good])).is_ok(), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "0123456789abcdef",
            "Basic 0123456789abcdef",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer 0123456789ABCDEF",
        ] {
            assert!(key.admits(&headers(&[bad])).is_err(), "{bad}");
        }
        assert!(key.admits(&headers(&[])).is_err());
        assert!(key.admits(&headers(&["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"])).is_err());
    }
}
