//! Whole routers, gateway tables, sessions and clients, from seeds: see the crate's words.
//!
//! - `cargo test -p billfish-simulation` runs the seeds of `seeds.txt` and some hundred others.
//! - `BILLFISH_SEED=123 cargo test -p billfish-simulation` runs that one alone and prints what happened.
//! - `BILLFISH_SEEDS=500..5000 cargo test -p billfish-simulation` runs those too.
//! - `BILLFISH_SCOPE=all` with either: the store fails as well.
//!
//! A seed that fails is printed with the end of its trace, its whole trace is put into a file, and it is added to `seeds.txt`.

mod red;
mod runs;
mod seeds;
