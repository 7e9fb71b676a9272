//! The write-ahead log: an indexed log of records on one disk, durable when it says so.
//!
//! It knows nothing of Raft. A record has an index (1, 2, 3, ...), a `mark` that never goes down along the
//! log, a `tag` and a payload; both are the caller's. Beside its records the log keeps one small `state`,
//! of which the last written wins. A suffix is truncated by writing that it is, a prefix is dropped by
//! whole segments, whose files are used again.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! use catamaran::types::LogIndex;
//! use catamaran::wal::WalOptions;
//!
//! let (wal, recovery) = WalOptions::new(dir.path()).segment_bytes(1 << 20).open()?;
//! assert!(recovery.created);
//! let staged = wal.append(&[b"first", b"second"])?; // readable, not yet durable
//! let durable = wal.sync(staged)?; // group commit among all callers
//! assert!(durable.seq() >= staged.seq());
//! assert_eq!(&*wal.reader().get(LogIndex(2))?.payload, b"second");
//! wal.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//! - What [`Wal::sync`] returned for survives any crash, whole.
//! - After a crash the log is what some prefix of the writes made it, at least all that were synced. Of the
//!   last one a part may be there: its state, then its truncation, then its records, cut anywhere.
//! - What was cut by recovery never comes back, and what was read is never changed under its reader.
//! - Damage below a durable place is an error that names it. Nothing is cut or guessed there.
//! - After a failed write or sync every call fails, until the log is opened again.

use std::sync::Arc;
use std::time::Instant;

use crate::error::Fault;
use crate::sync::Mutex;
use crate::sync::thread::JoinHandle;
use crate::types::{Durable, Identity, LogIndex, Payload, Staged, WriteSeq};
use crate::vfs::LockGuard;

mod chores;
mod chunk;
mod core;
mod damage;
mod error;
mod files;
mod footer;
mod format;
mod group;
mod index;
mod inspect;
mod options;
mod pace;
mod prepare;
mod reader;
mod recover;
mod room;
mod scan;
mod scrub;
mod stock;
mod verify;

pub use error::{ReadError, WalError};
pub use inspect::{
    Fence, Inspection, SegmentInfo, Stage, Verified, open_read_only, open_read_only_on, verify,
    verify_on,
};
pub use options::WalOptions;
pub(crate) use pace::Pace;
pub use reader::{Entries, InPlace, Stored, WalReader};
pub use recover::{Recovery, Torn};
pub use scrub::{Scrub, Scrubbed};
pub use stock::Preparer;

use self::core::{Core, Draft};
use chores::Chores;
use chunk::Chunk;
use group::{Group, Outcome, Role};
use scrub::Rounds;
use stock::Stock;

/// The name of the lock file in a log's directory.
const LOCK_NAME: &str = "LOCK";

/// No entry has a higher index, so that there is always a next one to speak of.
const LAST_INDEX: LogIndex = LogIndex(u64::MAX - 1);

/// One record to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Opaque, and at least that of the record before.
    pub mark: u64,
    /// Opaque.
    pub tag: u8,
    /// The bytes. Shared ones that take a 64th of a segment or more are written from where they are.
    pub payload: Payload<'a>,
}

/// What one write does, in this order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Batch<'a> {
    /// Replaces the state; at most 1 KiB.
    pub state: Option<&'a [u8]>,
    /// Records from here on are no more. From `first` to `last + 1`, which truncates nothing.
    pub truncate_from: Option<LogIndex>,
    /// Records that follow the last.
    pub records: &'a [Record<'a>],
}

/// An open log. Clones are handles of the same one.
///
/// Writes go to memory and wait for nobody; [`Wal::sync`] does the I/O. Nothing but the callers bounds how
/// much is staged: write no more than is to be held in memory before syncing.
#[derive(Clone)]
pub struct Wal {
    handle: Arc<Handle>,
    open: Arc<Open>,
}

/// What all handles share, and the helper thread with them.
struct Handle {
    core: Arc<Mutex<Core>>,
    stock: Arc<Stock>,
    group: Group,
    rounds: Mutex<Rounds>,
    max_entry_bytes: usize,
}

/// What ends with the last handle. The helper has no part in it, so it keeps no log open.
struct Open {
    handle: Arc<Handle>,
    helper: Mutex<Option<JoinHandle<()>>>,
    lock: Mutex<Option<Box<dyn LockGuard>>>,
}

impl Wal {
    fn open(options: WalOptions, max_entry_bytes: usize) -> Result<(Self, Recovery), WalError> {
        let disk = Arc::clone(&options.disk);
        disk.create_dir_all(&options.dir)
            .map_err(Fault::at("create", &options.dir))?;
        let lock_path = options.dir.join(LOCK_NAME);
        let lock = disk.lock(&lock_path).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => WalError::Locked {
                path: lock_path.clone(),
            },
            _ => WalError::Io(Fault::new("lock", &lock_path, error)),
        })?;
        let (mut resume, plan, recovery) = recover::recover(&options)?;
        let next = plan
            .found
            .last()
            .map_or(resume.next, |found| found.sequence + 1);
        let stock = Arc::new(Stock::new(disk, plan, options.preparer, next)?);
        // A fresh segment carries over what those before it said, so none of them goes before its first write
        // is durable.
        let goes_on = resume.active.is_some();
        let dead = if goes_on {
            resume.index.dead_front()
        } else {
            0
        };
        let dead = resume.index.spans.drain(..dead);
        let dead: Vec<_> = dead.map(|span| span.segment).collect();
        let core = Core::new(resume, stock.plan());
        let active = core.active();
        let handle = Arc::new(Handle {
            core: Arc::new(Mutex::new(core)),
            group: Group::default(),
            rounds: Mutex::new(Rounds::new(options.scrub.as_ref())),
            max_entry_bytes,
            stock,
        });
        let rate = options.scrub.map(|scrub| scrub.bytes_per_s);
        let mut chores = Chores::new(Arc::clone(&handle), options.fence_after, rate);
        let helper = handle.stock.start(move || chores.run(Instant::now()))?;
        let open = Arc::new(Open {
            handle: Arc::clone(&handle),
            helper: Mutex::new(helper),
            lock: Mutex::new(Some(lock)),
        });
        if recovery.created
            && let Some(segment) = handle.core.lock().next_segment()
        {
            // Here a full disk shows before anything depends on the log.
            let _ = segment
                .file
                .set(handle.stock.obtain_first(segment.sequence)?);
        }
        handle.stock.tend(active, dead);
        // What was found may be without a fence.
        handle.stock.rouse();
        Ok((Self { handle, open }, recovery))
    }

    /// Stages records with the mark of the last one and tag 0.
    ///
    /// # Errors
    /// As [`Wal::write`].
    pub fn append(&self, payloads: &[&[u8]]) -> Result<Staged, WalError> {
        let mut core = self.handle.core.lock();
        let mark = core.index.last_mark;
        let draft = Draft {
            state: None,
            truncate_from: None,
            records: payloads.iter().map(|payload| Record {
                mark,
                tag: 0,
                payload: Payload::Borrowed(payload),
            }),
        };
        self.handle.stage(&mut core, draft)
    }

    /// Stages a batch: readers see it at once, and a crash may lose it until it is synced. Takes no longer
    /// than to copy it. A batch of nothing still is a write: it makes known to the disk what is durable.
    ///
    /// # Errors
    /// Nothing was staged then. [`WalError::TooLarge`] and [`WalError::OutOfOrder`] for what the caller
    /// asked; [`WalError::NoSpace`] (or [`WalError::Io`]) if another segment is needed and the last try to
    /// prepare it failed: another try is begun; [`WalError::Failed`] after a failed write or sync;
    /// [`WalError::Closed`].
    pub fn write(&self, batch: &Batch<'_>) -> Result<Staged, WalError> {
        let draft = Draft {
            state: batch.state,
            truncate_from: batch.truncate_from,
            records: batch.records.iter().copied(),
        };
        self.handle.stage(&mut self.handle.core.lock(), draft)
    }

    /// Waits until a write is durable, and all before it. One of the callers that wait does the I/O for all.
    ///
    /// # Errors
    /// [`WalError::Io`] when the write or sync failed: for this and all later calls the log has failed.
    /// [`WalError::NoSpace`] if there is no room for the next segment (or [`WalError::Io`] if its file cannot
    /// be created): what is staged stays staged, and a later call tries again. [`WalError::Failed`] after
    /// that, and if the disk failed otherwise while the next segment was prepared: the log goes on as far as
    /// the segments reach that are ready, and fails then. [`WalError::Closed`].
    pub fn sync(&self, staged: Staged) -> Result<Durable, WalError> {
        self.handle.sync(staged.seq())
    }

    /// Lets the entries up to `upto` go. They cannot be read any more at once; their segments are removed
    /// once this is durable and nothing else lives in them. Past the last entry, the log goes on with
    /// `upto + 1`.
    ///
    /// # Errors
    /// As [`Wal::write`].
    pub fn drop_prefix(&self, upto: LogIndex) -> Result<Staged, WalError> {
        let mut core = self.handle.core.lock();
        core.usable()?;
        if upto >= LAST_INDEX {
            return Err(WalError::OutOfOrder {
                what: "a drop that leaves no index for a next entry",
                index: upto,
            });
        }
        core.apply_drop(upto, self.handle.stock.plan());
        Ok(Staged::mint(core.written, core.index.last))
    }

    /// Lets every entry go: the log goes on behind `upto`, whose mark is `mark`. `upto` must not have been
    /// dropped already, and `mark` not be below that of what was.
    ///
    /// # Errors
    /// As [`Wal::write`].
    pub fn restart(&self, upto: LogIndex, mark: u64) -> Result<Staged, WalError> {
        let mut core = self.handle.core.lock();
        core.usable()?;
        if upto >= LAST_INDEX || upto <= core.index.floor || mark < core.index.floor_mark {
            return Err(WalError::OutOfOrder {
                what: "a restart at an index or mark that the log is beyond",
                index: upto,
            });
        }
        core.apply_restart(upto, mark, self.handle.stock.plan());
        Ok(Staged::mint(core.written, core.index.last))
    }

    /// Stages the fence that says how far the log is durable, if no batch on the disk says so yet. Until
    /// then, damage of the newest batch cannot be told from a torn tail. The helper thread does it when the
    /// log falls idle (see [`WalOptions::fence_after`]); with [`Preparer::Inline`] nobody but the caller does.
    ///
    /// # Errors
    /// As [`Wal::write`].
    pub fn fence(&self) -> Result<Option<Staged>, WalError> {
        let mut core = self.handle.core.lock();
        core.usable()?;
        Ok(self.handle.stage_fence(&mut core))
    }

    /// What the helper does once the log is idle, for a world without threads: writes the fence, if there is
    /// none.
    #[cfg(feature = "sim")]
    pub(crate) fn rest(&self) {
        if let Some(syncs) = self.handle.unfenced() {
            self.handle.fence_if_idle(syncs);
        }
    }

    /// Reads the next part of the sealed segments, about 1 MiB or one entry if that is longer, and checks it:
    /// every frame, and where a segment ends its footer with its table. After the newest sealed segment comes
    /// the oldest again, after a damaged one the next. None if no segment is sealed yet. The helper thread
    /// takes such steps if [`WalOptions::scrub`] says so; with [`Preparer::Inline`] nobody but the caller
    /// does. Nothing is changed, and damage does not stop the log. Of a segment that was sealed just before a
    /// crash the footer is checked from the second open after it.
    ///
    /// # Errors
    /// [`WalError::Closed`].
    pub fn scrub_step(&self) -> Result<Option<Scrubbed>, WalError> {
        self.handle.scrub_step()
    }

    /// A reader of this log, which also works after the last handle is gone.
    #[must_use]
    pub fn reader(&self) -> WalReader {
        WalReader::new(Arc::clone(&self.handle.core))
    }

    /// Whose log it is, and which life of it.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.handle.stock.plan().identity
    }

    /// The last write since the log was opened; 0 before the first. The fence that the helper thread writes by
    /// itself is not counted: the numbers are those of the callers.
    #[must_use]
    pub fn written(&self) -> WriteSeq {
        self.handle.core.lock().written
    }

    /// How often the disk was asked to make writes durable since the log was opened. Preparing segments is
    /// not counted.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.handle.core.lock().syncs
    }

    /// Syncs what is staged, lets the directory go and ends the helper thread. Other handles find the log
    /// closed; readers read on.
    ///
    /// # Errors
    /// As [`Wal::sync`]; the log is closed all the same.
    pub fn close(self) -> Result<(), WalError> {
        let synced = self.handle.seal_off();
        self.open.let_go();
        synced
    }
}

impl Handle {
    fn stage<'a, R>(&self, core: &mut Core, draft: Draft<'_, R>) -> Result<Staged, WalError>
    where
        R: Iterator<Item = Record<'a>> + Clone,
    {
        if let Err(error) = core.check(&draft, self.max_entry_bytes, &self.stock) {
            if let WalError::Failed(fault) = &error {
                // The next segment did, and is needed now.
                core.fail(fault);
            }
            return Err(error);
        }
        core.apply(draft, self.stock.plan());
        Ok(Staged::mint(core.written, core.index.last))
    }

    fn sync(&self, seq: WriteSeq) -> Result<Durable, WalError> {
        let durable = match self.group.enter(seq)? {
            Role::Done(durable) => durable,
            Role::Lead => {
                let outcome = Lead::new(self).run();
                self.stock.rouse();
                outcome.of(seq)?
            }
        };
        if durable < seq {
            return Err(WalError::OutOfOrder {
                what: "sync of a write of another log",
                index: self.core.lock().index.last,
            });
        }
        Ok(Durable::mint(durable))
    }

    /// Syncs all that was written, and refuses more. Adds the fence that tells a torn tail from damage,
    /// unless there is one.
    fn seal_off(&self) -> Result<(), WalError> {
        let seq = {
            let mut core = self.core.lock();
            core.usable()?;
            core.closed = true;
            core.written
        };
        self.sync(seq)?;
        let fence = self.stage_fence(&mut self.core.lock());
        fence.map_or(Ok(()), |fence| self.sync(fence.seq()).map(drop))
    }

    fn stage_fence(&self, core: &mut Core) -> Option<Staged> {
        if !core.is_unfenced() {
            return None;
        }
        let nothing = Draft {
            state: None,
            truncate_from: None,
            records: std::iter::empty(),
        };
        core.apply(nothing, self.stock.plan());
        Some(Staged::mint(core.written, core.index.last))
    }

    /// How often the log was synced, if it needs a fence. The sync that staged writes wait for will carry it.
    fn unfenced(&self) -> Option<u64> {
        let core = self.core.lock();
        let idle = core.usable().is_ok() && core.durable == core.written;
        (idle && core.is_unfenced()).then_some(core.syncs)
    }

    /// Writes the fence, unless somebody is syncing, or has since the log had been synced so often. Says
    /// whether it was written.
    fn fence_if_idle(&self, syncs: u64) -> bool {
        if !self.group.try_lead() {
            return false;
        }
        let lead = Lead::new(self);
        let fence = {
            let mut core = self.core.lock();
            let needed = core.usable().is_ok() && core.syncs == syncs && core.is_unfenced();
            if needed {
                core.apply_fence(self.stock.plan());
            }
            needed
        };
        // For those too who joined meanwhile. Whoever calls next is told of a failure that lasts.
        let outcome = lead.run();
        fence && outcome.error.is_none()
    }
}

impl Open {
    fn let_go(&self) {
        let handle = &self.handle;
        // Whoever is writing comes to an end first: then the directory may become somebody else's.
        handle.group.lead();
        let durable = {
            let mut core = handle.core.lock();
            core.closed = true;
            core.released = true;
            core.durable
        };
        handle.group.finish(Outcome {
            durable,
            error: Some(WalError::Closed),
        });
        // A step that is under way may not see the files become another log's.
        drop(handle.rounds.lock());
        handle.stock.stop();
        if let Some(helper) = self.helper.lock().take() {
            // A helper that panicked has nothing more to say.
            let _ = helper.join();
        }
        *self.lock.lock() = None;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Whoever leads a sync. Dropping it tells the others how that ended.
struct Lead<'a> {
    handle: &'a Handle,
    durable: WriteSeq,
    /// None until it has: who drops it before panics.
    ended: Option<Outcome>,
}

impl<'a> Lead<'a> {
    const fn new(handle: &'a Handle) -> Self {
        Self {
            handle,
            durable: WriteSeq::ZERO,
            ended: None,
        }
    }

    fn run(mut self) -> Outcome {
        let error = self.commit().err();
        let outcome = Outcome {
            durable: self.durable,
            error,
        };
        self.ended = Some(outcome.clone());
        outcome
    }

    fn panicked(&self) -> Outcome {
        let fault = Fault::new(
            "lead a sync of",
            &self.handle.stock.plan().dir,
            std::io::Error::other("the thread that did it panicked"),
        );
        Outcome {
            durable: self.durable,
            error: Some(WalError::Failed(fault)),
        }
    }

    /// Writes chunk after chunk until all is durable that was written when it began.
    fn commit(&mut self) -> Result<(), WalError> {
        let handle = self.handle;
        let mut core = handle.core.lock();
        let goal = core.written;
        handle.group.begin(goal);
        loop {
            self.durable = core.durable;
            if core.durable >= goal && !core.owes_fence {
                return Ok(());
            }
            if core.failed.is_some() {
                core.usable()?;
            }
            let Some(segment) = core.next_segment().filter(|_| !core.released) else {
                return Err(WalError::Closed);
            };
            if segment.file.get().is_none() {
                drop(core);
                let file = handle.stock.obtain(segment.sequence)?;
                let _ = segment.file.set(file);
                core = handle.core.lock();
            }
            let Some(chunk) = core.take() else {
                return Err(WalError::Closed);
            };
            drop(core);
            let written = write_chunk(&chunk);
            core = handle.core.lock();
            match written {
                Ok(()) => {
                    let sealed = chunk.footer.is_some();
                    let dead = core.publish(chunk);
                    if sealed || !dead.is_empty() {
                        let active = core.active();
                        drop(core);
                        handle.stock.tend(active, dead);
                        core = handle.core.lock();
                    }
                }
                Err(fault) => {
                    core.fail(&fault);
                    return Err(WalError::Io(fault));
                }
            }
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let outcome = self.ended.take().unwrap_or_else(|| self.panicked());
        if let Some(WalError::Failed(fault)) = &outcome.error {
            self.handle.core.lock().fail(fault);
        }
        self.handle.group.finish(outcome);
    }
}

/// Writes a chunk and makes it durable.
fn write_chunk(chunk: &Chunk) -> Result<(), Fault> {
    let segment = &chunk.segment;
    let path = &segment.path;
    let Some(file) = segment.file.get() else {
        return Err(Fault::new(
            "write",
            path,
            std::io::ErrorKind::NotFound.into(),
        ));
    };
    for (offset, bytes) in chunk.parts() {
        file.write_at(offset, bytes)
            .map_err(Fault::at("write", path))?;
    }
    if let Some(footer) = &chunk.footer {
        file.write_at(segment.size - footer.bytes.len() as u64, &footer.bytes)
            .map_err(Fault::at("write", path))?;
    }
    file.sync_data().map_err(Fault::at("sync", path))?;
    file.freeze(match &chunk.footer {
        Some(_) => segment.size,
        None => chunk.end(),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    mod schedules;
}
