//! The bare device: what no log can be faster than.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The file is written round and round, so that it is never grown.
const FILE_BYTES: u64 = 64 << 20;

/// A file of zeros, really written and synced, to be written over.
pub(crate) struct Raw {
    file: File,
    offset: u64,
}

impl Raw {
    /// Creates the file at `path`.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        let zeros = vec![0; 1 << 20];
        for offset in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, offset)?;
        }
        file.sync_all()?;
        Ok(Self { file, offset: 0 })
    }

    /// One positional write and one fdatasync.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn write_and_sync(&mut self, block: &[u8]) -> io::Result<()> {
        let len = block.len() as u64;
        if self.offset + len > FILE_BYTES {
            self.offset = 0;
        }
        self.file.write_all_at(block, self.offset)?;
        self.file.sync_data()?;
        self.offset += len;
        Ok(())
    }
}
