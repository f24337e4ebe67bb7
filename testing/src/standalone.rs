//! `billfish` as most people start it first: everything in one process, on free ports, with a data directory of its own.

use crate::{
    api::Api,
    patience::{PATIENCE, eventually_within},
    process::Process,
};
use serde_json::Value;
use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// A running server.
#[derive(Debug)]
pub struct Standalone {
    process: Process,
    directory: TempDir,
    ports: Value,
}

impl Standalone {
    /// Starts the `billfish` that stands beside `program`, another program of the same build, which `cargo` makes where it is missing.
    pub fn beside(program: &Path, cargo: &Path) -> Self {
        let binary = program.with_file_name("billfish");
        if !binary.exists() {
            let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
            let status = Command::new(cargo).args(["build", "--quiet", "--manifest-path", manifest, "--bin", "billfish"]).status();
            assert!(status.is_ok_and(|status| status.success()), "billfish cannot be built");
        }
        Self::start(&binary)
    }

    /// Starts it; panics with its log when it does not come up.
    pub fn start(binary: &Path) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name);
        let arguments: Vec<OsString> = vec!["--data-dir".into(), path("data").into(), "--ports-file".into(), path("ports.json").into()];
        let environment = [
            "GATEWAY__LISTEN__TCP",
            "GATEWAY__LISTEN__WS",
            "GATEWAY__LISTEN__TLS",
            "GATEWAY__LISTEN__QUIC",
            "HTTP__LISTEN",
            "ADMIN__LISTEN",
        ]
        .map(|key| (format!("BILLFISH__{key}"), "127.0.0.1:0".to_owned()));
        let mut process = Process::start(binary, &arguments, &environment, &path("log")).expect("it can be started");
        let mut ports = None;
        let has_answered = eventually_within(PATIENCE, || {
            ports = fs::read_to_string(path("ports.json")).ok().and_then(|text| serde_json::from_str(&text).ok());
            ports.is_some() || process.ended().is_some()
        });
        let Some(ports) = ports.filter(|_| has_answered) else { panic!("{} does not start\n{}", binary.display(), process.log()) };
        Self { process, directory, ports }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// One of its ports: `tcp`, `ws`, `tls`, `http`, `admin`.
    pub fn address(&self, port: &str) -> SocketAddr {
        self.ports[port].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("it has no port `{port}`"))
    }

    /// The certificate that it has made for itself.
    pub fn certificate(&self) -> PathBuf {
        self.data_dir().join("development-cert.pem")
    }

    /// The file with the addresses it bound.
    pub fn ports_file(&self) -> PathBuf {
        self.directory.path().join("ports.json")
    }

    /// Where it keeps its state, and its API key.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Calls to its HTTP API.
    pub fn api(&self) -> Api {
        let key = fs::read_to_string(self.data_dir().join("api-key")).expect("it has made a key");
        Api::new(self.address("http"), key.trim())
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        self.process.log()
    }
}
