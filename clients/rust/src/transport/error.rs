//! Why there is no connection, in words that say what to do.

use crate::{endpoint::Endpoint, event::Cause};
use billfish_websocket::handshake::{ResponseError, UnwritableRequest};
use rustls::CertificateError;
use std::{io, time::Duration};

/// A connect that came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no answer in time")]
    TimedOut,
    #[error("the connection failed")]
    Io(#[source] io::Error),
    #[error("TLS failed")]
    Tls(#[from] rustls::Error),
    #[error("no QUIC")]
    Quic(#[from] quinn::ConnectionError),
    #[error("no certificate can be for this host")]
    NoHostName,
    #[error("no WebSocket")]
    Upgrade(#[from] ResponseError),
    #[error("no WebSocket can be asked for")]
    Unwritable(#[from] UnwritableRequest),
}

/// What rustls found comes out of the socket's errors, wrapped.
impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(error) => Self::Tls(error),
            Err(error) => Self::Io(error),
        }
    }
}

impl ConnectError {
    /// The server is not who it should be. Whoever can bring that about can read what is not sealed, too.
    pub(crate) fn is_distrust(&self) -> bool {
        matches!(self, Self::Tls(rustls::Error::InvalidCertificate(_)) | Self::NoHostName)
    }

    /// Not before so long.
    pub(crate) fn retry_after(&self) -> Duration {
        let Self::Upgrade(ResponseError::Refused { retry_after, .. }) = self else { return Duration::ZERO };
        retry_after.unwrap_or_default()
    }

    pub(crate) fn into_cause(self, endpoint: &Endpoint) -> Cause {
        let (address, problem) = (endpoint.to_string(), self.problem(endpoint.host()));
        if self.is_distrust() { Cause::Untrusted { address, problem } } else { Cause::Unreachable { address, problem } }
    }

    fn problem(&self, host: &str) -> String {
        match self {
            Self::TimedOut | Self::NoHostName => self.to_string(),
            // The two that a person at a terminal meets; the system's words serve for the rest.
            Self::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
            Self::Io(error) if error.kind() == io::ErrorKind::TimedOut => "no answer in time".to_owned(),
            Self::Io(error) => error.to_string(),
            Self::Tls(rustls::Error::InvalidCertificate(error)) => distrust(error, host),
            Self::Tls(rustls::Error::InvalidMessage(_)) => "what answers there does not speak TLS".to_owned(),
            Self::Tls(error) => error.to_string(),
            Self::Quic(error) => error.to_string(),
            Self::Upgrade(error) => error.to_string(),
            Self::Unwritable(error) => error.to_string(),
        }
    }
}

fn distrust(error: &CertificateError, host: &str) -> String {
    if *error == CertificateError::UnknownIssuer {
        "its certificate is signed by nobody whom we trust; a private authority stands in ClientConfig::roots".to_owned()
    } else if matches!(error, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) {
        format!("its certificate is not for {host}")
    } else if matches!(error, CertificateError::Expired | CertificateError::ExpiredContext { .. }) {
        "its certificate has expired".to_owned()
    } else if matches!(error, CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) {
        "its certificate is not valid yet; is the clock right?".to_owned()
    } else {
        format!("its certificate is not valid: {error}")
    }
}
