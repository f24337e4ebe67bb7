//! Taps of one combo: the first is shown at once, those that follow within a while are shown together.
//!
//! Pure: no clock and no room. What is held here is paid; a router that dies with it leaves it in the outbox of the ledger.

use crate::services::ports::money::PaidGift;
use billfish_state::UserId;
use std::collections::BTreeMap;

/// Combos under way in one room; beyond it a tap is shown by itself.
const COMBOS_MAX: usize = 4_096;
/// Taps shown together: their places stand in the push.
const TAPS_MAX: usize = 100;

/// The combos of a room.
#[derive(Debug, Default)]
pub(crate) struct Combos(BTreeMap<(UserId, String), Combo>);

#[derive(Debug)]
struct Combo {
    /// Not before, unless there are too many.
    due_ms: u64,
    held: Vec<PaidGift>,
}

impl Combos {
    /// Takes a gift; gives what is to be shown now, in order.
    pub(crate) fn take(&mut self, gift: PaidGift, every_ms: u64, now_ms: u64) -> Option<Vec<PaidGift>> {
        if gift.what.combo.is_empty() {
            return Some(vec![gift]);
        }
        let key = (gift.what.sender, gift.what.combo.clone());
        let is_full = self.0.len() >= COMBOS_MAX;
        match self.0.get_mut(&key) {
            Some(combo) => {
                // One of another kind than those held is shown behind them, by itself.
                let is_alike = combo.held.first().is_none_or(|first| is_alike(first, &gift));
                combo.held.push(gift);
                if is_alike && now_ms < combo.due_ms && combo.held.len() < TAPS_MAX {
                    return None;
                }
                combo.due_ms = now_ms + every_ms;
                Some(std::mem::take(&mut combo.held))
            }
            None if is_full => Some(vec![gift]),
            None => {
                self.0.insert(key, Combo { due_ms: now_ms + every_ms, held: Vec::new() });
                Some(vec![gift])
            }
        }
    }

    /// What is to be shown by now, and forgets the combos that are over.
    pub(crate) fn due(&mut self, every_ms: u64, now_ms: u64) -> Vec<Vec<PaidGift>> {
        let mut due = Vec::new();
        self.0.retain(|_, combo| {
            if now_ms < combo.due_ms {
                return true;
            }
            combo.due_ms = now_ms + every_ms;
            let held = std::mem::take(&mut combo.held);
            let is_on = !held.is_empty();
            due.extend(is_on.then_some(held));
            is_on
        });
        due
    }

    /// All that is held: the room ends.
    pub(crate) fn all(&mut self) -> Vec<Vec<PaidGift>> {
        std::mem::take(&mut self.0).into_values().map(|combo| combo.held).filter(|held| !held.is_empty()).collect()
    }

    /// When something is due next.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.0.values().map(|combo| combo.due_ms).min()
    }

    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.values().all(|combo| combo.held.is_empty())
    }
}

/// Whether one push can say both.
pub(crate) fn is_alike(one: &PaidGift, other: &PaidGift) -> bool {
    let what = |gift: &PaidGift| (gift.what.gift, gift.what.receiver, gift.what.pk);
    what(one) == what(other)
}

#[cfg(test)]
mod tests {
    use super::{COMBOS_MAX, Combos, TAPS_MAX};
    use crate::services::ports::money::{GiftId, NewGift, PaidGift};
    use billfish_state::{AppId, RoomId, UserId};
    use proptest::prelude::*;

    fn tap(gift_seq: i64, sender: i64, combo: &str, gift: i64) -> PaidGift {
        let what = NewGift {
            app: AppId(10_001),
            sender: UserId(sender),
            uuid: gift_seq.to_string(),
            room: RoomId(1),
            epoch: 1,
            receiver: UserId(90_001),
            gift: GiftId(gift),
            num: 1,
            price: 1,
            pk: None,
            combo: combo.to_owned(),
        };
        PaidGift { what, gift_seq, paid_ms: 0 }
    }

    fn seqs(gifts: &[PaidGift]) -> Vec<i64> {
        gifts.iter().map(|gift| gift.gift_seq).collect()
    }

    #[test]
    fn the_first_tap_is_shown_at_once_and_those_within_300_ms_together() {
        let mut combos = Combos::default();
        let mut take = |seq, now_ms| combos.take(tap(seq, 20_001, "c", 1), 300, now_ms).map(|gifts| seqs(&gifts));
        assert_eq!(take(1, 0), Some(vec![1]));
        assert_eq!(take(2, 100), None);
        assert_eq!(take(3, 299), None);
        assert_eq!(combos.next_ms(), Some(300));
        assert!(combos.due(300, 299).is_empty());
        assert_eq!(combos.due(300, 300).iter().map(|gifts| seqs(gifts)).collect::<Vec<_>>(), [vec![2, 3]]);
        assert!(combos.due(300, 600).is_empty() && combos.next_ms().is_none(), "a combo that is over is forgotten");
    }

    #[test]
    fn a_tap_of_another_gift_does_not_hide_in_the_combo() {
        let mut combos = Combos::default();
        assert!(combos.take(tap(1, 20_001, "c", 1), 300, 0).is_some());
        assert!(combos.take(tap(2, 20_001, "c", 1), 300, 1).is_none());
        let shown = combos.take(tap(3, 20_001, "c", 2), 300, 2).unwrap();
        assert_eq!(seqs(&shown), [2, 3], "the room tells them apart");
    }

    #[test]
    fn nothing_grows_without_bound() {
        let mut combos = Combos::default();
        for sender in 0..=COMBOS_MAX {
            assert!(combos.take(tap(1, 20_000 + i64::try_from(sender).unwrap(), "c", 1), 300, 0).is_some());
        }
        assert_eq!(combos.0.len(), COMBOS_MAX);
        let shown = (0..TAPS_MAX).find_map(|seq| combos.take(tap(i64::try_from(seq).unwrap(), 20_001, "c", 1), 300, 0));
        assert_eq!(shown.map(|gifts| gifts.len()), Some(TAPS_MAX));
    }

    proptest! {
        #[test]
        fn every_tap_is_shown_once_and_those_of_a_combo_in_order(
            taps in proptest::collection::vec((0..3_i64, 0..3_u8, 0..2_i64, 0..200_u64), 0..60),
        ) {
            let mut combos = Combos::default();
            let (mut now_ms, mut shown) = (0, Vec::new());
            for (seq, (sender, combo, gift, later_ms)) in taps.iter().enumerate() {
                now_ms += later_ms;
                shown.extend(combos.due(300, now_ms).into_iter().flatten());
                let combo = if *combo == 0 { String::new() } else { combo.to_string() };
                shown.extend(combos.take(tap(i64::try_from(seq).unwrap(), 20_001 + sender, &combo, *gift), 300, now_ms).into_iter().flatten());
            }
            shown.extend(combos.all().into_iter().flatten());
            let mut all = seqs(&shown);
            all.sort_unstable();
            prop_assert_eq!(all, (0..i64::try_from(taps.len()).unwrap()).collect::<Vec<_>>());
            for pair in shown.iter().enumerate().flat_map(|(index, one)| shown[index + 1..].iter().map(move |other| (one, other))) {
                let (one, other) = pair;
                let is_one_combo = one.what.sender == other.what.sender && one.what.combo == other.what.combo;
                prop_assert!(!is_one_combo || one.gift_seq < other.gift_seq);
            }
        }
    }
}
