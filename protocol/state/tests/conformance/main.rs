//! Every adapter of the ports, against one suite; and the Redis adapter against the in-process one.
//!
//! An adapter joins with a [`suite::Store`] and a line below. The suite sees the ports alone.
#![expect(clippy::unwrap_used, reason = "a test that fails here says so")]
#![expect(clippy::cloned_ref_to_slice_refs, reason = "`&[a.clone()]` reads better than what saves the clone")]

mod differential;
mod servers;
mod suite;

use billfish_state::State;
use servers::{Cluster, Single};

struct Memory;

impl suite::Store for Memory {
    type Server = ();
    const HISTORIES: u32 = 64;
    fn server() -> Option<()> {
        Some(())
    }
    async fn fresh() -> State {
        State::in_memory()
    }
}

suite::conformance!(memory, crate::Memory, each);
suite::conformance!(redis, crate::Single, each);
suite::conformance!(cluster, crate::Cluster, together);
differential::differential!(redis_and_the_model, Single);
differential::differential!(cluster_and_the_model, Cluster);
