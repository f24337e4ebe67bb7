//! `billfish-faults`: runs faults, prints a table, exits with 1 on any breach.
#![forbid(unsafe_code)]

use anyhow::{Context as _, Result, bail, ensure};
use billfish_faults::{
    checker::Breach,
    fault::Fault,
    lanes::{self, LaneOptions},
    load::LoadOptions,
    run::{RunOptions, recheck, run},
    table,
};
use billfish_testing::LedgerKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command as Process, ExitCode},
    time::Duration,
};

/// Set in the namespace, so that it is entered once.
const INSIDE: &str = "BILLFISH_FAULTS_INSIDE";

/// Faults against real Billfish processes under load, checked from journals of what users saw.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one fault, several, or all of them.
    Run(Run),
    /// Names every fault.
    List,
    /// Checks a journal that was kept.
    Check {
        /// The journal.
        journal: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// Names of faults, or `all`.
    #[arg(required_unless_present = "all")]
    faults: Vec<String>,
    /// All of them.
    #[arg(long)]
    all: bool,
    /// So many faults at a time, each in a process of its own. Wants --markdown.
    #[arg(long, requires = "markdown")]
    lanes: Option<u16>,
    /// The table that lines are added to as faults end. Faults that have a line of this commit there are not run again.
    #[arg(long, requires = "lanes")]
    markdown: Option<PathBuf>,
    /// With --markdown: what failed is run again, and its old line taken out.
    #[arg(long, requires = "markdown")]
    again: bool,
    /// What the program under test was built of, for the table; as git says, if it is not told.
    #[arg(long)]
    commit: Option<String>,
    /// Where the line of one fault goes, beside the output.
    #[arg(long, hide = true)]
    line: Option<PathBuf>,
    /// How often each.
    #[arg(long, default_value_t = 20)]
    repeats: u32,
    /// Of every choice: victims, times, jumps.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program under test.
    #[arg(long, env = "BILLFISH", default_value = "target/release/billfish")]
    binary: PathBuf,
    /// Where journals and logs of failed runs stay.
    #[arg(long, default_value = "target/faults")]
    journal: PathBuf,
    /// Where the routers' records are.
    #[arg(long, value_enum, default_value_t)]
    ledger: Ledger,
    /// Keep them of clean runs too.
    #[arg(long)]
    keep: bool,
    /// Rooms.
    #[arg(long, default_value_t = LoadOptions::default().rooms)]
    rooms: usize,
    /// Members of each room.
    #[arg(long, default_value_t = LoadOptions::default().members)]
    members: usize,
    /// Speakers in each room.
    #[arg(long, default_value_t = LoadOptions::default().senders)]
    senders: usize,
    /// Between two messages of a speaker, ms.
    #[arg(long, default_value_t = 1_000)]
    pace_ms: u64,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Ledger {
    /// One SQLite file of all routers.
    #[default]
    Sqlite,
    /// A private MariaDB.
    Maria,
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let outcome = match Options::parse().command {
        Command::Run(options) => run_all(&options),
        Command::List => list(),
        Command::Check { journal } => check(&journal),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("billfish-faults: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's result")]
fn list() -> Result<bool> {
    for fault in Fault::all() {
        println!("{fault}");
    }
    Ok(true)
}

#[expect(clippy::print_stdout, reason = "the command's result")]
fn check(journal: &Path) -> Result<bool> {
    let (findings, measures) = recheck(journal)?;
    println!("{findings:#?}\n{measures:#?}");
    Ok(findings.is_clean())
}

#[expect(clippy::print_stdout, reason = "the command's result")]
fn run_all(options: &Run) -> Result<bool> {
    let mut faults: Vec<Fault> = if options.all { Fault::all().collect() } else { Vec::new() };
    for name in &options.faults {
        match name.as_str() {
            "all" => faults.extend(Fault::all()),
            name => faults.push(name.parse::<Fault>().with_context(|| format!("`{name}`"))?),
        }
    }
    let commit = options.commit.clone().unwrap_or_else(commit);
    if let (Some(lanes), Some(markdown)) = (options.lanes, &options.markdown) {
        return lanes::run(&faults, &lane_options(options, lanes, markdown, commit));
    }
    if faults.contains(&Fault::RedisClusterPartition) {
        enter_namespace()?;
    }
    let binary = options.binary.canonicalize().with_context(|| format!("{} is not there; build it first", options.binary.display()))?;
    let load = LoadOptions {
        rooms: options.rooms,
        members: options.members,
        senders: options.senders,
        pace: Duration::from_millis(options.pace_ms),
        ..LoadOptions::default()
    };
    ensure!(load.rooms > 0 && load.members > 1, "a message needs someone who sees it");
    let run_options = RunOptions {
        binary,
        repeats: options.repeats,
        seed: options.seed,
        directory: options.journal.clone(),
        load,
        ledger: match options.ledger {
            Ledger::Sqlite => LedgerKind::SharedSqlite,
            Ledger::Maria => LedgerKind::Maria,
        },
        keep: options.keep,
    };
    println!("{}", table::HEAD);
    let mut is_clean = true;
    for fault in faults {
        let Some(outcome) = run(fault, &run_options)? else {
            println!("| {fault} | skipped: a program is missing |");
            continue;
        };
        let line = table::line(&outcome, &commit);
        println!("{line}");
        if let Some(path) = &options.line {
            fs::write(path, line).with_context(|| format!("cannot write {}", path.display()))?;
        }
        if !outcome.findings.refused_by.is_empty() {
            eprintln!("{fault}: refused {:?}", outcome.findings.refused_by);
        }
        if !outcome.is_clean() {
            eprintln!("{fault}, seed {}:\n{}", options.seed, table::troubles(&outcome));
            is_clean = false;
        }
        if outcome.findings.count(Breach::NotRecovered) > 0 {
            eprintln!("{fault}: the cluster did not come back; see the logs beside the journal");
        }
    }
    Ok(is_clean)
}

fn lane_options(options: &Run, lanes: u16, markdown: &Path, commit: String) -> LaneOptions {
    let mut more: Vec<String> = [
        ("--rooms", options.rooms.to_string()),
        ("--members", options.members.to_string()),
        ("--senders", options.senders.to_string()),
        ("--pace-ms", options.pace_ms.to_string()),
        ("--ledger", options.ledger.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect();
    if options.keep {
        more.push("--keep".to_owned());
    }
    LaneOptions {
        lanes,
        table: markdown.to_owned(),
        binary: options.binary.clone(),
        commit,
        repeats: options.repeats,
        seed: options.seed,
        directory: options.journal.clone(),
        again: options.again,
        more,
    }
}

/// What git says of the tree that this is run in.
fn commit() -> String {
    let output = Process::new("git").args(["rev-parse", "--short=10", "HEAD"]).output().ok().filter(|output| output.status.success());
    let commit = output.and_then(|output| String::from_utf8(output.stdout).ok()).map(|text| text.trim().to_owned());
    commit.filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// A network of our own: packet filters that part Redis nodes must not touch anything else of this machine.
fn enter_namespace() -> Result<()> {
    if env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let program = env::current_exe().context("no path to this program")?;
    let error = Process::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""])
        .arg(program)
        .args(env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    bail!("redis-cluster-partition needs root, unshare and iproute2 for a network of its own: {error}")
}
