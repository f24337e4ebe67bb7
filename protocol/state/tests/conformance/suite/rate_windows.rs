//! [`billfish_state::RateWindows`].

use super::*;
use billfish_state::{WindowHit, WindowVerdict};
use std::collections::BTreeMap;

const ALLOWED: WindowVerdict = WindowVerdict::Allowed;

fn hit(key: &str, limit: u32) -> WindowHit {
    WindowHit { key: key.to_owned(), limit, window_ms: 10 * SECOND }
}

fn refused(retry_after_ms: u64) -> WindowVerdict {
    WindowVerdict::Refused { retry_after_ms }
}

pub(crate) async fn the_limit_holds_in_a_window_and_the_next_begins_anew<S: Store>() {
    let windows = S::fresh().await.rate_windows;
    for (now, verdict) in [
        (5 * SECOND, ALLOWED),
        (6 * SECOND, ALLOWED),
        (15 * SECOND - 1, refused(1)),
        (15 * SECOND, ALLOWED),
        (15 * SECOND, ALLOWED),
        (15 * SECOND, refused(10 * SECOND)),
    ] {
        assert_eq!(windows.hit(&[hit("k", 2)], at(now)).await.unwrap(), [verdict], "at {now}");
    }
    assert_eq!(windows.hit(&[hit("never", 0)], at(0)).await.unwrap(), [refused(10 * SECOND)]);
}

pub(crate) async fn a_refusal_says_when_there_is_room_again_and_does_not_count<S: Store>() {
    let windows = S::fresh().await.rate_windows;
    assert_eq!(windows.hit(&[hit("k", 1)], at(0)).await.unwrap(), [ALLOWED]);
    for second in 1..10 {
        assert_eq!(windows.hit(&[hit("k", 1)], at(second * SECOND)).await.unwrap(), [refused((10 - second) * SECOND)]);
    }
    assert_eq!(windows.hit(&[hit("k", 1)], at(10 * SECOND)).await.unwrap(), [ALLOWED], "nine refusals have cost nothing");
}

pub(crate) async fn keys_do_not_share_a_window_and_a_batch_counts_in_order<S: Store>() {
    let windows = S::fresh().await.rate_windows;
    let batch = [hit("a", 1), hit("b", 2), hit("a", 1), hit("b", 2), hit("b", 2)];
    let verdicts = windows.hit(&batch, at(0)).await.unwrap();
    assert_eq!(verdicts, [ALLOWED, ALLOWED, refused(10 * SECOND), ALLOWED, refused(10 * SECOND)]);
}

pub(crate) async fn of_many_at_once_only_the_limit_passes<S: Store>() {
    let windows = S::fresh().await.rate_windows;
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let windows = windows.clone();
            tokio::spawn(async move { windows.hit(&[hit("k", 30)], at(0)).await.unwrap() == [ALLOWED] })
        })
        .collect();
    let mut passed = 0;
    for task in tasks {
        passed += u32::from(task.await.unwrap());
    }
    assert_eq!(passed, 30);
}

#[derive(Clone, Debug)]
enum Step {
    Hit(Vec<u8>),
    Pass(u64),
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let step = prop_oneof![
        3 => proptest::collection::vec(0u8..3, 1..5).prop_map(Step::Hit),
        2 => (0..12 * SECOND).prop_map(Step::Pass),
    ];
    histories::<S, _>(step, async |state, steps| {
        let mut now = at(0);
        let mut model: BTreeMap<u8, (u32, u64)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Hit(keys) => {
                    // A key's own number is its limit.
                    let hits: Vec<_> = keys.iter().map(|key| hit(&key.to_string(), u32::from(*key))).collect();
                    let verdicts = state.rate_windows.hit(&hits, now).await.unwrap();
                    prop_assert_eq!(verdicts.len(), keys.len());
                    for (key, verdict) in keys.into_iter().zip(verdicts) {
                        let (used, end) = model.entry(key).or_insert((0, now + 10 * SECOND));
                        if now >= *end || *used == 0 {
                            (*used, *end) = (0, now + 10 * SECOND);
                        }
                        if *used < u32::from(key) {
                            *used += 1;
                            prop_assert_eq!(verdict, ALLOWED);
                        } else {
                            prop_assert_eq!(verdict, refused(*end - now));
                        }
                    }
                }
                Step::Pass(ms) => now += ms,
            }
        }
        Ok(())
    });
}
