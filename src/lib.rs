//! A durable write-ahead log and a threaded Raft bound into it, to embed as a replicated log.
//!
//! - [`wal`]: the log alone. Segmented, checksummed, group-committed, read through memory maps.
//! - [`Node`]: a member of a replicated log. Give it a [`StateMachine`], a directory and a transport.
//! - [`snapshot`]: whole states of a state machine as files, so that the log need not be kept for ever.
//! - [`raft`]: the consensus by itself, without a disk, a network, a thread or a clock.
//!
//! ```
//! use catamaran::{Entry, Node, NodeId, StateMachine};
//!
//! #[derive(Default)]
//! struct Counter {
//!     total: usize,
//! }
//!
//! impl StateMachine for Counter {
//!     type Reply = usize;
//!
//!     fn apply(&mut self, entries: &[Entry]) -> Vec<usize> {
//!         let count = |entry: &Entry| {
//!             self.total += entry.payload.len();
//!             self.total
//!         };
//!         entries.iter().map(count).collect()
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path().join("n1");
//! # let options = catamaran::Options { segment_bytes: 1 << 20, max_entry_bytes: 1 << 10, ..Default::default() };
//! let node = Node::builder(NodeId(1), dir)
//! #   .options(options)
//!     .start(Counter::default())?;
//! let total = node.propose(b"+++")?.wait()?; // on disk, committed and applied
//! let seen = node.read(|counter| counter.total)?; // linearizable
//! assert_eq!((total, seen), (3, 3));
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]
// What only an event would have told is computed all the same.
#![cfg_attr(not(feature = "tracing"), allow(unused_variables))]

pub mod codec;
pub mod config;
mod driver;
pub mod error;
pub mod log;
pub mod node;
pub mod raft;
mod runtime;
#[cfg(feature = "sim")]
pub mod sim;
pub mod snapshot;
mod state_machine;
mod sync;
mod trace;
pub mod transport;
pub mod types;
pub mod vfs;
pub mod wal;

pub use config::{ClockBound, Options};
pub use node::{Error, Node, NodeStatus, Proposal, StartError};
pub use raft::event::RoleName;
pub use state_machine::{Snapshot, StateMachine};
pub use types::{
    Bytes, Change, ClusterId, Entry, EntryKind, LogId, LogIndex, Member, MemberRole, Membership,
    NodeId, Roster, Term,
};
pub use wal::WalOptions;

/// Compiles and runs the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
