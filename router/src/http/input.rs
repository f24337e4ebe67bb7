//! Reading what a caller sent: bodies, parameters and ids, each with an error that says what, where, and what to do.
//!
//! Unknown fields are refused: a misspelt one would otherwise do nothing, silently.

use super::problem::{Problem, ProblemCode, Result};
use crate::{ledger::webhooks::WebhookId, services::ports::money::GiftId};
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, RawPathParams, Request, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::IntoResponse,
};
use billfish_state::{AppId, RoomId, UserId};
use billfish_wire::limits::{APP_ID_DEFAULT, APP_ID_MIN, ID_MAX, USER_ID_MIN};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::fmt;
use utoipa::ToSchema;

/// A JSON body that must be there.
pub(crate) struct Body<T>(pub(crate) T);

/// A JSON body that may be left out; then every field is.
pub(crate) struct MaybeBody<T>(pub(crate) T);

/// The parameters behind `?`.
pub(crate) struct Query<T>(pub(crate) T);

/// `{id}` of a room's address.
pub(crate) struct RoomPath(pub(crate) RoomId);

/// `{id}` and `{userId}` of the address of a user in a room.
pub(crate) struct RoomUserPath(pub(crate) RoomId, pub(crate) UserId);

/// `{id}` of a user's address.
pub(crate) struct UserPath(pub(crate) UserId);

/// The gift in an address.
pub(crate) struct GiftPath(pub(crate) GiftId);

/// The webhook in an address.
pub(crate) struct WebhookPath(pub(crate) WebhookId);

impl<T: for<'a> Deserialize<'a>, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let declared = declares_json(request.headers());
        let bytes = Bytes::from_request(request, state).await.map_err(body_refused)?;
        if bytes.is_empty() {
            return Err(Problem::new(ProblemCode::Malformed, "the body is empty; send a JSON object"));
        }
        read_json(declared, &bytes).map(Self)
    }
}

impl<T: for<'a> Deserialize<'a> + Default, S: Send + Sync> FromRequest<S> for MaybeBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let declared = declares_json(request.headers());
        let bytes = Bytes::from_request(request, state).await.map_err(body_refused)?;
        if bytes.is_empty() { Ok(Self(T::default())) } else { read_json(declared, &bytes).map(Self) }
    }
}

impl<T: for<'a> Deserialize<'a>, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|rejection| Problem::new(ProblemCode::Malformed, rejection.body_text()).at("query"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RoomPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        Ok(Self(path_id::<Room, S>(parts, state, "id").await?.into()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RoomUserPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        Ok(Self(path_id::<Room, S>(parts, state, "id").await?.into(), path_id::<User, S>(parts, state, "userId").await?.into()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for UserPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        Ok(Self(path_id::<User, S>(parts, state, "id").await?.into()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for GiftPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        Ok(Self(path_id::<Gift, S>(parts, state, "id").await?.into()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for WebhookPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        Ok(Self(path_id::<Webhook, S>(parts, state, "id").await?.into()))
    }
}

async fn path_id<I: Id, S: Send + Sync>(parts: &mut Parts, state: &S, name: &'static str) -> Result<I> {
    let params = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|_| Problem::new(ProblemCode::Malformed, "the address is not valid UTF-8").at(name))?;
    let text = params.iter().find(|(found, _)| *found == name).map(|(_, text)| text).unwrap_or_default();
    I::parse(text).map_err(|problem| Problem::new(ProblemCode::Malformed, format!("{name}: {problem}")).at(name))
}

/// A body that could not be taken: longer than allowed, or cut off.
pub(crate) fn body_refused(rejection: BytesRejection) -> Problem {
    if rejection.into_response().status() == StatusCode::PAYLOAD_TOO_LARGE {
        Problem::new(ProblemCode::TooLarge, "the body is longer than `http.body_bytes_max`, by default 65536 bytes")
    } else {
        Problem::new(ProblemCode::Malformed, "the body broke off")
    }
}

fn declares_json(headers: &HeaderMap) -> bool {
    let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    declared.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Reads a body that is, or is declared to be, JSON.
pub(crate) fn read_json<T: for<'a> Deserialize<'a>>(declared: bool, bytes: &[u8]) -> Result<T> {
    if !declared {
        return Err(
            Problem::new(ProblemCode::NotJson, "send the body as JSON with the header `Content-Type: application/json`").at("Content-Type")
        );
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let place = error.path().to_string();
        Problem::new(ProblemCode::Malformed, format!("the body: {}", error.into_inner())).at(if place == "." {
            String::new()
        } else {
            place
        })
    })?;
    json.end().map_err(|error| Problem::new(ProblemCode::Malformed, format!("the body: {error}")))?;
    Ok(value)
}

/// An id as callers write it.
pub(crate) trait Id: Sized {
    /// What is legal, as an error says it.
    const LEGAL: &'static str;

    /// The id of a number; `None` for one out of range.
    fn from_number(number: i64) -> Option<Self>;

    /// The id of a text of digits.
    fn parse(text: &str) -> std::result::Result<Self, String> {
        // Digits alone: `+1`, ` 1` and `01` would be other spellings of one address.
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        let number = if plain { text.parse().ok() } else { None };
        number.and_then(Self::from_number).ok_or_else(|| format!("must be {}", Self::LEGAL))
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($inner:ty) => $target:ident, $least:expr, $most:expr, $legal:literal;)*) => {
        $(
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
            $(#[$doc])*
            pub(crate) struct $name(pub(crate) $inner);

            impl Id for $name {
                const LEGAL: &'static str = $legal;

                fn from_number(number: i64) -> Option<Self> {
                    <$inner>::try_from(number).ok().filter(|number| ($least..=$most).contains(number)).map(Self)
                }
            }

            impl From<$name> for $target {
                fn from(id: $name) -> Self {
                    Self(id.0)
                }
            }

            impl From<$target> for $name {
                fn from(id: $target) -> Self {
                    Self(id.0)
                }
            }

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                    deserializer.deserialize_i64(IdVisitor::<Self>(std::marker::PhantomData))
                }
            }
        )*
    };
}

ids! {
    /// A business line.
    #[schema(minimum = 10000, example = 10001)]
    App(i32) => AppId, APP_ID_MIN, i32::MAX, "a whole number from 10000 to 2147483647";
    /// A user.
    #[schema(minimum = 10000, maximum = 9007199254740991_i64, example = 20001)]
    User(i64) => UserId, USER_ID_MIN, ID_MAX, "a whole number from 10000 to 9007199254740991 (2^53 - 1); no larger id exists here";
    /// A room.
    #[schema(minimum = 1, maximum = 9007199254740991_i64, example = 1)]
    Room(i64) => RoomId, 1, ID_MAX, "a whole number from 1 to 9007199254740991 (2^53 - 1); no larger id exists here";
    /// A gift.
    #[schema(minimum = 1, maximum = 9007199254740991_i64, example = 1)]
    Gift(i64) => GiftId, 1, ID_MAX, "a whole number from 1 to 9007199254740991 (2^53 - 1); no larger id exists here";
    /// A webhook.
    #[schema(minimum = 1, maximum = 9007199254740991_i64, example = 1)]
    Webhook(i64) => WebhookId, 1, ID_MAX, "a whole number from 1 to 9007199254740991 (2^53 - 1); no larger id exists here";
}

impl Default for App {
    fn default() -> Self {
        Self(APP_ID_DEFAULT)
    }
}

struct IdVisitor<I>(std::marker::PhantomData<I>);

impl<I: Id> de::Visitor<'_> for IdVisitor<I> {
    type Value = I;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(I::LEGAL)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> std::result::Result<I, E> {
        I::from_number(number).ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> std::result::Result<I, E> {
        i64::try_from(number).ok().and_then(I::from_number).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }
}

/// `1,2,3` of a query.
pub(crate) fn user_list(text: &str, field: &'static str) -> Result<Vec<UserId>> {
    if text.is_empty() {
        return Err(Problem::new(ProblemCode::Malformed, format!("{field} is empty; send ids with commas between them")).at(field));
    }
    if text.split(',').count() > USERS_PER_CALL_MAX {
        return Err(
            Problem::new(ProblemCode::Malformed, format!("{field} has more than {USERS_PER_CALL_MAX} ids; ask in pieces")).at(field)
        );
    }
    text.split(',')
        .map(|id| {
            User::parse(id)
                .map(UserId::from)
                .map_err(|problem| Problem::new(ProblemCode::Malformed, format!("{field}: {problem}")).at(field))
        })
        .collect()
}

/// Users in one question. The router's own bound.
pub(crate) const USERS_PER_CALL_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::{App, Id, Room, User, user_list};

    #[test]
    fn ids_that_a_browser_would_round_are_refused() {
        assert_eq!(User::parse("9007199254740991").unwrap(), User(9_007_199_254_740_991));
        for bad in ["", "9007199254740992", "99999999999999999999", "-1", "+20001", "020001", "20001.0", "2e4", "20001 ", "9999", "０"] {
            assert!(User::parse(bad).is_err(), "{bad}");
        }
        for bad in ["9007199254740992", "18446744073709551616", "1e400", "20001.5", "-20001", "\"20001\"", "null", "[]", "9999"] {
            let error = serde_json::from_str::<User>(bad).unwrap_err().to_string();
            assert!(!error.is_empty(), "{bad}");
        }
        let error = serde_json::from_str::<User>("9007199254740992").unwrap_err().to_string();
        assert!(error.contains("9007199254740991"), "{error}");
        assert!(serde_json::from_str::<App>("9999").is_err());
        assert!(serde_json::from_str::<Room>("0").is_err());
    }

    #[test]
    fn a_list_of_users_is_bounded_and_exact() {
        assert_eq!(user_list("20001,20002", "ids").unwrap().len(), 2);
        for bad in ["", ",", "20001,", "20001;20002", &vec!["20001"; 1_001].join(",")] {
            assert!(user_list(bad, "ids").is_err(), "{bad}");
        }
    }
}
