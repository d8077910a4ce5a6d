// The step of src/throughtime/cells/gru.py.
#pragma once

#include "cell.h"

namespace TT_ISA {

template <class F> struct Gru {
    static constexpr tt_facts facts = {3, 1, 2, 3, 0, 0, 2, {3, 1}, {0, 0}};
    static constexpr bool carries = true;  // delta * z goes back beside the product

    // b_hn stays inside the reset's product.
    static F input_bias(const tt_sweep &w, int64_t u) {
        return u >= 2 * w.H ? ((const F *)w.bias_ih)[u] : both_biases<F>(w, u);
    }

    static TT_INLINE void forward(const Sizes<F> &z, const Row<F> &r, const F *tile, int64_t u, int n) {
        constexpr int L = Simd<F>::lanes;
        F *a = r.kept[0] + u;
        const F *x = r.drive + u;
        const int64_t H = z.H;
        const Vec<F> reset = sigmoid<F>(load(x, n) + load(tile));
        const Vec<F> update = sigmoid<F>(load(x + H, n) + load(tile + L));
        const F *bias_hh = (const F *)z.sweep->bias_hh;
        Vec<F> q = load(tile + 2 * L);
        if (bias_hh) q += load(bias_hh + 2 * H + u, n);
        const Vec<F> fresh = tanh<F>(load(x + 2 * H, n) + reset * q);
        const Vec<F> h = fresh + update * (load(r.h_prev + u) - fresh);
        if (z.keep) {
            record(z, a, reset, n);
            record(z, a + H, update, n);
            record(z, a + 2 * H, fresh, n);
            record(z, r.kept[1] + u, q, n);
        }
        if (r.s) store(r.s + u, h, n);
        put(r, h, u, n);
    }

    static TT_INLINE void backward(const Sizes<F> &z, const Row<F> &r, Vec<F> delta, int64_t u, int n) {
        const int64_t H = z.H;
        const F one = 1;
        const F *a = r.kept[0] + u;
        const Vec<F> reset = load(a, n), update = load(a + H, n), fresh = load(a + 2 * H, n);
        const Vec<F> q = load(r.kept[1] + u, n);
        const Vec<F> h_prev = r.cleared ? Vec<F>{} : load(r.s_prev + u, n);
        const Vec<F> alpha_n = delta * ((one - update) * (one - fresh * fresh));
        const Vec<F> alpha_r = alpha_n * (q * reset * (one - reset));
        const Vec<F> alpha_z = delta * ((h_prev - fresh) * update * (one - update));
        const Vec<F> hidden_n = alpha_n * reset;
        store(r.carry_h + u, r.cleared ? Vec<F>{} : delta * update);
        if (r.adjoint) {
            store(r.adjoint + u, alpha_r, n);
            store(r.adjoint + H + u, alpha_z, n);
            store(r.adjoint + 2 * H + u, alpha_n, n);
            if (z.products) store(r.adjoint + 3 * H + u, hidden_n, n);
        }
        if (!r.out) return;
        F *out = r.out + u;
        store(out, r.cleared ? Vec<F>{} : alpha_r);
        store(out + z.unit_row, r.cleared ? Vec<F>{} : alpha_z);
        store(out + 2 * z.unit_row, r.cleared ? Vec<F>{} : hidden_n);
    }
};

}  // namespace TT_ISA
