//! Downstream: whom a message reaches, and whom not.

use crate::house::{APP, Client, House, Router, push, until};
use billfish_link::message::{AllPush, Audience, Evict, Kick, Push, envelope::Kind};
use billfish_wire::{Code, Reason};

const ROOM: i64 = 30_001;

#[test]
fn a_message_to_a_user_reaches_both_devices_and_nobody_else() {
    let (house, router) = House::new();
    let mut web = house.login_on(20_001, "web");
    let mut phone = house.login_on(20_001, "ios");
    let mut other = house.login(20_002);
    router.push_users(&[20_001], push("hello"));
    for device in [&mut web, &mut phone] {
        let body = device.expect(Code::Biz);
        assert_eq!((body.user_id, body.data.as_deref(), body.class), (Some(20_001), Some("hello"), Some(2)));
        assert_eq!((body.room_id, body.seq, body.msg_id, body.qos, body.key), (None, None, None, None, None));
    }
    assert_silent(&router, [&mut other]);
}

#[test]
fn a_message_to_several_users_names_none_of_them() {
    let (house, router) = House::new();
    let mut clients = [house.login(20_001), house.login(20_002)];
    router.push_users(&[20_001, 20_002, 20_003], push("hello"));
    for client in &mut clients {
        assert_eq!(client.expect(Code::Biz).user_id, None);
    }
}

#[test]
fn a_room_push_reaches_the_members_and_never_its_sender() {
    let (house, router) = House::new();
    let mut members: Vec<Client> = (0..6).map(|user| house.join(20_001 + user, ROOM)).collect();
    let mut elsewhere = house.join(20_010, ROOM + 1);
    let seq = router.push_room_as(1, 20_001, Push { room_id: ROOM, ts: 5, ..push("hello") });
    let mut sender = members.remove(0);
    for member in &mut members {
        let body = member.expect(Code::Biz);
        assert_eq!((body.room_id, body.seq, body.ts, body.user_id), (Some(ROOM), Some(seq), Some(5), None));
    }
    assert_silent(&router, [&mut sender, &mut elsewhere]);
}

#[test]
fn pushes_of_a_room_arrive_in_order_and_only_after_the_join() {
    let (house, router) = House::new();
    let mut early = house.join(20_001, ROOM);
    let first = router.push_room(ROOM, "1");
    assert_eq!(early.expect(Code::Biz).seq, Some(first));
    let mut late = house.join(20_002, ROOM);
    let seqs: Vec<i64> = (0..50).map(|count| router.push_room(ROOM, &count.to_string())).collect();
    for client in [&mut early, &mut late] {
        let heard: Vec<i64> = seqs.iter().map(|_| client.expect(Code::Biz).seq.unwrap()).collect();
        assert_eq!(heard, seqs);
    }
}

#[test]
fn what_a_former_owner_sends_is_refused_and_counted() {
    let (house, router) = House::new();
    let mut member = house.join(20_001, ROOM);
    router.push_room_as(3, 0, Push { room_id: ROOM, ..push("the owner") });
    assert_eq!(member.expect(Code::Biz).data.as_deref(), Some("the owner"));
    router.push_room_as(2, 0, Push { room_id: ROOM, ..push("a former owner") });
    router.tell(Kind::Evict(Evict { app_id: APP, room_id: ROOM, user_id: 0, epoch: 2 }));
    router.push_room_as(3, 0, Push { room_id: ROOM, ..push("the owner again") });
    assert_eq!(member.expect(Code::Biz).data.as_deref(), Some("the owner again"));
    assert_eq!(house.metric("gateway_epochs_stale_total", &[]), 2.0);
}

#[test]
fn a_message_to_everyone_reaches_the_app_alone() {
    let (house, router) = House::new();
    let mut clients = [house.login(20_001), house.login(20_002)];
    router.tell(Kind::AllPush(AllPush { app_id: 10_002, push: Some(push("another app")) }));
    router.tell(Kind::AllPush(AllPush { app_id: APP, push: Some(push("ours")) }));
    for client in &mut clients {
        assert_eq!(client.expect(Code::Biz).data.as_deref(), Some("ours"));
    }
}

#[test]
fn a_router_kicks_the_device_it_means() {
    let (house, router) = House::new();
    let mut web = house.login_on(20_001, "web");
    let mut phone = house.login_on(20_001, "ios");
    let kick = Kick { app_id: APP, user_id: 20_001, device: 3, code: 4006, msg: "shouting".to_owned(), session: 0 };
    router.tell(Kind::Kick(Kick { session: 999, ..kick.clone() }));
    router.tell(Kind::Kick(kick));
    let told = web.expect(Code::Kick);
    assert_eq!((told.code, told.msg.as_deref()), (Reason::Banned.number(), Some("shouting")));
    web.expect_end();
    phone.beat();
    assert_eq!(house.metric("gateway_closes_total", &[r#"reason="banned""#]), 1.0);
}

#[test]
fn the_evicted_leave_the_room_and_keep_their_session() {
    let (house, router) = House::new();
    let mut stays = house.join(20_001, ROOM);
    let mut goes = house.join(20_002, ROOM);
    router.tell(Kind::Evict(Evict { app_id: APP, room_id: ROOM, user_id: 20_002, epoch: 1 }));
    assert_eq!(goes.expect(Code::Leave).room_id, Some(ROOM));
    router.push_room(ROOM, "hello");
    stays.expect(Code::Biz);
    goes.beat();
    router.tell(Kind::Evict(Evict { app_id: APP, room_id: ROOM, user_id: 0, epoch: 1 }));
    assert_eq!(stays.expect(Code::Leave).room_id, Some(ROOM));
    until("nobody is interested any more", || router.heard_of(ROOM).last() == Some(&"no interest"));
    assert_eq!(house.running().account().sessions, 2);
}

#[test]
fn a_heartbeat_tells_the_audience_of_the_room() {
    let (house, router) = House::new();
    let mut member = house.join(20_001, ROOM);
    assert_eq!(member.beat().audience, Some(5), "as JOIN said");
    router.tell(Kind::Audience(Audience { room_id: ROOM, members: 4_321 }));
    router.push_room(ROOM, "behind it");
    member.expect(Code::Biz);
    assert_eq!(member.beat().audience, Some(4_321));
}

/// Nothing was sent to these clients: a message behind whatever it might have been is the first that they hear.
fn assert_silent<const N: usize>(router: &Router, clients: [&mut Client; N]) {
    router.tell(Kind::AllPush(AllPush { app_id: APP, push: Some(push("the end")) }));
    for client in clients {
        assert_eq!(client.expect(Code::Biz).data.as_deref(), Some("the end"));
    }
}
