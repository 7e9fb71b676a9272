//! Consensus, without a disk, a network, a thread or a clock.

pub mod event;
pub mod message;
