//! The bare device: what no log can be faster than.

use tempfile::TempDir;

#[path = "../../src/bin/catamaran/bench/raw.rs"]
mod device;

pub(crate) use device::Raw;

/// A directory for one benchmark, removed after it.
pub(crate) fn bench_dir() -> TempDir {
    let dir = std::env::var_os("CATAMARAN_BENCH_DIR").unwrap_or(std::env::temp_dir().into());
    tempfile::tempdir_in(dir).expect("a directory to write to")
}
