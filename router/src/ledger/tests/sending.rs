//! Webhooks, sent: in order, at least once, by one router at a time, and at nobody's cost.

use super::{APP, Home, NOW, coins, count, fund, gift, live, new_room, pay_one, webhooks::new_hook};
use crate::{
    ledger::{
        Ledger, Sharing, Till,
        metrics::TillMetrics,
        webhooks::{Claim, Hook, NewHook},
    },
    services::ports::{
        OpenOutcome, RoomRecords,
        money::{GiftOutcome, Money, NewGift},
    },
    webhooks::{
        Webhooks, WebhooksConfig,
        event::EventKind,
        receiver::{Heard, Receiver, Reply, signed_by_hand},
    },
};
use billfish_state::{RoomId, State};
use billfish_testing::PATIENCE;
use prometheus_client::registry::Registry;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    net::TcpSocket,
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

/// How receivers are served here: on this machine, and given up on sooner.
fn config() -> WebhooksConfig {
    WebhooksConfig {
        timeout: Duration::from_millis(1_500),
        retry_max: Duration::from_secs(1),
        allow_http: Some(true),
        allow_private: Some(true),
        ..WebhooksConfig::default()
    }
}

/// The same, given up on only where nothing comes: for tests in which nothing may come twice.
fn patient() -> WebhooksConfig {
    WebhooksConfig { timeout: PATIENCE, ..config() }
}

/// By the clock on the wall.
fn second() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn start(ledger: &Ledger, name: &str, life: u64, config: &WebhooksConfig) -> Webhooks {
    Webhooks::start(ledger, &state(), (name, life), config, &mut Registry::default())
}

/// One whose time begins when everything here is written.
fn state() -> State {
    let state = State::in_memory();
    state.clock.set(NOW);
    state
}

async fn register(ledger: &Ledger, url: String) -> Hook {
    let new = NewHook { url, ..new_hook(APP, &EventKind::ALL) };
    ledger.add_hook(&new, 8, NOW).await.unwrap().expect("there is room")
}

/// Gifts of a room, paid one batch after the other.
async fn give(ledger: &Ledger, room: RoomId, name: &str, gifts: usize) {
    let gifts: Vec<NewGift> = (0..gifts).map(|turn| gift(room, 20_001, &format!("{name} {turn} {room}"), 1)).collect();
    let outcomes = ledger.pay_gifts(&gifts, NOW).await.unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, GiftOutcome::Paid { .. })));
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// The gifts of each room, each taken once, where it was accepted first.
fn firsts(heard: &[Heard]) -> BTreeMap<i64, Vec<String>> {
    let (mut seen, mut of_rooms) = (BTreeSet::new(), BTreeMap::<i64, Vec<String>>::new());
    for heard in heard.iter().filter(|heard| heard.is_accepted && heard.event == "gift.paid") {
        if seen.insert(heard.id.clone()) {
            of_rooms.entry(heard.about).or_default().push(heard.id.clone());
        }
    }
    of_rooms
}

fn gifts_of(room: RoomId, count: usize) -> Vec<String> {
    (1..=count).map(|seq| format!("gift-{room}-{seq}")).collect()
}

pub(super) async fn events_arrive_signed_in_the_order_of_their_room_though_every_third_call_fails(home: Home) {
    let ledger = home.open().await;
    let receiver = Receiver::planned(|turn, _| if turn % 3 == 2 { Reply::Status(500) } else { Reply::Status(204) }).await;
    register(&ledger, receiver.url()).await;
    let begun = second();
    let webhooks = start(&ledger, "a", 1, &patient());
    let rooms = [live(&ledger, 30_001).await, live(&ledger, 30_002).await];
    fund(&ledger, 20_001, 1_000).await;
    for room in rooms {
        give(&ledger, room, "a", 6).await;
    }
    // Of each room its opening too.
    receiver.wait_accepted(14).await;
    let heard = receiver.heard();
    for room in rooms {
        assert_eq!(firsts(&heard)[&room.0], gifts_of(room, 6));
        let tries: Vec<(&str, u32)> =
            heard.iter().filter(|heard| heard.about == room.0).map(|heard| (heard.id.as_str(), heard.tries)).collect();
        // Nothing of a room comes before what is before it was accepted: an event comes again until then, with its tries counted.
        for pair in tries.windows(2) {
            let is_next = if pair[0].0 == pair[1].0 { pair[1].1 == pair[0].1 + 1 } else { pair[1].1 == 1 };
            assert!(is_next, "{tries:?}");
        }
    }
    assert_eq!(receiver.accepted().len(), 14, "without a crash nothing comes twice");
    for heard in &heard {
        let signed: u64 = heard.signature.strip_prefix("t=").unwrap().split(',').next().unwrap().parse().unwrap();
        assert_eq!(heard.signature, signed_by_hand(b"a secret between us", signed, &heard.body));
        assert!((begun..=second()).contains(&signed), "{signed} is not by the clock that receivers have");
    }
    assert_eq!(receiver.most_at_once().0, 1, "of one room one at a time");
    until("nothing waits", async || count(&ledger, "t_webhook_event").await == 0).await;
    webhooks.close().await;
    receiver.stop().await;
}

pub(super) async fn a_receiver_that_hangs_or_refuses_connections_gets_its_events_when_it_is_back(home: Home) {
    let ledger = home.open().await;
    // Nobody listens there yet, and nobody else will.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap();
    let hook = register(&ledger, format!("http://{address}/hook")).await.id;
    let webhooks = start(&ledger, "a", 1, &WebhooksConfig { timeout: Duration::from_millis(300), ..config() });
    let room = live(&ledger, 30_001).await;
    until("a try has failed", async || webhooks.tries()[2] > 0).await;
    let receiver = Receiver::at(socket.listen(64).unwrap(), |turn, _| match turn {
        0 => Reply::Hang,
        1 => Reply::Status(302),
        2 => Reply::Status(503),
        _ => Reply::Status(200),
    });
    receiver.wait_accepted(1).await;
    assert_eq!(receiver.followed(), 0, "a redirection is an answer like any other");
    let heard = receiver.heard();
    assert!(heard.len() >= 4 && heard.iter().all(|heard| heard.id == format!("room-{room}-opened")), "{heard:?}");
    until("it is told how the hook fares", async || {
        let status = ledger.refresh_hooks().await.unwrap().remove(0).status;
        status.delivered_ms > 0 && status.failed_ms > 0 && status.problem.contains("503") && status.waiting == 0
    })
    .await;
    assert_eq!(ledger.given_up_events(hook, i64::MAX, 10).await.unwrap(), []);
    webhooks.close().await;
    receiver.stop().await;
}

pub(super) async fn a_sender_that_dies_before_it_has_heard_the_answer_is_followed_by_one_that_sends_the_same_again(home: Home) {
    let ledger = home.open().await;
    let receiver = Receiver::planned(|turn, _| if turn == 3 { Reply::Hang } else { Reply::Status(200) }).await;
    register(&ledger, receiver.url()).await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 1_000).await;
    give(&ledger, room, "a", 5).await;
    // A process of its own, as far as it can be one here: its runtime is gone in the middle of a call, with all it knew.
    let (kill, killed) = oneshot::channel::<()>();
    let (config_of_home, directory) = (home.config.clone(), home.directory.path().to_owned());
    let first = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ledger = Ledger::open(&config_of_home, &directory, Sharing::Shared).await.unwrap();
            let _webhooks = start(&ledger, "a", 1, &WebhooksConfig { timeout: PATIENCE, ..config() });
            killed.await.ok();
        });
        runtime.shutdown_background();
    });
    receiver.wait_heard(4).await;
    kill.send(()).unwrap();
    tokio::task::spawn_blocking(move || first.join().unwrap()).await.unwrap();
    let before = receiver.heard();
    assert_eq!(before.last().unwrap().id, format!("gift-{room}-3"), "{before:?}");
    // Its next life takes over at once.
    let webhooks = start(&ledger, "a", 2, &config());
    receiver.wait_accepted(6).await;
    let heard = receiver.heard();
    let again = &heard[before.len()..];
    let repeated: Vec<&Heard> = again.iter().filter(|heard| before.iter().any(|before| before.id == heard.id)).collect();
    assert!(repeated.iter().any(|heard| heard.id == format!("gift-{room}-3")), "{heard:?}");
    for heard in &repeated {
        let first = before.iter().find(|before| before.id == heard.id).unwrap();
        assert_eq!(first.body, heard.body, "the same again, to the byte");
    }
    assert_eq!(firsts(&receiver.accepted())[&room.0], gifts_of(room, 5));
    webhooks.close().await;
    receiver.stop().await;
}

pub(super) async fn a_receiver_that_hangs_holds_up_no_gift_and_its_events_are_bounded(home: Home) {
    let ledger = home.open().await;
    let receiver = Receiver::planned(|_, _| Reply::Hang).await;
    // The bound holds for what was read before there was one.
    register(&ledger, receiver.url()).await;
    let config = WebhooksConfig { timeout: PATIENCE, events_max: 20, calls_per_hook_max: 3, ..config() };
    let webhooks = start(&ledger, "a", 1, &config);
    let rooms = [live(&ledger, 30_001).await, live(&ledger, 30_002).await, live(&ledger, 30_003).await, live(&ledger, 30_004).await];
    fund(&ledger, 20_001, 10_000).await;
    receiver.wait_heard(3).await;
    // It says nothing to three calls, and more are not made.
    let till = Till::start_with(&ledger, &state().clock, TillMetrics::register(&mut Registry::default()));
    for turn in 0..200 {
        let room = rooms[turn % 4];
        let outcome = timeout(PATIENCE, till.pay(gift(room, 20_001, &format!("{turn}"), 1))).await.expect("nobody waits for the receiver");
        assert!(matches!(outcome.unwrap(), GiftOutcome::Paid { .. }));
    }
    till.close().await;
    assert_eq!(coins(&ledger, 20_001).await, 9_800);
    assert_eq!((receiver.heard().len(), receiver.most_at_once().1), (3, 3));
    until("what was dropped is told", async || {
        let status = ledger.refresh_hooks().await.unwrap().remove(0).status;
        // 4 openings and 200 gifts; it is counted every second only, so a few more than the bound may wait.
        let waiting = count(&ledger, "t_webhook_event").await.unsigned_abs();
        status.dropped > 0 && status.dropped + waiting == 204
    })
    .await;
    receiver.let_go();
    receiver.follow(|_, _| Reply::Status(200));
    until("all that was kept is delivered", async || count(&ledger, "t_webhook_event").await == 0).await;
    for (room, gifts) in firsts(&receiver.heard()) {
        let mut sorted = gifts.clone();
        sorted.sort_by_key(|id| id.rsplit('-').next().unwrap().parse::<u64>().unwrap());
        assert_eq!(gifts, sorted, "of room {room} some are missing, and the others are in order");
    }
    webhooks.close().await;
    receiver.stop().await;
}

pub(super) async fn two_routers_never_call_at_the_same_time_and_keep_the_order_when_they_change_places(home: Home) {
    let ledgers = [home.open().await, home.open().await];
    let receiver = Receiver::start().await;
    let hook = register(&ledgers[0], receiver.url()).await.id;
    ledgers[1].refresh_hooks().await.unwrap();
    let first = start(&ledgers[0], "a", 1, &patient());
    let second = start(&ledgers[1], "b", 1, &patient());
    let rooms = [live(&ledgers[0], 30_001).await, live(&ledgers[1], 30_002).await, live(&ledgers[0], 30_003).await];
    fund(&ledgers[0], 20_001, 10_000).await;
    for turn in 0..10 {
        for (ledger, room) in ledgers.iter().cycle().zip(rooms) {
            give(ledger, room, &turn.to_string(), 3).await;
        }
    }
    receiver.wait_accepted(20).await;
    // The one that sends goes, in order; the other takes over without waiting for a claim to run out.
    let holder = async || ledgers[0].refresh_hooks().await.unwrap().remove(0).claim.holder;
    let (leaver, stayer) = if holder().await == "a" { (first, second) } else { (second, first) };
    let was = holder().await;
    leaver.close().await;
    for turn in 10..20 {
        for (ledger, room) in ledgers.iter().cycle().zip(rooms) {
            give(ledger, room, &turn.to_string(), 3).await;
        }
    }
    receiver.wait_accepted(183).await;
    let heard = receiver.heard();
    for room in rooms {
        assert_eq!(firsts(&heard)[&room.0], gifts_of(room, 60));
    }
    assert_eq!((heard.len(), receiver.most_at_once().0), (183, 1), "each once, and of one room one at a time");
    let now = holder().await;
    assert!(was != now && ["a", "b"].contains(&&*now), "{was:?} {now:?}");
    // That one goes too; then one that has died is its holder. Until its claim has run out nobody calls; then the next one does.
    stayer.close().await;
    let claim = Claim { holder: "dead".to_owned(), life: 1, until_ms: NOW + 1_800_000 };
    assert!(ledgers[0].claim_hook(hook, &claim, NOW).await.unwrap());
    give(&ledgers[0], rooms[0], "late", 3).await;
    let state = state();
    let early = Webhooks::start(&ledgers[0], &state, ("c", 1), &config(), &mut Registry::default());
    // It has looked twice at least: it is told of each that is registered.
    for count in 1..=2 {
        register(&ledgers[0], "http://127.0.0.1:1/".to_owned()).await;
        until("it holds the others", async || early.held() == count).await;
    }
    assert_eq!((holder().await, receiver.heard().len()), ("dead".to_owned(), 183));
    state.clock.shift(3_600_000);
    until("it has run out", async || holder().await == "c").await;
    receiver.wait_accepted(186).await;
    early.close().await;
    receiver.stop().await;
}

pub(super) async fn a_receiver_that_says_it_is_gone_is_called_no_more(home: Home) {
    let ledger = home.open().await;
    let receiver = Receiver::planned(|turn, _| if turn == 0 { Reply::Status(410) } else { Reply::Status(200) }).await;
    let hook = register(&ledger, receiver.url()).await.id;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 100).await;
    give(&ledger, room, "a", 3).await;
    let webhooks = start(&ledger, "a", 1, &config());
    until("what waited is given up", async || ledger.given_up_events(hook, i64::MAX, 10).await.unwrap().len() == 4).await;
    let of = ledger.refresh_hooks().await.unwrap().remove(0);
    assert!(!of.is_active && of.status.problem.contains("410"), "{of:?}");
    give(&ledger, room, "b", 3).await;
    assert_eq!(count(&ledger, "t_webhook_event").await, 0, "nothing is written for it");
    assert_eq!(receiver.heard().len(), 1);
    webhooks.close().await;
    receiver.stop().await;
}

pub(super) async fn an_event_that_nobody_takes_is_given_up_in_time_and_can_be_looked_at(home: Home) {
    let ledger = home.open().await;
    let poison = |heard: &Heard| heard.id.ends_with("-1");
    let receiver = Receiver::planned(move |_, heard| if poison(heard) { Reply::Status(400) } else { Reply::Status(200) }).await;
    let hook = register(&ledger, receiver.url()).await.id;
    let webhooks = start(&ledger, "a", 1, &WebhooksConfig { give_up_after: Duration::from_secs(2), ..patient() });
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, 100).await;
    give(&ledger, room, "a", 3).await;
    until("it is given up", async || ledger.given_up_events(hook, i64::MAX, 10).await.unwrap().len() == 1).await;
    receiver.wait_accepted(3).await;
    let given_up = ledger.given_up_events(hook, i64::MAX, 10).await.unwrap().remove(0);
    assert_eq!((given_up.id, given_up.kind), (format!("gift-{room}-1"), EventKind::GiftPaid));
    assert!(given_up.tries >= 2 && given_up.problem == "the receiver answered 400", "{} {}", given_up.tries, given_up.problem);
    assert!(given_up.end_ms - given_up.made_ms >= 2_000);
    let accepted: Vec<String> = receiver.accepted().into_iter().map(|heard| heard.id).collect();
    assert_eq!(accepted, [format!("room-{room}-opened"), format!("gift-{room}-2"), format!("gift-{room}-3")]);
    webhooks.close().await;
    receiver.stop().await;
}

pub(super) async fn a_receiver_that_may_not_be_called_is_not_and_its_hook_says_why(home: Home) {
    for (allow_http, allow_private, says) in [(None, Some(true), "allow_http"), (Some(true), None, "no public address")] {
        let ledger = home.open().await;
        let receiver = Receiver::start().await;
        let hook = register(&ledger, receiver.url()).await.id;
        let webhooks = start(&ledger, "a", 1, &WebhooksConfig { allow_http, allow_private, ..config() });
        let room = live(&ledger, if allow_http.is_none() { 30_001 } else { 30_002 }).await;
        fund(&ledger, 20_001, 10).await;
        pay_one(&ledger, gift(room, 20_001, &format!("{allow_http:?}"), 1)).await;
        until("it says why", async || {
            let hooks = ledger.refresh_hooks().await.unwrap();
            hooks.iter().any(|of| of.id == hook && of.status.problem.contains(says))
        })
        .await;
        assert_eq!(receiver.heard().len(), 0);
        webhooks.close().await;
        ledger.remove_hook(hook).await.unwrap();
        receiver.stop().await;
    }
}

pub(super) async fn receivers_that_are_slow_leave_the_others_their_share_of_the_calls(home: Home) {
    let ledger = home.open().await;
    let slow = Receiver::planned(|_, _| Reply::Slow(Duration::from_millis(200))).await;
    register(&ledger, slow.url()).await;
    let mut rooms = Vec::new();
    for anchor in 30_001..30_009 {
        rooms.push(live(&ledger, anchor).await);
    }
    fund(&ledger, 20_001, 1_000).await;
    for room in &rooms {
        give(&ledger, *room, "a", 30).await;
    }
    // All the calls there are, and it takes each.
    let webhooks = start(&ledger, "a", 1, &WebhooksConfig { calls_max: 4, ..patient() });
    slow.wait_heard(4).await;
    let quick = Receiver::start().await;
    register(&ledger, quick.url()).await;
    for room in &rooms {
        give(&ledger, *room, "b", 1).await;
    }
    quick.wait_accepted(8).await;
    assert!(slow.accepted().len() < 8 * 32, "it has waited for all the calls of the slow one");
    assert!(slow.most_at_once().1 <= 4);
    webhooks.close().await;
    slow.stop().await;
    quick.stop().await;
}

pub(super) async fn who_has_lost_a_hook_holds_it_no_more(home: Home) {
    let ledger = home.open().await;
    let receiver = Receiver::start().await;
    let hook = register(&ledger, receiver.url()).await.id;
    let state = state();
    let webhooks = Webhooks::start(&ledger, &state, ("a", 1), &config(), &mut Registry::default());
    until("it is held", async || webhooks.held() == 1).await;
    // Whose clock is far ahead.
    let far_ms = NOW + 3_600_000;
    let claim = Claim { holder: "b".to_owned(), life: 1, until_ms: far_ms + 3_600_000 };
    assert!(ledger.claim_hook(hook, &claim, far_ms).await.unwrap());
    state.clock.shift(10_000);
    until("it is no longer held", async || webhooks.held() == 0).await;
    assert_eq!(ledger.refresh_hooks().await.unwrap().remove(0).claim, claim);
    // And again, when the other has given it back.
    ledger.release_hooks("b", 1).await.unwrap();
    until("it is held again", async || webhooks.held() == 1).await;
    live(&ledger, 30_001).await;
    receiver.wait_accepted(1).await;
    webhooks.close().await;
    receiver.stop().await;
}

pub(super) async fn who_is_alone_takes_over_at_once_though_the_clock_was_put_back(home: Home) {
    let ledger = Ledger::open(&home.config, home.directory.path(), Sharing::Exclusive).await.unwrap();
    let receiver = Receiver::start().await;
    let hook = register(&ledger, receiver.url()).await.id;
    // It was killed an hour later, by a clock that was wrong.
    let life = NOW + 3_600_000;
    let claim = Claim { holder: "a".to_owned(), life, until_ms: life + 35_000 };
    assert!(ledger.claim_hook(hook, &claim, life).await.unwrap());
    let OpenOutcome::Opened(_) = ledger.open_room(&new_room(30_001), life).await.unwrap() else { panic!("no room") };
    let webhooks = start(&ledger, "a", NOW, &config());
    receiver.wait_accepted(1).await;
    webhooks.close().await;
    receiver.stop().await;
}
