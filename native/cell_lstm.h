// The step of src/throughtime/cells/lstm.py.
#pragma once

#include "cell.h"

namespace TT_ISA {

template <class F> struct Lstm {
    static constexpr tt_facts facts = {4, 2, 4, 4, 0, 0, 1, {4}, {0}};
    static constexpr bool carries = false;

    static F input_bias(const tt_sweep &w, int64_t u) { return both_biases<F>(w, u); }

    static TT_INLINE void forward(const Sizes<F> &z, const Row<F> &r, const F *tile, int64_t u, int n) {
        constexpr int L = Simd<F>::lanes;
        F *a = r.kept[0] + u;
        const F *x = r.drive + u;
        const int64_t H = z.H;
        const Vec<F> i = sigmoid<F>(load(x, n) + load(tile));
        const Vec<F> f = sigmoid<F>(load(x + H, n) + load(tile + L));
        const Vec<F> g = tanh<F>(load(x + 2 * H, n) + load(tile + 2 * L));
        const Vec<F> o = sigmoid<F>(load(x + 3 * H, n) + load(tile + 3 * L));
        const Vec<F> c = f * load(r.c + u) + i * g;
        const Vec<F> h = o * tanh<F>(c);
        if (z.keep) {
            record(z, a, i, n);
            record(z, a + H, f, n);
            record(z, a + 2 * H, g, n);
            record(z, a + 3 * H, o, n);
        }
        if (r.s) {
            record(z, r.s + u, h, n);
            record(z, r.s_c + u, c, n);
        }
        put(r, h, u, n);
        store(r.c + u, r.cleared ? Vec<F>{} : c);
    }

    static TT_INLINE void backward(const Sizes<F> &z, const Row<F> &r, Vec<F> delta_h, int64_t u, int n) {
        const int64_t H = z.H;
        const F one = 1;
        const F *a = r.kept[0] + u;
        Vec<F> delta_c = load(r.carry_c + u);
        if (r.g && z.G > H) delta_c += load(r.g + H + u, n);
        if (r.delta) store(r.delta + H + u, delta_c, n);
        const Vec<F> i = load(a, n), f = load(a + H, n), g = load(a + 2 * H, n), o = load(a + 3 * H, n);
        const Vec<F> tanh_c = tanh<F>(load(r.s + H + u, n));
        const Vec<F> c_prev = r.cleared ? Vec<F>{} : load(r.s_prev + H + u, n);
        delta_c += delta_h * (o * (one - tanh_c * tanh_c));
        const Vec<F> alpha_i = delta_c * (g * i * (one - i)), alpha_f = delta_c * (c_prev * f * (one - f));
        const Vec<F> alpha_g = delta_c * (i * (one - g * g)), alpha_o = delta_h * (tanh_c * o * (one - o));
        store(r.carry_c + u, r.cleared ? Vec<F>{} : delta_c * f);
        if (r.adjoint) {
            store(r.adjoint + u, alpha_i, n);
            store(r.adjoint + H + u, alpha_f, n);
            store(r.adjoint + 2 * H + u, alpha_g, n);
            store(r.adjoint + 3 * H + u, alpha_o, n);
        }
        if (!r.out) return;
        F *out = r.out + u;
        store(out, r.cleared ? Vec<F>{} : alpha_i);
        store(out + z.unit_row, r.cleared ? Vec<F>{} : alpha_f);
        store(out + 2 * z.unit_row, r.cleared ? Vec<F>{} : alpha_g);
        store(out + 3 * z.unit_row, r.cleared ? Vec<F>{} : alpha_o);
    }
};

}  // namespace TT_ISA
