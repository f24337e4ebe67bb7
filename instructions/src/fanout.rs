//! One room of a shard: from its mailbox to one write per member, over loopback sockets.
//!
//! - In lock step: the next push comes when the last member has read the one before, so that the shard makes the same turns every time.
//! - The kernel's part is not counted. The readers' part is: one `read` per member.

use crate::Path;
use billfish_gateway::shard::{
    Doorway, Shard, ShardConfig, ShardHandle, ShardParts, WebSocketRules, listeners,
    message::{Admission, Listener, LoginGranted, Origin, ShardCommand, ShardEvent, TurnedAway, UpReply},
};
use billfish_session::{
    Form, Push,
    server::{LoginAccepted, ServerConfig, UpCall},
};
use billfish_state::DeviceKind;
use billfish_wire::{Body, Code, Encoding, frame};
use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

const ROOM: i64 = 1;
const MEMBERS: usize = 128;
/// So many that what differs in 128 logins, which also take turns of the shard, is next to nothing.
const TIMES: u32 = 600;

pub(crate) fn paths() -> impl Iterator<Item = Path> {
    [1, 16]
        .into_iter()
        .map(|joined| Path::new(format!("fanout/{MEMBERS}_members/{joined}_joined"), TIMES, move |times| fan_out(times, joined)))
}

fn fan_out(times: u32, joined: usize) {
    let mut room = Room::new();
    // The same ones every time, without a number of the room's: who makes and frees a push, here or there, is a matter of time.
    let pushes: Vec<Arc<Push>> = (0..joined).map(|_| Arc::new(push())).collect();
    let bytes = pushes.iter().map(|push| push.frame(Form::Json).len()).sum();
    let mut buffer = vec![0; bytes];
    let mut batch = Vec::new();
    for _ in 0..times {
        let command = |push| ShardCommand::RoomPush { room_id: ROOM, push: Arc::clone(push), except_user_id: 0, keep_permille: 0 };
        batch.extend(pushes.iter().map(command));
        assert!(room.shard.commands.push_batch(&mut batch), "there is room for a batch");
        for member in &mut room.members {
            member.read_exact(&mut buffer).expect("the shard writes to everyone");
        }
    }
    room.end(u64::from(times) * (joined * MEMBERS) as u64);
}

/// A shard that runs, with everyone in one room.
struct Room {
    shard: ShardHandle,
    members: Vec<TcpStream>,
}

impl Room {
    fn new() -> Self {
        let listener = listeners(([127, 0, 0, 1], 0).into(), 1).expect("a free port").remove(0);
        let address = listener.local_addr().expect("it is bound");
        // Without ticks, which go by the clock.
        let config = ShardConfig { busy_tick: Duration::ZERO, ..ShardConfig::default() };
        let session = Arc::new(ServerConfig { login_timeout_ms: 600_000, heartbeat_gap_ms: 3_600_000, ..ServerConfig::default() });
        let parts = ShardParts {
            index: 0,
            doors: vec![Doorway::plain(listener)],
            websocket: WebSocketRules::default(),
            config,
            session,
            admission: Arc::new(OpenDoor),
            epoch: Instant::now(),
        };
        let shard = Shard::spawn(parts).expect("a thread");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        // One after the other: in a crowd the order would be the kernel's.
        let members = (10_000..).take(MEMBERS).map(|user_id| enter(&shard, &runtime, address, user_id)).collect();
        Self { shard, members }
    }

    fn end(self, copies: u64) {
        self.shard.commands.push(ShardCommand::Stop).expect("there is room for a command");
        let counters = Arc::clone(&self.shard.counters);
        self.shard.join().expect("the shard ends");
        assert_eq!(counters.copies.value(), copies, "every member was served");
    }
}

/// LOGIN and JOIN of one member, with the control plane played here.
fn enter(shard: &ShardHandle, runtime: &tokio::runtime::Runtime, address: SocketAddr, user_id: i64) -> TcpStream {
    let mut member = TcpStream::connect(address).expect("the shard listens");
    let login = Body { app_id: Some(10_001), user_id: Some(user_id), token: Some("t".to_owned()), ..Body::default() };
    let join = Body { room_id: Some(ROOM), ..Body::default() };
    let frames = [(Code::Login, login), (Code::Join, join)];
    let mut batch = Vec::new();
    for (code, body) in frames {
        member.write_all(&frame::encode(Encoding::Json, code, &body)).expect("the shard reads");
        let mut answers: Vec<ShardCommand> = Vec::new();
        while answers.is_empty() {
            assert!(runtime.block_on(shard.events.drain(&mut batch)), "the shard runs");
            answers.extend(batch.drain(..).filter_map(answer));
        }
        runtime.block_on(shard.commands.send(&mut answers));
        expect_frame(&mut member);
    }
    member
}

fn answer(event: ShardEvent) -> Option<ShardCommand> {
    match event {
        ShardEvent::Login { key, request, .. } => {
            let origin = Origin { app_id: request.app_id, user_id: request.user_id, device: DeviceKind::Other, session: 1 };
            let accepted = LoginAccepted { session_id: "1".to_owned(), node: "n".to_owned(), server_time_ms: 0 };
            Some(ShardCommand::LoginVerdict { key, verdict: Ok(LoginGranted { accepted, origin }) })
        }
        ShardEvent::Up { key, origin, request, call } => {
            let UpCall::Join { room_id, .. } = *call else { return None };
            let reply = UpReply::Joined { origin, room_id, seq: 0, data: "{}".to_owned(), audience: 0 };
            Some(ShardCommand::Reply { key, request, reply })
        }
        ShardEvent::Gone { .. }
        | ShardEvent::LeftRoom { .. }
        | ShardEvent::Seats { .. }
        | ShardEvent::Alive { .. }
        | ShardEvent::RecordAck { .. }
        | ShardEvent::Acked { .. }
        | ShardEvent::HandOver { .. } => None,
    }
}

/// Reads one frame and throws it away.
fn expect_frame(member: &mut TcpStream) {
    let mut head = [0; billfish_wire::HEADER_BYTES];
    member.read_exact(&mut head).expect("an answer");
    let [.., a, b, c, d] = head;
    let mut body = vec![0; u32::from_be_bytes([a, b, c, d]) as usize];
    member.read_exact(&mut body).expect("all of it");
}

/// 120 bytes on the wire.
fn push() -> Push {
    let body = Body { biz_code: Some(5555), room_id: Some(ROOM), class: Some(2), ..Body::default() };
    let empty = Push::new(Body { data: Some(String::new()), ..body.clone() }).frame(Form::Json).len();
    Push::new(Body { data: Some("x".repeat(120 - empty)), ..body })
}

struct OpenDoor;

impl Admission for OpenDoor {
    fn accept(&self, _listener: Listener, _peer: IpAddr) -> Result<(), TurnedAway> {
        Ok(())
    }
    fn logged_in(&self, _peer: IpAddr) {}
    fn closed(&self, _listener: Listener, _peer: IpAddr, _was_logged_in: bool) {}
}
