//! What the tests of this crate share: records in memory that can be held, failed and counted.

mod money;
mod people;
mod shop;

pub(crate) use money::TestTill;
pub(crate) use people::TestPeople;
pub(crate) use shop::TestMoney;

use crate::services::ports::{
    BeginPk, Moderation, NewRoom, OpenOutcome, PkRecord, Profile, RecordError, Result, RoomKind, RoomRecord, RoomRecords, Sanction,
};
use async_trait::async_trait;
use billfish_state::{AppId, RoomId, UserId};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// Records without a database. Real ones need a thread and a disk, which a paused clock does not wait for.
#[derive(Default)]
pub(crate) struct TestRecords {
    tables: Mutex<Tables>,
    gates: Mutex<HashMap<&'static str, Arc<Gate>>>,
}

#[derive(Default)]
struct Tables {
    last_id: i64,
    live: BTreeMap<RoomId, (RoomRecord, u64, Moderation)>,
    closed: Vec<(RoomRecord, u64)>,
    words: Vec<String>,
    pks: BTreeMap<RoomId, PkRecord>,
    wallets: money::Wallets,
    profiles: BTreeMap<(AppId, UserId), Profile>,
    calls: HashMap<&'static str, usize>,
    failing: bool,
    /// How many calls of a method do not fail.
    allowed: HashMap<&'static str, usize>,
}

/// A call that waits until it is let through.
pub(crate) struct Gate {
    open: watch::Sender<bool>,
    callers: watch::Sender<usize>,
}

impl Gate {
    fn closed() -> Arc<Self> {
        Arc::new(Self { open: watch::Sender::new(false), callers: watch::Sender::new(0) })
    }

    async fn pass(&self) {
        self.callers.send_modify(|callers| *callers += 1);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    pub(crate) async fn wait_for_callers(&self, count: usize) {
        self.callers.subscribe().wait_for(|callers| *callers >= count).await.unwrap();
    }
}

impl TestRecords {
    /// How often a method was called.
    pub(crate) fn calls(&self, method: &'static str) -> usize {
        self.lock().calls.get(method).copied().unwrap_or(0)
    }

    /// From now on every call fails, or none.
    pub(crate) fn fail(&self, failing: bool) {
        self.lock().failing = failing;
    }

    /// Calls of a method fail after so many.
    pub(crate) fn fail_after(&self, method: &'static str, calls: usize) {
        self.lock().allowed.insert(method, calls);
    }

    /// From now on calls of a method wait at a gate.
    pub(crate) fn hold(&self, method: &'static str) -> Arc<Gate> {
        let gate = Gate::closed();
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).insert(method, gate.clone());
        gate
    }

    /// Rooms that were closed, with their end.
    pub(crate) fn closed(&self) -> Vec<(RoomRecord, u64)> {
        self.lock().closed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enter(&self, method: &'static str) -> Result<()> {
        *self.lock().calls.entry(method).or_default() += 1;
        let gate = self.gates.lock().unwrap_or_else(PoisonError::into_inner).get(method).cloned();
        if let Some(gate) = gate {
            gate.pass().await;
        }
        let tables = self.lock();
        if tables.failing || tables.allowed.get(method).is_some_and(|allowed| tables.calls[method] > *allowed) {
            return Err(RecordError::Away { what: method, cause: "told to fail".into() });
        }
        Ok(())
    }
}

#[async_trait]
impl RoomRecords for TestRecords {
    async fn open_room(&self, room: &NewRoom, now_ms: u64) -> Result<OpenOutcome> {
        self.enter("open_room").await?;
        let mut tables = self.lock();
        if let Some((live, ..)) = tables.live.values().find(|(live, ..)| live.app == room.app && live.anchor == room.anchor) {
            return Ok(OpenOutcome::AlreadyLive(live.room));
        }
        tables.last_id += 1;
        let NewRoom { app, anchor, kind, name, cover } = room.clone();
        let record = RoomRecord { room: RoomId(tables.last_id), app, anchor, kind, name, cover, started_ms: now_ms };
        tables.live.insert(record.room, (record.clone(), 0, Moderation::default()));
        Ok(OpenOutcome::Opened(record))
    }

    async fn close_room(&self, room: RoomId, now_ms: u64) -> Result<Option<RoomRecord>> {
        self.enter("close_room").await?;
        let mut tables = self.lock();
        let Some((record, ..)) = tables.live.remove(&room) else { return Ok(None) };
        tables.closed.push((record.clone(), now_ms));
        Ok(Some(record))
    }

    async fn live_room(&self, room: RoomId) -> Result<Option<RoomRecord>> {
        // What a query saw is what it answers, however long the answer takes.
        let found = self.lock().live.get(&room).map(|(record, ..)| record.clone());
        self.enter("live_room").await?;
        Ok(found)
    }

    async fn live_rooms(&self, kind: RoomKind, limit: usize) -> Result<Vec<RoomRecord>> {
        self.enter("live_rooms").await?;
        let mut rooms: Vec<_> = self.lock().live.values().map(|(record, ..)| record.clone()).filter(|record| record.kind == kind).collect();
        rooms.sort_by_key(|record| std::cmp::Reverse((record.started_ms, record.room)));
        rooms.truncate(limit);
        Ok(rooms)
    }

    async fn raise_epoch(&self, room: RoomId) -> Result<Option<u64>> {
        self.enter("raise_epoch").await?;
        Ok(self.lock().live.get_mut(&room).map(|(_, epoch, _)| {
            *epoch += 1;
            *epoch
        }))
    }

    async fn moderation(&self, room: RoomId, now_ms: u64) -> Result<Moderation> {
        self.enter("moderation").await?;
        let mut moderation = self.lock().live.get(&room).map(|(.., moderation)| moderation.clone()).unwrap_or_default();
        moderation.mutes.retain(|(_, until_ms)| now_ms < *until_ms);
        moderation.bans.retain(|(_, until_ms)| now_ms < *until_ms);
        Ok(moderation)
    }

    async fn put_sanction(&self, room: RoomId, user: UserId, sanction: Sanction, until_ms: u64) -> Result<()> {
        self.lift_sanction(room, user, sanction).await?;
        if let Some((.., moderation)) = self.lock().live.get_mut(&room) {
            of(moderation, sanction).push((user, until_ms));
        }
        Ok(())
    }

    async fn lift_sanction(&self, room: RoomId, user: UserId, sanction: Sanction) -> Result<()> {
        self.enter("sanction").await?;
        if let Some((.., moderation)) = self.lock().live.get_mut(&room) {
            of(moderation, sanction).retain(|(other, _)| *other != user);
        }
        Ok(())
    }

    async fn set_slow_mode(&self, room: RoomId, slow_mode_ms: u64) -> Result<()> {
        self.enter("set_slow_mode").await?;
        if let Some((.., moderation)) = self.lock().live.get_mut(&room) {
            moderation.slow_mode_ms = slow_mode_ms;
        }
        Ok(())
    }

    async fn set_room_block_words(&self, room: RoomId, words: &[String]) -> Result<()> {
        self.enter("set_room_block_words").await?;
        if let Some((.., moderation)) = self.lock().live.get_mut(&room) {
            moderation.block_words = words.to_vec();
        }
        Ok(())
    }

    async fn block_words(&self) -> Result<Vec<String>> {
        self.enter("block_words").await?;
        Ok(self.lock().words.clone())
    }

    async fn set_block_words(&self, words: &[String]) -> Result<()> {
        self.enter("set_block_words").await?;
        self.lock().words = words.to_vec();
        Ok(())
    }

    async fn pk(&self, room: RoomId) -> Result<Option<PkRecord>> {
        self.enter("pk").await?;
        Ok(self.lock().pks.get(&room).copied())
    }

    async fn begin_pk(&self, room: RoomId, epoch: u64, challenger: UserId, _now_ms: u64) -> Result<BeginPk> {
        self.enter("begin_pk").await?;
        let mut tables = self.lock();
        let since_seq = tables.wallets.last(room);
        let Some(stands) = tables.live.get(&room).map(|(_, stands, _)| *stands) else { return Ok(BeginPk::NoRoom) };
        if stands != epoch {
            return Ok(BeginPk::Fenced);
        }
        if let Some(pk) = tables.pks.get(&room) {
            return Ok(BeginPk::Taken(*pk));
        }
        let pk = PkRecord { challenger, since_seq };
        tables.pks.insert(room, pk);
        Ok(BeginPk::Begun(pk))
    }

    async fn end_pk(&self, room: RoomId, epoch: u64, challenger: UserId, _now_ms: u64) -> Result<bool> {
        self.enter("end_pk").await?;
        let mut tables = self.lock();
        let is_owner = tables.live.get(&room).is_some_and(|(_, stands, _)| *stands == epoch);
        let is_his = is_owner && tables.pks.get(&room).is_some_and(|pk| pk.challenger == challenger);
        if is_his {
            tables.pks.remove(&room);
        }
        Ok(is_his)
    }

    async fn profiles(&self, app: AppId, users: &[UserId]) -> Result<Vec<Profile>> {
        self.enter("profiles").await?;
        let tables = self.lock();
        Ok(users.iter().filter_map(|user| tables.profiles.get(&(app, *user)).cloned()).collect())
    }

    async fn put_profiles(&self, app: AppId, profiles: &[Profile]) -> Result<()> {
        self.enter("put_profiles").await?;
        let mut tables = self.lock();
        for profile in profiles {
            tables.profiles.insert((app, profile.user), profile.clone());
        }
        Ok(())
    }
}

fn of(moderation: &mut Moderation, sanction: Sanction) -> &mut Vec<(UserId, u64)> {
    match sanction {
        Sanction::Mute => &mut moderation.mutes,
        Sanction::Ban => &mut moderation.bans,
    }
}
