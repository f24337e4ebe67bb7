//! Where connections come in: the listeners of a shard, and what each of them lets in.
//!
//! - A turn accepts a bounded number at each door, so that a crowd at one of them delays nobody else by more than a moment.
//! - Without files or memory accepting pauses, for every try would fail at once.
//! - TLS costs the server as much as it costs the client, so its doors share an allowance of handshakes. Who comes beyond it waits in the
//!   kernel's queue and is not refused.

use super::{
    Shard,
    connection::{Connection, Tenant},
    message::{Entrant, TurnedAway},
};
use crate::{
    handshakes::Handshakes,
    transport::{Entrance, Transport},
};
use billfish_session::{Form, Time, server::ServerSession};
use billfish_wire::{Code, Reason};
use mio::{Interest, Registry, Token};
use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};
use tracing::warn;

/// A listener and what it lets in.
#[derive(Debug)]
pub struct Doorway {
    /// Bound, listening, the shard's own; see [`super::listeners`].
    pub listener: TcpListener,
    /// What comes in by it.
    pub entrance: Entrance,
    /// Of which everybody who comes in by it takes one; who is turned away gives it back.
    pub handshakes: Option<Arc<Handshakes>>,
}

/// A door of a running shard.
#[derive(Debug)]
pub(super) struct Door {
    listener: mio::net::TcpListener,
    entrance: Entrance,
    /// The listener has announced somebody, and has not said since that there is nobody more.
    pub(super) is_acceptable: bool,
    pub(super) accept_from: Time,
    warn_from: Time,
    handshakes: Option<Arc<Handshakes>>,
}

/// Connections accepted in one turn at one door: about 1 ms of work.
const ACCEPTS_PER_TURN: usize = 64;
/// Without files or memory, accepting is tried again after this long.
const ACCEPT_PAUSE_MS: u64 = 100;
/// And an operator is told about it this often.
const ACCEPT_WARN_EVERY_MS: u64 = 60_000;
/// Bytes on their way without an ACK for so long: the peer is gone, whatever its last segment said.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

impl Doorway {
    /// One for bare frames.
    #[must_use]
    pub const fn plain(listener: TcpListener) -> Self {
        Self { listener, entrance: Entrance::Plain, handshakes: None }
    }
}

impl Door {
    /// Puts a listener under the reactor. Options stand on the listener, for Linux hands them down to the connections it accepts: three
    /// system calls less for each.
    pub(super) fn open(doorway: Doorway, token: Token, registry: &Registry, send_buffer_bytes: usize) -> io::Result<Self> {
        let Doorway { listener, entrance, handshakes } = doorway;
        let socket = socket2::SockRef::from(&listener);
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_send_buffer_size(send_buffer_bytes)?;
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        let mut listener = mio::net::TcpListener::from_std(listener);
        registry.register(&mut listener, token, Interest::READABLE)?;
        Ok(Self { listener, entrance, is_acceptable: false, accept_from: Time::default(), warn_from: Time::default(), handshakes })
    }
}

impl Shard {
    /// Takes in whoever stands at the doors, a bounded number at each.
    pub(super) fn accept_some(&mut self) {
        for at in 0..self.doors.len() {
            for _ in 0..ACCEPTS_PER_TURN {
                if !self.accept_one(at) {
                    break;
                }
            }
        }
    }

    /// Takes in the next one at a door; `false` when there is none for now.
    fn accept_one(&mut self, at: usize) -> bool {
        let Self { doors, desk, admission, .. } = self;
        let Some(door) = doors.get_mut(at) else { return false };
        if !door.is_acceptable || desk.now < door.accept_from {
            return false;
        }
        if !admission.0.is_open() {
            desk.counters.accept_exhausted.add(1);
            door.accept_from = desk.now + ACCEPT_PAUSE_MS;
            return false;
        }
        if let Some(handshakes) = &door.handshakes
            && let Err(wait_ms) = handshakes.begin()
        {
            desk.counters.tls_delayed.add(1);
            door.accept_from = desk.now + wait_ms;
            return false;
        }
        let handshakes = door.handshakes.clone();
        let (is_in, is_next_to_come) = match door.listener.accept() {
            Ok((stream, peer)) => {
                let transport = Transport::enter(stream, &door.entrance);
                (self.take_in(transport, peer), true)
            }
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                door.is_acceptable = false;
                (false, false)
            }
            // The peer went away between its handshake and now.
            Err(cause) if cause.kind() == io::ErrorKind::ConnectionAborted => {
                desk.counters.accept_failed.add(1);
                (false, true)
            }
            Err(cause) => {
                self.pause_accepting(at, &cause);
                (false, false)
            }
        };
        if !is_in && let Some(handshakes) = handshakes {
            handshakes.give_back();
        }
        is_next_to_come
    }

    /// Out of files or memory, most likely: every try would fail at once, and the loop would spin.
    fn pause_accepting(&mut self, at: usize, cause: &io::Error) {
        let Self { doors, desk, slab, .. } = self;
        let Some(door) = doors.get_mut(at) else { return };
        desk.counters.accept_exhausted.add(1);
        door.accept_from = desk.now + ACCEPT_PAUSE_MS;
        if desk.now >= door.warn_from {
            door.warn_from = desk.now + ACCEPT_WARN_EVERY_MS;
            warn!(shard = desk.shard, %cause, connections = slab.len(), "cannot accept; trying again every {ACCEPT_PAUSE_MS} ms");
        }
    }

    /// `false` where he is turned away.
    fn take_in(&mut self, transport: io::Result<Transport>, peer: SocketAddr) -> bool {
        let peer: IpAddr = peer.ip().to_canonical();
        let Ok(mut transport) = transport else {
            self.desk.counters.accept_failed.add(1);
            return false;
        };
        if let Err(refusal) = self.admission.0.accept(transport.listener(), peer) {
            self.desk.counters.accept_refused.add(1);
            self.turn_away(transport, refusal);
            return false;
        }
        if self.admission.0.is_relay(peer) {
            transport.expect_header();
        }
        self.seat(transport, peer, self.desk.now);
        true
    }

    /// Says why, where that can be said at once.
    fn turn_away(&mut self, mut transport: Transport, refusal: TurnedAway) {
        let Self { desk, buffer, .. } = self;
        let mut words = Vec::new();
        transport.refusal_into(&mut words, refusal);
        if words.is_empty() {
            return;
        }
        // One try: a fresh socket takes it, and if not, the refusal is plain all the same.
        drop(transport.write(&words, &mut desk.scratch));
        // Most have sent their LOGIN or their request by now. Closing over it would send a reset, which destroys the words with some peers.
        drop(transport.read(buffer));
    }

    /// Takes in somebody who came by QUIC, where admission was asked at the door. While the shard drains nobody is, for nobody would tell him.
    pub(super) fn enter(&mut self, entrant: Entrant) {
        let Entrant { end, peer, since, admitted } = entrant;
        if self.draining.is_some() {
            let mut words = Vec::new();
            Form::Json.encode_into(&mut words, Code::Error, &TurnedAway::because(Reason::Unavailable).body());
            return end.leave(words, Reason::Unavailable, true);
        }
        admitted.hand_over();
        let since = u64::try_from(since.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX);
        self.seat(Transport::Quic(end), peer, Time(since).min(self.desk.now));
    }

    /// Gives a connection its place. Its time for LOGIN runs from `since`.
    fn seat(&mut self, mut transport: Transport, peer: IpAddr, since: Time) {
        let Self { slab, desk, .. } = self;
        let mut registered = Ok(());
        let key = slab.insert_with(|key| {
            registered = transport.register(&desk.registry, key.token(), Interest::READABLE);
            Tenant::Open(Connection::new(ServerSession::new(since, &desk.session), transport, peer))
        });
        desk.counters.accepted.add(1);
        if registered.is_err() {
            return self.close(key, Reason::TransportFailed);
        }
        if let Some(Tenant::Open(conn)) = slab.get_mut(key) {
            let deadline = conn.session.next_deadline(&desk.session);
            desk.wheel.file_far(key, deadline, &mut conn.filed);
        }
    }

    /// Closes the doors: what the kernel has completed and nobody has accepted is reset, and goes elsewhere.
    pub(super) fn stop_listening(&mut self) {
        for mut door in self.doors.drain(..) {
            drop(self.desk.registry.deregister(&mut door.listener));
        }
    }

    /// Whether somebody stands at a door who may come in now.
    pub(super) fn has_to_accept(&self) -> bool {
        self.doors.iter().any(|door| door.is_acceptable && self.desk.now >= door.accept_from)
    }

    /// When somebody who stands at a door may come in.
    pub(super) fn next_accept_at(&self) -> Time {
        self.doors.iter().filter(|door| door.is_acceptable).map(|door| door.accept_from).min().unwrap_or(Time::NEVER)
    }
}
