//! The records of rooms, moderation and profiles: [`RoomRecords`] in SQL.

use super::{Ledger, away, signed, unsigned};
use crate::services::ports::{Moderation, NewRoom, OpenOutcome, Profile, RecordError, Result, RoomKind, RoomRecord, RoomRecords, Sanction};
use async_trait::async_trait;
use billfish_state::{AppId, RoomId, UserId};
use sqlx::{QueryBuilder, Sqlite, Transaction};
use std::collections::BTreeSet;

/// Takes the write lock when the transaction begins, so that no statement in it finds the file changed since the first.
const BEGIN: &str = "BEGIN IMMEDIATE";
/// `room_id` of the words that are refused everywhere. No room has it: ids begin with 1.
const EVERYWHERE: RoomId = RoomId(0);

#[async_trait]
impl RoomRecords for Ledger {
    async fn open_room(&self, room: &NewRoom, now_ms: u64) -> Result<OpenOutcome> {
        const LIVE_OF_ANCHOR: &str = "SELECT id FROM t_living_room WHERE app_id = ? AND anchor_id = ?";
        const INSERT: &str =
            "INSERT INTO t_living_room (app_id, anchor_id, type, room_name, cover_img, status, start_time) VALUES (?, ?, ?, ?, ?, 1, ?)";
        let what = "opening a room";
        let mut transaction = self.begin(what).await?;
        let live: Option<(i64,)> = sqlx::query_as(LIVE_OF_ANCHOR)
            .bind(room.app.0)
            .bind(room.anchor.0)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(away(what))?;
        if let Some((id,)) = live {
            return Ok(OpenOutcome::AlreadyLive(RoomId(id)));
        }
        let inserted = sqlx::query(INSERT)
            .bind(room.app.0)
            .bind(room.anchor.0)
            .bind(room.kind.number())
            .bind(&room.name)
            .bind(&room.cover)
            .bind(signed(now_ms))
            .execute(&mut *transaction)
            .await
            .map_err(away(what))?;
        transaction.commit().await.map_err(away(what))?;
        Ok(OpenOutcome::Opened(RoomRecord {
            room: RoomId(inserted.last_insert_rowid()),
            app: room.app,
            anchor: room.anchor,
            kind: room.kind,
            name: room.name.clone(),
            cover: room.cover.clone(),
            started_ms: now_ms,
        }))
    }

    async fn close_room(&self, room: RoomId, now_ms: u64) -> Result<Option<RoomRecord>> {
        const KEEP: &str = "INSERT INTO t_living_room_record (id, app_id, anchor_id, type, room_name, cover_img, status, start_time, end_time) \
                            SELECT id, app_id, anchor_id, type, room_name, cover_img, 0, start_time, ? FROM t_living_room WHERE id = ?";
        const FORGET: [&str; 4] = [
            "DELETE FROM t_living_room WHERE id = ?",
            "DELETE FROM t_room_moderation WHERE room_id = ?",
            "DELETE FROM t_room_setting WHERE room_id = ?",
            "DELETE FROM t_block_word WHERE room_id = ?",
        ];
        let what = "closing a room";
        let mut transaction = self.begin(what).await?;
        let row: Option<RoomRow> = sqlx::query_as(LIVE_ROOM).bind(room.0).fetch_optional(&mut *transaction).await.map_err(away(what))?;
        let Some(row) = row else { return Ok(None) };
        let closed = record(row)?;
        sqlx::query(KEEP).bind(signed(now_ms)).bind(room.0).execute(&mut *transaction).await.map_err(away(what))?;
        for statement in FORGET {
            sqlx::query(statement).bind(room.0).execute(&mut *transaction).await.map_err(away(what))?;
        }
        transaction.commit().await.map_err(away(what))?;
        Ok(Some(closed))
    }

    async fn live_room(&self, room: RoomId) -> Result<Option<RoomRecord>> {
        let row: Option<RoomRow> =
            sqlx::query_as(LIVE_ROOM).bind(room.0).fetch_optional(&self.readers).await.map_err(away("reading a room"))?;
        row.map(record).transpose()
    }

    async fn live_rooms(&self, kind: RoomKind, limit: usize) -> Result<Vec<RoomRecord>> {
        const NEWEST: &str = "SELECT id, app_id, anchor_id, type, room_name, cover_img, start_time FROM t_living_room \
                              WHERE type = ? ORDER BY start_time DESC, id DESC LIMIT ?";
        let rows: Vec<RoomRow> = sqlx::query_as(NEWEST)
            .bind(kind.number())
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&self.readers)
            .await
            .map_err(away("listing rooms"))?;
        rows.into_iter().map(record).collect()
    }

    async fn raise_epoch(&self, room: RoomId) -> Result<Option<u64>> {
        const RAISE: &str = "UPDATE t_living_room SET epoch = epoch + 1 WHERE id = ?";
        const READ: &str = "SELECT epoch FROM t_living_room WHERE id = ?";
        let what = "raising the epoch of a room";
        let mut transaction = self.begin(what).await?;
        sqlx::query(RAISE).bind(room.0).execute(&mut *transaction).await.map_err(away(what))?;
        let row: Option<(i64,)> = sqlx::query_as(READ).bind(room.0).fetch_optional(&mut *transaction).await.map_err(away(what))?;
        transaction.commit().await.map_err(away(what))?;
        row.map(|(epoch,)| unsigned(epoch, "epoch")).transpose()
    }

    async fn moderation(&self, room: RoomId, now_ms: u64) -> Result<Moderation> {
        const SANCTIONS: &str = "SELECT user_id, kind, until_time FROM t_room_moderation WHERE room_id = ? AND until_time > ?";
        const SLOW_MODE: &str = "SELECT slow_mode_ms FROM t_room_setting WHERE room_id = ?";
        let what = "reading the moderation of a room";
        // One transaction, so that the three belong together.
        let mut transaction = self.readers.begin().await.map_err(away(what))?;
        let rows: Vec<(i64, i64, i64)> =
            sqlx::query_as(SANCTIONS).bind(room.0).bind(signed(now_ms)).fetch_all(&mut *transaction).await.map_err(away(what))?;
        let slow: Option<(i64,)> = sqlx::query_as(SLOW_MODE).bind(room.0).fetch_optional(&mut *transaction).await.map_err(away(what))?;
        let words: Vec<(String,)> = sqlx::query_as(WORDS).bind(room.0).fetch_all(&mut *transaction).await.map_err(away(what))?;
        transaction.commit().await.map_err(away(what))?;

        let mut moderation = Moderation { block_words: words.into_iter().map(|(word,)| word).collect(), ..Moderation::default() };
        if let Some((slow_mode_ms,)) = slow {
            moderation.slow_mode_ms = unsigned(slow_mode_ms, "slow_mode_ms")?;
        }
        for (user, kind, until) in rows {
            let entry = (UserId(user), unsigned(until, "until_time")?);
            match kind {
                MUTE => moderation.mutes.push(entry),
                BAN => moderation.bans.push(entry),
                _ => return Err(RecordError::Unreadable { what: format!("kind of a sanction in room {room} is {kind}") }),
            }
        }
        Ok(moderation)
    }

    async fn put_sanction(&self, room: RoomId, user: UserId, sanction: Sanction, until_ms: u64) -> Result<()> {
        // Reads the room on the way: nothing is left behind for one that closed meanwhile.
        const PUT: &str =
            "REPLACE INTO t_room_moderation (room_id, user_id, kind, until_time) SELECT id, ?, ?, ? FROM t_living_room WHERE id = ?";
        sqlx::query(PUT)
            .bind(user.0)
            .bind(kind_of(sanction))
            .bind(signed(until_ms))
            .bind(room.0)
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(away("storing a sanction"))
    }

    async fn lift_sanction(&self, room: RoomId, user: UserId, sanction: Sanction) -> Result<()> {
        const LIFT: &str = "DELETE FROM t_room_moderation WHERE room_id = ? AND user_id = ? AND kind = ?";
        sqlx::query(LIFT)
            .bind(room.0)
            .bind(user.0)
            .bind(kind_of(sanction))
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(away("lifting a sanction"))
    }

    async fn set_slow_mode(&self, room: RoomId, slow_mode_ms: u64) -> Result<()> {
        const PUT: &str = "REPLACE INTO t_room_setting (room_id, slow_mode_ms) SELECT id, ? FROM t_living_room WHERE id = ?";
        sqlx::query(PUT).bind(signed(slow_mode_ms)).bind(room.0).execute(&self.writer).await.map(drop).map_err(away("storing slow mode"))
    }

    async fn set_room_block_words(&self, room: RoomId, words: &[String]) -> Result<()> {
        let what = "storing the block-list of a room";
        let mut transaction = self.begin(what).await?;
        let live: Option<RoomRow> = sqlx::query_as(LIVE_ROOM).bind(room.0).fetch_optional(&mut *transaction).await.map_err(away(what))?;
        if live.is_some() {
            replace_words(&mut transaction, room, words).await.map_err(away(what))?;
        }
        transaction.commit().await.map_err(away(what))
    }

    async fn block_words(&self) -> Result<Vec<String>> {
        let rows: Vec<(String,)> =
            sqlx::query_as(WORDS).bind(EVERYWHERE.0).fetch_all(&self.readers).await.map_err(away("reading the block-list"))?;
        Ok(rows.into_iter().map(|(word,)| word).collect())
    }

    async fn set_block_words(&self, words: &[String]) -> Result<()> {
        let what = "storing the block-list";
        let mut transaction = self.begin(what).await?;
        replace_words(&mut transaction, EVERYWHERE, words).await.map_err(away(what))?;
        transaction.commit().await.map_err(away(what))
    }

    async fn profiles(&self, app: AppId, users: &[UserId]) -> Result<Vec<Profile>> {
        let mut found = Vec::with_capacity(users.len());
        for chunk in users.chunks(PROFILES_PER_STATEMENT) {
            let mut query = QueryBuilder::<Sqlite>::new("SELECT user_id, nick_name, avatar FROM t_user WHERE app_id = ");
            query.push_bind(app.0).push(" AND user_id IN (");
            let mut ids = query.separated(", ");
            for user in chunk {
                ids.push_bind(user.0);
            }
            query.push(")");
            let rows: Vec<(i64, String, String)> =
                query.build_query_as().fetch_all(&self.readers).await.map_err(away("reading profiles"))?;
            found.extend(rows.into_iter().map(|(user, name, avatar)| Profile { user: UserId(user), name, avatar }));
        }
        Ok(found)
    }

    async fn put_profiles(&self, app: AppId, profiles: &[Profile]) -> Result<()> {
        const PUT: &str = "REPLACE INTO t_user (app_id, user_id, nick_name, avatar) VALUES (?, ?, ?, ?)";
        let what = "storing profiles";
        let mut transaction = self.begin(what).await?;
        for profile in profiles {
            sqlx::query(PUT)
                .bind(app.0)
                .bind(profile.user.0)
                .bind(&profile.name)
                .bind(&profile.avatar)
                .execute(&mut *transaction)
                .await
                .map_err(away(what))?;
        }
        transaction.commit().await.map_err(away(what))
    }
}

impl Ledger {
    async fn begin(&self, what: &'static str) -> Result<Transaction<'static, Sqlite>> {
        self.writer.begin_with(BEGIN).await.map_err(away(what))
    }
}

async fn replace_words(
    transaction: &mut Transaction<'static, Sqlite>,
    room: RoomId,
    words: &[String],
) -> std::result::Result<(), sqlx::Error> {
    const CLEAR: &str = "DELETE FROM t_block_word WHERE room_id = ?";
    const PUT: &str = "INSERT INTO t_block_word (room_id, word) VALUES (?, ?)";
    sqlx::query(CLEAR).bind(room.0).execute(&mut **transaction).await?;
    for word in words.iter().collect::<BTreeSet<_>>() {
        sqlx::query(PUT).bind(room.0).bind(word).execute(&mut **transaction).await?;
    }
    Ok(())
}

/// Most users asked for in one statement: every database takes as many parameters.
const PROFILES_PER_STATEMENT: usize = 500;

const LIVE_ROOM: &str = "SELECT id, app_id, anchor_id, type, room_name, cover_img, start_time FROM t_living_room WHERE id = ?";
const WORDS: &str = "SELECT word FROM t_block_word WHERE room_id = ? ORDER BY word";

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

#[cfg(test)]
mod tests {
    use super::super::{LedgerConfig, Sharing};
    use super::{Ledger, NewRoom, OpenOutcome, Profile, RoomKind, RoomRecord, RoomRecords, Sanction};
    use billfish_state::{AppId, RoomId, UserId};
    use sqlx::Executor;
    use tempfile::TempDir;

    const APP: AppId = AppId(10_001);
    const NOW: u64 = 1_800_000_000_000;

    #[tokio::test]
    async fn a_room_that_was_confirmed_is_there_after_a_restart_and_its_id_is_not_used_again() {
        let (directory, ledger) = fresh().await;
        let first = open(&ledger, 30_001, NOW).await;
        let second = open(&ledger, 30_002, NOW).await;
        assert_eq!(ledger.close_room(second.room, NOW + 5).await.unwrap(), Some(second.clone()));
        ledger.close().await;
        drop(ledger);

        let ledger = Ledger::open(&LedgerConfig::default(), directory.path(), Sharing::Exclusive).await.unwrap();
        assert_eq!(ledger.live_room(first.room).await.unwrap(), Some(first));
        assert_eq!(ledger.live_room(second.room).await.unwrap(), None);
        assert!(open(&ledger, 30_003, NOW).await.room > second.room);
    }

    #[tokio::test]
    async fn an_anchor_has_one_live_room_in_an_app() {
        let (_directory, ledger) = fresh().await;
        let room = open(&ledger, 30_001, NOW).await;
        assert_eq!(ledger.open_room(&new_room(30_001), NOW).await.unwrap(), OpenOutcome::AlreadyLive(room.room));
        let elsewhere = NewRoom { app: AppId(10_002), ..new_room(30_001) };
        assert!(matches!(ledger.open_room(&elsewhere, NOW).await.unwrap(), OpenOutcome::Opened(_)));
        ledger.close_room(room.room, NOW).await.unwrap();
        assert!(open(&ledger, 30_001, NOW).await.room > room.room);
    }

    #[tokio::test]
    async fn of_fifty_openings_at_once_one_wins() {
        let (_directory, ledger) = fresh().await;
        let attempts: Vec<_> = (0..50)
            .map(|_| {
                let ledger = ledger.clone();
                tokio::spawn(async move { ledger.open_room(&new_room(30_001), NOW).await.unwrap() })
            })
            .collect();
        let (mut opened, mut refused) = (Vec::new(), Vec::new());
        for attempt in attempts {
            match attempt.await.unwrap() {
                OpenOutcome::Opened(room) => opened.push(room.room),
                OpenOutcome::AlreadyLive(room) => refused.push(room),
            }
        }
        assert_eq!((opened.len(), refused.len()), (1, 49));
        assert!(refused.iter().all(|room| *room == opened[0]));
    }

    #[tokio::test]
    async fn a_closed_room_moves_to_the_records_with_its_end_and_takes_its_moderation_along() {
        let (_directory, ledger) = fresh().await;
        let room = open(&ledger, 30_001, NOW).await.room;
        ledger.put_sanction(room, UserId(20_001), Sanction::Ban, NOW + 1_000).await.unwrap();
        ledger.set_slow_mode(room, 3_000).await.unwrap();
        ledger.set_room_block_words(room, &["spoiler".to_owned()]).await.unwrap();
        assert!(ledger.close_room(room, NOW + 60_000).await.unwrap().is_some());
        assert_eq!(ledger.close_room(room, NOW + 61_000).await.unwrap(), None);

        let kept: Vec<(i64, i64, i64, i64, i64)> =
            sqlx::query_as("SELECT id, anchor_id, status, start_time, end_time FROM t_living_room_record")
                .fetch_all(&ledger.readers)
                .await
                .unwrap();
        assert_eq!(kept, [(room.0, 30_001, 0, NOW as i64, NOW as i64 + 60_000)]);
        for table in ["t_living_room", "t_room_moderation", "t_room_setting", "t_block_word"] {
            assert_eq!(count(&ledger, table).await, 0, "{table}");
        }
        // A mute that comes too late leaves nothing behind.
        ledger.put_sanction(room, UserId(20_001), Sanction::Mute, NOW + 70_000).await.unwrap();
        ledger.set_slow_mode(room, 1_000).await.unwrap();
        ledger.set_room_block_words(room, &["late".to_owned()]).await.unwrap();
        for table in ["t_room_moderation", "t_room_setting", "t_block_word"] {
            assert_eq!(count(&ledger, table).await, 0, "{table}");
        }
    }

    #[tokio::test]
    async fn a_closing_that_fails_half_way_changes_nothing() {
        let (_directory, ledger) = fresh().await;
        let room = open(&ledger, 30_001, NOW).await;
        ledger.set_slow_mode(room.room, 3_000).await.unwrap();
        ledger
            .writer
            .execute("CREATE TRIGGER disk_full BEFORE DELETE ON t_room_setting BEGIN SELECT RAISE(ABORT, 'disk full'); END")
            .await
            .unwrap();
        assert!(ledger.close_room(room.room, NOW + 1).await.is_err());
        assert_eq!(ledger.live_room(room.room).await.unwrap(), Some(room.clone()));
        assert_eq!(count(&ledger, "t_living_room_record").await, 0);
        ledger.writer.execute("DROP TRIGGER disk_full").await.unwrap();
        assert!(ledger.close_room(room.room, NOW + 2).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn the_list_is_of_one_kind_newest_first_and_bounded() {
        let (_directory, ledger) = fresh().await;
        for (anchor, started) in [(30_001, NOW), (30_002, NOW + 2), (30_003, NOW + 2), (30_004, NOW + 1)] {
            open(&ledger, anchor, started).await;
        }
        let pk = NewRoom { kind: RoomKind::Pk, ..new_room(30_005) };
        ledger.open_room(&pk, NOW + 9).await.unwrap();
        let anchors = |rooms: Vec<RoomRecord>| rooms.into_iter().map(|room| room.anchor.0).collect::<Vec<_>>();
        assert_eq!(anchors(ledger.live_rooms(RoomKind::Normal, 10).await.unwrap()), [30_003, 30_002, 30_004, 30_001]);
        assert_eq!(anchors(ledger.live_rooms(RoomKind::Normal, 2).await.unwrap()), [30_003, 30_002]);
        assert_eq!(anchors(ledger.live_rooms(RoomKind::Pk, 10).await.unwrap()), [30_005]);
    }

    #[tokio::test]
    async fn no_two_owners_of_a_room_get_the_same_epoch() {
        let (directory, ledger) = fresh().await;
        let room = open(&ledger, 30_001, NOW).await.room;
        let owners: Vec<_> = (0..20)
            .map(|_| {
                let ledger = ledger.clone();
                tokio::spawn(async move { ledger.raise_epoch(room).await.unwrap().unwrap() })
            })
            .collect();
        let mut epochs = Vec::new();
        for owner in owners {
            epochs.push(owner.await.unwrap());
        }
        epochs.sort_unstable();
        assert_eq!(epochs, (1..=20).collect::<Vec<u64>>());
        ledger.close().await;
        drop(ledger);
        let ledger = Ledger::open(&LedgerConfig::default(), directory.path(), Sharing::Exclusive).await.unwrap();
        assert_eq!(ledger.raise_epoch(room).await.unwrap(), Some(21));
        ledger.close_room(room, NOW).await.unwrap();
        assert_eq!(ledger.raise_epoch(room).await.unwrap(), None);
    }

    #[tokio::test]
    async fn sanctions_stand_until_they_run_out_or_are_lifted() {
        let (_directory, ledger) = fresh().await;
        let room = open(&ledger, 30_001, NOW).await.room;
        let (alice, bob) = (UserId(20_001), UserId(20_002));
        ledger.put_sanction(room, alice, Sanction::Mute, NOW + 1_000).await.unwrap();
        ledger.put_sanction(room, alice, Sanction::Mute, NOW + 5_000).await.unwrap();
        ledger.put_sanction(room, alice, Sanction::Ban, NOW + 2_000).await.unwrap();
        ledger.put_sanction(room, bob, Sanction::Ban, NOW + 3_000).await.unwrap();
        ledger.set_slow_mode(room, 2_500).await.unwrap();

        let now = ledger.moderation(room, NOW).await.unwrap();
        assert_eq!(now.mutes, [(alice, NOW + 5_000)]);
        assert_eq!(now.bans, [(alice, NOW + 2_000), (bob, NOW + 3_000)]);
        assert_eq!(now.slow_mode_ms, 2_500);

        ledger.lift_sanction(room, bob, Sanction::Ban).await.unwrap();
        ledger.lift_sanction(room, bob, Sanction::Ban).await.unwrap();
        let later = ledger.moderation(room, NOW + 2_000).await.unwrap();
        assert_eq!((later.mutes.len(), later.bans.len()), (1, 0));
        assert_eq!(ledger.moderation(RoomId(99), NOW).await.unwrap(), super::Moderation::default());
    }

    #[tokio::test]
    async fn block_lists_are_replaced_whole_and_kept_apart() {
        let (_directory, ledger) = fresh().await;
        let room = open(&ledger, 30_001, NOW).await.room;
        let words = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        ledger.set_block_words(&words(&["casino", "赌博", "casino"])).await.unwrap();
        ledger.set_room_block_words(room, &words(&["spoiler"])).await.unwrap();
        assert_eq!(ledger.block_words().await.unwrap(), ["casino", "赌博"]);
        assert_eq!(ledger.moderation(room, NOW).await.unwrap().block_words, ["spoiler"]);
        ledger.set_block_words(&[]).await.unwrap();
        assert_eq!(ledger.block_words().await.unwrap(), Vec::<String>::new());
        assert_eq!(ledger.moderation(room, NOW).await.unwrap().block_words, ["spoiler"]);
    }

    #[tokio::test]
    async fn profiles_are_replaced_and_read_in_batches() {
        let (_directory, ledger) = fresh().await;
        let profile = |user: i64, name: &str| Profile { user: UserId(user), name: name.to_owned(), avatar: "a.png".to_owned() };
        let many: Vec<Profile> = (20_000..21_200).map(|user| profile(user, "viewer")).collect();
        ledger.put_profiles(APP, &many).await.unwrap();
        ledger.put_profiles(APP, &[profile(20_000, "Robert'); DROP TABLE t_user;--")]).await.unwrap();
        let users: Vec<UserId> = (19_999..21_200).map(UserId).collect();
        let found = ledger.profiles(APP, &users).await.unwrap();
        assert_eq!(found.len(), 1_200);
        assert!(found.contains(&profile(20_000, "Robert'); DROP TABLE t_user;--")));
        assert_eq!(ledger.profiles(AppId(10_002), &users).await.unwrap(), []);
        assert_eq!(ledger.profiles(APP, &[]).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_row_that_none_of_us_wrote_is_named() {
        let (_directory, ledger) = fresh().await;
        let room = open(&ledger, 30_001, NOW).await.room;
        ledger.writer.execute("UPDATE t_living_room SET type = 7").await.unwrap();
        let error = ledger.live_room(room).await.unwrap_err();
        assert!(error.to_string().contains(&format!("room {room} is 7")), "{error}");
    }

    async fn fresh() -> (TempDir, Ledger) {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&LedgerConfig::default(), directory.path(), Sharing::Exclusive).await.unwrap();
        (directory, ledger)
    }

    fn new_room(anchor: i64) -> NewRoom {
        NewRoom { app: APP, anchor: UserId(anchor), kind: RoomKind::Normal, name: "Ann sings".to_owned(), cover: "c.png".to_owned() }
    }

    async fn open(ledger: &Ledger, anchor: i64, now_ms: u64) -> RoomRecord {
        match ledger.open_room(&new_room(anchor), now_ms).await.unwrap() {
            OpenOutcome::Opened(room) => room,
            OpenOutcome::AlreadyLive(room) => panic!("already live in {room}"),
        }
    }

    async fn count(ledger: &Ledger, table: &'static str) -> i64 {
        let (count,): (i64,) =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"))).fetch_one(&ledger.readers).await.unwrap();
        count
    }
}
