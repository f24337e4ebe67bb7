//! How hooks are served: the section `webhooks` of the configuration.

use crate::ledger::webhooks::EVENTS_MAX;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How hooks are served.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhooksConfig {
    /// Hooks of one app.
    pub hooks_max: usize,
    /// Events that wait for one hook. Beyond it they are not kept, and counted: about so many, for routers count every second.
    pub events_max: u64,
    /// Calls of one hook at once, each of another room or user.
    pub calls_per_hook_max: usize,
    /// Calls of all hooks at once, of one router.
    pub calls_max: usize,
    /// How long a receiver has for its answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Longest pause between two tries of an event; the first is a second, and each next one twice as long.
    #[serde(with = "humantime_serde")]
    pub retry_max: Duration,
    /// An event that has not been accepted for so long is given up.
    #[serde(with = "humantime_serde")]
    pub give_up_after: Duration,
    /// How long an event that was given up is kept to be looked at.
    #[serde(with = "humantime_serde")]
    pub keep_given_up: Duration,
    /// Whether receivers may be called by `http://`, which anybody on the way reads. None: no, but where everything is in one process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_http: Option<bool>,
    /// Whether receivers may be on this machine or in a private network. None: no, but where everything is in one process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_private: Option<bool>,
}

/// A value that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("webhooks.{key}: {problem}")]
pub struct WebhooksConfigError {
    /// The key as it stands in the file, below `webhooks`.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Default for WebhooksConfig {
    fn default() -> Self {
        Self {
            hooks_max: 8,
            // Some 40 MiB in the records.
            events_max: EVENTS_MAX,
            calls_per_hook_max: 16,
            calls_max: 64,
            timeout: Duration::from_secs(10),
            retry_max: Duration::from_secs(5 * 60),
            give_up_after: Duration::from_secs(24 * 3600),
            keep_given_up: Duration::from_secs(7 * 24 * 3600),
            allow_http: None,
            allow_private: None,
        }
    }
}

/// More hooks of one app would each be written for every gift.
const HOOKS_TOP: usize = 64;
/// More would take a gibibyte of the records for one receiver that is away.
const EVENTS_TOP: u64 = 2_000_000;
/// More connections than that no receiver is glad of.
const CALLS_TOP: usize = 1_024;

impl WebhooksConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// Names the key.
    pub fn validate(&self) -> Result<(), WebhooksConfigError> {
        let wrong = |key, problem: String| Err(WebhooksConfigError { key, problem });
        if !(1..=HOOKS_TOP).contains(&self.hooks_max) {
            return wrong("hooks_max", format!("must be from 1 to {HOOKS_TOP}"));
        }
        if !(1..=EVENTS_TOP).contains(&self.events_max) {
            return wrong("events_max", format!("must be from 1 to {EVENTS_TOP}"));
        }
        for (key, calls) in [("calls_per_hook_max", self.calls_per_hook_max), ("calls_max", self.calls_max)] {
            if !(1..=CALLS_TOP).contains(&calls) {
                return wrong(key, format!("must be from 1 to {CALLS_TOP}"));
            }
        }
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
        for (key, value, least, most) in [
            ("timeout", self.timeout, Duration::from_millis(100), second * 60),
            ("retry_max", self.retry_max, second, day),
            ("give_up_after", self.give_up_after, second * 10, day * 30),
            ("keep_given_up", self.keep_given_up, second * 60, day * 365),
        ] {
            if value < least || value > most {
                return wrong(key, format!("must be between {least:?} and {most:?}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::WebhooksConfig;
    use std::time::Duration;

    #[test]
    fn the_defaults_are_valid_and_a_wrong_value_is_named_by_its_key() {
        assert_eq!(WebhooksConfig::default().validate(), Ok(()));
        assert_eq!(serde_json::from_str::<WebhooksConfig>("{}").unwrap(), WebhooksConfig::default());
        assert!(serde_json::from_str::<WebhooksConfig>(r#"{"hook_max":1}"#).is_err());
        type Spoil = fn(&mut WebhooksConfig);
        let cases: [(&str, Spoil); 14] = [
            ("hooks_max", |config| config.hooks_max = 0),
            ("hooks_max", |config| config.hooks_max = 65),
            ("events_max", |config| config.events_max = 0),
            ("events_max", |config| config.events_max = 2_000_001),
            ("calls_per_hook_max", |config| config.calls_per_hook_max = 0),
            ("calls_max", |config| config.calls_max = 1_025),
            ("timeout", |config| config.timeout = Duration::ZERO),
            ("timeout", |config| config.timeout = Duration::from_secs(61)),
            ("retry_max", |config| config.retry_max = Duration::from_millis(999)),
            ("retry_max", |config| config.retry_max = Duration::from_secs(24 * 3600 + 1)),
            ("give_up_after", |config| config.give_up_after = Duration::from_secs(9)),
            ("give_up_after", |config| config.give_up_after = Duration::from_secs(31 * 24 * 3600)),
            ("keep_given_up", |config| config.keep_given_up = Duration::from_secs(59)),
            ("keep_given_up", |config| config.keep_given_up = Duration::from_secs(366 * 24 * 3600)),
        ];
        for (key, spoil) in cases {
            let mut config = WebhooksConfig::default();
            spoil(&mut config);
            assert_eq!(config.validate().unwrap_err().key, key);
        }
    }
}
