//! The time of all processes on one Redis: its clock and an offset that is kept there, moved by a vote when that clock jumps.
//!
//! - Each process tells once in a while by how much its own clock, which counts and never jumps, is ahead of the time of all. When most
//!   are ahead by as much, Redis' clock has jumped: the script moves the offset, and the time of all goes on as if nothing had happened.
//! - Who is shown to be the odd one has slept, and takes the time of all: since it deviates as it does, most of the others have agreed with
//!   that time as it is. That no majority has been found yet shows nothing.
//! - Who is new has no vote until it has agreed for a while, and waits while others vote. A voter is a node, whatever its life.
//! - The offset nears 0 by 20 ms a second, and processes follow that gently. So times that people see become true again, unnoticed.
//! - A pulse writes, and says what the data of this Redis was `born` as: it also tells a Redis that takes no writes, and one that was
//!   emptied behind a connection that stayed.
//!
//! Pure, but for the pulse itself: the reading and the moment come in.

use super::command::{Command, Script};
use super::connection::Connection;
use crate::port::Result;
use std::time::Duration;
use tokio::time::Instant;

static PULSE: Script = Script::new(include_str!("lua/pulse.lua"));

/// Between two pulses. Four commands each time and process: every second would be as dear as the heartbeats of 6,000 users.
pub(super) const PULSE_EVERY: Duration = Duration::from_secs(2);
/// While something is amiss, and until it has a vote.
pub(super) const PULSE_IN_DOUBT: Duration = Duration::from_secs(1);
/// A difference that is no drift. Known to the script, too.
const APART_MS: u64 = 500;
/// A difference that may be the network's.
const LEFT_ALONE_MS: u64 = 5;
/// How far the clock goes in one step that nobody is to notice: some more than the offset goes meanwhile.
const FOLLOW_MAX_MS: i64 = 60;
/// Deviations that are one.
const ALIKE_MS: u64 = 300;
/// Apart for so long while the others agree, this clock was wrong: had it been right, they would have voted within a pulse and one in doubt.
const OUTVOTED_AFTER: Duration = Duration::from_secs(6);
/// Apart for so long while all say something else, no majority will be found any more.
const SCATTERED_AFTER: Duration = Duration::from_secs(15);
/// A process that is new waits so long for the others' vote: more than they need to be rid of those who died.
const DECIDED_WITHIN: Duration = Duration::from_secs(15);
/// And so long where no voter pulses any more: nobody is left who remembers.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
/// Then it looks this often.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Readings before a process has a vote: the first sets its clock, and the others tell whether it keeps to it, for as long as it may take
/// the others to deny what it read.
const READINGS_BEFORE_VOTE: u32 = 3;

/// What Redis answered to a pulse, and what it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) server_ms: u64,
    /// By how much the time of all is ahead of the server's clock.
    pub(super) offset_ms: i64,
    /// How often the offset was moved.
    pub(super) moves: u64,
    pub(super) born: String,
    /// The clock of the server may have jumped, and the others not have voted yet.
    pub(super) is_in_doubt: bool,
    /// Of pulses with a vote.
    pub(super) count: u64,
    pub(super) others: Others,
    pub(super) round_trip: Duration,
    /// What this process' clock showed when it asked.
    pub(super) asked_ms: u64,
}

/// What the others have said since this process' clock is as far off as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// Nothing that decides.
    Undecided,
    /// Most agree with the time of all as it is.
    Agree,
    /// All have said something, and too few of them the same as this process.
    Scattered,
}

/// What is to be done about a reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The clock is to go on from here.
    pub(super) shift_ms: i64,
    /// That is no drift, but a step.
    pub(super) is_step: bool,
    /// The offset was moved, for the server's clock has jumped.
    pub(super) is_moved: bool,
    /// What the store held may be gone: it was emptied, or what ended by its clock, or by this one, ended too soon.
    pub(super) may_have_forgotten: bool,
    /// All that it held is gone.
    pub(super) is_reborn: bool,
    /// It was not judged by this reading, but will be by a later one.
    pub(super) is_put_off: bool,
}

/// One process' part in it.
#[derive(Debug)]
pub(super) struct Pulse {
    node: String,
    /// That say something for it: while it is new, those that nobody denied.
    readings: u32,
    last: Option<Last>,
    apart: Option<Apart>,
    /// While it is new.
    wait: Option<Wait>,
}

/// A deviation that stays the same, so that the clock of the server has not jumped since.
#[derive(Clone, Copy, Debug)]
struct Apart {
    since: Instant,
    /// Of pulses, then.
    count: u64,
    ahead_ms: i64,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    since: Instant,
    /// A voter pulsed last.
    heard: Instant,
    count: u64,
}

#[derive(Debug)]
struct Last {
    born: String,
    moves: u64,
    ahead_ms: i64,
}

impl Pulse {
    /// Of the node of this name, which no other has.
    pub(super) fn new(node: &str) -> Self {
        Self { node: node.to_owned(), readings: 0, last: None, apart: None, wait: None }
    }

    /// Whether the clock has been set by that of Redis.
    pub(super) fn has_been_read(&self) -> bool {
        self.last.is_some()
    }

    /// When to pulse again.
    pub(super) fn next(&self) -> Duration {
        if self.last.is_none() {
            LOOK_AGAIN
        } else if self.apart.is_some() || self.readings < READINGS_BEFORE_VOTE {
            PULSE_IN_DOUBT
        } else {
            PULSE_EVERY
        }
    }

    /// What is told of this clock: by how much it was ahead, and under what it was read.
    pub(super) fn vote(&self) -> (String, String) {
        let ahead = match &self.last {
            _ if self.readings < READINGS_BEFORE_VOTE => "new".to_owned(),
            None => "?".to_owned(),
            Some(last) => last.ahead_ms.to_string(),
        };
        let read_under = self.last.as_ref().map(|last| format!("{}%{}", last.born, last.moves)).unwrap_or_default();
        (ahead, read_under)
    }

    /// The count at which it first read the deviation that it has.
    fn apart_since(&self) -> String {
        self.apart.map_or_else(|| "-".to_owned(), |apart| apart.count.to_string())
    }

    /// Asks. The clock shows `asked_ms`.
    pub(super) fn command(&self, connection: &Connection, asked_ms: u64) -> Command {
        let (ahead, read_under) = self.vote();
        // Late a second time it would vote with a clock of the past.
        Command::script(&PULSE, &[&connection.keys().pulse()])
            .arg(&self.node)
            .arg(asked_ms)
            .arg(ahead)
            .arg(read_under)
            // Another each time: a hash that is gone is not to be born as the same again.
            .arg(token())
            .arg(self.apart_since())
            .once()
    }

    pub(super) fn on_reading(&mut self, reading: &Reading, now: Instant) -> Verdict {
        let half_ms = i64::try_from(reading.round_trip.as_millis() / 2).unwrap_or(i64::MAX);
        let here_ms = reading.asked_ms.saturating_add_signed(half_ms);
        let there_ms = reading.server_ms.saturating_add_signed(reading.offset_ms);
        let ahead_ms = here_ms.cast_signed().saturating_sub(there_ms.cast_signed());
        let is_apart = ahead_ms.unsigned_abs() > APART_MS;
        let is_new = self.readings < READINGS_BEFORE_VOTE;
        let mut verdict = Verdict::default();
        // Where the wall clock that a process starts with says the same there is no doubt.
        let is_doubted = is_new && self.waits(reading, now);
        if is_apart && is_doubted {
            verdict.is_put_off = true;
            return verdict;
        }
        if let Some(last) = &self.last {
            verdict.is_reborn = last.born != reading.born;
            verdict.is_moved = !verdict.is_reborn && last.moves != reading.moves;
            // Whatever had less than the jump to live is gone from Redis.
            verdict.may_have_forgotten = verdict.is_reborn || verdict.is_moved;
            if verdict.may_have_forgotten {
                self.apart = None;
            }
        }
        let same = self.apart.take().filter(|apart| apart.ahead_ms.abs_diff(ahead_ms) <= ALIKE_MS);
        let (since, count) = same.map_or((now, reading.count), |apart| (apart.since, apart.count));
        let apart_for = now.duration_since(since);
        let is_odd = match reading.others {
            Others::Undecided => false,
            Others::Agree => is_apart && apart_for >= OUTVOTED_AFTER,
            Others::Scattered => is_apart && apart_for >= SCATTERED_AFTER,
        };
        if self.last.is_none() || is_odd || (is_apart && is_new) {
            verdict.shift_ms = ahead_ms.saturating_neg();
            verdict.is_step = true;
            // This process' own judgement of what is old was wrong, not the store.
            verdict.may_have_forgotten |= self.last.is_some();
            if is_new {
                self.readings = 0;
            }
        } else if is_apart {
            self.apart = Some(Apart { since, count, ahead_ms });
        } else if ahead_ms.unsigned_abs() > LEFT_ALONE_MS {
            verdict.shift_ms = ahead_ms.saturating_neg().clamp(-FOLLOW_MAX_MS, FOLLOW_MAX_MS);
        }
        if !is_doubted {
            self.readings = self.readings.saturating_add(1);
        }
        let ahead_ms = ahead_ms.saturating_add(verdict.shift_ms);
        self.last = Some(Last { born: reading.born.clone(), moves: reading.moves, ahead_ms });
        verdict
    }

    /// For those who remember to decide, as long as there are any.
    fn waits(&mut self, reading: &Reading, now: Instant) -> bool {
        if !reading.is_in_doubt {
            self.wait = None;
            return false;
        }
        let count = reading.count;
        let wait = self.wait.get_or_insert(Wait { since: now, heard: now, count });
        if wait.count != count {
            (wait.heard, wait.count) = (now, count);
        }
        now.duration_since(wait.since) < DECIDED_WITHIN && now.duration_since(wait.heard) < HEARD_WITHIN
    }
}

/// Sends a pulse and waits for what Redis says.
pub(super) async fn read(connection: &Connection, command: Command, asked_ms: u64) -> Result<Reading> {
    let asked = Instant::now();
    let answer = connection.run("reading the time", command).await?;
    Ok(reading_of(answer, asked.elapsed(), asked_ms))
}

/// As the script answers.
type Answer = (u64, i64, u64, String, bool, u64, u8);

fn reading_of(answer: Answer, round_trip: Duration, asked_ms: u64) -> Reading {
    let (server_ms, offset_ms, moves, born, is_in_doubt, count, others) = answer;
    let others = match others {
        1 => Others::Agree,
        2 => Others::Scattered,
        _ => Others::Undecided,
    };
    Reading { server_ms, offset_ms, moves, born, is_in_doubt, count, others, round_trip, asked_ms }
}

/// What nobody else draws.
pub(super) fn token() -> String {
    format!("{:016x}", fastrand::u64(..))
}

#[cfg(test)]
mod tests;
