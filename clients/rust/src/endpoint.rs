//! Addresses: which gateway, and by which transport.

use std::{
    fmt::{self, Display, Formatter},
    str::FromStr,
};

/// What carries a connection, from the one that is liked best to the one that is liked least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TransportKind {
    /// `quic://`: frames over QUIC, a stream for each class of push. A lost packet holds up its own class alone, and the connection lives on
    /// when the device has another address.
    Quic,
    /// `tls://`: frames over TLS.
    Tls,
    /// `wss://`: WebSocket over TLS, for networks that let nothing else through.
    Wss,
    /// `tcp://`, or no scheme: frames, readable by everyone on the way.
    Tcp,
    /// `ws://`: WebSocket, readable by everyone on the way.
    Ws,
}

impl TransportKind {
    /// All there are, the one that is liked best first.
    pub const ALL: [Self; 5] = [Self::Quic, Self::Tls, Self::Wss, Self::Tcp, Self::Ws];

    /// The scheme of its addresses.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tls => "tls",
            Self::Wss => "wss",
            Self::Tcp => "tcp",
            Self::Ws => "ws",
        }
    }

    /// The name under which the tokens' answer lists gateways that serve it: one TLS port is for frames and for WebSockets.
    #[must_use]
    pub const fn listed_as(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tls | Self::Wss => "tls",
            Self::Tcp => "tcp",
            Self::Ws => "ws",
        }
    }

    /// Whether nobody on the way can read it.
    #[must_use]
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Quic | Self::Tls | Self::Wss)
    }

    pub(crate) const fn is_websocket(self) -> bool {
        matches!(self, Self::Wss | Self::Ws)
    }

    /// Where a scheme is spoken when an address names no port: the web's have one, ours have none.
    const fn default_port(self) -> Option<u16> {
        match self {
            Self::Wss => Some(443),
            Self::Ws => Some(80),
            Self::Quic | Self::Tls | Self::Tcp => None,
        }
    }
}

impl Display for TransportKind {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.write_str(self.scheme())
    }
}

impl FromStr for TransportKind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.scheme() == text).ok_or("a transport is quic, tls, wss, tcp or ws")
    }
}

/// One address, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) kind: TransportKind,
    /// `host:port`, as one dials it.
    pub(crate) authority: String,
    /// Of a WebSocket.
    pub(crate) path: String,
}

/// The WebSocket whose LOGIN is a frame, so that no token stands in a path.
const PATH: &str = "/ws";

impl Endpoint {
    /// Reads `[scheme://]host[:port][/path]`; without a scheme it is of `bare`.
    pub(crate) fn read(text: &str, bare: TransportKind) -> Result<Self, &'static str> {
        let (kind, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme.parse()?, rest),
            None => (bare, text),
        };
        let (host, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        if !path.is_empty() && !kind.is_websocket() {
            return Err("only a WebSocket has a path");
        }
        let has_port = host.rsplit_once(':').is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
        let authority = match (has_port, kind.default_port()) {
            (true, _) => host.to_owned(),
            (false, Some(port)) if !host.is_empty() && (!host.contains(':') || host.ends_with(']')) => format!("{host}:{port}"),
            (false, _) => return Err("an address is [scheme://]host:port"),
        };
        Ok(Self { kind, authority, path: if path.is_empty() { PATH.to_owned() } else { path.to_owned() } })
    }

    /// The host without its port: what a certificate must be for.
    pub(crate) fn host(&self) -> &str {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }
}

impl Display for Endpoint {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        if self.kind != TransportKind::Tcp {
            write!(to, "{}://", self.kind)?;
        }
        to.write_str(&self.authority)?;
        if self.kind.is_websocket() && self.path != PATH { to.write_str(&self.path) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, TransportKind};

    #[test]
    fn addresses_are_read_as_a_person_means_them() {
        let read = |text| Endpoint::read(text, TransportKind::Tcp).map(|endpoint| (endpoint.to_string(), endpoint.host().to_owned()));
        let same = [
            ("gw:8085", "gw"),
            ("tls://gw.example:8443", "gw.example"),
            ("ws://gw:8086", "gw"),
            ("tls://[::1]:8443", "::1"),
            ("quic://gw:8087", "gw"),
        ];
        for (text, host) in same {
            assert_eq!(read(text), Ok((text.to_owned(), host.to_owned())));
        }
        assert_eq!(read("tcp://gw:1").unwrap().0, "gw:1");
        assert_eq!(read("wss://gw.example").unwrap().0, "wss://gw.example:443");
        assert_eq!(read("wss://[::1]").unwrap(), ("wss://[::1]:443".to_owned(), "::1".to_owned()));
        assert_eq!(read("ws://gw:80/live").unwrap().0, "ws://gw:80/live");
        assert_eq!(Endpoint::read("gw:1", TransportKind::Wss).unwrap().to_string(), "wss://gw:1");
        for bad in
            ["", "gw", "tls://gw", "tcp://gw:0", "tcp://gw:1/x", "quic://gw", "quic://gw:1/x", "http://gw:1", ":1", "ws://", "gw:99999"]
        {
            assert!(read(bad).is_err(), "{bad} was believed");
        }
    }

    #[test]
    fn the_secure_ones_are_liked_best() {
        assert!(TransportKind::ALL.is_sorted());
        assert!(TransportKind::ALL.is_sorted_by_key(|kind| !kind.is_secure()));
    }
}
