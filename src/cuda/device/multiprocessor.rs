//! How many blocks a multiprocessor of a GPU holds, and what share of its fast memory they want for that. The rest of it is cache.

/// What the blocks of a multiprocessor share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Multiprocessor {
    /// Registers of 32 bits.
    pub registers: usize,
    /// Threads.
    pub threads: usize,
    /// Blocks.
    pub blocks: usize,
    /// Bytes of shared memory.
    pub shared_bytes: usize,
    /// Bytes of it that each block takes beside its own.
    pub reserved_bytes: usize,
}

/// A kernel as it is launched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Threads of a block.
    pub threads: usize,
    /// Registers of a thread.
    pub registers: usize,
    /// Shared bytes of a block, static and dynamic.
    pub shared_bytes: usize,
}

/// Threads of a warp, which has its registers in whole units.
const WARP: usize = 32;
const REGISTERS_UNIT: usize = 256;
/// Shared memory is given out in whole units too.
const SHARED_UNIT: usize = 128;

impl Multiprocessor {
    /// The percentage of the shared memory that as many blocks of `load` want as registers and threads allow.
    pub fn carveout_percent(&self, load: Load) -> i32 {
        let warps = load.threads.div_ceil(WARP);
        let registers = warps * (load.registers.max(1) * WARP).next_multiple_of(REGISTERS_UNIT);
        let blocks = (self.registers / registers).min(self.threads / (warps * WARP)).min(self.blocks);
        let wanted = blocks * (load.shared_bytes + self.reserved_bytes).next_multiple_of(SHARED_UNIT);
        (100 * wanted).div_ceil(self.shared_bytes).min(100) as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H200: Multiprocessor = Multiprocessor {
        registers: 65_536,
        threads: 2048,
        blocks: 32,
        shared_bytes: 228 << 10,
        reserved_bytes: 1 << 10,
    };

    #[test]
    fn shared_memory_is_for_the_blocks_that_registers_and_threads_allow() {
        let percent =
            |threads, registers, shared_bytes| H200.carveout_percent(Load { threads, registers, shared_bytes });
        // 16 blocks of 128 threads, 15 KiB with what is reserved: 240 of 228 KiB.
        assert_eq!(percent(128, 32, 14 << 10), 100);
        // At 72 registers there are 7, which want 105 of 228 KiB.
        assert_eq!(percent(128, 72, 14 << 10), 47);
        // A warp at 255 registers has 8,192 of them: 8 blocks of a warp, 2 KiB each.
        assert_eq!(percent(32, 255, 1 << 10), 8);
        // Little work: 32 blocks and no more.
        assert_eq!(percent(32, 16, 0), 15);
        // One large block.
        assert_eq!(percent(384, 168, 200 << 10), 89);
    }
}
