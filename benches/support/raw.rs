//! The bare device: what no log can be faster than.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tempfile::TempDir;

/// The file is written round and round, so that it is never grown.
const FILE_BYTES: usize = 64 << 20;

pub(crate) struct Raw {
    file: File,
    offset: usize,
}

impl Raw {
    /// A file of zeros, really written and synced.
    pub(crate) fn create(dir: &Path) -> Self {
        let path = dir.join("raw");
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path);
        let file = file.expect("a new file");
        let zeros = vec![0; 1 << 20];
        for offset in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, offset as u64)
                .expect("room for zeros");
        }
        file.sync_all().expect("a sync");
        Self { file, offset: 0 }
    }

    pub(crate) fn write_and_sync(&mut self, block: &[u8]) {
        if self.offset + block.len() > FILE_BYTES {
            self.offset = 0;
        }
        self.file
            .write_all_at(block, self.offset as u64)
            .expect("a write");
        self.file.sync_data().expect("a sync");
        self.offset += block.len();
    }
}

/// A directory for one benchmark, removed after it.
pub(crate) fn bench_dir() -> TempDir {
    let dir = std::env::var_os("CATAMARAN_BENCH_DIR").unwrap_or(std::env::temp_dir().into());
    tempfile::tempdir_in(dir).expect("a directory to write to")
}
