//! What can be typed behind `billfish`.

use crate::config::Role;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Live-room messaging gateway: holds one connection per viewer and pushes chat and room events in order.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, args_conflicts_with_subcommands = true, max_term_width = 110)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Everything in one process, embedded state (the default).
    All(RunOptions),
    /// A gateway of its own: clients connect here; rooms are with the routers. Needs `state.kind = "redis"`.
    Gateway(RunOptions),
    /// A router of its own: rooms and the HTTP API; gateways dial in. Needs `state.kind = "redis"`.
    Router(RunOptions),
    /// Check the configuration and print it as it would be used, secrets masked.
    CheckConfig(CheckOptions),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CheckOptions {
    #[command(flatten)]
    pub(crate) config: ConfigOptions,
    /// For which kind of node.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) role: Role,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ConfigOptions {
    /// TOML file; BILLFISH__SECTION__KEY variables override its keys.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the embedded state lives, instead of `data_dir`.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) config: ConfigOptions,
    /// Write the bound addresses there as JSON once every listener is up.
    #[arg(long, value_name = "FILE")]
    pub(crate) ports_file: Option<PathBuf>,
    /// How log lines look; they go to standard error. RUST_LOG filters them.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

const EXAMPLES: &str = "\
Examples:
  billfish                                   everything in one process, state in ./data
  billfish --data-dir /var/lib/billfish --log-format json
  billfish --config billfish.toml            see `billfish check-config` for every key and its default
  BILLFISH__HTTP__LISTEN=127.0.0.1:0 billfish --ports-file ports.json
  billfish router --config docs/examples/cluster/router.toml
  billfish gateway --config docs/examples/cluster/gateway.toml
  billfish check-config --role gateway --config docs/examples/cluster/gateway.toml

Exit codes: 0 stopped cleanly, 1 failed, 2 wrong use.";
