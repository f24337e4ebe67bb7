//! [`billfish_state::Tokens`].

use super::*;
use billfish_state::{DeviceKind, SessionPrint, TokenOwner};
use std::collections::BTreeMap;

fn owner(user: i64) -> TokenOwner {
    // With and without a device, a session, and both.
    let session = (user % 3 != 1).then(|| SessionPrint([u8::try_from(user % 256).unwrap(); 32]));
    TokenOwner { app: APP, user: UserId(user), device: (user % 2 == 0).then_some(DeviceKind::Ios), session }
}

pub(crate) async fn a_token_lets_its_owner_in_until_it_runs_out<S: Store>() {
    let tokens = S::fresh().await.tokens;
    tokens.issue("t", owner(2), at(0), at(MINUTE)).await.unwrap();
    for (now, expected) in [(0, Some(owner(2))), (MINUTE - 1, Some(owner(2))), (MINUTE, None), (HOUR, None)] {
        assert_eq!(tokens.resolve(&texts(["t"]), at(now)).await.unwrap(), [expected], "after {now} ms");
    }
}

pub(crate) async fn a_revoked_token_lets_nobody_in<S: Store>() {
    let tokens = S::fresh().await.tokens;
    for token in ["a", "b"] {
        tokens.issue(token, owner(1), at(0), at(MINUTE)).await.unwrap();
    }
    tokens.revoke(&texts(["a", "unknown"])).await.unwrap();
    tokens.revoke(&texts(["a"])).await.expect("again is no error");
    assert_eq!(tokens.resolve(&texts(["a", "b"]), at(1)).await.unwrap(), [None, Some(owner(1))]);
}

pub(crate) async fn issuing_again_replaces_the_owner_and_the_end<S: Store>() {
    let tokens = S::fresh().await.tokens;
    tokens.issue("t", owner(1), at(0), at(HOUR)).await.unwrap();
    tokens.issue("t", owner(2), at(0), at(MINUTE)).await.unwrap();
    assert_eq!(tokens.resolve(&texts(["t"]), at(1)).await.unwrap(), [Some(owner(2))]);
    assert_eq!(tokens.resolve(&texts(["t"]), at(MINUTE)).await.unwrap(), [None]);
}

pub(crate) async fn answers_come_in_the_order_asked<S: Store>() {
    let tokens = S::fresh().await.tokens;
    for user in 0..50 {
        tokens.issue(&format!("t{user}"), owner(user), at(0), at(MINUTE)).await.unwrap();
    }
    let (asked, expected): (Vec<_>, Vec<_>) = (0..100).rev().map(|user| (format!("t{user}"), (user < 50).then(|| owner(user)))).unzip();
    assert_eq!(tokens.resolve(&asked, at(1)).await.unwrap(), expected);
    assert_eq!(tokens.resolve(&[], at(1)).await.unwrap(), []);
}

#[derive(Clone, Debug)]
enum Step {
    Issue(u8, i64, u64),
    Revoke(u8),
    Pass(u64),
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let step = prop_oneof![
        3 => (0u8..6, 0i64..4, 0..20 * SECOND).prop_map(|(token, user, life)| Step::Issue(token, user, life)),
        1 => (0u8..6).prop_map(Step::Revoke),
        2 => (0..8 * SECOND).prop_map(Step::Pass),
    ];
    histories::<S, _>(step, async |state, steps| {
        let mut now = at(0);
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Issue(token, user, life) => {
                    state.tokens.issue(&token.to_string(), owner(user), now, now + life).await.unwrap();
                    model.insert(token, (owner(user), now + life));
                }
                Step::Revoke(token) => {
                    state.tokens.revoke(&[token.to_string()]).await.unwrap();
                    model.remove(&token);
                }
                Step::Pass(ms) => now += ms,
            }
            let asked: Vec<String> = (0..6u8).map(|token| token.to_string()).collect();
            let expected: Vec<_> =
                (0..6).map(|token| model.get(&token).filter(|(_, until)| now < *until).map(|(owner, _)| *owner)).collect();
            prop_assert_eq!(state.tokens.resolve(&asked, now).await.unwrap(), expected);
        }
        Ok(())
    });
}
