//! All faults, several at a time, into one table that grows as they end.
//!
//! - A lane is one fault after the other, each in a process of its own with its own share of the ports: what goes wrong with one is that one's.
//! - The table is the memory: a fault with a line of this build is not run again, so that a driver that was stopped goes on where it was.
//! - Nodes run a copy of the program: a build that ends meanwhile changes nothing.
//! - A fault whose process proves nothing (no cluster, an incomplete journal) is tried once more and then told, without a line.

use crate::{fault::Fault, table};
use anyhow::{Context as _, Result, ensure};
use billfish_testing::PORT_LANE;
use std::{
    collections::VecDeque,
    env,
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::{self, sleep},
    time::{Duration, Instant},
};

/// How often a fault whose process proves nothing is tried.
const TRIES_MAX: u32 = 2;
/// Beyond the time that a fault's repeats take: start, quiet, rest, and what recovery adds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(900);
/// Times a repeat may take longer than it should before its process has hung.
const SLOWNESS_MAX: u32 = 3;
/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(200);
/// Lanes begin one after the other: clusters that start at once hold each other up.
const STAGGER: Duration = Duration::from_secs(3);

/// What is to be run.
#[derive(Clone, Debug)]
pub struct LaneOptions {
    /// How many at a time.
    pub lanes: u16,
    /// The table.
    pub table: PathBuf,
    /// The program under test.
    pub binary: PathBuf,
    /// What it was built of.
    pub commit: String,
    /// How often each.
    pub repeats: u32,
    /// Of the first fault; the others' follow.
    pub seed: u64,
    /// Where journals and logs of failed runs stay.
    pub directory: PathBuf,
    /// Lines of failed runs of this build are taken out first.
    pub again: bool,
    /// More options for each.
    pub more: Vec<String>,
}

/// What is still to be done, and what came of the rest.
#[derive(Debug)]
struct Board {
    waiting: VecDeque<(Fault, u64)>,
    clean: u32,
    failed: Vec<String>,
    unproven: Vec<String>,
}

/// Runs the faults; whether all of them, those of earlier runs too, were clean.
///
/// # Errors
/// When the table cannot be written.
pub fn run(faults: &[Fault], options: &LaneOptions) -> Result<bool> {
    ensure!((1..=16).contains(&options.lanes), "from 1 to 16 lanes");
    fs::create_dir_all(&options.directory).with_context(|| format!("cannot make {}", options.directory.display()))?;
    let binary = keep_program(options)?;
    let lines = prepare_table(options)?;
    let mut board = Board { waiting: VecDeque::new(), clean: 0, failed: Vec::new(), unproven: Vec::new() };
    for (fault, seed) in faults.iter().copied().zip(options.seed..) {
        match is_told(&lines, fault, options) {
            Some(true) => board.clean += 1,
            Some(false) => board.failed.push(fault.to_string()),
            None => board.waiting.push_back((fault, seed)),
        }
    }
    board.waiting.make_contiguous().sort_by_key(|(fault, _)| std::cmp::Reverse(fault.length()));
    eprintln!(
        "{} faults to run, {} times each, in {} lanes; {} are in {} already",
        board.waiting.len(),
        options.repeats,
        options.lanes,
        faults.len() - board.waiting.len(),
        options.table.display()
    );
    let began = Instant::now();
    let board = Mutex::new(board);
    thread::scope(|scope| {
        for lane in 1..=options.lanes {
            let (board, binary) = (&board, &binary);
            scope.spawn(move || {
                sleep(STAGGER * u32::from(lane - 1));
                while let Some((fault, seed)) = next(board) {
                    one(lane, fault, seed, binary, options, board);
                }
            });
        }
    });
    let board = board.into_inner().unwrap_or_else(PoisonError::into_inner);
    eprintln!(
        "after {} min: {} clean, {} failed {:?}, {} not run {:?}",
        began.elapsed().as_secs() / 60,
        board.clean,
        board.failed.len(),
        board.failed,
        board.unproven.len(),
        board.unproven
    );
    Ok(board.failed.is_empty() && board.unproven.is_empty())
}

fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next(board: &Mutex<Board>) -> Option<(Fault, u64)> {
    lock(board).waiting.pop_front()
}

/// A copy that no build replaces, the same in a run that goes on.
fn keep_program(options: &LaneOptions) -> Result<PathBuf> {
    let copy = options.directory.join(format!("billfish-{}", options.commit));
    if !copy.is_file() {
        // Under its name only when it is whole.
        let half = copy.with_extension("half");
        fs::copy(&options.binary, &half).with_context(|| format!("cannot copy {}", options.binary.display()))?;
        fs::rename(&half, &copy).with_context(|| format!("cannot make {}", copy.display()))?;
    }
    copy.canonicalize().context("the copy of the program")
}

/// Makes the table where there is none, takes out what is to be run again, and gives its lines.
fn prepare_table(options: &LaneOptions) -> Result<Vec<table::Told>> {
    let text = match fs::read_to_string(&options.table) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => format!("{}\n", table::HEAD),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", options.table.display())),
    };
    let is_kept = |line: &&str| !options.again || table::read(line).is_none_or(|told| told.is_clean || told.commit != options.commit);
    let lines: Vec<&str> = text.lines().filter(is_kept).collect();
    let half = options.table.with_extension("half");
    fs::write(&half, lines.join("\n") + "\n").with_context(|| format!("cannot write {}", half.display()))?;
    fs::rename(&half, &options.table).with_context(|| format!("cannot write {}", options.table.display()))?;
    Ok(lines.into_iter().filter_map(table::read).collect())
}

/// Whether the table has a line of this build for the fault, and whether it is clean.
fn is_told(lines: &[table::Told], fault: Fault, options: &LaneOptions) -> Option<bool> {
    let name = fault.to_string();
    // One that ended early has fewer injections and has failed all the same.
    let is_whole = |told: &&table::Told| told.injected >= options.repeats || !told.is_clean;
    lines.iter().filter(|told| told.fault == name && told.commit == options.commit).find(is_whole).map(|told| told.is_clean)
}

fn one(lane: u16, fault: Fault, seed: u64, binary: &Path, options: &LaneOptions, board: &Mutex<Board>) {
    for attempt in 1..=TRIES_MAX {
        eprintln!("lane {lane}: {fault}, seed {seed}");
        let began = Instant::now();
        let line = match child(lane, fault, seed, binary, options) {
            Ok(line) => line,
            Err(error) => {
                eprintln!("lane {lane}: {fault} proves nothing at attempt {attempt} of {TRIES_MAX}: {error:#}");
                continue;
            }
        };
        let is_clean = table::read(&line).is_some_and(|told| told.is_clean);
        let mut board = lock(board);
        if let Err(error) = add_line(&options.table, &line) {
            eprintln!("the table cannot be written: {error}\n{line}");
        }
        if is_clean {
            board.clean += 1;
        } else {
            board.failed.push(fault.to_string());
        }
        eprintln!("lane {lane}: {fault} {} after {} s", if is_clean { "is clean" } else { "FAILED" }, began.elapsed().as_secs());
        return;
    }
    lock(board).unproven.push(fault.to_string());
}

/// Opened anew for each line: somebody may have written a new file in its place.
fn add_line(table: &Path, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(table)?;
    writeln!(file, "{line}")?;
    file.sync_data()
}

/// Runs one fault in a process of its own; its line.
fn child(lane: u16, fault: Fault, seed: u64, binary: &Path, options: &LaneOptions) -> Result<String> {
    let path = |extension: &str| options.directory.join(format!("{fault}-{seed}.{extension}"));
    let (line, said) = (path("line"), path("said"));
    fs::remove_file(&line).ok();
    let output = File::create(&said).with_context(|| format!("cannot write {}", said.display()))?;
    // It ends with this process, however that ends; its own children end with it.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(env::current_exe().context("no path to this program")?)
        .args(["run", &fault.to_string(), "--repeats", &options.repeats.to_string(), "--seed", &seed.to_string()])
        .args(["--commit", &options.commit])
        .arg("--binary")
        .arg(binary)
        .arg("--journal")
        .arg(&options.directory)
        .arg("--line")
        .arg(&line)
        .args(&options.more)
        .env(PORT_LANE, format!("{lane}/{}", options.lanes))
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("a file")?)
        .stderr(output);
    let patience = PATIENCE + fault.length() * options.repeats * SLOWNESS_MAX;
    let began = Instant::now();
    let mut child = command.spawn().context("setpriv cannot be started (apt-get install util-linux)")?;
    let status = loop {
        if let Some(status) = child.try_wait().context("a process")? {
            break status;
        }
        if began.elapsed() > patience {
            child.kill().context("a process that hangs")?;
            break child.wait().context("a process")?;
        }
        sleep(LOOK);
    };
    let text = fs::read_to_string(&line).with_context(|| format!("it ended with {status} and said no line; see {}", said.display()))?;
    fs::remove_file(&line).ok();
    let text = text.trim().to_owned();
    ensure!(table::read(&text).is_some(), "its line is none: {text}");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{LaneOptions, is_told, prepare_table};
    use crate::{fault::Fault, table};
    use std::fs;

    fn options(directory: &std::path::Path, again: bool) -> LaneOptions {
        LaneOptions {
            lanes: 1,
            table: directory.join("table.md"),
            binary: "billfish".into(),
            commit: "new".to_owned(),
            repeats: 20,
            seed: 1,
            directory: directory.to_owned(),
            again,
            more: Vec::new(),
        }
    }

    #[test]
    fn what_the_table_says_of_this_build_is_not_run_again() {
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "{}\n| `router-kill` | 20 | `new`, 1, 2.0 |\n| `gateway-kill` **FAILED** | 3 | `new`, 1, 2.0 |\n| `redis-kill` | 20 | `old`, 1, 2.0 |\n| `nothing` | 5 | `new`, 1, 2.0 |\n",
            table::HEAD
        );
        fs::write(directory.path().join("table.md"), &text).unwrap();
        let once = options(directory.path(), false);
        let lines = prepare_table(&once).unwrap();
        let told = [Fault::RouterKill, Fault::GatewayKill, Fault::RedisKill, Fault::Nothing].map(|fault| is_told(&lines, fault, &once));
        assert_eq!(told, [Some(true), Some(false), None, None], "another build's and too few repeats do not count");
        assert_eq!(fs::read_to_string(&once.table).unwrap(), text);

        let again = options(directory.path(), true);
        let lines = prepare_table(&again).unwrap();
        assert_eq!(is_told(&lines, Fault::GatewayKill, &again), None, "what failed is run again");
        assert_eq!(is_told(&lines, Fault::RouterKill, &again), Some(true));
    }

    #[test]
    fn a_new_table_has_its_head_alone() {
        let directory = tempfile::tempdir().unwrap();
        let once = options(directory.path(), false);
        assert_eq!(prepare_table(&once).unwrap(), Vec::new());
        assert_eq!(fs::read_to_string(&once.table).unwrap(), format!("{}\n", table::HEAD));
    }
}
