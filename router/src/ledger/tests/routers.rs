//! Two routers with one ledger, at once.

use super::{APP, Home, NOW, count, new_room, open};
use crate::{
    ledger::Ledger,
    services::ports::{OpenOutcome, Profile, Result, RoomRecords, Sanction},
};
use billfish_state::{RoomId, UserId};
use std::future::Future;

pub(super) async fn of_fifty_openings_on_two_routers_one_wins(home: Home) {
    let routers = [home.open().await, home.open().await];
    let outcomes = at_once(&routers, 25, |ledger, _| async move { ledger.open_room(&new_room(30_001), NOW).await }).await;
    let (mut opened, mut refused) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            OpenOutcome::Opened(room) => opened.push(room.room),
            OpenOutcome::AlreadyLive(room) => refused.push(room),
        }
    }
    assert_eq!((opened.len(), refused.len()), (1, 49));
    assert!(refused.iter().all(|room| *room == opened[0]));
}

pub(super) async fn openings_and_closings_of_one_anchor_at_once_never_fail_and_never_make_two(home: Home) {
    let routers = [home.open().await, home.open().await];
    let closed = at_once(&routers, 4, |ledger, _| async move {
        let mut closed = Vec::new();
        for _ in 0..15 {
            let room = match ledger.open_room(&new_room(30_001), NOW).await? {
                OpenOutcome::Opened(room) => room.room,
                OpenOutcome::AlreadyLive(room) => room,
            };
            assert!(count(&ledger, "t_living_room").await <= 1);
            closed.extend(ledger.close_room(room, NOW + 1).await?.map(|room| room.room));
        }
        Ok(closed)
    })
    .await;
    let mut closed: Vec<RoomId> = closed.into_iter().flatten().collect();
    let closings = closed.len();
    closed.sort_unstable();
    closed.dedup();
    assert_eq!(closed.len(), closings, "a room was closed twice");
    assert_eq!(count(&routers[0], "t_living_room_record").await, i64::try_from(closings).unwrap());
}

pub(super) async fn no_two_owners_on_two_routers_get_the_same_epoch(home: Home) {
    let routers = [home.open().await, home.open().await];
    let room = open(&routers[0], 30_001, NOW).await.room;
    let mut epochs = at_once(&routers, 20, |ledger, _| async move { ledger.raise_epoch(room).await.map(Option::unwrap) }).await;
    epochs.sort_unstable();
    assert_eq!(epochs, (1..=40).collect::<Vec<u64>>());
}

pub(super) async fn of_closings_at_once_one_gives_the_room(home: Home) {
    let routers = [home.open().await, home.open().await];
    let room = open(&routers[0], 30_001, NOW).await;
    let outcomes = at_once(&routers, 10, |ledger, _| async move { ledger.close_room(room.room, NOW + 1).await }).await;
    assert_eq!(outcomes.into_iter().flatten().count(), 1);
}

pub(super) async fn an_order_that_meets_the_closing_leaves_nothing_behind(home: Home) {
    let routers = [home.open().await, home.open().await];
    for anchor in 30_001..30_021 {
        let room = open(&routers[0], anchor, NOW).await.room;
        let words = vec!["late".to_owned(), "later".to_owned()];
        at_once(&routers, 4, |ledger, turn| {
            let words = words.clone();
            async move {
                match turn {
                    0 => ledger.put_sanction(room, UserId(20_001), Sanction::Mute, NOW + 70_000).await,
                    1 => ledger.set_slow_mode(room, 1_000).await,
                    2 => ledger.set_room_block_words(room, &words).await,
                    _ => ledger.close_room(room, NOW + 1).await.map(drop),
                }
            }
        })
        .await;
    }
    for table in ["t_living_room", "t_room_moderation", "t_room_setting", "t_block_word"] {
        assert_eq!(count(&routers[1], table).await, 0, "{table}");
    }
}

pub(super) async fn of_block_lists_that_come_at_once_one_stays(home: Home) {
    let routers = [home.open().await, home.open().await];
    let room = open(&routers[0], 30_001, NOW).await.room;
    let list = |turn: usize| (0..30).map(|word| format!("{word}-of-{turn}")).collect::<Vec<_>>();
    for _ in 0..5 {
        at_once(&routers, 4, |ledger, turn| async move {
            ledger.set_block_words(&list(turn)).await?;
            ledger.set_room_block_words(room, &list(turn)).await
        })
        .await;
        for mut found in [routers[0].block_words().await.unwrap(), routers[1].moderation(room, NOW).await.unwrap().block_words] {
            found.sort_unstable();
            let mut lists = (0..4).map(|turn| {
                let mut words = list(turn);
                words.sort_unstable();
                words
            });
            assert!(lists.any(|words| words == found), "{found:?}");
        }
    }
}

pub(super) async fn profiles_that_come_at_once_in_any_order_are_all_stored(home: Home) {
    let routers = [home.open().await, home.open().await];
    let stored = |turn: usize| {
        let profile = |user| Profile { user: UserId(user), name: format!("by {turn}"), avatar: String::new() };
        let mut profiles: Vec<Profile> = (20_000..20_300).map(profile).collect();
        if turn % 2 == 1 {
            profiles.reverse();
        }
        profiles
    };
    at_once(&routers, 6, |ledger, turn| async move { ledger.put_profiles(APP, &stored(turn)).await }).await;
    let users: Vec<UserId> = (20_000..20_300).map(UserId).collect();
    let found = routers[1].profiles(APP, &users).await.unwrap();
    assert_eq!(found.len(), 300);
    assert!(found.iter().all(|profile| profile.name == found[0].name), "one call stored them all");
}

pub(super) async fn what_one_router_was_told_the_other_reads(home: Home) {
    let (one, other) = (home.open().await, home.open().await);
    let room = open(&one, 30_001, NOW).await;
    assert_eq!(other.live_room(room.room).await.unwrap(), Some(room.clone()));
    assert_eq!(other.open_room(&new_room(30_001), NOW).await.unwrap(), OpenOutcome::AlreadyLive(room.room));
    other.close_room(room.room, NOW + 1).await.unwrap();
    assert_eq!(one.live_room(room.room).await.unwrap(), None);
    assert_eq!(one.raise_epoch(room.room).await.unwrap(), None);
}

pub(super) async fn routers_that_start_at_once_make_the_tables_once(home: Home) {
    let home = std::sync::Arc::new(home);
    let starts: Vec<_> = (0..6)
        .map(|_| {
            let home = home.clone();
            tokio::spawn(async move { home.open().await })
        })
        .collect();
    let mut routers = Vec::new();
    for start in starts {
        routers.push(start.await.unwrap());
    }
    let room = open(&routers[0], 30_001, NOW).await;
    for router in &routers {
        assert_eq!(router.live_room(room.room).await.unwrap(), Some(room.clone()));
    }
}

/// Runs `times` calls on each router, all at once. Each hears its turn, and none may fail.
async fn at_once<T, F>(routers: &[Ledger], times: usize, call: impl Fn(Ledger, usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let calls: Vec<_> = (0..times).flat_map(|turn| routers.iter().map(move |ledger| (ledger.clone(), turn))).collect();
    let running: Vec<_> = calls.into_iter().map(|(ledger, turn)| tokio::spawn(call(ledger, turn))).collect();
    let mut answers = Vec::new();
    for one in running {
        answers.push(one.await.unwrap().unwrap());
    }
    answers
}
