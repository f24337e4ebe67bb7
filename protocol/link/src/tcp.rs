//! A link over TCP.
