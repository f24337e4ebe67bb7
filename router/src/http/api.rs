//! The business routes: a handler each, and the shapes they read and write.
//!
//! A handler turns a request into one call of the [`Handle`](crate::Handle) and its answer into JSON. What is legal is checked where it is
//! known: the shape here, the rules behind the handle.

#![expect(unused_qualifications, reason = "the macros of utoipa write paths that are longer than they need to be")]

pub(super) mod gifts;
pub(super) mod grants;
pub(super) mod im;
pub(super) mod login;
pub(super) mod moderation;
pub(super) mod rooms;
pub(super) mod streams;
pub(super) mod users;
pub(super) mod wallet;
pub(super) mod webhooks;

use super::{HttpConfig, HttpError, HttpParts, Network, RechargeProvider, StreamsConfig};
use crate::signature::SigningKey;
use std::sync::Arc;

/// What the handlers share.
#[derive(Clone, Debug)]
pub(super) struct Api {
    parts: HttpParts,
    addresses: Arc<StreamsConfig>,
    proxies: Arc<[Network]>,
    /// What callbacks of payments are signed with; none where none is taken.
    payments: Option<SigningKey>,
    /// An order is paid when it is made.
    pays_at_once: bool,
}

/// Random bytes of a secret that nobody outside is to know.
const SECRET_BYTES: usize = 32;

impl Api {
    pub(super) fn new(parts: HttpParts, config: &HttpConfig) -> Result<Self, HttpError> {
        let pays_at_once = config.recharge.provider == Some(RechargeProvider::Development);
        if pays_at_once {
            tracing::warn!("`http.recharge.provider` is \"development\": whatever is ordered counts as paid; not for users");
        }
        let payments = match config.recharge.secret.as_str() {
            "" if pays_at_once => {
                let mut secret = [0; SECRET_BYTES];
                getrandom::fill(&mut secret).map_err(HttpError::NoRandom)?;
                Some(SigningKey::new(&secret))
            }
            "" => None,
            secret => Some(SigningKey::new(secret.as_bytes())),
        };
        let (addresses, proxies) = (Arc::new(config.streams.clone()), Arc::from(config.proxies.as_slice()));
        Ok(Self { parts, addresses, proxies, payments, pays_at_once })
    }

    /// Who is believed when it says who calls.
    pub(super) fn proxies(&self) -> &[Network] {
        &self.proxies
    }
}
