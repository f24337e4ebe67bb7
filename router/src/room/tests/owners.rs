//! A room whose owner changes, dies, or cannot reach the store: two routers on one state, and what gateways hear.

use super::{
    town::{LEASE, SEEN, Town, interest},
    *,
};
use billfish_state::{Appended, LogAppend, LogEntry, Member};
use std::{collections::BTreeSet, sync::atomic::Ordering::Relaxed};

#[tokio::test(start_paused = true)]
async fn a_call_about_another_routers_room_is_told_whose_it_is() {
    let town = Town::new();
    town.shows(&["r1"]);
    let (one, two) = (town.router("r1").await, town.router("r2").await);
    tokio::time::sleep(SEEN).await;
    let room = one.house.open(ANCHOR).await;
    let mut gateway = two.house.gateway("g1");
    let sync = Call::Sync(Sync { room_id: room.0, from_seq: 0, from_id: String::new(), resume: false });
    for call in [join(room, None), chat(room, "hello", "m1"), sync, leave(room)] {
        assert_eq!(gateway.moved(ALICE, call).await, "r1");
    }
    assert_eq!(two.house.records.calls("raise_epoch"), 0, "nothing was opened for it");
    gateway = one.house.gateway("g1");
    gateway.join(room, ALICE).await;
}

#[tokio::test(start_paused = true)]
async fn a_room_that_moves_is_given_up_and_its_callers_are_sent_on() {
    let town = Town::new();
    town.shows(&["r1"]);
    let (one, two) = (town.router("r1").await, town.router("r2").await);
    tokio::time::sleep(SEEN).await;
    let room = one.house.open(ANCHOR).await;
    let mut old = one.house.gateway("g1");
    old.join(room, ALICE).await;
    let seq = accepted(old.ask(ALICE, chat(room, "before", "m1")).await);
    town.shows(&["r2"]);
    tokio::time::sleep(SEEN + SEEN).await;
    assert_eq!(old.moved(ALICE, chat(room, "where?", "m2")).await, "r2");
    let mut new = two.house.gateway("g1");
    new.join(room, BOB).await;
    assert!(accepted(new.ask(ALICE, chat(room, "after", "m3")).await) > seq, "he is a member still");
}

#[tokio::test(start_paused = true)]
async fn while_the_room_of_a_dead_router_has_a_lease_callers_are_told_to_try_again_and_then_it_is_ours() {
    let town = Town::new();
    town.shows(&["r1"]);
    let (one, two) = (town.router("r1").await, town.router("r2").await);
    tokio::time::sleep(SEEN).await;
    let room = one.house.open(ANCHOR).await;
    one.house.gateway("g1").join(room, ALICE).await;
    one.cut(true);
    town.shows(&["r2"]);
    tokio::time::sleep(SEEN).await;
    let mut gateway = two.house.gateway("g1");
    let start = tokio::time::Instant::now();
    let mut tries = 0;
    while let reply::Result::Moved(Moved { owner }) = gateway.ask(ALICE, join(room, None)).await {
        assert_eq!(owner, "", "the one that has the lease is dead");
        tries += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(tries > 0 && start.elapsed() < LEASE, "{tries} tries, {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_owner_wrote_and_nobody_heard_is_pushed_by_the_next_also_when_nobody_asks() {
    let town = Town::new();
    town.shows(&["r1"]);
    let (one, two) = (town.router("r1").await, town.router("r2").await);
    tokio::time::sleep(SEEN).await;
    let room = one.house.open(ANCHOR).await;
    let mut gateway = one.house.gateway("g1");
    gateway.join(room, ALICE).await;
    let seen = accepted(gateway.ask(ALICE, chat(room, "heard", "m1")).await);
    one.house.handle.push(PushRequest { key: Some("pk".to_owned()), ..room_push(room, r#"{"content":"state"}"#) }).await.unwrap();
    // It writes another message, and dies.
    let newest = town.state.room_log.last(room, 1, town.state.clock.now_ms()).await.unwrap().remove(0);
    let seq = newest.seq + 100;
    let text =
        String::from_utf8(newest.body.to_vec()).unwrap().replace("heard", "unheard").replace(&newest.seq.to_string(), &seq.to_string());
    let entry = LogEntry { seq, body: text.into(), except: Some(UserId(ALICE)) };
    town.state.room_log.append(room, &[entry.into()], town.state.clock.now_ms()).await.unwrap();
    one.cut(true);
    town.shows(&["r2"]);
    let mut gateway = two.house.gateway("g1");
    tokio::time::sleep(SEEN).await;
    interest(&gateway, room, seen).await;
    tokio::time::sleep(LEASE).await;
    let heard = gateway.rest(Duration::from_secs(1)).await;
    let replayed: Vec<&RoomPush> =
        heard.iter().filter_map(|kind| if let Kind::RoomPush(push) = kind { Some(push) } else { None }).collect();
    let shown: Vec<(String, i64, i64)> = replayed
        .iter()
        .filter(|push| body(push).key != "audience")
        .map(|push| (data(push)["content"].as_str().unwrap().to_owned(), body(push).seq - seen, push.except_user_id))
        .collect();
    assert_eq!(shown.iter().map(|(content, ..)| content.as_str()).collect::<Vec<_>>(), ["state", "unheard"], "{shown:?}");
    assert_eq!((shown[1].1, shown[1].2), (seq - seen, ALICE), "its own number, and not to its sender");
    let epochs: Vec<u64> = replayed.iter().map(|push| push.epoch).collect();
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0]) && epochs[0] > seen.unsigned_abs() >> 32, "{epochs:?}");
    // Asked again for the same, it sends nothing again.
    interest(&gateway, room, seen).await;
    assert_eq!(pushes(&gateway.rest(Duration::from_secs(1)).await), []);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_cannot_be_told_all_it_missed_sends_its_viewers_to_resume() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    let seen = house.say(room, "0").await;
    // Carol came by an earlier owner: her seat is not known here, her route is.
    let now_ms = house.state.clock.now_ms();
    let member = Member { user: UserId(CAROL), device: WEB };
    house.state.members.join(APP, room, &[member], now_ms).await.unwrap();
    let route = Route { app: APP, user: UserId(CAROL), device: WEB, node: "g1".to_owned(), epoch: 1, session: 9 };
    house.state.routes.bind(&[route], now_ms, now_ms + 60_000).await.unwrap();
    drop(gateway);
    settle().await;
    for index in 0..700 {
        house.say(room, &index.to_string()).await;
    }
    let mut gateway = house.gateway("g1");
    interest(&gateway, room, seen).await;
    let heard = gateway.rest(Duration::from_secs(1)).await;
    let mut kicked: Vec<(i64, i32, u64)> = heard
        .iter()
        .filter_map(|kind| if let Kind::Kick(kick) = kind { Some((kick.user_id, kick.code, kick.session)) } else { None })
        .collect();
    kicked.sort_unstable();
    assert_eq!(kicked, [(ALICE, 4012, ALICE.unsigned_abs()), (CAROL, 4012, 9)]);
    assert_eq!(house.metric("router_holed_sessions_total "), 2.0);
}

#[tokio::test(start_paused = true)]
async fn a_router_that_was_stopped_for_longer_than_its_lease_finds_out_before_it_speaks() {
    let town = Town::new();
    town.shows(&["r1"]);
    let one = town.router("r1").await;
    tokio::time::sleep(SEEN).await;
    let room = one.house.open(ANCHOR).await;
    let mut gateway = one.house.gateway("g1");
    gateway.join(room, ALICE).await;
    gateway.rest(Duration::from_secs(2)).await;
    // All its timers are late, as they are in a process that was stopped; meanwhile another router has had the room.
    let id = gateway.call(ALICE, chat(room, "late", "m1")).await;
    let now_ms = town.state.clock.now_ms();
    town.state.clock.set(now_ms + 10_000);
    steal_lease(&town.state, room).await;
    let answer = gateway.answer(id).await;
    assert!(matches!(answer, reply::Result::Moved(_)), "{answer:?}");
    assert_eq!(gateway.rest(Duration::from_secs(1)).await, [], "nothing was said");
}

#[tokio::test(start_paused = true)]
async fn an_owner_whose_log_another_has_written_says_nothing_more_though_its_lease_stands() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    gateway.rest(Duration::from_secs(2)).await;
    // As where the store has lost the lease, and given it to two.
    let entry = LogEntry { seq: 9 << 32, body: "{}".into(), except: None };
    house.state.room_log.append(room, &[entry.into()], house.state.clock.now_ms()).await.unwrap();
    assert_eq!(gateway.moved(ALICE, chat(room, "stale", "m1")).await, "");
    assert_eq!(pushes(&gateway.rest(Duration::from_secs(1)).await), []);
    assert_eq!(house.metric("router_rooms_lost_total "), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_router_that_was_stopped_goes_on_where_nobody_has_had_the_room() {
    let town = Town::new();
    town.shows(&["r1"]);
    let one = town.router("r1").await;
    tokio::time::sleep(SEEN).await;
    let room = one.house.open(ANCHOR).await;
    let mut gateway = one.house.gateway("g1");
    let epoch = gateway.join(room, ALICE).await.seq >> 32;
    town.state.clock.set(town.state.clock.now_ms() + 60_000);
    assert_eq!(accepted(gateway.ask(ALICE, chat(room, "late", "m1")).await) >> 32, epoch, "the same life");
    assert_eq!(one.house.metric("router_rooms_lost_total "), 0.0);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_an_owner_goes_on_with_chat_and_takes_nothing_that_must_arrive() {
    let town = Town::new();
    town.shows(&["r1"]);
    let one = town.router("r1").await;
    tokio::time::sleep(SEEN).await;
    let room = one.house.open(ANCHOR).await;
    let mut gateway = one.house.gateway("g1");
    gateway.join(room, ALICE).await;
    one.cut(true);
    tokio::time::sleep(LEASE + LEASE).await;
    let mut said = Vec::new();
    for index in 0..10 {
        let msg_id = format!("m{index}");
        said.push(accepted(gateway.ask(ALICE, chat(room, &msg_id, &msg_id)).await));
        assert_eq!(accepted(gateway.ask(ALICE, chat(room, &msg_id, &msg_id)).await), said[index], "said once");
    }
    assert_eq!(gateway.refusal(BOB, join(room, None)).await, Reason::Unavailable);
    let push = || PushRequest { qos: 1, ..room_push(room, "{}") };
    assert_eq!(reason(one.house.handle.push(push()).await), Reason::Unavailable);
    let mute = MuteRequest { room, user: UserId(BOB), by: Operator::Admin, duration: None };
    assert_eq!(reason(one.house.handle.mute(mute).await), Reason::Unavailable);
    let heard: Vec<i64> = pushes(&gateway.rest(Duration::from_secs(1)).await).into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(heard, said);
    assert_eq!(one.house.metric("router_rooms_degraded "), 1.0);

    // It comes back, and nobody had the room: what was said is in the log, with its claims, and the life goes on.
    one.cut(false);
    tokio::time::sleep(SEEN).await;
    one.house.handle.push(push()).await.unwrap();
    let page = town.state.room_log.read(room, 0, 100, town.state.clock.now_ms()).await.unwrap();
    let logged: Vec<i64> = page.entries.iter().map(|entry| entry.seq).collect();
    assert_eq!((logged[..10].to_vec(), logged.len()), (said, 11));
    assert_eq!(one.house.metric("router_rooms_degraded "), 0.0);
    assert_eq!(one.house.metric("router_rooms_lost_total "), 0.0);
}

#[tokio::test(start_paused = true)]
async fn who_resumes_before_the_log_has_caught_up_is_told_what_the_others_have_heard() {
    let town = Town::new();
    town.shows(&["r1"]);
    let one = town.router("r1").await;
    let room = one.house.open(ANCHOR).await;
    let mut gateway = one.house.gateway("g1");
    gateway.join(room, ALICE).await;
    let logged = accepted(gateway.ask(ALICE, chat(room, "in the log", "m1")).await);
    one.between.appends_lost.store(u32::MAX, Relaxed);
    let behind = accepted(gateway.ask(ALICE, chat(room, "not yet", "m2")).await);
    let seqs_of = |messages: Vec<billfish_wire::Body>| messages.iter().filter_map(|body| body.seq).collect::<Vec<_>>();
    for (after, missed) in [(logged - 1, vec![logged, behind]), (logged, vec![behind]), (behind, vec![])] {
        let snapshot = snapshot(&joined(gateway.ask(BOB, join(room, Some(after))).await));
        assert_eq!((seqs_of(snapshot.messages), snapshot.gap), (missed.clone(), false));
        let sync = Call::Sync(Sync { room_id: room.0, from_seq: after, from_id: String::new(), resume: false });
        let reply::Result::Synced(synced) = gateway.ask(BOB, sync).await else { panic!("not synced") };
        let page: SyncPage = serde_json::from_str(&synced.data).unwrap();
        assert_eq!((seqs_of(page.messages), page.more, page.gap), (missed, false, false));
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_was_cut_off_stops_when_it_hears_of_the_next() {
    let town = Town::new();
    town.shows(&["r1"]);
    let (one, two) = (town.router("r1").await, town.router("r2").await);
    tokio::time::sleep(SEEN).await;
    let room = one.house.open(ANCHOR).await;
    let mut gateway = one.house.gateway("g1");
    gateway.join(room, ALICE).await;
    one.cut(true);
    town.shows(&["r2"]);
    tokio::time::sleep(LEASE).await;
    let mut other = two.house.gateway("g2");
    let newer = other.join(room, BOB).await.seq;
    let older = accepted(gateway.ask(ALICE, chat(room, "alone", "m1")).await);
    assert!(older < newer, "a gateway that has heard the newer one refuses it");
    one.cut(false);
    tokio::time::sleep(SEEN).await;
    assert_eq!(gateway.moved(ALICE, chat(room, "nobody hears", "m2")).await, "r2");
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_write_got_no_answer_is_said_once_whether_it_was_written_or_not() {
    for written in [true, false] {
        let town = Town::new();
        town.shows(&["r1"]);
        let one = town.router("r1").await;
        let room = one.house.open(ANCHOR).await;
        let mut gateway = one.house.gateway("g1");
        gateway.join(room, ALICE).await;
        gateway.rest(Duration::from_secs(2)).await;
        let lost = if written { &one.between.answers_lost } else { &one.between.appends_lost };
        // Claimed and unclaimed entries: the latter stand in their own way.
        for msg_id in ["m1", ""] {
            lost.store(1, Relaxed);
            let first = accepted(gateway.ask(ALICE, chat(room, "first", msg_id)).await);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let second = accepted(gateway.ask(ALICE, chat(room, "second", "")).await);
            let heard = pushes(&gateway.rest(Duration::from_secs(1)).await);
            assert_eq!(heard, [(first, "first".to_owned()), (second, "second".to_owned())], "written: {written}");
            let page = town.state.room_log.read(room, first - 1, 10, town.state.clock.now_ms()).await.unwrap();
            assert_eq!(page.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [first, second], "written: {written}");
        }
        assert_eq!(one.house.metric("router_rooms_lost_total "), 0.0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_must_arrive_is_tried_again_and_then_refused_and_never_shown() {
    let town = Town::new();
    town.shows(&["r1"]);
    let one = town.router("r1").await;
    let room = one.house.open(ANCHOR).await;
    let mut gateway = one.house.gateway("g1");
    gateway.join(room, ALICE).await;
    let push = |content: &str| PushRequest { qos: 1, ..room_push(room, &json!({"content": content}).to_string()) };
    for lost in [&one.between.answers_lost, &one.between.appends_lost] {
        lost.store(2, Relaxed);
        let pushed = one.house.handle.push(push("kept")).await.unwrap();
        assert_eq!(body(&gateway.push().await).seq, pushed.seq.unwrap(), "the third try is known to have worked");
    }
    one.between.appends_lost.store(3, Relaxed);
    assert_eq!(reason(one.house.handle.push(push("refused")).await), Reason::Unavailable);
    tokio::time::sleep(SEEN).await;
    accepted(gateway.ask(ALICE, chat(room, "next", "m1")).await);
    assert_eq!(shown(&gateway.rest(Duration::from_secs(1)).await), ["next"]);
    let resumed = gateway.resume(room, BOB, 1).await;
    assert_eq!(resumed.messages.len(), 3);
    assert!(!resumed.messages.iter().any(|message| message.data.as_ref().unwrap().contains("refused")));
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_and_is_in_the_log_all_the_same_is_shown_once_the_log_says_so() {
    let town = Town::new();
    town.shows(&["r1"]);
    let one = town.router("r1").await;
    let room = one.house.open(ANCHOR).await;
    let mut gateway = one.house.gateway("g1");
    gateway.join(room, ALICE).await;
    gateway.rest(Duration::from_secs(2)).await;
    one.between.answers_lost.store(3, Relaxed);
    let push = PushRequest { qos: 1, ..room_push(room, r#"{"content":"refused"}"#) };
    assert_eq!(reason(one.house.handle.push(push).await), Reason::Unavailable);
    tokio::time::sleep(SEEN).await;
    let next = accepted(gateway.ask(ALICE, chat(room, "next", "m1")).await);
    let heard = gateway.rest(Duration::from_secs(1)).await;
    assert_eq!(shown(&heard), ["next", "refused"]);
    assert!(pushes(&heard)[1].0 > next, "numbers rise");
    let resumed = gateway.resume(room, BOB, 1).await;
    let ids: BTreeSet<_> = resumed.messages.iter().map(|message| message.msg_id.clone()).collect();
    assert_eq!(ids.len(), 2, "and it has one id, under whatever numbers it stands in the log");
    // Who has passed its first number, and was away when it was pushed under another, is told of it all the same.
    let resumed = gateway.resume(room, CAROL, next).await;
    assert_eq!(resumed.messages.iter().map(|message| message.seq).collect::<Vec<_>>(), [Some(pushes(&heard)[1].0)]);
    assert_eq!(resumed.messages[0].msg_id.as_deref(), Some(body(&pushed_in(&heard, "refused")).msg_id.as_str()));
}

/// The push with this text.
fn pushed_in(heard: &[Kind], content: &str) -> RoomPush {
    let is_it = |kind: &&Kind| matches!(kind, Kind::RoomPush(push) if body(push).data.contains(content));
    let Some(Kind::RoomPush(push)) = heard.iter().find(is_it) else { panic!("{content} is not in {heard:?}") };
    push.clone()
}

/// The texts of what was heard.
fn shown(heard: &[Kind]) -> Vec<String> {
    pushes(heard).into_iter().map(|(_, content)| content).collect()
}

#[tokio::test(start_paused = true)]
async fn who_asks_again_for_what_was_said_in_another_life_is_confirmed_whatever_forbids_him_to_speak_now() {
    let town = Town::new();
    town.shows(&["r1"]);
    let (one, two) = (town.router("r1").await, town.router("r2").await);
    tokio::time::sleep(SEEN).await;
    let room = one.house.open(ANCHOR).await;
    let mut gateway = one.house.gateway("g1");
    gateway.join(room, ALICE).await;
    let seq = accepted(gateway.ask(ALICE, chat(room, "said", "m1")).await);
    let mute = MuteRequest { room, user: UserId(ALICE), by: Operator::Admin, duration: None };
    one.house.handle.mute(mute).await.unwrap();
    town.shows(&["r2"]);
    tokio::time::sleep(SEEN + SEEN).await;
    let mut gateway = two.house.gateway("g1");
    gateway.join(room, BOB).await;
    assert_eq!(accepted(gateway.ask(ALICE, chat(room, "said", "m1")).await), seq);
    assert_eq!(gateway.refusal(ALICE, chat(room, "new", "m2")).await, Reason::Muted);
    assert_eq!(pushes(&gateway.rest(Duration::from_secs(1)).await), []);
}

#[tokio::test(start_paused = true)]
async fn what_a_former_owner_has_on_its_way_is_not_taken_once_the_next_has_begun() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    house.say(room, "{}").await;
    // A second life, which has said nothing yet.
    steal_and_return(&house, room).await;
    let mut gateway = house.gateway("g1");
    let begun = gateway.join(room, ALICE).await.seq;
    assert_eq!(begun >> 32, 2);
    let now_ms = house.state.clock.now_ms();
    let claim = billfish_state::MessageClaim { app: APP, user: UserId(ALICE), msg_id: "m1".to_owned(), until_ms: now_ms + 60_000 };
    let entry = LogEntry { seq: (1 << 32) + 50, body: "{}".into(), except: None };
    let late = LogAppend { entry, claim: Some(claim) };
    assert_eq!(house.state.room_log.append(room, &[late], now_ms).await.unwrap(), [Appended::Stale]);
    let seq = accepted(gateway.ask(ALICE, chat(room, "late", "m1")).await);
    assert!(seq > begun);
    assert_eq!(accepted(gateway.ask(ALICE, chat(room, "late", "m1")).await), seq);
    assert_eq!(pushes(&gateway.rest(Duration::from_secs(1)).await), [(seq, "late".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn an_owner_stops_when_its_log_is_fenced_by_another_that_has_written_nothing() {
    let town = Town::new();
    town.shows(&["r1"]);
    let one = town.router("r1").await;
    tokio::time::sleep(SEEN).await;
    for has_some_behind in [false, true] {
        let room = one.house.open(UserId(ANCHOR.0 + i64::from(has_some_behind))).await;
        let mut gateway = one.house.gateway("g1");
        gateway.join(room, ALICE).await;
        gateway.rest(Duration::from_secs(2)).await;
        let lost = one.house.metric("router_rooms_lost_total ");
        if has_some_behind {
            one.between.appends_lost.store(1, Relaxed);
            accepted(gateway.ask(ALICE, chat(room, "behind", "m1")).await);
        }
        assert_eq!(town.state.room_log.fence(room, 9 << 32, town.state.clock.now_ms()).await.unwrap(), 9 << 32);
        if !has_some_behind {
            assert_eq!(gateway.moved(ALICE, chat(room, "stale", "m1")).await, "");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(one.house.metric("router_rooms_lost_total "), lost + 1.0, "{has_some_behind}");
        assert_eq!(town.state.room_log.last(room, 9, town.state.clock.now_ms()).await.unwrap(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_could_not_be_told_what_it_missed_hears_nothing_newer_until_it_is() {
    let town = Town::new();
    town.shows(&["r1"]);
    let one = town.router("r1").await;
    tokio::time::sleep(SEEN).await;
    let room = one.house.open(ANCHOR).await;
    let (mut well, mut cut) = (one.house.gateway("g1"), one.house.gateway("g2"));
    well.join(room, ALICE).await;
    cut.join(room, BOB).await;
    let seen = accepted(well.ask(ALICE, chat(room, "seen", "")).await);
    drop(cut);
    settle().await;
    accepted(well.ask(ALICE, chat(room, "missed", "")).await);
    let mut cut = one.house.gateway("g2");
    one.between.reads_lost.store(2, Relaxed);
    interest(&cut, room, seen).await;
    settle().await;
    accepted(well.ask(ALICE, chat(room, "newer", "")).await);
    // By a JOIN too it does not begin to hear.
    let id = cut.call(CAROL, join(room, None)).await;
    joined(cut.answer(id).await);
    assert_eq!(shown(&cut.rest(Duration::from_millis(500)).await), Vec::<String>::new());
    let heard = cut.rest(Duration::from_secs(3)).await;
    assert_eq!(shown(&heard), ["missed", "newer"]);
    assert!(!heard.iter().any(|kind| matches!(kind, Kind::Kick(_))), "nobody lost anything");
    accepted(well.ask(ALICE, chat(room, "next", "")).await);
    assert_eq!(shown(&cut.rest(Duration::from_secs(1)).await), ["next"]);
    assert_eq!(one.between.reads_lost.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn what_gateways_cannot_be_told_before_the_owner_changes_the_next_owner_tells_them() {
    let town = Town::new();
    town.shows(&["r1"]);
    let (one, two) = (town.router("r1").await, town.router("r2").await);
    tokio::time::sleep(SEEN).await;
    let room = one.house.open(ANCHOR).await;
    let mut well = one.house.gateway("g1");
    well.join(room, ALICE).await;
    let seen = accepted(well.ask(ALICE, chat(room, "seen", "")).await);
    accepted(well.ask(ALICE, chat(room, "missed", "")).await);
    let mut cut = one.house.gateway("g2");
    one.cut(true);
    interest(&cut, room, seen).await;
    tokio::time::sleep(LEASE).await;
    accepted(well.ask(ALICE, chat(room, "only of one owner", "")).await);
    assert_eq!(shown(&cut.rest(Duration::from_secs(1)).await), Vec::<String>::new());
    town.shows(&["r2"]);
    tokio::time::sleep(SEEN).await;
    let mut cut = two.house.gateway("g2");
    interest(&cut, room, seen).await;
    assert_eq!(shown(&cut.rest(LEASE).await), ["missed"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_in_doubt_when_its_owner_went_is_shown_when_it_is_sent_again_with_the_id_of_the_first() {
    let town = Town::new();
    town.shows(&["r1"]);
    let (one, two) = (town.router("r1").await, town.router("r2").await);
    tokio::time::sleep(SEEN).await;
    let room = one.house.open(ANCHOR).await;
    let mut gateway = one.house.gateway("g1");
    gateway.join(room, ALICE).await;
    gateway.rest(Duration::from_secs(2)).await;
    let push = || PushRequest { qos: 1, ..room_push(room, r#"{"content":"in doubt"}"#) };
    one.between.answers_lost.store(3, Relaxed);
    assert_eq!(reason(one.house.handle.push_once(push(), "k1".to_owned()).await), Reason::Unavailable);
    one.cut(true);
    let passed = accepted(gateway.ask(ALICE, chat(room, "newer", "")).await);
    assert_eq!(shown(&gateway.rest(Duration::from_secs(1)).await), ["newer"]);
    town.shows(&["r2"]);
    tokio::time::sleep(LEASE).await;
    let mut gateway = two.house.gateway("g1");
    interest(&gateway, room, passed).await;
    assert_eq!(shown(&gateway.rest(Duration::from_secs(1)).await), Vec::<String>::new(), "it has seen newer ones");
    let first = two.house.handle.push_once(push(), "k1".to_owned()).await.unwrap().seq.unwrap();
    assert!(first < passed, "the number it has in the log");
    assert_eq!(two.house.handle.push_once(push(), "k1".to_owned()).await.unwrap().seq, Some(first));
    let pushed = gateway.push().await;
    assert!(body(&pushed).seq > passed);
    assert_eq!(body(&pushed).msg_id, format!("r{room}-{first}"));
    assert_eq!(pushes(&gateway.rest(Duration::from_secs(1)).await), [], "once");
    // Those who have passed the first number find it under the one that it was pushed with.
    let logged = town.state.room_log.last(room, 9, town.state.clock.now_ms()).await.unwrap();
    assert_eq!(logged.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [first, body(&pushed).seq]);
    let mut late = two.house.gateway("g2");
    interest(&late, room, passed).await;
    let told = late.push().await;
    assert_eq!((body(&told).seq, &body(&told).msg_id), (body(&pushed).seq, &body(&pushed).msg_id));
    let mut unknowing = two.house.gateway("g3");
    interest(&unknowing, room, first - 1).await;
    assert_eq!(shown(&unknowing.rest(Duration::from_secs(1)).await), ["in doubt"], "once, by its id");
}

/// Its gateway has not noticed that the room was another's for a moment.
#[tokio::test(start_paused = true)]
async fn an_owner_that_gets_its_room_back_tells_who_goes_on_listening_what_the_other_left_behind() {
    let town = Town::new();
    town.shows(&["r1"]);
    let (one, two) = (town.router("r1").await, town.router("r2").await);
    tokio::time::sleep(SEEN).await;
    let room = one.house.open(ANCHOR).await;
    let mut gateway = one.house.gateway("g1");
    gateway.join(room, ALICE).await;
    accepted(gateway.ask(ALICE, chat(room, "seen", "")).await);
    town.shows(&["r2"]);
    tokio::time::sleep(SEEN + SEEN).await;
    two.house.handle.push(PushRequest { qos: 1, ..room_push(room, r#"{"content":"pushed to nobody"}"#) }).await.unwrap();
    town.shows(&["r1"]);
    gateway.rest(Duration::from_millis(1)).await;
    assert_eq!(shown(&gateway.rest(LEASE).await), ["pushed to nobody"]);
}

async fn steal_and_return(house: &House, room: RoomId) {
    let stolen = steal_lease(&house.state, room).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    house.state.leases.release(&owner_of(room), &stolen.holder, stolen.epoch).await.unwrap();
}
