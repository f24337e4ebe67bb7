//! [`billfish_state::Inbox`].

use super::*;
use billfish_state::port::{INBOX_AGE_MAX_MS, INBOX_BYTES_MAX, INBOX_EMPTY_KEPT_MS, INBOX_ENTRIES_MAX, INBOX_KEPT_MS};
use billfish_state::{Inbox, InboxEntry, InboxId, Page, StateError};
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
    let inbox = S::fresh().await.inbox;
    let count = INBOX_ENTRIES_MAX as u64;
    for n in 0..count {
        append(&*inbox, &id(n, 0), "m", n).await;
    }
    assert!(!read(&*inbox, Some("0-0"), 1, count).await.gap, "exactly full");
    append(&*inbox, &id(count, 0), "m", count).await;
    let page = read(&*inbox, Some("0-0"), usize::MAX, count).await;
    assert_eq!((page.entries.len(), page.entries[0].id.as_str(), page.gap), (INBOX_ENTRIES_MAX, id(1, 0).as_str(), true));
    assert!(!read(&*inbox, Some(&id(0, 0)), 1, count).await.gap, "this reader has seen what was trimmed");
    assert!(!read(&*inbox, None, 1, count).await.gap, "this one has seen nothing and misses nothing");
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

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<i64>, u64, u64, u8),
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

#[derive(Clone)]
struct Model {
    entries: Vec<Stored>,
    last: InboxId,
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

    /// What a repeated call adds: nothing. `None` when this is not one.
    fn repeated(&self, asked: InboxId, text: &str) -> Option<InboxId> {
        self.entries.iter().find(|stored| stored.asked == asked && stored.text == text).map(|stored| stored.id)
    }
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let step = prop_oneof![
        4 => (proptest::collection::vec(0i64..3, 1..3), 0..3 * SECOND, 0u64..3, 0u8..3)
            .prop_map(|(users, ago, n, text)| Step::Append(users, ago / SECOND * SECOND, n, text)),
        2 => (0i64..3, 0usize..5).prop_map(|(user, index)| Step::Ack(user, index)),
        3 => (0i64..3, proptest::option::of(0usize..5), 0usize..4).prop_map(|(user, after, limit)| Step::Read(user, after, limit)),
        2 => prop_oneof![0..3 * SECOND, 0..9 * MINUTE, 0..6 * DAY].prop_map(|ms| Step::Pass(ms / SECOND * SECOND)),
    ];
    histories::<S, _>(step, async |state, steps| {
        let inbox = state.inbox;
        let mut now = at(MINUTE);
        let mut models: BTreeMap<i64, Model> = BTreeMap::new();
        let mut known: Vec<InboxId> = Vec::new();
        for step in steps {
            models.retain(|_, model| now < model.until);
            match step {
                Step::Append(ids, ago, n, text) => {
                    let asked = InboxId { ms: now - ago, n };
                    let text = text.to_string();
                    let given = inbox.append(APP, &users(ids.iter().copied()), &asked.to_string(), body(&text), now).await.unwrap();
                    prop_assert_eq!(given.len(), ids.len());
                    for (user, given) in ids.into_iter().zip(given) {
                        let fresh = Model { entries: vec![], last: InboxId { ms: 0, n: 0 }, until: 0, appended: 0, trimmed: None };
                        let model = models.entry(user).or_insert(fresh);
                        let given = InboxId::parse(&given).expect("of the form ms-n");
                        // Whether an aged entry still tells a repeat is left to the adapter.
                        if model.repeated(asked, &text) == Some(given) {
                            continue;
                        }
                        model.age(now);
                        prop_assert_eq!(model.repeated(asked, &text), None, "a repeat must give the id of the first");
                        let expected = if asked > model.last { asked } else { model.last.next().expect("far from the end") };
                        prop_assert_eq!(given, expected);
                        model.entries.push(Stored { id: given, asked, at: now, text: text.clone() });
                        model.last = given;
                        model.appended = now;
                        model.until = now + INBOX_KEPT_MS;
                        known.push(given);
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
