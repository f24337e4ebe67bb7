//! What is ordered at the terminal, and how often the bar of a PK is drawn.
//!
//! Pure: the catalogue, the room and the time are given.

use crate::api::Item;
use billfish_client::{Gift, GiftKind, PkBar};
use std::time::Duration;
use tokio::time::Instant;

/// A bar is drawn at most so often: it is for eyes.
const DRAWN_EVERY: Duration = Duration::from_millis(500);

/// A gift, and how a person says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ordered {
    pub(crate) gift: Gift,
    pub(crate) what: String,
}

/// Reads `[NUM] WHAT [WHO]`: what is of the catalogue, by name or number; who is on the stage.
pub(crate) fn order(words: &str, catalogue: &[Item], anchor: i64, bar: Option<&PkBar>) -> Result<Ordered, String> {
    let challenger = bar.and_then(|bar| bar.challenger_id);
    let (words, receiver_id) = match words.rsplit_once(char::is_whitespace) {
        Some((words, "anchor")) => (words.trim(), anchor),
        Some((words, "challenger")) => (words.trim(), challenger.ok_or("nobody challenges the anchor now; /pk does")?),
        _ => (words.trim(), anchor),
    };
    let (num, item) = match find(words, catalogue) {
        Some(item) => (1, item),
        None => {
            let counted =
                words.split_once(char::is_whitespace).and_then(|(num, what)| Some((num.parse().ok()?, find(what.trim(), catalogue)?)));
            counted.ok_or_else(|| format!("there is no gift \"{words}\"; /gifts lists them"))?
        }
    };
    if !(1..=9_999).contains(&num) {
        return Err("give 1 to 9999 at once".to_owned());
    }
    let kind = if challenger.is_some() { GiftKind::Pk } else { GiftKind::Normal };
    let gift = Gift { kind, num, price: Some(item.price), ..Gift::new(item.gift_id, receiver_id) };
    Ok(Ordered { gift, what: counted(&item.name, num) })
}

fn find<'a>(what: &str, catalogue: &'a [Item]) -> Option<&'a Item> {
    let by_name = catalogue.iter().find(|item| item.name.to_lowercase() == what.to_lowercase());
    by_name.or_else(|| catalogue.iter().find(|item| item.gift_id.to_string() == what))
}

/// So many of it.
pub(crate) fn counted(what: &str, num: i64) -> String {
    if num == 1 { what.to_owned() } else { format!("{what} x{num}") }
}

/// The bar that is to be drawn next.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    next: Option<PkBar>,
    drawn: Option<Instant>,
    /// What was offered last: gifts after the winner move a bar's `seq` and nothing that is seen.
    last: Option<PkBar>,
}

impl Meter {
    /// A newer one takes the place of one that was not drawn.
    pub(crate) fn offer(&mut self, bar: PkBar) {
        let seen = |bar: PkBar| PkBar { seq: 0, ..bar };
        if self.last.replace(bar).map(seen) != Some(seen(bar)) {
            self.next = Some(bar);
        }
    }

    /// When the next one is to be drawn; in the past: now.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        self.next.map(|_| self.drawn.map_or(now, |drawn| drawn + DRAWN_EVERY))
    }

    /// Takes it to be drawn.
    pub(crate) fn take(&mut self, now: Instant) -> Option<PkBar> {
        let bar = self.next.take()?;
        self.drawn = Some(now);
        Some(bar)
    }
}

#[cfg(test)]
mod tests {
    use super::{DRAWN_EVERY, Meter, order};
    use crate::api::Item;
    use billfish_client::{Gift, GiftKind, PkBar};
    use tokio::time::Instant;

    const ANCHOR: i64 = 90_001;
    const CHALLENGER: i64 = 90_002;

    fn catalogue() -> Vec<Item> {
        let item = |gift_id, name: &str, price| Item { gift_id, name: name.to_owned(), price };
        vec![item(1, "Rose", 10), item(2, "magic castle", 5_000), item(3, "7 wonders", 7)]
    }

    fn bar(challenger: Option<i64>) -> PkBar {
        PkBar { anchor_id: ANCHOR, challenger_id: challenger, value: 50, ..PkBar::default() }
    }

    #[test]
    fn a_gift_is_ordered_by_name_or_number_once_or_often_and_to_whom() {
        let catalogue = catalogue();
        let given = |words: &str| order(words, &catalogue, ANCHOR, None).map(|ordered| (ordered.gift, ordered.what));
        let rose = Gift { price: Some(10), ..Gift::new(1, ANCHOR) };
        assert_eq!(given("rose"), Ok((rose.clone(), "Rose".to_owned())));
        assert_eq!(given("1 anchor"), Ok((rose.clone(), "Rose".to_owned())));
        assert_eq!(given("3 rose"), Ok((Gift { num: 3, ..rose.clone() }, "Rose x3".to_owned())));
        assert_eq!(given("3  1  anchor"), Ok((Gift { num: 3, ..rose }, "Rose x3".to_owned())));
        assert_eq!(given("2 Magic Castle").map(|(gift, _)| (gift.gift_id, gift.num)), Ok((2, 2)));
        assert_eq!(given("7 wonders").map(|(gift, _)| (gift.gift_id, gift.num)), Ok((3, 1)));
        for wrong in ["tulip", "3 tulip", "0 rose", "-1 rose", "10000 rose", "rose challenger", "9 anchor", "anchor"] {
            assert!(given(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn while_a_pk_is_on_gifts_are_of_it_and_the_challenger_may_have_them() {
        let catalogue = catalogue();
        let on = bar(Some(CHALLENGER));
        let given = |words: &str| order(words, &catalogue, ANCHOR, Some(&on)).map(|ordered| (ordered.gift.receiver_id, ordered.gift.kind));
        assert_eq!(given("rose"), Ok((ANCHOR, GiftKind::Pk)));
        assert_eq!(given("2 magic castle challenger"), Ok((CHALLENGER, GiftKind::Pk)));
        let over = order("rose", &catalogue, ANCHOR, Some(&bar(None))).map(|ordered| ordered.gift.kind);
        assert_eq!(over, Ok(GiftKind::Normal));
    }

    #[test]
    fn a_bar_is_drawn_at_once_and_then_twice_a_second_the_newest() {
        let now = Instant::now();
        let mut meter = Meter::default();
        assert_eq!(meter.due(now), None);
        meter.offer(PkBar { value: 60, ..bar(Some(CHALLENGER)) });
        assert_eq!(meter.due(now), Some(now));
        assert_eq!(meter.take(now).map(|bar| bar.value), Some(60));
        for value in 61..70 {
            meter.offer(PkBar { value, ..bar(Some(CHALLENGER)) });
        }
        assert_eq!(meter.due(now), Some(now + DRAWN_EVERY));
        assert_eq!(meter.take(now + DRAWN_EVERY).map(|bar| bar.value), Some(69));
        assert_eq!((meter.take(now), meter.due(now)), (None, None));
        meter.offer(PkBar { value: 69, seq: 9, ..bar(Some(CHALLENGER)) });
        assert_eq!(meter.due(now), None, "it looks the same");
    }
}
