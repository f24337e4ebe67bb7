//! The shared state of a cluster is killed, comes back with its data or empty, or is parted from one router, in the middle of a PK.

use super::{
    books::{Books, Shown},
    crew::{ANCHOR, Crew, Kind, Way},
    looks_at,
};
use billfish_testing::{Api, Chaos, Cluster, ClusterOptions, eventually};
use serde_json::{Value, json};
use std::{fs, time::Duration};

/// The first of the viewers, who gives nothing.
const CHALLENGER: i64 = 20_201;

struct Town {
    /// Before the cluster: it goes first.
    crew: Crew,
    cluster: Cluster,
    apis: Vec<Api>,
    books: Books,
    room: i64,
}

impl Town {
    /// Two gateways, two routers, a PK in a room that the first router owns, and a crew that gives to both sides.
    fn begin() -> Option<Self> {
        let put = |name: &str, value: &str| (format!("BILLFISH__{name}"), value.to_owned());
        let cluster = Cluster::start(ClusterOptions {
            gateways: 2,
            redis_proxies: true,
            router_environment: vec![put("LEDGER__AUDIT_EVERY", "10s"), put("ROUTER__GIFT__USER_GIFTS_MAX", "1000")],
            ..ClusterOptions::new(env!("CARGO_BIN_EXE_billfish"))
        })?;
        let apis: Vec<Api> = (0..2).map(|router| cluster.api(router)).collect();
        let way = Way { gateways: cluster.gateways.iter().map(|gateway| gateway.address("tcp")).collect(), apis: apis.clone() };
        let room = Self::room_of_the_first(&cluster, &apis[0]);
        let kind = Kind { pk: true, receivers: [ANCHOR, CHALLENGER], ..Kind::plain() };
        let crew = Crew::start_after(&way, room, kind, || {
            let online = json!({"userId": CHALLENGER});
            let (status, answer) = apis[0].call("POST", &format!("/v1/rooms/{room}/pk/online"), &online).unwrap();
            assert_eq!(status, 204, "{answer}");
        });
        crew.give_more(3);
        let books = Books::File(cluster.data_dir().join("billfish.db"));
        Some(Self { crew, cluster, apis, books, room })
    }

    fn room_of_the_first(cluster: &Cluster, api: &Api) -> i64 {
        let mut found = None;
        eventually("a room is of the first router", || {
            let (status, opened) = api.call("POST", "/v1/rooms", &json!({"anchorId": ANCHOR, "type": 2})).unwrap();
            assert!(status < 300, "{opened}");
            let room = opened["roomId"].as_i64().unwrap();
            api.call("POST", "/v1/im/push", &json!({"target": {"roomId": room}, "bizCode": 5568, "data": "{}"})).unwrap();
            if cluster.owner_of(room) == Some(0) {
                found = Some(room);
                return true;
            }
            let (status, answer) = api.call("POST", &format!("/v1/rooms/{room}/close"), &json!({"anchorId": ANCHOR})).unwrap();
            assert!(status < 300, "{answer}");
            false
        });
        found.unwrap()
    }

    /// All give again, all that was done adds up, and everyone is shown the bar that the ledger makes.
    fn end(mut self) {
        self.crew.give_more(3);
        self.cluster.wait_ready();
        assert!(self.crew.refusals() > 0, "nobody noticed anything");
        let given = self.crew.stop();
        self.books.check(&self.crew, &given, Shown::Once, Some(&|| looks_at(&self.cluster)));
        let bar = self.books.bar();
        eventually("every viewer is shown the same bar", || self.crew.seen().iter().all(|seen| seen.bar == Some(bar)));
        for api in &self.apis {
            let (_, view) = api.call("GET", &format!("/v1/rooms/{}/pk", self.room), &Value::Null).unwrap();
            assert_eq!((view["sendGiftSeqNum"].as_i64(), view["pkNum"].as_i64()), (Some(bar.0), Some(bar.1)), "{view}");
        }
        let kept = format!("im:living_pk_key:{{{}}}", self.room);
        eventually("the shared state has the bar again", || {
            let keys = self.cluster.redis_command(&kept, &["KEYS", &format!("im:living_pk*{}*", self.room)]);
            keys.is_ok_and(|keys| !keys.is_empty())
        });
    }
}

#[test]
fn a_redis_that_is_killed_and_comes_back_costs_nobody_money_and_the_bar_goes_on() {
    let Some(mut town) = Town::begin() else { return };
    for _ in 0..2 {
        town.cluster.redis_mut().kill();
        town.crew.be_refused(2);
        town.cluster.redis_mut().start_again();
        town.crew.give_more(3);
    }
    town.end();
}

#[test]
fn a_redis_that_comes_back_empty_is_told_the_bar_by_the_ledger() {
    let Some(mut town) = Town::begin() else { return };
    let redis = town.cluster.redis_mut();
    redis.kill();
    fs::remove_dir_all(redis.directory().join("appendonlydir")).unwrap();
    town.crew.be_refused(2);
    town.cluster.redis_mut().start_again();
    town.end();
}

#[test]
fn a_router_that_does_not_reach_redis_gives_its_rooms_up_and_nothing_is_paid_twice() {
    let Some(town) = Town::begin() else { return };
    for chaos in [Chaos::BlackHole, Chaos::Reset] {
        town.cluster.redis_proxies[0].set(chaos);
        town.crew.be_refused(1);
        // By the other router, while the first still thinks what it likes.
        town.crew.give_more(3);
        town.cluster.redis_proxies[0].set(Chaos::Forward);
        eventually("the first router is back", || town.cluster.routers[0].ready());
        std::thread::sleep(Duration::from_millis(500));
        town.crew.give_more(3);
    }
    town.end();
}
