//! Video: the addresses in a room's answer, and the hooks that a media server calls.
//!
//! - The stream of an anchor is called `{appId}-{anchorId}`: viewers see that name in the play addresses.
//! - Its key is 128 random bits, new with every opening through the API, and stands in the push address alone. The encoder sends it to the media
//!   server, the media server hands it to the hooks: it is what the hooks go by, for a media server cannot send an API key.
//! - `on_publish` opens the anchor's room as it was last opened, if she has none; `on_publish_done` closes it. An encoder that came back before
//!   its former connection was given up keeps the room: only the connection that publishes can end it.
//!
//! Video itself stays with the media server. Keys are never logged, nor is the address of a hook, which may hold one.

use super::Api;
use crate::{
    Refusal,
    handle::{OpenRoom, Opened, RoomView},
    http::{
        api::rooms::StreamAddresses,
        input::{App, Id, Room, User, body_refused},
        problem::{Problem, ProblemCode, Result},
    },
    ledger::StreamRecord,
    services::ports::RoomRecords,
};
use axum::{
    Form, Json,
    extract::{FromRequest, Request, State, rejection::FormRejection},
};
use billfish_state::{AppId, UserId};
use billfish_wire::Reason;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use utoipa::{IntoParams, ToSchema};

/// Random bytes of a stream key.
const KEY_BYTES: usize = 16;
/// Longest name of a publishing connection that is kept: an address and a number.
const PUBLISHER_CHARS_MAX: usize = 128;

impl Api {
    /// Where viewers find the video of an anchor.
    pub(super) fn play_addresses(&self, app: AppId, anchor: UserId) -> StreamAddresses {
        let stream = stream_name(app, anchor);
        let filled = |template: &str| (!template.is_empty()).then(|| template.replace("{stream}", &stream));
        StreamAddresses { push: None, flv: filled(&self.addresses.flv), hls: filled(&self.addresses.hls) }
    }

    /// Where the anchor's encoder goes, with a new key. `None` when there is no media server, or when the key could not be stored: the room is
    /// open all the same.
    pub(super) async fn new_push_address(&self, view: &RoomView) -> Option<String> {
        if self.addresses.push.is_empty() {
            return None;
        }
        let key = new_key()?;
        let address = self.addresses.push.replace("{stream}", &stream_name(view.app, view.anchor)).replace("{key}", &key);
        let stream = StreamRecord {
            app: view.app,
            anchor: view.anchor,
            key,
            kind: view.kind,
            name: view.name.clone(),
            cover: view.cover.clone(),
            publisher: String::new(),
        };
        match self.parts.ledger.put_stream(&stream).await {
            Ok(()) => Some(address),
            Err(error) => {
                tracing::warn!(room = %view.room, error = &error as &dyn std::error::Error, "a room was opened without a stream key");
                None
            }
        }
    }

    /// The words refused everywhere.
    pub(super) async fn block_word_list(&self) -> Result<Vec<String>> {
        Ok(self.parts.ledger.block_words().await.map_err(Refusal::from)?)
    }

    /// The stream that a hook is about, if its key is right. What is unknown and what is wrong are answered alike.
    async fn known_stream(&self, call: &HookCall) -> Result<StreamRecord> {
        let refused =
            || Problem::new(ProblemCode::StreamRefused, "no stream of this name has this key; the push address of an opened room has both");
        let (app, anchor) = parse_stream_name(&call.name).ok_or_else(refused)?;
        let stream = self.parts.ledger.stream(app, anchor).await.map_err(Refusal::from)?;
        // A key is compared also where there is none, so that the time does not tell who has a stream.
        let key = stream.as_ref().map_or("00000000000000000000000000000000", |stream| stream.key.as_str());
        let right = bool::from(key.as_bytes().ct_eq(call.key.as_bytes()));
        stream.filter(|_| right).ok_or_else(refused)
    }
}

fn stream_name(app: AppId, anchor: UserId) -> String {
    format!("{app}-{anchor}")
}

fn parse_stream_name(name: &str) -> Option<(AppId, UserId)> {
    let (app, anchor) = name.split_once('-')?;
    Some((App::parse(app).ok()?.into(), User::parse(anchor).ok()?.into()))
}

fn new_key() -> Option<String> {
    let mut random = [0; KEY_BYTES];
    if let Err(error) = getrandom::fill(&mut random) {
        tracing::error!(%error, "no random numbers from the system");
        return None;
    }
    Some(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What nginx-rtmp sends: a form, as the body of a POST or behind the `?` of a GET. Everything else in it is left alone.
#[derive(Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct HookCall {
    /// Name of the stream: `{appId}-{anchorId}`.
    #[param(example = "10001-30001")]
    name: String,
    /// Key of the stream, from the arguments of the push address.
    #[serde(default)]
    key: String,
    /// Address of the encoder.
    #[serde(default)]
    addr: String,
    /// The media server's number for the encoder's connection.
    #[serde(default)]
    clientid: String,
}

impl HookCall {
    /// The connection that publishes.
    fn publisher(&self) -> String {
        format!("{} {}", self.addr, self.clientid).chars().take(PUBLISHER_CHARS_MAX).collect()
    }
}

/// A hook's form, with problems as everywhere.
pub(crate) struct Hook(HookCall);

impl<S: Send + Sync> FromRequest<S> for Hook {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        match Form::<HookCall>::from_request(request, state).await {
            Ok(Form(call)) => Ok(Self(call)),
            Err(FormRejection::InvalidFormContentType(_)) => {
                let detail = "send the form with the header `Content-Type: application/x-www-form-urlencoded`";
                Err(Problem::new(ProblemCode::NotJson, detail).at("Content-Type"))
            }
            Err(FormRejection::BytesRejection(rejection)) => Err(body_refused(rejection)),
            Err(rejection) => Err(Problem::new(ProblemCode::Malformed, rejection.body_text())),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HookAnswer {
    /// The room it is about; left out when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<Room>,
}

/// An encoder begins to publish: opens the anchor's room if she has none. Any other answer than 200 makes the media server refuse it.
///
/// Wants no API key: the stream's own key is checked.
#[utoipa::path(post, path = "/v1/streams/on_publish", tag = "streams",
    request_body(content = HookCall, content_type = "application/x-www-form-urlencoded"), responses((status = 200, body = HookAnswer)))]
pub(crate) async fn on_publish(State(api): State<Api>, Hook(call): Hook) -> Result<Json<HookAnswer>> {
    let stream = api.known_stream(&call).await?;
    let (app, anchor) = (stream.app, stream.anchor);
    let request = OpenRoom { app, anchor, kind: stream.kind, name: stream.name, cover: stream.cover };
    let room = match api.parts.handle.open_room(request).await? {
        Opened::New(view) => view.room,
        Opened::AlreadyLive(room) => room,
    };
    api.parts.ledger.set_publisher(app, anchor, &call.publisher()).await.map_err(Refusal::from)?;
    Ok(Json(HookAnswer { room_id: Some(room.into()) }))
}

/// An encoder has stopped: closes the anchor's room, unless another connection of hers publishes by now.
///
/// Wants no API key: the stream's own key is checked.
#[utoipa::path(post, path = "/v1/streams/on_publish_done", tag = "streams",
    request_body(content = HookCall, content_type = "application/x-www-form-urlencoded"), responses((status = 200, body = HookAnswer)))]
pub(crate) async fn on_publish_done(State(api): State<Api>, Hook(call): Hook) -> Result<Json<HookAnswer>> {
    let stream = api.known_stream(&call).await?;
    let (app, anchor) = (stream.app, stream.anchor);
    if !api.parts.ledger.end_publisher(app, anchor, &call.publisher()).await.map_err(Refusal::from)? {
        return Ok(Json(HookAnswer { room_id: None }));
    }
    let Some(room) = api.parts.ledger.live_room_of(app, anchor).await.map_err(Refusal::from)? else {
        return Ok(Json(HookAnswer { room_id: None }));
    };
    match api.parts.handle.close_room(room, anchor).await {
        Ok(()) => {}
        // Somebody closed it meanwhile.
        Err(refusal) if refusal.reason == Reason::RoomNotFound => {}
        Err(refusal) => return Err(refusal.into()),
    }
    Ok(Json(HookAnswer { room_id: Some(room.into()) }))
}

/// As the POST, for a media server with `notify_method get`.
#[utoipa::path(get, path = "/v1/streams/on_publish", tag = "streams", params(HookCall), responses((status = 200, body = HookAnswer)))]
pub(crate) async fn on_publish_get(api: State<Api>, hook: Hook) -> Result<Json<HookAnswer>> {
    on_publish(api, hook).await
}

/// As the POST, for a media server with `notify_method get`.
#[utoipa::path(get, path = "/v1/streams/on_publish_done", tag = "streams", params(HookCall), responses((status = 200, body = HookAnswer)))]
pub(crate) async fn on_publish_done_get(api: State<Api>, hook: Hook) -> Result<Json<HookAnswer>> {
    on_publish_done(api, hook).await
}

#[cfg(test)]
mod tests {
    use super::{new_key, parse_stream_name, stream_name};
    use billfish_state::{AppId, UserId};

    #[test]
    fn a_stream_name_leads_back_to_its_anchor_and_nothing_else_does() {
        let name = stream_name(AppId(10_001), UserId(30_001));
        assert_eq!(parse_stream_name(&name), Some((AppId(10_001), UserId(30_001))));
        for bad in ["", "-", "10001", "10001-", "-30001", "10001-30001-1", "10001-030001", "1-30001", "10001-30001/../x"] {
            assert_eq!(parse_stream_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn keys_are_long_and_never_the_same() {
        let (first, second) = (new_key().unwrap(), new_key().unwrap());
        assert_eq!(first.len(), 32);
        assert_ne!(first, second);
    }
}
