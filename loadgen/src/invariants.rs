//! The invariants of a run with gifts: what its journal says, against what stands in the server's ledger.
//!
//! - Nothing of the run's own verdict is believed: what clients heard is compared with what was paid.
//! - A run that did nothing proves nothing: without an acknowledged gift I1 and I2 fail.
//! - I8 to I11 are about connections, memory, rest and logs, of which a journal knows nothing: the fault runs look at them.

mod ledger;
mod room;
#[cfg(test)]
mod tests;

pub(crate) use ledger::{Ledger, LedgerUrl};

use crate::{
    journal::{Evidence, Finding, Kind, RunLine},
    report::number,
};
use anyhow::Result;
use billfish_wire::Class;
use ledger::Sums;
use room::{RoomFinding, RoomJudge};
use serde::Serialize;
use std::fmt::{self, Display, Formatter};

/// Raw duplicates that a run without faults may have: copies are resent until acknowledged.
const DUPLICATES_MAX: f64 = 0.01;

/// One invariant, judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// As `I1`.
    pub(crate) id: &'static str,
    pub(crate) outcome: Outcome,
    /// The counts behind it, or why it says nothing.
    pub(crate) what: String,
}

/// What became of an invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Pass,
    Fail,
    /// This run says nothing of it.
    NotApplicable,
}

impl Display for Verdict {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Pass => "pass",
            Outcome::Fail => "FAIL",
            Outcome::NotApplicable => "not applicable",
        };
        write!(to, "{:<4}{outcome:<16}{}", self.id, self.what)
    }
}

/// Judges a run by its journal and the ledger. `had_faults`: servers died on purpose meanwhile, and may have told things again.
///
/// # Errors
/// When the ledger cannot be read.
pub(crate) fn judge(finding: &Finding, ledger: &mut Ledger, had_faults: bool) -> Result<Vec<Verdict>> {
    let evidence = &finding.evidence;
    let sums = ledger.sums()?;
    let mut of_rooms = RoomFinding::default();
    if let Some(gifts) = &evidence.gifts {
        for (&place, room) in &evidence.rooms {
            let mut judge = RoomJudge::new(&gifts.plan, place, room, &evidence.senders);
            ledger.gifts_of(room.line.id, &mut |row| judge.on_row(row))?;
            of_rooms.add(&judge.finish());
        }
    }
    let case = Case { finding, evidence, sums, of_rooms, had_faults };
    Ok(vec![case.i1(), case.i2(), case.i3(), case.i4(), case.i5(), case.i6(), case.i7(), case.i12()])
}

/// What there is to judge by.
struct Case<'a> {
    finding: &'a Finding,
    evidence: &'a Evidence,
    sums: Sums,
    of_rooms: RoomFinding,
    had_faults: bool,
}

/// Faults found, each with its number; those of which there are none are left out.
struct Faults(Vec<String>);

impl Faults {
    fn of(counts: &[(u64, &str)]) -> Self {
        Self(counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect())
    }

    /// The verdict: what was found, or else what was looked at.
    fn verdict(self, id: &'static str, looked_at: String) -> Verdict {
        match self.0.as_slice() {
            [] => Verdict { id, outcome: Outcome::Pass, what: looked_at },
            faults => Verdict { id, outcome: Outcome::Fail, what: faults.join("; ") },
        }
    }
}

fn not_applicable(id: &'static str, why: &str) -> Verdict {
    Verdict { id, outcome: Outcome::NotApplicable, what: why.to_owned() }
}

impl Case<'_> {
    fn acked(&self) -> u64 {
        self.evidence.gifts.as_ref().map_or(0, |gifts| gifts.acked)
    }

    fn run(&self) -> Option<&RunLine> {
        self.evidence.run.as_ref()
    }

    /// Every acknowledged gift is in the ledger, as it was meant, and no refused one is.
    fn i1(&self) -> Verdict {
        let RoomFinding { acked, unpaid, other_content, refused_paid, misplaced, shown_unpaid, paid, .. } = self.of_rooms;
        let mut faults = Faults::of(&[
            (unpaid, "acknowledged gifts are not in the ledger"),
            (other_content, "gifts are in the ledger with another content than was sent"),
            (refused_paid, "gifts were refused and are in the ledger"),
            (misplaced, "rooms where ACKs name other places than the ledger"),
            (shown_unpaid, "gifts were shown that are not in the ledger"),
        ]);
        if self.acked() == 0 {
            faults.0.push("no gift was acknowledged: a run that did nothing proves nothing".to_owned());
        } else if acked != self.acked() {
            faults.0.push(format!("the journal states {} acknowledged gifts, and names {acked}", self.acked()));
        }
        faults.verdict("I1", format!("{acked} acknowledged gifts are in the ledger, of {paid} of this run"))
    }

    /// No gift is debited twice.
    fn i2(&self) -> Verdict {
        let Sums { gifts, repeated, undebited, unrecorded, .. } = self.sums;
        let (repeats, refused) = self.evidence.gifts.as_ref().map_or((0, 0), |gifts| (gifts.repeats, gifts.repeats_refused));
        let mut faults = Faults::of(&[
            (repeated, "ids of a sender are in the ledger more than once"),
            (undebited, "gifts have no debit of their price"),
            (unrecorded, "debits are of no gift"),
            (refused, "acknowledged gifts were refused when they were sent again"),
        ]);
        if self.acked() == 0 {
            faults.0.push("no gift was acknowledged: a run that did nothing proves nothing".to_owned());
        }
        faults.verdict("I2", format!("{gifts} gifts in the ledger, each debited once; {repeats} of this run were sent again on purpose"))
    }

    /// Money is neither made nor lost.
    fn i3(&self) -> Verdict {
        let Sums { accounts, total, negative, off, unknown, lopsided, uncredited, .. } = self.sums;
        let mut faults = Faults::of(&[
            (negative, "balances of users are below 0"),
            (off, "balances are not the sum of their entries"),
            (unknown, "accounts have entries and no balance"),
            (lopsided, "transactions are not one debit and one credit of the same amount"),
            (uncredited, "gifts have no credit of their price"),
        ]);
        if total != 0 {
            faults.0.push(format!("all balances together are {total}, and not 0"));
        }
        faults.verdict("I3", format!("{accounts} accounts are the sums of their entries, and together 0"))
    }

    /// Order, content and bars.
    fn i4(&self) -> Verdict {
        let order_breaks = self.finding.sums.order_breaks;
        let RoomFinding { holes, bars_off, bars_ended_off, bars, viewers, .. } = self.of_rooms;
        let Some(gifts) = &self.evidence.gifts else {
            let looked_at = format!("{} copies in the order of their rooms", self.finding.sums.received);
            let faults = Faults::of(&[(order_breaks, "copies broke the order of their room")]);
            return if self.finding.sums.received == 0 {
                not_applicable("I4", "nothing was received")
            } else {
                faults.verdict("I4", looked_at)
            };
        };
        Faults::of(&[
            (order_breaks, "pushes broke the order of their room"),
            (gifts.chain_breaks, "viewers saw another order or content than the others"),
            (gifts.faults.contradictions, "pushes came with another content under the same id"),
            (gifts.faults.bar_conflicts, "values of a bar contradict another of the same number"),
            (holes, "places of gifts are missing in their room, or there twice"),
            (bars_off, "values of a bar are not those of the ledger's gifts"),
            (bars_ended_off, "viewers end with another bar than the ledger's gifts make"),
        ])
        .verdict(
            "I4",
            format!("{} pushes in order at {viewers} viewers; {bars} values of bars are those of the ledger's gifts", self.pushes()),
        )
    }

    fn pushes(&self) -> u64 {
        self.evidence.rooms.values().map(|room| room.pushes.len() as u64).sum()
    }

    /// What was paid reaches everyone who stayed.
    fn i5(&self) -> Verdict {
        let Some(gifts) = &self.evidence.gifts else {
            let looked_at = format!("{} copies received of {}", self.finding.sums.received, self.finding.sums.expected);
            let faults = Faults::of(&[(self.finding.sums.missing, "copies are missing and stand in no drop counter")]);
            return if self.finding.sums.expected == 0 {
                not_applicable("I5", "nothing was sent")
            } else {
                faults.verdict("I5", looked_at)
            };
        };
        let RoomFinding { missing, untold, viewers, paid, .. } = self.of_rooms;
        if viewers == 0 {
            return not_applicable("I5", "no viewer stayed");
        }
        Faults::of(&[
            (missing, "times a viewer that stayed was not shown a gift that is in the ledger"),
            (untold, "gifts are in the ledger and nobody was told"),
            (gifts.faults.odd, "pushes about gifts could not be read"),
        ])
        .verdict("I5", format!("{paid} gifts reached all of {viewers} viewers that stayed, {} others had a gap", gifts.faults.gaps))
    }

    /// Shown at most once.
    fn i6(&self) -> Verdict {
        let (sums, kind) = (&self.finding.sums, self.run().map(|run| run.kind));
        if sums.received == 0 {
            return not_applicable("I6", "nothing was received");
        }
        let at_least_once = kind == Some(Kind::Gifts) || self.run().is_some_and(|run| run.at_least_once);
        let told_again = self.evidence.gifts.as_ref().map_or(0, |gifts| gifts.faults.told_again);
        let RoomFinding { told_twice, surplus, .. } = self.of_rooms;
        let mut faults = Faults::of(&[
            (if at_least_once { 0 } else { sums.duplicates }, "copies came twice"),
            (surplus, "times a viewer was shown more gifts than there are"),
        ]);
        if !self.had_faults {
            let again =
                [(told_again, "times a viewer was told again of a gift that it was shown"), (told_twice, "gifts stand in two pushes")];
            faults.0.extend(Faults::of(&again).0);
            if number(sums.duplicates) / number(sums.received) > DUPLICATES_MAX {
                faults.0.push(format!("{} of {} copies came again, and no server died (--faults)", sums.duplicates, sums.received));
            }
        }
        let left_out = sums.duplicates + told_again;
        faults.verdict("I6", format!("{} shown, each once; {left_out} were told again and left out", sums.received))
    }

    /// Nothing reaches whom it is not for.
    fn i7(&self) -> Verdict {
        let received = self.finding.sums.received;
        match self.run().and_then(|run| run.strays) {
            None => not_applicable("I7", "the journal is from before it said"),
            Some(0) if received == 0 => not_applicable("I7", "nothing was received"),
            Some(strays) => Faults::of(&[(strays, "frames reached someone they were not for")])
                .verdict("I7", format!("{received} received, each in its room and by its user")),
        }
    }

    /// The gateway's counters add up, and say no less than clients saw.
    fn i12(&self) -> Verdict {
        let gateway = &self.evidence.gateway;
        let Some(pending) = gateway.pending else {
            return not_applicable("I12", "no counters of the whole run: no --admin, or a gateway began anew");
        };
        let sum = |counts: &std::collections::BTreeMap<String, u64>| counts.values().sum::<u64>();
        let (copies, delivered, dropped) = (gateway.copies, sum(&gateway.delivered), sum(&gateway.dropped));
        let accounted = i128::from(delivered) + i128::from(dropped) + i128::from(pending);
        let mut faults = Faults(Vec::new());
        if i128::from(copies) != accounted {
            faults.0.push(format!("{copies} copies were asked for, and {delivered} delivered, {dropped} dropped, {pending} more wait"));
        }
        // What a client that came back had missed is no copy of the gateway's.
        let pushes = self.evidence.rooms.values().flat_map(|room| &room.pushes);
        let seen: u64 = pushes.map(|push| push.received + push.twice).sum();
        let of_class = gateway.delivered.get(Class::Event.label()).copied().unwrap_or(0);
        if self.evidence.cut == 0 && seen > of_class {
            faults.0.push(format!("clients received {seen} pushes of gifts, and the gateway counts {of_class} of their class"));
        }
        faults.verdict("I12", format!("{copies} copies = {delivered} delivered + {dropped} dropped + {pending} more that wait"))
    }
}
