//! The time of all processes on one Redis: its clock and an offset that is kept there, moved by a vote when that clock jumps.
//!
//! - Each process tells once in a while by how much its own clock, which counts and never jumps, is ahead of the time of all. When most
//!   are ahead by as much, Redis' clock has jumped: the script moves the offset, and the time of all goes on as if nothing had happened.
//! - Who stays ahead or behind alone has slept: it takes the time of all.
//! - The offset nears 0 by 20 ms a second, and processes follow that gently. So times that people see become true again, unnoticed.
//! - A pulse writes, and says what the data of this Redis was `born` as: it also tells a Redis that takes no writes, and one that was
//!   emptied behind a connection that stayed.
//!
//! Pure, but for the pulse itself: the reading and the moment come in.

use super::command::{Command, Script};
use super::connection::Connection;
use crate::port::Result;
use std::time::Duration;
use tokio::time::Instant;

static PULSE: Script = Script::new(include_str!("lua/pulse.lua"));

/// Between two pulses. Four commands each time and process: every second would be as dear as the heartbeats of 6,000 users.
pub(super) const PULSE_EVERY: Duration = Duration::from_secs(2);
/// While something is amiss, and until it has a vote.
pub(super) const PULSE_IN_DOUBT: Duration = Duration::from_secs(1);
/// A difference that is no drift. Known to the script, too.
const APART_MS: u64 = 500;
/// A difference that may be the network's.
const LEFT_ALONE_MS: u64 = 5;
/// How far the clock goes in one step that nobody is to notice: some more than the offset goes meanwhile.
const FOLLOW_MAX_MS: i64 = 60;
/// Apart for so long, the others have voted, and this clock was outvoted: each votes within one pulse and one in doubt.
const OUTVOTED_AFTER: Duration = Duration::from_secs(6);
/// A process that is new waits so long for the others' vote.
const DOUBTED_FOR: Duration = Duration::from_secs(5);
/// Then it looks this often.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Readings before a process has a vote: the first sets its clock, and the next tells whether it keeps to it.
const READINGS_BEFORE_VOTE: u32 = 2;

/// What Redis answered to a pulse, and what it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) server_ms: u64,
    /// By how much the time of all is ahead of the server's clock.
    pub(super) offset_ms: i64,
    /// How often the offset was moved.
    pub(super) moves: u64,
    pub(super) born: String,
    /// The clock of the server may have jumped, and the others not have voted yet.
    pub(super) is_in_doubt: bool,
    pub(super) round_trip: Duration,
    /// What this process' clock showed when it asked.
    pub(super) asked_ms: u64,
}

/// What is to be done about a reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The clock is to go on from here.
    pub(super) shift_ms: i64,
    /// That is no drift, but a step.
    pub(super) is_step: bool,
    /// The offset was moved, for the server's clock has jumped.
    pub(super) is_moved: bool,
    /// What the store held may be gone: it was emptied, or what ended by its clock, or by this one, ended too soon.
    pub(super) may_have_forgotten: bool,
}

/// One process' part in it.
#[derive(Debug)]
pub(super) struct Pulse {
    process: String,
    readings: u32,
    last: Option<Last>,
    apart_since: Option<Instant>,
    /// While it is new.
    doubted_since: Option<Instant>,
}

#[derive(Debug)]
struct Last {
    born: String,
    moves: u64,
    ahead_ms: i64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { process: token(), readings: 0, last: None, apart_since: None, doubted_since: None }
    }

    /// Whether the clock has been set by that of Redis.
    pub(super) fn has_been_read(&self) -> bool {
        self.readings > 0
    }

    /// When to pulse again.
    pub(super) fn next(&self) -> Duration {
        if self.readings == 0 {
            LOOK_AGAIN
        } else if self.apart_since.is_some() || self.readings < READINGS_BEFORE_VOTE {
            PULSE_IN_DOUBT
        } else {
            PULSE_EVERY
        }
    }

    /// What is told of this clock: by how much it was ahead, and under what it was read.
    pub(super) fn vote(&self) -> (String, String) {
        let ahead = match &self.last {
            _ if self.readings < READINGS_BEFORE_VOTE => "new".to_owned(),
            None => "?".to_owned(),
            Some(last) => last.ahead_ms.to_string(),
        };
        let read_under = self.last.as_ref().map(|last| format!("{}%{}", last.born, last.moves)).unwrap_or_default();
        (ahead, read_under)
    }

    /// Asks. The clock shows `asked_ms`.
    pub(super) fn command(&self, connection: &Connection, asked_ms: u64) -> Command {
        let (ahead, read_under) = self.vote();
        // Late a second time it would vote with a clock of the past.
        Command::script(&PULSE, &[&connection.keys().pulse()])
            .arg(&self.process)
            .arg(asked_ms)
            .arg(ahead)
            .arg(read_under)
            // Another each time: a hash that is gone is not to be born as the same again.
            .arg(token())
            .once()
    }

    pub(super) fn on_reading(&mut self, reading: &Reading, now: Instant) -> Verdict {
        let half_ms = i64::try_from(reading.round_trip.as_millis() / 2).unwrap_or(i64::MAX);
        let here_ms = reading.asked_ms.saturating_add_signed(half_ms);
        let there_ms = reading.server_ms.saturating_add_signed(reading.offset_ms);
        let ahead_ms = here_ms.cast_signed().saturating_sub(there_ms.cast_signed());
        let is_apart = ahead_ms.unsigned_abs() > APART_MS;
        let is_new = self.readings < READINGS_BEFORE_VOTE;
        let mut verdict = Verdict::default();
        // Where the wall clock that a process starts with says the same there is no doubt.
        if is_new && is_apart && reading.is_in_doubt && now.duration_since(*self.doubted_since.get_or_insert(now)) < DOUBTED_FOR {
            return verdict;
        }
        if let Some(last) = &self.last {
            let is_reborn = last.born != reading.born;
            verdict.is_moved = !is_reborn && last.moves != reading.moves;
            // Whatever had less than the jump to live is gone from Redis.
            verdict.may_have_forgotten = is_reborn || verdict.is_moved;
            if verdict.may_have_forgotten {
                self.apart_since = None;
            }
        }
        let apart_since = is_apart.then(|| self.apart_since.unwrap_or(now));
        let is_outvoted = apart_since.is_some_and(|since| now.duration_since(since) >= OUTVOTED_AFTER);
        if self.readings == 0 || is_outvoted || (is_apart && is_new) {
            verdict.shift_ms = ahead_ms.saturating_neg();
            verdict.is_step = true;
            // This process' own judgement of what is old was wrong, not the store.
            verdict.may_have_forgotten |= self.readings > 0;
            self.apart_since = None;
        } else {
            self.apart_since = apart_since;
            if !is_apart && ahead_ms.unsigned_abs() > LEFT_ALONE_MS {
                verdict.shift_ms = ahead_ms.saturating_neg().clamp(-FOLLOW_MAX_MS, FOLLOW_MAX_MS);
            }
        }
        self.readings = self.readings.saturating_add(1);
        let ahead_ms = ahead_ms.saturating_add(verdict.shift_ms);
        self.last = Some(Last { born: reading.born.clone(), moves: reading.moves, ahead_ms });
        verdict
    }
}

/// Sends a pulse and waits for what Redis says.
pub(super) async fn read(connection: &Connection, command: Command, asked_ms: u64) -> Result<Reading> {
    let asked = Instant::now();
    let (server_ms, offset_ms, moves, born, is_in_doubt) = connection.run("reading the time", command).await?;
    Ok(Reading { server_ms, offset_ms, moves, born, is_in_doubt, round_trip: asked.elapsed(), asked_ms })
}

fn token() -> String {
    format!("{:016x}", fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use super::{OUTVOTED_AFTER, PULSE, Pulse, READINGS_BEFORE_VOTE, Reading, Verdict};
    use billfish_testing::{RedisOptions, RedisServer};
    use proptest::prelude::*;
    use std::time::Duration;
    use tokio::time::Instant;

    const HOUR_MS: i64 = 3_600_000;

    #[test]
    fn the_first_reading_sets_the_clock_and_drift_is_followed_gently() {
        let mut pulse = Pulse::new();
        let mut read = reader();
        let step = |shift_ms| Verdict { shift_ms, is_step: true, ..Verdict::default() };
        assert_eq!(read(&mut pulse, -HOUR_MS, 0), step(HOUR_MS), "whatever it says, and nothing was forgotten");
        for (ahead_ms, shift_ms) in [(0, 0), (5, 0), (-5, 0), (6, -6), (-40, 40), (400, -60), (-500, 60)] {
            assert_eq!(read(&mut pulse, ahead_ms, 0), Verdict { shift_ms, ..Verdict::default() });
        }
    }

    #[test]
    fn the_time_that_the_answer_took_is_halved() {
        let mut pulse = Pulse::new();
        let reading = Reading { round_trip: Duration::from_millis(100), ..reading(0, 0) };
        assert_eq!(pulse.on_reading(&reading, Instant::now()).shift_ms, -50);
    }

    #[test]
    fn who_has_been_apart_for_long_and_was_not_followed_takes_the_time_of_all() {
        let mut pulse = established();
        let begin = Instant::now();
        let at = |pulse: &mut Pulse, after| pulse.on_reading(&reading(-20_000, 0), begin + after);
        assert_eq!(at(&mut pulse, Duration::ZERO), Verdict::default());
        assert_eq!(at(&mut pulse, OUTVOTED_AFTER - Duration::from_millis(1)), Verdict::default());
        let outvoted = at(&mut pulse, OUTVOTED_AFTER);
        assert_eq!(outvoted, Verdict { shift_ms: 20_000, is_step: true, is_moved: false, may_have_forgotten: true });
        assert_eq!(pulse.vote().0, "0", "and has nothing to say against it");
    }

    #[test]
    fn a_difference_that_passes_is_forgotten() {
        let mut pulse = established();
        let begin = Instant::now();
        pulse.on_reading(&reading(700, 0), begin);
        pulse.on_reading(&reading(0, 0), begin + OUTVOTED_AFTER / 2);
        assert_eq!(pulse.on_reading(&reading(700, 0), begin + OUTVOTED_AFTER), Verdict::default());
        // Nor does a move of the offset leave it standing.
        assert!(pulse.on_reading(&reading(700, 1), begin + 3 * OUTVOTED_AFTER / 2).is_moved);
        assert!(!pulse.on_reading(&reading(700, 1), begin + 2 * OUTVOTED_AFTER).is_step);
    }

    #[test]
    fn a_store_that_is_born_again_or_whose_clock_jumped_may_have_forgotten() {
        let mut pulse = established();
        assert!(pulse.on_reading(&reading(0, 1), Instant::now()).may_have_forgotten, "what had less to live is gone");
        let reborn = Reading { born: "another".to_owned(), ..reading(0, 0) };
        let verdict = pulse.on_reading(&reborn, Instant::now());
        assert_eq!(verdict, Verdict { may_have_forgotten: true, ..Verdict::default() }, "moves of another birth are not compared");
        assert_eq!(pulse.on_reading(&reborn, Instant::now()), Verdict::default());
    }

    #[test]
    fn a_clock_that_jumps_moves_nobody_and_one_that_slept_is_outvoted() {
        let Some(mut world) = World::start(3, 7) else { return };
        world.run(30_000);
        world.server_ahead_ms += HOUR_MS;
        world.run(10_000);
        assert!(world.processes.iter().all(|process| process.steps == 0 && process.moves == 1));
        world.processes[1].clock_ms -= 20_000;
        world.processes[1].may_step = true;
        world.run(10_000);
        let steps: Vec<_> = world.processes.iter().map(|process| process.steps).collect();
        assert_eq!(steps, [0, 1, 0]);
        world.assert_agreed();
    }

    /// Whenever it comes: before the others have read the clock that jumped, before they have voted, or after.
    #[test]
    fn who_starts_while_the_clock_is_in_doubt_takes_the_time_of_all() {
        let Some(mut world) = World::start(3, 11) else { return };
        world.run(30_000);
        let jump_ms = HOUR_MS;
        for (number, after_ms) in (0..5_000).step_by(250).enumerate() {
            world.server_ahead_ms += if number % 2 == 0 { jump_ms } else { -jump_ms };
            world.run(after_ms);
            world.processes.push(Process::start(world.now_ms, START_MS + 77_000));
            world.run(1);
            world.run_until_read();
            world.assert_agreed();
            world.processes.pop();
            world.run(60_000);
        }
        assert!(world.processes.iter().all(|process| process.steps == 0));
    }

    #[test]
    fn the_offset_is_given_back_so_slowly_that_no_second_is_lost() {
        let Some(mut world) = World::start(3, 8) else { return };
        world.run(30_000);
        world.server_ahead_ms += 5_000;
        world.run(10_000);
        let before = world.lead_ms(0);
        world.run(100_000);
        let given_ms = world.lead_ms(0) - before;
        assert!((1_000..=3_000).contains(&given_ms), "{given_ms} ms in 100 s");
        world.run(300_000);
        assert!((4_900..=5_100).contains(&world.lead_ms(0)), "then the time is that of the server again");
    }

    #[test]
    fn the_last_process_is_believed_soon_after_the_others_were_killed() {
        let Some(mut world) = World::start(6, 9) else { return };
        world.run(30_000);
        world.processes.truncate(1);
        world.run(40_000);
        world.server_ahead_ms -= HOUR_MS;
        world.run(10_000);
        assert_eq!((world.processes[0].steps, world.processes[0].moves), (0, 1));
    }

    #[test]
    fn a_key_of_another_type_is_replaced() {
        let Some(mut world) = World::start(2, 10) else { return };
        world.run(30_000);
        world.server_ahead_ms += HOUR_MS;
        world.run(10_000);
        world.command(&["SET", KEY, "spoilt"]);
        world.run(10_000);
        assert!(world.processes.iter().all(|process| process.steps == 0), "and the offset is voted for again");
        assert_eq!(world.command(&["TYPE", KEY]), "hash");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Jumps of the server at any time, also while somebody sleeps, dies, is started, or all data goes.
        #[test]
        fn whoever_is_awake_never_steps_and_all_agree_soon(seed in any::<u64>(), processes in 4_usize..8) {
            let Some(mut world) = World::start(processes, seed) else { return Ok(()) };
            world.run(30_000);
            for _ in 0..8 {
                let at_ms = world.random.u64(0..6_000);
                let first = world.random.bool();
                if first { world.jump() } else { world.happen() }
                world.run(at_ms);
                if first { world.happen() } else { world.jump() }
                world.run(40_000);
                world.assert_agreed();
            }
        }
    }

    const KEY: &str = "im:pulse";

    fn reading(ahead_ms: i64, moves: u64) -> Reading {
        let asked_ms: u64 = 1_800_000_000_000;
        let server_ms = asked_ms.saturating_add_signed(-ahead_ms);
        Reading { server_ms, offset_ms: 0, moves, born: "b".to_owned(), is_in_doubt: false, round_trip: Duration::ZERO, asked_ms }
    }

    fn reader() -> impl FnMut(&mut Pulse, i64, u64) -> Verdict {
        let now = Instant::now();
        move |pulse, ahead_ms, moves| pulse.on_reading(&reading(ahead_ms, moves), now)
    }

    fn established() -> Pulse {
        let mut pulse = Pulse::new();
        let mut read = reader();
        for _ in 0..READINGS_BEFORE_VOTE {
            assert_eq!(pulse.vote().0, "new");
            read(&mut pulse, 0, 0);
        }
        assert_eq!(pulse.vote(), ("0".to_owned(), "b%0".to_owned()));
        pulse
    }

    /// Processes with clocks of their own, and the script in a true server that is told what time it is.
    struct World {
        _server: RedisServer,
        connection: redis::Connection,
        script: redis::Script,
        random: fastrand::Rng,
        began: Instant,
        /// The true time; that of the server is ahead of it by so much.
        now_ms: u64,
        server_ahead_ms: i64,
        processes: Vec<Process>,
    }

    struct Process {
        pulse: Pulse,
        /// What it shows, less the true time that has passed since the beginning.
        clock_ms: i64,
        due_ms: u64,
        /// It may step: it is new, or slept.
        may_step: bool,
        steps: u32,
        moves: u32,
    }

    impl Process {
        fn start(now_ms: u64, wall_ms: i64) -> Self {
            Self { pulse: Pulse::new(), clock_ms: wall_ms, due_ms: now_ms, may_step: true, steps: 0, moves: 0 }
        }
    }

    impl World {
        fn start(processes: usize, seed: u64) -> Option<Self> {
            let options = RedisOptions { appendonly: false, ..RedisOptions::default() };
            let server = RedisServer::start_with(options)?;
            let connection = redis::Client::open(format!("redis://{}", server.address())).unwrap().get_connection().unwrap();
            let parts: Vec<_> = PULSE.text().split("redis.call('TIME')").collect();
            let [before, after] = parts[..] else { panic!("the script reads the time once") };
            let script = redis::Script::new(&format!("{before}{{ ARGV[6], ARGV[7] }}{after}"));
            let random = fastrand::Rng::with_seed(seed);
            let mut world = Self {
                _server: server,
                connection,
                script,
                random,
                began: Instant::now(),
                now_ms: 0,
                server_ahead_ms: START_MS,
                processes: vec![],
            };
            for _ in 0..processes {
                let wrong_ms = world.random.i64(-HOUR_MS..HOUR_MS);
                world.processes.push(Process::start(0, START_MS + wrong_ms));
            }
            Some(world)
        }

        fn command(&mut self, words: &[&str]) -> String {
            redis::cmd(words[0]).arg(&words[1..]).query(&mut self.connection).unwrap()
        }

        /// By how much a process is ahead of what the true time would be at its start.
        fn lead_ms(&self, index: usize) -> i64 {
            self.processes[index].clock_ms - START_MS
        }

        fn jump(&mut self) {
            self.server_ahead_ms += self.random.i64(-2 * HOUR_MS..2 * HOUR_MS);
        }

        /// One misfortune more, of those that leave most awake and known.
        fn happen(&mut self) {
            let victim = self.random.usize(..self.processes.len());
            match self.random.u8(..5) {
                0 => {
                    self.processes[victim].clock_ms -= self.random.i64(1_000..HOUR_MS);
                    self.processes[victim].may_step = true;
                }
                1 if self.processes.len() > 4 => drop(self.processes.remove(victim)),
                2 => self.processes[victim] = Process::start(self.now_ms, START_MS),
                3 => self.processes.push(Process::start(self.now_ms, START_MS)),
                4 => drop(self.command(&["FLUSHALL"])),
                _ => {}
            }
        }

        fn run(&mut self, for_ms: u64) {
            let end_ms = self.now_ms + for_ms;
            let leads: Vec<_> = self.processes.iter().map(|process| process.clock_ms).collect();
            while let Some(index) = (0..self.processes.len()).min_by_key(|index| self.processes[*index].due_ms)
                && self.processes[index].due_ms < end_ms
            {
                self.now_ms = self.now_ms.max(self.processes[index].due_ms);
                self.pulse(index);
            }
            self.now_ms = end_ms;
            for (process, lead_ms) in self.processes.iter_mut().zip(leads) {
                let gone_ms = process.clock_ms.abs_diff(lead_ms);
                assert!(process.may_step || gone_ms <= 1_000 + for_ms / 25, "the time of who was awake went {gone_ms} ms in {for_ms} ms");
                process.may_step &= for_ms < 25_000;
            }
        }

        /// Until the newest has read the clock.
        fn run_until_read(&mut self) {
            let end_ms = self.now_ms + 10_000;
            while !self.processes.last().unwrap().pulse.has_been_read() {
                assert!(self.now_ms < end_ms, "it was never read");
                self.run(50);
            }
        }

        fn pulse(&mut self, index: usize) {
            let way_ms = self.random.u64(0..30);
            let server_ms = (self.now_ms + way_ms).saturating_add_signed(self.server_ahead_ms);
            let process = &mut self.processes[index];
            let asked_ms = self.now_ms.saturating_add_signed(process.clock_ms);
            let (ahead, read_under) = process.pulse.vote();
            let (server_ms, offset_ms, moves, born, is_in_doubt) = self
                .script
                .key(KEY)
                .arg(&process.pulse.process)
                .arg(asked_ms)
                .arg(ahead)
                .arg(read_under)
                .arg(super::token())
                .arg(server_ms / 1000)
                .arg(server_ms % 1000 * 1000)
                .invoke::<(u64, i64, u64, String, bool)>(&mut self.connection)
                .unwrap();
            let round_trip = Duration::from_millis(2 * way_ms);
            let reading = Reading { server_ms, offset_ms, moves, born, is_in_doubt, round_trip, asked_ms };
            let verdict = process.pulse.on_reading(&reading, self.began + Duration::from_millis(self.now_ms));
            process.clock_ms += verdict.shift_ms;
            process.moves += u32::from(verdict.is_moved);
            if process.pulse.readings > 1 && verdict.is_step {
                assert!(process.may_step, "who was awake stepped by {} ms", verdict.shift_ms);
                process.steps += 1;
            }
            let pause_ms = u64::try_from(process.pulse.next().as_millis()).unwrap();
            process.due_ms = self.now_ms + pause_ms + self.random.u64(0..200);
        }

        fn assert_agreed(&self) {
            let clocks = self.processes.iter().map(|process| process.clock_ms);
            let apart_ms = clocks.clone().max().unwrap() - clocks.min().unwrap();
            assert!(apart_ms <= 150, "{apart_ms} ms between the clocks of those who live");
        }
    }

    /// Unix ms at the beginning.
    const START_MS: i64 = 1_800_000_000_000;
}
