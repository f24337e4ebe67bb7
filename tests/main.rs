//! End to end: the real binary, real sockets, one file per behaviour. `house` starts and stops it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod house;

mod acting;
mod addresses;
mod amounts;
mod attack;
mod bugs;
mod certificates;
mod chat;
mod cluster;
mod cluster_script;
mod config;
mod crowd;
mod drain;
mod foreign;
mod framing;
mod gifts;
mod login;
mod loss;
mod loss_quic;
mod moves;
mod newcomer;
mod operator;
mod outages;
mod quic;
mod quic_slow;
mod records;
mod rejoin;
mod repeats;
mod restart;
mod slow;
mod slow_readers;
mod webhooks;
