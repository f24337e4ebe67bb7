//! A cluster with a load on it, as a fault finds it.

use crate::{
    journal::{Journal, What},
    load::{Load, LoadOptions},
};
use anyhow::{Context as _, Result, ensure};
use billfish_testing::{Cluster, ClusterOptions, Node, eventually_within};
use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// From the end of a fault until everything is well again. The longest wait inside the system is a silent session's: two heartbeat gaps.
pub const RECOVERY_MAX: Duration = Duration::from_secs(90);
/// Nothing happened for so long: nothing will. What reached no gateway is overdue after 14 s and found by a sweep that goes round in 16 s.
const QUIET: Duration = Duration::from_secs(35);
/// Then the run counts as it is.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(120);

/// Processes, clients and their journal.
#[derive(Debug)]
pub struct Stage {
    /// The processes.
    pub cluster: Cluster,
    /// The clients.
    pub load: Load,
    /// What happens.
    pub journal: Journal,
    /// Every choice of the run.
    pub random: fastrand::Rng,
    repeat: u32,
}

impl Stage {
    /// Starts everything and waits until every client is in its room and hears the others. `None` where a server is missing.
    ///
    /// # Errors
    /// When the load does not come up.
    pub fn set(cluster: ClusterOptions, load: LoadOptions, path: &Path, seed: u64) -> Result<Option<Self>> {
        let Some(cluster) = Cluster::start(cluster) else { return Ok(None) };
        let journal = Journal::create(path).context("cannot write the journal")?;
        let routers = cluster.routers.iter().map(|router| router.address("http")).collect();
        let load = Load::start(load, journal.clone(), routers, cluster.api_key())?;
        let stage = Self { cluster, load, journal, random: fastrand::Rng::with_seed(seed), repeat: 0 };
        if !eventually_within(RECOVERY_MAX, || stage.load.is_settled()) {
            stage.keep_logs(&path.with_extension("logs"));
            stage.journal.finish()?;
        }
        ensure!(stage.load.is_settled(), "only {} members came into their rooms; see {}", stage.load.settled(), path.display());
        stage.load.speak(true);
        Ok(Some(stage))
    }

    /// Any of so many.
    pub fn any(&mut self, count: usize) -> usize {
        self.random.usize(..count)
    }

    /// A time between the two, drawn from the seed.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + (most.saturating_sub(least)).mul_f64(self.random.f64())
    }

    /// Lets the load run for a while: faults come at random times.
    pub fn run_for(&mut self, least: Duration, most: Duration) {
        let pause = self.between(least, most);
        sleep(pause);
    }

    /// Index of the router that owns one of the load's rooms; any, where that is not known.
    pub fn owner(&mut self) -> usize {
        let room = self.load.rooms()[self.random.usize(..self.load.rooms().len())];
        let any = self.random.usize(..self.cluster.routers.len());
        let owner = self.cluster.owner_of(room);
        if owner.is_none() {
            eprintln!("no owner of room {room} is known: any router will do");
        }
        owner.unwrap_or(any)
    }

    /// Writes down that a fault begins.
    pub fn begin(&mut self, detail: &str, is_store_away: bool) {
        self.repeat += 1;
        self.journal.put(What::FaultBegan { repeat: self.repeat, detail: detail.to_owned(), is_store_away });
    }

    /// Writes down that it is over.
    pub fn end(&self) {
        self.journal.put(What::FaultEnded { repeat: self.repeat });
    }

    /// Waits until every node is ready and every member is back in its room. That it takes too long is written down by what is missing.
    pub fn recover(&self) {
        let nodes = || self.cluster.gateways.iter().chain(&self.cluster.routers).filter(|node| node.is_running());
        if eventually_within(RECOVERY_MAX, || self.load.is_settled() && nodes().all(Node::ready)) {
            self.journal.put(What::Recovered { repeat: self.repeat });
            return;
        }
        eprintln!("not recovered from fault {}: {} members in their rooms", self.repeat, self.load.settled());
        for node in nodes().filter(|node| !node.ready()) {
            eprintln!("{}: /readyz {:?}", node.name(), node.admin("/readyz"));
        }
    }

    /// Tells the load which routers are up.
    pub fn announce_routers(&self) {
        let running = self.cluster.routers.iter().filter(|router| router.is_running());
        self.load.set_routers(running.map(|router| router.address("http")).collect());
    }

    /// Stops talking, waits until nothing happens any more, and closes the journal.
    ///
    /// # Errors
    /// When the journal is incomplete.
    pub fn quiet(&self) -> Result<()> {
        self.load.speak(false);
        let began = Instant::now();
        let quiet_ms = u64::try_from(QUIET.as_millis()).unwrap_or(u64::MAX);
        let from_ms = self.journal.now_ms();
        // Past the wait the journal is what it is, and the checker says what is missing.
        let is_quiet = eventually_within(QUIET_WAIT_MAX, || self.journal.now_ms() - self.journal.last_ms().max(from_ms) >= quiet_ms);
        if !is_quiet {
            eprintln!("not quiet after {:?}", began.elapsed());
        }
        self.journal.finish().context("the run proves nothing")
    }

    /// Keeps the logs of all nodes beside the journal.
    pub fn keep_logs(&self, directory: &Path) {
        if fs::create_dir_all(directory).is_ok() {
            for node in self.cluster.gateways.iter().chain(&self.cluster.routers) {
                node.keep_log(&directory.join(format!("{}.log", node.name())));
            }
        }
    }
}
