//! Reading sealed segments again, so that damage shows while other members still have what it hit.
//!
//! A step reads a part of a segment, and keeps nothing of it but how far it came. It reads copies and no map: a
//! page that the disk cannot read, or that somebody cut off, is an error here, and no signal. During the step it
//! holds the segment: one that is dropped meanwhile may be removed, which takes nothing from whoever has the
//! file open, but is not made into a new one under the step (`wal/stock.rs` recycles only what nobody holds).
//! What a log has dropped it forgets before its file goes, and no name is given twice: so what is wrong with a
//! segment that the log still knows after the step is damage, also if the file is gone.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;

use super::Handle;
use super::error::WalError;
use super::index::Segment;
use super::verify::{self, Check};
use crate::trace::warn;

/// How much a step reads, if no single entry is longer.
const STEP_BYTES: usize = 1 << 20;

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

/// A part of a segment that was read again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Scrubbed {
    /// The name of the segment's file.
    pub segment: String,
    /// How many bytes of frames were read.
    pub bytes: u64,
    /// What is wrong with it: damage, or [`WalError::Io`] if it could not be read. None too if it was dropped
    /// while it was read.
    pub damage: Option<WalError>,
}

/// Where the scrub is.
pub(super) struct Rounds {
    /// The sequence of the last segment that was read to its end.
    last: u64,
    /// The one after it, as far as it was read.
    half: Option<Check>,
    /// What was reported: sequences, each with whether it was damage.
    reported: BTreeSet<(u64, bool)>,
    on_damage: Report,
}

impl Rounds {
    pub(super) fn new(scrub: Option<&Scrub>) -> Self {
        let told = |scrub: &Scrub| Arc::clone(&scrub.on_damage);
        Self {
            last: 0,
            half: None,
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
        let mut read = 0;
        let checked = self.check(&segment, has_footer, rounds.half.take(), &mut read);
        let (half, damage) = match checked {
            Ok(half) => (half, None),
            Err(error) => (None, Some(error)),
        };
        rounds.last = segment.sequence - u64::from(half.is_some());
        rounds.half = half;
        let damage = damage.filter(|_| self.core.lock().holds(segment.sequence));
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
            bytes: read as u64,
            damage,
        }))
    }

    /// Reads the next part, and says what is left to be read, if anything.
    fn check(
        &self,
        segment: &Segment,
        has_footer: bool,
        half: Option<Check>,
        read: &mut usize,
    ) -> Result<Option<Check>, WalError> {
        let opened = verify::open(self.stock.disk(), &self.stock.plan().dir, segment);
        let file = opened.map_err(|error| match error {
            WalError::Io(fault) if fault.source.kind() == ErrorKind::NotFound => {
                WalError::MissingSegment {
                    segment: segment.name.clone(),
                }
            }
            other => other,
        })?;
        let mut check = match half.filter(|half| half.is_of(segment)) {
            Some(half) => half,
            None => Check::begin(&file, segment.published(), None)?,
        };
        let mut part = check.rest();
        part.end = part.end.min(part.start + STEP_BYTES);
        *read = part.len();
        let need = check.take(&file, &file.read(part.clone())?)?;
        if check.rest().start == part.start {
            // One frame is longer than a step.
            part.end = part.start + need;
            *read += need;
            check.take(&file, &file.read(part)?)?;
        }
        if !check.rest().is_empty() {
            return Ok(Some(check));
        }
        check.finish(&file, has_footer)?;
        Ok(None)
    }
}
