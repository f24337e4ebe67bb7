//! [`billfish_state::PkBars`].

use super::*;
use billfish_state::port::PK_BAR_KEPT_MS;
use billfish_state::{PK_SEQ_MAX, PkBar, PkStep, PkStepped, PkWinner, RoomId, StateError};
use std::collections::BTreeMap;

const ROOM: RoomId = RoomId(1);
const CHALLENGER: UserId = UserId(7);
/// The last gift before the PK.
const SINCE: i64 = 10;

fn begin() -> PkBar {
    PkBar::begin(CHALLENGER, SINCE)
}

/// The gift `seq` of this PK, behind the one before it.
fn gift(seq: i64, by: i64) -> PkStep {
    PkStep { since_seq: SINCE, after_seq: seq - 1, seq, by }
}

fn bar(seq: i64, value: i32) -> PkBar {
    PkBar { seq, value, ..begin() }
}

pub(crate) async fn a_bar_is_there_from_its_put_until_its_pk_is_ended<S: Store>() {
    let bars = S::fresh().await.pk_bars;
    assert_eq!(bars.bar(ROOM, at(0)).await.unwrap(), None);
    assert_eq!(bars.step(ROOM, gift(11, 5), at(0)).await.unwrap(), PkStepped::Missing, "a step makes no bar");
    assert_eq!(bars.bar(ROOM, at(0)).await.unwrap(), None);
    assert_eq!(bars.put(ROOM, begin(), at(0)).await.unwrap(), begin());
    assert_eq!(bars.bar(ROOM, at(1)).await.unwrap(), Some(bar(SINCE, 50)));
    assert!(bars.clear(ROOM, CHALLENGER, SINCE).await.unwrap());
    assert_eq!(bars.bar(ROOM, at(1)).await.unwrap(), None);
    assert_eq!(bars.step(ROOM, gift(11, 5), at(1)).await.unwrap(), PkStepped::Missing);
    assert!(!bars.clear(ROOM, CHALLENGER, SINCE).await.unwrap(), "there is none any more");
}

pub(crate) async fn a_gift_moves_a_bar_once_however_often_it_comes<S: Store>() {
    let bars = S::fresh().await.pk_bars;
    bars.put(ROOM, begin(), at(0)).await.unwrap();
    assert_eq!(bars.step(ROOM, gift(11, 20), at(0)).await.unwrap(), PkStepped::Applied(bar(11, 70)));
    assert_eq!(bars.step(ROOM, gift(12, -30), at(0)).await.unwrap(), PkStepped::Applied(bar(12, 40)));
    for again in [gift(12, -30), gift(11, 20), gift(12, 1)] {
        assert_eq!(bars.step(ROOM, again, at(0)).await.unwrap(), PkStepped::Before(bar(12, 40)), "{again:?}");
    }
    assert_eq!(bars.bar(ROOM, at(0)).await.unwrap(), Some(bar(12, 40)));
}

pub(crate) async fn a_bar_that_has_not_seen_the_gift_before_is_to_be_put_anew<S: Store>() {
    let bars = S::fresh().await.pk_bars;
    bars.put(ROOM, begin(), at(0)).await.unwrap();
    assert_eq!(bars.step(ROOM, gift(12, 5), at(0)).await.unwrap(), PkStepped::Missing, "it has not seen 11");
    assert_eq!(bars.bar(ROOM, at(0)).await.unwrap(), Some(begin()), "nothing was changed");
    let caught_up = begin().after(11, 20).after(12, 5);
    assert_eq!(bars.put(ROOM, caught_up, at(0)).await.unwrap(), caught_up);
    assert_eq!(bars.step(ROOM, gift(12, 5), at(0)).await.unwrap(), PkStepped::Before(caught_up));
    // Not every place among a room's gifts is a gift to this PK, and whoever steps may know of an earlier one only.
    let ahead = PkStep { after_seq: 11, ..gift(20, -5) };
    assert_eq!(bars.step(ROOM, ahead, at(0)).await.unwrap(), PkStepped::Applied(bar(20, 70)));
}

pub(crate) async fn a_bar_ends_at_its_ends_and_who_has_won_stays<S: Store>() {
    let bars = S::fresh().await.pk_bars;
    for (room, by, value, winner) in [(RoomId(1), 1_000_000_000, 100, PkWinner::Anchor), (RoomId(2), -50, 0, PkWinner::Challenger)] {
        bars.put(room, begin(), at(0)).await.unwrap();
        let over = PkBar { winner: Some(winner), ..bar(11, value) };
        assert_eq!(bars.step(room, gift(11, by), at(0)).await.unwrap(), PkStepped::Applied(over));
        let later = PkBar { seq: 12, ..over };
        assert_eq!(bars.step(room, gift(12, -by), at(0)).await.unwrap(), PkStepped::Applied(later), "only the place moves");
        assert_eq!(bars.step(room, gift(11, by), at(0)).await.unwrap(), PkStepped::Before(later));
        assert_eq!(bars.bar(room, at(0)).await.unwrap(), Some(later));
    }
}

pub(crate) async fn the_next_pk_of_a_room_begins_anew<S: Store>() {
    let bars = S::fresh().await.pk_bars;
    bars.put(ROOM, begin(), at(0)).await.unwrap();
    bars.step(ROOM, gift(11, 50), at(0)).await.unwrap();
    let next = PkBar::begin(UserId(-8), 11);
    assert_eq!(bars.put(ROOM, next, at(0)).await.unwrap(), next, "nobody has won it yet");
    assert_eq!(bars.bar(ROOM, at(0)).await.unwrap(), Some(next));
    assert_eq!(bars.step(ROOM, gift(12, 5), at(0)).await.unwrap(), PkStepped::Before(next), "the PK of this gift is over");
    assert_eq!(bars.put(ROOM, begin().after(12, 5), at(0)).await.unwrap(), next, "nor does it come back");
    assert!(!bars.clear(ROOM, CHALLENGER, SINCE).await.unwrap(), "a late end of the one before ends nothing");
    let of_the_one_after = PkStep { since_seq: 12, after_seq: 12, seq: 13, by: 5 };
    assert_eq!(bars.step(ROOM, of_the_one_after, at(0)).await.unwrap(), PkStepped::Missing);
    assert_eq!(bars.bar(ROOM, at(0)).await.unwrap(), Some(next));
}

pub(crate) async fn a_bar_is_not_put_over_a_newer_one<S: Store>() {
    let bars = S::fresh().await.pk_bars;
    let newer = begin().after(11, 20).after(12, 40);
    bars.put(ROOM, newer, at(0)).await.unwrap();
    assert_eq!(bars.put(ROOM, begin().after(11, 20), at(0)).await.unwrap(), newer, "what stands is told");
    assert_eq!(bars.bar(ROOM, at(0)).await.unwrap(), Some(newer));
    // What is made of the same gifts is what the ledger says.
    assert_eq!(bars.put(ROOM, bar(12, 30), at(0)).await.unwrap(), bar(12, 30));
    assert_eq!(bars.bar(ROOM, at(0)).await.unwrap(), Some(bar(12, 30)));
}

pub(crate) async fn only_its_challenger_ends_a_pk<S: Store>() {
    let bars = S::fresh().await.pk_bars;
    // Ids that differ in what numbers of 53 bits cannot tell apart.
    let (challenger, other) = (UserId(i64::MAX), UserId(i64::MAX - 1));
    let standing = PkBar::begin(challenger, SINCE);
    bars.put(ROOM, standing, at(0)).await.unwrap();
    for (challenger, since_seq) in [(other, SINCE), (challenger, SINCE - 1), (challenger, SINCE + 1)] {
        assert!(!bars.clear(ROOM, challenger, since_seq).await.unwrap());
    }
    assert!(!bars.clear(RoomId(2), challenger, SINCE).await.unwrap(), "rooms are apart");
    assert_eq!(bars.bar(ROOM, at(0)).await.unwrap(), Some(standing));
    assert!(bars.clear(ROOM, challenger, SINCE).await.unwrap());
}

pub(crate) async fn a_bar_is_kept_after_its_last_change<S: Store>() {
    let bars = S::fresh().await.pk_bars;
    bars.put(ROOM, begin(), at(0)).await.unwrap();
    let moved = HOUR;
    bars.step(ROOM, gift(11, 50), at(moved)).await.unwrap();
    let over = begin().after(11, 50);
    let again = moved + HOUR;
    assert_eq!(bars.step(ROOM, gift(11, 50), at(again)).await.unwrap(), PkStepped::Before(over), "that changed nothing");
    assert_eq!(bars.bar(ROOM, at(moved + PK_BAR_KEPT_MS - 1)).await.unwrap(), Some(over));
    let ended = at(moved + PK_BAR_KEPT_MS);
    assert_eq!(bars.bar(ROOM, ended).await.unwrap(), None);
    assert_eq!(bars.step(ROOM, gift(12, 5), ended).await.unwrap(), PkStepped::Missing);
    assert_eq!(bars.put(ROOM, begin(), ended).await.unwrap(), begin(), "what has run out is in nobody's way");
    assert_eq!(bars.bar(ROOM, ended).await.unwrap(), Some(begin()));
}

pub(crate) async fn what_not_every_store_can_keep_is_refused<S: Store>() {
    let bars = S::fresh().await.pk_bars;
    let is_refused = |answer: &StateError| matches!(answer, StateError::Malformed { .. });
    let last = PkBar { since_seq: PK_SEQ_MAX - 2, seq: PK_SEQ_MAX - 1, ..begin() };
    let malformed = [
        PkBar { seq: PK_SEQ_MAX + 1, ..last },
        PkBar { since_seq: -1, ..begin() },
        PkBar { seq: SINCE - 1, ..begin() },
        PkBar { value: 101, ..begin() },
        PkBar { value: -1, ..begin() },
        PkBar { value: 100, ..begin() },
        PkBar { value: 100, winner: Some(PkWinner::Challenger), ..begin() },
        PkBar { winner: Some(PkWinner::Anchor), ..begin() },
    ];
    for bar in malformed {
        assert!(is_refused(&bars.put(ROOM, bar, at(0)).await.unwrap_err()), "{bar:?}");
    }
    assert_eq!(bars.bar(ROOM, at(0)).await.unwrap(), None);
    assert_eq!(bars.put(ROOM, last, at(0)).await.unwrap(), last);
    let step = PkStep { since_seq: last.since_seq, after_seq: last.seq, seq: PK_SEQ_MAX, by: 1 };
    for malformed in [PkStep { seq: PK_SEQ_MAX + 1, ..step }, PkStep { after_seq: -1, ..step }, PkStep { since_seq: i64::MAX, ..step }] {
        assert!(is_refused(&bars.step(ROOM, malformed, at(0)).await.unwrap_err()), "{malformed:?}");
    }
    assert_eq!(bars.step(ROOM, step, at(0)).await.unwrap(), PkStepped::Applied(last.after(PK_SEQ_MAX, 1)), "to the last place");
}

pub(crate) async fn of_many_steps_at_once_each_is_applied_once<S: Store>() {
    const GIFTS: i64 = 20;
    let bars = S::fresh().await.pk_bars;
    bars.put(ROOM, begin(), at(0)).await.unwrap();
    // Three routers that each take themselves for the room's owner, and try until a gift is in.
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let bars = bars.clone();
            tokio::spawn(async move {
                let mut applied = 0;
                for seq in SINCE + 1..=SINCE + GIFTS {
                    match bars.step(ROOM, gift(seq, if seq % 2 == 0 { 3 } else { -2 }), at(0)).await.unwrap() {
                        PkStepped::Applied(_) => applied += 1,
                        PkStepped::Before(bar) => assert!(bar.seq >= seq),
                        PkStepped::Missing => panic!("each has seen the gift before {seq} in"),
                    }
                }
                applied
            })
        })
        .collect();
    let mut applied = 0;
    for task in tasks {
        applied += task.await.unwrap();
    }
    assert_eq!(applied, GIFTS);
    assert_eq!(bars.bar(ROOM, at(0)).await.unwrap(), Some(bar(SINCE + GIFTS, 60)));
}

#[derive(Clone, Debug)]
enum Step {
    /// A PK begins with the room's last gift.
    Begin(i64, i64),
    /// A gift comes: it is paid for, and moves the bar if the call arrives.
    Gift {
        room: i64,
        by: i64,
        arrives: bool,
    },
    /// A gift comes a second time: so many before the last.
    Again {
        room: i64,
        back: usize,
    },
    /// The bar is put from the ledger, without the last gifts: who puts it had read it before they came.
    Put {
        room: i64,
        without: usize,
    },
    End(i64, i64),
    Pass(u64),
}

/// What the ledger knows of a room.
#[derive(Default)]
struct Room {
    /// Challenger and the gifts of the PK; the first entry is the gift before it.
    pk: Option<(i64, Vec<(i64, i64)>)>,
    last_seq: i64,
    /// The bar in the store: of which PK, of how many of its gifts, and until when.
    stands: Option<(i64, usize, u64)>,
}

impl Room {
    /// The bar of so many gifts, by a walk of its own.
    fn bar(&self, gifts: usize) -> Option<PkBar> {
        let (challenger, places) = self.pk.as_ref()?;
        let mut bar = PkBar::begin(UserId(*challenger), places[0].0);
        for (seq, by) in &places[1..=gifts] {
            bar.seq = *seq;
            if bar.winner.is_some() {
                continue;
            }
            bar.value = i32::try_from((i64::from(bar.value) + by).clamp(0, 100)).unwrap();
            bar.winner = match bar.value {
                100 => Some(PkWinner::Anchor),
                0 => Some(PkWinner::Challenger),
                _ => None,
            };
        }
        Some(bar)
    }

    fn since(&self) -> Option<i64> {
        self.pk.as_ref().map(|(_, places)| places[0].0)
    }

    /// How many gifts of the PK the bar that stands has.
    fn gifts(&self, now: u64) -> Option<usize> {
        let (since, gifts, until) = self.stands?;
        (now < until && Some(since) == self.since()).then_some(gifts)
    }
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let step = prop_oneof![
        2 => (0i64..2, 0i64..2).prop_map(|(room, challenger)| Step::Begin(room, challenger)),
        8 => (0i64..2, -30i64..=30, proptest::bool::weighted(0.8)).prop_map(|(room, by, arrives)| Step::Gift { room, by, arrives }),
        2 => (0i64..2, 0usize..4).prop_map(|(room, back)| Step::Again { room, back }),
        3 => (0i64..2, 0usize..3).prop_map(|(room, without)| Step::Put { room, without }),
        1 => (0i64..2, 0i64..2).prop_map(|(room, challenger)| Step::End(room, challenger)),
        2 => prop_oneof![3 => 0..HOUR, 1 => 0..2 * PK_BAR_KEPT_MS].prop_map(Step::Pass),
    ];
    histories::<S, _>(step, async |state, steps| {
        let bars = state.pk_bars;
        let mut now = at(0);
        let mut model: BTreeMap<i64, Room> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Begin(number, challenger) => {
                    let room = model.entry(number).or_default();
                    // It begins behind a gift that was no PK gift, so that every PK has a place of its own.
                    room.last_seq += 1;
                    room.pk = Some((challenger, vec![(room.last_seq, 0)]));
                    room.stands = Some((room.last_seq, 0, now + PK_BAR_KEPT_MS));
                    let begun = PkBar::begin(UserId(challenger), room.last_seq);
                    prop_assert_eq!(bars.put(RoomId(number), begun, now).await.unwrap(), begun);
                }
                Step::Gift { room: number, by, arrives } => {
                    let room = model.entry(number).or_default();
                    let Some((_, places)) = &mut room.pk else { continue };
                    let after_seq = places.last().unwrap().0;
                    // Not all gifts of a room are to the PK.
                    room.last_seq += 1 + by.rem_euclid(2);
                    places.push((room.last_seq, by));
                    if !arrives {
                        continue;
                    }
                    let (since_seq, seq) = (room.since().unwrap(), room.last_seq);
                    let stepped = bars.step(RoomId(number), PkStep { since_seq, after_seq, seq, by }, now).await.unwrap();
                    let all = room.pk.as_ref().unwrap().1.len() - 1;
                    if room.gifts(now) == Some(all - 1) {
                        room.stands = Some((since_seq, all, now + PK_BAR_KEPT_MS));
                        prop_assert_eq!(stepped, PkStepped::Applied(room.bar(all).unwrap()));
                    } else {
                        prop_assert_eq!(stepped, PkStepped::Missing);
                    }
                }
                Step::Again { room: number, back } => {
                    let room = model.entry(number).or_default();
                    let Some((_, places)) = &room.pk else { continue };
                    let Some(which) = (places.len() - 1).checked_sub(back).filter(|which| *which > 0) else { continue };
                    let ((after_seq, _), (seq, by)) = (places[which - 1], places[which]);
                    let step = PkStep { since_seq: places[0].0, after_seq, seq, by };
                    let stepped = bars.step(RoomId(number), step, now).await.unwrap();
                    match room.gifts(now) {
                        Some(gifts) if gifts >= which => prop_assert_eq!(stepped, PkStepped::Before(room.bar(gifts).unwrap())),
                        Some(gifts) if gifts == which - 1 => {
                            room.stands = Some((step.since_seq, which, now + PK_BAR_KEPT_MS));
                            prop_assert_eq!(stepped, PkStepped::Applied(room.bar(which).unwrap()));
                        }
                        _ => prop_assert_eq!(stepped, PkStepped::Missing),
                    }
                }
                Step::Put { room: number, without } => {
                    let room = model.entry(number).or_default();
                    let Some(since_seq) = room.since() else { continue };
                    let gifts = (room.pk.as_ref().unwrap().1.len() - 1).saturating_sub(without);
                    let stands = bars.put(RoomId(number), room.bar(gifts).unwrap(), now).await.unwrap();
                    match room.gifts(now) {
                        Some(more) if more > gifts => prop_assert_eq!(stands, room.bar(more).unwrap()),
                        _ => {
                            room.stands = Some((since_seq, gifts, now + PK_BAR_KEPT_MS));
                            prop_assert_eq!(stands, room.bar(gifts).unwrap());
                        }
                    }
                }
                Step::End(number, challenger) => {
                    let room = model.entry(number).or_default();
                    let Some(since_seq) = room.since() else { continue };
                    let ended = bars.clear(RoomId(number), UserId(challenger), since_seq).await.unwrap();
                    let is_theirs = room.pk.as_ref().is_some_and(|(theirs, _)| *theirs == challenger);
                    // One that has run out may count.
                    prop_assert!(is_theirs || !ended);
                    prop_assert!(ended || !is_theirs || room.gifts(now).is_none());
                    if is_theirs {
                        (room.pk, room.stands) = (None, None);
                    }
                }
                Step::Pass(ms) => now += ms,
            }
            for (number, room) in &model {
                let expected = room.gifts(now).and_then(|gifts| room.bar(gifts));
                prop_assert_eq!(bars.bar(RoomId(*number), now).await.unwrap(), expected);
            }
        }
        Ok(())
    });
}
