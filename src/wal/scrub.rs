//! Reading sealed segments again, so that damage shows while other members still have what it hit.
//!
//! A step holds its segment: one that is dropped meanwhile may be removed, which takes nothing from whoever has
//! the file open, but is not made into a new one under the step's map (`wal/stock.rs` recycles only what nobody
//! holds). What a log has dropped it forgets before its file goes, and no name is given twice: so what is wrong
//! with a segment that the log still knows after the step is damage, also if the file is gone.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::error::WalError;
use super::index::Segment;
use super::{Handle, verify};
use crate::error::Fault;
use crate::trace::warn;
use crate::vfs::{Access, Disk};

/// How much is asked of the disk at once.
const CHUNK_BYTES: usize = 1 << 20;

type Report = Arc<dyn Fn(&WalError) + Send + Sync>;

/// How fast sealed segments are read again, and who is told of damage.
#[derive(Clone)]
pub struct Scrub {
    pub(super) bytes_per_s: u64,
    pub(super) on_damage: Report,
}

impl Scrub {
    /// At most `bytes_per_s` over time, in bytes, at least 1. Each damaged segment is given to `on_damage`
    /// once until the log is opened again: as damage (see [`WalError::is_damage`]), or as [`WalError::Io`] if
    /// the disk could not read it, which is told apart from damage that is found later.
    ///
    /// `on_damage` is called on the helper thread, or by [`Wal::scrub_step`](super::Wal::scrub_step). It must
    /// not panic, close the log or drop its last handle, and nothing is prepared while it runs.
    pub fn new(bytes_per_s: u64, on_damage: impl Fn(&WalError) + Send + Sync + 'static) -> Self {
        Self {
            bytes_per_s,
            on_damage: Arc::new(on_damage),
        }
    }
}

/// One segment that was read again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Scrubbed {
    /// The name of its file.
    pub segment: String,
    /// How many bytes it has.
    pub bytes: u64,
    /// What is wrong with it: damage, or [`WalError::Io`] if it could not be read. None too if it was dropped
    /// while it was read.
    pub damage: Option<WalError>,
}

/// Where the scrub is.
pub(super) struct Rounds {
    /// The sequence of the segment that was read last.
    last: u64,
    /// What was reported: sequences, each with whether it was damage.
    reported: BTreeSet<(u64, bool)>,
    on_damage: Report,
}

impl Rounds {
    pub(super) fn new(scrub: Option<&Scrub>) -> Self {
        let told = |scrub: &Scrub| Arc::clone(&scrub.on_damage);
        Self {
            last: 0,
            reported: BTreeSet::new(),
            on_damage: scrub.map_or_else(|| Arc::new(|_: &WalError| ()) as Report, told),
        }
    }

    /// How many reports there were.
    #[cfg(test)]
    pub(super) fn told(&self) -> usize {
        self.reported.len()
    }
}

impl Handle {
    /// See [`Wal::scrub_step`](super::Wal::scrub_step).
    pub(super) fn scrub_step(&self) -> Result<Option<Scrubbed>, WalError> {
        // Held during the step: whoever lets the directory go waits for it.
        let mut rounds = self.rounds.lock();
        let next = {
            let core = self.core.lock();
            if core.closed {
                return Err(WalError::Closed);
            }
            core.sealed_after(rounds.last)
        };
        let Some((segment, has_footer)) = next else {
            return Ok(None);
        };
        rounds.last = segment.sequence;
        let checked = self.check(&segment, has_footer);
        let damage = checked
            .err()
            .filter(|_| self.core.lock().holds(segment.sequence));
        let is_new = damage.as_ref().is_some_and(|error| {
            let report = (segment.sequence, error.is_damage());
            rounds.reported.insert(report)
        });
        let on_damage = Arc::clone(&rounds.on_damage);
        // Whoever is told may want to take a step himself.
        drop(rounds);
        if let Some(error) = damage.as_ref().filter(|_| is_new) {
            warn!(segment = %segment.name, %error, "a sealed segment is damaged");
            on_damage(error);
        }
        Ok(Some(Scrubbed {
            segment: segment.name.clone(),
            bytes: segment.size,
            damage,
        }))
    }

    fn check(&self, segment: &Segment, has_footer: bool) -> Result<(), WalError> {
        let (disk, dir) = (self.stock.disk(), &self.stock.plan().dir);
        let checked = read_through(disk, &segment.path)
            .map_err(WalError::Io)
            .and_then(|()| verify::verify(disk, dir, segment, has_footer, None));
        match checked {
            Err(WalError::Io(fault)) if fault.source.kind() == ErrorKind::NotFound => {
                Err(WalError::MissingSegment {
                    segment: segment.name.clone(),
                })
            }
            other => other.map(drop),
        }
    }
}

/// Reads all of a file before it is mapped: a sector that cannot be read is an error then, where a map's page
/// that cannot be read ends the process.
fn read_through(disk: &dyn Disk, path: &Path) -> Result<(), Fault> {
    let file = disk
        .open(path, Access::Read)
        .map_err(Fault::at("open", path))?;
    let size = file.size().map_err(Fault::at("measure", path))?;
    let mut bytes = vec![0; CHUNK_BYTES];
    let mut offset = 0;
    while offset < size {
        let left = usize::try_from(size - offset).unwrap_or(usize::MAX);
        let chunk = &mut bytes[..CHUNK_BYTES.min(left)];
        file.read_at(offset, chunk)
            .map_err(Fault::at("read", path))?;
        offset += chunk.len() as u64;
    }
    Ok(())
}
