//! Which PK is on in which room: the bar itself is made of the gifts, and can be made again.

use super::{
    Ledger,
    database::{Call, params},
    signed, unsigned,
};
use crate::services::ports::{BeginPk, PkRecord, Result};
use billfish_state::{RoomId, UserId};

const READ: &str = "SELECT challenger_id, since_seq FROM t_room_pk WHERE room_id = ?";

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

    pub(super) async fn remove_pk(&self, room: RoomId, epoch: u64, challenger: UserId) -> Result<bool> {
        const END: &str = "DELETE FROM t_room_pk WHERE room_id = ? AND challenger_id = ? \
                           AND EXISTS (SELECT 1 FROM t_living_room WHERE id = ? AND epoch = ?)";
        Ok(self.execute("ending a PK", END, params![room.0, challenger.0, room.0, signed(epoch)]).await? > 0)
    }
}

async fn is_on(call: &mut Call, room: RoomId) -> Result<Option<PkRecord>> {
    let row: Option<(i64, i64)> = call.row(READ, params![room.0]).await?;
    Ok(row.map(record))
}

fn record((challenger, since_seq): (i64, i64)) -> PkRecord {
    PkRecord { challenger: UserId(challenger), since_seq }
}
