//! The rules of the stage one by one, and against a model for any order of what comes.

use super::{ROOMS_MAX, Stage};
use crate::{
    event::Event,
    gift::{GiftEvent, GiftKind, PkBar},
};
use billfish_wire::Body;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const ROOM: i64 = 7;
const ANCHOR: i64 = 90_001;
const BOB: i64 = 90_002;
const CAROL: i64 = 90_003;

fn push(biz_code: i32, seq: i64, data: String) -> Body {
    Body { biz_code: Some(biz_code), room_id: Some(ROOM), seq: Some(seq), ts: Some(99), data: Some(data), ..Body::default() }
}

/// One tap, or several, of one rose each.
fn gift(seq: i64, gift_seqs: &[i64], bar: &str) -> Body {
    let nums: Vec<i64> = gift_seqs.iter().map(|seq| num_of(*seq)).collect();
    let (first, num) = (gift_seqs[0], nums.iter().sum::<i64>());
    let many = if gift_seqs.len() > 1 { format!(r#","giftSeqs":{gift_seqs:?},"nums":{nums:?}"#) } else { String::new() };
    let what = format!(r#""giftId":1,"url":"rose","senderId":20001,"receiverId":{ANCHOR},"num":{num},"uuid":"u{first}","giftSeq":{first}"#);
    push(if bar.is_empty() { 5556 } else { 5558 }, seq, format!("{{{what}{many}{bar}}}"))
}

fn num_of(gift_seq: i64) -> i64 {
    1 + gift_seq % 5
}

fn moved(value: i32, bar_seq: i64) -> String {
    format!(r#","pkNum":{value},"sendGiftSeqNum":{bar_seq}"#)
}

fn state(seq: i64, bar: PkBar) -> Body {
    let challenger = bar.challenger_id.map(|id| format!(r#""pkObjId":{id},"#)).unwrap_or_default();
    let winner = bar.winner_id.map(|id| format!(r#""winnerId":{id},"#)).unwrap_or_default();
    let (anchor, value, bar_seq, over) = (bar.anchor_id, bar.value, bar.seq, bar.is_over);
    let data = format!(r#"{{"anchorId":{anchor},{challenger}{winner}"pkNum":{value},"sendGiftSeqNum":{bar_seq},"isOver":{over}}}"#);
    Body { key: Some("pk".to_owned()), ..push(5558, seq, data) }
}

fn bar(challenger: Option<i64>, value: i32, seq: i64) -> PkBar {
    PkBar { anchor_id: ANCHOR, challenger_id: challenger, value, seq, ..PkBar::default() }
}

impl Stage {
    fn shows(&mut self, body: Body) -> Vec<Event> {
        self.hear(Box::new(body))
    }

    fn joins(&mut self, pk: Option<Body>) -> (Option<PkBar>, bool) {
        let mut states: BTreeMap<String, Body> = pk.into_iter().map(|body| ("pk".to_owned(), body)).collect();
        let told = self.on_joined(ROOM, false, &mut states);
        (told, states.contains_key("pk"))
    }
}

fn only_gift(mut events: Vec<Event>) -> GiftEvent {
    match (events.pop(), events.is_empty()) {
        (Some(Event::Gift(gift)), true) => gift,
        (other, _) => panic!("one gift was expected: {other:?} behind {events:?}"),
    }
}

fn told_bar(events: &[Event]) -> Option<PkBar> {
    events.iter().find_map(|event| if let Event::PkBar { bar, .. } = event { Some(*bar) } else { None })
}

#[test]
fn a_gift_is_told_as_it_was_given() {
    let mut stage = Stage::default();
    let data = r#"{"giftId":3,"url":"u.svga","senderId":20001,"receiverId":90001,"num":2,"uuid":"u-1","giftSeq":5,"comboId":"c"}"#;
    let expected = GiftEvent {
        room_id: ROOM,
        gift_id: 3,
        kind: GiftKind::Normal,
        url: "u.svga".to_owned(),
        sender_id: 20_001,
        receiver_id: ANCHOR,
        num: 2,
        combo: Some("c".to_owned()),
        uuid: Some("u-1".to_owned()),
        gift_seqs: vec![5],
        seq: Some(40),
        ts_ms: 99,
        pk: None,
    };
    assert_eq!(only_gift(stage.shows(push(5556, 40, data.to_owned()))), expected);
}

#[test]
fn a_push_of_several_taps_shows_those_that_are_new() {
    let mut stage = Stage::default();
    assert_eq!(only_gift(stage.shows(gift(1, &[5], ""))).num, num_of(5));
    assert_eq!(stage.shows(gift(2, &[5], "")), [], "under another number");
    let rest = only_gift(stage.shows(gift(3, &[5, 6, 8], "")));
    assert_eq!((rest.num, rest.gift_seqs, rest.uuid), (num_of(6) + num_of(8), vec![6, 8], None));
    assert_eq!(stage.shows(gift(4, &[5, 6], "")), []);
    let mut elsewhere = gift(1, &[5], "");
    elsewhere.room_id = Some(ROOM + 1);
    assert_eq!(only_gift(stage.shows(elsewhere)).room_id, ROOM + 1, "places are a room's own");
}

#[test]
fn gifts_of_a_server_that_names_no_places_are_all_told() {
    let mut stage = Stage::default();
    for _ in 0..2 {
        let data = r#"{"giftId":3,"url":"/g/3","senderId":10086,"receiverId":10087,"num":1}"#;
        let shown = only_gift(stage.shows(push(5556, 1, data.to_owned())));
        assert_eq!((shown.num, shown.gift_seqs, shown.uuid), (1, vec![], None));
    }
}

#[test]
fn what_cannot_be_read_comes_whole() {
    let mut stage = Stage::default();
    let uneven = r#"{"giftId":3,"senderId":1,"receiverId":2,"num":3,"giftSeqs":[1,2],"nums":[3]}"#;
    for (biz_code, data) in [(5556, "{}"), (5556, "not json"), (5556, uneven), (5558, "[]"), (5559, "{}"), (5555, "{}"), (4711, "x")] {
        let body = push(biz_code, 1, data.to_owned());
        assert_eq!(stage.shows(body.clone()), [Event::Push(Box::new(body))], "{data}");
    }
    let broken = Body { key: Some("pk".to_owned()), ..push(5558, 1, "{}".to_owned()) };
    assert_eq!(stage.shows(broken.clone()), [Event::Push(Box::new(broken))]);
    let elsewhere = Body { room_id: None, ..gift(1, &[1], "") };
    assert_eq!(stage.shows(elsewhere.clone()), [Event::Push(Box::new(elsewhere))], "a gift is a room's");
}

#[test]
fn a_challenger_is_told_with_the_picture() {
    let online = Stage::default().shows(push(5559, 1, format!(r#"{{"pkObjId":{BOB},"pkObjAvatar":"b.png"}}"#)));
    assert_eq!(online, [Event::PkOnline { room_id: ROOM, challenger_id: BOB, avatar: "b.png".to_owned() }]);
}

#[test]
fn gifts_and_states_move_one_bar() {
    let mut stage = Stage::default();
    let begun = bar(Some(BOB), 50, 4);
    assert_eq!(stage.shows(state(1, begun)), [Event::PkBar { room_id: ROOM, bar: begun }]);
    let events = stage.shows(gift(2, &[5], &moved(70, 5)));
    let now = bar(Some(BOB), 70, 5);
    let Some(Event::Gift(gift_event)) = events.first() else { panic!("the gift comes first: {events:?}") };
    assert_eq!((gift_event.kind, gift_event.pk, told_bar(&events)), (GiftKind::Pk, Some(now), Some(now)));
    assert_eq!(stage.shows(state(3, now)), [], "the state says what was told");
    assert_eq!(stage.shows(state(4, bar(Some(BOB), 60, 4))), [], "a smaller seq after a larger one");
    let late = only_gift(stage.shows(gift(5, &[6], &moved(40, 3))));
    assert_eq!(late.pk, None, "the gift is shown, its bar is not");
    let same = only_gift(stage.shows(gift(6, &[7], &moved(70, 5))));
    assert_eq!(same.pk, Some(now), "where the bar stands is no news");
    let again = stage.shows(gift(7, &[7], &moved(80, 7)));
    assert_eq!(again, [Event::PkBar { room_id: ROOM, bar: bar(Some(BOB), 80, 7) }], "a gift that was shown tells where the bar is");
}

#[test]
fn the_winner_is_told_and_gifts_after_him_are_shown() {
    let mut stage = Stage::default();
    stage.shows(state(1, bar(Some(BOB), 90, 4)));
    let won = PkBar { winner_id: Some(ANCHOR), is_over: true, ..bar(Some(BOB), 100, 5) };
    let winner = format!(r#"{},"winnerId":{ANCHOR}"#, moved(100, 5));
    assert_eq!(told_bar(&stage.shows(gift(2, &[5], &winner))), Some(won));
    assert_eq!(stage.shows(state(3, won)), []);
    let after = stage.shows(gift(4, &[6], &winner.replace(":5,", ":6,")));
    assert_eq!((after.len(), told_bar(&after)), (2, Some(PkBar { seq: 6, ..won })));
}

#[test]
fn a_pk_that_ends_and_one_that_begins_at_the_same_gift_are_told() {
    let mut stage = Stage::default();
    let steps = [bar(Some(BOB), 70, 5), bar(None, 50, 5), bar(Some(CAROL), 50, 5)];
    for (seq, step) in (1..).zip(steps) {
        assert_eq!(stage.shows(state(seq, step)), [Event::PkBar { room_id: ROOM, bar: step }]);
    }
    assert_eq!(stage.shows(state(2, steps[1])), [], "what was before in the room");
    assert_eq!(only_gift(stage.shows(gift(1, &[5], &moved(70, 5)))).pk, Some(steps[2]));
}

#[test]
fn a_bar_is_not_told_before_it_is_known_whose_it_is() {
    let mut stage = Stage::default();
    assert_eq!(only_gift(stage.shows(gift(2, &[5], &moved(70, 5)))).pk, None);
    assert_eq!(told_bar(&stage.shows(state(3, bar(Some(BOB), 70, 5)))), Some(bar(Some(BOB), 70, 5)));
    stage.shows(state(4, bar(None, 50, 5)));
    assert_eq!(only_gift(stage.shows(gift(5, &[6], &moved(60, 6)))).pk, None, "nobody challenges");
}

#[test]
fn a_snapshot_tells_the_bar_unless_it_is_behind() {
    let mut stage = Stage::default();
    let (old, new) = (bar(Some(BOB), 60, 4), bar(Some(BOB), 70, 5));
    assert_eq!(stage.joins(Some(state(1, old))), (Some(old), true));
    assert_eq!(stage.joins(Some(state(1, old))), (None, true), "told");
    stage.shows(gift(2, &[5], &moved(70, 5)));
    assert_eq!(stage.joins(Some(state(1, old))), (None, false), "the state is told once a second, gifts at once");
    assert_eq!(stage.joins(Some(state(3, new))), (None, true));
    assert_eq!(stage.joins(None), (None, false));
    assert_eq!(told_bar(&stage.shows(gift(4, &[6], &moved(80, 6)))), Some(bar(Some(BOB), 80, 6)));
}

#[test]
fn who_comes_back_to_a_room_is_told_where_its_bar_stands_and_of_no_gift_again() {
    let mut stage = Stage::default();
    let stands = bar(Some(BOB), 60, 4);
    stage.joins(Some(state(1, stands)));
    stage.shows(gift(2, &[1, 2, 3], ""));
    stage.on_left(ROOM);
    assert_eq!(stage.joins(Some(state(1, stands))), (Some(stands), true));
    assert_eq!(stage.shows(gift(2, &[1, 2, 3], "")), []);
    stage.on_left(ROOM);
    assert_eq!(stage.joins(None), (None, false), "the PK may be over");
    assert_eq!(only_gift(stage.shows(gift(3, &[5], &moved(70, 5)))).pk, None);
    assert_eq!(told_bar(&stage.shows(state(4, stands))), Some(stands), "it goes on");
}

#[test]
fn after_a_gap_the_numbers_of_the_room_may_have_begun_anew() {
    let mut stage = Stage::default();
    stage.joins(Some(state(1_000, bar(Some(BOB), 60, 4))));
    let mut states = BTreeMap::from([("pk".to_owned(), state(3, bar(None, 50, 4)))]);
    assert_eq!(stage.on_joined(ROOM, true, &mut states), Some(bar(None, 50, 4)));
}

#[test]
fn no_more_rooms_are_remembered_than_the_bound_and_those_left_go_first() {
    let mut stage = Stage::default();
    stage.joins(None);
    stage.shows(gift(1, &[1], ""));
    for room_id in 100..300 {
        stage.on_joined(room_id, false, &mut BTreeMap::new());
        stage.on_left(room_id);
    }
    assert_eq!(stage.rooms.len(), ROOMS_MAX);
    assert_eq!(stage.shows(gift(1, &[1], "")), [], "the room that the user is in is not forgotten");
}

/// What happens in a room, in its order.
#[derive(Clone, Debug)]
enum Step {
    Gift { taps: u8, by: i8 },
    State,
    Begin { challenger: i64 },
    End,
}

/// How it reaches the app: any of it, any number of times, in any order, with snapshots between.
#[derive(Clone, Debug)]
enum Delivery {
    Push(prop::sample::Index),
    Join(prop::sample::Index),
    JoinWithout,
    Leave,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_u8..4, -60_i8..60).prop_map(|(taps, by)| Step::Gift { taps, by }),
        3 => Just(Step::State),
        1 => prop_oneof![Just(BOB), Just(CAROL)].prop_map(|challenger| Step::Begin { challenger }),
        1 => Just(Step::End),
    ]
}

fn any_delivery() -> impl Strategy<Value = Delivery> {
    prop_oneof![
        40 => any::<prop::sample::Index>().prop_map(Delivery::Push),
        5 => any::<prop::sample::Index>().prop_map(Delivery::Join),
        1 => Just(Delivery::JoinWithout),
        2 => Just(Delivery::Leave),
    ]
}

/// A push of the room: the gifts it stands for, and the bar it tells.
#[derive(Clone, Debug)]
struct Told {
    body: Body,
    gifts: Vec<i64>,
    bar_seq: Option<i64>,
    is_state: bool,
    bar: PkBar,
}

/// The pushes of a room where this happens.
fn history(steps: &[Step]) -> Vec<Told> {
    let (mut stands, mut gift_seq, mut told) = (bar(None, 50, 0), 0, Vec::new());
    for (step, seq) in steps.iter().zip(1..) {
        let mut gifts = Vec::new();
        let is_gift = match step {
            Step::Gift { taps, by } => {
                gifts.extend((0..i64::from(*taps)).map(|tap| gift_seq + 1 + tap));
                gift_seq += i64::from(*taps);
                if stands.challenger_id.is_some() {
                    let value = if stands.is_over { stands.value } else { (stands.value + i32::from(*by)).clamp(0, 100) };
                    let winner_id = match value {
                        0 => stands.challenger_id,
                        100 => Some(ANCHOR),
                        _ => None,
                    };
                    stands = PkBar { value, seq: gift_seq, winner_id, is_over: winner_id.is_some(), ..stands };
                }
                true
            }
            Step::State => false,
            Step::Begin { challenger } => {
                stands = bar(Some(*challenger), 50, gift_seq);
                false
            }
            Step::End => {
                stands = bar(None, 50, stands.seq);
                false
            }
        };
        let is_pk = stands.challenger_id.is_some();
        let winner = stands.winner_id.map(|id| format!(r#","winnerId":{id}"#)).unwrap_or_default();
        let moved = if is_pk { format!("{}{winner}", moved(stands.value, stands.seq)) } else { String::new() };
        let body = if is_gift { gift(seq, &gifts, &moved) } else { state(seq, stands) };
        told.push(Told { body, gifts, bar_seq: (is_pk || !is_gift).then_some(stands.seq), is_state: !is_gift, bar: stands });
    }
    told
}

proptest! {
    #[test]
    fn no_bar_goes_back_and_each_gift_is_shown_once_in_whatever_order_things_come(
        steps in proptest::collection::vec(any_step(), 1..40),
        deliveries in proptest::collection::vec(any_delivery(), 0..120),
    ) {
        let history = history(&steps);
        let states: Vec<&Told> = history.iter().filter(|told| told.is_state).collect();
        let mut stage = Stage::default();
        let (mut events, mut delivered) = (Vec::new(), Vec::new());
        // Until who comes back hears of no bar.
        let (mut is_known, mut is_in) = (true, false);
        for delivery in deliveries {
            match delivery {
                Delivery::Push(index) => {
                    let told = index.get(&history);
                    events.extend(stage.shows(told.body.clone()));
                    delivered.push(told);
                }
                Delivery::Join(index) if !states.is_empty() => {
                    let told = *index.get(&states);
                    let (shown, is_left_in) = stage.joins(Some(told.body.clone()));
                    let newest = events.iter().filter_map(bar_of).map(|bar| bar.seq).max();
                    prop_assert!(is_left_in || told.bar_seq < newest, "{:?} is not behind {newest:?}", told.bar);
                    events.extend(shown.map(|bar| Event::PkBar { room_id: ROOM, bar }));
                    delivered.push(told);
                    is_in = true;
                }
                Delivery::Join(_) | Delivery::JoinWithout => {
                    stage.joins(None);
                    is_known &= is_in || delivered.is_empty();
                    is_in = true;
                }
                Delivery::Leave => {
                    stage.on_left(ROOM);
                    is_in = false;
                }
            }
        }

        let seqs: Vec<i64> = events.iter().filter_map(bar_of).map(|bar| bar.seq).collect();
        prop_assert!(seqs.is_sorted(), "a smaller seq after a larger one: {seqs:?}");

        let mut shown = BTreeSet::new();
        for event in &events {
            let Event::Gift(gift) = event else { continue };
            for seq in &gift.gift_seqs {
                prop_assert!(shown.insert(*seq), "gift {seq} twice");
            }
            prop_assert_eq!(gift.num, gift.gift_seqs.iter().map(|seq| num_of(*seq)).sum::<i64>());
        }
        let all: BTreeSet<i64> = delivered.iter().flat_map(|told| told.gifts.iter().copied()).collect();
        prop_assert_eq!(shown, all, "every gift that came");

        // The newest of all that came is what is shown at last, where a state has told whose it is.
        let newest = delivered.iter().filter(|told| told.bar_seq.is_some()).max_by_key(|told| (told.bar_seq, told.body.seq));
        if let Some(newest) = newest.filter(|newest| newest.is_state && is_known) {
            prop_assert_eq!(events.iter().filter_map(bar_of).next_back(), Some(newest.bar));
        }
    }
}

/// The bar that an event lets the app draw.
fn bar_of(event: &Event) -> Option<PkBar> {
    if let Event::Gift(gift) = event {
        return gift.pk;
    }
    if let Event::PkBar { bar, .. } = event { Some(*bar) } else { None }
}
