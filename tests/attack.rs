//! An attack on every door at once, and what it costs those who mean it: strangers that never finish their first word, a flood of LOGINs
//! with guessed tokens, sessions that send without end. Short in `make test`; `make attack` has the numbers of docs/security.md.

use crate::{
    house::{House, Peer, eventually, login_body},
    slow::connect_from,
};
use billfish_wire::{Body, Code, Encoding, Reason, frame};
use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How much of it.
struct Scale {
    strangers: usize,
    good: usize,
    guesses_per_s: u64,
    /// A tenth of these may be without login, and that is less than there are strangers.
    connections_max: usize,
}

impl Scale {
    /// `make attack` asks for the long one.
    fn of_this_run() -> Self {
        match std::env::var("ATTACK").as_deref() {
            Ok("long") => Self { strangers: 5_000, good: 3_000, guesses_per_s: 1_000, connections_max: 18_000 },
            _ => Self { strangers: 300, good: 200, guesses_per_s: 200, connections_max: 2_500 },
        }
    }
}

/// Strangers of one address: its allowance of new connections is 50 a second.
const PER_ADDRESS: usize = 50;
/// A stranger says one byte in this time.
const PACE: Duration = Duration::from_secs(1);
/// Of a thousand good logins, so many may fail.
const FAILURES_PER_MILLE_MAX: usize = 1;
/// Somebody who is in waits no longer than this for a heartbeat, whatever goes on at the doors.
const BEAT_MAX: Duration = Duration::from_secs(2);

#[test]
fn an_attack_at_every_door_costs_no_good_login() {
    let scale = Scale::of_this_run();
    // Loopback is no exception here. There are more strangers than may be without login.
    let house = House::with(&format!(
        "[gateway.admission]\nexempt = []\nconnections_max = {}\n[gateway.session]\nlogin_timeout = \"5s\"\n",
        scale.connections_max
    ));
    let tokens: Vec<String> = (0..scale.good).map(|user| house.token(100_001 + user as i64)).collect();
    let floods: Vec<(i64, String)> = (0..20).map(|user| (50_001 + user, house.token(50_001 + user))).collect();
    let mut inside = good_peer(&house, 0, 19_999, &house.token(19_999)).expect("nobody is at the door yet");
    let resident_before = house.metric("process_resident_memory_bytes", &[]);

    let attack = Arc::new(Attack::default());
    let doors = [house.ports.tcp, house.ports.ws, house.ports.tls];
    let mut attackers = vec![
        attack.spawn(move |attack| strangers(attack, doors, scale.strangers)),
        attack.spawn(move |attack| guesses(attack, doors[0], scale.guesses_per_s)),
        attack.spawn(move |attack| messages(attack, doors[0], &floods)),
    ];
    // What the strangers hold is theirs for five seconds; so the doors are as full as they get after two or three. They get no further
    // than that each of their addresses has an eighth of what is free: 107 of 250 places from 6 addresses, 1,666 of 1,800 from 100.
    let (places, addresses) = ((scale.connections_max / 10) as f64, scale.strangers.div_ceil(PER_ADDRESS) as f64);
    let crowd = places * addresses / (addresses + 8.0) * 0.8;
    eventually("the crowd is there", || house.metric("gateway_connections", &[]) >= crowd && attack.guesses.load(Relaxed) > 50);

    let timed_out = || house.metric("gateway_closes_total", &["reason=\"login_timeout\""]);
    let began = Instant::now();
    let (mut waits, mut beats, mut failures, mut good) = (Vec::new(), Vec::new(), 0, Vec::new());
    for (at, token) in tokens.iter().enumerate() {
        let asked = Instant::now();
        match good_peer(&house, 1 + at, 100_001 + at as i64, token) {
            Some(peer) => good.push(peer),
            None => failures += 1,
        }
        waits.push(asked.elapsed());
        // Fifty in all, which is within what a session may send at once.
        if at % (scale.good / 50) == 0 {
            let asked = Instant::now();
            inside.send(Code::Heartbeat, &Body::default());
            inside.expect(Code::Heartbeat);
            beats.push(asked.elapsed());
        }
    }
    let took = began.elapsed();
    // At least one whole generation of strangers is cut while they come.
    eventually("strangers are cut", || attack.cut.load(Relaxed) >= scale.strangers as u64 && timed_out() >= crowd);
    let resident_after = house.metric("process_resident_memory_bytes", &[]);
    attack.is_over.store(true, Relaxed);
    for attacker in attackers.drain(..) {
        attacker.join().unwrap();
    }
    for peer in &mut good {
        peer.send(Code::Heartbeat, &Body::default());
        peer.expect(Code::Heartbeat);
    }
    let inside_now = 1 + good.len();
    eventually("only those who meant it are left", || (house.metric("gateway_connections", &[]) - inside_now as f64).abs() < 0.5);

    waits.sort();
    beats.sort();
    let at = |of: &[Duration], percent: usize| of[(of.len() - 1) * percent / 100];
    eprintln!(
        "attack: {} strangers at three doors for {places} places, {} of them cut at their deadline and {} at the door or then;",
        scale.strangers,
        timed_out(),
        attack.cut.load(Relaxed)
    );
    eprintln!(
        "  {} guessed LOGINs tried, {} of them let to the token; {} frames of floods, {} floods cut",
        attack.guesses.load(Relaxed),
        house.metric("gateway_logins_total", &["result=\"bad_token\""]),
        attack.frames.load(Relaxed),
        attack.flooders_cut.load(Relaxed)
    );
    eprintln!(
        "  good logins: {} of {} in {took:.1?}, p50 {:.1?}, p99 {:.1?}, longest {:.1?}",
        good.len(),
        tokens.len(),
        at(&waits, 50),
        at(&waits, 99),
        at(&waits, 100)
    );
    eprintln!("  heartbeats of who was in: p50 {:.1?}, longest {:.1?}", at(&beats, 50), at(&beats, 100));
    eprintln!(
        "  refused at the door: {}; memory {:+.1} MiB",
        house.metric("gateway_admission_refused_total", &[]),
        (resident_after - resident_before) / 1_048_576.0
    );

    assert!(failures * 1_000 <= tokens.len() * FAILURES_PER_MILLE_MAX, "{failures} of {} good logins failed", tokens.len());
    assert!(at(&beats, 100) < BEAT_MAX, "{:?}", at(&beats, 100));
    assert!(attack.flooders_cut.load(Relaxed) > 0, "who floods is cut");
    assert!(house.metric("gateway_admission_refused_total", &["reason=\"half_open\""]) > 0.0, "strangers wanted more than they got");
    assert!(house.metric("gateway_admission_refused_total", &["reason=\"banned\""]) > 0.0, "who guesses is banned");
}

/// Somebody with a token and an address of its own.
fn good_peer(house: &House, at: usize, user: i64, token: &str) -> Option<Peer> {
    let source = Ipv4Addr::new(127, 2, u8::try_from(at / 250).unwrap(), u8::try_from(1 + at % 250).unwrap());
    let mut peer = Peer::of(connect_from(source, house.ports.tcp));
    peer.send(Code::Login, &login_body(user, token.to_owned()));
    matches!(peer.next(), Some((Code::Login, _))).then_some(peer)
}

/// What goes on, and how far.
#[derive(Default)]
struct Attack {
    is_over: AtomicBool,
    cut: AtomicU64,
    guesses: AtomicU64,
    frames: AtomicU64,
    flooders_cut: AtomicU64,
}

impl Attack {
    fn spawn(self: &Arc<Self>, run: impl FnOnce(&Self) + Send + 'static) -> JoinHandle<()> {
        let attack = Arc::clone(self);
        std::thread::spawn(move || run(&attack))
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Relaxed)
    }
}

/// Connections that say one byte now and then of a LOGIN, an HTTP request or a TLS hello that never ends. Who is cut comes again.
fn strangers(attack: &Attack, doors: [SocketAddr; 3], count: usize) {
    let openings: [&[u8]; 3] =
        [&[0x48, 0xF1, 0, 0, 3, 0xE9, 0, 0, 2, 0], b"GET /ws HTTP/1.1\r\nX-", &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3]];
    let connect = |at: usize| {
        let address = at / PER_ADDRESS;
        let source = Ipv4Addr::new(127, 1, u8::try_from(address / 250).unwrap(), u8::try_from(1 + address % 250).unwrap());
        let mut stream = connect_from(source, doors[at % 3]);
        stream.set_nonblocking(true).unwrap();
        drop(stream.write(openings[at % 3]));
        stream
    };
    let mut streams: Vec<TcpStream> = (0..count).map(connect).collect();
    while attack.goes_on() {
        let began = Instant::now();
        for (at, stream) in streams.iter_mut().enumerate() {
            if stream.write(b"x").is_err() || is_at_end(stream) {
                attack.cut.fetch_add(1, Relaxed);
                *stream = connect(at);
            }
            if !attack.goes_on() {
                return;
            }
        }
        std::thread::sleep(PACE.saturating_sub(began.elapsed()));
    }
}

fn is_at_end(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// LOGINs with tokens that nobody was given, from a hundred addresses by turns.
fn guesses(attack: &Attack, door: SocketAddr, per_s: u64) {
    let began = Instant::now();
    let mut open = std::collections::VecDeque::new();
    while attack.goes_on() {
        let done = attack.guesses.fetch_add(1, Relaxed);
        let due = Duration::from_micros(done * 1_000_000 / per_s);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        let mut stream = connect_from(Ipv4Addr::new(127, 3, 0, u8::try_from(1 + done % 100).unwrap()), door);
        let login = login_body(100_001, format!("guess-{done}"));
        drop(stream.write_all(&frame::encode(Encoding::Json, Code::Login, &login)));
        // They do not wait for the answer, nor do they all hang about.
        open.push_back(stream);
        if open.len() > 200 {
            open.pop_front();
        }
    }
}

/// Sessions that send heartbeats as fast as they can, until they are cut; then the next one does.
fn messages(attack: &Attack, door: SocketAddr, users: &[(i64, String)]) {
    let beats = frame::encode(Encoding::Json, Code::Heartbeat, &Body::default()).repeat(100);
    for (user, token) in users.iter().cycle() {
        let mut peer = Peer::of(connect_from(Ipv4Addr::new(127, 4, 0, u8::try_from(1 + user % 250).unwrap()), door));
        peer.send(Code::Login, &login_body(*user, token.clone()));
        match peer.next_within(Duration::from_secs(5)) {
            Some(Some((Code::Login, _))) => {}
            // Its logins of this minute are used up.
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
        let mut last = None;
        while attack.goes_on() && peer.stream.write_all(&beats).is_ok() {
            attack.frames.fetch_add(100, Relaxed);
            if let Some(Some((_, body))) = peer.next_within(Duration::from_millis(1)) {
                last = body.code.or(last);
            }
        }
        if !attack.goes_on() {
            return;
        }
        if last == Reason::RateLimited.number() || last.is_none() {
            attack.flooders_cut.fetch_add(1, Relaxed);
        }
    }
}
