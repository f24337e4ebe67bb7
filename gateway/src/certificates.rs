//! Who this gateway says it is: certificates by name, read from files, replaced without a restart.
//!
//! - A handshake takes what is in force when it begins; connections that are up keep what they have.
//! - Files that cannot be used change nothing: what was in force stays, and the operator is told.
//! - Nothing about sessions is stored: a ticket carries it, under a key that lives as long as this process.

use crate::config::{CertificateConfig, TlsConfig};
use arc_swap::ArcSwap;
use rustls::{
    ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// A certificate that cannot be served with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The file cannot be read, or has nothing of the kind in it.
    #[error("cannot read {what} from {}", path.display())]
    Read {
        /// What it should have held.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: rustls::pki_types::pem::Error,
    },
    /// The certificate cannot be understood, or its key is another's.
    #[error("cannot use the certificate {}", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: rustls::Error,
    },
}

/// The certificates, as rustls asks for them.
#[derive(Debug)]
pub(crate) struct Certificates {
    files: Vec<CertificateConfig>,
    in_force: ArcSwap<ByName>,
    /// When the files that are in force were written.
    written: Mutex<Vec<Option<SystemTime>>>,
    provider: Arc<CryptoProvider>,
    reloaded: AtomicU64,
    reload_failed: AtomicU64,
}

/// Which certificate for which name.
#[derive(Debug)]
struct ByName {
    names: HashMap<String, Arc<CertifiedKey>>,
    /// For a client that names nobody, or somebody else.
    first: Arc<CertifiedKey>,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// The first file that cannot be used.
    ///
    /// # Panics
    /// Without any file: there must be something to serve with.
    pub(crate) fn load(config: &TlsConfig) -> Result<Self, CertificateError> {
        let provider = Arc::new(provider());
        let files = config.certificates.clone();
        let written = written(&files);
        let in_force = ArcSwap::from_pointee(ByName::read(&files, &provider)?);
        let (reloaded, reload_failed) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { files, in_force, written: Mutex::new(written), provider, reloaded, reload_failed })
    }

    /// Reads the files again and puts them in force.
    ///
    /// # Errors
    /// The first file that cannot be used; then nothing changes.
    pub(crate) fn reload(&self) -> Result<(), CertificateError> {
        let mut known = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at before they are read: what is written meanwhile is read again.
        *known = written(&self.files);
        match ByName::read(&self.files, &self.provider) {
            Ok(by_name) => {
                self.in_force.store(Arc::new(by_name));
                self.reloaded.fetch_add(1, Relaxed);
                Ok(())
            }
            Err(error) => {
                self.reload_failed.fetch_add(1, Relaxed);
                Err(error)
            }
        }
    }

    /// How often they were read again, and how often that failed.
    pub(crate) fn reloads(&self) -> (u64, u64) {
        (self.reloaded.load(Relaxed), self.reload_failed.load(Relaxed))
    }

    /// Reads the files again whenever one of them was written, until `stop`.
    pub(crate) async fn follow(&self, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
            let has_changed = *self.written.lock().unwrap_or_else(PoisonError::into_inner) != written(&self.files);
            if has_changed {
                match self.reload() {
                    Ok(()) => info!("certificates read again"),
                    // The chain of causes, for the file is named in the first and the reason in the last.
                    Err(error) => warn!(error = %Chain(&error), "certificates changed and cannot be used; those before stay in force"),
                }
            }
        }
    }

    /// What TLS connections are made with.
    pub(crate) fn server_config(self: &Arc<Self>) -> ServerConfig {
        self.config_for(&[&TLS13, &TLS12], vec![ALPN.to_vec(), b"http/1.1".to_vec()])
    }

    /// What QUIC connections are made with. Whoever does not ask for the protocol by name is refused: QUIC demands that it be named.
    pub(crate) fn quic_config(self: &Arc<Self>) -> ServerConfig {
        self.config_for(&[&TLS13], vec![ALPN.to_vec()])
    }

    fn config_for(self: &Arc<Self>, versions: &[&'static SupportedProtocolVersion], protocols: Vec<Vec<u8>>) -> ServerConfig {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)
            .expect("the provider has suites for both")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols;
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = aws_lc_rs::Ticketer::new().expect("the system gives random bytes");
        config.send_tls13_tickets = 1;
        config.max_early_data_size = 0;
        config
    }
}

/// What says that frames follow.
pub(crate) const ALPN: &[u8] = b"billfish/1";

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let by_name = self.in_force.load();
        let named = hello.server_name().and_then(|name| by_name.find(name));
        Some(Arc::clone(named.unwrap_or(&by_name.first)))
    }
}

impl ByName {
    fn read(files: &[CertificateConfig], provider: &CryptoProvider) -> Result<Self, CertificateError> {
        let mut names = HashMap::new();
        let mut first = None;
        for file in files {
            let key = Arc::new(certified(file, provider)?);
            for name in names_of(&key) {
                names.entry(name).or_insert_with(|| Arc::clone(&key));
            }
            first.get_or_insert(key);
        }
        Ok(Self { names, first: first.expect("validate() asks for one at least") })
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        self.names.get(&name).or_else(|| {
            // A wildcard stands for one label, the first.
            let (_, parent) = name.split_once('.')?;
            self.names.get(&format!("*.{parent}"))
        })
    }
}

fn certified(file: &CertificateConfig, provider: &CryptoProvider) -> Result<CertifiedKey, CertificateError> {
    let CertificateConfig { certificate, key } = file;
    let read = |what, path: &Path| {
        let path = path.to_owned();
        move |cause| CertificateError::Read { what, path, cause }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(|chain| chain.collect::<Result<Vec<_>, _>>())
        .map_err(read("a certificate", certificate))?;
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(read("a private key", key))?;
    let unusable = |cause| CertificateError::Unusable { path: certificate.clone(), cause };
    if chain.is_empty() {
        return Err(unusable(rustls::Error::NoCertificatesPresented));
    }
    CertifiedKey::from_der(chain, key_der, provider).map_err(unusable)
}

/// The names that a certificate is for, in lower case.
fn names_of(key: &CertifiedKey) -> Vec<String> {
    let Some(end_entity) = key.cert.first() else { return Vec::new() };
    let Ok(parsed) = webpki::EndEntityCert::try_from(end_entity) else { return Vec::new() };
    parsed.valid_dns_names().map(str::to_ascii_lowercase).collect()
}

fn written(files: &[CertificateConfig]) -> Vec<Option<SystemTime>> {
    let paths = files.iter().flat_map(|file| [&file.certificate, &file.key]);
    paths.map(|path| std::fs::metadata(path).and_then(|data| data.modified()).ok()).collect()
}

/// P-256 and X25519 are the cheapest to serve, AES-128 is as good as 256 and cheaper; the hybrid against quantum computers costs some
/// 20 µs more, so it is there for whoever insists.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let is_cheapest = |suite: &SupportedCipherSuite| format!("{:?}", suite.suite()).contains("AES_128_GCM");
    // Stable: within each half the provider's own order stays.
    provider.cipher_suites.sort_by_key(|suite| !is_cheapest(suite));
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
        aws_lc_rs::kx_group::SECP384R1,
        aws_lc_rs::kx_group::X25519MLKEM768,
    ];
    provider
}

/// An error and its causes, in one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(formatter, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// How soon a certificate that was replaced is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
