//! Calls of other people's HTTP servers: one POST on a connection of its own, whose answer is its status.
//!
//! - Bounded in time as a whole, from the look-up of the name to the status. Redirections are not followed, bodies of answers are not read.
//! - Where others have chosen the server, it is called at a public address alone ([`Reach`]): what its name stands for is looked at when it is
//!   dialled, and what was looked at is what is dialled.
//! - A server of `https` is checked against the certificates of this machine.
//! - No task: a call that is given up is gone, with its connection.

use axum::{
    body::Body,
    http::{Method, Request, Uri, header},
};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// Longest header of an answer.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// A server and a path on it.
pub(crate) struct Endpoint {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// Where a server may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Anywhere.
    Anywhere,
    /// Not on this machine and not in a private network: whoever chose it is not to reach through us what only we reach.
    Public,
}

/// What a server answered, as far as it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// `Retry-After`, where it is a number of seconds.
    pub(crate) retry_after: Option<Duration>,
}

/// Why an address cannot be called.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// It is none.
    #[error("the URL {0}")]
    Url(&'static str),
    /// There is nothing to check the server's certificate against.
    #[error("this machine has no certificates to check the server against")]
    NoRoots,
    /// What the machine has does not do.
    #[error("TLS cannot be used")]
    Tls(#[source] rustls::Error),
}

/// Why a call has no answer. It may have been carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("no answer within {0:?}")]
    TooSlow(Duration),
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("its name stands for no public address")]
    NotPublic,
    #[error("the call broke off")]
    Broken(#[source] hyper::Error),
    #[error("the call cannot be written")]
    Unwritable(#[source] axum::http::Error),
}

impl Endpoint {
    /// The server of a URL.
    pub(crate) fn parse(url: &str) -> Result<Self, EndpointError> {
        let (uri, host, port) = read(url).map_err(EndpointError::Url)?;
        let tls = match uri.scheme_str() {
            Some("https") => {
                let name = ServerName::try_from(host.clone()).map_err(|_| EndpointError::Url("names no host"))?;
                Some((connector()?, name))
            }
            _ => None,
        };
        Ok(Self { uri, host, port, tls })
    }

    /// What is wrong with a URL, if something is.
    pub(crate) fn check(url: &str) -> Result<(), &'static str> {
        read(url).map(drop)
    }

    /// Sends JSON, with one header more. The status of the answer.
    pub(crate) async fn post(&self, body: Vec<u8>, header: (&str, &str), limit: Duration) -> Result<u16, CallError> {
        Ok(self.call(body, &[header], Reach::Anywhere, limit).await?.status)
    }

    /// Whether a URL itself names an address that is not public. Of a name nobody knows before it is called.
    pub(crate) fn names_private_address(url: &str) -> bool {
        read(url).is_ok_and(|(_, host, _)| host.parse().is_ok_and(|address| !is_public(address)))
    }

    /// Whether calls are encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Sends JSON, with more headers.
    pub(crate) async fn call(&self, body: Vec<u8>, headers: &[(&str, &str)], reach: Reach, limit: Duration) -> Result<Answer, CallError> {
        timeout(limit, self.call_patiently(body, headers, reach)).await.map_err(|_| CallError::TooSlow(limit))?
    }

    async fn call_patiently(&self, body: Vec<u8>, headers: &[(&str, &str)], reach: Reach) -> Result<Answer, CallError> {
        let authority = self.uri.authority().map_or(self.host.as_str(), |authority| authority.as_str());
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(Body::from(body)).map_err(CallError::Unwritable)?;
        let stream = self.connect(reach).await?;
        stream.set_nodelay(true).map_err(CallError::Connect)?;
        match &self.tls {
            None => exchange(TokioIo::new(stream), request).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(CallError::Connect)?;
                exchange(TokioIo::new(stream), request).await
            }
        }
    }

    async fn connect(&self, reach: Reach) -> Result<TcpStream, CallError> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await.map_err(CallError::Connect)?;
        let found: Vec<SocketAddr> = found.filter(|found| reach == Reach::Anywhere || is_public(found.ip())).take(ADDRESSES_MAX).collect();
        if found.is_empty() {
            return Err(CallError::NotPublic);
        }
        TcpStream::connect(&found[..]).await.map_err(CallError::Connect)
    }
}

/// Addresses of one name that are tried, one after the other.
const ADDRESSES_MAX: usize = 8;

/// Whether an address is one of the internet: not of this machine, of a private or a local network, of documentation, or of many at once.
/// What holds an IPv4 address in an IPv6 one is as that one is.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        // "This network", the shared space of carriers, protocol assignments, benchmarks, and what is kept for later with the broadcast.
        || a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a, b, c) == (192, 0, 0)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240;
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // Mapped (::ffff:a.b.c.d), and those that NAT64 and 6to4 lead to.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        // Teredo hides an address in another way.
        [0x2001, 0, ..] | [0x2001, 0xdb8, ..] => false,
        // All that is given out begins with 001; the rest is loopback, link-local, unique local, multicast and what nobody has.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

async fn exchange<S: Read + Write + Send + Unpin + 'static>(stream: S, request: Request<Body>) -> Result<Answer, CallError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::Builder::new().max_buf_size(HEADER_BYTES_MAX).handshake(stream).await.map_err(CallError::Broken)?;
    let mut connection = pin!(connection);
    let mut answer = pin!(sender.send_request(request));
    // The connection moves only while it is polled. When it has ended, the answer is there, or never comes.
    let answer = tokio::select! {
        answer = answer.as_mut() => answer,
        ended = connection.as_mut() => {
            ended.map_err(CallError::Broken)?;
            answer.await
        }
    };
    let answer = answer.map_err(CallError::Broken)?;
    let retry_after = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Ok(Answer { status: answer.status().as_u16(), retry_after: retry_after.map(Duration::from_secs) })
}

fn connector() -> Result<TlsConnector, EndpointError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(EndpointError::NoRoots);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(EndpointError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn read(url: &str) -> Result<(Uri, String, u16), &'static str> {
    let uri: Uri = url.parse().map_err(|_| "is none; it must be as https://sms.example.com/send")?;
    let port = match uri.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return Err("must begin with http:// or https://"),
    };
    let Some(authority) = uri.authority() else { return Err("names no host") };
    if authority.as_str().contains('@') {
        return Err("must have no user and no password: calls are signed");
    }
    // A literal IPv6 address stands in brackets in a URL alone.
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() {
        return Err("names no host");
    }
    let port = authority.port_u16().unwrap_or(port);
    Ok((uri, host, port))
}

#[cfg(test)]
mod tests {
    use super::{CallError, Endpoint, Reach, is_public};
    use axum::http::HeaderMap;
    use std::time::Duration;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn a_url_that_cannot_be_called_is_told_why() {
        for good in ["http://127.0.0.1:8080/send", "https://sms.example.com", "https://sms.example.com/send?a=b", "http://[::1]:80/"] {
            assert_eq!(Endpoint::check(good), Ok(()), "{good}");
        }
        for (bad, says) in [
            ("", "none"),
            ("sms.example.com/send", "none"),
            ("/send", "http"),
            ("ftp://sms.example.com/", "http"),
            ("https://user:password@sms.example.com/", "password"),
        ] {
            assert!(Endpoint::check(bad).unwrap_err().contains(says), "{bad}: {:?}", Endpoint::check(bad));
        }
    }

    #[tokio::test]
    async fn a_body_arrives_with_its_header_and_the_status_comes_back() {
        for status in [200, 204, 302, 500] {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = axum::Router::new().route(
                "/send",
                axum::routing::post(move |headers: HeaderMap, body: String| async move {
                    assert_eq!((headers["x-test"].as_bytes(), headers["host"].to_str().unwrap()), (&b"one"[..], &*address.to_string()));
                    assert_eq!((headers["content-type"].as_bytes(), body.as_str()), (&b"application/json"[..], "{}"));
                    (axum::http::StatusCode::from_u16(status).unwrap(), "an answer")
                }),
            );
            let server = crate::http::HttpServer::serve(listener, server, bounds()).unwrap();
            let endpoint = Endpoint::parse(&format!("http://{address}/send?a=b")).unwrap();
            assert_eq!(endpoint.post(b"{}".to_vec(), ("x-test", "one"), LIMIT).await.unwrap(), status);
            server.stop().await;
        }
    }

    #[test]
    fn what_only_this_machine_or_its_network_reaches_is_not_public() {
        for public in
            ["1.1.1.1", "93.184.216.34", "100.63.0.1", "100.128.0.1", "172.32.0.1", "192.0.1.1", "2606:4700::1111", "::ffff:1.1.1.1"]
        {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "127.0.0.1",
            "127.255.0.9",
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "fe80::1",
            "fc00::1",
            "fd12:3456::1",
            "ff02::1",
            "4000::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_to_be_public_and_is_not_is_never_dialled() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"] {
            let url = format!("http://{host}:{port}/");
            assert_eq!(Endpoint::names_private_address(&url), host != "localhost");
            let endpoint = Endpoint::parse(&url).unwrap();
            let error = endpoint.call(Vec::new(), &[], Reach::Public, LIMIT).await.unwrap_err();
            assert!(matches!(error, CallError::NotPublic), "{host}: {error}");
        }
        // Nobody has knocked: the one that does is the first.
        let endpoint = Endpoint::parse(&format!("http://127.0.0.1:{port}/")).unwrap();
        let (called, knocked) = tokio::join!(endpoint.call(Vec::new(), &[], Reach::Anywhere, LIMIT), async {
            let (stream, _) = listener.accept().await.unwrap();
            drop(stream);
            tokio::time::timeout(Duration::from_millis(1), listener.accept()).await.is_err()
        });
        assert!(called.is_err() && knocked);
    }

    #[tokio::test]
    async fn when_to_come_again_is_read_where_it_is_a_number() {
        for (says, expected) in [("Retry-After: 7\r\n", Some(7)), ("Retry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\n", None), ("", None)] {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let endpoint = Endpoint::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut begun = [0; 4];
                stream.read_exact(&mut begun).await.unwrap();
                let answer = format!("HTTP/1.1 503 Later\r\n{says}Content-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                // Read to its end, so that nothing is reset before the answer was read.
                drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await);
            });
            let answer = endpoint.call(b"{}".to_vec(), &[], Reach::Anywhere, LIMIT).await.unwrap();
            assert_eq!((answer.status, answer.retry_after), (503, expected.map(Duration::from_secs)));
            server.await.unwrap();
        }
    }

    fn bounds() -> crate::http::Bounds {
        crate::http::Bounds { connections_max: 8, header_timeout: LIMIT, grace: LIMIT }
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = Endpoint::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let error = endpoint.post(b"{}".to_vec(), ("x-test", "one"), Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, CallError::TooSlow(_)), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_or_speaks_otherwise_is_an_error() {
        for says in [&b""[..], b"220 mail.example.com ESMTP\r\n"] {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let endpoint = Endpoint::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut begun = [0; 4];
                stream.read_exact(&mut begun).await.unwrap();
                stream.write_all(says).await.unwrap();
            });
            let error = endpoint.post(b"{}".to_vec(), ("x-test", "one"), LIMIT).await.unwrap_err();
            assert!(matches!(error, CallError::Broken(_)), "{error}");
            server.await.unwrap();
        }
    }
}
