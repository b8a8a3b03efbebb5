//! The allocator of the C library, for processes that run for long.

/// Bytes that an arena may keep at its end, and from which on an allocation is a mapping of its own, which goes back when it is freed.
#[cfg(target_env = "gnu")]
const KEPT_BYTES_MAX: libc::c_int = 4 << 20;

/// Arenas, which threads share.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 4;

/// Has most of what is freed go back to the system. Left to itself glibc makes eight arenas for each core, and each comes to keep up to 64 MiB.
///
/// Call it first, while the process has one thread.
pub fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: functions of the C library that set numbers of its own; no other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES_MAX);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BYTES_MAX);
    }
}
