//! [`billfish_state::RoomLog`].

use super::*;
use billfish_state::port::{ROOM_LOG_AGE_MAX_MS, ROOM_LOG_BYTES_MAX, ROOM_LOG_ENTRIES_MAX, ROOM_LOG_KEPT_MS};
use billfish_state::{Appended, LogAppend, LogEntry, MessageClaim, Page, RoomId};
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

pub(crate) async fn below_a_fence_nothing_is_taken_and_nobody_misses_anything<S: Store>() {
    let room_log = S::fresh().await.room_log;
    assert_eq!(room_log.fence(ROOM, 0, at(0)).await.unwrap(), 0, "there was none");
    room_log.append(ROOM, &[claimed(5, claim(1, "a", HOUR))], at(0)).await.unwrap();
    let fence = 7 << 32;
    assert_eq!(room_log.fence(ROOM, fence, at(1)).await.unwrap(), fence);
    assert_eq!(room_log.fence(ROOM, fence, at(1)).await.unwrap(), fence, "a repeat changes nothing");
    assert_eq!(room_log.read(ROOM, 0, 9, at(1)).await.unwrap(), Page { entries: log([5]), more: false, gap: false });
    assert_eq!(room_log.read(ROOM, 5, 9, at(1)).await.unwrap(), Page::default(), "no entry, no gap");
    assert_eq!(room_log.last(ROOM, 9, at(1)).await.unwrap(), log([5]));
    // Of the former owner; then the later one's.
    let late = [claimed(6, claim(1, "a", HOUR)), claimed(6, claim(1, "b", HOUR)), entry(fence).into(), entry(fence + 1).into()];
    let told = [Appended::Repeated { seq: 5 }, Appended::Stale, Appended::Stale, Appended::Stored];
    assert_eq!(room_log.append(ROOM, &late, at(2)).await.unwrap(), told);
    assert_eq!(room_log.fence(ROOM, 6 << 32, at(2)).await.unwrap(), fence + 1, "a former owner hears of the later one");
    assert_eq!(room_log.append(ROOM, &[claimed(fence + 2, claim(1, "b", HOUR))], at(2)).await.unwrap(), [Appended::Stored]);
    assert_eq!(room_log.last(ROOM, 9, at(2)).await.unwrap(), log([5, fence + 1, fence + 2]));
    // A log of nothing but a fence.
    let empty = RoomId(2);
    assert_eq!(room_log.fence(empty, (1 << 52) + 9, at(0)).await.unwrap(), (1 << 52) + 9);
    assert_eq!(room_log.append(empty, &appends(log([(1 << 52) + 8])), at(0)).await.unwrap(), [Appended::Stale]);
    assert_eq!((room_log.read(empty, 0, 9, at(0)).await.unwrap(), room_log.last(empty, 9, at(0)).await.unwrap()), Default::default());
}

pub(crate) async fn a_fence_keeps_a_log_and_is_forgotten_with_it<S: Store>() {
    let room_log = S::fresh().await.room_log;
    room_log.append(ROOM, &appends(log([5])), at(0)).await.unwrap();
    room_log.fence(ROOM, 9, at(MINUTE)).await.unwrap();
    assert!(room_log.read(ROOM, 0, 9, at(ROOM_LOG_KEPT_MS)).await.unwrap().gap, "the log is known, though what it had has aged");
    assert!(!room_log.read(ROOM, 5, 9, at(ROOM_LOG_KEPT_MS)).await.unwrap().gap);
    let kept = at(ROOM_LOG_KEPT_MS + MINUTE - 1);
    assert_eq!(room_log.append(ROOM, &[], kept).await.unwrap(), []);
    assert_eq!(room_log.read(ROOM, 0, 9, kept).await.unwrap(), Page { gap: true, ..Page::default() });
    let later = at(ROOM_LOG_KEPT_MS + MINUTE);
    assert_eq!(room_log.append(ROOM, &appends(log([9])), later).await.unwrap(), [Appended::Stored]);
    room_log.fence(ROOM, 20, later).await.unwrap();
    room_log.remove(ROOM).await.unwrap();
    assert_eq!(room_log.append(ROOM, &appends(log([10])), later).await.unwrap(), [Appended::Stored]);
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

fn claim(user: i64, msg_id: &str, until: u64) -> MessageClaim {
    MessageClaim { app: APP, user: UserId(user), msg_id: msg_id.to_owned(), until_ms: at(until) }
}

fn claimed(seq: i64, claim: MessageClaim) -> LogAppend {
    LogAppend { entry: entry(seq), claim: Some(claim) }
}

pub(crate) async fn each_entry_is_told_what_became_of_it<S: Store>() {
    let room_log = S::fresh().await.room_log;
    assert_eq!(room_log.append(ROOM, &[], at(0)).await.unwrap(), []);
    let first = [claimed(5, claim(1, "a", HOUR)), entry(6).into(), entry(6).into(), claimed(7, claim(1, "a", HOUR)), entry(7).into()];
    let appended = room_log.append(ROOM, &first, at(0)).await.unwrap();
    let stored = Appended::Stored;
    assert_eq!(appended, [stored, stored, Appended::Stale, Appended::Repeated { seq: 5 }, stored]);
    assert_eq!(room_log.last(ROOM, 9, at(0)).await.unwrap(), log([5, 6, 7]));
    // Of a former owner, who asks again too.
    let late = [claimed(4, claim(1, "a", HOUR)), claimed(4, claim(1, "b", HOUR)), entry(0).into(), entry(-7).into()];
    let appended = room_log.append(ROOM, &late, at(0)).await.unwrap();
    assert_eq!(appended, [Appended::Repeated { seq: 5 }, Appended::Stale, Appended::Stale, Appended::Stale]);
    assert_eq!(room_log.append(RoomId(2), &appends(log([0, i64::MIN])), at(0)).await.unwrap(), [Appended::Stale; 2], "they begin at 1");
}

pub(crate) async fn a_claim_is_made_with_its_entry_or_not_at_all<S: Store>() {
    let room_log = S::fresh().await.room_log;
    room_log.append(ROOM, &appends(log([9])), at(0)).await.unwrap();
    let message = || claim(1, "a", HOUR);
    assert_eq!(room_log.append(ROOM, &[claimed(9, message())], at(0)).await.unwrap(), [Appended::Stale]);
    assert_eq!(
        room_log.append(ROOM, &[claimed(10, message())], at(0)).await.unwrap(),
        [Appended::Stored],
        "what was stale claimed nothing"
    );
    let large = (1 << 52) + 3;
    assert_eq!(room_log.append(ROOM, &[claimed(large, claim(1, "b", HOUR))], at(0)).await.unwrap(), [Appended::Stored]);
    let again = [claimed(large + 1, message()), claimed(large + 2, claim(1, "b", HOUR))];
    let repeated = [Appended::Repeated { seq: 10 }, Appended::Repeated { seq: large }];
    assert_eq!(room_log.append(ROOM, &again, at(0)).await.unwrap(), repeated);
    assert_eq!(room_log.last(ROOM, 9, at(0)).await.unwrap(), log([9, 10, large]));
}

pub(crate) async fn a_claim_is_of_one_sender_and_one_room<S: Store>() {
    let room_log = S::fresh().await.room_log;
    let other_app = MessageClaim { app: OTHER_APP, ..claim(1, "a", HOUR) };
    let claims = [claim(1, "a", HOUR), claim(1, "A", HOUR), claim(-1, "a", HOUR), claim(1, "1:a", HOUR), claim(11, "a", HOUR), other_app];
    for room in [ROOM, RoomId(2), RoomId(-1)] {
        let entries: Vec<_> = claims.iter().cloned().zip(1..).map(|(claim, seq)| claimed(seq, claim)).collect();
        assert_eq!(room_log.append(room, &entries, at(0)).await.unwrap(), [Appended::Stored; 6], "{room}");
    }
}

pub(crate) async fn a_claim_runs_out<S: Store>() {
    let room_log = S::fresh().await.room_log;
    room_log.append(ROOM, &[claimed(1, claim(1, "a", MINUTE))], at(0)).await.unwrap();
    let again = |seq| [claimed(seq, claim(1, "a", HOUR))];
    let repeated = [Appended::Repeated { seq: 1 }];
    assert_eq!(room_log.append(ROOM, &again(2), at(MINUTE - 1)).await.unwrap(), repeated);
    assert_eq!(room_log.append(ROOM, &again(2), at(MINUTE)).await.unwrap(), [Appended::Stored], "a second try had renewed nothing");
    assert_eq!(room_log.append(ROOM, &again(3), at(HOUR - 1)).await.unwrap(), [Appended::Repeated { seq: 2 }]);
    // One that has run out already.
    let ended = || claim(1, "b", 0);
    assert_eq!(room_log.append(ROOM, &[claimed(4, ended()), claimed(5, ended())], at(0)).await.unwrap(), [Appended::Stored; 2]);
}

pub(crate) async fn a_claim_outlives_its_entry<S: Store>() {
    let room_log = S::fresh().await.room_log;
    room_log.append(ROOM, &[claimed(1, claim(1, "a", 3 * HOUR))], at(0)).await.unwrap();
    let repeated = [Appended::Repeated { seq: 1 }];
    let aged = at(ROOM_LOG_AGE_MAX_MS + MINUTE);
    assert_eq!(room_log.append(ROOM, &[claimed(2, claim(1, "a", 3 * HOUR))], aged).await.unwrap(), repeated);
    assert_eq!(room_log.last(ROOM, 9, aged).await.unwrap(), []);
    room_log.remove(ROOM).await.unwrap();
    assert_eq!(room_log.append(ROOM, &[claimed(3, claim(1, "a", 3 * HOUR))], aged).await.unwrap(), repeated);
}

pub(crate) async fn whom_an_entry_was_not_pushed_to_is_kept<S: Store>() {
    let room_log = S::fresh().await.room_log;
    let excepts = [None, Some(UserId(7)), Some(UserId(0)), Some(UserId(i64::MIN)), Some(UserId(i64::MAX))];
    let entries: Vec<_> = excepts.into_iter().zip(1..).map(|(except, seq)| LogEntry { except, ..entry(seq) }).collect();
    room_log.append(ROOM, &appends(entries.clone()), at(0)).await.unwrap();
    assert_eq!(room_log.last(ROOM, 9, at(0)).await.unwrap(), entries);
    assert_eq!(room_log.read(ROOM, 0, 9, at(0)).await.unwrap().entries, entries);
}

pub(crate) async fn bodies_come_back_byte_for_byte<S: Store>() {
    let room_log = S::fresh().await.room_log;
    let bodies: [&[u8]; 5] = [b"", b"a%b\r\n{}", &[0, 255, 10, 128], "Grüße 🎁".as_bytes(), b"stored"];
    let entries: Vec<_> =
        bodies.into_iter().zip(1..).map(|(body, seq)| LogEntry { body: Bytes::from_static(body), ..entry(seq) }).collect();
    room_log.append(ROOM, &appends(entries.clone()), at(0)).await.unwrap();
    assert_eq!(room_log.last(ROOM, 9, at(0)).await.unwrap(), entries);
}

pub(crate) async fn of_many_with_one_claim_at_once_one_is_stored<S: Store>() {
    let room_log = S::fresh().await.room_log;
    let tasks: Vec<_> = (1..=50)
        .map(|seq| {
            let room_log = room_log.clone();
            tokio::spawn(async move { room_log.append(ROOM, &[claimed(seq, claim(1, "a", HOUR))], at(0)).await.unwrap().remove(0) })
        })
        .collect();
    let mut told = Vec::new();
    for task in tasks {
        told.push(task.await.unwrap());
    }
    let stored = room_log.last(ROOM, 99, at(0)).await.unwrap();
    assert_eq!(stored.len(), 1);
    assert_eq!(told.iter().filter(|appended| **appended == Appended::Stored).count(), 1);
    assert_eq!(told.iter().filter(|appended| **appended == Appended::Repeated { seq: stored[0].seq }).count(), 49);
}

pub(crate) async fn of_several_owners_at_once_the_log_is_in_order<S: Store>() {
    let room_log = S::fresh().await.room_log;
    let tasks: Vec<_> = (0..4)
        .map(|owner| {
            let room_log = room_log.clone();
            tokio::spawn(async move {
                let mut stored = Vec::new();
                for number in 0..25 {
                    let seq = 1 + owner + 4 * number;
                    if room_log.append(ROOM, &appends([entry(seq)]), at(0)).await.unwrap() == [Appended::Stored] {
                        stored.push(seq);
                    }
                }
                stored
            })
        })
        .collect();
    let mut stored = Vec::new();
    for task in tasks {
        stored.extend(task.await.unwrap());
    }
    stored.sort_unstable();
    assert_eq!(room_log.last(ROOM, 999, at(0)).await.unwrap(), log(stored));
}

#[derive(Clone, Debug)]
struct Claimed {
    sender: i64,
    msg_id: u8,
    life: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Append(i64, Vec<(i64, Option<Claimed>)>),
    Fence(i64, i64),
    Read(i64, i64, usize),
    Last(i64, usize),
    Remove(i64),
    Pass(u64),
}

#[derive(Default)]
struct Model {
    entries: Vec<(u64, LogEntry)>,
    last: i64,
    trimmed: Option<i64>,
    until: u64,
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let room = || 0i64..2;
    let any_claim = || (0i64..2, 0u8..3, 0..40 * MINUTE).prop_map(|(sender, msg_id, life)| Claimed { sender, msg_id, life });
    let step = prop_oneof![
        4 => (room(), proptest::collection::vec((-1i64..60, proptest::option::of(any_claim())), 1..6))
            .prop_map(|(room, entries)| Step::Append(room, entries)),
        1 => (room(), -1i64..60).prop_map(|(room, seq)| Step::Fence(room, seq)),
        3 => (room(), -1i64..60, 0usize..5).prop_map(|(room, after, limit)| Step::Read(room, after, limit)),
        1 => (room(), 0usize..5).prop_map(|(room, limit)| Step::Last(room, limit)),
        1 => room().prop_map(Step::Remove),
        2 => prop_oneof![0..30 * MINUTE, 0..8 * HOUR].prop_map(Step::Pass),
    ];
    histories::<S, _>(step, async |state, steps| {
        let mut now = at(0);
        let mut models: BTreeMap<i64, Model> = BTreeMap::new();
        let mut claims: BTreeMap<(i64, i64, u8), (u64, i64)> = BTreeMap::new();
        for step in steps {
            claims.retain(|_, (until, _)| now < *until);
            models.retain(|_, model| now < model.until);
            for model in models.values_mut() {
                while model.entries.first().is_some_and(|(at, _)| now - at >= ROOM_LOG_AGE_MAX_MS) {
                    model.trimmed = Some(model.entries.remove(0).1.seq);
                }
            }
            match step {
                Step::Append(room, entries) => {
                    let named = |Claimed { sender, msg_id, life }: &Claimed| MessageClaim {
                        app: APP,
                        user: UserId(*sender),
                        msg_id: msg_id.to_string(),
                        until_ms: now + life,
                    };
                    let asked: Vec<_> =
                        entries.iter().map(|(seq, claim)| LogAppend { entry: entry(*seq), claim: claim.as_ref().map(named) }).collect();
                    let told = state.room_log.append(RoomId(room), &asked, now).await.unwrap();
                    let model = models.entry(room).or_default();
                    model.until = now + ROOM_LOG_KEPT_MS;
                    let mut expected = Vec::new();
                    for (seq, claim) in entries {
                        let key = claim.as_ref().map(|claim| (room, claim.sender, claim.msg_id));
                        let standing = key.and_then(|key| claims.get(&key)).filter(|(until, _)| now < *until);
                        if let Some((_, seq)) = standing {
                            expected.push(Appended::Repeated { seq: *seq });
                        } else if seq <= model.last {
                            expected.push(Appended::Stale);
                        } else {
                            expected.push(Appended::Stored);
                            model.last = seq;
                            model.entries.push((now, entry(seq)));
                            claims.extend(key.zip(claim).map(|(key, claim)| (key, (now + claim.life, seq))));
                        }
                    }
                    prop_assert_eq!(told, expected);
                }
                Step::Fence(room, seq) => {
                    let last = state.room_log.fence(RoomId(room), seq, now).await.unwrap();
                    let model = models.entry(room).or_default();
                    model.until = now + ROOM_LOG_KEPT_MS;
                    model.last = model.last.max(seq);
                    prop_assert_eq!(last, model.last);
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
