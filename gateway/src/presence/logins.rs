//! One user on one kind of device, at several gateways at the same instant: whatever comes in between, the session that bound the route last
//! is the one that stays.

use super::tests::{APP, House, USER};
use crate::{
    clock::Uptime,
    fanout::Fanout,
    shard::message::{ConnKey, Origin, ShardCommand},
};
use billfish_link::message::{Relay, envelope::Kind};
use billfish_state::{DeviceKind, State};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

const GATEWAYS: usize = 3;
const LOGINS_MAX: usize = 8;

/// A gateway on the way to let sessions in. It has one lane for the user's device: a session has its seat before the next binds its route.
struct Gateway {
    house: House,
    fanout: Fanout,
    /// Sessions that log in here, in this order.
    coming: VecDeque<Origin>,
    bound: Option<Origin>,
    /// Who has been let in and not ended, by connection.
    live: BTreeMap<u32, Origin>,
    connections: u32,
}

impl Gateway {
    fn new(name: usize, state: &State) -> Self {
        let house = House::named(&format!("g{name}"), state.clone());
        let fanout = Fanout {
            upstream: std::sync::Arc::clone(&house.presence.parts.upstream),
            directory: std::sync::Arc::clone(&house.directory),
            shards: house.presence.parts.shards.clone(),
            counters: std::sync::Arc::clone(&house.counters),
            uptime: Uptime::start(),
        };
        Self { house, fanout, coming: VecDeque::new(), bound: None, live: BTreeMap::new(), connections: 0 }
    }

    /// Binds the next route or seats the session that has one. Gives what was bound; `Err`: there is nothing to do.
    async fn step(&mut self) -> Result<Option<Origin>, ()> {
        if let Some(origin) = self.bound.take() {
            self.seat(origin);
            return Ok(None);
        }
        let origin = self.coming.pop_front().ok_or(())?;
        self.house.presence.welcome(&[origin]).await.unwrap();
        self.bound = Some(origin);
        Ok(Some(origin))
    }

    /// As [`crate::auth::Auth`] does.
    fn seat(&mut self, origin: Origin) {
        self.connections += 1;
        let key = ConnKey { shard: 0, index: self.connections, generation: 0 };
        self.live.insert(key.index, origin);
        if let Some(older) = self.house.directory.insert(origin, key, "", self.house.presence.mark()) {
            self.end(older.key);
        }
        if self.house.directory.take_kick(origin, 0).is_some() {
            self.end(key);
        }
    }

    fn end(&mut self, key: ConnKey) {
        if let Some(origin) = self.live.remove(&key.index) {
            self.house.directory.take(origin);
            self.house.presence.ended(origin);
        }
    }

    fn kick(&mut self, kind: Kind) {
        let mut commands = self.fanout.shards.gather();
        self.fanout.sort(self.house.link, kind, 0, &mut commands);
        for command in commands.into_commands() {
            let ShardCommand::Kick { key, .. } = command else { panic!("{command:?}") };
            self.end(key);
        }
    }
}

/// Logs in at these gateways, with what happens next drawn from `choices`; then the rest. Sessions have numbers as their clocks give them,
/// which need not be the order in which they bind. Gives who binds last, and who stays.
async fn play(at: &[usize], choices: &[usize]) -> (u64, Vec<u64>, Vec<u64>) {
    let state = State::in_memory();
    let mut gateways: Vec<Gateway> = (0..GATEWAYS).map(|name| Gateway::new(name, &state)).collect();
    for (number, gateway) in (1..).zip(at) {
        gateways[*gateway].coming.push_back(Origin { app_id: APP.0, user_id: USER.0, device: DeviceKind::Web, session: number });
    }
    // Kicks on their way, which may overtake each other.
    let mut kicks: Vec<(usize, Kind)> = Vec::new();
    let mut last = 0;
    let rest = (0..).take(64 * LOGINS_MAX);
    for choice in choices.iter().copied().chain(rest) {
        let acts = choice % (GATEWAYS + 1);
        if let Some(gateway) = gateways.get_mut(acts) {
            if let Ok(Some(bound)) = gateway.step().await {
                last = bound.session;
            }
        } else if !kicks.is_empty() {
            let (to, kind) = kicks.swap_remove(choice / (GATEWAYS + 1) % kicks.len());
            gateways[to].kick(kind);
        }
        for gateway in &gateways {
            for kind in gateway.house.sent() {
                let Kind::Relay(Relay { node, kick: Some(kick), .. }) = kind else { panic!("{kind:?}") };
                kicks.push((node[1..].parse().unwrap(), Kind::Kick(kick)));
            }
        }
    }
    assert!(kicks.is_empty() && gateways.iter().all(|gateway| gateway.coming.is_empty() && gateway.bound.is_none()));
    for gateway in &gateways {
        gateway.house.flush().await;
    }
    let live = gateways.iter().flat_map(|gateway| gateway.live.values().map(|origin| origin.session)).collect();
    (last, live, gateways[0].house.sessions().await)
}

proptest! {
    #[test]
    fn whoever_bound_the_route_last_stays_and_nobody_else(
        at in prop::collection::vec(0..GATEWAYS, 1..=LOGINS_MAX),
        choices in prop::collection::vec(0_usize..64, 0..64),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (last, live, routes) = runtime.block_on(play(&at, &choices));
        prop_assert_eq!(live, vec![last]);
        prop_assert_eq!(routes, vec![last], "and it has the route");
    }
}

#[tokio::test]
async fn of_two_that_log_in_at_the_same_instant_the_one_that_bound_first_is_ended_when_it_has_its_seat() {
    // Both bind, the kick arrives, and only then the first has its seat.
    assert_eq!(play(&[0, 1], &[0, 1, GATEWAYS, 0]).await, (2, vec![2], vec![2]));
}
