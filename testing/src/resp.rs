//! As much of Redis' protocol as a test needs to ask and a poll to look: one command, one answer, one connection.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// A server that is stopped must not stop the one who looks.
const WAIT: Duration = Duration::from_secs(1);
/// Longest string believed; a test's own server sends none near it.
const BULK_BYTES_MAX: usize = 64 << 20;

/// Sends one command, after AUTH where there are `credentials` (user and password). Lists come back as one line an element.
pub(crate) fn command(address: SocketAddr, credentials: Option<(&str, &str)>, words: &[&str]) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    if let Some((user, password)) = credentials {
        stream.write_all(&encode(&["AUTH", user, password]))?;
        reply(&mut reader)?;
    }
    stream.write_all(&encode(words))?;
    reply(&mut reader)
}

fn encode(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn reply(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let line = line.trim_end_matches(['\r', '\n']);
    let Some(kind) = line.chars().next() else { return Err(io::ErrorKind::UnexpectedEof.into()) };
    let rest = line.get(1..).unwrap_or_default();
    let length = || rest.parse::<i64>().map_err(|_| io::Error::other(format!("not an answer of Redis: {line}")));
    match kind {
        '+' | ':' => Ok(rest.to_owned()),
        '-' => Err(io::Error::other(rest.to_owned())),
        '$' => {
            let Ok(length) = usize::try_from(length()?) else { return Ok(String::new()) };
            if length > BULK_BYTES_MAX {
                return Err(io::Error::other("a string of Redis is too long to be one"));
            }
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes)?;
            bytes.truncate(length);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        '*' => {
            let count = length()?.max(0);
            let elements: io::Result<Vec<String>> = (0..count).map(|_| reply(reader)).collect();
            Ok(elements?.join("\n"))
        }
        _ => Err(io::Error::other(format!("not an answer of Redis: {line}"))),
    }
}
