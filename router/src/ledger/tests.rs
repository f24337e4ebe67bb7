//! One suite for both databases: each case is given an empty place for records, a file or a database of a server.
//!
//! On SQLite every case is a test. On MariaDB they are one test with one server, which takes longer to start than the cases do; where there is
//! no server program the test says so and is skipped.

mod away;
mod crash;
mod grants;
mod guard;
mod money;
mod people;
mod pk;
mod recharge;
mod reconcile;
mod rooms;
mod routers;
mod sending;
mod streams;
mod till;
mod webhooks;

use super::{Ledger, LedgerConfig, Sharing};
use crate::services::ports::{
    NewRoom, OpenOutcome, RoomKind, RoomRecord, RoomRecords,
    money::{GiftId, GiftOutcome, Money, NewGift, OrderState, PaidGift, PayOutcome, ProductId, RechargeOrder},
};
use billfish_state::{AppId, RoomId, UserId};
use billfish_testing::MariaDb;
use std::{
    pin::Pin,
    sync::atomic::{AtomicI64, Ordering::Relaxed},
};
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
    pk {
        a_room_has_one_challenger_and_only_he_ends_his_pk,
        a_pk_is_begun_by_the_owner_of_a_live_room_and_goes_with_the_room,
        of_thirty_who_challenge_at_once_on_two_routers_one_has_the_seat,
    }
    grants {
        a_grant_is_given_once_and_comes_from_the_source,
        the_same_grants_at_once_on_two_routers_are_given_once,
    }
    people {
        a_phone_has_one_user_in_each_app_and_keeps_it,
        an_id_is_given_to_one_phone,
        of_fifty_first_logins_on_two_routers_all_get_one_user,
        segments_follow_each_other_and_the_step_is_the_rows,
        no_two_routers_get_the_same_segment_and_who_is_slower_gets_none,
        a_sequence_that_cannot_be_is_named,
        tags_are_set_and_lifted_and_others_stay,
        tags_that_are_changed_at_once_are_all_there,
    }
    streams {
        a_stream_key_is_replaced_and_never_printed,
        only_the_connection_that_publishes_can_end_it,
    }
    money {
        a_gift_makes_coins_of_one_beans_of_another_and_stays_so,
        of_gifts_at_once_on_two_routers_as_many_are_paid_as_are_covered,
        the_same_gift_a_hundred_times_at_once_is_paid_once,
        an_id_that_was_used_for_another_gift_is_a_conflict,
        a_repeat_at_another_price_or_by_another_owner_gets_the_first_answer,
        a_price_beyond_all_numbers_is_not_covered,
        nothing_is_paid_in_a_room_that_is_not_live,
        an_owner_who_is_one_no_more_is_fenced,
        a_replay_after_a_restart_a_day_and_the_rooms_end_gets_the_first_answer,
        gifts_of_a_room_are_counted_without_a_hole_across_owners_and_restarts,
        what_is_to_be_told_waits_until_it_was_told,
        a_batch_is_decided_in_its_order_and_what_was_received_is_not_spent,
        more_gifts_than_one_transaction_takes_are_paid_in_order,
        gifts_of_a_pk_are_read_apart,
        a_place_in_a_room_that_is_taken_fails_and_changes_nothing,
        ids_that_differ_in_a_space_or_in_case_are_two,
        what_is_no_gift_is_refused,
        the_catalogue_is_there_from_the_start_and_can_be_changed,
        batches_that_cross_each_other_all_end_and_lose_nothing,
        gifts_that_meet_closings_and_new_owners_never_fail,
        random_batches_do_what_a_simple_model_does,
    }
    recharge {
        an_order_is_credited_once_however_often_its_payment_is_told,
        another_payment_sum_or_currency_is_a_conflict,
        one_payment_pays_one_order,
        an_order_is_stored_once_and_its_id_is_no_others,
        coins_that_an_account_cannot_hold_are_not_credited,
        the_products_are_there_from_the_start_and_can_be_changed,
    }
    reconcile {
        money_that_moved_adds_up_also_while_it_moves,
        whatever_does_not_add_up_is_found,
        a_hole_is_found_at_every_place_of_a_large_room,
        one_router_looks_for_all_and_says_what_it_finds,
    }
    till {
        gifts_of_a_room_are_paid_in_the_order_they_were_handed_in,
        gifts_that_wait_together_are_paid_together,
        a_full_queue_takes_nothing_and_nothing_of_it_is_paid,
        nobody_waits_for_records_that_are_locked,
        told_gifts_leave_the_outbox_with_gifts_or_by_themselves,
        told_gifts_stay_in_the_outbox_until_their_pushes_are_out,
        a_till_that_closes_pays_what_it_has_taken,
        tills_that_tell_while_they_pay_never_wait_in_a_circle,
        a_gift_that_cannot_be_read_does_not_fail_its_neighbours,
    }
    webhooks {
        what_happens_is_written_with_it_in_its_order_and_for_whom_it_concerns,
        nothing_is_told_of_what_did_not_happen,
        a_pk_that_goes_with_its_room_is_told_before_the_room_with_its_bar_and_beans,
        a_batch_of_gifts_costs_one_statement_more_where_somebody_wants_them_and_none_where_nobody_does,
        beyond_the_bound_events_are_dropped_and_counted_and_gifts_are_paid,
        what_did_not_come_about_takes_no_room_and_what_was_written_keeps_its_own,
        hooks_are_as_many_as_may_be_also_where_two_routers_register_them_at_once,
        of_fifty_openings_that_are_told_one_wins_and_is_told_once,
        a_hook_is_held_by_one_router_until_its_claim_runs_out_or_a_later_life_takes_it,
        what_became_of_events_is_stored_and_lanes_come_up_when_they_are_due,
        what_is_too_old_is_given_up_and_what_belongs_to_nobody_is_deleted,
        what_a_later_version_has_written_fails_no_gift_and_is_left_to_it,
        of_what_waits_for_a_receiver_that_is_gone_as_many_as_are_kept_are_given_up,
        a_reading_that_comes_late_makes_no_hook_forgotten,
    }
    sending {
        events_arrive_signed_in_the_order_of_their_room_though_every_third_call_fails,
        a_receiver_that_hangs_or_refuses_connections_gets_its_events_when_it_is_back,
        a_sender_that_dies_before_it_has_heard_the_answer_is_followed_by_one_that_sends_the_same_again,
        a_receiver_that_hangs_holds_up_no_gift_and_its_events_are_bounded,
        two_routers_never_call_at_the_same_time_and_keep_the_order_when_they_change_places,
        a_receiver_that_says_it_is_gone_is_called_no_more,
        an_event_that_nobody_takes_is_given_up_in_time_and_can_be_looked_at,
        a_receiver_that_may_not_be_called_is_not_and_its_hook_says_why,
        receivers_that_are_slow_leave_the_others_their_share_of_the_calls,
        who_has_lost_a_hook_holds_it_no_more,
        who_is_alone_takes_over_at_once_though_the_clock_was_put_back,
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
        Self::with(Kind::File, String::new())
    }

    fn server(url: String) -> Self {
        Self::with(Kind::Server, url)
    }

    fn with(kind: Kind, url: String) -> Self {
        // What was told leaves the outbox while others put something there.
        let config = LedgerConfig { url, told_after: std::time::Duration::ZERO, ..LedgerConfig::default() };
        Self { kind, config, directory: tempfile::tempdir().unwrap() }
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

/// A room of an anchor whose first owner has it: epoch 1.
async fn live(ledger: &Ledger, anchor: i64) -> RoomId {
    let room = open(ledger, anchor, NOW).await.room;
    assert_eq!(ledger.raise_epoch(room).await.unwrap(), Some(1));
    room
}

/// A gift to an anchor, by the first owner of his room.
fn gift(room: RoomId, sender: i64, uuid: &str, price: i64) -> NewGift {
    NewGift {
        app: APP,
        sender: UserId(sender),
        uuid: uuid.to_owned(),
        room,
        epoch: 1,
        receiver: UserId(30_001),
        gift: GiftId(1),
        num: 1,
        price,
        pk: None,
        combo: String::new(),
    }
}

async fn pay_one(ledger: &Ledger, gift: NewGift) -> GiftOutcome {
    let mut outcomes = ledger.pay_gifts(&[gift], NOW).await.unwrap();
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

/// The gift, where it was paid now.
fn paid(outcome: GiftOutcome) -> PaidGift {
    let (gift, is_new) = settled(outcome);
    assert!(is_new, "{gift:?} was paid before");
    gift
}

/// The gift, where it is paid, and whether it was now.
fn settled(outcome: GiftOutcome) -> (PaidGift, bool) {
    match outcome {
        GiftOutcome::Paid { gift, .. } => (gift, true),
        GiftOutcome::Repeated(gift) => (gift, false),
        refused @ (GiftOutcome::Conflict | GiftOutcome::NotCovered { .. } | GiftOutcome::NoRoom | GiftOutcome::Fenced) => {
            panic!("not paid: {refused:?}")
        }
    }
}

/// An order of coins that waits.
fn order(user: i64, coins: i64) -> RechargeOrder {
    // One id for each in all tests: they share the process, and some the records.
    static NEXT: AtomicI64 = AtomicI64::new(1);
    RechargeOrder {
        order: NEXT.fetch_add(1, Relaxed),
        app: APP,
        user: UserId(user),
        product: ProductId(1),
        coins,
        price_minor: 600,
        currency: "CNY".to_owned(),
        state: OrderState::Waiting,
        made_ms: NOW,
        payment: String::new(),
    }
}

/// Gives a user of an app coins, the one way there is.
async fn fund_in(ledger: &Ledger, app: AppId, user: i64, coins: i64) {
    let order = RechargeOrder { app, ..order(user, coins) };
    ledger.add_order(&order).await.unwrap();
    let credited = ledger.pay_order(order.order, &format!("payment {}", order.order), 600, "CNY", NOW).await.unwrap();
    assert!(matches!(credited, PayOutcome::Credited(_)), "{credited:?}");
}

async fn fund(ledger: &Ledger, user: i64, coins: i64) {
    fund_in(ledger, APP, user, coins).await;
}

async fn coins(ledger: &Ledger, user: i64) -> i64 {
    ledger.balance(APP, UserId(user)).await.unwrap().coins
}

async fn beans(ledger: &Ledger, user: i64) -> i64 {
    ledger.balance(APP, UserId(user)).await.unwrap().beans
}

/// Transactions that the server has broken off because they waited in a circle.
async fn deadlocks(home: &Home, ledger: &Ledger) -> i64 {
    const READ: &str =
        "SELECT CAST(variable_value AS SIGNED INTEGER) FROM information_schema.global_status WHERE variable_name = 'INNODB_DEADLOCKS'";
    match home.kind {
        Kind::File => 0,
        Kind::Server => ledger.row::<(i64,)>("a test", READ, &[]).await.unwrap().unwrap().0,
    }
}

/// Whatever else holds, this does.
async fn adds_up(ledger: &Ledger) {
    let found = ledger.reconcile(0).await.unwrap();
    assert_eq!(found.findings, []);
}
