//! What routers write to each other in `Order.text` and `Ordered.text`: JSON, between routers of one release and the next.
//!
//! - Fields and variants are only ever added. What is not understood is refused, and nothing is done.
//! - On whose word an order is given is always written out: nothing that is left out makes anyone an administrator.

use super::{RoomAnswer, RoomOrder};
use crate::{
    handle::Operator,
    room::{GiftPaid, Order, RoomPushed},
    services::{
        KEEP_ALL, Outgoing,
        gift::{self, GiftRequest},
        ports::{
            self,
            money::{GiftId, GiftKind},
        },
    },
};
use billfish_state::{AppId, UserId};
use billfish_wire::{BizCode, Class};
use serde::{Deserialize, Serialize};

/// An order on its way. The same order has the same id however often it is asked for.
#[derive(Debug, Serialize, Deserialize)]
struct Text {
    id: String,
    order: Written,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Written {
    Push { app: i32, biz_code: i32, data: String, acknowledged: bool, class: i32, key: Option<String>, once: Option<String> },
    Close { anchor: i64 },
    Sanction { by: By, user: i64, sanction: Kind, for_ms: Option<u64> },
    Lift { by: By, user: i64, sanction: Kind },
    SlowMode { by: By, gap_ms: u64 },
    Words { by: By, words: Vec<String> },
    PkOnline { app: Option<i32>, challenger: i64 },
    PkOffline { app: Option<i32>, challenger: i64 },
    Gift { app: i32, sender: i64, gift: i64, receiver: i64, is_pk: bool, uuid: String, num: i64, price: Option<i64>, combo: String },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum By {
    Admin,
    User(i64),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Mute,
    Ban,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Pushed { seq: i64, gateways: u64 },
    Done,
    Gift { gift_seq: i64, balance: Option<i64> },
}

/// Longest id of an order that is taken; ours are 32.
const ID_BYTES_MAX: usize = 64;

/// Writes an order.
pub(super) fn write(id: &str, order: &RoomOrder) -> String {
    let order = match order.clone() {
        RoomOrder::Push { app, push, once } => Written::Push {
            app: app.0,
            biz_code: push.biz_code.0,
            data: push.data,
            acknowledged: push.acknowledged,
            class: push.class.number(),
            key: push.key,
            once,
        },
        RoomOrder::Order(Order::Close { anchor }) => Written::Close { anchor: anchor.0 },
        RoomOrder::Order(Order::Sanction { by, user, sanction, for_ms }) => {
            Written::Sanction { by: by.into(), user: user.0, sanction: sanction.into(), for_ms }
        }
        RoomOrder::Order(Order::Lift { by, user, sanction }) => Written::Lift { by: by.into(), user: user.0, sanction: sanction.into() },
        RoomOrder::Order(Order::SlowMode { by, gap_ms }) => Written::SlowMode { by: by.into(), gap_ms },
        RoomOrder::Order(Order::Words { by, words }) => Written::Words { by: by.into(), words },
        RoomOrder::Order(Order::PkOnline { app, challenger }) => Written::PkOnline { app: app.map(|app| app.0), challenger: challenger.0 },
        RoomOrder::Order(Order::PkOffline { app, challenger }) => {
            Written::PkOffline { app: app.map(|app| app.0), challenger: challenger.0 }
        }
        RoomOrder::Gift { app, sender, request: GiftRequest { gift, receiver, kind, uuid, num, price, combo } } => Written::Gift {
            app: app.0,
            sender: sender.0,
            gift: gift.0,
            receiver: receiver.0,
            is_pk: kind == GiftKind::Pk,
            uuid,
            num,
            price,
            combo,
        },
    };
    serde_json::to_string(&Text { id: id.to_owned(), order }).expect("structs of texts and numbers are JSON")
}

/// Reads an order and its id; `None` for what is not understood here.
pub(super) fn read(text: &str) -> Option<(String, RoomOrder)> {
    let Text { id, order } = serde_json::from_str(text).ok()?;
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return None;
    }
    let order = match order {
        Written::Push { app, biz_code, data, acknowledged, class, key, once } => {
            let class = Class::from_number(class);
            let push = Outgoing { biz_code: BizCode(biz_code), data, acknowledged, class, key, except: None, keep_permille: KEEP_ALL };
            if once.as_ref().is_some_and(|once| once.is_empty() || once.len() > ID_BYTES_MAX) {
                return None;
            }
            RoomOrder::Push { app: AppId(app), push, once }
        }
        Written::Close { anchor } => RoomOrder::Order(Order::Close { anchor: UserId(anchor) }),
        Written::Sanction { by, user, sanction, for_ms } => {
            RoomOrder::Order(Order::Sanction { by: by.into(), user: UserId(user), sanction: sanction.into(), for_ms })
        }
        Written::Lift { by, user, sanction } => {
            RoomOrder::Order(Order::Lift { by: by.into(), user: UserId(user), sanction: sanction.into() })
        }
        Written::SlowMode { by, gap_ms } => RoomOrder::Order(Order::SlowMode { by: by.into(), gap_ms }),
        Written::Words { by, words } => RoomOrder::Order(Order::Words { by: by.into(), words }),
        Written::PkOnline { app, challenger } => RoomOrder::Order(Order::PkOnline { app: app.map(AppId), challenger: UserId(challenger) }),
        Written::PkOffline { app, challenger } => {
            RoomOrder::Order(Order::PkOffline { app: app.map(AppId), challenger: UserId(challenger) })
        }
        Written::Gift { app, sender, gift, receiver, is_pk, uuid, num, price, combo } => {
            let kind = if is_pk { GiftKind::Pk } else { GiftKind::Normal };
            let request = GiftRequest { gift: GiftId(gift), receiver: UserId(receiver), kind, uuid, num, price, combo };
            gift::check(&request).ok()?;
            RoomOrder::Gift { app: AppId(app), sender: UserId(sender), request }
        }
    };
    Some((id, order))
}

/// Writes an answer.
pub(super) fn write_answer(answer: &RoomAnswer) -> String {
    let answer = match answer {
        RoomAnswer::Pushed(RoomPushed { seq, gateways }) => Answer::Pushed { seq: *seq, gateways: *gateways },
        RoomAnswer::Done => Answer::Done,
        RoomAnswer::Gift(GiftPaid { gift_seq, balance }) => Answer::Gift { gift_seq: *gift_seq, balance: *balance },
    };
    serde_json::to_string(&answer).expect("an enum of numbers is JSON")
}

/// Reads an answer; `None` for what is not understood here.
pub(super) fn read_answer(text: &str) -> Option<RoomAnswer> {
    Some(match serde_json::from_str(text).ok()? {
        Answer::Pushed { seq, gateways } => RoomAnswer::Pushed(RoomPushed { seq, gateways }),
        Answer::Done => RoomAnswer::Done,
        Answer::Gift { gift_seq, balance } => RoomAnswer::Gift(GiftPaid { gift_seq, balance }),
    })
}

impl From<Operator> for By {
    fn from(by: Operator) -> Self {
        match by {
            Operator::Admin => Self::Admin,
            Operator::User(user) => Self::User(user.0),
        }
    }
}

impl From<By> for Operator {
    fn from(by: By) -> Self {
        match by {
            By::Admin => Self::Admin,
            By::User(user) => Self::User(UserId(user)),
        }
    }
}

impl From<ports::Sanction> for Kind {
    fn from(sanction: ports::Sanction) -> Self {
        match sanction {
            ports::Sanction::Mute => Self::Mute,
            ports::Sanction::Ban => Self::Ban,
        }
    }
}

impl From<Kind> for ports::Sanction {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Mute => Self::Mute,
            Kind::Ban => Self::Ban,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{RoomAnswer, RoomOrder, read, read_answer, write, write_answer};
    use crate::{
        handle::Operator,
        room::{Order, RoomPushed},
        services::{KEEP_ALL, Outgoing, ports::Sanction},
    };
    use billfish_state::{AppId, UserId};
    use billfish_wire::{BizCode, Class};
    use proptest::prelude::*;

    fn any_order() -> impl Strategy<Value = RoomOrder> {
        let by = prop_oneof![Just(Operator::Admin), any::<i64>().prop_map(|user| Operator::User(UserId(user)))];
        let sanction = prop_oneof![Just(Sanction::Mute), Just(Sanction::Ban)];
        let push = (
            any::<i32>(),
            any::<i32>(),
            "\\PC{0,64}",
            any::<bool>(),
            0..4i32,
            proptest::option::of("[a-z]{1,8}"),
            proptest::option::of("[0-9a-f]{32}"),
        );
        prop_oneof![
            push.prop_map(|(app, biz_code, data, acknowledged, class, key, once)| {
                let (biz_code, class) = (BizCode(biz_code), Class::from_number(class));
                let push = Outgoing { biz_code, data, acknowledged, class, key, except: None, keep_permille: KEEP_ALL };
                RoomOrder::Push { app: AppId(app), push, once }
            }),
            any::<i64>().prop_map(|anchor| RoomOrder::Order(Order::Close { anchor: UserId(anchor) })),
            (by.clone(), any::<i64>(), sanction.clone(), any::<Option<u64>>()).prop_map(|(by, user, sanction, for_ms)| {
                RoomOrder::Order(Order::Sanction { by, user: UserId(user), sanction, for_ms })
            }),
            (by.clone(), any::<i64>(), sanction).prop_map(|(by, user, sanction)| RoomOrder::Order(Order::Lift {
                by,
                user: UserId(user),
                sanction
            })),
            (by.clone(), any::<u64>()).prop_map(|(by, gap_ms)| RoomOrder::Order(Order::SlowMode { by, gap_ms })),
            (by, proptest::collection::vec("\\PC{0,8}", 0..4)).prop_map(|(by, words)| RoomOrder::Order(Order::Words { by, words })),
        ]
    }

    proptest! {
        #[test]
        fn an_order_is_read_as_it_was_written(order in any_order()) {
            prop_assert_eq!(read(&write("0a", &order)), Some(("0a".to_owned(), order)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}", cut: prop::sample::Index, order in any_order()) {
            read(&text);
            read_answer(&text);
            let written = write("0a", &order);
            let cut = written.char_indices().nth(cut.index(written.chars().count())).map_or(0, |(place, _)| place);
            prop_assert_eq!(read(&written[..cut]), None);
        }
    }

    #[test]
    fn answers_are_read_as_they_were_written() {
        for answer in [RoomAnswer::Done, RoomAnswer::Pushed(RoomPushed { seq: (7 << 32) + 3, gateways: 2 })] {
            assert_eq!(read_answer(&write_answer(&answer)), Some(answer));
        }
    }

    #[test]
    fn nothing_that_is_left_out_makes_an_administrator() {
        let by_user = r#"{"id":"1","order":{"lift":{"by":{"user":20001},"user":20002,"sanction":"ban"}}}"#;
        assert!(read(by_user).is_some());
        assert_eq!(read(&by_user.replace(r#""by":{"user":20001},"#, "")), None);
        assert_eq!(read(&by_user.replace(r#"{"user":20001}"#, "null")), None);
    }

    #[test]
    fn what_a_later_release_adds_is_ignored_or_refused() {
        assert!(read(r#"{"id":"1","urgency":3,"order":{"slow_mode":{"by":"admin","gap_ms":1,"because":"x"}}}"#).is_some());
        assert_eq!(read(r#"{"id":"1","order":{"rename":{"by":"admin","name":"x"}}}"#), None);
        assert_eq!(read(r#"{"id":"","order":{"slow_mode":{"by":"admin","gap_ms":1}}}"#), None);
    }
}
