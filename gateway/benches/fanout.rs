//! What a delivery costs the shard: one room, loopback sockets, 120-byte frames, pushes one at a time and joined.
//!
//! Measured is CPU time of the writing thread (`/proc/…/stat`, in ticks of 10 ms), not wall time: the readers share the machine. `bare` is
//! the floor of the same run: a loop of `write` over the same number of sockets, without users, rooms or limits.
#![expect(clippy::unwrap_used, reason = "a bench may fail")]

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
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mio::{Events, Interest, Poll, Token};
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const ROOM: i64 = 1;
/// Both ends are in this process, which may have 20,000 files.
const MEMBERS: [usize; 2] = [1_000, 9_000];
const JOINING: [usize; 3] = [1, 16, 32];

fn fanout(criterion: &mut Criterion) {
    for members in MEMBERS {
        let mut group = criterion.benchmark_group(format!("fanout/{members}"));
        group.sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
        let bare = Bare::new(members);
        for joining in JOINING {
            group.throughput(Throughput::Elements((members * joining) as u64));
            group.bench_function(BenchmarkId::new("bare", joining), |bencher| bencher.iter_custom(|rounds| bare.run(rounds, joining)));
        }
        drop(bare);
        let room = Room::new(members);
        for joining in JOINING {
            group.throughput(Throughput::Elements((members * joining) as u64));
            group.bench_function(BenchmarkId::new("shard", joining), |bencher| bencher.iter_custom(|rounds| room.run(rounds, joining)));
        }
        group.finish();
    }
}

/// A push of 120 bytes on the wire.
fn push(seq: i64) -> Push {
    let body =
        Body { biz_code: Some(5555), room_id: Some(ROOM), seq: Some(1_000_000 + seq % 1_000_000), class: Some(2), ..Body::default() };
    let empty = Push::new(Body { data: Some(String::new()), ..body.clone() }).frame(Form::Json).len();
    Push::new(Body { data: Some("x".repeat(120 - empty)), ..body })
}

/// Sockets and a loop of writes.
struct Bare {
    sockets: Vec<TcpStream>,
    readers: Readers,
}

impl Bare {
    fn new(members: usize) -> Self {
        let listener = listeners("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        listener.set_nonblocking(false).unwrap();
        socket2::SockRef::from(&listener).set_send_buffer_size(16 * 1024).unwrap();
        let address = listener.local_addr().unwrap();
        let (clients, sockets) = (0..members)
            .map(|nth| {
                let client = connect(address, nth);
                let socket = listener.accept().unwrap().0;
                socket.set_nonblocking(true).unwrap();
                socket.set_nodelay(true).unwrap();
                (client, socket)
            })
            .unzip();
        Self { sockets, readers: Readers::new(clients) }
    }

    fn run(&self, rounds: u64, joining: usize) -> Duration {
        let bytes = push(0).frame(Form::Json).repeat(joining);
        let before = cpu_time("thread-self");
        for _ in 0..rounds {
            let target = self.readers.bytes.load(Relaxed) + (bytes.len() * self.sockets.len()) as u64;
            for mut socket in &self.sockets {
                assert_eq!(socket.write(&bytes).unwrap(), bytes.len());
            }
            self.readers.wait_for(target);
        }
        cpu_time("thread-self") - before
    }
}

/// The same through a shard.
struct Room {
    shard: Option<ShardHandle>,
    task: String,
    readers: Readers,
}

impl Room {
    fn new(members: usize) -> Self {
        let listener = listeners("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let address = listener.local_addr().unwrap();
        let session = Arc::new(ServerConfig::default());
        let config = ShardConfig::default();
        let parts = ShardParts {
            index: 0,
            doors: vec![Doorway::plain(listener)],
            websocket: WebSocketRules::default(),
            config,
            session,
            admission: Arc::new(OpenDoor),
            epoch: Instant::now(),
        };
        let shard = Shard::spawn(parts).unwrap();
        let mut clients: Vec<TcpStream> = (0..members).map(|nth| connect(address, nth)).collect();
        for (client, user_id) in clients.iter_mut().zip(10_000..) {
            let login = Body { app_id: Some(10_001), user_id: Some(user_id), token: Some("t".to_owned()), ..Body::default() };
            client.write_all(&frame::encode(Encoding::Json, Code::Login, &login)).unwrap();
            let join = Body { room_id: Some(ROOM), ..Body::default() };
            client.write_all(&frame::encode(Encoding::Json, Code::Join, &join)).unwrap();
        }
        let mut joined = 0;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut batch = Vec::new();
        while joined < members {
            assert!(runtime.block_on(shard.events.drain(&mut batch)));
            let mut answers = Vec::new();
            for event in batch.drain(..) {
                match event {
                    ShardEvent::Login { key, request, .. } => {
                        let origin = Origin { app_id: 10_001, user_id: request.user_id, device: DeviceKind::Other, session: 1 };
                        let accepted = LoginAccepted { session_id: "1".to_owned(), node: "bench".to_owned(), server_time_ms: 0 };
                        answers.push(ShardCommand::LoginVerdict { key, verdict: Ok(LoginGranted { accepted, origin }) });
                    }
                    ShardEvent::Up { key, origin, request, call } => {
                        if let UpCall::Join { room_id, .. } = *call {
                            joined += 1;
                            let reply = UpReply::Joined { origin, room_id, seq: 0, data: "{}".to_owned(), audience: 0 };
                            answers.push(ShardCommand::Reply { key, request, reply });
                        }
                    }
                    ShardEvent::Gone { .. }
                    | ShardEvent::LeftRoom { .. }
                    | ShardEvent::Seats { .. }
                    | ShardEvent::Alive { .. }
                    | ShardEvent::RecordAck { .. }
                    | ShardEvent::Acked { .. }
                    | ShardEvent::HandOver { .. } => {}
                }
            }
            runtime.block_on(shard.commands.send(&mut answers));
        }
        let task = fs::read_dir("/proc/self/task")
            .unwrap()
            .map(|task| task.unwrap().path())
            .find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "shard-0"))
            .unwrap();
        let task = format!("self/task/{}", task.file_name().unwrap().to_str().unwrap());
        Self { shard: Some(shard), task, readers: Readers::new(clients) }
    }

    fn run(&self, rounds: u64, joining: usize) -> Duration {
        let shard = self.shard.as_ref().unwrap();
        let delivered = || shard.counters.delivered.iter().map(|counter| counter.value()).sum::<u64>();
        let members = self.readers.sockets as u64;
        let mut batch = Vec::new();
        let before = cpu_time(&self.task);
        for round in 0..rounds as i64 {
            let target = delivered() + members * joining as u64;
            batch.extend((0..joining as i64).map(|nth| {
                let push = Arc::new(push(round * joining as i64 + nth));
                ShardCommand::RoomPush { room_id: ROOM, push, except_user_id: 0, keep_permille: 0 }
            }));
            assert!(shard.commands.push_batch(&mut batch));
            while delivered() < target {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let cpu = cpu_time(&self.task) - before;
        assert_eq!(delivered(), shard.counters.copies.value(), "nothing was dropped");
        cpu
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let Some(shard) = self.shard.take() else { return };
        drop(shard.commands.push(ShardCommand::Stop));
        shard.join().unwrap();
    }
}

struct OpenDoor;

impl Admission for OpenDoor {
    fn accept(&self, _listener: Listener, _peer: IpAddr) -> Result<(), TurnedAway> {
        Ok(())
    }
    fn logged_in(&self, _peer: IpAddr) {}
    fn closed(&self, _listener: Listener, _peer: IpAddr, _was_logged_in: bool) {}
}

/// A thread that reads everything and throws it away.
struct Readers {
    sockets: usize,
    bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Readers {
    fn new(clients: Vec<TcpStream>) -> Self {
        let (bytes, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let sockets = clients.len();
        let thread = std::thread::spawn({
            let (bytes, stop) = (Arc::clone(&bytes), Arc::clone(&stop));
            move || read_all(clients, &bytes, &stop)
        });
        Self { sockets, bytes, stop, thread: Some(thread) }
    }

    fn wait_for(&self, target: u64) {
        while self.bytes.load(Relaxed) < target {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn read_all(clients: Vec<TcpStream>, bytes: &AtomicU64, stop: &AtomicBool) {
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(1_024);
    let mut sockets: Vec<mio::net::TcpStream> = Vec::with_capacity(clients.len());
    for (nth, client) in clients.into_iter().enumerate() {
        client.set_nonblocking(true).unwrap();
        let mut socket = mio::net::TcpStream::from_std(client);
        poll.registry().register(&mut socket, Token(nth), Interest::READABLE).unwrap();
        sockets.push(socket);
    }
    let mut buffer = vec![0; 64 * 1024];
    while !stop.load(Relaxed) {
        poll.poll(&mut events, Some(Duration::from_millis(20))).unwrap();
        for event in &events {
            loop {
                match sockets[event.token().0].read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => {
                        bytes.fetch_add(read as u64, Relaxed);
                        if read < buffer.len() {
                            break;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

/// From one of many loopback addresses, as a crowd would.
fn connect(address: SocketAddr, nth: usize) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let from = Ipv4Addr::new(127, 0, 1, u8::try_from(nth % 200).unwrap() + 1);
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    TcpStream::from(socket)
}

/// Time a thread has spent on a core, user and system.
fn cpu_time(task: &str) -> Duration {
    const TICK_MS: u64 = 10;
    let stat = fs::read_to_string(format!("/proc/{task}/stat")).expect("Linux");
    // Behind the name, which is in brackets and may hold anything, utime and stime are the 12th and 13th field.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    Duration::from_millis(fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number of ticks") * TICK_MS).sum())
}

criterion_group!(benches, fanout);
criterion_main!(benches);
