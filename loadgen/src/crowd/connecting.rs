//! The way in: when each client connects, from which address, and when its login has taken too long.
//!
//! At most `login_window` clients are between `connect` and the end of their login, those who were told to come back later among them. Who was
//! cut off and returns is not held to it: a herd comes when it comes.

use crate::{
    clock,
    crowd::{Crowd, client::Stage, nanoseconds, slow::Pace},
    worker::Plan,
};
use anyhow::Result;
use mio::{Interest, Token, net::TcpStream};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    cmp::Reverse,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// Clients begun in one turn, so that reading is never put off for long.
const BEGIN_PER_TURN: usize = 64;

impl Crowd<'_> {
    /// The connecting begins now.
    pub(crate) fn begin_connecting(&mut self) {
        self.connect_began_ns = clock::now_ns();
    }

    /// One turn of connecting; `true` when everyone is in or has failed.
    pub(crate) fn connect_turn(&mut self) -> Result<bool> {
        let now_ns = clock::now_ns();
        let deadline_ns = self.connect_began_ns + nanoseconds(self.shared.plan.connect_max);
        if now_ns > deadline_ns {
            while self.next_client < self.connections.len() {
                self.fail(self.next_client, "not begun in time".to_owned());
                self.next_client += 1;
            }
        }
        for _ in 0..BEGIN_PER_TURN {
            let Some(due_ns) = self.next_connect_due_ns().filter(|&due_ns| due_ns <= now_ns) else { break };
            // Without a rate the window is the schedule, and a login is due when its place is free.
            self.begin(self.next_client, if self.shared.plan.connect_rate > 0.0 { due_ns } else { now_ns });
            self.next_client += 1;
        }
        while self.in_window < self.shared.plan.login_window
            && let Some(Reverse((due_ns, index))) = self.told_to_wait.peek().copied().filter(|Reverse((due_ns, _))| *due_ns <= now_ns)
        {
            self.told_to_wait.pop();
            // Its login is as late as the refusals made it: `begun_ns` stays.
            let begun_ns = self.connections[index].client.begun_ns;
            self.begin(index, due_ns);
            self.connections[index].client.begun_ns = begun_ns;
        }
        self.time_out_logins(now_ns);
        self.turn()?;
        let is_over = self.next_client == self.connections.len() && self.in_window == 0 && self.told_to_wait.is_empty();
        self.shared.is_herd_in = is_over && self.herd.is_some();
        Ok(is_over)
    }

    fn time_out_logins(&mut self, now_ns: u64) {
        let timeout_ns = nanoseconds(self.shared.plan.login_timeout);
        while let Some(&index) = self.on_the_way.front() {
            let client = &self.connections[index].client;
            if client.stage.is_on_the_way() {
                if now_ns < client.tried_ns + timeout_ns {
                    break;
                }
                self.fail(index, "login timed out".to_owned());
            }
            self.on_the_way.pop_front();
        }
    }

    /// Those who are out and whose wait is over begin again.
    pub(super) fn let_return(&mut self) {
        let now_ns = self.shared.now_ns;
        for _ in 0..BEGIN_PER_TURN {
            let Some(index) = self.herd.as_mut().and_then(|herd| herd.next_due(now_ns)) else { break };
            self.begin(index, now_ns);
        }
        self.time_out_logins(now_ns);
    }

    /// When the next client should connect; `None` when none is left or the window is full. Without a rate that is now.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a crowd is far below 2^52")]
    pub(super) fn next_connect_due_ns(&self) -> Option<u64> {
        let plan = self.shared.plan;
        if self.next_client == self.connections.len() {
            return None;
        }
        if plan.connect_rate > 0.0 {
            // A schedule: a window that is full delays the connect but not its intended time.
            let due_ns = self.connect_began_ns + (self.next_client as f64 * 1e9 / plan.connect_rate) as u64;
            return (self.in_window < plan.login_window).then_some(due_ns);
        }
        (self.in_window < plan.login_window).then_some(self.connect_began_ns)
    }

    /// Where a client goes now.
    pub(super) fn gateway_of(&self, index: usize) -> SocketAddr {
        let plan = self.shared.plan;
        let client = plan.first + index;
        match &self.herd {
            Some(herd) => plan.gateways[herd.gateway_of(index, client, plan.gateways.len())],
            None => plan.gateways[client % plan.gateways.len()],
        }
    }

    fn begin(&mut self, index: usize, intended_ns: u64) {
        let gateway = self.gateway_of(index);
        let connection = &mut self.connections[index];
        connection.client.begun_ns = intended_ns;
        // Not when it was due: who had to wait for a place has had no time to log in yet.
        connection.client.tried_ns = clock::now_ns();
        connection.client.stage = Stage::Connecting;
        self.in_window += 1;
        self.on_the_way.push_back(index);
        if self.quic.is_some() {
            return self.begin_quic(index, gateway);
        }
        let plan = self.shared.plan;
        let receive_buffer = plan.slow.filter(|_| connection.client.pace != Pace::Prompt).map(|slow| slow.receive_buffer_bytes);
        let opened = connect(gateway, source_of(plan, index, gateway), receive_buffer).and_then(|mut stream| {
            self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => connection.stream = Some(stream),
            Err(error) => self.fail(index, format!("connect: {}", error.kind())),
        }
    }
}

/// Begins a connect that does not block, from `source` where there is one, with a receive buffer of so many bytes where they are named.
fn connect(gateway: SocketAddr, source: Option<Ipv4Addr>, receive_buffer: Option<u32>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(gateway), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = receive_buffer {
        // Before the handshake, in which the window is agreed.
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    if let Some(source) = source {
        // Every source address has its own 28,000 ports.
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    match socket.connect(&gateway.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// Source address of a client: 127.0.0.2 and up, where the gateway is on the loopback too.
pub(super) fn source_of(plan: &Plan, index: usize, gateway: SocketAddr) -> Option<Ipv4Addr> {
    let IpAddr::V4(address) = gateway.ip() else { return None };
    if !address.is_loopback() || plan.sources <= 1 {
        return None;
    }
    let place = u32::try_from((plan.first + index) % plan.sources).expect("few sources");
    // 250 hosts in each third octet: no .0, .1 or .255.
    let [third, fourth] = [place / 250, 2 + place % 250].map(|octet| u8::try_from(octet).unwrap_or(254));
    Some(Ipv4Addr::new(127, 0, third, fourth))
}
