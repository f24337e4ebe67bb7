//! What one router at a time does for all: who has the right to it, under a lease of its own.
//!
//! - Who has the right renews it long before it ends, so that one slow answer does not move it. Who has not asks again when it may have ended,
//!   not before: that another has it until then was the store's answer. A store that may have forgotten is asked at once.
//! - Where its holder gives it back or dies, another takes it within the life of the lease.

use billfish_state::{Lease, State, StateError};

/// A right, as one router sees it.
#[derive(Debug)]
pub(crate) struct Right {
    name: &'static str,
    life_ms: u64,
    renew_every_ms: u64,
    asked: Option<Asked>,
}

#[derive(Debug)]
struct Asked {
    at_ms: u64,
    /// What the store may have forgotten by then.
    generation: u64,
    lease: Lease,
}

impl Right {
    /// A right that lasts `life_ms` and is renewed as often as it is asked for, but no sooner than after `renew_every_ms`.
    pub(crate) const fn new(name: &'static str, life_ms: u64, renew_every_ms: u64) -> Self {
        Self { name, life_ms, renew_every_ms, asked: None }
    }

    /// The lease, if it is this holder's now.
    pub(crate) async fn ask(&mut self, state: &State, holder: &str, now_ms: u64) -> Result<Option<&Lease>, StateError> {
        let generation = state.watch.generation();
        if self.asked.as_ref().is_none_or(|asked| self.is_to_ask(asked, holder, generation, now_ms)) {
            // What is not answered says nothing, and neither does what was said before.
            self.asked = None;
            let lease = state.leases.acquire(self.name, holder, now_ms, now_ms + self.life_ms).await?;
            self.asked = Some(Asked { at_ms: now_ms, generation, lease });
        }
        Ok(self.held(holder, now_ms))
    }

    fn held(&self, holder: &str, now_ms: u64) -> Option<&Lease> {
        self.asked.as_ref().map(|asked| &asked.lease).filter(|lease| lease.holder == holder && now_ms < lease.until_ms)
    }

    fn is_to_ask(&self, asked: &Asked, holder: &str, generation: u64, now_ms: u64) -> bool {
        // Also where the clock has been set back since.
        let answered_ms = if asked.lease.holder == holder { self.renew_every_ms } else { self.life_ms };
        let until_ms = asked.lease.until_ms.min(asked.at_ms.saturating_add(answered_ms));
        generation != asked.generation || now_ms < asked.at_ms || now_ms >= until_ms
    }

    /// Gives it back, if it is this holder's. Where that fails it runs out.
    pub(crate) async fn give_back(self, state: &State, holder: &str) {
        if let Some(Asked { lease: Lease { holder: of, epoch, .. }, .. }) = self.asked
            && of == holder
            && let Err(error) = state.leases.release(self.name, holder, epoch).await
        {
            tracing::debug!(right = self.name, error = &error as &dyn std::error::Error, "a right was not given back; it runs out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Right;
    use async_trait::async_trait;
    use billfish_state::{Lease, Leases, State, StateError};
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    };

    struct Counted {
        leases: Arc<dyn Leases>,
        asked: AtomicU32,
    }

    #[async_trait]
    impl Leases for Counted {
        async fn acquire(&self, name: &str, holder: &str, now_ms: u64, until_ms: u64) -> Result<Lease, StateError> {
            self.asked.fetch_add(1, Relaxed);
            self.leases.acquire(name, holder, now_ms, until_ms).await
        }

        async fn release(&self, name: &str, holder: &str, epoch: u64) -> Result<(), StateError> {
            self.leases.release(name, holder, epoch).await
        }
    }

    fn store() -> (State, Arc<Counted>) {
        let state = State::in_memory();
        let counted = Arc::new(Counted { leases: state.leases.clone(), asked: AtomicU32::new(0) });
        (State { leases: counted.clone(), ..state }, counted)
    }

    fn right() -> Right {
        Right::new("test", 6_000, 2_000)
    }

    #[tokio::test]
    async fn who_has_it_renews_it_in_time_and_who_has_not_asks_when_it_may_have_ended() {
        let (state, store) = store();
        let (mut first, mut second) = (right(), right());
        for second_s in 0..60 {
            let now_ms = second_s * 1_000;
            let has = first.ask(&state, "a", now_ms).await.unwrap();
            assert!(has.is_some_and(|lease| lease.until_ms >= now_ms + 5_000), "{now_ms}");
        }
        assert_eq!(store.asked.swap(0, Relaxed), 30);
        for second_s in 60..120 {
            assert!(first.ask(&state, "a", second_s * 1_000).await.unwrap().is_some());
            assert!(second.ask(&state, "b", second_s * 1_000).await.unwrap().is_none());
        }
        let of_both = store.asked.load(Relaxed);
        assert!((30 + 10..=30 + 15).contains(&of_both), "{of_both}");
    }

    #[tokio::test]
    async fn it_passes_on_within_its_life_when_its_holder_dies_or_gives_it_back() {
        let (state, _) = store();
        let (mut first, mut second) = (right(), right());
        assert!(first.ask(&state, "a", 0).await.unwrap().is_some());
        assert!(second.ask(&state, "b", 1).await.unwrap().is_none());
        assert!(second.ask(&state, "b", 5_999).await.unwrap().is_none());
        assert!(second.ask(&state, "b", 6_000).await.unwrap().is_some());
        assert!(first.ask(&state, "a", 6_000).await.unwrap().is_none(), "a holder that was stopped has it no longer");
        second.give_back(&state, "b").await;
        assert!(first.ask(&state, "a", 12_000).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_store_that_may_have_forgotten_and_a_clock_that_was_set_back_are_asked_at_once() {
        let (state, store) = store();
        let (mut first, mut second) = (right(), right());
        assert!(first.ask(&state, "a", 100_000).await.unwrap().is_some());
        assert!(second.ask(&state, "b", 100_000).await.unwrap().is_none());
        state.watch.may_have_forgotten();
        assert!(first.ask(&state, "a", 100_001).await.unwrap().is_some());
        assert!(second.ask(&state, "b", 100_001).await.unwrap().is_none());
        assert_eq!(store.asked.load(Relaxed), 4);
        assert!(second.ask(&state, "b", 10_000).await.unwrap().is_some(), "it was taken by a clock that has been set back");
        assert_eq!(store.asked.load(Relaxed), 5);
    }
}
