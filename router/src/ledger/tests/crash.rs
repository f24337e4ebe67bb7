//! The process ends in the middle: at every step of paying, again and again, on the same file. At these and all steps behind them, and on a
//! server too, a whole router is ended in `room/tests/crash.rs`; here gifts are paid three at once.

use super::{APP, Home, NOW, adds_up, beans, coins, count, fund, gift, live, pay_one, settled, sql};
use crate::{
    failpoint,
    ledger::{Ledger, LedgerConfig, Sharing, Till},
    services::ports::{
        RecordError,
        money::{GiftOutcome, Money, NewGift},
    },
};
use billfish_state::{Clock, RoomId, UserId};
use prometheus_client::registry::Registry;
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// Crashes at each place.
const ROUNDS: i64 = 20;
/// The later ones of a process: the first of what it does is not the only one that breaks.
const TURNS_OF_A_CRASH: i64 = 5;
/// What a child does when it does not crash.
const BATCHES: i64 = 8;
const BATCH: i64 = 3;
const FUNDS: i64 = 1_000_000;
/// What a child was answered, a line each.
const ACKED: &str = "acked";

const DIRECTORY: &str = "BILLFISH_TEST_DIRECTORY";
const ROUND: &str = "BILLFISH_TEST_ROUND";

#[test]
fn a_crash_at_any_step_loses_nothing_that_was_answered_and_pays_nothing_twice() {
    // Each half on a core of its own.
    let halves = failpoint::PAYING.chunks(failpoint::PAYING.len().div_ceil(2));
    let running: Vec<_> = halves
        .map(|places| {
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                for place in places {
                    runtime.block_on(crashes_at(place));
                }
            })
        })
        .collect();
    for half in running {
        half.join().unwrap();
    }
}

async fn crashes_at(place: &str) {
    let directory = tempfile::tempdir().unwrap();
    let ledger = reopen(directory.path()).await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, FUNDS).await;
    drop(ledger);
    for round in 0..ROUNDS {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "ledger::tests::crash::child_that_pays", "--ignored", "--nocapture"])
            .env("BILLFISH_FAILPOINT", format!("{place}:{}", round % TURNS_OF_A_CRASH + 1))
            .env(DIRECTORY, directory.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), None, "it did not crash at {place}, round {round}");

        // What the next owner finds: all that was answered, as it was answered.
        let ledger = reopen(directory.path()).await;
        let rows: Vec<(String, i64)> = ledger.rows("a test", "SELECT uuid, gift_seq FROM t_gift_record", &[]).await.unwrap();
        let there: BTreeMap<String, i64> = rows.into_iter().collect();
        let acked = fs::read_to_string(directory.path().join(ACKED)).unwrap_or_default();
        for line in acked.lines() {
            let (uuid, seq) = line.split_once('=').unwrap();
            assert_eq!(there.get(uuid).map(ToString::to_string).as_deref(), Some(seq), "{place}, round {round}: {uuid} was answered");
        }
        adds_up(&ledger).await;
        // Whoever had no answer asks again.
        let again: Vec<NewGift> = (0..BATCHES).flat_map(|turn| gifts(room, round, turn)).collect();
        for outcome in ledger.pay_gifts(&again, NOW).await.unwrap() {
            let (gift, is_new) = settled(outcome);
            let expected = if is_new { None } else { Some(&gift.gift_seq) };
            assert_eq!(there.get(&gift.what.uuid), expected, "{place}, round {round}: {gift:?}");
        }
        let all = (round + 1) * BATCHES * BATCH;
        assert_eq!((coins(&ledger, 20_001).await, beans(&ledger, 30_001).await), (FUNDS - all, all), "{place}, round {round}");
        assert_eq!((count(&ledger, "t_gift_record").await, ledger.last_gift(room).await.unwrap()), (all, all));
        adds_up(&ledger).await;
    }
}

#[tokio::test]
#[ignore = "runs in a child process of the test above"]
async fn child_that_pays() {
    let directory = std::env::var_os(DIRECTORY).expect("run by its parent");
    let round: i64 = std::env::var(ROUND).expect("run by its parent").parse().unwrap();
    let directory = Path::new(&directory);
    let mut acked = OpenOptions::new().append(true).create(true).open(directory.join(ACKED)).unwrap();
    let ledger = reopen(directory).await;
    let room = ledger.live_room_of(APP, UserId(30_001)).await.unwrap().unwrap();
    let till = Till::start(&ledger, &Clock::start(), &mut Registry::default());
    for turn in 0..BATCHES {
        let handed_in: Vec<_> = gifts(room, round, turn).into_iter().map(|gift| (gift.clone(), till.submit(gift).unwrap())).collect();
        for (asked, outcome) in handed_in {
            let mut answer = outcome.await.unwrap();
            // On a machine that does much else a call may be late.
            while answer.is_err() {
                answer = till.pay(asked.clone()).await;
            }
            let (gift, _) = settled(answer.unwrap());
            writeln!(acked, "{}={}", gift.what.uuid, gift.gift_seq).unwrap();
            till.told(&[(room, gift.gift_seq)]);
        }
    }
}

fn gifts(room: RoomId, round: i64, turn: i64) -> Vec<NewGift> {
    (0..BATCH).map(|number| gift(room, 20_001, &format!("{round} {turn} {number}"), 1)).collect()
}

async fn reopen(directory: &Path) -> Ledger {
    let config = LedgerConfig { call_timeout: Duration::from_secs(5), told_after: Duration::ZERO, ..LedgerConfig::default() };
    Ledger::open(&config, directory, Sharing::Shared).await.unwrap()
}

#[tokio::test]
async fn a_file_that_cannot_grow_refuses_gifts_and_takes_them_when_it_can() {
    let home = Home::file();
    let ledger = home.open().await;
    let room = live(&ledger, 30_001).await;
    fund(&ledger, 20_001, FUNDS).await;
    let many: Vec<NewGift> = (0..256).map(|turn| gift(room, 20_001, &format!("{turn:050}"), 1)).collect();
    // As on a full disk: not one page more.
    sql(&ledger, "PRAGMA max_page_count = 1").await;
    let refused = ledger.pay_gifts(&many, NOW).await.unwrap_err();
    assert!(matches!(refused, RecordError::Away { .. }), "{refused:?}");
    assert_eq!((coins(&ledger, 20_001).await, count(&ledger, "t_gift_record").await), (FUNDS, 0));
    adds_up(&ledger).await;
    // The connection that failed is gone, and with it its bound.
    assert!(ledger.pay_gifts(&many, NOW).await.unwrap().iter().all(|outcome| matches!(outcome, GiftOutcome::Paid { .. })));
    assert!(matches!(pay_one(&ledger, many[0].clone()).await, GiftOutcome::Repeated(_)));
    adds_up(&ledger).await;
}
