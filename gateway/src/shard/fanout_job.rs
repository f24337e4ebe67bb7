//! One walk over the members of a room, with every push that was pending when it began: one write per member.
//!
//! - The pushes' frames are joined once per form. On the common path a member costs one `write` of those bytes and nothing else: no
//!   allocation, no reference count, no look at the single frame.
//! - A member has a path of its own when it must not get all frames alike: it sent one of them, some are sampled, it entered in between, or
//!   something waits in its backlog already.
//! - A member that came by QUIC is handed the frames one by one, for each class has a stream of its own there.
//! - What the socket does not take goes to the member's backlog as whole frames, each sharing the push's own bytes. The joined bytes live
//!   no longer than the job.

use super::{
    connection::{Connection, Doom, Tag},
    counters::DropReason,
    desk::Desk,
    slab::SlabKey,
};
use crate::quic::{ShardEnd, Way};
use billfish_session::{Form, Push, backlog::Queued};
use billfish_wire::Class;
use bytes::Bytes;
use smallvec::SmallVec;
use std::{
    io::{self, IoSlice},
    ops::Range,
    sync::Arc,
};

/// Pushes in one job: half a backlog, so that one job alone drops nothing of a reader whose socket happens to be full.
pub(super) const JOB_FRAMES_MAX: usize = 128;
/// Joined bytes of one job, the last push apart: what a fresh socket takes at once.
pub(super) const JOB_BYTES_MAX: usize = 16 * 1024;

/// A push on its way to the members of a room.
#[derive(Debug)]
pub(super) struct JobFrame {
    pub(super) push: Arc<Push>,
    /// Not to this user; 0: to all.
    pub(super) except_user_id: i64,
    /// 0: all keep it.
    pub(super) keep_permille: u16,
    /// When the shard took it from its mailbox, in µs of its clock.
    pub(super) came_us: u64,
}

impl JobFrame {
    /// `keep_permille` is heeded for what may be dropped, and only when it says something.
    pub(super) fn new(push: Arc<Push>, except_user_id: i64, keep_permille: u16, came_us: u64) -> Self {
        let is_sampled = push.class().may_drop() && (1..1000).contains(&keep_permille);
        Self { push, except_user_id, keep_permille: if is_sampled { keep_permille } else { 0 }, came_us }
    }

    /// Its place in the room; 0: none.
    pub(super) fn seq(&self) -> i64 {
        self.push.body().seq.unwrap_or(0)
    }

    const fn is_for(&self, user_id: i64) -> bool {
        self.except_user_id == 0 || self.except_user_id != user_id
    }

    /// Decided by who it is and which message it is, so that all devices of a user see the same room.
    fn is_kept_by(&self, user_id: i64) -> bool {
        let seq = self.push.body().seq.unwrap_or(0);
        self.keep_permille == 0 || mix(user_id.cast_unsigned() ^ seq.cast_unsigned().rotate_left(32)) % 1000 < u64::from(self.keep_permille)
    }
}

/// The finisher of splitmix64: neighbours among ids and numbers come out unrelated.
const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The frames of a job in one form, one behind the other.
#[derive(Debug)]
struct Joined {
    bytes: Bytes,
    /// Where each frame ends.
    ends: SmallVec<[usize; 16]>,
}

impl Joined {
    fn new(form: Form, frames: &[JobFrame]) -> Self {
        if let [frame] = frames {
            let bytes = frame.push.frame(form);
            return Self { ends: SmallVec::from_slice(&[bytes.len()]), bytes };
        }
        let frames: SmallVec<[Bytes; 16]> = frames.iter().map(|frame| frame.push.frame(form)).collect();
        let mut bytes = Vec::with_capacity(frames.iter().map(Bytes::len).sum());
        let ends = frames
            .iter()
            .map(|frame| {
                bytes.extend_from_slice(frame);
                bytes.len()
            })
            .collect();
        Self { bytes: Bytes::from(bytes), ends }
    }

    fn range(&self, frame: usize) -> Range<usize> {
        let start = if frame == 0 { 0 } else { self.ends[frame - 1] };
        start..self.ends[frame]
    }
}

/// The joined frames of a form, made by the first who needs them.
fn joined<'a>(forms: &'a mut [Option<Joined>; Form::COUNT], form: Form, frames: &[JobFrame]) -> &'a Joined {
    forms[form as usize].get_or_insert_with(|| Joined::new(form, frames))
}

/// What a part of a job came to. Written down once per part, not once per copy.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// Members that took the joined bytes whole.
    whole: u64,
    copies: u64,
    delivered: [u64; Class::ALL.len()],
    sampled: [u64; Class::ALL.len()],
    sends: u64,
    bytes: u64,
}

/// One walk over the members of a room.
#[derive(Debug)]
pub(super) struct Job {
    room_id: i64,
    frames: Vec<JobFrame>,
    joined: [Option<Joined>; Form::COUNT],
    per_class: [u64; Class::ALL.len()],
    /// Users who must not get one of the frames.
    excepts: SmallVec<[i64; 16]>,
    /// Members who came with a snapshot up to this number, and have some of the frames in it. In the order of keys.
    ahead: Vec<(SlabKey, i64)>,
    is_sampled: bool,
    wants_acks: bool,
    served: Served,
}

impl Job {
    pub(super) fn new(room_id: i64, frames: Vec<JobFrame>, ahead: Vec<(SlabKey, i64)>) -> Self {
        let mut per_class = [0; Class::ALL.len()];
        for frame in &frames {
            per_class[frame.push.class() as usize] += 1;
        }
        let mut excepts: SmallVec<[i64; 16]> = frames.iter().map(|frame| frame.except_user_id).filter(|user_id| *user_id != 0).collect();
        excepts.sort_unstable();
        excepts.dedup();
        Self {
            room_id,
            joined: Default::default(),
            per_class,
            excepts,
            is_sampled: frames.iter().any(|frame| frame.keep_permille > 0),
            wants_acks: frames.iter().any(|frame| frame.push.wants_ack()),
            served: Served::default(),
            ahead,
            frames,
        }
    }

    /// Pushes in it.
    pub(super) fn frames(&self) -> &[JobFrame] {
        &self.frames
    }

    /// Gives a member the frames from `first` on.
    ///
    /// # Errors
    /// The connection cannot go on; the caller ends it when the walk allows. Its copies are accounted for.
    pub(super) fn serve(&mut self, key: SlabKey, conn: &mut Connection, first: usize, desk: &mut Desk) -> Result<(), Doom> {
        let user_id = conn.session.user_id();
        let has_up_to = self.has_up_to(key);
        let is_like_all = first == 0 && !self.is_sampled && has_up_to == 0 && self.excepts.binary_search(&user_id).is_err();
        if conn.transport.quic().is_some() {
            return self.serve_by_class(key, conn, first, has_up_to, desk);
        }
        if is_like_all && conn.outbox.is_none() {
            let joined = joined(&mut self.joined, conn.form(), &self.frames);
            let taken = conn.transport.write(&joined.bytes, &mut desk.scratch);
            self.served.sends += 1;
            if taken.as_ref().is_ok_and(|taken| *taken == joined.bytes.len()) {
                self.served.whole += 1;
                self.served.bytes += joined.bytes.len() as u64;
            } else {
                let all: SmallVec<[usize; JOB_FRAMES_MAX]> = (0..self.frames.len()).collect();
                self.served.copies += all.len() as u64;
                self.settle(key, conn, &all, taken, desk)?;
            }
            if self.wants_acks {
                self.watch(key, conn, 0..self.frames.len(), desk);
            }
            return Ok(());
        }
        let picked = self.pick(user_id, first, has_up_to);
        if picked.is_empty() {
            return Ok(());
        }
        let taken = if conn.outbox.is_none() { self.write_picked(conn, &picked, desk) } else { Ok(0) };
        self.settle(key, conn, &picked, taken, desk)?;
        if self.wants_acks {
            self.watch(key, conn, picked.iter().copied(), desk);
        }
        Ok(())
    }

    /// The same for a member that has a stream for each class: frames are handed over one by one, all under one lock, and share the push's
    /// own bytes.
    fn serve_by_class(&mut self, key: SlabKey, conn: &mut Connection, first: usize, has_up_to: i64, desk: &mut Desk) -> Result<(), Doom> {
        let picked = self.pick(conn.session.user_id(), first, has_up_to);
        let form = conn.form();
        let mut refused = picked.clone();
        if conn.outbox.is_none()
            && let Some(mut offer) = conn.transport.quic().map(ShardEnd::offer)
        {
            self.served.sends += 1;
            refused.retain(|at| {
                let push = &self.frames[*at].push;
                let frame = push.frame(form);
                let is_taken = offer.take(Way::Push(push.class()), &frame);
                if is_taken {
                    self.served.delivered[push.class() as usize] += 1;
                    self.served.bytes += frame.len() as u64;
                }
                !is_taken
            });
        }
        self.settle(key, conn, &refused, Ok(0), desk)?;
        if self.wants_acks {
            self.watch(key, conn, picked.iter().copied(), desk);
        }
        Ok(())
    }

    /// The number up to which a member has everything in its snapshot; 0 for nearly everyone.
    fn has_up_to(&self, key: SlabKey) -> i64 {
        if self.ahead.is_empty() {
            return 0;
        }
        self.ahead.binary_search_by_key(&key, |(known, _)| *known).map_or(0, |at| self.ahead[at].1)
    }

    /// The frames for one user, and the account of those that are his and are left out.
    fn pick(&mut self, user_id: i64, first: usize, has_up_to: i64) -> SmallVec<[usize; JOB_FRAMES_MAX]> {
        let mut picked = SmallVec::new();
        for (at, frame) in self.frames.iter().enumerate().skip(first) {
            let seq = frame.seq();
            if !frame.is_for(user_id) || (seq > 0 && seq <= has_up_to) {
                continue;
            }
            self.served.copies += 1;
            if frame.is_kept_by(user_id) {
                picked.push(at);
            } else {
                self.served.sampled[frame.push.class() as usize] += 1;
            }
        }
        picked
    }

    /// Writes some of the joined frames: neighbours as one piece.
    fn write_picked(&mut self, conn: &mut Connection, picked: &[usize], desk: &mut Desk) -> io::Result<usize> {
        let joined = joined(&mut self.joined, conn.form(), &self.frames);
        let mut ranges: SmallVec<[Range<usize>; 16]> = SmallVec::new();
        for at in picked {
            let range = joined.range(*at);
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        self.served.sends += 1;
        if let [range] = ranges.as_slice() {
            return conn.transport.write(&joined.bytes[range.clone()], &mut desk.scratch);
        }
        let pieces: SmallVec<[IoSlice<'_>; 16]> = ranges.into_iter().map(|range| IoSlice::new(&joined.bytes[range])).collect();
        conn.transport.write_vectored(&pieces, &mut desk.scratch)
    }

    /// Accounts for the frames that a write took whole and queues the others.
    fn settle(
        &mut self,
        key: SlabKey,
        conn: &mut Connection,
        picked: &[usize],
        taken: io::Result<usize>,
        desk: &mut Desk,
    ) -> Result<(), Doom> {
        let form = conn.form();
        let (mut left, mut doom) = match taken {
            Ok(taken) => (taken, None),
            Err(_) => (0, Some(Doom::Failed)),
        };
        self.served.bytes += left as u64;
        for at in picked {
            let push = &self.frames[*at].push;
            let frame = push.frame(form);
            if doom.is_none() && left >= frame.len() {
                left -= frame.len();
                self.served.delivered[push.class() as usize] += 1;
                continue;
            }
            let queued = Queued { frame, class: push.class(), state: push.state().cloned(), tag: Tag::Copy { room_id: self.room_id } };
            match doom {
                None => doom = conn.queue(key, queued, std::mem::take(&mut left), desk).err(),
                Some(_) => desk.copy_dropped(self.room_id, push.class(), DropReason::Closed),
            }
        }
        doom.map_or(Ok(()), Err)
    }

    /// QoS 1: the session waits for the ACKs.
    fn watch(&self, key: SlabKey, conn: &mut Connection, frames: impl Iterator<Item = usize>, desk: &mut Desk) {
        for at in frames {
            let push = &self.frames[at].push;
            if push.wants_ack() {
                desk.watch_ack(conn, push);
            }
        }
        desk.want(key, conn);
    }

    /// Writes down what the walk came to so far. Gives copies and sends.
    pub(super) fn book(&mut self, desk: &mut Desk) -> (u64, u64) {
        let served = std::mem::take(&mut self.served);
        let copies = served.copies + served.whole * self.frames.len() as u64;
        let mut delivered = served.delivered;
        for (sum, in_whole) in delivered.iter_mut().zip(self.per_class) {
            *sum += served.whole * in_whole;
        }
        desk.book_copies(self.room_id, copies, &delivered, &served.sampled);
        desk.counters.fanout_sends.add(served.sends);
        desk.counters.bytes_out.add(served.bytes);
        (copies, served.sends)
    }
}

#[cfg(test)]
mod tests {
    use super::JobFrame;
    use billfish_session::Push;
    use billfish_wire::Body;
    use std::sync::Arc;

    #[test]
    fn sampling_keeps_about_its_share_and_the_same_one_each_time() {
        let frame = |seq| {
            let body = Body { seq: Some(seq), class: Some(2), ..Body::default() };
            JobFrame::new(Arc::new(Push::new(body)), 0, 250, 0)
        };
        let kept: Vec<i64> = (0..40_000).filter(|n| frame(1 + n % 200).is_kept_by(10_000 + n / 200)).collect();
        let again: Vec<i64> = (0..40_000).filter(|n| frame(1 + n % 200).is_kept_by(10_000 + n / 200)).collect();
        assert_eq!(kept, again);
        assert!((9_500..10_500).contains(&kept.len()), "{} of 40,000 at 250 in 1,000", kept.len());
    }

    #[test]
    fn what_may_not_be_dropped_is_not_sampled() {
        for class in [0, 1] {
            let body = Body { seq: Some(1), class: Some(class), ..Body::default() };
            let frame = JobFrame::new(Arc::new(Push::new(body)), 0, 1, 0);
            assert!((10_000..11_000).all(|user_id| frame.is_kept_by(user_id)));
        }
    }
}
