//! Webhooks in the records: what is written with what, for whom, and what becomes of it.

use super::{APP, Home, NOW, coins, count, fund, fund_in, gift, live, new_room, open, pay_one, sql};
use crate::{
    ledger::{
        Ledger,
        database::statements_of_thread,
        webhooks::{Claim, GIVEN_UP_MAX, HOOKS_MAX, Hook, HookEvent, NewHook, ROWS_PER_MOVE, ROWS_PER_TURN, Settled},
    },
    services::ports::{
        BeginPk, NewRoom, OpenOutcome, RoomKind, RoomRecords,
        money::{GiftOutcome, Money, NewGift, PkSide},
    },
    webhooks::event::{EventKind, EventKinds, Lane, NewEvent},
};
use billfish_state::{AppId, RoomId, UserId};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tokio::task::JoinSet;

const OTHER_APP: AppId = AppId(10_002);
const MANY: usize = 1_000;

/// A hook for some kinds of events.
pub(super) fn new_hook(app: AppId, kinds: &[EventKind]) -> NewHook {
    let (url, secret) = ("http://127.0.0.1:1/".to_owned(), "a secret between us".to_owned());
    NewHook { app, url, events: EventKinds::of(kinds.iter().copied()), secret }
}

async fn hook(ledger: &Ledger, app: AppId, kinds: &[EventKind]) -> Hook {
    ledger.add_hook(&new_hook(app, kinds), 64, NOW).await.unwrap().expect("there is room")
}

/// All that waits for a hook, lane by lane.
async fn waiting(ledger: &Ledger, hook: &Hook) -> Vec<HookEvent> {
    let mut events = Vec::new();
    for lane in ledger.due_lanes(hook.id, u64::MAX, MANY).await.unwrap() {
        events.extend(ledger.events_of(hook.id, lane, MANY).await.unwrap());
    }
    events
}

fn ids(events: &[HookEvent]) -> Vec<&str> {
    events.iter().map(|event| event.id.as_str()).collect()
}

fn user_event(user: i64, at_ms: u64) -> NewEvent {
    NewEvent::user(APP, UserId(user), true, at_ms, 1)
}

pub(super) async fn what_happens_is_written_with_it_in_its_order_and_for_whom_it_concerns(home: Home) {
    let ledger = home.open().await;
    let early = live(&ledger, 30_009).await;
    fund(&ledger, 20_001, 1_000).await;
    pay_one(&ledger, gift(early, 20_001, "before", 1)).await;
    assert_eq!(count(&ledger, "t_webhook_event").await, 0, "nobody wants anything");
    let all = hook(&ledger, APP, &EventKind::ALL).await;
    let gifts = hook(&ledger, APP, &[EventKind::GiftPaid]).await;
    let others = hook(&ledger, OTHER_APP, &EventKind::ALL).await;
    let room = NewRoom { kind: RoomKind::Pk, ..new_room(30_001) };
    let OpenOutcome::Opened(record) = ledger.open_room(&room, NOW).await.unwrap() else { panic!("no room") };
    let room = record.room;
    assert_eq!(ledger.raise_epoch(room).await.unwrap(), Some(1));
    pay_one(&ledger, gift(room, 20_001, "a", 5)).await;
    assert!(matches!(ledger.begin_pk(room, 1, UserId(20_009), NOW + 5).await.unwrap(), BeginPk::Begun(_)));
    let for_anchor = NewGift { pk: Some(PkSide::Anchor), num: 2, ..gift(room, 20_001, "b", 100) };
    pay_one(&ledger, for_anchor).await;
    assert!(ledger.end_pk(room, 1, UserId(20_009), NOW + 9).await.unwrap());
    assert!(ledger.close_room(room, NOW + 10).await.unwrap().is_some());
    ledger.write_events(vec![user_event(20_001, NOW)]).await.unwrap();

    let told = waiting(&ledger, &all).await;
    let expected = [
        format!("room-{room}-opened"),
        format!("gift-{room}-1"),
        format!("gift-{room}-2"),
        format!("pk-{room}-20009-{}", NOW + 5),
        format!("room-{room}-closed"),
        format!("user-10001-20001-online-{NOW}-1"),
    ];
    assert_eq!(ids(&told), expected);
    assert_eq!(told.iter().map(|event| event.lane.0).collect::<Vec<_>>(), [room.0, room.0, room.0, room.0, room.0, -20_001]);
    let ended: Value = serde_json::from_str(&told[3].body).unwrap();
    let data = json!({
        "roomId": room.0, "anchorId": 30001, "challengerId": 20009, "startTime": NOW + 5, "endTime": NOW + 9, "bar": 70,
        "winnerId": null, "anchorBeans": 200, "challengerBeans": 0, "roomClosed": false
    });
    assert_eq!((ended["data"].clone(), ended["time"].clone()), (data, json!(NOW + 9)));
    assert_eq!(ids(&waiting(&ledger, &gifts).await), [format!("gift-{room}-1"), format!("gift-{room}-2")]);
    assert_eq!(ids(&waiting(&ledger, &others).await), [""; 0]);
    // Another router, which has read the hooks once, tells as well.
    let other = home.open().await;
    let room = live(&other, 30_002).await;
    assert_eq!(ids(&waiting(&other, &all).await).last().copied(), Some(format!("room-{room}-opened")).as_deref());
}

pub(super) async fn nothing_is_told_of_what_did_not_happen(home: Home) {
    let ledger = home.open().await;
    hook(&ledger, APP, &[EventKind::GiftPaid, EventKind::RoomClosed, EventKind::PkEnded]).await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 10).await;
    assert!(matches!(pay_one(&ledger, gift(room, 20_001, "a", 11)).await, GiftOutcome::NotCovered { .. }));
    pay_one(&ledger, gift(room, 20_001, "b", 1)).await;
    assert_eq!(count(&ledger, "t_webhook_event").await, 1);
    assert!(matches!(pay_one(&ledger, gift(room, 20_001, "b", 1)).await, GiftOutcome::Repeated(_)));
    assert!(matches!(pay_one(&ledger, NewGift { epoch: 9, ..gift(room, 20_001, "c", 1) }).await, GiftOutcome::Fenced));
    assert!(!ledger.end_pk(room, 1, UserId(20_009), NOW).await.unwrap());
    assert_eq!(ledger.close_room(RoomId(room.0 + 1), NOW).await.unwrap(), None);
    assert_eq!(count(&ledger, "t_webhook_event").await, 1);
    // A place that is taken makes the transaction fail, and the event goes with it.
    sql(
        &ledger,
        "INSERT INTO t_account_trade (kind, ref_a, ref_b, side, app_id, account_kind, user_id, amount, trade_time) \
         SELECT 1, room_id, 2, 0, 10001, 1, 20001, -1, 0 FROM t_gift_record",
    )
    .await;
    assert!(ledger.pay_gifts(&[gift(room, 20_001, "d", 1)], NOW).await.is_err());
    assert_eq!((count(&ledger, "t_webhook_event").await, coins(&ledger, 20_001).await), (1, 9));
}

pub(super) async fn a_pk_that_goes_with_its_room_is_told_before_the_room_with_its_bar_and_beans(home: Home) {
    let ledger = home.open().await;
    let hook = hook(&ledger, APP, &[EventKind::RoomClosed, EventKind::PkEnded]).await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 1_000_000).await;
    pay_one(&ledger, gift(room, 20_001, "before", 7)).await;
    ledger.begin_pk(room, 1, UserId(20_009), NOW).await.unwrap();
    // More than one page of them, up and down, and over in the end.
    let gifts: Vec<NewGift> = (0..600)
        .map(|turn| {
            let (side, price) = if turn % 2 == 0 { (PkSide::Anchor, 40) } else { (PkSide::Challenger, 30) };
            NewGift { pk: Some(side), ..gift(room, 20_001, &format!("pk {turn}"), price) }
        })
        .collect();
    assert!(ledger.pay_gifts(&gifts, NOW).await.unwrap().iter().all(|outcome| matches!(outcome, GiftOutcome::Paid { .. })));
    assert!(ledger.close_room(room, NOW + 1).await.unwrap().is_some());
    let told = waiting(&ledger, &hook).await;
    assert_eq!(ids(&told), [format!("pk-{room}-20009-{NOW}"), format!("room-{room}-closed")]);
    let ended: Value = serde_json::from_str(&told[0].body).unwrap();
    let data = &ended["data"];
    assert_eq!(
        [&data["bar"], &data["winnerId"], &data["anchorBeans"], &data["challengerBeans"], &data["roomClosed"]],
        [&json!(100), &json!(30001), &json!(300 * 40), &json!(300 * 30), &json!(true)]
    );
}

pub(super) async fn a_batch_of_gifts_costs_one_statement_more_where_somebody_wants_them_and_none_where_nobody_does(home: Home) {
    let ledger = home.open().await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 1_000_000).await;
    let cost = async |turn: &str| {
        let gifts: Vec<NewGift> = (0..200).map(|number| gift(room, 20_001, &format!("{turn} {number}"), 1)).collect();
        let before = statements_of_thread();
        let outcomes = ledger.pay_gifts(&gifts, NOW).await.unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, GiftOutcome::Paid { .. })));
        statements_of_thread() - before
    };
    // The first one reads whether there are hooks.
    cost("first").await;
    let plain = cost("plain").await;
    hook(&ledger, APP, &[EventKind::RoomOpened, EventKind::UserOnline]).await;
    hook(&ledger, OTHER_APP, &EventKind::ALL).await;
    assert_eq!(cost("others").await, plain, "nobody wants these");
    hook(&ledger, APP, &[EventKind::GiftPaid]).await;
    assert_eq!(cost("one").await, plain + 1);
    hook(&ledger, APP, &[EventKind::GiftPaid]).await;
    assert_eq!(cost("two").await, plain + 1, "400 rows are one statement");
    assert_eq!(count(&ledger, "t_webhook_event").await, 600);
}

pub(super) async fn beyond_the_bound_events_are_dropped_and_counted_and_gifts_are_paid(home: Home) {
    let ledger = home.open().await;
    ledger.hooks().bound(10);
    let hook = hook(&ledger, APP, &[EventKind::GiftPaid]).await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 1_000).await;
    for turn in 0..5 {
        let gifts: Vec<NewGift> = (0..10).map(|number| gift(room, 20_001, &format!("{turn} {number}"), 1)).collect();
        let outcomes = ledger.pay_gifts(&gifts, NOW).await.unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, GiftOutcome::Paid { .. })));
    }
    assert_eq!((coins(&ledger, 20_001).await, count(&ledger, "t_webhook_event").await), (950, 10));
    let kept = waiting(&ledger, &hook).await;
    assert_eq!(ids(&kept)[9], format!("gift-{room}-10"), "the oldest are kept");
    ledger.report_dropped().await.unwrap();
    ledger.report_dropped().await.unwrap();
    let status = ledger.refresh_hooks().await.unwrap().remove(0).status;
    assert_eq!((status.dropped, ledger.hooks().dropped_total.get()), (40, 40));
    // Room again, as soon as somebody has counted.
    let claim = Claim { holder: "a".to_owned(), life: 1, until_ms: NOW + 1 };
    assert!(ledger.claim_hook(hook.id, &claim, NOW).await.unwrap());
    let settled: Vec<Settled> = kept.iter().map(|event| Settled::Delivered { row: event.row }).collect();
    ledger.settle_events(&settled, NOW).await.unwrap();
    let (waiting, oldest_ms) = ledger.count_events(hook.id, MANY as u64).await.unwrap();
    assert_eq!((waiting, oldest_ms), (0, 0));
    ledger.report_hook(hook.id, &claim, &crate::ledger::webhooks::HookStatus { waiting, delivered_ms: NOW, ..status }).await.unwrap();
    ledger.refresh_hooks().await.unwrap();
    pay_one(&ledger, gift(room, 20_001, "after", 1)).await;
    assert_eq!(count(&ledger, "t_webhook_event").await, 1);
}

pub(super) async fn what_did_not_come_about_takes_no_room_and_what_was_written_keeps_its_own(home: Home) {
    let ledger = home.open().await;
    ledger.hooks().bound(3);
    hook(&ledger, APP, &[EventKind::RoomClosed]).await;
    let room = live(&ledger, 30_001).await;
    sql(
        &ledger,
        "INSERT INTO t_living_room_record (id, app_id, anchor_id, type, room_name, cover_img, status, start_time, end_time) \
         SELECT id, app_id, anchor_id, type, room_name, cover_img, 0, start_time, 0 FROM t_living_room",
    )
    .await;
    for _ in 0..5 {
        assert!(ledger.close_room(room, NOW).await.is_err());
    }
    sql(&ledger, "DELETE FROM t_living_room_record").await;
    assert!(ledger.close_room(room, NOW).await.unwrap().is_some());
    assert_eq!((ledger.hooks().written_total.get(), ledger.hooks().dropped_total.get()), (1, 0));
    // Nobody has counted since.
    for anchor in 30_002..30_006 {
        let room = live(&ledger, anchor).await;
        ledger.refresh_hooks().await.unwrap();
        assert!(ledger.close_room(room, NOW).await.unwrap().is_some());
    }
    assert_eq!((ledger.hooks().written_total.get(), ledger.hooks().dropped_total.get()), (3, 2));
    assert_eq!(count(&ledger, "t_webhook_event").await, 3);
}

pub(super) async fn hooks_are_as_many_as_may_be_also_where_two_routers_register_them_at_once(home: Home) {
    let routers = [home.open().await, home.open().await];
    let mut tries = JoinSet::new();
    for turn in 0..20 {
        let ledger = routers[turn % 2].clone();
        tries.spawn(async move { ledger.add_hook(&new_hook(APP, &[EventKind::GiftPaid]), 3, NOW).await.unwrap().is_some() });
    }
    assert_eq!(tries.join_all().await.into_iter().filter(|made| *made).count(), 3);
    assert_eq!(count(&routers[0], "t_webhook").await, 3);
    assert!(routers[0].add_hook(&new_hook(OTHER_APP, &[EventKind::GiftPaid]), 3, NOW).await.unwrap().is_some(), "each app has its own");
    let hooks = routers[1].refresh_hooks().await.unwrap();
    routers[1].remove_hook(hooks[0].id).await.unwrap();
    routers[1].remove_hook(hooks[0].id).await.unwrap();
    let again = routers[0].add_hook(&new_hook(APP, &[EventKind::GiftPaid]), 3, NOW).await.unwrap().expect("there is room again");
    assert!(again.id > hooks[3].id, "no id is given again");
    assert!(!format!("{again:?}").contains("a secret between us"));
    // Of all apps together.
    for turn in 4..=HOOKS_MAX {
        let app = AppId(20_000 + i32::try_from(turn).unwrap());
        let made = routers[0].add_hook(&new_hook(app, &[EventKind::GiftPaid]), 3, NOW).await.unwrap().is_some();
        assert_eq!(made, turn < HOOKS_MAX, "{turn}");
    }
}

pub(super) async fn of_fifty_openings_that_are_told_one_wins_and_is_told_once(home: Home) {
    let routers = [home.open().await, home.open().await];
    let hook = hook(&routers[0], APP, &[EventKind::RoomOpened]).await;
    routers[1].refresh_hooks().await.unwrap();
    let mut tries = JoinSet::new();
    for turn in 0..50 {
        let ledger = routers[turn % 2].clone();
        tries.spawn(async move { ledger.open_room(&new_room(30_001), NOW).await.unwrap() });
    }
    let outcomes = tries.join_all().await;
    let opened: Vec<RoomId> =
        outcomes.iter().filter_map(|outcome| if let OpenOutcome::Opened(room) = outcome { Some(room.room) } else { None }).collect();
    assert_eq!(opened.len(), 1);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, OpenOutcome::Opened(_)) || *outcome == OpenOutcome::AlreadyLive(opened[0])));
    assert_eq!(ids(&waiting(&routers[0], &hook).await), [format!("room-{}-opened", opened[0])]);
    // It is a room like any other.
    assert_eq!(routers[0].live_room(opened[0]).await.unwrap().unwrap().anchor, UserId(30_001));
    let next = open(&routers[1], 30_002, NOW).await;
    assert_eq!(ids(&waiting(&routers[1], &hook).await)[1], format!("room-{}-opened", next.room));
}

pub(super) async fn a_hook_is_held_by_one_router_until_its_claim_runs_out_or_a_later_life_takes_it(home: Home) {
    let ledger = home.open().await;
    let hook = hook(&ledger, APP, &[EventKind::GiftPaid]).await.id;
    let claim = async |holder: &str, life, now_ms| {
        let claim = Claim { holder: holder.to_owned(), life, until_ms: now_ms + 1_000 };
        ledger.claim_hook(hook, &claim, now_ms).await.unwrap()
    };
    assert!(claim("a", 5, NOW).await);
    assert!(!claim("b", 1, NOW + 999).await, "it is a's");
    assert!(claim("a", 5, NOW + 999).await, "renewed");
    assert!(!claim("b", 1, NOW + 1_998).await);
    assert!(claim("b", 1, NOW + 1_999).await, "it had run out");
    assert!(!claim("a", 5, NOW + 2_000).await);
    assert!(claim("b", 2, NOW + 2_000).await, "a later life takes over at once");
    assert!(!claim("b", 1, NOW + 2_000).await, "and the earlier one has it no more");
    ledger.release_hooks("b", 1).await.unwrap();
    assert!(!claim("a", 5, NOW + 2_001).await, "what an earlier life gives back is not its own");
    ledger.release_hooks("b", 2).await.unwrap();
    assert!(claim("a", 5, NOW + 2_001).await);
    ledger.disable_hook(hook, "gone").await.unwrap();
    assert!(!claim("a", 5, NOW + 2_002).await, "nothing is sent to it");
    let hooks = ledger.refresh_hooks().await.unwrap();
    assert!(!hooks[0].is_active && hooks[0].status.problem == "gone" && !ledger.hooks().is_active(hook));
}

pub(super) async fn what_became_of_events_is_stored_and_lanes_come_up_when_they_are_due(home: Home) {
    let ledger = home.open().await;
    let of = hook(&ledger, APP, &[EventKind::UserOnline]).await;
    let hook = of.id;
    for user in [20_002, 20_001, 20_002, 20_003] {
        ledger.write_events(vec![user_event(user, NOW)]).await.unwrap();
    }
    let lanes = async |now_ms, limit| ledger.due_lanes(hook, now_ms, limit).await.unwrap();
    assert_eq!(lanes(0, MANY).await[0], Lane(-20_002), "it is due also by a clock that was put back since");
    assert_eq!(lanes(NOW, MANY).await, [Lane(-20_002), Lane(-20_001), Lane(-20_003)], "who waits longest comes first");
    assert_eq!(lanes(NOW, 1).await, [Lane(-20_002)]);
    let first = ledger.events_of(hook, Lane(-20_002), MANY).await.unwrap();
    assert_eq!(first.len(), 2);
    let again = Settled::Again { row: first[0].row, tries: 1, due_ms: NOW + 50, problem: "p".repeat(5_000) };
    ledger.settle_events(&[again], NOW).await.unwrap();
    assert_eq!(lanes(NOW + 49, MANY).await, [Lane(-20_001), Lane(-20_003)], "the second of a lane does not pass the first");
    assert_eq!(lanes(NOW + 50, MANY).await[0], Lane(-20_002));
    let again = &ledger.events_of(hook, Lane(-20_002), 1).await.unwrap()[0];
    assert_eq!((again.row, again.tries, &again.body), (first[0].row, 1, &first[0].body));
    let settled = [
        Settled::GivenUp { row: first[0].row, tries: 2, problem: "the receiver answered 500".to_owned() },
        Settled::Delivered { row: first[1].row },
        Settled::Delivered { row: first[1].row + 1_000 },
    ];
    ledger.settle_events(&settled, NOW + 60).await.unwrap();
    // By another router, which had tried the same.
    ledger.settle_events(&settled, NOW + 61).await.unwrap();
    assert_eq!(lanes(u64::MAX, MANY).await, [Lane(-20_001), Lane(-20_003)]);
    let given_up = ledger.given_up_events(hook, i64::MAX, MANY).await.unwrap();
    assert_eq!(given_up.len(), 1);
    let only = &given_up[0];
    assert_eq!((&only.id, &only.body, only.made_ms, only.end_ms, only.tries), (&first[0].id, &first[0].body, NOW, NOW + 60, 2));
    assert_eq!(only.problem, "the receiver answered 500");
    assert_eq!(ledger.given_up_events(hook, only.row, MANY).await.unwrap(), []);
    assert_eq!(ledger.count_events(hook, MANY as u64).await.unwrap(), (2, NOW));
}

pub(super) async fn what_is_too_old_is_given_up_and_what_belongs_to_nobody_is_deleted(home: Home) {
    let ledger = home.open().await;
    let (of, other) = (hook(&ledger, APP, &[EventKind::UserOnline]).await, hook(&ledger, APP, &[EventKind::UserOnline]).await);
    for turn in 0..10 {
        let events = vec![user_event(20_001 + turn, NOW + turn.unsigned_abs()), user_event(20_001, NOW + 100)];
        ledger.write_events(events).await.unwrap();
    }
    let expired = ledger.expire_events(of.id, NOW + 5, &[Lane(-20_002)], NOW + 200).await.unwrap();
    assert_eq!(expired, 4, "five are old enough, and one of them is under way");
    assert_eq!(ledger.expire_events(of.id, NOW + 5, &[Lane(-20_002)], NOW + 200).await.unwrap(), 0);
    let left: BTreeSet<Lane> = waiting(&ledger, &of).await.into_iter().map(|event| event.lane).collect();
    assert!(left.contains(&Lane(-20_002)) && !left.contains(&Lane(-20_003)));
    assert_eq!(ledger.given_up_events(of.id, i64::MAX, MANY).await.unwrap().len(), 4);
    assert_eq!(waiting(&ledger, &other).await.len(), 20, "the other hook's are its own");
    // What was given up before is kept for a while.
    ledger.purge_hooks(NOW + 200).await.unwrap();
    assert_eq!(count(&ledger, "t_webhook_given_up").await, 4);
    ledger.purge_hooks(NOW + 201).await.unwrap();
    assert_eq!(count(&ledger, "t_webhook_given_up").await, 0);
    ledger.expire_events(other.id, u64::MAX, &[], NOW + 300).await.unwrap();
    ledger.remove_hook(other.id).await.unwrap();
    ledger.purge_hooks(0).await.unwrap();
    assert_eq!((count(&ledger, "t_webhook_given_up").await, count(&ledger, "t_webhook_event").await), (0, 16));
    ledger.remove_hook(of.id).await.unwrap();
    while ledger.purge_hooks(0).await.unwrap() {}
    assert_eq!((count(&ledger, "t_webhook_event").await, count(&ledger, "t_webhook").await), (0, 0));
    // Nobody is there to be told.
    ledger.write_events(vec![user_event(20_001, NOW)]).await.unwrap();
    fund_in(&ledger, APP, 20_001, 1).await;
    assert_eq!(count(&ledger, "t_webhook_event").await, 0);
}

pub(super) async fn what_a_later_version_has_written_fails_no_gift_and_is_left_to_it(home: Home) {
    let ledger = home.open().await;
    let of = hook(&ledger, APP, &[EventKind::GiftPaid, EventKind::RoomOpened]).await;
    for _ in 0..2 {
        hook(&ledger, APP, &[EventKind::GiftPaid, EventKind::RoomOpened]).await;
    }
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 100).await;
    assert_eq!(count(&ledger, "t_webhook_event").await, 3);
    sql(&ledger, "UPDATE t_webhook SET state = 3 WHERE id = 2").await;
    sql(&ledger, "UPDATE t_webhook SET made_time = -1 WHERE id = 3").await;
    sql(&ledger, "UPDATE t_webhook_event SET kind = 4096 WHERE hook_id = 1").await;
    // One that reads the hooks for the first time.
    let ledger = home.open().await;
    assert!(matches!(pay_one(&ledger, gift(room, 20_001, "a", 1)).await, GiftOutcome::Paid { .. }));
    live(&ledger, 30_002).await;
    assert_eq!(count(&ledger, "t_webhook_event").await, 5, "nothing is written for hooks that cannot be read");
    let told = waiting(&ledger, &of).await;
    assert_eq!(told.iter().map(|event| event.name()).collect::<Vec<_>>(), ["room.opened", "gift.paid", "room.opened"]);
    assert_eq!(told[0].kind, None);
    let hooks = ledger.refresh_hooks().await.unwrap();
    assert_eq!(
        hooks.iter().map(|hook| (hook.id.0, hook.is_active, hook.is_gone)).collect::<Vec<_>>(),
        [(1, true, false), (2, false, false)]
    );
    ledger.purge_hooks(0).await.unwrap();
    assert_eq!(count(&ledger, "t_webhook_event").await, 5, "they are there, though not for this one");
    // Given up, it is not listed by who does not know it, nor in anybody's way.
    ledger.expire_events(of.id, u64::MAX, &[], NOW).await.unwrap();
    let given_up = ledger.given_up_events(of.id, i64::MAX, MANY).await.unwrap();
    assert_eq!(given_up.len(), 2);
}

pub(super) async fn of_what_waits_for_a_receiver_that_is_gone_as_many_as_are_kept_are_given_up(home: Home) {
    let ledger = home.open().await;
    let of = hook(&ledger, APP, &[EventKind::UserOnline]).await;
    let (beyond, kept) = (ROWS_PER_TURN + 7, usize::try_from(GIVEN_UP_MAX).unwrap());
    // The last ones are of the lanes that come first.
    let users: Vec<i64> = (20_001..).take(beyond + kept).collect();
    assert_eq!(ledger.last_beyond_kept(of.id).await.unwrap(), None);
    for users in users.chunks(MANY) {
        ledger.write_events(users.iter().map(|user| user_event(*user, NOW)).collect()).await.unwrap();
    }
    let last = ledger.last_beyond_kept(of.id).await.unwrap().expect("there are too many");
    assert_eq!(ledger.delete_waiting(of.id, last).await.unwrap(), ROWS_PER_TURN);
    assert_eq!(ledger.delete_waiting(of.id, last).await.unwrap(), 7);
    assert_eq!(ledger.delete_waiting(of.id, last).await.unwrap(), 0);
    assert_eq!(ledger.last_beyond_kept(of.id).await.unwrap(), None);
    assert_eq!(count(&ledger, "t_webhook_event").await, GIVEN_UP_MAX);
    let first = ledger.due_lanes(of.id, NOW, 1).await.unwrap();
    assert_eq!(first, [Lane(-users[beyond])], "the oldest are gone");
    // Giving up a row costs no statement of its own.
    let before = statements_of_thread();
    assert_eq!(ledger.expire_events(of.id, u64::MAX, &[], NOW).await.unwrap(), ROWS_PER_MOVE);
    assert!(statements_of_thread() - before <= 5, "{}", statements_of_thread() - before);
    assert_eq!(count(&ledger, "t_webhook_given_up").await, 100);
}

pub(super) async fn a_reading_that_comes_late_makes_no_hook_forgotten(home: Home) {
    let ledger = home.open().await;
    let reading = ledger.hooks().begin_reading();
    let found = ledger.refresh_hooks().await.unwrap();
    let of = hook(&ledger, APP, &[EventKind::GiftPaid]).await;
    ledger.hooks().set(reading, &found);
    assert!(ledger.hooks().is_active(of.id) && ledger.hooks().wants(APP, EventKind::GiftPaid));
}
