//! Who this gateway says it is: certificates by name, read from files, replaced without a restart.
//!
//! - A handshake takes what is in force when it begins; connections that are up keep what they have.
//! - Files that cannot be used change nothing: what was in force stays, and the operator is told.
//! - Nothing about sessions is stored: a ticket carries it, under a key that lives as long as this process.

use crate::config::{CertificateConfig, TlsConfig};
use arc_swap::ArcSwap;
use humantime::Rfc3339Timestamp;
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
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

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
    /// Of each file that says it.
    validities: Vec<Validity>,
}

/// From when to when a certificate is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) file: PathBuf,
    /// The first of its DNS names, where it has one.
    name: String,
    /// Unix time in seconds.
    not_before: i64,
    /// Unix time in seconds.
    pub(crate) not_after: i64,
}

/// Why clients refuse a certificate, or will soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lapse {
    NotYetValid,
    ExpiresSoon,
    Expired,
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
                self.warn_of_validity();
                Ok(())
            }
            Err(error) => {
                self.reload_failed.fetch_add(1, Relaxed);
                Err(error)
            }
        }
    }

    /// From when to when those in force are good.
    pub(crate) fn validities(&self) -> Vec<Validity> {
        self.in_force.load().validities.clone()
    }

    /// Warns of each in force that clients refuse, or will refuse soon. It is served all the same: whoever trusts it by other means goes on.
    pub(crate) fn warn_of_validity(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        for validity in &self.in_force.load().validities {
            let (file, name) = (validity.file.display(), &validity.name);
            let (not_before, not_after) = (date(validity.not_before), date(validity.not_after));
            match validity.lapse(i64::try_from(now).unwrap_or(i64::MAX)) {
                Some(Lapse::Expired) => warn!(%file, name, %not_after, "a certificate has expired: clients refuse it"),
                Some(Lapse::ExpiresSoon) => warn!(%file, name, %not_after, "a certificate expires within 14 days"),
                Some(Lapse::NotYetValid) => warn!(%file, name, %not_before, "a certificate is not valid yet: clients refuse it"),
                None => {}
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
        let mut validities = Vec::new();
        for file in files {
            let key = Arc::new(certified(file, provider)?);
            validities.extend(Validity::of(&file.certificate, &key));
            for name in names_of(&key) {
                names.entry(name).or_insert_with(|| Arc::clone(&key));
            }
            first.get_or_insert(key);
        }
        Ok(Self { names, first: first.expect("validate() asks for one at least"), validities })
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

impl Validity {
    fn of(file: &Path, key: &CertifiedKey) -> Option<Self> {
        let end_entity = key.cert.first()?;
        let Ok((_, parsed)) = X509Certificate::from_der(end_entity) else {
            warn!(file = %file.display(), "cannot read from when to when a certificate is good");
            return None;
        };
        let validity = parsed.validity();
        Some(Self {
            file: file.to_owned(),
            name: names_of(key).into_iter().next().unwrap_or_default(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// The last second is still a good one, as RFC 5280 has it.
    fn lapse(&self, now: i64) -> Option<Lapse> {
        if now > self.not_after {
            Some(Lapse::Expired)
        } else if now < self.not_before {
            Some(Lapse::NotYetValid)
        } else if self.not_after - now <= EXPIRES_SOON_S {
            Some(Lapse::ExpiresSoon)
        } else {
            None
        }
    }
}

/// A Unix time for a person. Before 1970 there was no certificate.
fn date(unix_s: i64) -> Rfc3339Timestamp {
    let since = Duration::from_secs(u64::try_from(unix_s).unwrap_or(0)).min(LAST_DATE);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since)
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
/// Time enough to renew by hand what should have been renewed by itself.
const EXPIRES_SOON_S: i64 = 14 * 24 * 3600;
/// The end of the year 9999: later ones can be neither in a certificate nor written down.
const LAST_DATE: Duration = Duration::from_secs(253_402_300_799);

#[cfg(test)]
mod tests {
    use super::{Certificates, EXPIRES_SOON_S, Lapse, date};
    use crate::config::{CertificateConfig, TlsConfig};
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    #[test]
    fn a_certificate_says_from_when_to_when_it_is_good() {
        let directory = tempfile::tempdir().unwrap();
        let files = CertificateConfig { certificate: directory.path().join("chain.pem"), key: directory.path().join("key.pem") };
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["Live.Example".to_owned(), "other.example".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        std::fs::write(&files.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        let certificates = Certificates::load(&TlsConfig { certificates: vec![files.clone()], ..TlsConfig::default() }).unwrap();
        let validities = certificates.validities();
        let [validity] = &validities[..] else { panic!("{validities:?}") };
        assert_eq!((&validity.file, validity.name.as_str()), (&files.certificate, "live.example"));
        let (begin, end) = (1_577_836_800, 1_609_459_200);
        assert_eq!((validity.not_before, validity.not_after), (begin, end));
        assert_eq!(date(end).to_string(), "2021-01-01T00:00:00Z");
        for (now, lapse) in [
            (begin - 1, Some(Lapse::NotYetValid)),
            (begin, None),
            (end - EXPIRES_SOON_S - 1, None),
            (end - EXPIRES_SOON_S, Some(Lapse::ExpiresSoon)),
            (end, Some(Lapse::ExpiresSoon)),
            (end + 1, Some(Lapse::Expired)),
        ] {
            assert_eq!(validity.lapse(now), lapse, "{now}");
        }

        // What is renewed is seen by the next scrape.
        params.not_after = date_time_ymd(2022, 1, 1);
        std::fs::write(&files.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        certificates.reload().unwrap();
        assert_eq!(certificates.validities()[0].not_after, 1_640_995_200);
    }

    #[test]
    fn a_date_that_cannot_be_written_is_the_next_that_can() {
        assert_eq!(date(-1).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(date(i64::MAX).to_string(), "9999-12-31T23:59:59Z");
    }
}
