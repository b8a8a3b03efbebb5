// Sampling tokens; the order of the cuts and the choice are in src/ops/sample.rs. Two launches: `sample_slices`, a block for a slice of a row,
// reads all logits once; `sample`, a block a row, reads again only those slices where a cut or the sampled token lies.
//
// What a cut keeps, and what stands before the sampled token, is a prefix of the ranking: descending logit, then ascending id. Its end is
// found in two steps. Tokens are in classes of an eighth of a nat: y = logit / temperature, rounded to eighths; a slice has the count and the
// mass of each of its classes, relative to its own likeliest token, and a row adds up its slices'. Within the class that is found, ranks are cut
// into CLASSES parts, and the part that is found again, until one token is left. Counts and masses are whole numbers, so no order of the
// atomics shows in them.
#include "common/log_sum_exp.cuh"
#include "common/philox.cuh"

constexpr int ROW_THREADS = 512;
constexpr int CLASSES = 256;
constexpr int CANDIDATES = 1024;  // tokens of a class that are held in shared memory
constexpr float CLASSES_PER_NAT = 8.0f;
constexpr float ONE = 0x1p40f;  // the likeliest token's mass

// How to sample a row: `SamplingParams` in src/ops/sample.rs. Seen tokens are seen[seen_begin .. seen_end], biased ones bias[bias_begin .. bias_end];
// `mask` is a row of `allowed`, -1 where all are allowed; `own` is a row of `adjusted`, -1 where nothing changes the logits.
struct SamplingParams {
    uint64_t seed, sequence, position;
    float inverse, top_p, min_p, penalty;  // inverse: 1 / temperature
    int is_greedy, top_k, seen_begin, seen_end, bias_begin, bias_end, mask, own;

    __device__ bool is_constrained() const { return bias_begin < bias_end || mask >= 0; }
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

// ---- classes of tokens ----

// The place of y on the scale of classes, which go down from the top's place on.
__device__ inline unsigned class_place(float y) { return __float_as_uint(__fmaf_rn(y, CLASSES_PER_NAT, 12582912.0f)); }

// How many classes below the place of a top have mass: the last is for all that has none. A top below -500,000, where the scale's steps
// are finer, has its equals alone.
__device__ inline unsigned classes_below(unsigned place) { return place - 0x4B000000 - CLASSES < 0x35000000 - CLASSES ? CLASSES - 1 : 1; }

// A power of two, by which the masses of a class's tokens, the top's being 1, become 2^20 to a little less than 2^22.
__device__ inline float class_unit(unsigned number) {
    constexpr unsigned STEP = 1512775;  // log2(e) / CLASSES_PER_NAT · 2^23
    return __uint_as_float((number * STEP + (149u << 23) - STEP - STEP / 50) & 0xFF800000);
}

// A token's mass in its class's unit; e is exp(y − top).
__device__ inline unsigned class_mass(float e, unsigned number) {
    return __float_as_uint(__fmaf_rn(e, class_unit(number), 8388608.0f)) - 0x4B000000;
}

__device__ inline uint64_t whole(float mass) { return mass > 0.0f ? uint64_t(__fmaf_rn(mass, ONE, 0.5f)) : 0; }

// ---- a slice ----

// Counts and masses of a slice's classes. A warp's share of a slice is 1024 tokens, whose masses make less than 2^32.
struct SliceClasses {
    unsigned counts[CLASSES], masses[SLICE_WARPS][CLASSES];

    __device__ void clear() {
        for (int i = threadIdx.x; i < CLASSES; i += SLICE_THREADS) {
            counts[i] = 0;
            for (int warp = 0; warp < SLICE_WARPS; ++warp) masses[warp][i] = 0;
        }
    }

    // To class_counts and class_masses [CLASSES], relative to the top's mass.
    __device__ void write(unsigned* class_counts, float* class_masses) const {
        for (int i = threadIdx.x; i < CLASSES; i += SLICE_THREADS) {
            uint64_t mass = 0;
            for (int warp = 0; warp < SLICE_WARPS; ++warp) mass += masses[warp][i];
            class_counts[i] = counts[i];
            // 1 / class_unit(i)
            class_masses[i] = float(mass) * __uint_as_float(0x7F000000 - __float_as_uint(class_unit(i)));
        }
    }
};

// Adds tokens to a slice's classes, if it is on; a visitor of `slice_softmax`.
struct ClassCounter {
    unsigned *counts, *masses;
    bool is_on;
    unsigned place, end;

    __device__ ClassCounter(SliceClasses& classes, bool is_on)
        : counts(classes.counts), masses(classes.masses[threadIdx.x / WARP]), is_on(is_on), place(0), end(0) {}

    __device__ void begin(float top) {
        place = class_place(top);
        end = is_on ? classes_below(place) : 0;
    }
    __device__ void add(float y, float e) {
        unsigned number = place - class_place(y);
        if (number >= end) return;
        atomicAdd(&counts[number], 1u);
        atomicAdd(&masses[number], class_mass(e, number));
    }
};

// Applies penalty, bias and mask to the logits of a slice, and writes them to `own` f32 [width], whose rows begin at multiples of `pitch`;
// allowed u32 [(width + 31) / 32] or null.
__device__ inline Share adjusted_share(const Share& z, const SamplingParams& params, const int* seen, const Bias* bias, const unsigned* allowed,
                                       float* own, int first, int width, int pitch) {
    __shared__ unsigned marks[SLICE / 32];
    for (int i = threadIdx.x; i < SLICE / 32; i += SLICE_THREADS) marks[i] = 0;
#pragma unroll
    for (int i = 0; i < SHARE; ++i) {
        int column = Share::column(i);
        bool is_allowed = column < width && (allowed == nullptr || allowed[column / 32] >> column % 32 & 1);
        if (column < width) own[column] = is_allowed ? z.at[i] : -INFINITY;
    }
    __syncthreads();
    for (int i = params.seen_begin + int(threadIdx.x); i < params.seen_end; i += SLICE_THREADS) {
        int column = seen[i] - first;
        if (0 <= column && column < width) atomicOr(&marks[column / 32], 1u << column % 32);
    }
    __syncthreads();
    // A token that is seen more often is penalised once.
    for (int i = threadIdx.x; i < SLICE / 32; i += SLICE_THREADS) {
        for (unsigned left = marks[i]; left != 0; left &= left - 1) {
            float& logit = own[i * 32 + __ffs(int(left)) - 1];
            logit = logit > 0.0f ? logit / params.penalty : logit * params.penalty;
        }
    }
    __syncthreads();
    for (int i = params.bias_begin + int(threadIdx.x); i < params.bias_end; i += SLICE_THREADS) {
        int column = bias[i].id - first;
        if (0 <= column && column < width) own[column] += bias[i].value;
    }
    __syncthreads();
    return load_share(own, width, pitch);
}

// hot
// logits f32 [N, vocab]; row_params [N]; seen i32 [..]; bias [..]; allowed u32 [.., (vocab + 31) / 32]. Written: adjusted f32 [.., vocab], logits
// after penalty, bias and mask; softmax [N, slices]; tops f32 [N, slices], the largest y that is sampled from; counts u32 and masses f32
// [N, slices, CLASSES]. bias, allowed and adjusted are null where no row has any. A block a row and slice.
extern "C" __global__ void __launch_bounds__(SLICE_THREADS)
    sample_slices(const float* logits, const SamplingParams* row_params, const int* seen, const Bias* bias, const unsigned* allowed,
                  float* adjusted, SliceSoftmax* softmax, float* tops, unsigned* counts, float* masses, Excluded excluded, int vocab) {
    __shared__ SliceClasses classes;
    int row = blockIdx.x, first = blockIdx.y * SLICE, width = min(SLICE, vocab - first);
    size_t number = size_t(row) * gridDim.y + blockIdx.y;
    const SamplingParams params = row_params[row];
    classes.clear();
    Share z = load_share(logits + size_t(row) * vocab + first, width, vocab);
    bool is_changed = params.own >= 0;
    ClassCounter counter(classes, !is_changed && !params.is_greedy);
    SliceSoftmax found = slice_softmax(z, params.inverse, excluded, first, counter);
    float top = found.top_at_temperature;
    if (is_changed) {
        const unsigned* mask = params.mask < 0 ? nullptr : allowed + size_t(params.mask) * ((vocab + 31) / 32) + first / 32;
        z = adjusted_share(z, params, seen, bias, mask, adjusted + size_t(params.own) * vocab + first, first, width, vocab);
        top = -INFINITY;
#pragma unroll
        for (int i = 0; i < SHARE; ++i) {
            z.at[i] = excluded.holds(first + Share::column(i)) ? -INFINITY : z.at[i] * params.inverse;
            top = fmaxf(top, z.at[i]);
        }
        top = slice_join(warp_max(top), [](float a, float b) { return fmaxf(a, b); });
        counter.is_on = !params.is_greedy;
        counter.begin(top);
#pragma unroll
        for (int i = 0; i < SHARE; ++i) counter.add(z.at[i], softmax_exponential(z.at[i] - reference(top)));
    }
    __syncthreads();
    classes.write(counts + number * CLASSES, masses + number * CLASSES);
    if (threadIdx.x != 0) return;
    softmax[number] = found;
    tops[number] = top;
}

// ---- a row ----

// What tokens weigh.
struct Weight {
    unsigned count;
    uint64_t mass;

    __device__ uint64_t by(bool mass_counts) const { return mass_counts ? mass : count; }
    __device__ Weight operator+(Weight other) const { return {count + other.count, mass + other.mass}; }
};

// Counts and masses of classes of tokens, in shared memory.
struct Histogram {
    unsigned counts[CLASSES], low[CLASSES], high[CLASSES];

    __device__ void clear() {
        for (int i = threadIdx.x; i < CLASSES; i += ROW_THREADS) counts[i] = low[i] = high[i] = 0;
    }

    // A sum of 64 bits by atomics of 32, which shared memory has: whoever makes the lower half overflow carries.
    __device__ void add(int number, Weight weight) {
        if (weight.count == 0) return;
        atomicAdd(&counts[number], weight.count);
        uint32_t lower = uint32_t(weight.mass), upper = uint32_t(weight.mass >> 32);
        if (lower != 0) upper += uint32_t(atomicAdd(&low[number], lower) + lower) < lower;
        if (upper != 0) atomicAdd(&high[number], upper);
    }

    __device__ Weight at(int number) const { return {counts[number], uint64_t(high[number]) << 32 | low[number]}; }
};

// The class of a histogram in which a prefix ends, and what stands before it.
struct Found {
    int number;
    Weight before, inside;
};

__device__ inline uint64_t shuffle_up(uint64_t x, int distance) {
    return uint64_t(__shfl_up_sync(~0u, uint32_t(x >> 32), distance)) << 32 | __shfl_up_sync(~0u, uint32_t(x), distance);
}

// The class in which the weight, from `before` on, reaches `wanted`; the last if none does. Barriers stand on both sides.
__device__ inline Found find(const Histogram& histogram, bool mass_counts, uint64_t wanted, Weight before) {
    __shared__ Found found;
    __syncthreads();
    if (threadIdx.x < WARP) {
        constexpr int LANE_CLASSES = CLASSES / WARP;
        int lane = threadIdx.x, first = lane * LANE_CLASSES;
        Weight own{};
        for (int i = first; i < first + LANE_CLASSES; ++i) own = own + histogram.at(i);
        Weight after = own;
        for (int distance = 1; distance < WARP; distance *= 2) {
            Weight lower{__shfl_up_sync(~0u, after.count, distance), shuffle_up(after.mass, distance)};
            if (lane >= distance) after = after + lower;
        }
        after = before + after;
        before = {after.count - own.count, after.mass - own.mass};
        bool is_last = lane == WARP - 1;
        if (before.by(mass_counts) < wanted && (is_last || after.by(mass_counts) >= wanted)) {
            int i = first;
            while (i < first + LANE_CLASSES - 1 && (before + histogram.at(i)).by(mass_counts) < wanted) before = before + histogram.at(i++);
            found = {i, before, histogram.at(i)};
        }
    }
    __syncthreads();
    return found;
}

// The row that is sampled from: logits z f32 [vocab], and what `sample_slices` found of its slices. Excluded tokens are none of its tokens.
struct Row {
    const float *z, *tops, *masses;  // tops [slices], masses and counts [slices, CLASSES]
    const unsigned* counts;
    float inverse, top;  // top: the largest y
    unsigned place;      // the top's
    Excluded excluded;
    int vocab, slices;

    __device__ unsigned class_of(float y) const { return place - class_place(y); }
    __device__ float share(float y) const { return softmax_exponential(y - reference(top)); }

    // The likelier, the smaller; of equals the first. Adding 0 makes the zeros equal.
    __device__ static uint64_t rank(int id, float logit) { return uint64_t(flipped(__float_as_uint(logit + 0.0f))) << 32 | unsigned(id); }
    __device__ static float logit_of(uint64_t rank) { return __uint_as_float(flipped(uint32_t(rank >> 32))); }
    __device__ static uint32_t flipped(uint32_t bits) { return bits >> 31 ? bits : ~bits & 0x7FFFFFFF; }

    // Whether the slice has tokens of the classes `first` to `last`.
    __device__ bool has(int slice, int first, int last) const {
        unsigned offset = class_of(tops[slice]), found = 0;
        for (int number = first; number <= last; ++number) {
            if (unsigned(number) - offset < CLASSES - 1) found |= counts[size_t(slice) * CLASSES + (unsigned(number) - offset)];
        }
        return found != 0;
    }

    // Calls visit(id, logit) for those tokens of a slice, of this thread's share, for whose y `wants(y)` holds. They are few.
    template <class Wants, class Visit>
    __device__ void for_slice(int slice, Wants wants, Visit visit) const {
        int begin = slice * SLICE, width = min(SLICE, vocab - begin);
        unsigned wanted = 0;
#pragma unroll 4
        for (int i = 0; i < SHARE; i += 4) {
            Vector<float, 4> values = load_four(z + begin, Share::column(i), width, vocab);
#pragma unroll
            for (int j = 0; j < 4; ++j) wanted |= unsigned(Share::column(i + j) < width && wants(values.at[j] * inverse)) << (i + j);
        }
        for (; wanted != 0; wanted &= wanted - 1) {
            int id = begin + Share::column(__ffs(int(wanted)) - 1);
            if (!excluded.holds(id)) visit(id, z[id]);
        }
    }

    // Calls visit(rank, y) for each token of the classes `first` to `last`. Barriers stand on both sides.
    template <class Visit>
    __device__ void for_classes(int first, int last, Visit visit) const {
        __shared__ int chosen[ROW_THREADS], count;
        for (int begin = 0; begin < slices; begin += ROW_THREADS) {
            if (threadIdx.x == 0) count = 0;
            __syncthreads();
            int slice = begin + threadIdx.x;
            if (slice < slices && has(slice, first, last)) chosen[atomicAdd(&count, 1)] = slice;
            __syncthreads();
            for (int i = threadIdx.x / SLICE_THREADS; i < count; i += ROW_THREADS / SLICE_THREADS) {
                auto is_inside = [&](float y) { return unsigned(first) <= class_of(y) && class_of(y) <= unsigned(last); };
                for_slice(chosen[i], is_inside, [&](int id, float logit) { visit(rank(id, logit), logit * inverse); });
            }
            __syncthreads();
        }
    }
};

// The classes of the row, of those of its slices. The last is never filled.
__device__ inline void add_slices(const Row& row, Histogram& coarse) {
    __shared__ float factors[ROW_THREADS];
    __shared__ unsigned offsets[ROW_THREADS];
    int number = threadIdx.x % CLASSES;
    Weight sum{};
    for (int begin = 0; begin < row.slices; begin += ROW_THREADS) {
        __syncthreads();
        int slice = begin + threadIdx.x, count = min(ROW_THREADS, row.slices - begin);
        if (slice < row.slices) {
            factors[threadIdx.x] = row.share(row.tops[slice]);
            offsets[threadIdx.x] = row.class_of(row.tops[slice]);
        }
        __syncthreads();
#pragma unroll 4
        for (int i = threadIdx.x / CLASSES; i < count; i += ROW_THREADS / CLASSES) {
            unsigned own = number - offsets[i];
            if (own >= CLASSES - 1) continue;
            size_t at = size_t(begin + i) * CLASSES + own;
            sum = sum + Weight{row.counts[at], whole(row.masses[at] * factors[i])};
        }
    }
    if (number < CLASSES - 1) coarse.add(number, sum);
}

// Tokens of a class, from the likeliest of them to the least likely.
struct Candidates {
    unsigned count, likeliest, least;  // the upper halves of two ranks
    uint64_t ranks[CANDIDATES];        // all, if they are not more

    __device__ bool are_listed() const { return count <= CANDIDATES; }
};

// A prefix of the ranking: the class and the token in which it ends, and what the tokens of that class weigh, in its unit, that are in it.
struct Prefix {
    int number, token;
    uint64_t inside;
    Weight kept;
};

// What is in shared memory while a row is sampled from.
struct Workspace {
    Histogram coarse, fine;
    Candidates candidates;
    int token;
};

// Lists the tokens of a class whose ranks are `first` to `last`; what they weigh in the class's unit.
__device__ inline Weight gather(const Row& row, Workspace& work, int number, uint64_t first, uint64_t last) {
    Candidates& found = work.candidates;
    __syncthreads();
    if (threadIdx.x == 0) {
        found.count = found.least = 0;
        found.likeliest = ~0u;
    }
    work.fine.clear();
    __syncthreads();
    Weight own{};
    unsigned likeliest = ~0u, least = 0;
    row.for_classes(number, number, [&](uint64_t rank, float y) {
        if (rank < first || rank > last) return;
        unsigned place = atomicAdd(&found.count, 1u);
        if (place < CANDIDATES) found.ranks[place] = rank;
        likeliest = min(likeliest, unsigned(rank >> 32));
        least = max(least, unsigned(rank >> 32));
        own = own + Weight{1, class_mass(row.share(y), number)};
    });
    if (own.count > 0) {
        atomicMin(&found.likeliest, likeliest);
        atomicMax(&found.least, least);
        work.fine.add(0, own);
    }
    __syncthreads();
    return work.fine.at(0);
}

// Adds the tokens of a class whose ranks are `first` to `last` to work.fine, a part for each 2^shift ranks.
__device__ inline void add_parts(const Row& row, Workspace& work, int number, uint64_t first, uint64_t last, int shift) {
    auto add = [&](uint64_t rank, float y) {
        if (first <= rank && rank <= last) work.fine.add(int((rank - first) >> shift), {1, class_mass(row.share(y), number)});
    };
    __syncthreads();
    work.fine.clear();
    __syncthreads();
    if (work.candidates.are_listed()) {
        for (int i = threadIdx.x; i < int(work.candidates.count); i += ROW_THREADS) {
            uint64_t rank = work.candidates.ranks[i];
            add(rank, Row::logit_of(rank) * row.inverse);
        }
    } else {
        row.for_classes(number, number, add);
    }
}

// The shortest prefix whose count or mass reaches `wanted`, cut off at `cut` if that is a prefix which ends before it. All that has mass, if the
// count is never reached.
__device__ inline Prefix shortest(const Row& row, Workspace& work, bool mass_counts, uint64_t wanted, const Prefix& cut) {
    Found found = find(work.coarse, mass_counts, wanted, Weight{});
    int number = found.number;
    if (number == CLASSES - 1) return {number, 0, ~uint64_t(0), {unsigned(wanted), found.before.mass}};
    Weight all{}, before{}, inside{};
    uint64_t first = 0, last = ~uint64_t(0), rest = wanted - found.before.by(mass_counts);
    for (bool is_narrowed = false;; is_narrowed = true) {
        if (!is_narrowed || (!work.candidates.are_listed() && inside.count <= CANDIDATES)) inside = gather(row, work, number, first, last);
        if (!is_narrowed) {
            all = inside;
            first = uint64_t(work.candidates.likeliest) << 32;
            last = uint64_t(work.candidates.least) << 32 | ~0u;
            // The class's mass as its slices have it is rounded in another way than those of its tokens.
            double part = double(rest) / double(found.inside.mass);
            if (mass_counts) rest = max(uint64_t(1), min(uint64_t(ceil(part * double(all.mass))), all.mass));
            if (mass_counts && number == cut.number) rest = min(rest, cut.inside);
        }
        if (inside.count <= 1) break;
        int shift = 0;
        while ((last - first) >> shift >= CLASSES) ++shift;
        add_parts(row, work, number, first, last, shift);
        Found part = find(work.fine, mass_counts, rest, before);
        before = part.before;
        inside = part.inside;
        first += uint64_t(part.number) << shift;
        last = min(last, first + (uint64_t(1) << shift) - 1);
    }
    if (threadIdx.x == 0) work.token = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < int(work.candidates.count); i += ROW_THREADS) {
        uint64_t rank = work.candidates.ranks[i];
        if (first <= rank && rank <= last) work.token = int(uint32_t(rank));
    }
    __syncthreads();
    Weight until = before + inside;
    double part = double(until.mass) / double(all.mass);
    uint64_t mass = until.mass == all.mass ? found.inside.mass : min(found.inside.mass, uint64_t(double(found.inside.mass) * part));
    return {number, work.token, until.mass, found.before + Weight{until.count, mass}};
}

// The tokens that are at least `min_p` times as likely as the likeliest.
__device__ inline Prefix likely(const Row& row, Workspace& work, float min_p) {
    // Their last class, give or take one.
    int middle = int(max(-2.0, min(double(CLASSES), rint(log(double(min_p)) * -CLASSES_PER_NAT))));
    int first = max(0, middle - 1), end = min(CLASSES - 1, middle + 2);
    __syncthreads();
    work.fine.clear();
    __syncthreads();
    row.for_classes(first, end - 1, [&](uint64_t, float y) {
        float e = row.share(y);
        unsigned number = row.class_of(y);
        if (e >= min_p) work.fine.add(int(number) - first, {1, class_mass(e, number)});
    });
    __syncthreads();
    Prefix found{0, 0, ~uint64_t(0), {}};
    for (int number = 0; number < end; ++number) {
        Weight all = work.coarse.at(number), some = number < first ? all : work.fine.at(number - first);
        if (some.count == 0) continue;
        bool is_whole = some.count == all.count;
        uint64_t mass = is_whole ? all.mass : min(all.mass, uint64_t(double(some.mass) / class_unit(number) * ONE));
        found = {number, 0, is_whole ? ~uint64_t(0) : some.mass, found.kept + Weight{some.count, mass}};
    }
    return found;
}

// The first of the likeliest tokens; token 0 if a row of NaNs left none.
__device__ inline int greedy(const Row& row) {
    __shared__ unsigned slice, first;
    if (threadIdx.x == 0) slice = first = ~0u;
    __syncthreads();
    for (int i = threadIdx.x; i < row.slices; i += ROW_THREADS) {
        if (row.tops[i] == row.top) atomicMin(&slice, unsigned(i));
    }
    __syncthreads();
    if (slice != ~0u && threadIdx.x < SLICE_THREADS) {
        row.for_slice(int(slice), [&](float y) { return y == row.top; }, [&](int id, float) { atomicMin(&first, unsigned(id)); });
    }
    __syncthreads();
    return first != ~0u ? int(first) : 0;
}

// A token, its log-probability under what it is sampled from, and the share of the mass that the cuts kept.
struct Choice {
    int token;
    float logprob, share;
};

// Samples from the row at its temperature; `lse` is that of its y if the logits are not changed.
__device__ inline Choice draw(const Row& row, const SamplingParams& params, Workspace& work, float lse) {
    work.coarse.clear();
    add_slices(row, work.coarse);
    uint64_t total = find(work.coarse, true, ~uint64_t(0), Weight{}).before.mass;
    Prefix kept{CLASSES, 0, ~uint64_t(0), {unsigned(row.vocab), total}};
    int token = 0;
    // Top-k, top-p, and behind min-p the token itself.
#pragma unroll 1
    for (int step = 0; step < 3; ++step) {
        uint64_t mass = kept.kept.mass, wanted = params.top_k;
        if (step == 0 && (params.top_k == 0 || params.top_k >= row.vocab)) continue;
        if (step == 1) {
            if (!(params.top_p < 1.0f)) continue;
            wanted = max(uint64_t(1), min(uint64_t(ceil(double(params.top_p) * double(mass))), mass));
        }
        if (step == 2) {
            if (params.min_p > 0.0f) {
                Prefix found = likely(row, work, params.min_p);
                if (0 < found.kept.count && found.kept.count < kept.kept.count) kept = found;
                mass = kept.kept.mass;
            }
            uint64_t passed = uint64_t(philox_uniform(params.seed, params.sequence, params.position) * double(mass));
            wanted = min(passed, mass - 1) + 1;
        }
        Prefix end = shortest(row, work, step > 0, wanted, kept);
        if (step < 2) kept = end;
        token = end.token;
    }
    float share = kept.kept.count < unsigned(row.vocab) ? float(double(kept.kept.mass) / double(total)) : 1.0f;
    if (params.own >= 0) lse = float(row.top + log(double(total) / ONE));
    float logprob = log_probability(row.z[token], row.inverse, lse) - float(log(double(share)));
    return {token, logprob, share};
}

// hot
// logits f32 [N, vocab]; row_params [N]; adjusted, softmax, tops, counts, masses as `sample_slices` wrote them; sampled and ids, its tokens, [N].
// A block a row.
extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1)
    sample(const float* logits, const SamplingParams* row_params, const float* adjusted, const SliceSoftmax* softmax, const float* tops,
           const unsigned* counts, const float* masses, SampledToken* sampled, int* ids, Excluded excluded, int vocab, int slices) {
    __shared__ Workspace work;
    __shared__ Row row;
    __shared__ RowSoftmax softmax_of_row;
    const SamplingParams params = row_params[blockIdx.x];
    size_t first = size_t(blockIdx.x) * slices, own = size_t(params.own < 0 ? blockIdx.x : params.own) * vocab;
    if (threadIdx.x < WARP) {
        float top = -INFINITY;
        for (int i = threadIdx.x; i < slices; i += WARP) top = fmaxf(top, tops[first + i]);
        top = warp_max(top);
        RowSoftmax joined = join_slices(softmax + first, slices);
        if (threadIdx.x == 0) {
            row = {(params.own < 0 ? logits : adjusted) + own, tops + first, masses + first * CLASSES, counts + first * CLASSES, params.inverse, top,
                   class_place(top), excluded, vocab, slices};
            softmax_of_row = joined;
        }
    }
    __syncthreads();

    Choice choice{0, 0.0f, 1.0f};
    if ((params.is_constrained() || excluded.first >= 0) && row.top == -INFINITY) {
        choice = {0, -INFINITY, 0.0f};
    } else if (params.is_greedy) {
        choice.token = greedy(row);
    } else {
        choice = draw(row, params, work, softmax_of_row.lse_at_temperature);
    }
    if (threadIdx.x == 0) {
        float raw = logits[size_t(blockIdx.x) * vocab + choice.token];
        sampled[blockIdx.x] = {choice.token,
                               log_probability(raw, 1.0f, softmax_of_row.lse_raw),
                               log_probability(raw, params.inverse, softmax_of_row.lse_at_temperature),
                               choice.logprob,
                               choice.share,
                               softmax_of_row.entropy};
        ids[blockIdx.x] = choice.token;
    }
}
