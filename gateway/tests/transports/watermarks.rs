//! When memory runs out.

use crate::{
    client::{Kind, Open},
    house::{push, until},
};
use billfish_gateway::resident_bytes;
use billfish_link::message::Push;
use billfish_wire::{Body, Code, Reason};

const ROOM: i64 = 30_001;

#[test]
fn above_the_last_mark_nobody_is_let_in_and_is_told_when_to_come_back() {
    // One percent of the smallest budget: less than any process has.
    let open = Open::with(|config| {
        (config.memory.budget_bytes, config.memory.shed_percent, config.memory.refuse_percent) = (64 << 20, 1, 1);
    });
    for kind in Kind::ALL {
        let token = open.house.token(20_001, None, 60_000);
        let mut peer = open.knock(kind, 20_001, &token, Body::default());
        let error = peer.expect(Code::Error);
        assert_eq!(error.code, Reason::Unavailable.number(), "{kind:?}");
        assert!(error.retry_after_ms.is_some_and(|ms| ms >= 1_000), "{error:?}");
    }
    assert_eq!(open.house.metric("gateway_admission_refused_total", &[r#"reason="memory""#]), 6.0);
    assert_eq!(open.house.metric("gateway_memory_budget_bytes", &[]), f64::from(64 << 20));
}

/// Chat and likes are given up and counted; gifts, and what is to be confirmed, go out. Who is in stays in.
#[test]
fn above_the_first_mark_chat_is_not_passed_on() {
    let open = Open::with(|config| {
        config.memory.budget_bytes = resident_bytes().unwrap() * 100;
        config.memory.shed_percent = 1;
        config.memory.refuse_percent = 100;
    });
    let mut peer = open.join(Kind::WsText, 20_001, ROOM);
    let dropped = |class: &str| open.house.metric("gateway_frames_dropped_total", &[&format!(r#"class="{class}""#), r#"reason="memory""#]);
    // The mark is one hundredth of a hundred times of what there was: whatever the process has taken since is above it.
    let mut pushed = 0;
    until("the shards know of it", || {
        open.router.push_room(ROOM, "chat");
        pushed += 1;
        // The peer reads none of it yet: the mark is looked at each second, and what comes until then must fit into its socket.
        std::thread::sleep(std::time::Duration::from_millis(10));
        dropped("chat") > 0.0
    });
    let passed_on = open.house.running().account().delivered;
    for _ in 0..passed_on {
        peer.expect(Code::Biz);
    }
    for class in [1, 2, 3] {
        open.router.push_room_as(1, 0, Push { room_id: ROOM, class, ..push("x") });
        open.router.push_users(&[20_001], Push { class, ..push("y") });
    }
    open.router.push_users(&[20_001], Push { class: 2, qos: 1, msg_id: "m".to_owned(), ..push("to confirm") });
    let mut heard: Vec<String> = (0..3).map(|_| peer.expect(Code::Biz).data.unwrap()).collect();
    heard.sort();
    assert_eq!(heard, ["to confirm", "x", "y"]);
    peer.beat();
    until("they are counted", || dropped("chat") >= 3.0 && dropped("ambient") == 2.0);
    open.assert_the_books_balance();
    open.login(Kind::Tcp, 20_002).beat();
}
