// What the two sweeps share: the slots that rows occupy, and the product of a chunk of rows.
#pragma once

#include "product.h"

namespace TT_ISA {

constexpr int chunk_rows = 48;   // rows that go through all panels together
constexpr int64_t block_bytes = 16384;  // of a panel, kept in L1 while several blocks of rows use it

// Elements from row to row in the products of a chunk of whole rows. Forward, a row holds all panels
// one after another; back, the cell goes on working in it, in as much room as its gates take.
inline int64_t whole_row_size(const tt_sweep &w, int64_t units, int lanes) {
    return gates_of(w) * units + lanes;
}

template <class F> struct Sweep {
    const tt::Share &share;
    const tt_sweep &w;
    const tt_facts &cell;
    Panels panels;
    Sizes<F> sizes;
    int64_t state_row, unit_row, S, A, first_panel, last_panel;
    int64_t kept_size[TT_KEPT];  // how wide what is kept of a step is
    F *in, *out;  // the two states, by slot

    Sweep(const tt::Share &share_, bool back)
        : share(share_), w(*share_.sweep), cell(*facts(w.cell)),
          panels(Panels::recurrent(w, back, Simd<F>::lanes, share_.group_rows)) {
        constexpr int L = Simd<F>::lanes;
        unit_row = panels.vectors * L;
        state_row = (back ? cell.gates : 1) * unit_row + L;  // + L: rows apart in cache sets
        S = cell.states * w.H;
        A = cell.gates * w.H;
        for (int i = 0; i < TT_KEPT; ++i) kept_size[i] = cell.kept_units[i] * w.H + cell.kept_more[i];
        sizes = {w.H,         unit_row,     w.G,
                 w.nonlinearity, w.keep != 0, w.grads != 0, w.adjoint_size > A,
                 !back && keeps_past_caches(), &w};
        const int member = sweeps() ? share.member : 0;
        first_panel = panels.count * member / share.members;
        last_panel = panels.count * (member + 1) / share.members;
        in = (F *)share.state[0];
        out = (F *)share.state[1];
    }

    // Whether what is kept is large enough to be written past the caches, by whole lines. Not where
    // threads share a row's columns, since one may read at once what another wrote.
    bool keeps_past_caches() const {
        constexpr int64_t line = 64, large = 4 << 20;
        const auto whole = [](const void *p) { return (uintptr_t)p % line == 0; };
        const int64_t row = w.H * (int64_t)sizeof(F), bytes = w.T * w.B * (cell.gates + cell.states) * row;
        bool lines = row % line == 0 && whole(w.s);
        for (int i = 0; i < cell.kept; ++i) lines = lines && (!cell.kept_units[i] || whole(w.kept[i]));
        return w.keep && share.members == 1 && bytes >= large && lines;
    }

    // This thread's units.
    int64_t first_unit() const { return panels.first_unit(first_panel); }
    int64_t last_unit() const {
        const int64_t end = panels.first_unit(last_panel);
        return end < w.H ? end : w.H;
    }

    // Whether this thread takes steps; the others of its group only share products.
    bool sweeps() const { return share.member < share.members; }
    // The group's threads meet.
    void meet() const {
        if (share.team > 1) share.wait(share.barrier);
    }
    void turn() {
        if (share.members > 1) share.wait(share.step_barrier);
        F *was = in;
        in = out;
        out = was;
    }
    // Every other step takes the panels from the last to the first: those still in cache come first.
    int64_t in_turn(int64_t j, int64_t t) const { return t & 1 ? first_panel + last_panel - 1 - j : j; }
    bool reset(int64_t t, int64_t b) const { return w.reset && t < w.T && w.reset[t * w.B + b]; }

    // Where the values of one kept array lie for the step `at` = t * B + b.
    F *kept(int i, int64_t at) const { return (F *)w.kept[i] + at * kept_size[i]; }

    // out = state of the slots slot … slot + rows - 1, times panel p; out's rows lie out_row apart.
    void product(int64_t p, int64_t slot, int64_t rows, F *out, int64_t out_row) const {
        constexpr int L = Simd<F>::lanes;
        const int width = panels.width(p), NR = width / panels.parts;
        const F *panel = (const F *)share.packed + panels.offset(p);
        for (int part = 0; part < panels.parts; ++part)
            product_part(panel + part * NR * L * panels.K, NR, slot, rows, out + part * NR * L, out_row);
    }

    // One panel's product into the tile, its rows side by side; return where it is.
    const F *tile_product(int64_t p, int64_t slot, int64_t rows) const {
        product(p, slot, rows, (F *)share.tile, panels.width(p) * Simd<F>::lanes);
        return (const F *)share.tile;
    }

    // All panels' products: those of row i from whole(i) on.
    void row_products(int64_t slot, int64_t rows, int64_t t) const {
        for (int64_t j = first_panel; j < last_panel; ++j) {
            const int64_t p = in_turn(j, t);
            product(p, slot, rows, whole(0) + panels.first_unit(p) * panels.gates, row_size());
        }
    }
    F *whole(int64_t i) const { return (F *)share.tile + i * row_size(); }
    int64_t row_size() const { return whole_row_size(w, unit_row, Simd<F>::lanes); }

    void product_part(const F *panel, int NR, int64_t slot, int64_t rows, F *tile,
                      int64_t tile_row) const {
        constexpr int L = Simd<F>::lanes;
        const int most = rows_for(NR);
        const int64_t H = w.H, blocks = (rows + most - 1) / most;
        const int64_t depth = blocks > 1 ? block_bytes / (int64_t)(NR * L * sizeof(F)) : H;
        const int base = (int)(rows / blocks);  // every block has base rows or one more
        const Multiply<F> low = pick<F>(base, NR), high = pick<F>(base < most ? base + 1 : base, NR);
        for (int64_t segment = 0; segment < panels.K; segment += H)
            for (int64_t k = 0; k < H; k += depth) {
                const F *x = in + (segment / H) * unit_row + k;
                const F *weights = panel + (segment + k) * NR * L;
                const int64_t n = depth < H - k ? depth : H - k;
                for (int64_t block = 0; block < blocks; ++block) {
                    const int64_t first = rows * block / blocks;
                    const bool more = rows * (block + 1) / blocks - first > base;
                    F *out = tile + first * tile_row;
                    (more ? high : low)(x + (slot + first) * state_row, state_row, weights, n, out,
                                        tile_row, segment + k > 0 ? out : nullptr, tile_row);
                }
            }
    }
};

// ||x||_2, neither overflowing nor underflowing where x itself does not.
inline float norm(const float *x, int64_t n) {
    double sums[8] = {};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; ++j) sums[j] += (double)x[i + j] * x[i + j];
    for (; i < n; ++i) sums[0] += (double)x[i] * x[i];
    double sum = 0;
    for (int j = 0; j < 8; ++j) sum += sums[j];
    return (float)__builtin_sqrt(sum);
}

inline double norm(const double *x, int64_t n) {
    double sums[8] = {};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; ++j) sums[j] += x[i + j] * x[i + j];
    for (; i < n; ++i) sums[0] += x[i] * x[i];
    double sum = 0;
    for (int j = 0; j < 8; ++j) sum += sums[j];
    if ((sum > 1e-280 && sum < 1e300) || sum != sum) return __builtin_sqrt(sum);
    double most = 0;
    for (i = 0; i < n; ++i) most = __builtin_fabs(x[i]) > most ? __builtin_fabs(x[i]) : most;
    if (most == 0 || most > 1.7976931348623157e308) return most;
    for (sum = 0, i = 0; i < n; ++i) sum += (x[i] / most) * (x[i] / most);
    return most * __builtin_sqrt(sum);
}

}  // namespace TT_ISA
