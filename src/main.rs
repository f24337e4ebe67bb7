//! The `billfish` command: a list of steps, no logic.
#![forbid(unsafe_code)]

mod all_in_one;
mod api_key;
mod config;
mod logs;
mod options;

use clap::Parser;
use config::Config;
use options::{Command, ConfigOptions, Options};
use std::process::ExitCode;

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match options.command {
        None => all_in_one::run(&options.run),
        Some(Command::All(run)) => all_in_one::run(&run),
        Some(Command::CheckConfig(config)) => check_config(&config),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain: what was being done, then why it failed.
            eprintln!("billfish: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's result")]
fn check_config(options: &ConfigOptions) -> anyhow::Result<()> {
    print!("{}", load(options)?.masked()?);
    Ok(())
}

fn load(options: &ConfigOptions) -> anyhow::Result<Config> {
    // An environment that is not UTF-8 cannot name one of our keys.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
    let mut config = Config::load(options.config.as_deref(), environment)?;
    if let Some(data_dir) = &options.data_dir {
        config.data_dir.clone_from(data_dir);
    }
    Ok(config)
}
