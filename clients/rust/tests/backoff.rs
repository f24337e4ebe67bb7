//! Pauses, measured on a clock that runs only while everyone waits: no test of this file takes any time.

use crate::gateway::{config_for, connect};
use billfish_client::{ClientConfig, Event, TokenError, TokenProvider};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;

/// Asks for tokens in vain and gives the times it was asked and the pauses that were told.
async fn pauses(seed: u64, count: usize) -> (Vec<Instant>, Vec<Duration>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let times = Arc::clone(&asked);
    let tokens = TokenProvider::new(move || {
        times.lock().expect("no panic while it is held").push(Instant::now());
        async { Err(TokenError::Away("down for the night".to_owned())) }
    });
    let config = ClientConfig {
        tokens,
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        jitter_seed: Some(seed),
        ..config_for(Vec::new())
    };
    let (client, mut events) = connect(config);
    let mut told = Vec::new();
    while told.len() < count {
        if let Some(Event::Disconnected { retry_in, .. }) = events.0.next().await {
            told.push(retry_in);
        }
    }
    client.close().await;
    let asked = asked.lock().expect("no panic while it is held").clone();
    (asked, told)
}

#[tokio::test(start_paused = true)]
async fn the_client_waits_as_long_as_it_says_and_no_longer_than_the_bound() {
    let (asked, told) = pauses(7, 10).await;
    for (nth, (pair, said)) in asked.windows(2).zip(&told).enumerate() {
        let waited = pair[1] - pair[0];
        // tokio's timers have a granularity of a millisecond.
        assert!(waited >= *said && waited <= *said + Duration::from_millis(2), "pause {nth}: {waited:?} instead of {said:?}");
        assert!(*said <= Duration::from_secs((1 << nth).min(60)), "pause {nth} is {said:?}");
    }
    assert!(told[6..].iter().any(|pause| *pause > Duration::from_secs(5)), "the bound grows: {told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_seed_repeats_its_pauses_and_another_has_its_own() {
    let (first, again, other) = (pauses(7, 6).await.1, pauses(7, 6).await.1, pauses(8, 6).await.1);
    assert_eq!(first, again);
    assert_ne!(first, other);
}

#[tokio::test(start_paused = true)]
async fn a_token_service_that_never_answers_does_not_hold_up_the_session_for_ever() {
    let tokens = TokenProvider::new(std::future::pending);
    let (client, mut events) = connect(ClientConfig { tokens, ..config_for(Vec::new()) });
    let began = Instant::now();
    assert!(matches!(events.0.next().await, Some(Event::Disconnected { .. })));
    assert!(began.elapsed() >= Duration::from_secs(10));
    client.close().await;
}
