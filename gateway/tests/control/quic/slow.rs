//! Readers that are slow on one stream, or on all.

use super::client::{QuicClient, QuicHouse, narrow};
use crate::house::{push, until};
use billfish_link::message::Push;
use billfish_wire::{Code, Reason};

const ROOM: i64 = 30_001;

fn slow_member(house: &QuicHouse, user_id: i64) -> QuicClient {
    let mut client = house.connect_by(house.address(), narrow());
    house.log_in_on(&mut client, user_id, "ios");
    client.join(ROOM);
    client
}

fn assert_the_books_balance(house: &QuicHouse) {
    until("the books to balance", || {
        let account = house.house.running().account();
        account.copies == account.delivered + account.dropped + account.pending
    });
}

/// Chat that nobody reads fills its own part of everything, is dropped, and holds up no gift.
#[test]
fn chat_that_is_not_read_delays_no_gift_and_is_dropped_by_class() {
    let house = QuicHouse::new();
    let mut client = slow_member(&house, 20_001);
    let text = "x".repeat(1_000);
    let mut chats = 0;
    while house.house.metric("gateway_frames_dropped_total", &[r#"class="chat""#, r#"reason="soft_mark""#]) == 0.0 {
        house.router.push_room(ROOM, &text);
        chats += 1;
        until("it is booked", || house.house.running().account().copies == chats);
    }
    for gift in 0..200 {
        house.router.push_room_as(1, 0, Push { room_id: ROOM, class: 1, ..push(&format!("{gift}{text}")) });
        assert!(client.push(1).data.unwrap().starts_with(&gift.to_string()));
    }
    client.beat();
    assert_the_books_balance(&house);
    let account = house.house.running().account();
    assert!(account.pending > 0 && account.dropped > 0, "{account:?}");
    // It reads on: what was not dropped is there, in order.
    let waiting = chats - account.dropped;
    let seqs: Vec<_> = (0..waiting).map(|_| client.push(2).seq.unwrap()).collect();
    assert!(seqs.is_sorted_by(|one, next| one < next));
    until("nothing waits", || house.house.running().account().pending == 0);
    until("the shard has forgotten it", || house.house.metric("gateway_backlogs", &[]) == 0.0);
    let seq = house.router.push_room(ROOM, "and goes on");
    assert_eq!(client.push(2).seq, Some(seq));
}

/// Events are never dropped silently: when they no longer fit, the session ends with 4012, said and as the connection's last word.
#[test]
fn a_reader_of_nothing_is_told_so_and_every_copy_is_accounted_for() {
    let house = QuicHouse::new();
    let mut client = slow_member(&house, 20_001);
    let text = "x".repeat(1_000);
    let mut copies = 0;
    while house.house.metric("gateway_closes_total", &[r#"reason="too_slow""#]) == 0.0 {
        house.router.push_room_as(1, 0, Push { room_id: ROOM, class: 1, ..push(&text) });
        copies += 1;
        let is_over = || house.house.metric("gateway_closes_total", &[r#"reason="too_slow""#]) == 1.0;
        until("it is booked", || house.house.running().account().copies == copies || is_over());
        assert!(copies < 2_000);
    }
    let kick = client.expect(Code::Kick);
    assert_eq!(kick.code, Reason::TooSlow.number());
    assert_eq!(client.end(), (4012, "too_slow".to_owned()));
    assert_the_books_balance(&house);
    let account = house.house.running().account();
    assert_eq!((account.pending, account.connections), (0, 0));
    assert!(account.delivered < 150 && account.dropped > 200, "{account:?}");
}

/// A crowd of both kinds of transport, each push to all of them: the sums hold, and every reader has all of it.
#[test]
fn members_of_both_kinds_get_everything() {
    let house = QuicHouse::new();
    let mut by_quic: Vec<_> = (0..20).map(|user| house.join(20_001 + user, ROOM)).collect();
    let mut by_tcp: Vec<_> = (0..20).map(|user| house.house.join(21_001 + user, ROOM)).collect();
    let seqs: Vec<_> =
        (0..100).map(|n| house.router.push_room_as(1, 20_001, Push { room_id: ROOM, class: 1 + n % 3, ..push("all") })).collect();
    for client in &mut by_tcp {
        let got: Vec<_> = seqs.iter().map(|_| client.expect(Code::Biz).seq.unwrap()).collect();
        assert_eq!(got, seqs);
    }
    for client in &mut by_quic[1..] {
        for class in 1..4 {
            let of_class = seqs.iter().enumerate().filter(|(n, _)| 1 + n % 3 == class).map(|(_, seq)| *seq);
            for seq in of_class {
                assert_eq!(client.push(class).seq, Some(seq));
            }
        }
    }
    by_quic[0].beat();
    let account = house.house.running().account();
    assert_eq!((account.copies, account.delivered), (39 * 100, 39 * 100));
}
