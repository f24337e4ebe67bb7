//! What each route does, through the router to the records and back.

use super::{Api, AppId, Arc, DeviceKind, Duration, Instant, Member, RoomId, SystemTime, UNIX_EPOCH, UserId, authorized, config};
use axum::{body::Body, http::header};
use serde_json::{Value, json};

const APP: AppId = AppId(10_001);

#[tokio::test]
async fn a_token_comes_with_a_gateway_and_lets_in_its_user_alone() {
    let api = Api::start().await;
    let (status, answer) = api.call("POST", "/v1/im/tokens", json!({"appId": 10001, "userId": 20001, "device": "web"})).await;
    assert_eq!((status, answer["expiresInMs"].as_u64()), (200, Some(300_000)), "{answer}");
    assert_eq!(answer["gateways"], json!({"tcp": ["127.0.0.1:8085"]}));
    let token = answer["token"].as_str().unwrap();
    assert!(token.len() == 38 && token.ends_with("%10001"), "{token}");
    let owner = api.state.tokens.resolve(&[token.to_owned()], now_ms()).await.unwrap()[0].unwrap();
    assert_eq!((owner.app, owner.user, owner.device), (APP, UserId(20_001), Some(DeviceKind::Web)));
    let (_, other) = api.call("POST", "/v1/im/tokens", json!({"userId": 20001})).await;
    assert_ne!(other["token"], answer["token"]);
}

#[tokio::test]
async fn a_token_may_bring_the_profile_along_and_keeps_what_it_does_not_name() {
    let api = Api::start().await;
    for (body, profile) in [
        (json!({"userId": 20001}), None),
        (json!({"userId": 20001, "nickName": "Alice"}), Some(("Alice", ""))),
        (json!({"userId": 20001, "avatar": "a.png"}), Some(("Alice", "a.png"))),
        (json!({"userId": 20001}), Some(("Alice", "a.png"))),
        (json!({"userId": 20001, "nickName": "Al", "avatar": ""}), Some(("Al", ""))),
    ] {
        assert_eq!(api.call("POST", "/v1/im/tokens", body.clone()).await.0, 200, "{body}");
        let (_, answer) = api.call("GET", "/v1/users?ids=20001", Value::Null).await;
        let expected = profile.map(|(name, avatar)| json!({"userId": 20001, "nickName": name, "avatar": avatar}));
        assert_eq!(answer["users"], Value::from_iter(expected), "{body}");
    }
    let (status, problem) = api.call("POST", "/v1/im/tokens", json!({"userId": 20001, "nickName": "n".repeat(65)})).await;
    assert_eq!((status, &problem["code"]), (400, &json!("malformed")), "{problem}");
}

#[tokio::test]
async fn online_answers_for_each_user_asked_for() {
    let api = Api::start().await;
    api.state.presence.touch(&[(APP, UserId(20_001))], now_ms()).await.unwrap();
    let (status, answer) = api.call("GET", "/v1/im/online?appId=10001&userIds=20001,20002", Value::Null).await;
    assert_eq!((status, answer), (200, json!({"online": {"20001": true, "20002": false}})));
    let (_, answer) = api.call("GET", "/v1/im/online?appId=10002&userIds=20001", Value::Null).await;
    assert_eq!(answer, json!({"online": {"20001": false}}));
}

#[tokio::test]
async fn a_push_to_a_user_lies_in_the_inbox_as_it_was_sent() {
    let api = Api::start().await;
    for (index, (data, kept)) in [
        (r#""plain text""#, "plain text"),
        (r#"{"amount":12345678901234567890123, "a":1.10}"#, r#"{"amount":12345678901234567890123, "a":1.10}"#),
        ("[1,2]", "[1,2]"),
    ]
    .into_iter()
    .enumerate()
    {
        let user = UserId(20_001 + i64::try_from(index).unwrap());
        let body = format!(r#"{{"target":{{"users":[{user}]}},"bizCode":5568,"data":{data},"qos":1}}"#);
        let (status, _, answer) = api.send(authorized("POST", "/v1/im/push", Body::from(body))).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!((status.as_u16(), answer["accepted"].as_u64()), (200, Some(1)), "{answer}");
        let page = api.state.inbox.read(APP, user, None, 10, now_ms()).await.unwrap();
        assert_eq!(page.entries.len(), 1);
        assert_eq!(answer["msgId"], page.entries[0].id.as_str());
        let body: Value = serde_json::from_slice(&page.entries[0].body).unwrap();
        assert_eq!((body["data"].as_str(), body["bizCode"].as_i64()), (Some(kept), Some(5568)));
    }
}

#[tokio::test]
async fn a_push_to_a_room_has_a_place_in_it_and_one_to_no_room_is_a_404() {
    let api = Api::start().await;
    let room = api.open_room(30_001).await;
    let push = |room: i64| json!({"target": {"roomId": room}, "bizCode": 5568, "data": {"type": "x"}});
    let (status, first) = api.call("POST", "/v1/im/push", push(room)).await;
    let (_, second) = api.call("POST", "/v1/im/push", push(room)).await;
    assert_eq!(status, 200, "{first}");
    assert!(second["seq"].as_i64().unwrap() > first["seq"].as_i64().unwrap(), "{first} {second}");
    let (status, problem) = api.call("POST", "/v1/im/push", push(room + 1)).await;
    assert_eq!((status, &problem["code"]), (404, &json!("room-not-found")));
    let (status, answer) = api.call("POST", "/v1/im/push", json!({"target": {"all": true}, "bizCode": 1, "data": ""})).await;
    assert_eq!((status, answer["accepted"].as_u64()), (200, Some(0)));
}

#[tokio::test]
async fn a_kick_tells_how_many_sessions_it_reached() {
    let api = Api::start().await;
    let (status, answer) = api.call("POST", "/v1/im/kick", json!({"userId": 20001, "reason": "bad manners"})).await;
    assert_eq!((status, answer), (200, json!({"kicked": 0})));
}

#[tokio::test]
async fn a_room_is_opened_seen_and_closed_by_its_anchor() {
    let api = Api::start().await;
    let body = json!({"anchorId": 30001, "type": 2, "roomName": "Ann sings", "coverImg": "https://example.com/c.png"});
    let (status, headers, answer) = api.send(authorized("POST", "/v1/rooms", Body::from(body.to_string()))).await;
    let opened: Value = serde_json::from_slice(&answer).unwrap();
    let room = opened["roomId"].as_i64().unwrap();
    assert_eq!((status.as_u16(), headers[header::LOCATION].to_str().unwrap()), (201, format!("/v1/rooms/{room}").as_str()));

    let (status, seen) = api.call("GET", &format!("/v1/rooms/{room}"), Value::Null).await;
    assert_eq!(status, 200);
    for (field, value) in
        [("roomId", json!(room)), ("appId", json!(10001)), ("anchorId", json!(30001)), ("type", json!(2)), ("status", json!(1))]
    {
        assert_eq!((&seen[field], &opened[field]), (&value, &value), "{field}");
    }
    assert_eq!((&seen["roomName"], &seen["coverImg"], &seen["audience"]), (&body["roomName"], &body["coverImg"], &json!(0)));
    assert!(seen["startTime"].as_u64().unwrap() > 1_700_000_000_000);
    // The push address holds the key, and is told once.
    assert!(opened["stream"]["push"].is_string() && seen["stream"]["push"].is_null());
    assert_eq!(seen["stream"]["flv"], "http://127.0.0.1:8088/flv?app=live&stream=10001-30001");

    let (status, problem) = api.call("POST", "/v1/rooms", body).await;
    assert_eq!((status, &problem["code"], &problem["roomId"]), (409, &json!("already-live"), &json!(room)));
    let close = format!("/v1/rooms/{room}/close");
    let (status, problem) = api.call("POST", &close, json!({"anchorId": 30002})).await;
    assert_eq!((status, &problem["code"]), (403, &json!("not-allowed")));
    assert_eq!(api.call("POST", &close, json!({"anchorId": 30001})).await.0, 204);
    for (method, path) in [("GET", format!("/v1/rooms/{room}")), ("POST", close), ("GET", format!("/v1/rooms/{room}/members"))] {
        let (status, problem) = api.call(method, &path, Value::Null).await;
        assert_eq!((status, &problem["code"]), (404, &json!("room-not-found")), "{method} {path}");
    }
}

#[tokio::test]
async fn the_holder_of_the_key_closes_a_room_in_the_anchors_name() {
    let api = Api::start().await;
    let room = api.open_room(30_001).await;
    assert_eq!(api.call("POST", &format!("/v1/rooms/{room}/close"), Value::Null).await.0, 204);
    assert!(api.open_room(30_001).await > room);
}

#[tokio::test]
async fn the_list_turns_exact_pages() {
    let api = Api::start().await;
    for anchor in 30_001..=30_005 {
        api.open_room(anchor).await;
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (_, list) = api.call("GET", "/v1/rooms?type=1&page=1&pageSize=100", Value::Null).await;
        if list["rooms"].as_array().is_some_and(|rooms| rooms.len() == 5) {
            break;
        }
        assert!(Instant::now() < deadline, "the list never had them all: {list}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut anchors = Vec::new();
    for (page, count, has_next) in [(1, 2, true), (2, 2, true), (3, 1, false), (4, 0, false)] {
        let (status, list) = api.call("GET", &format!("/v1/rooms?page={page}&pageSize=2"), Value::Null).await;
        let rooms = list["rooms"].as_array().unwrap();
        assert_eq!((status, rooms.len(), &list["hasNext"]), (200, count, &json!(has_next)), "page {page}");
        assert_eq!((&list["page"], &list["pageSize"]), (&json!(page), &json!(2)));
        anchors.extend(rooms.iter().map(|room| room["anchorId"].as_i64().unwrap()));
    }
    assert_eq!(anchors, [30_005, 30_004, 30_003, 30_002, 30_001]);
    let (_, exact) = api.call("GET", "/v1/rooms?pageSize=5", Value::Null).await;
    assert_eq!(exact["hasNext"], json!(false));
    let (_, none) = api.call("GET", "/v1/rooms?type=2", Value::Null).await;
    assert_eq!(none["rooms"], json!([]));
}

#[tokio::test]
async fn members_come_by_pages_with_a_cursor_of_text() {
    let api = Api::start().await;
    let room = api.open_room(30_001).await;
    let members: Vec<Member> = (20_000..20_050).map(|user| Member { user: UserId(user), device: DeviceKind::Web }).collect();
    api.state.members.join(APP, RoomId(room), &members, now_ms()).await.unwrap();
    let mut found = std::collections::BTreeSet::new();
    let mut cursor = None::<String>;
    for page in 0.. {
        assert!(page < 50, "the scan does not end");
        let after = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let (status, answer) = api.call("GET", &format!("/v1/rooms/{room}/members?limit=20{after}"), Value::Null).await;
        assert_eq!(status, 200, "{answer}");
        found.extend(answer["userIds"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()));
        if answer["cursor"].is_null() {
            break;
        }
        cursor = Some(answer["cursor"].as_str().unwrap().to_owned());
    }
    assert_eq!(found, (20_000..20_050).collect());
}

#[tokio::test]
async fn moderation_is_by_the_key_or_by_the_anchor() {
    let api = Api::start().await;
    let room = api.open_room(30_001).await;
    for kind in ["mutes", "bans"] {
        let path = format!("/v1/rooms/{room}/{kind}/20001");
        for (method, suffix, body, status) in [
            ("PUT", "", Value::Null, 204),
            ("PUT", "", json!({"seconds": 60}), 204),
            ("PUT", "", json!({"seconds": 60, "operatorId": 30001}), 204),
            ("PUT", "", json!({"seconds": 60, "operatorId": 30002}), 403),
            ("PUT", "", json!({"seconds": 0}), 400),
            ("PUT", "", json!({"seconds": 31622401}), 400),
            ("DELETE", "?operatorId=30002", Value::Null, 403),
            ("DELETE", "?operatorId=30001", Value::Null, 204),
            ("DELETE", "", Value::Null, 204),
        ] {
            let answered = api.call(method, &format!("{path}{suffix}"), body.clone()).await;
            assert_eq!(answered.0, status, "{method} {path}{suffix} {body}: {}", answered.1);
        }
        let nowhere = format!("/v1/rooms/{}/{kind}/20001", room + 1);
        assert_eq!(api.call("PUT", &nowhere, Value::Null).await.0, 404);
    }
    let slow = format!("/v1/rooms/{room}/slow-mode");
    for (body, status) in [
        (json!({"seconds": 5}), 204),
        (json!({"seconds": 0}), 204),
        (json!({"seconds": 600, "operatorId": 30001}), 204),
        (json!({"seconds": 601}), 400),
        (json!({"seconds": 5, "operatorId": 30002}), 403),
        (json!({}), 400),
    ] {
        assert_eq!(api.call("PUT", &slow, body.clone()).await.0, status, "{body}");
    }
}

#[tokio::test]
async fn block_lists_are_set_read_and_emptied() {
    let api = Api::start().await;
    let words = |path: &str| {
        let path = path.to_owned();
        let api = &api;
        async move { api.call("GET", &path, Value::Null).await.1["words"].clone() }
    };
    assert_eq!(words("/v1/block-words").await, json!([]));
    assert_eq!(api.call("PUT", "/v1/block-words", json!({"words": ["casino", "赌博"]})).await.0, 204);
    assert_eq!(words("/v1/block-words").await, json!(["casino", "赌博"]));
    for bad in [
        json!({"words": [""]}),
        json!({"words": ["w".repeat(65)]}),
        json!({"words": vec!["w"; 1_001]}),
        json!({"words": "casino"}),
        json!({}),
    ] {
        assert_eq!(api.call("PUT", "/v1/block-words", bad.clone()).await.0, 400, "{bad}");
    }
    assert_eq!(api.call("DELETE", "/v1/block-words", Value::Null).await.0, 204);
    assert_eq!(words("/v1/block-words").await, json!([]));

    let room = api.open_room(30_001).await;
    let path = format!("/v1/rooms/{room}/block-words");
    assert_eq!(api.call("PUT", &path, json!({"words": ["spoiler"]})).await.0, 204);
    assert_eq!(api.call("PUT", &path, json!({"words": [], "operatorId": 30002})).await.0, 403);
    assert_eq!(api.call("PUT", &format!("/v1/rooms/{}/block-words", room + 1), json!({"words": []})).await.0, 404);
}

#[tokio::test]
async fn profiles_are_put_whole_and_read_in_order() {
    let api = Api::start().await;
    assert_eq!(api.call("PUT", "/v1/users/20002", json!({"nickName": "Bob"})).await.0, 204);
    assert_eq!(api.call("PUT", "/v1/users/20001", json!({"nickName": "<b>Ann</b>", "avatar": "a.png"})).await.0, 204);
    let (status, answer) = api.call("GET", "/v1/users?ids=20003,20002,20001", Value::Null).await;
    let expected =
        json!([{"userId": 20001, "nickName": "<b>Ann</b>", "avatar": "a.png"}, {"userId": 20002, "nickName": "Bob", "avatar": ""}]);
    assert_eq!((status, &answer["users"]), (200, &expected));
    assert_eq!(api.call("GET", "/v1/users?appId=10002&ids=20001", Value::Null).await.1["users"], json!([]));
    for bad in [json!({"nickName": "n".repeat(65)}), json!({"avatar": "a.png"}), json!({"nickName": "x", "avatar": "a".repeat(513)})] {
        assert_eq!(api.call("PUT", "/v1/users/20001", bad.clone()).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn of_forty_openings_with_one_key_one_is_carried_out_and_all_hear_its_answer() {
    let api = Arc::new(Api::start().await);
    let callers: Vec<_> = (0..40)
        .map(|_| {
            let api = Arc::clone(&api);
            tokio::spawn(async move { api.call("POST", "/v1/rooms", json!({"anchorId": 30001, "type": 1, "uuid": "open-1"})).await })
        })
        .collect();
    let mut answers = Vec::new();
    for caller in callers {
        answers.push(caller.await.unwrap());
    }
    assert_eq!(answers[0].0, 201, "{}", answers[0].1);
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let (status, problem) = api.call("POST", "/v1/rooms", json!({"anchorId": 30002, "type": 1, "uuid": "open-1"})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("key-reused")));
}

#[tokio::test]
async fn what_was_refused_can_be_sent_again_with_its_key() {
    let api = Api::start().await;
    let body = json!({"anchorId": 30001, "type": 1, "uuid": "open-1"});
    let room = api.open_room(30_001).await;
    assert_eq!(api.call("POST", "/v1/rooms", body.clone()).await.0, 409);
    assert_eq!(api.call("POST", &format!("/v1/rooms/{room}/close"), Value::Null).await.0, 204);
    assert_eq!(api.call("POST", "/v1/rooms", body).await.0, 201);
}

#[tokio::test]
async fn without_records_the_caller_is_told_to_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let (parts, _running) = super::behind(&directory).await;
    let (ledger, state) = (parts.ledger.clone(), parts.state.clone());
    let router = super::service(parts, &config(), &mut super::Registry::default()).unwrap().router;
    let api = Api { router, state, _running, _directory: directory };
    ledger.close().await;
    for (method, path, body) in [
        ("POST", "/v1/rooms", json!({"anchorId": 30001, "type": 1})),
        ("GET", "/v1/rooms/1", Value::Null),
        ("GET", "/v1/block-words", Value::Null),
        ("PUT", "/v1/users/20001", json!({"nickName": "Ann"})),
    ] {
        let (status, problem) = api.call(method, path, body).await;
        assert_eq!((status, &problem["code"]), (503, &json!("unavailable")), "{method} {path}");
        assert!(problem["retryAfterMs"].is_u64() && !problem.to_string().contains("pool"), "{problem}");
    }
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
