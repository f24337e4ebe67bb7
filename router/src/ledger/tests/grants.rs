//! Coins that the operator gives.

use super::{APP, Home, NOW};
use crate::services::ports::money::{Balance, Grant, GrantOutcome, Money};
use billfish_state::UserId;

fn grant(user: i64, coins: i64, uuid: &str) -> Grant {
    Grant { app: APP, user: UserId(user), coins, uuid: uuid.to_owned() }
}

const fn given(balance: i64) -> GrantOutcome {
    GrantOutcome::Given { balance }
}

pub(super) async fn a_grant_is_given_once_and_comes_from_the_source(home: Home) {
    let ledger = home.open().await;
    let grants = [grant(20_001, 100, "a"), grant(20_002, 7, "a"), grant(20_001, 5, "b"), grant(20_001, 5, "b")];
    assert_eq!(ledger.grant(&grants, NOW).await.unwrap(), [given(105), given(7), given(105), given(105)], "one of them stands twice");
    assert_eq!(ledger.grant(&grants, NOW + 86_400_000).await.unwrap(), [given(105), given(7), given(105), given(105)]);
    assert_eq!(ledger.balance(APP, UserId(20_001)).await.unwrap(), Balance { coins: 105, beans: 0 });
    let mixed = [grant(20_003, 1, "a"), grant(20_001, 101, "a")];
    assert_eq!(ledger.grant(&mixed, NOW).await.unwrap(), [given(0), GrantOutcome::Conflict], "all or none");
    assert_eq!(ledger.balance(APP, UserId(20_003)).await.unwrap(), Balance::default());
    assert!(ledger.grant(&[grant(20_001, 0, "c")], NOW).await.is_err());
    let many: Vec<Grant> = (0..1_000).map(|user| grant(30_000 + user, user + 1, "many")).collect();
    assert_eq!(ledger.grant(&many, NOW).await.unwrap().last(), Some(&given(1_000)));
    let found = ledger.reconcile(NOW + 1).await.unwrap();
    assert!(found.findings.is_empty(), "{:?}", found.findings);
}

pub(super) async fn the_same_grants_at_once_on_two_routers_are_given_once(home: Home) {
    let routers = [home.open().await, home.open().await];
    let mut calls = tokio::task::JoinSet::new();
    for turn in 0..20 {
        let ledger = routers[turn % 2].clone();
        let own = format!("own-{turn}");
        calls.spawn(async move { ledger.grant(&[grant(20_001, 10, "same"), grant(20_001, 1, &own)], NOW).await });
    }
    // One that others overtook too often says so, and may be asked again.
    for (turn, outcome) in calls.join_all().await.into_iter().enumerate() {
        if outcome.is_err() {
            routers[turn % 2].grant(&[grant(20_001, 10, "same")], NOW).await.unwrap();
        }
    }
    for turn in 0..20 {
        routers[0].grant(&[grant(20_001, 10, "same"), grant(20_001, 1, &format!("own-{turn}"))], NOW).await.unwrap();
    }
    assert_eq!(routers[1].balance(APP, UserId(20_001)).await.unwrap().coins, 30);
    let found = routers[0].reconcile(NOW + 1).await.unwrap();
    assert!(found.findings.is_empty(), "{:?}", found.findings);
}
