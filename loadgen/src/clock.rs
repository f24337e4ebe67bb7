//! The two clocks of a run.
//!
//! - Intended send times and arrivals are `CLOCK_MONOTONIC`: one clock for every process of this machine, so a sender here and a receiver
//!   in another worker may be compared. Sender and receivers must therefore share a machine.
//! - CPU time of this thread is what the bare send loop is charged with.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`: stays far below 2^53 (104 days of uptime are 9e15), so it survives a JSON number.
pub(crate) fn now_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// CPU time this thread has used, user and kernel together.
pub(crate) fn thread_cpu_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::ThreadCPUTime))
}

fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).expect("this clock started at boot and is not negative");
    let rest = u64::try_from(time.tv_nsec).expect("a nanosecond part is not negative");
    seconds * 1_000_000_000 + rest
}
