//! The live-room services: plain rules over ports. What comes in is values, what goes out is values; no socket, link or task here.

pub mod ports;
