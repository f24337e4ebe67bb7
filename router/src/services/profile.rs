//! How users are shown to others: nickname and avatar, cached for a minute.
//!
//! - A user without a profile is shown by number. So is one whose profile cannot be read: chat goes on without the records.
//! - The cache holds misses too, so an unknown user costs one query a minute.
//! - Who misses what somebody else is loading waits for that; where it fails, each asks for himself.

use crate::{
    Refusal,
    metrics::Metrics,
    services::{
        is_user,
        ports::{Profile, RecordError, RoomRecords},
    },
};
use billfish_state::{AppId, UserId};
use billfish_wire::Reason;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// How long a profile is believed.
const FRESH_MS: u64 = 60_000;
/// Profiles kept, at about 200 bytes. A cache that is full is emptied: it fills again with those who speak.
const CACHED_MAX: usize = 50_000;
/// Longest nickname.
pub(crate) const NAME_BYTES_MAX: usize = 64;
/// Longest avatar or cover URL.
pub(crate) const URL_BYTES_MAX: usize = 512;
/// Profiles, or users asked about, in one call.
pub(crate) const USERS_PER_CALL_MAX: usize = 1_000;

type Key = (AppId, UserId);

/// What the records said of a user.
#[derive(Clone)]
struct Known {
    profile: Arc<Profile>,
    /// Whether it is the user's own; else it is made of the number.
    is_stored: bool,
    until_ms: u64,
}

#[derive(Default)]
struct Cached {
    known: HashMap<Key, Known>,
    /// Who is being asked about; ends when the answer is in `known`, or there is none.
    loading: HashMap<Key, watch::Receiver<()>>,
    /// Profiles stored through this router so far: what was read before one of them may be old.
    puts: u64,
}

pub(crate) struct Profiles {
    records: Arc<dyn RoomRecords>,
    cached: Mutex<Cached>,
    metrics: Metrics,
}

/// Users being asked about by one caller. Dropped, also when the caller goes, nobody waits for it any more.
struct Asking<'a> {
    profiles: &'a Profiles,
    keys: Vec<Key>,
    _ends: watch::Sender<()>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut cached = self.profiles.lock();
        for key in &self.keys {
            cached.loading.remove(key);
        }
    }
}

impl Profiles {
    pub(crate) fn new(records: Arc<dyn RoomRecords>, metrics: Metrics) -> Self {
        Self { records, cached: Mutex::default(), metrics }
    }

    /// How the user is shown.
    pub(crate) async fn shown(&self, app: AppId, user: UserId, now_ms: u64) -> Arc<Profile> {
        self.shown_each(&[(app, user)], now_ms).await.pop().expect("one profile for one user")
    }

    /// How each of the users is shown: one question to the records for those of an app who are not cached.
    pub(crate) async fn shown_each(&self, users: &[Key], now_ms: u64) -> Vec<Arc<Profile>> {
        let (known, error) = self.look(users, now_ms).await;
        if let Some(error) = error {
            self.metrics.store_failed("profile", &error);
        }
        let shown = |(known, (_, user)): (Option<Known>, &Key)| known.map_or_else(|| Arc::new(by_number(*user)), |known| known.profile);
        known.into_iter().zip(users).map(shown).collect()
    }

    /// The profiles of those users who have one, at most a minute old.
    pub(crate) async fn stored(&self, app: AppId, users: &[UserId], now_ms: u64) -> Result<Vec<Profile>, Refusal> {
        let keys: Vec<Key> = users.iter().map(|user| (app, *user)).collect::<BTreeSet<_>>().into_iter().collect();
        let (known, error) = self.look(&keys, now_ms).await;
        match error {
            Some(error) => Err(error.into()),
            None => Ok(known.into_iter().flatten().filter(|known| known.is_stored).map(|known| (*known.profile).clone()).collect()),
        }
    }

    /// What is known of each user, and why not of all.
    async fn look(&self, users: &[Key], now_ms: u64) -> (Vec<Option<Known>>, Option<RecordError>) {
        let mut found: Vec<Option<Known>> = {
            let cached = self.lock();
            users.iter().map(|user| cached.fresh(user, now_ms)).collect()
        };
        let missing: BTreeSet<Key> = users.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(user, _)| *user).collect();
        if missing.is_empty() {
            return (found, None);
        }
        let (own, others) = self.ask_for(&missing);
        let mut answers = HashMap::new();
        let mut failed = self.load(&own.keys, now_ms, &mut answers).await.err();
        drop(own);
        let mut left = Vec::new();
        for (key, mut asked) in others {
            // It never says anything: it ends.
            drop(asked.changed().await);
            match self.lock().fresh(&key, now_ms) {
                Some(known) => drop(answers.insert(key, known)),
                None => left.push(key),
            }
        }
        if !left.is_empty() {
            failed = self.load(&left, now_ms, &mut answers).await.err().or(failed);
        }
        for (user, found) in users.iter().zip(&mut found) {
            if found.is_none() {
                *found = answers.get(user).cloned();
            }
        }
        (found, failed)
    }

    /// Takes on those nobody asks about; of the others, who does.
    fn ask_for(&self, missing: &BTreeSet<Key>) -> (Asking<'_>, Vec<(Key, watch::Receiver<()>)>) {
        let (ends, end) = watch::channel(());
        let (mut keys, mut others) = (Vec::new(), Vec::new());
        let mut cached = self.lock();
        for key in missing {
            match cached.loading.get(key) {
                Some(asked) => others.push((*key, asked.clone())),
                None => {
                    cached.loading.insert(*key, end.clone());
                    keys.push(*key);
                }
            }
        }
        (Asking { profiles: self, keys, _ends: ends }, others)
    }

    /// Asks the records about users, in the order of their apps.
    async fn load(&self, keys: &[Key], now_ms: u64, answers: &mut HashMap<Key, Known>) -> Result<(), RecordError> {
        let mut apps: BTreeMap<AppId, Vec<UserId>> = BTreeMap::new();
        for (app, user) in keys {
            apps.entry(*app).or_default().push(*user);
        }
        let mut failed = None;
        for (app, users) in apps {
            let puts = self.lock().puts;
            let read = match self.records.profiles(app, &users).await {
                Ok(read) => read,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            let mut read: HashMap<UserId, Profile> = read.into_iter().map(|profile| (profile.user, profile)).collect();
            let mut cached = self.lock();
            for user in users {
                let stored = read.remove(&user);
                let is_stored = stored.is_some();
                let profile = Arc::new(stored.unwrap_or_else(|| by_number(user)));
                let known = Known { profile, is_stored, until_ms: now_ms + FRESH_MS };
                if cached.puts == puts {
                    cached.keep((app, user), known.clone());
                }
                answers.insert((app, user), known);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Stores profiles; this router shows them from now on, others within a minute.
    pub(crate) async fn put(&self, app: AppId, profiles: &[Profile]) -> Result<(), Refusal> {
        if profiles.len() > USERS_PER_CALL_MAX {
            return Err(Refusal::because(Reason::Malformed, format!("at most {USERS_PER_CALL_MAX} users at a time")));
        }
        for profile in profiles {
            check(profile)?;
        }
        self.records.put_profiles(app, profiles).await?;
        let mut cached = self.lock();
        cached.puts += 1;
        for profile in profiles {
            cached.known.remove(&(app, profile.user));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cached {
    fn fresh(&self, key: &Key, now_ms: u64) -> Option<Known> {
        self.known.get(key).filter(|known| now_ms < known.until_ms).cloned()
    }

    fn keep(&mut self, key: Key, known: Known) {
        if self.known.len() >= CACHED_MAX {
            self.known.clear();
        }
        self.known.insert(key, known);
    }
}

fn check(profile: &Profile) -> Result<(), Refusal> {
    let problem = if !is_user(profile.user) {
        "a userId is 10000 or above"
    } else if profile.name.trim().is_empty() || profile.name.len() > NAME_BYTES_MAX {
        "a nickname is 1 to 64 bytes"
    } else if profile.name.chars().any(char::is_control) {
        "a nickname has no control characters"
    } else if profile.avatar.len() > URL_BYTES_MAX {
        "an avatar is at most 512 bytes"
    } else {
        return Ok(());
    };
    Err(Refusal::because(Reason::Malformed, problem))
}

fn by_number(user: UserId) -> Profile {
    Profile { user, name: user.to_string(), avatar: String::new() }
}

#[cfg(test)]
mod tests {
    use super::{FRESH_MS, Profiles};
    use crate::{
        metrics::Metrics,
        services::ports::{Profile, RoomRecords},
        testing::TestRecords,
    };
    use billfish_state::{AppId, UserId};
    use billfish_wire::Reason;
    use prometheus_client::registry::Registry;
    use std::sync::Arc;

    const APP: AppId = AppId(10_001);
    const ALICE: UserId = UserId(20_001);
    const BOB: UserId = UserId(20_002);
    const CAROL: UserId = UserId(20_003);

    fn profile(name: &str) -> Profile {
        Profile { user: ALICE, name: name.to_owned(), avatar: "a.png".to_owned() }
    }

    #[tokio::test]
    async fn a_profile_is_read_once_a_minute_and_shown_by_number_where_there_is_none() {
        let records = Arc::new(TestRecords::default());
        let profiles = Profiles::new(records.clone(), Metrics::register(&mut Registry::default()));
        for _ in 0..3 {
            assert_eq!(profiles.shown(APP, ALICE, 0).await.name, "20001");
        }
        assert_eq!(records.calls("profiles"), 1);
        records.put_profiles(APP, &[profile("Alice")]).await.unwrap();
        assert_eq!(profiles.shown(APP, ALICE, FRESH_MS - 1).await.name, "20001");
        assert_eq!(profiles.shown(APP, ALICE, FRESH_MS).await.name, "Alice");
        // Through this router it is seen at once.
        profiles.put(APP, &[profile("Alicia")]).await.unwrap();
        assert_eq!(profiles.shown(APP, ALICE, FRESH_MS).await.name, "Alicia");
    }

    #[tokio::test]
    async fn of_many_who_miss_a_profile_one_asks_for_all() {
        let records = Arc::new(TestRecords::default());
        records.put_profiles(APP, &[profile("Alice")]).await.unwrap();
        let profiles = Arc::new(Profiles::new(records.clone(), Metrics::register(&mut Registry::default())));
        let gate = records.hold("profiles");
        let callers: Vec<_> = (0..20)
            .map(|_| {
                let profiles = Arc::clone(&profiles);
                tokio::spawn(async move { profiles.stored(APP, &[ALICE, BOB], 0).await.unwrap() })
            })
            .collect();
        gate.wait_for_callers(1).await;
        // The first to ask goes while it is answered: the others ask again, for themselves.
        let gone = Arc::clone(&profiles);
        let carol = tokio::spawn(async move { gone.shown(APP, CAROL, 0).await });
        gate.wait_for_callers(2).await;
        let waiting = Arc::clone(&profiles);
        let also = tokio::spawn(async move { waiting.shown(APP, CAROL, 0).await.name.clone() });
        carol.abort();
        gate.wait_for_callers(3).await;
        gate.open();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), [profile("Alice")], "Bob has none");
        }
        assert_eq!(also.await.unwrap(), "20003");
        assert_eq!(records.calls("profiles"), 3, "one for the twenty, one that was given up, one instead of it");
        assert_eq!(profiles.stored(APP, &[ALICE], 0).await.unwrap(), [profile("Alice")]);
        assert_eq!(records.calls("profiles"), 3, "and it is kept");
    }

    #[tokio::test]
    async fn what_was_read_before_a_profile_was_stored_is_not_kept() {
        let records = Arc::new(TestRecords::default());
        let profiles = Arc::new(Profiles::new(records.clone(), Metrics::register(&mut Registry::default())));
        let gate = records.hold("profiles");
        let reading = Arc::clone(&profiles);
        let read = tokio::spawn(async move { reading.shown(APP, ALICE, 0).await });
        gate.wait_for_callers(1).await;
        profiles.put(APP, &[profile("Alice")]).await.unwrap();
        gate.open();
        read.await.unwrap();
        assert_eq!(profiles.shown(APP, ALICE, 0).await.name, "Alice");
        assert_eq!(records.calls("profiles"), 2, "it was asked for again");
    }

    #[tokio::test]
    async fn who_wants_what_is_stored_is_told_when_that_cannot_be_read() {
        let records = Arc::new(TestRecords::default());
        let profiles = Profiles::new(records.clone(), Metrics::register(&mut Registry::default()));
        records.fail(true);
        assert_eq!(profiles.stored(APP, &[ALICE], 0).await.unwrap_err().reason, Reason::Unavailable);
        records.fail(false);
        assert_eq!(profiles.stored(APP, &[ALICE], 0).await.unwrap(), []);
    }

    #[tokio::test]
    async fn chat_goes_on_without_the_records() {
        let records = Arc::new(TestRecords::default());
        let profiles = Profiles::new(records.clone(), Metrics::register(&mut Registry::default()));
        records.fail(true);
        assert_eq!(profiles.shown(APP, ALICE, 0).await.name, "20001");
        records.fail(false);
        records.put_profiles(APP, &[profile("Alice")]).await.unwrap();
        assert_eq!(profiles.shown(APP, ALICE, 0).await.name, "Alice", "a failure is not cached");
    }

    #[tokio::test]
    async fn a_nickname_is_bounded_and_has_no_control_characters() {
        let profiles = Profiles::new(Arc::new(TestRecords::default()), Metrics::register(&mut Registry::default()));
        profiles.put(APP, &[profile(&"x".repeat(64))]).await.unwrap();
        for name in ["", "  ", "a\nb", &"x".repeat(65)] {
            assert_eq!(profiles.put(APP, &[profile(name)]).await.unwrap_err().reason, Reason::Malformed, "{name:?}");
        }
    }
}
