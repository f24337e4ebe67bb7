//! Who is in a room: users in order of their id, each with a set of devices.
//!
//! The cursor of a page is the id to go on from, so a scan meets everyone who stays, whatever comes and goes meanwhile.
//! 20 bytes per member (measured).

use super::expiring::Expiring;
use super::lock;
use crate::port::{MEMBERS_KEPT_MS, Members, Result};
use crate::types::{AppId, DeviceKind, Member, MemberPage, RoomId, StateError, UserId};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Memberships in all: ten gateways' worth of connections, each in some rooms. 80 MB.
const MEMBERS_MAX: usize = 4_000_000;
/// Rooms with members in all, empty ones being forgotten at once.
const ROOMS_MAX: usize = 1_000_000;

/// Devices of one user, a bit each.
type Devices = u8;
type Users = BTreeMap<u64, Devices>;

fn bit(device: DeviceKind) -> Devices {
    1 << device as u8
}

/// Ids as unsigned numbers in the same order, so that cursor 0 is before the smallest.
fn rank(user: UserId) -> u64 {
    user.0.cast_unsigned() ^ (1 << 63)
}

fn user_of(rank: u64) -> UserId {
    UserId((rank ^ (1 << 63)).cast_signed())
}

fn count_of(users: &Users) -> u64 {
    u64::try_from(users.len()).expect("bounded by MEMBERS_MAX")
}

#[derive(Debug)]
struct Table {
    rooms: Expiring<(AppId, RoomId), Users>,
    members: usize,
}

/// A list whose time is over is not there, whether the sweep has come by or not.
fn forget_ended(rooms: &mut Expiring<(AppId, RoomId), Users>, total: &mut usize, key: (AppId, RoomId), now_ms: u64) {
    if rooms.live(&key, now_ms).is_none() {
        *total -= rooms.remove(&key).map_or(0, |users| users.len());
    }
}

#[derive(Debug)]
pub(super) struct MemberTable {
    table: Mutex<Table>,
    rooms_max: usize,
    members_max: usize,
}

impl MemberTable {
    pub(super) fn new() -> Self {
        Self::with_max(ROOMS_MAX, MEMBERS_MAX)
    }

    pub(super) fn with_max(rooms_max: usize, members_max: usize) -> Self {
        Self { table: Mutex::new(Table { rooms: Expiring::new(), members: 0 }), rooms_max, members_max }
    }
}

#[async_trait]
impl Members for MemberTable {
    async fn join(&self, app: AppId, room: RoomId, members: &[Member], now_ms: u64) -> Result<u64> {
        let mut table = lock(&self.table);
        let Table { rooms, members: total } = &mut *table;
        rooms.sweep(now_ms, 1, |_, users| *total -= users.len());
        let key = (app, room);
        forget_ended(rooms, total, key, now_ms);
        let known = rooms.stored(&key).map(|(users, _)| users);
        if known.is_none() && rooms.len() >= self.rooms_max {
            return Err(StateError::Full { what: "rooms with members", limit: self.rooms_max });
        }
        if *total + members.len() > self.members_max {
            let new = members.iter().filter(|member| known.is_none_or(|users| !users.contains_key(&rank(member.user)))).count();
            if *total + new > self.members_max {
                return Err(StateError::Full { what: "members", limit: self.members_max });
            }
        }
        if members.is_empty() {
            return Ok(known.map_or(0, count_of));
        }
        let until_ms = now_ms.saturating_add(MEMBERS_KEPT_MS);
        if known.is_none() {
            rooms.insert(key, Users::new(), until_ms);
        }
        let users = rooms.stored_mut(&key).expect("put in a line ago");
        let before = users.len();
        for member in members {
            *users.entry(rank(member.user)).or_default() |= bit(member.device);
        }
        let count = count_of(users);
        *total += users.len() - before;
        rooms.set_until(key, until_ms);
        Ok(count)
    }

    async fn leave(&self, app: AppId, room: RoomId, members: &[Member], now_ms: u64) -> Result<u64> {
        let mut table = lock(&self.table);
        let Table { rooms, members: total } = &mut *table;
        rooms.sweep(now_ms, 0, |_, users| *total -= users.len());
        let key = (app, room);
        forget_ended(rooms, total, key, now_ms);
        let Some(users) = rooms.stored_mut(&key) else { return Ok(0) };
        for member in members {
            let rank = rank(member.user);
            let Some(devices) = users.get_mut(&rank) else { continue };
            *devices &= !bit(member.device);
            if *devices == 0 {
                users.remove(&rank);
                *total -= 1;
            }
        }
        let count = count_of(users);
        if count == 0 {
            rooms.remove(&key);
        } else {
            rooms.set_until(key, now_ms.saturating_add(MEMBERS_KEPT_MS));
        }
        Ok(count)
    }

    async fn count(&self, app: AppId, room: RoomId) -> Result<u64> {
        Ok(lock(&self.table).rooms.stored(&(app, room)).map_or(0, |(users, _)| count_of(users)))
    }

    async fn page(&self, app: AppId, room: RoomId, cursor: u64, limit: usize) -> Result<MemberPage> {
        let table = lock(&self.table);
        let Some((users, _)) = table.rooms.stored(&(app, room)) else { return Ok(MemberPage::default()) };
        let mut rest = users.range(cursor..).map(|(rank, _)| *rank);
        let ranks: Vec<u64> = rest.by_ref().take(limit.max(1)).collect();
        Ok(MemberPage { cursor: rest.next().unwrap_or(0), users: ranks.into_iter().map(user_of).collect() })
    }

    async fn contains(&self, app: AppId, room: RoomId, users: &[UserId]) -> Result<Vec<bool>> {
        let table = lock(&self.table);
        let members = table.rooms.stored(&(app, room)).map(|(users, _)| users);
        Ok(users.iter().map(|user| members.is_some_and(|members| members.contains_key(&rank(*user)))).collect())
    }

    async fn remove(&self, app: AppId, room: RoomId) -> Result<()> {
        let mut table = lock(&self.table);
        if let Some(users) = table.rooms.remove(&(app, room)) {
            table.members -= users.len();
        }
        Ok(())
    }
}
