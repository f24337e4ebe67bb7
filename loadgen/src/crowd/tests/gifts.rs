//! The crowd with gifts against a gateway of three lines: what its clients make of what they hear.

use super::{FIRST_USER_ID, ROOM, connect, plan, tokens, turn_until};
use crate::{
    crowd::{
        Crowd,
        gifting::{GiftTally, GiftWork},
        viewers::BarPush,
    },
    gifts::{GiftPlan, Priced},
    worker::{Activity, Plan},
};
use billfish_wire::{Body, Code, Encoding, Reassembler, frame, limits::BODY_BYTES_MAX};
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

#[test]
fn every_gift_is_acknowledged_and_shown_with_its_bar() {
    let tally = run(Hearing::default());
    let room = &tally.rooms[0];
    assert_eq!((tally.sends.acked, room.acks.gifts, room.told), (4, 4, 4));
    let (state, members) = room.viewers[0];
    assert_eq!((room.viewers.len(), members, state.gifts, state.pushes), (1, 1, 4, 4), "the sender watches as well");
    assert_eq!((state.bar, room.bars.len()), (Some(BarPush { gift_seq: 4, value: 54 }), 5), "the first came with the JOIN");
    assert_eq!((tally.sends.strays, room.faults.bar_conflicts), (0, 0));
}

#[test]
fn an_answer_to_the_gift_of_somebody_else_is_a_stray_and_no_answer() {
    let tally = run(Hearing { answers_for: 1, ..Hearing::default() });
    assert_eq!((tally.sends.acked, tally.sends.strays, tally.sends.unanswered), (0, 1, 1));
}

#[test]
fn who_comes_back_to_a_gap_is_no_part_of_the_account_and_sends_again_what_was_open() {
    let tally = run(Hearing { hangs_up_at: Some(3), has_gap: true, ..Hearing::default() });
    let room = &tally.rooms[0];
    assert_eq!((tally.sends.acked, room.faults.gaps, room.viewers.len()), (4, 1, 0));
    assert_eq!(tally.sends.retries.get("connection lost"), Some(&1), "{:?}", tally.sends.retries);
}

#[test]
fn what_was_missed_comes_with_the_snapshot_and_is_shown_in_order() {
    let tally = run(Hearing { hangs_up_at: Some(3), ..Hearing::default() });
    let room = &tally.rooms[0];
    let gifts: Vec<_> = room.viewers.iter().map(|(state, members)| (state.gifts, *members)).collect();
    assert_eq!((gifts.as_slice(), room.faults.gaps), (&[(4, 1)][..], 0), "{room:?}");
    assert!(room.pushes.values().all(|push| push.received == 1 && push.overtaken == 0), "{room:?}");
}

/// What the gateway says.
#[derive(Clone, Copy, Debug, Default)]
struct Hearing {
    /// It answers as if the gift were of the client so much further on.
    answers_for: u32,
    /// It pays this gift, and hangs up instead of saying so.
    hangs_up_at: Option<u32>,
    /// Who comes back is told that the log does not reach back.
    has_gap: bool,
}

/// One sender, who is the only viewer too, and four gifts, the next when the one before has its answer.
fn run(hearing: Hearing) -> GiftTally {
    let gift_plan = GiftPlan {
        run: 3,
        app_id: 10_001,
        first_user_id: FIRST_USER_ID,
        catalogue: vec![Priced { gift_id: 1, price: 10 }],
        anchors: vec![91_000],
        challengers: vec![FIRST_USER_ID],
        sender_every: 1,
        ..GiftPlan::default()
    };
    // Client 1 of the run: client 0 is the challenger, and not here.
    let plan = Plan {
        first: 1,
        rooms: vec![ROOM],
        return_spread: Some(Duration::ZERO),
        gifts: Some(GiftWork { plan: gift_plan.clone(), per_s: 1_000.0, window: 1 }),
        ..plan(serve(hearing, gift_plan), 1, Activity::Gifts)
    };
    let mut crowd = Crowd::new(&plan, tokens(1)).expect("epoll");
    connect(&mut crowd);
    crowd.begin_activity();
    let begun = |crowd: &Crowd<'_>| crowd.shared.gifts.as_ref().map_or(0, |gifts| gifts.senders.tally.intents);
    let strays = |crowd: &Crowd<'_>| crowd.shared.gifts.as_ref().map_or(0, |gifts| gifts.senders.tally.strays);
    if hearing.answers_for > 0 {
        turn_until(&mut crowd, |crowd| strays(crowd) > 0);
        crowd.end_activity(&[0]);
    } else {
        turn_until(&mut crowd, |crowd| begun(crowd) == 4);
        crowd.end_activity(&[0]);
        turn_until(&mut crowd, |crowd| !crowd.has_business() && crowd.shared.stats.totals.received == 4);
    }
    *crowd.report().gifts.expect("it was a run with gifts")
}

fn serve(hearing: Hearing, plan: GiftPlan) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        let mut house = House { hearing, plan, log: Vec::new(), has_hung_up: false };
        // One client: one connection at a time.
        for stream in listener.incoming().map_while(Result::ok) {
            house.talk(stream);
        }
    });
    address
}

struct House {
    hearing: Hearing,
    plan: GiftPlan,
    /// Pushes of what was paid, each gift once.
    log: Vec<(String, Body)>,
    has_hung_up: bool,
}

impl House {
    fn talk(&mut self, mut stream: TcpStream) {
        let (mut reassembler, mut buffer) = (Reassembler::default(), [0; 4096]);
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            let mut out = Vec::new();
            let mut frames = reassembler.feed(&buffer[..read]);
            while let Some(frame) = frames.next(BODY_BYTES_MAX).expect("the crowd sends frames") {
                let body = Body::decode(frame.encoding, frame.body).expect("the crowd sends bodies");
                let is_over = self.answer(Code::from_number(frame.code).expect("a known code"), &body, &mut out);
                if is_over {
                    stream.write_all(&out).ok();
                    stream.shutdown(Shutdown::Both).ok();
                    return;
                }
            }
            if stream.write_all(&out).is_err() {
                return;
            }
        }
    }

    /// `true`: it hangs up.
    fn answer(&mut self, code: Code, body: &Body, out: &mut Vec<u8>) -> bool {
        let mut say = |code, body: &Body| frame::encode_into(out, Encoding::Json, code, body);
        match code {
            Code::Login => say(Code::Login, &Body { heartbeat_secs: Some(30), ..Body::yes() }),
            Code::Join => {
                let seen = body.resume.as_ref().and_then(|resume| resume.seq).unwrap_or(0);
                let missed: Vec<&Body> = self.log.iter().map(|(_, push)| push).filter(|push| push.seq > Some(seen)).collect();
                let bar = Body { biz_code: Some(5558), data: Some(bar(0)), ..Body::default() };
                let gap = self.hearing.has_gap && self.has_hung_up;
                let snapshot = serde_json::json!({ "audience": 1, "states": { "pk": bar }, "messages": missed, "gap": gap });
                let seq = Some(self.log.len() as i64);
                say(Code::Join, &Body { room_id: Some(ROOM), seq, data: Some(snapshot.to_string()), ..Body::default() });
            }
            Code::Heartbeat => say(Code::Heartbeat, &Body::yes()),
            Code::Biz => {
                let uuid = body.msg_id.clone().expect("a gift has an id");
                let key = self.plan.key_of(&uuid).expect("it is this run's");
                let known = self.log.iter().position(|(own, _)| *own == uuid);
                let place = known.unwrap_or(self.log.len()) + 1;
                if known.is_none() {
                    let push = push(&uuid, place);
                    // Who is hung up on hears it when it comes back.
                    if self.hearing.hangs_up_at != Some(key.n) {
                        say(Code::Biz, &push);
                    }
                    self.log.push((uuid, push));
                }
                if self.hearing.hangs_up_at == Some(key.n) && !std::mem::replace(&mut self.has_hung_up, true) {
                    return true;
                }
                let told = self.plan.uuid(crate::gifts::GiftKey { client: key.client + self.hearing.answers_for, ..key });
                say(Code::Ack, &Body { msg_id: Some(told), data: Some(format!(r#"{{"giftSeq":{place}}}"#)), ..Body::default() });
            }
            Code::WsShake | Code::Logout | Code::Ack | Code::Kick | Code::Leave | Code::Sync | Code::Error | Code::Reconnect => {}
        }
        false
    }
}

fn bar(place: usize) -> String {
    format!(r#"{{"pkNum":{},"sendGiftSeqNum":{place},"anchorId":91000,"pkObjId":20000,"isOver":false}}"#, 50 + place)
}

fn push(uuid: &str, place: usize) -> Body {
    let data = format!(r#"{{"uuid":"{uuid}","giftSeq":{place},"num":1,"pkNum":{},"sendGiftSeqNum":{place}}}"#, 50 + place);
    Body {
        room_id: Some(ROOM),
        seq: Some(place as i64),
        biz_code: Some(5558),
        class: Some(1),
        qos: Some(1),
        msg_id: Some(format!("g{ROOM}-{place}")),
        data: Some(data),
        ..Body::default()
    }
}
