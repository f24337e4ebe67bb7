//! What must hold when all is quiet again, read from the database itself (I1 to I5 of the design, and the rules of the ledger).

use super::crew::{ANCHOR, COINS, Crew, Given};
use billfish_testing::{MariaDb, Sql, eventually};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// Where the records are.
pub(super) enum Books {
    File(PathBuf),
    /// By URL.
    Server(String),
}

/// How often a viewer may be shown a gift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// By one push.
    Once,
    /// Again where the server died, as the protocol allows: its log has died with it. And what it had told in its last moments may have been
    /// in its sockets still.
    AsFarAsItLived,
}

/// Whether the server's own look over the money has found anything, and how often it has looked: `(findings, looks)`.
pub(super) type Looks<'a> = dyn Fn() -> (f64, f64) + 'a;

impl Books {
    pub(super) fn of(maria: &MariaDb) -> Self {
        Self::Server(maria.url())
    }

    fn open(&self) -> Sql {
        match self {
            Self::File(path) => Sql::file(path),
            Self::Server(url) => Sql::server(url),
        }
    }

    /// Waits until the viewers have seen everything, and looks at all of it. How many gifts were paid.
    pub(super) fn check(&self, crew: &Crew, given: &[Given], shown: Shown, looks: Option<&Looks<'_>>) -> i64 {
        let mut sql = self.open();
        // Of the one room that there is.
        let records: Vec<(i64, i64, String, i64, i64, i64)> = sql.rows(
            "SELECT gift_seq, sender_id, CAST(uuid AS CHAR), receiver_id, num, num * price FROM t_gift_record ORDER BY room_id, gift_seq",
        );
        let paid = i64::try_from(records.len()).unwrap();
        let places: Vec<i64> = records.iter().map(|record| record.0).collect();
        assert_eq!(places, (1..=paid).collect::<Vec<i64>>(), "the places have no hole");

        let of: BTreeMap<(i64, &str), i64> = records.iter().map(|(seq, sender, uuid, ..)| ((*sender, uuid.as_str()), *seq)).collect();
        assert_eq!(of.len(), records.len(), "nothing was paid twice");
        let mut asked: BTreeSet<(i64, &str)> = BTreeSet::new();
        for Given { user, acknowledged, in_doubt } in given {
            for (uuid, place) in acknowledged {
                let seq = of.get(&(*user, uuid.as_str())).unwrap_or_else(|| panic!("{uuid} was acknowledged and is not paid"));
                assert!(place.is_none_or(|place| place == *seq), "{uuid} was acknowledged as {place:?} and is {seq}");
                asked.insert((*user, uuid));
            }
            asked.extend(in_doubt.iter().map(|uuid| (*user, uuid.as_str())));
        }
        assert!(of.keys().all(|key| asked.contains(key)), "nobody asked for some of what was paid");

        let balances: BTreeMap<(i64, i64), i64> = sql
            .rows::<(i64, i64, i64)>("SELECT CAST(kind AS SIGNED), user_id, balance FROM t_account")
            .into_iter()
            .map(|(kind, user, balance)| ((kind, user), balance))
            .collect();
        for Given { user, .. } in given {
            let spent: i64 = records.iter().filter(|record| record.1 == *user).map(|record| record.5).sum();
            assert_eq!(balances[&(1, *user)], COINS - spent, "user {user} has paid what he gave and nothing else");
        }
        let receivers: BTreeSet<i64> = records.iter().map(|record| record.3).collect();
        for receiver in receivers {
            let got: i64 = records.iter().filter(|record| record.3 == receiver).map(|record| record.5).sum();
            assert_eq!(balances[&(2, receiver)], got, "user {receiver} was given what was paid");
        }
        assert!(balances.contains_key(&(2, ANCHOR)));
        assert_eq!(balances.values().sum::<i64>(), 0, "everything together is nothing");
        assert_eq!(sql.number("SELECT COUNT(*) FROM t_account_trade WHERE kind = 1"), 2 * paid, "each debit has its credit");

        let all = |seen: &BTreeMap<i64, u32>| match shown {
            Shown::Once => i64::try_from(seen.len()).is_ok_and(|shown| shown == paid),
            Shown::AsFarAsItLived => seen.contains_key(&paid),
        };
        eventually("every viewer is shown every gift", || crew.seen().iter().all(|seen| all(&seen.places)));
        // What is shown a second time would come now: the outbox has been emptied of what was told.
        eventually("the outbox is empty", || sql.number("SELECT COUNT(*) FROM t_outbox") == 0);
        let nums: i64 = records.iter().map(|record| record.4).sum();
        for seen in crew.seen() {
            assert_eq!(seen.problems, [""; 0]);
            assert!(seen.places.keys().all(|place| (1..=paid).contains(place)), "what is shown was paid");
            if shown == Shown::AsFarAsItLived {
                continue;
            }
            let twice: Vec<_> = seen.places.iter().filter(|(_, times)| **times != 1).collect();
            assert!(twice.is_empty(), "places that more than one push stands for: {twice:?}");
            assert_eq!(seen.nums, nums, "the pushes show as many as were paid");
        }
        if let Some(looks) = looks {
            let before = looks().1;
            eventually("the server looks over the money", || looks().1 > before);
            assert_eq!(looks().0, 0.0, "it adds up");
        }
        paid
    }

    /// What the PK gifts of the room make of the bar: `(number of the last one, value)`.
    pub(super) fn bar(&self) -> (i64, i64) {
        let gifts: Vec<(i64, i64, i64)> =
            self.open().rows("SELECT gift_seq, CAST(pk AS SIGNED), num * price FROM t_gift_record WHERE pk > 0 ORDER BY gift_seq");
        let mut bar = (0, 50_i64);
        for (seq, side, price) in gifts {
            let is_over = bar.1 == 0 || bar.1 == 100;
            let step = if side == 1 { price / 10 } else { -price / 10 };
            bar = (seq, if is_over { bar.1 } else { (bar.1 + step).clamp(0, 100) });
        }
        bar
    }
}
