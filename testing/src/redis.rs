//! A private redis-server: its own port and directory, an append-only file that survives `kill -9`.

use crate::{
    certificates::Certificates,
    fake_time::FakeTime,
    patience::{PATIENCE, eventually_within},
    ports::{free_port, free_port_and_bus},
    process::{Process, tail},
    program, resp,
};
use std::{
    ffi::OsString,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Another test may take the port between the look and the bind.
const START_TRIES_MAX: usize = 10;

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// The loopback address it binds.
    pub host: IpAddr,
    /// Its port; `None`: any that is free.
    pub port: Option<u16>,
    /// An append-only file with a sync at every write: what was answered survives a kill.
    pub appendonly: bool,
    /// User and password that are required; the user `default` where the name is so.
    pub credentials: Option<(String, String)>,
    /// A second port that speaks TLS with this certificate.
    pub tls: Option<Certificates>,
    /// A node of a cluster that is still to be made.
    pub cluster: bool,
    /// Under libfaketime, so that [`RedisServer::set_clock`] works.
    pub fake_time: bool,
    /// More arguments of redis-server.
    pub arguments: Vec<String>,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: None,
            appendonly: true,
            credentials: None,
            tls: None,
            cluster: false,
            fake_time: false,
            arguments: Vec::new(),
        }
    }
}

/// One redis-server.
#[derive(Debug)]
pub struct RedisServer {
    /// Before the directory: it is killed before its files go.
    process: Option<Process>,
    directory: TempDir,
    program: PathBuf,
    options: RedisOptions,
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    fake_time: Option<FakeTime>,
}

impl RedisServer {
    /// Starts one and waits for its PONG. `None` where there is no redis-server.
    pub fn start() -> Option<Self> {
        Self::start_with(RedisOptions::default())
    }

    /// Starts one as told.
    pub fn start_with(options: RedisOptions) -> Option<Self> {
        let program = program::find("redis-server", "redis-server")?;
        program::find("setpriv", "util-linux")?;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let fake_time = if options.fake_time { Some(FakeTime::new(directory.path())?) } else { None };
        let mut server =
            Self { directory, program, address: SocketAddr::new(options.host, 0), tls_address: None, fake_time, options, process: None };
        for _ in 0..START_TRIES_MAX {
            server.choose_ports();
            if server.launch() {
                return Some(server);
            }
            assert!(server.options.port.is_none(), "port {:?} is taken\n{}", server.options.port, server.log());
        }
        panic!("redis-server does not start\n{}", server.log());
    }

    fn choose_ports(&mut self) {
        let host = self.options.host;
        let free = if self.options.cluster { free_port_and_bus(host) } else { free_port(host) };
        self.address.set_port(self.options.port.unwrap_or(free));
        self.tls_address = self.options.tls.as_ref().map(|_| SocketAddr::new(host, free_port(host)));
    }

    /// Says whether it came up; `false` when it ended at once, as it does when its port is taken.
    fn launch(&mut self) -> bool {
        let environment: Vec<_> = self.fake_time.iter().flat_map(FakeTime::environment).collect();
        let mut process =
            Process::start(&self.program, &self.arguments(), &environment, &self.log_path()).expect("redis-server can be started");
        let mut is_up = false;
        let came = eventually_within(PATIENCE, || {
            // The child may fail to bind while another server answers on the port: its end is looked at first.
            if process.ended().is_some() {
                return true;
            }
            let is_ours = self.command(&["INFO", "server"]).is_ok_and(|info| info.contains(&format!("process_id:{}", process.pid())));
            // While it reads its file it answers INFO, and nothing else.
            is_up = is_ours && self.command(&["PING"]).is_ok();
            is_up
        });
        assert!(came, "redis-server does not answer\n{}", self.log());
        if is_up {
            self.process = Some(process);
        }
        is_up
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        // Each word of a value is an argument of its own.
        let mut put = |name: &str, value: &str| {
            words.push(format!("--{name}").into());
            words.extend(value.split(' ').map(OsString::from));
        };
        put("bind", &self.options.host.to_string());
        // What it sends to the other nodes of a cluster comes from the address it is known by.
        put("bind-source-addr", &self.options.host.to_string());
        put("port", &self.address.port().to_string());
        put("dir", &self.directory.path().to_string_lossy());
        put("save", "");
        put("daemonize", "no");
        if self.options.appendonly {
            put("appendonly", "yes");
            put("appendfsync", "always");
        }
        if self.options.cluster {
            put("cluster-enabled", "yes");
            // Replicas come from addresses of their own, which are loopback too and which Redis takes for strangers.
            put("protected-mode", "no");
            put("cluster-node-timeout", "1000");
            // On a busy machine an election may fail for longer than twenty seconds, after which a replica would give up for good.
            put("cluster-replica-validity-factor", "0");
        }
        if let Some((user, password)) = &self.options.credentials {
            if user == "default" {
                put("requirepass", password);
            } else {
                put("user", &format!("{user} on >{password} ~* &* +@all"));
                put("user", "default off");
            }
        }
        if let (Some(certificates), Some(address)) = (&self.options.tls, self.tls_address) {
            put("tls-port", &address.port().to_string());
            put("tls-cert-file", &certificates.certificate().to_string_lossy());
            put("tls-key-file", &certificates.key().to_string_lossy());
            put("tls-ca-cert-file", &certificates.authority().to_string_lossy());
            put("tls-auth-clients", "no");
        }
        words.extend(self.options.arguments.iter().map(OsString::from));
        words
    }

    /// Where it listens, without encryption.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it speaks TLS, if it was told to.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// It was started and not killed since.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// One command on a connection of its own. Lists come back as one line an element.
    ///
    /// # Errors
    /// When it is away, does not answer within a second, or answers with an error.
    pub fn command(&self, words: &[&str]) -> io::Result<String> {
        let credentials = self.options.credentials.as_ref().map(|(user, password)| (user.as_str(), password.as_str()));
        resp::command(self.address, credentials, words)
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on the same port and files.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "it still runs");
        assert!(self.launch(), "redis-server does not start again\n{}", self.log());
    }

    /// Halts it: connections stay open and nothing is answered.
    pub fn stop(&self) {
        self.process.as_ref().expect("it runs").stop();
    }

    /// Lets it go on.
    pub fn cont(&self) {
        self.process.as_ref().expect("it runs").cont();
    }

    /// Moves its wall clock this far from the true time, at once. Only where it was started with `fake_time`.
    pub fn set_clock(&self, seconds: i64) {
        self.fake_time.as_ref().expect("it was started under fake time").set(seconds);
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        tail(&self.log_path())
    }
}

#[cfg(test)]
mod tests {
    use super::{RedisOptions, RedisServer};
    use crate::Certificates;

    #[test]
    fn what_was_answered_survives_a_kill() {
        let Some(mut server) = RedisServer::start() else { return };
        assert_eq!(server.command(&["SET", "key", "value"]).unwrap(), "OK");
        let address = server.address();
        server.kill();
        assert!(server.command(&["PING"]).is_err());
        server.start_again();
        assert_eq!(server.address(), address);
        assert_eq!(server.command(&["GET", "key"]).unwrap(), "value");
    }

    #[test]
    fn a_stopped_server_does_not_answer_and_goes_on_later() {
        let Some(server) = RedisServer::start() else { return };
        server.stop();
        assert!(server.command(&["PING"]).is_err());
        server.cont();
        assert_eq!(server.command(&["PING"]).unwrap(), "PONG");
    }

    #[test]
    fn its_wall_clock_can_be_moved() {
        let options = RedisOptions { fake_time: true, ..RedisOptions::default() };
        let Some(server) = RedisServer::start_with(options) else { return };
        let seconds = || server.command(&["TIME"]).unwrap().lines().next().unwrap().parse::<i64>().unwrap();
        let before = seconds();
        server.set_clock(3_600);
        assert!(seconds() >= before + 3_600);
        server.set_clock(-3_600);
        assert!(seconds() < before);
    }

    #[test]
    fn users_passwords_and_tls_are_as_told() {
        let credentials = Some(("billfish".to_owned(), "secret".to_owned()));
        let options = RedisOptions { credentials, tls: Some(Certificates::new()), ..RedisOptions::default() };
        let Some(server) = RedisServer::start_with(options) else { return };
        assert_eq!(server.command(&["ACL", "WHOAMI"]).unwrap(), "billfish");
        assert!(crate::resp::command(server.address(), None, &["PING"]).is_err());
        assert!(std::net::TcpStream::connect(server.tls_address().expect("a TLS port")).is_ok());
    }
}
