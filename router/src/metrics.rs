//! Every metric of a router, with its help text. Their list for operators is `docs/metrics.md`.
//!
//! - Labels have few values: never a user, a room or a text of a peer.
//! - prometheus-client appends `_total` to counters by itself.

use billfish_link::InFlight;
use billfish_state::{Quiet, Watch};
use billfish_wire::{Class, Reason};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};
use std::{fmt, sync::Arc, time::Duration};

/// The metrics; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// `router_rooms`
    pub(crate) rooms: Gauge,
    /// `router_room_queue_depth`
    pub(crate) room_queue_depth: Gauge,
    /// `router_lane_queue_depth`
    pub(crate) lane_queue_depth: Gauge,
    /// `router_link_up`
    pub(crate) link_up: Gauge,
    /// `router_link_in_flight_bytes`
    pub(crate) link_in_flight: InFlight,
    pushes: Family<PushLabels, Counter>,
    link_dropped: Family<LinkDropLabels, Counter>,
    biz: Family<BizLabels, Counter>,
    refusals: Family<ReasonLabels, Counter>,
    joins: Family<ResultLabels, Counter>,
    /// `router_dedup_hits_total`
    pub(crate) dedup_hits: Counter,
    store_errors: Family<StoreLabels, Counter>,
    /// `router_rooms_degraded`
    pub(crate) rooms_degraded: Gauge,
    /// `router_rooms_lost_total`
    pub(crate) rooms_lost: Counter,
    /// `router_holed_sessions_total`
    pub(crate) holed_sessions: Counter,
    /// `router_stale_members_total`
    pub(crate) stale_members: Counter,
    seats_told: Family<ResultLabels, Counter>,
    given_up: Family<StoreLabels, Counter>,
    /// `router_chat_sampled_total`
    pub(crate) chat_sampled: Counter,
    /// `router_moved_total`
    pub(crate) moved: Counter,
    relays: Family<ResultLabels, Counter>,
    peer_link_up: Gauge,
    /// `router_unreached`
    pub(crate) unreached: Gauge,
    /// `router_peers_not_dialled`
    pub(crate) peers_not_dialled: Gauge,
    link_refused: Family<ReasonLabels, Counter>,
    asks: Family<ResultLabels, Counter>,
    orders: Family<ResultLabels, Counter>,
    /// `router_orders_repeated_total`
    pub(crate) orders_repeated: Counter,
    /// `router_sweeper`
    pub(crate) sweeper: Gauge,
    /// `router_presence_swept_total`
    pub(crate) presence_swept: Counter,
    /// `router_resent_total`
    pub(crate) resent: Counter,
    /// `router_acks_expired_total`
    pub(crate) acks_expired: Counter,
    acks_given_up: Family<ReasonLabels, Counter>,
    codes: Family<ResultLabels, Counter>,
    logins: Family<ResultLabels, Counter>,
    recharges: Family<ResultLabels, Counter>,
    delivery: Histogram,
    list_refresh: Histogram,
    /// Lines about stores that fail.
    quiet: Arc<Quiet>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PushLabels {
    audience: &'static str,
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LinkDropLabels {
    class: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BizLabels {
    service: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabels {
    what: &'static str,
}

/// What the store's adapter counts.
#[derive(Debug)]
pub(crate) struct Kept(pub(crate) Watch);

impl Collector for Kept {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Messages that nobody had acknowledged and that a full inbox let go for newer ones";
        let metric = encoder.encode_descriptor("router_inbox_given_way", help, None, MetricType::Counter)?;
        ConstCounter::new(self.0.inbox_given_way()).encode(metric)
    }
}

/// What its links count.
#[derive(Debug)]
struct UnderWay(InFlight);

impl Collector for UnderWay {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Bytes sent over links, to gateways and routers, that they have not consumed";
        let metric = encoder.encode_descriptor("router_link_in_flight_bytes", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(self.0.bytes()).unwrap_or(i64::MAX)).encode(metric)
    }
}

/// Whom a push went to, as its label.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Audience {
    /// Users by id.
    Users,
    /// The members of a room.
    Room,
    /// Everyone.
    All,
}

impl Metrics {
    /// Registers every metric under its public name.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            rooms: Gauge::default(),
            room_queue_depth: Gauge::default(),
            lane_queue_depth: Gauge::default(),
            link_up: Gauge::default(),
            link_in_flight: InFlight::default(),
            pushes: Family::default(),
            link_dropped: Family::default(),
            biz: Family::default(),
            refusals: Family::default(),
            joins: Family::default(),
            dedup_hits: Counter::default(),
            store_errors: Family::default(),
            rooms_degraded: Gauge::default(),
            rooms_lost: Counter::default(),
            holed_sessions: Counter::default(),
            stale_members: Counter::default(),
            seats_told: Family::default(),
            given_up: Family::default(),
            chat_sampled: Counter::default(),
            moved: Counter::default(),
            relays: Family::default(),
            peer_link_up: Gauge::default(),
            unreached: Gauge::default(),
            peers_not_dialled: Gauge::default(),
            link_refused: Family::default(),
            asks: Family::default(),
            orders: Family::default(),
            orders_repeated: Counter::default(),
            sweeper: Gauge::default(),
            presence_swept: Counter::default(),
            resent: Counter::default(),
            acks_expired: Counter::default(),
            acks_given_up: Family::default(),
            codes: Family::default(),
            logins: Family::default(),
            recharges: Family::default(),
            delivery: Histogram::new(SECONDS),
            list_refresh: Histogram::new(SECONDS),
            quiet: Arc::default(),
        };
        registry.register("router_rooms", "Rooms this router owns and has active", metrics.rooms.clone());
        registry.register("router_room_queue_depth", "Calls waiting in the queues of all rooms", metrics.room_queue_depth.clone());
        registry.register("router_lane_queue_depth", "Calls waiting in the user lanes", metrics.lane_queue_depth.clone());
        registry.register("router_link_up", "Gateways linked", metrics.link_up.clone());
        registry.register_collector(Box::new(UnderWay(metrics.link_in_flight.clone())));
        registry.register("router_pushes", "Link messages sent to gateways, by audience and delivery class", metrics.pushes.clone());
        registry.register("router_link_dropped", "Link messages dropped, for the gateway's link took none", metrics.link_dropped.clone());
        registry.register("router_biz", "Business messages decided, by service and result", metrics.biz.clone());
        registry.register("router_refusals", "Refusals told to clients and callers, by reason", metrics.refusals.clone());
        registry.register("router_joins", "Joins decided, by result", metrics.joins.clone());
        registry.register("router_dedup_hits", "Messages that had been taken before", metrics.dedup_hits.clone());
        registry.register("router_store_errors", "Calls to a store that failed and were lived without", metrics.store_errors.clone());
        registry.register("router_rooms_degraded", "Rooms whose lease is not proven: only chat goes on", metrics.rooms_degraded.clone());
        registry.register("router_rooms_lost", "Rooms stopped because their lease was lost", metrics.rooms_lost.clone());
        registry.register(
            "router_holed_sessions",
            "Sessions sent away to resume, because their gateway had stalled",
            metrics.holed_sessions.clone(),
        );
        registry.register("router_stale_members", "Members taken out because their gateway had died", metrics.stale_members.clone());
        registry.register("router_seats_told", "Members that a gateway named to an owner that had asked", metrics.seats_told.clone());
        let help = "Messages of rooms that a full list has let go before the log was known to have them, by list";
        registry.register("router_messages_given_up", help, metrics.given_up.clone());
        registry.register("router_chat_sampled", "Chat messages sent to a sample of the viewers", metrics.chat_sampled.clone());
        registry.register("router_moved", "Calls of gateways about rooms that are another router's", metrics.moved.clone());
        registry.register(
            "router_relays",
            "Kicks that gateways asked to be passed on to other gateways, by result",
            metrics.relays.clone(),
        );
        registry.register("router_peer_link_up", "Other routers linked to be asked", metrics.peer_link_up.clone());
        let help = "Whether this router takes no rooms, for no gateway has a link to it";
        registry.register("router_unreached", help, metrics.unreached.clone());
        let help = "Registered routers that are not dialled, for there are too many";
        registry.register("router_peers_not_dialled", help, metrics.peers_not_dialled.clone());
        registry.register("router_link_refused", "Links not taken, by reason", metrics.link_refused.clone());
        registry.register("router_asks", "Orders of the HTTP API asked of other routers, by result", metrics.asks.clone());
        registry.register("router_orders", "Orders of other routers, by what became of them", metrics.orders.clone());
        registry.register(
            "router_orders_repeated",
            "Orders of other routers that had come before, and got the first answer",
            metrics.orders_repeated.clone(),
        );
        registry.register("router_sweeper", "1 while this router sweeps the shared state for all, else 0", metrics.sweeper.clone());
        registry.register("router_presence_swept", "Users forgotten who had gone silent", metrics.presence_swept.clone());
        registry.register("router_acks_expired", "Deliveries whose ACK was overdue, looked at once more", metrics.acks_expired.clone());
        let help = "Deliveries that are not looked at any more though nobody acknowledged them, by reason";
        registry.register("router_acks_given_up", help, metrics.acks_given_up.clone());
        registry.register("router_login_codes", "Login codes asked for, by what became of it", metrics.codes.clone());
        registry.register("router_logins", "Logins by phone tried, by result", metrics.logins.clone());
        registry.register("router_recharges", "Orders and payments of recharges, by what became of them", metrics.recharges.clone());
        registry.register("router_resent", "Pushes to users sent once more because their ACK was overdue", metrics.resent.clone());
        registry.register_with_unit(
            "router_delivery",
            "From a message's arrival on a link to its pushes being on theirs",
            Unit::Seconds,
            metrics.delivery.clone(),
        );
        registry.register_with_unit(
            "router_list_refresh",
            "One refresh of the lists of rooms",
            Unit::Seconds,
            metrics.list_refresh.clone(),
        );
        metrics
    }

    /// A push was put on a link.
    pub(crate) fn pushed(&self, audience: Audience, class: Class) {
        let audience = match audience {
            Audience::Users => "users",
            Audience::Room => "room",
            Audience::All => "all",
        };
        self.pushes.get_or_create(&PushLabels { audience, class: class.label() }).inc();
    }

    /// Messages of a room are let go at a bound.
    pub(crate) fn given_up(&self, what: &'static str, messages: u64) {
        self.given_up.get_or_create(&StoreLabels { what }).inc_by(messages);
    }

    /// Somebody asked for a login code.
    pub(crate) fn code_asked(&self, result: &'static str) {
        self.codes.get_or_create(&ResultLabels { result }).inc();
    }

    /// Somebody tried to log in by phone.
    pub(crate) fn logged_in(&self, result: &'static str) {
        self.logins.get_or_create(&ResultLabels { result }).inc();
    }

    /// Something happened to a recharge.
    pub(crate) fn recharged(&self, result: &'static str) {
        self.recharges.get_or_create(&ResultLabels { result }).inc();
    }

    /// A link took no more, or was gone.
    pub(crate) fn link_dropped(&self, class: Class, reason: &'static str) {
        self.link_dropped.get_or_create(&LinkDropLabels { class: class.label(), reason }).inc();
    }

    /// Deliveries stay in their inboxes, and nobody looks whether they arrive.
    pub(crate) fn acks_given_up(&self, reason: &'static str, count: usize) {
        self.acks_given_up.get_or_create(&ReasonLabels { reason }).inc_by(count as u64);
    }

    /// A business message was decided.
    pub(crate) fn decided(&self, service: &'static str, result: &'static str) {
        self.biz.get_or_create(&BizLabels { service, result }).inc();
    }

    /// Someone was refused.
    pub(crate) fn refused(&self, reason: Reason) {
        self.refusals.get_or_create(&ReasonLabels { reason: reason.label() }).inc();
    }

    /// A join was decided.
    pub(crate) fn joined(&self, result: &'static str) {
        self.joins.get_or_create(&ResultLabels { result }).inc();
    }

    /// A gateway named a member, and what came of it.
    pub(crate) fn seat_told(&self, result: &'static str) {
        self.seats_told.get_or_create(&ResultLabels { result }).inc();
    }

    /// A kick for another gateway came.
    pub(crate) fn relayed(&self, result: &'static str) {
        self.relays.get_or_create(&ResultLabels { result }).inc();
    }

    /// So many other routers are linked now.
    pub(crate) fn peer_links(&self, count: usize) {
        self.peer_link_up.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A link was not taken.
    pub(crate) fn link_refused(&self, reason: &'static str) {
        self.link_refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Another router was asked.
    pub(crate) fn asked(&self, result: &'static str) {
        self.asks.get_or_create(&ResultLabels { result }).inc();
    }

    /// An order of another router was answered.
    pub(crate) fn ordered(&self, result: &'static str) {
        self.orders.get_or_create(&ResultLabels { result }).inc();
    }

    /// A store failed where the router goes on without it. `what` is one of a few words of the code.
    pub(crate) fn store_failed(&self, what: &'static str, error: &(dyn std::error::Error + 'static)) {
        if let Some(more_before) = self.quiet.may_say(what) {
            tracing::warn!(what, error, more_before, "a store did not answer; going on without");
        }
        self.store_errors.get_or_create(&StoreLabels { what }).inc();
    }

    /// From arrival to the links.
    pub(crate) fn delivered_in(&self, took: Duration) {
        self.delivery.observe(took.as_secs_f64());
    }

    /// One refresh of the lists.
    pub(crate) fn list_refreshed_in(&self, took: Duration) {
        self.list_refresh.observe(took.as_secs_f64());
    }
}

/// From 50 µs, where a message on an idle router stands, to a second, where someone should look.
const SECONDS: [f64; 10] = [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.025, 0.1, 0.25, 1.0];

#[cfg(test)]
mod tests {
    use super::{Audience, Kept, Metrics};
    use crate::{
        ledger::{
            metrics::{AuditMetrics, TillMetrics},
            webhooks::Hooks,
        },
        webhooks::metrics::WebhookMetrics,
    };
    use billfish_state::Watch;
    use billfish_wire::{Class, Reason};
    use prometheus_client::registry::Registry;
    use std::time::Duration;

    /// The page is a contract: operators build alarms from it.
    #[test]
    fn every_metric_stands_in_the_documentation_and_no_other() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        registry.register_collector(Box::new(Kept(Watch::default())));
        // Those of the ledger stand beside it.
        TillMetrics::register(&mut registry);
        AuditMetrics::register(&mut registry);
        WebhookMetrics::register(&mut registry, &Hooks::default());
        metrics.pushed(Audience::Users, Class::Chat);
        metrics.link_dropped(Class::Chat, "no_link");
        metrics.given_up("behind", 1);
        metrics.decided("chat", "accepted");
        metrics.refused(Reason::Muted);
        metrics.joined("accepted");
        metrics.relayed("passed");
        metrics.acks_given_up("attempts", 1);
        metrics.link_refused("hello");
        metrics.asked("answered");
        metrics.seat_told("seated");
        metrics.ordered("done");
        metrics.code_asked("sent");
        metrics.logged_in("new");
        metrics.recharged("credited");
        metrics.store_failed("test", &std::fmt::Error);
        metrics.delivered_in(Duration::ZERO);
        metrics.list_refreshed_in(Duration::ZERO);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let described = |line: &str| line.strip_prefix("# TYPE ").map(|rest| rest.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let mut exported: Vec<String> = text
            .lines()
            .filter_map(described)
            .map(|words| if words[1] == "counter" { format!("{}_total", words[0]) } else { words[0].clone() })
            .collect();
        let page = include_str!("../../docs/metrics.md");
        let mut documented: Vec<String> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `router_")?.split('`').next())
            .filter(|name| !name.starts_with("http_"))
            .map(|name| format!("router_{name}"))
            .collect();
        // Sorted lists, not sets: a name that stands twice is a mistake too.
        exported.sort();
        documented.sort();
        assert_eq!(exported, documented);
    }
}
