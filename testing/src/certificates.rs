//! A certificate authority of our own and one server certificate for loopback, as PEM files.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;

/// Certificates that are gone with their last clone.
#[derive(Clone, Debug)]
pub struct Certificates {
    directory: Arc<TempDir>,
}

impl Certificates {
    /// Makes them, for `localhost` and 127.0.0.1.
    #[expect(clippy::new_without_default, reason = "each is another authority; nothing about it is a default")]
    pub fn new() -> Self {
        Self::made(|_| {})
    }

    /// The same for a server whose certificate is good from one second of Unix time to another.
    pub fn good(from_s: u64, until_s: u64) -> Self {
        let at = |seconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        Self::made(|server| (server.not_before, server.not_after) = (at(from_s), at(until_s)))
    }

    fn made(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "Billfish test authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_key = KeyPair::generate().expect("a key");
        let authority_certificate = authority.self_signed(&authority_key).expect("a certificate");
        let issuer = Issuer::new(authority, authority_key);
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut server = CertificateParams::new(names).expect("legal names");
        change(&mut server);
        let key = KeyPair::generate().expect("a key");
        let certificate = server.signed_by(&key, &issuer).expect("a certificate");
        let write = |name: &str, text: String| fs::write(directory.path().join(name), text).expect("a temporary file");
        write("authority.pem", authority_certificate.pem());
        write("certificate.pem", certificate.pem());
        write("key.pem", key.serialize_pem());
        Self { directory: Arc::new(directory) }
    }

    /// What a client must trust.
    pub fn authority(&self) -> PathBuf {
        self.path().join("authority.pem")
    }

    /// What a server shows.
    pub fn certificate(&self) -> PathBuf {
        self.path().join("certificate.pem")
    }

    /// The server's key.
    pub fn key(&self) -> PathBuf {
        self.path().join("key.pem")
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}
