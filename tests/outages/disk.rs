//! A disk of 4 MiB that fills up.

use super::{CONFIG, Stage, books::Books};
use crate::house::{House, PATIENCE};
use std::{
    fs::{self, DirBuilder, File},
    io::{Seek as _, SeekFrom, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A file system of 4 MiB in memory, at a directory that is made for it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, said loudly, where nobody may mount.
    fn at(directory: &Path) -> Option<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).unwrap();
        let mount = |directory: &Path| {
            let mut command = Command::new("mount");
            command.args(["-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs"]).arg(directory).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        if rustix::process::geteuid().is_root() && mount(directory) {
            return Some(Self(directory.to_owned()));
        }
        eprintln!("SKIPPED: a small disk needs root and a kernel that mounts");
        None
    }

    fn filler(&self) -> PathBuf {
        self.0.join("somebody-elses-file")
    }

    /// Leaves so many bytes free.
    fn fill(&self, spare: u64) {
        let mut file = File::create(self.filler()).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        let size = file.seek(SeekFrom::End(0)).unwrap();
        file.set_len(size.saturating_sub(spare)).unwrap();
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that a failed test left may still have it open.
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
        // Whoever made the directory around it could not take it away.
        if let Some(around) = self.0.parent() {
            fs::remove_dir_all(around).ok();
        }
    }
}

#[test]
fn a_full_disk_refuses_gifts_and_takes_them_when_there_is_room_again() {
    let mut disk = None;
    let house = House::prepared(CONFIG, |directory| disk = SmallDisk::at(directory));
    let Some(disk) = disk else { return };
    let file = house.data_dir().join("billfish.db");
    let mut stage = Stage::begin(house, Books::File(file));
    for _ in 0..2 {
        disk.fill(0);
        stage.crew.be_refused(2);
        stage.chat();
        assert_eq!(stage.house.admin("/livez").0, 200);
        disk.make_room();
        stage.crew.give_more(3);
    }
    stage.end();
}

#[test]
fn a_start_on_a_full_disk_says_so() {
    let around = tempfile::tempdir().unwrap();
    let data = around.path().join("data");
    let Some(disk) = SmallDisk::at(&data) else { return };
    // Without a byte, and with some that are not enough for the records.
    for spare in [0, 64 * 1024] {
        disk.fill(spare);
        let (code, said) = start(&data);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(data.to_str().unwrap()), "it says where: {said}");
        let said = said.to_lowercase();
        assert!(said.contains("no space left") || said.contains("disk is full"), "it says what is amiss: {said}");
        disk.make_room();
    }
}

/// Starts it, and waits until it has ended: exit code and what it said.
fn start(data: &Path) -> (Option<i32>, String) {
    let any = "127.0.0.1:0";
    let listen =
        ["GATEWAY__LISTEN__TCP", "GATEWAY__LISTEN__WS", "GATEWAY__LISTEN__TLS", "GATEWAY__LISTEN__QUIC", "HTTP__LISTEN", "ADMIN__LISTEN"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_billfish"))
        .arg("--data-dir")
        .arg(data)
        .envs(listen.map(|key| (format!("BILLFISH__{key}"), any)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() >= deadline {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
