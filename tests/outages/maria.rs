//! A database server that is killed, locked, or parted from the router.

use super::{Stage, books::Books};
use billfish_testing::{Chaos, ChaosProxy, MariaDb, Sql};

/// How long the server has kept the one waiting who has waited for a lock for longest, in seconds.
const LONGEST_WAIT: &str = "SELECT COALESCE(MAX(CAST(time AS SIGNED)), 0) FROM information_schema.processlist \
                            WHERE db = DATABASE() AND id <> CONNECTION_ID() AND command = 'Query' AND state LIKE 'Waiting%'";

#[test]
fn a_server_that_is_killed_in_the_middle_of_gifts_loses_none_and_pays_none_twice() {
    let Some(mut maria) = MariaDb::start() else { return };
    let mut stage = Stage::on_server(&maria.url(), Books::of(&maria));
    for _ in 0..3 {
        maria.kill();
        stage.crew.be_refused(1);
        stage.chat();
        maria.start_again();
        stage.crew.give_more(3);
    }
    stage.end();
}

#[test]
fn tables_that_somebody_locks_are_waited_for_by_nobody_for_long_and_paid_from_afterwards() {
    let Some(maria) = MariaDb::start() else { return };
    let mut stage = Stage::on_server(&maria.url(), Books::of(&maria));
    let mut other = Sql::server(&maria.url());
    other.execute("LOCK TABLES t_account WRITE");
    stage.crew.be_refused(5);
    stage.chat();
    // Those who were given up on wait no longer either: they would fill the server until it lets nobody in.
    let waited = other.number(LONGEST_WAIT);
    assert!(waited <= 10, "somebody has been waiting at the server for {waited} s");
    other.execute("UNLOCK TABLES");
    stage.crew.give_more(3);
    // Now what is written cannot be committed.
    other.execute("FLUSH TABLES WITH READ LOCK");
    stage.crew.be_refused(3);
    stage.chat();
    other.execute("UNLOCK TABLES");
    other.close();
    stage.end();
}

#[test]
fn a_row_that_is_locked_for_longer_than_a_lock_is_waited_for_costs_nobody_money() {
    let Some(maria) = MariaDb::start() else { return };
    let mut stage = Stage::on_server(&maria.url(), Books::of(&maria));
    let mut other = Sql::server(&maria.url());
    for lock in ["SELECT * FROM t_account WHERE kind = 2 FOR UPDATE", "SELECT * FROM t_living_room FOR UPDATE"] {
        other.execute("START TRANSACTION");
        other.execute(lock);
        stage.crew.be_refused(2);
        stage.chat();
        other.execute("ROLLBACK");
        stage.crew.give_more(3);
    }
    other.close();
    stage.end();
}

#[test]
fn a_server_that_is_parted_from_the_router_is_used_again_when_it_is_reached_again() {
    let Some(maria) = MariaDb::start() else { return };
    let proxy = ChaosProxy::start(maria.address());
    let mut stage = Stage::on_server(&format!("mysql://root@{}/billfish", proxy.address()), Books::of(&maria));
    for chaos in [Chaos::BlackHole, Chaos::Reset] {
        proxy.set(chaos);
        stage.crew.be_refused(2);
        stage.chat();
        proxy.set(Chaos::Forward);
        stage.crew.give_more(3);
    }
    // What there is falls silent for ever, and new connections pass.
    proxy.freeze();
    stage.crew.give_more(3);
    stage.end();
}

#[test]
fn gifts_whose_commit_is_not_answered_are_paid_once() {
    let Some(maria) = MariaDb::start() else { return };
    let proxy = ChaosProxy::start(maria.address());
    let stage = Stage::on_server(&format!("mysql://root@{}/billfish", proxy.address()), Books::of(&maria));
    proxy.lose_answers_to(Some(b"COMMIT"));
    stage.crew.be_refused(3);
    assert!(proxy.answers_lost() > 0);
    proxy.lose_answers_to(None);
    stage.end();
}
