//! One `billfish gateway` or `billfish router`.

use crate::{
    fake_time::FakeTime,
    patience::{PATIENCE, eventually_within},
    process::{Process, tail},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;

/// A page of the admin port is there at once or not at all; a stopped node must not hold up who looks.
const ADMIN_WAIT: Duration = Duration::from_secs(2);

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// Clients connect here.
    Gateway,
    /// Rooms and the HTTP API.
    Router,
}

impl NodeKind {
    fn word(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Router => "router",
        }
    }
}

/// One node, running or not.
#[derive(Debug)]
pub struct Node {
    kind: NodeKind,
    name: String,
    binary: PathBuf,
    directory: TempDir,
    environment: Vec<(String, String)>,
    ports: BTreeMap<String, SocketAddr>,
    process: Option<Process>,
    /// Of the process; 0 while there is none.
    current_pid: Arc<AtomicU32>,
    fake_time: Option<FakeTime>,
}

impl Node {
    /// A node that is not started yet. `config` is its TOML file with its ports; `environment` wins over it.
    pub(crate) fn new(kind: NodeKind, name: &str, binary: &Path, config: &str, environment: &[(String, String)], fake_time: bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::write(directory.path().join("billfish.toml"), config).expect("a temporary file");
        let mut environment = environment.to_vec();
        let fake_time = if fake_time { FakeTime::new(directory.path()) } else { None };
        environment.extend(fake_time.iter().flat_map(FakeTime::environment));
        Self {
            kind,
            name: name.to_owned(),
            binary: binary.to_owned(),
            directory,
            environment,
            ports: BTreeMap::new(),
            process: None,
            current_pid: Arc::default(),
            fake_time,
        }
    }

    /// Starts it and reads its ports; `Err` with its log when it ends or does not come up.
    ///
    /// # Errors
    /// The end of the node's log.
    pub fn try_start(&mut self) -> Result<(), String> {
        self.launch()?;
        self.await_up()
    }

    /// Starts it and does not wait: [`await_up`](Self::await_up) does.
    ///
    /// # Errors
    /// There is no such program.
    pub fn launch(&mut self) -> Result<(), String> {
        assert!(self.process.is_none(), "{} still runs", self.name);
        fs::remove_file(self.ports_path()).ok();
        let arguments: Vec<OsString> = vec![
            self.kind.word().into(),
            "--config".into(),
            self.directory.path().join("billfish.toml").into(),
            "--ports-file".into(),
            self.ports_path().into(),
        ];
        let process = Process::start(&self.binary, &arguments, &self.environment, &self.log_path()).map_err(|error| error.to_string())?;
        self.current_pid.store(process.pid(), Ordering::Relaxed);
        self.process = Some(process);
        Ok(())
    }

    /// Waits until one that was launched has bound its ports.
    ///
    /// # Errors
    /// The end of the node's log, when it ends or does not come up.
    pub fn await_up(&mut self) -> Result<(), String> {
        let path = self.ports_path();
        let mut ports = None;
        let has_answered = eventually_within(PATIENCE, || {
            ports = fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str::<BTreeMap<String, SocketAddr>>(&text).ok());
            ports.is_some() || self.process.as_mut().is_none_or(|process| process.ended().is_some())
        });
        let Some(ports) = ports.filter(|_| has_answered) else {
            self.process = None;
            return Err(format!("{} does not start\n{}", self.name, self.log()));
        };
        self.ports = ports;
        Ok(())
    }

    fn ports_path(&self) -> PathBuf {
        self.directory.path().join("ports.json")
    }

    /// Starts it again on the same ports and files.
    pub fn start_again(&mut self) {
        if let Err(problem) = self.try_start() {
            panic!("{problem}");
        }
    }

    /// Its name in the registry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which kind it is.
    pub fn kind(&self) -> NodeKind {
        self.kind
    }

    /// One of its ports: `tcp` and `admin` of a gateway, `link`, `http` and `admin` of a router. Known since its first start.
    pub fn address(&self, port: &str) -> SocketAddr {
        *self.ports.get(port).unwrap_or_else(|| panic!("{} has no port `{port}`", self.name))
    }

    /// It was started and has not been killed since.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// It has been started and is gone by itself.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::ended)
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// The same for who follows it over its lives from another thread; 0 while it does not run.
    pub fn current_pid(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.current_pid)
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.current_pid.store(0, Ordering::Relaxed);
        self.process = None;
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        self.running().terminate();
    }

    /// Waits until it has stopped by itself; `None` when it does not in time, and it goes on then.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let status = self.process.as_mut().expect("it runs").wait(patience);
        if status.is_some() {
            self.current_pid.store(0, Ordering::Relaxed);
            self.process = None;
        }
        status
    }

    /// Halts it: its sockets stay open and nobody answers.
    pub fn stop(&self) {
        self.running().stop();
    }

    /// Lets it go on.
    pub fn cont(&self) {
        self.running().cont();
    }

    fn running(&self) -> &Process {
        self.process.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name))
    }

    /// Moves its wall clock this far from the true time, at once. Only where the cluster was started with `fake_time`.
    pub fn set_clock(&self, seconds: i64) {
        self.fake_time.as_ref().unwrap_or_else(|| panic!("{} was not started under fake time", self.name)).set(seconds);
    }

    /// `/readyz` says 200.
    pub fn ready(&self) -> bool {
        self.admin("/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// A page of the admin port; `None` when it does not answer.
    pub fn admin(&self, path: &str) -> Option<(u16, String)> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(ADMIN_WAIT)).build().into();
        let address = self.ports.get("admin")?;
        let mut response = agent.get(format!("http://{address}{path}")).call().ok()?;
        Some((response.status().as_u16(), response.body_mut().read_to_string().ok()?))
    }

    /// The value of a metric, all its series together; `labels` narrows them. `None` when the node does not answer.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let (_, text) = self.admin("/metrics")?;
        let values = text
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Some(values.sum())
    }

    /// A page of the admin port as JSON.
    pub fn admin_json(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&self.admin(path)?.1).ok()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The end of its log, over all its lives.
    pub fn log(&self) -> String {
        tail(&self.log_path())
    }

    /// All that it has written, over all its lives.
    pub fn whole_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Copies the whole log to a file, for a failed run.
    pub fn keep_log(&self, to: &Path) {
        fs::copy(self.log_path(), to).ok();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.process = None;
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.name, self.log());
        }
    }
}
