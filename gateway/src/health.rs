//! Whether this gateway lives, and whether it should be given clients.
//!
//! - Alive: every shard has turned its loop lately, or has ended as it was told to. A gateway that is not should be restarted.
//! - Ready: it can let clients in and has a router for them. A gateway that is not should be left alone until it is.

use crate::{commands::Shards, shard::message::ShardCommand, store::Store, upstream::Upstream};
use billfish_state::Displacement;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// What is known about it.
#[derive(Debug)]
pub(crate) struct Health {
    store: Arc<Store>,
    upstream: Arc<Upstream>,
    shards: Shards,
    pub(crate) displacement: Displacement,
    draining: AtomicBool,
    ended: AtomicBool,
    start: Instant,
    /// When each shard last answered, in ms since `start`.
    pulses: Vec<AtomicU64>,
}

impl Health {
    pub(crate) fn new(store: Arc<Store>, upstream: Arc<Upstream>, shards: Shards) -> Self {
        let pulses = shards.numbers().map(|_| AtomicU64::new(0)).collect();
        let displacement = Displacement::new("gateway.node");
        Self {
            store,
            upstream,
            shards,
            displacement,
            draining: AtomicBool::default(),
            ended: AtomicBool::default(),
            start: Instant::now(),
            pulses,
        }
    }

    /// From now on it is not ready.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// From now on no shard has a pulse, and that is right.
    pub(crate) fn shards_ended(&self) {
        self.ended.store(true, Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Whether clients should be sent here; why not.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if self.is_draining() {
            return Err("the gateway is draining".to_owned());
        }
        if let Some(displaced) = self.displacement.by() {
            return Err(displaced.to_string());
        }
        // In the order of causes: a gateway that cannot read the registry finds no router in it.
        if let Some(why) = self.store.away() {
            return Err(why);
        }
        if self.has_no_link() {
            let why = self.upstream.why_no_link().map_or_else(String::new, |why| format!("; the last attempt: {why}"));
            return Err(format!("no link to a router is up{why}"));
        }
        Ok(())
    }

    /// Whether nobody could do anything here: there is no router to ask.
    pub(crate) fn has_no_link(&self) -> bool {
        self.upstream.links() == 0
    }

    /// Whether every shard turned its loop lately; which one did not.
    pub(crate) fn alive(&self) -> Result<(), String> {
        if self.ended.load(Relaxed) {
            return Ok(());
        }
        let now = self.now_ms();
        for (shard, pulse) in self.pulses.iter().enumerate() {
            let silent_ms = now.saturating_sub(pulse.load(Relaxed));
            if silent_ms > SILENT_MAX_MS {
                return Err(format!("shard {shard} has not turned its loop for {silent_ms} ms"));
            }
        }
        Ok(())
    }

    /// Feels each shard's pulse until `stop`.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = self.feel() => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(FEEL_EVERY) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn feel(&self) {
        let mut asked = Vec::new();
        for shard in self.shards.numbers() {
            // Nobody is in room 0, so a shard that takes its commands drops the question at once, and that is the answer.
            let (answer, answered) = oneshot::channel();
            if self.shards.try_give(shard, ShardCommand::RoomAccount { room_id: 0, answer }) {
                asked.push((shard, answered));
            }
        }
        let deadline = tokio::time::Instant::now() + FEEL_EVERY;
        for (shard, answered) in asked {
            if tokio::time::timeout_at(deadline, answered).await.is_ok() {
                self.pulses[usize::from(shard)].store(self.now_ms(), Relaxed);
            }
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A shard that answered nothing for so long hangs: its longest honest turn is a few milliseconds.
const SILENT_MAX_MS: u64 = 10_000;
const FEEL_EVERY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::{Health, SILENT_MAX_MS};
    use crate::{
        commands::Shards,
        metrics::ControlCounters,
        shard::mailbox::{Mailbox, Signal},
        store::Store,
        upstream::Upstream,
    };
    use billfish_state::State;
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    #[test]
    fn a_shard_without_a_pulse_is_a_trouble_until_it_has_ended_as_it_was_told_to() {
        let counters = Arc::new(ControlCounters::default());
        let store = Arc::new(Store::new(State::in_memory(), Arc::clone(&counters)));
        let shards = Shards::new(vec![Arc::new(Mailbox::new(1, Signal::task(), Signal::task()))]);
        let mut health = Health::new(store, Arc::new(Upstream::new(counters)), shards);
        assert_eq!(health.alive(), Ok(()));
        health.start = Instant::now() - Duration::from_millis(SILENT_MAX_MS + 1_000);
        assert!(health.alive().is_err_and(|why| why.starts_with("shard 0 has not turned its loop")));
        health.shards_ended();
        assert_eq!(health.alive(), Ok(()));
    }
}
