//! People in memory, who can fail and lose races.

use super::Gate;
use crate::services::ports::{
    RecordError, Result,
    people::{People, Segment, Tags},
};
use async_trait::async_trait;
use billfish_state::{AppId, UserId};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// People without a database.
#[derive(Default)]
pub(crate) struct TestPeople(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    phones: HashMap<(AppId, String), UserId>,
    tags: HashMap<(AppId, UserId), Tags>,
    last_ids: HashMap<&'static str, i64>,
    step: i64,
    segments_taken: usize,
    /// Races for a segment that others win.
    lose: u32,
    failing: bool,
    gate: Option<Arc<Gate>>,
}

impl TestPeople {
    /// Segments of so many ids, from 1.
    pub(crate) fn with_step(step: i64) -> Self {
        Self(Mutex::new(Tables { step, ..Tables::default() }))
    }

    /// From now on every call fails, or none.
    pub(crate) fn fail(&self, failing: bool) {
        self.lock().failing = failing;
    }

    /// The next tries at a segment are won by others.
    pub(crate) fn lose(&self, races: u32) {
        self.lock().lose = races;
    }

    /// From now on who wants a segment waits at a gate.
    pub(crate) fn hold_segments(&self) -> Arc<Gate> {
        let gate = Gate::closed();
        self.lock().gate = Some(Arc::clone(&gate));
        gate
    }

    /// Segments that somebody got.
    pub(crate) fn segments_taken(&self) -> usize {
        self.lock().segments_taken
    }

    /// Phones that have a user.
    pub(crate) fn users(&self) -> usize {
        self.lock().phones.len()
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tables; a task that waits for nothing would never meet another.
    async fn enter(&self, what: &'static str) -> Result<MutexGuard<'_, Tables>> {
        tokio::task::yield_now().await;
        let tables = self.lock();
        if tables.failing {
            return Err(RecordError::Away { what, cause: "told to fail".into() });
        }
        Ok(tables)
    }
}

#[async_trait]
impl People for TestPeople {
    async fn user_of_phone(&self, app: AppId, phone: &str) -> Result<Option<UserId>> {
        Ok(self.enter("user_of_phone").await?.phones.get(&(app, phone.to_owned())).copied())
    }

    async fn add_user(&self, app: AppId, phone: &str, user: UserId, _now_ms: u64) -> Result<UserId> {
        Ok(*self.enter("add_user").await?.phones.entry((app, phone.to_owned())).or_insert(user))
    }

    async fn take_segment(&self, sequence: &'static str) -> Result<Option<Segment>> {
        let gate = self.lock().gate.clone();
        if let Some(gate) = gate {
            gate.pass().await;
        }
        let mut tables = self.enter("take_segment").await?;
        if tables.lose > 0 {
            tables.lose -= 1;
            return Ok(None);
        }
        let step = tables.step.max(1);
        let last = tables.last_ids.entry(sequence).or_default();
        let from = *last + 1;
        *last += step;
        tables.segments_taken += 1;
        Ok(Some(Segment { from, to: from + step - 1 }))
    }

    async fn tags(&self, app: AppId, user: UserId) -> Result<Tags> {
        Ok(self.enter("tags").await?.tags.get(&(app, user)).copied().unwrap_or_default())
    }

    async fn change_tags(&self, app: AppId, user: UserId, set: Tags, lift: Tags) -> Result<Tags> {
        let mut tables = self.enter("change_tags").await?;
        let tags = tables.tags.entry((app, user)).or_default();
        tags.0 = (tags.0 | set.0) & !lift.0;
        Ok(*tags)
    }
}
