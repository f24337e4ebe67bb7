//! [`billfish_state::Presence`].

use super::*;
use billfish_state::Presence;
use std::collections::{BTreeMap, BTreeSet};

/// Sweeps until `expected` users were named, or the rounds are used up.
async fn sweep_all(presence: &dyn Presence, before: u64, limit: usize, expected: usize) -> Vec<(AppId, UserId)> {
    let mut named = Vec::new();
    for _ in 0..SWEEP_ROUNDS {
        let swept = presence.sweep(before, limit).await.unwrap();
        assert!(swept.len() <= limit, "{} named, {limit} asked for", swept.len());
        named.extend(swept);
        if named.len() >= expected {
            break;
        }
    }
    named
}

pub(crate) async fn a_user_is_online_from_the_last_sign_on<S: Store>() {
    let presence = S::fresh().await.presence;
    presence.touch(&[(APP, UserId(1)), (APP, UserId(2))], at(0)).await.unwrap();
    presence.touch(&[(APP, UserId(2))], at(MINUTE)).await.unwrap();
    let online = async |since| presence.online(APP, &users([3, 2, 1]), at(since)).await.unwrap();
    assert_eq!(online(0).await, [false, true, true]);
    assert_eq!(online(1).await, [false, true, false]);
    assert_eq!(online(MINUTE).await, [false, true, false]);
    assert_eq!(online(MINUTE + 1).await, [false, false, false]);
}

pub(crate) async fn an_earlier_sign_does_not_replace_a_later_one<S: Store>() {
    let presence = S::fresh().await.presence;
    presence.touch(&[(APP, UserId(1))], at(MINUTE)).await.unwrap();
    presence.touch(&[(APP, UserId(1))], at(0)).await.unwrap();
    assert_eq!(presence.online(APP, &users([1]), at(MINUTE)).await.unwrap(), [true]);
}

pub(crate) async fn of_signs_given_together_each_has_its_moment<S: Store>() {
    let presence = S::fresh().await.presence;
    let sign = |user, ago| (APP, UserId(user), at(MINUTE) - ago);
    presence.touch_each(&[sign(1, 0), sign(2, SECOND), sign(17, 2 * SECOND), (OTHER_APP, UserId(1), at(0))]).await.unwrap();
    let online = async |since| presence.online(APP, &users([1, 2, 17]), since).await.unwrap();
    assert_eq!(online(at(MINUTE)).await, [true, false, false]);
    assert_eq!(online(at(MINUTE) - SECOND).await, [true, true, false]);
    assert_eq!(online(at(MINUTE) - 2 * SECOND).await, [true, true, true]);
    assert_eq!(presence.online(OTHER_APP, &users([1]), at(1)).await.unwrap(), [false]);
    presence.touch_each(&[sign(1, SECOND), sign(17, 0)]).await.unwrap();
    assert_eq!(online(at(MINUTE)).await, [true, false, true], "the later one stands, for each");
}

pub(crate) async fn a_removed_user_is_gone<S: Store>() {
    let presence = S::fresh().await.presence;
    presence.touch(&[(APP, UserId(1)), (APP, UserId(2))], at(0)).await.unwrap();
    presence.remove(&[(APP, UserId(1), at(0)), (APP, UserId(9), at(0))]).await.unwrap();
    assert_eq!(presence.online(APP, &users([1, 2]), at(0)).await.unwrap(), [false, true]);
    presence.touch(&[(APP, UserId(1))], at(0)).await.unwrap();
    assert_eq!(presence.online(APP, &users([1, 2]), at(0)).await.unwrap(), [true, true]);
}

pub(crate) async fn who_was_seen_after_the_given_moment_is_not_removed<S: Store>() {
    let presence = S::fresh().await.presence;
    presence.touch(&[(APP, UserId(1)), (APP, UserId(2)), (APP, UserId(3))], at(0)).await.unwrap();
    presence.touch(&[(APP, UserId(1))], at(1)).await.unwrap();
    let gone = |users: &[(i64, u64)]| users.iter().map(|(user, last)| (APP, UserId(*user), at(*last))).collect::<Vec<_>>();
    presence.remove(&gone(&[(1, 0), (2, 0), (3, MINUTE)])).await.unwrap();
    assert_eq!(presence.online(APP, &users([1, 2, 3]), at(0)).await.unwrap(), [true, false, false]);
    presence.remove(&gone(&[(1, 1), (1, 0)])).await.unwrap();
    assert_eq!(presence.online(APP, &users([1]), at(0)).await.unwrap(), [false], "the later of the two moments counts");
    let many: Vec<_> = (0..3_000).map(|user| (APP, UserId(user))).collect();
    presence.touch(&many, at(0)).await.unwrap();
    presence.touch(&many[..1_500], at(SECOND)).await.unwrap();
    presence.remove(&many.iter().map(|(app, user)| (*app, *user, at(0))).collect::<Vec<_>>()).await.unwrap();
    let online = presence.online(APP, &users(0..3_000), at(0)).await.unwrap();
    assert!(online[..1_500].iter().all(|is_online| *is_online) && !online[1_500..].contains(&true));
}

pub(crate) async fn a_sweep_names_those_it_forgets_and_no_other<S: Store>() {
    let presence = S::fresh().await.presence;
    let old: BTreeSet<_> = (0..500).map(|id| (APP, UserId(id * 7919))).collect();
    presence.touch(&old.iter().copied().collect::<Vec<_>>(), at(0)).await.unwrap();
    presence.touch(&[(APP, UserId(1)), (APP, UserId(2))], at(1)).await.unwrap();
    // Some of the old come back.
    presence.touch(&[(APP, UserId(0)), (APP, UserId(7919))], at(1)).await.unwrap();
    let named = sweep_all(&*presence, at(1), 100, 498).await;
    let distinct: BTreeSet<_> = named.iter().copied().collect();
    assert_eq!((named.len(), distinct.len()), (498, 498), "each is named once");
    assert!(distinct.is_subset(&old));
    assert_eq!(presence.online(APP, &users([1, 2, 0, 7919, 2 * 7919]), at(0)).await.unwrap(), [true, true, true, true, false]);
    assert_eq!(presence.sweep(at(2), 0).await.unwrap(), [], "none asked for, none named");
}

pub(crate) async fn users_of_two_apps_are_not_mixed_up<S: Store>() {
    let presence = S::fresh().await.presence;
    presence.touch(&[(APP, UserId(1))], at(0)).await.unwrap();
    presence.touch(&[(OTHER_APP, UserId(1))], at(SECOND)).await.unwrap();
    presence.remove(&[(APP, UserId(1), at(0))]).await.unwrap();
    assert_eq!(presence.online(APP, &users([1]), at(0)).await.unwrap(), [false]);
    assert_eq!(presence.online(OTHER_APP, &users([1]), at(0)).await.unwrap(), [true]);
    assert_eq!(sweep_all(&*presence, at(MINUTE), 9, 1).await, [(OTHER_APP, UserId(1))]);
}

#[derive(Clone, Debug)]
enum Step {
    Touch(Vec<i64>, u64),
    Remove(Vec<i64>, u64),
    Sweep(u64, usize),
    Online(u64),
    Pass(u64),
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let some = || proptest::collection::vec(0i64..12, 1..5);
    let step = prop_oneof![
        3 => (some(), 0..2 * SECOND).prop_map(|(users, ago)| Step::Touch(users, ago)),
        2 => (some(), 0..2 * SECOND).prop_map(|(users, ago)| Step::Remove(users, ago)),
        1 => (0..4 * SECOND, 0usize..5).prop_map(|(ago, limit)| Step::Sweep(ago, limit)),
        2 => (0..4 * SECOND).prop_map(Step::Online),
        2 => (0..4 * SECOND).prop_map(Step::Pass),
    ];
    let ids = |users: Vec<i64>| users.into_iter().map(|id| (APP, UserId(id))).collect::<Vec<_>>();
    histories::<S, _>(step, async |state, steps| {
        let mut now = at(MINUTE);
        let mut model: BTreeMap<(AppId, UserId), u64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Touch(users, ago) => {
                    state.presence.touch(&ids(users.clone()), now - ago).await.unwrap();
                    for user in ids(users) {
                        let last = model.entry(user).or_default();
                        *last = (*last).max(now - ago);
                    }
                }
                Step::Remove(users, ago) => {
                    let gone: Vec<_> = users.iter().map(|id| (APP, UserId(*id), now - ago)).collect();
                    state.presence.remove(&gone).await.unwrap();
                    for (app, user, not_after) in gone {
                        if model.get(&(app, user)).is_some_and(|last| *last <= not_after) {
                            model.remove(&(app, user));
                        }
                    }
                }
                Step::Sweep(ago, limit) => {
                    let swept = state.presence.sweep(now - ago, limit).await.unwrap();
                    prop_assert!(swept.len() <= limit);
                    for user in swept {
                        let last = model.remove(&user);
                        prop_assert!(last.is_some_and(|last| last < now - ago), "{user:?} was at {last:?}");
                    }
                }
                Step::Online(ago) => {
                    let expected: Vec<_> = (0..12).map(|id| model.get(&(APP, UserId(id))).is_some_and(|last| *last >= now - ago)).collect();
                    prop_assert_eq!(state.presence.online(APP, &users(0..12), now - ago).await.unwrap(), expected);
                }
                Step::Pass(ms) => now += ms,
            }
        }
        Ok(())
    });
}
