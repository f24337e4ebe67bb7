//! The live-room services: plain rules over ports. What comes in is values, what goes out is [`Effects`] or a refusal.
//!
//! - No socket, no link and no task here; the caller owns the order (a room's queue, a user's lane) and the clock.
//! - A service that refuses has changed nothing.

pub mod ports;

pub(crate) mod chat;
pub(crate) mod gift;
pub(crate) mod ids;
pub(crate) mod login;
pub(crate) mod profile;
pub(crate) mod recharge;
pub(crate) mod room;

use billfish_state::{AppId, DeviceKind, RoomId, UserId};
use billfish_wire::{BizCode, Class};

/// Who asks. Taken from the session behind the link, never from a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) app: AppId,
    pub(crate) user: UserId,
    pub(crate) device: DeviceKind,
    pub(crate) session: u64,
}

/// What a service wants done, in this order. Timers belong to the room (see `timers`): no service of today sets one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// Said to the room.
    pub(crate) pushes: Vec<Outgoing>,
    /// Taken out of the room.
    pub(crate) evict: Option<UserId>,
}

impl From<Outgoing> for Effects {
    fn from(push: Outgoing) -> Self {
        Self { pushes: vec![push], evict: None }
    }
}

/// A push before it has a place in its room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) biz_code: BizCode,
    pub(crate) data: String,
    /// Kept until acknowledged.
    pub(crate) acknowledged: bool,
    pub(crate) class: Class,
    /// Set: a state push.
    pub(crate) key: Option<String>,
    /// Who does not get it.
    pub(crate) except: Option<UserId>,
    /// The share of viewers that get it, in thousandths.
    pub(crate) keep_permille: u32,
}

/// Everyone gets it.
pub(crate) const KEEP_ALL: u32 = 1_000;

impl Outgoing {
    /// A push of QoS 0 to all.
    pub(crate) fn new(biz_code: BizCode, class: Class, data: String) -> Self {
        Self { biz_code, data, acknowledged: false, class, key: None, except: None, keep_permille: KEEP_ALL }
    }
}

/// Whether an id can be a user's.
pub(crate) fn is_user(user: UserId) -> bool {
    (billfish_wire::limits::USER_ID_MIN..=billfish_wire::limits::ID_MAX).contains(&user.0)
}

/// Whether an id can be a room's.
pub(crate) fn is_room(room: RoomId) -> bool {
    (1..=billfish_wire::limits::ID_MAX).contains(&room.0)
}
