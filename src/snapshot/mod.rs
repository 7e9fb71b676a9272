//! Snapshots of a state machine: whole files, each the state after one entry of the log (Raft paper, section 7;
//! thesis, chapter 5).
//!
//! The layout is in `docs/FORMAT.md`. A snapshot has its name once all of it is durable; before, it has a
//! temporary one, and the next open removes it. So what [`SnapshotStore::open`] finds under a name is either whole
//! or damaged. Nothing here holds more of a snapshot in memory than a chunk, and no length is believed before
//! its checksum is right and the file is that long.

mod error;
mod format;
mod incoming;
mod reader;
mod store;
mod writer;

pub use error::SnapshotError;
pub use format::{Configuration, Meta};
pub use incoming::{Ask, IncomingSnapshot, MAX_PIECE_BYTES, Piece};
pub use reader::{SnapshotId, SnapshotReader, Whole};
pub use store::{Found, SnapshotStore};
pub use writer::SnapshotWriter;
