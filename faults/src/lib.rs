//! Faults against real processes under load, checked from journals.
//!
//! ```text
//!   fault ──> cluster of processes <── load (SDK clients, API calls)
//!     │                                  │
//!     └───────────> journal <────────────┘ ──> checker ──> a line of the table
//! ```
//!
//! - The load writes down what users saw, the checker alone decides what that means: no part of the system under test is asked.
//! - The checker is pure and has a test for every breach it must find.
#![forbid(unsafe_code)]

pub mod bars;
pub mod checker;
pub mod fault;
pub mod journal;
pub mod lanes;
pub mod load;
pub mod logs;
pub mod measure;
pub mod rest;
pub mod run;
pub mod stage;
pub mod table;
pub mod vitals;
