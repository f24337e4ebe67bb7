//! Who is here, as the shared state knows it: signs of life and routes, written in batches, never one per heartbeat.
//!
//! - A sign of life renews the user's presence and the routes of all the user's sessions here.
//! - A session that ended gives its own route back; the user is gone when no other session of the user is here.
//! - A lost write is made good by the next sign of life, half a heartbeat gap later.

use crate::{
    batch::{Batch, Write},
    clock::unix_ms,
    directory::Directory,
    metrics::{ControlCounters, Port},
    shard::message::Origin,
    store::{Away, Store},
};
use billfish_state::{AppId, DeviceKind, Route, UserId};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// This gateway's part of presence and routes.
#[derive(Debug)]
pub(crate) struct Presence {
    signs: Batch<(AppId, UserId), Sign>,
    endings: Batch<Ending, ()>,
    store: Arc<Store>,
    directory: Arc<Directory>,
    node: String,
    incarnation: u64,
    lease_ms: u64,
}

/// The last thing heard of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Alive,
    Gone,
}

/// A session whose route is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ending {
    app: AppId,
    user: UserId,
    device: DeviceKind,
    session: u64,
}

impl Presence {
    pub(crate) fn new(
        store: Arc<Store>,
        directory: Arc<Directory>,
        counters: &Arc<ControlCounters>,
        node: String,
        incarnation: u64,
        lease_ms: u64,
    ) -> Self {
        Self {
            signs: Batch::new(Port::Presence, WAITING_MAX, GATHER, Arc::clone(counters)),
            endings: Batch::new(Port::Routes, WAITING_MAX, GATHER, Arc::clone(counters)),
            store,
            directory,
            node,
            incarnation,
            lease_ms,
        }
    }

    /// A user showed a sign of life.
    pub(crate) fn alive(&self, app_id: i32, user_id: i64) {
        self.signs.put((AppId(app_id), UserId(user_id)), Sign::Alive);
    }

    /// A session has ended, and its seat is given back already.
    pub(crate) fn ended(&self, origin: Origin) {
        let (app, user) = (AppId(origin.app_id), UserId(origin.user_id));
        self.endings.put(Ending { app, user, device: origin.device, session: origin.session }, ());
        if self.directory.lookup(origin.app_id, origin.user_id).is_empty() {
            self.signs.put((app, user), Sign::Gone);
        }
    }

    /// The route of a session here.
    pub(crate) fn route(&self, origin: Origin) -> Route {
        Route {
            app: AppId(origin.app_id),
            user: UserId(origin.user_id),
            device: origin.device,
            node: self.node.clone(),
            epoch: self.incarnation,
            session: origin.session,
        }
    }

    /// Binds routes of new sessions and says that their users are here, before the sessions know that they are let in.
    pub(crate) async fn welcome(&self, origins: &[Origin]) -> Result<(), Away> {
        let now = unix_ms();
        let routes: Vec<Route> = origins.iter().map(|origin| self.route(*origin)).collect();
        let ports = &self.store.state;
        self.store.call(Port::Routes, ports.routes.bind(&routes, now, now + self.lease_ms)).await?;
        let users: Vec<(AppId, UserId)> = routes.iter().map(|route| (route.app, route.user)).collect();
        if self.store.call(Port::Presence, ports.presence.touch(&users, now)).await.is_err() {
            // A route is enough to be let in; being seen follows with the next batch.
            for user in users {
                self.signs.put(user, Sign::Alive);
            }
        }
        Ok(())
    }

    /// Writes until `stop`, then what is left.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        tokio::join!(self.signs.run(stop, self), self.endings.run(stop, self));
    }

    async fn write_signs(&self, signs: &[((AppId, UserId), Sign)]) -> Result<(), Away> {
        let users =
            |which: Sign| -> Vec<(AppId, UserId)> { signs.iter().filter(|(_, sign)| *sign == which).map(|(user, _)| *user).collect() };
        let (alive, gone) = (users(Sign::Alive), users(Sign::Gone));
        let now = unix_ms();
        if !alive.is_empty() {
            self.store.call(Port::Presence, self.store.state.presence.touch(&alive, now)).await?;
            self.renew(&alive, now).await?;
        }
        if !gone.is_empty() {
            self.store.call(Port::Presence, self.store.state.presence.remove(&gone)).await?;
        }
        Ok(())
    }

    async fn renew(&self, users: &[(AppId, UserId)], now: u64) -> Result<(), Away> {
        let seats = users.iter().flat_map(|(app, user)| {
            self.directory.lookup(app.0, user.0).into_iter().map(|seat| Origin {
                app_id: app.0,
                user_id: user.0,
                device: seat.device,
                session: seat.session,
            })
        });
        let routes: Vec<Route> = seats.map(|origin| self.route(origin)).collect();
        if routes.is_empty() {
            return Ok(());
        }
        let ports = &self.store.state;
        let stand = self.store.call(Port::Routes, ports.routes.renew(&routes, now, now + self.lease_ms)).await?;
        let lost: Vec<Route> = routes.into_iter().zip(stand).filter(|(_, stands)| !stands).map(|(route, _)| route).collect();
        self.bind_forgotten(lost, now).await
    }

    /// Routes that the store has lost are bound again. One that another node's session has by now is that session's.
    async fn bind_forgotten(&self, lost: Vec<Route>, now: u64) -> Result<(), Away> {
        let mut by_app: BTreeMap<AppId, Vec<Route>> = BTreeMap::new();
        for route in lost {
            by_app.entry(route.app).or_default().push(route);
        }
        let ports = &self.store.state;
        for (app, routes) in by_app {
            let users: Vec<UserId> = routes.iter().map(|route| route.user).collect();
            let standing = self.store.call(Port::Routes, ports.routes.lookup(app, &users, now)).await?;
            let free = |(route, standing): (Route, Vec<Route>)| {
                let taken = standing.iter().any(|other| other.device == route.device);
                (!taken).then_some(route)
            };
            let forgotten: Vec<Route> = routes.into_iter().zip(standing).filter_map(free).collect();
            if !forgotten.is_empty() {
                self.store.call(Port::Routes, ports.routes.bind(&forgotten, now, now + self.lease_ms)).await?;
            }
        }
        Ok(())
    }

    async fn write_endings(&self, endings: &[(Ending, ())]) -> Result<(), Away> {
        let origin =
            |ending: &Ending| Origin { app_id: ending.app.0, user_id: ending.user.0, device: ending.device, session: ending.session };
        let routes: Vec<Route> = endings.iter().map(|(ending, ())| self.route(origin(ending))).collect();
        self.store.call(Port::Routes, self.store.state.routes.unbind(&routes)).await
    }
}

impl Write<(AppId, UserId), Sign> for Presence {
    async fn write(&self, signs: &[((AppId, UserId), Sign)]) -> Result<(), Away> {
        self.write_signs(signs).await
    }
}

impl Write<Ending, ()> for Presence {
    async fn write(&self, endings: &[(Ending, ())]) -> Result<(), Away> {
        self.write_endings(endings).await
    }
}

/// Users, or endings, that may wait while the state is away: as many as a gateway has sessions.
const WAITING_MAX: usize = 131_072;
/// What comes within this is one write.
const GATHER: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::{Presence, Sign};
    use crate::{
        clock::unix_ms,
        directory::Directory,
        metrics::ControlCounters,
        shard::message::{ConnKey, Origin},
        store::Store,
    };
    use billfish_state::{AppId, DeviceKind, State, UserId};
    use std::sync::Arc;

    const APP: AppId = AppId(10_001);
    const USER: UserId = UserId(20_001);

    fn presence() -> (Presence, Arc<Directory>, State) {
        let (counters, directory, state) = (Arc::new(ControlCounters::default()), Arc::new(Directory::default()), State::in_memory());
        let store = Arc::new(Store::new(state.clone(), Arc::clone(&counters)));
        (Presence::new(store, Arc::clone(&directory), &counters, "g1".to_owned(), 7, 65_000), directory, state)
    }

    fn session(session: u64, device: DeviceKind) -> Origin {
        Origin { app_id: APP.0, user_id: USER.0, device, session }
    }

    const KEY: ConnKey = ConnKey { shard: 0, index: 0, generation: 0 };

    async fn sessions(state: &State) -> Vec<u64> {
        let routes = state.routes.lookup(APP, &[USER], unix_ms()).await.unwrap();
        let mut sessions: Vec<u64> = routes[0].iter().map(|route| route.session).collect();
        sessions.sort_unstable();
        sessions
    }

    async fn is_online(state: &State) -> bool {
        state.presence.online(APP, &[USER], unix_ms() - 60_000).await.unwrap()[0]
    }

    #[tokio::test]
    async fn a_welcomed_session_is_found_and_its_user_seen() {
        let (presence, _, state) = presence();
        presence.welcome(&[session(1, DeviceKind::Web)]).await.unwrap();
        assert_eq!(sessions(&state).await, [1]);
        assert!(is_online(&state).await);
    }

    #[tokio::test]
    async fn the_user_is_gone_with_the_last_session_here_and_not_before() {
        let (presence, directory, state) = presence();
        let (web, phone) = (session(1, DeviceKind::Web), session(2, DeviceKind::Ios));
        for origin in [web, phone] {
            directory.insert(origin, KEY, "token");
        }
        presence.welcome(&[web, phone]).await.unwrap();
        for (ending, online, left) in [(web, true, vec![2]), (phone, false, vec![])] {
            assert!(directory.take(ending).is_some());
            presence.ended(ending);
            let stop = tokio_util::sync::CancellationToken::new();
            stop.cancel();
            presence.run(&stop).await;
            assert_eq!((is_online(&state).await, sessions(&state).await), (online, left));
        }
    }

    #[tokio::test]
    async fn a_route_that_the_store_lost_is_bound_again_by_a_sign_of_life() {
        let (presence, directory, state) = presence();
        let origin = session(1, DeviceKind::Web);
        directory.insert(origin, KEY, "token");
        presence.write_signs(&[((APP, USER), Sign::Alive)]).await.unwrap();
        assert_eq!(sessions(&state).await, [1]);
    }

    #[tokio::test]
    async fn a_route_that_another_node_has_is_left_alone() {
        let (presence, directory, state) = presence();
        let origin = session(1, DeviceKind::Web);
        directory.insert(origin, KEY, "token");
        let theirs = billfish_state::Route { node: "g2".to_owned(), session: 99, ..presence.route(origin) };
        state.routes.bind(std::slice::from_ref(&theirs), unix_ms(), unix_ms() + 60_000).await.unwrap();
        presence.write_signs(&[((APP, USER), Sign::Alive)]).await.unwrap();
        assert_eq!(sessions(&state).await, [99]);
    }
}
