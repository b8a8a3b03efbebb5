//! Memory behind tensors: pooled floats, aligned to cache lines, and parameters with their packed copies.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytemuck::{Pod, Zeroable};
use half::bf16;

use crate::ops::Storage;
use crate::ops::footprint::Footprint;

/// Activations are floats. A matrix of up to 16 Mi elements is kept a second time: packing it for a few rows costs more than the product.
pub const FOOTPRINT: Footprint =
    Footprint { activation_bytes: size_of::<f32>(), packed_elements_max: 1 << 24, splits: None };

/// Floats in a cache line.
const LINE: usize = 16;

/// Bytes from which on memory is worth giving back.
const LARGE: usize = 64 << 20;

/// A cache line, so that memory is aligned to 64 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Memory given back, by size class: page faults and the allocator stay off the hot path.
#[derive(Default, Debug)]
pub(super) struct Pool {
    free: Mutex<HashMap<usize, Vec<Vec<Line>>>>,
}

impl Pool {
    /// Sizes that share memory: four steps to the doubling.
    fn class(lines: usize) -> usize {
        let step = (lines.max(8).ilog2() - 2) as usize;
        lines.max(8).div_ceil(1 << step) << step
    }

    fn take(&self, lines: usize) -> Vec<Line> {
        let class = Pool::class(lines);
        let found = self.free.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&class).and_then(Vec::pop);
        found.unwrap_or_else(|| {
            let lines = bytemuck::zeroed_vec(class);
            advise_huge_pages(&lines);
            lines
        })
    }

    /// Frees what is large and not in use.
    pub fn trim(&self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).retain(|lines, _| lines * size_of::<Line>() < LARGE);
    }

    /// Frees all that is not in use, and has the allocator return what it keeps for itself.
    pub fn release(&self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
        #[cfg(target_env = "gnu")]
        // SAFETY: a function of the C library that any thread may call at any time.
        unsafe {
            libc::malloc_trim(0);
        }
    }

    fn free(&self, lines: Vec<Line>) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).entry(lines.len()).or_default().push(lines);
    }
}

/// Asks for large pages where memory is large: reading what is scattered over small ones, such as a KV cache, takes nearly twice as long.
fn advise_huge_pages(lines: &[Line]) {
    const SMALL_PAGE: usize = 4096;
    const HUGE_PAGE: usize = 2 << 20;
    let range = lines.as_ptr_range();
    let (start, end) =
        ((range.start as usize).next_multiple_of(SMALL_PAGE), range.end as usize / SMALL_PAGE * SMALL_PAGE);
    if end.saturating_sub(start) >= HUGE_PAGE {
        // SAFETY: whole pages of this allocation; the advice changes no value. Where it is refused, pages stay small.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
}

/// Pooled floats: the storage of Activation and F32, and scratch space.
pub(super) struct Floats {
    lines: Vec<Line>,
    len: usize,
    pool: Arc<Pool>,
}

impl Floats {
    /// `len` floats of unspecified value.
    pub fn new(pool: &Arc<Pool>, len: usize) -> Floats {
        Floats { lines: pool.take(len.div_ceil(LINE)), len, pool: Arc::clone(pool) }
    }
}

impl std::ops::Deref for Floats {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl std::ops::DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl Drop for Floats {
    fn drop(&mut self) {
        self.pool.free(std::mem::take(&mut self.lines));
    }
}

impl Storage for Floats {}

/// The storage of Bf16.
pub(super) struct Parameter {
    values: Vec<bf16>,
    panels: OnceLock<Vec<bf16>>,
}

impl Parameter {
    pub fn new(values: Vec<bf16>) -> Parameter {
        Parameter { values, panels: OnceLock::new() }
    }

    pub fn values(&self) -> &[bf16] {
        &self.values
    }

    /// The values, to write; what was packed of them is forgotten.
    pub fn values_mut(&mut self) -> &mut [bf16] {
        self.panels.take();
        &mut self.values
    }

    /// The values packed for products, by `pack` the first time; none where they are many.
    pub fn panels(&self, pack: impl FnOnce(&[bf16]) -> Vec<bf16>) -> Option<&[bf16]> {
        (self.values.len() <= FOOTPRINT.packed_elements_max).then(|| &**self.panels.get_or_init(|| pack(&self.values)))
    }
}

impl Storage for Parameter {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_goes_when_it_is_asked_to() {
        let pool = Arc::new(Pool::default());
        let held = Floats::new(&pool, LARGE);
        drop([Floats::new(&pool, LARGE), Floats::new(&pool, 100)]);
        assert_eq!(pool.free.lock().unwrap().len(), 2);
        pool.trim();
        assert_eq!(
            pool.free.lock().unwrap().keys().copied().collect::<Vec<_>>(),
            [Pool::class(100usize.div_ceil(LINE))]
        );
        drop(held);
        assert_eq!(pool.free.lock().unwrap().len(), 2);
        pool.release();
        assert!(pool.free.lock().unwrap().is_empty());
    }

    #[test]
    fn size_classes_hold_what_was_asked_within_a_quarter() {
        for lines in 1..5000 {
            let class = Pool::class(lines);
            assert!(class >= lines && (lines < 8 || class * 4 <= lines * 5 + 4), "{lines} {class}");
            assert_eq!(Pool::class(class), class);
        }
    }
}
