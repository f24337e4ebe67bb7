//! Programs a test needs and a machine may lack.

use std::{
    env,
    path::{Path, PathBuf},
    sync::Mutex,
};

/// Where a program is, or `None` after a loud word. Panics with `REQUIRE_SERVERS=1`: there nothing may be skipped.
pub(crate) fn find(name: &str, package: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Servers stand in sbin, which the path of a plain user leaves out.
    let found = env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_program(candidate));
    if found.is_none() {
        missing(&format!("`{name}` is not installed (apt-get install {package})"));
    }
    found
}

/// Says once that something is skipped, and why; panics where nothing may be.
pub(crate) fn missing(problem: &str) {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    assert!(env::var_os("REQUIRE_SERVERS").is_none_or(|value| value != "1"), "{problem}, and REQUIRE_SERVERS=1 forbids to skip");
    let mut said = SAID.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !said.iter().any(|old| old == problem) {
        eprintln!("\n=== SKIPPED: {problem}. What needs it is NOT tested here. ===\n");
        said.push(problem.to_owned());
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
