//! The journal of a run: what was sent, what arrived, who was lost; enough to do the sums again without believing the report.
//!
//! ```text
//!   run        1   version, scenario, seed, what kind of load
//!   room       n   members, and those of them who were lost
//!   message    n   a message the server accepted: times, its number there, copies due, received, received twice, overtaken
//!   refused    n   one that it did not, and copies that came all the same
//!   rest       n   per room, the sums of accepted messages beyond the first 200,000
//!   talk       n   one-to-one runs: per client, sent, refused, received
//!   beats      1   heartbeat runs: sent and echoed
//!   gifts      1   runs with gifts: what was meant to be sent, and the sums over all rooms
//!   sender     n   per client that sends: gifts acknowledged and refused, as ranges
//!   gift_room  n   per room: ACKs, and the sum of the places that they named
//!   pushes     n   per room, 512 at a time: pushes of gifts and their copies
//!   bars       n   per room, 512 at a time: values of the bar of a PK
//!   viewers    n   per room: what its viewers came to; those that lack nothing are one line
//!   lost       n   a connection that ended: who, why, when, how many copies it had
//!   login_failed n the same of a login
//!   gateway    1   the gateway's own counters over the run
//!   end        1   what the report states, how many lines there are, and a digest of them
//! ```
//!
//! - One JSON object a line, `t` names its kind. Times are nanoseconds of `CLOCK_MONOTONIC`.
//! - What was meant to be sent needs no lines: it follows from the `gifts` line ([`crate::gifts`]).
//! - Bounded: gifts by [`GIFTS_MAX`](crate::gifts::GIFTS_MAX), messages by [`KEPT_MAX`](crate::scenario::room_burst::KEPT_MAX), endings and failures by [`ENDS_MAX`](crate::worker::ENDS_MAX) a
//!   worker, clients by the crowd. What is beyond is in sums, so the account closes all the same.
//! - Written when the run is over: nothing here is in the way of the load. A run that is broken off has no journal.
//! - The digest tells of damage and of an edit, not of a forger, who would make it anew.

mod gifts;
mod read;

pub(crate) use gifts::{BarsLine, GiftRoomLine, GiftsLine, PushesLine, ViewersLine};
pub(crate) use read::{Evidence, Finding, RoomEvidence, check};

use crate::{
    crowd::senders::SenderLine,
    report::Report,
    scenario::{Answer, Script, measures::Measures},
    tally::MessageTally,
    worker::{Activity, End, Talk},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

/// Name of the file in the report's directory.
pub(crate) const FILE: &str = "journal.jsonl";
/// Changes with the meaning of a line.
const VERSION: u32 = 1;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub(crate) enum Line {
    Run(RunLine),
    Room(RoomLine),
    Message(MessageLine),
    Refused(RefusedLine),
    Rest(RestLine),
    Talk(Talk),
    Beats(BeatsLine),
    Gifts(Box<GiftsLine>),
    Sender(SenderLine),
    GiftRoom(GiftRoomLine),
    Pushes(PushesLine),
    Bars(BarsLine),
    Viewers(ViewersLine),
    Lost(End),
    LoginFailed(End),
    Gateway(GatewayLine),
    End(EndLine),
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunLine {
    /// [`VERSION`]
    pub(crate) journal: u32,
    pub(crate) scenario: String,
    pub(crate) seed: u64,
    pub(crate) kind: Kind,
    /// Logged in and, where there are rooms, joined.
    pub(crate) connections: u64,
    pub(crate) logins_failed: u64,
    /// Copies may come twice: they are resent until acknowledged.
    pub(crate) at_least_once: bool,
    /// Slow readers: class of the messages, bytes of a copy, connections that ended in a reset.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) lag: Option<LagLine>,
    /// Endings and failed logins that have no line.
    pub(crate) lost_omitted: u64,
    /// See `lost_omitted`.
    pub(crate) login_failed_omitted: u64,
    /// Frames that reached someone they were not for; journals did not always say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) strays: Option<u64>,
}

/// What was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Messages to rooms.
    Rooms,
    /// Messages between neighbours.
    Talks,
    /// Heartbeats.
    Beats,
    /// Gifts to rooms.
    Gifts,
}

/// See [`RunLine::lag`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LagLine {
    pub(crate) class: String,
    pub(crate) frame_bytes: u64,
    pub(crate) resets: u64,
}

/// A room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RoomLine {
    /// Its place in the run.
    pub(crate) room: usize,
    pub(crate) id: i64,
    /// When the load began.
    pub(crate) members: u32,
    /// Of these, lost before its end.
    pub(crate) lost: u32,
    /// First copies that those had.
    pub(crate) lost_received: u64,
}

/// A message that the server accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MessageLine {
    pub(crate) room: usize,
    /// The sender's number.
    pub(crate) n: u32,
    /// When it was due.
    pub(crate) intended_ns: u64,
    /// When the server's answer was there.
    pub(crate) accepted_ns: u64,
    /// Its place in the room's order, by that answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) seq: Option<i64>,
    /// Its id, where it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) msg_id: Option<String>,
    /// Copies: members when the load began.
    pub(crate) expected: u64,
    #[serde(flatten)]
    pub(crate) copies: Copies,
}

/// A message that it did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusedLine {
    pub(crate) room: usize,
    pub(crate) n: u32,
    pub(crate) intended_ns: u64,
    pub(crate) answered_ns: u64,
    pub(crate) cause: String,
    #[serde(flatten)]
    pub(crate) copies: Copies,
}

/// Messages of a room that have no line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestLine {
    pub(crate) room: usize,
    pub(crate) messages: u64,
    pub(crate) expected: u64,
    #[serde(flatten)]
    pub(crate) copies: Copies,
}

/// What became of copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Copies {
    /// First copies.
    pub(crate) received: u64,
    /// Copies that their receiver had already.
    pub(crate) twice: u64,
    /// First copies behind something later.
    pub(crate) overtaken: u64,
}

impl Copies {
    fn of(tally: Option<&MessageTally>) -> Self {
        tally.map_or_else(Self::default, |tally| Self {
            received: tally.received.into(),
            twice: tally.twice.into(),
            overtaken: tally.overtaken.into(),
        })
    }

    fn add(&mut self, other: Self) {
        self.received += other.received;
        self.twice += other.twice;
        self.overtaken += other.overtaken;
    }

    fn without(self, other: Self) -> Self {
        Self { received: self.received - other.received, twice: self.twice - other.twice, overtaken: self.overtaken - other.overtaken }
    }
}

/// Heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BeatsLine {
    pub(crate) sent: u64,
    pub(crate) echoed: u64,
}

/// What the gateway counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GatewayLine {
    /// Copies that pushes asked for.
    pub(crate) copies: u64,
    /// Copies written, by class.
    pub(crate) delivered: BTreeMap<String, u64>,
    /// Copies given up, by class.
    pub(crate) dropped: BTreeMap<String, u64>,
    /// Connections ended, by reason.
    pub(crate) closes: BTreeMap<String, u64>,
    /// By how many more copies waited than before; `None`: the gateways were not asked, did not say, or one of them began anew.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) pending: Option<i64>,
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndLine {
    #[serde(flatten)]
    pub(crate) stated: Stated,
    /// What the run found wrong, in the report's sentences; empty: it passed.
    #[serde(default)]
    pub(crate) problems: Vec<String>,
    /// Lines before this one.
    pub(crate) lines: u64,
    /// Of these, in hexadecimal: FNV-1a of 64 bits over their bytes, line ends included.
    pub(crate) digest: String,
}

/// The figures of the report that the journal must come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stated {
    pub(crate) sent: u64,
    pub(crate) expected: u64,
    pub(crate) received: u64,
    pub(crate) dropped: BTreeMap<String, u64>,
    pub(crate) missing: u64,
    pub(crate) duplicates: u64,
    pub(crate) order_breaks: u64,
}

impl Stated {
    fn of(report: &Report) -> Self {
        Self {
            sent: report.sent,
            expected: report.expected,
            received: report.received,
            dropped: report.dropped.clone(),
            missing: report.missing,
            duplicates: report.duplicates,
            order_breaks: report.order_breaks,
        }
    }
}

/// What a journal is written from.
pub(crate) struct Journal<'a> {
    pub(crate) script: &'a Script,
    pub(crate) seed: u64,
    pub(crate) room_ids: &'a [i64],
    pub(crate) measures: &'a Measures,
    pub(crate) report: &'a Report,
}

impl Journal<'_> {
    /// Writes it into the report's directory.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        self.write_to(BufWriter::new(File::create(directory.join(FILE))?))
    }

    fn write_to(&self, to: impl Write) -> io::Result<()> {
        let mut to = Digesting { to, lines: 0, digest: DIGEST_OF_NOTHING };
        to.line(&Line::Run(self.run()))?;
        match self.kind() {
            Kind::Rooms => self.write_rooms(&mut to)?,
            Kind::Talks => self.measures.seen.talks.iter().try_for_each(|talk| to.line(&Line::Talk(talk.clone())))?,
            Kind::Gifts => self.write_gifts(&mut to)?,
            Kind::Beats => to.line(&Line::Beats(BeatsLine { sent: self.report.sent, echoed: self.report.received }))?,
        }
        let seen = &self.measures.seen;
        seen.ends.iter().try_for_each(|end| to.line(&Line::Lost(end.clone())))?;
        seen.failed.iter().try_for_each(|end| to.line(&Line::LoginFailed(end.clone())))?;
        to.line(&Line::Gateway(self.gateway()))?;
        to.end(Stated::of(self.report), self.report.problems())
    }

    fn kind(&self) -> Kind {
        match self.script.activity {
            Activity::Listen if self.measures.load.accepted.is_empty() => Kind::Beats,
            Activity::Listen => Kind::Rooms,
            Activity::Chat { .. } => Kind::Talks,
            Activity::Echo { .. } => Kind::Beats,
            Activity::Gifts => Kind::Gifts,
        }
    }

    fn run(&self) -> RunLine {
        let Measures { settled, seen, .. } = self.measures;
        RunLine {
            journal: VERSION,
            scenario: self.script.name.to_owned(),
            seed: self.seed,
            kind: self.kind(),
            connections: settled.settled as u64,
            logins_failed: settled.failures.values().sum(),
            at_least_once: self.script.at_least_once,
            lag: self.script.slow.map(|slow| LagLine {
                class: slow.class.label().to_owned(),
                frame_bytes: seen.frame_bytes as u64,
                resets: seen.resets,
            }),
            lost_omitted: seen.ends_omitted,
            login_failed_omitted: seen.failed_omitted,
            strays: Some(self.measures.strays()),
        }
    }

    fn write_rooms(&self, to: &mut Digesting<impl Write>) -> io::Result<()> {
        let Measures { settled, load, seen, .. } = self.measures;
        // What has no line of its own is the whole of a room without what has.
        let mut rest: Vec<RestLine> = Vec::new();
        for (room, &id) in self.room_ids.iter().enumerate() {
            let members = settled.members.get(room).copied().unwrap_or(0);
            let ends = seen.room_ends.get(room).copied().unwrap_or_default();
            to.line(&Line::Room(RoomLine { room, id, members, lost: ends.members, lost_received: ends.received }))?;
            let mut copies = Copies::default();
            seen.messages.get(room).into_iter().flatten().for_each(|message| copies.add(Copies::of(Some(message))));
            rest.push(RestLine { room, messages: load.accepted[room].into(), expected: members.into(), copies });
        }
        for sent in &load.sent {
            let (room, n, intended_ns) = (sent.room, sent.message.number, sent.message.intended_ns);
            let copies = Copies::of(self.measures.message(room, n));
            let left = &mut rest[room];
            left.copies = left.copies.without(copies);
            match &sent.answer {
                Answer::Accepted(pushed) => {
                    left.messages -= 1;
                    let (seq, msg_id, expected) = (pushed.seq, pushed.msg_id.clone(), left.expected);
                    to.line(&Line::Message(MessageLine {
                        room,
                        n,
                        intended_ns,
                        accepted_ns: sent.answered_ns,
                        seq,
                        msg_id,
                        expected,
                        copies,
                    }))?;
                }
                Answer::Refused(cause) => {
                    let cause = cause.clone();
                    to.line(&Line::Refused(RefusedLine { room, n, intended_ns, answered_ns: sent.answered_ns, cause, copies }))?;
                }
            }
        }
        for mut left in rest {
            left.expected *= left.messages;
            if left.messages > 0 || left.copies != Copies::default() {
                to.line(&Line::Rest(left))?;
            }
        }
        Ok(())
    }

    fn gateway(&self) -> GatewayLine {
        let Some(counters) = &self.measures.counters else { return GatewayLine::default() };
        GatewayLine {
            copies: counters.sum(crate::http::COPIES),
            delivered: counters.by_label(crate::http::DELIVERED, "class", None),
            dropped: counters.by_label(crate::http::DROPPED, "class", None),
            closes: counters.by_label(crate::http::CLOSES, "reason", None),
            pending: counters.pending.filter(|_| counters.imbalance().is_some()),
        }
    }
}

/// Writes lines and counts them.
struct Digesting<W> {
    to: W,
    lines: u64,
    digest: u64,
}

/// A journal of these lines, as a run would have written it.
#[cfg(test)]
pub(crate) fn written(lines: &[Line], stated: &Stated) -> String {
    let mut bytes = Vec::new();
    let mut to = Digesting { to: &mut bytes, lines: 0, digest: DIGEST_OF_NOTHING };
    lines.iter().try_for_each(|line| to.line(line)).expect("a vector takes all bytes");
    to.end(stated.clone(), Vec::new()).expect("a vector takes all bytes");
    String::from_utf8(bytes).expect("JSON is text")
}

/// [`VERSION`], for lines that are written by hand.
#[cfg(test)]
pub(crate) const VERSION_NOW: u32 = VERSION;

const DIGEST_OF_NOTHING: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a.
fn digest(so_far: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(so_far, |digest, &byte| (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl<W: Write> Digesting<W> {
    fn line(&mut self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.lines += 1;
        self.digest = digest(self.digest, &bytes);
        self.to.write_all(&bytes)
    }

    fn end(mut self, stated: Stated, problems: Vec<String>) -> io::Result<()> {
        let end = EndLine { stated, problems, lines: self.lines, digest: format!("{:016x}", self.digest) };
        self.line(&Line::End(end))?;
        self.to.flush()
    }
}
