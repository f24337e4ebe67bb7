//! How long things took, by the journal. Pure, like the checker; that they took too long is said by `bars`.

use crate::journal::{Entry, What};
use std::collections::{BTreeMap, BTreeSet};

/// After the end of a fault its effects still count as the fault's.
const AFTER_MS: u64 = 2_000;

/// What was measured. Where nothing was, it is 0 or none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measures {
    /// Chat in rooms, from the sender's call to the sight of 99 of 100 viewers, while no fault was on.
    pub calm_p99_ms: u64,
    /// The same while one was, where neither sender nor viewer was on the node it was done to.
    pub fault_p99_ms: u64,
    /// From a lost connection until the member was in its room again, 99 of 100.
    pub down_p99_ms: u64,
    /// The longest of these.
    pub down_max_ms: u64,
    /// From the end of a fault until every node was ready.
    pub ready_max_ms: u64,
    /// From SIGTERM to the end of a process.
    pub exit_max_ms: Option<u64>,
    /// From a gateway's, or a path's, death until users who did not come back were offline.
    pub offline_max_ms: Option<u64>,
    /// From the moment a path swallowed everything until both ends had given up its connections.
    pub given_up_max_ms: Option<u64>,
    /// Largest share of the rooms that one change of routers moved, of 1,000.
    pub moved_max_permille: Option<u64>,
    /// Rooms that moved from one router that stayed to another that stayed.
    pub moved_aside: u64,
    /// What was waited for and did not happen.
    pub never: Vec<String>,
}

#[derive(Debug, Default)]
struct Reader {
    measures: Measures,
    /// Sender and time by message.
    sent: BTreeMap<u64, (u32, u64)>,
    shown: Vec<(u32, u64, u64)>,
    nodes: BTreeMap<u32, String>,
    /// When they lost their connections.
    down: BTreeMap<u32, u64>,
    downs: Vec<u64>,
    faults: Vec<FaultTime>,
}

#[derive(Debug)]
struct FaultTime {
    from_ms: u64,
    to_ms: u64,
    /// Clients on the node it was done to, when it began.
    on_victim: BTreeSet<u32>,
}

/// Reads the whole journal of a run.
#[must_use]
pub fn measure(entries: &[Entry]) -> Measures {
    let mut reader = Reader::default();
    for entry in entries {
        reader.take(entry.at_ms, &entry.what);
    }
    reader.measures()
}

impl Reader {
    fn take(&mut self, at_ms: u64, what: &What) {
        match what {
            What::Connected { client, node, .. } => {
                self.nodes.insert(*client, node.clone());
            }
            What::Disconnected { client, .. } => {
                self.nodes.remove(client);
                self.down.entry(*client).or_insert(at_ms);
            }
            What::Closed { client, .. } => {
                self.nodes.remove(client);
                self.down.remove(client);
            }
            What::Joined { client, .. } => self.downs.extend(self.down.remove(client).map(|from| at_ms.saturating_sub(from))),
            What::SentRoom { client, id, began_ms, .. } => {
                self.sent.insert(*id, (*client, *began_ms));
            }
            What::Seen { client, id, room: Some(_), .. } => self.shown.push((*client, *id, at_ms)),
            What::FaultBegan { victim, .. } => {
                let on_victim = self.nodes.iter().filter(|(_, node)| Some(*node) == victim.as_ref()).map(|(client, _)| *client).collect();
                self.faults.push(FaultTime { from_ms: at_ms, to_ms: u64::MAX, on_victim });
            }
            What::FaultEnded { .. } => {
                if let Some(fault) = self.faults.last_mut() {
                    fault.to_ms = at_ms + AFTER_MS;
                }
            }
            What::Ready { after_ms, .. } => self.measures.ready_max_ms = self.measures.ready_max_ms.max(*after_ms),
            What::Exited { after_ms, .. } => raise(&mut self.measures.exit_max_ms, *after_ms),
            What::Offline { repeat, after_ms } => match after_ms {
                Some(after_ms) => raise(&mut self.measures.offline_max_ms, *after_ms),
                None => self.measures.never.push(format!("fault {repeat}: users who were gone for good stayed online")),
            },
            What::GivenUp { repeat, after_ms } => match after_ms {
                Some(after_ms) => raise(&mut self.measures.given_up_max_ms, *after_ms),
                None => self.measures.never.push(format!("fault {repeat}: a connection that carries nothing was never given up")),
            },
            What::Moved { rooms, moved, aside, .. } => {
                raise(&mut self.measures.moved_max_permille, moved * 1_000 / (*rooms).max(1));
                self.measures.moved_aside += aside;
            }
            What::Left { .. }
            | What::SentUser { .. }
            | What::Acked { .. }
            | What::Refused { .. }
            | What::RoomRefused { .. }
            | What::Pushed { .. }
            | What::PushFailed { .. }
            | What::Seen { room: None, .. }
            | What::SentGift { .. }
            | What::SeenGifts { .. }
            | What::Paid { .. }
            | What::Purse { .. }
            | What::Books { .. }
            | What::Recovered { .. } => {}
        }
    }

    fn measures(mut self) -> Measures {
        let (mut calm, mut during) = (Vec::new(), Vec::new());
        for &(client, id, at_ms) in &self.shown {
            let Some(&(sender, sent_ms)) = self.sent.get(&id) else { continue };
            let took = at_ms.saturating_sub(sent_ms);
            // Faults come one after the other: the last that began before is the only one that may be on.
            let next = self.faults.partition_point(|fault| fault.from_ms <= sent_ms);
            match next.checked_sub(1).and_then(|index| self.faults.get(index)).filter(|fault| sent_ms <= fault.to_ms) {
                None => calm.push(took),
                Some(fault) if !fault.on_victim.contains(&client) && !fault.on_victim.contains(&sender) => during.push(took),
                Some(_) => {}
            }
        }
        self.measures.calm_p99_ms = p99(&mut calm);
        self.measures.fault_p99_ms = p99(&mut during);
        self.measures.down_max_ms = self.downs.iter().copied().max().unwrap_or(0);
        self.measures.down_p99_ms = p99(&mut self.downs);
        self.measures
    }
}

fn raise(largest: &mut Option<u64>, value: u64) {
    *largest = (*largest).max(Some(value));
}

/// The value that 99 of 100 do not exceed; 0 of none.
fn p99(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get((values.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Measures, measure, p99};
    use crate::journal::{Entry, What};

    fn at(at_ms: u64, what: What) -> Entry {
        Entry { at_ms, what }
    }

    fn connected(at_ms: u64, client: u32, node: &str) -> Entry {
        at(at_ms, What::Connected { client, user: 100 + i64::from(client), node: node.to_owned() })
    }

    fn sent(at_ms: u64, id: u64) -> Entry {
        at(at_ms, What::SentRoom { client: 1, id, room: 7, msg: format!("m{id}"), began_ms: at_ms })
    }

    fn seen(at_ms: u64, client: u32, id: u64) -> Entry {
        at(at_ms, What::Seen { client, id, room: Some(7), seq: None })
    }

    fn fault(at_ms: u64, victim: &str) -> Entry {
        let victim = Some(victim.to_owned());
        at(at_ms, What::FaultBegan { repeat: 1, detail: "kill".to_owned(), is_store_away: false, victim })
    }

    #[test]
    fn ninety_nine_of_a_hundred_do_not_exceed_it() {
        assert_eq!(p99(&mut []), 0);
        assert_eq!(p99(&mut [5]), 5);
        assert_eq!(p99(&mut (1..=100).collect::<Vec<_>>()), 99);
        assert_eq!(p99(&mut (1..=1_000).rev().collect::<Vec<_>>()), 990);
    }

    #[test]
    fn who_sat_on_the_victim_does_not_count_during_the_fault() {
        let journal = [
            connected(0, 1, "gateway-2"),
            connected(0, 2, "gateway-1"),
            connected(0, 3, "gateway-2"),
            sent(10, 1),
            seen(14, 2, 1),
            seen(17, 3, 1),
            fault(100, "gateway-1"),
            sent(110, 2),
            seen(122, 3, 2),
            seen(5_000, 2, 2),
            at(400, What::SentRoom { client: 2, id: 4, room: 7, msg: "m4".to_owned(), began_ms: 400 }),
            seen(5_500, 3, 4),
            at(6_000, What::FaultEnded { repeat: 1 }),
            sent(9_000, 3),
            seen(9_001, 2, 3),
        ];
        let measures = measure(&journal);
        assert_eq!((measures.calm_p99_ms, measures.fault_p99_ms), (7, 12));
    }

    #[test]
    fn a_member_is_down_from_its_connection_s_end_until_it_is_in_its_room_again() {
        let journal = [
            connected(0, 1, "gateway-1"),
            at(100, What::Disconnected { client: 1, cause: "killed".to_owned() }),
            at(300, What::Disconnected { client: 1, cause: "refused".to_owned() }),
            connected(400, 1, "gateway-2"),
            at(450, What::Joined { client: 1, room: 7, gap: false }),
        ];
        let measures = measure(&journal);
        assert_eq!((measures.down_p99_ms, measures.down_max_ms), (350, 350));
    }

    #[test]
    fn the_longest_of_each_and_what_never_came() {
        let journal = [
            at(1, What::Ready { repeat: 1, after_ms: 20 }),
            at(2, What::Ready { repeat: 2, after_ms: 10 }),
            at(3, What::Exited { node: "gateway-1".to_owned(), after_ms: 700 }),
            at(4, What::Offline { repeat: 1, after_ms: Some(12_000) }),
            at(5, What::Offline { repeat: 2, after_ms: None }),
            at(6, What::GivenUp { repeat: 1, after_ms: Some(9_000) }),
            at(7, What::Moved { repeat: 1, rooms: 200, moved: 70, aside: 0 }),
            at(8, What::Moved { repeat: 1, rooms: 200, moved: 60, aside: 1 }),
        ];
        let Measures { ready_max_ms, exit_max_ms, offline_max_ms, given_up_max_ms, moved_max_permille, moved_aside, never, .. } =
            measure(&journal);
        assert_eq!((ready_max_ms, exit_max_ms, offline_max_ms, given_up_max_ms), (20, Some(700), Some(12_000), Some(9_000)));
        assert_eq!((moved_max_permille, moved_aside, never.len()), (Some(350), 1, 1));
    }
}
