//! The lines of a run with gifts.

use super::{Digesting, Journal, Line};
use crate::{
    crowd::{
        gifting::RoomGifts,
        viewers::{BarPush, GiftFaults, PushLine, ViewerState, chain_breaks},
    },
    gifts::GiftPlan,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{self, Write},
};

/// Pushes, or values of a bar, in one line: some tens of kilobytes.
const PER_LINE: usize = 512;

/// What was meant to be sent, and the sums over all rooms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct GiftsLine {
    /// Everything that a gift is follows from it and from the gift's place among those of its sender.
    pub(crate) plan: GiftPlan,
    /// Gifts begun, acknowledged, and without a final answer.
    pub(crate) intended: u64,
    pub(crate) acked: u64,
    pub(crate) unanswered: u64,
    /// Refused for good, by code.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Sent again, by why; and once more on purpose.
    pub(crate) retries: BTreeMap<String, u64>,
    pub(crate) repeats: u64,
    /// Refused when they were sent once more, although they were acknowledged.
    pub(crate) repeats_refused: u64,
    /// Answers that contradict an earlier one to the same gift.
    pub(crate) contradictory_answers: u64,
    /// Viewers that saw another order or content than the others.
    pub(crate) chain_breaks: u64,
    /// What else was wrong with pushes.
    pub(crate) faults: GiftFaults,
}

/// ACKs of a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GiftRoomLine {
    /// Its place in the run.
    pub(crate) room: usize,
    pub(crate) id: i64,
    /// When the load began.
    pub(crate) members: u32,
    /// Gifts acknowledged.
    pub(crate) acked: u64,
    /// Sum over them of a digest of whose gift it is and which place in the room its ACK named; without those of which it named none.
    pub(crate) places: u64,
    /// How many that are.
    pub(crate) placeless: u64,
    /// Gifts that its viewers were told of, each once.
    pub(crate) told: u64,
}

/// Viewers of a room that have come to the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ViewersLine {
    pub(crate) room: usize,
    /// How many.
    pub(crate) members: u32,
    #[serde(flatten)]
    pub(crate) state: ViewerState,
}

/// Pushes of gifts: first gift, last gift, how many, first copies, copies that came again, first copies behind something later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PushesLine {
    pub(crate) room: usize,
    pub(crate) list: Vec<PushLine>,
}

/// Values of a bar: newest gift in it, value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BarsLine {
    pub(crate) room: usize,
    pub(crate) list: Vec<(i64, i64)>,
}

impl Journal<'_> {
    pub(super) fn write_gifts(&self, to: &mut Digesting<impl Write>) -> io::Result<()> {
        let (Some(tally), Some(plan)) = (&self.measures.seen.gifts, &self.measures.gifts) else { return Ok(()) };
        let sends = &tally.sends;
        let mut faults = GiftFaults::default();
        tally.rooms.iter().for_each(|room| faults.merge(&room.faults));
        to.line(&Line::Gifts(Box::new(GiftsLine {
            plan: plan.clone(),
            intended: sends.intents,
            acked: sends.acked,
            unanswered: sends.unanswered,
            refused: sends.refused.iter().map(|(code, &count)| (code.to_string(), count)).collect(),
            retries: sends.retries.clone(),
            repeats: sends.repeats,
            repeats_refused: sends.repeats_refused,
            contradictory_answers: sends.contradictions,
            chain_breaks: tally.rooms.iter().map(|room| chain_breaks(&room.by_state())).sum(),
            faults,
        })))?;
        tally.senders.iter().try_for_each(|sender| to.line(&Line::Sender(sender.clone())))?;
        for (place, (room, &id)) in tally.rooms.iter().zip(self.room_ids).enumerate() {
            let members = self.measures.settled.members.get(place).copied().unwrap_or(0);
            write_room(to, room, GiftRoomLine { room: place, id, members, ..GiftRoomLine::default() })?;
        }
        Ok(())
    }
}

fn write_room(to: &mut Digesting<impl Write>, gifts: &RoomGifts, line: GiftRoomLine) -> io::Result<()> {
    let room = line.room;
    let acks = gifts.acks;
    let (acked, places, placeless, told) = (acks.gifts, acks.places, acks.placeless, gifts.told);
    to.line(&Line::GiftRoom(GiftRoomLine { acked, places, placeless, told, ..line }))?;
    let pushes: Vec<PushLine> = gifts.pushes.values().copied().collect();
    pushes.chunks(PER_LINE).try_for_each(|list| to.line(&Line::Pushes(PushesLine { room, list: list.to_vec() })))?;
    let bars: Vec<(i64, i64)> = gifts.bars.iter().map(|(&gift_seq, &value)| (gift_seq, value)).collect();
    bars.chunks(PER_LINE).try_for_each(|list| to.line(&Line::Bars(BarsLine { room, list: list.to_vec() })))?;
    gifts.viewers.iter().try_for_each(|&(state, members)| to.line(&Line::Viewers(ViewersLine { room, members, state })))
}

impl BarsLine {
    pub(crate) fn bars(&self) -> impl Iterator<Item = BarPush> {
        self.list.iter().map(|&(gift_seq, value)| BarPush { gift_seq, value })
    }
}
