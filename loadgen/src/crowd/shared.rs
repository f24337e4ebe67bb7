//! What all clients share while one of them is served.
//!
//! No socket is here: what a client says goes into `out`, and the crowd writes it.

use crate::{
    crowd::{gifting::Gifting, layers, room::Room, stats::Stats},
    transport::Transport,
    worker::{Activity, Plan},
};
use billfish_websocket::{Opcode, frame_into};
use billfish_wire::{Body, Class, Code, Encoding, frame};
use std::collections::VecDeque;

/// What all clients share while one of them is served.
#[derive(Debug)]
pub(crate) struct Shared<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) rooms: Vec<Room>,
    pub(crate) stats: Stats,
    /// In a run with gifts.
    pub(crate) gifts: Option<Box<Gifting<'a>>>,
    /// Frames to be written to the client that is being served.
    pub(crate) out: Vec<u8>,
    /// The class of the stream that is being read; `None`: the client's own, or the only one there is.
    pub(crate) stream_class: Option<Class>,
    /// Read once per readable socket, not once per copy.
    pub(crate) now_ns: u64,
    pub(crate) heartbeat_gap_ns: u64,
    pub(crate) is_active: bool,
    /// Everyone of a herd has been in: who is cut from now on comes back.
    pub(crate) is_herd_in: bool,
    /// How long the client that is being refused shall wait, when the refusal said so.
    pub(crate) told_to_wait_ms: Option<u64>,
    /// Clients of a closed loop that were told to wait, and until when.
    pub(crate) paused: VecDeque<(u64, usize)>,
    pub(super) activity_began_ns: u64,
    /// Since when some read slowly.
    pub(crate) lag_from_ns: u64,
    /// Seeded by the plan: the same seed draws the same waits.
    pub(crate) random: fastrand::Rng,
    /// Makes message ids of this run differ from those of the last one.
    pub(crate) run: u64,
    pub(super) encoding: Encoding,
}

impl Shared<'_> {
    /// The user of a client.
    pub(crate) fn user_id(&self, index: usize) -> i64 {
        self.plan.user_id(index)
    }

    /// The room of a client, as its place in the plan.
    pub(crate) fn room_of(&self, index: usize) -> Option<usize> {
        (self.plan.first + index).checked_rem(self.rooms.len())
    }

    /// Whom a client chats with: its neighbour.
    pub(crate) fn partner_of(&self, index: usize) -> Option<i64> {
        let partner = index ^ 1;
        (partner < self.plan.clients).then(|| self.user_id(partner))
    }

    /// Adds a frame to what the client being served will be sent.
    pub(crate) fn say(&mut self, code: Code, body: &Body) {
        if self.plan.transport.is_websocket() {
            self.say_whole(&frame::encode(self.encoding, code, body));
        } else {
            frame::encode_into(&mut self.out, self.encoding, code, body);
        }
    }

    /// The same for a frame that is written already.
    pub(crate) fn say_whole(&mut self, frame: &[u8]) {
        say_whole_into(&mut self.out, self.plan.transport, &mut self.random, frame);
    }

    /// When the load message `nth` of a client was due: the pacer goes round the clients.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a run has far fewer than 2^52 messages and nanoseconds"
    )]
    pub(crate) fn intended_ns(&self, per_s: f64, index: usize, nth: u32) -> u64 {
        let place = u64::from(nth) * self.plan.clients as u64 + index as u64;
        self.activity_began_ns + (place as f64 * 1e9 / per_s) as u64
    }

    /// Whether each client sends its next as soon as it has the answer.
    pub(crate) fn is_closed_loop(&self) -> bool {
        matches!(self.plan.activity, Activity::Echo { per_s } if per_s <= 0.0)
    }
}

/// Adds a frame that is written already.
pub(crate) fn say_whole_into(out: &mut Vec<u8>, transport: Transport, random: &mut fastrand::Rng, frame: &[u8]) {
    if transport.is_websocket() {
        frame_into(out, Opcode::Binary, frame, Some(layers::mask(random)));
    } else {
        out.extend_from_slice(frame);
    }
}
