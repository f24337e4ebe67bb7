//! Rooms: open, list, look, close, members.

use super::Api;
use crate::{
    handle::{ListRooms, OpenRoom, Opened, RoomView},
    http::{
        input::{App, Body, MaybeBody, Query, Room, RoomPath, User},
        problem::{Problem, ProblemCode, Result},
    },
    services::ports::RoomKind,
};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Status of a room that is live. No other is ever answered: a closed room is a 404.
const LIVE: u8 = 1;
/// Rooms in a list unless asked otherwise: a screen or two.
const PAGE_SIZE_DEFAULT: u32 = 20;
/// Members in a page unless asked otherwise.
const MEMBERS_LIMIT_DEFAULT: usize = 100;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OpenRoomBody {
    #[serde(default)]
    #[schema(default = 10001)]
    app_id: App,
    anchor_id: User,
    /// 1 normal, 2 PK.
    #[serde(rename = "type")]
    #[schema(minimum = 1, maximum = 2)]
    kind: u8,
    /// At most 64 characters.
    #[serde(default)]
    room_name: String,
    /// URL of a picture, at most 512 bytes.
    #[serde(default)]
    cover_img: String,
    /// Makes the call safe to repeat, as the header `Idempotency-Key` does.
    #[expect(dead_code, reason = "read by the layer that answers repeats")]
    uuid: Option<String>,
}

/// A live room.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RoomAnswer {
    room_id: Room,
    app_id: App,
    anchor_id: User,
    /// 1 normal, 2 PK.
    #[serde(rename = "type")]
    #[schema(minimum = 1, maximum = 2)]
    kind: u8,
    room_name: String,
    cover_img: String,
    /// 1: live.
    #[schema(example = 1)]
    status: u8,
    /// Unix ms.
    #[schema(example = 1800000000000_u64)]
    start_time: u64,
    /// Distinct users in it; in lists a second old at most.
    audience: u64,
    stream: StreamAddresses,
}

/// Where the video goes in and comes out, at the media server.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StreamAddresses {
    /// RTMP, for the anchor's encoder. Holds the stream key, and is told in the answer to the opening alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) push: Option<String>,
    /// HTTP-FLV, for viewers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) flv: Option<String>,
    /// HLS, for viewers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hls: Option<String>,
}

impl Api {
    fn room_answer(&self, view: RoomView) -> RoomAnswer {
        RoomAnswer {
            room_id: view.room.into(),
            app_id: view.app.into(),
            anchor_id: view.anchor.into(),
            kind: view.kind as u8,
            room_name: view.name,
            cover_img: view.cover,
            status: LIVE,
            start_time: view.started_ms,
            audience: view.audience,
            stream: self.play_addresses(view.app, view.anchor),
        }
    }
}

/// Opens a room. An anchor has one live room: a second one is refused with `already-live` and the room's id.
///
/// The answer alone tells `stream.push`, with a new stream key; the former key of the anchor is void.
#[utoipa::path(post, path = "/v1/rooms", tag = "rooms", request_body = OpenRoomBody,
    responses((status = 201, body = RoomAnswer, headers(("location" = String, description = "The room's address")))))]
pub(crate) async fn open_room(State(api): State<Api>, Body(body): Body<OpenRoomBody>) -> Result<Response> {
    let request = OpenRoom {
        app: body.app_id.into(),
        anchor: body.anchor_id.into(),
        kind: kind(body.kind)?,
        name: body.room_name,
        cover: body.cover_img,
    };
    match api.parts.handle.open_room(request).await? {
        Opened::New(view) => {
            let push = api.new_push_address(&view).await;
            let mut answer = api.room_answer(view);
            answer.stream.push = push;
            let location = format!("/v1/rooms/{}", answer.room_id.0);
            Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(answer)).into_response())
        }
        Opened::AlreadyLive(room) => Err(Problem::already_live(room.0)),
    }
}

fn kind(number: u8) -> Result<RoomKind> {
    RoomKind::from_number(i64::from(number))
        .ok_or_else(|| Problem::new(ProblemCode::Malformed, "type must be 1 (normal) or 2 (PK)").at("type"))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ListQuery {
    #[serde(default)]
    #[param(value_type = Option<App>, default = 10001)]
    app_id: App,
    /// 1 normal, 2 PK.
    #[serde(rename = "type")]
    #[param(minimum = 1, maximum = 2, default = 1)]
    kind: Option<u8>,
    #[param(minimum = 1, default = 1)]
    page: Option<u32>,
    #[param(minimum = 1, maximum = 100, default = 20)]
    page_size: Option<u32>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RoomList {
    /// Newest first.
    rooms: Vec<RoomAnswer>,
    page: u32,
    page_size: u32,
    /// The next page has at least one room.
    has_next: bool,
}

/// Live rooms of a type, newest first, at most 1,000 in all. A second old at most.
#[utoipa::path(get, path = "/v1/rooms", tag = "rooms", params(ListQuery), responses((status = 200, body = RoomList)))]
pub(crate) async fn list_rooms(State(api): State<Api>, Query(query): Query<ListQuery>) -> Result<Json<RoomList>> {
    let (page, page_size) = (query.page.unwrap_or(1), query.page_size.unwrap_or(PAGE_SIZE_DEFAULT));
    let request = ListRooms { app: query.app_id.into(), kind: kind(query.kind.unwrap_or(1))?, page, page_size };
    if page == 0 {
        return Err(Problem::new(ProblemCode::Malformed, "page must be at least 1").at("page"));
    }
    if !(1..=100).contains(&page_size) {
        return Err(Problem::new(ProblemCode::Malformed, "pageSize must be from 1 to 100").at("pageSize"));
    }
    let found = api.parts.handle.list_rooms(request).await?;
    let rooms = found.rooms.into_iter().map(|view| api.room_answer(view)).collect();
    Ok(Json(RoomList { rooms, page, page_size, has_next: found.has_next }))
}

/// One live room.
#[utoipa::path(get, path = "/v1/rooms/{id}", tag = "rooms", params(("id" = Room, Path)), responses((status = 200, body = RoomAnswer)))]
pub(crate) async fn room(State(api): State<Api>, RoomPath(room): RoomPath) -> Result<Json<RoomAnswer>> {
    let view = api.parts.handle.room(room).await?;
    Ok(Json(api.room_answer(view)))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct CloseBody {
    /// Who closes it: only its anchor may. Left out: the holder of the API key does, in the anchor's name.
    anchor_id: Option<User>,
    /// Makes the call safe to repeat, as the header `Idempotency-Key` does.
    uuid: Option<String>,
}

/// Closes a room: its members get a notice and leave.
#[utoipa::path(post, path = "/v1/rooms/{id}/close", tag = "rooms", params(("id" = Room, Path)), request_body = Option<CloseBody>,
    responses((status = 204)))]
pub(crate) async fn close_room(
    State(api): State<Api>,
    RoomPath(room): RoomPath,
    MaybeBody(body): MaybeBody<CloseBody>,
) -> Result<StatusCode> {
    let anchor = match body.anchor_id {
        Some(anchor) => anchor.into(),
        None => api.parts.handle.room(room).await?.anchor,
    };
    api.parts.handle.close_room(room, anchor).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MembersQuery {
    /// From the page before; left out: from the start.
    cursor: Option<u64>,
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MembersAnswer {
    /// In no particular order; who stays throughout a scan appears at least once.
    user_ids: Vec<User>,
    /// Pass it for the next page; left out when there is none. A text: it may be above 2^53.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    /// Distinct users in the room.
    audience: u64,
}

/// Members of a room, by pages.
#[utoipa::path(get, path = "/v1/rooms/{id}/members", tag = "rooms", params(("id" = Room, Path), MembersQuery),
    responses((status = 200, body = MembersAnswer)))]
pub(crate) async fn members(
    State(api): State<Api>,
    RoomPath(room): RoomPath,
    Query(query): Query<MembersQuery>,
) -> Result<Json<MembersAnswer>> {
    let limit = query.limit.unwrap_or(MEMBERS_LIMIT_DEFAULT);
    if !(1..=1_000).contains(&limit) {
        return Err(Problem::new(ProblemCode::Malformed, "limit must be from 1 to 1000").at("limit"));
    }
    let page = api.parts.handle.members(room, query.cursor.unwrap_or(0), limit).await?;
    Ok(Json(MembersAnswer {
        user_ids: page.users.into_iter().map(User::from).collect(),
        cursor: (page.cursor != 0).then(|| page.cursor.to_string()),
        audience: page.audience,
    }))
}
