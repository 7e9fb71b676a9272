//! A log to be read, and the same bytes read by hand: memory maps, frames walked by their lengths, one
//! CRC-32 over each frame but for the crc itself. That is the least that any checked reading does.

use std::fs::{self, File};
use std::hint::black_box;
use std::path::{Path, PathBuf};

use catamaran::WalOptions;
use memmap2::Mmap;
use tempfile::TempDir;

const HEADER_BYTES: usize = 4096;
const HEAD_BYTES: usize = 32;
const RECORD: u8 = 5;

/// A closed log of `entries` payloads of `bytes` bytes, removed with its directory.
pub(crate) fn log_of(entries: u64, bytes: usize) -> TempDir {
    let dir = std::env::var_os("CATAMARAN_BENCH_DIR").unwrap_or(std::env::temp_dir().into());
    let dir = tempfile::tempdir_in(dir).expect("a directory to write to");
    let (wal, _) = WalOptions::new(dir.path()).open().expect("a new log");
    let mut payloads: Vec<Vec<u8>> = vec![vec![7; bytes]; 4096];
    let mut written = 0;
    while written < entries {
        let count = (entries - written).min(4096);
        for (payload, index) in payloads.iter_mut().zip(written..written + count) {
            payload[..8].copy_from_slice(&index.to_le_bytes());
        }
        let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let staged = wal.append(&slices[..usize::try_from(count).expect("few")]);
        wal.sync(staged.expect("an append")).expect("a sync");
        written += count;
    }
    wal.close().expect("a log that ends well");
    dir
}

/// The segments of a log, oldest first, prepared ones left out.
pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir).expect("the log's directory");
    let mut paths: Vec<PathBuf> = names.map(|name| name.expect("a name").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "wal"));
    paths.sort();
    paths.retain(|path| map(path)[HEADER_BYTES..][..HEAD_BYTES] != [0; HEAD_BYTES]);
    paths
}

/// A whole segment, as it stands in the file.
#[allow(
    unsafe_code,
    reason = "the log was closed, and nobody else writes to it"
)]
pub(crate) fn map(path: &Path) -> Mmap {
    let file = File::open(path).expect("a segment");
    // SAFETY: the file is not written while this benchmark reads it.
    unsafe { Mmap::map(&file) }.expect("a map")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..][..4].try_into().expect("four bytes"))
}

/// The payload of the frame at `offset`, after a crc over all of the frame. The crc is not compared: that of the
/// log starts from a seed.
pub(crate) fn payload(segment: &[u8], offset: usize) -> &[u8] {
    let len = u32_at(segment, offset + 8) as usize;
    black_box(crc32fast::hash(
        &segment[offset + 4..][..HEAD_BYTES - 4 + len],
    ));
    &segment[offset + HEAD_BYTES..][..len]
}

/// Reads every frame, and shows the offset and payload of each record. Returns where they end.
pub(crate) fn walk(segment: &[u8], mut record: impl FnMut(usize, &[u8])) -> usize {
    let mut offset = HEADER_BYTES;
    while segment[offset..][..HEAD_BYTES] != [0; HEAD_BYTES] {
        let payload = payload(segment, offset);
        if segment[offset + 12] == RECORD {
            record(offset, payload);
        }
        offset += HEAD_BYTES + payload.len().next_multiple_of(8);
    }
    offset
}
