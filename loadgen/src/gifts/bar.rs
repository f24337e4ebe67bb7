//! The bar of a PK, by the rules alone: what `check` folds the ledger's gifts into, and compares with what viewers were shown.

use serde::{Deserialize, Serialize};

/// Where a bar begins.
const START: i64 = 50;
/// Where one of the two has won.
const END: i64 = 100;
/// Coins that move it by one.
const COINS_PER_STEP: i64 = 10;

/// Who of a PK has received a gift.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Side {
    /// The bar goes up.
    Anchor,
    /// It goes down.
    Challenger,
}

/// A bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bar {
    value: i64,
    is_over: bool,
}

impl Default for Bar {
    fn default() -> Self {
        Self { value: START, is_over: false }
    }
}

impl Bar {
    /// Where it stands, 0 to 100.
    pub(crate) fn value(self) -> i64 {
        self.value
    }

    /// A gift was paid. Once the bar has reached an end nothing moves it.
    pub(crate) fn on_gift(&mut self, side: Side, price: i64, num: i64) {
        if self.is_over {
            return;
        }
        let step = price.saturating_mul(num) / COINS_PER_STEP;
        self.value = match side {
            Side::Anchor => self.value.saturating_add(step),
            Side::Challenger => self.value.saturating_sub(step),
        }
        .clamp(0, END);
        self.is_over = self.value == 0 || self.value == END;
    }
}

#[cfg(test)]
mod tests {
    use super::{Bar, Side};

    #[test]
    fn a_bar_moves_by_a_tenth_of_the_price_is_clamped_and_stops_when_it_is_over() {
        let mut bar = Bar::default();
        bar.on_gift(Side::Anchor, 200, 1);
        bar.on_gift(Side::Anchor, 19, 1);
        assert_eq!(bar.value(), 71);
        bar.on_gift(Side::Challenger, 10, 3);
        assert_eq!(bar.value(), 68);
        bar.on_gift(Side::Anchor, i64::MAX, 2);
        assert_eq!(bar.value(), 100);
        bar.on_gift(Side::Challenger, 100, 1);
        assert_eq!(bar.value(), 100, "it is over");
    }
}
