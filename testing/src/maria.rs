//! A private MariaDB server.
//!
//! The system tables take half a second to make, so they are made once per machine and copied for each server.

use crate::{
    certificates::Certificates,
    patience::{PATIENCE, eventually_within},
    ports::free_port,
    process::{Process, tail},
    program,
};
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// The database that is there from the start.
const DATABASE: &str = "billfish";
/// Another test may take the port between the look and the bind.
const START_TRIES_MAX: usize = 5;

/// One mariadbd.
#[derive(Debug)]
pub struct MariaDb {
    /// Before the directory: it is killed before its files go.
    process: Option<Process>,
    directory: TempDir,
    program: PathBuf,
    port: u16,
    tls: Option<Certificates>,
}

impl MariaDb {
    /// Starts one with an empty database and waits for its first answer. `None` where there is no MariaDB.
    pub fn start() -> Option<Self> {
        Self::start_as(None)
    }

    /// The same, and whoever comes over TCP must speak TLS. `None` also where there is no MariaDB.
    pub fn start_with_tls(certificates: Certificates) -> Option<Self> {
        Self::start_as(Some(certificates))
    }

    fn start_as(tls: Option<Certificates>) -> Option<Self> {
        let program = program::find("mariadbd", "mariadb-server")?;
        program::find("mariadb-install-db", "mariadb-server")?;
        program::find("mariadb", "mariadb-client")?;
        let directory = tempfile::tempdir().expect("a temporary directory");
        copy(&template(), &directory.path().join("data")).expect("a copy of the system tables");
        let mut server = Self { directory, program, port: 0, process: None, tls };
        for _ in 0..START_TRIES_MAX {
            server.port = free_port(IpAddr::V4(Ipv4Addr::LOCALHOST));
            if server.launch() {
                server.execute(&format!("CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4"));
                return Some(server);
            }
        }
        panic!("mariadbd does not start\n{}", server.log());
    }

    fn launch(&mut self) -> bool {
        let path = |name: &str| self.directory.path().join(name).to_string_lossy().into_owned();
        let mut arguments = vec![
            "--no-defaults".to_owned(),
            format!("--user={}", user()),
            format!("--datadir={}", path("data")),
            format!("--socket={}", path("socket")),
            format!("--pid-file={}", path("pid")),
            format!("--port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            "--innodb-buffer-pool-size=64M".to_owned(),
            "--skip-name-resolve".to_owned(),
        ];
        if let Some(certificates) = &self.tls {
            arguments.push("--require-secure-transport=ON".to_owned());
            arguments.push(format!("--ssl-cert={}", certificates.certificate().display()));
            arguments.push(format!("--ssl-key={}", certificates.key().display()));
        }
        let arguments: Vec<_> = arguments.into_iter().map(Into::into).collect();
        let mut process =
            Process::start(&self.program, &arguments, &[], &self.directory.path().join("log")).expect("mariadbd can be started");
        let mut is_up = false;
        let came = eventually_within(PATIENCE, || {
            if process.ended().is_some() {
                return true;
            }
            is_up = self.directory.path().join("socket").exists() && self.run("SELECT 1").is_ok_and(|status| status);
            is_up
        });
        assert!(came, "mariadbd does not answer\n{}", self.log());
        if is_up {
            self.process = Some(process);
        }
        is_up
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// For `ledger.url`.
    pub fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    /// The URL of another database of this server.
    pub fn url_of(&self, database: &str) -> String {
        format!("mysql://root@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs SQL and fails loudly.
    pub fn execute(&self, sql: &str) {
        let output = self.client(sql).output().expect("the mariadb client can be started");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn run(&self, sql: &str) -> io::Result<bool> {
        Ok(self.client(sql).output()?.status.success())
    }

    fn client(&self, sql: &str) -> Command {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "--user=root", "--batch", "--connect-timeout=2", "--execute", sql]);
        command.arg(format!("--socket={}", self.directory.path().join("socket").display()));
        command
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on the same port and files.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "it still runs");
        // A killed server leaves its socket behind.
        fs::remove_file(self.directory.path().join("socket")).ok();
        assert!(self.launch(), "mariadbd does not start again\n{}", self.log());
    }

    /// Halts it: connections stay open and nothing is answered.
    pub fn stop(&self) {
        self.process.as_ref().expect("it runs").stop();
    }

    /// Lets it go on.
    pub fn cont(&self) {
        self.process.as_ref().expect("it runs").cont();
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        tail(&self.directory.path().join("log"))
    }
}

/// Whoever we are: changing the user would also undo that the server dies with us.
fn user() -> &'static str {
    if rustix::process::geteuid().is_root() { "root" } else { "" }
}

/// System tables, made at the first use on this machine: every test is a process of its own.
fn template() -> PathBuf {
    let place = std::env::temp_dir().join(format!("billfish-mariadb-{}", rustix::process::geteuid().as_raw()));
    if !place.exists() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let output = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .arg(format!("--user={}", user()))
            .arg(format!("--datadir={}", directory.path().display()))
            .output()
            .expect("mariadb-install-db can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Whole or not at all; where another test was faster, its tables are as good.
        fs::rename(directory.path(), &place).ok();
    }
    place
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::MariaDb;

    #[test]
    fn what_was_committed_survives_a_kill() {
        let Some(mut server) = MariaDb::start() else { return };
        server.execute("CREATE TABLE billfish.t (id INT PRIMARY KEY); INSERT INTO billfish.t VALUES (1)");
        server.kill();
        server.start_again();
        // Fails when the row is there already.
        assert!(!server.run("INSERT INTO billfish.t VALUES (1)").unwrap());
    }
}
