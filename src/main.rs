//! The `billfish` command: a list of steps, no logic.
#![deny(unsafe_code)]

mod all_in_one;
mod api_key;
mod config;
mod development_certificate;
mod gateway;
mod logs;
mod memory;
mod node;
mod options;
mod pages;
mod router;

use clap::Parser;
use config::{Config, Role};
use options::{CheckOptions, Command, ConfigOptions, Options};
use std::process::ExitCode;

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match options.command {
        None => all_in_one::run(&options.run),
        Some(Command::All(run)) => all_in_one::run(&run),
        Some(Command::Gateway(run)) => gateway::run(&run),
        Some(Command::Router(run)) => router::run(&run),
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
fn check_config(options: &CheckOptions) -> anyhow::Result<()> {
    let config = read(&options.config, options.role)?;
    if options.role != Role::Router {
        billfish_gateway::check_certificates(&config.gateway)?;
    }
    print!("{}", config.masked()?);
    Ok(())
}

/// A configuration to run with.
fn load(options: &ConfigOptions, role: Role) -> anyhow::Result<Config> {
    let config = read(options, role)?;
    config.refuse_mask(role)?;
    Ok(config)
}

fn read(options: &ConfigOptions, role: Role) -> anyhow::Result<Config> {
    // An environment that is not UTF-8 cannot name one of our keys.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
    let mut config = Config::load(options.config.as_deref(), environment, role)?;
    if let Some(data_dir) = &options.data_dir {
        config.data_dir.clone_from(data_dir);
    }
    Ok(config)
}
