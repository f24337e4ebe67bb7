//! Phones, tags, sequences.

use super::{APP, Home, NOW, sql};
use crate::{
    ledger::Ledger,
    services::ports::{
        RecordError,
        people::{People, Segment, Tags},
    },
};
use billfish_state::{AppId, UserId};
use std::collections::BTreeSet;
use tokio::task::JoinSet;

const PHONE: &str = "8613800138000";
const ELSEWHERE: AppId = AppId(10_002);

pub(super) async fn a_phone_has_one_user_in_each_app_and_keeps_it(home: Home) {
    let ledger = home.open().await;
    assert_eq!(ledger.user_of_phone(APP, PHONE).await.unwrap(), None);
    assert_eq!(ledger.add_user(APP, PHONE, UserId(20_001), NOW).await.unwrap(), UserId(20_001));
    assert_eq!(ledger.add_user(APP, PHONE, UserId(20_002), NOW).await.unwrap(), UserId(20_001), "it has one already");
    assert_eq!(ledger.add_user(ELSEWHERE, PHONE, UserId(20_001), NOW).await.unwrap(), UserId(20_001));
    ledger.close().await;
    drop(ledger);
    let ledger = home.open().await;
    assert_eq!(ledger.user_of_phone(APP, PHONE).await.unwrap(), Some(UserId(20_001)));
    assert_eq!(ledger.user_of_phone(APP, "8613800138001").await.unwrap(), None);
}

pub(super) async fn an_id_is_given_to_one_phone(home: Home) {
    let ledger = home.open().await;
    ledger.add_user(APP, PHONE, UserId(20_001), NOW).await.unwrap();
    let error = ledger.add_user(APP, "8613800138001", UserId(20_001), NOW).await.unwrap_err();
    assert!(matches!(&error, RecordError::Unreadable { what } if what.contains("20001")), "{error}");
    assert_eq!(ledger.user_of_phone(APP, "8613800138001").await.unwrap(), None);
}

pub(super) async fn of_fifty_first_logins_on_two_routers_all_get_one_user(home: Home) {
    let routers = [home.open().await, home.open().await];
    let mut logins = JoinSet::new();
    for login in 0..50 {
        let ledger = routers[login % 2].clone();
        logins.spawn(async move { ledger.add_user(APP, PHONE, UserId(20_000 + login as i64), NOW).await.unwrap() });
    }
    let users: BTreeSet<UserId> = logins.join_all().await.into_iter().collect();
    assert_eq!(users.len(), 1, "{users:?}");
    assert_eq!(routers[0].user_of_phone(APP, PHONE).await.unwrap(), users.first().copied());
}

pub(super) async fn segments_follow_each_other_and_the_step_is_the_rows(home: Home) {
    let ledger = home.open().await;
    let first = ledger.take_segment("user").await.unwrap().unwrap();
    assert_eq!((first.from, first.to), (1_000_000, 1_000_999));
    sql(&ledger, "UPDATE sequence_id_generator SET step = 5 WHERE name = 'user'").await;
    let next = ledger.take_segment("user").await.unwrap().unwrap();
    assert_eq!(next, Segment { from: first.to + 1, to: first.to + 5 });
    let order = ledger.take_segment("order").await.unwrap().unwrap();
    assert_eq!(order.from, 1_000_000, "sequences do not share their ids");
    ledger.close().await;
    drop(ledger);
    assert_eq!(home.open().await.take_segment("user").await.unwrap().unwrap().from, next.to + 1, "also after a restart");
}

pub(super) async fn no_two_routers_get_the_same_segment_and_who_is_slower_gets_none(home: Home) {
    let routers = [home.open().await, home.open().await];
    let mut takers = JoinSet::new();
    for taker in 0..40 {
        let ledger = routers[taker % 2].clone();
        takers.spawn(async move { ledger.take_segment("user").await.unwrap() });
    }
    let taken: Vec<Segment> = takers.join_all().await.into_iter().flatten().collect();
    let distinct: BTreeSet<i64> = taken.iter().map(|segment| segment.from).collect();
    assert!(!taken.is_empty() && distinct.len() == taken.len(), "{taken:?}");
    // None was skipped: who got none has taken nothing.
    let last = distinct.last().unwrap();
    assert_eq!(i64::try_from(taken.len()).unwrap(), (last - 1_000_000) / 1_000 + 1);
}

pub(super) async fn a_sequence_that_cannot_be_is_named(home: Home) {
    let ledger = home.open().await;
    for (statement, named) in [
        ("UPDATE sequence_id_generator SET step = 0 WHERE name = 'user'", "step"),
        ("UPDATE sequence_id_generator SET step = 10, next_id = 9007199254740983 WHERE name = 'user'", "used up"),
        ("DELETE FROM sequence_id_generator WHERE name = 'user'", "no row"),
    ] {
        sql(&ledger, statement).await;
        let error = ledger.take_segment("user").await.unwrap_err().to_string();
        assert!(error.contains("user") && error.contains(named), "{error}");
    }
    sql(&ledger, "INSERT INTO sequence_id_generator (name, next_id, step, version) VALUES ('user', 9007199254740982, 10, 0)").await;
    assert_eq!(ledger.take_segment("user").await.unwrap().unwrap().to, 9_007_199_254_740_991, "the last ones");
}

pub(super) async fn tags_are_set_and_lifted_and_others_stay(home: Home) {
    const OTHER: Tags = Tags(1 << 40);
    let ledger = home.open().await;
    let user = UserId(20_001);
    let change = async |set, lift| ledger.change_tags(APP, user, set, lift).await.unwrap();
    assert_eq!(ledger.tags(APP, user).await.unwrap(), Tags::default());
    assert_eq!(change(Tags::default(), Tags::VIP).await, Tags::default());
    assert_eq!(change(Tags::VIP, Tags::default()).await, Tags::VIP);
    assert_eq!(change(Tags::VIP, Tags::default()).await, Tags::VIP, "again is the same");
    assert_eq!(change(OTHER, Tags::default()).await, Tags(Tags::VIP.0 | OTHER.0));
    assert_eq!(change(Tags::default(), Tags::VIP).await, OTHER);
    assert_eq!(ledger.tags(APP, user).await.unwrap(), OTHER);
    assert_eq!(ledger.tags(ELSEWHERE, user).await.unwrap(), Tags::default());
}

pub(super) async fn tags_that_are_changed_at_once_are_all_there(home: Home) {
    let routers = [home.open().await, home.open().await];
    let mut changes = JoinSet::new();
    for bit in 0..30 {
        let ledger: Ledger = routers[bit % 2].clone();
        changes.spawn(async move { ledger.change_tags(APP, UserId(20_001), Tags(1 << bit), Tags::default()).await.unwrap() });
    }
    changes.join_all().await;
    assert_eq!(routers[0].tags(APP, UserId(20_001)).await.unwrap(), Tags((1 << 30) - 1));
}
