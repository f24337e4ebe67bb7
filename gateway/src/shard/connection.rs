//! One connection: its entry in the slab, what it writes, and what is left of it while it says goodbye.
//!
//! - An idle connection is this entry and nothing else: no buffer, no queue, no timer object. Its size is asserted below.
//! - Nothing overtakes: while something waits in the outbox, everything new goes behind it.
//! - What was queued is accounted for exactly once, as delivered or as dropped, whatever happens to the connection.

use super::{counters::DropReason, desk::Desk, message::Origin, slab::SlabKey, wheel::Filed};
use crate::{
    quic::{Offer, Way},
    transport::Transport,
};
use billfish_session::{
    Form, Push, Time,
    backlog::{Backlog, Queued},
    server::ServerSession,
};
use billfish_state::DeviceKind;
use billfish_wire::{Class, Reassembler};
use bytes::Bytes;
use mio::{Interest, Token};
use smallvec::SmallVec;
use std::{
    io::{self, IoSlice},
    net::{IpAddr, Ipv6Addr},
};

/// Who lives in a place of the slab.
#[derive(Debug)]
pub(super) enum Tenant {
    /// A connection.
    Open(Connection),
    /// What is left of one.
    Leaving(Box<Leaving>),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) session: ServerSession,
    pub(super) transport: Transport,
    pub(super) reassembler: Reassembler,
    /// What the socket did not take; `None` nearly always.
    pub(super) outbox: Option<Box<Outbox>>,
    /// Id of the session; 0 until LOGIN is granted.
    pub(super) session_id: u64,
    /// IPv4 as a mapped address: 16 bytes instead of 17, and no padding behind them.
    peer: Ipv6Addr,
    pub(super) filed: Filed,
    pub(super) device: DeviceKind,
    /// It stands in the list of those to be read again.
    pub(super) is_to_be_read: bool,
    /// There may be something to read that was left in the kernel, until LOGIN's verdict.
    pub(super) is_left_unread: bool,
    /// The peer has closed its end; what it sent before may not all be read.
    pub(super) is_at_end: bool,
}

/// What of an entry is ours to spend: 100,000 connections at 160 bytes are 16 MB.
#[cfg(not(debug_assertions))]
const ENTRY_BYTES_MAX: usize = 160;
/// A debug build of mio keeps a selector id in every socket.
#[cfg(debug_assertions)]
const ENTRY_BYTES_MAX: usize = 176;
const _: () = assert!(size_of::<Tenant>() + size_of::<u32>() <= ENTRY_BYTES_MAX, "the entry of an idle connection is small");

/// What waits for one slow reader.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) backlog: Backlog<Tag>,
    /// When the socket last took something.
    progress_at: Time,
}

/// Whose account a queued frame is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// The connection's own: an answer, an error. Nobody counts copies of it.
    Own,
    /// A copy of a push; `room_id` 0: of one to the user.
    Copy { room_id: i64 },
}

/// Why a connection must end, found out where it cannot be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doom {
    /// The transport failed.
    Failed,
    /// The backlog is full of what may not be dropped.
    Overflow,
}

/// Slices in one `writev`: with frames of 120 bytes about 8 KB, as much as a send buffer that just turned writable takes.
const SLICES_MAX: usize = 64;

impl Connection {
    pub(super) fn new(session: ServerSession, transport: Transport, peer: IpAddr) -> Self {
        let peer = mapped(peer);
        Self {
            session,
            transport,
            reassembler: Reassembler::default(),
            outbox: None,
            session_id: 0,
            peer,
            filed: Filed::default(),
            device: DeviceKind::Other,
            is_to_be_read: false,
            is_left_unread: false,
            is_at_end: false,
        }
    }

    /// From where.
    pub(super) const fn peer(&self) -> IpAddr {
        IpAddr::V6(self.peer).to_canonical()
    }

    /// From where it is in truth, as the relay in between says.
    pub(super) const fn set_peer(&mut self, peer: IpAddr) {
        self.peer = mapped(peer);
    }

    /// LOGIN was granted.
    pub(super) const fn is_let_in(&self) -> bool {
        self.session_id != 0
    }

    /// Who it is, once LOGIN was granted.
    pub(super) fn origin(&self) -> Origin {
        Origin { app_id: self.session.app_id(), user_id: self.session.user_id(), device: self.device, session: self.session_id }
    }

    /// How frames to it look.
    pub(super) fn form(&self) -> Form {
        self.transport.form(self.session.encoding())
    }

    /// When somebody must look at it, if nothing happens before.
    pub(super) fn deadline(&self, desk: &Desk) -> Time {
        let stalled = self.outbox.as_ref().map_or(Time::NEVER, |outbox| outbox.progress_at + desk.write_stall_ms());
        self.session.next_deadline(&desk.session).min(stalled)
    }

    /// Whether its reader has taken nothing for too long.
    pub(super) fn is_stalled(&self, desk: &Desk) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| desk.now.since(outbox.progress_at) >= desk.write_stall_ms())
    }

    /// Writes a frame: a beginning of it where bytes are written, all or nothing where frames are handed over.
    fn write(&mut self, way: Way, frame: &Bytes, desk: &mut Desk) -> io::Result<usize> {
        match self.transport.quic() {
            None => self.transport.write(frame, &mut desk.scratch),
            Some(quic) => Ok(if quic.offer().take(way, frame) { frame.len() } else { 0 }),
        }
    }

    /// Writes a copy of a push, or queues it.
    ///
    /// # Errors
    /// The connection cannot go on. The copy is accounted for.
    pub(super) fn send_copy(&mut self, key: SlabKey, push: &Push, room_id: i64, desk: &mut Desk) -> Result<(), Doom> {
        let frame = push.frame(self.form());
        let class = push.class();
        let mut counted = [0; Class::ALL.len()];
        let taken = match &self.outbox {
            None => match self.write(Way::Push(class), &frame, desk) {
                Ok(taken) => taken,
                Err(_) => {
                    desk.book_copies(room_id, 1, &counted, &[0; Class::ALL.len()]);
                    desk.copy_dropped(room_id, class, DropReason::Closed);
                    return Err(Doom::Failed);
                }
            },
            Some(_) => 0,
        };
        desk.counters.bytes_out.add(taken as u64);
        if taken == frame.len() {
            counted[class as usize] = 1;
        }
        desk.book_copies(room_id, 1, &counted, &[0; Class::ALL.len()]);
        if taken == frame.len() {
            return Ok(());
        }
        self.queue(key, Queued { frame, class, state: push.state().cloned(), tag: Tag::Copy { room_id } }, taken, desk)
    }

    /// Writes frames of its own, `ends` saying where each ends, or queues what is not taken.
    ///
    /// # Errors
    /// The connection cannot go on.
    pub(super) fn send_own(&mut self, key: SlabKey, frames: &[u8], ends: &[usize], desk: &mut Desk) -> Result<(), Doom> {
        let mut taken = match (&self.outbox, self.transport.quic()) {
            (None, None) => self.transport.write(frames, &mut desk.scratch).map_err(|_| Doom::Failed)?,
            (None, Some(quic)) if quic.offer().take(Way::Answers, &Bytes::copy_from_slice(frames)) => frames.len(),
            (None | Some(_), _) => 0,
        };
        desk.counters.bytes_out.add(taken as u64);
        let mut start = 0;
        for end in ends {
            let frame = &frames[start..*end];
            start = *end;
            if taken >= frame.len() {
                taken -= frame.len();
                continue;
            }
            let frame = Bytes::copy_from_slice(frame);
            self.queue(key, Queued { frame, class: Class::Control, state: None, tag: Tag::Own }, std::mem::take(&mut taken), desk)?;
        }
        Ok(())
    }

    /// Puts a frame behind what waits; `written` bytes of it are on the wire already, which only the first one can have.
    ///
    /// # Errors
    /// There is no room, or the reactor refuses. The frame is accounted for.
    pub(super) fn queue(&mut self, key: SlabKey, queued: Queued<Tag>, written: usize, desk: &mut Desk) -> Result<(), Doom> {
        let outbox = match &mut self.outbox {
            Some(outbox) => outbox,
            None => {
                desk.backlogs += 1;
                self.outbox.insert(Box::new(Outbox { backlog: Backlog::default(), progress_at: desk.now }))
            }
        };
        let (is_first, before) = (outbox.backlog.is_empty(), outbox.backlog.bytes());
        desk.frame_queued(&queued);
        let limits = desk.limits;
        let fits = outbox.backlog.push(&limits, queued, |queued, reason| desk.frame_dropped(&queued, reason.into()));
        outbox.backlog.advance(written, |_| debug_assert!(false, "a frame taken whole is not queued"));
        desk.backlog_changed(before, &outbox.backlog);
        fits.map_err(|_| Doom::Overflow)?;
        if is_first {
            self.transport.reregister(&desk.registry, key.token(), Interest::READABLE | Interest::WRITABLE).map_err(|_| Doom::Failed)?;
            desk.want(key, self);
        }
        // What waits on another way is no reason for this one to wait.
        if self.transport.quic().is_some() { self.flush(key, desk) } else { Ok(()) }
    }

    /// The connection has ended: what waits is given up.
    pub(super) fn drop_outbox(&mut self, desk: &mut Desk) {
        if let Some(mut outbox) = self.outbox.take() {
            desk.backlogs -= 1;
            end_backlog(&mut outbox.backlog, desk);
        }
    }

    /// The socket takes bytes again: writes what waits, as far as it goes.
    ///
    /// # Errors
    /// The transport failed.
    pub(super) fn flush(&mut self, key: SlabKey, desk: &mut Desk) -> Result<(), Doom> {
        let unsent_bytes = self.transport.unsent_bytes();
        let is_flushed = self.transport.flush().map_err(|_| Doom::Failed)?;
        let Some(outbox) = &mut self.outbox else { return Ok(()) };
        if self.transport.unsent_bytes() < unsent_bytes {
            outbox.progress_at = desk.now;
        }
        if !is_flushed {
            return Ok(());
        }
        let written = match self.transport.quic() {
            None => write_backlog(&mut self.transport, &mut outbox.backlog, desk).map_err(|_| Doom::Failed)?,
            Some(quic) => offer_backlog(quic.offer(), &mut outbox.backlog, desk),
        };
        if written > 0 {
            outbox.progress_at = desk.now;
        }
        if outbox.backlog.is_empty() {
            self.outbox = None;
            desk.backlogs -= 1;
            self.transport.reregister(&desk.registry, key.token(), Interest::READABLE).map_err(|_| Doom::Failed)?;
        }
        Ok(())
    }
}

const fn mapped(peer: IpAddr) -> Ipv6Addr {
    match peer {
        IpAddr::V4(peer) => peer.to_ipv6_mapped(),
        IpAddr::V6(peer) => peer,
    }
}

/// Writes as much of a backlog as the transport takes; how much that was.
fn write_backlog(transport: &mut Transport, backlog: &mut Backlog<Tag>, desk: &mut Desk) -> io::Result<usize> {
    let mut total = 0;
    while !backlog.is_empty() {
        let (offered, taken) = {
            let slices: SmallVec<[IoSlice<'_>; SLICES_MAX]> = backlog.slices().take(SLICES_MAX).collect();
            (slices.iter().map(|slice| slice.len()).sum::<usize>(), transport.write_vectored(&slices, &mut desk.scratch)?)
        };
        desk.counters.bytes_out.add(taken as u64);
        let before = backlog.bytes();
        backlog.advance(taken, |queued| desk.frame_delivered(&queued));
        desk.backlog_changed(before, backlog);
        total += taken;
        if taken < offered {
            break;
        }
    }
    Ok(total)
}

/// Hands over as much of a backlog as each way takes; how many bytes that was.
fn offer_backlog(mut offer: Offer<'_>, backlog: &mut Backlog<Tag>, desk: &mut Desk) -> usize {
    let before = backlog.bytes();
    backlog.offer_each(|queued| {
        let way = match queued.tag {
            Tag::Own => Way::Answers,
            Tag::Copy { .. } => Way::Push(queued.class),
        };
        let is_taken = offer.take(way, &queued.frame);
        if is_taken {
            desk.frame_delivered(queued);
        }
        is_taken
    });
    let taken = before - backlog.bytes();
    desk.counters.bytes_out.add(taken as u64);
    desk.backlog_changed(before, backlog);
    taken
}

/// Everything that waits is given up.
fn end_backlog(backlog: &mut Backlog<Tag>, desk: &mut Desk) {
    let before = backlog.bytes();
    backlog.close(|queued, reason| desk.frame_dropped(&queued, reason.into()));
    desk.backlog_changed(before, backlog);
}

/// A connection that is over and still has something to say: its last frames are written, then the peer's are read and thrown away for a
/// moment. Closing at once would answer unread input with a reset, and the reset would destroy the last frames on their way.
#[derive(Debug)]
pub(super) struct Leaving {
    transport: Transport,
    backlog: Backlog<Tag>,
    discarded_bytes: usize,
    has_finished: bool,
}

/// What is read and thrown away behind the last frame, at most.
const DISCARD_BYTES_MAX: usize = 64 * 1024;

impl Leaving {
    /// Ends a connection's queue with its last words: a half-written frame, then them.
    pub(super) fn new(transport: Transport, outbox: Option<Box<Outbox>>, last_words: Vec<u8>, desk: &mut Desk) -> Self {
        let mut backlog = match outbox {
            Some(outbox) => {
                desk.backlogs -= 1;
                outbox.backlog
            }
            None => Backlog::default(),
        };
        let last = Queued { frame: Bytes::from(last_words), class: Class::Control, state: None, tag: Tag::Own };
        let before = backlog.bytes();
        backlog.close_with(last, |queued, reason| desk.frame_dropped(&queued, reason.into()));
        desk.backlog_changed(before, &backlog);
        Self { transport, backlog, discarded_bytes: 0, has_finished: false }
    }

    /// Asks for its events under its own key.
    pub(super) fn register(&mut self, key: SlabKey, desk: &Desk) -> io::Result<()> {
        self.transport.reregister(&desk.registry, key.token(), Interest::READABLE | Interest::WRITABLE)
    }

    /// Goes on; `true` when there is nothing left to do.
    pub(super) fn go_on(&mut self, buffer: &mut [u8], desk: &mut Desk) -> bool {
        if !self.has_finished {
            if write_backlog(&mut self.transport, &mut self.backlog, desk).is_err() {
                return true;
            }
            match self.transport.flush() {
                Ok(true) if self.backlog.is_empty() => {
                    self.has_finished = true;
                    if self.transport.finish().is_err() {
                        return true;
                    }
                }
                Ok(_) => {}
                Err(_) => return true,
            }
        }
        while self.discarded_bytes < DISCARD_BYTES_MAX {
            match self.transport.read(buffer) {
                Ok(0) => return true,
                Ok(read) => self.discarded_bytes += read,
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
        // Whoever sends that much behind its own end is not waiting for our words.
        true
    }

    /// It is over, whatever is left.
    pub(super) fn end(mut self, desk: &mut Desk) {
        end_backlog(&mut self.backlog, desk);
    }
}

impl SlabKey {
    /// As the reactor knows it. Generation 0 is no connection's.
    pub(super) const fn token(self) -> Token {
        Token(((self.generation as usize) << 32) | self.index as usize)
    }

    /// The other way round.
    pub(super) const fn from_token(token: Token) -> Self {
        Self { index: (token.0 & 0xffff_ffff) as u32, generation: (token.0 >> 32) as u32 }
    }
}

const _: () = assert!(size_of::<usize>() >= 8, "a key fits into a token");

#[cfg(test)]
mod tests {
    use super::{Connection, SlabKey, Tenant};
    use mio::Token;

    #[test]
    fn an_idle_connection_is_small() {
        // In a release build mio's socket is 4 bytes; in a debug build it is 16.
        let debug_bytes = size_of::<mio::net::TcpStream>() - 4;
        assert!(size_of::<Tenant>() - debug_bytes <= 172, "{} bytes", size_of::<Tenant>());
        assert_eq!(size_of::<Tenant>(), size_of::<Option<Tenant>>(), "an empty place needs no flag");
        assert!(size_of::<Connection>() <= size_of::<Tenant>());
    }

    #[test]
    fn a_key_survives_being_a_token() {
        for key in [SlabKey { index: 0, generation: 1 }, SlabKey { index: u32::MAX >> 1, generation: u32::MAX }] {
            assert_eq!(SlabKey::from_token(key.token()), key);
        }
        assert_eq!(SlabKey::from_token(Token(1)).generation, 0);
    }
}
