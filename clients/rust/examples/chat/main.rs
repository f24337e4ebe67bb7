//! A chat in the terminal: the SDK at work, and the quickest way to see Billfish do something.
//!
//! - At a terminal: lines of others appear above the prompt, one's own when the server has them, commands begin with `/`.
//! - In a pipe: lines in, lines out, one message after the other; ends at the end of input, when all of it was acknowledged.
//! - [`api`] is what a backend would do: tokens, rooms, coins. [`screen`] owns the terminal, [`words`] the sentences, [`gifts`] what is
//!   given and how often a bar is drawn.
#![forbid(unsafe_code)]

mod api;
mod command;
mod gifts;
mod screen;
mod talk;
mod words;

use anyhow::{Context, Result};
use api::Api;
use billfish_client::{Roots, TransportKind};
use clap::Parser;
use screen::Screen;
use std::{path::PathBuf, process::ExitCode};
use talk::Talk;

/// Chats in a live room of a Billfish server.
#[derive(Debug, Parser)]
#[command(name = "chat", after_help = EXAMPLES)]
struct Options {
    /// Who you are to the others. The same name is the same user, wherever it is typed.
    #[arg(long, value_parser = name)]
    name: String,
    /// The room's number. Without it: the first live room, or a new one.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..))]
    room: Option<i64>,
    /// Opens a PK room of your own, where others may challenge you.
    #[arg(long, conflicts_with = "room")]
    pk: bool,
    /// In a pipe, too, lines that begin with `/` are commands.
    #[arg(long)]
    commands: bool,
    /// HTTP API of the server.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    server: String,
    /// Key of the HTTP API. [default: what stands in data/api-key]
    #[arg(long, value_name = "KEY", env = "BILLFISH_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Where the server wrote its key.
    #[arg(long, value_name = "FILE", default_value = "data/api-key")]
    api_key_file: PathBuf,
    /// What carries the connection: quic, tls, wss, tcp or ws; may be repeated, and the best that works is taken. [default: quic, tls and tcp
    /// where a --ca is given, and tcp alone where none is]
    #[arg(long, value_name = "KIND")]
    transport: Vec<TransportKind>,
    /// Certificates, PEM, to believe beside the system's: of a server started here, data/development-cert.pem.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Bodies in protobuf instead of JSON.
    #[arg(long)]
    protobuf: bool,
}

const EXAMPLES: &str = "\
Examples, with `cargo run --release` running in another terminal:
  cargo run --release -p billfish-client --example chat -- --name alice
  cargo run --release -p billfish-client --example chat -- --name bob --room 1
  cargo run --release -p billfish-client --example chat -- --name carol --transport quic --ca data/development-cert.pem
  cargo run --release -p billfish-client --example chat -- --name dave --pk
  echo hello | cargo run --release -p billfish-client --example chat -- --name robot";

fn main() -> ExitCode {
    let options = Options::parse();
    match run(options) {
        Ok(code) => code,
        Err(error) => {
            screen::complain(&format!("chat: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<ExitCode> {
    let key = match options.api_key {
        Some(key) => key,
        None => std::fs::read_to_string(&options.api_key_file).with_context(|| {
            format!(
                "no API key in {}: start the server in this folder (cargo run --release), or give --api-key or --api-key-file",
                options.api_key_file.display()
            )
        })?,
    };
    let mut roots = Roots::default();
    if let Some(path) = &options.ca {
        roots.more_pem = std::fs::read_to_string(path).with_context(|| format!("--ca {}", path.display()))?;
    }
    let transports = match (options.transport.is_empty(), &options.ca) {
        (false, _) => options.transport,
        (true, Some(_)) => vec![TransportKind::Quic, TransportKind::Tls, TransportKind::Tcp],
        (true, None) => vec![TransportKind::Tcp],
    };
    let api = Api::new(&options.server, key.trim(), &options.name, transports);
    let room = if options.pk { api.open_pk_room()? } else { api.choose_room(options.room)? };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let (screen, input) = Screen::open(&options.name)?;
        let mut talk = Talk::begin(api, screen, room, roots, options.protobuf, options.commands).await?;
        Ok(talk.run(input).await)
    })
}

/// A name that others can be shown.
fn name(text: &str) -> Result<String, String> {
    let name = text.trim();
    if name.is_empty() {
        return Err("a name has at least one letter".to_owned());
    }
    if name.len() > 64 || name.chars().any(char::is_control) {
        return Err("a name has at most 64 bytes and no control characters".to_owned());
    }
    Ok(name.to_owned())
}
