//! Calls to routers that wait for their answer.
//!
//! - Bounded by `upstream_max`; the session refuses what does not fit and tells the client to wait.
//! - A call's number comes back with its answer and is not used twice within four billion calls.

use std::collections::VecDeque;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Biz {
        msg_id: Option<Box<str>>,
    },
    /// `left`: a LEAVE of the room was sent behind it; its answer must not enter the room any more.
    Join {
        room_id: i64,
        left: bool,
    },
    Leave,
    Sync {
        room_id: i64,
    },
    Redeliver,
}

#[derive(Debug, Default)]
pub(super) struct Calls {
    under_way: VecDeque<(u32, Call)>,
}

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    pub(super) fn add(&mut self, request: u32, call: Call) {
        self.under_way.push_back((request, call));
    }

    pub(super) fn take(&mut self, request: u32) -> Option<Call> {
        let at = self.under_way.iter().position(|(number, _)| *number == request)?;
        self.under_way.remove(at).map(|(_, call)| call)
    }

    pub(super) fn holds_msg_id(&self, wanted: &str) -> bool {
        self.under_way.iter().any(|(_, call)| matches!(call, Call::Biz { msg_id: Some(msg_id) } if **msg_id == *wanted))
    }

    /// Rooms with a JOIN under way that will enter them; a room asked for twice stands here twice.
    pub(super) fn joining(&self) -> impl Iterator<Item = i64> {
        self.under_way.iter().filter_map(|(_, call)| match call {
            Call::Join { room_id, left: false } => Some(*room_id),
            Call::Biz { .. } | Call::Join { .. } | Call::Leave | Call::Sync { .. } | Call::Redeliver => None,
        })
    }

    /// A LEAVE overtakes the JOINs under way; `false` when there were none.
    pub(super) fn leave(&mut self, wanted: i64) -> bool {
        let mut any = false;
        for (_, call) in &mut self.under_way {
            if let Call::Join { room_id, left } = call
                && *room_id == wanted
                && !*left
            {
                *left = true;
                any = true;
            }
        }
        any
    }
}
