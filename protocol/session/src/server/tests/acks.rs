//! ACKs, resends and hand-over.

use super::*;

#[test]
fn a_push_to_the_user_is_recorded_at_once_resent_after_4_and_8_s_and_handed_over() {
    let mut end = End::live();
    end.push(&user_push("1-0"));
    assert_eq!(end.drain().shown(), ["RecordAck 1-0 sent 1 due 4000"]);
    assert_eq!(end.tick(3_999).shown(), [""; 0]);
    assert_eq!(end.tick(4_000).shown(), ["Resend 1-0", "RecordAck 1-0 sent 2 due 8000"]);
    assert_eq!(end.tick(11_999).shown(), [""; 0]);
    assert_eq!(end.tick(12_000).shown(), ["Resend 1-0", "RecordAck 1-0 sent 3 due 8000"]);
    assert_eq!(end.tick(19_999).shown(), [""; 0]);
    assert_eq!(end.tick(20_000).shown(), ["HandOver 1-0 recorded true"]);
    assert_eq!(end.session.next_deadline(&end.config), Time(60_000), "only the silence is left");
}

#[test]
fn a_push_to_a_room_is_recorded_when_its_ack_is_late_and_not_before() {
    let mut end = End::live();
    end.push(&room_push(3, 5));
    assert_eq!(end.drain().shown(), [""; 0]);
    assert_eq!(end.session.next_deadline(&end.config), Time(200));
    assert_eq!(end.tick(199).shown(), [""; 0]);
    assert_eq!(end.tick(200).shown(), ["RecordAck r3-5 sent 1 due 3800"]);
    assert_eq!(end.tick(4_000).shown(), ["Resend r3-5", "RecordAck r3-5 sent 2 due 8000"]);
}

#[test]
fn an_ack_ends_the_waiting_and_says_what_is_to_be_forgotten() {
    let mut end = End::live();
    end.push(&room_push(3, 5));
    end.push(&room_push(3, 6));
    end.push(&user_push("1-0"));
    end.drain();
    assert_eq!(end.ack("r3-5"), ["AckedInTime"]);
    end.tick(200);
    assert_eq!(end.ack("r3-6"), ["Acked r3-6 Some(3) true"]);
    assert_eq!(end.ack("1-0"), ["Acked 1-0 None true"]);
    assert_eq!(end.session.next_deadline(&end.config), Time(60_200), "only the silence is left");
}

#[test]
fn an_ack_nobody_waits_for_still_clears_the_inbox_or_the_late_acks() {
    let mut end = End::live();
    assert_eq!(end.ack("1-0"), ["Acked 1-0 None false"]);
    assert_eq!(end.ack("r3-5"), ["Acked r3-5 None true"]);
    assert_eq!(end.frame(Code::Ack, &Body::default()).shown(), [error(Reason::Malformed)]);
    assert_eq!(end.frame(Code::Ack, &Body { msg_id: text(""), ..Body::default() }).shown(), [error(Reason::Malformed)]);
}

#[test]
fn one_pending_push_too_many_hands_over_the_oldest() {
    let mut end = End::live();
    for seq in 0..256 {
        end.push(&room_push(3, seq));
    }
    assert_eq!(end.drain().shown(), [""; 0]);
    end.push(&room_push(3, 256));
    assert_eq!(end.drain().shown(), ["HandOver r3-0 recorded false"]);
}

#[test]
fn a_push_that_waits_already_is_watched_once() {
    let mut end = End::live();
    end.push(&user_push("1-0"));
    end.push(&user_push("1-0"));
    assert_eq!(end.drain().len(), 1);
    end.ack("1-0");
    assert_eq!(end.tick(4_000).shown(), [""; 0]);
}

#[test]
fn a_push_that_wants_no_ack_is_not_watched() {
    let mut end = End::live();
    end.push(&Arc::new(Push::new(Body { msg_id: text("1-0"), qos: Some(0), ..Body::default() })));
    end.push(&Arc::new(Push::new(Body { qos: Some(1), ..Body::default() })));
    assert_eq!(end.tick(20_000).shown(), [""; 0]);
}

#[test]
fn without_resends_a_push_is_handed_over_after_4_s() {
    let mut end = End::live();
    end.config.resend_after_ms.clear();
    end.push(&user_push("1-0"));
    end.drain();
    assert_eq!(end.tick(3_999).shown(), [""; 0]);
    assert_eq!(end.tick(4_000).shown(), ["HandOver 1-0 recorded true"]);
}

#[test]
fn what_waits_for_its_ack_is_handed_over_before_the_close_and_when_the_transport_goes() {
    let mut end = End::live();
    end.push(&user_push("1-0"));
    end.push(&room_push(3, 5));
    end.drain();
    end.session.on_drain_deadline(&mut end.out);
    assert_eq!(end.drain().shown(), ["HandOver 1-0 recorded true missed", "HandOver r3-5 recorded false missed", "Close(Drained)"]);
    let mut end = End::live();
    end.push(&room_push(3, 5));
    end.session.on_disconnected(&mut end.out);
    assert_eq!(end.drain().shown(), ["HandOver r3-5 recorded false missed"]);
    assert!(end.session.is_closed());
}

#[test]
fn a_push_to_a_room_that_was_given_up_is_missed_unless_the_client_is_heard_of_again() {
    for is_alive in [false, true] {
        let mut end = End::live();
        end.push(&room_push(3, 5));
        for at in [200, 4_000, 12_000] {
            end.tick(at);
        }
        assert_eq!(end.tick(20_000).shown(), [""; 0]);
        assert_eq!(end.session.next_deadline(&end.config), Time(60_000), "only the silence is left");
        if is_alive {
            assert!(end.frame(Code::Heartbeat, &Body::default()).shown().contains(&"HandOver r3-5 recorded true".to_owned()));
            end.session.on_disconnected(&mut end.out);
            assert_eq!(end.drain().shown(), [""; 0]);
        } else {
            end.session.on_disconnected(&mut end.out);
            assert_eq!(end.drain().shown(), ["HandOver r3-5 recorded true missed"]);
        }
    }
}

#[test]
fn an_ack_that_comes_after_all_is_that_of_a_push_which_was_given_up() {
    let mut end = End::live();
    end.push(&room_push(3, 5));
    for at in [200, 4_000, 12_000, 20_000] {
        end.tick(at);
    }
    assert!(end.ack("r3-5").contains(&"Acked r3-5 Some(3) true".to_owned()));
    end.session.on_disconnected(&mut end.out);
    assert_eq!(end.drain().shown(), [""; 0]);
}

#[test]
fn a_push_that_comes_again_waits_once_wherever_it_stands() {
    let mut end = End::live();
    for push in [room_push(3, 5), room_push(3, 6), user_push("1-0"), room_push(3, 5), room_push(3, 6), user_push("1-0")] {
        end.push(&push);
    }
    end.drain();
    assert_eq!(end.ack("r3-5"), ["AckedInTime"]);
    assert_eq!(end.ack("r3-6"), ["AckedInTime"]);
    assert_eq!(end.ack("1-0"), ["Acked 1-0 None true"]);
    assert_eq!(end.session.next_deadline(&end.config), Time(60_000), "nothing waits any more");
}

#[test]
fn an_ack_of_the_earliest_leaves_a_look_too_many_and_none_too_late() {
    let mut end = End::live();
    end.push(&room_push(3, 5));
    end.tick(100);
    end.push(&room_push(3, 6));
    end.ack("r3-5");
    assert!(end.session.next_deadline(&end.config) <= Time(300));
    assert_eq!(end.tick(200).shown(), [""; 0], "the second has not waited for long");
    assert_eq!(end.session.next_deadline(&end.config), Time(300));
    assert_eq!(end.tick(300).shown(), ["RecordAck r3-6 sent 1 due 3800"]);
}
