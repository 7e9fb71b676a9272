//! An allocator that gives at most 64 MiB at once: a hundred times what a log of this size needs, and what
//! a panic needs to tell where it was.

use std::alloc::{GlobalAlloc, Layout, System};

const MOST_BYTES: usize = 64 << 20;

struct Capped;

fn check(bytes: usize) {
    // A panic here would allocate.
    if bytes > MOST_BYTES {
        eprintln!("an allocation of {bytes} bytes");
        std::process::abort();
    }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Capped {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        check(bytes);
        unsafe { System.realloc(at, layout, bytes) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static CAPPED: Capped = Capped;
