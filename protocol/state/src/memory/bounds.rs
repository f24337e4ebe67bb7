//! Every bound of this adapter, crossed by one; and that what has run out leaves by itself.

use super::{
    acks, cache, dedup, expiring::Expiring, inbox, leases, login_codes, members, pk_bars, presence, rate_windows, registry, room_log,
    routes, sessions, tokens,
};
use crate::port::{
    Acks, Cache, Dedup, Inbox, Leases, LoginCodes, Members, PkBars, Presence, RateWindows, Registry, RoomLog, Routes, Sessions, Tokens,
};
use crate::types::*;
use crate::watch::Watch;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;

const APP: AppId = AppId(1);
const NOW: u64 = 1_700_000_000_000;
const LATER: u64 = NOW + 60_000;

fn is_full<T: std::fmt::Debug>(answer: Result<T, StateError>, of: &str, bound: usize) -> bool {
    matches!(answer, Err(StateError::Full { what, limit }) if what == of && limit == bound)
}

#[tokio::test]
async fn a_full_token_table_refuses_until_one_runs_out() {
    let table = tokens::TokenTable::with_max(2);
    let owner = TokenOwner { app: APP, user: UserId(1), device: None, session: None };
    table.issue("a", owner, NOW, NOW + 1000).await.unwrap();
    table.issue("b", owner, NOW, LATER).await.unwrap();
    assert!(is_full(table.issue("c", owner, NOW, LATER).await, "tokens", 2));
    table.issue("b", owner, NOW, LATER).await.expect("issuing again adds none");
    table.issue("c", owner, NOW + 2000, LATER).await.expect("a has run out");
}

#[tokio::test]
async fn a_full_table_of_login_codes_refuses_new_phones_until_one_runs_out() {
    let table = login_codes::LoginCodeTable::with_max(2);
    let ask = |phone: &str, now_ms| CodeAsk {
        app: APP,
        phone: phone.to_owned(),
        code: "1234".to_owned(),
        until_ms: now_ms + 500,
        gap_ms: 100,
        sends_max: 9,
        window_ms: 1000,
    };
    for phone in ["a", "b"] {
        table.keep(&ask(phone, NOW), NOW).await.unwrap();
    }
    assert!(is_full(table.keep(&ask("c", NOW), NOW).await, "login codes", 2));
    assert_eq!(table.keep(&ask("a", NOW + 100), NOW + 100).await.expect("it is known"), CodeKept::Kept);
    table.keep(&ask("c", NOW + 3000), NOW + 3000).await.expect("they have run out");
}

#[tokio::test]
async fn a_full_session_table_refuses_until_one_ends() {
    let table = sessions::SessionTable::with_max(2);
    let owner = |user| SessionOwner { app: APP, user: UserId(user) };
    table.open("a", owner(1), NOW, NOW + 1000).await.unwrap();
    table.open("b", owner(2), NOW, LATER).await.unwrap();
    assert!(is_full(table.open("c", owner(3), NOW, LATER).await, "sessions", 2));
    table.open("c", owner(3), NOW + 3000, LATER).await.expect("a has run out");
    table.close_all(owner(2)).await.unwrap();
    table.open("d", owner(4), NOW + 3000, LATER).await.expect("b was closed");
    assert!(is_full(table.open("e", owner(5), NOW + 3000, LATER).await, "sessions", 2));
}

#[tokio::test]
async fn a_full_presence_table_stores_nothing_of_a_batch_and_still_renews() {
    let table = presence::PresenceTable::with_max(2);
    let user = |id| (APP, UserId(id));
    table.touch(&[user(1)], NOW).await.unwrap();
    assert!(is_full(table.touch(&[user(1), user(2), user(3)], NOW).await, "presence", 2));
    assert_eq!(table.online(APP, &[UserId(2), UserId(3)], 0).await.unwrap(), [false, false]);
    table.touch(&[user(1), user(2)], NOW).await.unwrap();
    table.touch(&[user(1), user(2)], NOW + 1).await.expect("both are known");
    table.remove(&[(APP, UserId(1), NOW + 2)]).await.unwrap();
    table.touch(&[user(3)], NOW + 2).await.expect("there is a place again");
    assert_eq!(table.sweep(NOW + 2, 9).await.unwrap(), [user(2)]);
    table.touch(&[user(4)], NOW + 2).await.expect("and again");
}

#[tokio::test]
async fn a_full_route_table_stores_nothing_of_a_batch_and_still_renews() {
    let table = routes::RouteTable::with_max(2);
    let route =
        |id| Route { app: APP, user: UserId(id), device: DeviceKind::Web, node: "g".to_owned(), epoch: 1, session: id.cast_unsigned() };
    table.bind(&[route(1)], NOW, LATER).await.unwrap();
    assert!(is_full(table.bind(&[route(1), route(2), route(3)], NOW, LATER).await, "routes", 2));
    assert_eq!(table.lookup(APP, &[UserId(2)], NOW).await.unwrap(), [vec![]]);
    table.bind(&[route(1), route(2)], NOW, LATER).await.unwrap();
    table.unbind(&[route(1)]).await.unwrap();
    table.bind(&[route(3)], NOW, LATER).await.expect("there is a place again");
}

#[tokio::test]
async fn a_full_ack_table_stores_nothing_of_a_batch_and_still_replaces() {
    let table = acks::AckTable::with_max(2);
    let ack = |id: &str| PendingAck { app: APP, user: UserId(1), msg_id: id.to_owned(), room: None, times_sent: 1, due_ms: NOW };
    table.record(&[ack("a")]).await.unwrap();
    assert!(is_full(table.record(&[ack("b"), ack("c")]).await, "acks", 2));
    assert_eq!(table.pending(APP, UserId(1)).await.unwrap(), [ack("a")]);
    table.record(&[ack("a"), ack("b")]).await.unwrap();
    assert_eq!(table.postpone(NOW + 1, NOW + 1, 2).await.unwrap().len(), 2, "what is put off keeps its place");
    assert!(is_full(table.record(&[ack("c")]).await, "acks", 2));
    table.remove(&[(APP, UserId(1), "a".to_owned())]).await.unwrap();
    table.record(&[ack("c")]).await.expect("there is a place again");
}

#[tokio::test]
async fn a_full_inbox_store_refuses_by_count_and_by_bytes() {
    let id = format!("{NOW}-0");
    let body = |bytes: usize| Bytes::from(vec![b'x'; bytes]);
    let table = inbox::InboxTable::with_max(2, 100, Watch::default());
    table.append(APP, &[UserId(1), UserId(2)], &id, body(10), NOW).await.unwrap();
    assert!(is_full(table.append(APP, &[UserId(1), UserId(3)], &id, body(11), NOW).await, "inboxes", 2));
    assert!(is_full(table.append(APP, &[UserId(1)], &id, body(81), NOW).await, "inbox bytes", 100));
    assert_eq!(table.read(APP, UserId(1), None, 9, NOW).await.unwrap().entries.len(), 1, "nothing of a refused batch is stored");
    let second = table.append(APP, &[UserId(1)], &id, body(80), NOW).await.expect("exactly full").remove(0);
    assert!(is_full(table.append(APP, &[UserId(1)], &id, body(1), NOW).await, "inbox bytes", 100));
    table.ack(&[(APP, UserId(1), second)]).await.unwrap();
    table.append(APP, &[UserId(1)], &id, body(1), NOW).await.expect("an ACK makes room");
}

#[tokio::test]
async fn beyond_its_bounds_the_quietest_room_log_gives_way_and_its_readers_are_told() {
    let entry = |seq, bytes: usize| LogAppend::from(LogEntry { seq, body: Bytes::from(vec![b'x'; bytes]), except: None });
    for (table, bytes) in [(room_log::RoomLogTable::with_max(2, 1000), 10), (room_log::RoomLogTable::with_max(9, 1000), 400)] {
        for room in 1..=3i64 {
            let at = NOW + 2000 * room.unsigned_abs();
            table.append(RoomId(room), &[entry(100 + room, bytes)], at).await.unwrap();
            table.fence(RoomId(room), 200, at).await.unwrap();
        }
        let now = NOW + 7000;
        assert_eq!(table.last(RoomId(1), 9, now).await.unwrap(), []);
        assert!(table.read(RoomId(1), 100, 9, now).await.unwrap().gap);
        assert!(!table.read(RoomId(1), 101, 9, now).await.unwrap().gap, "nothing after 101 was in any log that gave way");
        for room in 2..=3 {
            assert_eq!(table.last(RoomId(room), 9, now).await.unwrap(), [entry(100 + room, bytes).entry]);
        }
    }
}

#[tokio::test]
async fn a_full_member_table_stores_nothing_of_a_batch_and_still_renews() {
    let table = members::MemberTable::with_max(2, 3);
    let member = |id| Member { user: UserId(id), device: DeviceKind::Ios };
    assert_eq!(table.join(APP, RoomId(1), &[member(1), member(2)], NOW).await.unwrap(), 2);
    assert!(is_full(table.join(APP, RoomId(2), &[member(1), member(2)], NOW).await, "members", 3));
    assert_eq!(table.count(APP, RoomId(2)).await.unwrap(), 0);
    table.join(APP, RoomId(2), &[member(1)], NOW).await.unwrap();
    table.join(APP, RoomId(1), &[member(1), member(2)], NOW).await.expect("both are known");
    assert!(is_full(table.join(APP, RoomId(3), &[member(1)], NOW).await, "rooms with members", 2));
    assert_eq!(table.leave(APP, RoomId(2), &[member(1)], NOW).await.unwrap(), 0);
    table.join(APP, RoomId(3), &[member(1)], NOW).await.expect("an empty room is no room");
    table.remove(APP, RoomId(1)).await.unwrap();
    assert_eq!(table.join(APP, RoomId(3), &[member(1), member(2), member(3)], NOW).await.unwrap(), 3);
}

#[tokio::test]
async fn a_full_registry_refuses_new_nodes_only() {
    let table = registry::RegistryTable::new();
    let node = |number: usize| NodeInfo {
        kind: NodeKind::Gateway,
        id: format!("g{number}"),
        incarnation: 1,
        addresses: vec![],
        capacity: 1,
        load: 0,
        draining: false,
        version: String::new(),
        labels: Default::default(),
    };
    for number in 0..1024 {
        table.register(&node(number), NOW, LATER).await.unwrap();
    }
    assert!(is_full(table.register(&node(1024), NOW, LATER).await, "nodes", 1024));
    table.register(&node(7), NOW, LATER).await.expect("it is known");
}

#[tokio::test]
async fn a_full_lease_table_refuses_and_a_forgotten_name_begins_above_its_old_epoch() {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let table = leases::LeaseTable::with_max(2);
    for epoch in 1..=5 {
        assert_eq!(table.acquire("a", "r", NOW, LATER).await.unwrap().epoch, epoch);
        table.release("a", "r", epoch).await.unwrap();
    }
    table.acquire("b", "r", NOW, LATER).await.unwrap();
    assert!(is_full(table.acquire("c", "r", NOW, LATER).await, "leases", 2));
    table.acquire("b", "r", NOW, LATER + DAY_MS).await.expect("it is known");
    let now = LATER + DAY_MS + 1000;
    assert_eq!(table.acquire("c", "r", now, now + 1000).await.expect("a was forgotten").epoch, 6, "as a stood at 5");
}

#[tokio::test]
async fn beyond_their_bounds_the_window_claim_and_value_that_end_soonest_give_way() {
    let windows = rate_windows::RateWindowTable::with_max(2);
    let hit = |key: &str, window_ms| [WindowHit { key: key.to_owned(), limit: 1, window_ms }];
    for (key, window_ms) in [("short", 5_000), ("long", 50_000), ("middle", 20_000)] {
        assert_eq!(windows.hit(&hit(key, window_ms), NOW).await.unwrap(), [WindowVerdict::Allowed]);
    }
    assert_eq!(windows.hit(&hit("long", 50_000), NOW).await.unwrap(), [WindowVerdict::Refused { retry_after_ms: 50_000 }]);
    assert_eq!(windows.hit(&hit("short", 5_000), NOW).await.unwrap(), [WindowVerdict::Allowed]);

    let claims = dedup::DedupTable::with_max(2);
    for (id, until) in [("short", NOW + 5_000), ("long", NOW + 50_000), ("middle", NOW + 20_000)] {
        assert_eq!(claims.claim(APP, UserId(1), &[id.to_owned()], NOW, until).await.unwrap(), [true]);
    }
    let again = ["long".to_owned(), "middle".to_owned(), "short".to_owned()];
    assert_eq!(claims.claim(APP, UserId(1), &again, NOW, LATER).await.unwrap(), [false, false, true]);

    for (values, bytes) in [(cache::CacheTable::with_max(2, 1000), 1), (cache::CacheTable::with_max(9, 1000), 400)] {
        let value = Bytes::from(vec![b'x'; bytes]);
        for (key, until) in [("short", NOW + 5_000), ("long", NOW + 50_000), ("middle", NOW + 20_000)] {
            values.put(key, value.clone(), NOW, until).await.unwrap();
        }
        assert_eq!(values.get("short", NOW).await.unwrap(), None);
        assert_eq!(values.get("long", NOW).await.unwrap(), Some(value.clone()));
        assert_eq!(values.get("middle", NOW).await.unwrap(), Some(value));
    }
}

#[tokio::test]
async fn beyond_the_bound_the_bar_that_no_gift_has_moved_for_longest_gives_way() {
    let bars = pk_bars::PkBarTable::with_max(2);
    let begin = PkBar::begin(UserId(1), 0);
    for room in 1..=2 {
        bars.put(RoomId(room), begin, NOW).await.unwrap();
    }
    let gift = PkStep { since_seq: 0, after_seq: 0, seq: 1, by: 20 };
    assert_eq!(bars.step(RoomId(1), gift, NOW + 5_000).await.unwrap(), PkStepped::Applied(begin.after(1, 20)));
    bars.put(RoomId(3), begin, NOW + 10_000).await.unwrap();
    let now = NOW + 10_000;
    assert_eq!(bars.bar(RoomId(1), now).await.unwrap(), Some(begin.after(1, 20)));
    assert_eq!(bars.bar(RoomId(2), now).await.unwrap(), None);
    assert_eq!(bars.step(RoomId(2), gift, now).await.unwrap(), PkStepped::Missing, "it is to be put again");
    assert_eq!(bars.bar(RoomId(3), now).await.unwrap(), Some(begin));
}

#[tokio::test]
async fn a_value_larger_than_the_cache_is_not_kept() {
    let values = cache::CacheTable::with_max(9, 1000);
    values.put("key", Bytes::from(vec![b'x'; 2000]), NOW, LATER).await.unwrap();
    assert_eq!(values.get("key", NOW).await.unwrap(), None);
    values.put("key", Bytes::from_static(b"small"), NOW, LATER).await.unwrap();
    assert_eq!(values.get("key", NOW).await.unwrap(), Some(Bytes::from_static(b"small")), "and the account of bytes is right");
}

#[test]
fn a_steady_stream_of_entries_keeps_the_table_as_large_as_what_is_live() {
    let mut table = Expiring::new();
    let mut most = 0;
    // Ten entries a second, each for five seconds; a call a second.
    for second in 0..1000u64 {
        let now = NOW + second * 1000;
        table.sweep_for(now, 10);
        for number in 0..10 {
            table.insert((second, number), (), now + 5_000);
        }
        most = most.max(table.len());
    }
    assert!(most <= 80, "50 live, and those of the second not yet swept: {most}");
}

#[test]
fn coming_and_going_leaves_nothing_behind() {
    let mut table = Expiring::new();
    for round in 0..10_000u64 {
        table.insert(1, (), NOW + round * 1000);
        table.remove(&1);
    }
    assert!(table.filings() <= 64, "{} leftovers", table.filings());
}

#[test]
fn a_storm_gives_its_memory_back() {
    let mut table = Expiring::new();
    for key in 0..100_000 {
        table.insert(key, (), NOW);
    }
    table.expire_before(NOW + 1, usize::MAX, |_, ()| {});
    assert_eq!((table.len(), table.filings()), (0, 0));
    assert!(table.capacity() < 5_000, "{}", table.capacity());
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u8, u64),
    SetUntil(u8, u64),
    Remove(u8),
    Sweep(u64),
    Expire(u64, usize),
    Evict,
}

fn any_step() -> impl Strategy<Value = Step> {
    // Ends lie up to 18 hours apart and more, so that seconds which look alike occur.
    let time = prop_oneof![0u64..20_000, (0u64..4).prop_map(|round| round * 65_536_000), 0u64..200_000_000];
    prop_oneof![
        4 => (0u8..12, time.clone()).prop_map(|(key, until)| Step::Insert(key, until)),
        3 => (0u8..12, time.clone()).prop_map(|(key, until)| Step::SetUntil(key, until)),
        2 => (0u8..12).prop_map(Step::Remove),
        2 => time.clone().prop_map(Step::Sweep),
        2 => (time, 0usize..6).prop_map(|(before, limit)| Step::Expire(before, limit)),
        1 => Just(Step::Evict),
    ]
}

proptest! {
    /// Against a plain map: nothing is lost before its time, and an exact sweep finds all there is.
    #[test]
    fn a_table_of_ends_is_a_map_whose_entries_run_out(steps in proptest::collection::vec(any_step(), 1..80)) {
        let mut table = Expiring::new();
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Insert(key, until) => {
                    table.insert(key, (), until);
                    model.insert(key, until);
                }
                Step::SetUntil(key, until) => {
                    table.set_until(key, until);
                    model.entry(key).and_modify(|old| *old = until);
                }
                Step::Remove(key) => prop_assert_eq!(table.remove(&key).is_some(), model.remove(&key).is_some()),
                Step::Sweep(now) => {
                    let mut dropped = Vec::new();
                    table.sweep(now, 0, |key, ()| dropped.push(key));
                    for key in dropped {
                        prop_assert!(model.remove(&key).is_some_and(|until| until <= now));
                    }
                }
                Step::Expire(before, limit) => {
                    let mut dropped = Vec::new();
                    table.expire_before(before, limit, |key, ()| dropped.push(key));
                    let due = model.values().filter(|until| **until < before).count();
                    prop_assert_eq!(dropped.len(), due.min(limit));
                    for key in dropped {
                        prop_assert!(model.remove(&key).is_some_and(|until| until < before));
                    }
                }
                Step::Evict => match table.evict_soonest() {
                    Some((key, ())) => {
                        let until = model.remove(&key).expect("it was in the model");
                        prop_assert!(model.values().all(|other| until / 1000 <= other / 1000), "another ended a second sooner");
                    }
                    None => prop_assert!(model.is_empty()),
                },
            }
            prop_assert_eq!(table.len(), model.len());
            prop_assert!(table.filings() >= table.len() && table.filings() <= 2 * table.len() + 64);
            for (key, until) in &model {
                prop_assert_eq!(table.stored(key), Some((&(), *until)));
                prop_assert_eq!(table.live(key, 10_000).is_some(), *until > 10_000);
            }
        }
    }
}
