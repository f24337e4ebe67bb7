//! Stream keys: what an anchor's encoder shows the media server, and the room that its next publishing opens.
//!
//! The key is kept as it is, not as a hash: it is 128 random bits, it lets in nothing but a video stream, and the operator who can read this
//! file can read the video as well.

use super::{Ledger, away};
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
    /// When the file does not answer.
    pub async fn put_stream(&self, stream: &StreamRecord) -> Result<()> {
        sqlx::query(PUT)
            .bind(stream.app.0)
            .bind(stream.anchor.0)
            .bind(&stream.key)
            .bind(stream.kind.number())
            .bind(&stream.name)
            .bind(&stream.cover)
            .bind(&stream.publisher)
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(away("storing a stream key"))
    }

    /// The stream of an anchor.
    ///
    /// # Errors
    /// When the file does not answer.
    pub async fn stream(&self, app: AppId, anchor: UserId) -> Result<Option<StreamRecord>> {
        let row: Option<(String, i64, String, String, String)> =
            sqlx::query_as(READ).bind(app.0).bind(anchor.0).fetch_optional(&self.readers).await.map_err(away("reading a stream key"))?;
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
    /// When the file does not answer.
    pub async fn live_room_of(&self, app: AppId, anchor: UserId) -> Result<Option<RoomId>> {
        let row: Option<(i64,)> = sqlx::query_as(LIVE_ROOM_OF_ANCHOR)
            .bind(app.0)
            .bind(anchor.0)
            .fetch_optional(&self.readers)
            .await
            .map_err(away("reading the room of an anchor"))?;
        Ok(row.map(|(id,)| RoomId(id)))
    }

    /// This connection publishes now.
    ///
    /// # Errors
    /// When the file does not answer.
    pub async fn set_publisher(&self, app: AppId, anchor: UserId, publisher: &str) -> Result<()> {
        sqlx::query(SET_PUBLISHER)
            .bind(publisher)
            .bind(app.0)
            .bind(anchor.0)
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(away("storing a publisher"))
    }

    /// This connection publishes no more; `false` when another one has taken its place already.
    ///
    /// # Errors
    /// When the file does not answer.
    pub async fn end_publisher(&self, app: AppId, anchor: UserId, publisher: &str) -> Result<bool> {
        let done = sqlx::query(END_PUBLISHER)
            .bind(app.0)
            .bind(anchor.0)
            .bind(publisher)
            .execute(&self.writer)
            .await
            .map_err(away("ending a publisher"))?;
        Ok(done.rows_affected() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LedgerConfig, Sharing};
    use super::{Ledger, StreamRecord};
    use crate::services::ports::RoomKind;
    use billfish_state::{AppId, UserId};

    fn stream(key: &str) -> StreamRecord {
        StreamRecord {
            app: AppId(10_001),
            anchor: UserId(30_001),
            key: key.to_owned(),
            kind: RoomKind::Pk,
            name: "Ann sings".to_owned(),
            cover: String::new(),
            publisher: String::new(),
        }
    }

    #[tokio::test]
    async fn a_stream_key_is_replaced_and_never_printed() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&LedgerConfig::default(), directory.path(), Sharing::Exclusive).await.unwrap();
        let (app, anchor) = (AppId(10_001), UserId(30_001));
        assert_eq!(ledger.stream(app, anchor).await.unwrap(), None);
        ledger.put_stream(&stream("first-key")).await.unwrap();
        ledger.put_stream(&stream("second-key")).await.unwrap();
        let found = ledger.stream(app, anchor).await.unwrap().unwrap();
        assert_eq!(found, stream("second-key"));
        assert!(!format!("{found:?}").contains("second-key"));
        assert_eq!(ledger.stream(AppId(10_002), anchor).await.unwrap(), None);
    }

    #[tokio::test]
    async fn only_the_connection_that_publishes_can_end_it() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&LedgerConfig::default(), directory.path(), Sharing::Exclusive).await.unwrap();
        let (app, anchor) = (AppId(10_001), UserId(30_001));
        ledger.put_stream(&stream("key")).await.unwrap();
        ledger.set_publisher(app, anchor, "10.0.0.1 1").await.unwrap();
        ledger.set_publisher(app, anchor, "10.0.0.1 2").await.unwrap();
        assert!(!ledger.end_publisher(app, anchor, "10.0.0.1 1").await.unwrap());
        assert!(ledger.end_publisher(app, anchor, "10.0.0.1 2").await.unwrap());
        assert!(!ledger.end_publisher(app, anchor, "10.0.0.1 2").await.unwrap());
    }
}
