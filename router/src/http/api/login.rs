//! Logins by phone, and their end.
//!
//! What is answered here is never kept for a repeat: a token is told once, and stands nowhere else.

use super::Api;
use crate::{
    http::{
        auth::Session,
        caller::Caller,
        input::{App, Body, MaybeBody, User},
        problem::{Problem, ProblemCode, Result},
    },
    services::login::{CODE_DIGITS, Phone},
};
use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CodeRequest {
    #[serde(default)]
    #[schema(default = 10001)]
    app_id: App,
    /// 6 to 15 digits with the country's in front; a plus before them is no other phone.
    #[schema(example = "+8613800138000")]
    phone: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CodeAnswer {
    /// How long the code is good.
    #[schema(example = 300000)]
    expires_in_ms: u64,
    /// How long there is no other for this phone.
    #[schema(example = 60000)]
    again_in_ms: u64,
}

/// Sends a login code to a phone.
#[utoipa::path(post, path = "/v1/login/code", tag = "login", request_body = CodeRequest, responses((status = 200, body = CodeAnswer)))]
pub(crate) async fn send_code(
    State(api): State<Api>,
    Caller(address): Caller,
    Body(request): Body<CodeRequest>,
) -> Result<Json<CodeAnswer>> {
    let phone = phone(&request.phone)?;
    api.wants_logins()?;
    api.parts.handle.send_code(request.app_id.into(), &phone, address).await?;
    let (life, gap) = api.parts.handle.code_times();
    Ok(Json(CodeAnswer { expires_in_ms: crate::clock::millis(life), again_in_ms: crate::clock::millis(gap) }))
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LoginRequest {
    #[serde(default)]
    #[schema(default = 10001)]
    app_id: App,
    /// As the code was asked for.
    #[schema(example = "+8613800138000")]
    phone: String,
    /// The code that was sent there: good once.
    #[schema(min_length = 4, max_length = 4, example = "1000")]
    code: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LoginAnswer {
    user_id: User,
    /// 128 random bits in hex, to be shown as `Authorization: Bearer <token>` by calls of this user. Told here alone.
    #[schema(example = "00112233445566778899aabbccddeeff")]
    token: String,
    /// How long it is good.
    #[schema(example = 2592000000_u64)]
    expires_in_ms: u64,
}

/// Logs a user in by the code that was sent to the phone. A phone that never did gets a user, with a name that can be changed.
#[utoipa::path(post, path = "/v1/login", tag = "login", request_body = LoginRequest, responses((status = 200, body = LoginAnswer)))]
pub(crate) async fn login(State(api): State<Api>, Caller(address): Caller, Body(request): Body<LoginRequest>) -> Result<Json<LoginAnswer>> {
    let phone = phone(&request.phone)?;
    if request.code.len() != CODE_DIGITS || !request.code.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Problem::new(ProblemCode::Malformed, format!("code must be {CODE_DIGITS} digits")).at("code"));
    }
    api.wants_logins()?;
    let logged_in = api.parts.handle.login(request.app_id.into(), &phone, &request.code, address).await?;
    let logged_in = logged_in.ok_or_else(|| {
        Problem::new(ProblemCode::WrongCode, "the code is another one, was used, or is too old; after some wrong ones none is good")
            .at("code")
    })?;
    Ok(Json(LoginAnswer {
        user_id: logged_in.user.into(),
        token: logged_in.token,
        expires_in_ms: crate::clock::millis(logged_in.expires_in),
    }))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct LogoutRequest {
    /// The session's; another one is refused.
    app_id: Option<App>,
    /// `true`: every session of the user ends, not this one alone.
    everywhere: bool,
    /// Makes the call safe to repeat, as the header `Idempotency-Key` does.
    uuid: Option<String>,
}

/// Ends the session that is shown, at once, and within seconds the connections that came in by its tokens.
#[utoipa::path(post, path = "/v1/logout", tag = "login", request_body = Option<LogoutRequest>, responses((status = 204)))]
pub(crate) async fn logout(State(api): State<Api>, session: Session, MaybeBody(request): MaybeBody<LogoutRequest>) -> Result<StatusCode> {
    session.must_be_of(request.app_id)?;
    if request.everywhere {
        api.parts.handle.log_out_everywhere(session.owner()).await?;
    }
    // Also then: of more sessions than a user may have, it may be the one that is in no list.
    api.parts.handle.log_out(session.token(), session.owner()).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Api {
    fn wants_logins(&self) -> Result<()> {
        if self.parts.handle.has_logins() {
            return Ok(());
        }
        Err(Problem::new(ProblemCode::NotConfigured, "nobody logs in by phone here: `router.sms.provider` is not set"))
    }
}

fn phone(text: &str) -> Result<Phone> {
    Phone::parse(text).ok_or_else(|| Problem::new(ProblemCode::Malformed, format!("phone {}", Phone::LEGAL)).at("phone"))
}
