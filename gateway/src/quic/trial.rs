//! The hand-over of a QUIC connection under any order of events that bytes can describe: a network that brings and takes pieces of any size, a
//! task that runs when it is woken, and a shard that looks when it is told. For tests and for the fuzz target `quic_streams`.
//!
//! ```text
//!   input: one byte, the number of events · the events, a byte each · what the client says on its stream
//!   event: what happens in the lower three bits, how much of it in the upper five
//! ```
//!
//! What must hold, whatever the order:
//! - The client's frames, and the error they end with, are those of its stream in one piece.
//! - On each stream there is its class, and then every frame that was taken for it, whole and in the order in which they were taken.
//! - What is kept between the two is bounded, in both directions.
//! - Nobody waits for ever: who has something to do is woken or stands on the list.

use super::{
    lane::{LaneEnd, Ready, SHARE_BYTES_MAX, ShardEnd, TaskEnd, UP_BYTES_MAX, Way, lane},
    pending::Pending,
};
use billfish_wire::{Reason, Reassembler};
use bytes::Bytes;
use mio::Token;
use std::{
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Wake, Waker},
};

/// What a task takes of a stream at a time, as in `task`.
const READ_BYTES: usize = 4 * 1024;
/// What a shard reads at a time.
const BUFFER_BYTES: usize = 1024;
/// Small, so that frames of the limit and of a byte more are found.
const BODY_BYTES_MAX: usize = 200;
/// The largest frame that is offered.
const FRAME_BYTES_MAX: usize = 12 * 1024;
const TOKEN: Token = Token(7);

/// Whether somebody has been woken.
#[derive(Debug, Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// Frames of the client, each with its code, and what was wrong behind the last.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    frames: Vec<(i32, Vec<u8>)>,
    error: Option<Reason>,
}

impl Heard {
    fn feed(&mut self, reassembler: &mut Reassembler, piece: &[u8]) {
        if self.error.is_some() {
            return;
        }
        let mut frames = reassembler.feed(piece);
        loop {
            match frames.next(BODY_BYTES_MAX) {
                Ok(Some(frame)) => self.frames.push((frame.code, frame.body.to_vec())),
                Ok(None) => return,
                Err(error) => {
                    self.error = Some(error.reason());
                    return;
                }
            }
        }
    }
}

/// Both ends and what is around them.
struct Trial<'a> {
    /// `None` when it has left.
    shard: Option<ShardEnd>,
    task: TaskEnd,
    ready: Arc<Ready>,
    bell: Arc<Bell>,
    waker: Waker,
    pending: Pending,
    /// What the client says, and how much of it the network has brought and the task has passed on.
    stream: &'a [u8],
    arrived: usize,
    passed_on: usize,
    is_end_passed_on: bool,
    /// What the shard has read of it.
    read: usize,
    reassembler: Reassembler,
    heard: Heard,
    /// The shard has been told, and has not read all there was.
    is_readable: bool,
    /// It has heard that the stream has an end, and then has read to it.
    is_at_end: bool,
    is_ended: bool,
    /// Bytes that the network takes yet, what it has taken, and what it should have: by way.
    credit: [usize; Way::COUNT],
    wire: [Vec<u8>; Way::COUNT],
    owed: [Vec<u8>; Way::COUNT],
    is_open: [bool; Way::COUNT],
    offered: usize,
    /// The shard was turned away and has not heard of room since, by share.
    is_turned_away: [bool; 2],
}

/// Goes through what the input describes, and checks all that must hold.
///
/// # Panics
/// When it does not.
pub(crate) fn stream_adapter(input: &[u8]) {
    let Some((&count, rest)) = input.split_first() else { return };
    let (events, stream) = rest.split_at(usize::from(count).min(rest.len()));
    let mut trial = Trial::new(stream);
    for &event in events {
        trial.happen(event & 7, usize::from(event >> 3));
        trial.check_bounds();
    }
    trial.settle();
}

impl<'a> Trial<'a> {
    fn new(stream: &'a [u8]) -> Self {
        let ready = Arc::new(Ready::new(|| {}));
        let (shard, task) = lane(Arc::clone(&ready));
        shard.register(TOKEN);
        // A task runs once when it is made.
        let bell = Arc::new(Bell(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&bell));
        Self {
            shard: Some(shard),
            task,
            ready,
            bell,
            waker,
            pending: Pending::default(),
            stream,
            arrived: 0,
            passed_on: 0,
            is_end_passed_on: false,
            read: 0,
            reassembler: Reassembler::default(),
            heard: Heard::default(),
            is_readable: false,
            is_at_end: false,
            is_ended: false,
            credit: [0; Way::COUNT],
            wire: Default::default(),
            owed: Default::default(),
            is_open: [false; Way::COUNT],
            offered: 0,
            is_turned_away: [false; 2],
        }
    }

    fn happen(&mut self, what: u8, size: usize) {
        match what {
            0 => {
                self.arrived = self.stream.len().min(self.arrived + 1 + size * size * 13);
                self.task_turn();
            }
            1 => self.shard_turn(1 + size * BUFFER_BYTES / 31),
            2 | 3 => drop(self.offer(Way::ALL[size % Way::COUNT], 1 + (self.offered * 977 + size * 401) % FRAME_BYTES_MAX)),
            4 => {
                self.credit[size % Way::COUNT] += 1 + size * size * 31;
                self.task_turn();
            }
            5 => {
                self.credit.iter_mut().for_each(|credit| *credit += size * 17);
                self.task_turn();
            }
            // For nothing, as a waker may.
            6 => self.task_turn(),
            _ if size == 31 => self.leave(),
            // As much as a way takes.
            _ => while self.offer(Way::ALL[size % Way::COUNT], FRAME_BYTES_MAX) {},
        }
    }

    /// What `Carrier::poll_turn` does.
    fn task_turn(&mut self) {
        self.bell.0.store(false, SeqCst);
        let waker = self.waker.clone();
        let context = Context::from_waker(&waker);
        while self.passed_on < self.arrived && self.task.has_room(&context) {
            let until = self.arrived.min(self.passed_on + READ_BYTES);
            self.task.bring(&self.stream[self.passed_on..until]);
            self.passed_on = until;
        }
        if self.arrived == self.stream.len() && self.passed_on == self.arrived && !self.is_end_passed_on && self.task.has_room(&context) {
            self.task.end(LaneEnd::Closed);
            self.is_end_passed_on = true;
        }
        self.task.take(&context, self.pending.frames_mut());
        for way in Way::ALL {
            let at = way.index();
            while !self.pending.is_empty(way) {
                if let Way::Push(class) = way
                    && !std::mem::replace(&mut self.is_open[at], true)
                {
                    self.pending.name(class);
                }
                if self.credit[at] == 0 {
                    break;
                }
                let (mut chunks, mut bytes) = (0, 0);
                for chunk in self.pending.chunks(way) {
                    let taken = chunk.len().min(self.credit[at]);
                    self.credit[at] -= taken;
                    bytes += taken;
                    self.wire[at].extend_from_slice(&chunk.split_to(taken));
                    if !chunk.is_empty() {
                        break;
                    }
                    chunks += 1;
                }
                let handed_over = self.pending.wrote(way, chunks, bytes);
                self.task.wrote(way, handed_over);
            }
        }
    }

    /// What a shard does: it looks at who stands on its list, and reads as long as its buffer is filled.
    fn shard_turn(&mut self, buffer_bytes: usize) {
        let mut told = Vec::new();
        self.ready.take(&mut told);
        let Some(shard) = &self.shard else { return };
        assert!(told.len() <= 1, "it stands there once");
        if !told.is_empty() {
            let heard = shard.hear();
            self.is_readable = true;
            self.is_at_end |= heard.is_at_end;
            if heard.has_room {
                self.is_turned_away = [false; 2];
            }
        }
        if !self.is_readable || self.is_ended {
            return;
        }
        let mut buffer = vec![0; buffer_bytes];
        match shard.read(&mut buffer) {
            Ok(0) => self.is_ended = true,
            Ok(read) => {
                assert_eq!(buffer[..read], self.stream[self.read..self.read + read], "what the client says, in its order");
                self.read += read;
                self.heard.feed(&mut self.reassembler, &buffer[..read]);
                // As the shard does: a buffer that is not full means that there is no more, unless the end is known.
                self.is_readable = read == buffer.len() || self.is_at_end;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                self.is_readable = false;
            }
        }
    }

    /// Whether it was taken.
    fn offer(&mut self, way: Way, bytes: usize) -> bool {
        let Some(shard) = &self.shard else { return false };
        self.offered += 1;
        let frame = Bytes::from(vec![self.offered.to_le_bytes()[0]; bytes]);
        let is_taken = shard.offer().take(way, &frame);
        if is_taken {
            self.owed[way.index()].extend_from_slice(&frame);
        }
        self.is_turned_away[way.share()] = !is_taken;
        is_taken
    }

    fn leave(&mut self) {
        let Some(shard) = self.shard.take() else { return };
        let words = b"the last words".to_vec();
        self.owed[Way::Answers.index()].extend_from_slice(&words);
        shard.leave(words, Reason::TooSlow, true);
    }

    fn check_bounds(&self) {
        let unwritten =
            |ways: &[Way]| ways.iter().map(|way| self.owed[way.index()].len().saturating_sub(self.written(*way))).sum::<usize>();
        let [answers, control, event, chat, ambient] = Way::ALL;
        // The words of who leaves go behind everything, whatever there is.
        assert!(unwritten(&[answers, control, event]) < SHARE_BYTES_MAX + FRAME_BYTES_MAX + READ_BYTES);
        assert!(unwritten(&[chat, ambient]) < SHARE_BYTES_MAX + FRAME_BYTES_MAX);
        assert!(self.passed_on - self.read < UP_BYTES_MAX + READ_BYTES);
    }

    /// Of what was owed on a way, its class apart.
    fn written(&self, way: Way) -> usize {
        let named = matches!(way, Way::Push(_)) && !self.wire[way.index()].is_empty();
        self.wire[way.index()].len() - usize::from(named)
    }

    /// The network brings and takes all there is, once, and from then on each does something only when it is told. All of it comes to an end.
    fn settle(&mut self) {
        // Where something comes, or is taken that could not be, the network wakes the task; for all else it must have been woken.
        let is_news = self.arrived < self.stream.len() || !self.pending.is_all_written();
        self.bell.0.fetch_or(is_news, SeqCst);
        self.arrived = self.stream.len();
        self.credit = [usize::MAX / 2; Way::COUNT];
        loop {
            let is_woken = self.bell.0.load(SeqCst);
            if is_woken {
                self.task_turn();
            }
            let before = (self.read, self.is_readable, self.is_ended, self.is_turned_away);
            self.shard_turn(BUFFER_BYTES);
            if !is_woken && before == (self.read, self.is_readable, self.is_ended, self.is_turned_away) {
                break;
            }
        }
        for way in Way::ALL {
            let wire = &self.wire[way.index()];
            let frames = match (way, wire.split_first()) {
                (Way::Push(class), Some((first, frames))) => {
                    assert_eq!(*first, class as u8, "the class comes first");
                    frames
                }
                _ => wire,
            };
            assert!(frames == self.owed[way.index()], "{way:?}: {} bytes of {}", frames.len(), self.owed[way.index()].len());
        }
        assert!(self.pending.is_all_written());
        if self.shard.is_none() {
            return;
        }
        assert!(self.is_ended && self.read == self.stream.len(), "{} of {} read", self.read, self.stream.len());
        assert_eq!(self.is_turned_away, [false; 2], "there is room, and the shard has not heard of it");
        let mut whole = Heard::default();
        whole.feed(&mut Reassembler::default(), self.stream);
        assert_eq!(self.heard, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::stream_adapter;
    use proptest::prelude::*;
    use std::{fs, path::Path};

    #[test]
    fn every_seed_of_the_fuzz_target_holds() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/quic_streams");
        let mut count = 0;
        for seed in fs::read_dir(seeds).unwrap() {
            stream_adapter(&fs::read(seed.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count >= 10, "{count} seeds");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn any_order_of_events_holds(
            events in proptest::collection::vec(any::<u8>(), 0..200),
            says in proptest::collection::vec(any::<u8>(), 0..40_000),
        ) {
            let input = [&[u8::try_from(events.len()).unwrap()][..], &events, &says].concat();
            stream_adapter(&input);
        }
    }
}
