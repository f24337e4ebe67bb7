//! What an entry of each in-process table costs: resident memory before and after 100,000 of them. Linux only.
//!
//! `cargo run -p billfish-state --example memory`
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for a person at a terminal")]

use billfish_state::{AppId, DeviceKind, LogEntry, Member, PendingAck, PkBar, RoomId, Route, State, TokenOwner, UserId, WindowHit};
use bytes::Bytes;

/// Not a power of two: a table's spare room is then neither the least nor the most.
const ENTRIES: i64 = 100_000;
const APP: AppId = AppId(10001);
const NOW: u64 = 1_700_000_000_000;
const LATER: u64 = NOW + 60_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let state = State::in_memory();
    let users = || (0..ENTRIES).map(UserId);
    let body = Bytes::from_static(&[b'x'; 100]);

    let mut before = resident();
    let mut report = |name: &str| {
        let after = resident();
        println!("{name:<14} {:>5} bytes", (after - before) / ENTRIES.unsigned_abs());
        before = after;
    };
    for user in users() {
        state.presence.touch(&[(APP, user)], NOW + user.0.unsigned_abs() % 30_000).await.unwrap();
    }
    report("presence");
    for user in users() {
        let route = Route { app: APP, user, device: DeviceKind::Ios, node: "gateway-1".to_owned(), epoch: 7, session: 1 };
        state.routes.bind(&[route], NOW, LATER + user.0.unsigned_abs() % 30_000).await.unwrap();
    }
    report("route");
    for user in users() {
        state.members.join(APP, RoomId(1), &[Member { user, device: DeviceKind::Ios }], NOW).await.unwrap();
    }
    report("member");
    for user in users() {
        let owner = TokenOwner { app: APP, user, device: None, session: None };
        state.tokens.issue(&format!("{:032x}", user.0), owner, NOW, LATER).await.unwrap();
    }
    report("token");
    for user in users() {
        state.inbox.append(APP, &[user], &format!("{NOW}-0"), body.clone(), NOW).await.unwrap();
    }
    report("inbox of one");
    for number in 1..500 {
        let some: Vec<UserId> = users().take(usize::try_from(ENTRIES).unwrap() / 500).collect();
        state.inbox.append(APP, &some, &format!("{NOW}-{number}"), body.clone(), NOW).await.unwrap();
    }
    report("inbox entry");
    for user in users() {
        let ack = PendingAck { app: APP, user, msg_id: format!("{NOW}-0"), room: None, times_sent: 1, due_ms: NOW };
        state.acks.record(&[ack]).await.unwrap();
    }
    report("ack");
    for number in 0..ENTRIES {
        let entry = LogEntry { seq: number, body: body.clone(), except: None }.into();
        state.room_log.append(RoomId(number % 200), &[entry], NOW).await.unwrap();
    }
    report("log entry");
    for user in users() {
        let hit = WindowHit { key: format!("chat:{user}"), limit: 5, window_ms: 1000 };
        state.rate_windows.hit(&[hit], NOW).await.unwrap();
    }
    report("rate window");
    for user in users() {
        state.dedup.claim(APP, user, &[format!("{:032x}", user.0)], NOW, LATER).await.unwrap();
    }
    report("dedup claim");
    for number in 0..ENTRIES {
        state.leases.acquire(&format!("room:{number}:owner"), "router-1", NOW, LATER).await.unwrap();
    }
    report("lease");
    for user in users() {
        state.pk_bars.put(RoomId(user.0), PkBar::begin(user, 0), NOW + user.0.unsigned_abs()).await.unwrap();
    }
    report("pk bar");
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
