//! Readers that are slow, silent or gone.

use crate::house::{Client, House, chat, until};
use billfish_gateway::shard::{ShardConfig, counters::DropReason};
use billfish_session::server::ServerConfig;
use billfish_wire::{Body, Class, Code, Reason};
use std::{collections::BTreeMap, net::TcpStream, time::Duration};

/// A connection whose kernel buffers hold little.
fn narrow(house: &House) -> Client {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    socket.connect(&house.address.into()).unwrap();
    Client::new(TcpStream::from(socket))
}

fn narrow_member(house: &House, user_id: i64, room_id: i64) -> Client {
    let mut client = narrow(house);
    client.send(Code::Login, &crate::house::login(user_id));
    client.expect(Code::Login);
    client.send(Code::Join, &Body { room_id: Some(room_id), ..Body::default() });
    client.expect(Code::Join);
    client
}

/// Bytes that the kernel holds for the server's end of a connection: read, queued to be sent, and forward allocated. By `ss`, for reading
/// SO_MEMINFO is a system call that no safe crate has.
fn kernel_bytes(house: &House, client: &Client) -> u64 {
    let (server, client) = (house.address, client.stream.local_addr().unwrap());
    let said = std::process::Command::new("ss").args(["-tmnH", "src", &server.to_string(), "dst", &client.to_string()]).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    // skmem:(r<in the receive queue>,rb…,t<sent and not acknowledged>,tb…,f<allocated ahead>,w<queued to be sent>,…)
    let (_, fields) = said.split_once("skmem:(").unwrap_or_else(|| panic!("ss tells nothing of it: {said:?}"));
    let field = |name: &str| {
        let number = fields.split(',').find_map(|field| field.strip_prefix(name)?.parse::<u64>().ok());
        number.unwrap_or_else(|| panic!("no {name} in {fields}"))
    };
    field("r") + field("f") + field("w")
}

/// reliability.md: whoever does not read costs a bounded amount, of the kernel's memory too. With the kernel's own bounds it would be 4 MB.
#[test]
fn a_reader_that_has_stopped_costs_at_most_100_kb_of_kernel_memory() {
    let house = House::new();
    let mut stalled = house.connect();
    stalled.send(Code::Login, &crate::house::login(10_000));
    stalled.expect(Code::Login);
    stalled.send(Code::Join, &Body { room_id: Some(1), ..Body::default() });
    stalled.expect(Code::Join);
    let text = "x".repeat(1_000);
    let mut pushed = 0;
    while house.counters.backlogs.value() == 0 {
        house.push(1, Body { class: Some(1), ..chat(&text) });
        pushed += 1;
        until("the push to be handed out", || house.counters.copies.value() == pushed);
    }
    let bytes = kernel_bytes(&house, &stalled);
    assert!((1..=100_000).contains(&bytes), "{bytes} bytes");
}

/// First ambient pushes go, then chat, oldest first; events never, and when they no longer fit the session ends with 4012. Every copy is
/// accounted for, and what arrives is whole and in order.
#[test]
fn a_slow_reader_loses_by_class_and_is_then_sent_away() {
    let house = House::new();
    let mut slow = narrow_member(&house, 10_000, 1);
    let text = "x".repeat(1_000);
    let of_class = |class: i32| Body { class: Some(class), ..chat(&text) };

    let mut pushed = BTreeMap::new();
    while house.dropped(Class::Ambient, DropReason::SoftMark) == 0 {
        pushed.insert(house.push(1, of_class(3)), Class::Ambient);
        pushed.insert(house.push(1, of_class(2)), Class::Chat);
        let copies = pushed.len() as u64;
        until("the pushes to be handed out", || house.counters.copies.value() == copies);
    }
    assert_eq!(house.dropped(Class::Chat, DropReason::SoftMark), 0, "ambient goes first");
    while house.dropped(Class::Chat, DropReason::SoftMark) == 0 {
        pushed.insert(house.push(1, of_class(2)), Class::Chat);
        let copies = pushed.len() as u64;
        until("the pushes to be handed out", || house.counters.copies.value() == copies);
    }
    let account = house.account(1).unwrap();
    assert_eq!(account.copies, account.delivered + account.dropped.iter().sum::<u64>() + account.pending);
    assert!(account.pending > 0 && account.members == 1);
    while house.closed(Reason::TooSlow) == 0 {
        pushed.insert(house.push(1, of_class(1)), Class::Event);
        let copies = pushed.len() as u64;
        until("the pushes to be handed out", || house.counters.copies.value() == copies || house.closed(Reason::TooSlow) == 1);
    }
    assert_eq!(house.dropped(Class::Event, DropReason::SoftMark), 0, "events are never dropped silently");

    let mut received = Vec::new();
    loop {
        let (code, body) = slow.next().expect("the last word is a KICK");
        if code == Code::Kick {
            assert_eq!(body.code, Reason::TooSlow.number());
            break;
        }
        received.push(body.seq.unwrap());
    }
    slow.expect_end();
    assert!(received.is_sorted_by(|one, next| one < next), "in order, none twice");
    house.assert_the_books_balance();
    until("nothing to wait", || house.counters.pending.value() == 0);
    assert_eq!(received.len() as u64, house.delivered());
    assert_eq!(house.account(1), None, "the room is forgotten with its last member");
}

/// A tenth of a hundred frames may wait; of one more the oldest goes.
#[test]
fn chat_makes_way_from_the_share_on_that_is_configured() {
    let config = ShardConfig { backlog_frames_max: 100, backlog_soft_percent: 10, ..ShardConfig::default() };
    let house = House::with(config, ServerConfig::default());
    let _slow = narrow_member(&house, 10_000, 1);
    let text = "z".repeat(1_000);
    let mut pushed = 0;
    let mut most = 0;
    while house.dropped(Class::Chat, DropReason::SoftMark) == 0 {
        house.push(1, chat(&text));
        pushed += 1;
        until("the push to be handed out", || house.counters.copies.value() == pushed);
        most = most.max(house.counters.pending.value());
    }
    assert_eq!((most, house.dropped(Class::Chat, DropReason::SoftMark)), (10, 1));
}

/// A reader that pauses and goes on gets everything that was not dropped, and the shard forgets that it ever was slow.
#[test]
fn a_reader_that_catches_up_gets_every_frame_whole() {
    let house = House::new();
    let mut slow = narrow_member(&house, 10_000, 1);
    let text = "y".repeat(3_000);
    let mut count = 0;
    while house.counters.backlogs.value() == 0 {
        count = house.push(1, Body { class: Some(1), ..chat(&text) });
        until("the push to be handed out", || house.counters.copies.value() == count.unsigned_abs());
    }
    for _ in 0..20 {
        count = house.push(1, Body { class: Some(1), ..chat(&text) });
    }
    for seq in 1..=count {
        assert_eq!(slow.expect(Code::Biz).seq, Some(seq));
    }
    until("the backlog to be gone", || house.counters.backlogs.value() == 0 && house.counters.pending.value() == 0);
    assert_eq!(house.delivered(), count.unsigned_abs());
    slow.beat();
}

/// Of a state only the newest value waits.
#[test]
fn a_newer_state_takes_the_place_of_an_older_one_that_waits() {
    let house = House::new();
    let mut slow = narrow_member(&house, 10_000, 1);
    let text = "z".repeat(3_000);
    let mut last = 0;
    while house.counters.backlogs.value() == 0 {
        last = house.push(1, Body { class: Some(1), ..chat(&text) });
        until("the push to be handed out", || house.counters.copies.value() == last.unsigned_abs());
    }
    let filler = last;
    for _ in 0..10 {
        last = house.push(1, Body { class: Some(1), key: Some("pk".to_owned()), ..chat(&text) });
    }
    until("nine to be replaced", || house.dropped(Class::Event, DropReason::Replaced) == 9);
    let received: Vec<i64> = (0..=filler).map(|_| slow.expect(Code::Biz).seq.unwrap()).collect();
    assert_eq!(received, (1..=filler).chain([last]).collect::<Vec<_>>());
    house.assert_the_books_balance();
}

#[test]
fn a_reader_that_takes_nothing_for_too_long_is_cut() {
    let config = ShardConfig { write_stall: Duration::from_millis(300), ..ShardConfig::default() };
    let house = House::with(config, ServerConfig::default());
    let _stalled = narrow_member(&house, 10_000, 1);
    let text = "x".repeat(3_000);
    while house.counters.backlogs.value() == 0 {
        let count = house.push(1, chat(&text));
        until("the push to be handed out", || house.counters.copies.value() == count.unsigned_abs());
    }
    until("the stall to be noticed", || house.closed(Reason::WriteStalled) == 1);
    house.assert_the_books_balance();
    assert_eq!(house.counters.pending.value(), 0);
}

#[test]
fn who_says_nothing_is_told_so_and_cut() {
    let house = House::with(ShardConfig::default(), ServerConfig { login_timeout_ms: 200, ..ServerConfig::default() });
    let mut silent = house.connect();
    assert_eq!(silent.expect(Code::Error).code, Reason::LoginTimeout.number());
    silent.expect_end();
    assert_eq!(house.closed(Reason::LoginTimeout), 1);
}

#[test]
fn a_login_that_comes_a_byte_at_a_time_has_the_same_deadline() {
    let house = House::with(ShardConfig::default(), ServerConfig { login_timeout_ms: 300, ..ServerConfig::default() });
    let slow_loris = house.connect();
    let bytes = crate::house::bytes(Code::Login, &crate::house::login(10_000));
    let mut left = bytes.iter();
    until("the slow one to be cut", || {
        // One byte a millisecond at most: it would be done before the deadline, so it stops one byte short.
        if left.len() > 1
            && let Some(byte) = left.next()
        {
            drop(std::io::Write::write_all(&mut &slow_loris.stream, &[*byte]));
        }
        house.closed(Reason::LoginTimeout) == 1
    });
}

#[test]
fn a_frame_that_is_begun_must_be_finished() {
    let house = House::with(ShardConfig::default(), ServerConfig { frame_timeout_ms: 200, ..ServerConfig::default() });
    let mut member = house.log_in(10_000);
    member.write(&crate::house::header(billfish_wire::Encoding::Json.magic(), Code::Heartbeat.number(), 50));
    until("the half frame to be noticed", || house.closed(Reason::FrameTimeout) == 1);
    member.expect_end();
}

#[test]
fn silence_for_two_gaps_ends_a_session() {
    let session = ServerConfig { heartbeat_gap_ms: 150, ..ServerConfig::default() };
    let house = House::with(ShardConfig::default(), session);
    let mut member = house.log_in(10_000);
    until("the silence to be noticed", || house.closed(Reason::HeartbeatLost) == 1);
    member.expect_end();
}

/// A control plane that does not listen stops the reading of sockets, and nothing is lost when it listens again.
#[test]
fn a_deaf_control_plane_stops_the_reading_and_loses_nothing() {
    const CLIENTS: i64 = 300;
    let config = ShardConfig { events_bytes_max: 4 * 1024, ..ShardConfig::default() };
    let session = ServerConfig { login_timeout_ms: 60_000, ..ServerConfig::default() };
    let house = House::with(config, session);
    house.control.is_deaf.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| house.connect()).collect();
    // One after the other: what comes in one turn may go beyond the bound together. A batch of events may be on its way to it yet.
    let read = || house.counters.frames_in[billfish_gateway::shard::counters::code_row(1001)].value();
    let is_held = || house.counters.held_turns.value() > 0;
    let mut sent = 0;
    for (client, user_id) in clients.iter_mut().zip(10_000..) {
        client.send(Code::Login, &crate::house::login(user_id));
        sent += 1;
        if !is_held() {
            until("it is read, or the shard holds back", || read() == sent || is_held());
        }
    }
    assert!(is_held() && read() < sent, "{} of {sent} were read", read());
    house.control.is_deaf.store(false, std::sync::atomic::Ordering::SeqCst);
    for client in &mut clients {
        client.expect(Code::Login);
        client.beat();
    }
}
