//! The SDK against a scripted gateway in this process: one file per behaviour.
#![forbid(unsafe_code)]

mod backoff;
mod gateway;
mod golden;
mod resume;
mod session;
