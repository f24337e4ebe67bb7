//! A certificate for developers: made once, kept in the data directory, trusted by nobody who is not told to.
//!
//! Not for a gateway that strangers reach: `gateway.tls.certificates` names the real ones.

use anyhow::{Context, Result};
use billfish_gateway::config::CertificateConfig;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Where a client on this machine connects.
const NAMES: [&str; 1] = ["localhost"];

/// The certificate of `data_dir`, made where there is none yet.
pub(crate) fn load_or_create(data_dir: &Path) -> Result<CertificateConfig> {
    let config = CertificateConfig { certificate: data_dir.join("development-cert.pem"), key: data_dir.join("development-key.pem") };
    if !config.certificate.exists() || !config.key.exists() {
        create(&config).context("cannot make a certificate for development")?;
    }
    Ok(config)
}

fn create(config: &CertificateConfig) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
    params.subject_alt_names.push(rcgen::SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    params.subject_alt_names.push(rcgen::SanType::IpAddress(Ipv6Addr::LOCALHOST.into()));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Billfish, for development alone");
    let certificate = params.self_signed(&key)?;
    // The key first, and each whole or not at all: a certificate that is there has its key.
    write(&config.key, &key.serialize_pem(), 0o600)?;
    write(&config.certificate, &certificate.pem(), 0o644)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let half = path.with_extension("partial");
    let failed = || format!("cannot write {}", path.display());
    if half.exists() {
        fs::remove_file(&half).with_context(failed)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&half).with_context(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(failed)?;
    fs::rename(&half, path).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::load_or_create;
    use std::{fs, os::unix::fs::PermissionsExt};

    #[test]
    fn it_is_made_once_and_its_key_is_nobody_elses() {
        let directory = tempfile::tempdir().unwrap();
        let made = load_or_create(directory.path()).unwrap();
        let (certificate, key) = (fs::read(&made.certificate).unwrap(), fs::read(&made.key).unwrap());
        assert_eq!(load_or_create(directory.path()).unwrap(), made);
        assert_eq!((fs::read(&made.certificate).unwrap(), fs::read(&made.key).unwrap()), (certificate, key));
        assert_eq!(fs::metadata(&made.key).unwrap().permissions().mode() & 0o777, 0o600);
        // One of the two alone is of no use.
        fs::remove_file(&made.certificate).unwrap();
        load_or_create(directory.path()).unwrap();
        assert!(made.certificate.exists());
    }
}
