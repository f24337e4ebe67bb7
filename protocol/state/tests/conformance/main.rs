//! Every adapter of the ports, against one suite.
//!
//! An adapter joins with a [`suite::Store`] and a line below. The suite sees the ports alone.
#![expect(clippy::unwrap_used, reason = "a test that fails here says so")]
#![expect(clippy::cloned_ref_to_slice_refs, reason = "`&[a.clone()]` reads better than what saves the clone")]

mod suite;

use billfish_state::State;

struct Memory;

impl suite::Store for Memory {
    async fn fresh() -> State {
        State::in_memory()
    }
}

suite::conformance!(memory, crate::Memory);
