//! Profiles: how users are shown to others; tags, and the end of sessions.

use super::Api;
use crate::{
    http::{
        input::{App, Body, Query, User, UserPath, user_list},
        problem::Result,
    },
    services::ports::{self, people::Tags},
};
use axum::{Json, extract::State, http::StatusCode};
use billfish_state::{SessionOwner, UserId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Profile {
    user_id: User,
    nick_name: String,
    /// URL of a picture; may be empty.
    avatar: String,
}

impl Profile {
    pub(super) fn new(user: UserId, nick_name: String, avatar: String) -> Self {
        Self { user_id: user.into(), nick_name, avatar }
    }
}

impl From<Profile> for ports::Profile {
    fn from(profile: Profile) -> Self {
        Self { user: profile.user_id.into(), name: profile.nick_name, avatar: profile.avatar }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ProfileBody {
    #[serde(default)]
    #[schema(default = 10001)]
    app_id: App,
    /// At most 64 bytes.
    nick_name: String,
    /// URL of a picture, at most 512 bytes; left out: none.
    #[serde(default)]
    avatar: String,
}

/// Stores how a user is shown to others. Senders of chat get name and picture from here, never from the client.
#[utoipa::path(put, path = "/v1/users/{id}", tag = "users", params(("id" = User, Path)), request_body = ProfileBody,
    responses((status = 204)))]
pub(crate) async fn put_user(State(api): State<Api>, UserPath(user): UserPath, Body(body): Body<ProfileBody>) -> Result<StatusCode> {
    let profile = Profile::new(user, body.nick_name, body.avatar);
    api.parts.handle.put_users(body.app_id.into(), vec![profile.into()]).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UsersQuery {
    #[serde(default)]
    #[param(value_type = Option<App>, default = 10001)]
    app_id: App,
    /// Users with commas between them, at most 1,000.
    #[param(example = "20001,20002")]
    ids: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsersAnswer {
    /// Those who have a profile, by id.
    users: Vec<Profile>,
}

/// The profiles of users, at most a minute old.
#[utoipa::path(get, path = "/v1/users", tag = "users", params(UsersQuery), responses((status = 200, body = UsersAnswer)))]
pub(crate) async fn users(State(api): State<Api>, Query(query): Query<UsersQuery>) -> Result<Json<UsersAnswer>> {
    let mut found = api.parts.handle.users(query.app_id.into(), &user_list(&query.ids, "ids")?).await?;
    found.sort_by_key(|profile| profile.user);
    let users = found.into_iter().map(|profile| Profile::new(profile.user, profile.name, profile.avatar)).collect();
    Ok(Json(UsersAnswer { users }))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TagsBody {
    #[serde(default)]
    #[schema(default = 10001)]
    app_id: App,
    /// Whether the user is to be a VIP: with `router.room.vip_only`, nobody else opens rooms.
    vip: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TagsAnswer {
    user_id: User,
    vip: bool,
}

/// Gives a user tags, or takes them.
#[utoipa::path(put, path = "/v1/users/{id}/tags", tag = "users", params(("id" = User, Path)), request_body = TagsBody,
    responses((status = 200, body = TagsAnswer)))]
pub(crate) async fn put_tags(State(api): State<Api>, UserPath(user): UserPath, Body(body): Body<TagsBody>) -> Result<Json<TagsAnswer>> {
    let tags = api.parts.handle.set_vip(body.app_id.into(), user, body.vip).await?;
    Ok(Json(TagsAnswer { user_id: user.into(), vip: tags.has(Tags::VIP) }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SessionsQuery {
    #[serde(default)]
    #[param(value_type = Option<App>, default = 10001)]
    app_id: App,
}

/// Logs a user out everywhere: tokens of logins by phone are void at once, and connections that came in so end within seconds.
#[utoipa::path(delete, path = "/v1/users/{id}/sessions", tag = "users", params(("id" = User, Path), SessionsQuery), responses((status = 204)))]
pub(crate) async fn end_sessions(
    State(api): State<Api>,
    UserPath(user): UserPath,
    Query(query): Query<SessionsQuery>,
) -> Result<StatusCode> {
    api.parts.handle.log_out_everywhere(SessionOwner { app: query.app_id.into(), user }).await?;
    Ok(StatusCode::NO_CONTENT)
}
