//! What is known of each address, in a bounded table that always has room for an unknown one unless connections hold every place.
//!
//! ```text
//!  with connections ─── last one goes ──► at rest, in the queue of what the address did:
//!        ▲                                  nothing │ bad tokens │ banned       front: longest at rest
//!        └───────── accepted ◄──────────────────────┘
//! ```
//!
//! - A full table gives the place of one at rest away: one of which nothing is lost if a front is such, else the front of the first queue that
//!   has one. So whoever did nothing goes first and the banned last, and no number of strangers shuts others out.
//! - A question costs the same however many addresses there are: no queue is ever walked through.

use super::Allowance;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
};

/// What limits are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Address {
    V4(Ipv4Addr),
    /// The upper half.
    V6(u64),
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((u128::from(address) >> 64) as u64),
        }
    }
}

/// What is known of one address.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) half_open: u32,
    pub(super) live: u32,
    pub(super) new: Allowance,
    pub(super) logins: Allowance,
    pub(super) bad_tokens: u32,
    /// When the first of `bad_tokens` came.
    pub(super) bad_since_ms: u64,
    pub(super) banned_until_ms: u64,
}

impl Entry {
    /// Lets go what no longer counts: bad tokens of long ago and a ban that is over.
    pub(super) const fn expire(&mut self, now_ms: u64, ban_ms: u64) {
        if now_ms.saturating_sub(self.bad_since_ms) >= ban_ms {
            self.bad_tokens = 0;
        }
        if self.banned_until_ms <= now_ms {
            self.banned_until_ms = 0;
        }
    }

    /// What forgetting it would lose.
    fn holds(&self, now_ms: u64, ban_ms: u64) -> Option<Holds> {
        if self.banned_until_ms > now_ms {
            Some(Holds::Ban)
        } else if self.bad_tokens > 0 && now_ms.saturating_sub(self.bad_since_ms) < ban_ms {
            Some(Holds::BadTokens)
        } else if !self.new.is_full(now_ms) || !self.logins.is_full(now_ms) {
            Some(Holds::Allowance)
        } else {
            None
        }
    }

    /// The queue it waits in; none while it has connections.
    const fn queue(&self) -> Option<Holds> {
        if self.live > 0 {
            None
        } else if self.banned_until_ms > 0 {
            Some(Holds::Ban)
        } else if self.bad_tokens > 0 {
            Some(Holds::BadTokens)
        } else {
            Some(Holds::Allowance)
        }
    }
}

/// What an address may have used up or earned, in the order in which it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Holds {
    Allowance,
    BadTokens,
    Ban,
}

impl Holds {
    /// Every one, in the order of its number.
    pub(crate) const ALL: [Self; 3] = [Self::Allowance, Self::BadTokens, Self::Ban];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Allowance => "allowance",
            Self::BadTokens => "bad_tokens",
            Self::Ban => "ban",
        }
    }
}

/// The place of an address in the table.
pub(super) type Place = u32;

/// No place.
const NONE: Place = Place::MAX;

#[derive(Debug)]
struct Node {
    address: Address,
    entry: Entry,
    queue: Option<Holds>,
    before: Place,
    behind: Place,
}

/// Ends of a queue that runs through the nodes.
#[derive(Clone, Copy, Debug)]
struct Queue {
    front: Place,
    back: Place,
}

/// Connections hold every place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableFull;

/// The table.
#[derive(Debug)]
pub(super) struct Addresses {
    places: HashMap<Address, Place, foldhash::fast::RandomState>,
    nodes: Vec<Node>,
    queues: [Queue; Holds::ALL.len()],
    max: usize,
    /// How long bad tokens and bans count.
    ban_ms: u64,
}

impl Addresses {
    pub(super) fn new(max: usize, ban_ms: u64) -> Self {
        let queues = [Queue { front: NONE, back: NONE }; Holds::ALL.len()];
        Self { places: HashMap::default(), nodes: Vec::new(), queues, max, ban_ms }
    }

    pub(super) fn find(&self, address: Address) -> Option<Place> {
        self.places.get(&address).copied()
    }

    /// A place for an address that has none, and what was lost of another for it.
    ///
    /// # Errors
    /// There is none to be had.
    pub(super) fn insert(&mut self, address: Address, now_ms: u64) -> Result<(Place, Option<Holds>), TableFull> {
        debug_assert!(self.find(address).is_none(), "it has a place");
        let node = Node { address, entry: Entry::default(), queue: None, before: NONE, behind: NONE };
        let (place, lost) = if self.nodes.len() < self.max {
            let place = Place::try_from(self.nodes.len()).map_err(|_| TableFull)?;
            self.nodes.push(node);
            (place, None)
        } else {
            let place = self.victim(now_ms).ok_or(TableFull)?;
            let lost = self.nodes[place as usize].entry.holds(now_ms, self.ban_ms);
            self.unlink(place);
            let forgotten = std::mem::replace(&mut self.nodes[place as usize], node);
            self.places.remove(&forgotten.address);
            (place, lost)
        };
        self.places.insert(address, place);
        self.file(place);
        Ok((place, lost))
    }

    /// Changes what is known of an address.
    pub(super) fn change<T>(&mut self, place: Place, change: impl FnOnce(&mut Entry) -> T) -> T {
        let changed = change(&mut self.nodes[place as usize].entry);
        self.file(place);
        changed
    }

    /// Whose place can be given away best.
    fn victim(&self, now_ms: u64) -> Option<Place> {
        let fronts = || self.queues.iter().map(|queue| queue.front).filter(|front| *front != NONE);
        fronts().find(|front| self.nodes[*front as usize].entry.holds(now_ms, self.ban_ms).is_none()).or_else(|| fronts().next())
    }

    /// Puts it where it belongs by what is known of it now.
    fn file(&mut self, place: Place) {
        let node = &self.nodes[place as usize];
        let queue = node.entry.queue();
        if queue == node.queue {
            return;
        }
        self.unlink(place);
        let Some(holds) = queue else { return };
        let back = std::mem::replace(&mut self.queues[holds as usize].back, place);
        let node = &mut self.nodes[place as usize];
        (node.queue, node.before, node.behind) = (queue, back, NONE);
        match back {
            NONE => self.queues[holds as usize].front = place,
            back => self.nodes[back as usize].behind = place,
        }
    }

    /// Takes it out of its queue, if it is in one.
    fn unlink(&mut self, place: Place) {
        let node = &mut self.nodes[place as usize];
        let Some(holds) = node.queue.take() else { return };
        let (before, behind) = (node.before, node.behind);
        match before {
            NONE => self.queues[holds as usize].front = behind,
            before => self.nodes[before as usize].behind = behind,
        }
        match behind {
            NONE => self.queues[holds as usize].back = before,
            behind => self.nodes[behind as usize].before = before,
        }
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.nodes.iter().map(|node| &node.entry)
    }

    /// Every queue holds exactly those that belong into it, linked in both directions, and each address is found at its place.
    #[cfg(test)]
    pub(super) fn is_in_order(&self) -> bool {
        let mut queued = 0;
        for holds in Holds::ALL {
            let (mut before, mut at) = (NONE, self.queues[holds as usize].front);
            while at != NONE {
                let node = &self.nodes[at as usize];
                if node.before != before || node.queue != Some(holds) || node.entry.queue() != Some(holds) || queued > self.nodes.len() {
                    return false;
                }
                queued += 1;
                (before, at) = (at, node.behind);
            }
            if self.queues[holds as usize].back != before {
                return false;
            }
        }
        let resting = self.nodes.iter().filter(|node| node.entry.live == 0).count();
        let found = self.nodes.iter().enumerate().all(|(at, node)| self.find(node.address) == Place::try_from(at).ok());
        queued == resting && found && self.places.len() == self.nodes.len() && self.nodes.len() <= self.max
    }
}
