// What a kernel's warps did, counted in a checked build. Blocks run one after the other there, so one counter serves a device.
//
// An instruction is a warp's. Those that lanes do together (mma, ldmatrix, shuffles, votes, reductions, barriers) count when the last lane
// has come; one call of mma is as many instructions as it makes tiles. Of plain accesses, atomics and cp.async each lane comes by itself:
// those of a warp are one instruction if they stand at the same place in the code, and each is its lane's n-th there since all lanes of
// the warp last met. So lanes that the code parts and joins again count as a GPU executes them, and a loop that each lane runs another
// number of times counts as long as the longest. More than 16 bytes of a lane are several accesses. What a compiler keeps in registers is
// not seen, and the host's may keep other values there than nvcc.
//
// Banks: shared memory has 32, of 4 bytes. An access of up to 4 bytes is served for 32 lanes at once, one of 8 bytes for 16, one of 16
// bytes for 8; ldmatrix and cp.async serve 8 rows of 16 bytes. Of such lanes each bank gives one word in a phase, to all that ask for it, so
// they take as many phases as there are different words in the bank with most. Phases beyond one are conflicts. Atomics on one word
// follow one another: each is a word of its own.
#pragma once

#include <map>
#include <unordered_map>

#include "machine.h"

namespace simt {

// As `Counts` of src/cuda/device/simt/counts.rs, which says what each is.
struct Counts {
    uint64_t launches, blocks, warps;
    uint64_t products, matrix_loads, shuffles, votes, reductions, warp_barriers, barriers, copies;
    uint64_t global_loads, global_stores, global_atomics, shared_loads, shared_stores, shared_atomics;
    uint64_t global_read_bytes, global_written_bytes, distinct_read_bytes, distinct_written_bytes, global_sectors;
    uint64_t shared_read_bytes, shared_written_bytes, copied_bytes;
    uint64_t matrix_conflicts, load_conflicts, store_conflicts, atomic_conflicts, copy_conflicts;
};

class Counter {
public:
    // Counts of the kernel that runs, and of all since they were taken.
    Counts* now = nullptr;
    std::map<std::string, Counts> kernels;

    void begin(const Launch& launch);
    void end();
    // A lane reads, writes or changes memory, at a place in the code.
    void access(const Block& block, unsigned lane, Access access, uintptr_t address, size_t bytes, uintptr_t code);
    // A lane starts a cp.async.
    void copy(const Block& block, unsigned lane, const Copy& copy, uintptr_t code);
    // A warp loads matrices of 8 rows; `rows` are 8 addresses a matrix.
    void load_matrices(const uintptr_t* rows, unsigned matrices);
    // All lanes of a warp have met, or are done.
    void meet(unsigned warp);

private:
    enum class Form : uint8_t { global_load, global_store, global_atomic, shared_load, shared_store, shared_atomic, copy_from, copy_to };
    // One instruction: what its lanes touch.
    struct Instruction {
        unsigned lanes = 0, bytes = 0;
        uintptr_t at[WARP];
    };
    // A place in the code: how often each lane was there.
    struct Place {
        Form form;
        unsigned times[WARP] = {};
        std::vector<Instruction> instructions;
    };
    void note(unsigned lane, Form form, uintptr_t address, size_t bytes, uintptr_t code);
    void mark(const Range& range, uintptr_t address, size_t bytes, uint8_t as);
    void add(Form form, const Instruction& instruction);

    std::unordered_map<uintptr_t, Place> places[WARPS_MAX];
    std::vector<Place*> open[WARPS_MAX];  // those where a lane was since the warp last met
    // For each range of the launch, of each byte: whether it was read (1), and written (2).
    std::unordered_map<const Range*, std::vector<uint8_t>> touched;
};

// The counter of a block's launch; null where nobody counts.
inline Counter* counter(const Block& block) { return CHECKED ? block.launch->counter : nullptr; }

}  // namespace simt
