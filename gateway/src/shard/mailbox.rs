//! A bounded queue between a shard and the control plane: filled in batches, taken whole, woken once.
//!
//! - Bounded by weight, in bytes. What does not fit is given back; nothing is dropped here.
//! - The taker is signalled only when the queue turns from empty to non-empty, the filler only when room came back after a refusal: a
//!   busy mailbox costs no wake-ups at all.
//! - Taking is a swap of two vectors, so the lock is held for a few instructions, whatever is queued.
//! - A closed mailbox swallows what it is given: its taker has ended, and everything it was about ended with it.
//!
//! Not for more than one taker: two of them could steal each other's signal.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// What an item occupies while it waits.
pub trait Weigh {
    /// Bytes, roughly; at least 1.
    fn weight(&self) -> usize;
}

/// How one side of a mailbox is told that it has something to do.
pub enum Signal {
    /// A tokio task, waiting in [`Mailbox::drain`] or [`Mailbox::send`].
    Task(Notify),
    /// A reactor; called without the lock held, must not wait.
    Wake(Box<dyn Fn() + Send + Sync>),
}

impl Signal {
    /// For a tokio task.
    #[must_use]
    pub fn task() -> Self {
        Self::Task(Notify::new())
    }

    fn give(&self, to_all: bool) {
        match self {
            Self::Task(notify) if to_all => notify.notify_waiters(),
            Self::Task(notify) => notify.notify_one(),
            Self::Wake(wake) => wake(),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Task(_) => "Task",
            Self::Wake(_) => "Wake",
        })
    }
}

/// The queue. See the module's words.
#[derive(Debug)]
pub struct Mailbox<T> {
    state: Mutex<State<T>>,
    weight_max: usize,
    filled: Signal,
    emptied: Signal,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    weight: usize,
    /// Somebody was turned away since the queue was last taken.
    refused: bool,
    closed: bool,
}

/// A vector that was once this long is not kept after it was emptied: one burst must not pin its memory for ever.
const KEEP_ITEMS_MAX: usize = 4096;

impl<T: Weigh> Mailbox<T> {
    /// An empty mailbox. It takes items while their weight stays within `weight_max`; an item above that is taken alone.
    #[must_use]
    pub fn new(weight_max: usize, filled: Signal, emptied: Signal) -> Self {
        let state = State { items: Vec::new(), weight: 0, refused: false, closed: false };
        Self { state: Mutex::new(state), weight_max, filled, emptied }
    }

    /// Puts one item in.
    ///
    /// # Errors
    /// Gives it back when there is no room; [`Signal`] `emptied` tells when there is.
    pub fn push(&self, item: T) -> Result<(), T> {
        let was_empty = {
            let mut state = self.lock();
            if state.closed {
                return Ok(());
            }
            let weight = item.weight();
            if !state.fits(weight, self.weight_max) {
                state.refused = true;
                return Err(item);
            }
            let was_empty = state.items.is_empty();
            state.weight += weight;
            state.items.push(item);
            was_empty
        };
        if was_empty {
            self.filled.give(false);
        }
        Ok(())
    }

    /// Moves items in, from the front, as many as fit; the rest stays in `items`, in order. `true` when all went in.
    pub fn push_batch(&self, items: &mut Vec<T>) -> bool {
        if items.is_empty() {
            return true;
        }
        let (was_empty, took) = {
            let mut state = self.lock();
            if state.closed {
                items.clear();
                return true;
            }
            let was_empty = state.items.is_empty();
            let (mut took, mut weight) = (0, 0);
            for item in items.iter() {
                let more = weight + item.weight();
                // The first item of an empty queue always fits: one that is too heavy would wait for ever.
                if !(state.weight + more <= self.weight_max || (was_empty && took == 0)) {
                    state.refused = true;
                    break;
                }
                weight = more;
                took += 1;
            }
            state.weight += weight;
            if was_empty && took == items.len() {
                // The common case, and free: the batch becomes the queue.
                std::mem::swap(&mut state.items, items);
            } else {
                state.items.extend(items.drain(..took));
            }
            (was_empty, took)
        };
        if was_empty && took > 0 {
            self.filled.give(false);
        }
        items.is_empty()
    }

    /// Takes everything, appending it to `out`; `false` when there was nothing.
    pub fn take_into(&self, out: &mut Vec<T>) -> bool {
        let (took, refused) = {
            let mut state = self.lock();
            let took = !state.items.is_empty();
            if out.is_empty() {
                if out.capacity() > KEEP_ITEMS_MAX {
                    *out = Vec::new();
                }
                std::mem::swap(&mut state.items, out);
            } else {
                out.append(&mut state.items);
            }
            state.weight = 0;
            (took, std::mem::take(&mut state.refused))
        };
        if refused {
            self.emptied.give(true);
        }
        took
    }

    /// For a task: waits until there is something and takes everything, appending it to `out`. `false` when the mailbox is closed and empty.
    ///
    /// Cancel-safe: items are taken without waiting in between.
    pub async fn drain(&self, out: &mut Vec<T>) -> bool {
        loop {
            // Asked first: what was put in before the end is still taken.
            let closed = self.is_closed();
            if self.take_into(out) {
                return true;
            }
            if closed {
                return false;
            }
            match &self.filled {
                // One taker, and `notify_one` keeps its permit: a fill between the look above and here is not lost.
                Signal::Task(notify) => notify.notified().await,
                Signal::Wake(_) => unreachable!("a reactor's mailbox is not taken by a task"),
            }
        }
    }

    /// For a task: puts all of `items` in, waiting for room as often as need be.
    ///
    /// Cancel-safe: what was not yet put in is still in `items`.
    pub async fn send(&self, items: &mut Vec<T>) {
        let Signal::Task(emptied) = &self.emptied else { unreachable!("a reactor does not wait for room") };
        loop {
            let room = emptied.notified();
            tokio::pin!(room);
            // Registered before the attempt, so that room made in between is not missed.
            room.as_mut().enable();
            if self.push_batch(items) {
                return;
            }
            room.await;
        }
    }

    /// Ends it: what is in it stays to be taken, what is put in from now on vanishes, waiters go on.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.give(false);
        self.emptied.give(true);
    }

    /// Whether [`Self::close`] was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Items waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes waiting, as [`Weigh`] counts them.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.lock().weight
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No foreign code runs under the lock but `weight`, so the state is whole even if another thread panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn fits(&self, weight: usize, weight_max: usize) -> bool {
        self.items.is_empty() || self.weight + weight <= weight_max
    }
}

#[cfg(test)]
mod tests {
    use super::{Mailbox, Signal, Weigh};
    use proptest::prelude::*;
    use std::{
        collections::VecDeque,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
    };

    impl Weigh for usize {
        fn weight(&self) -> usize {
            *self
        }
    }

    /// A signal that counts how often it was given.
    fn counted() -> (Signal, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let wake = move || {
            counter.fetch_add(1, SeqCst);
        };
        (Signal::Wake(Box::new(wake)), count)
    }

    #[test]
    fn the_taker_is_woken_once_until_it_has_taken() {
        let (filled, woken) = counted();
        let mailbox = Mailbox::new(100, filled, Signal::task());
        for _ in 0..3 {
            mailbox.push(1).unwrap();
            assert!(mailbox.push_batch(&mut vec![1, 1]));
        }
        assert_eq!(woken.load(SeqCst), 1);
        let mut out = Vec::new();
        assert!(mailbox.take_into(&mut out));
        assert_eq!((out.len(), mailbox.weight()), (9, 0));
        mailbox.push(1).unwrap();
        assert_eq!(woken.load(SeqCst), 2);
    }

    #[test]
    fn what_does_not_fit_is_given_back_and_the_filler_is_woken_when_there_is_room() {
        let (emptied, woken) = counted();
        let mailbox = Mailbox::new(10, Signal::task(), emptied);
        let mut batch = vec![4, 5, 6, 1];
        assert!(!mailbox.push_batch(&mut batch));
        assert_eq!(batch, [6, 1], "nothing overtakes what did not fit");
        assert_eq!(mailbox.push(2), Err(2));
        assert_eq!(woken.load(SeqCst), 0);
        mailbox.take_into(&mut Vec::new());
        assert_eq!(woken.load(SeqCst), 1);
        assert!(mailbox.push_batch(&mut batch));
        mailbox.take_into(&mut Vec::new());
        assert_eq!(woken.load(SeqCst), 1, "nobody had been turned away");
    }

    #[test]
    fn an_item_above_the_bound_is_taken_alone() {
        let mailbox = Mailbox::new(10, Signal::task(), Signal::task());
        mailbox.push(11).unwrap();
        assert_eq!(mailbox.push(1), Err(1));
        mailbox.take_into(&mut Vec::new());
        assert!(!mailbox.push_batch(&mut vec![12, 1]));
        assert_eq!(mailbox.len(), 1);
    }

    #[test]
    fn a_closed_mailbox_swallows_and_still_gives_what_it_had() {
        let mailbox = Mailbox::new(10, Signal::task(), Signal::task());
        mailbox.push(1).unwrap();
        mailbox.close();
        mailbox.push(100).unwrap();
        assert!(mailbox.push_batch(&mut vec![100, 100]));
        let mut out = Vec::new();
        assert!(mailbox.take_into(&mut out));
        assert_eq!(out, [1]);
    }

    #[test]
    fn tasks_pass_everything_through_in_order_and_end_with_the_close() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let mailbox = Arc::new(Mailbox::new(50, Signal::task(), Signal::task()));
        let filler = Arc::clone(&mailbox);
        let filling = runtime.spawn(async move {
            for start in (1..2_000).step_by(7) {
                filler.send(&mut (start..start + 7).map(|item| item % 20 + 1).collect()).await;
            }
            filler.close();
        });
        let taken = runtime.block_on(async {
            let (mut all, mut batch) = (Vec::new(), Vec::new());
            while mailbox.drain(&mut batch).await {
                all.append(&mut batch);
            }
            filling.await.unwrap();
            all
        });
        let sent: Vec<usize> = (1..2_000).step_by(7).flat_map(|start| start..start + 7).map(|item| item % 20 + 1).collect();
        assert_eq!(taken, sent);
    }

    proptest! {
        /// Against a bounded queue: same items, same order, never above the bound but for a single heavy one.
        #[test]
        fn it_behaves_like_a_bounded_queue(steps in prop::collection::vec(prop_oneof![
            3 => prop::collection::vec(1usize..15, 0..8).prop_map(Some),
            1 => Just(None),
        ], 0..60)) {
            let mailbox = Mailbox::new(40, Signal::task(), Signal::task());
            let mut model: VecDeque<usize> = VecDeque::new();
            for step in steps {
                match step {
                    Some(mut batch) => {
                        let mut left: VecDeque<usize> = batch.iter().copied().collect();
                        while let Some(item) = left.front().copied()
                            && (model.is_empty() || model.iter().sum::<usize>() + item <= 40)
                        {
                            model.push_back(item);
                            left.pop_front();
                        }
                        prop_assert_eq!(mailbox.push_batch(&mut batch), left.is_empty());
                        prop_assert_eq!(batch, Vec::from(left));
                    }
                    None => {
                        let mut out = Vec::new();
                        prop_assert_eq!(mailbox.take_into(&mut out), !model.is_empty());
                        prop_assert_eq!(out, model.drain(..).collect::<Vec<_>>());
                    }
                }
                prop_assert_eq!(mailbox.weight(), model.iter().sum::<usize>());
                prop_assert_eq!(mailbox.len(), model.len());
            }
        }
    }
}
