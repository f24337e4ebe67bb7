//! The `billfish` command.
#![forbid(unsafe_code)]

fn main() {}
