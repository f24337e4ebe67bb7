//! Tokens, online, push, kick.

use super::{Api, users::Profile};
use crate::{
    handle::{IssuedToken, KickRequest, PushRequest, Target},
    http::{
        auth::Session,
        idempotency::CallId,
        input::{App, Body, Query, Room, User, user_list},
        problem::{Problem, ProblemCode, Result},
    },
};
use axum::{Extension, Json, extract::State};
use billfish_state::{DeviceKind, UserId};
use billfish_wire::Class;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};

/// Kind of device; a user has at most one session of each.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Device {
    Android,
    Ios,
    Web,
    Desktop,
    Other,
}

impl From<Device> for DeviceKind {
    fn from(device: Device) -> Self {
        match device {
            Device::Android => Self::Android,
            Device::Ios => Self::Ios,
            Device::Web => Self::Web,
            Device::Desktop => Self::Desktop,
            Device::Other => Self::Other,
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TokenRequest {
    #[serde(default)]
    #[schema(default = 10001)]
    app_id: App,
    user_id: User,
    /// The token is good for this kind of device alone; left out: for any.
    device: Option<Device>,
    /// How others see the user, at most 64 bytes. Left out: as before.
    nick_name: Option<String>,
    /// URL of the user's picture, at most 512 bytes. Left out: as before.
    avatar: Option<String>,
    /// Makes the call safe to repeat, as the header `Idempotency-Key` does.
    #[expect(dead_code, reason = "read by the layer that answers repeats")]
    uuid: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenAnswer {
    /// 128 random bits in hex, `%`, appId. Goes into the LOGIN frame.
    #[schema(example = "00112233445566778899aabbccddeeff%10001")]
    token: String,
    /// How long it is good.
    #[schema(example = 300000)]
    expires_in_ms: u64,
    /// Addresses by transport, the one to try first in front.
    #[schema(example = json!({"tcp": ["127.0.0.1:8085"]}))]
    gateways: BTreeMap<String, Vec<String>>,
}

/// A login token for a user, and where to go with it.
#[utoipa::path(post, path = "/v1/im/tokens", tag = "im", request_body = TokenRequest, responses((status = 200, body = TokenAnswer)))]
pub(crate) async fn issue_token(State(api): State<Api>, Body(request): Body<TokenRequest>) -> Result<Json<TokenAnswer>> {
    let (app, user) = (request.app_id.into(), request.user_id.into());
    if request.nick_name.is_some() || request.avatar.is_some() {
        let before = match (&request.nick_name, &request.avatar) {
            (Some(_), Some(_)) => None,
            _ => api.parts.handle.profile_now(app, user).await?,
        };
        let (name, avatar) = before.map(|profile| (profile.name, profile.avatar)).unwrap_or_default();
        let profile = Profile::new(user, request.nick_name.unwrap_or(name), request.avatar.unwrap_or(avatar));
        api.parts.handle.put_users(app, vec![profile.into()]).await?;
    }
    Ok(Json(api.parts.handle.issue_token(app, user, request.device.map(DeviceKind::from)).await?.into()))
}

impl From<IssuedToken> for TokenAnswer {
    fn from(issued: IssuedToken) -> Self {
        let expires_in_ms = crate::clock::millis(issued.expires_in);
        Self { token: issued.token, expires_in_ms, gateways: issued.gateways }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ConfigQuery {
    /// The session's; another one is refused.
    #[param(value_type = Option<App>)]
    app_id: Option<App>,
    /// The token is good for this kind of device alone; left out: for any.
    #[param(inline)]
    device: Option<Device>,
}

/// A login token for the user himself, and where to go with it. It is void from the moment that the session ends.
#[utoipa::path(get, path = "/v1/im/config", tag = "im", params(ConfigQuery), responses((status = 200, body = TokenAnswer)))]
pub(crate) async fn config(State(api): State<Api>, session: Session, Query(query): Query<ConfigQuery>) -> Result<Json<TokenAnswer>> {
    session.must_be_of(query.app_id)?;
    let device = query.device.map(DeviceKind::from);
    Ok(Json(api.parts.handle.issue_token_of(session.owner(), session.token(), device).await?.into()))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OnlineQuery {
    #[serde(default)]
    #[param(value_type = Option<App>, default = 10001)]
    app_id: App,
    /// Users with commas between them, at most 1,000.
    #[param(example = "20001,20002")]
    user_ids: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OnlineAnswer {
    /// Each user asked for, and whether a sign of life came from them within two heartbeat gaps.
    #[schema(example = json!({"20001": true, "20002": false}))]
    online: BTreeMap<String, bool>,
}

/// Which users are connected.
#[utoipa::path(get, path = "/v1/im/online", tag = "im", params(OnlineQuery), responses((status = 200, body = OnlineAnswer)))]
pub(crate) async fn online(State(api): State<Api>, Query(query): Query<OnlineQuery>) -> Result<Json<OnlineAnswer>> {
    let users = user_list(&query.user_ids, "userIds")?;
    let online = api.parts.handle.online(query.app_id.into(), &users).await?;
    Ok(Json(OnlineAnswer { online: users.iter().map(ToString::to_string).zip(online).collect() }))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PushBody {
    #[serde(default)]
    #[schema(default = 10001)]
    app_id: App,
    target: PushTarget,
    /// What it is; clients go by it.
    #[schema(example = 5568)]
    biz_code: i32,
    /// What the client gets in `data`: a text is taken as it is, anything else is sent as its JSON text.
    #[schema(value_type = Value)]
    data: Box<RawValue>,
    /// 0: sent once (the default). 1: kept and sent again until acknowledged.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    qos: u8,
    /// What it is worth to a slow reader: 0 control, 1 event (the default), 2 chat, 3 ambient. 2 and 3 may be dropped.
    #[schema(minimum = 0, maximum = 3, default = 1)]
    class: Option<u8>,
    /// Rooms only: makes it a state push, of which only the newest of a key matters. At most 64 bytes.
    key: Option<String>,
    /// Makes the call safe to repeat, as the header `Idempotency-Key` does.
    #[expect(dead_code, reason = "read by the layer that answers repeats")]
    uuid: Option<String>,
}

/// Exactly one of the three.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PushTarget {
    /// These users, on every device; at most 1,000.
    #[schema(max_items = 1000)]
    users: Option<Vec<User>>,
    /// Everyone in a room.
    room_id: Option<Room>,
    /// `true`: everyone who is connected.
    all: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PushAnswer {
    /// Its id, for QoS 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    msg_id: Option<String>,
    /// Its place in the room, for a room.
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<i64>,
    /// Users, or for a room and for everyone: gateways it was given to.
    accepted: u64,
}

/// Sends a message to users, to a room, or to everyone.
#[utoipa::path(post, path = "/v1/im/push", tag = "im", request_body = PushBody, responses((status = 200, body = PushAnswer)))]
pub(crate) async fn push(State(api): State<Api>, call: Option<Extension<CallId>>, Body(body): Body<PushBody>) -> Result<Json<PushAnswer>> {
    let request = PushRequest {
        app: body.app_id.into(),
        target: target(body.target)?,
        biz_code: body.biz_code,
        data: data_text(&body.data)?,
        qos: at_most(body.qos, 1, "qos")?,
        class: Class::from_number(i32::from(at_most(body.class.unwrap_or(1), 3, "class")?)),
        key: body.key,
    };
    let pushed = match call {
        Some(Extension(CallId(id))) => api.parts.handle.push_once(request, id).await?,
        None => api.parts.handle.push(request).await?,
    };
    Ok(Json(PushAnswer { msg_id: pushed.msg_id, seq: pushed.seq, accepted: pushed.accepted }))
}

fn target(target: PushTarget) -> Result<Target> {
    match target {
        PushTarget { users: Some(users), room_id: None, all: None } => Ok(Target::Users(users.into_iter().map(UserId::from).collect())),
        PushTarget { users: None, room_id: Some(room), all: None } => Ok(Target::Room(room.into())),
        PushTarget { users: None, room_id: None, all: Some(true) } => Ok(Target::All),
        _ => {
            Err(Problem::new(ProblemCode::Malformed, "target must be one of {\"users\":[…]}, {\"roomId\":…} and {\"all\":true}")
                .at("target"))
        }
    }
}

fn data_text(data: &RawValue) -> Result<String> {
    let text = data.get();
    if text.starts_with('"') {
        return serde_json::from_str(text)
            .map_err(|_| Problem::new(ProblemCode::Malformed, "data is a text that is no Unicode").at("data"));
    }
    Ok(text.to_owned())
}

fn at_most(number: u8, most: u8, field: &'static str) -> Result<u8> {
    if number <= most {
        Ok(number)
    } else {
        Err(Problem::new(ProblemCode::Malformed, format!("{field} must be from 0 to {most}")).at(field))
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct KickBody {
    #[serde(default)]
    #[schema(default = 10001)]
    app_id: App,
    user_id: User,
    /// Left out: every device.
    device: Option<Device>,
    /// A sentence that the client shows, at most 200 characters. Left out: the standard one.
    #[serde(default)]
    #[schema(max_length = 200)]
    reason: String,
    /// Makes the call safe to repeat, as the header `Idempotency-Key` does.
    #[expect(dead_code, reason = "read by the layer that answers repeats")]
    uuid: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KickAnswer {
    /// Sessions told to go.
    kicked: u64,
}

/// Longest reason of a kick, in characters: it has to fit a dialog.
const KICK_REASON_CHARS_MAX: usize = 200;

/// Ends sessions of a user.
#[utoipa::path(post, path = "/v1/im/kick", tag = "im", request_body = KickBody, responses((status = 200, body = KickAnswer)))]
pub(crate) async fn kick(State(api): State<Api>, Body(body): Body<KickBody>) -> Result<Json<KickAnswer>> {
    if body.reason.chars().count() > KICK_REASON_CHARS_MAX || body.reason.chars().any(char::is_control) {
        let detail = format!("reason must be at most {KICK_REASON_CHARS_MAX} characters, none of them control characters");
        return Err(Problem::new(ProblemCode::Malformed, detail).at("reason"));
    }
    let request =
        KickRequest { app: body.app_id.into(), user: body.user_id.into(), device: body.device.map(DeviceKind::from), message: body.reason };
    Ok(Json(KickAnswer { kicked: api.parts.handle.kick(request).await? }))
}
