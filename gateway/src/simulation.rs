//! The control side's pure parts, for `billfish-simulation` alone: the upstream table, the fan-out and the directory, without a socket,
//! a task or a clock.
//!
//! - What a link's driver, a shard and the timers do in a real gateway, the simulation does by calling in: it carries the outboxes, hands
//!   over what routers say, delivers the commands to its own shards, and says what time it is.
//! - Nothing here decides anything: every method is one of the gateway's own.

use crate::{
    clock::Uptime,
    commands::Shards,
    directory::{Directory, RouteMark},
    fanout::Fanout,
    metrics::ControlCounters,
    shard::{
        mailbox::{Mailbox, Signal},
        message::{ConnKey, LeftCause, Origin, RollCall, ShardCommand},
    },
    upstream::{LinkId, RouterSeen, Upstream},
};
use billfish_link::message::{Kick, envelope::Kind};
use billfish_session::server::UpCall;
use std::{collections::VecDeque, sync::Arc};

/// One life of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkNumber(LinkId);

/// The control side of one life of one gateway.
#[derive(Debug)]
pub struct Control {
    fanout: Fanout,
    counters: Arc<ControlCounters>,
}

impl Control {
    /// One with so many shards, no link and nobody seated.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        let counters = Arc::new(ControlCounters::default());
        let mailboxes = (0..shards).map(|_| Arc::new(Mailbox::new(1, Signal::task(), Signal::task()))).collect();
        let fanout = Fanout {
            upstream: Arc::new(Upstream::new(Arc::clone(&counters))),
            directory: Arc::new(Directory::default()),
            shards: Shards::new(mailboxes),
            counters: Arc::clone(&counters),
            uptime: Uptime::start(),
        };
        Self { fanout, counters }
    }

    /// A link to a router is up; an older one of the same router ends.
    pub fn link_up(&self, peer: &str) -> LinkNumber {
        LinkNumber(self.fanout.upstream.link_up(peer).0)
    }

    /// A link is gone; `false`: that was known already.
    pub fn link_down(&self, link: LinkNumber) -> bool {
        self.fanout.upstream.link_down(link.0)
    }

    /// Takes what is to be sent over a link, in order; `None`: the link is no longer wanted, close it.
    pub fn take_outbox(&self, link: LinkNumber) -> Option<Vec<Kind>> {
        let mut outbox = VecDeque::new();
        self.fanout.upstream.take_outbox(link.0, &mut outbox).then(|| outbox.into())
    }

    /// What was taken from an outbox and not sent, after its link ended.
    pub fn give_back(&self, unsent: Vec<Kind>) {
        self.fanout.upstream.give_back(unsent.into());
    }

    /// The routers that the registry shows, each with whether it drains; `None`: the registry was never read.
    pub fn place(&self, routers: Option<&[(String, bool)]>) {
        if let Some(routers) = routers {
            let seen = |(node, draining): &(String, bool)| RouterSeen { node: node.clone(), draining: *draining };
            self.fanout.upstream.place(routers.iter().map(seen).collect());
        }
    }

    /// A session calls a router; `false`: there is no room for it, refuse it with 5001.
    #[must_use]
    pub fn call(&self, key: ConnKey, origin: Origin, request: u32, call: UpCall, now_ms: u64) -> bool {
        self.fanout.upstream.call(key, origin, request, call, now_ms)
    }

    /// A router said something: the commands that come of it, each for a shard, in order.
    pub fn sort(&self, link: LinkNumber, kind: Kind, now_ms: u64) -> Vec<(u16, ShardCommand)> {
        let mut commands = self.fanout.shards.gather();
        self.fanout.sort(link.0, kind, now_ms, &mut commands);
        commands.into_parts()
    }

    /// Time has passed, call it every 100 ms or so: calls that waited for an owner go out, and those are named that have waited too long,
    /// to be refused with 5001.
    pub fn tick(&self, now_ms: u64) -> Vec<(ConnKey, u32)> {
        self.fanout.upstream.retry(now_ms);
        self.fanout.upstream.expire(now_ms).into_iter().map(|caller| (caller.key, caller.request)).collect()
    }

    /// A session has ended and has left these rooms.
    pub fn gone(&self, shard: u16, origin: Origin, rooms: &[i64]) {
        self.fanout.upstream.gone(shard, origin, rooms, false);
        drop(self.fanout.directory.take(origin));
    }

    /// A session of another gateway has been replaced by one here, as [`State::routes`](billfish_state::Routes) told at its LOGIN.
    pub fn relay(&self, node: &str, incarnation: u64, kick: Kick) {
        self.fanout.upstream.relay(node.to_owned(), incarnation, kick);
    }

    /// A session is no longer in a room, or never came to be.
    pub fn left(&self, shard: u16, origin: Origin, room_id: i64, cause: LeftCause) {
        self.fanout.upstream.left(shard, origin, room_id, cause);
    }

    /// A shard has named its members of a room.
    pub fn seats(&self, call: RollCall, members: &[Origin]) {
        self.fanout.upstream.seats(call, members);
    }

    /// Seats a session that was let in; the connection that had the seat before is to be kicked with 4010.
    pub fn seat(&self, origin: Origin, key: ConnKey) -> Option<ConnKey> {
        self.fanout.directory.insert(origin, key, "", RouteMark::default()).map(|seat| seat.key)
    }

    /// After [`Control::seat`]: whether the session that was seated is to be kicked with 4010, having been replaced before it had its seat.
    #[must_use]
    pub fn is_replaced(&self, origin: Origin, now_ms: u64) -> bool {
        self.fanout.directory.take_kick(origin, now_ms).is_some()
    }

    /// Calls to routers that await their answer.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.counters.upstream_in_flight.value()
    }
}
