//! One suite for both databases: each case is given an empty place for records, a file or a database of a server.
//!
//! On SQLite every case is a test. On MariaDB they are one test with one server, which takes longer to start than the cases do; where there is
//! no server program the test says so and is skipped.

mod away;
mod guard;
mod rooms;
mod routers;
mod streams;

use super::{Ledger, LedgerConfig, Sharing};
use crate::services::ports::{NewRoom, OpenOutcome, RoomKind, RoomRecord, RoomRecords};
use billfish_state::{AppId, UserId};
use billfish_testing::MariaDb;
use std::pin::Pin;
use tempfile::TempDir;

const APP: AppId = AppId(10_001);
const NOW: u64 = 1_800_000_000_000;

type Case = fn(Home) -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! suite {
    ($($module:ident { $($case:ident,)* })*) => {
        mod on_sqlite {
            $($(
                #[tokio::test]
                async fn $case() {
                    super::$module::$case(super::Home::file()).await;
                }
            )*)*
        }

        const CASES: &[(&str, Case)] = &[$($((stringify!($case), |home| Box::pin($module::$case(home))),)*)*];
    };
}

suite! {
    rooms {
        a_room_that_was_confirmed_is_there_after_a_restart_and_its_id_is_not_used_again,
        an_anchor_has_one_live_room_in_an_app,
        of_fifty_openings_at_once_one_wins,
        a_closed_room_moves_to_the_records_with_its_end_and_takes_its_moderation_along,
        a_closing_that_fails_half_way_changes_nothing,
        the_list_is_of_one_kind_newest_first_and_bounded,
        no_two_owners_of_a_room_get_the_same_epoch,
        sanctions_stand_until_they_run_out_or_are_lifted,
        block_lists_are_replaced_whole_and_kept_apart,
        profiles_are_replaced_and_read_in_batches,
        a_row_that_none_of_us_wrote_is_named,
        what_people_write_comes_back_as_it_was,
        the_largest_numbers_are_kept,
        a_call_that_is_given_up_in_the_middle_changes_nothing_and_holds_nobody_up,
    }
    routers {
        of_fifty_openings_on_two_routers_one_wins,
        openings_and_closings_of_one_anchor_at_once_never_fail_and_never_make_two,
        no_two_owners_on_two_routers_get_the_same_epoch,
        of_closings_at_once_one_gives_the_room,
        an_order_that_meets_the_closing_leaves_nothing_behind,
        of_block_lists_that_come_at_once_one_stays,
        profiles_that_come_at_once_in_any_order_are_all_stored,
        what_one_router_was_told_the_other_reads,
        routers_that_start_at_once_make_the_tables_once,
    }
    guard {
        records_keep_the_name_they_were_made_with_and_others_have_another,
        a_state_belongs_to_the_first_records_and_every_router_with_others_is_refused,
    }
    streams {
        a_stream_key_is_replaced_and_never_printed,
        only_the_connection_that_publishes_can_end_it,
    }
}

#[tokio::test]
async fn the_whole_suite_holds_on_mariadb() {
    let Some(server) = MariaDb::start() else { return };
    for (turn, (name, case)) in CASES.iter().enumerate() {
        // The last one named is the one that failed.
        eprintln!("on MariaDB: {name}");
        let database = format!("case_{turn}");
        // Its own character set must not matter.
        server.execute(&format!("CREATE DATABASE {database} CHARACTER SET latin1"));
        case(Home::server(server.url_of(&database))).await;
    }
}

/// Where the records of one test are.
struct Home {
    kind: Kind,
    config: LedgerConfig,
    directory: TempDir,
}

#[derive(Clone, Copy)]
enum Kind {
    File,
    Server,
}

impl Home {
    fn file() -> Self {
        Self { kind: Kind::File, config: LedgerConfig::default(), directory: tempfile::tempdir().unwrap() }
    }

    fn server(url: String) -> Self {
        Self { kind: Kind::Server, config: LedgerConfig { url, ..LedgerConfig::default() }, directory: tempfile::tempdir().unwrap() }
    }

    /// What a router opens; as often as there are routers.
    async fn open(&self) -> Ledger {
        Ledger::open(&self.config, self.directory.path(), Sharing::Shared).await.unwrap()
    }
}

fn new_room(anchor: i64) -> NewRoom {
    NewRoom { app: APP, anchor: UserId(anchor), kind: RoomKind::Normal, name: "Ann sings".to_owned(), cover: "c.png".to_owned() }
}

async fn open(ledger: &Ledger, anchor: i64, now_ms: u64) -> RoomRecord {
    match ledger.open_room(&new_room(anchor), now_ms).await.unwrap() {
        OpenOutcome::Opened(room) => room,
        OpenOutcome::AlreadyLive(room) => panic!("already live in {room}"),
    }
}

/// Rows of a table that are about a room or a user.
async fn count(ledger: &Ledger, table: &'static str) -> i64 {
    let select = if table == "t_room_setting" {
        "SELECT COUNT(*) FROM t_room_setting WHERE room_id > 0".to_owned()
    } else {
        format!("SELECT COUNT(*) FROM {table}")
    };
    let (count,): (i64,) = ledger.row("a test", sqlx::AssertSqlSafe(select), &[]).await.unwrap().unwrap();
    count
}

async fn sql(ledger: &Ledger, statement: &'static str) {
    let mut call = ledger.database.write("a test", ledger.call_timeout).await.unwrap();
    call.plain(statement).await.unwrap();
    call.finish();
}
