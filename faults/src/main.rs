//! `billfish-faults`: runs faults, prints a table, exits with 1 on any breach.
#![forbid(unsafe_code)]

use anyhow::{Context as _, Result, bail, ensure};
use billfish_faults::{
    checker::Breach,
    fault::Fault,
    load::LoadOptions,
    run::{RunOptions, recheck, run},
    table,
};
use billfish_testing::LedgerKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{
    env,
    os::unix::process::CommandExt as _,
    path::PathBuf,
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
    #[arg(required = true)]
    faults: Vec<String>,
    /// How often each.
    #[arg(long, default_value_t = 20)]
    repeats: u32,
    /// Of every choice: victims, times, jumps.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program under test.
    #[arg(long, default_value = "target/release/billfish")]
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
fn check(journal: &std::path::Path) -> Result<bool> {
    let findings = recheck(journal)?;
    println!("{findings:#?}");
    Ok(findings.is_clean())
}

#[expect(clippy::print_stdout, reason = "the command's result")]
fn run_all(options: &Run) -> Result<bool> {
    let mut faults = Vec::new();
    for name in &options.faults {
        match name.as_str() {
            "all" => faults.extend(Fault::all()),
            name => faults.push(name.parse::<Fault>().with_context(|| format!("`{name}`"))?),
        }
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
        println!("{}", table::line(&outcome));
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
