//! A wall clock that can be moved under a running process, by libfaketime. Its monotonic clock stays true.

use crate::program;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the offset of one process is.
#[derive(Debug)]
pub(crate) struct FakeTime {
    library: PathBuf,
    file: PathBuf,
}

impl FakeTime {
    /// `None`, after a loud word, where libfaketime is missing. The offset is kept in `directory`.
    pub(crate) fn new(directory: &Path) -> Option<Self> {
        let fake_time = Self { library: library()?, file: directory.join("clock") };
        fake_time.set(0);
        Some(fake_time)
    }

    /// What a process must be started with.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let put = [
            // The C library's own allocator goes before Redis' jemalloc, which asks for the time while libfaketime still starts.
            ("LD_PRELOAD", format!("{} libc.so.6", self.library.display())),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            // The file is read again at every look at the clock, so that a jump is one.
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        put.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// Moves the clock this far from the true time, at once.
    pub(crate) fn set(&self, seconds: i64) {
        let half = self.file.with_extension("half");
        // By rename: nobody may read half an offset.
        fs::write(&half, format!("{seconds:+}")).expect("a temporary file");
        fs::rename(half, &self.file).expect("a temporary file");
    }
}

/// The library for programs with threads; loud where it is missing.
pub(crate) fn library() -> Option<PathBuf> {
    let places = ["x86_64-linux-gnu", "aarch64-linux-gnu"].map(|machine| format!("/usr/lib/{machine}/faketime/libfaketimeMT.so.1"));
    let found = places.map(PathBuf::from).into_iter().find(|path| path.is_file());
    if found.is_none() {
        program::missing("`faketime` is not installed (apt-get install faketime)");
    }
    found
}
