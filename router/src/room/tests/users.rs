//! Pushes to users and everyone, kicks, tokens.

use super::*;
use crate::handle::ListRooms;
use std::collections::BTreeSet;

#[tokio::test(start_paused = true)]
async fn a_push_to_users_is_one_message_per_gateway() {
    let house = House::start().await;
    let (mut one, mut two) = (house.gateway("g1"), house.gateway("g2"));
    settle().await;
    let mut routes = Vec::new();
    for user in 0..20 {
        let node = if user % 2 == 0 { "g1" } else { "g2" };
        routes.push(Route { app: APP, user: UserId(20_000 + user), device: WEB, node: node.to_owned(), epoch: 1, session: 1 });
    }
    house.state.routes.bind(&routes, 0, u64::MAX).await.unwrap();
    let users: Vec<i64> = (0..30).map(|user| 20_000 + user).collect();
    let pushed = house.handle.push(user_push(&users, 0)).await.unwrap();
    assert_eq!((pushed.accepted, pushed.msg_id), (20, None), "those who are online");
    for (gateway, odd) in [(&mut one, 0), (&mut two, 1)] {
        let mut users = Vec::new();
        for kind in gateway.rest(PATIENCE).await {
            if let Kind::UserPush(push) = kind {
                users.extend(push.user_ids);
            }
        }
        users.sort_unstable();
        assert_eq!(users, (0..10).map(|user| 20_000 + 2 * user + odd).collect::<Vec<_>>());
    }
    let pushed = house.handle.push(user_push(&[20_021, 20_000], 1)).await.unwrap();
    assert_eq!(pushed.accepted, 2, "the one who is offline finds it in the inbox");
    let inbox = house.state.inbox.read(APP, UserId(20_021), None, 10, 0).await.unwrap();
    assert_eq!(pushed.msg_id.as_deref(), Some(inbox.entries[0].id.as_str()), "the first user's");
    assert_eq!(reason(house.handle.push(user_push(&[], 0)).await), Reason::Malformed);
    assert_eq!(reason(house.handle.push(user_push(&[9_999], 0)).await), Reason::Malformed);
}

#[tokio::test(start_paused = true)]
async fn a_push_to_everyone_reaches_every_gateway() {
    let house = House::start().await;
    let (mut one, mut two) = (house.gateway("g1"), house.gateway("g2"));
    settle().await;
    let push = PushRequest { target: Target::All, ..user_push(&[], 0) };
    assert_eq!(house.handle.push(push.clone()).await.unwrap().accepted, 2);
    for gateway in [&mut one, &mut two] {
        assert!(matches!(gateway.next().await, Kind::AllPush(push) if push.app_id == APP.0));
    }
    assert_eq!(reason(house.handle.push(PushRequest { qos: 1, ..push }).await), Reason::Malformed);
}

#[tokio::test(start_paused = true)]
async fn a_push_out_of_bounds_is_refused() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let push = room_push(room, "{}");
    let wrong = [
        PushRequest { biz_code: 0, ..push.clone() },
        PushRequest { qos: 2, ..push.clone() },
        PushRequest { data: "x".repeat(48 * 1024 + 1), ..push.clone() },
        PushRequest { data: "\"".repeat(12 * 1024 + 1), ..push.clone() },
        PushRequest { key: Some(String::new()), ..push.clone() },
        PushRequest { key: Some("x".repeat(65)), ..push.clone() },
        PushRequest { key: Some("k".to_owned()), ..user_push(&[ALICE], 0) },
        PushRequest { app: AppId(9_999), ..push.clone() },
    ];
    for push in wrong {
        assert_eq!(reason(house.handle.push(push).await), Reason::Malformed);
    }
    house.handle.push(PushRequest { data: "x".repeat(48 * 1024), ..push }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_kick_goes_to_the_sessions_of_that_device() {
    let house = House::start().await;
    let mut gateway = house.gateway("g1");
    settle().await;
    let route = |device, session| Route { app: APP, user: UserId(ALICE), device, node: "g1".to_owned(), epoch: 1, session };
    house.state.routes.bind(&[route(DeviceKind::Web, 5), route(DeviceKind::Ios, 6)], 0, u64::MAX).await.unwrap();
    let kick = |device| crate::handle::KickRequest { app: APP, user: UserId(ALICE), device, message: String::new() };
    assert_eq!(house.handle.kick(kick(Some(DeviceKind::Ios))).await.unwrap(), 1);
    assert!(matches!(gateway.next().await, Kind::Kick(kick) if kick.session == 6 && kick.user_id == ALICE));
    assert_eq!(house.handle.kick(kick(None)).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_128_random_bits_with_the_app_and_good_for_five_minutes() {
    let house = House::start().await;
    assert_eq!(reason(house.handle.issue_token(APP, UserId(ALICE), None).await), Reason::Unavailable, "no gateway is up");
    let now_ms = house.running.core.state.clock.now_ms();
    for index in 0..5 {
        let node = billfish_state::NodeInfo {
            kind: billfish_state::NodeKind::Gateway,
            id: format!("g{index}"),
            incarnation: 1,
            addresses: vec![("tcp".to_owned(), format!("10.0.0.{index}:8085")), ("link".to_owned(), "secret".to_owned())],
            capacity: 100,
            load: 0,
            draining: index == 0,
            version: String::new(),
            labels: Default::default(),
        };
        house.state.registry.register(&node, now_ms, now_ms + 3_600_000).await.unwrap();
    }
    let issued = house.handle.issue_token(APP, UserId(ALICE), Some(WEB)).await.unwrap();
    let (random, app) = issued.token.split_once('%').unwrap();
    assert_eq!((random.len(), app), (32, "10001"));
    assert!(random.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(issued.expires_in, Duration::from_secs(300));
    assert_eq!(issued.gateways.keys().collect::<Vec<_>>(), ["tcp"]);
    let addresses = &issued.gateways["tcp"];
    assert!(addresses.len() == 3 && !addresses.contains(&"10.0.0.0:8085".to_owned()), "{addresses:?}");
    let again = house.handle.issue_token(APP, UserId(ALICE), Some(WEB)).await.unwrap();
    assert_eq!(&again.gateways["tcp"], addresses, "the same gateway for the same user");
    assert_ne!(again.token, issued.token);
    let owner = |now_ms| {
        let token = issued.token.clone();
        let tokens = house.state.tokens.clone();
        async move { tokens.resolve(&[token], now_ms).await.unwrap()[0] }
    };
    assert_eq!(owner(now_ms + 299_000).await.map(|owner| (owner.user, owner.device)), Some((UserId(ALICE), Some(WEB))));
    assert_eq!(owner(now_ms + 301_000).await, None);
}

#[tokio::test(start_paused = true)]
async fn members_are_read_by_pages_and_rooms_are_listed_with_their_audience() {
    let house = House::start().await;
    let (room, other) = (house.open(ANCHOR).await, house.open(UserId(30_002)).await);
    let mut gateway = house.gateway("g1");
    for user in 0..25 {
        gateway.join(room, 20_000 + user).await;
    }
    let (mut users, mut cursor) = (BTreeSet::new(), 0);
    loop {
        let page = house.handle.members(room, cursor, 10).await.unwrap();
        assert!(page.users.len() <= 10 && page.audience == 25);
        users.extend(page.users);
        cursor = page.cursor;
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(users, (0..25).map(|user| UserId(20_000 + user)).collect());
    for limit in [0, 1_001] {
        assert_eq!(reason(house.handle.members(room, 0, limit).await), Reason::Malformed);
    }
    assert_eq!(reason(house.handle.members(RoomId(99), 0, 10).await), Reason::RoomNotFound);
    // The list is a second old at most.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let request = ListRooms { app: APP, kind: RoomKind::Normal, page: 1, page_size: 10 };
    let page = house.handle.list_rooms(request).await.unwrap();
    let listed: Vec<(RoomId, u64)> = page.rooms.iter().map(|room| (room.room, room.audience)).collect();
    assert_eq!((listed, page.has_next), (vec![(other, 0), (room, 25)], false));
    assert_eq!(house.running.readiness(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn who_showed_no_life_for_two_gaps_is_offline() {
    let house = House::start().await;
    house.state.presence.touch(&[(APP, UserId(ALICE))], house.running.core.state.clock.now_ms()).await.unwrap();
    let online = || house.handle.online(APP, &[UserId(BOB), UserId(ALICE)]);
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(online().await.unwrap(), [false, true]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(online().await.unwrap(), [false, false]);
    let too_many: Vec<UserId> = (0..1_001).map(|user| UserId(20_000 + user)).collect();
    assert_eq!(reason(house.handle.online(APP, &too_many).await), Reason::Malformed);
}

#[tokio::test(start_paused = true)]
async fn one_sender_leaves_only_so_much_in_the_inboxes_of_those_who_are_away() {
    let house = House::start().await;
    let mut gateway = house.gateway("g1");
    for receiver in 0..60 {
        assert!(is_accepted(&gateway.ask(ALICE, whisper(30_000 + receiver, "later", "")).await), "{receiver}");
    }
    let reply::Result::Refused(refused) = gateway.ask(ALICE, whisper(40_000, "one more", "m61")).await else { panic!("one too many") };
    assert!(refused.code == 4007 && refused.retry_after_ms > 0, "{refused:?}");
    assert!(house.state.inbox.read(APP, UserId(40_000), None, 10, 0).await.unwrap().entries.is_empty());
    // Whoever is connected is still spoken to, and others have their own allowance.
    let route = Route { app: APP, user: UserId(BOB), device: WEB, node: "g1".to_owned(), epoch: 1, session: 1 };
    house.state.routes.bind(&[route], 0, u64::MAX).await.unwrap();
    assert!(is_accepted(&gateway.ask(ALICE, whisper(BOB, "you are here", "")).await));
    assert!(is_accepted(&gateway.ask(BOB, whisper(40_000, "later", "")).await));
    // The refusal gave the message id back: it may be sent when its time has come.
    tokio::time::advance(Duration::from_secs(3_600)).await;
    assert!(is_accepted(&gateway.ask(ALICE, whisper(40_000, "one more", "m61")).await));
    assert_eq!(house.state.inbox.read(APP, UserId(40_000), None, 10, 0).await.unwrap().entries.len(), 2);
}
