//! I10 and I12: after the load has gone the cluster comes back to how it was before it, and its counters add up.
//!
//! At rest means, of every running node: files and threads as before the load, and nothing in the queues, tables and in-flight counts that
//! `/metrics` shows. Of Redis: nobody online, nobody in a room, and no key without an end that was not there before.

use crate::vitals::Usage;
use billfish_testing::{Cluster, Node, NodeKind};
use std::{
    collections::{BTreeMap, BTreeSet},
    thread::sleep,
    time::{Duration, Instant},
};

/// From the end of the load until all is at rest.
pub const REST_MAX: Duration = Duration::from_secs(60);
/// Between two looks: each asks Redis for all its keys.
const LOOK: Duration = Duration::from_millis(500);
/// A pool may keep a few more connections than it had begun with. One per cent of a node's files would be less than one.
const FDS_MORE_MAX: usize = 8;
/// Keys that are told one by one; the rest are counted.
const KEYS_TOLD_MAX: usize = 5;
/// What is 0 on a gateway without clients.
const GATEWAY_GAUGES: [&str; 11] = [
    "gateway_connections",
    "gateway_sessions",
    "gateway_directory_seats",
    "gateway_copies_pending",
    "gateway_backlog_bytes",
    "gateway_backlogs",
    "gateway_rooms",
    "gateway_room_queue_bytes",
    "gateway_mailbox_depth",
    "gateway_upstream_in_flight",
    "gateway_state_pending",
];
/// What is 0 on a router that nobody asks anything.
const ROUTER_GAUGES: [&str; 3] = ["router_room_queue_depth", "router_lane_queue_depth", "router_rooms_degraded"];
/// Sets of the ids of apps: one key each, whatever the load.
const LASTING: [&str; 2] = ["imOnlineApps", "imAckApps"];
/// One line for each key that lasts for ever, and for those who are left in tables of who is here.
const LOOK_AT_KEYS: &str = "
local lines, cursor = {}, '0'
repeat
  local page = redis.call('SCAN', cursor, 'COUNT', 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do
    local left = 0
    if string.find(key, 'imOnlineZset:', 1, true) then left = redis.call('ZCARD', key) end
    if string.find(key, 'living_room_user_set:', 1, true) then left = redis.call('HLEN', key) end
    if left > 0 then lines[#lines + 1] = 'left ' .. left .. ' in ' .. key end
    if redis.call('PTTL', key) == -1 then lines[#lines + 1] = 'forever ' .. key end
  end
until cursor == '0'
return lines";

/// How it was before the load.
#[derive(Debug)]
pub struct Base {
    usage: BTreeMap<String, Usage>,
    lasting: BTreeSet<String>,
}

impl Base {
    /// How it is now.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        let usage = cluster.nodes().filter_map(|node| Some((node.name().to_owned(), Usage::of(node.pid()?)?))).collect();
        Self { usage, lasting: keys(cluster).unwrap_or_default().into_iter().collect() }
    }

    /// Waits until it is so again: how long that took, and what is not as it was when it took too long.
    #[must_use]
    pub fn wait(&self, cluster: &Cluster) -> (Duration, Vec<String>) {
        let began = Instant::now();
        loop {
            let unrest = self.unrest(cluster);
            if unrest.is_empty() || began.elapsed() >= REST_MAX {
                return (began.elapsed(), unrest);
            }
            sleep(LOOK);
        }
    }

    /// What is not as it was, in words.
    #[must_use]
    pub fn unrest(&self, cluster: &Cluster) -> Vec<String> {
        let mut unrest = Vec::new();
        for node in cluster.nodes().filter(|node| node.is_running()) {
            let Some((usage, metrics)) = node.pid().and_then(Usage::of).zip(metrics(node)) else {
                unrest.push(format!("{} does not answer", node.name()));
                continue;
            };
            // One that joined later is measured by its like.
            let like = self.usage.iter().rfind(|(name, _)| name.starts_with(node.name().split('-').next().unwrap_or_default()));
            let base = self.usage.get(node.name()).or(like.map(|(_, usage)| usage)).copied().unwrap_or_default();
            unrest.extend(grown(node.name(), base, usage));
            let gauges: &[&str] = if node.kind() == NodeKind::Gateway { &GATEWAY_GAUGES } else { &ROUTER_GAUGES };
            for name in gauges {
                let value = sum(&metrics, name);
                if value != Some(0.0) {
                    unrest.push(format!("{}: {name} is {value:?}", node.name()));
                }
            }
        }
        match keys(cluster) {
            Ok(keys) => {
                let mut keys: Vec<String> = keys.into_iter().filter(|key| !self.lasting.contains(key) && !lasts(key)).collect();
                let more = keys.len().saturating_sub(KEYS_TOLD_MAX);
                keys.truncate(KEYS_TOLD_MAX);
                unrest.extend(keys);
                if more > 0 {
                    unrest.push(format!("{more} more keys of Redis"));
                }
            }
            Err(error) => unrest.push(format!("Redis: {error}")),
        }
        unrest
    }
}

fn grown(name: &str, base: Usage, usage: Usage) -> Vec<String> {
    let mut grown = Vec::new();
    if usage.fds > base.fds + FDS_MORE_MAX {
        grown.push(format!("{name} has {} files open, {} before the load", usage.fds, base.fds));
    }
    // A pool of threads for blocking calls lets them go after a while; more than before means that they are not let go.
    if usage.threads > base.threads.max(1) * 2 + FDS_MORE_MAX {
        grown.push(format!("{name} has {} threads, {} before the load", usage.threads, base.threads));
    }
    grown
}

/// A key that is there once whatever the load.
fn lasts(line: &str) -> bool {
    line.strip_prefix("forever ").is_some_and(|key| LASTING.iter().any(|lasting| key.ends_with(lasting)))
}

fn keys(cluster: &Cluster) -> std::io::Result<Vec<String>> {
    let answers = cluster.redis_command_everywhere(&["EVAL", LOOK_AT_KEYS, "0"])?;
    Ok(answers.iter().flat_map(|answer| answer.lines()).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn metrics(node: &Node) -> Option<String> {
    node.admin("/metrics").filter(|(status, _)| *status == 200).map(|(_, text)| text)
}

/// The value of a metric, all its series together; `None` where there is no such.
fn sum(metrics: &str, name: &str) -> Option<f64> {
    let values = metrics.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    values
        .map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()))
        .try_fold(None, |sum, value| Some(Some(sum.unwrap_or(0.0) + value?)))?
}

/// Gateways whose counters do not add up, in words; the copies of all of them.
#[must_use]
pub fn sums(cluster: &Cluster) -> (u64, Vec<String>) {
    let (mut copies, mut problems) = (0, Vec::new());
    for gateway in cluster.gateways.iter().filter(|gateway| gateway.is_running()) {
        match metrics(gateway).map(|text| add_up(&text)) {
            Some(Ok(count)) => copies += count,
            Some(Err(problem)) => problems.push(format!("{}: {problem}", gateway.name())),
            None => problems.push(format!("{} does not answer", gateway.name())),
        }
    }
    (copies, problems)
}

/// `copies = delivered + dropped + pending`, exactly, when nothing moves.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter that a double can tell apart")]
fn add_up(metrics: &str) -> Result<u64, String> {
    let names = ["gateway_copies_total", "gateway_deliveries_total", "gateway_frames_dropped_total", "gateway_copies_pending"];
    let [copies, delivered, dropped, pending] = names.map(|name| sum(metrics, name).map(|value| value as u64));
    match (copies, delivered, dropped, pending) {
        (Some(copies), Some(delivered), Some(dropped), Some(pending)) if copies == delivered + dropped + pending => Ok(copies),
        counts => Err(format!("copies, delivered, dropped, pending do not add up: {counts:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{add_up, grown, lasts, sum};
    use crate::vitals::Usage;

    const METRICS: &str = "\
# TYPE gateway_copies counter
gateway_copies_total 12
gateway_deliveries_total{class=\"chat\"} 5
gateway_deliveries_total{class=\"event\"} 4
gateway_frames_dropped_total{class=\"chat\",reason=\"closed\"} 2
gateway_copies_pending 1
";

    #[test]
    fn copies_are_delivered_dropped_or_pending_to_the_last_one() {
        assert_eq!(add_up(METRICS), Ok(12));
        assert!(add_up(&METRICS.replace("pending 1", "pending 0")).is_err());
        assert!(add_up(&METRICS.replace("gateway_copies_pending 1\n", "")).is_err(), "a metric that is gone proves nothing");
    }

    #[test]
    fn a_metric_is_the_sum_of_its_series_and_of_no_other() {
        assert_eq!(sum(METRICS, "gateway_deliveries_total"), Some(9.0));
        assert_eq!(sum(METRICS, "gateway_copies"), None);
    }

    #[test]
    fn files_and_threads_that_stay_are_told() {
        let base = Usage { rss_bytes: 0, fds: 20, threads: 6 };
        assert!(grown("g", base, base).is_empty());
        assert_eq!(grown("g", base, Usage { fds: 29, ..base }).len(), 1);
        assert_eq!(grown("g", base, Usage { threads: 21, ..base }).len(), 1);
    }

    #[test]
    fn only_the_keys_that_are_one_whatever_the_load_may_last() {
        assert!(lasts("forever im:imOnlineApps"));
        assert!(!lasts("forever im:imOnlineZset:10001:3"));
        assert!(!lasts("left 3 in im:imOnlineApps"));
    }
}
