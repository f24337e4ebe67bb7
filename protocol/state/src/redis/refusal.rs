//! What an error of Redis is about: the server, which cannot serve anybody now, or a key that holds something else than it must.
//!
//! - Codes, not texts, where Redis gives one. Redis 6.2 wraps what a command inside a script was told into `ERR Error running script`.
//! - `MOVED`, `NOSCRIPT`, `NOPERM` and the like are about what was asked, and none of this matter.

use redis::ServerError;

/// What a server says that refuses everybody: reads may work, but nothing here does without writes, so it counts as away for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A replica, or a former primary.
    ReadOnly,
    /// It may store nothing more.
    OutOfMemory,
    /// Its disk fails.
    CannotPersist,
    /// Too few replicas follow it.
    TooFewReplicas,
    /// Its cluster is not whole.
    ClusterDown,
    /// It reads its data.
    Loading,
    /// A replica that has lost its primary.
    PrimaryDown,
    /// A script runs for too long.
    Busy,
}

impl Refusal {
    const CODES: [(&'static str, Self); 8] = [
        ("READONLY", Self::ReadOnly),
        ("OOM", Self::OutOfMemory),
        ("MISCONF", Self::CannotPersist),
        ("NOREPLICAS", Self::TooFewReplicas),
        ("CLUSTERDOWN", Self::ClusterDown),
        ("LOADING", Self::Loading),
        ("MASTERDOWN", Self::PrimaryDown),
        ("BUSY", Self::Busy),
    ];

    /// `None` where the error is about what was asked.
    pub(super) fn of(error: &ServerError) -> Option<Self> {
        let (_, refusal) = Self::CODES.into_iter().find(|(code, _)| says(error, code))?;
        // One slot without a server is the map's matter.
        let is_of_one_slot = refusal == Self::ClusterDown && error.details().is_some_and(|details| details.contains("Hash slot"));
        (!is_of_one_slot).then_some(refusal)
    }

    /// For a person.
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::ReadOnly => "refuses writes: it is a replica, or was a primary (READONLY)",
            Self::OutOfMemory => "refuses writes: it has used its maxmemory (OOM)",
            Self::CannotPersist => "refuses writes: it cannot write to its disk (MISCONF)",
            Self::TooFewReplicas => "refuses writes: too few replicas follow it (NOREPLICAS)",
            Self::ClusterDown => "its cluster is not whole (CLUSTERDOWN)",
            Self::Loading => "it is still reading its data (LOADING)",
            Self::PrimaryDown => "it is a replica that has lost its primary (MASTERDOWN)",
            Self::Busy => "it is busy with a script (BUSY)",
        }
    }

    /// Whether the right server may stand behind the same name by now.
    pub(super) fn may_be_elsewhere(self) -> bool {
        matches!(self, Self::ReadOnly | Self::PrimaryDown)
    }

    /// Whether what it has afterwards may be less than what it had acknowledged. One that only took nothing more has kept everything.
    pub(super) fn may_have_forgotten(self) -> bool {
        match self {
            Self::ReadOnly | Self::ClusterDown | Self::Loading | Self::PrimaryDown => true,
            Self::OutOfMemory | Self::CannotPersist | Self::TooFewReplicas | Self::Busy => false,
        }
    }
}

/// A key holds something of another type than the command works on.
pub(super) fn is_of_another_type(error: &ServerError) -> bool {
    says(error, "WRONGTYPE")
}

fn says(error: &ServerError, code: &str) -> bool {
    error.code() == code
        || error.details().is_some_and(|details| {
            details.starts_with("Error running script") && details.split_ascii_whitespace().any(|word| word.trim_start_matches('-') == code)
        })
}

#[cfg(test)]
mod tests {
    use super::{Refusal, is_of_another_type};
    use redis::{ServerError, Value};

    fn error(line: &str) -> ServerError {
        match redis::parse_redis_value(format!("-{line}\r\n").as_bytes()) {
            Ok(Value::ServerError(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_server_says_that_cannot_serve_is_told_from_what_is_wrong_with_a_call() {
        let refusals = [
            ("READONLY You can't write against a read only replica.", Refusal::ReadOnly),
            ("OOM command not allowed when used memory > 'maxmemory'. script: 8f, on @user_script:3.", Refusal::OutOfMemory),
            ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", Refusal::CannotPersist),
            ("NOREPLICAS Not enough good replicas to write.", Refusal::TooFewReplicas),
            ("CLUSTERDOWN The cluster is down", Refusal::ClusterDown),
            ("LOADING Redis is loading the dataset in memory", Refusal::Loading),
            ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Refusal::PrimaryDown),
            ("BUSY Redis is busy running a script.", Refusal::Busy),
            (
                "ERR Error running script (call to f_8f): @user_script:3: -READONLY You can't write against a read only replica.",
                Refusal::ReadOnly,
            ),
        ];
        for (line, refusal) in refusals {
            assert_eq!(Refusal::of(&error(line)), Some(refusal), "{line}");
        }
        for line in [
            "ERR unknown command 'READONLYX'",
            "MOVED 1 127.0.0.1:7000",
            "NOSCRIPT No matching script. Please use EVAL.",
            "NOPERM this user has no permissions to run the 'set' command",
            "CLUSTERDOWN Hash slot not served",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR value OOM is not an integer or out of range",
        ] {
            assert_eq!(Refusal::of(&error(line)), None, "{line}");
        }
    }

    #[test]
    fn a_key_of_another_type_is_known_also_inside_a_script() {
        assert!(is_of_another_type(&error(
            "WRONGTYPE Operation against a key holding the wrong kind of value script: 8f, on @user_script:1."
        )));
        assert!(is_of_another_type(&error(
            "ERR Error running script (call to f_8f): @user_script:1: WRONGTYPE Operation against a key holding the wrong kind of value"
        )));
        assert!(!is_of_another_type(&error("ERR wrong number of arguments")));
    }
}
