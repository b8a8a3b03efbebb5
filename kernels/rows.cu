// Rows gathered, scattered back and added; formulas in src/ops/rows.rs. N rows (blockIdx.x), D width.
#include "common/elementwise.cuh"

// x bf16 [.., D]; index i32 [N]; y bf16 [N, D].
extern "C" __global__ void __launch_bounds__(PIECE_THREADS) rows_gather(const bf16* x, const int* index, bf16* y, int dim) {
    const bf16* from = x + size_t(index[blockIdx.x]) * dim;
    bf16* to = y + size_t(blockIdx.x) * dim;
    for_piece(dim, [&](auto width, int i) {
        constexpr int V = decltype(width)::value;
        store<V>(to + i, load<V>(from + i));
    });
}

// x bf16 [N, D], added to; y bf16 [N, D].
extern "C" __global__ void __launch_bounds__(PIECE_THREADS) rows_add(bf16* x, const bf16* y, int dim) {
    size_t row = size_t(blockIdx.x) * dim;
    for_piece(dim, [&](auto width, int i) {
        constexpr int V = decltype(width)::value;
        Vector<bf16, V> sum = load<V>(x + row + i), other = load<V>(y + row + i);
        for (int j = 0; j < V; ++j) sum.at[j] = to_bf16(to_float(sum.at[j]) + to_float(other.at[j]));
        store<V>(x + row + i, sum);
    });
}

// to[index[i]] += dy[i], each row in ascending i, in two steps. First positions are sorted by their row: the place of (row, position) is
// the number of smaller pairs, which a thread counts. That is N² comparisons of whole numbers that a warp reads together, less than a
// millisecond at 32,000 positions. Then a block has a piece of one row and adds its positions up. Neither depends on who comes first.

constexpr int SORT_THREADS = 128;

// index i32 [N], negative for what goes nowhere; except (or null) i32 [N]: where it is not negative, the position goes nowhere either.
// order i32 [N]: the sorted positions; rows i32 [N]: the row of each, -1 for none, which are the last. A thread a position.
extern "C" __global__ void __launch_bounds__(SORT_THREADS)
    rows_sort(const int* index, const int* except, int* order, int* rows, int count) {
    int own = blockIdx.x * SORT_THREADS + threadIdx.x;
    if (own >= count) return;
    // Nowhere is the largest of unsigned numbers.
    auto row_of = [&](int i) { return except != nullptr && except[i] >= 0 ? ~0u : unsigned(index[i]); };
    unsigned row = row_of(own);
    int place = 0;
    for (int i = 0; i < count; ++i) {
        unsigned other = row_of(i);
        place += other < row || (other == row && i < own);
    }
    order[place] = own;
    rows[place] = int(row);
}

__device__ inline float to_float(float x) { return x; }
__device__ inline void put(float& to, float x) { to = x; }
__device__ inline void put(bf16& to, float x) { to = to_bf16(x); }

// Adds up the places from blockIdx.x on that share a row, if it is the first of them. The sum is f32, begins with what is there, and is
// rounded to T once.
template <class T>
__device__ inline void add_segment(const bf16* dy, const int* order, const int* rows, T* to, int count, int dim) {
    int place = blockIdx.x, row = rows[place];
    if (row < 0 || (place > 0 && rows[place - 1] == row)) return;
    int end = place + 1;
    while (end < count && rows[end] == row) ++end;
    for_piece(dim, [&](auto width, int i) {
        constexpr int V = decltype(width)::value;
        T* at = to + size_t(row) * dim + i;
        Vector<T, V> total = load<V>(at);
        float sums[V];
        for (int j = 0; j < V; ++j) sums[j] = to_float(total.at[j]);
#pragma unroll 4
        for (int p = place; p < end; ++p) {
            Vector<bf16, V> term = load<V>(dy + size_t(order[p]) * dim + i);
            for (int j = 0; j < V; ++j) sums[j] += to_float(term.at[j]);
        }
        for (int j = 0; j < V; ++j) put(total.at[j], sums[j]);
        store<V>(at, total);
    });
}

// hot
// dy bf16 [N, D]; order, rows i32 [N]; to bf16 [.., D], added to.
extern "C" __global__ void __launch_bounds__(PIECE_THREADS)
    rows_scatter_bf16(const bf16* dy, const int* order, const int* rows, bf16* to, int count, int dim) {
    add_segment(dy, order, rows, to, count, dim);
}

// hot
// dy bf16 [N, D]; order, rows i32 [N]; to f32 [.., D], added to.
extern "C" __global__ void __launch_bounds__(PIECE_THREADS)
    rows_scatter_f32(const bf16* dy, const int* order, const int* rows, float* to, int count, int dim) {
    add_segment(dy, order, rows, to, count, dim);
}
