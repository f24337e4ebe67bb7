//! Users' sessions at the HTTP API. A full table refuses new ones: a session that was opened is never ended before its time, but by its user's
//! next ones.

use super::expiring::Expiring;
use super::lock;
use crate::port::{Result, SESSIONS_PER_USER_MAX, Sessions};
use crate::types::{SessionOwner, StateError};
use async_trait::async_trait;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

/// Sessions in all: each is a login by phone within a month.
const SESSIONS_MAX: usize = 1_000_000;

#[derive(Debug)]
struct Tables {
    sessions: Expiring<Arc<str>, SessionOwner>,
    /// Those of each user, the one that ends soonest first.
    of_user: HashMap<SessionOwner, BTreeSet<(u64, Arc<str>)>>,
}

#[derive(Debug)]
pub(super) struct SessionTable {
    tables: Mutex<Tables>,
    max: usize,
}

impl SessionTable {
    pub(super) fn new() -> Self {
        Self::with_max(SESSIONS_MAX)
    }

    pub(super) fn with_max(max: usize) -> Self {
        Self { tables: Mutex::new(Tables { sessions: Expiring::new(), of_user: HashMap::new() }), max }
    }
}

impl Tables {
    fn sweep_for_one(&mut self, now_ms: u64) {
        let mut dropped = Vec::new();
        self.sessions.sweep(now_ms, 1, |print, owner| dropped.push((print, owner)));
        for (print, owner) in dropped {
            self.forget(&print, owner);
        }
    }

    fn end(&mut self, print: &str) {
        if let Some(owner) = self.sessions.remove(print) {
            self.forget(print, owner);
        }
    }

    /// Takes one out of its user's list, which has a few.
    fn forget(&mut self, print: &str, owner: SessionOwner) {
        if let Some(own) = self.of_user.get_mut(&owner) {
            own.retain(|(_, other)| **other != *print);
            if own.is_empty() {
                self.of_user.remove(&owner);
            }
        }
    }
}

#[async_trait]
impl Sessions for SessionTable {
    async fn open(&self, print: &str, owner: SessionOwner, now_ms: u64, until_ms: u64) -> Result<()> {
        let mut tables = lock(&self.tables);
        tables.sweep_for_one(now_ms);
        if tables.sessions.len() >= self.max && tables.sessions.stored(print).is_none() {
            return Err(StateError::Full { what: "sessions", limit: self.max });
        }
        tables.end(print);
        let others: Vec<_> = tables.of_user.get(&owner).into_iter().flatten().cloned().collect();
        let (ended, live): (Vec<_>, Vec<_>) = others.into_iter().partition(|(until_ms, _)| *until_ms <= now_ms);
        let over = (live.len() + 1).saturating_sub(SESSIONS_PER_USER_MAX);
        for (_, print) in ended.into_iter().chain(live.into_iter().take(over)) {
            tables.end(&print);
        }
        let print = Arc::<str>::from(print);
        tables.of_user.entry(owner).or_default().insert((until_ms, Arc::clone(&print)));
        tables.sessions.insert(print, owner, until_ms);
        Ok(())
    }

    async fn resolve(&self, prints: &[String], now_ms: u64) -> Result<Vec<Option<SessionOwner>>> {
        let tables = lock(&self.tables);
        Ok(prints.iter().map(|print| tables.sessions.live(print.as_str(), now_ms).copied()).collect())
    }

    async fn close(&self, print: &str, owner: SessionOwner) -> Result<()> {
        let mut tables = lock(&self.tables);
        if tables.sessions.stored(print).is_some_and(|(of, _)| *of == owner) {
            tables.end(print);
        }
        Ok(())
    }

    async fn close_all(&self, owner: SessionOwner) -> Result<()> {
        let mut tables = lock(&self.tables);
        for (_, print) in tables.of_user.remove(&owner).unwrap_or_default() {
            tables.sessions.remove(&*print);
        }
        Ok(())
    }
}
