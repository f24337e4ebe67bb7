//! The records of rooms, moderation and profiles: [`RoomRecords`] in SQL.
//!
//! On a server every transaction about a room begins by locking the room's row, so what belongs to it changes in one order; what is about
//! everywhere locks the settings of [`EVERYWHERE`]. Several rows of a table are written in the order of their keys.

use super::{
    Ledger,
    database::{self, Call, Param, params},
    signed,
    statements::{marks, rows_of},
    unsigned,
    webhooks::Told,
};
use crate::{
    services::ports::{
        BeginPk, Moderation, NewRoom, OpenOutcome, PkRecord, Profile, RecordError, Result, RoomKind, RoomRecord, RoomRecords, Sanction,
    },
    webhooks::event::{EventKind, NewEvent},
};
use async_trait::async_trait;
use billfish_state::{AppId, RoomId, UserId};
use sqlx::AssertSqlSafe;
use std::collections::{BTreeMap, BTreeSet};

/// `room_id` of what holds everywhere. No room has it: ids begin with 1.
const EVERYWHERE: RoomId = RoomId(0);

#[async_trait]
impl RoomRecords for Ledger {
    async fn open_room(&self, room: &NewRoom, now_ms: u64) -> Result<OpenOutcome> {
        let what = "opening a room";
        let NewRoom { app, anchor, kind, name, cover } = room.clone();
        for _ in 0..OPEN_TRIES_MAX {
            let mut call = self.write(what).await?;
            self.hooks.load(&mut call).await?;
            if self.hooks.wants(app, EventKind::RoomOpened) {
                call.finish();
                return self.open_and_tell(room, now_ms).await;
            }
            let live: Option<(i64,)> = call.row(LIVE_OF_ANCHOR, params![app.0, anchor.0]).await?;
            if let Some((id,)) = live {
                call.finish();
                return Ok(OpenOutcome::AlreadyLive(RoomId(id)));
            }
            // The unique key decides, also between two routers that both saw none.
            let made = call.insert(INSERT_ROOM, params![app.0, anchor.0, kind.number(), &name, &cover, signed(now_ms)]).await?;
            call.finish();
            if let Some(id) = made {
                return Ok(OpenOutcome::Opened(RoomRecord { room: RoomId(id), app, anchor, kind, name, cover, started_ms: now_ms }));
            }
        }
        Err(RecordError::Away { what, cause: "the anchor's rooms were opened and closed at every look".into() })
    }

    async fn close_room(&self, room: RoomId, now_ms: u64) -> Result<Option<RoomRecord>> {
        const KEEP: &str = "INSERT INTO t_living_room_record (id, app_id, anchor_id, type, room_name, cover_img, status, start_time, end_time) \
                            SELECT id, app_id, anchor_id, type, room_name, cover_img, 0, start_time, ? FROM t_living_room WHERE id = ?";
        const FORGET: [&str; 5] = [
            "DELETE FROM t_room_pk WHERE room_id = ?",
            "DELETE FROM t_room_moderation WHERE room_id = ?",
            "DELETE FROM t_room_setting WHERE room_id = ?",
            "DELETE FROM t_block_word WHERE room_id = ?",
            "DELETE FROM t_living_room WHERE id = ?",
        ];
        let so_far = if self.hooks.want(EventKind::PkEnded) { self.standing(room).await? } else { None };
        let mut call = self.transaction("closing a room").await?;
        let mut told = Told::default();
        let closed = lock_room(&mut call, room).await?;
        if let Some(record) = &closed {
            self.hooks.load(&mut call).await?;
            if self.hooks.wants(record.app, EventKind::PkEnded) {
                let ended = self.pk_of_closing(&mut call, record, so_far, now_ms).await?;
                self.hooks.write(&mut call, &mut told, ended).await?;
            }
            if self.hooks.wants(record.app, EventKind::RoomClosed) {
                self.hooks.write(&mut call, &mut told, [NewEvent::room_closed(record, now_ms)]).await?;
            }
            call.execute(KEEP, params![signed(now_ms), room.0]).await?;
            for statement in FORGET {
                call.execute(statement, params![room.0]).await?;
            }
        }
        call.commit().await?;
        self.hooks.committed(&told);
        Ok(closed)
    }

    async fn live_room(&self, room: RoomId) -> Result<Option<RoomRecord>> {
        let row: Option<RoomRow> = self.row("reading a room", LIVE_ROOM, params![room.0]).await?;
        row.map(record).transpose()
    }

    async fn live_rooms(&self, kind: RoomKind, limit: usize) -> Result<Vec<RoomRecord>> {
        const NEWEST: &str = "SELECT id, app_id, anchor_id, type, room_name, cover_img, start_time FROM t_living_room \
                              WHERE type = ? ORDER BY start_time DESC, id DESC LIMIT ?";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Vec<RoomRow> = self.rows("listing rooms", NEWEST, params![kind.number(), limit]).await?;
        rows.into_iter().map(record).collect()
    }

    async fn raise_epoch(&self, room: RoomId) -> Result<Option<u64>> {
        const RAISE: &str = "UPDATE t_living_room SET epoch = epoch + 1 WHERE id = ?";
        const READ: &str = "SELECT epoch FROM t_living_room WHERE id = ?";
        let mut call = self.transaction("raising the epoch of a room").await?;
        // Locks the row: what is read is what this call has written.
        call.execute(RAISE, params![room.0]).await?;
        let row: Option<(i64,)> = call.row(READ, params![room.0]).await?;
        call.commit().await?;
        row.map(|(epoch,)| unsigned(epoch, "epoch")).transpose()
    }

    async fn moderation(&self, room: RoomId, now_ms: u64) -> Result<Moderation> {
        // One statement, so that the three belong together.
        const MODERATION: &str = "SELECT kind, user_id, until_time, '' FROM t_room_moderation WHERE room_id = ? AND until_time > ? \
                                  UNION ALL SELECT 0, 0, slow_mode_ms, '' FROM t_room_setting WHERE room_id = ? \
                                  UNION ALL SELECT -1, 0, 0, CAST(word AS CHAR) FROM t_block_word WHERE room_id = ? \
                                  ORDER BY 1, 2";
        const SLOW_MODE: i64 = 0;
        const WORD: i64 = -1;
        let params = params![room.0, signed(now_ms), room.0, room.0];
        let rows: Vec<(i64, i64, i64, String)> = self.rows("reading the moderation of a room", MODERATION, params).await?;
        let mut moderation = Moderation::default();
        for (kind, user, number, word) in rows {
            match kind {
                WORD => moderation.block_words.push(word),
                SLOW_MODE => moderation.slow_mode_ms = unsigned(number, "slow_mode_ms")?,
                MUTE => moderation.mutes.push((UserId(user), unsigned(number, "until_time")?)),
                BAN => moderation.bans.push((UserId(user), unsigned(number, "until_time")?)),
                _ => return Err(RecordError::Unreadable { what: format!("kind of a sanction in room {room} is {kind}") }),
            }
        }
        moderation.block_words.sort_unstable();
        Ok(moderation)
    }

    async fn put_sanction(&self, room: RoomId, user: UserId, sanction: Sanction, until_ms: u64) -> Result<()> {
        const PUT: &str = "REPLACE INTO t_room_moderation (room_id, user_id, kind, until_time) VALUES (?, ?, ?, ?)";
        let mut call = self.transaction("storing a sanction").await?;
        // Nothing is left behind for a room that closed meanwhile.
        if lock_room(&mut call, room).await?.is_some() {
            call.execute(PUT, params![room.0, user.0, kind_of(sanction), signed(until_ms)]).await?;
        }
        call.commit().await
    }

    async fn lift_sanction(&self, room: RoomId, user: UserId, sanction: Sanction) -> Result<()> {
        const LIFT: &str = "DELETE FROM t_room_moderation WHERE room_id = ? AND user_id = ? AND kind = ?";
        self.execute("lifting a sanction", LIFT, params![room.0, user.0, kind_of(sanction)]).await.map(drop)
    }

    async fn set_slow_mode(&self, room: RoomId, slow_mode_ms: u64) -> Result<()> {
        let mut call = self.transaction("storing slow mode").await?;
        if lock_room(&mut call, room).await?.is_some() {
            call.execute(PUT_SETTING, params![room.0, signed(slow_mode_ms)]).await?;
        }
        call.commit().await
    }

    async fn set_room_block_words(&self, room: RoomId, words: &[String]) -> Result<()> {
        let mut call = self.transaction("storing the block-list of a room").await?;
        if lock_room(&mut call, room).await?.is_some() {
            replace_words(&mut call, room, words).await?;
        }
        call.commit().await
    }

    async fn block_words(&self) -> Result<Vec<String>> {
        const WORDS: &str = "SELECT CAST(word AS CHAR) FROM t_block_word WHERE room_id = ? ORDER BY word";
        let rows: Vec<(String,)> = self.rows("reading the block-list", WORDS, params![EVERYWHERE.0]).await?;
        Ok(rows.into_iter().map(|(word,)| word).collect())
    }

    async fn set_block_words(&self, words: &[String]) -> Result<()> {
        let mut call = self.transaction("storing the block-list").await?;
        // Locks it: of two lists that come at once one stays, and not some words of each.
        call.execute(PUT_SETTING, params![EVERYWHERE.0, 0]).await?;
        replace_words(&mut call, EVERYWHERE, words).await?;
        call.commit().await
    }

    async fn pk(&self, room: RoomId) -> Result<Option<PkRecord>> {
        self.read_pk(room).await
    }

    async fn begin_pk(&self, room: RoomId, epoch: u64, challenger: UserId, now_ms: u64) -> Result<BeginPk> {
        self.store_pk(room, epoch, challenger, now_ms).await
    }

    async fn end_pk(&self, room: RoomId, epoch: u64, challenger: UserId, now_ms: u64) -> Result<bool> {
        self.remove_pk(room, epoch, challenger, now_ms).await
    }

    async fn profiles(&self, app: AppId, users: &[UserId]) -> Result<Vec<Profile>> {
        let mut found = Vec::with_capacity(users.len());
        for chunk in users.chunks(ROWS_PER_STATEMENT) {
            let marks = marks(chunk.len());
            let select = AssertSqlSafe(format!("SELECT user_id, nick_name, avatar FROM t_user WHERE app_id = ? AND user_id IN ({marks})"));
            let mut params = vec![Param::from(app.0)];
            params.extend(chunk.iter().map(|user| Param::from(user.0)));
            let rows: Vec<(i64, String, String)> = self.rows("reading profiles", select, &params).await?;
            found.extend(rows.into_iter().map(|(user, name, avatar)| Profile { user: UserId(user), name, avatar }));
        }
        Ok(found)
    }

    async fn put_profiles(&self, app: AppId, profiles: &[Profile]) -> Result<()> {
        // In the order of their keys, whatever order they came in; of two for one user the later one stays.
        let profiles: BTreeMap<UserId, &Profile> = profiles.iter().map(|profile| (profile.user, profile)).collect();
        let profiles: Vec<&Profile> = profiles.into_values().collect();
        let mut call = self.transaction("storing profiles").await?;
        for chunk in profiles.chunks(ROWS_PER_STATEMENT) {
            let put = rows_of("REPLACE INTO t_user (app_id, user_id, nick_name, avatar) VALUES", "(?, ?, ?, ?)", chunk.len());
            let params: Vec<Param<'_>> = chunk
                .iter()
                .flat_map(|profile| [Param::from(app.0), profile.user.0.into(), (&profile.name).into(), (&profile.avatar).into()])
                .collect();
            call.execute(put, &params).await?;
        }
        call.commit().await
    }
}

impl Ledger {
    /// Opens a room where somebody is to be told of it: by one transaction.
    async fn open_and_tell(&self, room: &NewRoom, now_ms: u64) -> Result<OpenOutcome> {
        let mut call = self.transaction("opening a room").await?;
        let mut tries = 1;
        let (outcome, told) = loop {
            match self.open_in(&mut call, room, now_ms).await {
                Ok(outcome) => break outcome,
                // The unique key has decided for another opening: it is found now, or has closed.
                Err(error) if tries < OPEN_TRIES_MAX && database::is_contention(&error) => {
                    tries += 1;
                    call.begin_again().await?;
                }
                Err(error) => return Err(error),
            }
        };
        call.commit().await?;
        self.hooks.committed(&told);
        Ok(outcome)
    }

    async fn open_in(&self, call: &mut Call, room: &NewRoom, now_ms: u64) -> Result<(OpenOutcome, Told)> {
        let NewRoom { app, anchor, kind, name, cover } = room.clone();
        let mut told = Told::default();
        let live: Option<(i64,)> = call.row(LIVE_OF_ANCHOR, params![app.0, anchor.0]).await?;
        if let Some((id,)) = live {
            return Ok((OpenOutcome::AlreadyLive(RoomId(id)), told));
        }
        let made = call.claim(INSERT_ROOM, params![app.0, anchor.0, kind.number(), &name, &cover, signed(now_ms)]).await?;
        let record = RoomRecord { room: RoomId(made.id), app, anchor, kind, name, cover, started_ms: now_ms };
        self.hooks.write(call, &mut told, [NewEvent::room_opened(&record)]).await?;
        Ok((OpenOutcome::Opened(record), told))
    }
}

/// The live room of an id. On a server it stays as it is until the transaction ends; in a file everything does.
pub(super) async fn lock_room(call: &mut Call, room: RoomId) -> Result<Option<RoomRecord>> {
    let row: Option<RoomRow> =
        if call.is_on_server() { call.row(LIVE_ROOM_LOCKED, params![room.0]).await? } else { call.row(LIVE_ROOM, params![room.0]).await? };
    row.map(record).transpose()
}

async fn replace_words(call: &mut Call, room: RoomId, words: &[String]) -> Result<()> {
    const CLEAR: &str = "DELETE FROM t_block_word WHERE room_id = ?";
    call.execute(CLEAR, params![room.0]).await?;
    let words: Vec<&String> = words.iter().collect::<BTreeSet<_>>().into_iter().collect();
    for chunk in words.chunks(ROWS_PER_STATEMENT) {
        let put = rows_of("INSERT INTO t_block_word (room_id, word) VALUES", "(?, ?)", chunk.len());
        let params: Vec<Param<'_>> = chunk.iter().flat_map(|word| [Param::from(room.0), Param::from(*word)]).collect();
        call.execute(put, &params).await?;
    }
    Ok(())
}

/// How often a room is looked for and inserted. Each try beyond the first was overtaken by another opening of the same anchor.
const OPEN_TRIES_MAX: usize = 5;
/// Most rows in one statement: every database takes as many parameters.
const ROWS_PER_STATEMENT: usize = 200;

const LIVE_OF_ANCHOR: &str = "SELECT id FROM t_living_room WHERE app_id = ? AND anchor_id = ?";
const INSERT_ROOM: &str =
    "INSERT INTO t_living_room (app_id, anchor_id, type, room_name, cover_img, status, start_time) VALUES (?, ?, ?, ?, ?, 1, ?)";
const LIVE_ROOM: &str = "SELECT id, app_id, anchor_id, type, room_name, cover_img, start_time FROM t_living_room WHERE id = ?";
const LIVE_ROOM_LOCKED: &str =
    "SELECT id, app_id, anchor_id, type, room_name, cover_img, start_time FROM t_living_room WHERE id = ? FOR UPDATE";
const PUT_SETTING: &str = "REPLACE INTO t_room_setting (room_id, slow_mode_ms) VALUES (?, ?)";

/// `id, app_id, anchor_id, type, room_name, cover_img, start_time`.
type RoomRow = (i64, i32, i64, i64, String, String, i64);

fn record((id, app, anchor, kind, name, cover, started): RoomRow) -> Result<RoomRecord> {
    Ok(RoomRecord {
        room: RoomId(id),
        app: AppId(app),
        anchor: UserId(anchor),
        kind: RoomKind::from_number(kind).ok_or_else(|| RecordError::Unreadable { what: format!("type of room {id} is {kind}") })?,
        name,
        cover,
        started_ms: unsigned(started, "start_time")?,
    })
}

const MUTE: i64 = 1;
const BAN: i64 = 2;

/// The number of a sanction in `t_room_moderation`.
const fn kind_of(sanction: Sanction) -> i64 {
    match sanction {
        Sanction::Mute => MUTE,
        Sanction::Ban => BAN,
    }
}
