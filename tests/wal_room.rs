//! A log that goes on from segment to segment uses the same large pieces of memory again. Each that it gave back
//! instead would be asked for by another thread, and an allocator keeps for each thread what that once needed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use catamaran::LogIndex;
use catamaran::wal::WalOptions;

/// What is large: less than an offset of four bytes for each entry of a segment.
const LARGE: usize = 32 << 10;
const SEGMENT_BYTES: u64 = 1 << 20;
const BATCH: usize = 100;

/// Counts what is allocated in large pieces.
struct Counting;

static LARGE_ONES: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "an allocator can be counted in no other way")]
// SAFETY: each call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE {
            LARGE_ONES.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: who calls keeps to what `GlobalAlloc` asks for, and so does this.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above; `ptr` came from the same allocator.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_log_asks_for_no_large_piece_of_memory_once_it_has_filled_some_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = WalOptions::new(dir.path())
        .segment_bytes(SEGMENT_BYTES)
        .open()
        .unwrap();
    let payloads = [[7; 16]; BATCH];
    let batch = payloads.each_ref().map(|payload| &payload[..]);
    let mut last = LogIndex(0);
    // Each entry takes more than its payload, so these fill as many segments at least.
    let mut fill = |segments: u64| {
        for _ in 0..segments * SEGMENT_BYTES / (16 * BATCH as u64) {
            wal.sync(wal.append(&batch).unwrap()).unwrap();
            last = LogIndex(last.0 + BATCH as u64);
            // What is behind goes, and its files are used again.
            wal.sync(wal.drop_prefix(last).unwrap()).unwrap();
        }
    };
    fill(2);
    let before = LARGE_ONES.load(Ordering::Relaxed);
    fill(5);
    let large = LARGE_ONES.load(Ordering::Relaxed) - before;
    assert_eq!(large, 0, "of {LARGE} bytes or more");
}
