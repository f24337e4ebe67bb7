//! Which PK is on in which room.

use super::{Home, NOW, count, open};
use crate::services::ports::{BeginPk, PkRecord, RoomRecords};
use billfish_state::{RoomId, UserId};

const CHALLENGER: UserId = UserId(20_009);
const OTHER: UserId = UserId(20_010);

pub(super) async fn a_room_has_one_challenger_and_only_he_ends_his_pk(home: Home) {
    let ledger = home.open().await;
    let room = open(&ledger, 30_001, NOW).await.room;
    let epoch = ledger.raise_epoch(room).await.unwrap().unwrap();
    assert_eq!(ledger.pk(room).await.unwrap(), None);
    let pk = PkRecord { challenger: CHALLENGER, since_seq: 0 };
    assert_eq!(ledger.begin_pk(room, epoch, CHALLENGER, NOW).await.unwrap(), BeginPk::Begun(pk));
    assert_eq!(ledger.begin_pk(room, epoch, OTHER, NOW).await.unwrap(), BeginPk::Taken(pk));
    assert_eq!(ledger.begin_pk(room, epoch, CHALLENGER, NOW).await.unwrap(), BeginPk::Taken(pk), "his own seat, again");
    assert!(!ledger.end_pk(room, epoch, OTHER, NOW).await.unwrap());
    assert_eq!(home.open().await.pk(room).await.unwrap(), Some(pk), "another router reads the same");
    assert!(ledger.end_pk(room, epoch, CHALLENGER, NOW).await.unwrap());
    assert!(!ledger.end_pk(room, epoch, CHALLENGER, NOW).await.unwrap());
    assert!(matches!(ledger.begin_pk(room, epoch, OTHER, NOW).await.unwrap(), BeginPk::Begun(_)));
}

pub(super) async fn a_pk_is_begun_by_the_owner_of_a_live_room_and_goes_with_the_room(home: Home) {
    let ledger = home.open().await;
    let room = open(&ledger, 30_001, NOW).await.room;
    let old = ledger.raise_epoch(room).await.unwrap().unwrap();
    let new = ledger.raise_epoch(room).await.unwrap().unwrap();
    assert_eq!(ledger.begin_pk(room, old, CHALLENGER, NOW).await.unwrap(), BeginPk::Fenced);
    assert!(matches!(ledger.begin_pk(room, new, CHALLENGER, NOW).await.unwrap(), BeginPk::Begun(_)));
    assert!(!ledger.end_pk(room, old, CHALLENGER, NOW).await.unwrap(), "a former owner ends nobody's");
    assert!(ledger.pk(room).await.unwrap().is_some());
    ledger.close_room(room, NOW + 1).await.unwrap();
    assert_eq!(count(&ledger, "t_room_pk").await, 0);
    assert_eq!(ledger.begin_pk(room, new, CHALLENGER, NOW).await.unwrap(), BeginPk::NoRoom);
    assert_eq!(ledger.begin_pk(RoomId(room.0 + 1), 1, CHALLENGER, NOW).await.unwrap(), BeginPk::NoRoom);
}

pub(super) async fn of_thirty_who_challenge_at_once_on_two_routers_one_has_the_seat(home: Home) {
    let routers = [home.open().await, home.open().await];
    let room = open(&routers[0], 30_001, NOW).await.room;
    let epoch = routers[0].raise_epoch(room).await.unwrap().unwrap();
    let mut tries = tokio::task::JoinSet::new();
    for turn in 0..30 {
        let ledger = routers[turn % 2].clone();
        let challenger = UserId(20_001 + i64::try_from(turn).unwrap());
        tries.spawn(async move { ledger.begin_pk(room, epoch, challenger, NOW).await.unwrap() });
    }
    let outcomes = tries.join_all().await;
    let begun: Vec<&PkRecord> =
        outcomes.iter().filter_map(|outcome| if let BeginPk::Begun(pk) = outcome { Some(pk) } else { None }).collect();
    assert_eq!(begun.len(), 1, "{outcomes:?}");
    let taken = |outcome: &&BeginPk| **outcome == BeginPk::Taken(*begun[0]);
    assert_eq!(outcomes.iter().filter(taken).count(), 29);
}
