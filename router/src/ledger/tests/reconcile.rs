//! The look over the money: silent where it adds up, and never where it does not. Chunks are small in tests, so every border is crossed.

use super::{APP, Home, NOW, adds_up, fund, fund_in, gift, live, order, pay_one, sql};
use crate::{
    ledger::{Audit, Ledger, metrics::AuditMetrics},
    services::ports::money::{Money, NewGift},
};
use billfish_state::{AppId, RoomId, State, UserId};
use billfish_testing::PATIENCE;
use prometheus_client::registry::Registry;
use std::{collections::BTreeSet, time::Duration};
use tokio::time::{Instant, sleep};

pub(super) async fn money_that_moved_adds_up_also_while_it_moves(home: Home) {
    let (ledger, other) = (home.open().await, home.open().await);
    adds_up(&ledger).await;
    let room = live(&ledger, 30_001).await;
    for user in 0..8 {
        fund(&ledger, 20_001 + user, 10_000).await;
        fund_in(&ledger, AppId(7), 20_001 + user, 5).await;
    }
    ledger.add_order(&order(20_001, 60)).await.unwrap();
    let paying = tokio::spawn(async move {
        for round in 0..60 {
            let gifts: Vec<NewGift> = (0..8)
                .map(|user| NewGift { receiver: UserId(30_001 + round % 9), ..gift(room, 20_001 + user, &format!("{round}"), 3) })
                .collect();
            other.pay_gifts(&gifts, NOW).await.unwrap();
        }
    });
    while !paying.is_finished() {
        adds_up(&ledger).await;
    }
    paying.await.unwrap();
    let found = ledger.reconcile(0).await.unwrap();
    // 8 users, 9 receivers and a source; 8 more and theirs; 480 gifts; 17 orders.
    assert_eq!((found.findings.len(), found.rows), (0, 8 + 9 + 1 + 8 + 1 + 480 + 17));
}

pub(super) async fn whatever_does_not_add_up_is_found(home: Home) {
    let ledger = home.open().await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 1_000).await;
    fund(&ledger, 20_002, 1_000).await;
    for turn in 0..20 {
        pay_one(&ledger, gift(room, 20_001, &format!("a-{turn}"), 10)).await;
    }
    adds_up(&ledger).await;
    for (damage, repair, expected) in [
        (
            "UPDATE t_account SET balance = balance + 1 WHERE kind = 1 AND user_id = 20001",
            "UPDATE t_account SET balance = balance - 1 WHERE kind = 1 AND user_id = 20001",
            &["balance", "not_zero"][..],
        ),
        // From one to another: the sum is right, and two balances are not.
        (
            "UPDATE t_account SET balance = balance + CASE WHEN user_id = 20001 THEN 5 ELSE -5 END WHERE kind = 1 AND user_id IN (20001, 20002)",
            "UPDATE t_account SET balance = balance - CASE WHEN user_id = 20001 THEN 5 ELSE -5 END WHERE kind = 1 AND user_id IN (20001, 20002)",
            &["balance", "balance"],
        ),
        (
            "UPDATE t_account SET user_id = 99 WHERE kind = 2",
            "UPDATE t_account SET user_id = 30001 WHERE kind = 2",
            &["balance", "no_account"],
        ),
        (
            "UPDATE t_account_trade SET user_id = 20002 WHERE kind = 1 AND side = 0 AND ref_b = 8",
            "UPDATE t_account_trade SET user_id = 20001 WHERE kind = 1 AND side = 0 AND ref_b = 8",
            &["balance", "balance", "gift_entries"],
        ),
        (
            "UPDATE t_account_trade SET amount = amount - 1 WHERE kind = 1 AND side = 0 AND ref_b = 20",
            "UPDATE t_account_trade SET amount = amount + 1 WHERE kind = 1 AND side = 0 AND ref_b = 20",
            &["balance", "gift_entries"],
        ),
        // An entry of no gift, and a gift without one.
        (
            "UPDATE t_account_trade SET ref_b = 1000 WHERE kind = 1 AND side = 1 AND ref_b = 1",
            "UPDATE t_account_trade SET ref_b = 1 WHERE kind = 1 AND side = 1 AND ref_b = 1000",
            &["gift_entries", "gift_entries", "gift_entries"],
        ),
        (
            "UPDATE t_recharge_order SET status = 0 WHERE user_id = 20002",
            "UPDATE t_recharge_order SET status = 1 WHERE user_id = 20002",
            &["order_entries"],
        ),
        (
            "UPDATE t_recharge_order SET coins = 1001 WHERE user_id = 20002",
            "UPDATE t_recharge_order SET coins = 1000 WHERE user_id = 20002",
            &["order_entries"],
        ),
        (
            "UPDATE t_outbox SET since_time = 5 WHERE gift_seq = 3",
            "UPDATE t_outbox SET since_time = 1800000000000 WHERE gift_seq = 3",
            &["untold"],
        ),
    ] {
        sql(&ledger, damage).await;
        let found = ledger.reconcile(6).await.unwrap();
        let mut kinds: Vec<&str> = found.findings.iter().map(|finding| finding.kind).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, expected, "{damage}: {:?}", found.findings);
        sql(&ledger, repair).await;
        assert_eq!(ledger.reconcile(6).await.unwrap().findings, [], "{repair}");
    }
    assert_eq!(ledger.reconcile(NOW + 1).await.unwrap().findings.len(), 1, "one for a room, however many gifts wait");
}

pub(super) async fn a_hole_is_found_at_every_place_of_a_large_room(home: Home) {
    let ledger = home.open().await;
    // Small rooms around the large one, so that ranges of both kinds lie side by side.
    let mut rooms = Vec::new();
    for anchor in 0..7 {
        rooms.push(live(&ledger, 30_001 + anchor).await);
    }
    fund(&ledger, 20_001, 10_000).await;
    for (turn, room) in rooms.iter().enumerate() {
        let gifts: Vec<NewGift> =
            (0..if turn == 3 { 23 } else { 2 }).map(|number| gift(*room, 20_001, &format!("{turn} {number}"), 1)).collect();
        ledger.pay_gifts(&gifts, NOW).await.unwrap();
    }
    adds_up(&ledger).await;
    for room in [rooms[0], rooms[3], rooms[6]] {
        let last = ledger.last_gift(room).await.unwrap();
        for seq in 1..=last {
            move_gift(&ledger, room, seq, 100).await;
            let found = ledger.reconcile(0).await.unwrap();
            let kinds: BTreeSet<&str> = found.findings.iter().map(|finding| finding.kind).collect();
            // The place itself; and its entries, which stand where they stood.
            assert_eq!(kinds, ["gift_entries", "gift_hole"].into(), "gift {seq} of {room}: {:?}", found.findings);
            move_gift(&ledger, room, 100, seq).await;
        }
    }
    adds_up(&ledger).await;
}

async fn move_gift(ledger: &Ledger, room: RoomId, from: i64, to: i64) {
    const MOVE: &str = "UPDATE t_gift_record SET gift_seq = ? WHERE room_id = ? AND gift_seq = ?";
    assert_eq!(ledger.execute("a test", MOVE, &[to.into(), room.0.into(), from.into()]).await.unwrap(), 1);
}

pub(super) async fn one_router_looks_for_all_and_says_what_it_finds(home: Home) {
    let state = State::in_memory();
    let mut routers = [home.open().await, home.open().await];
    let metrics = [(); 2].map(|()| AuditMetrics::register(&mut Registry::default()));
    fund(&routers[0], 20_001, 1_000).await;
    for ledger in &mut routers {
        ledger.audit_every = Duration::from_millis(300);
    }
    let _audits: Vec<Audit> =
        (0..2).map(|turn| Audit::start_with(&routers[turn], &state, &format!("router-{turn}"), metrics[turn].clone())).collect();
    let looks = || metrics.iter().map(AuditMetrics::looks).collect::<Vec<u64>>();
    until("three looks", || looks().iter().sum::<u64>() >= 3).await;
    assert_eq!(looks().iter().filter(|looks| **looks > 0).count(), 1, "{:?}", looks());
    let found = |kind| metrics.iter().map(|metrics| metrics.found(kind)).sum::<i64>();
    assert_eq!((found("balance"), found("not_zero")), (0, 0));
    sql(&routers[0], "UPDATE t_account SET balance = balance + 1 WHERE kind = 1").await;
    until("it is found", || found("balance") == 1 && found("not_zero") == 1).await;
    sql(&routers[0], "UPDATE t_account SET balance = balance - 1 WHERE kind = 1").await;
    until("it is gone", || found("balance") == 0 && found("not_zero") == 0).await;

    let mut never = home.open().await;
    never.audit_every = Duration::ZERO;
    let never = Audit::start(&never, &state, "router-3", &mut Registry::default());
    assert!(format!("{never:?}").contains("None"));
    assert_eq!(routers[0].balance(APP, UserId(20_001)).await.unwrap().coins, 1_000);
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
