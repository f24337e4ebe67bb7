//! What was measured and counted in a run, and the report that follows from it.
//!
//! Nothing here measures or waits: the same measures give the same report.

use crate::{
    crowd::{slow::PaceLatencies, viewers::BarPush},
    gifts::GiftPlan,
    http::{self, Counters},
    latency::Latencies,
    proc::Usage,
    redis::RedisLoad,
    report::{
        BesideReport, Detail, GeneratorReport, HerdReport, LoadKind, Report, SlowReport, Spread, Tail,
        gifts::{GiftReport, expected_and_received},
        microseconds, number, ratio, ratio4,
    },
    scenario::{Answer, Load, Script, SlowScript},
    series::Series,
    tally::{Balance, LagAccount, LagBalance, MessageTally},
    worker::{Activity, Settled, WorkerReport},
};
use std::collections::BTreeMap;

/// Reasons for which a gateway ends who is slow or, as a stopped client is, silent.
const SLOWNESS: [&str; 3] = ["too_slow", "write_stalled", "heartbeat_lost"];

/// What was measured and counted on the way through a run.
pub(crate) struct Measures {
    pub(crate) settled: Settled,
    pub(super) connect_s: f64,
    pub(crate) load: Load,
    pub(crate) seen: WorkerReport,
    /// Since the load began; `None`: not read.
    pub(crate) counters: Option<Counters>,
    /// The servers before anyone connected, with everyone in, when the load began, when it was over, and after the drain.
    pub(super) before: Option<Usage>,
    pub(super) connected: Option<Usage>,
    pub(super) load_from: Option<Usage>,
    pub(super) held: Option<Usage>,
    pub(super) after: Option<Usage>,
    /// CPU seconds by name at the same times, but for `held`.
    pub(super) beside: [Option<BTreeMap<String, f64>>; 4],
    pub(super) memory_peak_bytes: Option<u64>,
    pub(super) generator: Option<GeneratorReport>,
    pub(super) redis: Option<RedisLoad>,
    /// What was to be measured and was not, and why.
    pub(super) unmeasured: BTreeMap<String, String>,
    /// The load was to last longer.
    pub(super) is_cut_short: bool,
    /// With PKs: where the server says that each bar stands, at the end.
    pub(super) server_bars: Option<Vec<Option<BarPush>>>,
    /// With gifts: what was meant to be sent.
    pub(crate) gifts: Option<GiftPlan>,
}

impl Measures {
    /// Copies of messages that the server did not accept, or not in time.
    fn unasked(&self) -> u64 {
        let refused = self.load.sent.iter().filter(|sent| matches!(sent.answer, Answer::Refused(_)));
        refused.map(|sent| self.message(sent.room, sent.message.number).map_or(0, |message| u64::from(message.received))).sum()
    }

    /// What the members have of a message; `None`: nobody has it.
    pub(crate) fn message(&self, room: usize, number: u32) -> Option<&MessageTally> {
        self.seen.messages.get(room)?.get(number as usize)
    }

    /// Frames that reached someone they were not for.
    pub(crate) fn strays(&self) -> u64 {
        self.seen.totals.strays + self.seen.gifts.as_ref().map_or(0, |gifts| gifts.sends.strays)
    }

    /// From the counters, or nothing where they were not read.
    fn counted<T: Default>(&self, of: impl FnOnce(&Counters) -> T) -> T {
        self.counters.as_ref().map(of).unwrap_or_default()
    }

    /// Messages and members, by room.
    fn rooms(&self) -> impl Iterator<Item = (u64, u64)> {
        self.load.accepted.iter().zip(&self.settled.members).map(|(&messages, &members)| (u64::from(messages), u64::from(members)))
    }

    /// The account of a run with slow readers.
    pub(crate) fn lag_account(&self, script: &SlowScript, counters: &Counters) -> LagAccount {
        let class = script.class.label();
        let of_class = |name| counters.by_label(name, "class", Some(("class", class))).values().sum();
        let mut account = LagAccount {
            resets: self.seen.resets,
            class_delivered: of_class(http::DELIVERED),
            class_dropped: of_class(http::DROPPED),
            received: self.seen.totals.received - self.unasked(),
            frame_bytes: self.seen.frame_bytes as u64,
            ..LagAccount::default()
        };
        for ((messages, members), ends) in self.rooms().zip(&self.seen.room_ends) {
            let ended = u64::from(ends.members).min(members);
            account.stayed_copies += messages * (members - ended);
            account.ended_copies += messages * ended;
            account.ended_received += ends.received;
        }
        account
    }

    /// Messages sent, the balance of their copies, and the latencies that count.
    fn balance(&self, script: &Script, lag: Option<LagBalance>) -> (u64, Balance, &Latencies) {
        let seen = &self.seen;
        let accepted: u64 = self.load.accepted.iter().map(|&count| u64::from(count)).sum();
        let dropped = self.counted(|counters| counters.by_label(http::DROPPED, "class", None));
        let (sent, expected, received, latency) = match script.activity {
            Activity::Listen if !self.load.accepted.is_empty() => {
                let copies = self.rooms().map(|(messages, members)| messages * members).sum();
                (accepted, copies, seen.totals.received - self.unasked(), &seen.latency)
            }
            Activity::Listen => (seen.sent, seen.sent, seen.beats_echoed, &seen.beat_latency),
            Activity::Echo { .. } | Activity::Chat { .. } => (seen.sent, seen.sent, seen.totals.received, &seen.latency),
            Activity::Gifts => {
                let rooms = seen.gifts.iter().flat_map(|gifts| &gifts.rooms).map(expected_and_received);
                let (expected, received) = rooms.fold((0, 0), |sum, room| (sum.0 + room.0, sum.1 + room.1));
                let acked = seen.gifts.as_ref().map_or(0, |gifts| gifts.sends.acked);
                // Gifts are of a class that is never dropped silently: no counter explains one that is missing.
                return (acked, Balance { expected, received, dropped, missing: expected - received }, &seen.latency);
            }
        };
        let balance = match lag {
            None => Balance::settle(expected, received, dropped),
            Some(LagBalance { expected, missing, .. }) => Balance { expected, received, dropped, missing },
        };
        (sent, balance, latency)
    }

    pub(super) fn report(&self, script: &Script, seed: u64) -> Report {
        let Self { settled, load, seen, .. } = self;
        let lag = script.slow.map(|slow| (slow, self.lag_account(&slow, self.counters.as_ref().unwrap_or(&Counters::default())).settle()));
        let (sent, balance, latency) = self.balance(script, lag.map(|(_, balance)| balance));
        let Balance { expected, received, dropped, missing } = balance;
        let span_s = number(seen.last_copy_ns.saturating_sub(load.first_ns)) / 1e9;
        let server_cpu_s = self.after.zip(self.load_from).map(|(after, before)| microseconds((after - before).cpu_s));
        let connect_cpu_s = self.connected.zip(self.before).map(|(after, before)| (after - before).cpu_s);
        let grown_bytes = self.held.zip(self.before).map(|(held, before)| number(held.rss_bytes.saturating_sub(before.rss_bytes)));
        let connections = settled.settled as u64;
        let is_load = !matches!(script.activity, Activity::Listen) || !load.accepted.is_empty();
        let mut detail = self.detail(script, seed, received);
        detail.slow = lag.map(|(slow, balance)| self.slow(&slow, balance));
        detail.gifts = seen.gifts.as_ref().zip(script.gifts).map(|(tally, script)| GiftReport {
            may_refuse: script.coins.is_some(),
            ..GiftReport::of(tally, load.seconds, server_cpu_s, script.is_pk, self.server_bars.as_deref())
        });
        Report {
            connections,
            logins_failed: settled.failures.values().sum(),
            login_ms: Spread::of(&settled.login),
            logins_per_server_cpu_s: connect_cpu_s.and_then(|cpu_s| ratio(number(connections), cpu_s)),
            sent,
            expected,
            received,
            dropped,
            missing,
            duplicates: seen.totals.duplicates,
            order_breaks: seen.totals.order_breaks,
            deliveries_per_s: if is_load { ratio(number(received), span_s) } else { None },
            server_cpu_s,
            deliveries_per_server_cpu_s: server_cpu_s.filter(|_| is_load).and_then(|cpu_s| ratio(number(received), cpu_s)),
            latency_ms: Tail::of(latency),
            last_member_ms: Spread::of(&last_members(&seen.messages, &settled.members)),
            server_rss_bytes: self.held.map(|usage| usage.rss_bytes),
            bytes_per_connection: grown_bytes.and_then(|grown| ratio(grown, number(connections))),
            detail,
            series: Series::default(),
        }
    }

    fn detail(&self, script: &Script, seed: u64, received: u64) -> Detail {
        let Self { settled, load, seen, .. } = self;
        let mut refused = seen.refused.clone();
        for (cause, count) in &load.refused {
            *refused.entry(cause.clone()).or_default() += count;
        }
        let milliseconds = |seconds: f64| (seconds * 1_000.0).round() / 1_000.0;
        let generator = self.generator.map(|generator| GeneratorReport {
            cpu_s: microseconds(generator.cpu_s),
            cpu_us_per_copy: ratio(generator.cpu_s * 1e6, number(received)),
            ..generator
        });
        let (copies, fanout_sends) = self.counted(|counters| (counters.sum(http::COPIES), counters.sum(http::FANOUT_SENDS)));
        Detail {
            scenario: script.name,
            load: match script.activity {
                Activity::Listen if load.accepted.is_empty() => LoadKind::None,
                Activity::Listen | Activity::Chat { .. } => LoadKind::Messages,
                Activity::Echo { .. } => LoadKind::Beats,
                Activity::Gifts => LoadKind::Gifts,
            },
            seed,
            transport: script.transport,
            tls_full: settled.tls_full,
            tls_resumed: settled.tls_resumed,
            quic_lost: seen.quic_lost,
            seconds: milliseconds(load.seconds),
            connect_s: milliseconds(self.connect_s),
            frame_bytes: seen.frame_bytes,
            login_failures: settled.failures.clone(),
            login_retries: settled.retries.clone(),
            lost: seen.lost.clone(),
            refused,
            unsent: load.unsent + seen.unsent + seen.gifts.as_ref().map_or(0, |gifts| gifts.sends.unsent),
            strays: self.strays(),
            at_least_once: script.at_least_once,
            unasked: self.unasked(),
            joining: ratio(number(copies), number(fanout_sends)).filter(|_| !load.accepted.is_empty()),
            generator,
            unmeasured: self.unmeasured.clone(),
            interrupted: self.is_cut_short,
            beside: self.beside(),
            herd: seen.herd.as_ref().map(HerdReport::of),
            redis: self.redis.clone().map(|redis| {
                let per_delivery = ratio4(number(redis.commands), number(received));
                RedisLoad { per_delivery, ..redis }
            }),
            ..Detail::default()
        }
    }

    fn beside(&self) -> BTreeMap<String, BesideReport> {
        let [Some(before), Some(connected), Some(load_from), Some(after)] = &self.beside else { return BTreeMap::new() };
        let report = |name: &String| BesideReport {
            connect_cpu_s: microseconds(connected[name] - before[name]),
            load_cpu_s: microseconds(after[name] - load_from[name]),
        };
        before.keys().map(|name| (name.clone(), report(name))).collect()
    }

    fn slow(&self, script: &SlowScript, balance: LagBalance) -> SlowReport {
        let seen = &self.seen;
        let PaceLatencies { calm, prompt, slow, stopped } = seen.by_pace.clone().unwrap_or_default();
        let mut closes = self.counted(|counters| counters.by_label(http::CLOSES, "reason", None));
        closes.retain(|reason, _| SLOWNESS.contains(&reason.as_str()));
        let p99 = |latencies: &Latencies| latencies.percentile_ms(99.0);
        SlowReport {
            slow_clients: seen.slow_clients,
            stopped_clients: seen.stopped_clients,
            given_up: seen.given_up.clone(),
            closes,
            dropped: self.counted(|counters| counters.by_label(http::DROPPED, "reason", Some(("class", script.class.label())))),
            uncounted: self.counters.is_none(),
            destroyed: balance.destroyed,
            overdropped: balance.overdropped,
            calm_ms: Tail::of(&calm),
            prompt_ms: Tail::of(&prompt),
            p99_growth: p99(&calm).zip(p99(&prompt)).and_then(|(before, now)| ratio(now, before)),
            p99_growth_max: script.p99_growth_max,
            slow_ms: Tail::of(&slow),
            stopped_ms: Tail::of(&stopped),
            server_rss_before_bytes: self.load_from.map(|usage| usage.rss_bytes),
            server_rss_peak_bytes: self.memory_peak_bytes,
            memory_growth_bytes_max: script.memory_growth_bytes_max,
        }
    }
}

/// How late the last member of a room had each message; a message that someone never got has no last member.
fn last_members(messages: &[Vec<MessageTally>], members: &[u32]) -> Latencies {
    let mut latencies = Latencies::default();
    for (room, &members) in messages.iter().zip(members) {
        for message in room.iter().filter(|message| members > 0 && message.received == members) {
            latencies.record(message.intended_ns, message.last_ns);
        }
    }
    latencies
}

#[cfg(test)]
mod tests {
    use super::last_members;
    use crate::tally::MessageTally;

    #[test]
    fn a_message_that_someone_never_got_has_no_last_member() {
        let message = |received, last_ns| MessageTally { received, intended_ns: 1_000_000, last_ns, ..MessageTally::default() };
        let latencies = last_members(&[vec![message(3, 4_000_000), message(2, 9_000_000)]], &[3]);
        assert_eq!(latencies.count(), 1);
        let p50 = latencies.percentile_ms(50.0).expect("one message");
        assert!((p50 - 3.0).abs() < 0.01, "{p50}");
    }
}
