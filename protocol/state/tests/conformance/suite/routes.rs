//! [`billfish_state::Routes`].

use super::*;
use billfish_state::{
    DeviceKind, Route,
    port::{DISPLACED_KEPT_MS, DISPLACED_MAX},
};
use std::collections::BTreeMap;

fn route(user: i64, device: DeviceKind, session: u64) -> Route {
    Route { app: APP, user: UserId(user), device, node: format!("gateway-{}", session % 3), epoch: session % 2, session }
}

fn sorted(mut routes: Vec<Route>) -> Vec<Route> {
    routes.sort_by_key(|route| route.device);
    routes
}

pub(crate) async fn binding_gives_whom_it_displaces_and_a_repeat_gives_the_same<S: Store>() {
    let routes = S::fresh().await.routes;
    let bind = async |route: &Route| routes.bind(std::slice::from_ref(route), at(0), at(MINUTE)).await.unwrap().remove(0);
    let [first, second, third] = [1, 2, 3].map(|session| route(1, DeviceKind::Ios, session));
    for _ in 0..2 {
        assert_eq!(bind(&first).await, []);
    }
    for _ in 0..2 {
        assert_eq!(bind(&second).await, [first.clone()]);
    }
    let twice = routes.bind(&[first.clone(), second.clone()], at(0), at(MINUTE)).await.unwrap();
    assert_eq!(twice, [vec![second.clone()], vec![first.clone()]], "never itself");
    assert_eq!(bind(&third).await, [second, first], "also whom the one before displaced: its answer may have been lost");
    assert_eq!(routes.lookup(APP, &users([1]), at(1)).await.unwrap(), [vec![third]]);
    assert_eq!(routes.bind(&[route(1, DeviceKind::Web, 9)], at(0), at(MINUTE)).await.unwrap(), [vec![]], "of another device");
}

pub(crate) async fn whom_a_route_displaced_is_told_for_a_while_also_when_it_was_given_back<S: Store>() {
    let routes = S::fresh().await.routes;
    let bind =
        async |session, now: u64| routes.bind(&[route(1, DeviceKind::Ios, session)], at(now), at(now + HOUR)).await.unwrap().remove(0);
    let sessions = |routes: Vec<Route>| routes.into_iter().map(|route| route.session).collect::<Vec<_>>();
    bind(1, 0).await;
    bind(2, SECOND).await;
    assert_eq!(routes.unbind(&[route(1, DeviceKind::Ios, 2)]).await.unwrap(), [false], "what is only told of is no route");
    assert_eq!(routes.lookup(APP, &users([1]), at(SECOND)).await.unwrap(), [vec![]]);
    let over = SECOND + DISPLACED_KEPT_MS;
    assert_eq!(sessions(bind(3, over - 1).await), [1]);
    assert_eq!(sessions(bind(3, over).await), [0_u64; 0]);
    for session in 4..9 {
        bind(session, over).await;
    }
    assert_eq!(sessions(bind(9, over).await), [8, 7, 6, 5], "the newest");
    assert_eq!(sessions(bind(10, over + HOUR).await), [0_u64; 0], "what has run out is over");
}

pub(crate) async fn who_is_bound_again_keeps_its_place_among_those_displaced<S: Store>() {
    let routes = S::fresh().await.routes;
    let bind = async |session, until: u64| {
        let told = routes.bind(&[route(1, DeviceKind::Ios, session)], at(1), at(until)).await.unwrap().remove(0);
        told.into_iter().map(|route| route.session).collect::<Vec<_>>()
    };
    bind(1, MINUTE).await;
    bind(2, MINUTE).await;
    assert_eq!(bind(3, 0).await, [2, 1]);
    assert_eq!(bind(2, 0).await, [1], "what had run out is displaced by nobody");
    assert_eq!(bind(3, MINUTE).await, [2, 1]);
}

pub(crate) async fn a_device_has_one_route_and_a_user_one_per_device<S: Store>() {
    let routes = S::fresh().await.routes;
    let all: Vec<Route> = DeviceKind::ALL.into_iter().zip(1..).map(|(device, session)| route(1, device, session)).collect();
    routes.bind(&all, at(0), at(MINUTE)).await.unwrap();
    routes.bind(&all, at(0), at(MINUTE)).await.unwrap();
    let found = routes.lookup(APP, &users([1]), at(1)).await.unwrap().remove(0);
    assert_eq!(sorted(found), all);
}

pub(crate) async fn a_route_ends_unless_renewed<S: Store>() {
    let routes = S::fresh().await.routes;
    let (kept, left) = (route(1, DeviceKind::Ios, 1), route(1, DeviceKind::Web, 2));
    routes.bind(&[kept.clone(), left.clone()], at(0), at(MINUTE)).await.unwrap();
    assert_eq!(routes.renew(&[kept.clone()], at(SECOND), at(2 * MINUTE)).await.unwrap(), [true]);
    assert_eq!(sorted(routes.lookup(APP, &users([1]), at(MINUTE - 1)).await.unwrap().remove(0)), [kept.clone(), left.clone()]);
    assert_eq!(routes.lookup(APP, &users([1]), at(MINUTE)).await.unwrap(), [vec![kept.clone()]]);
    assert_eq!(routes.renew(&[kept, left], at(MINUTE), at(HOUR)).await.unwrap(), [true, false], "what has run out does not stand");
}

pub(crate) async fn only_a_route_that_stands_as_given_is_renewed<S: Store>() {
    let routes = S::fresh().await.routes;
    let standing = route(1, DeviceKind::Ios, 6);
    routes.bind(std::slice::from_ref(&standing), at(0), at(MINUTE)).await.unwrap();
    let others = [
        Route { session: 7, ..standing.clone() },
        Route { node: "gateway-9".to_owned(), ..standing.clone() },
        Route { epoch: 9, ..standing.clone() },
        Route { device: DeviceKind::Web, ..standing.clone() },
        Route { user: UserId(2), ..standing.clone() },
        Route { app: OTHER_APP, ..standing.clone() },
    ];
    assert_eq!(routes.renew(&others, at(1), at(HOUR)).await.unwrap(), [false; 6]);
    assert_eq!(routes.lookup(APP, &users([1, 2]), at(MINUTE)).await.unwrap(), [vec![], vec![]], "nothing was renewed or made");
    routes.bind(std::slice::from_ref(&standing), at(0), at(MINUTE)).await.unwrap();
    assert_eq!(routes.unbind(&others).await.unwrap(), [true, true, true, true, false, false]);
    assert_eq!(routes.lookup(APP, &users([1]), at(1)).await.unwrap(), [vec![standing]], "nor is anything else unbound");
}

pub(crate) async fn a_session_never_removes_its_successors_route<S: Store>() {
    let routes = S::fresh().await.routes;
    let (old, new) = (route(1, DeviceKind::Ios, 1), route(1, DeviceKind::Ios, 2));
    routes.bind(&[old.clone()], at(0), at(MINUTE)).await.unwrap();
    routes.bind(&[new.clone()], at(0), at(MINUTE)).await.unwrap();
    routes.unbind(&[old]).await.unwrap();
    assert_eq!(routes.lookup(APP, &users([1]), at(1)).await.unwrap(), [vec![new.clone()]]);
    routes.unbind(&[new.clone()]).await.unwrap();
    routes.unbind(&[new]).await.expect("again is no error");
    assert_eq!(routes.lookup(APP, &users([1]), at(1)).await.unwrap(), [vec![]]);
}

pub(crate) async fn unbinding_tells_whether_the_user_has_another_route<S: Store>() {
    let routes = S::fresh().await.routes;
    let (phone, web, theirs) = (route(1, DeviceKind::Ios, 1), route(1, DeviceKind::Web, 2), route(2, DeviceKind::Web, 3));
    routes.bind(&[phone.clone(), web.clone(), theirs.clone()], at(0), at(MINUTE)).await.unwrap();
    assert_eq!(routes.unbind(&[phone.clone(), theirs.clone()]).await.unwrap(), [true, false]);
    assert_eq!(routes.unbind(&[phone.clone(), theirs]).await.unwrap(), [true, false], "a repeat");
    let elsewhere = route(1, DeviceKind::Web, 7);
    routes.bind(&[elsewhere.clone()], at(0), at(MINUTE)).await.unwrap();
    assert_eq!(routes.unbind(&[web]).await.unwrap(), [true], "its successor's is another");
    routes.bind(&[phone.clone()], at(0), at(MINUTE)).await.unwrap();
    assert_eq!(routes.unbind(&[phone, elsewhere]).await.unwrap(), [true, false], "in the order given");
}

pub(crate) async fn answers_come_in_the_order_asked<S: Store>() {
    let routes = S::fresh().await.routes;
    let all: Vec<Route> = (0..50).map(|user| route(user, DeviceKind::Other, user.unsigned_abs() + 1)).collect();
    assert_eq!(routes.bind(&all, at(0), at(MINUTE)).await.unwrap(), vec![vec![]; 50]);
    let expected: Vec<Vec<Route>> = (0..60).rev().map(|user| all.get(user).cloned().into_iter().collect()).collect();
    assert_eq!(routes.lookup(APP, &users((0..60).rev()), at(1)).await.unwrap(), expected);
}

pub(crate) async fn of_many_binding_at_once_each_sees_the_one_before<S: Store>() {
    let routes = S::fresh().await.routes;
    let mut before = Vec::new();
    let tasks: Vec<_> = (1..=50u64)
        .map(|session| {
            let routes = routes.clone();
            tokio::spawn(async move { routes.bind(&[route(1, DeviceKind::Ios, session)], at(0), at(MINUTE)).await.unwrap().remove(0) })
        })
        .collect();
    for task in tasks {
        before.push(task.await.unwrap().first().map_or(0, |route| route.session));
    }
    before.push(routes.lookup(APP, &users([1]), at(1)).await.unwrap()[0][0].session);
    before.sort_unstable();
    assert_eq!(before, (0..=50).collect::<Vec<_>>(), "nothing, then each session, is seen once");
}

#[derive(Clone, Debug)]
enum Step {
    Bind(Route, u64),
    Renew(Route, u64),
    Unbind(Route),
    Pass(u64),
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let any_route = || (0i64..3, 0usize..2, 1u64..4).prop_map(|(user, device, session)| route(user, DeviceKind::ALL[device], session));
    let step = prop_oneof![
        3 => (any_route(), 0..20 * SECOND).prop_map(|(route, life)| Step::Bind(route, life)),
        2 => (any_route(), 0..20 * SECOND).prop_map(|(route, life)| Step::Renew(route, life)),
        2 => any_route().prop_map(Step::Unbind),
        2 => (0..8 * SECOND).prop_map(Step::Pass),
    ];
    histories::<S, _>(step, async |state, steps| {
        let mut now = at(0);
        let mut model: BTreeMap<(UserId, DeviceKind), (Route, u64)> = BTreeMap::new();
        // Whom each device's binds displaced, and until when that is told.
        let mut displaced: BTreeMap<(UserId, DeviceKind), Vec<(Route, u64)>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Bind(route, life) => {
                    let told = state.routes.bind(std::slice::from_ref(&route), now, now + life).await.unwrap().remove(0);
                    let key = (route.user, route.device);
                    let before = model.insert(key, (route.clone(), now + life));
                    let known = displaced.entry(key).or_default();
                    if let Some((before, _)) = before.filter(|(before, until)| now < *until && *before != route) {
                        known.retain(|(other, until)| now < *until && *other != before && *other != route);
                        known.push((before, now + DISPLACED_KEPT_MS));
                        known.drain(..known.len().saturating_sub(DISPLACED_MAX));
                    }
                    let expected = known.iter().rev().filter(|(other, until)| now < *until && *other != route);
                    prop_assert_eq!(told, expected.map(|(other, _)| other.clone()).collect::<Vec<_>>());
                }
                Step::Renew(route, life) => {
                    let renewed = state.routes.renew(std::slice::from_ref(&route), now, now + life).await.unwrap();
                    let standing = model.get_mut(&(route.user, route.device)).filter(|(old, until)| *old == route && now < *until);
                    prop_assert_eq!(renewed, [standing.is_some()]);
                    if let Some((_, until)) = standing {
                        *until = now + life;
                    }
                }
                Step::Unbind(route) => {
                    let others = state.routes.unbind(std::slice::from_ref(&route)).await.unwrap();
                    if model.get(&(route.user, route.device)).is_some_and(|(old, _)| *old == route) {
                        model.remove(&(route.user, route.device));
                    }
                    let left = || model.iter().filter(|((of, _), _)| *of == route.user);
                    // One that has run out may be forgotten or not.
                    prop_assert!(others == [left().count() > 0] || others == [left().any(|(_, (_, until))| now < *until)]);
                }
                Step::Pass(ms) => now += ms,
            }
            let found = state.routes.lookup(APP, &users(0..3), now).await.unwrap();
            for (user, found) in (0..3).zip(found) {
                let expected: Vec<Route> = model
                    .iter()
                    .filter(|((of, _), (_, until))| of.0 == user && now < *until)
                    .map(|(_, (route, _))| route.clone())
                    .collect();
                prop_assert_eq!(sorted(found), expected);
            }
        }
        Ok(())
    });
}
