//! What was said, answered and shown; and the promises, checked while it happens and at the end.
//!
//! - A message is known by its text, which is new for every message: what the house numbers, the journal does not have to believe.
//! - A stay is from entering a room to leaving it, over any number of connections. Order, "once" and "everything" hold per stay.
//!
//! A promise that was broken is a line in `violations`; nothing here panics, so that a run always comes to its report.

use billfish_session::client::ClientEvent;
use billfish_wire::{BizCode, Body};
use std::collections::{BTreeMap, BTreeSet};

/// Violations that are kept; the first tell most.
const VIOLATIONS_MAX: usize = 20;
/// An owner that was without its store finds within this time that it is back.
const STORE_IS_FOUND_MS: u64 = 6_000;

/// Where a room's log has a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logged {
    ThereItIs,
    UnderAnotherNumber,
    Nowhere,
}

/// What texts of the business backend begin with.
pub(crate) const FROM_BACKEND: &str = "b-";

/// Whom a message was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Room(i64),
    User(i64),
}

#[derive(Debug)]
struct Said {
    by: i64,
    to: To,
}

/// One client's time in one room.
#[derive(Debug, Default)]
struct Stay {
    /// What was accepted up to here is not promised: it was before, or behind a gap that was told.
    promised_after: i64,
    last: Option<i64>,
    shown: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Screen {
    user: i64,
    stays: BTreeMap<i64, Stay>,
    whispers: BTreeMap<String, u32>,
}

/// What happened, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named for what is counted")]
pub struct Counts {
    pub said: u64,
    pub accepted: u64,
    pub refused: u64,
    pub repeated: u64,
    pub shown: u64,
    pub whispers_shown: u64,
    pub resumed: u64,
    pub gaps: u64,
    pub owners: u64,
    pub crashes: u64,
    pub pauses: u64,
    pub drains: u64,
    pub links_cut: u64,
    pub connections_cut: u64,
    pub stores_away: u64,
    pub kicked: u64,
    pub doubtful: u64,
    pub from_backend: u64,
    pub whispers_late: u64,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        let Self {
            said,
            accepted,
            refused,
            repeated,
            shown,
            whispers_shown,
            resumed,
            gaps,
            owners,
            crashes,
            pauses,
            drains,
            links_cut,
            connections_cut,
            stores_away,
            kicked,
            doubtful,
            from_backend,
            whispers_late,
        } = *other;
        self.said += said;
        self.accepted += accepted;
        self.refused += refused;
        self.repeated += repeated;
        self.shown += shown;
        self.whispers_shown += whispers_shown;
        self.resumed += resumed;
        self.gaps += gaps;
        self.owners += owners;
        self.crashes += crashes;
        self.pauses += pauses;
        self.drains += drains;
        self.links_cut += links_cut;
        self.connections_cut += connections_cut;
        self.stores_away += stores_away;
        self.kicked += kicked;
        self.doubtful += doubtful;
        self.from_backend += from_backend;
        self.whispers_late += whispers_late;
    }
}

#[derive(Debug, Default)]
pub(crate) struct Journal {
    said: BTreeMap<String, Said>,
    /// By text: its place in a room, where it got one.
    accepted: BTreeMap<String, Option<i64>>,
    /// Of these, what was accepted while the store was not as it should be.
    accepted_without_store: BTreeSet<String>,
    /// By room and number: the text that has it.
    places: BTreeMap<(i64, i64), String>,
    /// Texts that are in their rooms' logs.
    logged: BTreeSet<String>,
    /// By text: the number it has.
    numbers: BTreeMap<String, i64>,
    screens: Vec<Screen>,
    /// Chat that an owner without its store took and pushed: at most once for each owner, to those who are there.
    doubtful: BTreeSet<String>,
    /// Messages that have two numbers, of which the log has one.
    renumbered: BTreeSet<String>,
    /// What would break a promise, if it is not about doubtful chat, by its text.
    suspicions: Vec<(String, String)>,
    /// Owners may be without their store until then.
    store_bad_until: u64,
    /// By room and epoch: which life of which router speaks in it.
    speakers: BTreeMap<(i64, u64), String>,
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<String>,
}

impl Journal {
    /// The store is not as it should be from now on, or is again.
    pub(crate) fn store_changes(&mut self, now: u64, is_bad: bool) {
        self.store_bad_until = if is_bad { u64::MAX } else { now + STORE_IS_FOUND_MS };
    }

    /// A router has pushed or accepted a message with a number.
    pub(crate) fn is_found_in_log(&mut self, text: &str, logged: Logged, now: u64) {
        match logged {
            Logged::ThereItIs => {}
            _ if self.doubtful.contains(text) => {}
            // It was in doubt when it was written: viewers have passed its first number.
            Logged::UnderAnotherNumber if text.starts_with(FROM_BACKEND) || now >= self.store_bad_until => {
                self.renumbered.insert(text.to_owned());
            }
            Logged::Nowhere if text.starts_with(FROM_BACKEND) || now >= self.store_bad_until => {
                self.violated(format!("{text} was pushed or accepted and is not in the log"));
            }
            Logged::UnderAnotherNumber | Logged::Nowhere => {
                self.doubtful.insert(text.to_owned());
            }
        }
    }

    fn suspect(&mut self, text: &str, what: String) {
        self.suspicions.push((text.to_owned(), what));
    }

    pub(crate) fn add_client(&mut self, user: i64) {
        self.screens.push(Screen { user, ..Screen::default() });
    }

    pub(crate) fn violated(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(what);
        }
    }

    pub(crate) fn says(&mut self, text: &str, by: i64, to: To) {
        self.counts.said += 1;
        self.said.insert(text.to_owned(), Said { by, to });
    }

    /// The backend hears what became of its push. One that was refused may have been taken all the same.
    pub(crate) fn backend_hears(&mut self, text: &str, is_taken: bool) {
        if is_taken {
            self.counts.from_backend += 1;
            self.accepted.entry(text.to_owned()).or_default();
        }
    }

    /// Texts that were accepted.
    pub(crate) fn accepted_texts(&self) -> impl Iterator<Item = &String> {
        self.accepted.keys()
    }

    pub(crate) fn said_by(&self, text: &str) -> Option<(i64, To)> {
        self.said.get(text).map(|said| (said.by, said.to))
    }

    /// A router's push has arrived at a gateway.
    pub(crate) fn spoke(&mut self, room: i64, epoch: u64, router: &str) {
        match self.speakers.get(&(room, epoch)) {
            Some(known) if known != router => {
                let what = format!("room {room}: {known} and {router} both speak in epoch {epoch}");
                self.violated(what);
            }
            Some(_) => {}
            None => {
                self.counts.owners += 1;
                self.speakers.insert((room, epoch), router.to_owned());
            }
        }
    }

    /// The newest who spoke in a room.
    pub(crate) fn speaker(&self, room: i64) -> Option<(u64, &str)> {
        self.speakers.range((room, 0)..=(room, u64::MAX)).next_back().map(|((_, epoch), router)| (*epoch, router.as_str()))
    }

    /// The app leaves: from here on nothing of the room may be shown.
    pub(crate) fn leaves(&mut self, client: usize, room: i64) {
        self.screens[client].stays.remove(&room);
    }

    pub(crate) fn rooms(&self, client: usize) -> Vec<i64> {
        self.screens[client].stays.keys().copied().collect()
    }

    /// What an app hears.
    pub(crate) fn hears(&mut self, client: usize, event: &ClientEvent, now: u64) {
        match event {
            ClientEvent::Joined { room_id, seq, gap, .. } => {
                let screen = &mut self.screens[client];
                let is_new = !screen.stays.contains_key(room_id);
                let stay = screen.stays.entry(*room_id).or_default();
                if is_new || *gap {
                    stay.promised_after = *seq;
                }
                self.counts.resumed += u64::from(!is_new);
                self.counts.gaps += u64::from(*gap);
            }
            ClientEvent::Left { room_id } => {
                self.screens[client].stays.remove(room_id);
            }
            ClientEvent::Push(body) => self.shows(client, body),
            ClientEvent::Accepted { msg_id, seq, .. } => self.is_accepted(msg_id, *seq, now),
            ClientEvent::Refused { msg_id: Some(_), .. } => self.counts.refused += 1,
            ClientEvent::Kicked { .. } => self.counts.kicked += 1,
            ClientEvent::Refused { msg_id: None, .. }
            | ClientEvent::LoggedIn { .. }
            | ClientEvent::History { .. }
            | ClientEvent::InboxRead { .. }
            | ClientEvent::MoveTo { .. }
            | ClientEvent::HeartbeatEcho { .. }
            | ClientEvent::Unreadable { .. }
            | ClientEvent::Closed { .. } => {}
        }
    }

    fn is_accepted(&mut self, text: &str, seq: Option<i64>, now: u64) {
        self.counts.accepted += 1;
        let Some(said) = self.said.get(text) else { return self.violated(format!("{text} was accepted and never said")) };
        if let (To::Room(room), Some(seq)) = (said.to, seq) {
            self.has_place(room, seq, text);
        }
        match self.accepted.get(text) {
            Some(known) => {
                self.counts.repeated += 1;
                if known.is_some() && seq.is_some() && *known != seq {
                    let what = format!("{text} was accepted with {known:x?}, and again with {seq:x?}");
                    self.suspect(text, what);
                }
            }
            None => {
                self.accepted.insert(text.to_owned(), seq);
                if now < self.store_bad_until {
                    self.accepted_without_store.insert(text.to_owned());
                }
            }
        }
    }

    /// One number has one text, and one text one number.
    fn has_place(&mut self, room: i64, seq: i64, text: &str) {
        let other = self.places.entry((room, seq)).or_insert_with(|| text.to_owned());
        if other != text {
            let what = format!("room {room}: {seq:x} is both {other} and {text}");
            self.violated(what);
        }
        let number = *self.numbers.entry(text.to_owned()).or_insert(seq);
        // What must arrive gets a second number where it was in doubt, and stands in the log under both.
        if number != seq && !text.starts_with(FROM_BACKEND) && !self.renumbered.contains(text) {
            self.suspect(text, format!("room {room}: {text} is both {number:x} and {seq:x}"));
        }
    }

    fn shows(&mut self, client: usize, body: &Body) {
        let text = (body.biz_code == Some(BizCode::ROOM_CHAT.0)).then(|| body.data.as_deref().and_then(content)).flatten();
        let user = self.screens[client].user;
        match (body.room_id, body.seq) {
            (Some(room), Some(seq)) => self.shows_of_room(client, room, seq, text),
            (Some(room), None) => self.violated(format!("{user} was shown a message of room {room} without a number")),
            (None, _) => {
                let Some(text) = text else { return };
                self.counts.whispers_shown += 1;
                match self.said_by(&text) {
                    Some((_, To::User(to))) if to == user => {}
                    other => self.violated(format!("{user} was shown the whisper {text}, which is {other:?}")),
                }
                let times = self.screens[client].whispers.entry(text.clone()).or_default();
                *times += 1;
                if *times > 1 {
                    self.violated(format!("{user} was shown the whisper {text} twice"));
                }
            }
        }
    }

    fn shows_of_room(&mut self, client: usize, room: i64, seq: i64, text: Option<String>) {
        let screen = &mut self.screens[client];
        let user = screen.user;
        let Some(stay) = screen.stays.get_mut(&room) else {
            return self.violated(format!("{user} was shown {seq:x} of room {room} and is not in it"));
        };
        let last = stay.last.replace(seq);
        let is_new = text.as_ref().is_none_or(|text| stay.shown.insert(text.clone()));
        if last >= Some(seq) {
            self.violated(format!("{user} was shown {seq:x} of room {room} after {last:x?}"));
        }
        let Some(text) = text else { return };
        self.counts.shown += 1;
        if !is_new {
            self.suspect(&text, format!("{user} was shown {text} of room {room} twice"));
        }
        match self.said_by(&text) {
            Some((_, To::Room(to))) if to == room => {}
            other => self.violated(format!("{user} was shown {text} in room {room}, which is {other:?}")),
        }
        self.has_place(room, seq, &text);
    }

    /// Before the last login: whispers that nobody could push lie in the inboxes. That is no broken promise, but it is to be known.
    pub(crate) fn whispers_so_far(&mut self) {
        let is_shown = |user: i64, text: &str| self.screens.iter().any(|screen| screen.user == user && screen.whispers.contains_key(text));
        let late = self
            .accepted
            .keys()
            .filter(|text| matches!(self.said.get(*text), Some(Said { to: To::User(user), .. }) if !is_shown(*user, text)));
        self.counts.whispers_late = late.count() as u64;
    }

    /// What a room's log has, after quiet.
    pub(crate) fn log_has(&mut self, room: i64, entries: impl IntoIterator<Item = (i64, String)>) {
        for (seq, text) in entries {
            self.logged.insert(text.clone());
            self.has_place(room, seq, &text);
        }
    }

    /// After quiet: what was accepted has been shown to everyone it was for.
    pub(crate) fn check_promises(&mut self) {
        self.counts.doubtful = self.doubtful.len() as u64;
        let mut broken = Vec::new();
        for text in self.accepted.keys() {
            let Some(said) = self.said.get(text) else { continue };
            match said.to {
                To::Room(room) => {
                    if !self.logged.contains(text) {
                        // Nobody was there to whom it could be pushed.
                        if text.starts_with(FROM_BACKEND) || !self.accepted_without_store.contains(text) {
                            broken.push((text.clone(), format!("{text} was accepted in room {room} and is not in its log")));
                        }
                        continue;
                    }
                    let Some(&seq) = self.numbers.get(text) else { continue };
                    for screen in self.screens.iter().filter(|screen| screen.user != said.by) {
                        let Some(stay) = screen.stays.get(&room) else { continue };
                        if seq > stay.promised_after && !stay.shown.contains(text) {
                            broken.push((text.clone(), format!("{} was not shown {text} ({seq:x}) of room {room}", screen.user)));
                        }
                    }
                }
                To::User(user) => {
                    // With two devices the first that acknowledges takes it out of the inbox.
                    let mut screens = self.screens.iter().filter(|screen| screen.user == user);
                    if !screens.any(|screen| screen.whispers.contains_key(text)) {
                        broken.push((text.clone(), format!("{user} was not shown the whisper {text}")));
                    }
                }
            }
        }
        broken.append(&mut self.suspicions);
        for (text, what) in broken {
            if !self.doubtful.contains(&text) {
                self.violated(what);
            }
        }
    }

    /// After quiet: this was said, accepted and shown to everyone in the room.
    pub(crate) fn check_probe(&mut self, text: &str) {
        if !self.accepted.contains_key(text) {
            self.violated(format!("the probe {text} was not accepted"));
        }
    }
}

/// The text of a chat message within a body that is JSON itself.
pub(crate) fn escaped_content(body: &str) -> Option<String> {
    let (_, rest) = body.split_once(r#"content\":\""#)?;
    rest.split_once('\\').map(|(content, _)| content.to_owned())
}

/// The text of a chat message. Ours have nothing in them that JSON escapes.
pub(crate) fn content(data: &str) -> Option<String> {
    let (_, rest) = data.split_once("\"content\":\"")?;
    rest.split_once('"').map(|(content, _)| content.to_owned())
}
