//! Faults on purpose, to prove that a check of a run notices what it is there for: one for each invariant that `loadgen check --ledger` judges.
//!
//! `BILLFISH_BUG=NAME` has the process do it wrong in that one way: where a gift is concerned to about one in eight, always the same ones by
//! their `uuid`. Only in debug builds with the feature `bugs`; in any other, and so in whatever is released, nothing here is compiled.
//! `tests/bugs.rs` runs each. The fault of I12 is the gateway's: `gateway/src/bug.rs`.

/// A way to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// I1: a gift is acknowledged, and never handed to the ledger.
    AckUnpaid,
    /// I2: a gift is debited twice, its receiver credited twice; the records have it once.
    DebitTwice,
    /// I3: a receiver gets a bean that nobody paid.
    MakeMoney,
    /// I4: a room's gifts are numbered with a hole.
    SkipPlace,
    /// I4: a gift moves the bar of a PK too far.
    MoveBarTooFar,
    /// I5: a gift is paid, taken out of the outbox, and told to nobody.
    TellNobody,
    /// I6: a room is told twice of a gift.
    TellTwice,
    /// I7: somebody in another room hears a notice of this one.
    TellAStranger,
}

#[cfg(all(feature = "bugs", debug_assertions))]
impl Bug {
    const ALL: [Self; 8] = [
        Self::AckUnpaid,
        Self::DebitTwice,
        Self::MakeMoney,
        Self::SkipPlace,
        Self::MoveBarTooFar,
        Self::TellNobody,
        Self::TellTwice,
        Self::TellAStranger,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::AckUnpaid => "ack_unpaid",
            Self::DebitTwice => "debit_twice",
            Self::MakeMoney => "make_money",
            Self::SkipPlace => "skip_place",
            Self::MoveBarTooFar => "move_bar_too_far",
            Self::TellNobody => "tell_nobody",
            Self::TellTwice => "tell_twice",
            Self::TellAStranger => "tell_a_stranger",
        }
    }
}

/// Names that are another crate's to know.
#[cfg(all(feature = "bugs", debug_assertions))]
const OF_OTHERS: [&str; 1] = ["count_less"];

/// Whether the process is to be wrong in this way.
#[cfg(all(feature = "bugs", debug_assertions))]
pub(crate) fn is_on(bug: Bug) -> bool {
    use std::sync::LazyLock;
    static CHOSEN: LazyLock<Option<Bug>> = LazyLock::new(|| {
        let name = std::env::var("BILLFISH_BUG").ok()?;
        let chosen = Bug::ALL.into_iter().find(|bug| bug.name() == name);
        // Wrong, it would be a test that tests nothing.
        assert!(chosen.is_some() || OF_OTHERS.contains(&name.as_str()), "BILLFISH_BUG: there is no {name}");
        chosen
    });
    *CHOSEN == Some(bug)
}

/// Whether it is to be wrong about this gift.
#[cfg(all(feature = "bugs", debug_assertions))]
pub(crate) fn hits(bug: Bug, uuid: &str) -> bool {
    const ONE_IN: u64 = 8;
    // FNV-1a, of which the upper half is even for texts that differ little.
    let digest = uuid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    is_on(bug) && (digest >> 32).is_multiple_of(ONE_IN)
}

/// Whether the process is to be wrong in this way.
#[cfg(not(all(feature = "bugs", debug_assertions)))]
pub(crate) const fn is_on(_bug: Bug) -> bool {
    false
}

/// Whether it is to be wrong about this gift.
#[cfg(not(all(feature = "bugs", debug_assertions)))]
pub(crate) const fn hits(_bug: Bug, _uuid: &str) -> bool {
    false
}
