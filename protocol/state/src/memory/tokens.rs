//! Login tokens. A full table refuses new tokens: an issued one is never taken back before its time.

use super::expiring::Expiring;
use super::lock;
use crate::port::{Result, Tokens};
use crate::types::{StateError, TokenOwner};
use async_trait::async_trait;
use std::sync::{Arc, Mutex};

/// Ten times the logins a process can hold; at five minutes' life this is 3,300 tokens issued each second. About 250 MB.
const TOKENS_MAX: usize = 1_000_000;

#[derive(Debug)]
pub(super) struct TokenTable(Mutex<Expiring<Arc<str>, TokenOwner>>);

impl TokenTable {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Expiring::new()))
    }
}

#[async_trait]
impl Tokens for TokenTable {
    async fn issue(&self, token: &str, owner: TokenOwner, now_ms: u64, until_ms: u64) -> Result<()> {
        let mut table = lock(&self.0);
        table.sweep_for(now_ms, 1);
        if table.len() >= TOKENS_MAX && table.stored(token).is_none() {
            return Err(StateError::Full { what: "tokens", limit: TOKENS_MAX });
        }
        table.insert(Arc::from(token), owner, until_ms);
        Ok(())
    }

    async fn resolve(&self, tokens: &[String], now_ms: u64) -> Result<Vec<Option<TokenOwner>>> {
        let table = lock(&self.0);
        Ok(tokens.iter().map(|token| table.live(token.as_str(), now_ms).copied()).collect())
    }

    async fn revoke(&self, tokens: &[String]) -> Result<()> {
        let mut table = lock(&self.0);
        for token in tokens {
            table.remove(token.as_str());
        }
        Ok(())
    }
}
