//! The media server's hooks: rooms opened and closed by stream key.

use super::{Api, config, get};
use crate::http::{HttpConfig, StreamsConfig};
use axum::{
    body::Body,
    http::{Request, header},
};
use serde_json::{Value, json};

#[tokio::test]
async fn publishing_with_the_key_opens_the_anchors_room_and_its_end_closes_it() {
    let api = Api::start().await;
    let (room, key) = opened(&api).await;
    // She is live already: the encoder only joins in.
    assert_eq!(hook(&api, "on_publish", &form(&key, "1")).await, (200, json!({"roomId": room})));
    assert_eq!(hook(&api, "on_publish_done", &form(&key, "1")).await, (200, json!({"roomId": room})));
    assert_eq!(api.call("GET", &format!("/v1/rooms/{room}"), Value::Null).await.0, 404);

    // The key stays hers: the next publishing opens a room like the last one.
    let (status, answer) = hook(&api, "on_publish", &form(&key, "2")).await;
    let second = answer["roomId"].as_i64().unwrap();
    assert!(status == 200 && second > room, "{answer}");
    let (_, seen) = api.call("GET", &format!("/v1/rooms/{second}"), Value::Null).await;
    assert_eq!((&seen["anchorId"], &seen["roomName"], &seen["type"]), (&json!(30001), &json!("Ann sings"), &json!(1)));
}

#[tokio::test]
async fn an_encoder_that_came_back_keeps_the_room_when_its_former_connection_ends() {
    let api = Api::start().await;
    let (room, key) = opened(&api).await;
    hook(&api, "on_publish", &form(&key, "1")).await;
    hook(&api, "on_publish", &form(&key, "2")).await;
    assert_eq!(hook(&api, "on_publish_done", &form(&key, "1")).await, (200, json!({})));
    assert_eq!(api.call("GET", &format!("/v1/rooms/{room}"), Value::Null).await.0, 200);
    assert_eq!(hook(&api, "on_publish_done", &form(&key, "2")).await, (200, json!({"roomId": room})));
    assert_eq!(hook(&api, "on_publish_done", &form(&key, "2")).await, (200, json!({})));
}

#[tokio::test]
async fn an_unknown_stream_and_a_wrong_key_are_refused_alike() {
    let api = Api::start().await;
    let (room, key) = opened(&api).await;
    let mut heard = Vec::new();
    for (name, key) in [
        ("10001-30001", "00000000000000000000000000000000"),
        ("10001-30001", ""),
        ("10001-30001", &key[..31]),
        ("10001-30002", key.as_str()),
        ("10001-30002", "00000000000000000000000000000000"),
        ("10002-30001", key.as_str()),
        ("nonsense", key.as_str()),
    ] {
        for which in ["on_publish", "on_publish_done"] {
            let (status, problem) = hook(&api, which, &format!("name={name}&key={key}&addr=10.0.0.1&clientid=1")).await;
            assert_eq!((status, &problem["code"]), (403, &json!("stream-refused")), "{name} {which}");
            heard.push(problem);
        }
    }
    assert!(heard.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(api.call("GET", &format!("/v1/rooms/{room}"), Value::Null).await.0, 200);
}

#[tokio::test]
async fn opening_through_the_api_makes_a_new_key_and_voids_the_former() {
    let api = Api::start().await;
    let (room, former) = opened(&api).await;
    api.call("POST", &format!("/v1/rooms/{room}/close"), Value::Null).await;
    let (_, key) = opened(&api).await;
    assert_ne!(former, key);
    assert_eq!(hook(&api, "on_publish", &form(&former, "1")).await.0, 403);
    assert_eq!(hook(&api, "on_publish", &form(&key, "1")).await.0, 200);
}

#[tokio::test]
async fn hooks_come_as_nginx_sends_them_in_a_body_or_behind_a_question_mark() {
    let api = Api::start().await;
    let (room, key) = opened(&api).await;
    let sent = format!(
        "app=live&flashver=FMLE/3.0%20(compatible%3B%20FMSc/1.0)&swfurl=&tcurl=rtmp://127.0.0.1:1935/live&pageurl=&addr=10.0.0.1&clientid=7\
         &call=publish&name=10001-30001&type=live&key={key}"
    );
    let (status, _, body) = api.send(get(&format!("/v1/streams/on_publish?{sent}"))).await;
    assert_eq!((status.as_u16(), serde_json::from_slice::<Value>(&body).unwrap()), (200, json!({"roomId": room})));
    assert_eq!(hook(&api, "on_publish", &sent).await, (200, json!({"roomId": room})));
    let (status, _, body) = api.send(get(&format!("/v1/streams/on_publish_done?{sent}"))).await;
    assert_eq!((status.as_u16(), serde_json::from_slice::<Value>(&body).unwrap()), (200, json!({"roomId": room})));
}

#[tokio::test]
async fn a_hook_that_cannot_be_read_is_refused_clearly() {
    let api = Api::start().await;
    let (status, problem) = hook(&api, "on_publish", "key=k").await;
    assert_eq!((status, &problem["code"]), (400, &json!("malformed")));
    assert!(problem["detail"].as_str().unwrap().contains("name"), "{problem}");
    let json_body = Request::builder()
        .method("POST")
        .uri("/v1/streams/on_publish")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from("{}"))
        .unwrap();
    assert_eq!(api.problem(json_body).await["code"], "not-json");
    let (status, problem) = hook(&api, "on_publish", &format!("name={}", "n".repeat(70_000))).await;
    assert_eq!((status, &problem["code"]), (413, &json!("too-large")));
}

#[tokio::test]
async fn without_a_media_server_no_addresses_are_told() {
    let streams = StreamsConfig { push: String::new(), flv: String::new(), hls: String::new() };
    let api = Api::with(&HttpConfig { streams, ..config() }).await;
    let (_, room) = api.call("POST", "/v1/rooms", json!({"anchorId": 30001, "type": 1})).await;
    assert_eq!(room["stream"], json!({}));
    assert_eq!(hook(&api, "on_publish", &form("00000000000000000000000000000000", "1")).await.0, 403);
}

/// An opened room and its stream key, as the answer tells them.
async fn opened(api: &Api) -> (i64, String) {
    let (status, room) = api.call("POST", "/v1/rooms", json!({"anchorId": 30001, "type": 1, "roomName": "Ann sings"})).await;
    assert_eq!(status, 201, "{room}");
    let push = room["stream"]["push"].as_str().unwrap();
    let (address, key) = push.split_once("?key=").unwrap();
    assert_eq!(address, "rtmp://127.0.0.1:1935/live/10001-30001");
    assert_eq!(room["stream"]["hls"], "http://127.0.0.1:8088/hls/10001-30001.m3u8");
    (room["roomId"].as_i64().unwrap(), key.to_owned())
}

fn form(key: &str, connection: &str) -> String {
    format!("app=live&name=10001-30001&key={key}&addr=10.0.0.1&clientid={connection}&call=publish")
}

async fn hook(api: &Api, which: &str, form: &str) -> (u16, Value) {
    let request = Request::builder()
        .method("POST")
        .uri(format!("/v1/streams/{which}"))
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(form.to_owned()))
        .unwrap();
    let (status, _, body) = api.send(request).await;
    (status.as_u16(), serde_json::from_slice(&body).unwrap())
}
