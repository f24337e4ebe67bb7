//! [`billfish_state::RoomLog`].

use super::*;
use billfish_state::port::{ROOM_LOG_AGE_MAX_MS, ROOM_LOG_BYTES_MAX, ROOM_LOG_ENTRIES_MAX, ROOM_LOG_KEPT_MS};
use billfish_state::{LogAppend, LogEntry, Page, RoomId};
use std::collections::BTreeMap;

const ROOM: RoomId = RoomId(1);

fn entry(seq: i64) -> LogEntry {
    LogEntry { seq, body: body(&format!("message {seq}")), except: None }
}

fn log(seqs: impl IntoIterator<Item = i64>) -> Vec<LogEntry> {
    seqs.into_iter().map(entry).collect()
}

fn appends(entries: impl IntoIterator<Item = LogEntry>) -> Vec<LogAppend> {
    entries.into_iter().map(LogAppend::from).collect()
}

pub(crate) async fn entries_come_back_in_order_and_in_pages<S: Store>() {
    let room_log = S::fresh().await.room_log;
    // As an owner counts: the epoch above, so the numbers are large and jump.
    let seqs = [1, 2, 5, 1 << 32, (1 << 32) + 1, (1 << 52) + 9];
    room_log.append(ROOM, &appends(log(seqs[..3].iter().copied())), at(0)).await.unwrap();
    room_log.append(ROOM, &appends(log(seqs[3..].iter().copied())), at(1)).await.unwrap();
    let page = room_log.read(ROOM, 2, 2, at(1)).await.unwrap();
    assert_eq!(page, Page { entries: log([5, 1 << 32]), more: true, gap: false });
    let page = room_log.read(ROOM, 1 << 32, 2, at(1)).await.unwrap();
    assert_eq!(page, Page { entries: log([(1 << 32) + 1, (1 << 52) + 9]), more: false, gap: false });
    assert_eq!(room_log.read(ROOM, seqs[5], 2, at(1)).await.unwrap(), Page::default());
    assert_eq!(room_log.last(ROOM, 2, at(1)).await.unwrap(), log([(1 << 32) + 1, (1 << 52) + 9]));
    assert_eq!(room_log.last(ROOM, 99, at(1)).await.unwrap(), log(seqs));
    assert_eq!(room_log.last(RoomId(2), 99, at(1)).await.unwrap(), []);
    assert_eq!(room_log.read(RoomId(2), 7, 99, at(1)).await.unwrap(), Page::default());
}

pub(crate) async fn a_seq_not_above_all_before_is_passed_over<S: Store>() {
    let room_log = S::fresh().await.room_log;
    room_log.append(ROOM, &appends(log([5, 9])), at(0)).await.unwrap();
    room_log.append(ROOM, &appends(log([5, 9])), at(0)).await.expect("a repeat is no error");
    let other = LogEntry { seq: 9, body: body("another"), except: None };
    room_log.append(ROOM, &appends([other, entry(7), entry(12), entry(11), entry(13)]), at(0)).await.unwrap();
    assert_eq!(room_log.last(ROOM, 99, at(0)).await.unwrap(), log([5, 9, 12, 13]));
}

pub(crate) async fn the_newest_entries_are_kept_and_a_gap_is_told<S: Store>() {
    let room_log = S::fresh().await.room_log;
    let count = i64::try_from(ROOM_LOG_ENTRIES_MAX).unwrap();
    room_log.append(ROOM, &appends(log(1..=count)), at(0)).await.unwrap();
    assert!(!room_log.read(ROOM, 0, 1, at(0)).await.unwrap().gap, "exactly full");
    room_log.append(ROOM, &appends(log([count + 1])), at(0)).await.unwrap();
    let page = room_log.read(ROOM, 0, usize::MAX, at(0)).await.unwrap();
    assert_eq!(page, Page { entries: log(2..=count + 1), more: false, gap: true });
    assert!(!room_log.read(ROOM, 1, 1, at(0)).await.unwrap().gap, "this reader has seen what was trimmed");
}

pub(crate) async fn a_log_is_bounded_in_bytes<S: Store>() {
    let room_log = S::fresh().await.room_log;
    let half = |seq| LogEntry { seq, body: body(&"x".repeat(ROOM_LOG_BYTES_MAX / 2)), except: None };
    room_log.append(ROOM, &appends([half(1), half(2)]), at(0)).await.unwrap();
    assert_eq!(room_log.last(ROOM, 9, at(0)).await.unwrap().len(), 2, "exactly full");
    room_log.append(ROOM, &appends([entry(3)]), at(0)).await.unwrap();
    let page = room_log.read(ROOM, 0, 9, at(0)).await.unwrap();
    assert_eq!((page.entries, page.gap), (vec![half(2), entry(3)], true));
}

pub(crate) async fn entries_age_and_the_last_seq_is_remembered<S: Store>() {
    let room_log = S::fresh().await.room_log;
    room_log.append(ROOM, &appends(log([5])), at(0)).await.unwrap();
    room_log.append(ROOM, &appends(log([6])), at(MINUTE)).await.unwrap();
    assert_eq!(room_log.last(ROOM, 9, at(ROOM_LOG_AGE_MAX_MS - 1)).await.unwrap(), log([5, 6]));
    let page = room_log.read(ROOM, 0, 9, at(ROOM_LOG_AGE_MAX_MS)).await.unwrap();
    assert_eq!(page, Page { entries: log([6]), more: false, gap: true });
    let later = at(ROOM_LOG_AGE_MAX_MS + MINUTE);
    assert_eq!(room_log.last(ROOM, 9, later).await.unwrap(), []);
    assert!(room_log.read(ROOM, 5, 9, later).await.unwrap().gap);
    assert!(!room_log.read(ROOM, 6, 9, later).await.unwrap().gap);
    room_log.append(ROOM, &appends(log([6, 7])), later).await.unwrap();
    assert_eq!(room_log.last(ROOM, 9, later).await.unwrap(), log([7]));
}

pub(crate) async fn a_log_is_forgotten_in_the_end<S: Store>() {
    let room_log = S::fresh().await.room_log;
    room_log.append(ROOM, &appends(log([5])), at(0)).await.unwrap();
    assert!(room_log.read(ROOM, 0, 9, at(ROOM_LOG_KEPT_MS - 1)).await.unwrap().gap);
    assert_eq!(room_log.read(ROOM, 0, 9, at(ROOM_LOG_KEPT_MS)).await.unwrap(), Page::default());
    room_log.append(ROOM, &appends(log([3])), at(ROOM_LOG_KEPT_MS)).await.unwrap();
    assert_eq!(room_log.last(ROOM, 9, at(ROOM_LOG_KEPT_MS)).await.unwrap(), log([3]));
}

pub(crate) async fn a_removed_log_is_forgotten<S: Store>() {
    let room_log = S::fresh().await.room_log;
    room_log.append(ROOM, &appends(log([5])), at(0)).await.unwrap();
    room_log.append(RoomId(2), &appends(log([5])), at(0)).await.unwrap();
    room_log.remove(ROOM).await.unwrap();
    room_log.remove(ROOM).await.expect("again is no error");
    assert_eq!(room_log.read(ROOM, 0, 9, at(0)).await.unwrap(), Page::default());
    assert_eq!(room_log.last(RoomId(2), 9, at(0)).await.unwrap(), log([5]));
}

#[derive(Clone, Debug)]
enum Step {
    Append(i64, Vec<i64>),
    Read(i64, i64, usize),
    Last(i64, usize),
    Remove(i64),
    Pass(u64),
}

#[derive(Default)]
struct Model {
    entries: Vec<(u64, LogEntry)>,
    last: Option<i64>,
    trimmed: Option<i64>,
    until: u64,
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let room = || 0i64..2;
    let step = prop_oneof![
        4 => (room(), proptest::collection::vec(0i64..60, 1..6)).prop_map(|(room, seqs)| Step::Append(room, seqs)),
        3 => (room(), -1i64..60, 0usize..5).prop_map(|(room, after, limit)| Step::Read(room, after, limit)),
        1 => (room(), 0usize..5).prop_map(|(room, limit)| Step::Last(room, limit)),
        1 => room().prop_map(Step::Remove),
        2 => prop_oneof![0..30 * MINUTE, 0..8 * HOUR].prop_map(Step::Pass),
    ];
    histories::<S, _>(step, async |state, steps| {
        let mut now = at(0);
        let mut models: BTreeMap<i64, Model> = BTreeMap::new();
        for step in steps {
            models.retain(|_, model| now < model.until);
            for model in models.values_mut() {
                while model.entries.first().is_some_and(|(at, _)| now - at >= ROOM_LOG_AGE_MAX_MS) {
                    model.trimmed = Some(model.entries.remove(0).1.seq);
                }
            }
            match step {
                Step::Append(room, seqs) => {
                    state.room_log.append(RoomId(room), &appends(log(seqs.iter().copied())), now).await.unwrap();
                    let model = models.entry(room).or_default();
                    model.until = now + ROOM_LOG_KEPT_MS;
                    for seq in seqs {
                        if model.last.is_none_or(|last| seq > last) {
                            model.last = Some(seq);
                            model.entries.push((now, entry(seq)));
                        }
                    }
                }
                Step::Read(room, after, limit) => {
                    let page = state.room_log.read(RoomId(room), after, limit, now).await.unwrap();
                    let model = models.entry(room).or_default();
                    let rest: Vec<_> = model.entries.iter().map(|(_, entry)| entry.clone()).filter(|entry| entry.seq > after).collect();
                    let expected = Page {
                        more: rest.len() > limit,
                        gap: model.trimmed.is_some_and(|trimmed| trimmed > after),
                        entries: rest.into_iter().take(limit).collect(),
                    };
                    prop_assert_eq!(page, expected);
                }
                Step::Last(room, limit) => {
                    let model = models.entry(room).or_default();
                    let all: Vec<_> = model.entries.iter().map(|(_, entry)| entry.clone()).collect();
                    let expected = &all[all.len().saturating_sub(limit)..];
                    prop_assert_eq!(state.room_log.last(RoomId(room), limit, now).await.unwrap(), expected);
                }
                Step::Remove(room) => {
                    state.room_log.remove(RoomId(room)).await.unwrap();
                    models.remove(&room);
                }
                Step::Pass(ms) => now += ms,
            }
        }
        Ok(())
    });
}
