//! The crowd against a small gateway in this process, which loses, doubles and swaps copies on purpose.

mod gifts;
mod quic;

use super::{
    Crowd,
    room::Load,
    slow::{Pace, Slow},
};
use crate::{
    transport::{TlsPlan, Transport},
    worker::{Activity, Plan, RoomEnds, WorkerReport},
};
use billfish_wire::{Body, Code, Encoding, Reassembler, frame, limits::BODY_BYTES_MAX};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

const ROOM: i64 = 77;
const FIRST_USER_ID: i64 = 20_000;

#[test]
fn every_copy_of_a_clean_gateway_is_received_once_and_acknowledged() {
    let gateway = Gateway { qos: 1, ..Gateway::clean(5) };
    let report = run(gateway, 6, Activity::Listen, 5);
    assert_eq!(report.totals.received, 30);
    assert_eq!((report.totals.duplicates, report.totals.order_breaks, report.totals.strays), (0, 0, 0));
    assert_eq!(report.latency.count(), 30);
    assert!(report.messages[0].iter().all(|message| message.received == 6), "{:?}", report.messages);
    assert!(report.lost.is_empty(), "{:?}", report.lost);
}

#[test]
fn a_lost_a_doubled_and_a_swapped_copy_are_each_seen() {
    let lost = run(Gateway { copies: vec![(0, 1), (1, 2), (3, 4)], ..Gateway::clean(0) }, 3, Activity::Listen, 3);
    assert_eq!((lost.totals.received, lost.messages[0][2].received), (9, 0));

    let doubled = run(Gateway { copies: vec![(0, 1), (1, 2), (1, 2)], ..Gateway::clean(0) }, 3, Activity::Listen, 2);
    assert_eq!((doubled.totals.received, doubled.totals.duplicates), (6, 3));

    let swapped = run(Gateway { copies: vec![(0, 1), (2, 3), (1, 2)], ..Gateway::clean(0) }, 3, Activity::Listen, 3);
    assert_eq!((swapped.totals.received, swapped.totals.order_breaks), (9, 3));
}

#[test]
fn a_copy_of_another_room_is_a_stray_and_no_delivery() {
    let report = run(Gateway { push_room: ROOM + 1, ..Gateway::clean(4) }, 2, Activity::Listen, 0);
    assert_eq!((report.totals.received, report.totals.strays), (0, 8));
}

#[test]
fn frames_cut_anywhere_are_understood() {
    let report = run(Gateway { cut: 7, ..Gateway::clean(3) }, 2, Activity::Listen, 3);
    assert_eq!(report.totals.received, 6);
}

#[test]
fn a_gateway_that_refuses_logins_fails_each_with_its_reason() {
    let refuses = Some(Body::refusal(billfish_wire::Reason::BadToken));
    let plan = plan(Gateway { refuses, ..Gateway::clean(0) }.serve(), 4, Activity::Listen);
    let mut crowd = Crowd::new(&plan, tokens(4)).expect("epoll");
    connect(&mut crowd);
    let settled = crowd.settled();
    assert_eq!(settled.settled, 0);
    assert_eq!(settled.failures.get("bad_token"), Some(&4), "{:?}", settled.failures);
}

#[test]
fn who_is_refused_with_a_time_to_come_back_does_and_is_told_apart() {
    let refuses = Some(Body { retry_after_ms: Some(1), ..Body::refusal(billfish_wire::Reason::Unavailable) });
    let gateway = Gateway { refuses, refusals: Arc::new(AtomicUsize::new(3)), ..Gateway::clean(0) };
    let plan = plan(gateway.serve(), 4, Activity::Listen);
    let mut crowd = Crowd::new(&plan, tokens(4)).expect("epoll");
    connect(&mut crowd);
    let settled = crowd.settled();
    assert_eq!((settled.settled, settled.failures.len(), settled.retries.get("unavailable")), (4, 0, Some(&3)));
    assert_eq!(settled.login.count(), 4, "each counts from its first try");
}

#[test]
fn who_waited_long_for_a_place_has_all_the_time_to_log_in() {
    let waited = Duration::from_secs(60);
    let of_now = plan(Gateway::clean(0).serve(), 4, Activity::Listen);
    let plan = Plan { connect_rate: 1e6, connect_max: 2 * waited, ..of_now };
    let mut crowd = Crowd::new(&plan, tokens(4)).expect("epoll");
    crowd.begin_connecting();
    crowd.connect_began_ns -= u64::try_from(waited.as_nanos()).expect("a minute");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !crowd.connect_turn().expect("epoll") {
        assert!(Instant::now() < deadline, "connecting does not end");
    }
    assert_eq!((crowd.settled().settled, crowd.settled().failures.len()), (4, 0), "{:?}", crowd.settled().failures);
}

#[test]
fn nobody_listening_fails_every_connect_and_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let plan = plan(address, 3, Activity::Listen);
    let mut crowd = Crowd::new(&plan, tokens(3)).expect("epoll");
    connect(&mut crowd);
    assert_eq!(crowd.settled().failures.values().sum::<u64>(), 3);
}

#[test]
fn a_closed_loop_of_heartbeats_counts_each_echo_once() {
    let plan = plan(Gateway::clean(0).serve(), 4, Activity::Echo { per_s: 0.0 });
    let mut crowd = Crowd::new(&plan, tokens(4)).expect("epoll");
    connect(&mut crowd);
    crowd.begin_activity();
    turn_until(&mut crowd, |crowd| crowd.received_now() >= 100);
    crowd.end_activity(&[]);
    turn_until(&mut crowd, |crowd| !crowd.awaits_more());
    let report = crowd.report();
    assert_eq!(report.sent, report.totals.received);
    assert_eq!(report.latency.count(), report.sent);
}

#[test]
fn a_paced_echo_sends_what_is_due() {
    let plan = plan(Gateway::clean(0).serve(), 4, Activity::Echo { per_s: 2_000.0 });
    let mut crowd = Crowd::new(&plan, tokens(4)).expect("epoll");
    connect(&mut crowd);
    crowd.begin_activity();
    let began_ns = crate::clock::now_ns();
    turn_until(&mut crowd, |crowd| crowd.received_now() >= 60);
    let due = (crate::clock::now_ns() - began_ns) / 500_000 + 2;
    crowd.end_activity(&[]);
    turn_until(&mut crowd, |crowd| !crowd.awaits_more());
    let report = crowd.report();
    assert!(report.sent >= 60 && report.sent <= due, "{} sent, {due} due", report.sent);
}

#[test]
fn a_herd_that_is_cut_comes_back_on_the_other_gateway() {
    let (mortal, streams) = Gateway::clean(0).serve_mortal();
    let other = Gateway::clean(0).serve();
    let plan = Plan { gateways: vec![mortal, other], return_spread: Some(Duration::from_millis(20)), ..plan(mortal, 6, Activity::Listen) };
    let mut crowd = Crowd::new(&plan, tokens(6)).expect("epoll");
    connect(&mut crowd);
    // Before this worker has heard that the load begins: another one was faster, and the gateway is dead already.
    for stream in streams.lock().expect("no test holds it and panics").drain(..) {
        stream.shutdown(std::net::Shutdown::Both).expect("it is open");
    }
    crowd.turn().expect("epoll");
    crowd.begin_activity();
    turn_until(&mut crowd, |crowd| crowd.herd.as_ref().is_some_and(|herd| herd.tally.returned == 6));
    assert_eq!((crowd.settled_now(), crowd.shared.rooms[0].members), (6, 6));
    crowd.end_activity(&[0]);
    let report = crowd.report();
    let herd = report.herd.clone().expect("it was a herd");
    assert_eq!((herd.cut, herd.returned, herd.cut_again, herd.back.count()), (6, 6, 0, 6));
    assert!(report.lost.is_empty() && report.sent == report.beats_echoed, "{report:?}");
}

/// Stopped for longer than any test takes.
const STOPPED: Slow = Slow {
    slow_permille: 0,
    bytes_per_s: 40,
    stopped_permille: 1_000,
    stop: Duration::from_secs(3_600),
    calm: Duration::ZERO,
    receive_buffer_bytes: 4_096,
};

#[test]
fn a_stopped_client_reads_nothing_until_the_load_is_over_and_then_all_of_it() {
    let (mut crowd, streams) = lagging(STOPPED, 3);
    push_to_all(&streams, 2);
    for _ in 0..20 {
        crowd.turn().expect("epoll");
    }
    assert_eq!(crowd.received_now(), 0);
    crowd.end_activity(&[2]);
    turn_until(&mut crowd, |crowd| !crowd.awaits_more());
    let report = crowd.report();
    assert_eq!((report.totals.received, report.stopped_clients, report.slow_clients), (6, 3, 0));
    let by_pace = report.by_pace.expect("some are slow");
    assert_eq!((by_pace.stopped.count(), by_pace.prompt.count(), by_pace.calm.count()), (6, 0, 0));
}

#[test]
fn a_stopped_client_reads_again_when_its_time_is_over() {
    let (mut crowd, streams) = lagging(Slow { stop: Duration::from_millis(300), ..STOPPED }, 2);
    push_to_all(&streams, 1);
    assert_eq!(crowd.shared.stats.beats_sent, 0);
    turn_until(&mut crowd, |crowd| crowd.shared.stats.totals.received == 2);
    assert!(crowd.shared.now_ns >= crowd.shared.lag_from_ns + 300_000_000, "not before");
    assert_eq!(crowd.shared.stats.beats_sent, 2, "each speaks up at once: the heartbeat that it left out may have been due");
}

#[test]
fn a_slow_client_gets_its_helpings_and_the_rest_at_the_end() {
    let (mut crowd, streams) = lagging(Slow { slow_permille: 1_000, stopped_permille: 0, ..STOPPED }, 2);
    push_to_all(&streams, 30);
    // Ten bytes each quarter of a second are a piece of a frame.
    turn_until(&mut crowd, |crowd| crowd.connections.iter().all(|connection| connection.reassembler.is_partial()));
    assert_eq!(crowd.shared.stats.totals.received, 0);
    crowd.end_activity(&[30]);
    turn_until(&mut crowd, |crowd| !crowd.awaits_more());
    let report = crowd.report();
    assert_eq!((report.totals.received, report.totals.order_breaks, report.slow_clients), (60, 0, 2));
}

#[test]
fn a_slow_client_that_the_gateway_ends_is_given_up_not_lost_and_has_read_all_that_was_written() {
    let (mut crowd, streams) = lagging(STOPPED, 3);
    push_to_all(&streams, 2);
    for stream in streams.lock().expect("no test holds it and panics").drain(..) {
        stream.shutdown(std::net::Shutdown::Both).expect("it is open");
    }
    for _ in 0..20 {
        crowd.turn().expect("epoll");
    }
    assert_eq!(crowd.settled_now(), 3, "who does not read does not notice");
    crowd.end_activity(&[5]);
    turn_until(&mut crowd, |crowd| crowd.settled_now() == 0);
    let report = crowd.report();
    assert_eq!((report.totals.received, report.lost.len(), report.resets), (6, 0, 0));
    assert_eq!(report.given_up.values().sum::<u64>(), 3, "{:?}", report.given_up);
    assert_eq!(report.room_ends, [RoomEnds { members: 3, received: 6 }]);
    assert!(report.ends.iter().all(|end| end.received == 2 && end.pace == Pace::Stopped), "{:?}", report.ends);
}

#[test]
fn the_state_of_a_client_stays_small() {
    // The promise is a few hundred bytes per client; the kernel's socket is ten times that.
    assert!(size_of::<super::Connection>() <= 160, "{} bytes", size_of::<super::Connection>());
    // Until it is in it has a token besides; the server's are 43 characters. Where it comes back it keeps that, and its wait.
    let token_bytes = 43;
    let in_a_herd = size_of::<super::Connection>() + token_bytes + super::herd::Herd::BYTES_PER_CLIENT;
    assert!(in_a_herd <= 256, "{in_a_herd} bytes");
}

/// A crowd that is in, of clients that lag from the beginning of the load, which has come; and its connections at the gateway.
fn lagging(slow: Slow, clients: usize) -> (Crowd<'static>, Arc<Mutex<Vec<TcpStream>>>) {
    let (gateway, streams) = Gateway::clean(0).serve_mortal();
    // A test may keep it to its end.
    let plan: &'static Plan = Box::leak(Box::new(Plan { slow: Some(slow), ..plan(gateway, clients, Activity::Listen) }));
    let mut crowd = Crowd::new(plan, tokens(clients)).expect("epoll");
    connect(&mut crowd);
    crowd.begin_activity();
    (crowd, streams)
}

/// Writes so many messages of the room to every connection.
fn push_to_all(streams: &Mutex<Vec<TcpStream>>, messages: u32) {
    for stream in streams.lock().expect("no test holds it and panics").iter_mut() {
        for number in 0..messages {
            let data = Some(Load { number, intended_ns: crate::clock::now_ns() }.data(60));
            let push = Body { room_id: Some(ROOM), seq: Some(i64::from(number) + 1), data, ..Body::default() };
            stream.write_all(&frame::encode(Encoding::Json, Code::Biz, &push)).expect("a few kilobytes fit into the kernel");
        }
    }
}

/// Runs a listening crowd of `clients` to its end; `accepted` messages are expected.
fn run(gateway: Gateway, clients: usize, activity: Activity, accepted: u32) -> WorkerReport {
    let (copies, qos) = (gateway.copies.len() * clients, gateway.qos);
    let (address, acks) = gateway.serve_counting();
    let plan = plan(address, clients, activity);
    let mut crowd = Crowd::new(&plan, tokens(clients)).expect("epoll");
    connect(&mut crowd);
    crowd.begin_activity();
    // All that the gateway sent, whatever became of it.
    turn_until(&mut crowd, |crowd| {
        let totals = &crowd.shared.stats.totals;
        totals.received + totals.duplicates + totals.strays == copies as u64
    });
    if qos == 1 {
        turn_until(&mut crowd, |_| acks.load(Relaxed) == copies);
    }
    crowd.end_activity(&[accepted]);
    assert_eq!(crowd.awaits_more(), crowd.shared.stats.totals.received < u64::from(accepted) * clients as u64);
    crowd.report()
}

fn connect(crowd: &mut Crowd<'_>) {
    crowd.begin_connecting();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !crowd.connect_turn().expect("epoll") {
        assert!(Instant::now() < deadline, "connecting does not end");
    }
}

fn turn_until(crowd: &mut Crowd<'_>, done: impl Fn(&Crowd<'_>) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done(crowd) {
        assert!(Instant::now() < deadline, "waited in vain: {:?}", crowd.shared.stats.totals);
        crowd.turn().expect("epoll");
    }
}

fn tokens(count: usize) -> Vec<Box<str>> {
    vec!["token".into(); count]
}

fn plan(gateway: SocketAddr, clients: usize, activity: Activity) -> Plan {
    Plan {
        return_spread: None,
        slow: None,
        gateways: vec![gateway],
        transport: Transport::Tcp,
        tls: TlsPlan { ca_pem: None, resumes: false },
        http: String::new(),
        api_key: String::new(),
        app_id: 10_001,
        first_user_id: FIRST_USER_ID,
        first: 0,
        clients,
        rooms: if activity == Activity::Listen { vec![ROOM] } else { Vec::new() },
        protobuf: false,
        sources: 3,
        login_window: 2,
        connect_rate: 0.0,
        login_timeout: Duration::from_secs(10),
        connect_max: Duration::from_secs(20),
        quiet: Duration::from_secs(5),
        activity,
        gifts: None,
    }
}

/// A gateway that answers what a crowd asks and, after JOIN, sends the same copies to everyone.
#[derive(Clone)]
struct Gateway {
    /// (number, seq)
    copies: Vec<(u32, i64)>,
    push_room: i64,
    qos: i32,
    /// What LOGIN is answered with, as long as `refusals` lasts.
    refuses: Option<Body>,
    refusals: Arc<AtomicUsize>,
    /// Bytes per write.
    cut: usize,
}

impl Gateway {
    fn clean(copies: u32) -> Self {
        let copies = (0..copies).map(|number| (number, i64::from(number) + 1)).collect();
        Self { copies, push_room: ROOM, qos: 0, refuses: None, refusals: Arc::new(AtomicUsize::new(usize::MAX)), cut: usize::MAX }
    }

    fn serve(self) -> SocketAddr {
        self.serve_counting().0
    }

    /// A gateway whose connections can be taken from it.
    fn serve_mortal(self) -> (SocketAddr, Arc<Mutex<Vec<TcpStream>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let streams = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&streams);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                kept.lock().expect("no test holds it and panics").push(stream.try_clone().expect("few descriptors"));
                let gateway = self.clone();
                thread::spawn(move || gateway.talk(stream, &AtomicUsize::new(0)));
            }
        });
        (address, streams)
    }

    /// Listens until the test process ends; the counter is of ACKs.
    fn serve_counting(self) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let acks = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&acks);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (gateway, counter) = (self.clone(), Arc::clone(&counter));
                thread::spawn(move || gateway.talk(stream, &counter));
            }
        });
        (address, acks)
    }

    fn talk(&self, mut stream: TcpStream, acks: &AtomicUsize) {
        let mut reassembler = Reassembler::default();
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            let mut out = Vec::new();
            let mut frames = reassembler.feed(&buffer[..read]);
            while let Some(frame) = frames.next(BODY_BYTES_MAX).expect("the crowd sends frames") {
                let body = Body::decode(frame.encoding, frame.body).expect("the crowd sends bodies");
                self.answer(Code::from_number(frame.code).expect("a known code"), &body, &mut out, acks);
            }
            for piece in out.chunks(self.cut) {
                if stream.write_all(piece).is_err() {
                    return;
                }
            }
        }
    }

    fn answer(&self, code: Code, body: &Body, out: &mut Vec<u8>, acks: &AtomicUsize) {
        let mut say = |code, body: &Body| frame::encode_into(out, Encoding::Json, code, body);
        match code {
            Code::Login => {
                let is_refused = self.refusals.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
                if let Some(refusal) = self.refuses.as_ref().filter(|_| is_refused) {
                    return say(Code::Error, refusal);
                }
                assert!(body.user_id.is_some_and(|user_id| user_id >= FIRST_USER_ID));
                say(Code::Login, &Body { heartbeat_secs: Some(30), ..Body::yes() });
            }
            Code::Join => {
                say(Code::Join, &Body { room_id: Some(ROOM), seq: Some(0), ..Body::default() });
                for &(number, seq) in &self.copies {
                    let data = Load { number, intended_ns: 1 }.data(60);
                    let msg_id = (self.qos == 1).then(|| format!("r{ROOM}-{seq}"));
                    let push = Body {
                        room_id: Some(self.push_room),
                        seq: Some(seq),
                        qos: Some(self.qos),
                        msg_id,
                        data: Some(data),
                        ..Body::default()
                    };
                    say(Code::Biz, &push);
                }
            }
            Code::Heartbeat => say(Code::Heartbeat, &Body::yes()),
            Code::Ack => {
                assert!(body.msg_id.is_some());
                acks.fetch_add(1, Relaxed);
            }
            Code::WsShake | Code::Logout | Code::Biz | Code::Kick | Code::Leave | Code::Sync | Code::Error | Code::Reconnect => {}
        }
    }
}
