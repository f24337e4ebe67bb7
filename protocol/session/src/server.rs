//! The gateway's end of a session.
//!
//! ```text
//!  AwaitingLogin --LOGIN--> Authenticating --accepted--> Live --LOGOUT, kick, silence, drain--> Closed
//!        |                       |                         |
//!        +---- login timeout, bad frame, refused ----------+-------------------------------> Closed
//! ```
//!
//! - A machine belongs to one connection. What it says about the user comes from LOGIN's verdict alone, never from a later body.
//! - Pushes of QoS 0 do not pass through here: the shard writes them straight to the members.
//! - After a [`ServerAction::Close`] every input is ignored.

use crate::{push::Push, time::Time};
use billfish_wire::{Body, Code, Encoding, Frame, FrameError, Reason};
use std::{collections::VecDeque, sync::Arc};

/// Times and bounds of a session. One per gateway, shared by all its machines.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// From accept to a valid LOGIN.
    pub login_timeout_ms: u64,
    /// The gap between heartbeats that LOGIN's answer asks for.
    pub heartbeat_gap_ms: u64,
    /// Silent gaps after which the session is over.
    pub silent_gaps: u32,
    /// From the first byte of a frame to its last.
    pub frame_timeout_ms: u64,
    /// Longest body before login.
    pub login_body_bytes_max: usize,
    /// Longest body after it.
    pub body_bytes_max: usize,
    /// A QoS-1 push is sent again this long after it was sent last; one entry per resend, so the length is also their number.
    pub resend_after_ms: Vec<u64>,
    /// A room push whose ACK is later than this is recorded in the shared state.
    pub late_ack_ms: u64,
    /// QoS-1 pushes that may wait for their ACK; beyond it the oldest is handed over at once.
    pub pending_max: usize,
    /// BIZ, JOIN, LEAVE and SYNC under way to routers; beyond it the client is told to wait (4007).
    pub upstream_max: usize,
    /// Rooms one session may be in.
    pub rooms_max: usize,
    /// Frames per second from a client, ACKs apart, and how many at once.
    pub frames_per_s: u32,
    /// Burst of the above.
    pub frames_burst: u32,
    /// Bytes per second from a client.
    pub bytes_per_s: u32,
    /// Burst of the above.
    pub bytes_burst: u32,
    /// Frames refused for rate in a row after which the connection is closed with 4007.
    pub refused_in_a_row_max: u32,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            login_timeout_ms: 5_000,
            heartbeat_gap_ms: 30_000,
            silent_gaps: 2,
            frame_timeout_ms: 15_000,
            login_body_bytes_max: billfish_wire::limits::LOGIN_BODY_BYTES_MAX,
            body_bytes_max: billfish_wire::limits::BODY_BYTES_MAX,
            resend_after_ms: vec![4_000, 8_000],
            late_ack_ms: 200,
            pending_max: 256,
            upstream_max: 32,
            rooms_max: billfish_wire::limits::RESUME_ROOMS_MAX,
            frames_per_s: 20,
            frames_burst: 60,
            bytes_per_s: 64 * 1024,
            bytes_burst: 128 * 1024,
            refused_in_a_row_max: 200,
        }
    }
}

/// What a LOGIN asks for; the shell checks the token and answers with [`ServerSession::on_login_accepted`] or
/// [`ServerSession::on_login_refused`].
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
    /// A business message; answered by [`ServerSession::on_accepted`] or [`ServerSession::on_refused`].
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
    /// Answered by [`ServerSession::on_joined`] or [`ServerSession::on_refused`].
    Join {
        /// Which room.
        room_id: i64,
        /// Last sequence number seen.
        resume_seq: Option<i64>,
    },
    /// Answered by [`ServerSession::on_accepted`]; the client has had its echo already.
    Leave {
        /// Which room.
        room_id: i64,
    },
    /// Answered by [`ServerSession::on_synced`] or [`ServerSession::on_refused`].
    Sync {
        /// 0: the inbox.
        room_id: i64,
        /// Everything after it.
        from_seq: i64,
        /// Everything after it, for the inbox; empty: from the oldest.
        from_id: String,
    },
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
    /// Check a token. Until the verdict no further frame may be fed: see [`ServerSession::is_authenticating`].
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
    /// Given up: the inbox or the room log keeps it, the ACK record is removed if there was one.
    HandOver {
        /// Which push.
        push: Arc<Push>,
        /// It had been recorded by [`ServerAction::RecordAck`].
        recorded: bool,
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
}
