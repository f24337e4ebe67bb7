//! The rules of giving, with the session machine that carries it.

use super::{AGAIN_FOR_MS, ALONE_AFTER_MS, GIFTS_MAX, Giving, REFUSED_MAX, Refused, SPREAD_MAX_MS};
use crate::{
    event::Event,
    gift::{Failure, Gift},
};
use billfish_session::{
    Time,
    client::{CallError, ClientAction, ClientConfig, ClientEvent, ClientSession, Message, Order},
};
use billfish_wire::{Body, Code, Encoding, Frame, Reason};

const ROOM: i64 = 7;

/// A giver who is logged in; what the driver does between the two is done here.
struct Giver {
    giving: Giving,
    session: ClientSession,
    now: Time,
    told: Vec<Event>,
}

impl Giver {
    fn live() -> Self {
        let config = ClientConfig { inbox: false, ..ClientConfig::new(10_001, 20_001) };
        let mut giver = Self { giving: Giving::new(Some(1)), session: ClientSession::new(config), now: Time(0), told: Vec::new() };
        giver.connect();
        giver
    }

    fn connect(&mut self) {
        self.session.on_connected(self.now, "t", Order::Total);
        self.receive(Code::Login, &Body { heartbeat_secs: Some(3_600), ..Body::yes() });
    }

    fn give(&mut self, uuid: &str) -> Result<(), CallError> {
        self.giving.give(&mut self.session, message(uuid))
    }

    fn receive(&mut self, code: Code, body: &Body) {
        let bytes = body.to_vec(Encoding::Json);
        self.session.on_frame(self.now, Frame { encoding: Encoding::Json, code: code.number(), body: &bytes });
    }

    fn refuse(&mut self, uuid: &str, reason: Reason, retry_after_ms: Option<i64>) {
        self.receive(Code::Error, &Body { msg_id: Some(uuid.to_owned()), retry_after_ms, ..Body::refusal(reason) });
    }

    fn fail(&mut self, uuid: &str, reason: Reason) {
        let failure = Failure { uuid: Some(uuid.to_owned()), reason, msg: String::new() };
        self.told.extend(self.giving.on_failure(self.now, failure));
    }

    fn tick(&mut self, ms: u64) {
        self.now = Time(ms);
        self.session.on_tick(self.now);
        self.told.extend(self.giving.on_tick(self.now, &mut self.session));
        assert!(self.giving.next_deadline() > self.now, "a deadline that has come is done with");
    }

    /// To the time when something is done next.
    fn tick_on(&mut self) {
        let Time(ms) = self.giving.next_deadline();
        self.tick(ms);
    }

    /// The ids of the frames that went out, and the reasons that the app heard.
    fn drain(&mut self) -> (Vec<String>, Vec<Reason>) {
        let mut sent = Vec::new();
        while let Some(action) = self.session.next_action() {
            match action {
                ClientAction::Send { code: Code::Biz, body } => sent.push(body.msg_id.unwrap_or_default()),
                ClientAction::Tell(ClientEvent::Refused { msg_id, reason, retry_after_ms, .. }) => {
                    let uuid = msg_id.expect("of a gift");
                    if self.giving.on_refused(self.now, &uuid, reason, retry_after_ms) == Refused::Told {
                        let retry_after = retry_after_ms.map(std::time::Duration::from_millis);
                        self.told.push(Event::Refused { msg_id: Some(uuid), room_id: None, reason, msg: String::new(), retry_after });
                    }
                }
                ClientAction::Tell(ClientEvent::Accepted { msg_id, .. }) => self.giving.on_accepted(&msg_id),
                ClientAction::Tell(ClientEvent::Closed { .. } | ClientEvent::LoggedIn { .. }) => self.giving.on_connection_over(),
                ClientAction::Send { .. }
                | ClientAction::Tell(_)
                | ClientAction::Close
                | ClientAction::SendNext { .. }
                | ClientAction::Switch
                | ClientAction::CloseNext { .. }
                | ClientAction::CloseFormer => {}
            }
        }
        let reason = |event: Event| {
            let Event::Refused { reason, .. } = event else { panic!("only refusals come from here: {event:?}") };
            reason
        };
        (sent, self.told.drain(..).map(reason).collect())
    }
}

fn message(uuid: &str) -> Message {
    Gift::new(1, 90_001).message(ROOM, uuid.to_owned()).unwrap()
}

fn nothing() -> (Vec<String>, Vec<Reason>) {
    (Vec::new(), Vec::new())
}

fn sent(uuid: &str) -> (Vec<String>, Vec<Reason>) {
    (vec![uuid.to_owned()], Vec::new())
}

fn told(reason: Reason) -> (Vec<String>, Vec<Reason>) {
    (Vec::new(), vec![reason])
}

#[test]
fn a_gift_that_is_put_off_is_given_again_under_its_id_and_not_before_its_time() {
    for reason in [Reason::Unavailable, Reason::RateLimited] {
        let mut giver = Giver::live();
        giver.give("u").unwrap();
        assert_eq!(giver.drain(), sent("u"));
        giver.refuse("u", reason, Some(700));
        assert_eq!(giver.drain(), nothing(), "the app need not know");
        giver.tick(699);
        assert_eq!(giver.drain(), nothing());
        giver.tick_on();
        assert!(giver.now >= Time(700));
        assert_eq!(giver.drain(), sent("u"));
        giver.receive(Code::Ack, &Body { msg_id: Some("u".to_owned()), ..Body::default() });
        assert_eq!(giver.drain(), nothing());
        assert_eq!(giver.giving.next_deadline(), Time::NEVER, "paid");
    }
}

#[test]
fn a_gift_is_not_put_off_for_longer_than_it_says_and_then_told_with_its_time() {
    let mut giver = Giver::live();
    giver.give("u").unwrap();
    let (mut tries, mut last) = (0, Time(0));
    loop {
        let (frames, reasons) = giver.drain();
        assert_eq!(frames.len(), usize::from(reasons.is_empty()));
        if !reasons.is_empty() {
            assert_eq!(reasons, [Reason::Unavailable]);
            break;
        }
        tries += 1;
        last = giver.now;
        giver.refuse("u", Reason::Unavailable, Some(500));
        let (_, reasons) = giver.drain();
        if !reasons.is_empty() {
            assert_eq!(reasons, [Reason::Unavailable]);
            break;
        }
        giver.tick_on();
    }
    assert!(last.0 <= AGAIN_FOR_MS && last.0 + 500 + SPREAD_MAX_MS > AGAIN_FOR_MS, "{last:?}");
    assert!(tries > 5, "{tries}");
    assert_eq!(giver.giving.next_deadline(), Time::NEVER);
    assert_eq!(giver.give("u"), Ok(()), "the app may go on");
}

#[test]
fn the_pauses_of_two_givers_differ() {
    let pause = |seed| {
        let mut giver = Giver::live();
        giver.giving = Giving::new(Some(seed));
        giver.give("u").unwrap();
        giver.refuse("u", Reason::Unavailable, Some(500));
        giver.drain();
        giver.giving.next_deadline()
    };
    let pauses: std::collections::BTreeSet<Time> = (0..20).map(pause).collect();
    assert!(pauses.len() > 10 && pauses.iter().all(|pause| (500..=750).contains(&pause.0)), "{pauses:?}");
}

#[test]
fn every_other_refusal_is_final_and_told_once_whichever_of_its_two_words_comes_first() {
    for reason in [Reason::NotCovered, Reason::UnknownGift, Reason::UuidReused, Reason::NotAReceiver, Reason::PriceChanged, Reason::Muted] {
        let mut giver = Giver::live();
        giver.give("u").unwrap();
        giver.drain();
        giver.fail("u", reason);
        assert_eq!(giver.drain(), nothing(), "the answer to the frame is on its way");
        giver.refuse("u", reason, None);
        assert_eq!(giver.drain(), told(reason));
        giver.tick(2 * ALONE_AFTER_MS);
        assert_eq!(giver.drain(), nothing());

        giver.give("v").unwrap();
        giver.refuse("v", reason, None);
        assert_eq!(giver.drain(), (vec!["v".to_owned()], vec![reason]));
        giver.fail("v", reason);
        giver.fail("v", reason);
        assert_eq!(giver.drain(), nothing());
    }
}

#[test]
fn a_failure_that_comes_alone_is_told_and_the_gift_is_not_sent_again() {
    let mut giver = Giver::live();
    giver.give("u").unwrap();
    giver.drain();
    giver.fail("u", Reason::NotCovered);
    giver.tick(ALONE_AFTER_MS - 1);
    assert_eq!(giver.drain(), nothing());
    giver.tick(ALONE_AFTER_MS);
    assert_eq!(giver.drain(), told(Reason::NotCovered));
    giver.session.on_disconnected(Reason::PeerClosed);
    giver.connect();
    assert_eq!(giver.drain(), nothing(), "the app may have bought coins since");
    giver.refuse("u", Reason::NotCovered, None);
    assert_eq!(giver.drain(), nothing(), "it knows");
}

#[test]
fn a_failure_whose_connection_ends_says_nothing_about_the_copy_on_the_next_one() {
    let mut giver = Giver::live();
    giver.give("u").unwrap();
    giver.fail("u", Reason::NotCovered);
    giver.session.on_disconnected(Reason::PeerClosed);
    assert_eq!(giver.drain(), sent("u"));
    giver.tick(60_000);
    giver.connect();
    assert_eq!(giver.drain(), sent("u"), "sent again under its id, and answered");
    giver.receive(Code::Ack, &Body { msg_id: Some("u".to_owned()), ..Body::default() });
    assert_eq!(giver.drain(), nothing());
}

#[test]
fn a_failure_of_a_gift_that_nobody_waits_for_is_told() {
    let mut giver = Giver::live();
    giver.fail("of the last run", Reason::NotCovered);
    assert_eq!(giver.drain(), told(Reason::NotCovered));
    let event = giver.giving.on_failure(Time(0), Failure { uuid: None, reason: Reason::Muted, msg: "m".to_owned() });
    let expected = Event::Refused { msg_id: None, room_id: None, reason: Reason::Muted, msg: "m".to_owned(), retry_after: None };
    assert_eq!(event, Some(expected), "a server of the first version names no gift");
}

#[test]
fn a_gift_that_the_app_wrote_itself_is_refused_by_the_answer_to_its_frame_alone() {
    let mut giver = Giver::live();
    giver.giving.on_own("own".to_owned());
    giver.session.biz(Message { msg_id: Some("m".to_owned()), ..message("own") }).unwrap();
    giver.fail("own", Reason::NotCovered);
    giver.refuse("m", Reason::NotCovered, None);
    assert_eq!(giver.drain(), (vec!["m".to_owned()], vec![Reason::NotCovered]));
}

#[test]
fn a_gift_waits_for_its_turn_where_other_messages_have_taken_all_places() {
    let mut giver = Giver::live();
    giver.give("u").unwrap();
    giver.refuse("u", Reason::Unavailable, Some(1));
    giver.drain();
    for nth in 0..16 {
        giver.session.biz(Message { msg_id: Some(format!("chat {nth}")), ..Message::default() }).unwrap();
    }
    giver.drain();
    giver.tick_on();
    assert_eq!(giver.drain(), nothing());
    giver.receive(Code::Ack, &Body { msg_id: Some("chat 0".to_owned()), ..Body::default() });
    giver.drain();
    giver.tick_on();
    assert_eq!(giver.drain(), sent("u"));
}

#[test]
fn an_id_is_on_its_way_once_and_no_more_are_than_the_bound() {
    let mut giver = Giver::live();
    giver.give("u").unwrap();
    assert_eq!(giver.give("u"), Err(CallError::IdInUse));
    giver.refuse("u", Reason::Unavailable, Some(1_000));
    giver.drain();
    assert_eq!(giver.give("u"), Err(CallError::IdInUse), "also while it waits");
    for nth in 1..GIFTS_MAX {
        giver.give(&nth.to_string()).unwrap();
    }
    assert_eq!(giver.give("more"), Err(CallError::TooManyCalls));
    for nth in 0..10 * REFUSED_MAX {
        giver.giving.on_own(nth.to_string());
    }
    assert_eq!(giver.giving.by_frame.0.len(), REFUSED_MAX);
}
