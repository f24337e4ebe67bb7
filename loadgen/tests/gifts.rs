//! The scenarios with gifts and `check --ledger` against a small house in this process, which keeps a ledger: what the whole program says when all is
//! right, and of each thing that the house does wrong.
//!
//! The ledger is written into a file with the tables of the router's own migrations.
#![forbid(unsafe_code)]

use billfish_wire::{Body, Code, Encoding, Reason, Reassembler, Resume, frame, limits::BODY_BYTES_MAX, snapshot::RoomSnapshot};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

#[test]
fn a_rain_of_gifts_is_paid_once_shown_once_and_found_in_the_ledger() {
    let run =
        run(Fault::None, &["gift-rain", "--connections", "24", "--rooms", "2", "--rate", "200", "--seconds", "2", "--retry-share", "20"]);
    let (report, gifts) = (&run.report, &run.report["detail"]["gifts"]);
    assert_eq!((run.code, run.checked), (Some(0), Some(0)), "{report:#} {:#}", run.finding);
    assert_eq!(run.outcomes(), ["pass"; 8], "{:#}", run.finding);
    let acked = number(&gifts["acked"]);
    assert!(acked > 300 && report["sent"] == gifts["acked"] && gifts["intended"] == gifts["acked"], "{report:#}");
    // Twelve members of each room.
    assert_eq!((number(&report["expected"]), &report["received"], &report["missing"]), (acked * 12, &json!(acked * 12), &json!(0)));
    assert!(number(&gifts["repeats"]) > 20 && number(&gifts["repeats_acked"]) > 5, "{gifts:#}");
    assert!(gifts["ack_ms"]["p999"].is_number() && report["latency_ms"]["p50"].is_number(), "{report:#}");
    // And the sums of the journal are those of the report, over two processes too.
    assert_eq!(run.finding["disagreements"], json!([]));
}

#[test]
fn combos_are_counted_by_their_taps_and_two_processes_agree() {
    let line =
        ["gift-rain", "--connections", "24", "--rooms", "2", "--rate", "200", "--seconds", "2", "--combo-share", "50", "--processes", "2"];
    let run = run(Fault::None, &line);
    let gifts = &run.report["detail"]["gifts"];
    assert_eq!((run.code, run.checked), (Some(0), Some(0)), "{gifts:#} {:#}", run.finding);
    assert!(number(&gifts["pushes"]) < number(&gifts["told"]) && gifts["told"] == gifts["acked"], "taps are joined: {gifts:#}");
    assert_eq!(run.finding["disagreements"], json!([]));
}

#[test]
fn a_night_of_pks_ends_with_one_bar_in_each_room() {
    let run = run(Fault::None, &["pk-night", "--connections", "20", "--rooms", "4", "--rate", "20", "--seconds", "2", "--price-max", "10"]);
    let bars = &run.report["detail"]["gifts"]["bars"];
    assert_eq!((run.code, run.checked), (Some(0), Some(0)), "{:#} {:#}", run.report, run.finding);
    assert_eq!((&bars["rooms"], &bars["apart"], &bars["other_than_servers"]), (&json!(4), &json!(0), &json!(0)), "{bars:#}");
    let said = run.what("I4");
    assert!(!said.contains("; 0 values of bars"), "bars were compared with the ledger: {said}");
}

#[test]
fn a_server_that_is_away_gets_the_same_gifts_again() {
    let run = run(Fault::Away, &RAIN);
    let gifts = &run.report["detail"]["gifts"];
    assert_eq!((run.code, run.checked), (Some(0), Some(0)), "{gifts:#} {:#}", run.finding);
    assert!(number(&gifts["retries"]["unavailable"]) > 5 && gifts["unanswered"] == json!(0), "{gifts:#}");
}

#[test]
fn a_connection_that_breaks_behind_a_payment_costs_nobody_anything() {
    let run = run(Fault::Cut, &RAIN);
    let (gifts, herd) = (&run.report["detail"]["gifts"], &run.report["detail"]["herd"]);
    assert_eq!((run.code, run.checked), (Some(0), Some(0)), "{:#} {:#}", run.report, run.finding);
    assert!(number(&herd["cut"]) > 0 && herd["cut"] == herd["returned"], "{herd:#}");
    assert!(number(&herd["retries"]["bad_token"]) > 0, "who comes back gets another token: {herd:#}");
    assert!(number(&gifts["retries"]["connection lost"]) > 0 && gifts["unanswered"] == json!(0), "{gifts:#}");
    assert_eq!(run.report["missing"], json!(0), "what it missed came with its return");
}

#[test]
fn refusals_are_told_by_code_and_are_a_failure_unless_they_were_asked_for() {
    let poor = |coins| [&RAIN[..], &["--coins", coins]].concat();
    let run = run(Fault::None, &poor("40"));
    let gifts = &run.report["detail"]["gifts"];
    assert_eq!((run.code, run.checked), (Some(0), Some(0)), "{gifts:#} {:#}", run.finding);
    assert!(number(&gifts["refused"]["10012"]) > 5 && number(&gifts["acked"]) > 5, "{gifts:#}");
    let run = self::run(Fault::Poor, &RAIN);
    assert_eq!(run.code, Some(1), "{:#}", run.report);
    assert!(run.said.contains("gifts were refused"), "{}", run.said);
}

#[test]
fn what_a_house_does_wrong_turns_its_invariant_red() {
    let cases = [
        (Fault::ForgetPaid, &["I1", "I4"][..]),
        (Fault::PayTwice, &["I2", "I6"]),
        (Fault::CreditLess, &["I3"]),
        (Fault::SwapPushes, &["I4"]),
        (Fault::LoseCopy, &["I5"]),
        (Fault::TellAgain, &["I6"]),
        (Fault::Stray, &["I7"]),
        (Fault::CountLess, &["I12"]),
    ];
    thread::scope(|scope| {
        for (fault, red) in cases {
            scope.spawn(move || {
                let run = run(fault, &RAIN);
                assert_eq!((run.checked, run.red().as_slice()), (Some(1), red), "{fault:?}: {:#}", run.finding);
            });
        }
    });
}

#[test]
fn a_bar_that_goes_astray_turns_i4_red_and_the_run_itself_notices_where_it_can() {
    let line = ["pk-night", "--connections", "10", "--rooms", "2", "--rate", "20", "--seconds", "1", "--price-max", "10"];
    let run = run(Fault::BarOff, &line);
    assert_eq!((run.checked, run.red().as_slice()), (Some(1), &["I4"][..]), "{:#}", run.finding);
}

#[test]
fn gifts_without_a_catalogue_or_without_senders_are_wrong_use_or_fail_at_once() {
    let house = House::open(Fault::NoCatalogue);
    let output = house.loadgen(&["gift-rain", "--connections", "4"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("--price-max"), "{said}");
    for (line, why) in [
        (&["gift-rain", "--connections", "3", "--rooms", "2"][..], "two for each"),
        (&["pk-night", "--connections", "100", "--rooms", "50", "--rate", "10000", "--seconds", "600"], "a run accounts for"),
    ] {
        let output = house.loadgen(line).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(why), "{said}");
    }
}

#[test]
fn a_journal_without_gifts_or_a_ledger_that_cannot_be_read_does_not_pass() {
    let run = run(Fault::None, &["hold", "--connections", "4", "--seconds", "1"]);
    assert_eq!((run.code, run.checked, run.red().as_slice()), (Some(0), Some(1), &["I1", "I2"][..]), "{:#}", run.finding);
    let journal = run.place.path().join("journal.jsonl");
    let output = program().arg("check").arg(journal).args(["--ledger", "sqlite:/nonexistent/ledger.db"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("--ledger"), "{said}");
}

const RAIN: [&str; 13] =
    ["gift-rain", "--connections", "12", "--rooms", "1", "--rate", "60", "--seconds", "2", "--spread", "0.1", "--retry-share", "20"];

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

/// A run, and what `check` says of it.
struct Run {
    place: tempfile::TempDir,
    code: Option<i32>,
    report: Value,
    said: String,
    checked: Option<i32>,
    finding: Value,
}

impl Run {
    fn verdicts(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.finding["invariants"].as_array().into_iter().flatten().map(|one| {
            let text = |name: &str| one[name].as_str().unwrap_or_default();
            (text("id"), text("outcome"), text("what"))
        })
    }

    fn outcomes(&self) -> Vec<&str> {
        self.verdicts().map(|(_, outcome, _)| outcome).collect()
    }

    fn red(&self) -> Vec<&str> {
        self.verdicts().filter(|(_, outcome, _)| *outcome == "fail").map(|(id, _, _)| id).collect()
    }

    fn what(&self, id: &str) -> &str {
        self.verdicts().find(|(own, _, _)| *own == id).map(|(_, _, what)| what).expect("it was judged")
    }
}

fn run(fault: Fault, line: &[&str]) -> Run {
    let house = House::open(fault);
    let place = tempfile::tempdir().expect("a temporary directory");
    let admin = format!("http://{}", house.http);
    let report_to = place.path().to_str().expect("a plain path");
    let output = house.loadgen(line).args(["--json", "--admin", &admin, "--report", report_to]).output().expect("it runs");
    let ledger = place.path().join("ledger.db");
    house.write_ledger(&ledger);
    let url = format!("sqlite:{}", ledger.display());
    let journal = place.path().join("journal.jsonl");
    let check = program().arg("check").arg(journal).args(["--json", "--ledger", &url]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Run { code: output.status.code(), report: json_of(&output), said, checked: check.status.code(), finding: json_of(&check), place }
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {} {}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

/// What the house does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// It takes no gift at the first try, and says when to come again.
    Away,
    /// It hangs up on a sender behind some payments, and knows none of the first tokens from then on.
    Cut,
    /// It gives nobody coins.
    Poor,
    NoCatalogue,
    /// A gift is acknowledged, and not in the ledger.
    ForgetPaid,
    /// What is sent again is paid again.
    PayTwice,
    /// One receiver's balance lacks a coin.
    CreditLess,
    /// Two pushes come in the wrong order to one member.
    SwapPushes,
    /// A push does not come to one member.
    LoseCopy,
    /// A gift is told of once more, under another id.
    TellAgain,
    /// A push comes to a member of another room.
    Stray,
    /// A copy is in no counter.
    CountLess,
    /// One bar is told wrong, to everybody.
    BarOff,
}

/// A gift in the house's ledger.
#[derive(Clone, Debug)]
struct Paid {
    room: i64,
    gift_seq: i64,
    sender: i64,
    receiver: i64,
    gift: i64,
    num: i64,
    price: i64,
    pk: i64,
    uuid: String,
    combo: String,
}

#[derive(Default)]
struct Room {
    anchor: i64,
    challenger: i64,
    seq: i64,
    gifts: i64,
    bar: i64,
    pk_seq: i64,
    members: Vec<(i64, TcpStream)>,
    /// What was told, to who comes back.
    log: Vec<Body>,
    /// By sender and combo: taps that are not told yet.
    taps: BTreeMap<(i64, String), Vec<Paid>>,
    /// A push that comes behind the next.
    held: Vec<u8>,
}

#[derive(Default)]
struct State {
    rooms: BTreeMap<i64, Room>,
    coins: BTreeMap<i64, i64>,
    granted: BTreeMap<i64, i64>,
    paid: Vec<Paid>,
    seen: BTreeSet<String>,
    copies: u64,
    counted: u64,
    fault_done: bool,
    cuts: u32,
}

struct House {
    http: SocketAddr,
    tcp: SocketAddr,
    state: Arc<Mutex<State>>,
    fault: Fault,
}

/// Gift, and its price.
const CATALOGUE: [(i64, i64); 3] = [(1, 1), (2, 10), (3, 50)];

impl House {
    fn open(fault: Fault) -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (http, tcp) = (listen(), listen());
        let addresses = (http.local_addr().expect("bound"), tcp.local_addr().expect("bound"));
        let state = Arc::new(Mutex::new(State::default()));
        for (listener, is_http) in [(http, true), (tcp, false)] {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let state = Arc::clone(&state);
                    thread::spawn(move || if is_http { serve_http(stream, &state, fault) } else { serve_frames(stream, &state, fault) });
                }
            });
        }
        Self { http: addresses.0, tcp: addresses.1, state, fault }
    }

    fn loadgen(&self, line: &[&str]) -> Command {
        let mut command = program();
        command.args(line).args(["--api-key", "key", "--http", &format!("http://{}", self.http), "--gateway", &self.tcp.to_string()]);
        command
    }

    fn write_ledger(&self, path: &Path) {
        let state = lock(&self.state);
        let mut sql = migrations() + "BEGIN;";
        let mut balances: BTreeMap<(i64, i64), i64> = BTreeMap::new();
        // What moved it, from which account, to which, how much.
        let mut trades = Vec::new();
        for (place, (&user, &coins)) in state.granted.iter().enumerate() {
            trades.push(((2, place as i64 + 1, 0), (4, 0), (1, user), coins));
        }
        let mut paid = state.paid.clone();
        if self.fault == Fault::ForgetPaid {
            paid.remove(paid.len() / 2);
        }
        if self.fault == Fault::PayTwice {
            // What a ledger without its key would hold.
            sql +=
                "CREATE TABLE t_copy AS SELECT * FROM t_gift_record; DROP TABLE t_gift_record; ALTER TABLE t_copy RENAME TO t_gift_record;";
        }
        for Paid { room, gift_seq, sender, receiver, gift, num, price, pk, uuid, combo } in paid {
            trades.push(((1, room, gift_seq), (1, sender), (2, receiver), price * num));
            sql += &format!(
                "INSERT INTO t_gift_record (room_id, gift_seq, app_id, sender_id, uuid, epoch, receiver_id, gift_id, num, price, pk, combo, \
                 paid_time) VALUES ({room}, {gift_seq}, 10001, {sender}, '{uuid}', 1, {receiver}, {gift}, {num}, {price}, {pk}, '{combo}', 5);"
            );
        }
        for ((kind, ref_a, ref_b), from, to, amount) in trades {
            for (side, (account, user), amount) in [(0, from, -amount), (1, to, amount)] {
                *balances.entry((account, user)).or_default() += amount;
                sql += &format!(
                    "INSERT INTO t_account_trade (kind, ref_a, ref_b, side, app_id, account_kind, user_id, amount, trade_time) \
                     VALUES ({kind}, {ref_a}, {ref_b}, {side}, 10001, {account}, {user}, {amount}, 5);"
                );
            }
        }
        for ((account, user), balance) in balances {
            let lacks = i64::from(self.fault == Fault::CreditLess && account == 2);
            sql +=
                &format!("INSERT INTO t_account (app_id, kind, user_id, balance) VALUES (10001, {account}, {user}, {});", balance - lacks);
        }
        sql += "COMMIT;";
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
            let mut connection = SqliteConnection::connect_with(&options).await.expect("a file");
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("it is SQL");
            connection.close().await.expect("it was open");
        });
    }
}

/// The tables, as the router makes them.
fn migrations() -> String {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../router/migrations/sqlite");
    let mut files: Vec<PathBuf> = fs::read_dir(directory).expect("the router's").map(|file| file.expect("a file").path()).collect();
    files.sort();
    files.iter().map(|file| fs::read_to_string(file).expect("text") + "\n").collect()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no panic while it is held")
}

fn serve_http(stream: TcpStream, state: &Mutex<State>, fault: Fault) {
    let mut output = stream.try_clone().expect("a descriptor");
    let mut input = BufReader::new(stream);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if input.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            input.read_line(&mut line).expect("a header");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        input.read_exact(&mut body).expect("a body");
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let answer = answer_http(first.split_ascii_whitespace().nth(1).unwrap_or_default(), &body, &mut lock(state), fault);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len());
        if output.write_all((head + &answer).as_bytes()).is_err() {
            return;
        }
    }
}

fn answer_http(path: &str, body: &Value, state: &mut State, fault: Fault) -> String {
    let room_of = |end: &str| path.strip_prefix("/v1/rooms/").and_then(|path| path.strip_suffix(end)?.parse::<i64>().ok());
    if let Some(room) = room_of("/pk/online") {
        let challenger = body["userId"].as_i64().expect("a user");
        let room = state.rooms.get_mut(&room).expect("an open room");
        assert!(room.members.iter().any(|(user, _)| *user == challenger), "the challenger is there");
        (room.challenger, room.bar) = (challenger, 50);
        return "{}".to_owned();
    }
    if let Some(room) = room_of("/pk") {
        let room = &state.rooms[&room];
        return json!({ "pkNum": room.bar, "sendGiftSeqNum": room.pk_seq }).to_string();
    }
    match path {
        "/v1/im/tokens" => json!({ "token": format!("t{}", state.cuts) }).to_string(),
        "/v1/gifts" if fault == Fault::NoCatalogue => json!({ "gifts": [] }).to_string(),
        "/v1/gifts" => {
            let gift = |(id, price): (i64, i64)| json!({ "giftId": id, "name": "x", "price": price, "cover": "", "url": "u" });
            json!({ "gifts": CATALOGUE.map(gift) }).to_string()
        }
        "/v1/wallet/grants" => {
            for grant in body["grants"].as_array().expect("a list") {
                let user = grant["userId"].as_i64().expect("a user");
                assert!(grant["uuid"].as_str().is_some_and(|uuid| !uuid.is_empty() && uuid.len() <= 64), "{grant}");
                let coins = if fault == Fault::Poor { 1 } else { grant["coins"].as_i64().expect("coins") };
                state.coins.insert(user, coins);
                state.granted.insert(user, coins);
            }
            "{}".to_owned()
        }
        "/v1/rooms" => {
            let id = 100 + state.rooms.len() as i64;
            let room = Room { anchor: body["anchorId"].as_i64().expect("an anchor"), ..Room::default() };
            state.rooms.insert(id, room);
            json!({ "roomId": id }).to_string()
        }
        "/metrics" => format!(
            "gateway_copies_total {}\ngateway_deliveries_total{{class=\"event\"}} {}\ngateway_deliveries_total{{class=\"chat\"}} 0\n\
             gateway_frames_dropped_total{{class=\"ambient\",reason=\"replaced\"}} 0\ngateway_copies_pending 0\n",
            state.copies, state.counted
        ),
        _ => String::new(),
    }
}

fn serve_frames(mut stream: TcpStream, state: &Mutex<State>, fault: Fault) {
    let (mut reassembler, mut buffer, mut user) = (Reassembler::default(), [0; 4096], 0);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        let mut frames = reassembler.feed(&buffer[..read]);
        while let Some(received) = frames.next(BODY_BYTES_MAX).expect("the crowd sends frames") {
            let body = Body::decode(received.encoding, received.body).expect("the crowd sends bodies");
            let mut state = lock(state);
            let answer = match Code::from_number(received.code).expect("a known code") {
                Code::Login if state.cuts > 0 && body.token.as_deref() == Some("t0") => {
                    Some((Code::Error, Body::refusal(Reason::BadToken)))
                }
                Code::Login => {
                    user = body.user_id.expect("a login names its user");
                    Some((Code::Login, Body { heartbeat_secs: Some(30), ..Body::yes() }))
                }
                Code::Join => Some((Code::Join, join(&body, user, &stream, &mut state))),
                Code::Heartbeat => Some((Code::Heartbeat, Body::yes())),
                Code::Biz => match send(&body, user, &mut state, fault) {
                    Answer::Say(code, body) => Some((code, *body)),
                    Answer::HangUp => {
                        // From now on it is told nothing: that is in the log.
                        state.rooms.values_mut().for_each(|room| room.members.retain(|(member, _)| *member != user));
                        stream.shutdown(Shutdown::Both).ok();
                        return;
                    }
                },
                Code::WsShake | Code::Logout | Code::Ack | Code::Kick | Code::Leave | Code::Sync | Code::Error | Code::Reconnect => None,
            };
            if let Some((code, body)) = answer
                && stream.write_all(&frame::encode(Encoding::Json, code, &body)).is_err()
            {
                return;
            }
        }
    }
}

/// Into the room, with what was missed.
fn join(body: &Body, user: i64, stream: &TcpStream, state: &mut State) -> Body {
    let id = body.room_id.expect("a join names its room");
    let room = state.rooms.get_mut(&id).expect("an open room");
    let seen = body.resume.as_ref().and_then(|Resume { seq, .. }| *seq).unwrap_or(0);
    let messages = room.log.iter().filter(|push| push.seq.is_some_and(|seq| seq > seen)).cloned().collect();
    let snapshot = RoomSnapshot { audience: 1, messages, ..RoomSnapshot::default() };
    room.members.push((user, stream.try_clone().expect("a descriptor")));
    let data = Some(serde_json::to_string(&snapshot).expect("JSON"));
    Body { room_id: Some(id), seq: Some(room.seq), data, ..Body::default() }
}

enum Answer {
    Say(Code, Box<Body>),
    HangUp,
}

/// A gift is sent.
fn send(body: &Body, user: i64, state: &mut State, fault: Fault) -> Answer {
    let data: Value = serde_json::from_str(body.data.as_deref().expect("a gift has data")).expect("JSON");
    let text = |name: &str| data[name].as_str().expect("a text").to_owned();
    let number = |name: &str| data[name].as_i64().expect("a number");
    let uuid = text("uuid");
    assert_eq!((body.biz_code, body.msg_id.as_deref()), (Some(5561), Some(uuid.as_str())));
    let ack = |gift_seq: i64| {
        let data = Some(json!({ "giftSeq": gift_seq, "balance": 1 }).to_string());
        Answer::Say(Code::Ack, Box::new(Body { msg_id: Some(uuid.clone()), data, ..Body::default() }))
    };
    if fault == Fault::Away && state.seen.insert(uuid.clone()) && state.seen.len().is_multiple_of(3) {
        let refusal = Body { code: Some(5001), msg_id: Some(uuid), retry_after_ms: Some(20), ..Body::default() };
        return Answer::Say(Code::Error, Box::new(refusal));
    }
    if let Some(paid) = state.paid.iter().find(|paid| paid.sender == user && paid.uuid == uuid) {
        let pays_again = fault == Fault::PayTwice && !std::mem::replace(&mut state.fault_done, true);
        if !pays_again {
            return ack(paid.gift_seq);
        }
    }
    let (gift, num, id) = (number("giftId"), number("num"), body.room_id.expect("a gift names its room"));
    let price = CATALOGUE.iter().find(|(own, _)| *own == gift).expect("a gift of the catalogue").1;
    let coins = state.coins.entry(user).or_default();
    if *coins < price * num {
        let data = Some(json!({ "uuid": uuid, "code": 10_012, "msg": "not enough coins" }).to_string());
        return Answer::Say(Code::Biz, Box::new(Body { biz_code: Some(5557), user_id: Some(user), data, ..Body::default() }));
    }
    *coins -= price * num;
    let room = state.rooms.get_mut(&id).expect("an open room");
    room.gifts += 1;
    let receiver = number("receiverId");
    assert!(receiver == room.anchor || receiver == room.challenger, "{receiver} is no receiver here");
    let pk = if number("type") == 0 { 0 } else { 1 + i64::from(receiver == room.challenger) };
    let paid =
        Paid { room: id, gift_seq: room.gifts, sender: user, receiver, gift, num, price, pk, uuid: uuid.clone(), combo: text("comboId") };
    state.paid.push(paid.clone());
    tell_paid(&paid, state, fault);
    let is_cut = fault == Fault::Cut && paid.gift_seq % 25 == 3 && state.cuts < 3;
    state.cuts += u32::from(is_cut);
    if is_cut { Answer::HangUp } else { ack(paid.gift_seq) }
}

/// Taps of a combo are kept until all five are there. Other gifts go on meanwhile.
fn tell_paid(paid: &Paid, state: &mut State, fault: Fault) {
    if paid.combo.is_empty() {
        return tell(std::slice::from_ref(paid), state, fault);
    }
    let room = state.rooms.get_mut(&paid.room).expect("an open room");
    let combo = (paid.sender, paid.combo.clone());
    let taps = room.taps.entry(combo.clone()).or_default();
    taps.push(paid.clone());
    if taps.len() == 5 {
        let taps = room.taps.remove(&combo).expect("it was just there");
        tell(&taps, state, fault);
    }
}

fn tell(gifts: &[Paid], state: &mut State, fault: Fault) {
    let (Some(first), Some(last)) = (gifts.first(), gifts.last()) else { return };
    let (id, gift_seq) = (first.room, last.gift_seq);
    let room = state.rooms.get_mut(&id).expect("an open room");
    let num: i64 = gifts.iter().map(|paid| paid.num).sum();
    let mut data = json!({
        "giftId": first.gift, "url": "u", "senderId": first.sender, "receiverId": first.receiver, "num": num, "comboId": first.combo,
        "uuid": first.uuid, "giftSeq": first.gift_seq
    });
    if gifts.len() > 1 {
        data["giftSeqs"] = gifts.iter().map(|paid| paid.gift_seq).collect();
        data["nums"] = gifts.iter().map(|paid| paid.num).collect();
    }
    if first.pk > 0 {
        let step = first.price * first.num / 10;
        if room.bar > 0 && room.bar < 100 {
            room.bar = (if first.pk == 1 { room.bar + step } else { room.bar - step }).clamp(0, 100);
        }
        room.pk_seq = gift_seq;
        let is_off = fault == Fault::BarOff && gift_seq == 5;
        data["pkNum"] = json!(room.bar + i64::from(is_off));
        data["sendGiftSeqNum"] = json!(gift_seq);
    }
    let biz_code = if first.pk > 0 { 5558 } else { 5556 };
    push(id, biz_code, &format!("g{id}-{gift_seq}"), data.to_string(), state, fault);
    let is_told_again = fault == Fault::TellAgain && gift_seq == 7;
    if is_told_again {
        push(id, biz_code, &format!("again-{id}-{gift_seq}"), data.to_string(), state, fault);
    }
}

/// To every member of a room.
fn push(id: i64, biz_code: i32, msg_id: &str, data: String, state: &mut State, fault: Fault) {
    let room = state.rooms.get_mut(&id).expect("an open room");
    room.seq += 1;
    let body = Body {
        room_id: Some(id),
        seq: Some(room.seq),
        biz_code: Some(biz_code),
        class: Some(1),
        qos: Some(1),
        msg_id: Some(msg_id.to_owned()),
        data: Some(data),
        ..Body::default()
    };
    room.log.push(body.clone());
    let bytes = frame::encode(Encoding::Json, Code::Biz, &body);
    for (index, (_, member)) in room.members.iter_mut().enumerate() {
        let is_faulty = index == 1;
        state.copies += 1;
        state.counted += u64::from(!(fault == Fault::CountLess && is_faulty && room.seq == 9));
        let is_at = |seq| is_faulty && room.seq == seq;
        let copy = if fault == Fault::LoseCopy && is_at(9) {
            Vec::new()
        } else if fault == Fault::SwapPushes && is_at(9) {
            room.held = bytes.to_vec();
            Vec::new()
        } else if fault == Fault::SwapPushes && is_at(10) {
            [bytes.as_ref(), &room.held].concat()
        } else if fault == Fault::Stray && is_at(9) {
            let stray = Body { room_id: Some(id + 1), ..body.clone() };
            [bytes.as_ref(), &frame::encode(Encoding::Json, Code::Biz, &stray)].concat()
        } else {
            bytes.to_vec()
        };
        // A member that has left at the end of the run needs no more.
        member.write_all(&copy).ok();
    }
}
