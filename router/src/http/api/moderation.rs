//! Mutes, bans, slow mode and block-lists.

use super::Api;
use crate::{
    handle::{MuteRequest, Operator},
    http::{
        input::{Body, MaybeBody, Query, Room, RoomPath, RoomUserPath, User},
        problem::{Problem, ProblemCode, Result},
    },
};
use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

/// Longest mute or ban that is given a length: a year. One without ends with the room.
const SANCTION_SECONDS_MAX: u64 = 366 * 24 * 60 * 60;

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct SanctionBody {
    /// How long; left out: as long as the room lives.
    #[schema(minimum = 1, maximum = 31622400)]
    seconds: Option<u64>,
    /// On whose word: must be the room's anchor. Left out: the holder of the API key.
    operator_id: Option<User>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OperatorQuery {
    /// On whose word: must be the room's anchor. Left out: the holder of the API key.
    #[param(value_type = Option<User>)]
    operator_id: Option<User>,
}

fn operator(user: Option<User>) -> Operator {
    user.map_or(Operator::Admin, |user| Operator::User(user.into()))
}

impl SanctionBody {
    fn request(self, RoomUserPath(room, user): RoomUserPath) -> Result<MuteRequest> {
        if self.seconds.is_some_and(|seconds| !(1..=SANCTION_SECONDS_MAX).contains(&seconds)) {
            let detail = format!("seconds must be from 1 to {SANCTION_SECONDS_MAX}; leave it out for as long as the room lives");
            return Err(Problem::new(ProblemCode::Malformed, detail).at("seconds"));
        }
        Ok(MuteRequest { room, user, by: operator(self.operator_id), duration: self.seconds.map(Duration::from_secs) })
    }
}

/// Mutes a user in a room: may watch, may not speak.
#[utoipa::path(put, path = "/v1/rooms/{id}/mutes/{userId}", tag = "moderation", params(("id" = Room, Path), ("userId" = User, Path)),
    request_body = Option<SanctionBody>, responses((status = 204)))]
pub(crate) async fn mute(State(api): State<Api>, path: RoomUserPath, MaybeBody(body): MaybeBody<SanctionBody>) -> Result<StatusCode> {
    api.parts.handle.mute(body.request(path)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lifts a mute; none there is no error.
#[utoipa::path(delete, path = "/v1/rooms/{id}/mutes/{userId}", tag = "moderation",
    params(("id" = Room, Path), ("userId" = User, Path), OperatorQuery), responses((status = 204)))]
pub(crate) async fn unmute(State(api): State<Api>, path: RoomUserPath, Query(query): Query<OperatorQuery>) -> Result<StatusCode> {
    api.parts.handle.unmute(path.0, path.1, operator(query.operator_id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Bans a user from a room, and puts him out of it.
#[utoipa::path(put, path = "/v1/rooms/{id}/bans/{userId}", tag = "moderation", params(("id" = Room, Path), ("userId" = User, Path)),
    request_body = Option<SanctionBody>, responses((status = 204)))]
pub(crate) async fn ban(State(api): State<Api>, path: RoomUserPath, MaybeBody(body): MaybeBody<SanctionBody>) -> Result<StatusCode> {
    api.parts.handle.ban(body.request(path)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lifts a ban; none there is no error.
#[utoipa::path(delete, path = "/v1/rooms/{id}/bans/{userId}", tag = "moderation",
    params(("id" = Room, Path), ("userId" = User, Path), OperatorQuery), responses((status = 204)))]
pub(crate) async fn unban(State(api): State<Api>, path: RoomUserPath, Query(query): Query<OperatorQuery>) -> Result<StatusCode> {
    api.parts.handle.unban(path.0, path.1, operator(query.operator_id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SlowModeBody {
    /// Least time between two messages of one user; 0 ends slow mode.
    #[schema(maximum = 600)]
    seconds: u32,
    /// On whose word: must be the room's anchor. Left out: the holder of the API key.
    operator_id: Option<User>,
}

/// Sets slow mode.
#[utoipa::path(put, path = "/v1/rooms/{id}/slow-mode", tag = "moderation", params(("id" = Room, Path)), request_body = SlowModeBody,
    responses((status = 204)))]
pub(crate) async fn slow_mode(State(api): State<Api>, RoomPath(room): RoomPath, Body(body): Body<SlowModeBody>) -> Result<StatusCode> {
    let gap = Duration::from_secs(u64::from(body.seconds));
    api.parts.handle.set_slow_mode(room, operator(body.operator_id), gap).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RoomBlockWordsBody {
    /// At most 1,000, each 1 to 64 characters. An empty list ends it.
    #[schema(max_items = 1000)]
    words: Vec<String>,
    /// On whose word: must be the room's anchor. Left out: the holder of the API key.
    operator_id: Option<User>,
}

/// Replaces the words refused in one room, besides those refused everywhere.
#[utoipa::path(put, path = "/v1/rooms/{id}/block-words", tag = "moderation", params(("id" = Room, Path)),
    request_body = RoomBlockWordsBody, responses((status = 204)))]
pub(crate) async fn room_block_words(
    State(api): State<Api>,
    RoomPath(room): RoomPath,
    Body(body): Body<RoomBlockWordsBody>,
) -> Result<StatusCode> {
    api.parts.handle.set_room_block_words(room, operator(body.operator_id), body.words).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Words that chat may not contain, in any room.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct BlockWords {
    /// At most 1,000, each 1 to 64 characters.
    #[schema(max_items = 1000)]
    words: Vec<String>,
}

/// The words refused in every room.
#[utoipa::path(get, path = "/v1/block-words", tag = "moderation", responses((status = 200, body = BlockWords)))]
pub(crate) async fn block_words(State(api): State<Api>) -> Result<Json<BlockWords>> {
    Ok(Json(BlockWords { words: api.block_word_list().await? }))
}

/// Replaces the words refused in every room.
#[utoipa::path(put, path = "/v1/block-words", tag = "moderation", request_body = BlockWords, responses((status = 204)))]
pub(crate) async fn put_block_words(State(api): State<Api>, Body(body): Body<BlockWords>) -> Result<StatusCode> {
    api.parts.handle.set_block_words(body.words).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses no word any more, but those of single rooms.
#[utoipa::path(delete, path = "/v1/block-words", tag = "moderation", responses((status = 204)))]
pub(crate) async fn delete_block_words(State(api): State<Api>) -> Result<StatusCode> {
    api.parts.handle.set_block_words(Vec::new()).await?;
    Ok(StatusCode::NO_CONTENT)
}
