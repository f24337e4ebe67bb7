//! Making a connection: address, TLS, user and password.

use super::StartError;
use super::config::{Address, ConfigError, RedisConfig};
use super::server::with_causes;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo, RedisError, TlsCertificates,
    aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// Makes connections that are alike.
pub(super) struct Dialer {
    settings: RedisConnectionInfo,
    tls: Option<TlsCertificates>,
    connect_timeout: Duration,
    in_flight_max: usize,
}

impl Dialer {
    pub(super) fn new(config: &RedisConfig) -> Result<Self, StartError> {
        let mut settings = RedisConnectionInfo::default().set_db(i64::from(config.database)).set_lib_name("billfish", "0");
        if let Some(username) = &config.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &config.password {
            settings = settings.set_password(password);
        }
        let tls = if config.tls {
            install_provider();
            let root_cert = config.ca_file.as_deref().map(read_certificates).transpose()?;
            Some(TlsCertificates { client_tls: None, root_cert })
        } else {
            None
        };
        Ok(Self { settings, tls, connect_timeout: config.connect_timeout, in_flight_max: config.in_flight_max })
    }

    /// From dialling to the answer to the first command, and for each question afterwards that nobody waits for.
    pub(super) fn patience(&self) -> Duration {
        self.connect_timeout
    }

    pub(super) fn uses_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// A connection to a server that has said it is well.
    pub(super) async fn dial(&self, address: &Address) -> Result<MultiplexedConnection, DialError> {
        timeout(self.connect_timeout, self.dial_patiently(address)).await.map_err(|_| DialError::TooSlow(self.connect_timeout))?
    }

    async fn dial_patiently(&self, address: &Address) -> Result<MultiplexedConnection, DialError> {
        let Address { host, port } = address.clone();
        let addr = match self.tls {
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            None => ConnectionAddr::Tcp(host, port),
        };
        let info = addr
            .into_connection_info()?
            .set_tcp_settings(TcpSettings::default().set_nodelay(true))
            .set_redis_settings(self.settings.clone());
        let client = match &self.tls {
            Some(certificates) => Client::build_with_tls(info, certificates.clone())?,
            None => Client::open(info)?,
        };
        // Times are kept by whoever calls.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(self.in_flight_max.min(PIPELINES_QUEUED_MAX));
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        Ok(connection)
    }
}

/// Pipelines waiting to be written to one connection; who comes then waits, within the time of the call.
const PIPELINES_QUEUED_MAX: usize = 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("no connection within {0:?}")]
    TooSlow(Duration),
    #[error("cannot connect")]
    Redis(
        #[source]
        #[from]
        RedisError,
    ),
}

impl DialError {
    /// The setting that the server contradicts, if it was that.
    pub(super) fn misfit(&self) -> Option<ConfigError> {
        let Self::Redis(error) = self else { return None };
        let misfit = |key, problem: &str| Some(ConfigError { key, problem: problem.to_owned() });
        match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) => misfit("password", "the server does not take it (for that user), or has none itself"),
            (_, Some("NOAUTH")) => misfit("password", "is missing: the server asks for one"),
            _ if error.to_string().contains("refused to switch database") => {
                misfit("database", "the server has no database of that number")
            }
            _ => None,
        }
    }

    /// For a person: the setting that is at fault, or what happened.
    pub(super) fn told(&self) -> String {
        self.misfit().map_or_else(|| with_causes(self), |misfit| format!("`state.redis.{}`: {}", misfit.key, misfit.problem))
    }
}

/// The one provider of the house, unless the process has installed it already.
pub(super) fn install_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Somebody may have been faster, with the same.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    }
}

fn read_certificates(path: &Path) -> Result<Vec<u8>, StartError> {
    let problem = |cause: Box<dyn std::error::Error + Send + Sync>| StartError::CaFile { path: path.to_owned(), cause };
    let pem = std::fs::read(path).map_err(|error| problem(error.into()))?;
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| problem(error.to_string().into()))?;
        rustls::RootCertStore::empty().add(certificate).map_err(|error| problem(error.into()))?;
        count += 1;
    }
    if count == 0 {
        return Err(problem("there is no certificate in it".into()));
    }
    Ok(pem)
}
