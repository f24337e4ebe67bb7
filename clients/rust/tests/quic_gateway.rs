//! A gateway on QUIC that says exactly what a test tells it to, each stream by itself.

use billfish_client::{ClientConfig, Roots};
use billfish_testing::Certificates;
use billfish_wire::{Body, Code, Encoding, Reassembler, frame, limits::BODY_BYTES_MAX};
use quinn::{Connection, Endpoint, RecvStream, SendStream, ServerConfig, TransportConfig, VarInt, crypto::rustls::QuicServerConfig};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::timeout;

/// Nothing here takes this long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Listens; every connection is scripted by the test.
pub(crate) struct QuicGateway {
    endpoint: Endpoint,
    certificates: Certificates,
}

impl QuicGateway {
    pub(crate) fn open() -> Self {
        Self::open_with(Certificates::new(), b"billfish/1")
    }

    pub(crate) fn open_with(certificates: Certificates, alpn: &[u8]) -> Self {
        let chain =
            CertificateDer::pem_file_iter(certificates.certificate()).expect("PEM").collect::<Result<_, _>>().expect("certificates");
        let key = PrivateKeyDer::from_pem_file(certificates.key()).expect("a key");
        let mut crypto = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a key for this certificate");
        crypto.alpn_protocols = vec![alpn.to_vec()];
        let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(crypto).expect("AES-128")));
        let mut transport = TransportConfig::default();
        transport.max_concurrent_bidi_streams(VarInt::from_u32(1)).max_concurrent_uni_streams(VarInt::from_u32(0));
        config.transport_config(Arc::new(transport));
        let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().expect("an address")).expect("a free port");
        Self { endpoint, certificates }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().expect("it is bound")
    }

    pub(crate) fn certificates(&self) -> Certificates {
        self.certificates.clone()
    }

    /// Who believes it.
    pub(crate) fn roots(&self) -> Roots {
        let more_pem = std::fs::read_to_string(self.certificates.authority()).expect("it was made");
        Roots { platform: false, more_pem }
    }

    /// A client of this gateway whose tokens are `token-1`, `token-2`, …
    pub(crate) fn config(&self) -> ClientConfig {
        ClientConfig { roots: self.roots(), ..crate::gateway::config_for(vec![format!("quic://{}", self.address())]) }
    }

    /// The LOGIN of whoever comes next, not answered.
    pub(crate) async fn accept_unanswered(&self) -> (QuicConnection, Body) {
        let accepting = async {
            let connection = self.endpoint.accept().await.expect("it listens").await.expect("a handshake");
            let (answers, up) = connection.accept_bi().await.expect("the client's stream");
            QuicConnection {
                connection,
                answers,
                up,
                pushes: [const { None }; 4],
                reassembler: Reassembler::default(),
                frames: VecDeque::new(),
            }
        };
        let mut connection = timeout(PATIENCE, accepting).await.expect("the client connects");
        let login = connection.expect(Code::Login).await;
        (connection, login)
    }

    /// A handshake that comes to nothing.
    pub(crate) async fn accept_handshake(&self) {
        let incoming = timeout(PATIENCE, self.endpoint.accept()).await.expect("the client connects").expect("it listens");
        assert!(incoming.await.is_err(), "nobody wants that");
    }

    /// The same, answered.
    pub(crate) async fn accept_login(&self) -> (QuicConnection, Body) {
        let (mut connection, login) = self.accept_unanswered().await;
        connection.answer(Code::Login, &crate::gateway::login_answer()).await;
        (connection, login)
    }
}

/// One connection of the client.
pub(crate) struct QuicConnection {
    pub(crate) connection: Connection,
    answers: SendStream,
    up: RecvStream,
    pushes: [Option<SendStream>; 4],
    reassembler: Reassembler,
    frames: VecDeque<(Code, Body)>,
}

impl QuicConnection {
    /// The next frame; `None` when the client has closed.
    pub(crate) async fn receive(&mut self) -> Option<(Code, Body)> {
        while self.frames.is_empty() {
            let chunk = timeout(PATIENCE, self.up.read_chunk(4096, true)).await.expect("the client speaks").ok()??;
            let mut frames = self.reassembler.feed(&chunk.bytes);
            while let Some(frame) = frames.next(BODY_BYTES_MAX).expect("the client sends frames") {
                let body = Body::decode(frame.encoding, frame.body).expect("the client sends bodies");
                self.frames.push_back((Code::from_number(frame.code).expect("a known code"), body));
            }
        }
        self.frames.pop_front()
    }

    /// The body of the next frame, which must have this code.
    pub(crate) async fn expect(&mut self, code: Code) -> Body {
        match self.receive().await {
            Some((received, body)) if received == code => body,
            other => panic!("{code:?} was expected: {other:?}"),
        }
    }

    /// On the client's stream. A client that has gone needs nothing more.
    pub(crate) async fn answer(&mut self, code: Code, body: &Body) {
        self.answers.write_all(&frame::encode(Encoding::Json, code, body)).await.ok();
    }

    /// On the stream of its class.
    pub(crate) async fn push(&mut self, body: &Body) {
        let class = usize::try_from(body.class.unwrap_or(2)).expect("a class");
        if self.pushes[class].is_none() {
            let mut stream = self.connection.open_uni().await.expect("the client lets four be opened");
            stream.write_all(&[u8::try_from(class).expect("four of them")]).await.expect("written");
            self.pushes[class] = Some(stream);
        }
        let stream = self.pushes[class].as_mut().expect("opened");
        stream.write_all(&frame::encode(Encoding::Json, Code::Biz, body)).await.ok();
    }

    /// Bytes on a stream that the test opens by itself.
    pub(crate) async fn push_raw(&mut self, bytes: &[u8]) {
        let mut stream = self.connection.open_uni().await.expect("the client lets it be opened");
        stream.write_all(bytes).await.expect("written");
        self.pushes[0] = Some(stream);
    }

    /// Echoes a heartbeat: what was written before on the client's own stream has arrived then, and on the others most likely.
    pub(crate) async fn echo(&mut self) {
        self.expect(Code::Heartbeat).await;
        self.answer(Code::Heartbeat, &Body::yes()).await;
    }

    pub(crate) fn close(&self, number: u32, label: &str) {
        self.connection.close(VarInt::from_u32(number), label.as_bytes());
    }
}
