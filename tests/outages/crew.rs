//! Who gives and who watches while something is away: by sockets and by HTTP, as clients that keep the rules.
//!
//! - A giver has one gift under way, and sends it again by the same `uuid` until it is acknowledged; now and then one gives up, and then nobody
//!   knows. Whatever is refused must say when to come again.
//! - A viewer answers every push that wants it, shows each `msgId` once, and comes back with what it has seen when its connection ends.
//! - All of them go on until they are told to stop: that service has returned is seen by what they acknowledge.

use crate::house::{Peer, login_body};
use billfish_testing::{Api, PATIENCE, eventually};
use billfish_wire::{BizCode, Body, Code, Resume, frame};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

pub(super) const ANCHOR: i64 = 30_001;
/// The first of the givers; those behind it follow.
const FIRST_GIVER: i64 = 20_101;
const FIRST_VIEWER: i64 = 20_201;
/// What each giver has at first.
pub(super) const COINS: i64 = 1_000_000;
/// Between two gifts of a giver: below what one user may give.
const PAUSE: Duration = Duration::from_millis(110);
/// Between two tries to get in.
const AGAIN: Duration = Duration::from_millis(100);
/// Of the gifts that are refused, one in so many is given up.
const GIVEN_UP: usize = 4;
/// Below two silent gaps.
const HEARTBEAT: Duration = Duration::from_secs(10);
const GIVERS: usize = 4;

/// Where clients go.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) gateways: Vec<SocketAddr>,
    pub(super) apis: Vec<Api>,
}

/// A gift of a giver: its number of the catalogue, who gets it, and whether it is one of a PK.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) gift: i64,
    pub(super) receivers: [i64; 2],
    pub(super) pk: bool,
    /// Taps of a combo rather than single gifts.
    pub(super) combo: bool,
    pub(super) pause: Duration,
}

impl Kind {
    /// 10 coins to the anchor.
    pub(super) fn plain() -> Self {
        Self { gift: 2, receivers: [ANCHOR; 2], pk: false, combo: false, pause: PAUSE }
    }
}

/// What one giver has done.
#[derive(Clone, Debug, Default)]
pub(super) struct Given {
    pub(super) user: i64,
    /// By uuid; with the place where it was told.
    pub(super) acknowledged: BTreeMap<String, Option<i64>>,
    /// Given up before anybody said that they are paid.
    pub(super) in_doubt: BTreeSet<String>,
}

/// What one viewer has been shown.
#[derive(Debug, Default)]
pub(super) struct Seen {
    msg_ids: BTreeSet<String>,
    last_seq: i64,
    /// By place: how many pushes showed it.
    pub(super) places: BTreeMap<i64, u32>,
    /// The sum of the numbers of all pushes.
    pub(super) nums: i64,
    /// The bar with the largest number.
    pub(super) bar: Option<(i64, i64)>,
    /// Every value of the bar by its number.
    bars: BTreeMap<i64, i64>,
    pub(super) comings: u32,
    pub(super) problems: Vec<String>,
}

struct Shared {
    way: Way,
    room: i64,
    kind: Kind,
    stop: AtomicBool,
    end: AtomicBool,
    acknowledged: [AtomicUsize; GIVERS],
    refused: [AtomicUsize; GIVERS],
}

/// All of them.
pub(super) struct Crew {
    shared: Arc<Shared>,
    givers: Vec<JoinHandle<Given>>,
    viewers: Vec<JoinHandle<()>>,
    seen: Vec<Arc<Mutex<Seen>>>,
}

impl Way {
    /// A token from whichever router answers.
    fn token(&self, user: i64) -> Option<String> {
        let ask = json!({"appId": 10001, "userId": user});
        self.apis.iter().find_map(|api| match api.call("POST", "/v1/im/tokens", &ask) {
            Ok((200, answer)) => answer["token"].as_str().map(str::to_owned),
            Ok(_) | Err(_) => None,
        })
    }

    /// Logs in and joins, as often as it takes.
    pub(super) fn enter(&self, user: i64, room: i64, seen: Option<i64>) -> (Peer, Body) {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            if let Some(seat) = self.try_to_enter(user, room, seen) {
                return seat;
            }
            assert!(Instant::now() < deadline, "user {user} does not get in");
            thread::sleep(AGAIN);
        }
    }

    fn try_to_enter(&self, user: i64, room: i64, seen: Option<i64>) -> Option<(Peer, Body)> {
        let token = self.token(user)?;
        let index = usize::try_from(user).unwrap() % self.gateways.len();
        let mut peer = Peer::of(TcpStream::connect_timeout(&self.gateways[index], Duration::from_secs(1)).ok()?);
        tell(&mut peer, Code::Login, &login_body(user, token)).then_some(())?;
        answer(&mut peer, Code::Login).filter(|body| body.data.as_deref() == Some("true"))?;
        let resume = seen.map(|seq| Resume { seq: Some(seq), ..Resume::default() });
        tell(&mut peer, Code::Join, &Body { room_id: Some(room), resume, ..Body::default() }).then_some(())?;
        let body = answer(&mut peer, Code::Join)?;
        Some((peer, body))
    }
}

/// Sends, unless the connection has ended.
fn tell(peer: &mut Peer, code: Code, body: &Body) -> bool {
    let bytes = frame::encode(peer.encoding, code, body);
    peer.stream.write_all(&bytes).is_ok()
}

/// The answer with this code; `None`: an error, the end, or nothing.
fn answer(peer: &mut Peer, code: Code) -> Option<Body> {
    loop {
        match peer.next_within(PATIENCE)?? {
            (found, body) if found == code => return Some(body),
            (Code::Error, _) => return None,
            _ => {}
        }
    }
}

impl Crew {
    /// Two givers by sockets, two by HTTP, each with so many coins and a seat in the room, and two viewers more.
    pub(super) fn start(way: &Way, room: i64, kind: Kind) -> Self {
        Self::start_after(way, room, kind, || {})
    }

    /// The same; nobody gives before `prepared` has ended, and all are in the room by then.
    pub(super) fn start_after(way: &Way, room: i64, kind: Kind, prepared: impl FnOnce()) -> Self {
        let users: Vec<i64> = (FIRST_GIVER..).take(GIVERS).collect();
        let grants: Vec<Value> = users.iter().map(|user| json!({"userId": user, "coins": COINS, "uuid": "first"})).collect();
        let (status, granted) = way.apis[0].call("POST", "/v1/wallet/grants", &json!({"grants": grants})).unwrap();
        assert_eq!(status, 200, "{granted}");
        let shared = Arc::new(Shared {
            way: way.clone(),
            room,
            kind,
            stop: AtomicBool::new(false),
            end: AtomicBool::new(false),
            acknowledged: Default::default(),
            refused: Default::default(),
        });
        let mut crew = Self { shared, givers: Vec::new(), viewers: Vec::new(), seen: Vec::new() };
        for viewer in 0..2 {
            crew.watch(FIRST_VIEWER + viewer);
        }
        let mut seats = Vec::new();
        for (index, user) in users.iter().enumerate() {
            // Whoever gives by HTTP must be in the room too, and watches there.
            match index % 2 {
                0 => seats.push(Some(way.enter(*user, room, None).0)),
                _ => {
                    crew.watch(*user);
                    seats.push(None);
                }
            }
        }
        prepared();
        for (index, (user, seat)) in users.into_iter().zip(seats).enumerate() {
            let shared = Arc::clone(&crew.shared);
            crew.givers.push(thread::spawn(move || match seat {
                Some(peer) => shared.give_by_socket(index, user, peer),
                None => shared.give_by_http(index, user),
            }));
        }
        crew
    }

    fn watch(&mut self, user: i64) {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (peer, joined) = self.shared.way.enter(user, self.shared.room, None);
        seen.lock().unwrap().join(&joined);
        self.seen.push(Arc::clone(&seen));
        let shared = Arc::clone(&self.shared);
        self.viewers.push(thread::spawn(move || shared.watch(user, peer, &seen)));
    }

    /// Waits until every giver has so many gifts more acknowledged.
    pub(super) fn give_more(&self, count: usize) {
        let before: Vec<usize> = self.shared.acknowledged.iter().map(|number| number.load(SeqCst)).collect();
        eventually("every giver's gifts are paid", || {
            assert!(!self.givers.iter().any(JoinHandle::is_finished), "a giver has ended");
            self.shared.acknowledged.iter().zip(&before).all(|(number, before)| number.load(SeqCst) >= before + count)
        });
    }

    /// Waits until every giver has been refused so often more.
    pub(super) fn be_refused(&self, count: usize) {
        let before: Vec<usize> = self.shared.refused.iter().map(|number| number.load(SeqCst)).collect();
        eventually("every giver is refused", || {
            assert!(!self.givers.iter().any(JoinHandle::is_finished), "a giver has ended");
            self.shared.refused.iter().zip(&before).all(|(number, before)| number.load(SeqCst) >= before + count)
        });
    }

    pub(super) fn refusals(&self) -> usize {
        self.shared.refused.iter().map(|number| number.load(SeqCst)).sum()
    }

    /// Nobody gives any more; what was given. Viewers go on.
    pub(super) fn stop(&mut self) -> Vec<Given> {
        self.shared.stop.store(true, SeqCst);
        self.givers.drain(..).map(|giver| giver.join().expect("a giver")).collect()
    }

    /// What the viewers have been shown.
    pub(super) fn seen(&self) -> Vec<MutexGuard<'_, Seen>> {
        self.seen.iter().map(|seen| seen.lock().unwrap()).collect()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.end.store(true, SeqCst);
    }
}

/// What a giver heard.
enum Heard {
    Paid(Option<i64>),
    /// Come again after so many ms.
    Refused(u64),
    /// The connection has ended, or there was no answer.
    Nothing,
}

impl Shared {
    /// Gives one after the other, until it is told to stop; the one under way is brought to its end.
    fn give(&self, index: usize, user: i64, mut ask: impl FnMut(&str, &Value) -> Heard) -> Given {
        let mut given = Given { user, ..Given::default() };
        let mut number = 0;
        while !self.stop.load(SeqCst) {
            number += 1;
            let uuid = format!("g{user}-{number}");
            let Kind { gift, receivers, pk, combo, pause } = self.kind;
            let mut data = json!({"giftId": gift, "receiverId": receivers[number % 2], "type": i64::from(pk), "uuid": uuid});
            if combo {
                data["comboId"] = json!(format!("c{user}-{}", number / 8));
            }
            let deadline = Instant::now() + 3 * PATIENCE;
            loop {
                match ask(&uuid, &data) {
                    Heard::Paid(place) => {
                        given.acknowledged.insert(uuid, place);
                        self.acknowledged[index].fetch_add(1, SeqCst);
                        break;
                    }
                    Heard::Refused(retry_after_ms) => {
                        self.refused[index].fetch_add(1, SeqCst);
                        if number % GIVEN_UP == 0 {
                            given.in_doubt.insert(uuid);
                            break;
                        }
                        thread::sleep(Duration::from_millis(retry_after_ms));
                    }
                    Heard::Nothing => {}
                }
                assert!(Instant::now() < deadline, "gift {uuid} gets no answer");
            }
            thread::sleep(pause);
        }
        given
    }

    fn give_by_socket(&self, index: usize, user: i64, mut peer: Peer) -> Given {
        self.give(index, user, |uuid, data| {
            let body = Body {
                biz_code: Some(BizCode::GIFT_SEND.0),
                room_id: Some(self.room),
                msg_id: Some(uuid.to_owned()),
                data: Some(data.to_string()),
                ..Body::default()
            };
            let is_sent = tell(&mut peer, Code::Biz, &body);
            let heard = if is_sent { heard_of(&mut peer, uuid) } else { Heard::Nothing };
            if matches!(heard, Heard::Nothing) {
                peer = self.way.enter(user, self.room, None).0;
            }
            heard
        })
    }

    fn give_by_http(&self, index: usize, user: i64) -> Given {
        let mut at = index;
        self.give(index, user, |_, data| {
            let mut body = data.clone();
            body["senderId"] = json!(user);
            body["roomId"] = json!(self.room);
            at += 1;
            match self.way.apis[at % self.way.apis.len()].call("POST", "/v1/gifts/send", &body) {
                Ok((200, answer)) => Heard::Paid(answer["giftSeq"].as_i64()),
                Ok((429 | 503, answer)) => {
                    Heard::Refused(answer["retryAfterMs"].as_u64().unwrap_or_else(|| panic!("it does not say when: {answer}")))
                }
                // His session is on its way back: nothing was paid.
                Ok((404, answer)) if answer["code"] == "room-not-found" => Heard::Refused(200),
                Ok((status, answer)) => panic!("{status}: {answer}"),
                Err(_) => {
                    thread::sleep(AGAIN);
                    Heard::Nothing
                }
            }
        })
    }

    fn watch(&self, user: i64, mut peer: Peer, seen: &Mutex<Seen>) {
        let mut beat = Instant::now();
        while !self.end.load(SeqCst) {
            if beat.elapsed() >= HEARTBEAT {
                beat = Instant::now();
                tell(&mut peer, Code::Heartbeat, &Body::default());
            }
            match peer.next_within(Duration::from_millis(200)) {
                None => {}
                Some(Some((Code::Biz, body))) => {
                    if let Some(msg_id) = &body.msg_id {
                        tell(&mut peer, Code::Ack, &Body { msg_id: Some(msg_id.clone()), ..Body::default() });
                    }
                    seen.lock().unwrap().take(&body);
                }
                Some(Some(_)) => {}
                Some(None) => {
                    let last_seq = seen.lock().unwrap().last_seq;
                    let (back, joined) = self.way.enter(user, self.room, Some(last_seq));
                    peer = back;
                    seen.lock().unwrap().join(&joined);
                }
            }
        }
    }
}

/// What a giver hears of a gift. Pushes that come in between are answered.
fn heard_of(peer: &mut Peer, uuid: &str) -> Heard {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match peer.next_within(left) {
            Some(Some((Code::Ack, body))) if body.msg_id.as_deref() == Some(uuid) => return Heard::Paid(None),
            Some(Some((Code::Error, body))) if body.msg_id.as_deref() == Some(uuid) => {
                assert!(matches!(body.code, Some(5001 | 4007)), "nothing else may be said of it: {body:?}");
                let retry_after_ms = body.retry_after_ms.and_then(|ms| u64::try_from(ms).ok());
                return Heard::Refused(retry_after_ms.unwrap_or_else(|| panic!("it does not say when: {body:?}")));
            }
            Some(Some((Code::Biz, Body { msg_id: Some(msg_id), .. }))) => {
                tell(peer, Code::Ack, &Body { msg_id: Some(msg_id), ..Body::default() });
            }
            Some(Some(_)) => {}
            Some(None) => return Heard::Nothing,
            None => panic!("gift {uuid} was neither paid nor refused within {PATIENCE:?}"),
        }
    }
}

impl Seen {
    /// What the answer to a JOIN tells.
    fn join(&mut self, joined: &Body) {
        self.comings += 1;
        let snapshot: Value = serde_json::from_str(joined.data.as_deref().unwrap_or("{}")).unwrap();
        for message in snapshot["messages"].as_array().into_iter().flatten() {
            self.take(&serde_json::from_value(message.clone()).unwrap());
        }
        if let Some(state) = snapshot["states"].get("pk") {
            self.take(&serde_json::from_value(state.clone()).unwrap());
        }
    }

    fn take(&mut self, body: &Body) {
        if !matches!(body.biz_code, Some(code) if code == BizCode::GIFT_OK.0 || code == BizCode::PK_GIFT.0) {
            return;
        }
        let data: Value = serde_json::from_str(body.data.as_deref().unwrap()).unwrap();
        if let (Some(seq), Some(value)) = (data["sendGiftSeqNum"].as_i64(), data["pkNum"].as_i64()) {
            let known = *self.bars.entry(seq).or_insert(value);
            if known != value {
                self.problems.push(format!("the bar of gift {seq} is {known} and {value}"));
            }
            self.bar = self.bar.max(Some((seq, value)));
        }
        let Some(msg_id) = body.msg_id.clone().filter(|_| body.key.is_none()) else { return };
        if !self.msg_ids.insert(msg_id.clone()) {
            return;
        }
        let seq = body.seq.unwrap();
        if seq <= self.last_seq {
            self.problems.push(format!("{msg_id} came as {seq} behind {}", self.last_seq));
        }
        self.last_seq = self.last_seq.max(seq);
        let (taps, nums) = (data["giftSeqs"].as_array(), data["nums"].as_array());
        let places: Vec<i64> = match taps {
            Some(taps) => taps.iter().map(|tap| tap.as_i64().unwrap()).collect(),
            None => vec![data["giftSeq"].as_i64().unwrap()],
        };
        if let Some(nums) = nums {
            let sum: i64 = nums.iter().map(|num| num.as_i64().unwrap()).sum();
            if nums.len() != places.len() || data["num"].as_i64() != Some(sum) {
                self.problems.push(format!("{data} does not add up"));
            }
        }
        self.nums += data["num"].as_i64().unwrap();
        for place in places {
            *self.places.entry(place).or_default() += 1;
        }
    }
}
