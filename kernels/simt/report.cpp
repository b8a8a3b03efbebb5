// What is said about a fault: the kernel, the block, the thread, the place, and what to look at.
#include <dlfcn.h>

#include <cstdio>

#include "machine.h"

namespace simt {
namespace {

std::string triple(uint3 at) {
    return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
}

// This library's own place in memory.
uintptr_t base() {
    Dl_info info;
    dladdr(reinterpret_cast<void*>(&base), &info);
    return reinterpret_cast<uintptr_t>(info.dli_fbase);
}

}  // namespace

// `{+offset}` in the library is for the launching side to turn into file and line.
std::string place(Where where) {
    if (where.file != nullptr) return std::string(where.file) + ":" + std::to_string(where.line);
    char text[32];
    std::snprintf(text, sizeof text, "{+0x%zx}", size_t(where.code - base()));
    return text;
}

std::string thread_name(const Block& block, unsigned lane) { return "thread " + triple(block.view.threads[lane]); }

void report(Block& block, unsigned lane, const std::string& what, Where where) {
    Launch& launch = *block.launch;
    // One report of a kind for a place: a loop would fill them all with the same.
    std::pair<std::string, uint64_t> key{what.substr(0, 6), where.file != nullptr ? uint64_t(where.line) : where.code};
    bool is_full;
    {
        std::lock_guard<std::mutex> lock(launch.mutex);
        for (auto& known : launch.reported) {
            if (known == key) return;
        }
        launch.reported.push_back(key);
        launch.reports.push_back(std::string(launch.entry->name) + ", block " + triple(block.view.block_index) + ", " +
                                 thread_name(block, lane) + ", " + place(where) + ": " + what);
        is_full = launch.reports.size() >= REPORTS_MAX;
    }
    if (is_full) launch.is_stopped = true;
}

void report_stuck(Block& block) {
    unsigned exited = 0, waiting = 0, first = LANES_MAX, first_exited = LANES_MAX;
    std::string elsewhere;
    for (unsigned lane = 0; lane < block.threads; ++lane) {
        if ((block.warps[lane / WARP].alive >> lane % WARP & 1) == 0) {
            exited += 1;
            if (first_exited == LANES_MAX) first_exited = lane;
            continue;
        }
        waiting += 1;
        const Lane& own = block.lanes[lane];
        if (first == LANES_MAX) {
            first = lane;
        } else if (elsewhere.empty() && own.where.code != block.lanes[first].where.code) {
            elsewhere = "; " + thread_name(block, lane) + " waits in " + own.what + " at " + place(own.where);
        }
    }
    const Lane& own = block.lanes[first];
    std::string what = std::string(own.what) + " is not reached by all: " + std::to_string(waiting) + " of " +
                       std::to_string(block.threads) + " threads wait for ever" + elsewhere;
    if (exited != 0) what += "; " + std::to_string(exited) + " have exited, the first " + thread_name(block, first_exited);
    block.launch->is_stopped = true;
    report(block, first, what + "; look at the branches and returns before it", own.where);
}

}  // namespace simt
