//! Recharges.

use super::{APP, Home, NOW, adds_up, coins, count, order};
use crate::services::ports::{
    RecordError,
    money::{Money, OrderState, PayOutcome, Product, ProductId, RechargeOrder},
};
use billfish_state::{AppId, UserId};
use tokio::task::JoinSet;

pub(super) async fn an_order_is_credited_once_however_often_its_payment_is_told(home: Home) {
    let routers = [home.open().await, home.open().await];
    let order = order(20_001, 60);
    routers[0].add_order(&order).await.unwrap();
    assert_eq!(routers[1].order(order.order).await.unwrap(), Some(order.clone()));
    let mut calls = JoinSet::new();
    for turn in 0..20 {
        let ledger = routers[turn % 2].clone();
        let id = order.order;
        calls.spawn(async move { ledger.pay_order(id, "pay 1", 600, "CNY", NOW + 5).await.unwrap() });
    }
    let paid = RechargeOrder { state: OrderState::Paid, payment: "pay 1".to_owned(), ..order.clone() };
    let mut credited = 0;
    while let Some(outcome) = calls.join_next().await {
        match outcome.unwrap() {
            PayOutcome::Credited(order) => {
                assert_eq!(order, paid);
                credited += 1;
            }
            PayOutcome::Repeated(order) => assert_eq!(order, paid),
            refused @ (PayOutcome::Conflict | PayOutcome::NoOrder) => panic!("{refused:?}"),
        }
    }
    assert_eq!((credited, coins(&routers[0], 20_001).await), (1, 60));
    for ledger in &routers {
        ledger.close().await;
    }
    let ledger = home.open().await;
    assert_eq!(ledger.pay_order(order.order, "pay 1", 600, "CNY", NOW + 9).await.unwrap(), PayOutcome::Repeated(paid.clone()));
    assert_eq!((ledger.order(order.order).await.unwrap(), coins(&ledger, 20_001).await), (Some(paid), 60));
    // Told again by its maker, who has not heard: it stays paid.
    ledger.add_order(&order).await.unwrap();
    assert_eq!(ledger.order(order.order).await.unwrap().unwrap().state, OrderState::Paid);
    adds_up(&ledger).await;
}

pub(super) async fn another_payment_sum_or_currency_is_a_conflict(home: Home) {
    let ledger = home.open().await;
    let order = order(20_001, 60);
    ledger.add_order(&order).await.unwrap();
    let id = order.order;
    assert_eq!(ledger.pay_order(id + 1_000_000, "pay 1", 600, "CNY", NOW).await.unwrap(), PayOutcome::NoOrder);
    let too_long = "x".repeat(256);
    for (payment, price, currency) in
        [("pay 1", 599, "CNY"), ("pay 1", 600, "USD"), ("pay 1", -600, "CNY"), ("", 600, "CNY"), (&too_long, 600, "CNY")]
    {
        assert_eq!(
            ledger.pay_order(id, payment, price, currency, NOW).await.unwrap(),
            PayOutcome::Conflict,
            "{payment} {price} {currency}"
        );
    }
    assert_eq!((coins(&ledger, 20_001).await, ledger.order(id).await.unwrap()), (0, Some(order)));
    assert!(matches!(ledger.pay_order(id, "pay 1", 600, "CNY", NOW).await.unwrap(), PayOutcome::Credited(_)));
    for (payment, price) in [("pay 2", 600), ("pay 1 ", 600), ("Pay 1", 600), ("pay 1", 601)] {
        assert_eq!(ledger.pay_order(id, payment, price, "CNY", NOW).await.unwrap(), PayOutcome::Conflict, "{payment} {price}");
    }
    assert_eq!(coins(&ledger, 20_001).await, 60);
    adds_up(&ledger).await;
}

pub(super) async fn one_payment_pays_one_order(home: Home) {
    let routers = [home.open().await, home.open().await];
    for round in 0..5 {
        let orders = [order(20_001, 60), order(20_002, 60)];
        let payment = format!("pay {round}");
        let mut calls = JoinSet::new();
        for (ledger, order) in routers.iter().zip(&orders) {
            ledger.add_order(order).await.unwrap();
        }
        for (ledger, order) in routers.iter().cloned().zip(orders) {
            let payment = payment.clone();
            calls.spawn(async move { ledger.pay_order(order.order, &payment, 600, "CNY", NOW).await.unwrap() });
        }
        let mut outcomes = Vec::new();
        while let Some(outcome) = calls.join_next().await {
            outcomes.push(matches!(outcome.unwrap(), PayOutcome::Credited(_)));
        }
        outcomes.sort_unstable();
        assert_eq!(outcomes, [false, true]);
    }
    assert_eq!(coins(&routers[0], 20_001).await + coins(&routers[0], 20_002).await, 5 * 60);
    adds_up(&routers[0]).await;
}

pub(super) async fn an_order_is_stored_once_and_its_id_is_no_others(home: Home) {
    let ledger = home.open().await;
    let order = order(20_001, 60);
    assert_eq!(ledger.order(order.order).await.unwrap(), None);
    for _ in 0..3 {
        ledger.add_order(&order).await.unwrap();
    }
    for other in [
        RechargeOrder { user: UserId(20_002), ..order.clone() },
        RechargeOrder { app: AppId(1), ..order.clone() },
        RechargeOrder { coins: 61, ..order.clone() },
        RechargeOrder { price_minor: 601, ..order.clone() },
        RechargeOrder { product: ProductId(2), ..order.clone() },
        RechargeOrder { currency: "USD".to_owned(), ..order.clone() },
        RechargeOrder { order: order.order + 1_000_000, coins: 0, ..order.clone() },
        RechargeOrder { order: order.order + 1_000_000, price_minor: -1, ..order.clone() },
    ] {
        let refused = ledger.add_order(&other).await.unwrap_err();
        assert!(matches!(refused, RecordError::Unreadable { .. }), "{other:?}: {refused:?}");
    }
    assert_eq!((ledger.order(order.order).await.unwrap(), count(&ledger, "t_recharge_order").await), (Some(order), 1));
}

pub(super) async fn coins_that_an_account_cannot_hold_are_not_credited(home: Home) {
    let ledger = home.open().await;
    let (most, more) = (order(20_001, i64::MAX), order(20_001, 1));
    ledger.add_order(&most).await.unwrap();
    ledger.add_order(&more).await.unwrap();
    assert!(matches!(ledger.pay_order(most.order, "pay 1", 600, "CNY", NOW).await.unwrap(), PayOutcome::Credited(_)));
    let refused = ledger.pay_order(more.order, "pay 2", 600, "CNY", NOW).await.unwrap_err();
    assert!(matches!(refused, RecordError::Unreadable { .. }), "{refused:?}");
    assert_eq!((coins(&ledger, 20_001).await, ledger.order(more.order).await.unwrap()), (i64::MAX, Some(more)));
    assert_eq!(ledger.balance(APP, UserId(0)).await.unwrap().coins, 0, "where they come from is nobody's wallet");
    adds_up(&ledger).await;
}

pub(super) async fn the_products_are_there_from_the_start_and_can_be_changed(home: Home) {
    let ledger = home.open().await;
    let there = ledger.products().await.unwrap();
    assert!(there.len() >= 3 && there.iter().all(|product| product.coins >= 1 && product.price_minor >= 1 && product.currency == "CNY"));
    let new = Product { product: ProductId(100), name: "礼包".to_owned(), price_minor: 1, currency: "EUR".to_owned(), coins: 7 };
    ledger.put_product(&Product { coins: 6, ..new.clone() }).await.unwrap();
    ledger.put_product(&new).await.unwrap();
    let now = ledger.products().await.unwrap();
    assert_eq!((now.len(), now.last().unwrap()), (there.len() + 1, &new));
}
