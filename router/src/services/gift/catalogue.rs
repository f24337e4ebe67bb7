//! The catalogue of gifts as this router remembers it: asking the ledger for every tap would cost more than the gift.
//!
//! - Old by [`LIFE`] at most; a change that was made here holds at once. Where the ledger does not answer, nothing is sold by a list that is
//!   older: what is paid for is written there anyway.
//! - Callers that come while it is being read wait for that one reading.

use crate::services::ports::{
    RecordError, Result,
    money::{Gift, GiftId, Money},
};
use arc_swap::ArcSwapOption;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::Mutex, time::Instant};

/// How long a list is gone by. Within it the change of a price, made through another router, is not seen here.
const LIFE: Duration = Duration::from_secs(5);
/// A ledger that did not answer is not asked again for so long: whoever waited for that answer has waited enough.
const AWAY_FOR: Duration = Duration::from_secs(1);

type Gifts = Arc<BTreeMap<GiftId, Gift>>;

/// The catalogue.
pub(crate) struct Catalogue {
    money: Arc<dyn Money>,
    read: Mutex<Read>,
    /// The last list, for who does not wait.
    last: ArcSwapOption<BTreeMap<GiftId, Gift>>,
}

#[derive(Default)]
struct Read {
    /// With the moment it was asked for.
    gifts: Option<(Instant, Gifts)>,
    failed: Option<Instant>,
}

impl Catalogue {
    pub(crate) fn new(money: Arc<dyn Money>) -> Self {
        Self { money, read: Mutex::default(), last: ArcSwapOption::default() }
    }

    /// All gifts.
    pub(crate) async fn gifts(&self) -> Result<Gifts> {
        let mut read = self.read.lock().await;
        if let Some((since, gifts)) = &read.gifts
            && since.elapsed() < LIFE
        {
            return Ok(Arc::clone(gifts));
        }
        if read.failed.is_some_and(|failed| failed.elapsed() < AWAY_FOR) {
            return Err(RecordError::Away { what: "reading the gifts", cause: "the ledger did not answer a moment ago".into() });
        }
        let since = Instant::now();
        match self.money.gifts().await {
            Ok(gifts) => {
                let gifts: Gifts = Arc::new(gifts.into_iter().map(|gift| (gift.gift, gift)).collect());
                *read = Read { gifts: Some((since, Arc::clone(&gifts))), failed: None };
                self.last.store(Some(Arc::clone(&gifts)));
                Ok(gifts)
            }
            Err(error) => {
                read.failed = Some(Instant::now());
                Err(error)
            }
        }
    }

    /// The effect of a gift, by the last list there is: what was paid is shown also when the gift is sold no more, or the ledger is away.
    pub(crate) async fn url(&self, gift: GiftId) -> String {
        let known = match self.last.load_full() {
            Some(last) => Some(last),
            None => self.gifts().await.ok(),
        };
        known.and_then(|gifts| gifts.get(&gift).map(|gift| gift.url.clone())).unwrap_or_default()
    }

    /// Puts a gift up, or replaces it.
    pub(crate) async fn put(&self, gift: &Gift) -> Result<()> {
        self.forget_behind(self.money.put_gift(gift)).await
    }

    /// Sells a gift no more.
    pub(crate) async fn remove(&self, gift: GiftId) -> Result<()> {
        self.forget_behind(self.money.remove_gift(gift)).await
    }

    /// What was read before a change is gone by no more, whether it is known to have come about or not.
    async fn forget_behind(&self, change: impl Future<Output = Result<()>>) -> Result<()> {
        let changed = change.await;
        *self.read.lock().await = Read::default();
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::{AWAY_FOR, Catalogue, LIFE};
    use crate::{services::ports::money::GiftId, testing::TestRecords};
    use std::sync::Arc;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_list_is_read_once_for_a_while_and_a_ledger_that_is_away_is_not_asked_by_everybody() {
        let records = Arc::new(TestRecords::default());
        let catalogue = Catalogue::new(records.clone());
        records.sell(1, 10);
        for _ in 0..3 {
            assert_eq!(catalogue.gifts().await.unwrap().len(), 1);
        }
        assert_eq!(records.calls("gifts"), 1);
        advance(LIFE).await;
        records.fail(true);
        for _ in 0..50 {
            assert!(catalogue.gifts().await.is_err(), "nothing is sold by an old list");
        }
        assert_eq!(records.calls("gifts"), 2);
        assert_eq!(catalogue.url(GiftId(1)).await, "gift-1.svga", "and yet it is shown");
        records.fail(false);
        advance(AWAY_FOR).await;
        assert!(catalogue.gifts().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_made_here_holds_at_once() {
        let records = Arc::new(TestRecords::default());
        let catalogue = Catalogue::new(records.clone());
        records.sell(1, 10);
        let mut gift = catalogue.gifts().await.unwrap()[&GiftId(1)].clone();
        gift.price = 11;
        catalogue.put(&gift).await.unwrap();
        assert_eq!(catalogue.gifts().await.unwrap()[&GiftId(1)].price, 11);
        catalogue.remove(GiftId(1)).await.unwrap();
        assert!(catalogue.gifts().await.unwrap().is_empty());
    }
}
