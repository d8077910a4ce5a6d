// The matrix product of a few rows with one packed panel of W_h.
//
// A panel is NR vectors wide, stored [k][NR][lanes], and read once from front to back. MR rows are
// taken at a time, so that each vector of weights loaded serves MR multiplications: MR * NR sums
// stay in registers. Of 16, few are left for the factors: what is held and in which order things are
// loaded is said here, since Clang otherwise loads too early and spills sums in the innermost loop.
#pragma once

#include <utility>

#include "cells.h"
#include "share.h"

namespace TT_ISA {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int registers = 32;
#else
constexpr int registers = 16;
#endif
#if defined(__FMA__) || defined(__aarch64__)
constexpr int unadded = 0;
#else
constexpr int unadded = 1;  // registers for a product before it is added
#endif
constexpr int sums = registers / 4 * 3;
constexpr int64_t far = 1 << 20;  // bytes of weights that a core's own cache does not hold
constexpr int max_rows = 12, max_vectors = 4;

constexpr int rows_for(int vectors) {
    return sums / vectors < max_rows ? sums / vectors : max_rows;
}

// What stays in registers for one k: the weights of a panel, or one element of each row.
enum class Held { weights, rows, neither };

// For Clang; GCC finds by itself what fits. Nothing is loaded before this that the source loads later.
TT_INLINE void in_order() {
#if defined(__clang__)
    __asm__ volatile("" ::: "memory");
#endif
}

// An address that is not expressed by another one.
template <class F> TT_INLINE const F *on_its_own(const F *p) {
#if defined(__clang__)
    __asm__("" : "+r"(p));
#endif
    return p;
}

// out = from + x · w for MR rows: out and from are rows of NR vectors; from null: 0. The rows of x
// lie x_step apart and its depth runs contiguously; Across: the other way round.
template <class F, int MR, int NR, bool Across>
void multiply(const F *x, int64_t x_step, const F *w, int64_t n, F *out, int64_t out_row,
              const F *from, int64_t from_row) {
    constexpr int L = Simd<F>::lanes, left = registers - MR * NR - unadded;
    constexpr Held held = left > NR ? Held::weights : left > MR ? Held::rows : Held::neither;
    constexpr bool tight = held == Held::neither || (held == Held::weights && left == NR + 1);
    Vec<F> sum[MR][NR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < NR; ++j) sum[i][j] = from ? load(from + i * from_row + j * L) : Vec<F>{};
    // Three multiples of x_step and one address for every four rows: more do not fit the registers.
    const F *rows[(MR + 3) / 4];
#pragma GCC unroll 4
    for (int i = 0; i < MR; i += 4) rows[i / 4] = on_its_own(x + i * x_step);
    for (int64_t k = 0; k < n; ++k, w += NR * L) {
        const auto x_k = [&](int i) TT_ALWAYS {
            return Across ? x[k * x_step + i] : rows[i / 4][k + i % 4 * x_step];
        };
        if constexpr (held == Held::rows) {
            F x_ik[MR];
#pragma GCC unroll 16
            for (int i = 0; i < MR; ++i) x_ik[i] = x_k(i);
#pragma GCC unroll 4
            for (int j = 0; j < NR; ++j) {
                const Vec<F> weights = load(w + j * L);
#pragma GCC unroll 16
                for (int i = 0; i < MR; ++i) sum[i][j] += weights * x_ik[i];
            }
        } else {
            Vec<F> weights[NR];
#pragma GCC unroll 4
            for (int j = 0; j < NR; ++j) weights[j] = load(w + j * L);
#pragma GCC unroll 16
            for (int i = 0; i < MR; ++i) {
                if (tight) in_order();
                const F x_ik = x_k(i);
#pragma GCC unroll 4
                for (int j = 0; j < NR; ++j)
                    sum[i][j] += (held == Held::weights ? weights[j] : load(w + j * L)) * x_ik;
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < NR; ++j) store(out + i * out_row + j * L, sum[i][j]);
}

template <class F>
using Multiply = void (*)(const F *, int64_t, const F *, int64_t, F *, int64_t, const F *, int64_t);

template <class F, bool Across, int NR, int MR> Multiply<F> pick_rows(int rows) {
    if constexpr (MR == 1)
        return multiply<F, 1, NR, Across>;
    else
        return rows == MR ? multiply<F, MR, NR, Across> : pick_rows<F, Across, NR, MR - 1>(rows);
}

template <class F, bool Across = false> Multiply<F> pick(int rows, int vectors) {
    switch (vectors) {
        case 1: return pick_rows<F, Across, 1, rows_for(1)>(rows);
        case 2: return pick_rows<F, Across, 2, rows_for(2)>(rows);
        case 3: return pick_rows<F, Across, 3, rows_for(3)>(rows);
        default: return pick_rows<F, Across, 4, rows_for(4)>(rows);
    }
}

// How a matrix of K rows is cut into panels of a few vectors of columns, as equal as possible. W_h in
// the forward sweep: a gated cell's panel holds all gates of one vector of units. Where it comes
// from beyond L2, so few vectors are taken at a time that all rows fit one block: each weight is
// then loaded once, at half the bytes per cycle.
struct Panels {
    int64_t units, K;  // columns, of one gate; depth of the product
    int64_t vectors;   // of units
    int64_t count;
    int gates;         // vectors of one panel that belong to the same units
    int parts;         // of a panel, one after the other in memory
    int lanes;

    Panels(int64_t units_, int64_t K_, int lanes_)
        : units(units_), K(K_), vectors((units + lanes_ - 1) / lanes_),
          count((vectors + max_vectors - 1) / max_vectors), gates(1), parts(1), lanes(lanes_) {}

    static Panels recurrent(const tt_sweep &w, bool back, int lanes, int64_t rows) {
        Panels p(w.H, back ? gates_of(w) * w.H : w.H, lanes);
        const int64_t bytes = gates_of(w) * w.H * w.H * (w.dtype == TT_FLOAT32 ? 4 : 8);
        int at_once = max_vectors;
        while (bytes >= far && at_once > 2 && rows > rows_for(at_once)) --at_once;
        if (rows > rows_for(at_once)) at_once = max_vectors;
        p.gates = back ? 1 : gates_of(w);
        p.count = p.gates > 1 ? p.vectors : (p.vectors + at_once - 1) / at_once;
        p.parts = p.gates == 4 && at_once < 4 ? 2 : 1;
        return p;
    }
    // W_x: forward its columns are the pre-activations, back the inputs.
    static Panels input(const tt_sweep &w, bool back, int lanes) {
        const int64_t A = gates_of(w) * w.H;
        return back ? Panels(w.I, A, lanes) : Panels(A, w.I, lanes);
    }
    int64_t first_vector(int64_t p) const { return vectors * p / count; }
    int64_t first_unit(int64_t p) const { return first_vector(p) * lanes; }
    int unit_vectors(int64_t p) const { return (int)(first_vector(p + 1) - first_vector(p)); }
    int width(int64_t p) const { return unit_vectors(p) * gates; }  // vectors
    // The first row of W_h or W_x that the panel's vector j holds; past its last, the next panel's.
    int64_t first_row(int64_t p, int64_t j) const {
        if (j == width(p)) return p + 1 < count ? first_row(p + 1, 0) : 0;
        return gates > 1 ? j * units + first_unit(p) : first_unit(p) + j * lanes;
    }
    int64_t offset(int64_t p) const { return first_vector(p) * gates * lanes * K; }
    int64_t size() const { return vectors * gates * lanes * K; }
};

// One step of a transposition: lanes of a that have the bit `half` change places with those of b that
// have not. GCC and Clang have each a shuffle of their own.
template <class F, int half, int... l>
TT_INLINE void exchange(Vec<F> &a, Vec<F> &b, std::integer_sequence<int, l...>) {
    constexpr int L = sizeof...(l);
    const Vec<F> x = a, y = b;
#if defined(__clang__)
    a = __builtin_shufflevector(x, y, (l & half ? L + l - half : l)...);
    b = __builtin_shufflevector(x, y, (l & half ? L + l : l + half)...);
#else
    typedef typename Simd<F>::I I;
    a = __builtin_shuffle(x, y, I{(l & half ? L + l - half : l)...});
    b = __builtin_shuffle(x, y, I{(l & half ? L + l : l + half)...});
#endif
}

// Exchange rows and columns of L vectors, by halves.
template <class F, int half = Simd<F>::lanes / 2> TT_INLINE void transpose(Vec<F> *v) {
    constexpr int L = Simd<F>::lanes;
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i)
        if (!(i & half)) exchange<F, half>(v[i], v[i + half], std::make_integer_sequence<int, L>());
    if constexpr (half > 1) transpose<F, half / 2>(v);
}

// Prefetch what is packed a few lines from here, while the lines at hand are packed.
constexpr int64_t lines_ahead = 32, rows_ahead = 16;

// Pack panel p of the transpose of a weight (gates * units, K).
template <class F> void pack_transposed(const F *weight, const Panels &panels, int64_t p, F *out) {
    constexpr int64_t L = Simd<F>::lanes;
    const int64_t K = panels.K, units = panels.units, NR = panels.width(p) / panels.parts;
    for (int64_t j = 0; j < panels.width(p); ++j) {
        F *part = out + (j / NR * NR * K + j % NR) * L;
        const int64_t unit = panels.first_row(p, j) % units;
        const F *from = weight + panels.first_row(p, j) * K;
        const F *next = weight + panels.first_row(p, j + 1) * K;
        for (int64_t k = 0; k < K; k += L) {
            const int n = (int)(K - k < L ? K - k : L);
            Vec<F> v[L];
#pragma GCC unroll 16
            for (int l = 0; l < L; ++l) {
                ask(next + l * K + k);
                ask_to_write(part + (k + l + lines_ahead) * NR * L);
                v[l] = unit + l < units ? load(from + l * K + k, n) : Vec<F>{};
            }
            transpose<F>(v);
#pragma GCC unroll 16
            for (int i = 0; i < L; ++i)
                if (i < n) store(part + (k + i) * NR * L, v[i]);
        }
    }
}

// Pack panel p of a weight (K, units) untransposed.
template <class F> void pack_plain(const F *weight, const Panels &panels, int64_t p, F *out) {
    constexpr int L = Simd<F>::lanes;
    const int64_t unit = panels.first_unit(p), next_unit = panels.first_unit(p + 1);
    for (int64_t k = 0; k < panels.K; ++k) {
        const int64_t row = k + rows_ahead, over = row - panels.K;
        const F *next = weight + (over < 0 ? row * panels.units + unit : over * panels.units + next_unit);
        for (int j = 0; j < panels.width(p); ++j, out += L) {
            const int64_t left = panels.units - unit - j * L;
            ask(next + j * L);
            ask_to_write(out + lines_ahead * L);
            store(out, load(weight + k * panels.units + unit + j * L, left < L ? (int)left : L));
        }
    }
}

}  // namespace TT_ISA
