//! What passes between the gateway's end of a session and its shell.

use crate::push::Push;
use billfish_wire::{Body, Code, Reason};
use std::{collections::VecDeque, sync::Arc};

/// What a LOGIN asks for; the shell checks the token and answers with [`super::ServerSession::on_login_accepted`] or
/// [`super::ServerSession::on_login_refused`].
#[derive(Clone, Debug, PartialEq)]
pub struct LoginRequest {
    /// Business line.
    pub app_id: i32,
    /// Who it says it is.
    pub user_id: i64,
    /// The proof.
    pub token: String,
    /// Kind of device, as the client words it.
    pub platform: Option<String>,
    /// The device's own id.
    pub device_id: Option<String>,
}

/// What the shell found out about a LOGIN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginAccepted {
    /// `sessionId` of the answer.
    pub session_id: String,
    /// `node` of the answer.
    pub node: String,
    /// `serverTime` of the answer, Unix ms.
    pub server_time_ms: i64,
}

/// A call to the router that owns the room or the user. `request` pairs it with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpCall {
    /// A business message; answered by [`super::ServerSession::on_accepted`] or [`super::ServerSession::on_refused`].
    Biz {
        /// 0: none.
        room_id: i64,
        /// Which service.
        biz_code: i32,
        /// Its JSON.
        data: String,
        /// The client's id; empty: none.
        msg_id: String,
    },
    /// Answered by [`super::ServerSession::on_joined`] or [`super::ServerSession::on_refused`].
    Join {
        /// Which room.
        room_id: i64,
        /// Last sequence number seen.
        resume_seq: Option<i64>,
        /// It is in the room already, and wants a fresh snapshot. Should the answer come when nobody waits for it any more, it stays in.
        was_in: bool,
    },
    /// Answered by [`super::ServerSession::on_accepted`]; the client has had its echo already.
    Leave {
        /// Which room.
        room_id: i64,
    },
    /// Answered by [`super::ServerSession::on_synced`] or [`super::ServerSession::on_refused`].
    Sync {
        /// 0: the inbox.
        room_id: i64,
        /// Everything after it.
        from_seq: i64,
        /// Everything after it, for the inbox; empty: from the oldest.
        from_id: String,
        /// The client has just come back: everything in the inbox, also what is before `from_id`, which only says whether something has been
        /// lost. What comes from two routers may have arrived in another order than that of its ids.
        resume: bool,
    },
    /// Pushes to this session what the inbox holds: a client that did not resume has no other way to it. Answered by
    /// [`super::ServerSession::on_accepted`] or [`super::ServerSession::on_refused`], of which the client hears nothing.
    Redeliver,
}

/// What the shell must do, in order.
#[derive(Clone, Debug)]
pub enum ServerAction {
    /// Write a frame, in the session's encoding.
    Send {
        /// Its code.
        code: Code,
        /// Its body.
        body: Box<Body>,
    },
    /// Echo a heartbeat; the shell adds the audience of `room_id`, which it knows.
    SendHeartbeat {
        /// First room the session is in.
        room_id: Option<i64>,
    },
    /// Check a token. Until the verdict no further frame may be fed: see [`super::ServerSession::is_authenticating`].
    Authenticate(Box<LoginRequest>),
    /// Call a router.
    Upstream {
        /// Comes back with the answer.
        request: u32,
        /// What for.
        call: Box<UpCall>,
    },
    /// From now on the connection receives the room's pushes.
    EnterRoom {
        /// Which.
        room_id: i64,
    },
    /// From now on it does not.
    LeaveRoom {
        /// Which.
        room_id: i64,
    },
    /// The user showed a sign of life that presence should hear of: at most one per half a gap.
    Alive,
    /// A push to a room was acknowledged before anything was recorded of it: the usual end, and only worth counting.
    AckedInTime,
    /// A push was acknowledged: forget it in the inbox and among the late ACKs.
    Acked {
        /// Which.
        msg_id: String,
        /// `None`: it was a push to the user, or is no longer known here.
        room_id: Option<i64>,
        /// It had been recorded by [`ServerAction::RecordAck`].
        recorded: bool,
    },
    /// A delivery awaits its ACK: record it in the shared state.
    RecordAck {
        /// Which push.
        push: Arc<Push>,
        /// Sent so often.
        times_sent: u32,
        /// Next due in so many milliseconds.
        due_in_ms: u64,
    },
    /// Write the push again.
    Resend(Arc<Push>),
    /// Given up: the inbox or the room log keeps it. The ACK record is removed if there was one; that of a room's push which was missed is
    /// kept, or written now: it tells the next JOIN where to begin.
    HandOver {
        /// Which push.
        push: Arc<Push>,
        /// It had been recorded by [`ServerAction::RecordAck`].
        recorded: bool,
        /// The connection ended, and nothing says that the client had it.
        missed: bool,
    },
    /// Write what is queued as far as the socket takes it, then close.
    Close(Reason),
}

/// Actions of one or more inputs. The shell keeps one and drains it after every input, so that idle sessions own no queue.
#[derive(Debug, Default)]
pub struct ServerActions {
    queue: VecDeque<ServerAction>,
}

impl ServerActions {
    /// Takes the next action; `None` means nothing to do until the next input.
    pub fn next_action(&mut self) -> Option<ServerAction> {
        self.queue.pop_front()
    }

    pub(super) fn push(&mut self, action: ServerAction) {
        self.queue.push_back(action);
    }

    pub(super) fn send(&mut self, code: Code, body: Body) {
        self.push(ServerAction::Send { code, body: Box::new(body) });
    }
}
