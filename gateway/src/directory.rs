//! Who sits where: user and kind of device → the connection, for all shards of this gateway.
//!
//! - One seat per user and kind of device. Whoever takes one gets the seat of the one before, to be sent away.
//! - A seat is given back by its own session alone: the one before never empties its successor's.
//! - Beside each seat stands when its route in the shared state was last known to be right.
//! - The map's guards stay in here: what comes out is copies, so no caller can hold a lock, across a wait or at all.
//! - A kick may come before its session has a seat. It is remembered, and whoever seats the session asks for it.
//! - Bounded by the connections that admission lets in. A seat is 48 bytes with its token: it is paid by every idle session.

mod kicks;

use self::kicks::EarlyKicks;
use crate::shard::message::{ConnKey, Origin};
use billfish_state::DeviceKind;
use billfish_wire::Reason;
use dashmap::{DashMap, Entry};
use smallvec::SmallVec;
use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// One session's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    /// The connection.
    pub(crate) key: ConnKey,
    /// Kind of device.
    pub(crate) device: DeviceKind,
    /// The session on it.
    pub(crate) session: u64,
}

/// The map. See the module's words.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    seats: DashMap<Place, Tenant, foldhash::fast::RandomState>,
    count: AtomicUsize,
    /// Tokens that are not of our own make, by session: rare, so the seats have no room for them.
    foreign_tokens: Mutex<HashMap<u64, Box<str>, foldhash::fast::RandomState>>,
    /// Tokens of sessions that lost their seat and have not ended yet: one that logs out voids its token all the same. Each session
    /// that lost its seat is sent away, so each entry goes within moments.
    displaced_tokens: Mutex<HashMap<u64, String, foldhash::fast::RandomState>>,
    kicks: EarlyKicks,
}

/// App, user and device in 12 bytes: a user id has 53 bits, a device 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    app_id: i32,
    user_and_device: [u32; 2],
}

#[derive(Clone, Copy, Debug)]
struct Tenant {
    index: u32,
    generation: u32,
    session: [u32; 2],
    /// The 128 bits of one of our own tokens; all zero where it is kept elsewhere.
    token: [u8; 16],
    shard: u16,
    route: RouteMark,
}

/// When a session's route was last known to stand in the store, in two bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteMark {
    /// Of the store's generation; all that matters is whether it is another one.
    generation: u8,
    /// In units of [`MARK_UNIT_MS`], which come round after 21 hours; a session shows signs of life far more often.
    at: u8,
}

impl RouteMark {
    /// A route that is written now. Take it before the write: what the store forgets meanwhile is then looked for again.
    pub(crate) fn new(generation: u64, now_ms: u64) -> Self {
        Self { generation: generation as u8, at: (now_ms / MARK_UNIT_MS) as u8 }
    }

    /// Whether the route has to be looked after: once in a generation, and when half its life is over.
    fn is_due(self, now: Self, session: u64) -> bool {
        self.generation != now.generation || self.is_old(now, session)
    }

    /// Whether half its life is over. Spread by session, so that those who came together do not renew together.
    fn is_old(self, now: Self, session: u64) -> bool {
        let spread = (session % u64::from(RENEW_SPREAD)) as u8;
        now.at.wrapping_sub(self.at) >= RENEW_AFTER + spread
    }
}

/// Five minutes.
const MARK_UNIT_MS: u64 = 5 * 60 * 1000;
/// Six hours, half a route's life.
const RENEW_AFTER: u8 = 72;
/// And up to an hour more.
const RENEW_SPREAD: u8 = 12;

const _: () = assert!(size_of::<(Place, Tenant)>() <= 48, "every idle session pays for it");

impl Directory {
    /// Seats a session, and gives the seat that was taken from another.
    pub(crate) fn insert(&self, origin: Origin, key: ConnKey, token: &str, route: RouteMark) -> Option<Seat> {
        let own = own_token(token, origin.app_id);
        if own.is_none() {
            self.foreign_tokens().insert(origin.session, token.into());
        }
        let tenant = Tenant {
            index: key.index,
            generation: key.generation,
            session: split(origin.session),
            token: own.unwrap_or_default(),
            shard: key.shard,
            route,
        };
        let older = self.seats.insert(Place::of(origin.app_id, origin.user_id, origin.device), tenant);
        let Some(older) = older else {
            self.count.fetch_add(1, Relaxed);
            return None;
        };
        let seat = older.seat(origin.device);
        let token = self.token(older, seat.session, origin.app_id);
        self.displaced_tokens().insert(seat.session, token);
        Some(seat)
    }

    /// A session ends: gives its seat back, unless another session has it by now. The token it came with, for a LOGOUT to make void.
    pub(crate) fn take(&self, origin: Origin) -> Option<String> {
        let tenant = match self.seats.entry(Place::of(origin.app_id, origin.user_id, origin.device)) {
            Entry::Occupied(entry) if entry.get().session == split(origin.session) => entry.remove(),
            Entry::Occupied(_) | Entry::Vacant(_) => return self.displaced_tokens().remove(&origin.session),
        };
        self.count.fetch_sub(1, Relaxed);
        Some(self.token(tenant, origin.session, origin.app_id))
    }

    fn token(&self, tenant: Tenant, session: u64, app_id: i32) -> String {
        if tenant.token == [0; 16] {
            return self.foreign_tokens().remove(&session).map(String::from).unwrap_or_default();
        }
        format!("{:032x}%{app_id}", u128::from_be_bytes(tenant.token))
    }

    /// Every seat of a user.
    pub(crate) fn lookup(&self, app_id: i32, user_id: i64) -> SmallVec<[Seat; 5]> {
        DeviceKind::ALL.into_iter().filter_map(|device| self.seat(app_id, user_id, device)).collect()
    }

    /// The seat of one device.
    pub(crate) fn seat(&self, app_id: i32, user_id: i64, device: DeviceKind) -> Option<Seat> {
        self.seats.get(&Place::of(app_id, user_id, device)).map(|tenant| tenant.seat(device))
    }

    /// The seat of a session, as long as it has it.
    pub(crate) fn seat_of(&self, origin: Origin) -> Option<Seat> {
        self.seat(origin.app_id, origin.user_id, origin.device).filter(|seat| seat.session == origin.session)
    }

    /// Seats of a user whose routes have to be looked after.
    pub(crate) fn due(&self, app_id: i32, user_id: i64, now: RouteMark) -> SmallVec<[Seat; 5]> {
        let due = |device| {
            let tenant = *self.seats.get(&Place::of(app_id, user_id, device))?;
            Some(tenant.seat(device)).filter(|seat| tenant.route.is_due(now, seat.session))
        };
        DeviceKind::ALL.into_iter().filter_map(due).collect()
    }

    /// Whether half the life of a session's route is over.
    pub(crate) fn is_old(&self, origin: Origin, now: RouteMark) -> bool {
        let tenant = self.seats.get(&Place::of(origin.app_id, origin.user_id, origin.device));
        tenant.is_some_and(|tenant| tenant.session == split(origin.session) && tenant.route.is_old(now, origin.session))
    }

    /// A session's route has been written, and stands for a whole life.
    pub(crate) fn mark(&self, origin: Origin, route: RouteMark) {
        self.change_mark(origin, |mark| *mark = route);
    }

    /// A session's route was found to stand; what is left of its life is the same as before.
    pub(crate) fn mark_seen(&self, origin: Origin, route: RouteMark) {
        self.change_mark(origin, |mark| mark.generation = route.generation);
    }

    fn change_mark(&self, origin: Origin, change: impl FnOnce(&mut RouteMark)) {
        if let Some(mut tenant) = self.seats.get_mut(&Place::of(origin.app_id, origin.user_id, origin.device))
            && tenant.session == split(origin.session)
        {
            change(&mut tenant.route);
        }
    }

    /// A session is to end, for this reason. Its seat; `None`: it has none, and the kick is kept for when it takes one. Milliseconds of
    /// one clock that goes forward, here and in [`Directory::take_kick`].
    pub(crate) fn kick(&self, origin: Origin, reason: Reason, now_ms: u64) -> Option<Seat> {
        self.kicks.note(origin, reason, now_ms);
        let seat = self.seat_of(origin)?;
        self.kicks.take(origin, now_ms);
        Some(seat)
    }

    /// After [`Directory::insert`]: why the session is to end that has just been seated, if it is.
    pub(crate) fn take_kick(&self, origin: Origin, now_ms: u64) -> Option<Reason> {
        self.kicks.take(origin, now_ms)
    }

    /// Kicks that are kept, and how many of them had to give way so far.
    pub(crate) fn early_kicks(&self) -> (usize, u64) {
        self.kicks.figures()
    }

    /// Seats taken.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Relaxed)
    }

    fn displaced_tokens(&self) -> MutexGuard<'_, HashMap<u64, String, foldhash::fast::RandomState>> {
        self.displaced_tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn foreign_tokens(&self) -> MutexGuard<'_, HashMap<u64, Box<str>, foldhash::fast::RandomState>> {
        self.foreign_tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    const fn of(app_id: i32, user_id: i64, device: DeviceKind) -> Self {
        Self { app_id, user_and_device: split((user_id as u64) << 3 | device as u64) }
    }
}

impl Tenant {
    const fn seat(&self, device: DeviceKind) -> Seat {
        Seat {
            key: ConnKey { shard: self.shard, index: self.index, generation: self.generation },
            device,
            session: (self.session[0] as u64) << 32 | self.session[1] as u64,
        }
    }
}

const fn split(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

/// The 128 bits of a token as our router makes them: 32 lower-case hex digits, `%`, the app.
fn own_token(token: &str, app_id: i32) -> Option<[u8; 16]> {
    let (digits, app) = token.split_once('%')?;
    let canonical = digits.len() == 32 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if !canonical || app != app_id.to_string() {
        return None;
    }
    u128::from_str_radix(digits, 16).ok().filter(|bits| *bits != 0).map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::{Directory, MARK_UNIT_MS, RENEW_AFTER, RENEW_SPREAD, RouteMark};
    use crate::shard::message::{ConnKey, Origin};
    use billfish_state::DeviceKind;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef%10001";

    fn origin(user_id: i64, device: DeviceKind, session: u64) -> Origin {
        Origin { app_id: 10_001, user_id, device, session }
    }

    fn key(index: u32) -> ConnKey {
        ConnKey { shard: 1, index, generation: 7 }
    }

    #[test]
    fn the_second_session_of_a_device_gets_the_seat_of_the_first() {
        let directory = Directory::default();
        assert_eq!(directory.insert(origin(20_001, DeviceKind::Web, 1), key(4), TOKEN, RouteMark::default()), None);
        let older = directory.insert(origin(20_001, DeviceKind::Web, u64::MAX), key(5), TOKEN, RouteMark::default()).unwrap();
        assert_eq!((older.key, older.session, older.device), (key(4), 1, DeviceKind::Web));
        assert_eq!(directory.len(), 1);
        let seat = directory.seat(10_001, 20_001, DeviceKind::Web).unwrap();
        assert_eq!((seat.key, seat.session), (key(5), u64::MAX));
    }

    #[test]
    fn a_seat_is_given_back_by_its_own_session_alone() {
        let directory = Directory::default();
        directory.insert(origin(20_001, DeviceKind::Web, 1), key(4), TOKEN, RouteMark::default());
        directory.insert(origin(20_001, DeviceKind::Web, 2), key(5), TOKEN, RouteMark::default());
        // The one before ends: its token comes back, the seat stays its successor's.
        assert_eq!(directory.take(origin(20_001, DeviceKind::Web, 1)).as_deref(), Some(TOKEN));
        assert_eq!(directory.take(origin(20_001, DeviceKind::Web, 1)), None);
        assert_eq!(directory.len(), 1);
        assert!(directory.take(origin(20_001, DeviceKind::Web, 2)).is_some());
        assert_eq!((directory.len(), directory.lookup(10_001, 20_001).len()), (0, 0));
    }

    #[test]
    fn every_device_of_a_user_is_found_and_nobody_elses() {
        let directory = Directory::default();
        directory.insert(origin(20_001, DeviceKind::Ios, 1), key(1), TOKEN, RouteMark::default());
        directory.insert(origin(20_001, DeviceKind::Web, 2), key(2), TOKEN, RouteMark::default());
        directory.insert(origin(20_002, DeviceKind::Web, 3), key(3), TOKEN, RouteMark::default());
        directory.insert(Origin { app_id: 10_002, ..origin(20_001, DeviceKind::Web, 4) }, key(4), TOKEN, RouteMark::default());
        let mut sessions: Vec<u64> = directory.lookup(10_001, 20_001).iter().map(|seat| seat.session).collect();
        sessions.sort_unstable();
        assert_eq!(sessions, [1, 2]);
    }

    #[test]
    fn a_token_comes_back_as_it_was_whoever_made_it() {
        let directory = Directory::default();
        for token in
            [TOKEN, "eyJhbGciOi.J9.x", "0123456789ABCDEF0123456789ABCDEF%10001", "0123456789abcdef0123456789abcdef%10002", "%10001"]
        {
            directory.insert(origin(20_001, DeviceKind::Web, 9), key(1), token, RouteMark::default());
            assert_eq!(directory.take(origin(20_001, DeviceKind::Web, 9)).as_deref(), Some(token));
        }
        assert!(directory.foreign_tokens().is_empty());
    }

    #[test]
    fn a_foreign_token_goes_with_the_seat_that_was_taken() {
        let directory = Directory::default();
        directory.insert(origin(20_001, DeviceKind::Web, 1), key(1), "first", RouteMark::default());
        directory.insert(origin(20_001, DeviceKind::Web, 2), key(2), "second", RouteMark::default());
        assert_eq!(directory.foreign_tokens().len(), 1);
        assert_eq!(directory.take(origin(20_001, DeviceKind::Web, 2)).as_deref(), Some("second"));
        assert_eq!(directory.take(origin(20_001, DeviceKind::Web, 1)).as_deref(), Some("first"));
        assert!(directory.foreign_tokens().is_empty() && directory.displaced_tokens().is_empty());
    }

    #[test]
    fn a_route_is_due_once_in_a_generation_and_when_half_its_life_is_over() {
        let directory = Directory::default();
        let (unit, session) = (u64::from(u8::MAX) * MARK_UNIT_MS, 5);
        let at = |generation, units: u64| RouteMark::new(generation, unit + units * MARK_UNIT_MS);
        directory.insert(origin(20_001, DeviceKind::Web, session), key(1), TOKEN, at(3, 0));
        let due = |mark| directory.due(10_001, 20_001, mark).len();
        assert_eq!((due(at(3, 0)), due(at(4, 0))), (0, 1));
        let renewed = u64::from(RENEW_AFTER) + session % u64::from(RENEW_SPREAD);
        assert_eq!((due(at(3, renewed - 1)), due(at(3, renewed))), (0, 1), "the hours go round");
        directory.mark_seen(origin(20_001, DeviceKind::Web, session), at(4, renewed));
        assert_eq!((due(at(4, renewed - 1)), due(at(4, renewed))), (0, 1), "seen is not renewed");
        assert!(directory.is_old(origin(20_001, DeviceKind::Web, session), at(4, renewed)));
        directory.mark(origin(20_001, DeviceKind::Web, 9), at(4, renewed));
        assert_eq!(due(at(4, renewed)), 1, "that was another session");
        directory.mark(origin(20_001, DeviceKind::Web, session), at(4, renewed));
        assert_eq!(due(at(4, renewed)), 0);
    }
}
