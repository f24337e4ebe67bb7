//! Login tokens. A full table refuses new tokens: an issued one is never taken back before its time.

use super::expiring::Expiring;
use super::lock;
use crate::port::{Result, Tokens};
use crate::types::{StateError, TokenOwner};
use async_trait::async_trait;
use std::sync::{Arc, Mutex};

/// Ten times the logins a process can hold; at five minutes' life this is 3,300 tokens issued each second. At 133 bytes each (measured, tokens of
/// 32 characters) and 33 for the session's print, 166 MB.
const TOKENS_MAX: usize = 1_000_000;

#[derive(Debug)]
pub(super) struct TokenTable {
    tokens: Mutex<Expiring<Arc<str>, TokenOwner>>,
    max: usize,
}

impl TokenTable {
    pub(super) fn new() -> Self {
        Self::with_max(TOKENS_MAX)
    }

    pub(super) fn with_max(max: usize) -> Self {
        Self { tokens: Mutex::new(Expiring::new()), max }
    }
}

#[async_trait]
impl Tokens for TokenTable {
    async fn issue(&self, token: &str, owner: TokenOwner, now_ms: u64, until_ms: u64) -> Result<()> {
        let mut table = lock(&self.tokens);
        table.sweep_for(now_ms, 1);
        if table.len() >= self.max && table.stored(token).is_none() {
            return Err(StateError::Full { what: "tokens", limit: self.max });
        }
        table.insert(Arc::from(token), owner, until_ms);
        Ok(())
    }

    async fn resolve(&self, tokens: &[String], now_ms: u64) -> Result<Vec<Option<TokenOwner>>> {
        let table = lock(&self.tokens);
        Ok(tokens.iter().map(|token| table.live(token.as_str(), now_ms).copied()).collect())
    }

    async fn revoke(&self, tokens: &[String]) -> Result<()> {
        let mut table = lock(&self.tokens);
        for token in tokens {
            table.remove(token.as_str());
        }
        Ok(())
    }
}
