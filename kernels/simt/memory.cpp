// What kernels read and write, watched: bounds, alignment, memory that nobody wrote, races. Plain accesses come here because kernels are
// compiled with -fsanitize=thread,alignment,bounds and these functions stand where the sanitizers' runtimes would. In an unchecked build
// only cp.async and the atomics are left.
//
// Races: every warp has a clock, which moves at barriers and __syncwarp, and knows how far it has seen the others' (vector clocks). An
// access is ordered after an earlier one if the earlier lane is the same, or its time has been seen.
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>

#include "counts.h"

namespace simt {
namespace {

constexpr size_t SHARED_WINDOW = SHARED_BYTES_MAX + (64 << 10);

// This library: where its code and constants lie, and the static shared memory of this thread (`static thread_local`).
struct Image {
    uintptr_t begin, end, fixed_begin, fixed_end;
};
thread_local Image own_image;

int find_image(dl_phdr_info* info, size_t, void* into) {
    Image found{~uintptr_t(0), 0, 0, 0};
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        const auto& segment = info->dlpi_phdr[i];
        if (segment.p_type == PT_LOAD) {
            uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
            found.begin = begin < found.begin ? begin : found.begin;
            found.end = begin + segment.p_memsz > found.end ? begin + segment.p_memsz : found.end;
        } else if (segment.p_type == PT_TLS) {
            found.fixed_begin = reinterpret_cast<uintptr_t>(info->dlpi_tls_data);
            found.fixed_end = found.fixed_begin + segment.p_memsz;
        }
    }
    uintptr_t self = reinterpret_cast<uintptr_t>(&find_image);
    if (self < found.begin || self >= found.end) return 0;
    *static_cast<Image*>(into) = found;
    return 1;
}

std::string where_in(const Range& range, uintptr_t address) {
    std::string role = range.is_shared ? range.role : "`" + std::string(range.role) + "`";
    if (address < range.begin) return std::to_string(range.begin - address) + " bytes before " + role;
    return "byte " + std::to_string(address - range.begin) + " of " + role;
}

const char* verb(Access access) {
    return access == Access::read ? "reads" : access == Access::write ? "writes" : "changes";
}

std::string did(Access access, size_t bytes, const Range& range, uintptr_t address) {
    return std::string(verb(access)) + " " + std::to_string(bytes) + " bytes at " + where_in(range, address);
}

[[noreturn]] void out_of_bounds(Block& block, unsigned lane, Access access, uintptr_t address, size_t bytes, Where where) {
    const Range* nearest = nullptr;
    uintptr_t least = ~uintptr_t(0);
    auto consider = [&](const Range& range) {
        uintptr_t distance = address < range.begin ? range.begin - address : address >= range.end ? address - range.end : 0;
        if (distance < least) {
            least = distance;
            nearest = &range;
        }
    };
    for (const Range& range : block.launch->ranges) consider(range);
    for (const Range& range : block.launch->reached) consider(range);
    consider(block.shared);
    std::string what = std::string(verb(access)) + " " + std::to_string(bytes) + " bytes ";
    if (address < 4096) {
        what += "through a null pointer; look at the optional arguments";
    } else {
        what += "out of bounds, at " + where_in(*nearest, address) + ", which has " +
                std::to_string(nearest->end - nearest->begin) + " bytes; look at the ";
        what += nearest->is_shared ? "index and at the launch's shared bytes" : "index's bound";
    }
    report(block, lane, what, where);
    abort_block(block);
}

}  // namespace

const Range* find(const Block& block, uintptr_t address, size_t bytes) {
    auto holds = [&](const Range& range) { return address - range.begin < range.end - range.begin && address + bytes <= range.end; };
    if (holds(block.shared)) return &block.shared;
    for (const Range& range : block.launch->ranges) {
        if (holds(range)) return &range;
    }
    const std::vector<Range>& reached = block.launch->reached;
    auto behind = std::upper_bound(reached.begin(), reached.end(), address,
                                   [](uintptr_t address, const Range& range) { return address < range.begin; });
    if (behind != reached.begin() && holds(*std::prev(behind))) return &*std::prev(behind);
    return holds(block.fixed) ? &block.fixed : nullptr;
}

namespace {

// Whether what `before` did is done, as lane `lane` sees it.
bool is_ordered(const Block& block, unsigned lane, Touch before, bool is_shared) {
    uint64_t time = before.clock();
    if (time < (is_shared ? block.first_clock : block.launch->first_clock)) return true;
    if (time < block.first_clock) return false;
    const Warp& warp = block.warps[lane / WARP];
    if (before.warp() == lane / WARP) return (before.lane() == lane && !before.many()) || time < warp.clock[lane / WARP];
    return time <= warp.clock[before.warp()];
}

void race(Block& block, unsigned lane, Access access, Touch before, bool did_write, const Range& range, uintptr_t address,
          size_t bytes, Where where) {
    std::string other = thread_name(block, before.lane());
    std::string remedy = "; look for a missing __syncthreads";
    if (before.clock() < block.first_clock) {
        const auto& clocks = block.launch->block_clocks;
        size_t number = clocks.size();
        while (number > 0 && clocks[number - 1] > before.clock()) --number;
        other = "block number " + std::to_string(number - 1);
        remedy = "; blocks of one launch have no order, look at which block owns what";
    } else if (before.warp() == lane / WARP) {
        remedy = "; look for a missing __syncwarp";
    }
    report(block, lane,
           "a race: " + did(access, bytes, range, address) + ", which " + other + (did_write ? " wrote" : " read") +
               " with nothing between" + remedy,
           where);
}

bool all_known(const uint8_t* known, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
        if (known[i] == 0) return false;
    }
    return true;
}

void note_read(Cell& cell, Touch now) {
    Touch& latest = cell.read;
    if (latest.bits == now.bits) return;
    if (latest.warp() == now.warp() && latest.clock() == now.clock()) {
        uint64_t many = latest.lane() == now.lane() ? 0 : Touch::MANY;
        latest.bits |= many | (now.bits & (uint64_t(3) << Touch::BYTES_AT));
        return;
    }
    if (latest.warp() != now.warp()) cell.other_read = latest;
    latest = now;
}

struct Halves {
    Cell* cell;
    uintptr_t address, end;
};

}  // namespace

void map_shared(Block& block) {
    dl_iterate_phdr(find_image, &own_image);
    uintptr_t shared = reinterpret_cast<uintptr_t>(&block) + SHARED_AT;
    block.shared = {shared, shared, shared, nullptr, nullptr, "the dynamic shared memory", true, true};
    uintptr_t fixed = own_image.fixed_begin;
    block.fixed = {fixed, own_image.fixed_end, fixed, nullptr, nullptr, "the static shared memory", true, true};
    if constexpr (CHECKED) {
        block.shared.cells = reserve<Cell>(SHARED_BYTES_MAX / 2 + 1);
        block.fixed.cells = reserve<Cell>((own_image.fixed_end - fixed) / 2 + 1);
    }
}

void touch(Block& block, unsigned lane, Access access, uintptr_t address, size_t bytes, Where where) {
    const Range* range = find(block, address, bytes);
    if (range == nullptr) {
        bool is_constant = access == Access::read && address >= own_image.begin && address + bytes <= own_image.end;
        if (is_constant) return;
        out_of_bounds(block, lane, access, address, bytes, where);
    }
    if (access != Access::read && !range->is_writable) {
        report(block, lane, did(access, bytes, *range, address) + ", which the kernel takes as const", where);
        abort_block(block);
    }
    uintptr_t offset = address - range->origin;
    if (!range->is_shared) {
        if (access != Access::write && !all_known(range->known + offset, bytes)) {
            report(block, lane, did(access, bytes, *range, address) + ", where nobody wrote; look at who should fill it", where);
        }
        if (access != Access::read) std::memset(range->known + offset, 1, bytes);
        if (!range->is_writable) return;
    }

    Touch now{block.warps[lane / WARP].clock[lane / WARP] << 16 | lane};
    bool is_reported = false;
    auto complain = [&](Touch before, bool did_write) {
        if (!is_reported) race(block, lane, access, before, did_write, *range, address, bytes, where);
        is_reported = true;
    };
    unsigned touched_before = 0;
    Cell before{}, *neighbour = nullptr;
    for (uintptr_t at = offset & ~uintptr_t(1); at < offset + bytes; at += 2) {
        Cell& cell = range->cells[at / 2];
        unsigned touched = (at >= offset ? 1 : 0) | (at + 1 < offset + bytes ? 2 : 0);
        // Most often a whole vector was touched by the same threads: what holds for its first bytes holds for the next.
        if (neighbour != nullptr && touched == touched_before && std::memcmp(&cell, &before, sizeof cell) == 0) {
            cell = *neighbour;
            continue;
        }
        before = cell;
        touched_before = touched;
        neighbour = &cell;
        unsigned known = cell.write.clock() >= block.first_clock ? cell.write.known() : 0;
        if (cell.write.in_flight() && cell.write.clock() >= block.first_clock) {
            if (!is_reported) {
                report(block, lane,
                       did(access, bytes, *range, address) + ", which a cp.async of " + thread_name(block, cell.write.lane()) +
                           " still fills; wait for its group (cp.async.wait_group), then for the other threads (__syncthreads)",
                       where);
            }
            is_reported = true;
            continue;
        }
        if (range->is_shared && access != Access::write && (known & touched) != touched && !is_reported) {
            report(block, lane,
                   did(access, bytes, *range, address) + ", where nobody wrote since the block began; look at who should fill it",
                   where);
            is_reported = true;
        }
        bool both_atomic = access == Access::atomic && (cell.write.bits & Touch::ATOMIC) != 0;
        if ((cell.write.bytes() & touched) != 0 && !both_atomic && !is_ordered(block, lane, {cell.write.bits & ~Touch::ATOMIC}, range->is_shared)) {
            complain(cell.write, true);
        }
        Touch mine{now.bits | uint64_t(touched) << Touch::BYTES_AT};
        if (access == Access::read) {
            note_read(cell, mine);
            continue;
        }
        if ((cell.read.bytes() & touched) != 0 && !is_ordered(block, lane, cell.read, range->is_shared)) complain(cell.read, false);
        if ((cell.other_read.bytes() & touched) != 0 && !is_ordered(block, lane, cell.other_read, range->is_shared)) {
            complain(cell.other_read, false);
        }
        uint64_t atomic = access == Access::atomic ? Touch::ATOMIC : 0;
        cell.write.bits = mine.bits | atomic | uint64_t(known | touched) << Touch::KNOWN_AT;
    }
    if (is_reported && block.launch->is_stopped) abort_block(block);
}

namespace {

// The cells of a piece of shared memory.
template <class Change>
void change_cells(Block& block, void* pointer, size_t bytes, Change change) {
    uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
    const Range& range = *find(block, address, bytes);
    for (uintptr_t at = address - range.origin; at < address - range.origin + bytes; at += 2) change(range.cells[at / 2].write);
}

void deliver(Block& block, unsigned lane, const Copy& copy) {
    std::memcpy(copy.to, copy.from, copy.taken);
    std::memset(static_cast<char*>(copy.to) + copy.taken, 0, copy.bytes - copy.taken);
    uint64_t now = block.warps[lane / WARP].clock[lane / WARP] << 16 | lane | uint64_t(15) << Touch::BYTES_AT;
    change_cells(block, copy.to, copy.bytes, [&](Touch& write) { write.bits = now; });
}

}  // namespace

void copy_async(void* to, const void* from, unsigned bytes, unsigned taken) {
    if constexpr (!CHECKED) {
        if (taken == 16) {
            std::memcpy(to, from, 16);
        } else {
            std::memcpy(to, from, taken);
            std::memset(static_cast<char*>(to) + taken, 0, bytes - taken);
        }
        return;
    }
    Where where = SIMT_CALLER;
    Block& block = here();
    unsigned lane = lane_here();
    uintptr_t target = reinterpret_cast<uintptr_t>(to), source = reinterpret_cast<uintptr_t>(from);
    auto refuse = [&](const std::string& what) {
        report(block, lane, "cp.async " + what, where);
        abort_block(block);
    };
    if (target % bytes != 0 || (taken != 0 && source % bytes != 0)) {
        refuse("of " + std::to_string(bytes) + " bytes from or to an address that is not a multiple of that; look at the row pitch");
    }
    if (taken > bytes) refuse("takes more bytes than it writes");
    const Range* range = find(block, target, bytes);
    if (range != nullptr && !range->is_shared) refuse("writes to global memory");
    Lane& own = block.lanes[lane];
    if (own.copies == COPIES_MAX) refuse("is the 513th in flight of this thread; commit and wait");
    if (taken != 0) touch(block, lane, Access::read, source, taken, where);
    touch(block, lane, Access::write, target, bytes, where);
    change_cells(block, to, bytes, [](Touch& write) { write.bits |= Touch::IN_FLIGHT; });
    Copy& copy = block.copies[lane][own.copies++] = {to, from, bytes, taken, own.group};
    if (Counter* counting = counter(block)) counting->copy(block, lane, copy, where.code);
}

void copy_commit() {
    if constexpr (CHECKED) here().lanes[lane_here()].group += 1;
}

// Data arrives here and not before, as late as the hardware might bring it.
void copy_wait(unsigned newest_pending) {
    if constexpr (!CHECKED) return;
    Block& block = here();
    unsigned lane = lane_here();
    Lane& own = block.lanes[lane];
    unsigned done = 0;
    while (done < own.copies && block.copies[lane][done].group + newest_pending < own.group) {
        deliver(block, lane, block.copies[lane][done++]);
    }
    std::copy(block.copies[lane] + done, block.copies[lane] + own.copies, block.copies[lane]);
    own.copies -= done;
}

namespace {

template <class T, class Signed>
T change(Atomic form, T* address, T value, T expected) {
    T old = __atomic_load_n(address, __ATOMIC_RELAXED), next;
    do {
        switch (form) {
            case Atomic::add: next = old + value; break;
            case Atomic::exchange: next = value; break;
            case Atomic::compare_exchange: next = old == expected ? value : old; break;
            case Atomic::min_signed: next = Signed(value) < Signed(old) ? value : old; break;
            case Atomic::max_signed: next = Signed(old) < Signed(value) ? value : old; break;
            case Atomic::min_unsigned: next = value < old ? value : old; break;
            case Atomic::max_unsigned: next = old < value ? value : old; break;
            case Atomic::bit_and: next = old & value; break;
            default: next = old | value; break;
        }
    } while (!__atomic_compare_exchange_n(address, &old, next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}

void watch_atomic(void* address, size_t bytes, Where where) {
    if constexpr (!CHECKED) return;
    Block& block = here();
    touch(block, lane_here(), Access::atomic, reinterpret_cast<uintptr_t>(address), bytes, where);
    if (Counter* counting = counter(block)) {
        counting->access(block, lane_here(), Access::atomic, reinterpret_cast<uintptr_t>(address), bytes, where.code);
    }
}

}  // namespace

uint32_t atomic_32(Atomic form, void* address, uint32_t value, uint32_t expected) {
    watch_atomic(address, 4, SIMT_CALLER);
    return change<uint32_t, int32_t>(form, static_cast<uint32_t*>(address), value, expected);
}

uint64_t atomic_64(Atomic form, void* address, uint64_t value, uint64_t expected) {
    watch_atomic(address, 8, SIMT_CALLER);
    return change<uint64_t, int64_t>(form, static_cast<uint64_t*>(address), value, expected);
}

}  // namespace simt

#ifdef SIMT_CHECKED

namespace {

void plain(simt::Access access, void* pointer, size_t bytes, void* code) {
    uintptr_t address = reinterpret_cast<uintptr_t>(pointer), inside = address - simt::arena();
    // A lane's own stack, or what the launch told it.
    if (inside < simt::ARENA_BYTES && inside - simt::SHARED_AT >= simt::SHARED_WINDOW) return;
    simt::Block& block = simt::here();
    uintptr_t place = reinterpret_cast<uintptr_t>(code) - 1;
    simt::touch(block, simt::lane_here(), access, address, bytes, {place});
    if (simt::Counter* counting = simt::counter(block)) counting->access(block, simt::lane_here(), access, address, bytes, place);
}

struct Site {
    const char* file;
    uint32_t line, column;
};

struct TypeName {
    uint16_t kind, info;
    char name[1];
};

struct Mismatch {
    Site site;
    const TypeName* type;
    uint8_t alignment_bits, kind;
};

struct Outside {
    Site site;
    const TypeName *array, *index;
};

}  // namespace

#define HOOK(name, access, bytes)                                        \
    extern "C" void name(void* address) {                                \
        plain(simt::Access::access, address, bytes, __builtin_return_address(0)); \
    }
#define HOOKS(bytes)                                       \
    HOOK(__tsan_read##bytes, read, bytes)                  \
    HOOK(__tsan_write##bytes, write, bytes)                \
    HOOK(__tsan_unaligned_read##bytes, read, bytes)        \
    HOOK(__tsan_unaligned_write##bytes, write, bytes)      \
    HOOK(__tsan_volatile_read##bytes, read, bytes)         \
    HOOK(__tsan_volatile_write##bytes, write, bytes)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

extern "C" void __tsan_read_range(void* address, size_t bytes) {
    plain(simt::Access::read, address, bytes, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* address, size_t bytes) {
    plain(simt::Access::write, address, bytes, __builtin_return_address(0));
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit(void*) {}

extern "C" void __ubsan_handle_type_mismatch_v1(Mismatch* about, void* pointer) {
    char text[160];
    std::snprintf(text, sizeof text, "misaligned: %s at address %p, which is not a multiple of %d bytes; look at the row pitch",
                  about->type->name, pointer, 1 << about->alignment_bits);
    simt::report(simt::here(), simt::lane_here(), text, {0, about->site.file, int(about->site.line)});
    simt::abort_block(simt::here());
}

extern "C" void __ubsan_handle_out_of_bounds(Outside* about, void* index) {
    char text[160];
    std::snprintf(text, sizeof text, "out of bounds: index %td of %s; look at the index's bound",
                  reinterpret_cast<ptrdiff_t>(index), about->array->name);
    simt::report(simt::here(), simt::lane_here(), text, {0, about->site.file, int(about->site.line)});
    simt::abort_block(simt::here());
}

#endif
