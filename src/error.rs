//! Errors that more than one floor shares. Each boundary has its own error beside its code.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An option with a value that cannot be used. Values are refused, never clamped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OptionError {
    /// The option's name.
    pub option: &'static str,
    /// What it was set to.
    pub value: String,
    /// What it may be.
    pub expected: &'static str,
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "option {} is {}, and must be {}",
            self.option, self.value, self.expected
        )
    }
}

impl std::error::Error for OptionError {}

/// A failed call to the disk: what was tried, on which file, and what the system said. Cheap to clone,
/// since everyone who waited for the call is told.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What was tried, as a verb: "write", "sync", "rename".
    pub operation: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub source: Arc<io::Error>,
}

impl Fault {
    /// The failure of `operation` on `path`.
    #[must_use]
    pub fn new(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            operation,
            path: path.to_path_buf(),
            source: Arc::new(source),
        }
    }

    /// Adapts an `io::Result`: `file.sync_data().map_err(Fault::at("sync", path))`.
    pub fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::new(operation, path, source)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot {} {}: {}",
            self.operation,
            self.path.display(),
            self.source
        )
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}
