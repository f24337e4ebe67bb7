//! What of each room's gifts and PK was shown: each gift once, and a bar never behind the one before.
//!
//! - A gift is known by its place among the gifts of its room. A push may stand for several taps, and be grouped otherwise when it comes
//!   again: what is new in it is shown.
//! - A bar is newer by its `seq`; of two at the same gift, as the last of one PK and the first of the next, by the place of the push in the
//!   room. Events, states and snapshots all feed the one bar of a room.
//! - Pure. What comes again by its id, or behind what was shown, the session below has taken out already; nothing here relies on it.

use super::{BarDown, GiftDown, GiftEvent, GiftKind, OnlineDown, PK_KEY, PkBar, spans::Spans};
use crate::event::{self, Event};
use billfish_wire::{BizCode, Body};
use std::collections::BTreeMap;

/// Rooms remembered: the eight that a session may be in, and those it came from last.
const ROOMS_MAX: usize = 32;
/// Holes in the places of a room's gifts that are remembered. They close within the 300 ms of a combo; a room full of combos has fewer.
const SPANS_MAX: usize = 1_024;

/// All rooms.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    rooms: BTreeMap<i64, Room>,
    turn: u64,
}

#[derive(Debug)]
struct Room {
    gifts: Spans,
    bar: Option<Shown>,
    is_in: bool,
    used: u64,
}

/// The bar that the app was told of.
#[derive(Debug)]
struct Shown {
    bar: PkBar,
    /// The place in the room of what told it.
    room_seq: Option<i64>,
    /// Whose it is was told, and is not known to be of another PK.
    is_known: bool,
}

impl Stage {
    /// What the app hears of a push.
    pub(crate) fn hear(&mut self, body: Box<Body>) -> Vec<Event> {
        let room_id = body.room_id.filter(|room_id| *room_id != 0);
        match (body.biz_code.map(BizCode), room_id) {
            (Some(BizCode::GIFT_OK | BizCode::PK_GIFT), Some(room_id)) => self.on_gift(room_id, body),
            (Some(BizCode::PK_ONLINE), Some(room_id)) => vec![online(room_id, body)],
            _ => vec![event::of_push(body)],
        }
    }

    fn on_gift(&mut self, room_id: i64, body: Box<Body>) -> Vec<Event> {
        let data = body.data.as_deref().unwrap_or_default();
        let is_pk = body.biz_code == Some(BizCode::PK_GIFT.0);
        if is_pk && body.key.as_deref() == Some(PK_KEY) {
            return match PkBar::read(data) {
                Some(bar) => self.room(room_id).show_bar(bar, body.seq).map(|bar| Event::PkBar { room_id, bar }).into_iter().collect(),
                None => vec![Event::Push(body)],
            };
        }
        let gift = GiftDown::read(data);
        let moved = if is_pk { BarDown::read(data) } else { None };
        if gift.is_none() && moved.is_none() {
            return vec![Event::Push(body)];
        }
        let room = self.room(room_id);
        let bar = moved.and_then(|moved| room.move_bar(moved, body.seq));
        let pk = moved.and_then(|moved| room.stands_at(moved.send_gift_seq_num));
        let kind = if is_pk { GiftKind::Pk } else { GiftKind::Normal };
        let place = GiftEvent { room_id, kind, seq: body.seq, ts_ms: body.ts.unwrap_or(0), pk, ..GiftEvent::default() };
        let gift = gift.and_then(|gift| room.show_gift(gift, place));
        gift.map(Event::Gift).into_iter().chain(bar.map(|bar| Event::PkBar { room_id, bar })).collect()
    }

    /// A snapshot has come. Takes a bar out of its states that is behind the one shown, and gives the one to be shown now.
    pub(crate) fn on_joined(&mut self, room_id: i64, gap: bool, states: &mut BTreeMap<String, Body>) -> Option<PkBar> {
        let room = self.room(room_id);
        let was_in = std::mem::replace(&mut room.is_in, true);
        if gap && let Some(shown) = &mut room.bar {
            // The numbers of the room may have begun anew.
            shown.room_seq = None;
        }
        let state = states.get(PK_KEY);
        let Some((bar, room_seq)) = state.and_then(|state| Some((PkBar::read(state.data.as_deref()?)?, state.seq))) else {
            if !was_in && let Some(shown) = &mut room.bar {
                // What was on when the user left may be over. What it says of places still holds.
                (shown.is_known, shown.room_seq) = (false, None);
            }
            return None;
        };
        let told = room.show_bar(bar, room_seq);
        let shown = room.bar.as_ref().map(|shown| shown.bar)?;
        if bar.seq < shown.seq {
            states.remove(PK_KEY);
        }
        // Who comes back has an empty stage before him.
        told.or_else(|| (!was_in).then_some(shown))
    }

    /// The app is out of a room.
    pub(crate) fn on_left(&mut self, room_id: i64) {
        if let Some(room) = self.rooms.get_mut(&room_id) {
            room.is_in = false;
        }
    }

    fn room(&mut self, room_id: i64) -> &mut Room {
        self.turn += 1;
        if !self.rooms.contains_key(&room_id) && self.rooms.len() >= ROOMS_MAX {
            let oldest = self.rooms.iter().min_by_key(|(_, room)| (room.is_in, room.used)).map(|(room_id, _)| *room_id);
            oldest.and_then(|oldest| self.rooms.remove(&oldest));
        }
        let room = self.rooms.entry(room_id).or_insert_with(|| Room { gifts: Spans::default(), bar: None, is_in: false, used: 0 });
        room.used = self.turn;
        room
    }
}

impl Room {
    /// Shows a bar, if it is newer than the one shown.
    fn show_bar(&mut self, bar: PkBar, room_seq: Option<i64>) -> Option<PkBar> {
        let Some(shown) = &mut self.bar else {
            self.bar = Some(Shown { bar, room_seq, is_known: true });
            return Some(bar);
        };
        let is_newer = bar.seq > shown.bar.seq || (bar.seq == shown.bar.seq && room_seq > shown.room_seq);
        if !is_newer {
            return None;
        }
        let has_changed = bar != shown.bar || !shown.is_known;
        *shown = Shown { bar, room_seq, is_known: true };
        has_changed.then_some(bar)
    }

    /// A gift has moved the bar. Of a PK that nobody has told of it is not known whose it is: its state follows.
    fn move_bar(&mut self, BarDown { pk_num, send_gift_seq_num, winner_id }: BarDown, room_seq: Option<i64>) -> Option<PkBar> {
        let shown = self.bar.as_ref().filter(|shown| shown.is_known && shown.bar.challenger_id.is_some())?;
        let bar = PkBar { value: pk_num, seq: send_gift_seq_num, winner_id, is_over: winner_id.is_some(), ..shown.bar };
        self.show_bar(bar, room_seq)
    }

    /// The bar that is shown, if it is of this gift.
    fn stands_at(&self, seq: i64) -> Option<PkBar> {
        let shown = self.bar.as_ref().filter(|shown| shown.is_known)?;
        (shown.bar.seq == seq && shown.bar.challenger_id.is_some()).then_some(shown.bar)
    }

    /// What of a gift was not shown before; `None`: all of it was.
    fn show_gift(&mut self, gift: GiftDown, place: GiftEvent) -> Option<GiftEvent> {
        let taps = gift.taps();
        let new: Vec<(i64, i64)> = taps.iter().copied().filter(|(seq, _)| self.gifts.insert(*seq, SPANS_MAX)).collect();
        if new.is_empty() && !taps.is_empty() {
            return None;
        }
        let is_first_new = taps.first() == new.first();
        let num = if taps.is_empty() { gift.num } else { new.iter().fold(0, |sum: i64, (_, num)| sum.saturating_add(*num)) };
        Some(GiftEvent {
            gift_id: gift.gift_id,
            url: gift.url,
            sender_id: gift.sender_id,
            receiver_id: gift.receiver_id,
            num,
            combo: gift.combo_id.filter(|combo| !combo.is_empty()),
            uuid: gift.uuid.filter(|_| is_first_new),
            gift_seqs: new.into_iter().map(|(seq, _)| seq).collect(),
            ..place
        })
    }
}

fn online(room_id: i64, body: Box<Body>) -> Event {
    match body.data.as_deref().map(serde_json::from_str::<OnlineDown>) {
        Some(Ok(OnlineDown { pk_obj_id, pk_obj_avatar })) => Event::PkOnline { room_id, challenger_id: pk_obj_id, avatar: pk_obj_avatar },
        Some(Err(_)) | None => Event::Push(body),
    }
}

#[cfg(test)]
mod tests;
