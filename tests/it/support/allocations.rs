//! The allocator of the tests, which counts what a thread takes while it is asked to.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counting.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What was taken from the allocator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes in all, freed since or not.
    pub bytes: usize,
    /// Bytes of the largest allocation.
    pub largest: usize,
}

thread_local! {
    /// What this thread has taken; `None` while nobody counts.
    static TAKEN: Cell<Option<Taken>> = const { Cell::new(None) };
}

fn count(bytes: usize) {
    // A thread that ends has no count any more.
    let _ = TAKEN.try_with(|taken| {
        if let Some(before) = taken.get() {
            taken.set(Some(Taken { bytes: before.bytes + bytes, largest: before.largest.max(bytes) }));
        }
    });
}

// SAFETY: each method is the system allocator's, called with the same arguments; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What work takes on this thread, beside what it gives.
pub fn counted<T>(work: impl FnOnce() -> T) -> (T, Taken) {
    let outer = TAKEN.replace(Some(Taken::default()));
    assert_eq!(outer, None, "one count at a time");
    let given = work();
    (given, TAKEN.take().expect("it was set above"))
}
