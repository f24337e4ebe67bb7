//! Lengths of time in the unit of the ports. The time itself is [`billfish_state::Clock`], one per node: `core.state.clock`.

use std::time::Duration;

/// A duration in whole milliseconds; one beyond 500 million years is that.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
