//! TLS: whom we believe, and tickets for coming back.
//!
//! - TLS 1.3 and 1.2 with aws-lc. Sessions are resumed from memory; nothing is sent before the handshake is complete, for a LOGIN must not be
//!   replayed.
//! - The platform's roots are read once, when they are needed first: they belong to whoever looks after the device, stay up to date
//!   without a release of the app, and have the authorities of companies in them, which a list of our own would not.

use super::{ConnectError, UNSENT_BYTES_MAX};
use crate::{config::Roots, endpoint::Endpoint, error::ConfigError};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::sync::Arc;
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

#[derive(Clone, Debug)]
struct Configs {
    frames: Arc<ClientConfig>,
    http: Arc<ClientConfig>,
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
        let Configs { frames, http } = self.made.get_or_try_init(|| self.make()).await?;
        let name = ServerName::try_from(endpoint.host().to_owned()).map_err(|_| ConnectError::NoHostName)?;
        let config = if endpoint.kind.is_websocket() { http } else { frames };
        let mut connection = ClientConnection::new(Arc::clone(config), name)?;
        connection.set_buffer_limit(Some(UNSENT_BYTES_MAX));
        Ok(connection)
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
        let mut frames = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = frames.clone();
        frames.alpn_protocols = vec![ALPN_FRAMES.to_vec()];
        http.alpn_protocols = vec![ALPN_HTTP.to_vec()];
        Ok(Configs { frames: Arc::new(frames), http: Arc::new(http) })
    }
}
