//! The crowd: connection storms and fan-out load on a running Billfish, with every copy accounted for.
//!
//! - [`scenario`] is the list of what can be run; each scenario is a short story told to a [`worker`] or several.
//! - [`crowd`] is one worker's event loop; [`tally`] the account of what arrived.
//! - [`series`] is the run over time, [`live`] shows it while it goes on and [`page`] afterwards.
//! - [`gifts`] is what a run with gifts means to send; [`invariants`] compares its journal with the server's ledger.
//! - [`probe`] is the bare send loop that the server's figures are compared with.
#![forbid(unsafe_code)]

mod accounts;
mod clock;
mod crowd;
mod gifts;
mod http;
mod interrupt;
mod invariants;
mod journal;
mod latency;
mod live;
mod options;
mod page;
mod probe;
mod proc;
mod redis;
mod report;
mod sampler;
mod scenario;
mod series;
mod tally;
mod transport;
mod units;
mod worker;

use anyhow::Result;
use clap::Parser;
use options::{Options, Scenario};
use std::{
    io::{self, Write},
    process::ExitCode,
};

fn main() -> ExitCode {
    // clap itself ends with 2 on wrong use.
    let options = Options::parse();
    proc::raise_open_files();
    match run(options.scenario) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing more can be done when standard error is closed.
            writeln!(io::stderr(), "loadgen: {error:#}").ok();
            if error.is::<scenario::WrongUse>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// `false`: the run came to its end and found something wrong.
fn run(scenario: Scenario) -> Result<bool> {
    match scenario {
        Scenario::Hold(options) => scenario::hold::run(&options),
        Scenario::RoomBurst(options) => scenario::room_burst::run(&options),
        Scenario::Storm(options) => scenario::storm::run(&options),
        Scenario::Echo(options) => scenario::echo::run(&options),
        Scenario::Unicast(options) => scenario::unicast::run(&options),
        Scenario::ReconnectHerd(options) => scenario::reconnect_herd::run(&options),
        Scenario::SlowReaders(options) => scenario::slow_readers::run(&options),
        Scenario::GiftRain(options) => scenario::gift_rain::run(&options),
        Scenario::PkNight(options) => scenario::pk_night::run(&options),
        Scenario::Check(options) => scenario::check::run(&options),
        Scenario::Limit(options) => scenario::limit::run(&options),
        Scenario::Worker => worker::serve().map(|()| true),
        Scenario::LimitDrain { sender, sockets } => probe::drain(sender, sockets).map(|()| true),
    }
}
