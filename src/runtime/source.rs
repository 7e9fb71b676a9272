//! Entries for the transport, read from the log at the last moment.

use crate::log::LogReader;
use crate::transport::EntrySource;
use crate::types::{Entry, EntryRange};

pub(super) struct LogSource(pub(super) LogReader);

impl EntrySource for LogSource {
    fn read(&self, range: EntryRange, max_bytes: usize) -> Option<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for entry in self.0.range(range.prev.index.next().0..=range.last.index.0) {
            let entry = entry.ok()?;
            bytes += entry.payload.len();
            entries.push(entry);
            if bytes >= max_bytes {
                break;
            }
        }
        // Looked at after the entries: a suffix is cut from the end, so while `last` stands, all that was
        // read before it stood too.
        (!entries.is_empty() && self.0.holds(range.last)).then_some(entries)
    }
}
