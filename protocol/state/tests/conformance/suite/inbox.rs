//! [`billfish_state::Inbox`].

use super::*;
use billfish_state::port::{INBOX_AGE_MAX_MS, INBOX_BYTES_MAX, INBOX_EMPTY_KEPT_MS, INBOX_ENTRIES_MAX, INBOX_KEPT_MS};
use billfish_state::{AppendedOnce, Inbox, InboxAppend, InboxEntry, InboxId, MessageClaim, Page, StateError};
use std::collections::BTreeMap;

const USER: UserId = UserId(1);

fn id(ms: u64, n: u64) -> String {
    InboxId { ms: at(ms), n }.to_string()
}

async fn append(inbox: &dyn Inbox, asked: &str, text: &str, now: u64) -> String {
    inbox.append(APP, &[USER], asked, body(text), at(now)).await.unwrap().remove(0)
}

async fn read(inbox: &dyn Inbox, after: Option<&str>, limit: usize, now: u64) -> Page<InboxEntry> {
    inbox.read(APP, USER, after, limit, at(now)).await.unwrap()
}

fn entries(page: &Page<InboxEntry>) -> Vec<(&str, &[u8])> {
    page.entries.iter().map(|entry| (entry.id.as_str(), &entry.body[..])).collect()
}

pub(crate) async fn ids_are_given_as_asked_or_the_next_after_the_newest<S: Store>() {
    let inbox = S::fresh().await.inbox;
    for (asked, given) in [
        (id(5, 0), id(5, 0)),
        (id(9, 3), id(9, 3)),
        (id(7, 0), id(9, 4)),
        (id(0, 0), id(9, 5)),
        (id(9, 9), id(9, 9)),
        (id(10, 0), id(10, 0)),
    ] {
        assert_eq!(append(&*inbox, &asked, &asked, 10).await, given, "{asked}");
    }
    // One call, several inboxes: each has its own order.
    let given = inbox.append(APP, &users([2, 1]), &id(8, 0), body("both"), at(10)).await.unwrap();
    assert_eq!(given, [id(8, 0), id(10, 1)]);
}

pub(crate) async fn ids_are_compared_as_numbers<S: Store>() {
    let inbox = S::fresh().await.inbox;
    for (asked, given) in [("9-9", "9-9"), ("9-10", "9-10"), ("10-2", "10-2"), ("9-11", "10-3"), ("10-12", "10-12")] {
        assert_eq!(append(&*inbox, asked, asked, 0).await, given);
    }
    let ids: Vec<_> = read(&*inbox, Some("9-9"), 9, 0).await.entries.into_iter().map(|entry| entry.id).collect();
    assert_eq!(ids, ["9-10", "10-2", "10-3", "10-12"]);
}

pub(crate) async fn repeating_an_append_adds_nothing<S: Store>() {
    let inbox = S::fresh().await.inbox;
    append(&*inbox, &id(9, 0), "first", 9).await;
    // This one gets another id than asked for; its repeat gets the same.
    let moved = append(&*inbox, &id(5, 0), "moved", 9).await;
    append(&*inbox, &id(12, 0), "later", 12).await;
    assert_eq!(append(&*inbox, &id(5, 0), "moved", 12).await, moved);
    assert_eq!(append(&*inbox, &id(9, 0), "first", 12).await, id(9, 0));
    assert_eq!(read(&*inbox, None, 9, 12).await.entries.len(), 3);
}

pub(crate) async fn the_same_id_with_another_body_is_another_message<S: Store>() {
    let inbox = S::fresh().await.inbox;
    assert_eq!(append(&*inbox, &id(9, 0), "of one router", 9).await, id(9, 0));
    assert_eq!(append(&*inbox, &id(9, 0), "of another", 9).await, id(9, 1));
    let page = read(&*inbox, None, 9, 9).await;
    assert_eq!(entries(&page), [(id(9, 0).as_str(), &b"of one router"[..]), (&id(9, 1), b"of another")]);
}

pub(crate) async fn pages_follow_each_other<S: Store>() {
    let inbox = S::fresh().await.inbox;
    let ids: Vec<String> = (0..10).map(|n| id(n, 0)).collect();
    for asked in &ids {
        append(&*inbox, asked, asked, 10).await;
    }
    let mut after: Option<String> = None;
    let mut read_ids = Vec::new();
    for more in [true, true, true, false] {
        let page = read(&*inbox, after.as_deref(), 3, 10).await;
        assert_eq!((page.more, page.gap), (more, false));
        read_ids.extend(page.entries.into_iter().map(|entry| entry.id));
        after = read_ids.last().cloned();
    }
    assert_eq!(read_ids, ids);
    assert_eq!(read(&*inbox, after.as_deref(), 3, 10).await, Page::default());
    assert_eq!(read(&*inbox, None, 10, 10).await.entries.len(), 10, "reading takes nothing");
    let between = read(&*inbox, Some(&id(3, 7)), 1, 10).await;
    assert_eq!(between.entries[0].id, ids[4], "the cursor need not be an entry");
    assert!(read(&*inbox, None, 0, 10).await.more);
}

pub(crate) async fn acknowledged_entries_are_gone_and_leave_no_gap<S: Store>() {
    let inbox = S::fresh().await.inbox;
    for n in 0..4 {
        append(&*inbox, &id(n, 0), "m", 4).await;
    }
    let acked: Vec<_> = [id(1, 0), id(2, 0), id(99, 0)].map(|id| (APP, USER, id)).to_vec();
    inbox.ack(&acked).await.unwrap();
    inbox.ack(&acked).await.expect("again is no error");
    let page = read(&*inbox, Some(&id(0, 0)), 9, 4).await;
    assert_eq!((entries(&page), page.more, page.gap), (vec![(id(3, 0).as_str(), &b"m"[..])], false, false));
}

pub(crate) async fn ids_rise_though_all_is_acknowledged<S: Store>() {
    let inbox = S::fresh().await.inbox;
    append(&*inbox, &id(9, 0), "m", 9).await;
    inbox.ack(&[(APP, USER, id(9, 0))]).await.unwrap();
    assert_eq!(append(&*inbox, &id(5, 0), "n", 9).await, id(9, 1));
}

pub(crate) async fn the_newest_entries_are_kept_and_a_gap_is_told<S: Store>() {
    let State { inbox, watch, .. } = S::fresh().await;
    let count = INBOX_ENTRIES_MAX as u64;
    for n in 0..count {
        append(&*inbox, &id(n, 0), "m", n).await;
    }
    assert!(!read(&*inbox, Some("0-0"), 1, count).await.gap, "exactly full");
    assert_eq!(watch.inbox_given_way(), 0);
    append(&*inbox, &id(count, 0), "m", count).await;
    let page = read(&*inbox, Some("0-0"), usize::MAX, count).await;
    assert_eq!((page.entries.len(), page.entries[0].id.as_str(), page.gap), (INBOX_ENTRIES_MAX, id(1, 0).as_str(), true));
    assert!(!read(&*inbox, Some(&id(0, 0)), 1, count).await.gap, "this reader has seen what was trimmed");
    assert!(!read(&*inbox, None, 1, count).await.gap, "this one has seen nothing and misses nothing");
    assert_eq!(watch.inbox_given_way(), 1);
    let claim = MessageClaim { app: APP, user: UserId(2), msg_id: "m".to_owned(), until_ms: at(2 * count) };
    for _ in 0..2 {
        inbox.append_once(APP, USER, &id(count + 1, 0), body("m"), &claim, at(count + 1)).await.unwrap();
    }
    assert_eq!(watch.inbox_given_way(), 2, "what is there already drives out nothing");
}

pub(crate) async fn an_inbox_is_bounded_in_bytes<S: Store>() {
    let inbox = S::fresh().await.inbox;
    let half = "x".repeat(INBOX_BYTES_MAX / 2);
    append(&*inbox, &id(1, 0), &half, 1).await;
    append(&*inbox, &id(2, 0), &half, 2).await;
    assert_eq!(read(&*inbox, None, 9, 2).await.entries.len(), 2, "exactly full");
    append(&*inbox, &id(3, 0), "x", 3).await;
    let page = read(&*inbox, Some("0-0"), 9, 3).await;
    let ids: Vec<_> = page.entries.iter().map(|entry| entry.id.clone()).collect();
    assert_eq!((ids, page.gap), (vec![id(2, 0), id(3, 0)], true));
}

pub(crate) async fn what_is_acknowledged_makes_room<S: Store>() {
    let inbox = S::fresh().await.inbox;
    let half = "x".repeat(INBOX_BYTES_MAX / 2);
    for n in 1..=2 {
        append(&*inbox, &id(n, 0), &half, n).await;
    }
    // In the middle and at either end, with some left each time.
    for (acked, next) in [(1, 3), (3, 4), (2, 5)] {
        inbox.ack(&[(APP, USER, id(acked, 0))]).await.unwrap();
        append(&*inbox, &id(next, 0), &half, next).await;
        let page = read(&*inbox, Some("0-0"), 9, next).await;
        assert_eq!((page.entries.len(), page.gap), (2, false), "exactly full again");
    }
}

pub(crate) async fn entries_age<S: Store>() {
    let inbox = S::fresh().await.inbox;
    append(&*inbox, &id(0, 0), "old", 0).await;
    append(&*inbox, &id(DAY, 0), "new", DAY).await;
    assert_eq!(read(&*inbox, Some("0-0"), 9, INBOX_AGE_MAX_MS - 1).await.entries.len(), 2);
    let page = read(&*inbox, Some("0-0"), 9, INBOX_AGE_MAX_MS).await;
    assert_eq!((entries(&page), page.gap), (vec![(id(DAY, 0).as_str(), &b"new"[..])], true));
    let page = read(&*inbox, Some(&id(0, 0)), 9, INBOX_AGE_MAX_MS + DAY).await;
    assert_eq!((page.entries.len(), page.gap), (0, true), "who comes back in the second week is told");
}

pub(crate) async fn a_forgotten_inbox_is_a_new_one<S: Store>() {
    let inbox = S::fresh().await.inbox;
    append(&*inbox, &id(9, 0), "m", 0).await;
    assert!(read(&*inbox, Some("0-0"), 9, INBOX_KEPT_MS - 1).await.gap);
    assert_eq!(read(&*inbox, Some("0-0"), 9, INBOX_KEPT_MS).await, Page::default());
    assert_eq!(append(&*inbox, &id(5, 0), "m", INBOX_KEPT_MS).await, id(5, 0));

    let inbox = S::fresh().await.inbox;
    append(&*inbox, &id(9, 0), "m", 0).await;
    inbox.ack(&[(APP, USER, id(9, 0))]).await.unwrap();
    assert_eq!(append(&*inbox, &id(5, 0), "m", INBOX_EMPTY_KEPT_MS).await, id(5, 0));
}

pub(crate) async fn each_user_has_an_inbox_in_each_app<S: Store>() {
    let inbox = S::fresh().await.inbox;
    append(&*inbox, &id(1, 0), "m", 1).await;
    for (app, user) in [(OTHER_APP, USER), (APP, UserId(2))] {
        assert_eq!(inbox.read(app, user, None, 9, at(1)).await.unwrap(), Page::default());
        inbox.ack(&[(app, user, id(1, 0))]).await.unwrap();
    }
    assert_eq!(read(&*inbox, None, 9, 1).await.entries.len(), 1);
}

pub(crate) async fn a_malformed_id_is_refused_and_no_ack_of_one_hurts<S: Store>() {
    let inbox = S::fresh().await.inbox;
    append(&*inbox, &id(1, 0), "m", 1).await;
    for bad in ["", "-", "1", "1-", "-1", "1-2-3", "+1-0", "1-+0", "01-0", " 1-0", "a-b", "18446744073709551616-0", "1-0\n"] {
        let appended = inbox.append(APP, &[USER], bad, body("m"), at(1)).await;
        assert!(matches!(appended, Err(StateError::Malformed { .. })), "{bad:?}: {appended:?}");
        let page = inbox.read(APP, USER, Some(bad), 9, at(1)).await;
        assert!(matches!(page, Err(StateError::Malformed { .. })), "{bad:?}: {page:?}");
        inbox.ack(&[(APP, USER, bad.to_owned())]).await.expect("unknown ids are no error");
    }
    assert_eq!(read(&*inbox, None, 9, 1).await.entries.len(), 1);
}

pub(crate) async fn the_beginning_is_given_to_no_message_and_numbers_are_bounded<S: Store>() {
    let inbox = S::fresh().await.inbox;
    assert_eq!(append(&*inbox, "0-0", "m", 0).await, "0-1");
    assert_eq!(append(&*inbox, "0-0", "m", 0).await, "0-1", "a repeat");
    let bound = 1u64 << 53;
    for id in [format!("{bound}-0"), format!("0-{bound}")] {
        let appended = inbox.append(APP, &[USER], &id, body("m"), at(0)).await;
        assert!(matches!(appended, Err(StateError::Malformed { .. })), "{id}: {appended:?}");
    }
    let largest = format!("{}-7", bound - 1);
    assert_eq!(append(&*inbox, &largest, "n", 0).await, largest);
    for after in [largest, format!("{}-0", u64::MAX), format!("{0}-{0}", u64::MAX)] {
        assert_eq!(read(&*inbox, Some(&after), 9, 0).await, Page::default(), "{after}");
    }
    assert_eq!(read(&*inbox, Some(&format!("0-{}", u64::MAX)), 9, 0).await.entries.len(), 1);
}

pub(crate) async fn bodies_come_back_byte_for_byte<S: Store>() {
    let inbox = S::fresh().await.inbox;
    for bytes in [&b""[..], b"a%b\r\n{}", &[0, 255, 10, 128], "Grüße 🎁".as_bytes()] {
        let given = inbox.append(APP, &[USER], &id(0, 0), Bytes::from_static(bytes), at(0)).await.unwrap().remove(0);
        assert_eq!(entries(&read(&*inbox, None, 9, 0).await).last(), Some(&(given.as_str(), bytes)));
    }
}

fn claim(user: i64, msg_id: &str, until: u64) -> MessageClaim {
    MessageClaim { app: APP, user: UserId(user), msg_id: msg_id.to_owned(), until_ms: at(until) }
}

async fn append_once(inbox: &dyn Inbox, asked: &str, text: &str, claim: &MessageClaim, now: u64) -> AppendedOnce {
    inbox.append_once(APP, USER, asked, body(text), claim, at(now)).await.unwrap()
}

fn first(id: String) -> AppendedOnce {
    AppendedOnce { id, is_first: true }
}

fn repeated(id: String) -> AppendedOnce {
    AppendedOnce { id, is_first: false }
}

pub(crate) async fn a_message_is_taken_once_while_its_claim_stands<S: Store>() {
    let inbox = S::fresh().await.inbox;
    append(&*inbox, &id(9, 0), "before", 9).await;
    assert_eq!(append_once(&*inbox, &id(5, 0), "m", &claim(2, "a", MINUTE), 9).await, first(id(9, 1)));
    assert_eq!(append_once(&*inbox, &id(12, 0), "m", &claim(2, "a", HOUR), 12).await, repeated(id(9, 1)), "whatever id is asked for");
    assert_eq!(append_once(&*inbox, &id(13, 0), "other", &claim(2, "a", HOUR), MINUTE - 1).await, repeated(id(9, 1)), "whatever the body");
    assert_eq!(read(&*inbox, None, 9, 12).await.entries.len(), 2);
    let later = append_once(&*inbox, &id(MINUTE, 0), "m", &claim(2, "a", HOUR), MINUTE).await;
    assert_eq!(later, first(id(MINUTE, 0)), "a second try had renewed nothing");
    assert_eq!(append_once(&*inbox, &id(MINUTE, 9), "m", &claim(2, "a", HOUR), HOUR - 1).await, repeated(id(MINUTE, 0)));
    assert_eq!(read(&*inbox, None, 9, HOUR).await.entries.len(), 3);
    let refused = inbox.append_once(APP, USER, "1", body("m"), &claim(2, "b", HOUR), at(0)).await;
    assert!(matches!(refused, Err(StateError::Malformed { .. })));
    assert!(append_once(&*inbox, &id(HOUR, 0), "m", &claim(2, "b", 2 * HOUR), HOUR).await.is_first, "what was refused claimed nothing");
}

pub(crate) async fn a_claim_is_of_one_sender_and_one_receiver<S: Store>() {
    let inbox = S::fresh().await.inbox;
    let other_app = MessageClaim { app: OTHER_APP, ..claim(2, "a", HOUR) };
    let claims = [claim(2, "a", HOUR), claim(2, "A", HOUR), claim(-2, "a", HOUR), claim(2, "2:a", HOUR), claim(22, "a", HOUR), other_app];
    for (app, user) in [(APP, USER), (APP, UserId(2)), (OTHER_APP, USER), (APP, UserId(-1))] {
        for (claim, n) in claims.iter().zip(0..) {
            let once = inbox.append_once(app, user, &id(0, n), body(&n.to_string()), claim, at(0)).await.unwrap();
            assert_eq!(once, first(id(0, n)), "{app} {user} {claim:?}");
        }
    }
}

pub(crate) async fn a_claim_outlives_the_acknowledgement<S: Store>() {
    let inbox = S::fresh().await.inbox;
    append_once(&*inbox, &id(9, 0), "m", &claim(2, "a", 2 * HOUR), 9).await;
    inbox.ack(&[(APP, USER, id(9, 0))]).await.unwrap();
    assert_eq!(append_once(&*inbox, &id(10, 0), "m", &claim(2, "a", 2 * HOUR), 10).await, repeated(id(9, 0)));
    let forgotten = INBOX_EMPTY_KEPT_MS + MINUTE;
    assert_eq!(append_once(&*inbox, &id(forgotten, 0), "m", &claim(2, "a", 2 * HOUR), forgotten).await, repeated(id(9, 0)));
    assert_eq!(read(&*inbox, None, 9, forgotten).await, Page::default());
}

fn in_a_batch(user: i64, asked: String, text: &str, claim: Option<MessageClaim>) -> InboxAppend {
    InboxAppend { app: APP, user: UserId(user), id: asked, body: body(text), claim }
}

pub(crate) async fn messages_of_one_call_are_taken_each_for_itself_and_in_order<S: Store>() {
    let inbox = S::fresh().await.inbox;
    assert!(inbox.append_each(&[], at(0)).await.is_empty());
    let batch = [
        in_a_batch(1, id(2, 0), "a", Some(claim(9, "a", HOUR))),
        in_a_batch(2, id(2, 1), "b", Some(claim(9, "a", HOUR))),
        in_a_batch(1, id(1, 0), "c", Some(claim(9, "c", HOUR))),
        in_a_batch(1, id(2, 2), "a", Some(claim(9, "a", HOUR))),
        in_a_batch(1, "nonsense".to_owned(), "d", Some(claim(9, "d", HOUR))),
        in_a_batch(1, id(3, 0), "e", None),
        in_a_batch(1, id(3, 0), "e", None),
    ];
    let answers: Vec<_> = inbox.append_each(&batch, at(3)).await;
    let told: Vec<_> = answers.iter().map(|answer| answer.as_ref().ok().cloned()).collect();
    let expected = [
        Some(first(id(2, 0))),
        Some(first(id(2, 1))),
        Some(first(id(2, 1))),
        Some(repeated(id(2, 0))),
        None,
        Some(first(id(3, 0))),
        Some(first(id(3, 0))),
    ];
    assert_eq!(told, expected);
    assert!(matches!(answers[4], Err(StateError::Malformed { .. })));
    let page = read(&*inbox, None, 9, 3).await;
    assert_eq!(
        entries(&page),
        [(id(2, 0), "a"), (id(2, 1), "c"), (id(3, 0), "e")].each_ref().map(|(id, text)| (id.as_str(), text.as_bytes()))
    );
    // More than one script takes.
    let many: Vec<_> = (0..100).map(|n| in_a_batch(n % 30, id(9, n.unsigned_abs()), &n.to_string(), Some(claim(n, "x", HOUR)))).collect();
    let given = inbox.append_each(&many, at(9)).await;
    assert!(given.iter().zip(0..).all(|(given, n)| *given.as_ref().unwrap() == first(id(9, n))));
    let acked: Vec<_> = many.iter().map(|one| (APP, one.user, one.id.clone())).collect();
    inbox.ack(&acked).await.unwrap();
    assert_eq!(read(&*inbox, None, 9, 9).await.entries.len(), 3, "those from before");
}

pub(crate) async fn a_message_is_known_as_taken_while_its_claim_stands<S: Store>() {
    let inbox = S::fresh().await.inbox;
    let taken = async |user: i64, msg_id: &str, now: u64| inbox.taken(APP, UserId(user), &claim(2, msg_id, 0), at(now)).await.unwrap();
    assert_eq!(taken(1, "a", 0).await, None);
    append_once(&*inbox, &id(5, 0), "m", &claim(2, "a", MINUTE), 5).await;
    inbox.ack(&[(APP, USER, id(5, 0))]).await.unwrap();
    assert_eq!(taken(1, "a", MINUTE - 1).await, Some(id(5, 0)));
    assert_eq!((taken(1, "a", MINUTE).await, taken(1, "b", 5).await, taken(2, "a", 5).await), (None, None, None));
    assert!(append_once(&*inbox, &id(6, 0), "m", &claim(2, "b", MINUTE), 6).await.is_first, "asking has claimed nothing");
}

pub(crate) async fn of_many_sending_one_message_at_once_one_is_first<S: Store>() {
    let inbox = S::fresh().await.inbox;
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let inbox = inbox.clone();
            tokio::spawn(async move { append_once(&*inbox, &id(n, 0), "m", &claim(2, "a", HOUR), n).await })
        })
        .collect();
    let mut told = Vec::new();
    for task in tasks {
        told.push(task.await.unwrap());
    }
    let page = read(&*inbox, None, 99, 50).await;
    assert_eq!(page.entries.len(), 1);
    assert_eq!(told.iter().filter(|once| once.is_first).count(), 1);
    assert!(told.iter().all(|once| once.id == page.entries[0].id));
}

pub(crate) async fn of_many_appending_at_once_each_gets_an_id_of_its_own<S: Store>() {
    let inbox = S::fresh().await.inbox;
    let tasks: Vec<_> = (0..50)
        .map(|number| {
            let inbox = inbox.clone();
            tokio::spawn(async move { append(&*inbox, &id(0, 0), &number.to_string(), 0).await })
        })
        .collect();
    let mut given = Vec::new();
    for task in tasks {
        given.push(InboxId::parse(&task.await.unwrap()).unwrap());
    }
    given.sort_unstable();
    assert_eq!(given, (0..50).map(|n| InboxId { ms: at(0), n }).collect::<Vec<_>>());
    let page = read(&*inbox, None, 99, 0).await;
    assert_eq!(page.entries.iter().map(|entry| InboxId::parse(&entry.id).unwrap()).collect::<Vec<_>>(), given);
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<i64>, u64, u64, u8),
    AppendOnce(i64, u64, u64, u8, u64),
    Ack(i64, usize),
    Read(i64, Option<usize>, usize),
    Pass(u64),
}

#[derive(Clone)]
struct Stored {
    id: InboxId,
    asked: InboxId,
    at: u64,
    text: String,
}

#[derive(Clone, Default)]
struct Model {
    entries: Vec<Stored>,
    /// `None` before the first.
    last: Option<InboxId>,
    until: u64,
    appended: u64,
    trimmed: Option<InboxId>,
}

impl Model {
    fn age(&mut self, now: u64) {
        while self.entries.first().is_some_and(|oldest| now - oldest.at >= INBOX_AGE_MAX_MS) {
            self.trimmed = Some(self.entries.remove(0).id);
        }
    }

    /// The message got the id `given`: whether that adds an entry.
    fn append(&mut self, asked: InboxId, text: &str, given: InboxId, now: u64) -> Result<bool, TestCaseError> {
        // Whether an aged entry still tells a repeat is left to the adapter.
        if self.repeated(asked, text) == Some(given) {
            return Ok(false);
        }
        self.age(now);
        prop_assert_eq!(self.repeated(asked, text), None, "a repeat must give the id of the first");
        let expected = match self.last {
            Some(last) if asked <= last => last.next().expect("far from the end"),
            Some(_) | None => asked,
        };
        prop_assert_eq!(given, expected);
        self.entries.push(Stored { id: given, asked, at: now, text: text.to_owned() });
        self.last = Some(given);
        self.appended = now;
        self.until = now + INBOX_KEPT_MS;
        Ok(true)
    }

    /// What a repeated call adds: nothing. `None` when this is not one.
    fn repeated(&self, asked: InboxId, text: &str) -> Option<InboxId> {
        self.entries.iter().find(|stored| stored.asked == asked && stored.text == text).map(|stored| stored.id)
    }
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let step = prop_oneof![
        4 => (proptest::collection::vec(0i64..3, 1..3), 0..3 * SECOND, 0u64..3, 0u8..3)
            .prop_map(|(users, ago, n, text)| Step::Append(users, ago / SECOND * SECOND, n, text)),
        3 => (0i64..3, 0..3 * SECOND, 0u64..3, 0u8..4, prop_oneof![0..MINUTE, 0..2 * DAY])
            .prop_map(|(user, ago, n, text, life)| Step::AppendOnce(user, ago / SECOND * SECOND, n, text, life)),
        2 => (0i64..3, 0usize..5).prop_map(|(user, index)| Step::Ack(user, index)),
        3 => (0i64..3, proptest::option::of(0usize..5), 0usize..4).prop_map(|(user, after, limit)| Step::Read(user, after, limit)),
        2 => prop_oneof![0..3 * SECOND, 0..9 * MINUTE, 0..6 * DAY].prop_map(|ms| Step::Pass(ms / SECOND * SECOND)),
    ];
    histories::<S, _>(step, async |state, steps| {
        let inbox = state.inbox;
        let mut now = at(MINUTE);
        let mut models: BTreeMap<i64, Model> = BTreeMap::new();
        let mut known: Vec<InboxId> = Vec::new();
        let mut claims: BTreeMap<(i64, u8), (u64, InboxId)> = BTreeMap::new();
        for step in steps {
            claims.retain(|_, (until, _)| now < *until);
            models.retain(|_, model| now < model.until);
            match step {
                Step::Append(ids, ago, n, text) => {
                    let asked = InboxId { ms: now - ago, n };
                    let text = text.to_string();
                    let given = inbox.append(APP, &users(ids.iter().copied()), &asked.to_string(), body(&text), now).await.unwrap();
                    prop_assert_eq!(given.len(), ids.len());
                    for (user, given) in ids.into_iter().zip(given) {
                        let given = InboxId::parse(&given).expect("of the form ms-n");
                        let was_added = models.entry(user).or_default().append(asked, &text, given, now)?;
                        known.extend(was_added.then_some(given));
                    }
                }
                Step::AppendOnce(user, ago, n, text, life) => {
                    let asked = InboxId { ms: now - ago, n };
                    let claim = MessageClaim { app: APP, user: UserId(9), msg_id: text.to_string(), until_ms: now + life };
                    let text_of = text.to_string();
                    let once = inbox.append_once(APP, UserId(user), &asked.to_string(), body(&text_of), &claim, now).await.unwrap();
                    let given = InboxId::parse(&once.id).expect("of the form ms-n");
                    match claims.get(&(user, text)) {
                        Some((_, first)) => prop_assert_eq!((given, once.is_first), (*first, false)),
                        None => {
                            prop_assert!(once.is_first);
                            let was_added = models.entry(user).or_default().append(asked, &text_of, given, now)?;
                            known.extend(was_added.then_some(given));
                            claims.insert((user, text), (now + life, given));
                        }
                    }
                }
                Step::Ack(user, index) => {
                    let Some(id) = known.iter().rev().nth(index) else { continue };
                    inbox.ack(&[(APP, UserId(user), id.to_string())]).await.unwrap();
                    let Some(model) = models.get_mut(&user) else { continue };
                    let before = model.entries.len();
                    model.entries.retain(|stored| stored.id != *id);
                    if before > 0 && model.entries.is_empty() {
                        model.until = model.appended + INBOX_EMPTY_KEPT_MS;
                    }
                }
                Step::Read(user, after, limit) => {
                    let after = after.and_then(|index| known.iter().rev().nth(index).copied());
                    let page = inbox.read(APP, UserId(user), after.map(|id| id.to_string()).as_deref(), limit, now).await.unwrap();
                    let Some(model) = models.get_mut(&user) else {
                        prop_assert_eq!(page, Page::default());
                        continue;
                    };
                    model.age(now);
                    let rest: Vec<_> = model.entries.iter().filter(|stored| after.is_none_or(|after| stored.id > after)).collect();
                    let expected: Vec<_> =
                        rest.iter().take(limit).map(|stored| InboxEntry { id: stored.id.to_string(), body: body(&stored.text) }).collect();
                    prop_assert_eq!(page.more, rest.len() > limit);
                    prop_assert_eq!(page.gap, after.is_some_and(|after| model.trimmed.is_some_and(|trimmed| trimmed > after)));
                    prop_assert_eq!(page.entries, expected);
                }
                Step::Pass(ms) => now += ms,
            }
        }
        Ok(())
    });
}
