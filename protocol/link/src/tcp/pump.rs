//! The task of a TCP link: envelopes between its halves and its socket.
//!
//! - Credit is room: for each envelope the peer may send, a place in the application's queue is reserved beforehand, so the reader
//!   never waits for the application, and pings are heard however busy it is. Places that the application has emptied are
//!   reserved again in batches, and returned as credit.
//! - The writer knows how large the envelopes were that the peer has not given back yet, and counts their bytes as well: the peer's memory is bounded by
//!   both. Envelopes are consumed in order, so credit for one is for the oldest.
//! - The writer drains its queue whole and writes once. Without credit, or with too many bytes under way, it leaves the queue alone, which fills, and the sender waits.
//! - Either half's end is the end of both; a closing link first writes what it was given, for at most `flush`.

use super::{ENVELOPE_BYTES_MAX, Timing, codec};
use crate::message::{Credit, Ping, envelope::Kind};
use crate::{CREDIT_ENVELOPES, IN_FLIGHT_BYTES_MAX, InFlight, LinkError};
use bytes::BytesMut;
use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{PermitIterator, Receiver, Sender};
use tokio::sync::{Notify, futures::Notified};
use tokio::time::{Instant, sleep_until, timeout};

/// The smallest credit: below, no batch of it could be returned while the rest is in use.
pub(super) const CREDIT_MIN: usize = 2;
/// Credit is returned in parts of this share, and of no more envelopes: often enough that a steady sender never stops, also one whose envelopes are
/// all as large as may be, seldom enough to cost nothing.
const CREDIT_PARTS: usize = 8;
const CREDIT_PART_MAX: usize = 64;
const _: () = assert!(CREDIT_PART_MAX * ENVELOPE_BYTES_MAX <= IN_FLIGHT_BYTES_MAX, "a sender out of bytes must be owed a whole part");
/// Room kept for reading: some hundred envelopes, or a part of a large one.
const READ_BYTES: usize = 64 * 1024;
/// One write is not made larger by further envelopes: beyond this, joining gains nothing, and holds memory.
const WRITE_BYTES: usize = 256 * 1024;

/// What the reader tells the writer. Each is a level or a sum, so one wake-up may stand for many.
#[derive(Debug, Default)]
struct Notes {
    /// Credit the peer has given and the writer not yet taken.
    granted: AtomicUsize,
    /// Places reserved that the peer has not been told of.
    to_return: AtomicUsize,
    /// Whether `ping_nonce` waits to be answered; of several pings the last is.
    ping: AtomicBool,
    ping_nonce: AtomicU64,
    /// The application has dropped its receiver: write what is there, then close.
    closing: AtomicBool,
    wake: Notify,
}

impl Notes {
    fn woken(&self) -> Notified<'_> {
        self.wake.notified()
    }
}

#[expect(clippy::too_many_arguments, reason = "called once; a struct for it would be taken apart in the next line")]
pub(super) async fn run<R, W>(
    reader: R,
    writer: W,
    input: BytesMut,
    address: String,
    inbound: Sender<Kind>,
    outbound: Receiver<Kind>,
    credit: usize,
    in_flight: InFlight,
    timing: Timing,
) -> Result<(), LinkError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let notes = Notes::default();
    let mut reading = Reading { reader, input, address: &address, notes: &notes, timing };
    let sizes = VecDeque::new();
    let mut writing =
        Writing { writer, output: BytesMut::new(), address: &address, notes: &notes, timing, credit, sizes, bytes: 0, in_flight, nonce: 0 };
    let ended = {
        let mut read = pin!(reading.run(&inbound));
        tokio::select! {
            read = &mut read => read,
            written = writing.run(outbound) => match written {
                // All is written and said to be. Until the peer has seen that, its bytes are still taken: a socket closed over
                // unread bytes resets the connection, and what the peer has not yet read is lost.
                Ok(()) => timeout(timing.flush, read).await.unwrap_or(Ok(())),
                error => error,
            },
        }
    };
    // The application's receiver ends here, with `inbound`; what has arrived stays readable.
    drop(inbound);
    if let Err(error) = &ended {
        tracing::warn!(peer = %address, error = error as &dyn std::error::Error, "link broke");
    }
    ended
}

struct Reading<'a, R> {
    reader: R,
    input: BytesMut,
    address: &'a str,
    notes: &'a Notes,
    timing: Timing,
}

impl<R: AsyncRead + Unpin> Reading<'_, R> {
    async fn run(&mut self, inbound: &Sender<Kind>) -> Result<(), LinkError> {
        let places = inbound.max_capacity();
        let part = (places / CREDIT_PARTS).clamp(1, CREDIT_PART_MAX);
        // The peer was told of all places in the hello.
        let mut reserved = VecDeque::new();
        reserved.extend(inbound.try_reserve_many(places));
        let mut emptied = pin!(inbound.reserve_many(part));
        let mut receiver_gone = reserved.is_empty();
        if receiver_gone {
            self.tell_closing();
        }
        let mut silent_at = Instant::now() + self.timing.silent_after;
        loop {
            while let Some(envelope) = codec::decode(&mut self.input, ENVELOPE_BYTES_MAX, self.address)? {
                match envelope.kind {
                    Some(Kind::Credit(credit)) => self.take_credit(&credit)?,
                    Some(Kind::Ping(ping)) => self.note_ping(&ping),
                    Some(Kind::Hello(_) | Kind::Welcome(_)) => {
                        return Err(LinkError::OutOfTurn { peer: self.address.to_owned(), what: "a second hello" });
                    }
                    Some(_) | None if receiver_gone => {}
                    kind => self.deliver(kind, &mut reserved)?,
                }
            }
            self.keep_room();
            // All arms are cancel-safe: `read_buf` has read nothing unless it completes, and `emptied` keeps its place. In this order: places
            // are so many, so they hold up no reading; and what has arrived counts before the time does, or a node that stood still
            // itself would take its peers for silent.
            tokio::select! {
                biased;
                places = &mut emptied, if !receiver_gone => match places {
                    Ok(places) => {
                        reserved.push_back(places);
                        emptied.set(inbound.reserve_many(part));
                        self.notes.to_return.fetch_add(part, Ordering::Relaxed);
                        self.notes.wake.notify_one();
                    }
                    Err(_) => {
                        receiver_gone = true;
                        reserved.clear();
                        self.tell_closing();
                    }
                },
                read = self.reader.read_buf(&mut self.input) => {
                    let bytes = read.map_err(|cause| self.broken(cause))?;
                    match (bytes, self.input.is_empty()) {
                        (0, true) => return Ok(()),
                        (0, false) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                        _ => silent_at = Instant::now() + self.timing.silent_after,
                    }
                }
                () = sleep_until(silent_at) => {
                    return Err(LinkError::Silent { peer: self.address.to_owned(), after: self.timing.silent_after });
                }
            }
        }
    }

    fn deliver(&self, kind: Option<Kind>, reserved: &mut VecDeque<PermitIterator<'_, Kind>>) -> Result<(), LinkError> {
        let place = loop {
            let Some(places) = reserved.front_mut() else {
                return Err(LinkError::Overrun { peer: self.address.to_owned() });
            };
            match places.next() {
                Some(place) => break place,
                None => drop(reserved.pop_front()),
            }
        };
        // A kind that is not known here has used a credit too; its place is free again at once.
        if let Some(kind) = kind {
            place.send(kind);
        }
        Ok(())
    }

    fn take_credit(&self, credit: &Credit) -> Result<(), LinkError> {
        let given = usize::try_from(credit.envelopes).unwrap_or(usize::MAX);
        let before = self.notes.granted.fetch_add(given.min(CREDIT_ENVELOPES), Ordering::Relaxed);
        if given > CREDIT_ENVELOPES || before > CREDIT_ENVELOPES {
            return Err(LinkError::Overrun { peer: self.address.to_owned() });
        }
        self.notes.wake.notify_one();
        Ok(())
    }

    fn note_ping(&self, ping: &Ping) {
        if !ping.reply {
            self.notes.ping_nonce.store(ping.nonce, Ordering::Relaxed);
            self.notes.ping.store(true, Ordering::Relaxed);
            self.notes.wake.notify_one();
        }
    }

    fn tell_closing(&self) {
        self.notes.closing.store(true, Ordering::Relaxed);
        self.notes.wake.notify_one();
    }

    /// Room to read into; what one large envelope needed is given back.
    fn keep_room(&mut self) {
        if self.input.is_empty() && self.input.capacity() > 4 * READ_BYTES {
            self.input = BytesMut::new();
        }
        self.input.reserve(READ_BYTES);
    }

    fn broken(&self, cause: io::Error) -> LinkError {
        LinkError::Broken { peer: self.address.to_owned(), cause }
    }
}

struct Writing<'a, W> {
    writer: W,
    output: BytesMut,
    address: &'a str,
    notes: &'a Notes,
    timing: Timing,
    credit: usize,
    /// Of the envelopes that the peer has not consumed, oldest first: as many as there is credit at most.
    sizes: VecDeque<u32>,
    /// Their sum.
    bytes: usize,
    /// That of all links of this node.
    in_flight: InFlight,
    nonce: u64,
}

impl<W> Drop for Writing<'_, W> {
    fn drop(&mut self) {
        self.in_flight.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl<W: AsyncWrite + Unpin> Writing<'_, W> {
    async fn run(&mut self, mut outbound: Receiver<Kind>) -> Result<(), LinkError> {
        let mut ping_at = Instant::now() + self.timing.ping_every;
        let mut close_by = None;
        loop {
            self.take_back(self.notes.granted.swap(0, Ordering::Relaxed))?;
            self.write_notes();
            let drained = self.drain(&mut outbound);
            if self.notes.closing.load(Ordering::Relaxed) || drained == Drained::Ended {
                outbound.close();
                close_by.get_or_insert_with(|| Instant::now() + self.timing.flush);
            }
            if !self.output.is_empty() {
                self.flush().await?;
                ping_at = Instant::now() + self.timing.ping_every;
                continue;
            }
            if drained == Drained::Ended {
                // An error says no more than that the peer was faster.
                return self.writer.shutdown().await.or(Ok(()));
            }
            // Each arm is cancel-safe: `recv` takes nothing unless it completes.
            tokio::select! {
                () = self.notes.woken() => {}
                kind = outbound.recv(), if self.has_room() => if let Some(kind) = kind { self.encode(kind) },
                () = sleep_until(ping_at) => {
                    self.nonce += 1;
                    self.encode_free(Kind::Ping(Ping { nonce: self.nonce, reply: false }));
                }
                () = sleep_until(close_by.unwrap_or(ping_at)), if close_by.is_some() => return Ok(()),
            }
        }
    }

    /// The peer has consumed so many.
    fn take_back(&mut self, envelopes: usize) -> Result<(), LinkError> {
        if envelopes > self.sizes.len() {
            return Err(LinkError::Overrun { peer: self.address.to_owned() });
        }
        self.credit += envelopes;
        let bytes: usize = self.sizes.drain(..envelopes).map(|bytes| bytes as usize).sum();
        self.bytes -= bytes;
        self.in_flight.0.fetch_sub(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Whether one more envelope may go. The last one may go beyond the bytes: it is one, and not larger than an envelope may be.
    fn has_room(&self) -> bool {
        self.credit > 0 && self.bytes < IN_FLIGHT_BYTES_MAX
    }

    /// What the reader has noted, before any envelope: credit late is throughput lost.
    fn write_notes(&mut self) {
        let mut left = self.notes.to_return.swap(0, Ordering::Relaxed);
        while left > 0 {
            let envelopes = left.min(CREDIT_ENVELOPES);
            self.encode_free(Kind::Credit(Credit { envelopes: u32::try_from(envelopes).expect("bounded by CREDIT_ENVELOPES") }));
            left -= envelopes;
        }
        if self.notes.ping.swap(false, Ordering::Relaxed) {
            let nonce = self.notes.ping_nonce.load(Ordering::Relaxed);
            self.encode_free(Kind::Ping(Ping { nonce, reply: true }));
        }
    }

    /// Everything that is queued, as far as credit and one write go.
    fn drain(&mut self, outbound: &mut Receiver<Kind>) -> Drained {
        while self.has_room() && self.output.len() < WRITE_BYTES {
            match outbound.try_recv() {
                Ok(kind) => self.encode(kind),
                Err(TryRecvError::Empty) => return Drained::Empty,
                Err(TryRecvError::Disconnected) => return Drained::Ended,
            }
        }
        if outbound.is_closed() && outbound.is_empty() { Drained::Ended } else { Drained::Partly }
    }

    fn encode(&mut self, kind: Kind) {
        let before = self.output.len();
        match codec::encode(kind, &mut self.output) {
            Ok(()) => {
                let bytes = self.output.len() - before;
                self.credit -= 1;
                self.sizes.push_back(u32::try_from(bytes).expect("an envelope is at most ENVELOPE_BYTES_MAX"));
                self.bytes += bytes;
                self.in_flight.0.fetch_add(bytes, Ordering::Relaxed);
            }
            // Our bug: whoever made it must keep to its own, smaller limits. The link and everyone on it must not suffer for it.
            Err(bytes) => tracing::error!(peer = %self.address, bytes, max = ENVELOPE_BYTES_MAX, "envelope too large, not sent"),
        }
    }

    fn encode_free(&mut self, kind: Kind) {
        codec::encode(kind, &mut self.output).expect("credit and pings are some bytes");
    }

    async fn flush(&mut self) -> Result<(), LinkError> {
        let silent = LinkError::Silent { peer: self.address.to_owned(), after: self.timing.silent_after };
        let written = timeout(self.timing.silent_after, self.writer.write_all(&self.output)).await.map_err(|_| silent)?;
        written.map_err(|cause| LinkError::Broken { peer: self.address.to_owned(), cause })?;
        if self.output.capacity() > 2 * WRITE_BYTES {
            self.output = BytesMut::new();
        }
        self.output.clear();
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drained {
    /// Nothing waits.
    Empty,
    /// Something waits for credit or for the next write.
    Partly,
    /// Nothing waits, and nothing will come.
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Envelope, Up};
    use prost::Message;
    use std::time::Duration;
    use tokio::io::{DuplexStream, duplex, split};
    use tokio::sync::mpsc;

    /// Both ends of a pump over memory: time is virtual, so nothing here waits.
    struct Ends {
        sender: Sender<Kind>,
        receiver: Receiver<Kind>,
        peer: DuplexStream,
        task: tokio::task::JoinHandle<Result<(), LinkError>>,
    }

    fn pump(socket_bytes: usize) -> Ends {
        let (near, peer) = duplex(socket_bytes);
        let (sender, outbound) = mpsc::channel(8);
        let (inbound, receiver) = mpsc::channel(8);
        let (reader, writer) = split(near);
        let input = BytesMut::new();
        let task =
            tokio::spawn(run(reader, writer, input, "peer".to_owned(), inbound, outbound, 8, InFlight::default(), Timing::default()));
        Ends { sender, receiver, peer, task }
    }

    async fn next(peer: &mut DuplexStream) -> Option<Kind> {
        let bytes = peer.read_u32().await.ok()?;
        let mut body = vec![0; bytes as usize];
        peer.read_exact(&mut body).await.ok()?;
        Envelope::decode(&body[..]).expect("an envelope").kind
    }

    async fn say(peer: &mut DuplexStream, kind: Kind) {
        let mut bytes = BytesMut::new();
        codec::encode(kind, &mut bytes).expect("small");
        peer.write_all(&bytes).await.expect("the pump reads");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_link_pings_every_two_seconds() {
        let mut ends = pump(1024);
        let start = Instant::now();
        for nonce in 1..=20 {
            assert_eq!(next(&mut ends.peer).await, Some(Kind::Ping(Ping { nonce, reply: false })));
            assert_eq!(start.elapsed().as_secs(), 2 * nonce);
            say(&mut ends.peer, Kind::Ping(Ping { nonce, reply: true })).await;
        }
        assert!(!ends.task.is_finished(), "twenty pings answered, nothing else said: alive");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_dead_after_six_seconds() {
        let mut ends = pump(1024);
        let start = Instant::now();
        assert_eq!(ends.receiver.recv().await, None);
        assert_eq!(start.elapsed(), Duration::from_secs(6));
        assert!(matches!(ends.task.await, Ok(Err(LinkError::Silent { .. }))));
    }

    /// However its pause and its pings fall: the peer pings, stands still for so long, and goes on.
    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stands_still_for_three_seconds_is_not_cut_off() {
        let mut ends = pump(64 * 1024);
        for nonce in 0..20 {
            let pause = Duration::from_millis(2_000 + nonce % 2 * 3_000);
            tokio::time::sleep(pause).await;
            say(&mut ends.peer, Kind::Ping(Ping { nonce, reply: true })).await;
        }
        assert!(!ends.task.is_finished());
    }

    /// What its peer said meanwhile has not been read, and by the clock the peer was silent. Many times: the order must not be chance.
    #[tokio::test(start_paused = true)]
    async fn a_node_that_stood_still_itself_reads_before_it_calls_its_peer_silent() {
        for _ in 0..32 {
            let (near, mut peer) = duplex(1024);
            let (_sender, outbound) = mpsc::channel(8);
            let (inbound, mut receiver) = mpsc::channel(8);
            let (reader, writer) = split(near);
            let mut run =
                pin!(run(reader, writer, BytesMut::new(), "peer".to_owned(), inbound, outbound, 8, InFlight::default(), Timing::default()));
            once(&mut run).await;
            say(&mut peer, Kind::Up(Up { id: 7, ..Up::default() })).await;
            tokio::time::sleep(Duration::from_secs(20)).await;
            once(&mut run).await;
            assert!(matches!(receiver.try_recv(), Ok(Kind::Up(up)) if up.id == 7));
        }
    }

    /// Lets the pump run until it waits; it must not end.
    async fn once(run: &mut (impl Future<Output = Result<(), LinkError>> + Unpin)) {
        tokio::select! {
            biased;
            ended = run => panic!("{ended:?}"),
            () = std::future::ready(()) => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_dead_though_it_talks() {
        let mut ends = pump(64);
        ends.sender.send(Kind::Kick(crate::message::Kick { msg: "x".repeat(500), ..Default::default() })).await.expect("up");
        let talking = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let mut bytes = BytesMut::new();
                codec::encode(Kind::Ping(Ping { nonce: 1, reply: true }), &mut bytes).expect("small");
                if ends.peer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        };
        talking.await;
        assert!(matches!(ends.task.await, Ok(Err(LinkError::Silent { .. }))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_application_does_not_make_a_peer_look_dead() {
        let mut ends = pump(1024);
        // Eight envelopes fill the application's queue, and nobody takes them for an hour.
        for id in 0..8 {
            say(&mut ends.peer, Kind::Up(Up { id, ..Up::default() })).await;
        }
        for _ in 0..720 {
            let Some(Kind::Ping(ping)) = next(&mut ends.peer).await else { panic!("no ping") };
            say(&mut ends.peer, Kind::Ping(Ping { reply: true, ..ping })).await;
        }
        for id in 0..8 {
            assert!(matches!(ends.receiver.recv().await, Some(Kind::Up(up)) if up.id == id));
        }
    }

    /// With credit for thousands of envelopes left, a peer that consumes nothing is sent no more than the bytes that it has to hold for it.
    #[tokio::test(start_paused = true)]
    async fn large_envelopes_wait_for_bytes_and_go_on_when_the_peer_has_consumed_some() {
        let (near, mut peer) = duplex(1024 * 1024);
        let (sender, outbound) = mpsc::channel(8);
        let (inbound, _receiver) = mpsc::channel(8);
        let (reader, writer) = split(near);
        let in_flight = InFlight::default();
        let pump = run(reader, writer, BytesMut::new(), "peer".to_owned(), inbound, outbound, 4096, in_flight.clone(), Timing::default());
        let pump = tokio::spawn(pump);
        let text = "x".repeat(ENVELOPE_BYTES_MAX / 2);
        let sending = tokio::spawn(async move {
            for code in 0..200 {
                let kick = crate::message::Kick { code, msg: text.clone(), ..Default::default() };
                sender.send(Kind::Kick(kick)).await.expect("the link is up");
            }
            sender
        });
        let mut came = 0;
        while let Ok(Some(kind)) = timeout(Duration::from_secs(1), next(&mut peer)).await {
            came += usize::from(matches!(kind, Kind::Kick(_)));
        }
        // Each is a little more than half an envelope's bound.
        assert_eq!(came, IN_FLIGHT_BYTES_MAX / (ENVELOPE_BYTES_MAX / 2), "and not one more");
        assert!(in_flight.bytes() >= IN_FLIGHT_BYTES_MAX && in_flight.bytes() < IN_FLIGHT_BYTES_MAX + ENVELOPE_BYTES_MAX);
        say(&mut peer, Kind::Credit(Credit { envelopes: 100 })).await;
        while let Ok(Some(kind)) = timeout(Duration::from_secs(1), next(&mut peer)).await {
            came += usize::from(matches!(kind, Kind::Kick(_)));
        }
        assert_eq!(came, 200);
        drop((sending.await, peer));
        assert!(pump.await.is_ok());
        assert_eq!(in_flight.bytes(), 0, "a link that has ended has nothing under way");
    }

    #[tokio::test(start_paused = true)]
    async fn credit_for_more_than_was_sent_ends_the_link() {
        let mut ends = pump(1024);
        ends.sender.send(Kind::Up(Up { id: 1, ..Up::default() })).await.expect("up");
        next(&mut ends.peer).await;
        say(&mut ends.peer, Kind::Credit(Credit { envelopes: 2 })).await;
        assert!(matches!(ends.task.await, Ok(Err(LinkError::Overrun { .. }))));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_queued_is_joined_into_one_write() {
        let mut ends = pump(64 * 1024);
        for id in 0..8 {
            ends.sender.try_send(Kind::Up(Up { id, ..Up::default() })).expect("the queue holds eight");
        }
        let mut bytes = BytesMut::new();
        ends.peer.read_buf(&mut bytes).await.expect("written");
        let mut count = 0;
        while codec::decode(&mut bytes, ENVELOPE_BYTES_MAX, "peer").expect("well formed").is_some() {
            count += 1;
        }
        assert_eq!((count, bytes.len()), (8, 0));
    }
}
