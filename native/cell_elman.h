// The step of src/throughtime/cells/elman.py.
#pragma once

#include "cell.h"

namespace TT_ISA {

template <class F> struct Elman {
    static constexpr tt_facts facts = {1, 1, 1, 1, 0, 0, 0, {}, {}};
    static constexpr bool carries = false;

    static F input_bias(const tt_sweep &w, int64_t u) { return both_biases<F>(w, u); }

    static TT_INLINE void forward(const Sizes<F> &z, const Row<F> &r, const F *tile, int64_t u, int n) {
        const Vec<F> h = nonlinear<F>(load(r.drive + u, n) + load(tile), z.kind);
        if (r.s) store(r.s + u, h, n);
        put(r, h, u, n);
    }

    static TT_INLINE void backward(const Sizes<F> &z, const Row<F> &r, Vec<F> delta, int64_t u, int n) {
        const Vec<F> da = through<F>(delta, load(r.s + u, n), z.kind);
        if (r.adjoint) store(r.adjoint + u, da, n);
        if (r.out) store(r.out + u, r.cleared ? Vec<F>{} : da);
    }
};

}  // namespace TT_ISA
