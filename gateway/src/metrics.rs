//! Every metric of the gateway: names, help, and where the figures come from.
//!
//! - The names are a contract: `docs/metrics.md` lists them, and a test compares the two.
//! - Nothing is pushed into a registry. Counters lie where they are counted, and a scrape adds them up.
//! - Labels have few values, all known beforehand, and all of them are always shown: a series that appears late has no rate.

use crate::{
    admission::{Holds, Refused},
    certificates::Certificates,
    directory::Directory,
    memory::resident_bytes,
    shard::{
        counters::{CODES, Counter, DropReason, Gauge, Histogram, ShardCounters},
        mailbox::Mailbox,
        message::{Listener, ShardCommand, ShardEvent},
    },
    watermarks::open_files,
};
use billfish_link::InFlight;
use billfish_wire::{Class, Code, Reason};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// A number that only grows, added to by many.
#[derive(Debug, Default)]
pub(crate) struct Tally(AtomicU64);

impl Tally {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What became of a LOGIN, as far as its token was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum LoginResult {
    Accepted,
    BadToken,
    RateLimited,
    Unavailable,
}

impl LoginResult {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Accepted, "accepted"),
        (Self::BadToken, "bad_token"),
        (Self::RateLimited, "rate_limited"),
        (Self::Unavailable, "unavailable"),
    ];

    /// The result of a LOGIN that was refused here.
    pub(crate) fn of(reason: Reason) -> Self {
        if reason == Reason::BadToken {
            Self::BadToken
        } else if reason == Reason::RateLimited {
            Self::RateLimited
        } else {
            Self::Unavailable
        }
    }
}

/// What became of a first packet of QUIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Incomer {
    /// Its handshake began.
    Accepted,
    /// It has to prove its address first.
    Retried,
    /// Too many handshakes are under way, admission does not want it, or the gateway drains.
    Refused,
    /// It waited: as many handshakes had begun as a second may have.
    Delayed,
}

impl Incomer {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Accepted, "accepted"), (Self::Retried, "retried"), (Self::Refused, "refused"), (Self::Delayed, "delayed")];
}

/// How a handshake of QUIC ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum QuicHandshake {
    Established,
    Failed,
    TimedOut,
}

impl QuicHandshake {
    const ALL: [(Self, &'static str); 3] = [(Self::Established, "established"), (Self::Failed, "failed"), (Self::TimedOut, "timed_out")];
}

/// A port of the shared state, as the gateway uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Port {
    Tokens,
    Presence,
    Routes,
    Acks,
    Inbox,
    RateWindows,
    Registry,
}

impl Port {
    pub(crate) const ALL: [(Self, &'static str); 7] = [
        (Self::Tokens, "tokens"),
        (Self::Presence, "presence"),
        (Self::Routes, "routes"),
        (Self::Acks, "acks"),
        (Self::Inbox, "inbox"),
        (Self::RateWindows, "rate_windows"),
        (Self::Registry, "registry"),
    ];
}

/// What the store was found to hold of a session's route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum RouteCheck {
    /// It stood, and was renewed.
    Kept,
    /// It was gone, or an older session's, and was bound again.
    Bound,
    /// It is a newer session's elsewhere: this one was ended.
    Displaced,
}

impl RouteCheck {
    const ALL: [(Self, &'static str); 3] = [(Self::Kept, "kept"), (Self::Bound, "bound"), (Self::Displaced, "displaced")];
}

/// What was forgotten because too much of its kind waited, and what comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Forgotten {
    /// Ended sessions and kicks that no router could be told of: owners count members anew, routes are looked after.
    Words,
    /// Kicks to be said again: once is enough, but for a router that hangs.
    KicksAgain,
    /// That a user was said to be here: he stays online for two gaps after his end.
    SignsOfLife,
    /// What a session missed while its route was lost: it comes with the next LOGIN.
    Redeliveries,
    /// That users came or went: no webhook is told of them.
    UserWords,
}

impl Forgotten {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Words, "words"),
        (Self::KicksAgain, "kicks_again"),
        (Self::SignsOfLife, "signs_of_life"),
        (Self::Redeliveries, "redeliveries"),
        (Self::UserWords, "user_words"),
    ];
}

/// What the control side counts; shards have their own.
#[derive(Debug, Default)]
pub(crate) struct ControlCounters {
    /// By [`Refused`].
    pub(crate) admission_refused: [Tally; Refused::ALL.len()],
    /// Connections open, by [`Listener`].
    pub(crate) listener_connections: [Gauge; Listener::ALL.len()],
    /// Connections turned away because their [`Listener`] has as many as it may.
    pub(crate) listener_refused: [Tally; Listener::ALL.len()],
    /// Addresses forgotten before their time, by [`Holds`].
    pub(crate) admission_forgotten: [Tally; Holds::ALL.len()],
    /// By [`Incomer`].
    pub(crate) quic_incoming: [Tally; Incomer::ALL.len()],
    /// By [`QuicHandshake`].
    pub(crate) quic_handshakes: [Tally; QuicHandshake::ALL.len()],
    /// On their way in by QUIC.
    pub(crate) quic_handshaking: Gauge,
    /// By [`LoginResult`].
    pub(crate) logins: [Tally; LoginResult::ALL.len()],
    /// By [`Port`]: calls that failed.
    pub(crate) state_errors: [Tally; Port::ALL.len()],
    /// By [`Port`]: writes given up because too many waited.
    pub(crate) state_given_up: [Tally; Port::ALL.len()],
    /// By [`Port`]: writes that wait.
    pub(crate) state_pending: [Gauge; Port::ALL.len()],
    /// Calls sent again over another link.
    pub(crate) upstream_retries: Tally,
    /// Calls the gateway itself refused: no router in time, or too many under way.
    pub(crate) upstream_given_up: Tally,
    /// Answers to calls that were answered before.
    pub(crate) replies_stale: Tally,
    /// Pushes and evictions of an owner that is no longer.
    pub(crate) epochs_stale: Tally,
    /// Calls that a router said are another's, and that went there.
    pub(crate) moved_to_owner: Tally,
    /// Calls that a router said are another's, and that had to wait for an owner.
    pub(crate) moved_to_wait: Tally,
    /// Rooms that an owner was told of again, having said nothing of them.
    pub(crate) interest_repeats: Tally,
    /// Pushes of a replayed log that had gone by before.
    pub(crate) replayed_duplicates: Tally,
    /// Sessions on other gateways that were replaced here.
    pub(crate) kicks_relayed: Tally,
    /// By [`Forgotten`].
    pub(crate) forgotten: [Tally; Forgotten::ALL.len()],
    /// By [`RouteCheck`]: routes looked after.
    pub(crate) routes_checked: [Tally; RouteCheck::ALL.len()],
    /// Routers that the registry shows.
    pub(crate) routers_seen: Gauge,
    /// Of these, too many to be dialled.
    pub(crate) routers_not_dialled: Gauge,
    /// Envelopes that no version of ours would send.
    pub(crate) envelopes_odd: Tally,
    /// Calls under way.
    pub(crate) upstream_in_flight: Gauge,
    /// Links that are up.
    pub(crate) links_up: Gauge,
    /// What they have sent and routers have not consumed.
    pub(crate) link_in_flight: InFlight,
    /// Links that ended.
    pub(crate) links_lost: Tally,
}

impl ControlCounters {
    pub(crate) fn login(&self, result: LoginResult) {
        self.logins[result as usize].add(1);
    }

    pub(crate) fn quic_incoming(&self, what: Incomer) {
        self.quic_incoming[what as usize].add(1);
    }

    pub(crate) fn quic_handshake(&self, how: QuicHandshake) {
        self.quic_handshakes[how as usize].add(1);
    }

    pub(crate) fn route_checked(&self, found: RouteCheck, routes: usize) {
        self.routes_checked[found as usize].add(routes as u64);
    }

    pub(crate) fn forget(&self, what: Forgotten) {
        self.forgotten[what as usize].add(1);
    }

    pub(crate) fn state_error(&self, port: Port) {
        self.state_errors[port as usize].add(1);
    }
}

/// Where the copies of all pushes are: `copies = delivered + dropped + pending`, exact when nothing moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Copies that pushes asked for.
    pub copies: u64,
    /// Handed whole to a transport.
    pub delivered: u64,
    /// Given up, all classes and reasons.
    pub dropped: u64,
    /// Waiting in backlogs.
    pub pending: u64,
    /// Connections now.
    pub connections: u64,
    /// Of these, logged in.
    pub sessions: u64,
}

/// One shard, as far as a scrape sees it.
#[derive(Debug)]
pub(crate) struct ShardGauges {
    pub(crate) counters: Arc<ShardCounters>,
    pub(crate) commands: Arc<Mailbox<ShardCommand>>,
    pub(crate) events: Arc<Mailbox<ShardEvent>>,
}

/// Everything a scrape reads.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) shards: Vec<ShardGauges>,
    pub(crate) control: Arc<ControlCounters>,
    pub(crate) directory: Arc<Directory>,
    /// Resident memory of the process before the first connection.
    pub(crate) resident_at_start: u64,
    pub(crate) memory_budget_bytes: u64,
    pub(crate) certificates: Option<Arc<Certificates>>,
}

impl Metrics {
    pub(crate) fn account(&self) -> Account {
        let classes = 0..Class::ALL.len();
        Account {
            copies: self.sum(|shard| &shard.copies),
            delivered: classes.clone().map(|class| self.sum(|shard| &shard.delivered[class])).sum(),
            dropped: classes
                .flat_map(|class| (0..DropReason::ALL.len()).map(move |reason| (class, reason)))
                .map(|(class, reason)| self.sum(|shard| &shard.dropped[class][reason]))
                .sum(),
            pending: self.level(|shard| &shard.pending),
            connections: self.level(|shard| &shard.connections),
            sessions: self.level(|shard| &shard.sessions),
        }
    }

    pub(crate) fn connections(&self) -> u64 {
        self.level(|shard| &shard.connections)
    }

    pub(crate) fn sessions(&self) -> u64 {
        self.level(|shard| &shard.sessions)
    }

    fn sum(&self, counter: impl Fn(&ShardCounters) -> &Counter) -> u64 {
        self.shards.iter().map(|shard| counter(&shard.counters).value()).sum()
    }

    fn level(&self, gauge: impl Fn(&ShardCounters) -> &Gauge) -> u64 {
        self.shards.iter().map(|shard| gauge(&shard.counters).value()).sum()
    }

    fn encode_connections(&self, page: &mut Page<'_>) -> fmt::Result {
        let control = &self.control;
        page.gauge("gateway_connections", "Connections open now", self.connections())?;
        let grown = resident_bytes().unwrap_or_default().saturating_sub(self.resident_at_start);
        let help =
            "Resident memory beyond that of the start, per connection; of the whole process, so it means something from some thousands on";
        page.gauge("gateway_bytes_per_connection", help, grown.checked_div(self.connections()).unwrap_or_default())?;
        page.gauge("gateway_sessions", "Connections that have logged in", self.sessions())?;
        page.gauge("gateway_rooms", "Rooms with members here, summed over shards", self.level(|shard| &shard.rooms))?;
        page.counter("gateway_accepts", "Connections accepted", self.sum(|shard| &shard.accepted))?;
        let errors = [("exhausted", self.sum(|shard| &shard.accept_exhausted)), ("other", self.sum(|shard| &shard.accept_failed))];
        page.counters("gateway_accept_errors", "Failed accepts; exhausted: no files or memory left", "kind", errors)?;
        let handshakes = [
            ("full", self.sum(|shard| &shard.tls_full)),
            ("resumed", self.sum(|shard| &shard.tls_resumed)),
            ("failed", self.sum(|shard| &shard.tls_failed)),
        ];
        page.counters("gateway_tls_handshakes", "TLS handshakes, by how they ended", "result", handshakes)?;
        let help = "Pauses of a TLS listener because as many handshakes had begun as a second may have";
        page.counter("gateway_tls_pauses", help, self.sum(|shard| &shard.tls_delayed))?;
        let incomers = Incomer::ALL.map(|(what, label)| (label, control.quic_incoming[what as usize].value()));
        page.counters("gateway_quic_incoming", "First packets of QUIC connections, by what became of them", "then", incomers)?;
        let handshakes = QuicHandshake::ALL.map(|(how, label)| (label, control.quic_handshakes[how as usize].value()));
        page.counters("gateway_quic_handshakes", "QUIC handshakes, by how they ended", "result", handshakes)?;
        page.gauge("gateway_quic_handshaking", "QUIC connections on their way in", control.quic_handshaking.value())?;
        let reloads = self.certificates.as_ref().map_or((0, 0), |certificates| certificates.reloads());
        let reloads = [("ok", reloads.0), ("failed", reloads.1)];
        page.counters("gateway_certificate_reloads", "Certificates read anew because their files were written", "result", reloads)?;
        page.certificate_expiries(self.certificates.as_deref())?;
        let refused = Refused::ALL.map(|why| (why.label(), control.admission_refused[why as usize].value()));
        page.gauge("gateway_open_files", "Files the process has open", open_files().unwrap_or_default())?;
        page.gauge("gateway_memory_budget_bytes", "Memory the process may have; 0: any", self.memory_budget_bytes)?;
        page.counters("gateway_admission_refused", "Connections and logins turned away by admission", "reason", refused)?;
        let by_listener = |of: &dyn Fn(usize) -> u64| Listener::ALL.map(|listener| (listener.label(), of(listener as usize)));
        let open = by_listener(&|listener| control.listener_connections[listener].value());
        page.gauges("gateway_listener_connections", "Connections open now, by the listener they came in by", "listener", open)?;
        let refused = by_listener(&|listener| control.listener_refused[listener].value());
        page.counters("gateway_listener_refused", "Connections turned away because their listener is full", "listener", refused)?;
        let forgotten = Holds::ALL.map(|holds| (holds.label(), control.admission_forgotten[holds as usize].value()));
        page.counters("gateway_admission_forgotten", "Addresses forgotten before their time for unknown ones", "lost", forgotten)?;
        let logins = LoginResult::ALL.map(|(result, label)| (label, control.logins[result as usize].value()));
        page.counters("gateway_logins", "Logins decided, by result", "result", logins)?;
        let closes = (0..Reason::ALL.len()).map(|row| (Reason::ALL[row].label(), self.sum(|shard| &shard.closed[row])));
        page.counters("gateway_closes", "Connections ended, by reason", "reason", closes)?;
        let told = (0..Reason::ALL.len()).filter(|row| Reason::ALL[*row].number().is_some());
        let errors = told.map(|row| (Reason::ALL[row].label(), self.sum(|shard| &shard.errors[row])));
        page.counters("gateway_errors", "ERROR frames told to clients, by reason", "reason", errors)?;
        let lost = crate::shard::counters::reason_row(Reason::HeartbeatLost);
        page.counter("gateway_heartbeats_lost", "Sessions that fell silent", self.sum(|shard| &shard.closed[lost]))
    }

    fn encode_frames(&self, page: &mut Page<'_>) -> fmt::Result {
        let label = |row: usize| Code::ALL.get(row).map_or("unknown", |code| code.label());
        let delivered: u64 = (0..Class::ALL.len()).map(|class| self.sum(|shard| &shard.delivered[class])).sum();
        let biz = crate::shard::counters::code_row(Code::Biz.number());
        let read = (0..CODES).map(|row| ([("code", label(row)), ("direction", "in")], self.sum(|shard| &shard.frames_in[row])));
        let written = (0..CODES).map(|row| {
            let pushed = if row == biz { delivered } else { 0 };
            ([("code", label(row)), ("direction", "out")], self.sum(|shard| &shard.frames_out[row]) + pushed)
        });
        page.counters2("gateway_frames", "Frames read and written, pushes included", read.chain(written))?;
        let bytes = [("in", self.sum(|shard| &shard.bytes_in)), ("out", self.sum(|shard| &shard.bytes_out))];
        page.counters("gateway_bytes", "Bytes read from and taken by transports", "direction", bytes)?;
        page.counter("gateway_frame_errors", "Headers that no legal client sends", self.sum(|shard| &shard.frame_errors))?;
        page.counter("gateway_copies", "Copies that pushes asked for", self.sum(|shard| &shard.copies))?;
        let deliveries = (0..Class::ALL.len()).map(|class| (Class::ALL[class].label(), self.sum(|shard| &shard.delivered[class])));
        page.counters("gateway_deliveries", "Copies handed whole to a transport", "class", deliveries)?;
        let dropped = (0..Class::ALL.len()).flat_map(|class| {
            DropReason::ALL.into_iter().enumerate().map(move |(row, reason)| {
                ([("class", Class::ALL[class].label()), ("reason", reason.label())], self.sum(|shard| &shard.dropped[class][row]))
            })
        });
        page.counters2("gateway_frames_dropped", "Copies given up", dropped)?;
        page.gauge("gateway_copies_pending", "Copies that wait in backlogs", self.level(|shard| &shard.pending))?;
        page.gauge("gateway_backlog_bytes", "Bytes that wait in backlogs", self.level(|shard| &shard.backlog_bytes))?;
        page.gauge("gateway_backlogs", "Connections that have a backlog", self.level(|shard| &shard.backlogs))
    }

    fn encode_shards(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counter("gateway_fanout_sends", "Socket writes of fan-outs", self.sum(|shard| &shard.fanout_sends))?;
        page.counter("gateway_fanout_walks", "Walks over a room's members", self.sum(|shard| &shard.fanout_jobs))?;
        page.counter("gateway_fanout_frames", "Frames these walks carried", self.sum(|shard| &shard.fanout_frames))?;
        let help = "From a room push's arrival on a shard to its last member";
        page.histogram("gateway_fanout_seconds", help, self.histogram(|shard| &shard.fanout_latency))?;
        let help = "One turn of a shard's loop, its sleep left out";
        page.histogram("gateway_loop_seconds", help, self.histogram(|shard| &shard.turn_latency))?;
        let busy = self.sum(|shard| &shard.busy_us) as f64 / MICROS;
        page.counter_f64("gateway_busy_seconds", "Time shards were awake", busy)?;
        page.counter("gateway_turns_ticked", "Turns that waited for the flush tick of a busy shard", self.sum(|shard| &shard.tick_turns))?;
        page.counter(
            "gateway_turns_held",
            "Turns that read no socket, the control side being behind",
            self.sum(|shard| &shard.held_turns),
        )?;
        let help = "Commands that named a connection or room no longer there";
        page.counter("gateway_commands_stale", help, self.sum(|shard| &shard.stale_commands))?;
        page.gauge("gateway_room_queue_bytes", "Bytes waiting in room queues of shards", self.level(|shard| &shard.room_queue_bytes))?;
        page.gauge("gateway_timers", "Timers filed in the shards' wheels", self.level(|shard| &shard.timers))?;
        let depth = |of: fn(&ShardGauges) -> usize| self.shards.iter().map(of).sum::<usize>() as u64;
        let depths = [("command", depth(|shard| shard.commands.len())), ("event", depth(|shard| shard.events.len()))];
        page.gauges("gateway_mailbox_depth", "Messages waiting between shards and control", "direction", depths)
    }

    fn encode_control(&self, page: &mut Page<'_>) -> fmt::Result {
        let control = &self.control;
        page.gauge("gateway_directory_seats", "Sessions in the directory", self.directory.len() as u64)?;
        page.gauge("gateway_link_up", "Links to routers that are up", control.links_up.value())?;
        let in_flight = control.link_in_flight.bytes() as u64;
        page.gauge("gateway_link_in_flight_bytes", "Bytes sent over links that routers have not consumed", in_flight)?;
        page.counter("gateway_links_lost", "Links that ended", control.links_lost.value())?;
        page.gauge("gateway_upstream_in_flight", "Calls to routers that await their answer", control.upstream_in_flight.value())?;
        page.counter("gateway_upstream_retries", "Calls sent again over another link", control.upstream_retries.value())?;
        page.counter("gateway_upstream_given_up", "Calls refused by the gateway itself", control.upstream_given_up.value())?;
        page.counter("gateway_replies_stale", "Answers to calls no longer waited for", control.replies_stale.value())?;
        page.counter("gateway_epochs_stale", "Messages of a former room owner, refused", control.epochs_stale.value())?;
        let moved = [("owner", control.moved_to_owner.value()), ("wait", control.moved_to_wait.value())];
        page.counters("gateway_upstream_moved", "Calls that reached a router which does not own their room", "then", moved)?;
        let help = "Rooms that a silent owner was told of again";
        page.counter("gateway_interest_repeats", help, control.interest_repeats.value())?;
        let help = "Pushes of a replayed log that had gone by before";
        page.counter("gateway_replayed_duplicates", help, control.replayed_duplicates.value())?;
        page.gauge("gateway_routers_seen", "Routers that the registry shows", control.routers_seen.value())?;
        let help = "Routers of the registry that are not dialled, for there are too many";
        page.gauge("gateway_routers_not_dialled", help, control.routers_not_dialled.value())?;
        let help = "Sessions on other gateways that were replaced by one here";
        page.counter("gateway_kicks_relayed", help, control.kicks_relayed.value())?;
        let (kicks_early, kicks_forgotten) = self.directory.early_kicks();
        page.gauge("gateway_kicks_early", "Kicks remembered, whose sessions have no seat here", kicks_early as u64)?;
        let forgotten = Forgotten::ALL.map(|(what, label)| (label, control.forgotten[what as usize].value()));
        // A kick whose session had no seat yet: an older session stays until its route is looked after.
        let forgotten = forgotten.into_iter().chain([("early_kicks", kicks_forgotten)]);
        page.counters("gateway_forgotten", "What gave way because too much of its kind waited", "what", forgotten)?;
        let checked = RouteCheck::ALL.map(|(found, label)| (label, control.routes_checked[found as usize].value()));
        page.counters("gateway_routes_checked", "Routes looked after, by what was found", "result", checked)?;
        page.counter("gateway_envelopes_odd", "Envelopes of routers that make no sense here", control.envelopes_odd.value())?;
        let by_port = |of: fn(&ControlCounters, usize) -> u64| Port::ALL.map(|(port, label)| (label, of(control, port as usize)));
        let errors = by_port(|control, port| control.state_errors[port].value());
        page.counters("gateway_state_errors", "Calls to the shared state that failed", "port", errors)?;
        let given_up = by_port(|control, port| control.state_given_up[port].value());
        page.counters("gateway_state_given_up", "Writes to the shared state given up, too many waiting", "port", given_up)?;
        let pending = by_port(|control, port| control.state_pending[port].value());
        page.gauges("gateway_state_pending", "Writes to the shared state that wait", "port", pending)
    }

    fn histogram(&self, of: impl Fn(&ShardCounters) -> &Histogram) -> ([u64; Histogram::BUCKETS], f64) {
        let mut buckets = [0; Histogram::BUCKETS];
        let mut sum_us = 0;
        for shard in &self.shards {
            let histogram = of(&shard.counters);
            for (sum, part) in buckets.iter_mut().zip(histogram.buckets()) {
                *sum += part;
            }
            sum_us += histogram.sum_us();
        }
        (buckets, sum_us as f64 / MICROS)
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.encode_connections(&mut page)?;
        self.encode_frames(&mut page)?;
        self.encode_shards(&mut page)?;
        self.encode_control(&mut page)
    }
}

/// The page that is being written. Names of counters come without `_total`, which the encoder appends.
struct Page<'a>(DescriptorEncoder<'a>);

type Labels<const N: usize> = [(&'static str, &'static str); N];

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&signed(value))
    }

    fn gauges<const N: usize>(&mut self, name: &str, help: &str, label: &'static str, rows: [(&'static str, u64); N]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (value_of_label, value) in rows {
            metric.encode_family(&[(label, value_of_label)])?.encode_gauge(&signed(value))?;
        }
        Ok(())
    }

    /// By file: the operator knows them beforehand, and `gateway.tls.certificates` bounds them.
    fn certificate_expiries(&mut self, certificates: Option<&Certificates>) -> fmt::Result {
        let help = "Unix time at which a certificate in force expires, by its file";
        let mut metric = self.0.encode_descriptor("gateway_certificate_expiry_seconds", help, None, MetricType::Gauge)?;
        for validity in certificates.map(Certificates::validities).unwrap_or_default() {
            let file = validity.file.display().to_string();
            metric.encode_family(&[("file", file.as_str())])?.encode_gauge(&validity.not_after)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Counter)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn counter_f64(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Counter)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        rows: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value_of_label, value) in rows {
            metric.encode_family(&[(label, value_of_label)])?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn counters2(&mut self, name: &str, help: &str, rows: impl Iterator<Item = (Labels<2>, u64)>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, (buckets, sum): ([u64; Histogram::BUCKETS], f64)) -> fmt::Result {
        let bound = |bucket: usize| if bucket == Histogram::BUCKETS - 1 { f64::INFINITY } else { (1_u64 << bucket) as f64 / MICROS };
        let rows: Vec<(f64, u64)> = buckets.iter().enumerate().map(|(bucket, count)| (bound(bucket), *count)).collect();
        let count = buckets.iter().sum();
        self.0.encode_descriptor(name, help, None, MetricType::Histogram)?.encode_histogram::<NoLabelSet>(sum, count, &rows, None)
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

const MICROS: f64 = 1e6;

#[cfg(test)]
mod tests {
    use super::{ControlCounters, LoginResult, Metrics, Port, ShardGauges};
    use crate::shard::{
        counters::{DropReason, ShardCounters},
        mailbox::{Mailbox, Signal},
    };
    use billfish_wire::Class;
    use prometheus_client::{encoding::text::encode, registry::Registry};
    use std::sync::Arc;

    fn shard() -> ShardGauges {
        ShardGauges {
            counters: Arc::default(),
            commands: Arc::new(Mailbox::new(1, Signal::task(), Signal::task())),
            events: Arc::new(Mailbox::new(1, Signal::task(), Signal::task())),
        }
    }

    fn page(metrics: Metrics) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn every_name_stands_in_the_docs_and_the_docs_name_no_other() {
        let text = page(Metrics {
            shards: vec![shard()],
            control: Arc::default(),
            directory: Arc::default(),
            resident_at_start: 0,
            memory_budget_bytes: 0,
            certificates: None,
        });
        let mut shown: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .map(|line| match line.split_once(' ') {
                Some((name, "counter")) => format!("{name}_total"),
                Some((name, _)) => name.to_owned(),
                None => panic!("{line}"),
            })
            .collect();
        let docs = include_str!("../../docs/metrics.md");
        let mut listed: Vec<String> = docs
            .lines()
            .filter_map(|line| line.strip_prefix("| `gateway_"))
            .map(|line| format!("gateway_{}", line.split(['`', '{']).next().unwrap_or_default()))
            .collect();
        // Sorted lists, not sets: a name that stands twice is a mistake too.
        shown.sort();
        listed.sort();
        assert_eq!(shown, listed);
    }

    #[test]
    fn every_series_is_there_before_anything_happened() {
        let text = page(Metrics {
            shards: vec![shard()],
            control: Arc::default(),
            directory: Arc::default(),
            resident_at_start: 0,
            memory_budget_bytes: 0,
            certificates: None,
        });
        for series in [
            "gateway_connections 0",
            r#"gateway_logins_total{result="bad_token"} 0"#,
            r#"gateway_frames_total{code="unknown",direction="in"} 0"#,
            r#"gateway_frames_dropped_total{class="chat",reason="sampled"} 0"#,
            r#"gateway_state_errors_total{port="tokens"} 0"#,
            r#"gateway_mailbox_depth{direction="event"} 0"#,
            "gateway_fanout_seconds_count 0",
        ] {
            assert!(text.lines().any(|line| line == series), "{series} is not in\n{text}");
        }
    }

    #[test]
    fn shards_add_up_and_histograms_are_cumulative() {
        let control = Arc::new(ControlCounters::default());
        control.login(LoginResult::Accepted);
        control.state_error(Port::Acks);
        let shards = vec![shard(), shard()];
        for shard in &shards {
            let counters: &ShardCounters = &shard.counters;
            counters.connections.set(3);
            counters.copies.add(10);
            counters.delivered[Class::Chat as usize].add(6);
            counters.dropped[Class::Ambient as usize][DropReason::SoftMark as usize].add(3);
            counters.pending.set(1);
            counters.fanout_latency.record(3);
            counters.fanout_latency.record(u64::MAX / 4);
        }
        let metrics =
            Metrics { shards, control, directory: Arc::default(), resident_at_start: 0, memory_budget_bytes: 0, certificates: None };
        let account = metrics.account();
        assert_eq!((account.connections, account.copies), (6, 20));
        assert_eq!(account.copies, account.delivered + account.dropped + account.pending);
        let text = page(metrics);
        for series in [
            "gateway_connections 6",
            r#"gateway_deliveries_total{class="chat"} 12"#,
            r#"gateway_frames_total{code="biz",direction="out"} 12"#,
            r#"gateway_frames_dropped_total{class="ambient",reason="soft_mark"} 6"#,
            r#"gateway_fanout_seconds_bucket{le="0.000004"} 2"#,
            r#"gateway_fanout_seconds_bucket{le="+Inf"} 4"#,
            r#"gateway_logins_total{result="accepted"} 1"#,
            r#"gateway_state_errors_total{port="acks"} 1"#,
        ] {
            assert!(text.lines().any(|line| line == series), "{series} is not in\n{text}");
        }
    }
}
