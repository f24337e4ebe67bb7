//! From accept to the end: verdicts, kicks, stale keys, draining, stopping.

use crate::house::{Client, House, chat, login, until};
use billfish_gateway::shard::{
    ShardConfig,
    message::{ConnKey, ShardCommand, ShardEvent},
};
use billfish_session::{Push, server::ServerConfig};
use billfish_wire::{Body, Code, Reason};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

#[test]
fn a_bad_token_is_told_and_closed() {
    let house = House::new();
    let mut client = house.connect();
    client.send(Code::Login, &Body { token: Some("bad".to_owned()), ..login(10_000) });
    assert_eq!(client.expect(Code::Error).code, Reason::BadToken.number());
    client.expect_end();
    assert_eq!(house.seen(|event| matches!(event, ShardEvent::Gone { .. })), 0, "it never was in");
}

/// The directory has given a seat by then: it must hear that nobody sits there.
#[test]
fn a_verdict_for_a_connection_that_is_gone_is_answered_with_its_end() {
    let house = House::new();
    house.control.withholds_verdicts.store(true, SeqCst);
    let mut client = house.connect();
    client.send(Code::Login, &login(10_000));
    until("the LOGIN to be asked about", || house.control.withheld.lock().unwrap().len() == 1);
    let (key, user_id, app_id) = house.control.withheld.lock().unwrap()[0];
    house.tell(ShardCommand::Kick { key, reason: Reason::Unavailable, msg: None });
    until("it to be gone", || house.counters.connections.value() == 0);
    house.control.grant(&house.commands, key, user_id, app_id);
    let gone = |event: &ShardEvent| matches!(event, ShardEvent::Gone { origin, .. } if origin.user_id == 10_000);
    until("its end to be told", || house.seen(gone) == 1);
}

#[test]
fn a_kick_names_its_reason_and_ends_the_session() {
    let house = House::new();
    let mut client = house.log_in(10_000);
    house.tell(ShardCommand::Kick { key: house.key(10_000), reason: Reason::DuplicateLogin, msg: Some("your tablet".to_owned()) });
    let kick = client.expect(Code::Kick);
    assert_eq!((kick.code, kick.msg.as_deref()), (Reason::DuplicateLogin.number(), Some("your tablet")));
    client.expect_end();
    let gone = |event: &ShardEvent| matches!(event, ShardEvent::Gone { reason: Reason::DuplicateLogin, logged_out: false, origin, .. } if origin.user_id == 10_000);
    until("its end to be told", || house.seen(gone) == 1);
}

#[test]
fn a_logout_is_echoed_and_told_as_one() {
    let house = House::new();
    let mut client = house.log_in(10_000);
    client.send(Code::Logout, &Body::default());
    client.expect(Code::Logout);
    client.expect_end();
    let gone = |event: &ShardEvent| matches!(event, ShardEvent::Gone { logged_out: true, reason: Reason::LoggedOut, .. });
    until("its end to be told", || house.seen(gone) == 1);
}

/// The place is another's by now; whatever was meant for the first must not reach the second.
#[test]
fn a_stale_key_reaches_nobody() {
    let house = House::new();
    drop(house.log_in(10_000));
    until("the first to be gone", || house.counters.connections.value() == 0);
    let mut second = house.log_in(10_001);
    let (stale, fresh) = (house.key(10_000), house.key(10_001));
    assert_eq!((stale.index, stale.shard), (fresh.index, fresh.shard), "the place is used again");
    assert_ne!(stale.generation, fresh.generation);
    house.tell(ShardCommand::UserPush { key: stale, push: Arc::new(Push::new(chat("for the first"))) });
    house.tell(ShardCommand::Kick { key: stale, reason: Reason::Banned, msg: None });
    house.tell(ShardCommand::Kick { key: ConnKey { index: 1_000_000, ..stale }, reason: Reason::Banned, msg: None });
    until("both to be counted", || house.counters.stale_commands.value() == 3);
    second.beat();
    assert_eq!(house.counters.copies.value(), 0);
}

#[test]
fn a_push_to_a_user_arrives_and_is_counted() {
    let house = House::new();
    let mut client = house.log_in(10_000);
    house.tell(ShardCommand::UserPush { key: house.key(10_000), push: Arc::new(Push::new(chat("psst"))) });
    assert_eq!(client.expect(Code::Biz).data.as_deref(), Some("psst"));
    house.assert_the_books_balance();
    assert_eq!(house.delivered(), 1);
}

/// The peer says everything it has to say and closes its end at once: all of it is read.
#[test]
fn what_was_sent_before_the_end_is_read() {
    let house =
        House::with(ShardConfig::default(), ServerConfig { frames_burst: 100_000, bytes_burst: 10_000_000, ..ServerConfig::default() });
    let mut client = house.log_in(10_000);
    // Frames that are not answered: nobody reads here.
    let acks = crate::house::bytes(Code::Ack, &Body { msg_id: Some("ms-1".to_owned()), ..Body::default() }).repeat(20_000);
    client.write(&acks);
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    until("the end to be seen", || house.closed(Reason::PeerClosed) == 1);
    assert_eq!(house.counters.frames_in[billfish_gateway::shard::counters::code_row(1005)].value(), 20_000);
}

#[test]
fn draining_sends_everyone_elsewhere_and_then_closes_them_at_the_rate() {
    let house = House::new();
    let mut clients: Vec<Client> = (0..50).map(|nth| house.log_in(10_000 + nth)).collect();
    let addresses = vec!["gw2.example:8085".to_owned()];
    house.tell(ShardCommand::Drain {
        addresses: [("tcp".to_owned(), addresses.clone())].into(),
        spread: Duration::from_millis(300),
        close_per_s: 500,
    });
    for client in &mut clients {
        let reconnect = client.expect(Code::Reconnect);
        assert_eq!(reconnect.addresses, addresses);
        assert!((0..=300).contains(&reconnect.after_ms.unwrap()));
    }
    assert!(std::net::TcpStream::connect(house.address).is_err(), "nobody new is taken in");
    for client in &mut clients {
        client.expect_end();
    }
    assert_eq!(house.closed(Reason::Drained), 50);
    until("every end to be told", || house.seen(|event| matches!(event, ShardEvent::Gone { reason: Reason::Drained, .. })) == 50);
}

/// A full gateway has to be empty within its grace: those who do not leave are closed behind the spread, not after it.
#[test]
fn closing_follows_the_spread_and_does_not_wait_for_its_end() {
    let house = House::new();
    let mut clients: Vec<Client> = (0..3).map(|nth| house.log_in(10_000 + nth)).collect();
    house.tell(ShardCommand::Drain { addresses: BTreeMap::new(), spread: Duration::from_secs(3_600), close_per_s: 500 });
    let leave_after: Vec<i64> = clients.iter_mut().map(|client| client.expect(Code::Reconnect).after_ms.unwrap()).collect();
    assert_eq!(leave_after, [0, 1_200_000, 2_400_000]);
    clients[0].expect_end();
    for client in &mut clients[1..] {
        client.beat();
    }
    assert_eq!(house.closed(Reason::Drained), 1);
}

/// Let in, it would be closed without a RECONNECT. The directory has given it a seat, which it has to take back.
#[test]
fn a_login_granted_while_draining_is_sent_away_and_its_seat_given_up() {
    let house = House::new();
    house.control.withholds_verdicts.store(true, SeqCst);
    let mut client = house.connect();
    client.send(Code::Login, &login(10_000));
    until("the LOGIN to be asked about", || house.control.withheld.lock().unwrap().len() == 1);
    let (key, user_id, app_id) = house.control.withheld.lock().unwrap()[0];
    house.tell(ShardCommand::Drain { addresses: BTreeMap::new(), spread: Duration::from_secs(3_600), close_per_s: 1 });
    house.control.grant(&house.commands, key, user_id, app_id);
    let refused = client.expect(Code::Error);
    assert_eq!(refused.code, Reason::Unavailable.number());
    assert!((1_000..3_000).contains(&refused.retry_after_ms.unwrap()));
    client.expect_end();
    let gone = |event: &ShardEvent| matches!(event, ShardEvent::Gone { origin, .. } if origin.user_id == 10_000);
    until("its end to be told", || house.seen(gone) == 1);
}

#[test]
fn stopping_ends_every_session_and_tells_of_each() {
    let house = House::new();
    let mut clients: Vec<Client> = (0..50).map(|nth| house.join(10_000 + nth, 1)).collect();
    let events = house.stop();
    let gone = events.iter().filter(|event| matches!(event, ShardEvent::Gone { rooms, .. } if rooms.as_slice() == [1])).count();
    assert_eq!(gone, 50);
    for client in &mut clients {
        client.expect_end();
    }
}
