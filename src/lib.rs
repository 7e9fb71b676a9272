//! A durable write-ahead log and a threaded Raft bound into it, to embed as a replicated log.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod codec;
pub mod config;
pub mod error;
pub mod raft;
#[cfg(feature = "sim")]
pub mod sim;
pub mod transport;
pub mod types;
pub mod vfs;
pub mod wal;
