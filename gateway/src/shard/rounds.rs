//! Whose turn it is: rooms one after the other, a bounded number of members between two looks at the sockets.
//!
//! - A turn serves at most [`ShardConfig::chunk_members`](super::ShardConfig::chunk_members) members, of one large room or of many small
//!   ones. A room that is not done goes to the end of the line.
//! - While members are being walked nobody enters, leaves or is ended: what a write finds out waits until the walk pauses.

use super::{
    Shard,
    connection::Tenant,
    counters::DropReason,
    fanout_job::{JOB_BYTES_MAX, JOB_FRAMES_MAX, Job, JobFrame},
    message::{LeftCause, ShardEvent},
    room::{Joining, RoomItem, RoomPushed},
    slab::SlabKey,
};
use billfish_session::Push;
use std::{sync::Arc, time::Instant};

/// A push to every session of an app, on its way through the slab.
#[derive(Debug)]
pub(super) struct AllJob {
    app_id: i32,
    push: Arc<Push>,
    next_place: u32,
    /// Places beyond came later.
    end: u32,
}

/// Pushes to everyone that may wait at a time. They are rare, an operator's notice; more of them would only repeat it.
const ALL_JOBS_MAX: usize = 64;

impl Shard {
    /// Hands a push to its room's queue.
    pub(super) fn push_to_room(&mut self, room_id: i64, frame: JobFrame) {
        match self.desk.rooms.push(room_id, frame) {
            RoomPushed::Queued => {}
            RoomPushed::NoRoom => self.desk.counters.stale_commands.add(1),
            RoomPushed::Dropped { class, copies } => {
                self.desk.counters.copies.add(copies);
                self.desk.counters.dropped[class as usize][DropReason::RoomQueue as usize].add(copies);
            }
        }
    }

    /// Queues a push to every session of an app.
    pub(super) fn push_to_all(&mut self, app_id: i32, push: Arc<Push>) {
        if self.all_jobs.len() < ALL_JOBS_MAX {
            self.all_jobs.push_back(AllJob { app_id, push, next_place: 0, end: self.slab.places() });
        } else {
            self.desk.counters.stale_commands.add(1);
        }
    }

    /// Writes a push to one session.
    pub(super) fn push_to_user(&mut self, key: SlabKey, push: &Arc<Push>) {
        let Self { slab, desk, .. } = self;
        let Some(Tenant::Open(conn)) = slab.get_mut(key) else { return desk.counters.stale_commands.add(1) };
        if !conn.session.is_live() {
            return desk.counters.stale_commands.add(1);
        }
        let sent = conn.send_copy(key, push, 0, desk);
        if sent.is_ok() && push.wants_ack() {
            desk.watch_ack(conn, push);
            desk.want(key, conn);
        }
        self.judge(key, sent);
    }

    /// Whether any member waits for anything.
    pub(super) fn has_rounds(&self) -> bool {
        self.desk.rooms.has_active() || !self.all_jobs.is_empty()
    }

    /// One turn for the rooms.
    pub(super) fn round(&mut self) {
        let mut budget = self.config.chunk_members.max(1);
        if let Some(mut job) = self.all_jobs.pop_front()
            && self.walk_all(&mut job, &mut budget)
        {
            self.all_jobs.push_front(job);
        }
        let is_collecting = self.is_collecting();
        if is_collecting && self.turns_due == 0 {
            // Whoever speaks up from here on waits for the next tick; a job that is under way does not.
            self.turns_due = self.desk.rooms.active();
            self.desk.counters.tick_turns.add(1);
        }
        while budget > 0
            && (!is_collecting || self.turns_due > 0)
            && let Some(room_id) = self.desk.rooms.next_active()
        {
            // Even a turn without members costs something.
            budget -= 1;
            self.turn(room_id, &mut budget);
            let is_under_way = self.desk.rooms.end_turn(room_id);
            if !is_under_way {
                self.turns_due = self.turns_due.saturating_sub(1);
            }
            self.end_doomed();
        }
        if is_collecting && (self.turns_due == 0 || !self.desk.rooms.has_active()) {
            self.turns_due = 0;
            self.next_round = Instant::now() + self.config.busy_tick;
        }
    }

    /// One room's turn: a part of its job, or what stands at the head of its queue.
    fn turn(&mut self, room_id: i64, budget: &mut usize) {
        let Some(room) = self.desk.rooms.get_mut(room_id) else { return };
        if room.job.is_none() && !self.begin(room_id, budget) {
            return;
        }
        self.walk(room_id, budget);
    }

    /// Takes from a room's queue until there is a job; `true` when there is one.
    ///
    /// ```text
    ///   queue:  join a, push 1, push 2, join b, push 3, evict c, push 4 …
    ///           └ now ┘ └──────── one job of 1, 2, 3 ┘  └ after it
    ///   b enters with the job: it is given 3 alone, and is not walked over.
    /// ```
    fn begin(&mut self, room_id: i64, budget: &mut usize) -> bool {
        let mut frames: Vec<JobFrame> = Vec::new();
        let mut bytes = 0;
        let mut late: Vec<(SlabKey, usize)> = Vec::new();
        while let Some(room) = self.desk.rooms.get_mut(room_id) {
            match room.peek() {
                Some(RoomItem::Push(_)) if frames.len() >= JOB_FRAMES_MAX || bytes >= JOB_BYTES_MAX => break,
                Some(RoomItem::Evict { .. }) if !frames.is_empty() => break,
                Some(RoomItem::Evict { user_id }) => {
                    let user_id = *user_id;
                    if !self.evict_some(room_id, user_id, budget) {
                        return false;
                    }
                    self.desk.rooms.pop(room_id);
                    continue;
                }
                // An entry costs a snapshot of some kilobytes: a crowd at the door has its turns too.
                Some(RoomItem::Join(_)) if *budget == 0 => break,
                Some(RoomItem::Push(_) | RoomItem::Join(_)) => {}
                None => break,
            }
            match self.desk.rooms.pop(room_id) {
                Some(RoomItem::Push(frame)) => {
                    if frames.is_empty()
                        && let Some(room) = self.desk.rooms.get_mut(room_id)
                    {
                        room.members.begin();
                    }
                    bytes += frame.push.body().data.as_ref().map_or(0, String::len) + FRAME_OVERHEAD_BYTES;
                    frames.push(frame);
                }
                Some(RoomItem::Join(joining)) => {
                    *budget = budget.saturating_sub(1);
                    let key = joining.key;
                    if self.join(room_id, *joining) && !frames.is_empty() {
                        late.push((key, frames.len()));
                    }
                }
                Some(RoomItem::Evict { .. }) | None => break,
            }
        }
        if frames.is_empty() {
            return false;
        }
        self.desk.counters.fanout_jobs.add(1);
        self.desk.counters.fanout_frames.add(frames.len() as u64);
        let mut job = Box::new(Job::new(room_id, frames));
        for (key, first) in late {
            let Self { slab, desk, .. } = self;
            if first < job.frames().len()
                && let Some(Tenant::Open(conn)) = slab.get_mut(key)
                && conn.session.room_slot(room_id).is_some()
            {
                let served = job.serve(key, conn, first, desk);
                self.judge(key, served);
            }
        }
        if let Some(room) = self.desk.rooms.get_mut(room_id) {
            room.job = Some(job);
        }
        true
    }

    /// Serves members until the budget is spent or all are served.
    fn walk(&mut self, room_id: i64, budget: &mut usize) {
        let Self { slab, desk, .. } = self;
        let Some(room) = desk.rooms.get_mut(room_id) else { return };
        let Some(mut job) = room.job.take() else { return };
        // Out of the map for as long as the walk lasts, which changes no membership: the members' backlogs need the map for their books.
        let mut members = std::mem::take(&mut room.members);
        let mut is_done = false;
        while *budget > 0 {
            let Some(index) = members.next() else {
                is_done = true;
                break;
            };
            *budget -= 1;
            if let Some((key, Tenant::Open(conn))) = slab.at_mut(index) {
                let served = job.serve(key, conn, 0, desk);
                if let Err(doom) = served {
                    self.doomed.push((key, doom));
                }
            }
        }
        is_done |= !members.is_walked();
        if is_done {
            members.finish();
        }
        job.book(desk);
        let now_us = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
        let room = desk.rooms.enter(room_id);
        room.members = members;
        if is_done {
            for frame in job.frames() {
                desk.counters.fanout_latency.record(now_us.saturating_sub(frame.came_us));
            }
        } else {
            room.job = Some(job);
        }
    }

    /// A session enters a room in its turn. `true` when it is a member now that was none before.
    fn join(&mut self, room_id: i64, joining: Joining) -> bool {
        let Joining { key, origin, request, seq, data, audience } = joining;
        let Self { slab, desk, .. } = self;
        let mut was_in = false;
        if let Some(Tenant::Open(conn)) = slab.get_mut(key) {
            was_in = conn.session.room_slot(room_id).is_some();
            conn.session.on_joined(request, room_id, seq, data, audience, &mut desk.actions);
            self.carry_out(key);
        }
        let is_in = self.open_mut(key).is_some_and(|conn| conn.session.room_slot(room_id).is_some());
        if is_in && let Some(room) = self.desk.rooms.get_mut(room_id) {
            room.audience = audience;
        }
        let cause = match (was_in, is_in) {
            (false, true) => return true,
            (true, true) => LeftCause::AlreadyIn,
            (_, false) => LeftCause::NotEntered,
        };
        self.desk.events.push(ShardEvent::LeftRoom { origin, room_id, cause });
        false
    }

    /// Takes members out of a room: one user's sessions, or as many as the budget allows. `true` when none is left to be taken out.
    fn evict_some(&mut self, room_id: i64, user_id: i64, budget: &mut usize) -> bool {
        loop {
            let Self { slab, desk, .. } = self;
            let Some(room) = desk.rooms.get_mut(room_id) else { return true };
            // From the end: then nobody has to move.
            let found = room.members.indices().iter().rev().find_map(|index| match slab.at_mut(*index) {
                Some((key, Tenant::Open(conn))) if user_id == 0 || conn.session.user_id() == user_id => Some(key),
                _ => None,
            });
            let Some(key) = found else { return true };
            if user_id == 0 {
                if *budget == 0 {
                    return false;
                }
                *budget -= 1;
            }
            self.evict(key, room_id);
            self.end_doomed();
        }
    }

    /// Goes on with a push to everyone; `true` when there is more to do.
    fn walk_all(&mut self, job: &mut AllJob, budget: &mut usize) -> bool {
        while *budget > 0 && job.next_place < job.end {
            let Self { slab, desk, .. } = self;
            let place = job.next_place;
            job.next_place += 1;
            let Some((key, Tenant::Open(conn))) = slab.at_mut(place) else { continue };
            if !conn.session.is_live() || conn.session.app_id() != job.app_id {
                continue;
            }
            *budget -= 1;
            let sent = conn.send_copy(key, &job.push, 0, desk);
            if sent.is_ok() && job.push.wants_ack() {
                desk.watch_ack(conn, &job.push);
                desk.want(key, conn);
            }
            self.judge(key, sent);
        }
        self.end_doomed();
        job.next_place < job.end
    }
}

/// What a frame has beside `data`: header, field names, ids.
const FRAME_OVERHEAD_BYTES: usize = 100;
