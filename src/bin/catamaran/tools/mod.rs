//! `inspect`, `verify` and `dump`: looking into a log, writing nothing.

use std::path::Path;

use catamaran::log::{Inspection, LogError, open_read_only};
use catamaran::wal::{ReadError, WalError};

use crate::Failure;

mod dump;
mod inspect;
mod output;
mod verify;

pub(crate) use dump::Dump;
pub(crate) use inspect::Inspect;
pub(crate) use verify::Verify;

fn open(dir: &Path) -> Result<Inspection, Failure> {
    open_read_only(dir).map_err(|error| refused(dir, &error))
}

/// Damage, or a directory that is none of a log, is status 2; a disk that cannot be read is 1.
fn refused(dir: &Path, error: &LogError) -> Failure {
    let text = format!("{}: {error}", dir.display());
    match error {
        LogError::Wal(WalError::Io(_) | WalError::Denied(_))
        | LogError::Read(ReadError::Wal(WalError::Io(_) | WalError::Denied(_))) => {
            Failure::runtime(text)
        }
        _ => Failure::usage(text),
    }
}
