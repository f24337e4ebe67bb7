//! Which PK is on in which room: the bar itself is made of the gifts, and can be made again.

use super::{
    Ledger,
    database::{Call, params},
    gifts, rooms, signed, unsigned,
    webhooks::Told,
};
use crate::{
    services::{
        gift,
        ports::{
            BeginPk, PkRecord, Result, RoomRecord,
            money::{PaidGift, PkSide},
        },
    },
    webhooks::event::{EndedPk, EventKind, NewEvent},
};
use billfish_state::{PkBar, RoomId, UserId};

const READ: &str = "SELECT challenger_id, since_seq FROM t_room_pk WHERE room_id = ?";
const READ_WHOLE: &str = "SELECT challenger_id, since_seq, start_time FROM t_room_pk WHERE room_id = ?";
const END: &str = "DELETE FROM t_room_pk WHERE room_id = ? AND challenger_id = ? \
                   AND EXISTS (SELECT 1 FROM t_living_room WHERE id = ? AND epoch = ?)";
/// Gifts read in one go.
const GIFTS_PER_PAGE: usize = 500;

impl Ledger {
    pub(super) async fn read_pk(&self, room: RoomId) -> Result<Option<PkRecord>> {
        let row: Option<(i64, i64)> = self.row("reading the PK of a room", READ, params![room.0]).await?;
        Ok(row.map(record))
    }

    pub(super) async fn store_pk(&self, room: RoomId, epoch: u64, challenger: UserId, now_ms: u64) -> Result<BeginPk> {
        const EPOCH: &str = "SELECT epoch FROM t_living_room WHERE id = ?";
        const EPOCH_LOCKED: &str = "SELECT epoch FROM t_living_room WHERE id = ? FOR UPDATE";
        const LAST_GIFT: &str = "SELECT COALESCE(MAX(gift_seq), 0) FROM t_gift_record WHERE room_id = ?";
        const INSERT: &str = "INSERT INTO t_room_pk (room_id, challenger_id, since_seq, start_time) VALUES (?, ?, ?, ?)";
        let mut call = self.transaction("beginning a PK").await?;
        // The row of the room first, as a gift does: one that is being paid is seen below, or comes behind.
        let stands: Option<(i64,)> = call.row(if call.is_on_server() { EPOCH_LOCKED } else { EPOCH }, params![room.0]).await?;
        let begun = match stands {
            None => BeginPk::NoRoom,
            Some((stands,)) if unsigned(stands, "epoch")? != epoch => BeginPk::Fenced,
            Some(_) => match is_on(&mut call, room).await? {
                Some(pk) => BeginPk::Taken(pk),
                None => {
                    let last: Option<(i64,)> = call.row(LAST_GIFT, params![room.0]).await?;
                    let since_seq = last.map_or(0, |(seq,)| seq);
                    call.execute(INSERT, params![room.0, challenger.0, since_seq, signed(now_ms)]).await?;
                    BeginPk::Begun(PkRecord { challenger, since_seq })
                }
            },
        };
        call.commit().await?;
        Ok(begun)
    }

    pub(super) async fn remove_pk(&self, room: RoomId, epoch: u64, challenger: UserId, now_ms: u64) -> Result<bool> {
        let what = "ending a PK";
        let end = params![room.0, challenger.0, room.0, signed(epoch)];
        let mut call = self.write(what).await?;
        self.hooks.load(&mut call).await?;
        if !self.hooks.want(EventKind::PkEnded) {
            let done = call.execute(END, end).await?;
            call.finish();
            return Ok(done.rows > 0);
        }
        call.finish();
        let so_far = self.standing(room).await?;
        let mut call = self.transaction(what).await?;
        let record = rooms::lock_room(&mut call, room).await?;
        let ended = match &record {
            Some(record) if self.hooks.wants(record.app, EventKind::PkEnded) => stands(&mut call, room, so_far).await?.zip(Some(record)),
            Some(_) | None => None,
        };
        let is_ended = call.execute(END, end).await?.rows > 0;
        let mut told = Told::default();
        if let Some((standing, record)) = ended.filter(|_| is_ended) {
            self.hooks.write(&mut call, &mut told, [standing.ended(record, now_ms, false)]).await?;
        }
        call.commit().await?;
        self.hooks.committed(&told);
        Ok(is_ended)
    }

    /// What is told of the PK of a room that closes, if one is on; within the transaction that closes it. `so_far` spares it what was read
    /// before.
    pub(super) async fn pk_of_closing(
        &self,
        call: &mut Call,
        record: &RoomRecord,
        so_far: Option<Standing>,
        now_ms: u64,
    ) -> Result<Option<NewEvent>> {
        let standing = stands(call, record.room, so_far).await?;
        Ok(standing.map(|standing| standing.ended(record, now_ms, true)))
    }

    /// How the PK of a room stands, if one is on. Read page by page: no transaction waits for what may be many gifts.
    pub(super) async fn standing(&self, room: RoomId) -> Result<Option<Standing>> {
        let row: Option<(i64, i64, i64)> = self.row("reading the PK of a room", READ_WHOLE, params![room.0]).await?;
        let Some(mut standing) = row.map(Standing::begin).transpose()? else { return Ok(None) };
        loop {
            let page = self.pk_gifts_of(room, standing.bar.seq, GIFTS_PER_PAGE).await?;
            page.iter().for_each(|gift| standing.add(gift));
            if page.len() < GIFTS_PER_PAGE {
                return Ok(Some(standing));
            }
        }
    }
}

/// How a PK stands after some of its gifts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    bar: PkBar,
    started_ms: u64,
    anchor_beans: i64,
    challenger_beans: i64,
}

impl Standing {
    fn begin((challenger, since_seq, started): (i64, i64, i64)) -> Result<Self> {
        let (bar, started_ms) = (PkBar::begin(UserId(challenger), since_seq), unsigned(started, "start_time")?);
        Ok(Self { bar, started_ms, anchor_beans: 0, challenger_beans: 0 })
    }

    fn is_of(&self, other: &Self) -> bool {
        let name = |standing: &Self| (standing.bar.challenger, standing.bar.since_seq, standing.started_ms);
        name(self) == name(other)
    }

    fn add(&mut self, paid: &PaidGift) {
        let (Some(step), Some(total)) = (gift::step(paid), paid.what.total()) else { return };
        self.bar = self.bar.after(paid.gift_seq, step);
        match paid.what.pk {
            Some(PkSide::Anchor) => self.anchor_beans = self.anchor_beans.saturating_add(total),
            Some(PkSide::Challenger) => self.challenger_beans = self.challenger_beans.saturating_add(total),
            None => {}
        }
    }

    fn ended(&self, record: &RoomRecord, now_ms: u64, by_closing: bool) -> NewEvent {
        let Self { bar, started_ms, anchor_beans, challenger_beans } = *self;
        let RoomRecord { app, room, anchor, .. } = *record;
        NewEvent::pk_ended(&EndedPk { app, room, anchor, bar, anchor_beans, challenger_beans, started_ms, ended_ms: now_ms, by_closing })
    }
}

/// How the PK of a room whose row is locked stands, if one is on: after all its gifts.
async fn stands(call: &mut Call, room: RoomId, so_far: Option<Standing>) -> Result<Option<Standing>> {
    let row: Option<(i64, i64, i64)> = call.row(READ_WHOLE, params![room.0]).await?;
    let Some(begun) = row.map(Standing::begin).transpose()? else { return Ok(None) };
    let mut standing = so_far.filter(|so_far| so_far.is_of(&begun)).unwrap_or(begun);
    loop {
        let page = gifts::pk_gifts_in(call, room, standing.bar.seq, GIFTS_PER_PAGE).await?;
        page.iter().for_each(|gift| standing.add(gift));
        if page.len() < GIFTS_PER_PAGE {
            return Ok(Some(standing));
        }
    }
}

async fn is_on(call: &mut Call, room: RoomId) -> Result<Option<PkRecord>> {
    let row: Option<(i64, i64)> = call.row(READ, params![room.0]).await?;
    Ok(row.map(record))
}

fn record((challenger, since_seq): (i64, i64)) -> PkRecord {
    PkRecord { challenger: UserId(challenger), since_seq }
}
