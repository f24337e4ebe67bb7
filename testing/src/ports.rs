//! Ports for servers: free when asked, and below the kernel's ephemeral range, where no outgoing connection takes them while their server is
//! down. Another test may still be faster: whoever binds one must be ready to try another.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::{IpAddr, Ipv4Addr, TcpListener},
};

/// A Redis Cluster node also takes its port + 10,000, which must stay below the ephemeral range (from 32,768) too.
pub(crate) const BUS_OFFSET: u16 = 10_000;
const FIRST: u16 = 10_240;
const COUNT: u16 = 12_000;
/// Tries before the machine counts as out of ports.
const TRIES_MAX: usize = 1_000;

/// A port that is free on `host` at the moment.
pub(crate) fn free_port(host: IpAddr) -> u16 {
    for _ in 0..TRIES_MAX {
        let port = FIRST + u16::try_from(random() % u64::from(COUNT)).expect("a remainder below a u16");
        if is_free(host, port) {
            return port;
        }
    }
    panic!("no free port in {FIRST}..{} on {host}", FIRST + COUNT);
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
