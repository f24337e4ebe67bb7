//! [`billfish_state::Acks`].

use super::*;
use billfish_state::port::{ACK_TIMES_MAX, ACKS_PER_USER_MAX, ROOM_LOG_AGE_MAX_MS, ack_again_ms};
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

/// An entry once it has been put off at this time; none, once it was sent often enough.
pub(crate) fn put_off(ack: &PendingAck, now_ms: u64) -> Option<PendingAck> {
    let (times_sent, wait_ms) = match ack.room {
        None => (ack.times_sent + 1, ack_again_ms(ack.times_sent)),
        Some(_) => (ACK_TIMES_MAX, ROOM_LOG_AGE_MAX_MS),
    };
    (ack.times_sent < ACK_TIMES_MAX).then(|| PendingAck { times_sent, due_ms: now_ms + wait_ms, ..ack.clone() })
}

async fn postpone_all(acks: &dyn Acks, before: u64, limit: usize, expected: usize) -> Vec<PendingAck> {
    let mut overdue = Vec::new();
    for _ in 0..SWEEP_ROUNDS {
        let some = acks.postpone(before, before, limit).await.unwrap();
        assert!(some.len() <= limit);
        overdue.extend(some);
        if overdue.len() >= expected {
            break;
        }
    }
    overdue
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
    assert_eq!(acks.postpone(at(SECOND), at(SECOND), 9).await.unwrap(), [], "the old time is forgotten");
    assert_eq!(postpone_all(&*acks, at(SECOND + 1), 9, 1).await, [again]);
}

pub(crate) async fn what_is_due_is_told_and_put_off_and_no_more_than_asked<S: Store>() {
    let acks = S::fresh().await.acks;
    let due: Vec<_> = (0..150).map(|user| ack(user, "m", 10)).collect();
    acks.record(&due).await.unwrap();
    acks.record(&[ack(7, "later", 11), ack(200, "later", 12)]).await.unwrap();
    assert_eq!(sorted(postpone_all(&*acks, at(11), 20, 150).await), due);
    let put_off_at = |pending: &PendingAck| put_off(pending, at(11)).unwrap();
    // A user's own is due when it is to be sent again; a room's when its log has it no longer.
    assert_eq!(acks.pending(APP, UserId(7)).await.unwrap(), [ack(7, "later", 11), put_off_at(&due[7])]);
    assert_eq!(acks.pending(APP, UserId(8)).await.unwrap(), [put_off_at(&due[8])]);
    for _ in 0..12 {
        assert_eq!(acks.postpone(at(11), at(11), 20).await.unwrap(), [], "nobody is told twice");
    }
}

pub(crate) async fn what_was_put_off_often_enough_is_taken_out<S: Store>() {
    let acks = S::fresh().await.acks;
    let (of_inbox, of_room) = (ack(1, "m", 0), ack(2, "m", 0));
    acks.record(&[of_inbox.clone(), of_room.clone()]).await.unwrap();
    let mut stands = BTreeMap::from([(1, of_inbox), (2, of_room)]);
    let mut told = 0;
    while !stands.is_empty() {
        let now = stands.values().map(|ack| ack.due_ms).min().unwrap() + 1;
        for overdue in postpone_all(&*acks, now, 9, 1).await {
            let user = overdue.user.0;
            assert_eq!(stands.remove(&user), Some(overdue.clone()));
            stands.extend(put_off(&overdue, now).map(|again| (user, again)));
            told += 1;
        }
        for user in 1..=2 {
            let expected: Vec<_> = stands.get(&user).cloned().into_iter().collect();
            assert_eq!(acks.pending(APP, UserId(user)).await.unwrap(), expected);
        }
    }
    assert_eq!(told, ACK_TIMES_MAX + 2, "one of a room is put off once");
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
    Postpone(u64, usize),
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let one = || (0i64..3, 0u8..4, 0u64..50);
    let step = prop_oneof![
        3 => proptest::collection::vec(one(), 1..4).prop_map(Step::Record),
        2 => one().prop_map(|(user, id, _)| Step::Remove(user, id)),
        1 => (0u64..60, 0usize..4).prop_map(|(before, limit)| Step::Postpone(before, limit)),
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
                Step::Postpone(before, limit) => {
                    let overdue = state.acks.postpone(at(before), at(before), limit).await.unwrap();
                    prop_assert!(overdue.len() <= limit);
                    for ack in overdue {
                        prop_assert!(ack.due_ms < at(before));
                        let key = (ack.user, ack.msg_id.clone());
                        prop_assert_eq!(model.remove(&key), Some(ack.clone()));
                        model.extend(put_off(&ack, at(before)).map(|again| (key, again)));
                    }
                }
            }
            for user in 0..3 {
                let expected: Vec<_> = model.values().filter(|ack: &&PendingAck| ack.user.0 == user).cloned().collect();
                prop_assert_eq!(sorted(state.acks.pending(APP, UserId(user)).await.unwrap()), expected);
            }
        }
        Ok(())
    });
}
