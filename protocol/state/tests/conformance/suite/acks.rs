//! [`billfish_state::Acks`].

use super::*;
use billfish_state::port::ACKS_PER_USER_MAX;
use billfish_state::{Acks, PendingAck, RoomId};
use std::collections::{BTreeMap, BTreeSet};

fn ack(user: i64, msg_id: &str, due: u64) -> PendingAck {
    PendingAck {
        app: APP,
        user: UserId(user),
        msg_id: msg_id.to_owned(),
        room: (user % 2 == 0).then_some(RoomId(77)),
        times_sent: 1,
        due_ms: at(due),
    }
}

fn sorted(mut pending: Vec<PendingAck>) -> Vec<PendingAck> {
    pending.sort_by(|a, b| (a.user, &a.msg_id).cmp(&(b.user, &b.msg_id)));
    pending
}

async fn expire_all(acks: &dyn Acks, before: u64, limit: usize, expected: usize) -> Vec<PendingAck> {
    let mut expired = Vec::new();
    for _ in 0..SWEEP_ROUNDS {
        let some = acks.expire(before, limit).await.unwrap();
        assert!(some.len() <= limit);
        expired.extend(some);
        if expired.len() >= expected {
            break;
        }
    }
    expired
}

pub(crate) async fn a_recorded_ack_is_pending_until_removed<S: Store>() {
    let acks = S::fresh().await.acks;
    // User 101 shares a bucket of 100 with user 1; neither sees the other's, nor another app's.
    let all = [ack(1, "a", 5), ack(1, "b%:", 4), ack(101, "a", 3)];
    acks.record(&all).await.unwrap();
    assert_eq!(sorted(acks.pending(APP, UserId(1)).await.unwrap()), all[..2]);
    assert_eq!(acks.pending(APP, UserId(101)).await.unwrap(), all[2..]);
    assert_eq!(acks.pending(OTHER_APP, UserId(1)).await.unwrap(), []);
    acks.remove(&[(APP, UserId(1), "a".to_owned()), (APP, UserId(1), "unknown".to_owned()), (OTHER_APP, UserId(101), "a".to_owned())])
        .await
        .unwrap();
    assert_eq!(acks.pending(APP, UserId(1)).await.unwrap(), all[1..2]);
    assert_eq!(acks.pending(APP, UserId(101)).await.unwrap(), all[2..]);
}

pub(crate) async fn recording_again_replaces<S: Store>() {
    let acks = S::fresh().await.acks;
    acks.record(&[ack(1, "a", 5), ack(1, "a", 7)]).await.unwrap();
    let again = PendingAck { times_sent: 2, due_ms: at(SECOND), ..ack(1, "a", 5) };
    acks.record(std::slice::from_ref(&again)).await.unwrap();
    assert_eq!(acks.pending(APP, UserId(1)).await.unwrap(), std::slice::from_ref(&again));
    assert_eq!(acks.expire(at(SECOND), 9).await.unwrap(), [], "the old time is forgotten");
    assert_eq!(expire_all(&*acks, at(SECOND + 1), 9, 1).await, [again]);
}

pub(crate) async fn expiring_drops_what_is_due_and_no_more_than_asked<S: Store>() {
    let acks = S::fresh().await.acks;
    let due: Vec<_> = (0..150).map(|user| ack(user, "m", 10)).collect();
    acks.record(&due).await.unwrap();
    acks.record(&[ack(7, "later", 11), ack(200, "later", 12)]).await.unwrap();
    assert_eq!(sorted(expire_all(&*acks, at(11), 20, 150).await), due);
    assert_eq!(acks.pending(APP, UserId(7)).await.unwrap(), [ack(7, "later", 11)]);
    assert_eq!(acks.pending(APP, UserId(8)).await.unwrap(), []);
}

pub(crate) async fn of_too_many_those_due_soonest_give_way<S: Store>() {
    let acks = S::fresh().await.acks;
    let all: Vec<_> = (0..=ACKS_PER_USER_MAX).map(|number| ack(1, &format!("m{number}"), 1000 - number as u64)).collect();
    let bystander = ack(2, "m", 0);
    acks.record(std::slice::from_ref(&bystander)).await.unwrap();
    acks.record(&all[..ACKS_PER_USER_MAX]).await.unwrap();
    assert_eq!(acks.pending(APP, UserId(1)).await.unwrap().len(), ACKS_PER_USER_MAX);
    acks.record(&all[ACKS_PER_USER_MAX..]).await.unwrap();
    let kept: BTreeSet<String> = acks.pending(APP, UserId(1)).await.unwrap().into_iter().map(|ack| ack.msg_id).collect();
    assert_eq!(kept.len(), ACKS_PER_USER_MAX);
    assert!(!kept.contains(&all[ACKS_PER_USER_MAX - 1].msg_id), "it was due soonest");
    assert!(kept.contains(&all[ACKS_PER_USER_MAX].msg_id), "the new one is kept");
    assert_eq!(acks.pending(APP, UserId(2)).await.unwrap(), [bystander]);
}

pub(crate) async fn of_many_recording_at_once_none_is_lost<S: Store>() {
    let acks = S::fresh().await.acks;
    let tasks: Vec<_> = (0..50)
        .map(|number| {
            let acks = acks.clone();
            let mine = [ack(1, &format!("m{number}"), 5), ack(101, &format!("m{number}"), 5)];
            tokio::spawn(async move {
                acks.record(&mine).await.unwrap();
                if number % 2 == 0 {
                    acks.remove(&[(APP, UserId(1), mine[0].msg_id.clone())]).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(acks.pending(APP, UserId(1)).await.unwrap().len(), 25);
    assert_eq!(acks.pending(APP, UserId(101)).await.unwrap().len(), 50);
}

#[derive(Clone, Debug)]
enum Step {
    Record(Vec<(i64, u8, u64)>),
    Remove(i64, u8),
    Expire(u64, usize),
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let one = || (0i64..3, 0u8..4, 0u64..50);
    let step = prop_oneof![
        3 => proptest::collection::vec(one(), 1..4).prop_map(Step::Record),
        2 => one().prop_map(|(user, id, _)| Step::Remove(user, id)),
        1 => (0u64..60, 0usize..4).prop_map(|(before, limit)| Step::Expire(before, limit)),
    ];
    histories::<S, _>(step, async |state, steps| {
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Record(entries) => {
                    let pending: Vec<_> = entries.iter().map(|(user, id, due)| ack(*user, &id.to_string(), *due)).collect();
                    state.acks.record(&pending).await.unwrap();
                    model.extend(pending.into_iter().map(|ack| ((ack.user, ack.msg_id.clone()), ack)));
                }
                Step::Remove(user, id) => {
                    state.acks.remove(&[(APP, UserId(user), id.to_string())]).await.unwrap();
                    model.remove(&(UserId(user), id.to_string()));
                }
                Step::Expire(before, limit) => {
                    let expired = state.acks.expire(at(before), limit).await.unwrap();
                    prop_assert!(expired.len() <= limit);
                    for ack in expired {
                        prop_assert!(ack.due_ms < at(before));
                        prop_assert_eq!(model.remove(&(ack.user, ack.msg_id.clone())), Some(ack));
                    }
                }
            }
            for user in 0..3 {
                let expected: Vec<_> = model.values().filter(|ack| ack.user.0 == user).cloned().collect();
                prop_assert_eq!(sorted(state.acks.pending(APP, UserId(user)).await.unwrap()), expected);
            }
        }
        Ok(())
    });
}
