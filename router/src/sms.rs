//! Who brings login codes to phones.
//!
//! - No code and no phone is logged here: of a phone, its last two digits.
//! - A sender that is busy or away is told to the caller at once or within its time-out, never waited for without an end.

mod webhook;

use crate::{
    callout::{CallError, EndpointError},
    config::{SmsConfig, SmsProvider},
    services::login::Phone,
};
use async_trait::async_trait;
use std::sync::Arc;
use webhook::Webhook;

/// Why a code was not sent. It may have been, all the same.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SmsError {
    /// As many are being sent as may be.
    #[error("{0} messages are being sent already")]
    Busy(usize),
    /// The provider is away, or too slow.
    #[error("the provider did not answer")]
    Away(#[source] CallError),
    /// The provider does not want it.
    #[error("the provider answered {0}")]
    Refused(u16),
}

/// A way to phones.
#[async_trait]
pub(crate) trait SmsSender: Send + Sync {
    /// The one code that is sent to everybody; none: each is sent his own.
    fn fixed_code(&self) -> Option<&'static str>;
    /// Sends a code.
    async fn send(&self, phone: &Phone, code: &str, now_ms: u64) -> Result<(), SmsError>;
}

/// The sender of a configuration; none where nobody is to log in by phone.
pub(crate) fn sender(config: &SmsConfig) -> Result<Option<Arc<dyn SmsSender>>, EndpointError> {
    Ok(match config.provider {
        None => None,
        Some(SmsProvider::Development) => {
            tracing::warn!(
                "`router.sms.provider` is \"development\": everybody logs in as anybody, with the code {DEVELOPMENT_CODE}; not for users"
            );
            Some(Arc::new(Development))
        }
        Some(SmsProvider::Http) => Some(Arc::new(Webhook::new(config)?)),
    })
}

/// The code that the sender for development would send.
const DEVELOPMENT_CODE: &str = "1000";

/// Sends nothing: everybody knows the code.
struct Development;

#[async_trait]
impl SmsSender for Development {
    fn fixed_code(&self) -> Option<&'static str> {
        Some(DEVELOPMENT_CODE)
    }

    async fn send(&self, _phone: &Phone, _code: &str, _now_ms: u64) -> Result<(), SmsError> {
        Ok(())
    }
}
