//! [`billfish_state::Members`].

use super::*;
use billfish_state::port::MEMBERS_KEPT_MS;
use billfish_state::{DeviceKind, Member, Members, RoomId};
use std::collections::{BTreeMap, BTreeSet};

const ROOM: RoomId = RoomId(1);
/// Pages after which a scan must have ended.
const PAGES_MAX: usize = 10_000;

fn member(user: i64, device: DeviceKind) -> Member {
    Member { user: UserId(user), device }
}

fn on_ios(ids: impl IntoIterator<Item = i64>) -> Vec<Member> {
    ids.into_iter().map(|id| member(id, DeviceKind::Ios)).collect()
}

/// A whole scan, with something done before each page.
async fn scan(members: &dyn Members, limit: usize, mut between: impl AsyncFnMut(usize)) -> BTreeSet<UserId> {
    let mut met = BTreeSet::new();
    let mut cursor = 0;
    for number in 0..PAGES_MAX {
        between(number).await;
        let page = members.page(APP, ROOM, cursor, limit).await.unwrap();
        met.extend(page.users);
        cursor = page.cursor;
        if cursor == 0 {
            return met;
        }
    }
    panic!("the scan does not end");
}

pub(crate) async fn a_user_counts_once_whatever_the_devices<S: Store>() {
    let members = S::fresh().await.members;
    let both = [member(1, DeviceKind::Ios), member(1, DeviceKind::Web)];
    assert_eq!(members.join(APP, ROOM, &both, at(0)).await.unwrap(), 1);
    assert_eq!(members.join(APP, ROOM, &on_ios([2]), at(0)).await.unwrap(), 2);
    assert_eq!(members.leave(APP, ROOM, &both[..1], at(0)).await.unwrap(), 2, "one device is still there");
    assert_eq!(members.contains(APP, ROOM, &users([3, 1, 2])).await.unwrap(), [false, true, true]);
    assert_eq!(members.leave(APP, ROOM, &both[1..], at(0)).await.unwrap(), 1);
    assert_eq!(members.contains(APP, ROOM, &users([3, 1, 2])).await.unwrap(), [false, false, true]);
    assert_eq!(members.count(APP, ROOM).await.unwrap(), 1);
}

pub(crate) async fn joining_and_leaving_again_changes_nothing<S: Store>() {
    let members = S::fresh().await.members;
    for _ in 0..2 {
        assert_eq!(members.join(APP, ROOM, &on_ios([1, 2, 1]), at(0)).await.unwrap(), 2);
    }
    for _ in 0..2 {
        assert_eq!(members.leave(APP, ROOM, &on_ios([1, 9]), at(0)).await.unwrap(), 1);
    }
    assert_eq!(members.leave(APP, ROOM, &on_ios([2]), at(0)).await.unwrap(), 0);
    assert_eq!(members.leave(APP, RoomId(9), &on_ios([2]), at(0)).await.unwrap(), 0);
    assert_eq!(members.join(APP, ROOM, &[], at(0)).await.unwrap(), 0);
}

pub(crate) async fn rooms_and_apps_are_apart<S: Store>() {
    let members = S::fresh().await.members;
    members.join(APP, ROOM, &on_ios([1]), at(0)).await.unwrap();
    members.join(OTHER_APP, ROOM, &on_ios([2]), at(0)).await.unwrap();
    members.join(APP, RoomId(2), &on_ios([3]), at(0)).await.unwrap();
    assert_eq!(members.contains(APP, ROOM, &users([1, 2, 3])).await.unwrap(), [true, false, false]);
    members.remove(OTHER_APP, ROOM).await.unwrap();
    assert_eq!(members.count(APP, ROOM).await.unwrap(), 1);
    assert_eq!(members.count(OTHER_APP, ROOM).await.unwrap(), 0);
}

pub(crate) async fn a_scan_meets_everyone<S: Store>() {
    let members = S::fresh().await.members;
    let ids = (0..1000).map(|id| id * 7919 - 1_000_000).chain([i64::MIN, i64::MAX, 0, -1]);
    let everyone: BTreeSet<UserId> = ids.map(UserId).collect();
    members.join(APP, ROOM, &on_ios(everyone.iter().map(|user| user.0)), at(0)).await.unwrap();
    for limit in [1, 7, 100, 5000] {
        assert_eq!(scan(&*members, limit, async |_| {}).await, everyone, "by {limit}");
    }
    assert_eq!(members.page(APP, RoomId(2), 0, 10).await.unwrap(), billfish_state::MemberPage::default());
}

pub(crate) async fn who_stays_is_met_whatever_comes_and_goes<S: Store>() {
    let members = S::fresh().await.members;
    let stays: BTreeSet<UserId> = (0..600).map(|id| UserId(id * 3)).collect();
    members.join(APP, ROOM, &on_ios(0..1800), at(0)).await.unwrap();
    let met = scan(&*members, 50, async |page| {
        // Those between come and go, and the set grows and shrinks a good deal.
        let first = i64::try_from(page).unwrap() * 100;
        let passing = on_ios((first..first + 300).filter(|id| id % 3 != 0));
        members.leave(APP, ROOM, &passing, at(0)).await.unwrap();
        members.join(APP, ROOM, &on_ios((5000 + first..5050 + first).filter(|id| id % 3 != 0)), at(0)).await.unwrap();
        if page > 60 {
            members.leave(APP, ROOM, &on_ios((5000..90_000).filter(|id| id % 3 != 0)), at(0)).await.unwrap();
        }
    })
    .await;
    assert_eq!(stays.difference(&met).count(), 0);
}

pub(crate) async fn a_closed_room_is_empty<S: Store>() {
    let members = S::fresh().await.members;
    members.join(APP, ROOM, &on_ios(0..100), at(0)).await.unwrap();
    members.remove(APP, ROOM).await.unwrap();
    members.remove(APP, ROOM).await.expect("again is no error");
    assert_eq!(members.count(APP, ROOM).await.unwrap(), 0);
    assert_eq!(members.contains(APP, ROOM, &users([1])).await.unwrap(), [false]);
    assert_eq!(scan(&*members, 10, async |_| {}).await, BTreeSet::new());
    assert_eq!(members.join(APP, ROOM, &on_ios([7]), at(0)).await.unwrap(), 1);
}

pub(crate) async fn a_quiet_list_is_forgotten_and_a_busy_one_is_not<S: Store>() {
    let members = S::fresh().await.members;
    for room in [ROOM, RoomId(2)] {
        members.join(APP, room, &on_ios([1, 2]), at(0)).await.unwrap();
    }
    assert_eq!(members.join(APP, ROOM, &on_ios([3]), at(MEMBERS_KEPT_MS - 1)).await.unwrap(), 3);
    let later = at(MEMBERS_KEPT_MS);
    assert_eq!(members.join(APP, ROOM, &on_ios([4]), later).await.unwrap(), 4);
    assert_eq!(members.join(APP, RoomId(2), &on_ios([4]), later).await.unwrap(), 1);
}

pub(crate) async fn of_many_coming_and_going_at_once_who_stays_is_counted<S: Store>() {
    let members = S::fresh().await.members;
    let tasks: Vec<_> = (0..50)
        .map(|user| {
            let members = members.clone();
            tokio::spawn(async move {
                // All with two devices, and half of them leave with one, the others with both.
                let both = [member(user, DeviceKind::Ios), member(user, DeviceKind::Web)];
                members.join(APP, ROOM, &both, at(0)).await.unwrap();
                let leaving = if user % 2 == 0 { &both[..1] } else { &both[..] };
                members.leave(APP, ROOM, leaving, at(0)).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(members.count(APP, ROOM).await.unwrap(), 25);
    let stays: Vec<bool> = (0..50).map(|user| user % 2 == 0).collect();
    assert_eq!(members.contains(APP, ROOM, &users(0..50)).await.unwrap(), stays);
}

#[derive(Clone, Debug)]
enum Step {
    Join(i64, Vec<(i64, usize)>),
    Leave(i64, Vec<(i64, usize)>),
    Remove(i64),
    Page(i64),
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let some = || (0i64..2, proptest::collection::vec((0i64..10, 0usize..3), 1..6));
    let step = prop_oneof![
        4 => some().prop_map(|(room, members)| Step::Join(room, members)),
        3 => some().prop_map(|(room, members)| Step::Leave(room, members)),
        1 => (0i64..2).prop_map(Step::Remove),
        2 => (0i64..2).prop_map(Step::Page),
    ];
    let named = |members: &[(i64, usize)]| -> Vec<Member> {
        members.iter().map(|(user, device)| member(*user, DeviceKind::ALL[*device])).collect()
    };
    histories::<S, _>(step, async |state, steps| {
        let members = state.members;
        let mut model: BTreeMap<i64, BTreeSet<Member>> = BTreeMap::new();
        for step in steps {
            let distinct = |room: &BTreeSet<Member>| room.iter().map(|member| member.user).collect::<BTreeSet<_>>();
            match step {
                Step::Join(room, some) => {
                    let count = members.join(APP, RoomId(room), &named(&some), at(0)).await.unwrap();
                    let in_room = model.entry(room).or_default();
                    in_room.extend(named(&some));
                    prop_assert_eq!(count, distinct(in_room).len() as u64);
                }
                Step::Leave(room, some) => {
                    let count = members.leave(APP, RoomId(room), &named(&some), at(0)).await.unwrap();
                    let in_room = model.entry(room).or_default();
                    for member in named(&some) {
                        in_room.remove(&member);
                    }
                    prop_assert_eq!(count, distinct(in_room).len() as u64);
                }
                Step::Remove(room) => {
                    members.remove(APP, RoomId(room)).await.unwrap();
                    model.remove(&room);
                }
                Step::Page(room) => {
                    let in_room = distinct(model.entry(room).or_default());
                    let mut met = BTreeSet::new();
                    let mut cursor = 0;
                    loop {
                        let page = members.page(APP, RoomId(room), cursor, 2).await.unwrap();
                        met.extend(page.users);
                        cursor = page.cursor;
                        if cursor == 0 {
                            break;
                        }
                    }
                    prop_assert_eq!(&met, &in_room);
                    let contained: Vec<bool> = (0..10).map(|id| in_room.contains(&UserId(id))).collect();
                    prop_assert_eq!(members.contains(APP, RoomId(room), &users(0..10)).await.unwrap(), contained);
                    prop_assert_eq!(members.count(APP, RoomId(room)).await.unwrap(), in_room.len() as u64);
                }
            }
        }
        Ok(())
    });
}
