//! The hand-over between a shard and the task that owns a QUIC connection: to the shard what a socket is, readiness included.
//!
//! ```text
//!              ┌ answers ┐
//!   shard ─ offer ─► class 0 … 3 ─► task ─► one stream each
//!   shard ◄─ read ── bytes ◄─ task ◄─ the client's stream
//! ```
//!
//! - Downward go whole frames, each on its way: taken or not, never a part of one. Upward go bytes, as a socket would give them.
//! - Both directions are bounded. What may be dropped has a bound of its own, so that chat which nobody reads never keeps a gift waiting here.
//! - Neither side waits for the other. The task is woken by its waker; the shard by its [`Ready`] list, on which a connection stands once at most.
//! - A lock is held for moving some pointers and nothing else, and none is taken while another is held.

use billfish_wire::{Class, Reason};
use bytes::Bytes;
use mio::Token;
use std::{
    collections::VecDeque,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
};

/// Which stream a frame goes out on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The client's own stream: what the session says, and the answers to what it was asked.
    Answers,
    /// The stream of a class.
    Push(Class),
}

impl Way {
    pub(super) const COUNT: usize = 1 + Class::ALL.len();
    /// The most important first.
    pub(super) const ALL: [Self; Self::COUNT] =
        [Self::Answers, Self::Push(Class::Control), Self::Push(Class::Event), Self::Push(Class::Chat), Self::Push(Class::Ambient)];

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Answers => 0,
            Self::Push(class) => 1 + class as usize,
        }
    }

    pub(super) const fn share(self) -> usize {
        match self {
            Self::Push(Class::Chat | Class::Ambient) => LOOSE,
            Self::Answers | Self::Push(Class::Control | Class::Event) => FIRM,
        }
    }
}

/// What may not be dropped.
const FIRM: usize = 0;
/// What may.
const LOOSE: usize = 1;
/// Bytes of each of the two that are handed over and not written, the last frame apart: some round trips of what a phone takes.
pub(super) const SHARE_BYTES_MAX: usize = 32 * 1024;
/// Bytes from the client that the shard has not read, the last packet apart.
pub(super) const UP_BYTES_MAX: usize = 16 * 1024;

/// The connections of a shard that have something for it.
pub(crate) struct Ready {
    list: Mutex<Vec<Token>>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Ready {
    /// `wake` is called when the list is no longer empty.
    pub(crate) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { list: Mutex::default(), wake: Box::new(wake) }
    }

    fn push(&self, token: Token) {
        let was_empty = {
            let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
            list.push(token);
            list.len() == 1
        };
        if was_empty {
            (self.wake)();
        }
    }

    /// Takes everyone on the list, in exchange for an empty one.
    pub(crate) fn take(&self, into: &mut Vec<Token>) {
        debug_assert!(into.is_empty(), "who was taken has been looked at");
        std::mem::swap(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner), into);
    }
}

impl fmt::Debug for Ready {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Ready")
    }
}

#[derive(Debug)]
struct Lane {
    state: Mutex<State>,
    ready: Arc<Ready>,
}

#[derive(Debug, Default)]
struct State {
    down: [VecDeque<Bytes>; Way::COUNT],
    /// Handed over and not written, by share.
    down_bytes: [usize; 2],
    /// The shard was turned away, by share: it wants to be told of room.
    is_refused: [bool; 2],
    up: Vec<u8>,
    /// The task has more than fits.
    is_up_full: bool,
    end: Option<LaneEnd>,
    /// As the shard knows the connection.
    token: Option<Token>,
    /// It stands on the shard's list.
    is_announced: bool,
    goodbye: Option<Goodbye>,
    task: Option<Waker>,
}

/// Nothing more comes from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneEnd {
    /// It has said so.
    Closed,
    /// The connection broke.
    Failed,
}

/// The shard is done with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Goodbye {
    pub(super) reason: Reason,
    /// What was handed over is to be written first.
    pub(super) has_words: bool,
}

/// A hand-over to the shard with this list: the shard's end and the task's.
pub(super) fn lane(ready: Arc<Ready>) -> (ShardEnd, TaskEnd) {
    let lane = Arc::new(Lane { state: Mutex::default(), ready });
    (ShardEnd(Arc::clone(&lane)), TaskEnd(lane))
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts the connection on the shard's list, unless it stands there: the token is to be pushed when the lock is given back.
    fn announce(&mut self) -> Option<Token> {
        if self.is_announced {
            return None;
        }
        let token = self.token?;
        self.is_announced = true;
        Some(token)
    }
}

/// What the shard holds of a QUIC connection. The connection ends with it.
#[derive(Debug)]
pub(crate) struct ShardEnd(Arc<Lane>);

/// What has become of a connection that stood on the list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    /// Nothing more comes behind what can be read.
    pub(crate) is_at_end: bool,
    /// What was turned away may be offered again.
    pub(crate) has_room: bool,
}

impl ShardEnd {
    /// From now on the shard is told under this name.
    pub(crate) fn register(&self, token: Token) {
        let announced = {
            let mut state = self.0.lock();
            state.token = Some(token);
            if state.up.is_empty() && state.end.is_none() { None } else { state.announce() }
        };
        if let Some(token) = announced {
            self.0.ready.push(token);
        }
    }

    /// The shard looks at the connection: from here on it is announced anew.
    pub(crate) fn hear(&self) -> Heard {
        let mut state = self.0.lock();
        state.is_announced = false;
        let has_room = state.has_room();
        if has_room {
            // Asked for anew by whoever is turned away again.
            state.is_refused = [false; 2];
        }
        Heard { is_at_end: state.end.is_some(), has_room }
    }

    /// Reads as from a socket: 0 is the end, `WouldBlock` means that the list will say when.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (read, task) = {
            let mut state = self.0.lock();
            if state.up.is_empty() {
                return match state.end {
                    None => Err(io::ErrorKind::WouldBlock.into()),
                    Some(LaneEnd::Closed) => Ok(0),
                    Some(LaneEnd::Failed) => Err(io::ErrorKind::ConnectionReset.into()),
                };
            }
            let read = buffer.len().min(state.up.len());
            buffer[..read].copy_from_slice(&state.up[..read]);
            if read == state.up.len() {
                state.up = Vec::new();
            } else {
                state.up.drain(..read);
            }
            let is_awaited = state.is_up_full && state.up.len() < UP_BYTES_MAX;
            (read, is_awaited.then(|| std::mem::take(&mut state.is_up_full)).and_then(|_| state.task.take()))
        };
        if let Some(task) = task {
            task.wake();
        }
        Ok(read)
    }

    /// Offers frames; the task hears of them when the offer is over.
    pub(crate) fn offer(&self) -> Offer<'_> {
        Offer { state: Some(self.0.lock()) }
    }

    /// The shard is done. `words` go behind everything that was handed over; without `has_words` nothing is written any more.
    pub(crate) fn leave(&self, words: Vec<u8>, reason: Reason, has_words: bool) {
        let task = {
            let mut state = self.0.lock();
            if state.goodbye.is_some() {
                return;
            }
            if has_words && !words.is_empty() {
                state.down_bytes[FIRM] += words.len();
                state.down[Way::Answers.index()].push_back(Bytes::from(words));
            }
            state.goodbye = Some(Goodbye { reason, has_words });
            state.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl Drop for ShardEnd {
    fn drop(&mut self) {
        // For whoever was never taken in.
        self.leave(Vec::new(), Reason::Unavailable, false);
    }
}

/// Frames that are handed over together.
pub(crate) struct Offer<'a> {
    state: Option<MutexGuard<'a, State>>,
}

impl Offer<'_> {
    /// Hands over one frame, whole; `false`: there is no room on its way, and the list will say when there is. A share that was full stays
    /// so until half of it is written, and for the rest of this offer: nothing overtakes on its way.
    pub(crate) fn take(&mut self, way: Way, frame: &Bytes) -> bool {
        let Some(state) = &mut self.state else { return false };
        let share = way.share();
        let is_still_full = state.is_refused[share] && state.down_bytes[share] > SHARE_BYTES_MAX / 2;
        state.is_refused[share] = is_still_full || state.down_bytes[share] >= SHARE_BYTES_MAX;
        if state.is_refused[share] {
            return false;
        }
        state.down_bytes[share] += frame.len();
        state.down[way.index()].push_back(frame.clone());
        true
    }
}

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        let task = self.state.take().and_then(|mut state| {
            let is_news = state.down.iter().any(|frames| !frames.is_empty());
            if is_news { state.task.take() } else { None }
        });
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl State {
    /// Whether a share that turned the shard away is half empty again.
    fn has_room(&self) -> bool {
        (FIRM..=LOOSE).any(|share| self.is_refused[share] && self.down_bytes[share] <= SHARE_BYTES_MAX / 2)
    }
}

/// What the task holds.
#[derive(Debug)]
pub(super) struct TaskEnd(Arc<Lane>);

impl TaskEnd {
    /// Takes what is to be written, behind what is still pending, and has the task woken when there is more.
    pub(super) fn take(&self, context: &Context<'_>, pending: &mut [VecDeque<Bytes>; Way::COUNT]) -> Option<Goodbye> {
        let mut state = self.0.lock();
        if !state.task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            state.task = Some(context.waker().clone());
        }
        for (pending, handed) in pending.iter_mut().zip(&mut state.down) {
            // Taken whole, so that an idle connection keeps no queue here.
            let mut handed = std::mem::take(handed);
            if pending.is_empty() {
                *pending = handed;
            } else {
                pending.append(&mut handed);
            }
        }
        state.goodbye
    }

    /// So many bytes were written: there may be room.
    pub(super) fn wrote(&self, way: Way, bytes: usize) {
        let announced = {
            let mut state = self.0.lock();
            let share = way.share();
            debug_assert!(state.down_bytes[share] >= bytes, "only what was handed over is written");
            state.down_bytes[share] = state.down_bytes[share].saturating_sub(bytes);
            if state.has_room() { state.announce() } else { None }
        };
        if let Some(token) = announced {
            self.0.ready.push(token);
        }
    }

    /// Whether bytes of the client may be brought; if not, the task is woken when they may.
    pub(super) fn has_room(&self, context: &Context<'_>) -> bool {
        let mut state = self.0.lock();
        if state.up.len() < UP_BYTES_MAX {
            return true;
        }
        state.is_up_full = true;
        state.task = Some(context.waker().clone());
        false
    }

    /// Bytes of the client.
    pub(super) fn bring(&self, bytes: &[u8]) {
        self.tell(|state| state.up.extend_from_slice(bytes));
    }

    /// Nothing more comes.
    pub(super) fn end(&self, end: LaneEnd) {
        self.tell(|state| state.end = Some(state.end.unwrap_or(end)));
    }

    fn tell(&self, change: impl FnOnce(&mut State)) {
        let announced = {
            let mut state = self.0.lock();
            change(&mut state);
            state.announce()
        };
        if let Some(token) = announced {
            self.0.ready.push(token);
        }
    }
}

impl Drop for TaskEnd {
    fn drop(&mut self) {
        // A task that was cancelled: the shard is not to wait for it.
        self.end(LaneEnd::Failed);
    }
}

#[cfg(test)]
mod tests {
    use super::{LaneEnd, Ready, SHARE_BYTES_MAX, UP_BYTES_MAX, Way, lane};
    use billfish_wire::{Class, Reason};
    use bytes::Bytes;
    use mio::Token;
    use std::{
        io::ErrorKind,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering::SeqCst},
        },
        task::{Context, Wake, Waker},
    };

    /// Counts how often the task is woken.
    #[derive(Default)]
    struct Task(AtomicU32);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn heard(ready: &Ready) -> Vec<Token> {
        let mut heard = Vec::new();
        ready.take(&mut heard);
        heard
    }

    #[test]
    fn what_comes_is_announced_once_and_read_as_from_a_socket() {
        let woken = Arc::new(AtomicU32::new(0));
        let counts = Arc::clone(&woken);
        let ready = Arc::new(Ready::new(move || {
            counts.fetch_add(1, SeqCst);
        }));
        let (shard, task) = lane(Arc::clone(&ready));
        task.bring(b"before");
        assert!(heard(&ready).is_empty(), "nobody knows it yet");
        shard.register(Token(7));
        task.bring(b" and behind");
        assert_eq!((heard(&ready), woken.load(SeqCst)), (vec![Token(7)], 1));
        assert!(!shard.hear().is_at_end);
        let mut buffer = [0; 10];
        assert_eq!(shard.read(&mut buffer).unwrap(), 10);
        assert_eq!(&buffer, b"before and");
        assert_eq!(shard.read(&mut buffer).unwrap(), 7);
        assert_eq!(shard.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
        task.bring(b"last");
        task.end(LaneEnd::Closed);
        assert_eq!(heard(&ready), [Token(7)]);
        assert!(shard.hear().is_at_end);
        assert_eq!(shard.read(&mut buffer).unwrap(), 4);
        assert_eq!(shard.read(&mut buffer).unwrap(), 0);
    }

    #[test]
    fn the_task_stops_bringing_and_is_woken_when_there_is_room() {
        let ready = Arc::new(Ready::new(|| {}));
        let (shard, task) = lane(ready);
        let counts = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&counts));
        let context = Context::from_waker(&waker);
        while task.has_room(&context) {
            task.bring(&[0; 5_000]);
        }
        let mut buffer = vec![0; UP_BYTES_MAX * 2];
        assert_eq!(shard.read(&mut buffer[..1]).unwrap(), 1);
        assert_eq!(counts.0.load(SeqCst), 0, "still full");
        assert_eq!(shard.read(&mut buffer).unwrap(), 19_999);
        assert_eq!(counts.0.load(SeqCst), 1);
        assert!(task.has_room(&context));
    }

    /// Chat has a bound of its own, and a share that was full is offered to again when half of it is written.
    #[test]
    fn frames_are_taken_whole_until_their_share_is_full() {
        let ready = Arc::new(Ready::new(|| {}));
        let (shard, task) = lane(Arc::clone(&ready));
        shard.register(Token(7));
        let counts = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&counts));
        let mut pending = Default::default();
        assert!(task.take(&Context::from_waker(&waker), &mut pending).is_none());
        let frame = Bytes::from(vec![0; 1_000]);
        let chat = Way::Push(Class::Chat);
        let mut taken = 0;
        {
            let mut offer = shard.offer();
            while offer.take(chat, &frame) {
                taken += 1;
            }
            assert!(!offer.take(Way::Push(Class::Ambient), &Bytes::from_static(b"x")), "they share it");
            assert!(offer.take(Way::Push(Class::Event), &frame) && offer.take(Way::Answers, &frame));
        }
        assert_eq!((taken, counts.0.load(SeqCst)), (SHARE_BYTES_MAX.div_ceil(1_000), 1));
        task.take(&Context::from_waker(&waker), &mut pending);
        assert_eq!(pending.each_ref().map(|frames| frames.len()), [1, 0, 1, taken, 0]);
        task.wrote(chat, SHARE_BYTES_MAX / 2 - 1_000);
        assert!(heard(&ready).is_empty());
        assert!(!shard.offer().take(chat, &frame), "less than half is written");
        task.wrote(chat, 2_000);
        assert_eq!(heard(&ready), [Token(7)]);
        assert!(shard.hear().has_room);
        assert!(shard.offer().take(chat, &frame));
        assert!(!shard.hear().has_room, "nobody waits");
    }

    #[test]
    fn either_end_hears_of_the_others() {
        let ready = Arc::new(Ready::new(|| {}));
        let (shard, task) = lane(Arc::clone(&ready));
        let mut pending = Default::default();
        let context = Context::from_waker(Waker::noop());
        shard.leave(b"words".to_vec(), Reason::TooSlow, true);
        shard.leave(b"more".to_vec(), Reason::Internal, true);
        drop(shard);
        let goodbye = task.take(&context, &mut pending).unwrap();
        assert_eq!((goodbye.reason, goodbye.has_words), (Reason::TooSlow, true));
        assert_eq!(pending[0], [Bytes::from_static(b"words")]);

        let (shard, task) = lane(Arc::clone(&ready));
        drop(shard);
        assert!(!task.take(&context, &mut pending).unwrap().has_words, "never taken in");

        let (shard, task) = lane(Arc::clone(&ready));
        shard.register(Token(9));
        drop(task);
        assert_eq!(heard(&ready), [Token(9)]);
        assert_eq!(shard.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
