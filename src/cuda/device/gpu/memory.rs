//! Memory of a GPU and of the host beside it: how it is taken, and what copies go through.

use std::collections::BTreeSet;
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, sys};

use super::super::DeviceError;
use super::driver::failed;

/// From this size on memory is the driver's own, not a pool's: a pool would keep it, and it is taken once.
const POOLED_BYTES_MAX: usize = 1 << 30;

/// How memory was taken: from the device's pool, in the stream's order, or, where it has none or is asked for much, plainly.
#[derive(Debug)]
pub struct Allocations {
    has_pool: bool,
    plain: BTreeSet<u64>,
}

impl Allocations {
    pub fn new(has_pool: bool) -> Allocations {
        Allocations { has_pool, plain: BTreeSet::new() }
    }

    pub fn is_pooled(&self, bytes: usize) -> bool {
        self.has_pool && bytes < POOLED_BYTES_MAX
    }

    pub fn note_plain(&mut self, address: u64) {
        self.plain.insert(address);
    }

    /// Whether memory that is given back was taken plainly.
    pub fn forget_plain(&mut self, address: u64) -> bool {
        self.plain.remove(&address)
    }
}

/// Memory that is given back stays with the process for the next tensor: by default each wait would return it to the driver.
pub fn keep_memory(context: &CudaContext) -> Result<(), DeviceError> {
    let what = "preparing the memory pool";
    let mut pool = std::ptr::null_mut();
    // SAFETY: a live context's device; the driver writes the pool's handle.
    unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()) }
        .result()
        .map_err(|e| failed(what, e))?;
    let attribute = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    let mut threshold = u64::MAX;
    // SAFETY: this attribute is a u64, which the driver reads before it returns.
    unsafe { sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()) }
        .result()
        .map_err(|e| failed(what, e))
}

/// Bytes of a section of the staging memory; larger copies go in pieces.
pub const SECTION_BYTES: usize = 8 << 20;
/// Sections that are filled in turn.
const SECTIONS: usize = 4;
/// Where copies begin.
const STAGING_ALIGNMENT: usize = 256;

/// Host memory that the driver copies from and to by itself.
pub struct Pinned {
    memory: *mut u8,
    bytes: usize,
    context: Arc<CudaContext>,
}

// SAFETY: plain memory of this struct's own.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Takes so many bytes, all zero.
    pub fn new(stream: &CudaStream, bytes: usize) -> Result<Pinned, DriverError> {
        let context = stream.context().clone();
        context.bind_to_thread()?;
        // SAFETY: freed on drop.
        let memory: *mut u8 = unsafe { result::malloc_host(bytes, 0) }?.cast();
        // SAFETY: it was taken above.
        unsafe { memory.write_bytes(0, bytes) };
        Ok(Pinned { memory, bytes, context })
    }

    /// A part of it. No copy may be under way in it.
    pub fn part(&mut self, offset: usize, bytes: usize) -> &mut [u8] {
        assert!(offset + bytes <= self.bytes, "{bytes} bytes from {offset} on of {} pinned ones", self.bytes);
        // SAFETY: within what was taken, and initialised there.
        unsafe { std::slice::from_raw_parts_mut(self.memory.add(offset), bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() && self.context.synchronize().is_ok() {
            // SAFETY: allocated in `new`; nothing is under way any more.
            let _ = unsafe { result::free_host(self.memory.cast()) };
        }
    }
}

/// Pinned memory that copies go through, so that the host need not wait for the GPU to have read its values: a ring of sections,
/// each filled from the front, and filled again when the copies from it are done.
pub struct Staging {
    memory: Pinned,
    section: usize,
    used: usize,
    /// Behind the last copy of each section.
    done: [Option<CudaEvent>; SECTIONS],
}

impl Staging {
    /// All sections empty.
    pub fn new(stream: &CudaStream) -> Result<Staging, DriverError> {
        let memory = Pinned::new(stream, SECTIONS * SECTION_BYTES)?;
        Ok(Staging { memory, section: 0, used: 0, done: std::array::from_fn(|_| None) })
    }

    /// Memory for one copy of at most a section. No copy reads it any more.
    pub fn take(&mut self, stream: &CudaStream, bytes: usize) -> Result<&mut [u8], DriverError> {
        if self.used + bytes > SECTION_BYTES {
            self.done[self.section] = Some(stream.record_event(None)?);
            self.section = (self.section + 1) % SECTIONS;
            self.used = 0;
            if let Some(done) = &self.done[self.section] {
                done.synchronize()?;
            }
        }
        let offset = self.section * SECTION_BYTES + self.used;
        self.used = (self.used + bytes).next_multiple_of(STAGING_ALIGNMENT);
        Ok(self.memory.part(offset, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_pooled_unless_there_is_no_pool_or_it_is_large() {
        let mut allocations = Allocations::new(true);
        assert!(allocations.is_pooled(0) && allocations.is_pooled(POOLED_BYTES_MAX - 1));
        assert!(!allocations.is_pooled(POOLED_BYTES_MAX) && !allocations.is_pooled(130 << 30));
        allocations.note_plain(512);
        assert!(!allocations.forget_plain(256));
        // An address that was given back may come again from the pool.
        assert!(allocations.forget_plain(512) && !allocations.forget_plain(512));
        let without = Allocations::new(false);
        assert!(!without.is_pooled(0) && !without.is_pooled(POOLED_BYTES_MAX));
    }
}
