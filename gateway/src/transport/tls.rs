//! TLS on a shard's reactor: rustls' unbuffered interface over the shard's buffers.
//!
//! - An idle connection owns the cipher state and no buffer: half a record, and what the socket did not take, exist only while they do.
//! - What a write took is sealed and will be sent in this order, whatever happens in between: a record cannot be made twice.
//! - Nothing here is decided about frames. Early data is refused by the configuration, for a LOGIN must not be replayed.

use super::{Scratch, plain::PlainTransport};
use rustls::{
    HandshakeKind, ProtocolVersion, ServerConfig,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic},
};
use std::{
    io::{self, IoSlice},
    sync::Arc,
};

/// Plain bytes of one record: what RFC 8446 allows at most.
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// What a record is longer than its bytes, at most: header, nonce, type and tag of TLS 1.2 and 1.3.
const RECORD_OVERHEAD_BYTES: usize = 64;
/// A sealed alert.
const ALERT_BYTES: usize = 64;
/// What may wait for the rest of its record or handshake message: one record of any kind, of which the longest has 18 KiB. The largest message
/// that a client has reason to send is its first, of less than 4 KiB; rustls would keep 64 KiB of one, for a stranger.
const INCOMING_BYTES_MAX: usize = 20 * 1024;

/// The layer's state of one connection.
pub(crate) struct Tls {
    session: UnbufferedServerConnection,
    /// The beginning of a record.
    incoming: Vec<u8>,
    /// Sealed, and not taken by the socket.
    outgoing: Vec<u8>,
    is_established: bool,
    /// What is in `outgoing` is a ticket, which nobody waits for: it goes with what is written next.
    is_put_off: bool,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tls").field("is_established", &self.is_established).finish_non_exhaustive()
    }
}

/// What became of a piece of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// More may come.
    More,
    /// The handshake is complete since this piece.
    Established {
        /// It was shortened by a ticket.
        is_resumed: bool,
    },
    /// The peer said that nothing more comes.
    End,
}

impl Tls {
    /// A connection on which nothing has been said.
    ///
    /// # Errors
    /// The configuration cannot be used; the same for every connection.
    pub(crate) fn new(config: &Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let session = UnbufferedServerConnection::new(Arc::clone(config))?;
        Ok(Self { session, incoming: Vec::new(), outgoing: Vec::new(), is_established: false, is_put_off: false })
    }

    /// Whether application bytes can be written.
    pub(crate) const fn is_established(&self) -> bool {
        self.is_established
    }

    /// Whether a record has begun and not ended.
    pub(crate) const fn is_partial(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// Opens what arrived: plain bytes go to the end of `plain`, what the handshake has to say goes to the socket.
    ///
    /// # Errors
    /// The peer broke the protocol, and has been told so as far as its socket takes it; or the socket failed.
    pub(crate) fn open(&mut self, socket: &mut PlainTransport, arrived: &mut [u8], plain: &mut Vec<u8>) -> io::Result<Opened> {
        if self.incoming.is_empty() {
            let (used, opened) = self.process(socket, arrived, plain)?;
            self.incoming.extend_from_slice(&arrived[used..]);
            return self.bounded(opened);
        }
        let mut incoming = std::mem::take(&mut self.incoming);
        incoming.extend_from_slice(arrived);
        let (used, opened) = self.process(socket, &mut incoming, plain)?;
        if used < incoming.len() {
            incoming.drain(..used);
            incoming.shrink_to_fit();
            self.incoming = incoming;
        }
        self.bounded(opened)
    }

    fn bounded(&self, opened: Opened) -> io::Result<Opened> {
        if self.incoming.len() > INCOMING_BYTES_MAX { Err(io::Error::from(io::ErrorKind::InvalidData)) } else { Ok(opened) }
    }

    /// Works `input` off; how much of it was used.
    fn process(&mut self, socket: &mut PlainTransport, input: &mut [u8], plain: &mut Vec<u8>) -> io::Result<(usize, Opened)> {
        let mut used = 0;
        let mut opened = Opened::More;
        let unsent_bytes = self.outgoing.len();
        loop {
            let UnbufferedStatus { discard, state } = self.session.process_tls_records(&mut input[used..]);
            let is_over = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        plain.extend_from_slice(record.map_err(invalid)?.payload);
                    }
                    false
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(&mut data, &mut self.outgoing)?;
                    false
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    false
                }
                Ok(ConnectionState::WriteTraffic(_)) => true,
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    opened = Opened::End;
                    true
                }
                Ok(ConnectionState::BlockedHandshake) => true,
                // Early data is not offered, and states to come are not ours.
                Ok(_) => return Err(io::Error::from(io::ErrorKind::InvalidData)),
                Err(error) => {
                    used += discard;
                    self.is_put_off = false;
                    self.say_why(&mut input[used..]);
                    self.flush(socket)?;
                    return Err(invalid(error));
                }
            };
            used += discard;
            if is_over {
                break;
            }
        }
        if !self.is_established && !self.session.is_handshaking() {
            self.is_established = true;
            // In TLS 1.3 the last word is the client's, and behind it is room for a ticket alone; in 1.2 it is the server's.
            self.is_put_off = opened == Opened::More && self.session.protocol_version() == Some(ProtocolVersion::TLSv1_3);
            if opened == Opened::More {
                opened = Opened::Established { is_resumed: self.session.handshake_kind() == Some(HandshakeKind::Resumed) };
            }
        } else if self.outgoing.len() > unsent_bytes {
            // TLS itself has answered, and who asked may wait for that.
            self.is_put_off = false;
        }
        self.flush(socket)?;
        Ok((used, opened))
    }

    /// Seals the alert that tells the peer what it did wrong. rustls is asked for no more than that: it would read what is broken once more,
    /// and panics where it finds it broken again.
    fn say_why(&mut self, input: &mut [u8]) {
        while self.session.wants_write() {
            match self.session.process_tls_records(input).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    if append(&mut data, &mut self.outgoing).is_err() {
                        return;
                    }
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => while traffic.next_record().is_some() {},
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Seals and writes a beginning of what `pieces` hold, as much as is taken; 0 while the socket takes nothing.
    ///
    /// # Errors
    /// The socket failed, or the connection can send no more.
    pub(crate) fn write_vectored(
        &mut self,
        socket: &mut PlainTransport,
        pieces: &[IoSlice<'_>],
        scratch: &mut Scratch,
    ) -> io::Result<usize> {
        let mut taken = 0;
        let mut pieces = pieces.iter().map(|piece| &**piece);
        let mut piece: &[u8] = &[];
        // A record at a time, so that no more is sealed than one record beyond what the socket takes.
        while self.is_established && (std::mem::take(&mut self.is_put_off) || self.flush(socket)?) {
            let gathered = &mut scratch.gathered;
            gathered.clear();
            while gathered.len() < RECORD_BYTES_MAX {
                if piece.is_empty() {
                    let Some(next) = pieces.next() else { break };
                    piece = next;
                    continue;
                }
                let (front, rest) = piece.split_at(piece.len().min(RECORD_BYTES_MAX - gathered.len()));
                gathered.extend_from_slice(front);
                piece = rest;
            }
            if gathered.is_empty() {
                break;
            }
            let sealed = &mut scratch.sealed;
            sealed.clear();
            sealed.append(&mut self.outgoing);
            self.outgoing = Vec::new();
            self.seal(gathered, sealed)?;
            taken += gathered.len();
            let sent = socket.write(sealed)?;
            if sent < sealed.len() {
                self.outgoing.extend_from_slice(&sealed[sent..]);
                break;
            }
        }
        Ok(taken)
    }

    /// Writes what is sealed; whether nothing of it is left but what waits for company.
    ///
    /// # Errors
    /// The socket failed.
    pub(crate) fn flush(&mut self, socket: &mut PlainTransport) -> io::Result<bool> {
        if self.outgoing.is_empty() || self.is_put_off {
            return Ok(true);
        }
        let sent = socket.write(&self.outgoing)?;
        if sent < self.outgoing.len() {
            self.outgoing.drain(..sent);
            return Ok(false);
        }
        self.outgoing = Vec::new();
        Ok(true)
    }

    /// What is sealed and not yet written.
    pub(crate) const fn unsent_bytes(&self) -> usize {
        self.outgoing.len()
    }

    /// Says that nothing more comes. One try: a peer that does not hear it sees the end of the stream.
    pub(crate) fn say_end(&mut self, socket: &mut PlainTransport) {
        if !self.is_established {
            return;
        }
        let mut words = Vec::new();
        let queued = self.with_traffic(&mut words, |traffic, out| {
            encode_into(out, ALERT_BYTES, |room| match traffic.queue_close_notify(room) {
                Ok(written) => Ok(written),
                Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => Err(Some(required_size)),
                Err(EncryptError::EncryptExhausted) => Err(None),
            })
        });
        if queued.is_ok() {
            self.is_put_off = false;
            self.outgoing.append(&mut words);
            drop(self.flush(socket));
        }
    }

    /// Appends the record of `plain` to `out`.
    fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.with_traffic(out, |traffic, out| {
            encode_into(out, plain.len() + RECORD_OVERHEAD_BYTES, |room| match traffic.encrypt(plain, room) {
                Ok(written) => Ok(written),
                Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => Err(Some(required_size)),
                Err(EncryptError::EncryptExhausted) => Err(None),
            })
        })
    }

    /// Calls `write` with the state that takes application bytes; what rustls has to say before goes to `out` first.
    fn with_traffic(
        &mut self,
        out: &mut Vec<u8>,
        mut write: impl FnMut(&mut WriteTraffic<'_, ServerConnectionData>, &mut Vec<u8>) -> Result<(), ()>,
    ) -> io::Result<()> {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let mut used = 0;
        let written = loop {
            // What has begun must be there: rustls remembers where in it a handshake message begins, and panics when it is not.
            let UnbufferedStatus { discard, state } = self.session.process_tls_records(&mut self.incoming[used..]);
            let written = match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => Some(write(&mut traffic, out).map_err(|()| broken())),
                Ok(ConnectionState::EncodeTlsData(mut data)) => append(&mut data, out).err().map(Err),
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                // The peer has ended its side, which does not end ours; the state that writes comes next.
                Ok(ConnectionState::PeerClosed) => None,
                Ok(_) | Err(_) => Some(Err(broken())),
            };
            used += discard;
            if let Some(written) = written {
                break written;
            }
        };
        self.incoming.drain(..used);
        written
    }
}

/// Appends what the handshake has to say.
fn append(data: &mut EncodeTlsData<'_, ServerConnectionData>, out: &mut Vec<u8>) -> io::Result<()> {
    encode_into(out, 0, |room| match data.encode(room) {
        Ok(written) => Ok(written),
        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => Err(Some(required_size)),
        Err(EncodeError::AlreadyEncoded) => Err(None),
    })
    .map_err(|()| io::Error::from(io::ErrorKind::Other))
}

/// Appends what `encode` writes; it says how much room it wants, or that it cannot.
fn encode_into(out: &mut Vec<u8>, mut room: usize, mut encode: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>) -> Result<(), ()> {
    let start = out.len();
    loop {
        out.resize(start + room, 0);
        match encode(&mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(Some(required)) if required > room => room = required,
            Err(_) => {
                out.truncate(start);
                return Err(());
            }
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
