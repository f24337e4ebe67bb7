//! Gifts: paid in batches, one transaction each, and told from the outbox.
//!
//! - All of a batch is read first, decided in memory in the order given, and written by one statement a table.
//! - On a server rows are locked in one order: told ones of the outbox, rooms by id, accounts by key. The outbox is first, for MySQL reads a
//!   small one whole, and waits for what others have just put there: who has put something there waits for nobody any more.
//! - What senders have used of their ids is read behind the locks, so it cannot change any more: who pays has his account locked.
//! - A room's gifts are counted under the lock of its row. A clash of (room, gift_seq) cannot happen, and fails if it does.
//!
//! `tests/crash.rs` ends the process at each place named here.

use super::{
    Ledger,
    accounts::{Account, Books, Trade, TradeKind},
    database::{self, Call, Param, params},
    signed,
    statements::{self, BY_KEY, LOCKED, marks, padded, rows_of},
    unsigned,
    webhooks::{Hooks, Told},
};
use crate::{
    bug::{self, Bug},
    failpoint,
    services::ports::{
        RecordError, Result,
        money::{GiftId, GiftOutcome, NewGift, PaidGift, PkSide},
    },
    webhooks::event::{EventKind, NewEvent},
};
use billfish_state::{AppId, RoomId, UserId};
use sqlx::AssertSqlSafe;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// Gifts in one transaction: 50 commits a second carry more than 10,000 gifts, and each still takes a few milliseconds.
pub(super) const BATCH_GIFTS_MAX: usize = 256;
/// How often a transaction begins that others overtake or that the server gives up for them. Two of them do not meet twice by chance.
const TRIES_MAX: u32 = 5;
/// Rows deleted by one statement.
const TOLD_PER_STATEMENT: usize = 256;
/// Gifts of one kind in one order, as the API allows.
const NUM_MAX: i64 = 9_999;
/// Bytes of the ids that clients choose.
const TEXT_BYTES_MAX: usize = 64;

/// The columns of a [`GiftRow`]. Bytes on a server, the `uuid` is read as a text on both.
const COLUMNS: &str = "t_gift_record.room_id, t_gift_record.gift_seq, app_id, sender_id, CAST(uuid AS CHAR), epoch, receiver_id, gift_id, num, \
                       price, pk, combo, paid_time";

type GiftRow = (i64, i64, i32, i64, String, i64, i64, i64, i64, i64, i64, String, i64);

const NO_PK: i64 = 0;
const FOR_ANCHOR: i64 = 1;
const FOR_CHALLENGER: i64 = 2;

/// Makes sure that a gift is one: the rest of its batch does not fail for it.
pub(super) fn check(gift: &NewGift) -> Result<()> {
    let NewGift { sender, uuid, num, price, combo, .. } = gift;
    let is_one = (1..=NUM_MAX).contains(num) && *price >= 1;
    if is_one && (1..=TEXT_BYTES_MAX).contains(&uuid.len()) && combo.len() <= TEXT_BYTES_MAX {
        return Ok(());
    }
    Err(RecordError::Unreadable { what: format!("a gift of user {sender}, {num} at {price} coins: no such gift can be paid") })
}

impl Ledger {
    /// Pays gifts and takes told ones out of the outbox, within `limit`. More than [`BATCH_GIFTS_MAX`] are several transactions, and a failure
    /// of a later one says nothing of the earlier ones.
    pub(super) async fn pay(&self, gifts: &[NewGift], told: &[(RoomId, i64)], now_ms: u64, limit: Duration) -> Result<Vec<GiftOutcome>> {
        gifts.iter().try_for_each(check)?;
        let deadline = Instant::now() + limit;
        let mut outcomes = Vec::with_capacity(gifts.len());
        let mut told = told;
        for batch in gifts.chunks(BATCH_GIFTS_MAX) {
            let left = deadline.saturating_duration_since(Instant::now());
            outcomes.extend(self.pay_batch(batch, std::mem::take(&mut told), now_ms, left).await?);
        }
        if !told.is_empty() {
            self.pay_batch(&[], told, now_ms, limit).await?;
        }
        Ok(outcomes)
    }

    async fn pay_batch(&self, gifts: &[NewGift], told: &[(RoomId, i64)], now_ms: u64, limit: Duration) -> Result<Vec<GiftOutcome>> {
        failpoint::at("pay_begin");
        let what = "paying gifts";
        let mut call = self.guarded(what)?.transaction(what, limit).await?;
        failpoint::at("pay_begun");
        let mut tries = 1;
        let (outcomes, events) = loop {
            match pay(&mut call, &self.hooks, gifts, told, now_ms).await {
                Ok(outcomes) => break outcomes,
                Err(error) if tries < TRIES_MAX && database::is_contention(&error) => {
                    tries += 1;
                    call.begin_again().await?;
                }
                Err(error) => return Err(error),
            }
        };
        failpoint::at("pay_commit");
        call.commit().await?;
        failpoint::at("pay_committed");
        self.hooks.committed(&events);
        Ok(outcomes)
    }

    pub(super) async fn untold_gifts(&self, room: RoomId, limit: usize) -> Result<Vec<PaidGift>> {
        let read = AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM t_outbox JOIN t_gift_record ON t_gift_record.room_id = t_outbox.room_id \
             AND t_gift_record.gift_seq = t_outbox.gift_seq WHERE t_outbox.room_id = ? ORDER BY t_outbox.gift_seq LIMIT ?"
        ));
        let rows: Vec<GiftRow> = self.rows("reading the outbox", read, &[room.0.into(), limit_of(limit)]).await?;
        rows.into_iter().map(record).collect()
    }

    pub(super) async fn rooms_with_untold_gifts(&self, before_ms: u64, limit: usize) -> Result<Vec<RoomId>> {
        // Longest waiting first: with a limit, none is passed over for ever.
        const READ: &str =
            "SELECT room_id FROM t_outbox GROUP BY room_id HAVING MIN(since_time) < ? ORDER BY MIN(since_time), room_id LIMIT ?";
        let params = [signed(before_ms).into(), limit_of(limit)];
        let rows: Vec<(i64,)> = self.rows("looking for rooms that have gifts to tell", READ, &params).await?;
        Ok(rows.into_iter().map(|(room,)| RoomId(room)).collect())
    }

    pub(super) async fn gift_of(&self, app: AppId, sender: UserId, uuid: &str) -> Result<Option<PaidGift>> {
        let read = AssertSqlSafe(format!("SELECT {COLUMNS} FROM t_gift_record WHERE app_id = ? AND sender_id = ? AND uuid = ?"));
        let account =
            AssertSqlSafe(format!("SELECT balance FROM t_account {} WHERE app_id = ? AND kind = 1 AND user_id = ? {}", BY_KEY, LOCKED));
        let mut call = self.transaction("reading a gift").await?;
        // Waits for whoever pays for this sender: a commit that nobody waits for any more may still be under way.
        let _balance: Option<(i64,)> = call.row(account, params![app.0, sender.0]).await?;
        let row: Option<GiftRow> = call.row(read, params![app.0, sender.0, uuid]).await?;
        call.commit().await?;
        row.map(record).transpose()
    }

    pub(super) async fn pk_gifts_of(&self, room: RoomId, after_seq: i64, limit: usize) -> Result<Vec<PaidGift>> {
        let params = [room.0.into(), after_seq.into(), limit_of(limit)];
        let rows: Vec<GiftRow> = self.rows("reading the PK gifts of a room", read_pk_gifts(), &params).await?;
        rows.into_iter().map(record).collect()
    }

    pub(super) async fn last_gift_of(&self, room: RoomId) -> Result<i64> {
        const READ: &str = "SELECT gift_seq FROM t_gift_record WHERE room_id = ? ORDER BY gift_seq DESC LIMIT 1";
        let row: Option<(i64,)> = self.row("reading the last gift of a room", READ, &[room.0.into()]).await?;
        Ok(row.map_or(0, |(seq,)| seq))
    }
}

/// The same as a part of a transaction.
pub(super) async fn pk_gifts_in(call: &mut Call, room: RoomId, after_seq: i64, limit: usize) -> Result<Vec<PaidGift>> {
    let rows: Vec<GiftRow> = call.rows(read_pk_gifts(), &[room.0.into(), after_seq.into(), limit_of(limit)]).await?;
    rows.into_iter().map(record).collect()
}

fn read_pk_gifts() -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("SELECT {COLUMNS} FROM t_gift_record WHERE room_id = ? AND gift_seq > ? AND pk > 0 ORDER BY gift_seq LIMIT ?"))
}

/// All of a transaction between its beginning and its commit.
async fn pay(call: &mut Call, hooks: &Hooks, gifts: &[NewGift], told: &[(RoomId, i64)], now_ms: u64) -> Result<(Vec<GiftOutcome>, Told)> {
    if !told.is_empty() {
        failpoint::at("pay_told_begin");
        delete_told(call, told).await?;
        failpoint::at("pay_told_deleted");
    }
    let mut batch = Batch { rooms: lock_rooms(call, gifts).await?, books: open_books(call, gifts).await?, ..Batch::default() };
    batch.known = known(call, gifts).await?;
    failpoint::at("pay_read");
    let outcomes = gifts.iter().map(|gift| batch.decide(gift, now_ms)).collect();
    failpoint::at("pay_decided");
    let mut events = Told::default();
    if batch.books.has_traded() {
        batch.books.write_balances(call).await?;
        failpoint::at("pay_balances_written");
        write_records(call, &batch.paid).await?;
        failpoint::at("pay_records_written");
        batch.books.write_entries(call, now_ms).await?;
        failpoint::at("pay_entries_written");
        write_outbox(call, &batch.paid).await?;
        failpoint::at("pay_outbox_written");
        hooks.load(call).await?;
        let wanted = batch.paid.iter().filter(|gift| hooks.wants(gift.what.app, EventKind::GiftPaid));
        hooks.write(call, &mut events, wanted.map(NewEvent::gift_paid)).await?;
    }
    Ok((outcomes, events))
}

/// What is known of a batch while it is decided.
#[derive(Default)]
struct Batch {
    rooms: BTreeMap<RoomId, Room>,
    books: Books,
    /// Every id that one of the senders has used, of this batch too.
    known: BTreeMap<(AppId, UserId, String), PaidGift>,
    /// In the order of the batch.
    paid: Vec<PaidGift>,
}

struct Room {
    app: AppId,
    epoch: u64,
    last_seq: i64,
}

impl Batch {
    fn decide(&mut self, gift: &NewGift, now_ms: u64) -> GiftOutcome {
        let key = (gift.app, gift.sender, gift.uuid.clone());
        // Before all else: what was paid stays paid, also when the room has closed since.
        if let Some(known) = self.known.get(&key) {
            return if is_same(&known.what, gift) { GiftOutcome::Repeated(known.clone()) } else { GiftOutcome::Conflict };
        }
        let Some(room) = self.rooms.get_mut(&gift.room).filter(|room| room.app == gift.app) else { return GiftOutcome::NoRoom };
        if room.epoch != gift.epoch {
            return GiftOutcome::Fenced;
        }
        let (from, to) = (Account::coins(gift.app, gift.sender), Account::beans(gift.app, gift.receiver));
        let gift_seq = room.last_seq.saturating_add(if bug::hits(Bug::SkipPlace, &gift.uuid) { 2 } else { 1 });
        let is_paid = gift
            .total()
            .is_some_and(|amount| self.books.trade(Trade { kind: TradeKind::Gift, reference: (gift.room.0, gift_seq), from, to, amount }));
        let balance = self.books.balance(from);
        if !is_paid {
            return GiftOutcome::NotCovered { balance };
        }
        if bug::hits(Bug::DebitTwice, &gift.uuid) {
            self.books.trade(Trade { kind: TradeKind::Gift, reference: (gift.room.0, -gift_seq), from, to, amount: gift.price });
        }
        room.last_seq = gift_seq;
        let paid = PaidGift { what: gift.clone(), gift_seq, paid_ms: now_ms };
        self.known.insert(key, paid.clone());
        self.paid.push(paid.clone());
        GiftOutcome::Paid { gift: paid, balance }
    }
}

/// Whether a gift is the one that was paid. Its price may have changed since, its room another owner, and which side of a PK it is for is not
/// the sender's word.
fn is_same(paid: &NewGift, asked: &NewGift) -> bool {
    let content = |gift: &NewGift| (gift.room, gift.receiver, gift.gift, gift.num, gift.pk.is_some());
    content(paid) == content(asked)
}

/// The live rooms among those of the gifts. They stay live, and nobody raises their epochs, until the transaction ends.
async fn lock_rooms(call: &mut Call, gifts: &[NewGift]) -> Result<BTreeMap<RoomId, Room>> {
    let ids: BTreeSet<RoomId> = gifts.iter().map(|gift| gift.room).collect();
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let ids = padded(Vec::from_iter(ids));
    let read = AssertSqlSafe(format!(
        "SELECT id, app_id, epoch FROM t_living_room {BY_KEY} WHERE id IN ({}) ORDER BY id {LOCKED}",
        marks(ids.len())
    ));
    let params: Vec<Param<'_>> = ids.iter().map(|room| room.0.into()).collect();
    let rows: Vec<(i64, i32, i64)> = call.rows(read, &params).await?;
    let mut rooms = BTreeMap::new();
    for (id, app, epoch) in rows {
        rooms.insert(RoomId(id), Room { app: AppId(app), epoch: unsigned(epoch, "epoch")?, last_seq: 0 });
    }
    if rooms.is_empty() {
        return Ok(rooms);
    }
    // A statement of its own: it sees what was committed while the first one waited for a lock.
    let ids = padded(rooms.keys().copied().collect());
    let read = AssertSqlSafe(format!(
        "SELECT id, (SELECT gift_seq FROM t_gift_record WHERE room_id = t_living_room.id ORDER BY gift_seq DESC LIMIT 1) FROM t_living_room \
         WHERE id IN ({})",
        marks(ids.len())
    ));
    let params: Vec<Param<'_>> = ids.iter().map(|room| room.0.into()).collect();
    let rows: Vec<(i64, Option<i64>)> = call.rows(read, &params).await?;
    for (id, last) in rows {
        if let (Some(room), Some(last)) = (rooms.get_mut(&RoomId(id)), last) {
            room.last_seq = last;
        }
    }
    Ok(rooms)
}

async fn open_books(call: &mut Call, gifts: &[NewGift]) -> Result<Books> {
    let accounts = |gift: &NewGift| [Account::coins(gift.app, gift.sender), Account::beans(gift.app, gift.receiver)];
    Books::open(call, gifts.iter().flat_map(accounts).collect()).await
}

/// Those of the gifts' ids that their senders have used before.
async fn known(call: &mut Call, gifts: &[NewGift]) -> Result<BTreeMap<(AppId, UserId, String), PaidGift>> {
    let keys: BTreeSet<(AppId, UserId, &str)> = gifts.iter().map(|gift| (gift.app, gift.sender, gift.uuid.as_str())).collect();
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let keys = padded(Vec::from_iter(keys));
    let read = statements::select(COLUMNS, "t_gift_record", &["app_id", "sender_id", "uuid"], keys.len(), call.is_on_server());
    let params: Vec<Param<'_>> = keys.iter().flat_map(|(app, sender, uuid)| [app.0.into(), sender.0.into(), (*uuid).into()]).collect();
    let rows: Vec<GiftRow> = call.rows(read, &params).await?;
    let mut known = BTreeMap::new();
    for row in rows {
        let gift = record(row)?;
        known.insert((gift.what.app, gift.what.sender, gift.what.uuid.clone()), gift);
    }
    Ok(known)
}

async fn write_records(call: &mut Call, paid: &[PaidGift]) -> Result<()> {
    const PUT: &str = "INSERT INTO t_gift_record (room_id, gift_seq, app_id, sender_id, uuid, epoch, receiver_id, gift_id, num, price, pk, combo, \
                       paid_time) VALUES";
    let put = rows_of(PUT, "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", paid.len());
    let mut params: Vec<Param<'_>> = Vec::with_capacity(13 * paid.len());
    for PaidGift { what, gift_seq, paid_ms } in paid {
        let NewGift { app, sender, uuid, room, epoch, receiver, gift, num, price, pk, combo } = what;
        let pk = match pk {
            None => NO_PK,
            Some(PkSide::Anchor) => FOR_ANCHOR,
            Some(PkSide::Challenger) => FOR_CHALLENGER,
        };
        params.extend([room.0, *gift_seq, app.0.into(), sender.0].map(Param::from));
        params.push(uuid.into());
        params.extend([signed(*epoch), receiver.0, gift.0, *num, *price, pk].map(Param::from));
        params.push(combo.into());
        params.push(signed(*paid_ms).into());
    }
    call.execute(put, &params).await.map(drop)
}

async fn write_outbox(call: &mut Call, paid: &[PaidGift]) -> Result<()> {
    let put = rows_of("INSERT INTO t_outbox (room_id, gift_seq, since_time) VALUES", "(?, ?, ?)", paid.len());
    let row = |gift: &PaidGift| [gift.what.room.0, gift.gift_seq, signed(gift.paid_ms)].map(Param::from);
    let params: Vec<Param<'_>> = paid.iter().flat_map(row).collect();
    call.execute(put, &params).await.map(drop)
}

async fn delete_told(call: &mut Call, told: &[(RoomId, i64)]) -> Result<()> {
    // In the order of their keys: two routers may tell the same.
    let told: Vec<(RoomId, i64)> = told.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    for chunk in told.chunks(TOLD_PER_STATEMENT) {
        let chunk = padded(chunk.to_vec());
        let delete = statements::delete("t_outbox", &["room_id", "gift_seq"], chunk.len(), call.is_on_server());
        let params: Vec<Param<'_>> = chunk.iter().flat_map(|(room, seq)| [room.0.into(), (*seq).into()]).collect();
        call.execute(delete, &params).await?;
    }
    Ok(())
}

fn record(row: GiftRow) -> Result<PaidGift> {
    let (room, gift_seq, app, sender, uuid, epoch, receiver, gift, num, price, pk, combo, paid) = row;
    let pk = match pk {
        NO_PK => None,
        FOR_ANCHOR => Some(PkSide::Anchor),
        FOR_CHALLENGER => Some(PkSide::Challenger),
        _ => return Err(RecordError::Unreadable { what: format!("pk of gift {gift_seq} of room {room} is {pk}") }),
    };
    let what = NewGift {
        app: AppId(app),
        sender: UserId(sender),
        uuid,
        room: RoomId(room),
        epoch: unsigned(epoch, "epoch")?,
        receiver: UserId(receiver),
        gift: GiftId(gift),
        num,
        price,
        pk,
        combo,
    };
    Ok(PaidGift { what, gift_seq, paid_ms: unsigned(paid, "paid_time")? })
}

fn limit_of(limit: usize) -> Param<'static> {
    i64::try_from(limit).unwrap_or(i64::MAX).into()
}
