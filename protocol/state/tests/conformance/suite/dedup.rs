//! [`billfish_state::Dedup`].

use super::*;
use std::collections::BTreeMap;

const USER: UserId = UserId(1);

pub(crate) async fn a_message_is_claimed_once_until_the_claim_runs_out<S: Store>() {
    let dedup = S::fresh().await.dedup;
    let ids = texts(["b", "a", "b"]);
    assert_eq!(dedup.claim(APP, USER, &ids, at(0), at(MINUTE)).await.unwrap(), [true, true, false]);
    assert_eq!(dedup.claim(APP, USER, &ids, at(MINUTE - 1), at(HOUR)).await.unwrap(), [false; 3], "a second try renews nothing");
    assert_eq!(dedup.claim(APP, USER, &ids, at(MINUTE), at(HOUR)).await.unwrap(), [true, true, false]);
}

pub(crate) async fn a_claim_given_back_is_free<S: Store>() {
    let dedup = S::fresh().await.dedup;
    dedup.claim(APP, USER, &texts(["a", "b"]), at(0), at(MINUTE)).await.unwrap();
    dedup.release(APP, USER, &texts(["a", "unknown"])).await.unwrap();
    dedup.release(APP, USER, &texts(["a"])).await.expect("again is no error");
    assert_eq!(dedup.claim(APP, USER, &texts(["a", "b"]), at(1), at(MINUTE)).await.unwrap(), [true, false]);
}

pub(crate) async fn users_and_apps_do_not_share_claims<S: Store>() {
    let dedup = S::fresh().await.dedup;
    for (app, user) in [(APP, USER), (APP, UserId(2)), (OTHER_APP, USER), (APP, UserId(12)), (APP, UserId(-1))] {
        assert_eq!(dedup.claim(app, user, &texts(["2a", "a"]), at(0), at(MINUTE)).await.unwrap(), [true, true], "{app} {user}");
    }
    dedup.release(APP, UserId(2), &texts(["a"])).await.unwrap();
    assert_eq!(dedup.claim(APP, USER, &texts(["a"]), at(1), at(MINUTE)).await.unwrap(), [false]);
}

pub(crate) async fn of_many_at_once_one_claims<S: Store>() {
    let dedup = S::fresh().await.dedup;
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let dedup = dedup.clone();
            tokio::spawn(async move { dedup.claim(APP, USER, &texts(["m"]), at(0), at(MINUTE)).await.unwrap() == [true] })
        })
        .collect();
    let mut claimed = 0;
    for task in tasks {
        claimed += u32::from(task.await.unwrap());
    }
    assert_eq!(claimed, 1);
}

#[derive(Clone, Debug)]
enum Step {
    Claim(i64, Vec<u8>, u64),
    Release(i64, u8),
    Pass(u64),
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let step = prop_oneof![
        3 => (0i64..2, proptest::collection::vec(0u8..4, 1..4), 0..20 * SECOND).prop_map(|(user, ids, life)| Step::Claim(user, ids, life)),
        1 => (0i64..2, 0u8..4).prop_map(|(user, id)| Step::Release(user, id)),
        2 => (0..8 * SECOND).prop_map(Step::Pass),
    ];
    histories::<S, _>(step, async |state, steps| {
        let mut now = at(0);
        let mut model: BTreeMap<(i64, u8), u64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Claim(user, ids, life) => {
                    let texts: Vec<String> = ids.iter().map(u8::to_string).collect();
                    let claimed = state.dedup.claim(APP, UserId(user), &texts, now, now + life).await.unwrap();
                    let expected: Vec<bool> = ids
                        .into_iter()
                        .map(|id| {
                            let free = model.get(&(user, id)).is_none_or(|until| now >= *until);
                            if free {
                                model.insert((user, id), now + life);
                            }
                            free
                        })
                        .collect();
                    prop_assert_eq!(claimed, expected);
                }
                Step::Release(user, id) => {
                    state.dedup.release(APP, UserId(user), &[id.to_string()]).await.unwrap();
                    model.remove(&(user, id));
                }
                Step::Pass(ms) => now += ms,
            }
        }
        Ok(())
    });
}
