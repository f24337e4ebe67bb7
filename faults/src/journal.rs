//! What happened, one JSON object a line, written by a thread of its own.
//!
//! - Times are of one monotonic clock, in ms since the journal was opened: all clients of a run live in one process.
//! - The buffer is bounded. A line that finds no room makes the journal incomplete, and with it the run worthless: the checker's word counts
//!   only for [`Journal::finish`]ed journals.
//! - After the end nothing is written: how clients are put away is not part of a run.

use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

/// Lines waiting for the disk: some ten seconds of a run's load.
const LINES_MAX: usize = 65_536;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, ms since the journal was opened.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// Something that a client did or saw, or that was done to the cluster. `client` is one SDK client, `id` the load's own number of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// A client logged in.
    Connected {
        /// Which.
        client: u32,
        /// As whom.
        user: i64,
        /// At which gateway.
        node: String,
    },
    /// Its connection ended; it will try again.
    Disconnected {
        /// Which.
        client: u32,
        /// Why.
        cause: String,
    },
    /// Its session is over for good.
    Closed {
        /// Which.
        client: u32,
        /// Why.
        reason: String,
    },
    /// It is in a room, for the first time or again after a reconnect.
    Joined {
        /// Which.
        client: u32,
        /// Where.
        room: i64,
        /// The server said that messages are missing which it no longer has.
        gap: bool,
    },
    /// It has left.
    Left {
        /// Which.
        client: u32,
        /// Where.
        room: i64,
    },
    /// It sends a message to a room.
    SentRoom {
        /// Which.
        client: u32,
        /// The message.
        id: u64,
        /// Where to.
        room: i64,
        /// The id that the answer names.
        msg: String,
        /// When the call began: others may have seen it before this line was put.
        began_ms: u64,
    },
    /// It sends a message to one user.
    SentUser {
        /// Which.
        client: u32,
        /// The message.
        id: u64,
        /// Whom to.
        user: i64,
        /// The id that the answer names.
        msg: String,
        /// When the call began: others may have seen it before this line was put.
        began_ms: u64,
    },
    /// The server accepted a message.
    Acked {
        /// The sender.
        client: u32,
        /// Which message.
        msg: String,
        /// Its place in the room, where it was told.
        seq: Option<i64>,
    },
    /// The server refused a message.
    Refused {
        /// The sender.
        client: u32,
        /// Which message.
        msg: String,
        /// Why.
        reason: String,
    },
    /// The server refused to let a client into a room. It tries again, or it does not, by the reason.
    RoomRefused {
        /// Which.
        client: u32,
        /// Where to.
        room: i64,
        /// Why.
        reason: String,
    },
    /// The API accepted a push to a room.
    Pushed {
        /// The message.
        id: u64,
        /// Where to.
        room: i64,
        /// When the call began.
        began_ms: u64,
        /// Its place in the room, where it was told.
        seq: Option<i64>,
    },
    /// The API refused a push, or did not answer: it may have happened.
    PushFailed {
        /// The message.
        id: u64,
        /// Where to.
        room: i64,
        /// What was said.
        problem: String,
    },
    /// A client was shown a message.
    Seen {
        /// Which.
        client: u32,
        /// The message.
        id: u64,
        /// In which room; none: to this user alone.
        room: Option<i64>,
        /// Its place in the room.
        seq: Option<i64>,
    },
    /// It gives something of one coin to the anchor of a room. Put before the call: nothing can answer earlier.
    SentGift {
        /// Which.
        client: u32,
        /// Where.
        room: i64,
        /// The giver's id of it, which the answer names.
        uuid: String,
        /// When the call began.
        began_ms: u64,
    },
    /// A client was shown gifts.
    SeenGifts {
        /// Which.
        client: u32,
        /// In which room.
        room: i64,
        /// Their places among the gifts of the room.
        places: Vec<i64>,
    },
    /// When all was quiet, this gift stood in the ledger.
    Paid {
        /// Where.
        room: i64,
        /// Its place among the gifts of the room.
        place: i64,
        /// Who gave it.
        user: i64,
        /// The giver's id of it.
        uuid: String,
        /// What it cost.
        coins: i64,
    },
    /// When all was quiet, this is what a user had.
    Purse {
        /// Who.
        user: i64,
        /// Coins at first.
        had: i64,
        /// Coins now.
        has: i64,
    },
    /// The end of what the ledger said when all was quiet.
    Books {
        /// All balances together.
        sum: i64,
        /// The lowest balance of a user.
        lowest: i64,
        /// Entries of gifts.
        entries: i64,
    },
    /// A fault begins.
    FaultBegan {
        /// Which repeat.
        repeat: u32,
        /// What is done, to whom.
        detail: String,
        /// Chat may be accepted meanwhile that no log keeps: the shared state is away.
        is_store_away: bool,
        /// The node that it is done to, where it is one.
        #[serde(default)]
        victim: Option<String>,
    },
    /// A fault is over: what was killed runs again.
    FaultEnded {
        /// Which repeat.
        repeat: u32,
    },
    /// Every node says that it is ready.
    Ready {
        /// After which repeat.
        repeat: u32,
        /// How long after the end of the fault.
        after_ms: u64,
    },
    /// A node that was asked to stop has stopped.
    Exited {
        /// Which.
        node: String,
        /// How long after it was asked.
        after_ms: u64,
    },
    /// Users whose gateway, or path to it, died and who did not come back are offline.
    Offline {
        /// By which repeat.
        repeat: u32,
        /// How long after; none: they are not.
        after_ms: Option<u64>,
    },
    /// Both ends have given up the connections of a path that carries nothing.
    GivenUp {
        /// Which repeat.
        repeat: u32,
        /// How long after; none: they have not.
        after_ms: Option<u64>,
    },
    /// A router came or went, and rooms have other owners than before.
    Moved {
        /// By which repeat.
        repeat: u32,
        /// Rooms whose owners were known before and after.
        rooms: u64,
        /// Of these, how many have another.
        moved: u64,
        /// Of these, how many left a router that stayed for another that was there before.
        aside: u64,
    },
    /// Every node is ready and every client connected again.
    Recovered {
        /// Which repeat.
        repeat: u32,
    },
}

/// The writing end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    began: Instant,
    lines: Mutex<Option<SyncSender<Entry>>>,
    writer: Mutex<Option<JoinHandle<io::Result<()>>>>,
    is_incomplete: AtomicBool,
    last_ms: AtomicU64,
}

/// Why a journal proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk was too slow for the load.
    #[error("the journal has lost lines: this machine is too slow for the load")]
    Incomplete,
    /// The file cannot be written or read.
    #[error("the journal cannot be used")]
    File(#[from] io::Error),
    /// A line is none.
    #[error("line {line} of the journal cannot be read")]
    Line {
        /// Which, from 1.
        line: usize,
        /// Why.
        #[source]
        cause: serde_json::Error,
    },
}

impl Journal {
    /// Opens a new one at `path`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> Result<Self, JournalError> {
        let file = File::create(path)?;
        let (lines, waiting) = sync_channel(LINES_MAX);
        let writer = thread::spawn(move || write(file, &waiting));
        let inner = Inner {
            began: Instant::now(),
            lines: Mutex::new(Some(lines)),
            writer: Mutex::new(Some(writer)),
            is_incomplete: AtomicBool::new(false),
            last_ms: AtomicU64::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Ms since it was opened.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.inner.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When the last line was put, ms since it was opened.
    #[must_use]
    pub fn last_ms(&self) -> u64 {
        self.inner.last_ms.load(Ordering::Relaxed)
    }

    /// Puts a line, at this moment. Never waits.
    pub fn put(&self, what: What) {
        // Time and place are taken together, so that the journal is in the order of its times.
        let lines = self.inner.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lines) = lines.as_ref() else { return };
        let at_ms = self.now_ms();
        self.inner.last_ms.store(at_ms, Ordering::Relaxed);
        match lines.try_send(Entry { at_ms, what }) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.inner.is_incomplete.store(true, Ordering::Relaxed),
        }
    }

    /// Writes what is left; what is put from here on is not part of the run.
    ///
    /// # Errors
    /// When lines were lost, or the disk failed.
    pub fn finish(&self) -> Result<(), JournalError> {
        drop(self.inner.lines.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            writer.join().map_err(|_| JournalError::Incomplete)??;
        }
        if self.inner.is_incomplete.load(Ordering::Relaxed) { Err(JournalError::Incomplete) } else { Ok(()) }
    }
}

fn write(file: File, waiting: &Receiver<Entry>) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    for entry in waiting {
        serde_json::to_writer(&mut file, &entry)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

/// Reads a finished journal.
///
/// # Errors
/// When it cannot be read, or a line is none.
pub fn read(path: &Path) -> Result<Vec<Entry>, JournalError> {
    let mut entries = Vec::new();
    for (index, line) in BufReader::new(File::open(path)?).lines().enumerate() {
        entries.push(serde_json::from_str(&line?).map_err(|cause| JournalError::Line { line: index + 1, cause })?);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::{Journal, What, read};

    #[test]
    fn what_is_put_is_read_in_order_and_nothing_after_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let journal = Journal::create(&path).unwrap();
        let seen = |id| What::Seen { client: 1, id, room: Some(7), seq: Some(9) };
        (0..100).for_each(|id| journal.put(seen(id)));
        journal.finish().unwrap();
        journal.put(seen(100));
        let entries = read(&path).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.what.clone()).collect::<Vec<_>>(), (0..100).map(seen).collect::<Vec<_>>());
        assert!(entries.is_sorted_by_key(|entry| entry.at_ms));
    }
}
