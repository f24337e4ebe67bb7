//! The till: in order, together, bounded.

use super::{Home, Kind, adds_up, beans, coins, count, deadlocks, fund, gift, live, paid, settled};
use crate::{
    ledger::{Ledger, Till, database::Call, metrics::TillMetrics},
    services::ports::{
        RecordError,
        money::{GiftOutcome, NewGift},
    },
};
use billfish_state::{Clock, RoomId, UserId};
use billfish_testing::PATIENCE;
use prometheus_client::{encoding::text, registry::Registry};
use std::time::Duration;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

pub(super) async fn gifts_of_a_room_are_paid_in_the_order_they_were_handed_in(home: Home) {
    let (ledger, clock) = (home.open().await, Clock::start());
    let (till, _) = till(&ledger, &clock);
    let rooms = [live(&ledger, 30_001).await, live(&ledger, 30_002).await, live(&ledger, 30_003).await];
    fund(&ledger, 20_001, 10_000).await;
    let handed_in: Vec<_> =
        (0..300).map(|turn| (turn, till.submit(gift(rooms[turn % 3], 20_001, &format!("a-{turn}"), 1)).unwrap())).collect();
    for (turn, outcome) in handed_in {
        let gift = paid(outcome.await.unwrap().unwrap());
        assert_eq!(gift.gift_seq, i64::try_from(turn / 3).unwrap() + 1);
        assert!(gift.paid_ms <= clock.now_ms());
    }
    // A balance is of its own moment.
    let GiftOutcome::Paid { balance, .. } = till.pay(gift(rooms[0], 20_001, "last", 1)).await.unwrap() else { panic!("not paid") };
    assert_eq!(balance, 9_699);
    assert!(matches!(till.pay(gift(rooms[0], 20_001, "last", 1)).await.unwrap(), GiftOutcome::Repeated(_)));
    till.close().await;
    adds_up(&ledger).await;
}

pub(super) async fn gifts_that_wait_together_are_paid_together(home: Home) {
    let ledger = home.open().await;
    let (till, registry) = till(&ledger, &Clock::start());
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 10_000).await;
    let lock = lock(&home, room).await;
    let mut handed_in = vec![till.submit(gift(room, 20_001, "first", 1)).unwrap()];
    // It waits for the lock with one, and finds all others together.
    until("the first is taken", || figure(&registry, "router_till_queue_depth") == 0).await;
    handed_in.extend((0..200).map(|turn| till.submit(gift(room, 20_001, &format!("a-{turn}"), 1)).unwrap()));
    assert_eq!(figure(&registry, "router_till_queue_depth"), 200);
    lock.commit().await.unwrap();
    for outcome in handed_in {
        paid(outcome.await.unwrap().unwrap());
    }
    assert_eq!(figure(&registry, "router_till_batch_gifts_count"), 2);
    assert_eq!(figure(&registry, "router_till_batch_gifts_sum"), 201);
    assert_eq!(figure(&registry, "router_till_gifts_total{outcome=\"paid\"}"), 201);
    assert_eq!(figure(&registry, "router_till_queue_depth"), 0);
}

pub(super) async fn a_full_queue_takes_nothing_and_nothing_of_it_is_paid(mut home: Home) {
    home.config.till_queue_max = 16;
    home.config.till_writers = 1;
    let ledger = home.open().await;
    let (till, registry) = till(&ledger, &Clock::start());
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 10_000).await;
    let lock = lock(&home, room).await;
    let mut handed_in = vec![till.submit(gift(room, 20_001, "first", 1)).unwrap()];
    until("the first is taken", || figure(&registry, "router_till_queue_depth") == 0).await;
    handed_in.extend((0..16).map(|turn| till.submit(gift(room, 20_001, &format!("a-{turn}"), 1)).unwrap()));
    for turn in 0..3 {
        let refused = till.submit(gift(room, 20_001, &format!("too many {turn}"), 1)).unwrap_err();
        assert!(matches!(refused, RecordError::Away { .. }), "{refused:?}");
    }
    lock.commit().await.unwrap();
    for outcome in handed_in {
        paid(outcome.await.unwrap().unwrap());
    }
    assert_eq!(figure(&registry, "router_till_gifts_total{outcome=\"full\"}"), 3);
    assert_eq!((coins(&ledger, 20_001).await, count(&ledger, "t_gift_record").await), (10_000 - 17, 17));
    // There is room again, also for those that were refused.
    paid(till.pay(gift(room, 20_001, "too many 0", 1)).await.unwrap());
    adds_up(&ledger).await;
}

pub(super) async fn nobody_waits_for_records_that_are_locked(mut home: Home) {
    home.config.call_timeout = Duration::from_millis(400);
    let ledger = home.open().await;
    let (till, registry) = till(&ledger, &Clock::start());
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 10_000).await;
    let lock = lock(&home, room).await;
    let handed_in: Vec<_> = (0..300).map(|turn| till.submit(gift(room, 20_001, &format!("a-{turn}"), 1)).unwrap()).collect();
    for outcome in handed_in {
        // Each hears of it while the lock is still held.
        let away = tokio::time::timeout(PATIENCE, outcome).await.expect("an answer").unwrap().unwrap_err();
        assert!(matches!(away, RecordError::Away { .. }), "{away:?}");
    }
    assert_eq!(figure(&registry, "router_till_queue_depth"), 0);
    lock.commit().await.unwrap();
    // The same ids: whatever was said, each is paid once.
    let mut paid = 0;
    for turn in 0..300 {
        let start = Instant::now();
        let outcome = loop {
            match till.pay(gift(room, 20_001, &format!("a-{turn}"), 1)).await {
                Ok(outcome) => break outcome,
                Err(error) => assert!(start.elapsed() < PATIENCE, "{error:?}"),
            }
        };
        settled(outcome);
        paid += 1;
    }
    assert_eq!((paid, coins(&ledger, 20_001).await, beans(&ledger, 30_001).await), (300, 9_700, 300));
    adds_up(&ledger).await;
}

pub(super) async fn told_gifts_leave_the_outbox_with_gifts_or_by_themselves(home: Home) {
    let ledger = home.open().await;
    let (till, registry) = till(&ledger, &Clock::start());
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 10_000).await;
    for turn in 0..10 {
        paid(till.pay(gift(room, 20_001, &format!("a-{turn}"), 1)).await.unwrap());
        // By the time of the next gift the one before was told.
        till.told(&[(room, turn + 1)]);
    }
    assert!(count(&ledger, "t_outbox").await <= 10);
    let start = Instant::now();
    while count(&ledger, "t_outbox").await > 0 {
        assert!(start.elapsed() < PATIENCE, "never taken out");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(figure(&registry, "router_till_batch_gifts_count"), 10, "no gift was made up for it");
    // Those that come at the end are taken out at the end.
    paid(till.pay(gift(room, 20_001, "last", 1)).await.unwrap());
    till.told(&[(room, 11)]);
    till.close().await;
    assert_eq!(count(&ledger, "t_outbox").await, 0);
    adds_up(&ledger).await;
}

/// A log that is in memory dies with the process, and so does what stands in its sockets: the next one tells it again.
pub(super) async fn told_gifts_stay_in_the_outbox_until_their_pushes_are_out(mut home: Home) {
    home.config.told_after = Duration::from_secs(3);
    let ledger = home.open().await;
    let (till, _) = till(&ledger, &Clock::start());
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 10_000).await;
    let start = Instant::now();
    for turn in 0..3 {
        paid(till.pay(gift(room, 20_001, &format!("a-{turn}"), 1)).await.unwrap());
        till.told(&[(room, turn + 1)]);
    }
    let waiting = count(&ledger, "t_outbox").await;
    assert!(waiting == 3 || start.elapsed() >= home.config.told_after, "{waiting} of 3 are left");
    while count(&ledger, "t_outbox").await > 0 {
        assert!(start.elapsed() < PATIENCE, "never taken out");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(start.elapsed() >= home.config.told_after);
}

pub(super) async fn a_till_that_closes_pays_what_it_has_taken(home: Home) {
    let ledger = home.open().await;
    let (till, _) = till(&ledger, &Clock::start());
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 10_000).await;
    let handed_in: Vec<_> = (0..500).map(|turn| till.submit(gift(room, 20_001, &format!("a-{turn}"), 1)).unwrap()).collect();
    till.close().await;
    for outcome in handed_in {
        paid(outcome.await.unwrap().unwrap());
    }
    let late = till.submit(gift(room, 20_001, "late", 1)).unwrap_err();
    assert!(matches!(late, RecordError::Away { .. }), "{late:?}");
    assert!(till.pay(gift(room, 20_001, "late", 1)).await.is_err());
    assert_eq!(count(&ledger, "t_gift_record").await, 500);
    adds_up(&ledger).await;
}

pub(super) async fn tills_that_tell_while_they_pay_never_wait_in_a_circle(home: Home) {
    let routers = [home.open().await, home.open().await];
    let tills = [till(&routers[0], &Clock::start()), till(&routers[1], &Clock::start())];
    let mut rooms = Vec::new();
    for anchor in 0..4 {
        rooms.push(live(&routers[0], 30_001 + anchor).await);
    }
    for sender in 0..8 {
        fund(&routers[0], 20_000 + sender, 1_000).await;
    }
    let before = deadlocks(&home, &routers[0]).await;
    let mut payers = JoinSet::new();
    for sender in 0..8_i64 {
        let (till, rooms) = (tills[usize::try_from(sender % 2).unwrap()].0.clone(), rooms.clone());
        payers.spawn(async move {
            for turn in 0..40_i64 {
                let room = rooms[usize::try_from((sender + turn) % 4).unwrap()];
                // To each other: their accounts are the others' too.
                let to = UserId(20_000 + (sender + turn) % 8);
                let asked = NewGift { receiver: to, ..gift(room, 20_000 + sender, &format!("{turn}"), 1) };
                let gift = paid(till.pay(asked).await.unwrap());
                till.told(&[(room, gift.gift_seq)]);
            }
        });
    }
    while let Some(ended) = payers.join_next().await {
        ended.unwrap();
    }
    for (till, _) in &tills {
        till.close().await;
    }
    assert_eq!(deadlocks(&home, &routers[0]).await, before, "they wait for each other in one order");
    assert_eq!((count(&routers[0], "t_gift_record").await, count(&routers[0], "t_outbox").await), (8 * 40, 0));
    adds_up(&routers[0]).await;
}

pub(super) async fn a_gift_that_cannot_be_read_does_not_fail_its_neighbours(home: Home) {
    let ledger = home.open().await;
    let (till, registry) = till(&ledger, &Clock::start());
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 10_000).await;
    paid(till.pay(gift(room, 20_001, "spoilt", 1)).await.unwrap());
    super::sql(&ledger, "UPDATE t_gift_record SET paid_time = -1").await;
    let lock = lock(&home, room).await;
    let first = till.submit(gift(room, 20_001, "first", 1)).unwrap();
    until("the first is taken", || figure(&registry, "router_till_queue_depth") == 0).await;
    let ids = ["a", "spoilt", "b"];
    let handed_in: Vec<_> = ids.iter().map(|id| till.submit(gift(room, 20_001, id, 1)).unwrap()).collect();
    lock.commit().await.unwrap();
    paid(first.await.unwrap().unwrap());
    for (id, outcome) in ids.iter().zip(handed_in) {
        match (*id, outcome.await.unwrap()) {
            ("spoilt", outcome) => assert!(matches!(outcome, Err(RecordError::Unreadable { .. })), "{outcome:?}"),
            (_, outcome) => drop(paid(outcome.unwrap())),
        }
    }
    // What is no gift is refused at the door.
    let wrong = NewGift { num: 0, ..gift(room, 20_001, "c", 1) };
    assert!(matches!(till.submit(wrong).unwrap_err(), RecordError::Unreadable { .. }));
    assert_eq!(figure(&registry, "router_till_gifts_total{outcome=\"unreadable\"}"), 2);
}

fn till(ledger: &Ledger, clock: &Clock) -> (Till, Registry) {
    let mut registry = Registry::default();
    let metrics = TillMetrics::register(&mut registry);
    (Till::start_with(ledger, clock, metrics), registry)
}

/// Whatever pays in this room waits until it is given back: another router is in the middle of something.
async fn lock(home: &Home, room: RoomId) -> Call {
    let other = home.open().await;
    let mut call = match home.kind {
        // The file's one lock.
        Kind::File => other.database.transaction("a test", PATIENCE).await.unwrap(),
        Kind::Server => other.transaction("a test").await.unwrap(),
    };
    call.extend(PATIENCE);
    call.execute("UPDATE t_living_room SET status = 1 WHERE id = ?", &[room.0.into()]).await.unwrap();
    call
}

/// A number of the exposition.
fn figure(registry: &Registry, name: &str) -> i64 {
    let mut exposition = String::new();
    text::encode(&mut exposition, registry).unwrap();
    let line = exposition.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{exposition}")).parse::<f64>().unwrap() as i64
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
