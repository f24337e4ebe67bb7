//! From users to gateways: which link messages a push to users becomes.
//!
//! One message for each gateway and `msgId`, with the users of that gateway in it: never one per device.

use billfish_state::{Route, UserId};
use std::collections::{BTreeMap, BTreeSet};

/// Users of a push by gateway and `msgId` (empty for QoS 0). Ordered, so that the same routes give the same messages.
pub(crate) type Grouped = BTreeMap<(String, String), BTreeSet<UserId>>;

/// Groups the routes of users; `msg_ids` has one for each user, or none at all.
pub(crate) fn by_gateway(routes: Vec<Vec<Route>>, msg_ids: &[String]) -> Grouped {
    let mut grouped = Grouped::new();
    for (index, routes) in routes.into_iter().enumerate() {
        let msg_id = msg_ids.get(index);
        for route in routes {
            grouped.entry((route.node, msg_id.cloned().unwrap_or_default())).or_default().insert(route.user);
        }
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::by_gateway;
    use billfish_state::{AppId, DeviceKind, Route, UserId};

    fn route(user: i64, device: DeviceKind, node: &str) -> Route {
        Route { app: AppId(10_001), user: UserId(user), device, node: node.to_owned(), epoch: 1, session: 1 }
    }

    #[test]
    fn a_user_with_two_devices_on_a_gateway_stands_there_once() {
        let (web, ios) = (DeviceKind::Web, DeviceKind::Ios);
        let routes = vec![vec![route(1, web, "a"), route(1, ios, "a"), route(1, ios, "b")], vec![], vec![route(3, web, "a")]];
        let grouped: Vec<_> = by_gateway(routes, &[]).into_iter().map(|((node, _), users)| (node, users.len())).collect();
        assert_eq!(grouped, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    }

    #[test]
    fn users_whose_inbox_gave_another_id_get_a_message_of_their_own() {
        let routes = vec![vec![route(1, DeviceKind::Web, "a")], vec![route(2, DeviceKind::Web, "a")]];
        let grouped = by_gateway(routes, &["5-0".to_owned(), "5-1".to_owned()]);
        assert_eq!(grouped.len(), 2);
    }
}
