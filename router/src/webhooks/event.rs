//! What is told: the kinds of events, and the body of each.
//!
//! - A body is made once, where the event is, and kept as it is: every try sends the same bytes under the same id.
//! - Ids name what happened, so what is told once more has the id that it had: `gift-7-42` is the 42nd gift of room 7, whoever tells it.
//!
//! No secret, no phone and no text of a chat stands in a body.

use crate::services::ports::{
    RoomRecord,
    money::{NewGift, PaidGift, PkSide},
};
use billfish_state::{AppId, PkBar, PkWinner, RoomId, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, ToSchema)]
pub(crate) enum EventKind {
    /// An anchor has opened a room.
    #[serde(rename = "room.opened")]
    RoomOpened,
    /// A room has closed.
    #[serde(rename = "room.closed")]
    RoomClosed,
    /// A user's first session has begun.
    #[serde(rename = "user.online")]
    UserOnline,
    /// A user's last session has ended.
    #[serde(rename = "user.offline")]
    UserOffline,
    /// A gift was paid.
    #[serde(rename = "gift.paid")]
    GiftPaid,
    /// The challenger of a PK has left, or its room has closed.
    #[serde(rename = "pk.ended")]
    PkEnded,
}

impl EventKind {
    /// Every kind.
    pub(crate) const ALL: [Self; 6] =
        [Self::RoomOpened, Self::RoomClosed, Self::UserOnline, Self::UserOffline, Self::GiftPaid, Self::PkEnded];

    /// Its name to receivers.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RoomOpened => "room.opened",
            Self::RoomClosed => "room.closed",
            Self::UserOnline => "user.online",
            Self::UserOffline => "user.offline",
            Self::GiftPaid => "gift.paid",
            Self::PkEnded => "pk.ended",
        }
    }

    /// Its bit in the records.
    pub(crate) const fn bit(self) -> i64 {
        1 << self as i64
    }

    /// The kind of a bit.
    pub(crate) fn from_bit(bit: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.bit() == bit)
    }
}

/// Some kinds of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventKinds(i64);

impl EventKinds {
    pub(crate) fn of(kinds: impl IntoIterator<Item = EventKind>) -> Self {
        Self(kinds.into_iter().fold(0, |bits, kind| bits | kind.bit()))
    }

    /// Those of a row; bits that a later version has written are kept and mean nothing here.
    pub(crate) const fn from_bits(bits: i64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> i64 {
        self.0
    }

    pub(crate) const fn has(self, kind: EventKind) -> bool {
        self.0 & kind.bit() != 0
    }

    pub(crate) fn each(self) -> impl Iterator<Item = EventKind> {
        EventKind::ALL.into_iter().filter(move |kind| self.has(*kind))
    }
}

/// Whose events keep their order: a room, or a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Lane(pub(crate) i64);

impl Lane {
    const fn of_room(room: RoomId) -> Self {
        Self(room.0)
    }

    /// Users' ids are below 2^53, and so is every room's.
    const fn of_user(user: UserId) -> Self {
        Self(-user.0)
    }
}

/// Something that has happened, to be told to every hook that wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewEvent {
    pub(crate) app: AppId,
    pub(crate) lane: Lane,
    pub(crate) kind: EventKind,
    pub(crate) id: String,
    /// JSON, as it is sent.
    pub(crate) body: String,
    pub(crate) at_ms: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a, T> {
    id: &'a str,
    event: &'static str,
    app_id: i32,
    /// Unix ms.
    time: u64,
    data: T,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RoomData<'a> {
    room_id: i64,
    anchor_id: i64,
    /// 1 normal, 2 PK.
    #[serde(rename = "type")]
    kind: i64,
    room_name: &'a str,
    cover_img: &'a str,
    start_time: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GiftData<'a> {
    room_id: i64,
    /// Its place among the gifts of the room.
    gift_seq: i64,
    sender_id: i64,
    receiver_id: i64,
    gift_id: i64,
    num: i64,
    /// Coins for one.
    price: i64,
    /// 0 normal, 1 PK.
    #[serde(rename = "type")]
    kind: i64,
    /// Which side of the PK it was for.
    #[serde(skip_serializing_if = "Option::is_none")]
    side: Option<&'static str>,
    combo_id: &'a str,
    uuid: &'a str,
    paid_time: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PkData {
    room_id: i64,
    anchor_id: i64,
    challenger_id: i64,
    start_time: u64,
    end_time: u64,
    /// 0: the challenger's end, 100: the anchor's.
    bar: i32,
    /// Who has reached his end first; none where nobody has.
    winner_id: Option<i64>,
    /// Beans that were given to each by PK gifts.
    anchor_beans: i64,
    challenger_beans: i64,
    room_closed: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserData {
    user_id: i64,
}

/// The name of the kind of event that a body is about.
pub(crate) fn name_in(body: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        event: String,
    }
    serde_json::from_str::<Named>(body).ok().map(|named| named.event)
}

/// How a PK has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndedPk {
    pub(crate) app: AppId,
    pub(crate) room: RoomId,
    pub(crate) anchor: UserId,
    pub(crate) bar: PkBar,
    pub(crate) anchor_beans: i64,
    pub(crate) challenger_beans: i64,
    pub(crate) started_ms: u64,
    pub(crate) ended_ms: u64,
    /// With the room.
    pub(crate) by_closing: bool,
}

impl NewEvent {
    fn new(app: AppId, lane: Lane, kind: EventKind, id: String, at_ms: u64, data: impl Serialize) -> Self {
        let envelope = Envelope { id: &id, event: kind.name(), app_id: app.0, time: at_ms, data };
        let body = serde_json::to_string(&envelope).expect("structs of numbers and texts are JSON");
        Self { app, lane, kind, id, body, at_ms }
    }

    pub(crate) fn room_opened(record: &RoomRecord) -> Self {
        let id = format!("room-{}-opened", record.room);
        let kind = EventKind::RoomOpened;
        Self::new(record.app, Lane::of_room(record.room), kind, id, record.started_ms, room_data(record, None))
    }

    pub(crate) fn room_closed(record: &RoomRecord, now_ms: u64) -> Self {
        let id = format!("room-{}-closed", record.room);
        Self::new(record.app, Lane::of_room(record.room), EventKind::RoomClosed, id, now_ms, room_data(record, Some(now_ms)))
    }

    pub(crate) fn gift_paid(PaidGift { what, gift_seq, paid_ms }: &PaidGift) -> Self {
        let NewGift { app, sender, uuid, room, receiver, gift, num, price, pk, combo, epoch: _ } = what;
        let side = pk.map(|side| match side {
            PkSide::Anchor => "anchor",
            PkSide::Challenger => "challenger",
        });
        let data = GiftData {
            room_id: room.0,
            gift_seq: *gift_seq,
            sender_id: sender.0,
            receiver_id: receiver.0,
            gift_id: gift.0,
            num: *num,
            price: *price,
            kind: i64::from(pk.is_some()),
            side,
            combo_id: combo,
            uuid,
            paid_time: *paid_ms,
        };
        Self::new(*app, Lane::of_room(*room), EventKind::GiftPaid, format!("gift-{room}-{gift_seq}"), *paid_ms, data)
    }

    pub(crate) fn pk_ended(ended: &EndedPk) -> Self {
        let EndedPk { app, room, anchor, bar, anchor_beans, challenger_beans, started_ms, ended_ms, by_closing } = *ended;
        let winner = bar.winner.map(|winner| match winner {
            PkWinner::Anchor => anchor,
            PkWinner::Challenger => bar.challenger,
        });
        let data = PkData {
            room_id: room.0,
            anchor_id: anchor.0,
            challenger_id: bar.challenger.0,
            start_time: started_ms,
            end_time: ended_ms,
            bar: bar.value,
            winner_id: winner.map(|winner| winner.0),
            anchor_beans,
            challenger_beans,
            room_closed: by_closing,
        };
        // A user challenges in a room once in three seconds.
        let id = format!("pk-{room}-{}-{started_ms}", bar.challenger);
        Self::new(app, Lane::of_room(room), EventKind::PkEnded, id, ended_ms, data)
    }

    /// A user has come, or gone. `number` is another one for each of a millisecond.
    pub(crate) fn user(app: AppId, user: UserId, is_online: bool, at_ms: u64, number: u64) -> Self {
        let kind = if is_online { EventKind::UserOnline } else { EventKind::UserOffline };
        let word = if is_online { "online" } else { "offline" };
        let id = format!("user-{app}-{user}-{word}-{at_ms}-{number}");
        Self::new(app, Lane::of_user(user), kind, id, at_ms, UserData { user_id: user.0 })
    }
}

fn room_data(record: &RoomRecord, end_time: Option<u64>) -> RoomData<'_> {
    RoomData {
        room_id: record.room.0,
        anchor_id: record.anchor.0,
        kind: record.kind.number(),
        room_name: &record.name,
        cover_img: &record.cover,
        start_time: record.started_ms,
        end_time,
    }
}

#[cfg(test)]
mod tests {
    use super::{EndedPk, EventKind, EventKinds, NewEvent};
    use crate::services::ports::{
        RoomKind, RoomRecord,
        money::{GiftId, NewGift, PaidGift, PkSide},
    };
    use billfish_state::{AppId, PkBar, RoomId, UserId};
    use serde_json::{Value, json};

    const APP: AppId = AppId(10_001);
    const LARGEST: i64 = (1 << 53) - 1;
    /// As wide as the column.
    const EVENT_ID_BYTES_MAX: usize = 96;

    fn room(id: i64) -> RoomRecord {
        let (name, cover) = ("Ann \"sings\"".to_owned(), "c.png".to_owned());
        RoomRecord { room: RoomId(id), app: APP, anchor: UserId(30_001), kind: RoomKind::Pk, name, cover, started_ms: 1_000 }
    }

    fn gift(room: i64, gift_seq: i64) -> PaidGift {
        let what = NewGift {
            app: APP,
            sender: UserId(20_001),
            uuid: "u-1".to_owned(),
            room: RoomId(room),
            epoch: 3,
            receiver: UserId(30_001),
            gift: GiftId(5),
            num: 2,
            price: 200,
            pk: Some(PkSide::Anchor),
            combo: String::new(),
        };
        PaidGift { what, gift_seq, paid_ms: 2_000 }
    }

    fn pk() -> EndedPk {
        EndedPk {
            app: APP,
            room: RoomId(7),
            anchor: UserId(30_001),
            bar: PkBar::begin(UserId(20_009), 0).after(1, 60),
            anchor_beans: 600,
            challenger_beans: 0,
            started_ms: 1_500,
            ended_ms: 3_000,
            by_closing: false,
        }
    }

    fn body(event: &NewEvent) -> Value {
        serde_json::from_str(&event.body).unwrap()
    }

    #[test]
    fn kinds_have_one_name_and_one_bit_each() {
        for kind in EventKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(EventKind::from_bit(kind.bit()), Some(kind));
            assert!(EventKinds::of([kind]).each().eq([kind]));
        }
        assert!(EventKinds::of(EventKind::ALL).each().eq(EventKind::ALL));
        // The comment beside the column.
        assert_eq!(EventKind::ALL.map(EventKind::bit), [1, 2, 4, 8, 16, 32]);
        assert_eq!(EventKinds::from_bits(64 + 1).each().count(), 1, "one that a later version has written means nothing");
    }

    #[test]
    fn a_body_says_what_happened_and_an_id_names_it() {
        let opened = NewEvent::room_opened(&room(7));
        let data = json!({"roomId": 7, "anchorId": 30001, "type": 2, "roomName": "Ann \"sings\"", "coverImg": "c.png", "startTime": 1000});
        assert_eq!(body(&opened), json!({"id": "room-7-opened", "event": "room.opened", "appId": 10001, "time": 1000, "data": data}));
        let closed = NewEvent::room_closed(&room(7), 9_000);
        assert_eq!((body(&closed)["id"].clone(), body(&closed)["data"]["endTime"].clone()), (json!("room-7-closed"), json!(9000)));
        let paid = NewEvent::gift_paid(&gift(7, 42));
        let data = json!({
            "roomId": 7, "giftSeq": 42, "senderId": 20001, "receiverId": 30001, "giftId": 5, "num": 2, "price": 200, "type": 1,
            "side": "anchor", "comboId": "", "uuid": "u-1", "paidTime": 2000
        });
        assert_eq!(body(&paid), json!({"id": "gift-7-42", "event": "gift.paid", "appId": 10001, "time": 2000, "data": data}));
        let ended = NewEvent::pk_ended(&pk());
        let data = json!({
            "roomId": 7, "anchorId": 30001, "challengerId": 20009, "startTime": 1500, "endTime": 3000, "bar": 100, "winnerId": 30001,
            "anchorBeans": 600, "challengerBeans": 0, "roomClosed": false
        });
        assert_eq!(body(&ended), json!({"id": "pk-7-20009-1500", "event": "pk.ended", "appId": 10001, "time": 3000, "data": data}));
        let came = NewEvent::user(APP, UserId(20_001), true, 5_000, 1);
        assert_eq!((came.kind, came.lane.0, body(&came)["data"].clone()), (EventKind::UserOnline, -20_001, json!({"userId": 20001})));
    }

    #[test]
    fn the_longest_id_fits() {
        let user = NewEvent::user(AppId(i32::MAX), UserId(LARGEST), false, u64::MAX, u64::MAX);
        let gift = NewEvent::gift_paid(&gift(LARGEST, i64::MAX));
        let bar = PkBar::begin(UserId(LARGEST), 0);
        let pk = NewEvent::pk_ended(&EndedPk { room: RoomId(LARGEST), bar, started_ms: u64::MAX, ..pk() });
        for event in [user, gift, pk, NewEvent::room_opened(&room(LARGEST))] {
            assert!(event.id.len() <= EVENT_ID_BYTES_MAX, "{}", event.id);
        }
    }
}
