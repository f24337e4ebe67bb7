//! The Redis adapter: a single server, or a Redis Cluster.

mod acks;
mod command;
mod connection;
mod inbox;
mod keys;
mod members;
mod room_log;
mod slots;

use acks::RedisAcks;
use connection::Connection;
use inbox::RedisInbox;
use members::RedisMembers;
use room_log::RedisRoomLog;

/// A shared store in Redis.
#[derive(Debug)]
pub struct Redis {
    connection: Connection,
}
