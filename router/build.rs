//! Rebuilds the crate when a migration is added: `sqlx::migrate!` itself only notices changes in those it knows.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
