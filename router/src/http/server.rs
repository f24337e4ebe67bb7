//! The listener: accepts, bounds, serves, stops.
//!
//! - A connection holds a permit; when none is left, nothing more is accepted and the kernel's queue fills.
//! - A header that does not arrive in time ends its connection, and so does silence after a call. A call ends in time too.
//! - Stopping: no new connection, calls under way end, then what is left is cut.

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
use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

/// The running API.
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

/// Wait after an accept that failed for want of files or memory: spinning would take the CPU that frees them.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);
/// Longest header, all its lines together. Ours has one key and a content type.
const HEADER_BYTES_MAX: usize = 16 * 1024;

pub(super) async fn start(service: Service, config: &HttpConfig) -> Result<HttpServer, HttpError> {
    let listener = TcpListener::bind(config.listen).await.map_err(|cause| HttpError::Listen { address: config.listen, cause })?;
    let address = listener.local_addr().map_err(|cause| HttpError::Listen { address: config.listen, cause })?;
    let (stop, cut, connections) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
    let loop_of = Accepting {
        listener,
        router: service.router,
        permits: Arc::new(Semaphore::new(config.connections_max)),
        header_timeout: config.header_timeout,
        stop: stop.clone(),
        cut: cut.clone(),
        connections: connections.clone(),
    };
    let accepting = tokio::spawn(loop_of.run());
    info!(%address, "HTTP API listens");
    Ok(HttpServer { address, stop, cut, connections, running: service.running, accepting, grace: config.grace })
}

impl HttpServer {
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
            warn!(connections = self.connections.len(), calls = self.running.len(), grace = ?self.grace, "HTTP calls outlived the grace period");
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
