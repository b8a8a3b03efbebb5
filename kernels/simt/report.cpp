// What is said about a fault: the kernel, the block, the thread, the place, and what to look at.
#include <cstdio>

#include "machine.h"

namespace simt {
namespace {

std::string triple(uint3 at) {
    return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
}

// `{file:line}`, or `{+offset}` in the library, which the launching side turns into file and line.
std::string place(Where where, uintptr_t code) {
    char text[32];
    if (where.file != nullptr) return std::string(where.file) + ":" + std::to_string(where.line);
    std::snprintf(text, sizeof text, "{+0x%zx}", size_t(code));
    return text;
}

}  // namespace

std::string thread_name(const Block& block, unsigned lane) { return "thread " + triple(block.view.threads[lane]); }

void report(Block& block, unsigned lane, const std::string& what, Where where, uintptr_t code) {
    Launch& launch = *block.launch;
    std::pair<const void*, uint64_t> key{where.file, where.file != nullptr ? uint64_t(where.line) : code};
    bool is_full;
    {
        std::lock_guard<std::mutex> lock(launch.mutex);
        for (auto& known : launch.reported) {
            if (known == key) return;
        }
        launch.reported.push_back(key);
        launch.reports.push_back(std::string(launch.entry->name) + ", block " + triple(block.view.block_index) + ", " +
                                 thread_name(block, lane) + ", " + place(where, code) + ": " + what);
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
        } else if (elsewhere.empty() && own.where.line != block.lanes[first].where.line) {
            elsewhere = "; " + thread_name(block, lane) + " waits in " + own.what + " at line " + std::to_string(own.where.line);
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
