//! Many nodes in one thread, with faults drawn from a seed.
#![forbid(unsafe_code)]
