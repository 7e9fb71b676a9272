//! The Raft log on the write-ahead log: terms as marks, entry kinds as tags, term, vote and commit as the
//! state that rides along.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::types::{
    EntryKind, HardState, Identity, LogId, LogIndex, Payload, Staged, Term, TermRun,
};
use crate::wal::{self, Batch, Record, Wal, WalError, WalOptions};

mod configs;
mod hard_state;
mod inspect;
mod members;
mod reader;

use configs::ConfigIndices;
pub use inspect::{Inspection, open_read_only, verify};
pub use members::{decode_membership, encode_membership};
pub use reader::{Entries, LogError, LogReader};

/// A Raft log that is open for writing. Cheap to clone; all clones are one log.
#[derive(Clone)]
pub struct Log {
    wal: Wal,
    configs: Arc<Mutex<ConfigIndices>>,
}

/// What was found when a log was opened. All of it is durable.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Whose log it is.
    pub identity: Identity,
    /// Term, vote and a lower bound of what is committed.
    pub hard_state: HardState,
    /// The entry before the first of the log; [`LogId::ORIGIN`] if none was ever dropped.
    pub before: LogId,
    /// The last entry; `before` if there is none.
    pub last: LogId,
    /// The terms of all entries.
    pub runs: Vec<TermRun>,
    /// Where the configurations are that the log still has, ascending: the last that is known to be committed, and
    /// all behind it.
    pub configs: Vec<LogIndex>,
    /// A write that a crash had cut short, and that was cut off.
    pub torn: Option<wal::Torn>,
}

/// One entry to be appended.
#[derive(Clone, Copy, Debug)]
pub struct NewEntry<'a> {
    /// Its term.
    pub term: Term,
    /// What it is for.
    pub kind: EntryKind,
    /// Its bytes.
    pub payload: Payload<'a>,
}

impl Log {
    /// Opens the log, or creates it.
    ///
    /// # Errors
    /// Those of [`WalOptions::open`], and [`LogError::HardState`] if term and vote cannot be read.
    pub fn open(options: WalOptions) -> Result<(Self, Recovered), LogError> {
        let (wal, recovery) = options.open()?;
        let (hard_state, mut configs) = match &recovery.state {
            Some(bytes) => hard_state::decode(bytes).map_err(LogError::HardState)?,
            None => Default::default(),
        };
        let reader = LogReader::new(wal.reader());
        // What is named may have been truncated, or lost in a crash with the write that named it.
        configs.retain(|index| (reader.first()..=reader.last()).contains(index));
        let mut found = Vec::new();
        for index in configs {
            if reader.get(index)?.kind == EntryKind::Config {
                found.push(index);
            }
        }
        let log = Self {
            wal,
            configs: Arc::new(Mutex::new(ConfigIndices::new(found.clone()))),
        };
        let recovered = Recovered {
            identity: recovery.identity,
            hard_state,
            before: reader.before(),
            last: reader.last_id()?,
            runs: reader.runs(),
            configs: found,
            torn: recovery.torn,
        };
        Ok((log, recovered))
    }

    /// Stages one write: term, vote and commit, then the truncation, then the entries. Memory only; takes
    /// no time from the disk.
    ///
    /// # Errors
    /// Those of [`Wal::write`].
    pub fn stage(
        &self,
        hard_state: HardState,
        truncate_from: Option<LogIndex>,
        entries: &[NewEntry<'_>],
    ) -> Result<Staged, WalError> {
        let records: Vec<Record<'_>> = entries
            .iter()
            .map(|entry| Record {
                mark: entry.term.0,
                tag: entry.kind as u8,
                payload: entry.payload,
            })
            .collect();
        let mut configs = self.configs.lock();
        let mut next = configs.clone();
        let last = self.reader().last();
        let named = next.write(last, hard_state.commit, truncate_from, entries);
        let staged = self.wal.write(&Batch {
            state: Some(&hard_state::encode(hard_state, &named)),
            truncate_from,
            records: &records,
        })?;
        *configs = next;
        Ok(staged)
    }

    /// Stages that the log is empty and goes on behind `last`, up to which a durable snapshot has everything.
    ///
    /// # Errors
    /// Those of [`Wal::restart`].
    pub fn restart(&self, last: LogId) -> Result<Staged, WalError> {
        let mut configs = self.configs.lock();
        let staged = self.wal.restart(last.index, last.term.0)?;
        *configs = ConfigIndices::default();
        Ok(staged)
    }

    /// Brings a log that was just opened in line with the newest durable snapshot, whose last entry is `last`,
    /// wherever a crash came between the two: a log that goes through `last` is kept, any other is emptied and
    /// goes on behind it (Raft paper, figure 13).
    ///
    /// # Errors
    /// Those of [`Wal::restart`] and [`Wal::sync`].
    pub fn follow(&self, recovered: &mut Recovered, last: LogId) -> Result<(), WalError> {
        let reader = self.reader();
        // Everything that a snapshot has in it is committed, in a term that this node had entered when it
        // took it over, though it may have crashed before that was durable.
        let hard_state = &mut recovered.hard_state;
        hard_state.commit = hard_state.commit.max(last.index);
        if hard_state.term < last.term {
            hard_state.term = last.term;
            hard_state.vote = None;
        }
        if last.index < reader.before().index || reader.holds(last) {
            return Ok(());
        }
        self.wal.sync(self.restart(last)?)?;
        recovered.before = last;
        recovered.last = last;
        recovered.runs = Vec::new();
        recovered.configs = Vec::new();
        Ok(())
    }

    /// The write-ahead log underneath, for syncing and closing.
    #[must_use]
    pub const fn wal(&self) -> &Wal {
        &self.wal
    }

    /// The same, to be closed.
    #[must_use]
    pub fn into_wal(self) -> Wal {
        self.wal
    }

    /// Reads entries, durable or not.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader::new(self.wal.reader())
    }
}
