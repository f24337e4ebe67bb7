//! Who saw which gift, how often, in which order, and what bar of a PK each viewer was shown.
//!
//! - A push of gifts is known by its `msgId`, a gift by its place in the room, `giftSeq`. A push stands for one gift, or for taps of one combo
//!   (`giftSeqs`). A place that was shown is not shown again, as the protocol says: that it was told of again is counted.
//! - Each room numbers the pushes as they come to this worker, so that a viewer who saw all of them remembers two numbers.
//! - **Chain**: a viewer's digest after its last push follows from all pushes it was shown, and in which order. All that lack nothing must have
//!   the same ([`chain_breaks`]).
//! - **Bar**: what an app shows. A value with a smaller `sendGiftSeqNum` than the shown one is left out, as the protocol says; the same number with
//!   another value is a fault.
//!
//! Bounded by [`GIFTS_MAX`] gifts of a room; what is beyond is counted and not accounted for.

use crate::{
    gifts::{GIFTS_MAX, GiftPlan, chained},
    http::Id,
    tally::{Copy, MemberTally},
};
use billfish_wire::{BizCode, Body};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Gifts of one push that are believed; a combo of the server's is over after 300 ms.
const TAPS_MAX: usize = 10_000;
/// No value of a bar was seen at this place.
const UNSEEN: u8 = u8::MAX;

/// What a push of a room says about gifts, decoded once for all its copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Gifts to be shown.
    pub(crate) gifts: Option<GiftPush>,
    /// The bar that goes with them, or a state push's.
    pub(crate) bar: Option<BarPush>,
}

/// A push of gifts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GiftPush {
    /// Its place among the pushes of its room in this worker.
    pub(crate) number: u32,
    /// Gifts it stands for.
    pub(crate) taps: u32,
    /// When the gift that its `uuid` names was due.
    pub(crate) intended_ns: u64,
}

/// A value of a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct BarPush {
    /// `sendGiftSeqNum`: the newest gift in it.
    pub(crate) gift_seq: i64,
    /// `pkNum`.
    pub(crate) value: i64,
}

/// `data` of the pushes that concern gifts.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    #[serde(default)]
    uuid: String,
    gift_seq: Option<Id>,
    #[serde(default)]
    gift_seqs: Vec<Id>,
    num: Option<i64>,
    pk_obj_id: Option<Id>,
    pk_num: Option<i64>,
    send_gift_seq_num: Option<Id>,
}

/// What a room has been told of, in this worker.
#[derive(Debug, Default)]
pub(crate) struct GiftBook {
    /// By `msgId`.
    numbers: HashMap<Box<str>, u32>,
    pushes: Vec<Pushed>,
    /// By gift: number of the first push that it stands in, plus one.
    told_in: Vec<u32>,
    /// By gift: further ones.
    told_again_in: BTreeMap<u32, Vec<u32>>,
    /// Gifts in them, each once.
    told: u64,
    /// By gift: value of the bar that was told with it.
    bars: Vec<u8>,
    pub(crate) faults: GiftFaults,
}

#[derive(Debug)]
struct Pushed {
    line: PushLine,
    digest: u64,
    /// Its gifts, where they are several.
    gifts: Box<[u32]>,
    /// One of them stands in another push too.
    is_shared: bool,
}

impl Pushed {
    fn gifts(&self) -> impl Iterator<Item = u32> {
        let single = u32::try_from(self.line.first).ok().filter(|_| self.gifts.is_empty());
        self.gifts.iter().copied().chain(single)
    }
}

/// A push of gifts, and its copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i64, i64, u32, u64, u64, u64)", into = "(i64, i64, u32, u64, u64, u64)")]
pub(crate) struct PushLine {
    /// Its gifts: the first,
    pub(crate) first: i64,
    /// the last,
    pub(crate) last: i64,
    /// and how many there are: between the two may be others.
    pub(crate) taps: u32,
    /// First copies.
    pub(crate) received: u64,
    /// Copies that their viewer had already.
    pub(crate) twice: u64,
    /// First copies behind something later.
    pub(crate) overtaken: u64,
}

impl From<(i64, i64, u32, u64, u64, u64)> for PushLine {
    fn from((first, last, taps, received, twice, overtaken): (i64, i64, u32, u64, u64, u64)) -> Self {
        Self { first, last, taps, received, twice, overtaken }
    }
}

impl From<PushLine> for (i64, i64, u32, u64, u64, u64) {
    fn from(PushLine { first, last, taps, received, twice, overtaken }: PushLine) -> Self {
        (first, last, taps, received, twice, overtaken)
    }
}

/// What was not as it should be. Sums over rooms and workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GiftFaults {
    /// Times a viewer was told again, by another push, of a gift that it was shown. It may be so where a server has died.
    pub(crate) told_again: u64,
    /// Pushes of one `msgId` with another content.
    pub(crate) contradictions: u64,
    /// Values of a bar that contradict another one of the same `sendGiftSeqNum`.
    pub(crate) bar_conflicts: u64,
    /// Viewers who came back and were told that the log no longer reaches to where they left: they are not part of the account.
    pub(crate) gaps: u64,
    /// Pushes that could not be read, or were beyond what is accounted for.
    pub(crate) odd: u64,
    /// Pushes of gifts that are not this run's.
    pub(crate) foreign: u64,
    /// Values of a bar that were older than the shown one, and left out. No fault.
    pub(crate) bars_late: u64,
}

impl GiftFaults {
    pub(crate) fn merge(&mut self, other: &Self) {
        let sums = [
            (&mut self.told_again, other.told_again),
            (&mut self.contradictions, other.contradictions),
            (&mut self.bar_conflicts, other.bar_conflicts),
            (&mut self.gaps, other.gaps),
            (&mut self.odd, other.odd),
            (&mut self.foreign, other.foreign),
            (&mut self.bars_late, other.bars_late),
        ];
        for (sum, more) in sums {
            *sum += more;
        }
    }
}

/// One viewer.
#[derive(Debug, Default)]
pub(crate) struct Viewer {
    pushes: MemberTally,
    state: ViewerState,
    /// The largest `seq` of its room up to which nothing is missing.
    pub(crate) newest_seq: i64,
    /// It has been in the room before: who joins now comes back.
    pub(crate) was_in: bool,
    /// Its chain says nothing any more: what it had missed did not come in order.
    is_unchained: bool,
    /// It has missed something that the server no longer has.
    pub(crate) has_gap: bool,
}

/// What a viewer has come to. Viewers of a room that lack nothing are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ViewerState {
    /// Gifts shown.
    pub(crate) gifts: u64,
    /// In so many pushes.
    pub(crate) pushes: u32,
    /// Their chain; 0: not known.
    pub(crate) chain: u64,
    /// The bar shown last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) bar: Option<BarPush>,
}

impl GiftBook {
    /// What a push of the room says about gifts.
    pub(crate) fn learn(&mut self, body: &Body, plan: &GiftPlan) -> Told {
        let biz_code = body.biz_code.map(BizCode);
        if biz_code != Some(BizCode::GIFT_OK) && biz_code != Some(BizCode::PK_GIFT) {
            return Told::default();
        }
        let text = body.data.as_deref().unwrap_or_default();
        let Ok(data) = serde_json::from_str::<Data>(text) else {
            self.faults.odd += 1;
            return Told::default();
        };
        // What is told with a key is the state of a bar, and no gift to be shown.
        let gifts = if body.key.is_some() { None } else { self.gifts(body, &data, text, plan) };
        Told { gifts, bar: self.bar(&data, body.key.is_some()) }
    }

    fn bar(&mut self, data: &Data, is_state: bool) -> Option<BarPush> {
        if is_state && data.pk_obj_id.is_none() {
            // Nobody challenges any more: there is no bar to be shown, and what stands in its place is a beginning.
            return None;
        }
        let gift_seq = data.send_gift_seq_num.as_ref()?.number().ok()?;
        let bar = BarPush { gift_seq, value: data.pk_num? };
        let (Some(place), Ok(value)) = (place_of(gift_seq), u8::try_from(bar.value)) else {
            self.faults.odd += 1;
            return None;
        };
        if self.bars.len() <= place {
            self.bars.resize(place + 1, UNSEEN);
        }
        match self.bars[place] {
            UNSEEN => self.bars[place] = value,
            known => self.faults.bar_conflicts += u64::from(known != value),
        }
        Some(bar)
    }

    fn gifts(&mut self, body: &Body, data: &Data, text: &str, plan: &GiftPlan) -> Option<GiftPush> {
        let Some(key) = plan.key_of(&data.uuid) else {
            self.faults.foreign += 1;
            return None;
        };
        let digest = digest(text);
        let msg_id = body.msg_id.as_deref().unwrap_or_default();
        if let Some(&number) = self.numbers.get(msg_id) {
            let known = &self.pushes[number as usize];
            self.faults.contradictions += u64::from(known.digest != digest);
            return Some(GiftPush { number, taps: known.line.taps, intended_ns: key.intended_ns });
        }
        let Some(gifts) = places_of(data).filter(|_| !msg_id.is_empty()) else {
            self.faults.odd += 1;
            return None;
        };
        let number = u32::try_from(self.pushes.len()).ok()?;
        let (first, last) = (gifts.first().copied()?, gifts.last().copied()?);
        let taps = u32::try_from(gifts.len()).ok()?;
        self.numbers.insert(msg_id.into(), number);
        let line = PushLine { first: first.into(), last: last.into(), taps, ..PushLine::default() };
        let gifts = if taps == 1 { Vec::new() } else { gifts };
        self.pushes.push(Pushed { line, digest, gifts: gifts.into(), is_shared: false });
        self.claim(number);
        Some(GiftPush { number, taps, intended_ns: key.intended_ns })
    }

    /// Notes which gifts stand in a push.
    fn claim(&mut self, number: u32) {
        let gifts: Vec<u32> = self.pushes[number as usize].gifts().collect();
        for gift in gifts {
            let place = gift as usize;
            if self.told_in.len() <= place {
                self.told_in.resize(place + 1, 0);
            }
            match self.told_in[place].checked_sub(1) {
                None => {
                    self.told_in[place] = number + 1;
                    self.told += 1;
                }
                Some(first) => {
                    let others = self.told_again_in.entry(gift).or_default();
                    others.push(number);
                    for &push in others.iter().chain([&first]) {
                        self.pushes[push as usize].is_shared = true;
                    }
                }
            }
        }
    }

    /// Gifts of a push that its viewer was shown before, by others.
    fn shown_before(&self, viewer: &Viewer, number: u32) -> u64 {
        let pushed = &self.pushes[number as usize];
        if !pushed.is_shared {
            return 0;
        }
        let was_shown = |gift: &u32| {
            let first = self.told_in[*gift as usize] - 1;
            let others = self.told_again_in.get(gift).map_or(&[][..], Vec::as_slice);
            others.iter().chain([&first]).any(|&other| other != number && viewer.pushes.has(other))
        };
        pushed.gifts().filter(was_shown).count() as u64
    }

    /// Gifts that the room was told of, each once.
    pub(crate) fn told(&self) -> u64 {
        self.told
    }

    /// A copy has come to a viewer. `is_late`: it is part of what a viewer who came back had missed, on a transport that orders nothing.
    pub(crate) fn on_copy(&mut self, viewer: &mut Viewer, push: GiftPush, seq: i64, is_late: bool) -> Copy {
        let copy = viewer.pushes.on_copy(push.number, seq, None);
        let copy = if is_late && copy == Copy::Overtaken { Copy::InOrder } else { copy };
        let line = &mut self.pushes[push.number as usize].line;
        viewer.newest_seq = viewer.newest_seq.max(seq);
        if copy == Copy::Again {
            line.twice += 1;
            return copy;
        }
        line.received += 1;
        line.overtaken += u64::from(copy == Copy::Overtaken);
        let shown_before = self.shown_before(viewer, push.number);
        self.faults.told_again += shown_before;
        viewer.state.gifts += u64::from(push.taps) - shown_before;
        viewer.state.pushes += 1;
        viewer.is_unchained |= is_late;
        let digest = self.pushes[push.number as usize].digest;
        viewer.state.chain = if viewer.is_unchained { 0 } else { chained(viewer.state.chain, digest) };
        copy
    }

    /// A bar has come to a viewer.
    pub(crate) fn on_bar(&mut self, viewer: &mut Viewer, bar: BarPush) {
        match viewer.state.bar {
            Some(shown) if bar.gift_seq < shown.gift_seq => self.faults.bars_late += 1,
            // The value itself was compared when the push was decoded; this viewer may have the other one.
            Some(shown) if bar.gift_seq == shown.gift_seq => {}
            Some(_) | None => viewer.state.bar = Some(bar),
        }
    }

    /// Pushes, and values of the bar, as the journal has them. Taken once, at the end.
    pub(crate) fn take_lines(&mut self) -> (Vec<(String, PushLine)>, Vec<BarPush>) {
        let mut ids: Vec<_> = std::mem::take(&mut self.numbers).into_iter().collect();
        ids.sort_unstable_by_key(|&(_, number)| number);
        let pushes = ids.into_iter().map(|(id, number)| (id.into(), self.pushes[number as usize].line)).collect();
        let bars = self.bars.iter().enumerate().filter(|(_, value)| **value != UNSEEN);
        (pushes, bars.map(|(place, &value)| BarPush { gift_seq: gift_of(place), value: value.into() }).collect())
    }
}

/// Viewers of a room whose chain is another than that of most who saw as much as anybody has. Who lacks something is told of elsewhere.
pub(crate) fn chain_breaks(viewers: &BTreeMap<ViewerState, u32>) -> u64 {
    let most = viewers.keys().map(|state| state.pushes).max().unwrap_or(0);
    let mut by_chain: BTreeMap<u64, u64> = BTreeMap::new();
    for (state, &members) in viewers.iter().filter(|(state, _)| state.pushes == most && state.chain != 0) {
        *by_chain.entry(state.chain).or_default() += u64::from(members);
    }
    by_chain.values().sum::<u64>() - by_chain.values().max().copied().unwrap_or(0)
}

impl Viewer {
    pub(crate) fn state(&self) -> ViewerState {
        self.state
    }
}

/// A gift's place in a table; `None`: it is beyond what is accounted for. 0 is the place of a bar that no gift has moved yet.
fn place_of(gift_seq: i64) -> Option<usize> {
    u32::try_from(gift_seq).ok().filter(|&gift_seq| gift_seq <= GIFTS_MAX).map(|gift_seq| gift_seq as usize)
}

fn gift_of(place: usize) -> i64 {
    i64::try_from(place).unwrap_or(i64::MAX)
}

/// The gifts of a push, ascending.
fn places_of(data: &Data) -> Option<Vec<u32>> {
    let place = |id: &Id| place_of(id.number().ok()?).filter(|&place| place > 0).and_then(|place| u32::try_from(place).ok());
    if data.gift_seqs.is_empty() {
        return Some(vec![place(data.gift_seq.as_ref()?)?]);
    }
    let places: Vec<u32> = data.gift_seqs.iter().map(place).collect::<Option<_>>()?;
    // Two may also be the ends of a row of taps, one of each.
    let places = match (places.as_slice(), data.num.and_then(|num| u32::try_from(num).ok())) {
        (&[first, last], Some(num)) if num > 2 && last.checked_sub(first) == Some(num - 1) => (first..=last).collect(),
        _ => places,
    };
    (places.len() <= TAPS_MAX && places.is_sorted_by(|one, next| one < next)).then_some(places)
}

/// FNV-1a.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::{BarPush, GiftBook, PushLine, Told, Viewer, chain_breaks};
    use crate::{
        gifts::{GiftKey, GiftPlan},
        tally::Copy,
    };
    use billfish_wire::Body;
    use std::collections::BTreeMap;

    struct Room {
        book: GiftBook,
        plan: GiftPlan,
    }

    impl Room {
        fn new() -> Self {
            Self { book: GiftBook::default(), plan: GiftPlan { run: 9, ..GiftPlan::default() } }
        }

        /// A push of one gift, as the server would make it.
        fn gift(&mut self, gift_seq: i64) -> Told {
            self.push(&format!("g7-{gift_seq}"), &format!(r#""giftSeq":{gift_seq},"num":2"#))
        }

        fn push(&mut self, msg_id: &str, fields: &str) -> Told {
            let uuid = self.plan.uuid(GiftKey { client: 3, n: 4, intended_ns: 55 });
            let data = Some(format!(r#"{{"uuid":"{uuid}",{fields}}}"#));
            let body = Body { biz_code: Some(5556), msg_id: Some(msg_id.to_owned()), data, ..Body::default() };
            self.book.learn(&body, &self.plan)
        }

        fn bar(&mut self, gift_seq: i64, value: i64) -> BarPush {
            let data = Some(format!(r#"{{"pkNum":{value},"sendGiftSeqNum":{gift_seq},"anchorId":1,"pkObjId":2,"isOver":false}}"#));
            let body = Body { biz_code: Some(5558), key: Some("pk".to_owned()), data, ..Body::default() };
            let told = self.book.learn(&body, &self.plan);
            assert_eq!(told.gifts, None, "a state is no gift to be shown");
            told.bar.expect("a bar")
        }

        fn show(&mut self, viewer: &mut Viewer, told: Told, seq: i64) -> Copy {
            self.book.on_copy(viewer, told.gifts.expect("gifts"), seq, false)
        }
    }

    #[test]
    fn viewers_that_saw_the_same_are_equal_and_one_that_lacks_a_gift_is_not() {
        let mut room = Room::new();
        let (mut all, mut other, mut lacking) = (Viewer::default(), Viewer::default(), Viewer::default());
        for gift_seq in 1..=3 {
            let told = room.gift(gift_seq);
            assert_eq!(told.gifts.map(|push| (push.taps, push.intended_ns)), Some((1, 55)), "num is no number of taps");
            assert_eq!(room.show(&mut all, told, gift_seq), Copy::InOrder);
            assert_eq!(room.show(&mut other, told, gift_seq), Copy::InOrder);
            assert_eq!(room.show(&mut other, told, gift_seq), Copy::Again);
            if gift_seq != 2 {
                room.show(&mut lacking, told, gift_seq);
            }
        }
        assert_eq!(all.state(), other.state());
        assert_eq!((all.state().gifts, lacking.state().gifts, room.book.told()), (3, 2, 3));
        let viewers = BTreeMap::from([(all.state(), 2), (lacking.state(), 1)]);
        assert_eq!(chain_breaks(&viewers), 0, "who lacks something is told of elsewhere");
        let (pushes, _) = room.book.take_lines();
        let twice = PushLine { first: 2, last: 2, taps: 1, received: 2, twice: 1, overtaken: 0 };
        assert_eq!(pushes[1], ("g7-2".to_owned(), twice));
    }

    #[test]
    fn an_older_push_behind_a_later_one_breaks_the_order_and_the_chain() {
        let mut room = Room::new();
        let (mut calm, mut swapped) = (Viewer::default(), Viewer::default());
        let (first, second) = (room.gift(1), room.gift(2));
        room.show(&mut calm, first, 1);
        room.show(&mut calm, second, 2);
        room.show(&mut swapped, second, 2);
        assert_eq!(room.show(&mut swapped, first, 1), Copy::Overtaken);
        assert_eq!(chain_breaks(&BTreeMap::from([(calm.state(), 7), (swapped.state(), 2)])), 2);
    }

    #[test]
    fn taps_of_a_combo_count_by_their_number_also_with_others_between() {
        let mut room = Room::new();
        let mut viewer = Viewer::default();
        let whole = room.push("g7-1", r#""giftSeq":1,"giftSeqs":[1,3],"num":3"#);
        let torn = room.push("g7-4", r#""giftSeq":4,"giftSeqs":[4,7,8],"num":3,"nums":[1,1,1]"#);
        let between = [room.gift(5), room.gift(6)];
        for (place, told) in [whole, torn].into_iter().chain(between).enumerate() {
            room.show(&mut viewer, told, place as i64 + 1);
        }
        assert_eq!((viewer.state().gifts, viewer.state().pushes, room.book.told()), (8, 4, 8));
        assert_eq!(room.book.faults.told_again, 0);
    }

    #[test]
    fn a_gift_that_is_told_again_by_another_push_is_shown_once() {
        let mut room = Room::new();
        let (mut both, mut one) = (Viewer::default(), Viewer::default());
        let combo = room.push("g7-1", r#""giftSeq":1,"giftSeqs":[1,2,3],"num":3"#);
        let single = room.gift(2);
        room.show(&mut both, combo, 1);
        room.show(&mut one, single, 2);
        assert_eq!((room.book.faults.told_again, room.book.told()), (0, 3));
        room.show(&mut both, single, 2);
        let again = room.push("g7-2b", r#""giftSeq":2"#);
        room.show(&mut both, again, 3);
        assert_eq!((room.book.faults.told_again, both.state().gifts, both.state().pushes), (2, 3, 3));
        room.show(&mut one, combo, 4);
        assert_eq!((room.book.faults.told_again, one.state().gifts), (3, 3), "two of the three are new to it");
    }

    #[test]
    fn the_same_id_with_another_content_is_a_contradiction_and_what_cannot_be_read_is_told() {
        let mut room = Room::new();
        room.gift(1);
        room.push("g7-1", r#""giftSeq":1,"num":3"#);
        assert_eq!(room.book.faults.contradictions, 1);
        for odd in [r#""num":1"#, r#""giftSeq":0"#, r#""giftSeqs":[3,2]"#, r#""giftSeqs":[1,1],"num":2"#, r#""giftSeq":99999999999"#] {
            assert_eq!(room.push("g7-x", odd).gifts, None, "{odd}");
        }
        assert_eq!(room.book.faults.odd, 5);
        let body = Body {
            biz_code: Some(5556),
            msg_id: Some("g7-9".to_owned()),
            data: Some(r#"{"uuid":"x","giftSeq":9}"#.to_owned()),
            ..Body::default()
        };
        assert_eq!(room.book.learn(&body, &room.plan), Told::default());
        assert_eq!((room.book.faults.foreign, room.book.faults.odd), (1, 5));
    }

    #[test]
    fn a_smaller_number_is_never_shown_after_a_larger_one_and_the_same_one_has_one_value() {
        let mut room = Room::new();
        let mut viewer = Viewer::default();
        for (gift_seq, value) in [(0, 50), (4, 60), (3, 55), (6, 40)] {
            let bar = room.bar(gift_seq, value);
            room.book.on_bar(&mut viewer, bar);
        }
        assert_eq!((viewer.state().bar, room.book.faults.bars_late), (Some(BarPush { gift_seq: 6, value: 40 }), 1));
        assert_eq!(room.book.faults.bar_conflicts, 0);
        room.bar(6, 41);
        assert_eq!(room.book.faults.bar_conflicts, 1);
        let (_, bars) = room.book.take_lines();
        let bars: Vec<_> = bars.iter().map(|bar| (bar.gift_seq, bar.value)).collect();
        assert_eq!(bars, [(0, 50), (3, 55), (4, 60), (6, 40)]);
    }

    #[test]
    fn a_bar_without_a_challenger_is_none() {
        let mut room = Room::new();
        let data = Some(r#"{"anchorId":1,"pkNum":50,"sendGiftSeqNum":6,"isOver":false}"#.to_owned());
        let body = Body { biz_code: Some(5558), key: Some("pk".to_owned()), data, ..Body::default() };
        assert_eq!(room.book.learn(&body, &room.plan), Told::default());
    }

    #[test]
    fn the_effect_of_a_pk_gift_carries_its_bar() {
        let mut room = Room::new();
        let told = room.push("g7-5", r#""giftSeq":5,"num":1,"pkNum":70,"sendGiftSeqNum":5"#);
        assert_eq!((told.gifts.map(|push| push.taps), told.bar), (Some(1), Some(BarPush { gift_seq: 5, value: 70 })));
    }
}
