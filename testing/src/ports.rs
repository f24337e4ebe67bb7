//! Ports for servers: free when asked, and below the kernel's ephemeral range, where no outgoing connection takes them while their server is
//! down. Another test may still be faster: whoever binds one must be ready to try another.
//!
//! Processes that run beside each other for long may each be given a share of the range by [`LANE`], as `2/4`: then no dead node's port is taken
//! by the other's new one.

use std::{
    env,
    hash::{BuildHasher, Hasher, RandomState},
    net::{IpAddr, Ipv4Addr, TcpListener},
};

/// A Redis Cluster node also takes its port + 10,000, which must stay below the ephemeral range (from 32,768) too.
pub(crate) const BUS_OFFSET: u16 = 10_000;
const FIRST: u16 = 10_240;
const COUNT: u16 = 12_000;
/// Environment variable with the share of a process: its number from 1, a slash, how many there are.
pub const LANE: &str = "BILLFISH_PORT_LANE";
/// Tries before the machine counts as out of ports.
const TRIES_MAX: usize = 1_000;

/// A port that is free on `host` at the moment.
pub(crate) fn free_port(host: IpAddr) -> u16 {
    let (first, count) = share(env::var(LANE).ok().as_deref());
    for _ in 0..TRIES_MAX {
        let port = first + u16::try_from(random() % u64::from(count)).expect("a remainder below a u16");
        if is_free(host, port) {
            return port;
        }
    }
    panic!("no free port in {first}..{} on {host}", first + count);
}

/// First port and number of ports of a share; all of them where none is given.
fn share(lane: Option<&str>) -> (u16, u16) {
    let Some(lane) = lane else { return (FIRST, COUNT) };
    let parsed = lane.split_once('/').and_then(|(number, of)| Some((number.parse::<u16>().ok()?, of.parse::<u16>().ok()?)));
    match parsed {
        Some((number, of)) if (1..=of).contains(&number) && of <= COUNT / 100 => (FIRST + (number - 1) * (COUNT / of), COUNT / of),
        _ => panic!("{LANE} is `{lane}`; it wants a number and how many there are, as 2/4"),
    }
}

/// A port that is free together with its cluster bus.
pub(crate) fn free_port_and_bus(host: IpAddr) -> u16 {
    for _ in 0..TRIES_MAX {
        let port = free_port(host);
        if is_free(host, port + BUS_OFFSET) {
            return port;
        }
    }
    panic!("no free pair of ports on {host}");
}

fn is_free(host: IpAddr, port: u16) -> bool {
    // Something bound to every address is in the way too.
    TcpListener::bind((host, port)).is_ok() && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

/// Different in every process and at every call: the standard library seeds its hashers by the system's randomness.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::{COUNT, FIRST, share};

    #[test]
    fn shares_are_apart_and_together_no_more_than_all() {
        assert_eq!(share(None), (FIRST, COUNT));
        let shares: Vec<(u16, u16)> = (1..=4).map(|number| share(Some(&format!("{number}/4")))).collect();
        assert!(shares.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{shares:?}");
        let (last, count) = shares[3];
        assert!(last + count <= FIRST + COUNT);
    }

    #[test]
    #[should_panic(expected = "as 2/4")]
    fn a_share_that_is_none_is_refused() {
        share(Some("5/4"));
    }
}
