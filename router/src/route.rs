//! From users to gateways: which link messages a push to users becomes.
//!
//! - One message for each gateway and `msgId`, with the users of that gateway in it: never one per device.
//! - A route counts only where its gateway is linked, in the life that wrote it: routes outlive gateways by hours.

use billfish_state::{Route, UserId};
use std::collections::{BTreeMap, BTreeSet};

/// A push to users, divided.
#[derive(Debug, Default)]
pub(crate) struct Divided {
    /// Users by gateway and `msgId` (empty for QoS 0). Ordered, so that the same routes give the same messages.
    pub(crate) groups: BTreeMap<(String, String), BTreeSet<UserId>>,
    /// Users with a route that counts, by their place in the question.
    pub(crate) reached: BTreeSet<usize>,
    /// Users with a route that does not count though its session is there, perhaps: it cannot be told from here now.
    pub(crate) missed: BTreeSet<usize>,
    /// Routes that do not count.
    pub(crate) unlinked: usize,
}

/// What a route is worth here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worth {
    /// Its gateway is linked, in the life that wrote it.
    Linked,
    /// Its gateway is linked in a later life: that session is no more.
    Over,
    /// Nobody here knows: the session is there, perhaps.
    Unknown,
}

/// Groups the routes of users; `msg_ids` has one for each user, or none at all.
pub(crate) fn by_gateway(routes: Vec<Vec<Route>>, msg_ids: &[String], worth: impl Fn(&Route) -> Worth) -> Divided {
    let mut divided = Divided::default();
    for (index, routes) in routes.into_iter().enumerate() {
        let msg_id = msg_ids.get(index);
        for route in routes {
            let worth = worth(&route);
            if worth != Worth::Linked {
                divided.unlinked += 1;
                if worth == Worth::Unknown {
                    divided.missed.insert(index);
                }
                continue;
            }
            divided.reached.insert(index);
            divided.groups.entry((route.node, msg_id.cloned().unwrap_or_default())).or_default().insert(route.user);
        }
    }
    divided
}

/// The same push to every gateway: for when the routes cannot be asked. Nobody counts as reached, and everyone as missed: which gateway is
/// not linked here, nobody says.
pub(crate) fn to_each<'a>(gateways: impl Iterator<Item = &'a str>, users: &[UserId], msg_ids: &[String]) -> Divided {
    let mut divided = Divided::default();
    for node in gateways {
        for (user, msg_id) in users.iter().zip(msg_ids) {
            divided.groups.entry((node.to_owned(), msg_id.clone())).or_default().insert(*user);
        }
    }
    divided.missed = (0..users.len()).collect();
    divided
}

#[cfg(test)]
mod tests {
    use super::{Worth, by_gateway, to_each};
    use billfish_state::{AppId, DeviceKind, Route, UserId};

    fn route(user: i64, device: DeviceKind, node: &str) -> Route {
        Route { app: AppId(10_001), user: UserId(user), device, node: node.to_owned(), epoch: 1, session: 1 }
    }

    #[test]
    fn a_user_with_two_devices_on_a_gateway_stands_there_once() {
        let (web, ios) = (DeviceKind::Web, DeviceKind::Ios);
        let routes = vec![vec![route(1, web, "a"), route(1, ios, "a"), route(1, ios, "b")], vec![], vec![route(3, web, "a")]];
        let divided = by_gateway(routes, &[], |_| Worth::Linked);
        let grouped: Vec<_> = divided.groups.into_iter().map(|((node, _), users)| (node, users.len())).collect();
        assert_eq!(grouped, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        assert_eq!((divided.reached.into_iter().collect::<Vec<_>>(), divided.unlinked), (vec![0, 2], 0));
    }

    #[test]
    fn users_whose_inbox_gave_another_id_get_a_message_of_their_own() {
        let routes = vec![vec![route(1, DeviceKind::Web, "a")], vec![route(2, DeviceKind::Web, "a")]];
        let divided = by_gateway(routes, &["5-0".to_owned(), "5-1".to_owned()], |_| Worth::Linked);
        assert_eq!(divided.groups.len(), 2);
    }

    #[test]
    fn a_route_to_another_life_of_a_gateway_reaches_nobody() {
        let routes = vec![vec![route(1, DeviceKind::Web, "a"), route(1, DeviceKind::Ios, "b")], vec![route(2, DeviceKind::Web, "b")]];
        let divided = by_gateway(routes, &[], |route| if route.node == "a" { Worth::Linked } else { Worth::Unknown });
        assert_eq!((divided.groups.len(), divided.reached.len(), divided.unlinked), (1, 1, 2));
        assert_eq!(divided.missed.into_iter().collect::<Vec<_>>(), [0, 1], "a device of the first is missed as well");
        let routes = vec![vec![route(1, DeviceKind::Web, "a")]];
        assert!(by_gateway(routes, &[], |_| Worth::Over).missed.is_empty(), "that session is no more");
    }

    #[test]
    fn without_routes_every_gateway_gets_each_users_message() {
        let divided = to_each(["a", "b"].into_iter(), &[UserId(1), UserId(2)], &["5-0".to_owned(), "5-1".to_owned()]);
        let groups: Vec<_> = divided.groups.iter().map(|((node, msg_id), users)| (node.as_str(), msg_id.as_str(), users.len())).collect();
        assert_eq!(groups, [("a", "5-0", 1), ("a", "5-1", 1), ("b", "5-0", 1), ("b", "5-1", 1)]);
        assert!(divided.reached.is_empty());
    }
}
