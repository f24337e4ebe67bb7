//! People in SQL: [`People`]. Phones, tags, and the sequences that ids come from.

use super::{Ledger, database::params, signed};
use crate::services::ports::{
    RecordError, Result,
    people::{People, Segment, Tags},
};
use async_trait::async_trait;
use billfish_state::{AppId, UserId};
use billfish_wire::limits::ID_MAX;

#[async_trait]
impl People for Ledger {
    async fn user_of_phone(&self, app: AppId, phone: &str) -> Result<Option<UserId>> {
        let row: Option<(i64,)> = self.row("reading the user of a phone", USER_OF_PHONE, params![app.0, phone]).await?;
        Ok(row.map(|(user,)| UserId(user)))
    }

    async fn add_user(&self, app: AppId, phone: &str, user: UserId, now_ms: u64) -> Result<UserId> {
        const INSERT: &str = "INSERT INTO t_user_phone (app_id, phone, user_id, made_time) VALUES (?, ?, ?, ?)";
        let what = "storing a user";
        for _ in 0..TRIES_MAX {
            let mut call = self.write(what).await?;
            let standing: Option<(i64,)> = call.row(USER_OF_PHONE, params![app.0, phone]).await?;
            if let Some((user,)) = standing {
                call.finish();
                return Ok(UserId(user));
            }
            // The key decides, also between two routers that both saw none.
            let made = call.insert(INSERT, params![app.0, phone, user.0, signed(now_ms)]).await?;
            call.finish();
            if made.is_some() {
                return Ok(user);
            }
        }
        // The phone has no user, and yet no row could be made: the id is another's.
        Err(RecordError::Unreadable { what: format!("user {user} of app {app} has a phone already: is `sequence_id_generator` set back?") })
    }

    async fn take_segment(&self, sequence: &'static str) -> Result<Option<Segment>> {
        const READ: &str = "SELECT next_id, step, version FROM sequence_id_generator WHERE name = ?";
        const TAKE: &str = "UPDATE sequence_id_generator SET next_id = ?, version = ? WHERE name = ? AND version = ?";
        let unreadable = |problem: &str| Err(RecordError::Unreadable { what: format!("sequence {sequence}: {problem}") });
        let mut call = self.write("taking ids").await?;
        let row: Option<(i64, i64, i64)> = call.row(READ, params![sequence]).await?;
        let Some((from, step, version)) = row else { return unreadable("there is no row") };
        if from < 1 || step < 1 {
            return unreadable("next_id and step are at least 1");
        }
        // An id above is not exact in a browser.
        let Some(next) = from.checked_add(step).filter(|next| next - 1 <= ID_MAX) else { return unreadable("it is used up") };
        let taken = call.execute(TAKE, params![next, version.wrapping_add(1), sequence, version]).await?;
        call.finish();
        Ok((taken.rows == 1).then_some(Segment { from, to: next - 1 }))
    }

    async fn tags(&self, app: AppId, user: UserId) -> Result<Tags> {
        let row: Option<(i64,)> = self.row("reading tags", TAGS, params![app.0, user.0]).await?;
        Ok(Tags(row.map_or(0, |(tags,)| tags)))
    }

    async fn change_tags(&self, app: AppId, user: UserId, set: Tags, lift: Tags) -> Result<Tags> {
        const CHANGE: &str = "UPDATE t_user_tag SET tags = (tags | ?) & ? WHERE app_id = ? AND user_id = ?";
        const INSERT: &str = "INSERT INTO t_user_tag (app_id, user_id, tags) VALUES (?, ?, ?)";
        let what = "changing tags";
        let keep = i64::MAX & !lift.0;
        for _ in 0..TRIES_MAX {
            let mut call = self.transaction(what).await?;
            // Locks the row: what is read is what this call has written.
            let changed = call.execute(CHANGE, params![set.0, keep, app.0, user.0]).await?;
            let row: Option<(i64,)> = if changed.rows > 0 { call.row(TAGS, params![app.0, user.0]).await? } else { None };
            call.commit().await?;
            if let Some((tags,)) = row {
                return Ok(Tags(tags));
            }
            let tags = Tags(set.0 & keep);
            let mut call = self.write(what).await?;
            let made = call.insert(INSERT, params![app.0, user.0, tags.0]).await?;
            call.finish();
            if made.is_some() {
                return Ok(tags);
            }
        }
        Err(RecordError::Away { what, cause: "the user's tags were changed at every look".into() })
    }
}

const USER_OF_PHONE: &str = "SELECT user_id FROM t_user_phone WHERE app_id = ? AND phone = ?";
const TAGS: &str = "SELECT tags FROM t_user_tag WHERE app_id = ? AND user_id = ?";
/// Looks at a row that others make at the same time. Rows here are never taken away, so the second look finds one.
const TRIES_MAX: usize = 3;
