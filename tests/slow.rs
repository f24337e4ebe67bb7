//! Strangers who take their time: they are cut by the total deadline, and nobody who means it waits for them.

use crate::house::{House, PATIENCE, eventually, login_body};
use billfish_wire::{Body, Code, Encoding, Reason, frame};
use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Strangers of each kind, and how many share an address.
const STRANGERS: usize = 1_000;
const PER_ADDRESS: usize = 125;
const GOOD: i64 = 200;

#[test]
fn two_thousand_slow_strangers_are_cut_and_cost_no_good_login() {
    let house = House::with(
        "[gateway.session]\nlogin_timeout = \"2s\"\n\
         [gateway.admission]\nexempt = []\nconnections_max = 6000\nunlogged_percent_max = 60\nnew_per_s = 1000\nhalf_open_max = 200\n\
         logins_per_minute = 1000\n",
    );
    let tokens: Vec<String> = (0..GOOD).map(|user| house.token(20_001 + user)).collect();
    let _warm = house.login(19_999);
    let before = resident_bytes(house.pid());

    let wanted = Arc::new(AtomicBool::new(true));
    let cut = Arc::new(AtomicUsize::new(0));
    let crowd = {
        let (wanted, cut, server) = (Arc::clone(&wanted), Arc::clone(&cut), house.ports.tcp);
        std::thread::spawn(move || Crowd::of(server).press(&wanted, &cut))
    };
    eventually("the crowd is there", || house.metric("gateway_connections", &[]) >= 2.0 * STRANGERS as f64);

    // Whoever is cut is replaced at once, so the last login meets the same crowd as the first.
    let mut good: Vec<_> = tokens
        .into_iter()
        .zip(20_001..)
        .map(|(token, user)| {
            let mut peer = house.connect();
            peer.send(Code::Login, &login_body(user, token));
            assert_eq!(peer.expect(Code::Login).data.as_deref(), Some("true"), "user {user}");
            peer
        })
        .collect();
    // An address of its own that wants more than its share of waiting places.
    let greedy: Vec<_> = (0..300).map(|_| connect_from(Ipv4Addr::new(127, 0, 3, 1), house.ports.tcp)).collect();
    eventually("the greedy address is refused", || house.metric("gateway_admission_refused_total", &["reason=\"half_open\""]) >= 100.0);
    eventually("every stranger of the first crowd was cut", || cut.load(Ordering::Relaxed) >= 2 * STRANGERS);
    let during = resident_bytes(house.pid());
    wanted.store(false, Ordering::Relaxed);
    let cuts = crowd.join().unwrap();
    drop(greedy);
    eventually("they are counted", || house.metric("gateway_closes_total", &["reason=\"login_timeout\""]) >= cuts as f64);
    assert!(house.metric("gateway_admission_refused_total", &["reason=\"unlogged\""]) < 0.5, "the places of strangers were enough");

    for peer in &mut good {
        peer.send(Code::Heartbeat, &Body::default());
        peer.expect(Code::Heartbeat);
    }
    eventually("only sessions are left", || (house.metric("gateway_connections", &[]) - GOOD as f64 - 1.0).abs() < 0.5);
    for (when, now) in [("during", during), ("after", resident_bytes(house.pid()))] {
        let growth = now.saturating_sub(before);
        assert!(growth < 64 * 1024 * 1024, "{when} the crowd it holds {growth} bytes more than before");
    }
}

#[test]
fn strangers_fill_their_share_and_no_more_until_they_are_cut() {
    let house = House::with(
        "[gateway.session]\nlogin_timeout = \"2s\"\n\
         [gateway.admission]\nexempt = []\nconnections_max = 100\nunlogged_percent_max = 20\nnew_per_s = 1000\nlogins_per_minute = 1000\n",
    );
    let mut inside = house.login(20_001);
    let token = house.token(20_002);
    let refused = || house.metric("gateway_admission_refused_total", &["reason=\"unlogged\""]);
    // Each from an address of its own: only the share of all strangers together can stop them.
    let crowd: Vec<_> = (1..=40).map(|host| connect_from(Ipv4Addr::new(127, 0, 4, host), house.ports.tcp)).collect();
    eventually("the rest is refused", || refused() >= 20.0);
    inside.send(Code::Heartbeat, &Body::default());
    inside.expect(Code::Heartbeat);
    eventually("whoever means it gets in when they are cut", || {
        let mut peer = house.connect();
        drop(peer.stream.write_all(&frame::encode(Encoding::Json, Code::Login, &login_body(20_002, token.clone()))));
        match peer.next() {
            Some((Code::Login, _)) => true,
            Some((code, body)) => {
                assert_eq!((code, body.code), (Code::Error, Reason::Unavailable.number()));
                false
            }
            None => false,
        }
    });
    inside.send(Code::Heartbeat, &Body::default());
    inside.expect(Code::Heartbeat);
    drop(crowd);
}

/// Strangers that never finish a LOGIN; half of them say nothing at all.
struct Crowd {
    server: SocketAddr,
    strangers: Vec<Stranger>,
    /// A legal LOGIN, longer than anyone gets to say at this pace.
    login: Vec<u8>,
}

struct Stranger {
    source: Ipv4Addr,
    stream: Option<TcpStream>,
    /// Bytes of the LOGIN said; `None`: this one is silent.
    said: Option<usize>,
}

impl Crowd {
    fn of(server: SocketAddr) -> Self {
        let login = frame::encode(Encoding::Json, Code::Login, &login_body(20_001, "x".repeat(400))).to_vec();
        let strangers = (0..2 * STRANGERS)
            .map(|number| {
                let source = Ipv4Addr::new(127, 0, 2, 1 + u8::try_from(number / PER_ADDRESS).unwrap());
                Stranger { source, stream: Some(connect_from(source, server)), said: (number >= STRANGERS).then_some(0) }
            })
            .collect();
        Self { server, strangers, login }
    }

    /// Keeps the places taken while `wanted`, then waits until the last one is cut. Gives the number of cuts.
    fn press(mut self, wanted: &AtomicBool, cut: &AtomicUsize) -> usize {
        let mut deadline = Instant::now() + PATIENCE;
        loop {
            let is_wanted = wanted.load(Ordering::Relaxed);
            if is_wanted {
                deadline = Instant::now() + PATIENCE;
            }
            for stranger in &mut self.strangers {
                if stranger.is_cut(&self.login) {
                    cut.fetch_add(1, Ordering::Relaxed);
                    stranger.stream = is_wanted.then(|| connect_from(stranger.source, self.server));
                    stranger.said = stranger.said.map(|_| 0);
                }
            }
            let left = self.strangers.iter().filter(|stranger| stranger.stream.is_some()).count();
            if left == 0 {
                return cut.load(Ordering::Relaxed);
            }
            assert!(Instant::now() < deadline, "{left} strangers were never cut");
            // The pace of a slow peer; nothing depends on it but that a LOGIN is not said in time.
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Stranger {
    /// Says one byte more, if it speaks, and looks whether the server has ended it.
    fn is_cut(&mut self, login: &[u8]) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let mut heard = [0; 256];
        loop {
            match stream.read(&mut heard) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return true,
            }
        }
        if let Some(said) = &mut self.said {
            assert!(*said + 1 < login.len(), "a LOGIN was said to its end: the pace is too fast or nobody was cut");
            if stream.write(&login[*said..=*said]).is_ok() {
                *said += 1;
            }
        }
        false
    }
}

/// A connection from this address of the loopback network; it does not block.
pub(crate) fn connect_from(source: Ipv4Addr, server: SocketAddr) -> TcpStream {
    thread_local! {
        // The standard library cannot bind before it connects; tokio's sockets can.
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    }
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind((source, 0).into()).unwrap();
            socket.connect(server).await.unwrap().into_std().unwrap()
        })
    })
}

/// Memory of a process that is in RAM.
fn resident_bytes(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}
