//! Whoever owns the room dies while taps are held to be shown together.

use super::{
    CONFIG,
    books::{Books, Shown},
    crew::{ANCHOR, Crew, Kind, Way},
    looks_of,
};
use crate::house::House;
use billfish_testing::{Api, Cluster, ClusterOptions, eventually};
use std::{thread, time::Duration};

fn taps() -> Kind {
    Kind { combo: true, pause: Duration::from_millis(25), ..Kind::plain() }
}

/// The room's log outlives its owner: what it has is not shown again, however the next owner would have put the taps together.
#[test]
fn taps_whose_owner_is_killed_are_shown_once_each_by_the_next_owner() {
    let put = |name: &str, value: &str| (format!("BILLFISH__{name}"), value.to_owned());
    let options = ClusterOptions {
        gateways: 2,
        router_environment: vec![put("LEDGER__AUDIT_EVERY", "10s"), put("ROUTER__GIFT__USER_GIFTS_MAX", "1000")],
        ..ClusterOptions::new(env!("CARGO_BIN_EXE_billfish"))
    };
    let Some(mut cluster) = Cluster::start(options) else { return };
    let apis: Vec<Api> = (0..2).map(|router| cluster.api(router)).collect();
    let way = Way { gateways: cluster.gateways.iter().map(|gateway| gateway.address("tcp")).collect(), apis: apis.clone() };
    let room = apis[0].open_room(ANCHOR);
    let mut crew = Crew::start(&way, room, taps());
    for round in 0..4 {
        crew.give_more(10);
        // At any moment of the windows of several combos.
        thread::sleep(Duration::from_millis(70 * round));
        let mut owner = None;
        eventually("somebody owns the room", || {
            owner = cluster.owner_of(room);
            owner.is_some()
        });
        let owner = owner.unwrap();
        cluster.routers[owner].kill();
        crew.give_more(3);
        cluster.routers[owner].start_again();
        cluster.wait_ready();
    }
    crew.give_more(3);
    let given = crew.stop();
    let books = Books::File(cluster.data_dir().join("billfish.db"));
    // The lease of whoever looked over the money last outlives him by a minute, and he may be one of the dead: nobody waits for the next look.
    books.check(&crew, &given, Shown::Once, None);
}

/// Its log has died with it: taps may be shown again, by whatever they were put together with. What is shown is what was paid, and nothing
/// stays in the outbox.
#[test]
fn no_push_of_a_server_that_is_killed_among_taps_stands_for_what_was_not_paid() {
    let mut house = House::with(CONFIG);
    let room = house.open_room(ANCHOR);
    let way = Way { gateways: vec![house.ports.tcp], apis: vec![Api::new(house.ports.http, &house.api_key)] };
    let mut crew = Crew::start(&way, room, taps());
    for round in 0..4 {
        crew.give_more(10);
        thread::sleep(Duration::from_millis(70 * round));
        house.kill();
        house.start_again();
    }
    crew.give_more(3);
    let given = crew.stop();
    let books = Books::File(house.data_dir().join("billfish.db"));
    books.check(&crew, &given, Shown::AsFarAsItLived, Some(&|| looks_of(|name, labels| house.metric(name, labels))));
}
