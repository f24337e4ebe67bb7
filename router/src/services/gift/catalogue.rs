//! The catalogue of gifts as this router remembers it: asking the ledger for every tap would cost more than the gift.
//!
//! - Old by [`LIFE`] at most; a change that was made here holds at once. Where the ledger does not answer, nothing is sold by a list that is
//!   older: what is paid for is written there anyway.
//! - Callers that come while it is being read wait for that one reading.

use crate::services::ports::{
    Result,
    money::{Gift, GiftId, Money},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::Mutex, time::Instant};

/// How long a list is gone by. Within it the change of a price, made through another router, is not seen here.
const LIFE: Duration = Duration::from_secs(5);

type Gifts = Arc<BTreeMap<GiftId, Gift>>;

/// The catalogue.
pub(crate) struct Catalogue {
    money: Arc<dyn Money>,
    /// With the moment it was asked for.
    read: Mutex<Option<(Instant, Gifts)>>,
}

impl Catalogue {
    pub(crate) fn new(money: Arc<dyn Money>) -> Self {
        Self { money, read: Mutex::default() }
    }

    /// All gifts.
    pub(crate) async fn gifts(&self) -> Result<Gifts> {
        let mut read = self.read.lock().await;
        if let Some((since, gifts)) = &*read
            && since.elapsed() < LIFE
        {
            return Ok(Arc::clone(gifts));
        }
        let since = Instant::now();
        let gifts: Gifts = Arc::new(self.money.gifts().await?.into_iter().map(|gift| (gift.gift, gift)).collect());
        *read = Some((since, Arc::clone(&gifts)));
        Ok(gifts)
    }

    /// The effect of a gift, by any list there is: what was paid is shown also when the gift is sold no more, or the ledger is away.
    pub(crate) async fn url(&self, gift: GiftId) -> String {
        let known = match self.gifts().await {
            Ok(gifts) => Some(gifts),
            Err(_) => self.read.lock().await.as_ref().map(|(_, gifts)| Arc::clone(gifts)),
        };
        known.and_then(|gifts| gifts.get(&gift).map(|gift| gift.url.clone())).unwrap_or_default()
    }

    /// Puts a gift up, or replaces it.
    pub(crate) async fn put(&self, gift: &Gift) -> Result<()> {
        let mut read = self.read.lock().await;
        *read = None;
        self.money.put_gift(gift).await
    }

    /// Sells a gift no more.
    pub(crate) async fn remove(&self, gift: GiftId) -> Result<()> {
        let mut read = self.read.lock().await;
        *read = None;
        self.money.remove_gift(gift).await
    }
}
