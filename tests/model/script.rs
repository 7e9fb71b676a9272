//! Random calls on a log, and the model beside.

use catamaran::sim::{Rng, SimDisk};
use catamaran::wal::{ReadError, Torn, Wal, WalError};

use super::{Change, History, Model, explain, open, sync};

/// What a script came to, counted, so that it is seen to do what it is for.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Done {
    pub(crate) writes: u64,
    pub(crate) large: u64,
    pub(crate) drops: u64,
    pub(crate) syncs: u64,
    pub(crate) fences: u64,
    pub(crate) closes: u64,
    pub(crate) kills: u64,
}

/// A log under a random script, and what it should hold.
pub(crate) struct Script<'a> {
    disk: &'a SimDisk,
    /// None while it is being opened again.
    wal: Option<Wal>,
    /// What the recovery before the script cut; it stays in sight until something is written behind it.
    torn: Option<Torn>,
    rng: Rng,
    pub(crate) history: History,
    pub(crate) done: Done,
}

impl<'a> Script<'a> {
    /// A script for a log that was just opened, and holds `model`.
    pub(crate) fn new(disk: &'a SimDisk, wal: Wal, seed: u64, model: Model) -> Self {
        let mut history = History::of(model);
        history.acknowledge(disk.ops());
        Self {
            disk,
            wal: Some(wal),
            torn: None,
            rng: Rng::new(seed),
            history,
            done: Done::default(),
        }
    }

    /// The same, where the recovery cut something.
    pub(crate) fn after_cut(mut self, torn: Option<Torn>) -> Self {
        self.torn = torn;
        self
    }

    pub(crate) fn wal(&self) -> &Wal {
        self.wal.as_ref().expect("the log is open")
    }

    pub(crate) fn is_open(&self) -> bool {
        self.wal.is_some()
    }

    /// Lets the log go, with what is staged.
    pub(crate) fn abandon(&mut self) {
        self.wal = None;
    }

    /// Does `operations` things and syncs; ends at the first error.
    pub(crate) fn run(&mut self, operations: u64) -> Result<(), WalError> {
        for _ in 0..operations {
            self.step()?;
        }
        self.sync()
    }

    /// Does one random thing. After an error it was either not begun, or may be found done.
    pub(crate) fn step(&mut self) -> Result<(), WalError> {
        if self.wal.is_none() {
            return self.reopen();
        }
        let choice = self.rng.below(100);
        let (change, count) = match choice {
            0..=54 => {
                let change = Change::random_write(&mut self.rng, self.history.now());
                (change, &mut self.done.writes)
            }
            55..=56 => {
                let change = Change::large_write(&mut self.rng, self.history.now());
                (change, &mut self.done.large)
            }
            57..=65 => {
                let change = Change::random_drop(&mut self.rng, self.history.now());
                (change, &mut self.done.drops)
            }
            66..=93 => {
                self.done.syncs += 1;
                return self.sync();
            }
            94..=95 => {
                self.done.fences += 1;
                return self.fence();
            }
            96..=97 => {
                self.done.closes += 1;
                return self.close().and_then(|()| self.reopen());
            }
            _ => {
                self.done.kills += 1;
                self.abandon();
                return self.reopen();
            }
        };
        *count += 1;
        self.change(&change)
    }

    fn change(&mut self, change: &Change) -> Result<(), WalError> {
        let before = self.history.len();
        let steps = change.steps(self.history.now());
        self.history.issue(self.disk.ops(), steps);
        match change.make(self.wal()) {
            Ok(last) => {
                assert_eq!(last, self.history.now().last());
                Ok(())
            }
            Err(error) => {
                self.history.take_back(before);
                Err(error)
            }
        }
    }

    pub(crate) fn sync(&mut self) -> Result<(), WalError> {
        if self.wal.is_none() {
            self.reopen()?;
        }
        sync(self.wal())?;
        self.history.acknowledge(self.disk.ops());
        Ok(())
    }

    fn fence(&mut self) -> Result<(), WalError> {
        if let Some(staged) = self.wal().fence()? {
            self.wal().sync(staged)?;
            self.history.acknowledge(self.disk.ops());
        }
        Ok(())
    }

    pub(crate) fn close(&mut self) -> Result<(), WalError> {
        if let Some(wal) = self.wal.take() {
            wal.close()?;
            self.history.acknowledge(self.disk.ops());
        }
        Ok(())
    }

    /// Opens the log again and checks that it holds what it may.
    pub(crate) fn reopen(&mut self) -> Result<(), WalError> {
        let (wal, recovery) = open(self.disk)?;
        let found = match Model::read(&wal, &recovery) {
            Ok(found) => found,
            Err(ReadError::Wal(error)) => return Err(error),
            Err(other) => panic!("{other}"),
        };
        let allowed = self.history.allowed();
        assert!(
            allowed.contains(&found),
            "reopened: {}",
            explain(&found, allowed)
        );
        let torn = recovery.torn;
        assert!(
            torn.is_none() || torn == self.torn || !self.disk.failed().is_empty(),
            "no call was cut short: {torn:?}"
        );
        self.torn = torn;
        self.history.reopened(self.disk.ops(), found);
        self.wal = Some(wal);
        Ok(())
    }
}
