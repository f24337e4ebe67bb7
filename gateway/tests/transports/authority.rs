//! A certificate authority of the test's own.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    directory: PathBuf,
}

impl Authority {
    /// One whose files lie in a directory of this name, which is gone with it.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let root = CertificateDer::from_pem_slice(params.self_signed(&key).unwrap().pem().as_bytes()).unwrap();
        let name = format!("billfish-{}-{:x}", std::process::id(), fastrand::u64(..));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        Self { issuer: Issuer::new(params, key), root, directory }
    }

    /// Writes a certificate for these names and its key, over those of this name where there are some; gives it to be compared.
    pub(crate) fn write(&self, file: &str, names: &[&str]) -> CertificateDer<'static> {
        let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.key(file), key.serialize_pem()).unwrap();
        fs::write(self.certificate(file), certificate.pem()).unwrap();
        certificate.der().clone()
    }

    pub(crate) fn certificate(&self, file: &str) -> PathBuf {
        self.path().join(format!("{file}.pem"))
    }

    pub(crate) fn key(&self, file: &str) -> PathBuf {
        self.path().join(format!("{file}.key"))
    }

    fn path(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        roots
    }

    /// A client that trusts it, and speaks these versions.
    pub(crate) fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.directory));
    }
}
