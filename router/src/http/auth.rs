//! The API key: `Authorization: Bearer …`, compared in constant time.

use super::problem::{Problem, ProblemCode};
use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::sync::Arc;
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
        let value = value.as_bytes();
        let key = match value.split_at_checked(SCHEME.len()) {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case(SCHEME) => key.trim_ascii(),
            _ => {
                return Err(
                    Problem::new(ProblemCode::MissingKey, "the header Authorization must be `Bearer <api key>`").at("Authorization")
                );
            }
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

/// Lets a call through that shows the key.
pub(super) async fn require_api_key(State(key): State<ApiKey>, request: Request, next: Next) -> Response {
    match key.admits(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
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
