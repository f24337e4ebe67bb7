//! Rooms, moderation and profiles.

use super::{APP, Home, Kind, NOW, count, new_room, open, sql};
use crate::services::ports::{Moderation, NewRoom, OpenOutcome, Profile, RoomKind, RoomRecord, RoomRecords, Sanction};
use billfish_state::{AppId, RoomId, UserId};

pub(super) async fn a_room_that_was_confirmed_is_there_after_a_restart_and_its_id_is_not_used_again(home: Home) {
    let ledger = home.open().await;
    let first = open(&ledger, 30_001, NOW).await;
    let second = open(&ledger, 30_002, NOW).await;
    assert_eq!(ledger.close_room(second.room, NOW + 5).await.unwrap(), Some(second.clone()));
    ledger.close().await;
    drop(ledger);

    let ledger = home.open().await;
    assert_eq!(ledger.live_room(first.room).await.unwrap(), Some(first));
    assert_eq!(ledger.live_room(second.room).await.unwrap(), None);
    assert!(open(&ledger, 30_003, NOW).await.room > second.room);
}

pub(super) async fn an_anchor_has_one_live_room_in_an_app(home: Home) {
    let ledger = home.open().await;
    let room = open(&ledger, 30_001, NOW).await;
    assert_eq!(ledger.open_room(&new_room(30_001), NOW).await.unwrap(), OpenOutcome::AlreadyLive(room.room));
    let elsewhere = NewRoom { app: AppId(10_002), ..new_room(30_001) };
    assert!(matches!(ledger.open_room(&elsewhere, NOW).await.unwrap(), OpenOutcome::Opened(_)));
    ledger.close_room(room.room, NOW).await.unwrap();
    assert!(open(&ledger, 30_001, NOW).await.room > room.room);
}

pub(super) async fn of_fifty_openings_at_once_one_wins(home: Home) {
    let ledger = home.open().await;
    let attempts: Vec<_> = (0..50)
        .map(|_| {
            let ledger = ledger.clone();
            tokio::spawn(async move { ledger.open_room(&new_room(30_001), NOW).await.unwrap() })
        })
        .collect();
    let (mut opened, mut refused) = (Vec::new(), Vec::new());
    for attempt in attempts {
        match attempt.await.unwrap() {
            OpenOutcome::Opened(room) => opened.push(room.room),
            OpenOutcome::AlreadyLive(room) => refused.push(room),
        }
    }
    assert_eq!((opened.len(), refused.len()), (1, 49));
    assert!(refused.iter().all(|room| *room == opened[0]));
}

pub(super) async fn a_closed_room_moves_to_the_records_with_its_end_and_takes_its_moderation_along(home: Home) {
    let ledger = home.open().await;
    let room = open(&ledger, 30_001, NOW).await.room;
    ledger.put_sanction(room, UserId(20_001), Sanction::Ban, NOW + 1_000).await.unwrap();
    ledger.set_slow_mode(room, 3_000).await.unwrap();
    ledger.set_room_block_words(room, &["spoiler".to_owned()]).await.unwrap();
    assert!(ledger.close_room(room, NOW + 60_000).await.unwrap().is_some());
    assert_eq!(ledger.close_room(room, NOW + 61_000).await.unwrap(), None);

    let kept: Vec<(i64, i64, i64, i64, i64)> =
        ledger.rows("a test", "SELECT id, anchor_id, status, start_time, end_time FROM t_living_room_record", &[]).await.unwrap();
    assert_eq!(kept, [(room.0, 30_001, 0, NOW as i64, NOW as i64 + 60_000)]);
    for table in ["t_living_room", "t_room_moderation", "t_room_setting", "t_block_word"] {
        assert_eq!(count(&ledger, table).await, 0, "{table}");
    }
    // A mute that comes too late leaves nothing behind.
    ledger.put_sanction(room, UserId(20_001), Sanction::Mute, NOW + 70_000).await.unwrap();
    ledger.set_slow_mode(room, 1_000).await.unwrap();
    ledger.set_room_block_words(room, &["late".to_owned()]).await.unwrap();
    for table in ["t_room_moderation", "t_room_setting", "t_block_word"] {
        assert_eq!(count(&ledger, table).await, 0, "{table}");
    }
}

pub(super) async fn a_closing_that_fails_half_way_changes_nothing(home: Home) {
    let ledger = home.open().await;
    let room = open(&ledger, 30_001, NOW).await;
    ledger.set_slow_mode(room.room, 3_000).await.unwrap();
    let full = match home.kind {
        Kind::File => "CREATE TRIGGER disk_full BEFORE DELETE ON t_room_setting BEGIN SELECT RAISE(ABORT, 'disk full'); END",
        Kind::Server => {
            "CREATE TRIGGER disk_full BEFORE DELETE ON t_room_setting FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'disk full'"
        }
    };
    sql(&ledger, full).await;
    assert!(ledger.close_room(room.room, NOW + 1).await.is_err());
    assert_eq!(ledger.live_room(room.room).await.unwrap(), Some(room.clone()));
    assert_eq!(count(&ledger, "t_living_room_record").await, 0);
    sql(&ledger, "DROP TRIGGER disk_full").await;
    assert!(ledger.close_room(room.room, NOW + 2).await.unwrap().is_some());
}

pub(super) async fn the_list_is_of_one_kind_newest_first_and_bounded(home: Home) {
    let ledger = home.open().await;
    for (anchor, started) in [(30_001, NOW), (30_002, NOW + 2), (30_003, NOW + 2), (30_004, NOW + 1)] {
        open(&ledger, anchor, started).await;
    }
    let pk = NewRoom { kind: RoomKind::Pk, ..new_room(30_005) };
    ledger.open_room(&pk, NOW + 9).await.unwrap();
    let anchors = |rooms: Vec<RoomRecord>| rooms.into_iter().map(|room| room.anchor.0).collect::<Vec<_>>();
    assert_eq!(anchors(ledger.live_rooms(RoomKind::Normal, 10).await.unwrap()), [30_003, 30_002, 30_004, 30_001]);
    assert_eq!(anchors(ledger.live_rooms(RoomKind::Normal, 2).await.unwrap()), [30_003, 30_002]);
    assert_eq!(anchors(ledger.live_rooms(RoomKind::Pk, 10).await.unwrap()), [30_005]);
}

pub(super) async fn no_two_owners_of_a_room_get_the_same_epoch(home: Home) {
    let ledger = home.open().await;
    let room = open(&ledger, 30_001, NOW).await.room;
    let owners: Vec<_> = (0..20)
        .map(|_| {
            let ledger = ledger.clone();
            tokio::spawn(async move { ledger.raise_epoch(room).await.unwrap().unwrap() })
        })
        .collect();
    let mut epochs = Vec::new();
    for owner in owners {
        epochs.push(owner.await.unwrap());
    }
    epochs.sort_unstable();
    assert_eq!(epochs, (1..=20).collect::<Vec<u64>>());
    ledger.close().await;
    drop(ledger);
    let ledger = home.open().await;
    assert_eq!(ledger.raise_epoch(room).await.unwrap(), Some(21));
    ledger.close_room(room, NOW).await.unwrap();
    assert_eq!(ledger.raise_epoch(room).await.unwrap(), None);
}

pub(super) async fn sanctions_stand_until_they_run_out_or_are_lifted(home: Home) {
    let ledger = home.open().await;
    let room = open(&ledger, 30_001, NOW).await.room;
    let (alice, bob) = (UserId(20_001), UserId(20_002));
    ledger.put_sanction(room, alice, Sanction::Mute, NOW + 1_000).await.unwrap();
    ledger.put_sanction(room, alice, Sanction::Mute, NOW + 5_000).await.unwrap();
    ledger.put_sanction(room, alice, Sanction::Ban, NOW + 2_000).await.unwrap();
    ledger.put_sanction(room, bob, Sanction::Ban, NOW + 3_000).await.unwrap();
    ledger.set_slow_mode(room, 2_500).await.unwrap();

    let now = ledger.moderation(room, NOW).await.unwrap();
    assert_eq!(now.mutes, [(alice, NOW + 5_000)]);
    assert_eq!(now.bans, [(alice, NOW + 2_000), (bob, NOW + 3_000)]);
    assert_eq!(now.slow_mode_ms, 2_500);

    ledger.lift_sanction(room, bob, Sanction::Ban).await.unwrap();
    ledger.lift_sanction(room, bob, Sanction::Ban).await.unwrap();
    let later = ledger.moderation(room, NOW + 2_000).await.unwrap();
    assert_eq!((later.mutes.len(), later.bans.len()), (1, 0));
    assert_eq!(ledger.moderation(RoomId(99), NOW).await.unwrap(), Moderation::default());
}

pub(super) async fn block_lists_are_replaced_whole_and_kept_apart(home: Home) {
    let ledger = home.open().await;
    let room = open(&ledger, 30_001, NOW).await.room;
    let words = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    ledger.set_block_words(&words(&["casino", "赌博", "casino"])).await.unwrap();
    ledger.set_room_block_words(room, &words(&["spoiler"])).await.unwrap();
    assert_eq!(ledger.block_words().await.unwrap(), ["casino", "赌博"]);
    assert_eq!(ledger.moderation(room, NOW).await.unwrap().block_words, ["spoiler"]);
    ledger.set_block_words(&[]).await.unwrap();
    assert_eq!(ledger.block_words().await.unwrap(), Vec::<String>::new());
    assert_eq!(ledger.moderation(room, NOW).await.unwrap().block_words, ["spoiler"]);
}

pub(super) async fn profiles_are_replaced_and_read_in_batches(home: Home) {
    let ledger = home.open().await;
    let profile = |user: i64, name: &str| Profile { user: UserId(user), name: name.to_owned(), avatar: "a.png".to_owned() };
    let many: Vec<Profile> = (20_000..21_200).map(|user| profile(user, "viewer")).collect();
    ledger.put_profiles(APP, &many).await.unwrap();
    ledger.put_profiles(APP, &[profile(20_000, "Robert'); DROP TABLE t_user;--")]).await.unwrap();
    let users: Vec<UserId> = (19_999..21_200).map(UserId).collect();
    let found = ledger.profiles(APP, &users).await.unwrap();
    assert_eq!(found.len(), 1_200);
    assert!(found.contains(&profile(20_000, "Robert'); DROP TABLE t_user;--")));
    assert_eq!(ledger.profiles(AppId(10_002), &users).await.unwrap(), []);
    assert_eq!(ledger.profiles(APP, &[]).await.unwrap(), []);
}

pub(super) async fn a_row_that_none_of_us_wrote_is_named(home: Home) {
    let ledger = home.open().await;
    let room = open(&ledger, 30_001, NOW).await.room;
    sql(&ledger, "UPDATE t_living_room SET type = 7").await;
    let error = ledger.live_room(room).await.unwrap_err();
    assert!(error.to_string().contains(&format!("room {room} is 7")), "{error}");
}

pub(super) async fn what_people_write_comes_back_as_it_was(home: Home) {
    let ledger = home.open().await;
    let name = "直播 🐟 O'Neill \\ \"quoted\" \u{10ffff} ".to_owned();
    let room = NewRoom { name: name.clone(), cover: "é".repeat(256), ..new_room(30_001) };
    let OpenOutcome::Opened(opened) = ledger.open_room(&room, NOW).await.unwrap() else { panic!("already live") };
    let found = ledger.live_room(opened.room).await.unwrap().unwrap();
    assert_eq!((found.name, found.cover), (name.clone(), room.cover));
    // Words that differ in case, an accent or a space at the end are different words.
    let words: Vec<String> = ["Casino", "casino", "casino ", "casinó", "🐟"].map(str::to_owned).into();
    ledger.set_room_block_words(opened.room, &words).await.unwrap();
    assert_eq!(ledger.moderation(opened.room, NOW).await.unwrap().block_words, words);
    ledger.set_block_words(&words).await.unwrap();
    assert_eq!(ledger.block_words().await.unwrap(), words);
    let profile = Profile { user: UserId(20_001), name, avatar: String::new() };
    ledger.put_profiles(APP, std::slice::from_ref(&profile)).await.unwrap();
    assert_eq!(ledger.profiles(APP, &[UserId(20_001)]).await.unwrap(), [profile]);
}

pub(super) async fn the_largest_numbers_are_kept(home: Home) {
    let ledger = home.open().await;
    let room = NewRoom { app: AppId(i32::MAX), ..new_room(i64::MAX) };
    let OpenOutcome::Opened(opened) = ledger.open_room(&room, i64::MAX as u64).await.unwrap() else { panic!("already live") };
    assert_eq!(ledger.live_room(opened.room).await.unwrap(), Some(opened.clone()));
    ledger.put_sanction(opened.room, UserId(i64::MAX), Sanction::Ban, u64::MAX).await.unwrap();
    assert_eq!(ledger.moderation(opened.room, NOW).await.unwrap().bans, [(UserId(i64::MAX), i64::MAX as u64)]);
}

/// An HTTP call whose client has gone is dropped wherever it is.
pub(super) async fn a_call_that_is_given_up_in_the_middle_changes_nothing_and_holds_nobody_up(home: Home) {
    let ledger = home.open().await;
    let room = open(&ledger, 30_001, NOW).await;
    for _ in 0..20 {
        let mut call = ledger.transaction("a test").await.unwrap();
        call.plain("UPDATE t_living_room SET epoch = epoch + 100").await.unwrap();
        drop(call);
    }
    assert_eq!(ledger.raise_epoch(room.room).await.unwrap(), Some(1));
}
