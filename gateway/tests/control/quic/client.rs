//! A client that knows frames and QUIC, and nothing else. What nobody asks for stays unread.

use crate::house::{House, PATIENCE, Router, login_body};
use billfish_gateway::{GatewayConfig, config::CertificateConfig};
use billfish_testing::Certificates;
use billfish_wire::{Body, Code, Encoding, frame};
use quinn::{
    ApplicationClose, ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig, VarInt,
    crypto::rustls::QuicClientConfig,
};
use rustls::{
    RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::runtime::Handle;

pub(crate) const ALPN: &[u8] = b"billfish/1";

/// A gateway with a certificate, and what is needed to believe it.
pub(crate) struct QuicHouse {
    pub(crate) house: House,
    pub(crate) router: Router,
    pub(crate) certificates: Certificates,
}

impl QuicHouse {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let certificates = Certificates::new();
        let (house, router) = House::with(|config| {
            config.tls.certificates = vec![CertificateConfig { certificate: certificates.certificate(), key: certificates.key() }];
            change(config);
        });
        Self { house, router, certificates }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.house.running().bound()["quic"]
    }

    pub(crate) fn client_config(&self, protocols: &[&[u8]], transport: TransportConfig) -> ClientConfig {
        Self::client_config_for(&self.certificates, protocols, transport)
    }

    /// Of a client that believes whom these are signed by, and nobody else.
    pub(crate) fn client_config_for(certificates: &Certificates, protocols: &[&[u8]], transport: TransportConfig) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificates.authority()).unwrap()).unwrap();
        let mut crypto = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        crypto.enable_early_data = true;
        crypto.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto).unwrap()));
        config.transport_config(Arc::new(transport));
        config
    }

    /// Another socket, which connects with this configuration.
    pub(crate) fn endpoint(&self, config: ClientConfig) -> Endpoint {
        let _in_runtime = self.house.runtime.enter();
        let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(config);
        endpoint
    }

    /// A connection without a stream.
    pub(crate) fn reach(&self, config: ClientConfig, address: SocketAddr) -> Result<(Endpoint, Connection), ConnectionError> {
        let endpoint = self.endpoint(config);
        let connection = self.house.runtime.block_on(async { patiently(endpoint.connect(address, "localhost").unwrap()).await })?;
        Ok((endpoint, connection))
    }

    /// A client that has opened its stream.
    pub(crate) fn connect(&self) -> QuicClient {
        self.connect_by(self.address(), TransportConfig::default())
    }

    pub(crate) fn connect_by(&self, address: SocketAddr, transport: TransportConfig) -> QuicClient {
        let (endpoint, connection) = self.reach(self.client_config(&[ALPN], transport), address).unwrap();
        let (up, answers) = self.house.runtime.block_on(connection.open_bi()).unwrap();
        QuicClient {
            runtime: self.house.runtime.handle().clone(),
            endpoint,
            connection,
            up,
            answers: Frames::new(answers),
            pushes: [const { None }; 4],
        }
    }

    pub(crate) fn log_in(&self, user_id: i64) -> QuicClient {
        let mut client = self.connect();
        self.log_in_on(&mut client, user_id, "ios");
        client
    }

    pub(crate) fn log_in_on(&self, client: &mut QuicClient, user_id: i64, platform: &str) {
        let token = self.house.token(user_id, None, 300_000);
        client.send(Code::Login, &Body { platform: Some(platform.to_owned()), ..login_body(user_id, &token) });
        client.expect(Code::Login);
    }

    pub(crate) fn join(&self, user_id: i64, room_id: i64) -> QuicClient {
        let mut client = self.log_in(user_id);
        client.join(room_id);
        client
    }
}

/// A connection, its stream, and those of the server.
pub(crate) struct QuicClient {
    pub(crate) runtime: Handle,
    pub(crate) endpoint: Endpoint,
    pub(crate) connection: Connection,
    pub(crate) up: SendStream,
    answers: Frames,
    /// By class, as far as they have come.
    pushes: [Option<Frames>; 4],
}

/// Frames of one stream.
pub(crate) struct Frames {
    stream: RecvStream,
    received: Vec<u8>,
}

impl Frames {
    fn new(stream: RecvStream) -> Self {
        Self { stream, received: Vec::new() }
    }

    /// The next frame, or `None` at the end of the stream or the connection.
    pub(crate) async fn next(&mut self) -> Option<(Code, Body)> {
        loop {
            if let Some((frame, taken)) = frame::decode(&self.received, 1 << 20).expect("the server's frames are right") {
                let code = Code::from_number(frame.code).expect("the server's codes are known");
                let body = Body::decode(frame.encoding, frame.body).expect("the server's bodies are right");
                self.received.drain(..taken);
                return Some((code, body));
            }
            match patiently(self.stream.read_chunk(64 * 1024, true)).await {
                Ok(Some(chunk)) => self.received.extend_from_slice(&chunk.bytes),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

pub(crate) async fn patiently<F: IntoFuture>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("patience has an end")
}

impl QuicClient {
    pub(crate) fn send(&mut self, code: Code, body: &Body) {
        self.send_bytes(&frame::encode(Encoding::Json, code, body));
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.runtime.clone().block_on(patiently(self.up.write_all(bytes))).unwrap();
    }

    pub(crate) fn join(&mut self, room_id: i64) {
        self.send(Code::Join, &Body { room_id: Some(room_id), ..Body::default() });
        self.expect(Code::Join);
    }

    /// The next frame of its own stream.
    pub(crate) fn next(&mut self) -> Option<(Code, Body)> {
        self.runtime.clone().block_on(self.answers.next())
    }

    pub(crate) fn expect(&mut self, code: Code) -> Body {
        let (got, body) = self.next().unwrap_or_else(|| panic!("the stream ended before a {code:?}: {:?}", self.connection.close_reason()));
        assert_eq!(got, code, "{body:?}");
        body
    }

    /// A heartbeat there and back.
    pub(crate) fn beat(&mut self) -> Body {
        self.send(Code::Heartbeat, &Body::default());
        self.expect(Code::Heartbeat)
    }

    /// The stream of a class, as soon as it is there.
    pub(crate) async fn class(&mut self, class: usize) -> &mut Frames {
        while self.pushes[class].is_none() {
            let mut stream = patiently(self.connection.accept_uni()).await.unwrap();
            let mut first = [0];
            stream.read_exact(&mut first).await.unwrap();
            let place = &mut self.pushes[usize::from(first[0])];
            assert!(place.replace(Frames::new(stream)).is_none(), "one stream for a class");
        }
        self.pushes[class].as_mut().unwrap()
    }

    /// The next push of a class.
    pub(crate) fn push(&mut self, class: usize) -> Body {
        let runtime = self.runtime.clone();
        let (code, body) = runtime.block_on(async { self.class(class).await.next().await }).expect("a push");
        assert_eq!(code, Code::Biz, "{body:?}");
        body
    }

    /// When the next push of each of two classes came, whose streams are there.
    pub(crate) fn both(&mut self, one: usize, other: usize) -> (Instant, Instant) {
        let [Some(first), Some(second)] = self.pushes.get_disjoint_mut([one, other]).unwrap() else { panic!("no stream") };
        let came = async |frames: &mut Frames| {
            frames.next().await.expect("a push");
            Instant::now()
        };
        self.runtime.block_on(async { tokio::join!(came(first), came(second)) })
    }

    /// Wants to hear no more of a class whose stream is there.
    pub(crate) fn stop(&mut self, class: usize) {
        let frames = self.pushes[class].as_mut().expect("its stream is there");
        frames.stream.stop(0_u32.into()).unwrap();
    }

    /// How the server ends the connection: its number and its word.
    pub(crate) fn end(&mut self) -> (u64, String) {
        match self.runtime.block_on(patiently(self.connection.closed())) {
            ConnectionError::ApplicationClosed(ApplicationClose { error_code, reason }) => {
                (error_code.into_inner(), String::from_utf8(reason.to_vec()).unwrap())
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Windows that hold little: a client that reads slowly.
pub(crate) fn narrow() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(4 * 1024));
    transport
}

/// A client that finds out within a second that it hears nothing more.
pub(crate) fn within(idle: Duration) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(idle.try_into().unwrap()));
    transport
}

/// How long something took.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let outcome = work();
    (outcome, began.elapsed())
}
