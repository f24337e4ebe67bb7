//! Calls of other people's HTTP servers: one POST on a connection of its own, whose answer is its status.
//!
//! - Bounded in time as a whole, from the look-up of the name to the status. Redirections are not followed, bodies of answers are not read.
//! - A server of `https` is checked against the certificates of this machine.
//! - No task: a call that is given up is gone, with its connection.

use axum::{
    body::Body,
    http::{Method, Request, Uri, header},
};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use std::{io, pin::pin, sync::Arc, time::Duration};
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
        timeout(limit, self.post_patiently(body, header)).await.map_err(|_| CallError::TooSlow(limit))?
    }

    async fn post_patiently(&self, body: Vec<u8>, header: (&str, &str)) -> Result<u16, CallError> {
        let authority = self.uri.authority().map_or(self.host.as_str(), |authority| authority.as_str());
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .header(header.0, header.1)
            .body(Body::from(body))
            .map_err(CallError::Unwritable)?;
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(CallError::Connect)?;
        stream.set_nodelay(true).map_err(CallError::Connect)?;
        match &self.tls {
            None => exchange(TokioIo::new(stream), request).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(CallError::Connect)?;
                exchange(TokioIo::new(stream), request).await
            }
        }
    }
}

async fn exchange<S: Read + Write + Send + Unpin + 'static>(stream: S, request: Request<Body>) -> Result<u16, CallError> {
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
    Ok(answer.map_err(CallError::Broken)?.status().as_u16())
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
    use super::{CallError, Endpoint};
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
