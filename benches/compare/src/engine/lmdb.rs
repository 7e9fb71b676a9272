//! LMDB through heed: a B-tree in a memory map, with one writer at a time and a sync a transaction.

use heed::byteorder::BigEndian;
use heed::types::{Bytes, U64};
use heed::{Database, Env, EnvOpenOptions, PutFlags, RwTxn};

use super::{Engine, Setup, missing};
use crate::Result;

const MAP_BYTES: usize = 4 << 30;

type Log = Database<U64<BigEndian>, Bytes>;

struct Lmdb {
    env: Env,
    log: Log,
}

pub(super) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    // SAFETY: nobody else touches the files of this directory.
    let env = unsafe { EnvOpenOptions::new().map_size(MAP_BYTES).open(setup.dir)? };
    let mut transaction = env.write_txn()?;
    let log = env.create_database(&mut transaction, None)?;
    transaction.commit()?;
    Ok(Box::new(Lmdb { env, log }))
}

impl Lmdb {
    /// Passes the last index to `change`.
    fn write(&self, change: impl FnOnce(&Log, &mut RwTxn<'_>, u64) -> Result<()>) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        let last = self.log.last(&transaction)?.map_or(0, |(last, _)| last);
        change(&self.log, &mut transaction, last)?;
        Ok(transaction.commit()?)
    }
}

impl Engine for Lmdb {
    fn append(&self, _thread: usize, entries: &[&[u8]]) -> Result<()> {
        self.write(|log, transaction, last| {
            for (index, entry) in (last + 1..).zip(entries) {
                log.put_with_flags(transaction, PutFlags::APPEND, &index, entry)?;
            }
            Ok(())
        })
    }

    fn trim(&self, keep: u64) -> Result<()> {
        self.write(|log, transaction, last| {
            log.delete_range(transaction, &(..=last.saturating_sub(keep)))?;
            Ok(())
        })
    }

    fn read(&self, index: u64, sink: &mut dyn FnMut(&[u8])) -> Result<()> {
        let transaction = self.env.read_txn()?;
        sink(
            self.log
                .get(&transaction, &index)?
                .ok_or_else(|| missing(index))?,
        );
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.env.prepare_for_closing().wait();
        Ok(())
    }
}
