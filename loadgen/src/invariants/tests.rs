//! Each invariant can fail: a small run and its ledger, in which everything is right, and one fault at a time.
//!
//! The ledger is a real file with the tables of the router's own migrations.

use super::{Ledger, LedgerUrl, Outcome, Verdict, judge};
use crate::{
    crowd::{
        senders::SenderLine,
        viewers::{BarPush, PushLine, ViewerState},
    },
    gifts::{
        GiftKey, GiftPlan, Priced,
        bar::{Bar, Side},
        combo_id, place_digest,
    },
    journal::{
        BarsLine, GatewayLine, GiftRoomLine, GiftsLine, Kind, Line, PushesLine, RunLine, Stated, VERSION_NOW, ViewersLine, check, written,
    },
};
use billfish_testing::MariaDb;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use std::{collections::BTreeMap, fs, path::PathBuf};
use tempfile::TempDir;

const ROOM: i64 = 77;
const FIRST_USER_ID: i64 = 20_000;
const VIEWERS: u32 = 10;
/// Coins that each sender was given.
const COINS: i64 = 100_000;

#[test]
fn a_run_in_which_everything_is_right_passes_them_all() {
    for is_pk in [false, true] {
        let verdicts = Case::new(is_pk).judged();
        assert_eq!(red(&verdicts), [""; 0], "{verdicts:#?}");
        let all: Vec<_> = verdicts.iter().map(|verdict| verdict.id).collect();
        assert_eq!(all, ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I12"]);
        assert!(verdicts.iter().all(|verdict| verdict.outcome == Outcome::Pass), "{verdicts:#?}");
    }
}

#[test]
fn i1_an_acknowledged_gift_that_is_not_in_the_ledger() {
    let mut case = Case::new(false);
    // One more than the ledger has, which nobody was shown.
    case.senders[0].sent += 1;
    case.senders[0].acked[0].1 += 1;
    case.gifts.acked += 1;
    case.room.acked += 1;
    assert_red(&case, "I1", "1 acknowledged gifts are not in the ledger");
}

#[test]
fn i1_a_gift_that_is_in_the_ledger_with_another_receiver_or_although_it_was_refused() {
    let case = Case::new(false);
    case.ledger("UPDATE t_gift_record SET receiver_id = 666 WHERE gift_seq = 3");
    case.ledger("UPDATE t_account_trade SET user_id = 666 WHERE kind = 1 AND ref_b = 3 AND side = 1");
    case.ledger("INSERT INTO t_account SELECT app_id, account_kind, user_id, amount FROM t_account_trade WHERE user_id = 666");
    case.ledger("UPDATE t_account SET balance = balance - (SELECT amount FROM t_account_trade WHERE user_id = 666) WHERE kind = 2 AND user_id <> 666");
    assert_red(&case, "I1", "1 gifts are in the ledger with another content");

    let mut case = Case::new(false);
    let sent = case.senders[0].sent;
    case.senders[0].acked = vec![(0, sent - 1)];
    case.senders[0].refused = vec![(sent - 1, sent)];
    case.gifts.acked -= 1;
    case.room.acked -= 1;
    case.room.placeless = 1;
    assert_red(&case, "I1", "1 gifts were refused and are in the ledger");
}

#[test]
fn i1_acks_that_name_other_places_than_the_ledger() {
    let mut case = Case::new(false);
    case.room.places = case.room.places.wrapping_add(1);
    assert_red(&case, "I1", "name other places");
}

#[test]
fn i1_and_i2_a_run_that_did_nothing() {
    let mut case = Case::new(false);
    for sender in &mut case.senders {
        (sender.sent, sender.acked) = (0, Vec::new());
    }
    (case.gifts.acked, case.room.acked, case.room.places) = (0, 0, 0);
    assert_eq!(red(&case.judged()), ["I1", "I2"], "a run that did nothing proves nothing");
}

#[test]
fn i2_a_gift_that_is_debited_twice() {
    let case = Case::new(false);
    // As a ledger would have it whose key has been forgotten: all sums are right.
    case.ledger("CREATE TABLE t_copy AS SELECT * FROM t_gift_record");
    case.ledger("DROP TABLE t_gift_record");
    case.ledger("ALTER TABLE t_copy RENAME TO t_gift_record");
    let next = case.rows.len() + 1;
    case.ledger(&format!(
        "INSERT INTO t_gift_record SELECT room_id, {next}, app_id, sender_id, uuid, epoch, receiver_id, gift_id, num, price, pk, combo, paid_time \
         FROM t_gift_record WHERE gift_seq = 2"
    ));
    case.ledger(&format!(
        "INSERT INTO t_account_trade SELECT kind, ref_a, {next}, side, app_id, account_kind, user_id, amount, trade_time \
         FROM t_account_trade WHERE kind = 1 AND ref_b = 2"
    ));
    case.ledger(&format!(
        "UPDATE t_account SET balance = balance + COALESCE((SELECT SUM(amount) FROM t_account_trade t WHERE t.kind = 1 AND t.ref_b = {next} \
         AND t.account_kind = t_account.kind AND t.user_id = t_account.user_id), 0)"
    ));
    assert_red(&case, "I2", "1 ids of a sender are in the ledger more than once");
}

#[test]
fn i2_a_gift_that_is_not_debited_with_its_price() {
    let case = Case::new(false);
    // All balances are right: somebody else has paid it.
    case.ledger("UPDATE t_account_trade SET user_id = 20002 WHERE kind = 1 AND ref_b = 1 AND side = 0");
    case.ledger("UPDATE t_account SET balance = balance + (SELECT -amount FROM t_account_trade WHERE kind = 1 AND ref_b = 1 AND side = 0) WHERE kind = 1 AND user_id = 20001");
    case.ledger("UPDATE t_account SET balance = balance - (SELECT -amount FROM t_account_trade WHERE kind = 1 AND ref_b = 1 AND side = 0) WHERE kind = 1 AND user_id = 20002");
    assert_red(&case, "I2", "1 gifts have no debit of their price");
}

#[test]
fn i2_a_gift_that_was_paid_and_is_refused_when_it_is_sent_again() {
    let mut case = Case::new(false);
    case.gifts.repeats_refused = 1;
    assert_red(&case, "I2", "refused when they were sent again");
}

#[test]
fn i3_a_balance_that_is_off() {
    let case = Case::new(false);
    case.ledger("UPDATE t_account SET balance = balance + 1 WHERE kind = 1 AND user_id = 20001");
    assert_red(&case, "I3", "1 balances are not the sum of their entries; all balances together are 1, and not 0");
}

#[test]
fn i3_a_credit_that_is_missing() {
    let case = Case::new(false);
    case.ledger("UPDATE t_account SET balance = balance - (SELECT amount FROM t_account_trade WHERE kind = 1 AND ref_b = 1 AND side = 1) WHERE kind = 2");
    case.ledger("DELETE FROM t_account_trade WHERE kind = 1 AND ref_b = 1 AND side = 1");
    assert_red(&case, "I3", "1 transactions are not one debit and one credit");
}

#[test]
fn i4_a_push_that_broke_the_order() {
    let mut case = Case::new(false);
    case.pushes[3].overtaken = 1;
    assert_red(&case, "I4", "1 pushes broke the order of their room");
}

#[test]
fn i4_viewers_that_saw_another_order() {
    let mut case = Case::new(false);
    case.gifts.chain_breaks = 2;
    assert_red(&case, "I4", "2 viewers saw another order");
}

#[test]
fn i4_a_bar_that_is_not_what_the_gifts_make() {
    let mut case = Case::new(true);
    case.bars[2].1 += 1;
    assert_red(&case, "I4", "1 values of a bar are not those of the ledger's gifts");

    let mut case = Case::new(true);
    let bar = case.viewers[0].0.bar.as_mut().expect("a bar was shown");
    bar.value += 1;
    assert_red(&case, "I4", "10 viewers end with another bar");

    let mut case = Case::new(true);
    case.bars.push((1_000, 50));
    assert_red(&case, "I4", "1 values of a bar are not those of the ledger's gifts");
}

#[test]
fn i4_a_place_that_no_gift_has() {
    let mut case = Case::new(false);
    let last = case.rows.len();
    case.ledger(&format!("UPDATE t_gift_record SET gift_seq = {} WHERE gift_seq = {last}", last + 1));
    case.ledger(&format!("UPDATE t_account_trade SET ref_b = {} WHERE kind = 1 AND ref_b = {last}", last + 1));
    let push = case.pushes.last_mut().expect("there are pushes");
    (push.first, push.last) = (push.first + 1, push.last + 1);
    case.room.placeless = 1;
    assert_red(&case, "I4", "1 places of gifts are missing in their room");
}

#[test]
fn i5_a_copy_that_is_missing() {
    let mut case = Case::new(false);
    let mut lacking = case.viewers[0].0;
    lacking.gifts -= 1;
    lacking.pushes -= 1;
    case.viewers = vec![(case.viewers[0].0, VIEWERS - 1), (lacking, 1)];
    case.pushes[2].received -= 1;
    assert_red(&case, "I5", "1 times a viewer that stayed was not shown a gift");
}

#[test]
fn i5_a_gift_that_nobody_was_told_of() {
    let mut case = Case::new(false);
    let push = case.pushes.pop().expect("there are pushes");
    let state = &mut case.viewers[0].0;
    state.gifts -= u64::from(push.taps);
    state.pushes -= 1;
    assert_red(
        &case,
        "I5",
        "10 times a viewer that stayed was not shown a gift that is in the ledger; 1 gifts are in the ledger and nobody was told",
    );
}

#[test]
fn i6_a_gift_that_is_shown_twice() {
    let mut case = Case::new(false);
    let viewer = &mut case.viewers[0].0;
    viewer.gifts += 1;
    assert_red(&case, "I6", "10 times a viewer was shown more gifts than there are");

    let mut case = Case::new(false);
    case.gifts.faults.told_again = 1;
    assert_red(&case, "I6", "1 times a viewer was told again of a gift that it was shown");

    let mut case = Case::new(false);
    let again = case.pushes[0];
    case.pushes.push(again);
    (case.copies, case.delivered) = (case.copies + 10, case.delivered + 10);
    assert_red(&case, "I6", "1 gifts stand in two pushes");
    assert_eq!(red(&case.judged_after_faults(true)), [""; 0], "where a server died it may be so");
}

#[test]
fn i6_many_copies_that_come_again_although_no_server_died() {
    let mut case = Case::new(false);
    case.pushes[0].twice = 9;
    (case.copies, case.delivered) = (case.copies + 9, case.delivered + 9);
    assert_red(&case, "I6", "copies came again, and no server died");
    assert_eq!(red(&case.judged_after_faults(true)), [""; 0]);
}

#[test]
fn i7_a_frame_that_reached_a_stranger() {
    let mut case = Case::new(false);
    case.strays = 1;
    assert_red(&case, "I7", "1 frames reached someone they were not for");
}

#[test]
fn i12_metrics_that_lie() {
    let mut case = Case::new(false);
    case.copies += 1;
    assert_red(&case, "I12", "copies were asked for");

    let mut case = Case::new(false);
    (case.copies, case.delivered) = (case.copies - 1, case.delivered - 1);
    assert_red(&case, "I12", "clients received");
}

#[test]
fn what_a_run_says_nothing_of_is_not_applicable_and_does_not_pass() {
    let mut case = Case::new(false);
    (case.viewers, case.pending) = (Vec::new(), None);
    let verdicts = case.judged();
    let silent: Vec<_> = verdicts.iter().filter(|verdict| verdict.outcome == Outcome::NotApplicable).map(|verdict| verdict.id).collect();
    assert_eq!(silent, ["I5", "I6", "I7", "I12"], "{verdicts:#?}");
}

#[test]
fn a_burst_of_messages_is_judged_by_its_own_account_and_is_no_proof_of_gifts() {
    let case = Case::new(false);
    let run = Line::Run(RunLine { kind: Kind::Rooms, scenario: "room-burst".to_owned(), ..case.run() });
    let stated = Stated::default();
    let finding = check(written(&[run], &stated).as_bytes(), Some(&stated)).expect("it can be read");
    let verdicts = judge(&finding, &mut case.open(), false).expect("the ledger can be read");
    assert_eq!(red(&verdicts), ["I1", "I2"], "{verdicts:#?}");
}

#[test]
fn taps_of_a_combo_between_other_gifts_are_found_by_their_push() {
    let case = Case::with(GiftPlan { combo_permille: 1_000, ..plan(false) });
    assert!(case.pushes.iter().any(|push| push.taps == 5 && push.last - push.first > 4), "{:?}", case.pushes);
    let verdicts = case.judged();
    assert_eq!(red(&verdicts), [""; 0], "{verdicts:#?}");
}

#[test]
fn gifts_of_others_in_the_same_room_are_no_concern_but_for_the_bar() {
    let case = Case::new(false);
    let next = case.rows.len() + 1;
    case.ledger(&format!(
        "INSERT INTO t_gift_record SELECT room_id, {next}, app_id, sender_id, 'by hand', epoch, receiver_id, gift_id, num, price, pk, combo, paid_time \
         FROM t_gift_record WHERE gift_seq = 2"
    ));
    case.ledger(&format!(
        "INSERT INTO t_account_trade SELECT kind, ref_a, {next}, side, app_id, account_kind, user_id, amount, trade_time \
         FROM t_account_trade WHERE kind = 1 AND ref_b = 2"
    ));
    case.ledger(&format!(
        "UPDATE t_account SET balance = balance + COALESCE((SELECT SUM(amount) FROM t_account_trade t WHERE t.kind = 1 AND t.ref_b = {next} \
         AND t.account_kind = t_account.kind AND t.user_id = t_account.user_id), 0)"
    ));
    let verdicts = case.judged();
    assert_eq!(red(&verdicts), [""; 0], "{verdicts:#?}");
}

#[test]
fn a_ledger_on_a_server_is_read_alike() {
    let Some(server) = MariaDb::start() else { return };
    let case = Case::new(true);
    for file in migrations("mysql") {
        server.execute(&format!("USE billfish; {}", fs::read_to_string(file).expect("text")));
    }
    server.execute(&format!("USE billfish; {}", case.paid()));
    let mut ledger = Ledger::open(&server.url().parse().expect("a URL")).expect("it has the tables");
    let verdicts = case.judged_by(&mut ledger, false);
    assert!(verdicts.iter().all(|verdict| verdict.outcome == Outcome::Pass), "{verdicts:#?}");
    drop(ledger);
    server.execute("UPDATE billfish.t_account SET balance = balance + 1 WHERE kind = 1 AND user_id = 20001");
    let mut ledger = Ledger::open(&server.url().parse().expect("a URL")).expect("it has the tables");
    assert_eq!(red(&case.judged_by(&mut ledger, false)), ["I3"]);
}

#[test]
fn a_file_that_is_no_ledger_is_refused() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let missing = LedgerUrl::Sqlite(place.path().join("none.db"));
    assert!(Ledger::open(&missing).is_err());
    let path = place.path().join("empty.db");
    fs::write(&path, "").expect("it can be written");
    let Err(error) = Ledger::open(&LedgerUrl::Sqlite(path)) else { panic!("it has no tables") };
    assert!(format!("{error:#}").contains("no table of gifts"), "{error:#}");
}

fn red(verdicts: &[Verdict]) -> Vec<&'static str> {
    verdicts.iter().filter(|verdict| verdict.outcome == Outcome::Fail).map(|verdict| verdict.id).collect()
}

/// Exactly this one fails, and says why.
fn assert_red(case: &Case, id: &str, why: &str) {
    let verdicts = case.judged();
    assert_eq!(red(&verdicts), [id], "{verdicts:#?}");
    let said = &verdicts.iter().find(|verdict| verdict.id == id).expect("it was judged").what;
    assert!(said.contains(why), "{said}");
}

/// The router's, in their order.
fn migrations(database: &str) -> Vec<PathBuf> {
    let directory = format!("{}/../router/migrations/{database}", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = fs::read_dir(directory).expect("the router's").map(|file| file.expect("a file").path()).collect();
    files.sort();
    files
}

fn plan(is_pk: bool) -> GiftPlan {
    GiftPlan {
        run: 0xfeed,
        app_id: 10_001,
        first_user_id: FIRST_USER_ID,
        catalogue: vec![Priced { gift_id: 1, price: 10 }, Priced { gift_id: 2, price: 30 }],
        anchors: vec![91_000],
        challengers: if is_pk { vec![FIRST_USER_ID] } else { Vec::new() },
        sender_every: 1,
        combo_permille: 0,
        retry_permille: 10,
    }
}

/// A run of two senders with ten gifts each, and its ledger.
struct Case {
    place: TempDir,
    plan: GiftPlan,
    /// (client, its gift), by place in the room.
    rows: Vec<(usize, u32)>,
    gifts: GiftsLine,
    senders: Vec<SenderLine>,
    room: GiftRoomLine,
    pushes: Vec<PushLine>,
    bars: Vec<(i64, i64)>,
    viewers: Vec<(ViewerState, u32)>,
    strays: u64,
    copies: u64,
    delivered: u64,
    pending: Option<i64>,
}

impl Case {
    fn new(is_pk: bool) -> Self {
        Self::with(plan(is_pk))
    }

    fn with(plan: GiftPlan) -> Self {
        // The two take turns.
        let rows: Vec<(usize, u32)> = (0..10).flat_map(|n| [(1, n), (2, n)]).collect();
        let mut case = Self {
            place: tempfile::tempdir().expect("a temporary directory"),
            gifts: GiftsLine { plan: plan.clone(), intended: 20, acked: 20, repeats: 3, ..GiftsLine::default() },
            senders: [1, 2].map(|client| SenderLine { client, sent: 10, acked: vec![(0, 10)], refused: Vec::new() }).to_vec(),
            room: GiftRoomLine { room: 0, id: ROOM, members: VIEWERS, acked: 20, told: 20, ..GiftRoomLine::default() },
            pushes: Vec::new(),
            bars: Vec::new(),
            viewers: Vec::new(),
            strays: 0,
            copies: 0,
            delivered: 0,
            pending: Some(1),
            plan,
            rows,
        };
        case.migrate();
        case.ledger(&case.paid());
        case.tell();
        case
    }

    fn path(&self) -> PathBuf {
        self.place.path().join("ledger.db")
    }

    fn open(&self) -> Ledger {
        Ledger::open(&LedgerUrl::Sqlite(self.path())).expect("it was made")
    }

    /// Changes the ledger.
    fn ledger(&self, sql: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let options = SqliteConnectOptions::new().filename(self.path()).create_if_missing(true);
            let mut connection = SqliteConnection::connect_with(&options).await.expect("a file");
            sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            connection.close().await.expect("it was open");
        });
    }

    /// The tables, as the router makes them.
    fn migrate(&self) {
        for file in migrations("sqlite") {
            self.ledger(&fs::read_to_string(file).expect("text"));
        }
    }

    /// What the ledger has of it: coins from outside to the senders, and theirs to the receivers.
    fn paid(&self) -> String {
        let mut sql = String::from("BEGIN;");
        let mut balances: BTreeMap<(i64, i64), i64> = BTreeMap::new();
        let mut trade = |kind: i64, refs: (i64, i64), from: (i64, i64), to: (i64, i64), amount: i64| {
            for (side, (account, user), amount) in [(0, from, -amount), (1, to, amount)] {
                *balances.entry((account, user)).or_default() += amount;
                sql += &format!(
                    "INSERT INTO t_account_trade VALUES ({kind}, {}, {}, {side}, 10001, {account}, {user}, {amount}, 5);",
                    refs.0, refs.1
                );
            }
        };
        for client in [1, 2] {
            trade(2, (900 + client, 0), (4, 0), (1, FIRST_USER_ID + client), COINS);
        }
        let mut records = String::new();
        for (place, &(client, n)) in self.rows.iter().enumerate() {
            let (intent, gift_seq, sender) = (self.plan.intent(client, n), place as i64 + 1, FIRST_USER_ID + client as i64);
            trade(1, (ROOM, gift_seq), (1, sender), (2, intent.receiver_id), intent.gift.price * intent.num);
            let pk = intent.side.map_or(0, |side| if side == Side::Anchor { 1 } else { 2 });
            records += &format!(
                "INSERT INTO t_gift_record VALUES ({ROOM}, {gift_seq}, 10001, {sender}, '{}', 1, {}, {}, {}, {}, {pk}, '{}', 5);",
                self.uuid(client, n),
                intent.receiver_id,
                intent.gift.gift_id,
                intent.num,
                intent.gift.price,
                intent.combo.map(combo_id).unwrap_or_default()
            );
        }
        for ((account, user), balance) in balances {
            records += &format!("INSERT INTO t_account VALUES (10001, {account}, {user}, {balance});");
        }
        sql + &records + "COMMIT;"
    }

    fn uuid(&self, client: usize, n: u32) -> String {
        self.plan.uuid(GiftKey { client: u32::try_from(client).expect("one of two"), n, intended_ns: 7 })
    }

    /// What its clients heard: a push of each gift, or of the taps of each combo, to everyone.
    fn tell(&mut self) {
        let mut bar = Bar::default();
        let mut combos: BTreeMap<(usize, u32), PushLine> = BTreeMap::new();
        for (place, &(client, n)) in self.rows.iter().enumerate() {
            let (intent, gift_seq) = (self.plan.intent(client, n), place as i64 + 1);
            self.room.places = self.room.places.wrapping_add(place_digest((client as u32, n), gift_seq));
            let push = PushLine { first: gift_seq, last: gift_seq, taps: 1, received: VIEWERS.into(), twice: 0, overtaken: 0 };
            match intent.combo {
                None => self.pushes.push(push),
                Some(combo) => {
                    let whole = combos.entry((client, combo)).or_insert(PushLine { taps: 0, ..push });
                    (whole.last, whole.taps) = (gift_seq, whole.taps + 1);
                }
            }
            if let Some(side) = intent.side {
                bar.on_gift(side, intent.gift.price, intent.num);
                self.bars.push((gift_seq, bar.value()));
            }
        }
        self.pushes.extend(combos.into_values());
        let shown = self.bars.last().map(|&(gift_seq, value)| BarPush { gift_seq, value });
        let pushes = self.pushes.len() as u32;
        self.viewers = vec![(ViewerState { gifts: 20, pushes, chain: 99, bar: shown }, VIEWERS)];
        // The pushes, one that waits, and three copies of something else.
        self.delivered = u64::from(pushes * VIEWERS);
        self.copies = self.delivered + 4;
    }

    fn run(&self) -> RunLine {
        RunLine {
            journal: VERSION_NOW,
            scenario: "gift-rain".to_owned(),
            seed: 7,
            kind: Kind::Gifts,
            connections: VIEWERS.into(),
            logins_failed: 0,
            at_least_once: true,
            lag: None,
            lost_omitted: 0,
            login_failed_omitted: 0,
            strays: Some(self.strays),
        }
    }

    fn judged(&self) -> Vec<Verdict> {
        self.judged_after_faults(false)
    }

    fn judged_after_faults(&self, had_faults: bool) -> Vec<Verdict> {
        self.judged_by(&mut self.open(), had_faults)
    }

    fn judged_by(&self, ledger: &mut Ledger, had_faults: bool) -> Vec<Verdict> {
        let mut lines = vec![Line::Run(self.run()), Line::Gifts(Box::new(self.gifts.clone()))];
        lines.extend(self.senders.iter().cloned().map(Line::Sender));
        lines.push(Line::GiftRoom(self.room));
        lines.push(Line::Pushes(PushesLine { room: 0, list: self.pushes.clone() }));
        lines.push(Line::Bars(BarsLine { room: 0, list: self.bars.clone() }));
        lines.extend(self.viewers.iter().map(|&(state, members)| Line::Viewers(ViewersLine { room: 0, members, state })));
        lines.push(Line::Gateway(GatewayLine {
            copies: self.copies,
            delivered: BTreeMap::from([("event".to_owned(), self.delivered), ("ambient".to_owned(), 2)]),
            dropped: BTreeMap::from([("ambient".to_owned(), 1)]),
            closes: BTreeMap::new(),
            pending: self.pending,
        }));
        let finding = check(written(&lines, &Stated::default()).as_bytes(), None).expect("it can be read");
        let contradictions: Vec<_> = finding.disagreements.iter().filter(|said| said.contains("its senders")).collect();
        assert!(contradictions.is_empty(), "the journal contradicts itself: {contradictions:?}");
        judge(&finding, ledger, had_faults).expect("the ledger can be read")
    }
}
