//! A receiver for tests: takes calls of webhooks, answers as it is told, and remembers what it has heard.

use crate::http::{Bounds, HttpServer};
use aws_lc_rs::digest;
use axum::{
    body::Bytes,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, post},
};
use billfish_testing::PATIENCE;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{sleep, timeout},
};

/// A call that came.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) id: String,
    pub(crate) event: String,
    pub(crate) tries: u32,
    pub(crate) signature: String,
    pub(crate) body: String,
    /// The room, or below 0 the user, that it is about.
    pub(crate) about: i64,
    /// Whether it was accepted.
    pub(crate) is_accepted: bool,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    Status(u16),
    /// 200, after so long.
    Slow(Duration),
    /// None, until [`Receiver::let_go`].
    Hang,
}

type Plan = Box<dyn Fn(usize, &Heard) -> Reply + Send + Sync>;

struct Book {
    heard: Vec<Heard>,
    /// Calls that were told to hang, or whose answer is on its way.
    under_way: BTreeMap<i64, usize>,
    /// About one room at the same time, and of all.
    most_at_once: (usize, usize),
}

struct Inner {
    book: Mutex<Book>,
    plan: Mutex<Plan>,
    gate: watch::Sender<bool>,
    /// Calls of the place that redirections name.
    followed: AtomicUsize,
    count: watch::Sender<usize>,
}

/// A server that is called.
pub(crate) struct Receiver {
    inner: Arc<Inner>,
    server: HttpServer,
}

impl Receiver {
    /// One that accepts all.
    pub(crate) async fn start() -> Self {
        Self::planned(|_, _| Reply::Status(200)).await
    }

    /// One that answers the nth call, counted from 0, by a plan.
    pub(crate) async fn planned(plan: impl Fn(usize, &Heard) -> Reply + Send + Sync + 'static) -> Self {
        Self::at(TcpListener::bind(("127.0.0.1", 0)).await.unwrap(), plan)
    }

    pub(crate) fn at(listener: TcpListener, plan: impl Fn(usize, &Heard) -> Reply + Send + Sync + 'static) -> Self {
        let book = Book { heard: Vec::new(), under_way: BTreeMap::new(), most_at_once: (0, 0) };
        let inner = Arc::new(Inner {
            book: Mutex::new(book),
            plan: Mutex::new(Box::new(plan)),
            gate: watch::Sender::new(false),
            followed: AtomicUsize::new(0),
            count: watch::Sender::new(0),
        });
        let taking = Arc::clone(&inner);
        let take = move |headers: HeaderMap, body: Bytes| {
            let inner = Arc::clone(&taking);
            async move { inner.take(&headers, &body).await }
        };
        let bounds = Bounds { connections_max: 256, header_timeout: PATIENCE, grace: Duration::ZERO };
        let following = Arc::clone(&inner);
        let elsewhere = any(async move || following.followed.fetch_add(1, Relaxed).to_string());
        let routes = axum::Router::new().route("/hook", post(take)).route("/elsewhere", elsewhere);
        let server = HttpServer::serve(listener, routes, bounds).unwrap();
        Self { inner, server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.server.address())
    }

    pub(crate) fn follow(&self, plan: impl Fn(usize, &Heard) -> Reply + Send + Sync + 'static) {
        *self.inner.plan.lock().unwrap() = Box::new(plan);
    }

    /// Calls that hang are accepted.
    pub(crate) fn let_go(&self) {
        self.inner.gate.send_replace(true);
    }

    /// Everything heard so far.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.inner.book().heard.clone()
    }

    /// Ids that were accepted, in their order, and again where they came again.
    pub(crate) fn accepted(&self) -> Vec<Heard> {
        self.heard().into_iter().filter(|heard| heard.is_accepted).collect()
    }

    /// About one room or user at the same time, and of all.
    pub(crate) fn most_at_once(&self) -> (usize, usize) {
        self.inner.book().most_at_once
    }

    /// How often a redirection was followed.
    pub(crate) fn followed(&self) -> usize {
        self.inner.followed.load(Relaxed)
    }

    /// Waits until so many calls have come.
    pub(crate) async fn wait_heard(&self, count: usize) {
        let mut counts = self.inner.count.subscribe();
        let came = timeout(PATIENCE, counts.wait_for(|came| *came >= count)).await;
        assert!(came.is_ok(), "{count} calls were expected, these came: {:?}", self.heard());
    }

    /// Waits until so many different events have been accepted.
    pub(crate) async fn wait_accepted(&self, count: usize) {
        let ids = || self.accepted().into_iter().map(|heard| heard.id).collect::<BTreeSet<_>>().len();
        let waiting = async {
            while ids() < count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(3 * PATIENCE, waiting).await.is_ok(), "{} of {count} were accepted: {:?}", ids(), self.heard());
    }

    pub(crate) async fn stop(self) {
        self.let_go();
        self.server.stop().await;
    }
}

impl Inner {
    async fn take(&self, headers: &HeaderMap, body: &Bytes) -> Response {
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        let body = String::from_utf8(body.to_vec()).unwrap();
        let read: Value = serde_json::from_str(&body).unwrap();
        assert!(header("user-agent").starts_with("billfish/") && header("content-type") == "application/json");
        let about = read["data"]["roomId"].as_i64().or_else(|| Some(-read["data"]["userId"].as_i64()?)).unwrap();
        let (id, event, tries) = (header("x-billfish-event-id"), header("x-billfish-event"), header("x-billfish-try").parse().unwrap());
        assert_eq!((read["id"].as_str(), read["event"].as_str()), (Some(&*id), Some(&*event)), "headers and body say the same");
        let mut heard = Heard { id, event, tries, signature: header("x-billfish-signature"), body, about, is_accepted: false };
        let place = {
            let mut book = self.book();
            let place = book.heard.len();
            *book.under_way.entry(about).or_default() += 1;
            let (here, all) = (book.under_way[&about], book.under_way.values().sum());
            book.most_at_once = (book.most_at_once.0.max(here), book.most_at_once.1.max(all));
            book.heard.push(heard.clone());
            place
        };
        self.count.send_modify(|count| *count += 1);
        let reply = (self.plan.lock().unwrap())(place, &heard);
        // Its place is free when it is answered, or when whoever called has hung up.
        let _under_way = UnderWay { inner: self, about };
        let status = match reply {
            Reply::Status(status) => status,
            Reply::Slow(pause) => {
                sleep(pause).await;
                200
            }
            Reply::Hang => {
                self.gate.subscribe().wait_for(|open| *open).await.unwrap();
                200
            }
        };
        heard.is_accepted = (200..300).contains(&status);
        self.book().heard[place] = heard;
        let location = [(header::LOCATION, "/elsewhere")];
        (StatusCode::from_u16(status).unwrap(), location, "an answer that nobody reads").into_response()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct UnderWay<'a> {
    inner: &'a Inner,
    about: i64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        *self.inner.book().under_way.get_mut(&self.about).unwrap() -= 1;
    }
}

/// The signature of a body, by RFC 2104 and nothing of what signs.
pub(crate) fn signed_by_hand(secret: &[u8], second: u64, body: &str) -> String {
    assert!(secret.len() <= 64, "a longer one would be hashed first");
    let pad = |with: u8| -> Vec<u8> { (0..64).map(|place| secret.get(place).copied().unwrap_or(0) ^ with).collect() };
    let inner = digest::digest(&digest::SHA256, &[&pad(0x36)[..], format!("{second}.{body}").as_bytes()].concat());
    let outer = digest::digest(&digest::SHA256, &[&pad(0x5c)[..], inner.as_ref()].concat());
    let hex: String = outer.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={second},v1={hex}")
}
