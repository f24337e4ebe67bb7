//! Faults against real processes under load, checked from journals.
#![forbid(unsafe_code)]

fn main() {}
