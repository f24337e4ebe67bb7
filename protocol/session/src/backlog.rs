//! Frames queued for one connection whose reader is slower than its rooms.
//!
//! ```text
//!            0              soft mark (50 %)          hard mark
//!            |  everything fits   |  ambient goes, then   |  nothing left to drop:
//!            |                    |  chat, oldest first   |  overflow, 4012
//! ```
//!
//! - Bounded in frames and in bytes. Every frame that came in goes out once: delivered, or dropped with a reason.
//! - Control and events are never dropped while the connection lives; a newer state takes the place of the older one of its room and key,
//!   at the end of the queue, so that `seq` order holds.
//! - The head, once a byte of it is written, can be neither dropped nor replaced: the stream would be out of step.
//!
//! Not a place to collect a burst for a reader that keeps up: write first, queue what the socket did not take.

use crate::push::StateKey;
use billfish_wire::Class;
use bytes::Bytes;
use std::{collections::VecDeque, io::IoSlice};

/// Bounds of a backlog. One per gateway, shared by all its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BacklogLimits {
    /// Most frames queued.
    pub frames_max: usize,
    /// Most bytes queued.
    pub bytes_max: usize,
    /// Where dropping begins, in percent of each of the two.
    pub soft_percent: usize,
}

impl Default for BacklogLimits {
    /// 256 frames or 256 KiB: 25 s of a busy room's chat, and 1,000 stalled readers stay within 256 MiB.
    fn default() -> Self {
        Self { frames_max: 256, bytes_max: 256 * 1024, soft_percent: 50 }
    }
}

/// One frame in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued<T> {
    /// The whole frame, shared by all who receive it.
    pub frame: Bytes,
    /// What it is worth.
    pub class: Class,
    /// Set on a state push: at most one of each key waits.
    pub state: Option<StateKey>,
    /// The owner's accounting; comes back when the frame leaves.
    pub tag: T,
}

/// Why a frame left without being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// The reader is slow and the frame was the least worth keeping.
    SoftMark,
    /// A newer state of the same room and key came.
    Replaced,
    /// The connection ended first.
    Closed,
}

impl DropReason {
    /// Every reason, for tables, metrics and tests.
    pub const ALL: [Self; 3] = [Self::SoftMark, Self::Replaced, Self::Closed];

    /// Lower-case name, as metrics label it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::SoftMark => "soft_mark",
            Self::Replaced => "replaced",
            Self::Closed => "closed",
        }
    }
}

/// The queue is full of what may not be dropped: close the connection with 4012, the client resumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the backlog is full of frames that may not be dropped")]
pub struct Overflow;

/// The queue of one connection.
#[derive(Debug)]
pub struct Backlog<T> {
    queue: VecDeque<Queued<T>>,
    /// Queued and not written.
    bytes: usize,
    /// Of the head.
    written_bytes: usize,
    /// How many chat and ambient frames the queue holds: at the mark the search is skipped when there are none.
    ambient: usize,
    chat: usize,
}

impl<T> Default for Backlog<T> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), bytes: 0, written_bytes: 0, ambient: 0, chat: 0 }
    }
}

impl<T> Backlog<T> {
    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Frames that wait, a partially written one among them.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.queue.len()
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What waits, oldest first: for accounting on request.
    pub fn waiting(&self) -> impl Iterator<Item = &Queued<T>> {
        self.queue.iter()
    }

    /// Queues a frame and drops what is no longer worth its place; the new frame itself may be among that.
    ///
    /// # Errors
    /// [`Overflow`] when the hard mark would be crossed by what may not be dropped. The frame then goes to `on_drop` as
    /// [`DropReason::Closed`], because that is what must follow: see [`Self::close_with`].
    pub fn push(
        &mut self,
        limits: &BacklogLimits,
        queued: Queued<T>,
        mut on_drop: impl FnMut(Queued<T>, DropReason),
    ) -> Result<(), Overflow> {
        if let Some(older) = queued.state.as_ref().and_then(|state| self.position_of_state(state)) {
            self.remove(older, DropReason::Replaced, &mut on_drop);
        }
        self.append(queued);
        while self.is_above(soft(limits.frames_max, limits), soft(limits.bytes_max, limits)) {
            let Some(least) = self.position_of_least() else { break };
            self.remove(least, DropReason::SoftMark, &mut on_drop);
        }
        if self.is_above(limits.frames_max, limits.bytes_max) {
            // Whatever could be dropped is gone, so the newest is what did not fit.
            self.remove(self.queue.len() - 1, DropReason::Closed, &mut on_drop);
            return Err(Overflow);
        }
        Ok(())
    }

    /// What to write, oldest first, without what the head has behind it. Take as many as one write may carry.
    pub fn slices(&self) -> impl Iterator<Item = IoSlice<'_>> {
        let mut skip = self.written_bytes;
        self.queue.iter().map(move |queued| IoSlice::new(&queued.frame[std::mem::take(&mut skip)..]))
    }

    /// So many bytes of [`Self::slices`] were written. Frames written whole leave through `on_delivered`.
    pub fn advance(&mut self, written_bytes: usize, mut on_delivered: impl FnMut(Queued<T>)) {
        debug_assert!(written_bytes <= self.bytes, "a write cannot take more than it was given");
        self.bytes = self.bytes.saturating_sub(written_bytes);
        self.written_bytes += written_bytes;
        while let Some(head) = self.queue.front()
            && self.written_bytes >= head.frame.len()
        {
            self.written_bytes -= head.frame.len();
            if let Some(head) = self.queue.pop_front() {
                self.count_out(head.class);
                on_delivered(head);
            }
        }
    }

    /// For a transport that takes whole frames, each class on its way: offers everything that waits, oldest first. What `takes` says yes to
    /// leaves, and is its to account for.
    pub fn offer_each(&mut self, mut takes: impl FnMut(&Queued<T>) -> bool) {
        debug_assert_eq!(self.written_bytes, 0, "such a transport writes no part of a frame");
        let mut queue = std::mem::take(&mut self.queue);
        queue.retain(|queued| {
            let is_taken = takes(queued);
            if is_taken {
                self.bytes -= queued.frame.len();
                self.count_out(queued.class);
            }
            !is_taken
        });
        self.queue = queue;
    }

    /// The connection ends and can still be written to: everything but a half-written head makes way for the last words.
    pub fn close_with(&mut self, last: Queued<T>, mut on_drop: impl FnMut(Queued<T>, DropReason)) {
        let kept = self.first_droppable();
        while self.queue.len() > kept {
            self.remove(kept, DropReason::Closed, &mut on_drop);
        }
        self.append(last);
    }

    /// The connection has ended: everything goes, a half-written head too.
    pub fn close(&mut self, mut on_drop: impl FnMut(Queued<T>, DropReason)) {
        for queued in std::mem::take(self).queue {
            on_drop(queued, DropReason::Closed);
        }
    }

    fn append(&mut self, queued: Queued<T>) {
        self.bytes += queued.frame.len();
        if let Some(held) = self.held(queued.class) {
            *held += 1;
        }
        self.queue.push_back(queued);
    }

    fn remove(&mut self, index: usize, reason: DropReason, on_drop: &mut impl FnMut(Queued<T>, DropReason)) {
        if let Some(queued) = self.queue.remove(index) {
            self.bytes -= queued.frame.len();
            self.count_out(queued.class);
            on_drop(queued, reason);
        }
    }

    fn is_above(&self, frames: usize, bytes: usize) -> bool {
        self.queue.len() > frames || self.bytes > bytes
    }

    /// The head counts from its first written byte on.
    fn first_droppable(&self) -> usize {
        usize::from(self.written_bytes > 0)
    }

    fn position_of_state(&self, state: &StateKey) -> Option<usize> {
        let first = self.first_droppable();
        let after_head = self.queue.iter().skip(first).position(|queued| queued.state.as_ref() == Some(state));
        after_head.map(|position| position + first)
    }

    /// The oldest ambient frame, or else the oldest chat.
    fn position_of_least(&self) -> Option<usize> {
        self.position_of_class(Class::Ambient, self.ambient).or_else(|| self.position_of_class(Class::Chat, self.chat))
    }

    fn position_of_class(&self, class: Class, held: usize) -> Option<usize> {
        if held == 0 {
            return None;
        }
        let first = self.first_droppable();
        self.queue.iter().skip(first).position(|queued| queued.class == class).map(|position| position + first)
    }

    fn count_out(&mut self, class: Class) {
        if let Some(held) = self.held(class) {
            *held -= 1;
        }
    }

    fn held(&mut self, class: Class) -> Option<&mut usize> {
        match class {
            Class::Ambient => Some(&mut self.ambient),
            Class::Chat => Some(&mut self.chat),
            Class::Control | Class::Event => None,
        }
    }
}

const fn soft(max: usize, limits: &BacklogLimits) -> usize {
    max.saturating_mul(limits.soft_percent) / 100
}

#[cfg(test)]
mod tests {
    use super::{Backlog, BacklogLimits, DropReason, Overflow, Queued};
    use crate::push::StateKey;
    use billfish_wire::Class;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::io::IoSlice;

    const SMALL: BacklogLimits = BacklogLimits { frames_max: 8, bytes_max: 400, soft_percent: 50 };

    #[test]
    fn up_to_the_soft_mark_everything_stays_and_one_more_drops_the_oldest_ambient_frame() {
        let mut backlog = Backlog::default();
        let limits = BacklogLimits::default();
        let mut dropped = Vec::new();
        for tag in 0..129 {
            assert!(dropped.is_empty(), "dropped at {tag} frames");
            let class = if tag == 3 || tag == 5 { Class::Ambient } else { Class::Chat };
            let fits = backlog.push(&limits, queued(tag, class, 10, None), |queued, reason| dropped.push((queued.tag, reason)));
            assert_eq!(fits, Ok(()));
        }
        assert_eq!(dropped, [(3, DropReason::SoftMark)]);
        assert_eq!(backlog.frames(), 128);
    }

    #[test]
    fn the_soft_mark_counts_bytes_too() {
        let mut backlog = Backlog::default();
        assert_eq!(push(&mut backlog, queued(0, Class::Chat, 100, None)), (vec![], Ok(())));
        assert_eq!(push(&mut backlog, queued(1, Class::Event, 100, None)), (vec![], Ok(())));
        assert_eq!(push(&mut backlog, queued(2, Class::Event, 1, None)), (vec![(0, DropReason::SoftMark)], Ok(())));
    }

    #[test]
    fn events_fill_the_queue_to_the_hard_mark_and_one_more_overflows() {
        let mut backlog = Backlog::default();
        for tag in 0..8 {
            assert_eq!(push(&mut backlog, queued(tag, Class::Event, 10, None)), (vec![], Ok(())));
        }
        assert_eq!(push(&mut backlog, queued(8, Class::Chat, 10, None)), (vec![(8, DropReason::SoftMark)], Ok(())), "chat has no place");
        assert_eq!(push(&mut backlog, queued(9, Class::Event, 10, None)), (vec![(9, DropReason::Closed)], Err(Overflow)));
        assert_eq!(backlog.frames(), 8);
    }

    #[test]
    fn the_hard_mark_counts_bytes_too() {
        let mut backlog = Backlog::default();
        assert_eq!(push(&mut backlog, queued(0, Class::Control, 400, None)), (vec![], Ok(())));
        assert_eq!(push(&mut backlog, queued(1, Class::Control, 1, None)), (vec![(1, DropReason::Closed)], Err(Overflow)));
    }

    #[test]
    fn a_newer_state_replaces_the_older_of_its_room_and_key_at_the_end() {
        let mut backlog = Backlog::default();
        push(&mut backlog, queued(0, Class::Control, 10, Some((1, "pk")))).1.unwrap();
        push(&mut backlog, queued(1, Class::Control, 10, Some((2, "pk")))).1.unwrap();
        push(&mut backlog, queued(2, Class::Control, 10, Some((1, "likes")))).1.unwrap();
        assert_eq!(push(&mut backlog, queued(3, Class::Control, 10, Some((1, "pk")))), (vec![(0, DropReason::Replaced)], Ok(())));
        assert_eq!(tags(&backlog), [1, 2, 3]);
    }

    #[test]
    fn a_half_written_head_is_neither_replaced_nor_dropped() {
        let mut backlog = Backlog::default();
        push(&mut backlog, queued(0, Class::Ambient, 10, Some((1, "likes")))).1.unwrap();
        backlog.advance(1, |_| panic!("nine bytes are missing"));
        assert_eq!(push(&mut backlog, queued(1, Class::Ambient, 10, Some((1, "likes")))), (vec![], Ok(())));
        for tag in 2..4 {
            push(&mut backlog, queued(tag, Class::Event, 10, None)).1.unwrap();
        }
        assert_eq!(push(&mut backlog, queued(4, Class::Event, 10, None)), (vec![(1, DropReason::SoftMark)], Ok(())));
        assert_eq!(tags(&backlog), [0, 2, 3, 4]);
    }

    #[test]
    fn last_words_follow_a_half_written_head_and_nothing_else() {
        let mut backlog = Backlog::default();
        for tag in 0..8 {
            push(&mut backlog, queued(tag, Class::Event, 10, None)).1.unwrap();
        }
        backlog.advance(15, |queued| assert_eq!(queued.tag, 0));
        let mut dropped = Vec::new();
        backlog.close_with(queued(99, Class::Control, 10, None), |queued, reason| dropped.push((queued.tag, reason)));
        assert_eq!(dropped, (2..8).map(|tag| (tag, DropReason::Closed)).collect::<Vec<_>>());
        assert_eq!((tags(&backlog), backlog.bytes()), (vec![1, 99], 15));
    }

    #[test]
    fn what_is_offered_and_refused_stays_in_its_order() {
        let mut backlog = Backlog::default();
        for (tag, class) in [(0, Class::Chat), (1, Class::Event), (2, Class::Chat), (3, Class::Event)] {
            push(&mut backlog, queued(tag, class, 10, None)).1.unwrap();
        }
        let mut offered = Vec::new();
        backlog.offer_each(|queued| {
            offered.push(queued.tag);
            queued.class == Class::Event
        });
        assert_eq!((offered, tags(&backlog), backlog.bytes()), (vec![0, 1, 2, 3], vec![0, 2], 20));
        // What left is no longer counted among what could be dropped, nor what stays left out.
        for tag in 4..7 {
            push(&mut backlog, queued(tag, Class::Event, 10, None)).1.unwrap();
        }
        assert_eq!(tags(&backlog), [2, 4, 5, 6]);
        backlog.offer_each(|_| true);
        assert!(backlog.is_empty() && backlog.bytes() == 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push { class: Class, bytes: usize, state: Option<(i64, &'static str)> },
        Write(usize),
        Close,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let class = prop::sample::select(Class::ALL.to_vec());
        let state = prop::option::weighted(0.3, (1i64..3, prop::sample::select(vec!["pk", "likes"])));
        let step = prop_oneof![
            10 => (class, 1usize..120, state).prop_map(|(class, bytes, state)| Step::Push { class, bytes, state }),
            6 => (0usize..150).prop_map(Step::Write),
            1 => Just(Step::Close),
        ];
        prop::collection::vec(step, 1..120)
    }

    #[derive(Debug, PartialEq)]
    enum Event {
        Delivered(usize),
        Dropped(usize, DropReason),
        Overflowed,
    }

    struct Entry {
        tag: usize,
        class: Class,
        state: Option<(i64, &'static str)>,
        bytes_left: usize,
        begun: bool,
    }

    /// The rules once more, as slow and plain as can be.
    #[derive(Default)]
    struct Model {
        queue: Vec<Entry>,
        events: Vec<Event>,
    }

    impl Model {
        fn is_above(&self, percent: usize) -> bool {
            let bytes: usize = self.queue.iter().map(|entry| entry.bytes_left).sum();
            self.queue.len() * 100 > SMALL.frames_max * percent || bytes * 100 > SMALL.bytes_max * percent
        }

        fn take(&mut self, wanted: impl Fn(&Entry) -> bool, reason: DropReason) -> bool {
            let Some(at) = self.queue.iter().position(|entry| !entry.begun && wanted(entry)) else { return false };
            self.events.push(Event::Dropped(self.queue.remove(at).tag, reason));
            true
        }

        fn push(&mut self, tag: usize, class: Class, bytes: usize, state: Option<(i64, &'static str)>) {
            if state.is_some() {
                self.take(|entry| entry.state == state, DropReason::Replaced);
            }
            self.queue.push(Entry { tag, class, state, bytes_left: bytes, begun: false });
            while self.is_above(50)
                && (self.take(|entry| entry.class == Class::Ambient, DropReason::SoftMark)
                    || self.take(|entry| entry.class == Class::Chat, DropReason::SoftMark))
            {}
            if self.is_above(100) {
                self.take(|entry| entry.tag == tag, DropReason::Closed);
                self.events.push(Event::Overflowed);
            }
        }

        fn write(&mut self, mut bytes: usize) {
            while bytes > 0 && !self.queue.is_empty() {
                let taken = bytes.min(self.queue[0].bytes_left);
                bytes -= taken;
                self.queue[0].bytes_left -= taken;
                self.queue[0].begun = true;
                if self.queue[0].bytes_left == 0 {
                    self.events.push(Event::Delivered(self.queue.remove(0).tag));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn it_behaves_like_the_model_and_the_stream_stays_in_step(steps in steps()) {
            let mut backlog = Backlog::default();
            let mut model = Model::default();
            let mut events = Vec::new();
            let mut written = Vec::new();
            let mut expected = Vec::new();
            for (tag, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push { class, bytes, state } => {
                        let pushed = backlog.push(&SMALL, queued(tag, class, bytes, state), |queued, reason| events.push(Event::Dropped(queued.tag, reason)));
                        if pushed.is_err() {
                            events.push(Event::Overflowed);
                        }
                        model.push(tag, class, bytes, state);
                    }
                    Step::Write(bytes) => {
                        let offered: Vec<u8> = backlog.slices().flat_map(|slice| slice.to_vec()).collect();
                        prop_assert_eq!(offered.len(), backlog.bytes());
                        let bytes = bytes.min(offered.len());
                        written.extend_from_slice(&offered[..bytes]);
                        backlog.advance(bytes, |queued| {
                            expected.extend_from_slice(&queued.frame);
                            events.push(Event::Delivered(queued.tag));
                        });
                        model.write(bytes);
                    }
                    Step::Close => {
                        backlog.close(|queued, reason| events.push(Event::Dropped(queued.tag, reason)));
                        prop_assert!(backlog.is_empty() && backlog.bytes() == 0);
                        model.events.extend(model.queue.drain(..).map(|entry| Event::Dropped(entry.tag, DropReason::Closed)));
                        // A new connection: what was cut off in the middle does not come again.
                        written = expected.clone();
                    }
                }
                prop_assert_eq!(&events, &model.events);
                prop_assert_eq!(tags(&backlog), model.queue.iter().map(|entry| entry.tag).collect::<Vec<_>>());
                prop_assert!(backlog.frames() <= SMALL.frames_max && backlog.bytes() <= SMALL.bytes_max);
                prop_assert!(written.starts_with(&expected), "whole frames, in the order in which they were delivered");
            }
        }
    }

    #[test]
    fn slices_begin_where_the_last_write_stopped() {
        let mut backlog = Backlog::default();
        push(&mut backlog, queued(7, Class::Event, 4, None)).1.unwrap();
        push(&mut backlog, queued(8, Class::Event, 4, None)).1.unwrap();
        backlog.advance(5, |queued| assert_eq!(queued.tag, 7));
        let slices: Vec<IoSlice<'_>> = backlog.slices().collect();
        assert_eq!(slices.iter().map(|slice| slice.len()).collect::<Vec<_>>(), [3]);
    }

    /// Its bytes name it, so that a stream out of step shows.
    fn queued(tag: usize, class: Class, bytes: usize, state: Option<(i64, &str)>) -> Queued<usize> {
        let state = state.map(|(room_id, key)| StateKey::new(room_id, key));
        #[expect(clippy::cast_possible_truncation, reason = "only to tell neighbours apart")]
        let frame = Bytes::from(vec![tag as u8; bytes]);
        Queued { frame, class, state, tag }
    }

    fn push(backlog: &mut Backlog<usize>, queued: Queued<usize>) -> (Vec<(usize, DropReason)>, Result<(), Overflow>) {
        let mut dropped = Vec::new();
        let pushed = backlog.push(&SMALL, queued, |queued, reason| dropped.push((queued.tag, reason)));
        (dropped, pushed)
    }

    fn tags(backlog: &Backlog<usize>) -> Vec<usize> {
        backlog.waiting().map(|queued| queued.tag).collect()
    }
}
