//! Users who come and go: from what gateways say of sessions to an event each.
//!
//! - A user has come with the first word that he is here, and gone with the word that his last session has ended, or when a sweep finds him
//!   silent. Which of the two was told last stands in the shared state, so a second device, a move between gateways or a word that comes twice
//!   is no event, and he who was not told to have come is not told to have gone.
//! - Nobody waits here: a queue that is full drops, and so does a state or a ledger that does not answer. What was dropped is counted. What is
//!   lost so, or with a process that dies, is the word, never the user: who is online is asked of `GET /v1/im/online`.
//! - Of one user the words of one gateway are taken in their order. Those of several may come in any: who is seen anywhere has not gone.

use super::{
    event::{EventKind, NewEvent},
    metrics::{QUEUE_FULL, RECORDS_AWAY, STATE_AWAY, WebhookMetrics},
};
use crate::ledger::{Ledger, webhooks::Hooks};
use billfish_state::{AppId, Quiet, State, StateError, UserId};
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::mpsc::{self, error::TrySendError};

/// Words that wait. A storm of 18,000 logins in two seconds fits.
const WORDS_MAX: usize = 32_768;
/// Words taken in one go.
const WORDS_PER_TURN: usize = 256;
/// How long it is known that a user's coming was told. Longer than any session is without a break.
const KNOWN_MS: u64 = 7 * 24 * 3600 * 1_000;
/// Claims stand beside those of calls, under a user that cannot exist.
const NOBODY: (AppId, UserId) = (AppId(0), UserId(0));

/// Lines about words that come to nothing: each would make one.
static NOT_TOLD: Quiet = Quiet::new();

/// Takes words about users. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UserWords {
    words: mpsc::Sender<Word>,
    hooks: Arc<Hooks>,
    metrics: WebhookMetrics,
}

/// A user is here, or is gone.
#[derive(Clone, Copy, Debug)]
struct Word {
    app: AppId,
    user: UserId,
    is_online: bool,
    at_ms: u64,
}

impl UserWords {
    /// The queue, and who works it off: [`Teller::run`].
    pub(super) fn new(ledger: &Ledger, state: &State, metrics: &WebhookMetrics) -> (Self, Teller) {
        let (sender, words) = mpsc::channel(WORDS_MAX);
        let teller = Teller { ledger: ledger.clone(), state: state.clone(), metrics: metrics.clone(), words, told: 0 };
        (Self { words: sender, hooks: Arc::clone(ledger.hooks()), metrics: metrics.clone() }, teller)
    }

    /// These users are here, or are gone. Nothing happens where no hook wants to know.
    pub(crate) fn tell(&self, app: AppId, users: impl IntoIterator<Item = UserId>, is_online: bool, at_ms: u64) {
        if ![EventKind::UserOnline, EventKind::UserOffline].into_iter().any(|kind| self.hooks.wants(app, kind)) {
            return;
        }
        let full = |user| match self.words.try_send(Word { app, user, is_online, at_ms }) {
            Ok(()) | Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(_)) => true,
        };
        let dropped = users.into_iter().filter(|user| full(*user)).count();
        if dropped > 0 {
            self.metrics.users_dropped(QUEUE_FULL, dropped);
        }
    }
}

/// Makes events of words.
pub(super) struct Teller {
    ledger: Ledger,
    state: State,
    metrics: WebhookMetrics,
    words: mpsc::Receiver<Word>,
    /// Events made, so that no two have one id.
    told: u64,
}

impl Teller {
    /// Works the queue off, until `stop` and then what is in it.
    pub(super) async fn run(mut self, stop: tokio_util::sync::CancellationToken) {
        let mut words = Vec::with_capacity(WORDS_PER_TURN);
        let mut is_open = true;
        loop {
            // Cancel-safe: what was not taken is still there.
            let count = tokio::select! {
                count = self.words.recv_many(&mut words, WORDS_PER_TURN) => count,
                () = stop.cancelled(), if is_open => {
                    is_open = false;
                    self.words.close();
                    continue;
                }
            };
            if count == 0 {
                return;
            }
            for group in groups(&words) {
                self.tell(group).await;
            }
            words.clear();
        }
    }

    /// Words of one kind, each about another user.
    async fn tell(&mut self, words: &[Word]) {
        let Some(Word { is_online, .. }) = words.first().copied() else { return };
        let gone = match is_online {
            true => Ok(words.to_vec()),
            false => self.gone(words).await,
        };
        let words = match gone {
            Ok(words) if words.is_empty() => return,
            Ok(words) => words,
            Err(error) => return self.dropped(STATE_AWAY, words.len(), &error),
        };
        let names: Vec<String> = words.iter().map(|word| format!("online:{}:{}", word.app, word.user)).collect();
        let now_ms = self.state.clock.now_ms();
        let claimed = match self.state.dedup.claim(NOBODY.0, NOBODY.1, &names, now_ms, now_ms + KNOWN_MS).await {
            Ok(claimed) => claimed,
            Err(error) => return self.dropped(STATE_AWAY, words.len(), &error),
        };
        // Here: he was not known to be. Gone: he was.
        let news: Vec<&Word> = words.iter().zip(claimed).filter(|(_, is_new)| *is_new == is_online).map(|(word, _)| word).collect();
        let stored = self.store(&news).await;
        // Where it could not be told that they came, the next word of them is to be one.
        if !is_online || stored.is_err() {
            let of = if is_online { names_of(&news) } else { names };
            if let Err(error) = self.state.dedup.release(NOBODY.0, NOBODY.1, &of).await {
                self.dropped(STATE_AWAY, of.len(), &error);
            }
        }
        if let Err(error) = stored {
            self.dropped(RECORDS_AWAY, news.len(), &error);
        }
    }

    /// Those who have not come back by another gateway before it was told here that they went from the one that they had been at. Who is seen
    /// anywhere is told to have gone by whoever finds him gone there.
    async fn gone(&self, words: &[Word]) -> Result<Vec<Word>, StateError> {
        let mut gone = Vec::with_capacity(words.len());
        for app in words.iter().map(|word| word.app).collect::<BTreeSet<_>>() {
            let of: Vec<Word> = words.iter().filter(|word| word.app == app).copied().collect();
            let users: Vec<UserId> = of.iter().map(|word| word.user).collect();
            let are_here = self.state.presence.online(app, &users, 0).await?;
            gone.extend(of.into_iter().zip(are_here).filter(|(_, is_here)| !is_here).map(|(word, _)| word));
        }
        Ok(gone)
    }

    async fn store(&mut self, news: &[&Word]) -> crate::services::ports::Result<()> {
        if news.is_empty() {
            return Ok(());
        }
        let mut events = Vec::with_capacity(news.len());
        for Word { app, user, is_online, at_ms } in news.iter().copied().copied() {
            self.told += 1;
            events.push(NewEvent::user(app, user, is_online, at_ms, self.told));
        }
        self.ledger.write_events(events).await
    }

    fn dropped(&self, reason: &'static str, users: usize, error: &(dyn std::error::Error + 'static)) {
        self.metrics.users_dropped(reason, users);
        if let Some(more_before) = NOT_TOLD.may_say(reason) {
            tracing::warn!(error, users, more_before, "that users came or went is told to no webhook");
        }
    }
}

fn names_of(words: &[&Word]) -> Vec<String> {
    words.iter().map(|word| format!("online:{}:{}", word.app, word.user)).collect()
}

/// Neighbours of one kind, none of them about a user of his group again.
fn groups(words: &[Word]) -> impl Iterator<Item = &[Word]> {
    let mut rest = words;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut users = BTreeSet::new();
        let is_next = |word: &&Word| word.is_online == first.is_online && users.insert((word.app, word.user));
        let (group, left) = rest.split_at(rest.iter().take_while(is_next).count());
        rest = left;
        Some(group)
    })
}

#[cfg(test)]
mod tests {
    use super::{Teller, UserWords, WORDS_MAX, Word, groups};
    use crate::{
        ledger::{Ledger, LedgerConfig, Sharing, webhooks::NewHook},
        webhooks::{
            event::{EventKind, EventKinds, Lane},
            metrics::{QUEUE_FULL, RECORDS_AWAY, STATE_AWAY, WebhookMetrics},
        },
    };
    use async_trait::async_trait;
    use billfish_state::{AppId, Dedup, State, StateError, UserId, port};
    use prometheus_client::registry::Registry;
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    };
    use tempfile::TempDir;
    use tokio_util::sync::CancellationToken;

    const APP: AppId = AppId(10_001);

    struct House {
        ledger: Ledger,
        words: UserWords,
        teller: Option<Teller>,
        metrics: WebhookMetrics,
        state: State,
        _directory: TempDir,
    }

    impl House {
        async fn new(state: State, kinds: &[EventKind]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let ledger = Ledger::open(&LedgerConfig::default(), directory.path(), Sharing::Exclusive).await.unwrap();
            let (url, secret) = ("https://example.com/".to_owned(), "a secret between us".to_owned());
            let new = NewHook { app: APP, url, events: EventKinds::of(kinds.iter().copied()), secret };
            ledger.add_hook(&new, 8, 0).await.unwrap().unwrap();
            let metrics = WebhookMetrics::register(&mut Registry::default(), ledger.hooks());
            let (words, teller) = UserWords::new(&ledger, &state, &metrics);
            Self { ledger, words, teller: Some(teller), metrics, state, _directory: directory }
        }

        fn say(&self, user: i64, is_online: bool) {
            self.words.tell(APP, [UserId(user)], is_online, 1_000);
        }

        /// Works off what was said.
        async fn work(&mut self) {
            let stop = CancellationToken::new();
            stop.cancel();
            self.teller.take().expect("once").run(stop).await;
            let (words, teller) = UserWords::new(&self.ledger, &self.state, &self.metrics);
            (self.words, self.teller) = (words, Some(teller));
        }

        async fn told(&self, user: i64) -> Vec<EventKind> {
            let hook = self.ledger.hooks().all()[0].id;
            self.ledger.events_of(hook, Lane(-user), 100).await.unwrap().into_iter().filter_map(|event| event.kind).collect()
        }
    }

    const ON: EventKind = EventKind::UserOnline;
    const OFF: EventKind = EventKind::UserOffline;

    #[tokio::test]
    async fn a_user_comes_and_goes_once_however_often_it_is_said() {
        let mut house = House::new(State::in_memory(), &[ON, OFF]).await;
        // A second device, a move to another gateway, a word said again.
        for is_online in [true, true, false, false, true] {
            house.say(20_001, is_online);
        }
        house.say(20_002, false);
        house.work().await;
        assert_eq!(house.told(20_001).await, [ON, OFF, ON]);
        assert_eq!(house.told(20_002).await, [], "who was not told to have come is not told to have gone");
        // Another router, or the next life of this one, knows as well.
        house.say(20_001, true);
        house.say(20_001, false);
        house.work().await;
        assert_eq!(house.told(20_001).await, [ON, OFF, ON, OFF]);
    }

    #[tokio::test]
    async fn who_has_come_back_elsewhere_is_not_told_to_have_gone_by_a_word_that_comes_late() {
        let mut house = House::new(State::in_memory(), &[ON, OFF]).await;
        house.say(20_001, true);
        // He went from one gateway and came to another, whose word was faster.
        house.state.presence.touch_each(&[(APP, UserId(20_001), 2_000)]).await.unwrap();
        house.say(20_001, true);
        house.say(20_001, false);
        house.say(20_002, true);
        house.say(20_002, false);
        house.work().await;
        assert_eq!((house.told(20_001).await, house.told(20_002).await), (vec![ON], vec![ON, OFF]));
        house.state.presence.remove(&[(APP, UserId(20_001), 2_000)]).await.unwrap();
        house.say(20_001, false);
        house.work().await;
        assert_eq!(house.told(20_001).await, [ON, OFF]);
    }

    #[tokio::test]
    async fn who_wants_to_know_of_one_is_told_of_one_and_who_wants_neither_costs_nothing() {
        let mut house = House::new(State::in_memory(), &[OFF]).await;
        house.say(20_001, true);
        house.say(20_001, false);
        house.words.tell(AppId(10_002), [UserId(20_001)], true, 1_000);
        assert_eq!(house.words.words.capacity(), WORDS_MAX - 2, "of another app nobody wants to know");
        house.work().await;
        assert_eq!(house.told(20_001).await, [OFF]);
        let house = House::new(State::in_memory(), &[EventKind::GiftPaid]).await;
        house.say(20_001, true);
        assert_eq!(house.words.words.capacity(), WORDS_MAX);
    }

    #[tokio::test]
    async fn a_queue_that_is_full_drops_and_counts() {
        let house = House::new(State::in_memory(), &[ON]).await;
        let users = (20_001..).map(UserId).take(WORDS_MAX + 3);
        house.words.tell(APP, users, true, 1_000);
        assert_eq!(house.metrics.dropped(QUEUE_FULL), 3);
    }

    #[tokio::test]
    async fn without_the_state_or_the_records_it_is_counted_and_said_again_by_the_next_word() {
        struct Failing(Arc<dyn Dedup>, AtomicBool);
        #[async_trait]
        impl Dedup for Failing {
            async fn claim(&self, app: AppId, user: UserId, ids: &[String], now_ms: u64, until_ms: u64) -> port::Result<Vec<bool>> {
                if self.1.load(Relaxed) {
                    return Err(StateError::Away { what: "claiming", cause: "told to fail".into() });
                }
                self.0.claim(app, user, ids, now_ms, until_ms).await
            }

            async fn release(&self, app: AppId, user: UserId, ids: &[String]) -> port::Result<()> {
                self.0.release(app, user, ids).await
            }
        }
        let state = State::in_memory();
        let failing = Arc::new(Failing(state.dedup.clone(), AtomicBool::new(true)));
        let mut house = House::new(State { dedup: failing.clone(), ..state }, &[ON, OFF]).await;
        house.say(20_001, true);
        house.say(20_002, true);
        house.work().await;
        assert_eq!(house.metrics.dropped(STATE_AWAY), 2);
        failing.1.store(false, Relaxed);
        // Nobody can write.
        let lock = house.ledger.hold_for_test().await;
        house.say(20_001, true);
        house.work().await;
        assert_eq!(house.metrics.dropped(RECORDS_AWAY), 1);
        drop(lock);
        house.say(20_001, true);
        house.work().await;
        assert_eq!(house.told(20_001).await, [ON]);
    }

    #[test]
    fn words_are_taken_together_where_no_user_is_twice_among_them() {
        let word = |(user, is_online)| Word { app: APP, user: UserId(user), is_online, at_ms: 0 };
        let words: Vec<Word> =
            [(1, true), (2, true), (1, true), (3, true), (3, false), (4, false), (4, true)].into_iter().map(word).collect();
        let lengths: Vec<usize> = groups(&words).map(<[Word]>::len).collect();
        assert_eq!(lengths, [2, 2, 2, 1]);
        assert_eq!(groups(&[]).count(), 0);
    }
}
