// The machine that the simt device plays: lanes as fibers, warps, barriers, one block at a time on a system thread. Everything a block
// needs lies in one arena aligned to its own size, so that code running on a lane's stack finds its place from the stack pointer alone.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "simt.h"

namespace simt {

// A place in a kernel: its code, or file and line where those are known.
struct Where {
    uintptr_t code;
    const char* file = nullptr;
    int line = 0;
};
#define SIMT_CALLER \
    Where { reinterpret_cast<uintptr_t>(__builtin_return_address(0)) - 1 }

constexpr unsigned WARP = 32;
constexpr unsigned WARPS_MAX = LANES_MAX / WARP;
constexpr unsigned BARRIERS = 16;
constexpr unsigned COPIES_MAX = 512;
constexpr size_t SHARED_BYTES_MAX = 227 << 10;
constexpr unsigned REPORTS_MAX = 4;

#ifdef SIMT_CHECKED
constexpr bool CHECKED = true;
#else
constexpr bool CHECKED = false;
#endif

// Who touched two bytes, and when: lane, warp, flags, and the warp's clock at that moment.
struct Touch {
    uint64_t bits;

    static constexpr uint64_t MANY = 1 << 10;       // of a read: several lanes of the warp
    static constexpr uint64_t ATOMIC = 1 << 10;     // of a write
    static constexpr uint64_t IN_FLIGHT = 1 << 11;  // of a write: a cp.async that nobody waited for
    static constexpr unsigned BYTES_AT = 12;        // which of the two bytes
    static constexpr unsigned KNOWN_AT = 14;        // which of the two bytes hold a value since the block began

    uint64_t clock() const { return bits >> 16; }
    unsigned lane() const { return bits & 1023; }
    unsigned warp() const { return (bits >> 5) & 31; }
    bool many() const { return bits & MANY; }
    bool in_flight() const { return bits & IN_FLIGHT; }
    unsigned bytes() const { return (bits >> BYTES_AT) & 3; }
    unsigned known() const { return (bits >> KNOWN_AT) & 3; }
};

// The shadow of two bytes. Of several readers it holds the latest, and the latest of another warp.
struct Cell {
    Touch write, read, other_read;
};

// A piece of memory that a kernel may touch, with its shadow. `known` is a byte for each byte of global memory, kept over launches.
struct Range {
    uintptr_t begin, end, origin;  // the shadow begins at origin
    Cell* cells;
    uint8_t* known;
    const char* role;
    bool is_shared, is_writable;
};

struct Copy {
    void* to;
    const void* from;
    unsigned bytes, taken, group;
};

struct Lane {
    void* stack_pointer;
    unsigned copies, group;  // cp.async of this lane: how many are in flight, and the group being gathered
    Where where;             // where it waits
    const char* what;        // what it waits in
};

using Complete = void (*)(struct Block&, unsigned warp, unsigned mask, void** operands);

// Lanes of a warp that meet: the last to arrive does the work of all.
struct Meeting {
    Complete complete;
    unsigned mask, arrived;
    void* operands[WARP];
};

struct Warp {
    unsigned runnable, alive, meetings;
    Meeting meeting[WARP];
    uint64_t clock[WARPS_MAX];  // what this warp has seen of each warp's time, its own included
};

struct Barrier {
    unsigned expected, arrived;
    int line;  // of the first to come
    Where where;
    unsigned waiting[WARPS_MAX];
    unsigned arrivals[WARPS_MAX];
    uint64_t clock[WARPS_MAX];
};

struct Device;
class Counter;

// One launch: what all its blocks share.
struct Launch {
    Device* device;
    const Entry* entry;
    uint3 grid, block;
    size_t shared_bytes;
    void* const* arguments;
    std::vector<Range> ranges;   // of the arguments
    std::vector<Range> reached;  // through tables, by where they begin
    uint64_t first_clock;
    std::vector<uint64_t> block_clocks;
    std::mutex mutex;
    std::vector<std::string> reports;
    std::vector<std::pair<std::string, uint64_t>> reported;  // the kind of fault and its place
    std::atomic<bool> is_stopped{false};
    Counter* counter;  // null where nobody counts
};

struct Block {
    View view;  // first, where simt.h looks for it
    Launch* launch;
    void* host_stack_pointer;
    unsigned threads, warps_count, live, ready;
    bool is_aborted;
    uint64_t first_clock;
    Range shared, fixed;  // dynamic and static shared memory
    Lane lanes[LANES_MAX];
    Warp warps[WARPS_MAX];
    Barrier barriers[BARRIERS];
    Copy copies[LANES_MAX][COPIES_MAX];
};
static_assert(sizeof(Block) < SHARED_AT);

inline Block& here() { return *reinterpret_cast<Block*>(arena()); }
inline unsigned lane_here() { return (stack_pointer() >> STACK_BITS) % LANES_MAX; }

// fiber.cpp
Block& block_of_this_thread();
void run_block(Block& block, Launch& launch, uint3 index);
void suspend(Block& block, unsigned lane);                // until someone calls wake
void wake(Block& block, unsigned warp, unsigned lanes);
[[noreturn]] void abort_block(Block& block);

// warp.cpp
void meet(Complete complete, unsigned mask, void* operands, const char* what, Where where);

// tensor_core.cpp
void multiply_16x8x16(const uint16_t a[16][16], const uint16_t b[16][8], float c[16][8], int architecture);

// report.cpp
std::string place(Where where);
std::string thread_name(const Block& block, unsigned lane);
void report(Block& block, unsigned lane, const std::string& what, Where where);
void report_stuck(Block& block);

// memory.cpp
enum class Access { read, write, atomic };
void touch(Block& block, unsigned lane, Access access, uintptr_t address, size_t bytes, Where where);
const Range* find(const Block& block, uintptr_t address, size_t bytes);  // null where the launch has no such memory
void map_shared(Block& block);
inline void tick(Block& block, unsigned warp) { block.warps[warp].clock[warp] += 1; }
template <class T>
T* reserve(size_t count);  // zeros; memory is taken page by page as it is touched
void release(void* memory, size_t bytes);

// device.cpp
int architecture(const Device* device);

}  // namespace simt
