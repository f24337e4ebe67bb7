//! What must hold when calm has lasted: a house in order, and every promise kept.

use crate::{
    journal::{To, escaped_content},
    store::at_once,
    trace::note,
    world::{APP, World},
};
use billfish_session::Time;
use billfish_state::{AppId, RoomId, UserId};
use billfish_wire::{Body, Code, frame};
use std::collections::BTreeMap;

impl World {
    /// A frame has reached a client: it must be for this user, and of a room that the user has asked for.
    pub(crate) fn check_frame(&mut self, client: usize, bytes: &[u8]) {
        let Ok(Some((frame, _))) = frame::decode(bytes, usize::MAX) else {
            return self.journal.violated(format!("client {client} got what is no frame"));
        };
        if Code::from_number(frame.code) != Some(Code::Biz) {
            return;
        }
        let Ok(body) = Body::decode(frame.encoding, frame.body) else {
            return self.journal.violated(format!("client {client} got a body that cannot be read"));
        };
        let app = &self.clients[client];
        if let Some(room) = body.room_id.filter(|room| *room != 0) {
            let is_strange =
                if self.is_probing() { !app.machine.rooms().any(|mine| mine == room) } else { !app.ever_wanted.contains(&room) };
            if is_strange {
                let what = format!("client {client} got a push of room {room}, which it is not in");
                self.journal.violated(what);
            }
        }
    }

    /// Everyone says something everywhere, and something to somebody.
    pub(crate) fn probe(&mut self) {
        note!(self.trace, "PROBES");
        for room in self.rooms.clone() {
            // By who spoke last, which may be the owner no more: it may be refused.
            drop(self.push_from_backend(room));
        }
        for client in 0..self.clients.len() {
            for room in self.journal.rooms(client) {
                let text = self.say(client, To::Room(room));
                self.probes.push(text);
            }
            let other = self.clients[(client + 2) % self.clients.len()].user;
            if other != self.clients[client].user {
                let text = self.say(client, To::User(other));
                self.probes.push(text);
            }
        }
    }

    /// After the probes: one owner for each room, one session for each client, nothing under way, every probe taken.
    pub(crate) fn check_house(&mut self) {
        note!(self.trace, "CHECK");
        self.check_sessions();
        for text in std::mem::take(&mut self.probes) {
            self.journal.check_probe(&text);
        }
        for (room, speakers) in std::mem::take(&mut self.probe_speakers) {
            if speakers.len() > 1 {
                self.journal.violated(format!("room {room} has several owners after the calm: {speakers:?}"));
            }
        }
        self.journal.whispers_so_far();
    }

    /// At the end: everything that was accepted has been shown to everyone, once.
    pub(crate) fn check_promises(&mut self) {
        self.trace.set_now(self.now);
        note!(self.trace, "END");
        for room in self.rooms.clone() {
            let now_ms = crate::router::UNIX_MS + self.now;
            let log = at_once(self.shared.truth.room_log.read(RoomId(room), 0, 10_000, now_ms));
            let entries = log.map(|page| page.entries).unwrap_or_default();
            let texts = entries.iter().filter_map(|entry| Some((entry.seq, escaped_content(std::str::from_utf8(&entry.body).ok()?)?)));
            self.journal.log_has(room, texts.collect::<Vec<_>>());
        }
        self.journal.check_promises();
        for user in self.clients.iter().map(|client| client.user).collect::<std::collections::BTreeSet<_>>() {
            let now_ms = crate::router::UNIX_MS + self.now;
            let inbox = at_once(self.shared.truth.inbox.read(AppId(APP), UserId(user), None, 100, now_ms));
            let left: Vec<String> = inbox.map(|page| page.entries).unwrap_or_default().into_iter().map(|entry| entry.id).collect();
            if !left.is_empty() {
                self.journal.violated(format!("{user} acknowledged everything, and the inbox still has {left:?}"));
            }
        }
    }

    /// One live session for every client, in the rooms that its app is in.
    fn check_sessions(&mut self) {
        let mut sessions: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for gateway in self.gateways.iter().filter_map(|place| place.gateway.as_ref()) {
            for (user, device, conn) in gateway.sessions() {
                sessions.entry((user, device)).or_default().push(conn);
            }
        }
        let mut broken = Vec::new();
        for (who, conns) in &sessions {
            if conns.len() > 1 {
                broken.push(format!("{who:?} has {} live sessions", conns.len()));
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            let rooms: Vec<i64> = client.machine.rooms().collect();
            if !client.machine.is_live() {
                broken.push(format!("client {index} did not come back; next deadline {:?}", client.machine.next_deadline() == Time::NEVER));
                continue;
            }
            if client.machine.in_flight() > 0 {
                broken.push(format!("client {index} waits for {} answers", client.machine.in_flight()));
            }
            if rooms != self.journal.rooms(index) {
                broken.push(format!("client {index} wants {rooms:?} and is in {:?}", self.journal.rooms(index)));
            }
            let there = client.conn.and_then(|conn| self.gateways[self.conns[conn].gateway].gateway.as_ref()?.rooms(conn));
            if there.as_ref() != Some(&rooms) {
                broken.push(format!("client {index} is in {rooms:?}, and its gateway thinks {there:?}"));
            }
        }
        for place in &self.gateways {
            let in_flight = place.gateway.as_ref().map_or(0, crate::gateway::Gateway::in_flight);
            if in_flight > 0 {
                broken.push(format!("a gateway waits for {in_flight} answers of routers"));
            }
        }
        broken.into_iter().for_each(|what| self.journal.violated(what));
    }
}
