// What lanes do together: shuffles, votes, reductions, warp and block barriers, ldmatrix and mma. Lanes wait until all that the mask
// names have come; the last one does the work of all and wakes them.
#include <cstdio>

#include "counts.h"

namespace simt {
namespace {

constexpr unsigned ALL = ~0u;

std::string hex(unsigned mask) {
    char text[16];
    std::snprintf(text, sizeof text, "0x%08x", mask);
    return text;
}

// What `from` has seen, `to` has seen too.
void learn(uint64_t* to, const uint64_t* from, unsigned warps) {
    for (unsigned w = 0; w < warps; ++w) to[w] = to[w] < from[w] ? from[w] : to[w];
}

struct Shuffled {
    uint32_t value, result;
    unsigned source;
    Where where;
};

// Counts an instruction of a warp.
void count(const Block& block, uint64_t Counts::* what, uint64_t instructions = 1) {
    if (Counter* counting = counter(block)) counting->now->*what += instructions;
}

void complete_shuffle(Block& block, unsigned warp, unsigned mask, void** operands) {
    count(block, &Counts::shuffles);
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
        unsigned lane = __builtin_ctz(rest);
        Shuffled& own = *static_cast<Shuffled*>(operands[lane]);
        if ((mask >> own.source & 1) == 0) {
            report(block, warp * WARP + lane,
                   "a shuffle reads lane " + std::to_string(own.source) + ", which the mask " + hex(mask) +
                       " does not name; look at the mask and at the lane's number",
                   own.where);
            abort_block(block);
        }
        own.result = static_cast<Shuffled*>(operands[own.source])->value;
    }
}

struct Voted {
    Vote form;
    uint32_t value, result;
};

void complete_vote(Block& block, unsigned, unsigned mask, void** operands) {
    count(block, &Counts::votes);
    unsigned ballot = 0;
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
        unsigned lane = __builtin_ctz(rest);
        ballot |= static_cast<Voted*>(operands[lane])->value << lane;
    }
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
        Voted& own = *static_cast<Voted*>(operands[__builtin_ctz(rest)]);
        own.result = own.form == Vote::ballot ? ballot : own.form == Vote::any ? ballot != 0 : ballot == mask;
    }
}

struct Reduced {
    Reduce form;
    uint32_t value, result;
};

uint32_t combine(Reduce form, uint32_t x, uint32_t y) {
    switch (form) {
        case Reduce::add: return x + y;
        case Reduce::min_signed: return int32_t(y) < int32_t(x) ? y : x;
        case Reduce::max_signed: return int32_t(x) < int32_t(y) ? y : x;
        case Reduce::min_unsigned: return y < x ? y : x;
        case Reduce::max_unsigned: return x < y ? y : x;
        case Reduce::bit_and: return x & y;
        case Reduce::bit_or: return x | y;
        case Reduce::bit_xor: return x ^ y;
    }
    __builtin_unreachable();
}

void complete_reduce(Block& block, unsigned, unsigned mask, void** operands) {
    count(block, &Counts::reductions);
    unsigned rest = mask & (mask - 1);
    Reduced& first = *static_cast<Reduced*>(operands[__builtin_ctz(mask)]);
    uint32_t all = first.value;
    for (; rest != 0; rest &= rest - 1) {
        all = combine(first.form, all, static_cast<Reduced*>(operands[__builtin_ctz(rest)])->value);
    }
    for (rest = mask; rest != 0; rest &= rest - 1) static_cast<Reduced*>(operands[__builtin_ctz(rest)])->result = all;
}

void complete_sync(Block& block, unsigned warp, unsigned, void**) {
    count(block, &Counts::warp_barriers);
    tick(block, warp);
}

struct Matrices {
    uint32_t* out;
    const void* row;
    unsigned count;
    bool is_transposed;
    Where where;
};

void complete_load(Block& block, unsigned warp, unsigned, void** operands) {
    const Matrices& first = *static_cast<Matrices*>(operands[0]);
    uint16_t stored[8][8];
    uintptr_t rows[WARP];
    for (unsigned q = 0; q < first.count; ++q) {
        for (unsigned j = 0; j < 8; ++j) {
            const Matrices& own = *static_cast<Matrices*>(operands[8 * q + j]);
            uintptr_t address = reinterpret_cast<uintptr_t>(own.row);
            if (address % 16 != 0) {
                report(block, warp * WARP + 8 * q + j,
                       "ldmatrix takes a row at an address that is not a multiple of 16 bytes; look at the row pitch", own.where);
                abort_block(block);
            }
            if constexpr (CHECKED) touch(block, warp * WARP + 8 * q + j, Access::read, address, 16, own.where);
            std::memcpy(stored[j], own.row, 16);
            rows[8 * q + j] = address;
        }
        for (unsigned lane = 0; lane < WARP; ++lane) {
            unsigned g = lane / 4, t = lane % 4;
            uint32_t low = first.is_transposed ? stored[2 * t][g] : stored[g][2 * t];
            uint32_t high = first.is_transposed ? stored[2 * t + 1][g] : stored[g][2 * t + 1];
            static_cast<Matrices*>(operands[lane])->out[q] = low | high << 16;
        }
    }
    if (Counter* counting = counter(block)) counting->load_matrices(rows, first.count);
}

// One left factor times `count` right ones: a meeting for several instructions, which costs the lanes one wait.
struct Product {
    float (*d)[4];
    const uint32_t* a;
    const uint32_t (*b)[2];
    unsigned count;
};

void complete_multiply(Block& block, unsigned, unsigned, void** operands) {
    count(block, &Counts::products, static_cast<Product*>(operands[0])->count);
    uint16_t a[16][16], b[16][8];
    float c[16][8];
    for (unsigned lane = 0; lane < WARP; ++lane) {
        const Product& own = *static_cast<Product*>(operands[lane]);
        unsigned g = lane / 4, t = lane % 4;
        for (unsigned r = 0; r < 4; ++r) std::memcpy(&a[g + 8 * (r % 2)][2 * t + 8 * (r / 2)], &own.a[r], 4);
    }
    for (unsigned i = 0; i < static_cast<Product*>(operands[0])->count; ++i) {
        for (unsigned lane = 0; lane < WARP; ++lane) {
            const Product& own = *static_cast<Product*>(operands[lane]);
            unsigned g = lane / 4, t = lane % 4;
            for (unsigned r = 0; r < 2; ++r) {
                b[2 * t + 8 * r][g] = uint16_t(own.b[i][r]);
                b[2 * t + 8 * r + 1][g] = uint16_t(own.b[i][r] >> 16);
                std::memcpy(&c[g + 8 * r][2 * t], &own.d[i][2 * r], 8);
            }
        }
        multiply_16x8x16(a, b, c, architecture(block.launch->device));
        for (unsigned lane = 0; lane < WARP; ++lane) {
            const Product& own = *static_cast<Product*>(operands[lane]);
            unsigned g = lane / 4, t = lane % 4;
            for (unsigned r = 0; r < 2; ++r) std::memcpy(&own.d[i][2 * r], &c[g + 8 * r][2 * t], 8);
        }
    }
}

}  // namespace

// Apart from `meet`, whose frame lies on every waiting lane's stack.
[[noreturn]] __attribute__((noinline, cold)) static void refuse_mask(Block& block, unsigned lane, unsigned mask, const char* what,
                                                                     Where where) {
    unsigned exited = mask & ~block.warps[lane / WARP].alive;
    std::string fault = std::string(what) + " with mask " + hex(mask) + ", which ";
    fault += exited == 0 ? "does not name the lane that runs it" : "names lanes that have exited: " + hex(exited);
    report(block, lane, fault + "; look at the branches and returns before it", where);
    abort_block(block);
}

void meet(Complete complete, unsigned mask, void* operands, const char* what, Where where) {
    Block& block = here();
    unsigned lane = lane_here(), bit = 1u << lane % WARP;
    Warp& warp = block.warps[lane / WARP];
    if ((mask & bit) == 0 || (mask & ~warp.alive) != 0) refuse_mask(block, lane, mask, what, where);
    unsigned at = 0;
    while (at < warp.meetings && (warp.meeting[at].complete != complete || warp.meeting[at].mask != mask)) ++at;
    Meeting& meeting = warp.meeting[at];
    if (at == warp.meetings) {
        meeting.complete = complete;
        meeting.mask = mask;
        meeting.arrived = 0;
        warp.meetings += 1;
    }
    meeting.arrived |= bit;
    meeting.operands[lane % WARP] = operands;
    if (meeting.arrived != mask) {
        block.lanes[lane].what = what;
        block.lanes[lane].where = where;
        suspend(block, lane);
        return;
    }
    complete(block, lane / WARP, mask, meeting.operands);
    if (Counter* counting = counter(block); counting != nullptr && mask == ALL) counting->meet(lane / WARP);
    if (at + 1 != warp.meetings) meeting = warp.meeting[warp.meetings - 1];
    warp.meetings -= 1;
    unsigned others = mask & ~bit;
    if (others != 0) wake(block, lane / WARP, others);
}

uint32_t shuffle(Shuffle form, unsigned mask, uint32_t value, unsigned operand, unsigned width) {
    unsigned lane = lane_here() % WARP, segment = lane & ~(width - 1);
    unsigned source = lane;
    switch (form) {
        case Shuffle::index: source = segment + (operand & (width - 1)); break;
        case Shuffle::up: source = lane >= segment + operand ? lane - operand : lane; break;
        case Shuffle::down: source = lane + operand < segment + width ? lane + operand : lane; break;
        case Shuffle::exclusive_or: source = (lane ^ operand) < segment + width ? lane ^ operand : lane; break;
    }
    Shuffled own{value, 0, source, SIMT_CALLER};
    meet(complete_shuffle, mask, &own, "a shuffle", SIMT_CALLER);
    return own.result;
}

uint32_t vote(Vote form, unsigned mask, bool value) {
    Voted own{form, value, 0};
    meet(complete_vote, mask, &own, "a vote", SIMT_CALLER);
    return own.result;
}

uint32_t reduce(Reduce form, unsigned mask, uint32_t value) {
    Reduced own{form, value, 0};
    meet(complete_reduce, mask, &own, "a warp reduction", SIMT_CALLER);
    return own.result;
}

void sync_warp(unsigned mask) { meet(complete_sync, mask, nullptr, "__syncwarp", SIMT_CALLER); }

void load_matrices(uint32_t* out, unsigned count, bool is_transposed, const void* row) {
    Matrices own{out, row, count, is_transposed, SIMT_CALLER};
    meet(complete_load, ALL, &own, "ldmatrix", SIMT_CALLER);
}

void multiply(float (*d)[4], const uint32_t* a, const uint32_t (*b)[2], unsigned count) {
    Product own{d, a, b, count};
    meet(complete_multiply, ALL, &own, "mma", SIMT_CALLER);
}

// Line 0 is that of all named barriers: parties of one may stand in different places.
static void come(unsigned id, unsigned threads, bool waits, int line, Where where) {
    Block& block = here();
    unsigned lane = lane_here(), w = lane / WARP;
    auto refuse = [&](const std::string& fault) {
        report(block, lane, "barrier " + std::to_string(id) + ": " + fault, where);
        abort_block(block);
    };
    if (id >= BARRIERS) refuse("there are 16, numbered from 0");
    if (threads == 0 || threads % WARP != 0 || threads > block.threads) {
        refuse("a count of " + std::to_string(threads) + " threads in a block of " + std::to_string(block.threads) +
               "; it has to be a multiple of 32 that the block has");
    }
    Barrier& own = block.barriers[id];
    if (own.arrived == 0) {
        own.expected = threads;
        own.line = line;
        own.where = where;
        for (unsigned v = 0; v < block.warps_count; ++v) own.waiting[v] = own.arrivals[v] = own.clock[v] = 0;
    }
    if (own.expected != threads) {
        refuse("this thread counts on " + std::to_string(threads) + " threads, others on " + std::to_string(own.expected) +
               "; look at the count of each party");
    }
    if (own.line != line) {
        refuse("divergent: other threads of the block wait at " + place(own.where) + "; look at the branch that parts them");
    }
    if (own.arrivals[w] >> lane % WARP & 1) {
        refuse("this thread arrives twice before the others have come; look at the count (" + std::to_string(threads) +
               ") and at who takes part");
    }
    own.arrivals[w] |= 1u << lane % WARP;
    own.arrived += 1;
    Warp& warp = block.warps[w];
    if constexpr (CHECKED) learn(own.clock, warp.clock, block.warps_count);
    if (Counter* counting = counter(block); counting != nullptr && own.arrivals[w] == ALL) {
        count(block, &Counts::barriers);
        counting->meet(w);
    }
    if (!waits && own.arrivals[w] == ALL) tick(block, w);
    if (own.arrived != threads) {
        if (!waits) return;
        own.waiting[w] |= 1u << lane % WARP;
        block.lanes[lane].what = id == 0 ? "__syncthreads" : "a named barrier";
        block.lanes[lane].where = where;
        suspend(block, lane);
        return;
    }
    own.arrived = 0;
    if (waits) own.waiting[w] |= 1u << lane % WARP;
    for (unsigned v = 0; v < block.warps_count; ++v) {
        if (own.waiting[v] == 0) continue;
        Warp& released = block.warps[v];
        if constexpr (CHECKED) learn(released.clock, own.clock, block.warps_count);
        tick(block, v);
        unsigned lanes = v == w ? own.waiting[v] & ~(1u << lane % WARP) : own.waiting[v];
        if (lanes != 0) wake(block, v, lanes);
    }
}

void sync_block(int line) { come(0, here().threads, true, line, SIMT_CALLER); }

void barrier(unsigned id, unsigned threads, bool waits) { come(id, threads, waits, 0, SIMT_CALLER); }

}  // namespace simt
