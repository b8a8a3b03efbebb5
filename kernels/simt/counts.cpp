// Counting: accesses of lanes become instructions of warps, and their addresses phases of banks, sectors and bytes. See counts.h.
#include "counts.h"

#include <algorithm>

namespace simt {
namespace {

constexpr unsigned BANKS = 32;
constexpr unsigned WORD = 4;
constexpr unsigned SECTOR = 32;
constexpr unsigned ACCESS_MAX = 16;

// Phases beyond the first of accesses that are served at once.
uint64_t conflicts_at_once(const uintptr_t* at, unsigned lanes, unsigned bytes, bool each_is_one) {
    uintptr_t words[BANKS];
    unsigned count = 0, most = 0, in_bank[BANKS] = {};
    for (; lanes != 0; lanes &= lanes - 1) {
        uintptr_t first = at[__builtin_ctz(lanes)] / WORD;
        for (unsigned i = 0; i < std::max(1u, bytes / WORD); ++i) words[count++] = first + i;
    }
    std::sort(words, words + count);
    for (unsigned i = 0; i < count; ++i) {
        if (!each_is_one && i > 0 && words[i] == words[i - 1]) continue;
        most = std::max(most, ++in_bank[words[i] % BANKS]);
    }
    return most > 0 ? most - 1 : 0;
}

uint64_t conflicts(const uintptr_t* at, unsigned lanes, unsigned bytes, bool each_is_one = false) {
    unsigned at_once = bytes <= WORD ? WARP : bytes <= 2 * WORD ? WARP / 2 : WARP / 4;
    uint64_t sum = 0;
    for (unsigned first = 0; first < WARP; first += at_once) {
        unsigned served = uint32_t((uint64_t(1) << at_once) - 1) << first;
        sum += conflicts_at_once(at, lanes & served, bytes, each_is_one);
    }
    return sum;
}

uint64_t sectors(const uintptr_t* at, unsigned lanes) {
    uintptr_t found[WARP];
    unsigned count = 0;
    for (; lanes != 0; lanes &= lanes - 1) found[count++] = at[__builtin_ctz(lanes)] / SECTOR;
    std::sort(found, found + count);
    return uint64_t(std::unique(found, found + count) - found);
}

}  // namespace

void Counter::begin(const Launch& launch) {
    now = &kernels[launch.entry->name];
    now->launches += 1;
}

void Counter::end() {
    for (const auto& [range, bytes] : touched) {
        for (uint8_t how : bytes) {
            now->distinct_read_bytes += how & 1;
            now->distinct_written_bytes += how >> 1;
        }
    }
    touched.clear();
}

void Counter::mark(const Range& range, uintptr_t address, size_t bytes, uint8_t as) {
    std::vector<uint8_t>& how = touched[&range];
    if (how.empty()) how.resize(range.end - range.begin);
    for (size_t i = 0; i < bytes; ++i) how[address - range.begin + i] |= as;
}

void Counter::note(unsigned lane, Form form, uintptr_t address, size_t bytes, uintptr_t code) {
    // Addresses of code leave the upper byte free.
    Place& place = places[lane / WARP][code | uintptr_t(form) << 56];
    place.form = form;
    if (place.instructions.empty()) open[lane / WARP].push_back(&place);
    for (size_t done = 0; done < bytes; done += ACCESS_MAX) {
        unsigned time = place.times[lane % WARP]++;
        if (time == place.instructions.size()) place.instructions.emplace_back();
        Instruction& instruction = place.instructions[time];
        instruction.lanes |= 1u << lane % WARP;
        instruction.bytes = unsigned(std::min<size_t>(bytes - done, ACCESS_MAX));
        instruction.at[lane % WARP] = address + done;
    }
}

void Counter::access(const Block& block, unsigned lane, Access access, uintptr_t address, size_t bytes, uintptr_t code) {
    const Range* range = find(block, address, bytes);
    if (range == nullptr) return;
    const Form global[] = {Form::global_load, Form::global_store, Form::global_atomic};
    const Form shared[] = {Form::shared_load, Form::shared_store, Form::shared_atomic};
    note(lane, (range->is_shared ? shared : global)[unsigned(access)], address, bytes, code);
    const uint8_t as[] = {1, 2, 3};
    if (!range->is_shared) mark(*range, address, bytes, as[unsigned(access)]);
}

void Counter::copy(const Block& block, unsigned lane, const Copy& copy, uintptr_t code) {
    uintptr_t from = reinterpret_cast<uintptr_t>(copy.from);
    note(lane, Form::copy_to, reinterpret_cast<uintptr_t>(copy.to), copy.bytes, code);
    const Range* range = copy.taken != 0 ? find(block, from, copy.taken) : nullptr;
    if (range == nullptr) return;
    note(lane, Form::copy_from, from, copy.taken, code);
    mark(*range, from, copy.taken, 1);
}

void Counter::load_matrices(const uintptr_t* rows, unsigned matrices) {
    now->matrix_loads += 1;
    for (unsigned q = 0; q < matrices; ++q) {
        now->shared_read_bytes += 8 * 16;
        now->matrix_conflicts += conflicts_at_once(rows + 8 * q, 0xFF, 16, false);
    }
}

void Counter::meet(unsigned warp) {
    for (Place* place : open[warp]) {
        for (const Instruction& instruction : place->instructions) add(place->form, instruction);
        place->instructions.clear();
        std::fill_n(place->times, WARP, 0u);
    }
    open[warp].clear();
}

void Counter::add(Form form, const Instruction& of) {
    uint64_t bytes = uint64_t(of.bytes) * __builtin_popcount(of.lanes);
    switch (form) {
        case Form::global_load:
            now->global_loads += 1;
            now->global_read_bytes += bytes;
            break;
        case Form::global_store:
            now->global_stores += 1;
            now->global_written_bytes += bytes;
            break;
        case Form::global_atomic:
            now->global_atomics += 1;
            now->global_read_bytes += bytes;
            now->global_written_bytes += bytes;
            break;
        case Form::copy_from: now->global_read_bytes += bytes; break;
        case Form::shared_load:
            now->shared_loads += 1;
            now->shared_read_bytes += bytes;
            now->load_conflicts += conflicts(of.at, of.lanes, of.bytes);
            return;
        case Form::shared_store:
            now->shared_stores += 1;
            now->shared_written_bytes += bytes;
            now->store_conflicts += conflicts(of.at, of.lanes, of.bytes);
            return;
        case Form::shared_atomic:
            now->shared_atomics += 1;
            now->shared_read_bytes += bytes;
            now->shared_written_bytes += bytes;
            now->atomic_conflicts += conflicts(of.at, of.lanes, of.bytes, true);
            return;
        case Form::copy_to:
            now->copies += 1;
            now->copied_bytes += bytes;
            now->copy_conflicts += conflicts(of.at, of.lanes, of.bytes);
            return;
    }
    now->global_sectors += sectors(of.at, of.lanes);
}

}  // namespace simt
