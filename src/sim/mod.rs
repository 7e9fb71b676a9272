//! A disk that is told how to fail, for tests of one's own. Feature `sim`.
//!
//! Everything random comes from a seed, and the same calls give the same disk.

mod disk;
mod rng;

pub use disk::{Call, Moment, Op, SimDisk, Survival};
pub use rng::Rng;
