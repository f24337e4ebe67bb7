//! What happens on the way: another address, packets that are lost.

use super::client::QuicHouse;
use crate::house::{push, until};
use billfish_link::message::Push;
use billfish_testing::UdpRelay;
use billfish_wire::Code;
use quinn::TransportConfig;
use std::net::UdpSocket;

const ROOM: i64 = 30_001;

/// A phone that leaves its network for another keeps its session, and misses nothing.
#[test]
fn a_client_whose_address_changes_keeps_its_session() {
    let house = QuicHouse::new();
    let mut client = house.join(20_001, ROOM);
    for round in 0..5 {
        let before = client.endpoint.local_addr().unwrap();
        {
            let _in_runtime = house.house.runtime.enter();
            client.endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        }
        assert_ne!(client.endpoint.local_addr().unwrap(), before);
        // Pushed before the server has heard from the new address.
        let seqs: Vec<_> = (0..20).map(|n| house.router.push_room_as(1, 0, Push { room_id: ROOM, class: n % 4, ..push("on") })).collect();
        client.beat();
        for class in 0..4 {
            for seq in seqs.iter().skip(class).step_by(4) {
                assert_eq!(client.push(class).seq, Some(*seq), "round {round}");
            }
        }
    }
    assert_eq!(house.house.metric("gateway_accepts_total", &[]), 1.0);
    assert_eq!(house.house.metric("gateway_logins_total", &[r#"result="accepted""#]), 1.0);
    assert_eq!(house.house.metric("gateway_sessions", &[]), 1.0);
}

/// Neither an acknowledgement nor a gift is as long.
const LONG_BYTES: usize = 600;

/// The packet with the chat is lost, and the gift behind it is there before the chat comes again.
#[test]
fn a_lost_chat_packet_delays_no_gift() {
    let house = QuicHouse::new();
    let relay = UdpRelay::start(house.address()).unwrap();
    let mut client = house.connect_by(relay.address(), TransportConfig::default());
    house.log_in_on(&mut client, 20_001, "ios");
    client.join(ROOM);
    // Both streams are there, and nothing is on its way.
    for class in [1, 2] {
        house.router.push_room_as(1, 0, Push { room_id: ROOM, class, ..push("first") });
    }
    client.push(1);
    client.push(2);
    client.beat();

    // On a loaded machine the chat may be sent again before the gift is sent at all. On one stream the gift would never be first.
    let overtook = (0..20).any(|_| {
        let lost = relay.lost();
        relay.lose_next_down(LONG_BYTES);
        house.router.push_room(ROOM, &"chat".repeat(LONG_BYTES / 4));
        until("the packet is lost", || relay.lost() == lost + 1);
        house.router.push_room_as(1, 0, Push { room_id: ROOM, class: 1, ..push("gift") });
        let (chat_at, gift_at) = client.both(2, 1);
        gift_at < chat_at
    });
    assert!(overtook, "every gift waited for its chat");
}

/// Through a path that loses a packet in twenty each way, everything arrives, on each stream in order.
#[test]
fn a_lossy_path_loses_no_frame() {
    let house = QuicHouse::new();
    let relay = UdpRelay::start(house.address()).unwrap();
    let mut client = house.connect_by(relay.address(), TransportConfig::default());
    house.log_in_on(&mut client, 20_001, "ios");
    client.join(ROOM);
    relay.lose_permille(50);
    for round in 0..20 {
        let seqs: Vec<_> =
            (0..40).map(|n| house.router.push_room_as(1, 0, Push { room_id: ROOM, class: n % 4, ..push("lossy") })).collect();
        client.send(Code::Heartbeat, &billfish_wire::Body::default());
        for class in 0..4 {
            for seq in seqs.iter().skip(class).step_by(4) {
                assert_eq!(client.push(class).seq, Some(*seq), "round {round}");
            }
        }
        client.expect(Code::Heartbeat);
    }
    assert!(relay.lost() > 0, "the path was lossy");
    assert_eq!(house.house.metric("gateway_sessions", &[]), 1.0);
}
