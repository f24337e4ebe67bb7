//! The rules of the client's end, one by one.

mod calls;
mod life;
mod moving;
mod order;
mod rooms;

use super::{ClientAction, ClientConfig, ClientEvent, ClientSession, Message, Order};
use crate::time::Time;
use billfish_wire::{
    Body, Code, Encoding, Frame, Reason,
    snapshot::{RoomSnapshot, SyncPage},
};

/// One end, its time and its actions.
struct End {
    session: ClientSession,
    now: Time,
    /// Of the connections to come.
    order: Order,
}

impl End {
    fn new() -> Self {
        Self { session: ClientSession::new(ClientConfig::new(10_001, 10_007)), now: Time(0), order: Order::Total }
    }

    /// Logged in, the inbox read.
    fn live() -> Self {
        Self::live_by(Order::Total)
    }

    fn live_by(order: Order) -> Self {
        let mut end = Self { order, ..Self::new() };
        end.connect();
        end.login();
        end.receive(Code::Sync, &page(&[], false));
        end
    }

    fn connect(&mut self) -> Vec<String> {
        self.session.on_connected(self.now, "t", self.order);
        self.drain()
    }

    fn login(&mut self) -> Vec<String> {
        let answer = Body { session_id: text("s1"), node: text("n1"), heartbeat_secs: Some(30), server_time: Some(99), ..Body::yes() };
        self.receive(Code::Login, &answer)
    }

    /// In a room whose newest message is `seq`.
    fn enter(&mut self, room_id: i64, seq: i64) {
        self.session.join(room_id).unwrap();
        self.receive(Code::Join, &joined(room_id, seq, &[], false));
    }

    fn receive(&mut self, code: Code, body: &Body) -> Vec<String> {
        self.session.on_frame(self.now, Frame { encoding: Encoding::Json, code: code.number(), body: &body.to_vec(Encoding::Json) });
        self.drain()
    }

    /// A second connection stands, and LOGIN was sent on it.
    fn move_on(&mut self) -> Vec<String> {
        assert!(self.session.on_next_connected(self.now, "t2", self.order));
        self.drain()
    }

    fn receive_next(&mut self, code: Code, body: &Body) -> Vec<String> {
        self.session.on_next_frame(self.now, Frame { encoding: Encoding::Json, code: code.number(), body: &body.to_vec(Encoding::Json) });
        self.drain()
    }

    fn receive_former(&mut self, code: Code, body: &Body) -> Vec<String> {
        self.session.on_former_frame(Frame { encoding: Encoding::Json, code: code.number(), body: &body.to_vec(Encoding::Json) });
        self.drain()
    }

    fn disconnect(&mut self) -> Vec<String> {
        self.session.on_disconnected(Reason::PeerClosed);
        self.drain()
    }

    fn tick(&mut self, ms: u64) -> Vec<String> {
        self.now = Time(ms);
        self.session.on_tick(self.now);
        assert!(self.session.next_deadline() > self.now, "a deadline that has come is done with");
        self.drain()
    }

    fn drain(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.session.next_action()).map(|action| show(&action)).collect()
    }
}

/// An action as a short line, so that a test reads like a transcript.
fn show(action: &ClientAction) -> String {
    match action {
        ClientAction::Send { code, body } => sent(*code, body),
        ClientAction::Tell(ClientEvent::Push(body)) => {
            format!(
                "Push {} {}",
                body.room_id.unwrap_or(0),
                body.msg_id.clone().or(body.seq.map(|seq| seq.to_string())).unwrap_or_default()
            )
        }
        ClientAction::Tell(ClientEvent::Joined { room_id, seq, snapshot, gap }) => {
            assert!(snapshot.messages.is_empty(), "they follow as pushes");
            format!("Joined {room_id} {seq} gap {gap}")
        }
        ClientAction::Tell(ClientEvent::History { room_id, messages, gap, more }) => {
            format!("History {room_id} {:?} gap {gap} more {more}", messages.iter().filter_map(|message| message.seq).collect::<Vec<_>>())
        }
        ClientAction::Tell(ClientEvent::Refused { msg_id, room_id, reason, retry_after_ms, .. }) => {
            format!("Refused {msg_id:?} {room_id:?} {reason:?} {retry_after_ms:?}")
        }
        ClientAction::Tell(ClientEvent::Closed { reason, reconnect, retry_after_ms }) => {
            format!("Closed {reason:?} reconnect {reconnect} after {retry_after_ms:?}")
        }
        ClientAction::Tell(event) => format!("{event:?}"),
        ClientAction::Close => "Close".to_owned(),
        ClientAction::SendNext { code, body } => format!("next: {}", sent(*code, body)),
        ClientAction::Switch => "Switch".to_owned(),
        ClientAction::CloseNext { reason, retry_after_ms } => format!("CloseNext {reason:?} after {retry_after_ms:?}"),
        ClientAction::CloseFormer => "CloseFormer".to_owned(),
    }
}

fn sent(code: Code, body: &Body) -> String {
    format!("{code:?} {}", String::from_utf8_lossy(&body.to_vec(Encoding::Json)))
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn room(room_id: i64) -> Body {
    Body { room_id: Some(room_id), ..Body::default() }
}

fn in_room(room_id: i64, seq: i64) -> Body {
    Body { seq: Some(seq), biz_code: Some(5555), data: text("{}"), ..room(room_id) }
}

fn in_inbox(msg_id: &str) -> Body {
    Body { msg_id: text(msg_id), qos: Some(1), data: text("{}"), ..Body::default() }
}

fn message(msg_id: &str) -> Message {
    Message { room_id: Some(3), biz_code: 5555, data: "{}".to_owned(), msg_id: text(msg_id) }
}

fn joined(room_id: i64, seq: i64, missed: &[i64], gap: bool) -> Body {
    let messages = missed.iter().map(|seq| Body { seq: Some(*seq), ..Body::default() }).collect();
    let snapshot = RoomSnapshot { messages, gap, ..RoomSnapshot::default() };
    Body { seq: Some(seq), data: Some(serde_json::to_string(&snapshot).unwrap()), ..room(room_id) }
}

fn page(msg_ids: &[&str], more: bool) -> Body {
    let messages = msg_ids.iter().map(|msg_id| in_inbox(msg_id)).collect();
    Body { data: Some(serde_json::to_string(&SyncPage { messages, more, gap: false }).unwrap()), ..Body::default() }
}

fn refusal(reason: Reason) -> Body {
    Body::refusal(reason)
}
