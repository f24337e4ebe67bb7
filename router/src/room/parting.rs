//! Members who go: by their own farewell, with their gateway's life, or perhaps with its link.
//!
//! - The farewell of one session must not take out another of the same user and device. One that joined this life of the room sits in the
//!   table; one that joined before has no seat, or has lost it, and is known by its route alone.
//! - Nobody is taken out by an owner that may have lost the room: he may have come back by the next.
//! - Where only the link of a gateway is gone its sessions may live: who is not known to be over stays in the store's member set, and is
//!   left to the sweep, which asks for signs of life.

use super::Room;
use crate::{link::Gateway, membership::Parted, ownership::Hold, services::Asker};
use billfish_link::message::{Left, reply};
use billfish_state::{Member, Route, SESSIONS_PER_MS, UserId};
use std::sync::Arc;

/// Members looked at in one step.
const PARTED_USERS: usize = 500;
/// How far the clocks of two nodes may be apart, and more: session numbers are times of login.
const CLOCKS_APART_MS: u64 = 2_000;

/// What is known of a session that has lost its seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has ended, or has left the room.
    Over,
    /// Its gateway has no link.
    Unknown,
}

impl Room {
    /// `of_will`: the user has left or logged out, and is not merely lost.
    pub(super) async fn on_leave(&mut self, gateway: &Arc<Gateway>, id: Option<u64>, asker: Asker, of_will: bool) {
        if self.membership.leave_seat(gateway, asker.user, asker.device, asker.session) {
            let member = Member { user: asker.user, device: asker.device };
            self.part(&[Parted { member, session: asker.session, gateway: Arc::clone(gateway) }], Fate::Over).await;
        }
        if of_will && asker.app == self.record.app {
            self.pk.leave(asker.user, self.core.state.clock.now_ms());
        }
        let Some(id) = id else { return };
        if self.hold().await == Hold::Lost {
            // Its next owner may have let the session in, and is to hear of it.
            self.lose().await;
            return gateway.refuse(id, &self.core.ownership.elsewhere(self.record.room)).await;
        }
        gateway.reply(id, reply::Result::Left(Left { room_id: self.record.room.0 })).await;
    }

    /// Gateways have had no link for so long that they are likely dead.
    pub(super) async fn lose_sight_of(&mut self, parted: Vec<Parted>, now_ms: u64) {
        if parted.is_empty() {
            return;
        }
        let links = &self.core.links;
        let is_restarted = |gateway: &Gateway| links.get(&gateway.node).is_some_and(|now| now.incarnation > gateway.incarnation);
        let (over, unknown): (Vec<_>, Vec<_>) = parted.into_iter().partition(|parted| is_restarted(&parted.gateway));
        let gone = self.part(&over, Fate::Over).await + self.part(&unknown, Fate::Unknown).await;
        self.core.metrics.stale_members.inc_by(gone as u64);
        self.seated_since_ms = now_ms;
        self.timers.sweep_ms = now_ms;
        self.sweep_cursor = 0;
    }

    /// Members whose last session in the table is gone from it: takes those out who are not here by another one, and says how many.
    pub(super) async fn part(&mut self, parted: &[Parted], fate: Fate) -> usize {
        let mut count = 0;
        for parted in parted.chunks(PARTED_USERS) {
            let is_doubtful = |parted: &Parted| fate == Fate::Unknown || self.may_lack_a_seat(parted.session);
            let (doubtful, sure): (Vec<&Parted>, Vec<&Parted>) = parted.iter().partition(|parted| is_doubtful(parted));
            let mut gone: Vec<Member> = sure.into_iter().map(|parted| parted.member.clone()).collect();
            gone.extend(self.not_here_otherwise(&doubtful, fate).await);
            self.take_out(&gone).await;
            count += gone.len();
        }
        count
    }

    async fn not_here_otherwise(&self, parted: &[&Parted], fate: Fate) -> Vec<Member> {
        if parted.is_empty() {
            return Vec::new();
        }
        let users: Vec<UserId> = parted.iter().map(|parted| parted.member.user).collect();
        let routes = match self.core.state.routes.lookup(self.record.app, &users, self.core.state.clock.now_ms()).await {
            Ok(routes) => routes,
            Err(error) => {
                // The sweep finds who is gone.
                self.core.metrics.store_failed("parting", &error);
                return Vec::new();
            }
        };
        let is_gone = |parted: &Parted, routes: &[Route]| match routes.iter().find(|route| route.device == parted.member.device) {
            // Another session of this time would sit here, were it in the room.
            Some(route) if !parted.is_at(route) => !self.may_lack_a_seat(route.session),
            Some(_) | None => fate == Fate::Over,
        };
        let gone = parted.iter().zip(&routes).filter(|(parted, routes)| is_gone(parted, routes));
        gone.map(|(parted, _)| parted.member.clone()).collect()
    }

    /// Whether a session may be in the room without a seat here: it logged in before all members had one.
    fn may_lack_a_seat(&self, session: u64) -> bool {
        session / SESSIONS_PER_MS < self.seated_since_ms.saturating_add(CLOCKS_APART_MS)
    }
}
