//! [`PkBars`]: four strings for each room, written together. See `lua/pk_bars.lua`.
//!
//! - A step is one script. What it reads and what is read here are the same texts, and count as a bar under the same conditions: what is
//!   spoilt or not all there is missing, to be put anew.
//! - Places of gifts end at [`PK_SEQ_MAX`](crate::types::PK_SEQ_MAX), above which Lua's numbers are not exact.

use super::command::{Command, Script};
use super::connection::Connection;
use super::life;
use crate::port::{PK_BAR_KEPT_MS, PkBars, Result};
use crate::types::{PkBar, PkStep, PkStepped, PkWinner, RoomId, StateError, UserId};
use async_trait::async_trait;
use std::str::FromStr;

/// A script on a bar.
macro_rules! bar_script {
    ($file:literal) => {
        Script::new(concat!(include_str!("lua/pk_bars.lua"), include_str!($file)))
    };
}

static STEP: Script = bar_script!("lua/pk_step.lua");
static PUT: Script = bar_script!("lua/pk_put.lua");
static CLEAR: Script = bar_script!("lua/pk_clear.lua");

pub(super) struct RedisPkBars(Connection);

/// What stands at the keys.
type Stored = [Option<Vec<u8>>; 4];

impl RedisPkBars {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }

    fn call(&self, script: &'static Script, room: RoomId) -> Command {
        let keys = self.0.keys().pk_bar(room);
        Command::script(script, &keys.each_ref().map(String::as_str))
    }

    /// Calls a script that may write: what it writes is kept from `now_ms` on.
    fn change(&self, script: &'static Script, room: RoomId, now_ms: u64) -> Command {
        let until_ms = now_ms.saturating_add(PK_BAR_KEPT_MS);
        self.call(script, room).arg(now_ms).arg(until_ms).arg(life(now_ms, until_ms))
    }
}

#[async_trait]
impl PkBars for RedisPkBars {
    async fn step(&self, room: RoomId, step: PkStep, now_ms: u64) -> Result<PkStepped> {
        step.check()?;
        let PkStep { since_seq, after_seq, seq, by } = step;
        // Carried out twice it would be told as applied before, by somebody else perhaps.
        let command = self.change(&STEP, room, now_ms).arg(since_seq).arg(after_seq).arg(seq).arg(by).once();
        let told: Option<(bool, Stored)> = self.0.run("moving the bar of a PK", command).await?;
        let Some((is_moved, stored)) = told else { return Ok(PkStepped::Missing) };
        let bar = read_told(&stored, now_ms)?;
        Ok(if is_moved { PkStepped::Applied(bar) } else { PkStepped::Before(bar) })
    }

    async fn put(&self, room: RoomId, bar: PkBar, now_ms: u64) -> Result<PkBar> {
        bar.check()?;
        let PkBar { challenger, since_seq, seq, value, winner } = bar;
        let winner: &[u8] = match winner {
            None => &[],
            Some(PkWinner::Anchor) => ANCHOR,
            Some(PkWinner::Challenger) => CHALLENGER,
        };
        let command = self.change(&PUT, room, now_ms).arg(challenger.0).arg(since_seq).arg(value).arg(seq).arg(winner);
        let stored: Stored = self.0.run("putting the bar of a PK", command).await?;
        read_told(&stored, now_ms)
    }

    async fn bar(&self, room: RoomId, now_ms: u64) -> Result<Option<PkBar>> {
        let [challenger, others @ ..] = self.0.keys().pk_bar(room);
        let command = Command::new("MGET", &challenger).arg(&others[..]);
        let stored: Stored = self.0.run("reading the bar of a PK", command).await?;
        Ok(read(&stored, now_ms))
    }

    async fn clear(&self, room: RoomId, challenger: UserId, since_seq: i64) -> Result<bool> {
        // A second time there would be none to end.
        let command = self.call(&CLEAR, room).arg(challenger.0).arg(since_seq).once();
        self.0.run("ending a PK", command).await
    }
}

/// What a script says stands.
fn read_told(stored: &Stored, now_ms: u64) -> Result<PkBar> {
    read(stored, now_ms).ok_or(StateError::Malformed { what: "bar of a PK in the store" })
}

/// As `read` in `lua/pk_bars.lua`.
fn read([head, value, seq, winner]: &Stored, now_ms: u64) -> Option<PkBar> {
    let mut head = head.as_ref()?.split(|byte| *byte == b'%');
    let until_ms: u64 = number(head.next()?)?;
    let challenger = UserId(std::str::from_utf8(head.next()?).ok()?.parse().ok()?);
    let since_seq = number(head.next()?)?;
    let winner = match winner.as_deref() {
        None => None,
        Some(ANCHOR) => Some(PkWinner::Anchor),
        Some(CHALLENGER) => Some(PkWinner::Challenger),
        Some(_) => return None,
    };
    let bar = PkBar { challenger, since_seq, seq: number(seq.as_ref()?)?, value: number(value.as_ref()?)?, winner };
    (head.next().is_none() && now_ms < until_ms && bar.check().is_ok()).then_some(bar)
}

/// A number of digits alone.
fn number<T: FromStr>(text: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Who has won, as it is written.
const ANCHOR: &[u8] = b"anchor";
const CHALLENGER: &[u8] = b"challenger";
