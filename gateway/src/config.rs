//! What may be set about a gateway, each key with its default and its reason.
//!
//! - Read once and passed down by value; nothing reads it again while the gateway runs.
//! - [`GatewayConfig::validate`] names the key that is wrong. What passes it can be run with.

use crate::{
    admission::Network,
    shard::{ShardConfig, WebSocketRules, message::Listener},
    transport::{HEADER_BYTES_LONGEST, HEADER_BYTES_MAX, HEADER_BYTES_MIN},
};
use billfish_link::tcp::TEXT_BYTES_MAX;
use billfish_session::server::ServerConfig;
use billfish_wire::{HEADER_BYTES, limits};
use serde::{Deserialize, Serialize};
use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Name among the gateways: letters, digits, `-`, `_` and `.`, at most 32 of them; part of routes and session ids.
    pub node: String,
    /// Shard threads; 0: one per core.
    pub shards: usize,
    /// Where clients connect.
    pub listen: ListenConfig,
    /// Who it says it is, where clients connect by TLS or QUIC.
    pub tls: TlsConfig,
    /// What is asked of WebSockets.
    pub websocket: WebSocketConfig,
    /// How many may be on their way in by QUIC.
    pub quic: QuicConfig,
    /// Times and bounds of one session.
    pub session: SessionConfig,
    /// Who may connect and log in, and how often.
    pub admission: AdmissionConfig,
    /// Relays that say for whom they connect.
    pub proxy: ProxyConfig,
    /// What happens when files run out.
    pub files: FilesConfig,
    /// What happens when memory does.
    pub memory: MemoryConfig,
    /// What waits for slow readers.
    pub backlog: BacklogConfig,
    /// How the gateway goes down.
    pub drain: DrainConfig,
    /// The routers.
    pub link: LinkConfig,
    /// The operator's port, where the gateway has one of its own.
    pub admin: AdminConfig,
}

/// Where clients connect; all on loopback until an operator opens them. Port 0: any that is free. `"off"`: not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenConfig {
    /// Plain TCP: nothing is encrypted here.
    pub tcp: SocketAddr,
    /// WebSocket without TLS.
    #[serde(with = "or_off")]
    pub ws: Option<SocketAddr>,
    /// TLS, and in it bare frames or a WebSocket, as the client speaks. Not opened without a certificate.
    #[serde(with = "or_off")]
    pub tls: Option<SocketAddr>,
    /// QUIC, on UDP. Not opened without a certificate.
    #[serde(with = "or_off")]
    pub quic: Option<SocketAddr>,
    /// What clients are told.
    pub advertise: AdvertiseConfig,
}

/// `host:port` that clients are told, by transport; empty: the address that was bound. Required where that names no host (0.0.0.0).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdvertiseConfig {
    /// Of `listen.tcp`.
    pub tcp: String,
    /// Of `listen.ws`.
    pub ws: String,
    /// Of `listen.tls`; the host is a name of the certificate.
    pub tls: String,
    /// Of `listen.quic`; the same.
    pub quic: String,
}

/// Who the gateway says it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Chosen by the name that a client asks for; the first where it asks for none of theirs. Files that are written anew are read anew.
    pub certificates: Vec<CertificateConfig>,
    /// Handshakes begun in a second, by TLS and QUIC together; who comes beyond it waits. 0: as many as come.
    pub handshakes_per_s: u32,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// PEM: the certificate and what leads to a root, in this order.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// What is asked of WebSockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebSocketConfig {
    /// Origins that pages may connect from, as `https://live.example`, none of them a pattern; empty: any. Clients that are no pages name none, and may connect.
    pub origins: Vec<String>,
    /// Longest head of a request, 1 to 32 KiB: browsers send the site's cookies in it, of which each may have 4 KiB.
    pub head_bytes_max: usize,
    /// Most fragments of one message, at most 4,096: each costs its sender 6 bytes.
    pub fragments_max: usize,
}

/// How many may be on their way in by QUIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuicConfig {
    /// Handshakes under way from addresses that are not proven. Whoever comes beyond it proves his address first, which costs him a round trip
    /// and us nothing that stays. 0: everyone does. At most `handshakes_max`.
    pub retry_above: u32,
    /// Handshakes under way in all; beyond it nobody is let in.
    pub handshakes_max: u32,
}

/// Times and bounds of one session; see [`ServerConfig`] for what each of them does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionConfig {
    /// From accept to a valid LOGIN, in total.
    #[serde(with = "humantime_serde")]
    pub login_timeout: Duration,
    /// The gap between heartbeats that LOGIN's answer asks for; whole seconds.
    #[serde(with = "humantime_serde")]
    pub heartbeat_gap: Duration,
    /// Silent gaps after which the session is over. Routers learn it from the registry, and go by the longest silence of any gateway.
    pub silent_gaps: u32,
    /// From the first byte of a frame to its last.
    #[serde(with = "humantime_serde")]
    pub frame_timeout: Duration,
    /// Longest body before login.
    pub login_body_bytes_max: usize,
    /// Longest body after it; at most what the link to a router carries, [`TEXT_BYTES_MAX`].
    pub body_bytes_max: usize,
    /// Waits before each resend of an unacknowledged QoS-1 push.
    #[serde(with = "durations")]
    pub resend_after: Vec<Duration>,
    /// An ACK later than this is recorded in the shared state.
    #[serde(with = "humantime_serde")]
    pub late_ack: Duration,
    /// QoS-1 pushes that may wait for their ACK.
    pub pending_max: usize,
    /// Calls of one session under way to routers.
    pub upstream_max: usize,
    /// Rooms one session may be in.
    pub rooms_max: usize,
    /// Frames a second from a client.
    pub frames_per_s: u32,
    /// How many of them at once.
    pub frames_burst: u32,
    /// Bytes a second from a client.
    pub bytes_per_s: u32,
    /// How many of them at once; at least one frame with the longest body.
    pub bytes_burst: u32,
    /// Frames refused for rate in a row after which the connection is closed.
    pub refused_in_a_row_max: u32,
}

/// Who may connect and log in, and how often. "Address" is one IPv4 address or one IPv6 /64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdmissionConfig {
    /// Connections in all; 0: 90 % of the files this process may open, so that links and records keep some.
    pub connections_max: u32,
    /// How many of these, in percent, may be without login: strangers never crowd out sessions.
    pub unlogged_percent_max: u32,
    /// New connections a second from one address.
    pub new_per_s: u32,
    /// Connections of one address that have not logged in; fewer where that is more than an eighth of the places for strangers that are
    /// still free, and always one.
    pub half_open_max: u32,
    /// Connections of one address; carriers put thousands of phones behind one, so raise it where that is the audience.
    pub live_max: u32,
    /// Logins a minute from one address.
    pub logins_per_minute: u32,
    /// Bad tokens after which an address must wait `bad_token_ban`.
    pub bad_tokens_max: u32,
    /// How long that is, and also the time in which bad tokens add up.
    #[serde(with = "humantime_serde")]
    pub bad_token_ban: Duration,
    /// Logins a minute of one user, on all gateways together.
    pub user_logins_per_minute: u32,
    /// Networks whose addresses are not limited one by one, nor counted among the strangers: a proxy or a load generator carries many
    /// users behind one address. `connections_max` and `listener_max` hold for them too.
    pub exempt: Vec<Network>,
    /// Addresses that are remembered at once, 256 to 1,048,576; each takes 128 bytes. In a full table an unknown one gets the place of one that
    /// has no connection.
    pub addresses_max: u32,
    /// Connections by each listener, so that a crowd by one transport leaves places for the others.
    pub listener_max: ListenerMaxConfig,
}

/// Connections by listener; 0: as many as `connections_max`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerMaxConfig {
    /// By `listen.tcp`.
    pub tcp: u32,
    /// By `listen.ws`.
    pub ws: u32,
    /// By `listen.tls`, with a WebSocket in it or without.
    pub tls: u32,
    /// By `listen.quic`.
    pub quic: u32,
}

/// Relays that say for whom they connect: balancers that pass TCP on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyConfig {
    /// Networks of the relays alone. Each connection from there begins with a PROXY header of version 2, before TLS and HTTP, and the address
    /// in it is the one that limits and bans go by; without a header it is closed. From anywhere else a header is garbage.
    pub trusted: Vec<Network>,
    /// Longest header, 52 bytes to the 65,551 that one can have: relays may add names and certificates to the address.
    pub header_bytes_max: usize,
}

/// What happens when files run out, in percent of those the process may open (`ulimit -n`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilesConfig {
    /// From here on connections are refused, and told to go elsewhere.
    pub refuse_percent: u32,
    /// From here on none is accepted: they wait in the kernel's queue.
    pub stop_percent: u32,
}

/// What happens when memory runs out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Resident memory that the process may have, in bytes, at least 64 MiB; 0: the limit of its control group, and where that has none, any.
    pub budget_bytes: u64,
    /// From this share of it on, in percent, chat and likes are not passed on.
    pub shed_percent: u32,
    /// From this share of it on nobody is let in.
    pub refuse_percent: u32,
}

/// What waits for slow readers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BacklogConfig {
    /// Frames that may wait for one connection.
    pub frames_max: usize,
    /// Bytes that may wait for one connection; at least one frame with the longest body.
    pub bytes_max: usize,
    /// From this share of either on chat and likes make way.
    pub soft_percent: usize,
    /// Nothing could be written for so long: the connection ends.
    #[serde(with = "humantime_serde")]
    pub write_stall: Duration,
}

/// How the gateway goes down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrainConfig {
    /// Clients are told to leave within this, and the fewer there are, the sooner; at most `grace`.
    #[serde(with = "humantime_serde")]
    pub spread_max: Duration,
    /// Sessions closed a second, so that they do not come back elsewhere as one storm.
    pub close_per_s: u32,
    /// The whole drain; what is left then is closed at once.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// Where clients are sent, `host:port` each; empty: to the other gateways that are registered.
    pub addresses: Vec<String>,
}

/// The routers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkConfig {
    /// `host:port` of each router's link port; empty: those of the registry, or the one in the same process.
    pub routers: Vec<String>,
    /// Whether a gateway that is told of no router looks for them in the registry.
    pub discover: bool,
    /// What proves us to them.
    pub secret: String,
}

/// The operator's port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Where it listens; unset: not at all. Without authentication of its own, so on loopback or a private network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

/// A key that cannot be run with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} {problem}")]
pub struct ConfigError {
    /// Path of the key, below the gateway's section.
    pub key: &'static str,
    /// What is wrong with it, as the rest of a sentence.
    pub problem: String,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            node: "gateway-1".to_owned(),
            shards: 0,
            listen: ListenConfig::default(),
            tls: TlsConfig::default(),
            websocket: WebSocketConfig::default(),
            quic: QuicConfig::default(),
            session: SessionConfig::default(),
            admission: AdmissionConfig::default(),
            proxy: ProxyConfig::default(),
            files: FilesConfig::default(),
            memory: MemoryConfig::default(),
            backlog: BacklogConfig::default(),
            drain: DrainConfig::default(),
            link: LinkConfig::default(),
            admin: AdminConfig::default(),
        }
    }
}

impl Default for ListenConfig {
    fn default() -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            tcp: local(8085),
            ws: Some(local(8086)),
            tls: Some(local(8443)),
            quic: Some(local(8087)),
            advertise: AdvertiseConfig::default(),
        }
    }
}

impl Default for TlsConfig {
    /// 4,000 handshakes are a third of a core.
    fn default() -> Self {
        Self { certificates: Vec::new(), handshakes_per_s: 4_000 }
    }
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        let WebSocketRules { origins, head_bytes_max, fragments_max } = WebSocketRules::default();
        Self { origins, head_bytes_max, fragments_max }
    }
}

impl WebSocketConfig {
    /// As the shards take it.
    pub(crate) fn rules(&self) -> WebSocketRules {
        let Self { origins, head_bytes_max, fragments_max } = self.clone();
        WebSocketRules { origins, head_bytes_max, fragments_max }
    }
}

impl ListenerMaxConfig {
    /// Of one of them, where `connections_max` is that of all.
    pub(crate) fn of(&self, listener: Listener, connections_max: u32) -> u32 {
        let own = match listener {
            Listener::Tcp => self.tcp,
            Listener::Ws => self.ws,
            Listener::Tls => self.tls,
            Listener::Quic => self.quic,
        };
        if own == 0 { connections_max } else { own }
    }
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self { trusted: Vec::new(), header_bytes_max: HEADER_BYTES_MAX }
    }
}

impl Default for QuicConfig {
    /// 512 are what a second of ordinary arrivals has under way at a round trip of 200 ms; 8,192 hold some 250 MiB at the worst, for 5 s.
    fn default() -> Self {
        Self { retry_above: 512, handshakes_max: 8_192 }
    }
}

impl ListenConfig {
    /// What is listened on, with its key, what it is called among the nodes, and what clients are told.
    pub(crate) fn ports(&self) -> [(&'static str, Option<SocketAddr>, &str); 4] {
        let Self { tcp, ws, tls, quic, advertise } = self;
        [("tcp", Some(*tcp), &advertise.tcp), ("ws", *ws, &advertise.ws), ("tls", *tls, &advertise.tls), ("quic", *quic, &advertise.quic)]
    }
}

impl Default for SessionConfig {
    fn default() -> Self {
        let server = ServerConfig::default();
        Self {
            login_timeout: Duration::from_millis(server.login_timeout_ms),
            heartbeat_gap: Duration::from_millis(server.heartbeat_gap_ms),
            silent_gaps: server.silent_gaps,
            frame_timeout: Duration::from_millis(server.frame_timeout_ms),
            login_body_bytes_max: server.login_body_bytes_max,
            body_bytes_max: server.body_bytes_max,
            resend_after: server.resend_after_ms.iter().copied().map(Duration::from_millis).collect(),
            late_ack: Duration::from_millis(server.late_ack_ms),
            pending_max: server.pending_max,
            upstream_max: server.upstream_max,
            rooms_max: server.rooms_max,
            frames_per_s: server.frames_per_s,
            frames_burst: server.frames_burst,
            bytes_per_s: server.bytes_per_s,
            bytes_burst: server.bytes_burst,
            refused_in_a_row_max: server.refused_in_a_row_max,
        }
    }
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            connections_max: 0,
            listener_max: ListenerMaxConfig::default(),
            unlogged_percent_max: 10,
            new_per_s: 50,
            half_open_max: 200,
            live_max: 2_000,
            logins_per_minute: 60,
            bad_tokens_max: 10,
            bad_token_ban: Duration::from_secs(600),
            user_logins_per_minute: 5,
            exempt: vec![Network::new([127, 0, 0, 0].into(), 8), Network::new(Ipv6Addr::LOCALHOST.into(), 128)],
            addresses_max: 65_536,
        }
    }
}

impl Default for FilesConfig {
    /// Connections alone may have 90 % (`connections_max`); this is about all files of the process, so that as many connections as there may
    /// be, links, records and the store beside them do not reach it.
    fn default() -> Self {
        Self { refuse_percent: 92, stop_percent: 95 }
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { budget_bytes: 0, shed_percent: 85, refuse_percent: 95 }
    }
}

impl Default for BacklogConfig {
    fn default() -> Self {
        let shard = ShardConfig::default();
        Self {
            frames_max: shard.backlog_frames_max,
            bytes_max: shard.backlog_bytes_max,
            soft_percent: shard.backlog_soft_percent,
            write_stall: shard.write_stall,
        }
    }
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self { spread_max: Duration::from_secs(30), close_per_s: 500, grace: Duration::from_secs(60), addresses: Vec::new() }
    }
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self { routers: Vec::new(), discover: true, secret: String::new() }
    }
}

/// Never the secret.
impl std::fmt::Debug for LinkConfig {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LinkConfig").field("routers", &self.routers).field("discover", &self.discover).finish_non_exhaustive()
    }
}

impl SessionConfig {
    /// The longest frame that a client may send.
    fn frame_bytes_max(&self) -> usize {
        self.body_bytes_max.saturating_add(HEADER_BYTES)
    }

    /// Who is silent for so long is gone.
    pub(crate) fn silence(&self) -> Duration {
        self.heartbeat_gap.saturating_mul(self.silent_gaps)
    }
}

impl GatewayConfig {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// The first key that cannot be run with.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let node = self.node.as_bytes();
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        ensure("node", (1..=NODE_BYTES_MAX).contains(&node.len()), || format!("must have 1 to {NODE_BYTES_MAX} characters"))?;
        ensure("node", node.iter().all(legal), || "may have letters, digits, '-', '_' and '.' alone".to_owned())?;
        ensure("shards", self.shards <= SHARDS_MAX, || format!("is more than {SHARDS_MAX}"))?;
        self.validate_listen()?;
        self.validate_session()?;
        self.validate_admission()?;
        self.validate_marks()?;
        positive("backlog.frames_max", self.backlog.frames_max)?;
        let frame_bytes = self.session.frame_bytes_max();
        ensure("backlog.bytes_max", self.backlog.bytes_max >= frame_bytes, || shorter_than_a_frame(frame_bytes))?;
        ensure("backlog.soft_percent", (1..=100).contains(&self.backlog.soft_percent), || "must be from 1 to 100".to_owned())?;
        ensure("backlog.write_stall", self.backlog.write_stall >= SHORTEST, shortest)?;
        positive("drain.close_per_s", self.drain.close_per_s)?;
        ensure("drain.grace", self.drain.grace >= SHORTEST, shortest)?;
        ensure("drain.spread_max", self.drain.spread_max <= self.drain.grace, || {
            "is longer than gateway.drain.grace: the last are closed before they are told to leave".to_owned()
        })?;
        let addresses = &self.drain.addresses;
        ensure("drain.addresses", addresses.len() <= limits::ADDRESSES_MAX, || format!("has more than {} entries", limits::ADDRESSES_MAX))?;
        none_that("drain.addresses", addresses, |address| !has_port(address), "that is not host:port")?;
        none_that("link.routers", &self.link.routers, |router| !has_port(router), "that is not host:port")
    }

    fn validate_listen(&self) -> Result<(), ConfigError> {
        const KEYS: [&str; 4] = ["listen.advertise.tcp", "listen.advertise.ws", "listen.advertise.tls", "listen.advertise.quic"];
        for (key, (transport, address, advertise)) in KEYS.into_iter().zip(self.listen.ports()) {
            ensure(key, advertise.is_empty() || has_port(advertise), || format!("is not host:port: {advertise}"))?;
            // Without a certificate it is not opened, and nobody is told of it.
            let is_open = !matches!(transport, "tls" | "quic") || !self.tls.certificates.is_empty();
            let is_nowhere = address.is_some_and(|address| address.ip().is_unspecified());
            ensure(key, !is_open || !advertise.is_empty() || !is_nowhere, || {
                format!("is required where gateway.listen.{transport} is 0.0.0.0 or [::]: clients are told it, and cannot connect to that")
            })?;
        }
        // QUIC is on UDP, and may have the number of one of the others.
        let streams = [("listen.tcp", Some(self.listen.tcp)), ("listen.ws", self.listen.ws), ("listen.tls", self.listen.tls)];
        for (at, (key, address)) in streams.into_iter().enumerate() {
            let Some(address) = address.filter(|address| address.port() != 0) else { continue };
            if let Some((before, _)) = streams[..at].iter().find(|(_, before)| *before == Some(address)) {
                let problem = format!("is {address}, as gateway.{before} is: each listens at an address of its own");
                return Err(ConfigError { key, problem });
            }
        }
        positive("quic.handshakes_max", self.quic.handshakes_max)?;
        ensure("quic.retry_above", self.quic.retry_above <= self.quic.handshakes_max, || {
            "is more than gateway.quic.handshakes_max: beyond that all are refused, and nobody would ever prove an address".to_owned()
        })?;
        let origins = &self.websocket.origins;
        ensure("websocket.origins", origins.len() <= ORIGINS_MAX, || format!("has more than {ORIGINS_MAX} entries"))?;
        let patterns = "with a `*`, and none is a pattern: name each origin as https://live.example, or none of them to let in any";
        none_that("websocket.origins", origins, |origin| origin.contains('*'), patterns)?;
        none_that("websocket.origins", origins, |origin| !is_origin(origin), "that is not scheme://host[:port]")?;
        within("websocket.head_bytes_max", self.websocket.head_bytes_max, HEAD_BYTES)?;
        within("websocket.fragments_max", self.websocket.fragments_max, 1..=FRAGMENTS_MAX)?;
        let certificates = self.tls.certificates.len();
        ensure("tls.certificates", certificates <= CERTIFICATES_MAX, || format!("has more than {CERTIFICATES_MAX} entries"))
    }

    fn validate_session(&self) -> Result<(), ConfigError> {
        let session = &self.session;
        ensure("session.login_timeout", session.login_timeout >= SHORTEST, shortest)?;
        let gap = session.heartbeat_gap;
        ensure("session.heartbeat_gap", gap.as_secs() > 0 && gap.subsec_nanos() == 0, || {
            "must be whole seconds, at least one: that is how clients are told".to_owned()
        })?;
        ensure("session.heartbeat_gap", gap <= GAP_MAX, || "is longer than an hour: nobody would be missed".to_owned())?;
        positive("session.silent_gaps", session.silent_gaps)?;
        ensure("session.silent_gaps", session.silence() <= SILENCE_MAX, || {
            format!("times gateway.session.heartbeat_gap is longer than {SILENCE_MAX:?}: the shared state forgets who was here")
        })?;
        ensure("session.frame_timeout", session.frame_timeout >= SHORTEST, shortest)?;
        positive("session.login_body_bytes_max", session.login_body_bytes_max)?;
        ensure("session.body_bytes_max", session.body_bytes_max >= session.login_body_bytes_max, || {
            "is less than gateway.session.login_body_bytes_max".to_owned()
        })?;
        ensure("session.body_bytes_max", session.body_bytes_max <= TEXT_BYTES_MAX, || {
            format!("is more than {TEXT_BYTES_MAX}, what the link to a router carries")
        })?;
        ensure("session.resend_after", session.resend_after.len() <= RESENDS_MAX, || format!("has more than {RESENDS_MAX} entries"))?;
        ensure("session.resend_after", session.resend_after.iter().all(|wait| *wait >= SHORTEST), shortest)?;
        positive("session.pending_max", session.pending_max)?;
        positive("session.upstream_max", session.upstream_max)?;
        positive("session.rooms_max", session.rooms_max)?;
        ensure("session.rooms_max", session.rooms_max <= limits::RESUME_ROOMS_MAX, || {
            format!("is more than {}, what one LOGIN can resume", limits::RESUME_ROOMS_MAX)
        })?;
        positive("session.frames_per_s", session.frames_per_s)?;
        positive("session.frames_burst", session.frames_burst)?;
        positive("session.bytes_per_s", session.bytes_per_s)?;
        let (burst, frame_bytes) = (usize::try_from(session.bytes_burst).unwrap_or(usize::MAX), session.frame_bytes_max());
        ensure("session.bytes_burst", burst >= frame_bytes, || shorter_than_a_frame(frame_bytes))?;
        positive("session.refused_in_a_row_max", session.refused_in_a_row_max)
    }

    fn validate_admission(&self) -> Result<(), ConfigError> {
        let admission = &self.admission;
        let percent = admission.unlogged_percent_max;
        ensure("admission.unlogged_percent_max", (1..=100).contains(&percent), || "must be from 1 to 100".to_owned())?;
        positive("admission.new_per_s", admission.new_per_s)?;
        positive("admission.half_open_max", admission.half_open_max)?;
        positive("admission.live_max", admission.live_max)?;
        positive("admission.logins_per_minute", admission.logins_per_minute)?;
        positive("admission.bad_tokens_max", admission.bad_tokens_max)?;
        ensure("admission.bad_token_ban", admission.bad_token_ban >= SHORTEST, shortest)?;
        positive("admission.user_logins_per_minute", admission.user_logins_per_minute)?;
        within("admission.addresses_max", admission.addresses_max, ADDRESSES)
    }

    fn validate_marks(&self) -> Result<(), ConfigError> {
        let Self { files, memory, .. } = self;
        let marks = [
            ("files.refuse_percent", files.refuse_percent),
            ("files.stop_percent", files.stop_percent),
            ("memory.shed_percent", memory.shed_percent),
            ("memory.refuse_percent", memory.refuse_percent),
        ];
        for (key, percent) in marks {
            ensure(key, (1..=100).contains(&percent), || "must be from 1 to 100".to_owned())?;
        }
        ensure("files.stop_percent", files.stop_percent >= files.refuse_percent, || {
            "is less than gateway.files.refuse_percent".to_owned()
        })?;
        ensure("memory.refuse_percent", memory.refuse_percent >= memory.shed_percent, || {
            "is less than gateway.memory.shed_percent".to_owned()
        })?;
        let budget_bytes = memory.budget_bytes;
        ensure("memory.budget_bytes", budget_bytes == 0 || budget_bytes >= BUDGET_BYTES_MIN, || {
            format!(
                "is less than {BUDGET_BYTES_MIN} (64 MiB), what a gateway needs before anyone comes; 0 is the limit of the control group"
            )
        })?;
        let relays = &self.proxy.trusted;
        ensure("proxy.trusted", relays.len() <= RELAYS_MAX, || format!("has more than {RELAYS_MAX} entries"))?;
        within("proxy.header_bytes_max", self.proxy.header_bytes_max, HEADER_BYTES_MIN..=HEADER_BYTES_LONGEST)?;
        let everyone = "that is every address: whoever connects could say that he is somebody else. Name the relays alone";
        none_that("proxy.trusted", relays, |relay| is_everyone(**relay), everyone)
    }

    /// The sessions' part, as the machines take it.
    pub(crate) fn server(&self) -> ServerConfig {
        let session = &self.session;
        ServerConfig {
            login_timeout_ms: millis(session.login_timeout),
            heartbeat_gap_ms: millis(session.heartbeat_gap),
            silent_gaps: session.silent_gaps,
            frame_timeout_ms: millis(session.frame_timeout),
            login_body_bytes_max: session.login_body_bytes_max,
            body_bytes_max: session.body_bytes_max,
            resend_after_ms: session.resend_after.iter().copied().map(millis).collect(),
            late_ack_ms: millis(session.late_ack),
            pending_max: session.pending_max,
            upstream_max: session.upstream_max,
            rooms_max: session.rooms_max,
            frames_per_s: session.frames_per_s,
            frames_burst: session.frames_burst,
            bytes_per_s: session.bytes_per_s,
            bytes_burst: session.bytes_burst,
            refused_in_a_row_max: session.refused_in_a_row_max,
        }
    }

    /// The shards' part.
    pub(crate) fn shard(&self) -> ShardConfig {
        ShardConfig {
            backlog_frames_max: self.backlog.frames_max,
            backlog_bytes_max: self.backlog.bytes_max,
            backlog_soft_percent: self.backlog.soft_percent,
            write_stall: self.backlog.write_stall,
            proxy_header_bytes_max: self.proxy.header_bytes_max,
            ..ShardConfig::default()
        }
    }

    /// How many shards that makes on this machine.
    pub(crate) fn shard_count(&self) -> usize {
        match self.shards {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(SHARDS_MAX),
            count => count,
        }
    }
}

/// Smallest budget of memory: a gateway without clients has a part of it, and the marks are shares of it.
const BUDGET_BYTES_MIN: u64 = 64 << 20;
/// Networks are compared one by one at each accept.
const RELAYS_MAX: usize = 64;
/// A head is read from its start again with each of its lines, and is held for a stranger. Less than a browser's own headers lets nobody in.
const HEAD_BYTES: RangeInclusive<usize> = 1_024..=32 * 1_024;
/// A message of the longest body in pieces of 256 bytes.
const FRAGMENTS_MAX: usize = 4_096;
/// 32 KiB to 128 MiB.
const ADDRESSES: RangeInclusive<u32> = 256..=1_048_576;
/// Origins are compared one by one at each handshake.
const ORIGINS_MAX: usize = 64;
/// More names than this belong behind something that ends TLS for them.
const CERTIFICATES_MAX: usize = 64;
/// Longest name of a node: it is part of `sessionId`, which has 64 bytes.
const NODE_BYTES_MAX: usize = 32;
/// More shards than any machine has cores; a shard is a `u16` in keys.
const SHARDS_MAX: usize = 256;
/// Longest heartbeat gap.
const GAP_MAX: Duration = Duration::from_secs(3600);
/// Longest silence: signs of life are kept for seven minutes more in Redis. Routers believe no gateway that says more.
const SILENCE_MAX: Duration = Duration::from_secs(2 * 3600);
/// More resends than this are a wish for the inbox.
const RESENDS_MAX: usize = 8;
/// The sessions' clock ticks in this order of magnitude.
const SHORTEST: Duration = Duration::from_millis(100);

fn ensure(key: &'static str, holds: bool, problem: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError { key, problem: problem() }) }
}

fn positive<N: Default + PartialOrd>(key: &'static str, value: N) -> Result<(), ConfigError> {
    ensure(key, value > N::default(), || "must be at least 1".to_owned())
}

fn within<N: PartialOrd + Display>(key: &'static str, value: N, range: RangeInclusive<N>) -> Result<(), ConfigError> {
    ensure(key, range.contains(&value), || format!("is {value}, and must be from {} to {}", range.start(), range.end()))
}

/// Names the first entry that is wrong as it was written.
fn none_that<E: Display>(key: &'static str, entries: &[E], is_wrong: impl Fn(&&E) -> bool, what: &str) -> Result<(), ConfigError> {
    match entries.iter().find(is_wrong) {
        Some(entry) => Err(ConfigError { key, problem: format!("has the entry {entry}, {what}") }),
        None => Ok(()),
    }
}

fn shorter_than_a_frame(frame_bytes: usize) -> String {
    format!("is less than {frame_bytes}, one frame with a body of gateway.session.body_bytes_max: it could never pass")
}

/// Whether a network is all of IPv4 or all of IPv6.
fn is_everyone(network: Network) -> bool {
    let ends: [[IpAddr; 2]; 2] =
        [[Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into()], [Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from(u128::MAX).into()]];
    ends.into_iter().any(|ends| ends.into_iter().all(|end| network.contains(end)))
}

fn shortest() -> String {
    format!("is shorter than {SHORTEST:?}")
}

fn has_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn is_origin(origin: &str) -> bool {
    let Some((scheme, host)) = origin.split_once("://") else { return false };
    !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '?', '#', ' '])
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An address, or "off".
mod or_off {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::net::SocketAddr;

    pub(super) fn serialize<S: Serializer>(address: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str("off"),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "off" => Ok(None),
            address => address.parse().map(Some).map_err(|_| D::Error::custom(format!("{address:?} is neither address:port nor \"off\""))),
        }
    }
}

/// A list of durations in words.
mod durations {
    use humantime_serde::Serde;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(durations: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        durations.iter().map(Serde::from).collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        Ok(Vec::<Serde<Duration>>::deserialize(deserializer)?.into_iter().map(Serde::into_inner).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{AdmissionConfig, CertificateConfig, GatewayConfig};
    use billfish_session::server::ServerConfig;
    use std::time::Duration;

    #[test]
    fn the_defaults_are_legal_and_those_of_the_session() {
        let config = GatewayConfig::default();
        config.validate().unwrap();
        assert_eq!(format!("{:?}", config.server()), format!("{:?}", ServerConfig::default()));
    }

    #[test]
    fn a_config_survives_being_written_and_read() {
        let config = GatewayConfig::default();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<GatewayConfig>(&text).unwrap(), config);
        assert!(text.contains(r#""resend_after":["4s","8s"]"#), "{text}");
        assert!(text.contains(r#""exempt":["127.0.0.0/8","::1/128"]"#), "{text}");
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = serde_json::from_str::<GatewayConfig>(r#"{"session":{"heartbeat":"30s"}}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `heartbeat`"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_key() {
        type Change = fn(&mut GatewayConfig);
        let changes: [(&str, Change); 44] = [
            ("node", |config| config.node = "a b".to_owned()),
            ("node", |config| config.node = "x".repeat(33)),
            ("shards", |config| config.shards = 257),
            ("listen.advertise.tcp", |config| config.listen.advertise.tcp = "chat.example".to_owned()),
            ("listen.advertise.tcp", |config| config.listen.tcp = "0.0.0.0:8085".parse().unwrap()),
            ("listen.advertise.ws", |config| config.listen.ws = Some("[::]:8086".parse().unwrap())),
            ("listen.advertise.tls", |config| {
                config.listen.tls = Some("0.0.0.0:8443".parse().unwrap());
                config.tls.certificates = vec![CertificateConfig { certificate: "a.pem".into(), key: "a.key".into() }];
            }),
            ("listen.advertise.quic", |config| {
                config.listen.quic = Some("[::]:8087".parse().unwrap());
                config.tls.certificates = vec![CertificateConfig { certificate: "a.pem".into(), key: "a.key".into() }];
            }),
            ("quic.handshakes_max", |config| config.quic.handshakes_max = 0),
            ("websocket.origins", |config| config.websocket.origins = vec!["live.example".to_owned()]),
            ("session.heartbeat_gap", |config| config.session.heartbeat_gap = Duration::from_millis(1_500)),
            ("session.silent_gaps", |config| config.session.silent_gaps = 241),
            ("session.body_bytes_max", |config| config.session.body_bytes_max = billfish_link::tcp::TEXT_BYTES_MAX + 1),
            ("session.rooms_max", |config| config.session.rooms_max = 9),
            ("admission.unlogged_percent_max", |config| config.admission.unlogged_percent_max = 101),
            ("backlog.soft_percent", |config| config.backlog.soft_percent = 101),
            ("files.stop_percent", |config| config.files.stop_percent = 89),
            ("memory.shed_percent", |config| config.memory.shed_percent = 0),
            ("memory.refuse_percent", |config| config.memory.refuse_percent = 101),
            ("drain.close_per_s", |config| config.drain.close_per_s = 0),
            ("link.routers", |config| config.link.routers = vec!["router:0".to_owned()]),
            ("listen.ws", |config| config.listen.ws = Some(config.listen.tcp)),
            ("listen.tls", |config| config.listen.tls = Some(config.listen.tcp)),
            ("listen.tls", |config| config.listen.tls = config.listen.ws),
            ("websocket.origins", |config| config.websocket.origins = vec!["https://*.live.example".to_owned()]),
            ("websocket.origins", |config| config.websocket.origins = vec!["*".to_owned()]),
            ("quic.retry_above", |config| config.quic.retry_above = config.quic.handshakes_max + 1),
            ("session.bytes_burst", |config| config.session.bytes_burst = 65_536 + 9),
            ("session.bytes_burst", |config| config.session.body_bytes_max = 131_072),
            ("backlog.bytes_max", |config| config.backlog.bytes_max = 65_536 + 9),
            ("memory.budget_bytes", |config| config.memory.budget_bytes = (64 << 20) - 1),
            ("proxy.trusted", |config| config.proxy.trusted = vec!["10.0.0.0/8".parse().unwrap(), "0.0.0.0/0".parse().unwrap()]),
            ("proxy.trusted", |config| config.proxy.trusted = vec!["::/0".parse().unwrap()]),
            ("websocket.head_bytes_max", |config| config.websocket.head_bytes_max = 1_023),
            ("websocket.head_bytes_max", |config| config.websocket.head_bytes_max = 32_769),
            ("websocket.fragments_max", |config| config.websocket.fragments_max = 0),
            ("websocket.fragments_max", |config| config.websocket.fragments_max = 4_097),
            ("proxy.header_bytes_max", |config| config.proxy.header_bytes_max = 51),
            ("proxy.header_bytes_max", |config| config.proxy.header_bytes_max = 65_552),
            ("admission.addresses_max", |config| config.admission.addresses_max = 255),
            ("admission.addresses_max", |config| config.admission.addresses_max = 1_048_577),
            ("drain.grace", |config| config.drain.grace = Duration::ZERO),
            ("drain.spread_max", |config| config.drain.spread_max = config.drain.grace + Duration::from_secs(1)),
            ("drain.addresses", |config| config.drain.addresses = vec!["gateway-2".to_owned()]),
        ];
        for (key, change) in changes {
            let mut config = GatewayConfig::default();
            change(&mut config);
            assert_eq!(config.validate().unwrap_err().key, key);
        }
    }

    #[test]
    fn what_just_fits_is_legal() {
        let mut config = GatewayConfig::default();
        (config.session.bytes_burst, config.backlog.bytes_max) = (65_536 + 10, 65_536 + 10);
        config.quic.retry_above = config.quic.handshakes_max;
        config.drain.spread_max = config.drain.grace;
        config.memory.budget_bytes = 64 << 20;
        config.proxy.trusted = vec!["128.0.0.0/1".parse().unwrap(), "::/1".parse().unwrap()];
        config.websocket.origins = vec!["https://live.example:8443".to_owned()];
        (config.websocket.head_bytes_max, config.websocket.fragments_max) = (1_024, 1);
        (config.proxy.header_bytes_max, config.admission.addresses_max) = (52, 256);
        // As many by one listener as there may be in all, and more: the smaller of the two holds.
        config.admission.listener_max.quic = u32::MAX;
        // No limit, and said so; and UDP has ports of its own.
        config.tls.handshakes_per_s = 0;
        config.listen.quic = config.listen.tls;
        config.validate().unwrap();
        (config.websocket.head_bytes_max, config.websocket.fragments_max) = (32_768, 4_096);
        (config.proxy.header_bytes_max, config.admission.addresses_max) = (65_551, 1_048_576);
        config.validate().unwrap();
        // Port 0 is another one each time.
        let any = "127.0.0.1:0".parse().unwrap();
        (config.listen.tcp, config.listen.ws, config.listen.tls) = (any, Some(any), Some(any));
        config.validate().unwrap();
    }

    #[test]
    fn what_is_wrong_is_told_as_it_was_written() {
        type Change = fn(&mut GatewayConfig);
        let changes: [(&str, Change); 7] = [
            ("has the entry live.example, that is not", |config| config.websocket.origins = vec!["live.example".to_owned()]),
            ("has the entry https://*.example, with a `*`", |config| config.websocket.origins = vec!["https://*.example".to_owned()]),
            ("has the entry gateway-2, that", |config| config.drain.addresses = vec!["gateway-2".to_owned()]),
            ("has the entry router:0, that", |config| config.link.routers = vec!["router:0".to_owned()]),
            ("is not host:port: example.com", |config| config.listen.advertise.tcp = "example.com".to_owned()),
            ("is 0, and must be from 1 to 4096", |config| config.websocket.fragments_max = 0),
            ("is 127.0.0.1:8085, as gateway.listen.tcp is", |config| config.listen.tls = Some(config.listen.tcp)),
        ];
        for (problem, change) in changes {
            let mut config = GatewayConfig::default();
            change(&mut config);
            let told = config.validate().unwrap_err().to_string();
            assert!(told.contains(problem), "{told}");
        }
    }

    #[test]
    fn the_secret_is_not_shown() {
        let mut config = GatewayConfig::default();
        config.link.secret = "s3cret".to_owned();
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn no_exempt_network_is_legal() {
        let config =
            GatewayConfig { admission: AdmissionConfig { exempt: Vec::new(), ..AdmissionConfig::default() }, ..GatewayConfig::default() };
        config.validate().unwrap();
    }
}
