//! What a journal proves. Pure: entries in, findings out.
//!
//! | breach | rule |
//! |---|---|
//! | lost | a room message or push that was acknowledged is seen by every member whose stay began before it was sent and lasts to the end; an acknowledged message to a user is seen by that user |
//! | duplicate | no client is shown a message twice, acknowledged or not; a message to a user is shown on one of the user's clients, once |
//! | order | `seq` rises strictly at each client and room; one `seq` of a room is one message everywhere; the sender was told the `seq` that others see |
//! | foreign | nothing of a room one is not in, nothing that is addressed to another user |
//! | overlap | one live connection per user (and device: each user of the load has one kind): an older one ends within [`OVERLAP_MS_MAX`], counted from the end of the fault that was on |
//! | put out | no member is told 4004 for a message to the room it is in |
//! | unanswered | when all is quiet, every message or gift sent was accepted or refused |
//! | money | see [`money`]: what was acknowledged is paid once, what is paid was given, and every sum adds up |
//! | not recovered | after every fault all nodes were ready and all clients connected again, in the runner's time |
//!
//! Excused, and counted:
//! - By a JOIN answered with `gap: true`: what lies between the last message seen before and the first seen after, for that client and room;
//!   of gifts, whose places are of another count, all of them.
//! - Chat (not pushes) that was accepted while the shared state was away, for clients that came back after it was sent: no log has it,
//!   and QoS 0 promises no more.

mod money;
#[cfg(test)]
mod tests;

use crate::journal::{Entry, What};
use money::Gifts;
use std::collections::{BTreeMap, BTreeSet};

/// How long a user's older connection may outlive the newer one's login.
pub const OVERLAP_MS_MAX: u64 = 10_000;
/// After the end of a fault that took the store away, owners may still find out that it is back.
const STORE_BACK_MS: u64 = 10_000;
/// What a stranger hears of a room.
const ROOM_NOT_FOUND: &str = "room_not_found";
/// Breaches that are told one by one; the rest are counted.
const TOLD_MAX: usize = 40;

/// What went wrong, of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Breach {
    /// Acknowledged and not seen.
    Lost,
    /// Shown twice.
    Duplicate,
    /// Out of the room's order.
    Order,
    /// Seen by someone who must not.
    Foreign,
    /// Two live connections of one user.
    Overlap,
    /// A member whose room is said not to be there, or not to have him.
    PutOut,
    /// Neither accepted nor refused.
    Unanswered,
    /// Paid twice, or not although it was acknowledged; a sum that does not add up.
    Money,
    /// The cluster did not come back.
    NotRecovered,
}

/// All that a journal says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Faults that were injected.
    pub faults: u64,
    /// Chat messages to rooms that were acknowledged.
    pub acked_room: u64,
    /// Messages to users that were acknowledged.
    pub acked_user: u64,
    /// Pushes to rooms that the API accepted.
    pub pushed: u64,
    /// Gifts that were acknowledged.
    pub acked_gifts: u64,
    /// Gifts that the ledger had at the end.
    pub paid_gifts: u64,
    /// Messages and gifts that were refused, and pushes that failed.
    pub refused: u64,
    /// Messages that were refused, by reason; the API's are `push`.
    pub refused_by: BTreeMap<String, u64>,
    /// Messages shown, and gifts.
    pub seen: u64,
    /// Breaches by kind.
    pub breaches: BTreeMap<Breach, u64>,
    /// Some of the breaches, in words.
    pub told: Vec<String>,
    /// Joins answered with `gap: true`.
    pub gaps: u64,
    /// Copies excused by these.
    pub excused_gap: u64,
    /// Copies of chat excused because no log had it while the store was away.
    pub excused_away: u64,
    /// Logins after a client's first.
    pub reconnects: u64,
    /// Longest time without anything shown to anyone of a room while it had traffic.
    pub longest_room_gap_ms: u64,
    /// Longest time without anything shown to one member of such a room.
    pub longest_client_gap_ms: u64,
    /// Longest time from the end of a fault until all was well.
    pub longest_recovery_ms: u64,
    /// Longest time two connections of one user lived beside each other.
    pub longest_overlap_ms: u64,
}

impl Findings {
    /// Nothing was breached.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.breaches.is_empty()
    }

    /// Breaches of one kind.
    #[must_use]
    pub fn count(&self, breach: Breach) -> u64 {
        self.breaches.get(&breach).copied().unwrap_or(0)
    }

    fn breach(&mut self, breach: Breach, told: impl FnOnce() -> String) {
        *self.breaches.entry(breach).or_default() += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(format!("{breach:?}: {}", told()));
        }
    }
}

/// Reads the whole journal of a run that ended in quiet.
#[must_use]
pub fn check(entries: &[Entry]) -> Findings {
    let mut history = History::default();
    for entry in entries {
        history.take(entry);
    }
    history.judge()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Room(i64),
    User(i64),
}

#[derive(Debug)]
struct Message {
    target: Target,
    /// The client that sent it; none for a push of the API.
    sender: Option<u32>,
    sent_ms: u64,
    acked_ms: Option<u64>,
    /// As the sender was told, or as someone saw it.
    seq: Option<i64>,
}

/// One client in one room.
#[derive(Debug, Default)]
struct Stay {
    /// Since when it has been in the room, while it is.
    since_ms: Option<u64>,
    last_seq: Option<i64>,
    /// A gap was announced and nothing has been seen since: it reaches from here.
    open_gap: Option<i64>,
    /// Excused: what lies between.
    gaps: Vec<(i64, i64)>,
    /// Joins after the first of the stay.
    resumed_ms: Vec<u64>,
}

#[derive(Debug)]
struct Live {
    client: u32,
    from_ms: u64,
    to_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct FaultTime {
    from_ms: u64,
    to_ms: Option<u64>,
    is_store_away: bool,
}

/// `Some(seq)`: accepted, with its place where it was told; `None`: refused.
type Answer = Option<Option<i64>>;

#[derive(Debug, Default)]
struct History {
    findings: Findings,
    messages: BTreeMap<u64, Message>,
    by_msg: BTreeMap<(u32, String), u64>,
    /// Answers that came before the journal heard of their message.
    early: BTreeMap<(u32, String), (u64, Answer)>,
    users: BTreeMap<u32, i64>,
    stays: BTreeMap<(u32, i64), Stay>,
    shown: BTreeMap<(u32, u64), u32>,
    shown_user: BTreeMap<u64, u32>,
    showings: Vec<(u32, u64, Option<i64>)>,
    refused: BTreeSet<u64>,
    /// Messages answered with 4004, and when.
    not_found: BTreeMap<(u32, String), u64>,
    places: BTreeMap<(i64, i64), u64>,
    lives: BTreeMap<i64, Vec<Live>>,
    logged_in: BTreeSet<u32>,
    room_traffic: BTreeMap<i64, (u64, u64)>,
    room_seen: BTreeMap<i64, Vec<u64>>,
    client_seen: BTreeMap<(u32, i64), Vec<u64>>,
    faults: BTreeMap<u32, FaultTime>,
    recovered: BTreeSet<u32>,
    gifts: Gifts,
    last_ms: u64,
}

impl History {
    fn take(&mut self, entry: &Entry) {
        let at_ms = entry.at_ms;
        self.last_ms = self.last_ms.max(at_ms);
        match &entry.what {
            What::Connected { client, user, .. } => self.connected(at_ms, *client, *user),
            What::Disconnected { client, .. } => self.disconnected(at_ms, *client),
            What::Closed { client, .. } => {
                self.disconnected(at_ms, *client);
                for (_, stay) in self.stays.iter_mut().filter(|((owner, _), _)| owner == client) {
                    stay.since_ms = None;
                }
            }
            What::Joined { client, room, gap } => self.joined(at_ms, *client, *room, *gap),
            What::Left { client, room } => {
                if let Some(stay) = self.stays.get_mut(&(*client, *room)) {
                    *stay = Stay { last_seq: stay.last_seq, ..Stay::default() };
                }
            }
            What::SentRoom { client, id, room, msg, began_ms } => {
                let traffic = self.room_traffic.entry(*room).or_insert((at_ms, at_ms));
                traffic.1 = at_ms;
                self.sent(*began_ms, *client, *id, Target::Room(*room), msg);
            }
            What::SentUser { client, id, user, msg, began_ms } => self.sent(*began_ms, *client, *id, Target::User(*user), msg),
            What::Acked { client, msg, .. } if self.gifts.acked(*client, msg) => self.findings.acked_gifts += 1,
            What::Acked { client, msg, seq } => self.answered(at_ms, *client, msg, Some(seq.filter(|&seq| seq != 0))),
            What::Refused { client, msg, reason } => {
                *self.findings.refused_by.entry(reason.clone()).or_default() += 1;
                if self.gifts.refused(*client, msg) {
                    self.findings.refused += 1;
                    return;
                }
                if reason == ROOM_NOT_FOUND {
                    self.not_found.insert((*client, msg.clone()), at_ms);
                }
                self.answered(at_ms, *client, msg, None);
            }
            What::Pushed { id, room, began_ms, seq } => {
                self.findings.pushed += 1;
                let message = Message { target: Target::Room(*room), sender: None, sent_ms: *began_ms, acked_ms: Some(at_ms), seq: *seq };
                self.messages.insert(*id, message);
            }
            What::PushFailed { .. } => {
                self.findings.refused += 1;
                *self.findings.refused_by.entry("push".to_owned()).or_default() += 1;
            }
            // That it is not in is seen by what it lacks; how long things took is measured elsewhere.
            What::RoomRefused { .. }
            | What::Ready { .. }
            | What::Exited { .. }
            | What::Offline { .. }
            | What::GivenUp { .. }
            | What::Moved { .. } => {}
            What::Seen { client, id, room, seq } => self.seen(at_ms, *client, *id, *room, *seq),
            What::SentGift { .. } | What::Paid { .. } | What::Purse { .. } | What::Books { .. } => self.gifts.take(&entry.what),
            What::SeenGifts { client, room, places } => {
                self.findings.seen += u64::try_from(places.len()).unwrap_or(u64::MAX);
                self.gifts.take(&entry.what);
                if self.stays.get(&(*client, *room)).is_none_or(|stay| stay.since_ms.is_none()) {
                    self.findings.breach(Breach::Foreign, || format!("client {client} was shown gifts of room {room}, where it is not"));
                }
            }
            What::FaultBegan { repeat, is_store_away, .. } => {
                self.findings.faults += 1;
                self.faults.insert(*repeat, FaultTime { from_ms: at_ms, to_ms: None, is_store_away: *is_store_away });
            }
            What::FaultEnded { repeat } => {
                if let Some(fault) = self.faults.get_mut(repeat) {
                    fault.to_ms = Some(at_ms);
                }
            }
            What::Recovered { repeat } => {
                self.recovered.insert(*repeat);
                if let Some(FaultTime { to_ms: Some(ended), .. }) = self.faults.get(repeat) {
                    self.findings.longest_recovery_ms = self.findings.longest_recovery_ms.max(at_ms - ended);
                }
            }
        }
    }

    fn connected(&mut self, at_ms: u64, client: u32, user: i64) {
        self.disconnected(at_ms, client);
        self.users.insert(client, user);
        if !self.logged_in.insert(client) {
            self.findings.reconnects += 1;
        }
        self.lives.entry(user).or_default().push(Live { client, from_ms: at_ms, to_ms: None });
    }

    fn disconnected(&mut self, at_ms: u64, client: u32) {
        let Some(lives) = self.users.get(&client).and_then(|user| self.lives.get_mut(user)) else { return };
        for live in lives.iter_mut().filter(|live| live.client == client && live.to_ms.is_none()) {
            live.to_ms = Some(at_ms);
        }
    }

    fn joined(&mut self, at_ms: u64, client: u32, room: i64, gap: bool) {
        let stay = self.stays.entry((client, room)).or_default();
        if gap {
            self.findings.gaps += 1;
        }
        if stay.since_ms.is_none() {
            stay.since_ms = Some(at_ms);
            return;
        }
        stay.resumed_ms.push(at_ms);
        if gap && stay.open_gap.is_none() {
            stay.open_gap = Some(stay.last_seq.unwrap_or(0));
        }
    }

    fn sent(&mut self, began_ms: u64, client: u32, id: u64, target: Target, msg: &str) {
        let key = (client, msg.to_owned());
        self.messages.insert(id, Message { target, sender: Some(client), sent_ms: began_ms, acked_ms: None, seq: None });
        self.by_msg.insert(key.clone(), id);
        if let Some((answered_ms, answer)) = self.early.remove(&key) {
            self.answered(answered_ms, client, msg, answer);
        }
    }

    fn answered(&mut self, at_ms: u64, client: u32, msg: &str, answer: Answer) {
        let key = (client, msg.to_owned());
        let Some(&id) = self.by_msg.get(&key) else {
            self.early.insert(key, (at_ms, answer));
            return;
        };
        let Some(message) = self.messages.get_mut(&id) else { return };
        let Some(seq) = answer else {
            self.findings.refused += 1;
            self.refused.insert(id);
            return;
        };
        match message.target {
            Target::Room(_) => self.findings.acked_room += 1,
            Target::User(_) => self.findings.acked_user += 1,
        }
        message.acked_ms = Some(at_ms);
        if let (Some(told), Some(known)) = (seq, message.seq)
            && told != known
        {
            self.findings.breach(Breach::Order, || format!("message {id} was acknowledged as {told} and seen as {known}"));
        }
        message.seq = message.seq.or(seq);
    }

    fn seen(&mut self, at_ms: u64, client: u32, id: u64, room: Option<i64>, seq: Option<i64>) {
        self.findings.seen += 1;
        let times = self.shown.entry((client, id)).or_default();
        *times += 1;
        if *times > 1 {
            self.findings.breach(Breach::Duplicate, || format!("client {client} was shown message {id} again at {at_ms}"));
        }
        self.showings.push((client, id, room));
        let Some(room) = room else {
            *self.shown_user.entry(id).or_default() += 1;
            return;
        };
        let stay = self.stays.entry((client, room)).or_default();
        if stay.since_ms.is_none() {
            self.findings.breach(Breach::Foreign, || format!("client {client} was shown message {id} of room {room}, where it is not"));
        }
        self.room_seen.entry(room).or_default().push(at_ms);
        self.client_seen.entry((client, room)).or_default().push(at_ms);
        let Some(seq) = seq else { return };
        if let Some(after) = stay.open_gap.take() {
            stay.gaps.push((after, seq));
        }
        if let Some(last) = stay.last_seq
            && seq <= last
        {
            self.findings.breach(Breach::Order, || format!("client {client} was shown {seq} of room {room} after {last} at {at_ms}"));
        }
        stay.last_seq = stay.last_seq.max(Some(seq));
        let first = *self.places.entry((room, seq)).or_insert(id);
        if first != id {
            self.findings.breach(Breach::Order, || format!("{seq} of room {room} is message {first} and message {id}"));
        }
        if let Some(message) = self.messages.get_mut(&id) {
            match message.seq {
                Some(known) if known != seq => {
                    self.findings.breach(Breach::Order, || format!("message {id} of room {room} is {known} and {seq}"));
                }
                Some(_) => {}
                None => message.seq = Some(seq),
            }
        }
    }

    fn judge_put_out(&self, findings: &mut Findings) {
        for (key, &at_ms) in &self.not_found {
            let Some(Message { target: Target::Room(room), sent_ms, .. }) = self.by_msg.get(key).and_then(|id| self.messages.get(id))
            else {
                continue;
            };
            let is_in = self.stays.get(&(key.0, *room)).and_then(|stay| stay.since_ms).is_some_and(|since| since <= *sent_ms);
            if is_in {
                findings
                    .breach(Breach::PutOut, || format!("client {}, a member of room {room}, was told at {at_ms} that it is none", key.0));
            }
        }
    }

    /// Each message was for the one who was shown it: only now all messages are known.
    fn judge_showings(&self, findings: &mut Findings) {
        for &(client, id, room) in &self.showings {
            let Some(message) = self.messages.get(&id) else { continue };
            let is_right = match (message.target, room) {
                (Target::Room(to), Some(room)) => to == room,
                (Target::User(to), None) => self.users.get(&client) == Some(&to),
                (Target::Room(_), None) | (Target::User(_), Some(_)) => false,
            };
            if !is_right {
                let target = message.target;
                findings
                    .breach(Breach::Foreign, || format!("client {client} was shown message {id}, which is for {target:?}, in {room:?}"));
            }
        }
    }

    fn judge(mut self) -> Findings {
        let mut findings = std::mem::take(&mut self.findings);
        for (&id, message) in &self.messages {
            match (message.acked_ms, message.target) {
                (Some(acked_ms), Target::Room(room)) => self.judge_room(&mut findings, id, message, room, acked_ms),
                (Some(_), Target::User(user)) => {
                    if !self.shown_user.contains_key(&id) {
                        let (at, told) = (message.sent_ms, message.sender);
                        findings
                            .breach(Breach::Lost, || format!("message {id} of client {told:?}, sent at {at}, never reached user {user}"));
                    }
                }
                (None, _) if self.refused.contains(&id) => {}
                (None, target) => {
                    let (at, who) = (message.sent_ms, message.sender);
                    findings.breach(Breach::Unanswered, || format!("message {id} of client {who:?} to {target:?}, sent at {at}"));
                }
            }
        }
        for (id, times) in &self.shown_user {
            if *times > 1 && !self.messages.get(id).is_some_and(|message| matches!(message.target, Target::Room(_))) {
                let same = self.shown.iter().filter(|((_, shown), _)| shown == id).count();
                // Twice at one client has been told already.
                if same > 1 {
                    findings.breach(Breach::Duplicate, || format!("message {id} was shown on {same} clients of its receiver"));
                }
            }
        }
        self.judge_gifts(&mut findings);
        self.judge_put_out(&mut findings);
        self.judge_showings(&mut findings);
        self.judge_lives(&mut findings);
        for (repeat, fault) in &self.faults {
            if !self.recovered.contains(repeat) {
                findings.breach(Breach::NotRecovered, || format!("fault {repeat}, begun at {}", fault.from_ms));
            }
        }
        self.measure_gaps(&mut findings);
        findings
    }

    fn judge_room(&self, findings: &mut Findings, id: u64, message: &Message, room: i64, acked_ms: u64) {
        let members = self.stays.iter().filter(|((client, of), _)| *of == room && Some(*client) != message.sender);
        for ((client, _), stay) in members {
            let was_in = stay.since_ms.is_some_and(|since| since <= message.sent_ms);
            if !was_in || self.shown.contains_key(&(*client, id)) {
                continue;
            }
            if message.seq.is_some_and(|seq| stay.gaps.iter().any(|&(after, before)| after < seq && seq < before)) {
                findings.excused_gap += 1;
                continue;
            }
            let came_back = stay.resumed_ms.iter().any(|&at| at >= message.sent_ms);
            if message.sender.is_some() && came_back && self.is_store_away(acked_ms) {
                findings.excused_away += 1;
                continue;
            }
            let seq = message.seq;
            findings.breach(Breach::Lost, || {
                format!(
                    "message {id} (seq {seq:?}) of room {room}, sent at {}, acknowledged at {acked_ms}, never reached client {client}",
                    message.sent_ms
                )
            });
        }
    }

    fn is_store_away(&self, at_ms: u64) -> bool {
        self.faults
            .values()
            .any(|fault| fault.is_store_away && fault.from_ms <= at_ms && fault.to_ms.is_none_or(|to| at_ms <= to + STORE_BACK_MS))
    }

    /// I8: of two connections of one user the older one ends soon.
    fn judge_lives(&self, findings: &mut Findings) {
        for (user, lives) in &self.lives {
            for (index, newer) in lives.iter().enumerate() {
                for older in lives.iter().take(index).filter(|older| older.client != newer.client) {
                    let from = newer.from_ms.max(older.from_ms);
                    let to = older.to_ms.unwrap_or(self.last_ms).min(newer.to_ms.unwrap_or(self.last_ms));
                    if to <= from {
                        continue;
                    }
                    findings.longest_overlap_ms = findings.longest_overlap_ms.max(to - from);
                    if to > self.calm_after(from) + OVERLAP_MS_MAX {
                        let (old, new) = (older.client, newer.client);
                        findings.breach(Breach::Overlap, || format!("user {user}: clients {old} and {new} both live from {from} to {to}"));
                    }
                }
            }
        }
    }

    /// The end of the fault that is on at this time, or soon after it: what it stops cannot answer before.
    fn calm_after(&self, at_ms: u64) -> u64 {
        let near = self.faults.values().filter(|fault| fault.from_ms <= at_ms + OVERLAP_MS_MAX);
        near.map(|fault| fault.to_ms.unwrap_or(self.last_ms)).fold(at_ms, u64::max)
    }

    fn measure_gaps(&self, findings: &mut Findings) {
        let longest = |times: &[u64], (from, to): (u64, u64)| {
            let inside = times.iter().copied().filter(|at| (from..=to).contains(at));
            let mut last = from;
            let mut longest = 0;
            for at in inside.chain([to]) {
                longest = longest.max(at.saturating_sub(last));
                last = at;
            }
            longest
        };
        for (room, &traffic) in &self.room_traffic {
            let times = self.room_seen.get(room).map(Vec::as_slice).unwrap_or_default();
            findings.longest_room_gap_ms = findings.longest_room_gap_ms.max(longest(times, traffic));
        }
        for ((client, room), times) in &self.client_seen {
            let since = self.stays.get(&(*client, *room)).and_then(|stay| stay.since_ms);
            if let (Some(since), Some(&(from, to))) = (since, self.room_traffic.get(room)) {
                findings.longest_client_gap_ms = findings.longest_client_gap_ms.max(longest(times, (from.max(since), to)));
            }
        }
    }
}
