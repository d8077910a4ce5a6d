// The matrix product of a few rows with one packed panel of W_h.
//
// A panel is NR vectors wide, stored [k][NR][lanes], and read once from front to back. MR rows are
// taken at a time, so that each vector of weights loaded serves MR multiplications: MR * NR sums
// stay in registers.
#pragma once

#include "share.h"
#include "simd.h"

namespace TT_ISA {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int sums = 24;  // of 32 registers
#else
constexpr int sums = 12;  // of 16
#endif
constexpr int64_t far = 1 << 20;  // bytes of weights that a core's own cache does not hold
constexpr int max_rows = 12, max_vectors = 4;

constexpr int rows_for(int vectors) {
    return sums / vectors < max_rows ? sums / vectors : max_rows;
}

template <class F, int MR, int NR>
void multiply(const F *x, int64_t x_row, const F *w, int64_t n, F *tile, int64_t tile_row, bool add) {
    constexpr int L = Simd<F>::lanes;
    Vec<F> sum[MR][NR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < NR; ++j)
            sum[i][j] = add ? load(tile + i * tile_row + j * L) : Vec<F>{};
    for (int64_t k = 0; k < n; ++k, w += NR * L) {
        Vec<F> weights[NR];
#pragma GCC unroll 4
        for (int j = 0; j < NR; ++j) weights[j] = load(w + j * L);
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
            const F x_ik = x[i * x_row + k];
#pragma GCC unroll 4
            for (int j = 0; j < NR; ++j) sum[i][j] += weights[j] * x_ik;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < NR; ++j) store(tile + i * tile_row + j * L, sum[i][j]);
}

template <class F>
using Multiply = void (*)(const F *, int64_t, const F *, int64_t, F *, int64_t, bool);

template <class F, int NR, int MR> Multiply<F> pick_rows(int rows) {
    if constexpr (MR == 1)
        return multiply<F, 1, NR>;
    else
        return rows == MR ? multiply<F, MR, NR> : pick_rows<F, NR, MR - 1>(rows);
}

template <class F> Multiply<F> pick(int rows, int vectors) {
    switch (vectors) {
        case 1: return pick_rows<F, 1, rows_for(1)>(rows);
        case 2: return pick_rows<F, 2, rows_for(2)>(rows);
        case 3: return pick_rows<F, 3, rows_for(3)>(rows);
        default: return pick_rows<F, 4, rows_for(4)>(rows);
    }
}

// How W_h is cut into panels. Forward, a gated cell's panel holds all gates of one vector of
// units; elsewhere it holds a few vectors of units, as equal as can be. Where the weights come
// from beyond L2, few enough vectors are taken at a time for all rows to fit one block: each weight
// is then loaded once, at half the bytes a cycle.
struct Panels {
    int64_t H, K;      // columns are units, K is the depth of the product
    int64_t vectors;   // of units
    int64_t count;
    int gates;         // vectors of one panel that belong to the same units
    int parts;         // of a panel, one after the other in memory
    int lanes;

    Panels(const tt_sweep &w, bool back, int lanes_, int64_t rows)
        : H(w.H), K(back ? tt::gates(w) * w.H : w.H), vectors((w.H + lanes_ - 1) / lanes_),
          gates(back ? 1 : tt::gates(w)), lanes(lanes_) {
        const int64_t bytes = tt::gates(w) * w.H * w.H * (w.dtype == TT_FLOAT32 ? 4 : 8);
        int at_once = max_vectors;
        while (bytes >= far && at_once > 2 && rows > rows_for(at_once)) --at_once;
        if (rows > rows_for(at_once)) at_once = max_vectors;
        count = gates > 1 ? vectors : (vectors + at_once - 1) / at_once;
        parts = gates == 4 && at_once < 4 ? 2 : 1;
    }
    int64_t first_vector(int64_t p) const { return vectors * p / count; }
    int64_t first_unit(int64_t p) const { return first_vector(p) * lanes; }
    int unit_vectors(int64_t p) const { return (int)(first_vector(p + 1) - first_vector(p)); }
    int width(int64_t p) const { return unit_vectors(p) * gates; }  // vectors
    int64_t offset(int64_t p) const { return first_vector(p) * gates * lanes * K; }
    int64_t size() const { return vectors * gates * lanes * K; }
};

template <class F> void pack_forward(const tt_sweep &w, const Panels &panels, int64_t p, F *out) {
    const F *weight = (const F *)w.weight_hh;
    constexpr int64_t L = Simd<F>::lanes, block = 64 / sizeof(F);
    const int64_t H = w.H, NR = panels.width(p) / panels.parts;
    for (int64_t j = 0; j < panels.width(p); ++j) {
        F *part = out + j / NR * NR * L * H;
        const int64_t gate = panels.gates > 1 ? j : 0;
        const int64_t unit = panels.first_unit(p) + (panels.gates > 1 ? 0 : j * L);
        for (int64_t k = 0; k < H; k += block)  // a cache line of each row at a time
            for (int64_t l = 0; l < L; ++l)
                for (int64_t i = k; i < k + block && i < H; ++i)
                    part[(i * NR + j % NR) * L + l] =
                        unit + l < H ? weight[(gate * H + unit + l) * H + i] : F(0);
    }
}

template <class F> void pack_backward(const tt_sweep &w, const Panels &panels, int64_t p, F *out) {
    const F *weight = (const F *)w.weight_hh;
    constexpr int L = Simd<F>::lanes;
    const int64_t unit = panels.first_unit(p);
    for (int64_t k = 0; k < panels.K; ++k)
        for (int j = 0; j < panels.width(p); ++j, out += L) {
            const int64_t left = w.H - unit - j * L;
            store(out, load(weight + k * w.H + unit + j * L, left < L ? (int)left : L));
        }
}

}  // namespace TT_ISA
