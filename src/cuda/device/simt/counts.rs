//! What the warps of a kernel did, as the checked device counts it. `kernels/simt/counts.h` defines instructions, banks and conflicts.

/// Of one kernel, over all its launches.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Launches.
    pub launches: u64,
    /// Their blocks.
    pub blocks: u64,
    /// Warps of those.
    pub warps: u64,
    /// `mma.sync m16n8k16`. This and what follows are instructions of a warp.
    pub products: u64,
    /// `ldmatrix`, of any number of matrices.
    pub matrix_loads: u64,
    /// Shuffles.
    pub shuffles: u64,
    /// Votes.
    pub votes: u64,
    /// Warp reductions.
    pub reductions: u64,
    /// `__syncwarp`.
    pub warp_barriers: u64,
    /// `__syncthreads` and named barriers, waiting or not.
    pub barriers: u64,
    /// `cp.async`.
    pub copies: u64,
    /// Loads from global memory.
    pub global_loads: u64,
    /// Stores to it.
    pub global_stores: u64,
    /// Atomics on it.
    pub global_atomics: u64,
    /// Loads from shared memory, but for `ldmatrix`.
    pub shared_loads: u64,
    /// Stores to it.
    pub shared_stores: u64,
    /// Atomics on it.
    pub shared_atomics: u64,
    /// Bytes of global memory that lanes asked for, `cp.async` among them.
    pub global_read_bytes: u64,
    /// Bytes that they wrote there.
    pub global_written_bytes: u64,
    /// Bytes of global memory that were read at all, each once a launch.
    pub distinct_read_bytes: u64,
    /// Bytes of it that were written at all.
    pub distinct_written_bytes: u64,
    /// Sectors of 32 bytes that the instructions on global memory touched.
    pub global_sectors: u64,
    /// Bytes that lanes read from shared memory, `ldmatrix` among them.
    pub shared_read_bytes: u64,
    /// Bytes that they wrote there, but for `cp.async`.
    pub shared_written_bytes: u64,
    /// Bytes that `cp.async` wrote there.
    pub copied_bytes: u64,
    /// Phases of shared memory beyond those that no conflict would need: of `ldmatrix`.
    pub matrix_conflicts: u64,
    /// Of other loads.
    pub load_conflicts: u64,
    /// Of stores.
    pub store_conflicts: u64,
    /// Of atomics.
    pub atomic_conflicts: u64,
    /// Of what `cp.async` writes.
    pub copy_conflicts: u64,
}

impl Counts {
    /// Instructions of warps, of all kinds that are counted.
    pub fn instructions(&self) -> u64 {
        let together =
            self.products + self.shuffles + self.votes + self.reductions + self.warp_barriers + self.barriers;
        let global = self.global_loads + self.global_stores + self.global_atomics;
        let shared = self.matrix_loads + self.copies + self.shared_loads + self.shared_stores + self.shared_atomics;
        together + global + shared
    }

    /// Phases beyond those that no conflict would need, of all kinds.
    pub fn conflicts(&self) -> u64 {
        self.matrix_conflicts + self.load_conflicts + self.store_conflicts + self.atomic_conflicts + self.copy_conflicts
    }
}
