//! A client's socket: reading, writing, and how it ends.
//!
//! - A socket that takes no more costs a buffer while it does, and beyond a bound its client.
//! - Every ending is booked once, with its cause; whether the client comes back is decided there.

use crate::{
    clock,
    crowd::{
        Crowd, READ_BYTES,
        client::{Cause, Client, Stage},
        layers::{Layers, Stood},
        nanoseconds,
        quic::Link,
        shared::Shared,
        slow::Pace,
        stats::Stats,
    },
    worker::End,
};
use billfish_wire::{Reason, Reassembler, limits::BODY_BYTES_MAX};
use mio::net::TcpStream;
use std::{
    cmp::Reverse,
    io::{self, Read, Write},
    mem,
};

/// Bytes kept for one client whose socket takes no more; the client is given up beyond it: the gateway has stopped reading.
pub(super) const UNSENT_BYTES_MAX: usize = 64 * 1024;
/// Who is told to come back later comes up to this much later than that: those refused together do not come together.
const RETRY_JITTER_NS: u64 = 1_000_000_000;

/// A client and its socket.
#[derive(Debug, Default)]
pub(super) struct Connection {
    pub(super) stream: Option<TcpStream>,
    pub(super) reassembler: Reassembler,
    /// Where it is not plain TCP, and TCP stands.
    pub(super) layers: Option<Box<Layers>>,
    /// Where it is QUIC.
    pub(super) quic: Option<Box<Link>>,
    #[expect(clippy::box_collection, reason = "8 bytes per client instead of 24; nearly no client has one")]
    pub(super) unsent: Option<Box<Vec<u8>>>,
    pub(super) client: Client,
}

impl Crowd<'_> {
    pub(super) fn on_writable(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(stream) = connection.stream.as_mut() else { return };
        if connection.client.stage == Stage::Connecting && connection.layers.is_none() {
            match stream.take_error().map(|error| error.map_or_else(|| stream.peer_addr().map(drop), Err)) {
                Ok(Ok(())) => self.on_connected(index),
                // Not yet: the next event tells.
                Ok(Err(error)) if error.kind() == io::ErrorKind::NotConnected => {}
                Ok(Err(error)) | Err(error) => self.fail(index, format!("connect: {}", error.kind())),
            }
            return;
        }
        let Some(unsent) = connection.unsent.take() else { return };
        match write_some(stream, &unsent) {
            Ok(written) if written == unsent.len() => {}
            Ok(written) => connection.unsent = Some(Box::new(unsent[written..].to_vec())),
            Err(error) => self.fail_write(index, format!("write: {}", error.kind())),
        }
    }

    /// TCP stands. Says LOGIN, unless there is something to agree on before.
    fn on_connected(&mut self, index: usize) {
        let transport = self.shared.plan.transport;
        if !transport.is_tls() && !transport.is_websocket() {
            self.connections[index].client.on_connected(index, &mut self.shared);
            return self.flush(index);
        }
        let gateway = self.gateway_of(index);
        match self.tls.as_ref().map(|tls| tls.begin(gateway)).transpose() {
            Ok(tls) => self.connections[index].layers = Some(Box::new(Layers::new(tls, transport.is_websocket().then_some(gateway)))),
            Err(error) => return self.fail(index, format!("tls: {error}")),
        }
        self.go_on(index);
    }

    /// The handshakes above TCP take a step, and behind the last one LOGIN is said.
    fn go_on(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(layers) = &mut connection.layers else { return };
        match layers.go_on(&mut self.shared.random, &mut self.sealed) {
            Ok(Stood::No) => {}
            Ok(Stood::Now { is_resumed }) => {
                if self.shared.plan.transport.is_tls() {
                    let stats = &mut self.shared.stats;
                    *if is_resumed { &mut stats.tls_resumed } else { &mut stats.tls_full } += 1;
                }
                connection.client.on_connected(index, &mut self.shared);
            }
            Err(cause) => return self.fail(index, cause),
        }
        self.flush(index);
    }

    /// Reads until the socket is empty. A short read says so, unless the end of the stream may stand behind it.
    pub(super) fn on_readable(&mut self, index: usize, may_have_ended: bool) {
        while let Some(read) = self.read(index, READ_BYTES) {
            if read < READ_BYTES && !may_have_ended {
                return;
            }
        }
    }

    /// Reads once, at most `bytes_max`, and lets the client hear it; `None` when there is nothing more to read.
    pub(super) fn read(&mut self, index: usize, bytes_max: usize) -> Option<usize> {
        let connection = &mut self.connections[index];
        let stream = connection.stream.as_mut()?;
        let read = loop {
            match stream.read(&mut self.read_buffer[..bytes_max]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let read = match read {
            Ok(0) => {
                self.fail(index, "closed by the peer".to_owned());
                return None;
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            // The event of a refused connect arrives here as well; its cause reads better from there.
            Err(error) if connection.client.stage == Stage::Connecting => {
                self.fail(index, format!("connect: {}", error.kind()));
                return None;
            }
            Err(error) => {
                self.shared.stats.resets += u64::from(connection.client.pace != Pace::Prompt);
                let is_reset = error.kind() == io::ErrorKind::ConnectionReset;
                self.fail(index, if is_reset { "reset by the peer".to_owned() } else { format!("read: {}", error.kind()) });
                return None;
            }
        };
        self.shared.now_ns = clock::now_ns();
        let outcome = match &mut connection.layers {
            None => feed(&mut connection.reassembler, &mut connection.client, index, &self.read_buffer[..read], &mut self.shared),
            Some(layers) => {
                let (reassembler, client) = (&mut connection.reassembler, &mut connection.client);
                feed_layers(layers, reassembler, client, index, &self.read_buffer[..read], &mut self.opened, &mut self.shared)
            }
        };
        if !self.have_heard(index, outcome) {
            return None;
        }
        if self.connections[index].layers.is_some() {
            self.go_on(index);
        }
        Some(read)
    }

    /// A client has heard what came: books who is in now, writes its answers, and ends it if what it heard was its end.
    pub(super) fn have_heard(&mut self, index: usize, outcome: Result<(), Cause>) -> bool {
        self.in_window -= mem::take(&mut self.shared.stats.newly_settled);
        for back in mem::take(&mut self.shared.stats.newly_back) {
            if let Some(herd) = &mut self.herd {
                herd.on_back(back, self.shared.now_ns);
            }
        }
        self.flush(index);
        match outcome {
            Ok(()) => true,
            Err(cause) => {
                self.fail(index, cause);
                false
            }
        }
    }

    /// Writes what the shared buffer holds for this client.
    pub(super) fn flush(&mut self, index: usize) {
        if self.quic.is_some() {
            return self.flush_quic(index);
        }
        let connection = &mut self.connections[index];
        if let Some(layers) = &mut connection.layers {
            let plain = mem::replace(&mut self.shared.out, mem::take(&mut self.sealed));
            let outcome = layers.seal(&plain, &mut self.shared.out);
            self.sealed = plain;
            self.sealed.clear();
            if let Err(cause) = outcome {
                self.shared.out.clear();
                return self.fail(index, cause);
            }
        }
        if self.shared.out.is_empty() {
            return;
        }
        let connection = &mut self.connections[index];
        let outcome = match (connection.stream.as_mut(), connection.unsent.as_mut()) {
            (None, _) => Ok(0),
            (Some(_), Some(unsent)) if unsent.len() + self.shared.out.len() > UNSENT_BYTES_MAX => {
                Err("write stalled: the gateway reads no more".to_owned())
            }
            (Some(_), Some(unsent)) => {
                unsent.extend_from_slice(&self.shared.out);
                Ok(self.shared.out.len())
            }
            (Some(stream), None) => write_some(stream, &self.shared.out).map_err(|error| format!("write: {}", error.kind())),
        };
        match outcome {
            Ok(written) if written < self.shared.out.len() && connection.stream.is_some() => {
                connection.unsent = Some(Box::new(self.shared.out[written..].to_vec()));
            }
            Ok(_) => {}
            Err(cause) => {
                self.shared.out.clear();
                self.fail_write(index, cause);
            }
        }
        self.shared.out.clear();
    }

    /// The connection takes nothing any more. What a slow client has not read yet is there all the same, and counts as delivered.
    fn fail_write(&mut self, index: usize, cause: Cause) {
        let client = &self.connections[index].client;
        if client.pace != Pace::Prompt && client.stage == Stage::Settled {
            let resets = self.shared.stats.resets;
            self.on_readable(index, true);
            self.shared.stats.resets = resets + 1;
        }
        self.fail(index, cause);
    }

    /// The connection is over.
    pub(super) fn fail(&mut self, index: usize, cause: Cause) {
        let stage = self.connections[index].client.stage;
        if stage == Stage::Closed {
            self.shared.told_to_wait_ms = None;
            return;
        }
        let comes_back = self.book_end(index, cause);
        let connection = &mut self.connections[index];
        if stage.is_on_the_way() {
            self.in_window -= 1;
        }
        if stage == Stage::Settled {
            self.shared.stats.settled -= 1;
            if let Some(gifts) = &mut self.shared.gifts {
                gifts.senders.on_cut(index);
            }
            if comes_back {
                connection.client.forget_beat(&mut self.shared);
            }
            if let Some(room) = self.shared.room_of(index) {
                let room = &mut self.shared.rooms[room];
                if comes_back {
                    room.members -= 1;
                } else {
                    room.ends.members += 1;
                    room.ends.received += connection.client.received();
                }
            }
        }
        connection.client.stage = if comes_back { Stage::Waiting } else { Stage::Closed };
        connection.client.forget_open(&mut self.shared);
        // Closing the descriptor takes it out of epoll as well.
        connection.stream = None;
        connection.unsent = None;
        connection.reassembler = Reassembler::default();
        connection.layers = None;
        if let Some(link) = connection.quic.take() {
            self.part(index, link);
        }
        self.sealed.clear();
    }

    /// Writes down why a connection is over, and whether its client comes back.
    fn book_end(&mut self, index: usize, cause: Cause) -> bool {
        let told_to_wait_ms = self.shared.told_to_wait_ms.take();
        let client = &self.connections[index].client;
        let at_ns = clock::now_ns();
        let stats = &mut self.shared.stats;
        let end =
            || End { client: self.shared.plan.first + index, cause: cause.clone(), at_ns, received: client.received(), pace: client.pace };
        let returning = self.herd.as_mut().filter(|_| self.shared.is_herd_in);
        if client.stage == Stage::Settled {
            Stats::tell(&mut stats.ends, &mut stats.ends_omitted, end());
            if let Some(herd) = returning {
                herd.on_cut(index, at_ns);
                return true;
            }
            let by_cause = if client.pace == Pace::Prompt { &mut stats.lost } else { &mut stats.given_up };
            *by_cause.entry(cause).or_default() += 1;
            return false;
        }
        if let Some(herd) = returning {
            if cause == Reason::BadToken.label() {
                self.refused_tokens.push(index);
            }
            herd.on_failed(index, cause, at_ns);
            return true;
        }
        let again_ns = told_to_wait_ms.map(|ms| at_ns + ms.saturating_mul(1_000_000) + self.shared.random.u64(0..RETRY_JITTER_NS));
        let too_late_ns = self.connect_began_ns + nanoseconds(self.shared.plan.connect_max);
        let Some(again_ns) = again_ns.filter(|&again_ns| again_ns < too_late_ns) else {
            Stats::tell(&mut stats.failed, &mut stats.failed_omitted, end());
            *stats.failures.entry(cause).or_default() += 1;
            return false;
        };
        *stats.retries.entry(cause).or_default() += 1;
        self.told_to_wait.push(Reverse((again_ns, index)));
        true
    }
}

/// Hands every whole frame of `input` to the client.
fn feed(reassembler: &mut Reassembler, client: &mut Client, index: usize, input: &[u8], shared: &mut Shared<'_>) -> Result<(), Cause> {
    let mut frames = reassembler.feed(input);
    while let Some(frame) = frames.next(BODY_BYTES_MAX).map_err(|error| error.to_string())? {
        client.on_frame(index, frame, shared)?;
    }
    Ok(())
}

/// The same through TLS and WebSocket.
fn feed_layers(
    layers: &mut Layers,
    reassembler: &mut Reassembler,
    client: &mut Client,
    index: usize,
    input: &[u8],
    opened: &mut Vec<u8>,
    shared: &mut Shared<'_>,
) -> Result<(), Cause> {
    opened.clear();
    layers.open(input, opened)?;
    if !layers.has_messages() {
        return feed(reassembler, client, index, opened, shared);
    }
    let (mut random, mut reply) = (shared.random.fork(), Vec::new());
    let outcome = layers.cut(opened, &mut random, &mut reply, &mut |frame| client.on_frame(index, frame, shared));
    shared.out.extend_from_slice(&reply);
    outcome
}

/// Writes as much as the socket takes.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
