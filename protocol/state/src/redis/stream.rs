//! What a room's log and an inbox have in common: a stream, and beside it notes of what it held and lost (`lua/notes.lua`).
//!
//! - A script that writes keeps the notes right, so that trimming reads no more than what is trimmed.
//! - The notes say when all is forgotten. Where there are none there is no stream, whatever Redis still has.

use super::command::{Command, Script};
use super::connection::Connection;
use crate::port::Result;
use crate::types::MessageClaim;
use bytes::Bytes;

/// A script on a stream and its notes.
macro_rules! stream_script {
    ($file:literal) => {
        $crate::redis::command::Script::new(concat!(include_str!("lua/notes.lua"), include_str!($file)))
    };
}
pub(super) use stream_script;

static READ: Script = stream_script!("lua/stream_read.lua");

/// How much a stream may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    pub(super) age_ms: u64,
}

/// An entry as it comes: its id, and fields and values in turn.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    pub(super) id: String,
    pub(super) body: Bytes,
    /// The value of the field that the log and the inbox have each of their own.
    pub(super) own: Vec<u8>,
}

/// As Redis gives an entry.
pub(super) type RawEntry = (String, Vec<Vec<u8>>);

impl Raw {
    /// An entry that is none of ours is passed over.
    pub(super) fn read((id, fields): RawEntry) -> Option<Self> {
        let mut values = fields.into_iter().skip(1).step_by(2);
        let (_at, body, own) = (values.next()?, values.next()?, values.next()?);
        Some(Self { id, body: body.into(), own })
    }
}

/// A call of a script that begins with the notes. `keys`: the stream, the notes, and more.
pub(super) fn call(script: &'static Script, keys: &[&str], bounds: Bounds, now_ms: u64) -> Command {
    Command::script(script, keys).arg(now_ms).arg(bounds.entries).arg(bounds.bytes).arg(bounds.age_ms)
}

/// The name of a claim among those of a stream.
pub(super) fn name_of(claim: &MessageClaim) -> String {
    format!("{}:{}:{}", claim.app, claim.user, claim.msg_id)
}

/// What to read of a stream.
#[derive(Debug)]
pub(super) struct Wanted {
    /// From this id on.
    pub(super) from: String,
    /// There is a gap where something after this one was trimmed.
    pub(super) gap_after: Option<String>,
    pub(super) limit: usize,
}

/// Entries, whether there are more behind them, and whether there is a gap before them.
pub(super) async fn read(
    connection: &Connection,
    what: &'static str,
    keys: [&str; 2],
    bounds: Bounds,
    wanted: Wanted,
    now_ms: u64,
) -> Result<(Vec<Raw>, bool, bool)> {
    // A stream holds no more than its bound; one entry more tells whether it ends here.
    let limit = wanted.limit.min(bounds.entries);
    let command =
        call(&READ, &keys, bounds, now_ms).arg(wanted.from).arg(wanted.gap_after.unwrap_or_default()).arg(limit.saturating_add(1));
    let (has_gap, mut entries): (bool, Vec<RawEntry>) = connection.run(what, command).await?;
    let has_more = entries.len() > limit;
    entries.truncate(limit);
    Ok((entries.into_iter().filter_map(Raw::read).collect(), has_more, has_gap))
}
