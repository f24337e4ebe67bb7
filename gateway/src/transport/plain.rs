//! Bare TCP.

use mio::net::TcpStream;
use std::{
    io::{self, IoSlice, Read, Write},
    net::Shutdown,
};

/// A TCP stream. Closed when dropped.
#[derive(Debug)]
pub(crate) struct PlainTransport {
    stream: TcpStream,
}

impl PlainTransport {
    pub(super) const fn new(stream: TcpStream) -> Self {
        Self { stream }
    }

    pub(super) fn source(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        taken(|| self.stream.write(bytes))
    }

    pub(super) fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        taken(|| self.stream.write_vectored(pieces))
    }

    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }
}

fn taken(mut write: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match write() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
