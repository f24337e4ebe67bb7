//! The SDK against real gateways that go, drained or killed, one behind the other: an app is shown everything once, whatever carries it.

use billfish_client::{Body, Client, ClientConfig, Event, Events, Reason, Roots, Ticket, TokenError, TokenProvider, TransportKind};
use billfish_testing::{Api, Certificates, Cluster, ClusterOptions, PATIENCE, eventually};
use serde_json::{Value, json};
use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::{runtime::Runtime, task};

/// Two gateways, each with every listener, a router and a room.
struct Stage {
    cluster: Cluster,
    api: Api,
    room: i64,
    roots: Roots,
    /// Where an app goes that has nowhere else to go.
    ways: Arc<Mutex<Vec<(TransportKind, String)>>>,
    runtime: Runtime,
    _certificates: Certificates,
}

impl Stage {
    /// `None`, said loudly, where Redis is not installed.
    fn set(environment: &[(&str, &str)]) -> Option<Self> {
        let certificates = Certificates::new();
        let files = format!("[{{certificate = {:?}, key = {:?}}}]", certificates.certificate(), certificates.key());
        let any = "127.0.0.1:0";
        let listeners = [
            ("BILLFISH__GATEWAY__LISTEN__TLS", any),
            ("BILLFISH__GATEWAY__LISTEN__QUIC", any),
            ("BILLFISH__GATEWAY__TLS__CERTIFICATES", files.as_str()),
        ];
        // An app that is slow to move may log in again some times; that is not what is asked here.
        let logins = [("BILLFISH__GATEWAY__ADMISSION__USER_LOGINS_PER_MINUTE", "1000")];
        let environment = listeners.iter().chain(&logins).chain(environment).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let options = ClusterOptions {
            gateways: 2,
            routers: 1,
            gateway_environment: environment.collect(),
            ..ClusterOptions::new(env!("CARGO_BIN_EXE_billfish"))
        };
        let cluster = Cluster::start(options)?;
        let api = cluster.api(0);
        let room = api.open_room(20_001);
        let roots = Roots { platform: false, more_pem: fs::read_to_string(certificates.authority()).unwrap() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let stage = Self { cluster, api, room, roots, ways: Arc::default(), runtime, _certificates: certificates };
        stage.both_known();
        stage.send_to(0);
        Some(stage)
    }

    /// One is sent nobody before it is linked, and one that goes names only those that are sent somebody.
    fn both_known(&self) {
        eventually("both gateways to be known by every transport", || {
            let answer = self.api.call("POST", "/v1/im/tokens", &json!({ "userId": 30_001 }));
            answer.is_ok_and(|(_, answer)| {
                ["tcp", "ws", "tls", "quic"].iter().all(|kind| answer["gateways"][kind].as_array().is_some_and(|known| known.len() == 2))
            })
        });
    }

    /// From now on whoever connects comes to this gateway.
    fn send_to(&self, gateway: usize) {
        let node = &self.cluster.gateways[gateway];
        let way = |kind: TransportKind| (kind, format!("{kind}://{}", node.address(kind.listed_as())));
        *self.ways.lock().unwrap() = TransportKind::ALL.into_iter().map(way).collect();
    }

    /// An app that is in the room.
    fn enter(&self, user: i64, kind: TransportKind, may_break: bool) -> App {
        let (api, ways) = (self.api.clone(), Arc::clone(&self.ways));
        let tokens = TokenProvider::new(move || {
            let (api, ways) = (api.clone(), Arc::clone(&ways));
            async move {
                let token = task::spawn_blocking(move || api.token(user)).await.map_err(|error| TokenError::Away(error.to_string()))?;
                let addresses = ways.lock().unwrap().iter().filter(|(of, _)| *of == kind).map(|(_, address)| address.clone()).collect();
                Ok(Ticket { token, addresses })
            }
        });
        let config = ClientConfig {
            roots: self.roots.clone(),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_millis(200),
            ..ClientConfig::new(user, tokens)
        };
        let shown = Arc::<Mutex<Shown>>::default();
        let (client, listening) = self.runtime.block_on(async {
            let (client, events) = Client::connect(config).unwrap();
            client.join(self.room).await.unwrap();
            (client, tokio::spawn(listen(kind, events, Arc::clone(&shown), may_break)))
        });
        let app = App { kind, client, shown, listening };
        eventually("it is in the room", || app.shown.lock().unwrap().is_in_room);
        app
    }

    /// Every app has been shown some more than when this was asked.
    fn some_more_is_shown(&self, apps: &[App]) {
        let before: Vec<usize> = apps.iter().map(App::count).collect();
        eventually("some more is shown", || apps.iter().zip(&before).all(|(app, before)| app.count() >= before + 5));
    }

    /// All of them are on this gateway.
    fn all_are_on(&self, gateway: usize, apps: &[App]) {
        let name = self.cluster.gateways[gateway].name();
        eventually("all have moved", || apps.iter().all(|app| app.shown.lock().unwrap().node == name));
    }

    /// Everybody has been shown everything that was sent, and nothing twice to the end.
    fn check(&self, apps: Vec<App>, sent: i64) {
        let count = usize::try_from(sent).unwrap();
        eventually("everything is shown", || apps.iter().all(|app| app.count() >= count));
        for App { kind, client, shown, listening } in apps {
            self.runtime.block_on(async {
                client.close().await;
                listening.await.expect("it has heard nothing but what it may");
            });
            let mut numbers = std::mem::take(&mut shown.lock().unwrap().numbers);
            if kind == TransportKind::Quic {
                // Each class comes in its own order.
                for class in 0..CLASSES {
                    let of_class: Vec<_> = numbers.iter().filter(|number| *number % CLASSES == class).collect();
                    assert!(of_class.is_sorted(), "{kind}, class {class}: {of_class:?}");
                }
                numbers.sort_unstable();
            }
            assert_eq!(numbers, (1..=sent).collect::<Vec<_>>(), "{kind}: each once, in order");
        }
    }
}

struct App {
    kind: TransportKind,
    client: Client,
    shown: Arc<Mutex<Shown>>,
    listening: task::JoinHandle<()>,
}

impl App {
    fn count(&self) -> usize {
        self.shown.lock().unwrap().numbers.len()
    }
}

/// What an app has been shown, and where it is.
#[derive(Default)]
struct Shown {
    numbers: Vec<i64>,
    node: String,
    is_in_room: bool,
}

/// Listens to the end. `may_break`: connections are lost, and the app is told so.
async fn listen(kind: TransportKind, mut events: Events, shown: Arc<Mutex<Shown>>, may_break: bool) {
    let mut has_been_in = false;
    loop {
        match events.next().await {
            Some(Event::Connecting { .. } | Event::Disconnected { .. }) if may_break || !has_been_in => {}
            Some(Event::Connected { transport, node, .. }) => {
                assert_eq!(transport, kind);
                shown.lock().unwrap().node = node;
            }
            Some(Event::Joined { gap, .. }) => {
                assert!(!gap, "{kind}: the room's log reaches back");
                shown.lock().unwrap().is_in_room = true;
                has_been_in = true;
            }
            Some(Event::Push(push)) => shown.lock().unwrap().numbers.extend(number_of(&push)),
            Some(Event::Audience { .. } | Event::InboxRead { .. }) => {}
            Some(Event::Closed { reason: Reason::LoggedOut }) | None => return,
            other => panic!("{kind}: that is not to be heard of: {other:?}"),
        }
    }
}

/// The number in a push.
fn number_of(push: &Body) -> Option<i64> {
    serde_json::from_str::<Value>(push.data.as_deref()?).ok()?["number"].as_i64()
}

/// Of those that are never dropped silently, so that over QUIC more than one stream is in use.
const CLASSES: i64 = 2;

/// Numbers that are pushed to a room, one behind the other.
struct Pushing {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<i64>,
}

impl Pushing {
    fn begin(stage: &Stage) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (api, room, is_over) = (stage.api.clone(), stage.room, Arc::clone(&is_over));
            move || {
                let mut number = 0;
                while !is_over.load(Ordering::Relaxed) {
                    number += 1;
                    let data = json!({ "number": number }).to_string();
                    let class = number % CLASSES;
                    api.push(&json!({"appId": 10001, "target": {"roomId": room}, "bizCode": 5568, "data": data, "class": class}));
                    // The room's log reaches 500 back: 20 s.
                    std::thread::sleep(Duration::from_millis(40));
                }
                number
            }
        });
        Self { is_over, thread }
    }

    /// How many there were.
    fn end(self) -> i64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// RECONNECT, and the new connection stands before the old one is left: nobody hears of a break.
#[test]
fn gateways_that_are_drained_in_turn_cost_nobody_a_message_over_any_transport() {
    let Some(mut stage) = Stage::set(&[]) else { return };
    let kinds = TransportKind::ALL.into_iter().chain(TransportKind::ALL);
    let apps: Vec<App> = (30_001..).zip(kinds).map(|(user, kind)| stage.enter(user, kind, false)).collect();
    stage.all_are_on(0, &apps);
    let pushing = Pushing::begin(&stage);
    for (goes, stays) in [(0, 1), (1, 0)] {
        stage.both_known();
        stage.some_more_is_shown(&apps);
        stage.cluster.gateways[goes].terminate();
        stage.all_are_on(stays, &apps);
        let status = stage.cluster.gateways[goes].wait(2 * PATIENCE);
        assert!(status.is_some_and(|status| status.success()), "{status:?}\n{}", stage.cluster.gateways[goes].log());
        stage.some_more_is_shown(&apps);
        stage.cluster.gateways[goes].start_again();
        stage.cluster.wait_ready();
    }
    stage.check(apps, pushing.end());
}

/// kill -9: no goodbye over QUIC, and no reset either. The apps find out by silence, log in elsewhere, and get what they missed.
#[test]
fn gateways_that_are_killed_in_turn_cost_nobody_a_message_over_quic_or_tls() {
    let Some(mut stage) = Stage::set(&[("BILLFISH__GATEWAY__SESSION__HEARTBEAT_GAP", "2s")]) else { return };
    let kinds = [TransportKind::Quic, TransportKind::Quic, TransportKind::Quic, TransportKind::Tls, TransportKind::Wss];
    let apps: Vec<App> = (30_001..).zip(kinds).map(|(user, kind)| stage.enter(user, kind, true)).collect();
    stage.all_are_on(0, &apps);
    let pushing = Pushing::begin(&stage);
    for (goes, stays) in [(0, 1), (1, 0)] {
        stage.both_known();
        stage.some_more_is_shown(&apps);
        stage.send_to(stays);
        stage.cluster.gateways[goes].kill();
        stage.all_are_on(stays, &apps);
        stage.some_more_is_shown(&apps);
        stage.cluster.gateways[goes].start_again();
        stage.cluster.wait_ready();
    }
    stage.check(apps, pushing.end());
}
