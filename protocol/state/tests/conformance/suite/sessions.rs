//! [`billfish_state::Sessions`].

use super::*;
use billfish_state::{SessionOwner, port::SESSIONS_PER_USER_MAX};
use std::collections::BTreeMap;

fn owner(user: i64) -> SessionOwner {
    SessionOwner { app: APP, user: UserId(user) }
}

fn print(number: usize) -> String {
    format!("{number:064x}")
}

pub(crate) async fn a_session_is_its_owners_until_it_runs_out<S: Store>() {
    let sessions = S::fresh().await.sessions;
    sessions.open("s", owner(1), at(0), at(MINUTE)).await.unwrap();
    for (now, expected) in [(0, Some(owner(1))), (MINUTE - 1, Some(owner(1))), (MINUTE, None), (HOUR, None)] {
        assert_eq!(sessions.resolve(&texts(["s", "unknown"]), at(now)).await.unwrap(), [expected, None], "after {now} ms");
    }
    assert_eq!(sessions.resolve(&[], at(0)).await.unwrap(), []);
}

pub(crate) async fn a_closed_session_is_nobodys_and_the_others_stay<S: Store>() {
    let sessions = S::fresh().await.sessions;
    for session in ["a", "b"] {
        sessions.open(session, owner(1), at(0), at(MINUTE)).await.unwrap();
    }
    sessions.close("a", owner(1)).await.unwrap();
    sessions.close("a", owner(1)).await.expect("again is no error");
    sessions.close("unknown", owner(1)).await.expect("nor is one that never was");
    assert_eq!(sessions.resolve(&texts(["a", "b"]), at(1)).await.unwrap(), [None, Some(owner(1))]);
}

pub(crate) async fn all_sessions_of_a_user_are_closed_at_once_and_of_no_other<S: Store>() {
    let sessions = S::fresh().await.sessions;
    let elsewhere = SessionOwner { app: OTHER_APP, user: UserId(1) };
    for (session, of) in [("a", owner(1)), ("b", owner(1)), ("c", owner(11)), ("d", elsewhere)] {
        sessions.open(session, of, at(0), at(MINUTE)).await.unwrap();
    }
    sessions.close_all(owner(1)).await.unwrap();
    sessions.close_all(owner(1)).await.expect("again is no error");
    assert_eq!(sessions.resolve(&texts(["a", "b", "c", "d"]), at(1)).await.unwrap(), [None, None, Some(owner(11)), Some(elsewhere)]);
    sessions.open("e", owner(1), at(1), at(MINUTE)).await.unwrap();
    assert_eq!(sessions.resolve(&texts(["e"]), at(2)).await.unwrap(), [Some(owner(1))], "a later one is good");
}

pub(crate) async fn beyond_so_many_the_one_that_ends_soonest_has_ended<S: Store>() {
    let sessions = S::fresh().await.sessions;
    let all: Vec<String> = (0..SESSIONS_PER_USER_MAX + 2).map(print).collect();
    for (number, session) in all.iter().enumerate() {
        // The second is the one that ends first, then the first.
        let life = if number == 1 { MINUTE } else { HOUR + number as u64 };
        sessions.open(session, owner(1), at(0), at(life)).await.unwrap();
    }
    let expected: Vec<_> = (0..all.len()).map(|number| (number > 1).then_some(owner(1))).collect();
    assert_eq!(sessions.resolve(&all, at(1)).await.unwrap(), expected);
    // Those that have run out make room by themselves.
    let later = 2 * HOUR;
    let next: Vec<String> = (100..100 + SESSIONS_PER_USER_MAX).map(print).collect();
    for session in &next {
        sessions.open(session, owner(1), at(later), at(later + MINUTE)).await.unwrap();
    }
    assert_eq!(sessions.resolve(&next, at(later)).await.unwrap(), vec![Some(owner(1)); next.len()]);
    sessions.close_all(owner(1)).await.unwrap();
    assert_eq!(sessions.resolve(&next, at(later)).await.unwrap(), vec![None; next.len()]);
}

pub(crate) async fn of_many_opening_at_once_all_are_found_by_their_user<S: Store>() {
    let sessions = S::fresh().await.sessions;
    let all: Vec<String> = (0..SESSIONS_PER_USER_MAX).map(print).collect();
    let tasks: Vec<_> = all
        .iter()
        .map(|session| {
            let (sessions, session) = (sessions.clone(), session.clone());
            tokio::spawn(async move { sessions.open(&session, owner(1), at(0), at(MINUTE)).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(sessions.resolve(&all, at(1)).await.unwrap(), vec![Some(owner(1)); all.len()]);
    sessions.close_all(owner(1)).await.unwrap();
    assert_eq!(sessions.resolve(&all, at(1)).await.unwrap(), vec![None; all.len()]);
}

#[derive(Clone, Debug)]
enum Step {
    Open(i64, u64),
    Close(usize),
    CloseAll(i64),
    Pass(u64),
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let step = prop_oneof![
        6 => (0i64..2, 1..20 * SECOND).prop_map(|(user, life)| Step::Open(user, life)),
        2 => (0usize..40).prop_map(Step::Close),
        1 => (0i64..2).prop_map(Step::CloseAll),
        2 => (0..4 * SECOND).prop_map(Step::Pass),
    ];
    histories::<S, _>(step, async |state, steps| {
        let mut now = at(0);
        let mut opened = 0;
        let mut model: BTreeMap<usize, (SessionOwner, u64)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Open(user, life) => {
                    state.sessions.open(&print(opened), owner(user), now, now + life).await.unwrap();
                    model.retain(|_, (_, until)| now < *until);
                    let of_user = |model: &BTreeMap<usize, (SessionOwner, u64)>| {
                        let mut own: Vec<_> =
                            model.iter().filter(|(_, (of, _))| *of == owner(user)).map(|(number, (_, until))| (*until, *number)).collect();
                        own.sort_unstable();
                        own
                    };
                    let own = of_user(&model);
                    if own.len() == SESSIONS_PER_USER_MAX {
                        model.remove(&own[0].1);
                    }
                    model.insert(opened, (owner(user), now + life));
                    opened += 1;
                }
                Step::Close(number) => {
                    if let Some((of, _)) = model.remove(&number) {
                        state.sessions.close(&print(number), of).await.unwrap();
                    }
                }
                Step::CloseAll(user) => {
                    state.sessions.close_all(owner(user)).await.unwrap();
                    model.retain(|_, (of, _)| *of != owner(user));
                }
                Step::Pass(ms) => now += ms,
            }
            let all: Vec<String> = (0..opened).map(print).collect();
            let expected: Vec<_> =
                (0..opened).map(|number| model.get(&number).filter(|(_, until)| now < *until).map(|(of, _)| *of)).collect();
            prop_assert_eq!(state.sessions.resolve(&all, now).await.unwrap(), expected);
        }
        Ok(())
    });
}
