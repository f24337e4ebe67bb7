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
    message::{LeftCause, RollCall, ShardEvent},
    room::{Joining, RoomItem, RoomPushed},
    slab::SlabKey,
};
use billfish_session::Push;
use billfish_wire::Class;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A push to every session of an app, on its way through the slab.
#[derive(Debug)]
pub(super) struct AllJob {
    app_id: i32,
    push: Arc<Push>,
    next_place: u32,
    /// Places beyond came later.
    end: u32,
}

/// What a busy shard did between two rests: one turn of each room that had something to say.
#[derive(Debug)]
pub(super) struct Lap {
    began: Instant,
    copies: u64,
    sends: u64,
}

/// A busy shard rests no longer than this, however long its lap was: a phone's round trip.
const REST_MAX: Duration = Duration::from_millis(100);

impl Lap {
    pub(super) const fn begin(now: Instant) -> Self {
        Self { began: now, copies: 0, sends: 0 }
    }

    fn add(&mut self, copies: u64, sends: u64) {
        self.copies += copies;
        self.sends += sends;
    }

    /// How long to rest now, so that the next lap's sends carry more: at least `tick`, and as much of the lap as joining saved.
    ///
    /// A lap of many members takes long, and what comes up while it runs is joined anyway; a rest as short as `tick` adds little to that. Where
    /// each send carried one copy a longer rest would save nothing and only make the next lap longer.
    fn rest(&self, now: Instant, tick: Duration) -> Duration {
        let saved = self.copies.saturating_sub(self.sends) as f64 / self.copies.max(1) as f64;
        (now - self.began).mul_f64(saved).min(REST_MAX).max(tick)
    }
}

/// Pushes to everyone that may wait at a time. They are rare, an operator's notice; more of them would only repeat it.
const ALL_JOBS_MAX: usize = 64;

impl Shard {
    /// Hands a push to its room's queue.
    pub(super) fn push_to_room(&mut self, room_id: i64, frame: JobFrame) {
        let is_shed = self.is_shed(&frame.push);
        let (pushed, reason) = match is_shed {
            true => (self.desk.rooms.give_up(room_id, frame.push.class()), DropReason::Memory),
            false => (self.desk.rooms.push(room_id, frame), DropReason::RoomQueue),
        };
        match pushed {
            RoomPushed::Queued => {}
            RoomPushed::NoRoom => self.desk.counters.stale_commands.add(1),
            RoomPushed::Dropped { class, copies } => {
                self.desk.counters.copies.add(copies);
                self.desk.counters.dropped[class as usize][reason as usize].add(copies);
            }
        }
    }

    /// Whether a push is not made because the process is short of memory: chat and what is worth less, unless somebody is to confirm it.
    fn is_shed(&self, push: &Push) -> bool {
        self.sheds && matches!(push.class(), Class::Chat | Class::Ambient) && !push.wants_ack()
    }

    /// Queues a push to every session of an app.
    pub(super) fn push_to_all(&mut self, app_id: i32, push: Arc<Push>) {
        let is_shed = self.is_shed(&push);
        if !is_shed && self.all_jobs.len() < ALL_JOBS_MAX {
            self.all_jobs.push_back(AllJob { app_id, push, next_place: 0, end: self.slab.places() });
        } else {
            // Walking the slab for the books costs what walking it for the push would have begun with, and writes nothing.
            let copies = self.live_of(app_id);
            self.desk.counters.copies.add(copies);
            let reason = if is_shed { DropReason::Memory } else { DropReason::RoomQueue };
            self.desk.counters.dropped[push.class() as usize][reason as usize].add(copies);
        }
    }

    fn live_of(&mut self, app_id: i32) -> u64 {
        let mut live = 0;
        for place in 0..self.slab.places() {
            if let Some((_, Tenant::Open(conn))) = self.slab.at_mut(place) {
                live += u64::from(conn.session.is_live() && conn.session.app_id() == app_id);
            }
        }
        live
    }

    /// Writes a push to one session.
    pub(super) fn push_to_user(&mut self, key: SlabKey, push: &Arc<Push>) {
        let is_shed = self.is_shed(push);
        let Self { slab, desk, .. } = self;
        let Some(Tenant::Open(conn)) = slab.get_mut(key) else { return desk.counters.stale_commands.add(1) };
        if !conn.session.is_live() {
            return desk.counters.stale_commands.add(1);
        }
        if is_shed {
            desk.counters.copies.add(1);
            return desk.copy_dropped(0, push.class(), DropReason::Memory);
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
        // A turn costs one and a member costs one: less than two would never serve anybody.
        let mut budget = self.config.chunk_members.max(2);
        if let Some(mut job) = self.all_jobs.pop_front()
            && self.walk_all(&mut job, &mut budget)
        {
            self.all_jobs.push_front(job);
        }
        let is_collecting = self.is_collecting();
        if is_collecting && self.turns_due == 0 {
            // Whoever speaks up from here on waits for the next tick; a job that is under way does not.
            self.turns_due = self.desk.rooms.active();
            self.lap = Lap::begin(Instant::now());
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
            let now = Instant::now();
            self.next_round = now + self.lap.rest(now, self.config.busy_tick);
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
            // Who is in already is among those whom the job will walk over: the answer waits until they have its pushes, or it would
            // overtake them.
            if let (false, Some(RoomItem::Join(joining))) = (frames.is_empty(), room.peek()) {
                let key = joining.key;
                if self.is_member(key, room_id) {
                    break;
                }
            }
            let Some(room) = self.desk.rooms.get_mut(room_id) else { break };
            match room.peek() {
                Some(RoomItem::Push(_)) if frames.len() >= JOB_FRAMES_MAX || bytes >= JOB_BYTES_MAX => break,
                Some(RoomItem::Evict { .. } | RoomItem::RollCall(_)) if !frames.is_empty() => break,
                Some(RoomItem::RollCall(call)) => {
                    let call = *call;
                    self.name_members(call);
                    self.desk.rooms.pop(room_id);
                    continue;
                }
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
                    let Some(room) = self.desk.rooms.get_mut(room_id) else { break };
                    if !room.seen.pass(frame.seq()) {
                        continue;
                    }
                    if frames.is_empty() {
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
                Some(RoomItem::Evict { .. } | RoomItem::RollCall(_)) | None => break,
            }
        }
        if frames.is_empty() {
            return false;
        }
        self.desk.counters.fanout_jobs.add(1);
        self.desk.counters.fanout_frames.add(frames.len() as u64);
        let first_seq = frames.iter().map(JobFrame::seq).find(|seq| *seq > 0).unwrap_or(i64::MAX);
        let ahead = self.desk.rooms.get_mut(room_id).map(|room| room.seen.ahead_of(first_seq)).unwrap_or_default();
        let mut job = Box::new(Job::new(room_id, frames, ahead));
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

    fn is_member(&mut self, key: SlabKey, room_id: i64) -> bool {
        self.open_mut(key).is_some_and(|conn| conn.session.room_slot(room_id).is_some())
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
        let (copies, sends) = job.book(desk);
        self.lap.add(copies, sends);
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
        let (is_open, is_in) = match self.open_mut(key) {
            Some(conn) => (true, conn.session.room_slot(room_id).is_some()),
            None => (false, false),
        };
        if is_in && let Some(room) = self.desk.rooms.get_mut(room_id) {
            room.audience = audience;
            room.seen.enter(key, seq, room.members.len() == 1);
        }
        let cause = match (was_in, is_in) {
            (false, true) => return true,
            (true, true) => LeftCause::AlreadyIn,
            // It sent a LEAVE behind its JOIN, which went to the router as any other. Telling the router again could undo a later JOIN.
            (_, false) if is_open => LeftCause::Left,
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

    /// Names the members of a room to its owner: all of one moment, or whoever left and came between two steps would be missed. It costs
    /// what walking them for one push costs before anything is written, and is asked once in an owner's life.
    fn name_members(&mut self, call: RollCall) {
        let Self { slab, desk, .. } = self;
        let Some(room) = desk.rooms.get_mut(call.room_id) else { return };
        let members = room.members.indices().iter().filter_map(|index| match slab.at_mut(*index) {
            Some((_, Tenant::Open(conn))) => Some(conn.origin()),
            _ => None,
        });
        let members = members.collect();
        desk.events.push(ShardEvent::Seats { call, members });
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

#[cfg(test)]
#[expect(clippy::wildcard_enum_match_arm, reason = "a test may fail")]
mod tests {
    use super::Lap;
    use crate::shard::{
        Doorway, Shard, ShardConfig, ShardParts, WebSocketRules, listeners,
        message::{Admission, Listener, LoginGranted, Origin, RollCall, ShardCommand, ShardEvent, TurnedAway, UpReply},
    };
    use billfish_session::{
        Push,
        server::{LoginAccepted, ServerConfig, UpCall},
    };
    use billfish_state::DeviceKind;
    use billfish_wire::{Body, Code, Encoding, frame};
    use mio::{Events, Poll};
    use std::{
        io::{ErrorKind, Read, Write},
        net::{IpAddr, SocketAddr, TcpStream},
        sync::Arc,
        time::{Duration, Instant},
    };

    struct OpenDoor;
    impl Admission for OpenDoor {
        fn accept(&self, _listener: Listener, _peer: IpAddr) -> Result<(), TurnedAway> {
            Ok(())
        }
        fn logged_in(&self, _peer: IpAddr) {}
        fn closed(&self, _listener: Listener, _peer: IpAddr, _was_logged_in: bool) {}
    }

    /// A shard without a thread: its turns are taken one by one.
    struct Stepped {
        shard: Shard,
        poll: Poll,
        events: Events,
        address: SocketAddr,
    }

    impl Stepped {
        fn new(config: ShardConfig) -> Self {
            let listener = listeners("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
            let address = listener.local_addr().unwrap();
            let session = Arc::new(ServerConfig::default());
            let parts = ShardParts {
                index: 0,
                doors: vec![Doorway::plain(listener)],
                websocket: WebSocketRules::default(),
                config,
                session,
                admission: Arc::new(OpenDoor),
                epoch: Instant::now(),
            };
            let (shard, poll) = Shard::build(parts).unwrap();
            Self { shard, poll, events: Events::with_capacity(64), address }
        }

        fn step(&mut self) {
            self.poll.poll(&mut self.events, Some(Duration::from_millis(1))).unwrap();
            self.shard.set_now(Instant::now());
            self.shard.turn_once(&self.events);
        }

        fn member(&mut self, user_id: i64, room_id: i64) -> TcpStream {
            let mut client = TcpStream::connect(self.address).unwrap();
            client.set_nonblocking(true).unwrap();
            let login = Body { app_id: Some(10_001), user_id: Some(user_id), token: Some("t".into()), ..Body::default() };
            client.write_all(&frame::encode(Encoding::Json, Code::Login, &login)).unwrap();
            client.write_all(&frame::encode(Encoding::Json, Code::Join, &Body { room_id: Some(room_id), ..Body::default() })).unwrap();
            let members = |shard: &mut Shard| shard.desk.rooms.get_mut(room_id).map_or(0, |room| room.members.len());
            let before = members(&mut self.shard);
            let deadline = Instant::now() + Duration::from_secs(30);
            while members(&mut self.shard) == before {
                assert!(Instant::now() < deadline, "the member did not get in");
                self.step();
                self.answer();
            }
            drain(&mut client);
            client
        }

        /// As control would.
        fn answer(&self) {
            let mut batch = Vec::new();
            self.shard.events.take_into(&mut batch);
            for event in batch {
                let command = match event {
                    ShardEvent::Login { key, request, .. } => {
                        let origin = Origin { app_id: 10_001, user_id: request.user_id, device: DeviceKind::Other, session: 1 };
                        let accepted = LoginAccepted { session_id: "1".into(), node: "t".into(), server_time_ms: 0 };
                        ShardCommand::LoginVerdict { key, verdict: Ok(LoginGranted { accepted, origin }) }
                    }
                    ShardEvent::Up { key, origin, request, call } => {
                        let UpCall::Join { room_id, .. } = *call else { continue };
                        let reply = UpReply::Joined { origin, room_id, seq: 0, data: String::new(), audience: 0 };
                        ShardCommand::Reply { key, request, reply }
                    }
                    _ => continue,
                };
                self.shard.inbox.push(command).unwrap();
            }
        }

        fn push(&self, room_id: i64) {
            let push = Arc::new(Push::new(Body { room_id: Some(room_id), ..Body::default() }));
            self.shard.inbox.push(ShardCommand::RoomPush { room_id, push, except_user_id: 0, keep_permille: 0 }).unwrap();
        }

        fn delivered(&self) -> u64 {
            self.shard.desk.counters.delivered.iter().map(|counter| counter.value()).sum()
        }
    }

    fn drain(client: &mut TcpStream) -> usize {
        let (mut total, mut buffer) = (0, [0; 4096]);
        loop {
            match client.read(&mut buffer) {
                Ok(0) => panic!("the connection ended"),
                Ok(read) => total += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return total,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// A large room takes many turns; a small room, a heartbeat and a LOGIN have theirs in between.
    #[test]
    fn a_large_room_stops_neither_reads_nor_small_rooms() {
        let mut house = Stepped::new(ShardConfig { chunk_members: 4, ..ShardConfig::default() });
        let mut large: Vec<TcpStream> = (0..40).map(|nth| house.member(10_000 + nth, 1)).collect();
        let mut small = house.member(20_000, 2);
        house.push(1);
        house.push(2);
        small.write_all(&frame::encode(Encoding::Json, Code::Heartbeat, &Body::default())).unwrap();
        house.step();
        let after_one_turn = house.delivered();
        assert!((1..=4).contains(&after_one_turn), "{after_one_turn} in one turn of 4");
        house.step();
        assert!(house.delivered() < 20, "the large room is not done");
        let beats = house.shard.desk.counters.frames_in[crate::shard::counters::code_row(Code::Heartbeat.number())].value();
        assert_eq!(beats, 1, "read between two chunks");
        assert!(drain(&mut small) > 0, "the small room had its turn");
        while house.delivered() < 41 {
            house.step();
        }
        assert!(large.iter_mut().all(|client| drain(client) > 0));
    }

    /// A room whose pushes arrive while a job runs: they are joined in the next one, one write for all of them.
    #[test]
    fn what_is_pending_is_joined() {
        let mut house = Stepped::new(ShardConfig::default());
        let _members: Vec<TcpStream> = (0..3).map(|nth| house.member(10_000 + nth, 1)).collect();
        for _ in 0..16 {
            house.push(1);
        }
        house.step();
        let counters = &house.shard.desk.counters;
        assert_eq!((counters.fanout_jobs.value(), counters.fanout_frames.value(), counters.fanout_sends.value()), (1, 16, 3));
        assert_eq!(house.delivered(), 48);
    }

    /// A room that speaks faster than it can be served keeps what may not be dropped, and counts what it drops.
    #[test]
    fn a_full_room_queue_drops_chat_and_keeps_events() {
        let mut house = Stepped::new(ShardConfig { chunk_members: 2, ..ShardConfig::default() });
        let mut member = house.member(10_000, 1);
        let text = "x".repeat(10_000);
        let push = |class| {
            let push = Arc::new(Push::new(Body { room_id: Some(1), class: Some(class), data: Some(text.clone()), ..Body::default() }));
            house.shard.inbox.push(ShardCommand::RoomPush { room_id: 1, push, except_user_id: 0, keep_permille: 0 }).unwrap();
        };
        for _ in 0..500 {
            push(2);
        }
        push(1);
        house.step();
        let queued = house.shard.desk.rooms.queued_bytes();
        assert!((3 * 1024 * 1024..5 * 1024 * 1024).contains(&queued), "{queued} bytes wait");
        let counters = Arc::clone(&house.shard.desk.counters);
        let dropped_at_the_door = |class: usize| counters.dropped[class][crate::shard::counters::DropReason::RoomQueue as usize].value();
        let chat_dropped = dropped_at_the_door(2);
        assert!((50..150).contains(&chat_dropped), "{chat_dropped} of 500");
        while house.shard.has_rounds() {
            house.step();
            drain(&mut member);
        }
        assert_eq!(dropped_at_the_door(1), 0);
        let dropped: u64 = counters.dropped.iter().flatten().map(|counter| counter.value()).sum();
        assert_eq!(counters.copies.value(), 501);
        assert_eq!(house.delivered() + dropped + house.shard.desk.pending, 501);
    }

    /// A push to everyone that finds no room is in the books: as many copies as there were to be, all of them dropped.
    #[test]
    fn one_push_to_everyone_too_many_is_counted_as_dropped() {
        let mut house = Stepped::new(ShardConfig::default());
        let _members: Vec<TcpStream> = (0..3).map(|nth| house.member(10_000 + nth, 1)).collect();
        for _ in 0..=super::ALL_JOBS_MAX {
            let push = Arc::new(Push::new(Body { class: Some(1), ..Body::default() }));
            house.shard.push_to_all(10_001, push);
        }
        let counters = Arc::clone(&house.shard.desk.counters);
        let dropped = counters.dropped[1][crate::shard::counters::DropReason::RoomQueue as usize].value();
        assert_eq!((counters.copies.value(), dropped, counters.stale_commands.value()), (3, 3, 0));
        while house.shard.has_rounds() {
            house.step();
        }
        assert_eq!(counters.copies.value(), 3 + 3 * super::ALL_JOBS_MAX as u64);
        assert_eq!(house.delivered() + dropped + house.shard.desk.pending, counters.copies.value());
    }

    /// An owner that asks for the members has its answer behind what it was before: entries, evictions, and pushes to those who were in.
    #[test]
    fn members_are_named_behind_what_came_before_the_question() {
        let mut house = Stepped::new(ShardConfig::default());
        let _members: Vec<TcpStream> = (0..3).map(|nth| house.member(10_000 + nth, 1)).collect();
        house.shard.events.take_into(&mut Vec::new());
        let link = crate::upstream::Upstream::new(Arc::default()).link_up("r1").0;
        let call = |room_id| RollCall { room_id, epoch: 1, number: 1, parts: 1, link };
        house.push(1);
        house.shard.inbox.push(ShardCommand::Evict { room_id: 1, user_id: 10_001 }).unwrap();
        house.shard.inbox.push(ShardCommand::RollCall(call(1))).unwrap();
        house.shard.inbox.push(ShardCommand::RollCall(call(2))).unwrap();
        let (deadline, mut named) = (Instant::now() + Duration::from_secs(30), Vec::new());
        while named.len() < 2 {
            assert!(Instant::now() < deadline, "{named:?}");
            house.step();
            let mut batch = Vec::new();
            house.shard.events.take_into(&mut batch);
            let seats = |event| if let ShardEvent::Seats { call, members } = event { Some((call.room_id, members)) } else { None };
            named.extend(batch.into_iter().filter_map(seats));
        }
        named.sort_by_key(|(room_id, _)| *room_id);
        let mut users: Vec<i64> = named[0].1.iter().map(|origin| origin.user_id).collect();
        users.sort_unstable();
        assert_eq!(users, [10_000, 10_002]);
        assert_eq!(named[1], (2, Vec::new()), "where nobody is that is the answer");
        assert!(house.shard.desk.rooms.get_mut(2).is_none(), "and nothing is left of the question");
    }

    /// A busy shard collects for a tick; what was collected goes out in one job.
    #[test]
    fn a_busy_shard_collects_for_a_tick() {
        let mut house = Stepped::new(ShardConfig { busy_tick: Duration::from_secs(3_600), ..ShardConfig::default() });
        let _member = house.member(10_000, 1);
        house.shard.load.is_busy = true;
        house.push(1);
        house.step();
        assert_eq!(house.delivered(), 1, "the first tick is due at once");
        for _ in 0..5 {
            house.push(1);
            house.step();
        }
        assert_eq!(house.delivered(), 1);
        house.shard.next_round = Instant::now();
        house.step();
        assert_eq!(house.delivered(), 6);
        assert_eq!(house.shard.desk.counters.fanout_jobs.value(), 2);
    }

    /// Joining saved nothing: the tick. It saved nine sends of ten: nine tenths of the lap. Never longer than the bound.
    #[test]
    fn a_busy_shard_rests_as_much_of_its_lap_as_joining_saved() {
        let now = Instant::now();
        let tick = Duration::from_millis(5);
        let rest = |lap_ms, copies, sends| {
            let mut lap = Lap::begin(now);
            lap.add(copies, sends);
            lap.rest(now + Duration::from_millis(lap_ms), tick).as_millis()
        };
        assert_eq!(rest(50, 0, 0), 5);
        assert_eq!(rest(50, 1_000, 1_000), 5);
        assert_eq!(rest(50, 1_000, 100), 45);
        assert_eq!(rest(2, 1_000, 100), 5);
        assert_eq!(rest(1_000, 1_000, 100), 100);
    }

    #[test]
    fn a_lap_knows_what_its_walks_joined() {
        let mut house = Stepped::new(ShardConfig::default());
        let _member = house.member(10_000, 1);
        house.shard.load.is_busy = true;
        for _ in 0..4 {
            house.push(1);
        }
        house.step();
        assert_eq!(house.delivered(), 4);
        assert_eq!((house.shard.lap.copies, house.shard.lap.sends), (4, 1));
    }

    #[test]
    fn accepted_sockets_inherit_the_options_of_the_listener() {
        let mut house = Stepped::new(ShardConfig::default());
        let _client = house.member(10_000, 1);
        let (_, tenant) = house.shard.slab.at_mut(0).unwrap();
        let crate::shard::Tenant::Open(conn) = tenant else { panic!("it is open") };
        let socket = socket2::SockRef::from(&*conn.transport.socket());
        assert!(socket.tcp_nodelay().unwrap());
        // The kernel doubles what it is asked for.
        assert_eq!(socket.send_buffer_size().unwrap(), 2 * 16 * 1024);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
    }
}
