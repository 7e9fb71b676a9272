//! A directory of its own for each run.

use std::io;
use std::path::{Path, PathBuf};

/// A temporary directory, removed at the end whatever it is.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    /// Creates one that is named after `what` runs.
    pub(crate) fn create(what: &str) -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("catamaran-{what}-{}", std::process::id()));
        std::fs::create_dir(&dir)?;
        Ok(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
