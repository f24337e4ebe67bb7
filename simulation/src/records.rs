//! The database: rooms, their epochs, moderation and profiles, in memory. It forgets nothing, but it may be away.

use crate::store::Line;
use async_trait::async_trait;
use billfish_router::services::ports::{
    BeginPk, Moderation, NewRoom, OpenOutcome, PkRecord, Profile, RecordError, Result, RoomKind, RoomRecord, RoomRecords, Sanction,
};
use billfish_state::{AppId, RoomId, UserId};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The one database behind all routers.
#[derive(Debug, Default)]
pub(crate) struct Database(Mutex<BTreeMap<RoomId, (RoomRecord, u64)>>);

impl Database {
    pub(crate) fn open(&self, room: i64, app: AppId, started_ms: u64) {
        let record = RoomRecord {
            room: RoomId(room),
            app,
            anchor: UserId(90_000 + room),
            kind: RoomKind::Normal,
            name: format!("room {room}"),
            cover: String::new(),
            started_ms,
        };
        self.rooms().insert(RoomId(room), (record, 0));
    }

    fn rooms(&self) -> MutexGuard<'_, BTreeMap<RoomId, (RoomRecord, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The database as one router reaches it.
pub(crate) struct Records {
    pub(crate) database: Arc<Database>,
    pub(crate) line: Arc<Line>,
}

impl Records {
    async fn call<T>(&self, what: &'static str, work: impl FnOnce(&Database) -> T) -> Result<T> {
        let away = |cause| RecordError::Away { what, cause };
        self.line.record_call(what, || work(&self.database)).await.map_err(away)
    }
}

#[async_trait]
impl RoomRecords for Records {
    async fn open_room(&self, _room: &NewRoom, _now_ms: u64) -> Result<OpenOutcome> {
        Err(RecordError::Unreadable { what: "no room is opened in a simulation".to_owned() })
    }

    async fn close_room(&self, room: RoomId, _now_ms: u64) -> Result<Option<RoomRecord>> {
        self.call("close_room", |database| database.rooms().remove(&room).map(|(record, _)| record)).await
    }

    async fn live_room(&self, room: RoomId) -> Result<Option<RoomRecord>> {
        self.call("live_room", |database| database.rooms().get(&room).map(|(record, _)| record.clone())).await
    }

    async fn live_rooms(&self, kind: RoomKind, limit: usize) -> Result<Vec<RoomRecord>> {
        let live = |database: &Database| {
            database.rooms().values().map(|(record, _)| record.clone()).filter(|record| record.kind == kind).take(limit).collect()
        };
        self.call("live_rooms", live).await
    }

    async fn raise_epoch(&self, room: RoomId) -> Result<Option<u64>> {
        let raise = |database: &Database| {
            database.rooms().get_mut(&room).map(|(_, epoch)| {
                *epoch += 1;
                *epoch
            })
        };
        self.call("raise_epoch", raise).await
    }

    async fn moderation(&self, _room: RoomId, _now_ms: u64) -> Result<Moderation> {
        self.call("moderation", |_| Moderation::default()).await
    }

    async fn put_sanction(&self, _room: RoomId, _user: UserId, _sanction: Sanction, _until_ms: u64) -> Result<()> {
        self.call("put_sanction", |_| ()).await
    }

    async fn lift_sanction(&self, _room: RoomId, _user: UserId, _sanction: Sanction) -> Result<()> {
        self.call("lift_sanction", |_| ()).await
    }

    async fn set_slow_mode(&self, _room: RoomId, _slow_mode_ms: u64) -> Result<()> {
        self.call("set_slow_mode", |_| ()).await
    }

    async fn set_room_block_words(&self, _room: RoomId, _words: &[String]) -> Result<()> {
        self.call("set_room_block_words", |_| ()).await
    }

    async fn block_words(&self) -> Result<Vec<String>> {
        self.call("block_words", |_| Vec::new()).await
    }

    async fn set_block_words(&self, _words: &[String]) -> Result<()> {
        self.call("set_block_words", |_| ()).await
    }

    async fn pk(&self, _room: RoomId) -> Result<Option<PkRecord>> {
        self.call("pk", |_| None).await
    }

    async fn begin_pk(&self, _room: RoomId, _epoch: u64, _challenger: UserId, _now_ms: u64) -> Result<BeginPk> {
        Err(RecordError::Unreadable { what: "no PK is begun in a simulation".to_owned() })
    }

    async fn end_pk(&self, _room: RoomId, _epoch: u64, _challenger: UserId, _now_ms: u64) -> Result<bool> {
        self.call("end_pk", |_| false).await
    }

    async fn profiles(&self, _app: AppId, _users: &[UserId]) -> Result<Vec<Profile>> {
        self.call("profiles", |_| Vec::new()).await
    }

    async fn put_profiles(&self, _app: AppId, _profiles: &[Profile]) -> Result<()> {
        self.call("put_profiles", |_| ()).await
    }
}
