//! Codes sent to phones. A full table refuses new phones: a code that was sent is never taken back before its time.

use super::expiring::Expiring;
use super::lock;
use crate::port::{LoginCodes, Result};
use crate::types::{AppId, CodeAsk, CodeKept, CodeVerdict, StateError};
use async_trait::async_trait;
use std::sync::{Arc, Mutex};

/// Phones that had a code within a window (a day): ten in a second, all day long.
const PHONES_MAX: usize = 1_000_000;

#[derive(Debug)]
struct Kept {
    /// `None` once it was used.
    code: Option<String>,
    until_ms: u64,
    again_ms: u64,
    sends: u32,
    window_ends_ms: u64,
    tries: u32,
}

#[derive(Debug)]
pub(super) struct LoginCodeTable {
    phones: Mutex<Expiring<(AppId, Arc<str>), Kept>>,
    max: usize,
}

impl LoginCodeTable {
    pub(super) fn new() -> Self {
        Self::with_max(PHONES_MAX)
    }

    pub(super) fn with_max(max: usize) -> Self {
        Self { phones: Mutex::new(Expiring::new()), max }
    }
}

#[async_trait]
impl LoginCodes for LoginCodeTable {
    async fn keep(&self, ask: &CodeAsk, now_ms: u64) -> Result<CodeKept> {
        let mut phones = lock(&self.phones);
        phones.sweep_for(now_ms, 1);
        let key = (ask.app, Arc::<str>::from(ask.phone.as_str()));
        let again_ms = now_ms.saturating_add(ask.gap_ms);
        let (mut sends, mut window_ends_ms) = (0, now_ms.saturating_add(ask.window_ms));
        if let Some((before, _)) = phones.stored(&key) {
            if before.code.as_deref() == Some(&ask.code) && before.until_ms == ask.until_ms && before.again_ms == again_ms {
                return Ok(CodeKept::Kept);
            }
            if now_ms < before.again_ms && before.again_ms <= again_ms {
                return Ok(CodeKept::TooSoon { retry_after_ms: before.again_ms - now_ms });
            }
            if now_ms < before.window_ends_ms && before.window_ends_ms <= window_ends_ms {
                if before.sends >= ask.sends_max {
                    return Ok(CodeKept::TooSoon { retry_after_ms: before.window_ends_ms - now_ms });
                }
                (sends, window_ends_ms) = (before.sends, before.window_ends_ms);
            }
        } else if phones.len() >= self.max {
            return Err(StateError::Full { what: "login codes", limit: self.max });
        }
        let kept = Kept { code: Some(ask.code.clone()), until_ms: ask.until_ms, again_ms, sends: sends + 1, window_ends_ms, tries: 0 };
        phones.insert(key, kept, window_ends_ms.max(again_ms).max(ask.until_ms));
        Ok(CodeKept::Kept)
    }

    async fn check(&self, app: AppId, phone: &str, code: &str, tries_max: u32, now_ms: u64) -> Result<CodeVerdict> {
        let mut phones = lock(&self.phones);
        let Some(kept) = phones.stored_mut(&(app, Arc::<str>::from(phone))) else { return Ok(CodeVerdict::Wrong) };
        let Some(right) = kept.code.as_deref().filter(|_| now_ms < kept.until_ms) else { return Ok(CodeVerdict::Wrong) };
        if kept.tries >= tries_max {
            return Ok(CodeVerdict::Spent { retry_after_ms: kept.again_ms.saturating_sub(now_ms) });
        }
        if right == code {
            kept.code = None;
            return Ok(CodeVerdict::Right);
        }
        kept.tries += 1;
        Ok(CodeVerdict::Wrong)
    }
}
