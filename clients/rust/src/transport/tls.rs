//! TLS: whom we believe, and tickets for coming back.
//!
//! - TLS 1.3 and 1.2 with aws-lc. Sessions are resumed from memory; nothing is sent before the handshake is complete, for a LOGIN must not be
//!   replayed.
//! - The platform's roots are read once, when they are needed first: they belong to whoever looks after the device, stay up to date
//!   without a release of the app, and have the authorities of companies in them, which a list of our own would not.

use super::{ConnectError, UNSENT_BYTES_MAX};
use crate::{config::Roots, endpoint::Endpoint, error::ConfigError};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use std::{
    fmt::{self, Debug, Formatter},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{sync::OnceCell, task::spawn_blocking};
use tracing::debug;

/// What the gateway's frames without HTTP around them are called.
const ALPN_FRAMES: &[u8] = b"billfish/1";
const ALPN_HTTP: &[u8] = b"http/1.1";

/// Whom a session's connections believe; shared by all of them, with the tickets.
#[derive(Debug)]
pub(crate) struct Trust {
    platform: bool,
    more: RootCertStore,
    made: OnceCell<Configs>,
}

#[derive(Clone)]
struct Configs {
    frames: Arc<ClientConfig>,
    http: Arc<ClientConfig>,
    quic: Arc<QuicClientConfig>,
    witness: Arc<Witness>,
}

impl Debug for Configs {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.debug_struct("Configs").field("frames", &self.frames).finish_non_exhaustive()
    }
}

impl Trust {
    pub(crate) fn new(roots: &Roots) -> Result<Self, ConfigError> {
        let refused = |problem| ConfigError::Field { field: "roots", problem };
        let mut more = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(roots.more_pem.as_bytes()) {
            let certificate = certificate.map_err(|_| refused("more_pem is not PEM"))?;
            more.add(certificate).map_err(|_| refused("more_pem has a certificate that cannot be read"))?;
        }
        if more.is_empty() && !roots.more_pem.trim().is_empty() {
            return Err(refused("more_pem has no certificate in it"));
        }
        Ok(Self { platform: roots.platform, more, made: OnceCell::new() })
    }

    /// A connection to this host on which nothing has been said.
    pub(super) async fn begin(&self, endpoint: &Endpoint) -> Result<ClientConnection, ConnectError> {
        let Configs { frames, http, .. } = self.made.get_or_try_init(|| self.make()).await?;
        let name = ServerName::try_from(endpoint.host().to_owned()).map_err(|_| ConnectError::NoHostName)?;
        let config = if endpoint.kind.is_websocket() { http } else { frames };
        let mut connection = ClientConnection::new(Arc::clone(config), name)?;
        connection.set_buffer_limit(Some(UNSENT_BYTES_MAX));
        Ok(connection)
    }

    /// The same for QUIC.
    pub(super) async fn quic(&self) -> Result<Arc<QuicClientConfig>, ConnectError> {
        Ok(Arc::clone(&self.made.get_or_try_init(|| self.make()).await?.quic))
    }

    /// Why the certificate of the last handshake of QUIC was refused, if it was: told once.
    pub(super) fn refusal(&self) -> Option<rustls::Error> {
        self.made.get()?.witness.refusal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn make(&self) -> Result<Configs, rustls::Error> {
        let mut roots = self.more.clone();
        if self.platform {
            // Some hundred files.
            let found = spawn_blocking(rustls_native_certs::load_native_certs).await.unwrap_or_default();
            for error in &found.errors {
                debug!(%error, "roots of the platform");
            }
            let (added, ignored) = roots.add_parsable_certificates(found.certs);
            debug!(added, ignored, "roots of the platform");
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(roots);
        let mut frames = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&roots))
            .with_no_client_auth();
        let mut http = frames.clone();
        frames.alpn_protocols = vec![ALPN_FRAMES.to_vec()];
        http.alpn_protocols = vec![ALPN_HTTP.to_vec()];
        let witness = Arc::new(Witness::new(roots, &provider));
        let mut quic = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&witness) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
        quic.alpn_protocols = vec![ALPN_FRAMES.to_vec()];
        let quic = QuicClientConfig::try_from(quic).map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Configs { frames: Arc::new(frames), http: Arc::new(http), quic: Arc::new(quic), witness })
    }
}

/// Believes whom rustls believes, and remembers why it did not: what comes out of a QUIC handshake is a number and a sentence.
#[derive(Debug)]
struct Witness {
    /// `None`: there are no roots, and nobody is believed.
    webpki: Option<Arc<WebPkiServerVerifier>>,
    schemes: Vec<SignatureScheme>,
    refusal: Mutex<Option<rustls::Error>>,
}

impl Witness {
    fn new(roots: Arc<RootCertStore>, provider: &Arc<CryptoProvider>) -> Self {
        Self {
            webpki: WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build().ok(),
            schemes: provider.signature_verification_algorithms.supported_schemes(),
            refusal: Mutex::default(),
        }
    }

    fn webpki(&self) -> Result<&WebPkiServerVerifier, rustls::Error> {
        self.webpki.as_deref().ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.webpki().and_then(|webpki| webpki.verify_server_cert(end_entity, intermediates, name, ocsp, now));
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = verdict.as_ref().err().cloned();
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki()?.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki()?.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
