//! A cluster with a load on it, as a fault finds it.

use crate::{
    journal::{Journal, What},
    load::{Entrance, Load, LoadOptions},
    rest::Base,
    vitals::Vitals,
};
use anyhow::{Context as _, Result, ensure};
use billfish_testing::{Cluster, ClusterOptions, Node, Sql, eventually_within};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

/// From the end of a fault until everything is well again. The longest wait inside the system is a silent session's: two heartbeat gaps.
pub const RECOVERY_MAX: Duration = Duration::from_secs(90);
/// From the death of a gateway or a path until its users count as offline.
pub const NOTICED_MAX: Duration = Duration::from_secs(65);
/// Nothing happened for so long: nothing will. What reached no gateway is overdue after 14 s and found by a sweep that goes round in 16 s.
const QUIET: Duration = Duration::from_secs(35);
/// Then the run counts as it is.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(120);

/// Between two looks whether all is well again.
const RECOVERY_LOOK: Duration = Duration::from_millis(50);

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
    /// What the nodes take of the machine.
    pub vitals: Vitals,
    /// How the cluster was before the load.
    pub base: Base,
    /// What is waited for while the run goes on.
    waiting: Vec<JoinHandle<()>>,
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
        let vitals = Vitals::start();
        cluster.nodes().for_each(|node| vitals.follow(node));
        let base = Base::of(&cluster);
        let proxies = cluster.gateways.iter().zip(&cluster.client_proxies);
        let entrance = Entrance {
            routers: cluster.routers.iter().map(|router| router.address("http")).collect(),
            key: cluster.api_key().to_owned(),
            proxies: proxies.map(|(gateway, proxy)| (gateway.address("tcp").to_string(), proxy.address().to_string())).collect(),
        };
        let load = Load::start(load, journal.clone(), entrance)?;
        let random = fastrand::Rng::with_seed(seed);
        let stage = Self { cluster, load, journal, random, vitals, base, waiting: Vec::new(), repeat: 0 };
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
        self.begin_at(None, detail, is_store_away);
    }

    /// The same for a fault of one node.
    pub fn begin_at(&mut self, victim: Option<String>, detail: &str, is_store_away: bool) {
        self.repeat += 1;
        self.journal.put(What::FaultBegan { repeat: self.repeat, detail: detail.to_owned(), is_store_away, victim });
    }

    /// Which repeat is on.
    pub fn repeat(&self) -> u32 {
        self.repeat
    }

    /// Writes down, once these users count as offline, how long that took; the run goes on meanwhile.
    pub fn expect_offline(&mut self, users: Vec<i64>) {
        let (journal, repeat) = (self.journal.clone(), self.repeat);
        let tell = move |after: Option<Duration>| journal.put(What::Offline { repeat, after_ms: after.map(as_ms) });
        self.waiting.push(self.load.when_offline(users, NOTICED_MAX, tell));
    }

    /// Who owns which spare room, as far as that is known. Something is pushed to each before.
    pub fn placements(&self) -> BTreeMap<i64, usize> {
        self.load.touch_spare_rooms();
        self.load.spare_rooms().iter().filter_map(|&room| Some((room, self.cluster.owner_of(room)?))).collect()
    }

    /// Writes down how many rooms moved between two looks, of which `guest` came or went.
    pub fn compare(&self, before: &BTreeMap<i64, usize>, after: &BTreeMap<i64, usize>, guest: usize) {
        let known = before.iter().filter_map(|(room, old)| Some((*old, *after.get(room)?)));
        let (mut rooms, mut moved, mut aside) = (0, 0, 0);
        for (old, new) in known {
            rooms += 1;
            moved += u64::from(old != new);
            aside += u64::from(old != new && old != guest && new != guest);
        }
        self.journal.put(What::Moved { repeat: self.repeat, rooms, moved, aside });
    }

    /// Writes down that it is over.
    pub fn end(&self) {
        self.journal.put(What::FaultEnded { repeat: self.repeat });
    }

    /// Waits until every node is ready and every member is back in its room. That it takes too long is written down by what is missing.
    pub fn recover(&self) {
        let nodes = || self.cluster.nodes().filter(|node| node.is_running());
        nodes().for_each(|node| self.vitals.follow(node));
        let began = Instant::now();
        let mut was_ready = false;
        let is_well = eventually_within(RECOVERY_MAX, || {
            if !was_ready && nodes().all(Node::ready) {
                was_ready = true;
                self.journal.put(What::Ready { repeat: self.repeat, after_ms: as_ms(began.elapsed()) });
            }
            let is_well = was_ready && self.load.is_settled() && nodes().all(Node::ready);
            if !is_well {
                sleep(RECOVERY_LOOK);
            }
            is_well
        });
        if is_well {
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
    pub fn quiet(&mut self) -> Result<()> {
        self.load.speak(false);
        for waiting in self.waiting.drain(..) {
            // One that panicked has told nothing.
            waiting.join().ok();
        }
        let began = Instant::now();
        let quiet_ms = as_ms(QUIET);
        let from_ms = self.journal.now_ms();
        // Past the wait the journal is what it is, and the checker says what is missing.
        let is_quiet = eventually_within(QUIET_WAIT_MAX, || self.journal.now_ms() - self.journal.last_ms().max(from_ms) >= quiet_ms);
        if !is_quiet {
            eprintln!("not quiet after {:?}", began.elapsed());
        }
        let mut ledger = match &self.cluster.maria {
            Some(maria) => Sql::server(&maria.url()),
            None => Sql::file(&self.cluster.data_dir().join("billfish.db")),
        };
        self.load.read_ledger(&mut ledger);
        ledger.close();
        self.journal.finish().context("the run proves nothing")
    }

    /// Keeps the logs of all nodes beside the journal.
    pub fn keep_logs(&self, directory: &Path) {
        if fs::create_dir_all(directory).is_ok() {
            for node in self.cluster.nodes() {
                node.keep_log(&directory.join(format!("{}.log", node.name())));
            }
        }
    }
}

/// Whole ms.
pub(crate) fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
