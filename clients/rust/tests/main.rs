//! The SDK against a scripted gateway in this process, and against real ones: one file per behaviour.
#![forbid(unsafe_code)]

mod backoff;
mod gateway;
mod gifts;
mod golden;
mod moves;
mod quic;
mod quic_gateway;
mod race;
mod resume;
mod session;
mod transports;
