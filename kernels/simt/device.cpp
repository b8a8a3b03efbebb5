// The device as the Rust side calls it: memory, copies, launches. In a checked build blocks run one after the other, so that reports are
// the same on every run; in an unchecked one on all cores.
#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <map>
#include <memory>
#include <thread>

#include "counts.h"

namespace simt {

struct Allocation {
    size_t bytes;
    uint8_t* known;
    Cell* cells;
};

// Blocks of a launch, handed out in order.
struct Work {
    Launch* launch;  // gone once all blocks are done
    uint3 grid;
    uint64_t blocks;
    std::atomic<uint64_t> next{0}, done{0};
};

struct Device {
    int architecture;
    uint64_t clock = 1;
    std::mutex launching;
    std::map<uintptr_t, Allocation> allocations;
    std::mutex memory;

    std::mutex pool;
    std::condition_variable has_work, is_done;
    std::shared_ptr<Work> work;
    uint64_t works = 0;
    bool is_closing = false;
    std::vector<std::thread> threads;
    std::unique_ptr<Counter> counter;
};

int architecture(const Device* device) { return device->architecture; }

namespace {

constexpr size_t ALIGNMENT = 256;

// What this thread notes of static shared memory stays there from launch to launch, whichever device it launches on: so no device's clock
// may stand before that of an earlier launch.
thread_local uint64_t clock_of_thread = 1;

void take_part(Device& device, Work& work) {
    Block& block = block_of_this_thread();
    const uint3 grid = work.grid;
    for (;;) {
        uint64_t i = work.next.fetch_add(1);
        if (i >= work.blocks) break;
        Launch& launch = *work.launch;
        if (!launch.is_stopped) {
            block.first_clock = device.clock;
            if constexpr (CHECKED) launch.block_clocks.push_back(device.clock);
            run_block(block, launch, {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)});
            if constexpr (CHECKED) {
                for (unsigned w = 0; w < block.warps_count; ++w) {
                    device.clock = std::max(device.clock, block.warps[w].clock[w] + 1);
                }
            }
        }
        if (work.done.fetch_add(1) + 1 == work.blocks) {
            std::lock_guard<std::mutex> lock(device.pool);
            device.is_done.notify_all();
        }
    }
    block.launch = nullptr;
}

void help(Device& device) {
    uint64_t seen = 0;
    for (;;) {
        std::shared_ptr<Work> work;
        {
            std::unique_lock<std::mutex> lock(device.pool);
            device.has_work.wait(lock, [&] { return device.is_closing || device.works != seen; });
            if (device.is_closing) return;
            seen = device.works;
            work = device.work;
        }
        if (work->next.load() < work->blocks) take_part(device, *work);
    }
}

void run(Device& device, Launch& launch) {
    auto work = std::make_shared<Work>();
    work->launch = &launch;
    work->grid = launch.grid;
    work->blocks = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
    bool is_shared = work->blocks > 1 && !device.threads.empty();
    if (is_shared) {
        std::lock_guard<std::mutex> lock(device.pool);
        device.work = work;
        device.works += 1;
        device.has_work.notify_all();
    }
    take_part(device, *work);
    std::unique_lock<std::mutex> lock(device.pool);
    device.is_done.wait(lock, [&] { return work->done.load() == work->blocks; });
}

// The allocation that holds [address, address + bytes), with where it begins; null if none does.
std::pair<const uintptr_t, Allocation>* holder(Device& device, uintptr_t address, size_t bytes) {
    auto after = device.allocations.upper_bound(address);
    if (after == device.allocations.begin()) return nullptr;
    auto& found = *std::prev(after);
    return address + bytes <= found.first + found.second.bytes ? &found : nullptr;
}

void mark_known(Device& device, void* pointer, size_t bytes) {
    if constexpr (CHECKED) {
        std::lock_guard<std::mutex> lock(device.memory);
        uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
        if (auto* found = holder(device, address, bytes)) std::memset(found->second.known + (address - found->first), 1, bytes);
    }
}

bool say(const std::string& text, char* report, size_t report_bytes) {
    size_t length = std::min(text.size(), report_bytes - 1);
    std::memcpy(report, text.data(), length);
    report[length] = 0;
    return false;
}

}  // namespace
}  // namespace simt

using simt::CHECKED;
using simt::Device;

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT Device* simt_open(int architecture, unsigned threads) {
    Device* device = new Device;
    device->architecture = architecture;
    for (unsigned i = 1; i < threads && !CHECKED; ++i) device->threads.emplace_back([device] { simt::help(*device); });
    return device;
}

EXPORT void simt_close(Device* device) {
    {
        std::lock_guard<std::mutex> lock(device->pool);
        device->is_closing = true;
        device->has_work.notify_all();
    }
    for (std::thread& thread : device->threads) thread.join();
    delete device;
}

// From here on launches are counted, each kernel from zero. Only a checked build counts.
EXPORT void simt_count(Device* device) {
    std::lock_guard<std::mutex> lock(device->launching);
    if (CHECKED) device->counter = std::make_unique<simt::Counter>();
}

// The counts of the kernel with this number, by its name's place among all; false if there are not so many. The name lives until
// simt_count or simt_close.
EXPORT bool simt_counts(Device* device, size_t number, const char** name, simt::Counts* counts) {
    std::lock_guard<std::mutex> lock(device->launching);
    if (device->counter == nullptr || number >= device->counter->kernels.size()) return false;
    const auto& found = *std::next(device->counter->kernels.begin(), number);
    *name = found.first.c_str();
    *counts = found.second;
    return true;
}

EXPORT void* simt_allocate(Device* device, size_t bytes) {
    size_t whole = std::max(bytes + simt::ALIGNMENT - 1, simt::ALIGNMENT) & ~(simt::ALIGNMENT - 1);
    void* memory = std::aligned_alloc(simt::ALIGNMENT, whole);
    if (CHECKED && memory != nullptr) {
        std::lock_guard<std::mutex> lock(device->memory);
        device->allocations[reinterpret_cast<uintptr_t>(memory)] = {bytes, simt::reserve<uint8_t>(bytes),
                                                                    simt::reserve<simt::Cell>(bytes / 2 + 1)};
    }
    return memory;
}

EXPORT void simt_free(Device* device, void* memory) {
    if (CHECKED) {
        std::lock_guard<std::mutex> lock(device->memory);
        auto found = device->allocations.find(reinterpret_cast<uintptr_t>(memory));
        simt::release(found->second.known, found->second.bytes);
        simt::release(found->second.cells, (found->second.bytes / 2 + 1) * sizeof(simt::Cell));
        device->allocations.erase(found);
    }
    std::free(memory);
}

EXPORT void simt_copy_in(Device* device, void* to, const void* from, size_t bytes) {
    std::memcpy(to, from, bytes);
    simt::mark_known(*device, to, bytes);
}

EXPORT void simt_zero(Device* device, void* to, size_t bytes) {
    std::memset(to, 0, bytes);
    simt::mark_known(*device, to, bytes);
}

// How many of the bytes before the first that nobody wrote.
EXPORT size_t simt_copy_out(Device* device, void* to, const void* from, size_t bytes) {
    std::memcpy(to, from, bytes);
    if (!CHECKED) return bytes;
    std::lock_guard<std::mutex> lock(device->memory);
    uintptr_t address = reinterpret_cast<uintptr_t>(from);
    auto* found = simt::holder(*device, address, bytes);
    if (found == nullptr || bytes == 0) return bytes;
    const uint8_t* known = found->second.known + (address - found->first);
    const void* unknown = std::memchr(known, 0, bytes);
    return unknown == nullptr ? bytes : size_t(static_cast<const uint8_t*>(unknown) - known);
}

EXPORT void simt_copy(Device* device, void* to, const void* from, size_t bytes) {
    std::memmove(to, from, bytes);
    if (!CHECKED || bytes == 0) return;
    std::lock_guard<std::mutex> lock(device->memory);
    uintptr_t target = reinterpret_cast<uintptr_t>(to), source = reinterpret_cast<uintptr_t>(from);
    auto* into = simt::holder(*device, target, bytes);
    auto* out_of = simt::holder(*device, source, bytes);
    if (into == nullptr || out_of == nullptr) return;
    std::memmove(into->second.known + (target - into->first), out_of->second.known + (source - out_of->first), bytes);
}

// As the Rust side writes them down.
struct simt_argument {
    uint32_t kind;          // 0 pointer, then as simt::Kind; of what is reached through a table, whether it is written
    uint64_t value, bytes;  // of a struct by value, its address and size
    const char* role;
};

struct simt_launch_description {
    const simt::Entry* entry;
    unsigned grid[3], block[3];
    size_t shared_bytes;
    const simt_argument* arguments;
    size_t arguments_count;
    const simt_argument* reached;  // memory whose addresses are in tables
    size_t reached_count;
};

namespace simt {

// Adds memory that a launch may touch; false if it is none of this device's.
static bool add_range(Device& device, std::vector<Range>& ranges, const simt_argument& given, bool is_writable) {
    std::lock_guard<std::mutex> lock(device.memory);
    auto* found = holder(device, given.value, given.bytes);
    if (found == nullptr) return false;
    ranges.push_back({given.value, given.value + given.bytes, found->first, found->second.cells, found->second.known, given.role, false,
                      is_writable});
    return true;
}

}  // namespace simt

// False, with the first few faults in `report`, if there was any.
EXPORT bool simt_launch(Device* device, const simt_launch_description* what, char* report, size_t report_bytes) {
    using simt::Kind;
    const std::string name = what->entry->name;
    if (what->arguments_count != what->entry->count) {
        return simt::say(name + " takes " + std::to_string(what->entry->count) + " arguments, not " +
                             std::to_string(what->arguments_count), report, report_bytes);
    }
    uint64_t threads = uint64_t(what->block[0]) * what->block[1] * what->block[2];
    if (threads == 0 || threads > simt::LANES_MAX || threads % simt::WARP != 0) {
        return simt::say(name + ": a block of " + std::to_string(threads) + " threads; it has to be a multiple of 32, up to 1024",
                         report, report_bytes);
    }
    if (what->shared_bytes > simt::SHARED_BYTES_MAX) {
        return simt::say(name + ": " + std::to_string(what->shared_bytes) + " shared bytes; a block may have 227 KiB", report,
                         report_bytes);
    }
    std::lock_guard<std::mutex> lock(device->launching);
    simt::Launch launch{};
    launch.device = device;
    launch.entry = what->entry;
    launch.grid = {what->grid[0], what->grid[1], what->grid[2]};
    launch.block = {what->block[0], what->block[1], what->block[2]};
    launch.shared_bytes = what->shared_bytes;
    if constexpr (CHECKED) device->clock = std::max(device->clock, simt::clock_of_thread);
    launch.first_clock = device->clock;
    std::vector<void*> values;
    for (size_t i = 0; i < what->arguments_count; ++i) {
        const simt_argument& given = what->arguments[i];
        const simt::Parameter parameter = what->entry->parameters[i];
        Kind kind = parameter.kind;
        bool takes_pointer = kind == Kind::read || kind == Kind::write;
        if (takes_pointer ? given.kind != 0 : given.kind != uint32_t(kind)) {
            return simt::say(name + ": argument " + std::to_string(i) + " is of another type than the kernel's parameter", report,
                             report_bytes);
        }
        if (kind == Kind::by_value && given.bytes != parameter.bytes) {
            return simt::say(name + ": argument " + std::to_string(i) + " has " + std::to_string(given.bytes) +
                                 " bytes, the kernel's parameter " + std::to_string(parameter.bytes), report, report_bytes);
        }
        values.push_back(kind == Kind::by_value ? reinterpret_cast<void*>(given.value) : const_cast<uint64_t*>(&given.value));
        if (!CHECKED || !takes_pointer || given.value == 0) continue;
        if (!simt::add_range(*device, launch.ranges, given, kind == Kind::write)) {
            return simt::say(name + ": argument `" + given.role + "` is not memory of this device", report, report_bytes);
        }
    }
    for (size_t i = 0; CHECKED && i < what->reached_count; ++i) {
        const simt_argument& given = what->reached[i];
        if (!simt::add_range(*device, launch.reached, given, given.kind != 0)) {
            return simt::say(name + ": `" + given.role + "` of a table is not memory of this device", report, report_bytes);
        }
    }
    std::sort(launch.reached.begin(), launch.reached.end(),
              [](const simt::Range& a, const simt::Range& b) { return a.begin < b.begin; });
    launch.arguments = values.data();
    launch.counter = device->counter.get();
    if (launch.counter != nullptr) launch.counter->begin(launch);
    simt::run(*device, launch);
    if constexpr (CHECKED) simt::clock_of_thread = device->clock;
    if (launch.counter != nullptr) launch.counter->end();
    std::string all;
    for (const std::string& one : launch.reports) all += (all.empty() ? "" : "\n") + one;
    return launch.reports.empty() || simt::say(all, report, report_bytes);
}
