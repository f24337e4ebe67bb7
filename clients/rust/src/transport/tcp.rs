//! A plain TCP connection with a bounded buffer for what the socket does not take at once.

use std::{io, time::Duration};
use tokio::{net::TcpStream, time::timeout};

/// Bytes that may wait to be written. A session has at most 16 messages of 64 KiB under way; a gateway that reads none of them is dead.
const UNSENT_BYTES_MAX: usize = 2 * 1024 * 1024;

/// One connection.
#[derive(Debug)]
pub(crate) struct Tcp {
    stream: TcpStream,
    unsent: Vec<u8>,
}

impl Tcp {
    /// Connects to `host:port`; of several addresses behind a name the first that answers.
    pub(crate) async fn connect(address: &str, within: Duration) -> io::Result<Self> {
        let stream = timeout(within, TcpStream::connect(address)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, unsent: Vec::new() })
    }

    /// Where outgoing frames are appended; [`Self::flush`] writes them.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.unsent
    }

    /// Writes what the socket takes now.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        let outcome = loop {
            let Some(rest) = self.unsent.get(written..).filter(|rest| !rest.is_empty()) else { break Ok(()) };
            match self.stream.try_write(rest) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.unsent.drain(..written);
        if self.unsent.is_empty() && self.unsent.capacity() > 16 * 1024 {
            self.unsent = Vec::new();
        }
        outcome?;
        if self.unsent.len() > UNSENT_BYTES_MAX { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// Waits until there is something to read, or room for what is unsent. Cancel-safe: nothing is taken from the socket here.
    pub(crate) async fn ready(&self, wants_read: bool) -> io::Result<()> {
        match (wants_read, self.unsent.is_empty()) {
            (true, true) => self.stream.readable().await,
            (true, false) => self.stream.ready(tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE).await.map(drop),
            (false, false) => self.stream.writable().await,
            (false, true) => std::future::pending().await,
        }
    }

    /// Takes what has arrived; `None` when nothing has.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.stream.try_read(buffer) {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}
