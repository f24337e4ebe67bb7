//! What a run with gifts sends, as a function of its plan alone: who sends, what, to whom, and under which id.
//!
//! - The nth gift of a client is the same whoever asks and however often: what is sent again is the same gift, the journal needs no list of
//!   what was meant, and `check` compares every row of the ledger with it.
//! - An id tells whose gift it is and when it was due, so whoever sees its push knows how late that is.
//!
//! No socket, no clock, no state in here.

pub(crate) mod bar;

use bar::Side;
use serde::{Deserialize, Serialize};

/// Taps of a combo.
pub(crate) const COMBO_TAPS: u32 = 5;
/// Between two taps of a combo: well within the 300 ms in which the server joins them.
pub(crate) const TAP_GAP_NS: u64 = 40_000_000;
/// Gifts of the catalogue that a run draws from.
pub(crate) const CATALOGUE_MAX: usize = 64;
/// Gifts of one run: they are accounted for one by one, 4 to 60 bytes each on this side.
pub(crate) const GIFTS_MAX: u32 = 1 << 22;
/// The most of one gift that is sent at once.
pub(crate) const NUM_MAX: i64 = 3;

/// What is sent in a run, by everyone. The same for all workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct GiftPlan {
    /// Makes the ids of this run differ from those of every other.
    pub(crate) run: u64,
    pub(crate) app_id: i32,
    /// User of client 0.
    pub(crate) first_user_id: i64,
    /// What is drawn from.
    pub(crate) catalogue: Vec<Priced>,
    /// By room: who receives; with a PK also who is challenged.
    pub(crate) anchors: Vec<i64>,
    /// By room: the challenger of its PK, and the other receiver. Empty: there is no PK.
    pub(crate) challengers: Vec<i64>,
    /// Of the rows of one client per room, each so-many-th sends.
    pub(crate) sender_every: usize,
    /// Of 1,000 gifts, how many are taps of combos.
    pub(crate) combo_permille: u16,
    /// Of 1,000 gifts, how many are sent once more on purpose.
    pub(crate) retry_permille: u16,
}

/// A gift of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Priced {
    pub(crate) gift_id: i64,
    pub(crate) price: i64,
}

/// One gift, as it is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Intent {
    pub(crate) gift: Priced,
    pub(crate) num: i64,
    pub(crate) receiver_id: i64,
    /// Which way it moves the bar of a PK; `None`: a normal gift.
    pub(crate) side: Option<Side>,
    /// Number of its combo among those of its sender.
    pub(crate) combo: Option<u32>,
}

/// What stands in an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GiftKey {
    /// Over the whole run.
    pub(crate) client: u32,
    /// Among the gifts of this client.
    pub(crate) n: u32,
    pub(crate) intended_ns: u64,
}

/// When a gift is sent once more although nobody asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Both at the same time.
    AtOnce,
    /// So long after it was acknowledged.
    Later {
        /// Nanoseconds.
        after_ns: u64,
    },
}

/// What a draw is for: draws for different things are unrelated.
#[derive(Clone, Copy)]
enum Draw {
    Gift = 1,
    Num,
    Receiver,
    Combo,
    Repeat,
    Delay,
}

impl GiftPlan {
    fn rooms(&self) -> usize {
        self.anchors.len().max(1)
    }

    /// The room of a client.
    pub(crate) fn room_of(&self, client: usize) -> usize {
        client % self.rooms()
    }

    /// Whether a client sends gifts. The first of each room does not: in a PK it is the challenger, and nobody gives to himself.
    pub(crate) fn sends(&self, client: usize) -> bool {
        let row = client / self.rooms();
        row > 0 && (row - 1).is_multiple_of(self.sender_every.max(1))
    }

    /// A number that follows from the run, the client, one of its gifts and what it is for.
    fn draw(&self, client: usize, n: u32, what: Draw, below: u64) -> u64 {
        let place = mix(self.run ^ mix(client as u64 ^ mix(u64::from(n) << 8 | what as u64)));
        place % below.max(1)
    }

    /// Whether the gifts of a client from `n / COMBO_TAPS * COMBO_TAPS` on are taps of one combo.
    pub(crate) fn is_combo(&self, client: usize, n: u32) -> bool {
        self.draw(client, n / COMBO_TAPS, Draw::Combo, 1_000) < u64::from(self.combo_permille)
    }

    /// The nth gift of a client.
    pub(crate) fn intent(&self, client: usize, n: u32) -> Intent {
        let combo = self.is_combo(client, n).then_some(n / COMBO_TAPS);
        // All taps of a combo are of one gift, and of one of it.
        let drawn_for = combo.map_or(n, |combo| combo * COMBO_TAPS);
        let place = self.draw(client, drawn_for, Draw::Gift, self.catalogue.len() as u64);
        let gift = usize::try_from(place).ok().and_then(|place| self.catalogue.get(place)).copied();
        let num = if combo.is_some() { 1 } else { 1 + self.draw(client, n, Draw::Num, NUM_MAX.unsigned_abs()).cast_signed() };
        let room = self.room_of(client);
        let (anchor, challenger) = (self.anchors.get(room).copied().unwrap_or(0), self.challengers.get(room).copied());
        let (receiver_id, side) = match challenger {
            None => (anchor, None),
            Some(challenger) if self.draw(client, drawn_for, Draw::Receiver, 2) == 1 => (challenger, Some(Side::Challenger)),
            Some(_) => (anchor, Some(Side::Anchor)),
        };
        Intent { gift: gift.unwrap_or(Priced { gift_id: 0, price: 0 }), num, receiver_id, side, combo }
    }

    /// Whether, and when, a gift is sent once more.
    pub(crate) fn repeat(&self, client: usize, n: u32) -> Option<Repeat> {
        if self.draw(client, n, Draw::Repeat, 1_000) >= u64::from(self.retry_permille) {
            return None;
        }
        let delay = self.draw(client, n, Draw::Delay, 4_000_000_000);
        // One of two goes at once; the others come 0 to 2 s behind the ACK.
        Some(if delay.is_multiple_of(2) { Repeat::AtOnce } else { Repeat::Later { after_ns: delay / 2 } })
    }

    /// The `uuid` of a gift, at most 60 bytes.
    pub(crate) fn uuid(&self, key: GiftKey) -> String {
        let GiftKey { client, n, intended_ns } = key;
        format!("lg{:x}-{client:x}-{n:x}-{intended_ns:x}", self.run)
    }

    /// Whose gift a `uuid` is; `None`: it is not of this run.
    pub(crate) fn key_of(&self, uuid: &str) -> Option<GiftKey> {
        let mut parts = uuid.strip_prefix("lg")?.split('-').map(|part| u64::from_str_radix(part, 16).ok());
        let (run, client, n, intended_ns) = (parts.next()??, parts.next()??, parts.next()??, parts.next()??);
        let key = GiftKey { client: u32::try_from(client).ok()?, n: u32::try_from(n).ok()?, intended_ns };
        (run == self.run && parts.next().is_none()).then_some(key)
    }

    /// The `data` of a gift to be sent.
    pub(crate) fn data(&self, key: GiftKey) -> String {
        let Intent { gift, num, receiver_id, side, combo } = self.intent(key.client as usize, key.n);
        let (gift_id, kind, uuid) = (gift.gift_id, u8::from(side.is_some()), self.uuid(key));
        let combo = combo.map(combo_id).unwrap_or_default();
        format!(r#"{{"giftId":{gift_id},"receiverId":{receiver_id},"type":{kind},"uuid":"{uuid}","num":{num},"comboId":"{combo}"}}"#)
    }
}

/// How a combo is called.
pub(crate) fn combo_id(combo: u32) -> String {
    format!("c{combo:x}")
}

/// What a gift's place in its room adds to the sum of a room: sums over the same gifts are equal in whatever order they were acknowledged.
pub(crate) fn place_digest(key: (u32, u32), gift_seq: i64) -> u64 {
    mix(u64::from(key.0) << 32 | u64::from(key.1)) ^ mix(gift_seq.cast_unsigned())
}

/// One link of a chain of digests.
pub(crate) fn chained(chain: u64, digest: u64) -> u64 {
    mix(chain.rotate_left(1) ^ digest)
}

/// SplitMix64's last step: every bit of the input moves half of those of the output.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::{COMBO_TAPS, GiftKey, GiftPlan, Priced, Repeat, bar::Side};

    fn plan() -> GiftPlan {
        GiftPlan {
            run: 0xabc,
            app_id: 10_001,
            first_user_id: 20_000,
            catalogue: vec![Priced { gift_id: 1, price: 10 }, Priced { gift_id: 7, price: 200 }],
            anchors: vec![91, 92],
            challengers: Vec::new(),
            sender_every: 2,
            combo_permille: 300,
            retry_permille: 10,
        }
    }

    #[test]
    fn an_id_tells_whose_gift_it_is_and_nothing_else_is_taken_for_one() {
        let key = GiftKey { client: 999_999, n: u32::MAX, intended_ns: u64::MAX };
        let uuid = GiftPlan { run: u64::MAX, ..plan() }.uuid(key);
        assert!(uuid.len() <= 64, "{uuid}");
        assert_eq!(GiftPlan { run: u64::MAX, ..plan() }.key_of(&uuid), Some(key));
        assert_eq!(plan().key_of(&uuid), None, "another run's");
        for odd in ["", "lg", "lgabc-1-1", "lgabc-1-1-1-1", "lgabc-x-1-1", "lgabc-1-100000000-1", "abc-1-1-1"] {
            assert_eq!(plan().key_of(odd), None, "{odd}");
        }
    }

    #[test]
    fn senders_are_spread_over_the_rooms_and_the_first_of_each_is_none() {
        let plan = plan();
        let senders: Vec<_> = (0..12).filter(|&client| plan.sends(client)).collect();
        assert_eq!(senders, [2, 3, 6, 7, 10, 11]);
    }

    #[test]
    fn the_same_gift_is_meant_each_time_and_taps_of_a_combo_are_of_one_gift() {
        let plan = plan();
        let (mut combos, mut repeats, gifts) = (0, 0, 2_000);
        for n in 0..gifts {
            let intent = plan.intent(2, n);
            assert_eq!(intent, plan.intent(2, n));
            assert!((1..=3).contains(&intent.num) && intent.receiver_id == 91 && intent.side.is_none(), "{intent:?}");
            if intent.combo.is_some() {
                assert_eq!((intent, intent.num), (plan.intent(2, n / COMBO_TAPS * COMBO_TAPS), 1));
                combos += 1;
            }
            repeats += u32::from(plan.repeat(2, n).is_some());
        }
        assert!((gifts / 5..gifts * 2 / 5).contains(&combos), "{combos} of {gifts} are three tenths");
        assert!((5..40).contains(&repeats), "{repeats} of {gifts} are one in a hundred");
        let kinds: Vec<_> = (0..gifts).filter_map(|n| plan.repeat(2, n)).collect();
        assert!(kinds.contains(&Repeat::AtOnce) && kinds.iter().any(|kind| *kind != Repeat::AtOnce), "{kinds:?}");
    }

    #[test]
    fn in_a_pk_both_sides_receive() {
        let plan = GiftPlan { challengers: vec![81, 82], ..plan() };
        let intents: Vec<_> = (0..100).map(|n| plan.intent(3, n)).collect();
        assert!(intents.iter().all(|intent| match intent.side {
            Some(Side::Anchor) => intent.receiver_id == 92,
            Some(Side::Challenger) => intent.receiver_id == 82,
            None => false,
        }));
        let up = intents.iter().filter(|intent| intent.side == Some(Side::Anchor)).count();
        assert!((25..75).contains(&up), "{up} of 100");
    }

    #[test]
    fn what_is_sent_is_what_is_meant() {
        let plan = plan();
        let key = GiftKey { client: 2, n: 3, intended_ns: 77 };
        let data: serde_json::Value = serde_json::from_str(&plan.data(key)).expect("JSON");
        let intent = plan.intent(2, 3);
        assert_eq!((data["giftId"].as_i64(), data["num"].as_i64()), (Some(intent.gift.gift_id), Some(intent.num)));
        assert_eq!((data["type"].as_i64(), data["receiverId"].as_i64()), (Some(0), Some(91)));
        assert_eq!(data["uuid"].as_str().and_then(|uuid| plan.key_of(uuid)), Some(key));
    }
}
