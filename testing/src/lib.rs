//! Private servers and processes for tests and fault runs.
#![forbid(unsafe_code)]
