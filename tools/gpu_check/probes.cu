// What only a card can say of itself, each as a JSON line on standard output, flushed at once: whether mma.sync and wgmma agree to the bit, what
// rates tensor cores, L2 and memory reach, latencies, the gap between two nodes of a graph, and a hash of ex2.approx.
//
//     nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -o probes tools/gpu_check/probes.cu
//
// `probes` on a machine without a GPU says so and fails.

#include <cuda_runtime.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <vector>

#define CHECK(call)                                                                                  \
    do {                                                                                             \
        cudaError_t error = (call);                                                                  \
        if (error != cudaSuccess) {                                                                  \
            printf("{\"probe\": \"error\", \"call\": \"%s\", \"message\": \"%s\"}\n", #call, cudaGetErrorString(error)); \
            exit(1);                                                                                 \
        }                                                                                            \
    } while (0)

// Seconds of the device for `work`, the least of `times`.
template <class Work>
double seconds(int times, Work work) {
    cudaEvent_t begin, end;
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    float best = 1e30f;
    for (int i = 0; i < times; ++i) {
        CHECK(cudaEventRecord(begin));
        work();
        CHECK(cudaEventRecord(end));
        CHECK(cudaEventSynchronize(end));
        float milliseconds;
        CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
        best = std::min(best, milliseconds);
    }
    CHECK(cudaGetLastError());
    return best / 1e3;
}

__device__ uint32_t mix(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    return x ^ x >> 16;
}

// ---- mma.sync beside wgmma, to the bit ----

__device__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d = a · bᵀ, added to d unless `adds` is 0: a [64, 16] and b [N, 16] in shared memory, by their descriptors.
template <int N>
__device__ void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, int adds);

template <>
__device__ void wgmma<8>(float (&d)[4], uint64_t a, uint64_t b, int adds) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %6, 0; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3"
        "}, %4, %5, p, 1, 1, 0, 0; }"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "l"(a), "l"(b), "r"(adds));
}

template <>
__device__ void wgmma<64>(float (&d)[32], uint64_t a, uint64_t b, int adds) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
        "}, %32, %33, p, 1, 1, 0, 0; }"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
          "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]),
          "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b), "r"(adds));
}

template <>
__device__ void wgmma<256>(float (&d)[128], uint64_t a, uint64_t b, int adds) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %130, 0; wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
        "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
        "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "
        "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, "
        "%101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, "
        "%117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
        "}, %128, %129, p, 1, 1, 0, 0; }"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
          "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]),
          "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
          "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]),
          "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),
          "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]),
          "+f"(d[63]), "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
          "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), "+f"(d[80]),
          "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]),
          "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), "+f"(d[96]), "+f"(d[97]), "+f"(d[98]),
          "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), "+f"(d[104]), "+f"(d[105]), "+f"(d[106]),
          "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]), "+f"(d[112]), "+f"(d[113]), "+f"(d[114]),
          "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]), "+f"(d[120]), "+f"(d[121]), "+f"(d[122]),
          "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
        : "l"(a), "l"(b), "r"(adds));
}

// A matrix [rows, 16] in shared memory lies in blocks of 8 rows by 8 elements, 128 bytes each: the two of 8 rows side by side, then the next 8
// rows. Without swizzle the descriptor's leading offset is from one block to the next along k, its stride offset along the rows.
__device__ uint64_t descriptor(const void* block) {
    uint64_t address = __cvta_generic_to_shared(block);
    constexpr uint64_t ALONG_K = 128, ALONG_ROWS = 256;
    return (address & 0x3FFFF) >> 4 | ALONG_K >> 4 << 16 | ALONG_ROWS >> 4 << 32;
}
__device__ int place(int row, int k) { return row / 8 * 128 + k / 8 * 64 + row % 8 * 8 + k % 8; }

// A value of bf16: of all exponents (form 0), of exponents near 1 (form 1), or of few bits, zeros and subnormals among them (form 2).
__device__ uint16_t value(uint32_t seed, int form) {
    uint32_t bits = mix(seed);
    uint32_t sign = bits & 0x8000, mantissa = bits >> 16 & 0x7F;
    if (form == 0) return sign | (64 + (bits >> 24) % 126) << 7 | mantissa;
    if (form == 1) return sign | (124 + (bits >> 24) % 6) << 7 | mantissa;
    if (bits >> 24 < 64) return sign;
    return sign | (bits >> 24 < 96 ? 0 : 120 + (bits >> 24) % 16) << 7 | (mantissa & 0x61);
}

template <int N>
struct Factors {
    alignas(1024) uint16_t a[64 * 16], b[N * 16];

    // Group number `step` of this block's terms; a barrier stands on both sides.
    __device__ void draw(int step, int form, uint32_t seed) {
        uint32_t base = mix(seed + blockIdx.x * 0x9E3779B9u) + step * 0x85EBCA6Bu;
        __syncthreads();
        for (int i = threadIdx.x; i < 64 * 16; i += 128) a[place(i / 16, i % 16)] = value(base + i, form);
        for (int i = threadIdx.x; i < N * 16; i += 128) b[place(i / 16, i % 16)] = value(base + 0x10000 + i, form);
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
    }
};

// A chain of `steps` groups by wgmma; the first one adds to zeros if `adds`, else to nothing. results [blocks, N / 2, 128].
template <int N>
__global__ void __launch_bounds__(128) chain_wgmma(int steps, int form, uint32_t seed, int adds, float* results) {
    __shared__ Factors<N> factors;
    float d[N / 2];
    for (float& x : d) x = adds ? 0.0f : 1.0f;
    for (int step = 0; step < steps; ++step) {
        factors.draw(step, form, seed);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        wgmma<N>(d, descriptor(factors.a), descriptor(factors.b), adds || step > 0);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    }
#pragma unroll
    for (int i = 0; i < N / 2; ++i) results[(size_t(blockIdx.x) * (N / 2) + i) * 128 + threadIdx.x] = d[i];
}

// The same by mma.sync, whose lanes hold the same elements.
template <int N>
__global__ void __launch_bounds__(128) chain_mma(int steps, int form, uint32_t seed, float* results) {
    __shared__ Factors<N> factors;
    float d[N / 8][4] = {};
    int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 32 / 4, pair = threadIdx.x % 4 * 2;
    auto two = [](const uint16_t* from, int row, int k) { return *reinterpret_cast<const uint32_t*>(from + place(row, k)); };
    for (int step = 0; step < steps; ++step) {
        factors.draw(step, form, seed);
        const uint16_t *a = factors.a, *b = factors.b;
        uint32_t left[4] = {two(a, row, pair), two(a, row + 8, pair), two(a, row, pair + 8), two(a, row + 8, pair + 8)};
#pragma unroll
        for (int n = 0; n < N / 8; ++n) {
            uint32_t right[2] = {two(b, n * 8 + column, pair), two(b, n * 8 + column, pair + 8)};
            mma(d[n], left, right);
        }
    }
#pragma unroll
    for (int i = 0; i < N / 2; ++i) results[(size_t(blockIdx.x) * (N / 2) + i) * 128 + threadIdx.x] = d[i / 4][i % 4];
}

// Elements whose bits differ.
__global__ void count_differing(const float* a, const float* b, size_t count, unsigned long long* differing) {
    unsigned long long found = 0;
    for (size_t i = blockIdx.x * size_t(256) + threadIdx.x; i < count; i += size_t(gridDim.x) * 256) {
        found += __float_as_uint(a[i]) != __float_as_uint(b[i]);
    }
    atomicAdd(differing, found);
}

template <int N>
void compare_bits() {
    constexpr int BLOCKS_MAX = 132 * 16;
    constexpr size_t OF_BLOCK = 64 * N;
    float* results[3];
    unsigned long long* differing;
    for (float*& of : results) CHECK(cudaMalloc(&of, BLOCKS_MAX * OF_BLOCK * sizeof(float)));
    CHECK(cudaMallocManaged(&differing, 2 * sizeof *differing));
    for (int form = 0; form < 3; ++form) {
        for (int steps : {1, 4, 224, 1184}) {
            int blocks = steps > 4 ? 132 : BLOCKS_MAX;
            uint32_t seed = 17 * steps + form;
            chain_wgmma<N><<<blocks, 128>>>(steps, form, seed, 1, results[0]);
            chain_wgmma<N><<<blocks, 128>>>(steps, form, seed, 0, results[1]);
            chain_mma<N><<<blocks, 128>>>(steps, form, seed, results[2]);
            differing[0] = differing[1] = 0;
            count_differing<<<264, 256>>>(results[0], results[2], blocks * OF_BLOCK, &differing[0]);
            count_differing<<<264, 256>>>(results[0], results[1], blocks * OF_BLOCK, &differing[1]);
            CHECK(cudaDeviceSynchronize());
            printf("{\"probe\": \"wgmma_bits\", \"n\": %d, \"form\": %d, \"terms\": %d, \"elements\": %zu, \"differ_from_mma\": %llu, "
                   "\"differ_without_zeros\": %llu}\n",
                   N, form, steps * 16, blocks * OF_BLOCK, differing[0], differing[1]);
            fflush(stdout);
        }
    }
    for (float* of : results) CHECK(cudaFree(of));
    CHECK(cudaFree(differing));
}

// ---- rates ----

constexpr int TURNS = 4096;

__global__ void __launch_bounds__(256) mma_rate(float* sink) {
    float d[8][4] = {};
    uint32_t a[4], b[2] = {mix(threadIdx.x), mix(threadIdx.x + 99)};
    for (int i = 0; i < 4; ++i) a[i] = mix(threadIdx.x * 4 + i) & 0x3FFF3FFF;
    for (int turn = 0; turn < TURNS; ++turn) {
#pragma unroll
        for (int i = 0; i < 8; ++i) mma(d[i], a, b);
    }
    for (auto& tile : d) sink[threadIdx.x] += tile[0];
}

__global__ void __launch_bounds__(128) wgmma_rate(float* sink) {
    __shared__ alignas(1024) uint16_t a[64 * 16], b[256 * 16];
    for (int i = threadIdx.x; i < 64 * 16; i += 128) a[i] = value(i, 1);
    for (int i = threadIdx.x; i < 256 * 16; i += 128) b[i] = value(i + 9999, 1);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    float d[128] = {};
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    for (int turn = 0; turn < TURNS; ++turn) {
        wgmma<256>(d, descriptor(a), descriptor(b), 1);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    for (float value : d) sink[threadIdx.x] += value;
}

// Each block reads its share of `count` vectors of 16 bytes, `times` times.
__global__ void __launch_bounds__(512) read_rate(const uint4* from, size_t count, int times, uint32_t* sink) {
    uint32_t sum = 0;
    size_t stride = size_t(gridDim.x) * 512 * 8;
    for (int time = 0; time < times; ++time) {
        for (size_t i = size_t(blockIdx.x) * 512 * 8 + threadIdx.x; i + 7 * 512 < count; i += stride) {
            uint4 values[8];
#pragma unroll
            for (int j = 0; j < 8; ++j) asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                                                     : "=r"(values[j].x), "=r"(values[j].y), "=r"(values[j].z), "=r"(values[j].w)
                                                     : "l"(from + i + j * 512));
#pragma unroll
            for (int j = 0; j < 8; ++j) sum += values[j].x ^ values[j].w;
        }
    }
    if (sum == 1) *sink = sum;
}

// Follows `steps` pointers, each an index.
__global__ void chase(const uint32_t* next, int steps, uint32_t* sink, long long* clocks) {
    uint32_t at = 0;
    long long begin = clock64();
    for (int i = 0; i < steps; ++i) asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(at) : "l"(next + at));
    *clocks = clock64() - begin;
    *sink = at;
}

__global__ void nothing() {}

// Σ of a mix of every input and its result.
__global__ void hash_ex2(unsigned long long* hash) {
    unsigned long long sum = 0;
    for (uint64_t bits = blockIdx.x * blockDim.x + threadIdx.x; bits < 1ull << 32; bits += size_t(gridDim.x) * blockDim.x) {
        float result, x = __uint_as_float(uint32_t(bits));
        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
        uint32_t own = __float_as_uint(result);
        if (result != result) own = 0x7FFFFFFF;
        sum += mix(uint32_t(bits) ^ mix(own));
    }
    atomicAdd(hash, sum);
}

void rates(const cudaDeviceProp& about) {
    int sms = about.multiProcessorCount;
    float* sink;
    CHECK(cudaMalloc(&sink, 1024 * sizeof *sink));
    for (int blocks : {sms, 2 * sms, 4 * sms}) {
        double time = seconds(3, [&] { mma_rate<<<blocks, 256>>>(sink); });
        double flop = double(blocks) * 8 * TURNS * 8 * 4096;
        printf("{\"probe\": \"mma_rate\", \"warps_per_sm\": %d, \"tflops\": %.1f}\n", blocks / sms * 8, flop / time / 1e12);
        fflush(stdout);
    }
    for (int blocks : {sms, 2 * sms}) {
        double time = seconds(3, [&] { wgmma_rate<<<blocks, 128>>>(sink); });
        printf("{\"probe\": \"wgmma_rate\", \"warpgroups_per_sm\": %d, \"tflops\": %.1f}\n", blocks / sms,
               double(blocks) * TURNS * 2 * 64 * 256 * 16 / time / 1e12);
        fflush(stdout);
    }
    CHECK(cudaFree(sink));
}

void memory(const cudaDeviceProp& about) {
    size_t bytes = size_t(4) << 30;
    uint4* from;
    uint32_t* sink;
    CHECK(cudaMalloc(&from, bytes));
    CHECK(cudaMalloc(&sink, sizeof *sink));
    CHECK(cudaMemset(from, 1, bytes));
    for (int blocks : {1, 56, 112, about.multiProcessorCount, 4 * about.multiProcessorCount}) {
        for (bool is_l2 : {true, false}) {
            size_t count = (is_l2 ? size_t(16) << 20 : blocks < 8 ? size_t(256) << 20 : bytes) / 16;
            int times = is_l2 ? (blocks < 8 ? 4 : 64) : 1;
            double time = seconds(3, [&] { read_rate<<<blocks, 512>>>(from, count, times, sink); });
            printf("{\"probe\": \"read_rate\", \"from\": \"%s\", \"blocks\": %d, \"gb_per_second\": %.0f}\n", is_l2 ? "L2" : "memory", blocks,
                   16.0 * count * times / time / 1e9);
            fflush(stdout);
        }
    }
    long long* clocks;
    CHECK(cudaMallocManaged(&clocks, sizeof *clocks));
    for (size_t size : {size_t(8) << 20, size_t(2) << 30}) {
        uint32_t count = size / 4, stride = 4099 * 32;
        std::vector<uint32_t> next(count);
        for (uint32_t i = 0; i < count; ++i) next[i] = (i + stride) % count;
        CHECK(cudaMemcpy(from, next.data(), size, cudaMemcpyHostToDevice));
        int steps = 4096;
        chase<<<1, 1>>>(reinterpret_cast<uint32_t*>(from), steps, sink, clocks);
        CHECK(cudaDeviceSynchronize());
        chase<<<1, 1>>>(reinterpret_cast<uint32_t*>(from), steps, sink, clocks);
        CHECK(cudaDeviceSynchronize());
        printf("{\"probe\": \"latency\", \"mb\": %zu, \"clocks\": %.0f}\n", size >> 20, double(*clocks) / steps);
        fflush(stdout);
    }
    CHECK(cudaFree(clocks));
    CHECK(cudaFree(sink));
    CHECK(cudaFree(from));
}

void graph() {
    constexpr int NODES = 1000;
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < NODES; ++i) nothing<<<132, 128, 0, stream>>>();
    cudaGraph_t graph;
    cudaGraphExec_t ready;
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&ready, graph, 0));
    double in_graph = seconds(5, [&] { CHECK(cudaGraphLaunch(ready, 0)); });
    double in_stream = seconds(5, [&] {
        for (int i = 0; i < NODES; ++i) nothing<<<132, 128>>>();
    });
    printf("{\"probe\": \"launch\", \"graph_node_us\": %.3f, \"stream_launch_us\": %.3f}\n", in_graph / NODES * 1e6, in_stream / NODES * 1e6);
    fflush(stdout);
}

int main() {
    cudaDeviceProp about;
    CHECK(cudaGetDeviceProperties(&about, 0));
    int clock = 0, pools = 0, shared = 0;
    CHECK(cudaDeviceGetAttribute(&clock, cudaDevAttrClockRate, 0));
    CHECK(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, 0));
    CHECK(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    printf("{\"probe\": \"device\", \"name\": \"%s\", \"sms\": %d, \"clock_mhz\": %d, \"l2_mb\": %d, \"pools\": %d, \"shared_bytes\": %d}\n", about.name,
           about.multiProcessorCount, clock / 1000, about.l2CacheSize >> 20, pools, shared);
    fflush(stdout);
    compare_bits<8>();
    compare_bits<64>();
    compare_bits<256>();
    rates(about);
    memory(about);
    graph();
    unsigned long long* hash;
    CHECK(cudaMallocManaged(&hash, sizeof *hash));
    *hash = 0;
    hash_ex2<<<4 * about.multiProcessorCount, 256>>>(hash);
    CHECK(cudaDeviceSynchronize());
    printf("{\"probe\": \"ex2_hash\", \"hash\": \"%016llx\"}\n", *hash);
}
