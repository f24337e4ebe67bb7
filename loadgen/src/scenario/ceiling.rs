//! A report's own ceiling: the bare send loop of the same machine right after the run, and the share of it that was reached.

use crate::{
    interrupt::Signal,
    probe::{self, Effort, JOINED},
    report::{Report, ratio},
    scenario::plans::clients_per_process,
};
use anyhow::Result;
use std::time::Duration;

/// The bare send loop in a report: a second and a half for each joining. A round to 20,000 sockets takes a tenth of a second or two.
const LIMIT_EFFORT: Effort = Effort { runs: 5, run: Duration::from_millis(300) };
/// Bytes of its frames where the run had no load frame: what `limit` takes by default.
const LIMIT_FRAME_BYTES: usize = 120;

/// Measures the bare send loop and states what the server reached as a share of it.
pub(super) fn add(report: &mut Report, interrupt: &Signal) -> Result<()> {
    let sockets = usize::try_from(report.connections).unwrap_or(usize::MAX).clamp(1, clients_per_process());
    let frame_bytes = if report.detail.frame_bytes > 0 { report.detail.frame_bytes } else { LIMIT_FRAME_BYTES };
    let limit = probe::measure(sockets, frame_bytes, &JOINED, LIMIT_EFFORT, Some(interrupt))?;
    // One-to-one copies and echoes have no fan-out: each is a write of its own, or nearly.
    let reached = limit.deliveries_per_cpu_s_at(report.detail.joining.unwrap_or(1.0).max(1.0));
    report.detail.ratio_to_limit = report.deliveries_per_server_cpu_s.zip(reached).and_then(|(own, limit)| ratio(own, limit));
    report.detail.limit_deliveries_per_cpu_s = reached;
    report.detail.limit = Some(limit);
    Ok(())
}
