// What a cell's step reads and writes. Each cell is a struct in its own file, cell_*.h, with
//
//   facts        the number and widths of its arrays (interface.h)
//   carries      whether a part of delta goes back beside the product with W_h
//   input_bias   what is added to pre-activation u besides W_x x_t
//   forward      one step for one row and one vector of units, after the product
//   backward     the same for a step back
//
// If facts.whole_rows is set it has forward_row and backward_row instead, which take a whole row. If
// facts.sums is set it has sums_of too, which returns where the sums go.
//
// The names and the grouping of factors are those of src/throughtime/cells/*.py, so that inf and
// NaN arise in the same places.
#pragma once

#include "interface.h"
#include "simd.h"

namespace TT_ISA {

// What one row reads and writes at step t. Pointers begin at unit 0.
template <class F> struct Row {
    const F *drive;      // forward: pre-activations
    F *kept[TT_KEPT];    // forward, where it goes; back, what went there
    F *s, *s_c;          // s_{t+1}: this step's result, and its c; forward: or null
    F *h;                // forward: this step's output, or null
    const F *s_prev;     // back: s_t in the tape
    const F *h_prev;     // forward: h_t, or 0 after a reset, padded
    F *out;              // forward: where h goes for the next step; back: where alpha goes; or null
    F *c;                // forward: c, padded, kept from step to step
    F *carry_h, *carry_c;  // back: what travels beside the product, padded
    const F *g;          // back: direct gradient, or null
    F *adjoint, *delta;  // back: what is written out, or null
    F *sums;             // back: facts.sums rows of sums, unit_row apart, or null
    bool cleared;        // forward: the state is zeroed before the next step; back: before this one
};

template <class F> struct Sizes {
    int64_t H, unit_row, G;
    int kind;        // nonlinearity
    bool keep;       // forward: keep what the backward pass needs
    bool products;   // back: adjoints wait for their products, with the hidden side's own part
    bool all;        // back: adjoints are wanted with everything that the gradients need
    bool past;        // forward: write what only the backward pass reads past the caches
    const tt_sweep *sweep;
};

// The gradients that one vector of sums becomes; null where it is not wanted.
template <class F> struct Gradients {
    F *to[2];
};

template <class F> TT_INLINE F both_biases(const tt_sweep &w, int64_t u) {
    return ((const F *)w.bias_ih)[u] + ((const F *)w.bias_hh)[u];
}

// Write h where the layer above and the next step read it.
template <class F> TT_INLINE void put(const Row<F> &r, Vec<F> h, int64_t u, int n) {
    if (r.h) store(r.h + u, h, n);
    if (r.out) store(r.out + u, r.cleared ? Vec<F>{} : h);
}

// Write what only the backward pass will read.
template <class F> TT_INLINE void record(const Sizes<F> &z, F *to, Vec<F> v, int n) {
    if (streams && z.past)
        stream(to, v);
    else
        store(to, v, n);
}

}  // namespace TT_ISA
