//! How users are shown to others: nickname and avatar, cached for a minute.
//!
//! - A user without a profile is shown by number. So is one whose profile cannot be read: chat goes on without the records.
//! - The cache holds misses too, so an unknown user costs one query a minute.

use crate::{
    Refusal,
    metrics::Metrics,
    services::{
        is_user,
        ports::{Profile, RoomRecords},
    },
};
use billfish_state::{AppId, UserId};
use billfish_wire::Reason;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

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

type Cached = HashMap<(AppId, UserId), (Arc<Profile>, u64)>;

pub(crate) struct Profiles {
    records: Arc<dyn RoomRecords>,
    cached: Mutex<Cached>,
    metrics: Metrics,
}

impl Profiles {
    pub(crate) fn new(records: Arc<dyn RoomRecords>, metrics: Metrics) -> Self {
        Self { records, cached: Mutex::new(HashMap::new()), metrics }
    }

    /// How the user is shown.
    pub(crate) async fn shown(&self, app: AppId, user: UserId, now_ms: u64) -> Arc<Profile> {
        self.shown_each(&[(app, user)], now_ms).await.pop().expect("one profile for one user")
    }

    /// How each of the users is shown: one question to the records for those of an app who are not cached.
    pub(crate) async fn shown_each(&self, users: &[(AppId, UserId)], now_ms: u64) -> Vec<Arc<Profile>> {
        let mut shown: Vec<Option<Arc<Profile>>> = {
            let cached = self.lock();
            let fresh = |user| cached.get(user).filter(|(_, until_ms)| now_ms < *until_ms).map(|(profile, _)| Arc::clone(profile));
            users.iter().map(fresh).collect()
        };
        let mut missing: BTreeMap<AppId, BTreeSet<UserId>> = BTreeMap::new();
        for ((app, user), _) in users.iter().zip(&shown).filter(|(_, shown)| shown.is_none()) {
            missing.entry(*app).or_default().insert(*user);
        }
        for (app, missing) in missing {
            let missing: Vec<UserId> = missing.into_iter().collect();
            let found = match self.records.profiles(app, &missing).await {
                Ok(found) => Some(found),
                Err(error) => {
                    self.metrics.store_failed("profile", &error);
                    None
                }
            };
            let is_known = found.is_some();
            let mut found: HashMap<UserId, Profile> = found.into_iter().flatten().map(|profile| (profile.user, profile)).collect();
            let mut cached = self.lock();
            for user in missing {
                let profile = Arc::new(found.remove(&user).unwrap_or_else(|| by_number(user)));
                for (place, _) in users.iter().enumerate().filter(|(_, other)| **other == (app, user)) {
                    shown[place] = Some(Arc::clone(&profile));
                }
                if is_known {
                    if cached.len() >= CACHED_MAX {
                        cached.clear();
                    }
                    cached.insert((app, user), (profile, now_ms + FRESH_MS));
                }
            }
        }
        shown.into_iter().zip(users).map(|(shown, (_, user))| shown.unwrap_or_else(|| Arc::new(by_number(*user)))).collect()
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
        for profile in profiles {
            cached.remove(&(app, profile.user));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
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
