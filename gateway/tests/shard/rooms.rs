//! Who gets which push: everyone once, in order, and nobody else.

use crate::house::{Client, House, chat, until};
use billfish_gateway::shard::{
    ShardConfig,
    counters::DropReason,
    message::{LeftCause, ShardCommand, ShardEvent, UpReply},
};
use billfish_session::{Push, server::ServerConfig};
use billfish_wire::{Body, Class, Code, Encoding};
use std::sync::Arc;

const ROOM: i64 = 42;

/// 200 members, 100 pushes, members entering and leaving in between. Who is in the room gets every push from its own JOIN to its own LEAVE.
#[test]
fn every_member_gets_every_push_of_its_time_once_and_in_order() {
    // Small chunks, so that members come and go in the middle of walks.
    let config = ShardConfig { chunk_members: 7, ..ShardConfig::default() };
    let house = House::with(config, ServerConfig::default());
    let join = Body { room_id: Some(ROOM), ..Body::default() };
    // What the threads make of it differs from run to run; who comes and goes does not.
    let mut random = fastrand::Rng::with_seed(20_261_120);

    let mut outside: Vec<Client> = (0..100).map(|nth| house.log_in(10_000 + nth)).collect();
    let mut inside: Vec<Client> = (0..100).map(|nth| house.join(20_000 + nth, ROOM)).collect();
    let mut entered: Vec<Client> = Vec::new();
    let mut left: Vec<Client> = Vec::new();
    for nth in 0..100 {
        house.push(ROOM, chat(&format!("message {nth}")));
        if let Some(mut client) = outside.pop() {
            client.send(Code::Join, &join);
            entered.push(client);
        }
        if random.bool() {
            let mut client = inside.swap_remove(random.usize(..inside.len()));
            client.send(Code::Leave, &join);
            left.push(client);
        }
        if random.u8(..) < 100 {
            house.push(ROOM, chat("one more"));
        }
    }
    let last = *house.control.seqs.lock().unwrap().get(&ROOM).unwrap();

    let mut received = 0;
    for client in &mut inside {
        for seq in 1..=last {
            assert_eq!(client.expect(Code::Biz).seq, Some(seq));
            received += 1;
        }
    }
    for client in &mut left {
        let mut seq = 0;
        loop {
            match client.next().expect("LEAVE does not end the session") {
                (Code::Biz, body) => {
                    seq += 1;
                    received += 1;
                    assert_eq!(body.seq, Some(seq));
                }
                (code, _) => break assert_eq!(code, Code::Leave),
            }
        }
        assert_eq!(client.beat().audience, None, "and nothing behind the LEAVE");
    }
    for client in &mut entered {
        let joined = client.expect(Code::Join).seq.unwrap();
        for seq in joined + 1..=last {
            assert_eq!(client.expect(Code::Biz).seq, Some(seq));
            received += 1;
        }
        assert_eq!(client.beat().audience, Some(77), "and nothing behind the last");
    }
    house.assert_the_books_balance();
    assert_eq!(house.delivered(), received);
    let account = house.account(ROOM).unwrap();
    assert_eq!((account.copies, account.delivered, account.pending), (received, received, 0));
    assert_eq!(account.members, (inside.len() + entered.len()) as u64);
    assert!(house.counters.fanout_frames.value() >= house.counters.fanout_jobs.value());
}

#[test]
fn the_sender_gets_no_copy_and_everyone_else_does() {
    let house = House::new();
    let mut members: Vec<Client> = (0..20).map(|nth| house.join(10_000 + nth, ROOM)).collect();
    let mut batch = Vec::new();
    // All in one batch, so that one job has many senders.
    for seq in 1..=60 {
        let body = Body { room_id: Some(ROOM), seq: Some(seq), ..chat("hi") };
        let push = Arc::new(Push::new(body));
        batch.push(ShardCommand::RoomPush { room_id: ROOM, push, except_user_id: 10_000 + seq % 20, keep_permille: 0 });
    }
    assert!(house.commands.push_batch(&mut batch));
    for (nth, member) in members.iter_mut().enumerate() {
        for seq in (1..=60).filter(|seq| seq % 20 != nth as i64) {
            assert_eq!(member.expect(Code::Biz).seq, Some(seq));
        }
        member.beat();
    }
    house.assert_the_books_balance();
    assert_eq!(house.counters.copies.value(), 20 * 57);
}

#[test]
fn each_member_gets_the_encoding_of_its_login() {
    let house = House::new();
    let mut members: Vec<Client> = Vec::new();
    for (nth, encoding) in [Encoding::Json, Encoding::Protobuf].into_iter().cycle().take(10).enumerate() {
        let mut client = house.log_in_with(10_000 + nth as i64, encoding);
        client.send(Code::Join, &Body { room_id: Some(ROOM), ..Body::default() });
        client.expect(Code::Join);
        members.push(client);
    }
    house.push(ROOM, chat("one"));
    house.push(ROOM, chat("two"));
    for member in &mut members {
        // The client asserts the encoding of every frame.
        assert_eq!(member.expect(Code::Biz).data.as_deref(), Some("one"));
        assert_eq!(member.expect(Code::Biz).data.as_deref(), Some("two"));
    }
}

#[test]
fn sampling_leaves_out_and_says_how_many() {
    let house = House::new();
    let mut members: Vec<Client> = (0..50).map(|nth| house.join(10_000 + nth, ROOM)).collect();
    let mut batch: Vec<ShardCommand> = (1..=100)
        .map(|seq| {
            let push = Arc::new(Push::new(Body { room_id: Some(ROOM), seq: Some(seq), ..chat("hi") }));
            ShardCommand::RoomPush { room_id: ROOM, push, except_user_id: 0, keep_permille: 500 }
        })
        .collect();
    let end = Arc::new(Push::new(Body { room_id: Some(ROOM), seq: Some(101), class: Some(1), ..chat("end") }));
    batch.push(ShardCommand::RoomPush { room_id: ROOM, push: end, except_user_id: 0, keep_permille: 500 });
    assert!(house.commands.push_batch(&mut batch));
    let mut received = 0;
    for member in &mut members {
        let mut last = 0;
        while last < 101 {
            let seq = member.expect(Code::Biz).seq.unwrap();
            assert!(seq > last);
            last = seq;
            received += 1;
        }
    }
    house.assert_the_books_balance();
    assert_eq!(house.counters.copies.value(), 50 * 101);
    assert_eq!(house.dropped(Class::Chat, DropReason::Sampled), 50 * 101 - received);
    assert!((2_000..3_000).contains(&house.dropped(Class::Chat, DropReason::Sampled)), "about half of 5,000");
    assert_eq!(house.dropped(Class::Event, DropReason::Sampled), 0);
}

#[test]
fn an_eviction_takes_its_place_behind_the_pushes_before_it() {
    let house = House::new();
    let mut members: Vec<Client> = (0..10).map(|nth| house.join(10_000 + nth, ROOM)).collect();
    house.push(ROOM, chat("you may still read this"));
    house.tell(ShardCommand::Evict { room_id: ROOM, user_id: 10_003 });
    house.push(ROOM, chat("but not this"));
    house.tell(ShardCommand::Evict { room_id: ROOM, user_id: 0 });
    house.push(ROOM, chat("and nobody this"));
    for (nth, member) in members.iter_mut().enumerate() {
        assert_eq!(member.expect(Code::Biz).seq, Some(1));
        if nth != 3 {
            assert_eq!(member.expect(Code::Biz).seq, Some(2));
        }
        assert_eq!(member.expect(Code::Leave).room_id, Some(ROOM));
        member.beat();
    }
    assert_eq!(house.account(ROOM), None);
    let evicted = |event: &ShardEvent| matches!(event, ShardEvent::LeftRoom { room_id: ROOM, cause: LeftCause::Evicted, .. });
    until("every eviction to be told", || house.seen(evicted) == 10);
}

/// Each answered JOIN ends in exactly one `LeftRoom` or in the room's name in a `Gone`.
#[test]
fn joins_and_their_ends_can_be_counted() {
    let house = House::new();
    let room = Body { room_id: Some(ROOM), ..Body::default() };
    let mut twice = house.join(10_000, ROOM);
    twice.send(Code::Join, &room);
    twice.expect(Code::Join);
    let mut leaver = house.join(10_001, ROOM);
    leaver.send(Code::Leave, &room);
    leaver.expect(Code::Leave);
    // Leaves before the answer comes: it is never told of the room, and the router has its LEAVE.
    let mut hasty = house.log_in(10_002);
    let mut both = crate::house::bytes(Code::Join, &room);
    both.extend(crate::house::bytes(Code::Leave, &room));
    hasty.write(&both);
    hasty.expect(Code::Leave);
    drop(house.join(10_003, ROOM));
    // Gone before the answer comes: the router has to be told.
    drop(house.log_in(10_004));
    until("two to be gone", || house.seen(|event| matches!(event, ShardEvent::Gone { .. })) == 2);
    let origin = house.control.origins.lock().unwrap()[&10_004];
    let reply = UpReply::Joined { origin, room_id: ROOM, seq: 0, data: String::new(), audience: 0 };
    house.tell(ShardCommand::Reply { key: house.key(10_004), request: 1, reply });
    let left = |wanted: LeftCause| move |event: &ShardEvent| matches!(event, ShardEvent::LeftRoom { cause, .. } if *cause == wanted);
    until("all of it to be told", || {
        house.seen(left(LeftCause::AlreadyIn)) == 1
            && house.seen(left(LeftCause::Left)) == 2
            && house.seen(left(LeftCause::NotEntered)) == 1
            && house.seen(|event| matches!(event, ShardEvent::Gone { rooms, .. } if rooms.as_slice() == [ROOM])) == 1
    });
    let events = house.stop();
    let ended: usize = events
        .iter()
        .map(|event| match event {
            ShardEvent::LeftRoom { .. } => 1,
            ShardEvent::Gone { rooms, .. } => rooms.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(ended, 6, "six JOINs were answered");
}

/// A QoS-1 push is watched until its ACK: sent again when it does not come, handed over when the session ends.
#[test]
fn a_push_that_wants_an_ack_is_sent_again_until_it_has_one() {
    let session = ServerConfig { resend_after_ms: vec![200, 60_000], late_ack_ms: 50, ..ServerConfig::default() };
    let house = House::with(ShardConfig::default(), session);
    let mut quick = house.join(10_000, ROOM);
    let mut deaf = house.join(10_001, ROOM);
    let body = Body { qos: Some(1), msg_id: Some("r42-1".to_owned()), class: Some(1), ..chat("hello") };
    house.push(ROOM, body);
    assert_eq!(quick.expect(Code::Biz).msg_id.as_deref(), Some("r42-1"));
    quick.send(Code::Ack, &Body { msg_id: Some("r42-1".to_owned()), ..Body::default() });
    assert_eq!(deaf.expect(Code::Biz).msg_id.as_deref(), Some("r42-1"));
    assert_eq!(deaf.expect(Code::Biz).msg_id.as_deref(), Some("r42-1"), "again");
    until("the ACK to be counted", || house.counters.acked.value() == 1);
    let recorded = |event: &ShardEvent| matches!(event, ShardEvent::RecordAck { origin, .. } if origin.user_id == 10_001);
    until("the late one to be recorded, twice", || house.seen(recorded) == 2);
    drop(deaf);
    until("the rest to be handed over", || house.seen(|event| matches!(event, ShardEvent::HandOver { recorded: true, .. })) == 1);
    house.assert_the_books_balance();
    assert_eq!(house.delivered(), 3);
}

#[test]
fn a_push_to_everyone_reaches_the_sessions_of_its_app() {
    let house = House::with(ShardConfig { chunk_members: 3, ..ShardConfig::default() }, ServerConfig::default());
    let mut members: Vec<Client> = (0..20).map(|nth| house.log_in(10_000 + nth)).collect();
    let _stranger = house.connect();
    let mut foreign = house.connect();
    foreign.send(Code::Login, &Body { app_id: Some(10_002), ..crate::house::login(10_050) });
    foreign.expect(Code::Login);
    house.tell(ShardCommand::AllPush { app_id: 10_001, push: Arc::new(Push::new(chat("maintenance at noon"))) });
    for member in &mut members {
        assert_eq!(member.expect(Code::Biz).data.as_deref(), Some("maintenance at noon"));
    }
    foreign.beat();
    house.assert_the_books_balance();
    assert_eq!(house.counters.copies.value(), 20);
}
