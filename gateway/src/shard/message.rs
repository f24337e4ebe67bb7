//! What the shards and the control plane say to each other: commands down, events up.
//!
//! - Both directions go through a bounded [`Mailbox`](super::mailbox::Mailbox), taken whole, woken once per batch.
//! - A [`ConnKey`] may be stale when it arrives: the shard compares generations and a stale command misses. Nobody has to be told first.
//! - Bodies stay what they were: a push is encoded on the shard that writes it first, and shared from there.

use super::mailbox::Weigh;
use crate::quic::ShardEnd;
pub use crate::upstream::LinkId;
use billfish_session::{
    Push,
    server::{LoginAccepted, LoginRequest, UpCall},
};
use billfish_state::DeviceKind;
use billfish_wire::{Body, Class, Reason};
use smallvec::SmallVec;
use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Names one connection for as long as it lives, and nothing afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnKey {
    /// Which shard has it.
    pub shard: u16,
    /// Its place in the shard's slab.
    pub index: u32,
    /// Which tenant of that place.
    pub generation: u32,
}

/// Who sent something. Taken from LOGIN's verdict, never from a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Business line.
    pub app_id: i32,
    /// The user.
    pub user_id: i64,
    /// Kind of device.
    pub device: DeviceKind,
    /// Unique on this gateway for one incarnation.
    pub session: u64,
}

/// A LOGIN that was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginGranted {
    /// What the client is told.
    pub accepted: LoginAccepted,
    /// Who it is from now on. When the connection is gone by now, the shard answers with [`ShardEvent::Gone`] of this origin, so that the
    /// seat in the directory is given back.
    pub origin: Origin,
}

/// A LOGIN that was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginDenied {
    /// Why.
    pub reason: Reason,
    /// When to try again, where that helps.
    pub retry_after_ms: Option<u64>,
}

/// A connection that is not let in, before it has said anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnedAway {
    /// Why.
    pub reason: Reason,
    /// When to try again.
    pub retry_after_ms: u64,
}

impl TurnedAway {
    /// By then the strangers of now have logged in or are gone, at the default of `gateway.session.login_timeout`.
    pub const RETRY_AFTER_MS: u64 = 5_000;

    /// One that may try again when room may have been made.
    #[must_use]
    pub const fn because(reason: Reason) -> Self {
        Self { reason, retry_after_ms: Self::RETRY_AFTER_MS }
    }

    /// The ERROR that says so.
    #[must_use]
    pub fn body(self) -> Body {
        Body { retry_after_ms: Some(i64::try_from(self.retry_after_ms).unwrap_or(i64::MAX)), ..Body::refusal(self.reason) }
    }
}

/// A router's answer to an [`UpCall`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpReply {
    /// Taken over.
    Accepted {
        /// When, Unix ms.
        ts_ms: i64,
        /// Its place in the room; 0: none.
        seq: i64,
    },
    /// Not taken over.
    Refused {
        /// Why.
        reason: Reason,
        /// A sentence of the service; `None`: the reason's own.
        msg: Option<String>,
        /// When to try again, where that helps.
        retry_after_ms: Option<u64>,
    },
    /// The session is a member of the room. Takes its place in the room's queue: pushes handed over later are sent to it, earlier ones not.
    Joined {
        /// Who joined: a session that is over by now is named in [`ShardEvent::LeftRoom`].
        origin: Origin,
        /// Which room.
        room_id: i64,
        /// The room's sequence number at that moment.
        seq: i64,
        /// JSON text of a `RoomSnapshot`.
        data: String,
        /// Members on all gateways.
        audience: i64,
    },
    /// A page of a room's log or of the inbox.
    Synced {
        /// 0: the inbox.
        room_id: i64,
        /// JSON text of a `SyncPage`.
        data: String,
    },
}

/// What the control plane asks of a shard.
#[derive(Debug)]
pub enum ShardCommand {
    /// The answer to [`ShardEvent::Login`].
    LoginVerdict {
        /// Whose.
        key: ConnKey,
        /// In or not.
        verdict: Result<LoginGranted, LoginDenied>,
    },
    /// The answer to [`ShardEvent::Up`].
    Reply {
        /// Whose.
        key: ConnKey,
        /// As it came with the call.
        request: u32,
        /// What the router said.
        reply: UpReply,
    },
    /// One message to the local members of a room.
    RoomPush {
        /// Which room.
        room_id: i64,
        /// What.
        push: Arc<Push>,
        /// Not to this user; 0: to all.
        except_user_id: i64,
        /// Each viewer receives it with this chance, in thousandths; 0 or 1000: all do. Heeded for chat and ambient pushes only.
        keep_permille: u16,
    },
    /// One message to one session.
    UserPush {
        /// Whose.
        key: ConnKey,
        /// What.
        push: Arc<Push>,
    },
    /// One message to every session of an app.
    AllPush {
        /// Which app.
        app_id: i32,
        /// What.
        push: Arc<Push>,
    },
    /// Ends one session with a KICK frame.
    Kick {
        /// Which.
        key: ConnKey,
        /// Why.
        reason: Reason,
        /// A sentence; `None`: the reason's own.
        msg: Option<String>,
    },
    /// Takes members out of a room without ending their sessions. [`ShardEvent::LeftRoom`] follows for each.
    Evict {
        /// Which room.
        room_id: i64,
        /// Whom; 0: all.
        user_id: i64,
    },
    /// The owner of a room asks who is in it. In its turn in the room's queue, behind entries and evictions that came before; answered by
    /// one [`ShardEvent::Seats`], also where nobody is.
    RollCall(RollCall),
    /// Members of a room on all gateways, for heartbeat answers. Not remembered for a room without members here.
    Audience {
        /// Which room.
        room_id: i64,
        /// How many.
        members: i64,
    },
    /// Where the copies of a room's pushes are. The answer is dropped unsent when this shard has no members of the room.
    RoomAccount {
        /// Which room.
        room_id: i64,
        /// Where to.
        answer: oneshot::Sender<RoomAccount>,
    },
    /// Takes nothing new and sends the sessions elsewhere.
    Drain {
        /// Where to, `host:port` each, by transport.
        addresses: BTreeMap<String, Vec<String>>,
        /// Each session is told to leave after its own part of this.
        spread: Duration,
        /// Sessions closed a second, each some time after its part of `spread` has passed.
        close_per_s: u32,
    },
    /// Somebody comes in by QUIC.
    Enter(Box<Entrant>),
    /// Memory is short, or is so no longer: pushes that may be lost are.
    Shed {
        /// It is.
        sheds: bool,
    },
    /// Closes everything at once and ends the thread.
    Stop,
}

/// Somebody whose QUIC handshake is done, and who has opened his stream. Dropped, he is sent away.
#[derive(Debug)]
pub struct Entrant {
    pub(crate) end: ShardEnd,
    pub(crate) peer: IpAddr,
    /// When his first packet came: the time for LOGIN runs from there.
    pub(crate) since: Instant,
    pub(crate) admitted: Admitted,
}

impl Entrant {
    /// He is booked at the address that admission was asked about: his packets may come from another by now.
    pub(crate) const fn new(end: ShardEnd, since: Instant, admitted: Admitted) -> Self {
        Self { end, peer: admitted.peer, since, admitted }
    }
}

/// What a shard tells the control plane.
#[derive(Debug)]
pub enum ShardEvent {
    /// Check a token; answered by [`ShardCommand::LoginVerdict`], always.
    Login {
        /// Who asks.
        key: ConnKey,
        /// From where.
        peer: IpAddr,
        /// What stands in the frame.
        request: Box<LoginRequest>,
    },
    /// Call a router; answered by [`ShardCommand::Reply`].
    Up {
        /// Who calls.
        key: ConnKey,
        /// The caller's user and session.
        origin: Origin,
        /// Comes back with the answer.
        request: u32,
        /// What for.
        call: Box<UpCall>,
    },
    /// A session that had been let in has ended. Sent once per session; not for connections that never were let in.
    Gone {
        /// Its key; means nothing any more but in the directory.
        key: ConnKey,
        /// Who it was.
        origin: Origin,
        /// The rooms it was in.
        rooms: SmallVec<[i64; 1]>,
        /// Why.
        reason: Reason,
        /// The client said so itself: its token is not to be used again.
        logged_out: bool,
    },
    /// One [`UpReply::Joined`] has come to its end. Every one of them is answered by exactly one of these, or by the room's name in a
    /// [`ShardEvent::Gone`]: whoever counts joins up and these down knows whether the room has members here.
    LeftRoom {
        /// Who.
        origin: Origin,
        /// Which room.
        room_id: i64,
        /// How it ended.
        cause: LeftCause,
    },
    /// The members of a room at this moment, for its owner: whoever leaves later is named later.
    Seats {
        /// The question.
        call: RollCall,
        /// Who.
        members: Vec<Origin>,
    },
    /// A user showed a sign of life.
    Alive {
        /// Business line.
        app_id: i32,
        /// The user.
        user_id: i64,
    },
    /// Record that a push awaits its ACK.
    RecordAck {
        /// Whose ACK.
        origin: Origin,
        /// Of what.
        push: Arc<Push>,
        /// Sent so often.
        times_sent: u32,
        /// Next due in so many milliseconds.
        due_in_ms: u64,
    },
    /// A push was acknowledged about which something is kept outside: a user's push in the inbox, a room's push whose late ACK was
    /// recorded, or one that this session no longer knows. ACKs of which nobody else need hear are only counted, by the shard.
    Acked {
        /// By whom.
        origin: Origin,
        /// Which push.
        msg_id: String,
        /// `None`: a push to the user.
        room_id: Option<i64>,
        /// It had been recorded.
        recorded: bool,
    },
    /// A push was given up on: the inbox or the room log keeps it.
    HandOver {
        /// Whose.
        origin: Origin,
        /// Which push.
        push: Arc<Push>,
        /// It had been recorded.
        recorded: bool,
        /// The connection ended, and nothing says that the client had it.
        missed: bool,
    },
}

/// A question for the members of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollCall {
    /// Which room.
    pub room_id: i64,
    /// The owner's.
    pub epoch: u64,
    /// Which of its questions.
    pub number: u32,
    /// Shards that are asked.
    pub parts: u32,
    /// The link that it came over, and where the answer goes.
    pub link: LinkId,
}

/// How a [`UpReply::Joined`] came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeftCause {
    /// The client left; the router hears, or has heard, of it by [`UpCall::Leave`].
    Left,
    /// The router took it out.
    Evicted,
    /// The session was over before it could enter: the router still counts it as a member and has to be told.
    NotEntered,
    /// It was in the room already and still is; the other join goes on counting.
    AlreadyIn,
}

/// Where the copies of one room's pushes are, on one shard or summed over several: `copies = delivered + dropped + pending`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomAccount {
    /// Sessions in the room.
    pub members: u64,
    /// Copies that were to be written: pushes times those for whom they were.
    pub copies: u64,
    /// Handed whole to the transport.
    pub delivered: u64,
    /// Given up, by [`Class`].
    pub dropped: [u64; Class::ALL.len()],
    /// Waiting: in the backlogs of slow readers.
    pub pending: u64,
}

impl RoomAccount {
    /// Adds another shard's part.
    pub fn add(&mut self, other: &Self) {
        self.members += other.members;
        self.copies += other.copies;
        self.delivered += other.delivered;
        for (sum, part) in self.dropped.iter_mut().zip(other.dropped) {
            *sum += part;
        }
        self.pending += other.pending;
    }
}

/// What a client comes in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Listener {
    /// Plain TCP.
    Tcp,
    /// WebSocket without TLS.
    Ws,
    /// TLS, and in it frames or a WebSocket.
    Tls,
    /// QUIC.
    Quic,
}

impl Listener {
    /// Every one, in the order of its number.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Ws, Self::Tls, Self::Quic];

    /// As it is called in the configuration, among the nodes, in what clients are told, and in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Ws => "ws",
            Self::Tls => "tls",
            Self::Quic => "quic",
        }
    }
}

/// Who may connect. Asked once per connection, from every shard's thread: an implementation must not wait.
///
/// Every `accept` that is let in is followed by exactly one `closed`.
pub trait Admission: Send + Sync {
    /// A connection was accepted, before anything is allocated for it. A refusal is told and counted.
    ///
    /// # Errors
    /// The connection is not wanted.
    fn accept(&self, listener: Listener, peer: IpAddr) -> Result<(), TurnedAway>;
    /// Whether it makes sense to accept anybody now; if not, whoever comes waits in the kernel's queue.
    fn is_open(&self) -> bool {
        true
    }
    /// Whether who connects from there is a relay, which says first for whom. `accept` counts its connections in all, and for no address.
    fn is_relay(&self, _peer: IpAddr) -> bool {
        false
    }
    /// A relay's connection is `client`'s. Let in, `client` is the `peer` of all that follows; refused, the relay still is.
    ///
    /// # Errors
    /// The connection is not wanted.
    fn introduce(&self, _client: IpAddr) -> Result<(), TurnedAway> {
        Ok(())
    }
    /// It is no longer half-open: its LOGIN was granted.
    fn logged_in(&self, peer: IpAddr);
    /// It is gone.
    fn closed(&self, listener: Listener, peer: IpAddr, was_logged_in: bool);
}

/// Somebody by QUIC whom [`Admission`] has let in, until a shard has him.
pub(crate) struct Admitted {
    admission: Arc<dyn Admission>,
    peer: IpAddr,
    is_handed_over: bool,
}

impl Admitted {
    /// Asks admission.
    ///
    /// # Errors
    /// The connection is not wanted.
    pub(crate) fn ask(admission: &Arc<dyn Admission>, peer: IpAddr) -> Result<Self, TurnedAway> {
        let peer = peer.to_canonical();
        admission.accept(Listener::Quic, peer)?;
        Ok(Self { admission: Arc::clone(admission), peer, is_handed_over: false })
    }

    /// The shard has him, and says when he is gone.
    pub(crate) fn hand_over(mut self) {
        self.is_handed_over = true;
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Admitted").field(&self.peer).finish()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if !self.is_handed_over {
            self.admission.closed(Listener::Quic, self.peer, false);
        }
    }
}

/// What a command or event occupies beside its texts: the enum itself and its part of an `Arc`.
const MESSAGE_BYTES: usize = 128;

fn push_bytes(push: &Push) -> usize {
    push.body().data.as_ref().map_or(0, String::len)
}

impl Weigh for ShardCommand {
    fn weight(&self) -> usize {
        MESSAGE_BYTES
            + match self {
                Self::Reply { reply: UpReply::Joined { data, .. } | UpReply::Synced { data, .. }, .. } => data.len(),
                Self::RoomPush { push, .. } | Self::UserPush { push, .. } | Self::AllPush { push, .. } => push_bytes(push),
                Self::Reply { reply: UpReply::Accepted { .. } | UpReply::Refused { .. }, .. }
                | Self::LoginVerdict { .. }
                | Self::Kick { .. }
                | Self::Evict { .. }
                | Self::RollCall(_)
                | Self::Audience { .. }
                | Self::RoomAccount { .. }
                | Self::Drain { .. }
                | Self::Enter(_)
                | Self::Shed { .. }
                | Self::Stop => 0,
            }
    }
}

impl Weigh for ShardEvent {
    fn weight(&self) -> usize {
        MESSAGE_BYTES
            + match self {
                Self::Up { call, .. } => match &**call {
                    UpCall::Biz { data, .. } => data.len(),
                    UpCall::Join { .. } | UpCall::Leave { .. } | UpCall::Sync { .. } | UpCall::Redeliver => 0,
                },
                Self::Login { .. } => billfish_wire::limits::TOKEN_BYTES_MAX,
                Self::RecordAck { push, .. } | Self::HandOver { push, .. } => push_bytes(push),
                Self::Seats { members, .. } => members.len() * size_of::<Origin>(),
                Self::Gone { .. } | Self::LeftRoom { .. } | Self::Alive { .. } | Self::Acked { .. } => 0,
            }
    }
}
