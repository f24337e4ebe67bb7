//! Gifts: paid once or not at all, in order, from what is there.

use super::{APP, Home, Kind, NOW, adds_up, beans, coins, count, deadlocks, fund, fund_in, gift, live, paid, pay_one, settled, sql};
use crate::{
    ledger::Ledger,
    services::ports::{
        RecordError, RoomRecords,
        money::{Balance, Gift, GiftId, GiftOutcome, Money, NewGift, PaidGift, PkSide},
    },
};
use billfish_state::{AppId, RoomId, UserId};
use proptest::{
    prelude::{Strategy, TestCaseError, prop},
    test_runner::{Config, TestRunner},
};
use std::collections::{BTreeMap, BTreeSet};
use tokio::task::JoinSet;

pub(super) async fn a_gift_makes_coins_of_one_beans_of_another_and_stays_so(home: Home) {
    let ledger = home.open().await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 1_000).await;
    let asked =
        NewGift { num: 3, gift: GiftId(5), pk: Some(PkSide::Challenger), combo: "tap 'tap'".to_owned(), ..gift(room, 20_001, "a-1", 200) };
    let outcome = pay_one(&ledger, asked.clone()).await;
    let expected = PaidGift { what: asked.clone(), gift_seq: 1, paid_ms: NOW };
    assert_eq!(outcome, GiftOutcome::Paid { gift: expected.clone(), balance: 400 });
    ledger.close().await;
    drop(ledger);
    let ledger = home.open().await;
    assert_eq!(ledger.balance(APP, UserId(20_001)).await.unwrap(), Balance { coins: 400, beans: 0 });
    assert_eq!(ledger.balance(APP, UserId(30_001)).await.unwrap(), Balance { coins: 0, beans: 600 });
    assert_eq!(ledger.balance(AppId(1), UserId(20_001)).await.unwrap(), Balance::default());
    // All of the record is as it was.
    assert_eq!(ledger.untold(room, 10).await.unwrap(), std::slice::from_ref(&expected));
    assert_eq!(pay_one(&ledger, asked).await, GiftOutcome::Repeated(expected));
    adds_up(&ledger).await;
}

pub(super) async fn of_gifts_at_once_on_two_routers_as_many_are_paid_as_are_covered(home: Home) {
    let routers = [home.open().await, home.open().await];
    let rooms = [live(&routers[0], 30_001).await, live(&routers[0], 30_002).await];
    fund(&routers[0], 20_001, 1_000).await;
    let mut calls = JoinSet::new();
    for turn in 0..100 {
        let ledger = routers[turn % 2].clone();
        // In two rooms: no row but the sender's keeps them apart.
        let gift = gift(rooms[turn / 2 % 2], 20_001, &format!("a-{turn}"), 30);
        calls.spawn(async move { pay_one(&ledger, gift).await });
    }
    let (mut paid, mut refused) = (0, 0);
    while let Some(outcome) = calls.join_next().await {
        match covered(&outcome.unwrap()) {
            (balance, true) => {
                assert!(balance >= 0);
                paid += 1;
            }
            (balance, false) => {
                assert_eq!(balance, 10);
                refused += 1;
            }
        }
    }
    assert_eq!((paid, refused), (33, 67));
    assert_eq!((coins(&routers[1], 20_001).await, beans(&routers[1], 30_001).await), (10, 990));
    assert_eq!(count(&routers[0], "t_gift_record").await, 33);
    adds_up(&routers[0]).await;
}

pub(super) async fn the_same_gift_a_hundred_times_at_once_is_paid_once(home: Home) {
    let routers = [home.open().await, home.open().await];
    let room = live(&routers[0], 30_001).await;
    fund(&routers[0], 20_001, 1_000).await;
    let mut calls = JoinSet::new();
    for turn in 0..50 {
        let ledger = routers[turn % 2].clone();
        // Twice in one batch, too.
        let gifts = [gift(room, 20_001, "a-1", 200), gift(room, 20_001, "a-1", 200)];
        calls.spawn(async move { ledger.pay_gifts(&gifts, NOW).await.unwrap() });
    }
    let mut first = 0;
    let mut records = Vec::new();
    while let Some(outcomes) = calls.join_next().await {
        for outcome in outcomes.unwrap() {
            if let GiftOutcome::Paid { balance, .. } = outcome {
                assert_eq!(balance, 800);
                first += 1;
            }
            records.push(settled(outcome).0);
        }
    }
    assert_eq!((first, records.len()), (1, 100));
    assert!(records.iter().all(|record| *record == records[0]));
    assert_eq!((coins(&routers[0], 20_001).await, beans(&routers[0], 30_001).await), (800, 200));
    assert_eq!(count(&routers[0], "t_account_trade").await, 4, "two of the recharge, two of the gift");
    adds_up(&routers[0]).await;
}

pub(super) async fn an_id_that_was_used_for_another_gift_is_a_conflict(home: Home) {
    let ledger = home.open().await;
    let (room, other_room) = (live(&ledger, 30_001).await, live(&ledger, 30_002).await);
    fund(&ledger, 20_001, 1_000).await;
    fund(&ledger, 20_002, 1_000).await;
    let asked = gift(room, 20_001, "a-1", 100);
    paid(pay_one(&ledger, asked.clone()).await);
    for other in [
        NewGift { room: other_room, ..asked.clone() },
        NewGift { receiver: UserId(30_002), ..asked.clone() },
        NewGift { gift: GiftId(2), ..asked.clone() },
        NewGift { num: 2, ..asked.clone() },
        NewGift { pk: Some(PkSide::Anchor), ..asked.clone() },
    ] {
        assert_eq!(pay_one(&ledger, other.clone()).await, GiftOutcome::Conflict, "{other:?}");
    }
    // In one batch, the earlier one has it.
    let outcomes =
        ledger.pay_gifts(&[gift(room, 20_001, "a-2", 100), NewGift { num: 2, ..gift(room, 20_001, "a-2", 100) }], NOW).await.unwrap();
    assert!(matches!(outcomes[..], [GiftOutcome::Paid { .. }, GiftOutcome::Conflict]), "{outcomes:?}");
    // Somebody else's id is another one, and so is that of another app.
    paid(pay_one(&ledger, NewGift { sender: UserId(20_002), ..asked.clone() }).await);
    let there = AppId(10_002);
    let elsewhere = NewGift { app: there, ..asked };
    assert_eq!(pay_one(&ledger, elsewhere).await, GiftOutcome::NoRoom, "no repeat of what the other app's user has paid");
    assert_eq!((coins(&ledger, 20_001).await, coins(&ledger, 20_002).await), (800, 900));
    adds_up(&ledger).await;
}

pub(super) async fn a_repeat_at_another_price_or_by_another_owner_gets_the_first_answer(home: Home) {
    let ledger = home.open().await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 1_000).await;
    let asked = NewGift { pk: Some(PkSide::Anchor), ..gift(room, 20_001, "a-1", 100) };
    let first = paid(pay_one(&ledger, asked.clone()).await);
    ledger
        .put_gift(&Gift { gift: GiftId(1), name: "Rose".to_owned(), price: 150, cover: String::new(), url: String::new() })
        .await
        .unwrap();
    ledger.raise_epoch(room).await.unwrap();
    // The seat was left and taken since: which side it is for is not the sender's to say.
    let again = NewGift { price: 150, epoch: 2, pk: Some(PkSide::Challenger), combo: "other".to_owned(), ..asked };
    assert_eq!(pay_one(&ledger, again).await, GiftOutcome::Repeated(first));
    assert_eq!(coins(&ledger, 20_001).await, 900);
}

pub(super) async fn a_price_beyond_all_numbers_is_not_covered(home: Home) {
    let ledger = home.open().await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, i64::MAX).await;
    for (num, price) in [(2, i64::MAX), (9_999, i64::MAX), (9_999, i64::MAX / 9_998)] {
        let outcome = pay_one(&ledger, NewGift { num, ..gift(room, 20_001, &format!("{num} {price}"), price) }).await;
        assert_eq!(outcome, GiftOutcome::NotCovered { balance: i64::MAX });
    }
    // All there is can be given, and no more than an account holds.
    paid(pay_one(&ledger, gift(room, 20_001, "all", i64::MAX)).await);
    assert_eq!((coins(&ledger, 20_001).await, beans(&ledger, 30_001).await), (0, i64::MAX));
    adds_up(&ledger).await;
}

pub(super) async fn nothing_is_paid_in_a_room_that_is_not_live(home: Home) {
    let ledger = home.open().await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 1_000).await;
    fund_in(&ledger, AppId(10_002), 20_001, 1_000).await;
    ledger.close_room(room, NOW + 1).await.unwrap();
    for room in [room, RoomId(room.0 + 1), RoomId(0), RoomId(-1), RoomId(i64::MAX)] {
        assert_eq!(pay_one(&ledger, gift(room, 20_001, "a-1", 100)).await, GiftOutcome::NoRoom);
    }
    let of_another_app = live(&ledger, 30_002).await;
    let there = NewGift { app: AppId(10_002), ..gift(of_another_app, 20_001, "a-1", 100) };
    assert_eq!(pay_one(&ledger, there).await, GiftOutcome::NoRoom);
    assert_eq!((coins(&ledger, 20_001).await, count(&ledger, "t_gift_record").await), (1_000, 0));
    // The id is not used up.
    paid(pay_one(&ledger, gift(of_another_app, 20_001, "a-1", 100)).await);
    adds_up(&ledger).await;
}

pub(super) async fn an_owner_who_is_one_no_more_is_fenced(home: Home) {
    let (former, owner) = (home.open().await, home.open().await);
    let room = live(&former, 30_001).await;
    fund(&former, 20_001, 1_000).await;
    paid(pay_one(&former, gift(room, 20_001, "a-1", 100)).await);
    assert_eq!(owner.raise_epoch(room).await.unwrap(), Some(2));
    assert_eq!(pay_one(&former, gift(room, 20_001, "a-2", 100)).await, GiftOutcome::Fenced);
    // Nor one who cannot be: nobody was given that epoch.
    assert_eq!(pay_one(&former, NewGift { epoch: 3, ..gift(room, 20_001, "a-2", 100) }).await, GiftOutcome::Fenced);
    let second = paid(pay_one(&owner, NewGift { epoch: 2, ..gift(room, 20_001, "a-2", 100) }).await);
    assert_eq!((second.gift_seq, coins(&owner, 20_001).await), (2, 800));
    adds_up(&owner).await;
}

pub(super) async fn a_replay_after_a_restart_a_day_and_the_rooms_end_gets_the_first_answer(home: Home) {
    let ledger = home.open().await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 100).await;
    let asked = gift(room, 20_001, "a-1", 100);
    let first = paid(pay_one(&ledger, asked.clone()).await);
    ledger.close_room(room, NOW + 1).await.unwrap();
    ledger.close().await;
    drop(ledger);
    let ledger = home.open().await;
    let a_day_later = NOW + 24 * 3600 * 1000;
    let outcomes = ledger.pay_gifts(&[asked.clone(), NewGift { num: 2, ..asked }], a_day_later).await.unwrap();
    assert_eq!(outcomes, [GiftOutcome::Repeated(first), GiftOutcome::Conflict]);
    assert_eq!(beans(&ledger, 30_001).await, 100);
    adds_up(&ledger).await;
}

pub(super) async fn gifts_of_a_room_are_counted_without_a_hole_across_owners_and_restarts(home: Home) {
    let mut ledger = home.open().await;
    let (room, other) = (live(&ledger, 30_001).await, live(&ledger, 30_002).await);
    fund(&ledger, 20_001, 1_000).await;
    let mut expected = 0;
    for epoch in 1..=4 {
        for turn in 0..3 {
            let uuid = format!("{epoch} {turn}");
            let asked = NewGift { epoch, ..gift(room, 20_001, &uuid, 1) };
            // Those that are not paid take no place.
            let gifts = [
                NewGift { uuid: format!("{uuid} too dear"), price: 1_000_000, ..asked.clone() },
                asked.clone(),
                asked.clone(),
                gift(other, 20_001, &uuid, 1),
                NewGift { uuid: format!("{uuid} late"), epoch: epoch + 1, ..asked },
            ];
            expected += 1;
            assert_eq!(paid(ledger.pay_gifts(&gifts, NOW).await.unwrap().remove(1)).gift_seq, expected);
        }
        assert_eq!(ledger.last_gift(room).await.unwrap(), expected);
        ledger.raise_epoch(room).await.unwrap();
        ledger.close().await;
        ledger = home.open().await;
    }
    assert_eq!(ledger.last_gift(RoomId(999)).await.unwrap(), 0);
    ledger.close_room(room, NOW + 1).await.unwrap();
    assert_eq!(ledger.last_gift(room).await.unwrap(), 12, "also of a room that has closed");
    adds_up(&ledger).await;
}

pub(super) async fn what_is_to_be_told_waits_until_it_was_told(home: Home) {
    let ledger = home.open().await;
    let rooms = [live(&ledger, 30_001).await, live(&ledger, 30_002).await];
    fund(&ledger, 20_001, 1_000).await;
    let gifts: Vec<NewGift> = (0..6).map(|turn| gift(rooms[turn % 2], 20_001, &format!("a-{turn}"), 1)).collect();
    ledger.pay_gifts(&gifts[..4], NOW).await.unwrap();
    ledger.pay_gifts(&gifts[4..], NOW + 10).await.unwrap();
    let seqs =
        async |ledger: &Ledger, room, limit| ledger.untold(room, limit).await.unwrap().iter().map(|gift| gift.gift_seq).collect::<Vec<_>>();
    assert_eq!(seqs(&ledger, rooms[0], 10).await, [1, 2, 3]);
    assert_eq!(seqs(&ledger, rooms[1], 2).await, [1, 2]);
    // Longest waiting first, and not those that have just come.
    assert_eq!(ledger.rooms_to_tell(NOW, 10).await.unwrap(), []);
    assert_eq!(ledger.rooms_to_tell(NOW + 1, 10).await.unwrap(), rooms);
    assert_eq!(ledger.rooms_to_tell(NOW + 1, 1).await.unwrap(), [rooms[0]]);
    ledger.told(&[(rooms[0], 2), (rooms[0], 1), (rooms[1], 1), (rooms[1], 999), (RoomId(999), 1)]).await.unwrap();
    ledger.told(&[(rooms[0], 1)]).await.unwrap();
    assert_eq!(ledger.rooms_to_tell(NOW + 1, 10).await.unwrap(), [rooms[1]]);
    ledger.close().await;
    drop(ledger);
    let ledger = home.open().await;
    // A room that has closed is told, too.
    ledger.close_room(rooms[1], NOW + 20).await.unwrap();
    assert_eq!((seqs(&ledger, rooms[0], 10).await, seqs(&ledger, rooms[1], 10).await), (vec![3], vec![2, 3]));
    ledger.told(&[(rooms[0], 3), (rooms[1], 2), (rooms[1], 3)]).await.unwrap();
    assert_eq!(count(&ledger, "t_outbox").await, 0);
    // More than one statement takes.
    let gifts: Vec<NewGift> = (0..600).map(|turn| gift(rooms[0], 20_001, &format!("b-{turn}"), 1)).collect();
    ledger.pay_gifts(&gifts, NOW).await.unwrap();
    let all: Vec<(RoomId, i64)> = (4..=603).map(|seq| (rooms[0], seq)).collect();
    ledger.told(&all).await.unwrap();
    assert_eq!(count(&ledger, "t_outbox").await, 0);
}

pub(super) async fn a_batch_is_decided_in_its_order_and_what_was_received_is_not_spent(home: Home) {
    let ledger = home.open().await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 100).await;
    let to = |receiver, gift: NewGift| NewGift { receiver: UserId(receiver), ..gift };
    let gifts = [
        to(20_002, gift(room, 20_001, "a-1", 60)),
        // He has 60 beans now, and no coins.
        to(20_001, gift(room, 20_002, "b-1", 10)),
        to(20_002, gift(room, 20_001, "a-2", 50)),
        to(20_003, gift(room, 20_001, "a-3", 40)),
        to(20_003, gift(room, 20_001, "a-4", 1)),
    ];
    let outcomes = ledger.pay_gifts(&gifts, NOW).await.unwrap();
    let short: Vec<(i64, bool)> = outcomes.iter().map(covered).collect();
    assert_eq!(short, [(40, true), (0, false), (40, false), (0, true), (0, false)]);
    assert_eq!((beans(&ledger, 20_002).await, beans(&ledger, 20_003).await, coins(&ledger, 20_001).await), (60, 40, 0));
    assert!(ledger.pay_gifts(&[], NOW).await.unwrap().is_empty());
    adds_up(&ledger).await;
}

pub(super) async fn more_gifts_than_one_transaction_takes_are_paid_in_order(home: Home) {
    let ledger = home.open().await;
    let rooms = [live(&ledger, 30_001).await, live(&ledger, 30_002).await, live(&ledger, 30_003).await];
    // As many senders as gifts fit: every statement is as long as it can be.
    let senders = 300;
    for sender in 0..senders {
        fund(&ledger, 20_000 + sender, 2).await;
    }
    let gifts: Vec<NewGift> = (0..700)
        .map(|turn| {
            let to = UserId(40_000 + turn % 290);
            NewGift { receiver: to, ..gift(rooms[usize::try_from(turn % 3).unwrap()], 20_000 + turn % senders, &format!("a-{turn}"), 1) }
        })
        .collect();
    let outcomes = ledger.pay_gifts(&gifts, NOW).await.unwrap();
    let mut last = BTreeMap::new();
    for (turn, outcome) in outcomes.into_iter().enumerate() {
        if turn < 600 {
            let seq = last.entry(gifts[turn].room).or_insert(0);
            *seq += 1;
            assert_eq!(paid(outcome), PaidGift { what: gifts[turn].clone(), gift_seq: *seq, paid_ms: NOW });
        } else {
            assert_eq!(outcome, GiftOutcome::NotCovered { balance: 0 }, "all had two coins");
        }
    }
    adds_up(&ledger).await;
}

pub(super) async fn gifts_of_a_pk_are_read_apart(home: Home) {
    let ledger = home.open().await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 1_000).await;
    let sides = [None, Some(PkSide::Anchor), None, Some(PkSide::Challenger), Some(PkSide::Anchor)];
    let gifts: Vec<NewGift> =
        sides.iter().enumerate().map(|(turn, side)| NewGift { pk: *side, ..gift(room, 20_001, &format!("a-{turn}"), 10) }).collect();
    ledger.pay_gifts(&gifts, NOW).await.unwrap();
    let read = async |after, limit| {
        let gifts = ledger.pk_gifts(room, after, limit).await.unwrap();
        gifts.iter().map(|gift| (gift.gift_seq, gift.what.pk.unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(read(0, 10).await, [(2, PkSide::Anchor), (4, PkSide::Challenger), (5, PkSide::Anchor)]);
    assert_eq!(read(2, 1).await, [(4, PkSide::Challenger)]);
    assert_eq!(read(5, 10).await, []);
}

pub(super) async fn a_place_in_a_room_that_is_taken_fails_and_changes_nothing(home: Home) {
    let ledger = home.open().await;
    // The only live room: what a statement below means by "the room".
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 1_000).await;
    paid(pay_one(&ledger, gift(room, 20_001, "a-1", 100)).await);
    for (taken, free) in [
        (
            "INSERT INTO t_outbox (room_id, gift_seq, since_time) SELECT id, 2, 0 FROM t_living_room",
            "DELETE FROM t_outbox WHERE gift_seq = 2",
        ),
        (
            "INSERT INTO t_account_trade (kind, ref_a, ref_b, side, app_id, account_kind, user_id, amount, trade_time) \
             SELECT 1, id, 2, 1, 1, 1, 1, 1, 0 FROM t_living_room",
            "DELETE FROM t_account_trade WHERE kind = 1 AND ref_b = 2",
        ),
    ] {
        sql(&ledger, taken).await;
        let failed = ledger.pay_gifts(&[gift(room, 20_001, "a-2", 100)], NOW).await.unwrap_err();
        assert!(matches!(failed, RecordError::Away { .. }), "{failed:?}");
        assert_eq!((coins(&ledger, 20_001).await, count(&ledger, "t_gift_record").await), (900, 1));
        sql(&ledger, free).await;
    }
    assert_eq!(paid(pay_one(&ledger, gift(room, 20_001, "a-2", 100)).await).gift_seq, 2);
    adds_up(&ledger).await;
}

pub(super) async fn ids_that_differ_in_a_space_or_in_case_are_two(home: Home) {
    let ledger = home.open().await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 1_000).await;
    let ids = ["a", "A", "a ", " a", "\u{e4}", "a\u{308}", "'; DROP TABLE t_account; --", "\\", "%", "😀", &"x".repeat(64)];
    for (turn, id) in ids.iter().enumerate() {
        let gift = paid(pay_one(&ledger, NewGift { combo: (*id).to_owned(), ..gift(room, 20_001, id, 1) }).await);
        assert_eq!(gift.gift_seq, i64::try_from(turn).unwrap() + 1, "{id:?}");
    }
    for id in ids {
        let outcome = pay_one(&ledger, gift(room, 20_001, id, 1)).await;
        assert!(matches!(&outcome, GiftOutcome::Repeated(gift) if gift.what.uuid == id && gift.what.combo == id), "{outcome:?}");
    }
}

pub(super) async fn what_is_no_gift_is_refused(home: Home) {
    let ledger = home.open().await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 1_000).await;
    let right = gift(room, 20_001, "a-1", 100);
    for wrong in [
        NewGift { num: 0, ..right.clone() },
        NewGift { num: -1, ..right.clone() },
        NewGift { num: 10_000, ..right.clone() },
        NewGift { price: 0, ..right.clone() },
        NewGift { price: -100, ..right.clone() },
        NewGift { price: i64::MIN, num: -1, ..right.clone() },
        NewGift { uuid: String::new(), ..right.clone() },
        NewGift { uuid: "x".repeat(65), ..right.clone() },
        NewGift { combo: "x".repeat(65), ..right.clone() },
    ] {
        let refused = ledger.pay_gifts(&[right.clone(), wrong.clone()], NOW).await.unwrap_err();
        assert!(matches!(refused, RecordError::Unreadable { .. }), "{wrong:?}: {refused:?}");
    }
    assert_eq!((coins(&ledger, 20_001).await, count(&ledger, "t_gift_record").await), (1_000, 0));
    // The most that is one.
    fund(&ledger, 20_001, 9_999).await;
    paid(pay_one(&ledger, NewGift { num: 9_999, ..gift(room, 20_001, "a-1", 1) }).await);
}

pub(super) async fn the_catalogue_is_there_from_the_start_and_can_be_changed(home: Home) {
    let ledger = home.open().await;
    let there = ledger.gifts().await.unwrap();
    let prices: Vec<i64> = there.iter().map(|gift| gift.price).collect();
    assert!(prices.iter().all(|price| (1..=10_000).contains(price)) && prices.contains(&200), "{prices:?}");
    assert!(there.is_sorted_by_key(|gift| gift.gift) && there.len() >= 5);
    let new =
        Gift { gift: GiftId(100), name: "Дракон 龙".to_owned(), price: 8_888, cover: "c.png".to_owned(), url: "d.svga".to_owned() };
    ledger.put_gift(&new).await.unwrap();
    ledger.put_gift(&Gift { price: 9_999, ..new.clone() }).await.unwrap();
    ledger.remove_gift(GiftId(1)).await.unwrap();
    ledger.remove_gift(GiftId(1)).await.unwrap();
    ledger.close().await;
    let ledger = home.open().await;
    let now = ledger.gifts().await.unwrap();
    assert_eq!(now.len(), there.len());
    assert_eq!((now[0].gift, now.last().unwrap()), (there[1].gift, &Gift { price: 9_999, ..new }));
}

/// Rooms and users in every order, from two routers: whatever locks whatever, all must end, and none by being broken off.
pub(super) async fn batches_that_cross_each_other_all_end_and_lose_nothing(home: Home) {
    const USERS: i64 = 12;
    /// As many as there are connections.
    const CALLS: i64 = 16;
    let routers = [home.open().await, home.open().await];
    let mut rooms = Vec::new();
    for anchor in 0..6 {
        rooms.push(live(&routers[0], 30_001 + anchor).await);
    }
    for user in 0..USERS / 2 {
        fund(&routers[0], 20_000 + user, 100_000).await;
    }
    // What all of them take out of the outbox.
    let told: Vec<(RoomId, i64)> = rooms.iter().rev().flat_map(|room| (1..=20).map(|seq| (*room, seq))).collect();
    for room in &rooms {
        let first: Vec<NewGift> = (0..20).map(|turn| gift(*room, 20_000, &format!("first {} {turn}", room.0), 1)).collect();
        routers[0].pay_gifts(&first, NOW).await.unwrap();
    }
    let before = deadlocks(&home, &routers[0]).await;
    let mut calls = JoinSet::new();
    for call in 0..CALLS {
        let ledger = routers[usize::try_from(call % 2).unwrap()].clone();
        let gifts: Vec<NewGift> = (0..20_i64)
            .map(|turn| {
                let mixed = call * 7 + turn * 5;
                // Two rooms a call: some meet in both, some in one, some only at the accounts.
                let room = rooms[usize::try_from((call + turn % 2 * 2) % 6).unwrap()];
                // Half of the receivers have no account yet.
                let receiver = UserId(20_000 + (mixed + 3) % USERS);
                NewGift { receiver, ..gift(room, 20_000 + mixed % (USERS / 2), &format!("{call} {turn}"), 1) }
            })
            .collect();
        let told = told.clone();
        calls.spawn(async move {
            let outcomes = ledger.pay(&gifts, &told, NOW, ledger.call_timeout * 10).await.unwrap();
            assert!(outcomes.iter().all(|outcome| matches!(outcome, GiftOutcome::Paid { .. })), "{outcomes:?}");
        });
    }
    while let Some(ended) = calls.join_next().await {
        ended.unwrap();
    }
    assert_eq!(deadlocks(&home, &routers[0]).await, before, "they wait for each other in one order");
    assert_eq!(count(&routers[0], "t_gift_record").await, (CALLS + 6) * 20);
    assert_eq!(count(&routers[0], "t_outbox").await, CALLS * 20);
    adds_up(&routers[1]).await;
}

pub(super) async fn gifts_that_meet_closings_and_new_owners_never_fail(home: Home) {
    let routers = [home.open().await, home.open().await];
    fund(&routers[0], 20_001, 1_000_000).await;
    for round in 0..5 {
        let (one, two) = (live(&routers[0], 30_001).await, live(&routers[0], 30_002).await);
        let mut calls = JoinSet::new();
        for turn in 0..8 {
            let ledger = routers[turn % 2].clone();
            let gifts = [one, two, one].map(|room| gift(room, 20_001, &format!("{round} {turn} {}", room.0), 1));
            calls.spawn(async move {
                for outcome in ledger.pay_gifts(&gifts, NOW).await.unwrap() {
                    let may_be =
                        matches!(outcome, GiftOutcome::Paid { .. } | GiftOutcome::Repeated(_) | GiftOutcome::Fenced | GiftOutcome::NoRoom);
                    assert!(may_be, "{outcome:?}");
                }
            });
        }
        let ledger = routers[1].clone();
        calls.spawn(async move {
            ledger.raise_epoch(two).await.unwrap();
            ledger.close_room(one, NOW + 1).await.unwrap().unwrap();
        });
        while let Some(ended) = calls.join_next().await {
            ended.unwrap();
        }
        let (paid, closed) = (routers[0].last_gift(one).await.unwrap(), pay_one(&routers[0], gift(one, 20_001, "late", 1)).await);
        assert_eq!((paid, closed), (routers[0].last_gift(one).await.unwrap(), GiftOutcome::NoRoom), "nothing comes after the end");
        routers[0].close_room(two, NOW + 1).await.unwrap();
    }
    adds_up(&routers[0]).await;
}

/// What the sender has then, and whether it was paid now.
fn covered(outcome: &GiftOutcome) -> (i64, bool) {
    match outcome {
        GiftOutcome::Paid { balance, .. } => (*balance, true),
        GiftOutcome::NotCovered { balance } => (*balance, false),
        GiftOutcome::Repeated(_) | GiftOutcome::Conflict | GiftOutcome::NoRoom | GiftOutcome::Fenced => panic!("{outcome:?}"),
    }
}

/// What the ledger is in short.
#[derive(Default)]
struct Model {
    coins: BTreeMap<i64, i64>,
    beans: BTreeMap<i64, i64>,
    /// Epoch and last gift of those that are live.
    rooms: BTreeMap<RoomId, (u64, i64)>,
    paid: BTreeMap<(i64, String), PaidGift>,
    untold: BTreeSet<(RoomId, i64)>,
}

impl Model {
    fn pay(&mut self, gift: &NewGift) -> GiftOutcome {
        let key = (gift.sender.0, gift.uuid.clone());
        if let Some(there) = self.paid.get(&key) {
            let before = &there.what;
            let is_same = before.room == gift.room && before.receiver == gift.receiver && before.num == gift.num;
            return if is_same { GiftOutcome::Repeated(there.clone()) } else { GiftOutcome::Conflict };
        }
        let Some((epoch, last)) = self.rooms.get_mut(&gift.room) else { return GiftOutcome::NoRoom };
        if *epoch != gift.epoch {
            return GiftOutcome::Fenced;
        }
        let coins = self.coins.entry(gift.sender.0).or_default();
        if *coins < gift.price * gift.num {
            return GiftOutcome::NotCovered { balance: *coins };
        }
        *coins -= gift.price * gift.num;
        *self.beans.entry(gift.receiver.0).or_default() += gift.price * gift.num;
        *last += 1;
        let paid = PaidGift { what: gift.clone(), gift_seq: *last, paid_ms: NOW };
        self.untold.insert((gift.room, *last));
        self.paid.insert(key, paid.clone());
        GiftOutcome::Paid { gift: paid, balance: *coins }
    }
}

/// One thing that happens; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Pay(Vec<Wish>),
    Recharge { user: i64, coins: i64 },
    NewOwner(usize),
    Close(usize),
    Tell(usize),
}

#[derive(Clone, Debug)]
struct Wish {
    sender: i64,
    receiver: i64,
    room: usize,
    uuid: u8,
    num: i64,
    price: i64,
    is_stale: bool,
}

fn any_step() -> impl Strategy<Value = Step> {
    let wish = (0..4_i64, 0..5_i64, 0..3_usize, 0..40_u8, 1..3_i64, 1..30_i64, prop::bool::weighted(0.1))
        .prop_map(|(sender, receiver, room, uuid, num, price, is_stale)| Wish { sender, receiver, room, uuid, num, price, is_stale });
    proptest::prop_oneof![
        6 => prop::collection::vec(wish, 1..20).prop_map(Step::Pay),
        2 => (0..4_i64, 1..100_i64).prop_map(|(user, coins)| Step::Recharge { user, coins }),
        1 => (0..3_usize).prop_map(Step::NewOwner),
        1 => (0..3_usize).prop_map(Step::Close),
        1 => (0..3_usize).prop_map(Step::Tell),
    ]
}

pub(super) async fn random_batches_do_what_a_simple_model_does(home: Home) {
    let ledger = home.open().await;
    let cases = match home.kind {
        Kind::File => 48,
        Kind::Server => 12,
    };
    let runtime = tokio::runtime::Handle::current();
    let histories = prop::collection::vec(any_step(), 1..20);
    tokio::task::spawn_blocking(move || {
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        // Each history has an app of its own: no other knows its users.
        let app = std::cell::Cell::new(20_000);
        runner
            .run(&histories, |steps| {
                app.set(app.get() + 1);
                runtime.block_on(as_the_model(&ledger, AppId(app.get()), steps))
            })
            .unwrap();
        runtime.block_on(adds_up(&ledger));
    })
    .await
    .unwrap();
}

async fn as_the_model(ledger: &Ledger, app: AppId, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    let mut rooms = Vec::new();
    for anchor in 0..3 {
        let new = crate::services::ports::NewRoom { app, ..super::new_room(anchor) };
        let crate::services::ports::OpenOutcome::Opened(room) = ledger.open_room(&new, NOW).await.unwrap() else { panic!("live already") };
        rooms.push(room.room);
        model.rooms.insert(room.room, (0, 0));
    }
    for step in steps {
        match step {
            Step::Pay(wishes) => {
                let gifts: Vec<NewGift> = wishes
                    .into_iter()
                    .map(|wish| {
                        let room = rooms[wish.room];
                        let epoch = model.rooms.get(&room).map_or(0, |(epoch, _)| *epoch) + u64::from(wish.is_stale);
                        NewGift {
                            app,
                            epoch,
                            num: wish.num,
                            receiver: UserId(wish.receiver),
                            ..gift(room, wish.sender, &format!("u{}", wish.uuid), wish.price)
                        }
                    })
                    .collect();
                let expected: Vec<GiftOutcome> = gifts.iter().map(|gift| model.pay(gift)).collect();
                proptest::prop_assert_eq!(ledger.pay_gifts(&gifts, NOW).await.unwrap(), expected);
            }
            Step::Recharge { user, coins } => {
                fund_in(ledger, app, user, coins).await;
                *model.coins.entry(user).or_default() += coins;
            }
            Step::NewOwner(room) => {
                let raised = ledger.raise_epoch(rooms[room]).await.unwrap();
                let expected = model.rooms.get_mut(&rooms[room]).map(|(epoch, _)| {
                    *epoch += 1;
                    *epoch
                });
                proptest::prop_assert_eq!(raised, expected);
            }
            Step::Close(room) => {
                ledger.close_room(rooms[room], NOW + 1).await.unwrap();
                model.rooms.remove(&rooms[room]);
            }
            Step::Tell(room) => {
                let untold: Vec<(RoomId, i64)> =
                    ledger.untold(rooms[room], 1_000).await.unwrap().iter().map(|gift| (gift.what.room, gift.gift_seq)).collect();
                let expected: Vec<(RoomId, i64)> = model.untold.iter().copied().filter(|(of, _)| *of == rooms[room]).collect();
                proptest::prop_assert_eq!(&untold, &expected);
                ledger.told(&untold).await.unwrap();
                model.untold.retain(|(of, _)| *of != rooms[room]);
            }
        }
    }
    for user in 0..5 {
        let expected = Balance { coins: model.coins.get(&user).copied().unwrap_or(0), beans: model.beans.get(&user).copied().unwrap_or(0) };
        proptest::prop_assert_eq!(ledger.balance(app, UserId(user)).await.unwrap(), expected);
    }
    // Its rooms are nobody's next time.
    for room in rooms {
        ledger.close_room(room, NOW + 1).await.unwrap();
    }
    Ok(())
}
