// Sampling tokens; the order of the cuts and the choice are in src/ops/sample.rs. A block has a row.
//
// What a cut keeps, and what stands before the sampled token, is a prefix of the ranking: descending logit, then ascending id. Its end is
// found from counts and masses of classes, digit by digit: first the distance below the likeliest in eighths of a nat, which spreads a
// row's tokens over many classes, then eight bits after eight bits of the rank. A mass is a whole number of 2^-40 of the likeliest's, so
// sums are exact, and no order of the atomics shows in them.
#include "common/log_sum_exp.cuh"
#include "common/philox.cuh"

constexpr int BINS = 256;
constexpr float BINS_PER_NAT = 8.0f;
constexpr float ONE = 0x1p40f;  // the likeliest token's mass

// How to sample a row: `SamplingParams` in src/ops/sample.rs. Seen tokens are seen[seen_begin .. seen_end], biased ones bias[bias_begin .. bias_end];
// `mask` is a row of `allowed`, -1 where all are allowed; `own` is a row of `adjusted`, -1 where there is neither bias nor mask.
struct SamplingParams {
    uint64_t seed, sequence, position;
    float inverse, top_p, min_p, penalty;  // inverse: 1 / temperature
    int is_greedy, top_k, seen_begin, seen_end, bias_begin, bias_end, mask, own;
};
static_assert(sizeof(SamplingParams) == 72);

// What is added to a token's logit.
struct Bias {
    int id;
    float value;
};
static_assert(sizeof(Bias) == 8);

struct SampledToken {
    int token;
    float logprob, logprob_at_temperature, processed_logprob, kept_mass, entropy;
};
static_assert(sizeof(SampledToken) == 24);

// Counts and masses of classes of tokens, in shared memory.
struct Histogram {
    unsigned counts[BINS], low[BINS], high[BINS];

    __device__ void clear() {
        for (int bin = threadIdx.x; bin < BINS; bin += ROW_THREADS) counts[bin] = low[bin] = high[bin] = 0;
    }

    // A sum of 64 bits by atomics of 32, which shared memory has: whoever makes the lower half overflow carries.
    __device__ void add(int bin, unsigned count, uint64_t mass) {
        atomicAdd(&counts[bin], count);
        uint32_t lower = uint32_t(mass), upper = uint32_t(mass >> 32);
        if (lower != 0) upper += uint32_t(atomicAdd(&low[bin], lower) + lower) < lower;
        if (upper != 0) atomicAdd(&high[bin], upper);
    }

    __device__ uint64_t mass(int bin) const { return uint64_t(high[bin]) << 32 | low[bin]; }
};

// What tokens weigh.
struct Weight {
    unsigned count;
    uint64_t mass;

    __device__ uint64_t by(bool mass_counts) const { return mass_counts ? mass : count; }
    __device__ Weight operator+(Weight other) const { return {count + other.count, mass + other.mass}; }
};

// The row that is sampled from: logits z f32 [vocab] after the penalty on the tokens whose bit of `seen` is set, if there are any. Excluded
// tokens are none of its tokens.
struct Row {
    const float* z;
    const unsigned* seen;
    float penalty, inverse, top;
    Excluded excluded;
    int vocab;

    __device__ float logit(int id, float z) const {
        if (seen == nullptr || (seen[id / 32] >> id % 32 & 1) == 0) return z;
        return z > 0.0f ? z / penalty : z * penalty;
    }
    template <class Visit>
    __device__ void for_each(Visit visit) const {
        for_row(z, vocab, [&](int id, float z) {
            if (!excluded.holds(id)) visit(id, logit(id, z));
        });
    }
    // A logit's distance from the likeliest token's: at most 0, in nats.
    __device__ float below(float logit) const { return logit * inverse - top * inverse; }
    // The last class is for all that has no mass.
    __device__ static int coarse_bin(float below) {
        return below > (1 - BINS) / BINS_PER_NAT ? int(below * -BINS_PER_NAT) : BINS - 1;
    }
    __device__ static uint64_t mass(float below) {
        float e = exponential(below);
        return e > 0.0f ? uint64_t(__fmaf_rn(e, ONE, 0.5f)) : 0;
    }
    // The likelier, the smaller; of equals the first. Adding 0 makes the zeros equal.
    __device__ static uint64_t rank(int id, float logit) {
        uint32_t bits = __float_as_uint(logit + 0.0f);
        uint32_t descending = bits >> 31 ? bits : ~bits & 0x7FFFFFFF;
        return uint64_t(descending) << 32 | unsigned(id);
    }
};

// A class of tokens of consecutive ranks: the coarse bin, and those digits of the rank that are known.
struct Class {
    int bin;
    uint64_t digits, known;
    Weight before, inside;

    __device__ bool holds(uint64_t rank) const { return (rank & known) == digits; }
};

__device__ inline uint64_t shuffle_up(uint64_t x, int distance) {
    return uint64_t(__shfl_up_sync(~0u, uint32_t(x >> 32), distance)) << 32 | __shfl_up_sync(~0u, uint32_t(x), distance);
}

// The bin of `histogram` in which the weight, from `before` on, reaches `wanted`; the last if none does. Barriers stand on both sides.
__device__ inline void find(const Histogram& histogram, bool mass_counts, uint64_t wanted, Class& found) {
    __shared__ Class shared;
    __syncthreads();
    if (threadIdx.x < WARP) {
        constexpr int SHARE = BINS / WARP;
        int lane = threadIdx.x, first = lane * SHARE;
        auto weight = [&](int bin) { return Weight{histogram.counts[bin], histogram.mass(bin)}; };
        Weight own{};
        for (int bin = first; bin < first + SHARE; ++bin) own = own + weight(bin);
        Weight after = own;
        for (int distance = 1; distance < WARP; distance *= 2) {
            Weight lower{__shfl_up_sync(~0u, after.count, distance), shuffle_up(after.mass, distance)};
            if (lane >= distance) after = after + lower;
        }
        Weight before = found.before + Weight{after.count - own.count, after.mass - own.mass};
        bool is_last = lane == WARP - 1;
        if (before.by(mass_counts) < wanted && (is_last || (found.before + after).by(mass_counts) >= wanted)) {
            int bin = first;
            while (bin < first + SHARE - 1 && (before + weight(bin)).by(mass_counts) < wanted) before = before + weight(bin++);
            shared = {bin, 0, 0, before, weight(bin)};
        }
    }
    __syncthreads();
    found = shared;
}

// The last token of the shortest prefix whose count or mass reaches `wanted`, as a class of its own.
__device__ inline Class shortest(const Row& row, const Histogram& coarse, Histogram& fine, bool mass_counts, uint64_t wanted) {
    Class found{};
    find(coarse, mass_counts, wanted, found);
    // The last coarse bin is never filled, so that its tokens are not known to be one.
    bool is_one = found.inside.count == 1;
    for (int shift = 56; shift >= 0 && !is_one; shift -= 8) {
        fine.clear();
        __syncthreads();
        row.for_each([&](int id, float logit) {
            float below = row.below(logit);
            if (Row::coarse_bin(below) != found.bin) return;
            uint64_t rank = Row::rank(id, logit);
            if (found.holds(rank)) fine.add(int(rank >> shift & 255), 1, Row::mass(below));
        });
        Class digit{0, 0, 0, found.before, {}};
        find(fine, mass_counts, wanted, digit);
        found = {found.bin, found.digits | uint64_t(digit.bin) << shift, found.known | uint64_t(255) << shift, digit.before, digit.inside};
        is_one = found.inside.count == 1;
    }
    return found;
}

// The first token of a class, of which most have one; token 0 if a row of NaNs left none.
__device__ inline int first_of(const Row& row, const Class& found) {
    unsigned first = ~0u;
    row.for_each([&](int id, float logit) {
        bool is_inside = Row::coarse_bin(row.below(logit)) == found.bin && found.holds(Row::rank(id, logit));
        if (is_inside) first = min(first, unsigned(id));
    });
    first = block_min(first);
    return first < unsigned(row.vocab) ? int(first) : 0;
}

// The first of the likeliest tokens.
__device__ inline int greedy(const Row& row) {
    unsigned first = ~0u;
    row.for_each([&](int id, float logit) {
        if (logit == row.top) first = min(first, unsigned(id));
    });
    first = block_min(first);
    return first < unsigned(row.vocab) ? int(first) : 0;
}

// Sets a bit for each seen token; bits u32 [(vocab + 31) / 32].
__device__ inline void mark(unsigned* bits, const int* seen, const SamplingParams& params, int vocab) {
    for (int i = threadIdx.x; i < (vocab + 31) / 32; i += ROW_THREADS) bits[i] = 0;
    __syncthreads();
    for (int i = params.seen_begin + threadIdx.x; i < params.seen_end; i += ROW_THREADS) atomicOr(&bits[seen[i] / 32], 1u << seen[i] % 32);
    __syncthreads();
}

// Writes the row's logits after penalty, bias and mask to `own` f32 [vocab]; allowed u32 [(vocab + 31) / 32] or null.
__device__ inline void adjust(const Row& row, const SamplingParams& params, const Bias* bias, const unsigned* allowed, float* own) {
    for_row(row.z, row.vocab, [&](int id, float z) {
        bool is_allowed = allowed == nullptr || allowed[id / 32] >> id % 32 & 1;
        own[id] = is_allowed ? row.logit(id, z) : -INFINITY;
    });
    __syncthreads();
    for (int i = params.bias_begin + threadIdx.x; i < params.bias_end; i += ROW_THREADS) own[bias[i].id] += bias[i].value;
    __syncthreads();
}

// hot
// logits f32 [N, vocab]; row_params [N]; seen i32 [..]; bits u32 [N, (vocab + 31) / 32] to work in, null where no row has seen tokens;
// bias [..]; allowed u32 [.., (vocab + 31) / 32]; adjusted f32 [.., vocab] to work in; each null where no row has any; sampled [N].
extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1)
    sample(const float* logits, const SamplingParams* row_params, const int* seen, unsigned* bits, const Bias* bias, const unsigned* allowed,
           float* adjusted, SampledToken* sampled, Excluded excluded, int vocab) {
    __shared__ Histogram coarse, fine;
    const float* z = logits + size_t(blockIdx.x) * vocab;
    const SamplingParams params = row_params[blockIdx.x];
    RowSoftmax softmax = softmax_row(z, params.inverse, excluded, vocab);

    Row row{z, nullptr, params.penalty, params.inverse, softmax.top, excluded, vocab};
    if (params.seen_begin < params.seen_end) {
        unsigned* own = bits + size_t(blockIdx.x) * ((vocab + 31) / 32);
        mark(own, seen, params, vocab);
        row.seen = own;
    }
    if (params.own >= 0) {
        float* own = adjusted + size_t(params.own) * vocab;
        adjust(row, params, bias, params.mask < 0 ? nullptr : allowed + size_t(params.mask) * ((vocab + 31) / 32), own);
        row.z = own;
        row.seen = nullptr;
    }
    bool is_changed = row.seen != nullptr || params.own >= 0;
    if (is_changed) {
        float top = -INFINITY;
        row.for_each([&](int, float logit) { top = fmaxf(top, logit); });
        row.top = block_max(top);
    }

    int token = 0;
    float processed_logprob = 0.0f, share = 1.0f;
    if ((params.own >= 0 || excluded.first >= 0) && row.top == -INFINITY) {
        processed_logprob = -INFINITY;
        share = 0.0f;
    } else if (params.is_greedy) {
        token = greedy(row);
    } else {
        coarse.clear();
        __syncthreads();
        row.for_each([&](int, float logit) {
            float below = row.below(logit);
            int bin = Row::coarse_bin(below);
            if (bin < BINS - 1) coarse.add(bin, 1, Row::mass(below));
        });
        Class end{};
        find(coarse, true, ~uint64_t(0), end);
        uint64_t total = end.before.mass;

        Weight kept{unsigned(vocab), total};
        if (params.top_k > 0 && params.top_k < vocab) {
            Class last = shortest(row, coarse, fine, false, params.top_k);
            kept = last.before + last.inside;
        }
        if (params.top_p < 1.0f) {
            uint64_t wanted = uint64_t(ceil(double(params.top_p) * double(kept.mass)));
            Class last = shortest(row, coarse, fine, true, max(uint64_t(1), min(wanted, kept.mass)));
            kept = last.before + last.inside;
        }
        if (params.min_p > 0.0f) {
            Weight likely{};
            row.for_each([&](int, float logit) {
                float below = row.below(logit);
                if (exponential(below) >= params.min_p) likely = likely + Weight{1, Row::mass(below)};
            });
            fine.clear();
            __syncthreads();
            fine.add(0, likely.count, likely.mass);
            __syncthreads();
            likely = {fine.counts[0], fine.mass(0)};
            if (0 < likely.count && likely.count < kept.count) kept = likely;
        }

        uint64_t passed = uint64_t(philox_uniform(params.seed, params.sequence, params.position) * double(kept.mass));
        Class last = shortest(row, coarse, fine, true, min(passed, kept.mass - 1) + 1);
        token = first_of(row, last);
        if (kept.count < unsigned(vocab)) share = float(double(kept.mass) / double(total));
        float lse = !is_changed ? softmax.lse_at_temperature : float(row.top * row.inverse + log(double(total) / ONE));
        processed_logprob = log_probability(row.logit(token, row.z[token]), row.inverse, lse) - float(log(double(share)));
    }
    if (threadIdx.x == 0) {
        float logprob = log_probability(z[token], 1.0f, softmax.lse_raw);
        float logprob_at_temperature = log_probability(z[token], params.inverse, softmax.lse_at_temperature);
        sampled[blockIdx.x] = {token, logprob, logprob_at_temperature, processed_logprob, share, softmax.entropy};
    }
}
