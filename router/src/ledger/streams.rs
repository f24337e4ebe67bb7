//! Stream keys: what an anchor's encoder shows the media server, and the room that its next publishing opens.
//!
//! The key is kept as it is, not as a hash: it is 128 random bits, it lets in nothing but a video stream, and the operator who can read
//! these records can read the video as well.

use super::{Ledger, database::params};
use crate::services::ports::{RecordError, Result, RoomKind};
use billfish_state::{AppId, RoomId, UserId};

/// The stream of an anchor: a row of `t_stream`.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamRecord {
    /// Business line.
    pub app: AppId,
    /// Whose stream.
    pub anchor: UserId,
    /// The secret behind the stream's name.
    pub key: String,
    /// Kind of the room that publishing opens.
    pub kind: RoomKind,
    /// Its name.
    pub name: String,
    /// Its picture.
    pub cover: String,
    /// The media server's name for the connection that publishes; empty when none does.
    pub publisher: String,
}

impl std::fmt::Debug for StreamRecord {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("StreamRecord").field("app", &self.app).field("anchor", &self.anchor).finish_non_exhaustive()
    }
}

const PUT: &str =
    "REPLACE INTO t_stream (app_id, anchor_id, stream_key, type, room_name, cover_img, publisher) VALUES (?, ?, ?, ?, ?, ?, ?)";
const READ: &str = "SELECT stream_key, type, room_name, cover_img, publisher FROM t_stream WHERE app_id = ? AND anchor_id = ?";
const LIVE_ROOM_OF_ANCHOR: &str = "SELECT id FROM t_living_room WHERE app_id = ? AND anchor_id = ?";
const SET_PUBLISHER: &str = "UPDATE t_stream SET publisher = ? WHERE app_id = ? AND anchor_id = ?";
const END_PUBLISHER: &str = "UPDATE t_stream SET publisher = '' WHERE app_id = ? AND anchor_id = ? AND publisher = ?";

impl Ledger {
    /// Stores an anchor's stream, or replaces it: the former key is void.
    ///
    /// # Errors
    /// When the records do not answer.
    pub async fn put_stream(&self, stream: &StreamRecord) -> Result<()> {
        let StreamRecord { app, anchor, key, kind, name, cover, publisher } = stream;
        self.execute("storing a stream key", PUT, params![app.0, anchor.0, key, kind.number(), name, cover, publisher]).await.map(drop)
    }

    /// The stream of an anchor.
    ///
    /// # Errors
    /// When the records do not answer.
    pub async fn stream(&self, app: AppId, anchor: UserId) -> Result<Option<StreamRecord>> {
        let row: Option<(String, i64, String, String, String)> = self.row("reading a stream key", READ, params![app.0, anchor.0]).await?;
        row.map(|(key, kind, name, cover, publisher)| {
            let kind = RoomKind::from_number(kind)
                .ok_or_else(|| RecordError::Unreadable { what: format!("type of the stream of anchor {anchor} is {kind}") })?;
            Ok(StreamRecord { app, anchor, key, kind, name, cover, publisher })
        })
        .transpose()
    }

    /// The live room of an anchor.
    ///
    /// # Errors
    /// When the records do not answer.
    pub async fn live_room_of(&self, app: AppId, anchor: UserId) -> Result<Option<RoomId>> {
        let row: Option<(i64,)> = self.row("reading the room of an anchor", LIVE_ROOM_OF_ANCHOR, params![app.0, anchor.0]).await?;
        Ok(row.map(|(id,)| RoomId(id)))
    }

    /// This connection publishes now.
    ///
    /// # Errors
    /// When the records do not answer.
    pub async fn set_publisher(&self, app: AppId, anchor: UserId, publisher: &str) -> Result<()> {
        self.execute("storing a publisher", SET_PUBLISHER, params![publisher, app.0, anchor.0]).await.map(drop)
    }

    /// This connection publishes no more; `false` when another one has taken its place already.
    ///
    /// # Errors
    /// When the records do not answer.
    pub async fn end_publisher(&self, app: AppId, anchor: UserId, publisher: &str) -> Result<bool> {
        let ended = self.execute("ending a publisher", END_PUBLISHER, params![app.0, anchor.0, publisher]).await?;
        Ok(ended > 0)
    }
}
