//! A stream for each class: pushes and answers that overtake each other.

use super::*;

fn of_class(class: i32, seq: i64) -> Body {
    Body { class: Some(class), ..in_room(3, seq) }
}

fn gift(seq: i64) -> Body {
    Body { msg_id: Some(format!("r3-{seq}")), qos: Some(1), ..of_class(1, seq) }
}

fn chat(seq: i64) -> Body {
    of_class(2, seq)
}

/// A snapshot with these in it.
fn snapshot(seq: i64, messages: Vec<Body>) -> Body {
    let snapshot = RoomSnapshot { messages, ..RoomSnapshot::default() };
    Body { seq: Some(seq), data: Some(serde_json::to_string(&snapshot).unwrap()), ..room(3) }
}

/// In room 3 up to 9.
fn entered() -> End {
    let mut end = End::live_by(Order::PerClass);
    end.enter(3, 9);
    end.drain();
    end
}

#[test]
fn what_overtook_another_class_does_not_hide_it() {
    let mut end = entered();
    assert_eq!(end.receive(Code::Biz, &chat(12)), ["Push 3 12"]);
    assert_eq!(end.receive(Code::Biz, &gift(11)), [r#"Ack {"msgId":"r3-11"}"#, "Push 3 r3-11"]);
    assert_eq!(end.receive(Code::Biz, &gift(11)), [r#"Ack {"msgId":"r3-11"}"#], "a copy");
    assert_eq!(end.receive(Code::Biz, &in_room(3, 11)), [""; 0], "without a class it is chat");
    assert_eq!(end.receive(Code::Biz, &of_class(0, 9)), [""; 0], "the snapshot stood for it");
}

#[test]
fn a_resume_asks_for_what_was_overtaken_and_shows_the_rest_once() {
    let mut end = entered();
    end.receive(Code::Biz, &chat(10));
    end.receive(Code::Biz, &chat(12));
    end.disconnect();
    // Also where the next connection has one order.
    for order in [Order::PerClass, Order::Total] {
        end.order = order;
        assert!(end.connect()[0].contains(r#""rooms":{"3":10}"#));
        end.login();
        end.disconnect();
    }
    end.connect();
    end.login();
    let actions = end.receive(Code::Join, &snapshot(14, vec![gift(11), chat(12), chat(13), gift(14)]));
    let shown = actions.into_iter().filter(|action| action.starts_with("Push") || action.starts_with("Joined")).collect::<Vec<_>>();
    assert_eq!(shown, ["Joined 3 14 gap false", "Push 3 r3-11", "Push 3 13", "Push 3 r3-14"]);
    assert_eq!(end.receive(Code::Biz, &chat(15)), ["Push 3 15"]);
    end.disconnect();
    assert!(end.connect()[0].contains(r#""rooms":{"3":15}"#));
}

#[test]
fn a_join_in_the_room_asks_from_there_too() {
    let mut end = entered();
    end.receive(Code::Biz, &chat(12));
    end.session.join(3).unwrap();
    assert_eq!(end.drain(), [r#"Join {"roomId":3,"resume":9}"#]);
    // Its answer overtakes a gift, and has it.
    let actions = end.receive(Code::Join, &snapshot(13, vec![gift(11), chat(12), chat(13)]));
    assert_eq!(actions, ["Joined 3 13 gap false", r#"Ack {"msgId":"r3-11"}"#, "Push 3 r3-11", "Push 3 13"]);
    assert_eq!(end.receive(Code::Biz, &gift(11)), [r#"Ack {"msgId":"r3-11"}"#]);
    assert_eq!(end.receive(Code::Biz, &chat(13)), [""; 0]);
}

#[test]
fn a_hole_is_not_asked_for_for_ever() {
    let mut end = entered();
    end.receive(Code::Biz, &chat(12));
    for at in [30_000, 60_000] {
        assert_eq!(end.tick(at), ["Heartbeat {}"]);
        end.receive(Code::Heartbeat, &Body::default());
        end.session.join(3).unwrap();
        assert_eq!(end.drain(), [r#"Join {"roomId":3,"resume":9}"#]);
    }
    end.tick(90_000);
    end.receive(Code::Heartbeat, &Body::default());
    end.disconnect();
    assert!(end.connect()[0].contains(r#""rooms":{"3":12}"#));
}

#[test]
fn what_overtakes_the_snapshot_is_shown_behind_it() {
    let mut end = End::live_by(Order::PerClass);
    end.session.join(3).unwrap();
    end.drain();
    for push in [chat(12), chat(13), gift(9), gift(11)] {
        assert_eq!(end.receive(Code::Biz, &push), [""; 0]);
    }
    let actions = end.receive(Code::Join, &snapshot(10, vec![chat(8), gift(9)]));
    let shown = actions.iter().filter(|action| !action.starts_with("Ack")).collect::<Vec<_>>();
    assert_eq!(shown, ["Joined 3 10 gap false", "Push 3 8", "Push 3 r3-9", "Push 3 r3-11", "Push 3 12", "Push 3 13"]);
    assert!(actions.contains(&r#"Ack {"msgId":"r3-11"}"#.to_owned()));
    assert_eq!(end.receive(Code::Biz, &chat(13)), [""; 0]);
}

#[test]
fn where_more_overtakes_the_snapshot_than_fits_another_one_is_asked_for() {
    let mut end = End::live_by(Order::PerClass);
    end.session.join(3).unwrap();
    end.drain();
    for seq in 11..=300 {
        assert_eq!(end.receive(Code::Biz, &gift(seq)), [""; 0]);
    }
    assert_eq!(end.receive(Code::Join, &snapshot(10, vec![])), ["Joined 3 10 gap false", r#"Join {"roomId":3,"resume":10}"#]);
    assert_eq!(end.receive(Code::Biz, &gift(301)), [""; 0], "it is behind what was thrown away");
    let actions = end.receive(Code::Join, &snapshot(300, (11..=300).map(gift).collect()));
    let shown = actions.iter().filter(|action| action.starts_with("Push")).count();
    assert_eq!((shown, actions.last().map(String::as_str)), (291, Some("Push 3 r3-301")));
}

/// The echo of a LEAVE and the answer of the next JOIN may both be behind what the next stay brings.
#[test]
fn of_a_stay_that_ended_nothing_is_shown_and_of_the_next_one_everything() {
    let mut end = entered();
    end.session.leave(3).unwrap();
    end.session.join(3).unwrap();
    end.drain();
    end.receive(Code::Biz, &gift(10));
    end.receive(Code::Biz, &gift(12));
    end.receive(Code::Leave, &room(3));
    let actions = end.receive(Code::Join, &snapshot(11, vec![]));
    let shown = actions.iter().filter(|action| !action.starts_with("Ack")).collect::<Vec<_>>();
    assert_eq!(shown, ["Joined 3 11 gap false", "Push 3 r3-12"]);
}

#[test]
fn what_was_held_on_a_connection_that_broke_is_asked_for_and_not_shown_twice() {
    let mut end = entered();
    end.disconnect();
    end.connect();
    end.login();
    end.receive(Code::Biz, &gift(11));
    end.disconnect();
    assert!(end.connect()[0].contains(r#""rooms":{"3":9}"#));
    end.login();
    let actions = end.receive(Code::Join, &snapshot(11, vec![chat(10), gift(11)]));
    assert_eq!(actions, ["Joined 3 11 gap false", "Push 3 10", r#"Ack {"msgId":"r3-11"}"#, "Push 3 r3-11"]);
}

#[test]
fn states_that_were_shown_are_not_drawn_over_and_others_are() {
    let mut end = entered();
    end.receive(Code::Biz, &chat(12));
    end.receive(Code::Biz, &of_class(3, 10));
    end.session.join(3).unwrap();
    end.drain();
    let states = [("likes".to_owned(), of_class(3, 10)), ("pk".to_owned(), of_class(0, 11))].into();
    let data = serde_json::to_string(&RoomSnapshot { states, ..RoomSnapshot::default() }).unwrap();
    let answer = Body { seq: Some(11), data: Some(data), ..room(3) };
    end.session.on_frame(end.now, Frame { encoding: Encoding::Json, code: Code::Join.number(), body: &answer.to_vec(Encoding::Json) });
    let Some(ClientAction::Tell(ClientEvent::Joined { snapshot, .. })) = end.session.next_action() else { panic!("it is in") };
    assert_eq!(snapshot.states.keys().collect::<Vec<_>>(), ["pk"]);
}

fn answer() -> Body {
    Body { session_id: text("s2"), node: text("n2"), heartbeat_secs: Some(30), ..Body::yes() }
}

#[test]
fn what_overtakes_the_login_of_a_move_is_shown_behind_the_rooms_snapshot() {
    let mut end = entered();
    end.move_on();
    assert_eq!(end.receive_next(Code::Biz, &gift(12)), [""; 0]);
    assert_eq!(end.receive_next(Code::Biz, &in_inbox("1-0")), [""; 0]);
    assert_eq!(end.receive_next(Code::Login, &answer())[2..], [r#"Ack {"msgId":"1-0"}"#, "Push 0 1-0"]);
    assert_eq!(end.receive_former(Code::Biz, &chat(11)), ["Push 3 11"]);
    assert_eq!(end.receive_former(Code::Biz, &gift(10)).len(), 2, "the former one has an order per class, too");
    let actions = end.receive(Code::Join, &snapshot(11, vec![gift(10), chat(11)]));
    let ack = |seq| format!(r#"Ack {{"msgId":"r3-{seq}"}}"#);
    assert_eq!(actions, ["Joined 3 11 gap false".to_owned(), ack(10), ack(12), "Push 3 r3-12".to_owned(), "CloseFormer".to_owned()]);
    // Also when the connection there was breaks first.
    let mut end = entered();
    end.move_on();
    end.receive_next(Code::Biz, &gift(12));
    end.disconnect();
    end.receive(Code::Login, &answer());
    assert_eq!(end.receive(Code::Join, &snapshot(11, vec![])).last().map(String::as_str), Some("Push 3 r3-12"));
}

#[test]
fn a_move_on_which_too_much_overtakes_the_login_is_given_up() {
    let mut end = entered();
    end.move_on();
    for seq in 11..267 {
        assert_eq!(end.receive_next(Code::Biz, &gift(seq)), [""; 0]);
    }
    assert_eq!(end.receive_next(Code::Biz, &gift(267)), ["CloseNext TooSlow after None"]);
    assert!(end.session.is_live());
}

#[test]
fn from_an_order_per_class_to_one_and_back_each_is_shown_once() {
    let mut end = entered();
    end.receive(Code::Biz, &chat(11));
    end.order = Order::Total;
    assert!(end.move_on()[0].contains(r#""rooms":{"3":9}"#));
    end.receive_next(Code::Login, &answer());
    end.receive(Code::Join, &snapshot(11, vec![gift(10), chat(11)]));
    assert_eq!(end.receive(Code::Biz, &chat(13)), ["Push 3 13"]);
    assert_eq!(end.receive(Code::Biz, &gift(12)), [r#"Ack {"msgId":"r3-12"}"#], "in one order nothing comes late");
    end.order = Order::PerClass;
    assert!(end.move_on()[0].contains(r#""rooms":{"3":13}"#));
    end.receive_next(Code::Login, &answer());
    assert_eq!(end.receive_former(Code::Biz, &chat(15)), ["Push 3 15"]);
    assert_eq!(end.receive(Code::Join, &snapshot(14, vec![gift(14)])).first().map(String::as_str), Some("Joined 3 14 gap false"));
    assert_eq!(end.receive(Code::Biz, &chat(15)), [""; 0]);
    assert_eq!(end.receive(Code::Biz, &chat(16)), ["Push 3 16"]);
}

#[test]
fn a_probe_says_how_many_echoes_answer_it() {
    let mut end = End::new();
    assert_eq!(end.session.probe(end.now), 0);
    let mut end = End::live();
    assert_eq!(end.tick(30_000), ["Heartbeat {}"]);
    assert_eq!(end.session.probe(end.now), 2);
    assert_eq!(end.drain(), ["Heartbeat {}"]);
    end.receive(Code::Heartbeat, &Body::default());
    end.receive(Code::Heartbeat, &Body::default());
    assert_eq!(end.session.probe(Time(31_000)), 1);
    end.disconnect();
    end.connect();
    end.login();
    assert_eq!(end.session.probe(Time(31_000)), 1, "another connection");
}
