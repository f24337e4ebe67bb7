//! A running `billfish` of one's own: temporary data directory, free ports, killed with the test.
//!
//! Nothing here sleeps and hopes: every wait polls a condition and fails at a deadline, printing the server's log.

use billfish_wire::{Body, Code, Encoding, Reassembler, frame, limits::BODY_BYTES_MAX};
use serde_json::{Value, json};
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Once,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Longest wait for anything; far above what a loaded machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Everything in one process.
pub(crate) struct House {
    directory: TempDir,
    child: Option<Child>,
    pub(crate) ports: Ports,
    pub(crate) api_key: String,
    config: String,
    environment: Vec<(String, String)>,
}

/// Where it listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) tcp: SocketAddr,
    pub(crate) ws: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) quic: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl House {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// Starts with this configuration file; the listeners are on free ports whatever it says.
    pub(crate) fn with(config: &str) -> Self {
        Self::with_env(config, &[])
    }

    /// Starts with these in its environment, where they win over what is there otherwise.
    pub(crate) fn with_env(config: &str, environment: &[(&str, &str)]) -> Self {
        let mut house = Self::built(config, environment);
        house.launch(&[]);
        house
    }

    /// Starts when `prepare` has made of its data directory, which is not there yet, what the test wants.
    pub(crate) fn prepared(config: &str, prepare: impl FnOnce(&Path)) -> Self {
        let mut house = Self::built(config, &[]);
        prepare(&house.data_dir());
        house.launch(&[]);
        house
    }

    /// Starts under a shell line that ends in `exec "$@"`, to set limits first.
    pub(crate) fn under(shell: &str, config: &str) -> Self {
        let mut house = Self::built(config, &[]);
        house.launch(&["sh", "-c", shell, "sh"]);
        house
    }

    fn built(config: &str, environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            directory,
            child: None,
            ports: Ports { tcp: any, ws: any, tls: any, quic: any, http: any, admin: any },
            api_key: String::new(),
            config: config.to_owned(),
            environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    fn launch(&mut self, wrapper: &[&str]) {
        let config_file = self.directory.path().join("billfish.toml");
        let ports_file = self.directory.path().join("ports.json");
        drop(fs::remove_file(&ports_file));
        fs::write(&config_file, &self.config).unwrap();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let mut words: Vec<String> = wrapper.iter().map(ToString::to_string).collect();
        // Where a run is about figures: another build than the tests' own.
        words.push(std::env::var("BILLFISH").unwrap_or_else(|_| env!("CARGO_BIN_EXE_billfish").to_owned()));
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg("--config")
            .arg(&config_file)
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--ports-file")
            .arg(&ports_file)
            .env("BILLFISH__GATEWAY__LISTEN__TCP", self.ports.tcp.to_string())
            .env("BILLFISH__GATEWAY__LISTEN__WS", self.ports.ws.to_string())
            .env("BILLFISH__GATEWAY__LISTEN__TLS", self.ports.tls.to_string())
            .env("BILLFISH__GATEWAY__LISTEN__QUIC", self.ports.quic.to_string())
            .env("BILLFISH__HTTP__LISTEN", self.ports.http.to_string())
            .env("BILLFISH__ADMIN__LISTEN", self.ports.admin.to_string())
            .env("RUST_LOG", "info,billfish_gateway=debug,billfish_router=debug")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // Dropped with the house, also where it does not come up.
        self.child = Some(command.spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        let ports: Value = loop {
            if let Ok(text) = fs::read_to_string(&ports_file)
                && let Ok(ports) = serde_json::from_str(&text)
            {
                break ports;
            }
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("it ended at once: {status}\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "no ports file\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        };
        let address = |name: &str| ports[name].as_str().unwrap_or_else(|| panic!("no {name} in {ports}")).parse().unwrap();
        self.ports = Ports {
            tcp: address("tcp"),
            ws: address("ws"),
            tls: address("tls"),
            quic: address("quic"),
            http: address("http"),
            admin: address("admin"),
        };
        self.api_key = fs::read_to_string(self.data_dir().join("api-key")).unwrap().trim().to_owned();
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts again on the same ports and data.
    pub(crate) fn start_again(&mut self) {
        assert!(self.child.is_none(), "it still runs");
        self.launch(&[]);
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Has it drained as an operator does, by a call of the admin port.
    pub(crate) fn drain(&self) {
        let answer = ureq::post(format!("http://{}/drain", self.ports.admin)).header("Billfish-Drain", "yes").send_empty().unwrap();
        assert_eq!(answer.status(), 202);
    }

    /// Waits until it has stopped by itself.
    pub(crate) fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.as_mut().expect("it runs").try_wait().unwrap() {
                self.child = None;
                return status;
            }
            assert!(Instant::now() < deadline, "it does not stop\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// All it has written to standard error.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// One call of the HTTP API with the API key: the status and the answer.
    pub(crate) fn api(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let url = format!("http://{}{path}", self.ports.http);
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(url)
            .header("Authorization", format!("Bearer {}", self.api_key))
            .header("Content-Type", "application/json");
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into();
        let mut response = agent.run(request.body(text).unwrap()).unwrap();
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string().unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// A page of the admin port.
    pub(crate) fn admin(&self, path: &str) -> (u16, String) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into();
        let mut response = agent.get(format!("http://{}{path}", self.ports.admin)).call().unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    /// The value of a metric, all its series together; `labels` narrows them.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, text) = self.admin("/metrics");
        text.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    pub(crate) fn token(&self, user: i64) -> String {
        let (status, answer) = self.api("POST", "/v1/im/tokens", json!({"appId": 10001, "userId": user}));
        assert_eq!(status, 200, "{answer}");
        answer["token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn open_room(&self, anchor: i64) -> i64 {
        let (status, answer) = self.api("POST", "/v1/rooms", json!({"anchorId": anchor, "type": 1, "roomName": "test"}));
        assert!((200..300).contains(&status), "{status} {answer}");
        answer["roomId"].as_i64().unwrap_or_else(|| panic!("no roomId in {answer}"))
    }

    /// A connection that has not said anything.
    pub(crate) fn connect(&self) -> Peer {
        Peer::connect(self.ports.tcp)
    }

    /// A logged-in connection.
    pub(crate) fn login(&self, user: i64) -> Peer {
        let mut peer = self.connect();
        peer.send(Code::Login, &login_body(user, self.token(user)));
        let answer = peer.expect(Code::Login);
        assert_eq!(answer.data.as_deref(), Some("true"));
        peer
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            eprintln!("--- the server's log ---\n{}", self.log());
        }
    }
}

/// LOGIN of a user of the default app.
pub(crate) fn login_body(user: i64, token: String) -> Body {
    Body { app_id: Some(10001), user_id: Some(user), token: Some(token), ..Body::default() }
}

/// A client made of nothing but a socket and frames.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    pub(crate) encoding: Encoding,
    reassembler: Reassembler,
    waiting: Vec<(Code, Body)>,
    ended: bool,
}

impl Peer {
    /// A connection that has not said anything.
    pub(crate) fn connect(gateway: SocketAddr) -> Self {
        Self::of(TcpStream::connect(gateway).unwrap())
    }

    /// One over a socket of one's own.
    pub(crate) fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(false).unwrap();
        Self { stream, encoding: Encoding::Json, reassembler: Reassembler::default(), waiting: Vec::new(), ended: false }
    }

    pub(crate) fn send(&mut self, code: Code, body: &Body) {
        let bytes = frame::encode(self.encoding, code, body);
        self.stream.write_all(&bytes).unwrap();
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next frame, whatever it is; `None` when the server has closed.
    pub(crate) fn next(&mut self) -> Option<(Code, Body)> {
        self.next_within(PATIENCE).unwrap_or_else(|| panic!("nothing heard for {PATIENCE:?}"))
    }

    /// The next frame (`Some(Some)`), the end (`Some(None)`), or nothing within the time (`None`).
    pub(crate) fn next_within(&mut self, patience: Duration) -> Option<Option<(Code, Body)>> {
        let deadline = Instant::now() + patience;
        loop {
            if !self.waiting.is_empty() {
                return Some(Some(self.waiting.remove(0)));
            }
            if self.ended {
                return Some(None);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            let mut buffer = [0; 65536];
            match self.stream.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    let mut frames = self.reassembler.feed(&buffer[..count]);
                    while let Some(frame) = frames.next(16 * BODY_BYTES_MAX).unwrap() {
                        let body = serde_json::from_slice(frame.body);
                        let body = match frame.encoding {
                            Encoding::Json => body.unwrap(),
                            Encoding::Protobuf => Body::decode(Encoding::Protobuf, frame.body).unwrap(),
                        };
                        self.waiting.push((Code::from_number(frame.code).unwrap(), body));
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => self.ended = true,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next frame with this code; others on the way are skipped.
    pub(crate) fn expect(&mut self, code: Code) -> Body {
        let deadline = Instant::now() + PATIENCE;
        let mut skipped = Vec::new();
        while Instant::now() < deadline {
            match self.next_within(deadline.saturating_duration_since(Instant::now())) {
                Some(Some((found, body))) if found == code => return body,
                Some(Some(other)) => skipped.push(other),
                Some(None) => panic!("closed while waiting for {code:?}; heard {skipped:?}"),
                None => break,
            }
        }
        panic!("no {code:?} within {PATIENCE:?}; heard {skipped:?}")
    }

    /// Reads to the end and gives all that came before it.
    pub(crate) fn until_closed(&mut self) -> Vec<(Code, Body)> {
        let mut heard = Vec::new();
        while let Some(frame) = self.next() {
            heard.push(frame);
        }
        heard
    }

    pub(crate) fn join(&mut self, room: i64) -> Body {
        self.send(Code::Join, &Body { room_id: Some(room), ..Body::default() });
        self.expect(Code::Join)
    }

    pub(crate) fn chat(&mut self, room: i64, content: &str, msg_id: &str) {
        let data = json!({"roomId": room, "content": content}).to_string();
        self.send(
            Code::Biz,
            &Body { room_id: Some(room), biz_code: Some(5555), data: Some(data), msg_id: Some(msg_id.to_owned()), ..Body::default() },
        );
    }
}

/// Polls until it holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A program of another package of this workspace, built if it is not there.
pub(crate) fn program(package: &str, kind: &str, name: &str) -> PathBuf {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
            .args(["-p", "loadgen", "-p", "billfish-client", "--bins", "--examples"])
            .status()
            .unwrap();
        assert!(status.success(), "cannot build {package}");
    });
    let target = Path::new(env!("CARGO_BIN_EXE_billfish")).parent().unwrap();
    match kind {
        "example" => target.join("examples").join(name),
        _ => target.join(name),
    }
}
