//! What the documentation of `port.rs` promises, sentence by sentence; and per port random histories against a naive model.
//!
//! - Nothing here knows an adapter. Each test and each history starts from [`Store::fresh`], an empty store.
//! - Where a store's server is missing its tests are passed over, loudly; `REQUIRE_SERVERS=1` makes that a failure.
//! - Times begin at the wall clock and run ahead of it, so that a store with a clock of its own never lets an entry go too early.
//! - Where a port leaves an adapter free (which entries a sweep meets first), the model accepts all that is allowed.

pub(crate) mod acks;
pub(crate) mod cache;
pub(crate) mod dedup;
pub(crate) mod inbox;
pub(crate) mod leases;
pub(crate) mod login_codes;
pub(crate) mod members;
pub(crate) mod pk_bars;
pub(crate) mod presence;
pub(crate) mod rate_windows;
pub(crate) mod registry;
pub(crate) mod room_log;
pub(crate) mod routes;
pub(crate) mod sessions;
pub(crate) mod tokens;

use billfish_state::{AppId, State, UserId};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, TestCaseError, TestRunner};
use std::sync::LazyLock;
use std::time::SystemTime;

/// Makes a store for the suite.
pub(crate) trait Store {
    /// What stores live in, for as long as a test holds it.
    type Server;
    /// Random histories per port where `PROPTEST_CASES` does not say.
    const HISTORIES: u32;
    /// Starts what stores live in, or shares it with other tests of this process. `None` where it is not installed.
    fn server() -> Option<Self::Server>;
    /// All ports, empty, and apart from those of every other call.
    fn fresh() -> impl Future<Output = State> + Send;
}

pub(crate) const APP: AppId = AppId(10001);
pub(crate) const OTHER_APP: AppId = AppId(10002);
pub(crate) const SECOND: u64 = 1000;
pub(crate) const MINUTE: u64 = 60 * SECOND;
pub(crate) const HOUR: u64 = 60 * MINUTE;
pub(crate) const DAY: u64 = 24 * HOUR;

/// Rounds after which a sweep that may look at a part of the table must have met all of it.
pub(crate) const SWEEP_ROUNDS: usize = 20_000;

/// `ms` after the beginning of the run.
pub(crate) fn at(ms: u64) -> u64 {
    static START: LazyLock<u64> = LazyLock::new(|| u64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap());
    *START + ms
}

pub(crate) fn users(ids: impl IntoIterator<Item = i64>) -> Vec<UserId> {
    ids.into_iter().map(UserId).collect()
}

pub(crate) fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).to_vec()
}

pub(crate) fn body(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Runs random histories, each on a store of its own.
pub(crate) fn histories<S: Store, Step: std::fmt::Debug + Clone>(
    step: impl Strategy<Value = Step>,
    play: impl AsyncFn(State, Vec<Step>) -> Result<(), TestCaseError>,
) {
    histories_of::<S, _>(S::HISTORIES, proptest::collection::vec(step, 1..50), play);
}

/// The same, for histories that are made otherwise: `usual` of them where `PROPTEST_CASES` does not say.
pub(crate) fn histories_of<S: Store, History: std::fmt::Debug>(
    usual: u32,
    history: impl Strategy<Value = History>,
    play: impl AsyncFn(State, History) -> Result<(), TestCaseError>,
) {
    let mut config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = usual;
    }
    config.failure_persistence = Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/conformance.txt")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = TestRunner::new(config).run(&history, |steps| runtime.block_on(async { play(S::fresh().await, steps).await }));
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

/// Makes the tests of one adapter: `conformance!(name, its Store, each)`, a test for each sentence; or `together`, where a server is dear.
macro_rules! conformance {
    ($adapter:ident, $store:ty, $how:ident) => {
        mod $adapter {
            $crate::suite::$how! { $store;
                tokens {
                    a_token_lets_its_owner_in_until_it_runs_out,
                    a_revoked_token_lets_nobody_in,
                    issuing_again_replaces_the_owner_and_the_end,
                    answers_come_in_the_order_asked,
                }
                presence {
                    a_user_is_online_from_the_last_sign_on,
                    an_earlier_sign_does_not_replace_a_later_one,
                    of_signs_given_together_each_has_its_moment,
                    a_removed_user_is_gone,
                    who_was_seen_after_the_given_moment_is_not_removed,
                    a_sweep_names_those_it_forgets_and_no_other,
                    users_of_two_apps_are_not_mixed_up,
                }
                routes {
                    binding_gives_whom_it_displaces_and_a_repeat_gives_the_same,
                    whom_a_route_displaced_is_told_for_a_while_also_when_it_was_given_back,
                    who_is_bound_again_keeps_its_place_among_those_displaced,
                    a_device_has_one_route_and_a_user_one_per_device,
                    a_route_ends_unless_renewed,
                    only_a_route_that_stands_as_given_is_renewed,
                    a_session_never_removes_its_successors_route,
                    unbinding_tells_whether_the_user_has_another_route,
                    answers_come_in_the_order_asked,
                    of_many_binding_at_once_each_sees_the_one_before,
                }
                acks {
                    a_recorded_ack_is_pending_until_removed,
                    recording_again_replaces,
                    what_is_due_is_told_and_put_off_and_no_more_than_asked,
                    what_was_put_off_often_enough_is_taken_out,
                    of_too_many_those_due_soonest_give_way,
                    of_many_recording_at_once_none_is_lost,
                }
                inbox {
                    ids_are_given_as_asked_or_the_next_after_the_newest,
                    ids_are_compared_as_numbers,
                    repeating_an_append_adds_nothing,
                    the_same_id_with_another_body_is_another_message,
                    pages_follow_each_other,
                    acknowledged_entries_are_gone_and_leave_no_gap,
                    ids_rise_though_all_is_acknowledged,
                    the_newest_entries_are_kept_and_a_gap_is_told,
                    an_inbox_is_bounded_in_bytes,
                    what_is_acknowledged_makes_room,
                    entries_age,
                    a_forgotten_inbox_is_a_new_one,
                    each_user_has_an_inbox_in_each_app,
                    a_malformed_id_is_refused_and_no_ack_of_one_hurts,
                    the_beginning_is_given_to_no_message_and_numbers_are_bounded,
                    bodies_come_back_byte_for_byte,
                    a_message_is_taken_once_while_its_claim_stands,
                    a_claim_is_of_one_sender_and_one_receiver,
                    a_claim_outlives_the_acknowledgement,
                    of_many_sending_one_message_at_once_one_is_first,
                    messages_of_one_call_are_taken_each_for_itself_and_in_order,
                    a_message_is_known_as_taken_while_its_claim_stands,
                    of_many_appending_at_once_each_gets_an_id_of_its_own,
                }
                room_log {
                    entries_come_back_in_order_and_in_pages,
                    a_seq_not_above_all_before_is_passed_over,
                    below_a_fence_nothing_is_taken_and_nobody_misses_anything,
                    a_fence_keeps_a_log_and_is_forgotten_with_it,
                    the_newest_entries_are_kept_and_a_gap_is_told,
                    a_log_is_bounded_in_bytes,
                    entries_age_and_the_last_seq_is_remembered,
                    a_log_is_forgotten_in_the_end,
                    a_removed_log_is_forgotten,
                    each_entry_is_told_what_became_of_it,
                    a_claim_is_made_with_its_entry_or_not_at_all,
                    a_claim_is_of_one_sender_and_one_room,
                    a_claim_runs_out,
                    a_claim_outlives_its_entry,
                    whom_an_entry_was_not_pushed_to_is_kept,
                    bodies_come_back_byte_for_byte,
                    of_many_with_one_claim_at_once_one_is_stored,
                    of_several_owners_at_once_the_log_is_in_order,
                }
                members {
                    a_user_counts_once_whatever_the_devices,
                    joining_and_leaving_again_changes_nothing,
                    rooms_and_apps_are_apart,
                    a_scan_meets_everyone,
                    who_stays_is_met_whatever_comes_and_goes,
                    a_closed_room_is_empty,
                    a_quiet_list_is_forgotten_and_a_busy_one_is_not,
                    of_many_coming_and_going_at_once_who_stays_is_counted,
                }
                registry {
                    a_node_is_listed_until_its_lease_ends,
                    registering_again_renews_and_updates,
                    nodes_come_by_kind_and_in_order_of_their_ids,
                    an_earlier_life_neither_replaces_nor_removes_a_later_one,
                }
                leases {
                    a_free_lease_is_taken_and_a_held_one_is_not,
                    the_holder_renews_under_the_same_epoch,
                    many_are_asked_for_at_once_each_by_itself,
                    of_two_who_ask_for_a_name_at_once_the_first_has_it,
                    the_epoch_rises_whenever_the_lease_is_taken_anew,
                    only_the_holder_with_its_epoch_releases,
                    of_many_at_once_one_holds,
                    a_lease_taken_by_a_clock_set_back_since_counts_as_run_out,
                }
                rate_windows {
                    the_limit_holds_in_a_window_and_the_next_begins_anew,
                    a_refusal_says_when_there_is_room_again_and_does_not_count,
                    keys_do_not_share_a_window_and_a_batch_counts_in_order,
                    of_many_at_once_only_the_limit_passes,
                }
                dedup {
                    a_message_is_claimed_once_until_the_claim_runs_out,
                    a_claim_given_back_is_free,
                    users_and_apps_do_not_share_claims,
                    of_many_at_once_one_claims,
                }
                cache {
                    a_value_is_there_until_its_end,
                    putting_again_replaces_and_removing_forgets,
                }
                pk_bars {
                    a_bar_is_there_from_its_put_until_its_pk_is_ended,
                    a_gift_moves_a_bar_once_however_often_it_comes,
                    a_bar_that_has_not_seen_the_gift_before_is_to_be_put_anew,
                    a_bar_ends_at_its_ends_and_who_has_won_stays,
                    the_next_pk_of_a_room_begins_anew,
                    a_bar_is_not_put_over_a_newer_one,
                    only_its_challenger_ends_a_pk,
                    a_bar_is_kept_after_its_last_change,
                    what_not_every_store_can_keep_is_refused,
                    of_many_steps_at_once_each_is_applied_once,
                }
                login_codes {
                    a_code_is_good_once_and_until_its_end,
                    wrong_tries_end_a_code_and_another_begins_anew,
                    between_two_codes_there_is_a_gap_whether_the_first_was_used_or_not,
                    a_phone_has_so_many_codes_in_a_window,
                    a_repeat_of_the_same_call_is_the_same_code,
                    phones_and_apps_do_not_share_codes,
                    of_many_checking_the_right_code_at_once_one_is_let_in,
                }
                sessions {
                    a_session_is_its_owners_until_it_runs_out,
                    a_closed_session_is_nobodys_and_the_others_stay,
                    all_sessions_of_a_user_are_closed_at_once_and_of_no_other,
                    beyond_so_many_the_one_that_ends_soonest_has_ended,
                    of_many_opening_at_once_all_are_found_by_their_user,
                }
            }
        }
    };
}

macro_rules! each {
    ($store:ty; $($port:ident { $($sentence:ident,)+ })+) => {
        $(mod $port {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $sentence() {
                let Some(_server) = <$store as $crate::suite::Store>::server() else { return };
                $crate::suite::$port::$sentence::<$store>().await;
            })+

            #[test]
            fn histories_end_as_in_the_model() {
                let Some(_server) = <$store as $crate::suite::Store>::server() else { return };
                $crate::suite::$port::histories_end_as_in_the_model::<$store>();
            }
        })+
    };
}

macro_rules! together {
    ($store:ty; $($port:ident { $($sentence:ident,)+ })+) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn every_sentence_holds() {
            let Some(_server) = <$store as $crate::suite::Store>::server() else { return };
            $($(
                eprintln!(concat!(stringify!($port), ": ", stringify!($sentence)));
                $crate::suite::$port::$sentence::<$store>().await;
            )+)+
        }

        #[test]
        fn histories_end_as_in_the_models() {
            let Some(_server) = <$store as $crate::suite::Store>::server() else { return };
            $(
                eprintln!(stringify!($port));
                $crate::suite::$port::histories_end_as_in_the_model::<$store>();
            )+
        }
    };
}

pub(crate) use {conformance, each, together};
