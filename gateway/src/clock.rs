//! Time since the gateway began, for waits within this process. What is shared with other nodes takes its time from the state's clock.

use std::time::Instant;

/// The start of the gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uptime(Instant);

impl Uptime {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Milliseconds since the start; never goes back, whatever clocks are set to.
    pub(crate) fn now_ms(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
