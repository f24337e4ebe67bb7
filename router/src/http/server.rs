//! The listener: accepts, bounds, serves, stops.
//!
//! - A connection holds a permit. When none is left, the connection that has had no call for longest ends for the next one, so that whoever
//!   holds connections and says nothing keeps nobody out; where all have calls under way, the next one waits, and the kernel's queue fills.
//! - A header that does not arrive in time ends its connection, and so does silence after a call. A call ends in time too.
//! - Stopping: no new connection, calls under way end, then what is left is cut.
//! - Other pages of the process (the operator's) are served by the same rules: see [`HttpServer::serve`].

use super::{HttpConfig, HttpError, Service, caller::Peer, problem::Problem};
use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header, uri::Authority},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
};
use hyper::service::{Service as _, service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
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
    /// Connections at once. Beyond it one without a call ends for the next one; where each has a call, the next ones wait in the kernel's queue.
    pub connections_max: usize,
    /// From a connection's start, or the end of its last call, to the last byte of the next header.
    pub header_timeout: Duration,
    /// How long a stop waits for calls under way, and for headers that never end.
    pub grace: Duration,
}

/// Wait after an accept that failed for want of files or memory: spinning would take the CPU that frees them.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);
/// What a connection that ends for another may take to write what it was answered.
const CUT_WAIT: Duration = Duration::from_secs(1);
/// Connections that end for others are told of so often: who makes them end must not fill the log too.
const WARN_EVERY: Duration = Duration::from_secs(10);
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
    /// Serves pages that are not the API's, until [`HttpServer::stop`]. No key is asked for, so what changes something must be asked of an
    /// address or of `localhost`: a web page whose own name was made to lead here (DNS rebinding) gets 421.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn serve(listener: TcpListener, pages: axum::Router, bounds: Bounds) -> io::Result<Self> {
        let router = pages.layer(from_fn(refuse_names));
        Self::begin(listener, Service { router, running: TaskTracker::new() }, bounds)
    }

    fn begin(listener: TcpListener, service: Service, bounds: Bounds) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (stop, cut, connections) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let loop_of = Accepting {
            listener,
            router: service.router,
            permits: Arc::new(Semaphore::new(bounds.connections_max)),
            resting: Arc::default(),
            told: None,
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
    resting: Arc<Resting>,
    /// When it was last said that connections end for others.
    told: Option<Instant>,
    header_timeout: Duration,
    stop: CancellationToken,
    cut: CancellationToken,
    connections: TaskTracker,
}

impl Accepting {
    async fn run(mut self) {
        let stop = self.stop.clone();
        loop {
            let accepted = tokio::select! {
                // What was accepted and has no permit yet is lost with a stop, which takes nothing new.
                accepted = self.accept() => accepted,
                () = stop.cancelled() => return,
            };
            if let Some((stream, permit)) = accepted {
                let service = TowerToHyperService::new(self.router.clone());
                let seat = Arc::new(Seat::new(Arc::clone(&self.resting)));
                let (stop, cut, header_timeout) = (self.stop.clone(), self.cut.clone(), self.header_timeout);
                self.connections.spawn(async move {
                    tokio::select! {
                        () = serve(stream, service, &seat, header_timeout, stop) => {}
                        () = cut.cancelled() => {}
                    }
                    drop(permit);
                });
            }
        }
    }

    async fn accept(&mut self) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        let stream = match self.listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "cannot accept an HTTP connection");
                sleep(ACCEPT_BACK_OFF).await;
                return None;
            }
        };
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some((stream, permit));
        }
        let mut is_one_ending = false;
        loop {
            if !is_one_ending && self.resting.end_oldest() {
                is_one_ending = true;
                self.tell();
            }
            tokio::select! {
                permit = Arc::clone(&self.permits).acquire_owned() => return Some((stream, permit.ok()?)),
                () = self.resting.more.notified(), if !is_one_ending => {}
            }
        }
    }

    fn tell(&mut self) {
        if self.told.is_none_or(|told| told.elapsed() >= WARN_EVERY) {
            self.told = Some(Instant::now());
            let address = self.listener.local_addr().ok();
            warn!(?address, "all HTTP connections are taken; those without a call end for new ones");
        }
    }
}

/// Connections without a call, the one that has had none for longest first.
#[derive(Debug, Default)]
struct Resting {
    queue: Mutex<Queue>,
    /// Somebody has come to them.
    more: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    /// How to end each.
    waiting: BTreeMap<u64, CancellationToken>,
}

impl Resting {
    /// Ends the first of them; `false` where there is none.
    fn end_oldest(&self) -> bool {
        self.lock().waiting.pop_first().map(|(_, end)| end.cancel()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among those without a call, which it has from its start and loses while it has one.
#[derive(Debug)]
struct Seat {
    resting: Arc<Resting>,
    end: CancellationToken,
    state: Mutex<SeatState>,
}

#[derive(Clone, Copy, Debug)]
enum SeatState {
    /// No call yet: there is nothing to be written.
    Fresh(u64),
    Called,
    Served(u64),
}

impl Seat {
    fn new(resting: Arc<Resting>) -> Self {
        let end = CancellationToken::new();
        let number = Self::sit(&resting, &end);
        Self { resting, end, state: Mutex::new(SeatState::Fresh(number)) }
    }

    fn sit(resting: &Resting, end: &CancellationToken) -> u64 {
        let mut queue = resting.lock();
        let number = queue.next;
        queue.next += 1;
        queue.waiting.insert(number, end.clone());
        resting.more.notify_one();
        number
    }

    fn on_call(&self) {
        self.leave(SeatState::Called);
    }

    fn on_answer(&self) {
        let number = Self::sit(&self.resting, &self.end);
        self.leave(SeatState::Served(number));
    }

    fn leave(&self, next: SeatState) {
        let before = std::mem::replace(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner), next);
        if let SeatState::Fresh(number) | SeatState::Served(number) = before {
            self.resting.lock().waiting.remove(&number);
        }
    }

    fn state(&self) -> SeatState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave(SeatState::Called);
    }
}

async fn serve(
    stream: TcpStream,
    service: TowerToHyperService<axum::Router>,
    seat: &Arc<Seat>,
    header_timeout: Duration,
    stop: CancellationToken,
) {
    let peer = match stream.set_nodelay(true).and_then(|()| stream.peer_addr()) {
        Ok(peer) => Peer(peer.ip()),
        Err(error) => {
            debug!(error = &error as &dyn std::error::Error, "an HTTP connection was gone before it was served");
            return;
        }
    };
    let calls = service_fn({
        let seat = Arc::clone(seat);
        move |mut request: hyper::Request<hyper::body::Incoming>| {
            seat.on_call();
            request.extensions_mut().insert(peer);
            let (answer, seat) = (service.call(request), Arc::clone(&seat));
            async move {
                let answer = answer.await;
                seat.on_answer();
                answer
            }
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), calls);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = seat.end.cancelled() => {
            if let SeatState::Fresh(_) = seat.state() {
                return;
            }
            // What was answered last may still be on its way out, and a call may have begun meanwhile.
            connection.as_mut().graceful_shutdown();
            match timeout(CUT_WAIT, connection.as_mut()).await {
                Err(_) if matches!(seat.state(), SeatState::Called) => connection.await,
                ended => ended.unwrap_or(Ok(())),
            }
        }
    };
    if let Err(error) = ended {
        debug!(error = &error as &dyn std::error::Error, "an HTTP connection broke");
    }
}

/// Lets through what changes nothing, and what was asked of an address or of `localhost`.
async fn refuse_names(request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let is_address = matches!((hosts.next(), hosts.next()), (Some(host), None) if is_address(host));
    if request.method().is_safe() || is_address {
        return next.run(request).await;
    }
    (StatusCode::MISDIRECTED_REQUEST, "send this to an address or to localhost, not to a name\n").into_response()
}

fn is_address(host: &HeaderValue) -> bool {
    let Some(authority) = host.to_str().ok().and_then(|text| text.parse::<Authority>().ok()) else { return false };
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
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
    async fn whoever_says_nothing_or_half_a_header_keeps_nobody_out() {
        let router = Router::new().route("/", get(|| async { "served" }));
        let server = serving(&config(|config| (config.connections_max, config.header_timeout) = (3, PATIENCE * 10)), router).await;
        let mut kept = TcpStream::connect(server.address()).await.unwrap();
        assert!(call(&mut kept).await.contains("served"));
        let mut silent = TcpStream::connect(server.address()).await.unwrap();
        silent.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
        let mut halting = TcpStream::connect(server.address()).await.unwrap();
        assert!(call(&mut halting).await.contains("served"));
        halting.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await.unwrap();
        // Served again: of the three it has had its last call latest.
        assert!(call(&mut kept).await.contains("served"));
        let mut served = Vec::new();
        for idle in [&mut silent, &mut halting, &mut kept] {
            let mut late = TcpStream::connect(server.address()).await.unwrap();
            assert!(call(&mut late).await.contains("served"), "one more than there may be");
            timeout(PATIENCE, idle.read_to_end(&mut Vec::new())).await.expect("the one without a call for longest ends").ok();
            served.push(late);
        }
        for late in &mut served {
            assert!(call(late).await.contains("served"), "nobody else ends");
        }
        server.stop().await;
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_wait_where_each_has_a_call() {
        let (entered, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let handler = {
            let (entered, gate) = (Arc::clone(&entered), Arc::clone(&gate));
            move || async move {
                entered.notify_one();
                gate.notified().await;
                "served"
            }
        };
        let server = serving(&config(|config| config.connections_max = 1), Router::new().route("/", get(handler))).await;
        let mut first = TcpStream::connect(server.address()).await.unwrap();
        first.write_all(CALL).await.unwrap();
        entered.notified().await;
        let mut second = TcpStream::connect(server.address()).await.unwrap();
        second.write_all(CALL).await.unwrap();
        gate.notify_one();
        // Its call ends although somebody waits for its place, and then it ends itself.
        let answer = timeout(PATIENCE, read_answer(&mut first)).await.unwrap();
        assert!(answer.contains("served"), "{answer}");
        timeout(PATIENCE, entered.notified()).await.expect("its turn comes");
        gate.notify_one();
        let answer = timeout(PATIENCE, read_answer(&mut second)).await.unwrap();
        assert!(answer.contains("served"), "{answer}");
        server.stop().await;
    }

    #[tokio::test]
    async fn what_changes_something_is_asked_of_an_address_and_not_of_a_name() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bounds = Bounds { connections_max: 2, header_timeout: PATIENCE, grace: PATIENCE };
        let pages = Router::new().route("/", get(|| async { "seen" }).post(|| async { "changed" }));
        let server = HttpServer::serve(listener, pages, bounds).unwrap();
        for (method, hosts, status) in [
            ("POST", "Host: 127.0.0.1:9090\r\n", "200"),
            ("POST", "Host: 10.0.0.7\r\n", "200"),
            ("POST", "Host: [::1]:9090\r\n", "200"),
            ("POST", "Host: LocalHost:9090\r\n", "200"),
            ("POST", "Host: evil.example\r\n", "421"),
            ("POST", "Host: localhost.evil.example:9090\r\n", "421"),
            ("POST", "Host: 127.0.0.1@evil.example\r\n", "421"),
            ("POST", "Host: 127.0.0.1\r\nHost: evil.example\r\n", "421"),
            ("DELETE", "Host: evil.example\r\n", "421"),
            ("POST", "", "421"),
            // A scrape by the name of a service.
            ("GET", "Host: gateway-1:9090\r\n", "200"),
        ] {
            let mut caller = TcpStream::connect(server.address()).await.unwrap();
            let text = format!("{method} / HTTP/1.1\r\n{hosts}Content-Length: 0\r\nConnection: close\r\n\r\n");
            caller.write_all(text.as_bytes()).await.unwrap();
            let answer = timeout(PATIENCE, read_answer(&mut caller)).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{method} {hosts}: {answer}");
        }
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
