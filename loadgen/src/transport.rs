//! How the crowd connects, and whom it believes.
//!
//! A load generator measures a server of one's own: without `--ca` nobody's certificate is checked, which costs the server nothing and this
//! side less.

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, NamedGroup, RootCertStore, SignatureScheme,
    client::{
        ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    version::TLS13,
};
use serde::{Deserialize, Serialize};
use std::{
    fmt::{self, Display, Formatter},
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// What carries the connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    /// Frames over plain TCP.
    #[default]
    Tcp,
    /// WebSocket, binary messages.
    Ws,
    /// Frames over TLS.
    Tls,
    /// WebSocket over TLS.
    Wss,
    /// QUIC, a stream for each class.
    Quic,
}

impl Display for Transport {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Tcp => "tcp",
            Self::Ws => "ws",
            Self::Tls => "tls",
            Self::Wss => "wss",
            Self::Quic => "quic",
        })
    }
}

impl Transport {
    pub(crate) const fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    /// TLS on top of TCP.
    pub(crate) const fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    pub(crate) const fn is_quic(self) -> bool {
        matches!(self, Self::Quic)
    }

    /// Whether a handshake of TLS is part of it.
    pub(crate) const fn is_encrypted(self) -> bool {
        self.is_tls() || self.is_quic()
    }

    /// Where it is served by default.
    pub(crate) const fn port(self) -> u16 {
        match self {
            Self::Tcp => 8085,
            Self::Ws => 8086,
            Self::Tls | Self::Wss => 8443,
            Self::Quic => 8087,
        }
    }
}

/// How TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TlsPlan {
    /// PEM of whom to believe; `None`: everyone.
    pub(crate) ca_pem: Option<String>,
    /// Handshakes are shortened by a ticket.
    pub(crate) resumes: bool,
}

impl TlsPlan {
    pub(crate) fn of(ca: Option<&Path>, resumes: bool) -> Result<Self> {
        let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("--ca {}", path.display()));
        let ca_pem = ca.map(read).transpose()?;
        if let Some(pem) = &ca_pem {
            roots(pem)?;
        }
        Ok(Self { ca_pem, resumes })
    }
}

fn roots(pem: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.context("--ca is not PEM")?).context("--ca has a certificate that cannot be read")?;
    }
    ensure!(!roots.is_empty(), "--ca has no certificate in it");
    Ok(roots)
}

/// TLS of a worker's clients.
#[derive(Debug)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
}

/// What says that frames follow.
const ALPN: &[u8] = b"billfish/1";

impl Tls {
    pub(crate) fn new(plan: &TlsPlan, transport: Transport) -> Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let mut config = match &plan.ca_pem {
            Some(pem) => builder.with_root_certificates(roots(pem)?).with_no_client_auth(),
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))).with_no_client_auth(),
        };
        let name: &[u8] = if transport.is_websocket() { b"http/1.1" } else { ALPN };
        config.alpn_protocols = vec![name.to_vec()];
        config.resumption = resumption(plan);
        Ok(Self { config: Arc::new(config) })
    }

    pub(crate) fn begin(&self, gateway: SocketAddr) -> Result<ClientConnection, rustls::Error> {
        ClientConnection::new(Arc::clone(&self.config), ServerName::IpAddress(gateway.ip().into()))
    }
}

/// TLS of QUIC, which is 1.3, with AES-128 before the other suites; and how many certificates were looked at: a handshake that a ticket
/// shortens shows none.
pub(crate) fn quic(plan: &TlsPlan) -> Result<(ClientConfig, Arc<AtomicU64>)> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let provider = Arc::new(provider);
    let believes: Arc<dyn ServerCertVerifier> = match &plan.ca_pem {
        Some(pem) => WebPkiServerVerifier::builder_with_provider(Arc::new(roots(pem)?), Arc::clone(&provider)).build()?,
        None => Arc::new(Anyone(Arc::clone(&provider))),
    };
    let looked_at = Arc::new(AtomicU64::new(0));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Counting { believes, looked_at: Arc::clone(&looked_at) }))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = resumption(plan);
    Ok((config, looked_at))
}

fn resumption(plan: &TlsPlan) -> Resumption {
    if plan.resumes { Resumption::store(Arc::new(Tickets::default())) } else { Resumption::disabled() }
}

/// All that were fetched and not used: each serves once, and each handshake brings another. So there are as many full ones as clients are on
/// their way in at once, and the others are resumed.
#[derive(Debug, Default)]
struct Tickets(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    group: Option<NamedGroup>,
    tickets: Vec<Tls13ClientSessionValue>,
}

impl Tickets {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.held().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.held().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.held().tickets.push(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.held().tickets.pop()
    }
}

/// Counts the certificates that another looks at.
#[derive(Debug)]
struct Counting {
    believes: Arc<dyn ServerCertVerifier>,
    looked_at: Arc<AtomicU64>,
}

impl ServerCertVerifier for Counting {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.looked_at.fetch_add(1, Relaxed);
        self.believes.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.believes.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.believes.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.believes.supported_verify_schemes()
    }
}

/// Believes everyone.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
