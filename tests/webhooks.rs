//! Webhooks through a kill: a receiver that is away for a while hears of everything in the end, signed, in order, each under its own id.

use crate::house::{House, PATIENCE, eventually};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering::SeqCst},
    },
    thread,
};

const ANCHOR: i64 = 30_001;
const ALICE: i64 = 20_001;
const BOB: i64 = 20_009;

/// A call that came.
#[derive(Clone, Debug)]
struct Heard {
    id: String,
    event: String,
    signature: String,
    body: String,
    status: u16,
}

impl Heard {
    fn data(&self) -> Value {
        serde_json::from_str::<Value>(&self.body).unwrap()["data"].clone()
    }
}

/// A server of the business backend's: as plain as can be.
struct Backend {
    address: SocketAddr,
    /// What it answers.
    status: Arc<AtomicU16>,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Backend {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (status, heard) = (Arc::new(AtomicU16::new(204)), Arc::new(Mutex::new(Vec::new())));
        let (of_calls, book) = (Arc::clone(&status), Arc::clone(&heard));
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (status, book) = (Arc::clone(&of_calls), Arc::clone(&book));
                // One that breaks off is the server's end, which the test has brought about.
                thread::spawn(move || drop(take(stream, &status, &book)));
            }
        });
        Self { address, status, heard }
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    fn accepted(&self) -> Vec<Heard> {
        self.heard().into_iter().filter(|heard| heard.status < 300).collect()
    }

    fn answer(&self, status: u16) {
        self.status.store(status, SeqCst);
    }
}

fn take(stream: TcpStream, status: &AtomicU16, book: &Mutex<Vec<Heard>>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut headers = BTreeMap::new();
    let mut line = String::new();
    reader.read_line(&mut line)?;
    assert!(line.starts_with("POST /billfish?from=test HTTP/1.1"), "{line}");
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let status = status.load(SeqCst);
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let (id, event, signature) = (header("x-billfish-event-id"), header("x-billfish-event"), header("x-billfish-signature"));
    let body = String::from_utf8(body).unwrap();
    book.lock().unwrap().push(Heard { id, event, signature, body, status });
    write!(reader.get_mut(), "HTTP/1.1 {status} Said\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

fn give(house: &House, room: i64, uuid: &str, kind: i64) {
    let gift = json!({"senderId": ALICE, "roomId": room, "receiverId": ANCHOR, "giftId": 4, "uuid": uuid, "type": kind});
    let (status, answer) = house.api("POST", "/v1/gifts/send", gift);
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn a_backend_hears_of_everything_at_least_once_in_order_through_a_kill() {
    let mut house = House::start();
    let backend = Backend::start();
    let url = format!("http://{}/billfish?from=test", backend.address);
    let (status, hook) = house.api("POST", "/v1/webhooks", json!({"url": url}));
    assert_eq!(status, 201, "{hook}");
    let (secret, id) = (hook["secret"].as_str().unwrap().to_owned(), hook["webhookId"].as_i64().unwrap());
    let (status, answer) = house.api("POST", "/v1/rooms", json!({"anchorId": ANCHOR, "type": 2}));
    assert_eq!(status, 201, "{answer}");
    let room = answer["roomId"].as_i64().unwrap();
    let (status, answer) = house.api("POST", "/v1/wallet/grants", json!({"grants": [{"userId": ALICE, "coins": 5_000, "uuid": "g"}]}));
    assert_eq!(status, 200, "{answer}");
    let (mut alice, mut bob) = (house.login(ALICE), house.login(BOB));
    alice.join(room);
    bob.join(room);
    give(&house, room, "u1", 0);
    assert_eq!(house.api("POST", &format!("/v1/rooms/{room}/pk/online"), json!({"userId": BOB})).0, 204);
    eventually("the first are there", || {
        let ids: BTreeSet<String> = backend.accepted().into_iter().map(|heard| heard.id).collect();
        [format!("room-{room}-opened"), format!("gift-{room}-1")].iter().all(|id| ids.contains(id))
            && backend.accepted().iter().filter(|heard| heard.event == "user.online").count() == 2
    });
    // It falls over, and gifts go on.
    backend.answer(500);
    for turn in 2..=6 {
        give(&house, room, &format!("u{turn}"), i64::from(turn % 2 == 0));
    }
    eventually("a try has failed", || backend.heard().iter().any(|heard| heard.status == 500));
    house.kill();
    house.start_again();
    backend.answer(204);
    let (mut alice, mut bob) = (house.login(ALICE), house.login(BOB));
    alice.join(room);
    bob.join(room);
    give(&house, room, "u7", 0);
    assert_eq!(house.api("POST", &format!("/v1/rooms/{room}/pk/offline"), json!({"userId": BOB})).0, 204);
    assert_eq!(house.api("POST", &format!("/v1/rooms/{room}/close"), json!({"anchorId": ANCHOR})).0, 204);
    drop(alice);
    drop(bob);

    let of_room = || -> Vec<Heard> { backend.accepted().into_iter().filter(|heard| heard.data()["roomId"] == json!(room)).collect() };
    eventually("the room's last event is there", || of_room().iter().any(|heard| heard.event == "room.closed"));
    eventually("both users have gone", || {
        let gone: BTreeSet<i64> = backend
            .accepted()
            .iter()
            .filter(|heard| heard.event == "user.offline")
            .map(|heard| heard.data()["userId"].as_i64().unwrap())
            .collect();
        gone == BTreeSet::from([ALICE, BOB])
    });
    let mut firsts = Vec::new();
    for heard in of_room() {
        if !firsts.contains(&heard.id) {
            firsts.push(heard.id);
        }
    }
    let pk = firsts.iter().find(|id| id.starts_with("pk-")).cloned().expect("the PK has ended");
    let mut expected = vec![format!("room-{room}-opened")];
    expected.extend((1..=7).map(|seq| format!("gift-{room}-{seq}")));
    expected.extend([pk.clone(), format!("room-{room}-closed")]);
    assert_eq!(firsts, expected);
    let ended = of_room().into_iter().find(|heard| heard.id == pk).unwrap().data();
    // Three PK gifts of 100 each move the bar by 10.
    assert_eq!([&ended["bar"], &ended["anchorBeans"], &ended["challengerId"]], [&json!(80), &json!(300), &json!(BOB)]);
    let mut bodies: BTreeMap<String, String> = BTreeMap::new();
    for heard in backend.heard() {
        let body = bodies.entry(heard.id.clone()).or_insert_with(|| heard.body.clone());
        assert_eq!(*body, heard.body, "one id is one event");
    }
    // A user may come and go again; everything else happens once.
    let once = bodies.values().map(|body| serde_json::from_str::<Value>(body).unwrap()).filter(|body| body["data"]["roomId"].is_i64());
    let told: Vec<String> = once.map(|body| format!("{} {}", body["event"], body["data"])).collect();
    assert!(told.len() > 8, "{told:?}");
    assert_eq!(told.iter().collect::<BTreeSet<_>>().len(), told.len(), "and one event one id");
    let calls: Vec<Value> = backend.heard().iter().map(|heard| json!([secret, heard.signature, heard.body])).collect();
    if let Some(verdicts) = verified(&calls) {
        assert_eq!(verdicts, json!([calls.len(), 0, 0, 0]), "all as they came, and none that was changed, of another secret, or too old");
    }
    eventually("nothing waits any more", || {
        let (_, hook) = house.api("GET", &format!("/v1/webhooks/{id}"), json!(null));
        hook["waiting"] == json!(0) && hook["dropped"] == json!(0) && hook["secret"].is_null() && hook["deliveredTime"].as_i64() > Some(0)
    });
    assert!(house.metric("router_webhook_tries_total", &["accepted"]) > 0.0);
    assert!(!house.log().contains(&secret));
}

/// How many calls the receiver of `docs/api.md` takes: as they came, changed, with another secret, an hour later. `None` without a Python.
fn verified(calls: &[Value]) -> Option<Value> {
    const PAGE: &str = include_str!("../docs/api.md");
    let example = PAGE.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the page has an example");
    let program = format!(
        "{example}\nimport json, sys\ncounts = [0] * 4\nfor secret, signature, body in json.load(sys.stdin):\n    body = body.encode()\n    \
         counts[0] += verify(secret, signature, body)\n    counts[1] += verify(secret, signature, body + b' ')\n    \
         counts[2] += verify(secret + 'x', signature, body)\n    counts[3] += verify(secret, signature, body, now=time.time() + 3600)\n\
         print(json.dumps(counts))\n"
    );
    let python = Command::new("python3").args(["-c", &program]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut python) = python else {
        assert!(std::env::var_os("REQUIRE_SERVERS").is_none_or(|value| value != "1"), "no python3, and REQUIRE_SERVERS=1 forbids to skip");
        eprintln!("SKIPPED: no python3 to verify signatures with");
        return None;
    };
    python.stdin.take().unwrap().write_all(json!(calls).to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(serde_json::from_slice(&output.stdout).unwrap())
}
