//! One router at a time forgets for all what nobody will ask for again.

use super::{APP, World, until};
use billfish_state::{PendingAck, UserId, port::INBOX_AGE_MAX_MS};
use std::time::Duration;
use tokio::time::sleep;

const ALICE: UserId = UserId(20_001);
const BOB: UserId = UserId(20_002);

#[tokio::test(start_paused = true)]
async fn who_is_silent_for_two_gaps_is_forgotten_and_so_is_a_delivery_whose_message_is_gone() {
    let world = World::new();
    let router = world.router("r1").await;
    let now_ms = world.state.clock.now_ms();
    world.state.presence.touch(&[(APP, ALICE), (APP, BOB)], now_ms).await.unwrap();
    let pending = |msg_id: &str, due_ms| PendingAck { app: APP, user: ALICE, msg_id: msg_id.to_owned(), room: None, times_sent: 1, due_ms };
    let old = now_ms - INBOX_AGE_MAX_MS - 1;
    world.state.acks.record(&[pending("1-0", old), pending("2-0", now_ms)]).await.unwrap();
    sleep(Duration::from_secs(45)).await;
    world.state.presence.touch(&[(APP, BOB)], world.state.clock.now_ms()).await.unwrap();
    assert_eq!(router.metric("router_presence_swept_total"), 0.0);
    until("one has been silent for two gaps", || router.metric("router_presence_swept_total") == 1.0).await;
    assert_eq!(world.state.presence.online(APP, &[ALICE, BOB], 0).await.unwrap(), [false, true]);
    assert_eq!(world.state.acks.pending(APP, ALICE).await.unwrap(), [pending("2-0", now_ms)]);
    assert_eq!(router.metric("router_acks_expired_total"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn one_router_sweeps_and_the_next_goes_on_when_it_drains() {
    let world = World::new();
    let first = world.router("r1").await;
    until("the first sweeps", || first.metric("router_sweeper") == 1.0).await;
    let second = world.router("r2").await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!((first.metric("router_sweeper"), second.metric("router_sweeper")), (1.0, 0.0));
    first.running.drain().await;
    until("the second sweeps", || second.metric("router_sweeper") == 1.0).await;
}
