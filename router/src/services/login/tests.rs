//! The rules of logins, over stores in memory.

use super::{Address, LoggedIn, Logins, Phone, network, random_code};
use crate::{
    config::LoginConfig,
    metrics::Metrics,
    services::{ids::Ids, ports::RoomRecords},
    sms::{SmsError, SmsSender},
    testing::{TestPeople, TestRecords},
};
use async_trait::async_trait;
use billfish_state::{AppId, SessionOwner, State, UserId};
use billfish_wire::Reason;
use prometheus_client::registry::Registry;
use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex},
};
use tokio_util::task::TaskTracker;

const APP: AppId = AppId(10_001);
const NOW: u64 = 1_800_000_000_000;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const HOME: Address = None;

/// Remembers what it has sent, or fails.
#[derive(Default)]
struct TestSms {
    sent: Mutex<Vec<(String, String)>>,
    is_away: Mutex<bool>,
}

#[async_trait]
impl SmsSender for TestSms {
    fn fixed_code(&self) -> Option<&'static str> {
        None
    }

    async fn send(&self, phone: &Phone, code: &str, _now_ms: u64) -> Result<(), SmsError> {
        if *self.is_away.lock().unwrap() {
            return Err(SmsError::Refused(500));
        }
        self.sent.lock().unwrap().push((phone.with_plus(), code.to_owned()));
        Ok(())
    }
}

struct House {
    logins: Arc<Logins>,
    sms: Arc<TestSms>,
    people: Arc<TestPeople>,
    records: Arc<TestRecords>,
}

impl House {
    fn new() -> Self {
        let (sms, people) = (Arc::new(TestSms::default()), Arc::new(TestPeople::with_step(100)));
        let records = Arc::new(TestRecords::default());
        let logins = Arc::new(Self::logins(&State::in_memory(), &people, &records, sms.clone()));
        Self { logins, sms, people, records }
    }

    fn logins(state: &State, people: &Arc<TestPeople>, records: &Arc<TestRecords>, sms: Arc<TestSms>) -> Logins {
        let metrics = Metrics::register(&mut Registry::default());
        let users = Ids::new("user", people.clone(), TaskTracker::new(), metrics.clone());
        Logins::new(state, (people.clone(), records.clone()), users, Some(sms), LoginConfig::default(), metrics)
    }

    /// Has a code sent, and gives it.
    async fn code(&self, phone: &Phone, now: u64) -> String {
        self.logins.send_code(APP, phone, HOME, NOW + now).await.unwrap();
        self.sms.sent.lock().unwrap().last().unwrap().1.clone()
    }

    async fn login(&self, phone: &Phone, code: &str, now: u64) -> Option<LoggedIn> {
        self.logins.login(APP, phone, code, HOME, NOW + now).await.unwrap()
    }

    /// How long a try is to wait that is refused for being one too many.
    async fn wait_of(&self, phone: &Phone, code: &str, now: u64) -> u64 {
        let refused = self.logins.login(APP, phone, code, HOME, NOW + now).await.unwrap_err();
        assert_eq!(refused.reason, Reason::RateLimited, "{refused}");
        refused.retry_after_ms.unwrap()
    }
}

fn phone(number: u64) -> Phone {
    Phone::parse(&(8_613_800_000_000 + number).to_string()).unwrap()
}

/// A code that is not this one.
fn other_than(code: &str) -> String {
    format!("{:04}", (code.parse::<u32>().unwrap() + 1) % 10_000)
}

#[tokio::test]
async fn a_phone_that_logs_in_for_the_first_time_gets_a_user_and_a_name_and_keeps_them() {
    let house = House::new();
    let code = house.code(&phone(1), 0).await;
    assert_eq!(house.sms.sent.lock().unwrap()[0].0, "+8613800000001");
    let first = house.login(&phone(1), &code, 0).await.unwrap();
    let profiles = house.records.profiles(APP, &[first.user]).await.unwrap();
    assert_eq!(profiles[0].name, format!("user{}", first.user));
    let code = house.code(&phone(1), MINUTE).await;
    let second = house.login(&phone(1), &code, MINUTE).await.unwrap();
    assert_eq!((second.user, house.people.users()), (first.user, 1));
    assert_ne!(second.token, first.token);
    let code = house.code(&phone(2), 0).await;
    assert_ne!(house.login(&phone(2), &code, 0).await.unwrap().user, first.user);
}

#[tokio::test]
async fn two_first_logins_at_once_make_one_user() {
    let state = State::in_memory();
    let (people, records, sms) = (Arc::new(TestPeople::with_step(100)), Arc::new(TestRecords::default()), Arc::new(TestSms::default()));
    let routers = [(); 2].map(|()| Arc::new(House::logins(&state, &people, &records, sms.clone())));
    // Each has a code of its own, for a code is good once. Both have seen that the phone has no user before either gets an id for one.
    let gate = people.hold_segments();
    let mut logins = Vec::new();
    for (turn, router) in routers.iter().enumerate() {
        let now_ms = NOW + turn as u64 * MINUTE;
        router.send_code(APP, &phone(1), HOME, now_ms).await.unwrap();
        let code = sms.sent.lock().unwrap().last().unwrap().1.clone();
        let router = Arc::clone(router);
        logins.push(tokio::spawn(async move { router.login(APP, &phone(1), &code, HOME, now_ms).await.unwrap().unwrap() }));
        gate.wait_for_callers(turn + 1).await;
    }
    gate.open();
    let mut users = BTreeSet::new();
    for login in logins {
        users.insert(login.await.unwrap().user);
    }
    assert_eq!((users.len(), people.users()), (1, 1));
}

#[tokio::test]
async fn a_code_lets_in_once_however_many_show_it_at_once() {
    let house = House::new();
    let code = house.code(&phone(1), 0).await;
    let tries: Vec<_> = (0..5)
        .map(|_| {
            let (logins, code) = (Arc::clone(&house.logins), code.clone());
            tokio::spawn(async move { logins.login(APP, &phone(1), &code, HOME, NOW).await.unwrap() })
        })
        .collect();
    let mut let_in = 0;
    for one in tries {
        let_in += usize::from(one.await.unwrap().is_some());
    }
    assert_eq!(let_in, 1);
}

#[tokio::test]
async fn a_code_runs_out_after_five_minutes() {
    let house = House::new();
    let code = house.code(&phone(1), 0).await;
    assert_eq!(house.login(&phone(1), &code, 5 * MINUTE).await, None);
    let code = house.code(&phone(1), 5 * MINUTE).await;
    assert!(house.login(&phone(1), &code, 10 * MINUTE - 1).await.is_some());
}

#[tokio::test]
async fn after_five_wrong_codes_the_right_one_does_not_help_and_another_does() {
    let house = House::new();
    let code = house.code(&phone(1), 0).await;
    for _ in 0..4 {
        assert_eq!(house.login(&phone(1), &other_than(&code), 0).await, None);
    }
    assert_eq!(house.login(&phone(1), &other_than(&code), 0).await, None, "the fifth");
    assert_eq!(house.wait_of(&phone(1), &code, 30 * SECOND).await, 30 * SECOND, "five tries a minute");
    assert_eq!(house.wait_of(&phone(1), &code, MINUTE).await, 0, "and then there may be another code, but not this one");
    let code = house.code(&phone(1), MINUTE).await;
    assert!(house.login(&phone(1), &code, MINUTE).await.is_some());
}

#[tokio::test]
async fn between_two_codes_are_sixty_seconds_and_ten_are_all_in_a_day() {
    let house = House::new();
    house.code(&phone(1), 0).await;
    let too_soon = async |now| house.logins.send_code(APP, &phone(1), HOME, NOW + now).await.unwrap_err();
    assert_eq!(too_soon(59_999).await.retry_after_ms, Some(1));
    assert_eq!(house.sms.sent.lock().unwrap().len(), 1);
    for send in 1..10 {
        house.code(&phone(1), send * MINUTE).await;
    }
    let refused = too_soon(10 * MINUTE).await;
    assert_eq!((refused.reason, refused.retry_after_ms), (Reason::RateLimited, Some(DAY - 10 * MINUTE)));
    house.code(&phone(2), 10 * MINUTE).await;
    house.code(&phone(1), DAY).await;
}

#[tokio::test]
async fn a_phone_has_five_tries_a_minute_whether_they_are_right_or_not() {
    let house = House::new();
    for _ in 0..5 {
        assert_eq!(house.login(&phone(1), "0000", 0).await, None, "no code was sent");
    }
    assert_eq!(house.wait_of(&phone(1), "0000", SECOND).await, 59 * SECOND);
    assert_eq!(house.login(&phone(2), "0000", SECOND).await, None, "others are not held up");
    assert_eq!(house.login(&phone(1), "0000", MINUTE).await, None);
}

#[tokio::test]
async fn an_address_has_sixty_calls_a_minute_for_all_phones_together() {
    let house = House::new();
    let here: Address = Some("203.0.113.9".parse().unwrap());
    for number in 0..30 {
        house.logins.send_code(APP, &phone(number), here, NOW).await.unwrap();
        assert_eq!(house.logins.login(APP, &phone(number), "none", here, NOW).await.unwrap(), None);
    }
    let refused = house.logins.send_code(APP, &phone(99), here, NOW + SECOND).await.unwrap_err();
    assert_eq!((refused.reason, refused.retry_after_ms), (Reason::RateLimited, Some(59 * SECOND)));
    assert!(house.logins.login(APP, &phone(99), "0000", here, NOW).await.is_err());
    let there: Address = Some("203.0.113.10".parse().unwrap());
    house.logins.send_code(APP, &phone(99), there, NOW).await.unwrap();
}

#[test]
fn an_address_of_version_6_counts_with_its_neighbours() {
    let of = |text: &str| network(text.parse().unwrap()).to_string();
    assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    assert_eq!(of("::ffff:203.0.113.9"), "203.0.113.9");
    assert_eq!(network("203.0.113.9".parse::<IpAddr>().unwrap()).to_string(), "203.0.113.9");
}

#[tokio::test]
async fn a_session_is_known_by_its_token_until_it_ends() {
    let house = House::new();
    let code = house.code(&phone(1), 0).await;
    let LoggedIn { user, token, expires_in } = house.login(&phone(1), &code, 0).await.unwrap();
    let owner = SessionOwner { app: APP, user };
    assert_eq!(u64::try_from(expires_in.as_millis()).unwrap(), 30 * DAY);
    let session = async |token: &str, now| house.logins.session(token, NOW + now).await.unwrap();
    assert_eq!(session(&token, 0).await, Some(owner));
    assert_eq!(session(&token, 30 * DAY - 1).await, Some(owner));
    assert_eq!(session(&token, 30 * DAY).await, None);
    for foreign in ["", "0", &token.to_uppercase(), &token[1..], &format!("{token}%{APP}"), &"0".repeat(32)] {
        assert_eq!(session(foreign, 0).await, None, "{foreign}");
    }
    house.logins.log_out(&token, owner).await.unwrap();
    assert_eq!(session(&token, 0).await, None, "at once");
}

#[tokio::test]
async fn the_store_never_sees_a_token() {
    let state = State::in_memory();
    let (people, records, sms) = (Arc::new(TestPeople::with_step(100)), Arc::new(TestRecords::default()), Arc::new(TestSms::default()));
    let logins = House::logins(&state, &people, &records, sms.clone());
    logins.send_code(APP, &phone(1), HOME, NOW).await.unwrap();
    let code = sms.sent.lock().unwrap()[0].1.clone();
    let logged_in = logins.login(APP, &phone(1), &code, HOME, NOW).await.unwrap().unwrap();
    let print = crate::signature::print(logged_in.token.as_bytes());
    let found = state.sessions.resolve(&[logged_in.token.clone(), print], NOW).await.unwrap();
    assert_eq!(found, [None, Some(SessionOwner { app: APP, user: logged_in.user })]);
    assert!(!format!("{logged_in:?}").contains(&logged_in.token));
}

#[tokio::test]
async fn a_user_is_logged_out_everywhere_at_once() {
    let house = House::new();
    let mut tokens = Vec::new();
    for turn in 0..3 {
        let code = house.code(&phone(1), turn * MINUTE).await;
        tokens.push(house.login(&phone(1), &code, turn * MINUTE).await.unwrap());
    }
    house.logins.log_out_everywhere(SessionOwner { app: APP, user: tokens[0].user }).await.unwrap();
    for LoggedIn { token, .. } in tokens {
        assert_eq!(house.logins.session(&token, NOW + 3 * MINUTE).await.unwrap(), None);
    }
}

#[tokio::test]
async fn records_that_are_away_use_no_code_up() {
    let house = House::new();
    let code = house.code(&phone(1), 0).await;
    house.people.fail(true);
    let refused = house.logins.login(APP, &phone(1), &code, HOME, NOW).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Unavailable);
    house.people.fail(false);
    assert!(house.login(&phone(1), &code, 0).await.is_some());
}

#[tokio::test]
async fn a_provider_that_fails_is_not_asked_for_the_same_phone_at_once() {
    let house = House::new();
    *house.sms.is_away.lock().unwrap() = true;
    let refused = house.logins.send_code(APP, &phone(1), HOME, NOW).await.unwrap_err();
    assert_eq!((refused.reason, refused.retry_after_ms), (Reason::Unavailable, Some(MINUTE)));
    *house.sms.is_away.lock().unwrap() = false;
    let refused = house.logins.send_code(APP, &phone(1), HOME, NOW).await.unwrap_err();
    assert_eq!(refused.reason, Reason::RateLimited);
    house.code(&phone(1), MINUTE).await;
}

#[test]
fn codes_have_four_digits_and_are_not_all_the_same() {
    let codes: BTreeSet<String> = (0..200).map(|_| random_code().unwrap()).collect();
    assert!(codes.len() > 100 && codes.iter().all(|code| code.len() == 4 && code.bytes().all(|byte| byte.is_ascii_digit())));
}

#[tokio::test]
async fn an_apps_phones_are_its_own() {
    let house = House::new();
    let code = house.code(&phone(1), 0).await;
    let elsewhere = AppId(10_002);
    assert_eq!(house.logins.login(elsewhere, &phone(1), &code, HOME, NOW).await.unwrap(), None);
    let user: UserId = house.login(&phone(1), &code, 0).await.unwrap().user;
    house.logins.send_code(elsewhere, &phone(1), HOME, NOW).await.unwrap();
    let code = house.sms.sent.lock().unwrap().last().unwrap().1.clone();
    let other = house.logins.login(elsewhere, &phone(1), &code, HOME, NOW).await.unwrap().unwrap();
    assert_ne!(other.user, user);
}
