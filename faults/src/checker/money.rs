//! What a journal proves of gifts: from the giver's sight, the viewers', and what the ledger had when all was quiet (I1 to I5 of the design).
//!
//! - I1: every gift that was acknowledged is in the ledger.
//! - I2: none is in it twice, and none that nobody gave. The places of a room have no hole.
//! - I3: each giver has what he had without what he gave; all balances together are nothing, none of a user is below it; each debit has its
//!   credit.
//! - Every gift in the ledger is shown once to every member whose stay began before it was given and lasts to the end, and no other gift is
//!   shown to anyone.
//!
//! What was refused may be paid all the same: the server says 5001 where it does not know.

use super::{Breach, Findings, History};
use crate::journal::What;
use std::collections::{BTreeMap, BTreeSet};

/// Gifts, and what the ledger says of them.
#[derive(Debug, Default)]
pub(super) struct Gifts {
    /// By giver and id.
    sent: BTreeMap<(u32, String), Sent>,
    /// By client, room and place: how often it was shown.
    shown: BTreeMap<(u32, i64, i64), u32>,
    paid: Vec<Paid>,
    /// What each user had, and has.
    purses: BTreeMap<i64, (i64, i64)>,
    /// Sum of all balances, lowest of a user, entries of gifts.
    books: Option<(i64, i64, i64)>,
}

#[derive(Debug)]
struct Sent {
    room: i64,
    began_ms: u64,
    is_acked: bool,
    is_refused: bool,
}

#[derive(Debug)]
struct Paid {
    room: i64,
    place: i64,
    user: i64,
    uuid: String,
    coins: i64,
}

impl Gifts {
    /// An answer; whether it is one to a gift.
    pub(super) fn acked(&mut self, client: u32, uuid: &str) -> bool {
        self.sent.get_mut(&(client, uuid.to_owned())).map(|sent| sent.is_acked = true).is_some()
    }

    /// The same for a refusal.
    pub(super) fn refused(&mut self, client: u32, uuid: &str) -> bool {
        self.sent.get_mut(&(client, uuid.to_owned())).map(|sent| sent.is_refused = true).is_some()
    }

    pub(super) fn take(&mut self, what: &What) {
        match what {
            What::SentGift { client, room, uuid, began_ms } => {
                let sent = Sent { room: *room, began_ms: *began_ms, is_acked: false, is_refused: false };
                self.sent.insert((*client, uuid.clone()), sent);
            }
            What::SeenGifts { client, room, places } => {
                for place in places {
                    *self.shown.entry((*client, *room, *place)).or_default() += 1;
                }
            }
            What::Paid { room, place, user, uuid, coins } => {
                self.paid.push(Paid { room: *room, place: *place, user: *user, uuid: uuid.clone(), coins: *coins });
            }
            What::Purse { user, had, has } => drop(self.purses.insert(*user, (*had, *has))),
            What::Books { sum, lowest, entries } => self.books = Some((*sum, *lowest, *entries)),
            What::Connected { .. }
            | What::Disconnected { .. }
            | What::Closed { .. }
            | What::Joined { .. }
            | What::Left { .. }
            | What::SentRoom { .. }
            | What::SentUser { .. }
            | What::Acked { .. }
            | What::Refused { .. }
            | What::RoomRefused { .. }
            | What::Pushed { .. }
            | What::PushFailed { .. }
            | What::Seen { .. }
            | What::FaultBegan { .. }
            | What::FaultEnded { .. }
            | What::Ready { .. }
            | What::Exited { .. }
            | What::Offline { .. }
            | What::GivenUp { .. }
            | What::Moved { .. }
            | What::Recovered { .. } => {}
        }
    }
}

impl History {
    pub(super) fn judge_gifts(&self, findings: &mut Findings) {
        let gifts = &self.gifts;
        if gifts.sent.is_empty() && gifts.shown.is_empty() && gifts.books.is_none() {
            return;
        }
        findings.paid_gifts = u64::try_from(gifts.paid.len()).unwrap_or(u64::MAX);
        let mut given: BTreeMap<(i64, &str), &Sent> = BTreeMap::new();
        for ((client, uuid), sent) in &gifts.sent {
            if !sent.is_acked && !sent.is_refused {
                findings.breach(Breach::Unanswered, || format!("gift {uuid} of client {client}, sent at {}", sent.began_ms));
            }
            // One that was never logged in has given nothing.
            if let Some(user) = self.users.get(client) {
                given.insert((*user, uuid), sent);
            }
        }
        self.judge_ledger(findings, &given);
        self.judge_shown_gifts(findings, &given);
    }

    fn judge_ledger(&self, findings: &mut Findings, given: &BTreeMap<(i64, &str), &Sent>) {
        let gifts = &self.gifts;
        let Some((sum, lowest, entries)) = gifts.books else {
            return findings.breach(Breach::Money, || "nobody has looked into the ledger".to_owned());
        };
        let mut paid: BTreeMap<(i64, &str), u32> = BTreeMap::new();
        let mut last: BTreeMap<i64, i64> = BTreeMap::new();
        let mut spent: BTreeMap<i64, i64> = BTreeMap::new();
        for gift in &gifts.paid {
            let times = paid.entry((gift.user, &gift.uuid)).or_default();
            *times += 1;
            if *times > 1 {
                findings.breach(Breach::Money, || format!("gift {} of user {} is paid twice", gift.uuid, gift.user));
            }
            if given.get(&(gift.user, gift.uuid.as_str())).is_none_or(|sent| sent.room != gift.room) {
                findings.breach(Breach::Money, || {
                    format!("gift {} of user {} in room {} was given by nobody", gift.uuid, gift.user, gift.room)
                });
            }
            let before = last.insert(gift.room, gift.place).unwrap_or(0);
            if gift.place != before + 1 {
                findings.breach(Breach::Money, || format!("place {} of room {} follows {before}", gift.place, gift.room));
            }
            *spent.entry(gift.user).or_default() += gift.coins;
        }
        for ((user, uuid), sent) in given {
            if sent.is_acked && !paid.contains_key(&(*user, uuid)) {
                findings.breach(Breach::Money, || format!("gift {uuid} of user {user} was acknowledged and is not paid"));
            }
        }
        for (user, (had, has)) in &gifts.purses {
            let spent = spent.get(user).copied().unwrap_or(0);
            if had - has != spent {
                findings.breach(Breach::Money, || format!("user {user} had {had}, gave {spent} and has {has}"));
            }
        }
        if let Some(user) = spent.keys().find(|user| !gifts.purses.contains_key(user)) {
            findings.breach(Breach::Money, || format!("user {user} has given something and has no account"));
        }
        if sum != 0 || lowest < 0 {
            findings.breach(Breach::Money, || format!("all accounts together are {sum}, the lowest of a user is {lowest}"));
        }
        if usize::try_from(entries) != Ok(2 * gifts.paid.len()) {
            findings.breach(Breach::Money, || format!("{entries} entries of {} gifts", gifts.paid.len()));
        }
    }

    fn judge_shown_gifts(&self, findings: &mut Findings, given: &BTreeMap<(i64, &str), &Sent>) {
        let gifts = &self.gifts;
        let places: BTreeSet<(i64, i64)> = gifts.paid.iter().map(|gift| (gift.room, gift.place)).collect();
        for ((client, room, place), times) in &gifts.shown {
            if *times > 1 {
                findings.breach(Breach::Duplicate, || format!("client {client} was shown gift {place} of room {room} {times} times"));
            }
            if gifts.books.is_some() && !places.contains(&(*room, *place)) {
                findings.breach(Breach::Money, || format!("client {client} was shown gift {place} of room {room}, which is not paid"));
            }
        }
        for gift in &gifts.paid {
            let Some(sent) = given.get(&(gift.user, gift.uuid.as_str())) else { continue };
            for ((client, _), stay) in self.stays.iter().filter(|((_, room), _)| *room == gift.room) {
                let was_in = stay.since_ms.is_some_and(|since| since <= sent.began_ms);
                if !was_in || gifts.shown.contains_key(&(*client, gift.room, gift.place)) {
                    continue;
                }
                if stay.open_gap.is_some() || !stay.gaps.is_empty() {
                    findings.excused_gap += 1;
                    continue;
                }
                findings.breach(Breach::Lost, || {
                    format!("gift {} of room {}, given at {}, never reached client {client}", gift.place, gift.room, sent.began_ms)
                });
            }
        }
    }
}
