//! redb: a B-tree with one writer at a time and a sync a transaction.

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Engine, Setup, missing};
use crate::Result;

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

struct Redb {
    database: Database,
}

pub(super) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    let database = Database::create(setup.dir.join("redb"))?;
    Ok(Box::new(Redb { database }))
}

impl Redb {
    fn write(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, u64, &[u8]>) -> Result<()>,
    ) -> Result<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        change(&mut transaction.open_table(LOG)?)?;
        Ok(transaction.commit()?)
    }
}

impl Engine for Redb {
    fn append(&self, _thread: usize, entries: &[&[u8]]) -> Result<()> {
        self.write(|log| {
            let next = log.last()?.map_or(1, |(last, _)| last.value() + 1);
            for (index, entry) in (next..).zip(entries) {
                log.insert(index, *entry)?;
            }
            Ok(())
        })
    }

    fn trim(&self, keep: u64) -> Result<()> {
        self.write(|log| {
            let last = log.last()?.map_or(0, |(last, _)| last.value());
            log.retain_in(..=last.saturating_sub(keep), |_, _| false)?;
            Ok(())
        })
    }

    fn read(&self, index: u64, sink: &mut dyn FnMut(&[u8])) -> Result<()> {
        let log = self.database.begin_read()?.open_table(LOG)?;
        sink(log.get(index)?.ok_or_else(|| missing(index))?.value());
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
