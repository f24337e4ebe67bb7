//! One room as a worker sees it: its messages, and a quick way to know a copy again.
//!
//! All members of a room are sent the same bytes, so a body is decoded once and every further copy is recognised by comparing bytes with
//! the one this member should get next. Decoding each copy would cost the generator more than the delivery costs the gateway.

use crate::{
    crowd::viewers::{GiftBook, Told},
    gifts::GiftPlan,
    tally::{Copy, MessageTally},
    worker::RoomEnds,
};
use billfish_wire::{BizCode, Body, BodyError, Code, Encoding, frame};
use serde::Deserialize;
use std::{collections::VecDeque, sync::Arc};

/// Bodies kept for recognition: members drift apart by at most the messages outstanding, and by what a backlog holds (256 frames).
const RECENT_MAX: usize = 512;
/// Messages of one room in one run: 32 bytes each. Copies of later ones are strays, and the pacer stops before.
pub(crate) const MESSAGES_MAX: u32 = 1 << 21;

/// A body decoded once.
#[derive(Debug)]
pub(crate) struct Known {
    bytes: Box<[u8]>,
    /// Room it names.
    pub(crate) room_id: Option<i64>,
    /// Its place in the room's order.
    pub(crate) seq: i64,
    /// The class it names.
    pub(crate) class: Option<i32>,
    /// What the load put into it; `None` for the server's own pushes.
    pub(crate) load: Option<Load>,
    /// The ACK it asks for, ready to be written.
    pub(crate) ack: Option<Box<[u8]>>,
    /// User it names.
    pub(crate) user_id: Option<i64>,
    /// What it says about gifts.
    pub(crate) told: Told,
    /// A gift was refused.
    pub(crate) refusal: Option<Box<Refusal>>,
}

/// `data` of a GIFT_FAIL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Refusal {
    pub(crate) uuid: String,
    pub(crate) code: i32,
}

/// What a load message carries in its `data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Load {
    /// Number of the message in its room, 0, 1, 2 …
    #[serde(rename = "n")]
    pub(crate) number: u32,
    /// When it should have been sent.
    #[serde(rename = "at")]
    pub(crate) intended_ns: u64,
}

impl Load {
    /// The `data` of a message, padded to `payload_bytes`.
    pub(crate) fn data(self, payload_bytes: usize) -> String {
        let Self { number, intended_ns } = self;
        let bare = format!(r#"{{"n":{number},"at":{intended_ns},"pad":""}}"#);
        let pad = "x".repeat(payload_bytes.saturating_sub(bare.len()));
        format!(r#"{{"n":{number},"at":{intended_ns},"pad":"{pad}"}}"#)
    }
}

/// A room of the plan.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Its id.
    pub(crate) id: i64,
    /// Members in this worker.
    pub(crate) members: u32,
    /// Messages by number.
    pub(crate) messages: Vec<MessageTally>,
    /// Members of this worker that were lost.
    pub(crate) ends: RoomEnds,
    /// Bytes of the last load frame.
    pub(crate) frame_bytes: usize,
    /// In a run with gifts: what was told of them.
    pub(crate) gifts: GiftBook,
    gift_plan: Option<Arc<GiftPlan>>,
    recent: VecDeque<Known>,
    /// How many bodies left `recent` at its front.
    forgotten: u64,
}

impl Room {
    /// A room nobody has joined yet.
    pub(crate) fn new(id: i64) -> Self {
        Self { id, ..Self::default() }
    }

    /// The same in a run with gifts.
    pub(crate) fn with_gifts(self, gift_plan: Option<Arc<GiftPlan>>) -> Self {
        Self { gift_plan, ..self }
    }

    /// The decoded form of a body. `expected` is the member's place among the room's bodies and moves one further.
    ///
    /// # Errors
    /// When the body is not one.
    pub(crate) fn recognise(&mut self, encoding: Encoding, bytes: &[u8], expected: &mut u64) -> Result<&Known, BodyError> {
        let hint = expected.checked_sub(self.forgotten).and_then(|place| usize::try_from(place).ok());
        let place = match hint.filter(|&place| self.recent.get(place).is_some_and(|known| *known.bytes == *bytes)) {
            Some(place) => place,
            None => match self.recent.iter().rposition(|known| *known.bytes == *bytes) {
                Some(place) => place,
                None => self.learn(encoding, bytes)?,
            },
        };
        *expected = self.forgotten + place as u64 + 1;
        Ok(&self.recent[place])
    }

    fn learn(&mut self, encoding: Encoding, bytes: &[u8]) -> Result<usize, BodyError> {
        let body = Body::decode(encoding, bytes)?;
        let known = Known { told: self.learn_told(&body), ..Known::of(encoding, bytes, &body) };
        if known.load.is_some() || known.told.gifts.is_some() {
            self.frame_bytes = frame::HEADER_BYTES + bytes.len();
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
            self.forgotten += 1;
        }
        self.recent.push_back(known);
        Ok(self.recent.len() - 1)
    }

    /// What a push says about gifts.
    pub(crate) fn learn_told(&mut self, push: &Body) -> Told {
        self.gift_plan.as_ref().map_or_else(Told::default, |plan| self.gifts.learn(push, plan))
    }

    /// Books a copy by what it turned out to be for its receiver; `true` when it was the last one this worker's members were waiting for.
    pub(crate) fn on_copy(&mut self, load: Load, copy: Copy, now_ns: u64) -> bool {
        if load.number >= MESSAGES_MAX {
            return false;
        }
        let number = load.number as usize;
        if self.messages.len() <= number {
            self.messages.resize_with(number + 1, MessageTally::default);
        }
        let message = &mut self.messages[number];
        if copy == Copy::Again {
            message.twice += 1;
            return false;
        }
        message.received += 1;
        message.overtaken += u32::from(copy == Copy::Overtaken);
        message.intended_ns = load.intended_ns;
        message.last_ns = now_ns;
        message.received == self.members
    }
}

const _: () = assert!(size_of::<MessageTally>() == 32, "two million messages of a room are 64 MiB");

impl Known {
    fn of(encoding: Encoding, bytes: &[u8], body: &Body) -> Self {
        let load =
            body.data.as_deref().filter(|data| data.starts_with(r#"{"n":"#)).and_then(|data| serde_json::from_str::<Load>(data).ok());
        let ack = ack_for(encoding, body).map(Vec::into_boxed_slice);
        let refusal = body.data.as_deref().filter(|_| body.biz_code == Some(BizCode::GIFT_FAIL.0));
        Self {
            bytes: bytes.into(),
            room_id: body.room_id,
            seq: body.seq.unwrap_or(0),
            class: body.class,
            load,
            ack,
            user_id: body.user_id,
            told: Told::default(),
            refusal: refusal.map(|data| Box::new(serde_json::from_str(data).unwrap_or_default())),
        }
    }
}

/// The ACK frame a push asks for.
pub(crate) fn ack_for(encoding: Encoding, push: &Body) -> Option<Vec<u8>> {
    let msg_id = push.msg_id.clone().filter(|_| push.qos == Some(1))?;
    let mut out = Vec::with_capacity(64);
    frame::encode_into(&mut out, encoding, Code::Ack, &Body { msg_id: Some(msg_id), ..Body::default() });
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::{Load, RECENT_MAX, Room};
    use crate::tally::Copy;
    use billfish_wire::{Body, Encoding};

    fn push(number: u32) -> Vec<u8> {
        let data = Load { number, intended_ns: 1_000 + u64::from(number) }.data(60);
        assert_eq!(data.len(), 60);
        Body { room_id: Some(7), seq: Some(i64::from(number) + 1), data: Some(data), ..Body::default() }.to_vec(Encoding::Json)
    }

    #[test]
    fn every_copy_of_a_message_is_recognised_whoever_gets_it_and_in_which_order() {
        let mut room = Room::new(7);
        let (mut early, mut late) = (0, 0);
        for number in 0..100 {
            let known = room.recognise(Encoding::Json, &push(number), &mut early).expect("a body");
            assert_eq!(known.load.map(|load| load.number), Some(number));
        }
        for number in (0..100).rev() {
            let known = room.recognise(Encoding::Json, &push(number), &mut late).expect("a body");
            assert_eq!((known.load.map(|load| load.number), known.seq), (Some(number), i64::from(number) + 1));
        }
        assert_eq!(room.recent.len(), 100, "each body was decoded once");
    }

    #[test]
    fn memory_for_recognition_is_bounded_and_a_straggler_is_still_understood() {
        let mut room = Room::new(7);
        let (mut early, mut late) = (0, 0);
        for number in 0..2_000 {
            room.recognise(Encoding::Json, &push(number), &mut early).expect("a body");
        }
        assert_eq!(room.recent.len(), RECENT_MAX);
        let known = room.recognise(Encoding::Json, &push(3), &mut late).expect("a body");
        assert_eq!(known.load, Some(Load { number: 3, intended_ns: 1_003 }));
    }

    #[test]
    fn the_last_member_completes_a_message() {
        let mut room = Room { members: 2, ..Room::new(7) };
        let load = Load { number: 4, intended_ns: 10 };
        assert!(!room.on_copy(load, Copy::InOrder, 20));
        assert!(!room.on_copy(load, Copy::Again, 25), "not for a copy of a copy");
        assert!(room.on_copy(load, Copy::Overtaken, 30));
        let message = room.messages[4];
        assert_eq!((message.received, message.twice, message.overtaken, message.last_ns), (2, 1, 1, 30));
        assert_eq!(room.messages[0].received, 0);
    }
}
