//! Which entries of a log are configurations that may count.

use super::NewEntry;
use crate::types::{EntryKind, LogIndex};

/// Indices of configurations, ascending: the last that is known to be committed, and all behind it.
#[derive(Clone, Default, Debug)]
pub(super) struct ConfigIndices {
    list: Vec<LogIndex>,
}

impl ConfigIndices {
    pub(super) const fn new(list: Vec<LogIndex>) -> Self {
        Self { list }
    }

    /// Takes note of a write to a log that ends at `last`, and gives what its state has to name: a crash may
    /// keep the state and lose all or some of the rest, so what counted before is named too.
    pub(super) fn write(
        &mut self,
        last: LogIndex,
        commit: LogIndex,
        truncate_from: Option<LogIndex>,
        entries: &[NewEntry<'_>],
    ) -> Vec<LogIndex> {
        // What stays whatever becomes of this write.
        let kept = truncate_from.map_or(last, |from| last.min(from.prev()));
        let config = |entry: &NewEntry<'_>| entry.kind == EntryKind::Config;
        let new = entries.iter().zip(kept.0 + 1..);
        let new = new.filter(|(entry, _)| config(entry));
        let new: Vec<_> = new.map(|(_, index)| LogIndex(index)).collect();
        let mut named: Vec<_> = self.list.iter().chain(&new).copied().collect();
        named.sort_unstable();
        named.dedup();
        forget(&mut named, commit.min(kept));
        self.list.retain(|index| *index <= kept);
        self.list.extend(new);
        forget(&mut self.list, commit);
        named
    }
}

/// Drops those before the last that is committed.
fn forget(list: &mut Vec<LogIndex>, commit: LogIndex) {
    let committed = list.partition_point(|index| *index <= commit);
    list.drain(..committed.saturating_sub(1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Payload, Term};

    const fn entry(kind: EntryKind) -> NewEntry<'static> {
        NewEntry {
            term: Term(1),
            kind,
            payload: Payload::Borrowed(&[]),
        }
    }

    fn indices(list: &[u64]) -> Vec<LogIndex> {
        list.iter().copied().map(LogIndex).collect()
    }

    #[test]
    fn what_counted_before_a_write_is_named_with_it_until_the_next() {
        let mut configs = ConfigIndices::new(indices(&[1, 5]));
        let (last, commit) = (LogIndex(8), LogIndex(1));
        let new = [entry(EntryKind::Normal), entry(EntryKind::Config)];
        // 5 is truncated, 4 is new in its place's stead; the write may be lost behind its state.
        let named = configs.write(last, commit, Some(LogIndex(3)), &new);
        assert_eq!(named, indices(&[1, 4, 5]));
        let named = configs.write(LogIndex(4), commit, None, &[]);
        assert_eq!(named, indices(&[1, 4]));
    }

    /// The commit that a write brings may be of its own entries, which may be lost.
    #[test]
    fn the_last_configuration_that_is_there_for_certain_is_always_named() {
        let mut configs = ConfigIndices::new(indices(&[1]));
        let new = [entry(EntryKind::Config)];
        let named = configs.write(LogIndex(3), LogIndex(4), None, &new);
        assert_eq!(named, indices(&[1, 4]));
        let named = configs.write(LogIndex(4), LogIndex(4), None, &[]);
        assert_eq!(named, indices(&[4]));
    }
}
