//! Reads a journal and does its sums again.
//!
//! - What cannot be read is an error with its line's number; what can be read and does not add up is a finding. The two are not mixed: a
//!   journal that cannot be read proves nothing about the run.
//! - Nothing of the report is believed: its figures are only compared.

use super::{
    Copies, DIGEST_OF_NOTHING, EndLine, GatewayLine, GiftRoomLine, GiftsLine, Kind, Line, RoomLine, RunLine, Stated, VERSION, digest,
};
use crate::{
    crowd::{
        senders::SenderLine,
        slow::Pace,
        viewers::{BarPush, PushLine, ViewerState},
    },
    tally::{Balance, LagAccount, LagBalance},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display, Formatter},
    io::{self, BufRead},
};

/// Longest line that is believed; the longest written one has a room's cause of refusal in it and is far below 64 KiB.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a journal cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    /// Counted from 1.
    line: u64,
    problem: String,
}

impl Display for Unreadable {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        write!(to, "line {}: {}", self.line, self.problem)
    }
}

impl std::error::Error for Unreadable {}

/// What a journal came to.
#[derive(Debug, Default)]
pub(crate) struct Finding {
    /// The sums, done again.
    pub(crate) sums: Stated,
    /// What the journal's end and the report say, where it is not what the lines say; and lines that contradict each other.
    pub(crate) disagreements: Vec<String>,
    /// What the run lost, although all agree.
    pub(crate) losses: Vec<String>,
    /// What is to be compared with the ledger.
    pub(crate) evidence: Evidence,
}

/// What a journal says that others can be asked about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) run: Option<RunLine>,
    pub(crate) gateway: GatewayLine,
    /// Connections that ended, also of those who came back.
    pub(crate) cut: u64,
    pub(crate) gifts: Option<Box<GiftsLine>>,
    pub(crate) senders: Vec<SenderLine>,
    /// By place in the run.
    pub(crate) rooms: BTreeMap<usize, RoomEvidence>,
}

/// The same of a room with gifts.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoomEvidence {
    pub(crate) line: GiftRoomLine,
    pub(crate) pushes: Vec<PushLine>,
    pub(crate) bars: Vec<BarPush>,
    pub(crate) viewers: Vec<(ViewerState, u32)>,
}

impl RoomEvidence {
    /// Gifts of the room: those acknowledged, and those pushed whose ACK was lost.
    fn gifts(&self) -> u64 {
        self.line.acked.max(self.line.told)
    }
}

/// Reads a journal. `report`: the run's report, to compare with.
///
/// # Errors
/// See [`Unreadable`].
pub(crate) fn check(journal: impl BufRead, report: Option<&Stated>) -> Result<Finding, Unreadable> {
    let (book, end) = Book::read(journal)?;
    let (lost, refused) = (book.lost_for_good(), book.refused);
    let logins_failed = book.run.as_ref().map_or(0, |run| run.logins_failed);
    let sums = book.sums();
    let evidence = Evidence { run: book.run, gateway: book.gateway, cut: book.lost, ..book.evidence };
    let mut finding = Finding { sums, disagreements: book.contradictions, losses: Vec::new(), evidence };
    let EndLine { stated, problems, lines, digest } = end;
    if lines != book.lines {
        finding.disagreements.push(format!("the journal has {} lines before its end, and was written with {lines}", book.lines));
    }
    if digest != format!("{:016x}", book.digest) {
        finding.disagreements.push("the journal is not as it was written: its digest differs".to_owned());
    }
    compare(&finding.sums, &stated, "the journal's end", &mut finding.disagreements);
    if let Some(report) = report {
        compare(&finding.sums, report, "the report", &mut finding.disagreements);
    }
    let mut lose = |count: u64, what: &str| {
        if count > 0 {
            finding.losses.push(format!("{count} {what}"));
        }
    };
    lose(finding.sums.missing, "copies are missing and stand in no drop counter");
    lose(finding.sums.order_breaks, "copies broke the order of their room");
    lose(if book.at_least_once { 0 } else { finding.sums.duplicates }, "copies came twice");
    lose(logins_failed, "logins failed");
    lose(lost, "connections were lost");
    lose(refused, "messages were not accepted by the server");
    // What does not stand in lines, such as a bound that was crossed, stands in the verdict.
    let others: Vec<_> = problems.into_iter().filter(|problem| !finding.losses.contains(problem)).collect();
    finding.losses.extend(others.into_iter().map(|problem| format!("the run failed: {problem}")));
    Ok(finding)
}

fn compare(sums: &Stated, stated: &Stated, who: &str, disagreements: &mut Vec<String>) {
    let figures = [
        ("sent", sums.sent, stated.sent),
        ("expected", sums.expected, stated.expected),
        ("received", sums.received, stated.received),
        ("missing", sums.missing, stated.missing),
        ("duplicates", sums.duplicates, stated.duplicates),
        ("order_breaks", sums.order_breaks, stated.order_breaks),
    ];
    for (name, own, theirs) in figures {
        if own != theirs {
            disagreements.push(format!("{name}: the lines come to {own}, {who} says {theirs}"));
        }
    }
    if sums.dropped != stated.dropped {
        disagreements.push(format!("dropped: the lines come to {:?}, {who} says {:?}", sums.dropped, stated.dropped));
    }
}

/// A journal, added up.
#[derive(Debug, Default)]
struct Book {
    lines: u64,
    digest: u64,
    at_least_once: bool,
    run: Option<RunLine>,
    rooms: BTreeMap<usize, RoomBook>,
    /// Of refused messages: not part of the account.
    unasked: Copies,
    talks: Copies,
    talks_sent: u64,
    beats: (u64, u64),
    lost: u64,
    /// Of these, clients that were to read at once: others may be given up by the gateway.
    lost_prompt: u64,
    refused: u64,
    gateway: GatewayLine,
    evidence: Evidence,
    contradictions: Vec<String>,
}

#[derive(Debug)]
struct RoomBook {
    room: RoomLine,
    messages: u64,
    expected: u64,
    copies: Copies,
    numbers: BTreeSet<u32>,
}

impl Book {
    fn read(mut journal: impl BufRead) -> Result<(Self, EndLine), Unreadable> {
        let mut book = Self { digest: DIGEST_OF_NOTHING, ..Self::default() };
        let mut text = String::new();
        let mut end = None;
        loop {
            let number = book.lines + 1 + u64::from(end.is_some());
            let unreadable = |problem: String| Unreadable { line: number, problem };
            text.clear();
            let read = io::Read::take(&mut journal, LINE_BYTES_MAX).read_line(&mut text).map_err(|error| unreadable(error.to_string()))?;
            if read == 0 {
                break;
            }
            if end.is_some() {
                return Err(unreadable("there is something behind the end".to_owned()));
            }
            if !text.ends_with('\n') {
                return Err(unreadable("the line is cut off".to_owned()));
            }
            let line: Line = serde_json::from_str(&text).map_err(|error| unreadable(format!("no line of a journal: {error}")))?;
            if let Line::End(line) = line {
                end = Some(line);
                continue;
            }
            book.lines += 1;
            book.digest = digest(book.digest, text.as_bytes());
            book.take(line).map_err(unreadable)?;
        }
        let last = book.lines + 1;
        let end = end.ok_or_else(|| Unreadable { line: last, problem: "the journal stops here, without its end".to_owned() })?;
        book.settle_lost();
        book.settle_gifts();
        Ok((book, end))
    }

    fn begin(&mut self, line: Line) -> Result<(), String> {
        let Line::Run(run) = line else { return Err("the first line does not say what run it is".to_owned()) };
        if run.journal != VERSION {
            return Err(format!("a journal of version {}, and this is for version {VERSION}", run.journal));
        }
        self.at_least_once = run.at_least_once;
        self.run = Some(run);
        Ok(())
    }

    fn take(&mut self, line: Line) -> Result<(), String> {
        if self.run.is_none() {
            return self.begin(line);
        }
        match line {
            Line::Run(_) => return Err("a second run begins".to_owned()),
            Line::Room(room) => {
                let book = RoomBook { messages: 0, expected: 0, copies: Copies::default(), numbers: BTreeSet::new(), room };
                if let Some(other) = self.rooms.insert(book.room.room, book) {
                    return Err(format!("room {} is there twice", other.room.room));
                }
            }
            Line::Message(line) => {
                let (n, expected, copies) = (line.n, line.expected, line.copies);
                self.number(line.room, n)?;
                self.add(line.room, 1, expected, copies)?;
            }
            Line::Refused(line) => {
                self.number(line.room, line.n)?;
                self.refused += 1;
                self.unasked.add(line.copies);
            }
            Line::Rest(line) => self.add(line.room, line.messages, line.expected, line.copies)?,
            Line::Talk(talk) => {
                self.talks_sent += u64::from(talk.sent).saturating_sub(talk.odd.refused.into());
                let (twice, overtaken) = (talk.odd.twice.into(), talk.odd.overtaken.into());
                self.talks.add(Copies { received: talk.received, twice, overtaken });
            }
            Line::Gifts(gifts) => {
                if self.evidence.gifts.replace(gifts).is_some() {
                    return Err("what was meant to be sent is there twice".to_owned());
                }
            }
            Line::Sender(sender) => self.evidence.senders.push(sender),
            Line::GiftRoom(line) => {
                let room = line.room;
                if self.evidence.rooms.insert(room, RoomEvidence { line, ..RoomEvidence::default() }).is_some() {
                    return Err(format!("room {room} is there twice"));
                }
            }
            Line::Pushes(pushes) => self.gift_room(pushes.room)?.pushes.extend(pushes.list),
            Line::Bars(bars) => self.gift_room(bars.room)?.bars.extend(bars.bars()),
            Line::Viewers(viewers) => self.gift_room(viewers.room)?.viewers.push((viewers.state, viewers.members)),
            Line::Beats(beats) => self.beats = (self.beats.0 + beats.sent, self.beats.1 + beats.echoed),
            Line::Lost(end) => {
                self.lost += 1;
                self.lost_prompt += u64::from(end.pace == Pace::Prompt);
            }
            Line::LoginFailed(_) | Line::End(_) => {}
            Line::Gateway(gateway) => self.gateway = gateway,
        }
        Ok(())
    }

    fn gift_room(&mut self, room: usize) -> Result<&mut RoomEvidence, String> {
        self.evidence.rooms.get_mut(&room).ok_or_else(|| format!("room {room} was not named before"))
    }

    /// What senders say was acknowledged is what their rooms say.
    fn settle_gifts(&mut self) {
        let Some(gifts) = &self.evidence.gifts else { return };
        let mut of_room: BTreeMap<usize, u64> = BTreeMap::new();
        for sender in &self.evidence.senders {
            let acked: u64 = sender.acked.iter().map(|&(from, until)| u64::from(until.saturating_sub(from))).sum();
            *of_room.entry(gifts.plan.room_of(sender.client)).or_default() += acked;
        }
        for (room, evidence) in &self.evidence.rooms {
            let (own, acked) = (evidence.line.acked, of_room.get(room).copied().unwrap_or(0));
            if own != acked {
                self.contradictions.push(format!("room {room}: its senders had {acked} gifts acknowledged, and it {own}"));
            }
        }
    }

    fn room(&mut self, room: usize) -> Result<&mut RoomBook, String> {
        self.rooms.get_mut(&room).ok_or_else(|| format!("room {room} was not named before"))
    }

    fn number(&mut self, room: usize, n: u32) -> Result<(), String> {
        if self.room(room)?.numbers.insert(n) { Ok(()) } else { Err(format!("message {n} of room {room} is there twice")) }
    }

    fn add(&mut self, room: usize, messages: u64, expected: u64, copies: Copies) -> Result<(), String> {
        let line = self.lines;
        let book = self.room(room)?;
        book.messages += messages;
        book.expected += expected;
        book.copies.add(copies);
        let members = u64::from(book.room.members);
        if expected != messages * members {
            self.contradictions.push(format!("line {line}: {messages} messages to {members} members are not {expected} copies"));
        } else if copies.received > expected {
            self.contradictions.push(format!("line {line}: {} first copies of {expected}", copies.received));
        }
        Ok(())
    }

    /// Every lost member has a line, unless there were too many.
    fn settle_lost(&mut self) {
        let omitted = self.run.as_ref().map_or(0, |run| run.lost_omitted);
        let lost: u64 = self.rooms.values().map(|book| u64::from(book.room.lost)).sum();
        // Of a herd every cut has a line, and who came back is no lost member.
        let is_told = self.lost + omitted >= lost && (self.rooms.is_empty() || self.lost <= lost);
        if !is_told {
            self.contradictions.push(format!("the rooms lost {lost} members, and {} connections are told of", self.lost));
        }
    }

    /// Connections that ended and should not have. Of a herd everyone is cut; who of it did not come back the verdict says.
    fn lost_for_good(&self) -> u64 {
        match &self.run {
            Some(run) if run.scenario == "reconnect-herd" || run.kind == Kind::Gifts => 0,
            // Where some are slow, those without a line may be slow ones.
            Some(run) if run.lag.is_none() => self.lost_prompt + run.lost_omitted,
            Some(_) | None => self.lost_prompt,
        }
    }

    fn sums(&self) -> Stated {
        let mut copies = Copies::default();
        self.rooms.values().for_each(|book| copies.add(book.copies));
        let dropped = self.gateway.dropped.clone();
        let kind = self.run.as_ref().map_or(Kind::Beats, |run| run.kind);
        let (sent, expected, received, extra) = match kind {
            Kind::Rooms => {
                let sent = self.rooms.values().map(|book| book.messages).sum();
                (sent, self.rooms.values().map(|book| book.expected).sum(), copies.received, copies)
            }
            Kind::Talks => (self.talks_sent, self.talks_sent, self.talks.received, self.talks),
            Kind::Beats => (self.beats.0, self.beats.0, self.beats.1, Copies::default()),
            Kind::Gifts => return self.gift_sums(),
        };
        let (expected, missing) = match self.lag_balance(received) {
            Some(LagBalance { expected, missing, .. }) => (expected, missing),
            None => (expected, Balance::settle(expected, received, dropped.clone()).missing),
        };
        Stated {
            sent,
            expected,
            received,
            dropped,
            missing,
            duplicates: extra.twice + self.unasked.twice,
            order_breaks: extra.overtaken + self.unasked.overtaken,
        }
    }

    fn gift_sums(&self) -> Stated {
        let mut sums = Stated { dropped: self.gateway.dropped.clone(), ..Stated::default() };
        for room in self.evidence.rooms.values() {
            let gifts = room.gifts();
            sums.sent += room.line.acked;
            for (state, members) in &room.viewers {
                sums.expected += gifts * u64::from(*members);
                sums.received += state.gifts.min(gifts) * u64::from(*members);
            }
            sums.duplicates += room.pushes.iter().map(|push| push.twice).sum::<u64>();
            sums.order_breaks += room.pushes.iter().map(|push| push.overtaken).sum::<u64>();
        }
        Stated { missing: sums.expected - sums.received, ..sums }
    }

    fn lag_balance(&self, received: u64) -> Option<LagBalance> {
        let lag = self.run.as_ref()?.lag.as_ref()?;
        let of_class = |counts: &BTreeMap<String, u64>| counts.get(&lag.class).copied().unwrap_or(0);
        let mut account = LagAccount {
            resets: lag.resets,
            class_delivered: of_class(&self.gateway.delivered),
            class_dropped: of_class(&self.gateway.dropped),
            received,
            frame_bytes: lag.frame_bytes,
            ..LagAccount::default()
        };
        for RoomBook { room, messages, .. } in self.rooms.values() {
            let lost = u64::from(room.lost.min(room.members));
            account.stayed_copies += messages * (u64::from(room.members) - lost);
            account.ended_copies += messages * lost;
            account.ended_received += room.lost_received;
        }
        Some(account.settle())
    }
}

#[cfg(test)]
mod tests {
    use super::{Finding, Stated, check};
    use crate::journal::{
        BeatsLine, Copies, DIGEST_OF_NOTHING, Digesting, GatewayLine, Kind, LagLine, Line, MessageLine, RefusedLine, RestLine, RoomLine,
        RunLine, VERSION, written,
    };
    use crate::{
        crowd::slow::Pace,
        worker::{End, Odd, Talk},
    };
    use std::collections::BTreeMap;

    #[test]
    fn a_clean_journal_agrees_and_has_lost_nothing() {
        let finding = checked(&rooms(10), &stated());
        assert_eq!((&finding.sums, finding.disagreements.as_slice(), finding.losses.as_slice()), (&stated(), &[][..], &[][..]));
    }

    #[test]
    fn a_copy_that_was_lost_is_a_loss_and_no_disagreement() {
        let stated = Stated { received: 29, missing: 1, ..stated() };
        let finding = checked(&rooms(9), &stated);
        assert_eq!((finding.disagreements.len(), finding.losses.len()), (0, 1), "{finding:?}");
    }

    #[test]
    fn a_lost_copy_that_was_made_up_afterwards_is_found() {
        let honest = text(&rooms(9), &Stated { received: 29, missing: 1, ..stated() });
        // The line of message 1, with the copy put back, and an end that says so as well.
        let line = r#""expected":10,"received":9"#;
        assert_eq!(honest.matches(line).count(), 1);
        let tampered = honest.replace(line, r#""expected":10,"received":10"#);
        let finding = check(tampered.as_bytes(), None).expect("it can be read");
        assert!(finding.disagreements.iter().any(|one| one.contains("received: the lines come to 30")), "{finding:?}");
        let all = tampered.replace(r#""received":29"#, r#""received":30"#).replace(r#""missing":1"#, r#""missing":0"#);
        let finding = check(all.as_bytes(), None).expect("it can be read");
        assert!(finding.disagreements.iter().any(|one| one.contains("digest")), "{finding:?}");
        let report = Stated { received: 29, missing: 1, ..stated() };
        let finding = check(all.as_bytes(), Some(&report)).expect("it can be read");
        assert!(finding.disagreements.iter().any(|one| one.contains("the report says 29")), "{finding:?}");
    }

    #[test]
    fn a_line_that_was_taken_out_is_found() {
        let whole = text(&rooms(10), &stated());
        let without: String = whole.lines().filter(|line| !line.contains(r#""n":1,"#)).map(|line| format!("{line}\n")).collect();
        let finding = check(without.as_bytes(), None).expect("it can be read");
        let found = |what: &str| finding.disagreements.iter().any(|one| one.contains(what));
        assert!(found("4 lines before its end, and was written with 5") && found("sent: the lines come to 2"), "{finding:?}");
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_line() {
        let whole = text(&rooms(10), &stated());
        let lines: Vec<&str> = whole.lines().collect();
        let joined = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let with = |at: usize, line: &str| {
            let mut lines = lines.clone();
            lines[at] = line;
            joined(&lines)
        };
        let cases = [
            (with(3, r#"{"t":"message","room":0,"n":"#), "line 4: no line of a journal"),
            (with(3, r#"{"t":"dance"}"#), "line 4: no line of a journal"),
            (with(3, lines[2]), "line 4: message 0 of room 0 is there twice"),
            (with(1, lines[2]), "line 2: room 0 was not named before"),
            (with(0, lines[1]), "line 1: the first line does not say"),
            (with(0, &lines[0].replace(r#""journal":1"#, r#""journal":2"#)), "line 1: a journal of version 2"),
            (joined(&lines[..4]), "line 5: the journal stops here"),
            (whole[..whole.len() - 5].to_owned(), "line 6: the line is cut off"),
            (format!("{whole}{}\n", lines[2]), "line 7: there is something behind the end"),
            (String::new(), "line 1: the journal stops here"),
        ];
        for (journal, expected) in cases {
            let error = check(journal.as_bytes(), None).expect_err(expected).to_string();
            assert!(error.starts_with(expected), "{error}, not {expected}");
        }
    }

    #[test]
    fn copies_of_a_refused_message_hide_no_loss() {
        let mut lines = rooms(9);
        lines.push(Line::Refused(RefusedLine {
            room: 0,
            n: 9,
            intended_ns: 1,
            answered_ns: 2,
            cause: "timed out".to_owned(),
            copies: Copies { received: 10, ..Copies::default() },
        }));
        let finding = checked(&lines, &Stated { received: 29, missing: 1, ..stated() });
        assert_eq!(finding.disagreements, [""; 0]);
        assert_eq!(finding.losses, ["1 copies are missing and stand in no drop counter", "1 messages were not accepted by the server"]);
    }

    #[test]
    fn a_run_that_failed_is_not_fine_because_its_copies_add_up() {
        let mut bytes = Vec::new();
        let mut to = Digesting { to: &mut bytes, lines: 0, digest: DIGEST_OF_NOTHING };
        let mut lines = rooms(10);
        let Line::Run(run) = &mut lines[0] else { panic!("the first line") };
        run.logins_failed = 2;
        let Line::Room(room) = &mut lines[1] else { panic!("the second line") };
        room.lost = 1;
        lines.push(Line::Lost(End { client: 3, cause: "reset by the peer".to_owned(), at_ns: 9, received: 3, pace: Pace::Prompt }));
        lines.iter().try_for_each(|line| to.line(line)).expect("a vector takes all bytes");
        let problems = ["1 connections were lost", "the server's memory grew"].map(str::to_owned).to_vec();
        to.end(stated(), problems).expect("a vector takes all bytes");
        let finding = check(bytes.as_slice(), None).expect("it can be read");
        assert_eq!(finding.disagreements, [""; 0]);
        let losses = ["2 logins failed", "1 connections were lost", "the run failed: the server's memory grew"];
        assert_eq!(finding.losses, losses);
        // A journal from before the verdict stood in it.
        let old = String::from_utf8(bytes)
            .expect("JSON is text")
            .replace(r#""problems":["1 connections were lost","the server's memory grew"],"#, "");
        let finding = check(old.as_bytes(), None).expect("it can be read");
        assert_eq!(finding.losses, losses[..2]);
    }

    #[test]
    fn more_copies_than_members_contradict() {
        let finding = checked(&rooms(11), &Stated { received: 31, ..stated() });
        assert!(finding.disagreements.iter().any(|one| one == "line 4: 11 first copies of 10"), "{finding:?}");
    }

    #[test]
    fn slow_readers_that_were_ended_are_accounted_for_by_the_gateways_counters() {
        let mut lines = rooms(8);
        let Line::Run(run) = &mut lines[0] else { panic!("the first line") };
        run.lag = Some(LagLine { class: "chat".to_owned(), frame_bytes: 100, resets: 0 });
        let Line::Room(room) = &mut lines[1] else { panic!("the second line") };
        // One of ten was ended with one message, one copy of it dropped; another lost message 1 to a drop.
        (room.lost, room.lost_received) = (1, 1);
        lines.push(Line::Lost(End { client: 3, cause: "kicked: too_slow".to_owned(), at_ns: 9, received: 1, pace: Pace::Stopped }));
        let Line::Message(last) = &mut lines[4] else { panic!("the last message") };
        last.copies.received = 9;
        let counts = |count| BTreeMap::from([("chat".to_owned(), count)]);
        lines.push(Line::Gateway(GatewayLine {
            copies: 29,
            delivered: counts(27),
            dropped: counts(2),
            closes: BTreeMap::new(),
            pending: None,
        }));
        let stated = Stated { received: 27, expected: 29, dropped: counts(2), ..stated() };
        let finding = checked(&lines, &stated);
        assert_eq!((finding.disagreements.as_slice(), finding.losses.as_slice()), (&[][..], &[][..]));
        // Without the line of the lost one.
        lines.retain(|line| !matches!(line, Line::Lost(_)));
        let finding = checked(&lines, &stated);
        assert!(finding.disagreements.iter().any(|one| one.contains("the rooms lost 1 members, and 0")), "{finding:?}");
    }

    #[test]
    fn talks_and_heartbeats_and_what_has_no_line_are_added_up() {
        let talk = |client, received, refused| {
            Line::Talk(Talk { client, sent: 10, odd: Odd { refused, twice: 1, overtaken: 0 }, received, holes: Vec::new() })
        };
        let lines = [Line::Run(RunLine { kind: Kind::Talks, at_least_once: true, ..run() }), talk(0, 10, 1), talk(1, 8, 0)];
        let stated = Stated { sent: 19, expected: 19, received: 18, missing: 1, duplicates: 2, ..Stated::default() };
        let finding = checked(&lines, &stated);
        assert_eq!((finding.disagreements.as_slice(), finding.losses.len()), (&[][..], 1), "a second copy is legal here");

        let beats = [Line::Run(RunLine { kind: Kind::Beats, ..run() }), Line::Beats(BeatsLine { sent: 5, echoed: 5 })];
        let stated = Stated { sent: 5, expected: 5, received: 5, ..Stated::default() };
        assert_eq!(checked(&beats, &stated).disagreements, [""; 0]);

        let mut lines = rooms(10);
        lines.push(Line::Rest(RestLine { room: 0, messages: 2, expected: 20, copies: Copies { received: 20, ..Copies::default() } }));
        let stated = Stated { sent: 5, expected: 50, received: 50, ..Stated::default() };
        assert_eq!(checked(&lines, &stated).disagreements, [""; 0]);
    }

    fn checked(lines: &[Line], stated: &Stated) -> Finding {
        check(text(lines, stated).as_bytes(), Some(stated)).expect("it can be read")
    }

    fn text(lines: &[Line], stated: &Stated) -> String {
        written(lines, stated)
    }

    /// Three messages to ten members, of the second of which so many copies arrived.
    fn rooms(received: u64) -> Vec<Line> {
        let message = |n, received| {
            let copies = Copies { received, ..Copies::default() };
            let (seq, msg_id) = (Some(i64::from(n) + 1), None);
            Line::Message(MessageLine { room: 0, n, intended_ns: 1, accepted_ns: 2, seq, msg_id, expected: 10, copies })
        };
        let room = RoomLine { room: 0, id: 77, members: 10, lost: 0, lost_received: 0 };
        vec![Line::Run(run()), Line::Room(room), message(0, 10), message(1, received), message(2, 10)]
    }

    fn run() -> RunLine {
        RunLine {
            journal: VERSION,
            scenario: "room-burst".to_owned(),
            seed: 7,
            kind: Kind::Rooms,
            connections: 10,
            logins_failed: 0,
            at_least_once: false,
            lag: None,
            lost_omitted: 0,
            login_failed_omitted: 0,
            strays: Some(0),
        }
    }

    fn stated() -> Stated {
        Stated { sent: 3, expected: 30, received: 30, ..Stated::default() }
    }
}
