//! Entries for the transport, read from the log at the last moment.

use crate::driver::read_to_send;
use crate::log::LogReader;
use crate::transport::EntrySource;
use crate::types::{Entry, EntryRange};

pub(super) struct LogSource(pub(super) LogReader);

impl EntrySource for LogSource {
    fn read(&self, range: EntryRange, max_bytes: usize) -> Option<Vec<Entry>> {
        read_to_send(&self.0, range, max_bytes)
    }
}
