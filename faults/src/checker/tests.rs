//! The checker can fail: for each rule a journal that keeps it, and the same one with one deliberate breach.

use super::{Breach, Findings, OVERLAP_MS_MAX, check};
use crate::journal::{Entry, What};

const ROOM: i64 = 7;
const EPOCH: i64 = 1 << 32;

/// A journal under construction; every line is 10 ms after the last.
#[derive(Default)]
struct Story(Vec<Entry>);

impl Story {
    /// Clients 1, 2 and 3 (users 101, 102, 103) are in the room.
    fn of_three() -> Self {
        let mut story = Self::default();
        for client in 1..=3 {
            story.connect(client).join(client, false);
        }
        story
    }

    fn now(&self) -> u64 {
        self.0.last().map_or(0, |last| last.at_ms)
    }

    fn put(&mut self, what: What) -> &mut Self {
        let at_ms = self.0.last().map_or(0, |last| last.at_ms + 10);
        self.0.push(Entry { at_ms, what });
        self
    }

    fn wait(&mut self, ms: u64) -> &mut Self {
        let at_ms = self.now() + ms;
        self.0.push(Entry { at_ms, what: What::PushFailed { id: 0, room: 0, problem: "only time passes".to_owned() } });
        self
    }

    fn connect(&mut self, client: u32) -> &mut Self {
        self.login(client, 100 + i64::from(client))
    }

    fn login(&mut self, client: u32, user: i64) -> &mut Self {
        self.put(What::Connected { client, user, node: "gateway-1".to_owned() })
    }

    fn disconnect(&mut self, client: u32) -> &mut Self {
        self.put(What::Disconnected { client, cause: "killed".to_owned() })
    }

    fn join(&mut self, client: u32, gap: bool) -> &mut Self {
        self.put(What::Joined { client, room: ROOM, gap })
    }

    fn say(&mut self, id: u64) -> &mut Self {
        let began_ms = self.now();
        self.put(What::SentRoom { client: 1, id, room: ROOM, msg: format!("m{id}"), began_ms })
    }

    fn ack(&mut self, id: u64) -> &mut Self {
        self.put(What::Acked { client: 1, msg: format!("m{id}"), seq: Some(EPOCH + id.cast_signed()) })
    }

    fn see(&mut self, client: u32, id: u64) -> &mut Self {
        self.put(What::Seen { client, id, room: Some(ROOM), seq: Some(EPOCH + id.cast_signed()) })
    }

    fn tell(&mut self, id: u64, user: i64) -> &mut Self {
        let began_ms = self.now();
        self.put(What::SentUser { client: 1, id, user, msg: format!("m{id}"), began_ms }).put(What::Acked {
            client: 1,
            msg: format!("m{id}"),
            seq: None,
        })
    }

    fn hear(&mut self, client: u32, id: u64) -> &mut Self {
        self.put(What::Seen { client, id, room: None, seq: None })
    }

    fn said_and_seen(&mut self, id: u64) -> &mut Self {
        self.say(id).ack(id).see(2, id).see(3, id)
    }

    fn fault(&mut self, is_store_away: bool) -> &mut Self {
        self.put(What::FaultBegan { repeat: 1, detail: "kill".to_owned(), is_store_away, victim: None })
    }

    fn healed(&mut self) -> &mut Self {
        self.put(What::FaultEnded { repeat: 1 })
    }

    fn findings(&self) -> Findings {
        check(&self.0)
    }
}

#[track_caller]
fn only(story: &Story, breach: Breach, count: u64) {
    let findings = story.findings();
    assert_eq!(findings.breaches.into_iter().collect::<Vec<_>>(), [(breach, count)], "{:?}", findings.told);
}

#[track_caller]
fn clean(story: &Story) -> Findings {
    let findings = story.findings();
    assert!(findings.is_clean(), "{:?}", findings.told);
    findings
}

#[test]
fn a_run_without_breach_is_clean_and_counted() {
    let mut story = Story::of_three();
    story.said_and_seen(1).said_and_seen(2).tell(3, 102).hear(2, 3);
    story.put(What::Pushed { id: 4, room: ROOM, began_ms: 1_000, seq: Some(EPOCH + 4) }).see(1, 4).see(2, 4).see(3, 4);
    story.fault(false).disconnect(2).healed().connect(2).join(2, false).put(What::Recovered { repeat: 1 });
    let findings = clean(&story);
    assert_eq!((findings.faults, findings.acked_room, findings.acked_user, findings.pushed, findings.reconnects), (1, 2, 1, 1, 1));
    assert_eq!(findings.seen, 8);
}

#[test]
fn an_acknowledged_room_message_that_one_member_misses_is_lost() {
    let mut story = Story::of_three();
    story.say(1).ack(1).see(2, 1).said_and_seen(2);
    only(&story, Breach::Lost, 1);
}

#[test]
fn a_message_that_nobody_sees_is_lost_to_each() {
    let mut story = Story::of_three();
    story.say(1).ack(1);
    only(&story, Breach::Lost, 2);
}

#[test]
fn a_push_of_the_api_that_one_member_misses_is_lost() {
    let mut story = Story::of_three();
    story.put(What::Pushed { id: 1, room: ROOM, began_ms: 1_000, seq: None }).see(1, 1).see(3, 1);
    only(&story, Breach::Lost, 1);
}

#[test]
fn a_message_missed_over_a_resume_without_a_gap_is_lost() {
    let mut story = Story::of_three();
    story.disconnect(2).say(1).ack(1).see(3, 1).connect(2).join(2, false).said_and_seen(2);
    only(&story, Breach::Lost, 1);
}

#[test]
fn a_gap_excuses_what_lies_in_it_and_nothing_after() {
    let mut story = Story::of_three();
    story.said_and_seen(1).disconnect(2).say(2).ack(2).see(3, 2).connect(2).join(2, true).said_and_seen(3);
    let findings = clean(&story);
    assert_eq!((findings.gaps, findings.excused_gap), (1, 1));
    story.say(4).ack(4).see(3, 4).said_and_seen(5);
    only(&story, Breach::Lost, 1);
}

#[test]
fn a_gap_after_which_nothing_comes_excuses_nothing() {
    let mut story = Story::of_three();
    story.said_and_seen(1).disconnect(2).say(2).ack(2).see(3, 2).connect(2).join(2, true);
    only(&story, Breach::Lost, 1);
}

#[test]
fn who_came_later_or_left_needs_not_see_it() {
    let mut story = Story::of_three();
    story.put(What::Left { client: 2, room: ROOM }).say(1).ack(1).see(3, 1);
    story.connect(4).join(4, false).said_and_seen_by(2, &[3, 4]);
    clean(&story);
}

impl Story {
    fn said_and_seen_by(&mut self, id: u64, clients: &[u32]) -> &mut Self {
        self.say(id).ack(id);
        for &client in clients {
            self.see(client, id);
        }
        self
    }
}

#[test]
fn chat_without_a_log_is_excused_only_while_the_store_is_away_and_only_over_a_resume() {
    let mut story = Story::of_three();
    story.fault(true).disconnect(2).say(1).ack(1).see(3, 1).healed().connect(2).join(2, false).put(What::Recovered { repeat: 1 });
    assert_eq!(clean(&story).excused_away, 1);
    // A push has QoS 1: it is not accepted without a log.
    let mut pushed = Story::of_three();
    pushed.fault(true).disconnect(2).put(What::Pushed { id: 1, room: ROOM, began_ms: 100, seq: None }).see(1, 1).see(3, 1);
    pushed.healed().connect(2).join(2, false).put(What::Recovered { repeat: 1 });
    only(&pushed, Breach::Lost, 1);
    // Who stayed connected sees it.
    let mut stayed = Story::of_three();
    stayed.fault(true).say(1).ack(1).see(3, 1).healed().put(What::Recovered { repeat: 1 });
    only(&stayed, Breach::Lost, 1);
}

#[test]
fn an_acknowledged_message_to_a_user_that_never_comes_is_lost() {
    let mut story = Story::of_three();
    story.tell(1, 102).tell(2, 103).hear(3, 2);
    only(&story, Breach::Lost, 1);
}

#[test]
fn a_message_shown_twice_is_a_duplicate_whether_acknowledged_or_not() {
    let mut story = Story::of_three();
    story.tell(1, 102).hear(2, 1).hear(2, 1);
    only(&story, Breach::Duplicate, 1);
    let mut stored_twice = Story::of_three();
    stored_twice.say(1).put(What::Refused { client: 1, msg: "m1".to_owned(), reason: "away".to_owned() }).see(2, 1);
    stored_twice.put(What::Seen { client: 2, id: 1, room: Some(ROOM), seq: Some(EPOCH + 9) });
    assert_eq!(stored_twice.findings().count(Breach::Duplicate), 1);
}

#[test]
fn a_message_to_a_user_shown_on_two_of_their_clients_is_a_duplicate() {
    let mut story = Story::of_three();
    story.login(9, 102).disconnect(2).tell(1, 102).hear(9, 1).hear(2, 1);
    only(&story, Breach::Duplicate, 1);
}

#[test]
fn a_seq_that_does_not_rise_is_an_order_break() {
    let mut story = Story::of_three();
    story.say(1).ack(1).say(2).ack(2).see(2, 2).see(2, 1).see(3, 1).see(3, 2);
    only(&story, Breach::Order, 1);
}

#[test]
fn one_seq_for_two_messages_is_an_order_break() {
    let mut story = Story::of_three();
    story.said_and_seen(1).say(2).put(What::Acked { client: 1, msg: "m2".to_owned(), seq: None }).see(2, 2);
    story.put(What::Seen { client: 3, id: 2, room: Some(ROOM), seq: Some(EPOCH + 1) });
    assert!(story.findings().count(Breach::Order) > 0);
}

#[test]
fn a_sender_who_was_told_another_seq_is_an_order_break() {
    let mut story = Story::of_three();
    story.say(1).put(What::Acked { client: 1, msg: "m1".to_owned(), seq: Some(EPOCH + 5) }).see(2, 1).see(3, 1);
    only(&story, Breach::Order, 2);
}

#[test]
fn a_message_of_a_room_one_is_not_in_is_foreign() {
    let mut story = Story::of_three();
    story.connect(4).said_and_seen(1).see(4, 1);
    only(&story, Breach::Foreign, 1);
    let mut left = Story::of_three();
    left.put(What::Left { client: 3, room: ROOM }).said_and_seen(1);
    only(&left, Breach::Foreign, 1);
}

#[test]
fn a_message_to_another_user_is_foreign() {
    let mut story = Story::of_three();
    story.tell(1, 102).hear(2, 1).hear(3, 1);
    assert_eq!(story.findings().count(Breach::Foreign), 1);
}

#[test]
fn an_older_connection_that_stays_is_an_overlap() {
    let mut story = Story::of_three();
    story.login(9, 102).wait(OVERLAP_MS_MAX - 100).put(What::Closed { client: 2, reason: "kicked".to_owned() });
    clean(&story);
    let mut stays = Story::of_three();
    stays.login(9, 102).wait(OVERLAP_MS_MAX + 100);
    only(&stays, Breach::Overlap, 1);
}

#[test]
fn a_fault_gives_an_older_connection_time_until_its_end_and_not_longer() {
    let mut story = Story::of_three();
    story.fault(false).login(9, 102).wait(60_000).healed().put(What::Closed { client: 2, reason: "kicked".to_owned() });
    story.put(What::Recovered { repeat: 1 });
    clean(&story);
    let mut stays = Story::of_three();
    stays.fault(false).login(9, 102).wait(60_000).healed().put(What::Recovered { repeat: 1 }).wait(OVERLAP_MS_MAX + 100);
    only(&stays, Breach::Overlap, 1);
}

#[test]
fn a_member_who_is_told_that_his_room_is_not_his_is_put_out_and_others_who_are_refused_are_not() {
    let refused = |reason: &str| What::Refused { client: 1, msg: "m1".to_owned(), reason: reason.to_owned() };
    let mut story = Story::of_three();
    story.say(1).put(refused("room_not_found"));
    only(&story, Breach::PutOut, 1);
    let mut away = Story::of_three();
    away.say(1).put(refused("unavailable"));
    clean(&away);
    let mut left = Story::of_three();
    left.put(What::Left { client: 1, room: ROOM }).say(1).put(refused("room_not_found"));
    clean(&left);
}

#[test]
fn a_message_that_is_neither_accepted_nor_refused_is_unanswered() {
    let mut story = Story::of_three();
    story.say(1).see(2, 1).see(3, 1);
    only(&story, Breach::Unanswered, 1);
}

#[test]
fn a_cluster_that_does_not_come_back_is_told() {
    let mut story = Story::of_three();
    story.fault(false).healed();
    only(&story, Breach::NotRecovered, 1);
}

#[test]
fn gaps_are_measured_between_what_is_shown_while_there_is_traffic() {
    let mut story = Story::of_three();
    story.said_and_seen(1).wait(500).said_and_seen(2).wait(5_000);
    let findings = clean(&story);
    assert!((500..700).contains(&findings.longest_room_gap_ms), "{}", findings.longest_room_gap_ms);
    assert!((500..700).contains(&findings.longest_client_gap_ms), "{}", findings.longest_client_gap_ms);
}

#[test]
fn an_answer_that_is_written_before_its_message_counts() {
    let mut story = Story::of_three();
    story.ack(1).say(1).see(2, 1).see(3, 1);
    assert_eq!(clean(&story).acked_room, 1);
}

/// Client 1 gives two gifts of one coin: both are paid, and shown to all three.
struct Gifts {
    story: Story,
    paid: Vec<(i64, i64, &'static str)>,
    purse: (i64, i64),
    books: (i64, i64, i64),
}

impl Gifts {
    fn given() -> Self {
        let mut story = Story::of_three();
        for (place, uuid) in [(1, "a"), (2, "b")] {
            let began_ms = story.now();
            story.put(What::SentGift { client: 1, room: ROOM, uuid: uuid.to_owned(), began_ms });
            story.put(What::Acked { client: 1, msg: uuid.to_owned(), seq: None });
            for client in 1..=3 {
                story.put(What::SeenGifts { client, room: ROOM, places: vec![place] });
            }
        }
        Self { story, paid: vec![(1, 101, "a"), (2, 101, "b")], purse: (10, 8), books: (0, 0, 4) }
    }

    fn check(mut self) -> Findings {
        for (place, user, uuid) in self.paid {
            self.story.put(What::Paid { room: ROOM, place, user, uuid: uuid.to_owned(), coins: 1 });
        }
        self.story.put(What::Purse { user: 101, had: self.purse.0, has: self.purse.1 });
        self.story.put(What::Books { sum: self.books.0, lowest: self.books.1, entries: self.books.2 });
        check(&self.story.0)
    }
}

#[test]
fn gifts_that_are_paid_once_and_shown_to_all_are_clean() {
    let findings = Gifts::given().check();
    assert!(findings.is_clean(), "{:?}", findings.told);
    assert_eq!((findings.acked_gifts, findings.paid_gifts), (2, 2));
}

#[test]
fn a_gift_that_was_refused_may_be_paid_or_not() {
    let mut gifts = Gifts::given();
    gifts.story.put(What::SentGift { client: 1, room: ROOM, uuid: "c".to_owned(), began_ms: 0 });
    gifts.story.put(What::Refused { client: 1, msg: "c".to_owned(), reason: "unavailable".to_owned() });
    assert!(gifts.check().is_clean());
    let mut gifts = Gifts::given();
    gifts.story.put(What::SentGift { client: 1, room: ROOM, uuid: "c".to_owned(), began_ms: 0 });
    gifts.story.put(What::Refused { client: 1, msg: "c".to_owned(), reason: "unavailable".to_owned() });
    gifts.paid.push((3, 101, "c"));
    (gifts.purse, gifts.books) = ((10, 7), (0, 0, 6));
    for client in 1..=3 {
        gifts.story.put(What::SeenGifts { client, room: ROOM, places: vec![3] });
    }
    assert!(gifts.check().is_clean());
}

/// Each breach of the rules of money is told.
#[test]
fn money_that_is_not_where_it_must_be_is_told() {
    type Break = (&'static str, fn(&mut Gifts));
    let breaks: [Break; 9] = [
        ("an acknowledged gift is not paid", |gifts| {
            gifts.story.put(What::SentGift { client: 1, room: ROOM, uuid: "c".to_owned(), began_ms: 0 });
            gifts.story.put(What::Acked { client: 1, msg: "c".to_owned(), seq: None });
        }),
        ("one is paid twice", |gifts| gifts.paid[1].2 = "a"),
        ("one was given by nobody", |gifts| gifts.paid[1] = (2, 101, "x")),
        ("a place is missing", |gifts| gifts.paid[1].0 = 3),
        ("a giver has paid more", |gifts| gifts.purse.1 = 7),
        ("coins came from nowhere", |gifts| gifts.books.0 = 1),
        ("somebody is below nothing", |gifts| gifts.books.1 = -1),
        ("a debit has no credit", |gifts| gifts.books.2 = 3),
        ("what was shown is not paid", |gifts| {
            gifts.story.put(What::SeenGifts { client: 2, room: ROOM, places: vec![9] });
        }),
    ];
    for (what, break_it) in breaks {
        let mut gifts = Gifts::given();
        break_it(&mut gifts);
        assert!(gifts.check().count(Breach::Money) > 0, "{what}");
    }
}

#[test]
fn a_gift_without_an_answer_or_shown_twice_or_not_at_all_is_told() {
    let mut gifts = Gifts::given();
    gifts.story.put(What::SentGift { client: 1, room: ROOM, uuid: "c".to_owned(), began_ms: 0 });
    assert_eq!(gifts.check().count(Breach::Unanswered), 1);
    let mut gifts = Gifts::given();
    gifts.story.put(What::SeenGifts { client: 2, room: ROOM, places: vec![2] });
    assert_eq!(gifts.check().count(Breach::Duplicate), 1);
    let mut gifts = Gifts::given();
    gifts.story.0.retain(|entry| !matches!(entry.what, What::SeenGifts { client: 3, .. }));
    assert_eq!(gifts.check().count(Breach::Lost), 2);
}

#[test]
fn gifts_in_a_journal_without_a_look_into_the_ledger_prove_nothing() {
    assert_eq!(check(&Gifts::given().story.0).count(Breach::Money), 1);
}
