//! The listener: accepts, bounds, serves, stops.
//!
//! - A connection holds a permit; when none is left, nothing more is accepted and the kernel's queue fills.
//! - A header that does not arrive in time ends its connection, and so does silence after a call. A call ends in time too.
//! - Stopping: no new connection, calls under way end, then what is left is cut.
//! - Other pages of the process (the operator's) are served by the same rules: see [`HttpServer::serve`].

use super::{HttpConfig, HttpError, Service, problem::Problem};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

/// The running API, or other pages.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: CancellationToken,
    cut: CancellationToken,
    connections: TaskTracker,
    running: TaskTracker,
    accepting: JoinHandle<()>,
    grace: Duration,
}

/// What a caller may take of a server.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once; beyond it the next ones wait in the kernel's queue.
    pub connections_max: usize,
    /// From a connection's start, or the end of its last call, to the last byte of the next header.
    pub header_timeout: Duration,
    /// How long a stop waits for calls under way, and for headers that never end.
    pub grace: Duration,
}

/// Wait after an accept that failed for want of files or memory: spinning would take the CPU that frees them.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);
/// Longest header, all its lines together. Ours has one key and a content type.
const HEADER_BYTES_MAX: usize = 16 * 1024;

pub(super) async fn start(service: Service, config: &HttpConfig) -> Result<HttpServer, HttpError> {
    let listener = TcpListener::bind(config.listen).await.map_err(|cause| HttpError::Listen { address: config.listen, cause })?;
    let HttpConfig { connections_max, header_timeout, grace, .. } = *config;
    let server = HttpServer::begin(listener, service, Bounds { connections_max, header_timeout, grace })
        .map_err(|cause| HttpError::Listen { address: config.listen, cause })?;
    info!(address = %server.address, "HTTP API listens");
    Ok(server)
}

impl HttpServer {
    /// Serves pages that are not the API's, until [`HttpServer::stop`].
    ///
    /// # Errors
    /// The listener has no address.
    pub fn serve(listener: TcpListener, pages: axum::Router, bounds: Bounds) -> io::Result<Self> {
        Self::begin(listener, Service { router: pages, running: TaskTracker::new() }, bounds)
    }

    fn begin(listener: TcpListener, service: Service, bounds: Bounds) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (stop, cut, connections) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let loop_of = Accepting {
            listener,
            router: service.router,
            permits: Arc::new(Semaphore::new(bounds.connections_max)),
            header_timeout: bounds.header_timeout,
            stop: stop.clone(),
            cut: cut.clone(),
            connections: connections.clone(),
        };
        let accepting = tokio::spawn(loop_of.run());
        Ok(Self { address, stop, cut, connections, running: service.running, accepting, grace: bounds.grace })
    }

    /// Where it listens: the port that was bound, also when the configuration says 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes nothing new, lets calls under way end within the grace period, cuts the rest.
    pub async fn stop(self) {
        self.stop.cancel();
        self.connections.close();
        self.running.close();
        let ended = timeout(self.grace, async {
            self.connections.wait().await;
            self.running.wait().await;
        });
        if ended.await.is_err() {
            let (connections, calls) = (self.connections.len(), self.running.len());
            warn!(address = %self.address, connections, calls, grace = ?self.grace, "HTTP calls outlived the grace period");
            self.cut.cancel();
            self.connections.wait().await;
        }
        if let Err(error) = self.accepting.await {
            warn!(error = &error as &dyn std::error::Error, "the HTTP listener had failed");
        }
    }
}

struct Accepting {
    listener: TcpListener,
    router: axum::Router,
    permits: Arc<Semaphore>,
    header_timeout: Duration,
    stop: CancellationToken,
    cut: CancellationToken,
    connections: TaskTracker,
}

impl Accepting {
    async fn run(self) {
        loop {
            let accepted = tokio::select! {
                // Cancel-safe: a permit or a connection that was not taken yet is not lost.
                accepted = self.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            if let Some((stream, permit)) = accepted {
                let service = TowerToHyperService::new(self.router.clone());
                let (stop, cut, header_timeout) = (self.stop.clone(), self.cut.clone(), self.header_timeout);
                self.connections.spawn(async move {
                    tokio::select! {
                        () = serve(stream, service, header_timeout, stop) => {}
                        () = cut.cancelled() => {}
                    }
                    drop(permit);
                });
            }
        }
    }

    async fn accept(&self) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        match self.listener.accept().await {
            Ok((stream, _)) => Some((stream, permit)),
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "cannot accept an HTTP connection");
                sleep(ACCEPT_BACK_OFF).await;
                None
            }
        }
    }
}

async fn serve(stream: TcpStream, service: TowerToHyperService<axum::Router>, header_timeout: Duration, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(error = &error as &dyn std::error::Error, "an HTTP connection was gone before it was served");
        return;
    }
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(error = &error as &dyn std::error::Error, "an HTTP connection broke");
    }
}

/// Ends a call that takes too long, its body's arrival included.
pub(super) async fn end_in_time(State(call_timeout): State<Duration>, request: Request, next: Next) -> Response {
    match timeout(call_timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::timed_out().into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Bounds, HttpServer, end_in_time, start};
    use crate::http::{HttpConfig, HttpError, Service};
    use axum::{Router, body::Body, extract::DefaultBodyLimit, http::Request, middleware::from_fn_with_state, routing::get};
    use std::{sync::Arc, time::Duration};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::Notify,
        time::timeout,
    };
    use tokio_util::task::TaskTracker;
    use tower::ServiceExt;

    /// Longest wait for anything; far above what a loaded machine needs.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_slow_or_silent_caller_is_cut() {
        let server = serving(&config(|config| config.header_timeout = Duration::from_millis(200)), Router::new()).await;
        let mut silent = TcpStream::connect(server.address()).await.unwrap();
        let mut slow = TcpStream::connect(server.address()).await.unwrap();
        let drip = async {
            // One byte at a time, each well within the time a whole header has: the total decides.
            loop {
                if slow.write_all(b"G").await.is_err() {
                    return;
                }
                tokio::select! {
                    read = slow.read_u8() => if read.is_err() { return },
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                }
            }
        };
        timeout(PATIENCE, drip).await.expect("the slow one is cut");
        timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await.expect("the silent one is cut").unwrap();
        server.stop().await;
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_wait_until_one_ends() {
        let router = Router::new().route("/", get(|| async { "served" }));
        let server = serving(&config(|config| config.connections_max = 1), router).await;
        let mut first = TcpStream::connect(server.address()).await.unwrap();
        assert!(call(&mut first).await.contains("served"));
        let mut second = TcpStream::connect(server.address()).await.unwrap();
        second.write_all(CALL).await.unwrap();
        // The first is served again while the second, which came before, still waits.
        assert!(call(&mut first).await.contains("served"));
        let mut byte = [0];
        assert_eq!(second.try_read(&mut byte).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        drop(first);
        let answer = timeout(PATIENCE, read_answer(&mut second)).await.expect("its turn comes");
        assert!(answer.contains("served"), "{answer}");
        server.stop().await;
    }

    #[tokio::test]
    async fn stopping_lets_a_call_end_and_takes_nothing_new() {
        let (entered, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let handler = {
            let (entered, gate) = (Arc::clone(&entered), Arc::clone(&gate));
            move || async move {
                entered.notify_one();
                gate.notified().await;
                "served"
            }
        };
        let server = serving(&config(|config| config.grace = PATIENCE), Router::new().route("/", get(handler))).await;
        let address = server.address();
        let mut caller = TcpStream::connect(address).await.unwrap();
        caller.write_all(CALL).await.unwrap();
        entered.notified().await;
        let stopping = tokio::spawn(server.stop());
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        let answer = timeout(PATIENCE, read_answer(&mut caller)).await.unwrap();
        assert!(answer.contains("served"), "{answer}");
        timeout(PATIENCE, stopping).await.expect("it stops").unwrap();
    }

    #[tokio::test]
    async fn a_call_that_outlives_the_grace_period_is_cut() {
        let entered = Arc::new(Notify::new());
        let handler = {
            let entered = Arc::clone(&entered);
            move || async move {
                entered.notify_one();
                std::future::pending::<()>().await;
            }
        };
        let server = serving(&config(|config| config.grace = Duration::from_millis(50)), Router::new().route("/", get(handler))).await;
        let mut caller = TcpStream::connect(server.address()).await.unwrap();
        caller.write_all(CALL).await.unwrap();
        entered.notified().await;
        timeout(PATIENCE, server.stop()).await.expect("it stops");
        let mut heard = Vec::new();
        timeout(PATIENCE, caller.read_to_end(&mut heard)).await.expect("it is cut").ok();
        assert!(heard.is_empty());
    }

    #[tokio::test]
    async fn a_header_that_does_not_end_does_not_keep_a_stop_from_ending() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bounds = Bounds { connections_max: 2, header_timeout: PATIENCE * 10, grace: Duration::from_millis(50) };
        let server = HttpServer::serve(listener, Router::new().route("/", get(|| async { "served" })), bounds).unwrap();
        let mut halting = TcpStream::connect(server.address()).await.unwrap();
        halting.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await.unwrap();
        // Who came later is served: both were taken in.
        let mut other = TcpStream::connect(server.address()).await.unwrap();
        assert!(call(&mut other).await.contains("served"));
        timeout(PATIENCE, server.stop()).await.expect("it stops");
        timeout(PATIENCE, halting.read_to_end(&mut Vec::new())).await.expect("it is cut").ok();
    }

    #[tokio::test]
    async fn a_body_without_a_declared_length_is_bounded_too() {
        let router = Router::new()
            .route("/", axum::routing::post(|body: axum::body::Bytes| async move { body.len().to_string() }))
            .layer(DefaultBodyLimit::max(1_000));
        let server = serving(&config(|_| {}), router).await;
        for (pieces, status) in [(10, "200"), (11, "413")] {
            let mut caller = TcpStream::connect(server.address()).await.unwrap();
            let mut text = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
            for _ in 0..pieces {
                text += &format!("64\r\n{}\r\n", "n".repeat(100));
            }
            caller.write_all((text + "0\r\n\r\n").as_bytes()).await.unwrap();
            let answer = timeout(PATIENCE, read_answer(&mut caller)).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        }
        server.stop().await;
    }

    #[tokio::test]
    async fn a_header_without_end_is_refused() {
        let server = serving(&config(|_| {}), Router::new()).await;
        let mut caller = TcpStream::connect(server.address()).await.unwrap();
        let endless = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(super::HEADER_BYTES_MAX + 1));
        caller.write_all(endless.as_bytes()).await.unwrap();
        let answer = timeout(PATIENCE, read_answer(&mut caller)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
        server.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_takes_too_long_is_ended() {
        let router =
            Router::new().route("/", get(std::future::pending::<()>)).layer(from_fn_with_state(Duration::from_secs(10), end_in_time));
        let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (503, &axum::http::HeaderValue::from(1)));
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let service = Service { router: Router::new(), running: TaskTracker::new() };
        let error = start(service, &config(|config| config.listen = address)).await.unwrap_err();
        assert!(matches!(error, HttpError::Listen { .. }) && error.to_string().contains(&address.to_string()), "{error}");
    }

    const CALL: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    fn config(change: impl FnOnce(&mut HttpConfig)) -> HttpConfig {
        let mut config = HttpConfig { listen: ([127, 0, 0, 1], 0).into(), ..HttpConfig::default() };
        change(&mut config);
        config
    }

    async fn serving(config: &HttpConfig, router: Router) -> HttpServer {
        start(Service { router, running: TaskTracker::new() }, config).await.unwrap()
    }

    async fn call(stream: &mut TcpStream) -> String {
        stream.write_all(CALL).await.unwrap();
        timeout(PATIENCE, read_answer(stream)).await.unwrap()
    }

    /// Reads until the answer's short body is there, or to the end.
    async fn read_answer(stream: &mut TcpStream) -> String {
        let mut heard = Vec::new();
        let mut piece = [0; 4_096];
        loop {
            let text = String::from_utf8_lossy(&heard);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length =
                    head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(|text| text.parse().unwrap()));
                if body.len() >= length.unwrap_or(usize::MAX) {
                    return text.into_owned();
                }
            }
            match stream.read(&mut piece).await.unwrap() {
                0 => return String::from_utf8(heard).unwrap(),
                count => heard.extend_from_slice(&piece[..count]),
            }
        }
    }
}
