//! One QUIC connection: its streams, between the network and the hand-over to its shard.
//!
//! - No frame is looked into, and nothing is decided but that a connection which breaks the rules of streams has failed.
//! - Streams are written side by side: one that the client does not read holds up no other. The order of [`Way::ALL`] is their priority.
//! - The stream of a class is opened by the first frame of the class; what is idle has none.
//! - Every step is polled anew and remembers nothing: whatever wakes the task, it looks at everything.

use super::{
    lane::{Goodbye, LaneEnd, TaskEnd, Way},
    pending::Pending,
};
use billfish_wire::Reason;
use quinn::{Connection, ReadError, RecvStream, SendStream, VarInt, WriteError};
use std::{
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

/// How long a connection that was told why it ends is kept for the words to arrive, as at a socket.
const PART_WAIT: Duration = Duration::from_secs(1);
/// What is asked of a stream at a time.
const READ_BYTES: usize = 4 * 1024;

/// A connection and its streams.
#[derive(Debug)]
pub(super) struct Carrier {
    connection: Connection,
    /// `None` once it has ended.
    up: Option<RecvStream>,
    down: [Option<SendStream>; Way::COUNT],
    pending: Pending,
    end: TaskEnd,
}

/// The peer cannot be written to.
struct Lost;

impl Carrier {
    pub(super) fn new(connection: Connection, answers: SendStream, up: RecvStream, end: TaskEnd) -> Self {
        let mut down = [const { None }; Way::COUNT];
        prioritise(&answers, Way::Answers);
        down[Way::Answers.index()] = Some(answers);
        Self { connection, up: Some(up), down, pending: Pending::default(), end }
    }

    /// Carries until the shard says goodbye or the connection is lost. `may_part`: whether last words may take their time.
    pub(super) async fn carry(&mut self, may_part: impl FnOnce() -> bool) {
        let Some(Goodbye { reason, has_words }) = poll_fn(|context| self.poll_turn(context)).await else {
            // Unless it is lost already: then this says nothing.
            return close(&self.connection, Reason::Malformed);
        };
        if has_words && may_part() {
            // Whoever does not take the words in time goes without.
            drop(tokio::time::timeout(PART_WAIT, self.part()).await);
        }
        close(&self.connection, reason);
    }

    /// Both directions, as far as they go. `None`: the connection is lost.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Option<Goodbye>> {
        self.read(context);
        let goodbye = self.end.take(context, self.pending.frames_mut());
        if self.write(context).is_err() {
            self.end.end(LaneEnd::Failed);
            return Poll::Ready(None);
        }
        match goodbye {
            Some(goodbye) => Poll::Ready(Some(goodbye)),
            None if self.connection.close_reason().is_some() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    /// Brings what the client sent, as long as the shard takes it: then the stream's window closes, and the client waits.
    fn read(&mut self, context: &mut Context<'_>) {
        while let Some(up) = &mut self.up
            && self.end.has_room(context)
        {
            let chunk = match pin!(up.read_chunk(READ_BYTES, true)).poll(context) {
                Poll::Pending => return,
                Poll::Ready(chunk) => chunk,
            };
            match chunk {
                // Copied: a chunk would pin the whole datagram that it came in.
                Ok(Some(chunk)) => self.end.bring(&chunk.bytes),
                Ok(None) => self.ended(LaneEnd::Closed),
                Err(ReadError::ConnectionLost(quinn::ConnectionError::ApplicationClosed(_))) => self.ended(LaneEnd::Closed),
                Err(_) => self.ended(LaneEnd::Failed),
            }
        }
    }

    fn ended(&mut self, end: LaneEnd) {
        self.up = None;
        self.end.end(end);
    }

    /// Writes what is pending, as much as each stream takes.
    fn write(&mut self, context: &mut Context<'_>) -> Result<(), Lost> {
        for way in Way::ALL {
            while !self.pending.is_empty(way) {
                let Self { connection, down, pending, end, .. } = self;
                let stream = match &mut down[way.index()] {
                    Some(stream) => stream,
                    stream @ None => {
                        let Way::Push(class) = way else { return Err(Lost) };
                        // A client that lets no stream be opened has not read the protocol.
                        let Poll::Ready(Ok(opened)) = pin!(connection.open_uni()).poll(context) else { return Err(Lost) };
                        prioritise(&opened, way);
                        pending.name(class);
                        stream.insert(opened)
                    }
                };
                let written = match pin!(stream.write_chunks(pending.chunks(way))).poll(context) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(written)) => written,
                    Poll::Ready(Err(WriteError::ConnectionLost(_) | WriteError::Stopped(_) | WriteError::ClosedStream)) => {
                        return Err(Lost);
                    }
                    Poll::Ready(Err(WriteError::ZeroRttRejected)) => return Err(Lost),
                };
                end.wrote(way, pending.wrote(way, written.chunks, written.bytes));
            }
        }
        Ok(())
    }

    /// Writes what is left, and waits for the client to have it. A stream ends as soon as all of it is written: one that the client does not
    /// read keeps no last word back.
    async fn part(&mut self) -> Result<(), Lost> {
        let mut is_finished = [false; Way::COUNT];
        poll_fn(|context| {
            self.write(context)?;
            for way in Way::ALL {
                if let Some(stream) = &mut self.down[way.index()]
                    && self.pending.is_empty(way)
                    && !std::mem::replace(&mut is_finished[way.index()], true)
                {
                    stream.finish().map_err(|_| Lost)?;
                }
            }
            if self.pending.is_all_written() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await?;
        for stream in self.down.iter().flatten() {
            stream.stopped().await.map_err(|_| Lost)?;
        }
        Ok(())
    }
}

fn prioritise(stream: &SendStream, way: Way) {
    let rank = i32::try_from(Way::COUNT - way.index()).unwrap_or_default();
    // A stream that is gone already is found out by writing to it.
    drop(stream.set_priority(rank));
}

/// Ends a connection with the number that an ERROR or KICK would have, 0 where the peer has done nothing wrong, and the reason's name.
pub(super) fn close(connection: &Connection, reason: Reason) {
    let number = reason.number().and_then(|number| u32::try_from(number).ok()).unwrap_or_default();
    connection.close(VarInt::from_u32(number), reason.label().as_bytes());
}
