//! What one who comes, or comes back, is given.

use super::{
    town::{SEEN, Town, interest},
    *,
};
use billfish_state::PendingAck;

#[tokio::test(start_paused = true)]
async fn who_resumes_gets_what_he_missed_and_nothing_twice() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, BOB).await;
    let mut seqs = Vec::new();
    for index in 0..50 {
        seqs.push(house.say(room, &index.to_string()).await);
    }
    let resumed = gateway.resume(room, ALICE, seqs[9]).await;
    let got: Vec<i64> = resumed.messages.iter().map(|body| body.seq.unwrap()).collect();
    assert_eq!((got.as_slice(), resumed.gap), (&seqs[10..], false));
    let newcomer = gateway.join(room, CAROL).await;
    assert_eq!(snapshot(&newcomer).messages.len(), 20, "without resume the last 20");
}

#[tokio::test(start_paused = true)]
async fn a_resume_beyond_the_log_says_gap() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, BOB).await;
    let first = house.say(room, "first").await;
    for index in 0..700 {
        house.say(room, &index.to_string()).await;
    }
    let resumed = gateway.resume(room, ALICE, first).await;
    assert!(resumed.gap);
    assert_eq!(resumed.messages.last().unwrap().data.as_deref(), Some("699"));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_began_after_the_client_left_says_gap() {
    let records = Arc::new(TestRecords::default());
    let house = House::with(|_| {}, records.clone(), State::in_memory()).await;
    let room = house.open(ANCHOR).await;
    let seen = house.say(room, "before the crash").await;
    // The process dies; the records stay, the state begins anew.
    let house = House::with(|_| {}, records, State::in_memory()).await;
    let mut gateway = house.gateway("g1");
    let resumed = gateway.resume(room, ALICE, seen).await;
    assert!(resumed.gap);
    assert!(house.say(room, "after").await > seen, "sequence numbers rise all the same");
}

#[tokio::test(start_paused = true)]
async fn a_state_push_is_kept_by_key_and_not_in_the_log() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    for bar in ["40", "60"] {
        house.handle.push(PushRequest { key: Some("pk".to_owned()), ..room_push(room, bar) }).await.unwrap();
    }
    let snapshot = snapshot(&gateway.join(room, ALICE).await);
    assert_eq!(snapshot.states["pk"].data.as_deref(), Some("60"));
    assert!(snapshot.messages.is_empty());
    for index in 1..32 {
        house.handle.push(PushRequest { key: Some(format!("k{index}")), ..room_push(room, "{}") }).await.unwrap();
    }
    for key in ["one more", "audience"] {
        let push = PushRequest { key: Some(key.to_owned()), ..room_push(room, "{}") };
        assert_eq!(reason(house.handle.push(push).await), Reason::Malformed, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_push_of_qos_1_to_a_room_is_in_its_log_and_carries_its_id() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, BOB).await;
    let pushed = house.handle.push(PushRequest { qos: 1, ..room_push(room, "{}") }).await.unwrap();
    let id = format!("r{room}-{}", pushed.seq.unwrap());
    assert_eq!((pushed.msg_id.as_deref(), pushed.accepted), (Some(id.as_str()), 1));
    let push = gateway.push().await;
    assert_eq!((body(&push).msg_id.as_str(), body(&push).qos), (id.as_str(), 1));
    let resumed = gateway.resume(room, ALICE, pushed.seq.unwrap() - 1).await;
    assert_eq!((resumed.messages[0].msg_id.as_deref(), resumed.messages[0].qos), (Some(id.as_str()), Some(1)));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_with_viewers_hears_the_audience_whenever_it_asks_and_asking_again_costs_the_log_nothing() {
    let town = Town::new();
    town.shows(&["r1"]);
    let router = town.router("r1").await;
    tokio::time::sleep(SEEN).await;
    let room = router.house.open(ANCHOR).await;
    router.house.gateway("g2").join(room, BOB).await;
    let seen = router.house.say(room, "{}").await;
    let missed = router.house.say(room, "{}").await;
    // By then it has been told to everyone, once.
    tokio::time::sleep(SEEN).await;
    let mut gateway = router.house.gateway("g1");
    for is_repeated in [false, true] {
        // Nobody could look at the log now.
        router.cut(is_repeated);
        interest(&gateway, room, seen).await;
        let heard = gateway.rest(Duration::from_secs(1)).await;
        let audiences = heard.iter().filter(|kind| matches!(kind, Kind::Audience(audience) if audience.members == 1)).count();
        assert_eq!(audiences, 1, "{heard:?}");
        let numbers: Vec<i64> = pushes(&heard).into_iter().map(|(seq, _)| seq).collect();
        assert_eq!(numbers, if is_repeated { vec![] } else { vec![missed] });
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_without_resume_is_shown_from_the_oldest_push_on_that_his_dead_gateway_had_no_ack_of() {
    let house = House::start().await;
    let (room, other) = (house.open(ANCHOR).await, house.open(UserId(ANCHOR.0 + 1)).await);
    let mut gateway = house.gateway("g1");
    gateway.join(room, BOB).await;
    house.say(room, "acknowledged").await;
    let gift = PushRequest { qos: 1, ..room_push(room, "a gift") };
    let gift_seq = house.handle.push(gift).await.unwrap().seq.unwrap();
    let pushed = loop {
        let push = gateway.push().await.push.unwrap();
        if push.qos == 1 {
            break push;
        }
    };
    // As a gateway records it whose ACK is late; and one of another room.
    let pending = |room: RoomId, msg_id: String| PendingAck {
        app: APP,
        user: UserId(ALICE),
        msg_id,
        room: Some(room),
        times_sent: 1,
        due_ms: house.state.clock.now_ms(),
    };
    house.state.acks.record(&[pending(room, pushed.msg_id), pending(other, format!("r{other}-1"))]).await.unwrap();
    for number in 0..40 {
        house.say(room, &number.to_string()).await;
    }
    // The sweeper comes by meanwhile.
    tokio::time::sleep(Duration::from_secs(120)).await;
    let shown: Vec<i64> = snapshot(&gateway.join(room, ALICE).await).messages.iter().map(|body| body.seq.unwrap()).collect();
    assert_eq!((shown.len(), shown.first()), (41, Some(&gift_seq)));
    assert!(shown.is_sorted_by(|a, b| a < b), "each once: {shown:?}");
    assert_eq!(snapshot(&gateway.join(room, BOB).await).messages.len(), 20, "who has acknowledged is a newcomer");
    // The log keeps it for an hour.
    tokio::time::sleep(Duration::from_secs(2 * 3_600)).await;
    assert_eq!(house.state.acks.pending(APP, UserId(ALICE)).await.unwrap(), []);
}
