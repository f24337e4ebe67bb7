//! What reaches the shared state: presence, routes, ACKs.

use crate::house::{APP, House, now_ms, push, until};
use billfish_link::message::Push;
use billfish_state::{AppId, PendingAck, UserId};
use billfish_wire::{Body, Code};
use bytes::Bytes;
use std::time::Duration;

const ROOM: i64 = 30_001;
const USER: UserId = UserId(20_001);

fn online(house: &House) -> bool {
    house.runtime.block_on(house.state.presence.online(AppId(APP), &[USER], now_ms() - 60_000)).unwrap()[0]
}

fn routes(house: &House) -> usize {
    house.runtime.block_on(house.state.routes.lookup(AppId(APP), &[USER], now_ms())).unwrap()[0].len()
}

fn pending(house: &House) -> Vec<PendingAck> {
    house.runtime.block_on(house.state.acks.pending(AppId(APP), USER)).unwrap()
}

#[test]
fn a_user_is_here_until_the_last_device_is_gone() {
    let (house, _router) = House::new();
    let web = house.login_on(20_001, "web");
    let phone = house.login_on(20_001, "ios");
    drop(web);
    until("one route is left", || routes(&house) == 1);
    assert!(online(&house));
    drop(phone);
    until("no route is left", || routes(&house) == 0);
    until("the user is gone", || !online(&house));
    until("the directory is empty", || house.metric("gateway_directory_seats", &[]) == 0.0);
}

#[test]
fn silence_for_two_gaps_ends_a_session_and_the_users_presence() {
    let (house, _router) = House::with(|config| config.session.heartbeat_gap = Duration::from_secs(1));
    let mut client = house.login(20_001);
    assert!(online(&house));
    client.expect_end();
    until("the user is gone", || !online(&house) && routes(&house) == 0);
    assert_eq!(house.metric("gateway_heartbeats_lost_total", &[]), 1.0);
}

#[test]
fn an_acknowledged_message_leaves_the_inbox() {
    let (house, router) = House::new();
    let mut client = house.login(20_001);
    let app = AppId(APP);
    let id = format!("{}-0", now_ms());
    let append = house.state.inbox.append(app, &[USER], &id, Bytes::from_static(b"{}"), now_ms());
    let msg_id = house.runtime.block_on(append).unwrap().remove(0);
    router.push_users(&[20_001], Push { msg_id: msg_id.clone(), qos: 1, class: 1, ..push("keep this") });
    let body = client.expect(Code::Biz);
    assert_eq!((body.msg_id.as_deref(), body.qos), (Some(msg_id.as_str()), Some(1)));
    client.send(Code::Ack, &Body { msg_id: Some(msg_id), ..Body::default() });
    let inbox = || house.runtime.block_on(house.state.inbox.read(app, USER, None, 10, now_ms())).unwrap();
    until("the inbox is empty", || inbox().entries.is_empty());
}

#[test]
fn a_late_ack_is_recorded_the_push_sent_again_and_the_record_removed_when_it_comes() {
    let (house, router) = House::with(|config| {
        config.session.late_ack = Duration::from_millis(100);
        config.session.resend_after = vec![Duration::from_millis(500), Duration::from_secs(3600)];
    });
    let mut client = house.join(20_001, ROOM);
    router.push_room_as(1, 0, Push { room_id: ROOM, msg_id: "r30001-1".to_owned(), qos: 1, class: 1, ..push("a gift") });
    let (first, again) = (client.expect(Code::Biz), client.expect(Code::Biz));
    assert_eq!(first, again);
    until("the late ACK is recorded", || pending(&house).iter().any(|one| one.msg_id == "r30001-1" && one.times_sent == 2));
    client.send(Code::Ack, &Body { msg_id: Some("r30001-1".to_owned()), ..Body::default() });
    until("the record is gone", || pending(&house).is_empty());
}

#[test]
fn a_push_that_nobody_acknowledges_is_handed_over_and_no_longer_awaited() {
    let (house, router) = House::with(|config| {
        config.session.late_ack = Duration::from_millis(100);
        config.session.resend_after = vec![Duration::from_millis(500), Duration::from_millis(500)];
    });
    let mut client = house.join(20_001, ROOM);
    router.push_room_as(1, 0, Push { room_id: ROOM, msg_id: "r30001-1".to_owned(), qos: 1, class: 1, ..push("a gift") });
    client.expect(Code::Biz);
    until("the late ACK is recorded", || !pending(&house).is_empty());
    for _ in 0..2 {
        client.expect(Code::Biz);
    }
    // Whose connection is lost now is told at the next JOIN; who shows that it lives has had it often enough.
    until("it is no longer awaited", || {
        // No faster than a client may.
        std::thread::sleep(Duration::from_millis(100));
        client.beat();
        pending(&house).is_empty()
    });
}
