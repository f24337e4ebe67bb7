//! [`billfish_state::LoginCodes`].

use super::*;
use billfish_state::{CodeAsk, CodeKept, CodeVerdict};
use std::collections::BTreeMap;

const PHONE: &str = "8613800138000";
const GAP: u64 = MINUTE;
const LIFE: u64 = 5 * MINUTE;
const WINDOW: u64 = HOUR;
const TRIES: u32 = 3;
const SENDS: u32 = 4;

fn ask(phone: &str, code: &str, now: u64) -> CodeAsk {
    CodeAsk {
        app: APP,
        phone: phone.to_owned(),
        code: code.to_owned(),
        until_ms: at(now + LIFE),
        gap_ms: GAP,
        sends_max: SENDS,
        window_ms: WINDOW,
    }
}

fn too_soon(retry_after_ms: u64) -> CodeKept {
    CodeKept::TooSoon { retry_after_ms }
}

async fn keep(state: &State, code: &str, now: u64) -> CodeKept {
    state.login_codes.keep(&ask(PHONE, code, now), at(now)).await.unwrap()
}

async fn check(state: &State, code: &str, now: u64) -> CodeVerdict {
    state.login_codes.check(APP, PHONE, code, TRIES, at(now)).await.unwrap()
}

pub(crate) async fn a_code_is_good_once_and_until_its_end<S: Store>() {
    let state = S::fresh().await;
    assert_eq!(check(&state, "1234", 0).await, CodeVerdict::Wrong, "none was sent");
    assert_eq!(keep(&state, "1234", 0).await, CodeKept::Kept);
    assert_eq!(check(&state, "1234", 1).await, CodeVerdict::Right);
    assert_eq!(check(&state, "1234", 2).await, CodeVerdict::Wrong, "it was used");
    assert_eq!(keep(&state, "0042", GAP).await, CodeKept::Kept);
    assert_eq!(check(&state, "1234", GAP).await, CodeVerdict::Wrong);
    assert_eq!(check(&state, "0042", GAP + LIFE).await, CodeVerdict::Wrong, "it has run out");
    assert_eq!(check(&state, "0042", GAP + LIFE - 1).await, CodeVerdict::Right, "a moment earlier it was good");
}

pub(crate) async fn wrong_tries_end_a_code_and_another_begins_anew<S: Store>() {
    let state = S::fresh().await;
    keep(&state, "1234", 0).await;
    for _ in 0..TRIES {
        assert_eq!(check(&state, "4321", 1).await, CodeVerdict::Wrong);
    }
    assert_eq!(check(&state, "1234", 2).await, CodeVerdict::Spent { retry_after_ms: GAP - 2 });
    assert_eq!(check(&state, "1234", GAP + 1).await, CodeVerdict::Spent { retry_after_ms: 0 });
    assert_eq!(keep(&state, "5678", GAP).await, CodeKept::Kept);
    assert_eq!(check(&state, "1234", GAP).await, CodeVerdict::Wrong);
    assert_eq!(check(&state, "5678", GAP).await, CodeVerdict::Right);
}

pub(crate) async fn between_two_codes_there_is_a_gap_whether_the_first_was_used_or_not<S: Store>() {
    let state = S::fresh().await;
    keep(&state, "1234", 0).await;
    assert_eq!(keep(&state, "5678", GAP - 1).await, too_soon(1));
    assert_eq!(check(&state, "5678", GAP - 1).await, CodeVerdict::Wrong, "what was not kept is no code");
    assert_eq!(check(&state, "1234", GAP - 1).await, CodeVerdict::Right);
    assert_eq!(keep(&state, "5678", GAP - 1).await, too_soon(1));
    assert_eq!(keep(&state, "5678", GAP).await, CodeKept::Kept);
}

pub(crate) async fn a_phone_has_so_many_codes_in_a_window<S: Store>() {
    let state = S::fresh().await;
    for send in 0..u64::from(SENDS) {
        assert_eq!(keep(&state, "1234", send * GAP).await, CodeKept::Kept);
    }
    let now = u64::from(SENDS) * GAP;
    assert_eq!(keep(&state, "5678", now).await, too_soon(WINDOW - now));
    assert_eq!(check(&state, "1234", now).await, CodeVerdict::Right, "the last one is good as before");
    assert_eq!(keep(&state, "5678", WINDOW - 1).await, too_soon(1));
    assert_eq!(keep(&state, "5678", WINDOW).await, CodeKept::Kept);
    assert_eq!(keep(&state, "5678", WINDOW + GAP).await, CodeKept::Kept, "a new window");
}

pub(crate) async fn a_repeat_of_the_same_call_is_the_same_code<S: Store>() {
    let state = S::fresh().await;
    for _ in 0..2 * SENDS {
        assert_eq!(keep(&state, "1234", 0).await, CodeKept::Kept);
    }
    assert_eq!(keep(&state, "5678", GAP).await, CodeKept::Kept, "they were one");
}

pub(crate) async fn phones_and_apps_do_not_share_codes<S: Store>() {
    let state = S::fresh().await;
    let phones = [(APP, "861380"), (APP, "8613"), (OTHER_APP, "861380")];
    for (number, (app, phone)) in phones.into_iter().enumerate() {
        let ask = CodeAsk { app, ..ask(phone, &format!("000{number}"), 0) };
        assert_eq!(state.login_codes.keep(&ask, at(0)).await.unwrap(), CodeKept::Kept);
    }
    for (number, (app, phone)) in phones.into_iter().enumerate() {
        let code = format!("000{number}");
        assert_eq!(state.login_codes.check(app, phone, &code, TRIES, at(1)).await.unwrap(), CodeVerdict::Right, "{app} {phone}");
    }
}

pub(crate) async fn of_many_checking_the_right_code_at_once_one_is_let_in<S: Store>() {
    let state = S::fresh().await;
    keep(&state, "1234", 0).await;
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let state = state.clone();
            tokio::spawn(async move { check(&state, "1234", 1).await == CodeVerdict::Right })
        })
        .collect();
    let mut right = 0;
    for task in tasks {
        right += u32::from(task.await.unwrap());
    }
    assert_eq!(right, 1);
}

#[derive(Clone, Debug)]
enum Step {
    Keep(u8, u8),
    Check(u8, u8),
    Pass(u64),
}

#[derive(Default)]
struct Model {
    code: Option<(u8, u64)>,
    again: u64,
    sends: u32,
    window_ends: u64,
    tries: u32,
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let step = prop_oneof![
        3 => (0u8..2, 0u8..3).prop_map(|(phone, code)| Step::Keep(phone, code)),
        4 => (0u8..2, 0u8..3).prop_map(|(phone, code)| Step::Check(phone, code)),
        3 => prop_oneof![0..2 * GAP, 0..WINDOW].prop_map(Step::Pass),
    ];
    histories::<S, _>(step, async |state, steps| {
        let mut now = 0;
        let mut phones: BTreeMap<u8, Model> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Keep(phone, code) => {
                    // Two calls never come at the same time: that would be a repeat.
                    now += 1;
                    let kept = state.login_codes.keep(&ask(&phone.to_string(), &code.to_string(), now), at(now)).await.unwrap();
                    let model = phones.entry(phone).or_default();
                    let expected = if now < model.again {
                        too_soon(model.again - now)
                    } else if now < model.window_ends && model.sends >= SENDS {
                        too_soon(model.window_ends - now)
                    } else {
                        if now >= model.window_ends {
                            (model.sends, model.window_ends) = (0, now + WINDOW);
                        }
                        (model.code, model.again, model.sends, model.tries) = (Some((code, now + LIFE)), now + GAP, model.sends + 1, 0);
                        CodeKept::Kept
                    };
                    prop_assert_eq!(kept, expected);
                }
                Step::Check(phone, code) => {
                    let verdict = state.login_codes.check(APP, &phone.to_string(), &code.to_string(), TRIES, at(now)).await.unwrap();
                    let model = phones.entry(phone).or_default();
                    let expected = match model.code.filter(|(_, until)| now < *until) {
                        None => CodeVerdict::Wrong,
                        Some(_) if model.tries >= TRIES => CodeVerdict::Spent { retry_after_ms: model.again.saturating_sub(now) },
                        Some((right, _)) if right == code => {
                            model.code = None;
                            CodeVerdict::Right
                        }
                        Some(_) => {
                            model.tries += 1;
                            CodeVerdict::Wrong
                        }
                    };
                    prop_assert_eq!(verdict, expected);
                }
                Step::Pass(ms) => now += ms,
            }
        }
        Ok(())
    });
}
