//! A fault on purpose, to prove that a check of a run notices it, as `router/src/bug.rs`: `BILLFISH_BUG=count_less`, and copies to members of
//! rooms are not all counted (I12). Only in debug builds with the feature `bugs`.

/// Whether the process is to be wrong in this way.
#[cfg(all(feature = "bugs", debug_assertions))]
pub(crate) fn counts_less() -> bool {
    static CHOSEN: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| std::env::var("BILLFISH_BUG").is_ok_and(|bug| bug == "count_less"));
    *CHOSEN
}

/// Whether the process is to be wrong in this way.
#[cfg(not(all(feature = "bugs", debug_assertions)))]
pub(crate) const fn counts_less() -> bool {
    false
}
