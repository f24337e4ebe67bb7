//! The rule by itself, and the script in a true server among processes whose clocks and lives are made up.

use super::{DECIDED_WITHIN, HEARD_WITHIN, OUTVOTED_AFTER, Others, PULSE, Pulse, READINGS_BEFORE_VOTE, Reading, SCATTERED_AFTER, Verdict};
use billfish_testing::{RedisOptions, RedisServer};
use proptest::prelude::*;
use std::time::Duration;
use tokio::time::Instant;

const HOUR_MS: i64 = 3_600_000;

#[test]
fn the_first_reading_sets_the_clock_and_drift_is_followed_gently() {
    let mut pulse = Pulse::new("a");
    let mut read = reader();
    let step = |shift_ms| Verdict { shift_ms, is_step: true, ..Verdict::default() };
    assert_eq!(read(&mut pulse, -HOUR_MS, 0), step(HOUR_MS), "whatever it says, and nothing was forgotten");
    for (ahead_ms, shift_ms) in [(0, 0), (5, 0), (-5, 0), (6, -6), (-40, 40), (400, -60), (-500, 60)] {
        assert_eq!(read(&mut pulse, ahead_ms, 0), Verdict { shift_ms, ..Verdict::default() });
    }
}

#[test]
fn the_time_that_the_answer_took_is_halved() {
    let mut pulse = Pulse::new("a");
    let reading = Reading { round_trip: Duration::from_millis(100), ..reading(0, 0) };
    assert_eq!(pulse.on_reading(&reading, Instant::now()).shift_ms, -50);
}

#[test]
fn who_has_been_apart_for_long_while_the_others_agree_takes_the_time_of_all() {
    let mut pulse = established();
    let begin = Instant::now();
    let agreed = Reading { others: Others::Agree, ..reading(-20_000, 0) };
    let at = |pulse: &mut Pulse, after| pulse.on_reading(&agreed, begin + after);
    assert_eq!(at(&mut pulse, Duration::ZERO), Verdict::default());
    assert_eq!(at(&mut pulse, OUTVOTED_AFTER - Duration::from_millis(1)), Verdict::default());
    let outvoted = at(&mut pulse, OUTVOTED_AFTER);
    assert_eq!(outvoted, Verdict { shift_ms: 20_000, is_step: true, is_moved: false, may_have_forgotten: true, ..Verdict::default() });
    assert_eq!(pulse.vote().0, "0", "and has nothing to say against it");
}

#[test]
fn no_majority_yet_is_no_reason_to_step_and_none_any_more_is() {
    let mut pulse = established();
    let begin = Instant::now();
    let at = |pulse: &mut Pulse, after, others| pulse.on_reading(&Reading { others, ..reading(20_000, 0) }, begin + after);
    for _ in 0..2 {
        assert_eq!(at(&mut pulse, Duration::ZERO, Others::Undecided), Verdict::default());
        assert_eq!(at(&mut pulse, 100 * SCATTERED_AFTER, Others::Undecided), Verdict::default());
    }
    let mut pulse = established();
    assert_eq!(at(&mut pulse, Duration::ZERO, Others::Scattered), Verdict::default());
    assert_eq!(at(&mut pulse, SCATTERED_AFTER - Duration::from_millis(1), Others::Scattered), Verdict::default());
    assert_eq!(at(&mut pulse, SCATTERED_AFTER, Others::Scattered).shift_ms, -20_000);
}

#[test]
fn what_was_said_of_another_deviation_does_not_count() {
    let mut pulse = established();
    let begin = Instant::now();
    let at = |pulse: &mut Pulse, ahead_ms, after, count| {
        pulse.on_reading(&Reading { others: Others::Agree, count, ..reading(ahead_ms, 0) }, begin + after)
    };
    at(&mut pulse, -20_000, Duration::ZERO, 7);
    assert_eq!(pulse.apart_since(), "7");
    assert_eq!(at(&mut pulse, -20_000 - HOUR_MS, OUTVOTED_AFTER, 9), Verdict::default(), "the clock of Redis has jumped meanwhile");
    assert_eq!(pulse.apart_since(), "9");
    assert!(at(&mut pulse, -20_100 - HOUR_MS, 2 * OUTVOTED_AFTER, 12).is_step);
    assert_eq!(pulse.apart_since(), "-");
}

#[test]
fn who_is_new_waits_for_the_others_and_has_no_vote_until_they_agree() {
    let begin = Instant::now();
    let doubted = |ahead_ms, count| Reading { is_in_doubt: true, count, ..reading(ahead_ms, 0) };
    let half = HEARD_WITHIN / 2;
    let put_off = Verdict { is_put_off: true, ..Verdict::default() };
    // As long as somebody is heard, and not for ever.
    let mut pulse = Pulse::new("a");
    for round in 0..6 {
        assert_eq!(pulse.on_reading(&doubted(HOUR_MS, u64::from(round)), begin + half * round), put_off);
        assert!(!pulse.has_been_read());
    }
    assert!(pulse.on_reading(&doubted(HOUR_MS, 6), begin + DECIDED_WITHIN).is_step);
    // Where nobody is left who could decide, not for long.
    let mut pulse = Pulse::new("a");
    assert_eq!(pulse.on_reading(&doubted(HOUR_MS, 1), begin), put_off);
    assert!(pulse.on_reading(&doubted(HOUR_MS, 1), begin + HEARD_WITHIN).is_step);
    // A wall clock that says the same begins with it; whether that was right is seen when the doubt is over.
    let mut pulse = Pulse::new("a");
    for round in 0..5 {
        pulse.on_reading(&doubted(0, u64::from(round)), begin + half * round);
        assert!(pulse.has_been_read());
    }
    assert_eq!(pulse.vote().0, "new");
    assert!(pulse.on_reading(&reading(HOUR_MS, 1), begin + half).is_step, "at once");
    assert_eq!(pulse.vote().0, "new", "and it counts from there");
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
    let moved = pulse.on_reading(&reading(0, 1), Instant::now());
    assert!(moved.may_have_forgotten && !moved.is_reborn, "what had less to live is gone, and not all");
    let reborn = Reading { born: "another".to_owned(), ..reading(0, 0) };
    let verdict = pulse.on_reading(&reborn, Instant::now());
    assert_eq!(
        verdict,
        Verdict { may_have_forgotten: true, is_reborn: true, ..Verdict::default() },
        "moves of another birth are not compared"
    );
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
        world.add(START_MS + 77_000);
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The clock of the server jumps and stays there, again and again, while some of the processes, or all but one, are killed and
    /// started again around each jump: those who live on see nothing of it, and all agree soon.
    #[test]
    fn who_lives_on_through_jumps_and_kills_never_steps(seed in any::<u64>(), processes in 3_usize..8) {
        let Some(mut world) = World::start(processes, seed) else { return Ok(()) };
        world.run(30_000);
        for _ in 0..6 {
            let processes = world.processes.len();
            world.jump_among_kills(processes);
            let calm_ms = world.random.choice([0, 2_000, 40_000]).unwrap();
            world.run(calm_ms);
            world.settle();
        }
        world.run(40_000);
        world.assert_agreed();
    }
}

const KEY: &str = "im:pulse";

fn reading(ahead_ms: i64, moves: u64) -> Reading {
    let asked_ms: u64 = 1_800_000_000_000;
    let server_ms = asked_ms.saturating_add_signed(-ahead_ms);
    Reading {
        server_ms,
        offset_ms: 0,
        moves,
        born: "b".to_owned(),
        is_in_doubt: false,
        count: 0,
        others: Others::Undecided,
        round_trip: Duration::ZERO,
        asked_ms,
    }
}

fn reader() -> impl FnMut(&mut Pulse, i64, u64) -> Verdict {
    let now = Instant::now();
    move |pulse, ahead_ms, moves| pulse.on_reading(&reading(ahead_ms, moves), now)
}

fn established() -> Pulse {
    let mut pulse = Pulse::new("a");
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
    /// Two clocks are apart.
    apart_since_ms: Option<u64>,
    names: u32,
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

enum Event {
    Jump,
    Kill(usize),
    Start(usize),
}

impl Process {
    fn start(name: &str, now_ms: u64, wall_ms: i64) -> Self {
        Self { pulse: Pulse::new(name), clock_ms: wall_ms, due_ms: now_ms, may_step: true, steps: 0, moves: 0 }
    }
}

impl World {
    fn start(processes: usize, seed: u64) -> Option<Self> {
        let options = RedisOptions { appendonly: false, ..RedisOptions::default() };
        let server = RedisServer::start_with(options)?;
        let connection = redis::Client::open(format!("redis://{}", server.address())).unwrap().get_connection().unwrap();
        let parts: Vec<_> = PULSE.text().split("redis.call('TIME')").collect();
        let [before, after] = parts[..] else { panic!("the script reads the time once") };
        let script = redis::Script::new(&format!("{before}{{ ARGV[7], ARGV[8] }}{after}"));
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
            apart_since_ms: None,
            names: 0,
        };
        for _ in 0..processes {
            let wrong_ms = world.random.i64(-HOUR_MS..HOUR_MS);
            world.add(START_MS + wrong_ms);
        }
        Some(world)
    }

    fn add(&mut self, wall_ms: i64) {
        self.names += 1;
        self.processes.push(Process::start(&self.names.to_string(), self.now_ms, wall_ms));
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
            2 => {
                drop(self.processes.remove(victim));
                self.add(START_MS);
            }
            3 => self.add(START_MS),
            4 => drop(self.command(&["FLUSHALL"])),
            _ => {}
        }
    }

    /// Jumps, 6 s after the beginning; some die before or after, and are started again, under their name or, as by an orchestrator,
    /// under another, with a wall clock that is right, wrong, or that of the server.
    fn jump_among_kills(&mut self, processes: usize) {
        let kills = self.random.usize(0..processes);
        // Those who died just before it seem to agree with a jump that is shorter than they may have been silent.
        let shortest_ms = if 2 * kills < processes { 600 } else { 60_000 };
        let mut events: Vec<(u64, Event)> = vec![(6_000, Event::Jump)];
        for kill in 0..kills {
            let at_ms = self.random.u64(0..12_000);
            events.push((at_ms, Event::Kill(kill)));
            events.push((at_ms + self.random.u64(1..15_000), Event::Start(kill)));
        }
        events.sort_by_key(|(at_ms, _)| *at_ms);
        let (began_ms, mut killed) = (self.now_ms, vec![String::new(); kills]);
        for (at_ms, event) in events {
            self.run(began_ms + at_ms - self.now_ms);
            match event {
                Event::Jump => {
                    let size_ms = self.random.choice([600, 3_000, 9_000, 60_000, HOUR_MS, HOUR_MS, 2 * HOUR_MS]).unwrap().max(shortest_ms);
                    self.server_ahead_ms += if self.random.bool() { size_ms } else { -size_ms };
                }
                Event::Kill(kill) => {
                    let victim = self.random.usize(..self.processes.len());
                    killed[kill] = self.processes.remove(victim).pulse.node;
                }
                Event::Start(kill) => {
                    let wall_ms = self.random.choice([START_MS, START_MS + HOUR_MS, self.server_ahead_ms]).unwrap();
                    self.add(wall_ms);
                    if self.random.u8(..4) > 0 {
                        self.processes.last_mut().unwrap().pulse.node.clone_from(&killed[kill]);
                    }
                }
            }
        }
    }

    /// Who has a vote from now on is to keep its time.
    fn settle(&mut self) {
        for process in &mut self.processes {
            process.may_step &= process.pulse.readings < READINGS_BEFORE_VOTE;
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
        let answer = self
            .script
            .key(KEY)
            .arg(&process.pulse.node)
            .arg(asked_ms)
            .arg(ahead)
            .arg(read_under)
            .arg(super::token())
            .arg(process.pulse.apart_since())
            .arg(server_ms / 1000)
            .arg(server_ms % 1000 * 1000)
            .invoke(&mut self.connection)
            .unwrap();
        let reading = super::reading_of(answer, Duration::from_millis(2 * way_ms), asked_ms);
        let was_read = process.pulse.has_been_read();
        let verdict = process.pulse.on_reading(&reading, self.began + Duration::from_millis(self.now_ms));
        process.clock_ms += verdict.shift_ms;
        process.moves += u32::from(verdict.is_moved);
        if was_read && verdict.is_step {
            assert!(process.may_step, "who was awake stepped by {} ms", verdict.shift_ms);
            process.steps += 1;
        }
        let pause_ms = u64::try_from(process.pulse.next().as_millis()).unwrap();
        process.due_ms = self.now_ms + pause_ms + self.random.u64(0..200);
        if self.apart_ms() <= 500 {
            self.apart_since_ms = None;
        } else {
            let apart_for_ms = self.now_ms - *self.apart_since_ms.get_or_insert(self.now_ms);
            assert!(apart_for_ms <= AGREED_WITHIN_MS, "two clocks were apart for {apart_for_ms} ms");
        }
    }

    /// Between the clocks of those who have read that of the server.
    fn apart_ms(&self) -> i64 {
        let clocks = self.processes.iter().filter(|process| process.pulse.has_been_read()).map(|process| process.clock_ms);
        clocks.clone().max().unwrap_or(0) - clocks.min().unwrap_or(0)
    }

    fn assert_agreed(&self) {
        let apart_ms = self.apart_ms();
        assert!(self.processes.iter().all(|process| process.pulse.has_been_read()), "somebody has no time");
        assert!(apart_ms <= 150, "{apart_ms} ms between the clocks of those who live");
    }
}

/// Two clocks that differ do not do so for longer: the outvoted wait 6 s, and votes for those who died.
const AGREED_WITHIN_MS: u64 = 20_000;

/// Unix ms at the beginning.
const START_MS: i64 = 1_800_000_000_000;
