//! A server that is killed, halted, or not the right one.

use super::{Home, NOW, adds_up, beans, coins, count, fund, gift, live, new_room, open, sql};
use crate::{
    ledger::{Ledger, LedgerConfig, LedgerError, Sharing, Till},
    services::ports::{
        RecordError, RoomRecords,
        money::{GiftOutcome, PaidGift},
    },
};
use billfish_state::{Clock, RoomId};
use billfish_testing::{Certificates, MariaDb, PATIENCE};
use prometheus_client::registry::Registry;
use std::{
    collections::BTreeMap,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

#[tokio::test]
async fn calls_fail_while_the_server_is_killed_and_work_again_with_all_that_was_confirmed() {
    let Some(mut server) = MariaDb::start() else { return };
    let ledger = Home::server(server.url()).open().await;
    let mut confirmed = Vec::new();
    for round in 0..3 {
        for anchor in 0..5 {
            confirmed.push(open(&ledger, 30_001 + round * 100 + anchor, NOW).await);
        }
        server.kill();
        // More than there are connections, and none may wait for ever.
        all_are_told_that_the_records_are_away(&ledger, 20).await;
        server.start_again();
        works_again(&ledger).await;
        for room in &confirmed {
            assert_eq!(ledger.live_room(room.room).await.unwrap().as_ref(), Some(room));
        }
    }
    let newest = confirmed.iter().map(|room| room.room).max().unwrap();
    assert!(open(&ledger, 40_001, NOW).await.room > newest, "an id is not given again");
}

#[tokio::test]
async fn calls_fail_while_the_server_is_halted_and_work_when_it_goes_on() {
    let Some(server) = MariaDb::start() else { return };
    let ledger = Home::server(server.url()).open().await;
    let room = open(&ledger, 30_001, NOW).await;
    server.stop();
    all_are_told_that_the_records_are_away(&ledger, 20).await;
    // Also those that had no connection and want a new one.
    all_are_told_that_the_records_are_away(&ledger, 20).await;
    server.cont();
    works_again(&ledger).await;
    assert_eq!(ledger.live_room(room.room).await.unwrap(), Some(room));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gifts_that_were_acknowledged_are_there_after_kills_in_the_middle_and_none_is_paid_twice() {
    const SENDERS: i64 = 8;
    const FUNDS: i64 = 1_000_000;
    let Some(mut server) = MariaDb::start() else { return };
    let ledger = Home::server(server.url()).open().await;
    let till = Till::start(&ledger, &Clock::start(), &mut Registry::default());
    let rooms = [live(&ledger, 30_001).await, live(&ledger, 30_002).await, live(&ledger, 30_003).await];
    for sender in 0..SENDERS {
        fund(&ledger, sender, FUNDS).await;
    }
    let (acked, failed, is_over) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
    let payers: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let (till, acked, failed, is_over) = (till.clone(), Arc::clone(&acked), Arc::clone(&failed), Arc::clone(&is_over));
            tokio::spawn(async move { pays_until_over(&till, rooms, sender, &acked, &failed, &is_over).await })
        })
        .collect();
    for _ in 0..3 {
        let before = acked.load(SeqCst);
        until("gifts are paid", || acked.load(SeqCst) >= before + 100).await;
        let before = failed.load(SeqCst);
        server.kill();
        until("all hear of it", || failed.load(SeqCst) >= before + SENDERS).await;
        server.start_again();
    }
    let before = acked.load(SeqCst);
    until("gifts are paid again", || acked.load(SeqCst) >= before + 100).await;
    is_over.store(true, SeqCst);
    let mut all = 0;
    for payer in payers {
        let gifts = payer.await.unwrap();
        for (uuid, first) in &gifts {
            let again = till.pay(first.what.clone()).await.unwrap();
            assert_eq!(again, GiftOutcome::Repeated(first.clone()), "{uuid} was acknowledged");
        }
        all += i64::try_from(gifts.len()).unwrap();
    }
    till.close().await;
    assert_eq!(count(&ledger, "t_gift_record").await, all);
    let mut left = 0;
    for sender in 0..SENDERS {
        left += coins(&ledger, sender).await;
    }
    assert_eq!((left, beans(&ledger, 30_001).await), (SENDERS * FUNDS - all, all));
    adds_up(&ledger).await;
}

/// One gift after the other, each asked for until it is answered; what was answered by the id of each.
async fn pays_until_over(
    till: &Till,
    rooms: [RoomId; 3],
    sender: i64,
    acked: &AtomicI64,
    failed: &AtomicI64,
    is_over: &AtomicBool,
) -> BTreeMap<String, PaidGift> {
    let mut gifts = BTreeMap::new();
    for turn in 0.. {
        if is_over.load(SeqCst) {
            break;
        }
        let uuid = format!("{sender} {turn}");
        let asked = gift(rooms[(turn + usize::try_from(sender).unwrap()) % 3], sender, &uuid, 1);
        loop {
            match till.pay(asked.clone()).await {
                Ok(GiftOutcome::Paid { gift, .. } | GiftOutcome::Repeated(gift)) => {
                    till.told(&[(gift.what.room, gift.gift_seq)]);
                    gifts.insert(uuid, gift);
                    acked.fetch_add(1, SeqCst);
                    break;
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    assert!(matches!(error, RecordError::Away { .. }), "{error:?}");
                    failed.fetch_add(1, SeqCst);
                    sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }
    gifts
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_row_that_a_halted_router_has_locked_holds_up_its_own_room_alone_and_not_for_ever() {
    let Some(server) = MariaDb::start() else { return };
    let mut home = Home::server(server.url());
    // Longer than the server waits for a lock: it is the server's word that comes.
    home.config.call_timeout = Duration::from_secs(5);
    let (halted, ledger) = (home.open().await, home.open().await);
    let (locked, free) = (open(&ledger, 30_001, NOW).await.room, open(&ledger, 30_002, NOW).await.room);
    let mut call = halted.transaction("a test").await.unwrap();
    call.plain("UPDATE t_living_room SET epoch = epoch + 100 WHERE anchor_id = 30001").await.unwrap();

    let error = ledger.raise_epoch(locked).await.unwrap_err();
    assert!(matches!(error, RecordError::Away { .. }) && error.source().unwrap().to_string().contains("1205"), "{error:?}");
    assert_eq!(ledger.raise_epoch(free).await.unwrap(), Some(1));
    // The server ends the connection of the one that does nothing.
    let start = Instant::now();
    while ledger.raise_epoch(locked).await.is_err() {
        assert!(start.elapsed() < PATIENCE, "still locked");
    }
    assert_eq!(ledger.raise_epoch(locked).await.unwrap(), Some(2));
    drop(call);
}

#[tokio::test]
async fn a_migration_that_broke_off_runs_again() {
    let Some(server) = MariaDb::start() else { return };
    let home = Home::server(server.url());
    let ledger = home.open().await;
    let room = open(&ledger, 30_001, NOW).await;
    sql(&ledger, "UPDATE _sqlx_migrations SET success = FALSE, execution_time = -1").await;
    sql(&ledger, "DROP TABLE t_user").await;
    ledger.close().await;
    let ledger = home.open().await;
    assert_eq!(ledger.live_room(room.room).await.unwrap(), Some(room));
    assert_eq!(ledger.profiles(super::APP, &[super::UserId(20_001)]).await.unwrap(), []);
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_named_without_the_password() {
    let Some(server) = MariaDb::start() else { return };
    server.execute("CREATE USER ann@127.0.0.1 IDENTIFIED BY 'hunter2'; GRANT ALL ON billfish.* TO ann@127.0.0.1");
    let port = server.address().port();
    let right = format!("mysql://ann:hunter2@127.0.0.1:{port}/billfish");
    Home::server(right.clone()).open().await.close().await;
    for wrong in [
        format!("mysql://ann:hunter3@127.0.0.1:{port}/billfish"),
        format!("mysql://ann:hunter2@127.0.0.1:{port}/another"),
        // Nobody listens there.
        "mysql://ann:hunter2@127.0.0.1:1/billfish".to_owned(),
    ] {
        let refused = refusal(&wrong).await;
        assert!(matches!(refused, LedgerError::Unreachable { .. }), "{refused:?}");
        let told = format!("{refused} {:?}", refused.source());
        assert!(told.contains("127.0.0.1:") && !told.contains("hunter"), "{told}");
    }
}

#[tokio::test]
async fn a_server_that_wants_tls_gets_it_and_its_certificate_is_checked_where_that_is_asked_for() {
    let certificates = Certificates::new();
    let Some(server) = MariaDb::start_with_tls(certificates.clone()) else { return };
    let authority = certificates.authority().display().to_string();
    let checked = |authority: &str| format!("{}?ssl-mode=VERIFY_IDENTITY&ssl-ca={authority}", server.url());
    for url in [server.url(), checked(&authority)] {
        let ledger = Home::server(url).open().await;
        let (cipher,): (String,) = ledger
            .row("a test", "SELECT variable_value FROM information_schema.session_status WHERE variable_name = 'Ssl_cipher'", &[])
            .await
            .unwrap()
            .unwrap();
        assert!(!cipher.is_empty());
        ledger.block_words().await.unwrap();
    }
    let stranger = Certificates::new();
    for url in [format!("{}?ssl-mode=DISABLED", server.url()), checked(&stranger.authority().display().to_string())] {
        let refused = refusal(&url).await;
        assert!(matches!(refused, LedgerError::Unreachable { .. }), "{url}: {refused:?}");
    }
}

#[tokio::test]
async fn tables_of_a_later_version_are_refused() {
    let Some(server) = MariaDb::start() else { return };
    let ledger = Home::server(server.url()).open().await;
    sql(
        &ledger,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'from the future', 1, x'00', 0)",
    )
    .await;
    let refused = refusal(&server.url()).await;
    assert!(refused.source().unwrap().to_string().contains("9999"), "{refused:?}");
}

async fn refusal(url: &str) -> LedgerError {
    let config = LedgerConfig { url: url.to_owned(), ..LedgerConfig::default() };
    let directory = tempfile::tempdir().unwrap();
    Ledger::open(&config, directory.path(), Sharing::Shared).await.unwrap_err()
}

async fn all_are_told_that_the_records_are_away(ledger: &Ledger, times: i64) {
    let calls: Vec<_> = (0..times)
        .map(|turn| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                match turn % 4 {
                    0 => ledger.open_room(&new_room(50_000 + turn), NOW).await.map(drop),
                    1 => ledger.block_words().await.map(drop),
                    2 => ledger.set_block_words(&[]).await,
                    _ => ledger.stream(super::APP, super::UserId(turn)).await.map(drop),
                }
            })
        })
        .collect();
    for call in calls {
        let outcome = timeout(PATIENCE, call).await.expect("every call ends").unwrap();
        assert!(matches!(outcome, Err(RecordError::Away { .. })), "{outcome:?}");
    }
}

/// The same ledger, without being opened again.
async fn works_again(ledger: &Ledger) {
    let start = Instant::now();
    while let Err(error) = ledger.block_words().await {
        assert!(start.elapsed() < PATIENCE, "{error:?}");
        // It says so at once while it does not ask.
        sleep(Duration::from_millis(20)).await;
    }
}
