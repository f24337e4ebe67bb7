//! What stands behind the service is killed, locked, parted from it or full, in the middle of gifts: no money is changed wrongly, whoever gives
//! is told when to come again, chat goes on, and service returns by itself.
//!
//! `crew` gives and watches, `books` looks at what came of it.

mod books;
mod combos;
mod crew;
mod disk;
mod maria;
mod redis;
mod sqlite;

use crate::house::{House, Peer};
use billfish_testing::{Api, Cluster};
use billfish_wire::{BizCode, Code};
use books::{Books, Shown};
use crew::{ANCHOR, Crew, Kind, Way};
use serde_json::{Value, json};

/// Looks over the money as often as may be, and lets everyone give as fast as he likes.
const CONFIG: &str = "[router.gift]\nuser_gifts_max = 1000\n[ledger]\naudit_every = \"10s\"\n";

/// Everything in one process, with a room, its crew, and two who talk.
struct Stage {
    /// Before the house: it goes first.
    crew: Crew,
    house: House,
    books: Books,
    room: i64,
    talking: [Peer; 2],
    said: usize,
}

impl Stage {
    fn begin(house: House, books: Books) -> Self {
        let room = house.open_room(ANCHOR);
        let way = Way { gateways: vec![house.ports.tcp], apis: vec![Api::new(house.ports.http, &house.api_key)] };
        let crew = Crew::start(&way, room, Kind::plain());
        let talking = [20_301, 20_302].map(|user| way.enter(user, room, None).0);
        crew.give_more(3);
        Self { crew, house, books, room, talking, said: 0 }
    }

    /// With its records on a server.
    fn on_server(url: &str, books: Books) -> Self {
        Self::begin(House::with(&format!("{CONFIG}url = \"{url}\"\n")), books)
    }

    /// Somebody says something, and is heard.
    fn chat(&mut self) {
        self.said += 1;
        let text = format!("still here {}", self.said);
        let [speaker, listener] = &mut self.talking;
        speaker.chat(self.room, &text, &text);
        assert_eq!(speaker.expect(Code::Ack).msg_id.as_deref(), Some(text.as_str()));
        loop {
            let body = listener.expect(Code::Biz);
            if body.biz_code == Some(BizCode::ROOM_CHAT.0) {
                let data: Value = serde_json::from_str(body.data.as_deref().unwrap()).unwrap();
                assert_eq!(data["content"], json!(text));
                return;
            }
        }
    }

    /// Service has returned: all give again, and all that was done adds up. How many gifts were paid.
    fn end(mut self) -> i64 {
        self.crew.give_more(3);
        self.chat();
        assert!(self.crew.refusals() > 0, "nobody noticed anything");
        let given = self.crew.stop();
        let house = &self.house;
        let looks = || looks_of(|name, labels| house.metric(name, labels));
        self.books.check(&self.crew, &given, Shown::Once, Some(&looks))
    }
}

/// What the looks over the money have found, and how many found nothing.
fn looks_of(metric: impl Fn(&str, &[&str]) -> f64) -> (f64, f64) {
    let of = |result: &str| metric("router_money_looks_total", &[&format!("result=\"{result}\"")]);
    (of("findings") + metric("router_money_findings", &[]), of("clean"))
}

/// The same of all routers.
fn looks_at(cluster: &Cluster) -> (f64, f64) {
    looks_of(|name, labels| cluster.routers.iter().filter_map(|router| router.metric(name, labels)).sum())
}
